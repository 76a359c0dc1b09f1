"""Reading PROV-O (W3C Recommendation, 30 April 2013) into statements: its short and its qualified forms."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from sparsam.provenance.constraints.reading import LONGEST, invalid
from sparsam.provenance.constraints.statements import PROV, Document, Statement
from sparsam.provenance.rdf import oxigraph
from sparsam.provenance.terms import RDF_TYPE

CLASSES = {
    "Entity": "entity", "Plan": "entity", "Collection": "entity", "EmptyCollection": "entity", "Bundle": "entity",
    "Activity": "activity", "Agent": "agent", "Person": "agent", "Organization": "agent", "SoftwareAgent": "agent",
}  # fmt: skip
SHORT: dict[str, tuple[str, int]] = {
    "wasGeneratedBy": ("wasGeneratedBy", 3), "used": ("used", 3), "wasInformedBy": ("wasInformedBy", 2),
    "wasStartedBy": ("wasStartedBy", 4), "wasEndedBy": ("wasEndedBy", 4), "wasInvalidatedBy": ("wasInvalidatedBy", 3),
    "wasDerivedFrom": ("wasDerivedFrom", 5), "wasRevisionOf": ("wasDerivedFrom", 5), "wasQuotedFrom": ("wasDerivedFrom", 5),
    "hadPrimarySource": ("wasDerivedFrom", 5), "wasAttributedTo": ("wasAttributedTo", 2),
    "wasAssociatedWith": ("wasAssociatedWith", 3), "actedOnBehalfOf": ("actedOnBehalfOf", 3),
    "wasInfluencedBy": ("wasInfluencedBy", 2), "specializationOf": ("specializationOf", 2), "alternateOf": ("alternateOf", 2),
    "hadMember": ("hadMember", 2),
}  # fmt: skip
"""Property: the statement, and how many arguments it has; subject and object are the first two."""
BACKWARD = {
    "generated": ("wasGeneratedBy", 3),
    "invalidated": ("wasInvalidatedBy", 3),
    "influenced": ("wasInfluencedBy", 2),
}
QUALIFIED: dict[str, tuple[str, tuple[str, ...]]] = {
    "qualifiedGeneration": ("wasGeneratedBy", ("activity", "atTime")),
    "qualifiedUsage": ("used", ("entity", "atTime")),
    "qualifiedCommunication": ("wasInformedBy", ("activity",)),
    "qualifiedStart": ("wasStartedBy", ("entity", "hadActivity", "atTime")),
    "qualifiedEnd": ("wasEndedBy", ("entity", "hadActivity", "atTime")),
    "qualifiedInvalidation": ("wasInvalidatedBy", ("activity", "atTime")),
    "qualifiedDerivation": ("wasDerivedFrom", ("entity", "hadActivity", "hadGeneration", "hadUsage")),
    "qualifiedRevision": ("wasDerivedFrom", ("entity", "hadActivity", "hadGeneration", "hadUsage")),
    "qualifiedQuotation": ("wasDerivedFrom", ("entity", "hadActivity", "hadGeneration", "hadUsage")),
    "qualifiedPrimarySource": ("wasDerivedFrom", ("entity", "hadActivity", "hadGeneration", "hadUsage")),
    "qualifiedAttribution": ("wasAttributedTo", ("agent",)),
    "qualifiedAssociation": ("wasAssociatedWith", ("agent", "hadPlan")),
    "qualifiedDelegation": ("actedOnBehalfOf", ("agent", "hadActivity")),
    "qualifiedInfluence": ("wasInfluencedBy", ("influencer",)),
}
"""Property: the statement, and where its arguments behind the subject stand on the node."""
TIMED = {"generatedAtTime": ("wasGeneratedBy", 2, 3), "invalidatedAtTime": ("wasInvalidatedBy", 2, 3)}
Facts = dict[str, dict[str, list[str]]]


def parsed(content: bytes, kind: str, name: str, base: str = "urn:document:") -> Iterator[Any]:
    """The quads of pyoxigraph's. Raises Refused ``document-invalid``, Usage ``extra-missing``."""
    ox = oxigraph()
    formats = {
        "turtle": ox.RdfFormat.TURTLE, "trig": ox.RdfFormat.TRIG, "ntriples": ox.RdfFormat.N_TRIPLES,
        "nquads": ox.RdfFormat.N_QUADS, "jsonld": ox.RdfFormat.JSON_LD,
    }  # fmt: skip
    try:
        yield from ox.parse(content, format=formats[kind], base_iri=base)
    except (SyntaxError, ValueError, OSError, RecursionError) as error:
        raise invalid(name, error) from error


def read_rdf(content: bytes, kind: str, name: str) -> Document:
    """PROV-O; each named graph is a bundle. Raises as :func:`parsed`."""
    graphs: dict[str, Facts] = {"": {}}
    for quad in parsed(content, kind, name):
        graph = getattr(quad.graph_name, "value", "")
        facts = graphs.setdefault(graph, {})
        subject, value = _name(quad.subject, name), _name(quad.object, name)
        facts.setdefault(subject, {}).setdefault(quad.predicate.value, []).append(value)
    made = Document()
    for graph, facts in graphs.items():
        made.add(graph, _statements(facts))
    return made


def _name(term: Any, name: str) -> str:
    value = getattr(term, "value", None)
    if value is None:
        raise invalid(name, "a statement about a statement is no PROV-O")
    if len(value) > LONGEST:
        raise invalid(name, f"a value is longer than {LONGEST:,} letters")
    return f"_:{value}" if type(term).__name__ == "BlankNode" else str(value)


def _statements(facts: Facts) -> Iterator[Statement]:
    for subject, own in facts.items():
        types = own.get(RDF_TYPE, [])
        kinds = {CLASSES[x.removeprefix(PROV)] for x in types if x.removeprefix(PROV) in CLASSES}
        times = own.get(PROV + "startedAtTime", []), own.get(PROV + "endedAtTime", [])
        if any(times):
            kinds.add("activity")
        for kind in sorted(kinds):
            rows = max(map(len, times)) if kind == "activity" and any(times) else 1
            for row in range(rows):
                when = tuple(x[min(row, len(x) - 1)] if x else None for x in times)
                yield Statement(kind, subject, when if kind == "activity" else (), frozenset(types))
        for predicate, values in own.items():
            for value in values:
                yield from _relation(facts, subject, predicate.removeprefix(PROV), value)


def _relation(facts: Facts, subject: str, local: str, value: str) -> Iterator[Statement]:
    kinds = {"wasRevisionOf": "Revision", "wasQuotedFrom": "Quotation", "hadPrimarySource": "PrimarySource"}
    if local in SHORT:
        kind, count = SHORT[local]
        types = frozenset({PROV + kinds[local]} if local in kinds else ())
        yield Statement(kind, None, (subject, value, *[None] * (count - 2)), types)
    elif local in BACKWARD:
        kind, count = BACKWARD[local]
        yield Statement(kind, None, (value, subject, *[None] * (count - 2)))
    elif local in TIMED:
        kind, at, count = TIMED[local]
        yield Statement(kind, None, (subject, *[value if x == at else None for x in range(1, count)]))
    elif local in QUALIFIED:
        kind, parts = QUALIFIED[local]
        node: dict[str, list[str]] = defaultdict(list, facts.get(value, {}))
        rest = tuple(next(iter(node[PROV + x]), None) for x in parts)
        yield Statement(kind, value, (subject, *rest), frozenset(node.get(RDF_TYPE, [])))
