"""Reading PROV-XML, PROV-JSON and PROV-O into statements; hostile files are refused."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from sparsam.errors import InputOutput, Refused, Usage
from sparsam.provenance.constraints.statements import FORMALS, PROV, SUBTYPES, TIMES, Document, Statement

LARGEST = 1 << 28
"""Bytes of a document."""
DEEPEST = 64
"""Elements, or braces, in one another."""
LONGEST = 1 << 20
"""Letters of an identifier or a value that matters."""
KINDS = ("xml", "json", "turtle", "trig", "ntriples", "nquads", "jsonld")
SUFFIXES = {
    ".xml": "xml", ".provx": "xml", ".json": "json", ".ttl": "turtle", ".trig": "trig", ".nt": "ntriples", ".nq": "nquads",
    ".jsonld": "jsonld",
}  # fmt: skip
_FORMAL_NAMES = frozenset(x for names in FORMALS.values() for x in names)


def content_of(file: str | Path) -> bytes:
    """The bytes of a file.

    Raises:
        InputOutput: ``document-unreadable``.
        Refused: ``document-size``.
    """
    try:
        with open(file, "rb") as stream:
            content = stream.read(LARGEST + 1)
    except OSError as error:
        raise InputOutput(f"{file} cannot be read: {error.strerror}.", code="document-unreadable") from error
    if len(content) > LARGEST:
        raise Refused(f"{file} is larger than {LARGEST:,} bytes.", code="document-size")
    return content


def read_file(file: str | Path, kind: str | None = None) -> Document:
    """A document.

    Args:
        file: its path.
        kind: one of :data:`KINDS`; by the name of the file by default.

    Raises:
        InputOutput: ``document-unreadable``.
        Refused: ``document-size``, ``document-invalid`` where it is not what it claims to be.
        Usage: ``document-kind``, ``extra-missing``.
    """
    chosen = kind or SUFFIXES.get(Path(file).suffix.lower(), "")
    if chosen not in KINDS:
        raise Usage(
            f"{file} is named like no document of PROV; give its kind, one of {', '.join(KINDS)}, or name it *"
            f"{', *'.join(SUFFIXES)}.",
            code="document-kind",
        )
    return read(content_of(file), chosen, str(file))


def read(content: bytes, kind: str, name: str = "the document") -> Document:
    """A document from its bytes. Raises as :func:`read_file`."""
    if kind == "xml":
        return _Xml(name).read(content)
    if kind == "json":
        return read_json(content, name)
    from sparsam.provenance.constraints.rdf_reading import read_rdf

    return read_rdf(content, kind, name)


def invalid(name: str, why: object) -> Refused:
    """The refusal of a document that is not what it claims to be."""
    return Refused(f"{name} cannot be read as PROV: {str(why)[:500]}", code="document-invalid")


# PROV-XML (W3C Note, 30 April 2013)


class _Xml:
    """Takes the parser's events; no document type, no entities, no deep nesting."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.made = Document()
        self.bundles = [""]
        self.spaces: dict[str, list[str]] = defaultdict(list)
        self.stack: list[str] = []
        self.record: dict[str, Any] | None = None
        self.text: list[str] = []
        self.length = 0
        self.formal: str | None = None
        self.qualified = False

    def read(self, content: bytes) -> Document:
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._doctype
        parser.EntityDeclHandler = self._doctype
        parser.StartNamespaceDeclHandler = lambda prefix, uri: self.spaces[prefix or ""].append(uri or "")
        parser.EndNamespaceDeclHandler = lambda prefix: self.spaces[prefix or ""].pop()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._letters
        try:
            parser.Parse(content, True)
        except (expat.ExpatError, ValueError, IndexError, LookupError) as error:
            if isinstance(error, Refused):
                raise
            raise invalid(self.name, error) from error
        return self.made

    def _doctype(self, *rest: object) -> None:
        raise invalid(self.name, "a document type or an entity is declared; PROV-XML has none")

    def _qname(self, text: str) -> str:
        """The IRI of a name with a prefix, in what is declared here."""
        prefix, colon, local = text.strip().partition(":")
        if not colon:
            prefix, local = "", prefix
        if prefix == "_":
            return f"_:{local}"
        uris = self.spaces.get(prefix)
        return f"{uris[-1]}{local}" if uris else text.strip()

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        space, _, local = tag.rpartition(" ")
        self.stack.append(local)
        if len(self.stack) > DEEPEST:
            raise invalid(self.name, f"elements lie more than {DEEPEST} deep in one another")
        own = {key.rpartition(" ")[2]: value for key, value in attributes.items()}
        if len(self.stack) == 1:
            if (space, local) not in ((PROV, "document"), (PROV, "bundleContent")):
                raise invalid(self.name, f"the outermost element is {tag}, not prov:document")
            return
        record = space == PROV and (local in FORMALS or local in SUBTYPES)
        inside = self.record
        holds = inside is not None and inside["element"] == "bundle" and record and len(self.stack) == 3
        if space == PROV and local == "bundleContent" and inside is None:
            self.bundles.append(self._qname(own.get("id", "")))
            self.made.add(self.bundles[-1], ())
        elif holds and inside is not None:  # ProvToolbox calls bundleContent bundle
            self.bundles.append(inside["id"] or "")
            self.made.add(self.bundles[-1], ())
            self.record = None
            self._begin(local, own)
        elif record and inside is None:
            self._begin(local, own)
        elif inside is not None:
            self._part(space, local, own)

    def _begin(self, local: str, own: dict[str, str]) -> None:
        self.record = {
            "element": local, "id": self._qname(own["id"]) if own.get("id") else None, "formal": {}, "types": set(),
            "level": len(self.stack), "more": [], "attributes": [],
        }  # fmt: skip

    def _part(self, space: str, local: str, own: dict[str, str]) -> None:
        """Something within a record: an argument by reference, or a value."""
        assert self.record is not None
        kind = SUBTYPES.get(self.record["element"], (self.record["element"],))[0]
        self.text, self.length = [], 0
        self.formal = f"{space}{local}" if not (space == PROV and local in FORMALS[kind]) else local
        self.qualified = own.get("type", "").endswith("QName")
        if "ref" in own and self.formal == local:
            self._take(local, self._qname(own["ref"]))
            self.formal = None

    def _take(self, local: str, value: str) -> None:
        assert self.record is not None
        given = self.record["formal"]
        if local in given and self.record["element"] == "hadMember":
            self.record["more"].append(value)
        elif local in given:
            raise invalid(self.name, f"{self.record['element']} has {local} twice")
        else:
            given[local] = value

    def _letters(self, data: str) -> None:
        self.length += len(data)
        if self.formal is not None:
            if self.length > LONGEST:
                raise invalid(self.name, f"a value is longer than {LONGEST:,} letters")
            self.text.append(data)

    def _end(self, tag: str) -> None:
        local = self.stack.pop()
        record = self.record
        if record is not None and len(self.stack) == record["level"] - 1:
            self._done(record)
            self.record = None
        elif record is not None and self.formal is not None and len(self.stack) == record["level"]:
            value = "".join(self.text).strip()
            if self.formal in TIMES:
                self._take(self.formal, value)
            elif self.formal == PROV + "type":
                record["types"].add(self._qname(value) if self.qualified or ":" in value else value)
            else:
                record["attributes"].append((self.formal, value))
            self.formal = None
        elif record is None and len(self.bundles) > 1 and local in ("bundle", "bundleContent"):
            self.bundles.pop()

    def _done(self, record: dict[str, Any]) -> None:
        kind, *types = SUBTYPES.get(record["element"], (record["element"],))
        all_types = frozenset(record["types"]) | {PROV + x for x in types}
        values = [record["formal"].get(x) for x in FORMALS[kind]]
        made = [Statement(kind, record["id"], tuple(values), all_types, tuple(record["attributes"]))]
        made += [Statement(kind, None, (values[0], x)) for x in record["more"]]
        self.made.add(self.bundles[-1], made)


# PROV-JSON (W3C Member Submission, 24 April 2013)


def loaded(content: bytes, name: str) -> Any:
    """JSON. Raises Refused ``document-invalid``."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise invalid(name, f"no JSON: {error}") from error


def read_json(content: bytes, name: str) -> Document:
    """PROV-JSON. Raises Refused ``document-invalid``."""
    found = loaded(content, name)
    if not isinstance(found, dict):
        raise invalid(name, "PROV-JSON is an object")
    made = Document()
    made.add("", _instance(found, {}, name))
    bundles = found.get("bundle", {})
    if not isinstance(bundles, dict):
        raise invalid(name, "bundle is an object")
    prefixes = _prefixes(found, {}, name)
    for key, inner in bundles.items():
        if not isinstance(inner, dict):
            raise invalid(name, f"bundle {key!r} is an object")
        made.add(expanded(key, prefixes), _instance(inner, prefixes, name))
    return made


def _prefixes(found: dict[str, Any], outer: dict[str, str], name: str) -> dict[str, str]:
    own = found.get("prefix", {})
    if not isinstance(own, dict) or not all(isinstance(x, str) for x in own.values()):
        raise invalid(name, "prefix is an object of texts")
    return {"prov": PROV, "xsd": "http://www.w3.org/2001/XMLSchema#", **outer, **own}


def expanded(text: str, prefixes: dict[str, str]) -> str:
    """The IRI of a name with a prefix; the name itself where the prefix is not declared."""
    prefix, colon, local = text.partition(":")
    if not colon:
        return prefixes["default"] + text if "default" in prefixes else text
    return text if prefix == "_" else prefixes[prefix] + local if prefix in prefixes else text


def _instance(found: dict[str, Any], outer: dict[str, str], name: str) -> Iterator[Statement]:
    prefixes = _prefixes(found, outer, name)
    for kind, records in found.items():
        if kind in ("prefix", "bundle"):
            continue
        if kind not in FORMALS:
            raise invalid(name, f"{kind!r} is no statement of PROV-JSON")
        if not isinstance(records, dict):
            raise invalid(name, f"{kind} is an object")
        for key, several in records.items():
            for one in several if isinstance(several, list) else [several]:
                if not isinstance(one, dict):
                    raise invalid(name, f"{kind} {key!r} is an object")
                yield from _statements(kind, expanded(key, prefixes), one, prefixes, name)


def _statements(
    kind: str, key: str, one: dict[str, Any], prefixes: dict[str, str], name: str
) -> Iterator[Statement]:
    values: list[str | None] = []
    several: list[str] = []
    for formal in FORMALS[kind]:
        value = one.get("prov:" + formal)
        if isinstance(value, list) and kind == "hadMember" and formal == "entity" and value:
            several = [_text(x, prefixes, name, formal) for x in value]
            value = several.pop(0)
            values.append(value)
        else:
            if isinstance(value, list) and len(value) == 1:
                value = value[0]
            values.append(None if value is None else _text(value, prefixes, name, formal))
    types = one.get("prov:type", [])
    told = frozenset(
        _text(x, prefixes, name, "type") for x in (types if isinstance(types, list) else [types])
    )
    rest = tuple((k, str(v)) for k, v in one.items() if k.removeprefix("prov:") not in _FORMAL_NAMES)
    yield Statement(kind, key, tuple(values), told, rest)
    for value in several:
        yield Statement(kind, None, (values[0], value))


def _text(value: Any, prefixes: dict[str, str], name: str, formal: str) -> str:
    if isinstance(value, dict):
        value = value.get("$")
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise invalid(name, f"{formal} is a text; got {str(value)[:80]}")
    if len(str(value)) > LONGEST:
        raise invalid(name, f"{formal} is longer than {LONGEST:,} letters")
    return str(value) if formal in TIMES else expanded(str(value), prefixes)
