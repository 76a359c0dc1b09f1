"""Chance: what the program's own lines draw is an arbitrary number of the right range. Libraries draw for real."""

import importlib.util
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from sparsam.shapes.environment import symbolic
from sparsam.shapes.notes import drawn_from
from sparsam.shapes.run import current
from sparsam.shapes.series import Repeated, as_series, length
from sparsam.shapes.standins.arrays import is_array, tensor_of, torch_kind, wrapped

NUMPY = importlib.util.find_spec("numpy") is not None


def _asked(frames: int = 2) -> bool:
    """Whether the program's own line calls."""
    run = current()
    return run is not None and run.places.own(sys._getframe(frames).f_code.co_filename)


def _either(real: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs) if _asked() else real(*args, **kwargs)

    function.__name__ = getattr(real, "__name__", ours.__name__)
    return function


def real_number(meaning: str, low: Any, high: Any) -> Any:
    """A real number of a range whose bounds may be symbols."""
    run = current()
    if run is None:
        return low
    plain = not symbolic(low) and not symbolic(high)
    if plain and low is not None and high is not None and low > high:
        low, high = high, low
    return run.shapes.value(meaning, low if plain else None, high if plain else None, integer=False)


def whole_number(meaning: str, low: Any, high: Any) -> Any:
    """A whole number from `low` to below `high`.

    Raises:
        ValueError: If there is none.
    """
    run = current()
    if run is None:
        return low
    if not low < high:
        raise ValueError(f"empty range for randrange() ({low}, {high})")
    if symbolic(low):
        return low + run.shapes.index(meaning, high - low)
    return run.shapes.index(meaning, high, low)


# -- random -----------------------------------------------------------------------------------------------------------


def _randrange(start: Any, stop: Any = None, step: Any = 1) -> Any:
    low, high = (0, start) if stop is None else (start, stop)
    if not symbolic(step) and step == 1:
        return whole_number("a random number", low, high)
    return low + step * whole_number("a random number", 0, (high - low + step - 1) // step)


def _choice(values: Any, *args: Any, **kwargs: Any) -> Any:
    count = length(values)
    if not count > 0:
        raise IndexError("Cannot choose from an empty sequence")
    from sparsam.shapes.hooks import any_of, item

    run = current()
    if isinstance(values, (list, tuple)) and as_series(values) is None:
        return any_of(values, 0)
    index = run.shapes.index("which item is chosen", count) if run is not None else 0
    return item(values, index)


def _shuffle(values: Any, *args: Any) -> None:
    """The order stays: the items are arbitrary as they are, or alike."""
    if isinstance(values, list) and len(values) > 1 and _unlike(values):
        run = current()
        if run is not None:
            run.unknown("value", "a list of unlike items is shuffled; it is tried in one order only")


def _unlike(values: Any) -> bool:
    from sparsam.shapes.guesses import alike

    plain = [value.item if isinstance(value, Repeated) else value for value in values[:32]]
    return any(not alike(plain[0], other) for other in plain[1:])


def _sample(population: Any, k: Any, **kwargs: Any) -> Any:
    count = length(population)
    if not 0 <= k <= count:
        raise ValueError("Sample larger than population or is negative")
    return _several(lambda: _choice(population), k)


def _choices(population: Any, weights: Any = None, *, cum_weights: Any = None, k: Any = 1) -> Any:
    return _several(lambda: _choice(population), k)


def _several(one: Callable[[], Any], count: Any) -> list[Any]:
    if not symbolic(count):
        return [one() for _ in range(count)]
    from sparsam.shapes.hooks import made
    from sparsam.shapes.series import Segment, Series

    return made(lambda item: item, Series(lambda: [Segment(count, lambda index: one())], "a sample"))


def _uniform(low: Any = 0.0, high: Any = 1.0) -> Any:
    return real_number("a random number", low, high)


def _any_real(*args: Any, **kwargs: Any) -> Any:
    return real_number("a random number", None, None)


def _positive(*args: Any, **kwargs: Any) -> Any:
    return real_number("a random number", 0.0, None)


RANDOM: dict[str, Callable[..., Any]] = {
    "random": lambda: real_number("a random number", 0.0, 1.0),
    "uniform": _uniform,
    "triangular": lambda low=0.0, high=1.0, mode=None: _uniform(low, high),
    "randint": lambda a, b: whole_number("a random number", a, b + 1),
    "randrange": _randrange,
    "choice": _choice,
    "choices": _choices,
    "sample": _sample,
    "shuffle": _shuffle,
    "gauss": _any_real,
    "normalvariate": _any_real,
    "lognormvariate": _positive,
    "expovariate": _positive,
    "betavariate": lambda alpha, beta: real_number("a random number", 0.0, 1.0),
    "gammavariate": _positive,
    "getrandbits": lambda k: whole_number("a random number", 0, 2**k),
}


# -- NumPy ------------------------------------------------------------------------------------------------------------


def _array(size: Any, kind: torch.dtype, low: Any = None, high: Any = None) -> Any:
    """An array of random numbers; one number where no size is given."""
    if size is None:
        if kind.is_floating_point:
            return real_number("a random number", low, high)
        return whole_number(
            "a random number", low if low is not None else 0, high if high is not None else 2**31
        )
    sizes = tuple(size) if isinstance(size, (list, tuple)) else (size,)
    if any(side < 0 for side in sizes):
        raise ValueError("negative dimensions are not allowed")
    tensor = torch.empty(sizes, dtype=kind)
    if low is not None and high is not None:
        tensor.value_range = (low, high)  # type: ignore[attr-defined]
    return wrapped(tensor)


def _of_arguments(kind: torch.dtype, low: Any = None, high: Any = None, given: int = 2) -> Callable[..., Any]:
    """A distribution of `given` parameters, then a size; arrays as parameters give their sizes."""

    def function(*args: Any, size: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
        if len(args) > given:
            size = args[given]
        for parameter in (*args[:given], *kwargs.values()):
            found = tensor_of(parameter, real=True) if size is None else None
            if found is not None and found.dim():
                size = tuple(found.shape)
        return _array(size, kind, low, high)

    return function


def _integers(low: Any, high: Any = None, size: Any = None, dtype: Any = None, endpoint: bool = False) -> Any:
    low, high = (0, low) if high is None else (low, high)
    if endpoint:
        high = high + 1
    if is_array(low) or is_array(high):
        low, high = None, None
    elif not low < high:
        raise ValueError("low >= high")
    return _array(size, torch.int64 if dtype is None else torch_kind(dtype), low, high)


def _rand(*sizes: Any) -> Any:
    return _array(sizes or None, torch.float64, 0.0, 1.0)


def _randn(*sizes: Any) -> Any:
    return _array(sizes or None, torch.float64)


def _possible(values: Any, odds: Any) -> Any:
    """Of a list, the values that are drawn at all: those whose odds are not 0."""
    if not isinstance(values, (list, tuple)) or not isinstance(odds, (list, tuple)):
        return values
    if len(values) != len(odds):
        raise ValueError("'a' and 'p' must have same size")
    return [value for value, chance in zip(values, odds, strict=True) if symbolic(chance) or chance != 0]


def _drawn(
    values: Any, size: Any = None, replace: bool = True, p: Any = None, *args: Any, **kwargs: Any
) -> Any:
    values = _possible(values, p)
    if isinstance(values, (int, torch.SymInt)):
        if not replace and size is not None and not isinstance(size, tuple) and size > values:
            raise ValueError("Cannot take a larger sample than population when 'replace=False'")
        return _array(size, torch.int64, 0, values)
    if size is None:
        return _choice(values)
    if not replace and not isinstance(size, tuple) and size > length(values):
        raise ValueError("Cannot take a larger sample than population when replace is False")
    tensor = tensor_of(values, real=True)
    if tensor is None:
        numbers = list(values)
        if not all(isinstance(value, (int, float)) for value in numbers):
            sizes = size if not isinstance(size, tuple) else size[0]
            return _several(lambda: _choice(values), sizes)
        if all(isinstance(value, bool) for value in numbers):
            one = numbers[0] if len(set(numbers)) == 1 and size is not None else None
            return _array(size, torch.bool) if one is None else _array(size, torch.bool, int(one), one + 1)
        kind = torch.int64 if all(isinstance(value, int) for value in numbers) else torch.float64
        return _array(size, kind, min(numbers), max(numbers) + 1)
    sizes = tuple(size) if isinstance(size, (list, tuple)) else (size,)
    return wrapped(tensor.new_empty((*sizes, *tensor.shape[1:])))


def _permutation(values: Any, *args: Any, **kwargs: Any) -> Any:
    if isinstance(values, (int, torch.SymInt)):
        return _array(values, torch.int64, 0, values)
    tensor = tensor_of(values, real=True)
    if tensor is None:
        import numpy as np

        tensor = tensor_of(np.array(values), real=True)
    if tensor is None:
        raise TypeError("an array or a number is needed")
    made = torch.empty_like(tensor)
    found = drawn_from(tensor)
    if found is not None:
        made.value_range = found  # type: ignore[attr-defined]
    return wrapped(made)


def _mixed(values: Any, *args: Any, **kwargs: Any) -> None:
    if isinstance(values, list):
        _shuffle(values)


DRAWS: dict[str, Callable[..., Any]] = {
    "rand": _rand,
    "randn": _randn,
    "random": lambda size=None, *args, **kwargs: _array(size, torch.float64, 0.0, 1.0),
    "random_sample": lambda size=None: _array(size, torch.float64, 0.0, 1.0),
    "randint": _integers,
    "integers": _integers,
    "uniform": _of_arguments(torch.float64),
    "normal": _of_arguments(torch.float64),
    "standard_normal": _of_arguments(torch.float64, given=0),
    "beta": _of_arguments(torch.float64, 0.0, 1.0),
    "gamma": _of_arguments(torch.float64, 0.0, None),
    "exponential": _of_arguments(torch.float64, 0.0, None, 1),
    "poisson": _of_arguments(torch.int64, 0, None, 1),
    "binomial": _of_arguments(torch.int64, 0, None),
    "laplace": _of_arguments(torch.float64),
    "choice": _drawn,
    "permutation": _permutation,
    "permuted": _permutation,
    "shuffle": _mixed,
}


class Generator:
    """Stands in for NumPy's generators."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """The seed does not matter."""

    def __getattr__(self, name: str) -> Any:
        if name in DRAWS:
            return DRAWS[name]
        if name in ("seed", "set_state"):
            return lambda *args, **kwargs: None
        raise AttributeError(f"'Generator' object has no attribute '{name}'")


def _moment() -> Any:
    """What a clock shows."""
    return real_number("the time", 0.0, None)


def _seeded(seed: Any = None, *args: Any) -> Any:
    """Chance is arbitrary, whatever the seed."""
    return torch.default_generator


def patches() -> Iterator[tuple[Any, str, Any]]:
    """(owner, attribute, stand-in) for all of this module."""
    for name, ours in RANDOM.items():
        yield random, name, _either(getattr(random, name), ours)
    for name in ("time", "perf_counter", "monotonic", "process_time"):
        yield time, name, _either(getattr(time, name), _moment)
    yield random, "seed", _either(random.seed, _seeded)
    yield torch, "manual_seed", _either(torch.manual_seed, _seeded)
    for name in ("manual_seed", "manual_seed_all"):
        yield torch.cuda, name, _either(getattr(torch.cuda, name), _seeded)
    if not NUMPY:
        return
    import numpy as np

    yield np.random, "seed", _either(np.random.seed, _seeded)
    for name, ours in DRAWS.items():
        real = getattr(np.random, name, None)
        if real is not None:
            yield np.random, name, _either(real, ours)
    yield np.random, "default_rng", _either(np.random.default_rng, Generator)
