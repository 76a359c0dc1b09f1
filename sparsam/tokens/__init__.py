"""Token methods: which tokens of a sequence go on to the next layer."""

from collections.abc import Callable

from sparsam.errors import Refused
from sparsam.plan import TokenPlan
from sparsam.tokens.ltp import LTP, SoftThreshold, Threshold
from sparsam.tokens.random import RandomTokens
from sparsam.tokens.rule import Decision, Living, Rule
from sparsam.tokens.top_k import TopK

RULES: dict[str, Callable[[TokenPlan], Rule]] = {
    "ltp": Threshold.from_plan,
    "linear-threshold": Threshold.from_plan,
    "top-k": TopK.from_plan,
    "random": RandomTokens.from_plan,
}

__all__ = [
    "LTP",
    "RULES",
    "Decision",
    "Living",
    "RandomTokens",
    "Rule",
    "SoftThreshold",
    "Threshold",
    "TopK",
    "rule_of",
]


def rule_of(plan: TokenPlan) -> Rule:
    """The rule a plan names.

    Raises:
        Refused: ``token-rule`` for a name not in :data:`RULES`.
    """
    if plan.rule not in RULES:
        raise Refused(
            f"the plan names the token rule {plan.rule!r}; known are {', '.join(RULES)}. "
            "It may come from a newer sparsam: upgrade.",
            code="token-rule",
        )
    return RULES[plan.rule](plan)
