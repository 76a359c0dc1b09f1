"""A save that fails anywhere leaves the old folder or the new one, says what failed, and leaves nothing beside it."""

import ctypes
import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from children import in_child
from specimens import bytes_of, model, save
from tripwire import Trip, each_operation

from sparsam import artifact
from sparsam.artifact import staging
from sparsam.errors import InputOutput, Refused


def failing(number: int) -> Callable[[], Any]:
    """Raise as the disk would."""

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.faults)])
def test_every_failing_operation_leaves_old_or_new(
    step: int, way: str, versions: list[dict[str, bytes]], tmp_path: Path
) -> None:
    """The k-th open, write, fsync, mkdir, chmod or rename fails, for every k until none is left to fail."""
    target = tmp_path / "a"
    save(0, target)
    old, new = versions
    for k in range(1, 1000, step):
        trip = Trip(k, failing(errno.ENOSPC))
        with each_operation(tmp_path, trip):
            said = None
            try:
                save(1, target)
            except InputOutput as error:
                said = error
        found = bytes_of(target)
        if said is not None and found == new:  # only the last flush, after the exchange
            assert "is saved, but the disk did not confirm it" in str(said), k
        elif said is not None and said.code != "file-unreadable":  # of the manifest that stands there
            assert said.code == "no-space" and f"{target} could not be saved" in str(said), k
        assert found in (old, new), k
        assert [path.name for path in tmp_path.iterdir()] == ["a"], k
        if not trip.tripped:
            assert found == new
            break
        if found == new:  # only the last flush, after the exchange
            save(0, target)
    assert 30 < k < 1000


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE, errno.EDQUOT])
def test_every_kind_of_failure_has_its_code(
    number: int, versions: list[dict[str, bytes]], tmp_path: Path
) -> None:
    """Full, barred or broken: told apart, and the first save into a place leaves nothing there."""
    wanted = {errno.EROFS: "not-writable", errno.EACCES: "not-writable", errno.EDQUOT: "no-space"}.get(
        number, "save-failed"
    )
    for k in (2, 5, 9, 14, 20):  # the first is mkdir of a parent that is there
        with each_operation(tmp_path, Trip(k, failing(number))), pytest.raises(InputOutput) as caught:
            save(1, tmp_path / "a")
        assert caught.value.code == wanted
        assert caught.value.exit_code == 5
        assert os.strerror(number) in str(caught.value)
        assert not list(tmp_path.iterdir())


def test_a_disk_that_stays_broken_loses_nothing(
    versions: list[dict[str, bytes]], tmp_path: Path, monkeypatch: Any
) -> None:
    """Without exchange, when no rename works any more after the first: where the old folder stands is said."""
    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **kwargs: object())
    target = tmp_path / "a"
    save(0, target)
    real, calls = os.rename, []

    def rename(one: Any, other: Any) -> None:
        calls.append(one)
        if len(calls) > 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(one, other)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(InputOutput, match="It is whole, and stands at") as caught:
        save(1, target)
    aside = next(path for path in tmp_path.iterdir() if ".old-" in path.name)
    assert str(aside) in str(caught.value)
    assert bytes_of(aside) == versions[0]


def test_an_interrupted_save_cleans_up(versions: list[dict[str, bytes]], tmp_path: Path) -> None:
    """Control-C anywhere: the old folder, nothing beside it."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    target = tmp_path / "a"
    save(0, target)
    for k in range(1, 20, 3):
        with each_operation(tmp_path, Trip(k, interrupt)), pytest.raises(KeyboardInterrupt):
            save(1, target)
        assert bytes_of(target) == versions[0]
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_is_told(versions: list[dict[str, bytes]], tmp_path: Path) -> None:
    """A real limit on file size hits the weights, written by safetensors itself, or a smaller file."""
    target = tmp_path / "a"
    save(0, target)
    for limit in (0, 100, 2_000, 10_000):

        def work(limit: int = limit) -> int:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                save(1, target)
            except InputOutput as error:
                return 0 if error.code == "no-space" else 1
            return 2

        assert in_child(work) == 0, limit
        assert bytes_of(target) == versions[0]
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_lives_is_not_cleaned_up(tmp_path: Path) -> None:
    """Staging folders of running processes and of other machines stay; those of dead ones, and a day old, go."""
    target = tmp_path / "a"
    here, there = staging.this_machine(), "0" * 6
    dead = in_child(lambda: 0)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    stay = [
        f"a.tmp-{os.getpid()}-{here}aaaaaa",
        f"a.tmp-{pid}-{there}bbbbbb",
        "a.tmp-notes",
        "b.tmp-1-123456aaaaaa",
    ]
    go = [f"a.tmp-{pid}-{here}cccccc", f"a.old-{pid}-{here}dddddd", f"a.tmp-{pid}-{there}eeeeee"]
    for name in stay + go:
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    os.utime(tmp_path / go[-1], (0, 0))
    save(0, target)
    assert dead == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a", *stay])


def test_weights_that_are_no_numbers_are_not_saved(versions: list[dict[str, bytes]], tmp_path: Path) -> None:
    """NaN or infinity in a weight: named, and the old folder stays."""
    target = tmp_path / "a"
    save(0, target)
    for bad in (float("nan"), float("inf")):
        broken = model(1)
        with torch.no_grad():
            broken.bert.encoder.layer[1].output.dense.weight[3, 4] = bad
        with pytest.raises(Refused, match=r"bert\.encoder\.layer\.1\.output\.dense\.weight holds") as caught:
            artifact.save(broken, target)
        assert caught.value.code == "non-finite"
    assert bytes_of(target) == versions[0]


def test_a_processor_that_fails_leaves_the_old_folder(
    versions: list[dict[str, bytes]], tmp_path: Path
) -> None:
    """An error that is not the disk's comes through as it is; nothing is left behind."""

    class Broken:
        def save_pretrained(self, folder: Path) -> None:
            raise ZeroDivisionError("its own")

    target = tmp_path / "a"
    save(0, target)
    with pytest.raises(ZeroDivisionError, match="its own"):
        artifact.save(model(1), target, processor=Broken())
    assert bytes_of(target) == versions[0]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    """No permission on the parent folder."""
    tmp_path.chmod(0o555)
    with pytest.raises(InputOutput, match="may write to") as caught:
        save(0, tmp_path / "a")
    tmp_path.chmod(0o755)
    assert caught.value.code == "not-writable"
