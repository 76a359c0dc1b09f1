"""How fast checkpoints are beside other ways to serve the dense model, on a task's own rows, and what they answered meanwhile.

    found = sparsam.bench("runs/half", "nyu-mll/glue:sst2", baselines=["openvino-int8"])
    for row in found.rows:
        print(f"{row.model}: {row.ratio_to_baseline:.2f}x {row.baseline}, {row.order} order")

Contestants are timed as :mod:`sparsam.clock` says. A lap is one order of the rows, with or without reading them (tokenizer,
image processor); rounds of one lap follow each other. Answers are those of the very work that is timed. All contestants
are in memory at once.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sparsam.artifact.staging import real_path, write_whole
from sparsam.baselines.cache import default_cache, version_of
from sparsam.baselines.dense import Checkpoint, base_of, checkpoint
from sparsam.baselines.entrants import Entrant, enter, export
from sparsam.baselines.judge import Judge
from sparsam.baselines.ov import CALIBRATION
from sparsam.baselines.peers import EAGER, PEERS
from sparsam.baselines.rows import write_rows
from sparsam.baselines.spec import Lap, Spec, command
from sparsam.clock import SPREAD, Race, Timing, race
from sparsam.errors import InputOutput, Usage
from sparsam.measure import machine_facts
from sparsam.models.positions import longest_text
from sparsam.task import Encoded, Rows, Split, Task, encode

SCHEMA = "sparsam.bench/1"
WARMUPS = 0
"""Passes over every lap before the rounds, beside the one that gives the answers: that one has warmed all there is."""

PATIENCE = 3600.0
"""Seconds that a contestant may take to get ready: compiling takes minutes."""

ORDERS = {"arrival": ("arrival",), "sorted": ("sorted",), "both": ("arrival", "sorted")}

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Stage, step, total, figures."""


@dataclass(frozen=True)
class BenchRow:
    """One speed-up, with the baseline it is over."""

    model: str
    baseline: str
    ratio_to_baseline: float
    """How many times faster: the median of the rounds' ratios; ``low`` and ``high`` are the least and the largest."""
    order: str
    batch: int
    tokenisation: bool
    """Whether tokenizer or image processor are timed too."""
    low: float
    high: float
    spread: float
    """``high / low``."""
    doubtful: bool
    """The rounds disagree too much for a figure."""
    samples_per_second: float
    baseline_samples_per_second: float
    p50_ms: float | None
    """Of one batch, where a batch is one row: the median of the rounds' medians, and of their 95th percentiles."""
    p95_ms: float | None
    accuracy: float
    """In the task's metric, of the answers given while timed, as a fraction."""
    accuracy_difference: float
    """Points over the dense model in transformers, float32, on the same rows; ``interval`` is its 95 % interval."""
    interval: tuple[float, float]
    rows: int
    machine: dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """What came of it: a row for each speed-up, who could not take part and why, and warnings."""

    task: str
    kind: str
    """``text`` or ``image``."""
    split: str
    metric: str
    dense: str
    rows: tuple[BenchRow, ...]
    absent: dict[str, str]
    warnings: tuple[str, ...]
    machine: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """All facts as one object."""
        rows = [asdict(row) | {"interval": list(row.interval)} for row in self.rows]
        return {"schema": SCHEMA} | asdict(self) | {"rows": rows, "warnings": list(self.warnings)}

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write the object to a file, whole or not at all."""
        text = json.dumps(self.to_json(), allow_nan=False, indent=2)
        write_whole(real_path(file), text + "\n")


def bench(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    task: Task | str,
    *,
    baselines: Sequence[str] | None = None,
    dense: str | os.PathLike[str] | None = None,
    split: str = "validation",
    batch: int = 32,
    order: str = "both",
    rows: int | None = None,
    rounds: int = 7,
    threads: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Benchmark:
    """Race checkpoints, frozen in float32 and bfloat16, against other ways to serve the dense model they came from.

    Args:
        models: folders, or hub ids.
        task: what :meth:`Task.load` reads, or a task.
        baselines: names in :data:`sparsam.baselines.peers.PEERS`; all of them if absent. ``eager-fp32`` always runs.
        dense: the dense checkpoint; found by what was saved with the models if absent.
        split: ``train``, ``validation`` or ``test``.
        batch: rows of a batch; with 1 there are latencies.
        order: ``arrival``, ``sorted`` (by length) or ``both``. Images are all of one length, so theirs is ``arrival``.
        rows: the first so many rows; all if absent.
        rounds: how often each contestant is timed in each lap.
        threads: of each contestant; all cores if absent.
        cache: folder of exported models; ``sparsam/exports`` in the user's cache if absent.

    Raises:
        Usage: ``order``, ``baseline-unknown``, ``model-missing``, ``model-twice``, ``dense-missing``, ``dense-differs``,
            ``dense-compressed``, ``batch``, ``rows``, ``rounds``, ``split-missing``.
        Refused: a model does not fit the task; see :func:`sparsam.baselines.dense.checkpoint`.
        InputOutput: ``contestant`` where no candidate, or not ``eager-fp32``, can run; and those of loading.
    """
    named = [models] if isinstance(models, str | os.PathLike) else list(models)
    chosen = _check(
        [os.fspath(name) for name in named], baselines, order, batch=batch, rows=rows, rounds=rounds
    )
    task = Task.load(task) if isinstance(task, str) else task
    data = _split_of(task, split)
    laps = tuple(Lap(one, reads) for one in _orders(order, task) for reads in (False, True))
    candidates = [checkpoint(os.fspath(name), task) for name in named]
    base = base_of(candidates, dense, task)
    taken = data.take(np.arange(len(data) if rows is None else min(rows, len(data))))
    with tempfile.TemporaryDirectory(prefix="sparsam-bench-") as folder:
        place = Path(folder)
        encoded = _encode(base, taken)
        write_rows(place, taken, encoded, _calibration(base, task, chosen))
        given = Spec("", "", folder, os.fspath(cache or default_cache()), batch, laps, WARMUPS, rounds, "")
        entered, absent = enter(base, candidates, chosen, given, place)
        absent |= export(entered, threads, _stage("export", progress))
        found = race(
            {label: command(one.file) for label, one in entered.items() if label not in absent},
            rounds=rounds * len(laps), warmups=WARMUPS * len(laps), threads=threads, patience=PATIENCE,
            progress=_stage("rounds", progress),
        )  # fmt: skip
        absent |= {label: why.removeprefix(f"{label}: ") for label, why in found.absent.items()}
        running = {label: one for label, one in entered.items() if label in found.timings}
        _check_running(running, absent)
        latencies = {label: one.latencies(len(taken)) for label, one in running.items() if batch == 1}
    made = _rows(found, running, given, Judge(task, taken.labels, found, running), latencies)
    notes = dict.fromkeys(note for one in (base, *candidates) for note in one.notes)
    warnings = (*task.notes, *notes, *_cut(encoded), *found.warnings, *_doubts(made))
    machine = made[0].machine
    return Benchmark(
        task.name, task.kind, split, task.metric, base.name, tuple(made), absent, warnings, machine
    )


def _check(named: list[str], baselines: Sequence[str] | None, order: str, **counts: int | None) -> list[str]:
    """The peers that are to run; the baseline of all first."""
    for what, count in counts.items():
        if count is not None and count < 1:
            raise Usage(f"{what} must be at least 1; got {count}.", code=what)
    if order not in ORDERS:
        raise Usage(f"order is one of {', '.join(ORDERS)}; got {order!r}.", code="order")
    if not named:
        raise Usage("give at least one folder of a checkpoint.", code="model-missing")
    twice = next((name for at, name in enumerate(named) if name in named[:at]), None)
    if twice is not None:
        raise Usage(f"{twice} is given twice; once is enough.", code="model-twice")
    unknown = next((name for name in baselines or () if name not in PEERS), None)
    if unknown is not None:
        raise Usage(
            f"there is no baseline {unknown!r}; choose from {', '.join(PEERS)}.", code="baseline-unknown"
        )
    return list(dict.fromkeys((EAGER, *(baselines or PEERS))))


def _split_of(task: Task, name: str) -> Split:
    found = getattr(task, name, None) if name in ("train", "validation", "test") else None
    if not isinstance(found, Split):
        raise Usage(f"the task {task.name} has no split {name!r}; choose another one.", code="split-missing")
    return found


def _orders(order: str, task: Task) -> tuple[str, ...]:
    if task.kind == "text":
        return ORDERS[order]
    if order == "sorted":
        raise Usage(
            "images are all of one length, so there is no order by length; leave it out.", code="order"
        )
    return ("arrival",)


def _encode(base: Checkpoint, rows: Rows) -> Encoded:
    longest = None if rows.images is not None else longest_text(base.config, base.processor)
    return encode(base.processor, rows, max_length=longest)


def _calibration(base: Checkpoint, task: Task, chosen: Sequence[str]) -> Encoded | None:
    if task.train is None or "openvino-int8" not in chosen:
        return None
    drawn = task.train.sample(CALIBRATION, seed=0)
    return _encode(base, drawn.take(np.arange(len(drawn))))


def _stage(name: str, progress: Progress | None) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total, {})


def _check_running(running: Mapping[str, Entrant], absent: Mapping[str, str]) -> None:
    """There is a baseline, and somebody to compare with it."""
    if EAGER not in running:
        raise InputOutput(
            f"{EAGER}, which all are compared with, cannot run: {absent[EAGER]}", code="contestant"
        )
    if not any(one.candidate for one in running.values()):
        whys = "; ".join(f"{label}: {why}" for label, why in absent.items() if label not in PEERS)
        raise InputOutput(f"none of the models can run: {whys}", code="contestant")


def _rows(
    found: Race,
    running: Mapping[str, Entrant],
    given: Spec,
    judge: Judge,
    latencies: Mapping[str, list[tuple[float | None, float | None]]],
) -> list[BenchRow]:
    """Every candidate over every peer, every peer over the plain one, lap by lap."""
    n = len(judge.labels)
    machine = _machine(int(found.timings[EAGER].facts["threads"]))
    made = []
    for number, lap in enumerate(given.laps):
        there = {
            label: one for label, one in running.items() if lap.tokenisation or not one.peer.reads_itself
        }
        part = _part(found, list(there), slice(number * given.rounds, (number + 1) * given.rounds))
        peers = [label for label, one in there.items() if not one.candidate]
        pairs = [(label, EAGER) for label in peers]
        pairs += [(label, peer) for label, one in there.items() if one.candidate for peer in peers]
        for label, baseline in pairs:
            ratio, (score, difference) = part.ratio(label, baseline), judge.of(label, lap.order)
            p50, p95 = latencies[label][number] if latencies else (None, None)
            speed, theirs = (n / part.timings[name].median for name in (label, baseline))
            made.append(
                BenchRow(
                    label, baseline, ratio.value, lap.order, given.batch, lap.tokenisation, ratio.low, ratio.high,
                    ratio.spread, ratio.doubtful, speed, theirs, p50, p95, score, difference.value,
                    (difference.low, difference.high), n, machine,
                )
            )  # fmt: skip
    return made


def _machine(threads: int) -> dict[str, Any]:
    """Where it was timed, on how many threads each, and with which versions of the peers."""
    facts = machine_facts()
    peers = {name: version for name in ("onnxruntime", "openvino", "nncf") if (version := version_of(name))}
    return facts | {"threads": threads, "versions": facts["versions"] | peers}


def _part(found: Race, names: Sequence[str], rounds: slice) -> Race:
    """The race of some contestants and some rounds."""
    timings: dict[str, Timing] = {
        name: replace(found.timings[name], seconds=found.timings[name].seconds[rounds]) for name in names
    }
    return replace(found, timings=timings)


def _cut(encoded: Encoded) -> tuple[str, ...]:
    if not encoded.truncated:
        return ()
    return (
        f"{encoded.truncated:,} of {len(encoded):,} texts are longer than the model can read and were cut",
    )


def _doubts(rows: Sequence[BenchRow]) -> tuple[str, ...]:
    doubtful = [row for row in rows if row.doubtful]
    if not doubtful:
        return ()
    worst = max(doubtful, key=lambda row: row.spread)
    return (
        f"{len(doubtful)} of {len(rows)} ratios are doubtful: their rounds lie more than {SPREAD}x apart, most in "
        f"{worst.model} over {worst.baseline}, {worst.order} order ({worst.low:.2f} to {worst.high:.2f}). Run again when the "
        "machine is quiet.",
    )
