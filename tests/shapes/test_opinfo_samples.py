"""Torch's own lists of refused and valid calls: what must be refused is found, what is valid raises no alarm."""

import os

import opinfo
import pytest

from sparsam.shapes.checker import prepare
from sparsam.shapes.verdict import Verdict

LONG = pytest.mark.skipif(
    os.environ.get("SPARSAM_LONG") != "1", reason="takes minutes; SPARSAM_LONG=1 asks for it"
)


@pytest.fixture(scope="module", autouse=True)
def ready():
    """Imports of the first run are no part of a test."""
    prepare()


def refused(cases) -> tuple[int, list[str]]:
    """How many calls torch refuses without data, and those that were not found."""
    count, missed = 0, []
    for case in cases:
        error = opinfo.plain(case)
        if error is None:
            continue
        count += 1
        findings = opinfo.pinned(case).findings
        if not any(finding.failure.error in (type(error).__name__, case.expected) for finding in findings):
            missed.append(f"{case.name} {case.number}")
    return count, missed


def alarms(cases) -> tuple[int, list[str]]:
    """How many valid calls there are, and those that an error was reported for."""
    reports = [(case, opinfo.pinned(case)) for case in cases]
    return len(reports), [case.name for case, report in reports if report.verdict is Verdict.ERROR]


def test_module_calls_to_be_refused_are_found():
    """Every second one of the list."""
    count, missed = refused(list(opinfo.module_errors())[::2])
    assert count > 30 and not missed


def test_operator_calls_to_be_refused_are_found():
    """Of every twelfth operator, of which one may be missed."""
    count, missed = refused(opinfo.operator_errors(12))
    assert count > 20 and len(missed) <= 1, missed


def test_valid_module_calls_raise_no_alarm():
    """One of each sixth module."""
    count, wrong = alarms(list(opinfo.module_samples(1))[::6])
    assert count > 15 and not wrong


@LONG
@pytest.mark.slow
def test_all_calls_to_be_refused_are_found():
    """At least 98 of 100 of all."""
    for cases in (opinfo.operator_errors(), opinfo.module_errors()):
        count, missed = refused(cases)
        assert len(missed) <= 0.02 * count, missed


@LONG
@pytest.mark.slow
def test_valid_operator_calls_raise_no_alarm():
    """One of each second operator."""
    count, wrong = alarms(opinfo.operator_samples(1, 2))
    assert count > 250 and not wrong
