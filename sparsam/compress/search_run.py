"""From a budget that a clock decides to the heads and filters that stay, and to how many tokens: chosen for this machine.

    structure alone   knapsack over this machine's tables of times, and over bytes and multiply-accumulates where these are
                      limited, too; the cut model is timed, and each limit of time corrected until all are met
    with tokens       the same for several strengths of a token rule: its survivors change what every head and filter costs;
                      the strength whose losses, before any training, are least is taken

The losses are divergences from the dense model's answers on calibration rows: of the model cut and reconstructed, and of the
dense model with an untrained rule, weighed by how much of it training is known to leave. Where products will be in integers,
tables, trials and bytes are of integers; what those lose is nearly nothing at eight bits, the same for every choice, and not
counted.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsam.compress.evaluation import Progress
from sparsam.compress.opening import Opened, weight_bytes
from sparsam.compress.structure_run import StructureRun
from sparsam.compress.timer import targets_of, timer_of
from sparsam.compress.token_run import TokenRun
from sparsam.cost import Budget, Dense, layer_cost
from sparsam.errors import Refused
from sparsam.models import dense_plan, head_alone, lift, plan_of, reads_class_token, stack_of
from sparsam.models.apply import cut, units_of
from sparsam.models.count import dense_shapes_of, shapes_of
from sparsam.plan import LayerPlan
from sparsam.quantization.int8 import Int8
from sparsam.search.compose import Curve, between, in_time, price_of
from sparsam.search.compose import in_bytes as prices_in_bytes
from sparsam.search.integers import quickly_in_integers
from sparsam.search.tables import tables_of
from sparsam.structure.ftpp import Prices, Scores, search, to_plans
from sparsam.task import Task
from sparsam.tokens import LTP
from sparsam.training.feed import Feed
from sparsam.training.loop import Settings

STRENGTHS = (0.85, 0.7, 0.6, 0.5, 0.42, 0.35)
"""Shares of MACs at which a token rule's survivors and losses are looked at."""

LEFT_BY_TRAINING = 0.12
"""Share of an untrained rule's divergence that training leaves. Chosen by us, from runs on SST-2."""

CLOSE = 0.02
"""A limit is corrected until the time is within this share of it."""

TRIES = 6
"""Models that are cut and timed while a limit of time is corrected; for each of them, where there are several."""


class Clock:
    """One limit of time: what measures it, and the tables of this machine that its prices are made of.

    The clock says what the model takes whole, and what it takes without any head or filter, both beside the dense one; the
    tables say how the difference falls to heads and filters. So a table keeps its worth when the machine is slower than it was.

    Args:
        key: ``throughput`` or ``latency``.
        target: the share of the dense model's time that is allowed.
        opened: the model that is to be cut.
        taught: the dense model, which times are relative to.
        task: gives the inputs that are timed.
        wanted: lengths of the inputs in use.
        batch: samples of a batch for ``throughput``.
        integers: products will be in integers.
    """

    def __init__(
        self,
        key: str,
        target: float,
        opened: Opened,
        taught: Opened,
        task: Task,
        wanted: NDArray[np.int64],
        *,
        batch: int,
        integers: bool,
        cache: Path | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.key, self.target, self.integers = key, target, integers
        self.units, self.alone = units_of(opened.model), reads_class_token(opened.model)
        single = key == "latency"
        self.timer = timer_of(taught, task, batch=batch, single=single)
        generator = np.random.default_rng(0)
        size = 1 if single else batch
        lengths = np.sort(generator.choice(wanted, size)) if size > 1 else [int(np.median(wanted))]
        self.tables = tables_of(
            taught.model, [int(n) for n in lengths], self.timer.dtype, integers=integers, cache=cache, progress=progress
        )  # fmt: skip
        whole, self.whole = units_of(taught.model), Curve.whole(len(self.units))
        prices = in_time(self.tables, self.whole, whole, limit=np.inf, fixed=0.0, alone=self.alone)
        bare = copy.deepcopy(taught.model)
        cut(bare, [LayerPlan((), ())] * len(whole))
        least, own = self.of(bare), self.of(taught.model)
        summed, none = price_of(prices, whole), price_of(prices, [(0, 0)] * len(whole))
        self.dense_ms = (summed - none) / max(own - least, 0.02)
        self.fixed = max(0.02 * own * self.dense_ms, least * self.dense_ms - none)

    def prices(self, curve: Curve, share: float) -> Prices:
        """Prices at which a batch takes ``share`` of the dense model's time."""
        return in_time(
            self.tables, curve, self.units, limit=share * self.dense_ms, fixed=self.fixed, alone=self.alone
        )

    def of(self, model: Any) -> float:
        """A model's time on the clock, relative to the dense one's; in integers where it is to be."""
        return self.timer.of(quickly_in_integers(model) if self.integers else model)[0]

    @property
    def least(self) -> float:
        """About the share of time that is left without any head or filter."""
        prices = self.prices(self.whole, 1.0)
        return (self.fixed + sum(float(c.min()) for _, c in (*prices.heads, *prices.filters))) / self.dense_ms


class StructureSearch:
    """Looks for prices and limits at which FTPP's knapsack meets a budget.

    Args:
        run: scores and cuts; its model is not changed here.
        budget: ``throughput``, ``latency``, ``bytes`` and ``macs`` in any company, all relative to the dense model.
        opened: the model that is to be cut; it is not changed.
        taught: the dense model, which times are relative to.
        task: gives the inputs that are timed.
        batch: samples of a batch for ``throughput``.
        asked: the budget as it was given, for what is said; ``dense`` is what it was made relative by.
        integers: puts the products in integers in the end; None where they stay in floating point.
    """

    def __init__(
        self,
        run: StructureRun,
        budget: Budget,
        opened: Opened,
        taught: Opened,
        task: Task,
        *,
        batch: int = 32,
        asked: Budget | None = None,
        dense: Dense | None = None,
        integers: Int8 | None = None,
        cache: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.run, self.budget, self.opened, self.progress = run, budget, opened, progress
        self.integers = integers
        self.asked, self.dense = asked or budget, dense or Dense()
        self.units = units_of(opened.model)
        if budget.bytes is not None:
            self._in_bytes(budget.bytes)  # what is refused is refused before anything is timed
        show = progress
        told = None if show is None else (lambda done, total: show("times", done, total, {}))
        self.clocks = [
            Clock(
                key, target, opened, taught, task, run.wanted, batch=batch, integers=integers is not None, cache=cache,
                progress=told,
            )
            for key, target in targets_of(budget)
        ]  # fmt: skip

    @property
    def whole(self) -> Curve:
        """Every token stays."""
        return Curve.whole(len(self.units))

    @property
    def of_tokens(self) -> bool:
        """Whether leaving out tokens helps to keep the budget."""
        return bool(self.clocks) or self.budget.macs is not None

    def prices(self, curve: Curve) -> tuple[Prices, ...]:
        """The prices of every limit, with the tokens that a curve leaves."""
        return (*(clock.prices(curve, clock.target) for clock in self.clocks), *self.counted(curve))

    def counted(self, curve: Curve | None = None) -> tuple[Prices, ...]:
        """Prices in bytes and in MACs, where these are limited: exact, nothing to correct."""
        found = [] if self.budget.bytes is None else [self._in_bytes(self.budget.bytes)]
        if self.budget.macs is not None:
            living = None if curve is None else self.run.living_at(curve.attention, curve.ffn)
            found.append(replace(self.run.macs_prices(self.budget.macs, living), uniform=None))
        return tuple(found)

    def structure(self, scores: Scores) -> tuple[Prices, ...]:
        """Heads and filters alone: the cut model is timed, and limits of time corrected, until it keeps the budget.

        Raises:
            Refused: ``budget-unreachable`` with the least that is possible.
        """
        counted = self.counted()
        if not self.clocks:
            self._check(scores, counted)
            return counted
        shares = [clock.target for clock in self.clocks]
        best: tuple[tuple[Prices, ...], float] | None = None
        before: list[LayerPlan] = []
        for _ in range(TRIES * len(shares)):
            prices = (
                *(clock.prices(self.whole, share) for clock, share in zip(self.clocks, shares, strict=True)),
                *counted,
            )
            try:
                plans = to_plans(search(scores, prices))
            except Refused:
                break
            trial = copy.deepcopy(self.opened.model)
            cut(trial, plans)
            reached = [clock.of(trial) / clock.target for clock in self.clocks]
            if max(reached) <= 1 and (best is None or max(reached) > best[1]):
                best = (prices, max(reached))
            if 1 - CLOSE <= max(reached) <= 1 or (max(reached) <= 1 and plans == before):
                break
            before = plans
            shares = [
                min(share * (1 - CLOSE / 2) / own, 1.0) for share, own in zip(shares, reached, strict=True)
            ]
        if best is None:
            raise self._unreachable()
        return best[0]

    def with_rule(self, scores: Scores, curve: Curve) -> list[LayerPlan]:
        """What to keep of a model that removes tokens: its times at the tokens of a curve, its MACs at those it leaves itself.

        A rule that was trained already is not thrown away for a limit of time that heads and filters do not reach beside it:
        they go as far as they can, and the rule has to go further.

        Raises:
            Refused: ``budget-unreachable``.
        """
        counted, slack = self.counted(), 1.0
        while True:
            prices = (*(clock.prices(curve, slack * clock.target) for clock in self.clocks), *counted)
            try:
                search(scores, prices)
                break
            except Refused:
                slack *= 1 + CLOSE
                if all(slack * clock.target > 1 for clock in self.clocks):  # true without clocks, too
                    raise self._unreachable() from None
        return self.run.plans(prices, scores)

    def _check(self, scores: Scores, prices: Sequence[Prices]) -> None:
        """Refuse in words of the budget what the knapsack cannot keep."""
        try:
            search(scores, prices)
        except Refused:
            raise self._unreachable() from None

    def _unreachable(self) -> Refused:
        """Which limit cannot be kept, and the least that is possible."""
        slow = next((clock for clock in self.clocks if clock.least > clock.target), None)
        if slow is None and len(self.asked.limits) == 1 and self.clocks:
            slow = self.clocks[0]
        if slow is None:
            each = " and ".join(self.asked.said(key) for key in self.asked.limits)
            return Refused(
                f"{each} cannot be kept together on this machine by leaving out heads and filters{self._how}, though each may "
                "be alone. Ask for less of one.",
                code="budget-unreachable",
            )
        reach = slow.least if slow.key == "latency" else 1 / slow.least
        return Refused(
            f"{self.asked.said(slow.key)} cannot be reached on this machine by leaving out heads and filters{self._how}: "
            f"without any of them it would be about {self.asked.reach(slow.key, reach, self.dense)}. Ask for less.",
            code="budget-unreachable",
        )

    @property
    def _how(self) -> str:
        return "" if self.integers is None else ", products in integers"

    def _in_bytes(self, share: float) -> Prices:
        """Prices in bytes.

        Raises:
            Refused: ``budget-unreachable`` where what is neither head nor filter takes more.
        """
        block = stack_of(self.opened.model).blocks[0]
        whole, small, bits = weight_bytes(self.run.teacher), self.opened.model, None
        if self.integers is not None:
            bits, words = self.integers.widest, self.integers.embeddings != "none"
            small = quickly_in_integers(small, bits, words=words)
        now, width = weight_bytes(small), int(block.part("q").weight.shape[1])
        prices = prices_in_bytes(
            width, int(block.part("head_width")), self.units, self.run.method.multiple, budget=0.0, fixed=0.0, bits=bits
        )  # fmt: skip
        fixed = now - sum(float(c[-1]) for _, c in (*prices.heads, *prices.filters))
        if fixed > share * whole:
            least = self.asked.reach("bytes", fixed / whole, self.dense)
            raise Refused(
                f"{self.asked.said('bytes')} cannot be reached by leaving out heads and filters{self._how}: embeddings, norms "
                f"and head take {least.removeprefix('bytes=')}. Ask for more.",
                code="budget-unreachable",
            )
        return replace(prices, budget=share * whole, fixed=fixed)

    # ---- With tokens -------------------------------------------------------------------------------------------------

    def compose(self, scores: Scores, curves: Sequence[Curve], trials: int, seed: int) -> float | None:
        """The share of MACs that a token rule is to leave, with as many heads and filters beside it as the budget lets.

        The one of least loss; None where that is no rule at all.

        Raises:
            Refused: ``budget-unreachable``.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        known = [*curves, self.whole]
        weakest = min(curve.macs for curve in curves)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        for macs in (1.0, *(curve.macs for curve in curves)):
            study.enqueue_trial({"tokens": macs})

        def loss(trial: Any) -> float:
            macs = trial.suggest_float("tokens", weakest, 1.0)
            curve = between(known, macs)
            try:
                plans = to_plans(search(scores, self.prices(curve)))
            except Refused:
                return 1e6
            found = self._divergence(plans) + LEFT_BY_TRAINING * curve.divergence
            if self.progress is not None:
                self.progress("search", trial.number + 1, trials, {"loss": found})
            return found

        study.optimize(loss, n_trials=trials)
        if study.best_value >= 1e6:
            raise self._unreachable()
        macs = float(study.best_params["tokens"])
        return macs if macs < 0.97 else None

    def _divergence(self, plans: Sequence[LayerPlan]) -> float:
        """From the dense model's answers on calibration rows, cut and reconstructed on a few."""
        trial = self.run.trial(256)
        cut(trial.model, plans)
        trial.tune(self.run.model)
        return divergence(trial.model, self.opened.model, self.run.held_out)


def macs_at(run: StructureRun, curve: Curve) -> float:
    """MACs of a run's model, relative to dense, with the tokens that a curve leaves; their scoring included."""
    stack = stack_of(run.model)
    lengths = run.wanted
    cost = sum(
        layer_cost(
            replace(shape, scored=index < len(curve.attention) - 1),
            np.maximum(1, np.rint(curve.attention[index] * lengths)).astype(np.int64),
            np.maximum(1, np.rint(curve.ffn[index] * lengths)).astype(np.int64),
        ).macs
        for index, shape in enumerate(shapes_of(stack))
    )
    dense = sum(
        layer_cost(replace(shape, scored=False), lengths, lengths).macs
        for shape in dense_shapes_of(run.model, stack)
    )
    return cost / dense


@torch.no_grad()
def divergence(model: Any, dense: Any, batches: Sequence[dict[str, torch.Tensor]]) -> float:
    """Mean Kullback-Leibler divergence (nats) of a model's answers from the dense one's; of numbers, half the squares."""
    total, count = 0.0, 0
    for batch in batches:
        inputs = {name: x for name, x in batch.items() if name != "labels"}
        with head_alone(model):
            own = model(**inputs).logits.float()
        with head_alone(dense):
            wanted = dense(**inputs).logits.float()
        if own.shape[1] == 1:
            total += float((own - wanted).square().sum()) / 2
        else:
            a, b = wanted.log_softmax(1), own.log_softmax(1)
            total += float((a.exp() * (a - b)).sum())
        count += len(own)
    return total / max(count, 1)


def curves_of(
    opened: Opened,
    feed: Feed,
    wanted: NDArray[np.int64],
    settings: Settings,
    progress: Progress | None = None,
    strengths: Sequence[float] = STRENGTHS,
) -> list[Curve]:
    """What an untrained LTP rule leaves and loses, at several shares of MACs. The model is not changed."""
    own = replace(opened, model=copy.deepcopy(opened.model))
    method = LTP(soft_epochs=0, hard_epochs=0)
    run = TokenRun(own, own, feed, wanted, method, Budget(macs=strengths[0]), settings, None, None)
    found = []
    for number, strength in enumerate(strengths):
        run.target = strength
        stage = run.untrained()
        stack = stack_of(own.model)
        plan = plan_of(own.model) or dense_plan(own.model)
        lift(own.model, replace(plan, tokens=run.rule_at(stage.scale)))
        attention, ffn = run.survivors()
        loss = divergence(own.model, opened.model, run.calibration)
        stack.rule = None
        found.append(Curve(stage.macs, attention, ffn, loss))
        if progress is not None:
            progress("survivors", number + 1, len(strengths), {})
    return found
