"""The accuracy–speed front: its points, what is made again, the same on a cluster's workers, and the page that shows it."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
from tiny_checkpoints import Checkpoints

from sparsam import artifact
from sparsam.baselines.beside import Beside, Other
from sparsam.cli import main
from sparsam.compress.pareto import Front, Point, _fronted, pareto
from sparsam.errors import InputOutput, Refused, Usage
from sparsam.report import write_report
from sparsam.structure import FTPP
from sparsam.training.loop import Settings

SETTINGS = Settings(batch_tokens=128, precision="fp32")
FINE = (FTPP(multiple=1),)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return tiny_checkpoints.text_checkpoints(tmp_path_factory.mktemp("texts"), rows=48)


def front_of(made: Checkpoints, out: Path, baselines: Sequence[str] = (), **more: Any) -> Front:
    return pareto(
        str(made.dense),
        str(made.task),
        out,
        methods=FINE,
        points=(0.4, 0.7),
        settings=SETTINGS,
        batch=8,
        baselines=baselines,
        **more,
    )


def test_points_are_made_once_measured_and_shown(
    texts: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dense first, then by budget; a second call makes nothing, another seed its own; the page shows picture and table."""
    seen: list[str] = []
    found = front_of(texts, tmp_path / "front", progress=lambda stage, *rest: seen.append(stage))
    assert [Path(point.folder).name for point in found.points] == ["", "macs-0.7", "macs-0.4"]
    assert (
        found.points[0].dense and found.points[0].throughput_ratio == 1 and found.points[0].difference is None
    )
    assert [round(point.macs_ratio, 1) for point in found.points] == [1.0, 0.7, 0.4]
    assert found.points[2].bytes < found.points[1].bytes < found.points[0].bytes
    assert any(point.on_front for point in found.points)
    assert "points" in seen
    held = json.loads((tmp_path / "front" / "pareto.json").read_text())
    assert held["kind"] == "sparsam-pareto" and len(held["points"]) == 3
    compressed = sys.modules["sparsam.compress.pareto"]
    monkeypatch.setattr(compressed, "compress", lambda *args, **more: pytest.fail("made again"))
    again = front_of(texts, tmp_path / "front")
    assert [point.metric for point in again.points] == [point.metric for point in found.points]
    with pytest.raises(pytest.fail.Exception):
        front_of(texts, tmp_path / "front", seeds=(0, 1))
    page = write_report([tmp_path / "front"], tmp_path / "page.html").read_text()
    assert "and speed: " in page and "▲ front" in page and "macs-0.4" in page


def test_the_dense_model_in_other_runtimes_stands_in_the_picture(
    texts: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own mark, what serves it, its answers against the packed form's; one that is better beats compressed points."""
    module = sys.modules["sparsam.compress.pareto"]
    seen = []

    def raced(source: str, task: Any, split: Any, **given: Any) -> Beside:
        seen.append((source, given["names"], given["batch"]))
        fast = Other("openvino-int8", "OpenVINO, int8", 900.0, 90.0, 0.2, 0.1, 1.2, 7_000, split.labels[:40])
        slow = Other("eager-fp32", "transformers", 1.0, 0.5, 9.0, 2.0, 1.1, 9_000, split.labels[:40] * 0)
        return Beside((fast, slow), 40, {"onnxruntime-fp32": "needs onnxruntime"}, ("the machine is busy",))

    monkeypatch.setattr(module, "beside_packed", raced)
    found = front_of(texts, tmp_path / "front", ("openvino-int8", "eager-fp32", "onnxruntime-fp32"))
    assert seen == [(str(texts.dense), ("openvino-int8", "eager-fp32", "onnxruntime-fp32"), 8)]
    dense, fast, slow, *compressed = found.points
    assert (dense.runtime, fast.runtime, slow.runtime) == (None, "OpenVINO, int8", "transformers")
    assert fast.dense and (fast.throughput_ratio, fast.latency_ratio, fast.bytes) == (90.0, 0.1, 7_000)
    assert fast.metric["value"] == 1.0 and fast.metric["n"] == 40 and fast.difference is not None
    assert fast.on_front and not slow.on_front and not any(one.on_front for one in compressed)
    assert found.race is not None and (found.race.rows, found.race.spread) == (40, 1.2)
    page = write_report([tmp_path / "front"], tmp_path / "page.html").read_text()
    for shown in ("a diamond the same model in another runtime", "OpenVINO, int8", "on the first 40 rows", "needs onnxruntime",
                  'class="other"', "p50 9.00 ms", "the machine is busy"):  # fmt: skip
        assert shown in page


def test_fronts_of_before_other_runtimes_are_read(texts: Checkpoints, tmp_path: Path) -> None:
    """A file without their fields has a page, without a word of them; what is no race is named by its place."""
    front_of(texts, tmp_path / "front")
    file = tmp_path / "front" / "pareto.json"
    held = json.loads(file.read_text())
    assert held.pop("race") is None
    for one in held["points"]:
        assert one.pop("runtime") is None
    file.write_text(json.dumps(held))
    assert "diamond" not in write_report([file], tmp_path / "page.html").read_text()
    file.write_text(json.dumps(held | {"race": {"rows": -1, "spread": 1.0}}))
    with pytest.raises(Refused, match=r"not a front of sparsam's at race\.rows"):
        write_report([file], tmp_path / "page.html")


@pytest.mark.slow  # starts processes, and exports a model
@pytest.mark.data
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    os.environ.get("SPARSAM_RACES") != "1", reason="races real runtimes for minutes: SPARSAM_RACES=1 runs it"
)
def test_real_runtimes_beside_a_real_model(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MiniLM on SST-2 in transformers and ONNX Runtime, each in its process: the stock answers, slower than packed dense."""
    pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = pareto(
        str(shared / "models" / "minilm-sst2"), str(shared / "data" / "sst2"), tmp_path / "front", points=(0.5,),
        methods=(FTPP(samples=256),), baselines=("eager-fp32", "onnxruntime-fp32", "onnxruntime-int8"),
    )  # fmt: skip
    assert found.race is not None and found.race.absent == {} and found.race.rows == 872
    dense, eager, onnx, small, half = found.points
    assert eager.metric["extra"]["right"] == onnx.metric["extra"]["right"] == 781
    assert eager.throughput_ratio < 1 and small.bytes < 0.5 * onnx.bytes
    assert half.throughput_ratio > 1 and dense.throughput_ratio == 1.0


@pytest.mark.slow  # starts a cluster of two workers
def test_workers_make_the_same_points(texts: Checkpoints, tmp_path: Path) -> None:
    """A local Ray cluster of two: the same files, byte for byte, as one after the other here."""
    ray = pytest.importorskip("ray", reason="the extra 'distributed' is not installed")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        there = front_of(texts, tmp_path / "there", ray="local")
    finally:
        ray.shutdown()
    here = front_of(texts, tmp_path / "here")
    for one, other in zip(here.points[1:], there.points[1:], strict=True):
        assert one.metric == other.metric and one.macs_ratio == other.macs_ratio
        files = [Path(point.folder) / "model.safetensors" for point in (one, other)]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert artifact.load(one.folder).plan == artifact.load(other.folder).plan


def test_a_cluster_that_does_not_answer(texts: Checkpoints, tmp_path: Path) -> None:
    """Its address is named, and nothing is made."""
    pytest.importorskip("ray", reason="the extra 'distributed' is not installed")
    with pytest.raises(InputOutput, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        front_of(texts, tmp_path / "front", ray="127.0.0.1:1")
    assert not (tmp_path / "front").exists()


def test_what_cannot_be_a_point(texts: Checkpoints, tmp_path: Path) -> None:
    """Shares out of range, none, a loaded task for other machines; on the command line, too."""
    from sparsam.task import Task

    with pytest.raises(Usage, match=r"points are shares.*got \[1\.5\]"):
        pareto(str(texts.dense), str(texts.task), tmp_path, points=(1.5,))
    with pytest.raises(Usage, match="there is no baseline 'x'; choose from eager-fp32"):
        pareto(str(texts.dense), str(texts.task), tmp_path, baselines=("x",))
    with pytest.raises(Usage, match="give the task by its name"):
        pareto(str(texts.dense), Task.load(str(texts.task)), tmp_path, ray="local")
    arguments = ["pareto", str(texts.dense), "--task", str(texts.task), "--out", str(tmp_path / "o")]
    assert main([*arguments, "--points", "a,b"]) == 2
    assert main([*arguments, "--ray", "local", "--split-seed", "3"]) == 2
    assert not (tmp_path / "o").exists()


def test_the_command(texts: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Table, page and JSON."""
    arguments = [
        "pareto", str(texts.dense), "--task", str(texts.task), "--out", str(tmp_path / "o"), "--points", "0.6", "--batch", "8",
        "--no-baselines",
    ]  # fmt: skip
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "macs-0.6" in shown and "Ratios are of packed dense" in shown
    assert (tmp_path / "o" / "report.html").is_file()
    assert main([*arguments, "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert [point["name"] for point in held["points"]][1:] == ["macs-0.6"]


def point(throughput: float, value: float) -> Point:
    return Point("x", "x", False, {"value": value}, None, 0.5, 1.0, throughput, 1.0, 1.0, 1)


def test_who_is_on_the_front() -> None:
    """Nobody is at least as good and as fast, and better in one; twins both are."""
    given = [point(1.0, 0.9), point(2.0, 0.8), point(1.5, 0.7), point(2.0, 0.8), point(3.0, 0.1)]
    assert [one.on_front for one in _fronted(given)] == [True, True, False, True, True]


def test_a_front_that_is_none(tmp_path: Path) -> None:
    """The place that is wrong is named."""
    for held, says in (({"kind": "x"}, "kind"), ({"kind": "sparsam-pareto", "schema": 2}, "schema")):
        (tmp_path / "pareto.json").write_text(json.dumps(held))
        with pytest.raises(Refused, match=f"is not a front of sparsam's at {says}"):
            write_report([tmp_path / "pareto.json"], tmp_path / "page.html")
