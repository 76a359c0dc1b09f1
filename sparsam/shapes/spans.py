"""What is known of the values of whole numbers in tensors without data: the least and the greatest.

A tensor without data has no values, and yet an index made by `arange` can be past the end of a table. So the operators that
make, move and shift whole numbers leave the bounds of their values with the result, and those that pick by index compare
them with the size that is picked from. Bounds that some element surely has are refused as the framework refuses the element;
bounds that only hold, such as a running count of a mask's ones, make the path unknown. Of values that came with the data
nothing is known, and they are taken to be in range.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._mode_utils import no_dispatch

from sparsam.shapes.notes import drawn_from, version_of
from sparsam.shapes.strictness.sizes import counted, numel

SYMBOLS = (int, torch.SymInt)


@dataclasses.dataclass(frozen=True)
class Span:
    """Bounds of the values of a tensor.

    Args:
        low: The least.
        high: One more than the greatest.
        reached: Whether both are values of elements, if there are any.
        first: Where the storage counts upwards by one, its value at address 0; a view then has the values of its addresses.
        version: Of the tensor, which a write in place changes.
    """

    low: Any
    high: Any
    reached: bool = False
    first: Any = None
    version: int = 0

    def moved(self, by: Any) -> "Span":
        """All values plus a number."""
        return Span(self.low + by, self.high + by, self.reached)


def span_of(value: Any) -> Span | None:
    """The bounds of a number or of a tensor's values, None where they are not known."""
    if isinstance(value, bool):
        return None
    if isinstance(value, SYMBOLS):
        return Span(value, value + 1, True)
    if not isinstance(value, torch.Tensor) or value.is_floating_point() or value.is_complex():
        return None
    if value.dtype is torch.bool:
        return Span(0, 2)
    constant = getattr(value, "constant", None)
    if constant is not None and constant.numel():
        with no_dispatch():
            return Span(int(constant.min()), int(constant.max()) + 1, True)
    found: Span | None = getattr(value, "span", None)
    if found is not None:
        return found if version_of(value) == found.version else None
    drawn = drawn_from(value)
    if drawn is None or drawn[1] is None:
        return None
    return Span(drawn[0], drawn[1], True)


def follow(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], answer: Any) -> None:
    """Leaves with an operator's result what is known of its values.

    Args:
        func: The operator.
        args: What it was called with.
        kwargs: The same.
        answer: Its result.
    """
    rule = _FOLLOWS.get(func.overloadpacket) if isinstance(func, torch._ops.OpOverload) else None
    if rule is None or func._schema.is_mutable:
        return
    for made in answer if isinstance(answer, (list, tuple)) else (answer,):
        if not isinstance(made, torch.Tensor) or made.is_inference():
            continue
        if made.dtype in _WHOLE:
            span = rule(args, kwargs, made)
            if span is not None:
                made.span = dataclasses.replace(span, version=0)  # type: ignore[attr-defined]


_WHOLE = frozenset({torch.int64, torch.int32})  # wide enough for no sum of sizes to wrap around

# -- what makes them ----------------------------------------------------------------------------------------------------


def _arange(args: Sequence[Any], kwargs: Mapping[str, Any], made: torch.Tensor) -> Span | None:
    given = args if len(args) > 1 else (0, *args)
    step = given[2] if len(given) > 2 else kwargs.get("step", 1)
    start, size = given[0], made.shape[0]
    if not isinstance(start, SYMBOLS) or not isinstance(step, int) or step < 1:
        return None
    return Span(start, start + (size - 1) * step + 1, True, start if step == 1 else None)


def _constant(place: int) -> Callable[..., Span | None]:
    """The value stands at a place of the arguments."""

    def rule(args: Sequence[Any], kwargs: Mapping[str, Any], made: torch.Tensor) -> Span | None:
        return span_of(args[place]) if len(args) > place else None

    return rule


def _always(value: int) -> Callable[..., Span | None]:
    return lambda args, kwargs, made: Span(value, value + 1, True)


def _places(args: Sequence[Any], kwargs: Mapping[str, Any], made: torch.Tensor) -> Span | None:
    """`argmax` and `argmin` along a dimension."""
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    where = counted(args[0], dim) if isinstance(dim, int) else None
    return None if where is None else Span(0, args[0].shape[where])


# -- what moves them ----------------------------------------------------------------------------------------------------


def _viewed(args: Sequence[Any], kwargs: Mapping[str, Any], made: torch.Tensor) -> Span | None:
    """All elements, in the same storage."""
    return span_of(args[0]) if made.dtype is args[0].dtype else None


def _copied(args: Sequence[Any], kwargs: Mapping[str, Any], made: torch.Tensor) -> Span | None:
    """All elements, in a storage of its own."""
    span = span_of(args[0])
    return None if span is None else _dense(span, args[0], made)


def _dense(span: Span, before: torch.Tensor, made: torch.Tensor) -> Span:
    """The span, still counting if the elements lie in the new storage as they did in the old one."""
    first = span.low if span.first is not None and _strides(before) == _strides(made) else None
    return dataclasses.replace(span, first=first)


def _strides(tensor: torch.Tensor) -> list[Any]:
    return [stride.node.expr if isinstance(stride, torch.SymInt) else stride for stride in tensor.stride()]


def _part(args: Sequence[Any], kwargs: Mapping[str, Any], made: torch.Tensor) -> Span | None:
    """Some of the elements, in the same storage."""
    span = span_of(args[0])
    if span is None:
        return None
    if span.first is None:
        same = isinstance(span.low, int) and isinstance(span.high, int) and span.high == span.low + 1
        return dataclasses.replace(span, reached=same and span.reached)
    low = span.first + made.storage_offset()
    last: Any = low
    for size, stride in zip(made.shape, made.stride(), strict=True):
        last = last + (size - 1) * stride
    return Span(low, last + 1, True, span.first)


def _picked(args: Sequence[Any], kwargs: Mapping[str, Any], made: torch.Tensor) -> Span | None:
    """Some of the elements, in a storage of its own."""
    span = span_of(args[0])
    return None if span is None else Span(span.low, span.high)


def _joined(args: Sequence[Any], kwargs: Mapping[str, Any], made: torch.Tensor) -> Span | None:
    """Elements of several tensors."""
    spans = [span_of(part) for part in (args[0] if isinstance(args[0], (list, tuple)) else args[1:])]
    known = [span for span in spans if span is not None]
    if not known or len(known) < len(spans):
        return None
    low, high = known[0].low, known[0].high
    for span in known[1:]:
        low, high = torch.sym_min(low, span.low), torch.sym_max(high, span.high)
    return Span(low, high)


# -- what changes them --------------------------------------------------------------------------------------------------


def _sum(args: Sequence[Any], kwargs: Mapping[str, Any], made: torch.Tensor) -> Span | None:
    one, other = span_of(args[0]), span_of(args[1])
    if one is None or other is None or kwargs.get("alpha", 1) != 1:
        return None
    if isinstance(args[1], SYMBOLS):
        return _dense(dataclasses.replace(one.moved(args[1]), first=one.first), args[0], made)
    return Span(one.low + other.low, one.high + other.high - 1)


def _difference(args: Sequence[Any], kwargs: Mapping[str, Any], made: torch.Tensor) -> Span | None:
    one, other = span_of(args[0]), span_of(args[1])
    if one is None or other is None or kwargs.get("alpha", 1) != 1:
        return None
    if isinstance(args[1], SYMBOLS):
        return one.moved(-args[1])
    return Span(one.low - other.high + 1, one.high - other.low)


def _product(args: Sequence[Any], kwargs: Mapping[str, Any], made: torch.Tensor) -> Span | None:
    one, other = span_of(args[0]), span_of(args[1])
    if one is None or other is None or not (_natural(one.low) and _natural(other.low)):
        return None
    reached = one.reached and isinstance(args[1], SYMBOLS)
    return Span(one.low * other.low, (one.high - 1) * (other.high - 1) + 1, reached)


def _counts(args: Sequence[Any], kwargs: Mapping[str, Any], made: torch.Tensor) -> Span | None:
    """`cumsum`."""
    span, where = span_of(args[0]), counted(args[0], args[1])
    if span is None or where is None or not _natural(span.low):
        return None
    return Span(span.low, (span.high - 1) * args[0].shape[where] + 1)


def _rest(args: Sequence[Any], kwargs: Mapping[str, Any], made: torch.Tensor) -> Span | None:
    """`%` by a plain number."""
    return Span(0, args[1]) if isinstance(args[1], int) and args[1] > 0 else None


def _natural(low: Any) -> bool:
    return isinstance(low, int) and low >= 0


_aten = torch.ops.aten
_FOLLOWS: Mapping[Any, Callable[..., Span | None]] = {
    _aten.arange: _arange,
    _aten.full: _constant(1),
    _aten.full_like: _constant(1),
    _aten.new_full: _constant(2),
    _aten.zeros: _always(0),
    _aten.zeros_like: _always(0),
    _aten.new_zeros: _always(0),
    _aten.ones: _always(1),
    _aten.ones_like: _always(1),
    _aten.new_ones: _always(1),
    _aten.argmax: _places,
    _aten.argmin: _places,
    _aten.view: _viewed,
    _aten._reshape_alias: _viewed,
    _aten.unsqueeze: _viewed,
    _aten.squeeze: _viewed,
    _aten.permute: _viewed,
    _aten.transpose: _viewed,
    _aten.t: _viewed,
    _aten.expand: _viewed,
    _aten.alias: _viewed,
    _aten.detach: _viewed,
    _aten.clone: _copied,
    _aten._to_copy: _copied,
    _aten._unsafe_view: _copied,
    _aten.repeat: _copied,
    _aten.lift_fresh: _copied,
    _aten.lift_fresh_copy: _copied,
    _aten.slice: _part,
    _aten.select: _part,
    _aten.split: _part,
    _aten.split_with_sizes: _part,
    _aten.unbind: _part,
    _aten.diagonal: _part,
    _aten.flip: _picked,
    _aten.roll: _picked,
    _aten.gather: _picked,
    _aten.index: _picked,
    _aten.index_select: _picked,
    _aten.masked_select: _picked,
    _aten.cat: _joined,
    _aten.stack: _joined,
    _aten.where: _joined,
    _aten.add: _sum,
    _aten.sub: _difference,
    _aten.mul: _product,
    _aten.cumsum: _counts,
    _aten.remainder: _rest,
}

# -- what picks by them -------------------------------------------------------------------------------------------------


def refuse(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], run: Any) -> None:
    """Raises what an operator's kernel says of an index that is surely past the end.

    Args:
        func: The operator.
        args: What it is called with.
        kwargs: The same.
        run: Told of an index that may be past the end.

    Raises:
        IndexError: As the kernel does.
    """
    check = _PICKS.get(func.overloadpacket) if isinstance(func, torch._ops.OpOverload) else None
    if check is not None and not kwargs:
        check(args, run)


def _rows(args: Sequence[Any], run: Any) -> None:
    """`embedding`."""
    _within(args[1], args[0].shape[0], 0, run, lambda value: "index out of range in self")


def _selected(args: Sequence[Any], run: Any) -> None:
    """`index_select`."""
    where = counted(args[0], args[1])
    if where is not None and args[0].dim():
        _within(args[2], args[0].shape[where], 0, run, lambda value: "index out of range in self")


def _gathered(args: Sequence[Any], run: Any) -> None:
    where = counted(args[0], args[1])
    if where is not None and args[0].dim():
        _within_dimension(args[2], args[0], where, 0, run)


def _indexed(args: Sequence[Any], run: Any) -> None:
    """`x[…]` with tensors of indices."""
    where = 0
    for index in args[1]:
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            where += index.dim()
            continue
        if index is not None and where < args[0].dim():
            _within_dimension(index, args[0], where, -args[0].shape[where], run)
        where += 1


def _targets(args: Sequence[Any], run: Any) -> None:
    """`nll_loss`: the targets are classes."""
    scores, target, ignored = args[0], args[1], args[4]
    if scores.dim() and isinstance(ignored, int) and ignored < 0:
        size = scores.shape[1 if scores.dim() > 1 else 0]
        _within(target, size, ignored, run, lambda value: f"Target {value} is out of bounds.")


def _within_dimension(index: torch.Tensor, tensor: torch.Tensor, where: int, least: Any, run: Any) -> None:
    size = tensor.shape[where]
    _within(
        index, size, least, run,
        lambda value: f"index {value} is out of bounds for dimension {where} with size {size}",
    )  # fmt: skip


def _within(index: Any, size: Any, least: Any, run: Any, says: Callable[[Any], str]) -> None:
    """Refuses an index from `size` on or below `least`."""
    span = span_of(index)
    if span is None or index.dtype is torch.bool:
        return
    for past, value in ((span.high > size, span.high - 1), (span.low < least, span.low)):
        if not past or not numel(index) > 0:
            continue
        if span.reached:
            raise IndexError(says(value))
        run.unknown(
            "index",
            f"an index lies between {span.low} and {span.high - 1}, as far as is known, and {size} can be picked from",
        )


_PICKS: Mapping[Any, Callable[[Sequence[Any], Any], None]] = {
    _aten.embedding: _rows,
    _aten.index_select: _selected,
    _aten.gather: _gathered,
    _aten.index: _indexed,
    _aten.nll_loss_forward: _targets,
    _aten.nll_loss2d_forward: _targets,
}
