"""The graph as RDF and as PROV-JSON: pure functions of a history. Needs the extra ``provenance`` (pyoxigraph) for RDF.

A process is an agent (io:Program) and its execution (io:Execution, a prov:Activity): the execution used what the process opened
for reading and generated what it wrote; io:Call stands beside it with counts and times.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from sparsam.errors import Usage
from sparsam.provenance.graph import Call, Entity, Program
from sparsam.provenance.index import Recorded
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

FORMATS = ("turtle", "ntriples", "jsonld", "prov-json", "prov-jsonld", "ro-crate", "prov-io")
"""What a graph can be written as."""
Triple = tuple[str, str, Any]
"""Subject and predicate are IRIs; the object is an IRI (:class:`Iri`) or a value."""
ONTOLOGY, SHAPES = (Path(__file__).parent / name for name in ("ontology.ttl", "shapes.ttl"))


class Iri(str):
    """An object that is a node, not a text."""

    __slots__ = ()


class Typed(str):
    """A text with a type, or a language, that Python has no value for."""

    __slots__ = ("datatype", "language")
    datatype: str
    language: str

    def __new__(cls, text: str, datatype: str = "", language: str = "") -> "Typed":
        """Of a text, and the IRI of its type or the tag of its language."""
        made = super().__new__(cls, text)
        made.datatype, made.language = datatype, language
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Typed) and (str(self), self.datatype, self.language) == (
            str(other),
            other.datatype,
            other.language,
        )

    def __hash__(self) -> int:
        return hash((str(self), self.datatype, self.language))


def iri(name: str) -> Iri:
    """Of an entity, a program, a call: ids of a history hold nothing that an IRI could not."""
    return Iri(f"urn:sparsam:{name}")


def when(nanoseconds: int) -> datetime:
    """With its zone, to the microsecond."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)


def triples(found: Recorded) -> Iterator[Triple]:
    """Every statement, in a fixed order; those of imported documents last."""
    from sparsam.provenance.decisions_rdf import triples_of_accounts

    scopes = {}
    for program in found.programs.values():
        scopes[program.id] = {key: name for key, (name, _) in program.scopes.items()}
        if program.id not in found.stated:
            yield from program_triples(program)
    for entity in found.entities.values():
        if entity.id not in found.stated:
            yield from entity_triples(found, entity)
    for number, call in enumerate(found.all_calls()):
        if call.program not in found.stated:
            yield from call_triples(number, call, scopes[call.program])
    yield from _used(found)
    yield from triples_of_accounts(found)
    yield from found.foreign


def _used(found: Recorded) -> Iterator[Triple]:
    for program_id, entity_id in found.used():
        if program_id in found.stated:
            continue
        if found.entities[entity_id].by != program_id:  # what it wrote and read again is no input
            yield iri(program_id + "-run"), PROV + "used", iri(entity_id)


def call_triples(number: int, call: Call, scopes: Mapping[str, str]) -> Iterator[Triple]:
    """Of calls counted together; scopes by their ids."""
    node = iri(f"call-{number}-{call.program.removeprefix('program-')}")
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
    if call.scope is not None and call.scope in scopes:
        yield node, IO + "scope", scopes[call.scope]
    yield iri(call.entity), IO + RELATIONS[call.kind], node


def program_triples(one: Program) -> Iterator[Triple]:
    """Of a program: the agent, its execution, who it ran for, what it told of itself."""
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


def entity_triples(found: Recorded, one: Entity) -> Iterator[Triple]:
    """Of an entity, its calls aside."""
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


def quads(found: Recorded) -> Iterator[Any]:
    """The statements as pyoxigraph's. Raises Usage ``extra-missing``."""
    return quads_of(triples(found))


def quads_of(statements: Iterable[Triple]) -> Iterator[Any]:
    """As pyoxigraph's. Raises Usage ``extra-missing``."""
    ox = oxigraph()
    nodes: dict[str, Any] = {}

    def node(name: str) -> Any:
        if name not in nodes:
            if len(nodes) > 100_000:
                nodes.clear()
            nodes[name] = ox.BlankNode(name[2:]) if name.startswith("_:") else ox.NamedNode(name)
        return nodes[name]

    for subject, predicate, value in statements:
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
    if isinstance(value, Typed):
        if value.language:
            return ox.Literal(str(value), language=value.language)
        return ox.Literal(str(value), datatype=ox.NamedNode(value.datatype))
    return ox.Literal(text(value) if isinstance(value, str) else value)


def text(value: str) -> str:
    """Without what a file of text cannot hold: halves of letters, and control characters, are spelled out."""
    value = value.encode("utf-8", "backslashreplace").decode()
    return "".join(x if x in "\t\n\r" or ord(x) >= 32 else f"\\x{ord(x):02x}" for x in value)


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


def write(found: Recorded, to: str) -> bytes:
    """The graph in one of :data:`FORMATS`.

    Raises:
        Usage: ``export-to``, ``extra-missing``.
    """
    if to not in FORMATS:
        raise Usage(f"to is one of {', '.join(FORMATS)}; got {to!r}.", code="export-to")
    if to in ("prov-json", "prov-jsonld"):
        from sparsam.provenance import prov_json as as_json

        made_json = prov_json(found)
        return as_json.dumped(as_json.jsonld(made_json) if to == "prov-jsonld" else made_json)
    if to == "ro-crate":
        from sparsam.provenance.ro_crate import crate

        return crate(found)
    if to == "prov-io":
        from sparsam.provenance.adapters.provio import as_provio

        return as_provio(found)
    ox = oxigraph()
    kinds = {
        "turtle": ox.RdfFormat.TURTLE,
        "ntriples": ox.RdfFormat.N_TRIPLES,
        "jsonld": ox.RdfFormat.JSON_LD,
    }
    plain = (quad.triple for quad in quads(found))
    made: bytes = ox.serialize(plain, format=kinds[to], prefixes=PREFIXES)
    return made


def prov_json(found: Recorded) -> dict[str, Any]:
    """The same statements as PROV-JSON; see :mod:`sparsam.provenance.prov_json`."""
    from sparsam.provenance.prov_json import document

    return document(triples(found))
