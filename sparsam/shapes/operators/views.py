"""Tensors whose items lie one behind the other: the framework's rules ask for each size whether it is 0 or 1.

The real kernel of `view` takes every shape of as many items, which is all that is asked here; and an empty tensor with the
strides that it would have anyway is an empty tensor. A tensor may be expanded along what it has not, or has once.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import sympy
import torch
from torch._prims_common import infer_size, make_contiguous_strides_for

from sparsam.shapes.broadcasting import is_one, same_size
from sparsam.shapes.layouts import laid_out, layout_of
from sparsam.shapes.mode import has_symbols
from sparsam.shapes.run import Run
from sparsam.shapes.spans import span_of

aten = torch.ops.aten


def view(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The shape is completed and compared as ever; what follows from it is not asked again."""
    tensor, shape = args
    if not has_symbols((tensor, shape)) or tensor.layout is not torch.strided or layout_of(tensor):
        return NotImplemented
    sizes = infer_size(shape, tensor.numel())
    with run.shapes.unrecorded():
        return tensor.as_strided(sizes, make_contiguous_strides_for(sizes))


def expand(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`expand` where each dimension certainly is as it was, or new, or was 1."""
    tensor, sizes = args[:2]
    new = len(sizes) - tensor.dim()
    if new < 0 or any(_is_given(size, -1) for size in sizes[:new]):
        return NotImplemented
    shape = [
        before if _is_given(size, -1) else size
        for size, before in zip(sizes[new:], tensor.shape, strict=True)
    ]
    return _placed(tensor, [*sizes[:new], *shape], range(new, len(sizes)))


def unsqueeze(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`unsqueeze`."""
    tensor, dim = args
    if not -tensor.dim() - 1 <= dim <= tensor.dim():
        return NotImplemented
    at = dim % (tensor.dim() + 1)
    shape = [*tensor.shape[:at], 1, *tensor.shape[at:]]
    return _placed(tensor, shape, [axis for axis in range(len(shape)) if axis != at])


def broadcast_in_dim(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the framework makes of `expand`, `unsqueeze` and of dimensions that a reduction keeps."""
    return _placed(*args)


def _placed(tensor: torch.Tensor, shape: Sequence[Any], places: Sequence[int]) -> Any:
    """The tensor within a larger shape: its dimensions at their places, the others new."""
    if not has_symbols((tensor, shape)) or tensor.layout is not torch.strided:
        return NotImplemented
    strides: list[Any] = []
    for axis, size in enumerate(shape):
        if axis not in places:
            after = len([place for place in places if place < axis])
            inner = 1 if after == tensor.dim() else tensor.stride()[after] * tensor.shape[after]
            strides.append(inner if is_one(size) else 0)
            continue
        before, stride = (numbers[list(places).index(axis)] for numbers in (tensor.shape, tensor.stride()))
        if not same_size(size, before) and not is_one(before):
            return NotImplemented
        strides.append(stride if same_size(size, before) else 0)
    for size in shape:
        torch._check(size >= 0, lambda size=size: f"the size of a tensor cannot be {size}")
    return tensor.as_strided(shape, strides)


def _is_given(size: Any, number: int) -> bool:
    return type(size) is int and size == number


def contiguous(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`contiguous()`: the tensor itself where its items lie in order for all sizes, else a copy, which lies as it does.

    Where they do for some sizes, torch gives the tensor itself for these: the same but for who may write to it.
    """
    tensor, *other = args
    if other or kwargs or not has_symbols(tensor) or tensor.layout is not torch.strided:
        return NotImplemented
    if not layout_of(tensor):
        return tensor
    if tensor.requires_grad and (tensor._base is not None and tensor._base.is_leaf):
        return NotImplemented
    with run.shapes.unrecorded():
        return tensor.clone(memory_format=torch.contiguous_format)


def in_a_row(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`reshape(-1)` and `flatten()`: a view where items can be counted in steps of one width for all sizes, else a copy.

    Torch asks whether the sizes leave a view after all. That is not asked where the copy would have the same strides.
    """
    tensor = args[0] if args else None
    if not isinstance(tensor, torch.Tensor) or tensor.dim() < 2 or kwargs or tensor.requires_grad:
        return NotImplemented
    shape = args[1] if len(args) == 2 and isinstance(args[1], (list, tuple)) else args[1:]
    if tuple(shape) != (() if "flatten" in func.__name__ else (-1,)):
        return NotImplemented
    if not has_symbols(tensor) or tensor.layout is not torch.strided:
        return NotImplemented
    if tensor.dtype is not torch.bool and span_of(tensor) is not None:
        return NotImplemented
    dims = [
        (size, stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if not is_one(size)
    ]
    width = _width(dims)
    if width is not None:
        with run.shapes.unrecorded():
            return tensor.as_strided((tensor.numel(),), (width,))
    unknown: list[Any] = [size for size, _ in dims if isinstance(size, torch.SymInt)]
    if len(unknown) != 1:
        return NotImplemented
    rest = _without(dims, unknown[0])
    if rest is None or _width(rest) not in (None, 1):
        return NotImplemented
    with run.shapes.unrecorded():
        return tensor.clone(memory_format=torch.contiguous_format).view(-1)


def _width(dims: Sequence[tuple[Any, Any]]) -> Any:
    """The step between items, where it is the same between all; None where it is not, or not for all sizes."""
    for (_, outer), (size, inner) in itertools.pairwise(dims):
        if not same_size(outer, size * inner):
            return None
    return dims[-1][1] if dims else 1


def _without(dims: Sequence[tuple[Any, Any]], single: torch.SymInt) -> list[tuple[int, int]] | None:
    """What is left of dimensions where this one has a single item; None if that is not told in plain numbers."""
    one = {single.node.expr: sympy.S.One}
    left = []
    for size, stride in dims:
        if size is single:
            continue
        plain = stride.node.expr.xreplace(one) if has_symbols(stride) else sympy.Integer(stride)
        if not plain.is_Integer:
            return None
        left.append((size, int(plain)))
    return left


def empty(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`empty_strided` and `new_empty_strided`."""
    *like, sizes, strides = args
    if len(args) != len(func._schema.arguments) - _options(func) or not has_symbols((sizes, strides)):
        return NotImplemented
    if laid_out(sizes, strides):
        return NotImplemented
    return like[0].new_empty(sizes, **kwargs) if like else torch.empty(sizes, **kwargs)


def permuted(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`empty_permuted` of dimensions in order."""
    sizes, order = args
    if not has_symbols((sizes,)) or list(order) != list(range(len(sizes))):
        return NotImplemented
    return torch.empty(sizes, **kwargs)


def _options(func: Any) -> int:
    return sum(argument.kwarg_only for argument in func._schema.arguments)


RULES = {
    torch.Tensor.contiguous: contiguous,
    torch.reshape: in_a_row,
    torch.Tensor.reshape: in_a_row,
    torch.flatten: in_a_row,
    torch.Tensor.flatten: in_a_row,
    aten.view.default: view,
    aten._unsafe_view.default: view,
    aten.expand.default: expand,
    aten.unsqueeze.default: unsqueeze,
    torch.ops.prims.broadcast_in_dim.default: broadcast_in_dim,
    aten.empty_permuted.default: permuted,
    aten.empty_strided.default: empty,
    aten.new_empty_strided.default: empty,
}
