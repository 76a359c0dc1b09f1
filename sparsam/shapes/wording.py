"""Expressions over sizes as a reader would write them: `12*T`, `(H - 1)//2 + 1`, `N % B != 0`, `min(T, 512)`."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from sparsam.shapes.evaluate import number

# How tightly a notation binds; a part that binds less than its place asks for goes into parentheses.
CHOICE, OR, AND, NOT, COMPARISON, BITS, SUM, DIVISION, PRODUCT, NEGATION, POWER, ATOM = range(12)

COMPARISONS = {
    "Equality": ("==", "=="),
    "Unequality": ("!=", "!="),
    "LessThan": ("<=", ">="),
    "StrictLessThan": ("<", ">"),
    "GreaterThan": (">=", "<="),
    "StrictGreaterThan": (">", "<"),
}
FUNCTIONS = {
    "Max": "max",
    "Min": "min",
    "Abs": "abs",
    "ToFloat": "float",
    "TruncToInt": "int",
    "TruncToFloat": "trunc",
    "CeilToInt": "ceil",
    "ceiling": "ceil",
    "FloorToInt": "floor",
    "RoundToInt": "round",
    "RoundDecimal": "round",
    "IsNonOverlappingAndDenseIndicator": "dense",
}
SIGNS = {
    "BitwiseFn_bitwise_and": "&",
    "BitwiseFn_bitwise_or": "|",
    "BitwiseFn_bitwise_xor": "^",
    "LShift": "<<",
    "RShift": ">>",
}


def text(expression: Any, names: Mapping[str, str] | None = None) -> str:
    """The expression in Python's notation, with constants last and the unknown on the left.

    Args:
        expression: A sympy expression or boolean over torch's functions, or a plain number.
        names: What symbols are called, by their own name; others keep it.
    """
    return _Writer(names or {}).write(expression)[0]


class _Writer:
    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def at(self, expression: Any, level: int) -> str:
        """The part as it stands where only what binds at least this tightly needs no parentheses."""
        words, own = self.write(expression)
        return words if own >= level else f"({words})"

    def write(self, expression: Any) -> tuple[str, int]:
        value = number(expression)
        if value is not None:
            return _number(value)
        kind = type(expression).__name__
        arguments = expression.args
        if kind in ("Symbol", "Dummy"):
            return self.names.get(expression.name, expression.name), ATOM
        if kind in COMPARISONS:
            return self.comparison(kind, *arguments), COMPARISON
        if kind in ("And", "Or"):
            level = AND if kind == "And" else OR
            sides = sorted(self.at(a, level + 1) for a in arguments)
            return f" {kind.lower()} ".join(sides), level
        if kind == "Not":
            return f"not {self.at(arguments[0], ATOM)}", NOT
        if kind == "Add":
            return self.sum(arguments), SUM
        if kind == "Mul":
            return self.product(arguments)
        if kind == "Identity":
            return self.write(arguments[0])
        if kind in ("FloorDiv", "CleanDiv", "Mod", "PythonMod"):
            sign = "//" if kind.endswith("Div") else " % "
            return f"{self.at(arguments[0], PRODUCT)}{sign}{self.at(arguments[1], NEGATION)}", DIVISION
        if kind == "ModularIndexing":
            top, bottom, modulus = (self.at(a, NEGATION) for a in arguments)
            return f"({top}//{bottom}) % {modulus}", DIVISION
        if kind in ("IntTrueDiv", "FloatTrueDiv"):
            return f"{self.at(arguments[0], PRODUCT)}/{self.at(arguments[1], NEGATION)}", DIVISION
        if kind in ("Pow", "PowByNatural", "FloatPow"):
            return self.power(*arguments)
        if kind in SIGNS:
            return f" {SIGNS[kind]} ".join(self.at(a, SUM + 1) for a in arguments), BITS
        if kind in ("Where", "ITE"):
            condition, yes, no = arguments
            return (
                f"{self.at(yes, OR)} if {self.at(condition, OR)} else {self.at(no, CHOICE)}",
                CHOICE,
            )
        if kind == "Piecewise":
            cases = [self.at(value, OR) for value, _ in arguments]
            tests = [self.at(condition, OR) for _, condition in arguments]
            *start, (last, test) = zip(cases, tests, strict=True)
            words = "".join(f"{c} if {t} else " for c, t in start)
            return words + (last if test == "True" else f"{last} if {test} else undefined"), CHOICE
        name = FUNCTIONS.get(kind, kind.removeprefix("OpaqueUnaryFn_"))
        parts = [self.write(a)[0] for a in sorted(arguments, key=_last)] if kind in ("Max", "Min") else None
        return f"{name}({', '.join(parts or [self.write(a)[0] for a in arguments])})", ATOM

    def comparison(self, kind: str, left: Any, right: Any) -> str:
        sign, mirrored = COMPARISONS[kind]
        if _negative(left) and (_negative(right) or number(right) == 0):
            left, right, sign, mirrored = -left, -right, mirrored, sign
        if number(left) is not None and number(right) is None:
            left, right, sign = right, left, mirrored
        return f"{self.at(left, BITS)} {sign} {self.at(right, BITS)}"

    def sum(self, arguments: tuple[Any, ...]) -> str:
        parts = []
        for argument in arguments:
            constant = number(argument) is not None
            negative = _negative(argument)
            words = self.at(-argument if negative else argument, DIVISION)
            parts.append((constant, negative, words))
        parts.sort(key=lambda p: p[:2])
        if parts[0][1] and not parts[-1][1]:  # nothing but the constant is positive
            parts = [parts[-1], *parts[:-1]]
        _, negative, words = parts[0]
        return (
            ("-" if negative else "") + words + "".join(f" {'-' if n else '+'} {w}" for _, n, w in parts[1:])
        )

    def product(self, arguments: tuple[Any, ...]) -> tuple[str, int]:
        above: list[str] = []
        factors: list[str] = []
        below: list[str] = []
        sign = ""
        for argument in arguments:
            value = number(argument)
            if value is not None and value < 0:
                sign, value = "-" if not sign else "", -value
            if isinstance(value, Fraction):
                above += [str(value.numerator)] if value.numerator != 1 else []
                below.append(str(value.denominator))
            elif value is not None:
                above += [_number(value)[0]] if value != 1 else []
            elif type(argument).__name__ == "Pow" and number(argument.args[1]) == -1:
                below.append(self.at(argument.args[0], NEGATION))
            else:
                factors.append(self.at(argument, PRODUCT))
        above += sorted(factors, key=lambda f: (not f.isidentifier(), f.lower()))
        words = "*".join(above) or "1"
        if below:
            words += "/" + (below[0] if len(below) == 1 else f"({'*'.join(below)})")
        return sign + words, DIVISION if below else NEGATION if sign else PRODUCT

    def power(self, base: Any, exponent: Any) -> tuple[str, int]:
        value = number(exponent)
        if value == -1:
            return f"1/{self.at(base, NEGATION)}", DIVISION
        if value == Fraction(1, 2) and not isinstance(value, float):
            return f"sqrt({self.write(base)[0]})", ATOM
        return f"{self.at(base, ATOM)}**{self.at(exponent, ATOM)}", POWER


def _number(value: Any) -> tuple[str, int]:
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}", DIVISION
    return str(value), ATOM if isinstance(value, bool) or value >= 0 else NEGATION


def _negative(expression: Any) -> bool:
    """Whether the expression is written with a minus in front."""
    value = number(expression)
    if value is not None:
        return not isinstance(value, bool) and value < 0
    if type(expression).__name__ == "Mul":
        value = number(expression.args[0])
        return value is not None and value < 0
    return False


def _last(expression: Any) -> bool:
    return number(expression) is not None
