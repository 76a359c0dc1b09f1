"""Limits in their own units (``latency=8ms``, ``bytes=20MB``) made relative to the dense model, as everything else counts.

MACs and bytes are counted. Times are measured on this machine, on the packed dense form, before anything else is done; in the
end the reloaded model's own figure is held against the limit as it was given.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sparsam.compress.opening import Opened, weight_bytes
from sparsam.compress.timer import timer_of
from sparsam.cost import Budget, Dense, dense_cost
from sparsam.errors import Usage
from sparsam.models import stack_of
from sparsam.models.count import dense_shapes_of
from sparsam.task import Task

ROUNDS = 9
"""Rounds in which the dense model is timed: as many as in the end."""


@dataclass(frozen=True)
class Limits:
    """A budget relative to the dense model, what it was made relative by, and what is to be said of it."""

    budget: Budget
    dense: Dense | None = None
    notes: tuple[str, ...] = ()


def dense_figures(
    budget: Budget, taught: Opened, wanted: NDArray[np.int64], task: Task, batch: int
) -> dict[str, float | None]:
    """What the absolute limits of a budget are relative to; times are measured here and now.

    Args:
        budget: as it was given.
        taught: the dense model.
        wanted: lengths of the inputs in use.
        task: gives the inputs that are timed.
        batch: samples of a batch for ``throughput``.
    """
    found = Dense()
    if "macs" in budget.absolute:
        shapes = dense_shapes_of(taught.model, stack_of(taught.model))
        found = replace(found, macs_per_sample=dense_cost(shapes, wanted).macs / len(wanted))
    if "bytes" in budget.absolute:
        found = replace(found, size_bytes=float(weight_bytes(taught.model)))
    if "throughput" in budget.absolute:
        _, speed = timer_of(taught, task, batch=batch, single=False).of(taught.model, rounds=ROUNDS)
        found = replace(found, samples_per_second=speed.throughput[0])
    if "latency" in budget.absolute:
        _, speed = timer_of(taught, task, batch=batch, single=True).of(taught.model, rounds=ROUNDS)
        found = replace(found, latency_ms=speed.p50[0])
    return asdict(found)


def limits_of(budget: Budget, dense: Dense) -> Limits:
    """The budget relative to a dense model; absolute limits that it keeps already ask for nothing and are left out.

    Raises:
        Usage: ``budget-met`` where that leaves no limit: a compressed folder would promise something that was there before.
    """
    relative, met = budget.relative_to(dense)
    told = {
        key: f"{budget.said(key)}: the packed dense model's is {_figure(budget, key, dense)}"
        for key in budget.absolute
    }
    if met and not relative.limits:
        raise Usage(
            f"{'; '.join(told[key] for key in met)}. It keeps this budget already, so there is nothing to compress for: serve "
            "the dense model packed (sparsam.freeze), or ask for more.",
            code="budget-met",
        )
    notes = tuple(
        f"{said}, which keeps it already"
        if key in met
        else f"{said}, so {key}={getattr(relative, key):.3g}x was aimed at"
        for key, said in told.items()
    )
    return Limits(relative, dense, notes)


def _figure(budget: Budget, key: str, dense: Dense) -> str:
    """The dense model's figure in the unit of a limit."""
    return budget.reach(key, 1.0, dense).partition("=")[2]
