"""Kill -9 anywhere in a save: afterwards the old folder or the new one loads, never a mixture, and the next save cleans up."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import ended, in_child, start
from specimens import bytes_of, model, names_in, same_weights, save
from syscalls import can_trace, traced
from tripwire import Trip, each_operation

from sparsam import artifact

Versions = list[dict[str, bytes]]


@pytest.fixture(scope="module")
def models() -> list[Any]:
    """The models of seeds 0 and 1."""
    return [model(0), model(1)]


def check_after_kill(target: Path, versions: Versions, models: list[Any], k: object) -> int:
    """Old or new, loadable, and the next save cleans up; which of the two it was."""
    if (
        not target.exists()
    ):  # between the two renames of a system without exchange: loading puts the old one back
        assert any(".old-" in name for name in names_in(target.parent)), k
    loaded = artifact.load(target)
    found = bytes_of(target)
    assert found in versions, k
    which = versions.index(found)
    assert loaded.plan == models[which].sparsam_plan
    assert loaded.facts == {"seed": which}
    assert same_weights(loaded.model, models[which])
    save(0, target, models[0])
    assert names_in(target.parent) == [target.name], k
    return which


def sweep(target: Path, versions: Versions, models: list[Any], step: int, run: Callable[[int], int]) -> int:
    """Kill at every ``step``-th operation until a save gets through; how many were killed."""
    save(0, target, models[0])
    outcomes, kills = [], 0
    for k in range(1, 1000, step):
        code = run(k)
        assert code in (0, -signal.SIGKILL), k
        outcomes.append(check_after_kill(target, versions, models, k))
        kills += code != 0
        if code == 0:
            break
    assert outcomes[0] == 0
    assert outcomes[-1] == 1
    return kills


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.faults)])
def test_kill_at_operations_leaves_old_or_new(
    step: int, way: str, versions: Versions, models: list[Any], tmp_path: Path
) -> None:
    """Before Python's k-th call that changes the disk."""
    target = tmp_path / "a"

    def run(k: int) -> int:
        def work() -> None:
            with each_operation(tmp_path, Trip(k, lambda: os.kill(os.getpid(), signal.SIGKILL))):
                save(1, target, models[1])

        return in_child(work)

    assert sweep(target, versions, models, step, run) >= 40 // step


@pytest.mark.skipif(not can_trace(), reason="wants ptrace on x86-64 Linux")
@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
@pytest.mark.parametrize("step", [16, pytest.param(1, marks=pytest.mark.faults)])
def test_kill_at_system_calls_leaves_old_or_new(
    step: int, torn: bool, way: str, versions: Versions, models: list[Any], tmp_path: Path
) -> None:
    """Before the k-th open, write, fsync, rename, mkdir, chmod, unlink; or when half of the k-th write is out."""
    target = tmp_path / "a"

    def run(k: int) -> int:
        def work() -> int:
            save(1, target, models[1])
            return 0

        return traced(work, tmp_path, k, removals=True, torn=torn).code

    assert sweep(target, versions, models, step, run) >= 60 // step


@pytest.mark.parametrize("count", [4, pytest.param(100, marks=pytest.mark.faults)])
def test_kills_at_random_moments_leave_old_or_new(
    count: int, way: str, versions: Versions, models: list[Any], tmp_path: Path
) -> None:
    """A process saves two models in turn without end and is killed at any moment."""
    target = tmp_path / "a"
    save(0, target, models[0])
    drawn = random.Random(1)

    def work() -> None:
        for turn in range(10_000):
            save((turn + 1) % 2, target, models[(turn + 1) % 2])

    for number in range(count):
        pid = start(work)
        time.sleep(drawn.uniform(0.005, 0.15))
        os.kill(pid, signal.SIGKILL)
        assert ended(pid) == -signal.SIGKILL
        check_after_kill(target, versions, models, number)
