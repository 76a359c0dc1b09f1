"""From logs into an index: the new records of each log alone, a batch at a time, in an order that does not depend on when.

The index is a pure function of the logs. Records are taken from all logs in the order of time; one that comes later than others
that were taken already (its process kept it for a while, or its log was copied here afterwards) takes the index back to before
its time, and what followed is taken again. So does a log that is gone, or whose old part is not what it was (its sum is kept).
What nobody has closed is closed in a batch of its own, which is undone before anything else is taken.
"""

import heapq
import json
import os
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from sparsam.errors import InputOutput
from sparsam.provenance.disk import Disk
from sparsam.provenance.fold import Fold
from sparsam.provenance.log import Damage, Stream, Taken
from sparsam.provenance.tables import VERSION, packed, schema, unpacked
from sparsam.provenance.undo import back_to, join_batches
from sparsam.provenance.writer import SUFFIX, Writer

RECORDS = 50_000
"""In a batch."""
FEWEST, TYPICAL = 256, 140
"""Records in the last batches; bytes of a record."""
THINGS = 4
"""Kept in memory from one batch to the next, for each record of a batch."""
PIECES = 1 << 26
"""Bytes of all logs that are read side by side."""
SMALLEST, LARGEST = 1 << 13, 1 << 20
"""Bytes that are read of a log at once."""
Key = tuple[int, Writer, int]
"""Of a record: time, process, number."""


def open_base(file: Path) -> sqlite3.Connection:
    """The index in a file, made or made anew where there is none that can be read."""
    try:
        base = connect(file)
        if base.execute("PRAGMA user_version").fetchone()[0] == VERSION:
            base.execute("SELECT count(*) FROM batch").fetchone()
            return base
        base.close()
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        pass
    remove_base(file)
    base = connect(file)
    base.execute("BEGIN IMMEDIATE")
    for statement in schema():
        base.execute(statement)
    base.execute("INSERT INTO batch VALUES (0, -1, '[\"\", 0, 0]', 0, 0, 0, '{}')")
    base.execute("COMMIT")
    return base


def remove_base(file: Path) -> None:
    """With what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)


def connect(file: Path) -> sqlite3.Connection:
    """With nothing between us and SQLite's own transactions."""
    base = sqlite3.connect(file, timeout=600, isolation_level=None, cached_statements=256)
    base.execute("PRAGMA journal_mode = WAL")
    base.execute("PRAGMA synchronous = OFF")  # a lost index is made again from the logs
    base.execute("PRAGMA cache_size = -65536")
    return base


@contextmanager
def locked(file: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock that one process may have, or several that share it; where there are no locks, SQLite's own have to do."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(file, "a") as opened:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(opened, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


@dataclass
class Known:
    """A log as the index has it."""

    key: int
    run: str
    name: str
    size: int = -1
    changed: int = -1
    offset: int = 0
    crc: int = 0
    taken: int = 0
    number: int = -1
    time: int = 0
    told: int = 0
    first: int | None = None
    """Time of its first record."""
    reason: str | None = None

    @property
    def before(self) -> Key:
        """In front of all its records."""
        return (self.first or 0, Writer("", 0, 0), -1)

    @classmethod
    def of(cls, row: tuple[object, ...]) -> "Known":
        """From its row."""
        made = cls(*row)  # type: ignore[arg-type]
        made.run, made.name = unpacked(row[1]), unpacked(row[2])  # type: ignore[arg-type]
        return made

    def row(self) -> tuple[object, ...]:
        """For the index."""
        return (
            self.key, packed(self.run), packed(self.name), self.size, self.changed, self.offset, self.crc, self.taken,
            self.number, self.time, self.told, self.first, self.reason,
        )  # fmt: skip

    def damage(self, file: Path) -> Damage | None:
        """As :attr:`sparsam.provenance.log.Stream.damage`."""
        if self.offset < 0:
            return Damage(str(file), 0, unreadable(file), 0)
        if self.offset < self.size:
            return Damage(str(file), self.offset, self.reason or "", self.size - self.offset)
        if (missing := self.number + 1 - self.taken - self.told) > 0:
            return Damage(str(file), self.offset, f"{missing} records are missing in between", 0)
        return None


def unreadable(file: Path) -> str:
    """Why a file is no log."""
    try:
        Stream(file)
    except InputOutput as error:
        return str(error)
    return ""


def found_logs(base: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """(run, name): size and time of change (ns) of every log there is."""
    found = {}
    runs = base / "runs"
    names = sorted(x.name for x in os.scandir(runs) if x.is_dir()) if runs.is_dir() else []
    for run in names:
        for one in os.scandir(runs / run):
            if one.name.endswith(SUFFIX) and not one.name.startswith("."):
                try:
                    state = one.stat()
                except OSError:
                    continue
                found[run, one.name] = (state.st_size, state.st_mtime_ns)
    return found


@dataclass
class Ingest:
    """One bringing up to date.

    Args:
        base: the index.
        folder: ``.sparsam``.
        check: whether the old parts of all logs are summed once more, not only of those that changed.
        records: in a batch.
    """

    base: sqlite3.Connection
    folder: Path
    check: bool = False
    records: int = RECORDS
    taken: int = field(default=0, init=False)
    """Records taken in all, those included that were taken again."""

    def file(self, log: Known) -> Path:
        """Its place."""
        return self.folder / "runs" / log.run / log.name

    def known(self) -> dict[tuple[str, str], Known]:
        """All logs that the index has seen."""
        found = (Known.of(row) for row in self.base.execute("SELECT * FROM log ORDER BY key"))
        return {(x.run, x.name): x for x in found}

    def __call__(self) -> None:
        """Take what is new."""
        there, known = found_logs(self.folder), self.known()
        affected: list[Key] = []
        altered = False
        fresh = [Known(0, *key) for key in there if key not in known]
        gone = [log for key, log in known.items() if key not in there]
        affected += [log.before for log in gone if log.first is not None]
        for key, log in known.items():
            if key not in there:
                continue
            moved = (log.size, log.changed) != there[key]
            if moved or (log.offset < 0 and not unreadable(self.file(log))):
                fresh.append(log)
            asked = log.first is not None and (moved or self.check)
            if asked and self._sum(self.file(log), 0, log.offset, 0) != log.crc:
                affected.append(log.before)
                altered = True
        if self._last()[5] and not affected and not fresh and not gone:
            return
        affected += [first[:3] for log in fresh if (first := self._first(log)) is not None]
        self._back(min(affected, default=None), gone, altered)
        self._take(there)

    def _sum(self, file: Path, start: int, end: int, crc: int) -> int:
        """Of a part of a file; another one where it is shorter."""
        try:
            with open(file, "rb") as opened:
                opened.seek(start)
                while start < end:
                    piece = opened.read(min(LARGEST, end - start))
                    if not piece:
                        return -1
                    crc = zlib.crc32(piece, crc)
                    start += len(piece)
        except OSError:
            return -1
        return crc

    def _stream(self, log: Known, piece: int) -> Stream | None:
        """From where the index stands; None for what is no log."""
        try:
            return Stream(
                self.file(log), offset=max(0, log.offset), number=log.number, time=log.time, count=log.taken, told=log.told,
                piece=piece,
            )  # fmt: skip
        except InputOutput:
            return None

    def _back(self, affected: Key | None, gone: list[Known], altered: bool) -> None:
        """To the last batch that ended before what is affected."""
        self.base.execute("BEGIN IMMEDIATE")
        if gone or altered:  # programs may be gone for good: a graph in RDF is made anew
            self.base.execute("UPDATE graph SET batch = NULL")
        batches = self.base.execute(
            "SELECT key, time, writer, number FROM batch WHERE NOT final ORDER BY key DESC"
        )
        for key, time, writer, number in batches.fetchall():
            if affected is None or (time, Writer(*json.loads(writer)), number) < affected:
                back_to(self.base, key)
                break
        self.base.executemany("DELETE FROM log WHERE run = ? AND name = ?", (x.row()[1:3] for x in gone))
        self.base.execute("COMMIT")

    def _first(self, log: Known) -> Taken | None:
        """The next record of a log."""
        stream = self._stream(log, SMALLEST)
        return None if stream is None else next(iter(stream), None)

    def _take(self, there: dict[tuple[str, str], tuple[int, int]]) -> None:
        known, last = self.known(), self._last()
        top = json.loads(last[4]).get("log", 0)
        new = []
        for at, name in enumerate((x for x in there if x not in known), top + 1):
            known[name] = Known(at, *name)
            new.append(at)
        logs = {x.key: x for x in known.values()}
        unread = [x for x in known.values() if x.size < 0 or max(x.offset, 0) < there[x.run, x.name][0]]
        piece = min(LARGEST, max(SMALLEST, PIECES // max(1, len(unread))))
        streams = {x.key: made for x in unread if (made := self._stream(x, piece)) is not None}
        for log in unread:
            if log.key not in streams:
                log.offset = -1
        firsts = {key: first for key in streams if (first := self._first(logs[key])) is not None}
        for key, first in firsts.items():
            logs[key].first = first.time if logs[key].first is None else logs[key].first
        after: Key = (last[1], Writer(*json.loads(last[2])), last[3])
        disk = Disk(self.base)
        fold, in_order = Fold(disk), merged(streams, firsts, {key: logs[key].run for key in streams})
        left, ended = sum(x.size - x.offset for x in streams.values()), False
        while not ended:
            self._begin(disk)
            self._write_logs(disk, [logs[x] for x in new])  # all at once: their numbers go with the batch
            count, progress, new = 0, dict[int, Taken](), []
            # smaller and smaller ones at the end: records that come a little late take back a little
            most = min(self.records, max(FEWEST, left // 2 // TYPICAL))
            for one, key, told in in_order:
                progress[key] = one
                if told:
                    fold.add(one.time, one.writer, one.number, one.kind, one.facts)
                    after = one[:3]
                count += 1
                if count >= most:
                    break
            else:
                ended = True
            left -= sum(one.end - logs[key].offset for key, one in progress.items())
            self._write_logs(disk, [self._read_to(logs[key], one) for key, one in progress.items()])
            if ended:
                self._write_logs(disk, [self._as_found(x, streams.get(x.key), there) for x in logs.values()])
            disk.write(after[0], json.dumps(after[1]), after[2], count)
            join_batches(self.base)
            self.base.execute("COMMIT")
            self.taken += count
            if disk.held() > THINGS * self.records:
                disk.let_go()
        self._begin(disk)
        fold.finish()
        disk.write(after[0], json.dumps(after[1]), after[2], 0, final=True)
        self.base.execute("COMMIT")

    def _begin(self, disk: Disk) -> None:
        self.base.execute("BEGIN IMMEDIATE")
        if self._last()[0] != disk.batch:
            self.base.execute("ROLLBACK")
            raise Overtaken

    def _last(self) -> tuple[int, int, str, int, str, int]:
        found: tuple[int, int, str, int, str, int] = self.base.execute(
            "SELECT key, time, writer, number, counters, final FROM batch ORDER BY key DESC LIMIT 1"
        ).fetchone()
        return found

    def _read_to(self, log: Known, one: Taken) -> Known:
        log.crc = self._sum(self.file(log), log.offset, one.end, log.crc)
        log.offset, log.taken, log.number, log.time, log.told = (
            one.end,
            one.taken,
            one.number,
            one.time,
            one.told,
        )
        return log

    def _as_found(
        self, log: Known, stream: Stream | None, there: dict[tuple[str, str], tuple[int, int]]
    ) -> Known:
        log.size, log.changed = there[log.run, log.name]
        if stream is not None:
            log.crc = self._sum(self.file(log), log.offset, stream.offset, log.crc)
            log.offset, log.reason = stream.offset, stream.reason or None
        return log

    def _write_logs(self, disk: Disk, logs: list[Known]) -> None:
        disk.keep("log", [x.key for x in logs if x.key <= disk.floor.get("log", 0)])
        marks = ", ".join("?" * 13)
        self.base.executemany(f"INSERT OR REPLACE INTO log VALUES ({marks})", (x.row() for x in logs))


class Overtaken(Exception):
    """Another process ingested meanwhile; only where the file system knows no locks."""


Source = Iterator[tuple[Taken, int, bool]]


def merged(streams: Mapping[int, Stream], firsts: Mapping[int, Taken], runs: Mapping[int, str]) -> Source:
    """The records of all logs in order, each with its log's number, and whether it counts: what is there twice counts once.

    A log is read when its time has come, a piece at a time. ``firsts`` are the first records of the logs that have any.
    """
    by_writer: dict[Writer, list[int]] = {}
    for key in sorted(streams, key=lambda x: (runs[x], x)):
        by_writer.setdefault(streams[key].writer, []).append(key)
    never = 1 << 63
    waiting = sorted(
        ((min(firsts[x].time if x in firsts else never for x in keys), keys) for keys in by_writer.values()),
        reverse=True,
    )
    heap: list[tuple[Taken, int, bool, Source]] = []
    while heap or waiting:
        while waiting and (not heap or waiting[-1][0] <= heap[0][0].time):
            keys = waiting.pop()[1]
            source = _alone(streams[keys[0]], keys[0]) if len(keys) == 1 else _several(streams, keys)
            first = next(source, None)
            if first is not None:
                heapq.heappush(heap, (*first, source))
        if heap:
            one, key, counts, source = heap[0]
            yield one, key, counts
            following = next(source, None)
            if following is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (*following, source))


def _alone(stream: Stream, key: int) -> Source:
    for one in stream:
        yield one, key, True


def _several(streams: Mapping[int, Stream], keys: list[int]) -> Source:
    """Of one process: each number once, as the last log has it."""
    sources = {key: iter(streams[key]) for key in keys}
    heads = {key: one for key in keys if (one := next(sources[key], None)) is not None}
    while heads:
        least = min(x.number for x in heads.values())
        same = [key for key in keys if key in heads and heads[key].number == least]
        for key in same:
            yield heads[key], key, key == same[-1]
        for key in same:
            following = next(sources[key], None)
            if following is None:
                del heads[key]
            else:
                heads[key] = following
