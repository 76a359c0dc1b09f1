"""A lifted model layer by layer and half by half, for methods that look at what goes in and out of each."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sparsam.attention.softmax import Attend
from sparsam.models.encoder import Block, Stack, call, key_mask
from sparsam.models.lift import PackedEncoder, PackedLayers, stack_of
from sparsam.packed import Packed, pack


@contextmanager
def replaced(model: Any, stand_in: Callable[..., Float[Tensor, "b n d"]]) -> Iterator[None]:
    """Inside the block something else is asked in the encoder's place: padded states and a mask in, padded states out."""
    stack = stack_of(model)
    holders: list[Any] = [
        module
        for module in model.modules()
        if isinstance(module, PackedEncoder | PackedLayers) and module.stack is stack
    ]
    try:
        for holder in holders:
            holder.stack = stand_in
        yield
    finally:
        for holder in holders:
            holder.stack = stack


def entered(model: Any, batch: Mapping[str, Tensor]) -> tuple[Float[Tensor, "b n d"], Any]:
    """The padded states that enter the first layer of a lifted model, and their mask as the model gives it."""
    found: list[tuple[Tensor, Any]] = []

    def catch(x: Float[Tensor, "b n d"], mask: Any = None) -> Float[Tensor, "b n d"]:
        found.append((x, mask))
        return x

    with replaced(model, catch):
        model(**{name: x for name, x in batch.items() if name != "labels"})
    return found[0]


def embedded(model: Any, batch: Mapping[str, Tensor]) -> Packed:
    """The packed states that enter the first layer of a lifted model."""
    x, mask = entered(model, batch)
    return pack(x, key_mask(mask, *x.shape[:2]))


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
