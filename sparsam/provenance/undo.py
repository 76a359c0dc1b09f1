"""Taking an index back to the end of an earlier batch, and joining batches."""

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from sparsam.provenance.ids import entity_id, program_id
from sparsam.provenance.tables import APPENDED, COLUMNS, KINDS, unpacked, writer_from


def back_to(base: sqlite3.Connection, batch: int) -> None:
    """Undo every batch after this one."""
    counters = json.loads(base.execute("SELECT counters FROM batch WHERE key = ?", (batch,)).fetchone()[0])
    note_stale(base, batch, counters)
    base.execute(
        "DELETE FROM summary WHERE run = x'' OR run IN (SELECT run FROM program WHERE key > :program "
        "OR key IN (SELECT key FROM undo_program WHERE batch > :batch) "
        "OR key IN (SELECT program FROM call WHERE key > :call OR key IN (SELECT key FROM undo_call WHERE batch > :batch)) "
        "OR key IN (SELECT by FROM entity WHERE key > :entity))",
        {"batch": batch} | {name: counters.get(name, 0) for name in ("program", "call", "entity")},
    )
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


NAMED = {
    "entity": (
        "SELECT entity.key, program.name, entity.number, form, kind, place.path, entity.generation FROM entity "
        "JOIN program ON program.key = entity.program JOIN place ON place.key = entity.place WHERE entity.key"
    ),
    "program": "SELECT key, name FROM program WHERE key",
    "call": "SELECT call.key, program.name FROM call JOIN program ON program.key = program WHERE call.key",
}


def node_name(kind: str, row: Sequence[Any]) -> str:
    """What the graph in RDF calls an entity, a program or a call, by a row of :data:`NAMED`."""
    writer = writer_from(row[1])
    if kind == "entity":
        return entity_id(writer, row[2], row[3], KINDS[row[4]], unpacked(row[5]), row[6])
    name = program_id(writer)
    return name if kind == "program" else f"call-{row[0] - 1}-{name.removeprefix('program-')}"


def note_stale(base: sqlite3.Connection, batch: int, counters: dict[str, int]) -> None:
    """Keep the names of what is about to be undone, where a graph in RDF was made of it."""
    mark = base.execute("SELECT batch FROM graph").fetchone()[0]
    if mark is None:
        return
    for kind, query in NAMED.items():
        more = " OR program.key IN (SELECT program FROM said WHERE key > :said)" if kind == "program" else ""
        rows = base.execute(
            f"{query} > :last OR {kind}.key IN (SELECT key FROM undo_{kind} WHERE batch > :batch){more}",
            {"last": counters.get(kind, 0), "batch": batch, "said": counters.get("said", 0)},
        )
        base.executemany(
            "INSERT OR IGNORE INTO stale VALUES (?, ?, ?)",
            ((kind, row[0], node_name(kind, row)) for row in rows.fetchall()),
        )
    if batch < mark:
        base.execute("UPDATE graph SET batch = ?, counters = ?", (batch, json.dumps(counters)))


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
