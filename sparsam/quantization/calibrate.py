"""Ranges of numbers that go by in batches: what is remembered of them, and where a grid over them had better end.

Whatever is remembered takes memory that does not grow with the numbers seen, and does not depend on how they came in batches:
minima, maxima, counts and fixed-point sums are exact, and the moving average moves sample by sample. Two of the same kind
merge into what one would have remembered of both (all but the moving average, which has an order).

    observer = method.start(form)                # MinMax(), MovingAverage(), Percentile(), MSE(), KL()
    for x in batches:
        observer.add(x)                          # x (samples, ...)
    grid = grid_between(*method.bounds(observer, form), form)

:func:`calibrate` does these four lines. The rules, with their sources: running averages (Jacob et al. 2018,
arXiv:1712.05877), percentiles and the KL divergence on a histogram (Migacz 2017, the talk on TensorRT; Wu et al. 2020,
arXiv:2004.09602), the least squared error over a hundred clips (in many papers; see :class:`MSE`), clips in closed form for a
distribution (Banner, Nahshan and Soudry 2019, arXiv:1810.05723).

Letters: s samples, c channels (1 where all share a scale), m bins.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from sparsam.errors import Refused, Usage
from sparsam.quantization.affine import Form, Grid, grid_between, steps_of

BINS = 4096
"""Bins of a histogram, half of them below zero. Of the 2048 on the side that reaches further, 1024 to 2048 are in use."""

NOTHING = -10_000
"""The exponent of a channel that has seen nothing but zeros."""

FRACTION = 2**24
"""Sums are kept in steps of 1 / FRACTION."""

Bounds = tuple[Float32[Tensor, "*grid"], Float32[Tensor, "*grid"]]


class Observer(Protocol):
    """What a range method remembers of the batches."""

    def add(self, x: Float[Tensor, "s *rest"]) -> None:
        """Take in some samples, the first axis."""
        ...


@runtime_checkable
class RangeMethod(Protocol):
    """Where a grid ends.

    Its laws, which one test checks for every member: the bounds are the same for every batch size, lie within the least and
    the largest number seen, and are refused while nothing was seen.
    """

    def start(self, form: Form) -> Any:
        """An observer that has seen nothing."""
        ...

    def bounds(self, seen: Any, form: Form) -> Bounds:
        """The range that a grid of this form should cover, in the shape of its scales."""
        ...


def calibrate(method: RangeMethod, batches: Iterable[Tensor], form: Form) -> Grid:
    """The grid of a form after a look at all batches. Raises :class:`~sparsam.errors.Refused`, also where there are none."""
    observer = method.start(form)
    for x in batches:
        observer.add(x)
    return grid_between(*method.bounds(observer, form), form)


class Extremes:
    """The least and the largest number, in all or by channel (``axis``)."""

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis
        self.low: Float32[Tensor, " c"] | None = None
        self.high: Float32[Tensor, " c"] | None = None

    def add(self, x: Float[Tensor, "s *rest"]) -> None:
        rows = by_channel(x, self.axis)
        if rows.shape[1]:
            self._join(rows.amin(1), rows.amax(1))

    def merge(self, other: "Extremes") -> "Extremes":
        """What one observer would have remembered of both."""
        _check_same(self, other, "axis")
        both = Extremes(self.axis)
        for one in (self, other):
            if one.low is not None and one.high is not None:
                both._join(one.low, one.high)
        return both

    def bounds(self) -> Bounds:
        """Of all that was seen."""
        low, high = _seen(self.low), _seen(self.high)
        return (low[0], high[0]) if self.axis is None else (low, high)

    def largest(self) -> Float32[Tensor, "*grid"]:
        """The largest absolute value."""
        low, high = self.bounds()
        return torch.maximum(-low, high)

    def _join(self, low: Tensor, high: Tensor) -> None:
        if self.low is not None and self.high is not None:
            _check_channels(len(self.low), len(low))
            low, high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.low, self.high = low, high


class Averages:
    """The least and the largest number of a sample, averaged over samples in their order; the first one starts the average.

    ``momentum`` is what stays of the average at the next sample.
    """

    def __init__(self, momentum: float, axis: int | None = None) -> None:
        self.momentum = momentum
        self.axis = axis
        self.low: Float64[Tensor, " c"] | None = None
        self.high: Float64[Tensor, " c"] | None = None

    def add(self, x: Float[Tensor, "s *rest"], lengths: Int64[Tensor, " b"] | None = None) -> None:
        """Take in samples; with ``lengths``, x holds packed tokens and a sample is that many of them."""
        rows = by_channel(x, self.axis)
        if not rows.shape[1]:
            return
        rows = rows.view(len(rows), len(x), rows.shape[1] // len(x))  # (c, s, n)
        lows, highs = rows.amin(2).double(), rows.amax(2).double()  # (c, s)
        if self.low is not None:
            _check_channels(len(self.low), len(lows))
        sizes = [1] * len(x) if lengths is None else lengths[lengths > 0].tolist()
        for low, high in zip(torch.split(lows, sizes, 1), torch.split(highs, sizes, 1), strict=True):
            self.low = self._moved(self.low, low.amin(1))
            self.high = self._moved(self.high, high.amax(1))

    def _moved(self, old: Tensor | None, new: Tensor) -> Tensor:
        return new if old is None else self.momentum * old + (1 - self.momentum) * new

    def bounds(self) -> Bounds:
        """The averages."""
        low, high = _seen(self.low).float(), _seen(self.high).float()
        return (low[0], high[0]) if self.axis is None else (low, high)


class Histogram:
    """Counts of numbers in bins of equal width, in all or by channel, with the exact extremes and the number of zeros.

    The width is the least power of two with which half the bins reach beyond the largest absolute value. When a larger one
    comes, bins are joined in twos, fours, …: bin floor(x / w) becomes bin floor(floor(x / w) / 2), which is floor(x / 2w).
    So the counts are those of the final width whatever came first. Zeros are counted apart: every grid has them exactly.
    """

    def __init__(self, axis: int | None = None, bins: int = BINS) -> None:
        if bins < 4 or bins & (bins - 1):
            raise Usage(
                f"bins is a power of two from 4 on; got {bins!r}.",
                code="calibration-settings",
            )
        self.axis = axis
        self.bins = bins
        self.extremes = Extremes(axis)
        self.counts: Int64[Tensor, "c m"] = torch.zeros(0, bins, dtype=torch.int64)
        self.zeros: Int64[Tensor, " c"] = torch.zeros(0, dtype=torch.int64)
        self.exponent: Int64[Tensor, " c"] = torch.zeros(0, dtype=torch.int64)

    @property
    def half(self) -> int:
        """The bin that begins at zero."""
        return self.bins // 2

    def add(self, x: Float[Tensor, "s *rest"]) -> None:
        rows = by_channel(x, self.axis)
        if not rows.shape[1]:
            return
        self.extremes.add(x)
        rows = rows.double()
        # frexp: the largest is m 2^k with m in [1/2, 1), so it lies below 2^k = half the bins times the width
        largest = rows.abs().amax(1)
        exponent = torch.frexp(largest).exponent.long() - self.half.bit_length() + 1
        self._reach(torch.where(largest > 0, exponent, NOTHING))
        bin_of = torch.floor(rows / self.width()[:, None]).long() + self.half  # exact: a power of two
        bin_of += torch.arange(len(rows))[:, None] * self.bins
        live = rows != 0
        self.counts += torch.bincount(bin_of[live], minlength=self.counts.numel()).view_as(self.counts)
        self.zeros += (~live).sum(1)

    def merge(self, other: "Histogram") -> "Histogram":
        """What one histogram would have counted of both, exactly."""
        _check_same(self, other, "axis", "bins")
        both = Histogram(self.axis, self.bins)
        both.extremes = self.extremes.merge(other.extremes)
        for one in (self, other):
            if len(one.counts):
                both._reach(one.exponent)
        for one in (self, other):
            if len(one.counts):
                both.counts += _joined(one.counts, both.exponent - one.exponent)
                both.zeros += one.zeros
        return both

    def bounds(self) -> Bounds:
        """Of all that was seen."""
        return self.extremes.bounds()

    def width(self) -> Float64[Tensor, " c"]:
        """Of a bin, by channel."""
        exponents = torch.where(self.exponent == NOTHING, 0, self.exponent).tolist()
        return torch.tensor([math.ldexp(1.0, exponent) for exponent in exponents], dtype=torch.float64)

    def total(self) -> Int64[Tensor, " c"]:
        """How many numbers were seen, zeros included."""
        return self.counts.sum(1) + self.zeros

    def _reach(self, exponent: Tensor) -> None:
        """Join bins until their width is at least 2^exponent."""
        if not len(self.counts):
            c = len(exponent)
            self.counts = torch.zeros(c, self.bins, dtype=torch.int64)
            self.zeros = torch.zeros(c, dtype=torch.int64)
            self.exponent = exponent
            return
        _check_channels(len(self.counts), len(exponent))
        wider = torch.maximum(self.exponent, exponent)
        if bool((wider > self.exponent).any()):
            self.counts = _joined(self.counts, wider - self.exponent)
            self.exponent = wider


def _joined(counts: Tensor, doublings: Tensor) -> Tensor:
    """Counts in bins that are 2^doublings times as wide, about the same zero."""
    bins = counts.shape[1]
    place = torch.arange(bins) - bins // 2
    place = (place >> doublings.clamp(max=bins.bit_length())[:, None]) + bins // 2
    return torch.zeros_like(counts).scatter_add_(1, place, counts)


class Means:
    """The mean by channel, from sums in fixed point: exact whatever the batches, and mergeable.

    Each number is rounded to a multiple of 2^-24, which moves a mean by at most 2^-25.
    """

    def __init__(self, axis: int | None = -1) -> None:
        self.axis = axis
        self.sums: Int64[Tensor, " c"] | None = None
        self.count = 0
        self.largest = 0.0

    def add(self, x: Float[Tensor, "s *rest"]) -> None:
        rows = by_channel(x, self.axis).double()
        if not rows.shape[1]:
            return
        self._join((rows * FRACTION).round(), rows.shape[1], float(rows.abs().max()))

    def merge(self, other: "Means") -> "Means":
        """What one would have summed of both."""
        _check_same(self, other, "axis")
        both = Means(self.axis)
        for one in (self, other):
            if one.sums is not None:
                both._join(one.sums[:, None], one.count, one.largest)
        return both

    def mean(self) -> Float32[Tensor, " c"]:
        """By channel; one number where ``axis`` is None."""
        return (_seen(self.sums).double() / FRACTION / self.count).float()

    def _join(self, steps: Tensor, count: int, largest: float) -> None:
        count, largest = self.count + count, max(self.largest, largest)
        if largest * FRACTION * count >= 2**62:
            raise Refused(
                f"{count} numbers of up to {largest:g} are too much for a sum of 64 bits. Calibrate with fewer samples.",
                code="calibration-range",
            )
        sums = steps.long().sum(1)
        if self.sums is not None:
            _check_channels(len(self.sums), len(sums))
            sums = sums + self.sums
        self.sums, self.count, self.largest = sums, count, largest


@dataclass(frozen=True)
class MinMax:
    """From the least to the largest number: nothing is cut off, and one outlier sets the scale of all."""

    def start(self, form: Form) -> Extremes:
        return Extremes(_observed(form))

    def bounds(self, seen: Extremes | Histogram, form: Form) -> Bounds:
        return seen.bounds()


@dataclass(frozen=True)
class MovingAverage:
    """The extremes of a sample, averaged over samples: follows what moves during training, and forgets single outliers.

    The average moves once a sample, not once a batch, so that the batch size does not matter. ``momentum`` 0.99 remembers
    about a hundred samples; papers that move once a batch take 0.9 to 0.95 for as many.
    """

    momentum: float = 0.99

    def __post_init__(self) -> None:
        _between("momentum", self.momentum, 0.0, 1.0, open_high=True)

    def start(self, form: Form) -> Averages:
        return Averages(self.momentum, _observed(form))

    def bounds(self, seen: Averages, form: Form) -> Bounds:
        return seen.bounds()


@dataclass(frozen=True)
class Percentile:
    """Leaves out ``100 - percent`` percent of the numbers, the farthest.

    ``of`` says farthest from what: ``magnitude`` from zero, one bound for both signs; ``ends`` from the middle, half of them at
    either end. None is magnitude for symmetric forms and ends for affine ones. A histogram's answer is the far edge of the bin
    in which the bound lies; 100 percent are exactly the extremes.
    """

    percent: float = 99.99
    of: Literal["magnitude", "ends"] | None = None

    def __post_init__(self) -> None:
        _between("percent", self.percent, 50.0, 100.0)
        if self.of not in ("magnitude", "ends", None):
            raise Usage(
                f"of is magnitude, ends or None; got {self.of!r}.",
                code="calibration-settings",
            )

    def start(self, form: Form) -> Histogram:
        return Histogram(_observed(form))

    def by_magnitude(self, form: Form) -> bool:
        """Whether both signs get one bound."""
        return form.symmetric if self.of is None else self.of == "magnitude"

    def left_out(self, total: int, form: Form) -> int:
        """How many of ``total`` numbers may lie beyond a bound."""
        share = (100.0 - self.percent) / 100.0
        return math.floor(total * (share if self.by_magnitude(form) else share / 2))

    def bounds(self, seen: Histogram, form: Form) -> Bounds:
        found = []
        for counts, width, low, high, total in _channels(seen):
            out = self.left_out(total, form)
            if self.by_magnitude(form):
                edge = width * _until(_folded(counts), out)
                found.append((max(low, -edge), min(high, edge)))
                continue
            half = len(counts) // 2
            found.append(
                (
                    max(low, -width * _until(counts[:half][::-1], out)),
                    min(high, width * _until(counts[half:], out)),
                )
            )
        return _shaped(found, seen)


@dataclass(frozen=True)
class MSE:
    """The range whose grid is nearest to the numbers: the least sum of ``|x - x^|^power`` over clips of the full range.

    Clips are the multiples of 1 / ``candidates`` of the full range, then twenty finer ones about the best; an affine grid then
    moves each end by itself. On a histogram a number counts as its bin's middle.
    """

    candidates: int = 100
    power: float = 2.0

    def __post_init__(self) -> None:
        _between("candidates", self.candidates, 1, 10_000)
        _between("power", self.power, 0.0, 16.0, open_low=True)

    def start(self, form: Form) -> Histogram:
        return Histogram(_observed(form))

    def bounds(self, seen: Histogram, form: Form) -> Bounds:
        found = []
        for counts, width, low, high, _ in _channels(seen):
            used = np.flatnonzero(counts)
            weight = torch.from_numpy(counts[used]).double()
            middle = torch.from_numpy((used - len(counts) // 2 + 0.5) * width)

            def error(
                lows: Tensor, highs: Tensor, middle: Tensor = middle, weight: Tensor = weight
            ) -> Tensor:
                scale, zero = (values.double() for values in steps_of(lows, highs, form))  # (k, 1)
                q = (torch.round(middle / scale) + zero).clamp(form.lowest, form.highest)  # (k, m)
                return ((middle - (q - zero) * scale).abs() ** self.power * weight).sum(1, keepdim=True)

            one = torch.tensor([low, high], dtype=torch.float32)
            ends = self.search(error, one[:1], one[1:], form)
            found.append((float(ends[0]), float(ends[1])))
        return _shaped(found, seen)

    def search(
        self,
        error: Callable[[Float32[Tensor, "k r"], Float32[Tensor, "k r"]], Float64[Tensor, "k r"]],
        low: Float32[Tensor, " r"],
        high: Float32[Tensor, " r"],
        form: Form,
    ) -> tuple[Float32[Tensor, " r"], Float32[Tensor, " r"]]:
        """The best clips of ranges; ``error`` says what each of k clips costs each of r ranges. Never worse than no clip."""
        n = self.candidates
        ladder = (torch.arange(n, 0, -1, dtype=torch.float32) / n)[:, None].expand(n, len(low))

        def best(downs: Tensor, ups: Tensor) -> tuple[Tensor, Tensor]:
            at = error(low * downs, high * ups).argmin(0, keepdim=True)
            return downs.gather(0, at)[0], ups.gather(0, at)[0]

        centre, _ = best(ladder, ladder)
        finer = (centre + torch.arange(10, -11, -1)[:, None] / (10 * n)).clamp(0.1 / n, 1.0)
        down, up = best(finer, finer)
        if not form.symmetric:
            down, _ = best(torch.cat([down[None], ladder]), up.expand(n + 1, -1))
            _, up = best(down.expand(n + 1, -1), torch.cat([up[None], ladder]))
        return low * down, high * up


@dataclass(frozen=True)
class KL:
    """The bound whose clipped and coarsened histogram of magnitudes diverges least from the histogram itself.

    For every number i of bins from the count of levels on: P is the first i bins, with all that lies beyond added to the last
    one that is not empty; Q the first i bins joined into the levels and spread again over those that are not empty. The i with
    the least KL(P||Q) gives the bound (i + 1/2) times the width. Levels are those a grid has for magnitudes: 2^(bits-1), or
    2^bits in an affine one where all numbers have one sign. Exact zeros are left out, and histograms are joined to 2048
    magnitudes at most.
    A heuristic for many numbers; for weights take :class:`MSE`.
    """

    magnitudes: int = 2048

    def __post_init__(self) -> None:
        _between("magnitudes", self.magnitudes, 512, 65_536)

    def start(self, form: Form) -> Histogram:
        return Histogram(_observed(form))

    def bounds(self, seen: Histogram, form: Form) -> Bounds:
        found = []
        for counts, width, low, high, _ in _channels(seen):
            magnitudes = _folded(counts)
            while len(magnitudes) > self.magnitudes:
                magnitudes, width = magnitudes.reshape(-1, 2).sum(1), 2 * width
            one_sign = low >= 0 or high <= 0
            levels = 2**form.bits if one_sign and not form.symmetric else 2 ** (form.bits - 1)
            edge = (_least_divergence(magnitudes, levels) + 0.5) * width
            found.append((max(low, -edge), min(high, edge)))
        return _shaped(found, seen)


def _least_divergence(counts: NDArray[np.int64], levels: int) -> int:
    """The number of bins with the least KL(P||Q); all of them where there are no more than levels."""
    used = np.flatnonzero(counts)
    last = int(used[-1]) + 1 if len(used) else 0
    total = counts.sum()
    best, least = last, math.inf
    for i in range(levels, last + 1):
        p = counts[:i].astype(np.float64)
        live = p > 0
        if not live.any():
            continue
        starts = np.arange(levels) * i // levels  # of each level's bins
        mass, members = np.add.reduceat(p, starts), np.add.reduceat(live.astype(np.float64), starts)
        sizes = np.diff(np.append(starts, i))
        q = np.repeat(mass / np.maximum(members, 1), sizes)[live] / p.sum()
        p = p[live]
        p[-1] += total - p.sum()
        p /= total
        divergence = float((p * np.log(p / q)).sum())
        if divergence < least:
            best, least = i, divergence
    return best


@dataclass(frozen=True)
class ACIQ:
    """The clip that would be best were the numbers of a known distribution: no search, only a mean and a spread.

    R. Banner, Y. Nahshan, D. Soudry, *Post training 4-bit quantization of convolutional networks for rapid-deployment*,
    NeurIPS 2019, arXiv:1810.05723. The error of 2^bits even steps between ±a, rounding inside and what is cut off outside, is
    least where its derivative by a is zero:

        Laplace, b = E|x - mu|:         t e^t = 3 · 4^bits                                    a = t b
        normal, sigma^2 = E(x - mu)^2:  t / (3 · 4^bits) = 2 (phi(t) - t (1 - Phi(t)))         a = t sigma

    A symmetric form has its middle at zero, so mu is 0 there. Where an affine one sees numbers of one sign only, they are taken
    for the half of a distribution about zero, whose steps are half as wide: one bit more in the formulas, mu 0. The range
    never reaches beyond the numbers. On a histogram a number counts as its bin's middle.
    """

    of: Literal["laplace", "normal"] = "laplace"

    def __post_init__(self) -> None:
        if self.of not in ("laplace", "normal"):
            raise Usage(f"of is laplace or normal; got {self.of!r}.", code="calibration-settings")

    def start(self, form: Form) -> Histogram:
        return Histogram(_observed(form))

    def bounds(self, seen: Histogram, form: Form) -> Bounds:
        found = []
        for counts, width, low, high, total in _channels(seen):
            middle = (
                np.arange(len(counts)) - len(counts) // 2 + 0.5
            ) * width  # exact zeros are none of these
            one_sided = not form.symmetric and (low >= 0 or high <= 0)
            mu = 0.0 if form.symmetric or one_sided else float((middle * counts).sum() / total)
            away = np.abs(middle - mu)
            zeros = total - int(counts.sum())
            power = 1 if self.of == "laplace" else 2
            spread = float(((away**power * counts).sum() + zeros * abs(mu) ** power) / total) ** (1 / power)
            reach = spread * self.clip(form.bits + one_sided)
            found.append((max(low, min(0.0, mu - reach)), min(high, max(0.0, mu + reach))))
        return _shaped(found, seen)

    def ends(self, rows: Float32[Tensor, "r n"], form: Form) -> Bounds:
        """The same for rows at hand."""
        low, high = rows.amin(1), rows.amax(1)
        one_sided = ((low >= 0) | (high <= 0)) & (not form.symmetric)
        mu = torch.where(one_sided | form.symmetric, 0.0, rows.mean(1))
        away = (rows - mu[:, None]).abs()
        spread = away.mean(1) if self.of == "laplace" else away.square().mean(1).sqrt()
        reach = spread * torch.where(one_sided, self.clip(form.bits + 1), self.clip(form.bits))
        return torch.maximum(low, (mu - reach).clamp(max=0.0)), torch.minimum(
            high, (mu + reach).clamp(min=0.0)
        )

    def clip(self, bits: int) -> float:
        """a over b, or over sigma: the root of the derivative, by bisection."""
        steps = 3 * 4.0**bits

        def rises(t: float) -> bool:
            if self.of == "laplace":
                return t * math.exp(t) > steps
            beyond = math.erfc(t / math.sqrt(2)) / 2
            return t / steps > 2 * (math.exp(-t * t / 2) / math.sqrt(2 * math.pi) - t * beyond)

        low, high = 0.0, 64.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if rises(middle) else (middle, high)
        return (low + high) / 2


def by_channel(x: Float[Tensor, "s *rest"], axis: int | None) -> Float32[Tensor, "c n"]:
    """The numbers of each channel, a row each; one row in all for None. Checks what every observer asks of its batches.

    Raises:
        Refused: ``non-finite``, or ``calibration-axis`` where the axis is that of the samples or there is none such.
    """
    x = x.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(x).all()):
        raise Refused(
            "a batch to calibrate with holds NaN or infinity. Look for NaN in the weights, or calibrate in float32.",
            code="non-finite",
        )
    if axis is None:
        return x.reshape(1, -1)
    if not -x.ndim <= axis < x.ndim or axis % x.ndim == 0:
        raise Refused(
            f"the channels of a batch lie on one of its axes after the first, which holds the samples; got axis {axis} for "
            f"{tuple(x.shape)}. A range for every sample is not calibrated but worked out as it runs.",
            code="calibration-axis",
        )
    rows = x.movedim(axis, 0)
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))


def _observed(form: Form) -> int | None:
    """The axis an observer is to look along."""
    if form.group is not None:
        raise Usage(
            "groups divide the inputs of a weight; batches are calibrated in all or by channel. Use fit for a weight.",
            code="calibration-group",
        )
    return form.axis


def _seen(values: Tensor | None) -> Tensor:
    if values is None:
        raise Refused(
            "nothing was calibrated: no batch held a number. Give samples.",
            code="calibration-empty",
        )
    return values


def _channels(seen: Histogram) -> list[tuple[NDArray[np.int64], float, float, float, int]]:
    """Counts, width, least and largest number, and how many there were, channel by channel."""
    low, high = seen.bounds()
    return list(
        zip(
            seen.counts.numpy(),
            seen.width().tolist(),
            low.reshape(-1).tolist(),
            high.reshape(-1).tolist(),
            seen.total().tolist(),
            strict=True,
        )
    )


def _shaped(found: list[tuple[float, float]], seen: Histogram) -> Bounds:
    low, high = (torch.tensor(values, dtype=torch.float32) for values in zip(*found, strict=True))
    return (low[0], high[0]) if seen.axis is None else (low, high)


def _folded(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts of magnitudes: each bin above zero with its mirror image below."""
    half = len(counts) // 2
    return counts[half:] + counts[:half][::-1]


def _until(counts: NDArray[np.int64], left_out: int) -> int:
    """How many bins, from zero outwards, leave at most so many numbers beyond them."""
    beyond = counts.sum() - np.cumsum(counts)  # of each bin
    return 0 if counts.sum() <= left_out else int(np.argmax(beyond <= left_out)) + 1


def _check_same(a: object, b: object, *names: str) -> None:
    for name in names:
        if getattr(a, name) != getattr(b, name):
            raise Refused(
                f"only observers of one kind merge; {name} is {getattr(a, name)} here and {getattr(b, name)} there.",
                code="calibration-mismatch",
            )


def _check_channels(had: int, got: int) -> None:
    if had != got:
        raise Refused(
            f"a batch has {got} channels after batches of {had}. Calibrate one input at a time.",
            code="calibration-mismatch",
        )


def _between(
    name: str, value: float, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> None:
    if not (low <= value <= high and (value > low or not open_low) and (value < high or not open_high)):
        raise Usage(
            f"{name} lies in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}; got {value!r}.",
            code="calibration-settings",
        )
