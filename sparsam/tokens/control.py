"""Controls: token rules that learn nothing, through the same executor, budget and training as the methods.

    top-k              a share of tokens by received attention, falling linearly over the layers
    linear-threshold   the LTP paper's manual baseline: thresholds rising linearly
    random             a share of tokens drawn by position, falling linearly over the layers

One scalar sets how much each removes; it is solved for the budget. A method is compared with these at equal MACs.
"""

from dataclasses import dataclass

from sparsam.errors import Usage
from sparsam.plan import TokenPlan
from sparsam.tokens.ltp import ONLY_PROTECTED, linear_thresholds, token_plan
from sparsam.tokens.settings import check_training

NAMES = ("top-k", "linear-threshold", "random")


@dataclass(frozen=True)
class Control:
    """Settings of a control; the training fields mean the same as in :class:`~sparsam.tokens.ltp.LTP`."""

    rule: str
    hard_epochs: float = 2.0
    hard_lr: float = 6e-5
    distill: float = 0.5
    distill_states: float = 0.0
    distill_temperature: float = 2.0
    dropout: bool = False
    last_layer: str = "protected"
    steer_every: int = 100

    def __post_init__(self) -> None:
        if self.rule not in NAMES:
            raise Usage(
                f"unknown control {self.rule!r}; choose one of {', '.join(NAMES)}.", code="method-unknown"
            )
        check_training(self)

    def plan_at(self, scale: float, layers: int, reads_class_token: bool, seed: int = 0) -> TokenPlan:
        """The rule that removes more the larger ``scale`` is."""
        last = self.last_layer == "protected" and reads_class_token
        if self.rule == "linear-threshold":
            thresholds = list(linear_thresholds(layers, scale * layers / max(layers - 1, 1)))
            return token_plan([*thresholds[:-1], ONLY_PROTECTED] if last else thresholds, rule=self.rule)
        shares = [max(0.0, 1.0 - scale * (layer + 1) / layers) for layer in range(layers)]
        if last:
            shares[-1] = 0.0
        options: dict[str, bool | int | float | str] = {"seed": seed} if self.rule == "random" else {}
        return TokenPlan(self.rule, tuple(shares), options)
