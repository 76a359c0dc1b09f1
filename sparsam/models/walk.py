"""A lifted model layer by layer and half by half, for methods that look at what goes in and out of each."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sparsam.attention.softmax import Attend
from sparsam.models.encoder import Block, Stack, call, key_mask
from sparsam.models.lift import PackedEncoder, PackedLayers, stack_of
from sparsam.packed import Packed, pack


class _Catcher:
    """Stands in for a stack and keeps what the embeddings give it."""

    def __init__(self) -> None:
        self.tokens: Packed | None = None

    def __call__(self, x: Float[Tensor, "b n d"], mask: Any = None) -> Float[Tensor, "b n d"]:
        self.tokens = pack(x, key_mask(mask, *x.shape[:2]))
        return x


def embedded(model: Any, batch: Mapping[str, Tensor]) -> Packed:
    """The packed states that enter the first layer of a lifted model."""
    stack, catcher = stack_of(model), _Catcher()
    holders: list[Any] = [
        module
        for module in model.modules()
        if isinstance(module, PackedEncoder | PackedLayers) and module.stack is stack
    ]
    try:
        for holder in holders:
            holder.stack = catcher
        model(**{name: x for name, x in batch.items() if name != "labels"})
    finally:
        for holder in holders:
            holder.stack = stack
    assert catcher.tokens is not None
    return catcher.tokens


def attention_inputs(
    stack: Stack, index: int, tokens: Packed, lengths: tuple[int, ...], attend: Attend
) -> Float[Tensor, "t a"]:
    """What the output projection of a layer's attention is given: its heads' answers side by side."""
    block = stack.blocks[index]
    x = tokens.values
    inner = block.norm("attention_norm", x) if block.family.pre_norm else x
    q, k, v = block.projected(inner, inner, call)
    if not v.shape[1]:
        return q.flatten(1)
    mixed, _ = attend(
        q, k, v, lengths, scale=q.shape[2] ** -0.5, pair_bias=stack.pair_bias(index),
        positions=None if stack.bias is None else tokens.positions,
    )  # fmt: skip
    return mixed.flatten(1)


def ffn_inputs(block: Block, x: Float[Tensor, "t d"]) -> Float[Tensor, "t f"]:
    """What the second product of a layer's feed-forward half is given: its filters' answers."""
    return block.hidden(block.norm("ffn_norm", x) if block.family.pre_norm else x, call)


def after(block: Block, half: str, summed: Float[Tensor, "t d"]) -> Float[Tensor, "t d"]:
    """What goes on from a half whose output and residual are summed."""
    return summed if block.family.pre_norm else block.norm(f"{half}_norm", summed)
