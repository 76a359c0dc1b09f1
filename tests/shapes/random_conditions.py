"""Random conditions over torch's sympy functions, and every value of them found the slow way."""

import itertools
import math
import random
from fractions import Fraction

import sympy
from torch.utils._sympy import functions as ts

NAMES = ("a", "b", "c")
SYMBOLS = [sympy.Symbol(n, integer=True) for n in NAMES]
REAL = sympy.Symbol("r", real=True)

DIVISIONS = (ts.FloorDiv, ts.PythonMod, ts.FloorDiv, ts.PythonMod, ts.CleanDiv, ts.Mod)
BITS = (ts.BitwiseFn_bitwise_and, ts.BitwiseFn_bitwise_or, ts.BitwiseFn_bitwise_xor)
ROUNDINGS = (ts.CeilToInt, ts.FloorToInt, ts.TruncToInt, ts.RoundToInt)
RELATIONS = (sympy.Eq, sympy.Ne, sympy.Lt, sympy.Le, sympy.Gt, sympy.Ge)


def integer(rng: random.Random, depth: int):
    """A random expression with an integer value."""
    if depth == 0:
        return rng.choice([*SYMBOLS, *SYMBOLS, sympy.Integer(rng.randint(-4, 6))])
    kind = rng.randrange(20)
    part = lambda: integer(rng, depth - 1)  # noqa: E731
    if kind < 5:
        return part() + part()
    if kind < 8:
        return part() * part()
    if kind < 13:
        return rng.choice(DIVISIONS)(part(), part())
    if kind == 13:
        return rng.choice((ts.Max, ts.Min, sympy.Max, sympy.Min))(part(), part())
    if kind == 14:
        return ts.Where(literal(rng, depth - 1), part(), part())
    if kind == 15:
        return rng.choice(BITS)(part(), sympy.Integer(rng.randint(0, 9)) if rng.random() < 0.8 else part())
    if kind == 16:
        return rng.choice(ROUNDINGS)(real(rng, depth - 1))
    if kind == 17:
        return rng.choice(
            (ts.ModularIndexing(part(), part(), part()), sympy.Abs(part()), ts.Identity(part()))
        )
    if kind == 18:
        return rng.choice(
            (ts.PowByNatural(part(), part()), ts.LShift(part(), part()), ts.RShift(part(), part()))
        )
    return sympy.Piecewise((part(), literal(rng, depth - 1)), (part(), True))


def real(rng: random.Random, depth: int):
    """A random expression with a float value."""
    kind = rng.randrange(6)
    part = lambda: integer(rng, max(depth - 1, 0))  # noqa: E731
    if kind == 0:
        return ts.IntTrueDiv(part(), part())
    if kind == 1:
        return ts.FloatTrueDiv(ts.ToFloat(part()), sympy.Float(rng.choice((2.5, 0.3, -1.5))))
    if kind == 2:
        return sympy.Float(rng.choice((0.7, 0.1, 2.0, 1.5))) * ts.ToFloat(part())
    if kind == 3:
        return ts.FloatPow(ts.ToFloat(part()), sympy.Float(0.5))
    if kind == 4:
        return ts.OpaqueUnaryFn_sqrt(part()) if rng.random() < 0.5 else ts.OpaqueUnaryFn_log2(part())
    return ts.ToFloat(part()) + sympy.Float(rng.choice((0.1, 0.2, -0.3)))


def floating(rng: random.Random, depth: int):
    """A random expression with a float value over the real symbol and the integers."""
    kind = rng.randrange(8)
    if depth == 0 or kind < 2:
        constant = sympy.Float(rng.choice((0.1, 0.3, 0.5, 1.5, -0.7, 2.0)))
        return rng.choice([REAL, REAL, constant, ts.ToFloat(rng.choice(SYMBOLS))])
    part = lambda: floating(rng, depth - 1)  # noqa: E731
    if kind < 4:
        return part() + part()
    if kind < 6:
        return part() * part()
    if kind == 6:
        return ts.FloatTrueDiv(part(), part())
    return rng.choice(
        (ts.OpaqueUnaryFn_sqrt(part()), ts.FloatPow(part(), sympy.Float(0.5)), ts.Max(part(), part()))
    )


def float_literal(rng: random.Random):
    """A random condition on floats."""
    left = floating(rng, rng.randint(0, 2))
    if rng.random() < 0.25:
        return rng.choice(RELATIONS)(rng.choice(ROUNDINGS)(left), integer(rng, 1))
    return rng.choice(RELATIONS)(left, floating(rng, rng.randint(0, 2)))


def literal(rng: random.Random, depth: int):
    """A random condition."""
    kind = rng.randrange(12)
    if kind == 0:
        return sympy.Or(literal(rng, max(depth - 1, 0)), literal(rng, max(depth - 1, 0)))
    if kind == 1:
        return sympy.And(literal(rng, max(depth - 1, 0)), literal(rng, max(depth - 1, 0)))
    if kind == 2:
        return sympy.Not(literal(rng, max(depth - 1, 0)))
    if kind == 3 and depth:
        return rng.choice(RELATIONS)(real(rng, depth - 1), rng.choice((real, integer))(rng, depth - 1))
    return rng.choice(RELATIONS)(integer(rng, depth), integer(rng, max(depth - 1, 0)))


def conjunction(rng: random.Random, size: int, depth: int, floats: float = 0.0):
    """A list of random conditions, a share of them on floats.

    Those that sympy cannot write down (a division by the number zero) are left out.
    """
    found = []
    while len(found) < size:
        try:
            made = float_literal(rng) if rng.random() < floats else literal(rng, rng.randint(0, depth))
        except (
            ArithmeticError,
            ValueError,
            AssertionError,
            TypeError,
            AttributeError,
            sympy.PolynomialError,
            RecursionError,
        ):
            continue
        if made.has(sympy.nan, sympy.zoo, sympy.I):
            continue
        found.append(made)
    return found


class NoValue(Exception):
    """The expression has no value."""


def value(e, model):
    """The value by the definition of each function, case by case."""
    name = type(e).__name__
    if name in ("BooleanTrue", "BooleanFalse"):
        return name == "BooleanTrue"
    if e.is_Symbol:
        return model[e.name]
    if e.is_Integer:
        return int(e)
    if e.is_Float:
        return float(e)
    if e.is_Rational:
        return Fraction(int(e.p), int(e.q))
    if e is sympy.oo or name == "IntInfinity":
        return math.inf
    if e is -sympy.oo or name == "NegativeIntInfinity":
        return -math.inf
    if name in ("Where", "ITE"):
        return value(e.args[1], model) if value(e.args[0], model) else value(e.args[2], model)
    if name == "Piecewise":
        return next(value(x, model) for x, c in e.args if value(c, model))
    if name in ("And", "Or"):
        results = []
        for side in e.args:
            try:
                results.append(value(side, model))
            except NoValue:
                results.append(None)
        decisive = name == "Or"
        if decisive in results:
            return decisive
        if None in results:
            raise NoValue
        return not decisive
    v = [value(a, model) for a in e.args]
    try:
        return _apply(name, v)
    except (ZeroDivisionError, ValueError, OverflowError) as error:
        raise NoValue from error


def _apply(name, v):
    if name == "Add":
        return _plain(v[0] + _apply("Add", v[1:])) if len(v) > 2 else _plain(v[0] + v[1])
    if name == "Mul":
        return _plain(v[0] * _apply("Mul", v[1:])) if len(v) > 2 else _plain(v[0] * v[1])
    if name in ("Pow", "PowByNatural"):
        if v[1] < 0:
            if name == "PowByNatural":
                raise NoValue
            if v[0] == 0:
                raise NoValue
            return _plain(Fraction(1) / v[0] ** -v[1])
        if v[1] > 4096:
            raise NoValue
        return math.sqrt(v[0]) if v[1] == Fraction(1, 2) else v[0] ** v[1]
    if name == "FloatPow":
        if v[0] < 0:
            raise NoValue
        return float(v[0]) ** float(v[1])
    if name in ("LShift", "RShift"):
        return v[0] << v[1] if name == "LShift" else v[0] >> v[1]
    if name == "ModularIndexing":
        return (v[0] // v[1]) % v[2]
    table = {
        "FloorDiv": lambda: math.floor(Fraction(v[0]) / v[1]),
        "CleanDiv": lambda: math.floor(Fraction(v[0]) / v[1]),
        "Mod": lambda: v[0] - v[1] * (v[0] // v[1]),
        "PythonMod": lambda: v[0] - v[1] * (v[0] // v[1]),
        "IntTrueDiv": lambda: v[0] / v[1],
        "FloatTrueDiv": lambda: v[0] / v[1],
        "Max": lambda: max(v),
        "Min": lambda: min(v),
        "Abs": lambda: v[0] if v[0] >= 0 else -v[0],
        "Not": lambda: not v[0],
        "Identity": lambda: v[0],
        "ToFloat": lambda: float(v[0]),
        "CeilToInt": lambda: math.ceil(v[0]),
        "FloorToInt": lambda: math.floor(v[0]),
        "ceiling": lambda: math.ceil(v[0]),
        "floor": lambda: math.floor(v[0]),
        "TruncToInt": lambda: int(v[0]),
        "RoundToInt": lambda: round(v[0]),
        "BitwiseFn_bitwise_and": lambda: v[0] & v[1],
        "BitwiseFn_bitwise_or": lambda: v[0] | v[1],
        "BitwiseFn_bitwise_xor": lambda: v[0] ^ v[1],
        "OpaqueUnaryFn_sqrt": lambda: math.sqrt(v[0]),
        "OpaqueUnaryFn_log2": lambda: math.log2(v[0]),
        "Equality": lambda: v[0] == v[1],
        "Unequality": lambda: v[0] != v[1],
        "LessThan": lambda: v[0] <= v[1],
        "StrictLessThan": lambda: v[0] < v[1],
        "GreaterThan": lambda: v[0] >= v[1],
        "StrictGreaterThan": lambda: v[0] > v[1],
    }
    return table[name]()


def _plain(v):
    return int(v) if isinstance(v, Fraction) and v.denominator == 1 else v


def satisfied(literals, model):
    """Whether all conditions are defined and true."""
    try:
        return all(bool(value(e, model)) for e in literals)
    except NoValue:
        return False


def models(literals, ranges):
    """All models within the ranges (by name), in order."""
    for values in itertools.product(*ranges.values()):
        model = dict(zip(ranges, values, strict=True))
        if satisfied(literals, model):
            yield model
