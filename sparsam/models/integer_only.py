"""A lifted text model's encoder as the integer-only arithmetic takes it: its floats by role.

What it does not take: models that read images or norm before each half, tables narrower than the layers (some ELECTRA),
relative positions (MPNet), rules that remove tokens. Pooler and head stay in floating point behind it.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsam.errors import Refused
from sparsam.models.formats import ROLES, words_of
from sparsam.models.integers import put, scales_of
from sparsam.models.lift import base_of, lift, plan_of, reads_class_token, stack_of
from sparsam.plan import VERSION, Format, IntegerOnly
from sparsam.quantization.integer_only import (
    IBert,
    IntegerEncoder,
    LayerNorm,
    LayerParts,
    Parts,
    Scales,
    Weights,
    grid_of,
    integers,
    rounded_rows,
)

MIDDLE = 128
"""Zero point of an affine grid from 0 to 255 that a symmetric one is, but for its end at -128."""

POLYNOMIAL = ("GELUActivation", "GELU")
"""Activations that the paper's polynomial stands for, by their class; GELU with another approximation is none."""


def parts_of(model: Any) -> Parts:
    """The encoder's floats; parameters, not copies, so that gradients reach them.

    Raises:
        Refused: ``integer-only`` for a model that the arithmetic does not know.
    """
    why = why_not_integers(model)
    if why is not None:
        raise Refused(
            f"a {type(model).__name__} does not run in integers alone: {why}. Take sparsam compress --method int8.",
            code="integer-only",
        )
    tables = base_of(model).embeddings
    kinds = getattr(tables, "token_type_embeddings", None)
    return Parts(
        _weights(tables.word_embeddings),
        _weights(tables.position_embeddings),
        None if kinds is None else _weights(kinds),
        _norm(tables.LayerNorm),
        tuple(_layer(block) for block in stack_of(model).blocks),
    )


def why_not_integers(model: Any) -> str | None:
    """Why a lifted model's encoder cannot run in integers alone; None where it can."""
    stack, plan, base = stack_of(model), plan_of(model), base_of(model)
    if stack.family.pre_norm or not hasattr(getattr(base, "embeddings", None), "word_embeddings"):
        return "it reads no words, or norms before each half"
    if stack.family.relative_bias:
        return "its positions are relative"
    if plan is not None and plan.tokens is not None:
        return "its rule removes tokens by scores in floating point"
    if getattr(base, "embeddings_project", None) is not None:
        return "its tables of embeddings are narrower than its layers"
    return None


def encoder_of(model: Any) -> IntegerEncoder:
    """The integers of a model whose plan says that it runs in them alone.

    Raises:
        Refused: ``digest`` where its floats no longer make the integers that were saved.
    """
    plan = plan_of(model)
    assert plan is not None and plan.integer_only is not None
    named = plan.integer_only
    method = IBert(named.activation, named.probabilities, named.residual)
    made = integers(parts_of(model), named.scales, method)
    if made.digest() != named.digest:
        raise Refused(
            "the model's weights make other integers than those its plan names: they were trained, merged or cast. Load the "
            "model again, or make the integers anew.",
            code="digest",
        )
    return made


def put_integers(model: Any, scales: Scales, method: IBert) -> IntegerEncoder:
    """Round a lifted model's weights to the integers that it will run in, in place, with the plan that says so."""
    parts_of(model)
    layers = []
    for index, block in enumerate(stack_of(model).blocks):
        formats: dict[Any, Format] = {}
        for product, roles in ROLES.items():
            modules = [block.part(role) for role in roles]
            if all(module.weight.numel() for module in modules):
                for module in modules:
                    _put(module)
                formats[product] = Format(8, "tensor", scales[input_point(index, product)], MIDDLE)
        layers.append(replace(block.left, formats=formats))
    words: Any = words_of(model)
    _put(words)
    made = integers(parts_of(model), scales, method)
    named = IntegerOnly(
        dict(scales),
        made.digest(),
        method.activation,  # type: ignore[arg-type]
        method.probabilities,  # type: ignore[arg-type]
        method.residual,  # type: ignore[arg-type]
    )
    plan = plan_of(model)
    assert plan is not None
    lift(model, replace(plan, layers=tuple(layers), embeddings=8, integer_only=named, version=VERSION))
    return made


def input_point(layer: int, product: str) -> str:
    """The point that a product reads."""
    if product == "qkv":
        return "embeddings.out" if layer == 0 else f"{layer - 1}.ffn.out"
    return f"{layer}." + {"o": "context", "up": "attention.out", "down": "active"}[product]


def _put(module: Any) -> None:
    scale = grid_of(_weights(module))
    put(module, rounded_rows(module.weight, scale).to(torch.int8), scale)


def answers_alone(model: Any) -> bool:
    """Whether nothing but each sequence's first token is read of the last layer."""
    return reads_class_token(model)


def left_in_floats(model: Any) -> tuple[str, ...]:
    """What stays in floating point behind (or beside) the encoder: the names of modules with weights."""
    base = base_of(model)
    prefix = next((name for name, module in model.named_modules() if module is base), "")
    inside = tuple(
        f"{prefix}.{part}" if prefix else part for part in ("embeddings", stack_of(model).family.container)
    )
    return tuple(
        name
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
        and not any(name == part or name.startswith(f"{part}.") for part in inside)
    )


def _weights(module: Any) -> Weights:
    return Weights(module.weight, getattr(module, "bias", None), scales_of(module))


def _norm(module: Any) -> LayerNorm:
    return LayerNorm(module.weight, module.bias, float(module.eps))


def _layer(block: Any) -> LayerParts:
    act: Any = block.part("act")
    erf = type(act).__name__ in POLYNOMIAL and getattr(act, "approximate", "none") == "none"
    return LayerParts(
        q=_weights(block.part("q")),
        k=_weights(block.part("k")),
        v=_weights(block.part("v")),
        o=_weights(block.part("o")),
        up=_weights(block.part("up")),
        down=_weights(block.part("down")),
        attention_norm=_norm(block.part("attention_norm")),
        ffn_norm=_norm(block.part("ffn_norm")),
        head_width=int(block.part("head_width")),
        activation=F.gelu if erf else _applied(act),
        gelu=erf or act is F.gelu,
    )


def _applied(act: nn.Module) -> Any:
    """An activation as a function of tensors of any float dtype."""

    def apply(x: Tensor) -> Tensor:
        found: Tensor = act(x)
        return found.to(x.dtype) if found.dtype != torch.float64 else found

    return apply
