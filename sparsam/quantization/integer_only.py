"""A whole encoder in integers, from token ids to the last LayerNorm: I-BERT on packed tokens, in the reference's plain form.

S. Kim et al., *I-BERT: Integer-only BERT Quantization*, ICML 2021, arXiv:2101.01321. What every point holds (:func:`bits_of`):

    tables of words, types, positions    8 bits, one scale a row
    words + types                        16, on a scale of its own
    inputs of norms                      22: products' 32-bit sums and the residual, each brought there by one factor
    outputs of norms                     16 for the residual (or 8, as in the paper), 8 for the next products
    queries, keys, values, contexts      8
    logits                               16, steps of 2^-10, the row's maximum at 0
    probabilities                        15 (or 8)
    filters                              8 into a table of 256 entries (or 16 into the paper's polynomial), 8 out of it

Weights have 8 bits, one scale an output; biases are added to the sums. :class:`Parts` are a model's floats by role,
:func:`integers` makes an :class:`IntegerEncoder` of them and of scales, and its :meth:`~IntegerEncoder.run` sees integer
tensors alone. :mod:`~sparsam.quantization.rounded_encoder` simulates it with gradients and finds the scales.

Letters: b sequences, t packed tokens, n tokens of one sequence, d width, h heads, k head width, f filters.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float32, Int8, Int32, Integer
from torch import Tensor

from sparsam.errors import Refused, Usage
from sparsam.quantization.affine import ACCUMULATOR, SMALLEST
from sparsam.quantization.dyadic import Dyadic, added, dyadic, limit, narrow, requantize, rescale
from sparsam.quantization.ibert import (
    WIDEST,
    Exp,
    Gelu,
    Norm,
    exp_constants,
    gelu_constants,
    i_gelu,
    i_layernorm,
    i_softmax,
    looked_up,
    norm_constants,
    table,
)

LOGITS = 2.0**-10
"""Scale of the logits that softmax reads: exp is then as good as its polynomial, and 16 bits reach to e^-20."""

FINEST = 2.0**-14
"""No 16-bit input of GELU has a finer scale, so that its polynomial fits 32 bits. Ours."""

SUM = 16
"""Bits of words + types."""

Scales = Mapping[str, float]
"""A scale for every point, by the names of :func:`points`."""

Watch = Callable[[str, Tensor, int], None]
"""Told of every intermediate: its name, its integers, and the signed width they have to fit."""


@dataclass(frozen=True)
class IBert:
    """What the arithmetic is like.

    Args:
        activation: ``table`` looks an activation of 8 bits up, ``polynomial`` is the paper's GELU on 16.
        probabilities: bits of attention's probabilities, 15 or the paper's 8.
        residual: bits of the residual stream, 16 or the paper's 8.
    """

    activation: str = "table"
    probabilities: int = 15
    residual: int = 16

    def __post_init__(self) -> None:
        for name, choices in (
            ("activation", ("table", "polynomial")),
            ("probabilities", (15, 8)),
            ("residual", (16, 8)),
        ):
            if getattr(self, name) not in choices:
                raise Usage(
                    f"{name} is {' or '.join(map(str, choices))}; got {getattr(self, name)!r}.",
                    code="method-settings",
                )


# ---- A model's floats, by role --------------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """A linear layer or a table of embeddings. ``scale`` is given where the weights lie on a grid already."""

    weight: Float[Tensor, "o i"]
    bias: Float[Tensor, " o"] | None = None
    scale: Float32[Tensor, " o"] | None = None


class LayerNorm(NamedTuple):
    """A norm."""

    weight: Float[Tensor, " d"]
    bias: Float[Tensor, " d"]
    eps: float


@dataclass(frozen=True, eq=False)
class LayerParts:
    """One layer, post-norm."""

    q: Weights
    k: Weights
    v: Weights
    o: Weights
    up: Weights
    down: Weights
    attention_norm: LayerNorm
    ffn_norm: LayerNorm
    head_width: int
    activation: Callable[[Tensor], Tensor]
    gelu: bool
    """Whether the activation is GELU by erf, which the polynomial stands for."""


@dataclass(frozen=True, eq=False)
class Parts:
    """What a text encoder is made of, in floating point; tensors may be parameters in training."""

    words: Weights
    positions: Weights
    kinds: Weights | None
    norm: LayerNorm
    layers: tuple[LayerParts, ...]


def grid_of(weights: Weights) -> Float32[Tensor, " o"]:
    """The scales of 8-bit rows: their own, or the largest weight over 127; 1 for a row of zeros."""
    if weights.scale is not None:
        return weights.scale
    weight = weights.weight.detach().float()
    if not bool(torch.isfinite(weight).all()):
        raise Refused("weights hold NaN or infinity. Look at the checkpoint.", code="non-finite")
    if not weight.shape[1]:
        return torch.ones(weight.shape[0])
    span = weight.abs().amax(1)
    return torch.where(span < SMALLEST, 1.0, span / limit(8))


def rounded_rows(weight: Float[Tensor, "o i"], scale: Float32[Tensor, " o"]) -> Float32[Tensor, "o i"]:
    """Whole numbers from -127 to 127 nearest to weights over their scales."""
    return torch.round(weight.detach().float() * scale.reciprocal()[:, None]).clamp(-limit(8), limit(8))


# ---- Points and their scales ----------------------------------------------------------------------------------------------

NORM_IN, RESIDUAL, OUT, HIDDEN = "norm_in", "residual", "out", "hidden"
OF_LAYER = ("q", "k", "v", "context", "attention.norm_in", "attention.residual", "attention.out",
            "hidden", "active", "ffn.norm_in", "ffn.residual", "ffn.out")  # fmt: skip
OF_EMBEDDINGS = ("sum", "norm_in", "residual", "out")


def points(layers: int) -> list[str]:
    """Every place that has a scale."""
    return [f"embeddings.{name}" for name in OF_EMBEDDINGS] + [
        f"{index}.{name}" for index in range(layers) for name in OF_LAYER
    ]


def bits_of(point: str, method: IBert) -> int:
    """The width of a point."""
    kind = point.rpartition(".")[2]
    if kind == NORM_IN:
        return WIDEST
    if kind == RESIDUAL:
        return method.residual
    if kind == "sum":
        return SUM
    return 16 if kind == HIDDEN and method.activation == "polynomial" else 8


# ---- The integers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Rows:
    """A table of embeddings: each row's factor leads to the scale of the sum it goes into."""

    weight: Int8[Tensor, "v d"]
    by: Dyadic

    def take(self, ids: Integer[Tensor, " t"]) -> Integer[Tensor, "t d"]:
        """Rows at the sum's scale, in 64 bits."""
        return rescale(self.weight[ids], Dyadic(self.by.m[ids][:, None], self.by.e))


@dataclass(frozen=True, eq=False)
class Product:
    """Weights, a bias at the scale of the sums, and what leads from the sums to the output's scale."""

    weight: Int8[Tensor, "o i"]
    bias: Int32[Tensor, " o"]
    by: Dyadic

    def sums(self, x: Int8[Tensor, "t i"]) -> Int32[Tensor, "t o"]:
        """Exact in 32 bits: :func:`integers` has seen to it."""
        return integer_matmul(x, self.weight) + self.bias


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer in integers."""

    q: Product
    k: Product
    v: Product
    logits: Dyadic
    context: Dyadic
    o: Product
    o_residual: Dyadic
    attention_norm: Norm
    attention_out: Dyadic
    up: Product
    entries: Int8[Tensor, "256"] | None
    gelu: Gelu | None
    gelu_out: Dyadic | None
    down: Product
    ffn_residual: Dyadic
    ffn_norm: Norm
    ffn_out: Dyadic
    head_width: int


@dataclass(frozen=True, eq=False)
class IntegerEncoder:
    """An encoder in integers. ``scale`` says what the output's integers stand for; no run uses a float."""

    words: Rows
    kinds: Rows | None
    sum_by: Dyadic
    positions: Rows
    norm: Norm
    out: Dyadic
    layers: tuple[Layer, ...]
    exp: Exp
    method: IBert
    scale: float

    def digest(self) -> str:
        """SHA-256 of all integers in a fixed order: two encoders of one digest give the same answers, bit for bit."""
        told = hashlib.sha256()
        _digest(self, told)
        return told.hexdigest()

    def run(
        self,
        ids: Integer[Tensor, " t"],
        positions: Integer[Tensor, " t"],
        kinds: Integer[Tensor, " t"] | None,
        lengths: Integer[Tensor, " b"],
        *,
        alone: bool = False,
        watch: Watch | None = None,
    ) -> Integer[Tensor, "t2 d"]:
        """The last norm's output at :attr:`scale`: of all tokens, or of each sequence's first one (``alone``).

        Args:
            ids, positions, kinds: of packed tokens; rows of the tables. All types are 0 if not given.
            lengths: of the sequences; each has a token.
            alone: the last layer answers for the first token of each sequence, and no other query is worked out.
            watch: told of every intermediate.
        """
        tell: Watch = watch or _nobody
        sizes = lengths.tolist()
        if sum(sizes) != len(ids) or min(sizes, default=1) < 1:
            raise Usage(
                f"lengths add up to the tokens, and each sequence has one at least; got {sizes[:4]} for {len(ids)} tokens.",
                code="empty-sequence",
            )
        residual, x = self._embedded(ids, positions, kinds, tell)
        first = torch.cumsum(lengths, 0) - lengths
        for index, layer in enumerate(self.layers):
            only = first if alone and index == len(self.layers) - 1 else None
            residual, x = self._layer(index, layer, residual, x, sizes, only, tell)
        return residual

    def _embedded(
        self, ids: Tensor, positions: Tensor, kinds: Tensor | None, tell: Watch
    ) -> tuple[Tensor, Tensor]:
        total = self.words.take(ids)
        if self.kinds is not None:
            total = total + self.kinds.take(torch.zeros_like(ids) if kinds is None else kinds)
        total = narrow(total, SUM)
        tell("embeddings.sum", total, SUM)
        total = narrow(rescale(total, self.sum_by) + self.positions.take(positions), WIDEST)
        tell("embeddings.norm_in", total, WIDEST)
        return self._normed("embeddings", total, self.norm, self.out, tell)

    def _normed(self, name: str, x: Tensor, norm: Norm, out: Dyadic, tell: Watch) -> tuple[Tensor, Tensor]:
        """A norm's output for the residual, and for the products."""
        residual = i_layernorm(x, norm)
        tell(f"{name}.residual", residual, norm.bits)
        products = requantize(residual, out, 8)
        tell(f"{name}.out", products, 8)
        return residual, products

    def _layer(
        self,
        index: int,
        layer: Layer,
        residual: Tensor,
        x: Tensor,
        sizes: list[int],
        only: Tensor | None,
        tell: Watch,
    ) -> tuple[Tensor, Tensor]:
        def through(name: str, product: Product, inputs: Tensor, bits: int) -> Tensor:
            sums = product.sums(inputs)
            tell(f"{index}.{name}.sums", sums, 32)
            found = requantize(sums, product.by, bits)
            tell(f"{index}.{name}", found, bits)
            return found

        asking = x if only is None else x[only]
        k, v = through("k", layer.k, x, 8), through("v", layer.v, x, 8)
        q = through("q", layer.q, asking, 8)
        context = self._attended(index, layer, q, k, v, sizes, only is not None, tell)
        residual = residual if only is None else residual[only]
        sums = layer.o.sums(context)
        tell(f"{index}.o.sums", sums, 32)
        total = added(sums, layer.o.by, residual, layer.o_residual, WIDEST)
        tell(f"{index}.attention.norm_in", total, WIDEST)
        residual, x = self._normed(
            f"{index}.attention", total, layer.attention_norm, layer.attention_out, tell
        )
        if layer.entries is not None:
            active = looked_up(through("hidden", layer.up, x, 8), layer.entries)
        else:
            assert layer.gelu is not None
            assert layer.gelu_out is not None
            wide = i_gelu(through("hidden", layer.up, x, 16), layer.gelu)
            tell(f"{index}.gelu", wide, 32)
            active = requantize(wide, layer.gelu_out, 8)
        tell(f"{index}.active", active, 8)
        sums = layer.down.sums(active)
        tell(f"{index}.down.sums", sums, 32)
        total = added(sums, layer.down.by, residual, layer.ffn_residual, WIDEST)
        tell(f"{index}.ffn.norm_in", total, WIDEST)
        return self._normed(f"{index}.ffn", total, layer.ffn_norm, layer.ffn_out, tell)

    def _attended(
        self,
        index: int,
        layer: Layer,
        q: Int8[Tensor, "t2 a"],
        k: Int8[Tensor, "t a"],
        v: Int8[Tensor, "t a"],
        sizes: list[int],
        alone: bool,
        tell: Watch,
    ) -> Int8[Tensor, "t2 a"]:
        """What the heads mix, sequence by sequence."""
        width, found = layer.head_width, []
        asked = [1] * len(sizes) if alone else sizes
        for one_q, one_k, one_v in zip(
            *(torch.split(x, n) for x, n in ((q, asked), (k, sizes), (v, sizes))), strict=True
        ):
            heads = [
                x.int().view(len(x), x.shape[1] // width, width).transpose(0, 1)
                for x in (one_q, one_k, one_v)
            ]  # (h, n, k)
            sums = heads[0] @ heads[1].transpose(1, 2)  # (h, n2, n)
            tell(f"{index}.scores", sums, 32)
            logits = rescale(sums - sums.amax(2, keepdim=True), layer.logits).clamp(min=self.exp.lowest)
            tell(f"{index}.logits", logits, 16)
            p = i_softmax(logits, self.exp, bits=self.method.probabilities)
            tell(f"{index}.probabilities", p, self.method.probabilities + 1)
            mixed = (p @ heads[2]).transpose(0, 1).reshape(len(one_q), -1)
            tell(f"{index}.mixed", mixed, 32)
            found.append(requantize(mixed, layer.context, 8))
        context = torch.cat(found) if found else q
        tell(f"{index}.context", context, 8)
        return context


def _nobody(name: str, x: Tensor, bits: int) -> None:
    """Watches nothing."""


def _digest(part: Any, told: Any) -> None:
    if isinstance(part, Tensor):
        told.update(f"{part.dtype} {tuple(part.shape)}".encode())
        told.update(part.contiguous().numpy().tobytes())
    elif isinstance(part, tuple):
        for one in part:
            _digest(one, told)
    elif is_dataclass(part):
        for field in fields(part):
            told.update(field.name.encode())
            _digest(getattr(part, field.name), told)
    else:
        told.update(repr(part).encode())


@lru_cache
def _multiplies_exactly() -> bool:
    """Whether torch's product of signed bytes is there and saturates nothing on this processor."""
    ends = torch.full((17, 64), 127, dtype=torch.int8)
    ends[::2] = -127
    try:
        found = torch._int_mm(ends, ends.t())
    except (AttributeError, RuntimeError):
        return False
    return bool(torch.equal(found, ends.int() @ ends.int().t()))


def integer_matmul(x: Int8[Tensor, "t i"], weight: Int8[Tensor, "o i"]) -> Int32[Tensor, "t o"]:
    """x W^T in 32 bits."""
    if not (x.shape[0] and x.shape[1] and weight.shape[0]):
        return torch.zeros(x.shape[0], weight.shape[0], dtype=torch.int32)
    if x.shape[1] > 1 and _multiplies_exactly():  # with one input torch 2.13 gives wrong sums
        return torch._int_mm(x.contiguous(), weight.t())
    return x.int() @ weight.int().t()


# ---- From floats and scales to integers -----------------------------------------------------------------------------------


def integers(parts: Parts, scales: Scales, method: IBert) -> IntegerEncoder:
    """The encoder that weights and scales make. The same floats give the same integers on every machine.

    Raises:
        Refused: ``integer-scale`` where a point has no scale above 0, ``integer-activation`` for another activation than GELU
            in the polynomial form, ``accumulator`` where some input could overflow a 32-bit sum.
    """
    check_scales(scales, len(parts.layers))
    at = scales.__getitem__
    kinds = None if parts.kinds is None else _rows(parts.kinds, at("embeddings.sum"))
    layers = tuple(_layer_of(index, one, scales, method) for index, one in enumerate(parts.layers))
    return IntegerEncoder(
        words=_rows(parts.words, at("embeddings.sum")),
        kinds=kinds,
        sum_by=dyadic(at("embeddings.sum") / at("embeddings.norm_in")),
        positions=_rows(parts.positions, at("embeddings.norm_in")),
        norm=_norm("embeddings", parts.norm, scales, method),
        out=dyadic(at("embeddings.residual") / at("embeddings.out")),
        layers=layers,
        exp=exp_constants(LOGITS),
        method=method,
        scale=at(output_point(len(parts.layers), RESIDUAL)),
    )


def output_point(layers: int, kind: str) -> str:
    """The last norm's point of a kind."""
    return f"{layers - 1}.ffn.{kind}"


def check_scales(scales: Scales, layers: int) -> None:
    """Refuse scales that are missing or not above 0."""
    for point in points(layers):
        found = scales.get(point)
        if found is None or not (math.isfinite(found) and found > 0):
            raise Refused(
                f"{point} needs a scale above 0; got {found}. Calibrate the model on rows like those of use.",
                code="integer-scale",
            )


def _layer_of(index: int, parts: LayerParts, scales: Scales, method: IBert) -> Layer:
    def at(name: str) -> float:
        return scales[f"{index}.{name}"]

    before = scales["embeddings.out" if index == 0 else f"{index - 1}.ffn.out"]
    residual = scales["embeddings.residual" if index == 0 else f"{index - 1}.ffn.residual"]
    entries: Tensor | None = None
    gelu: Gelu | None = None
    gelu_out: Dyadic | None = None
    if method.activation == "table":
        entries = table(parts.activation, at("hidden"), at("active"))
    else:
        check_gelu(parts)
        gelu = gelu_constants(at("hidden"))
        gelu_out = dyadic(gelu.scale / at("active"))
    return Layer(
        q=product(parts.q, before, at("q")),
        k=product(parts.k, before, at("k")),
        v=product(parts.v, before, at("v")),
        logits=dyadic(at("q") * at("k") / math.sqrt(parts.head_width) / LOGITS),
        context=dyadic(2.0**-method.probabilities * at("v") / at("context")),
        o=product(parts.o, at("context"), at("attention.norm_in")),
        o_residual=dyadic(residual / at("attention.norm_in")),
        attention_norm=_norm(f"{index}.attention", parts.attention_norm, scales, method),
        attention_out=dyadic(at("attention.residual") / at("attention.out")),
        up=product(parts.up, at("attention.out"), at("hidden")),
        entries=entries,
        gelu=gelu,
        gelu_out=gelu_out,
        down=product(parts.down, at("active"), at("ffn.norm_in")),
        ffn_residual=dyadic(at("attention.residual") / at("ffn.norm_in")),
        ffn_norm=_norm(f"{index}.ffn", parts.ffn_norm, scales, method),
        ffn_out=dyadic(at("ffn.residual") / at("ffn.out")),
        head_width=parts.head_width,
    )


def check_gelu(parts: LayerParts) -> None:
    """Refuse another activation than GELU where the polynomial is to stand for it."""
    if not parts.gelu:
        raise Refused(
            "the paper's polynomial is for GELU by erf; this model has another activation. Take activation='table'.",
            code="integer-activation",
        )


def product(weights: Weights, inputs: float, out: float) -> Product:
    """A linear layer in integers between two scales."""
    scale = grid_of(weights)
    q = rounded_rows(weights.weight, scale).to(torch.int8)
    steps = inputs * scale.double()
    bias = (
        torch.zeros(len(q), dtype=torch.float64) if weights.bias is None else weights.bias.detach().double()
    )
    whole = torch.floor(bias / steps + 0.5)
    most = q.long().abs().sum(1) * limit(8) + whole.abs().clamp(max=2.0**40).long()
    if len(most) and int(most.max()) > ACCUMULATOR:
        raise Refused(
            f"a sum of this product could reach {int(most.max()):,}; 32 bits hold {ACCUMULATOR:,}. Its bias is too large for "
            "the scale of its inputs, or it has more inputs than integers of 8 bits allow.",
            code="accumulator",
        )
    return Product(q, whole.to(torch.int32), dyadic(steps / out))


def _rows(weights: Weights, out: float) -> Rows:
    scale = grid_of(weights)
    return Rows(rounded_rows(weights.weight, scale).to(torch.int8), dyadic(scale.double() / out))


def _norm(name: str, norm: LayerNorm, scales: Scales, method: IBert) -> Norm:
    return norm_constants(
        norm.weight.detach(), norm.bias.detach(), norm.eps,
        scales[f"{name}.norm_in"], scales[f"{name}.residual"], method.residual,
    )  # fmt: skip
