"""A check of a program: read, run in a process that can touch nothing, reported. Nothing here imports torch."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sparsam.errors import Refused
from sparsam.shapes import deferred, sandbox
from sparsam.shapes.arguments import Argument, parse_arguments
from sparsam.shapes.source import Program, read
from sparsam.shapes.verdict import Place, Report, Unknown, Verdict, from_json

STARTING = 30.0  # seconds that the process may take for its imports, beside those of the check


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of one check.

    Args:
        seconds: Of all runs of the program together.
        run_seconds: Of one.
        paths: Runs.
        operations: Calls of the framework in one run.
        bytes: Memory of the process.
    """

    seconds: float = 60.0
    run_seconds: float = 30.0
    paths: int = 400
    operations: int = 200_000
    bytes: int = 2 << 30


def check(
    target: str,
    arguments: Sequence[str] = (),
    *,
    limits: Limits | None = None,
    sandboxed: bool = True,
    folder: Path | None = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> Report:
    """Checks a program for all sizes.

    Args:
        target: Script, package, notebook, or module:function.
        arguments: As `--arg` takes them: "batch_size=1..512", "x=B×T×768:float32", "lr=0.1".
        limits: After which the rest is unknown.
        sandboxed: Run it in a process of its own that can touch nothing. Without, the program runs in this one: for
            programs that are trusted.
        folder: That the target is looked for in; the current one by default.
        on_event: Called with what the process reports on the way.

    Raises:
        Refused: If the target cannot be read, has no tensor code, or wants other arguments; the code says which.
        InputOutput: If no process can be started.
    """
    limits = limits or Limits()
    program = read(target, folder=folder)
    given = parse_arguments(arguments)
    program.demand(given)
    if not sandboxed:
        return _here(program, list(given.values()), limits)
    request = {
        "arguments": [dataclasses.asdict(argument) for argument in given.values()],
        "limits": {name: getattr(limits, name) for name in ("seconds", "run_seconds", "paths", "operations")},
        "compiler": deferred.named(program.texts()),
    }
    partial: list[dict[str, Any]] = []

    def event(message: dict[str, Any]) -> None:
        if "report" in message:
            partial[:] = [message["report"]]
        if on_event is not None:
            on_event(message)

    bounds = sandbox.Limits(seconds=limits.seconds + STARTING, bytes=limits.bytes)
    outcome = sandbox.run(program, request, limits=bounds, on_event=event)
    if deferred.AGAIN in (outcome.result or {}):
        partial.clear()
        request["compiler"] = True
        outcome = sandbox.run(program, request, limits=bounds, on_event=event)
    return _report(program, outcome, partial)


def _report(program: Program, outcome: sandbox.Outcome, partial: list[dict[str, Any]]) -> Report:
    result = outcome.result or {}
    if "refused" in result:
        raise Refused(result["refused"]["text"], code=result["refused"]["code"])
    told = result.get("report") or (partial[0] if partial else None)
    report = from_json(told) if told else Report(program.target, Verdict.UNKNOWN)
    unknowns = [*report.unknowns, *(_dropped(program, line, text) for line, text in program.dropped)]
    unknowns += [u for u in outcome.unknowns if not any(_alike(u, known) for known in unknowns)]
    verdict = report.verdict
    if unknowns and verdict is Verdict.PROVED:
        verdict = Verdict.UNKNOWN
    statistics = {**report.statistics, "seconds": outcome.seconds, "peak_bytes": outcome.peak_bytes}
    return dataclasses.replace(
        placed(report, program),
        verdict=verdict,
        unknowns=tuple(unknowns),
        statistics=statistics,
        output=outcome.output,
    )


def _dropped(program: Program, line: int, text: str) -> Unknown:
    """A line of a notebook that is no Python."""
    file, inside = program.where(program.file, line)
    return Unknown(
        "notebook-line",
        f"a line that is no Python was left out: {text.strip()}",
        Place(file, inside, source=text),
    )


def _alike(one: Unknown, other: Unknown) -> bool:
    return one.code == other.code and one.reason == other.reason


def _here(program: Program, arguments: list[Argument], limits: Limits) -> Report:
    from sparsam.shapes import checker, explore

    fields = {name: getattr(limits, name) for name in ("seconds", "run_seconds", "paths", "operations")}
    return placed(checker.check_program(program, arguments, limits=explore.Limits(**fields)), program)


def placed(report: Report, program: Program) -> Report:
    """The report with the places of a notebook told as cell and line."""
    if not program.cells:
        return report

    def told(place: Any) -> Any:
        if place is None or Path(place.file) != program.file:
            return place
        file, line = program.where(place.file, place.line)
        return dataclasses.replace(place, file=file, line=line)

    findings = tuple(
        dataclasses.replace(
            f, failure=dataclasses.replace(f.failure, chain=tuple(map(told, f.failure.chain)))
        )
        for f in report.findings
    )
    unknowns = tuple(dataclasses.replace(u, place=told(u.place)) for u in report.unknowns)
    symbols = tuple(dataclasses.replace(s, place=told(s.place)) for s in report.symbols)
    return dataclasses.replace(report, findings=findings, unknowns=unknowns, symbols=symbols)
