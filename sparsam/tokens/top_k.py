"""Control: keep a fixed share of the tokens with the highest received attention in this layer.

The baseline the LTP paper calls top-k. Its released code cites SpAtten for it, but neither accumulates scores over layers
nor ranks against the living tokens; this control ranks a layer's own scores and counts from the original length.
"""

from dataclasses import dataclass

from sparsam.plan import TokenPlan
from sparsam.tokens.rule import Decision, Living, check_options, checked_shares, quota, ranks


@dataclass(frozen=True)
class TopK:
    """Keep ceil(share * original length) tokens of each sequence, protected ones first."""

    shares: tuple[float | None, ...]
    soft: str = "mask"

    def prunes(self, layer: int) -> bool:
        share = self.shares[layer]
        return share is not None and share < 1

    def wants_scores(self, layer: int) -> bool:
        return self.prunes(layer)

    def start(self, tokens: int) -> None:
        return None

    def step(self, state: None, living: Living) -> tuple[None, Decision]:
        share = self.shares[living.layer]
        assert living.scores is not None and share is not None
        scores = living.scores.masked_fill(living.protected, float("inf"))
        count = quota(share, living.original_lengths)
        rank = ranks(scores, living.lengths, living.sequences)
        return None, Decision((rank < count[living.sequences]) | living.protected)

    @staticmethod
    def from_plan(plan: TokenPlan) -> "TopK":
        check_options(plan)
        return TopK(checked_shares(plan.rule, plan.values))
