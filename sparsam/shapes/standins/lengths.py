"""Sizes that only the outside knows: the length of a data set, the number of its classes, a picture's width."""

from collections.abc import Sequence
from typing import Any

from sparsam.shapes.environment import Unknown
from sparsam.shapes.run import Run, current

LETTERS = ("N", "M", "K", "L", "P", "Q", "R", "S", "T", "U")
BEGIN = (7, 5, 3, 4, 6, 8, 9, 2, 11, 13)  # hints of the first run, by letter


def length_of(key: Any, meaning: str, low: int = 1) -> Any:
    """A size symbol with a readable name, the same for the same key within a run.

    Args:
        key: What the size belongs to; two data sets that are the same set have the same.
        meaning: Such as "length of torchvision.datasets.MNIST".
        low: Smallest value.
    """
    run = current()
    if run is None:
        return max(low, 1)
    known = run.notes.setdefault("lengths", {})
    if key not in known:
        name, hint = _free(run)
        run.shapes.hints.setdefault(name, max(low, hint))
        known[key] = run.shapes.declare(Unknown(name, low, None, meaning=meaning))
    return known[key]


def _free(run: Run) -> tuple[str, int]:
    for round_ in range(1, 1000):
        for letter, hint in zip(LETTERS, BEGIN, strict=True):
            name = letter if round_ == 1 else f"{letter}{round_}"
            if name not in run.shapes.symbols:
                return name, hint
    raise RuntimeError("no name is left for a size")


def value(meaning: str, low: float | None = None, high: float | None = None, *, integer: bool = True) -> Any:
    """A number that only the outside knows; outside of a run its least."""
    run = current()
    if run is None:
        return low if low is not None else 0
    return run.shapes.value(meaning, low, high, integer=integer)


def label(meaning: str, classes: Any) -> Any:
    """A class: a whole number from 0 to below a number of classes."""
    run = current()
    return 0 if run is None else run.shapes.index(meaning, classes)


def chosen(meaning: str, options: Sequence[Any]) -> Any:
    """One of several, each of which is tried."""
    run = current()
    if run is None or len(options) == 1:
        return options[0]
    which = run.shapes.value(meaning, 0, len(options) - 1)
    for number, option in enumerate(options[:-1]):
        if which == number:
            return option
    return options[-1]
