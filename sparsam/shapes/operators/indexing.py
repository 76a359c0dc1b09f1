"""Indexing with symbols: the framework makes a plain number of an index that is one."""

from typing import Any

import torch

from sparsam.shapes.run import Run


def getitem(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`x[…]` with symbols among the indices: each such index is a `select`, the rest is left to the framework."""
    tensor, index = args
    parts = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(part, torch.SymInt) for part in parts):
        return NotImplemented
    tensor, rest = selected(tensor, parts)
    return tensor[rest] if rest else tensor


def setitem(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`x[…] = y` with symbols among the indices."""
    tensor, index, value = args
    parts = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(part, torch.SymInt) for part in parts):
        return NotImplemented
    tensor, rest = selected(tensor, parts)
    tensor[rest if rest else ...] = value
    return None


def selected(tensor: torch.Tensor, parts: tuple[Any, ...]) -> tuple[torch.Tensor, tuple[Any, ...]]:
    """The tensor with all symbolic indices selected, and the indices that are left.

    Raises:
        IndexError: If there are more indices than dimensions, as the framework does.
    """
    taken = sum(_dimensions(part) for part in parts)
    if taken > tensor.dim():
        raise IndexError(f"too many indices for tensor of dimension {tensor.dim()}")
    if not any(part is Ellipsis for part in parts):
        parts = (*parts, Ellipsis)
    dimension, rest = 0, []
    for part in parts:
        if isinstance(part, torch.SymInt):
            tensor = tensor.select(dimension, part)
            continue
        rest.append(part)
        dimension += (
            tensor.dim() - (dimension + _after(parts, part)) if part is Ellipsis else _dimensions(part)
        )
    while rest and rest[-1] is Ellipsis:
        rest.pop()
    return tensor, tuple(rest)


def _dimensions(part: Any) -> int:
    """How many dimensions of the tensor an index takes."""
    if part is None or part is Ellipsis or isinstance(part, bool):
        return 0
    if isinstance(part, torch.Tensor) and part.dtype in (torch.bool, torch.uint8):
        return part.dim()
    return 1


def _after(parts: tuple[Any, ...], ellipsis: Any) -> int:
    """Dimensions that the indices behind the ellipsis take."""
    place = next(i for i, part in enumerate(parts) if part is Ellipsis)
    return sum(_dimensions(part) for part in parts[place + 1 :])


def selects(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`aten.index_select` and `aten.embedding`: from nothing, only nothing can be taken; without data that is let pass."""
    tensor, dim, index = args[:3] if func is torch.ops.aten.index_select.default else (args[0], 0, args[1])
    if tensor.dim() and -tensor.dim() <= dim < tensor.dim():
        torch._check(
            tensor.shape[dim] > 0 or index.numel() == 0,
            lambda: "index_select(): self indexing axis dim should be positive",
        )
    return NotImplemented


RULES = {
    torch.Tensor.__getitem__: getitem,
    torch.Tensor.__setitem__: setitem,
    torch.ops.aten.index_select.default: selects,
    torch.ops.aten.embedding.default: selects,
}
