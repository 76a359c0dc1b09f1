"""Pooling with a window that is a symbol, as over all of a picture, which the framework wants as plain numbers."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from sparsam.shapes.mode import has_symbols
from sparsam.shapes.run import Run

TRIAL = (
    8  # size of the picture, and 2 of the window, with which the framework refuses what is no matter of sizes
)


def pool(dimensions: int, *names: str) -> Callable[..., Any]:
    """A rule for a pooling over so many last dimensions, whose arguments behind the picture have these names."""
    parameters = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
        for name, default in (
            ("input", None),
            ("kernel_size", None),
            *((name, DEFAULTS[name]) for name in names),
        )
    ]
    signature = inspect.Signature(parameters)

    def rule(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not has_symbols((args[1:], {**kwargs, "input": None})):
            return NotImplemented
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        of = given.arguments
        picture, kernel = of["input"], _each(of["kernel_size"], dimensions)
        stride = _each(of["stride"], dimensions) or kernel
        padding, dilation = _each(of["padding"], dimensions), _each(of.get("dilation", 1), dimensions)
        if picture.dim() not in (dimensions + 1, dimensions + 2):
            return NotImplemented
        outside = picture.dim() - dimensions
        trial = picture.new_empty([2] * outside + [TRIAL] * dimensions)
        plain = {"kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1}
        made = func(
            trial, **{**{name: of[name] for name in names}, **{k: v for k, v in plain.items() if k in of}}
        )
        torch._check(
            all(bool(size > 0) for size in picture.shape[1 if outside == 2 else 0 :]),
            lambda: f"Expected a tensor with non-empty sizes, but got {tuple(picture.shape)}",
        )
        spatial = zip(picture.shape[outside:], kernel, stride, padding, dilation, strict=True)
        sizes = [*picture.shape[:outside], *(_windows(*one, ceil=of["ceil_mode"]) for one in spatial)]
        several = made if isinstance(made, tuple) else (made,)
        found = tuple(_like(one, sizes, picture) for one in several)
        return found if isinstance(made, tuple) else found[0]

    return rule


DEFAULTS: dict[str, Any] = {
    "stride": None,
    "padding": 0,
    "dilation": 1,
    "ceil_mode": False,
    "return_indices": False,
    "count_include_pad": True,
    "divisor_override": None,
}


def _each(value: Any, dimensions: int) -> list[Any]:
    """One number for each dimension; none where nothing is given."""
    if value is None:
        return []
    found = list(value) if isinstance(value, (list, tuple)) else [value]
    return found * dimensions if len(found) == 1 else found


def _windows(size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, *, ceil: bool) -> Any:
    """How many windows there are along a dimension."""
    torch._check(kernel > 0, lambda: f"kernel size should be greater than zero, but got {kernel}")
    torch._check(stride > 0, lambda: f"stride should be greater than zero, but got {stride}")
    torch._check(dilation > 0, lambda: f"dilation should be greater than zero, but got {dilation}")
    torch._check(padding >= 0, lambda: f"pad must be non-negative, but got pad: {padding}")
    torch._check(
        padding <= ((kernel - 1) * dilation + 1) // 2,
        lambda: (
            f"pad should be at most half of effective kernel size, but got pad={padding}, kernel_size={kernel}"
        ),
    )
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (room + (stride - 1 if ceil else 0)) // stride + 1
    if ceil and (count - 1) * stride >= size + padding:
        count = count - 1
    torch._check(count >= 1, lambda: f"Output size is too small: a window of {kernel} in a size of {size}")
    return count


def _like(tensor: torch.Tensor, sizes: list[Any], picture: torch.Tensor) -> torch.Tensor:
    made = tensor.new_empty(sizes)
    return made.requires_grad_() * 1 if picture.requires_grad and made.is_floating_point() else made


AVERAGE = ("stride", "padding", "ceil_mode", "count_include_pad")
LARGEST = ("stride", "padding", "dilation", "ceil_mode")

RULES = {
    torch.avg_pool1d: pool(1, *AVERAGE),
    torch._C._nn.avg_pool2d: pool(2, *AVERAGE, "divisor_override"),
    torch._C._nn.avg_pool3d: pool(3, *AVERAGE, "divisor_override"),
    F.max_pool1d_with_indices: pool(1, *LARGEST, "return_indices"),
    F.max_pool2d_with_indices: pool(2, *LARGEST, "return_indices"),
    F.max_pool3d_with_indices: pool(3, *LARGEST, "return_indices"),
    F.max_pool1d: pool(1, *LARGEST, "return_indices"),
    F.max_pool2d: pool(2, *LARGEST, "return_indices"),
    F.max_pool3d: pool(3, *LARGEST, "return_indices"),
    torch.max_pool1d: pool(1, *LARGEST),
    torch.max_pool2d: pool(2, *LARGEST),
    torch.max_pool3d: pool(3, *LARGEST),
}
