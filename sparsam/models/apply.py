"""What a method decided, done to a model's weights: layers cut to the heads and filters that stay, outputs replaced.

Written once for all families: a method gives indices and matrices by layer and half, the family's table says which modules.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparsam.errors import Refused
from sparsam.models.formats import refuse_integers
from sparsam.models.lift import lift, linear_like, plan_of, set_submodule, stack_of
from sparsam.plan import LayerPlan, Plan
from sparsam.structure.slices import of_groups, of_heads, whole_groups


def cut(model: Any, keep: Sequence[LayerPlan]) -> Plan:
    """Make a lifted model's layers really smaller, in place, and return its plan, by which it runs from now on.

    Rows of q, k, v and columns of the output projection go with a head, a row and a column with a filter. The output
    product's bias stays, whatever is left in front of it. Where a key-value head serves several query heads, such a group
    stays whole or leaves whole.

    Args:
        model: lifted; it may have been cut before.
        keep: for each layer the indices of the heads and filters that stay, of those it has now; None keeps all.

    Raises:
        Refused: ``plan-mismatch`` for an index that a layer does not have, or for another number of layers; ``quantized``
            for a model whose weights are integers.
    """
    refuse_integers(plan_of(model), "cutting heads and filters")
    stack = stack_of(model)
    if len(keep) != len(stack.left):
        raise Refused(
            f"what to keep was given for {len(keep)} layers; the model has {len(stack.left)}.",
            code="plan-mismatch",
        )
    left = []
    for index, (block, now, chosen) in enumerate(zip(stack.blocks, stack.left, keep, strict=True)):
        width = int(block.part("head_width"))
        queries, keys = (block.part(role).weight.shape[0] // width for role in ("q", "k"))
        filters = block.part("up").weight.shape[0]
        heads = chosen.heads
        if heads is not None:
            _check("head", index, heads, queries)
            heads = tuple(whole_groups(heads, queries // max(keys, 1)))
            rows = of_heads(heads, width)
            of_keys = of_heads(of_groups(heads, queries // max(keys, 1)), width)
            _slice(block.layer, block.family.q, rows=rows)
            _slice(block.layer, block.family.k, rows=of_keys)
            _slice(block.layer, block.family.v, rows=of_keys)
            _slice(block.layer, block.family.o, columns=rows)
        if chosen.filters is not None:
            _check("filter", index, chosen.filters, filters)
            _slice(block.layer, block.family.up, rows=chosen.filters)
            _slice(block.layer, block.family.down, columns=chosen.filters)
        left.append(
            LayerPlan(_within(now.heads, heads, queries), _within(now.filters, chosen.filters, filters))
        )
    plan: Plan = model.sparsam_plan
    new = replace(plan, layers=tuple(left))
    lift(model, new)
    return new


def set_output(
    model: Any, layer: int, half: str, weight: Float[Tensor, "a d"], bias: Float[Tensor, " d"] | None
) -> None:
    """Put other values into a half's output product, in place; ``weight`` has a row for each of its inputs.

    Raises:
        Refused: ``quantized`` for a model whose weights are integers.
    """
    refuse_integers(plan_of(model), "other values of an output product")
    module: Any = stack_of(model).blocks[layer].output(half)
    with torch.no_grad():
        module.weight.copy_(weight.T)
        if bias is not None and module.bias is not None:
            module.bias.copy_(bias)


def units_of(model: Any) -> list[tuple[int, int]]:
    """Heads and filters of each layer as it stands."""
    return [
        (
            block.part("q").weight.shape[0] // int(block.part("head_width")),
            block.part("up").weight.shape[0],
        )
        for block in stack_of(model).blocks
    ]


def _check(kind: str, layer: int, chosen: Sequence[int], count: int) -> None:
    if chosen and chosen[-1] >= count:
        raise Refused(
            f"{kind} {chosen[-1]} is to be kept in layer {layer}, which has {count} {kind}s.",
            code="plan-mismatch",
        )


def _within(now: tuple[int, ...] | None, chosen: Sequence[int] | None, count: int) -> tuple[int, ...] | None:
    """Indices among the dense layer's units; None where all of them stay."""
    if chosen is None or (now is None and len(chosen) == count):
        return now
    return tuple(chosen) if now is None else tuple(now[one] for one in chosen)


def _slice(layer: nn.Module, path: str, rows: Any = None, columns: Any = None) -> None:
    """Put a smaller linear module in a module's place."""
    old: Any = layer.get_submodule(path)
    weight, bias = old.weight.detach(), None if old.bias is None else old.bias.detach()
    if rows is not None:
        chosen = torch.as_tensor(rows, dtype=torch.long, device=weight.device)
        weight, bias = weight[chosen], None if bias is None else bias[chosen]
    if columns is not None:
        weight = weight[:, torch.as_tensor(columns, dtype=torch.long, device=weight.device)]
    new = linear_like(old, weight.shape[1], weight.shape[0])
    new.weight = nn.Parameter(weight.clone(), requires_grad=old.weight.requires_grad)
    if bias is not None:
        new.bias = nn.Parameter(bias.clone(), requires_grad=old.bias.requires_grad)
    new.train(old.training)
    set_submodule(layer, path, new)
