"""The contract between a token method and the executor that applies it.

A rule is asked once a layer, between attention and feed-forward: given the living tokens and, if it wants them, the
attention each has received in this layer, which stay? The executor (``models/encoder.py``) does the rest: it removes the
tokens from every later product, keeps their last states, carries original positions along.

Laws, held by ``tests/contracts/test_rules.py`` for every member:

1. A protected token (the class token, a distillation token) survives any score.
2. A dead token stays dead: a rule sees only living tokens, so it cannot revive one.
3. No sequence with a protected token becomes empty.
4. Scores and thresholds are float32, whatever the precision of the states.
5. A decision depends on a sequence's own tokens alone, not on its neighbours in the batch or on padding.
6. A layer the rule does not ``prune`` costs nothing: no scores are computed for it.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsam.errors import Refused
from sparsam.plan import TokenPlan


@dataclass(frozen=True)
class Living:
    """The tokens alive in a layer, as a rule sees them. b sequences, t packed tokens, d width."""

    x: Float[Tensor, "t d"]
    scores: Float[Tensor, " t"] | None
    """Received attention, mean 1 over a sequence; None unless the rule asked for it."""
    lengths: Int[Tensor, " b"]
    original_lengths: Int[Tensor, " b"]
    """Tokens each sequence had when it entered the encoder."""
    sequences: Int[Tensor, " t"]
    positions: Int[Tensor, " t"]
    protected: Bool[Tensor, " t"]
    layer: int


@dataclass(frozen=True)
class Decision:
    """What becomes of the living tokens.

    ``keep`` is final: the others are removed. A method in training may keep everything and return ``log_gate`` instead,
    the log of a soft gate in (0, 1]; the executor applies it as ``soft`` of the rule says. ``into`` names for each token
    the one it is merged into (itself, if it stays); merged tokens must not be in ``keep``.
    """

    keep: Bool[Tensor, " t"]
    log_gate: Float[Tensor, " t"] | None = None
    into: Int[Tensor, " t"] | None = None


@runtime_checkable
class Rule(Protocol):
    """A token method's step. ``state`` is None or a tuple of tensors with t rows; the executor drops rows with tokens."""

    @property
    def soft(self) -> str:
        """How a soft gate acts.

        ``mask`` adds its log to the key's logits from the next layer on, multiplied over layers, so that its limit is
        removal; ``scale`` multiplies the layer's output (the LTP paper).
        """
        ...

    def prunes(self, layer: int) -> bool:
        """Whether the rule can remove anything in this layer."""
        ...

    def wants_scores(self, layer: int) -> bool:
        """Whether it reads the received attention there."""
        ...

    def start(self, tokens: int) -> Any:
        """The state before the first layer, for this many tokens."""
        ...

    def step(self, state: Any, living: Living) -> tuple[Any, Decision]:
        """Decide on one layer."""
        ...


def ranks(
    scores: Float[Tensor, " t"], lengths: Int[Tensor, " b"], sequences: Int[Tensor, " t"]
) -> Int[Tensor, " t"]:
    """Each token's rank by score inside its sequence, 0 for the highest; ties go to the earlier token."""
    by_score = torch.argsort(scores, descending=True, stable=True)
    order = by_score[torch.argsort(sequences[by_score], stable=True)]  # grouped by sequence, best first
    starts = torch.cumsum(lengths, 0) - lengths
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.shape[0], device=order.device) - starts[sequences[order]]
    return rank


def quota(share: float, original_lengths: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """ceil(share * original length) of each sequence, safe from rounding: 0.07 of 100 tokens are 7, not 8."""
    return torch.ceil(original_lengths.double() * share - 1e-9).long()


def check_options(plan: TokenPlan, *known: str) -> None:
    """Refuse options of a plan that its rule does not read: they would be passed over, and mean something elsewhere.

    Raises:
        Refused: ``token-rule``.
    """
    for name in plan.options:
        if name not in known:
            raise Refused(
                f"the plan's rule {plan.rule!r} has the option {name[:60]!r}; known are {', '.join(known) or 'none'}. It may "
                "come from a newer sparsam: upgrade.",
                code="token-rule",
            )


def checked_shares(rule: str, shares: tuple[float | None, ...]) -> tuple[float | None, ...]:
    """The shares of a plan, each in [0, 1] or None.

    Raises:
        Refused: ``token-rule``.
    """
    for layer, share in enumerate(shares):
        if share is not None and not 0 <= share <= 1:
            raise Refused(
                f"the plan's rule {rule!r} has the share {share!r} at layer {layer}; expected a number in [0, 1], "
                "or null to keep all tokens. Restore the plan from the saved folder.",
                code="token-rule",
            )
    return shares
