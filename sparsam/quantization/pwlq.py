"""PWLQ: a bell-shaped tensor in pieces, each with levels of its own: dense about zero, wide in the tails.

J. Fang, A. Shafiee, H. Abdel-Aziz, D. Thorsley, G. Georgiadis, J. H. Hassoun, *Post-Training Piecewise Linear Quantization for
Deep Neural Networks*, ECCV 2020, arXiv:2002.00104; one to three breakpoints, weights by channel or tensor, inputs.

With b bits a piece has L = 2^(b-1) - 1 steps. Of one breakpoint p in a range m (the paper's equation 3):

    centre  |r| <= p    levels 0, s1, ... L s1 = p              s1 = p / L
    tails   |r| >  p    levels p, p + s2, ... p + L s2 = m      s2 = (m - p) / L

p is a level of both, so numbers simply go to their nearest level; 4L + 1 levels take b + 1 stored bits. Breakpoints: closed
forms for a Gaussian and a Laplacian, the root of the expected error's derivative, a search of the true error at the full range,
and a search of breakpoint and range together.

**The form in int8.** With s2 = r s1 for a whole r every level is a whole multiple of s1, at most L (1 + r); where that is at
most 127 the weight *is* an int8 tensor with one scale a channel, and runs through any int8 product. Derived for this file; the
paper multiplies each piece by itself.

Where we differ: the released code's centre is two's complement (:func:`released`, for comparison alone) and it rescales weights
(:func:`released_correction`); here a bias takes the correction. The paper prints the closed forms as p / m; they are p / sigma
(checked against the optimum). Its range is always the largest weight; here it is searched, too, because a uniform grid of the
same stored bits with a searched clip is nearer than an unsearched PWLQ. Tests: ``tests/quantization/test_pwlq.py``.

Letters: c channels (outputs), n numbers of a channel, s pieces, j levels, k candidates.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int8, Int16, Int32, UInt8
from torch import Tensor

from sparsam.errors import Refused, Usage
from sparsam.quantization.affine import SMALLEST
from sparsam.quantization.bits import bytes_of, pack_bits, unpack_bits
from sparsam.quantization.levels import Ordered, exact_scale

BREAKPOINTS = ("gaussian", "laplace", "grid", "search", "exact")
"""How a breakpoint is found: closed form at the full range (the first two), true error at the full range, true error over
breakpoint and range (``exact``: the best range of each ratio is the best there is, slower)."""

Form = Literal["free", "int8"]
Law = Literal["gaussian", "laplace"]

NEAREST, FARTHEST = 0.05, 0.5
"""Where p / m may lie; the optimum of a falling density is never beyond the latter (the paper's lemma)."""

FEWEST, MOST = 1.3, 10.0
"""Of m / sigma: below, the channel has hardly more than two values, and p = m / 2 makes the levels uniform; above, closed forms
leave the range that they were fitted on, and the root is worked out."""

STAGES = (0.1, 0.01, 0.001)
"""Of the search of p / m, ten steps to either side of the best (the paper's algorithm 1)."""

RATIOS = 19
"""The largest s2 / s1 that is searched: that of p = 0.05 m."""

INT8 = 127

BISECTIONS = 60


def laplace_law(x: Float64[Tensor, "*shape"]) -> tuple[Float64[Tensor, "*shape"], Float64[Tensor, "*shape"]]:
    """F and f of the Laplacian of unit variance at x >= 0."""
    width = math.sqrt(0.5)
    tail = torch.exp(-x / width)
    return 1 - tail / 2, tail / (2 * width)


def gaussian_law(x: Float64[Tensor, "*shape"]) -> tuple[Float64[Tensor, "*shape"], Float64[Tensor, "*shape"]]:
    """F and f of N(0, 1)."""
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    return torch.special.ndtr(x), density


LAWS = {"gaussian": gaussian_law, "laplace": laplace_law}
_LAWS: tuple[Law, ...] = ("gaussian", "laplace")


def steps_a_piece(bits: int, signed: bool = True) -> int:
    """L: of one sign with b bits, so 2^(b-1) - 1; of numbers that are never negative 2^b - 1."""
    return (1 << bits - signed) - 1


def expected_error(
    breakpoints: Float64[Tensor, "c p"], reach: Float64[Tensor, " c"], bits: int, law: Law = "gaussian"
) -> Float64[Tensor, " c"]:
    """E of numbers of unit variance (equation 4; for more breakpoints its sum over pieces): a density nearly even in a step.

    ``C(b-1) sum_l (p_(l+1) - p_l)^2 2 [F(p_(l+1)) - F(p_l)]`` with C(b) = 1 / (12 (2^b - 1)^2) and F(m) taken for 1.
    """
    edges = _edges(breakpoints, reach)
    share = LAWS[law](edges)[0]
    share[:, -1] = 1.0
    return (edges.diff(dim=1).square() * share.diff(dim=1)).sum(1) * 2 / (12 * steps_a_piece(bits) ** 2)


def slope(
    breakpoints: Float64[Tensor, "c p"], reach: Float64[Tensor, " c"], at: int, law: Law = "gaussian"
) -> Float64[Tensor, " c"]:
    """dE / dp of one breakpoint, less a positive factor; of one alone ``p - 2m + 2m F(p) + m (2p - m) f(p)``."""
    edges = _edges(breakpoints, reach)
    share, density = LAWS[law](edges)
    share[:, -1] = 1.0
    left, right = edges[:, at + 1] - edges[:, at], edges[:, at + 2] - edges[:, at + 1]
    within, beyond = share[:, at + 1] - share[:, at], share[:, at + 2] - share[:, at + 1]
    own = density[:, at + 1]
    return 2 * left * within + left.square() * own - 2 * right * beyond - right.square() * own


def _edges(breakpoints: Tensor, reach: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(reach)[:, None], breakpoints, reach[:, None]], 1)


def closed_form(reach: Float64[Tensor, " c"], law: Law = "gaussian") -> Float64[Tensor, " c"]:
    """p / sigma for a range of ``reach`` = m / sigma: the released code's fits, made on ranges from 3 to 10."""
    if law == "gaussian":
        return torch.log(0.86143114 * reach + 0.607901097496529)
    return 0.80304483 * reach.sqrt() - 0.3166785508381478


def optimum(
    reach: Float64[Tensor, " c"], law: Law = "gaussian", breakpoints: int = 1
) -> Float64[Tensor, "c p"]:
    """Breakpoints with the least expected error, in units of sigma: roots of its derivative by bisection, each in turn."""
    if breakpoints == 1:
        return _root(reach[:, None] / 2, reach, 0, law, reach / 2)
    share = torch.arange(1, breakpoints + 1, dtype=torch.float64) / (breakpoints + 1)
    p = reach[:, None] * share.square()  # near the end of the range they are wide apart
    for _ in range(BISECTIONS // 2):
        for at in range(breakpoints):
            p = _root(p, reach, at, law, _edges(p, reach)[:, at + 2])
    return p


def _root(p: Tensor, reach: Tensor, at: int, law: Law, above: Tensor) -> Tensor:
    p = p.clone()
    low, high = _edges(p, reach)[:, at], above.clone()
    for _ in range(BISECTIONS if p.shape[1] == 1 else BISECTIONS // 2):
        p[:, at] = (low + high) / 2
        rising = slope(p, reach, at, law) > 0
        high, low = torch.where(rising, p[:, at], high), torch.where(rising, low, p[:, at])
    return p


@dataclass(frozen=True, eq=False)
class PiecewiseGrid:
    """Levels in pieces, of the same number of steps each.

    Args:
        steps: of each piece, from zero outwards.
        bits: b; a sign and b - 1 bits say where in a piece a number lies.
        ratios: of the form in int8: each tail step is this many centre steps.
        signed: whether numbers may be negative; if not, a piece has the sign's levels, too.
    """

    steps: Float32[Tensor, "c s"]
    bits: int
    ratios: Int32[Tensor, " c"] | None = None
    signed: bool = True

    def __post_init__(self) -> None:
        _check_bits(self.bits)
        pieces = self.steps.shape[1]
        if pieces not in (2, 3, 4) or (self.ratios is not None and pieces != 2):
            raise Refused(
                f"a grid has 2 to 4 pieces, and 2 in the int8 form; got {pieces}. Use one to three breakpoints.",
                code="pwlq-shape",
            )
        if not bool((self.steps.isfinite() & (self.steps > 0)).all()):
            raise Refused(
                "a step is above 0 and finite; the numbers a grid is made of held NaN or infinity, or the file is not whole.",
                code="quantization-scale",
            )
        if self.ratios is not None:
            limit = largest_ratio(self.bits)
            if self.ratios.shape != self.steps.shape[:1] or bool(
                ((self.ratios < 1) | (self.ratios > limit)).any()
            ):
                raise Refused(
                    f"the ratios of {self.bits} bits in int8 are one a channel, from 1 to {limit}; got "
                    f"{self.ratios.flatten()[:4].tolist()}.",
                    code="pwlq-ratio",
                )

    @property
    def width(self) -> int:
        """Stored bits of a number: b + 1 for one breakpoint."""
        top = self.steps.shape[1] * steps_a_piece(self.bits, self.signed)
        return (2 * top if self.signed else top).bit_length()

    @property
    def breakpoints(self) -> Float64[Tensor, "c p"]:
        """Where one piece ends and the next begins."""
        return (self.steps.double() * steps_a_piece(self.bits, self.signed)).cumsum(1)[:, :-1]

    @property
    def reach(self) -> Float64[Tensor, " c"]:
        """The largest level."""
        return self.steps.double().sum(1) * steps_a_piece(self.bits, self.signed)

    def levels(self) -> Float32[Tensor, "c j"]:
        """From zero outwards, as they are given back."""
        table = counts(self.steps.shape[1], steps_a_piece(self.bits, self.signed))
        if self.ratios is not None:
            whole = table[:, 0] + self.ratios.double()[:, None] * table[:, 1]
            return whole.float() * self.steps[:, :1]
        return (self.steps.double() @ table.T).float()

    def quantize(self, x: Float[Tensor, "*shape"]) -> Int16[Tensor, "*shape"]:
        """Codes: the number of the nearest level, with the number's sign. One in the middle goes to the lower level.

        Raises:
            Refused: ``non-finite`` for NaN, ``quantization-shape`` where the grid has other channels.
        """
        if bool(torch.isnan(x).any()):
            raise Refused("NaN has no level. Look for NaN in the weights or the inputs.", code="non-finite")
        rows = self._rows(x.detach())
        levels = self.levels().double()
        middles = (levels[:, 1:] + levels[:, :-1]) / 2
        near = rows.double().abs() if self.signed else rows.double().clamp(min=0.0)
        found = torch.searchsorted(middles.contiguous(), near.contiguous())
        return (found * rows.sign()).to(torch.int16).view(x.shape)

    def dequantize(self, codes: Int16[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
        """What codes stand for."""
        rows = self._rows(codes).long()
        return (self.levels().gather(1, rows.abs()) * rows.sign()).view(codes.shape)

    def fake_quantize(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Quantized and back in one, in the dtype of ``x``. Simulation: nothing gets faster by it."""
        found: Tensor = self.dequantize(self.quantize(x)).to(x.dtype)
        return found

    def parts(self, codes: Int16[Tensor, "*shape"]) -> Int16[Tensor, "s *shape"]:
        """Whole numbers whose sum over pieces, each times its step, the codes stand for.

        A product with the weight is then one of integers a piece. (The paper counts 2 s - 1 of them, for it multiplies a
        breakpoint by the signs of the tails: 3, 5, 7. With p = L s1 these are part of the first.)
        """
        rows = codes.long()
        length = steps_a_piece(self.bits, self.signed)
        pieces = [
            (rows.abs() - length * at).clamp(0, length) * rows.sign() for at in range(self.steps.shape[1])
        ]
        return torch.stack(pieces).to(torch.int16)

    def _rows(self, x: Tensor) -> Tensor:
        """(c, n); one row where all share the steps."""
        if len(self.steps) == 1:
            return x.reshape(1, -1)
        if not x.ndim or x.shape[0] != len(self.steps):
            raise Refused(
                f"the grid has {len(self.steps)} channels; got a tensor of {tuple(x.shape)}. Make the grid of a tensor of this "
                "shape.",
                code="quantization-shape",
            )
        return x.reshape(len(x), math.prod(x.shape[1:]))


@dataclass(frozen=True, eq=False)
class Pwlq:
    """A weight in pieces: made by :func:`quantize_pwlq`.

    Args:
        grid: its levels.
        codes: of each weight, in the weight's shape.
        errors: mean squared error of each output's weights.
        uniform_errors: the same of a uniform grid that takes as many stored bits, its clip the one with the least error
            (by output or in all, as here).
        coarse_errors: the same of a uniform grid of ``bits`` bits from end to end, which is what papers compare with.
    """

    grid: PiecewiseGrid
    codes: Int16[Tensor, "c *rest"]
    errors: Float64[Tensor, " c"]
    uniform_errors: Float64[Tensor, " c"]
    coarse_errors: Float64[Tensor, " c"]

    @property
    def stored_bits(self) -> int:
        """Of the codes and what belongs to them: 32 a step, or 32 a scale and 8 a ratio."""
        beside = 32 * self.grid.steps.numel() if self.grid.ratios is None else 40 * len(self.grid.steps)
        return self.codes.numel() * self.grid.width + beside

    def dequantized(self) -> Float32[Tensor, "c *rest"]:
        """The weights that the codes stand for; in the int8 form exactly :meth:`integers` times :attr:`scales`."""
        return self.grid.dequantize(self.codes)

    @property
    def scales(self) -> Float32[Tensor, " c"]:
        """Of the int8 form, one an output."""
        _check_int8(self.grid)
        return self.grid.steps[:, 0].expand(len(self.codes)).contiguous()

    def integers(self) -> Int8[Tensor, "c *rest"]:
        """The weight of the int8 form, within -127 to 127.

        Raises:
            Refused: ``pwlq-form`` for the free form.
        """
        ratios = _check_int8(self.grid).view(-1, *[1] * (self.codes.ndim - 1))
        centre, tail = self.grid.parts(self.codes).to(torch.int32)
        found: Tensor = (centre + ratios * tail).to(torch.int8)
        return found

    def packed(self) -> UInt8[Tensor, "c m"]:
        """The codes in :attr:`PiecewiseGrid.width` bits each, every output from a byte of its own."""
        return pack_bits(self.codes.flatten(1), self.grid.width)


def _check_int8(grid: PiecewiseGrid) -> Int32[Tensor, " c"]:
    if grid.ratios is None:
        raise Refused(
            "this weight is in the free form, whose levels are no whole multiples of one scale. Make it with form='int8'.",
            code="pwlq-form",
        )
    return grid.ratios


def unpacked(
    stored: UInt8[Tensor, "c m"], grid: PiecewiseGrid, shape: torch.Size
) -> Int16[Tensor, "c *rest"]:
    """The codes that :meth:`Pwlq.packed` stored, of a weight of this shape.

    Raises:
        Refused: ``bits-shape`` for another number of bytes, ``pwlq-codes`` for codes that have no level.
    """
    rest = math.prod(shape[1:])
    if len(stored) != shape[0] or stored.shape[1] != bytes_of(rest, grid.width):
        raise Refused(
            f"a weight of {tuple(shape)} takes {shape[0]} rows of {bytes_of(rest, grid.width)} bytes; got "
            f"{tuple(stored.shape)}. Restore the file.",
            code="bits-shape",
        )
    codes = unpack_bits(stored, grid.width, rest).to(torch.int16).view(shape)
    top = grid.steps.shape[1] * steps_a_piece(grid.bits, grid.signed)
    if codes.numel() and int(codes.abs().max()) > top:
        raise Refused(
            f"codes lie in -{top} to {top}; got {int(codes.min())} to {int(codes.max())}. Restore the file.",
            code="pwlq-codes",
        )
    return codes


def bytes_in_pieces(inputs: int, bits: int) -> int:
    """Bytes of an output's weights as :func:`in_pieces` lays them out."""
    return 1 + bytes_of(inputs, bits + 1)


def in_pieces(integers: Int8[Tensor, "c n"], bits: int) -> UInt8[Tensor, "c m"]:
    """Integers of the int8 form in b + 1 bits each, behind a byte with their output's ratio.

    Nothing but the integers is needed: beyond L they are L + r j, so the greatest common divisor of what is beyond is a ratio
    that fits (a multiple of the one they were made with, with fewer steps).

    Raises:
        Refused: ``pwlq-levels`` for integers that lie on no such levels.
    """
    length = steps_a_piece(bits)
    size = integers.to(torch.int32).abs()
    beyond = (size - length).clamp(min=0)
    divisor = torch.from_numpy(np.gcd.reduce(beyond.numpy(), axis=1, initial=0).astype(np.int32))
    ratios = divisor.clamp(min=1)
    if integers.numel() and bool((beyond > length * ratios[:, None]).any()):
        raise Refused(
            f"integers in pieces of {bits} bits are 0 to {length}, and from there at most {length} steps of one width an "
            "output; these are not. Make them with quantize_pwlq(…, form='int8'), or use a plan without pieces.",
            code="pwlq-levels",
        )
    codes = (size.clamp(max=length) + beyond // ratios[:, None]) * integers.sign()
    return torch.cat([ratios.to(torch.uint8)[:, None], pack_bits(codes, bits + 1)], 1)


def from_pieces(stored: UInt8[Tensor, "c m"], bits: int, inputs: int) -> Int8[Tensor, "c n"]:
    """The inverse of :func:`in_pieces`.

    Raises:
        Refused: ``bits-shape`` for another number of bytes, ``pwlq-codes`` for codes or ratios that no save of ours writes.
    """
    length = steps_a_piece(bits)
    ratios = stored[:, :1].to(torch.int32)
    codes = unpack_bits(stored[:, 1:].contiguous(), bits + 1, inputs).to(torch.int32)
    size = codes.abs()
    whole = size.clamp(max=length) + (size - length).clamp(min=0) * ratios
    if stored.numel() and (int(ratios.min()) < 1 or (inputs and int(size.max()) > 2 * length)):
        raise Refused(
            f"codes in pieces of {bits} bits lie in -{2 * length} to {2 * length}, and ratios are above 0; this file has "
            "others. Restore the folder from where it was saved.",
            code="pwlq-codes",
        )
    if inputs and len(stored) and int(whole.max()) > INT8:
        raise Refused(
            f"a weight in pieces reaches {int(whole.max())}, beyond 127. Restore the folder from where it was saved.",
            code="pwlq-codes",
        )
    return (whole * codes.sign()).to(torch.int8)


def largest_ratio(bits: int) -> int:
    """The largest r of the int8 form: L (1 + r) <= 127, and p / m not below 0.05."""
    return min(INT8 // steps_a_piece(bits) - 1, RATIOS)


def counts(pieces: int, length: int) -> Float64[Tensor, "j s"]:
    """How many steps of each piece every level takes."""
    levels = torch.arange(pieces * length + 1, dtype=torch.float64)
    return torch.stack([(levels - at * length).clamp(0, length) for at in range(pieces)], 1)


def quantize_pwlq(
    weight: Float[Tensor, "c *rest"],
    bits: int = 4,
    *,
    breakpoint: str = "search",
    breakpoints: int = 1,
    per: Literal["channel", "tensor"] = "channel",
    form: Form = "free",
) -> Pwlq:
    """A weight in pieces.

    Args:
        weight: of a linear layer or a convolution, outputs first; fold BatchNorm before (``quantization.fold``).
        bits: b, 2 to 8; b + 1 are stored of one breakpoint.
        breakpoint: one of :data:`BREAKPOINTS`.
        breakpoints: 1, 2 or 3 a side; the last two are for the free form.
        per: one set of levels for each output, or one in all.
        form: ``free`` steps, or the ``int8`` form, where the tail's step is a whole multiple of the centre's.

    Channels that are all zeros, or hold one magnitude beside zero, are exact.

    Raises:
        Refused: ``non-finite``.
        Usage: ``pwlq-settings`` for what does not go together, by name.
    """
    _check(bits, breakpoint, breakpoints, per, form)
    if not bool(torch.isfinite(weight).all()):
        raise Refused(
            "a weight to quantize holds NaN or infinity. Look for NaN in the weights.", code="non-finite"
        )
    own = weight.detach().float()
    rows = own.flatten(1) if per == "channel" else own.reshape(1, -1)
    grid = _grid_of(rows, bits, breakpoint, breakpoints, form)
    codes = grid.quantize(own)
    errors = _mean_square(grid.dequantize(codes) - own)
    # a uniform grid of all the stored bits, and of the bits of a piece
    fine, coarse = uniform(own, grid.width, True, per), uniform(own, bits, False, per)
    return Pwlq(grid, codes, errors, _mean_square(fine - own), _mean_square(coarse - own))


def _check_bits(bits: int) -> None:
    if bits not in range(2, 9):
        raise Usage(
            f"bits lies in 2 to 8; got {bits!r}. One bit leaves no step for a piece.", code="pwlq-settings"
        )


def _check(bits: int, breakpoint: str, breakpoints: int, per: str, form: str) -> None:
    _check_bits(bits)
    for name, value, choices in (
        ("breakpoint", breakpoint, BREAKPOINTS),
        ("breakpoints", breakpoints, (1, 2, 3)),
        ("per", per, ("channel", "tensor")),
        ("form", form, ("free", "int8")),
    ):
        if value not in choices:
            raise Usage(
                f"{name} is one of {', '.join(map(str, choices))}; got {value!r}.", code="pwlq-settings"
            )
    if form == "int8" and breakpoints != 1:
        raise Usage(
            f"the int8 form has one breakpoint; got {breakpoints}. Take form='free', or breakpoints=1.",
            code="pwlq-settings",
        )
    if form == "int8" and largest_ratio(bits) < 1:
        raise Usage(
            f"the int8 form of {bits} bits would reach {2 * steps_a_piece(bits)}, beyond 127. Take 2 to 7 bits.",
            code="pwlq-settings",
        )
    if breakpoint == "exact" and breakpoints != 1:
        raise Usage(
            f"exact is for one breakpoint; got {breakpoints}. Take breakpoint='search'.", code="pwlq-settings"
        )


def _mean_square(x: Tensor) -> Tensor:
    return x.double().flatten(1).square().mean(1) if x.numel() else torch.zeros(len(x), dtype=torch.float64)


def _grid_of(rows: Tensor, bits: int, breakpoint: str, breakpoints: int, form: Form) -> PiecewiseGrid:
    """The grid of rows (c, n): those that one step renders exactly apart, the others by the method."""
    length, pieces = steps_a_piece(bits), breakpoints + 1
    steps = torch.ones(len(rows), pieces, dtype=torch.float64)
    ratios = torch.ones(len(rows), dtype=torch.int32)
    size = rows.abs()
    largest = size.amax(1) if rows.shape[1] else size.sum(1)
    plain = ((size == 0) | (size == largest[:, None])).all(1) | (largest < SMALLEST)
    steps[plain] = torch.where(largest < SMALLEST, 1.0, largest.double())[plain][:, None]
    rest = (~plain).nonzero().squeeze(1)
    chunk = max(1, 2**20 // max(1, rows.shape[1]))
    for part in torch.split(rest, chunk) if len(rest) else ():
        ordered = Ordered(size[part])
        spread = rows[part].double().std(1) + 1e-12  # unbiased, as the released code has it
        if form == "int8":
            found, r = _whole(ordered, size[part], spread, length, bits, breakpoint)
            steps[part], ratios[part] = found, r
        else:
            steps[part] = _free(ordered, size[part], spread, length, pieces, breakpoint)
    if form == "int8":
        first = steps[:, :1].float()
        return PiecewiseGrid(torch.cat([first, first * ratios[:, None]], 1), bits, ratios)
    return PiecewiseGrid(steps.float().clamp(min=2.0**-126), bits)


# ---- Where pieces end ------------------------------------------------------------------------------------------------


def _law(breakpoint: str) -> Law | None:
    return "gaussian" if breakpoint == "gaussian" else "laplace" if breakpoint == "laplace" else None


def _modelled(ordered: Ordered, spread: Tensor, law: Law, breakpoints: int) -> Tensor:
    """Breakpoints (c, p) by the law, for ranges that end at the largest number."""
    largest = ordered.largest
    reach = largest / spread
    if breakpoints > 1:
        return (
            optimum(reach.clamp(min=FEWEST), law, breakpoints) * (largest / reach.clamp(min=FEWEST))[:, None]
        )
    p = torch.where(reach > MOST, optimum(reach, law)[:, 0], closed_form(reach, law)) / reach
    p = torch.where(reach < FEWEST, FARTHEST, p.clamp(NEAREST, FARTHEST))
    return (p * largest)[:, None]


def _steps(breakpoints: Tensor, reach: Tensor, length: int) -> Tensor:
    return _edges(breakpoints, reach).diff(dim=1) / length


def _free(
    ordered: Ordered, size: Tensor, spread: Tensor, length: int, pieces: int, breakpoint: str
) -> Tensor:
    """Steps (c, s) of the free form."""
    largest, table = ordered.largest, counts(pieces, length)[None]
    law = _law(breakpoint)
    if law is not None:
        return _steps(_modelled(ordered, spread, law, pieces - 1), largest, length)
    at_range = _staged(ordered, spread, length, pieces)
    if breakpoint == "grid":
        return at_range
    starts = [at_range]
    if pieces == 2:
        starts += _joint(ordered, length)
    else:  # a piece in two halves has all levels that it had: never worse than with a breakpoint less
        fewer = _free(ordered, size, spread, length, pieces - 1, breakpoint)
        for at in range(pieces - 1):
            half = fewer[:, at : at + 1] / 2
            starts.append(torch.cat([fewer[:, :at], half, half, fewer[:, at + 1 :]], 1))
    if breakpoint == "exact":
        starts += _exact_joint(size, length)
    return _best(ordered, table, starts)


def _best(ordered: Ordered, table: Tensor, starts: list[Tensor]) -> Tensor:
    """The least error of all starts, each polished first."""
    found = [ordered.polished(table, start) for start in starts]
    errors = torch.stack([error for _, error in found])  # (k, c)
    return torch.stack([steps for steps, _ in found])[errors.argmin(0), torch.arange(errors.shape[1])]


def _staged(ordered: Ordered, spread: Tensor, length: int, pieces: int) -> Tensor:
    """Steps by three finer and finer searches of the true error at the full range, each breakpoint in turn.

    The closed forms and equal pieces are candidates, so it is never worse than these.
    """
    largest, table = ordered.largest, counts(pieces, length)
    even = torch.arange(1, pieces, dtype=torch.float64) / pieces * largest[:, None]
    starts = [even, *(_modelled(ordered, spread, law, pieces - 1) for law in _LAWS)]
    steps = torch.stack([_steps(start, largest, length) for start in starts], 1)  # (c, k, s)
    error = ordered.error(steps @ table.T)
    best = error.argmin(1)
    p = torch.stack(starts, 1)[torch.arange(len(best)), best]  # (c, p)
    least = error.gather(1, best[:, None])[:, 0]
    for _ in range(1 if pieces == 2 else 3):
        for at in range(pieces - 1):
            p, least = _along(ordered, p, least, at, length, table)
    return _steps(p, largest, length)


def _along(
    ordered: Ordered, p: Tensor, least: Tensor, at: int, length: int, table: Tensor
) -> tuple[Tensor, Tensor]:
    """One breakpoint moved to where the true error is least, the others where they are."""
    largest = ordered.largest
    edges = _edges(p, largest) / largest[:, None]
    low, high = edges[:, at, None], edges[:, at + 2, None]
    centre = torch.full_like(low, 0.5) if p.shape[1] == 1 else edges[:, at + 1, None]
    for step in STAGES:
        tried = centre + step * torch.arange(-10, 11, dtype=torch.float64)
        if step == STAGES[0]:
            tried = torch.cat([tried, edges[:, at + 1, None]], 1)  # where it was
        tried = tried.clamp(low + 1e-3 * (high - low), high - 1e-3 * (high - low))
        all_p = p[:, None].expand(-1, tried.shape[1], -1).clone()  # (c, k, p)
        all_p[..., at] = tried * largest[:, None]
        zero, end = torch.zeros_like(tried)[..., None], (largest[:, None] + 0 * tried)[..., None]
        steps = torch.cat([zero, all_p, end], 2).diff(dim=2) / length
        error = ordered.error(steps @ table.T)
        best = error.argmin(1, keepdim=True)
        centre, found = tried.gather(1, best), error.gather(1, best)[:, 0]
        better = found < least
        moved = all_p[torch.arange(len(p)), best[:, 0]]
        p, least = torch.where(better[:, None], moved, p), torch.where(better, found, least)
    return p, least


CLIPS = 0.88 ** torch.arange(0, 24, dtype=torch.float64)
"""Ends of the range that are tried, as shares of the largest number: down to a twentieth, in steps of 12 %. Chosen by us."""

FINE_CLIPS = 0.94 ** torch.arange(0, 48, dtype=torch.float64)
"""The same for levels that are whole multiples of one scale: with it alone to move, ends matter more. Chosen by us."""

HIGH_CLIPS = torch.linspace(0.5, 1, 101, dtype=torch.float64)
"""And for uniform grids of six bits and more, whose best ends are near the largest number. Chosen by us."""

SPLITS = torch.tensor([0.05, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3, 0.35, 0.42, 0.5, 0.6], dtype=torch.float64)
"""p / m that are tried with each of them. Chosen by us."""

STARTS = 4
"""Of the best candidates, with different p / m, are polished."""


def _joint(ordered: Ordered, length: int) -> list[Tensor]:
    """Steps to polish from: the best range for each p / m, of the best p / m."""
    table, m = counts(2, length), ordered.largest[:, None, None] * CLIPS[:, None]  # (c, clips, 1)
    p = m * SPLITS  # (c, clips, splits)
    steps = torch.stack([p, m - p], 3).flatten(1, 2) / length  # (c, k, 2)
    error = ordered.error(steps @ table.T).view(p.shape)
    clip = error.argmin(1)  # (c, splits)
    order = error.amin(1).argsort(1)[:, :STARTS]
    rows = torch.arange(len(p))
    steps = steps.view(*p.shape, 2)
    return [steps[rows, clip[rows, split], split] for split in order.T]


def _exact_joint(size: Tensor, length: int) -> list[Tensor]:
    """Steps of the best ratio s2 / s1 of a fine row of them, each with the best scale there is."""
    best, steps = None, None
    for ratio in sorted({*(1 / SPLITS - 1).tolist(), *map(float, range(1, RATIOS + 1))}):
        levels = counts(2, length) @ torch.tensor([1.0, ratio], dtype=torch.float64)
        scale, error = exact_scale(size, levels)
        found = torch.stack([scale, scale * ratio], 1)
        if best is None or steps is None:
            best, steps = error, found
            continue
        better = error < best
        best, steps = torch.where(better, error, best), torch.where(better[:, None], found, steps)
    return [] if steps is None else [steps]


def _whole(
    ordered: Ordered, size: Tensor, spread: Tensor, length: int, bits: int, breakpoint: str
) -> tuple[Tensor, Tensor]:
    """Steps (c, 2) and ratios (c,) of the int8 form."""
    largest, limit = ordered.largest, largest_ratio(bits)
    ratios = torch.arange(1, limit + 1, dtype=torch.float64)
    tables = counts(2, length) @ torch.stack([torch.ones_like(ratios), ratios])  # (j, r)
    law = _law(breakpoint)
    if law is not None:
        p = _modelled(ordered, spread, law, 1)[:, 0]
        r = (largest / p - 1).round().clamp(1, limit)
        return _whole_steps(largest / (length * (1 + r)), r)
    if breakpoint == "exact":
        pairs = [exact_scale(size, levels) for levels in tables.T]
        errors, scales = torch.stack([e for _, e in pairs], 1), torch.stack([s for s, _ in pairs], 1)
    else:
        clips = FINE_CLIPS[:1] if breakpoint == "grid" else FINE_CLIPS
        unit = largest[:, None, None] * clips[:, None] / (length * (1 + ratios))  # (c, clips, r)
        error = ordered.error((unit[..., None] * tables.T).flatten(1, 2)).view(unit.shape)
        errors, clip = error.min(1)
        scales = unit.gather(1, clip[:, None])[:, 0]
        if breakpoint == "search":
            for at in errors.argsort(1)[:, :STARTS].T[..., None]:  # (c, 1)
                table = tables.T[at[:, 0], :, None]  # (c, j, 1)
                scale, error = ordered.polished(table, scales.gather(1, at))
                scales, errors = scales.scatter(1, at, scale), errors.scatter(1, at, error[:, None])
    best = errors.argmin(1, keepdim=True)
    return _whole_steps(scales.gather(1, best)[:, 0], ratios[best[:, 0]])


def _whole_steps(scale: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    return torch.stack([scale, scale * ratio], 1), ratio.to(torch.int32)


# ---- What it is compared with ----------------------------------------------------------------------------------------


def uniform(
    weight: Float[Tensor, "c *rest"],
    bits: int,
    clip: bool = True,
    per: Literal["channel", "tensor"] = "channel",
) -> Float32[Tensor, "c *rest"]:
    """A weight on a uniform symmetric grid of 2^bits - 1 levels, by output or in all, and back.

    Args:
        weight: outputs first.
        bits: from 2 on; nine and more, too, as eight bits in pieces store.
        clip: ends the grid where the squared error is least; otherwise at the largest weight.
        per: as in :func:`quantize_pwlq`.
    """
    own = weight.detach().float()
    rows = own.flatten(1) if per == "channel" else own.reshape(1, -1)
    top = (1 << bits - 1) - 1
    if not rows.numel():
        return own.clone()
    found = []
    for part in torch.split(rows, max(1, 2**20 // rows.shape[1])):
        size = part.double().abs()
        scale = size.amax(1) / top
        if clip:
            ordered, table = Ordered(size), torch.arange(top + 1, dtype=torch.float64)
            clips = FINE_CLIPS if bits < 6 else torch.cat([FINE_CLIPS, HIGH_CLIPS])
            unit = scale[:, None] * clips
            best = ordered.error(unit[..., None] * table).argsort(1)[:, :2]
            starts = [unit.gather(1, one[:, None]) for one in best.T]
            scale = _best(ordered, table[None, :, None], starts)[:, 0]
        scale = torch.where(scale * top < SMALLEST, 1.0, scale)[:, None]
        found.append(((part.double() / scale).round().clamp(-top, top) * scale).float())
    return torch.cat(found).view(own.shape)


def released(
    weight: Float[Tensor, "c *rest"],
    bits: int = 4,
    breakpoint: Law = "gaussian",
    per: Literal["channel", "tensor"] = "channel",
) -> Float32[Tensor, "c *rest"]:
    """Weights as the released code rounds them, for comparison alone: the centre in two's complement.

    Its step is 2p / (2^b - 1) and its codes are -2^(b-1) to 2^(b-1) - 1: finer than the paper's, but the largest level, 0.933 p
    at four bits, lies inside the centre, and the least, -1.067 p, outside, where nothing but p itself is rounded to. The tails
    are the paper's.
    """
    own = weight.detach().float()
    rows = own.flatten(1).double() if per == "channel" else own.reshape(1, -1).double()
    largest = rows.abs().amax(1)
    p = _modelled(Ordered(rows.abs()), rows.std(1) + 1e-12, breakpoint, 1)
    half, length = 1 << bits - 1, steps_a_piece(bits)
    step = (2 * p / (2 * half - 1)).clamp(min=1e-300)
    centre = (rows / step).round().clamp(-half, half - 1) * step
    wide = ((largest[:, None] - p) / length).clamp(min=1e-300)
    tail = (p + ((rows.abs() - p) / wide).round() * wide) * rows.sign()
    return torch.where(rows.abs() <= p, centre, tail).float().view(own.shape)


def released_correction(
    weight: Float[Tensor, "c *rest"], quantized: Float[Tensor, "c *rest"]
) -> Float32[Tensor, "c *rest"]:
    """The released code's correction, for comparison alone: each output's mean and spread are made the exact weights' again.

    The weights leave their levels by it: ``(q + mean(w) - mean(q)) std(w) / (std(q) + 1e-12)``. The bias is what corrects here
    (:func:`~sparsam.quantization.uniform.corrected_bias`).
    """
    w, q = weight.double().flatten(1), quantized.double().flatten(1)
    moved = q + w.mean(1, keepdim=True) - q.mean(1, keepdim=True)
    found = moved * (w.std(1, keepdim=True) / (q.std(1, keepdim=True) + 1e-12))
    return found.float().view(weight.shape)


# ---- Inputs ----------------------------------------------------------------------------------------------------------


class Outermost:
    """The ten least and the ten largest numbers of all that went by, in memory that does not grow.

    The paper's range of a layer's inputs lies between their medians, after 512 images.
    """

    def __init__(self, kept: int = 10) -> None:
        self.kept = kept
        self.low = torch.zeros(0)
        self.high = torch.zeros(0)

    def add(self, x: Float[Tensor, "s *rest"]) -> None:
        """Take in some samples."""
        flat = x.detach().float().flatten()
        both = (torch.cat([self.low, flat]), torch.cat([self.high, flat]))
        kept = min(self.kept, both[0].numel())
        self.low, self.high = both[0].topk(kept, largest=False).values, both[1].topk(kept).values

    def bounds(self) -> tuple[Float32[Tensor, ""], Float32[Tensor, ""]]:
        """The two medians (means of the middle two of an even number).

        Raises:
            Refused: ``calibration-empty`` where nothing went by.
        """
        if not self.low.numel():
            raise Refused("no numbers went by. Calibrate with at least one sample.", code="calibration-empty")
        return self.low.quantile(0.5), self.high.quantile(0.5)


def input_grid(
    sample: Float[Tensor, "*shape"],
    bits: int = 4,
    reach: float | None = None,
    breakpoint: Law = "gaussian",
) -> PiecewiseGrid:
    """One grid in pieces for all inputs of a product.

    Args:
        sample: of the inputs; without negative ones the grid has none.
        bits: b; b + 1 a number.
        reach: where the range ends; at the largest magnitude of the sample if None.
        breakpoint: the closed form; of inputs without negative ones the law is that of their magnitudes.

    Raises:
        Refused: ``non-finite``, ``calibration-empty``.
    """
    x = sample.detach().double().flatten()
    if not x.numel():
        raise Refused("no numbers went by. Calibrate with at least one sample.", code="calibration-empty")
    if not bool(x.isfinite().all()):
        raise Refused("inputs hold NaN or infinity. Look for NaN in the weights.", code="non-finite")
    signed = bool((x < 0).any())
    end = float(x.abs().max()) if reach is None else reach
    spread = x.std() if signed else x.square().mean().sqrt()  # of the mirrored numbers
    length = steps_a_piece(bits, signed)
    if end < SMALLEST:
        return PiecewiseGrid(torch.ones(1, 2), bits, signed=signed)
    whole = torch.tensor([[end]], dtype=torch.float64)
    p = _modelled(Ordered(whole), (spread + 1e-12)[None], breakpoint, 1)
    return PiecewiseGrid(_steps(p, whole[:, 0], length).float(), bits, signed=signed)
