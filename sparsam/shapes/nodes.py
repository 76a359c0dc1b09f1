"""What the runs of an exploration leave for later ones: nodes, edges between them, and how sizes are divided among these.

A run comes by nodes (:mod:`sparsam.shapes.merging`); what it did from one to the next is an edge, which holds wherever its
answers do. A set of sizes that arrives at a node (`Arrival`) is divided among the edges that begin there; what no edge
covers is a region for the next run. So all is covered once each run's rest and each arrival has been looked at, in any
order. An arrival that is like one that was followed in all that is asked behind the node waits to the end, and is dropped
then if it still is (`Memory.resume`).

Symbols of values are the n-th that a run asked for, and another number in each run: at a node those that the state
contains have names by the order in which they occur, `w0`, `w1`, …, and those born behind it by birth, `f0`, `f1`, ….
A name may stand for an expression (:mod:`sparsam.shapes.sums`): what a run asks about it is put in that name before it is
part of an edge.
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import sympy

from sparsam.shapes import evaluate
from sparsam.shapes.environment import Literal, Number, Unknown, printed, shared, symbols_of, sympy_symbol
from sparsam.shapes.guesses import Seen
from sparsam.shapes.project import facts, project
from sparsam.shapes.run import Run
from sparsam.shapes.solver import needed
from sparsam.shapes.verdict import Place, Symbol

STUCK = 16  # runs that do not show what a loop's round changes, after which others come together within these rounds
ROOT = "root"  # the node where the program begins
_BORN = re.compile(r"f\d+")
# What a name at a node stands for: a symbol of a run, as printed, or an expression whose symbols the state has nowhere else.
Meaning: TypeAlias = str | sympy.Basic


@dataclasses.dataclass(eq=False)
class Visit:
    """A run came by a node.

    Args:
        node: Its key.
        site: Of the statement that ends there.
        position: How many literals the run had.
        values: How many symbols of values.
        names: What each name that the state has at the node stands for in the run.
        known: What was known about sizes and the values in the state.
        passes: How many statements of the program had begun or been left behind.
    """

    node: str
    site: Any
    position: int = 0
    values: int = 0
    names: Mapping[str, Meaning] = dataclasses.field(default_factory=dict)
    known: tuple[sympy.Basic, ...] = ()
    passes: int = 0


@dataclasses.dataclass(frozen=True)
class Foretold:
    """Where a run comes by next, if it goes the way of another one.

    Args:
        node: Its key.
        site: Of the statement that ends there.
        passes: How many statements will have begun or been left behind.
        values: How many symbols of values will have been born.
        names: What each name that the state has there stands for in the run.
        conditions: What the other one had as answers on the way.
        outer: From the names in these to those of the run.
    """

    node: str
    site: Any
    passes: int
    values: int
    names: Mapping[str, Meaning]
    conditions: tuple[sympy.Basic, ...]
    outer: "Renaming"

    def holds(self, sizes: Mapping[str, Number]) -> bool:
        """Whether sizes, and values born on the way, have led there."""
        return all(holds(condition, self.outer, sizes) for condition in self.conditions)


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
        passes: How many statements of the program began or were left behind on the way.
    """

    decided: tuple[tuple[sympy.Basic, Literal], ...]
    implied: tuple[sympy.Basic, ...]
    texts: frozenset[str]
    end: str | None
    site: Any
    leaving: Mapping[str, Meaning]
    born: int
    hints: Mapping[str, Number]
    symbols: Mapping[str, Symbol]
    passes: int = 0

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
        names: What each name that the state has at the node stands for.
        values: How many symbols of values have been born.
        hints: Of one of them.
        symbols: That occur, as printed.
        specialised: How often each place had a size turned into a number on the way.
        split: The decision that goes the other way here, None for the whole.
        ready: Number of edges at the node when this was found to be covered by none of them, -1 before that was looked at.
        known: What the conditions say of sizes and of values that the node knows, from then on.
        came: Whether it came to the node along an edge, or as a run that ended there.
        passes: How many statements of the program have begun or been left behind.
    """

    node: str
    site: Any
    conditions: tuple[sympy.Basic, ...]
    names: Mapping[str, Meaning]
    values: int
    hints: Mapping[str, Number]
    symbols: Mapping[str, Symbol]
    specialised: tuple[Place | None, ...] = ()
    split: Literal | None = None
    ready: int = -1
    known: tuple[sympy.Basic, ...] = ()
    came: bool = False
    passes: int = 0

    def foretold(self) -> Foretold | None:
        """The node, for a run that is to come by it; None where the program begins."""
        if self.node == ROOT:
            return None
        names = self.names
        return Foretold(self.node, self.site, self.passes, self.values, names, self.conditions, Renaming({}))


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """From one node to the next along an edge.

    Args:
        node: The first.
        names: What each name that the state has there stands for in a run.
        values: How many symbols of values were born before.
        sizes: Of one run that goes this way, those born along the edge included.
        edge: The edge.
        outer: From its names to those of the run.
    """

    node: str
    names: Mapping[str, Meaning]
    values: int
    sizes: dict[str, Number]
    edge: Edge
    outer: "Renaming"

    def foretold(self, passes: int) -> Foretold | None:
        """The node that it leads to, for a run with so many passes at the first; None where the run ends."""
        edge = self.edge
        if edge.end is None:
            return None
        names = {name: self.outer.meaning(inner) for name, inner in edge.leaving.items()}
        values, conditions = self.values + edge.born, tuple(edge.conditions())
        return Foretold(edge.end, edge.site, passes + edge.passes, values, names, conditions, self.outer)


AGAIN = -2  # `ready` of an arrival that has waited
# Whether there are sizes for which some conditions hold that others are to be added to, beside those of an arrival.
Solve = Callable[
    [tuple[sympy.Basic, ...], tuple[sympy.Basic, ...], Arrival], tuple[str, Mapping[str, Number]]
]
# Values for which some conditions hold, by name as printed: of these symbols, some of which have their value already, and
# preferably these.
Find = Callable[
    [Sequence[sympy.Basic], Mapping[str, Symbol], Mapping[str, Number], Mapping[str, Number]],
    dict[str, Number] | None,
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
        self.queue: list[Arrival] = []  # what is left to run
        # looks for values that lead to what is left; the exploration gives it
        self.find: Find = lambda conditions, symbols, fixed, prefer: None
        self.alone = False  # whether each run goes to its end: where a run did not take the way foretold
        self.waiting: list[
            Arrival
        ] = []  # that are like another in all that is asked behind their node, as far as is known
        self.parked: list[Arrival] = []  # in which a loop's round begins as no round does, as far as is known
        self.apart: set[Any] = (
            set()
        )  # statements behind which symbols that occur together alone keep their names
        self.settings: dict[str, str] = {}  # of each node, what is told of it beside the values of the state
        self.mistaken = False  # whether one such was found since all began anew
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
        self.mistaken = False
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
        own = Naming(before.names, before.values, values)
        literals = run.shapes.literals[before.position : position]
        decided = tuple((own(literal.condition), literal) for literal in literals)
        leaving = {} if after is None else {name: own.meaning(s) for name, s in after.names.items()}
        if any(
            map(_foreign, (*map(own, answers), *(condition for condition, _ in decided), *leaving.values()))
        ):
            # What follows depends on a value that the state does not show: nobody else can go this way.
            self.partial.add(before.node)
            if own.sums:
                # Where that was known already, it was put together at a node before: no state is told by its names then.
                self.alone |= before.site in self.apart
                self.apart.add(before.site)
                self.mistaken = True
            return
        known = {condition for condition, _ in decided}
        implied = tuple(condition for condition in map(own, answers) if condition not in known)
        beside = own.at_the_node(linked(before.known, asked))
        guards = (condition for condition, literal in decided if literal.kind == "guard")
        edge = Edge(
            decided,
            implied,
            facts(dict.fromkeys((*beside, *guards)), hidden),
            None if after is None else after.node,
            None if after is None else after.site,
            leaving,
            values - before.values,
            {own.names.get(name, name): hint for name, hint in run.shapes.hints.items()},
            {own.names.get(name, name): symbol for name, symbol in run.shapes.symbols.items()},
            0 if after is None else after.passes - before.passes,
        )
        edges = self.edges.setdefault(before.node, [])
        if not any(edge.texts == other.texts and edge.end == other.end for other in edges):
            edges.append(edge)

    def way(self, visit: Visit, hints: Mapping[str, Number]) -> "list[Step] | None":
        """The way of these sizes from a node to the end of the program; None where it was not followed as far as that."""
        node, names, values, sizes = visit.node, visit.names, visit.values, dict(hints)
        steps: list[Step] = []
        seen = set()
        while (node, tuple(names.values()), values) not in seen:
            seen.add((node, tuple(names.values()), values))
            step = self.step(node, names, values, sizes)
            if step is None:
                return None
            steps.append(step)
            edge = step.edge
            if edge.end is None:
                break
            node, sizes, values = edge.end, step.sizes, values + edge.born
            names = {name: step.outer.meaning(inner) for name, inner in edge.leaving.items()}
        return steps

    def step(
        self,
        node: str,
        names: Mapping[str, Meaning],
        values: int,
        sizes: dict[str, Number],
        chosen: Mapping[str, Number] | None = None,
    ) -> "Step | None":
        """Along which edge sizes go on from a node, with those of its symbols for what is born there, but for `chosen`."""
        for edge in self.edges.get(node, ()):
            outer = _outer(names, values, edge)
            there = {**sizes, **_born_hints(edge, outer), **(chosen or {})}
            if all(holds(condition, outer, there) for condition in edge.conditions()):
                return Step(node, names, values, there, edge, outer)
        return None

    def cover(self, arrival: Arrival, solve: Solve) -> tuple[list[Arrival], list[Arrival]]:
        """Divides an arrival among the edges that begin at its node.

        Args:
            arrival: What arrives.
            solve: Looks for sizes for which all of some conditions hold.

        Returns:
            Where its parts arrive next, and the parts that no edge covers.
        """
        own = own_names(arrival)
        arrival = dataclasses.replace(arrival, known=own.known(arrival.conditions))
        there = own.at_the_node(arrival.known)
        texts = facts(there, hidden)
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
            own = own_names(arrival)
            if not self._is_like_another(arrival.node, own.at_the_node(arrival.known)):
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
                        for name in asked[edge.end]:
                            meaning = edge.leaving.get(name, name)
                            names |= (
                                {meaning}
                                if isinstance(meaning, str)
                                else set(map(printed, symbols_of(meaning)))
                            )
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


def own_names(arrival: Arrival) -> "Naming":
    """From names of a run to those of the node that an arrival is at, and of what is born behind it."""
    return Naming(arrival.names, arrival.values, _last(arrival.conditions) + 1)


class Renaming:
    """Other names for symbols of values.

    Args:
        names: What stands in place of each, by its name as printed.
    """

    def __init__(self, names: Mapping[str, Meaning]) -> None:
        self.names = names

    def name(self, name: str) -> Meaning:
        """What stands in its place: a name as printed, or an expression."""
        return self.names.get(name, name)

    def meaning(self, meaning: Meaning) -> Meaning:
        """The same of an expression."""
        if isinstance(meaning, str):
            return self.name(meaning)
        made = self(meaning)
        return printed(made) if made.is_Symbol else made

    def __call__(self, condition: sympy.Basic) -> sympy.Basic:
        names = self.names
        changed = tuple((s, new) for s in symbols_of(condition) if (new := names.get(printed(s))) is not None)
        return _renamed(condition, frozenset(changed)) if changed else condition


class Naming(Renaming):
    """From names of a run to those of a node.

    Args:
        names: What each name at the node stands for.
        values: How many symbols of values were born before it, …
        until: … and behind it until where this is used.
    """

    def __init__(self, names: Mapping[str, Meaning], values: int, until: int) -> None:
        super().__init__(
            {symbol: name for name, symbol in names.items() if isinstance(symbol, str)}
            | {f"v{n}": f"f{n - values}" for n in range(values, until)}
        )
        self.sums = tuple(
            (expression, _symbol(name, expression))
            for name, expression in names.items()
            if isinstance(expression, sympy.Basic)
        )
        # Symbols that the node knows, if not by a name of their own: in how many expressions.
        self.within = collections.Counter(
            printed(symbol) for expression, _ in self.sums for symbol in symbols_of(expression)
        )

    def __call__(self, condition: sympy.Basic) -> sympy.Basic:
        for expression, symbol in self.sums:
            if symbols_of(expression) & symbols_of(condition):
                condition = self._put(condition, expression, symbol)
        return super().__call__(condition)

    def _put(self, condition: sympy.Basic, expression: sympy.Basic, symbol: sympy.Symbol) -> sympy.Basic:
        condition = condition.xreplace({expression: symbol})
        for term in expression.args if expression.is_Add else ():
            times, one = term.as_coeff_Mul()
            if (
                not one.is_Symbol
                or abs(times) != 1
                or not hidden(printed(one))
                or printed(one) in self.names
                or self.within[printed(one)] > 1
            ):
                continue
            if one in symbols_of(condition):
                condition = condition.xreplace({one: times * (symbol - (expression - term))})
                if isinstance(condition, sympy.core.relational.Relational) and any(
                    hidden(printed(left)) and printed(left) not in self.names
                    for left in symbols_of(condition)
                ):
                    condition = condition.func(sympy.expand(condition.lhs - condition.rhs), 0)
            break
        return condition

    def known(self, conditions: Iterable[sympy.Basic]) -> tuple[sympy.Basic, ...]:
        """What conditions say of what the node knows, in names of the run."""
        return tuple(
            project(conditions, lambda name: hidden(self.names.get(name, name)) and name not in self.within)
        )

    def at_the_node(self, conditions: Iterable[sympy.Basic]) -> tuple[sympy.Basic, ...]:
        """The same in names of the node."""
        if not self.sums:
            return tuple(map(self, conditions))
        said = list(map(self, conditions))
        plain = Renaming(self.names)
        said += [sympy.Eq(symbol, plain(expression)) for expression, symbol in self.sums]
        return tuple(dict.fromkeys(project(said, hidden)))


@functools.lru_cache(maxsize=65536)
def _renamed(condition: sympy.Basic, changed: frozenset[tuple[sympy.Symbol, Meaning]]) -> sympy.Basic:
    return shared(
        condition.xreplace({s: _symbol(new, s) if isinstance(new, str) else new for s, new in changed})
    )


def _symbol(name: str, like: sympy.Basic) -> sympy.Symbol:
    return sympy_symbol(Unknown(name, integer=bool(like.is_integer), kind="value"))


def _outer(names: Mapping[str, Meaning], values: int, edge: Edge) -> Renaming:
    """From names of an edge to those of a run that goes along it."""
    return Renaming({**names, **{f"f{n}": f"v{values + n}" for n in range(edge.born)}})


def _born_hints(edge: Edge, outer: Renaming) -> dict[str, Number]:
    return {
        born: hint
        for name, hint in edge.hints.items()
        if name[0] == "f" and isinstance(born := outer.names.get(name), str)
    }


def _symbols(arrival: Arrival, edge: Edge, outer: Renaming) -> dict[str, Symbol]:
    """Those of the arrival, and those born along the edge; what it has under these names is of another run."""
    there = {
        new: (name, symbol)
        for name, symbol in edge.symbols.items()
        if not hidden(name) and isinstance(new := outer.name(name), str)
    }
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
            {name: outer.meaning(inner) for name, inner in edge.leaving.items()},
            arrival.values + edge.born,
            {**sizes, **_born_hints(edge, outer), **{name: sizes[name] for name in given if name in sizes}},
            _symbols(arrival, edge, outer),
            (*arrival.specialised, *specialised),
            arrival.split,
            came=True,
            passes=arrival.passes + edge.passes,
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
                other = shared(sympy.Not(denied))
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


def holds(condition: sympy.Basic, outer: Renaming, sizes: Mapping[str, Number]) -> bool:
    """Whether a condition holds for sizes, by their names after a renaming."""
    model = {}
    for symbol in symbols_of(condition):
        name = outer.name(printed(symbol))
        value = sizes.get(name) if isinstance(name, str) else _value(name, sizes)
        if value is None:
            return False
        model[symbol.name] = value
    return evaluate.holds(_function(condition), model) is True


def _value(expression: sympy.Basic, sizes: Mapping[str, Number]) -> Number | None:
    """Of an expression, None where not all of its symbols have one or it has none for them."""
    model = {symbol.name: sizes.get(printed(symbol)) for symbol in symbols_of(expression)}
    if None in model.values():
        return None
    try:
        value: Number = _function(expression)(model)
    except (evaluate.Undefined, evaluate.TooLarge):
        return None
    return value


@functools.lru_cache(maxsize=8192)
def _function(condition: sympy.Basic) -> Callable[[Mapping[str, Any]], Any]:
    return evaluate.function(condition)


def hidden(name: str) -> bool:
    """Whether this is no size, and no name at a node: a value that the state does not show."""
    return name[0] == "v" and name[1:].isdigit()


def _foreign(meaning: Meaning) -> bool:
    names = (meaning,) if isinstance(meaning, str) else map(printed, symbols_of(meaning))
    return any(map(hidden, names))


def _last(conditions: Iterable[sympy.Basic]) -> int:
    """The largest number of a symbol of a value."""
    names = (printed(symbol) for condition in conditions for symbol in symbols_of(condition))
    return max((int(name[1:]) for name in names if hidden(name)), default=-1)


def linked(known: Iterable[sympy.Basic], asked: set[str]) -> list[sympy.Basic]:
    """What was known about symbols that were asked about, and about those that it links them with."""
    left = [(condition, names_of(condition)) for condition in known]
    reached, found, grown = set(asked), [], True
    while grown and left:
        rest = []
        for item in left:
            if reached.isdisjoint(item[1]):
                rest.append(item)
            else:
                reached |= item[1]
                found.append(item[0])
        grown, left = len(rest) < len(left), rest
    return found


@functools.lru_cache(maxsize=1 << 16)
def names_of(condition: sympy.Basic) -> frozenset[str]:
    """The names of its symbols."""
    return frozenset(symbol.name for symbol in symbols_of(condition))
