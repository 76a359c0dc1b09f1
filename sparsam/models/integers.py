"""Weights that are integers: a module keeps them in floating point, on the grid that its scales span.

Everything that works on a model (cutting, counting, exports, the lifted encoder) sees an ordinary linear module or table of
embeddings; a runtime, and what writes files, reads the integers back exactly. The scales, one an output (a word), are a
buffer ``weight_scale`` beside the weight. Such weights take no gradient: a step would leave the grid.
"""

from typing import Any

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

SCALES = "weight_scale"


def scales_of(module: nn.Module) -> Float[Tensor, " o"] | None:
    """The scales of a module whose weights are integers; None for one in floating point."""
    return module._buffers.get(SCALES)


def put(module: Any, integers: Int8[Tensor, "o i"], scales: Float[Tensor, " o"]) -> None:
    """Make a module's weights these integers times these scales, in place."""
    with torch.no_grad():
        module.weight.copy_(on_grid(integers, scales))
    module.weight.requires_grad_(False)
    module.register_buffer(SCALES, scales.detach().float().clone())


def integers_of(module: Any) -> Int8[Tensor, "o i"]:
    """The integers of a module that has scales: exactly those that were :func:`put`."""
    scales = scales_of(module)
    assert scales is not None
    return off_grid(module.weight, scales)


def on_grid(integers: Int8[Tensor, "o i"], scales: Float[Tensor, " o"]) -> Float[Tensor, "o i"]:
    """The weights that integers and scales stand for."""
    return integers.float() * scales.float()[:, None]


def off_grid(weight: Float[Tensor, "o i"], scales: Float[Tensor, " o"]) -> Int8[Tensor, "o i"]:
    """The integers nearest to weights: exactly those they were made from, where they lie on the grid."""
    found: Tensor = (weight.detach().float() / scales.float()[:, None]).round().to(torch.int8)
    return found


def leave(module: Any) -> None:
    """Call a module's weights floating point again; their values stay."""
    module._buffers.pop(SCALES, None)
    module.weight.requires_grad_(True)
