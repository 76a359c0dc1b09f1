"""A budget that names no method: heads, filters and tokens as the search chose them, trained, timed and corrected."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.compress.evaluation import Progress
from sparsam.compress.method_run import Method
from sparsam.compress.opening import Opened
from sparsam.compress.search_run import CLOSE, Choice, StructureSearch, curves_of, macs_at
from sparsam.compress.start import removes_tokens
from sparsam.compress.structure_run import StructureRun
from sparsam.compress.token_run import TokenRun
from sparsam.cost import Budget
from sparsam.errors import Usage
from sparsam.models.apply import units_of
from sparsam.search.compose import between
from sparsam.structure import FTPP
from sparsam.structure.ftpp import Prices
from sparsam.task import Task
from sparsam.tokens import LTP
from sparsam.tokens.control import Control
from sparsam.training.feed import Feed
from sparsam.training.loop import Settings

TRIALS = 12
"""Compositions that are cut, reconstructed and compared."""

CORRECTIONS = 2
"""Times the rule is moved and the weights trained a little more, where the clock says that it is not fast enough yet."""

AGAIN = 0.25
"""Epochs of each correction."""


class ChosenRun:
    """Searches, then applies: FTPP within prices of this machine, then LTP to the share of tokens that the search chose.

    Args:
        methods: :class:`FTPP`, :class:`LTP`, or both; only what is named is used. They bring their settings.
    """

    def __init__(
        self,
        opened: Opened,
        taught: Opened,
        task: Task,
        feed: Feed,
        wanted: NDArray[np.int64],
        methods: Sequence[Method],
        budget: Budget,
        settings: Settings,
        work: Path | None,
        progress: Progress | None,
        batch: int,
    ) -> None:
        check_searched(methods, budget, opened)
        self.opened, self.taught, self.task, self.feed, self.wanted = opened, taught, task, feed, wanted
        self.budget, self.settings, self.work, self.progress = budget, settings, work, progress
        self.structure = next(method for method in methods if isinstance(method, FTPP))
        self.tokens = next((method for method in methods if isinstance(method, LTP)), None)
        self.run = StructureRun(
            opened,
            taught,
            feed,
            wanted,
            self.structure,
            Budget(),
            settings,
            self._folder("structure"),
            progress,
        )
        self.batch = batch
        self.history: dict[str, dict[str, float]] = {}
        self.notes: tuple[str, ...] = ()
        self.identity: dict[str, Any] = {"budget": budget.to_json(), "batch": batch}
        self.choice: Choice | None = None

    def _folder(self, name: str) -> Path | None:
        return None if self.work is None else self.work / name

    def apply(self) -> None:
        """Search, cut, train; the model then keeps the budget if it can be kept.

        Raises:
            Refused: ``budget-unreachable``.
        """
        scores = self.run.scores()
        search = StructureSearch(
            self.run,
            self.budget,
            self.opened,
            self.taught,
            self.task,
            batch=self.batch,
            progress=self.progress,
        )
        with_tokens = self.tokens is not None and search.target is not None
        curves = []
        if with_tokens:
            curves = curves_of(self.taught, self.feed, self.wanted, self.settings, self.progress)
            choice = search.compose(scores, curves, TRIALS, self.settings.seed)
        if not with_tokens or choice.tokens is None:
            choice = search.structure(scores)
        self.choice = choice
        self.run.identity |= self.identity | {"prices": _summary(choice.prices), "tokens": choice.tokens}
        self.run.apply(choice.prices, scores)
        self.history |= self.run.history
        self.notes += (*self.run.notes, self._told(choice))
        if choice.tokens is None or self.tokens is None:
            return
        macs = min(1.0, macs_at(self.run, between([*curves, search.whole], choice.tokens)))
        reached = self._prune("tokens", self.tokens, macs, search)
        for number in range(CORRECTIONS):
            if search.target is None or reached <= search.target * (1 + CLOSE):
                break
            macs *= (1 - CLOSE) * search.target / reached
            again = replace(self.tokens, soft_epochs=0.0, hard_epochs=AGAIN)
            reached = self._prune(f"tokens-{number + 2}", again, macs, search)

    def _told(self, choice: Choice) -> str:
        """What was chosen, in words."""
        heads, filters = (sum(count) for count in zip(*units_of(self.opened.model), strict=True))
        all_heads, all_filters = (sum(count) for count in zip(*units_of(self.taught.model), strict=True))
        rule = "no token rule" if choice.tokens is None else f"a token rule of {choice.tokens:.2f}x"
        return f"Chosen: {heads} of {all_heads} heads, {filters:,} of {all_filters:,} filters, {rule}."

    def _prune(self, stage: str, method: LTP, macs: float, search: StructureSearch) -> float:
        """Train the rule to a share of MACs; the time that is reached."""
        run = TokenRun(
            self.opened, self.taught, self.feed, self.wanted, method, Budget(macs=macs), self.settings,
            self._folder(stage), self.progress,
        )  # fmt: skip
        run.identity |= self.identity
        run.apply()
        self.history |= {f"{stage}-{name}": facts for name, facts in run.history.items()}
        assert search.timer is not None
        reached, _ = search.timer.of(self.opened.model)
        return reached


def check_searched(methods: Sequence[Method], budget: Budget, opened: Opened) -> None:
    """Refuse what the search cannot work with, before any of it.

    Raises:
        Usage: ``budget-several``, ``search-methods``, ``search-start``.
    """
    given = [key for key in ("macs", "throughput", "latency", "bytes") if getattr(budget, key) is not None]
    if len(given) > 1:
        raise Usage(
            f"the budget names {' and '.join(given)}, each of which says by itself how much may stay. Give one of them; "
            "accuracy may stand beside it.",
            code="budget-several",
        )
    if any(isinstance(method, Control) for method in methods) or not any(
        isinstance(method, FTPP) for method in methods
    ):
        raise Usage(
            f"a budget for {given[0]} is met by heads and filters, with tokens or without: --method ftpp, or none. For a token "
            "method alone give macs.",
            code="search-methods",
        )
    if removes_tokens(opened.model):
        raise Usage(
            f"{opened.name} removes tokens already; a budget for {given[0]} starts from the dense model it came from.",
            code="search-start",
        )


def _summary(prices: Prices) -> list[float]:
    """What tells one set of prices from another."""
    return [prices.budget, prices.fixed, *(float(c[-1]) for _, c in (*prices.heads, *prices.filters))]
