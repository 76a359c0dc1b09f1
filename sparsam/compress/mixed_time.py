"""Measured time as what mixed bits are chosen within: which products may stay in floating point.

Products take the same time at two to eight bits here, so a clock knows two kinds: integers and floats. The model with all
products in integers is timed beside the packed dense form; what a limit leaves is spent on floats, each at what it costs more
in its own layer (:mod:`sparsam.search.products`). What was chosen is timed again, and the rest corrected until it holds.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from sparsam.compress.opening import Opened
from sparsam.compress.timer import Timer, targets_of, timer_of
from sparsam.cost import Budget
from sparsam.errors import Refused
from sparsam.search.integers import quickly_in_integers
from sparsam.search.products import Costs, float_costs
from sparsam.task import Task


@dataclass(frozen=True)
class TimeLimit:
    """One limit of time, and what measures it.

    Args:
        said: the limit as it was given.
        key: ``throughput`` or ``latency``.
        share: of the packed dense form's time.
        timer: of batches, or of single samples.
        lengths: tokens of the sequences of one batch.
    """

    said: str
    key: str
    share: float
    timer: Timer
    lengths: Int[NDArray[np.int64], " b"]

    def of(self, model: Any, products: Collection[tuple[int, str]] | None = None) -> tuple[float, float]:
        """The time with these products in integers (all if None) relative to packed dense, and that one's ms a batch."""
        own, speed = self.timer.of(quickly_in_integers(model, products=products))
        if self.timer.single:
            return own, speed.p50[0]
        return own, 1000 * len(self.lengths) / speed.throughput[0]

    def left(self, model: Any) -> float:
        """Milliseconds of a batch that may be spent on floats.

        Raises:
            Refused: ``budget-unreachable`` where integers altogether take longer.
        """
        own, dense = self.of(model)
        if own > self.share:
            reach = f"{1 / own:.2f}x as fast" if self.key == "throughput" else f"{own:.2f}x of the time"
            raise Refused(
                f"{self.said} cannot be reached on this machine by integers alone: with all products in integers it is "
                f"{reach}. Ask for less, or leave out heads and filters first (ftpp+int8).",
                code="budget-unreachable",
            )
        return (self.share - own) * dense

    def costs(self, model: Any, shares: Sequence[tuple[float, float]]) -> Costs:
        """Milliseconds of a batch that each product takes more in floating point."""
        return float_costs(model, self.lengths, shares)


def time_limits(
    budget: Budget, taught: Opened, task: Task, wanted: Int[NDArray[np.int64], " n"], batch: int
) -> list[TimeLimit]:
    """The limits of time that a budget relative to the dense model names.

    Args:
        budget: its ``throughput`` and ``latency`` count.
        taught: the dense model.
        task: gives the inputs that are timed.
        wanted: lengths of the inputs in use, in tokens.
        batch: samples of a batch for ``throughput``.
    """
    found = []
    for key, share in targets_of(budget):
        single = key == "latency"
        timer = timer_of(taught, task, batch=batch, single=single)
        size = 1 if single else batch
        lengths = (
            np.full(1, int(np.median(wanted))) if single else np.random.default_rng(0).choice(wanted, size)
        )
        found.append(TimeLimit(budget.said(key), key, share, timer, lengths.astype(np.int64)))
    return found
