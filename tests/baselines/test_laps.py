"""A contestant at work: which lap it runs when, what it answers, and what its latencies are."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import Checkpoints

from sparsam.baselines.cache import version_of
from sparsam.baselines.dense import checkpoint
from sparsam.baselines.entrants import Entrant, enter, export
from sparsam.baselines.feed import Feed
from sparsam.baselines.laps import Runner, contestant, threads_here
from sparsam.baselines.peers import PEERS
from sparsam.baselines.spec import Lap, Spec, command
from sparsam.errors import Refused
from sparsam.task import Task

LAPS = tuple(Lap(order, reads) for order in ("arrival", "sorted") for reads in (False, True))


def spec(feed: Feed, place: Path, form: str = "eager-fp32", batch: int = 5, latencies: str = "") -> Spec:
    return Spec(
        form, str(feed.loaded.folder), str(feed.stored.folder), str(place), batch, LAPS, 2, 3, latencies
    )


def test_the_spec_survives_its_file(text_feed: Feed, tmp_path: Path) -> None:
    """What is written is read; the command line starts no module of the working directory."""
    made = spec(text_feed, tmp_path)
    made.write(tmp_path / "spec.json")
    assert Spec.read(tmp_path / "spec.json") == made
    assert command(tmp_path / "x")[1:] == ["-P", "-m", "sparsam.baselines", str(tmp_path / "x")]
    assert command(tmp_path / "x", export=True)[-1] == "export"


def test_laps_come_in_turn_and_then_in_blocks(text_feed: Feed, tmp_path: Path) -> None:
    """Warming goes round all laps twice; then three rounds of each."""
    made = spec(text_feed, tmp_path)
    assert [LAPS.index(made.lap_of(run)) for run in range(20)] == [0, 1, 2, 3] * 2 + [0] * 3 + [1] * 3 + [
        2
    ] * 3 + [3] * 3


def test_answers_are_of_the_timed_work_and_in_the_order_of_the_rows(
    text_feed: Feed, of_texts: Checkpoints, tmp_path
) -> None:
    """Whatever the lap's order: row by row what the model itself says."""
    work, facts = contestant(spec(text_feed, tmp_path))()
    assert facts["threads"] == threads_here() == 1
    labels = Task.load(str(of_texts.task))
    assert labels.validation is not None
    names = [of_texts.model.config.id2label[at] for at in facts["answers"]["sorted"]]
    assert names == [labels.labels[at] for at in labels.validation.labels]
    assert facts["answers"]["arrival"] == facts["answers"]["sorted"]
    work()


def test_a_pipeline_has_no_lap_without_reading(text_feed: Feed, tmp_path: Path) -> None:
    """It passes such a lap at once, and answers from the others."""
    peer = PEERS["stock"]

    def serve(part):
        assert part.read
        return np.eye(3, dtype=np.float32)[np.zeros(len(part.rows), int)]

    runner = Runner(spec(text_feed, tmp_path, "stock"), text_feed, serve, peer)
    runner()
    assert runner.answers() == {"arrival": [0] * 24, "sorted": [0] * 24}


def test_an_output_that_is_no_number_is_refused(text_feed: Feed, tmp_path: Path) -> None:
    """NaN is named with its row, and no time is made of it."""
    bad = np.full((5, 3), np.nan, np.float32)
    runner = Runner(
        spec(text_feed, tmp_path), text_feed, lambda part: bad[: len(part.rows)], PEERS["eager-fp32"]
    )
    with pytest.raises(Refused, match="its output for row 0 is not a number"):
        runner.answers()


def test_latencies_are_of_the_rounds_alone(text_feed: Feed, of_texts: Checkpoints, tmp_path: Path) -> None:
    """Warming is left out; median of the rounds' percentiles; none for a lap that is not run."""
    file = tmp_path / "seconds.f8"
    rounds = np.concatenate(
        [np.full(8 * 24, 9.0), np.repeat([0.001, 0.002, 0.004, *[np.nan] * 3], 24), np.full(6 * 24, 0.003)]
    )
    rounds.tofile(file)
    made = spec(text_feed, tmp_path, batch=1, latencies=str(file))
    one = Entrant(checkpoint(of_texts.dense, Task.load(str(of_texts.task))), made, tmp_path, False)
    found = one.latencies(24)
    assert found[0] == pytest.approx((2.0, 2.0)) and found[1] == (None, None)
    assert found[3] == pytest.approx((3.0, 3.0))


def test_latencies_are_written_run_by_run(text_feed: Feed, tmp_path: Path) -> None:
    """One number a batch, also for a lap that passes."""
    file = tmp_path / "seconds.f8"
    made = spec(text_feed, tmp_path, batch=1, latencies=str(file))
    runner = Runner(made, text_feed, lambda part: np.zeros((1, 3), np.float32), PEERS["stock"])
    runner()
    runner()
    seconds = np.fromfile(file).reshape(2, 24)
    assert np.isnan(seconds[0]).all() and (seconds[1] > 0).all()


def test_a_short_lap_is_run_over_and_over(text_feed: Feed, tmp_path: Path) -> None:
    """As often as fits into the time a run must last, and it says how often; a long lap is run once."""
    made = spec(text_feed, tmp_path)
    runner = Runner(made, text_feed, lambda part: np.zeros((5, 3), np.float32), PEERS["eager-fp32"])
    assert runner() == 1  # nothing is known of the lap yet
    runner.took[LAPS[1]] = 0.1
    assert runner() == 3
    runner.took[LAPS[2]] = 7.0
    assert runner() == 1
    assert runner.took[LAPS[2]] < 0.25  # what was found out since


def test_who_enters(
    of_texts: Checkpoints, text_feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peers by their names, candidates by folder and form; what cannot run is absent; pipelines only where asked for."""
    task = Task.load(str(of_texts.task))
    dense, half = checkpoint(of_texts.dense, task), checkpoint(of_texts.half, task)
    given = spec(text_feed, tmp_path)
    monkeypatch.setattr("sparsam.baselines.peers.native_bf16", lambda: False)
    entered, absent = enter(dense, [half], ["eager-fp32", "eager-bf16"], given, tmp_path)
    assert list(entered) == ["eager-fp32", f"{half.name}, fp32"]
    assert set(absent) == {"eager-bf16", f"{half.name}, bf16"}
    assert [one.candidate for one in entered.values()] == [False, True]
    entered, _ = enter(dense, [half], ["eager-fp32", "stock"], given, tmp_path)
    assert list(entered) == ["eager-fp32", "stock", f"{half.name}, fp32", f"{half.name}, stock"]
    assert Spec.read(entered["stock"].file).folder == str(dense.folder)
    entered, _ = enter(dense, [replace(half, integers=True)], ["eager-fp32"], given, tmp_path)
    assert list(entered) == ["eager-fp32", f"{half.name}, int8"]
    assert not half.integers


@pytest.mark.skipif(version_of("onnxruntime") is None, reason="onnxruntime is absent")
def test_a_failed_export_is_named(
    of_texts: Checkpoints, text_feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line of what the exporting process said; the others go on, and what is in the cache starts no process."""
    dense = checkpoint(of_texts.dense, Task.load(str(of_texts.task)))
    entered, _ = enter(
        dense, [], ["eager-fp32", "onnxruntime-fp32"], spec(text_feed, tmp_path / "cache"), tmp_path
    )
    started: list[list[str]] = []

    def run(command: list[str], **given: Any) -> SimpleNamespace:
        started.append(command)
        return SimpleNamespace(returncode=1, stderr="Traceback\n  line\nRuntimeError: no such operator\n\n")

    monkeypatch.setattr("subprocess.run", run)
    seen: list[tuple[int, int]] = []
    assert export(entered, 1, lambda done, total: seen.append((done, total))) == {
        "onnxruntime-fp32": "could not be exported: RuntimeError: no such operator"
    }
    assert seen == [(1, 1)] and [command[-1] for command in started] == ["export"]
    monkeypatch.setattr("sparsam.baselines.cache.Entry.is_there", lambda entry: True)
    assert export(entered, 1) == {} and len(started) == 1
