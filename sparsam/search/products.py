"""What a product costs more in floating point than in integers, inside the layers that :func:`sparsam.freeze` would run.

Each product's layer is timed as it is with all products in integers, and with this one in floating point; all of them in turn,
so that a disturbance falls on all. The difference is what a budget of time has to pay for leaving the product as it is.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sparsam.models import stack_of
from sparsam.models.encoder import Block, call
from sparsam.runtime.encoder import Workspace
from sparsam.runtime.frozen import FrozenBlock, code_for, native_layer
from sparsam.search.integers import put_quickly
from sparsam.search.tables import timed

Costs = dict[tuple[int, str], float]
"""Milliseconds of a batch, by layer and product; below zero where integers are the slower way."""


@torch.inference_mode()
def float_costs(
    model: Any, lengths: Int[NDArray[np.int64], " b"], shares: Sequence[tuple[float, float]]
) -> Costs:
    """Milliseconds that each product of a lifted model takes more in float32 than in integers of eight bits.

    Args:
        model: lifted, weights in floating point; it is not changed.
        lengths: of the sequences of one batch, in tokens.
        shares: for each layer, the share of tokens that its first half reads, and its second half.
    """
    stack, found, room = stack_of(model), Costs(), Workspace()
    code = code_for(stack, torch.float32, True)
    last = len(stack.blocks) - 1
    works: list[Callable[[], Any]] = []
    keys: list[tuple[int, str | None]] = []
    for index, (block, (before, after)) in enumerate(zip(stack.blocks, shares, strict=True)):
        starts = _starts(np.maximum(1, np.rint(before * lengths)).astype(np.int64))
        rest = torch.randn(
            int(np.maximum(1, np.rint(after * lengths)).sum()), int(block.part("q").weight.shape[1])
        )
        x = torch.randn(int(starts[-1]), rest.shape[1])
        whole = _in_integers(block)
        alone = index == last
        for product in (None, *whole.left.formats):
            one = whole if product is None else _without(whole, product)
            if code is not None:
                layer = native_layer(one, code, alone=alone)
                mixed = np.zeros(max(1, rest.shape[0] * layer.inner), np.float32)
                works.append(partial(_in_two_calls, layer, x, starts, room, rest, mixed))
            else:
                works.append(
                    partial(_in_halves, FrozenBlock(one, torch.float32, alone), x, starts, rest, alone)
                )
            keys.append((index, product))
    times = dict(zip(keys, timed(works, None), strict=True))
    for index, name in keys:
        if name is not None:
            found[index, name] = float(times[index, name] - times[index, None])
    return found


def _in_two_calls(layer: Any, x: Tensor, starts: Any, room: Workspace, rest: Tensor, mixed: Any) -> None:
    layer.mix(x, starts, room)
    layer.rest(rest, mixed, None)


def _in_halves(
    block: FrozenBlock, x: Float[Tensor, "t d"], starts: Any, rest: Float[Tensor, "t2 d"], alone: bool
) -> None:
    block.attend_packed(x, starts, scores=False, alone=alone)
    block.ffn(rest, linear=call)


def _in_integers(block: Block) -> Block:
    """A copy of a layer with all its products in integers."""
    own = Block(copy.deepcopy(block.layer).eval().requires_grad_(False), block.family, block.left)
    return Block(own.layer, block.family, replace(block.left, formats=put_quickly(own)))


def _without(block: Block, product: str) -> Block:
    """The same weights with one product in floating point."""
    formats = {name: form for name, form in block.left.formats.items() if name != product}
    return Block(block.layer, block.family, replace(block.left, formats=formats))


def _starts(lengths: Int[NDArray[np.int64], " b"]) -> Int[NDArray[np.int64], " b1"]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
