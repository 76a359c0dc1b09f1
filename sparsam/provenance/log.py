"""The log: what a process did, one record after the other, in a file of its own that is only ever appended to.

    file    = magic, record*
    record  = length (4 bytes), CRC-32 of what follows (4 bytes), number of the record (8 bytes), payload (JSON, UTF-8)

Whatever is cut off or damaged, all records in front of it can be read (:func:`read`), and the damage is named. Records are kept
in memory until a flush writes them in one call; each process has its own file, so that no two writers meet. A disk that is full
or a folder that is gone does no harm to the program: what could not be written is counted, and said in the next record.

Merging is deterministic and does not depend on the order in which logs are given (:func:`merge`).
"""

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sparsam.errors import InputOutput
from sparsam.provenance.writer import HEAD, LARGEST, MAGIC, SUFFIX, Log, Writer

__all__ = [
    "Damage", "Log", "Merged", "Record", "Recovered", "Stream", "Taken", "Writer", "logs_in", "merge", "read", "read_all",
    "writer_of",
]  # fmt: skip

_scan = json.JSONDecoder().raw_decode


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


def writer_of(file: str | os.PathLike[str]) -> Writer:
    """Whose log a file is, by its name.

    Raises:
        InputOutput: ``log-unreadable`` where it is named like no log of ours.
    """
    place = Path(file)
    try:
        host, pid, started = place.name.removesuffix(SUFFIX).rsplit("-", 2)
        return Writer(host, int(pid), int(started))
    except ValueError as error:
        raise InputOutput(f"{place} is no log that can be read: {error}", code="log-unreadable") from error


class Taken(NamedTuple):
    """A record as it is taken from a log, and where the log stands after it; of two, the earlier one is the lesser."""

    time: int
    writer: Writer
    number: int
    kind: str
    facts: dict[str, Any]
    end: int
    """Offset of the next record."""
    taken: int
    """Records in the log up to it."""
    told: int
    """Records that the process has said to have lost."""


class Stream:
    """The records of one log from an offset on, read a piece at a time; a file that grows is read to where it ended at first.

    Args:
        file: the log.
        offset, number, time, count, told: as the last :class:`Taken` says; by default from the beginning.
        piece: bytes that are read at once.

    Raises:
        InputOutput: ``log-unreadable`` where the file cannot be opened or is named like no log of ours.
    """

    def __init__(
        self, file: str | os.PathLike[str], *, offset: int = 0, number: int = -1, time: int = 0, count: int = 0,
        told: int = 0, piece: int = 1 << 20,
    ) -> None:  # fmt: skip
        self.file, self.piece = Path(file), piece
        self.offset, self.number, self.time, self.count, self.told = offset, number, time, count, told
        self.writer = writer_of(file)
        self.reason = ""
        try:
            with open(file, "rb") as opened:
                self.size = os.fstat(opened.fileno()).st_size
                if offset == 0 and self.size:
                    if opened.read(len(MAGIC)) == MAGIC:
                        self.offset = len(MAGIC)
                    else:
                        self.reason = "it does not begin as a log"
        except OSError as error:
            raise InputOutput(
                f"{self.file} is no log that can be read: {error}", code="log-unreadable"
            ) from error

    @property
    def damage(self) -> Damage | None:
        """Why no more could be read; None where all was."""
        if self.offset < self.size:
            return Damage(str(self.file), self.offset, self.reason, self.size - self.offset)
        missing = self.number + 1 - self.count - self.told
        if missing > 0:
            return Damage(str(self.file), self.offset, f"{missing} records are missing in between", 0)
        return None

    def _more(self, buffer: bytes, at: int, need: int) -> bytes:
        """From ``at`` on, with at least ``need`` bytes if the file has them; the file is not kept open."""
        rest = buffer[at:]
        start = self.offset + len(rest)
        wanted = min(max(self.piece, need) - len(rest), self.size - start)
        if wanted <= 0:
            return rest
        try:
            with open(self.file, "rb", buffering=0) as file:
                file.seek(start)
                return rest + file.read(wanted)
        except OSError:
            return rest

    def __iter__(self) -> Iterator[Taken]:
        buffer, at, head, writer = b"", 0, HEAD.size, self.writer
        unpack, sum_of, scan = HEAD.unpack_from, zlib.crc32, _scan
        if self.reason:
            return
        while self.offset < self.size:
            if at + head > len(buffer):
                buffer, at = self._more(buffer, at, head), 0
                if head > len(buffer):
                    self.reason = "a record is cut off"
                    return
            length, crc, number = unpack(buffer, at)
            if length > LARGEST:
                self.reason = f"a record claims {length} bytes"
                return
            if at + head + length > len(buffer):
                buffer, at = self._more(buffer, at, head + length), 0
                if head + length > len(buffer):
                    self.reason = "a record is cut off"
                    return
            end = at + head + length
            if sum_of(buffer[at + 8 : end]) != crc:
                self.reason = "the sum of a record does not fit"
                return
            if number <= self.number:
                self.reason = f"record {number} follows record {self.number}"
                return
            try:
                text = buffer[at + head : end].decode()
                (when, kind, facts), stop = scan(text, 0)
                when, kind = int(when), str(kind)
                if stop != len(text) or type(facts) is not dict:
                    raise ValueError(text)
            except (ValueError, TypeError, RecursionError, OverflowError, StopIteration):
                self.reason = "a record is no JSON of ours"
                return
            if number >> 63:
                self.reason = f"a record claims number {number}"
                return
            if not self.time <= when < 1 << 63:
                self.reason = "a record has an impossible time" if when < 0 or when >> 63 else "a time falls"
                return
            if kind == "lost" and type(facts.get("records")) is int:
                self.told = max(self.told, facts["records"])
            self.number, self.time = number, when
            self.count += 1
            self.offset += end - at
            at = end
            yield Taken(when, writer, number, kind, facts, self.offset, self.count, self.told)


def read(file: str | os.PathLike[str]) -> Recovered:
    """All records in front of the first damage.

    Raises:
        InputOutput: ``log-unreadable`` where the file cannot be opened or is named like no log of ours.
    """
    stream = Stream(file)
    records = tuple(Record(x.writer, x.number, x.time, x.kind, x.facts) for x in stream)
    return Recovered(records, stream.damage)


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
