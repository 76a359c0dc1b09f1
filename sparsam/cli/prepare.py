"""What a command settles before its work: the task is read, and the folder of the result can be written."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sparsam.errors import InputOutput, Refused, Usage

if TYPE_CHECKING:
    from sparsam.cli.working import Shown
    from sparsam.task import Task


def load_task(
    show: "Shown",
    spec: str,
    label: str | None,
    text: list[str] | None,
    metric: str | None,
    split_seed: int,
    *,
    seed: int = 0,
    train_rows: int | None = None,
    train: bool = False,
) -> "Task":
    """The task, with its notes said; ``train``: it must have training rows."""
    from sparsam.task import Task

    show.say(f"reading {spec}")
    task = Task.load(
        spec, label=label, text=tuple(text) if text else None, metric=metric, seed=seed, split_seed=split_seed,
        train_size=train_rows,
    )  # fmt: skip
    for note in task.notes:
        show.note(note)
    if train and task.train is None:
        raise Refused(
            f"{task.name} has no training rows, so nothing can be learned from it. Give data with a train split.",
            code="split-missing",
        )
    return task


def check_out(out: Path, *sources: str | None) -> None:
    """Refuse before hours of training what could not be saved after them."""
    if out.exists() and not out.is_dir():
        raise InputOutput(f"--out {out} is a file; name a folder.", code="out-not-folder")
    if any(
        source is not None and Path(source).exists() and out.exists() and out.samefile(source)
        for source in sources
    ):
        raise Usage(f"--out {out} is the model that is read; name another folder.", code="out-is-model")
    from sparsam.artifact import is_artifact

    if out.is_dir() and any(out.iterdir()) and not is_artifact(out):
        raise Refused(
            f"--out {out} holds files that sparsam did not write; they are left alone. Name another folder.",
            code="not-an-artifact",
        )
    above = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise InputOutput(
            f"--out {out} cannot be written: {above} is not a folder you may write to.",
            code="out-not-writable",
        )
