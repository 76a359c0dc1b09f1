"""Series of unknown length: what a loop runs over where its length is a symbol.

A series is made of segments; the items of one segment all come from one function of their index, so that a loop can look
at an arbitrary one. A data loader is a segment of full batches and a segment of at most one rest.
"""

import dataclasses
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

from sparsam.shapes.environment import symbolic
from sparsam.shapes.run import Stop, current
from sparsam.shapes.verdict import Unknown

UNROLLED = 12  # items that code which knows nothing of series gets one by one


@dataclasses.dataclass(frozen=True)
class Segment:
    """Items that are alike.

    Args:
        count: How many, a number or a SymInt.
        item: The item at an index within the segment, a number or a SymInt.
    """

    count: Any
    item: Callable[[Any], Any]


def equal(item: Any, count: Any) -> Segment:
    """A segment whose items are all the same."""
    return Segment(count, lambda index: item)


class Series:
    """An iterable whose length may be a symbol.

    Args:
        segments: In order. Called anew for each iteration.
        name: What it is, for messages.
    """

    def __init__(self, segments: Callable[[], list[Segment]], name: str = "a series") -> None:
        self._segments = segments
        self.name = name

    def segments(self) -> list[Segment]:
        """The segments, made anew."""
        return self._segments()

    def length(self) -> Any:
        """Number of items, a number or a SymInt."""
        total: Any = 0
        for segment in self.segments():
            total = total + segment.count
        return total

    def __len__(self) -> int:
        return int(self.length())

    def __iter__(self) -> Iterator[Any]:
        """For code that knows nothing of series: one item after the other, as long as there is one."""
        for segment in self.segments():
            for index in itertools.count():
                if isinstance(segment.count, int) or index < UNROLLED:
                    if not index < segment.count:
                        break
                    yield segment.item(index)
                    continue
                if not index < segment.count:
                    break
                raise Stop(
                    Unknown(
                        "loop", f"more than {UNROLLED} items of {self.name} are taken one by one", _here()
                    )
                )

    def __getitem__(self, index: Any) -> Any:
        """The item at an index, counted from the end where it is negative.

        Raises:
            IndexError: If there is none.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index = index + self.length()
        for segment in self.segments():
            if index < segment.count:
                if index < 0:
                    break
                return segment.item(index)
            index = index - segment.count
        raise IndexError(f"index out of range of {self.name}")

    def map(self, function: Callable[[Any, Any], Any], name: str = "") -> "Series":
        """A series of function(index in the whole, item)."""

        def segments() -> list[Segment]:
            made, before = [], 0
            for segment in self.segments():
                made.append(_mapped(segment, before, function))
                before = before + segment.count
            return made

        return Series(segments, name or self.name)


def _mapped(segment: Segment, before: Any, function: Callable[[Any, Any], Any]) -> Segment:
    return Segment(segment.count, lambda index: function(before + index, segment.item(index)))


def counted(stop: Any, start: Any = 0, step: Any = 1) -> Series:
    """`range` with symbols.

    Raises:
        ValueError: If the step is 0.
    """
    if isinstance(step, int) and step == 0:
        raise ValueError("range() arg 3 must not be zero")

    def segments() -> list[Segment]:
        if step > 0:
            count = torch.sym_max(0, (stop - start + step - 1) // step)
        else:
            count = torch.sym_max(0, (start - stop - step - 1) // -step)
        return [Segment(count, lambda index: start + index * step)]

    return Series(segments, "range")


def rows(tensor: torch.Tensor) -> Series:
    """The slices of a tensor along its first dimension."""
    return Series(
        lambda: [Segment(tensor.shape[0], lambda index: tensor.select(0, index))], "a tensor's rows"
    )


class Repeated:
    """Stands in a list for equal items, an unknown number of them, which a loop put there.

    Args:
        item: One of them.
        count: How many, a SymInt.
    """

    def __init__(self, item: Any, count: Any) -> None:
        self.item = item
        self.count = count

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Stop(
            Unknown("loop", "an item from the middle of a list that a loop filled is used by itself", _here())
        )

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """A call of the framework on such a list that has no rule: not modelled."""
        name = getattr(func, "__name__", "a call")
        raise Stop(Unknown("loop", f"{name} of a list that a loop filled has no rule", _here()))


def of_list(items: list[Any] | tuple[Any, ...]) -> Series:
    """The items of a list that a loop filled."""

    def segments() -> list[Segment]:
        made = []
        for item in items:
            if isinstance(item, Repeated):
                made.append(equal(item.item, item.count))
            else:
                made.append(equal(item, 1))
        return made

    return Series(segments, "a list that a loop filled")


def sliced(items: list[Any] | tuple[Any, ...], index: slice) -> Series:
    """A part of a list that a loop filled.

    Raises:
        ValueError: For a step of 0.
    """
    whole = of_list(items)
    count = whole.length()
    step = 1 if index.step is None else index.step
    if step == 0:
        raise ValueError("slice step cannot be zero")
    if step != 1:
        raise Stop(Unknown("loop", "a list that a loop filled is taken with a step", _here()))

    def end(value: Any, otherwise: Any) -> Any:
        if value is None:
            return otherwise
        if value < 0:
            value = value + count
        return torch.sym_min(torch.sym_max(value, 0), count)

    start, stop = end(index.start, 0), end(index.stop, count)
    return Series(
        lambda: [Segment(torch.sym_max(stop - start, 0), lambda at: whole[start + at])], "a part of a list"
    )


def as_series(iterable: Any) -> Series | None:
    """The series that an iterable is or would be, None for an ordinary one."""
    if isinstance(iterable, Series):
        return iterable
    made = getattr(iterable, "__series__", None)
    if made is not None and not isinstance(iterable, type):
        series: Series | None = made()
        return series
    if isinstance(iterable, (list, tuple)) and any(isinstance(item, Repeated) for item in iterable):
        return of_list(iterable)
    if isinstance(iterable, torch.Tensor) and iterable.dim() and symbolic(iterable.shape[0]):
        return rows(iterable)
    return None


def length(value: Any) -> Any:
    """`len`, which may be a symbol here."""
    series = as_series(value)
    if series is not None:
        return value.shape[0] if isinstance(value, torch.Tensor) else series.length()
    if isinstance(value, torch.Size):
        return len(value)
    counter = getattr(type(value), "__length__", None)
    if counter is not None:
        return counter(value)
    own = getattr(type(value), "__len__", None)
    if isinstance(own, types.FunctionType):
        return own(value)  # as the program wrote it: `len` would make a number of a symbol
    return len(value)


def enumerated(iterable: Any, start: Any = 0) -> Any:
    """`enumerate` of a series."""
    series = as_series(iterable)
    if series is None:
        return enumerate(iterable, start)
    return series.map(lambda index, item: (start + index, item), f"enumerate of {series.name}")


def zipped(*iterables: Any, strict: bool = False) -> Any:
    """`zip`, where one of the iterables is a series: as long as the shortest."""
    found = [as_series(iterable) for iterable in iterables]
    if not any(found):
        return zip(*iterables, strict=strict)
    if len(iterables) == 1 and found[0] is not None:
        return found[0].map(lambda index, item: (item,), "zip")
    sides = [
        series if series is not None else _plain(iterable)
        for series, iterable in zip(found, iterables, strict=True)
    ]
    if any(side is None for side in sides):
        return _one_by_one(iterables)

    def segments() -> list[Segment]:
        lists = [side.segments() for side in sides if side is not None]
        if all(len(one) == len(lists[0]) for one in lists) and all(
            all(segment.count is one[k].count or _equal(segment.count, one[k].count) for one in lists)
            for k, segment in enumerate(lists[0])
        ):
            return [_side_by_side(group) for group in zip(*lists, strict=True)]
        if all(len(one) == 1 for one in lists):
            count = lists[0][0].count
            for one in lists[1:]:
                count = torch.sym_min(count, one[0].count)
            return [Segment(count, lambda index: tuple(one[0].item(index) for one in lists))]
        shortest = sides[0].length()  # type: ignore[union-attr]
        for side in sides[1:]:
            shortest = torch.sym_min(shortest, side.length())  # type: ignore[union-attr]
        return [Segment(shortest, lambda index: tuple(side[index] for side in sides))]  # type: ignore[index]

    return Series(segments, "zip")


def _side_by_side(group: tuple[Segment, ...]) -> Segment:
    return Segment(group[0].count, lambda index: tuple(segment.item(index) for segment in group))


def _equal(one: Any, other: Any) -> bool:
    if symbolic(one) and symbolic(other):
        return bool(one.node.expr == other.node.expr)
    return not symbolic(one) and not symbolic(other) and bool(one == other)


def _plain(iterable: Any) -> Series | None:
    """An ordinary sequence as a series of segments of one item; None for an iterator."""
    if isinstance(iterable, range):
        return counted(iterable.stop, iterable.start, iterable.step)
    if isinstance(iterable, (list, tuple)):
        return of_list(iterable)
    return None


def _one_by_one(iterables: tuple[Any, ...]) -> Iterator[Any]:
    return zip(*(iter(iterable) for iterable in iterables), strict=False)


def _here() -> Any:
    run = current()
    return run._here() if run is not None else None
