"""The study's own parts: what shuffling keeps, which machines run which trace, and that its tables reach the page."""

import sys
from pathlib import Path

import numpy as np
import pytest
from fake_design import small_workload

pytest.importorskip("sparsam.runtime.record")
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))
import hardware_study as study

from sparsam.hardware.machine import machines
from sparsam.workload import Gemm


def test_shuffled_layers_have_the_same_numbers_elsewhere():
    """Same shapes, names and numbers, other places; the same again for the same seed, others for another."""
    workload = small_workload()
    places = tuple(at for at, layer in enumerate(workload) if isinstance(layer, Gemm))
    first, again, other = (study.Shuffled(workload, places, seed) for seed in (0, 0, 1))
    assert len(first) == 1
    for mine, given in zip(first, (workload[at] for at in places), strict=True):
        assert mine.name == given.name
        for one, was in ((mine.a, given.a), (mine.b, given.b)):
            assert one.density == was.density
            assert not np.array_equal(one.values, was.values)
            assert np.array_equal(np.sort(one.values, axis=None), np.sort(was.values, axis=None))
    assert np.array_equal(first[0].a.values, again[0].a.values)
    assert not np.array_equal(first[0].a.values, other[0].a.values)


def test_each_design_runs_the_numbers_it_works_in():
    """FPRaker takes bfloat16 alone, TensorDash both, all others integers; one machine a design."""
    whole, floats = study.chosen(None, "int8"), study.chosen(None, "bf16")
    known = {machine.design for machine in machines().values()}
    assert [one.design for one in whole] == list(dict.fromkeys(one.design for one in whole))
    assert {one.design for one in whole} == known - {"fpraker"}
    assert {one.design for one in floats} == known & {"tensordash", "fpraker"}


def test_tables_reach_their_places_on_the_page(tmp_path):
    """What stands between the marks is replaced, the rest stays; a page without the marks is refused."""
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- models: begin -->\nold\n<!-- models: end -->\nb\n")
    study.fill(page, {"models": ["| x |", "| --- |"]})
    study.fill(page, {"models": ["| y |", "| --- |"]})
    assert page.read_text() == "a\n<!-- models: begin -->\n| y |\n| --- |\n<!-- models: end -->\nb\n"
    with pytest.raises(SystemExit, match="no place for table layers"):
        study.fill(page, {"layers": []})
    text = study.PAGE.read_text(encoding="utf-8")
    for name in ("models", "layers", "stored"):
        assert text.count(f"<!-- {name}: begin -->") == text.count(f"<!-- {name}: end -->") == 1
