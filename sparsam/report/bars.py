"""Geometry of bars and of the picture of cycles against energy, in SVG units; the templates draw it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparsam.report.pictures import SIZES, Mark, Tick, axis, labelled


@dataclass(frozen=True)
class Segment:
    """A part of a bar of width 100."""

    part: str
    x: float
    width: float


def share_of(value: float, most: float) -> float:
    """A value as a part of 100 of the largest; 0 where there is none."""
    return round(100 * value / most, 3) if most > 0 and math.isfinite(value) else 0.0


def stacked(parts: Mapping[str, float], most: float) -> tuple[Segment, ...]:
    """The parts end to end, so that a bar of ``most`` is 100 wide; parts of nothing are left out."""
    found, at = [], 0.0
    for part, value in parts.items():
        if value > 0 and most > 0:
            found.append(Segment(part, round(at, 3), round(100 * value / most, 3)))
            at += 100 * value / most
    return tuple(found)


@dataclass(frozen=True)
class Scatter:
    """Cycles against energy at one size."""

    size: str
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    marks: tuple[Mark, ...]
    """Points of the front, labelled with their number."""
    others: tuple[tuple[float, float, str], ...]
    """Centre and words of each point that is not on the front."""
    line: str
    """Path along the front."""
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    across_log: bool
    up_log: bool


LOG_FROM = 20.0
"""Largest over least from which an axis is logarithmic. Chosen by us."""


@dataclass(frozen=True)
class Scale:
    """An axis from ``low`` to ``high``, both in its own measure."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high one."""
        return ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)


def _scale(values: Sequence[float]) -> Scale:
    """An axis that holds the values with some air, logarithmic where they reach far."""
    least, most = min(values), max(values)
    if least <= 0 or most / least < LOG_FROM:
        low, high, ticks = axis(least, most)
        low = max(low, 0.0)
        return Scale(low, high, tuple(tick for tick in ticks if tick >= low), False)
    low, high = math.log10(least) - 0.08, math.log10(most) + 0.08
    steps = (1,) if most / least > 1e3 else (1, 3)
    powers = range(math.floor(low), math.ceil(high) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return Scale(low, high, tuple(tick for tick in ticks if low <= math.log10(tick) <= high), True)


def scatters(points: Sequence[tuple[float, float, bool, str]]) -> tuple[Scatter, ...]:
    """The picture in each size, of points with cycles, energy in pJ, whether on the front, and words; numbered from 1."""
    return tuple(_scatter(points, size, width, height) for size, width, height, _ in SIZES)


def _scatter(points: Sequence[tuple[float, float, bool, str]], size: str, width: int, height: int) -> Scatter:
    left, right, top, bottom = 62, width - 18, 36, height - 46
    across, up = _scale([p[0] for p in points]), _scale([p[1] for p in points])
    few = across.ticks[::2] if size == "narrow" and len(across.ticks) > 4 else across.ticks

    def x(value: float) -> float:
        return round(left + across.place(value) * (right - left), 1)

    def y(value: float) -> float:
        return round(bottom - up.place(value) * (bottom - top), 1)

    marks = [
        Mark(x(cycles), y(pj), y(pj), y(pj), False, False, str(number), "", 0.0, 0.0, "start", False)
        for number, (cycles, pj, on, _) in enumerate(points, 1)
        if on
    ]
    others = tuple((x(cycles), y(pj), words) for cycles, pj, on, words in points if not on)
    rings = [(a - 6, b - 6, a + 6, b + 6) for a, b, _ in others]
    placed = labelled(marks, (left + 4.0, 24.0, right, bottom - 2.0), rings)
    along = sorted({(mark.x, mark.y) for mark in placed})
    line = "M" + "L".join(f"{a} {b}" for a, b in along) if len(along) > 1 else ""
    return Scatter(
        size, width, height, left, right, top, bottom, placed, others, line,
        tuple(Tick(x(value), text) for value, text in _ticks(few, COUNTS)),
        tuple(Tick(y(value), text) for value, text in _ticks(up.ticks, JOULES)), across.log, up.log,
    )  # fmt: skip


COUNTS = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"), (1.0, ""))
JOULES = ((1e12, " J"), (1e9, " mJ"), (1e6, " µJ"), (1e3, " nJ"), (1.0, " pJ"))


def _ticks(values: Sequence[float], units: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Ticks with their units, and as many digits as tell them apart."""
    powers = [next((one for one in units if value >= one[0]), units[-1]) for value in values]
    if len(values) > 1 and values[-1] < LOG_FROM * max(values[0], values[1] - values[0]):
        powers = [powers[-1]] * len(values)  # one unit for all of a linear axis

    def texts(digits: int) -> list[str]:
        return [
            f"{value / power:.{digits}f}{unit}" for value, (power, unit) in zip(values, powers, strict=True)
        ]

    digits = next(d for d in range(15) if len(set(texts(d))) == len(values))
    return list(zip(values, texts(digits), strict=True))


def joules(pj: float) -> str:
    """An energy in the unit that suits it."""
    power, unit = next((one for one in JOULES if abs(pj) >= one[0]), JOULES[-1])
    return f"{pj / power:.3g}{unit}"
