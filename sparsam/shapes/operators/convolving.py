"""What convolutions refuse with data and let pass without."""

from typing import Any

import torch

from sparsam.shapes.run import Run


def convolution(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`aten.convolution`: no kernel may be empty, nor, transposed, give no channels."""
    weight, transposed = args[1], args[6]
    for size in weight.shape[2:]:
        torch._check(
            size > 0, lambda: f"kernel size should be greater than zero, but got {tuple(weight.shape[2:])}"
        )
    if transposed:
        torch._check(
            weight.shape[1] > 0, lambda: f"non-empty weight tensor expected, but got {tuple(weight.shape)}"
        )
    return NotImplemented


RULES = {torch.ops.aten.convolution.default: convolution}
