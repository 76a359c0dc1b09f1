"""Sizes that satisfy conditions: tried, mended where one fails, searched for with bounds, and made small and readable."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sparsam.shapes.box import Box, Empty
from sparsam.shapes.evaluate import Run, holds
from sparsam.shapes.intervals import EVERYTHING, Interval
from sparsam.shapes.linear import Reduced
from sparsam.shapes.terms import Term

NICE = (2, 3, 5, 7, 4, 6, 8, 11, 13, 9, 10, 12, 16, 17, 19, 23, 1, 0)
NICE_FLOATS = (0.5, 1.0, 2.0, 0.25, 0.1, 0.0, 1.5, 3.0, -1.0)
WIDE = (
    40  # integers of a symbol up to which all of them are tried, rather than candidates; with time to spare
)
WIDER = 256  # up to which
MENDS = 160  # full evaluations spent on mending; chosen by us
CANDIDATES = 24
PAIRED = 6  # symbols, and sizes of each, that are made smaller in pairs

Value = int | float
Check = Callable[[Mapping[str, Any]], bool | None]


class Literals:
    """Conditions that can be evaluated, each with the symbols it is about.

    Args:
        runs: The conditions, from `evaluate.function`.
        symbols: Of each.
        allowed: Whether a value of the symbol lies in its domain.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        symbols: Sequence[frozenset[str]],
        allowed: Callable[[str, Any], bool],
    ) -> None:
        self.runs = runs
        self.symbols = symbols
        self.allowed = allowed
        self.too_large = False

    def broken(self, model: Mapping[str, Any], stop: int = 1 << 30) -> list[int]:
        """Positions of the first `stop` conditions that do not hold; -1 for a value outside its domain."""
        found = [-1] if any(not self.allowed(name, value) for name, value in model.items()) else []
        for i, run in enumerate(self.runs):
            if len(found) >= stop:
                break
            result = holds(run, model)
            if result is None:
                self.too_large = True
            if not result:
                found.append(i)
        return found


class Finder:
    """The search of one query.

    Args:
        reduced: What is known, with the symbols that are left to choose.
        literals: What has to hold in the end.
        prefer: Values that are taken where they fit.
        smallest: Rather the smallest sizes from 1 on than the preferred ones and readable distinct ones.
        constants: Numbers that occur in the conditions.
    """

    def __init__(
        self,
        reduced: Reduced,
        literals: Literals,
        prefer: Mapping[str, Value],
        smallest: bool,
        constants: Sequence[int],
    ) -> None:
        self.reduced = reduced
        self.literals = literals
        self.prefer = prefer
        self.smallest = smallest
        self.near = sorted({c + d for c in constants for d in (-1, 0, 1)}, key=lambda v: (abs(v), v))
        self.free: list[Term] = [t for t in reduced.box.known if t.kind == "symbol"]
        self.behind: dict[str, frozenset[str]] = {t.value: frozenset((t.value,)) for t in self.free}
        for name, term in reversed(reduced.given):
            self.behind[name] = frozenset().union(*(self.behind.get(n, frozenset()) for n in term.symbols))
        self.nodes = 0
        self.wide = WIDE
        self.complete = True

    def full(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """A choice for the symbols that are left as a model of the query's own symbols."""
        return {k: v for k, v in self.reduced.complete(chosen).items() if not k.startswith("#")}

    def good(self, chosen: Mapping[str, Any]) -> bool:
        """Whether the choice satisfies everything."""
        return not self.literals.broken(self.full(chosen), 1)

    def cost(self, chosen: Mapping[str, Any]) -> float:
        """How far a model is from what a reader likes."""
        model = self.full(chosen)
        total = 0.0
        for name, value in model.items():
            if self.smallest:
                total += (1.5 if value == 0 else abs(value - 1)) + (100 if value < 0 else 0)
            elif self.prefer.get(name) != value:
                total += 1 + _plainness(value)
        if not self.smallest:
            values = list(model.values())
            total += 3 * (len(values) - len(set(values)))
        return total

    def candidates(self, term: Term, interval: Interval) -> list[Value]:
        """Values of a symbol worth a trial, best first; all of them where they are few."""
        low, high = interval
        name = term.value
        if not term.integer:
            ends = [v for v in interval if not math.isinf(v)]
            middle = [(low + high) / 2] if len(ends) == 2 else []
            pool: list[Any] = [*NICE_FLOATS, *middle, *ends, *map(float, self.near)]
        elif high - low < self.wide:
            pool = list(range(low, high + 1))
        else:
            ends = [v for v in (low, low + 1, low + 2, high, high - 1) if not math.isinf(v)]
            pool = [*NICE, *ends, *self.near]
            near = self.prefer.get(name)
            if near is not None and float(near).is_integer():
                pool += [int(near) + 1, int(near) - 1, 2 * int(near)]
        if name in self.prefer:
            pool.append(self.prefer[name] if not term.integer else math.floor(self.prefer[name]))
        rank: dict[Any, int] = {}
        for v in pool:
            if low <= v <= high:
                rank.setdefault(v, len(rank))
        if self.smallest:
            return sorted(rank, key=lambda v: (v < 0, 1.5 if v == 0 else abs(v - 1), rank[v]))
        wanted = self.prefer.get(name)
        return sorted(rank, key=lambda v: (v != wanted, _plainness(v) if term.integer else 0, rank[v]))

    def first(self) -> dict[str, Any]:
        """A choice that is only within bounds."""
        chosen: dict[str, Any] = {}
        used: set[Any] = set()
        for term in self.free:
            options = self.candidates(term, self.reduced.box.known[term])
            if not options:
                low, high = self.reduced.box.known[term]
                options = [low if not math.isinf(low) else high if not math.isinf(high) else 0]
            wanted = self.prefer.get(term.value)
            fresh = [v for v in options[:8] if v not in used or v == wanted]
            chosen[term.value] = options[0] if self.smallest or not fresh else fresh[0]
            used.add(chosen[term.value])
        return chosen

    def mend(self, chosen: dict[str, Any]) -> dict[str, Any] | None:
        """Change one symbol after the other so that fewer conditions are broken; None if that leads nowhere."""
        chosen = dict(chosen)
        broken = self.literals.broken(self.full(chosen))
        spent = 0
        while broken:
            names = self._about(broken[0], chosen)
            best: tuple[int, str, Any, list[int]] | None = None
            for term in sorted(self.free, key=lambda t: self.prefer.get(t.value) == chosen[t.value]):
                if term.value not in names:
                    continue
                for value in self.candidates(term, self.reduced.box.known[term])[:CANDIDATES]:
                    if value == chosen[term.value]:
                        continue
                    trial = self.literals.broken(self.full({**chosen, term.value: value}), len(broken))
                    spent += 1
                    if len(trial) < len(broken) and (best is None or len(trial) < best[0]):
                        best = (len(trial), term.value, value, trial)
                        if not trial:
                            break
                    if spent > MENDS:
                        return None
                if best is not None and not best[3]:
                    break
            if best is None:
                return None
            chosen[best[1]] = best[2]
            broken = self.literals.broken(self.full(chosen))
        return chosen

    def _about(self, position: int, chosen: Mapping[str, Any]) -> frozenset[str]:
        if position < 0:
            names = [n for n, v in self.full(chosen).items() if not self.literals.allowed(n, v)]
        else:
            names = sorted(self.literals.symbols[position])
        return frozenset().union(*(self.behind.get(n, frozenset()) for n in names))

    def search(self, budget: int, wide: int = WIDE) -> dict[str, Any] | None:
        """Fix one symbol after the other, propagating bounds; None if there is no model or the budget is spent.

        Afterwards `complete` says whether everything was looked at, so that None means there is none.
        """
        self.nodes, self.wide, self.complete = budget, wide, True
        self.literals.too_large = False
        found = self._search(self.reduced.box, {})
        self.wide = WIDE
        self.complete = self.complete and self.nodes > 0 and not self.literals.too_large
        return found

    def _search(self, box: Box, chosen: dict[str, Any]) -> dict[str, Any] | None:
        open_ = [t for t in self.free if t.value not in chosen]
        if not open_:
            return chosen if self.good(chosen) else None
        term = min(open_, key=lambda t: (_width(box.known[t]), self.free.index(t)))
        interval = box.known[term]
        options = self.candidates(term, interval)
        if not term.integer or not interval[1] - interval[0] < self.wide:
            self.complete = self.complete and interval[0] == interval[1]
        for value in options[: self.wide]:
            self.nodes -= 1
            if self.nodes <= 0:
                return None
            child = box.copy()
            try:
                child.limit(term, value, value)
                child.propagate()
            except Empty:
                continue
            found = self._search(child, {**chosen, term.value: value})
            if found is not None:
                return found
        return None

    def polish(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """Make the values nicer one at a time, as long as everything holds."""
        for _ in range(3):
            before = dict(chosen)
            for term in self.free:
                if not self.smallest and self.prefer.get(term.value) == chosen[term.value]:
                    continue
                now = self.cost(chosen)
                trials = []
                for value in self.candidates(term, self.reduced.box.known[term])[:CANDIDATES]:
                    cost = self.cost({**chosen, term.value: value}) if value != chosen[term.value] else now
                    if cost < now:
                        trials.append((cost, value))
                for _, value in sorted(trials):
                    if self.good({**chosen, term.value: value}):
                        chosen = {**chosen, term.value: value}
                        break
            if self.smallest:
                chosen = self._smaller_pair(chosen)
            if chosen == before:
                break
        return chosen

    def _smaller_pair(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """Two sizes changed at once where that makes them smaller together."""
        now = self.cost(chosen)
        large = [t for t in self.free if t.integer and chosen[t.value] > 2][:PAIRED]
        for term in large:
            for other in [t for t in self.free if t.integer and t != term][:PAIRED]:
                (a, b), (c, d) = self.reduced.box.known[term], self.reduced.box.known[other]
                trials = [
                    {**chosen, term.value: x, other.value: y}
                    for x in range(max(1, a), min(PAIRED, b, chosen[term.value]) + 1)
                    for y in range(max(1, c), min(PAIRED, d) + 1)
                ]
                priced = sorted(((self.cost(t), i) for i, t in enumerate(trials)))
                for cost, i in priced:
                    if cost >= now:
                        break
                    if self.good(trials[i]):
                        return trials[i]
        return chosen


def _plainness(value: Any) -> float:
    """Small for small numbers from 2 on; 0 and 1 are special cases, negative numbers stranger."""
    if value >= 2:
        return min(2.0, math.log10(value) / 4) if value < 1e300 else 2.0
    return 3.0 + (value != 1) if value in (0, 1) else 6.0


def _width(interval: Interval) -> Any:
    return EVERYTHING[1] if math.inf in interval or -math.inf in interval else interval[1] - interval[0]
