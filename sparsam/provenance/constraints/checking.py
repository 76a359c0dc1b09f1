"""Checking a document: what follows from its normal form is held against constraints 50 to 56, and the order of events."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sparsam.provenance.constraints.instance import KEYED, NONE, OBJECTS, Finding, Instance, Term, instance
from sparsam.provenance.constraints.ordering import circles
from sparsam.provenance.constraints.reading import read_file
from sparsam.provenance.constraints.statements import FORMALS, PROV, Document, Statement

EMPTY, COLLECTION = PROV + "EmptyCollection", PROV + "Collection"
TYPED: dict[str, tuple[str, ...]] = {
    "wasGeneratedBy": ("entity", "activity", ""), "used": ("activity", "entity", ""), "wasInformedBy": ("activity", "activity"),
    "wasStartedBy": ("activity", "entity", "activity", ""), "wasEndedBy": ("activity", "entity", "activity", ""),
    "wasInvalidatedBy": ("entity", "activity", ""), "wasDerivedFrom": ("entity", "entity", "activity", "", ""),
    "wasAttributedTo": ("entity", "agent"), "wasAssociatedWith": ("activity", "agent", "entity"),
    "actedOnBehalfOf": ("agent", "agent", "activity"), "specializationOf": ("entity", "entity"),
    "alternateOf": ("entity", "entity"), "hadMember": ("entity", "entity"), "mentionOf": ("entity", "entity", "entity"),
}  # fmt: skip
"""Constraint 50: the types of arguments."""
APART = tuple(x for x in KEYED[3:] if x not in ("wasDerivedFrom", "wasInfluencedBy"))
"""Constraint 53: no two of these share an identifier."""
MOST = 1000


@dataclass(frozen=True)
class Report:
    """What was found in a document."""

    findings: tuple[Finding, ...]
    statements: int
    instances: int

    @property
    def valid(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def check_file(file: str | Path, kind: str | None = None, *, toolbox: bool = False) -> Report:
    """Read a document (:func:`sparsam.provenance.constraints.reading.read_file`) and check it."""
    return check(read_file(file, kind), toolbox=toolbox)


def check(document: Document, *, toolbox: bool = False) -> Report:
    """Each instance by itself; of what is wrong at most the first thousand.

    Args:
        document: what to check.
        toolbox: as ProvToolbox reads it rather than by the Recommendation: an activity uses an entity once, and a delegation
            without an activity is another than one with it, while it may lack whom it is for.
    """
    findings: list[Finding] = []
    for bundle, statements in document.instances.items():
        findings += [replace(x, bundle=bundle) for x in _check(statements, toolbox)]
    total = sum(map(len, document.instances.values()))
    return Report(tuple(findings[:MOST]), total, len(document.instances))


def _check(statements: list[Statement], toolbox: bool) -> list[Finding]:
    found = instance(statements, toolbox=toolbox)
    order = _specializations(found)
    entities = _inherit(found, order)
    for step in (_types, _identifiers, _derivations):
        for one in step(found):
            found.told(*one)
    for one in circles(found, entities):
        found.told(*one)
    return list(found.findings)


def _specializations(found: Instance) -> dict[Term, set[Term]]:
    """General entity: what specialises it directly; constraint 52 on the way (with inference 19, no circle)."""
    down: dict[Term, set[Term]] = defaultdict(set)
    for row in found.of("specializationOf"):
        specific, general = map(found.find, row.arguments)
        down[general].add(specific)
    state: dict[Term, int] = {}
    for root in list(down):
        work = [(root, iter(down.get(root, ())))] if root not in state else []
        state.setdefault(root, 1)
        while work:
            node, following = work[-1]
            step = next(following, None)
            if step is None:
                state[node] = 2
                work.pop()
            elif state.get(step) == 1:
                found.told(
                    52,
                    "impossible-specialization-reflexive",
                    f"{found.said(step)} is a specialization of itself",
                )
            elif step not in state:
                state[step] = 1
                work.append((step, iter(down.get(step, ()))))
    return down


def _inherit(found: Instance, down: dict[Term, set[Term]]) -> set[Term]:
    """Inference 21: what is said of the general entity is said of the specific one. All that are stated to be entities."""
    types: dict[Term, set[str]] = defaultdict(set)
    for row in found.of("entity"):
        types[found.find(row.id)] |= row.types
    front = [x for x in down if x in types]
    while front:
        node = front.pop()
        for specific in down.get(node, ()):
            if specific not in types or not types[node] <= types[specific]:
                types[specific] |= types[node]
                front.append(specific)
    rows = {found.find(x.id): x for x in found.of("entity")}
    for term, more in types.items():
        if term in rows:
            rows[term].types |= more
    return set(types)


def _types(found: Instance) -> Iterator[tuple[int, str, str]]:
    known: dict[Term, dict[str, str]] = defaultdict(dict)
    for kind in OBJECTS:
        for row in found.of(kind):
            known[found.find(row.id)].setdefault(kind, "stated")
    empty = {found.find(x.id) for x in found.of("entity") if EMPTY in x.types}
    for kind, roles in TYPED.items():
        for row in found.of(kind):
            for role, formal, term in zip(roles, FORMALS[kind], row.arguments, strict=True):
                one = found.find(term)
                if role and one != NONE:
                    known[one].setdefault(role, f"{formal} of {kind} {found.said(row.id)}")
    for term, types in known.items():
        if "entity" in types and "activity" in types:
            yield (
                55,
                "entity-activity-disjoint",
                f"{found.said(term)} is an entity ({types['entity']}) and an activity ({types['activity']}; constraint 50)",
            )
    for row in found.of("hadMember"):
        if found.find(row.arguments[0]) in empty:
            yield (
                56,
                "membership-empty-collection",
                f"{found.said(row.arguments[0])} is an empty collection and has the member {found.said(row.arguments[1])}",
            )


def _identifiers(found: Instance) -> Iterator[tuple[int, str, str]]:
    relations: dict[Term, list[str]] = defaultdict(list)
    for kind in KEYED[3:]:
        for row in found.of(kind):
            relations[found.find(row.id)].append(kind)
    for term, kinds in relations.items():
        apart = [x for x in dict.fromkeys(kinds) if x in APART]
        if len(apart) > 1:
            yield (
                53,
                "impossible-property-overlap",
                f"{found.said(term)} identifies {' and '.join(apart)}",
            )
    for kind in OBJECTS:
        for row in found.of(kind):
            for other in dict.fromkeys(relations.get(found.find(row.id), ())):
                yield (
                    54,
                    "impossible-object-property-overlap",
                    f"{found.said(row.id)} identifies {kind} and {other}",
                )


def _derivations(found: Instance) -> Iterator[tuple[int, str, str]]:
    for row in found.of("wasDerivedFrom"):
        _, _, activity, generation, usage = map(found.find, row.arguments)
        if activity == NONE and (generation, usage) != (NONE, NONE):
            yield (
                51,
                "impossible-unspecified-derivation-generation-use",
                f"{found.said(row.id)} names a generation or a usage and no activity",
            )
