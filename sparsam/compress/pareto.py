"""The accuracy–speed front of a model on a task: several budgets, each compressed and saved, then timed together.

Points are asked for by MACs, so that they come out alike wherever they are made, one after the other or on the workers of a Ray
cluster; their speeds are measured afterwards, all of them in turn in one run on this machine. Other ways to serve the dense
model stand in the same picture: they are raced against its packed form, and their ratios over it carry over.
"""

import json
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsam import artifact
from sparsam.artifact.staging import write_whole
from sparsam.baselines.beside import OTHERS, Beside, Other, beside_packed
from sparsam.baselines.peers import PEERS
from sparsam.compress.evaluation import Evaluation, Progress, evaluate
from sparsam.compress.method_run import Method
from sparsam.compress.opening import Opened, open_model, split_of, weight_bytes
from sparsam.compress.road import compress
from sparsam.compress.timer import ROWS
from sparsam.cost import Budget
from sparsam.errors import InputOutput, Usage
from sparsam.measure import Measurement, machine_facts, metric_interval, paired_difference
from sparsam.models.digest import weights_digest
from sparsam.models.positions import longest_text
from sparsam.runtime import freeze
from sparsam.runtime.freeze import native_bf16
from sparsam.search.speed import batches_of, compare
from sparsam.structure import FTPP
from sparsam.task import Task, encode
from sparsam.training.loop import Settings

FILE = "pareto.json"
KIND = "sparsam-pareto"
SCHEMA = 1
POINTS = (0.8, 0.65, 0.5, 0.4, 0.3, 0.2)
"""Shares of MACs, where none are named."""


@dataclass(frozen=True)
class Point:
    """One model of the picture: how good, how much work, how fast, how large."""

    name: str
    folder: str
    dense: bool
    metric: dict[str, Any]
    difference: dict[str, Any] | None
    macs_ratio: float
    throughput: float
    throughput_ratio: float
    p50_ms: float
    latency_ratio: float
    bytes: int
    on_front: bool = False
    runtime: str | None = None
    """What serves it, in words, where that is not sparsam."""


@dataclass(frozen=True)
class Race:
    """How the points of other runtimes came about: how many rows they answered, who could not run and why, and warnings."""

    rows: int
    spread: float
    """Largest ratio of a round over the smallest, of the runtime where they differ most."""
    absent: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Front:
    """All points, and what their ratios are relative to."""

    task: str
    split: str
    baseline: str
    batch: int
    spread: float
    points: tuple[Point, ...]
    machine: dict[str, Any]
    race: Race | None = None
    """Of the dense model in other runtimes, if they were asked for."""

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        return {"kind": KIND, "schema": SCHEMA} | asdict(self)

    def save(self, folder: Path) -> Path:
        """Write ``pareto.json``, whole or not at all."""
        file = folder / FILE
        write_whole(file, json.dumps(self.to_json(), allow_nan=False, indent=1) + "\n")
        return file


def pareto(
    model: str,
    task: Task | str,
    out: str | Path,
    *,
    methods: Sequence[Method] = (FTPP(),),
    points: Sequence[float] = POINTS,
    seeds: Sequence[int] = (0,),
    settings: Settings | None = None,
    truncate: bool = True,
    batch: int = 32,
    baselines: Sequence[str] = OTHERS,
    ray: str | None = None,
    progress: Progress | None = None,
) -> Front:
    """Compress a model to several budgets and say which of the results are worth having.

    What stands in ``out`` already, made from the same model with the same settings, is not made again.

    Args:
        model: the dense model: folder or hub id.
        task: what :meth:`Task.load` reads; with ``ray`` its name, which every worker reads.
        out: folder of the models and of ``pareto.json``.
        methods: what to apply; the budget is shared as :func:`sparsam.compress.compress` does.
        points: shares of the dense MACs.
        seeds: one model a point and seed.
        settings: batch size and precision; the seed is set for each point.
        batch: samples of a batch when speed is measured.
        baselines: other ways to serve the dense model, by their names in ``sparsam bench``; those that cannot run here are left
            out by name. None of them if empty.
        ray: address of a Ray cluster (``local`` starts one here), whose workers see the same files; in this process if absent.

    Raises:
        Usage: ``points``, ``baseline-unknown``, ``ray-missing``, ``ray-task``.
        Refused, InputOutput: those of :func:`sparsam.compress.compress`.
    """
    if not points or not all(0 < macs <= 1 for macs in points):
        raise Usage(
            f"points are shares of the dense model's work in (0, 1]; got {list(points)!r}. For example 0.6, 0.4.",
            code="points",
        )
    unknown = next((name for name in baselines if name not in PEERS), None)
    if unknown is not None:
        raise Usage(
            f"there is no baseline {unknown!r}; choose from {', '.join(PEERS)}.", code="baseline-unknown"
        )
    if ray is not None and isinstance(task, Task):
        raise Usage(
            "with a Ray cluster give the task by its name; workers read it themselves.", code="ray-task"
        )
    data = Task.load(task) if isinstance(task, str) else task
    out = Path(out)
    dense = open_model(model, data)
    source, settings = weights_digest(dense.model), settings or Settings()
    wanted = [(macs, seed) for macs in sorted(points, reverse=True) for seed in seeds]
    folders = [out / (f"macs-{macs:g}" + (f"-seed{seed}" if len(seeds) > 1 else "")) for macs, seed in wanted]
    jobs: list[dict[str, Any]] = []
    for (macs, seed), folder in zip(wanted, folders, strict=True):
        own = replace(settings, seed=seed)
        given = {"out": folder, "methods": tuple(methods), "budget": Budget(macs=macs), "settings": own}
        if not _made(folder, given, source):
            jobs.append(given | {"truncate": truncate, "strict": False})
    done = 0

    def told() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("points", done, len(jobs), {})

    spec = task if isinstance(task, str) and ray is not None else data
    for finished in _each(ray)(model, spec, jobs):
        finished.result()
        told()
    front = _measured(dense, folders, data, batch, truncate, baselines, progress)
    front.save(out)
    return front


def _made(folder: Path, given: dict[str, Any], source: str) -> bool:
    """Whether a point stands there already, made from the same weights, methods and seed."""
    if not artifact.is_artifact(folder):
        return False
    facts = artifact.load(folder).facts
    methods = [{"method": type(one).__name__, **asdict(one)} for one in given["methods"]]
    same = {
        "source_sha256": source, "methods": methods, "budget": given["budget"].to_json(),
        "settings": vars(given["settings"]),
    }  # fmt: skip
    return all(
        json.dumps(facts.get(key), sort_keys=True) == json.dumps(value, sort_keys=True)
        for key, value in same.items()
    )


Each = Callable[[str, Any, Sequence[dict[str, Any]]], Any]


def _each(ray: str | None) -> Each:
    """How points are made: here one after the other, or by a cluster's workers."""
    return _here if ray is None else lambda model, task, jobs: _on_ray(ray, model, task, jobs)


def _here(model: str, task: Any, jobs: Sequence[dict[str, Any]]) -> Any:
    for given in jobs:
        finished: Future[None] = Future()
        compress(model, task, **given)
        finished.set_result(None)
        yield finished


def _check_answers(address: str) -> None:
    """Ask whether anybody listens: Ray itself waits for minutes, and then ends the process.

    Raises:
        InputOutput: ``ray-unreachable``.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # local, auto, or an address that Ray resolves
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise InputOutput(
            f"no Ray cluster answers at {address!r}: {error.strerror or error}. Start one with `ray start --head`, or give "
            "'local'.",
            code="ray-unreachable",
        ) from None


def _on_ray(address: str, model: str, task: str, jobs: Sequence[dict[str, Any]]) -> Any:
    """On the workers of a cluster, one core each; results in the order they come."""
    # Ray's usage statistics would leave this machine; its workers must not build an environment of their own.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
    except ImportError:
        raise Usage(
            "a Ray cluster wants the extra 'distributed': pip install 'sparsam[distributed]'.",
            code="ray-missing",
        ) from None
    began = not ray.is_initialized()
    if began:
        _check_answers(address)
        ray.init(
            address=None if address == "local" else address, log_to_driver=False, include_dashboard=False,
            configure_logging=False,
        )  # fmt: skip

    def make(given: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(1)
        compress(model, task, **given)

    try:
        remote: Any = ray.remote(num_cpus=1)(make)
        waiting = [remote.remote(given | {"out": given["out"].absolute()}) for given in jobs]
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1)
            for one in ready:
                finished: Future[None] = Future()
                try:
                    ray.get(one)
                    finished.set_result(None)
                except ray.exceptions.RayTaskError as error:
                    finished.set_exception(error.cause if isinstance(error.cause, Exception) else error)
                yield finished
    finally:
        if began:
            ray.shutdown()


def _measured(
    dense: Opened,
    folders: Sequence[Path],
    task: Task,
    batch: int,
    truncate: bool,
    baselines: Sequence[str],
    progress: Progress | None,
) -> Front:
    """Every point reloaded, evaluated, and timed in turn with all others beside the packed dense model."""
    opened = [open_model(str(folder), task) for folder in folders]
    names = [dense.name, *(folder.name for folder in folders)]
    scores = [evaluate(one, task, truncate=truncate, progress=progress) for one in (dense, *opened)]
    dtype = "bfloat16" if native_bf16() else "float32"
    frozen = [freeze(one.model, dtype=dtype) for one in (dense, *opened)]
    split = split_of(task, "validation")
    rows = split.take(np.arange(min(len(split), max(ROWS, 4 * batch))))
    longest = None if rows.images is not None else longest_text(dense.model.config, dense.processor)
    encoded = encode(dense.processor, rows, max_length=longest)
    together = compare(frozen, batches_of(encoded, batch), len(encoded))
    few = encode(dense.processor, split.take(np.arange(min(len(split), 64))), max_length=longest)
    alone = compare(frozen, batches_of(few, 1), len(few))
    points = [
        _point(
            name, "" if at == 0 else str(folders[at - 1]), task.metric, one, score, scores[0], together.throughput[at],
            together.ratios[at], alone.p50[at], alone.latency_ratios[at],
        )
        for at, (name, one, score) in enumerate(zip(names, (dense, *opened), scores, strict=True))
    ]  # fmt: skip
    baseline = f"packed dense {'bf16' if dtype == 'bfloat16' else 'fp32'}"
    spread = max(together.spread, alone.spread)
    raced = None
    if baselines:
        show = progress
        found = beside_packed(
            dense.name, task, split, packed=dtype, names=baselines, batch=batch, threads=torch.get_num_threads(),
            progress=None if show is None else (lambda stage, done, total: show(stage, done, total, {})),
        )  # fmt: skip
        points[1:1] = [_in_other(one, task.metric, scores[0]) for one in found.others]
        raced = _race(found)
    return Front(task.name, "validation", baseline, batch, spread, _fronted(points), machine_facts(), raced)


def _in_other(one: Other, metric: str, dense: Evaluation) -> Point:
    """The dense model in another runtime: its answers in the race, against those of the packed form on the same rows."""
    n = len(one.predictions)
    labels = dense.labels[:n]
    difference = paired_difference(metric, dense.predictions[:n], one.predictions, labels)
    return Point(
        one.name, "", True, metric_interval(metric, one.predictions, labels).as_json(), difference.as_json(), 1.0,
        one.throughput, one.throughput_ratio, one.p50_ms, one.latency_ratio, one.bytes, runtime=one.says,
    )  # fmt: skip


def _race(found: Beside) -> Race:
    spread = max((one.spread for one in found.others), default=1.0)
    return Race(found.rows, spread, found.absent, found.warnings)


def _point(
    name: str, folder: str, metric: str, opened: Opened, score: Evaluation, dense: Evaluation, throughput: float,
    ratio: float, p50: float, latency: float,
) -> Point:  # fmt: skip
    difference: Measurement | None = None
    if folder:
        difference = paired_difference(metric, dense.predictions, score.predictions, dense.labels)
    return Point(
        name, folder, not folder, score.metric.as_json(), None if difference is None else difference.as_json(),
        score.macs_ratio, throughput, ratio, p50, latency, weight_bytes(opened.model),
    )  # fmt: skip


def _fronted(points: Sequence[Point]) -> tuple[Point, ...]:
    """Mark the points that no other one is at least as good and as fast as, and better in one."""
    marked = []
    for one in points:
        beaten = any(
            other.throughput_ratio >= one.throughput_ratio
            and other.metric["value"] >= one.metric["value"]
            and (other.throughput_ratio, other.metric["value"]) != (one.throughput_ratio, one.metric["value"])
            for other in points
        )
        marked.append(replace(one, on_front=not beaten))
    return tuple(marked)
