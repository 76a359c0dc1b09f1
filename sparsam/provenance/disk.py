"""A state that lies in a file of SQLite, of which what is in use is kept in memory.

Every batch of records is one transaction. A batch keeps, of each row that it changed, what it was before (``undo_*``), and how
far the numbers had come; with these :func:`sparsam.provenance.undo.back_to` takes the state back to the end of an earlier
batch, for records that come late. Neighbouring batches are joined the further they lie back, so that their number grows with
the logarithm of the records.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sparsam.provenance.state import (
    TABLES,
    File,
    Inode,
    Node,
    Pipe,
    Place,
    Process,
    Reads,
    Session,
    State,
    Tally,
    Within,
)
from sparsam.provenance.tables import (
    APPENDED,
    CALLS,
    KINDS,
    keys_of,
    maybe,
    node,
    packed,
    packed_keys,
    packed_sum,
    process,
    signed,
    tally,
    unpacked,
)
from sparsam.provenance.walks import Downward
from sparsam.provenance.writer import Writer


class Disk(State):
    """See the module. Changes reach the file by :meth:`write` alone, within the caller's transaction."""

    def __init__(self, base: sqlite3.Connection) -> None:
        super().__init__()
        self.base = base
        self.batch, counters = base.execute(
            "SELECT key, counters FROM batch ORDER BY key DESC LIMIT 1"
        ).fetchone()
        self.counters |= json.loads(counters)
        self.floor = dict(self.counters)
        """How far the numbers had come when the batch began: rows up to there are kept as they were."""
        self.hosts: dict[str, int] = {
            unpacked(name): key for key, name in base.execute("SELECT key, name FROM host")
        }
        self.host_of = {key: name for name, key in self.hosts.items()}
        self._gone: set[int] = set()
        self._reads: list[tuple[int, int, int]] = []
        self._derived: list[tuple[int, int]] = []
        for group, name in base.execute("SELECT grp, id FROM scope WHERE open ORDER BY key"):
            self.open_scopes.setdefault(group, {})[unpacked(name)] = None

        for at, device, inode, group, out in base.execute(
            "SELECT host, device, number, grp, out FROM pipe ORDER BY key"
        ):
            super().connect((self.host_of[at], device % (1 << 64), inode % (1 << 64)), group, out=bool(out))
        self._pipes: list[tuple[Pipe, int, bool]] = []

    def host(self, name: str) -> int:
        """Its number."""
        if name not in self.hosts:
            self.base.execute("INSERT INTO host(name) VALUES (?)", (packed(name),))
            row = self.base.execute("SELECT key FROM host WHERE name = ?", (packed(name),)).fetchone()
            self.hosts[name], self.host_of[int(row[0])] = int(row[0]), name
        return self.hosts[name]

    # reading

    def _one(self, table: str, where: str, *values: Any) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] | None = self.base.execute(
            f"SELECT * FROM {table} WHERE {where}", values
        ).fetchone()
        return found

    def _entity(self, key: int) -> Node:
        row = self._one("entity", "key = ?", key)
        if row is None:
            raise KeyError(key)
        made = self.entities[key] = node(row)
        return made

    def _file(self, key: int) -> File:
        row = self._one("file", "key = ?", key)
        if row is None:
            raise KeyError(key)
        inode = None if row[2] is None else (row[2] % (1 << 64), row[3] % (1 << 64))
        made = self.files[key] = File(key, row[1], inode, set(keys_of(row[4])), row[5], row[6])
        return made

    def _place(self, key: tuple[str, str]) -> Place | None:
        host = self.hosts.get(key[0])
        row = None if host is None else self._one("place", "path = ? AND host = ?", packed(key[1]), host)
        return None if row is None else self._placed(row)

    def _place_of(self, key: int) -> Place:
        row = self._one("place", "key = ?", key)
        if row is None:
            raise KeyError(key)
        return self._placed(row)

    def _placed(self, row: tuple[Any, ...]) -> Place:
        made = dict.get(self.place_of, row[0])
        if made is None:
            made = Place(row[0], self.host_of[row[1]], unpacked(row[2]), *row[3:])
            self.place_of[made.key] = self.places[made.host, made.path] = made
        return made

    def _inode(self, key: tuple[str, int, int]) -> Inode | None:
        row = self._one(
            "inode",
            "host = ? AND device = ? AND number = ?",
            self.host(key[0]),
            signed(key[1]),
            signed(key[2]),
        )
        if row is None:
            return None
        made = self.inodes[key] = Inode(row[0], *key, file=row[4])
        return made

    def _session(self, key: tuple[int, int | str]) -> Session | None:
        if key[0] > self.floor["program"]:
            return None
        row = self._one("session", "program = ? AND handle = ?", key[0], json.dumps(key[1]))
        return None if row is None or row[0] in self._gone else self._opened(row)

    def _opened(self, row: tuple[Any, ...]) -> Session:
        handle = json.loads(row[2])
        made = dict.get(self.sessions, (row[1], handle))
        if made is None:
            made = Session(row[0], row[1], handle, maybe(row[3]), row[4], row[5], bool(row[6]))
            self.sessions[made.program, made.handle] = made
        return made

    def _program(self, key: Writer) -> Process | None:
        row = self._one("program", "name = ?", packed(f"{key.host}\0{key.pid}\0{key.started}"))
        return None if row is None else self._process(row)

    def _program_of(self, key: int) -> Process:
        row = self._one("program", "key = ?", key)
        if row is None:
            raise KeyError(key)
        return self._process(row)

    def _process(self, row: tuple[Any, ...]) -> Process:
        made = dict.get(self.program_of, row[0])
        if made is None:
            made = process(row)
            self.program_of[made.key] = self.programs[made.writer] = made
        return made

    def _call(self, key: tuple[str, int, int, str | None]) -> Tally | None:
        kind, program, entity, scope = key
        if entity > self.floor["entity"] or program > self.floor["program"]:
            return None
        row = self._one(
            "call", "program = ? AND kind = ? AND entity = ? AND scope IS ?", program, CALLS.index(kind), entity,
            packed(scope),
        )  # fmt: skip
        if row is None:
            return None
        made = self.calls[key] = tally(row)
        return made

    def _list(self, key: tuple[int, str | None]) -> Reads | None:
        row = self._one("list", "grp = ? AND scope IS ?", key[0], packed(key[1]))
        if row is None:
            return None
        made = self.lists[key] = Reads(row[0], row[1], key[1], row[3])
        return made

    def _scope(self, key: tuple[int, str]) -> Within | None:
        row = self._one("scope", "grp = ? AND id = ?", key[0], packed(key[1]))
        if row is None:
            return None
        made = self.scopes[key] = Within(row[0], row[1], key[1], maybe(row[3]), bool(row[4]), bool(row[5]))
        return made

    def _object(self, key: tuple[int, str, str]) -> int | None:
        entity, kind, name = key
        place = self.places[self.program_of[self.entities[entity].program].writer.host, name]
        if entity > self.floor["entity"] or place is None:
            return None
        row = self._one(
            "entity", "within = ? AND place = ? AND kind = ?", entity, place.key, KINDS.index(kind)
        )
        if row is None:
            return None
        made = self.objects[key] = int(row[0])
        return made

    # what is more than rows

    def ended(self, session: Session) -> None:
        """A session was closed."""
        self.sessions.pop((session.program, session.handle), None)
        if self.changed["session"].pop(session.key, None) is None or session.key <= self.floor["session"]:
            self._gone.add(session.key)

    def forget(self, one: Node) -> None:
        """An entity that turned out not to have been there."""
        self.entities.pop(one.key, None)
        if self.changed["entity"].pop(one.key, None) is None:
            self.base.execute("DELETE FROM entity WHERE key = ?", (one.key,))

    def put_read(self, one: Reads, entity: int) -> None:
        """At the end of a list, unless it is in it."""
        pair = (one.key, entity)
        if pair in self.listed:
            return
        self.listed.add(pair)
        if (
            one.key <= self.floor["list"]
            and entity <= self.floor["entity"]
            and self._one("read", "entity = ? AND list = ?", entity, one.key)
        ):
            return
        self._reads.append((one.key, one.count, entity))
        one.count += 1
        self.changed["list"][one.key] = one

    def connect(self, pipe: Pipe, group: int, *, out: bool) -> bool:
        """A group writes to a pipe, or reads from it; whether that is news."""
        fresh = super().connect(pipe, group, out=out)
        if fresh:
            self._pipes.append((pipe, group, out))
        return fresh

    def first_reads(self, one: Reads, count: int) -> Iterable[int]:
        """Of a list."""
        self._write_reads()
        found = self.base.execute(
            "SELECT entity FROM read WHERE list = ? AND position < ? ORDER BY position", (one.key, count)
        )
        return [x for (x,) in found]

    def derive(self, target: Node, source: int) -> None:
        """It was made from it."""
        target.derived = True
        self._derived.append((target.key, source))

    def made_from(self, one: Node, reads: Reads, count: int) -> None:
        """From the first so many of a list."""
        one.reads, one.count = reads.key, count

    def made_of(self, entity: int) -> set[int]:
        """Everything that was made from it, and itself."""
        self._write_reads()
        self._write_rows("entity")
        return {entity, *Downward(self.base)(entity)}

    def inside(self, host: str, folder: str) -> list[Place]:
        """Places in a folder where files lie, by when these came there."""
        self._write_rows("place")
        found = self.base.execute(
            "SELECT * FROM place WHERE path > ? AND path < ? AND host = ? AND file IS NOT NULL ORDER BY since",
            (packed(folder + "/"), packed(folder + "0"), self.host(host)),
        ).fetchall()
        return [self._placed(x) for x in found]

    def open_sessions(self) -> Iterator[Session]:
        """Those that have written, in the order in which they were opened; the others end without a trace."""
        self._write_rows("session")
        for row in self.base.execute("SELECT * FROM session WHERE wrote ORDER BY key").fetchall():
            yield self._opened(row)

    # writing

    def _row(self, table: str, x: Any) -> tuple[Any, ...]:
        if table == "entity":
            flags = x.outside | x.unfinished << 1 | x.in_progress << 2 | x.derived << 3
            return (
                x.key, KINDS.index(x.kind), x.form, x.place, x.program, x.number, x.generation, x.began, packed_keys(x.names),
                x.file, x.size, x.changed, packed_sum(x.sha256), x.reads, x.count, x.revision, x.within, x.by, flags,
            )  # fmt: skip
        if table == "call":
            return (
                x.key, x.program, CALLS.index(x.kind), x.entity, packed(x.scope), x.count, x.bytes, x.seconds, x.failed,
                x.first, x.last,
            )  # fmt: skip
        if table == "place":
            return (
                x.key, self.host(x.host), packed(x.path), x.file, x.since, x.last, x.began, x.generation
            )  # fmt: skip
        if table == "file":
            device, inode = (None, None) if x.inode is None else map(signed, x.inode)
            return (x.key, x.current, device, inode, packed_keys(sorted(x.paths)), x.generation, x.writers)
        if table == "inode":
            return (x.key, self.host(x.host), signed(x.device), signed(x.number), x.file)
        if table == "session":
            return (x.key, x.program, json.dumps(x.handle), packed(x.scope), x.file, x.entity, x.wrote)
        if table == "program":
            name = f"{x.writer.host}\0{x.writer.pid}\0{x.writer.started}"
            return (
                x.key, packed(name), packed(x.run), json.dumps(x.facts), x.began, x.ended, json.dumps(x.status), x.parent,
                x.forked, x.group, x.lost, x.rank, x.of,
            )  # fmt: skip
        if table == "list":
            return (x.key, x.group, packed(x.scope), x.count)
        return (x.key, x.group, packed(x.id), packed(x.parent), x.open, x.stage)

    def _write_rows(self, table: str) -> None:
        if table == "session" and self._gone:
            old = [x for x in self._gone if x <= self.floor["session"]]
            self.keep("session", old)
            self.base.executemany("DELETE FROM session WHERE key = ?", ((x,) for x in self._gone))
            self._gone = set()
        changed = self.changed[table]
        if not changed:
            return
        floor = self.floor[table]
        self.keep(table, [key for key in changed if key <= floor])
        rows = [self._row(table, changed[key]) for key in sorted(changed)]
        marks = ", ".join("?" * len(rows[0]))
        self.base.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", rows)
        changed.clear()

    def keep(self, table: str, keys: Sequence[int]) -> None:
        """What rows were before this batch; the first time counts."""
        self.base.executemany(
            f"INSERT OR IGNORE INTO undo_{table} SELECT ?, * FROM {table} WHERE key = ?",
            ((self.batch + 1, key) for key in sorted(keys)),
        )

    def _write_reads(self) -> None:
        self.base.executemany("INSERT INTO read VALUES (?, ?, ?)", sorted(self._reads))
        self._reads = []
        self.base.executemany("INSERT OR IGNORE INTO derived(target, source) VALUES (?, ?)", self._derived)
        self._derived = []

    def write(self, time: int, writer: str, number: int, records: int, *, final: bool = False) -> None:
        """End the batch with what is changed, as the state after the record of this time, process and number."""
        acted = {x.program for x in self.changed["call"].values()} | set(self.changed["program"])
        acted |= {x.by for x in self.changed["entity"].values() if x.by is not None}
        for table in TABLES:
            self._write_rows(table)
        self.base.executemany(
            "DELETE FROM summary WHERE run = ?", ((packed(self.program_of[x].run),) for x in acted)
        )
        self.base.execute("DELETE FROM summary WHERE run = x''")
        self._write_reads()
        self.base.executemany(
            "INSERT INTO said(program, kind, time, name, value, scope) VALUES (?, ?, ?, ?, ?, ?)",
            (
                (program, kind, when, packed(name), json.dumps(value), packed(scope))
                for program, kind, when, name, value, scope in self.said
            ),
        )
        self.said.clear()
        self.base.executemany(
            "INSERT INTO account(entity, program, kind, facts, sources) VALUES (?, ?, ?, ?, ?)",
            (
                (x.entity, x.program, x.kind, json.dumps(x.facts), json.dumps(x.sources))
                for x in self.accounts
            ),
        )
        self.accounts.clear()
        self.base.executemany(
            "INSERT INTO pipe(host, device, number, grp, out) VALUES (?, ?, ?, ?, ?)",
            (
                (self.host(host), signed(device), signed(inode), group, out)
                for (host, device, inode), group, out in self._pipes
            ),
        )
        self._pipes.clear()
        self.batch += 1
        for table in (*APPENDED, "log"):
            self.counters[table] = self.base.execute(f"SELECT coalesce(max(key), 0) FROM {table}").fetchone()[
                0
            ]
        self.base.execute(
            "INSERT INTO batch VALUES (?, ?, ?, ?, ?, ?, ?)",
            (self.batch, time, writer, number, records, final, json.dumps(self.counters)),
        )
        self.floor = dict(self.counters)

    def held(self) -> int:
        """How many things are in memory."""
        kept = (
            self.entities, self.files, self.place_of, self.inodes, self.sessions, self.program_of, self.calls, self.lists,
            self.scopes, self.objects, self.listed,
        )  # fmt: skip
        return sum(len(x) for x in kept)

    def let_go(self) -> None:
        """Everything that is in memory, once it is written."""
        for kept in (
            self.entities, self.files, self.places, self.place_of, self.inodes, self.sessions, self.programs,
            self.program_of, self.calls, self.lists, self.scopes, self.objects, self.listed,
        ):  # fmt: skip
            kept.clear()
