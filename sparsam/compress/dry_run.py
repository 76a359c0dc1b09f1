"""What a run would take, before it: a few steps of each stage on the clock, extended to the whole."""

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparsam.compress.limits import dense_figures, limits_of
from sparsam.compress.method_run import Method, default_methods, is_searched, run_of, share_of
from sparsam.compress.opening import Opened, feed_of, split_of
from sparsam.compress.start import start_compressing, start_finetuning
from sparsam.compress.timed import Timed
from sparsam.compress.token_run import lengths_of_use
from sparsam.cost import Budget, Dense
from sparsam.task import Task
from sparsam.training.loop import Settings, Supervised, precision_here, train


@dataclass(frozen=True)
class DryRun:
    """What a run would take, measured on a few steps of a copy."""

    stages: tuple[dict[str, float | str], ...]
    seconds: float
    peak_memory_bytes: int
    parameters: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All facts as one object."""
        return {
            "stages": list(self.stages),
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "parameters": self.parameters,
        }


def plan_run(
    model: Any,
    task: Task | str,
    *,
    methods: Sequence[Method] | None = None,
    budget: Budget | str | None = None,
    teacher: Any = None,
    settings: Settings | None = None,
    processor: Any = None,
    truncate: bool = True,
    steps: int = 3,
    batch: int = 32,
) -> DryRun:
    """What :func:`compress` would train, for how long and with which memory: a few steps of each stage, on a copy.

    What it refuses is refused here, too.
    """
    task = Task.load(task) if isinstance(task, str) else task
    budget = Budget.parse(budget) if isinstance(budget, str) else budget or Budget()
    settings = settings or Settings()
    methods = tuple(methods if methods is not None else default_methods(budget))
    searched = is_searched(methods, budget)
    opened, taught = start_compressing(model, teacher, task, methods, processor)
    feed = feed_of(opened, split_of(task, "train"), truncate)
    wanted = lengths_of_use(opened, task, feed, truncate)
    if budget.absolute:
        budget = limits_of(budget, Dense(**dense_figures(budget, taught, wanted, task, batch))).budget
    if searched:  # what the search will choose is not known; about this much it will leave
        shares = (budget.latency, budget.bytes, budget.macs, 1 / (budget.throughput or 1.0))
        budget = Budget(
            macs=max(0.05, min(share for share in shares if share is not None)), bytes=budget.bytes
        )
    timed: list[Timed] = []
    for number, method in enumerate(methods):
        target = share_of(number, methods, budget)
        run = run_of(method, opened, taught, feed, wanted, target, settings, None, None, task, batch)
        timed += run.timed(steps)
    return _dry_run(timed, opened, settings)


def plan_finetuning(
    model: Any,
    task: Task | str,
    *,
    settings: Settings | None = None,
    processor: Any = None,
    truncate: bool = True,
    steps: int = 3,
) -> DryRun:
    """What :func:`finetune` would take: a few steps on the clock, extended to the whole."""
    task = Task.load(task) if isinstance(task, str) else task
    settings = settings or Settings(epochs=3, lr=7e-5)
    opened = start_finetuning(model, task, processor)
    feed = feed_of(opened, split_of(task, "train"), truncate)
    batches = feed.batches(settings.batch_tokens, settings.seed)
    history = train(Supervised(opened.model), batches, feed.collate, settings, stop_after=steps)
    each = history.seconds / max(history.steps, 1)
    stage = Timed("finetune", each, len(batches(0)) * settings.epochs, settings)
    return _dry_run([stage], opened, settings)


def _dry_run(timed: Sequence[Timed], opened: Opened, settings: Settings) -> DryRun:
    device = next(opened.model.parameters()).device
    stages: list[dict[str, float | str]] = [
        {
            "stage": stage.stage,
            "steps": max(1, round(stage.count)),
            "epochs": 0.0 if stage.settings is None else stage.settings.epochs,
            "lr": 0.0 if stage.settings is None else stage.settings.lr,
            "seconds_per_step": stage.each,
            "seconds": stage.each * stage.count,
            "precision": precision_here(settings, device),
        }
        for stage in timed
    ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_available():
        peak = max(peak, torch.cuda.max_memory_allocated())
    return DryRun(
        tuple(stages),
        sum(stage.each * stage.count for stage in timed),
        peak,
        sum(p.numel() for p in opened.model.parameters()),
        opened.notes,
    )
