"""One token method applied to one model: its stages, in order, trained or timed."""

import hashlib
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsam.compress.evaluation import Progress
from sparsam.compress.opening import Opened, feed_of, split_of
from sparsam.compress.timed import Timed
from sparsam.cost import Budget
from sparsam.errors import Refused, Usage
from sparsam.models import dense_plan, lift, plan_of, reads_class_token, stack_of
from sparsam.models.digest import weights_digest
from sparsam.plan import TokenPlan
from sparsam.task import Task
from sparsam.tokens import LTP, SoftThreshold, Threshold
from sparsam.tokens.control import Control
from sparsam.tokens.ltp import ONLY_PROTECTED, token_plan
from sparsam.training.feed import Feed, answers, matched_rows
from sparsam.training.loop import Batches, Settings, Trainee, compute_device, precision_here, rows_seen, train
from sparsam.training.tokens import Distillation, HardStage, RuleAt, SoftStage, score_quantiles

TokenMethod = LTP | Control

CALIBRATION = 256
"""Examples a budget is read on while training; set aside from the training rows. Chosen by us: their mean share of MACs is
known to about 0.5 %."""

MARGIN = 0.985
"""Training aims this much below the budget, because validation is not the calibration set. Chosen by us."""


def lengths_of_use(opened: Opened, task: Task, feed: Feed, truncate: bool) -> NDArray[np.int64]:
    """Lengths of validation inputs: the only thing looked at there before the end."""
    if opened.kind == "image":
        return feed.lengths[:1]
    use = split_of(task, "validation")
    sample = use.sample(min(len(use), 2000), seed=0)
    return feed_of(opened, sample, truncate).lengths


class TokenRun:
    """One token method applied to one model: its stages, in order."""

    def __init__(
        self,
        opened: Opened,
        taught: Opened,
        feed: Feed,
        wanted: NDArray[np.int64],
        method: TokenMethod,
        budget: Budget,
        settings: Settings,
        work: Path | None,
        progress: Progress | None,
    ) -> None:
        self.model, self.teacher, self.feed, self.method = opened.model, taught.model, feed, method
        self.settings, self.work, self.progress = settings, work, progress
        for trained in (self.model, self.teacher):
            trained.to(compute_device())
        self.layers = len(stack_of(self.model).blocks)
        self.class_token = reads_class_token(self.model)
        self.target = None if budget.macs is None else MARGIN * budget.macs
        if isinstance(method, Control) and self.target is None:
            raise Usage(
                f"the control {method.rule} needs a budget, such as --budget macs=0.5x.", code="token-target"
            )
        self.distillation = Distillation(method.distill, method.distill_states, method.distill_temperature)
        if len(feed) < 16:
            raise Refused(
                f"the training split has {len(feed)} rows; a token method needs at least 16, some of them to read the "
                "budget on.",
                code="too-few-rows",
            )
        calibration = matched_rows(feed.lengths, wanted, min(CALIBRATION, len(feed) // 4), settings.seed)
        self.rows, self.calibration_rows = np.setdiff1d(np.arange(len(feed)), calibration), calibration
        by_length = calibration[np.argsort(feed.lengths[calibration], kind="stable")]
        self.calibration = [
            feed.collate(part) for part in np.array_split(by_length, max(1, len(by_length) // 64))
        ]
        self.taught: Tensor | None = None
        self.history: dict[str, dict[str, float]] = {}
        self.notes: tuple[str, ...] = ()
        self.identity = {
            "method": [type(method).__name__, asdict(method)],
            "target": self.target,
            "model": weights_digest(self.model),
            "teacher": weights_digest(self.teacher),
            "rows": hashlib.sha256(np.concatenate([self.rows, feed.lengths]).tobytes()).hexdigest(),
        }

    def apply(self) -> None:
        """Train everything; the model then runs by the rule that is reached."""
        tokens = self.all_stages()
        lift(self.model, replace(plan_of(self.model) or dense_plan(self.model), tokens=tokens))

    def all_stages(self) -> TokenPlan:
        """Train everything; the rule that is reached."""
        self._teach(self._seen())
        if isinstance(self.method, LTP):
            self._train("soft", self._soft(), self.method.soft_epochs, self.method.lr)
        hard = self._hard()
        hard.steer()
        self._train("hard", hard, self.method.hard_epochs, self.method.hard_lr)
        hard.steer()
        return self.rule_at(hard.scale)

    def untrained(self) -> HardStage:
        """The rule as it stands before any training, its scalar solved for the target; the model runs by it."""
        self._soft()
        stage = self._hard()
        stage.steer()
        return stage

    @torch.no_grad()
    def survivors(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Shares of the calibration tokens alive at each layer's attention and at its feed-forward part."""
        stack, device = stack_of(self.model), next(self.model.parameters()).device
        totals = np.zeros((2, self.layers))
        for batch in self.calibration:
            with stack.recording() as kept:
                self.model(**{name: x.to(device) for name, x in batch.items() if name != "labels"})
            totals += [[int(x.sum()) for x in kept.attention], [int(x.sum()) for x in kept.ffn]]
        shares = totals / totals[0, 0]
        return tuple(map(float, shares[0])), tuple(map(float, shares[1]))

    def _seen(self) -> NDArray[np.int64]:
        """The rows the stages look at, if the teacher's logits for them are wanted once; none otherwise."""
        if not self.method.distill or self.method.distill_states:
            return np.empty(0, np.int64)
        stages = [("hard", self.method.hard_epochs)]
        if isinstance(self.method, LTP):
            stages.append(("soft", self.method.soft_epochs))
        seen = [rows_seen(self._batches(stage), epochs) for stage, epochs in stages if epochs > 0]
        return np.unique(np.concatenate([np.empty(0, np.int64), *seen]))

    def _teach(self, rows: NDArray[np.int64]) -> None:
        """The teacher's logits, worked out once for all epochs."""
        if not rows.size:
            return
        started = time.monotonic()
        show = self.progress
        precision = precision_here(self.settings, next(self.teacher.parameters()).device)
        self.taught = answers(
            self.teacher,
            self.feed,
            rows,
            precision=precision,
            progress=None if show is None else (lambda done, total: show("teacher", done, total, {})),
        )
        self.history["teacher"] = {"samples": len(rows), "seconds": round(time.monotonic() - started, 1)}

    def _batches(self, stage: str) -> Batches:
        seed = self.settings.seed + (0 if stage == "soft" else 1000)
        return self.feed.batches(self.settings.batch_tokens, seed, self.rows)

    def _collate(self, indices: NDArray[np.int64]) -> dict[str, Tensor]:
        batch = self.feed.collate(indices)
        return batch if self.taught is None else batch | {"taught": self.taught[torch.from_numpy(indices)]}

    def _soft(self) -> SoftStage | None:
        assert isinstance(self.method, LTP)
        before = plan_of(self.model)
        stack = stack_of(self.model)
        stack.rule = None
        # Nothing lies below a layer's lowest score: a threshold there removes nothing, but grows with the scalar, as 0 cannot.
        first, self.floor, low, high = score_quantiles(
            self.model,
            stack,
            self.calibration,
            (self.method.initial, 0.0, 0.25, 0.75),
            self.method.relative_to,
        )
        spread = [max(b - a, 1e-3) for a, b in zip(low, high, strict=True)]
        start = self.method.start(
            first, self.class_token, spread if self.method.temperature_unit == "spread" else None
        )
        if before is not None and before.tokens is not None:
            self._go_on(start, before.tokens)
        self.rule = start
        if self.method.soft_epochs <= 0:
            return None
        return SoftStage(
            self.model,
            self.rule,
            teacher=self.teacher,
            distillation=self.distillation,
            target=self.target,
            weight=self.method.weight,
            threshold_lr=self.method.threshold_lr,
            dropout=self.method.dropout,
        )

    def _go_on(self, start: SoftThreshold, before: TokenPlan) -> None:
        """Start from the thresholds of a model that was pruned before, where it has any."""
        if before.rule not in ("ltp", "linear-threshold"):
            return
        unit = Threshold.from_plan(before).relative_to
        if unit != start.relative_to:
            raise Usage(
                f"the model's thresholds are relative to {unit!r}, the method's to {start.relative_to!r}. Go on with "
                f"LTP(relative_to={unit!r}), or start from the dense model.",
                code="method-settings",
            )
        with torch.no_grad():
            for layer, value in enumerate(before.values):
                # A layer that kept protected tokens only has no threshold to go on from; the start's own stands there.
                if value is None:
                    start.threshold[layer] = self.floor[layer]
                elif value < ONLY_PROTECTED:
                    start.threshold[layer] = value

    def _hard(self) -> HardStage:
        stack_of(self.model).rule = None
        return HardStage(
            self.model,
            self.rule_at,
            teacher=self.teacher,
            distillation=self.distillation,
            target=self.target,
            calibration=self.calibration,
            steer_every=self.method.steer_every,
            dropout=self.method.dropout,
        )

    @property
    def rule_at(self) -> RuleAt:
        """The method's rules along one scalar."""
        method = self.method
        if isinstance(method, Control):
            return lambda scale: method.plan_at(scale, self.layers, self.class_token, self.settings.seed)
        found = self.rule.hardened()
        learned = [t if t > 0 else low for t, low in zip(found, self.floor, strict=True)]
        unit = method.relative_to
        return lambda scale: token_plan(
            [t if t >= ONLY_PROTECTED else t * scale for t in learned], relative_to=unit
        )

    def _stage_settings(self, epochs: float, lr: float) -> Settings:
        return replace(self.settings, epochs=epochs, lr=lr)

    def _train(self, stage: str, trainee: Trainee | None, epochs: float, lr: float) -> None:
        if trainee is None or epochs <= 0:
            return
        show = self.progress
        history = train(
            trainee,
            self._batches(stage),
            self._collate,
            self._stage_settings(epochs, lr),
            checkpoints=None if self.work is None else self.work / stage,
            identity=self.identity,
            progress=None if show is None else (lambda s, t, logs: show(stage, s, t, logs)),
        )
        self.history[stage] = history.record(epochs, lr)

    def timed(self, steps: int) -> list[Timed]:
        """A few steps of each stage on the clock; the teacher's answers to as many batches before them."""
        stages: list[tuple[str, float, float]] = []
        if isinstance(self.method, LTP):
            stages.append(("soft", self.method.soft_epochs, self.method.lr))
        stages.append(("hard", self.method.hard_epochs, self.method.hard_lr))
        found: list[Timed] = []
        rows = self._seen()
        if rows.size:
            first = np.unique(np.concatenate(list(self._batches("hard")(0))[:steps]))
            started = time.monotonic()
            self._teach(first)
            found.append(Timed("teacher", (time.monotonic() - started) / len(first), len(rows), None))
            self.taught = None  # the steps below may see other rows; their teacher then runs beside
        for name, epochs, lr in stages:
            trainee: SoftStage | HardStage | None = self._soft() if name == "soft" else self._hard()
            if isinstance(trainee, HardStage):
                trainee.steer()
            if trainee is None or epochs <= 0:
                continue
            batches, settings = self._batches(name), self._stage_settings(epochs, lr)
            history = train(trainee, batches, self._collate, settings, stop_after=steps)
            total = len(batches(0)) * epochs
            found.append(Timed(name, history.seconds / max(history.steps, 1), total, settings))
            if isinstance(trainee, HardStage) and trainee.target is not None:
                started = time.monotonic()
                trainee.steer()
                often = total / self.method.steer_every
                found.append(Timed("steering", time.monotonic() - started, often, None))
        return found
