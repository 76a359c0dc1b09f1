"""A budget that names no method: heads, filters and tokens as the search chose them, trained, timed and corrected."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.artifact.manifest import read_json
from sparsam.artifact.staging import write_whole
from sparsam.compress.evaluation import Progress
from sparsam.compress.method_run import Method
from sparsam.compress.opening import Opened
from sparsam.compress.search_run import CLOSE, StructureSearch, curves_of, macs_at
from sparsam.compress.start import removes_tokens
from sparsam.compress.structure_run import StructureRun
from sparsam.compress.token_run import TokenRun
from sparsam.cost import Budget
from sparsam.errors import SparsamError
from sparsam.models.apply import units_of
from sparsam.models.digest import weights_digest
from sparsam.plan import LayerPlan
from sparsam.search.compose import Curve
from sparsam.structure import FTPP
from sparsam.structure.ftpp import Prices, Scores
from sparsam.task import Task
from sparsam.tokens import LTP
from sparsam.training.feed import Feed
from sparsam.training.loop import Settings

TRIALS = 12
"""Compositions that are cut, reconstructed and compared."""

CORRECTIONS = 2
"""Times the rule is moved and the weights trained a little more, where the clock says that it is not fast enough yet."""

AGAIN = 0.25
"""Epochs of each correction."""


class ChosenRun:
    """Searches, then applies: LTP to the share of tokens that the search chose, FTPP within prices of this machine, LTP again.

    A model that removes tokens already goes on from there: only heads and filters are searched for.

    Args:
        methods: :class:`FTPP`, :class:`LTP`, or both; only what is named is used. They bring their settings. A rule
            that a model brings stays as it is where LTP is not named.
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
        self.opened, self.taught, self.task, self.feed, self.wanted = opened, taught, task, feed, wanted
        self.budget, self.settings, self.work, self.progress = budget, settings, work, progress
        self.structure = next(method for method in methods if isinstance(method, FTPP))
        self.tokens = next((method for method in methods if isinstance(method, LTP)), None)
        self.batch = batch
        self.history: dict[str, dict[str, float]] = {}
        self.notes: tuple[str, ...] = ()
        self.identity: dict[str, Any] = {"budget": budget.to_json(), "batch": batch}
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
        if removes_tokens(self.opened.model):
            self._tokens_then_structure(None)
            return
        run = self._structure_run()
        scores = run.scores()
        search = self._search(run)
        if self.tokens is not None and search.target is not None:
            share = self._remembered("tokens", lambda: self._share(search, scores))
            if share is not None:
                self._tokens_then_structure(share)
                return
        self._cut(run, lambda: search.structure(scores), scores)
        run.recover()
        self.history |= run.history
        self._tell(None)

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
            run, self.budget, self.opened, self.taught, self.task, batch=self.batch, progress=self.progress
        )

    def _cut(self, run: StructureRun, prices: Callable[[], Prices], scores: Scores | None = None) -> None:
        """Cut to what the search keeps; what it kept before an interruption is kept again, whatever the clock says now."""
        found = self._remembered("structure", lambda: [asdict(one) for one in run.plans(prices(), scores)])
        plans = [LayerPlan(tuple(one["heads"]), tuple(one["filters"])) for one in found]
        run.identity |= self.identity
        run.prune(plans)
        self.history |= run.history
        self.notes += run.notes

    def _remembered(self, name: str, make: Callable[[], Any]) -> Any:
        """What the search found for these settings, from the run's working folder if it stands there."""
        folder = self._folder("search")
        if folder is None:
            return make()
        file, key = folder / f"{name}.json", json.loads(json.dumps(self.identity | self.facts))
        with suppress(SparsamError):
            held = read_json(file)
            if held.get("key") == key:
                return held["found"]
        found = json.loads(json.dumps(make()))
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({"key": key, "found": found}) + "\n")
        return found

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
        target = search.target
        self._cut(
            run, lambda: search.in_bytes(run.scores()) if target is None else search.prices(curve, target)
        )
        self._tell(share)
        if self.tokens is None:
            return
        macs = min(1.0, macs_at(run, curve))
        again = self.structure.recover_epochs or method.hard_epochs / 2
        for number in range(1 + CORRECTIONS):
            epochs = again if number == 0 else min(again, AGAIN)
            self._train(f"again-{number}", replace(method, soft_epochs=0.0, hard_epochs=epochs), macs)
            if search.target is None or search.timer is None:
                return
            reached, _ = search.timer.of(self.opened.model)
            if reached <= search.target * (1 + CLOSE):
                return
            macs *= (1 - CLOSE) * search.target / reached

    def _train(self, stage: str, method: LTP, macs: float) -> None:
        """Train the rule to a share of MACs."""
        run = TokenRun(
            self.opened, self.taught, self.feed, self.wanted, method, Budget(macs=macs), self.settings,
            self._folder(stage), self.progress,
        )  # fmt: skip
        run.identity |= self.identity
        run.apply()
        self.history |= {f"{stage}-{name}": facts for name, facts in run.history.items()}

    def _tell(self, tokens: float | None) -> None:
        """Note what was chosen, in words."""
        heads, filters = (sum(count) for count in zip(*units_of(self.opened.model), strict=True))
        all_heads, all_filters = (sum(count) for count in zip(*units_of(self.taught.model), strict=True))
        rule = "" if tokens is None else f", a token rule of {tokens:.2f}x before they were cut"
        self.notes += (
            f"Chosen: {heads} of {all_heads} heads, {filters:,} of {all_filters:,} filters{rule}.",
        )
