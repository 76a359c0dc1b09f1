"""`cat` and `stack` of lists that a loop filled with an unknown number of equal items, and parts whose number is a symbol."""

from typing import Any

import torch

from sparsam.shapes.environment import symbolic
from sparsam.shapes.run import Run
from sparsam.shapes.series import Repeated, Segment, Series


def cat(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.cat`: equal items count as many times as they are there."""
    tensors, dim = _list_and_dim(args, kwargs)
    if tensors is None:
        return NotImplemented
    plain = [item.item if isinstance(item, Repeated) else item for item in tensors]
    joined = torch.cat(plain, dim)
    dim = dim % joined.dim()
    sizes = list(joined.shape)
    for item in tensors:
        if isinstance(item, Repeated):
            sizes[dim] = sizes[dim] + item.item.shape[dim] * (item.count - 1)
    return _like(joined, sizes)


def stack(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.stack`."""
    tensors, dim = _list_and_dim(args, kwargs)
    if tensors is None:
        return NotImplemented
    plain = [item.item if isinstance(item, Repeated) else item for item in tensors]
    joined = torch.stack(plain, dim)
    sizes = list(joined.shape)
    count: Any = 0
    for item in tensors:
        count = count + (item.count if isinstance(item, Repeated) else 1)
    sizes[dim % joined.dim()] = count
    return _like(joined, sizes)


def _like(tensor: torch.Tensor, sizes: list[Any]) -> torch.Tensor:
    made = tensor.new_empty(sizes)
    return made.requires_grad_() * 1 if tensor.requires_grad else made


def _list_and_dim(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, int]:
    tensors = args[0] if args else kwargs.get("tensors")
    dim = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
    if not isinstance(tensors, (list, tuple)) or not any(isinstance(item, Repeated) for item in tensors):
        return None, 0
    return tensors, dim


def split(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`x.split(size)` into a number of parts that is a symbol: a series of equal parts and at most one rest."""
    tensor, size, *others = args
    dim = others[0] if others else kwargs.get("dim", 0)
    if isinstance(size, (list, tuple)) or not tensor.dim() or not -tensor.dim() <= dim < tensor.dim():
        return NotImplemented
    total = tensor.shape[dim]
    if not symbolic(total) and not symbolic(size):
        return NotImplemented
    if size <= 0 or total == 0:
        return NotImplemented
    return Parts(tensor, size, dim)


def unbind(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`x.unbind(dim)` over a size that is a symbol."""
    tensor, *others = args
    dim = others[0] if others else kwargs.get("dim", 0)
    if not tensor.dim() or not -tensor.dim() <= dim < tensor.dim() or not symbolic(tensor.shape[dim]):
        return NotImplemented
    return Series(lambda: [Segment(tensor.shape[dim], lambda index: tensor.select(dim, index))], "unbind")


class Parts(Series):
    """Parts of a tensor along a dimension.

    Args:
        tensor: The whole.
        size: Of each part but the last.
        dim: Along which.
    """

    def __init__(self, tensor: torch.Tensor, size: Any, dim: int) -> None:
        def segments() -> list[Segment]:
            total = tensor.shape[dim]
            made = [Segment(total // size, lambda index: tensor.narrow(dim, index * size, size))]
            rest = total % size
            if rest > 0:
                made.append(Segment(1, lambda index: tensor.narrow(dim, total - rest, rest)))
            return made

        super().__init__(segments, "split")


RULES = {
    torch.cat: cat,
    torch.concat: cat,
    torch.concatenate: cat,
    torch.stack: stack,
    torch.split: split,
    torch.Tensor.split: split,
    torch.unbind: unbind,
    torch.Tensor.unbind: unbind,
}
