"""Random programs: never proved where torch raises, and every witness really raises."""

import contextlib
import io
import random

import pytest
from random_programs import RANGES, grown, raises, sizes_of

from sparsam.shapes import program
from sparsam.shapes.checker import Tensor, check_callable
from sparsam.shapes.explore import Limits
from sparsam.shapes.verdict import Verdict

SAMPLES = 50


def verdict_holds(seed: int, folder) -> Verdict:
    """Checks one random program and holds the verdict against plain torch for random sizes."""
    made = grown(seed)
    name = f"random_{seed}"
    path = folder / f"{name}.py"
    path.write_text(made.source())
    module = program.load(name, str(path))
    tensors = {n: Tensor(shape) for n, shape in zip("xyz", made.shapes, strict=True)}
    with contextlib.redirect_stdout(io.StringIO()):
        report = check_callable(
            module.run,
            {**tensors, **{n: n for n in RANGES}},
            RANGES,
            own=lambda file: file == str(path),
            limits=Limits(paths=150, seconds=60, run_seconds=10),
        )
    rng = random.Random(seed)
    failing = None
    for _ in range(SAMPLES):
        sizes = sizes_of(rng)
        error = raises(made, sizes)
        if error is not None:
            failing = (sizes, error)
            break
    assert not (report.verdict is Verdict.PROVED and failing), f"{made.source()}\n{failing}"
    for finding in report.findings:
        sizes = {n: finding.witness[n] for n in RANGES}
        assert raises(made, sizes) is not None, f"{made.source()}\n{finding}"
    assert not any(u.code == "crash" for u in report.unknowns), f"{made.source()}\n{report.unknowns}"
    return report.verdict


@pytest.mark.parametrize("block", range(2))
def test_verdicts_of_random_programs_hold(block, tmp_path):
    """Six at a time: what torch says of fifty random sizes agrees."""
    for seed in range(6 * block, 6 * block + 6):
        verdict_holds(seed, tmp_path)


@pytest.mark.slow
def test_verdicts_of_more_random_programs_hold(tmp_path):
    """Forty more; most of them are decided."""
    verdicts = [verdict_holds(seed, tmp_path) for seed in range(1000, 1040)]
    assert sum(v is Verdict.UNKNOWN for v in verdicts) < 8
    assert {Verdict.PROVED, Verdict.ERROR} <= set(verdicts)
