"""Operators whose results are plain to see: made at once, where the framework would go through its decompositions.

A linear layer is twenty calls of torch's rules for tensors without data, a layer norm forty. Where all operands are
ordinary tensors of one floating type whose sizes certainly fit, the result's sizes, strides and type follow without a
question; so do views of any tensor that are plain in the same way. All else is left to the framework, and so is all refusing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._prims_common import make_contiguous_strides_for
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager
from torch.utils._mode_utils import no_dispatch

from sparsam.shapes.broadcasting import same_size
from sparsam.shapes.environment import symbolic
from sparsam.shapes.layouts import layout_of

aten = torch.ops.aten
Direct = Callable[[Any, Sequence[Any], Mapping[str, Any]], Any]
NUMBERS = (int, float)
CPU = torch.device("cpu")


def floating(value: Any) -> bool:
    """Whether this is a tensor of floating numbers without data."""
    return (
        type(value) is FakeTensor
        and value.constant is None
        and value.fake_device == CPU
        and value.layout is torch.strided
        and value.dtype.is_floating_point
    )


def _ordinary(value: Any) -> bool:
    """The same, with items that lie one behind the other."""
    return floating(value) and not layout_of(value)


def new(mode: Any, sizes: Sequence[Any], like: FakeTensor, dtype: torch.dtype | None = None) -> FakeTensor:
    """A tensor of these sizes whose items lie one behind the other."""
    with in_kernel_invocation_manager(mode):
        made = torch.empty(sizes, dtype=dtype or like.dtype, device="meta")
    return FakeTensor(mode, made, like.fake_device)


def _alike(one: FakeTensor, *others: Any) -> bool:
    """Whether others are of the same type and sizes."""
    return all(
        _ordinary(other)
        and other.dtype is one.dtype
        and len(other.shape) == len(one.shape)
        and all(map(same_size, other.shape, one.shape))
        for other in others
    )


def _along(value: Any, size: Any, like: FakeTensor) -> bool:
    """Whether this is a vector of the same type with one number for each of so many."""
    return (
        _ordinary(value)
        and value.dtype is like.dtype
        and value.dim() == 1
        and same_size(value.shape[0], size)
    )


def _same(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """One tensor in, one of its sizes out, whatever the other arguments are."""
    if not _ordinary(args[0]) or any(map(_is_tensor, args[1:])):
        return NotImplemented
    return new(mode, args[0].shape, args[0])


def _left(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Nothing: for the framework."""
    return NotImplemented


def _compared(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """A comparison with a number, or of two tensors of the same type and sizes."""
    one, other = args
    if _ordinary(one):
        fits = type(other) in NUMBERS or _alike(one, other)
    else:
        fits = _counts(one) and (type(other) is int or (_counts(other) and _same_sizes(one, other)))
    return new(mode, one.shape, one, torch.bool) if fits else NotImplemented


def _same_sizes(one: FakeTensor, other: FakeTensor) -> bool:
    return len(one.shape) == len(other.shape) and all(map(same_size, one.shape, other.shape))


def _total(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`sum` of all items: of truths and whole numbers a whole number."""
    tensor = args[0]
    if kwargs.get("dtype") is not None or type(tensor) is not FakeTensor or tensor.constant is not None:
        return NotImplemented
    if tensor.fake_device != CPU or tensor.layout is not torch.strided or tensor.dtype.is_complex:
        return NotImplemented
    return new(mode, (), tensor, tensor.dtype if tensor.dtype.is_floating_point else torch.int64)


def _clone(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`clone` of what lies in order, or is to."""
    (tensor,) = args
    form = kwargs.get("memory_format")
    if form not in (None, torch.preserve_format, torch.contiguous_format):
        return NotImplemented
    if not floating(tensor) and not _numbers(tensor):
        return NotImplemented
    in_order = form is torch.contiguous_format or not layout_of(tensor)
    return new(mode, tensor.shape, tensor) if in_order else NotImplemented


def _new_like(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`new_zeros` and `new_ones` of the same type and device."""
    like, sizes = args
    if not floating(like) or kwargs.get("dtype") not in (None, like.dtype) or kwargs.get("pin_memory"):
        return NotImplemented
    if kwargs.get("layout") not in (None, torch.strided) or kwargs.get("device") not in (None, CPU):
        return NotImplemented
    return new(mode, sizes, like)


def _lifted(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`torch.tensor` of one number, which is known as long as nothing is written to it."""
    (tensor,) = args
    if type(tensor) is not torch.Tensor or tensor.device != CPU or tensor.layout is not torch.strided:
        return NotImplemented
    if tensor.numel() != 1 or tensor.requires_grad or tensor.dtype.is_complex or tensor.is_quantized:
        return NotImplemented
    with no_dispatch():
        held = tensor.clone()
    return _known(mode, held)


def _known(mode: Any, held: torch.Tensor) -> FakeTensor:
    """A tensor of one number, which is `held` as long as nothing is written to either."""
    with in_kernel_invocation_manager(mode):
        made = torch.empty(held.shape, dtype=held.dtype, device="meta")
    known = FakeTensor(mode, made, CPU, constant=held)
    mode.fake_tensor_converter.add_constant_storage_mapping(known)
    return known


def _or_known(func: Any, direct: Direct) -> Direct:
    """The same, and the operator itself on tensors whose one number is known."""

    def either(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        made = direct(mode, args, kwargs)
        if made is not NotImplemented or kwargs:
            return made
        given = [arg.constant if type(arg) is FakeTensor else arg for arg in args]
        if not all(type(one) in (*NUMBERS, bool) or _one_number(one) for one in given):
            return NotImplemented
        with no_dispatch():
            held = func(*given)
        return _known(mode, held) if _one_number(held) else NotImplemented

    return either


def _written(func: Any) -> Direct:
    """`_in_place`, and the operator itself on a tensor whose one number is known: it is then known what that is since."""

    def either(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        tensor, *numbers = args
        known = tensor.constant if type(tensor) is FakeTensor else None
        if not _one_number(known) or kwargs or not all(type(number) in NUMBERS for number in numbers):
            return _in_place(mode, args, kwargs)
        with no_dispatch():
            func(known, *numbers)
        return tensor

    return either


def _one_number(value: Any) -> bool:
    return type(value) is torch.Tensor and value.numel() == 1 and value.device == CPU


def _item(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`item` of a tensor whose number is known."""
    (tensor,) = args
    if type(tensor) is not FakeTensor or tensor.constant is None or tensor.constant.numel() != 1:
        return NotImplemented
    with no_dispatch():
        return tensor.constant.item()


def _binary(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Two tensors of which the second has the last dimensions of the first, or all of them; or one and a number."""
    one, other = args[:2]
    if not _ordinary(one) or len(args) > 2 or kwargs:
        return NotImplemented
    if type(other) in NUMBERS or _alike(one, other):
        return new(mode, one.shape, one)
    if not _ordinary(other) or other.dtype is not one.dtype or not 0 < other.dim() < one.dim():
        return NotImplemented
    if not all(map(same_size, other.shape, one.shape[-other.dim() :])):
        return NotImplemented
    return new(mode, one.shape, one)


def _softmax(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`_softmax` and `_log_softmax`."""
    tensor, dim, to_float = args
    if not _ordinary(tensor) or to_float or not -tensor.dim() <= dim < tensor.dim():
        return NotImplemented
    return new(mode, tensor.shape, tensor)


def _product(dims: int) -> Direct:
    """`mm` and `bmm`: the result lies in order whatever its operands do."""

    def direct(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        one, other = args
        if not (floating(one) and floating(other) and one.dtype is other.dtype):
            return NotImplemented
        if one.dim() != dims or other.dim() != dims:
            return NotImplemented
        batch = one.shape[:-2]
        if not same_size(one.shape[-1], other.shape[-2]) or not all(map(same_size, batch, other.shape[:-2])):
            return NotImplemented
        return new(mode, (*batch, one.shape[-2], other.shape[-1]), one)

    return direct


def _addmm(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`addmm` with a bias of one number a column."""
    bias, one, other = args
    if not floating(one) or other.dim() != 2 or not _along(bias, other.shape[-1], one):
        return NotImplemented
    return _product(2)(mode, (one, other), {})


def _layer_norm(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`native_layer_norm` in one type: the result, and mean and scale of each vector."""
    tensor, shape, weight, bias, _ = args
    inner = len(shape)
    if (
        not _ordinary(tensor)
        or tensor.dtype not in (torch.float32, torch.float64)
        or not 0 < inner <= tensor.dim()
    ):
        return NotImplemented
    for sizes in (shape, *(given.shape for given in (weight, bias) if given is not None)):
        if len(sizes) != inner or not all(map(same_size, sizes, tensor.shape[-inner:])):
            return NotImplemented
    if any(
        given is not None and not (_ordinary(given) and given.dtype is tensor.dtype)
        for given in (weight, bias)
    ):
        return NotImplemented
    outer = (*tensor.shape[:-inner], *[1] * inner)
    return new(mode, tensor.shape, tensor), new(mode, outer, tensor), new(mode, outer, tensor)


def _batch_norm(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`native_batch_norm` in one type: what its kernel refuses was refused (`strictness.images`)."""
    image, *given, training, _, _ = args
    if kwargs or not _ordinary(image) or image.dim() < 2:
        return NotImplemented
    for one in given:
        if one is not None and not (
            type(one) is FakeTensor and one.dtype is image.dtype and one.fake_device == CPU
        ):
            return NotImplemented
    if not training and any(one is None for one in given[2:]):
        return NotImplemented
    saved = (image.shape[1] if training else 0,)
    return new(mode, image.shape, image), new(mode, saved, image), new(mode, saved, image)


def _empty(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`empty`, `zeros` and `ones` of the CPU, whose items lie one behind the other."""
    if kwargs.get("layout") not in (None, torch.strided) or kwargs.get("pin_memory") or len(args) > 1:
        return NotImplemented
    if kwargs.get("memory_format") not in (None, torch.contiguous_format):
        return NotImplemented
    device = kwargs.get("device")
    if device is not None and torch.device(device).type != "cpu":
        return NotImplemented
    with in_kernel_invocation_manager(mode):
        made = torch.empty(args[0], dtype=kwargs.get("dtype"), device="meta")
    return FakeTensor(mode, made, CPU)


def _cat(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`cat` of tensors that differ in no other size. Pictures may lie with their channels last, and the result then too."""
    tensors, dim = args[0], args[1] if len(args) > 1 else 0
    first: Any = tensors[0] if tensors else None
    fits = _ordinary if isinstance(first, torch.Tensor) and first.dim() in (4, 5) else floating
    if kwargs or not fits(first) or not first.dim() or not -first.dim() <= dim < first.dim():
        return NotImplemented
    dim %= first.dim()
    length = first.shape[dim]
    for other in tensors[1:]:
        if not fits(other) or other.dtype is not first.dtype or other.dim() != first.dim():
            return NotImplemented
        sizes = zip(first.shape, other.shape, strict=True)
        if not all(axis == dim or same_size(*pair) for axis, pair in enumerate(sizes)):
            return NotImplemented
        length = length + other.shape[dim]
    return new(mode, (*first.shape[:dim], length, *first.shape[dim + 1 :]), first)


def _stack(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`stack`."""
    tensors, dim = args[0], args[1] if len(args) > 1 else 0
    first: Any = tensors[0] if tensors else None
    if kwargs or not _ordinary(first) or not -first.dim() - 1 <= dim <= first.dim():
        return NotImplemented
    if not _alike(first, *tensors[1:]):
        return NotImplemented
    dim %= first.dim() + 1
    return new(mode, (*first.shape[:dim], len(tensors), *first.shape[dim:]), first)


def _numbers(value: Any) -> bool:
    """Whether this is a tensor of rows or classes: whole numbers without data."""
    return (
        type(value) is FakeTensor
        and value.constant is None
        and value.fake_device == CPU
        and value.layout is torch.strided
        and value.dtype is torch.int64
    )


def _counts(value: Any) -> bool:
    """The same, with items that lie one behind the other."""
    return _numbers(value) and not layout_of(value)


def _embedding(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`embedding`: what its kernel refuses was refused (`strictness.indices`)."""
    table, rows = args[:2]
    if kwargs or not _ordinary(table) or table.dim() != 2 or not _numbers(rows):
        return NotImplemented
    return new(mode, (*rows.shape, table.shape[1]), table)


def _nll_loss(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`nll_loss_forward` of a batch of scores."""
    scores, target, weight, reduction, _ = args
    if kwargs or not _ordinary(scores) or scores.dim() != 2 or not _numbers(target) or target.dim() != 1:
        return NotImplemented
    if not same_size(scores.shape[0], target.shape[0]) or reduction not in (0, 1, 2):
        return NotImplemented
    if weight is not None and not _along(weight, scores.shape[1], scores):
        return NotImplemented
    return new(mode, target.shape if reduction == 0 else (), scores), new(mode, (), scores)


def _detach(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`detach` of a tensor without data."""
    (tensor,) = args
    if type(tensor) is not FakeTensor or tensor.constant is not None:
        return NotImplemented
    with in_kernel_invocation_manager(mode):
        made = aten.detach.default(tensor)
    return FakeTensor(mode, made, tensor.fake_device)


def _strided(mode: Any, tensor: FakeTensor, sizes: Sequence[Any], strides: Sequence[Any], offset: Any) -> Any:
    """A view of it."""
    with mode.run.shapes.unrecorded(), in_kernel_invocation_manager(mode):
        made = tensor.as_strided(sizes, strides, offset)
    return FakeTensor(mode, made, tensor.fake_device)


def _moved(
    tensor: FakeTensor, func: Any, args: Sequence[Any]
) -> tuple[Sequence[Any], Sequence[Any], Any] | None:
    """Sizes, strides and offset of a view that asks for no symbol: dimensions in another order, or a part of a known one."""
    sizes, strides, offset = list(tensor.shape), list(tensor.stride()), tensor.storage_offset()
    count = len(sizes)
    given: list[Any] = list(args)
    if func is aten.t.default:
        if count > 2:
            return None
        func, given = aten.permute.default, [list(range(count))[::-1]]
    if func is aten.transpose.int:
        order = list(range(count))
        if not all(-count <= dim < count for dim in given):
            return None
        order[given[0]], order[given[1]] = order[given[1]], order[given[0]]
        func, given = aten.permute.default, [order]
    if func is aten.permute.default:
        order = given[0]
        if not all(-count <= dim < count for dim in order) or len({dim % count for dim in order}) != count:
            return None
        return [sizes[dim] for dim in order], [strides[dim] for dim in order], offset
    if func not in (aten.select.int, aten.slice.Tensor) or not given or not -count <= given[0] < count:
        return None
    dim, rest = given[0] % count, given[1:]
    size, stride = sizes[dim], strides[dim]
    if type(size) is not int or not all(number is None or type(number) is int for number in rest):
        return None
    if func is aten.select.int:
        (index,) = rest
        if not -size <= index < size:
            return None
        offset = offset + index % size * stride if index % size else offset
        return sizes[:dim] + sizes[dim + 1 :], strides[:dim] + strides[dim + 1 :], offset
    start, end, step = rest + [None, None, 1][len(rest) :]
    if step is None or step < 1:
        return None
    start, end, _ = slice(start, end).indices(size)
    sizes[dim] = max(0, -(-(end - start) // step))
    strides[dim] = stride * step if step > 1 else stride
    return sizes, strides, offset + start * stride if start else offset


def _in_order(mode: Any, tensor: FakeTensor, shape: Sequence[Any]) -> Any:
    """`view` of a tensor whose items lie in order, as one of certainly as many items."""
    if layout_of(tensor):
        return NotImplemented
    shapes = mode.run.shapes
    sizes = _completed(shapes, tensor, shape)
    doubtful = None if sizes is None else shapes.as_many(_expressions(tensor.shape), _expressions(sizes))
    if sizes is None or doubtful is None:
        return NotImplemented
    if not all(type(sizes[at]) is not int and bool(sizes[at] >= 0) for at in doubtful):
        return NotImplemented
    with shapes.unrecorded():
        key = _expressions(sizes)
        strides = shapes.strides.get(key)
        if strides is None:
            strides = shapes.strides[key] = make_contiguous_strides_for(tuple(sizes))
    made = _strided(mode, tensor, sizes, strides, tensor.storage_offset())
    with shapes.unrecorded():
        torch._C.TensorBase.is_contiguous(made)  # the framework's core asks that now, and never again
    return made


def _completed(shapes: Any, tensor: FakeTensor, shape: Sequence[Any]) -> Sequence[Any] | None:
    """The shape with a size in place of -1, where that is certainly one for any others that are not 0; else None."""
    open_ = [axis for axis, size in enumerate(shape) if type(size) is int and size == -1]
    if not open_:
        return shape
    others = [size for axis, size in enumerate(shape) if axis not in open_]
    left = shapes.quotient(_expressions(tensor.shape), _expressions(others)) if len(open_) == 1 else None
    if left is None or not bool(math.prod(others) != 0):
        return None
    return [*shape[: open_[0]], left, *shape[open_[0] + 1 :]]


def _expressions(sizes: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(size.node.expr if symbolic(size) else size for size in sizes)


def _convolution(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`convolution` of any number of pictures of known sizes."""
    image, weight, bias, stride, padding, dilation, transposed, _, groups = args
    dims = len(stride)
    if (
        kwargs
        or transposed
        or not _ordinary(image)
        or not _ordinary(weight)
        or weight.dtype is not image.dtype
    ):
        return NotImplemented
    if image.dim() != dims + 2 or weight.dim() != dims + 2 or not len(padding) == len(dilation) == dims:
        return NotImplemented
    plain = (*image.shape[1:], *weight.shape, *stride, *padding, *dilation, groups)
    if not all(type(number) is int for number in plain) or min(*weight.shape, *stride, *dilation, groups) < 1:
        return NotImplemented
    if min(padding) < 0 or image.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        return NotImplemented
    if bias is not None and not _along(bias, weight.shape[0], image):
        return NotImplemented
    made = [
        (size + 2 * pad - hole * (kernel - 1) - 1) // step + 1
        for size, pad, hole, kernel, step in zip(
            image.shape[2:], padding, dilation, weight.shape[2:], stride, strict=True
        )
    ]
    return new(mode, (image.shape[0], weight.shape[0], *made), image) if min(made) > 0 else NotImplemented


def _view(func: Any) -> Direct:
    """A view: of a tensor of plain sizes by the framework's own kernel, of another where nothing is to be asked."""

    def direct(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        tensor = args[0]
        if (
            type(tensor) is not FakeTensor
            or tensor.constant is not None
            or tensor.layout is not torch.strided
        ):
            return NotImplemented
        if kwargs:
            return NotImplemented
        if _has_symbol(tensor.shape) or any(map(_has_symbol, args[1:])):
            if func is aten.view.default or func is aten._unsafe_view.default:
                return _in_order(mode, tensor, args[1])
            moved = _moved(tensor, func, args[1:])
            return NotImplemented if moved is None else _strided(mode, tensor, *moved)
        try:
            with in_kernel_invocation_manager(mode):
                made = func(*args)
        except Exception as error:
            if func is aten.view.default and "spans across two" in str(error):
                raise  # its rule without data takes some of these
            return NotImplemented  # the framework says why
        return FakeTensor(mode, made, tensor.fake_device)

    return direct


def _has_symbol(value: Any) -> bool:
    return any(map(symbolic, value)) if isinstance(value, (list, tuple)) else symbolic(value)


def _gelu(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`gelu`, in one of its two forms."""
    return _same(mode, args, {}) if kwargs.get("approximate", "none") in ("none", "tanh") else NotImplemented


def _drawn(allowed: Callable[..., bool]) -> Direct:
    """What fills a tensor with chance, of numbers that are `allowed`: it has no data that would change."""

    def direct(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        tensor, *numbers = args
        if (
            not _ordinary(tensor)
            or not all(type(number) in NUMBERS for number in numbers)
            or not allowed(*numbers)
        ):
            return NotImplemented
        return tensor

    return direct


def _in_place(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What changes the items of a tensor, by a number or by none: it has no data that would change."""
    tensor, *numbers = args
    kinds = NUMBERS if _ordinary(tensor) else (int,)
    if kwargs or not (_ordinary(tensor) or (_numbers(tensor) and not layout_of(tensor) and numbers)):
        return NotImplemented
    return tensor if all(type(number) in kinds for number in numbers) else NotImplemented


def _like(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`empty_like`, `rand_like` and `randn_like` of the same type."""
    (like,) = args
    plain = kwargs.get("layout") in (None, torch.strided) and not kwargs.get("pin_memory")
    device = kwargs.get("device")
    if not plain or kwargs.get("memory_format") not in (None, torch.preserve_format, torch.contiguous_format):
        return NotImplemented
    if not _ordinary(like) or kwargs.get("dtype") not in (None, like.dtype):
        return NotImplemented
    if device is not None and torch.device(device).type != "cpu":
        return NotImplemented
    return new(mode, like.shape, like)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


_SAME = """
relu silu sigmoid tanh exp expm1 log log1p log2 sqrt rsqrt neg abs sin cos erf hardtanh leaky_relu elu softplus mish
hardswish hardsigmoid clamp_min clamp_max reciprocal floor ceil round sign
"""

_VIEWS = (
    aten.view.default,
    aten._unsafe_view.default,
    aten.t.default,
    aten.transpose.int,
    aten.permute.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.unsqueeze.default,
    aten.expand.default,
)

DIRECT: Mapping[Any, Direct] = {
    **{func: _or_known(func, _same) for name in _SAME.split() for func in [getattr(aten, name).default]},
    **{
        func: _or_known(func, _binary)
        for name in ("add", "sub", "mul", "div")
        for func in [getattr(aten, name).Tensor]
    },
    aten._softmax.default: _softmax,
    aten._log_softmax.default: _softmax,
    aten.mm.default: _product(2),
    aten.bmm.default: _product(3),
    aten.addmm.default: _addmm,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_batch_norm.default: _batch_norm,
    aten.cat.default: _cat,
    aten.stack.default: _stack,
    aten.embedding.default: _embedding,
    aten.nll_loss_forward.default: _nll_loss,
    aten.empty.memory_format: _empty,
    aten.gelu.default: _gelu,
    aten.detach.default: _detach,
    aten.zeros.default: _empty,
    aten.ones.default: _empty,
    **{
        func: _or_known(func, _compared)
        for name in ("eq", "ne", "lt", "le", "gt", "ge")
        for func in [getattr(aten, name).Scalar, getattr(aten, name).Tensor]
    },
    **{func: _or_known(func, _left) for func in (aten.bitwise_and.Tensor, aten._is_all_true.default)},
    aten.sum.default: _total,
    aten.clone.default: _clone,
    aten.new_zeros.default: _new_like,
    aten.new_ones.default: _new_like,
    aten.lift_fresh.default: _lifted,
    aten._local_scalar_dense.default: _item,
    aten.bernoulli.default: _same,
    **{
        func: _written(func)
        for func in (
            aten.zero_.default,
            aten.relu_.default,
            aten.fill_.Scalar,
            aten.add_.Tensor,
            aten.sub_.Tensor,
            aten.mul_.Tensor,
        )
    },
    aten.convolution.default: _convolution,
    aten.empty_like.default: _like,
    aten.uniform_.default: _drawn(lambda low=0.0, high=1.0: low <= high),
    aten.normal_.default: _drawn(lambda mean=0.0, scale=1.0: scale >= 0),
    aten.bernoulli_.float: _drawn(lambda share=0.5: 0 <= share <= 1),
    aten.rand_like.default: _like,
    aten.randn_like.default: _like,
    **{view: _view(view) for view in _VIEWS},
}
"""By operator; called with (mode, args, kwargs), `NotImplemented` for what is not plain to see."""
