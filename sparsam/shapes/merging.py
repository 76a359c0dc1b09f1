"""Branches that come together: a piece of the program is followed once from each state that it begins in.

After a statement that asked something about symbols, the state of a run is written down: all that can be reached from
the program's variables, where its frames and loops stand, but not what is known about the symbols. Runs with the same
state are at the same node. What a run did between two nodes is an edge, which holds wherever its answers do, whatever
else is known: n coin tosses cost n + 1 runs and not 2^n, and the cases of a training loop add to those of the test behind
it, in each pass over both, where they would multiply.

A set of sizes that arrives at a node (`Arrival`) is divided among the edges that begin there; what no edge covers is a
region for the next run. So all is covered once each run's rest and each arrival has been looked at, in any order. An
arrival that is like one that was followed in all that is asked behind the node waits to the end, and is dropped then if it
still is (`Memory.resume`).

To look whether a state was seen before is what model checkers call stateful search; to let what was followed from a node
answer for those that arrive there later, whose symbols differ, is compositional testing (Godefroid, POPL 2007).

Symbols of values are the n-th that a run asked for, and another number in each run: at a node those that the state
contains have names by the order in which they occur, `w0`, `w1`, …, and those born behind it by birth, `f0`, `f1`, ….
"""

import dataclasses
import functools
import hashlib
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch

from sparsam.shapes import evaluate, modules, overlay, process
from sparsam.shapes.environment import Literal, Number, Unknown, printed, symbols_of, sympy_symbol
from sparsam.shapes.guesses import Seen
from sparsam.shapes.project import facts, project, written
from sparsam.shapes.rewrite import ENTRY, MARK
from sparsam.shapes.run import ENVIRONMENT, FILES, HOOKED, Run, Stop, current
from sparsam.shapes.solver import needed
from sparsam.shapes.state import Snapshot, TooLarge, described
from sparsam.shapes.verdict import Place, Symbol

WORTH = 12  # calls of the framework in a statement that asked about sizes alone, for its end to be looked at
STUCK = 16  # runs that do not show what a loop's round changes, after which others come together within these rounds
ROOT = "root"  # the node where the program begins
_NUMBER = re.compile(r"[-+.\de]+")  # of the command line: one of many that stand for the same symbol
_BORN = re.compile(r"f\d+")
_NAMES = re.compile(r"\b(?:s|zf)_(v\d+)\b")


@dataclasses.dataclass(eq=False)
class Visit:
    """A run came by a node.

    Args:
        node: Its key.
        site: Of the statement that ends there.
        position: How many literals the run had.
        values: How many symbols of values.
        names: Symbol of the run for each name that the state has at the node, as printed.
        known: What was known about sizes and the values in the state.
    """

    node: str
    site: Any
    position: int = 0
    values: int = 0
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    known: tuple[sympy.Basic, ...] = ()


@dataclasses.dataclass(eq=False)
class Edge:
    """What a run did from one node to the next, in names of the first.

    Args:
        decided: What it decided on the way, in order, with its literal.
        implied: What it asked beside and knew already.
        texts: What it decided, and all that it knew about the symbols that it asked about, as texts: more than is needed.
        end: The next node, None where the run ended.
        site: Of the statement that ends there.
        leaving: Names at the next node, in names of the first.
        born: Number of symbols of values born on the way.
        hints: Of these, by name.
        symbols: These and all sizes, by name.
    """

    decided: tuple[tuple[sympy.Basic, Literal], ...]
    implied: tuple[sympy.Basic, ...]
    texts: frozenset[str]
    end: str | None
    site: Any
    leaving: Mapping[str, str]
    born: int
    hints: Mapping[str, Number]
    symbols: Mapping[str, Symbol]

    def conditions(self) -> Iterator[sympy.Basic]:
        """All that has to hold for a run to go this way."""
        for condition, _ in self.decided:
            yield condition
        yield from self.implied


@dataclasses.dataclass(frozen=True, eq=False)
class Arrival:
    """Sizes that arrive at a node, in names of the run that would take this way.

    Args:
        node: Its key.
        site: Of the statement that ends there.
        conditions: Hold for all of them.
        names: Symbol for each name that the state has at the node.
        values: How many symbols of values have been born.
        hints: Of one of them.
        symbols: That occur, as printed.
        specialised: How often each place had a size turned into a number on the way.
        split: The decision that goes the other way here, None for the whole.
        ready: Number of edges at the node when this was found to be covered by none of them, -1 before that was looked at.
        known: What the conditions say of sizes and of values that the node knows, from then on.
        came: Whether it came to the node along an edge, or as a run that ended there.
    """

    node: str
    site: Any
    conditions: tuple[sympy.Basic, ...]
    names: Mapping[str, str]
    values: int
    hints: Mapping[str, Number]
    symbols: Mapping[str, Symbol]
    specialised: tuple[Place | None, ...] = ()
    split: Literal | None = None
    ready: int = -1
    known: tuple[sympy.Basic, ...] = ()
    came: bool = False


AGAIN = -2  # `ready` of an arrival that has waited
# Whether there are sizes for which some conditions hold that others are to be added to, beside those of an arrival.
Solve = Callable[
    [tuple[sympy.Basic, ...], tuple[sympy.Basic, ...], Arrival], tuple[str, Mapping[str, Number]]
]


class Memory:
    """What the runs of one exploration leave for later ones."""

    def __init__(self) -> None:
        self.loops = Seen()
        self.gradients = False  # whether the program may look at gradients: otherwise they are no state
        self.edges: dict[str, list[Edge]] = {}
        self.sites: dict[Any, set[Place | None]] = {}  # statements that have decided something, and where
        self.forks: dict[Place | None, bool] = {}  # whether what is asked at a line was seen to go both ways
        self.failures = 0  # runs whose rounds were to show what one changes and did not, since one did
        self.alone = False  # whether each run goes to its end: where a run did not take the way foretold
        self.waiting: list[
            Arrival
        ] = []  # that are like another in all that is asked behind their node, as far as is known
        self.parked: list[Arrival] = []  # in which a loop's round begins as no round does, as far as is known
        self.partial: set[str] = set()  # nodes from which some run went where nobody else can go
        self._arrived: set[tuple[str, frozenset[str]]] = set()
        self._followed: dict[
            str, list[tuple[sympy.Basic, ...]]
        ] = {}  # what was known of those that went on from a node
        self._like: dict[tuple[str, frozenset[str]], tuple[int, set[frozenset[str]]]] = {}
        self._behind: dict[str, frozenset[str] | None] = {}  # what is asked from a node on, …
        self._state = (0, 0)  # … with so many edges and partial nodes

    def begin_anew(self) -> None:
        """Forgets where runs came together, for they do not count any more."""
        for group in (
            self.edges,
            self.waiting,
            self.parked,
            self.partial,
            self._arrived,
            self._followed,
            self._like,
            self._behind,
        ):
            group.clear()

    def learns_of_gradients(self, seen: bool) -> bool:
        """After a run that has shown whether the program may look at them: whether that was not known."""
        new = seen and not self.gradients
        if new:
            self.gradients, self.loops = True, Seen()
        return new

    def stuck(self) -> bool:
        """Whether rounds that are to show what one changes do not, again and again: then runs come together in them, too."""
        return self.failures > STUCK

    def judge(self, place: Place | None, both: bool) -> None:
        """What is asked at a line can go both ways, or could not this time."""
        self.forks[place] = both or self.forks.get(place, False)

    def finished(self, run: Run) -> None:
        """After a run that came to an end of its own."""
        if run.visits:
            self._add(run, run.visits[-1], None)

    def passed(self, run: Run, visit: Visit) -> None:
        """A run comes by a node: the edge from the one before ends."""
        if run.visits:
            self._add(run, run.visits[-1], visit)
        run.visits.append(visit)

    def _add(self, run: Run, before: Visit, after: Visit | None) -> None:
        asked, answers = run.shapes.asked_anew()
        position = len(run.shapes.literals) if after is None else after.position
        values = run.shapes.values if after is None else after.values
        own = Renaming(
            {symbol: name for name, symbol in before.names.items()}
            | {f"v{n}": f"f{n - before.values}" for n in range(before.values, values)}
        )
        literals = run.shapes.literals[before.position : position]
        decided = tuple((own(literal.condition), literal) for literal in literals)
        leaving = {} if after is None else {name: own.name(s) for name, s in after.names.items()}
        if any(map(_hidden, leaving.values())) or any(
            map(_foreign, (*map(own, answers), *(condition for condition, _ in decided)))
        ):
            # What follows depends on a value that the state does not show: nobody else can go this way.
            self.partial.add(before.node)
            return
        known = {condition for condition, _ in decided}
        implied = tuple(condition for condition in map(own, answers) if condition not in known)
        beside = map(own, linked(before.known, asked))
        guards = (condition for condition, literal in decided if literal.kind == "guard")
        edge = Edge(
            decided,
            implied,
            facts(dict.fromkeys((*beside, *guards)), _hidden),
            None if after is None else after.node,
            None if after is None else after.site,
            leaving,
            values - before.values,
            {own.name(name): hint for name, hint in run.shapes.hints.items()},
            {own.name(name): symbol for name, symbol in run.shapes.symbols.items()},
        )
        edges = self.edges.setdefault(before.node, [])
        if not any(edge.texts == other.texts and edge.end == other.end for other in edges):
            edges.append(edge)

    def leads_to_the_end(self, visit: Visit, hints: Mapping[str, Number]) -> bool:
        """Whether the way of these sizes from a node was followed to the end of the program already."""
        node, names, values, sizes = visit.node, dict(visit.names), visit.values, dict(hints)
        seen = set()
        while (node, tuple(names.values()), values) not in seen:
            seen.add((node, tuple(names.values()), values))
            for edge in self.edges.get(node, ()):
                outer = _outer(names, values, edge)
                there = sizes | _born_hints(edge, outer)
                if all(_holds(condition, outer, there) for condition in edge.conditions()):
                    break
            else:
                return False
            if edge.end is None:
                return True
            node, sizes, values = edge.end, there, values + edge.born
            names = {name: outer.name(inner) for name, inner in edge.leaving.items()}
        return True

    def cover(self, arrival: Arrival, solve: Solve) -> tuple[list[Arrival], list[Arrival]]:
        """Divides an arrival among the edges that begin at its node.

        Args:
            arrival: What arrives.
            solve: Looks for sizes for which all of some conditions hold.

        Returns:
            Where its parts arrive next, and the parts that no edge covers.
        """
        own = _own_names(arrival)
        known = tuple(project(arrival.conditions, lambda name: _hidden(own.name(name))))
        arrival = dataclasses.replace(arrival, known=known)
        there = tuple(map(own, known))
        texts = facts(there, _hidden)
        if arrival.ready < 0:
            if (arrival.node, texts) in self._arrived:
                return [], []
            if arrival.came and arrival.ready != AGAIN and self._is_like_another(arrival.node, there):
                self.waiting.append(arrival)
                return [], []
            self._arrived.add((arrival.node, texts))
            self._followed.setdefault(arrival.node, []).append(there)
        edges = self.edges.get(arrival.node, [])
        for edge in edges:
            if edge.texts <= texts:
                return _follow(arrival, edge, arrival.hints), []
        found: list[Arrival] = []
        rest = [arrival]
        for edge in edges:
            outer = _outer(arrival.names, arrival.values, edge)
            conditions = tuple(map(outer, edge.conditions()))
            left: list[Arrival] = []
            for part in rest:
                named = dataclasses.replace(part, symbols=_symbols(part, edge, outer))
                kind, sizes = solve(part.known, conditions, named)
                if kind != "sat":
                    left.append(part)
                    continue
                found += _follow(named, edge, sizes)
                left += _without(named, edge, outer, solve)
            rest = left
        return found, [dataclasses.replace(part, ready=len(edges)) for part in rest]

    def resume(self) -> list[Arrival]:
        """Of those that wait one that is not like any other after all; nothing once all are.

        To be called when all others have been followed. First come those in which a loop's round begins as one was seen to
        meanwhile: where there is none, no round begins like those that are left, by induction. As long as one is left that
        is not like another, what it leads to may ask more, and all that wait go on waiting. Once there is none, each goes
        where another went: they have the same answers to all that is asked on the way, and so on at the next node, whether
        that other was followed from there or waits itself.
        """
        for arrival in self.parked:
            if not self.begins_like_none(arrival):
                self.parked.remove(arrival)
                return [arrival]
        for number, arrival in enumerate(self.waiting):
            own = _own_names(arrival)
            if not self._is_like_another(arrival.node, tuple(map(own, arrival.known))):
                del self.waiting[number]
                return [dataclasses.replace(arrival, ready=AGAIN)]
        self.waiting.clear()
        self.parked.clear()
        return []

    def begins_like_none(self, arrival: Arrival) -> bool:
        """Whether a loop's round begins here as none does, as far as is known."""
        choice = self.loops.choices.get(arrival.split) if arrival.split is not None else None
        if choice is None:
            return False
        place, known, none = choice
        return known == len(self.loops.variants[place]) and _says(arrival.conditions, none)

    def _is_like_another(self, node: str, known: tuple[sympy.Basic, ...]) -> bool:
        """Whether as much is known as of one that was followed, about all that is asked behind the node."""
        followed = self._followed.get(node, [])
        asked = self._asked(node) if followed else None
        if asked is None:
            return False
        count, like = self._like.get((node, asked), (0, set()))
        for other in followed[count:]:
            like.add(_of_interest(other, asked))
        self._like[node, asked] = len(followed), like
        return _of_interest(known, asked) in like

    def _asked(self, node: str) -> frozenset[str] | None:
        """What the edges from a node on ask about, by its names at the node; None where not all that follows are edges."""
        state = sum(map(len, self.edges.values())), len(self.partial)
        if state != self._state:
            self._state = state
            self._behind.clear()
        if node not in self._behind:
            self._behind[node] = self._asked_behind(node)
        return self._behind[node]

    def _asked_behind(self, node: str) -> frozenset[str] | None:
        order, seen = [node], {node}
        for at in order:
            if at in self.partial:
                return None
            for edge in self.edges.get(at, ()):
                if edge.end is not None and edge.end not in seen:
                    seen.add(edge.end)
                    order.append(edge.end)
        asked: dict[str, set[str]] = {at: set() for at in order}
        changed = True
        while changed:
            changed = False
            for at in reversed(order):
                for edge in self.edges.get(at, ()):
                    names = {
                        printed(symbol) for condition in edge.conditions() for symbol in symbols_of(condition)
                    }
                    if edge.end is not None:
                        names |= {edge.leaving.get(name, name) for name in asked[edge.end]}
                    new = {name for name in names if not _BORN.fullmatch(name)} - asked[at]
                    if new:
                        asked[at] |= new
                        changed = True
        return frozenset(asked[node])


def _says(conditions: tuple[sympy.Basic, ...], one: sympy.Basic) -> bool:
    """Whether the last of some conditions is one about one symbol, by whatever name."""
    (symbol,), others = symbols_of(one), symbols_of(conditions[-1]) if conditions else ()
    return len(others) == 1 and conditions[-1] == one.xreplace({symbol: next(iter(others))})


@functools.lru_cache(maxsize=65536)
def _of_interest(known: tuple[sympy.Basic, ...], asked: frozenset[str]) -> frozenset[str]:
    """What is known about symbols that are asked about, and about those born since."""

    def gone(name: str) -> bool:
        return name not in asked and not _BORN.fullmatch(name)

    return facts(project(known, gone), gone)


def _own_names(arrival: Arrival) -> "Renaming":
    """From names of a run to those of the node that an arrival is at, and of what is born behind it."""
    return Renaming(
        {symbol: name for name, symbol in arrival.names.items()}
        | {f"v{n}": f"f{n - arrival.values}" for n in range(arrival.values, _last(arrival.conditions) + 1)}
    )


class Renaming:
    """Other names for symbols of values.

    Args:
        names: New names by old, both as printed.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def name(self, name: str) -> str:
        """The new name, as printed."""
        return self.names.get(name, name)

    def __call__(self, condition: sympy.Basic) -> sympy.Basic:
        names = self.names
        changed = tuple((s, new) for s in symbols_of(condition) if (new := names.get(printed(s))) is not None)
        return _renamed(condition, frozenset(changed)) if changed else condition


@functools.lru_cache(maxsize=65536)
def _renamed(condition: sympy.Basic, changed: frozenset[tuple[sympy.Symbol, str]]) -> sympy.Basic:
    return condition.xreplace({symbol: _symbol(name, symbol) for symbol, name in changed})


def _symbol(name: str, like: sympy.Symbol) -> sympy.Symbol:
    return sympy_symbol(Unknown(name, integer=bool(like.is_integer), kind="value"))


def _outer(names: Mapping[str, str], values: int, edge: Edge) -> Renaming:
    """From names of an edge to those of a run that goes along it."""
    return Renaming({**names, **{f"f{n}": f"v{values + n}" for n in range(edge.born)}})


def _born_hints(edge: Edge, outer: Renaming) -> dict[str, Number]:
    return {
        outer.name(name): hint for name, hint in edge.hints.items() if name[0] == "f" and name in outer.names
    }


def _symbols(arrival: Arrival, edge: Edge, outer: Renaming) -> dict[str, Symbol]:
    """Those of the arrival, and those born along the edge; what it has under these names is of another run."""
    there = {outer.name(name): (name, symbol) for name, symbol in edge.symbols.items() if not _hidden(name)}
    return {
        **{name: symbol for name, (_, symbol) in there.items()},
        **arrival.symbols,
        **{
            name: symbol
            for name, (inner, symbol) in there.items()
            if inner in outer.names and inner[0] == "f"
        },
    }


def _follow(arrival: Arrival, edge: Edge, sizes: Mapping[str, Number]) -> list[Arrival]:
    if edge.end is None:
        return []
    outer = _outer(arrival.names, arrival.values, edge)
    new = list(map(outer, edge.conditions()))
    specialised = [literal.place for _, literal in edge.decided if literal.specialised]
    given = {printed(symbol) for condition in (*arrival.conditions, *new) for symbol in symbols_of(condition)}
    return [
        Arrival(
            edge.end,
            edge.site,
            tuple(dict.fromkeys((*arrival.conditions, *new))),
            {name: outer.name(inner) for name, inner in edge.leaving.items()},
            arrival.values + edge.born,
            {**sizes, **_born_hints(edge, outer), **{name: sizes[name] for name in given if name in sizes}},
            _symbols(arrival, edge, outer),
            (*arrival.specialised, *specialised),
            arrival.split,
            came=True,
        )
    ]


def _without(part: Arrival, edge: Edge, outer: Renaming, solve: Solve) -> Iterator[Arrival]:
    """What an edge does not cover of an arrival: for each of its conditions, where it is the first not to hold."""
    prefix = dict.fromkeys(part.conditions)
    known = dict.fromkeys(part.known)
    specialised = part.specialised
    steps: list[tuple[sympy.Basic, Literal | None]] = [(condition, None) for condition in edge.implied]
    for inner, literal in (*edge.decided, *steps):
        condition = outer(inner)
        if condition in prefix:
            continue
        if literal is None or literal.kind == "guard":
            if literal is not None and literal.specialised:
                specialised = (*specialised, literal.place)
            for denied in (*(n for n in needed(condition) if n not in prefix), condition):
                other = sympy.Not(denied)
                kind, sizes = solve(tuple(known), (other,), part)
                if kind != "unsat":
                    yield dataclasses.replace(
                        part,
                        conditions=(*prefix, other),
                        known=(*known, other),
                        hints=sizes,
                        specialised=specialised,
                        split=literal or part.split,
                    )
        prefix[condition] = known[condition] = None


def _holds(condition: sympy.Basic, outer: Renaming, sizes: Mapping[str, Number]) -> bool:
    model = {}
    for symbol in symbols_of(condition):
        name = outer.name(printed(symbol))
        if name not in sizes:
            return False
        model[symbol.name] = sizes[name]
    return evaluate.holds(_function(condition), model) is True


@functools.lru_cache(maxsize=8192)
def _function(condition: sympy.Basic) -> Callable[[Mapping[str, Any]], Any]:
    return evaluate.function(condition)


def _hidden(name: str) -> bool:
    """Whether this is no size, and no name at a node: a value that the state does not show."""
    return name[0] == "v" and name[1:].isdigit()


def _foreign(condition: sympy.Basic) -> bool:
    return any(_hidden(printed(symbol)) for symbol in symbols_of(condition))


def _last(conditions: Iterable[sympy.Basic]) -> int:
    """The largest number of a symbol of a value."""
    names = (printed(symbol) for condition in conditions for symbol in symbols_of(condition))
    return max((int(name[1:]) for name in names if _hidden(name)), default=-1)


def linked(known: Iterable[sympy.Basic], asked: set[str]) -> list[sympy.Basic]:
    """What was known about symbols that were asked about, and about those that it links them with."""
    left = [(condition, {symbol.name for symbol in symbols_of(condition)}) for condition in known]
    reached, found, grown = set(asked), [], True
    while grown:
        grown = False
        for item in list(left):
            if item[1] & reached:
                reached |= item[1]
                found.append(item[0])
                left.remove(item)
                grown = True
    return found


def fork(site: int) -> int:
    """Before a statement of the program: how many have begun or been left behind."""
    run = current()
    if run is None:
        return 0
    frame = sys._getframe(1)
    run.forks[id(frame), site] = (
        len(run.shapes.literals), run.operations, run.shapes.questions, run.shapes.value_questions,
    )  # fmt: skip
    return run.pass_by()


def last() -> int:
    """Before a statement behind which nothing comes together: how many have begun or been left behind."""
    run = current()
    return 0 if run is None else run.pass_by()


def enter() -> int:
    """When a function of the program begins: how much has been decided."""
    run = current()
    return 0 if run is None else len(run.shapes.literals)


def join(site: int) -> int:
    """After a statement of the program: how many have begun or been left behind.

    Raises:
        Stop: If what follows was followed before.
    """
    run = current()
    if run is None or run.plain:
        return 0
    run.pass_by()
    frame = sys._getframe(1)
    before = run.forks.pop((id(frame), site), None)
    if before is not None and not run.memory.alone:
        _look(run, frame, (frame.f_code.co_filename, site), before)
    return run.passes


def _look(run: Run, frame: types.FrameType, site: Any, before: tuple[int, int, int, int]) -> None:
    memory, shapes = run.memory, run.shapes
    if run.learning and not memory.stuck():
        return  # later runs do not come by here
    literals, operations, questions, value_questions = before
    places = {literal.place for literal in shapes.literals[literals:] if literal.kind == "guard"}
    if not places and site not in memory.sites:
        return
    memory.sites.setdefault(site, set()).update(places)
    if run.visits:
        if not any(memory.forks.get(place, True) for place in memory.sites[site]):
            return  # all sizes go the same way, as far as was seen
        about_values = shapes.value_questions > value_questions
        worth = shapes.questions > questions and run.operations - operations >= WORTH
        if not worth and not about_values:
            return
    elif run.beyond is None or site != run.beyond[1]:
        return
    _arrive(run, frame, site)


def come_by(run: Run, frame: types.FrameType, place: Place | None, without: Sequence[Any]) -> None:
    """At the head of a round that stands for all: what `without` names is about to be set, and makes no difference.

    Raises:
        Stop: If what follows was followed before.
    """
    site = (frame.f_code.co_filename, ("round", place.line if place else 0, place.column if place else 0))
    if run.plain or run.learning or run.memory.alone:
        return
    if run.visits or (run.beyond is not None and site == run.beyond[1]):
        _arrive(run, frame, site, without)


def _arrive(run: Run, frame: types.FrameType, site: Any, without: Sequence[Any] = ()) -> None:
    memory, shapes = run.memory, run.shapes
    pending = _pending(run, frame)
    if pending and run.visits and pending[0] < run.visits[-1].position:
        return  # the last node does not show what was decided before it
    visit = _visit(run, frame, site, pending, without)
    if visit is None:
        return
    if not run.visits:
        if run.beyond is not None and visit.node == run.beyond[0]:
            shapes.asked_anew()  # what was asked before belongs to edges of other runs
            run.visits.append(visit)
        return
    memory.passed(run, visit)
    if memory.leads_to_the_end(visit, shapes.hints):
        run.merged = visit
        raise Stop(None, "merged")


def _visit(
    run: Run, frame: types.FrameType, site: Any, pending: tuple[int, ...], without: Sequence[Any]
) -> Visit | None:
    try:
        with run.shapes.unrecorded():
            state = Snapshot(
                frame,
                run.places,
                [*(loop.over for loop in run.rounds), *_inputs(frame)],
                gradients=run.memory.gradients,
            )
    except TooLarge:
        return None
    text = (
        state.text(without)
        + state.beside(without)
        + "".join(induction.text() for induction in run.inductions)
    )
    text += described({kind: dict(sorted(run.notes.get(kind, {}).items())) for kind in FILES})
    renamed: dict[str, str] = {}
    text = _NAMES.sub(lambda match: renamed.setdefault(match.group(1), f"w{len(renamed)}"), text)
    # What was decided counts, and not about which of the values that no variable shows.
    others = dict(renamed)
    decided = "".join(written(run.shapes.literals[number].condition) for number in pending)
    text += _NAMES.sub(lambda match: others.setdefault(match.group(1), f"p{len(others)}"), decided)
    sizes = sorted(name for name, symbol in run.shapes.symbols.items() if symbol.kind == "size")
    where = (site, _stack(run, frame), [tuple(loop.at) for loop in run.rounds], sizes, _settings(run))
    key = hashlib.sha256(f"{where}{text}".encode("utf-8", "surrogatepass")).hexdigest()
    literals = run.shapes.literals
    known = project(
        (literal.condition for literal in literals), lambda name: _hidden(name) and name not in renamed
    )
    return Visit(
        key,
        site,
        len(literals),
        run.shapes.values,
        {name: symbol for symbol, name in renamed.items()},
        tuple(known),
    )


def _pending(run: Run, frame: types.FrameType | None) -> tuple[int, ...]:
    """Numbers of what was decided in expressions that callers are in the middle of, before they called.

    It may have made values that lie on a caller's stack, where no variable shows them: the first items of a list that
    is being made, an argument beside the one that is being worked out.
    """
    found: list[int] = []
    began: int | None = None  # when the call began that is in progress
    called: int | None = None  # the same, of a module, if nothing but modules lies between
    plain = True
    while frame is not None:
        names = frame.f_locals
        if run.places.own(frame.f_code.co_filename):
            start = run.decided[names[MARK]] if MARK in names else names.get(ENTRY)
            until = called if plain and called is not None else began
            if until is not None and start is not None:
                literals = run.shapes.literals
                found += (at for at in range(start, until) if literals[at].kind == "guard")
            if frame.f_code.co_flags & inspect.CO_GENERATOR:
                began = len(
                    run.shapes.literals
                )  # when it went on is not known: at most all belongs to the caller
            else:
                began = names.get(ENTRY, began)
            called, plain = None, True
        elif frame.f_code is modules.called.__code__:
            called = names["entry"]
        elif frame.f_code not in modules.INNER:
            plain = False
        frame = frame.f_back
    return tuple(sorted(set(found)))


def modes(run: Run) -> tuple[Any, ...]:
    """What is set for the whole process and can change what a program does."""
    return (
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype(), torch.get_default_device(),
        torch.is_autocast_enabled(), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cuda"),
        torch.get_autocast_dtype("cpu"), os.getcwd(), sorted(run.notes.get(ENVIRONMENT, {}).items()), HOOKED in run.notes,
        [word for word in sys.argv if not _NUMBER.fullmatch(word)], process.settings(),
    )  # fmt: skip


def _settings(run: Run) -> tuple[Any, ...]:
    """The same, devices and files."""
    return (*modes(run), run.elsewhere, run.notes.get("gpu"), run.placed, overlay.written())


def _inputs(frame: types.FrameType | None) -> Iterator[Any]:
    """Of sequences of modules in progress: which module's turn it is, and what it was given."""
    while frame is not None:
        if frame.f_code is modules.SEQUENCE:
            yield tuple(frame.f_locals.get(name) for name in ("self", "module", "input"))
        frame = frame.f_back


def _stack(run: Run, frame: types.FrameType | None) -> list[tuple[Any, ...]]:
    """Where the program's frames stand; how often a library that one of them called has called the program back."""
    found = []
    library = False
    while frame is not None:
        code = frame.f_code
        if run.places.own(code.co_filename):
            mark = frame.f_locals.get(MARK) if library else None
            passed = None if mark is None else run.passes - mark
            found.append((code.co_filename, code.co_firstlineno, frame.f_lasti, passed))
        library = not run.places.own(code.co_filename) and (library or not modules.shows_where(frame))
        frame = frame.f_back
    return found
