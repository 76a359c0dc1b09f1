"""Control: keep a fixed share of the tokens, chosen by a hash of their position.

A method that does not clearly beat this one has learned nothing about tokens. The draw depends on the original position
and the seed alone, so a sequence fares the same in any batch, runs repeat exactly, and later layers go on thinning out
what earlier ones left.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsam.errors import Refused
from sparsam.plan import TokenPlan
from sparsam.tokens.rule import Decision, Living, check_options, checked_shares, quota, ranks


@dataclass(frozen=True)
class RandomTokens:
    """Keep ceil(share * original length) tokens of each sequence at random, protected ones first.

    The draw of a token depends on its place in the sequence and on the seed alone.
    """

    shares: tuple[float | None, ...]
    seed: int = 0
    soft: str = "mask"

    def prunes(self, layer: int) -> bool:
        share = self.shares[layer]
        return share is not None and share < 1

    def wants_scores(self, layer: int) -> bool:
        return False

    def start(self, tokens: int) -> None:
        return None

    def step(self, state: None, living: Living) -> tuple[None, Decision]:
        share = self.shares[living.layer]
        assert share is not None
        if not living.positions.shape[0]:
            return None, Decision(living.protected)
        # Counted from the first token, which is protected and stays: padding on the left changes nothing.
        starts = torch.cumsum(living.lengths, 0) - living.lengths
        place = living.positions - living.positions[starts[living.sequences]]
        draw = _hash(place, self.seed).masked_fill(living.protected, float("inf"))
        count = quota(share, living.original_lengths)
        rank = ranks(draw, living.lengths, living.sequences)
        return None, Decision((rank < count[living.sequences]) | living.protected)

    @staticmethod
    def from_plan(plan: TokenPlan) -> "RandomTokens":
        check_options(plan, "seed")
        seed = plan.options.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise Refused(
                f"the plan's rule {plan.rule!r} has the seed {seed!r}; expected a whole number. "
                "Restore the plan from the saved folder.",
                code="token-rule",
            )
        return RandomTokens(checked_shares(plan.rule, plan.values), seed)


def _hash(positions: Int[Tensor, " t"], seed: int) -> Float[Tensor, " t"]:
    """A fixed draw in [0, 1) for each position: splitmix-style mixing in 31-bit integers."""
    x = (positions + 1) * 0x9E3779B1 + (seed * 0x85EBCA6B & 0x7FFFFFFFFFFF)
    for multiplier, shift in ((0x45D9F3B, 16), (0x45D9F3B, 15)):
        x = ((x ^ (x >> shift)) * multiplier) & 0x7FFFFFFF
    return x.double().div(2**31).float()
