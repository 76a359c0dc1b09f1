"""NumPy at the border: arrays without data, whose sizes may be symbols. Arrays of plain numbers stay NumPy's own.

An array without data is one of `torch._numpy`, which has a tensor behind it. It answers NumPy's protocols, so that most
functions of NumPy reach it by themselves; the functions that make arrays out of numbers and lists look at their
arguments first.
"""

import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch

from sparsam.shapes.environment import symbolic
from sparsam.shapes.notes import drawn_from
from sparsam.shapes.run import Stop, current
from sparsam.shapes.series import Repeated, Series, as_series, length
from sparsam.shapes.verdict import Unknown

NUMPY = importlib.util.find_spec("numpy") is not None
if NUMPY:
    import numpy as np
    import torch._numpy

    tnp: Any = torch._numpy

DEEP = 6  # nested lists
LOOKED_AT = 64  # items of a long list that are looked at for symbols
_from_numpy = torch.from_numpy


def wrapped(tensor: torch.Tensor) -> Any:
    """An array without data: a tensor behind NumPy's face."""
    return tnp.ndarray(tensor)


def is_array(value: Any) -> bool:
    """Whether a value is an array without data."""
    return NUMPY and type(value) is tnp.ndarray


def unusual(value: Any, deep: int = 0) -> bool:
    """Whether NumPy itself cannot take a value: it is or holds a symbol, a tensor, a picture, or what a loop filled."""
    kind = type(value)
    if kind in (int, float, str, bool, type(None)):
        return False
    if kind in (list, tuple) and deep < DEEP:
        items = value if len(value) <= LOOKED_AT else [*value[: LOOKED_AT // 2], *value[-LOOKED_AT // 2 :]]
        return any(unusual(item, deep + 1) for item in items)
    if kind is slice:
        return symbolic(value.start) or symbolic(value.stop) or symbolic(value.step)
    if symbolic(value) or isinstance(value, (torch.Tensor, Repeated, Series)) or is_array(value):
        return True
    return _is_picture(value)


def _is_picture(value: Any) -> bool:
    from sparsam.shapes.standins.pictures import Picture

    return isinstance(value, Picture)


def tensor_of(value: Any, *, real: bool = False) -> torch.Tensor | None:
    """The tensor of an array, a picture, or a list with symbols in it; None for what NumPy can take.

    Args:
        value: To be turned into a tensor.
        real: Also take NumPy's own arrays.

    Raises:
        ValueError: If the items of a list have unequal sizes.
    """
    if isinstance(value, torch.Tensor):
        return value
    if is_array(value):
        tensor: torch.Tensor = value.tensor
        return tensor
    if NUMPY and isinstance(value, (np.ndarray, np.generic)):
        return _of_real(value) if real else None
    if _is_picture(value):
        picture: torch.Tensor = value.tensor()
        return picture
    if not unusual(value):
        return None
    return _gathered(value)


def _of_real(value: Any) -> torch.Tensor | None:
    kind = getattr(torch, value.dtype.name, None)
    if not isinstance(kind, torch.dtype):
        kind = {"bool": torch.bool, "str": None}.get(value.dtype.name.rstrip("0123456789"))
    return None if kind is None else torch.empty(value.shape, dtype=kind)


def _gathered(value: Any) -> torch.Tensor:
    """A symbol, or a list of what may be symbols, arrays, tensors or lists, as one tensor."""
    if isinstance(value, (bool, torch.SymBool)):
        return torch.empty((), dtype=torch.bool)
    if isinstance(value, (int, torch.SymInt)):
        return torch.empty((), dtype=torch.int64)
    if isinstance(value, (float, torch.SymFloat)):
        return torch.empty((), dtype=torch.float64)
    found = tensor_of(value, real=True) if not isinstance(value, (list, tuple, Series)) else None
    if found is not None:
        return found
    if not isinstance(value, (list, tuple, Series)):
        raise TypeError(f"an array of {type(value).__name__} has no sizes")
    series = as_series(value)
    if isinstance(value, Series):
        from sparsam.shapes.hooks import made

        value = made(lambda item: item, value)
    items = [_gathered(item.item if isinstance(item, Repeated) else item) for item in value]
    count = length(value) if series is not None else len(items)
    if not items:
        return torch.empty((count,), dtype=torch.float64)
    first = items[0]
    for other in items[1:]:
        if other.dim() != first.dim() or any(a != b for a, b in zip(other.shape, first.shape, strict=True)):
            raise ValueError(
                "setting an array element with a sequence. The requested array has an inhomogeneous shape after "
                "1 dimensions."
            )
    kind = functools.reduce(torch.promote_types, [item.dtype for item in items])
    return torch.empty((count, *first.shape), dtype=kind)


# -- NumPy's functions ------------------------------------------------------------------------------------------------


def _taken(value: Any) -> Any:
    """An argument as `torch._numpy` takes it."""
    if is_array(value):
        return value
    if isinstance(value, torch.Tensor):
        return tnp.ndarray(value)
    if isinstance(value, (np.dtype, type)) and value not in (int, float, bool, complex):
        return _kind(value)
    if isinstance(value, np.ndarray):
        made = _of_real(value)
        return value if made is None else tnp.ndarray(made)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)) and unusual(value):
        if all(isinstance(item, (int, torch.SymInt)) for item in value):
            return tuple(value)
        if any(isinstance(item, (Repeated, Series)) for item in value) or not _arrays(value):
            return tnp.ndarray(_gathered(value))
        return type(value)(_taken(item) for item in value)
    if isinstance(value, Series) or _is_picture(value):
        return tnp.ndarray(tensor_of(value))
    if isinstance(value, (torch.SymFloat, torch.SymBool)):
        return tnp.ndarray(_gathered(value))
    return value


def _arrays(values: Any) -> bool:
    return all(is_array(item) or isinstance(item, (torch.Tensor, np.ndarray, list, tuple)) for item in values)


def _kind(value: Any) -> Any:
    try:
        name = np.dtype(value).name
    except TypeError:
        return value
    return getattr(tnp, name if name != "bool" else "bool_", value)


def _given(result: Any) -> Any:
    """A result as the program sees it."""
    if isinstance(result, torch.Tensor):
        return tnp.ndarray(result)
    if isinstance(result, (list, tuple)):
        return type(result)(_given(item) for item in result)
    return result


def _applied(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    from sparsam.shapes.standins.array_functions import OWN

    own = OWN.get(name)
    if own is not None:
        return own(*args, **kwargs)
    function: Any = tnp
    for part in name.split("."):
        function = getattr(function, part, None)
    run = current()
    if function is None:
        raise Stop(
            Unknown(
                "unmodelled-call",
                f"numpy.{name} has no rule for arrays without data",
                run._here() if run is not None else None,
            )
        )
    kwargs = {
        key: _taken(value)
        for key, value in kwargs.items()
        if key not in ("order", "casting", "subok", "where")
    }
    try:
        return _given(function(*map(_taken, args), **kwargs))
    except (RuntimeError, NotImplementedError) as error:
        if not isinstance(error, NotImplementedError):
            raise ValueError(str(error)) from error  # as NumPy's own
        raise Stop(
            Unknown("unmodelled-call", f"numpy.{name}: {error}", run._here() if run is not None else None)
        ) from error


def _universal(self: Any, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
    names = {"add": "sum", "multiply": "prod", "maximum": "max", "minimum": "min"}
    if method == "reduce" and ufunc.__name__ in names:
        return _applied(names[ufunc.__name__], inputs, kwargs)
    if method != "__call__":
        run = current()
        raise Stop(
            Unknown(
                "unmodelled-call",
                f"numpy.{ufunc.__name__}.{method} has no rule",
                run._here() if run is not None else None,
            )
        )
    made = _applied(ufunc.__name__, inputs, kwargs)
    if out is not None:
        target = out[0] if isinstance(out, tuple) else out
        if is_array(target):
            target[...] = made
            return target
    return made


def _function(self: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
    module = func.__module__.removeprefix("numpy").strip(".")
    prefix = "linalg." if module.startswith("linalg") else "fft." if module.startswith("fft") else ""
    return _applied(prefix + func.__name__, args, kwargs)


def _either(real: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(real)
    def through(*args: Any, **kwargs: Any) -> Any:
        if current() is None or not (any(map(unusual, args)) or any(map(unusual, kwargs.values()))):
            return real(*args, **kwargs)
        return _applied(name, args, kwargs)

    return through


def array(value: Any, dtype: Any = None, *, copy: Any = True, ndmin: int = 0, **others: Any) -> Any:
    """`np.array`, `np.asarray` of what has no data.

    Raises:
        RuntimeError: If it is a tensor with a gradient, as the original does.
        TypeError: If it is a tensor on another device.
    """
    if isinstance(value, torch.Tensor):
        value = numpy_of(value)
    tensor = tensor_of(value)
    if tensor is None:
        return np.array(value, dtype)
    if dtype is not None:
        tensor = tensor.to(torch_kind(dtype))
    while tensor.dim() < ndmin:
        tensor = tensor[None]
    return wrapped(tensor)


def torch_kind(dtype: Any) -> torch.dtype:
    """The framework's name of a type of NumPy's.

    Raises:
        TypeError: If there is none.
    """
    found = getattr(torch, np.dtype(dtype).name, None)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"data type {dtype!r} not understood")
    return found


_NAMES = """
array asarray asanyarray ascontiguousarray zeros ones empty full linspace logspace arange eye identity tri pad
split concatenate stack vstack hstack dstack column_stack mean sum std var prod max min amax amin median average
argmax argmin abs absolute sqrt exp log log2 log10 sin cos tan tanh floor ceil round power square sign clip where
zeros_like ones_like empty_like full_like dot matmul outer tile repeat expand_dims squeeze transpose reshape ravel
roll flip cumsum diff sort argsort unique isnan isinf isfinite all any maximum minimum add subtract multiply divide
mod equal allclose array_equal meshgrid bincount broadcast_to swapaxes moveaxis atleast_1d atleast_2d nonzero
percentile quantile histogram save savez savez_compressed savetxt shape size isscalar copyto float32 float64 int64
int32 uint8 nanmean
"""
NAMES = tuple(_NAMES.split())


def numpy_of(tensor: torch.Tensor, force: bool = False) -> Any:
    """`tensor.numpy()`.

    Raises:
        RuntimeError: If it has a gradient.
        TypeError: If it is on another device, or of a type that NumPy has not.
    """
    if force:
        tensor = tensor.detach().cpu()
    if tensor.requires_grad:
        raise RuntimeError(
            "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
        )
    if tensor.device.type not in ("cpu", "meta"):
        raise TypeError(
            f"can't convert {tensor.device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
            "memory first."
        )
    if tensor.dtype is torch.bfloat16:
        raise TypeError("Got unsupported ScalarType BFloat16")
    return wrapped(tensor)


def _refusing(real: Callable[..., Any]) -> Callable[..., Any]:
    """A method of arrays, which refuses with the kind of exception that NumPy's own has."""

    def through(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return _given(
                real(self, *map(_taken, args), **{key: _taken(value) for key, value in kwargs.items()})
            )
        except RuntimeError as error:
            if isinstance(error, NotImplementedError):
                run = current()
                raise Stop(
                    Unknown(
                        "unmodelled-call",
                        f"an array's method: {error}",
                        run._here() if run is not None else None,
                    )
                ) from error
            raise ValueError(str(error)) from error

    return through


_METHODS = """
reshape transpose flatten ravel squeeze swapaxes sum mean std var max min prod argmax argmin argsort cumsum dot
repeat take nonzero any all round clip copy sort __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__
__rtruediv__ __floordiv__ __rfloordiv__ __mod__ __rmod__ __pow__ __rpow__ __matmul__ __rmatmul__ __lt__ __le__
__gt__ __ge__ __eq__ __ne__ __and__ __or__ __xor__
"""
METHODS = tuple(_METHODS.split())


def _added(real: Callable[..., Any]) -> Callable[..., Any]:
    """`sum()`, which is known where all items are the same."""

    def total(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = drawn_from(self.tensor)
        if args or kwargs or found is None or self.tensor.is_floating_point():
            return real(self, *args, **kwargs)
        low, high = found
        same = type(low) is type(high) is int and high == low + 1
        return low * self.tensor.numel() if same else real(self)

    return total


def _in_place(name: str) -> Callable[..., Any]:
    def changed(self: Any, other: Any) -> Any:
        made = getattr(self, f"__{name}__")(other)
        if len(made.shape) != len(self.shape) or any(
            a != b for a, b in zip(made.shape, self.shape, strict=True)
        ):
            raise ValueError(
                f"non-broadcastable output operand with shape {self.shape} doesn't match {made.shape}"
            )
        # What was known of its values does not hold any more.
        torch.autograd.graph.increment_version(self.tensor)
        return self

    return changed


def _truth(self: Any) -> Any:
    if self.tensor.numel() != 1:
        raise ValueError(
            "The truth value of an array with more than one element is ambiguous. Use a.any() or a.all()"
        )
    return bool(self.tensor.any())


def from_numpy(value: Any) -> torch.Tensor:
    """`torch.from_numpy`.

    Raises:
        TypeError: If it is no array.
    """
    if is_array(value):
        tensor: torch.Tensor = value.tensor
        return tensor
    if isinstance(value, torch.Tensor):
        raise TypeError("expected np.ndarray (got Tensor)")
    real: torch.Tensor = _from_numpy(value)
    return real


def _formatted(self: Any, form: str = "") -> str:
    return format(0.0, form) if form and form[-1] in "eEfFgGn%" else format(0, form) if form else "array"


def _scalar(self: Any) -> Any:
    return self.tensor.item()


def _cast(self: Any, dtype: Any, *args: Any, **kwargs: Any) -> Any:
    return wrapped(self.tensor.to(torch_kind(dtype)))


def _viewed(self: Any, dtype: Any = None, *args: Any) -> Any:
    return wrapped(self.tensor if dtype is None else self.tensor.view(torch_kind(dtype)))


def _picked(self: Any, index: Any) -> Any:
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, torch.SymInt) for part in parts):
        made = self.tensor[tuple(part.tensor if is_array(part) else part for part in parts)]
        made = tnp.ndarray(made)
    else:
        made = _real_getitem(self, _indices(index))
    found = drawn_from(self.tensor)
    if found is not None:
        made.tensor.value_range = found
    return made


def picked(values: Any, index: Any) -> Any:
    """`values[index]` of one of NumPy's own arrays, where the index may be a symbol or an array without data.

    Raises:
        IndexError: If there is no such item.
    """
    if not isinstance(values, np.ndarray) or not unusual(index):
        return values[index]
    made = _of_real(values)
    if made is None:
        return values[index]
    if isinstance(index, torch.SymInt):
        return wrapped(made.select(0, index))
    found = tensor_of(index) if not isinstance(index, slice) else None
    return wrapped(made[found if found is not None else index])


def _indices(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(_indices(part) for part in index)
    if isinstance(index, slice):
        bounds = (index.start, index.stop, index.step)
        return slice(
            *(part.tensor.item() if is_array(part) and not part.tensor.dim() else part for part in bounds)
        )
    if isinstance(index, np.ndarray):
        return torch.as_tensor(index)
    if isinstance(index, (list, Series)) and unusual(index):
        return tensor_of(index)
    return index.item() if isinstance(index, np.integer) else index


def _rows(self: Any) -> Any:
    if self.tensor.dim() == 0:
        raise TypeError("iteration over a 0-d array")
    return Series(self.__series__().segments, "an array").__iter__()


def _series(self: Any) -> Series | None:
    from sparsam.shapes.series import Segment

    if self.tensor.dim() == 0:
        return None
    return Series(lambda: [Segment(self.tensor.shape[0], lambda index: self[index])], "an array")


if NUMPY:
    _real_getitem = tnp.ndarray.__getitem__
    _real_setitem = tnp.ndarray.__setitem__


def _placed(self: Any, index: Any, value: Any) -> None:
    tensor = tensor_of(value, real=True)
    if tensor is not None:
        value = tensor.to(self.tensor.dtype)
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, torch.SymInt) for part in parts):
        self.tensor[tuple(part.tensor if is_array(part) else part for part in parts)] = value
    elif isinstance(value, torch.Tensor):
        _real_setitem(self, _indices(index), tnp.ndarray(value))
    else:
        _real_setitem(self, _indices(index), value if not symbolic(value) else 0)


def patches() -> Iterator[tuple[Any, str, Any]]:
    """(owner, attribute, stand-in) for all of this module."""
    if not NUMPY:
        return
    for name in NAMES:
        real = getattr(np, name, None)
        if callable(real) and not isinstance(real, (type, np.ufunc)):
            yield np, name, _either(real, name)
        elif isinstance(real, np.ufunc):
            yield np, name, _Ufunc(real)
    stand = tnp.ndarray
    yield stand, "__array_ufunc__", _universal
    yield stand, "__array_function__", _function
    yield stand, "dtype", property(lambda self: np.dtype(str(self.tensor.dtype).removeprefix("torch.")))
    for name in METHODS:
        real = getattr(stand, name, None)
        if real is not None:
            yield stand, name, _refusing(real)
    yield stand, "sum", _added(_refusing(stand.sum))
    for name in ("add", "sub", "mul", "truediv", "floordiv", "pow"):
        yield stand, f"__i{name}__", _in_place(name)
    yield stand, "__bool__", _truth
    yield stand, "__format__", _formatted
    yield stand, "__repr__", lambda self: "array(…)"
    yield stand, "__str__", lambda self: "array(…)"
    yield stand, "astype", _cast
    yield stand, "view", _viewed
    yield stand, "__getitem__", _picked
    yield stand, "__setitem__", _placed
    yield stand, "__series__", _series
    yield stand, "__iter__", _rows
    yield stand, "__hash__", object.__hash__
    yield (
        stand,
        "item",
        lambda self, *index: (self[index[0] if len(index) == 1 else index] if index else self).tensor.item(),
    )
    yield stand, "tolist", lambda self: self.tensor.tolist()
    yield stand, "tobytes", lambda self, *args: b""
    yield (
        stand,
        "shape",
        property(lambda self: tuple(self.tensor.shape), lambda self, sizes: _reshape(self, sizes)),
    )
    yield torch, "from_numpy", from_numpy


def _reshape(self: Any, sizes: Any) -> None:
    self.tensor = self.tensor.reshape(sizes)


class _Ufunc:
    """A universal function that also takes symbols and lists of them."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.function = _either(real, real.__name__)
        self.__name__ = real.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)
