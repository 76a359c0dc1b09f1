"""What was recorded, asked from the index on disk; it answers what :class:`sparsam.provenance.graph.History` does."""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from sparsam.errors import InputOutput
from sparsam.provenance import ingest, tables, views, walks
from sparsam.provenance.capture import start
from sparsam.provenance.decisions import Account, take
from sparsam.provenance.graph import Call, Entity, History, Program, tell
from sparsam.provenance.ids import entity_id, program_id
from sparsam.provenance.log import Damage
from sparsam.provenance.runs import recorded
from sparsam.provenance.state import Node, Tally
from sparsam.provenance.tracking import runs_folder
from sparsam.provenance.writer import Writer

CHUNK = 500
"""Rows that are asked for at once."""
_FILE, _READ = tables.KINDS.index("file"), tables.CALLS.index("read")
_OWN, _RUN = (
    "program",
    "program.run = ?1 AND program.rank IS NOT NULL",
)  # in this order; a key without affinity (+) finds the index
_ENTITIES = (
    "SELECT entity.*, CASE WHEN file.current = entity.key THEN file.paths END FROM entity "
    "LEFT JOIN file ON file.key = entity.file WHERE entity.key IN"
)


def indexed(
    folder: str | os.PathLike[str] | None = None, *, check: bool = False, records: int = ingest.RECORDS
) -> "Index | History":
    """Everything that was recorded, the newest records included.

    A history in memory where no index can be written, and where documents were imported: these are joined to the whole of it.

    Args:
        folder: ``.sparsam``; by default that of the nearest folder upwards that has one.
        check: sum all logs once more, so that a byte that was turned in an old one is found, too.
        records: ingested in one transaction.

    Raises:
        InputOutput: ``runs-missing`` where nothing was recorded.
    """
    from sparsam.provenance.adapters import imported

    start.settle()
    base = Path(folder if folder is not None else runs_folder())
    if imported.names(base):
        return recorded(base)
    try:
        with alone(base):
            return opened(base, check=check, records=records)
    except (OSError, sqlite3.OperationalError):
        return recorded(base)


def alone(base: Path) -> AbstractContextManager[None]:
    """Nobody else ingests meanwhile. Raises as :func:`indexed`."""
    if not (base / "runs").is_dir() or not any(x.is_dir() for x in os.scandir(base / "runs")):
        raise InputOutput(
            f"nothing was recorded in {base}. Record a program with: sparsam track -- python train.py",
            code="runs-missing",
        )
    (base / "index").mkdir(exist_ok=True)
    return ingest.locked(base / "index" / "lock")


def opened(base: Path, *, check: bool = False, records: int = ingest.RECORDS) -> "Index":
    """The index, brought up to date by the one process that may (:func:`alone`)."""
    file = base / "index" / "history.sqlite"
    for _ in range(3):
        found = ingest.open_base(file)
        try:
            ingest.Ingest(found, base, check=check, records=records)()
            found.execute("BEGIN")
            found.execute(
                "SELECT count(*) FROM batch"
            ).fetchone()  # from here on others' changes are not seen
            return Index(found, base)
        except ingest.Overtaken:
            found.close()
        except sqlite3.OperationalError:
            found.close()
            raise
        except sqlite3.DatabaseError:  # not as SQLite left it: made again from the logs
            found.close()
            ingest.remove_base(file)
    raise sqlite3.OperationalError("no peace to ingest in")


class Index:
    """Answers from an index; a snapshot that others' ingesting does not change. Close it, or use it as a context.

    Entities and programs have the ids that they have in a history; an id is looked up quickest if this index gave it out.
    """

    foreign: Sequence[tuple[str, str, Any]] = ()
    stated: AbstractSet[str] = frozenset()
    imported: AbstractSet[str] = frozenset()
    """Of imports, which no index holds."""

    def __init__(self, base: sqlite3.Connection, folder: Path) -> None:
        self.base, self.folder = base, folder
        self._hosts = {key: tables.unpacked(name) for key, name in base.execute("SELECT key, name FROM host")}
        self._nodes: dict[int, Node] = {}
        self._names: dict[int, str] = {}
        self._keys: dict[str, int] = {}
        self._there: dict[int, set[int]] = {}
        self._places: dict[int, str] = {}
        self._summed: dict[str, tuple[int, int]] = {}
        self._firsts: dict[tuple[int, int], list[int]] = {}
        self._writers: dict[int, Writer] = {}
        self._programs: dict[int, Program] = {}
        self._program_keys: dict[str, int] | None = None
        self.entities: Mapping[str, Entity] = views.Entities(self)
        self.programs: Mapping[str, Program] = views.Programs(self)
        self.accounts: Mapping[str, Account] = views.Accounts(self)
        self._lists: dict[int, str] = {}

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._summed:
            with suppress(sqlite3.DatabaseError):
                self._keep_counts()
        self.base.close()

    # one at a time

    def at(self, path: str, host: str | None = None) -> Entity | None:
        """What lies at a path now, or lay there last; None for a path that was never seen."""
        rows = self.base.execute(
            "SELECT file.current, since, last, began, place.generation, host FROM place LEFT JOIN file "
            "ON file.key = place.file WHERE path = ?",
            (tables.packed(path),),
        ).fetchall()
        rows = [x for x in rows if host in (None, self._hosts[x[5]])]
        if now := [x for x in rows if x[0] is not None]:
            return self.entity(min(now, key=lambda x: x[1])[0])
        last = [x for x in rows if x[2] is not None]
        return self.entity(max(last, key=lambda x: (x[3], x[4], -x[2]))[2]) if last else None

    def sources(self, entity: str, most: int = -1) -> list[str]:
        """What it was made from directly, in order; not itself, and not more than ``most``."""
        return self.ids(walks.sources(self.base, self.key(entity), most, self._firsts))

    def lineage(self, entity: str) -> list[str]:
        """Everything it was made from, nearest first; not itself."""
        return self.walk(up=True)(entity)

    def impact(self, entity: str) -> list[str]:
        """Everything that was made from it, nearest first; not itself."""
        return self.walk(up=False)(entity)

    def walk(self, *, up: bool) -> Callable[[str], list[str]]:
        """As :meth:`lineage` or :meth:`impact`, from one entity after the other; what was reached once is not given again."""
        go = walks.Upward(self.base) if up else walks.Downward(self.base)
        return lambda entity: self.ids(go(self.key(entity)))

    def lies_at(self, entity: Entity) -> list[str]:
        """The names under which it lies now, of those that it had."""
        key = self.key(entity.id)
        self.ids([key])
        there = self._there.get(key, ())
        return [self._places[x] for x in self._nodes[key].names if x in there]

    def lying(self) -> Iterator[tuple[str, str, Entity]]:
        """Host, path, and what lies there, by host and path."""
        for host, key in sorted((name, key) for key, name in self._hosts.items()):
            rows = self.base.execute(
                "SELECT path, file.current FROM place JOIN file ON file.key = place.file WHERE host = ? ORDER BY path",
                (key,),
            )
            while part := rows.fetchmany(CHUNK):
                fresh = {entity for _, entity in part} - self.at_hand()
                for path, entity in part:
                    yield host, tables.unpacked(path), self.entity(entity)
                self.let_go(fresh)

    def program_of(self, entity: Entity) -> Program | None:
        """The program that wrote it, with its settings and the last of its results each, without its scopes."""
        key = self.key(entity.id)
        self.ids([key])
        by = self._nodes[key].by
        if by is None:
            return None
        if by not in self._programs:
            self._programs[by] = self.program(by, ("config", "type", "unseen"), last=True)
        return self._programs[by]

    @property
    def damages(self) -> tuple[Damage, ...]:
        """Of all logs, by run and name."""
        found = (ingest.Known.of(row) for row in self.base.execute("SELECT * FROM log"))
        by_name = sorted(found, key=lambda x: (x.run, x.name))
        damages = (x.damage(self.folder / "runs" / x.run / x.name) for x in by_name)
        return tuple(x for x in damages if x is not None)

    # many at a time

    def run_names(self) -> list[str]:
        """All runs, oldest first."""
        rows = self.base.execute("SELECT run FROM program WHERE rank IS NOT NULL ORDER BY began, rank")
        return list(dict.fromkeys(tables.unpacked(run) for (run,) in rows))

    def programs_in(self, run: str) -> Iterator[Program]:
        """The programs of a run, in the order in which they began to tell."""
        rows = self.base.execute(
            "SELECT key FROM program WHERE run = ? AND rank IS NOT NULL ORDER BY rank", (tables.packed(run),)
        )
        yield from (self.program(key) for (key,) in rows.fetchall())

    def counts(self, run: str) -> tuple[int, int]:
        """How many files a run read that it had not written, and how many it wrote; kept for the next time."""
        name = tables.packed(run)
        known = self.base.execute("SELECT read, written FROM summary WHERE run = ?", (name,)).fetchone()
        if known is not None:
            return int(known[0]), int(known[1])
        wrote_file = f"CROSS JOIN entity ON entity.by = +program.key AND entity.kind = {_FILE}"
        written = f"SELECT entity.key FROM {_OWN} {wrote_file} WHERE {_RUN}"
        read = f"SELECT entity FROM {_OWN} CROSS JOIN call ON call.program = +program.key AND call.kind = {_READ} WHERE {_RUN}"
        (both,) = self.base.execute(f"SELECT count(*) FROM ({read} EXCEPT {written})", (name,)).fetchone()
        (wrote,) = self.base.execute(f"SELECT count(*) FROM ({written})", (name,)).fetchone()
        self._summed[run] = (both, wrote)
        return both, wrote

    def _keep_counts(self) -> None:
        """For the next time, unless somebody has ingested meanwhile."""
        seen = self.base.execute("PRAGMA data_version").fetchone()
        self.base.execute("COMMIT")
        self.base.execute("PRAGMA busy_timeout = 100")
        self.base.execute("BEGIN IMMEDIATE")
        if self.base.execute("PRAGMA data_version").fetchone() == seen:
            rows = ((tables.packed(run), *counts) for run, counts in self._summed.items())
            self.base.executemany("INSERT OR REPLACE INTO summary VALUES (?, ?, ?)", rows)
        self.base.execute("COMMIT")

    def inputs(self, run: str) -> list[Entity]:
        """Files that a run read and that it had not written."""
        rows = self.base.execute(
            f"SELECT DISTINCT entity.key FROM {_OWN} CROSS JOIN call ON call.program = +program.key AND call.kind = {_READ} "
            f"CROSS JOIN entity ON entity.key = call.entity AND entity.kind = {_FILE} WHERE {_RUN} "
            f"AND (by IS NULL OR by NOT IN (SELECT key FROM program WHERE {_RUN})) ORDER BY entity.key",
            (tables.packed(run),),
        )
        return [self.entities[x] for x in self.ids([key for (key,) in rows])]

    def calls_of(self, run: str) -> Iterator[tuple[Call, Entity]]:
        """Every call of a run, in the order in which they came to be, and on what it was."""
        rows = self.base.execute(
            f"SELECT call.* FROM {_OWN} CROSS JOIN call ON call.program = +program.key WHERE {_RUN} ORDER BY call.key",
            (tables.packed(run),),
        )
        for one in self.told(rows):
            yield one, self.entities[one.entity]

    # from rows to things

    def key(self, entity: str) -> int:
        """The number of an entity; all are looked through for one that this index did not give out."""
        if entity not in self._keys and all(one != entity for one in self.entities):
            raise KeyError(entity)
        return self._keys[entity]

    def entity(self, key: int) -> Entity:
        """By its number."""
        self.ids([key])
        one, of = (
            self._nodes[key],
            self.ids([x for x in (self._nodes[key].revision, self._nodes[key].within) if x]),
        )
        revision = None if one.revision is None else of[0]
        within = None if one.within is None else of[-1]
        return Entity(
            self._names[key], one.kind, self._places[one.place], self.writer(one.program).host, one.generation, one.began,
            [self._places[x] for x in one.names], one.size, one.changed, one.sha256,
            reads=[] if one.reads is None else [(self._list(one.reads), one.count)], revision=revision, within=within,
            by=None if one.by is None else program_id(self.writer(one.by)), outside=one.outside, unfinished=one.unfinished,
        )  # fmt: skip

    def _list(self, key: int) -> str:
        """What a list of reads is called in a history."""
        if key not in self._lists:
            group, scope = self.base.execute("SELECT grp, scope FROM list WHERE key = ?", (key,)).fetchone()
            self._lists[key] = program_id(self.writer(group)) + (
                "" if scope is None else f" {tables.unpacked(scope)}"
            )
        return self._lists[key]

    def account(self, key: int) -> Account | None:
        """What was told of how an entity was made."""
        found: dict[str, Account] = {}
        (name,) = self.ids([key])
        rows = self.base.execute(
            "SELECT program, kind, facts, sources FROM account WHERE entity = ? ORDER BY key", (key,)
        )
        for program, kind, facts, sources in rows.fetchall():
            by, ids = program_id(self.writer(program)), self.ids(json.loads(sources))
            take(found, name, by, kind, json.loads(facts), ids)
        return found.get(name)

    def ids(self, keys: list[int]) -> list[str]:
        """Of entities; they are at hand afterwards."""
        if missing := [x for x in keys if x not in self._nodes]:
            self.hold(missing)
        return [self._names[x] for x in keys]

    def hold(self, keys: Iterable[int]) -> None:
        """Have entities at hand, with the names of their places."""
        for rows in self.chunks(_ENTITIES, keys):
            nodes = [tables.node(row) for row in rows]
            places = {x for one in nodes for x in (one.place, *one.names)} - self._places.keys()
            for found in self.chunks("SELECT key, path FROM place WHERE key IN", places):
                self._places |= {key: tables.unpacked(path) for key, path in found}
            for one, row in zip(nodes, rows, strict=True):
                name = entity_id(
                    self.writer(one.program),
                    one.number,
                    one.form,
                    one.kind,
                    self._places[one.place],
                    one.generation,
                )
                self._nodes[one.key], self._names[one.key], self._keys[name] = one, name, one.key
                if row[-1] is not None:
                    self._there[one.key] = set(tables.keys_of(row[-1]))

    def at_hand(self) -> AbstractSet[int]:
        """Entities, by their numbers."""
        return self._nodes.keys()

    def let_go(self, keys: Iterable[int]) -> None:
        """Of entities that were at hand."""
        for key in keys:
            self._nodes.pop(key, None)
            self._there.pop(key, None)
            self._keys.pop(self._names.pop(key, ""), None)
        if len(self._places) > 400 * CHUNK:
            kept = {x for one in self._nodes.values() for x in (one.place, *one.names)}
            self._places = {key: name for key, name in self._places.items() if key in kept}

    def chunks(self, query: str, keys: Iterable[int]) -> Iterator[list[tuple[Any, ...]]]:
        """Rows of a query that ends in ``IN``, for so many numbers at once."""
        wanted = sorted(keys)
        for at in range(0, len(wanted), CHUNK):
            part = wanted[at : at + CHUNK]
            yield self.base.execute(f"{query} ({', '.join('?' * len(part))})", part).fetchall()

    def all_keys(self, table: str, last: int = 0) -> Iterator[list[int]]:
        """Of a table, in order, a chunk at a time."""
        while True:
            rows = self.base.execute(
                f"SELECT key FROM {table} WHERE key > ? ORDER BY key LIMIT ?", (last, CHUNK)
            ).fetchall()
            if not rows:
                return
            yield [key for (key,) in rows]
            last = rows[-1][0]

    def writer(self, program: int) -> Writer:
        """Of a program, by its number."""
        if program not in self._writers:
            (name,) = self.base.execute("SELECT name FROM program WHERE key = ?", (program,)).fetchone()
            self._writers[program] = tables.writer_from(name)
        return self._writers[program]

    def program(
        self,
        key: int,
        kinds: tuple[str, ...] = ("type", "config", "metric", "scope", "unseen"),
        last: bool = False,
    ) -> Program:
        """By its number, with what it told of itself; with ``last`` the last of its results each, too."""
        row = self.base.execute("SELECT * FROM program WHERE key = ?", (key,)).fetchone()
        one = tables.process(row)
        parent = None if one.parent is None else program_id(self.writer(one.parent))
        made = Program(
            program_id(one.writer), one.writer, one.run, one.facts, one.began, one.ended, one.status, parent, one.forked,
            lost=one.lost,
        )  # fmt: skip
        said = self.base.execute(
            "SELECT kind, time, name, value, scope FROM said WHERE program = ?1 AND (kind IN (SELECT value FROM json_each(?2)) "
            "OR ?3 AND key IN (SELECT max(key) FROM said WHERE program = ?1 AND kind = 'metric' GROUP BY name)) ORDER BY key",
            (key, json.dumps(kinds), last),
        )
        for kind, when, name, value, scope in said:
            tell(
                made,
                kind,
                when,
                tables.unpacked(name),
                json.loads(value),
                None if scope is None else tables.unpacked(scope),
            )
        return made

    def program_keys(self) -> dict[str, int]:
        """The numbers of all programs that told anything, in the order in which they began to."""
        if self._program_keys is None:
            rows = self.base.execute("SELECT key, name FROM program WHERE rank IS NOT NULL ORDER BY rank")
            self._program_keys = {program_id(tables.writer_from(name)): key for key, name in rows}
        return self._program_keys

    def told(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[Call]:
        """Calls from their rows, their entities at hand."""
        part: list[Tally] = []
        for row in rows:
            part.append(tables.tally(row))
            if len(part) == CHUNK:
                yield from self._called(part)
                part = []
        yield from self._called(part)

    def _called(self, part: list[Tally]) -> Iterator[Call]:
        fresh = {x.entity for x in part} - self._nodes.keys()
        names = self.ids([x.entity for x in part])
        for x, name in zip(part, names, strict=True):
            yield Call(
                x.kind, program_id(self.writer(x.program)), name, x.scope, x.count, x.bytes, x.seconds, x.failed, x.first,
                x.last,
            )  # fmt: skip
        self.let_go(fresh)

    def used(self) -> Iterator[tuple[str, str]]:
        """Every program with every entity that it read, once."""
        rows = self.base.execute(
            "SELECT DISTINCT program, entity FROM call WHERE kind = ? ORDER BY program, entity",
            (tables.CALLS.index("read"),),
        )
        while part := rows.fetchmany(CHUNK):
            fresh = {entity for _, entity in part} - self._nodes.keys()
            names = self.ids([entity for _, entity in part])
            for (program, _), name in zip(part, names, strict=True):
                yield program_id(self.writer(program)), name
            self.let_go(fresh)

    def all_calls(self) -> Iterator[Call]:
        """Every call, in the order in which they came to be."""
        for keys in self.all_keys("call"):
            yield from self.told(
                self.base.execute("SELECT * FROM call WHERE key BETWEEN ? AND ?", (keys[0], keys[-1]))
            )


Recorded = History | Index
"""Both answer the same questions."""
