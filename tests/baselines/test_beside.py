"""The dense checkpoint in other runtimes beside its packed form: ratios, answers, sizes, and who is left out and why.

Contestants run in this process, with the code that they run in their own; the clock is a fake one.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import Checkpoints

from sparsam.baselines import beside
from sparsam.baselines.beside import beside_packed
from sparsam.baselines.laps import contestant
from sparsam.baselines.peers import PEERS
from sparsam.baselines.spec import Spec
from sparsam.clock import Race, Timing
from sparsam.compress.opening import split_of
from sparsam.errors import InputOutput
from sparsam.task import Task

SECONDS = {"packed-fp32": 1.0, "eager-fp32": 4.0, "onnxruntime-fp32": 2.0}
"""Of a round in batches; a single row takes a hundredth."""


def fake_race(contestants: Mapping[str, Sequence[str]], *, rounds: int, progress: Any, **given: Any) -> Race:
    """As :func:`sparsam.clock.race`: real answers, made-up times, the third round of everybody half as fast."""
    timings = {}
    for name, command in contestants.items():
        spec = Spec.read(Path(command[-1]))
        _, facts = contestant(spec)()
        seconds = tuple(SECONDS[name] * (2 if number == 2 else 1) for number in range(rounds))
        timings[name] = Timing(name, seconds, facts)
        if spec.latencies:
            count = len(facts["answers"]["arrival"])
            np.repeat(np.array(seconds) / 100, count).tofile(spec.latencies)
    if progress is not None:
        progress(rounds, rounds)
    return Race(timings, {}, ("the machine is busy",))


@pytest.fixture
def raced(
    of_texts: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., beside.Beside]:
    """The function under test on the fake clock."""
    monkeypatch.setattr(beside, "race", fake_race)
    task = Task.load(str(of_texts.task))

    def run(names: Sequence[str], source: Path | None = None, **more: Any) -> beside.Beside:
        split = split_of(task, "validation")
        return beside_packed(
            source or of_texts.dense,
            task,
            split,
            packed="float32",
            names=names,
            batch=8,
            cache=tmp_path,
            **more,
        )

    return run


def test_ratios_are_over_the_packed_form_in_the_same_rounds(raced: Callable[..., beside.Beside]) -> None:
    """A round that is slow for all changes no ratio; samples a second, p50 and answers are the race's own."""
    seen = []
    found = raced(["eager-fp32"], progress=lambda *said: seen.append(said))
    (one,) = found.others
    assert (one.name, one.says) == ("eager-fp32", PEERS["eager-fp32"].says)
    assert (one.throughput_ratio, one.latency_ratio, one.spread) == (0.25, 4.0, 1.0)
    assert one.throughput == 24 / 4.0 and one.p50_ms == pytest.approx(40.0)
    assert found.rows == len(one.predictions) == 24
    assert found.absent == {} and found.warnings == ("the machine is busy",)
    assert {stage for stage, _, _ in seen} == {"baselines", "baselines alone"}


def test_answers_are_in_the_tasks_classes(raced: Callable[..., beside.Beside], of_texts: Checkpoints) -> None:
    """The labels are the dense model's own answers, all but one at most; so are what it says in another runtime."""
    found = raced(["eager-fp32"])
    labels = split_of(Task.load(str(of_texts.task)), "validation").labels
    assert (found.others[0].predictions == labels).sum() >= 23


def test_an_export_is_raced_and_weighed(raced: Callable[..., beside.Beside], of_texts: Checkpoints) -> None:
    """ONNX Runtime gives the same answers; its size is that of its own file, eager's that of the weights."""
    pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    eager, other = raced(["eager-fp32", "onnxruntime-fp32"]).others
    assert (other.throughput_ratio, other.latency_ratio) == (0.5, 2.0)
    assert (other.predictions == eager.predictions).all()
    assert eager.bytes == (of_texts.dense / "model.safetensors").stat().st_size
    assert 0 < other.bytes != eager.bytes


def test_who_cannot_run_is_left_out_by_name(
    raced: Callable[..., beside.Beside], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing extra is named; without the packed form there is nothing to compare, and all are named with its reason."""
    monkeypatch.setattr(sys.modules["sparsam.baselines.export"], "version_of", lambda name: None)
    found = raced(["eager-fp32", "openvino-fp32"])
    assert [one.name for one in found.others] == ["eager-fp32"]
    assert (
        list(found.absent) == ["openvino-fp32"]
        and "pip install 'sparsam[openvino]'" in found.absent["openvino-fp32"]
    )

    def without_packed(contestants: Mapping[str, Sequence[str]], **given: Any) -> Race:
        found = fake_race(contestants, **given)
        timings = {name: timing for name, timing in found.timings.items() if name != "packed-fp32"}
        return Race(timings, {"packed-fp32": "packed-fp32: no memory"}, ())

    monkeypatch.setattr(beside, "race", without_packed)
    found = raced(["eager-fp32"])
    assert found.others == () and found.absent == {
        "eager-fp32": "packed-fp32, which ratios are over, cannot run: no memory"
    }


def test_a_race_that_ends_early_is_told(
    raced: Callable[..., beside.Beside], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stops in a round leaves no ratios; the reason stands with all of them. Other errors go their way."""

    def ended(code: str) -> Callable[..., Race]:
        def stop(*args: Any, **given: Any) -> Race:
            raise InputOutput("eager-fp32: its process ended with exit code -9", code=code)

        return stop

    monkeypatch.setattr(beside, "race", ended("contestant"))
    found = raced(["eager-fp32"])
    assert found.others == () and "ended with exit code -9" in found.absent["eager-fp32"]
    monkeypatch.setattr(beside, "race", ended("no-space"))
    with pytest.raises(InputOutput, match="exit code -9"):
        raced(["eager-fp32"])


def test_a_compressed_model_is_not_served_elsewhere(
    raced: Callable[..., beside.Beside], of_texts: Checkpoints
) -> None:
    """Other runtimes serve dense checkpoints; for one with a plan all are left out, for that reason."""
    found = raced(["eager-fp32"], of_texts.half)
    assert found.others == () and "is compressed itself" in found.absent["eager-fp32"]
