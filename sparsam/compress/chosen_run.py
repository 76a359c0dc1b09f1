"""A budget that names no method: heads, filters, tokens and bits as the search chose them, trained, timed and corrected."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.compress.evaluation import Progress
from sparsam.compress.integer_run import IntegerRun
from sparsam.compress.limits import Limits
from sparsam.compress.method_run import Method
from sparsam.compress.opening import Opened
from sparsam.compress.remembered import remembered
from sparsam.compress.search_run import (
    CLOSE,
    StructureSearch,
    curves_of,
    macs_at,
)
from sparsam.compress.start import removes_tokens
from sparsam.compress.structure_run import StructureRun
from sparsam.compress.timer import targets_of, time_in_integers
from sparsam.compress.token_run import TokenRun
from sparsam.cost import Budget
from sparsam.models import plan_of
from sparsam.models.apply import units_of
from sparsam.models.digest import weights_digest
from sparsam.plan import LayerPlan
from sparsam.quantization.int8 import Int8
from sparsam.search.compose import Curve
from sparsam.structure import FTPP
from sparsam.structure.ftpp import Scores
from sparsam.task import Task
from sparsam.tokens import LTP
from sparsam.training.feed import Feed
from sparsam.training.loop import Settings, over_processes

TRIALS = 12
"""Compositions that are cut, reconstructed and compared."""

CORRECTIONS = 2
"""Times the rule is moved and the weights trained a little more, where the clock says that it is not fast enough yet."""

AGAIN = 0.25
"""Epochs of each correction."""


class ChosenRun:
    """Searches, then applies: LTP to the share of tokens that the search chose, FTPP within its prices, LTP again, int8.

    A model that removes tokens already goes on from there: only heads and filters are searched for. Integers are asked about
    first, on the dense model: where they save no time they are left out with a note; else every table, trial and price is
    one of integers.

    Args:
        limits: the budget relative to the dense model, and what that was made relative by.
        asked: the budget as it was given.
        methods: :class:`FTPP`, with :class:`LTP` and :class:`Int8` or without; only what is named is used. They bring their
            settings. A rule that a model brings stays as it is where LTP is not named.
    """

    def __init__(
        self,
        opened: Opened,
        taught: Opened,
        task: Task,
        feed: Feed,
        wanted: NDArray[np.int64],
        methods: Sequence[Method],
        limits: Limits,
        asked: Budget,
        settings: Settings,
        work: Path | None,
        progress: Progress | None,
        batch: int,
    ) -> None:
        self.opened, self.taught, self.task, self.feed, self.wanted = opened, taught, task, feed, wanted
        self.budget, self.limits, self.asked = limits.budget, limits, asked
        self.settings, self.work, self.progress = settings, work, progress
        self.structure = next(method for method in methods if isinstance(method, FTPP))
        self.tokens = next((method for method in methods if isinstance(method, LTP)), None)
        self.integers = next((method for method in methods if isinstance(method, Int8)), None)
        self.batch = batch
        self.history: dict[str, dict[str, float]] = {}
        self.notes: tuple[str, ...] = ()
        self.calibration: dict[str, NDArray[np.int64]] = {}
        self.identity: dict[str, Any] = {"budget": self.budget.to_json(), "batch": batch}
        self.facts = {
            "model": weights_digest(opened.model),
            "methods": [asdict(method) for method in methods],
            "settings": asdict(settings),
        }

    def _folder(self, name: str) -> Path | None:
        return None if self.work is None else self.work / name

    def apply(self) -> None:
        """Search, train, cut, train again; the model then keeps the budget if it can be kept.

        Raises:
            Refused: ``budget-unreachable``.
        """
        self._decide()
        share = self._in_floats()
        if self.integers is not None:
            self._in_integers(self.integers)
        self._tell(share)

    def _decide(self) -> None:
        """Leave integers out where they are not faster for each limit of time; that stands after an interruption."""
        if self.integers is None:
            return
        keys = [key for key, _ in targets_of(self.budget)]
        times = self._remembered(
            "integers",
            lambda: {key: time_in_integers(self.taught, self.task, key, batch=self.batch) for key in keys},
        )
        slow = [f"{times[key]:.2f}x of its time ({key})" for key in keys if times[key] >= 1]
        if slow:
            self.integers = None
            self.notes += (
                f"Integers are left out: on this machine the dense model in integers takes {' and '.join(slow)}.",
            )
        self.identity["integers"] = self.integers is not None

    def _in_floats(self) -> float | None:
        """Everything up to the integers; the share of MACs that a token rule was trained to on all heads, None for none."""
        if removes_tokens(self.opened.model):
            self._tokens_then_structure(None)
            return None
        run = self._structure_run()
        scores = run.scores()
        search = self._search(run)
        if self.tokens is not None and search.of_tokens:
            share = self._remembered("tokens", lambda: self._share(search, scores))
            if share is not None:
                self._tokens_then_structure(share)
                return float(share)
        self._cut(run, lambda: run.plans(search.structure(scores), scores))
        run.recover()
        self.history |= run.history
        return None

    def _in_integers(self, method: Int8) -> None:
        """The last step: nothing can be cut or trained after it."""
        budget = Budget(bytes=self.budget.bytes)
        run = IntegerRun(
            self.opened, self.taught, self.feed, self.wanted, method, budget, self.settings, self._folder("int8"),
            self.progress,
        )  # fmt: skip
        run.identity |= self.identity
        run.apply()
        self.calibration[type(method).__name__] = run.calibration_rows
        self.history |= run.history
        self.notes += run.notes

    def _share(self, search: StructureSearch, scores: Scores) -> float | None:
        """How much a token rule is to leave; None for none."""
        curves = curves_of(self.taught, self.feed, self.wanted, self.settings, self.progress)
        return search.compose(scores, curves, TRIALS, self.settings.seed)

    def _structure_run(self) -> StructureRun:
        return StructureRun(
            self.opened, self.taught, self.feed, self.wanted, self.structure, Budget(), self.settings,
            self._folder("structure"), self.progress,
        )  # fmt: skip

    def _search(self, run: StructureRun) -> StructureSearch:
        return StructureSearch(
            run, self.budget, self.opened, self.taught, self.task, batch=self.batch, asked=self.asked,
            dense=self.limits.dense, integers=self.integers, progress=self.progress,
        )  # fmt: skip

    def _cut(self, run: StructureRun, find: Callable[[], list[LayerPlan]]) -> None:
        """Cut to what the search keeps; what it kept before an interruption is kept again, whatever the clock says now."""
        found = self._remembered("structure", lambda: [asdict(one) for one in find()])
        plans = [LayerPlan(tuple(one["heads"]), tuple(one["filters"])) for one in found]
        run.identity |= self.identity
        run.prune(plans)
        self.calibration[type(self.structure).__name__] = run.calibration_rows
        self.history |= run.history
        self.notes += run.notes

    def _remembered(self, name: str, make: Callable[[], Any]) -> Any:
        """What the search found for these settings, from the run's working folder if it stands there."""
        return remembered(self._folder("search"), name, self.identity | self.facts, make)

    def _tokens_then_structure(self, share: float | None) -> None:
        """Learn the rule on all heads (unless the model has one), cut by prices of its survivors, train what is left."""
        method = self.tokens or LTP()
        if share is not None:
            self._train("tokens", method, share)
        run = self._structure_run()
        search = self._search(run)
        reader = TokenRun(
            self.opened, self.taught, self.feed, self.wanted, replace(method, soft_epochs=0.0), Budget(),
            self.settings, None, None,
        )  # fmt: skip
        curve = Curve(1.0, *reader.survivors())
        self._cut(run, lambda: search.with_rule(run.scores(), curve))
        if self.tokens is None:
            return
        macs = min(1.0, macs_at(run, curve), self.budget.macs or 1.0)
        again = self.structure.recover_epochs or method.hard_epochs / 2
        for number in range(1 + CORRECTIONS):
            epochs = again if number == 0 else min(again, AGAIN)
            self._train(f"again-{number}", replace(method, soft_epochs=0.0, hard_epochs=epochs), macs)
            own = max((clock.of(self.opened.model) / clock.target for clock in search.clocks), default=0.0)
            over = max(over_processes(own))  # all of them train on, or none
            if over <= 1 + CLOSE:
                return
            macs *= (1 - CLOSE) / over

    def _train(self, stage: str, method: LTP, macs: float) -> None:
        """Train the rule to a share of MACs."""
        run = TokenRun(
            self.opened, self.taught, self.feed, self.wanted, method, Budget(macs=macs), self.settings,
            self._folder(stage), self.progress,
        )  # fmt: skip
        run.identity |= self.identity
        run.apply()
        self.calibration[type(method).__name__] = run.calibration_rows
        self.history |= {f"{stage}-{name}": facts for name, facts in run.history.items()}

    def _tell(self, tokens: float | None) -> None:
        """Note what was chosen, in words."""
        heads, filters = (sum(count) for count in zip(*units_of(self.opened.model), strict=True))
        all_heads, all_filters = (sum(count) for count in zip(*units_of(self.taught.model), strict=True))
        rule = "" if tokens is None else f", a token rule of {tokens:.2f}x before they were cut"
        plan = plan_of(self.opened.model)
        products = 0 if plan is None else sum(len(left.formats) for left in plan.layers)
        integers = f", {products} products in integers" if products else ""
        self.notes += (
            f"Chosen: {heads} of {all_heads} heads, {filters:,} of {all_filters:,} filters{integers}{rule}.",
        )
