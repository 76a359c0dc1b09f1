"""Whether there are sizes that satisfy a conjunction of conditions, and which.

Three layers answer, the cheap ones first: intervals with linear forms and a search for values among few candidates
(`intervals`, `box`, `linear`, `find`), then z3 where it is installed (extra `shapes`). "sat" is only said with a model
for which every condition was evaluated and held (`evaluate`); "unsat" only where bounds, linear inequalities, an
exhausted search or z3 contradict the conditions; anything else is "unknown". Limits count steps, not seconds, and no
query is answered by what another one left behind: the same question has the same answer.

A condition with a term that has no value (a division by zero) does not hold, nor does its negation: sizes for which it
is so belong to neither side. `needed` gives what keeps a condition defined.
"""

import dataclasses
import math
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from sparsam.errors import Refused
from sparsam.shapes import evaluate
from sparsam.shapes.box import Box, Empty, Split
from sparsam.shapes.evaluate import Unsupported
from sparsam.shapes.find import WIDER, Finder, Literals
from sparsam.shapes.linear import Reduced, reduce, refuted
from sparsam.shapes.terms import Term, symbol
from sparsam.shapes.translate import Translator
from sparsam.shapes.wording import text
from sparsam.shapes.z3_terms import Z3, available

__all__ = ["Answer", "Domain", "Solver", "Statistics", "needed", "text"]

RLIMIT = 1_000_000  # z3's unit of work; of 650 guards of torch's operators none needed more than 100,000
FEW_NODES = 16  # of the search before z3 is asked
MANY_NODES = 300  # and after
DEEPEST_SPLIT = 4  # conditions with "or" that are split one inside the other
REMEMBERED = 50_000  # answers, and expressions, kept

Value = int | float


@dataclasses.dataclass(frozen=True)
class Domain:
    """The values of a symbol, ends included.

    Args:
        low: Smallest, None for no bound.
        high: Largest, None for no bound.
        integer: Whether only integers are; otherwise floats.
    """

    low: Value | None = None
    high: Value | None = None
    integer: bool = True

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.integer else int | float):
            return False
        return (self.low is None or self.low <= value) and (self.high is None or value <= self.high)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is known of a conjunction.

    Args:
        kind: "sat", "unsat" or "unknown".
        model: Of "sat": a value for each symbol of the domains. None otherwise.
        reason: Which layer answered, or why none did.
    """

    kind: str
    model: dict[str, Value] | None = None
    reason: str = ""


@dataclasses.dataclass
class Statistics:
    """What a solver has done so far: queries, those answered from memory, by each layer, not at all; seconds in all."""

    queries: int = 0
    cached: int = 0
    by_linear: int = 0
    by_z3: int = 0
    unknown: int = 0
    seconds: float = 0.0


class Solver:
    """Answers queries and remembers the answers.

    Args:
        rlimit: Units of work that z3 may spend on one query.
        use_z3: False to do without z3, True to insist on it, None to use it where it is installed.

    Raises:
        Refused: If z3 is insisted on and not installed.
    """

    def __init__(self, *, rlimit: int = RLIMIT, use_z3: bool | None = None) -> None:
        if use_z3 and not available():
            raise Refused(
                "the solver z3 was asked for and is not installed; install it with: pip install sparsam[shapes]",
                code="missing-extra",
            )
        self.statistics = Statistics()
        self._rlimit = rlimit
        self._with_z3 = available() if use_z3 is None else use_z3
        self._z3: Z3 | None = None
        self._answers: dict[Hashable, Answer] = {}
        self._literals: dict[Any, _Literal] = {}
        self._translators: dict[frozenset[str], Translator] = {}
        self._splits: dict[Term, Split] = {}

    def solve(
        self,
        literals: Sequence[Any],
        domains: Mapping[str, Domain],
        prefer: Mapping[str, Value] | None = None,
        *,
        smallest: bool = False,
    ) -> Answer:
        """Values for which all literals hold.

        Args:
            literals: Sympy booleans over torch's functions, or plain bools. Each is about symbols of the domains.
            domains: Of each symbol, by name.
            prefer: Values to take where they fit. Of other symbols the model takes small distinct sizes from 2 on.
            smallest: Rather take sizes as near to 1 as can be, as a witness wants them.

        Raises:
            Refused: If a literal has a symbol without a domain.
        """
        begun = time.perf_counter()
        wanted = dict(prefer or {})
        self.statistics.queries += 1
        key = (
            frozenset(literals),
            tuple(sorted((n, d.low, d.high, d.integer) for n, d in domains.items())),
            tuple(sorted(wanted.items())),
            smallest,
        )
        answer = self._answers.get(key)
        if answer is None:
            if len(self._answers) > REMEMBERED:
                self._answers.clear()
                self._literals.clear()
                self._translators.clear()
                self._splits.clear()
            answer, by_z3 = self._solve(list(dict.fromkeys(literals)), domains, wanted, smallest)
            self._answers[key] = answer
            if answer.kind == "unknown":
                self.statistics.unknown += 1
            elif by_z3:
                self.statistics.by_z3 += 1
            else:
                self.statistics.by_linear += 1
        else:
            self.statistics.cached += 1
        self.statistics.seconds += time.perf_counter() - begun
        return dataclasses.replace(answer, model=None if answer.model is None else dict(answer.model))

    def implied(self, literals: Sequence[Any], domains: Mapping[str, Domain], goal: Any) -> bool | None:
        """Whether the goal holds wherever the literals do: True, False, or None where that is not known.

        A goal that is undefined somewhere is not implied there: what it needs is asked for too.
        """
        import sympy

        unknown = False
        for denied in [*(sympy.Not(c) for c in needed(goal)), sympy.Not(goal)]:
            kind = self.solve([*literals, denied], domains).kind
            if kind == "sat":
                return False
            unknown = unknown or kind == "unknown"
        return None if unknown else True

    def _solve(
        self,
        literals: list[Any],
        domains: Mapping[str, Domain],
        prefer: dict[str, Value],
        smallest: bool,
    ) -> tuple[Answer, bool]:
        every = sorted(map(self._literal, literals), key=lambda item: item.text)
        missing = frozenset().union(*(item.symbols for item in every)) - set(domains)
        if missing:
            raise Refused(
                f"no domain was given for {', '.join(sorted(missing))}; give one for each symbol of the conditions",
                code="missing-domain",
            )
        strange = next((item.strange for item in every if item.run is None), "")
        able = [(item.run, item.symbols) for item in every if item.run is not None]
        known = [item.boolean for item in every if item.run is not None]
        checks = Literals(
            [run for run, _ in able], [names for _, names in able], lambda name, value: value in domains[name]
        )
        if not smallest and not strange and set(domains) <= set(prefer):
            model = {n: prefer[n] for n in domains}
            if not checks.broken(model, 1):
                return Answer("sat", model, "preferred"), False
        try:
            reduced = self._reduce(known, domains)
        except Empty:
            return Answer("unsat", None, "bounds"), False
        except Unsupported as error:
            return Answer("unknown", None, f"the function {error} is not known"), False
        finder = Finder(reduced, checks, prefer, smallest, sorted(_constants(known)))
        found = None
        if not strange:
            found = finder.mend(finder.first()) or finder.search(FEW_NODES)
            if found is None and finder.complete:
                return Answer("unsat", None, "search"), False
        if found is not None:
            return self._found(finder, found, domains, "search"), False
        if self._refuted(reduced.box, DEEPEST_SPLIT):
            return Answer("unsat", None, "linear"), False
        reason = strange
        if self._with_z3:
            answer = self._ask_z3(finder, domains, strange)
            if answer.kind != "unknown":
                return answer, True
            reason = answer.reason
        if not strange:
            found = finder.search(MANY_NODES, WIDER)
            if found is not None:
                return self._found(finder, found, domains, "search"), False
            if finder.complete:
                return Answer("unsat", None, "search"), False
        return Answer("unknown", None, reason or "no layer decided it; z3 is not used"), False

    def _literal(self, literal: Any) -> "_Literal":
        found = self._literals.get(literal)
        if found is None:
            names = frozenset(s.name for s in getattr(literal, "free_symbols", ()))
            try:
                found = _Literal(literal, str(literal), names, evaluate.function(literal))
            except Unsupported as error:
                found = _Literal(literal, str(literal), names, None, f"the function {error} is not known")
            self._literals[literal] = found
        return found

    def _reduce(self, literals: list[Any], domains: Mapping[str, Domain]) -> Reduced:
        floats = frozenset(n for n, d in domains.items() if not d.integer)
        translator = self._translators.setdefault(floats, Translator(lambda name: name not in floats))
        box = Box({}, self._splits)
        for name, domain in sorted(domains.items()):
            low = -math.inf if domain.low is None else domain.low
            high = math.inf if domain.high is None else domain.high
            box.limit(symbol(name, domain.integer), low, high)
        for literal in literals:
            box.add(translator.condition(literal))
        box.propagate()
        return reduce(box, self._splits)

    def _refuted(self, box: Box, depth: int) -> bool:
        if refuted(box):
            return True
        if not depth:
            return False
        clauses = [c for c in box.clauses if len(c.arguments) <= 4]
        if not clauses:
            return False
        for side in min(clauses, key=lambda c: (len(c.arguments), c.text)).arguments:
            child = box.copy()
            try:
                child.add(side)
                child.propagate()
            except Empty:
                continue
            if not self._refuted(child, depth - 1):
                return False
        return True

    def _ask_z3(self, finder: Finder, domains: Mapping[str, Domain], strange: str) -> Answer:
        if self._z3 is None:
            self._z3 = Z3(self._rlimit)
        kind, values, reason = self._z3.solve(finder.reduced.box)
        if kind == "unsat":
            return Answer("unsat", None, "z3")
        if kind == "sat" and not strange:
            for exact in (False, True):
                if exact:
                    kind, values, _ = self._z3.solve(finder.reduced.box, exact=True)
                    if kind != "sat":
                        break
                chosen = values if finder.good(values) else finder.mend(values)
                if chosen is not None:
                    return self._found(finder, chosen, domains, "z3")
            reason = "the model of z3 does not hold when floats are rounded or functions evaluated"
        return Answer("unknown", None, strange or f"z3: {reason}")

    def _found(
        self, finder: Finder, chosen: dict[str, Any], domains: Mapping[str, Domain], by: str
    ) -> Answer:
        model = finder.full(finder.polish(chosen))
        return Answer("sat", {name: model[name] for name in domains}, by)


@dataclasses.dataclass(frozen=True)
class _Literal:
    """A literal with its text, its symbols, and its function, or why it has none."""

    boolean: Any
    text: str
    symbols: frozenset[str]
    run: evaluate.Run | None
    strange: str = ""


def needed(expression: Any) -> list[Any]:
    """What has to hold, beside the expression's own truth, for it to have a value: see `evaluate.conditions`."""
    return evaluate.conditions(expression)


def _constants(literals: Iterable[Any]) -> set[int]:
    found: set[int] = set()
    for literal in literals:
        for number in literal.atoms() if hasattr(literal, "atoms") else ():
            if getattr(number, "is_Integer", False) and abs(number) < 1 << 40:
                found.add(int(number))
    return found
