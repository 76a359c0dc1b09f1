"""Conditions over sizes in a normal form: polynomials with integer coefficients over atoms, compared with zero.

An integer expression becomes a `Sum`: a constant and a number of products of atoms, each with a coefficient. Atoms are
symbols and what is no polynomial: quotients rounded down, maxima, floats made integer, …. A remainder is written out
as `p - q*(p // q)`, so that "16 divides p" and "p = 16*(p // 16)" are one and the same condition. Quotients are brought
to lowest terms. All of this is exact where the expression has a value; that it has one is a condition of its own, which
`Translator` puts beside each comparison (`q != 0` for a quotient).

Floats are not rearranged, for each of their operations rounds: they stay as they were written and are compared as such.
"""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any


class Term:
    """An expression or condition. Two terms are equal if their texts are.

    Args:
        kind: "symbol", "number", "sum", "//", "max", "min", "where", a float function, a rounding; or of conditions
            "true", "false", "=0", "!=0", "<=0" (of an integer sum), "=", "!=", "<=", "<" (of two floats), "and", "or".
        arguments: Terms; of a sum pairs of a product (a tuple of atoms) and its coefficient.
        text: Canonical.
        integer: Whether the value is an integer wherever it is defined.
        value: Of a number; of a symbol its name.
    """

    __slots__ = ("_hash", "arguments", "integer", "kind", "parts", "symbols", "text", "value")

    def __init__(
        self, kind: str, arguments: tuple[Any, ...], text: str, integer: bool = True, value: Any = None
    ) -> None:
        self.kind = kind
        self.arguments = arguments
        self.text = text
        self._hash = hash(text)
        self.integer = integer
        self.value = value
        self.parts: tuple[Term, ...] | None = (
            None  # whose bounds say something about its own; `Box` finds them
        )
        if kind == "symbol":
            self.symbols: frozenset[str] = frozenset((value,))
        elif kind == "sum":
            self.symbols = frozenset().union(*(a.symbols for product, _ in arguments for a in product))
        else:
            self.symbols = frozenset().union(*(a.symbols for a in arguments))

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Term) and self.text == other.text)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return self.text


Product = tuple[Term, ...]
Polynomial = dict[Product, Any]  # coefficient by product; the empty product is the constant

TRUE = Term("true", (), "true")
FALSE = Term("false", (), "false")


def symbol(name: str, integer: bool = True) -> Term:
    """The symbol of this name."""
    return Term("symbol", (), name, integer, name)


def constant(value: Any) -> Term:
    """The number."""
    if isinstance(value, Fraction) and value.denominator == 1:
        value = value.numerator
    return Term("number", (), repr(value), isinstance(value, int), value)


def polynomial(term: Term) -> Polynomial:
    """The term as a polynomial, of which the caller may change the dict."""
    if term.kind == "number":
        return {(): term.value} if term.value else {}
    if term.kind == "sum":
        return dict(term.arguments)
    return {(term,): 1}


def of_polynomial(p: Polynomial) -> Term:
    """The polynomial as a term: a number, an atom, or a sum in canonical order."""
    items = sorted(((k, v) for k, v in p.items() if v), key=_order)
    if not items:
        return constant(0)
    if len(items) == 1:
        product, coefficient = items[0]
        if not product:
            return constant(coefficient)
        if coefficient == 1 and len(product) == 1:
            return product[0]
    text = "(" + " + ".join("*".join([str(c), *(a.text for a in k)]) for k, c in items) + ")"
    integer = all(isinstance(c, int) or c.denominator == 1 for _, c in items)
    return Term("sum", tuple(items), text, integer and all(a.integer for k, _ in items for a in k))


def _order(item: tuple[Product, Any]) -> tuple[int, list[str]]:
    return len(item[0]), [a.text for a in item[0]]


def plus(p: Polynomial, q: Polynomial, factor: Any = 1) -> Polynomial:
    """`p + factor*q`."""
    result = dict(p)
    for product, coefficient in q.items():
        total = result.get(product, 0) + factor * coefficient
        if total:
            result[product] = total
        else:
            result.pop(product, None)
    return result


def times(p: Polynomial, q: Polynomial) -> Polynomial:
    """`p*q`."""
    result: Polynomial = {}
    for a, x in p.items():
        for b, y in q.items():
            product = tuple(sorted(a + b, key=lambda t: t.text)) if a and b else a or b
            result[product] = result.get(product, 0) + x * y
    return {k: v for k, v in result.items() if v}


def whole(p: Polynomial) -> tuple[Polynomial, int]:
    """The polynomial times the smallest number that makes its coefficients integers, and that number."""
    scale = math.lcm(*(Fraction(c).denominator for c in p.values()))
    return {k: int(c * scale) for k, c in p.items()}, scale


def content(p: Polynomial) -> tuple[int, Product]:
    """The greatest common divisor of all coefficients, and the product of the atoms common to all products."""
    divisor = math.gcd(*p.values())
    common: list[Term] = []
    products = [list(k) for k in p]
    for atom in sorted(set(products[0]), key=lambda t: t.text) if products else ():
        common += [atom] * min(k.count(atom) for k in products)
    return divisor, tuple(common)


def divide(p: Polynomial, divisor: int, product: Product) -> Polynomial:
    """The polynomial without this content, which it has to have."""
    return {_without(k, product): c // divisor for k, c in p.items()}


def _without(product: Product, factor: Product) -> Product:
    rest = list(product)
    for atom in factor:
        rest.remove(atom)
    return tuple(rest)


def _contains(product: Product, factor: Product) -> bool:
    return all(product.count(atom) >= factor.count(atom) for atom in factor)


def quotient(p: Polynomial, q: Polynomial) -> Polynomial:
    """`p // q` in lowest terms, exact wherever q is not zero. The coefficients are integers.

    Raises:
        ZeroDivisionError: If q is the number zero.
    """
    if not q:
        raise ZeroDivisionError
    if len(q) == 1:
        ((divisor, c),) = q.items()
        if c < 0:
            return quotient({k: -v for k, v in p.items()}, {divisor: -c})
        out = {
            _without(k, divisor): v // c
            for k, v in p.items()
            if _contains(k, divisor) and (v % c == 0 or not k)
        }
        if not divisor and () in p:
            out[()] = p[()] // c
        out = {k: v for k, v in out.items() if v}
        rest = plus(p, times(out, q), -1)
    else:
        out, rest = {}, p
        first = next(iter(q))
        ratio = Fraction(p.get(first, 0), q[first])
        if ratio and ratio.denominator == 1 and not plus(p, q, -ratio.numerator):
            return {(): ratio.numerator}
    if not rest:
        return out
    common = _shared(rest, q)
    rest, q = divide(rest, 1, common), divide(q, 1, common)
    bottom = q.get((), 0) if len(q) == 1 else 0
    if bottom:  # a constant at the bottom: the top's constant may be rounded down to a multiple of the step
        step = math.gcd(*(v for k, v in rest.items() if k), bottom)
        bottom //= step
        rest, q = {k: v // step for k, v in rest.items() if v // step}, {(): bottom}
        if bottom == 1 or not rest:
            return plus(out, rest)
        nested = next(iter(rest)) if len(rest) == 1 and 1 in rest.values() else ()
        if len(nested) == 1 and nested[0].kind == "//":
            top, inner = nested[0].arguments
            if inner.kind == "number" and inner.value > 0:
                return plus(out, quotient(polynomial(top), {(): inner.value * bottom}))
    else:
        step = math.gcd(*rest.values(), *q.values())
        rest, q = {k: v // step for k, v in rest.items()}, {k: v // step for k, v in q.items()}
        if set(q) == {()}:
            return plus(out, quotient(rest, q))
    over, under = of_polynomial(rest), of_polynomial(q)
    return plus(out, {(Term("//", (over, under), f"({over.text} // {under.text})"),): 1})


def _shared(p: Polynomial, q: Polynomial) -> Product:
    joined = [*p, *q]
    common: list[Term] = []
    for atom in sorted(set(joined[0]), key=lambda t: t.text):
        common += [atom] * min(k.count(atom) for k in joined)
    return tuple(common)


def extreme(kind: str, sides: Iterable[Term]) -> Term:
    """The largest ("max") or smallest ("min") of the terms."""
    flat: dict[Term, None] = {}
    for side in sides:
        flat.update(dict.fromkeys(side.arguments if side.kind == kind else (side,)))
    numbers = [t.value for t in flat if t.kind == "number"]
    others = [t for t in flat if t.kind != "number"]
    if numbers:
        best = max(numbers) if kind == "max" else min(numbers)
        if not others:
            return constant(best)
        if not (isinstance(best, float) and math.isinf(best) and (best > 0) is (kind == "min")):
            others.append(constant(best))
    others.sort(key=lambda t: t.text)
    if len(others) == 1:
        return others[0]
    text = f"{kind}({', '.join(t.text for t in others)})"
    return Term(kind, tuple(others), text, all(t.integer for t in others))


def call(kind: str, arguments: Sequence[Term], integer: bool) -> Term:
    """An atom that is a function of other terms."""
    text = f"{kind}({', '.join(t.text for t in arguments)})"
    return Term(kind, tuple(arguments), text, integer)


def compare(kind: str, p: Polynomial) -> Term:
    """The condition that the polynomial is zero ("=0"), is not ("!=0"), or is at most zero ("<=0"), in lowest terms."""
    p, _ = whole(p)
    rest = {k: c for k, c in p.items() if k}
    offset = p.get((), 0)
    if not rest:
        return TRUE if {"=0": offset == 0, "!=0": offset != 0, "<=0": offset <= 0}[kind] else FALSE
    divisor = math.gcd(*rest.values())
    if kind != "<=0":
        if offset % divisor:
            return FALSE if kind == "=0" else TRUE
        if min(rest.items(), key=_order)[1] < 0:
            divisor = -divisor
    scaled = {k: c // divisor for k, c in rest.items()}
    offset = -((-offset) // divisor)  # of "<=0" rounded up, which is the tighter bound; exact otherwise
    side = of_polynomial(plus(scaled, {(): offset} if offset else {}))
    return Term(kind, (side,), f"{side.text} {kind}", True)


def compare_floats(kind: str, left: Term, right: Term) -> Term:
    """The condition that `left` is "=", "!=", "<=" or "<" than `right`, as Python compares numbers."""
    if left.kind == right.kind == "number":
        a, b = left.value, right.value
        return TRUE if {"=": a == b, "!=": a != b, "<=": a <= b, "<": a < b}[kind] else FALSE
    return Term(kind, (left, right), f"{left.text} {kind} {right.text}", True)


def join(kind: str, sides: Iterable[Term]) -> Term:
    """All of ("and") or one of ("or") the conditions."""
    neutral, decisive = (TRUE, FALSE) if kind == "and" else (FALSE, TRUE)
    flat: dict[Term, None] = {}
    for side in sides:
        flat.update(dict.fromkeys(side.arguments if side.kind == kind else (side,)))
    flat.pop(neutral, None)
    if decisive in flat:
        return decisive
    if not flat:
        return neutral
    if len(flat) == 1:
        return next(iter(flat))
    ordered = sorted(flat, key=lambda t: t.text)
    return Term(kind, tuple(ordered), "(" + f" {kind} ".join(t.text for t in ordered) + ")")


def negate(condition: Term) -> Term:
    """The negation of a condition without "and" and "or" that is defined."""
    if condition in (TRUE, FALSE):
        return FALSE if condition == TRUE else TRUE
    kind = condition.kind
    if kind == "<=0":
        return compare("<=0", plus({(): 1}, polynomial(condition.arguments[0]), -1))
    if kind in ("=0", "!=0"):
        return compare("!=0" if kind == "=0" else "=0", polynomial(condition.arguments[0]))
    left, right = condition.arguments
    opposite = {"=": "!=", "!=": "=", "<=": "<", "<": "<="}[kind]
    return (
        compare_floats(opposite, right, left)
        if kind in ("<=", "<")
        else compare_floats(opposite, left, right)
    )
