"""Gates on heads and filters: multiplied in front of the two output products, and asked what each is worth to each sample.

A gate of one changes nothing, to the bit. The gradient of a sample's loss by a unit's gate is what the loss would change by if
the unit faded; its square, summed over samples, is the unit's (diagonal, empirical) Fisher information. Scaling a head's slice
of the output projection's input equals scaling its attention probabilities, which are linear in it.

Letters: b samples, t packed tokens, u units (heads or filters) of a layer, k width of a unit (1 for a filter).
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

HALVES = ("attention", "ffn")
"""The two halves of a layer; units of the first are heads, of the second filters."""


class Gates:
    """One gate a unit, or one a sample and unit, for every layer and half. Set it as a stack's ``gate``.

    Args:
        values: by half the gates of each layer, (u,) or (b, u); gradients of the latter are those of each sample where the
            loss is their sum.
    """

    def __init__(self, values: dict[str, Sequence[Tensor]]) -> None:
        self.values = {half: list(values[half]) for half in HALVES}

    @staticmethod
    def ones(heads: Sequence[int], filters: Sequence[int], samples: int, device: Any = None) -> "Gates":
        """Open gates for a batch of so many samples, ready for gradients."""
        return Gates(
            {
                half: [torch.ones(samples, count, device=device, requires_grad=True) for count in counts]
                for half, counts in zip(HALVES, (heads, filters), strict=True)
            }
        )

    def __call__(
        self, layer: int, half: str, x: Float[Tensor, "t a"], sequences: Int[Tensor, " t"]
    ) -> Float[Tensor, "t a"]:
        """The input of a half's output product, gated."""
        gate = self.values[half][layer].to(x.dtype)
        if gate.dim() == 2:
            gate = gate.index_select(0, sequences)
        units = gate.shape[-1]
        if not units:
            return x
        return (x.view(x.shape[0], units, -1) * gate.unsqueeze(-1)).flatten(1)

    def gradients(self, half: str) -> list[Float[Tensor, "b u"]]:
        """What came back, layer by layer; zeros where nothing did (a layer without units, or one nobody read)."""
        return [torch.zeros_like(x) if x.grad is None else x.grad for x in self.values[half]]
