"""What one round of a loop changed, as a guess about every round; and what runs have seen of loops.

A number or a size that grew is taken to grow by as much each time, a list that got one more equal item to get another, a
number of data to be any. `loops` sets the state to that of an unknown round by these, and holds the next round against them.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any

import sympy
import torch

from sparsam.shapes.changes import Change
from sparsam.shapes.environment import Literal, printed, symbolic
from sparsam.shapes.layouts import layout_of
from sparsam.shapes.run import Run, Stop, current
from sparsam.shapes.spans import Span
from sparsam.shapes.state import SPAN, Node
from sparsam.shapes.verdict import Place, Unknown


@dataclasses.dataclass(frozen=True)
class Guess:
    """How one value of the state changes in each round.

    Args:
        path: Where.
        kind: "affine" (a number grows by the same amount), "sizes" (those of a tensor do), "any" (they change otherwise),
            "unknown" (a number that only data know), "growth" (a list gets one more item that is alike), "bounds" (those of
            a tensor's whole numbers), "flag" (true, false or nothing), "unused" (a tensor that is another one: nobody may look
            at it before it is set).
        delta: Per round; of sizes a list, with None for those that only data know.
        exact: Whether a list's items are the same; whether bounds stay as they are.
        values: Of a flag, before and after.
    """

    path: tuple[Any, ...]
    kind: str
    delta: Any = None
    exact: bool = True
    values: tuple[Any, ...] = ()


@dataclasses.dataclass
class Seen:
    """What the runs of an exploration have seen of its loops, each named by its place.

    Args:
        guessed: What one round of a loop changes.
        met: Loops whose second round was run for that.
        uneven: (loop, path) of what changes otherwise than by the same amount.
        axes: Dimensions of a tensor, by loop and path, that change in later rounds alone.
        apart: Pairs of (loop, path, dimension) that are not always the same.
        numbers: (loop, path) of numbers that change in later rounds alone; whether they are whole.
        unused: (loop, path) of tensors that are others in later rounds.
        variants: What is true, false or nothing at the head of a loop's round, all of it together.
        unrolled: Loops that are run round by round, for a summary left something unknown.
        later: Loops whose first round is run for real, for it is unlike the others.
        constants: (loop, path) of tensors with items that the program has given, which have others in later rounds.
        counts: Length of a loop, by what was asked about it and by the opposite.
        choices: For an answer to whether a round begins as one of those that were seen: the loop, how many these were, and
            the condition that says that it does not.
    """

    guessed: dict[Any, list[Guess]] = dataclasses.field(default_factory=dict)
    met: set[Any] = dataclasses.field(default_factory=set)
    uneven: set[Any] = dataclasses.field(default_factory=set)
    axes: dict[Any, set[int]] = dataclasses.field(default_factory=dict)
    apart: set[frozenset[Any]] = dataclasses.field(default_factory=set)
    numbers: dict[Any, bool] = dataclasses.field(default_factory=dict)
    unused: set[Any] = dataclasses.field(default_factory=set)
    variants: dict[Any, list[dict[Any, Any]]] = dataclasses.field(default_factory=dict)
    unrolled: set[Any] = dataclasses.field(default_factory=set)
    later: set[Any] = dataclasses.field(default_factory=set)
    constants: set[Any] = dataclasses.field(default_factory=set)
    counts: dict[sympy.Basic, sympy.Expr] = dataclasses.field(default_factory=dict)
    choices: dict[Literal, tuple[Any, int, sympy.Basic]] = dataclasses.field(default_factory=dict)

    def without_constants(self, changes: Iterable[Change], place: Place | None) -> list[Change]:
        """The changes but for those of items that the program has given: these are remembered, and forgotten at the head."""
        left = []
        for change in changes:
            if change.kind == "constant":
                self.constants.add((place, change.path[:-1]))
            else:
                left.append(change)
        return left

    def in_parts(self, early: Collection[Any], summarised: Collection[Any]) -> bool:
        """After a run that left something unknown: whether less is put together in the next, first rounds first.

        Args:
            early: Loops of which all rounds were one.
            summarised: Loops that could be run round by round.
        """
        if early:
            self.later.update(early)
        else:
            self.unrolled.update(summarised)
        return bool(early or summarised)


def guesses(changes: Iterable[Change], run: Run, refused: Callable[[str], Stop]) -> list[Guess]:
    """A guess for each change that matters.

    Args:
        changes: Between the states at the heads of two rounds.
        run: In progress.
        refused: Makes of a reason what ends the run.

    Raises:
        Stop: If something changes in a way of which nothing can be guessed.
    """
    return [guess for change in changes if (guess := _guess(change, run, refused)) is not None]


def _guess(change: Change, run: Run, refused: Callable[[str], Stop]) -> Guess | None:
    path, before, after = change.path, change.before, change.after
    if path[-1] == SPAN:
        return Guess(path, "bounds", exact=_bounded(change))
    tensor = whole_tensor(change)
    if tensor is not None:
        return Guess(tensor, "unused")
    if change.kind == "generator":
        raise refused(f"the generator {name_of(path)} goes on in each round")
    if before is not None and after is not None and is_flag(change):
        return Guess(path, "flag", values=(before.held, after.held))
    if (change.kind == "text" and after is not None) or only_new_names(change):
        return None
    if before is None or after is None:
        raise refused(f"{name_of(path)} is something else after each round")
    if change.kind == "number":
        delta = difference(before.value, after.value)
        if delta is not None and not _of_data(delta, run) and whole(before.held) and whole(after.held):
            return Guess(path, "affine", delta)
        return Guess(path, "unknown")
    if change.kind == "sizes":
        deltas = [difference(a, b) for a, b in zip(before.value[0], after.value[0], strict=True)]
        known = [None if delta is None or _of_data(delta, run) else delta for delta in deltas]
        return Guess(path, "any" if None in known else "sizes", known)
    if change.kind == "growth":
        new = items_of(after) - items_of(before)
        if new != 1 or len(after.held) < 2 or not alike(after.held[-1], after.held[-2]):
            raise refused(f"the list {name_of(path)} grows by unequal items")
        return Guess(path, "growth", exact=alike(after.held[-1], after.held[-2], exactly=True))
    raise refused(f"{name_of(path)} is something else after each round")


def whole_tensor(change: Change) -> tuple[Any, ...] | None:
    """Where a tensor is another one than before, in type, number of dimensions, gradient or order in memory."""
    if change.kind == "layout":
        return change.path[:-1]
    nodes = change.before, change.after
    both = change.kind == "other" and all(node is not None and node.kind == "tensor" for node in nodes)
    return change.path if both else None


def _bounded(change: Change) -> bool:
    before, after = (None if node is None else node.held for node in (change.before, change.after))
    return before is not None and after is not None and within(after, before)


def _of_data(value: Any, run: Run) -> bool:
    if not isinstance(value, sympy.Basic):
        return False
    return any(printed(symbol) in run.shapes.fresh for symbol in value.free_symbols)


def is_flag(change: Change) -> bool:
    """Whether something that is true, false, nothing or a text is another of these now."""
    nodes = change.before, change.after
    if not all(node is not None and node.kind == "atom" and isinstance(node.held, FLAGS) for node in nodes):
        return False
    return change.kind != "text" or not _goes_on(*(node.held for node in nodes if node is not None))


def _goes_on(before: str, after: str) -> bool:
    """Whether a text differs in its numbers alone, which are no state, or has grown."""
    same = NUMBERS.sub("0", before) == NUMBERS.sub("0", after)
    return same or after.startswith(before) or after.endswith(before)


FLAGS = (bool, type(None), str)
NUMBERS = re.compile(r"\d+")


def only_new_names(change: Change) -> bool:
    """Whether variables are set that were not set before: a round that reads one of them before would have failed."""
    before, after = change.before, change.after
    if len(change.path) != 1 or before is None or after is None:
        return False
    return not before.children.keys() - after.children.keys()


def within(span: Span, other: Span) -> bool:
    """Whether two tensors' numbers have the same bounds."""
    return _same(span.low, other.low) and _same(span.high, other.high)


def items_of(node: Node) -> int:
    """Items of a list at the time of its snapshot."""
    return sum(isinstance(key, int) for key in node.children)


def difference(before: Any, after: Any) -> Any:
    """What was added, as an expression; None of what are no numbers."""
    try:
        made = sympy.expand(sympy.sympify(after) - sympy.sympify(before))
    except (TypeError, ValueError, AttributeError):
        return None
    return made


def whole(value: Any) -> bool:
    """Whether this is a whole number or stands for one."""
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def alike(one: Any, other: Any, *, exactly: bool = False) -> bool:
    """Whether two items of a list look alike: tensors by sizes, dtype and device; numbers by kind, or `exactly`."""
    with torch._C.DisableTorchFunction():
        return _alike(one, other, exactly)


def _alike(one: Any, other: Any, exactly: bool) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = (one.dtype, one.device, one.dim(), one.requires_grad, layout_of(one)) == (
            other.dtype, other.device, other.dim(), other.requires_grad, layout_of(other),
        )  # fmt: skip
        return same and all(map(same_size, one.shape, other.shape))
    if type(one).__module__ == "torch._numpy._ndarray" and type(one) is type(other):
        return _alike(one.tensor, other.tensor, exactly)
    if isinstance(one, (list, tuple)) and type(one) is type(other) and len(one) == len(other):
        return all(_alike(a, b, exactly) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return all(_alike(one[key], other[key], exactly) for key in one)
    if isinstance(one, (bool, torch.SymBool)) or isinstance(other, (bool, torch.SymBool)):
        return truth(one) and truth(other) and (not exactly or _same(one, other))
    if isinstance(one, (int, float)) or symbolic(one):
        return (isinstance(other, (int, float)) or symbolic(other)) and (not exactly or _same(one, other))
    return type(one) is type(other) and (isinstance(one, str) or one is other or one == other)


def truth(value: Any) -> bool:
    """Whether this is a yes or no, or stands for one."""
    return isinstance(value, (bool, torch.SymBool))


def same_size(one: Any, other: Any) -> bool:
    """Whether two sizes are the same as far as is known."""
    left, right = (size.node.expr if symbolic(size) else size for size in (one, other))
    run = current()
    return bool(difference(left, right) == 0) if run is None else run.shapes.known_equal(left, right)


def _same(one: Any, other: Any) -> bool:
    left = one.node.expr if symbolic(one) else one
    right = other.node.expr if symbolic(other) else other
    return bool(left == right)


def blended(items: Any, run: Run, meaning: str, *, between: bool, apart: bool = False) -> Any:
    """An item that stands for all of several that are alike: a number that differs is one that only data know.

    Args:
        items: Alike.
        run: In progress.
        meaning: Of such a number.
        between: Whether they are all that there are, so that a number lies within theirs.
        apart: Whether there are others, whose numbers differ.
    """
    first = items[0]
    if isinstance(first, (bool, torch.SymBool)):
        same = not apart and all(alike(first, item, exactly=True) for item in items[1:])
        return first if same else run.shapes.truth(meaning)
    if isinstance(first, (int, float)) or symbolic(first):
        if not apart and all(alike(first, item, exactly=True) for item in items[1:]):
            return first
        plain = between and not any(map(symbolic, items))
        low, high = (min(items), max(items)) if plain else (None, None)
        return run.shapes.value(meaning, low, high, integer=all(map(whole, items)))
    if isinstance(first, (list, tuple)):
        parts = [
            blended(group, run, meaning, between=between, apart=apart) for group in zip(*items, strict=True)
        ]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    if isinstance(first, dict):
        return {
            key: blended([item[key] for item in items], run, meaning, between=between, apart=apart)
            for key in first
        }
    return first


def name_of(path: tuple[Any, ...]) -> str:
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


def refusal(name: str, place: Place | None, why: str) -> Stop:
    """Ends a run: nothing can be said of all rounds of a loop."""
    return Stop(
        Unknown("loop", f"what the loop over {name} does in all its rounds is not known: {why}", place)
    )
