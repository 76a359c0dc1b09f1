"""Results whose sizes follow from the arguments as they are written, so that nothing needs to be asked about them.

The framework asks of an elementwise operation whether sizes are 1 or tensors are contiguous, to choose strides that come out
the same. Where tensors are contiguous by the expressions of their strides, and sizes match by their expressions, no
answer could make a difference: the operation cannot fail and its result is contiguous. Everything else is left to
the framework.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import sympy
import torch
from torch._subclasses.fake_tensor import FakeTensor

from sparsam.shapes.recall import Form, contiguous

Forms = tuple[Form, ...] | None
aten = torch.ops.aten


def expression(size: Any) -> sympy.Basic:
    """A size as an expression."""
    return sympy.Integer(size) if type(size) is int else size.node.expr


def sizes_of(tensor: Any) -> tuple[sympy.Basic, ...] | None:
    """The sizes of a tensor of real numbers, None if it is not contiguous as it is written."""
    sizes = any_sizes_of(tensor)
    return sizes if sizes is not None and tensor.dtype.is_floating_point else None


def any_sizes_of(tensor: Any) -> tuple[sympy.Basic, ...] | None:
    """The sizes of a tensor of any dtype, None if it is not contiguous as it is written."""
    if type(tensor) is not FakeTensor or tensor.layout is not torch.strided:
        return None
    if tensor.is_conj() or tensor.is_neg():
        return None
    sizes = tuple(map(expression, tensor.shape))
    strides = tuple(map(expression, tensor.stride()))
    return sizes if all(a == b for a, b in zip(strides, contiguous(sizes), strict=True)) else None


def form(sizes: tuple[Any, ...], like: Any, dtype: torch.dtype | None = None) -> Form:
    """A contiguous tensor, of the dtype and on the device of another."""
    sizes = tuple(map(sympy.sympify, sizes))
    return Form(sizes, contiguous(sizes), sympy.Integer(0), dtype or like.dtype, like.fake_device)


def unary(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Forms:
    """An elementwise function of one tensor and of numbers."""
    sizes = sizes_of(args[0])
    if sizes is None or any(type(other) not in (int, float, bool) for other in (*args[1:], *kwargs.values())):
        return None
    return (form(sizes, args[0]),)


def binary(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Forms:
    """An elementwise function of two tensors of one dtype, or of one and a number."""
    one, other = args[:2]
    if type(other) is not FakeTensor:
        return unary(args, kwargs)
    left, right = sizes_of(one), sizes_of(other)
    if left is None or right is None or one.dtype != other.dtype or one.fake_device != other.fake_device:
        return None
    if any(type(value) not in (int, float, bool) for value in (*args[2:], *kwargs.values())):
        return None
    sizes = broadcast(left, right)
    return None if sizes is None else (form(sizes, one),)


def broadcast(left: tuple[Any, ...], right: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The sizes of two tensors one of which has those of the result, as they are written."""
    longer, shorter = (left, right) if len(left) >= len(right) else (right, left)
    behind = longer[len(longer) - len(shorter) :]
    return longer if all(a == b or b == 1 for a, b in zip(behind, shorter, strict=True)) else None


def compared(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Forms:
    """A comparison of two tensors, or of one and a number."""
    left = any_sizes_of(args[0])
    if kwargs or len(args) != 2 or left is None:
        return None
    if type(args[1]) in (int, float, bool):
        return (form(left, args[0], torch.bool),)
    right = any_sizes_of(args[1])
    if right is None or args[0].fake_device != args[1].fake_device:
        return None
    sizes = broadcast(left, right)
    return None if sizes is None else (form(sizes, args[0], torch.bool),)


def alike(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Forms:
    """`empty_like` and the like: the same sizes."""
    sizes = any_sizes_of(args[0])
    known = {"dtype", "layout", "device", "pin_memory", "memory_format"}
    if sizes is None or len(args) != 1 or not kwargs.keys() <= known:
        return None
    if kwargs.get("layout") not in (None, torch.strided) or kwargs.get("device") not in (
        None,
        args[0].fake_device,
    ):
        return None
    if kwargs.get("memory_format") not in (None, torch.preserve_format, torch.contiguous_format):
        return None
    return (form(sizes, args[0], kwargs.get("dtype")),)


def whole_sum(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Forms:
    """The sum of all values."""
    if any_sizes_of(args[0]) is None or len(args) != 1 or kwargs.keys() - {"dtype"}:
        return None
    whole = not args[0].dtype.is_floating_point and not args[0].dtype.is_complex
    return (form((), args[0], kwargs.get("dtype") or (torch.int64 if whole else None)),)


def softmax(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Forms:
    """`_softmax` and `_log_softmax` along a dimension that there is."""
    sizes = sizes_of(args[0])
    if kwargs or sizes is None or len(args) != 3 or args[2] is not False or type(args[1]) is not int:
        return None
    return (form(sizes, args[0]),) if -len(sizes) <= args[1] < len(sizes) else None


def addmm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Forms:
    """A matrix product and a row."""
    found = [sizes_of(part) if i != 2 else _matrix(part) for i, part in enumerate(args)]
    if kwargs or len(args) != 3 or any(sizes is None for sizes in found):
        return None
    row, left, right = found
    if not (len(row) == 1 and len(left) == len(right) == 2 and left[1] == right[0] and row[0] == right[1]):  # type: ignore[arg-type,index]
        return None
    if not args[0].dtype == args[1].dtype == args[2].dtype:
        return None
    return (form((left[0], right[1]), args[1]),)  # type: ignore[index]


def _matrix(tensor: Any) -> tuple[sympy.Basic, ...] | None:
    """Sizes of a matrix, contiguous or not."""
    if type(tensor) is not FakeTensor or tensor.dim() != 2 or tensor.layout is not torch.strided:
        return None
    return tuple(map(expression, tensor.shape))


def nll_loss(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Forms:
    """(samples, classes) against (samples,), without weights."""
    if kwargs or len(args) != 5 or args[2] is not None or type(args[4]) is not int:
        return None
    sizes, target = sizes_of(args[0]), args[1]
    if sizes is None or len(sizes) != 2 or type(target) is not FakeTensor or target.dtype != torch.int64:
        return None
    if tuple(map(expression, target.shape)) != sizes[:1] or args[3] not in (0, 1, 2):
        return None
    return form(sizes[:1] if args[3] == 0 else (), args[0]), form((), args[0])


def view(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Forms:
    """Other sizes of a contiguous tensor, whose product is the same as it is written; one of them may be -1."""
    if kwargs or len(args) != 2 or type(args[0]) is not FakeTensor or args[0].layout is not torch.strided:
        return None
    sizes = viewed(args[0], args[1])
    if sizes is None:
        return None
    offset = expression(args[0].storage_offset())
    return (dataclasses.replace(form(sizes, args[0]), offset=offset),)


def viewed(tensor: Any, wanted: Any) -> tuple[sympy.Basic, ...] | None:
    """The sizes of a view, None where it is not plain from what is written that there is one."""
    old = tuple(map(expression, tensor.shape))
    strides = tuple(map(expression, tensor.stride()))
    if strides != contiguous(old) or not all(type(size) in (int, torch.SymInt) for size in wanted):
        return None
    new = [expression(size) for size in wanted]
    whole = sympy.Mul(*old)
    if -1 in new:
        place = new.index(-1)
        rest = sympy.Mul(*(size for i, size in enumerate(new) if i != place))
        if new.count(-1) > 1 or not rest.is_positive:
            return None
        new[place] = whole / rest
        if not new[place].is_integer or not new[place].is_nonnegative:
            return None
    return tuple(new) if sympy.Mul(*new) == whole and all(size.is_nonnegative for size in new) else None


def _overloads(names: str, overloads: tuple[str, ...]) -> list[Any]:
    return [
        getattr(getattr(aten, name), overload)
        for name in names.split()
        if hasattr(aten, name)
        for overload in overloads
        if overload in getattr(aten, name).overloads()
    ]


FORMS: dict[Any, Callable[[tuple[Any, ...], dict[str, Any]], Forms]] = {
    **dict.fromkeys(
        _overloads(
            "relu sigmoid tanh silu leaky_relu elu exp sqrt neg abs sin cos erf rsqrt hardtanh softplus",
            ("default",),
        ),
        unary,
    ),
    **dict.fromkeys(_overloads("add sub mul div", ("Tensor", "Scalar")), binary),
    **dict.fromkeys(_overloads("pow", ("Tensor_Scalar",)), unary),
    **dict.fromkeys(_overloads("eq ne lt le gt ge", ("Tensor", "Scalar")), compared),
    **dict.fromkeys(_overloads("empty_like zeros_like ones_like clone", ("default",)), alike),
    aten.sum.default: whole_sum,
    aten.view.default: view,
    aten._softmax.default: softmax,
    aten._log_softmax.default: softmax,
    aten.addmm.default: addmm,
    aten.nll_loss_forward.default: nll_loss,
}


def forms(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Forms:
    """The results of an operator where nothing needs to be asked, else None."""
    rule = FORMS.get(func)
    return rule(args, kwargs) if rule is not None else None
