"""Learned Token Pruning.

S. Kim, S. Shen, D. Thorsley, A. Gholami, W. Kwon, J. Hassoun, K. Keutzer. "Learned Token Pruning for Transformers",
KDD 2022, arXiv:2107.00910.

Score: the attention a token receives in this layer, averaged over heads and queries.
Decide: a token whose score lies below the layer's threshold leaves before the feed-forward part, and for good.
Learn: a sigmoid of (score - threshold) / temperature stands in for the cut, and an L1 penalty on it pulls thresholds up.

Where we differ, and why:

- Scores are relative: received attention has mean 1 over the living tokens, while the released code divides by the
  *padded* length. Our thresholds hold for any padding; ``from_published`` converts theirs
  (``test_thresholds_carry_over_between_paddings``).
- The method's own thresholds are in units of the mean over the *unprotected* tokens of the sequence. In the paper's unit the
  class token's share makes short sequences score low: on SST-2 a model pruned to half its operations had 97 % of sentences of
  25 tokens and more right, and 63 % of phrases below 8 (``test_short_sequences_are_not_emptied``).
- Tokens are removed, not masked (``test_masked_equals_removed``), and the class token is protected explicitly.
- Every layer learns a threshold; in the released code layer 0 stays at 0 for ever (``test_every_threshold_learns``).
- Scores come from the probabilities before dropout, and the penalty counts real tokens only, no padding.
- The gates' temperature is a share of the spread of each layer's scores, not one number for all: those of the first layer
  lie so close together that its gates stood half open, and it was cut too deep
  (``test_spread_is_the_unit_of_the_temperature``).
- Besides the paper's soft stage (``scale``: the layer's output is multiplied by the gate, and a token may come back in the
  next layer) there is a cumulative one (``mask``), whose limit for temperature 0 is the removal itself
  (``test_cumulative_soft_stage_hardens_into_removal``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsam.errors import Refused
from sparsam.plan import TokenPlan
from sparsam.tokens.rule import Decision, Living, check_options
from sparsam.tokens.settings import between, check_training, one_of

ONLY_PROTECTED = 1e6
"""A threshold no received attention can reach (it is at most the number of tokens): only protected tokens stay."""


RELATIVE_TO = ("all", "others")
"""What a threshold's unit is: the mean received attention of all living tokens of the sequence (which is 1), or of those
that are not protected."""


def relative(living: Living, to: str) -> Float[Tensor, " t"]:
    """Scores in units of a threshold, (t,) in float32.

    The class token draws a share of the attention that grows as sequences get shorter. In units of the mean over ``all``
    tokens the others' scores then sink with the length, and one threshold empties short sequences; in units of the mean over
    the ``others`` they do not.
    """
    assert living.scores is not None
    scores = living.scores.float()
    if to == "all":
        return scores
    counted = (~living.protected).float()
    b = living.lengths.shape[0]
    total = scores.new_zeros(b).index_add(0, living.sequences, scores * counted)
    count = scores.new_zeros(b).index_add(0, living.sequences, counted)
    mean = total / count.clamp(min=1)
    return scores / mean.clamp(min=1e-9)[living.sequences]


@dataclass(frozen=True)
class Threshold:
    """The hard rule: keep a token whose relative score reaches its layer's threshold. Ties stay."""

    thresholds: tuple[float, ...]
    soft: str = "mask"
    relative_to: str = "all"

    def prunes(self, layer: int) -> bool:
        return self.thresholds[layer] > 0

    def wants_scores(self, layer: int) -> bool:
        return 0 < self.thresholds[layer] < ONLY_PROTECTED

    def start(self, tokens: int) -> None:
        return None

    def step(self, state: None, living: Living) -> tuple[None, Decision]:
        threshold = self.thresholds[living.layer]
        if threshold >= ONLY_PROTECTED:
            return None, Decision(living.protected)
        return None, Decision((relative(living, self.relative_to) >= threshold) | living.protected)

    def kept(
        self, layer: int, scores: Float[NDArray[Any], " t"] | None, starts: Int[NDArray[Any], " b1"]
    ) -> Bool[NDArray[Any], " t"]:
        """What :meth:`step` keeps, for serving: host arrays, and the first token of each sequence is the protected one.

        Args:
            layer: which.
            scores: received attention in float32, None where :meth:`wants_scores` says no.
            starts: where each sequence begins, and the end; none is empty.
        """
        first, threshold = starts[:-1], self.thresholds[layer]
        if scores is None or threshold >= ONLY_PROTECTED:
            keep = np.zeros(starts[-1], bool)
        elif self.relative_to == "all":
            keep = scores >= threshold
        else:
            lengths = np.diff(starts)
            others = scores.copy()
            others[first] = 0
            total = np.add.reduceat(others, first)
            mean = np.maximum(total / np.maximum(lengths - 1, 1), 1e-9).astype(np.float32)
            keep = scores / np.repeat(mean, lengths) >= threshold
        keep[first] = True
        return keep

    @staticmethod
    def from_plan(plan: TokenPlan) -> "Threshold":
        check_options(plan, "relative_to")
        unit = plan.options.get("relative_to", "all")
        if unit not in RELATIVE_TO:
            raise Refused(
                f"the plan's thresholds are relative to {unit!r}; known are {', '.join(RELATIVE_TO)}. It may come from "
                "a newer sparsam: upgrade.",
                code="token-rule",
            )
        for layer, value in enumerate(plan.values):
            if value is not None and not 0 <= value < float("inf"):
                raise Refused(
                    f"the plan's rule {plan.rule!r} has the threshold {value!r} at layer {layer}; expected a number from 0 "
                    "up, or null to keep all tokens. Restore the plan from the saved folder.",
                    code="token-rule",
                )
        return Threshold(
            tuple(0.0 if value is None else value for value in plan.values), relative_to=str(unit)
        )


def token_plan(
    thresholds: Sequence[float], rule: str = "ltp", output: str = "last", relative_to: str = "all"
) -> TokenPlan:
    """The plan of a hard threshold rule; thresholds that can remove nothing become None."""
    values = tuple(float(t) if t > 0 else None for t in thresholds)
    options: dict[str, bool | int | float | str] = (
        {} if relative_to == "all" else {"relative_to": relative_to}
    )
    return TokenPlan(rule, values, options, output="survivors" if output == "survivors" else "last")


def from_published(thresholds: Sequence[float], padded_length: int) -> tuple[float, ...]:
    """Thresholds of the released code, which divides scores by the padded length, in relative units."""
    return tuple(t * padded_length for t in thresholds)


def linear_thresholds(layers: int, last: float) -> tuple[float, ...]:
    """The paper's start, and its baseline of manual thresholds: rising linearly from 0 at layer 0.

    The released code gives layer l of L (zero-based) the threshold ``last * l / L``.
    """
    return tuple(last * layer / layers for layer in range(layers))


class SoftThreshold(nn.Module):
    """The soft stage: learnable thresholds, gates sigmoid((score - threshold) / temperature).

    Args:
        initial: relative thresholds to start from, one a layer; :data:`ONLY_PROTECTED` is kept as it is.
        temperature: of the sigmoid, in relative units (the paper's 1e-3 at 128 padded tokens is 0.128), or in units of
            ``spread``.
        soft: ``mask`` or ``scale``, see :class:`~sparsam.tokens.rule.Rule`.
        spread: a unit for each layer's temperature, such as how far its scores lie apart; 1 for all if absent.
    """

    fixed: Tensor
    spread: Tensor

    def __init__(
        self,
        initial: Sequence[float],
        temperature: float = 0.1,
        soft: str = "mask",
        relative_to: str = "all",
        spread: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(
                f"temperature must be above 0; got {temperature!r}. Use Threshold for a hard cut."
            )
        self.soft = soft
        self.temperature = temperature
        self.relative_to = relative_to
        start = torch.tensor(list(initial), dtype=torch.float32)
        self.register_buffer("fixed", start >= ONLY_PROTECTED)
        unit = torch.ones_like(start) if spread is None else torch.tensor(list(spread), dtype=torch.float32)
        self.register_buffer("spread", unit)
        self.threshold = nn.Parameter(start)
        self.gates: list[Tensor] = []
        """What is left of each token (t,), layer by layer, in the last forward pass: for the penalty."""

    def prunes(self, layer: int) -> bool:
        return True

    def wants_scores(self, layer: int) -> bool:
        return not bool(self.fixed[layer])

    def start(self, tokens: int) -> tuple[Tensor]:
        self.gates = []
        return (self.threshold.new_zeros(tokens),)  # the log of what is left of each token

    def step(self, state: tuple[Tensor], living: Living) -> tuple[tuple[Tensor], Decision]:
        if bool(self.fixed[living.layer]):
            return state, Decision(living.protected)
        threshold = self.threshold[living.layer].float()
        temperature = self.temperature * self.spread[living.layer]
        log_gate = F.logsigmoid((relative(living, self.relative_to) - threshold) / temperature)
        log_gate = log_gate.masked_fill(living.protected, 0.0)
        left = (state[0] + log_gate,) if self.soft == "mask" else (log_gate,)
        self.gates.append(left[0].exp())
        return left, Decision(torch.ones_like(living.protected), log_gate=log_gate)

    def penalty(self) -> Float[Tensor, ""]:
        """The paper's regulariser: mean gate of the real tokens, averaged over layers; 0 if nothing was gated.

        In the cumulative stage a token's gate is the product of its gates so far: the share of it that still costs.
        """
        if not self.gates:
            return self.threshold.sum() * 0.0
        return torch.stack([gate.mean() for gate in self.gates]).mean()

    @torch.no_grad()
    def hardened(self) -> tuple[float, ...]:
        """The thresholds as they stand."""
        return tuple(
            ONLY_PROTECTED if fixed else float(t) for t, fixed in zip(self.threshold, self.fixed, strict=True)
        )


@dataclass(frozen=True)
class LTP:
    """Settings of the method, for :func:`sparsam.compress`.

    Args:
        soft: the soft stage: ``mask`` (cumulative, hardens into removal) or ``scale`` (the paper's).
        soft_epochs, hard_epochs: passes over the training data in each stage (paper: 1-10 and 5).
        lr, hard_lr: learning rate of the weights in each stage; threshold_lr of the thresholds, in relative units.
        weight: lambda, the weight of the penalty; None steers it so that the soft stage ends at the budget.
        temperature: of the gates, in units of temperature_unit.
        temperature_unit: ``spread``, each layer's own distance between the quartiles of its scores, or ``mean``, that of the
            thresholds (as in the paper). The first layer's scores lie three times closer together than the later ones'; a
            temperature for all leaves its gates half open, which costs the model nothing and looks like a saving.
        initial: share of the tokens below each layer's threshold at the start, on the dense model. The paper starts linearly
            over the layers, in units that put layer 0 far below its lowest score and the last layer above its mean.
        relative_to: unit of the thresholds, see :func:`relative`; ``all`` as in the paper.
        distill: share of the loss taken from the dense model's logits (0: labels alone, as in the paper).
        distill_states: weight of the distance between the surviving tokens' states in the two models, over all layers.
        dropout: train with the model's own dropout. Without it, the default, the student agrees more with its teacher on unseen
            text after the same epochs, and a step is a fifth cheaper (docs/log.md).
        last_layer: ``protected`` keeps only protected tokens in the last feed-forward part where the head reads the
            class token alone (exact: nothing else is read), ``learned`` learns its threshold like the others.
        steer_every: in the hard stage thresholds are re-solved to hold the budget every so many steps.
    """

    soft: str = "mask"
    soft_epochs: float = 1.0
    hard_epochs: float = 2.0
    lr: float = 4e-5
    hard_lr: float = 6e-5
    threshold_lr: float = 1.5e-2
    weight: float | None = None
    temperature: float = 0.15
    temperature_unit: str = "spread"
    initial: float = 0.05
    relative_to: str = "others"
    distill: float = 0.5
    distill_states: float = 0.0
    distill_temperature: float = 2.0
    dropout: bool = False
    last_layer: str = "protected"
    steer_every: int = 100

    def __post_init__(self) -> None:
        check_training(self)
        for name, choices in (
            ("soft", ("mask", "scale")),
            ("relative_to", RELATIVE_TO),
            ("temperature_unit", ("spread", "mean")),
        ):
            one_of(name, getattr(self, name), choices)
        for name in ("temperature", "lr", "threshold_lr"):
            between(name, getattr(self, name), 0.0, math.inf, open_low=True)
        between("soft_epochs", self.soft_epochs, 0.0, math.inf)
        between("initial", self.initial, 0.0, 1.0, open_high=True)
        if self.weight is not None:
            between("weight", self.weight, 0.0, math.inf)

    def start(
        self, thresholds: Sequence[float], reads_class_token: bool, spread: Sequence[float] | None = None
    ) -> SoftThreshold:
        """The soft rule to train, from these relative thresholds, one a layer; ``spread`` where that is the unit."""
        first = list(thresholds)
        if self.last_layer == "protected" and reads_class_token:
            first[-1] = ONLY_PROTECTED
        return SoftThreshold(first, self.temperature, self.soft, self.relative_to, spread)
