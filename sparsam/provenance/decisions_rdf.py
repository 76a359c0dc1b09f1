"""Accounts of files as RDF: settings, decisions, calibration rows and results as entities, their values typed literals."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sparsam.provenance.decisions import DECISIONS, SETTINGS, Account, Calibration, Decision
from sparsam.provenance.index import Recorded
from sparsam.provenance.rdf import Iri, Triple, iri
from sparsam.provenance.terms import IO, PROV, RDF_TYPE

_CALIBRATION = re.compile(r"urn:sparsam:calibration-(.*)-(\d+)")


def triples_of_accounts(found: Recorded) -> Iterator[Triple]:
    """Every statement, in a fixed order."""
    for account in found.accounts.values():
        if account.entity not in found.stated:
            yield from account_triples(account)


def account_triples(one: Account) -> Iterator[Triple]:
    """What is said of one entity."""
    target, run = iri(one.entity), iri(f"{one.program}-run")
    name = one.entity.removeprefix("entity-")
    for number, (key, value) in enumerate(one.configuration.items()):
        node = iri(f"setting-{name}-{number}")
        yield from _named(node, SETTINGS.get(key, "Hyperparameter"), key, value)
        yield node, RDF_TYPE, Iri(IO + "Configuration")
        yield target, IO + "madeWith", node
    calibrations = {}
    for number, rows in enumerate(one.calibrations.values()):
        calibrations[rows.name] = node = Iri(calibration_name(target, number))
        yield node, RDF_TYPE, Iri(PROV + "Entity")
        yield node, RDF_TYPE, Iri(IO + "CalibrationBatches")
        yield node, IO + "name", rows.name
        yield node, IO + "rows", rows.rows
        yield node, IO + "split", rows.split
        if rows.sha256 is not None:
            yield node, IO + "rowsSha256", rows.sha256
        for source in rows.sources:
            yield node, PROV + "wasDerivedFrom", iri(source)
    for number, decision in enumerate(one.decisions):
        node = iri(f"decision-{name}-{number}")
        yield from _named(node, DECISIONS[decision.kind], decision.name, decision.value)
        yield node, RDF_TYPE, Iri(IO + "Decision")
        yield node, PROV + "wasGeneratedBy", run
        if decision.calibration in calibrations:
            yield node, PROV + "wasDerivedFrom", calibrations[str(decision.calibration)]
        yield target, IO + "decidedBy", node
    for number, (key, value) in enumerate(one.metrics.items()):
        node = iri(f"result-{name}-{number}")
        yield from _named(node, "Metrics", key, value)
        yield target, IO + "measuredAs", node


def accounts_from(
    facts: Mapping[str, Mapping[str, Sequence[Any]]], made_by: Mapping[str, str | None]
) -> Iterator[Account]:
    """The accounts that statements tell of, as :func:`account_triples` makes them.

    Args:
        facts: subject, predicate: objects.
        made_by: ids of entities of ours, and of the program that wrote each.
    """
    classes = {IO + name: kind for kind, name in DECISIONS.items()}
    calibrations: dict[str, list[tuple[int, str]]] = {}
    for node in facts:
        if match := _CALIBRATION.fullmatch(node):
            calibrations.setdefault(f"entity-{match[1]}", []).append((int(match[2]), node))

    def one(node: str, predicate: str, default: Any = None) -> Any:
        return next(iter(facts.get(node, {}).get(predicate, ())), default)

    def pointed(entity: str, word: str) -> list[str]:
        named = [str(x) for x in facts.get(iri(entity), {}).get(IO + word, ())]
        return sorted(named, key=lambda x: (len(x), x))

    for entity, program in made_by.items():
        told = Account(entity, program or "")
        for word, into in (("madeWith", told.configuration), ("measuredAs", told.metrics)):
            for node in pointed(entity, word):
                into[str(one(node, IO + "name", ""))] = one(node, PROV + "value")
        names = {}
        for _, node in sorted(calibrations.get(entity, ())):
            names[node] = name = str(one(node, IO + "name", ""))
            rows, sha256 = one(node, IO + "rows", 0), one(node, IO + "rowsSha256")
            sources = [str(x).removeprefix(iri("")) for x in facts[node].get(PROV + "wasDerivedFrom", ())]
            told.calibrations[name] = Calibration(
                name, rows if isinstance(rows, int) else 0, str(one(node, IO + "split", "")),
                None if sha256 is None else str(sha256), tuple(sources),
            )  # fmt: skip
        for node in pointed(entity, "decidedBy"):
            kind = next(
                (classes[str(x)] for x in facts.get(node, {}).get(RDF_TYPE, ()) if str(x) in classes), ""
            )
            rows_of = str(one(node, PROV + "wasDerivedFrom", ""))
            told.decisions.append(
                Decision(kind, str(one(node, IO + "name", "")), one(node, PROV + "value"), names.get(rows_of))
            )
        if told.configuration or told.metrics or told.calibrations or told.decisions:
            yield told


def calibration_name(entity: str, number: int) -> str:
    """The IRI of the calibration of this number in an entity's account."""
    return iri(f"calibration-{entity.removeprefix('urn:sparsam:entity-')}-{number}")


def _named(node: Iri, kind: str, name: str, value: Any) -> Iterator[Triple]:
    yield node, RDF_TYPE, Iri(PROV + "Entity")
    yield node, RDF_TYPE, Iri(IO + kind)
    yield node, IO + "name", name
    yield node, PROV + "value", value if isinstance(value, bool | int | float | str) else json.dumps(value)
