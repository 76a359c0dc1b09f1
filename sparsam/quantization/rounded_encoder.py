"""The integer-only encoder in floating point, with gradients: to find its scales, and to train a model for it.

Integers are carried as whole numbers in float64 (products' operands in float32, where their sums stay exact), and every
operation is written for itself, by division and floor where :mod:`~sparsam.quantization.integer_only` shifts. All of them are
below 2^53, so what comes out are the same integers, not similar ones; a test holds the two to each other. Backwards, rounding
passes gradients straight through, cut-off numbers get none, and GELU, softmax and LayerNorm have the gradients of the functions
that they stand for.

:func:`found_scales` runs the same model unrounded on calibration batches and looks at every point.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from sparsam.errors import Refused, Usage
from sparsam.quantization.affine import Form
from sparsam.quantization.calibrate import MinMax, MovingAverage, RangeMethod
from sparsam.quantization.dyadic import dyadic, limit
from sparsam.quantization.ibert import (
    SHARE,
    SPREAD,
    UNIT,
    exp_constants,
    gelu_constants,
    norm_constants,
    table,
)
from sparsam.quantization.integer_only import (
    FINEST,
    LOGITS,
    OUT,
    IBert,
    LayerNorm,
    LayerParts,
    Parts,
    Scales,
    Weights,
    bits_of,
    check_gelu,
    check_scales,
    grid_of,
    output_point,
    points,
    rounded_rows,
)

LADDER = ("none", "gelu", "softmax", "layernorm", "nonlinear")
"""What runs in floating point between its roundings, to see where accuracy is lost: one function, or all three."""

NARROW = Form(bits=8)
HEADROOM = {"norm_in": 4.0, "residual": 1.5, "sum": 1.5, "hidden": 1.5}
"""How far the wide points reach beyond the largest number that calibration saw. They have bits to spare. Ours."""

EXACT = 2.0**24
"""Whole numbers in float32 are exact below."""


class _Straight(torch.autograd.Function):
    """One value forwards, another one's gradient backwards."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, soft: Tensor) -> Tensor:
        return value.detach().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def straight(value: Tensor, soft: Tensor) -> Tensor:
    """``value``, with the gradient of ``soft``."""
    found: Tensor = _Straight.apply(value, soft)  # type: ignore[no-untyped-call]
    return found


def half_up(x: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """To the nearest whole number, ties upwards."""
    return torch.floor(x + 0.5)


@dataclass(frozen=True)
class Sequences:
    """Packed token ids, as :class:`~sparsam.quantization.integer_only.IntegerEncoder` takes them."""

    ids: Int[Tensor, " t"]
    positions: Int[Tensor, " t"]
    kinds: Int[Tensor, " t"] | None
    lengths: Int[Tensor, " b"]


class RoundedEncoder:
    """The encoder of some parts at some scales, in floating point.

    Args:
        parts: looked at anew in every run, so they may be parameters in training.
        scales: of every point; none while they are still to be found: then nothing is rounded.
        method: what the arithmetic is like.
        force_dequant: one of :data:`LADDER`.
        observers: told of every point's numbers, by name, while nothing is rounded.
    """

    def __init__(
        self,
        parts: Parts,
        scales: Scales | None,
        method: IBert,
        force_dequant: str = "none",
        observers: Mapping[str, Any] | None = None,
    ) -> None:
        if force_dequant not in LADDER:
            raise Usage(
                f"force_dequant is one of {', '.join(LADDER)}; got {force_dequant!r}.", code="method-settings"
            )
        if scales is not None:
            check_scales(scales, len(parts.layers))
        if method.activation == "polynomial":
            for layer in parts.layers:
                check_gelu(layer)
        self.parts, self.scales, self.method, self.observers = parts, scales, method, observers or {}
        self.floats = {"gelu", "softmax", "layernorm"} if force_dequant == "nonlinear" else {force_dequant}

    def scale(self, point: str) -> float:
        """Of a point; 1 while nothing is rounded, where numbers stand for themselves."""
        return 1.0 if self.scales is None else self.scales[point]

    def run(self, tokens: Sequences, *, alone: bool = False) -> Float64[Tensor, "t2 d"]:
        """The last norm's output in floating point (integers times their scale), as of the integer encoder's ``run``."""
        parts = self.parts
        x, residual = self._embedded(tokens)
        first = torch.cumsum(tokens.lengths, 0) - tokens.lengths
        for index, layer in enumerate(parts.layers):
            only = first if alone and index == len(parts.layers) - 1 else None
            x, residual = self._layer(index, layer, x, residual, tokens.lengths, only)
        return residual * self.scale(output_point(len(parts.layers), "residual"))

    # ---- Points and products ---------------------------------------------------------------------------------------------

    def _at(self, point: str, value: Tensor | None, soft: Tensor) -> Tensor:
        """What stands at a point: ``value`` cut off at its width, with ``soft``'s gradient; or ``soft``, looked at."""
        if value is None or self.scales is None:
            observer = self.observers.get(point)
            if observer is not None:
                observer.add(soft.detach())
            return soft
        end = limit(bits_of(point, self.method))
        return straight(value.clamp(-end, end), soft.clamp(-end, end))

    def _weights(self, weights: Weights) -> tuple[Tensor, Tensor]:
        """Whole numbers that stand for weights, float32, and their scales, float64; or the weights, and ones."""
        if self.scales is None:
            return weights.weight.float(), weights.weight.new_ones(
                weights.weight.shape[0], dtype=torch.float64
            )
        scale = grid_of(weights)
        q = straight(rounded_rows(weights.weight, scale), weights.weight.float() / scale[:, None])
        return q, scale.double()

    def _sums(self, x: Tensor, inputs: float, weights: Weights) -> tuple[Tensor, Tensor]:
        """A product's sums with its bias, float64, and what a step of each output is worth."""
        q, scale = self._weights(weights)
        wide = (
            self.scales is not None
            and float(q.detach().abs().sum(1).max() if q.numel() else 0) * 127 >= EXACT
        )
        dtype = torch.float64 if wide else torch.float32
        sums = F.linear(x.to(dtype), q.to(dtype)).double()
        steps = inputs * scale
        if weights.bias is None:
            return sums, steps
        soft = weights.bias.double() / steps
        return sums + (soft if self.scales is None else straight(half_up(soft), soft)), steps

    def _product(self, point: str, x: Tensor, inputs: float, weights: Weights) -> Tensor:
        sums, steps = self._sums(x, inputs, weights)
        by = steps / self.scale(point)
        return self._at(point, self._rescaled(sums, by), sums * by)

    def _rescaled(self, x: Tensor, by: Tensor | float) -> Tensor | None:
        """Times the nearest m / 2^e, rounded half up; None while nothing is rounded."""
        if self.scales is None:
            return None
        return half_up(x.detach() * dyadic(by).value())

    def _added(self, point: str, terms: Iterable[tuple[Tensor, Tensor | float]]) -> Tensor:
        """Terms, each with the factor that leads to the point's scale."""
        both = [(self._rescaled(x, by), x * by) for x, by in terms]
        soft = torch.stack([term for _, term in both]).sum(0)
        values = [value for value, _ in both if value is not None]
        return self._at(point, torch.stack(values).sum(0) if values else None, soft)

    # ---- Parts of the encoder ----------------------------------------------------------------------------------------------

    def _rows(self, weights: Weights, ids: Tensor, point: str) -> tuple[Tensor, Tensor]:
        """Rows of a table, and their factors (t, 1) to a point's scale."""
        used, at = torch.unique(ids, return_inverse=True)  # not the whole table: it may have 250,000 rows
        scale = None if self.scales is None else self._table_scale(weights)[used]
        q, steps = self._weights(Weights(weights.weight[used], None, scale))
        by = steps / self.scale(point)
        if self.scales is not None:  # the factors' exponent is the whole table's
            by = dyadic(self._table_scale(weights).double() / self.scale(point)).value()[used]
        return q.double()[at], by[at][:, None]

    def _table_scale(self, weights: Weights) -> Tensor:
        return grid_of(weights)

    def _embedded(self, tokens: Sequences) -> tuple[Tensor, Tensor]:
        parts, ids = self.parts, tokens.ids
        terms = [self._rows(parts.words, ids, "embeddings.sum")]
        if parts.kinds is not None:
            kinds = torch.zeros_like(ids) if tokens.kinds is None else tokens.kinds
            terms.append(self._rows(parts.kinds, kinds, "embeddings.sum"))
        x = self._exactly("embeddings.sum", terms)
        by = self.scale("embeddings.sum") / self.scale("embeddings.norm_in")
        place, place_by = self._rows(parts.positions, tokens.positions, "embeddings.norm_in")
        if self.scales is not None:
            by = float(dyadic(by).value())
        x = self._exactly(
            "embeddings.norm_in", [(x, torch.tensor([[by]], dtype=torch.float64)), (place, place_by)]
        )
        return self._normed("embeddings", x, parts.norm)

    def _exactly(self, point: str, terms: list[tuple[Tensor, Tensor]]) -> Tensor:
        """:meth:`_added` for factors that are m / 2^e already."""
        soft = torch.stack([x * by for x, by in terms]).sum(0)
        value = (
            None if self.scales is None else torch.stack([half_up(x.detach() * by) for x, by in terms]).sum(0)
        )
        return self._at(point, value, soft)

    def _normed(self, name: str, x: Tensor, norm: LayerNorm) -> tuple[Tensor, Tensor]:
        """A norm's output for the products, and for the residual."""
        point, inputs = f"{name}.residual", self.scale(f"{name}.norm_in")
        scale = self.scale(point)
        soft = (
            F.layer_norm(x * inputs, x.shape[1:], norm.weight.double(), norm.bias.double(), norm.eps) / scale
        )
        value: Tensor | None = None
        if self.scales is not None:
            value = half_up(soft.detach())
            if "layernorm" not in self.floats:
                value = self._whole_norm(x.detach(), norm, inputs, scale)
        residual = self._at(point, value, soft)
        by = scale / self.scale(f"{name}.{OUT}")
        return self._at(f"{name}.{OUT}", self._rescaled(residual, by), residual * by), residual

    def _whole_norm(self, x: Tensor, norm: LayerNorm, inputs: float, out: float) -> Tensor:
        d = x.shape[1]
        made = norm_constants(
            norm.weight.detach(), norm.bias.detach(), norm.eps, inputs, out, self.method.residual
        )
        y = x - torch.floor((2 * x.sum(1, keepdim=True) + d) / (2 * d))
        deviation = torch.floor(((y * y).sum(1, keepdim=True) + made.eps).sqrt()).clamp(min=1)
        t = half_up(y * torch.floor(2.0**SPREAD / deviation) * 2.0 ** (UNIT - SPREAD))
        return half_up((t * made.g.double() + made.b.double()) * 2.0**-made.e)

    def _layer(
        self, index: int, parts: LayerParts, x: Tensor, residual: Tensor, lengths: Tensor, only: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        def at(name: str) -> float:
            return self.scale(f"{index}.{name}")

        before = "embeddings" if index == 0 else f"{index - 1}.ffn"
        inputs, stream = self.scale(f"{before}.out"), self.scale(f"{before}.residual")
        k, v = (
            self._product(f"{index}.{role}", x, inputs, weights)
            for role, weights in (("k", parts.k), ("v", parts.v))
        )
        q = self._product(f"{index}.q", x if only is None else x[only], inputs, parts.q)
        context = self._attended(index, parts, q, k, v, lengths, only is not None)
        residual = residual if only is None else residual[only]
        sums, steps = self._sums(context, at("context"), parts.o)
        total = self._added(
            f"{index}.attention.norm_in",
            [(sums, steps / at("attention.norm_in")), (residual, stream / at("attention.norm_in"))],
        )
        x, residual = self._normed(f"{index}.attention", total, parts.attention_norm)
        hidden = self._product(f"{index}.hidden", x, at("attention.out"), parts.up)
        active = self._activated(index, parts, hidden)
        sums, steps = self._sums(active, at("active"), parts.down)
        total = self._added(
            f"{index}.ffn.norm_in",
            [(sums, steps / at("ffn.norm_in")), (residual, at("attention.residual") / at("ffn.norm_in"))],
        )
        return self._normed(f"{index}.ffn", total, parts.ffn_norm)

    def _activated(self, index: int, parts: LayerParts, hidden: Tensor) -> Tensor:
        inputs, out = self.scale(f"{index}.hidden"), self.scale(f"{index}.active")
        soft = parts.activation(hidden * inputs) / out
        value: Tensor | None = None
        if self.scales is not None:
            whole = hidden.detach()
            if "gelu" in self.floats:
                value = half_up(soft.detach())
            elif self.method.activation == "table":
                value = table(parts.activation, inputs, out).double()[whole.long() + 128]
            else:
                made = gelu_constants(inputs)
                apart = whole.abs().clamp(max=made.b) - made.b
                y = torch.floor((made.c - apart * apart) * 2.0**-made.shift)
                value = self._rescaled(whole * (whole.sign() * y + made.one), made.scale / out)
        return self._at(f"{index}.active", value, soft)

    def _attended(
        self, index: int, parts: LayerParts, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, alone: bool
    ) -> Tensor:
        """What the heads mix, all sequences beside each other with padding that is left out of every sum."""
        width, n, b = parts.head_width, int(lengths.max()), len(lengths)
        living = torch.arange(n)[None] < lengths[:, None]  # (b, n)
        keys, values = (_padded(x, living, width) for x in (k, v))  # (b, h, n, k)
        asking = q.view(b, 1, -1, width).transpose(1, 2) if alone and q.numel() else _padded(q, living, width)
        if not q.numel():
            return self._at(f"{index}.context", q, q)
        point = f"{index}.context"
        sums = (asking @ keys.transpose(2, 3)).masked_fill(
            ~living[:, None, None], -torch.inf
        )  # (b, h, n2, n)
        steps = self.scale(f"{index}.q") * self.scale(f"{index}.k") / math.sqrt(width)
        soft = (sums * steps).softmax(3)
        value: Tensor | None = None
        one = 2.0**self.method.probabilities
        if self.scales is None:
            one = 1.0
        else:
            value = (
                half_up(soft.detach() * one)
                if "softmax" in self.floats
                else self._whole_softmax(sums.detach(), steps)
            )
            value = value.clamp(max=one - 1)
        p = soft if value is None else straight(value, soft * one)
        mixed = (p @ values).transpose(1, 2)  # (b, n2, h, k)
        found = mixed.flatten(0, 1) if alone else mixed[living]
        found = found.flatten(1)
        by = self.scale(f"{index}.v") / one / self.scale(point)
        return self._at(point, self._rescaled(found, by), found * by)

    def _whole_softmax(self, sums: Tensor, steps: float) -> Tensor:
        made = exp_constants(LOGITS)
        living = sums > -torch.inf
        apart = torch.where(living, sums - sums.amax(3, keepdim=True), 0.0)
        logits = half_up(apart * dyadic(steps / LOGITS).value()).clamp(min=made.lowest)
        z = torch.floor(-logits / made.ln2)
        r = logits + z * made.ln2
        e = torch.floor(((r + made.b) * r + made.c) * 2.0**-z) * living
        share = torch.floor(2.0**SHARE / e.sum(3, keepdim=True).clamp(min=1))
        return half_up(e * share * 2.0 ** (self.method.probabilities - SHARE))


def _padded(x: Float[Tensor, "t a"], living: Bool[Tensor, "b n"], width: int) -> Float64[Tensor, "b h n k"]:
    """Packed rows as heads of padded sequences; padding is 0."""
    b, n = living.shape
    rows = x.new_zeros(b * n, x.shape[1], dtype=torch.float64)
    rows = rows.index_copy(0, living.flatten().nonzero()[:, 0], x.double())
    return rows.view(b, n, x.shape[1] // width, width).transpose(1, 2)


# ---- Scales ---------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def found_scales(
    parts: Parts, batches: Iterable[Sequences], method: IBert, ends: RangeMethod, *, alone: bool = False
) -> dict[str, float]:
    """A scale for every point, from batches of tokens that go by; memory is that of one batch.

    Args:
        parts: in floating point.
        batches: sequences like those of use.
        method: what the arithmetic is to be like.
        ends: where 8-bit points end. The wider ones reach beyond all that was seen (:data:`HEADROOM`).
        alone: whether the last layer answers for each sequence's first token alone.

    Raises:
        Refused: ``calibration-empty`` without a batch.
        Usage: ``calibration-settings`` for a moving average, whose order batches of packed tokens do not keep.
    """
    if isinstance(ends, MovingAverage):
        raise Usage(
            "a moving average moves sample by sample; here tokens are packed. Take percentile, mse, minmax or kl.",
            code="calibration-settings",
        )
    names = points(len(parts.layers))
    wide = MinMax()
    narrow = {point: bits_of(point, method) == 8 for point in names}
    seen = {point: (ends if narrow[point] else wide).start(NARROW) for point in names}
    encoder = RoundedEncoder(parts, None, method, observers=seen)
    batch: Sequences | None = None
    for batch in batches:
        encoder.run(batch, alone=alone)
    if batch is None:
        raise Refused("nothing was calibrated: no batch was given. Give rows.", code="calibration-empty")
    found = {}
    for point in names:
        found[point] = _scale(point, seen[point], ends if narrow[point] else wide, method)
    if method.residual == 8:
        found |= {
            point: found[point.replace("residual", OUT)] for point in names if point.endswith("residual")
        }
    return found


def _scale(point: str, seen: Any, ends: RangeMethod, method: IBert) -> float:
    try:
        low, high = ends.bounds(seen, NARROW)
    except Refused as error:
        if error.code != "calibration-empty":
            raise
        return 1.0  # a layer without heads or filters has nothing at its points
    bits = bits_of(point, method)
    reach = max(-float(low), float(high))
    kind = point.rpartition(".")[2]
    scale = reach * (HEADROOM.get(kind, 1.0) if bits > 8 else 1.0) / limit(bits)
    if kind == "hidden" and bits == 16:
        scale = max(scale, FINEST)
    return scale if scale > 0 else 1.0 / limit(bits)
