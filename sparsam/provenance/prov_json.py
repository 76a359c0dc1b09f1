"""PROV-JSON and PROV-JSONLD (W3C member submissions) from statements in RDF, and back without loss.

Every node becomes an entity, an activity or an agent, every relation of PROV a record; our own relations are influences and
communications that name themselves by their type. Names are IRIs cut behind the last of ``# / :``, with a prefix for each
beginning.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from sparsam.provenance.constraints.reading import LONGEST, expanded, invalid, loaded
from sparsam.provenance.rdf import Iri, Triple, Typed, text
from sparsam.provenance.terms import IO, PROV, RDF_TYPE, RELATIONS, XSD

CONTEXT = "https://openprovenance.org/prov-jsonld/context.jsonld"
RECORDS = {
    "wasDerivedFrom": ("generatedEntity", "usedEntity"), "wasGeneratedBy": ("entity", "activity"),
    "used": ("activity", "entity"), "wasAssociatedWith": ("activity", "agent"), "wasAttributedTo": ("entity", "agent"),
    "actedOnBehalfOf": ("delegate", "responsible"), "wasInformedBy": ("informed", "informant"),
    "wasInfluencedBy": ("influencee", "influencer"), "wasInvalidatedBy": ("entity", "activity"),
    "wasStartedBy": ("activity", "trigger"), "wasEndedBy": ("activity", "trigger"),
    "specializationOf": ("specificEntity", "generalEntity"), "alternateOf": ("alternate1", "alternate2"),
    "hadMember": ("collection", "entity"),
}  # fmt: skip
"""Relation of PROV-O: what subject and object are called in a record."""
BY_TYPE = {"wasRevisionOf": "Revision", "wasQuotedFrom": "Quotation", "hadPrimarySource": "PrimarySource"}
CLASSES = {
    "wasDerivedFrom": "Derivation", "wasGeneratedBy": "Generation", "used": "Usage", "wasAssociatedWith": "Association",
    "wasAttributedTo": "Attribution", "actedOnBehalfOf": "Delegation", "wasInformedBy": "Communication",
    "wasInfluencedBy": "Influence", "wasInvalidatedBy": "Invalidation", "wasStartedBy": "Start", "wasEndedBy": "End",
    "specializationOf": "Specialization", "alternateOf": "Alternate", "hadMember": "Membership", "entity": "Entity",
    "activity": "Activity", "agent": "Agent",
}  # fmt: skip
"""Record: its class in PROV-JSONLD."""
PARTS = {
    "agent": ("Agent", "SoftwareAgent", "Person", "Organization"), "activity": ("Activity",),
    "entity": ("Entity", "Plan", "Collection", "EmptyCollection", "Bundle"),
}  # fmt: skip
MENTION = ("specificEntity", "generalEntity")
QUALIFIED = {
    "wasDerivedFrom": ("Derivation", "entity"), "wasGeneratedBy": ("Generation", "activity"), "used": ("Usage", "entity"),
    "wasAssociatedWith": ("Association", "agent"), "wasAttributedTo": ("Attribution", "agent"),
    "actedOnBehalfOf": ("Delegation", "agent"), "wasInformedBy": ("Communication", "activity"),
    "wasInfluencedBy": ("Influence", "influencer"), "wasInvalidatedBy": ("Invalidation", "activity"),
    "wasStartedBy": ("Start", "entity"), "wasEndedBy": ("End", "entity"),
}  # fmt: skip
"""Record: its qualified form in PROV-O, and what its second end is called there."""
HAD = {
    "plan": "hadPlan", "activity": "hadActivity", "starter": "hadActivity", "ender": "hadActivity",
    "generation": "hadGeneration", "usage": "hadUsage",
}  # fmt: skip
NO_CLASS = IO + "noClass"
"""Marks a node of which nobody said what it is, so that nothing is added when it is read again."""
OWN_RELATIONS = {IO + x: "wasInfluencedBy" for x in RELATIONS.values()} | {IO + "startedBy": "wasInformedBy"}
TIMES = {"startedAtTime": "startTime", "endedAtTime": "endTime"}


class _Names:
    """Prefixes, as they are needed."""

    def __init__(self) -> None:
        self.prefixes = {"prov": PROV, "xsd": XSD, "io": IO, "sparsam": "urn:sparsam:"}
        self.known = {value: key for key, value in self.prefixes.items()}

    def short(self, name: str) -> str:
        """An IRI as prefix:rest."""
        if name.startswith("_:"):
            return name
        at = max(name.rfind(x) for x in "#/:") + 1
        if name.startswith("urn:sparsam:") and not name.startswith(IO):
            at = len("urn:sparsam:")
        space = name[:at]
        if space not in self.known:
            self.known[space] = f"ns{len(self.known)}"
            self.prefixes[self.known[space]] = space
        return f"{self.known[space]}:{name[at:]}"


def document(triples: Iterable[Triple]) -> dict[str, Any]:
    """PROV-JSON of statements."""
    by_node: dict[str, dict[str, list[Any]]] = {}
    for subject, predicate, value in triples:
        by_node.setdefault(str(subject), {}).setdefault(predicate, []).append(value)
    names = _Names()
    made: dict[str, Any] = {"prefix": names.prefixes}
    for node, facts in by_node.items():
        types = [str(x) for x in facts.get(RDF_TYPE, []) if isinstance(x, Iri)]
        part = next((p for p, c in PARTS.items() if any(PROV + x in types for x in c)), None)
        attributes: dict[str, Any] = {}
        if types:
            attributes["prov:type"] = [_value(Iri(x), names) for x in types]
        if part is None:
            attributes[names.short(NO_CLASS)] = True
        for predicate, values in facts.items():
            left = _related(made, names, node, predicate, values, facts, part, attributes)
            if left:
                attributes.setdefault(names.short(predicate), []).extend(_value(x, names) for x in left)
        made.setdefault(part or "entity", {})[names.short(node)] = attributes
    return made


def _related(
    made: dict[str, Any],
    names: _Names,
    node: str,
    predicate: str,
    values: list[Any],
    facts: dict[str, list[Any]],
    part: str | None,
    attributes: dict[str, Any],
) -> list[Any]:
    """Put what is a record, or an argument, in its place; the rest is given back."""
    local = predicate.removeprefix(PROV) if predicate.startswith(PROV) else ""
    if predicate == RDF_TYPE:
        return [x for x in values if not isinstance(x, Iri)]
    if local == "generatedAtTime":
        times = [x for x in values if isinstance(x, datetime)]
        rest = [x for x in values if not isinstance(x, datetime)]
        if not (len(times) == 1 and len(facts.get(PROV + "wasGeneratedBy", [])) == 1):
            for moment in times:
                _record(
                    made, "wasGeneratedBy", {"prov:entity": names.short(node), "prov:time": _time(moment)}
                )
        return rest
    if local in TIMES and part == "activity" and isinstance(values[0], datetime):
        attributes["prov:" + TIMES[local]] = _time(values[0])
        return values[1:]
    kind = (
        "wasDerivedFrom" if local in BY_TYPE else local if local in RECORDS else OWN_RELATIONS.get(predicate)
    )
    if kind is None:
        return values
    more: dict[str, Any] = {}
    if local in BY_TYPE or not local:
        more["prov:type"] = [_value(Iri(PROV + BY_TYPE[local] if local else predicate), names)]
    first, second = RECORDS[kind]
    times = facts.get(PROV + "generatedAtTime", [])
    if local == "wasGeneratedBy" and len(values) == len(times) == 1 and isinstance(times[0], datetime):
        more["prov:time"] = _time(times[0])
    for value in values:
        if isinstance(value, Iri):
            ends = {f"prov:{first}": names.short(node), f"prov:{second}": names.short(str(value))}
            _record(made, kind, {**ends, **more})
    return [x for x in values if not isinstance(x, Iri)]


def _record(made: dict[str, Any], kind: str, facts: dict[str, Any]) -> None:
    group = made.setdefault(kind, {})
    group[f"_:{kind}{len(group)}"] = facts


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _value(value: Any, names: _Names) -> Any:
    if isinstance(value, Iri):
        return {"$": names.short(value), "type": "prov:QUALIFIED_NAME"}
    if isinstance(value, Typed):
        if value.language:
            return {"$": str(value), "lang": value.language}
        return {"$": str(value), "type": names.short(value.datatype)}
    if isinstance(value, Decimal):
        return {"$": format(value, "f"), "type": "xsd:decimal"}
    if isinstance(value, datetime):
        return {"$": _time(value), "type": "xsd:dateTime"}
    if isinstance(value, float):
        return {"$": _double(value), "type": "xsd:double"}
    return text(value) if isinstance(value, str) else value


def _double(value: float) -> str:
    return {"inf": "INF", "-inf": "-INF", "nan": "NaN"}.get(str(value), repr(value))


# and back


def statements(found: Any, name: str = "the document") -> Iterator[Triple]:
    """Statements in RDF of PROV-JSON; bundles lose their names.

    Raises:
        Refused: ``document-invalid``.
    """
    if not isinstance(found, dict):
        raise invalid(name, "PROV-JSON is an object")
    yield from _instance(found, {}, name)
    for key, bundle in _objects(found, "bundle", name).items():
        if not isinstance(bundle, dict):
            raise invalid(name, "a bundle is an object")
        yield from _instance(bundle, _objects(found, "prefix", name), f"{name}, bundle {key[:80]}")


def _objects(found: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    value = found.get(key, {})
    if not isinstance(value, dict):
        raise invalid(name, f"{key} is an object")
    return value


def _instance(found: dict[str, Any], outer: dict[str, str], name: str) -> Iterator[Triple]:
    prefixes = {"prov": PROV, "xsd": XSD, **outer, **_objects(found, "prefix", name)}
    if not all(isinstance(x, str) for x in prefixes.values()):
        raise invalid(name, "prefix is an object of texts")
    for kind in found:
        if kind in ("prefix", "bundle"):
            continue
        if kind not in CLASSES and kind != "mentionOf":
            raise invalid(name, f"{kind!r} is no statement of PROV-JSON that RDF has a word for")
        for key, several in _objects(found, kind, name).items():
            for one in several if isinstance(several, list) else [several]:
                if not isinstance(one, dict):
                    raise invalid(name, f"{kind} {key!r} is an object")
                if kind in PARTS:
                    yield from _node(kind, _full(key, prefixes, name), one, prefixes, name)
                else:
                    yield from _relation(kind, key, one, prefixes, name)


def _full(value: Any, prefixes: dict[str, str], name: str) -> Iri:
    if isinstance(value, dict):
        value = value.get("$")
    if not isinstance(value, str):
        raise invalid(name, f"an identifier is a text; got {str(value)[:80]}")
    if len(value) > LONGEST:
        raise invalid(name, f"an identifier is longer than {LONGEST:,} letters")
    made = expanded(value, prefixes)
    if not made.startswith("_:") and ":" not in made:
        made = "urn:document:" + made
    if any(ord(x) <= 32 or x in '<>"{}|^`\\' for x in made):
        made = "".join(f"%{ord(x):02X}" if ord(x) <= 32 or x in '<>"{}|^`\\' else x for x in made)
    return Iri(made)


def _node(kind: str, node: Iri, one: dict[str, Any], prefixes: dict[str, str], name: str) -> Iterator[Triple]:
    types = one.get("prov:type", [])
    told = [_read(x, prefixes, name) for x in (types if isinstance(types, list) else [types])]
    facts = {_full(key, prefixes, name): value for key, value in one.items() if key != "prov:type"}
    if facts.pop(Iri(NO_CLASS), None) is None and not any(PROV + x in told for x in PARTS[kind]):
        yield node, RDF_TYPE, Iri(PROV + PARTS[kind][0])
    for value in told:
        yield node, RDF_TYPE, value
    for predicate, values in facts.items():
        local = predicate.removeprefix(PROV)
        turned = {"startTime": "startedAtTime", "endTime": "endedAtTime"}.get(local)
        for value in values if isinstance(values, list) else [values]:
            if turned:
                yield node, PROV + turned, _moment(value, prefixes, name)
            else:
                yield node, predicate, _read(value, prefixes, name)


def _relation(
    kind: str, key: str, one: dict[str, Any], prefixes: dict[str, str], name: str
) -> Iterator[Triple]:
    """Its short form; and the qualified one where there is more to say than two ends, a kind and when it was generated."""
    first, second = (one.get(f"prov:{x}") for x in RECORDS.get(kind, MENTION))
    # an end that is not told is somebody, or something
    subject = _full(first, prefixes, name) if first is not None else Iri(f"_:{kind}{_stable(name + key)}end")
    types = one.get("prov:type", [])
    told = [_read(x, prefixes, name) for x in (types if isinstance(types, list) else [types])]
    predicate = PROV + kind
    for kind_told in told:
        if OWN_RELATIONS.get(str(kind_told)) == kind:
            predicate = str(kind_told)
        elif kind == "wasDerivedFrom":
            predicate = next((PROV + k for k, v in BY_TYPE.items() if kind_told == PROV + v), predicate)
    for value in second if isinstance(second, list) else [second]:
        if value is not None:
            yield subject, predicate, _full(value, prefixes, name)
    rest = {
        k: v for k, v in one.items() if k.removeprefix("prov:") not in (*RECORDS.get(kind, MENTION), "type")
    }
    if kind == "wasGeneratedBy" and "prov:time" in rest:
        yield subject, PROV + "generatedAtTime", _moment(rest.pop("prov:time"), prefixes, name)
    if kind == "mentionOf" and "prov:bundle" in rest:
        yield subject, PROV + "asInBundle", _full(rest.pop("prov:bundle"), prefixes, name)
    more = [x for x in told if x not in (predicate, *(PROV + x for x in BY_TYPE.values()))]
    if kind in QUALIFIED and (rest or more or not key.startswith("_:")):
        yield from _qualified(
            kind, key, subject, second, {**rest, **({"prov:type": types} if more else {})}, prefixes, name
        )


def _stable(key: str) -> str:
    """Letters for a blank node, the same for the same key."""
    return hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _qualified(
    kind: str, key: str, subject: Iri, second: Any, rest: dict[str, Any], prefixes: dict[str, str], name: str
) -> Iterator[Triple]:
    word, second_word = QUALIFIED[kind]
    node = _full(key, prefixes, name) if not key.startswith("_:") else Iri(f"_:{kind}{_stable(name + key)}")
    yield subject, PROV + "qualified" + word, node
    yield node, RDF_TYPE, Iri(PROV + word)
    if second is not None and not isinstance(second, list):
        yield node, PROV + second_word, _full(second, prefixes, name)
    for key_, values in rest.items():
        local = key_.removeprefix("prov:")
        for value in values if isinstance(values, list) else [values]:
            if key_ == "prov:time":
                yield node, PROV + "atTime", _moment(value, prefixes, name)
            elif key_ == "prov:type":
                yield node, RDF_TYPE, _read(value, prefixes, name)
            elif key_.startswith("prov:") and local in HAD:
                yield node, PROV + HAD[local], _full(value, prefixes, name)
            else:
                yield node, _full(key_, prefixes, name), _read(value, prefixes, name)


def _moment(value: Any, prefixes: dict[str, str], name: str) -> Any:
    raw = value.get("$") if isinstance(value, dict) else value
    return (
        moment(str(raw)) or Typed(str(raw), XSD + "dateTime")
        if isinstance(raw, str)
        else _read(value, prefixes, name)
    )


def moment(lexical: str) -> datetime | None:
    """A time with its zone, where it is written as :func:`sparsam.provenance.rdf.literal` writes it."""
    try:
        made = datetime.fromisoformat(lexical)
    except ValueError:
        return None
    return made if made.tzinfo is not None and _time(made) == lexical else None


def _read(value: Any, prefixes: dict[str, str], name: str) -> Any:
    """A value as :mod:`sparsam.provenance.rdf` has it."""
    if isinstance(value, bool | int | float | str):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("$"), str | int | float):
        raise invalid(name, f"a value is a text, a number or an object with '$'; got {str(value)[:80]}")
    lexical = str(value["$"])
    if "lang" in value:
        return Typed(lexical, language=str(value["lang"]))
    kind = expanded(str(value.get("type", "xsd:string")), prefixes)
    if kind in (PROV + "QUALIFIED_NAME", XSD + "QName", PROV + "QualifiedName"):
        return _full(lexical, prefixes, name)
    return plain(lexical, kind)


def plain(lexical: str, datatype: str) -> Any:
    """A value of Python's where it is written again in the same letters, else a text with its type."""
    made: Any = None
    try:
        if datatype == XSD + "string":
            return lexical
        if datatype == XSD + "integer" and str(int(lexical)) == lexical:
            made = int(lexical) if -(2**63) <= int(lexical) < 2**63 else None
        elif datatype == XSD + "decimal" and format(Decimal(lexical), "f") == lexical:
            made = Decimal(lexical)
        elif datatype == XSD + "boolean" and lexical in ("true", "false"):
            made = lexical == "true"
        elif datatype == XSD + "dateTime":
            made = moment(lexical)
        elif datatype == XSD + "double" and _double(float(lexical)) == lexical:
            made = float(lexical)
    except (ValueError, InvalidOperation):
        made = None
    return Typed(lexical, datatype) if made is None else made


# PROV-JSONLD

SPECIAL = {"prov:type": "type", "prov:label": "label", "prov:role": "role", "prov:location": "location"}


def jsonld(found: dict[str, Any]) -> dict[str, Any]:
    """PROV-JSONLD of PROV-JSON."""
    graph = []
    for kind, name in CLASSES.items():
        for key, one in found.get(kind, {}).items():
            formal = RECORDS.get(kind, ("startTime", "endTime"))
            made: dict[str, Any] = {"@type": name}
            if not key.startswith("_:") or kind in PARTS:
                made["@id"] = key
            for attribute, value in one.items():
                local = attribute.removeprefix("prov:")
                if attribute.startswith("prov:") and local in (*formal, "time"):
                    made[local] = value
                else:
                    several = value if isinstance(value, list) else [value]
                    term = SPECIAL.get(attribute, attribute)
                    made[term] = [_ld_value(x, term) for x in several]
            graph.append(made)
    return {"@context": [found["prefix"], CONTEXT], "@graph": graph}


def _ld_value(value: Any, term: str) -> Any:
    if isinstance(value, dict):
        if value.get("type") == "prov:QUALIFIED_NAME":
            return (
                value["$"]
                if term in ("type", "role", "location")
                else {"@value": value["$"], "@type": "xsd:QName"}
            )
        if "lang" in value:
            return {"@value": value["$"], "@language": value["lang"]}
        return {"@value": value["$"], "@type": value.get("type", "xsd:string")}
    if isinstance(value, bool):
        return {"@value": "true" if value else "false", "@type": "xsd:boolean"}
    if isinstance(value, int):
        return {"@value": str(value), "@type": "xsd:integer"}
    return {"@value": value}


def from_jsonld(found: Any, name: str = "the document") -> dict[str, Any]:
    """PROV-JSON of PROV-JSONLD in its compact form.

    Raises:
        Refused: ``document-invalid``.
    """
    if not isinstance(found, dict) or not isinstance(found.get("@graph"), list):
        raise invalid(name, "PROV-JSONLD is an object with @graph")
    contexts = found.get("@context", [])
    prefixes = {
        key: value
        for one in (contexts if isinstance(contexts, list) else [contexts])
        if isinstance(one, dict)
        for key, value in one.items()
        if isinstance(value, str) and not key.startswith("@")
    }
    made: dict[str, Any] = {"prefix": prefixes}
    kinds = {value: key for key, value in CLASSES.items()}
    back = {value: key for key, value in SPECIAL.items()}
    for one in found["@graph"]:
        if not isinstance(one, dict) or not isinstance(one.get("@type"), str):
            raise invalid(name, "@graph holds objects with @type")
        kind = kinds.get(one["@type"].removeprefix("prov:"))
        if kind is None:
            raise invalid(name, f"{one['@type'][:80]!r} is no statement of PROV-JSONLD that is read here")
        formal = (
            *RECORDS.get(kind, ("startTime", "endTime")),
            "time",
            "activity",
            "plan",
            "generation",
            "usage",
        )
        facts: dict[str, Any] = {}
        for key, value in ((str(k), v) for k, v in one.items()):
            if key in formal and not isinstance(value, list):
                facts["prov:" + key] = value
            elif not key.startswith("@"):
                several = value if isinstance(value, list) else [value]
                facts[back.get(key, key)] = [_from_ld(x, key) for x in several]
        group = made.setdefault(kind, {})
        name_of = str(one.get("@id", f"_:{kind}{len(group)}"))
        if name_of in group:
            earlier = group[name_of]
            group[name_of] = [*(earlier if isinstance(earlier, list) else [earlier]), facts]
        else:
            group[name_of] = facts
    return made


def _from_ld(value: Any, term: str) -> Any:
    if isinstance(value, dict):
        if "@language" in value:
            return {"$": value.get("@value"), "lang": value["@language"]}
        kind = str(value.get("@type", "xsd:string"))
        return {"$": value.get("@value"), "type": "prov:QUALIFIED_NAME" if kind == "xsd:QName" else kind}
    if isinstance(value, str) and term in ("type", "role", "location"):
        return {"$": value, "type": "prov:QUALIFIED_NAME"}
    return value


def parsed(content: bytes, name: str) -> Iterator[Triple]:
    """Statements of a file in PROV-JSON or PROV-JSONLD, whichever it is. Raises as :func:`statements`."""
    found = loaded(content, name)
    if isinstance(found, dict) and "@graph" in found:
        found = from_jsonld(found, name)
    yield from statements(found, name)


def dumped(found: dict[str, Any]) -> bytes:
    """As bytes."""
    return json.dumps(found, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
