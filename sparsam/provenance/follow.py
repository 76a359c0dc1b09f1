"""The graph in RDF follows the index: what has changed since the last time is taken out and put in anew, the rest is left.

What an entity, a program or a call says is a function of its own row and of ids that never change, so that a row that is as it
was says what it said. Which rows have changed the index knows from its batches; what was undone meanwhile it keeps by name.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from sparsam.provenance import rdf
from sparsam.provenance.index import Index
from sparsam.provenance.terms import IO, PROV, RELATIONS

MARK = "made-from.json"
_OF_CALLS = {IO + x for x in RELATIONS.values()}
_TOLD = {IO + x for x in ("ofType", "hasConfig", "hasMetric")}


def follow(index: Index, place: Path) -> None:
    """Make the store in a folder say what the index says; nobody else may do so, or ask it, meanwhile.

    Raises:
        Usage: ``extra-missing``.
    """
    ox = rdf.oxigraph()
    name, mark, counters, sync = index.graph()
    last = index.last_batch()
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
    elif mark == last and not index.stale():
        return
    else:
        store = ox.Store(str(place))
        _Follower(index, store, mark, json.loads(counters)).go()
        store.flush()
        del store
    told = {"index": name, "sync": index.followed()}
    (place / MARK).write_text(json.dumps(told))


class _Follower:
    def __init__(self, index: Index, store: Any, mark: int, counters: dict[str, int]) -> None:
        self.index, self.store, self.mark, self.counters = index, store, mark, counters
        self.ox = rdf.oxigraph()
        self.read: set[tuple[Any, Any]] = set()
        """Entities and programs that a read call was taken out of."""

    def go(self) -> None:
        stale = self.index.stale()
        changed: dict[str, list[int]] = {}
        for kind in ("entity", "program", "call"):
            last = self.counters.get(kind, 0)
            undone = {key for one, key, _ in stale if one == kind}
            changed[kind] = sorted(
                x for x in self.index.changed_since(kind, self.mark, self.counters) | undone if x <= last
            )
            names = {name for one, _, name in stale if one == kind} | set(
                self.index.names_of(kind, changed[kind])
            )
            for name in names:
                self.take_out(kind, rdf.iri(name))
        self.store.bulk_extend(
            rdf.quads_of(chain.from_iterable(self.told(kind, keys) for kind, keys in changed.items()))
        )
        for entity, program in self.read:
            self.check_used(entity, program)

    def told(self, kind: str, keys: list[int]) -> Iterator[rdf.Triple]:
        index, last = self.index, self.counters.get(kind, 0)
        for part in index.parts(kind, keys, last):
            if kind == "program":
                for program in index.programs_at_hand(part):
                    yield from rdf.program_triples(program)
            elif kind == "entity":
                for one in index.entities_at_hand(part):
                    yield from rdf.entity_triples(index, one)
            else:
                for key, call, entity, scope in index.calls_at_hand(part):
                    yield from rdf.call_triples(key - 1, call, scope)
                    if call.kind == "read" and entity.by != call.program:
                        yield rdf.iri(call.program + "-run"), PROV + "used", rdf.iri(call.entity)

    def quads(self, subject: Any, predicate: Any = None, target: Any = None) -> list[Any]:
        return list(self.store.quads_for_pattern(subject, predicate, target))

    def take_out(self, kind: str, name: str) -> None:
        node = self.ox.NamedNode(name)
        if kind == "entity":
            for quad in self.quads(node):
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

    def check_used(self, entity: Any, program: Any) -> None:
        """Whether a program still has a read call on an entity."""
        associated = self.ox.NamedNode(PROV + "wasAssociatedWith")
        calls = self.quads(entity, self.ox.NamedNode(IO + RELATIONS["read"]))
        if not any(self.quads(x.object, associated, program) for x in calls):
            run = self.ox.NamedNode(program.value + "-run")
            for quad in self.quads(run, self.ox.NamedNode(PROV + "used"), entity):
                self.store.remove(quad)
