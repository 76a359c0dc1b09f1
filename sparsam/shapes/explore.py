"""All paths: from one run, sizes for which something would have been decided otherwise, until there are none left.

A region is a conjunction of conditions on the symbols. A run with sizes of the region decides g1, …, gn; what is left of
the region is the union of "g1 … g(j-1) hold and gj does not", each a region of its own. A failure is judged under what
was decided before it and nothing else, which is PyTea's order rule; ranges are its hard constraints, decisions of the
program its path constraints, and those of the framework, whose other side fails, its soft ones.
"""

import collections
import dataclasses
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import sympy

from sparsam.shapes import onward
from sparsam.shapes.environment import DATA, Literal, Number, printed, shared, symbols_of, sympy_symbol
from sparsam.shapes.environment import Unknown as Declared
from sparsam.shapes.naming import words
from sparsam.shapes.nodes import ROOT, Arrival, Memory, Visit, linked, names_of
from sparsam.shapes.run import ABSENT, GRADIENTS, LEARNED, NEEDS_GPU, SUMMED, UNLEARNED, Outcome
from sparsam.shapes.solver import Domain, Solver, needed
from sparsam.shapes.verdict import Failure, Path, Place, Symbol, Unknown, Verdict

SAMPLES = 3  # sizes tried where the program turns a size into a plain number without a bound
MANY = 3  # rounds of a loop, of which two tell what one changes
AGAIN = 20  # times that all may begin anew because a loop's changes are uneven
LOST = frozenset({"loop", "unconfirmed"})  # what is unknown because of a summary, perhaps
SIMPLER = 8  # times that a simpler witness is looked for
FEW = 40  # … and where there are at most so many, all


class Abandoned(Exception):
    """Raised by whoever is told of the progress: what was found is not wanted."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one check may use: runs, seconds of all runs, and seconds and framework calls of one.

    Args:
        paths: Runs.
        seconds: Of all of them.
        run_seconds: Of one.
        operations: Calls of the framework in one.
        ways: Runs that are followed to their end, after which no more is looked at.
    """

    paths: int = 400
    seconds: float = 60.0
    run_seconds: float = 30.0
    operations: int = 200_000
    ways: int | None = None


@dataclasses.dataclass
class Failed:
    """A failure with the sizes and decisions that led there.

    Args:
        failure: As it is told: of the run that knows most of its sizes by name.
        witness: The smallest sizes found.
        outcome: Of the run with the smallest.
        region: Of that run.
        confirmed: Whether a run with plain numbers failed at the same place.
        met: As the symbolic run met it, which may be another exception of the framework.
        told: Outcome of the run that `failure` is taken from.
        count: How many runs met it.
    """

    failure: Failure
    witness: dict[str, Number]
    outcome: Outcome
    region: Arrival
    confirmed: bool
    met: Failure
    told: Outcome
    count: int = 1


@dataclasses.dataclass
class Explored:
    """What the exploration found."""

    paths: list[Path] = dataclasses.field(default_factory=list)
    failed: list[Failed] = dataclasses.field(default_factory=list)
    unknowns: list[Unknown] = dataclasses.field(default_factory=list)
    symbols: dict[str, Symbol] = dataclasses.field(default_factory=dict)
    runs: int = 0
    operations: int = 0
    invalid: list[tuple[frozenset[sympy.Basic], sympy.Basic]] = dataclasses.field(default_factory=list)
    whole: set[Place] = dataclasses.field(default_factory=set)  # where all rounds were run one by one

    def begin_anew(self) -> None:
        """Forgets what was found, but for failures that plain numbers have confirmed, and keeps what it cost."""
        for group in (self.paths, self.unknowns, self.symbols, self.invalid):
            group.clear()
        for failed in self.failed:
            self.symbols.update(failed.outcome.symbols)

    def unknown(self, unknown: Unknown) -> None:
        """Adds one, once."""
        if unknown not in self.unknowns:
            self.unknowns.append(unknown)


def explore(
    run: Callable[..., Outcome],
    declared: Iterable[Declared],
    solver: Solver,
    memory: Memory,
    limits: Limits | None = None,
    progress: Callable[[Explored], None] | None = None,
) -> Explored:
    """Runs the program for one member of each class of sizes that take the same way through it.

    Args:
        run: Runs it with given sizes; `plain=True` runs it with plain numbers, `whole=True` each round of each loop then.
        declared: Symbols that exist before the program runs.
        solver: Finds sizes.
        memory: Where the runs leave what they did.
        limits: After which the rest is unknown.
        progress: Called after every run; what it raises ends the exploration.
    """
    limits = limits or Limits()
    found = Explored()
    deadline = time.monotonic() + limits.seconds
    whole = Arrival(
        ROOT,
        None,
        (),
        {},
        0,
        {unknown.name: first_hint(unknown, i) for i, unknown in enumerate(declared)},
        {},
    )
    restarts = 0
    taught = False  # whether a run has learned what a loop's round changes, since all began anew for that

    def solve(
        known: tuple[sympy.Basic, ...], more: tuple[sympy.Basic, ...], arrival: Arrival
    ) -> tuple[str, Mapping[str, Number]]:
        # What is known holds for some sizes; conditions about none of the symbols in question change nothing.
        asked = set().union(*map(names_of, more))
        return _solved((*linked(known, asked), *more), arrival, declared, solver)

    def find(
        conditions: Sequence[sympy.Basic],
        symbols: Mapping[str, Symbol],
        fixed: Mapping[str, Number],
        prefer: Mapping[str, Number],
    ) -> dict[str, Number] | None:
        ranges = domains(declared, symbols, conditions)
        for name, known in ranges.items():
            if (value := fixed.get(_printed(name))) is not None:
                ranges[name] = Domain(value, value, known.integer)
        hints = {name: prefer[_printed(name)] for name in ranges if _printed(name) in prefer}
        model = solver.solve(conditions, ranges, prefer=hints).model
        return None if model is None else {_printed(name): value for name, value in model.items()}

    def begin_anew(hints: Mapping[str, Number] | None = None) -> list[Arrival]:
        # With the sizes that have shown what was not known: they will show what else is not.
        found.begin_anew()
        memory.begin_anew()
        return [dataclasses.replace(whole, hints={**whole.hints, **hints})] if hints else [whole]

    memory.find = find
    queue = memory.queue
    queue[:] = [whole]
    # The deepest split first: what follows a node has been followed when another run comes by.
    while (region := onward.following(memory)) is not None:
        if memory.begins_like_none(region):
            memory.parked.append(region)
            continue
        place = region.split.place if region.split else None
        if time.monotonic() > deadline:
            text = f"the limit of {limits.seconds:g} s was reached with {len(queue) + len(memory.waiting) + 1} cases left"
            found.unknown(Unknown("time", text, place))
            break
        if region.ready != len(memory.edges.get(region.node, ())):
            arrivals, rest = memory.cover(region, solve)
            queue += rest + arrivals
            continue
        answer = _with_many_rounds(region, declared, solver, memory) or _member(
            region, declared, solver, found
        )
        if answer is None:
            continue
        memory.judge(place, True)
        if region.split is not None and region.split.specialised:
            seen = region.specialised.count(place)
            if seen > SAMPLES and not (seen <= FEW and _few(region.split.condition, region.symbols)):
                found.unknown(Unknown("specialised", _specialised(region.split), place))
                continue
        if limits.ways is not None and len(found.paths) >= limits.ways:
            break
        if found.runs >= limits.paths:
            text = f"more than {limits.paths} runs would be needed to cover all sizes"
            found.unknown(Unknown("paths", text, place))
            break
        outcome = run(answer, beyond=region.foretold())
        found.runs += 1
        if memory.learns_of_gradients(outcome.notes.get(GRADIENTS, False)):
            queue[:] = begin_anew(outcome.hints)
            continue
        if memory.mistaken:
            queue[:] = begin_anew(outcome.hints)
            continue
        if outcome.ending == "again" and restarts < AGAIN:
            # What was found so far may rest on a guess about a loop that has just turned out wrong.
            restarts += 1
            queue[:] = begin_anew(outcome.hints)
            continue
        found.operations += outcome.operations
        memory.failures += outcome.notes.get(UNLEARNED, False)
        if outcome.ending == LEARNED:
            taught = True
            stuck, memory.failures = memory.stuck(), 0
            if stuck:
                # Later runs do not come by the nodes within the rounds that have shown it.
                queue[:] = begin_anew(outcome.hints)
                continue
            # What a loop's round changes is known now: the same sizes again, without running it.
            queue.append(region)
            continue
        before = len(found.unknowns)
        if outcome.ending != ABSENT:
            _record(found, outcome, region, run, solver, declared)
        if any(unknown.code in LOST for unknown in found.unknowns[before:]) and memory.loops.in_parts(
            outcome.notes["early"], outcome.notes["summarised"]
        ):
            queue[:] = begin_anew()
            continue
        if outcome.ending == "diverged":
            if region.node == ROOT and not region.conditions and region is not whole:
                queue.append(whole)  # the sizes are another run's
            memory.partial.add(region.node)
            continue
        if not outcome.notes["visits"] and outcome.ending not in ("stopped", NEEDS_GPU):
            # It did not come by where it was to come by. If no loop was learned of since, states that look alike are not:
            # each run is followed to its end.
            memory.alone, taught = not taught, False
            queue[:] = begin_anew(outcome.hints)
            continue
        left = remainders(region, outcome)
        for part in left:
            if part.split is not None and part.split.place not in memory.forks:
                memory.judge(part.split.place, _solved(part.conditions, part, declared, solver)[0] != "unsat")
        queue += left
        if outcome.ending == ABSENT:
            memory.parked.append(_absent(region, outcome))
        if outcome.notes["merged"] is not None:
            queue.append(_arrived(region, outcome))
        if progress is not None:
            progress(found)
    return found


def first_hint(unknown: Declared, index: int) -> Number:
    """A size to begin with: small, unlike the others', neither 0 nor 1 where the range allows."""
    value: Number = (3, 5, 7, 11, 13, 17, 19, 23)[index % 8] if unknown.integer else 0.5
    if unknown.low is not None:
        value = max(value, unknown.low)
    if unknown.high is not None:
        value = min(value, unknown.high)
    return value


def remainders(region: Arrival, outcome: Outcome) -> list[Arrival]:
    """What a run leaves of its region: for each decision, the sizes that make it the first to go the other way."""
    known = set(region.conditions)
    prefix = list(region.conditions)
    specialised = region.specialised
    left = []
    visits = [Visit(ROOT, None), *outcome.notes["visits"]]
    for position, literal in enumerate(outcome.literals):
        condition = literal.condition
        if condition in known:
            continue
        visit = next(visit for visit in reversed(visits) if visit.position <= position)
        here = Arrival(
            visit.node,
            visit.site,
            tuple(prefix),
            visit.names,
            visit.values,
            outcome.hints,
            outcome.symbols,
            specialised,
            literal,
            passes=visit.passes,
        )
        left += [_but(here, defined, specialised) for defined in needed(condition) if defined not in known]
        if literal.kind == "guard":
            counted = (*specialised, literal.place) if literal.specialised else specialised
            left.append(_but(here, condition, counted))
        known.add(condition)
        prefix.append(condition)
    return left


def _but(arrival: Arrival, denied: sympy.Basic, specialised: tuple[Place | None, ...]) -> Arrival:
    """The part of it for which a condition does not hold."""
    return dataclasses.replace(
        arrival, conditions=(*arrival.conditions, negated(denied)), specialised=specialised
    )


def _arrived(region: Arrival, outcome: Outcome) -> Arrival:
    """Where a run ended because what follows is known, with all sizes that go its way."""
    visit = outcome.notes["merged"]
    decided = (literal.condition for literal in outcome.literals)
    places = (literal.place for literal in outcome.literals if literal.specialised)
    return Arrival(
        visit.node,
        visit.site,
        tuple(dict.fromkeys((*region.conditions, *decided))),
        visit.names,
        visit.values,
        outcome.hints,
        outcome.symbols,
        tuple(places),
        came=True,
        passes=visit.passes,
    )


def _absent(region: Arrival, outcome: Outcome) -> Arrival:
    """Where a run ended because no round begins like that, as far as is known."""
    visit = [Visit(ROOT, None), *outcome.notes["visits"]][-1]
    last = outcome.literals[-1]
    decided = (literal.condition for literal in outcome.literals)
    before = tuple(one for one in dict.fromkeys((*region.conditions, *decided)) if one != last.condition)
    return Arrival(
        visit.node,
        visit.site,
        (*before, last.condition),
        visit.names,
        visit.values,
        outcome.hints,
        outcome.symbols,
        region.specialised,
        last,
        passes=visit.passes,
    )


def negated(condition: sympy.Basic) -> sympy.Basic:
    """The opposite of a condition."""
    return shared(sympy.Not(condition))


def domains(
    declared: Iterable[Declared], symbols: Mapping[str, Symbol], conditions: Iterable[sympy.Basic]
) -> dict[str, Domain]:
    """Ranges of all symbols that occur, by the names that the conditions use."""
    found = {}
    for unknown in declared:
        found[sympy_symbol(unknown).name] = Domain(unknown.low, unknown.high, unknown.integer)
    for condition in conditions:
        for symbol in symbols_of(condition):
            if symbol.name not in found:
                known = symbols.get(printed(symbol))
                low, high = (known.low, known.high) if known is not None else (None, None)
                found[symbol.name] = Domain(low, high, bool(symbol.is_integer))
    return found


def _solved(
    conditions: tuple[sympy.Basic, ...], region: Arrival, declared: Iterable[Declared], solver: Solver
) -> tuple[str, dict[str, Number]]:
    """Whether there are sizes for which conditions hold, and which, beside the region's own."""
    ranges = domains(declared, region.symbols, conditions)
    prefer = {name: region.hints[_printed(name)] for name in ranges if _printed(name) in region.hints}
    answer = solver.solve(conditions, ranges, prefer=prefer)
    sizes = dict(region.hints)
    sizes.update({_printed(name): value for name, value in (answer.model or {}).items()})
    return answer.kind, sizes


def _member(
    region: Arrival, declared: Iterable[Declared], solver: Solver, found: Explored
) -> dict[str, Number] | None:
    """Sizes of a region; None where it is empty, or nothing can be said."""
    kind, sizes = _solved(region.conditions, region, declared, solver)
    if kind == "unknown":
        split = region.split
        about = words(split.condition) if split else "anything"
        text = f"whether {about} can fail was not decided: {_reason(region, declared, solver)}"
        found.unknown(Unknown("solver", text, split.place if split else None))
    return sizes if kind == "sat" else None


def _with_many_rounds(
    region: Arrival, declared: Iterable[Declared], solver: Solver, memory: Memory
) -> dict[str, Number] | None:
    """Sizes for which a loop has so many rounds that one can stand for all; None if the region is about something else."""
    if region.split is None or region.conditions[-1] != negated(region.split.condition):
        return None
    count = memory.loops.counts.get(region.split.condition)
    if count is None:
        return None
    kind, sizes = _solved((*region.conditions, count >= MANY), region, declared, solver)
    return sizes if kind == "sat" else None


def _reason(region: Arrival, declared: Iterable[Declared], solver: Solver) -> str:
    return solver.solve(region.conditions, domains(declared, region.symbols, region.conditions)).reason


def _printed(name: str) -> str:
    return name.removeprefix("zf_").removeprefix("s_")


def _few(condition: sympy.Basic, symbols: Mapping[str, Symbol]) -> bool:
    count = 1.0
    for symbol in symbols_of(condition):
        known = symbols.get(printed(symbol))
        if known is None or known.low is None or known.high is None:
            return False
        count *= known.high - known.low + 1
    return count <= FEW


def _specialised(literal: Literal) -> str:
    expression = literal.condition.args[0] if literal.condition.args else literal.condition
    return f"{words(expression)} is turned into a plain number here, so only some of its values were tried"


def _record(
    found: Explored,
    outcome: Outcome,
    region: Arrival,
    run: Callable[..., Outcome],
    solver: Solver,
    declared: Iterable[Declared],
) -> None:
    found.symbols.update(outcome.symbols)
    for unknown in outcome.unknowns:
        found.unknown(unknown)
    verdict = Verdict.UNKNOWN if outcome.unknowns else Verdict.PROVED
    failure = outcome.failure
    if outcome.ending in ("error", "raise") and failure is not None:
        if _depends_on(outcome, outcome.notes.get("abstract", frozenset())):
            found.unknown(
                Unknown(
                    "loop",
                    f"{failure.error} here for a size after some rounds of a loop, which may not occur: {failure.text[:120]}",
                    failure.place,
                )
            )
            verdict = Verdict.UNKNOWN
        elif outcome.ending == "error" and _invalid_data(found, outcome, failure):
            # As with indices out of range: whether data are valid is no matter of sizes.
            pass
        elif outcome.ending == "raise" and _depends_on_values(outcome):
            found.unknown(
                Unknown(
                    "own-refusal",
                    f"the program raises {failure.error} here where data or chance say so: {failure.text[:120]}",
                    failure.place,
                )
            )
            verdict = Verdict.UNKNOWN
        else:
            verdict = _confirmed(found, outcome, failure, region, run, solver, declared)
    sample = {name: outcome.hints[name] for name in outcome.hints if name in outcome.symbols}
    found.paths.append(Path(verdict, sample, conditions_of(outcome.literals), outcome.ending))


def _invalid_data(found: Explored, outcome: Outcome, failure: Failure) -> bool:
    """Whether the framework refuses the data that it was given, after a look at them, and would take others."""
    guards = [literal for literal in outcome.literals if literal.kind == "guard"]
    if not guards or guards[-1].cause != DATA or guards[-1].place != failure.place:
        return False
    before = frozenset(literal.condition for literal in guards[:-1])
    found.invalid.append((before, guards[-1].condition))
    return (before, negated(guards[-1].condition)) not in found.invalid


def _depends_on_values(outcome: Outcome) -> bool:
    values = {name for name, symbol in outcome.symbols.items() if symbol.kind == "value"}
    return _depends_on(outcome, values)


def _depends_on(outcome: Outcome, values: Collection[str]) -> bool:
    """Whether something that was decided is about one of these symbols."""
    return any(
        printed(symbol) in values
        for literal in outcome.literals
        if literal.kind == "guard"
        for symbol in symbols_of(literal.condition)
    )


def _confirmed(
    found: Explored,
    outcome: Outcome,
    failure: Failure,
    region: Arrival,
    run: Callable[..., Outcome],
    solver: Solver,
    declared: Iterable[Declared],
) -> Verdict:
    known = next((f for f in found.failed if _same(f.met, failure)), None)
    if known is not None:
        known.count += 1
        if known.count <= SIMPLER and (_pinned(known.outcome) or not _pinned(outcome)):
            witness = next(iter(_witnesses(outcome, region, solver, declared)))
            if _weight(witness, outcome) < _weight(known.witness, known.outcome):
                again = _again(found, outcome, failure, witness, run)
                if again is not None:
                    known.witness, known.outcome, known.region = witness, outcome, region
                    if _named(again) > _named(known.failure):
                        known.failure, known.told = again, outcome
                    else:
                        known.failure = _with_numbers(known.failure, again.text)
        return Verdict.ERROR
    for witness in _witnesses(outcome, region, solver, declared):
        again = _again(found, outcome, failure, witness, run)
        if again is not None:
            found.failed.append(Failed(again, witness, outcome, region, True, failure, outcome))
            return Verdict.ERROR
    found.unknown(
        Unknown(
            "unconfirmed",
            f"{failure.error} ({failure.text[:120]}) was met with symbolic sizes and not with plain numbers",
            failure.place,
        )
    )
    return Verdict.UNKNOWN


def _pinned(outcome: Outcome) -> bool:
    """Whether a size is one number on the way, which a message then has in place of its name."""
    return any(
        literal.kind == "guard"
        and isinstance(literal.condition, sympy.Eq)
        and literal.condition.lhs.is_Symbol
        and literal.condition.rhs.is_number
        for literal in outcome.literals
    )


def _weight(witness: Mapping[str, Number], outcome: Outcome) -> tuple[Number, Number]:
    """How large the sizes of a witness are, and then its other values: smaller is easier to look at."""
    sizes = {name: abs(witness[name]) for name, symbol in outcome.symbols.items() if name in witness}
    given = sum(size for name, size in sizes.items() if outcome.symbols[name].kind == "size")
    return given, sum(sizes.values()) - given


def _again(
    found: Explored,
    outcome: Outcome,
    failure: Failure,
    witness: dict[str, Number],
    run: Callable[..., Outcome],
) -> Failure | None:
    """The failure as a run with plain numbers confirms it, None where it does not.

    With plain numbers the framework may find another of its exceptions for the same mistake: that one is told.
    """
    again = run(witness, plain=True)
    found.runs += 1
    if again.failure is None and again.notes.get(SUMMED, False) and failure.place not in found.whole:
        found.whole.add(failure.place)
        again = run(witness, plain=True, whole=True)  # it may fail in a round for which another stood
        found.runs += 1
    if again.failure is None or again.ending != outcome.ending or not _at_one_place(again.failure, failure):
        return None
    if again.failure.error == failure.error:
        return _with_numbers(failure, again.failure.text)
    return again.failure if outcome.ending == "error" else None


def _with_numbers(failure: Failure, text: str) -> Failure:
    """The failure with the witness's numbers in its sentence, if `text` is the same sentence with other numbers."""
    same = NUMBER.sub("0", text) == NUMBER.sub("0", failure.text)
    return dataclasses.replace(failure, text=text) if same else failure


NUMBER = re.compile(r"\d+(\.\d+)?")


def _named(failure: Failure) -> int:
    """How many sizes of the operands are told by the names of symbols."""
    return sum(not size.isdigit() for operand in failure.operands for size in operand.shape or ())


def _at_one_place(one: Failure, other: Failure) -> bool:
    return one.place.file == other.place.file and one.place.line == other.place.line


def _same(one: Failure, other: Failure) -> bool:
    return _at_one_place(one, other) and one.error == other.error


def _witnesses(
    outcome: Outcome, region: Arrival, solver: Solver, declared: Iterable[Declared]
) -> Iterable[dict[str, Number]]:
    """The smallest sizes that go the same way, then those of the run itself."""
    conditions = [*region.conditions, *(literal.condition for literal in outcome.literals)]
    answer = solver.solve(
        list(dict.fromkeys(conditions)), domains(declared, outcome.symbols, conditions), smallest=True
    )
    if answer.kind == "sat":
        smallest = dict(outcome.hints)
        smallest.update({_printed(name): value for name, value in (answer.model or {}).items()})
        if smallest != outcome.hints:
            yield smallest
    yield dict(outcome.hints)


def conditions_of(literals: Iterable[Literal], most: int = 12) -> tuple[str, ...]:
    """What was decided, in words, the program's own decisions first and at most so many."""
    texts: dict[str, int] = collections.OrderedDict()
    for literal in literals:
        if literal.kind == "guard":
            texts.setdefault(words(literal.condition), 0)
    return tuple(texts)[:most]
