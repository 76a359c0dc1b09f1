"""The graph in RDF follows the index: what has changed since the last time is taken out and put in anew, the rest is left.

What an entity, a program or a call says is a function of its own row and of ids that never change, so that a row that is as it
was says what it said. Which rows have changed the index knows from its batches; what was undone meanwhile it keeps by name.
"""

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

from sparsam.provenance import rdf, tables, undo
from sparsam.provenance.decisions_rdf import account_triples, calibration_name
from sparsam.provenance.graph import Call, Entity, Program
from sparsam.provenance.index import CHUNK, Index
from sparsam.provenance.terms import IO, PROV, RELATIONS

MARK = "made-from.json"
_OF_CALLS = {IO + x for x in RELATIONS.values()}
_TOLD = {IO + x for x in ("ofType", "hasConfig", "hasMetric", "madeWith", "decidedBy", "measuredAs")}


def follow(index: Index, place: Path) -> None:
    """Make the store in a folder say what the index says; nobody else may do so, or ask it, meanwhile.

    Raises:
        Usage: ``extra-missing``.
    """
    ox = rdf.oxigraph()
    changes = _Changes(index)
    name, mark, counters, sync = changes.graph()
    last = changes.last_batch()
    made = json.loads((place / MARK).read_text()) if (place / MARK).is_file() else None
    if mark is None or made != {"index": name, "sync": sync}:
        fresh = Path(tempfile.mkdtemp(prefix="graph-", dir=place.parent))
        try:
            store = ox.Store(str(fresh))
            store.bulk_extend(rdf.quads(index))
            store.flush()
            del store
            if place.exists():
                shutil.rmtree(place)
            os.replace(fresh, place)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    elif mark == last and not changes.stale():
        return
    else:
        store = ox.Store(str(place))
        _Follower(changes, store, mark, json.loads(counters)).go()
        store.flush()
        del store
    told = {"index": name, "sync": changes.followed()}
    (place / MARK).write_text(json.dumps(told))


class _Changes:
    """What has changed in an index since a graph was made of it."""

    def __init__(self, index: Index) -> None:
        self.index, self.base = index, index.base

    def graph(self) -> tuple[str, int | None, str, str | None]:
        """The index's own name; up to which batch the graph in RDF was made, the numbers of then, and the graph's mark."""
        found: tuple[str, int | None, str, str | None] = self.base.execute(
            "SELECT name, batch, counters, sync FROM graph"
        ).fetchone()
        return found

    def last_batch(self) -> int:
        """Before what nobody closed was closed."""
        return int(self.base.execute("SELECT max(key) FROM batch WHERE NOT final").fetchone()[0])

    def stale(self) -> list[tuple[str, int, str]]:
        """What was undone since the graph was made: kind, number, and name in the graph."""
        return self.base.execute("SELECT kind, key, name FROM stale").fetchall()

    def changed_since(self, kind: str, batch: int, counters: Mapping[str, int]) -> set[int]:
        """Rows that changed after a batch; new ones aside."""
        rows = self.base.execute(f"SELECT DISTINCT key FROM undo_{kind} WHERE batch > ?", (batch,)).fetchall()
        if kind == "program":
            rows += self.base.execute(
                "SELECT DISTINCT program FROM said WHERE key > ?", (counters.get("said", 0),)
            ).fetchall()
        return {key for (key,) in rows}

    def names_of(self, kind: str, keys: list[int]) -> Iterator[str]:
        """In the graph."""
        for rows in self.index.chunks(f"{undo.NAMED[kind]} IN", keys):
            yield from (undo.node_name(kind, row) for row in rows)

    def parts(self, kind: str, keys: list[int], last: int) -> Iterator[list[int]]:
        """These numbers, and all after ``last``, a chunk at a time."""
        for at in range(0, len(keys), CHUNK):
            yield keys[at : at + CHUNK]
        yield from self.index.all_keys(kind, last)

    def programs_at_hand(self, keys: list[int]) -> Iterator[Program]:
        """Of those that told anything."""
        for (key,) in self._all("SELECT key FROM program WHERE rank IS NOT NULL AND key IN", keys):
            yield self.index.program(key)

    def entities_at_hand(self, keys: list[int]) -> Iterator[Entity]:
        """Of those that are still there."""
        there = [key for (key,) in self._all("SELECT key FROM entity WHERE key IN", keys)]
        fresh = set(there) - self.index.at_hand()
        for key in there:
            yield self.index.entity(key)
        self.index.let_go(fresh)

    def calls_at_hand(self, keys: list[int]) -> Iterator[tuple[int, Call, Entity, dict[str, str]]]:
        """With their numbers, what they were on, and the names of their scopes."""
        rows = self._all("SELECT * FROM call WHERE key IN", keys)
        for row, call in zip(rows, self.index.told(rows), strict=True):
            scope = {}
            if call.scope is not None:
                found = self.base.execute(
                    "SELECT name FROM said WHERE program = ? AND kind = 'scope' AND scope = ? ORDER BY key DESC LIMIT 1",
                    (row[1], row[4]),
                ).fetchone()
                scope = {} if found is None else {call.scope: tables.unpacked(found[0])}
            yield row[0], call, self.index.entities[call.entity], scope

    def _all(self, query: str, keys: list[int]) -> list[tuple[Any, ...]]:
        return sorted(row for rows in self.index.chunks(query, keys) for row in rows)

    def followed(self) -> str:
        """The graph says what the index says; its mark."""
        last, sync = self.last_batch(), secrets.token_hex(8)
        (counters,) = self.base.execute("SELECT counters FROM batch WHERE key = ?", (last,)).fetchone()
        self.base.execute("COMMIT")
        self.base.execute("BEGIN IMMEDIATE")
        self.base.execute("UPDATE graph SET batch = ?, counters = ?, sync = ?", (last, counters, sync))
        self.base.execute("DELETE FROM stale")
        self.base.execute("COMMIT")
        self.base.execute("BEGIN")
        return sync


class _Follower:
    def __init__(self, changes: _Changes, store: Any, mark: int, counters: dict[str, int]) -> None:
        self.changes, self.index, self.store, self.mark, self.counters = (
            changes,
            changes.index,
            store,
            mark,
            counters,
        )
        self.ox = rdf.oxigraph()
        self.read: set[tuple[Any, Any]] = set()
        """Entities and programs that a read call was taken out of."""

    def go(self) -> None:
        stale = self.changes.stale()
        changed: dict[str, list[int]] = {}
        for kind in ("entity", "program", "call"):
            last = self.counters.get(kind, 0)
            undone = {key for one, key, _ in stale if one == kind}
            changed[kind] = sorted(
                x for x in self.changes.changed_since(kind, self.mark, self.counters) | undone if x <= last
            )
            names = {name for one, _, name in stale if one == kind} | set(
                self.changes.names_of(kind, changed[kind])
            )
            for name in names:
                self.take_out(kind, rdf.iri(name))
        self.store.bulk_extend(
            rdf.quads_of(chain.from_iterable(self.told(kind, keys) for kind, keys in changed.items()))
        )
        for entity, program in self.read:
            self.check_used(entity, program)

    def told(self, kind: str, keys: list[int]) -> Iterator[rdf.Triple]:
        changes, index, last = self.changes, self.index, self.counters.get(kind, 0)
        for part in changes.parts(kind, keys, last):
            if kind == "program":
                for program in changes.programs_at_hand(part):
                    yield from rdf.program_triples(program)
            elif kind == "entity":
                for one in changes.entities_at_hand(part):
                    yield from rdf.entity_triples(index, one)
                    account = index.accounts.get(one.id)
                    if account is not None:
                        yield from account_triples(account)
            else:
                for key, call, entity, scope in changes.calls_at_hand(part):
                    yield from rdf.call_triples(key - 1, call, scope)
                    if call.kind == "read" and entity.by != call.program:
                        yield rdf.iri(call.program + "-run"), PROV + "used", rdf.iri(call.entity)

    def quads(self, subject: Any, predicate: Any = None, target: Any = None) -> list[Any]:
        return list(self.store.quads_for_pattern(subject, predicate, target))

    def take_out(self, kind: str, name: str) -> None:
        node = self.ox.NamedNode(name)
        if kind == "entity":
            self.take_out_calibrations(name)
            for quad in self.quads(node):
                if quad.predicate.value in _TOLD:
                    for other in self.quads(quad.object):
                        self.store.remove(other)
                if quad.predicate.value not in _OF_CALLS:
                    self.store.remove(quad)
            return
        if kind == "call":
            program = [x.object for x in self.quads(node, self.ox.NamedNode(PROV + "wasAssociatedWith"))]
            for quad in self.quads(None, None, node):
                if quad.predicate.value == IO + RELATIONS["read"]:
                    self.read |= {(quad.subject, x) for x in program}
                self.store.remove(quad)
        for part in (node,) if kind == "call" else (node, self.ox.NamedNode(name + "-run")):
            for quad in self.quads(part):
                if quad.predicate.value in _TOLD:
                    for other in self.quads(quad.object):
                        self.store.remove(other)
                if quad.predicate.value != PROV + "used":
                    self.store.remove(quad)

    def take_out_calibrations(self, entity: str) -> None:
        """Of an entity's account, which need not point to them."""
        for number in count():
            about = self.quads(self.ox.NamedNode(calibration_name(entity, number)))
            if not about:
                return
            for quad in about:
                self.store.remove(quad)

    def check_used(self, entity: Any, program: Any) -> None:
        """Whether a program still has a read call on an entity."""
        associated = self.ox.NamedNode(PROV + "wasAssociatedWith")
        calls = self.quads(entity, self.ox.NamedNode(IO + RELATIONS["read"]))
        if not any(self.quads(x.object, associated, program) for x in calls):
            run = self.ox.NamedNode(program.value + "-run")
            for quad in self.quads(run, self.ox.NamedNode(PROV + "used"), entity):
                self.store.remove(quad)
