"""PROV-IO's graphs as histories, and histories in PROV-IO's words.

PROV-IO writes two vocabularies: programs, calls and data objects (``<prov:wasMemberOf>``, ``<prov:wasReadBy>``, …; its C
library), and records of settings with the accuracy they led to (``mls#Name``, ``Value``, ``Version``, ``Quality``; its Python
library). Times have no zone: the UUIDs in the names of calls tell the moment in UTC; where there is none the text is taken as
UTC. Durations are microseconds.
"""

import ast
import hashlib
import re
import uuid
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from sparsam.provenance.adapters.turtle import BASE, Recovery, blocks
from sparsam.provenance.graph import Call, Entity, History, Program
from sparsam.provenance.index import Recorded
from sparsam.provenance.log import Writer
from sparsam.provenance.rdf import Iri, Triple, Typed, oxigraph, quads, text
from sparsam.provenance.terms import PREFIXES, RELATIONS, XSD

MLS = "https://www.w3.org/ns/mls#"
WORDS = {
    "wasCreatedBy": "create", "wasGeneratedBy": "create", "wasCommittedBy": "create", "wasOpenedBy": "open",
    "wasReadBy": "read", "wasWrittenBy": "write", "wasFlushedBy": "fsync", "wasModifiedBy": "rename",
}  # fmt: skip
"""Relation from a data object to a call: the kind of call."""
VERBS = (
    ("create", "create"), ("commit", "create"), ("open", "open"), ("read", "read"), ("write", "write"), ("flush", "fsync"),
    ("fsync", "fsync"), ("rename", "rename"),
)  # fmt: skip
LETTERS = {"A": "attribute", "D": "dataset", "G": "group", "T": "datatype", "F": "file", "L": "link"}
"""Of HDF5's functions (H5Dwrite): what they are about."""
GREGORIAN = 0x01B21DD213814000
"""Of 1970, in the hundreds of nanoseconds since 1582 that UUIDs count."""
_FUNCTION = re.compile(r"H5([ADGTFL])([a-z]+)")
_PROCESS = re.compile(r"-([0-9a-f]{4}-[0-9a-f]{12})$")


def read(found: Recovery, name: str) -> History:
    """The history that PROV-IO's statements tell of.

    Args:
        found: a file, read.
        name: of the import; it becomes the run.
    """
    made = _Reader(name)
    for subject, facts in blocks(found.triples):
        made.facts[subject] = facts
    made.agents()
    made.objects()
    made.calls()
    made.records()
    made.history.foreign = list(found.triples)
    made.history.damages = tuple(found.damages)
    return made.history


def _local(name: str) -> str:
    return name.removeprefix(BASE) if name.startswith(BASE) else name


def when(value: str) -> int:
    """Nanoseconds of a time as PROV-IO writes it (``10/13/2021 19:9:28``); 0 for anything else."""
    match = re.fullmatch(r"(\d{1,2})/(\d{1,2})/(\d{4}) (\d{1,2}):(\d{1,2}):(\d{1,2})", value)
    if not match:
        return 0
    month, day, year, hour, minute, second = map(int, match.groups())
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        return int(moment.timestamp()) * 1_000_000_000
    except ValueError:
        return 0


def named_moment(name: str) -> int:
    """Nanoseconds of the time in a UUID of version 1, which is UTC and exact; 0 for any other name."""
    try:
        found = uuid.UUID(name)
    except ValueError:
        return 0
    return (found.time - GREGORIAN) * 100 if found.version == 1 and found.time > GREGORIAN else 0


class _Reader:
    def __init__(self, name: str) -> None:
        self.name = name
        self.facts: dict[str, dict[str, list[Any]]] = {}
        self.history = History()
        self.of: dict[str, str] = {}  # subject: id
        self.found_in: dict[str, list[tuple[str, str]]] = defaultdict(list)  # call: (kind, entity)

    def id(self, kind: str, subject: str) -> str:
        """Stable, of a node of this import."""
        return f"{kind}-" + hashlib.sha256(f"{self.name}\0{subject}".encode()).hexdigest()[:24]

    def values(self, subject: str, word: str) -> list[str]:
        """What a relation leads to, by the word behind its prefix."""
        own = self.facts.get(subject, {})
        return [
            str(x)
            for scheme in ("prov:", "provio:", "http://www.w3.org/ns/prov#", "http://www.w3.org/ns/provio#")
            for x in own.get(scheme + word, ())
        ]

    def member(self, subject: str) -> str:
        """The last word of its class: User, Thread, Program, Create, Dataset and so on."""
        for value in self.values(subject, "wasMemberOf"):
            return value.replace("#", ":").rpartition(":")[2]
        return ""

    def program(self, subject: str, shown: str) -> Program:
        """A program of that name, made if it is not there."""
        key = self.id("program", subject)
        if key not in self.history.programs:
            self.of[subject] = key
            facts: dict[str, Any] = {"argv": [shown]}
            self.history.programs[key] = Program(key, Writer("imported", 0, 0), self.name, facts)
        return self.history.programs[key]

    def agents(self) -> None:
        for subject in self.facts:
            if self.member(subject) == "Program":
                one = self.program(subject, _local(subject).partition("--")[0])
                for thread in self.values(subject, "actedOnBehalfOf"):
                    if self.member(thread) == "Thread":
                        one.facts["rank"] = re.sub(r"^MPI_rank_", "", _local(thread))
                        users = self.values(thread, "actedOnBehalfOf")
                    else:
                        users = [thread]
                    for user in users:
                        one.facts["user"] = _local(user)
                one.began = min(map(when, self.values(subject, "startedAtTime")), default=0)
                ends = list(map(when, self.values(subject, "endedAtTime")))
                one.ended = max(ends) if ends else None

    def objects(self) -> None:
        for subject in self.facts:
            links = [(kind, x) for word, kind in WORDS.items() for x in self.values(subject, word)]
            kind = self.member(subject).lower()
            if not links and kind not in (*LETTERS.values(), "directory"):
                continue
            kind = kind if kind in (*LETTERS.values(), "directory") else "file"
            path = _local(subject)
            path = path if path.startswith("/") or kind == "attribute" else "/" + path
            made = Entity(self.id("entity", subject), kind, path, "imported", 0, 0, [path])
            for program in self.values(subject, "wasAttributedTo"):
                made.by = self.of.get(program) or self.program(program, _local(program)).id
                made.generation = 1
            self.history.entities[made.id] = made
            self.of[subject] = made.id
            for relation, call in links:
                self.found_in[call].append((relation, made.id))
        for subject in self.facts:
            for source in self.values(subject, "wasDerivedFrom"):
                if subject in self.of and source in self.of:
                    derived = self.history.entities[self.of[subject]].derived
                    derived[:] = dict.fromkeys([*derived, self.of[source]])

    def calls(self) -> None:
        for subject in list(self.facts):
            own = self.values(subject, "ofType") + self.values(subject, "type")
            if "prov:Activity" in own or "http://www.w3.org/ns/prov#Activity" in own:
                self.call(subject)

    def call(self, subject: str) -> None:
        function, _, rest = _local(subject).partition("--")
        match = _FUNCTION.match(function)
        programs = self.values(subject, "wasAssociatedWith")
        if programs:
            program = self.program(programs[0], _local(programs[0]).partition("--")[0])
        else:  # all that is known of who called is in the name's UUID
            process = _PROCESS.search(rest)
            shown = f"process {process[1]}" if process else "unknown"
            program = self.program(shown, shown)
        verb = self.member(subject).lower() or function.lower()
        kind = next((kind for word, kind in VERBS if word in verb), None)
        on = self.found_in.get(subject)
        if on is None and kind is None:
            return
        if on is None:
            what = LETTERS[match[1]] if match else "file"
            key = self.id("entity", f"{program.id} {what}")
            shown = f"({what}, not named)"
            self.history.entities.setdefault(key, Entity(key, what, shown, "imported", 0, 0, [shown]))
            on = [(str(kind), key)]
        elapsed = [float(x) for x in self.values(subject, "elapsed") if re.fullmatch(r"\d+(\.\d+)?", x)]
        moment = named_moment(rest) or max(map(when, self.values(subject, "startedAtTime")), default=0)
        for relation, entity in on:
            key4 = (relation, program.id, entity, None)
            one = self.history.calls.setdefault(key4, Call(relation, program.id, entity, None, first=moment))
            one.count += 1
            one.seconds += sum(elapsed) / 1e6
            one.first, one.last = min(one.first, moment), max(one.last, moment)
        if moment:
            program.began = min(program.began or moment, moment)

    def records(self) -> None:
        """Settings with what they led to: one program for each version and time."""
        for subject, facts in self.facts.items():
            names = facts.get(MLS + "Name", ())
            if not names:
                continue
            version = str(next(iter(facts.get(MLS + "Version", ())), ""))
            stamp = _stamp(subject)
            run = " ".join(x for x in (self.name, version, stamp) if x)
            one = self.program(f"record {version} {stamp}", f"version {version}" if version else "record")
            one.run = run
            one.began = _stamp_time(stamp)
            values = sorted(map(str, facts.get(MLS + "Value", ())))
            one.configuration[str(names[0])] = values[0] if len(values) == 1 else values
            known = {(name, value) for _, name, value, _ in one.metrics}
            for value in sorted(map(_number, facts.get(MLS + "Quality", ())), key=str):
                if ("Quality", value) not in known:
                    one.metrics.append((one.began, "Quality", value, None))


def _stamp(subject: str) -> str:
    from urllib.parse import unquote

    try:
        name = ast.literal_eval(unquote(subject.rpartition("/")[2]))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ""
    return str(name[1]) if isinstance(name, list) and len(name) > 1 else ""


def _stamp_time(stamp: str) -> int:
    try:
        return int(datetime.fromisoformat(stamp).replace(tzinfo=UTC).timestamp() * 1e6) * 1000
    except ValueError:
        return 0


def _number(value: Any) -> float | str:
    try:
        return float(value)
    except ValueError:
        return str(value)


# ours in their words


def as_provio(found: Recorded) -> bytes:
    """Turtle that PROV-IO's own questions understand, beside ours: every setting with the accuracy it led to.

    Quality is the run's metric called accuracy or Quality, else the last that it recorded; Version the setting called version,
    else the name of the run. Data objects and calls carry PROV-IO's relations (``prov:wasReadBy``, …) under the address of its
    samples, too.
    """
    ox = oxigraph()
    extra: list[Triple] = []
    for number, one in enumerate(found.programs.values()):
        own = {key.lower(): key for key in one.configuration}
        version = str(one.configuration[own["version"]]) if "version" in own else one.run
        metrics = [x for x in one.metrics if isinstance(x[2], int | float) and not isinstance(x[2], bool)]
        chosen = [x for x in metrics if x[1].lower() in ("accuracy", "quality")] or metrics
        for at, (name, value) in enumerate(one.configuration.items()):
            node = f"urn:sparsam:prov-io:{number}-{at}"
            extra.append((node, MLS + "Name", text(name)))
            for part in value if isinstance(value, list) else [value]:
                extra.append((node, MLS + "Value", text(str(part))))
            extra.append((node, MLS + "Version", text(version)))
            extra += [(node, MLS + "Type", text(x)) for x in one.types or ["Configuration"]]
            if chosen:
                extra.append((node, MLS + "Quality", Typed(repr(float(chosen[-1][2])), XSD + "double")))
    for quad in quads(found):
        word = quad.predicate.value.rpartition("#")[2]
        if word in RELATIONS.values():
            extra.append((quad.subject.value, "prov:" + word, Iri(quad.object.value)))
    more = History(foreign=extra)
    triples = [x.triple for x in (*quads(found), *quads(more))]
    made: bytes = ox.serialize(triples, format=ox.RdfFormat.TURTLE, prefixes={**PREFIXES, "ns1": MLS})
    return made
