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
from typing import Any

from sparsam.errors import InputOutput
from sparsam.provenance.writer import HEAD, LARGEST, MAGIC, SUFFIX, Log, Writer

__all__ = ["Damage", "Log", "Merged", "Record", "Recovered", "Writer", "logs_in", "merge", "read", "read_all"]


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
    if at + HEAD.size > len(content):
        return None, 0, "a record is cut off"
    length, crc, number = HEAD.unpack_from(content, at)
    end = at + HEAD.size + length
    if length > LARGEST:
        return None, 0, f"a record claims {length} bytes"
    if end > len(content):
        return None, 0, "a record is cut off"
    if zlib.crc32(content[at + 8 : end]) != crc:
        return None, 0, "the sum of a record does not fit"
    if found and number <= found[-1].number:
        return None, 0, f"record {number} follows record {found[-1].number}"
    try:
        when, kind, facts = json.loads(content[at + HEAD.size : end])
        record = Record(writer, number, int(when), str(kind), dict(facts))
        if not 0 <= record.time < 1 << 63:
            return None, 0, "a record has an impossible time"
    except (ValueError, TypeError, RecursionError, OverflowError):
        return None, 0, "a record is no JSON of ours"
    return record, HEAD.size + length, ""


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
