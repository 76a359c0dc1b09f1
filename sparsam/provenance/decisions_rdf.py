"""Accounts of files as RDF: settings, decisions, calibration rows and results as entities, their values typed literals."""

import json
from collections.abc import Iterator
from typing import Any

from sparsam.provenance.decisions import DECISIONS, SETTINGS, Account
from sparsam.provenance.index import Recorded
from sparsam.provenance.rdf import Iri, Triple, iri
from sparsam.provenance.terms import IO, PROV, RDF_TYPE


def triples_of_accounts(found: Recorded) -> Iterator[Triple]:
    """Every statement, in a fixed order."""
    for account in found.accounts.values():
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


def calibration_name(entity: str, number: int) -> str:
    """The IRI of the calibration of this number in an entity's account."""
    return iri(f"calibration-{entity.removeprefix('urn:sparsam:entity-')}-{number}")


def _named(node: Iri, kind: str, name: str, value: Any) -> Iterator[Triple]:
    yield node, RDF_TYPE, Iri(PROV + "Entity")
    yield node, RDF_TYPE, Iri(IO + kind)
    yield node, IO + "name", name
    yield node, PROV + "value", value if isinstance(value, bool | int | float | str) else json.dumps(value)
