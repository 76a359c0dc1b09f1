"""Where tensors become Python's numbers and lists or NumPy's arrays, and the other way round."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from sparsam.shapes.environment import symbolic
from sparsam.shapes.notes import drawn_from, version_of
from sparsam.shapes.run import Run
from sparsam.shapes.series import Segment, Series
from sparsam.shapes.spans import Span, span_of
from sparsam.shapes.standins import arrays


def tensor(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.tensor` and `torch.as_tensor` of symbols, arrays without data, and lists of them; of whole numbers the bounds."""
    data = args[0] if args else kwargs.get("data")
    if isinstance(data, torch.Tensor):
        return NotImplemented
    if not arrays.unusual(data):
        return _bounded(data, func, args, kwargs)
    made = arrays.tensor_of(data)
    if made is None:
        return NotImplemented
    if made.requires_grad:
        made = made.detach()
    kind = kwargs.get("dtype") or (args[1] if len(args) > 1 else None)
    if kind is None and made.dtype is torch.float64 and not arrays.is_array(data):
        kind = torch.get_default_dtype()
    made = torch.empty_like(made, dtype=kind, device=kwargs.get("device"))
    return made.requires_grad_() if kwargs.get("requires_grad") else made


def _bounded(data: Any, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    numbers = list(itertools.islice(_leaves(data), SMALL + 1)) if isinstance(data, (list, tuple)) else []
    if not 0 < len(numbers) <= SMALL or not all(type(number) is int for number in numbers):
        return NotImplemented
    with torch._C.DisableTorchFunction():
        made = func(*args, **kwargs)
    if made.dtype in (torch.int64, torch.int32) and span_of(made) is None:
        made.span = Span(min(numbers), max(numbers) + 1, True, version=version_of(made))
    return made


def _leaves(data: Any) -> Iterator[Any]:
    """The items of a nested list."""
    for item in data:
        if isinstance(item, (list, tuple)):
            yield from _leaves(item)
        else:
            yield item


def numpy(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`x.numpy()`."""
    return arrays.numpy_of(args[0], **kwargs) if arrays.NUMPY else NotImplemented


def tolist(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`x.tolist()`: a list whose length may be a symbol."""
    whole = args[0]
    if whole.dim() == 0:
        return whole.item()
    if not any(map(symbolic, whole.shape)) and whole.numel() <= SMALL:
        found = [whole[index] for index in range(whole.shape[0])]
        return [tolist(run, func, (part,), {}) for part in found]
    from sparsam.shapes.hooks import made

    rows = Series(lambda: [Segment(whole.shape[0], lambda index: whole.select(0, index))], "a tensor's rows")
    return made(lambda row: tolist(run, func, (row,), {}), rows)


SMALL = 64  # values of a tensor that are told apart in a list


def item(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`x.item()` of a tensor whose values lie in a known range."""
    found = range_of(args[0])
    if found is None or args[0].numel() != 1:
        return NotImplemented
    if args[0].dtype is torch.bool:
        return NotImplemented  # a truth is no whole number
    low, high = found
    if args[0].is_floating_point():
        if symbolic(low) or symbolic(high):
            return NotImplemented
        return run.shapes.value("a number read from data", low, high, integer=False)
    if symbolic(low) or not low < high:
        return NotImplemented
    return run.shapes.index("a number read from data", high, low)


def range_of(tensor: torch.Tensor) -> tuple[Any, Any] | None:
    """(least, one more than the greatest) value of a tensor where they are known, and nothing was written since."""
    found = drawn_from(tensor)
    return drawn_from(tensor._base) if found is None and tensor._base is not None else found


def randint(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.randint`: its values have a range."""
    given = [value for value in args if not isinstance(value, (tuple, list, torch.Size))]
    low, high = (0, *given)[-2:] if given else (kwargs.get("low", 0), kwargs.get("high"))
    if high is None:
        return NotImplemented
    if not low < high:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    with torch._C.DisableTorchFunction():
        made = func(*args, **kwargs)
    made.value_range = (low, high)
    return made


def randperm(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.randperm`."""
    with torch._C.DisableTorchFunction():
        made = func(*args, **kwargs)
    made.value_range = (0, args[0])
    return made


def rand(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.rand`."""
    with torch._C.DisableTorchFunction():
        made = func(*args, **kwargs)
    made.value_range = (0.0, 1.0)
    return made


def formatted(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`format(x)`: what a tensor without data looks like is of no interest.

    Raises:
        TypeError: If there is more than one value and a format is asked for.
    """
    tensor, form = args[0], args[1] if len(args) > 1 else ""
    if form and tensor.dim():
        raise TypeError("unsupported format string passed to Tensor.__format__")
    return format(0.0 if tensor.is_floating_point() else 0, form)


def beside(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`x.data`: what is written through it leaves no trace at the tensor, whose values are not known from here on."""
    for whole in (args[0], args[0]._base):
        if whole is not None:
            whole.span = whole.value_range = None
    return NotImplemented


RULES: dict[Any, Callable[..., Any]] = {
    torch.Tensor.data.__get__: beside,  # type: ignore[attr-defined]
    torch.Tensor.data.__set__: beside,  # type: ignore[attr-defined]
    torch.tensor: tensor,
    torch.as_tensor: tensor,
    torch.asarray: tensor,
    torch.Tensor.numpy: numpy,
    torch.Tensor.__array__: numpy,
    torch.Tensor.tolist: tolist,
    torch.Tensor.item: item,
    torch.Tensor.__format__: formatted,
    torch.Tensor.__repr__: lambda run, func, args, kwargs: f"tensor of {tuple(args[0].shape)}",
    torch.randint: randint,
    torch.randperm: randperm,
    torch.rand: rand,
}
