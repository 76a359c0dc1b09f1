"""sparsam's own commands record themselves: what made an artefact, by which decisions, and when nothing is recorded."""

import builtins
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sparsam.provenance as provenance
from sparsam.cli import main
from sparsam.cli.recording import VARIABLE, Recording, decisions_of
from sparsam.errors import Usage
from sparsam.provenance import questions, writer
from sparsam.provenance.decisions import kept_ranges, record_account, record_calibration, record_decision
from sparsam.provenance.runs import names_of_runs
from sparsam.provenance.tracked import track

MATRIX = "%%MatrixMarket matrix coordinate real general\n3 3 4\n1 1 1.0\n2 2 2.0\n3 1 1.5\n3 3 1.0\n"
SIMULATE = ["simulate", "a.mtx", "--on", "sparch", "--out", "made"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a matrix, records switched on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE)
    (tmp_path / "a.mtx").write_text(MATRIX)
    return tmp_path


def test_a_command_tells_what_its_files_were_made_from(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Inputs with their content, the command as it was typed, code, versions, machine; and how to do it again."""
    assert main(SIMULATE) == 0
    said = capsys.readouterr().err
    assert f"kept in {place / '.sparsam'}" in said and "--no-provenance" in said
    first, *rest = questions.lineage(provenance.recorded(), "made/simulation.json")
    assert {x.entity.names[-1]: x.state for x in rest} == {str(place / "a.mtx"): "unchanged"}
    assert rest[0].entity.sha256 == questions.sha256_of("a.mtx")
    assert first.program is not None and first.program.status == 0
    facts = first.program.facts
    assert facts["argv"] == ["sparsam", *SIMULATE] and facts["versions"]["sparsam"]
    assert facts["machine"]["cores"] == os.cpu_count()
    assert first.program.configuration["out"] == "made" and "as_json" not in first.program.configuration
    assert first.program.types == ["sparsam simulate"]
    recipe = questions.reproduce(provenance.recorded(), "made/simulation.json")
    assert not recipe.missing and [x.entity.path for x in recipe.inputs] == [str(place / "a.mtx")]
    (place / "a.mtx").write_text(MATRIX.replace("2.0", "3.0"))
    assert main(["reproduce", "made/simulation.json"]) == 3
    assert f"# changed: {place / 'a.mtx'}" in capsys.readouterr().out


def test_doing_it_again_into_the_same_place_needs_no_old_file(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stood there before is looked at and replaced, and no input; the note on where records are comes once."""
    assert main(SIMULATE) == main(SIMULATE) == 0
    assert capsys.readouterr().err.count("kept in") == 1
    recipe = questions.reproduce(provenance.recorded(), "made/simulation.json")
    assert not recipe.missing and [x.entity.path for x in recipe.inputs] == [str(place / "a.mtx")]
    assert len(names_of_runs()) == 2


def test_records_are_kept_out_of_git_and_found_upwards(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder made for records ignores itself; from within a project they go to the project's."""
    assert main(SIMULATE) == 0
    assert (place / ".sparsam" / ".gitignore").read_text() == "*\n"
    (place / "below").mkdir()
    monkeypatch.chdir(place / "below")
    assert main(["simulate", "../a.mtx", "--on", "sparch", "--out", "made"]) == 0
    assert not Path(".sparsam").exists() and len(list((place / ".sparsam" / "runs").iterdir())) == 2


@pytest.mark.parametrize("how", ["variable", "option"])
def test_switched_off_nothing_is_recorded_or_imported(place: Path, how: str) -> None:
    """By the variable or by the option; not even the modules that would record are loaded."""
    words = SIMULATE + ["--no-provenance"] * (how == "option")
    code = (
        "import sys\nfrom sparsam.cli import main\n"
        f"status = main({words!r})\n"
        "assert not any(x.startswith('sparsam.provenance') for x in sys.modules), 'loaded'\n"
        "sys.exit(status)"
    )
    environment = os.environ | ({VARIABLE: "0"} if how == "variable" else {})
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not (place / ".sparsam").exists() and (place / "made" / "simulation.json").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["simulate", "missing.mtx", "--on", "sparch", "--out", "made"],
        ["simulate", "--help"],
        ["machines"],
        ["simulate"],
    ],
)
def test_where_no_file_was_written_no_record_is_left(place: Path, words: list[str]) -> None:
    """Commands that fail, explain themselves or only print."""
    main(words)
    assert not (place / ".sparsam").exists()


def test_a_command_leaves_no_hook_behind(place: Path) -> None:
    """Called from a program, whatever its end, it gives everything back."""
    before = (builtins.open, io.open, os.open, os.replace, os._exit, dict(os.environ))
    main(SIMULATE)
    main(["simulate", "missing.mtx", "--on", "sparch", "--out", "other"])
    assert before == (builtins.open, io.open, os.open, os.replace, os._exit, dict(os.environ))


def test_in_a_tracked_program_a_command_adds_to_its_record(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run, not two; settings of the command are told in it."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(x for x in sys.path if x))
    assert track([sys.executable, "-m", "sparsam.cli", *SIMULATE], run="outer").status == 0
    found = provenance.recorded()
    assert {x.run for x in found.programs.values()} == {"outer"}
    steps = questions.lineage(found, "made/simulation.json")
    assert steps[0].program is not None and steps[0].program.configuration["out"] == "made"


def test_what_a_child_read_is_in_what_the_command_wrote(place: Path) -> None:
    """A process that a command starts answers to it by other ways than files."""
    (place / "weights").write_text("abc")
    record = Recording.begun("bench", {"out": "figures"})
    assert record is not None
    code = "print(len(open('weights').read()))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    (place / "figures").write_text(answer)
    record.end(0)
    steps = questions.lineage(provenance.recorded(), "figures")
    assert [x.entity.path for x in steps[1:]] == [str(place / "weights")]


# faults


def test_a_folder_that_cannot_be_made_stops_no_command(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command does what it should, and says that it was not recorded."""
    (place / ".sparsam").write_text("a file")
    assert main(SIMULATE) == 0
    assert "not recorded" in capsys.readouterr().err and (place / "made" / "simulation.json").exists()


def test_a_full_disk_stops_no_command(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records cannot be written: the command ends well, and the loss is said."""

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "_write", full)
    assert main(SIMULATE) == 0
    assert (place / "made" / "simulation.json").exists() and open is builtins.open
    said = capsys.readouterr().err
    assert "could not be written" in said or "not recorded" in said


def test_a_recording_that_breaks_stops_no_command(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in it at the end."""
    monkeypatch.setattr("sparsam.provenance.tracked.hash_files", lambda *_: 1 / 0)
    before = builtins.open
    assert main(SIMULATE) == 0
    assert "not recorded in full: ZeroDivisionError" in capsys.readouterr().err and builtins.open is before


# decisions

PLAN = {
    "embeddings": 8,
    "layers": [
        {
            "heads": [0, 2],
            "filters": [0, 1, 2, 5],
            "formats": {"qkv": {"bits": 8}, "up": {"bits": 8, "pieces": 4}},
        },
        {"heads": None, "filters": None},
    ],
    "tokens": {"rule": "ltp", "values": [0.25, None]},
}


def test_a_plan_s_decisions_are_all_there() -> None:
    """Masks, bit widths of products and of embeddings, thresholds; what is left as it was is none."""
    assert sorted(decisions_of(PLAN), key=lambda x: x[1]) == [
        ("bit-width", "embeddings", 8), ("mask", "layer 0 filters", [0, 1, 2, 5]), ("mask", "layer 0 heads", [0, 2]),
        ("bit-width", "layer 0 qkv", 8), ("threshold", "layer 0 tokens, ltp", 0.25), ("bit-width", "layer 0 up", 4),
    ]  # fmt: skip


def test_decisions_can_be_told_by_any_program(tmp_path: Path) -> None:
    """Bound to the generation that was written; long masks by their digest; unknown kinds are refused."""
    folder, weights, data = tmp_path / ".sparsam", tmp_path / "weights", tmp_path / "data"
    data.write_text("rows")
    record_decision(weights, "mask", "heads", [1, 2])  # nobody tracks
    with provenance.run("r", folder=folder):
        data.read_text()
        for width in (8, 4):
            weights.write_text(str(width))
            record_account(weights, {"method": "own", "rate": 0.5}, {"accuracy": 0.9})
            record_calibration(weights, "rows", 16, sha256="0" * 64, sources=[data])
            record_decision(weights, "bit-width", "layer 0", width, calibration="rows")
        record_decision(weights, "mask", "layer 0 filters", list(range(0, 9000, 2)))
        with pytest.raises(Usage) as error:
            record_decision(weights, "colour", "x", 1)
    assert error.value.code == "decision-kind"
    found = provenance.recorded(folder)
    one = found.at(str(weights))
    assert one is not None and one.generation == 2
    told, source = found.accounts[one.id], found.at(str(data))
    assert [(x.kind, x.value) for x in told.decisions][:1] == [("bit-width", 4)] and source is not None
    assert told.decisions[1].value.startswith("sha256:") and len(told.decisions[1].value) < 300
    assert told.calibrations["rows"].sources == (source.id,)
    assert {found.entities[x].generation for x in found.accounts} == {1, 2}
    assert kept_ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8" and kept_ranges([]) == ""


@pytest.mark.slow  # trains and compresses a small model three times
def test_a_compressed_checkpoint_answers_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dense weights, data, split, method, decisions, calibration, code, versions, seed, machine; and what has changed."""
    monkeypatch.chdir(tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    environment["PYTHONPATH"] = os.pathsep.join(x for x in sys.path if x)

    def run(words: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "sparsam.cli", *words.split(), "--json"], env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.stdout, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return {"status": done.returncode} | found

    assert (
        run("finetune vit:width=16,layers=2,heads=2,patch=2 --task digits --epochs 1 --out dense")["status"]
        == 0
    )
    for seed in (4, 5):  # the second replaces the first
        made = run(
            "compress dense --task digits --method ftpp+int8 --budget macs=0.7x --samples 64 --out small "
            f"--seed {seed}"
        )
        assert made["status"] == 0
    answer = run("lineage small")
    steps = answer["steps"]
    first, sources = steps[0], {x["path"]: x for x in steps[1:]}
    dense = sources[str(tmp_path / "dense" / "model.safetensors")]
    assert dense["state"] == "unchanged" and dense["sha256"] == questions.sha256_of("dense/model.safetensors")
    told, by = first["account"], answer["programs"][first["by"]["id"]]
    settings = told["configuration"]
    assert settings["method"] == "FTPP + Int8" and settings["seed"] == 5 and settings["FTPP.samples"] == 64
    assert len(settings["dense weights"]) == 64 and len(settings["held out rows"]) == 64
    assert "scikit-learn digits" in settings["data"] and json.loads(settings["budget"]) == {"macs": 0.7}
    plan = json.loads(Path("small/config.json").read_text())["quantization_config"]["plan"]
    kept = {x["name"]: x["value"] for x in told["decisions"]}
    assert {
        name: kept_ranges(value) if isinstance(value, list) else value
        for _, name, value in decisions_of(plan)
    } == kept
    assert {x["calibration"] for x in told["decisions"]} == {"FTPP", "Int8"}
    rows = {x["name"]: x for x in told["calibrations"]}
    assert rows["FTPP"]["rows"] == 64 and len(rows["FTPP"]["sha256"]) == 64
    evaluation = json.loads(Path("small/evaluation.json").read_text())["evaluation"]["model"]
    assert told["metrics"]["accuracy"] == evaluation["value"]
    assert (
        by["versions"]["torch"]
        and by["machine"]["cores"]
        and by["command"][:3] == ["sparsam", "compress", "dense"]
    )
    assert run("reproduce small")["status"] == 0
    query = (
        "SELECT ?name ?bits ?rows WHERE { ?file io:path ?path ; io:decidedBy ?d . ?d a io:BitWidth ; io:name ?name ; "
        "prov:value ?bits ; prov:wasDerivedFrom/io:rows ?rows . "
        "?file io:madeWith [ a io:Seed ; io:name 'seed' ; prov:value 5 ] }"
    )
    from sparsam.provenance.store import query as asked

    assert {tuple(x) for x in asked(query).rows} == {
        (f"layer {at} {x}", 8, 64) for at in (0, 1) for x in ("qkv", "o", "up", "down")
    }
    content = bytearray(Path("dense/model.safetensors").read_bytes())
    content[-1] ^= 1
    Path("dense/model.safetensors").write_bytes(bytes(content))
    again = run("reproduce small")
    assert again["status"] == 3 and str(tmp_path / "dense" / "model.safetensors") in again["error"]["message"]
