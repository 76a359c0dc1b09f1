"""Masks whose number of ones is no matter of data: the diagonal, and all but the diagonal.

What they pick out has a known size, which the framework would take for one that depends on data.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from sparsam.shapes.run import Run

ONES = "sparsam_ones"  # attribute of a tensor of zeros and ones: how many ones, and the version for which that holds


def ones(tensor: Any) -> Any:
    """How many ones a tensor of zeros and ones has; None where that is up to data, or was changed since."""
    known = getattr(tensor, ONES, None) if isinstance(tensor, torch.Tensor) else None
    return known[0] if known is not None and known[1] == tensor._version else None


def with_ones(tensor: torch.Tensor, count: Any) -> torch.Tensor:
    """The tensor, of which is known how many ones it has among zeros."""
    if isinstance(tensor, FakeTensor):
        tensor.nonzero_memo = count
        setattr(tensor, ONES, (count, tensor._version))
    return tensor


def eye(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.eye(n)`: n ones."""
    made = func(*args, **kwargs)
    square = len(args) < 2 and kwargs.get("m") is None
    return with_ones(made, made.shape[0]) if square and kwargs.get("out") is None else made


def same(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Another type of number, or a copy."""
    count = ones(args[0])
    return NotImplemented if count is None else with_ones(func(*args, **kwargs), count)


def other(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Ones for zeros: `~` of yes and no, `logical_not`."""
    tensor = args[0]
    count = ones(tensor)
    logical = getattr(func, "__name__", "") == "logical_not"
    if count is None or not (logical or tensor.dtype is torch.bool) or kwargs:
        return NotImplemented
    return with_ones(func(*args), tensor.numel() - count)


def from_one(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`1 - x`."""
    tensor, number = args[:2]
    count = ones(tensor)
    if count is None or kwargs or type(number) not in (int, float) or number != 1:
        return NotImplemented
    return with_ones(func(*args), tensor.numel() - count)


def masked_select(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`x.masked_select(mask)`: `x[mask]`, where the sizes of both are the same."""
    tensor, mask = (*args, kwargs.get("mask"))[:2]
    if ones(mask) is None or "out" in kwargs or tensor.dim() != mask.dim() or mask.dtype is not torch.bool:
        return NotImplemented
    if not all(bool(one == another) for one, another in zip(tensor.shape, mask.shape, strict=True)):
        return NotImplemented
    return tensor[mask]


COPIES = (
    "bool",
    "float",
    "double",
    "half",
    "long",
    "int",
    "to",
    "type",
    "type_as",
    "clone",
    "contiguous",
    "cpu",
)

RULES: dict[Any, Callable[..., Any]] = {
    torch.eye: eye,
    **{getattr(torch.Tensor, name): same for name in COPIES},
    torch.Tensor.__invert__: other,
    torch.Tensor.bitwise_not: other,
    torch.Tensor.logical_not: other,
    torch.bitwise_not: other,
    torch.logical_not: other,
    torch.Tensor.__rsub__: from_one,
    torch.rsub: from_one,
    torch.Tensor.masked_select: masked_select,
    torch.masked_select: masked_select,
}
