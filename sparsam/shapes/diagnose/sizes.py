"""Sizes as text, such as "12*T" or "(N - 1)//B + 1": values under a witness, products, and how they are printed.

Findings carry sizes as text, and the parent process, which prints them, has no sympy; so a few operations on such text
stand here. Text that cannot be read is a symbol of its own, never an error.
"""

import ast
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from sparsam.shapes.verdict import Value

Polynomial = Mapping[tuple[str, ...], int]
"""Coefficients by the sorted symbols of the product, repeated as often as they are multiplied."""

LONGEST = 400
"""Characters of an expression that is still read. Chosen by us."""
LARGEST = 10**30
"""Values beyond are not computed. Chosen by us."""

FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "Max": max, "Min": min, "max": max, "min": min, "abs": abs, "Abs": abs,
    "Mod": lambda a, b: a % b, "PythonMod": lambda a, b: a % b, "FloorDiv": lambda a, b: a // b,
    "CleanDiv": lambda a, b: a // b, "CeilDiv": lambda a, b: -(-a // b),
    "floor": math.floor, "ceiling": math.ceil, "TruncToInt": int, "FloorToInt": math.floor,
    "CeilToInt": math.ceil, "ToFloat": float, "IntTrueDiv": lambda a, b: a / b,
}  # fmt: skip


def _tree(text: str) -> ast.expr | None:
    if len(text) > LONGEST:
        return None
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def value(text: str, witness: Mapping[str, Value]) -> int | None:
    """The size under the witness; None where a symbol has no value or the text is no expression.

    >>> value("(N - 1)//B + 1", {"N": 10, "B": 4})
    3
    """
    tree = _tree(text)
    if tree is None:
        return None
    try:
        found = _value(tree, witness)
    except (KeyError, TypeError, ArithmeticError, ValueError, RecursionError):
        return None
    return int(found) if found == int(found) else None


def _value(node: ast.expr, witness: Mapping[str, Value]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name):
            given = witness[name]
            if isinstance(given, str):
                raise TypeError(name)
            return given
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, witness)
        case ast.Call(func=ast.Name(id=name), args=arguments) if name in FUNCTIONS:
            return FUNCTIONS[name](*(_value(argument, witness) for argument in arguments))
        case ast.BinOp(left=left, op=operation, right=right):
            return _binary(operation, _value(left, witness), _value(right, witness))
    raise ValueError(type(node).__name__)


def _binary(operation: ast.operator, left: float, right: float) -> float:
    if max(abs(left), abs(right)) > LARGEST:
        raise OverflowError
    match operation:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.FloorDiv():
            return left // right
        case ast.Mod():
            return left % right
        case ast.Div():
            return left / right
        case ast.Pow() if 0 <= right <= 8:
            return float(left**right) if isinstance(left, float) else int(left ** int(right))
    raise ValueError(type(operation).__name__)


def polynomial(text: str) -> Polynomial:
    """Normal form of a size; what is neither sum nor product counts as one symbol."""
    tree = _tree(text)
    if tree is None:
        return {(text.strip(),): 1}
    try:
        return _polynomial(tree)
    except RecursionError:
        return {(text.strip(),): 1}


def _polynomial(node: ast.expr) -> Polynomial:
    match node:
        case ast.Constant(value=int() as number):
            return {(): int(number)} if number else {}
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return {term: -count for term, count in _polynomial(inner).items()}
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as operation, right=right):
            sign = 1 if isinstance(operation, ast.Add) else -1
            total = Counter(_polynomial(left))
            for term, count in _polynomial(right).items():
                total[term] += sign * count
            return {term: count for term, count in total.items() if count}
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return multiplied([_polynomial(left), _polynomial(right)])
        case ast.BinOp(left=base, op=ast.Pow(), right=ast.Constant(value=int() as power)) if 0 < power <= 4:
            return multiplied([_polynomial(base)] * power)
    return {(ast.unparse(node).replace(" // ", "//"),): 1}


def multiplied(factors: Iterable[Polynomial]) -> Polynomial:
    """The product of polynomials."""
    total: Polynomial = {(): 1}
    for factor in factors:
        product: Counter[tuple[str, ...]] = Counter()
        for left, count in total.items():
            for right, times in factor.items():
                product[tuple(sorted(left + right))] += count * times
        total = {term: count for term, count in product.items() if count}
    return total


def alike(left: str, right: str) -> bool:
    """Whether two sizes are the same for all values of their symbols (False also where that is not seen)."""
    return polynomial(left) == polynomial(right)


def equal(left: str, right: str, witness: Mapping[str, Value]) -> bool:
    """Whether two sizes are the same under the witness; without values, whether they are the same for all."""
    values = value(left, witness), value(right, witness)
    return alike(left, right) if None in values else values[0] == values[1]


def one(size: str, witness: Mapping[str, Value]) -> bool:
    """Whether a size is 1 under the witness."""
    return value(size, witness) == 1


def without_common(left: Sequence[str], right: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Two products without the factors they share: what is left of each, and the shared.

    >>> without_common(["B", "12", "T", "64"], ["B", "T", "512"])
    (['12', '64'], ['512'], ['B', 'T'])
    """
    rest, shared, others = [], [], list(right)
    for size in left:
        match = next((other for other in others if alike(size, other)), None)
        if match is None:
            rest.append(size)
        else:
            others.remove(match)
            shared.append(size)
    return rest, others, shared


def pretty(size: str) -> str:
    """A size as it is printed: products with a dot, remainders as Python writes them.

    >>> pretty("12*Mod(N, B)")
    '12·(N % B)'
    """
    text = re.sub(r"\b(?:Python)?Mod\((\w+), (\w+)\)", r"(\1 % \2)", size)
    if re.fullmatch(r"\(\w+ % \w+\)", text):
        text = text[1:-1]
    return re.sub(r"(?<!\*)\*(?!\*)", "·", text)


def product(sizes: Sequence[str]) -> str:
    """The product of sizes, computed: "768" for 12 and 64, "12·T" for 12 and T."""
    total = multiplied(polynomial(size) for size in sizes)
    if not total:
        return "0"
    terms = []
    for term, count in sorted(total.items(), key=lambda pair: (-len(pair[0]), pair[0])):
        factors = [*([str(count)] if count != 1 or not term else []), *(pretty(_bracketed(s)) for s in term)]
        terms.append("·".join(factors))
    return " + ".join(terms).replace("+ -", "- ")


def _bracketed(symbol: str) -> str:
    return (
        f"({symbol})" if re.search(r"[+/%-]", symbol) and not re.fullmatch(r"\w+\(.*\)", symbol) else symbol
    )


def counted(sizes: Sequence[str]) -> str:
    """A product with its value: "12·64 = 768"; the size alone if it is one; "1" for none."""
    if not sizes:
        return "1"
    shown = "·".join(_bracketed(pretty(size)) for size in sizes)
    computed = product(sizes)
    return shown if len(sizes) == 1 or shown == computed else f"{shown} = {computed}"


def shape(sizes: Sequence[str]) -> str:
    """A shape as it is printed: "(B, 12, T, 64)", "(3,)", "()"."""
    if len(sizes) == 1:
        return f"({pretty(sizes[0])},)"
    return f"({', '.join(pretty(size) for size in sizes)})"


def ordinal(dimension: int, rank: int) -> str:
    """A dimension in words: "dimension 1", and "the last dimension" for the last of several."""
    return "the last dimension" if dimension == rank - 1 and rank > 1 else f"dimension {dimension}"
