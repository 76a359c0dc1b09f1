"""The commands simulate, machines and explore: what they write and print, exit codes, and that torch stays away."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fake_design
import numpy as np
import pytest
from fake_design import machine_file
from scipy.io import mmwrite

from sparsam.cli import main
from sparsam.hardware import explore as exploring
from sparsam.hardware.machine import machines
from sparsam.hardware.simulation import SAYS

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    """200 columns, whatever the terminal says."""
    monkeypatch.setenv("COLUMNS", "200")


def only_json(text: str) -> dict:
    """The one object on standard output."""
    assert text.count("\n") == 1
    return json.loads(text)


def test_simulate_prints_a_table_and_writes_the_report(fake, trace, capsys, tmp_path):
    """Each machine has a line; page, table and JSON are in the folder; layers left out are said."""
    other = machine_file(tmp_path, "other", bandwidth=0.05)
    assert main(["simulate", str(trace), "--on", f"{fake},{other}", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert SAYS in shown.out
    assert "default40" in shown.out
    for name in ("fake", "other"):
        assert any(line.split()[:2] == [name, "exact"] for line in shown.out.splitlines())
    assert "not computed on fake: encoder.0.attention: it does products with weights alone" in shown.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "simulation.html", "simulation.md", "simulation.json"
    }  # fmt: skip


def test_simulate_answers_in_json(fake, trace, capsys, tmp_path):
    """One object, the same as in the file, with seed, mode, constants and every layer."""
    given = [
        "simulate",
        str(trace),
        "--on",
        str(fake),
        "--out",
        str(tmp_path / "out"),
        "--mode",
        "sampled",
        "--seed",
        "5",
    ]
    assert main([*given, "--json"]) == 0
    found = only_json(capsys.readouterr().out)
    stored = json.loads((tmp_path / "out" / "simulation.json").read_text())
    assert {key: found[key] for key in stored} == stored
    assert found["how"]["seed"] == 5
    assert found["machines"][0]["mode"] == "sampled"
    assert found["machines"][0]["layers"][0]["detail"]["seed"] == 5
    assert found["constants"]["name"] == "default40"
    assert found["workload"] == "trace"


@pytest.mark.parametrize(
    ("more", "code", "text", "exit_code"),
    [
        (["--on", "nothing"], "machine-unknown", "no machine is called 'nothing'", 2),
        ([], "machines-missing", "no machine is named", 2),
        (["--on", "FAKE", "--table", "other"], "energy-table", "no energy table is called 'other'", 2),
        (["--on", "FAKE", "--error", "2"], "simulate-error", "a share between 0 and 1", 2),
        (["--on", "FAKE,FAKE"], "machines-twice", "named twice", 2),
        (["--on", "FAKE", "--mode", "guess"], "usage", "guess", 2),
        (["--on", "missing.toml"], "machine-file", "missing.toml cannot be read", 5),
        (["SECOND", "--on", "FAKE"], "simulate-second", "belongs to a Matrix Market file", 2),
    ],
)
def test_wrong_usage_is_named(fake, trace, capsys, tmp_path, more, code, text, exit_code):
    """Each mistake has its code, its text and its exit code, before any layer is simulated."""
    more = [one.replace("FAKE", str(fake)) for one in more]
    assert main(["simulate", str(trace), *more, "--out", str(tmp_path / "out"), "--json"]) == exit_code
    error = only_json(capsys.readouterr().out)["error"]
    assert error["code"] == code
    assert text in error["message"]
    assert not (tmp_path / "out").exists()


def test_machine_with_impossible_parameters_is_refused(tmp_path, fake, trace, capsys):
    """Zero lanes in a file of one's own end with 3 and the value."""
    file = tmp_path / "broken.toml"
    file.write_text(fake.read_text().replace("value = 16", "value = 0"))
    assert main(["simulate", str(trace), "--on", str(file), "--out", str(tmp_path / "out")]) == 3
    assert "lanes of machine broken is 0; it must be a whole number from 1 to 64" in capsys.readouterr().err


def test_no_trace_says_how_to_record_one(fake, capsys, tmp_path):
    """A folder without a trace ends with 5 and the command."""
    (tmp_path / "empty").mkdir()
    assert main(["simulate", str(tmp_path / "empty"), "--on", str(fake), "--out", str(tmp_path / "out")]) == 5
    assert "sparsam trace MODEL" in capsys.readouterr().err


def test_damaged_layer_is_named(fake, trace, capsys, tmp_path):
    """A flipped byte in a layer's file ends with 5 and the layer's name."""
    file = trace / "layer-00001.safetensors"
    read = bytearray(file.read_bytes())
    read[-1] ^= 1
    file.write_bytes(bytes(read))
    assert main(["simulate", str(trace), "--on", str(fake), "--out", str(tmp_path / "out")]) == 5
    assert "layer stem of" in capsys.readouterr().err


def test_other_files_in_the_folder_are_left_alone(fake, trace, capsys, tmp_path):
    """A folder with something else is refused before the work."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    assert main(["simulate", str(trace), "--on", str(fake), "--out", str(tmp_path / "out")]) == 2
    assert "holds files and no simulation.json" in capsys.readouterr().err


def test_matrices_are_multiplied(fake, capsys, tmp_path):
    """A Matrix Market file with itself, or with a second one; sizes that do not fit are the design's to refuse."""
    mmwrite(tmp_path / "a.mtx", np.array([[1, 0], [2, 3]]))
    mmwrite(tmp_path / "b.mtx", np.array([[0, 0, 1], [1, 0, 0]]))
    given = ["--on", str(fake), "--out", str(tmp_path / "out"), "--json"]
    assert main(["simulate", str(tmp_path / "a.mtx"), *given]) == 0
    alone = only_json(capsys.readouterr().out)
    assert alone["workload"] == "a.mtx × a.mtx"
    assert alone["machines"][0]["cycles"] == 2 * 1 + 1 * 2
    assert alone["machines"][0]["energy_pj"]["compute"] == pytest.approx(0.54 * 4)
    assert main(["simulate", str(tmp_path / "a.mtx"), str(tmp_path / "b.mtx"), *given]) == 0
    both = only_json(capsys.readouterr().out)
    assert both["workload"] == "a.mtx × b.mtx"
    assert both["machines"][0]["cycles"] == 2 * 1 + 1 * 1
    assert main(["simulate", str(tmp_path / "b.mtx"), *given]) == 3
    assert only_json(capsys.readouterr().out)["error"]["code"] == "matrix-sizes"


def test_matrix_that_is_missing_or_none_is_named(fake, capsys, tmp_path):
    """A file that is not there, and one that is no Matrix Market file, end with an error of their own."""
    (tmp_path / "a.mtx").write_text("1 2 3")
    for name in ("a.mtx", "absent.mtx.gz"):
        assert main(
            ["simulate", str(tmp_path / name), "--on", str(fake), "--out", str(tmp_path / "out")]
        ) in (3, 5)
        assert name in capsys.readouterr().err


def test_design_without_matrices_is_named(fake, capsys, tmp_path, monkeypatch):
    """A machine for layers is no machine for matrices."""
    monkeypatch.delattr(fake_design, "simulate_matrices")
    mmwrite(tmp_path / "a.mtx", np.eye(2))
    assert main(["simulate", str(tmp_path / "a.mtx"), "--on", str(fake), "--out", str(tmp_path / "out")]) == 2
    assert "runs layers of a trace, not sparse matrices" in capsys.readouterr().err


def test_machine_is_shown_with_every_parameter(fake, capsys):
    """Value, unit and source of each; the same in JSON."""
    assert main(["machines", str(fake)]) == 0
    shown = capsys.readouterr().out
    for text in (
        "A made-up accelerator",
        "Nobody, Nowhere, 1900.",
        "lanes",
        "multipliers",
        "from memory, not checked",
    ):
        assert text in shown
    assert main(["machines", str(fake), "--json"]) == 0
    found = only_json(capsys.readouterr().out)
    assert found["parameters"]["lanes"] == {"value": 16, "unit": "multipliers", "source": "chosen by us"}


def test_machines_are_listed(capsys):
    """Each file that comes with the package has a line, and an object in JSON."""
    assert main(["machines"]) == 0
    shown = capsys.readouterr().out
    assert main(["machines", "--json"]) == 0
    found = only_json(capsys.readouterr().out)["machines"]
    assert [one["machine"] for one in found] == list(machines())
    assert all(name in shown for name in machines())


@pytest.mark.parametrize("name", sorted(machines()))
def test_each_machine_can_be_shown(name, capsys):
    """Its parameters pass its design's own check, and none is without unit or source."""
    assert main(["machines", name, "--json"]) == 0
    found = only_json(capsys.readouterr().out)
    assert found["parameters"]
    assert all(one["source"].strip() for one in found["parameters"].values())


def test_hostile_words_reach_the_terminal_as_text(trace, capsys, tmp_path, fake):
    """What steers a terminal is taken out of sources and names."""
    bad = machine_file(tmp_path, "bad", word="x\\u001b[31m\\u202ered")
    assert main(["machines", str(bad)]) == 0
    assert main(["simulate", str(trace), "--on", str(bad), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "\u202e" not in shown.out + shown.err


def test_explore_writes_and_prints_the_grid(fake, trace, capsys, tmp_path):
    """Page, table and JSON; the front is marked; a second run simulates nothing."""
    given = [
        "explore",
        str(fake),
        "--vary",
        "lanes=8,16",
        "--vary",
        "depth=1..2",
        str(trace),
        "--workers",
        "1",
    ]
    given += ["--out", str(tmp_path / "grid")]
    assert main(given) == 0
    shown = capsys.readouterr()
    assert "▲" in shown.out
    assert "Simulated, not measured" in shown.out
    assert {path.name for path in (tmp_path / "grid").iterdir()} == {
        "explore.html",
        "explore.md",
        "explore.json",
    }
    assert main([*given, "--json"]) == 0
    shown = capsys.readouterr()
    assert len(only_json(shown.out)["points"]) == 4
    assert "4 of 4 points" in shown.err


def test_interrupted_grid_says_how_to_go_on(fake, trace, capsys, tmp_path, monkeypatch):
    """Ctrl-C ends with 130; the points before it are kept, and the message says so."""
    real, begun = exploring.point_of, []

    def stopping(job):
        if begun:
            raise KeyboardInterrupt
        begun.append(job)
        return real(job)

    monkeypatch.setattr(exploring, "point_of", stopping)
    given = [
        "explore",
        str(fake),
        "--vary",
        "lanes=8,16",
        str(trace),
        "--workers",
        "1",
        "--out",
        str(tmp_path / "grid"),
    ]
    assert main(given) == 130
    assert "the same command goes on from them" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "grid" / "explore.json").read_text())["points"]) == 1


def test_explore_names_what_is_off(fake, trace, capsys, tmp_path):
    """A parameter twice, an unknown one, none at all: usage, with the parameter's name."""
    for more, text in (
        (["--vary", "lanes=1", "--vary", "lanes=2"], "--vary lanes is given twice"),
        (["--vary", "lines=1"], "no parameter 'lines'; it has clock_mhz"),
        ([], "name at least one parameter"),
    ):
        assert main(["explore", str(fake), str(trace), *more, "--out", str(tmp_path / "grid")]) == 2
        assert text in capsys.readouterr().err


WITHOUT_TORCH = """
import sys, fake_design
fake_design.register()
from sparsam.cli import main
from sparsam.hardware import explore as exploring
from sparsam.hardware.machine import machines
trace, on, out = sys.argv[1:]
assert main(["simulate", trace, "--on", on, "--out", out]) == 0
for name in machines():
    assert main(["machines", name]) == 0
fake = on.split(",")[0]
assert main(["explore", fake, "--vary", "lanes=8", trace, "--out", out + "-grid"]) == 0
heavy = {"torch", "transformers", "pandas", "sklearn", "accelerate", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
"""


def without_torch(trace: Path, on: list[str], out: Path, seconds: float) -> None:
    """Run the commands in a fresh process and look at what it imported."""
    env = dict(os.environ) | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-c", WITHOUT_TORCH, str(trace), ",".join(on), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=seconds)
    assert done.returncode == 0, done.stderr


def test_simulating_a_stored_trace_imports_no_torch(fake, trace, tmp_path):
    """From the command to the report, and for each design's own module: neither torch nor transformers."""
    without_torch(trace, [str(fake)], tmp_path / "out", 240)


@pytest.mark.slow  # compiles the kernels of every design
@pytest.mark.timeout(900)
def test_no_machine_imports_torch_when_it_runs(fake, trace, tmp_path):
    """Each machine that comes with the package simulates the small trace without torch."""
    without_torch(trace, [str(fake), *machines()], tmp_path / "out", 800)
