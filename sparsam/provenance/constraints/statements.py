"""Statements of PROV-DM, however they were written down."""

from collections.abc import Iterable
from dataclasses import dataclass, field

PROV = "http://www.w3.org/ns/prov#"
FORMALS: dict[str, tuple[str, ...]] = {
    "entity": (),
    "activity": ("startTime", "endTime"),
    "agent": (),
    "wasGeneratedBy": ("entity", "activity", "time"),
    "used": ("activity", "entity", "time"),
    "wasInformedBy": ("informed", "informant"),
    "wasStartedBy": ("activity", "trigger", "starter", "time"),
    "wasEndedBy": ("activity", "trigger", "ender", "time"),
    "wasInvalidatedBy": ("entity", "activity", "time"),
    "wasDerivedFrom": ("generatedEntity", "usedEntity", "activity", "generation", "usage"),
    "wasAttributedTo": ("entity", "agent"),
    "wasAssociatedWith": ("activity", "agent", "plan"),
    "actedOnBehalfOf": ("delegate", "responsible", "activity"),
    "wasInfluencedBy": ("influencee", "influencer"),
    "specializationOf": ("specificEntity", "generalEntity"),
    "alternateOf": ("alternate1", "alternate2"),
    "hadMember": ("collection", "entity"),
    "mentionOf": ("specificEntity", "generalEntity", "bundle"),
}
"""Statement: its arguments behind the identifier, in the order of PROV-N, by the names of PROV-XML and PROV-JSON."""
NEEDED: dict[str, tuple[str, ...]] = {
    "wasGeneratedBy": ("entity",),
    "used": ("activity",),
    "wasStartedBy": ("activity",),
    "wasEndedBy": ("activity",),
    "wasInvalidatedBy": ("entity",),
    "wasDerivedFrom": ("generatedEntity", "usedEntity"),
    "wasAssociatedWith": ("activity",),
    "actedOnBehalfOf": ("delegate", "responsible"),
    **{
        kind: FORMALS[kind]
        for kind in (
            "wasInformedBy", "wasAttributedTo", "wasInfluencedBy", "specializationOf", "alternateOf", "hadMember", "mentionOf",
        )
    },
}  # fmt: skip
"""Arguments that may not be left out (PROV-DM)."""
TIMES = frozenset({"time", "startTime", "endTime"})
SUBTYPES = {
    "person": ("agent", "Person"), "organization": ("agent", "Organization"), "softwareAgent": ("agent", "SoftwareAgent"),
    "plan": ("entity", "Plan"), "collection": ("entity", "Collection"), "emptyCollection": ("entity", "EmptyCollection"),
    "bundle": ("entity", "Bundle"), "wasRevisionOf": ("wasDerivedFrom", "Revision"),
    "wasQuotedFrom": ("wasDerivedFrom", "Quotation"), "hadPrimarySource": ("wasDerivedFrom", "PrimarySource"),
}  # fmt: skip
"""What says a type by its name (PROV-XML elements): the statement, and the type."""


@dataclass(frozen=True)
class Statement:
    """One statement.

    Args:
        kind: a key of :data:`FORMALS`.
        id: an IRI, a blank node (``_:x``), or None.
        arguments: as :data:`FORMALS` orders them; None for one that is left out.
        types: IRIs of its types.
        attributes: (name, value) of the rest; they decide nothing here.
    """

    kind: str
    id: str | None
    arguments: tuple[str | None, ...]
    types: frozenset[str] = frozenset()
    attributes: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        inner = ", ".join("-" if x is None else x for x in self.arguments)
        if self.kind in ("entity", "activity", "agent"):
            return f"{self.kind}({', '.join(x for x in (self.id or '-', inner) if x)})"
        return f"{self.kind}({self.id or '-'}; {inner})"


@dataclass
class Document:
    """A top level (named '') and bundles, each an instance of its own."""

    instances: dict[str, list[Statement]] = field(default_factory=lambda: {"": []})

    def add(self, bundle: str, statements: Iterable[Statement]) -> None:
        """To one of the instances, which is begun if it is not there."""
        self.instances.setdefault(bundle, []).extend(statements)
