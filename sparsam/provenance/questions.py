"""Questions to what was recorded: where from, what depends on it, is it as it was, how was it made, which run was best.

Each takes a history in memory (:class:`sparsam.provenance.graph.History`) or the index on disk
(:class:`sparsam.provenance.index.Index`), and answers the same from both.
"""

import hashlib
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsam.errors import Refused, Usage
from sparsam.provenance.decisions import Account
from sparsam.provenance.graph import Entity, Program, in_order
from sparsam.provenance.index import Recorded
from sparsam.provenance.log import Damage

MOST_SOURCES = 1000
"""That a step names; a checkpoint that was made from a hundred thousand files says that there are more."""

UNCHANGED, CHANGED, GONE, UNKNOWN, TOUCHED = "unchanged", "changed", "gone", "never seen", "touched"
REPLACED = "replaced"
"""What :func:`state_of` says. *touched*: another time of change, and nobody knows whether the same bytes; *replaced*: a tracked
program has written a newer generation, or removed it."""


@dataclass(frozen=True)
class Step:
    """One generation in an answer, and how it came to be; ``more``: there are more direct sources than are named."""

    entity: Entity
    program: Program | None
    sources: tuple[str, ...]
    state: str
    account: Account | None = None
    more: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain facts."""
        one, by = self.entity, self.program
        return {
            "id": one.id, "path": one.names[-1], "names": one.names, "kind": one.kind, "generation": one.generation,
            "size": one.size, "sha256": one.sha256, "state": self.state, "from": list(self.sources),
            **({"from_more": True} if self.more else {}),
            "changed_unseen": one.outside, "unfinished": one.unfinished,
            "by": None if by is None else {
                "id": by.id, "run": by.run, "command": by.facts.get("argv"), "cwd": by.facts.get("cwd"),
                "user": by.facts.get("user"), "host": by.writer.host, "pid": by.writer.pid, "rank": by.facts.get("rank"),
            },
            "account": None if self.account is None else self.account.to_json(),
        }  # fmt: skip


def program_json(one: Program) -> dict[str, Any]:
    """Plain facts; a metric is its last value."""
    facts = {name: one.facts.get(name) for name in ("code", "versions", "machine", "container")}
    return {
        "id": one.id, "run": one.run, "command": one.facts.get("argv"), "began": one.began, "ended": one.ended,
        "status": one.status, "types": one.types, "configuration": one.configuration,
        "metrics": {name: value for _, name, value, _ in one.metrics}, "unseen": one.unseen, **facts,
    }  # fmt: skip


def entity_at(found: Recorded, path: str | os.PathLike[str]) -> Entity:
    """What lies at a path, or lay there last.

    Raises:
        Refused: ``path-unknown`` for a path that no tracked program touched.
    """
    place = os.path.realpath(path)
    one = found.at(place) or found.at(os.path.abspath(path))
    if one is None and (other := found.at(str(path))) is not None and other.id in found.imported:
        one = other  # named in an import as it is asked for, which may be no path of this machine
    if one is None:
        raise Refused(
            f"{place} was never seen by a tracked program. Track the one that writes it: sparsam track -- COMMAND",
            code="path-unknown",
        )
    return one


def state_of(found: Recorded, one: Entity) -> str:
    """Whether a generation still lies where it lay last, as it was; the bytes are read where a hash is known."""
    if one.kind != "file" or one.id in found.imported:
        return UNKNOWN
    places = found.lies_at(one)
    if not places:
        return REPLACED
    try:
        now = os.stat(places[-1])
    except OSError:
        return GONE
    if one.sha256 is not None:
        return UNCHANGED if now.st_size == one.size and sha256_of(places[-1]) == one.sha256 else CHANGED
    if one.size is not None and now.st_size != one.size:
        return CHANGED
    return UNCHANGED if now.st_mtime_ns == one.changed else TOUCHED


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Of a file's bytes."""
    made = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            made.update(block)
    return made.hexdigest()


def _step(found: Recorded, name: str, most: int) -> Step:
    one = found.entities[name]
    sources, account = found.sources(name, most + 1), found.accounts.get(name)
    by, state = found.program_of(one), state_of(found, one)
    return Step(one, by, tuple(sources[:most]), state, account, len(sources) > most)


def lineage(found: Recorded, path: str | os.PathLike[str], *, most: int = MOST_SOURCES) -> list[Step]:
    """The file, and everything it was made from, nearest first; each step names at most so many of its direct sources.

    Raises as :func:`entity_at`.
    """
    one = entity_at(found, path)
    return [_step(found, name, most) for name in (one.id, *found.lineage(one.id))]


def intermediate(steps: Sequence[Step]) -> set[str]:
    """Ids of generations in a lineage that a program wrote, used alone, and wrote over or removed: nobody else saw them.

    Where a step does not name all of its sources, its program may have seen any of them.
    """
    readers: dict[str, set[str]] = {}
    for step in steps:
        for source in step.sources:
            readers.setdefault(source, set()).add(step.entity.by or "")
    unsure = {step.entity.by or "" for step in steps if step.more}
    own = {
        x.entity.id: {x.entity.by}
        for x in steps[1:]
        if x.state in (REPLACED, GONE) and x.entity.by is not None
    }
    return {name for name, by in own.items() if readers.get(name) == by and unsure <= by}


def impact(found: Recorded, path: str | os.PathLike[str], *, most: int = MOST_SOURCES) -> list[Step]:
    """The file, and everything that was made from it (from any of its generations since the first), nearest first.

    Raises as :func:`entity_at`.
    """
    one = entity_at(found, path)
    names, further = dict.fromkeys([one.id]), found.walk(up=False)
    older: Entity | None = one
    while older is not None:
        names |= dict.fromkeys(further(older.id))
        older = found.entities.get(older.revision or "")
    return [_step(found, name, most) for name in names]


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was recorded."""

    path: str
    what: str
    detail: str


def verify(found: Recorded, paths: Sequence[str | os.PathLike[str]]) -> list[Finding]:
    """What has changed or gone of files (or of all files in folders) and of everything they were made from; damaged logs.

    Files in a folder that were never seen are left alone; one that is named is not.

    Raises:
        Refused: ``path-unknown`` where none of the files was ever seen.
    """
    files = [file for path in paths for file in _files(Path(path))]
    named = {Path(path) for path in paths}
    findings, seen, known, further = [], set(), 0, found.walk(up=True)
    for file in files:
        one = found.at(os.path.realpath(file))
        if one is None:
            if file in named:
                findings.append(Finding(str(file), UNKNOWN, "no tracked program wrote or read it"))
            continue
        known += 1
        for name in (one.id, *further(one.id)):
            if name in seen:
                continue
            seen.add(name)
            source = found.entities[name]
            state = state_of(found, source)
            if state in (CHANGED, TOUCHED, GONE):
                findings.append(Finding(source.names[-1], state, _explained(source, state)))
            elif state == REPLACED and source.by is None:
                why = "an input was overwritten or removed since, by a tracked program"
                findings.append(Finding(source.names[-1], REPLACED, why))
            if source.outside:
                findings.append(
                    Finding(source.names[-1], "written unseen", "no tracked program wrote this generation")
                )
            if source.unfinished:
                findings.append(
                    Finding(source.names[-1], "unfinished", "the program that wrote it never closed it")
                )
    if files and not known:
        raise Refused(
            f"none of {len(files)} files was ever seen by a tracked program. Track what writes them: sparsam track -- COMMAND",
            code="path-unknown",
        )
    damages: Sequence[Damage] = found.damages
    findings += [
        Finding(one.file, "damaged log", f"{one.reason} at byte {one.offset}; {one.left} bytes are left out")
        for one in damages
    ]
    return findings


def _explained(one: Entity, state: str) -> str:
    if state == GONE:
        return "it is no longer there"
    if state == TOUCHED:
        return "its time of change is another; no hash was recorded to tell whether the bytes are the same"
    return (
        "its bytes are others than were recorded" if one.sha256 else "its size is another than was recorded"
    )


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(x for x in path.rglob("*") if x.is_file() and ".sparsam" not in x.parts)
    return [path]


@dataclass(frozen=True)
class Recipe:
    """How a file was made, and whether that could be done again."""

    command: tuple[str, ...]
    cwd: str
    environment: Mapping[str, str]
    code: Mapping[str, Any]
    inputs: tuple[Step, ...]
    missing: tuple[str, ...] = field(default=())


def reproduce(found: Recorded, path: str | os.PathLike[str]) -> Recipe:
    """The command that wrote a file, and the state of each input that nobody wrote (generation 0) or that another run wrote.

    Raises:
        Refused: ``path-unknown``; ``not-made`` for a file that no tracked program wrote.
    """
    one = entity_at(found, path)
    by = found.program_of(one)
    if by is None:
        raise Refused(
            f"{one.names[-1]} was read, but no tracked program wrote it; there is no command to repeat.",
            code="not-made",
        )
    root, seen = by, {by.id}
    while root.parent in found.programs and root.parent not in seen:
        root = found.programs[str(root.parent)]
        seen.add(root.id)
    own = {x.id for x in found.programs_in(root.run)}
    steps = [_step(found, name, MOST_SOURCES) for name in (one.id, *found.lineage(one.id))]
    passing = intermediate(steps)
    given = tuple(x for x in steps[1:] if x.entity.by not in own and x.entity.id not in passing)
    missing = tuple(x.entity.names[-1] for x in given if x.state in (GONE, CHANGED, REPLACED))
    argv = tuple(str(x) for x in root.facts.get("argv", ()))
    return Recipe(
        argv,
        str(root.facts.get("cwd", "")),
        root.facts.get("environment", {}),
        root.facts.get("code", {}),
        given,
        missing,
    )


@dataclass(frozen=True)
class RunFacts:
    """A run in one line."""

    name: str
    began: int
    ended: int | None
    command: tuple[str, ...]
    programs: int
    read: int
    written: int
    metrics: Mapping[str, Any]
    configuration: Mapping[str, Any]
    types: tuple[str, ...]
    lost: int


def _run(found: Recorded, name: str) -> RunFacts:
    began, command, ended = 0, tuple[str, ...](), None
    metrics: dict[str, tuple[int, Any]] = {}
    configuration: dict[str, Any] = {}
    types: dict[str, None] = {}
    programs = lost = 0
    for one in found.programs_in(name):
        if not programs or one.began < began:
            began, command = one.began, tuple(str(x) for x in one.facts.get("argv", ()))
        if one.ended is not None:
            ended = one.ended if ended is None else max(ended, one.ended)
        for when, metric, value, _ in one.metrics:
            if metric not in metrics or when >= metrics[metric][0]:
                metrics[metric] = (when, value)
        configuration |= one.configuration
        types |= dict.fromkeys(one.types)
        programs += 1
        lost += one.lost
    told = {key: value for key, (_, value) in metrics.items()}
    return RunFacts(
        name, began, ended, command, programs, *found.counts(name), told, configuration, tuple(types), lost
    )  # fmt: skip


def runs(found: Recorded) -> list[RunFacts]:
    """All runs, oldest first. A metric is its last value."""
    return [_run(found, name) for name in found.run_names()]


def best(
    found: Recorded, metric: str, *, lowest: bool = False, where: Mapping[str, Any] | None = None
) -> list[RunFacts]:
    """Runs with a metric, the best first; ``where`` names settings they must have.

    Raises:
        Usage: ``metric-unknown`` where no run has it.
    """
    known = runs(found)
    having = [x for x in known if isinstance(x.metrics.get(metric), int | float)]
    if not having:
        names = sorted({name for x in known for name in x.metrics})
        raise Usage(
            f"no run has a number called {metric!r}; there are {', '.join(names) or 'none'}.",
            code="metric-unknown",
        )
    chosen = [
        x for x in having if all(str(x.configuration.get(k)) == str(v) for k, v in (where or {}).items())
    ]
    return sorted(chosen, key=lambda x: x.metrics[metric], reverse=not lowest)


@dataclass(frozen=True)
class Difference:
    """A fact that two runs do not share."""

    what: str
    name: str
    first: Any
    second: Any


def diff(found: Recorded, first: str, second: str) -> list[Difference]:
    """Settings, results, command and inputs (by content where it is known) in which two runs differ.

    Raises:
        Usage: ``run-unknown``.
    """
    known = found.run_names()
    for name in (first, second):
        if name not in known:
            raise Usage(
                f"no run is called {name!r}; there are {', '.join(known) or 'none'}.", code="run-unknown"
            )
    a, b = _run(found, first), _run(found, second)
    made = [] if a.command == b.command else [Difference("command", "", list(a.command), list(b.command))]
    for what, left, right in (
        ("setting", a.configuration, b.configuration), ("metric", a.metrics, b.metrics),
        ("input", _inputs(found, first), _inputs(found, second)),
    ):  # fmt: skip
        for name in sorted({*left, *right}):
            if left.get(name) != right.get(name):
                made.append(Difference(what, name, left.get(name), right.get(name)))
    return made


def _inputs(found: Recorded, run: str) -> dict[str, str]:
    given = found.inputs(run)
    return {x.names[-1]: x.sha256 or f"generation {x.generation}, {x.size} bytes" for x in in_order(given)}


@dataclass(frozen=True)
class Profile:
    """Calls of one kind on one file, in all of a run."""

    call: str
    path: str
    kind: str
    count: int
    bytes: int
    seconds: float
    failed: int

    @property
    def megabytes_per_second(self) -> float | None:
        """Of what was moved; None where nothing was, or no time was taken."""
        return self.bytes / self.seconds / 1e6 if self.bytes and self.seconds else None


def io_profile(found: Recorded, run: str) -> list[Profile]:
    """What a run did to which file, the longest first.

    Raises:
        Usage: ``run-unknown``.
    """
    rows: dict[tuple[str, str, str], list[float]] = {}
    for call, one in found.calls_of(run):
        sums = rows.setdefault((call.kind, one.names[-1], one.kind), [0, 0, 0, 0])
        for at, value in enumerate((call.count, call.bytes, call.seconds, call.failed)):
            sums[at] += value
    if not rows and run not in found.run_names():
        raise Usage(
            f"no run is called {run!r}; there are {', '.join(found.run_names()) or 'none'}.",
            code="run-unknown",
        )
    made = [
        Profile(*key, int(n), int(size), seconds, int(failed))
        for key, (n, size, seconds, failed) in rows.items()
    ]
    return sorted(made, key=lambda x: (-x.seconds, -x.bytes, x.path, x.call))


def bottleneck(profile: Sequence[Profile]) -> str:
    """The call that takes most of the time, in a line."""
    total = sum(x.seconds for x in profile)
    by_call = {
        call: sum(x.seconds for x in profile if x.call == call)
        for call in dict.fromkeys(x.call for x in profile)
    }
    if not total:
        return "no time was recorded"
    call = max(by_call, key=lambda x: by_call[x])
    typical = statistics.median([x.bytes / x.count for x in profile if x.call == call and x.count] or [0])
    share = f"{call} takes {by_call[call] / total:.0%} of {total:.3f} s in calls"
    return f"{share}; the median file moves {typical:,.0f} bytes a call"
