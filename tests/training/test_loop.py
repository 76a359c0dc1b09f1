"""The training loop: it learns, it resumes bit for bit, it stops on nonsense, it writes checkpoints whole."""

import copy
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from sparsam.errors import InputOutput, Refused, Usage
from sparsam.training.loop import Settings, Supervised, rate, rows_seen, train

SETTINGS = Settings(epochs=1.5, lr=1e-3, seed=1, precision="fp32")


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_training_lowers_the_loss(classifier: Any, rows: Any) -> None:
    """Ten epochs on a learnable task end well below where they started."""
    history = train(
        Supervised(classifier), rows.batches, rows.collate, Settings(epochs=10, lr=2e-3, precision="fp32")
    )
    first = sum(log["loss"] for log in history.logs[:10])
    last = sum(log["loss"] for log in history.logs[-10:])
    assert history.steps == 100
    assert last < 0.7 * first


@pytest.mark.parametrize("stop", [1, 9, 10, 14])
def test_resume_at_any_step_ends_with_the_same_bits(
    classifier: Any, rows: Any, tmp_path: Path, stop: int
) -> None:
    """Interrupted after ``stop`` steps and continued by a fresh process's objects: equal weights, dropout included."""
    whole = copy.deepcopy(classifier)
    train(Supervised(whole), rows.batches, rows.collate, SETTINGS)
    first, second = copy.deepcopy(classifier), copy.deepcopy(classifier)
    done = train(
        Supervised(first), rows.batches, rows.collate, SETTINGS, checkpoints=tmp_path, stop_after=stop
    )
    assert done.steps == stop
    with safe_open(next(tmp_path.iterdir()), framework="pt") as held:
        spent = json.loads(held.metadata()["sparsam"])["history"]["seconds"]
    torch.manual_seed(12345)  # whatever the new process did before
    end = train(Supervised(second), rows.batches, rows.collate, SETTINGS, checkpoints=tmp_path)
    assert (end.steps, end.samples) == (15, 240)  # of both parts together
    assert end.seconds > spent > 0
    assert same(weights(whole), weights(second))


def test_rows_seen_are_those_of_the_batches(rows: Any) -> None:
    """Half an epoch looks at half the batches; one and more look at every row, named once."""
    half = rows_seen(rows.batches, 0.5)
    assert sorted(half) == sorted(np.concatenate(rows.batches(0)[:5]))
    assert rows_seen(rows.batches, 1.3).tolist() == list(range(160))
    assert rows_seen(rows.batches, 0).size == 0


def test_a_finished_run_is_not_trained_again(classifier: Any, rows: Any, tmp_path: Path) -> None:
    """The last checkpoint holds the end state; running again changes nothing."""
    train(Supervised(classifier), rows.batches, rows.collate, SETTINGS, checkpoints=tmp_path)
    before = weights(classifier)
    history = train(Supervised(classifier), rows.batches, rows.collate, SETTINGS, checkpoints=tmp_path)
    assert history.logs == []
    assert same(before, weights(classifier))


def test_other_settings_are_refused_on_resume(classifier: Any, rows: Any, tmp_path: Path) -> None:
    """A checkpoint of other settings is not continued in silence; the changed setting is named."""
    train(Supervised(classifier), rows.batches, rows.collate, SETTINGS, checkpoints=tmp_path, stop_after=2)
    other = Settings(epochs=1.5, lr=5e-4, seed=1, precision="fp32")
    with pytest.raises(Usage, match=r"other settings \(lr\)"):
        train(Supervised(classifier), rows.batches, rows.collate, other, checkpoints=tmp_path)


def test_a_corrupt_checkpoint_is_named(classifier: Any, rows: Any, tmp_path: Path) -> None:
    """A truncated checkpoint is an error with its path, not a fresh start."""
    train(Supervised(classifier), rows.batches, rows.collate, SETTINGS, checkpoints=tmp_path, stop_after=2)
    file = tmp_path / "checkpoint-0.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputOutput, match=r"cannot be read.*Delete it to start again"):
        train(Supervised(classifier), rows.batches, rows.collate, SETTINGS, checkpoints=tmp_path)


def test_a_full_disk_keeps_the_last_checkpoint(
    classifier: Any, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the new checkpoint cannot be written, the old one stays whole and the error says so."""
    train(Supervised(classifier), rows.batches, rows.collate, SETTINGS, checkpoints=tmp_path, stop_after=2)
    before = (tmp_path / "checkpoint-0.safetensors").read_bytes()

    def full(tensors: Any, path: Path, metadata: Any = None) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparsam.training.loop.save_file", full)
    with pytest.raises(InputOutput, match=r"No space left on device.*last checkpoint is kept"):
        train(
            Supervised(classifier), rows.batches, rows.collate, SETTINGS, checkpoints=tmp_path, stop_after=4
        )
    assert (tmp_path / "checkpoint-0.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-0.safetensors"]


def test_a_disk_that_is_really_full_is_named(classifier: Any, rows: Any, tmp_path: Path) -> None:
    """The writer's own error, here at a limit on the size of files, is an error of input and output, too."""
    resource = pytest.importorskip("resource")
    train(Supervised(classifier), rows.batches, rows.collate, SETTINGS, checkpoints=tmp_path, stop_after=2)
    before = (tmp_path / "checkpoint-0.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(InputOutput, match=r"could not be written: .*last checkpoint is kept"):
            train(
                Supervised(classifier),
                rows.batches,
                rows.collate,
                SETTINGS,
                checkpoints=tmp_path,
                stop_after=4,
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "checkpoint-0.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-0.safetensors"]


def test_a_loss_that_is_not_a_number_stops_the_run(classifier: Any, rows: Any) -> None:
    """NaN in the weights: a named error with the step, not a model full of NaN."""
    with torch.no_grad():
        classifier.classifier.weight[0, 0] = float("nan")
    with pytest.raises(Refused, match=r"the loss is nan at step 1 of 15"):
        train(Supervised(classifier), rows.batches, rows.collate, SETTINGS)


def test_rate_rises_and_falls() -> None:
    """Linear up to the peak within the warm-up, linear down to nearly 0."""
    shares = [rate(step, 100, 0.1) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == pytest.approx(1.0)
    assert all(a >= b for a, b in pairwise(shares[10:]))
    assert shares[-1] == pytest.approx(1 / 90)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("lr", float("nan")), ("warmup", 1.0), ("precision", "fp16"), ("seed", -1)],
)
def test_settings_are_checked(name: str, value: object) -> None:
    """A setting outside its range is refused with its name and value."""
    with pytest.raises(Usage, match=name):
        Settings(**{name: value})  # type: ignore[arg-type]


def in_two_processes(tmp_path: Path, options: str) -> tuple[Any, Any]:
    """The weights two gloo processes end with, as ``accelerate launch`` or ``torchrun`` start them."""
    import subprocess
    import sys

    script = tmp_path / "run.py"
    script.write_text(
        "import sys, torch\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from conftest import Rows, make_classifier\n"
        "from accelerate import PartialState\n"
        "from sparsam.training.loop import Settings, Supervised, train\n"
        "model, rows = make_classifier(), Rows()\n"
        "train(Supervised(model), rows.batches, rows.collate, Settings(epochs=2, lr=1e-3, precision='fp32'), cpu=True, "
        f"{options})\n"
        "torch.save(model.state_dict(), f'{sys.argv[1]}/{PartialState().process_index}.pt')\n"
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        str(script),
        str(tmp_path),
    ]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-20000:]
    a, b = (torch.load(tmp_path / f"{i}.pt", weights_only=True) for i in (0, 1))
    return a, b


@pytest.mark.slow
def test_two_processes_train_one_model_and_resume(tmp_path: Path) -> None:
    """Both end with equal weights; stopped at step 4 of 10 and resumed they end with the same ones; lost halves are named."""
    whole, other = in_two_processes(tmp_path, "")
    assert same(whole, other)
    folder = tmp_path / "checkpoints"
    stopped, _ = in_two_processes(tmp_path, f"checkpoints={str(folder)!r}, stop_after=4")
    assert not same(stopped, whole)
    resumed, other = in_two_processes(tmp_path, f"checkpoints={str(folder)!r}")
    assert same(resumed, whole) and same(other, whole)
    (folder / "checkpoint-1.safetensors").unlink()
    with pytest.raises(AssertionError, match=r"of different steps \(10, 0\)"):
        in_two_processes(tmp_path, f"checkpoints={str(folder)!r}")
