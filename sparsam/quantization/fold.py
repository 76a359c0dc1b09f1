"""BatchNorm folded into the product in front of it: in evaluation both are one affine map. For quantization.

    y = gamma (W x + b - mean) / sqrt(var + eps) + beta
    W' = W gamma / sqrt(var + eps)              b' = (b - mean) gamma / sqrt(var + eps) + beta

A pair is folded where it is certain that the norm reads all that the product gives, and nobody else does: torch.fx sees it
in the traced graph. Source of the formula: B. Jacob et al., CVPR 2018, arXiv:1712.05877, section 3.2.
Tests: ``tests/quantization/test_fold.py``.
"""

import copy
from collections import Counter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from sparsam.errors import Refused

Folded = tuple[Float[Tensor, "*weight"], Float[Tensor, " o"]]

PRODUCTS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
AXES = {
    nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3, nn.ConvTranspose1d: 1, nn.ConvTranspose2d: 2, nn.ConvTranspose3d: 3
}  # fmt: skip


def factors(norm: Any) -> tuple[Float[Tensor, " o"], Float[Tensor, " o"]]:
    """What a norm multiplies by and adds, in evaluation, in float64.

    Raises:
        Refused: ``fold`` for one that has no running statistics or whose statistics are not finite.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise Refused(
            "this BatchNorm keeps no running statistics, so it works out those of each batch and is no affine map. Train it "
            "with track_running_stats=True.",
            code="fold",
        )
    mean, var = norm.running_mean.double(), norm.running_var.double()
    if not bool((mean.isfinite() & var.isfinite() & (var >= 0)).all()):
        raise Refused(
            "this BatchNorm's running statistics hold NaN, infinity or a negative variance. Look at how it was trained.",
            code="fold",
        )
    scale = torch.rsqrt(var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


def folded(product: Any, norm: Any) -> Folded:
    """Weight and bias of a product that gives what it and the norm behind it give in evaluation, in the weight's dtype.

    Raises:
        Refused: ``fold``: by name, for modules that are no product and norm, in training, of other widths or dimensions.
    """
    if not isinstance(product, PRODUCTS):
        raise Refused(
            f"a norm is folded into a linear layer or a convolution; got {type(product).__name__}. Leave the norm where it is.",
            code="fold",
        )
    if not isinstance(norm, NORMS):
        raise Refused(
            f"only BatchNorm is an affine map in evaluation; got {type(norm).__name__}, which depends on its input. Leave it.",
            code="fold",
        )
    if norm.training or product.training:
        raise Refused(
            "in training a norm works out the statistics of each batch. Call model.eval() first.", code="fold"
        )
    outputs = product.out_features if isinstance(product, nn.Linear) else product.out_channels
    if norm.num_features != outputs:
        raise Refused(
            f"the norm has {norm.num_features} channels, the {type(product).__name__} in front of it {outputs} outputs. Fold "
            "the norm that reads it.",
            code="fold",
        )
    scale, shift = factors(norm)
    weight = product.weight.detach()
    if isinstance(product, TRANSPOSED):  # (i, o / groups, ...)
        groups = product.groups
        by_group = scale.view(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1).flatten(0, 1)
        tall = by_group.view(*by_group.shape, *[1] * (weight.ndim - 2))
    else:
        tall = scale.view(-1, *[1] * (weight.ndim - 1))
    moved = weight.double() * tall
    bias = shift if product.bias is None else product.bias.detach().double() * scale + shift
    if not bool(moved.isfinite().all()):
        raise Refused("the folded weight holds NaN or infinity. Look for NaN in the weights.", code="fold")
    return moved.to(weight.dtype), bias.to(weight.dtype)


def fold_batch_norm(model: nn.Module, example: Tensor | None = None) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of a network in evaluation without the BatchNorms behind products, and their names; the function is the same.

    The graph is traced symbolically (torch.fx): a norm is folded where it alone reads a product's output, both are used once,
    and the product's parameters belong to nobody else. The others stay, and work as before.

    Args:
        model: in evaluation.
        example: an input. Norms behind linear layers are folded only where it shows that they read rows: of (b, n, c) their
            channels would be n.

    Raises:
        Refused: ``fold`` for a model in training, or one whose forward pass cannot be traced; then fold pair by pair
            (:func:`folded`).
    """
    if model.training:
        raise Refused(
            "in training a norm works out the statistics of each batch. Call model.eval() first.", code="fold"
        )
    own = copy.deepcopy(model)
    try:
        graph = fx.Tracer().trace(own)
    except Exception as error:
        raise Refused(
            f"the forward pass of {type(model).__name__} cannot be traced ({type(error).__name__}: {str(error)[:80]}). Fold "
            "its products and norms pair by pair, with folded().",
            code="fold",
        ) from error
    names: dict[int, list[str]] = {}
    for name, module in own.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    calls = [node for node in graph.nodes if node.op == "call_module"]
    used = Counter(id(own.get_submodule(str(node.target))) for node in calls)
    owners = Counter(id(p) for module in own.modules() for p in module._parameters.values() if p is not None)
    read = tuple(str(node.target) for node in graph.nodes if node.op == "get_attr")
    rows = _of_rows(own, example)
    done = []
    for node in calls:
        norm = own.get_submodule(str(node.target))
        source = node.args[0] if node.args else None
        if not isinstance(norm, NORMS) or not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        product: Any = own.get_submodule(str(source.target))
        both = (product, norm)
        if (
            _fits(product, norm, id(norm) in rows)
            and len(source.users) == 1
            and all(
                used[id(one)] == 1 and not one._forward_hooks and not one._forward_pre_hooks for one in both
            )
            and all(p is None or owners[id(p)] == 1 for p in product._parameters.values())
            and not any(path.startswith(f"{name}.") for path in read for name in names[id(product)])
        ):
            weight, bias = folded(product, norm)
            product.weight = nn.Parameter(weight, requires_grad=product.weight.requires_grad)
            product.bias = nn.Parameter(bias, requires_grad=product.weight.requires_grad)
            for name in names[id(norm)]:
                parent, _, last = name.rpartition(".")
                setattr(own.get_submodule(parent), last, nn.Identity())
            done.append(names[id(norm)][0])
    return own, tuple(done)


def _fits(product: Any, norm: Any, rows: bool) -> bool:
    """Whether the norm's channels are the product's outputs: of a convolution those of as many dimensions."""
    if norm.running_mean is None or "weight" not in product._parameters:
        return False
    if isinstance(product, nn.Linear):
        return rows and norm.num_features == product.out_features
    axes = AXES.get(type(product))
    return (
        axes is not None and isinstance(norm, NORMS[axes - 1]) and norm.num_features == product.out_channels
    )


@torch.no_grad()
def _of_rows(model: nn.Module, example: Tensor | None) -> set[int]:
    """The norms that read (b, c), by id."""
    found: set[int] = set()
    if example is None:
        return found
    handles = [
        module.register_forward_pre_hook(
            lambda norm, inputs: found.add(id(norm)) if inputs[0].ndim == 2 else None
        )
        for module in model.modules()
        if isinstance(module, nn.BatchNorm1d)
    ]
    try:
        model(example)
    finally:
        for handle in handles:
            handle.remove()
    return found
