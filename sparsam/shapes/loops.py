"""Loops whose length is a symbol: one round that stands for all, and what is left behind.

The first time that the loop is met, its first two rounds run. What differs between the states before and after the second
is taken for what every round does (`guesses`): a number or a size that grows by the same amount, a list that gets one more
equal item, a number that only data know. From then on one round stands for all (`rounds`); otherwise the loop is unknown.
Where the first round does what no other does, or changes what no other changes, it goes on being run for real and stands
for itself; the same is true of the second where it sets variables that the first did not.
"""

import contextlib
import dataclasses
import itertools
import sys
import types
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import sympy

from sparsam.shapes.changes import Change, differences
from sparsam.shapes.environment import symbolic
from sparsam.shapes.guesses import Guess, difference, guesses, is_flag, only_new_names, refusal, whole_tensor
from sparsam.shapes.merging import before_loop
from sparsam.shapes.rounds import Rounds, snapshot
from sparsam.shapes.run import LEARNED, SUMMED, UNLEARNED, Loop, Run, Stop, current
from sparsam.shapes.series import Segment, as_series
from sparsam.shapes.state import SPAN, Snapshot
from sparsam.shapes.verdict import Unknown

LONG = 64  # rounds of a loop of known length that are run one by one …
HEAVY = 150  # … unless a round calls the framework this often, or decides something


def loop(iterable: Any) -> Iterator[Any]:
    """What a `for` of the program runs over."""
    frame = sys._getframe(1)
    run = current()
    if run is None:
        yield from iterable
        return
    this = Loop([], iterable, id(frame))
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
                this,
                final=True,
            )
        else:
            rounds = len(iterable) if type(iterable) in (range, tuple) else 0
            this.over = iterator = iter(iterable)
            for index, item in enumerate(iterator):
                at[:] = [index]
                this.last = index == rounds - 1
                yield item
                run.tick()
        return
    before_loop(run, frame)
    segments = series.segments()
    this.over = [(segment.count, segment.item) for segment in segments]
    for number, segment in enumerate(segments):
        at[:] = [number]
        yield from _segment(run, frame, segment, series.name, this, final=number == len(segments) - 1)


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
    rest: Rounds | None = None
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
            after = snapshot(run, frame, self.before)
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
            changes = run.memory.loops.without_constants(
                differences(self.before, after), run.places.innermost(frame)
            )
            guessed = guesses(changes, run, refused)
            self.rest = Rounds(run, frame, None, guessed, after, "while", 2)
            self.generalised = self.rest.begin()
            run.inductions.append(self.rest)
        elif (asked and self.before is None and not run.plain) or self.rounds == LONG:
            # A run with plain numbers goes round by round: the head of a round that is never reached proves nothing.
            self.before = snapshot(run, frame)
            self.looked_at = self.rounds
            if self.before is not None:
                run.inductions.append(self.before)


def _segment(
    run: Run, frame: types.FrameType, segment: Segment, name: str, this: Loop, *, final: bool
) -> Iterator[Any]:
    at = this.at
    number = tuple(at)
    this.last = False
    begun = _Begun(run, frame, name, segment.count)
    for index in itertools.count():
        asked = len(run.shapes.literals)
        more = bool(index < segment.count)
        begun.asked(asked)
        if not more:
            begun.over(index)
            return
        run.tick()
        at[:] = [*number, index]
        rest = begun.rest(index)
        if rest is None:
            this.last = final and isinstance(segment.count, int) and index == segment.count - 1
            with begun.watched(index):
                yield segment.item(index)
            continue
        at[:] = [*number, "any"]
        this.last = False
        run.inductions.append(rest)
        try:
            yield from rest.arbitrary(segment)
        finally:
            run.inductions[:] = [one for one in run.inductions if one is not rest]
        return


class _Begun:
    """The rounds of a loop that run for real, until it is known what one changes.

    Args:
        run: In progress.
        frame: Of the loop.
        name: Of what it runs over.
        count: Number of rounds.
    """

    def __init__(self, run: Run, frame: types.FrameType, name: str, count: Any) -> None:
        self.run, self.frame, self.name, self.count = run, frame, name, count
        self.seen = run.memory.loops
        self.place = run.places.innermost(frame)
        self.short = isinstance(count, int) and count <= LONG  # they could all be run
        self.worth = not isinstance(count, int) or count > 3
        self.heads: dict[int, Snapshot | None] = {}  # states at the heads of rounds
        self.light = False  # whether the second round cost next to nothing, and decided nothing

    def asked(self, before: int) -> None:
        """After the question whether there is one more round: remembers what it was."""
        if symbolic(self.count):
            for literal in self.run.shapes.literals[before:]:
                for condition in (literal.condition, sympy.Not(literal.condition)):
                    self.seen.counts[condition] = self.count.node.expr

    def over(self, rounds: int) -> None:
        """After the last of so many rounds, all of which have run for real."""
        if self.worth and rounds and self._is_new():
            self.run.notes[UNLEARNED] = True

    def rest(self, index: int) -> Rounds | None:
        """The rounds from this one on, as one that stands for all; None where this one is to be run.

        Raises:
            Stop: Once the second round has shown what one changes, for then it need not be run; or nothing can be said.
        """
        if not self.worth or index > 2 or self.run.whole:
            return None
        if index == 2:
            return None if self.light else self._learned()
        known = self._is_known() and (index == 1 or self.place not in self.seen.later)
        if index == 0 and not known and not self._is_new():
            return None
        self.heads[index] = state = snapshot(self.run, self.frame)
        return self._rounds(self.seen.guessed[self.place], state, index) if known and state else None

    @contextlib.contextmanager
    def watched(self, index: int) -> Iterator[None]:
        """Around a round that is run for real."""
        run = self.run
        if not self.worth or index > 1:
            yield
            return
        before, operations, loops = self.heads.get(index), run.operations, run.loops
        literals = len(run.shapes.literals)
        new = self._is_new()
        run.learning += new
        if before is not None:
            run.inductions.append(before)
        try:
            yield
        finally:
            run.learning -= new
            run.inductions[:] = [one for one in run.inductions if one is not before]
        if index == 1:
            decided = any(literal.kind == "guard" for literal in run.shapes.literals[literals:])
            light = run.operations - operations <= HEAVY and run.loops == loops and not decided
            self.light = light and self.short
            if self.light and not run.plain:
                self.seen.met.add(self.place)

    def _is_new(self) -> bool:
        """Whether later runs leave the rounds out that this one runs."""
        return not self.run.plain and self.place not in self.seen.met

    def _is_known(self) -> bool:
        unrolled = self.short and self.place in self.seen.unrolled
        return not self.run.plain and self.place in self.seen.guessed and not unrolled

    def _rounds(self, guessed: list[Guess], state: Snapshot, first: int) -> Rounds:
        if self.short and _may_be_lost(guessed):
            self.run.summarised.add(self.place)
        if first == 0:
            self.run.early.add(self.place)
        if self.run.plain:
            self.run.notes[SUMMED] = True
        return Rounds(self.run, self.frame, self.count, guessed, state, self.name, first)

    def _learned(self) -> Rounds | None:
        """After the second round: all that follow it, None where they are to be run one by one."""
        new, before = self._is_new(), self.heads[1]
        if new:
            self.seen.met.add(self.place)
        elif before is not None and not self.count > 2:
            return None
        after = snapshot(self.run, self.frame, before) if before is not None else None
        if before is None or after is None:
            if isinstance(self.count, int):
                return None
            text = f"the state that {self.name} changes is too large to be compared"
            raise Stop(Unknown("loop", text, self.place))
        changes = self.seen.without_constants(differences(before, after), self.place)
        if self.short and self.place in self.seen.unrolled:
            return None
        try:
            guessed = guesses(changes, self.run, partial(refusal, self.name, self.place))
        except Stop:
            if not self.short:
                raise
            return None
        if new:
            if not any(map(only_new_names, changes)):
                self.seen.guessed[self.place] = self._with_the_first(guessed, before)
                raise Stop(None, LEARNED)
            if not self.count > 2:
                return None
        return self._rounds(guessed, after, 2)

    def _with_the_first(self, guessed: list[Guess], behind: Snapshot) -> list[Guess]:
        """What a round changes, the first one, too, if it does nothing that others do not."""
        before = self.heads.get(0)
        changes = [] if before is None else differences(before, behind)
        changes = self.seen.without_constants(changes, self.place)
        if before is None or before.trained != behind.trained or not _like_others(changes, guessed):
            self.seen.later.add(self.place)
            return guessed
        known = {guess.path for guess in guessed}
        flags = guesses(filter(is_flag, changes), self.run, partial(refusal, self.name, self.place))
        return [*guessed, *(guess for guess in flags if guess.path not in known)]


def _like_others(changes: Iterable[Change], guessed: Iterable[Guess]) -> bool:
    """Whether the first round changes what all others change, in the same way."""
    known = {guess.path: guess for guess in guessed}
    return not any(guess.kind == "growth" for guess in known.values()) and all(
        _as_guessed(change, known) for change in changes
    )


def _as_guessed(change: Change, known: dict[Any, Guess]) -> bool:
    if is_flag(change):
        return True
    if only_new_names(change) or change.kind == "text":
        return False
    tensor = whole_tensor(change)
    guess = known.get(change.path if tensor is None else tensor)
    if guess is None:
        above = (known.get(change.path[:length]) for length in range(1, len(change.path)))
        return any(other is not None and other.kind == "unused" for other in above)
    if change.path[-1] == SPAN or tensor is not None:
        return guess.kind in ("bounds", "unused")
    if change.kind == "number":
        even = difference(change.before.value, change.after.value) == guess.delta  # type: ignore[union-attr]
        return guess.kind == "unknown" or (guess.kind == "affine" and bool(even))
    return change.kind == "sizes" and guess.kind in ("any", "unused")


def _may_be_lost(guessed: Iterable[Guess]) -> bool:
    """Whether induction may know less of these than rounds that are run one by one."""
    return any(guess.kind in ("sizes", "any", "growth", "flag") for guess in guessed)
