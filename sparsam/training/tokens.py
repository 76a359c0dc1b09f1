"""Training a token method: a soft stage that learns where to cut, a hard stage that learns to live with it.

The hard stage removes tokens for real, so it is cheaper than dense training. It holds its budget: weights learn to lift tokens
over a frozen threshold, so every few steps one scalar on all thresholds is solved again on a calibration set.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsam.errors import Usage
from sparsam.models.count import count, shapes_of
from sparsam.models.encoder import Stack
from sparsam.models.lift import head_alone, stack_of
from sparsam.packed import Packed
from sparsam.plan import TokenPlan
from sparsam.tokens import Decision, Living, SoftThreshold, rule_of
from sparsam.tokens.ltp import relative
from sparsam.training.loop import Settings, Trainee, over_processes

RuleAt = Callable[[float], TokenPlan]
"""A token method's rules along one scalar: larger removes more."""


@dataclass(frozen=True)
class Distillation:
    """How much of the loss comes from the dense model.

    ``logits`` is the share taken by its softened predictions, ``states`` weighs the distance between the two models' states of
    the surviving tokens, relative to the dense model's and averaged over layers.
    """

    logits: float = 0.5
    states: float = 0.0
    temperature: float = 2.0


class Student(Trainee):
    """A model in training, with or without a dense teacher beside it.

    The teacher's logits come with the batch, as ``taught`` (b, classes), where they were worked out before
    (:func:`sparsam.training.feed.answers`); the teacher runs beside the model where they were not, or where its states are
    wanted. Without ``dropout`` the model trains as it is used.
    """

    def __init__(
        self, model: nn.Module, teacher: nn.Module | None, distillation: Distillation, *, dropout: bool = True
    ) -> None:
        super().__init__()
        self.model = model
        self.stack = stack_of(model)
        self.distillation = distillation
        self.dropout = dropout
        self._teacher = [teacher]  # in a list: not a child, so neither trained nor saved
        if teacher is not None:
            teacher.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "Student":
        super().train(mode)
        if not self.dropout:
            self.model.eval()
        return self

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        teacher, weights = self._teacher[0], self.distillation
        taught = batch.get("taught")
        batch = {name: x for name, x in batch.items() if name != "taught"}
        if teacher is None or not (weights.logits or weights.states):
            output, _ = _run(self.model, batch, False)
            return output.loss, {"task": output.loss.detach()}
        states = weights.states > 0
        wanted_states: list[Packed] = []
        if states or taught is None:
            teacher.to(next(iter(batch.values())).device)
            with torch.no_grad():
                wanted, wanted_states = _run(teacher, batch, states)
            taught = wanted.logits
        output, own_states = _run(self.model, batch, states)
        logs = {"task": output.loss.detach()}
        total = (1 - weights.logits) * output.loss
        if weights.logits:
            match = match_logits(output.logits, taught, weights.temperature)
            total = total + weights.logits * match
            logs["distill"] = match.detach()
        if states:
            distance = torch.stack(
                [_distance(a, b) for a, b in zip(own_states, wanted_states, strict=True)]
            ).mean()
            total = total + weights.states * distance
            logs["states"] = distance.detach()
        return total, logs


def _run(model: nn.Module, batch: dict[str, Tensor], record: bool) -> tuple[Any, list[Packed]]:
    stack = stack_of(model)
    stack.states = [] if record else None
    try:
        with head_alone(model):
            output = model(**batch)
        return output, stack.states or []
    finally:
        stack.states = None


def match_logits(own: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """How far answers are from those that are to be learned: the divergence, or the squared distance of a single one."""
    if own.shape[-1] == 1:
        return F.mse_loss(own.float(), wanted.float())
    a = F.log_softmax(own.float() / temperature, -1)
    b = F.log_softmax(wanted.float() / temperature, -1)
    return F.kl_div(a, b, log_target=True, reduction="batchmean") * temperature**2


def _distance(own: Packed, wanted: Packed) -> Tensor:
    """Mean squared distance of the tokens both have, relative to the wanted states' mean square."""
    there = wanted.values[torch.searchsorted(wanted.rows, own.rows)].float()
    return (own.values.float() - there).square().mean() / there.square().mean().clamp(min=1e-6)


@dataclass
class _Probe:
    """A rule that removes nothing and keeps the scores it sees, without the protected tokens'."""

    scores: list[list[Tensor]]
    relative_to: str
    soft: str = "mask"

    def prunes(self, layer: int) -> bool:
        return True

    def wants_scores(self, layer: int) -> bool:
        return True

    def start(self, tokens: int) -> None:
        return None

    def step(self, state: None, living: Living) -> tuple[None, Decision]:
        self.scores[living.layer].append(relative(living, self.relative_to)[~living.protected].cpu())
        return None, Decision(torch.ones_like(living.protected))


def score_quantiles(
    model: nn.Module,
    stack: Stack,
    batches: Sequence[dict[str, Tensor]],
    shares: Sequence[float],
    relative_to: str = "others",
) -> list[tuple[float, ...]]:
    """For each share the scores below which it of the unprotected tokens lie, layer by layer, with nothing removed."""
    probe = _Probe([[] for _ in stack.blocks], relative_to)
    device = next(model.parameters()).device
    with stack.using(probe):
        count(model, stack, [{name: x.to(device) for name, x in batch.items()} for batch in batches])
    scores = [torch.cat(found).numpy() for found in probe.scores]
    return [tuple(float(np.quantile(layer, share)) for layer in scores) for share in shares]


class SoftStage(Student):
    """Weights and thresholds together, under a penalty on what is left.

    The penalty's weight is the paper's fixed lambda, or is steered: proportional and integral control hold the soft MACs of
    recent batches to a line that falls from where they start to the target over the first 60 % of the steps.
    """

    def __init__(
        self,
        model: nn.Module,
        rule: SoftThreshold,
        *,
        teacher: nn.Module | None,
        distillation: Distillation,
        target: float | None,
        weight: float | None,
        threshold_lr: float,
        dropout: bool = True,
    ) -> None:
        super().__init__(model, teacher, distillation, dropout=dropout)
        if weight is None and target is None:
            raise Usage(
                "give the penalty's weight or a budget for macs; without either there is nothing to learn "
                "thresholds for. For example --budget macs=0.5x.",
                code="token-target",
            )
        self.rule = rule
        self.stack.rule = rule
        self.target = target
        self.steered = weight is None
        self.weight = 0.0 if weight is None else weight
        self.threshold_lr = threshold_lr
        self.left: float | None = None
        self.first: float | None = None
        self.integral = 0.0

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        total, logs = super().loss(batch)
        penalty = self.rule.penalty()
        if self.training:
            now = self._soft_macs()
            self.left = now if self.left is None else 0.9 * self.left + 0.1 * now
        self.rule.gates = []  # they hold the graph of this batch
        return total + self.weight * penalty, {**logs, "gates": penalty.detach()}

    def _soft_macs(self) -> float:
        """MACs of the last batch relative to dense, tokens counted by their gates, products of pairs left out."""
        shapes = shapes_of(self.stack)
        gates = [float(gate.detach().mean()) for gate in self.rule.gates]
        gates += [0.0] * (len(shapes) - len(gates))  # a last layer that keeps only protected tokens
        cost, dense, alive = 0.0, 0.0, 1.0
        for shape, gate in zip(shapes, gates, strict=True):
            attention = 4.0 * shape.width * shape.heads * shape.head_width
            ffn = 2.0 * shape.width * shape.filters
            cost += attention * alive + ffn * gate
            dense += attention + ffn
            alive = gate
        return cost / dense

    def groups(self, settings: Settings) -> list[dict[str, Any]]:
        thresholds = {id(p) for p in self.rule.parameters()}
        groups = super().groups(settings)
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in thresholds]
        learned = {"params": list(self.rule.parameters()), "weight_decay": 0.0, "lr": self.threshold_lr}
        return [*(group for group in groups if group["params"]), learned]

    def after_step(self, step: int, total: int) -> dict[str, float]:
        left = statistics.fmean(over_processes(1.0 if self.left is None else self.left))
        if self.steered and self.target is not None:
            self.first = left if self.first is None else self.first
            done = min(1.0, step / (0.6 * total))
            error = left - (self.first + (self.target - self.first) * done)
            # Gains chosen by us on SST-2: a steady error of 0.1 gives 0.4 at once and as much again in 80 steps.
            self.integral = min(5.0, max(0.0, self.integral + 0.05 * error))
            self.weight = min(10.0, max(0.0, self.integral + 4.0 * error))
        return {"macs": left, "lambda": self.weight}

    def memory(self) -> dict[str, Any]:
        return {"weight": self.weight, "left": self.left, "first": self.first, "integral": self.integral}

    def remember(self, memory: dict[str, Any]) -> None:
        self.weight, self.left = memory["weight"], memory["left"]
        self.first, self.integral = memory["first"], memory["integral"]


class HardStage(Student):
    """Weights alone, tokens removed; one scalar on the rule holds the budget."""

    def __init__(
        self,
        model: nn.Module,
        rule_at: RuleAt,
        *,
        teacher: nn.Module | None,
        distillation: Distillation,
        target: float | None,
        calibration: Sequence[dict[str, Tensor]],
        steer_every: int,
        scale: float = 1.0,
        dropout: bool = True,
    ) -> None:
        super().__init__(model, teacher, distillation, dropout=dropout)
        self.rule_at = rule_at
        self.target = target
        self.calibration = calibration
        self.steer_every = steer_every
        self.scale = scale
        self.macs = math.nan
        self._set()

    def _set(self) -> None:
        self.stack.rule = rule_of(self.rule_at(self.scale))

    def steer(self) -> None:
        """Solve the scalar again, on the weights as they are."""
        if self.target is not None:
            self.scale, self.macs = solve_scale(
                self.model, self.stack, self.rule_at, self.calibration, self.target, self.scale
            )
        self._set()

    def after_step(self, step: int, total: int) -> dict[str, float]:
        if step % self.steer_every == 0 or step == total:
            self.steer()
        return {"macs": self.macs, "scale": self.scale} if self.target is not None else {}

    def memory(self) -> dict[str, Any]:
        return {"scale": self.scale, "macs": None if math.isnan(self.macs) else self.macs}

    def remember(self, memory: dict[str, Any]) -> None:
        self.scale = memory["scale"]
        self.macs = math.nan if memory["macs"] is None else memory["macs"]
        self._set()


def solve_scale(
    model: nn.Module,
    stack: Stack,
    rule_at: RuleAt,
    calibration: Sequence[dict[str, Tensor]],
    target: float,
    start: float = 1.0,
    tolerance: float = 0.004,
) -> tuple[float, float]:
    """The scalar at which the calibration set costs at most ``target`` of dense, by bracketing and bisection.

    Every trial runs the model: a token removed in one layer changes the scores of the next.

    Returns:
        The scalar and its share of MACs; the share lies in [target - tolerance, target] where the rule can reach it, and is
        the smallest the rule reaches otherwise.
    """
    model_device = next(model.parameters()).device
    batches = [{name: x.to(model_device) for name, x in batch.items()} for batch in calibration]

    def macs(scale: float) -> float:
        with stack.using(rule_of(rule_at(scale))):
            return count(model, stack, batches).ratio

    low, high = None, None  # low costs too much, high is within the target
    scale = start
    best: tuple[float, float] | None = None
    smallest = (scale, math.inf)
    for _ in range(24):
        share = macs(scale)
        if share < smallest[1]:
            smallest = (scale, share)
        if share <= target:
            high = scale
            if best is None or share > best[1]:
                best = (scale, share)
            if share >= target - tolerance:
                break
        else:
            low = scale
        if high is None:
            scale *= 1.15 if low == start else 1.5
        elif low is None:
            scale /= 1.15 if high == start else 1.5
        else:
            if high / low < 1.0005:
                break
            scale = math.sqrt(low * high)
        if not 1e-4 < scale < 1e4:
            break
    return best if best is not None else smallest
