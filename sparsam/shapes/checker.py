"""A check from inside of the process that runs the program: the program and its arguments in, a report out."""

import dataclasses
import gc
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from sparsam.shapes import hooks, operators, program, standins
from sparsam.shapes.arguments import Argument
from sparsam.shapes.devices import ABOUT_DEVICES
from sparsam.shapes.diagnose import explain_failure
from sparsam.shapes.entry import Entry
from sparsam.shapes.environment import Number
from sparsam.shapes.environment import Unknown as Declared
from sparsam.shapes.explore import Explored, Failed, Limits, conditions_of, explore
from sparsam.shapes.naming import words
from sparsam.shapes.nodes import Foretold, Memory
from sparsam.shapes.places import Places
from sparsam.shapes.run import GRADIENTS, NEEDS_GPU, Outcome, Run, execute
from sparsam.shapes.solver import Solver
from sparsam.shapes.source import Program
from sparsam.shapes.verdict import Finding, Report, Symbol, Unknown, Verdict


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An argument that is a tensor.

    Args:
        sizes: Numbers, and names of symbols.
        dtype: Such as "float32".
        device: Such as "cpu".
    """

    sizes: tuple[int | str, ...]
    dtype: str = "float32"
    device: str = "cpu"


def check_callable(
    function: Callable[..., Any],
    arguments: Mapping[str, Any] | None = None,
    ranges: Mapping[str, tuple[int | None, int | None]] | None = None,
    *,
    own: Callable[[str], bool] | None = None,
    limits: Limits | None = None,
    solver: Solver | None = None,
    name: str = "",
) -> Report:
    """Checks a function that is already imported.

    Args:
        function: Called once a run, with `arguments`.
        arguments: By name: `Tensor`, the name of a symbol for a size as a number, or any other value as it is.
        ranges: Of symbols, inclusive; by default from 0 without end.
        own: Which files are the program's.
        limits: Of the exploration.
        solver: Of the conditions.
        name: Of the program in the report.
    """
    arguments, ranges = dict(arguments or {}), dict(ranges or {})
    found: dict[str, Declared] = {}
    for value in arguments.values():
        for symbol in value.sizes if isinstance(value, Tensor) else (value,):
            if isinstance(symbol, str) and (isinstance(value, Tensor) or symbol in ranges):
                low, high = ranges.get(symbol, (0, None))
                found.setdefault(symbol, Declared(symbol, low, high))

    def entry(run: Run) -> Any:
        sizes = {symbol: run.shapes.declare(unknown) for symbol, unknown in found.items()}
        return function(**{key: made(value, sizes) for key, value in arguments.items()})

    return check_entry(entry, list(found.values()), Places(own), limits=limits, solver=solver, name=name)


def made(value: Any, sizes: Mapping[str, Any]) -> Any:
    """An argument of a run."""
    if isinstance(value, Tensor):
        dtype = getattr(torch, value.dtype)
        shape = [sizes[size] if isinstance(size, str) else size for size in value.sizes]
        return torch.empty(shape, dtype=dtype, device=value.device)
    return sizes[value] if isinstance(value, str) and value in sizes else value


def check_entry(
    entry: Callable[[Run], Any],
    declared: Sequence[Declared],
    places: Places,
    *,
    limits: Limits | None = None,
    solver: Solver | None = None,
    name: str = "",
    progress: Callable[[Explored], None] | None = None,
) -> Report:
    """Explores all paths of an entry and reports."""
    limits = limits or Limits()
    solver = solver or Solver()
    started = time.perf_counter()
    rules = operators.rules()

    memory = Memory()
    asked = False  # whether the program asks if there is a GPU

    def run(
        hints: Mapping[str, Number],
        *,
        plain: bool = False,
        whole: bool = False,
        beyond: Foretold | None = None,
        memory: Memory = memory,
        gpu: bool = False,
    ) -> Outcome:
        nonlocal asked
        outcome = execute(
            entry,
            hints,
            places,
            rules,
            seconds=limits.run_seconds,
            operations=limits.operations,
            plain=plain,
            whole=whole,
            memory=memory,
            beyond=beyond,
            gpu=gpu,
        )
        asked |= "gpu" in outcome.notes
        outcome.notes[GRADIENTS] = program.looks_at_gradients(places.own)
        return outcome

    with substituted():
        explored = explore(run, declared, solver, memory, limits, progress)
        if asked:
            left = limits.seconds - (time.perf_counter() - started)
            again = Memory()
            again.gradients, again.loops = memory.gradients, memory.loops
            learned = bool(memory.loops.guessed)  # what rounds of loops change, which no run has to show then
            needed = any(path.ending == NEEDS_GPU for path in explored.paths)
            runs = limits.paths if needed else GPU_RUNS
            again.alone = not needed  # these come to no end together
            ways = GPU_RUNS - 1 if learned and not needed else None
            some = dataclasses.replace(limits, paths=runs, ways=ways, seconds=max(left, 1.0))
            other = explore(partial(run, memory=again, gpu=True), declared, solver, again, some)
            _with_gpu(explored, other, needed)
    seconds = time.perf_counter() - started
    return report_of(explored, name, seconds, solver, declared)


GPU_RUNS = 2  # with a GPU, for device errors alone: the sizes were looked at without


def _with_gpu(explored: Explored, other: Explored, needed: bool) -> None:
    """Adds what runs with a GPU found: all of it where there are ways that need one, else only what is said of devices.

    In the second case the rest of their ways is neither looked at nor part of the verdict.
    """
    places = {(failed.failure.place, failed.failure.error) for failed in explored.failed}
    explored.failed += [
        failed
        for failed in other.failed
        if (needed or ABOUT_DEVICES.search(failed.failure.text))
        and (failed.failure.place, failed.failure.error) not in places
    ]
    if needed:
        explored.paths[:] = [path for path in explored.paths if path.ending != NEEDS_GPU] + other.paths
        explored.symbols.update(other.symbols)
        for unknown in other.unknowns:
            explored.unknown(unknown)
    explored.runs += other.runs
    explored.operations += other.operations


def check_program(
    target: Program,
    arguments: Sequence[Argument],
    *,
    limits: Limits | None = None,
    solver: Solver | None = None,
    progress: Callable[[Explored], None] | None = None,
) -> Report:
    """Checks a program that was read, in this process: for a program that is not trusted use `check.check`."""
    entry = Entry(target, arguments)
    places = Places(target.owns, target.source_line)
    with program.importing(target.owns, [str(target.root)]) as finder:
        entry.finder = finder
        return check_entry(
            entry,
            list(entry.declared.values()),
            places,
            limits=limits,
            solver=solver,
            name=target.target,
            progress=progress,
        )


def prepare() -> None:
    """Imports what a run needs, before the process is closed off."""
    Solver().solve([], {})
    operators.rules()
    with substituted():
        execute(lambda run: torch.zeros(run.shapes.index("a try", 3)).sum(), {}, Places())


@contextmanager
def substituted() -> Iterator[None]:
    """Stand-ins take the place of what touches the outside within."""
    with ExitStack() as stack:
        stack.enter_context(hooks.patched_symbols())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(standins.installed())
        stack.enter_context(_settings())
        yield


COLLECTED = (20_000, 20, 50)  # thresholds of the three generations of rubbish


@contextmanager
def _settings() -> Iterator[None]:
    """Settings of the framework that a check wants, put back afterwards."""
    config = torch._dynamo.config
    before = config.fake_tensor_cache_enabled
    default, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    # The cache would answer for other sizes without a comparison, so without a decision on record.
    config.fake_tensor_cache_enabled = False
    # What is imported stays: no need to look through it each time that rubbish is collected. Nor often through what runs
    # leave for others, and the memory of a run is small.
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*COLLECTED)
    try:
        yield
    finally:
        config.fake_tensor_cache_enabled = before
        torch.set_default_dtype(default)
        torch.set_grad_enabled(grad)
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def report_of(
    explored: Explored, name: str, seconds: float, solver: Solver, declared: Sequence[Declared]
) -> Report:
    """The report of an exploration."""
    findings = tuple(finding_of(failed) for failed in explored.failed)
    verdicts = [Verdict.ERROR] * bool(findings) + [Verdict.UNKNOWN] * bool(explored.unknowns)
    verdicts += [path.verdict for path in explored.paths]
    symbols = {
        unknown.name: Symbol(unknown.name, unknown.low, unknown.high, unknown.kind, unknown.meaning)
        for unknown in declared
    }
    symbols.update(explored.symbols)
    return Report(
        name,
        Verdict.worst(verdicts),
        findings,
        tuple(explored.unknowns),
        tuple(explored.paths),
        tuple(symbols.values()),
        {
            "seconds": seconds,
            "solver_seconds": solver.statistics.seconds,
            "queries": solver.statistics.queries,
            "runs": explored.runs,
            "operations": explored.operations,
            "peak_bytes": _peak(),
        },
    )


def finding_of(failed: Failed) -> Finding:
    """A failure as a finding with a code, a message and a hint."""
    last = next((x for x in reversed(failed.told.literals) if x.kind == "guard"), None)
    requirement = None
    if last is not None and last.place is not None and last.place.line == failed.failure.place.line:
        requirement = words(~last.condition)
    names = {symbol: value for symbol, value in failed.witness.items() if symbol in failed.outcome.symbols}
    code, message, caret, fix = explain_failure(
        failed.failure,
        names,
        requirement,
        failed.outcome.symbols.values(),
        conditions_of(failed.outcome.literals),
    )
    return Finding(
        code,
        message,
        failed.failure,
        names,
        failed.confirmed,
        conditions_of(failed.outcome.literals),
        requirement,
        fix,
        caret,
    )


def _peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def unknown_report(name: str, unknown: Unknown) -> Report:
    """A report that says only why nothing is known."""
    return Report(name, Verdict.UNKNOWN, unknowns=(unknown,))
