"""The k-th system call that writes fails, for every k until none is left: an error with exit code 5, and what stood stays.

Four writers: a save, an evaluation record, a checkpoint of training, and stock ``save_pretrained`` through the plug-in. The
last is transformers' own and not whole or nothing: what it leaves must load as the old model or the new one, or be refused.
"""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from children import in_child
from specimens import bytes_of, classifier, model, names_in, reviews, same_weights, save
from syscalls import can_trace, traced

from sparsam import artifact
from sparsam.errors import InputOutput, Refused, SparsamError
from sparsam.training.loop import Settings, Supervised, train

pytestmark = pytest.mark.skipif(not can_trace(), reason="wants ptrace on x86-64 Linux")

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE)
CODES = {"no-space", "not-writable", "save-failed", "file-unreadable", "checkpoint-write", "checkpoint-read"}
OTHER = 9
"""The exit code of a child that met an error without a name."""


def answered(work: Callable[[], Any]) -> Callable[[], int]:
    """``work`` as a command would end: 0, the exit code of our own error, or another number for any other error."""

    def run() -> int:
        try:
            work()
        except InputOutput as error:
            return error.exit_code if error.code in CODES else OTHER + 1
        except SparsamError:
            return OTHER + 2
        except Exception:
            return OTHER
        return 0

    return run


def sweep(
    work: Callable[[], Any],
    root: Path,
    number: int,
    step: int,
    check: Callable[[int], None],
    stays: bool = False,
) -> int:
    """Let the k-th call below ``root`` fail, for every ``step``-th k; ``check`` gets the exit code. How many failed."""
    for count, k in enumerate(range(1, 1000, step)):
        found = traced(answered(work), root, k, error=number, stays=stays)
        assert found.code in (0, 5), (k, found.calls[k - 1 : k], found.code)
        check(found.code)
        if not found.tripped:
            assert found.code == 0
            return count
    raise AssertionError("the operation never ended untouched")


def each_error(steps: tuple[int, int]) -> Any:
    """All errors with every call of the long form; three of them, with some calls, of the short one."""
    short = [pytest.param(number, steps[0], id=errno.errorcode[number]) for number in ERRORS[::2]]
    long = [
        pytest.param(number, steps[1], id=f"{errno.errorcode[number]}-each", marks=pytest.mark.faults)
        for number in ERRORS
    ]
    return pytest.mark.parametrize(("number", "step"), short + long)


@pytest.fixture(scope="module")
def models() -> list[Any]:
    """The models of seeds 0 and 1."""
    return [model(0), model(1)]


@pytest.mark.parametrize("stays", [False, True], ids=["once", "from-then-on"])
@each_error((17, 1))
def test_a_save(
    number: int, step: int, stays: bool, versions: list[dict[str, bytes]], models: list[Any], tmp_path: Path
) -> None:
    """Old or new; new only where the failure came after the exchange. The next save leaves nothing beside it."""
    target = tmp_path / "a"
    save(0, target, models[0])

    def check(code: int) -> None:
        found = bytes_of(target)
        assert found in versions
        assert code == 5 or found == versions[1]
        artifact.verify(target)
        if found == versions[1] or len(names_in(tmp_path)) > 1:
            save(0, target, models[0])
        assert names_in(tmp_path) == ["a"]

    assert sweep(lambda: save(1, target, models[1]), tmp_path, number, step, check, stays) >= 50 // step


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.faults)])
def test_a_first_save(step: int, models: list[Any], tmp_path: Path) -> None:
    """Into a place where nothing stands, and folders are still to be made: afterwards nothing, or the whole of it."""
    target = tmp_path / "x" / "y" / "a"

    def check(code: int) -> None:
        if target.exists():
            artifact.verify(target)
            assert bytes_of(target)["sparsam.json"]
        else:
            assert code == 5
        shutil.rmtree(tmp_path / "x", ignore_errors=True)

    assert sweep(lambda: save(1, target, models[1]), tmp_path, errno.ENOSPC, step, check) >= 50 // step


@each_error((3, 1))
def test_an_evaluation_record(number: int, step: int, models: list[Any], tmp_path: Path) -> None:
    """The old figures or the new ones, beside a model that nothing has touched."""
    target = save(0, tmp_path / "a", models[0])
    artifact.write_record(target, {"accuracy": 0.5})

    def check(code: int) -> None:
        found = artifact.read_record(target)
        assert found in ({"accuracy": 0.5}, {"accuracy": 0.75})
        assert code == 5 or found == {"accuracy": 0.75}
        artifact.verify(target)
        artifact.write_record(target, {"accuracy": 0.5})

    work = lambda: artifact.write_record(target, {"accuracy": 0.75})  # noqa: E731
    assert sweep(work, tmp_path, number, step, check) >= 8 // step
    save(0, target, models[0])
    assert names_in(tmp_path) == ["a"]


class Rows:
    """Eight made-up rows in batches of four."""

    def batches(self, epoch: int) -> list[np.ndarray]:
        return [np.arange(4), np.arange(4, 8)]

    def collate(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(indices)[:, None] + torch.arange(3, 9)[None]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}


SETTINGS = Settings(epochs=2, lr=1e-3, precision="fp32")


def run(folder: Path, stop: int | None = None) -> Any:
    """Train the model of seed 0, going on from the checkpoint in ``folder``; what it ends with."""
    made, rows = model(0), Rows()
    history = train(
        Supervised(made), rows.batches, rows.collate, SETTINGS, checkpoints=folder, stop_after=stop, cpu=True
    )
    return made, history


@each_error((4, 1))
def test_a_checkpoint_of_training(number: int, step: int, tmp_path: Path) -> None:
    """The last checkpoint stays whole, and training goes on from it to the same weights; no litter is left."""
    folder, kept = tmp_path / "w", tmp_path / "kept"
    whole, _ = run(tmp_path / "other")
    run(folder, stop=2)
    shutil.copytree(folder, kept)
    first = bytes_of(folder)

    def check(code: int) -> None:
        if code == 5:
            assert bytes_of(folder) == first
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)

    assert sweep(lambda: run(folder, stop=3), folder, number, step, check) >= 5 // step
    ended, history = run(folder)
    assert history.steps == 4
    assert same_weights(whole, ended)
    assert names_in(folder) == ["checkpoint-0.safetensors"]


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.faults)])
def test_stock_save_pretrained(step: int, models: list[Any], tmp_path: Path) -> None:
    """Transformers overwrites file by file: what is left is the old model, the new one, or refused; never a mixture."""
    target = tmp_path / "a"
    old, new = (made.sparsam_plan for made in models)
    refused = 0

    def check(code: int) -> None:
        nonlocal refused
        try:
            loaded = artifact.load(target)
        except (Refused, InputOutput):
            refused += 1
        else:
            which = [old, new].index(loaded.plan)
            assert same_weights(loaded.model, models[which])
            assert loaded.model.config.id2label == models[which].config.id2label
        shutil.rmtree(target)
        models[0].save_pretrained(target)

    models[0].save_pretrained(target)
    failed = 0
    for k in range(1, 1000, step):
        found = traced(
            lambda: int(models[1].save_pretrained(target) is not None), tmp_path, k, error=errno.ENOSPC
        )
        check(found.code)
        if not found.tripped:
            break
        failed += 1
    assert failed >= 9 // step
    assert step > 1 or refused


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.faults)])
def test_a_load(step: int, number: int, tmp_path: Path) -> None:
    """The k-th open, read or listing fails: an error of ours, or the whole model with its tokenizer."""
    target = _saved(tmp_path)
    before = bytes_of(target)

    def work() -> int:
        try:
            loaded = artifact.load(target)
        except SparsamError as error:
            return error.exit_code
        except Exception:
            return OTHER
        return (
            0
            if loaded.processor("good film").input_ids == [2, 4, 8, 3] and loaded.facts == {"seed": 7}
            else 1
        )

    for k in range(1, 1000, step):
        found = traced(work, tmp_path, k, error=number, reads=True)
        assert found.code in (0, 3, 5), (k, found.calls[-3:], found.code)
        if not found.tripped:
            break
    assert found.code == 0
    assert bytes_of(target) == before


def _saved(place: Path) -> Path:
    dense = artifact.load_dense(classifier(place / "dense"))
    return artifact.save(dense.model, place / "a", processor=dense.processor, facts={"seed": 7})


@pytest.mark.parametrize("step", [40, pytest.param(1, marks=pytest.mark.faults)])
def test_a_command(step: int, tmp_path: Path) -> None:
    """``sparsam finetune`` ends with 0 or 5, never with a traceback; the model that stood there, or the new one, is whole."""
    from sparsam.cli import main

    source, rows = classifier(tmp_path / "dense"), reviews(tmp_path / "rows.csv")
    root = tmp_path / "runs"
    arguments = [
        "finetune",
        str(source),
        "--task",
        str(rows),
        "--out",
        str(root / "a"),
        "--epochs",
        "1",
        "--json",
    ]
    assert in_child(lambda: main(arguments), tmp_path / "said") == 0, (tmp_path / "said").read_text()
    old = bytes_of(root / "a")
    for k in range(1, 1000, step):
        found = traced(lambda: main(arguments), root, k, error=errno.ENOSPC)
        assert found.code in (0, 5), (k, found.calls[-3:], found.code)
        artifact.verify(root / "a")
        assert bytes_of(root / "a")["model.safetensors"] == old["model.safetensors"]
        if not found.tripped:
            break
    assert found.code == 0
    assert names_in(root) == ["a"]
