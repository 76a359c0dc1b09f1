"""A clock for models on this machine: what they take beside the packed dense form, on real inputs in the order they came."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsam.compress.opening import Opened, split_of
from sparsam.cost import Budget
from sparsam.models.positions import longest_text
from sparsam.runtime import Frozen, freeze
from sparsam.runtime.freeze import native_bf16
from sparsam.search.integers import quickly_in_integers
from sparsam.search.speed import Speed, batches_of, compare
from sparsam.task import Task, encode

ROWS = 416
"""Rows that speed is measured on while searching: thirteen batches of 32."""


@dataclass(frozen=True)
class Timer:
    """Times cut models on this machine beside the dense one, on real inputs in the order they came."""

    dense: Frozen
    batches: Sequence[Any]
    samples: int
    dtype: str
    single: bool
    """One sample at a time: p50 counts; else the time of all."""

    def of(self, model: Any, rounds: int = 5) -> tuple[float, Speed]:
        """Time relative to dense, and the figures."""
        found = compare([self.dense, freeze(model, dtype=self.dtype)], self.batches, self.samples, rounds)
        return (found.latency_ratios[1] if self.single else 1 / found.ratios[1]), found


def timer_of(opened: Opened, task: Task, *, batch: int, single: bool) -> Timer:
    """A timer on the validation rows, labels not looked at."""
    split = split_of(task, "validation")
    rows = split.take(np.arange(min(len(split), 64 if single else max(ROWS, 4 * batch))))
    longest = None if rows.images is not None else longest_text(opened.model.config, opened.processor)
    encoded = encode(opened.processor, rows, max_length=longest)
    dtype = "bfloat16" if native_bf16() else "float32"
    size = 1 if single else batch
    return Timer(freeze(opened.model, dtype=dtype), batches_of(encoded, size), len(encoded), dtype, single)


def time_in_integers(taught: Opened, task: Task, key: str, *, batch: int) -> float:
    """The time of the dense model with all products in integers, relative to the packed dense form's, on this machine.

    Args:
        taught: the dense model.
        task: gives the inputs that are timed.
        key: ``throughput`` or ``latency``.
        batch: samples of a batch for ``throughput``.
    """
    timer = timer_of(taught, task, batch=batch, single=key == "latency")
    return timer.of(quickly_in_integers(taught.model))[0]


def targets_of(budget: Budget) -> list[tuple[str, float]]:
    """The limits of time: key, and the share of the dense model's time that is allowed."""
    found = [] if budget.throughput is None else [("throughput", 1 / budget.throughput)]
    return found if budget.latency is None else [*found, ("latency", budget.latency)]
