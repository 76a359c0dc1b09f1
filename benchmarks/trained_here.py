"""Fine-tune, prune, evaluate: the table of a model that is trained in the benchmark itself."""

import sys
from pathlib import Path
from typing import Any

from tables import store, training_minutes

from sparsam.compress import compress, evaluate, finetune, open_model
from sparsam.cost import Budget
from sparsam.measure import paired_difference
from sparsam.task import Task
from sparsam.tokens import LTP
from sparsam.training.loop import Settings


def show(stage: str, step: int, total: int, logs: dict[str, float]) -> None:
    """A line every 50 steps."""
    if step % 50 == 0 or step == total:
        print(stage, step, total, {k: round(v, 4) for k, v in logs.items()}, file=sys.stderr, flush=True)


def before_and_after(
    name: str,
    title: str,
    command: str,
    *,
    model: str,
    task: Task,
    runs: Path,
    dense: Settings,
    method: LTP,
    budget: float,
    settings: Settings,
    split: str = "validation",
    pruned_on: Task | None = None,
) -> None:
    """Train what is missing under ``runs``, evaluate both on ``split`` after reload, store the table.

    ``pruned_on`` is the task whose rows the method learns from, if not the same.
    A folder's name says how it was trained, so another recipe trains anew.
    """
    learns = pruned_on or task
    recipe = f"{method.soft_epochs:g}+{method.hard_epochs:g}"
    folders = (
        runs / f"dense-{len(task.train or ())}-{dense.epochs:g}",
        runs / f"ltp-{budget}-{len(learns.train or ())}-{dense.epochs:g}-{recipe}",
    )
    if not folders[0].exists():
        finetune(model, task, folders[0], settings=dense, progress=show)
    if not folders[1].exists():
        compress(
            str(folders[0]), learns, out=folders[1], methods=[method], budget=Budget(macs=budget),
            strict=False, settings=settings, progress=show,
        )  # fmt: skip
    minutes = training_minutes(folders[1])
    before, after = (evaluate(open_model(str(folder), task), task, split=split) for folder in folders)
    lost = paired_difference("accuracy", before.predictions, after.predictions, before.labels)
    rows: list[dict[str, Any]] = [
        {
            "model": label,
            "accuracy": f"{100 * e.metric.value:.2f} [{100 * e.metric.low:.2f}, {100 * e.metric.high:.2f}]",
            "−dense": "" if e is before else f"{lost.value:+.2f} [{lost.low:+.2f}, {lost.high:+.2f}]",
            "MACs": f"{e.macs_ratio:.3f}x",
            "tokens kept": [round(layer["ffn"], 2) for layer in e.kept],
            "training min": "" if e is before else round(minutes, 1),
        }
        for label, e in (("dense", before), (f"LTP, macs={budget}x", after))
    ]
    store(name, title, command, rows, task.notes)
