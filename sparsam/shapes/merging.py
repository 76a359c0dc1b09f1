"""Branches that come together: what follows a fork is followed once.

Where a statement decided something, the state after it is compared with those of earlier runs at the same place. If all
that can be reached is the same, what follows is a function of the same symbols, and the earlier run and those that split
off behind that place have followed all of it, as far as it depends on what is known about these symbols. So the run may
end there if the earlier ones assumed nothing more about the symbols that they asked about afterwards. n coin tosses cost
n + 1 runs and not 2^n, and the cases of a training loop add to those of the test behind it instead of multiplying.

This rests on the order of exploration: the deepest split first, so that when a run splits off in front of a place, all
that follows that place in earlier runs has been followed.
"""

import dataclasses
import functools
import re
import sys
import types
from collections.abc import Sequence
from typing import Any

import sympy
import torch

from sparsam.shapes.environment import Literal, printed
from sparsam.shapes.run import Run, Stop, current
from sparsam.shapes.state import Node, Snapshot, TooLarge

WORTH = (
    12  # calls of the framework in a statement that decided about sizes alone, for its end to be looked at
)
_VALUE = re.compile(r"\b(?:s|zf)_v\d+\b")


@dataclasses.dataclass(eq=False)
class Visit:
    """A run came by a place in a state.

    Args:
        run: Its number.
        known: What it knew about the symbols that were left, as text with its symbols.
        position: How many literals it had.
        prefix: These literals.
        asked: Symbols that it, and those that split off behind this place, asked about afterwards.
        after: Visits into which such runs merged: what they asked about follows here, too.
    """

    run: int
    known: frozenset[tuple[str, frozenset[str]]]
    position: int
    prefix: tuple[sympy.Basic, ...]
    asked: set[str] = dataclasses.field(default_factory=set)
    after: list["Visit"] = dataclasses.field(default_factory=list)

    def follows(self) -> set[str]:
        """All symbols that what follows depends on."""
        found: set[str] = set()
        todo, seen = [self], {id(self)}
        while todo:
            visit = todo.pop()
            found |= visit.asked
            for other in visit.after:
                if id(other) not in seen:
                    seen.add(id(other))
                    todo.append(other)
        return found


class Memory:
    """What the runs of one exploration leave for later ones."""

    def __init__(self) -> None:
        self.runs = 0
        self.uneven: set[Any] = set()  # (loop, path): changes otherwise than by the same amount
        self.axes: dict[Any, set[int]] = {}  # (loop, path): dimensions that change in later rounds alone
        self.apart: set[frozenset[Any]] = (
            set()
        )  # pairs of (loop, path, dimension) that are not always the same
        self.visits: dict[Any, list[Visit]] = {}
        self._of: dict[int, list[Visit]] = {}

    def begin_anew(self) -> None:
        """Forgets where runs came together, for they do not count any more."""
        self.visits.clear()
        self._of.clear()

    def finished(self, run: Run, ancestry: Sequence[tuple[int, int]]) -> None:
        """After a run: what it asked about is added to the places that it came by, and its ancestors before the split.

        Args:
            run: That has ended.
            ancestry: Number of each run that it split off from, and the position of the split in it.
        """
        self._of[run.number] = run.visits
        conditions = tuple(literal.condition for literal in run.shapes.literals)
        behind = [(visit, visit.position) for visit in run.visits]
        behind += [
            (visit, visit.position)
            for number, split in ancestry
            for visit in self._of.get(number, ())
            if visit.position <= split
        ]
        for visit, position in behind:
            same = conditions[:position] == visit.prefix
            visit.asked |= run.shapes.asked_since(position if same else 0)
            if run.merged is not None and run.merged is not visit:
                visit.after.append(run.merged)


def fork(site: int) -> None:
    """Before a statement of the program."""
    run = current()
    if run is not None:
        run.forks[id(sys._getframe(1)), site] = (len(run.shapes.literals), run.operations)


def join(site: int) -> None:
    """After a statement of the program.

    Raises:
        Stop: If what follows was followed before.
    """
    run = current()
    if run is None or run.plain:
        return
    frame = sys._getframe(1)
    before = run.forks.pop((id(frame), site), None)
    if before is None or not _forked(run, *before):
        return
    count = run.joins[site] = run.joins.get(site, 0) + 1
    if not _split_off(run):
        return
    found = _key(run, frame, site, count)
    if found is None:
        return
    key, known = found
    seen = run.memory.visits.setdefault(key, [])
    for visit in seen:
        if visit.run != run.number and covers(visit, known):
            run.merged = visit
            raise Stop(None, "merged")
    literals = run.shapes.literals
    visit = Visit(run.number, known, len(literals), tuple(literal.condition for literal in literals))
    seen.append(visit)
    run.visits.append(visit)


def covers(visit: Visit, known: frozenset[tuple[str, frozenset[str]]]) -> bool:
    """Whether what follows a visit holds for all that is known now: whether it assumed nothing more that it asked about."""
    more = visit.known - known
    if not more:
        return True
    asked = visit.follows()
    linked = True
    while linked:
        linked = False
        for _, symbols in visit.known | known:
            if symbols & asked and not symbols <= asked:
                asked |= symbols
                linked = True
    return not any(symbols & asked for _, symbols in more)


def _split_off(run: Run) -> bool:
    """Whether the run has passed the decision that made it another one."""
    if run.split is None:
        return True
    return any(literal.condition == run.split for literal in run.shapes.literals)


def _forked(run: Run, literals: int, operations: int) -> bool:
    """Whether something worth looking at was decided since."""
    new = [literal for literal in run.shapes.literals[literals:] if literal.kind == "guard"]
    if not new:
        return False
    return run.operations - operations >= WORTH or any(_about_values(run, literal) for literal in new)


def _about_values(run: Run, literal: Literal) -> bool:
    return any(printed(symbol) in run.shapes.fresh for symbol in literal.condition.free_symbols)


def _key(
    run: Run, frame: types.FrameType, site: int, count: int
) -> tuple[Any, frozenset[tuple[str, frozenset[str]]]] | None:
    try:
        with run.shapes.unrecorded():
            state = Snapshot(frame, run.places)
    except TooLarge:
        return None
    renamed: dict[str, str] = {}
    shape = tuple((key, _text(node, renamed)) for key, node in sorted(state.roots.items()))
    known = []
    for literal in run.shapes.literals:
        names = {symbol.name for symbol in literal.condition.free_symbols}
        sizes = any(not _VALUE.fullmatch(name) for name in names)
        if sizes or any(name in renamed for name in names):
            text = _renamed(str(literal.condition), renamed)
            known.append((text, frozenset(renamed.get(name, name) for name in names)))
    settings = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.is_autocast_enabled())
    return (site, count, _stack(run, frame), shape, settings), frozenset(known)


def _stack(run: Run, frame: types.FrameType | None) -> tuple[Any, ...]:
    found = []
    while frame is not None:
        if run.places.own(frame.f_code.co_filename):
            found.append((frame.f_code.co_filename, frame.f_code.co_firstlineno, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


def _text(node: Node, renamed: dict[str, str]) -> Any:
    """A snapshot as a value to compare: symbols of values by the order in which they are met."""
    value = node.value
    if node.kind == "tensor":
        value = _renamed(_written(value), renamed)
    elif node.kind == "number":
        value = (type(node.held).__name__, _renamed(str(value), renamed))
    elif node.kind == "atom" and isinstance(node.held, str):
        value = node.held if not _VALUE.search(node.held) else ""
    elif node.kind == "atom" and isinstance(node.held, type):
        # Each run makes the program's classes anew.
        value = f"{node.held.__module__}.{node.held.__qualname__}"
    children = tuple((str(key), _text(child, renamed)) for key, child in node.children.items())
    return node.kind, str(value) if not isinstance(value, (str, tuple)) else value, children


@functools.lru_cache(maxsize=4096)
def _written(value: Any) -> str:
    return str(value)


def _renamed(text: str, renamed: dict[str, str]) -> str:
    if "_v" not in text:
        return text
    return _VALUE.sub(lambda match: renamed.setdefault(match.group(), f"w{len(renamed)}"), text)
