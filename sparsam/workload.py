"""What a model really did on real input: its products, layer by layer, with the numbers that went in.

A :class:`Workload` is a sequence of layers. A layer is a :class:`Gemm`, a :class:`Conv` or an :class:`Attention`; each holds
its operands as :class:`Tensor` (integers with a scale, or the bits of bfloat16) and gives its matrix products as
:meth:`products`, all in one form: ``c[m, n] = sum over k of a[m, k] b[n, k]``.

On disk a workload is a folder: ``trace.json`` names the layers in order, and each layer is one safetensors file of its own,
read when it is asked for, so that a trace never needs to fit in memory. It is written beside its place and put there whole.
Nothing here imports torch.

Letters: ``m`` rows of the activations (tokens, output positions), ``n`` outputs, ``k`` what is summed over; ``b`` images,
``c`` channels, ``o`` output channels, ``h w`` height and width.
"""

import hashlib
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sparsam.errors import InputOutput, Refused, Usage

INDEX = "trace.json"
VERSION = 1
FORMATS: dict[str, type[np.generic]] = {
    "int8": np.int8, "int16": np.int16, "int32": np.int32, "bf16": np.uint16
}  # fmt: skip
"""Number formats and the NumPy type that holds them; bfloat16 is held as its bits."""
FARTHEST = (1 << 31) - 1
"""The last place a token can have had."""
ROLES = ("forward", "grad_input", "grad_weight")
"""Which of a layer's three products in training it is; inference has the first alone."""


def bf16_bits(x: NDArray[np.floating]) -> NDArray[np.uint16]:
    """The nearest bfloat16 of each number, ties to even, as bits. Subnormal results stay subnormal, NaN stays NaN."""
    given = np.asarray(x, np.float32)
    bits = given.view(np.uint32)
    nearest = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    if (lost := np.isnan(given)).any():  # a carry out of the fraction of a NaN would make a number of it
        nearest = np.where(lost, (bits >> 16) | np.uint32(0x0040), nearest)
    return np.asarray(nearest, np.uint16)


def from_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The numbers that bits of bfloat16 stand for."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True, eq=False)
class Tensor:
    """An operand: integers on a grid, or bfloat16. Compared by identity.

    Args:
        values: of the NumPy type that :data:`FORMATS` gives ``format``.
        format: ``int8``, ``int16``, ``int32`` or ``bf16``.
        scale: what one step is worth; one number, or one for each index of the first axis. 1 for bfloat16.

    Raises:
        Refused: ``workload-tensor``.
    """

    values: NDArray[Any]
    format: str
    scale: float | NDArray[np.float32] = 1.0

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise Refused(
                f"number format {self.format!r}; known are {', '.join(FORMATS)}.", code="workload-tensor"
            )
        if self.values.dtype != FORMATS[self.format]:
            raise Refused(
                f"{self.format} is held as {FORMATS[self.format].__name__}; got {self.values.dtype}.",
                code="workload-tensor",
            )
        scale = np.asarray(self.scale)
        if not np.isfinite(scale).all() or (scale <= 0).any():
            raise Refused("a scale must be a positive finite number.", code="workload-tensor")
        if scale.ndim and scale.shape != self.values.shape[:1]:
            raise Refused(
                f"scales of shape {scale.shape} for a tensor of {self.values.shape}; one in all, or one for each index of the "
                "first axis.",
                code="workload-tensor",
            )
        if self.format == "bf16" and (bad := (self.values & 0x7F80) == 0x7F80).any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            raise Refused(
                f"{int(bad.sum())} numbers are infinite or NaN, the first at {at}: {from_bf16(self.values[at])}.",
                code="workload-not-finite",
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """As of the values."""
        return tuple(self.values.shape)

    @property
    def bits(self) -> int:
        """Of one number in memory, uncompressed."""
        return 8 * self.values.dtype.itemsize

    @property
    def nonzero(self) -> NDArray[np.bool_]:
        """True where a number is not zero. Both zeros of bfloat16 are zero."""
        values = self.values & 0x7FFF if self.format == "bf16" else self.values
        return np.asarray(values != 0, np.bool_)

    @property
    def mask(self) -> NDArray[np.uint8]:
        """:attr:`nonzero` as bits along the last axis, eight a byte, the first in the lowest bit."""
        return np.packbits(self.nonzero, axis=-1, bitorder="little")

    @property
    def density(self) -> float:
        """Share of numbers that are not zero; 0 for an empty tensor."""
        return float(self.nonzero.mean()) if self.values.size else 0.0

    def real(self) -> NDArray[np.float32]:
        """The numbers that are meant."""
        if self.format == "bf16":
            return from_bf16(self.values)
        scale = np.asarray(self.scale, np.float32)
        return self.values.astype(np.float32) * scale.reshape(
            scale.shape + (1,) * (self.values.ndim - scale.ndim)
        )

    def integers(self, bits: int = 8) -> "Tensor":
        """The same on a grid of so many bits, symmetric, one scale in all for bfloat16; integers must fit already.

        Raises:
            Refused: ``workload-range`` for integers beyond the grid, or bits other than 2 to 16.
        """
        most, kind = _grid(bits)
        if self.format != "bf16":
            if self.values.size and (self.values.min() < -most - 1 or self.values.max() > most):
                raise Refused(
                    f"{self.format} numbers from {self.values.min()} to {self.values.max()}; {bits} bits hold {-most - 1} to "
                    f"{most}.",
                    code="workload-range",
                )
            return (
                self if self.format == kind else Tensor(self.values.astype(FORMATS[kind]), kind, self.scale)
            )
        return rounded(self.real(), bits)

    def bf16(self) -> "Tensor":
        """The same in bfloat16."""
        return self if self.format == "bf16" else Tensor(bf16_bits(self.real()), "bf16")


def rounded(x: NDArray[np.floating], bits: int = 8, *, per_row: bool = False) -> Tensor:
    """Numbers on a symmetric grid of 2 to 16 bits: one scale in all, or one for each index of the first axis.

    Raises:
        Refused: ``workload-not-finite``, ``workload-range``.
    """
    most, kind = _grid(bits)
    x = np.asarray(x, np.float32)
    if not np.isfinite(x).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise Refused(f"a number is infinite or NaN, the first at {at}: {x[at]}.", code="workload-not-finite")
    size = np.abs(x).max(axis=tuple(range(1, x.ndim)) if per_row and x.ndim else None, initial=0)
    scale = np.where(size > 0, size / most, 1).astype(np.float32)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    steps = x / scale.reshape(scale.shape + (1,) * (x.ndim - scale.ndim))
    values = np.clip(np.rint(steps), -most, most).astype(FORMATS[kind])
    return Tensor(values, kind, scale if scale.ndim else float(scale))


def _grid(bits: int) -> tuple[int, str]:
    """The largest integer of a symmetric grid, and the format that holds it."""
    if not 2 <= bits <= 16:
        raise Refused(f"a grid has 2 to 16 bits; got {bits}.", code="workload-range")
    return (1 << (bits - 1)) - 1, "int8" if bits <= 8 else "int16"


@dataclass(frozen=True)
class Gemm:
    """A matrix product, ``c[m, n] = sum over k of a[m, k] b[n, k]``.

    Args:
        name: of the layer in its model.
        a: (m, k), what flows: activations, gradients.
        b: (n, k), what stays: weights, one row an output. In attention the other activations.
        role: one of :data:`ROLES`.

    Raises:
        Refused: ``workload-shape``.
    """

    kind: ClassVar[str] = "gemm"
    name: str
    a: Tensor
    b: Tensor
    role: str = "forward"

    def __post_init__(self) -> None:
        _known_role(self.name, self.role)
        if len(self.a.shape) != 2 or len(self.b.shape) != 2 or self.a.shape[1] != self.b.shape[1]:
            raise Refused(
                f"{self.name}: (m, k) and (n, k) are multiplied; got {self.a.shape} and {self.b.shape}.",
                code="workload-shape",
            )

    @property
    def size(self) -> tuple[int, int, int]:
        """m, n, k."""
        return self.a.shape[0], self.b.shape[0], self.a.shape[1]

    @property
    def macs(self) -> int:
        """Multiplications of the dense product."""
        return math.prod(self.size)

    def effectual(self) -> int:
        """Multiplications of two numbers that are both not zero."""
        return int(self.a.nonzero.sum(0, dtype=np.int64) @ self.b.nonzero.sum(0, dtype=np.int64))

    def products(self, block: int = 1) -> Iterator["Gemm"]:
        """Itself, k padded with zeros to a multiple of ``block``."""
        yield replace(self, a=_padded(self.a, block), b=_padded(self.b, block))

    def result(self) -> NDArray[np.int64]:
        """The product in integers, exact. Raises Refused ``workload-integers`` for bfloat16, or sums beyond 63 bits."""
        if "bf16" in (self.a.format, self.b.format):
            raise Refused(f"{self.name}: an exact product is of integers.", code="workload-integers")
        a, b = self.a.values, self.b.values
        most = self.size[2] * math.prod(
            max(-int(x.min(initial=0)), int(x.max(initial=0))) for x in (a, b)
        )  # no partial sum is larger
        if most < 1 << 53:  # float64 holds every one of them, and has a fast product
            return np.asarray(np.rint(a.astype(np.float64) @ b.astype(np.float64).T), np.int64)
        if most >= 1 << 63:
            raise Refused(f"{self.name}: sums may reach {most}, beyond 63 bits.", code="workload-integers")
        return np.asarray(a.astype(np.int64) @ b.astype(np.int64).T)

    def tensors(self) -> dict[str, Tensor]:
        """Operands by name."""
        return {"a": self.a, "b": self.b}

    def settings(self) -> dict[str, Any]:
        """The rest, for the index."""
        return {"role": self.role}


@dataclass(frozen=True)
class Conv:
    """A convolution of images (b, c, h, w) with weights (o, c / groups, kh, kw).

    Raises:
        Refused: ``workload-shape``.
    """

    kind: ClassVar[str] = "conv"
    name: str
    x: Tensor
    weight: Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    role: str = "forward"

    def __post_init__(self) -> None:
        _known_role(self.name, self.role)
        x, w, groups = self.x.shape, self.weight.shape, self.groups
        pairs = all(
            len(one) == 2 and all(isinstance(n, int | np.integer) for n in one)
            for one in (self.stride, self.padding, self.dilation)
        )
        fits = len(x) == 4 and len(w) == 4 and groups >= 1 and x[1] == w[1] * groups and w[0] % groups == 0
        steps = pairs and min(*self.stride, *self.dilation) >= 1 and min(self.padding) >= 0
        if not (fits and steps and min(w[2:]) >= 1 and min(self.out) >= 1):
            raise Refused(
                f"{self.name}: images (b, c, h, w) and weights (o, c / groups, kh, kw); got {x} and {w} with groups {groups}, "
                f"stride {self.stride}, padding {self.padding}, dilation {self.dilation}.",
                code="workload-shape",
            )

    @property
    def out(self) -> tuple[int, int]:
        """Height and width of the result."""
        found = []
        for axis in (0, 1):
            reach = self.dilation[axis] * (self.weight.shape[2 + axis] - 1) + 1
            found.append((self.x.shape[2 + axis] + 2 * self.padding[axis] - reach) // self.stride[axis] + 1)
        return found[0], found[1]

    @property
    def macs(self) -> int:
        """Multiplications of the dense convolution, those with padding included."""
        return self.x.shape[0] * math.prod(self.out) * math.prod(self.weight.shape)

    def effectual(self) -> int:
        """Multiplications of two numbers that are both not zero."""
        return sum(one.effectual() for one in self.products())

    def products(self, block: int = 1) -> Iterator[Gemm]:
        """One product a group: a row of ``a`` is an output position, k runs over (kh, kw, channels).

        Channels of each position of the kernel are padded with zeros to a multiple of ``block``.
        """
        b = self.x.shape[0]
        o, per, kh, kw = self.weight.shape
        (oh, ow), (sh, sw), (dh, dw), (ph, pw) = self.out, self.stride, self.dilation, self.padding
        x = np.pad(self.x.values, ((0, 0), (0, 0), (ph, ph), (pw, pw))).transpose(0, 2, 3, 1)  # (b, h, w, c)
        wide = -(-per // block) * block
        for group in range(self.groups):
            mine = slice(group * per, (group + 1) * per)
            rows = np.zeros((b, oh, ow, kh, kw, wide), x.dtype)
            for i in range(kh):
                for j in range(kw):
                    seen = x[
                        :,
                        i * dh : i * dh + sh * (oh - 1) + 1 : sh,
                        j * dw : j * dw + sw * (ow - 1) + 1 : sw,
                        mine,
                    ]
                    rows[:, :, :, i, j, :per] = seen
            outputs = slice(group * (o // self.groups), (group + 1) * (o // self.groups))
            kernel = np.zeros((o // self.groups, kh, kw, wide), self.weight.values.dtype)
            kernel[..., :per] = self.weight.values[outputs].transpose(0, 2, 3, 1)
            scale = (
                self.weight.scale
                if np.ndim(self.weight.scale) == 0
                else np.asarray(self.weight.scale)[outputs]
            )
            name = self.name if self.groups == 1 else f"{self.name}[{group}]"
            of_rows = self.x.scale if np.ndim(self.x.scale) == 0 else np.repeat(self.x.scale, oh * ow)
            a = Tensor(rows.reshape(b * oh * ow, kh * kw * wide), self.x.format, of_rows)
            kernels = Tensor(kernel.reshape(len(kernel), kh * kw * wide), self.weight.format, scale)
            yield Gemm(name, a, kernels, self.role)

    def tensors(self) -> dict[str, Tensor]:
        """Operands by name."""
        return {"x": self.x, "weight": self.weight}

    def settings(self) -> dict[str, Any]:
        """The rest, for the index."""
        return {
            "stride": list(self.stride), "padding": list(self.padding), "dilation": list(self.dilation),
            "groups": self.groups, "role": self.role,
        }  # fmt: skip


@dataclass(frozen=True)
class Attention:
    """Softmax attention of packed tokens: the products of queries with keys, and of probabilities with values.

    Args:
        name: of the layer.
        q, k, v: (t, h, d): the tokens of all sequences end to end, heads, head width.
        lengths: (b,), tokens of each sequence, which sum to t.
        scale: what products are multiplied with before the softmax.
        tokens: (t,), the place each token had in its sequence before any was removed; None for 0, 1, 2, …
        heads: which of the model's heads these are; None for all.
        causal: each token sees those before it and itself.
        role: one of :data:`ROLES`.
        bias: float32, added to the logits: (h, n, n) of each sequence, laid flat end to end; -inf where a query does not see a
            key. None for none.

    Raises:
        Refused: ``workload-shape``.
    """

    kind: ClassVar[str] = "attention"
    name: str
    q: Tensor
    k: Tensor
    v: Tensor
    lengths: NDArray[np.int64]
    scale: float
    tokens: NDArray[np.int64] | None = None
    heads: tuple[int, ...] | None = None
    causal: bool = False
    role: str = "forward"
    bias: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        _known_role(self.name, self.role)
        shapes = [one.shape for one in (self.q, self.k, self.v)]
        if (
            len(shapes[0]) != 3
            or shapes[1] != shapes[0]
            or shapes[2][:2] != shapes[0][:2]
            or len(shapes[2]) != 3
        ):
            raise Refused(f"{self.name}: q, k, v are (t, h, d); got {shapes}.", code="workload-shape")
        if not isinstance(self.scale, int | float) or not math.isfinite(self.scale):
            raise Refused(
                f"{self.name}: products are scaled by a finite number; got {self.scale!r}.",
                code="workload-shape",
            )
        if np.ndim(self.v.scale):
            raise Refused(
                f"{self.name}: values have one scale in all; got {np.shape(self.v.scale)}, and their product sums over tokens.",
                code="workload-shape",
            )
        whole = np.issubdtype(self.lengths.dtype, np.integer) and self.lengths.ndim == 1
        if not whole or (self.lengths < 1).any() or (self.lengths > shapes[0][0]).any():
            raise Refused(
                f"{self.name}: lengths are whole numbers from 1 to the {shapes[0][0]} tokens; got {self.lengths[:8]!r}.",
                code="workload-shape",
            )
        if int(self.lengths.sum()) != shapes[0][0]:
            raise Refused(
                f"{self.name}: {shapes[0][0]} tokens, and lengths that sum to {int(self.lengths.sum())}.",
                code="workload-shape",
            )
        if self.tokens is not None:
            places = self.tokens.shape == shapes[0][:1] and np.issubdtype(self.tokens.dtype, np.integer)
            if not places or (self.tokens < 0).any() or (self.tokens > FARTHEST).any():
                raise Refused(
                    f"{self.name}: places are whole numbers from 0 to {FARTHEST}, one for each of {shapes[0][0]} tokens; got "
                    f"{self.tokens[:8]!r}.",
                    code="workload-shape",
                )
        if self.heads is not None:
            numbers = all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in self.heads)
            if not numbers or len(set(self.heads)) != len(self.heads) or len(self.heads) != shapes[0][1]:
                raise Refused(
                    f"{self.name}: heads are numbers, each once, one for each of {shapes[0][1]} heads; got {self.heads!r}.",
                    code="workload-shape",
                )
        if self.bias is not None:
            wanted = shapes[0][1] * int((self.lengths.astype(np.int64) ** 2).sum())
            if self.bias.shape != (wanted,) or self.bias.dtype != np.float32:
                raise Refused(
                    f"{self.name}: a bias of {wanted} float32 belongs to these heads and lengths; got {self.bias.dtype} of "
                    f"{self.bias.shape}.",
                    code="workload-shape",
                )
            if np.isnan(self.bias).any() or np.isposinf(self.bias).any():
                raise Refused(f"{self.name}: its bias holds NaN or +inf.", code="workload-not-finite")

    @property
    def macs(self) -> int:
        """Multiplications of both products, masked pairs included."""
        squares = int((self.lengths.astype(np.int64) ** 2).sum())
        return squares * self.q.shape[1] * (self.q.shape[2] + self.v.shape[2])

    def effectual(self) -> int:
        """Multiplications of two numbers that are both not zero."""
        return sum(one.effectual() for one in self.products())

    def sequences(self) -> Iterator[slice]:
        """The tokens of one sequence after the other."""
        ends = np.cumsum(self.lengths)
        for start, end in zip(ends - self.lengths, ends, strict=True):
            yield slice(int(start), int(end))

    def probabilities(self, rows: slice, head: int) -> NDArray[np.float32]:
        """(n, n) of one sequence (one of :meth:`sequences`) and head, from the operands as they are recorded."""
        q, k = (one.values[rows, head] for one in (self.q, self.k))
        real = [
            from_bf16(x) if one.format == "bf16" else x.astype(np.float32) * _scale_of(one, rows)
            for x, one in ((q, self.q), (k, self.k))
        ]
        with np.errstate(over="ignore", invalid="ignore"):
            logits = (real[0] @ real[1].T) * np.float32(self.scale)
        if not np.isfinite(logits).all():
            raise Refused(
                f"{self.name}: a product of queries and keys is infinite or NaN.", code="workload-not-finite"
            )
        if self.bias is not None:
            logits = logits + self._bias_of(rows, head)
        if self.causal:
            logits = np.where(np.tri(len(logits), dtype=bool), logits, -np.inf)
        top = logits.max(1, keepdims=True)
        shifted = np.exp(logits - np.where(np.isfinite(top), top, 0))
        total = shifted.sum(1, keepdims=True)  # 0 for a query that sees nobody
        return np.asarray(np.divide(shifted, total, out=np.zeros_like(shifted), where=total > 0), np.float32)

    def _bias_of(self, rows: slice, head: int) -> NDArray[np.float32]:
        assert self.bias is not None
        lengths, ends = self.lengths.astype(np.int64), np.cumsum(self.lengths)
        before = self.q.shape[1] * int((lengths[ends <= rows.start] ** 2).sum())
        n = rows.stop - rows.start
        return self.bias[before + head * n * n : before + (head + 1) * n * n].reshape(n, n)

    def products(self, block: int = 1) -> Iterator[Gemm]:
        """Queries with keys and probabilities with values, for each sequence and head; k padded to multiples of ``block``.

        Probabilities are 7 bits without sign (0 … 127) beside integers, bfloat16 beside bfloat16.
        """
        for number, rows in enumerate(self.sequences()):
            for head in range(self.q.shape[1]):
                at = f"{self.name}[{number},{head}]"
                q, k, v = (
                    Tensor(
                        one.values[rows, head],
                        one.format,
                        one.scale if np.ndim(one.scale) == 0 else np.asarray(one.scale)[rows],
                    )
                    for one in (self.q, self.k, self.v)
                )
                yield Gemm(f"{at}.scores", _padded(q, block), _padded(k, block), self.role)
                p = self.probabilities(rows, head)
                left = (
                    Tensor(bf16_bits(p), "bf16")
                    if v.format == "bf16"
                    else Tensor(np.rint(p * 127).astype(FORMATS[v.format]), v.format, 1 / 127)
                )
                right = Tensor(np.ascontiguousarray(v.values.T), v.format, v.scale)
                yield Gemm(f"{at}.context", _padded(left, block), _padded(right, block), self.role)

    def tensors(self) -> dict[str, Tensor]:
        """Operands by name."""
        return {"q": self.q, "k": self.k, "v": self.v}

    def settings(self) -> dict[str, Any]:
        """The rest, for the index; lengths and places lie beside the operands."""
        return {
            "scale": self.scale, "heads": None if self.heads is None else list(self.heads), "causal": self.causal,
            "role": self.role,
        }  # fmt: skip


Layer = Gemm | Conv | Attention
KINDS: dict[str, type[Gemm] | type[Conv] | type[Attention]] = {x.kind: x for x in (Gemm, Conv, Attention)}


def _scale_of(one: Tensor, rows: slice) -> Any:
    scale = np.asarray(one.scale, np.float32)
    return scale if scale.ndim == 0 else scale[rows][:, None]


def _role_of(entry: dict[str, Any]) -> Any:
    settings = entry.get("settings")
    return str(settings.get("role")) if isinstance(settings, dict) else None


def _known_role(name: str, role: str) -> None:
    if role not in ROLES:
        raise Refused(f"{name}: role {role!r}; known are {', '.join(ROLES)}.", code="workload-shape")


def _padded(x: Tensor, block: int) -> Tensor:
    more = -x.shape[1] % block
    return x if more == 0 else Tensor(np.pad(x.values, ((0, 0), (0, more))), x.format, x.scale)


@dataclass(frozen=True)
class Workload(Sequence[Layer]):
    """Layers in the order they ran.

    Args:
        layers: in memory, or a :class:`Stored` sequence that reads each when it is asked for.
        facts: about the run: model, data, what was pruned; for the report.
    """

    layers: Sequence[Layer]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, at: Any) -> Any:
        return replace(self, layers=self.layers[at]) if isinstance(at, slice) else self.layers[at]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    @property
    def outline(self) -> tuple[tuple[str, str], ...]:
        """Name and kind of each layer, from the index alone where the layers are on disk."""
        if isinstance(self.layers, Stored):
            entries = [x if isinstance(x, dict) else {} for x in self.layers.entries]
            return tuple((str(x.get("name")), str(x.get("kind"))) for x in entries)
        return tuple((one.name, one.kind) for one in self.layers)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a trace; see :class:`Writer`."""
        with Writer(folder, self.facts) as out:
            for layer in self.layers:
                out.add(layer)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Workload":
        """Open a trace. Its layers are read, and checked against their sums, one by one when they are asked for.

        Raises:
            InputOutput: ``trace-missing``, ``trace-corrupt``.
            Refused: ``trace-version``, and what is wrong with a layer, when it is read.
        """
        place = Path(folder)
        try:
            index = json.loads((place / INDEX).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputOutput(
                f"{place} holds no {INDEX}. Record a trace with: sparsam trace MODEL --task TASK --out {place}",
                code="trace-missing",
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise InputOutput(f"{place / INDEX} cannot be read: {error}", code="trace-corrupt") from error
        if not isinstance(index, dict) or not isinstance(index.get("layers"), list):
            raise InputOutput(f"{place / INDEX} is no list of layers.", code="trace-corrupt")
        if index.get("version") != VERSION:
            raise Refused(
                f"{place} is a trace of version {index.get('version')!r}; this sparsam reads {VERSION}.",
                code="trace-version",
            )
        named = [(x.get("name"), _role_of(x)) if isinstance(x, dict) else None for x in index["layers"]]
        if len(set(named)) != len(named):
            twice = next(x for x in named if named.count(x) > 1)
            raise InputOutput(f"{place / INDEX} names {twice} more than once.", code="trace-corrupt")
        facts = index.get("facts")
        return cls(Stored(place, tuple(index["layers"])), facts if isinstance(facts, dict) else {})


@dataclass(frozen=True)
class Stored(Sequence[Layer]):
    """The layers of a trace on disk."""

    folder: Path
    entries: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return replace(self, entries=self.entries[at])
        return _read(self.folder, self.entries[at])


class Writer:
    """Writes a trace layer by layer, beside its place; when all went well it is put there whole, else nothing changes.

    Raises:
        Usage: ``trace-folder`` for a folder that holds something else, or facts that are no JSON.
        Refused: ``trace-name`` for a name that was given before.
        InputOutput: ``trace-write`` where the disk does not do its part.
    """

    def __init__(self, folder: str | os.PathLike[str], facts: Mapping[str, Any] | None = None) -> None:
        self.folder, self.facts = Path(folder), dict(facts or {})
        self.entries: list[dict[str, Any]] = []
        self.names: set[tuple[str, str]] = set()
        self._place = self.folder.resolve()  # a link to a folder stays a link
        self._staging = self._place.with_name(
            f"{self._place.name}.writing-{os.getpid()}-{secrets.token_hex(3)}"
        )
        if self.folder.is_file():
            raise Usage(f"{self.folder} is a file. Name a folder.", code="trace-folder")
        if self.folder.exists() and not (self.folder / INDEX).exists() and any(self.folder.iterdir()):
            raise Usage(
                f"{self.folder} holds files that are no trace. Name another folder.", code="trace-folder"
            )
        _as_json(self.facts, "facts")

    def __enter__(self) -> "Writer":
        try:
            self._place.parent.mkdir(parents=True, exist_ok=True)
            _collect(self._place)
            self._staging.mkdir()
        except OSError as error:
            raise InputOutput(f"{self.folder} cannot be written: {error}", code="trace-write") from error
        return self

    def add(self, layer: Layer) -> None:
        """Append one layer."""
        if (layer.name, layer.role) in self.names:
            raise Refused(f"two layers are called {layer.name} ({layer.role}).", code="trace-name")
        self.names.add((layer.name, layer.role))
        file = f"layer-{len(self.entries):05d}.safetensors"
        arrays: dict[str, NDArray[Any]] = {}
        formats: dict[str, Any] = {}
        for name, one in layer.tensors().items():
            arrays[name] = np.ascontiguousarray(one.values)
            many = np.ndim(one.scale) > 0
            if many:
                arrays[f"{name}.scale"] = np.ascontiguousarray(one.scale, dtype=np.float32)
            formats[name] = {
                "format": one.format, "shape": list(one.shape), "density": round(one.density, 6),
                "scale": None if many else float(one.scale),
            }  # fmt: skip
        if isinstance(layer, Attention):
            arrays["lengths"] = np.ascontiguousarray(layer.lengths, dtype=np.int64)
            if layer.tokens is not None:
                arrays["tokens"] = np.ascontiguousarray(layer.tokens, dtype=np.int64)
            if layer.bias is not None:
                arrays["bias"] = np.ascontiguousarray(layer.bias)
        try:
            save_file(arrays, self._staging / file)
            digest = _digest(self._staging / file)
        except (OSError, SafetensorError) as error:
            raise InputOutput(
                f"layer {layer.name} cannot be written to {self.folder}: {error}", code="trace-write"
            ) from error
        self.entries.append(
            {
                "name": layer.name, "kind": layer.kind, "file": file, "sha256": digest, "macs": layer.macs,
                "operands": formats, "settings": layer.settings(),
            }
        )  # fmt: skip

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                text = _as_json(
                    {"version": VERSION, "facts": self.facts, "layers": self.entries}, "facts", indent=1
                )
                (self._staging / INDEX).write_text(text + "\n", encoding="utf-8")
                self._put_in_place()
        except OSError as failed:
            raise InputOutput(f"{self.folder} cannot be written: {failed}", code="trace-write") from failed
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)

    def _put_in_place(self) -> None:
        """Rename; what stood there is moved aside first, and back if that fails."""
        if not self._place.exists():
            os.rename(self._staging, self._place)
            return
        old = self._place.with_name(f"{self._place.name}.replaced-{os.getpid()}-{secrets.token_hex(3)}")
        os.rename(self._place, old)
        try:
            os.rename(self._staging, self._place)
        except BaseException:
            os.rename(old, self._place)
            raise
        shutil.rmtree(old, ignore_errors=True)


STALE_SECONDS = 24 * 3600
"""Age after which a half-written trace counts as left behind by a killed process. Chosen by us."""


def _collect(place: Path) -> None:
    """Remove what killed processes left beside a trace."""
    pattern = re.compile(re.escape(place.name) + r"\.writing-\d+-[0-9a-f]{6}")
    for path in place.parent.iterdir():
        if pattern.fullmatch(path.name):
            with suppress(OSError):  # another process may clear it, too
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)


def _as_json(what: Any, name: str, indent: int | None = None) -> str:
    try:
        return json.dumps(what, indent=indent, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Usage(f"the {name} of a trace are written as JSON: {error}.", code="trace-folder") from error


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(folder: Path, entry: Any) -> Layer:
    """One layer of a trace, checked."""
    name = entry.get("name") if isinstance(entry, dict) else None
    try:
        file, kind, settings = str(entry["file"]), KINDS[entry["kind"]], dict(entry["settings"])
        place = folder / Path(file).name
        if _digest(place) != entry["sha256"]:
            raise InputOutput(
                f"layer {name} of {folder}: {file} is not as it was written.", code="trace-corrupt"
            )
        arrays = load_file(place)
        tensors: dict[str, Any] = {
            key: Tensor(
                arrays[key],
                facts["format"],
                arrays[f"{key}.scale"] if facts["scale"] is None else float(facts["scale"]),
            )
            for key, facts in entry["operands"].items()
        }
        for key, facts in entry["operands"].items():
            if list(tensors[key].shape) != facts["shape"]:
                raise InputOutput(
                    f"layer {name} of {folder}: {key} is {list(tensors[key].shape)}, the index says {facts['shape']}.",
                    code="trace-corrupt",
                )
        for key in ("stride", "padding", "dilation", "heads"):
            if isinstance(settings.get(key), list):
                settings[key] = tuple(settings[key])
        if kind is Attention:
            settings |= {
                "lengths": arrays["lengths"],
                "tokens": arrays.get("tokens"),
                "bias": arrays.get("bias"),
            }
        return kind(name=str(name), **(tensors | settings))
    except FileNotFoundError as error:
        raise InputOutput(
            f"layer {name} of {folder}: {error.filename} is missing.", code="trace-corrupt"
        ) from error
    except Refused as error:
        raise Refused(f"layer {name} of {folder}: {error}", code=error.code) from error
    except InputOutput:
        raise
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputOutput(
            f"layer {name} of {folder} cannot be read: {type(error).__name__}: {error}", code="trace-corrupt"
        ) from error
