"""Operators whose results are plain to see: made at once, where the framework would go through its decompositions.

A linear layer is twenty calls of torch's rules for tensors without data, a layer norm forty. Where all operands are
ordinary tensors of one floating type whose sizes certainly fit, the result's sizes, strides and type follow without a
question. All else is left to the framework, and so is all refusing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager

from sparsam.shapes.broadcasting import same_size
from sparsam.shapes.environment import symbolic
from sparsam.shapes.layouts import layout_of

aten = torch.ops.aten
Direct = Callable[[Any, Sequence[Any], Mapping[str, Any]], Any]
NUMBERS = (int, float)
CPU = torch.device("cpu")


def _floating(value: Any) -> bool:
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
    return _floating(value) and not layout_of(value)


def _new(mode: Any, sizes: Sequence[Any], like: FakeTensor) -> FakeTensor:
    """A tensor of these sizes whose items lie one behind the other."""
    with in_kernel_invocation_manager(mode):
        made = torch.empty(sizes, dtype=like.dtype, device="meta")
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


def _same(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """One tensor in, one of its sizes out, whatever the other arguments are."""
    if not _ordinary(args[0]) or any(map(_is_tensor, args[1:])):
        return NotImplemented
    return _new(mode, args[0].shape, args[0])


def _binary(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Two tensors of the same sizes, or one and a number."""
    one, other = args[:2]
    if not _ordinary(one) or len(args) > 2 or kwargs:
        return NotImplemented
    if type(other) in NUMBERS or _alike(one, other):
        return _new(mode, one.shape, one)
    return NotImplemented


def _softmax(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`_softmax` and `_log_softmax`."""
    tensor, dim, to_float = args
    if not _ordinary(tensor) or to_float or not -tensor.dim() <= dim < tensor.dim():
        return NotImplemented
    return _new(mode, tensor.shape, tensor)


def _product(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`mm` and `bmm`: the result lies in order whatever its operands do."""
    one, other = args
    if not (_floating(one) and _floating(other) and one.dtype is other.dtype and one.dim() == other.dim()):
        return NotImplemented
    batch = one.shape[:-2]
    if not same_size(one.shape[-1], other.shape[-2]) or not all(map(same_size, batch, other.shape[:-2])):
        return NotImplemented
    return _new(mode, (*batch, one.shape[-2], other.shape[-1]), one)


def _addmm(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`addmm` with a bias of one number a column."""
    bias, one, other = args
    if not _ordinary(bias) or bias.dim() != 1 or not _floating(one) or bias.dtype is not one.dtype:
        return NotImplemented
    if not same_size(bias.shape[0], other.shape[-1]):
        return NotImplemented
    return _product(mode, (one, other), {})


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
    return _new(mode, tensor.shape, tensor), _new(mode, outer, tensor), _new(mode, outer, tensor)


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
    return _new(mode, image.shape, image), _new(mode, saved, image), _new(mode, saved, image)


def _empty(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`empty` of the CPU whose items lie one behind the other."""
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


def _view(func: Any) -> Direct:
    """A view of a tensor of plain sizes, by the framework's own kernel."""

    def direct(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        tensor = args[0]
        if (
            type(tensor) is not FakeTensor
            or tensor.constant is not None
            or tensor.layout is not torch.strided
        ):
            return NotImplemented
        if kwargs or _has_symbol(tensor.shape) or any(map(_has_symbol, args[1:])):
            return NotImplemented
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


def _drawn_like(mode: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`rand_like` and `randn_like` of the same type."""
    (like,) = args
    plain = kwargs.get("layout") in (None, torch.strided) and not kwargs.get("pin_memory")
    device = kwargs.get("device")
    if not plain or kwargs.get("memory_format") not in (None, torch.preserve_format, torch.contiguous_format):
        return NotImplemented
    if not _ordinary(like) or kwargs.get("dtype") not in (None, like.dtype):
        return NotImplemented
    if device is not None and torch.device(device).type != "cpu":
        return NotImplemented
    return _new(mode, like.shape, like)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


_SAME = """
relu silu sigmoid tanh exp expm1 log log1p log2 sqrt rsqrt neg abs sin cos erf hardtanh leaky_relu elu softplus mish
hardswish hardsigmoid clamp_min clamp_max reciprocal floor ceil round sign
"""

_VIEWS = (
    aten.view.default,
    aten.t.default,
    aten.transpose.int,
    aten.permute.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.unsqueeze.default,
    aten.expand.default,
)

DIRECT: Mapping[Any, Direct] = {
    **{getattr(aten, name).default: _same for name in _SAME.split()},
    **{getattr(aten, name).Tensor: _binary for name in ("add", "sub", "mul", "div")},
    aten._softmax.default: _softmax,
    aten._log_softmax.default: _softmax,
    aten.mm.default: _product,
    aten.bmm.default: _product,
    aten.addmm.default: _addmm,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_batch_norm.default: _batch_norm,
    aten.empty.memory_format: _empty,
    aten.gelu.default: _gelu,
    aten.uniform_.default: _drawn(lambda low=0.0, high=1.0: low <= high),
    aten.normal_.default: _drawn(lambda mean=0.0, scale=1.0: scale >= 0),
    aten.bernoulli_.float: _drawn(lambda share=0.5: 0 <= share <= 1),
    aten.rand_like.default: _drawn_like,
    aten.randn_like.default: _drawn_like,
    **{view: _view(view) for view in _VIEWS},
}
"""By operator; called with (mode, args, kwargs), `NotImplemented` for what is not plain to see."""
