"""Loops whose length is a symbol: a round for real, one that stands for all others, and what is left behind.

The first time that the loop is met, its second round runs, too. What differs between the states before and after it is
taken for what every round does (`guesses`): a number or a size that grows by the same amount, a list that gets one more
equal item, a number that only data know. From then on the state behind the first round is set to what it would be at the
head of round i, for an unknown i, the body runs once, and the state has to be that of round i + 1: induction. Otherwise
the loop is unknown. Where the second round sets variables that the first did not, it stays with the first of the others.
"""

import dataclasses
import itertools
import sys
import types
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import sympy
import torch

from sparsam.shapes.devices import NOTES, PLACED
from sparsam.shapes.guesses import (
    Guess,
    alike,
    blended,
    difference,
    guesses,
    is_flag,
    items_of,
    name_of,
    only_new_names,
    refusal,
    same_size,
    whole,
    whole_tensor,
    within,
)
from sparsam.shapes.layouts import layout_of
from sparsam.shapes.merging import modes
from sparsam.shapes.run import LEARNED, Loop, Run, Stop, current
from sparsam.shapes.series import Repeated, Segment, as_series
from sparsam.shapes.spans import Span, span_of
from sparsam.shapes.state import (
    SPAN,
    WHOLE,
    Change,
    Snapshot,
    TooLarge,
    described,
    differences,
    put,
)  # fmt: skip
from sparsam.shapes.unused import Unused
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
            refused = partial(refusal, "while", run.places.innermost(frame))
            guessed = guesses(differences(self.before, after), run, refused)
            self.rest = Rounds(run, frame, None, guessed, after, "while", 2)
            self.generalised = self.rest.begin()
            run.inductions.append(self.rest)
        elif (asked and self.rounds == 2 and not run.plain) or self.rounds == LONG:
            # A run with plain numbers goes round by round: the head of a round that is never reached proves nothing.
            self.before = _snapshot(run, frame, "while")
            self.looked_at = self.rounds
            if self.before is not None:
                run.inductions.append(self.before)


def _segment(
    run: Run, frame: types.FrameType, segment: Segment, name: str, at: list[Any], known: range | None = None
) -> Iterator[Any]:
    number = tuple(at)
    count = segment.count
    place = run.places.innermost(frame)
    short = isinstance(count, int) and count <= LONG and known is not None
    for index in itertools.count():
        if not index < count:
            return
        run.tick()
        at[:] = [*number, index]
        before = _snapshot(run, frame, name) if index == 1 and _worth_it(count) else None
        if before is None:
            if index == 2 and not isinstance(count, int):
                raise Stop(
                    Unknown("loop", f"the state that {name} changes is too large to be compared", place)
                )
            yield segment.item(index)
            continue
        rest = _as_learned(run, frame, count, before, name, short)
        if rest is None:
            operations, loops = run.operations, run.loops
            run.inductions.append(before)
            learning = not run.plain and place not in run.memory.loops.met
            run.learning += learning
            try:
                yield segment.item(index)
            finally:
                run.learning -= learning
                run.inductions[:] = [one for one in run.inductions if one is not before]
            light = run.operations - operations <= HEAVY and run.loops == loops
            if light and isinstance(count, int) and count <= LONG:
                run.memory.loops.met.add(place)
                continue
            rest = _learned(run, frame, count, before, name, short)
            if rest is None:
                continue
        at[:] = [*number, "any"]
        run.inductions.append(rest)
        try:
            yield from rest.arbitrary(segment)
        finally:
            run.inductions[:] = [one for one in run.inductions if one is not rest]
        return


def _as_learned(
    run: Run, frame: types.FrameType, count: Any, state: Snapshot, name: str, short: bool
) -> "Rounds | None":
    """All rounds from the second on, where an earlier run has seen what one changes."""
    place = run.places.innermost(frame)
    guessed = run.memory.loops.guessed.get(place)
    if guessed is None or run.plain or (short and place in run.memory.loops.unrolled):
        return None
    if short and _may_be_lost(guessed):
        run.summarised.add(place)
    return Rounds(run, frame, count, guessed, state, name, 1)


def _learned(
    run: Run, frame: types.FrameType, count: Any, before: Snapshot, name: str, short: bool
) -> "Rounds | None":
    """After the second round: all that follow it, None where they are to be run one by one.

    Raises:
        Stop: Once the second round has shown what one changes, for then it need not be run.
    """
    place = run.places.innermost(frame)
    learning = not run.plain and place not in run.memory.loops.met
    if learning:
        run.memory.loops.met.add(place)
    elif not count > 2:
        return None
    after = _snapshot(run, frame, name)
    if after is None:
        if not isinstance(count, int):
            raise Stop(Unknown("loop", f"the state that {name} changes is too large to be compared", place))
        return None
    changes = differences(before, after)
    if short and place in run.memory.loops.unrolled:
        return None
    try:
        guessed = guesses(changes, run, partial(refusal, name, place))
    except Stop:
        if not short:
            raise
        return None
    if learning:
        if not any(map(only_new_names, changes)):
            run.memory.loops.guessed[place] = guessed
            raise Stop(None, LEARNED)
        if not count > 2:
            return None
    if short and _may_be_lost(guessed):
        run.summarised.add(place)
    return Rounds(run, frame, count, guessed, after, name, 2)


def _worth_it(count: Any) -> bool:
    return not isinstance(count, int) or count > 3


def _may_be_lost(guessed: list[Guess]) -> bool:
    """Whether induction may know less of these than rounds that are run one by one."""
    return any(guess.kind in ("sizes", "any", "growth", "flag") for guess in guessed)


def _snapshot(run: Run, frame: types.FrameType, name: str) -> Snapshot | None:
    try:
        with run.shapes.unrecorded():
            return Snapshot(frame, run.places)
    except TooLarge:
        return None


@dataclasses.dataclass
class Step:
    """What is done to one value of the state to set it to another round.

    Args:
        path: Where.
        kind: As a guess has it; also "span" (the bounds of a tensor's numbers change), "text".
        base: Value after the rounds that were run.
        delta: Per round.
        exact: As a guess has it.
    """

    path: tuple[Any, ...]
    kind: str
    base: Any
    delta: Any = None
    exact: bool = True


class Rounds:
    """All rounds of a loop but the first, or the first two.

    Args:
        run: In progress.
        frame: Of the loop.
        count: Number of rounds, more than `first`; None where that is not known.
        guessed: What every round changes.
        state: After `first` rounds.
        name: Of what the loop runs over.
        first: How many rounds were run.
    """

    def __init__(
        self,
        run: Run,
        frame: types.FrameType,
        count: Any,
        guessed: list[Guess],
        state: Snapshot,
        name: str,
        first: int,
    ) -> None:
        self.run, self.frame, self.count, self.state, self.name = run, frame, count, state, name
        self.first = first
        self.place = run.places.innermost(frame)
        self.variants: list[dict[Any, Any]] = run.memory.loops.variants.setdefault(self.place, [])
        self._note_flags(guessed)
        self.steps = [step for guess in guessed if (step := self._step(guess)) is not None]
        self.steps += self._later({step.path for step in self.steps})
        unused = {path for place, path in run.memory.loops.unused if place == self.place}
        unused |= {guess.path for guess in guessed if guess.kind == "unused"}
        self.steps = [step for step in self.steps if step.path not in unused]
        self.steps += [
            Step(path, "unused", None) for path in sorted(unused, key=str) if self.state.at(path) is not None
        ]
        self.spans = {g.path[:-1]: self._bounds(g) for g in guessed if g.kind == "bounds"}
        known = {step.path for step in self.steps}
        for path in self.spans:
            tensor = self.state.at(path)
            if path not in known and tensor is not None:
                self.steps.append(Step(path, "span", tensor.held))
        self.sizes: dict[Any, Any] = {}  # of one state: by path and dimension
        self.head: Snapshot | None = None
        self.modes: tuple[Any, ...] = ()

    def text(self) -> str:
        """What the rest of the loop depends on beside the variables."""
        steps = "".join(f"{step.path} {step.kind} {described(step.base)} {step.delta}" for step in self.steps)
        return f"{described(self.count)}{steps}{self.variants}{self.head.text() if self.head is not None else ''}"

    def arbitrary(self, segment: Segment) -> Iterator[Any]:
        """One round for all, then the state after the last."""
        run = self.run
        run.loops += 1
        index = run.shapes.index("a round of the loop", self.count, self.first)
        if self.steps:
            self._set(index)
        self._choose()
        self.modes = modes(self.run)
        self.head = head = self._look()
        yield segment.item(index)
        self._confirm(head)
        if self.steps:
            self._set(self.count, last=True)

    def begin(self) -> Snapshot:
        """Sets the state to that after an unknown number of rounds, which `confirm` compares with that after one more."""
        index = self.run.shapes.value("a round of the loop", self.first, None)
        if self.steps:
            self._set(index)
        self._choose()
        self.modes = modes(self.run)
        self.head = self._look()
        return self.head

    def confirm(self, head: Snapshot) -> None:
        """The state must be that of the next round."""
        self._confirm(head)

    def _note_flags(self, guessed: list[Guess]) -> None:
        """What is true, false or nothing in turn has one of its values at the head of a round."""
        flags = [guess for guess in guessed if guess.kind == "flag"]
        for number in range(2):
            self._also({guess.path: guess.values[number] for guess in flags})
        known = self.variants[0] if self.variants else {}
        self._also({path: node.held for path in known if (node := self.state.at(path)) is not None})

    def _also(self, values: Mapping[Any, Any]) -> bool:
        """Makes these values one of the variants; whether they were none before."""
        for path in values.keys() - (self.variants[0].keys() if self.variants else set()):
            node = self.state.at(path)
            for variant in self.variants:
                variant[path] = None if node is None else node.held
        if not values or values in self.variants:
            return False
        if len(self.variants) >= VARIANTS:
            raise self._unknown(f"{name_of(next(iter(values)))} and others change otherwise in each round")
        self.variants.append(dict(values))
        return True

    def _choose(self) -> None:
        """Sets all that changes in turn to one of its variants."""
        if len(self.variants) < 2:
            return
        which = self.run.shapes.value(f"what {self.name} has done so far", 0, len(self.variants) - 1)
        chosen = next((n for n in range(len(self.variants) - 1) if which == n), len(self.variants) - 1)
        for path, value in self.variants[chosen].items():
            if not put(self.state, self.frame, self.run.places, path, value):
                raise self._unknown(f"{name_of(path)} changes and cannot be set")

    def _again_with_flags(self, changes: list[Change], after: Snapshot) -> None:
        """After the arbitrary round: what changes in turn must have one of its values, all of it together."""
        new = {change.path: change.after.held for change in changes if change.after is not None}
        known = self.variants[0].keys() if self.variants else set()
        values = {path: node.held for path in known if (node := after.at(path)) is not None} | new
        if changes and not known:
            self._also({change.path: change.before.held for change in changes if change.before is not None})
        if self._also(values):
            raise Stop(None, "again")

    def _look(self) -> Snapshot:
        found = _snapshot(self.run, self.frame, self.name)
        if found is None:
            raise self._unknown("its state is too large to be compared")
        return found

    def _unknown(self, why: str) -> Stop:
        return refusal(self.name, self.place, why)

    def _step(self, guess: Guess) -> Step | None:
        node = self.state.at(guess.path)
        if guess.kind in ("bounds", "flag", "unused") or node is None:
            return (
                None  # see `_bounds`, `_choose` and `Unused`; or it is not there when the loop is met again
            )
        if guess.kind in ("affine", "unknown"):
            kind = "unknown" if self._uneven(guess.path) else guess.kind
            return Step(guess.path, kind, node.held, guess.delta) if node.kind == "number" else None
        if guess.kind in ("sizes", "any"):
            if node.kind != "tensor" or len(node.value[0]) != len(guess.delta):
                return None
            return Step(guess.path, "any" if self._uneven(guess.path) else guess.kind, node.held, guess.delta)
        if not isinstance(node.held, list) or not node.held:
            return None
        return Step(guess.path, "growth", list(node.held), exact=guess.exact)

    def _later(self, known: set[Any]) -> list[Step]:
        """Steps for tensors whose sizes were seen to change in later rounds alone, and for numbers."""
        made = []
        for (place, path), integer in self.run.memory.loops.numbers.items():
            node = self.state.at(path) if place == self.place and path not in known else None
            if node is not None and node.kind == "number":
                made.append(Step(path, "unknown", node.held if integer else 0.0, None))
        for (place, path), axes in self.run.memory.loops.axes.items():
            node = self.state.at(path) if place == self.place and path not in known else None
            if node is not None and node.kind == "tensor" and len(node.value[0]) > max(axes):
                deltas = [None if axis in axes else sympy.S.Zero for axis in range(len(node.value[0]))]
                made.append(Step(path, "any", node.held, deltas))
        return made

    def _uneven(self, path: tuple[Any, ...]) -> bool:
        return (self.place, path) in self.run.memory.loops.uneven

    def _again(self, path: tuple[Any, ...], why: str) -> Stop:
        """Ends the run, to begin anew with a value that may be anything at this path."""
        if self._uneven(path):
            return self._unknown(why)
        self.run.memory.loops.uneven.add((self.place, path))
        return Stop(None, "again")

    def _set(self, rounds: Any, *, last: bool = False) -> None:
        """Sets the state to what it is after so many rounds, or after the last."""
        self.sizes = self._shared()
        for step in self.steps:
            if step.kind == "unused" and last:
                continue  # as the last round has left it
            value = self._after(step, rounds)
            if not put(self.state, self.frame, self.run.places, step.path, value):
                raise self._unknown(f"{name_of(step.path)} changes and cannot be set")

    def _after(self, step: Step, rounds: Any) -> Any:
        done = rounds - self.first
        if step.kind == "affine":
            return step.base + done * _number(step.delta, self.run)
        if step.kind == "unknown":
            integer = whole(step.base)
            if self._uneven(step.path):
                self.run.abstract.add(f"v{self.run.shapes.values}")
            return self.run.shapes.value(f"{name_of(step.path)} after some rounds", integer=integer)
        if step.kind == "any":
            return self._anything(step)
        if step.kind == "unused":
            return Unused(name_of(step.path), self.name)
        if step.kind == "span":
            return self._tensor(step, list(step.base.shape))
        if step.kind == "sizes":
            sizes = [
                size + done * _number(delta, self.run) if delta != 0 else size
                for size, delta in zip(step.base.shape, step.delta, strict=True)
            ]
            if any(size < 0 for size in sizes):
                raise self._again(step.path, f"{name_of(step.path)} does not grow evenly")
            return self._tensor(step, sizes)
        items = step.base
        return [*items[:-1], Repeated(self._item(step), done), self._item(step)]

    def _item(self, step: Step) -> Any:
        """What a round appends: numbers that are not the same in each may be any."""
        last = step.base[-1]
        if not self._uneven(step.path) and step.exact:
            return last
        first = self.run.shapes.values
        made = blended([last], self.run, f"a number in {name_of(step.path)}", between=False, apart=True)
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
                    if same_size(group[0][0].base.shape[group[0][1]], size)
                    and not any(
                        self._pair(step, axis, *other) in self.run.memory.loops.apart for other in group
                    )
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
            size = self.run.shapes.value(f"a size of {name_of(group[0][0].path)} after some rounds", 0)
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
                    if not same_size(size, other_size):
                        self.run.memory.loops.apart.add(self._pair(step, axis, other, other_axis))
                        wrong = True
        if wrong:
            raise Stop(None, "again")

    def _bounds(self, guess: Guess) -> Span:
        """Bounds of a tensor's whole numbers that hold in every round: those that it has, or some that are not known."""
        node = self.state.at(guess.path)
        if not guess.exact or node is None or node.held is None or self._uneven(guess.path):
            return Span(-LARGE, LARGE)
        return Span(node.held.low, node.held.high)

    def _tensor(self, step: Step, sizes: list[Any]) -> torch.Tensor:
        base = step.base
        with torch._C.DisableTorchFunction():
            if layout_of(base):
                raise self._unknown(f"the items of {name_of(step.path)} do not lie one behind the other")
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
        if modes(self.run) != self.modes:
            raise self._unknown(
                "gradients, default types, autocast, the folder or the environment are set otherwise in some rounds"
            )
        after = self._look()
        steps = {step.path: step for step in self.steps}
        changes = differences(head, after)
        self._again_with_flags([change for change in changes if is_flag(change)], after)
        new = [c for c in changes if not is_flag(c) and self._covering(c, steps) is None]
        for change in new:
            if not self._learn(change):
                raise self._unknown(f"{name_of(change.path)} changes in later rounds alone")
        if new:
            raise Stop(None, "again")
        for change in changes:
            step = None if is_flag(change) else self._covering(change, steps)
            if step is None:
                continue
            if change.path[-1] == SPAN and step.kind != "unused":
                before, now = (None if node is None else node.held for node in (change.before, change.after))
                if before is not None and before.low != -LARGE and (now is None or not within(now, before)):
                    raise self._again(change.path, f"the bounds of {name_of(change.path[:-1])} change")
                continue
            if step.kind in ("unknown", "text", "span", "unused"):
                continue
            if whole_tensor(change) is not None:
                self.run.memory.loops.unused.add((self.place, step.path))
                raise Stop(None, "again")
            if not self._as_said(step, change):
                raise self._again(step.path, f"{name_of(change.path)} does not grow evenly")
        for step in self.steps:
            if step.kind in ("affine", "sizes", "growth") and not self._changed(step, head, after):
                raise self._again(step.path, f"{name_of(step.path)} does not grow in every round")
        self._still_the_same(after)

    def _learn(self, change: Change) -> bool:
        """Remembers a change that no earlier round has shown; whether it is one of which something can be said."""
        seen, before, after = self.run.memory.loops, change.before, change.after
        if before is None or after is None:
            return False
        tensor = whole_tensor(change)
        if tensor is not None:
            seen.unused.add((self.place, tensor))
        elif change.kind == "sizes":
            pairs = enumerate(zip(before.value[0], after.value[0], strict=True))
            known = seen.axes.setdefault((self.place, change.path), set())
            axes = {axis for axis, (a, b) in pairs if not same_size(a, b)}
            if axes <= known:
                return False
            known |= axes
        elif change.kind == "number":
            seen.numbers[self.place, change.path] = whole(before.held) and whole(after.held)
        else:
            return False
        return True

    def _changed(self, step: Step, head: Snapshot, after: Snapshot) -> bool:
        return any(change.path == step.path for change in differences(head, after))

    def _covering(self, change: Change, steps: dict[tuple[Any, ...], Step]) -> Step | None:
        if change.kind == "text" or only_new_names(change):
            return Step(change.path, "text", None, None)
        for length in range(len(change.path), 0, -1):
            step = steps.get(change.path[:length])
            if step is not None and (
                length == len(change.path)
                or step.kind in ("growth", "unused")
                or change.path[length:] == (SPAN,)
            ):
                return step
        return None

    def _as_said(self, step: Step, change: Change) -> bool:
        before, after = change.before, change.after
        if before is None or after is None:
            return False
        if step.kind == "affine":
            return bool(difference(before.value, after.value) == step.delta)
        if step.kind == "any":
            return change.kind == "sizes" and all(
                delta is None or delta != 0 or same_size(a, b)
                for delta, a, b in zip(step.delta, before.value[0], after.value[0], strict=True)
            )
        if step.kind == "sizes":
            deltas = [difference(a, b) for a, b in zip(before.value[0], after.value[0], strict=True)]
            return bool(deltas == step.delta)
        if change.path != step.path:
            return True
        new, last = after.held[-1], step.base[-1]
        same = self._uneven(step.path) or not step.exact or alike(new, last, exactly=True)
        return items_of(after) == items_of(before) + 1 and alike(new, last) and same


VARIANTS = 6  # of what is true, false or nothing at the head of a round


def _number(delta: sympy.Basic, run: Run) -> Any:
    if delta.is_Integer:
        return int(delta)
    if delta.is_number:
        return float(delta)
    hint = delta.xreplace(run.shapes.backed_var_to_val)
    return run.shapes._node(delta, int(hint), True)
