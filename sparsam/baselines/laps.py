"""A contestant at work: its rows in batches, lap after lap, and what it answered."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam import artifact
from sparsam.artifact import Loaded, LoadedExport
from sparsam.baselines.eager import Serve
from sparsam.baselines.feed import Feed, Part
from sparsam.baselines.peers import Peer, peer_of
from sparsam.baselines.rows import Stored
from sparsam.baselines.spec import Lap, Spec
from sparsam.errors import Refused
from sparsam.task import in_order_batches

LASTS = 0.25
"""Seconds a run lasts at least: a short lap is run over and over. Chosen by us: below it, starting to run is what is timed."""


def threads_here() -> int:
    """What the race allows this process: its ``OMP_NUM_THREADS``."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else os.cpu_count() or 1


def load(folder: str | Path) -> Loaded | LoadedExport:
    """A checkpoint, with its plan if it has one; or an exported folder."""
    if artifact.exported_to(folder) is not None:
        return artifact.load_export(folder)
    dense = artifact.load_dense(folder)
    return dense if dense.plan is None else artifact.load(folder)


def feed_of(spec: Spec) -> Feed:
    """The rows, for this contestant's checkpoint."""
    return Feed(Stored(Path(spec.rows)), load(spec.folder))


class Runner:
    """Runs one lap a call, as the spec orders them.

    Args:
        spec: what to run.
        feed: the rows.
        serve: batches to logits.
        peer: says whether it can be given tokens.
    """

    def __init__(self, spec: Spec, feed: Feed, serve: Serve, peer: Peer) -> None:
        self.spec, self.feed, self.serve, self.peer = spec, feed, serve, peer
        self.batches = {
            lap.order: [order[part] for part in in_order_batches(len(order), spec.batch)]
            for lap in spec.laps
            for order in [feed.stored.order(lap.order)]
        }
        self.runs = 0
        self.took: dict[Lap, float] = {}
        """Seconds of a lap, the last time it was run."""

    def __call__(self) -> int:
        """The next run: how often it went through its lap. A lap that this contestant does not run passes at once."""
        lap = self.spec.lap_of(self.runs)
        self.runs += 1
        seconds, passes = np.full(len(self.batches[lap.order]), np.nan), 1
        if lap.tokenisation or not self.peer.reads_itself:
            passes = self.passes(lap)
            for _ in range(passes):
                self.run(lap, seconds)
        if self.spec.latencies:
            with open(self.spec.latencies, "ab") as file:
                seconds.tofile(file)
        return passes

    def passes(self, lap: Lap) -> int:
        """How often a run goes through a lap, so that it lasts."""
        return max(1, math.ceil(LASTS / max(self.took.get(lap, LASTS), 1e-4)))

    def run(self, lap: Lap, seconds: NDArray[np.float64]) -> list[NDArray[np.float32]]:
        """All batches of a lap: their logits, in its order. ``seconds`` takes the time of each."""
        found = []
        for number, rows in enumerate(self.batches[lap.order]):
            started = perf_counter()
            found.append(self.serve(Part(self.feed, rows, lap.tokenisation)))
            seconds[number] = perf_counter() - started
        self.took[lap] = float(seconds.sum())
        return found

    def answers(self) -> dict[str, list[float]]:
        """By order of the rows, what each row was answered: the number of the largest output, or the one output.

        Every lap is run once for it. The list is in the order in which the rows came.

        Raises:
            Refused: ``non-finite``.
        """
        said: dict[str, list[float]] = {}
        for lap in self.spec.laps:
            if self.peer.reads_itself and not lap.tokenisation:
                continue
            parts = self.run(lap, np.zeros(len(self.batches[lap.order])))
            logits = np.empty((len(self.feed.stored), parts[0].shape[1]), np.float32)
            logits[np.concatenate(self.batches[lap.order])] = np.concatenate(parts)
            if not np.isfinite(logits).all():
                row = int(np.flatnonzero(~np.isfinite(logits).all(1))[0])
                raise Refused(f"its output for row {row} is not a number", code="non-finite")
            answer = logits[:, 0] if logits.shape[1] == 1 else logits.argmax(1)
            said.setdefault(lap.order, answer.tolist())
        return said


def contestant(spec: Spec) -> Callable[[], tuple[Callable[[], object], dict[str, Any]]]:
    """What :func:`sparsam.clock.take_part` wants: makes the contestant ready, and gives its work and its facts."""

    def make() -> tuple[Callable[[], object], dict[str, Any]]:
        feed, peer = feed_of(spec), peer_of(spec.form)
        feed.check_reading()
        serve = peer.open(feed, Path(spec.cache), threads_here(), spec.batch)
        runner = Runner(spec, feed, serve, peer)
        return runner, {"answers": runner.answers(), "threads": threads_here()}

    return make
