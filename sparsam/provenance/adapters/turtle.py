"""Reading Turtle as PROV-IO writes it: literals as subjects, relative IRIs, and files into which several ranks wrote at once.

PROV-IO's ranks write one file in pieces, so that a block (a subject with its lines) may be torn apart by the text of another
rank. A block's name ends in a UUID of version 1, whose last groups are the same for all of a process: by them the halves of a
torn block are put together again. What cannot be put together is named, with the statements in front of the tear kept. Where a
half fits behind another rank's by chance, the block behind it is of a rank that did not begin there: such a block is left out
and named, for its values may be another's.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

from sparsam.errors import Refused
from sparsam.provenance.log import Damage
from sparsam.provenance.rdf import Iri, Triple, Typed, oxigraph
from sparsam.provenance.terms import RDF_TYPE

BASE = "prov-io://file/"
"""What relative IRIs are taken against."""
LONGEST = 1 << 20
"""Letters of one token."""
TRIES = 16
"""Second halves that are tried behind a first."""
BUFFER = 4096
"""Bytes after which C's library hands a text that is written on to the system: where ranks' texts are cut."""
MOST = 1000
"""Damages that are told one by one."""
_TOKEN = re.compile(
    r"""[ \t\r\n]*(?:\#[^\n]*\n[ \t\r\n]*)*(?:
    (?P<iri><[^<>"{}|^`\\\x00-\x20]*>)
    | (?P<text>"(?:[^"\\\n]|\\.)*")
      (?:\^\^(?P<type><[^<>"\s]*>|[A-Za-z][\w-]*:[\w-]*)
      |@(?P<lang>[A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*)(?![A-Za-z0-9-]))?
    | (?P<blank>_:[\w-]+)
    | (?P<name>(?:[A-Za-z][\w-]*)?:(?:[\w-](?:[\w.-]*[\w-])?)?)
    | (?P<number>[+-]?\d+(?:\.\d+)?(?![\w.]))
    | (?P<a>a)(?=[\s<])
    | (?P<mark>[;,.])
    )""",
    re.VERBOSE,
)
_PREFIX = re.compile(
    r"@prefix[ \t]+([\w-]*):[ \t]+<([^<>\n]*)>[ \t]*\.|PREFIX[ \t]+([\w-]*):[ \t]+<([^<>\n]*)>"
)
_START = re.compile(r'^(?=[<"])|^(?=_:)|@prefix', re.MULTILINE)
_PROCESS = re.compile(r"-([0-9a-f]{4}-[0-9a-f]{12})>")
_NAMED = re.compile(r"(?:(?!--)[\w.+-])*--[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "'": "'", "b": "\b", "f": "\f"}
_WORDS = frozenset(
    (
        "type", "ofType", "wasMemberOf", "actedOnBehalfOf", "wasAssociatedWith", "wasAttributedTo", "wasCreatedBy",
        "wasOpenedBy", "wasReadBy", "wasWrittenBy", "wasFlushedBy", "wasModifiedBy", "wasGeneratedBy",
        "wasCommittedBy", "wasDerivedFrom", "startedAtTime", "endedAtTime", "used", "elapsed", "hasConfig",
        "hasAccuracy", "hasMetric",
    )
)  # fmt: skip


_RELATION = re.compile(rf"<(?:prov|provio):(?:{'|'.join(sorted(_WORDS))})>")


@dataclass
class Recovery:
    """What could be read of a file, and what not."""

    triples: list[Triple] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    joined: int = 0
    """Blocks whose halves lay apart."""


@dataclass
class _Piece:
    """Text that is no whole block."""

    at: int
    text: str
    process: str | None
    said: list[Triple]


class _Torn(Exception):
    def __init__(self, at: int, why: str, said: list[Triple]) -> None:
        super().__init__(why)
        self.at, self.said = at, said


def recovered(content: bytes, name: str) -> Recovery:
    """All statements in front of, between and behind damages; see the module.

    Raises:
        Refused: ``document-invalid`` where there is no statement at all.
        Usage: ``extra-missing``.
    """
    return _Reader(content.decode("utf-8", "replace"), name).read()


class _Reader:
    def __init__(self, text: str, name: str) -> None:
        self.text, self.name = text, name
        self.prefixes: dict[str, str] = {}
        self.ox = oxigraph()
        self.checked: set[str] = set()
        self.made = Recovery()
        self.tails: list[_Piece] = []
        self.heads: list[_Piece] = []
        self.damaged: list[tuple[int, int, str]] = []
        self.waiting: list[_Piece] = []  # second halves of which the next block tells whose they are
        self.process: str | None = None  # of the block before
        self.before: tuple[int, int, int] | None = (
            None  # its place, and where its statements begin, if nothing was torn since
        )
        self.piece = 0  # where a rank's text begins
        self.several = len(_PREFIX.findall(text)) > len(set(_PREFIX.findall(text)))

    def read(self) -> Recovery:
        at = 0
        while at < len(self.text):
            if self.text[at] in " \t\r\n" and (at == 0 or not self._fragment(at)):
                at += 1
            elif match := _PREFIX.match(self.text, at):
                self.prefixes[match[1] or match[3] or ""] = match[2] or match[4] or ""
                self.piece, self.before, at = at, None, match.end()
            elif self.text[at] == "#":
                at = (self.text.find("\n", at) + 1) or len(self.text)
            elif self.text[at] in '<"_' and not _RELATION.match(self.text, at):
                at = self._block(at)
            else:
                end = self._next(at)
                self._half(at, end)
                at = end
        self._join()
        if not self.made.triples:
            raise Refused(f"{self.name} holds no statement in Turtle.", code="document-invalid")
        return self.made

    def _fragment(self, at: int) -> bool:
        """A line that begins with a space, outside of a block, is the second half of something."""
        if self.text[at] not in " \t" or self.text[at - 1] != "\n":
            return False
        return bool(self.text[at : self.text.find("\n", at) % (len(self.text) + 1)].strip())

    def _next(self, at: int) -> int:
        match = _START.search(self.text, at + 1)
        return match.start() if match else len(self.text)

    def _half(self, at: int, end: int) -> None:
        """The second half of a block, with which a rank's text goes on."""
        self.heads.append(_Piece(at, self.text[at:end], None, []))
        self.waiting.append(self.heads[-1])
        self.piece, self.before = at, None

    def _cut(self, at: int) -> int:
        """Where, behind a place, the buffer of the rank that writes here was full."""
        return self.piece + BUFFER * ((at - self.piece) // BUFFER + 1)

    def _block(self, at: int) -> int:
        line = self.text[at : self.text.find("\n", at) % (len(self.text) + 1)]
        found = _PROCESS.search(line)
        process = found[1] if found else self.process
        if self.several and self.before is not None and process != self.process:
            if at < self._cut(self.before[0]) <= at + len(line):  # the name itself is of two halves
                end = self._next(at)
                self._torn(at, end, self.process, [])
                return end
            self._doubtful(*self.before, at)
        for head in self.waiting:
            head.process = process
        self.waiting = [] if process else self.waiting
        try:
            triples, end = self._parse(self.text, at)
        except _Torn as torn:
            end = self._next(at)
            self._torn(at, end, process, torn.said)
            return end
        self.before = (at, end, len(self.made.triples))
        self.made.triples += triples
        self.process = process
        return end

    def _torn(self, at: int, end: int, process: str | None, said: list[Triple]) -> None:
        """The first half of a block, and the second of another where a full buffer tells that it begins in here."""
        cut = self._cut(at)
        if self.several and at < cut < end:
            try:
                said = self._parse(self.text[at:cut], 0)[0]
            except _Torn as torn:
                said = torn.said
            self._half(cut, end)
        else:
            cut = end
        self.tails.append(_Piece(at, self.text[at:cut], process, said))
        self.before = None

    def _doubtful(self, at: int, end: int, count: int, following: int) -> None:
        """Another rank's block lies behind one that seemed whole: its end may be that rank's, unless a buffer ended there."""
        cut = self._cut(at)
        if end <= cut <= following:
            self.piece = cut
            return
        left = self.made.triples[count:]
        del self.made.triples[count:]
        if at < cut < end:
            self._torn(at, following, self.process, [])
            return
        why = f"a block of {len(left)} statements may hold another rank's; it is left out"
        self._damage(_Piece(at, self.text[at:following], None, []), why)

    def _join(self) -> None:
        """Halves of the same process, in order."""
        waiting: dict[str | None, list[_Piece]] = defaultdict(list)
        for head in self.heads:
            waiting[head.process].append(head)
        for tail in self.tails:
            mine = waiting.get(tail.process) if tail.process else None
            joined = None
            for head in (mine or [])[:TRIES]:
                try:
                    joined = self._parse(tail.text + head.text, 0)
                except _Torn:
                    continue
                if mine is not None:
                    mine.remove(head)
                break
            if joined is None:
                self.made.triples += tail.said
                self._damage(tail, f"a block is torn; {len(tail.said)} of its statements were read")
            else:
                self.made.joined += 1
                self.made.triples += joined[0]
        for left in waiting.values():
            for head in left:
                self._damage(head, "the second half of a block whose first half is not there")
        self._tell()

    def _damage(self, piece: _Piece, why: str) -> None:
        self.damaged.append((piece.at, len(piece.text.encode()), why))

    def _tell(self) -> None:
        """The damages in their order, each with its line; beyond the first thousand only how many."""
        at, line, offset = 0, 1, 0
        self.damaged.sort()
        for where, size, why in self.damaged[:MOST]:
            between = self.text[at:where]
            at, line, offset = where, line + between.count("\n"), offset + len(between.encode())
            self.made.damages.append(Damage(self.name, offset, f"line {line}: {why}", size))
        if more := self.damaged[MOST:]:
            left = sum(size for _, size, _ in more)
            self.made.damages.append(
                Damage(self.name, offset, f"and {len(more)} damages more behind it", left)
            )

    # a block

    def _parse(self, text: str, at: int) -> tuple[list[Triple], int]:
        said: list[Triple] = []
        begin = at
        subject, at = self._token(text, at, said, literals=True)
        local = subject.removeprefix(BASE)
        odd = len(local.split("--")[-1]) > 30 or (self.several and local.startswith("H5"))
        if isinstance(subject, Iri) and odd and not _NAMED.fullmatch(local):
            raise _Torn(begin, "two names in one", said)
        if not isinstance(subject, Iri):
            subject = Iri(f"{BASE}literal/{quote(str(subject), safe='')}")
        while True:
            predicate, at = self._token(text, at, said)
            if not isinstance(predicate, Iri) or not _known(predicate):
                raise _Torn(at, f"no relation: {str(predicate)[:60]}", said)
            while True:
                value, at = self._token(text, at, said, literals=True)
                mark = _TOKEN.match(text, at)
                if mark is None or mark["mark"] is None:
                    raise _Torn(at, "a statement does not end", said)
                said.append((subject, predicate, value))
                at = mark.end()
                if mark["mark"] != ",":
                    break
            if mark["mark"] == ".":
                return said, at

    def _token(
        self, text: str, at: int, said: list[Triple], literals: bool = False
    ) -> tuple[Iri | Typed | str, int]:
        match = _TOKEN.match(text, at)
        if match is None or match["mark"] or match.end() - match.start() > LONGEST:
            raise _Torn(at, "nothing that Turtle has", said)
        end = match.end()
        if match["iri"]:
            return self._iri(match["iri"][1:-1], at, said), end
        if match["blank"]:
            return Iri(match["blank"]), end
        if match["a"]:
            return Iri(RDF_TYPE), end
        if match["name"]:
            return self._named(match["name"], at, said), end
        if not literals:
            raise _Torn(at, "a literal where a name is due", said)
        if match["number"]:
            kind = "decimal" if "." in match["number"] else "integer"
            return Typed(match["number"], f"http://www.w3.org/2001/XMLSchema#{kind}"), end
        raw = re.sub(r"\\(.)", lambda x: _ESCAPES.get(x[1], x[0]), match["text"][1:-1])
        if match["lang"]:
            return Typed(raw, language=match["lang"]), end
        if match["type"]:
            kind = match["type"]
            return Typed(
                raw, self._iri(kind[1:-1], at, said) if kind[0] == "<" else self._named(kind, at, said)
            ), end
        return raw, end

    def _named(self, name: str, at: int, said: list[Triple]) -> Iri:
        prefix, _, local = name.partition(":")
        if prefix not in self.prefixes:
            raise _Torn(at, f"prefix {prefix!r} is not declared", said)
        return self._iri(self.prefixes[prefix] + local, at, said)

    def _iri(self, text: str, at: int, said: list[Triple]) -> Iri:
        if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text):
            text = BASE + text.lstrip("/") if not text.startswith("/") else BASE.rstrip("/") + text
        if text not in self.checked:
            try:
                self.ox.NamedNode(text)
            except ValueError as error:
                raise _Torn(at, f"no IRI: {text[:60]}", said) from error
            self.checked.add(text)
        return Iri(text)


def _known(predicate: str) -> bool:
    """A relation may be garbled by a tear; what PROV-IO writes is known, and other vocabularies have whole addresses."""
    if predicate.startswith(("prov:", "provio:")):
        return predicate.partition(":")[2] in _WORDS
    return predicate.startswith(("http://", "https://", "urn:"))


def blocks(triples: list[Triple]) -> Iterator[tuple[str, dict[str, list[Iri | Typed | str]]]]:
    """By subject: predicate, values."""
    made: dict[str, dict[str, list[Iri | Typed | str]]] = {}
    for subject, predicate, value in triples:
        made.setdefault(subject, {}).setdefault(predicate, []).append(value)
    yield from made.items()
