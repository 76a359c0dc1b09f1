"""The benchmark: its rows, orders and answers, who is absent, what it refuses, and how it is shown.

Contestants run in this process here, with the code that they run in their own; one slow test starts them for real.
"""

import copy
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
from tiny_checkpoints import Checkpoints

import sparsam
from sparsam.baselines.laps import contestant
from sparsam.baselines.spec import Spec
from sparsam.cli import main
from sparsam.clock import Race, Timing
from sparsam.errors import InputOutput, SparsamError, Usage
from sparsam.report import read_bench
from sparsam.runtime.freeze import native_bf16

HOSTILE = "[red]x\x1b[31m\u202e<script>alert(1)<script>[red]:smile:"
ROW = {
    "model", "baseline", "ratio_to_baseline", "order", "batch", "tokenisation", "low", "high", "spread", "doubtful",
    "samples_per_second", "baseline_samples_per_second", "p50_ms", "p95_ms", "accuracy", "accuracy_difference",
    "interval", "rows", "machine",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """A BERT, dense and with a plan, and its task."""
    return tiny_checkpoints.text_checkpoints(tmp_path_factory.mktemp("texts"))


def race_here(
    contestants: Mapping[str, Sequence[str]], *, rounds: int, warmups: int,
    progress: Callable[[int, int], None] | None, **given: Any,
) -> Race:  # fmt: skip
    """As :func:`sparsam.clock.race`, in this process; a contestant that cannot get ready is absent."""
    timings, absent = {}, {}
    for name, command in contestants.items():
        try:
            work, facts = contestant(Spec.read(Path(command[-1])))()
        except SparsamError as error:
            absent[name] = f"{name}: {type(error).__name__}: {error}"
            continue
        seconds = []
        for _ in range(warmups + rounds):
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
        timings[name] = Timing(name, tuple(seconds[warmups:]), json.loads(json.dumps(facts)))
    if progress is not None:
        progress(rounds, rounds)
    return Race(timings, absent, ("the machine is busy: a load of 9",))


@pytest.fixture(autouse=True)
def in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No processes but in slow tests; the cache is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "140")
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(sys.modules[sparsam.bench.__module__], "race", race_here)


def test_every_candidate_over_every_baseline(made: Checkpoints) -> None:
    """Rows of both orders, with and without reading; the schema; answers against the dense model in the same rows."""
    seen = []
    found = sparsam.bench(
        made.half, str(made.task), baselines=["packed-fp32"], rounds=2, batch=5,
        progress=lambda *said: seen.append(said[:3]),
    )  # fmt: skip
    whole = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (
        whole["schema"] == "sparsam.bench/1"
        and whole["split"] == "validation"
        and whole["dense"] == str(made.dense)
    )
    assert set(whole) >= {"schema", "task", "split", "rows", "absent", "warnings", "machine"}
    assert all(set(row) == ROW for row in whole["rows"])
    names = [
        f"{made.half}, fp32",
        *([f"{made.half}, bf16"] if f"{made.half}, bf16" not in found.absent else []),
    ]
    wanted = [("eager-fp32", "eager-fp32"), ("packed-fp32", "eager-fp32")]
    wanted += [(name, peer) for name in names for peer in ("eager-fp32", "packed-fp32")]
    for order in ("arrival", "sorted"):
        for reads in (False, True):
            rows = [row for row in found.rows if (row.order, row.tokenisation) == (order, reads)]
            assert [(row.model, row.baseline) for row in rows] == wanted
    for row in found.rows:
        assert row.rows == 24 and row.batch == 5 and row.p50_ms is None
        assert row.low <= row.ratio_to_baseline <= row.high and row.spread == row.high / row.low
        assert row.doubtful == (row.spread > 1.5)
        ratio = row.samples_per_second / row.baseline_samples_per_second
        assert (row.low <= ratio * 1.0001 and ratio <= row.high * 1.0001) or row.doubtful
        if row.model in ("eager-fp32", "packed-fp32"):  # the labels are the dense model's own answers
            assert (row.accuracy, row.accuracy_difference, row.interval) == (1.0, 0.0, (0.0, 0.0))
        else:
            assert row.accuracy < 1 and row.accuracy_difference == pytest.approx(100 * (row.accuracy - 1))
            assert row.interval[0] <= row.accuracy_difference <= row.interval[1]
    assert ("rounds", 8, 8) in seen
    assert any("a load of 9" in text for text in found.warnings)
    assert found.machine["threads"] == 1 and "torch" in found.machine["versions"]


def test_latencies_first_rows_and_a_pipeline(made: Checkpoints, tmp_path: Path) -> None:
    """Batch 1 has p50 and p95; --rows takes the first; a pipeline has no row without reading; the file is whole."""
    found = sparsam.bench(
        [made.half], str(made.task), baselines=["stock"], rounds=1, batch=1, rows=6, order="arrival"
    )
    assert {row.rows for row in found.rows} == {6} and {row.order for row in found.rows} == {"arrival"}
    for row in found.rows:
        assert row.p50_ms is not None and row.p95_ms is not None and 0 < row.p50_ms <= row.p95_ms
        assert row.tokenisation or "stock" not in row.model + row.baseline
    assert {row.model for row in found.rows} >= {"stock", f"{made.half}, stock", f"{made.half}, fp32"}
    (tmp_path / "found.json").write_text("old")
    found.save(tmp_path / "found.json")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["found.json"]
    assert len(read_bench(tmp_path / "found.json").rows) == len(found.rows)


def test_images_arrive(tmp_path: Path) -> None:
    """Images have one order; by length is refused."""
    images = tiny_checkpoints.image_checkpoints(tmp_path / "made")
    found = sparsam.bench(images.half, str(images.task), baselines=["packed-fp32"], rounds=1)
    assert {row.order for row in found.rows} == {"arrival"} and found.kind == "image"
    assert {row.tokenisation for row in found.rows} == {False, True}
    with pytest.raises(Usage, match="images are all of one length"):
        sparsam.bench(images.half, str(images.task), order="sorted")


def test_who_cannot_run_is_absent_by_name(made: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing extra and a failed export are named; without a candidate or the plain model there is no benchmark."""
    monkeypatch.setattr("sparsam.baselines.export.version_of", lambda name: None if "onnx" in name else "1")
    monkeypatch.setattr("sparsam.baselines.peers.native_bf16", lambda: False)
    found = sparsam.bench(
        made.half, str(made.task), baselines=["onnxruntime-int8", "packed-bf16"], rounds=1, order="arrival"
    )
    assert found.absent["onnxruntime-int8"].startswith("needs onnx and onnxruntime: pip install")
    assert set(found.absent) == {"onnxruntime-int8", "packed-bf16", f"{made.half}, bf16"}
    monkeypatch.setattr(
        "sparsam.baselines.laps.load", lambda folder: (_ for _ in ()).throw(Usage("gone", code="x"))
    )
    with pytest.raises(InputOutput, match="eager-fp32, which all are compared with, cannot run: Usage: gone"):
        sparsam.bench(made.half, str(made.task), baselines=["packed-fp32"], rounds=1)


def test_a_candidate_with_other_tokens_is_absent(made: Checkpoints, tmp_path: Path) -> None:
    """One whose tokenizer differs is left out with the reason; when none is left the benchmark says so."""
    shutil.copytree(made.half, tmp_path / "odd")
    loaded = sparsam.load(made.half)
    other = copy.deepcopy(loaded.processor)
    other.add_tokens(["1 2", "3 4"])
    other.model_max_length = 4
    sparsam.save(loaded.model, tmp_path / "odd", processor=other, facts=loaded.facts)
    with pytest.raises(
        InputOutput, match=r"none of the models can run: .*odd, fp32: Refused: its tokenizer makes"
    ):
        sparsam.bench(tmp_path / "odd", str(made.task), baselines=["packed-fp32"], rounds=1)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"order": "backwards"}, "order"),
        ({"baselines": ["tensorrt"]}, "baseline-unknown"),
        ({"batch": 0}, "batch"),
        ({"rows": 0}, "rows"),
        ({"rounds": 0}, "rounds"),
        ({"split": "test"}, "split-missing"),
        ({"split": "labels"}, "split-missing"),
        ({"models": []}, "model-missing"),
        ({"models": ["half", "half"]}, "model-twice"),
    ],
)
def test_wrong_usage_is_named(made: Checkpoints, given: dict[str, Any], code: str) -> None:
    """Each before anything runs."""
    with pytest.raises(Usage) as caught:
        sparsam.bench(given.pop("models", made.half), str(made.task), **given)
    assert caught.value.code == code


def test_regressions_are_scored_as_such(tmp_path: Path, tiny: Any) -> None:
    """One output: the answer is the number."""
    model, words = tiny.build("bert", num_labels=1), tiny_checkpoints.words()
    tiny_checkpoints.save(model, words, tmp_path / "dense", tmp_path / "half")
    lines = [f"{text},{at / 7:.3f}" for at, text in enumerate(tiny_checkpoints.texts(12))]
    (tmp_path / "validation.csv").write_text("\n".join(["text,label", *lines]))
    found = sparsam.bench(
        tmp_path / "half", str(tmp_path / "validation.csv"), baselines=["packed-fp32"], rounds=1
    )
    assert found.metric == "pearson_spearman"
    assert all(abs(row.accuracy_difference) < 0.01 for row in found.rows if row.model == "packed-fp32")


# --- the command -----------------------------------------------------------------------------------------------------


def only_json(text: str) -> dict[str, Any]:
    """The one object on standard output."""
    assert text.count("\n") == 1 and "\x1b" not in text
    found: dict[str, Any] = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return found


def test_the_command_answers_in_json_and_writes_it(
    made: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One object on standard output, the same in the file; warnings are notes on standard error."""
    out = tmp_path / "deep" / "found.json"
    asked = ["bench", str(made.half), "--task", str(made.task), "--baseline", "packed-fp32", "--rounds", "1"]
    assert main([*asked, "--order", "sorted", "--rows", "8", "--out", str(out), "--json"]) == 0
    shown = capsys.readouterr()
    whole = only_json(shown.out)
    assert whole == json.loads(out.read_text())
    assert {row["order"] for row in whole["rows"]} == {"sorted"} and whole["rows"][0]["rows"] == 8
    assert "note: the machine is busy" in shown.err


def test_every_line_of_the_table_names_its_baseline(
    made: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table an order; hostile names are text; who is absent is said; doubt is marked."""
    place = tmp_path / HOSTILE
    shutil.copytree(made.half, place)
    asked = [
        "bench",
        str(place),
        "--task",
        str(made.task),
        "--baseline",
        "openvino-int8",
        "--baseline",
        "packed-fp32",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparsam.baselines.export.version_of", lambda name: None)
        assert main([*asked, "--dense", str(made.dense), "--rounds", "2"]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err and "\u202e" not in shown.out + shown.err
    assert "24 rows in arrival order, batches of 32" in shown.out and "24 rows in sorted order" in shown.out
    lines = [line for line in shown.out.splitlines() if " given " in line or " made " in line]
    assert len(lines) >= 16
    for line in lines[:-1]:
        assert "x eager-fp32 (" in line or "x packed-fp32 (" in line
    together = " ".join(shown.out.split())
    assert (
        "Not timed: openvino-int8: needs onnx and openvino and nncf: pip install 'sparsam[openvino]'."
        in together
    )
    assert "<script>" in together and "in eager-fp32, in points on the same rows" in together


def test_errors_of_the_command(made: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit codes 2, 3 and 5 with one JSON error; a file that cannot be written is found before the race."""
    asked = ["bench", str(made.half), "--task", str(made.task), "--json"]

    def code(*more: str) -> tuple[int, str]:
        ended = main([*asked, *more])
        return ended, only_json(capsys.readouterr().out)["error"]["code"]

    assert code("--baseline", HOSTILE) == (2, "baseline-unknown")
    assert code("--order", "random") == (2, "usage")
    assert code("--dense", str(tmp_path / "absent")) == (5, "model-missing")
    assert code("--dense", str(made.half)) == (2, "dense-compressed")
    assert code("--out", str(tmp_path)) == (5, "out-not-writable")
    shutil.copytree(made.half, tmp_path / "orphan")
    loaded = sparsam.load(made.half)
    sparsam.save(loaded.model, tmp_path / "orphan", processor=loaded.processor)
    asked[1] = str(tmp_path / "orphan")
    assert code() == (2, "dense-missing")


# --- for real --------------------------------------------------------------------------------------------------------


def who_should_run(absent: Mapping[str, str]) -> dict[str, str]:
    """The absent, without forms in bfloat16 where the processor does not multiply it."""
    if native_bf16():
        return dict(absent)
    return {label: why for label, why in absent.items() if not label.endswith("bf16")}


@pytest.mark.slow  # some ten processes that each import torch; two exports
@pytest.mark.timeout(1200)
def test_processes_race_for_real(made: Checkpoints, tmp_path: Path) -> None:
    """Every peer that can run here takes part in a process of its own; the second benchmark exports nothing anew."""
    from sparsam.baselines.peers import PEERS

    chosen = [name for name, peer in PEERS.items() if name != "compile-bf16" and peer.why_absent() is None]
    given: dict[str, Any] = {
        "rounds": 1,
        "threads": 1,
        "order": "arrival",
        "batch": 5,
        "cache": tmp_path / "exports",
    }
    found = sparsam.bench(made.half, str(made.task), baselines=chosen, **given)
    assert who_should_run(found.absent) == {}
    assert {row.model for row in found.rows} >= set(chosen)
    for row in found.rows:
        if row.model in chosen and not row.model.endswith(("int8", "bf16")):
            assert row.accuracy == 1.0
    if "openvino-int8" not in chosen:
        return
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "exports").rglob("*")}
    again = sparsam.bench(made.half, str(made.task), baselines=["openvino-int8"], **given)
    assert who_should_run(again.absent) == {} and kept == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "exports").rglob("*")
    }


@pytest.mark.data
@pytest.mark.long
@pytest.mark.slow  # a real model on 64 sentences, every peer but the compiled one
@pytest.mark.timeout(1800)
def test_a_real_model_on_real_sentences(shared: Path, tmp_path: Path) -> None:
    """MiniLM on SST-2: every peer agrees with the plain model on nearly every sentence."""
    from sparsam.baselines.peers import PEERS

    chosen = [name for name, peer in PEERS.items() if name != "compile-bf16" and peer.why_absent() is None]
    found = sparsam.bench(
        shared / "models" / "minilm-sst2", str(shared / "data" / "sst2"), baselines=chosen, rows=64, rounds=1,
        order="arrival", cache=tmp_path / "exports",
    )  # fmt: skip
    assert who_should_run(found.absent) == {}
    assert {row.model for row in found.rows} >= set(chosen)
    for row in found.rows:
        assert row.accuracy > 0.8 and abs(row.accuracy_difference) <= 5
