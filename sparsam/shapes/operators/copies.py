"""Copies of views (`diagonal_copy`, also behind `diag`): the view, and then its copy; and copies of whole tensors."""

from collections.abc import Callable
from typing import Any

import torch

from sparsam.shapes.mode import has_symbols
from sparsam.shapes.run import Run

aten = torch.ops.aten
VIEWS = (
    "diagonal",
    "permute",
    "expand",
    "transpose",
    "t",
    "select",
    "narrow",
    "slice",
    "unsqueeze",
    "squeeze",
    "alias",
)


def _copy(view: Any) -> Callable[..., Any]:
    def rule(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not has_symbols((args, kwargs)):
            return NotImplemented
        return view(*args, **kwargs).clone()

    return rule


def _rules() -> dict[Any, Callable[..., Any]]:
    found = {}
    for name in VIEWS:
        copy, view = getattr(aten, f"{name}_copy", None), getattr(aten, name)
        for overload in copy.overloads() if copy is not None else ():
            if overload in view.overloads():
                found[getattr(copy, overload)] = _copy(getattr(view, overload))
    return found


def dropout(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`F.dropout` in training: a new tensor of the same sizes, also where these are 0 and torch gives the tensor itself."""
    names = ("input", "p", "training", "inplace")
    given = {"p": 0.5, "training": True, "inplace": False, **dict(zip(names, args, strict=False)), **kwargs}
    tensor, share = given.get("input"), given["p"]
    plain = (
        type(share) in (int, float) and 0 < share <= 1 and given["training"] is True and not given["inplace"]
    )
    if (
        not plain
        or not isinstance(tensor, torch.Tensor)
        or not tensor.is_floating_point()
        or not has_symbols(tensor)
    ):
        return NotImplemented
    return tensor * 0.5


def split_with_sizes(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`split` into parts of given sizes: their sum is compared, and each part is a view."""
    tensor, sizes = args[:2]
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    if not has_symbols((tensor, sizes)) or not -tensor.dim() <= dim < tensor.dim():
        return NotImplemented
    total = tensor.shape[dim]
    torch._check(
        sum(sizes) == total,
        lambda: (
            f"split_with_sizes expects split_sizes to sum exactly to {total}, but got split_sizes={list(sizes)}"
        ),
    )
    for size in sizes:
        torch._check(
            size >= 0, lambda: f"split_with_sizes expects split_sizes to be not negative, got {list(sizes)}"
        )
    return NotImplemented


def deepcopy(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`copy.deepcopy`, which asks for the number of bytes."""
    tensor, memory = args
    if not has_symbols(tensor) or not tensor.is_leaf or id(tensor) in memory:
        return NotImplemented
    made = tensor.detach().clone().requires_grad_(tensor.requires_grad)
    memory[id(tensor)] = made
    return made


RULES = {
    **_rules(),
    aten.split_with_sizes.default: split_with_sizes,
    torch.nn.functional.dropout: dropout,
    torch.Tensor.__deepcopy__: deepcopy,
}
