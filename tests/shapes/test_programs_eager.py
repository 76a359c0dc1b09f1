"""The programs that the checker is tried on really behave as their table says: plain torch runs them on tiny sizes."""

import collections

import pytest
from programs.catalogue import KINDS, PAPER, PROGRAMS
from programs.faults import FAULTS
from programs.running import run

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:Using a target size:UserWarning"
    ),  # broadcast, not failed: some faults do
    pytest.mark.filterwarnings("ignore:dropout option adds dropout:UserWarning"),
]


@pytest.mark.parametrize("name", PROGRAMS)
def test_correct_program_runs_to_its_end(name, tmp_path):
    """A correct program ends without an exception, with odd last batches and at the edges too."""
    program = PROGRAMS[name]
    for number, changed in enumerate(({}, *program.more)):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome = run(program.source, name, {**program.tiny, **changed}, folder)
        assert outcome.error is None, f"{changed}: line {outcome.line}: {outcome.text}: {outcome.error!r}"


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_fails_where_it_should(name, tmp_path):
    """A faulty program raises at the named line for the sizes of its table, and runs to its end for the others."""
    fault = FAULTS[name]
    cases = [(True, changed) for changed in fault.fails] + [(False, changed) for changed in fault.fine]
    for number, (fails, changed) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome = run(fault.source, fault.program, fault.sizes(changed), folder)
        told = f"{changed}: line {outcome.line}: {outcome.text}: {outcome.error!r}"
        assert (outcome.error is not None) == fails, told
        if fails:
            assert outcome.line in fault.lines, told


def test_faults_cover_every_class():
    """All kinds of faults occur, those that the paper names several times, and every program has some."""
    kinds = collections.Counter(fault.kind for fault in FAULTS.values())
    assert set(kinds) == set(KINDS)
    assert all(kinds[kind] >= 5 for kind in PAPER), kinds
    assert {fault.program for fault in FAULTS.values()} == set(PROGRAMS)
    assert sum(bool(fault.fine) for fault in FAULTS.values()) >= 30  # fail for some sizes only


def test_names_are_unique_and_begin_with_the_program():
    """No fault of one table is lost to another of the same name."""
    from programs.image_faults import IMAGE_FAULTS
    from programs.sequence_faults import SEQUENCE_FAULTS

    assert len(FAULTS) == len(IMAGE_FAULTS) + len(SEQUENCE_FAULTS)
    assert all(fault.name.startswith(f"{fault.program}-") for fault in FAULTS.values())
