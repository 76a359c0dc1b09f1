"""Levels that are not evenly spaced: codebooks, their scales, and the numbers nearest to them. Pure functions of tensors.

    x^ = s c[k]        k the code of the level nearest to x / s, s shared by a tensor, a channel or a group

- Powers of two: 0 and ±2^e. A product with one is a shift. With 4 bits and fewer all levels are integers up to 64.
- Additive powers of two: Y. Li, X. Dong, W. Wang, *Additive powers-of-two quantization*, ICLR 2020, arXiv:1909.13144 (its
  levels; the clip is learned, ours is searched, and its weight normalisation is left out).
- NormalFloat: T. Dettmers, A. Pagnoni, A. Holtzman, L. Zettlemoyer, *QLoRA*, NeurIPS 2023, arXiv:2305.14314: quantiles of the
  normal distribution, an exact zero, one more level above it than below; worked out from that definition, not copied.
- Lloyd-Max: J. Max, *Quantizing for minimum distortion*, 1960; S. Lloyd, *Least squares quantization in PCM*, 1982. A level is
  the mean of what falls to it, a threshold the middle of two levels; of a distribution, or of the numbers of each row.

No runtime here multiplies codes. Levels that are integers (:func:`as_integers`) go on grids of int8 instead; all others are a
simulation. Checked in ``tests/quantization/test_codebook.py``.

Letters: k levels, r rows that share a scale, n their numbers; c channels, g groups.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64, Int8, UInt8
from torch import Tensor

from sparsam.errors import Refused, Usage
from sparsam.quantization.affine import SMALLEST, Form, gathered, sharing, spread
from sparsam.quantization.calibrate import MSE, MinMax
from sparsam.quantization.uniform import IN_CACHE

CLIPS = MSE(candidates=40)
"""Clips that are tried for a scale: levels far apart at the top make the error a smooth function of it. Chosen by us."""

ADDITIVE = (3, 4, 5, 7)
"""Bits of additive powers of two."""

ROUNDS = 60
"""Rounds of Lloyd's algorithm on numbers at hand; each lowers the error, and what is left to gain is below 1 %. Ours."""


# ---- Levels ----------------------------------------------------------------------------------------------------------


def powers_of_two(bits: int) -> Float32[Tensor, " k"]:
    """0 and ±1, ±2, ±4, …: 2^bits - 1 levels in rising order."""
    _check_bits(bits)
    return _with_negatives([2.0**e for e in range(2 ** (bits - 1) - 1)])


def additive_powers(bits: int) -> Float32[Tensor, " k"]:
    """Sums of powers of two, one of each of n sets, and a sign: 2^bits - 1 levels, as multiples of the least.

    bits - 1 = 2 n gives the sets {0, 2^-i, 2^-(i+n), 2^-(i+2n)}, i = 0 … n-1 (two bits each). Of the odd ones
    there is bits = 4, with the sets that the authors' code has for it, {0, 1, 1/2, 1/8} and {0, 1/4}.

    Raises:
        Usage: ``quantization-form`` for other bits than 3, 4, 5 and 7.
    """
    if bits not in ADDITIVE:
        raise Usage(
            f"additive powers of two are made of two bits a power and a sign, so of 3, 5 or 7 bits, or of 4; got {bits!r}.",
            code="quantization-form",
        )
    n = (bits - 1) // 2
    sets = [[0.0, *(2.0 ** -(i + n * j) for j in range(3))] for i in range(n)]
    if bits == 4:
        sets = [[0.0, 1.0, 0.5, 0.125], [0.0, 0.25]]
    sums = {0.0}
    for one in sets:
        sums = {a + b for a in sums for b in one}
    least = min(value for value in sums if value)
    return _with_negatives(sorted(value / least for value in sums if value))


def normal_float(bits: int) -> Float32[Tensor, " k"]:
    """NormalFloat: 2^bits levels from -1 to 1, zero among them.

    Above zero lie the normal quantiles at 2^(bits-1) probabilities evenly spaced from 1/2 (zero's) to p, below it those at
    2^(bits-1) - 1; p leaves out half a step at either end, averaged over the two spacings:
    1 - p = (1 / (2 (2^bits - 1)) + 1 / (2 · 2^bits)) / 2. All are divided by the largest.
    """
    _check_bits(bits)
    half = 2 ** (bits - 1)
    outer = (1 / (2 * (2 * half - 1)) + 1 / (4 * half)) / 2
    above, below = (
        torch.special.ndtri(torch.linspace(1 - outer, 0.5, count + 1, dtype=torch.float64)[:-1])
        for count in (half, half - 1)
    )
    levels = torch.cat([-below, above.new_zeros(1), above.flip(0)])
    return (levels / levels.max()).float()


def lloyd_max_normal(bits: int) -> tuple[Float64[Tensor, " k"], float]:
    """The 2^bits levels with the least squared error on N(0, 1), and that error.

    Levels c are the means m between their thresholds a and b, m = (φ(a) - φ(b)) / (Φ(b) - Φ(a)), and thresholds the middles
    of levels: c = m(c) by Newton's method, with ∂m/∂a = φ(a) (m - a) / p and ∂m/∂b = φ(b) (b - m) / p, p the mass between.
    At the fixed point the error is 1 - Σ p c².
    """
    _check_bits(bits)
    count = 2**bits
    # N(0, 3) has the density of levels that is best where there are many (Panter and Dite 1951)
    even = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    levels, mass = math.sqrt(3) * torch.special.ndtri(even), even
    infinite = even.new_tensor([math.inf])
    for _ in range(50):
        edges = torch.cat([-infinite, (levels[1:] + levels[:-1]) / 2, infinite])
        density = torch.exp(-edges.square() / 2) / math.sqrt(2 * math.pi)
        mass = torch.special.ndtr(edges).diff()
        means = -density.diff() / mass
        if float((means - levels).abs().max()) < 1e-13:
            break
        inner = edges[1:-1]
        lower = (
            density[1:-1] * (means[1:] - inner) / mass[1:] / 2
        )  # by the threshold below, which two levels share
        upper = density[1:-1] * (inner - means[:-1]) / mass[:-1] / 2
        slope = torch.diag(lower, -1) + torch.diag(upper, 1)
        slope += torch.diag(torch.nn.functional.pad(lower, (1, 0)) + torch.nn.functional.pad(upper, (0, 1)))
        levels = levels + torch.linalg.solve(torch.eye(count, dtype=torch.float64) - slope, means - levels)
    return levels, float(1 - (mass * levels.square()).sum())


def lloyd_max(
    rows: Float[Tensor, "r n"], bits: int, rounds: int = ROUNDS
) -> tuple[Float32[Tensor, "r k"], Float64[Tensor, " r"]]:
    """Levels of each row with little squared error on its numbers, in rising order, and that error, summed.

    Lloyd's algorithm, from those of the normal distribution with the row's mean and spread. A level to which nothing falls
    stays where it is. Every round lowers the error of every row or leaves it.
    """
    _check_bits(bits)
    _check_finite(rows)
    x = rows.detach().double().sort(1).values
    mean, spread_ = x.mean(1, keepdim=True), x.std(1, correction=0, keepdim=True)
    levels = mean + spread_ * lloyd_max_normal(bits)[0]  # (r, k)
    sums = torch.cat([x.new_zeros(len(x), 1), x.cumsum(1)], 1)
    for _ in range(rounds):
        ends = torch.searchsorted(x, (levels[:, 1:] + levels[:, :-1]) / 2)
        ends = torch.cat([torch.zeros_like(ends[:, :1]), ends, torch.full_like(ends[:, :1], x.shape[1])], 1)
        count = ends.diff()
        mass = sums.gather(1, ends).diff()
        new = torch.where(count > 0, mass / count.clamp(min=1), levels)
        if torch.equal(new, levels):
            break
        levels = new.sort(1).values
    found = levels.float()
    near = found.double().gather(1, _codes(x, found).long())
    return found, (x - near).square().sum(1)


# ---- Numbers on levels -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Codes:
    """A tensor in codes: x^ = scale · levels[code].

    ``levels`` are (k,) for all, or (c, k), each channel's own; ``scale`` is shaped as a grid's, ``form`` says what shares one.
    """

    codes: UInt8[Tensor, "*shape"]
    levels: Float32[Tensor, "*c k"]
    scale: Float32[Tensor, "*grid"]
    form: Form

    def values(self) -> Float32[Tensor, "*shape"]:
        """The numbers that the codes stand for."""
        if self.levels.ndim == 1:
            near = self.levels[self.codes.long()]
        else:
            axis = self.form.axis or 0
            rows = self.codes.movedim(axis, 0)
            near = self.levels.gather(1, rows.flatten(1).long()).view(rows.shape).movedim(0, axis)
        return near * spread(self.scale, self.form, self.codes)

    @property
    def packed_bytes(self) -> int:
        """What it takes packed: codes of ``form.bits``, scales and levels in float32."""
        shared = (
            self.scale.numel() if self.levels.ndim == 1 else 0
        )  # levels of each channel have its scale in them
        return -(-self.codes.numel() * self.form.bits // 8) + 4 * (shared + self.levels.numel())


def to_levels(
    x: Float[Tensor, "*shape"],
    levels: Float[Tensor, " k"],
    form: Form,
    method: MinMax | MSE = MinMax(),  # noqa: B008  frozen
    thresholds: Float[Tensor, " k1"] | None = None,
) -> Codes:
    """A tensor on levels that rise, with a scale for each of what shares one.

    Args:
        x: the numbers.
        levels: of the codes, zero among them; 2^bits at most.
        form: what shares a scale (``axis``, ``group``), and the bits.
        method: ``MinMax`` puts the largest absolute number on the outermost level; ``MSE`` looks for the scale whose levels
            are nearest.
        thresholds: between each two levels; their middles if not given.

    Raises:
        Refused: ``non-finite``. Usage: ``quantization-form`` for more levels than codes.
    """
    _check_finite(x)
    levels = levels.float()
    if len(levels) > 2**form.bits or not bool((levels.diff() > 0).all()) or not bool((levels == 0).any()):
        raise Usage(
            f"levels rise, have zero among them and are at most 2^{form.bits}; got {len(levels)}: "
            f"{levels[:4].tolist()} ….",
            code="quantization-form",
        )
    middles = (levels[1:] + levels[:-1]) / 2 if thresholds is None else thresholds.float()
    top, scales = float(levels.abs().max()), []
    for piece in sharing(x.detach().float(), form):  # (c, g, n)
        rows = piece.flatten(0, 1)
        reach = rows.abs().amax(1) if rows.shape[1] else rows.new_zeros(len(rows))
        if isinstance(method, MSE) and rows.numel():
            parts = torch.split(rows, IN_CACHE // rows.shape[1] + 1)
            reach = torch.cat([_searched(part, levels / top, middles / top, method) for part in parts])
        scales.append(torch.where(reach < SMALLEST, 1.0, reach / top).view(piece.shape[:2]))
    scale = gathered(scales, form)
    y = x.detach().float() / spread(scale, form, x)
    return Codes(torch.bucketize(y.contiguous(), middles).to(torch.uint8), levels, scale, form)


def _searched(rows: Tensor, levels: Tensor, middles: Tensor, method: MSE) -> Tensor:
    """The reach of each row's levels with the least error; levels are those of a reach of 1."""
    form = Form()

    def error(lows: Tensor, highs: Tensor) -> Tensor:
        found = []
        for reach in torch.where(highs < SMALLEST, 1.0, highs)[..., None]:
            near = levels[torch.bucketize((rows / reach).contiguous(), middles)].mul_(reach)
            found.append(near.sub_(rows).abs_().pow_(method.power).sum(1, dtype=torch.float64))
        return torch.stack(found)

    reach = rows.abs().amax(1)
    return method.search(error, -reach, reach, form)[1]


def to_own_levels(x: Float[Tensor, "o i"], bits: int) -> Codes:
    """A weight on Lloyd-Max levels of each output's own."""
    levels, _ = lloyd_max(x, bits)
    codes = _codes(x.detach().float(), levels)
    return Codes(codes, levels, torch.ones(len(x), device=x.device), Form(bits=bits, axis=0))


def log_thresholds(levels: Float[Tensor, " k"]) -> Float32[Tensor, " k1"]:
    """Where the rounded logarithm changes: q = sgn(x) 2^rint(log2|x|), for powers of two; zero below the least less half.

    Rounding the logarithm is what shifts in hardware do; the middles, which are the default, have the lesser squared error.
    """
    a, b = levels[:-1].double(), levels[1:].double()
    edge = torch.sqrt((a * b).abs()) * torch.sign(a + b)
    beside = (a == 0) | (b == 0)
    return torch.where(beside, (a + b) / math.sqrt(2), edge).float()


def as_integers(codes: Codes) -> tuple[Int8[Tensor, "*shape"], Float32[Tensor, "*grid"], int] | None:
    """The same numbers as integers times scales, and the bits that hold the integers; None where levels are no integers.

    Only one set of levels with one scale a channel has this form: that is what an integer runtime multiplies.
    """
    levels, form = codes.levels, codes.form
    whole = bool((levels == levels.round()).all()) and float(levels.abs().max()) <= 127
    if levels.ndim != 1 or form.axis is None or form.group is not None or not whole:
        return None
    bits = int(levels.abs().max()).bit_length() + 1
    return levels.to(torch.int8)[codes.codes.long()], codes.scale, max(2, bits)


def _codes(x: Tensor, levels: Tensor) -> Tensor:
    """The nearest of each row's own levels."""
    middles = (levels[:, 1:] + levels[:, :-1]).to(x.dtype) / 2
    return torch.searchsorted(middles.contiguous(), x.contiguous()).to(torch.uint8)


def _with_negatives(positive: list[float]) -> Tensor:
    return torch.tensor([-value for value in reversed(positive)] + [0.0] + positive)


def _check_bits(bits: int) -> None:
    if bits not in range(2, 9):
        raise Usage(f"bits lies in 2 to 8; got {bits!r}.", code="quantization-form")


def _check_finite(x: Tensor) -> None:
    if not bool(torch.isfinite(x).all()):
        raise Refused(
            "a tensor to quantize holds NaN or infinity. Look for NaN in the weights or the inputs.",
            code="non-finite",
        )
