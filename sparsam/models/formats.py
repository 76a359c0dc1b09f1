"""Which modules of a model a plan's number formats speak of, and whether the model agrees."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from sparsam.errors import Refused
from sparsam.models.families import Family
from sparsam.models.integers import SCALES, scales_of
from sparsam.plan import LayerPlan, Plan

ROLES = {"qkv": ("q", "k", "v"), "o": ("o",), "up": ("up",), "down": ("down",)}
"""The modules of each product, by role."""


def words_of(model: Any) -> nn.Embedding | None:
    """The table of the words' embeddings; None for a model that reads no words."""
    found = model.get_input_embeddings()
    return found if isinstance(found, nn.Embedding) else None


def modules_in_integers(
    model: Any, layers: Sequence[nn.Module], family: Family, plan: Plan
) -> dict[str, tuple[Any, int]]:
    """The modules whose weights the plan says are integers, by name: each with its bits.

    Raises:
        Refused: ``plan-mismatch`` for embeddings of words in a model that has none of its own.
    """
    names = {id(module): name for name, module in model.named_modules()}
    found: dict[str, tuple[Any, int]] = {}
    for layer, left in zip(layers, plan.layers, strict=True):
        for role, bits in _roles(left):
            module = layer.get_submodule(getattr(family, role))
            found[names[id(module)]] = (module, bits)
    if plan.embeddings is not None:
        words = words_of(model)
        if words is None:
            raise Refused(
                f"the plan has the words' embeddings in {plan.embeddings} bits; a {type(model).__name__} reads no words. Use "
                "the plan that was saved with this model.",
                code="plan-mismatch",
            )
        if model.get_output_embeddings() is not None:
            raise Refused(
                f"the plan has the words' embeddings in {plan.embeddings} bits; a {type(model).__name__} also gives words by "
                "them. Leave them in floating point.",
                code="plan-mismatch",
            )
        found[names[id(words)]] = (words, plan.embeddings)
    return found


def modules_in_pieces(model: Any, layers: Sequence[nn.Module], family: Family, plan: Plan) -> dict[str, int]:
    """The modules whose integers the plan says lie on levels in pieces, by name: each with b."""
    names = {id(module): name for name, module in model.named_modules()}
    return {
        names[id(layer.get_submodule(getattr(family, role)))]: form.pieces
        for layer, left in zip(layers, plan.layers, strict=True)
        for product, form in left.formats.items()
        if form.pieces is not None
        for role in ROLES[product]
    }


def _roles(left: LayerPlan) -> list[tuple[str, int]]:
    return [(role, form.bits) for product, form in left.formats.items() for role in ROLES[product]]


def check_formats(model: Any, layers: Sequence[nn.Module], family: Family, plan: Plan) -> None:
    """Refuse a plan whose integers the model does not have, and a model whose integers the plan does not name.

    Raises:
        Refused: ``plan-mismatch``.
    """
    planned = modules_in_integers(model, layers, family, plan)
    for name, (module, bits) in planned.items():
        if scales_of(_plain(module)) is None:
            raise Refused(
                f"the plan has {name} in {bits} bits; its weights are in floating point, without {SCALES}. Use the plan that "
                "was saved with this model, or make the integers with sparsam compress --method int8.",
                code="plan-mismatch",
            )
    known = {id(_plain(module)) for module, _ in planned.values()}
    for name, module in model.named_modules():
        if scales_of(module) is not None and id(module) not in known:
            raise Refused(
                f"the weights of {name} are integers; the plan has no format for them. Use the plan that was saved with this "
                "model, or start from the one in floating point.",
                code="plan-mismatch",
            )


def _plain(module: Any) -> nn.Module:
    """The module itself where an adapter is wrapped around it."""
    inner: nn.Module = getattr(module, "base_layer", module)
    return inner


def refuse_integers(plan: Plan | None, what: str) -> None:
    """Refuse to change weights that are integers.

    Args:
        plan: the model's.
        what: is to be done, as in "cutting heads and filters".

    Raises:
        Refused: ``quantized``.
    """
    if plan is not None and plan.in_integers:
        raise Refused(
            f"the model's weights are integers; {what} would take them off their grid. Start from the model in floating "
            "point that they were made from; integers come last.",
            code="quantized",
        )
