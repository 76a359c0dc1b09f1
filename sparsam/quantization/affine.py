"""Grids of integers: numbers to integers and back, as pure functions of a tensor and an immutable record.

    q = clamp(rint(x / s) + z, lowest, highest)        x^ = s (q - z)

A :class:`Form` says what a grid is like (bits, symmetric or affine, what shares a scale), a :class:`Grid` is a form with its
scales and zero points. Zero is a level of every grid. A runtime is compared with this file bit for bit, so it is exact about
what the formula leaves open:

- all arithmetic is float32, each operation rounded by itself, and rint rounds halves to even;
- x / s is computed as x * inv, as fast code does: inv = 1 / s for a grid that stands still, and inv = steps / (high - low)
  where s = (high - low) / steps was just made of a range. The zero point is rint(-low * inv), with the second inv;
- a range narrower than :data:`SMALLEST` counts as all zeros and gets the scale 1.

Letters: t tokens, i inputs, o outputs, c channels, n the numbers of a channel, g groups.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int32, Integer
from torch import Tensor

from sparsam.errors import Refused, Usage

SMALLEST = 2.0**-100
"""Below this a range is all zeros: its inverse would overflow, and no processor treats denormal scales alike. Ours."""

ACCUMULATOR = 2**31 - 1
"""What a sum of products has to stay within."""


@dataclass(frozen=True)
class Form:
    """What a grid is like, before any number is known.

    Args:
        bits: 2 to 8.
        symmetric: the zero point is 0 and the levels are as many on either side; affine otherwise.
        signed: whether the integers of an affine form begin at -2^(bits-1) rather than at 0; a symmetric one is signed.
        full: lets a symmetric form use its lowest integer, too, -2^(bits-1), which has no counterpart above.
        axis: the axis whose every index has a scale of its own; None for one scale in all.
        group: how many numbers of one index of ``axis`` share a scale, in the order they lie in memory once that axis is
            first; None for all of them. The last group may be shorter.
    """

    bits: int = 8
    symmetric: bool = True
    signed: bool = True
    full: bool = False
    axis: int | None = None
    group: int | None = None

    def __post_init__(self) -> None:
        if self.bits not in range(2, 9):
            raise Usage(f"bits lies in 2 to 8; got {self.bits!r}.", code="quantization-form")
        if self.symmetric and not self.signed:
            raise Usage(
                "a symmetric form has negative levels, so it is signed; for integers from 0 take symmetric=False.",
                code="quantization-form",
            )
        if self.full and not self.symmetric:
            raise Usage(
                "full is for symmetric forms; an affine one uses all integers.", code="quantization-form"
            )
        if self.group is not None and (self.axis is None or self.group < 1):
            raise Usage(
                f"group is a number of weights from 1 on, and needs the axis it divides; "
                f"got group={self.group!r} and axis={self.axis!r}.",
                code="quantization-form",
            )

    @property
    def lowest(self) -> int:
        """The least integer."""
        if not self.signed:
            return 0
        return -(1 << self.bits - 1) + (self.symmetric and not self.full)

    @property
    def highest(self) -> int:
        """The largest integer."""
        return (1 << self.bits - self.signed) - 1

    @property
    def steps(self) -> int:
        """Steps of a scale in what a range spans: from 0 to the largest integer if symmetric, else between the two ends."""
        return self.highest if self.symmetric else self.highest - self.lowest

    @property
    def dtype(self) -> torch.dtype:
        """What the integers are stored as."""
        return torch.int8 if self.signed else torch.uint8


INPUT = Form(bits=8, symmetric=False, signed=False)
"""Inputs of a product as plans have them: eight bits, affine, from 0 to 255."""


def weight_form(bits: int, group: int | None = None) -> Form:
    """Weights (o, i) as plans have them: symmetric, a scale an output (or ``group`` inputs of an output)."""
    return Form(bits=bits, axis=0, group=group)


@dataclass(frozen=True, eq=False)
class Grid:
    """A form with its numbers: ``scale`` and ``zero`` are () for one scale in all, (c,) by channel, (c, g) by group."""

    scale: Float32[Tensor, "*grid"]
    zero: Int32[Tensor, "*grid"]
    form: Form

    def __post_init__(self) -> None:
        wanted = 0 if self.form.axis is None else 1 if self.form.group is None else 2
        if self.scale.ndim != wanted or self.zero.shape != self.scale.shape:
            raise Refused(
                f"a grid of {self.form} has scales and zero points of {wanted} axes; "
                f"got {tuple(self.scale.shape)} and {tuple(self.zero.shape)}.",
                code="quantization-shape",
            )
        if not bool((torch.isfinite(self.scale) & (self.scale > 0)).all()):
            raise Refused(
                "a scale is above 0 and finite; the numbers a grid is made of held NaN or infinity, or were never seen.",
                code="quantization-scale",
            )
        if not bool(((self.zero >= self.form.lowest) & (self.zero <= self.form.highest)).all()):
            raise Refused(
                f"a zero point lies in {self.form.lowest} to {self.form.highest}, so that zero is a level; "
                f"got {self.zero.flatten()[:4].tolist()}.",
                code="quantization-zero",
            )


def steps_of(
    low: Float[Tensor, "*grid"], high: Float[Tensor, "*grid"], form: Form
) -> tuple[Float32[Tensor, "*grid"], Int32[Tensor, "*grid"]]:
    """Scale and zero point that make a form reach from ``low`` to ``high``; both are first moved to include zero."""
    low, high = low.float().clamp(max=0.0), high.float().clamp(min=0.0)
    span = torch.maximum(-low, high) if form.symmetric else high - low
    nothing = span < SMALLEST
    scale = torch.where(nothing, 1.0, span / form.steps)
    if form.symmetric:
        return scale, torch.zeros_like(scale, dtype=torch.int32)
    inverse = torch.where(nothing, 1.0, form.steps / span)
    zero = (torch.round(-low * inverse) + form.lowest).clamp(form.lowest, form.highest)
    return scale, zero.to(torch.int32)


def grid_between(low: Float[Tensor, "*grid"], high: Float[Tensor, "*grid"], form: Form) -> Grid:
    """The grid of a form over a range.

    Raises:
        Refused: ``non-finite`` for a range that is NaN or infinite, or wider than float32 holds.
    """
    if not bool(torch.isfinite(high.float() - low.float()).all()):
        raise Refused(
            "a range is NaN, infinite or wider than float32 holds. Look for NaN in the weights or the inputs.",
            code="non-finite",
        )
    return Grid(*steps_of(low, high, form), form)


def quantize(x: Float[Tensor, "*shape"], grid: Grid) -> Integer[Tensor, "*shape"]:
    """The integers nearest to numbers; what lies outside the range (infinity, too) becomes its end.

    Raises:
        Refused: ``non-finite`` where a number is NaN, ``quantization-shape`` where the grid is for another shape.
    """
    if bool(torch.isnan(x).any()):
        raise Refused("NaN has no integer. Look for NaN in the weights or the inputs.", code="non-finite")
    nearest, zero = _rounded(x, grid)
    return (nearest + zero).clamp_(grid.form.lowest, grid.form.highest).to(grid.form.dtype)


def dequantize(q: Integer[Tensor, "*shape"], grid: Grid) -> Float32[Tensor, "*shape"]:
    """The numbers that integers stand for."""
    scale, zero = _spread(grid, q)
    return (q.float() - zero) * scale


def fake_quantize(x: Float[Tensor, "*shape"], grid: Grid) -> Float[Tensor, "*shape"]:
    """Quantized and back in one, in the dtype of ``x``; NaN stays NaN. Simulation: nothing gets faster by it.

    Its gradient is straight through: 1 for a number that rounds to an integer of the grid, 0 for one that is cut off.
    """
    found: Tensor = _StraightThrough.apply(x, grid)  # type: ignore[no-untyped-call]
    return found


def inside(x: Float[Tensor, "*shape"], grid: Grid) -> Bool[Tensor, "*shape"]:
    """Which numbers round to an integer of the grid: those whose gradient passes."""
    nearest, zero = _rounded(x, grid)
    q = nearest + zero
    return (q >= grid.form.lowest) & (q <= grid.form.highest)


class _StraightThrough(torch.autograd.Function):
    """Gradient 1 inside the range and 0 outside (Bengio, Leonard and Courville 2013, arXiv:1308.3432, with the clip's)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid) -> Tensor:
        nearest, zero = _rounded(x, grid)
        scale, _ = _spread(grid, x)
        q = nearest + zero
        held = q.clamp(grid.form.lowest, grid.form.highest)
        ctx.save_for_backward(held == q)
        return ((held - zero) * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (passes,) = ctx.saved_tensors
        return gradients[0] * passes, None


def _rounded(x: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """rint(x / s), and z, both as float32 in the shape of ``x``."""
    scale, zero = _spread(grid, x)
    return torch.round(x.detach().float() * scale.reciprocal()), zero


def _spread(grid: Grid, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each number of ``x``, as float32, ready to be broadcast."""
    return spread(grid.scale, grid.form, x), spread(grid.zero.float(), grid.form, x)


def spread(
    values: Float[Tensor, "*grid"], form: Form, x: Integer[Tensor, "*shape"] | Float[Tensor, "*shape"]
) -> Float[Tensor, "..."]:
    """One value a scale, as something to be broadcast with ``x``.

    Raises:
        Refused: ``quantization-shape`` where ``x`` has other channels or groups than there are values.
    """
    if form.axis is None:
        return values
    axis = _axis(form, x)
    channels, rest = x.shape[axis], [size for place, size in enumerate(x.shape) if place != axis]
    each = math.prod(rest)
    wanted = (channels,) if form.group is None else (channels, -(-each // form.group))
    if tuple(values.shape) != wanted:
        raise Refused(
            f"the grid's scales are {tuple(values.shape)}; a tensor of {tuple(x.shape)} needs {wanted} "
            f"(axis {form.axis}, group {form.group}). Make the grid of a tensor of this shape.",
            code="quantization-shape",
        )
    if form.group is None:
        return values.view([-1 if place == axis else 1 for place in range(x.ndim)])
    wide = values.repeat_interleave(form.group, 1)[:, :each]  # (c, n): the last group may be shorter
    return wide.reshape(channels, *rest).movedim(0, axis)


def sharing(x: Float[Tensor, "*shape"], form: Form) -> list[Float[Tensor, "c g n"]]:
    """The numbers that share a scale, a row each: all groups of full length, then the shorter last ones if there are any."""
    if form.axis is None:
        return [x.reshape(1, 1, -1)]
    axis = _axis(form, x)
    rows = x.movedim(axis, 0)
    rows = rows.reshape(rows.shape[0], math.prod(rows.shape[1:]))  # (c, n)
    if form.group is None:
        return [rows[:, None]]
    groups = rows.shape[1] // form.group
    whole = groups * form.group
    pieces = [rows[:, :whole].reshape(len(rows), groups, form.group), rows[:, None, whole:]]
    return [piece for piece in pieces if piece.shape[1] and piece.shape[2]] or pieces[:1]


def gathered(pieces: list[Float[Tensor, "c _"]], form: Form) -> Float[Tensor, "*grid"]:
    """What was worked out for each row of :func:`sharing`, in the shape of a grid's scales."""
    values = torch.cat(pieces, 1)
    if form.axis is None:
        return values[0, 0]
    return values[:, 0] if form.group is None else values


def _axis(form: Form, x: Tensor) -> int:
    assert form.axis is not None
    if not -x.ndim <= form.axis < x.ndim:
        raise Refused(
            f"axis {form.axis} is none of a tensor of {tuple(x.shape)}.",
            code="quantization-shape",
        )
    return form.axis % x.ndim


class Tokens(NamedTuple):
    """Tokens in integers, each on a grid of its own: x^ = scale (q - zero)."""

    q: Integer[Tensor, "t i"]
    zero: Int32[Tensor, " t"]
    scale: Float32[Tensor, " t"]


def quantize_tokens(x: Float[Tensor, "t i"]) -> Tokens:
    """Inputs of a product, each token on a grid of eight bits from its own least to its own largest number.

        low = min(0, min x)    high = max(0, max x)    s = (high - low) / 255    inv = 255 / (high - low)
        z = clamp(rint(-low * inv), 0, 255)            q = clamp(rint(x * inv) + z, 0, 255)

    A token of zeros has s = 1 and z = 0. A token that holds NaN or infinity, or spans more than float32 does, gets NaN as its
    scale: a product's outputs are then NaN for it, as they are in floating point.
    """
    x = x.detach().float()
    if not x.shape[1]:  # a product without inputs gives its bias
        low = high = x.new_zeros(len(x))
    else:
        low, high = x.amin(1).clamp(max=0.0), x.amax(1).clamp(min=0.0)
    span = high - low
    finite, nothing = torch.isfinite(span), span < SMALLEST
    scale = torch.where(nothing, 1.0, span / 255.0).where(finite, torch.nan)
    inverse = torch.where(nothing, 1.0, 255.0 / span)
    zero = torch.round(-low * inverse).clamp(0, 255).where(finite, 0.0)
    q = (torch.round(x * inverse[:, None]) + zero[:, None]).clamp(0, 255)
    q = torch.where(finite[:, None], q, 0.0)
    return Tokens(q.to(torch.uint8), zero.to(torch.int32), scale)


def fake_quantize_tokens(x: Float[Tensor, "t i"]) -> Float[Tensor, "t i"]:
    """:func:`quantize_tokens` and back; the gradient passes everywhere, for nothing lies outside."""
    found: Tensor = _TokensThrough.apply(x)  # type: ignore[no-untyped-call]
    return found


class _TokensThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        q, zero, scale = quantize_tokens(x)
        return ((q.float() - zero[:, None].float()) * scale[:, None]).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def integer_sums(
    q_x: Integer[Tensor, "t i"],
    z_x: Int32[Tensor, " t"],
    w_q: Integer[Tensor, "o i"],
    z_w: Int32[Tensor, " o"] | None = None,
) -> Int32[Tensor, "t o"]:
    """The exact sums of (q_x - z_x)(w_q - z_w) over the inputs, from the product of the integers as they are.

        sum q_x w_q  -  z_x sum w_q  -  z_w sum q_x  +  i z_x z_w

    Symmetric weights (``z_w`` None) have the first two terms alone. The sums are made in float64, where every integer below
    2^53 is exact.

    Raises:
        Refused: ``accumulator`` where weights so large, or so many, could carry 32 bits over for some input.
    """
    w = w_q.double()
    reach = 255 * w.abs().sum(1)  # of any part of the first sum, in any order, for any input of eight bits
    if z_w is not None:
        reach = reach + 255 * w.shape[1] * z_w.double().abs()
    if len(reach) and float(reach.max()) > ACCUMULATOR:
        raise Refused(
            f"a product of {w.shape[1]} inputs can reach {int(reach.max())}, beyond the {ACCUMULATOR} of a 32-bit sum. "
            "Split its inputs, or leave it in floating point.",
            code="accumulator",
        )
    with torch.autocast(w.device.type, enabled=False):
        x, zeros = q_x.double(), z_x.double()[:, None]
        sums = x @ w.T - zeros * w.sum(1)
        if z_w is not None:
            offsets = z_w.double()
            sums = sums - x.sum(1, keepdim=True) * offsets + w.shape[1] * zeros * offsets
    return sums.to(torch.int32)


def integer_product(
    q_x: Integer[Tensor, "t i"],
    z_x: Int32[Tensor, " t"],
    s_x: Float32[Tensor, " t"],
    w_q: Integer[Tensor, "o i"],
    s_w: Float32[Tensor, " o"],
    bias: Float32[Tensor, " o"] | None = None,
) -> Float32[Tensor, "t o"]:
    """What an integer runtime has to give: y = float(sums) * (s_x * s_w) + bias, three roundings and no fused one.

    One grid for all tokens is the same with its zero point and scale repeated.
    """
    found = integer_sums(q_x, z_x, w_q).float() * (s_x[:, None] * s_w)
    return found if bias is None else found + bias
