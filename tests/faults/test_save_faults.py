"""A save that fails or is killed anywhere leaves the old folder or the new one, never a mixture."""

import builtins
import ctypes
import errno
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.modeling_utils
from transformers import BertConfig, BertForSequenceClassification

from sparsam import artifact
from sparsam.artifact import staging
from sparsam.errors import InputOutput, Refused
from sparsam.models import lift
from sparsam.plan import LayerPlan, Plan, TokenPlan


def model(seed: int) -> Any:
    """A tiny compressed BERT; the seed decides weights, labels and plan."""
    torch.manual_seed(seed)
    names = {0: f"no{seed}", 1: f"yes{seed}"}
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=20,
        max_position_embeddings=32,
        id2label=names,
        label2id={v: k for k, v in names.items()},
    )
    plan = Plan("bert", (LayerPlan(),) * 2, TokenPlan("ltp", (0.5 + seed, 1.0 + seed)))
    return lift(BertForSequenceClassification(config).eval(), plan)


class Processor:
    """Saved with a model; the smallest thing that writes a file."""

    def __init__(self, text: str) -> None:
        self.text = text

    def save_pretrained(self, folder: Path) -> None:
        with open(Path(folder) / "notes.txt", "w") as stream:
            stream.write(self.text)


def save(seed: int, folder: Path) -> Path:
    """Save the model of a seed."""
    return artifact.save(model(seed), folder, processor=Processor(f"seed {seed}"), facts={"seed": seed})


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def versions(tmp_path_factory: Any) -> list[dict[str, bytes]]:
    """What the folders of seeds 0 and 1 hold, byte by byte."""
    place = tmp_path_factory.mktemp("save")
    return [bytes_of(save(seed, place / str(seed))) for seed in (0, 1)]


@contextmanager
def each_operation(under: Path, act: Callable[[str], None]) -> Iterator[None]:
    """Call ``act`` before every operation that changes the disk: opening to write, write, fsync, mkdir, chmod, rename."""
    before = {
        (thing, name): getattr(thing, name)
        for thing, name in (
            (builtins, "open"),
            (os, "open"),
            (os, "fsync"),
            (os, "mkdir"),
            (os, "chmod"),
            (os, "rename"),
            (transformers.modeling_utils, "safe_save_file"),
            (staging, "exchange"),
        )
    }

    class Written:
        """A file whose writes are operations too."""

        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def write(self, data: Any) -> Any:
            act("write")
            return self.stream.write(data)

        def __enter__(self) -> Any:
            self.stream.__enter__()
            return self

        def __exit__(self, *args: Any) -> Any:
            return self.stream.__exit__(*args)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        real = before[builtins, "open"]
        if not isinstance(file, str | Path) or not str(file).startswith(str(under)):
            return real(file, mode, *args, **kwargs)
        act(f"open {mode}")
        stream = real(file, mode, *args, **kwargs)
        return Written(stream) if set(mode) & set("wax+") else stream

    removing = []  # while a folder is removed nothing counts: a failure there leaves litter, which the next save collects

    def counted(name: str, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not removing:
                act(name)
            return real(*args, **kwargs)

        return call

    def remove(*args: Any, **kwargs: Any) -> None:
        removing.append(1)
        try:
            real_remove(*args, **kwargs)
        finally:
            removing.pop()

    real_remove = shutil.rmtree
    try:
        for (thing, name), real in before.items():
            setattr(thing, name, opened if thing is builtins else counted(name, real))
        shutil.rmtree = remove  # type: ignore[assignment]
        yield
    finally:
        for (thing, name), real in before.items():
            setattr(thing, name, real)
        shutil.rmtree = real_remove


class Trip:
    """Does something at the k-th operation."""

    def __init__(self, k: int, action: Callable[[], Any], persistent: bool = False) -> None:
        self.left = k
        self.action = action
        self.persistent = persistent

    def __call__(self, name: str) -> None:
        self.left -= 1
        if self.left == 0 or (self.persistent and self.left < 0):
            self.action()

    @property
    def tripped(self) -> bool:
        return self.left <= 0


def failing(number: int) -> Callable[[], Any]:
    """Raise as the disk would."""

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture(params=["exchange", "aside"])
def way(request: Any, monkeypatch: Any) -> str:
    """With the system's exchange of folders, and as on a system without it."""
    if request.param == "aside":
        monkeypatch.setattr(ctypes, "CDLL", lambda *args, **kwargs: object())
    return str(request.param)


def test_every_failing_operation_leaves_old_or_new(
    way: str, versions: list[dict[str, bytes]], tmp_path: Path
) -> None:
    """The k-th open, write, fsync, mkdir, chmod or rename fails, for every k until none is left to fail."""
    target = tmp_path / "a"
    save(0, target)
    old, new = versions
    for k in range(1, 1000):
        trip = Trip(k, failing(errno.ENOSPC))
        with each_operation(tmp_path, trip):
            said = None
            try:
                save(1, target)
            except InputOutput as error:
                said = error
        assert said is None or (said.code == "no-space" and f"{target} could not be saved" in str(said)), k
        found = bytes_of(target)
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


def in_child(work: Callable[[], int]) -> int:
    """Run in a forked process without output; its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def check_after_kill(target: Path, versions: list[dict[str, bytes]], k: object) -> int:
    """Old or new, loadable, and the next save cleans up; which of the two it was."""
    if (
        not target.exists()
    ):  # between the two renames on a system without exchange: loading puts the old one back
        assert any(".old-" in path.name for path in target.parent.iterdir()), k
    loaded = artifact.load(target)
    found = bytes_of(target)
    assert found in versions, k
    which = versions.index(found)
    wanted = model(which)
    assert loaded.plan == wanted.sparsam_plan
    assert all(torch.equal(x, y) for x, y in zip(loaded.model.parameters(), wanted.parameters(), strict=True))
    save(0, target)
    assert [path.name for path in target.parent.iterdir()] == [target.name], k
    return which


def sweep_of_kills(tmp_path: Path, versions: list[dict[str, bytes]], step: int) -> None:
    """Kill -9 at every ``step``-th operation of a save, until a save gets through."""
    target = tmp_path / "a"
    save(0, target)
    outcomes = []
    for k in range(1, 1000, step):

        def work(k: int = k) -> int:
            with each_operation(tmp_path, Trip(k, lambda: os.kill(os.getpid(), signal.SIGKILL))):
                save(1, target)
            return 0

        code = in_child(work)
        assert code in (0, -signal.SIGKILL), k
        outcomes.append(check_after_kill(target, versions, k))
        if code == 0:
            break
    assert outcomes[0] == 0
    assert outcomes[-1] == 1


def test_kill_at_operations_leaves_old_or_new(
    way: str, versions: list[dict[str, bytes]], tmp_path: Path
) -> None:
    """Kill -9 at every sixth operation."""
    sweep_of_kills(tmp_path, versions, 6)


@pytest.mark.slow
def test_kill_at_every_operation_leaves_old_or_new(
    way: str, versions: list[dict[str, bytes]], tmp_path: Path
) -> None:
    """Slow: kill -9 at every operation of a save."""
    sweep_of_kills(tmp_path, versions, 1)


@pytest.mark.parametrize("count", [10, pytest.param(250, marks=pytest.mark.slow)])
def test_kills_at_random_moments_leave_old_or_new(
    count: int, way: str, versions: list[dict[str, bytes]], tmp_path: Path
) -> None:
    """A process saves two models in turn without end and is killed at any moment."""
    target = tmp_path / "a"
    save(0, target)
    drawn = random.Random(1)
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            try:
                quiet = os.open(os.devnull, os.O_WRONLY)
                os.dup2(quiet, 1)
                os.dup2(quiet, 2)
                for turn in range(10_000):
                    save((turn + 1) % 2, target)
            finally:
                os._exit(70)
        time.sleep(drawn.uniform(0.01, 0.25))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        check_after_kill(target, versions, number)


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


def test_writers_to_one_name_leave_one_winner(versions: list[dict[str, bytes]], tmp_path: Path) -> None:
    """Three processes save to one place at once: at the end it is one of theirs, whole, and no litter is left."""
    target = tmp_path / "a"
    children = []
    for writer in range(3):
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                quiet = os.open(os.devnull, os.O_WRONLY)
                os.dup2(quiet, 1)
                os.dup2(quiet, 2)
                for turn in range(4):
                    save((writer + turn) % 2, target)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    artifact.verify(target)
    assert bytes_of(target) in versions
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
