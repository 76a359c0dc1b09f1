"""Padding with a constant, which the framework composes of narrowed views at places that it wants as plain numbers."""

from typing import Any

import torch

from sparsam.shapes.mode import has_symbols
from sparsam.shapes.run import Run


def constant(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`aten.constant_pad_nd`: each size grows or, with a negative amount, shrinks; it cannot go below nothing."""
    tensor, pad = args[:2]
    if not has_symbols((tensor, pad)):
        return NotImplemented
    torch._check(len(pad) % 2 == 0, lambda: f"Length of pad must be even but instead it equals {len(pad)}")
    torch._check(
        len(pad) <= 2 * tensor.dim(),
        lambda: (
            f"Length of pad should be no more than twice the number of dimensions of the input, {tensor.dim()}"
        ),
    )
    sizes = list(tensor.shape)
    for i in range(len(pad) // 2):
        dim = tensor.dim() - 1 - i
        size = sizes[dim]
        for amount in pad[2 * i : 2 * i + 2]:
            if amount < 0:
                size = size + amount
                torch._check(
                    size >= 0,
                    lambda dim=dim: f"padding of {tuple(pad)} leaves less than nothing of dimension {dim}",
                )
        sizes[dim] = sizes[dim] + pad[2 * i] + pad[2 * i + 1]
    return tensor.new_empty(sizes)


RULES = {torch.ops.aten.constant_pad_nd.default: constant}
