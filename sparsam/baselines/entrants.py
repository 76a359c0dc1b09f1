"""Who takes part in a race: checkpoints in their forms, what each is told, and the models exported for them beforehand."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsam.baselines.dense import Checkpoint
from sparsam.baselines.feed import Feed
from sparsam.baselines.laps import load
from sparsam.baselines.peers import CANDIDATE, IN_INTEGERS, STOCK, Peer, peer_of
from sparsam.baselines.rows import Stored
from sparsam.baselines.spec import Spec, command
from sparsam.errors import SparsamError

RUNTIME = {"onnx": "onnxruntime", "openvino": "openvino"}
"""What an exported folder runs in, by what it was exported to."""


@dataclass(frozen=True)
class Entrant:
    """One contestant before it starts: its spec lies in ``file``."""

    checkpoint: Checkpoint
    spec: Spec
    file: Path
    candidate: bool

    @property
    def peer(self) -> Peer:
        """Its line of the table."""
        return peer_of(self.spec.form)

    def latencies(self, rows: int) -> list[tuple[float | None, float | None]]:
        """Lap by lap, 50th and 95th percentile of a row's milliseconds: of every round, then the median of the rounds.

        Written by the contestant where a batch is one row; None for a lap it does not run.
        """
        seconds = np.fromfile(self.spec.latencies).reshape(-1, rows)  # (runs, rows)
        laps, rounds = len(self.spec.laps), self.spec.rounds
        timed = 1000 * seconds[self.spec.warmups * laps :].reshape(laps, rounds, rows)
        found: list[tuple[float | None, float | None]] = []
        for lap in timed:
            p50, p95 = np.median(np.percentile(lap, (50, 95), axis=1), axis=1)
            found.append((None, None) if np.isnan(p50) else (float(p50), float(p95)))
        return found

    def medians(self, rows: int) -> NDArray[np.float64]:
        """Round by round, the median of a row's milliseconds, (rounds,), where there is one lap and nothing warms up."""
        found: NDArray[np.float64] = 1000 * np.median(
            np.fromfile(self.spec.latencies).reshape(-1, rows), axis=1
        )
        return found


def enter(
    dense: Checkpoint, candidates: Sequence[Checkpoint], chosen: Sequence[str], spec: Spec, place: Path
) -> tuple[dict[str, Entrant], dict[str, str]]:
    """The contestants by name, and those that cannot run here with the reason.

    A peer goes by its own name, a candidate by the name of its folder and its form.

    Args:
        dense: what the peers serve.
        candidates: what is compared with them.
        chosen: names of peers.
        spec: what they have in common; form, checkpoint and file of latencies are filled in.
        place: an empty folder for the specs.
    """
    runs = [(name, name, dense, False) for name in chosen]
    for one in candidates:
        if one.exported is not None:
            runs.append((f"{one.name}, {RUNTIME[one.exported]}", one.exported, one, True))
            continue
        forms = IN_INTEGERS if one.integers else CANDIDATE
        runs += [
            (f"{one.name}, {shown}", form, one, True)
            for shown, form in forms.items()
            if form != STOCK or STOCK in chosen
        ]
    entered: dict[str, Entrant] = {}
    absent: dict[str, str] = {}
    for number, (label, form, checkpoint, candidate) in enumerate(runs):
        why = peer_of(form).why_absent()
        if why is not None:
            absent[label] = why
            continue
        own = Spec(
            **vars(spec)
            | {
                "form": form,
                "folder": str(checkpoint.folder),
                "latencies": str(place / f"{number}.f8") if spec.batch == 1 else "",
            }
        )
        own.write(place / f"{number}.json")
        entered[label] = Entrant(checkpoint, own, place / f"{number}.json", candidate)
    return entered, absent


def export(
    entered: Mapping[str, Entrant], threads: int | None, progress: Callable[[int, int], None] | None = None
) -> dict[str, str]:
    """Make the exported models that are not in the cache yet, one after the other, each in a process of its own.

    Returns whose could not be made, and why.
    """
    wanting = {label: one for label, one in entered.items() if one.peer.exports is not None}
    absent: dict[str, str] = {}
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    feed: Feed | None = None
    for number, (label, one) in enumerate(wanting.items()):
        assert one.peer.exports is not None
        feed = feed or Feed(Stored(Path(one.spec.rows)), load(one.spec.folder))
        try:
            there = one.peer.exports(feed, Path(one.spec.cache))[-1].is_there()
        except SparsamError as error:
            absent[label] = str(error)
            continue
        if not there:
            done = subprocess.run(
                command(one.file, export=True), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                errors="replace", env=environment,
            )  # fmt: skip
            if done.returncode:
                said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
                why = said[-1][:300] if said else f"exit code {done.returncode}"
                absent[label] = f"could not be exported: {why}"
        if progress is not None:
            progress(number + 1, len(wanting))
    return absent
