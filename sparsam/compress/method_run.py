"""Which methods go together, and what each may spend; and the run that applies one to a model.

Tokens first is better: a rule that is learned on all heads keeps what it learned when some of them leave, once its thresholds
are solved and its weights trained a little again; a rule learned on the heads that are left cuts deep where layers are still
wide (docs/log.md). Integers come last: nothing can be cut from them or trained in them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsam.compress.evaluation import Progress
from sparsam.compress.integer_run import IntegerRun, check_limits
from sparsam.compress.mixed_time import time_limits
from sparsam.compress.opening import Opened
from sparsam.compress.structure_run import StructureRun
from sparsam.compress.token_run import TokenRun
from sparsam.cost import Budget
from sparsam.errors import Usage
from sparsam.quantization.int8 import MIXED, Int8
from sparsam.structure import FTPP
from sparsam.task import Task
from sparsam.tokens import LTP
from sparsam.tokens.control import Control
from sparsam.training.feed import Feed
from sparsam.training.loop import Settings

Method = LTP | Control | FTPP | Int8

OF_TOKENS = 0.45
"""Where tokens leave before heads and filters do: how much of a budget's logarithm is theirs. Chosen by us on SST-2, where
tokens lose nothing down to 0.5x, and heads and filters nothing down to 0.4x."""


def default_methods(budget: Budget) -> tuple[Method, ...]:
    """What is applied where nobody names a method."""
    if budget.timed:
        return FTPP(), LTP(), Int8()
    return (FTPP(), Int8()) if budget.names("bytes") else (LTP(),)


def check_methods(methods: Sequence[Method]) -> None:
    """At most one method for heads and filters, at most one for tokens on either side of it, and integers last.

    Raises:
        Usage: ``method-count``, ``method-order``.
    """
    kinds = "".join(
        "s" if isinstance(method, FTPP) else "i" if isinstance(method, Int8) else "t" for method in methods
    )
    if "i" in kinds[:-1]:
        raise Usage(
            "int8 stands in front of another method; integers are neither cut nor trained. Give it once, as the last one.",
            code="method-order",
        )
    if kinds.count("s") > 1:
        raise Usage(
            f"{kinds.count('s')} of the methods given remove heads and filters; a model takes one of them. Give one.",
            code="method-count",
        )
    if "tt" in kinds:
        raise Usage(
            f"{kinds.count('t')} of the methods given remove tokens, one right after the other; a model has one token rule. "
            "Give one.",
            code="method-count",
        )


def is_searched(methods: Sequence[Method], budget: Budget) -> bool:
    """Whether what to keep has to be searched for; integers alone leave nothing to choose.

    Raises:
        Usage: ``search-methods`` for what the search cannot work with, ``mixed-budget``.
    """
    for method in methods:
        if isinstance(method, Int8):
            check_limits(method, budget, alone=len(methods) == 1)
    if not budget.searched:
        return False
    if all(isinstance(method, Int8) and (method.bits == MIXED or not budget.timed) for method in methods):
        return False
    check_searched(methods, budget)
    return True


def check_searched(methods: Sequence[Method], budget: Budget) -> None:
    """Refuse what the search cannot work with, before any of it.

    Raises:
        Usage: ``search-methods``.
    """
    if any(isinstance(method, Control) for method in methods) or not any(
        isinstance(method, FTPP) for method in methods
    ):
        asked = " and ".join(key for key in budget.limits if key != "macs")
        raise Usage(
            f"a budget for {asked} is met by heads and filters, with tokens or without, in integers or not: --method ftpp, "
            "ftpp+int8, or none. For a token method alone give macs, for int8 alone bytes or accuracy, or --bits mixed.",
            code="search-methods",
        )


def share_of(number: int, methods: Sequence[Method], budget: Budget) -> Budget:
    """What one of the methods may leave: the last ones leave what the budget says, a first one goes part of the way.

    Integers leave all that they find.
    """
    method, methods = methods[number], [one for one in methods if not isinstance(one, Int8)]
    if isinstance(method, FTPP) and method.macs is not None:
        return Budget(macs=method.macs)
    if budget.macs is None or number > 0 or len(methods) == 1:
        return budget
    return Budget(macs=budget.macs ** (1 - OF_TOKENS if isinstance(method, FTPP) else OF_TOKENS))


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
    task: Task,
    batch: int,
) -> TokenRun | StructureRun | IntegerRun:
    """The run of a method on a model; the arguments are those of all of them.

    ``task`` and ``batch`` are for the clocks of mixed bits.
    """
    if isinstance(method, Int8):
        clocks = time_limits(budget, taught, task, wanted, batch) if method.bits == MIXED else ()
        return IntegerRun(opened, taught, feed, wanted, method, budget, settings, work, progress, clocks)
    kind = StructureRun if isinstance(method, FTPP) else TokenRun
    return kind(opened, taught, feed, wanted, method, budget, settings, work, progress)  # type: ignore[arg-type]
