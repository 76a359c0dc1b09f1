"""From files to the file: what is read, what is refused and how, and that the page is written whole or not at all."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from pages import Parsed, bench, row

from sparsam import artifact
from sparsam.cli import main
from sparsam.errors import InputOutput, Refused, SparsamError, Usage
from sparsam.report import bench_of, find, write_report
from sparsam.report.examples import examples_of
from sparsam.task import Task

# --- the record ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(demo: Path, tmp_path: Path) -> Path:
    """A copy of the compressed model, to spoil."""
    return Path(shutil.copytree(demo / "compressed", tmp_path / "model"))


def test_record_is_read_back(folder):
    """What was written is what is read; another write replaces it, and nothing is left beside the folder."""
    artifact.write_record(folder, {"a": [1, 2.5, "x", None]})
    assert artifact.read_record(folder) == {"a": [1, 2.5, "x", None]}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    artifact.verify(folder)


def test_record_does_not_bar_a_save(folder):
    """A folder with a record is replaced like any other of ours, and the new model has no record of the old one."""
    loaded = artifact.load(folder)
    artifact.save(loaded.model, folder, processor=loaded.processor)
    assert artifact.read_record(folder) is None


def test_record_of_another_model_is_refused(demo, folder):
    """Figures copied to another model's folder are not believed."""
    shutil.copy(folder / artifact.EVALUATION, demo / "dense" / artifact.EVALUATION)
    try:
        with pytest.raises(
            Refused, match=r"measured of another model .* Delete the file and evaluate again"
        ) as caught:
            artifact.read_record(demo / "dense")
        assert caught.value.code == "record-stale"
    finally:
        (demo / "dense" / artifact.EVALUATION).unlink()


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_record_must_be_json(folder, value):
    """What JSON cannot say is refused, and the record that stood there stays."""
    before = (folder / artifact.EVALUATION).read_bytes()
    with pytest.raises(Usage, match="an evaluation must be JSON"):
        artifact.write_record(folder, {"a": value})
    assert (folder / artifact.EVALUATION).read_bytes() == before


@pytest.mark.parametrize("fails", ["replace", "fsync", "mkdir"])
def test_record_is_whole_or_absent(folder, monkeypatch, fails):
    """A full disk leaves the old record and no litter."""
    before = (folder / artifact.EVALUATION).read_bytes()

    def full(*args: Any, **given: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(InputOutput) as caught:
        artifact.write_record(folder, {"a": 1})
    monkeypatch.undo()
    assert caught.value.code == "no-space"
    assert (folder / artifact.EVALUATION).read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


# --- what is read ----------------------------------------------------------------------------------------------------


def test_folder_of_folders_and_benchmarks_are_found(demo, tmp_path):
    """The demo's folder gives both models, the dense one first; a benchmark is a file; nothing is taken twice."""
    (tmp_path / "speed.json").write_text(json.dumps(bench()))
    runs, benches = find([demo, demo / "compressed", tmp_path / "speed.json"])
    assert [run.name for run in runs] == ["dense", "compressed"]
    assert [name for name, _ in benches] == ["speed.json"]
    assert runs[0].plan is None
    assert runs[1].evaluated is not None
    assert runs[1].evaluated.model.macs_ratio == 0.5


def test_benchmark_is_read_as_it_is_written(tmp_path):
    """What sparsam.bench saves is a run of the report."""
    from sparsam.bench import Benchmark, BenchRow

    said = row() | {"interval": (-2.64, 0.57), "machine": {"cores": 2}}
    found = Benchmark(
        "sst2", "text", "validation", "accuracy", "dense", (BenchRow(**said),), {"onnx": "absent"}, ("busy",), {"cores": 2}
    )  # fmt: skip
    found.save(tmp_path / "speed.json")
    page = write_report([tmp_path / "speed.json"], tmp_path / "page.html")
    assert "1.62× the speed of openvino-int8 half" in Parsed(page.read_text()).text


def test_runs_of_one_name_are_told_apart(demo, tmp_path):
    """Two folders called the same are shown with as much of their path as it takes."""
    for place in ("one", "two"):
        shutil.copytree(demo / "compressed", tmp_path / place / "model")
    runs, _ = find([tmp_path / "one" / "model", tmp_path / "two"])
    assert [run.name for run in runs] == ["one/model", "two/model"]


def test_examples_are_what_the_model_kept(demo):
    """Survivors of each layer are counted without the class token, lie in the image, and never come back."""
    run = find([demo / "compressed"])[0][0]
    found = examples_of(run, Task.load("digits"))
    assert len(found) == 6
    assert len({one.label for one in found}) == 6
    for one in found:
        first, second = map(set, one.after)
        assert (one.down, one.across, one.patches) == (4, 4, 16)
        assert second < first < set(range(16))
        # top-k keeps half and then a quarter of 17 tokens, rounded up, one of which is the class token
        assert (len(first), len(second)) == (8, 4)


def test_text_models_and_dense_ones_have_no_examples(demo):
    """Nothing is run where nothing is dropped."""
    assert examples_of(find([demo / "dense"])[0][0], Task.load("digits")) == ()


def test_images_of_other_data_wait_to_be_named(demo, tmp_path):
    """A model of other images is not run without --task, and the page says so."""
    loaded = artifact.load(demo / "compressed")
    place = artifact.save(
        loaded.model, tmp_path / "other", processor=loaded.processor, facts={"task": "photos"}
    )
    page = write_report([place], tmp_path / "page.html")
    assert "name the data with --task" in Parsed(page.read_text()).text
    page = write_report([place], page, task="digits")
    assert "What other looks at" in Parsed(page.read_text()).text


# --- what is refused -------------------------------------------------------------------------------------------------


def _without(key: str) -> dict[str, Any]:
    return {name: value for name, value in row().items() if name != key}


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"schema": "sparsam.bench/2"}, "bench-schema", "'sparsam.bench/2'; expected 'sparsam.bench/1'"),
        ({"schema": None}, "bench-schema", "None; expected 'sparsam.bench/1'"),
        ({"more": 1}, "bench-invalid", "at more: Extra inputs are not permitted"),
        ({"rows": {}}, "bench-invalid", "at rows: Input should be a valid array"),
        ({"rows": [_without("baseline")]}, "bench-invalid", "at rows[0].baseline: Field required"),
        ({"rows": [row(), row(order="random")]}, "bench-invalid", "at rows[1].order: Input should be 'arrival' or 'sorted'"),
        ({"rows": [row(tokenisation="included")]}, "bench-invalid", "rows[0].tokenisation: Input should be a valid boolean"),
        ({"rows": [row(ratio_to_baseline="1.6")]}, "bench-invalid", "rows[0].ratio_to_baseline: Input should be a valid num"),
        ({"rows": [row(ratio_to_baseline=0)]}, "bench-invalid", "rows[0].ratio_to_baseline: Input should be greater than 0"),
        ({"rows": [row(ratio_to_baseline=9.0)]}, "bench-invalid", "rows[0]: Value error, ratio_to_baseline 9.0 does not lie"),
        ({"rows": [row(batch=0)]}, "bench-invalid", "rows[0].batch: Input should be greater than or equal to 1"),
        ({"rows": [row(accuracy=88.5)]}, "bench-invalid", "rows[0].accuracy: Input should be less than or equal to 1"),
        ({"rows": [row(interval=[1.0, 0.0])]}, "bench-invalid", "interval [1.0, 0.0] does not rise"),
        ({"rows": [row(interval=[1.0])]}, "bench-invalid", "rows[0].interval[1]: Field required"),
        ({"rows": [row(model=None)]}, "bench-invalid", "rows[0].model: Input should be a valid string (got None)"),
        ({"rows": [row(p50_ms=float("nan"))]}, "bench-invalid", "Out of range float"),
        ({"warnings": "busy"}, "bench-invalid", "at warnings: Input should be a valid array"),
        ({"absent": ["onnx"]}, "bench-invalid", "at absent: Input should be an object"),
    ],
)  # fmt: skip
def test_benchmark_that_is_off_is_refused_by_its_place(change, code, text):
    """The error names the field, what was expected and what was found."""
    with pytest.raises(Refused) as caught:
        bench_of(bench() | change, "speed.json")
    assert caught.value.code == code
    assert text in str(caught.value)
    assert str(caught.value).startswith("speed.json ")


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "7", '"x"', '{"schema": 1}', "\xff", "[" * 100_000])
def test_file_that_is_no_benchmark_is_refused(tmp_path, text):
    """Any other file ends in an error of ours, which says what was expected."""
    (tmp_path / "x.json").write_text(text, encoding="latin-1")
    with pytest.raises(SparsamError, match=r"sparsam bench --json|sparsam\.bench/1"):
        write_report([tmp_path / "x.json"], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_what_is_no_run_is_refused_with_what_was_expected(tmp_path):
    """A folder that sparsam did not write, and one that is not there."""
    for path, code in ((tmp_path, "run-unknown"), (tmp_path / "absent", "run-missing")):
        with pytest.raises(
            SparsamError, match="expected a folder that sparsam wrote, a folder that holds"
        ) as caught:
            write_report([path], tmp_path / "page.html")
        assert caught.value.code == code
        assert str(path) in str(caught.value)
    with pytest.raises(Usage, match="at least one run"):
        write_report([], tmp_path / "page.html")


def test_damaged_model_is_refused(folder, tmp_path):
    """A page is made of models that are what was saved."""
    facts = folder / "sparsam.json"
    facts.write_text(facts.read_text().replace("digits", "digits!"[:6][::-1]))
    with pytest.raises(Refused, match=r"sparsam\.json is not what was saved"):
        write_report([folder], tmp_path / "page.html")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model": None}, "at model"),
        ({"task": 1}, "at task"),
        ({"notes": "x"}, "at notes"),
        ({"model": {}}, "at model.split"),
    ],
)
def test_record_of_another_form_is_refused(folder, tmp_path, change, text):
    """An evaluation that was changed by hand is refused by the place that is off."""
    artifact.write_record(folder, (artifact.read_record(folder) or {}) | change)
    with pytest.raises(Refused, match="is no valid evaluation") as caught:
        write_report([folder], tmp_path / "page.html")
    assert text in str(caught.value)


def test_other_files_are_not_overwritten(demo, tmp_path):
    """--out replaces an earlier report, and nothing else."""
    page = write_report([demo], tmp_path / "page.html")
    assert write_report([demo], page) == page
    (tmp_path / "thesis.html").write_text("<!doctype html><title>mine</title>")
    for place in (tmp_path / "thesis.html", tmp_path):
        with pytest.raises(Refused, match="it is left alone") as caught:
            write_report([demo], place)
        assert caught.value.code == "not-a-report"
    assert (tmp_path / "thesis.html").read_text() == "<!doctype html><title>mine</title>"


@pytest.mark.parametrize("fails", ["replace", "fsync", "mkdir"])
def test_page_is_whole_or_as_it_was(demo, tmp_path, monkeypatch, fails):
    """A full disk at any step leaves the old page and no litter."""
    page = write_report([demo / "dense"], tmp_path / "page.html")
    before = page.read_bytes()

    def full(*args: Any, **given: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(InputOutput) as caught:
        write_report([demo], page)
    monkeypatch.undo()
    assert caught.value.code == "no-space"
    assert page.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


# --- the command -----------------------------------------------------------------------------------------------------


def test_command_writes_the_page(demo, tmp_path, capsys):
    """``sparsam report`` says where the page is; with --json, in one object."""
    out = str(tmp_path / "deep" / "page.html")
    assert main(["report", str(demo), "--out", out]) == 0
    assert capsys.readouterr().out == f"Report: {out}\n"
    assert main(["report", str(demo), "--out", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": out, "runs": [str(demo)]}
    text = Parsed(Path(out).read_text()).text
    assert "What compressed looks at" in text
    assert "90.0 % at 0.50×" in text
    assert main(["report", str(tmp_path), "--out", out, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "run-unknown"
