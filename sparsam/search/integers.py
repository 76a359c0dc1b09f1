"""Products in integers for a clock alone: weights to the nearest of their own range, tokens each on a grid; no calibration.

How long a product takes does not depend on where its grids end. What is saved is made with more care
(:mod:`sparsam.compress.integer_run`).
"""

import copy
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from sparsam.models import dense_plan, lift, plan_of, stack_of
from sparsam.models.encoder import Block
from sparsam.models.formats import ROLES, words_of
from sparsam.models.integers import put
from sparsam.plan import Format
from sparsam.quantization import MinMax, quantize_weight

BITS = 8


def put_quickly(
    block: Block, bits: int = BITS, products: Collection[str] = tuple(ROLES)
) -> dict[Any, Format]:
    """Make integers of a layer's weights, in place; the formats of those products that have something to multiply."""
    found: dict[Any, Format] = {}
    for product, roles in ROLES.items():
        modules = [block.part(role) for role in roles]
        if product not in products or not all(module.weight.numel() for module in modules):
            continue
        for module in modules:
            integers, grid = quantize_weight(module.weight, bits, method=MinMax())
            put(module, integers, grid.scale)
        found[product] = Format(bits)
    return found


def quickly_in_integers(
    model: Any, bits: int = BITS, *, words: bool = False, products: Collection[tuple[int, str]] | None = None
) -> Any:
    """A copy of a lifted model with its products in integers; the words' embeddings in eight bits if asked for.

    Args:
        model: lifted; it is not changed.
        bits: of the weights.
        words: put the words' embeddings in integers, too.
        products: which ones, by layer and product; all of them if None.
    """
    own = copy.deepcopy(model)
    stack = stack_of(own)
    layers = tuple(
        replace(
            left,
            formats=put_quickly(block, bits, [p for p in ROLES if products is None or (at, p) in products]),
        )
        for at, (left, block) in enumerate(zip(stack.left, stack.blocks, strict=True))
    )
    table = words_of(own) if words else None
    if table is not None:
        integers, grid = quantize_weight(table.weight, BITS, method=MinMax())
        put(table, integers, grid.scale)
    plan = plan_of(own) or dense_plan(own)
    lift(own, replace(plan, layers=layers, embeddings=None if table is None else BITS))
    return own
