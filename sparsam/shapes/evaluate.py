"""The value of a condition over sizes, in plain Python numbers.

What torch's symbolic run writes down is a sympy expression. Here it is turned once into nested functions that compute it
for given sizes: integers exactly, fractions exactly, floats as Python's floats. Sympy itself is never asked to evaluate,
for it simplifies under what it believes of a symbol (torch declares every size positive, an empty tensor's too).

A term may have no value: a division by zero, the root of a negative number, a negative shift. `Undefined` says so. A
condition holds where it is defined and true; of "a or b" one defined and true side is enough, of "a and b" one false
side makes it false whatever the other is (Kleene's logic, for sympy forgets the order in which sides were written). So
a condition and its negation both fail to hold where a term in them is undefined: `conditions` names what keeps them
defined, for whoever wants to split on that.

Classes are told apart by name, so that this module imports neither torch nor, until it is used, sympy.
"""

import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

Number = int | float | Fraction
Model = Mapping[str, Any]
Run = Callable[[Model], Any]

LARGEST_EXPONENT = 4096  # beyond it a power is not computed; chosen by us


class Undefined(ArithmeticError):
    """The term has no value for these sizes."""


class Unsupported(ValueError):
    """The expression contains a function that is not known here. The text is its name."""


class TooLarge(ArithmeticError):
    """The value exists and is too large to compute."""


def holds(run: Run, model: Model) -> bool | None:
    """Whether a condition is defined and true; None where that was too large to compute.

    Args:
        run: What `function` made of it.
        model: A number for each symbol in it.
    """
    try:
        return bool(run(model))
    except TooLarge:
        return None
    except (ArithmeticError, ValueError):
        return False


def function(expression: Any) -> Run:
    """The expression as a function of a model.

    Args:
        expression: A sympy expression or boolean, or a plain Python number or bool.

    Raises:
        Unsupported: If it contains an unknown function. When called, the result raises `Undefined` (or another
            ArithmeticError) where the expression has no value, and KeyError where a symbol has none.
    """
    constant = number(expression)
    if constant is not None:
        return lambda model: constant
    kind = type(expression).__name__
    if kind in ("Symbol", "Dummy"):
        return operator.itemgetter(expression.name)
    if kind == "Piecewise":
        return _piecewise([(function(c), function(e)) for e, c in expression.args])
    runs = [function(argument) for argument in expression.args]
    if kind in ("Where", "ITE"):
        condition, yes, no = runs
        return lambda model: yes(model) if condition(model) else no(model)
    if kind in ("And", "Or"):
        return _kleene(runs, kind == "Or")
    if kind.startswith("OpaqueUnaryFn_"):
        return _unary(getattr(math, kind.removeprefix("OpaqueUnaryFn_")), runs[0])
    if kind in UNARY:
        return _unary(UNARY[kind], runs[0])
    if kind in BINARY and len(runs) == 2:
        return _binary(BINARY[kind], *runs)
    if kind in MANY:
        return _many(MANY[kind], runs)
    raise Unsupported(kind)


def number(expression: Any) -> Any:
    """The number or bool that the expression is, None if it is none. Infinities are floats."""
    if isinstance(expression, bool | int | float | Fraction):
        return expression
    kind = type(expression).__name__
    if kind in CONSTANTS:
        return CONSTANTS[kind]
    if getattr(expression, "is_Integer", False):
        return int(expression)
    if getattr(expression, "is_Rational", False):
        return Fraction(int(expression.p), int(expression.q))
    if getattr(expression, "is_Float", False):
        return float(expression)
    return None


def conditions(expression: Any) -> list[Any]:
    """What has to hold, and does not of itself, for the expression to have a value: unevaluated sympy booleans.

    Only what is needed on every way through it is named: not what stands under a `Where` or `Piecewise` or on one side
    of an "or". Divisions, remainders, shifts, roots and logarithms are looked at.
    """
    import sympy

    found: dict[Any, None] = {}
    for node in _strict(expression):
        kind = type(node).__name__
        if kind in ("FloorDiv", "CleanDiv", "Mod", "PythonMod", "IntTrueDiv", "FloatTrueDiv"):
            found.update(_unless_plain(sympy.Ne(node.args[1], 0, evaluate=False), node.args[1], bool))
        elif kind == "ModularIndexing":
            for argument in node.args[1:]:
                found.update(_unless_plain(sympy.Ne(argument, 0, evaluate=False), argument, bool))
        elif kind == "Pow" and (exponent := number(node.args[1])) is not None and exponent < 0:
            found.update(_unless_plain(sympy.Ne(node.args[0], 0, evaluate=False), node.args[0], bool))
        elif kind in ("LShift", "RShift", "PowByNatural"):
            found.update(
                _unless_plain(sympy.Ge(node.args[1], 0, evaluate=False), node.args[1], lambda v: v >= 0)
            )
        elif kind == "OpaqueUnaryFn_sqrt":
            found.update(
                _unless_plain(sympy.Ge(node.args[0], 0, evaluate=False), node.args[0], lambda v: v >= 0)
            )
        elif kind in ("OpaqueUnaryFn_log", "OpaqueUnaryFn_log2"):
            found.update(
                _unless_plain(sympy.Gt(node.args[0], 0, evaluate=False), node.args[0], lambda v: v > 0)
            )
    return list(found)


def _unless_plain(condition: Any, argument: Any, good: Callable[[Any], bool]) -> dict[Any, None]:
    value = number(argument)
    return {} if value is not None and good(value) else {condition: None}


def _strict(expression: Any) -> Iterator[Any]:
    kind = type(expression).__name__
    if kind == "Or":
        return
    arguments: tuple[Any, ...] = getattr(expression, "args", ())
    if kind in ("Where", "ITE"):
        arguments = arguments[:1]
    elif kind == "Piecewise":
        arguments = arguments[0].args[1:]
    for argument in arguments:
        yield from _strict(argument)
    yield expression


def _unary(f: Callable[[Any], Any], a: Run) -> Run:
    return lambda model: f(a(model))


def _binary(f: Callable[[Any, Any], Any], a: Run, b: Run) -> Run:
    return lambda model: f(a(model), b(model))


def _many(f: Callable[[list[Any]], Any], runs: list[Run]) -> Run:
    return lambda model: f([run(model) for run in runs])


def _piecewise(cases: list[tuple[Run, Run]]) -> Run:
    def run(model: Model) -> Any:
        for condition, value in cases:
            if condition(model):
                return value(model)
        raise Undefined("no case of a Piecewise holds")

    return run


def _kleene(runs: list[Run], decides: bool) -> Run:
    def run(model: Model) -> bool:
        trouble: Exception | None = None
        for side in runs:
            try:
                if bool(side(model)) is decides:
                    return decides
            except (ArithmeticError, ValueError) as error:
                trouble = error
        if trouble is not None:
            raise trouble
        return not decides

    return run


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(exponent, int) and not isinstance(base, float):
        if abs(exponent) > LARGEST_EXPONENT and base not in (0, 1, -1):
            raise TooLarge("power")
        if exponent >= 0:
            return base**exponent
        return _whole(Fraction(1) / base**-exponent)
    if exponent == Fraction(1, 2):
        return math.sqrt(base)
    result = float(base) ** float(exponent)
    if isinstance(result, complex):
        raise Undefined("power of a negative number")
    return result


def _natural_power(base: Any, exponent: Any) -> Any:
    if exponent < 0:
        raise Undefined("negative exponent")
    return _power(base, exponent)


def _float_power(base: Any, exponent: Any) -> float:
    result: Any = float(base) ** float(exponent)
    if isinstance(result, complex):
        raise Undefined("power of a negative number")
    return float(result)


def _shift(base: int, exponent: int) -> int:
    if exponent < 0:
        raise Undefined("negative shift")
    if exponent > LARGEST_EXPONENT:
        raise TooLarge("shift")
    return int(base << exponent)


def _product(values: list[Any]) -> Any:
    return _whole(_defined(functools.reduce(operator.mul, values)))


def _sum(values: list[Any]) -> Any:
    return _whole(_defined(functools.reduce(operator.add, values)))


def _defined(value: Any) -> Any:
    if value != value:
        raise Undefined("not a number")
    return value


def _whole(value: Any) -> Any:
    """A fraction that is an integer, as one; anything else as it is."""
    return value.numerator if isinstance(value, Fraction) and value.denominator == 1 else value


def _integer_ratio(a: Any, b: Any) -> float:
    return float(a / b)


def _float_ratio(a: Any, b: Any) -> float:
    return float(_defined(float(a) / float(b)))


def _dense(values: list[int]) -> int:
    """As torch reckons it: 1 if a tensor of these sizes, then strides, overlaps nowhere and leaves no gap, else 0."""
    half = len(values) // 2
    if half == 1:
        return int(values[1] == 1 or values[0] < 2)
    expected = 1
    for size, stride in sorted(zip(values[:half], values[half:], strict=True), key=operator.itemgetter(1)):
        if size != 1 and stride != expected:
            return 0
        if size != 1:
            expected *= size
    return 1


CONSTANTS: dict[str, Any] = {
    "BooleanTrue": True,
    "BooleanFalse": False,
    "IntInfinity": math.inf,
    "NegativeIntInfinity": -math.inf,
    "Infinity": math.inf,
    "NegativeInfinity": -math.inf,
    "Pi": math.pi,
    "Exp1": math.e,
}
UNARY: dict[str, Callable[[Any], Any]] = {
    "Not": operator.not_,
    "Abs": abs,
    "floor": math.floor,
    "ceiling": math.ceil,
    "FloorToInt": math.floor,
    "CeilToInt": math.ceil,
    "TruncToInt": math.trunc,
    "RoundToInt": round,
    "TruncToFloat": lambda a: float(math.trunc(a)),
    "ToFloat": float,
    "Identity": lambda a: a,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "sinh": math.sinh,
    "cosh": math.cosh,
    "tanh": math.tanh,
    "asin": math.asin,
    "acos": math.acos,
    "atan": math.atan,
}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "FloorDiv": operator.floordiv,
    "CleanDiv": operator.floordiv,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
    "IntTrueDiv": _integer_ratio,
    "FloatTrueDiv": _float_ratio,
    "Pow": _power,
    "PowByNatural": _natural_power,
    "FloatPow": _float_power,
    "RoundDecimal": lambda a, digits: round(float(a), digits),
    "LShift": _shift,
    "RShift": operator.rshift,
    "BitwiseFn_bitwise_and": operator.and_,
    "BitwiseFn_bitwise_or": operator.or_,
    "BitwiseFn_bitwise_xor": operator.xor,
    "Equality": operator.eq,
    "Unequality": operator.ne,
    "LessThan": operator.le,
    "StrictLessThan": operator.lt,
    "GreaterThan": operator.ge,
    "StrictGreaterThan": operator.gt,
}
MANY: dict[str, Callable[[list[Any]], Any]] = {
    "Add": _sum,
    "Mul": _product,
    "Max": max,
    "Min": min,
    "ModularIndexing": lambda v: v[0] // v[1] % v[2],
    "IsNonOverlappingAndDenseIndicator": _dense,
}
