"""From sympy's expressions, with torch's functions in them, to terms."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from sparsam.shapes.evaluate import Unsupported, number
from sparsam.shapes.terms import (
    FALSE,
    TRUE,
    Polynomial,
    Term,
    call,
    compare,
    compare_floats,
    constant,
    extreme,
    join,
    negate,
    of_polynomial,
    plus,
    polynomial,
    quotient,
    symbol,
    times,
    whole,
)

FLOAT_FUNCTIONS = {
    "FloatTrueDiv": "/",
    "IntTrueDiv": "/",
    "FloatPow": "**",
    "RoundDecimal": "round-decimal",
}
ROUNDINGS = {
    "FloorToInt": "floor",
    "floor": "floor",
    "CeilToInt": "ceil",
    "ceiling": "ceil",
    "TruncToInt": "trunc",
    "RoundToInt": "round",
}
LARGEST_MASK = 16  # bits of a constant that "and" is written out for; chosen by us


class Translator:
    """Turns sympy's expressions into terms, remembering what it has seen.

    Args:
        integer: Whether the symbol of this name is an integer.
    """

    def __init__(self, integer: Callable[[str], bool]) -> None:
        self.integer = integer
        self.expressions: dict[Any, tuple[Term, Term]] = {}
        self.conditions: dict[tuple[Any, bool], Term] = {}

    def condition(self, boolean: Any, positive: bool = True) -> Term:
        """The condition (or, if not `positive`, its negation) together with all that it needs to be defined.

        Raises:
            Unsupported: If it contains an unknown function.
        """
        key = (boolean, positive)
        if key not in self.conditions:
            self.conditions[key] = self._condition(boolean, positive)
        return self.conditions[key]

    def _condition(self, boolean: Any, positive: bool) -> Term:
        plain = number(boolean)
        if plain is not None:
            return TRUE if bool(plain) is positive else FALSE
        kind = type(boolean).__name__
        if kind == "Not":
            return self.condition(boolean.args[0], not positive)
        if kind in ("And", "Or"):
            joined = "and" if (kind == "And") is positive else "or"
            return join(joined, [self.condition(a, positive) for a in boolean.args])
        if kind == "ITE":
            test, yes, no = boolean.args
            cases = ((self.condition(test), yes), (self.condition(test, False), no))
            return join("or", [join("and", [c, self.condition(side, positive)]) for c, side in cases])
        if kind not in COMPARISONS:
            raise Unsupported(kind)
        left, right = boolean.args
        if number(left) is not None and isinstance(number(left), bool):
            raise Unsupported("comparison of conditions")
        comparison, swap = COMPARISONS[kind]
        (a, defined), (b, also) = self.expression(left), self.expression(right)
        if swap:
            a, b = b, a
        return join("and", [defined, also, _compare(comparison, a, b, positive)])

    def expression(self, expression: Any) -> tuple[Term, Term]:
        """The expression as a term, and the condition that it is defined.

        Raises:
            Unsupported: If it contains an unknown function.
        """
        found = self.expressions.get(expression)
        if found is None:
            try:
                found = self._expression(expression)
            except ZeroDivisionError:
                found = (constant(0), FALSE)
            self.expressions[expression] = found
        return found

    def _expression(self, expression: Any) -> tuple[Term, Term]:
        plain = number(expression)
        if plain is not None and not isinstance(plain, bool):
            return constant(plain), TRUE
        kind = type(expression).__name__
        if kind in ("Symbol", "Dummy"):
            return symbol(expression.name, self.integer(expression.name)), TRUE
        if kind in ("Where", "Piecewise"):
            return self._choice(expression)
        sides, definitions = (
            zip(*(self.expression(a) for a in expression.args), strict=True) if expression.args else ((), ())
        )
        term, needs = _build(kind, list(sides), expression)
        return term, join("and", [*definitions, needs])

    def _choice(self, expression: Any) -> tuple[Term, Term]:
        if type(expression).__name__ == "Where":
            condition, yes, no = expression.args
            cases = [(condition, yes), (True, no)]
        else:
            cases = [(c, e) for e, c in expression.args]
        condition, value = cases[-1]
        result, defined = self.expression(value)
        if number(condition) is not True:
            defined = join("and", [self.condition(condition), defined])
        for condition, value in reversed(cases[:-1]):
            term, needs = self.expression(value)
            holds, fails = self.condition(condition), self.condition(condition, False)
            defined = join("or", [join("and", [holds, needs]), join("and", [fails, defined])])
            text = f"where({holds.text}, {term.text}, {result.text})"
            result = Term("where", (holds, fails, term, result), text, term.integer and result.integer)
        return result, defined


COMPARISONS = {
    "Equality": ("=", False),
    "Unequality": ("!=", False),
    "LessThan": ("<=", False),
    "StrictLessThan": ("<", False),
    "GreaterThan": ("<=", True),
    "StrictGreaterThan": ("<", True),
}


def _exact(term: Term) -> bool:
    """Whether the term is a polynomial of integers (fractions as coefficients allowed), reckoned without rounding."""
    if term.kind == "sum":
        return all(a.integer for k, _ in term.arguments for a in k)
    return term.integer or (term.kind == "number" and isinstance(term.value, Fraction))


def _compare(kind: str, left: Term, right: Term, positive: bool) -> Term:
    left, right = _as_fraction(left, right), _as_fraction(right, left)
    if _exact(left) and _exact(right):
        difference, _ = whole(plus(polynomial(left), polynomial(right), -1))
        if kind == "<":
            difference = plus(difference, {(): 1})
        if kind in ("<", "<="):
            if not positive:
                difference = plus({(): 1}, difference, -1)
            return compare("<=0", difference)
        return compare("=0" if (kind == "=") is positive else "!=0", difference)
    condition = compare_floats(kind, left, right)
    return condition if positive else negate(condition)


def _as_fraction(term: Term, other: Term) -> Term:
    """A float constant beside an integer as the fraction it is, for Python compares the two exactly."""
    if (
        term.kind == "number"
        and isinstance(term.value, float)
        and math.isfinite(term.value)
        and _exact(other)
    ):
        return constant(Fraction(term.value))
    return term


def nonzero(term: Term) -> Term:
    """The condition that the term is not zero."""
    return _compare("!=", term, constant(0), True)


def _build(kind: str, sides: list[Term], expression: Any) -> tuple[Term, Term]:
    """A function of terms, and what it needs beside their own conditions."""
    exact = all(_exact(t) for t in sides)
    if kind in ("Add", "Mul"):
        if not exact:
            return call("+" if kind == "Add" else "*", sides, all(t.integer for t in sides)), TRUE
        result: Polynomial = {} if kind == "Add" else {(): 1}
        for side in sides:
            result = plus(result, polynomial(side)) if kind == "Add" else times(result, polynomial(side))
        return of_polynomial(result), TRUE
    if kind in ("FloorDiv", "CleanDiv", "Mod", "PythonMod", "ModularIndexing"):
        return _divisions(kind, sides)
    if kind in ("Max", "Min"):
        return extreme(kind.lower(), sides), TRUE
    if kind == "Identity":
        return sides[0], TRUE
    if kind == "Abs" and exact:
        negative = of_polynomial({k: -c for k, c in polynomial(sides[0]).items()})
        return extreme("max", [sides[0], negative]), TRUE
    if kind in ("Pow", "PowByNatural"):
        return _power(kind, sides)
    if kind in ("LShift", "RShift") and exact:
        power = call("power", [constant(2), sides[1]], True)
        needs = compare("<=0", {k: -c for k, c in polynomial(sides[1]).items()})
        if kind == "LShift":
            return of_polynomial(times(polynomial(sides[0]), {(power,): 1})), needs
        return of_polynomial(quotient(polynomial(sides[0]), {(power,): 1})), needs
    if kind.startswith("BitwiseFn_bitwise_") and exact:
        return _bits(kind.removeprefix("BitwiseFn_bitwise_"), sides), TRUE
    if kind in ROUNDINGS:
        return _rounding(ROUNDINGS[kind], sides[0]), TRUE
    if kind == "ToFloat":
        return (
            sides[0] if sides[0].kind == "number" and not sides[0].integer else call("float", sides, False)
        ), TRUE
    if kind in FLOAT_FUNCTIONS:
        needs = nonzero(sides[1]) if kind.endswith("Div") else TRUE
        return call(FLOAT_FUNCTIONS[kind], sides, False), needs
    if kind == "TruncToFloat":
        return call("float", [call("trunc", sides, True)], False), TRUE
    if kind.startswith("OpaqueUnaryFn_") or kind in (
        "sqrt", "exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan",
    ):  # fmt: skip
        return call(kind.removeprefix("OpaqueUnaryFn_"), sides, False), TRUE
    if kind == "IsNonOverlappingAndDenseIndicator":
        return call("dense", sides, True), TRUE
    if kind == "Abs":
        return call("abs", sides, sides[0].integer), TRUE
    raise Unsupported(kind)


def _divisions(kind: str, sides: list[Term]) -> tuple[Term, Term]:
    if not all(_exact(t) for t in sides):
        name = "fmod" if kind in ("Mod", "PythonMod") else "fdiv"
        if kind == "ModularIndexing":
            raise Unsupported("ModularIndexing of floats")
        return call(name, sides, False), nonzero(sides[1])
    p, q = (polynomial(t) for t in sides[:2])
    scale = math.lcm(whole(p)[1], whole(q)[1])
    whole_p, whole_q = ({k: int(c * scale) for k, c in x.items()} for x in (p, q))
    result = quotient(whole_p, whole_q)
    if kind in ("FloorDiv", "CleanDiv"):
        return of_polynomial(result), nonzero(sides[1])
    if kind == "ModularIndexing":
        p, q = result, polynomial(sides[2])
        if whole(q)[1] != 1:
            raise Unsupported("ModularIndexing of fractions")
        result = quotient(p, q)
        return of_polynomial(plus(p, times(result, q), -1)), join(
            "and", [nonzero(sides[1]), nonzero(sides[2])]
        )
    return of_polynomial(plus(p, times(result, q), -1)), nonzero(sides[1])


def _power(kind: str, sides: list[Term]) -> tuple[Term, Term]:
    base, exponent = sides
    if exponent.kind == "number" and isinstance(exponent.value, int) and _exact(base):
        if 0 <= exponent.value <= 16:
            result: Polynomial = {(): 1}
            for _ in range(exponent.value):
                result = times(result, polynomial(base))
            return of_polynomial(result), TRUE
        if exponent.value < 0:
            return call("reciprocal", sides, False), nonzero(base)
    if kind == "Pow" and exponent.kind == "number" and exponent.value == Fraction(1, 2):
        return call("sqrt", [base], False), TRUE
    if base.integer and exponent.integer and _exact(base) and _exact(exponent):
        needs = compare("<=0", {k: -c for k, c in polynomial(exponent).items()})
        return call("power", sides, kind == "PowByNatural"), needs if kind == "PowByNatural" else TRUE
    return call("**", sides, False), TRUE


def _bits(name: str, sides: list[Term]) -> Term:
    """Bits of an integer and a constant, written out; "or" and "xor" by "and". Otherwise an atom."""
    left, right = sides
    if left.kind == "number":
        left, right = right, left
    if right.kind != "number" or not 0 <= right.value < 1 << LARGEST_MASK or not left.integer:
        return call(f"bits-{name}", sides, True)
    p, mask = polynomial(left), right.value
    both: Polynomial = {}
    low = 0
    while mask >> low:
        if not mask >> low & 1:
            low += 1
            continue
        high = low
        while mask >> high & 1:
            high += 1
        shifted = quotient(p, {(): 1 << low})
        part = plus(shifted, times(quotient(p, {(): 1 << high}), {(): 1 << (high - low)}), -1)
        both = plus(both, part, 1 << low)
        low = high
    if name == "and":
        return of_polynomial(both)
    joined = plus(p, {(): mask} if mask else {})
    return of_polynomial(plus(joined, both, -1 if name == "or" else -2))


def _rounding(kind: str, side: Term) -> Term:
    if side.integer:
        return side
    if side.kind == "number" and kind != "round" and math.isfinite(side.value):
        down, up = math.floor(side.value), math.ceil(side.value)
        return constant(down if kind == "floor" or (kind == "trunc" and side.value > 0) else up)
    if _exact(side) and kind in ("floor", "ceil"):
        p, scale = whole(polynomial(side))
        if kind == "floor":
            return of_polynomial(quotient(p, {(): scale}))
        up = quotient({k: -c for k, c in p.items()}, {(): scale})
        return of_polynomial({k: -c for k, c in up.items()})
    return call(kind, [side], True)
