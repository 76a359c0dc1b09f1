"""Rows held out of the training data: what a model records of them, and that it is not measured on rows it learned."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from sparsam.errors import Refused
from sparsam.task.definition import Task


def digest(task: Task) -> str | None:
    """SHA-256 of the data and the numbers of the rows held out of it; None where validation was not drawn."""
    if not task.drawn or task.validation is None or task.validation.order is None:
        return None
    found = hashlib.sha256("".join(task.train_hashes()).encode())
    found.update(np.sort(task.validation.order).astype("<i8").tobytes())
    return found.hexdigest()


def record(task: Task) -> dict[str, Any]:
    """What a model trained on this task keeps: the split's seed, the digest of the held-out rows, the trained files."""
    return {"split_seed": task.split_seed, "held_out": digest(task), "trained_on": list(task.train_hashes())}


def check(task: Task, recorded: Mapping[str, Any], name: str) -> None:
    """Refuse a model that learned rows which this task holds out; ``recorded`` is what :func:`record` gave, or nothing.

    Raises:
        Refused: ``held-out``.
    """
    now, trained_on = digest(task), recorded.get("trained_on")
    if (
        now is None
        or not isinstance(trained_on, list)
        or not any(x in trained_on for x in task.train_hashes())
    ):
        return
    before = recorded.get("held_out")
    if before is None:
        raise Refused(
            f"{name} was trained on every row of the data that {task.name} would hold validation rows out of. Give the "
            "task it was trained for, with its own validation split, or data it has not seen.",
            code="held-out",
        )
    if before != now:
        raise Refused(
            f"{name} was trained with split seed {recorded.get('split_seed')}; split seed {task.split_seed} holds out "
            f"other rows of {task.name}, which it learned from. Give --split-seed {recorded.get('split_seed')} and the "
            "same options, or data it has not seen.",
            code="held-out",
        )
