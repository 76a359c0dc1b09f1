"""Which methods go together, in which order, and what each may spend; and the run that applies one to a model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsam.compress.evaluation import Progress
from sparsam.compress.opening import Opened
from sparsam.compress.structure_run import StructureRun
from sparsam.compress.token_run import TokenRun
from sparsam.cost import Budget
from sparsam.errors import Usage
from sparsam.structure import FTPP
from sparsam.tokens import LTP
from sparsam.tokens.control import Control
from sparsam.training.feed import Feed
from sparsam.training.loop import Settings

Method = LTP | Control | FTPP

OF_STRUCTURE = 0.6
"""Where heads and filters leave before tokens do: how much of a budget's logarithm is theirs. Chosen by us on SST-2, where they
lose nothing down to 0.4x and tokens nothing down to 0.5x."""


def default_methods(budget: Budget) -> tuple[Method, ...]:
    """What is applied where nobody names a method."""
    if budget.timed:
        return FTPP(), LTP()
    return (FTPP(),) if budget.bytes is not None else (LTP(),)


def check_methods(methods: Sequence[Method]) -> None:
    """At most one method of a kind, and heads and filters before tokens: those are learned on the model that stays.

    Raises:
        Usage: ``method-count``, ``method-order``.
    """
    of_tokens = [isinstance(method, LTP | Control) for method in methods]
    for kind, count in (("tokens", sum(of_tokens)), ("heads and filters", len(methods) - sum(of_tokens))):
        if count > 1:
            raise Usage(
                f"{count} of the methods given remove {kind}; a model takes one of them. Give one.",
                code="method-count",
            )
    if of_tokens == [True, False]:
        raise Usage(
            "heads and filters are removed before tokens, because thresholds are learned on the heads that stay. Give ftpp "
            "first.",
            code="method-order",
        )


def share_of(number: int, methods: Sequence[Method], budget: Budget) -> Budget:
    """What one of the methods may leave: the last one leaves what the budget says, one before it goes part of the way."""
    method = methods[number]
    if isinstance(method, FTPP) and method.macs is not None:
        return Budget(macs=method.macs)
    if budget.macs is None or number == len(methods) - 1:
        return budget
    return Budget(macs=budget.macs**OF_STRUCTURE)


def run_of(
    method: Method,
    opened: Opened,
    taught: Opened,
    feed: Feed,
    wanted: NDArray[np.int64],
    budget: Budget,
    settings: Settings,
    work: Path | None,
    progress: Progress | None,
) -> TokenRun | StructureRun:
    """The run of a method on a model; the arguments are those of both."""
    kind = StructureRun if isinstance(method, FTPP) else TokenRun
    return kind(opened, taught, feed, wanted, method, budget, settings, work, progress)  # type: ignore[arg-type]
