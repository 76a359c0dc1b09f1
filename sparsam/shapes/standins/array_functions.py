"""Functions of NumPy on arrays without data that `torch._numpy` lacks, or that have to keep a size exact."""

import functools
import itertools
import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from sparsam.shapes.environment import symbolic
from sparsam.shapes.run import current
from sparsam.shapes.series import Repeated, length
from sparsam.shapes.standins.arrays import (
    NUMPY,
    _given,
    _of_real,
    _taken,
    array,
    is_array,
    tensor_of,
    torch_kind,
    wrapped,
)

if NUMPY:
    import numpy as np
    import torch._numpy

    tnp: Any = torch._numpy


def _filled(sizes: Any, dtype: Any = None, *others: Any, **kwargs: Any) -> Any:
    sizes = tuple(sizes) if isinstance(sizes, (list, tuple)) or is_array(sizes) else (sizes,)
    if any(size < 0 for size in sizes):
        raise ValueError("negative dimensions are not allowed")
    return wrapped(torch.empty(sizes, dtype=torch.float64 if dtype is None else torch_kind(dtype)))


def _full(sizes: Any, value: Any, dtype: Any = None, **kwargs: Any) -> Any:
    kind = (
        dtype if dtype is not None else np.float64 if isinstance(value, (float, torch.SymFloat)) else np.int64
    )
    return _filled(sizes, kind)


def _spaced(
    start: Any, stop: Any, num: Any = 50, endpoint: bool = True, retstep: bool = False, dtype: Any = None
) -> Any:
    return _filled((num,), dtype)


def _steps(*args: Any, dtype: Any = None, **kwargs: Any) -> Any:
    start, stop, step = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]
    real = any(isinstance(part, (float, torch.SymFloat)) for part in (start, stop, step))
    if real:
        count = math.ceil((stop - start) / step)
    else:
        from sparsam.shapes.series import counted

        count = counted(stop, start, step).length()
    kind = dtype if dtype is not None else np.float64 if real else np.int64
    made = _filled((torch.sym_max(count, 0),), kind)
    made.tensor.value_range = (start, stop)
    return made


def _padded(value: Any, pad_width: Any, mode: str = "constant", **kwargs: Any) -> Any:
    tensor = tensor_of(value, real=True)
    if tensor is None:
        raise TypeError("an array is needed")
    pairs = pad_width if isinstance(pad_width, (list, tuple)) else (pad_width, pad_width)
    if not isinstance(pairs[0], (list, tuple)):
        pairs = [tuple(pairs) if len(pairs) == 2 else (pairs[0], pairs[0])] * tensor.dim()
    if len(pairs) == 1:
        pairs = list(pairs) * tensor.dim()
    sizes = [size + before + after for size, (before, after) in zip(tensor.shape, pairs, strict=True)]
    return wrapped(tensor.new_empty(sizes))


def _sliding(value: Any, window: Any, axis: Any = None, **kwargs: Any) -> Any:
    tensor = tensor_of(value, real=True)
    if tensor is None or isinstance(window, tuple):
        raise NotImplementedError("sliding windows over several axes")
    return wrapped(tensor.unfold(0 if axis is None else axis, window, 1))


def _items(arrays: Any, rank: int = 0) -> list[Any]:
    """Items of a list as tensors, of at least some rank; what stands for many stays so."""

    def one(item: Any) -> Any:
        if isinstance(item, Repeated):
            return Repeated(one(item.item), item.count)
        tensor = tensor_of(item, real=True)
        if tensor is None:
            tensor = _of_real(np.asarray(item))
        if tensor is None:
            raise TypeError("an array is needed")
        while tensor.dim() < rank:
            tensor = tensor[None]
        return tensor

    return [one(item) for item in (arrays if isinstance(arrays, (list, tuple)) else list(arrays))]


def _joined(arrays: Any, axis: Any = 0, rank: int = 0, join: Callable[..., Any] = torch.cat) -> Any:
    items = _items(arrays, rank)
    if not items:
        raise ValueError("need at least one array to concatenate")
    if axis is None:
        items, axis = [item.reshape(-1) for item in items], 0
    try:
        return wrapped(join(items, axis))
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def _side_by_side(arrays: Any, **kwargs: Any) -> Any:
    items = _items(arrays, 1)
    first = items[0].item if isinstance(items[0], Repeated) else items[0]
    return _joined(items, 0 if first.dim() == 1 else 1)


def _needed(value: Any) -> torch.Tensor:
    tensor = tensor_of(value, real=True)
    if tensor is None:
        raise TypeError("an array is needed")
    return tensor


def _save(*args: Any, **kwargs: Any) -> None:
    """Nothing is written."""


def _like(value: Any, *others: Any, dtype: Any = None, **kwargs: Any) -> Any:
    tensor = tensor_of(value, real=True)
    if tensor is None:
        raise TypeError("an array is needed")
    return wrapped(torch.empty_like(tensor, dtype=None if dtype is None else torch_kind(dtype)))


def _split(value: Any, parts: Any, axis: Any = 0) -> list[Any]:
    tensor = tensor_of(value, real=True)
    if tensor is None:
        raise TypeError("an array is needed")
    total = tensor.shape[axis]
    if isinstance(parts, (int, torch.SymInt)):
        if total % parts != 0:
            raise ValueError("array split does not result in an equal division")
        step = total // parts
        return [wrapped(tensor.narrow(axis, step * i, step)) for i in range(int(parts))]
    ends = [0, *parts, total]
    return [wrapped(tensor.narrow(axis, a, b - a)) for a, b in itertools.pairwise(ends)]


def _numbers(name: str, of_numbers: Callable[[list[Any]], Any]) -> Callable[..., Any]:
    """A reduction that is exact for a flat list of sizes."""

    def function(values: Any, *args: Any, **kwargs: Any) -> Any:
        flat = isinstance(values, (list, tuple)) and all(isinstance(v, (int, torch.SymInt)) for v in values)
        if flat and values and not args:
            return of_numbers(list(values))
        own = {key: _taken(value) for key, value in kwargs.items()}
        return _given(getattr(tnp, name)(_taken(values), *map(_taken, args), **own))

    return function


def _single(name: str, symbol: Callable[[Any], Any]) -> Callable[..., Any]:
    """A function of one number, exact for a symbol."""

    def function(value: Any, *args: Any, **kwargs: Any) -> Any:
        if symbolic(value):
            return symbol(value)
        return _given(getattr(tnp, name)(_taken(value), *map(_taken, args)))

    return function


def _some_real(value: Any) -> Any:
    run = current()
    return run.shapes.value("a real number", integer=False) if run is not None else 1.0


OWN: dict[str, Callable[..., Any]] = {
    "prod": _numbers("prod", lambda values: functools.reduce(operator.mul, values)),
    "sum": _numbers("sum", lambda values: functools.reduce(operator.add, values)),
    "max": _numbers("max", lambda values: functools.reduce(torch.sym_max, values)),
    "min": _numbers("min", lambda values: functools.reduce(torch.sym_min, values)),
    "mean": _numbers("mean", lambda values: functools.reduce(operator.add, values) / len(values)),
    "sqrt": _single("sqrt", lambda value: math.sqrt(value)),
    "floor": _single("floor", lambda value: math.floor(value)),
    "ceil": _single("ceil", lambda value: math.ceil(value)),
    "abs": _single("abs", lambda value: abs(value)),
    "absolute": _single("abs", lambda value: abs(value)),
    **{
        name: _single(name, _some_real)
        for name in ("exp", "log", "log2", "log10", "sin", "cos", "tan", "tanh", "isnan", "isinf", "isfinite")
    },
    "array": array,
    "asarray": array,
    "asanyarray": array,
    "ascontiguousarray": array,
    "zeros": _filled,
    "ones": _filled,
    "empty": _filled,
    "full": _full,
    "linspace": _spaced,
    "logspace": _spaced,
    "arange": _steps,
    "concatenate": lambda arrays, axis=0, **kwargs: _joined(arrays, axis),
    "stack": lambda arrays, axis=0, **kwargs: _joined(arrays, axis, join=torch.stack),
    "vstack": lambda arrays, **kwargs: _joined(arrays, 0, 2),
    "hstack": _side_by_side,
    "pad": _padded,
    "sliding_window_view": _sliding,
    "save": _save,
    "savez": _save,
    "savetxt": _save,
    "savez_compressed": _save,
    "split": _split,
    "zeros_like": _like,
    "ones_like": _like,
    "empty_like": _like,
    "full_like": _like,
    "isscalar": lambda value: symbolic(value),
    "shape": lambda value: tuple(_needed(value).shape),
    "size": lambda value, axis=None: length(value) if axis is None else _needed(value).shape[axis],
    "copyto": lambda target, source, **kwargs: target.__setitem__(..., source),
}
