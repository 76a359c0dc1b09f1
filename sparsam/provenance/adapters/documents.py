"""PROV in RDF or JSON as a history: documents of ours come back whole, of others what says itself in PROV's own words."""

import hashlib
import json
from collections import defaultdict
from datetime import datetime
from typing import Any

from sparsam.provenance.constraints import rdf_reading
from sparsam.provenance.constraints.reading import invalid
from sparsam.provenance.decisions_rdf import accounts_from
from sparsam.provenance.graph import Call, Entity, History, Program
from sparsam.provenance.log import Writer
from sparsam.provenance.prov_json import parsed as parsed_json
from sparsam.provenance.prov_json import plain
from sparsam.provenance.rdf import Iri, Triple, Typed, quads
from sparsam.provenance.terms import CALL_CLASSES, IO, OBJECT_CLASSES, PROV, RDF_TYPE, RELATIONS

OURS = "urn:sparsam:"
KINDS = {IO + value: key for key, value in OBJECT_CLASSES.items()}
CALLS = {IO + value: key for key, value in CALL_CLASSES.items()}


def statements(content: bytes, kind: str, name: str) -> list[Triple]:
    """Of a document, each once; graphs lose their names.

    Raises:
        Refused: ``document-invalid``.
        Usage: ``extra-missing``.
    """
    if kind in ("json", "prov-jsonld"):
        made = list(dict.fromkeys(parsed_json(content, name)))
        try:
            for _ in quads(History(foreign=made)):
                pass
        except ValueError as error:  # a name that is no IRI, a language that is none
            raise invalid(name, error) from error
        return made
    found = rdf_reading.parsed(content, kind, name)
    return list(dict.fromkeys((_node(x.subject), x.predicate.value, _value(x.object)) for x in found))


def _node(term: Any) -> Iri:
    return Iri(f"_:{term.value}" if type(term).__name__ == "BlankNode" else term.value)


def _value(term: Any) -> Any:
    if not hasattr(term, "datatype"):
        return _node(term)
    if term.language:
        return Typed(term.value, language=term.language)
    return plain(term.value, term.datatype.value)


def read(triples: list[Triple], name: str) -> History:
    """The history that statements tell of; they themselves are kept as they are.

    Args:
        triples: statements of PROV-O, with or without our extension.
        name: of the import; it becomes the run of what names none.
    """
    return _Reader(triples, name).read()


class _Reader:
    def __init__(self, triples: list[Triple], name: str) -> None:
        self.name = name
        self.facts: dict[str, dict[str, list[Any]]] = {}
        for subject, predicate, value in triples:
            self.facts.setdefault(subject, {}).setdefault(predicate, []).append(value)
        self.history = History(foreign=triples)

    def id(self, node: str, kind: str) -> str:
        """Of ours as it was; of others made of the name."""
        if node.startswith(OURS):
            return node.removeprefix(OURS)
        return f"{kind}-" + hashlib.sha256(f"{self.name}\0{node}".encode()).hexdigest()[:24]

    def one(self, node: str, predicate: str, default: Any = None) -> Any:
        """The first value."""
        return next(iter(self.facts.get(node, {}).get(predicate, ())), default)

    def read(self) -> History:
        types = {node: {str(x) for x in facts.get(RDF_TYPE, ())} for node, facts in self.facts.items()}
        agents: dict[str, str] = {}  # execution, or activity: program
        calls = [x for x, kinds in types.items() if kinds & set(CALLS)]
        for node, kinds in types.items():
            if IO + "Execution" in kinds:
                agents[node] = self.program(str(self.one(node, PROV + "wasAssociatedWith", node)), node)
            elif PROV + "Activity" in kinds and not kinds & set(CALLS):
                agents[node] = self.program(node, node)
        for node, kinds in types.items():
            if PROV + "Entity" in kinds or kinds & set(KINDS):
                self.entity(node, kinds, agents)
        known = {self.id(x, "entity"): x for x in types}
        for key, entity in self.history.entities.items():
            for word in ("wasDerivedFrom", "wasQuotedFrom", "hadPrimarySource", "wasRevisionOf"):
                if word == "wasRevisionOf" and known[key].startswith(OURS):
                    continue  # where ours was emptied first, nothing of the old is in it
                sources = {self.id(str(x), "entity") for x in self.facts[known[key]].get(PROV + word, ())}
                found = (sources - {key}) & set(self.history.entities)
                entity.derived = sorted(found.union(entity.derived))
        self.calls(calls, types)
        made_by = {key: x.by for key, x in self.history.entities.items() if known[key].startswith(OURS)}
        self.history.accounts = {x.entity: x for x in accounts_from(self.facts, made_by)}
        self.history.stated = {*self.history.programs, *self.history.entities}
        return self.history

    def program(self, agent: str, activity: str) -> str:
        key = self.id(agent, "program")
        host, pid = str(self.one(agent, IO + "host", "imported")), self.one(agent, IO + "pid", 0)
        argv = self.one(agent, IO + "command")
        made = Program(key, Writer(host, pid if isinstance(pid, int) else 0, 0))
        made.run = str(self.one(agent, IO + "run", "" if agent.startswith(OURS) else self.name))
        made.facts = {"argv": _listed(argv) if argv else [agent.rpartition("/")[2] or agent]}
        if folder := self.one(agent, IO + "workingFolder"):
            made.facts["cwd"] = str(folder)
        made.began = _nanoseconds(self.one(activity, PROV + "startedAtTime"))
        ended = self.one(activity, PROV + "endedAtTime")
        made.ended = _nanoseconds(ended) if ended is not None else None
        status = self.one(activity, IO + "status")
        made.status = status if isinstance(status, int) else None
        for relation in ("hasConfig", "hasMetric", "ofType"):
            for node in self.facts.get(agent, {}).get(IO + relation, ()):
                name, value = str(self.one(str(node), IO + "name", "")), self.one(str(node), PROV + "value")
                if relation == "hasConfig":
                    made.configuration[name] = value
                elif relation == "hasMetric":
                    made.metrics.append((made.began, name, value, None))
                else:
                    made.types.append(name)
        self.history.programs[key] = made
        return key

    def entity(self, node: str, kinds: set[str], agents: dict[str, str]) -> None:
        if kinds & {IO + x for x in ("Configuration", "Metrics", "Type", "Decision", "CalibrationBatches")}:
            return
        kind = next((KINDS[x] for x in sorted(kinds) if x in KINDS), "file")
        label = self.one(node, "http://www.w3.org/2000/01/rdf-schema#label", node)
        names = [str(x) for x in self.facts[node].get(IO + "path", ())] or [str(label)]
        generation, size = self.one(node, IO + "generation", 0), self.one(node, IO + "size")
        made = Entity(
            self.id(node, "entity"), kind, names[0], str(self.one(node, IO + "host", "imported")),
            generation if isinstance(generation, int) else 0, _nanoseconds(self.one(node, PROV + "generatedAtTime")), names,
            size if isinstance(size, int) else None,
        )  # fmt: skip
        made.sha256 = self.one(node, IO + "sha256")
        made.by = agents.get(str(self.one(node, PROV + "wasGeneratedBy", "")))
        for word, target in ((PROV + "wasRevisionOf", "revision"), (IO + "within", "within")):
            if other := self.one(node, word):
                setattr(made, target, self.id(str(other), "entity"))
        self.history.entities[made.id] = made

    def calls(self, calls: list[str], types: dict[str, set[str]]) -> None:
        on: dict[str, list[str]] = defaultdict(list)
        for node, facts in self.facts.items():
            for word in RELATIONS.values():
                for call in facts.get(IO + word, ()):
                    on[str(call)].append(node)
        for number, node in enumerate(calls):
            kind = next(CALLS[x] for x in sorted(types[node]) if x in CALLS)
            program = self.id(str(self.one(node, PROV + "wasAssociatedWith", "")), "program")
            entity = self.id(next(iter(on[node]), ""), "entity")
            if program not in self.history.programs or entity not in self.history.entities:
                continue
            scope = self.one(node, IO + "scope")
            count, size, failed = (self.one(node, IO + x, 0) for x in ("count", "bytes", "failed"))
            seconds = float(self.one(node, IO + "elapsed", 0))
            first, last = (_nanoseconds(self.one(node, PROV + x)) for x in ("startedAtTime", "endedAtTime"))
            self.history.calls[kind, program, entity, f"{self.name} {number}"] = Call(
                kind, program, entity, None if scope is None else str(scope), int(count), int(size), seconds,
                int(failed), first, last,
            )  # fmt: skip


def _nanoseconds(value: Any) -> int:
    return int(value.timestamp() * 1e6) * 1000 if isinstance(value, datetime) else 0


def _listed(text: Any) -> list[str]:
    try:
        found = json.loads(str(text))
    except (ValueError, RecursionError):
        return [str(text)]
    return [str(x) for x in found] if isinstance(found, list) else [str(found)]
