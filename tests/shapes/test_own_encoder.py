"""Our own encoder stays well-shaped for every choice of heads, filters and kept tokens, and a planted fault is found."""

from pathlib import Path

import pytest

from sparsam.shapes.check import Limits, check
from sparsam.shapes.verdict import Verdict

PROGRAM = Path(__file__).parent.parent.parent / "examples" / "prove_encoder.py"
pytestmark = pytest.mark.slow


def test_every_choice_is_proved():
    """Heads from 0 to 12, filters from 0 to 192, tokens as the data will, in each of up to 48 layers."""
    limits = Limits(seconds=240, run_seconds=60)
    report = check(f"{PROGRAM}:encode", ["x=B×N×48", "layers=0..48"], limits=limits)
    assert report.verdict is Verdict.PROVED, report.unknowns


def test_a_token_lost_in_the_residual_is_found(tmp_path):
    """The states of all tokens but the first, onto all tokens."""
    source = PROGRAM.read_text()
    broken = source.replace(
        "tokens = tokens.with_values(states)", "tokens = tokens.with_values(states + tokens.values[1:])"
    )
    assert broken != source
    file = tmp_path / "broken_encoder.py"
    file.write_text(broken)
    report = check(
        f"{file}:encode",
        ["x=B×N×48", "layers=1..2"],
        limits=Limits(seconds=240, run_seconds=60, paths=60),
    )
    assert report.verdict is Verdict.ERROR
    assert any("states + tokens.values[1:]" in f.failure.place.source for f in report.findings)


def test_a_head_too_many_is_found(tmp_path):
    """An output product that is cut for one head more than its layer has."""
    source = PROGRAM.read_text()
    broken = source.replace("output.dense, width, WIDTH)", "output.dense, width + 4, WIDTH)", 1)
    assert broken != source
    file = tmp_path / "broken_heads.py"
    file.write_text(broken)
    report = check(
        f"{file}:encode",
        ["x=B×N×48", "layers=1..2"],
        limits=Limits(seconds=240, run_seconds=60, paths=60),
    )
    assert report.verdict is Verdict.ERROR
    assert any("block.attention" in f.failure.place.source for f in report.findings)
