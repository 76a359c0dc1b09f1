"""The tables of an index in SQLite, and how what a state knows becomes rows and back.

Texts are kept as bytes, for paths need not be valid Unicode. Beside each table whose rows change lies one (``undo_*``) with
what rows were before a batch.
"""

import json
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from sparsam.provenance.state import Node, Process, Tally
from sparsam.provenance.writer import Writer

VERSION = 2
"""Of the tables; an index of another version is made anew."""
COLUMNS = {
    "entity": (
        "kind form place program number generation began names file size changed sha256 reads count revision within by flags"
    ),
    "place": "host path file since last began generation",
    "file": "current device inode paths generation writers",
    "inode": "host device number file",
    "session": "program handle scope file entity wrote",
    "program": "name run facts began ended status parent forked grp lost rank of",
    "call": "program kind entity scope count bytes seconds failed first last",
    "list": "grp scope count",
    "scope": "grp id parent open stage",
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
    "CREATE INDEX account_entity ON account(entity)",
    "CREATE INDEX said_program ON said(program, kind)",
)
APPENDED = ("said", "derived", "account", "pipe")
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
    yield "CREATE TABLE account(key INTEGER PRIMARY KEY, entity, program, kind, facts, sources)"
    yield "CREATE TABLE pipe(key INTEGER PRIMARY KEY, host, device, number, grp, out)"
    yield "CREATE TABLE batch(key INTEGER PRIMARY KEY, time, writer, number, records, final, counters)"
    yield "CREATE TABLE summary(run BLOB PRIMARY KEY, read, written) WITHOUT ROWID"
    yield "CREATE TABLE graph(name, batch, counters, sync)"
    yield "CREATE TABLE stale(kind, key, name, PRIMARY KEY(kind, key, name)) WITHOUT ROWID"
    yield f"INSERT INTO graph VALUES ('{secrets.token_hex(8)}', NULL, NULL, NULL)"
    yield from INDEXES
    yield f"PRAGMA user_version = {VERSION}"


def packed(text: str | None) -> bytes | None:
    """Any text, one that is no valid Unicode, too."""
    return None if text is None else text.encode("utf-8", "surrogatepass")


def unpacked(content: bytes) -> str:
    """The text again."""
    return content.decode("utf-8", "surrogatepass")


def maybe(content: bytes | None) -> str | None:
    """The text again, if there is one."""
    return None if content is None else unpacked(content)


def signed(number: int) -> int:
    """Of 64 bits, as SQLite keeps them."""
    return number - (1 << 64) if number >> 63 else number


def packed_keys(keys: Sequence[int]) -> Any:
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
        row[7], bool(row[8]), row[9], row[10], row[12],
    )  # fmt: skip


def tally(row: Sequence[Any]) -> Tally:
    """A call's row."""
    return Tally(row[0], row[1], CALLS[row[2]], row[3], maybe(row[4]), *row[5:])
