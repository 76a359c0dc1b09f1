"""The log: what a process did, one record after the other, in a file of its own that is only ever appended to.

    file    = magic, record*
    record  = length (4 bytes), CRC-32 of what follows (4 bytes), number of the record (8 bytes), payload (JSON, UTF-8)

Whatever is cut off or damaged, all records in front of it can be read (:func:`read`), and the damage is named. Records are kept
in memory until a flush writes them in one call; each process has its own file, so that no two writers meet. A disk that is full
or a folder that is gone does no harm to the program: what could not be written is counted, and said in the next record.

Merging is deterministic and does not depend on the order in which logs are given (:func:`merge`).
"""

import contextlib
import json
import os
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsam.errors import InputOutput

MAGIC = b"sparsam log 1\n"
SUFFIX = ".log"
_HEAD = struct.Struct("<IIQ")
LARGEST = 1 << 24
"""Of a payload, in bytes; a longer one is damage."""
FLUSH_BYTES = 1 << 16
FLUSH_SECONDS = 1.0
_dumps = json.JSONEncoder(
    ensure_ascii=True, separators=(",", ":"), check_circular=False, allow_nan=False
).encode


@dataclass(frozen=True, order=True)
class Writer:
    """Which process wrote: host, process, and when it started (nanoseconds since 1970), so that a number used again differs."""

    host: str
    pid: int
    started: int

    @property
    def file(self) -> str:
        """The name of its log."""
        host = "".join(x if x.isalnum() or x in "-." else "_" for x in self.host)[:60] or "host"
        return f"{host}-{self.pid}-{self.started}{SUFFIX}"


@dataclass(frozen=True)
class Record:
    """One thing that happened.

    Args:
        writer: the process.
        number: 0, 1, 2, … within the process.
        time: nanoseconds since 1970, never less than that of the record before it in the same process.
        kind: what it is; see :mod:`sparsam.provenance.events`.
        facts: the rest.
    """

    writer: Writer
    number: int
    time: int
    kind: str
    facts: dict[str, Any]


class Log:
    """The log of this process in a folder.

    Safe to use from many threads. After a fork the child starts a log of its own. Nothing here raises once the log is open:
    losses are counted in :attr:`lost`.

    Raises:
        InputOutput: ``log-folder`` where the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str], *, parent: Writer | None = None) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputOutput(
                f"{self.folder} cannot be made: {error.strerror}.", code="log-folder"
            ) from error
        self._lock = threading.Lock()
        self._begin(parent)

    def _begin(self, parent: Writer | None) -> None:
        self.writer = Writer(socket.gethostname(), os.getpid(), time.time_ns())
        self.parent = parent
        self.lost = 0
        self._said_lost = 0
        self._number = 0
        self._last = 0
        self._waiting = bytearray(MAGIC)
        self._counted = 0  # records in _waiting
        self._file: int | None = None
        self._flushed = time.monotonic()

    @property
    def path(self) -> Path:
        """Of the file."""
        return self.folder / self.writer.file

    def add(self, kind: str, **facts: Any) -> int:
        """Append one record and give its number; it is on its way to disk after at most a second, or at :meth:`flush`."""
        with self._lock:
            if os.getpid() != self.writer.pid:  # forked without notice
                self._begin(self.writer)
            number = self._put(kind, facts)
            if len(self._waiting) >= FLUSH_BYTES or time.monotonic() - self._flushed >= FLUSH_SECONDS:
                self._flush()
            return number

    def _put(self, kind: str, facts: dict[str, Any]) -> int:
        now = max(time.time_ns(), self._last)  # a clock that is set back does not turn the order round
        self._last = now
        number = self._number
        try:
            payload = _dumps([now, kind, facts]).encode()
        except (TypeError, ValueError):
            payload = _dumps([now, kind, {key: _plain(value) for key, value in facts.items()}]).encode()
        if len(payload) > LARGEST:
            payload = _dumps([now, "dropped", {"kind": kind, "bytes": len(payload)}]).encode()
        body = struct.pack("<Q", number) + payload
        self._waiting += struct.pack("<II", len(payload), zlib.crc32(body)) + body
        self._number += 1
        self._counted += 1
        return number

    def flush(self) -> None:
        """Hand all records to the system; they survive the end of the process, however it ends."""
        with self._lock:
            if os.getpid() == self.writer.pid:
                self._flush()

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        if not self._waiting:
            return
        if self.lost > self._said_lost:
            self._said_lost = self.lost
            self._put("lost", {"records": self.lost})
        try:
            if self._file is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
                self._file = _high(os.open(self.path, flags, 0o666))
            left = memoryview(bytes(self._waiting))
            before = os.fstat(self._file).st_size
            try:
                while left:
                    left = left[os.write(self._file, left) :]
            except OSError:
                os.ftruncate(self._file, before)  # no half of a record stays
                raise
        except OSError:
            self.lost += self._counted
            if self._file is not None and _gone(
                self._file
            ):  # closed by the program, with all its descriptors
                self._file = None
            header = self._number == self._counted  # nothing was ever written
            self._waiting = bytearray(MAGIC) if header and self._empty() else bytearray()
        else:
            self._waiting = bytearray()
        self._counted = 0

    def _empty(self) -> bool:
        try:
            return self.path.stat().st_size == 0
        except OSError:
            return True

    def forked(self) -> None:
        """In a child: begin a log of its own, with this process as its parent."""
        self._lock = threading.Lock()
        parent = self.writer
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
        self._begin(parent)

    def close(self) -> None:
        """Flush, and let go of the file."""
        with self._lock:
            if os.getpid() != self.writer.pid:
                return
            self._flush()
            if self._file is not None:
                with contextlib.suppress(OSError):
                    os.close(self._file)
                self._file = None


def _plain(value: Any) -> Any:
    """What JSON can hold of a value; text for the rest."""
    try:
        _dumps(value)
    except (TypeError, ValueError):
        if isinstance(value, os.PathLike | bytes):
            return os.fsdecode(value).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return str(value)[:1000]
    return value


def _high(number: int) -> int:
    """The same file under a number that programs do not expect to be free."""
    try:
        import fcntl

        high = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 512)
    except (ImportError, OSError, ValueError):
        return number
    os.close(number)
    return high


def _gone(file: int) -> bool:
    try:
        os.fstat(file)
    except OSError:
        return True
    return False


@dataclass(frozen=True)
class Damage:
    """Where a log cannot be read any further."""

    file: str
    offset: int
    reason: str
    left: int
    """Bytes from there to the end."""


@dataclass(frozen=True)
class Recovered:
    """What could be read of one log."""

    records: tuple[Record, ...]
    damage: Damage | None = None


def read(file: str | os.PathLike[str]) -> Recovered:
    """All records in front of the first damage.

    Raises:
        InputOutput: ``log-unreadable`` where the file cannot be opened or is named like no log of ours.
    """
    place = Path(file)
    try:
        host, pid, started = place.name.removesuffix(SUFFIX).rsplit("-", 2)
        writer = Writer(host, int(pid), int(started))
        content = place.read_bytes()
    except (OSError, ValueError) as error:
        raise InputOutput(f"{place} is no log that can be read: {error}", code="log-unreadable") from error
    found: list[Record] = []
    at, reason = len(MAGIC), ""
    if content[: len(MAGIC)] != MAGIC:
        return Recovered(
            (), Damage(str(place), 0, "it does not begin as a log", len(content)) if content else None
        )
    while at < len(content):
        record, size, reason = _next(content, at, writer, found)
        if record is None:
            break
        found.append(record)
        at += size
    damage = Damage(str(place), at, reason, len(content) - at) if at < len(content) else None
    if damage is None and (missing := _missing(found)):
        damage = Damage(str(place), at, f"{missing} records are missing in between", 0)
    return Recovered(tuple(found), damage)


def _missing(found: list[Record]) -> int:
    """How many numbers were left out beyond the losses that the process itself has told of."""
    told = max((int(x.facts.get("records", 0)) for x in found if x.kind == "lost"), default=0)
    there = found[-1].number + 1 - len(found) if found else 0
    return max(0, there - told)


def _next(content: bytes, at: int, writer: Writer, found: list[Record]) -> tuple[Record | None, int, str]:
    """The record at an offset and its size, or why there is none."""
    if at + _HEAD.size > len(content):
        return None, 0, "a record is cut off"
    length, crc, number = _HEAD.unpack_from(content, at)
    end = at + _HEAD.size + length
    if length > LARGEST:
        return None, 0, f"a record claims {length} bytes"
    if end > len(content):
        return None, 0, "a record is cut off"
    if zlib.crc32(content[at + 8 : end]) != crc:
        return None, 0, "the sum of a record does not fit"
    if found and number <= found[-1].number:
        return None, 0, f"record {number} follows record {found[-1].number}"
    try:
        when, kind, facts = json.loads(content[at + _HEAD.size : end])
        record = Record(writer, number, int(when), str(kind), dict(facts))
    except (ValueError, TypeError, RecursionError):
        return None, 0, "a record is no JSON of ours"
    return record, _HEAD.size + length, ""


@dataclass(frozen=True)
class Merged:
    """The records of many processes, and what was damaged."""

    records: tuple[Record, ...]
    damages: tuple[Damage, ...] = ()
    lost: int = 0
    """Records that processes say they could not write."""


def merge(logs: Iterable[Recovered]) -> Merged:
    """One order for all: by time, ties by process and number; within a process always its own.

    Any order of the logs, and merging in steps, gives the same. A log that is given twice counts once.
    """
    by_key: dict[tuple[Writer, int], Record] = {}
    damages: set[Damage] = set()
    for one in logs:
        by_key |= {(record.writer, record.number): record for record in one.records}
        damages |= {one.damage} if one.damage is not None else set()
    records = sorted(by_key.values(), key=lambda x: (x.time, x.writer, x.number))
    last: dict[Writer, int] = {}
    for record in records:
        if record.kind == "lost":
            last[record.writer] = max(last.get(record.writer, 0), int(record.facts.get("records", 0)))
    return Merged(
        tuple(records), tuple(sorted(damages, key=lambda x: (x.file, x.offset))), sum(last.values())
    )


def logs_in(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """The logs of a run, by name."""
    yield from sorted(Path(folder).glob(f"*{SUFFIX}"))


def read_all(folder: str | os.PathLike[str]) -> Merged:
    """All logs of a run, merged; what is no log of ours is left alone."""
    found = []
    for file in logs_in(folder):
        try:
            found.append(read(file))
        except InputOutput as error:
            found.append(Recovered((), Damage(str(file), 0, str(error), 0)))
    return merge(found)
