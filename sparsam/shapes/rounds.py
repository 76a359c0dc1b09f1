"""All rounds of a loop as one: induction over its state.

The state at the head of round i, for an unknown i, is made of that at the head of the first of them and of what a round
changes (`guesses`). The body runs once from there, and the state then has to be that at the head of round i + 1. What is
left behind is the state after the last.
"""

import dataclasses
import types
from collections.abc import Iterator, Mapping
from typing import Any

import sympy
import torch

from sparsam.shapes.changes import Change, differences, put
from sparsam.shapes.devices import PLACED
from sparsam.shapes.environment import CHOICE
from sparsam.shapes.guesses import (
    Guess,
    alike,
    blended,
    difference,
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
from sparsam.shapes.merging import come_by, modes
from sparsam.shapes.notes import notes_of
from sparsam.shapes.run import ABSENT, Run, Stop
from sparsam.shapes.series import Repeated, Segment
from sparsam.shapes.spans import Span, span_of
from sparsam.shapes.state import SPAN, WHOLE, Snapshot, TooLarge, described
from sparsam.shapes.unused import Unused

LARGE = 2**62  # no index is as large
VARIANTS = 6  # of what is true, false or nothing at the head of a round


def snapshot(run: Run, frame: types.FrameType, earlier: Snapshot | None = None) -> Snapshot | None:
    """The state at the head of a round; None where it is too large to be compared."""
    try:
        with run.shapes.unrecorded():
            return Snapshot(frame, run.places, earlier=earlier, gradients=run.memory.gradients)
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
    """All rounds of a loop, or all but the first, or the first two.

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
        self.index: Any = None  # of the round
        self.head: Snapshot | None = None
        self.modes: tuple[Any, ...] = ()

    def text(self) -> str:
        """What the rest of the loop depends on beside the variables."""
        free = [step.path for step in self.steps if step.kind == "unknown"]
        steps = "".join(
            f"{step.path} {step.kind} {whole(step.base) if step.kind == 'unknown' else described(step.base)} {step.delta}"
            for step in self.steps
        )
        # Which variant the round began with makes no difference to whether it ends with one of them, nor does a number
        # that may be any at the end.
        head = self.head.text(without=[*self.flags(), *free]) if self.head is not None else ""
        return f"{self.first} {described(self.count)}{described(self.index)}{steps}{self.flags()}{head}"

    def flags(self) -> list[Any]:
        """Paths of what is true, false or nothing in turn."""
        return sorted(self.variants[0], key=str) if self.variants else []

    def arbitrary(self, segment: Segment) -> Iterator[Any]:
        """One round for all, then the state after the last."""
        run = self.run
        run.loops += 1
        self.index = index = run.shapes.index("a round of the loop", self.count, self.first)
        if self.steps:
            self._set(index)
        if len(self.variants) > 1:
            come_by(run, self.frame, self.place, self.flags())
        self._choose()
        self._forget_constants()
        self.modes = modes(self.run)
        self.head = head = self._look()
        yield segment.item(index)
        self._confirm(head)
        if self.steps:
            self._set(self.count, last=True)

    def begin(self) -> Snapshot:
        """Sets the state to that after an unknown number of rounds, which `confirm` compares with that after one more."""
        self.index = index = self.run.shapes.value("a round of the loop", self.first, None)
        if self.steps:
            self._set(index)
        self._choose()
        self._forget_constants()
        self.modes = modes(self.run)
        self.head = self._look()
        return self.head

    def confirm(self, head: Snapshot) -> None:
        """The state must be that of the next round."""
        self._confirm(head)

    def _forget_constants(self) -> None:
        """Items that the program has given a tensor, and others in some rounds, are not known at the head of one."""
        for place, path in self.run.memory.loops.constants:
            node = self.state.at(path) if place == self.place else None
            if node is not None and node.kind == "tensor":
                node.held.constant = None

    def _note_flags(self, guessed: list[Guess]) -> None:
        """What is true, false or nothing in turn has one of its values at the head of a round."""
        flags = [guess for guess in guessed if guess.kind == "flag"]
        for number in range(2):
            self._also({guess.path: guess.values[number] for guess in flags})
        known = self.variants[0] if self.variants else {}
        self._also({path: node.held for path in known if (node := self.state.at(path)) is not None})

    def _also(self, values: Mapping[Any, Any]) -> bool:
        """Makes these values one of the variants; whether others are known to change than were before."""
        new = values.keys() - (self.variants[0].keys() if self.variants else set())
        for path in new:
            node = self.state.at(path)
            for variant in self.variants:
                variant[path] = None if node is None else node.held
        if not values or values in self.variants:
            return False
        if len(self.variants) >= VARIANTS:
            raise self._unknown(f"{name_of(next(iter(values)))} and others change otherwise in each round")
        self.variants.append(dict(values))
        return bool(new) or len(self.variants) == 2

    def _choose(self) -> None:
        """Sets all that changes in turn to one of its variants.

        Raises:
            Stop: If it is to be one that no round has shown: there may be one yet.
        """
        if len(self.variants) < 2:
            return
        shapes, known = self.run.shapes, len(self.variants)
        which = shapes.value(f"what {self.name} has done so far", 0, VARIANTS - 1)
        if known < VARIANTS:
            asked = len(shapes.literals)
            absent = bool(which >= known)
            for number in range(asked, len(shapes.literals)):
                literal = dataclasses.replace(shapes.literals[number], cause=CHOICE)
                shapes.literals[number] = literal
                none = literal.condition if absent else sympy.Not(literal.condition)
                self.run.memory.loops.choices[literal] = self.place, known, none
            if absent:
                raise Stop(None, ABSENT)
        chosen = next((n for n in range(known - 1) if which == n), known - 1)
        with self.run.shapes.unrecorded():
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

    def _look(self, earlier: Snapshot | None = None) -> Snapshot:
        found = snapshot(self.run, self.frame, earlier)
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
        made.__dict__.update(notes_of(base))
        made.__dict__.update({name: note for name, note in vars(base).items() if name == PLACED})
        return made

    def _confirm(self, head: Snapshot) -> None:
        """After the arbitrary round: the state must be that of the next."""
        if modes(self.run) != self.modes:
            raise self._unknown(
                "gradients, default types, autocast, the folder or the environment are set otherwise in some rounds"
            )
        after = self._look(head)
        steps = {step.path: step for step in self.steps}
        seen = self.run.memory.loops
        known = len(seen.constants)
        every = seen.without_constants(differences(head, after), self.place)
        if len(seen.constants) > known:
            raise Stop(None, "again")
        changes = [change for change in every if not _is_none(change)]
        self._again_with_flags([change for change in changes if is_flag(change)], after)
        new = [c for c in changes if not is_flag(c) and self._covering(c, steps) is None]
        if self.first == 0 and (
            any(self._of_the_first(change, steps) for change in changes) or head.trained != after.trained
        ):
            self.run.memory.loops.later.add(self.place)
            raise Stop(None, "again")
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

    def _of_the_first(self, change: Change, steps: dict[tuple[Any, ...], Step]) -> bool:
        """Whether something is another kind of thing behind a round, as it often is behind the first of a loop."""
        if is_flag(change):
            return False
        if only_new_names(change) or change.kind == "text":
            return True
        if self._covering(change, steps) is not None:
            return False
        return change.kind not in ("number", "sizes") and change.path[-1] != SPAN

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
            known = seen.axes.get((self.place, change.path), set())
            axes = {axis for axis, (a, b) in pairs if not same_size(a, b)}
            if axes <= known:
                return False
            seen.axes[self.place, change.path] = known | axes
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
        if not isinstance(after.held, list) or not after.held:
            return False
        new, last = after.held[-1], step.base[-1]
        same = self._uneven(step.path) or not step.exact or alike(new, last, exactly=True)
        return items_of(after) == items_of(before) + 1 and alike(new, last) and same


def _is_none(change: Change) -> bool:
    """Whether sizes are the same after all, by what is known of them."""
    if change.kind != "sizes" or change.before is None or change.after is None:
        return False
    return all(map(same_size, change.before.value[0], change.after.value[0]))


def _number(delta: sympy.Basic, run: Run) -> Any:
    if delta.is_Integer:
        return int(delta)
    if delta.is_number:
        return float(delta)
    hint = delta.xreplace(run.shapes.backed_var_to_val)
    return run.shapes._node(delta, int(hint), True)
