"""The graph as RDF and as PROV-JSON: pure functions of a history. Needs the extra ``provenance`` (pyoxigraph) for RDF.

A process is an agent (io:Program) and its execution (io:Execution, a prov:Activity): the execution used what the process opened
for reading and generated what it wrote; io:Call stands beside it with counts and times.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from sparsam.errors import Usage
from sparsam.provenance.graph import Entity, History, Program
from sparsam.provenance.terms import (
    CALL_CLASSES,
    IO,
    OBJECT_CLASSES,
    PREFIXES,
    PROV,
    RDF_TYPE,
    RELATIONS,
    XSD,
)

FORMATS = ("turtle", "ntriples", "jsonld", "prov-json")
"""What a graph can be written as."""
Triple = tuple[str, str, Any]
"""Subject and predicate are IRIs; the object is an IRI (:class:`Iri`) or a value."""
ONTOLOGY, SHAPES = (Path(__file__).parent / name for name in ("ontology.ttl", "shapes.ttl"))


class Iri(str):
    """An object that is a node, not a text."""

    __slots__ = ()


def iri(name: str) -> Iri:
    """Of an entity, a program, a call: ids of a history hold nothing that an IRI could not."""
    return Iri(f"urn:sparsam:{name}")


def when(nanoseconds: int) -> datetime:
    """With its zone, to the microsecond."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)


def triples(found: History) -> Iterator[Triple]:
    """Every statement, in a fixed order."""
    for program in found.programs.values():
        yield from _program(program)
    for entity in found.entities.values():
        yield from _entity(found, entity)
    used: dict[tuple[str, str], None] = {}
    for number, call in enumerate(found.calls.values()):
        node, program = (
            iri(f"call-{number}-{call.program.removeprefix('program-')}"),
            found.programs[call.program],
        )
        yield node, RDF_TYPE, Iri(PROV + "Activity")
        yield node, RDF_TYPE, Iri(IO + CALL_CLASSES[call.kind])
        yield node, PROV + "wasAssociatedWith", iri(call.program)
        yield node, PROV + "startedAtTime", when(call.first)
        yield node, PROV + "endedAtTime", when(call.last)
        yield node, IO + "count", call.count
        if call.bytes:
            yield node, IO + "bytes", call.bytes
        if call.seconds:
            yield node, IO + "elapsed", Decimal(f"{call.seconds:.9f}")
        if call.failed:
            yield node, IO + "failed", call.failed
        if call.scope is not None and call.scope in program.scopes:
            yield node, IO + "scope", program.scopes[call.scope][0]
        yield iri(call.entity), IO + RELATIONS[call.kind], node
        if call.kind == "read":
            used[call.program, call.entity] = None
    for program_id, entity_id in used:
        if found.entities[entity_id].by != program_id:  # what it wrote and read again is no input
            yield iri(program_id + "-run"), PROV + "used", iri(entity_id)
    from sparsam.provenance.decisions_rdf import triples_of_accounts

    yield from triples_of_accounts(found)


def _program(one: Program) -> Iterator[Triple]:
    agent, run = iri(one.id), iri(one.id + "-run")
    facts = one.facts
    yield agent, RDF_TYPE, Iri(PROV + "SoftwareAgent")
    yield agent, RDF_TYPE, Iri(IO + "Program")
    yield agent, IO + "pid", one.writer.pid
    yield agent, IO + "host", one.writer.host
    if one.run:
        yield agent, IO + "run", one.run
    if facts.get("argv"):
        yield agent, IO + "command", json.dumps(facts["argv"])
    if facts.get("cwd"):
        yield agent, IO + "workingFolder", str(facts["cwd"])
    if facts.get("code"):
        yield agent, IO + "commit", str(facts["code"].get("commit", ""))
    for name, version in dict(facts.get("versions") or {}).items():
        yield agent, IO + "version", f"{name} {version}"
    last: Iri = agent
    if facts.get("rank") is not None:
        thread = iri(f"{one.id}-rank")
        yield thread, RDF_TYPE, Iri(IO + "Thread")
        yield thread, RDF_TYPE, Iri(PROV + "SoftwareAgent")
        yield thread, IO + "name", str(facts["rank"])
        yield agent, PROV + "actedOnBehalfOf", thread
        last = thread
    if facts.get("user"):
        user = Iri(
            "urn:sparsam:user:" + "".join(x if x.isalnum() else f"-{ord(x):x}-" for x in str(facts["user"]))
        )
        yield user, RDF_TYPE, Iri(IO + "User")
        yield user, RDF_TYPE, Iri(PROV + "Person")
        yield user, IO + "name", str(facts["user"])
        yield last, PROV + "actedOnBehalfOf", user
    yield run, RDF_TYPE, Iri(PROV + "Activity")
    yield run, RDF_TYPE, Iri(IO + "Execution")
    yield run, PROV + "wasAssociatedWith", agent
    yield run, PROV + "startedAtTime", when(one.began)
    if one.ended is not None:
        yield run, PROV + "endedAtTime", when(one.ended)
    if one.status is not None:
        yield run, IO + "status", one.status
    if one.parent is not None:
        yield run, IO + "startedBy", iri(one.parent + "-run")
    named: list[tuple[str, str, str, Any]] = [("type", "Type", "ofType", (x, None)) for x in one.types]
    named += [("setting", "Configuration", "hasConfig", (x, value)) for x, value in one.configuration.items()]
    named += [("metric", "Metrics", "hasMetric", (x, value)) for _, x, value, _ in one.metrics]
    for number, (short, kind, relation, (name, value)) in enumerate(named):
        node = iri(f"{one.id}-{short}-{number}")
        yield node, RDF_TYPE, Iri(PROV + "Entity")
        yield node, RDF_TYPE, Iri(IO + kind)
        yield node, IO + "name", name
        if value is not None:
            yield (
                node,
                PROV + "value",
                value if isinstance(value, bool | int | float | str) else json.dumps(value),
            )
        yield agent, IO + relation, node


def _entity(found: History, one: Entity) -> Iterator[Triple]:
    node = iri(one.id)
    yield node, RDF_TYPE, Iri(PROV + "Entity")
    yield node, RDF_TYPE, Iri(IO + OBJECT_CLASSES[one.kind])
    for name in dict.fromkeys(one.names):
        yield node, IO + "path", name
    yield node, IO + "generation", one.generation
    yield node, IO + "host", one.host
    if one.size is not None:
        yield node, IO + "size", one.size
    if one.sha256 is not None:
        yield node, IO + "sha256", one.sha256
    if one.within is not None:
        yield node, IO + "within", iri(one.within)
    if one.by is not None:
        yield node, PROV + "wasGeneratedBy", iri(one.by + "-run")
        yield node, PROV + "wasAttributedTo", iri(one.by)
        yield node, PROV + "generatedAtTime", when(one.began)
    if one.revision is not None and one.revision in found.entities:
        yield node, PROV + "wasRevisionOf", iri(one.revision)
    for flag, name in ((one.outside, "changedUnseen"), (one.unfinished, "unfinished")):
        if flag:
            yield node, IO + name, True
    for source in found.sources(one.id):
        yield node, PROV + "wasDerivedFrom", iri(source)


def quads(found: History) -> Iterator[Any]:
    """The statements as pyoxigraph's. Raises Usage ``extra-missing``."""
    ox = oxigraph()
    nodes: dict[str, Any] = {}

    def node(name: str) -> Any:
        if name not in nodes:
            nodes[name] = ox.NamedNode(name)
        return nodes[name]

    for subject, predicate, value in triples(found):
        yield ox.Quad(
            node(subject), node(predicate), node(value) if isinstance(value, Iri) else literal(value)
        )


def literal(value: Any) -> Any:
    """A typed value."""
    ox = oxigraph()
    if isinstance(value, datetime):
        return ox.Literal(
            value.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            datatype=ox.NamedNode(XSD + "dateTime"),
        )
    if isinstance(value, Decimal):
        return ox.Literal(format(value, "f"), datatype=ox.NamedNode(XSD + "decimal"))
    if isinstance(value, str):
        value = value.encode("utf-8", "backslashreplace").decode()
        return ox.Literal("".join(x if x in "\t\n\r" or ord(x) >= 32 else f"\\x{ord(x):02x}" for x in value))
    return ox.Literal(value)


def oxigraph() -> Any:
    """The library.

    Raises:
        Usage: ``extra-missing``.
    """
    try:
        import pyoxigraph
    except ImportError as error:
        raise Usage(
            "this needs pyoxigraph: pip install 'sparsam[provenance]'", code="extra-missing"
        ) from error
    return pyoxigraph


def write(found: History, to: str) -> bytes:
    """The graph in one of :data:`FORMATS`.

    Raises:
        Usage: ``export-to``, ``extra-missing``.
    """
    if to not in FORMATS:
        raise Usage(f"to is one of {', '.join(FORMATS)}; got {to!r}.", code="export-to")
    if to == "prov-json":
        return json.dumps(prov_json(found), indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
    ox = oxigraph()
    kinds = {
        "turtle": ox.RdfFormat.TURTLE,
        "ntriples": ox.RdfFormat.N_TRIPLES,
        "jsonld": ox.RdfFormat.JSON_LD,
    }
    plain = (quad.triple for quad in quads(found))
    made: bytes = ox.serialize(plain, format=kinds[to], prefixes=PREFIXES)
    return made


def prov_json(found: History) -> dict[str, Any]:
    """The same statements as PROV-JSON (W3C member submission)."""
    by_node: dict[str, dict[str, list[Any]]] = {}
    for subject, predicate, value in triples(found):
        by_node.setdefault(str(subject), {}).setdefault(predicate, []).append(value)
    made: dict[str, Any] = {"prefix": {"io": IO, "sparsam": "urn:sparsam:", "xsd": XSD}}
    relations = {
        "wasDerivedFrom": ("prov:generatedEntity", "prov:usedEntity"), "wasGeneratedBy": ("prov:entity", "prov:activity"),
        "used": ("prov:activity", "prov:entity"), "wasAssociatedWith": ("prov:activity", "prov:agent"),
        "wasAttributedTo": ("prov:entity", "prov:agent"), "actedOnBehalfOf": ("prov:delegate", "prov:responsible"),
        "wasInformedBy": ("prov:informed", "prov:informant"), "wasInfluencedBy": ("prov:influencee", "prov:influencer"),
    }  # fmt: skip
    for node, facts in by_node.items():
        types = [str(x) for x in facts.get(RDF_TYPE, [])]
        part = "agent" if PROV + "SoftwareAgent" in types or PROV + "Person" in types else ""
        part = part or ("activity" if PROV + "Activity" in types else "entity")
        attributes: dict[str, Any] = {
            "prov:type": [{"$": _short(x), "type": "prov:QUALIFIED_NAME"} for x in types]
        }
        for predicate, values in facts.items():
            local = predicate.removeprefix(PROV)
            if predicate == RDF_TYPE or local == "generatedAtTime":
                continue
            if local in ("startedAtTime", "endedAtTime"):
                attributes["prov:startTime" if local.startswith("s") else "prov:endTime"] = values[
                    0
                ].isoformat()
            elif (
                local == "wasRevisionOf"
                or local in relations
                or predicate.removeprefix(IO) in (*RELATIONS.values(), "startedBy")
            ):
                _relate(made, node, predicate, values, relations)
            else:
                attributes[_short(predicate)] = [_value(x) for x in values]
        made.setdefault(part, {})[_short(node)] = attributes
    return made


def _relate(
    made: dict[str, Any], node: str, predicate: str, values: list[Any], relations: dict[str, tuple[str, str]]
) -> None:
    local, more = predicate.removeprefix(PROV), {}
    if local == "wasRevisionOf":
        local, more = "wasDerivedFrom", {"prov:type": [{"$": "prov:Revision", "type": "prov:QUALIFIED_NAME"}]}
    elif local not in relations:
        local = "wasInformedBy" if predicate == IO + "startedBy" else "wasInfluencedBy"
        more = {"prov:type": [{"$": _short(predicate), "type": "prov:QUALIFIED_NAME"}]}
    first, second = relations[local]
    for value in values:
        group = made.setdefault(local, {})
        group[f"_:{local}{len(group)}"] = {first: _short(node), second: _short(str(value)), **more}


def _short(name: str) -> str:
    for prefix, address in (("prov", PROV), ("io", IO), ("sparsam", "urn:sparsam:")):
        if name.startswith(address):
            return f"{prefix}:{name[len(address) :]}"
    return name


def _value(value: Any) -> Any:
    if isinstance(value, Iri):
        return {"$": _short(value), "type": "prov:QUALIFIED_NAME"}
    if isinstance(value, Decimal):
        return {"$": format(value, "f"), "type": "xsd:decimal"}
    if isinstance(value, datetime):
        return {"$": value.isoformat(), "type": "xsd:dateTime"}
    return value
