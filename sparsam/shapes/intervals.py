"""Arithmetic of closed intervals, as pairs of bounds of which either may be infinite.

Bounds of integers are integers (or an infinite float), so that nothing is rounded. Bounds of floats are reckoned by the
very operations that reckon the value: rounding to nearest is monotone, so the result is enclosed without widening.
Functions of the C library are not monotone to the last digit, and their bounds are widened.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

Interval = tuple[Any, Any]

EVERYTHING: Interval = (-math.inf, math.inf)
SLACK = 1e-12  # relative, of bounds that are carried backwards through a float operation; far above its rounding error


def add_bounds(a: Any, b: Any) -> Any:
    """The sum; of opposite infinities the first."""
    if isinstance(a, float) and math.isinf(a):
        return a
    if isinstance(b, float) and math.isinf(b):
        return b
    return a + b


def multiply_bounds(a: Any, b: Any) -> Any:
    """The product, where zero times infinity is zero."""
    if not a or not b:
        return 0
    if (isinstance(a, float) and math.isinf(a)) or (isinstance(b, float) and math.isinf(b)):
        return math.inf if (a > 0) is (b > 0) else -math.inf
    return a * b


def divide_down(a: Any, b: Any) -> Any:
    """`a // b` for a positive b; for infinite ones its limit."""
    if isinstance(a, float) and math.isinf(a):
        return a
    if isinstance(b, float) and math.isinf(b):
        return 0 if a >= 0 else -1
    return a // b


def divide_up(a: Any, b: Any) -> Any:
    """`a / b` rounded up for a positive b."""
    return -divide_down(-a, b)


def scale(x: Interval, factor: Any) -> Interval:
    """The interval times a number."""
    a, b = multiply_bounds(x[0], factor), multiply_bounds(x[1], factor)
    return (a, b) if factor >= 0 else (b, a)


def add(x: Interval, y: Interval) -> Interval:
    """The sum of two intervals."""
    return add_bounds(x[0], y[0]), add_bounds(x[1], y[1])


def multiply(x: Interval, y: Interval) -> Interval:
    """The product of two intervals."""
    if x[0] >= 0 and y[0] >= 0:
        return multiply_bounds(x[0], y[0]), multiply_bounds(x[1], y[1])
    corners = [multiply_bounds(a, b) for a in x for b in y]
    return min(corners), max(corners)


def power(x: Interval, exponent: int) -> Interval:
    """A natural power of an interval of integers."""
    if exponent == 1:
        return x
    a, b = (_power(v, exponent) for v in x)
    if exponent % 2:
        return a, b
    return (0 if x[0] <= 0 <= x[1] else min(a, b)), max(a, b)


def _power(v: Any, exponent: int) -> Any:
    if isinstance(v, float) and math.isinf(v):
        return v if exponent % 2 else math.inf
    return v**exponent


def floor_divide(x: Interval, y: Interval) -> Interval:
    """`x // y` of integers, for every divisor in y but zero."""
    parts = []
    if y[1] >= 1:
        low, high = max(y[0], 1), y[1]
        parts.append(
            (
                divide_down(x[0], high if x[0] >= 0 else low),
                divide_down(x[1], low if x[1] >= 0 else high),
            )
        )
    if y[0] <= -1:
        parts.append(floor_divide((-x[1], -x[0]), (max(1, -y[1]), -y[0])))
    if not parts:
        return EVERYTHING
    return min(p[0] for p in parts), max(p[1] for p in parts)


def factor_of(target: Interval, rest: Interval) -> Interval:
    """Where an integer lies whose product with one of `rest` lies in `target`."""
    if target[0] <= 0 <= target[1] and rest[0] <= 0 <= rest[1]:
        return EVERYTHING
    if rest[0] < 0 < rest[1]:  # the target has no zero in it, so the rest is at least one in size
        most = max(abs(target[0]), abs(target[1]))
        return -most, most
    if rest[1] <= 0:
        rest, target = (-rest[1], -rest[0]), (-target[1], -target[0])
    low, high = max(rest[0], 1), rest[1]
    if high < 1:
        return (1, 0)
    a = divide_up(target[0], high if target[0] >= 0 else low)
    b = divide_down(target[1], low if target[1] >= 0 else high)
    return a, b


def widen(bound: Any, towards: int, magnitude: Any = 0.0) -> Any:
    """The bound moved outwards (towards -1 or +1) by the slack of it and of a magnitude."""
    bound = as_float(bound)
    if math.isinf(bound):
        return bound
    return bound + towards * ((abs(bound) + abs(as_float(magnitude))) * SLACK + 1e-300)


def as_float(value: Any) -> float:
    """The number as a float, infinite where it is too large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def monotone(f: Callable[[Any], Any], x: Interval, exact: bool = True) -> Interval:
    """An increasing function of an interval; widened unless `exact`. An end outside its domain becomes infinite."""
    ends = []
    for value, sign in zip(x, (-1, 1), strict=True):
        try:
            result = f(value)
        except (ArithmeticError, ValueError):
            result = math.inf * sign
        if result != result:
            result = math.inf * sign
        ends.append(result if exact else widen(result, sign))
    return ends[0], ends[1]


def corners(f: Callable[[Any, Any], Any], x: Interval, y: Interval) -> Interval:
    """A function that is monotone in each argument; everything where an end has no value."""
    values = []
    for a in x:
        for b in y:
            try:
                value = f(a, b)
            except (ArithmeticError, ValueError):
                return EVERYTHING
            if isinstance(value, complex) or value != value:
                return EVERYTHING
            values.append(value)
    return min(values), max(values)


def monotone_sum(x: Interval, y: Interval) -> Interval:
    """The sum of two intervals of floats, each end rounded as the values are."""
    return add_bounds(x[0], y[0]), add_bounds(x[1], y[1])


def fold(f: Callable[[Interval, Interval], Interval], intervals: list[Interval]) -> Interval:
    """The function over all of them, from the first."""
    return functools.reduce(f, intervals)
