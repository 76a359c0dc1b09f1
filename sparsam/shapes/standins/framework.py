"""Choices that the framework makes by size and that change no size: which kernel convolves; and where a tensor lies.

And calls that want a list, and get what stands for one.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import _meta_registrations, _prims_common
from torch._subclasses import fake_impls
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.sym_node import SymNode

from sparsam.shapes.broadcasting import broadcast_shape, is_one, same_size
from sparsam.shapes.devices import place, shown
from sparsam.shapes.environment import symbolic
from sparsam.shapes.layouts import laid_out, layout_of
from sparsam.shapes.mode import META
from sparsam.shapes.modules import called
from sparsam.shapes.run import current
from sparsam.shapes.series import Series


def _chosen(real: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel of a convolution: chosen as for two pictures, for the choice by their number decides nothing else."""

    def select(input: torch.Tensor, weight: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if current() is not None and input.dim() > 2 and symbolic(input.shape[0]):
            input = input.new_empty((2, *input.shape[1:]))
        return real(input, weight, *args, **kwargs)

    return select


def _device(self: FakeTensor) -> torch.device:
    """`x.device`: for the program where it put the tensor, for the framework at work where it is."""
    mode = self.fake_mode
    if mode.in_kernel_invocation:
        return META
    if getattr(mode, "inside", 0):
        return self.fake_device
    run = current()
    if run is not None and run.elsewhere and place(self) is None:
        run.placed = False
    return shown(self)


def _joins(real: Callable[..., Any]) -> Callable[..., Any]:
    """`cat` and `stack` of a series: of the list of its items, whose number may be a symbol."""

    def join(*args: Any, **kwargs: Any) -> Any:
        from sparsam.shapes.hooks import list_

        if args and isinstance(args[0], Series):
            args = (list_(args[0]), *args[1:])
        elif isinstance(kwargs.get("tensors"), Series):
            kwargs = {**kwargs, "tensors": list_(kwargs["tensors"])}
        return real(*args, **kwargs)

    return join


def _keeps_names(real: Callable[..., Any]) -> Callable[..., Any]:
    """The shape of what is broadcast: where all sizes are 1 and one of them has a name, the result has it, too.

    As where it is more than one, so that the states of both can be compared. Where a dimension has but one size, or none
    beside 1, it is not asked whether that is 1: it makes no difference.
    """

    def broadcast(*shapes: Any) -> Any:
        given = [shape for shape in shapes if shape is not None]
        if not given or current() is None or not all(isinstance(s, (tuple, list)) for s in given):
            return real(*shapes)
        plain = broadcast_shape(given)
        if plain is not None:
            return plain
        made = real(*shapes)
        for axis in range(-len(made), 0):
            if is_one(made[axis]):
                sizes = (shape[axis] for shape in given if len(shape) >= -axis)
                named = next((size for size in sizes if symbolic(size)), made[axis])
                made = type(made)([*made[:axis], named, *made[len(made) + axis + 1 :]])
        return made

    return broadcast


def _broadcasts(real: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.broadcast_tensors` where nothing has to be asked for it."""

    def broadcast(*tensors: Any) -> Any:
        given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else tensors
        if current() is None or not all(isinstance(tensor, torch.Tensor) for tensor in given):
            return real(*tensors)
        shape = broadcast_shape([tuple(tensor.shape) for tensor in given])
        return real(*tensors) if shape is None else tuple(tensor.expand(shape) for tensor in given)

    return broadcast


_OPERANDS = (torch.Tensor, int, float, torch.SymInt, torch.SymFloat)


def _expands(real: Callable[..., Any]) -> Callable[..., Any]:
    """Tensors as they are broadcast: as they are where nothing has to be asked for that, else expanded."""

    def expand(*args: Any, **kwargs: Any) -> Any:
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        shape = (
            broadcast_shape([tuple(tensor.shape) for tensor in tensors])
            if tensors and current() is not None
            else None
        )
        if shape is None or any(arg is not None and not isinstance(arg, _OPERANDS) for arg in args):
            return real(*args, **kwargs)
        kept = kwargs.get("preserve_cpu_scalar_tensors", True)

        def made(arg: Any) -> Any:
            if not isinstance(arg, torch.Tensor) or (kept and _prims_common.is_cpu_scalar_tensor(arg)):
                return arg
            same = arg.dim() == len(shape) and all(map(same_size, arg.shape, shape))
            return arg if same else arg.expand(shape)

        return tuple(map(made, args))

    return expand


def _lies_in(real: Callable[..., bool]) -> Callable[..., bool]:
    """Whether the items of a tensor lie in a format's order for all sizes: the framework asks to choose a result's strides.

    Where they do for some sizes alone, dimensions have one item or none there, and either choice gives the same order.
    """

    def question(a: torch.Tensor, *, memory_format: torch.memory_format) -> bool:
        if current() is None or not any(map(symbolic, a.shape)) or a.layout is not torch.strided:
            return real(a, memory_format=memory_format)
        order = (
            range(a.dim()) if memory_format is torch.contiguous_format else LAST.get((memory_format, a.dim()))
        )
        if order is None:
            return real(a, memory_format=memory_format)
        return not laid_out([a.shape[axis] for axis in order], [a.stride()[axis] for axis in order])

    return question


LAST = {
    (torch.channels_last, 4): (0, 2, 3, 1),
    (torch.channels_last_3d, 5): (0, 2, 3, 4, 1),
}
"""Dimensions from the outermost to the innermost, for formats with channels last."""


def _dense(real: Callable[..., bool]) -> Callable[..., bool]:
    """Whether the items of a tensor lie densely in some order for all sizes, in the same way."""

    def question(a: torch.Tensor) -> bool:
        if current() is None or not any(map(symbolic, a.shape)) or a.layout is not torch.strided:
            return real(a)
        return _order_of(a) is not None if a.dim() <= PERMUTED else not layout_of(a) or real(a)

    return question


def _is_contiguous(real: Callable[..., Any]) -> Callable[..., Any]:
    """The same, as the framework's core asks it."""

    def question(self: SymNode, sizes: list[SymNode], strides: list[SymNode]) -> Any:
        if current() is not None and not laid_out([s.expr for s in sizes], [s.expr for s in strides]):
            return self.wrap_bool(True)
        return real(self, sizes, strides)

    return question


def _in_order(real: Callable[..., Any]) -> Callable[..., Any]:
    """In which order the dimensions of an elementwise result lie: in theirs, where those of all operands do for all sizes.

    Dimensions along which an operand is expanded do not count. Otherwise it is that of the first operand, if its items lie
    densely in some order. Where dimensions have but one item, torch gives these dimensions other strides, which move nothing.
    """

    def order(*tensors: Any, **kwargs: Any) -> Any:
        wide = [tensor for tensor in tensors if isinstance(tensor, torch.Tensor) and tensor.dim() > 1]
        if current() is None or not wide or not any(map(symbolic, wide[0].shape)):
            return real(*tensors, **kwargs)
        if any(isinstance(tensor, torch.Tensor) and tensor.dim() == 1 for tensor in tensors):
            return real(*tensors, **kwargs)
        if all(_as_expanded(tensor, wide[0].shape) for tensor in wide):
            return list(range(wide[0].dim())), False
        dense = _order_of(wide[0]) if all(_same_shape(tensor, wide[0].shape) for tensor in wide) else None
        return real(*tensors, **kwargs) if dense is None else (dense, False)

    return order


PERMUTED = 4  # dimensions of which all orders are tried


def _order_of(tensor: torch.Tensor) -> list[int] | None:
    """The order in which the items of a tensor lie densely for all sizes, the outermost dimension first; None if in none.

    Such a tensor decides alone, if it is the first operand.
    """
    if tensor.layout is not torch.strided or tensor.dim() > PERMUTED:
        return None
    sizes, strides = tensor.shape, tensor.stride()
    for order in itertools.permutations(range(tensor.dim())):
        if not laid_out([sizes[axis] for axis in order], [strides[axis] for axis in order]):
            return list(order)
    return None


def _same_shape(tensor: torch.Tensor, shape: torch.Size) -> bool:
    return tensor.dim() == len(shape) and all(map(same_size, tensor.shape, shape))


def _as_expanded(tensor: torch.Tensor, shape: torch.Size) -> bool:
    """Whether a tensor of a shape lies in order, but for dimensions along which it is expanded."""
    if not _same_shape(tensor, shape):
        return False
    lies = zip(tensor.stride(), tensor.shape, strict=True)
    kept = [(stride, size) for stride, size in lies if not (type(stride) is int and stride == 0)]
    return not laid_out([size for _, size in kept], [stride for stride, _ in kept])


def _decided(real: Callable[..., Any]) -> Callable[..., Any]:
    """A function that takes yes or no, and no symbol for it (`is_causal=query.shape[2] > 1 and …`)."""

    def call(*args: Any, **kwargs: Any) -> Any:
        args = tuple(bool(value) if isinstance(value, torch.SymBool) else value for value in args)
        kwargs = {
            name: bool(value) if isinstance(value, torch.SymBool) else value for name, value in kwargs.items()
        }
        return real(*args, **kwargs)

    return call


def _norm(real: Callable[..., None]) -> Callable[..., None]:
    """Makes a norm, whose count of batches is not known.

    With the 0 that it begins with, a model that has seen none would be in another state than one that has seen some.
    """

    @functools.wraps(real)
    def function(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        count = getattr(self, "num_batches_tracked", None)
        if current() is not None and isinstance(count, FakeTensor):
            count.constant = None

    return function


def _averaging(real: Callable[..., Any]) -> Callable[..., Any]:
    """A norm that averages over all batches, without a look at how many there were: that is no matter of sizes."""

    @functools.wraps(real)
    def function(self: Any, *args: Any, **kwargs: Any) -> Any:
        if current() is None or self.momentum is not None:
            return real(self, *args, **kwargs)
        self.momentum = 1.0
        try:
            return real(self, *args, **kwargs)
        finally:
            self.momentum = None

    return function


def patches() -> Iterator[tuple[Any, str, Any]]:
    """(owner, attribute, stand-in) for all of this module."""
    yield torch.nn.Module, "__call__", called
    norms = torch.nn.modules.batchnorm
    yield norms._NormBase, "__init__", _norm(norms._NormBase.__init__)
    yield norms._BatchNorm, "forward", _averaging(norms._BatchNorm.forward)
    yield FakeTensor, "device", property(_device)
    yield FakeTensor, "tolist", lambda self: torch.Tensor.tolist(self)
    yield torch._C, "_select_conv_backend", _chosen(torch._C._select_conv_backend)
    for owner, name in (
        (torch._refs, "_broadcast_shapes"),
        (_meta_registrations, "_broadcast_shapes"),
        (fake_impls, "infer_size"),
    ):
        yield owner, name, _keeps_names(getattr(owner, name))
    for owner in (torch._refs, _meta_registrations):
        yield owner, "_maybe_broadcast", _expands(owner._maybe_broadcast)
    attention = "scaled_dot_product_attention"
    yield torch.nn.functional, attention, _decided(getattr(torch.nn.functional, attention))
    yield SymNode, "is_contiguous", _is_contiguous(SymNode.is_contiguous)
    name = "compute_elementwise_output_logical_to_physical_perm"
    yield _prims_common, name, _in_order(getattr(_prims_common, name))
    for owner in (_prims_common, torch._refs, fake_impls):
        name = "is_contiguous_for_memory_format_or_false"
        yield owner, name, _lies_in(getattr(owner, name))
    name = "is_non_overlapping_and_dense_or_false"
    yield _prims_common, name, _dense(getattr(_prims_common, name))
    for owner in (torch, torch.functional):
        yield owner, "broadcast_tensors", _broadcasts(owner.broadcast_tensors)
    for name in ("cat", "concat", "concatenate", "stack"):
        yield torch, name, _joins(getattr(torch, name))
