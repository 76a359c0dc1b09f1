"""The programs that the checker is tried on really behave as their table says: plain torch runs them on tiny sizes."""

import collections
import os
import random
import shutil

import pytest
from programs.catalogue import KINDS, PAPER, PROGRAMS
from programs.conditions import DEFAULTS, DRAWN, FAILS_IF
from programs.faults import FAULTS
from programs.running import LENGTHS, run

LONG = pytest.mark.skipif(
    os.environ.get("SPARSAM_LONG") != "1", reason="takes minutes; SPARSAM_LONG=1 asks for it"
)

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:Using a target size:UserWarning"
    ),  # broadcast, not failed: some faults do
    pytest.mark.filterwarnings("ignore:dropout2d:UserWarning"),
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


def draw(program, rng):
    """Sizes out of the table of small ones."""
    ranges = DRAWN[program].items()
    return {
        name: rng.randint(*ends) if len(ends) == 2 and type(ends[0]) is int else rng.choice(ends)
        for name, ends in ranges
    }


def drawn_runs(source, name, program, count, folder):
    """Sizes and outcome of so many runs on random sizes."""
    rng = random.Random(name)
    for number in range(count):
        sizes = PROGRAMS[program].tiny | draw(program, rng)
        here = folder / str(number)
        here.mkdir()
        yield sizes, run(source, program, sizes, here)
        shutil.rmtree(here)


@pytest.mark.slow  # thousands of small training runs
@pytest.mark.parametrize("name", FAILS_IF)
def test_fault_shows_exactly_if_its_condition_holds(name, tmp_path):
    """On random sizes a faulty program raises, at a named line, if and only if the condition worked out by hand holds."""
    fault = FAULTS[name]
    seen = set()
    for sizes, outcome in drawn_runs(fault.source, name, fault.program, 16, tmp_path):
        fails = FAILS_IF[name](sizes)
        told = f"{sizes}: line {outcome.line}: {outcome.text}: {outcome.error!r}"
        assert (outcome.error is not None) == fails, told
        assert not fails or outcome.line in fault.lines, told
        seen.add(fails)
    assert True in seen


@pytest.mark.slow  # hundreds of small training runs
@pytest.mark.parametrize("name", PROGRAMS)
def test_correct_program_runs_on_random_sizes(name, tmp_path):
    """None of the sizes that faults are tried on makes a correct program fail."""
    for sizes, outcome in drawn_runs(PROGRAMS[name].source, name, name, 20, tmp_path):
        assert outcome.error is None, f"{sizes}: line {outcome.line}: {outcome.text}: {outcome.error!r}"


@pytest.mark.slow  # data sets of up to a thousand
@pytest.mark.parametrize("name", PROGRAMS)
def test_correct_program_runs_at_the_ends_of_its_ranges(name, tmp_path):
    """The ranges that the checker is asked to prove really hold: their ends, mixed at random, run."""
    program = PROGRAMS[name]
    rng = random.Random(name)
    pairs = [argument.split("=") for argument in program.arguments]
    ends = {key: [int(end) for end in text.split("..")] for key, text in pairs}
    for number in range(5):
        pick = (lambda sides: sides[0], lambda sides: sides[-1])[number] if number < 2 else rng.choice
        lengths = {key: rng.randint(1, 40) for key in LENGTHS if key in program.tiny}
        sizes = program.tiny | lengths | {key: pick(sides) for key, sides in ends.items()}
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome = run(program.source, name, sizes, folder)
        assert outcome.error is None, f"{sizes}: line {outcome.line}: {outcome.text}: {outcome.error!r}"


def test_conditions_agree_with_the_table():
    """The condition says the same of the table's sizes; each fault that does not always show has one."""
    for name, fails_if in FAILS_IF.items():
        fault = FAULTS[name]
        for fails, rows in ((True, fault.fails), (False, fault.fine)):
            for changed in rows:
                sizes = DEFAULTS.get(fault.program, {}) | fault.sizes(changed)
                assert fails_if(sizes) == fails, (name, changed)
    with_choice = {name for name, fault in FAULTS.items() if fault.fine}
    assert with_choice - set(FAILS_IF) == {"mnist-view-of-64", "vit-64-class-tokens"}  # too large to draw


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
