"""Fine-tune, prune, evaluate: the table of a model that is trained in the benchmark itself."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tables import store

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
) -> None:
    """Train what is missing under ``runs``, evaluate both after reload, store the table.

    A folder's name says how it was trained, so another recipe trains anew.
    """
    recipe = f"{method.soft_epochs:g}+{method.hard_epochs:g}"
    folders = (
        runs / f"dense-{len(task.train or ())}-{dense.epochs:g}",
        runs / f"ltp-{budget}-{len(task.train or ())}-{dense.epochs:g}-{recipe}",
    )
    spent = [
        _missing(folders[0], lambda: finetune(model, task, folders[0], settings=dense, progress=show)),
        _missing(
            folders[1],
            lambda: compress(
                str(folders[0]), task, out=folders[1], methods=[method], budget=Budget(macs=budget),
                strict=False, settings=settings, progress=show,
            ),
        ),
    ]  # fmt: skip
    before, after = (evaluate(open_model(str(folder), task), task) for folder in folders)
    lost = paired_difference("accuracy", before.predictions, after.predictions, before.labels)
    rows: list[dict[str, Any]] = [
        {
            "model": label,
            "accuracy": f"{100 * e.metric.value:.2f} [{100 * e.metric.low:.2f}, {100 * e.metric.high:.2f}]",
            "−dense": "" if e is before else f"{lost.value:+.2f} [{lost.low:+.2f}, {lost.high:+.2f}]",
            "MACs": f"{e.macs_ratio:.3f}x",
            "tokens kept": [round(layer["ffn"], 2) for layer in e.kept],
            "training min": round(minutes, 1),
        }
        for label, e, minutes in zip(("dense", f"LTP, macs={budget}x"), (before, after), spent, strict=True)
    ]
    notes = ["Training minutes are 0 where the folder was there already.", *task.notes]
    store(name, title, command, rows, notes)


def _missing(folder: Path, make: Callable[[], object]) -> float:
    """Make a folder unless it is there; the minutes it took."""
    began = time.monotonic()
    if not folder.exists():
        make()
    return (time.monotonic() - began) / 60
