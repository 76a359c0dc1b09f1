"""Built-in functions on symbols, as the rewritten program calls them."""

import builtins
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sympy
import torch
from torch.fx.experimental.sym_node import SymNode

from sparsam.shapes import series as seriess
from sparsam.shapes.environment import Shapes, symbolic, symbols_of
from sparsam.shapes.guesses import alike, blended
from sparsam.shapes.loops import loop, while_begin, while_done, while_round
from sparsam.shapes.merging import enter, fork, join, last
from sparsam.shapes.rewrite import (
    BEGIN,
    CALL,
    DONE,
    EACH,
    ENTER,
    FORK,
    ITEM,
    JOIN,
    LAST,
    LOOP,
    MADE,
    PERCENT,
    ROUND,
    SLICE,
)
from sparsam.shapes.run import Stop, current
from sparsam.shapes.series import Repeated, Segment, Series, as_series
from sparsam.shapes.unused import Unused
from sparsam.shapes.verdict import Unknown


def names() -> dict[str, Any]:
    """What a rewritten module must find among its globals."""
    return {
        LOOP: loop, SLICE: slice, EACH: each, CALL: call, ITEM: item, PERCENT: percent, BEGIN: while_begin, ROUND: while_round,
        DONE: while_done, MADE: made, FORK: fork, JOIN: join, LAST: last, ENTER: enter,
    }  # fmt: skip


def call(function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """A call of a name that may be a built-in function."""
    hook = HOOKS.get(function) if isinstance(function, _HASHED) else None
    if hook is None:
        return function(*args, **kwargs)
    return hook(*args, **kwargs)


KINDS = 16  # of unlike items in one list

_HASHED = (type, type(len))


def each(iterable: Any) -> Any:
    """What a comprehension runs over."""
    series = as_series(iterable)
    return iterable if series is None else iter(series)


def made(function: Callable[[Any], Any], iterable: Any) -> list[Any]:
    """A list comprehension with one `for` and no `if`."""
    series = as_series(iterable)
    if series is None:
        return [function(item) for item in iterable]
    found: list[Any] = []
    for segment in series.segments():
        found += _alike(function, segment)
    return found


def _alike(function: Callable[[Any], Any], segment: Segment) -> list[Any]:
    """The items of one segment: one by one where their number is known, else the first, an unknown number, the last."""
    count = segment.count
    if isinstance(count, int):
        return [function(segment.item(index)) for index in range(count)]
    if not count > 0:
        return []
    first = function(segment.item(0))
    if not count > 1:
        return [first]
    run = current()
    if run is None or not count > 2:
        return [first, function(segment.item(count - 1))]
    other = function(segment.item(run.shapes.index("a round of the comprehension", count - 1, 1)))
    last = function(segment.item(count - 1))
    if not alike(other, last):
        run.unknown("loop", "the items of a comprehension are not alike")
    return [first, Repeated(other, count - 2), last]


def item(values: Any, index: Any) -> Any:
    """`values[index]`, where the index of a list may be a symbol: then any of its items, which have to be alike.

    Raises:
        IndexError: If there is no such item.
    """
    if isinstance(index, slice):
        if isinstance(values, (list, tuple)) and as_series(values) is not None:
            return seriess.sliced(values, index)
        if type(values).__module__ != "numpy":
            return values[index]
    if type(values).__module__ == "numpy" and not isinstance(index, int):
        from sparsam.shapes.standins import arrays

        return arrays.picked(values, index)
    if type(index).__module__ == "torch._numpy._ndarray":
        index = index.tensor if isinstance(values, torch.Tensor) else index.tensor.item()
    if not isinstance(index, torch.SymInt) or not isinstance(values, (list, tuple, range, str)):
        return values[index]
    if isinstance(values, range):
        if not (-len(values) <= index < len(values)):
            raise IndexError("range object index out of range")
        return values.start + index * values.step
    if isinstance(values, torch.Size) or as_series(values) is not None:
        series = as_series(values)
        return series[index] if series is not None else values[index]
    count = len(values)
    if not (index < count and -count <= index):
        raise IndexError(f"{type(values).__name__} index out of range")
    return any_of(values, index)


def any_of(values: Any, index: Any) -> Any:
    """One of the items of a list: the case is split where they are not alike.

    Numbers that differ give a number of their range.
    """
    run = current()
    if run is None:
        return values[index]
    kinds: list[list[Any]] = []
    for value in values:
        kind = next((kind for kind in kinds if alike(value, kind[0])), None)
        if kind is not None:
            kind.append(value)
            continue
        kinds.append([value])
        if len(kinds) > KINDS:
            raise Stop(Unknown("value", f"a list has more than {KINDS} kinds of items", run._here()))
    chosen = kinds[-1]
    if len(kinds) > 1:
        which = run.shapes.value("which kind of item of a list", 0, len(kinds) - 1)
        chosen = next((kind for number, kind in enumerate(kinds[:-1]) if which == number), chosen)
    return blended(chosen, run, "a number of a list", between=True)


def percent(left: Any, right: Any) -> Any:
    """`left % right`, where left may be a text to be filled in."""
    if not isinstance(left, (str, bytes)):
        return left % right
    values = right if isinstance(right, tuple) else (right,)
    if isinstance(right, dict):
        return left % {key: _printable(value) for key, value in right.items()}
    return left % tuple(_printable(value) for value in values)


def _printable(value: Any) -> Any:
    """A plain number in place of a symbol: what is printed does not matter."""
    if symbolic(value):
        return {torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool}[type(value)](_shown(value))
    if isinstance(value, torch.Tensor):
        return 0.0
    return value


def _shown(value: Any) -> Any:
    run = current()
    return value.node.hint if run is None else run.shapes.shown(value.node.expr)


def isinstance_(value: Any, kinds: Any) -> bool:
    """`isinstance`, to which a symbol is a number."""
    if type(value) is Unused:
        value.used()
    if symbolic(value):
        stands_for = {torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool}[type(value)]
        return isinstance(value, kinds) or issubclass(stands_for, kinds)
    if type(value).__module__ == "torch._numpy._ndarray":
        # An array without data: to the program one of NumPy's.
        import numpy

        return isinstance(value, kinds) or issubclass(numpy.ndarray, kinds)
    return isinstance(value, kinds)


def range_(*args: Any) -> Any:
    """`range`."""
    if any(symbolic(arg) for arg in args):
        start, stop, step = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]
        return seriess.counted(stop, start, step)
    return range(*args)


def int_(*args: Any, **kwargs: Any) -> Any:
    """`int`."""
    if args and type(args[0]).__module__ == "torch._numpy._ndarray":
        args = (args[0].tensor, *args[1:])
    if args and isinstance(args[0], torch.SymInt):
        return args[0]
    if args and isinstance(args[0], torch.SymFloat):
        return torch.sym_int(args[0])
    if args and isinstance(args[0], torch.SymBool):
        return torch.sym_ite(args[0], 1, 0)
    if args and isinstance(args[0], torch.Tensor) and not kwargs:
        item = args[0].item()
        return torch.sym_int(item) if isinstance(item, torch.SymFloat) else item
    return int(*args, **kwargs)


def float_(*args: Any) -> Any:
    """`float`."""
    if args and type(args[0]).__module__ == "torch._numpy._ndarray":
        args = (args[0].tensor, *args[1:])
    if args and (isinstance(args[0], (torch.SymInt, torch.SymFloat))):
        return torch.sym_float(args[0])
    if args and isinstance(args[0], torch.Tensor):
        item = args[0].item()
        return torch.sym_float(item) if symbolic(item) else float(item)
    return float(*args)


def abs_(value: Any) -> Any:
    """`abs`."""
    return abs(value)


def min_(*args: Any, **kwargs: Any) -> Any:
    """`min`."""
    return _extreme(min, torch.sym_min, args, kwargs)


def max_(*args: Any, **kwargs: Any) -> Any:
    """`max`."""
    return _extreme(max, torch.sym_max, args, kwargs)


def _extreme(
    plain: Callable[..., Any], pair: Callable[[Any, Any], Any], args: tuple[Any, ...], kwargs: Any
) -> Any:
    items = args
    if len(args) == 1:
        series = as_series(args[0])
        items = tuple(args[0]) if series is None else tuple(_samples(series))
    if kwargs or not any(symbolic(item) for item in items):
        return plain(items, **kwargs) if len(args) == 1 else plain(*args, **kwargs)
    found = items[0]
    for item in items[1:]:
        found = pair(found, item)
    return found


def _samples(series: Series) -> list[Any]:
    return _unfolded(made(lambda item: item, series))


def _unfolded(items: list[Any]) -> list[Any]:
    return [item.item if isinstance(item, Repeated) else item for item in items]


def sum_(iterable: Any, /, start: Any = 0) -> Any:
    """`sum`: of a series of tensors all alike, that of a few of them; of numbers, a number that only data know."""
    series = as_series(iterable)
    if series is None:
        total = start
        for item in iterable:
            total = total + item
        return total
    total = start
    for segment in series.segments():
        if isinstance(segment.count, int):
            for index in range(segment.count):
                total = total + segment.item(index)
            continue
        items = _alike(lambda item: item, segment)
        for item in items:
            if not isinstance(item, Repeated):
                total = total + item
            elif isinstance(item.item, torch.Tensor) or not symbolic(item.item) or not _of_data(item.item):
                total = total + item.item * item.count
            else:
                run = current()
                total = (
                    run.shapes.value("a sum of data", integer=isinstance(total, (int, torch.SymInt)))
                    if run
                    else 0
                )
    return total


def _of_data(value: Any) -> bool:
    from sparsam.shapes.environment import printed

    run = current()
    return run is not None and any(printed(s) in run.shapes.fresh for s in value.node.expr.free_symbols)


def round_(value: Any, digits: Any = None) -> Any:
    """`round`."""
    if isinstance(value, torch.SymFloat):
        run = current()
        if digits is None and run is not None:
            return (
                torch.sym_int(value + torch.sym_float(0.5))
                if not _of_data(value)
                else run.shapes.value("a rounded number")
            )
        return value
    return round(value, digits) if digits is not None else round(value)


def list_(*args: Any) -> list[Any]:
    """`list`."""
    series = as_series(args[0]) if args else None
    return list(*args) if series is None else made(lambda item: item, series)


def tuple_(*args: Any) -> tuple[Any, ...]:
    """`tuple`."""
    series = as_series(args[0]) if args else None
    return tuple(*args) if series is None else tuple(made(lambda item: item, series))


def map_(function: Any, *iterables: Any) -> Any:
    """`map`."""
    if len(iterables) == 1:
        series = as_series(iterables[0])
        if series is not None:
            return series.map(lambda index, item: function(item), "map")
    return map(function, *iterables)


def reversed_(value: Any) -> Any:
    """`reversed`."""
    series = as_series(value)
    if series is None:
        return reversed(value)

    def segments() -> list[Segment]:
        return [_backwards(segment) for segment in reversed(series.segments())]

    return Series(segments, f"reversed {series.name}")


def _backwards(segment: Segment) -> Segment:
    return Segment(segment.count, lambda index: segment.item(segment.count - 1 - index))


def iter_(value: Any, *sentinel: Any) -> Iterator[Any]:
    """`iter`."""
    series = as_series(value) if not sentinel else None
    return iter(value, *sentinel) if series is None else iter(series)


PRINT = builtins.print


def print_(*args: Any, **kwargs: Any) -> None:
    """`print`: what a tensor without data looks like is of no interest."""
    PRINT(*(_text(arg) for arg in args), **kwargs)


def _text(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"tensor of {tuple(value.shape)}"
    return format_(value)


def str_(*args: Any, **kwargs: Any) -> str:
    """`str`."""
    return format_(args[0]) if args and symbolic(args[0]) else str(*args, **kwargs)


def format_(value: Any, form: str = "") -> str:
    """`format`."""
    return format(_printable(value), form) if symbolic(value) else format(value, form)


def divmod_(one: Any, other: Any) -> Any:
    """`divmod`."""
    return (one // other, one % other) if symbolic(one) or symbolic(other) else divmod(one, other)


def input_(*args: Any) -> str:
    """`input`: nobody is there to answer."""
    run = current()
    if run is not None:
        run.unknown("argument", "the program asks for input; it gets an empty line")
    return ""


@contextmanager
def patched_symbols() -> Iterator[None]:
    """Within, the framework's symbols have what numbers have and they lack: formats, and the functions of `math`."""
    kinds = (torch.SymInt, torch.SymFloat, torch.SymBool)
    functions = {name: value for name, value in vars(math).items() if callable(value)}
    methods: list[tuple[Any, str, Any]] = [
        (kind, name, vars(kind).get(name)) for kind in kinds for name in ("__format__", *DIVISIONS)
    ]
    methods += [(SymNode, name, vars(SymNode)[name]) for name in (*REMEMBERED, "maybe_as_int")]
    _patch_symbols()
    try:
        yield
    finally:
        vars(math).update(functions)
        for kind, name, method in methods:
            if method is not None:
                setattr(kind, name, method)
            elif name in vars(kind):
                delattr(kind, name)


REMEMBERED = (
    "_add", "_sub", "_mul", "_eq", "_ne", "_lt", "_le", "_gt", "_ge", "_sym_max", "_sym_min", "_and_", "_or_",
)  # fmt: skip
"""Operations of which the result depends on the expressions alone: strides are products of the same few sizes."""
DIVISIONS = ("__floordiv__", "__mod__", "__truediv__", "__rfloordiv__", "__rmod__", "__rtruediv__")


def _patch_symbols() -> None:

    def formatted(self: Any, form: str) -> str:
        return format(_printable(self), form)

    for kind in (torch.SymInt, torch.SymFloat, torch.SymBool):
        kind.__format__ = formatted  # type: ignore[method-assign]
    made: dict[str, Any] = {name: _remembered(name, getattr(SymNode, name)) for name in REMEMBERED}
    for name, method in (made | {"maybe_as_int": _known_number(SymNode.maybe_as_int)}).items():
        setattr(SymNode, name, method)
    for kind in (torch.SymInt, torch.SymFloat):
        for name in DIVISIONS:
            plain = getattr(kind, name, None)
            if plain is not None and not hasattr(plain, "__wrapped__"):
                setattr(kind, name, _divided(plain, backwards=name.startswith("__r")))
    for name in ("sqrt", "cos", "sin", "tan", "exp", "log2", "asin", "acos", "atan", "cosh", "sinh", "tanh"):
        symbol = getattr(torch, f"sym_{name}", None) or getattr(torch, f"_sym_{name}", None)
        if symbol is not None:
            setattr(math, name, _either(getattr(math, name), symbol))
    math.floor = _either(math.floor, torch.sym_int_floor if hasattr(torch, "sym_int_floor") else _floor)
    math.ceil = _either(math.ceil, _ceil)
    for name in ("log", "log10", "log1p", "exp", "expm1", "erf", "atan2", "hypot"):
        if getattr(getattr(math, name), "__wrapped__", None) is None:
            setattr(math, name, _either(getattr(math, name), _unknown_real))
    math.fabs = _either(math.fabs, abs)
    math.pow = _either(math.pow, lambda x, y: torch.sym_float(x) ** y)
    math.isnan = _either(math.isnan, lambda x: False)
    math.isinf = _either(math.isinf, lambda x: False)
    math.isfinite = _either(math.isfinite, lambda x: True)
    math.prod = _prod


def _remembered(
    name: str, plain: Callable[[SymNode, SymNode], SymNode]
) -> Callable[[SymNode, SymNode], SymNode]:
    """An operation of the framework's symbols that is worked out once in a run for the same expressions."""

    def function(self: SymNode, other: SymNode) -> SymNode:
        shapes = self.shape_env
        if not isinstance(shapes, Shapes):
            return plain(self, other)
        key = name, self._expr, self.pytype, other._expr, other.pytype
        made = shapes.results.get(key)
        if made is None:
            made = shapes.results[key] = plain(self, other)
        return made

    return function


def _known_number(plain: Callable[[SymNode], int | None]) -> Callable[[SymNode], int | None]:
    """Whether a symbol is a number by now, which the framework's core asks of each size all the time."""

    def function(self: SymNode) -> int | None:
        expression = self.expr
        if isinstance(expression, sympy.Basic) and symbols_of(expression):
            return None
        return plain(self)

    return function


def _divided(plain: Callable[[Any, Any], Any], *, backwards: bool) -> Callable[[Any, Any], Any]:
    """A division of the framework's symbols that asks whether the divisor is nothing, as Python's does."""

    def function(self: Any, other: Any) -> Any:
        if not isinstance(other, torch.Tensor) and (self if backwards else other) == 0:
            raise ZeroDivisionError("division by zero")
        return plain(self, other)

    function.__wrapped__ = plain  # type: ignore[attr-defined]
    return function


def _either(plain: Callable[..., Any], symbol: Callable[..., Any]) -> Callable[..., Any]:
    if getattr(plain, "__wrapped__", None) is not None:
        return plain

    def function(*args: Any) -> Any:
        for arg in args:
            if type(arg) not in (int, float) and symbolic(arg):
                return symbol(*args)
        return plain(*args)

    function.__wrapped__ = plain  # type: ignore[attr-defined]
    function.__name__ = plain.__name__
    return function


def _floor(value: Any) -> Any:
    return value if isinstance(value, torch.SymInt) else value.__floor__()


def _ceil(value: Any) -> Any:
    return value if isinstance(value, torch.SymInt) else value.__ceil__()


def _unknown_real(*args: Any) -> Any:
    run = current()
    if run is None:
        return 1.0
    return run.shapes.value("a logarithm", integer=False)


def _prod(iterable: Any, *, start: Any = 1) -> Any:
    total = start
    for item in iterable:
        total = total * item
    return total


HOOKS: dict[Any, Callable[..., Any]] = {
    builtins.isinstance: isinstance_,
    builtins.range: range_,
    builtins.len: seriess.length,
    builtins.int: int_,
    builtins.float: float_,
    builtins.min: min_,
    builtins.max: max_,
    builtins.sum: sum_,
    builtins.round: round_,
    builtins.zip: seriess.zipped,
    builtins.enumerate: seriess.enumerated,
    builtins.list: list_,
    builtins.tuple: tuple_,
    builtins.reversed: reversed_,
    builtins.map: map_,
    builtins.iter: iter_,
    builtins.print: print_,
    builtins.str: str_,
    builtins.format: format_,
    builtins.divmod: divmod_,
    builtins.input: input_,
}
