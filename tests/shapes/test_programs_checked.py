"""The checker proves the correct programs, and finds each planted fault at its line, with sizes for which torch fails."""

import os

import pytest
from programs.catalogue import PROGRAMS, Fault
from programs.faults import FAULTS
from programs.running import LENGTHS, MODES, Size, Sizes, draw_images, run

from sparsam.shapes.check import Limits, check
from sparsam.shapes.verdict import Finding, Report, Verdict

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")]

LONG = pytest.mark.skipif(
    os.environ.get("SPARSAM_LONG") != "1", reason="takes minutes; SPARSAM_LONG=1 asks for it"
)
# Without being asked for: those that take seconds.
TRIED = {"mnist", "vae", "dcgan", "word_language_model", "time_series", "bert", "simclr"} | {
    "mnist-three-means",
    "vae-norm-of-one",
    "dcgan-too-deep",
    "word_language_model-tied",
    "time_series-cell-width",
    "vit-no-place-for-the-class",
    "simclr-empty-bank",
}
PATIENTLY = [pytest.param(name, marks=() if name in TRIED else (LONG,), id=name) for name in FAULTS]
HARMLESS = [
    pytest.param(name, fine, id=f"{name}-{number}", marks=LONG)
    for name, fault in FAULTS.items()
    if fault.kind == "arguments"
    for number, fine in enumerate(fault.fine)
    if not {*fine, *PROGRAMS[fault.program].tiny} & {MODES}
]


def checked(source: str, program: str, arguments, modes: Size | None, folder) -> Report:
    """Check the text as a script in the folder, beside a folder of images if it reads one."""
    script = folder / f"{program}.py"
    script.write_text(source, encoding="utf-8")
    if modes is not None:
        arguments = (*arguments, f"data={draw_images(folder / 'images', str(modes))}")
    if '"--epochs"' in source and not any(argument.startswith("epochs=") for argument in arguments):
        # The cases of a second pass over two loaders multiply with those of the first.
        arguments = (*arguments, "epochs=1")
    # Patience, for machines are shared: how long a check takes is the benchmark's to say.
    return check(str(script), arguments=list(arguments), limits=Limits(seconds=240, run_seconds=60))


def told(report: Report) -> str:
    """The findings and what stayed unknown, for a failing test."""
    lines = [f"{f.code} line {f.failure.place.line}: {f.message} {dict(f.witness)}" for f in report.findings]
    return "\n".join(["", *lines, *(f"unknown {u.code}: {u.reason} at {u.place}" for u in report.unknowns)])


def sizes_of(report: Report, finding: Finding, fixed: Sizes) -> Sizes:
    """The witness as options and lengths of data sets: those of torchvision's, the first for training."""
    lengths = iter(LENGTHS)
    sizes = dict(fixed)
    for symbol in report.symbols:
        name = next(lengths, None) if symbol.meaning.startswith("length of torchvision") else None
        if name is None and symbol.meaning.endswith("of the command line"):
            name = symbol.meaning.split()[0]
        if name is not None and symbol.name in finding.witness:
            sizes[name] = finding.witness[symbol.name]
    return sizes


def plain(arguments) -> Sizes:
    """Those of the options that are no ranges."""
    pairs = [argument.partition("=")[::2] for argument in arguments]
    return {name: value == "True" or value for name, value in pairs if ".." not in value}


def assert_torch_agrees(report: Report, fault: Fault, modes: Size | None, folder) -> None:
    """Each finding is confirmed, and plain torch raises on its sizes at its line."""
    fixed = plain(fault.checked_with) | ({} if modes is None else {MODES: modes})
    for number, finding in enumerate(report.findings):
        assert finding.confirmed, finding
        again = folder / f"again{number}"
        again.mkdir()
        sizes = sizes_of(report, finding, fixed)
        outcome = run(fault.source, fault.program, sizes, again)
        assert outcome.error is not None, f"{sizes}: runs to the end, {finding.message}"
        assert outcome.line == finding.failure.place.line, f"{sizes}: {outcome}"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in TRIED else (LONG,)) for name in PROGRAMS]
)
def test_correct_program_is_proved(name, tmp_path):
    """No alarm and nothing unknown for all the sizes that a correct program takes."""
    program = PROGRAMS[name]
    report = checked(program.source, name, program.arguments, program.tiny.get(MODES), tmp_path)
    assert report.verdict is Verdict.PROVED, told(report)


@pytest.mark.parametrize("name", PATIENTLY)
def test_planted_fault_is_found(name, tmp_path):
    """The verdict is an error, at the line of the fault, under a fitting code, with a witness that torch fails for."""
    fault = FAULTS[name]
    modes = fault.sizes(fault.fails[0]).get(MODES)
    report = checked(fault.source, fault.program, fault.checked_with, modes, tmp_path)
    assert report.verdict is Verdict.ERROR, told(report)
    assert_torch_agrees(report, fault, modes, tmp_path)
    here = [finding for finding in report.findings if finding.failure.place.line in fault.lines]
    assert here, told(report)
    assert {finding.code for finding in here} & fault.accepted, told(report)


@pytest.mark.parametrize(("name", "fine"), HARMLESS)
def test_fault_that_cannot_show_is_not_reported(name, fine, tmp_path):
    """With options for which a faulty program runs, whatever the data set's length, nothing is found."""
    fault = FAULTS[name]
    given = {key: value for key, value in fault.sizes(fine).items() if key not in LENGTHS}
    arguments = [f"{key}={value}" for key, value in given.items()]
    report = checked(fault.source, fault.program, arguments, None, tmp_path)
    assert report.verdict is Verdict.PROVED, told(report)
