"""Loops whose length is a symbol: two rounds for real, one that stands for all others, and what is left behind.

The first round and the second run as they are. What differs between the states after them is taken for what every
round does: a number or a size that grows by the same amount, a list that gets one more equal item, a number that only
data know. The state is then set to what it would be at the head of round i, for an unknown i, the body runs once more,
and the state has to be that of round i + 1: induction. Otherwise the loop is unknown.
"""

import dataclasses
import itertools
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

import sympy
import torch

from sparsam.shapes.devices import NOTES, PLACED
from sparsam.shapes.environment import printed, symbolic
from sparsam.shapes.layouts import layout_of
from sparsam.shapes.run import Loop, Run, Stop, current
from sparsam.shapes.series import Repeated, Segment, as_series
from sparsam.shapes.spans import Span, span_of
from sparsam.shapes.state import (
    SPAN,
    WHOLE,
    Change,
    Node,
    Snapshot,
    TooLarge,
    described,
    differences,
    put,
)  # fmt: skip
from sparsam.shapes.verdict import Unknown

LONG = 64  # rounds of a loop of known length that are run one by one …
LARGE = 2**62  # no index is as large
HEAVY = 150  # … unless a round calls the framework this often


def loop(iterable: Any) -> Iterator[Any]:
    """What a `for` of the program runs over."""
    frame = sys._getframe(1)
    run = current()
    if run is None:
        yield from iterable
        return
    this = Loop([], iterable)
    run.rounds.append(this)
    try:
        yield from _rounds(run, frame, this)
    finally:
        run.rounds[:] = [other for other in run.rounds if other is not this]


def _rounds(run: Run, frame: types.FrameType, this: Loop) -> Iterator[Any]:
    at, iterable = this.at, this.over
    series = as_series(iterable)
    if series is None:
        if isinstance(iterable, range) and len(iterable) > 3:
            start, step = iterable.start, iterable.step
            yield from _segment(
                run,
                frame,
                Segment(len(iterable), lambda index: start + index * step),
                "range",
                at,
                known=iterable,
            )
        else:
            this.over = iterator = iter(iterable)
            for index, item in enumerate(iterator):
                at[:] = [index]
                yield item
                run.tick()
        return
    segments = series.segments()
    this.over = [(segment.count, segment.item) for segment in segments]
    for number, segment in enumerate(segments):
        at[:] = [number]
        yield from _segment(run, frame, segment, series.name, at)


def while_begin(site: int) -> None:
    """Called before a `while` of the program."""
    run = current()
    if run is not None:
        run.whiles[id(sys._getframe(1)), site] = _While()


def while_done(site: int) -> None:
    """Called behind a `while` of the program."""
    run = current()
    state = run.whiles.pop((id(sys._getframe(1)), site), None) if run is not None else None
    if run is not None and state is not None:
        run.inductions[:] = [
            one for one in run.inductions if one is not state.before and one is not state.rest
        ]


def while_round(site: int) -> bool:
    """Called at the head of each round of a `while`, before its condition; always true."""
    run = current()
    frame = sys._getframe(1)
    state = run.whiles.get((id(frame), site)) if run is not None else None
    if run is not None and state is not None:
        run.tick()
        state.head(run, frame)
    return True


@dataclasses.dataclass
class _While:
    """One `while` in progress: after which round it is looked at, and what was seen."""

    rounds: int = 0
    literals: int = 0
    looked_at: int = 0
    before: Snapshot | None = None
    rest: "Rounds | None" = None
    index: Any = None
    generalised: Snapshot | None = None

    def head(self, run: Run, frame: types.FrameType) -> None:
        """At the head of a round."""
        if self.generalised is not None and self.rest is not None:
            self.rest.confirm(self.generalised)
            raise Stop(None, "merged")
        line = frame.f_lineno
        new = run.shapes.literals[self.literals :]
        asked = any(
            literal.kind == "guard" and literal.place and literal.place.line == line for literal in new
        )
        self.literals = len(run.shapes.literals)
        self.rounds += 1
        if self.before is not None and self.looked_at == self.rounds - 1:
            after = _snapshot(run, frame, "while")
            if after is None:
                raise Stop(
                    Unknown(
                        "loop",
                        "the state of this loop is too large to be compared",
                        run.places.innermost(frame),
                    )
                )
            run.inductions.remove(self.before)
            self.rest = Rounds(run, frame, None, differences(self.before, after), after, "while")
            self.generalised = self.rest.begin()
            run.inductions.append(self.rest)
        elif (asked and self.rounds == 2) or self.rounds == LONG:
            self.before = _snapshot(run, frame, "while")
            self.looked_at = self.rounds
            if self.before is not None:
                run.inductions.append(self.before)


def _segment(
    run: Run, frame: types.FrameType, segment: Segment, name: str, at: list[Any], known: range | None = None
) -> Iterator[Any]:
    number = tuple(at)
    count = segment.count
    before: Snapshot | None = None
    place = run.places.innermost(frame)
    for index in itertools.count():
        if not index < count:
            return
        run.tick()
        operations, loops = run.operations, run.loops
        at[:] = [*number, index]
        if index == 1 and _worth_it(count):
            before = _snapshot(run, frame, name)
        if before is None:
            yield segment.item(index)
            continue
        run.inductions.append(before)
        try:
            yield segment.item(index)
        finally:
            run.inductions[:] = [one for one in run.inductions if one is not before]
        if index != 1:
            continue
        heavy = (
            run.operations - operations > HEAVY
            or run.loops > loops
            or not isinstance(count, int)
            or count > LONG
        )
        if not heavy or not count > 2:
            continue
        after = _snapshot(run, frame, name)
        if after is None:
            break
        changes = differences(before, after)
        if isinstance(count, int) and count <= LONG and known is not None and _may_be_lost(changes):
            if place in run.memory.unrolled:
                continue
            run.summarised.add(place)
        rest = Rounds(run, frame, count, changes, after, name)
        at[:] = [*number, "any"]
        run.inductions.append(rest)
        try:
            yield from rest.arbitrary(segment)
        finally:
            run.inductions[:] = [one for one in run.inductions if one is not rest]
        return
    if not isinstance(count, int):
        raise Stop(Unknown("loop", f"the state that {name} changes is too large to be compared", place))
    for index in range(2, count):
        at[:] = [*number, index]
        yield segment.item(index)


def _worth_it(count: Any) -> bool:
    return not isinstance(count, int) or count > 3


def _may_be_lost(changes: list[Change]) -> bool:
    """Whether induction may know less of these than rounds that are run one by one."""
    return any(change.kind in ("sizes", "growth", "other") for change in changes)


def _snapshot(run: Run, frame: types.FrameType, name: str) -> Snapshot | None:
    try:
        with run.shapes.unrecorded():
            return Snapshot(frame, run.places)
    except TooLarge:
        return None


@dataclasses.dataclass
class Step:
    """How one value of the state changes from round to round.

    Args:
        path: Where.
        kind: "affine" (a number grows by the same amount), "sizes" (those of a tensor do), "any" (they change otherwise),
            "span" (the bounds of its numbers change),
            "unknown" (a number that only data know), "growth" (a list gets one more equal item), "text".
        base: Value after two rounds.
        delta: Per round.
    """

    path: tuple[Any, ...]
    kind: str
    base: Any
    delta: Any


class Rounds:
    """All rounds of a loop from the third on.

    Args:
        run: In progress.
        frame: Of the loop.
        count: Number of rounds, more than two.
        changes: Between the states after one round and after two.
        state: After two rounds.
        name: Of what the loop runs over.
    """

    def __init__(
        self, run: Run, frame: types.FrameType, count: Any, changes: list[Change], state: Snapshot, name: str
    ) -> None:
        self.run, self.frame, self.count, self.state, self.name = run, frame, count, state, name
        self.place = run.places.innermost(frame)
        self.steps = [step for change in changes if (step := self._step(change)) is not None]
        self.steps += self._later({step.path for step in self.steps})
        self.spans = {c.path[:-1]: self._bounds(c) for c in changes if c.path[-1] == SPAN}
        known = {step.path for step in self.steps}
        for path in self.spans:
            tensor = self.state.at(path)
            if path not in known and tensor is not None:
                self.steps.append(Step(path, "span", tensor.held, None))
        self.sizes: dict[Any, Any] = {}  # of one state: by path and dimension
        self.head: Snapshot | None = None

    def text(self) -> str:
        """What the rest of the loop depends on beside the variables."""
        steps = "".join(f"{step.path} {step.kind} {described(step.base)} {step.delta}" for step in self.steps)
        return f"{described(self.count)}{steps}{self.head.text() if self.head is not None else ''}"

    def arbitrary(self, segment: Segment) -> Iterator[Any]:
        """One round for all, then the state after the last."""
        run = self.run
        run.loops += 1
        index = run.shapes.index("a round of the loop", self.count, 2)
        if self.steps:
            self._set(index)
        self.head = head = self._look()
        yield segment.item(index)
        self._confirm(head)
        if self.steps:
            self._set(self.count)

    def begin(self) -> Snapshot:
        """Sets the state to that after an unknown number of rounds, which `confirm` compares with that after one more."""
        index = self.run.shapes.value("a round of the loop", 2, None)
        if self.steps:
            self._set(index)
        self.head = self._look()
        return self.head

    def confirm(self, head: Snapshot) -> None:
        """The state must be that of the next round."""
        self._confirm(head)

    def _look(self) -> Snapshot:
        found = _snapshot(self.run, self.frame, self.name)
        if found is None:
            raise self._unknown("its state is too large to be compared")
        return found

    def _unknown(self, why: str) -> Stop:
        return Stop(
            Unknown(
                "loop",
                f"what the loop over {self.name} does in all its rounds is not known: {why}",
                self.place,
            )
        )

    def _step(self, change: Change) -> Step | None:
        path, before, after = change.path, change.before, change.after
        if path[-1] == SPAN:
            return None  # see `_bounds`
        if change.kind == "layout":
            raise self._unknown(f"{_name(path[:-1])} is laid out otherwise in memory after each round")
        if change.kind == "number" and before is not None and after is not None:
            delta = _difference(before.value, after.value)
            if self._uneven(path):
                return Step(path, "unknown", after.held, None)
            if delta is not None and not self._of_data(delta) and _whole(before.held) and _whole(after.held):
                return Step(path, "affine", after.held, delta)
            return Step(path, "unknown", after.held, None)
        if change.kind == "generator":
            raise self._unknown(f"the generator {_name(path)} goes on in each round")
        if (change.kind == "text" and after is not None) or _only_new_names(change):
            return None
        if change.kind == "sizes" and before is not None and after is not None:
            deltas = [_difference(a, b) for a, b in zip(before.value[0], after.value[0], strict=True)]
            if self._uneven(path) or any(delta is None or self._of_data(delta) for delta in deltas):
                return Step(path, "any", after.held, deltas)
            return Step(path, "sizes", after.held, deltas)
        if change.kind == "growth" and before is not None and after is not None:
            new = _items(after) - _items(before)
            if new != 1 or len(after.held) < 2 or not alike(after.held[-1], after.held[-2]):
                raise self._unknown(f"the list {_name(path)} grows by unequal items")
            return Step(path, "growth", list(after.held), None)
        raise self._unknown(f"{_name(path)} is something else after each round")

    def _later(self, known: set[Any]) -> list[Step]:
        """Steps for tensors whose sizes were seen to change in later rounds alone."""
        made = []
        for (place, path), axes in self.run.memory.axes.items():
            node = self.state.at(path) if place == self.place and path not in known else None
            if node is not None and node.kind == "tensor" and len(node.value[0]) > max(axes):
                deltas = [None if axis in axes else sympy.S.Zero for axis in range(len(node.value[0]))]
                made.append(Step(path, "any", node.held, deltas))
        return made

    def _uneven(self, path: tuple[Any, ...]) -> bool:
        return (self.place, path) in self.run.memory.uneven

    def _again(self, path: tuple[Any, ...], why: str) -> Stop:
        """Ends the run, to begin anew with a value that may be anything at this path."""
        if self._uneven(path):
            return self._unknown(why)
        self.run.memory.uneven.add((self.place, path))
        return Stop(None, "again")

    def _of_data(self, expression: Any) -> bool:
        if not isinstance(expression, sympy.Basic):
            return False
        return any(printed(symbol) in self.run.shapes.fresh for symbol in expression.free_symbols)

    def _set(self, rounds: Any) -> None:
        """Sets the state to what it is after so many rounds."""
        self.sizes = self._shared()
        for step in self.steps:
            value = self._after(step, rounds)
            if not put(self.state, self.frame, self.run.places, step.path, value):
                raise self._unknown(f"{_name(step.path)} changes and cannot be set")

    def _after(self, step: Step, rounds: Any) -> Any:
        done = rounds - 2
        if step.kind == "affine":
            return step.base + done * _number(step.delta, self.run)
        if step.kind == "unknown":
            whole = _whole(step.base)
            if self._uneven(step.path):
                self.run.abstract.add(f"v{self.run.shapes.values}")
            return self.run.shapes.value(f"{_name(step.path)} after some rounds", integer=whole)
        if step.kind == "any":
            return self._anything(step)
        if step.kind == "span":
            return self._tensor(step, list(step.base.shape))
        if step.kind == "sizes":
            sizes = [
                size + done * _number(delta, self.run) if delta != 0 else size
                for size, delta in zip(step.base.shape, step.delta, strict=True)
            ]
            if any(size < 0 for size in sizes):
                raise self._again(step.path, f"{_name(step.path)} does not grow evenly")
            return self._tensor(step, sizes)
        items = step.base
        return [*items[:-1], Repeated(self._item(step), done), self._item(step)]

    def _item(self, step: Step) -> Any:
        """What a round appends: numbers that are not the same in each may be any."""
        last = step.base[-2:]
        if not self._uneven(step.path) and alike(*last, exactly=True):
            return last[-1]
        first = self.run.shapes.values
        made = blended(last, self.run, f"a number in {_name(step.path)}", between=False)
        self.run.abstract.update(f"v{number}" for number in range(first, self.run.shapes.values))
        return made

    def _anything(self, step: Step) -> torch.Tensor:
        """A tensor whose changing sizes may be anything: more than there can be, so what fails for it may be no error."""
        sizes = [self.sizes.get((step.path, axis), size) for axis, size in enumerate(step.base.shape)]
        return self._tensor(step, sizes)

    def _groups(self) -> list[list[tuple[Step, int]]]:
        """The sizes that may be anything, those together that were the same and were never seen to be different."""
        groups: list[list[tuple[Step, int]]] = []
        for step in self.steps:
            for axis, delta in enumerate(step.delta if step.kind == "any" else ()):
                if delta is not None and delta == 0:
                    continue
                size = step.base.shape[axis]
                fits = (
                    group
                    for group in groups
                    if _same_size(group[0][0].base.shape[group[0][1]], size)
                    and not any(self._pair(step, axis, *other) in self.run.memory.apart for other in group)
                )
                group = next(fits, None)
                if group is None:
                    groups.append([(step, axis)])
                else:
                    group.append((step, axis))
        return groups

    def _pair(self, step: Step, axis: int, other: Step, other_axis: int) -> frozenset[Any]:
        return frozenset({(self.place, step.path, axis), (self.place, other.path, other_axis)})

    def _shared(self) -> dict[Any, Any]:
        """A size for each dimension that changes unevenly: the same for those of a group."""
        made = {}
        for group in self._groups():
            self.run.abstract.add(f"v{self.run.shapes.values}")
            size = self.run.shapes.value(f"a size of {_name(group[0][0].path)} after some rounds", 0)
            made.update({(step.path, axis): size for step, axis in group})
        return made

    def _still_the_same(self, after: Snapshot) -> None:
        """Sizes of a group must be the same after the round, too."""
        wrong = False
        for group in self._groups():
            nodes = [(step, axis, after.at(step.path)) for step, axis in group]
            sizes = [
                (s, a, node.value[0][a]) for s, a, node in nodes if node is not None and node.kind == "tensor"
            ]
            for number, (step, axis, size) in enumerate(sizes):
                for other, other_axis, other_size in sizes[:number]:
                    if not _same_size(size, other_size):
                        self.run.memory.apart.add(self._pair(step, axis, other, other_axis))
                        wrong = True
        if wrong:
            raise Stop(None, "again")

    def _bounds(self, change: Change) -> Span:
        """Bounds of a tensor's whole numbers that hold in every round: those of the first two, or some that are not known."""
        before = None if change.before is None else change.before.held
        after = None if change.after is None else change.after.held
        if before is None or after is None or self._uneven(change.path) or not _within(after, before):
            return Span(-LARGE, LARGE)
        return Span(after.low, after.high)

    def _tensor(self, step: Step, sizes: list[Any]) -> torch.Tensor:
        base = step.base
        with torch._C.DisableTorchFunction():
            if layout_of(base):
                raise self._unknown(f"the items of {_name(step.path)} do not lie one behind the other")
        with self.run.shapes.unrecorded():  # what the framework asks here is no question of the program
            made = torch.empty(sizes, dtype=base.dtype, device=base.device)
            if base.requires_grad:
                made = made.requires_grad_() * 1
        span = span_of(base) if base.dtype in WHOLE else None
        if step.path in self.spans or span is not None:
            uneven = self._uneven((*step.path, SPAN))
            made.span = self.spans.get(step.path) or (  # type: ignore[attr-defined]
                Span(-LARGE, LARGE) if uneven or span is None else Span(span.low, span.high)
            )
        made.__dict__.update({name: note for name, note in vars(base).items() if name in (*NOTES, PLACED)})
        return made

    def _confirm(self, head: Snapshot) -> None:
        """After the arbitrary round: the state must be that of the next."""
        after = self._look()
        steps = {step.path: step for step in self.steps}
        for change in differences(head, after):
            step = self._covering(change, steps)
            if step is None and change.kind == "sizes" and change.before and change.after:
                pairs = enumerate(zip(change.before.value[0], change.after.value[0], strict=True))
                axes = {axis for axis, (a, b) in pairs if not _same_size(a, b)}
                known = self.run.memory.axes.setdefault((self.place, change.path), set())
                if not axes <= known:
                    known |= axes
                    raise Stop(None, "again")
            if step is None:
                raise self._unknown(f"{_name(change.path)} changes in later rounds alone")
            if change.path[-1] == SPAN:
                before, now = (None if node is None else node.held for node in (change.before, change.after))
                if before is not None and before.low != -LARGE and (now is None or not _within(now, before)):
                    raise self._again(change.path, f"the bounds of {_name(change.path[:-1])} change")
                continue
            if step.kind in ("unknown", "text", "span"):
                continue
            if not self._as_said(step, change):
                raise self._again(step.path, f"{_name(change.path)} does not grow evenly")
        for step in self.steps:
            if step.kind in ("affine", "sizes", "growth") and not self._changed(step, head, after):
                raise self._again(step.path, f"{_name(step.path)} does not grow in every round")
        self._still_the_same(after)

    def _changed(self, step: Step, head: Snapshot, after: Snapshot) -> bool:
        return any(change.path == step.path for change in differences(head, after))

    def _covering(self, change: Change, steps: dict[tuple[Any, ...], Step]) -> Step | None:
        if change.kind == "text" or _only_new_names(change):
            return Step(change.path, "text", None, None)
        for length in range(len(change.path), 0, -1):
            step = steps.get(change.path[:length])
            if step is not None and (
                length == len(change.path) or step.kind == "growth" or change.path[length:] == (SPAN,)
            ):
                return step
        return None

    def _as_said(self, step: Step, change: Change) -> bool:
        before, after = change.before, change.after
        if before is None or after is None:
            return False
        if step.kind == "affine":
            return bool(_difference(before.value, after.value) == step.delta)
        if step.kind == "any":
            return change.kind == "sizes" and all(
                delta is None or delta != 0 or _same_size(a, b)
                for delta, a, b in zip(step.delta, before.value[0], after.value[0], strict=True)
            )
        if step.kind == "sizes":
            deltas = [_difference(a, b) for a, b in zip(before.value[0], after.value[0], strict=True)]
            return bool(deltas == step.delta)
        if change.path != step.path:
            return True
        new, last = after.held[-1], step.base[-2:]
        same = self._uneven(step.path) or not alike(*last, exactly=True) or alike(new, last[-1], exactly=True)
        return _items(after) == _items(before) + 1 and alike(new, last[-1]) and same


def _within(span: Span, other: Span) -> bool:
    """Whether two tensors' numbers have the same bounds."""
    return _same(span.low, other.low) and _same(span.high, other.high)


def _only_new_names(change: Change) -> bool:
    """Whether variables are set that were not set before: a round that reads one of them before would have failed."""
    before, after = change.before, change.after
    if len(change.path) != 1 or before is None or after is None:
        return False
    return not before.children.keys() - after.children.keys()


def _items(node: Node) -> int:
    """Items of a list at the time of its snapshot."""
    return sum(isinstance(key, int) for key in node.children)


def _same_size(one: Any, other: Any) -> bool:
    left, right = (size.node.expr if symbolic(size) else size for size in (one, other))
    run = current()
    return bool(_difference(left, right) == 0) if run is None else run.shapes.known_equal(left, right)


def _difference(before: Any, after: Any) -> Any:
    try:
        made = sympy.expand(sympy.sympify(after) - sympy.sympify(before))
    except (TypeError, ValueError, AttributeError):
        return None
    return made


def _number(delta: sympy.Basic, run: Run) -> Any:
    if delta.is_Integer:
        return int(delta)
    if delta.is_number:
        return float(delta)
    hint = delta.xreplace(run.shapes.backed_var_to_val)
    return run.shapes._node(delta, int(hint), True)


def _whole(value: Any) -> bool:
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def alike(one: Any, other: Any, *, exactly: bool = False) -> bool:
    """Whether two items of a list look alike: tensors by sizes, dtype and device; numbers by kind, or `exactly`."""
    with torch._C.DisableTorchFunction():
        return _alike(one, other, exactly)


def blended(items: Sequence[Any], run: Run, meaning: str, *, between: bool) -> Any:
    """An item that stands for all of several that are alike: a number that differs is one that only data know.

    Args:
        items: Alike.
        run: In progress.
        meaning: Of such a number.
        between: Whether they are all that there are, so that a number lies within theirs.
    """
    first = items[0]
    if isinstance(first, (bool, torch.SymBool)):
        same = all(alike(first, item, exactly=True) for item in items[1:])
        return first if same else run.shapes.truth(meaning)
    if isinstance(first, (int, float)) or symbolic(first):
        if all(alike(first, item, exactly=True) for item in items[1:]):
            return first
        plain = between and not any(map(symbolic, items))
        low, high = (min(items), max(items)) if plain else (None, None)
        return run.shapes.value(meaning, low, high, integer=all(map(_whole, items)))
    if isinstance(first, (list, tuple)):
        parts = [blended(group, run, meaning, between=between) for group in zip(*items, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    if isinstance(first, dict):
        return {key: blended([item[key] for item in items], run, meaning, between=between) for key in first}
    return first


def _alike(one: Any, other: Any, exactly: bool) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = (one.dtype, one.device, one.dim(), one.requires_grad, layout_of(one)) == (
            other.dtype, other.device, other.dim(), other.requires_grad, layout_of(other),
        )  # fmt: skip
        return same and all(map(_same_size, one.shape, other.shape))
    if type(one).__module__ == "torch._numpy._ndarray" and type(one) is type(other):
        return _alike(one.tensor, other.tensor, exactly)
    if isinstance(one, (list, tuple)) and type(one) is type(other) and len(one) == len(other):
        return all(_alike(a, b, exactly) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return all(_alike(one[key], other[key], exactly) for key in one)
    if isinstance(one, (bool, torch.SymBool)) or isinstance(other, (bool, torch.SymBool)):
        return _truth(one) and _truth(other) and (not exactly or _same(one, other))
    if isinstance(one, (int, float)) or symbolic(one):
        return (isinstance(other, (int, float)) or symbolic(other)) and (not exactly or _same(one, other))
    return type(one) is type(other) and (isinstance(one, str) or one is other or one == other)


def _truth(value: Any) -> bool:
    return isinstance(value, (bool, torch.SymBool))


def _same(one: Any, other: Any) -> bool:
    left = one.node.expr if symbolic(one) else one
    right = other.node.expr if symbolic(other) else other
    return bool(left == right)


def _name(path: tuple[Any, ...]) -> str:
    """A path of the state as the program would write it."""
    text = ""
    for key in path[1:]:
        if isinstance(key, tuple):
            text += "(…)"
        elif isinstance(key, str) and key.startswith("."):
            text += key
        elif not text:
            text = str(key)
        else:
            text += f"[{key!r}]"
    return text or "a variable"
