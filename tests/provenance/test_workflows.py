"""The four workflows of the papers, tracked: each of their questions is answered by one call, and rightly."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sparsam.cli import main
from sparsam.provenance import rdf
from sparsam.provenance.constraints import check
from sparsam.provenance.constraints.reading import read
from sparsam.provenance.runs import recorded

h5py = pytest.importorskip("h5py")
pytest.importorskip("pyoxigraph")
EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "workflows"
PRODUCTS = ("spectrum", "energy", "similarity", "events")
MIB = 1 << 20

pytestmark = pytest.mark.slow  # some seconds each: programs are started


def ask() -> ModuleType:
    """The script that runs and asks."""
    found = importlib.util.spec_from_file_location("ask_workflows", EXAMPLES / "ask.py")
    assert found is not None and found.loader is not None
    made = importlib.util.module_from_spec(found)
    found.loader.exec_module(made)
    return made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, with this Python as the first."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SPARSAM_SHARED", str(tmp_path / "nothing"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answered(capsys: pytest.CaptureFixture[str], *command: str, code: int = 0) -> Any:
    """The answer to a question, as JSON."""
    capsys.readouterr()
    assert main([*command, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_acoustic_sensing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a product to its raw recording and no other; from a recording to its products; down to an attribute."""
    ask().run("acoustic_sensing", place)
    for number in range(3):
        for product in PRODUCTS:
            steps = answered(capsys, "lineage", f"products/recording{number}-{product}.h5")["steps"]
            assert [Path(x["path"]).name for x in steps] == [
                f"recording{number}-{product}.h5", f"recording{number}.h5", f"recording{number}.bin"
            ]  # fmt: skip
            assert all(x["state"] == "unchanged" for x in steps)
            assert steps[0]["by"]["command"][-4:-1] == ["analyse", f"converted/recording{number}.h5", product]
        made = answered(capsys, "impact", f"raw/recording{number}.bin")["steps"]
        assert {Path(x["path"]).name for x in made} == {
            f"recording{number}.bin", f"recording{number}.h5", *(f"recording{number}-{x}.h5" for x in PRODUCTS)
        }  # fmt: skip
    (question,) = (x for _, x in ask().WORKFLOWS["acoustic_sensing"][1] if x[0] == "query")
    rows = answered(capsys, *question)["rows"]
    calls = sorted((x[1].rpartition("#")[2], json.loads(x[2])[2]) for x in rows)
    assert calls == [("Create", "convert"), *[("Read", "analyse")] * 4, ("Write", "convert")]
    report = check(read(rdf.write(recorded(), "turtle"), "turtle"))
    assert report.valid and report.statements > 500


def test_hyperparameters(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The best setting, the versions with a value, and what two versions differ in."""
    ask().run("hyperparameters", place)
    runs = {x["name"]: x for x in answered(capsys, "runs")["runs"]}
    best = answered(capsys, "best", "--metric", "accuracy")["runs"]
    accuracies = [x["metrics"]["accuracy"] for x in best]
    assert len(best) == 3 and accuracies == sorted(accuracies, reverse=True) and accuracies[0] > 0.7
    assert (
        best[0]["configuration"]["hidden"] in (4, 64)
        and "1500 showers" in best[0]["configuration"]["preselection"]
    )
    some = answered(capsys, "best", "--metric", "accuracy", "--where", "batch=32")["runs"]
    assert {x["name"] for x in some} == {"narrow", "wide"}
    differences = answered(capsys, "diff", "narrow", "hasty")["differences"]
    told = {(x["what"], x["name"]): (x["first"], x["second"]) for x in differences}
    assert told.pop(("metric", "accuracy")) == tuple(
        runs[x]["metrics"]["accuracy"] for x in ("narrow", "hasty")
    )
    assert told.pop(("command", ""))
    assert told.pop(("input", str(place / "drawn.parquet")))[0] is None  # the first run drew the table itself
    assert told == {
        ("setting", "batch"): (32, 8),
        ("setting", "hidden"): (4, 64),
        ("setting", "rate"): (0.1, 3.0),
    }
    names = [Path(x["path"]).name for x in answered(capsys, "lineage", "wide.npz")["steps"]]
    assert names == ["wide.npz", "drawn.parquet"]


@pytest.mark.data
def test_hyperparameters_on_the_real_table(
    shared: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Showers of the telescope: what the model was made from is that table, by its hash."""
    monkeypatch.setenv("SPARSAM_SHARED", str(shared))
    ask().run("hyperparameters", place)
    steps = answered(capsys, "lineage", "wide.npz")["steps"]
    assert Path(steps[1]["path"]) == (shared / "data/science/magic_gamma.parquet").resolve()
    assert len(steps[1]["sha256"]) == 64 and steps[1]["state"] == "unchanged"
    assert answered(capsys, "best", "--metric", "accuracy")["runs"][0]["metrics"]["accuracy"] > 0.7


def test_h5bench(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which calls there are, how many bytes they move, and which version it was that was read."""
    ask().run("h5bench", place)
    for run, written, generation in (("write", 4, 1), ("overwrite", 8, 2), ("append", 8, 2)):
        found = answered(capsys, "io-profile", run)
        data = [x for x in found["calls"] if x["kind"] == "dataset"]
        sums = {call: sum(x["bytes"] for x in data if x["call"] == call) for call in ("read", "write")}
        assert sums == {"write": written * MIB, "read": (8 if run == "append" else 4) * MIB}
        assert {x["path"] for x in data} == {f"/Timestep_{step}/x" for step in range(4)}
        assert found["calls"] == sorted(found["calls"], key=lambda x: -x["seconds"])
        assert "% of" in found["bottleneck"]
        steps = answered(capsys, "lineage", f"{run}-sum.txt")["steps"]
        assert [x["generation"] for x in steps] == [1, *range(generation, 0, -1)]
    assert (place / "overwrite-sum.txt").read_text() != (place / "write-sum.txt").read_text()


def test_checkpoints(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a model to its checkpoint, data and settings; whether they are consistent; how to make it again."""
    torch = pytest.importorskip("torch")
    ask().run("checkpoints", place)
    told = answered(capsys, "lineage", "second.pt")
    steps = told["steps"]
    assert {Path(x["path"]).name for x in steps} == {"second.pt", "corpus.json", "step6.pt"}
    assert told["programs"][steps[0]["by"]["id"]]["configuration"] == {
        "steps": 9,
        "rate": 0.01,
        "resumed": True,
    }
    assert answered(capsys, "verify", "checkpoints", "corpus.json") == {"findings": []}
    recipe = answered(capsys, "reproduce", "second.pt")
    assert recipe["command"] == ["python", "checkpoints.py", *ask().WORKFLOWS["checkpoints"][0][1][1:]]
    assert {Path(x["path"]).name for x in recipe["inputs"]} == {"corpus.json", "step6.pt"}
    kept = (place / "second.pt").read_bytes()
    subprocess.run([sys.executable, "checkpoints.py", "--steps", "9", "--out", "whole.pt"], check=True)
    ours, whole = (torch.load(x, weights_only=True) for x in ("second.pt", "whole.pt"))
    assert all(torch.equal(ours[x], whole[x]) for x in whole) and kept == (place / "second.pt").read_bytes()
    checkpoint = place / "checkpoints" / "step6.pt"
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    findings = answered(capsys, "verify", "second.pt", code=3)["findings"]
    assert [(Path(x["path"]).name, x["what"]) for x in findings] == [("step6.pt", "changed")]
    (place / "corpus.json").unlink()
    assert answered(capsys, "reproduce", "second.pt", code=3)["error"]["code"] == "inputs-changed"


def test_the_outputs_beside_the_examples_are_of_these_questions(capsys: pytest.CaptureFixture[str]) -> None:
    """Every question stands in the committed output and on the page, and was answered."""
    page = (EXAMPLES.parent.parent / "docs" / "provenance.md").read_text()
    for name, (_, questions) in ask().WORKFLOWS.items():
        text = (EXAMPLES / f"{name}.out").read_text()
        for question, command in questions:
            answer = text.partition(f"{question}\n$ sparsam {command[0]} ")[2].partition("\n")[2]
            assert len(answer.splitlines()) >= 1 and not answer.startswith("\n"), question
            assert question in page, question
        assert "Traceback" not in text
