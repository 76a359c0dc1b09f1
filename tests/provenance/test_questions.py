"""Questions to what was recorded, by function and by command."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sparsam.provenance as provenance
from sparsam.cli import main
from sparsam.errors import Refused, Usage
from sparsam.provenance import questions
from sparsam.provenance.tracked import track
from sparsam.provenance.writer import MAGIC

PREPARE = "import json\njson.dump(open('raw.csv').read().split(), open('clean.json', 'w'))\n"
TRAIN = """
import json, sys
import sparsam.provenance as p
rate = float(sys.argv[1])
rows = json.load(open('clean.json'))
p.record_config({'rate': rate})
open('model.bin', 'wb').write(bytes(int(100 * rate) for _ in rows) * 100)
p.record_metric('accuracy', 0.9 - rate)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three tracked runs: data prepared, a model trained twice."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(x for x in sys.path if x))
    (tmp_path / "raw.csv").write_text("a\nb\nc\n")
    (tmp_path / "prepare.py").write_text(PREPARE)
    (tmp_path / "train.py").write_text(TRAIN)
    assert track([sys.executable, "prepare.py"], run="prepared").status == 0
    for name, rate in (("slow", "0.1"), ("fast", "0.3")):
        made = track([sys.executable, "train.py", rate], run=name)
        assert made.status == 0 and made.hashed == 2 and not made.merged.damages
    return tmp_path


def names(steps: list[questions.Step]) -> list[tuple[str, int, str]]:
    return [(Path(x.entity.names[-1]).name, x.entity.generation, x.state) for x in steps]


def test_where_a_file_came_from(place: Path) -> None:
    """All the way, with commands, content and state."""
    steps = questions.lineage(provenance.recorded(), "model.bin")
    assert names(steps) == [
        ("model.bin", 2, "unchanged"), ("clean.json", 1, "unchanged"), ("raw.csv", 0, "unchanged"),
    ]  # fmt: skip
    assert steps[0].program is not None and steps[0].program.facts["argv"][1:] == ["train.py", "0.3"]
    assert steps[0].program.configuration == {"rate": 0.3}
    assert steps[2].program is None and steps[0].entity.sha256 == questions.sha256_of("model.bin")


def test_what_depends_on_a_file(place: Path) -> None:
    """Both models, the one that was replaced, too."""
    assert names(questions.impact(provenance.recorded(), "raw.csv"))[1:] == [
        ("clean.json", 1, "unchanged"), ("model.bin", 1, "replaced"), ("model.bin", 2, "unchanged"),
    ]  # fmt: skip


@pytest.mark.parametrize("victim", ["model.bin", "raw.csv"])
def test_one_turned_byte_is_named(place: Path, victim: str) -> None:
    """In a checkpoint or in an input, though size and time stay."""
    assert questions.verify(provenance.recorded(), ["model.bin"]) == []
    before = os.stat(victim)
    content = bytearray(Path(victim).read_bytes())
    content[1] ^= 1
    Path(victim).write_bytes(bytes(content))
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    (finding,) = questions.verify(provenance.recorded(), ["model.bin"])
    assert (finding.path, finding.what) == (str(place / victim), "changed")


def test_a_turned_byte_in_a_log_is_named(place: Path) -> None:
    """The records in front of it are still read."""
    (log, *_) = sorted((place / ".sparsam" / "runs" / "prepared").glob("*.log"))
    content = bytearray(log.read_bytes())
    content[len(MAGIC) + 30] ^= 1
    log.write_bytes(bytes(content))
    found = provenance.recorded()
    assert [x.what for x in questions.verify(found, ["model.bin"]) if x.path == str(log)] == ["damaged log"]


def test_how_a_file_was_made(place: Path) -> None:
    """Its command, and inputs that other runs or nobody wrote; what has gone since is missing."""
    made = questions.reproduce(provenance.recorded(), "model.bin")
    assert list(made.command)[1:] == ["train.py", "0.3"] and made.cwd == str(place)
    assert [Path(x.entity.path).name for x in made.inputs] == ["clean.json", "raw.csv"] and not made.missing
    (place / "clean.json").unlink()
    assert questions.reproduce(provenance.recorded(), "model.bin").missing == (str(place / "clean.json"),)
    with pytest.raises(Refused) as error:
        questions.reproduce(provenance.recorded(), "raw.csv")
    assert error.value.code == "not-made"


def test_runs_compared(place: Path) -> None:
    """The best, the best under a condition, and in what two differ."""
    found = provenance.recorded()
    assert [x.name for x in questions.runs(found)] == ["prepared", "slow", "fast"]
    assert [x.name for x in questions.best(found, "accuracy")] == ["slow", "fast"]
    assert [x.name for x in questions.best(found, "accuracy", lowest=True)] == ["fast", "slow"]
    assert [x.name for x in questions.best(found, "accuracy", where={"rate": "0.3"})] == ["fast"]
    with pytest.raises(Usage, match="there are accuracy"):
        questions.best(found, "loss")
    differences = {(x.what, x.name): (x.first, x.second) for x in questions.diff(found, "slow", "fast")}
    assert differences["setting", "rate"] == (0.1, 0.3) and ("metric", "accuracy") in differences
    assert not [key for key in differences if key[0] == "input"]
    with pytest.raises(Usage, match="there are prepared, slow, fast"):
        questions.diff(found, "slow", "missing")


def test_what_a_run_did_to_files(place: Path) -> None:
    """Calls and bytes by file."""
    rows = {(x.call, Path(x.path).name): x for x in questions.io_profile(provenance.recorded(), "fast")}
    assert (
        rows["write", "model.bin"].bytes == 300
        and rows["read", "clean.json"].bytes == (place / "clean.json").stat().st_size
    )
    assert "takes" in questions.bottleneck(list(rows.values()))


def test_unseen_paths_are_refused(place: Path) -> None:
    """With what to do."""
    with pytest.raises(Refused, match="sparsam track -- COMMAND") as error:
        questions.lineage(provenance.recorded(), "train.py")
    assert error.value.code == "path-unknown"


def asked(capsys: Any, *words: str, status: int = 0) -> Any:
    """The JSON answer of a command."""
    capsys.readouterr()
    assert main([*words, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_the_commands(place: Path, capsys: Any) -> None:
    """Each gives what its function gives, as JSON and in words."""
    steps = asked(capsys, "lineage", "model.bin")["steps"]
    assert [Path(x["path"]).name for x in steps] == ["model.bin", "clean.json", "raw.csv"]
    assert len(asked(capsys, "impact", "raw.csv")["steps"]) == 4
    assert asked(capsys, "verify", ".")["findings"] == []
    assert asked(capsys, "reproduce", "model.bin")["command"][1:] == ["train.py", "0.3"]
    assert [x["name"] for x in asked(capsys, "runs")["runs"]] == ["prepared", "slow", "fast"]
    assert [x["name"] for x in asked(capsys, "best", "--metric", "accuracy")["runs"]] == ["slow", "fast"]
    assert (
        asked(capsys, "diff", "slow", "fast")["differences"] and asked(capsys, "io-profile", "fast")["calls"]
    )
    for words in (
        ["lineage", "model.bin"], ["impact", "raw.csv"], ["verify", "."], ["reproduce", "model.bin"], ["runs"],
        ["best", "--metric", "accuracy"], ["diff", "slow", "fast"], ["io-profile", "fast"],
    ):  # fmt: skip
        assert main(words) == 0
    said = capsys.readouterr().out
    for part in ("raw.csv", "All as recorded.", "train.py 0.3", "prepared", "rate", "in calls"):
        assert part in said
    (place / "raw.csv").write_text("other")
    assert asked(capsys, "verify", "model.bin", status=3)["findings"][0]["what"] == "changed"
    assert (
        main(["verify", "model.bin"]) == 3
        and main(["lineage", "nowhere"]) == 3
        and main(["verify", "nowhere"]) == 5
    )


def test_track_gives_the_command_s_exit_code(place: Path, capfd: Any) -> None:
    """And says what it saw, or why it saw nothing."""
    assert (
        main(
            [
                "track",
                "--run",
                "bad",
                "--",
                sys.executable,
                "-c",
                "import sys; open('x', 'w').write('x'); sys.exit(7)",
            ]
        )
        == 7
    )
    assert "1 programs, 0 files read, 1 written" in capfd.readouterr().err
    assert main(["track", "--no-native", "--run", "shell", "--", "true"]) == 0
    assert "its files were not seen" in capfd.readouterr().err
    assert (
        main(["track", "--", "no-such-program"]) == 5
        and main(["track", "--off", "nonsense", "--", "true"]) == 2
    )
    assert main(["track", "--hash", "some", "--", "true"]) == 2


def test_a_read_only_place_is_an_error_before_anything_runs(place: Path, capfd: Any) -> None:
    """Nothing is run untracked without being asked to."""
    (place / "file").write_text("x")
    assert main(["track", "--folder", "file", "--", sys.executable, "-c", "print('ran')"]) == 5
    assert "ran" not in capfd.readouterr().out


def test_hostile_names_stay_names(place: Path, capsys: Any) -> None:
    """A file's name with escapes, markup and line breaks does nothing to the terminal or the JSON."""
    name = "a\x1b[31m<b>\n\"'|.txt"
    code = f"open({name!r}, 'w').write(open('raw.csv').read())"
    assert track([sys.executable, "-c", code], run="hostile").status == 0
    steps = asked(capsys, "lineage", name)["steps"]
    assert Path(steps[0]["path"]).name == name
    assert main(["lineage", name]) == 0
    assert "\x1b[31m" not in capsys.readouterr().out


def test_signals_reach_the_program(place: Path) -> None:
    """SIGTERM ends the command, and its files are recorded."""
    code = "import time\nopen('begun', 'w').write(open('raw.csv').read())\nprint('ready', flush=True)\ntime.sleep(60)\n"
    process = subprocess.Popen(
        [sys.executable, "-m", "sparsam", "track", "--run", "ended", "--", sys.executable, "-c", code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(20) == 143
    process.communicate()
    found = provenance.recorded(runs=["ended"])
    assert [
        x.status for x in found.programs.values() if x.facts["argv"][-1] == code and x.status is not None
    ] == [143]
