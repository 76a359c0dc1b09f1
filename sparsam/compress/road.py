"""The main road: load, methods, save, reload, evaluate."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsam import artifact
from sparsam.compress.chosen_run import ChosenRun
from sparsam.compress.evaluation import Evaluation, Progress, evaluate
from sparsam.compress.limits import Limits, dense_figures, limits_of
from sparsam.compress.method_run import Method, default_methods, is_searched, run_of, share_of
from sparsam.compress.opening import (
    Opened,
    data_record,
    feed_of,
    open_model,
    rows_record,
    split_of,
    weight_bytes,
)
from sparsam.compress.remembered import remembered
from sparsam.compress.start import start_compressing, start_finetuning
from sparsam.compress.timer import timer_of
from sparsam.compress.token_run import lengths_of_use
from sparsam.cost import Budget, Dense
from sparsam.errors import BudgetMissed
from sparsam.measure import Measurement, machine_facts, paired_difference
from sparsam.models import dense_plan, plan_of
from sparsam.models.digest import weights_digest
from sparsam.plan import Plan
from sparsam.task import Task, held_out
from sparsam.tokens.control import Control
from sparsam.training.feed import Feed
from sparsam.training.loop import History, Settings, Supervised, on_main_process, train

SLOWER = 0.95
"""A budget of time counts as met down to this factor: clocks of shared machines differ by as much from run to run."""

TOLERANCE = 1.02
"""A budget counts as met up to this factor after reload, on other inputs than it was solved on. Chosen by us."""


@dataclass(frozen=True)
class Faster:
    """How fast a reloaded model is beside the packed dense one: medians of rounds taken in turn, rows as they came."""

    throughput_ratio: float
    latency_ratio: float
    """Of the median time of a batch."""
    throughput: tuple[float, ...]
    """Samples a second, dense and compressed."""
    p50: tuple[float, ...]
    """Milliseconds of a batch, dense and compressed."""
    spread: float
    batch: int
    baseline: str
    machine: dict[str, Any]


@dataclass(frozen=True)
class Compressed:
    """What :func:`compress` gives back: the reloaded model, its plan, and the two evaluations."""

    model: Any
    processor: Any
    plan: Plan
    folder: Path
    dense: Evaluation
    compressed: Evaluation
    difference: Measurement
    missed: tuple[str, ...]
    """What of the budget was not met, in sentences; empty when it was."""
    budget: Budget
    notes: tuple[str, ...]
    history: dict[str, dict[str, float]]
    dense_bytes: int
    compressed_bytes: int
    speeds: tuple[Faster, ...] = ()
    """Beside the packed dense form, where the budget names throughput or latency: one for each, in this order."""

    @property
    def met(self) -> bool:
        """Whether the reloaded model keeps the budget."""
        return not self.missed

    @property
    def speed(self) -> Faster | None:
        """The first of ``speeds``; None where nothing was timed."""
        return next(iter(self.speeds), None)

    def to_json(self) -> dict[str, Any]:
        """All facts as one object."""
        return {
            "folder": str(self.folder),
            "plan": self.plan.to_json(),
            "dense": self.dense.to_json() | {"bytes": self.dense_bytes},
            "compressed": self.compressed.to_json() | {"bytes": self.compressed_bytes},
            "difference": self.difference.as_json(),
            "budget": self.budget.to_json() | {"met": self.met},
            "speed": None if self.speed is None else asdict(self.speed),
            "speeds": [asdict(one) for one in self.speeds],
            "training": self.history,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Finetuned:
    """What :func:`finetune` gives back: the reloaded model and how good it is."""

    model: Any
    processor: Any
    folder: Path
    evaluation: Evaluation
    history: History
    notes: tuple[str, ...]


def finetune(
    model: Any,
    task: Task | str,
    out: str | Path,
    *,
    settings: Settings | None = None,
    processor: Any = None,
    truncate: bool = True,
    progress: Progress | None = None,
) -> Finetuned:
    """Fine-tune a pretrained encoder with a fresh head, on packed batches, and save it as an ordinary folder.

    A loaded model is copied, not changed. What is given back is read from the saved folder.
    """
    task = Task.load(task) if isinstance(task, str) else task
    settings = settings or Settings(epochs=3, lr=7e-5)
    artifact.check_target(Path(out))
    torch.manual_seed(settings.seed)  # a fresh head, or a whole fresh model, repeats too
    opened = start_finetuning(model, task, processor)
    feed = feed_of(opened, split_of(task, "train"), truncate)
    source = weights_digest(opened.model)
    history = train(
        Supervised(opened.model),
        feed.batches(settings.batch_tokens, settings.seed),
        feed.collate,
        settings,
        checkpoints=_work(out) / "finetune",
        identity={"model": source, "rows": len(feed)} | _learned_from(task),
        progress=None if progress is None else (lambda s, t, logs: progress("finetune", s, t, logs)),
    )
    facts = _facts(opened, task, settings, {}, source)
    on_main_process(lambda: artifact.save(opened.model.cpu(), out, processor=opened.processor, facts=facts))
    on_main_process(lambda: _clean(_work(out)))
    reloaded = open_model(str(out), task)
    found = evaluate(reloaded, task, truncate=truncate, progress=progress)
    notes = (*task.notes, *opened.notes, *_cut(feed))
    measured = {"model": found.to_json() | {"bytes": weight_bytes(reloaded.model)}}
    _record(out, task, measured, notes)
    return Finetuned(reloaded.model, reloaded.processor, Path(out), found, history, notes)


def compress(
    model: Any,
    task: Task | str,
    *,
    out: str | Path | None = None,
    methods: Sequence[Method] | None = None,
    budget: Budget | str | None = None,
    teacher: Any = None,
    settings: Settings | None = None,
    processor: Any = None,
    truncate: bool = True,
    progress: Progress | None = None,
    strict: bool = True,
    batch: int = 32,
) -> Compressed:
    """Make a fine-tuned encoder cheaper and save it as an ordinary checkpoint with a plan.

    Args:
        model: fine-tuned for the task: folder, hub id or transformers model; a loaded model is copied, not changed. One that
            was compressed before goes on from its plan; give the dense model as ``teacher`` then.
        task: what :meth:`Task.load` reads, or a task.
        out: folder to write, whole or not at all; if absent, ``NAME-METHOD`` in the working directory.
        methods: what to apply, in order; if absent LTP, and for a budget of throughput or latency what suits this machine of
            heads, filters, tokens and integers (of bytes: heads, filters and integers).
        budget: what may be spent and lost, such as ``"macs=0.5x,accuracy=-1"`` or ``"latency=8ms,bytes=20MB"``; all of its
            limits are kept.
        batch: samples of a batch that ``throughput`` is meant for.
        teacher: the dense model to learn from and to compare with; ``model`` as it came, if absent.
        settings: batch size, seed and precision; epochs and rates are the methods' own.
        strict: raise when the budget is missed (the folder is written all the same).

    Raises:
        BudgetMissed: ``budget-missed``, after saving the best that was found.
        Refused, Usage, InputOutput: see their texts.
    """
    task = Task.load(task) if isinstance(task, str) else task
    budget = Budget.parse(budget) if isinstance(budget, str) else budget or Budget()
    settings = settings or Settings()
    methods = tuple(methods if methods is not None else default_methods(budget))
    searched = is_searched(methods, budget)
    if out is not None:
        artifact.check_target(Path(out))
    torch.manual_seed(settings.seed)
    opened, taught = start_compressing(model, teacher, task, methods, processor)
    if out is None:
        out = _folder_for(opened, methods)
        artifact.check_target(out)
    source = weights_digest(opened.model)
    feed = feed_of(opened, split_of(task, "train"), truncate)
    wanted = lengths_of_use(opened, task, feed, truncate)
    history: dict[str, dict[str, float]] = {}
    limits = _limits(budget, taught, wanted, task, batch, _work(out))
    notes = list(limits.notes)
    calibration: dict[str, NDArray[np.int64]] = {}
    if searched:
        chosen = ChosenRun(
            opened, taught, task, feed, wanted, methods, limits, budget, settings, _work(out), progress, batch
        )
        chosen.identity |= _learned_from(task)
        chosen.apply()
        history, calibration = chosen.history, chosen.calibration
        notes += chosen.notes
    for number, method in enumerate(() if searched else methods):
        target, work = share_of(number, methods, limits.budget), _work(out) / str(number)
        run = run_of(method, opened, taught, feed, wanted, target, settings, work, progress, task, batch)
        run.identity |= _learned_from(task)
        run.apply()
        calibration[type(method).__name__] = run.calibration_rows
        history |= {f"{number}-{stage}": facts for stage, facts in run.history.items()}
        notes += run.notes
    plan = plan_of(opened.model) or dense_plan(opened.model)
    facts = _facts(opened, task, settings, history, source) | {
        "methods": [{"method": type(method).__name__, **asdict(method)} for method in methods],
        "budget": budget.to_json(),
        "calibration": [rows_record(name, rows) for name, rows in calibration.items()],
    }
    on_main_process(lambda: artifact.save(opened.model.cpu(), out, processor=opened.processor, facts=facts))
    reloaded = open_model(str(out), task)
    dense = evaluate(taught, task, truncate=truncate, progress=progress)
    after = evaluate(reloaded, task, truncate=truncate, progress=progress)
    difference = paired_difference(task.metric, dense.predictions, after.predictions, dense.labels)
    sizes = (weight_bytes(taught.model), weight_bytes(reloaded.model))
    speeds = _timed(budget, taught, reloaded, task, batch)
    missed = _missed(budget, after, difference, sizes, speeds)
    result = Compressed(
        reloaded.model,
        reloaded.processor,
        plan,
        Path(out),
        dense,
        after,
        difference,
        tuple(missed),
        budget,
        (*task.notes, *opened.notes, *_cut(feed), *notes),
        history,
        *sizes,
        tuple(speeds.values()),
    )
    measured = {
        "model": after.to_json() | {"bytes": result.compressed_bytes},
        "dense": dense.to_json() | {"bytes": result.dense_bytes, "name": taught.name},
        "difference": difference.as_json(),
    }
    _record(out, task, measured, (*missed, *result.notes))
    on_main_process(lambda: _clean(_work(out)))
    if missed and strict:
        raise BudgetMissed(
            f"{' '.join(missed)} The best that was found is kept in {out}. Allow more, or train longer "
            "(--epochs).",
            code="budget-missed",
        )
    return result


def _record(out: str | Path, task: Task, measured: dict[str, Any], notes: Sequence[str]) -> None:
    """Keep the figures beside the model they belong to, for ``sparsam report``."""
    whole = {"task": task.name, **measured, "notes": list(notes), "machine": machine_facts()}
    on_main_process(lambda: artifact.write_record(out, whole))


def _learned_from(task: Task) -> dict[str, Any]:
    """What training goes on from a checkpoint with: the same files and labels, the same rows held out."""
    labels = split_of(task, "train").labels
    return {
        "data": list(task.train_hashes()),
        "labels": hashlib.sha256(np.ascontiguousarray(labels).tobytes()).hexdigest(),
        "split_seed": task.split_seed,
    }


def _folder_for(opened: Opened, methods: Sequence[Method]) -> Path:
    """Where a compressed model goes when nobody said: beside the caller, under the names of model and method."""
    used = "-".join(
        method.rule if isinstance(method, Control) else type(method).__name__.lower() for method in methods
    )
    return Path(f"{Path(opened.name).name}-{used}")


def _limits(
    budget: Budget, taught: Opened, wanted: NDArray[np.int64], task: Task, batch: int, work: Path
) -> Limits:
    """The budget relative to the dense model, as that was measured when this run began."""
    if not budget.absolute:
        return Limits(budget)
    facts = {
        "budget": budget.to_json(),
        "batch": batch,
        "dense": weights_digest(taught.model),
    } | _learned_from(task)
    found = remembered(
        work / "search", "dense", facts, lambda: dense_figures(budget, taught, wanted, task, batch)
    )
    return limits_of(budget, Dense(**found))


def _timed(budget: Budget, taught: Opened, reloaded: Opened, task: Task, batch: int) -> dict[str, Faster]:
    """The reloaded model beside the packed dense one, on validation rows as they came, for each time that the budget names."""
    speeds = {}
    for key in ("throughput", "latency"):
        if not budget.names(key):
            continue
        timer = timer_of(taught, task, batch=batch, single=key == "latency")
        _, found = timer.of(reloaded.model, rounds=9)
        speeds[key] = Faster(
            found.ratios[1], found.latency_ratios[1], found.throughput, found.p50, found.spread,
            1 if timer.single else batch, f"packed dense {'bf16' if timer.dtype == 'bfloat16' else 'fp32'}", machine_facts(),
        )  # fmt: skip
    return speeds


def _missed(
    budget: Budget,
    after: Evaluation,
    difference: Measurement,
    sizes: tuple[int, int],
    speeds: Mapping[str, Faster],
) -> list[str]:
    """Every limit that the reloaded model does not keep, in a sentence; absolute ones against its own figure."""
    missed = []
    for key in budget.limits:
        kept, own = _kept(key, budget, after, sizes, speeds)
        if not kept:
            missed.append(f"The reloaded model {own}; {budget.said(key).partition('=')[2]} was asked for.")
    if budget.accuracy is not None and difference.value < budget.accuracy:
        missed.append(
            f"The reloaded model loses {-difference.value:.2f} points; at most {-budget.accuracy:g} were allowed."
        )
    return missed


def _kept(
    key: str, budget: Budget, after: Evaluation, sizes: tuple[int, int], speeds: Mapping[str, Faster]
) -> tuple[bool, str]:
    """Whether a limit is kept, within what clocks and other inputs differ by; and the model's own figure in words."""
    if key == "throughput":
        speed = speeds[key]
        if budget.throughput is None:
            asked = budget.samples_per_second or 0.0
            return speed.throughput[1] >= SLOWER * asked, f"serves {speed.throughput[1]:.4g} samples a second"
        own = f"serves {speed.throughput_ratio:.2f}x as many samples a second as {speed.baseline}"
        return speed.throughput_ratio >= SLOWER * budget.throughput, own
    if key == "latency":
        speed = speeds[key]
        if budget.latency is None:
            asked = budget.latency_ms or 0.0
            return speed.p50[1] <= asked / SLOWER, f"takes {speed.p50[1]:.2f} ms (p50), one sample at a time"
        own = f"takes {speed.latency_ratio:.2f}x of the time of {speed.baseline}, one sample at a time"
        return speed.latency_ratio <= budget.latency / SLOWER, own
    if key == "bytes":
        if budget.bytes is None:
            return sizes[1] <= (budget.size_bytes or 0), f"takes {sizes[1] / 1e6:.4g} MB"
        own = f"takes {sizes[1] / sizes[0]:.3f}x of the dense model's bytes"
        return sizes[1] <= TOLERANCE * budget.bytes * sizes[0], own
    if budget.macs is None:
        each = after.cost.macs / max(after.cost.samples, 1)
        return each <= TOLERANCE * (budget.macs_per_sample or 0), f"takes {each / 1e6:.4g}M MACs a sample"
    return after.macs_ratio <= TOLERANCE * budget.macs, f"takes {after.macs_ratio:.3f}x of the dense MACs"


def _cut(feed: Feed) -> tuple[str, ...]:
    if not feed.truncated:
        return ()
    return (
        f"{feed.truncated:,} of {len(feed):,} training texts were longer than the model reads, and were cut.",
    )


def _facts(
    opened: Opened, task: Task, settings: Settings, history: dict[str, dict[str, float]], source: str
) -> dict[str, Any]:
    return {
        "source": opened.name,
        "source_sha256": source,
        "task": task.name,
        "data": data_record(task),
        "seed": settings.seed,
        **held_out.record(task),
        "settings": vars(settings),
        "training": history,
    }


def _work(out: str | Path) -> Path:
    out = Path(out)
    return out.parent / f"{out.name}.work"


def _clean(folder: Path) -> None:
    """Remove the checkpoints of a run that is finished."""
    if not folder.is_dir():
        return
    for path in [*folder.rglob("checkpoint-*"), *folder.glob("search/*.json")]:  # nothing else there is ours
        path.unlink(missing_ok=True)
    for path in [*sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True), folder]:
        with suppress(OSError):  # not empty: somebody keeps files here
            path.rmdir()
