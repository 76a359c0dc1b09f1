"""Geometry of the page's pictures, in SVG units: what stands where. The templates draw it; nothing here is markup."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sparsam.report.figures import clean


@dataclass(frozen=True)
class Point:
    """A model in the accuracy–cost picture, in its own units."""

    label: str
    cost: float
    value: float
    low: float
    high: float
    dense: bool
    other: bool = False
    """Served by another runtime."""


@dataclass(frozen=True)
class Mark:
    """A point and its label on the canvas; the label's line leads to the point where it had to move away."""

    x: float
    y: float
    top: float
    bottom: float
    dense: bool
    other: bool
    label: str
    figures: str
    label_x: float
    label_y: float
    anchor: str
    moved: bool


@dataclass(frozen=True)
class Tick:
    """A place on an axis and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Plot:
    """The accuracy–cost picture at one size."""

    size: str
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    marks: tuple[Mark, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    named: bool


SIZES = (("wide", 720, 410, 34), ("narrow", 360, 360, 17))
"""Name, width, height and longest label of the picture for screens and for phones."""

MOST_LABELS = 6
"""Points that are labelled by name; more, or longer names, are numbered as in the table. Chosen by us."""


def plots(points: Sequence[Point], unit: str) -> tuple[Plot, ...]:
    """The picture in each of its sizes."""
    return tuple(_plot(points, unit, *one) for one in SIZES)


def _plot(points: Sequence[Point], unit: str, size: str, width: int, height: int, longest: int) -> Plot:
    left, right, top, bottom = 46, width - 14, 36, height - 46
    most = max(1.0, *(point.cost for point in points))
    least_y, most_y, ticks = axis(min(p.low for p in points), max(p.high for p in points))

    def x(cost: float) -> float:
        return round(left + cost / (1.06 * most) * (right - left), 1)

    def y(value: float) -> float:
        return round(bottom - (value - least_y) / (most_y - least_y) * (bottom - top), 1)

    named = len(points) <= MOST_LABELS and all(len(clean(point.label)) <= longest for point in points)
    marks = [
        Mark(
            x(point.cost),
            y(point.value),
            y(point.high),
            y(point.low),
            point.dense,
            point.other,
            clean(point.label) if named else str(number),
            f"{point.value:.1f}{unit} at {point.cost:.2f}×" if named else "",
            0.0,
            0.0,
            "start",
            False,
        )
        for number, point in enumerate(points, 1)
    ]
    step = 0.25 if most <= 1.5 else 10 ** math.floor(math.log10(most))
    across = [Tick(x(step * i), f"{step * i:g}×") for i in range(int(1.06 * most / step) + 1)]
    up = [Tick(y(value), f"{value:g}") for value in ticks]
    placed = labelled(marks, (left + 4.0, 24.0, right, bottom - 2.0))
    return Plot(size, width, height, left, right, top, bottom, placed, tuple(across), tuple(up), named)


Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def labelled(marks: Sequence[Mark], inside: Box, also: Sequence[Box] = ()) -> tuple[Mark, ...]:
    """Each label where it covers least: beside its point, above or below its interval, or a little off with a line.

    ``also`` are places that it should not cover either.
    """
    taken: list[Box] = list(also)
    for mark in marks:
        taken += [
            (mark.x - 9, mark.y - 9, mark.x + 9, mark.y + 9),
            (mark.x - 5, mark.top, mark.x + 5, mark.bottom),
        ]
    placed = []
    for mark in marks:
        width = max(8.6 * len(mark.label), 7.2 * len(mark.figures))
        below = 20.0 if mark.figures else 4.0
        options = []
        for rank, (dx, dy, anchor) in enumerate(_places(mark, below)):
            at_x, at_y = mark.x + dx, mark.y + dy
            start = at_x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
            shift = min(max(start, inside[0]), inside[2] - width) - start if anchor == "middle" else 0.0
            box = (start + shift, at_y - 12, start + shift + width, at_y + below)
            covered = sum(_overlap(box, other) for other in taken)
            outside = (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, inside)
            moved = anchor != "middle" and abs(dy + 3) > 12
            options.append((covered + 3 * outside + 8 * rank, at_x + shift, at_y, anchor, moved, box))
        _, at_x, at_y, anchor, moved, box = min(options, key=lambda option: option[0])
        taken.append(box)
        placed.append(
            replace(mark, label_x=round(at_x, 1), label_y=round(at_y, 1), anchor=anchor, moved=moved)
        )
    return tuple(placed)


def _places(mark: Mark, below: float) -> list[tuple[float, float, str]]:
    """Where a label may stand, relative to its point, the best first."""
    beside = -3.0 if mark.figures else 4.0
    found = [
        (12.0, beside, "start"),
        (-12.0, beside, "end"),
        (0.0, mark.top - mark.y - below - 4, "middle"),
        (0.0, mark.bottom - mark.y + 17, "middle"),
    ]
    for off in (36.0, -36.0, 72.0, -72.0, 108.0, -108.0):
        found += [(20.0, beside + off, "start"), (-20.0, beside + off, "end")]
    return found


def _overlap(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    across, down = (
        min(one[2], other[2]) - max(one[0], other[0]),
        min(one[3], other[3]) - max(one[1], other[1]),
    )
    return max(across, 0.0) * max(down, 0.0)


def axis(least: float, most: float) -> tuple[float, float, list[float]]:
    """Ends and ticks of an axis that holds both values, with some air."""
    span = max(most - least, 1e-3 * max(abs(most), 1.0))
    rough = span / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor((least - 0.05 * span) / step), math.ceil((most + 0.05 * span) / step)
    digits = max(0, -math.floor(math.log10(step)))
    return first * step, last * step, [round(step * at, digits) for at in range(first, last + 1)]


@dataclass(frozen=True)
class Range:
    """A ratio on a line with its least and largest; ``one`` is where the baseline stands."""

    low: float
    at: float
    high: float
    one: float


def ranges(ratios: Sequence[tuple[float, float, float]], width: float = 120.0) -> tuple[Range, ...]:
    """Ratios (low, middle, high) on one logarithmic line of this width, the baseline's 1 always on it."""
    if not ratios:
        return ()
    ends = [
        math.log(min(1.0, *(low for low, _, _ in ratios))),
        math.log(max(1.0, *(high for _, _, high in ratios))),
    ]
    span = max(ends[1] - ends[0], 0.2)

    def place(ratio: float) -> float:
        return round(6 + (math.log(ratio) - ends[0]) / span * (width - 12), 1)

    return tuple(Range(place(low), place(middle), place(high), place(1.0)) for low, middle, high in ratios)
