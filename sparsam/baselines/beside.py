"""The dense checkpoint served in other ways, beside its own packed form: what a front of compressed models is shown with.

Two races (:mod:`sparsam.clock`): one in batches, which gives throughput and answers, and one of single rows, which gives
latencies. The packed form takes part in both, so that ratios over it carry over to where it was timed beside others.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.baselines.cache import DIGESTS, default_cache
from sparsam.baselines.dense import Checkpoint, checkpoint
from sparsam.baselines.entrants import Entrant, enter, export
from sparsam.baselines.feed import Feed
from sparsam.baselines.judge import in_classes
from sparsam.baselines.laps import load
from sparsam.baselines.ov import CALIBRATION
from sparsam.baselines.peers import EAGER, PEERS
from sparsam.baselines.rows import Stored, write_rows
from sparsam.baselines.spec import Lap, Spec, command
from sparsam.clock import Race, race
from sparsam.errors import InputOutput
from sparsam.models.positions import longest_text
from sparsam.task import Encoded, Rows, Split, Task, encode

OTHERS = (
    EAGER, "eager-bf16", "onnxruntime-fp32", "onnxruntime-int8", "openvino-fp32", "openvino-bf16", "openvino-int8",
)  # fmt: skip
"""Who is raced where nobody is named: transformers and the runtimes that deployments use. ``stock`` times reading too, and
``compile-bf16`` compiles for minutes; ``sparsam bench`` has both."""

MOST = 2000
"""Rows that are answered and timed in batches, at most: all of usual validation splits. Chosen by us, for the time it takes."""

SINGLES = 64
"""Rows that are timed one at a time."""

ROUNDS = 5
PATIENCE = 3600.0
"""Seconds that a contestant may take to get ready."""


@dataclass(frozen=True)
class Other:
    """One other way to serve the dense checkpoint; ratios are over the packed form in the same race."""

    name: str
    says: str
    """What it is, in words."""
    throughput: float
    """Samples a second."""
    throughput_ratio: float
    p50_ms: float
    latency_ratio: float
    spread: float
    """Largest ratio of a round over the smallest."""
    bytes: int
    """Of the files that are served: the checkpoint's weights, or the exported model."""
    predictions: NDArray[Any]
    """What was answered while timed: classes as the task numbers them, or numbers."""


@dataclass(frozen=True)
class Beside:
    """What came of the races: who ran, on how many rows; who could not, and why; and warnings."""

    others: tuple[Other, ...]
    rows: int
    absent: dict[str, str]
    warnings: tuple[str, ...]


def beside_packed(
    source: str | os.PathLike[str],
    task: Task,
    split: Split,
    *,
    packed: str,
    names: Sequence[str] = OTHERS,
    batch: int = 32,
    threads: int | None = None,
    cache: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Beside:
    """Race other ways to serve a dense checkpoint against its packed form.

    Args:
        source: folder or hub id of the dense checkpoint.
        task: its problem and classes; training rows calibrate int8.
        split: gives the rows, in the order they came.
        packed: ``float32`` or ``bfloat16``: the packed form that ratios are over.
        names: of :data:`sparsam.baselines.peers.PEERS`.
        batch: rows of a batch.
        threads: of each contestant; all cores if absent.
        cache: folder of exported models; ``sparsam/exports`` in the user's cache if absent.
        progress: told of a stage, and how far it is.

    Raises:
        Refused, InputOutput: those of :func:`sparsam.baselines.dense.checkpoint`.
    """
    one = checkpoint(os.fspath(source), task)
    if one.has_plan:
        return Beside(
            (), 0, dict.fromkeys(names, f"{one.name} is compressed itself; they serve a dense one"), ()
        )
    first = "packed-bf16" if packed == "bfloat16" else "packed-fp32"
    wanted = list(dict.fromkeys((first, *names)))
    taken = split.take(np.arange(min(len(split), MOST)))
    few = split.take(np.arange(min(len(split), SINGLES)))
    with tempfile.TemporaryDirectory(prefix="sparsam-beside-") as folder:
        places = [Path(folder) / kind for kind in ("batches", "singles")]
        folders = os.fspath(cache or default_cache())
        specs = [
            Spec("", "", str(place), folders, size, (Lap("arrival", False),), 0, ROUNDS, "")
            for place, size in zip(places, (batch, 1), strict=True)
        ]
        calibration = _calibration(one, task, wanted)
        for place, rows in zip(places, (taken, few), strict=True):
            place.mkdir()
            write_rows(place, rows, _encoded(one, rows), calibration)
        entered, absent = enter(one, (), wanted, specs[0], places[0])
        told = _stage("export", progress)
        absent |= export(entered, threads, told)
        together = _raced(entered, absent, threads, _stage("baselines", progress))
        alone_entered, _ = enter(one, (), list(together.timings), specs[1], places[1])
        alone = _raced(alone_entered, {}, threads, _stage("baselines alone", progress))
        absent |= _whys(together) | _whys(alone)
        there = [name for name in wanted if name in alone.timings]
        if first not in there:
            why = absent.pop(first, "it is not among those timed")
            return Beside(
                (), 0, absent | dict.fromkeys(names, f"{first}, which ratios are over, cannot run: {why}"), ()
            )
        singles = {name: alone_entered[name].medians(len(few)) for name in there}
        others = tuple(
            _other(name, first, entered[name], together, singles, task, len(taken))
            for name in there
            if name != first
        )
    return Beside(others, len(taken), absent, tuple(dict.fromkeys(together.warnings + alone.warnings)))


def _raced(
    entered: dict[str, Entrant],
    absent: dict[str, str],
    threads: int | None,
    told: Callable[[int, int], None] | None,
) -> Race:
    """Those that are there, in turn. Where one stops in a round nothing can be compared: all are absent, for that reason."""
    running = {name: one for name, one in entered.items() if name not in absent}
    try:
        return race(
            {name: command(one.file) for name, one in running.items()}, rounds=ROUNDS, warmups=0, threads=threads,
            patience=PATIENCE, progress=told,
        )  # fmt: skip
    except InputOutput as error:
        if error.code != "contestant":
            raise
        return Race({}, dict.fromkeys(running, f"the race ended early: {error}"), ())


def _whys(found: Race) -> dict[str, str]:
    return {name: why.removeprefix(f"{name}: ") for name, why in found.absent.items()}


def _other(
    name: str, first: str, entrant: Entrant, together: Race, singles: dict[str, NDArray[Any]], task: Task, rows: int
) -> Other:  # fmt: skip
    ratio, timing = together.ratio(name, first), together.timings[name]
    ratios = singles[name] / singles[first]
    return Other(
        name, PEERS[name].says, rows / timing.median, ratio.value, float(np.median(singles[name])),
        float(np.median(ratios)), max(ratio.spread, float(ratios.max() / ratios.min())), _bytes(entrant),
        in_classes(task, entrant.checkpoint, timing.facts["answers"]["arrival"]),
    )  # fmt: skip


def _bytes(entrant: Entrant) -> int:
    """What is served: an exported model's files, else the checkpoint's weights."""
    exports, folder = entrant.peer.exports, entrant.checkpoint.folder
    if exports is None:
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    made = exports(Feed(Stored(Path(entrant.spec.rows)), load(folder)), Path(entrant.spec.cache))[-1].folder
    return sum(file.stat().st_size for file in made.iterdir() if file.name != DIGESTS)


def _encoded(one: Checkpoint, rows: Rows) -> Encoded:
    longest = None if rows.images is not None else longest_text(one.config, one.processor)
    return encode(one.processor, rows, max_length=longest)


def _calibration(one: Checkpoint, task: Task, wanted: Sequence[str]) -> Encoded | None:
    if task.train is None or "openvino-int8" not in wanted:
        return None
    drawn = task.train.sample(CALIBRATION, seed=0)
    return _encoded(one, drawn.take(np.arange(len(drawn))))


def _stage(name: str, progress: Callable[[str, int, int], None] | None) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)
