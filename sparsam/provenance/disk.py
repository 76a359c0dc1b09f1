"""A state that lies in a file of SQLite, of which what is in use is kept in memory.

Every batch of records is one transaction. A batch keeps, of each row that it changed, what it was before (``undo_*``), and how
far the numbers had come; with these :meth:`Disk.back_to` takes the state back to the end of an earlier batch, for records
that come late. Neighbouring batches are joined the further they lie back, so that their number grows with the logarithm of
the records.
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
    Place,
    Process,
    Reads,
    Session,
    State,
    Tally,
    Within,
)
from sparsam.provenance.walks import Downward
from sparsam.provenance.writer import Writer

VERSION = 1
"""Of the tables; an index of another version is made anew."""
COLUMNS = {
    "entity": (
        "kind form place program number generation began names file size changed sha256 reads count revision within by flags"
    ),
    "place": "host path file since last began generation",
    "file": "current device inode paths generation writers",
    "inode": "host device number file",
    "session": "program handle scope file entity wrote",
    "program": "name run facts began ended status parent forked grp lost rank",
    "call": "program kind entity scope count bytes seconds failed first last",
    "list": "grp scope count",
    "scope": "grp id parent open",
    "log": "run name size changed offset crc taken number time told first reason",
}  # fmt: skip
INDEXES = (
    "CREATE UNIQUE INDEX place_path ON place(path, host)",
    "CREATE UNIQUE INDEX inode_number ON inode(host, device, number)",
    "CREATE UNIQUE INDEX session_handle ON session(program, handle)",
    "CREATE UNIQUE INDEX program_name ON program(name)",
    "CREATE INDEX program_run ON program(run)",
    "CREATE INDEX call_on ON call(program, kind, entity)",
    "CREATE INDEX list_of ON list(grp, scope)",
    "CREATE UNIQUE INDEX scope_id ON scope(grp, id)",
    "CREATE INDEX scope_open ON scope(grp, id) WHERE open",
    "CREATE UNIQUE INDEX log_name ON log(run, name)",
    "CREATE INDEX entity_reads ON entity(reads, count) WHERE reads IS NOT NULL",
    "CREATE INDEX entity_within ON entity(within, place) WHERE within IS NOT NULL",
    "CREATE INDEX entity_by ON entity(by, kind) WHERE by IS NOT NULL",
    "CREATE INDEX read_entity ON read(entity, list, position)",
    "CREATE UNIQUE INDEX derived_target ON derived(target, source)",
    "CREATE INDEX derived_source ON derived(source, target)",
    "CREATE INDEX said_program ON said(program, kind)",
)
APPENDED = ("said", "derived")
"""Tables whose rows never change."""
KINDS = ("file", "directory", "group", "dataset", "attribute", "datatype", "link")
CALLS = ("create", "open", "read", "write", "fsync", "rename")


def schema() -> Iterator[str]:
    """The statements that make an empty index."""
    for name, columns in COLUMNS.items():
        listed = ", ".join(columns.split())
        yield f"CREATE TABLE {name}(key INTEGER PRIMARY KEY, {listed})"
        yield f"CREATE TABLE undo_{name}(batch, key, {listed}, PRIMARY KEY(batch, key)) WITHOUT ROWID"
    yield "CREATE TABLE host(key INTEGER PRIMARY KEY, name BLOB UNIQUE)"
    yield "CREATE TABLE read(list, position, entity, PRIMARY KEY(list, position)) WITHOUT ROWID"
    yield "CREATE TABLE derived(key INTEGER PRIMARY KEY, target, source)"
    yield "CREATE TABLE said(key INTEGER PRIMARY KEY, program, kind, time, name, value, scope)"
    yield "CREATE TABLE batch(key INTEGER PRIMARY KEY, time, writer, number, records, final, counters)"
    yield from INDEXES
    yield f"PRAGMA user_version = {VERSION}"


def packed(text: str | None) -> bytes | None:
    """Any text, one that is no valid Unicode, too."""
    return None if text is None else text.encode("utf-8", "surrogatepass")


def unpacked(content: bytes) -> str:
    """The text again."""
    return content.decode("utf-8", "surrogatepass")


def _maybe(content: bytes | None) -> str | None:
    return None if content is None else unpacked(content)


def _signed(number: int) -> int:
    """Of 64 bits, as SQLite keeps them."""
    return number - (1 << 64) if number >> 63 else number


def _keys(keys: Sequence[int]) -> Any:
    """One number as it is, several as JSON."""
    return keys[0] if len(keys) == 1 else json.dumps(keys)


def keys_of(column: Any) -> list[int]:
    """As they were packed."""
    return [column] if isinstance(column, int) else [int(x) for x in json.loads(column)]


def packed_sum(text: str | None) -> bytes | str | None:
    """Bytes where it is a sum in hexadecimal, JSON where it is anything else."""
    if text is None:
        return None
    return (
        bytes.fromhex(text)
        if len(text) == 64 and not set(text) - set("0123456789abcdef")
        else json.dumps(text)
    )


def unpacked_sum(content: bytes | str | None) -> str | None:
    """The text again."""
    if content is None:
        return None
    return content.hex() if isinstance(content, bytes) else str(json.loads(content))


def writer_from(name: bytes) -> Writer:
    """Of a program, by its name in the index."""
    host, pid, started = unpacked(name).rsplit("\0", 2)
    return Writer(host, int(pid), int(started))


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
            _signed(key[1]),
            _signed(key[2]),
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
            made = Session(row[0], row[1], handle, _maybe(row[3]), row[4], row[5], bool(row[6]))
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
        made = self.scopes[key] = Within(row[0], row[1], key[1], _maybe(row[3]), bool(row[4]))
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
                x.key, KINDS.index(x.kind), x.form, x.place, x.program, x.number, x.generation, x.began, _keys(x.names),
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
            device, inode = (None, None) if x.inode is None else map(_signed, x.inode)
            return (x.key, x.current, device, inode, _keys(sorted(x.paths)), x.generation, x.writers)
        if table == "inode":
            return (x.key, self.host(x.host), _signed(x.device), _signed(x.number), x.file)
        if table == "session":
            return (x.key, x.program, json.dumps(x.handle), packed(x.scope), x.file, x.entity, x.wrote)
        if table == "program":
            name = f"{x.writer.host}\0{x.writer.pid}\0{x.writer.started}"
            return (
                x.key, packed(name), packed(x.run), json.dumps(x.facts), x.began, x.ended, json.dumps(x.status), x.parent,
                x.forked, x.group, x.lost, x.rank,
            )  # fmt: skip
        if table == "list":
            return (x.key, x.group, packed(x.scope), x.count)
        return (x.key, x.group, packed(x.id), packed(x.parent), x.open)

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
        for table in TABLES:
            self._write_rows(table)
        self._write_reads()
        self.base.executemany(
            "INSERT INTO said(program, kind, time, name, value, scope) VALUES (?, ?, ?, ?, ?, ?)",
            (
                (program, kind, when, packed(name), json.dumps(value), packed(scope))
                for program, kind, when, name, value, scope in self.said
            ),
        )
        self.said.clear()
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


def back_to(base: sqlite3.Connection, batch: int) -> None:
    """Undo every batch after this one."""
    counters = json.loads(base.execute("SELECT counters FROM batch WHERE key = ?", (batch,)).fetchone()[0])
    shorter = base.execute("SELECT DISTINCT key FROM undo_list WHERE batch > ?", (batch,)).fetchall()
    for table in (*COLUMNS, *APPENDED):
        base.execute(f"DELETE FROM {table} WHERE key > ?", (counters.get(table, 0),))
    for (last,) in base.execute("SELECT key FROM batch WHERE key > ? ORDER BY key DESC", (batch,)).fetchall():
        for table, columns in COLUMNS.items():
            listed = ", ".join(["key", *columns.split()])
            base.execute(
                f"INSERT OR REPLACE INTO {table} SELECT {listed} FROM undo_{table} WHERE batch = ? AND key <= ?",
                (last, counters.get(table, 0)),
            )
            base.execute(f"DELETE FROM undo_{table} WHERE batch = ?", (last,))
    base.execute("DELETE FROM batch WHERE key > ?", (batch,))
    base.execute("DELETE FROM read WHERE list > ?", (counters.get("list", 0),))
    for (key,) in shorter:
        base.execute(
            "DELETE FROM read WHERE list = ? AND position >= (SELECT count FROM list WHERE key = ?)",
            (key, key),
        )


def join_batches(base: sqlite3.Connection) -> None:
    """Join neighbours that together hold less than an eighth of what came after them."""
    found = base.execute(
        "SELECT key, records FROM batch WHERE NOT final AND key > 0 ORDER BY key DESC"
    ).fetchall()
    after, later, held = 0, 0, 0
    for earlier, records in found:
        if later and held + records <= after // 8:
            for table in COLUMNS:
                base.execute(
                    f"DELETE FROM undo_{table} WHERE batch = ? AND key IN (SELECT key FROM undo_{table} WHERE batch = ?)",
                    (later, earlier),
                )
                base.execute(f"UPDATE undo_{table} SET batch = ? WHERE batch = ?", (later, earlier))
            held += records
            base.execute("UPDATE batch SET records = ? WHERE key = ?", (held, later))
            base.execute("DELETE FROM batch WHERE key = ?", (earlier,))
        else:
            after += held
            later, held = earlier, records


def node(row: Sequence[Any]) -> Node:
    """An entity's row."""
    flags = row[18]
    return Node(
        row[0], KINDS[row[1]], row[2], row[3], row[4], row[5], row[6], row[7], keys_of(row[8]), row[9], row[10], row[11],
        unpacked_sum(row[12]), row[13], row[14], row[15], row[16], row[17], bool(flags & 1), bool(flags & 2), bool(flags & 4),
        bool(flags & 8),
    )  # fmt: skip


def process(row: Sequence[Any]) -> Process:
    """A program's row."""
    return Process(
        row[0], writer_from(row[1]), row[11], unpacked(row[2]), json.loads(row[3]), row[4], row[5], json.loads(row[6]),
        row[7], bool(row[8]), row[9], row[10],
    )  # fmt: skip


def tally(row: Sequence[Any]) -> Tally:
    """A call's row."""
    return Tally(row[0], row[1], CALLS[row[2]], row[3], _maybe(row[4]), *row[5:])
