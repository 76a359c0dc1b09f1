"""Normalising one instance: terms, merging by keys and uniqueness, inference that brings in identifiers.

A term is a constant (an identifier or a time, a text), a variable (a number) or the placeholder "-". Merging is by union: a
variable takes any value, two constants have to be the same, and the placeholder is like nothing but itself.
Statements that the inferences add with new identifiers alone (a generation for every entity, a start for every activity, …)
can merge with anything, so of them only that they exist is kept; see :mod:`sparsam.provenance.constraints.ordering`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sparsam.provenance.constraints.statements import FORMALS, NEEDED, TIMES, Statement

NONE = "-"
Term = str | int
KEYED = tuple(x for x in FORMALS if x not in ("specializationOf", "alternateOf", "hadMember", "mentionOf"))
OBJECTS = ("entity", "activity", "agent")
KEPT = {"wasAssociatedWith": ("plan",), "wasDerivedFrom": ("activity", "generation", "usage")}
"""Arguments whose absence means that there is none, so that they are like no value (definitions 1 to 4)."""
UNIQUE = {
    "wasGeneratedBy": (24, ("entity", "activity")),
    "wasInvalidatedBy": (25, ("entity", "activity")),
    "wasStartedBy": (26, ("activity", "starter")),
    "wasEndedBy": (27, ("activity", "ender")),
}
"""Events of which there is one alone for these arguments: the constraint, and the arguments."""
TOOLBOX_UNIQUE = {**UNIQUE, "used": (0, ("activity", "entity"))}
TOOLBOX_KEPT = {**KEPT, "actedOnBehalfOf": ("activity",)}
TOOLBOX_NEEDED = {**NEEDED, "actedOnBehalfOf": ("delegate",)}
"""What ProvToolbox holds beyond the Recommendation, or against it; its test cases of usages and delegations stand on it."""


@dataclass(frozen=True)
class Finding:
    """What is wrong: the constraint's number (0: PROV-DM itself), its name, and the particulars."""

    constraint: int
    name: str
    detail: str
    bundle: str = ""

    def __str__(self) -> str:
        where = f" (bundle {self.bundle})" if self.bundle else ""
        number = f"constraint {self.constraint} ({self.name})" if self.constraint else self.name
        return f"{number}: {self.detail}{where}"


@dataclass
class Row:
    """A statement while it is being merged."""

    kind: str
    id: Term
    arguments: list[Term]
    types: set[str]
    inferred: bool = False


@dataclass
class Instance:
    """An instance in its normal form, as far as it has one."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    findings: dict[Finding, None] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    bound: list[Term] = field(default_factory=list)
    toolbox: bool = False

    # terms

    def fresh(self) -> int:
        """A new variable."""
        self.bound.append(len(self.bound))
        return len(self.bound) - 1

    def find(self, term: Term) -> Term:
        """What a term stands for now."""
        path = []
        while isinstance(term, int) and self.bound[term] != term:
            path.append(term)
            term = self.bound[term]
        for one in path:
            self.bound[one] = term
        return term

    def same(self, first: Term, second: Term) -> bool:
        """Make two terms one; False where that cannot be."""
        a, b = self.find(first), self.find(second)
        if a == b and type(a) is type(b):
            return True
        if isinstance(a, int):
            if b == NONE:
                return False
            self.bound[a] = b
            return True
        if isinstance(b, int):
            return a != NONE and self.same(b, a)
        return False

    def told(self, constraint: int, name: str, detail: str) -> None:
        """Remember what is wrong, once."""
        self.findings.setdefault(Finding(constraint, name, detail))

    # statements

    def add(self, one: Statement) -> None:
        """Expand the short forms (definitions 1 to 4)."""
        needed = (TOOLBOX_NEEDED if self.toolbox else NEEDED).get(one.kind, ())
        if missing := [x for x in needed if one.arguments[FORMALS[one.kind].index(x)] is None]:
            self.told(0, "PROV-DM", f"{one} lacks its {', '.join(missing)}")
            return
        if one.kind in OBJECTS and one.id is None:
            self.told(0, "PROV-DM", f"{one} lacks its identifier")
            return
        names = FORMALS[one.kind]
        kept = (TOOLBOX_KEPT if self.toolbox else KEPT).get(one.kind, ())
        if one.kind == "wasDerivedFrom" and one.arguments[2] is not None:
            kept = ()
        arguments: list[Term] = []
        for name, value in zip(names, one.arguments, strict=True):
            if value is None:
                arguments.append(NONE if name in kept else self.fresh())
            elif name in TIMES:
                arguments.append(_time(value))
            else:
                arguments.append(self._term(value))
        self.rows.setdefault(one.kind, []).append(
            Row(one.kind, self.fresh() if one.id is None else self._term(one.id), arguments, set(one.types))
        )

    def _term(self, value: str) -> Term:
        if not value.startswith("_:"):
            return value
        if value not in self.names:
            self.names[value] = self.fresh()
        return self.names[value]

    def of(self, kind: str) -> list[Row]:
        """Its statements."""
        return self.rows.get(kind, [])

    def normalise(self) -> None:
        """Merge and infer until nothing changes."""
        self._infer_once()
        while self._merged():
            pass

    def _merged(self) -> bool:
        before = (sum(map(len, self.rows.values())), len(self.findings), self._free())
        for kind in KEYED:
            self._merge_by_id(kind)
        for kind, (number, names) in (TOOLBOX_UNIQUE if self.toolbox else UNIQUE).items():
            self._merge_unique(kind, number, names)
        self._times("wasStartedBy", 0, 28, "unique-startTime")
        self._times("wasEndedBy", 1, 29, "unique-endTime")
        self._influences()
        self._mentions()
        return before != (sum(map(len, self.rows.values())), len(self.findings), self._free())

    def _free(self) -> int:
        return sum(1 for at, x in enumerate(self.bound) if x == at and isinstance(x, int))

    def _merge_by_id(self, kind: str) -> None:
        first: dict[Term, Row] = {}
        for row in self.of(kind):
            key = self.find(row.id)
            other = first.setdefault(key, row)
            if other is not row:
                self._merge(other, row, 22 if kind in OBJECTS else 23)
        if len(first) < len(self.of(kind)):
            self.rows[kind] = list(first.values())

    def _merge(self, kept: Row, other: Row, constraint: int) -> None:
        name = "key-object" if constraint == 22 else "key-properties"
        for formal, a, b in zip(FORMALS[kept.kind], kept.arguments, other.arguments, strict=True):
            if not self.same(a, b):
                self.told(
                    constraint,
                    name,
                    f"{kept.kind} {self.said(kept.id)} has two values for {formal}: {self.said(a)} and {self.said(b)}",
                )
        kept.types |= other.types
        kept.inferred &= other.inferred

    def _merge_unique(self, kind: str, constraint: int, names: tuple[str, ...]) -> None:
        at = [FORMALS[kind].index(x) for x in names]
        first: dict[tuple[Term, ...], Row] = {}
        for row in self.of(kind):
            other = first.setdefault(tuple(self.find(row.arguments[x]) for x in at), row)
            if other is not row and not self.same(other.id, row.id):
                told = " and ".join(
                    f"{name} {self.said(row.arguments[x])}" for name, x in zip(names, at, strict=True)
                )
                name = {"wasGeneratedBy": "generation", "wasInvalidatedBy": "invalidation"}.get(kind, kind)
                self.told(
                    constraint,
                    f"unique-{name}" if constraint else "ProvToolbox, unique-usage",
                    f"{self.said(other.id)} and {self.said(row.id)} are two of {kind} for {told}",
                )  # fmt: skip

    def _times(self, kind: str, formal: int, constraint: int, name: str) -> None:
        activities = {self.find(x.id): x for x in self.of("activity")}
        for row in self.of(kind):
            one = activities.get(self.find(row.arguments[0]))
            if one is not None and not self.same(one.arguments[formal], row.arguments[3]):
                self.told(
                    constraint, name,
                    f"activity {self.said(one.id)} says {self.said(one.arguments[formal])}, its {kind} {self.said(row.id)} "
                    f"{self.said(row.arguments[3])}",
                )  # fmt: skip

    def _influences(self) -> None:
        """Inference 15 with constraint 23: a relation is an influence of the same identifier."""
        first: dict[Term, tuple[str, Term, Term]] = {}
        for kind in KEYED[3:]:
            for row in self.of(kind):
                key = self.find(row.id)
                if isinstance(key, int):
                    continue
                two = row.arguments[0], row.arguments[1]
                other = first.setdefault(key, (kind, *two))
                if not (self.same(other[1], two[0]) and self.same(other[2], two[1])):
                    self.told(
                        23, "key-properties",
                        f"{key} is an influence of {self.said(other[2])} on {self.said(other[1])} ({other[0]}), and of "
                        f"{self.said(two[1])} on {self.said(two[0])} ({kind})",
                    )  # fmt: skip

    def _mentions(self) -> None:
        """PROV-LINKS: an entity is the mention of one entity in one bundle."""
        first: dict[Term, Row] = {}
        for row in self.of("mentionOf"):
            other = first.setdefault(self.find(row.arguments[0]), row)
            for a, b in zip(other.arguments, row.arguments, strict=True):
                if not self.same(a, b):
                    self.told(
                        0, "PROV-LINKS, unique-mention",
                        f"{self.said(row.arguments[0])} mentions both {self.said(a)} and {self.said(b)}",
                    )  # fmt: skip

    def _infer_once(self) -> None:
        """Inferences 9, 10 and 11, which bring known identifiers together; and a mention is a specialization (PROV-LINKS)."""
        for kind in ("wasStartedBy", "wasEndedBy"):
            for row in self.of(kind):
                self._put("wasGeneratedBy", self.fresh(), [row.arguments[1], row.arguments[2], self.fresh()])
        for row in self.of("wasDerivedFrom"):
            made, source, activity, generation, usage = row.arguments
            if NONE not in (activity, generation, usage):
                self._put("used", usage, [activity, source, self.fresh()])
                self._put("wasGeneratedBy", generation, [made, activity, self.fresh()])
        for row in self.of("mentionOf"):
            self._put("specializationOf", self.fresh(), row.arguments[:2])

    def _put(self, kind: str, name: Term, arguments: list[Term]) -> None:
        self.rows.setdefault(kind, []).append(Row(kind, name, arguments, set(), inferred=True))

    def said(self, term: Term) -> str:
        """For people."""
        found = self.find(term)
        return f"_:{found}" if isinstance(found, int) else "none" if found == NONE else found


def instance(statements: Iterable[Statement], *, toolbox: bool = False) -> Instance:
    """Of statements, normalised; with ``toolbox`` as ProvToolbox would have it."""
    made = Instance(toolbox=toolbox)
    for one in statements:
        made.add(one)
    made.normalise()
    return made


def _time(text: str) -> str:
    """The same text for the same moment; a time without a zone is its own."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return text.strip()
    return (moment.astimezone(UTC) if moment.tzinfo else moment).isoformat()
