"""Several processes at one name, and signals at any moment: one winner, no torn read, a quick end, checkpoints that hold."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from children import ended, in_child, start
from specimens import bytes_of, classifier, model, names_in, reviews, same_weights, save

from sparsam import artifact
from sparsam.errors import SparsamError
from sparsam.training.loop import Settings, Supervised, train

SECONDS = 30.0
"""How long a process may take to end after a signal. Wide, for machines under load; the long form asks for 5."""


@pytest.fixture(scope="module")
def models() -> list[Any]:
    """The models of seeds 0 and 1."""
    return [model(0), model(1)]


def interrupted(work: Callable[[], Any], number: int, after: float, within: float) -> int:
    """Run ``work`` in a child, send it a signal after so many seconds; how it ended, which it must do soon."""

    def run() -> Any:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a test's own process may have others
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return work()

    pid = start(run)
    time.sleep(after)
    sent = time.monotonic()
    while True:  # Python drops an interruption that meets a destructor; a person presses the keys again
        os.kill(pid, number)
        again = time.monotonic() + 1
        while time.monotonic() < again:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        if time.monotonic() - sent > within:
            os.kill(pid, signal.SIGKILL)
            ended(pid)
            pytest.fail(f"signal {number} did not end the process within {within:g} s")


@pytest.mark.parametrize("rounds", [1, pytest.param(15, marks=pytest.mark.faults)])
def test_eight_writers_leave_one_winner(
    rounds: int, way: str, versions: list[dict[str, bytes]], models: list[Any], tmp_path: Path
) -> None:
    """Each saves again and again: none fails, and at the end it is one of theirs, whole, without litter.

    Where the system cannot exchange folders a writer may find the place taken or gone between its two renames; it says so.
    """
    target = tmp_path / "a"
    for _ in range(rounds):

        def write(turns: int, first: int) -> int:
            for turn in range(turns):
                which = (first + turn) % 2
                try:
                    save(which, target, models[which])
                except SparsamError:
                    return 5
            return 0

        children = [start(lambda first=first: write(2, first)) for first in range(8)]
        codes = [ended(pid) for pid in children]
        assert set(codes) <= ({0} if way == "exchange" else {0, 5})
        artifact.verify(target)
        assert bytes_of(target) in versions
        save(0, target, models[0])
        assert names_in(tmp_path) == ["a"]


@pytest.mark.parametrize("reads", [6, pytest.param(300, marks=pytest.mark.faults)])
def test_a_reader_sees_one_version(reads: int, models: list[Any], tmp_path: Path) -> None:
    """While another process replaces the folder again and again: all of the old one, or all of the new one.

    It pauses for up to four times what a load takes here: a folder that is replaced faster than it can be read is refused.
    """
    target = tmp_path / "a"
    save(0, target, models[0])
    started = time.monotonic()
    artifact.load(target)
    pause = 4 * (time.monotonic() - started)

    def write() -> None:
        drawn = random.Random(0)
        for turn in range(100_000):
            save((turn + 1) % 2, target, models[(turn + 1) % 2])
            time.sleep(pause * drawn.random())

    pid = start(write)
    seen, done = set(), 0
    try:
        for _ in range(20 * reads):
            if done == reads:
                break
            try:
                loaded = artifact.load(target)
            except SparsamError as error:
                if error.code != "replaced":
                    raise
                continue
            done += 1
            which = loaded.facts["seed"]
            assert loaded.plan == models[which].sparsam_plan
            assert loaded.model.config.id2label == models[which].config.id2label
            assert same_weights(loaded.model, models[which])
            seen.add(which)
    finally:
        os.kill(pid, signal.SIGKILL)
        ended(pid)
    assert done == reads and seen
    save(0, target, models[0])
    assert names_in(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("rounds", "within"), [(3, SECONDS), pytest.param(100, 5.0, marks=pytest.mark.faults)]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_during_a_save(
    number: int,
    rounds: int,
    within: float,
    versions: list[dict[str, bytes]],
    models: list[Any],
    tmp_path: Path,
) -> None:
    """The process ends soon; the folder is old or new; the next save leaves nothing beside it."""
    target = tmp_path / "a"
    save(0, target, models[0])
    drawn = random.Random(number)

    def work() -> None:
        for turn in range(10_000):
            save((turn + 1) % 2, target, models[(turn + 1) % 2])

    for _ in range(rounds):
        code = interrupted(work, number, drawn.uniform(0.005, 0.15), within)
        assert code in ((130,) if number == signal.SIGINT else (-number,))
        artifact.verify(target)
        assert bytes_of(target) in versions
        save(0, target, models[0])
        assert names_in(tmp_path) == ["a"]


class Rows:
    """Forty made-up rows in batches of four."""

    def batches(self, epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng(epoch).permutation(40)
        return [order[at : at + 4] for at in range(0, 40, 4)]

    def collate(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(indices)[:, None] % 30 + torch.arange(3, 9)[None]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}


SETTINGS = Settings(epochs=2, lr=1e-3, precision="fp32", checkpoint_minutes=1e-6)
"""A checkpoint after every step."""


def run(folder: Path | None) -> Any:
    """Train the model of seed 0, going on from the checkpoint in ``folder``; what it ends with."""
    made, rows = model(0), Rows()
    history = train(Supervised(made), rows.batches, rows.collate, SETTINGS, checkpoints=folder, cpu=True)
    assert history.steps == 20
    return made


@pytest.mark.parametrize(
    ("rounds", "within"), [(1, SECONDS), pytest.param(40, 5.0, marks=pytest.mark.faults)]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_during_training(number: int, rounds: int, within: float, tmp_path: Path) -> None:
    """At any moment: the checkpoint holds, and training goes on from it to the weights of a run nobody stopped."""
    whole = run(None)
    drawn = random.Random(number)
    folder = tmp_path / "work"
    for _ in range(rounds):
        for _ in range(2):
            code = interrupted(lambda: run(folder) and 0, number, drawn.uniform(0.02, 0.3), within)
            assert code in (0, -number, 130)
        assert same_weights(run(folder), whole)
        assert names_in(folder) == ["checkpoint-0.safetensors"]
        shutil.rmtree(folder)


@pytest.mark.parametrize("rounds", [1, pytest.param(40, marks=pytest.mark.faults)])
def test_two_resumes_of_one_run(rounds: int, tmp_path: Path) -> None:
    """Started twice by mistake, both end with the weights of a run alone; the checkpoint is whole at any moment."""
    whole = run(None)
    folder = tmp_path / "work"
    for _ in range(rounds):
        interrupted(lambda: run(folder) and 0, signal.SIGKILL, 0.15, SECONDS)

        def resume() -> int:
            return 0 if same_weights(run(folder), whole) else 1

        assert [ended(pid) for pid in [start(resume), start(resume)]] == [0, 0]
        assert names_in(folder) == ["checkpoint-0.safetensors"]
        assert same_weights(run(folder), whole)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("rounds", "within"), [(1, SECONDS), pytest.param(20, 5.0, marks=pytest.mark.faults)]
)
def test_control_c_at_the_command_line(rounds: int, within: float, tmp_path: Path) -> None:
    """``sparsam finetune`` ends with 130 wherever it is stopped; the same command, run again, gets through."""
    from sparsam.cli import main

    source, rows = classifier(tmp_path / "dense"), reviews(tmp_path / "rows.csv", rows=400)
    root = tmp_path / "runs"
    arguments = [
        "finetune",
        str(source),
        "--task",
        str(rows),
        "--out",
        str(root / "a"),
        "--epochs",
        "4",
        "--json",
    ]
    drawn = random.Random(3)
    for _ in range(rounds):
        code = interrupted(lambda: main(arguments), signal.SIGINT, drawn.uniform(0.05, 1.0), within)
        assert code in (0, 130)
        if (root / "a").exists():
            artifact.verify(root / "a")
    assert in_child(lambda: main(arguments), tmp_path / "said") == 0, (tmp_path / "said").read_text()
    assert names_in(root) == ["a"]
