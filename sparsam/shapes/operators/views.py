"""Tensors whose items lie one behind the other: the framework's rules ask for each size whether it is 0 or 1.

The real kernel of `view` takes every shape of as many items, which is all that is asked here; and an empty tensor with the
strides that it would have anyway is an empty tensor. A tensor may be expanded along what it has not, or has once.
"""

import itertools
import math
from collections.abc import Collection, Sequence
from typing import Any

import sympy
import torch
from torch._prims_common import infer_size, make_contiguous_strides_for

from sparsam.shapes.broadcasting import is_one, same_size
from sparsam.shapes.layouts import counted, expression, laid_out, layout_of
from sparsam.shapes.mode import has_symbols
from sparsam.shapes.run import Run
from sparsam.shapes.spans import span_of

aten = torch.ops.aten


def view(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The shape is completed and compared as ever; what follows from it is not asked again.

    Torch's own rule takes a dimension of one item between two others for a bridge, and gives views that there are none of.
    """
    tensor, shape = args
    if not has_symbols((tensor, shape)) or tensor.layout is not torch.strided:
        return NotImplemented
    sizes = infer_size(shape, tensor.numel())
    if not layout_of(tensor):
        with run.shapes.unrecorded():
            return _known(tensor.as_strided(sizes, make_contiguous_strides_for(sizes)))
    strides = _strides_of_view(tensor, sizes) if tensor.dim() <= DIMS else None
    if strides is None:
        return _without_singles(run, func, tensor, shape)
    torch._check(bool(strides), lambda: SPANS)
    with run.shapes.unrecorded():
        return _known(tensor.as_strided(sizes, [_number(run, stride) for stride in strides]))


def _known(made: torch.Tensor) -> torch.Tensor:
    """Where a tensor's items lie one behind the other for all sizes, the framework's core asks that now, and never again."""
    if not layout_of(made):
        torch._C.TensorBase.is_contiguous(made)
    return made


def _strides_of_view(tensor: torch.Tensor, sizes: Sequence[Any]) -> list[sympy.Basic] | None:
    """As `_viewed` has them; where there is no view it is asked which sizes are 1, which may leave one after all."""
    lies = zip(tensor.shape, tensor.stride(), strict=True)
    have = [(expression(size), counted(expression(stride))) for size, stride in lies]
    wanted = list(map(expression, sizes))
    strides = _viewed(have, wanted)
    if strides is None or strides:
        return strides
    unknown = {size for size, _ in have if not size.is_Integer}
    if not all(map(_is_atom, unknown)) or not _made_of(wanted, unknown) or tensor.numel() == 0:
        return None
    single = {expression(size): sympy.S.One for size in tensor.shape if not is_one(size) and size == 1}
    have = [(size.xreplace(single), stride.xreplace(single)) for size, stride in have]
    return _viewed(have, [size.xreplace(single) for size in wanted]) if single else []


def _without_singles(run: Run, func: Any, tensor: torch.Tensor, shape: Any) -> Any:
    """The framework's own answer, but for a tensor without its dimensions of one item: these lead it astray."""
    kept = [(n, step) for n, step in zip(tensor.shape, tensor.stride(), strict=True) if not is_one(n)]
    if len(kept) == tensor.dim():
        return NotImplemented
    with run.shapes.unrecorded():
        tensor = tensor.as_strided([size for size, _ in kept], [stride for _, stride in kept])
    return func(tensor, shape)


SPANS = (
    "view size is not compatible with input tensor's size and stride (at least one dimension spans across two contiguous "
    "subspaces). Use .reshape(...) instead."
)
"""What eager torch says."""


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


def reshape(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`reshape`: a view where there is one for all sizes, and where there is none for any a copy.

    Torch asks of the sizes whether they leave a view after all: of 1, or of 0. Where a view would then have the strides of
    the copy, that is not asked.
    """
    tensor = args[0] if args else None
    if not isinstance(tensor, torch.Tensor) or kwargs or tensor.layout is not torch.strided:
        return NotImplemented
    shape: Any = args[1] if len(args) == 2 and isinstance(args[1], (list, tuple)) else args[1:]
    if not shape or not has_symbols((tensor, shape)) or any(isinstance(size, torch.Tensor) for size in shape):
        return NotImplemented
    if not layout_of(tensor):
        return tensor.view(shape)
    if tensor.dim() > DIMS:
        return NotImplemented
    if tensor.dtype is not torch.bool and span_of(tensor) is not None:
        return NotImplemented
    if tensor.requires_grad and tensor._base is not None and tensor._base.is_leaf:
        return NotImplemented
    sizes = list(map(expression, infer_size(shape, tensor.numel())))
    lies = zip(tensor.shape, tensor.stride(), strict=True)
    have = [(expression(size), counted(expression(stride))) for size, stride in lies]
    strides = _viewed(have, sizes)
    if strides is None:
        return NotImplemented
    unknown = [size for size, _ in have if not size.is_Integer]
    if not strides and not (all(map(_is_atom, unknown)) and _made_of(sizes, unknown)):
        return NotImplemented
    for count in range(1, len(unknown) + 1) if not strides else ():
        for some in itertools.combinations(unknown, count):
            single = dict.fromkeys(some, sympy.S.One)
            seen = _viewed(
                [(a.xreplace(single), b.xreplace(single)) for a, b in have],
                [a.xreplace(single) for a in sizes],
            )
            if seen is None or (seen and laid_out([a.xreplace(single) for a in sizes], seen)):
                return NotImplemented
    with run.shapes.unrecorded():
        copy = tensor if strides else tensor.clone(memory_format=torch.contiguous_format)
        full = infer_size(shape, tensor.numel())
        if not strides:
            return copy.view(full)
        return _known(tensor.as_strided(full, [_number(run, stride) for stride in strides]))


def flatten(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`flatten`: a `reshape`."""
    tensor, first, last = (*args, *(0, -1)[len(args) - 1 :]) if 0 < len(args) < 4 else (None, 0, 0)
    first, last = kwargs.get("start_dim", first), kwargs.get("end_dim", last)
    known = (
        isinstance(tensor, torch.Tensor) and type(first) is type(last) is int and kwargs.keys() <= DIM_NAMES
    )
    if not known or tensor.dim() == 0:
        return NotImplemented
    dims = range(tensor.dim())
    if not (-len(dims) <= first < len(dims) and -len(dims) <= last < len(dims)) or dims[first] >= dims[last]:
        return NotImplemented
    first, last = dims[first], dims[last]
    shape = (*tensor.shape[:first], math.prod(tensor.shape[first : last + 1]), *tensor.shape[last + 1 :])
    return reshape(run, func, (tensor, shape), {})


DIM_NAMES = {"start_dim", "end_dim"}
DIMS = 6  # of a tensor for which all ways to be a view are looked at


def _number(run: Run, stride: sympy.Basic) -> Any:
    return int(stride) if stride.is_Integer else run.shapes._node(stride, int(run.shapes._hint(stride)), True)


def _viewed(
    have: Sequence[tuple[sympy.Basic, sympy.Basic]], sizes: Sequence[sympy.Basic]
) -> list[sympy.Basic] | None:
    """Strides of a view of these sizes, where no unknown size is 0 or 1.

    Returns:
        Nothing where there is no such view, None where that is not told by the expressions alone.
    """
    before = [(size, stride) for size, stride in have if size != 1]
    left, made = list(sizes), list[sympy.Basic]()
    while before:
        count, stride = before.pop()
        chunk, last = count, (count, stride)
        while before and sympy.expand(before[-1][1] - last[0] * last[1]) == 0:
            last = before.pop()
            chunk = sympy.expand(chunk * last[0])
        done: sympy.Basic = sympy.S.One
        while (ratio := _ratio(done, chunk)) != 1:
            if ratio is None or (ratio is sympy.S.Zero and not left):
                return None
            if ratio is sympy.oo:
                return []
            size = left.pop()
            made.append(stride)
            done, stride = sympy.expand(done * size), sympy.expand(stride * size)
    if any(size != 1 for size in left):
        return None
    return [*[sympy.S.One] * len(left), *made[::-1]]


def _ratio(done: sympy.Basic, chunk: sympy.Basic) -> sympy.Basic | None:
    """1 where two products of sizes are the same, infinity where the first is larger, 0 where smaller, None if not told."""
    if sympy.expand(done - chunk) == 0:
        return sympy.S.One
    top, bottom = sympy.fraction(sympy.cancel(done / chunk))
    if bottom == 1 and _is_product(top):
        return sympy.oo
    return sympy.S.Zero if top == 1 and _is_product(bottom) else None


def _is_product(value: sympy.Basic) -> bool:
    """Whether this is a product of sizes and of positive numbers."""
    return all(
        (factor.is_Integer and factor > 0) or _is_atom(factor.as_base_exp()[0])
        for factor in sympy.Mul.make_args(value)
    )


def _made_of(sizes: Sequence[sympy.Basic], known: Collection[sympy.Basic]) -> bool:
    """Whether sizes are products of known ones and of numbers: whether those are 1 is then all that matters."""
    factors = {factor.as_base_exp()[0] for size in sizes for factor in sympy.Mul.make_args(size)}
    return all(factor.is_Integer or factor in known for factor in factors)


def _is_atom(size: sympy.Basic) -> bool:
    return bool(size.is_Symbol or isinstance(size, sympy.Function))


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
    torch.reshape: reshape,
    torch.Tensor.reshape: reshape,
    torch.flatten: flatten,
    torch.Tensor.flatten: flatten,
    aten.view.default: view,
    aten._unsafe_view.default: view,
    aten.expand.default: expand,
    aten.unsqueeze.default: unsqueeze,
    torch.ops.prims.broadcast_in_dim.default: broadcast_in_dim,
    aten.empty_permuted.default: permuted,
    aten.empty_strided.default: empty,
    aten.new_empty_strided.default: empty,
}
