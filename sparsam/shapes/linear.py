"""Linear reasoning: equalities that give one symbol by the others, and Fourier and Motzkin's elimination of the rest."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from sparsam.shapes.box import Box, Split
from sparsam.shapes.intervals import Interval
from sparsam.shapes.terms import (
    Polynomial,
    Term,
    call,
    compare,
    compare_floats,
    constant,
    extreme,
    join,
    of_polynomial,
    plus,
    polynomial,
    quotient,
    symbol,
    times,
)

STEPS = 40  # equalities used before it is left to the other methods
LARGEST_SYSTEM = 400  # inequalities held at once by the elimination; chosen by us


class Substitution:
    """Terms in place of symbols and other atoms, carried into everything that contains them."""

    def __init__(self, by: Mapping[Term, Term]) -> None:
        self.by = by
        self.names = frozenset().union(*(t.symbols for t in by))
        self.done: dict[Term, Term] = {}

    def __call__(self, term: Term) -> Term:
        """The term or condition with the symbols replaced.

        What is divided by zero now is any integer: that this is not allowed is a condition of its own.
        """
        if term in self.by:
            return self.by[term]
        if not (self.names & term.symbols):
            return term
        if term not in self.done:
            self.done[term] = self._rebuilt(term)
        return self.done[term]

    def _rebuilt(self, term: Term) -> Term:
        kind = term.kind
        if kind == "symbol":
            return term
        if kind == "sum":
            total: Polynomial = {}
            for product, coefficient in term.arguments:
                part: Polynomial = {(): coefficient}
                for atom in product:
                    part = times(part, polynomial(self(atom)))
                total = plus(total, part)
            return of_polynomial(total)
        if kind in ("and", "or"):
            return join(kind, [self(a) for a in term.arguments])
        arguments = [self(a) for a in term.arguments]
        if kind in ("=0", "!=0", "<=0"):
            return compare(kind, polynomial(arguments[0]))
        if kind in ("=", "!=", "<=", "<"):
            return compare_floats(kind, *arguments)
        if kind == "//":
            over, under = arguments
            if under.kind == "number" and not under.value:
                return call("undefined", [over], True)
            return of_polynomial(quotient(polynomial(over), polynomial(under)))
        if kind in ("max", "min"):
            return extreme(kind, arguments)
        if kind == "where":
            holds, fails, yes, no = arguments
            if holds.kind == "true":
                return yes
            if fails.kind == "true":
                return no
            text = f"where({holds.text}, {yes.text}, {no.text})"
            return Term("where", (holds, fails, yes, no), text, yes.integer and no.integer)
        return call(kind, arguments, term.integer)


class Reduced:
    """A box after its equalities have been used up.

    Args:
        box: Of the symbols that are left.
        given: Name and value of each symbol that went, in the order of going: a later one may stand in an earlier one.
    """

    def __init__(self, box: Box, given: list[tuple[str, Term]]) -> None:
        self.box = box
        self.given = given

    def complete(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """A model of the symbols that are left as one of all."""
        result = dict(model)
        for name, term in reversed(self.given):
            total = 0
            for product, coefficient in polynomial(term).items():
                total += coefficient * math.prod(result[atom.value] for atom in product)
            result[name] = total
        return result


def reduce(box: Box, cache: dict[Term, Split]) -> Reduced:
    """Replace symbols by what an equality says they are, and functions whose value is settled, as long as there is one.

    A symbol that is divided is replaced too: of `s = 16*(s // 16)` follows `s = 16*k` with a new symbol k.

    Raises:
        Empty: If nothing satisfies the conditions.
    """
    given: list[tuple[str, Term]] = []
    for step in range(STEPS):
        found = _next(box, f"#{step}")
        if not found:
            break
        given += [(old.value, term) for old, term in found.items() if old.kind == "symbol"]
        mapping = Substitution(found)
        known: dict[Term, Interval] = {
            t: bounds for t, bounds in box.known.items() if t.kind == "symbol" and t not in found
        }
        new = Box(known, cache)
        for old, term in found.items():
            for name in sorted(term.symbols):
                if name.startswith("#"):
                    new.known.setdefault(symbol(name), (-math.inf, math.inf))
            if old.kind == "symbol":
                new.meet(term)
                new.narrow(term, *box.known[old])
        for condition in box.conditions:
            new.add(mapping(condition))
        new.propagate()
        box = new
    return Reduced(box, given)


def _next(box: Box, fresh: str) -> dict[Term, Term]:
    """Atoms to be replaced at once: all that are settled, else a symbol that an equality gives."""
    settled: dict[Term, Term] = {}
    for term, (low, high) in box.known.items():
        if low == high and term.integer and term.kind in ("symbol", "max", "min"):
            settled[term] = constant(low)
        elif term.kind in ("max", "min") and term.integer:
            others = [(a, box.bounds(a)) for a in term.arguments]
            for argument, (a, b) in others:
                if all(
                    a >= d if term.kind == "max" else b <= c
                    for other, (c, d) in others
                    if other is not argument
                ):
                    settled[term] = argument
                    break
        elif term.kind == "where" and term.integer:
            holds, fails, yes, no = term.arguments
            if box.status(holds) is True or box.status(fails) is False:
                settled[term] = yes
            elif box.status(fails) is True or box.status(holds) is False:
                settled[term] = no
    if settled:
        return settled
    divided: dict[Term, Term] = {}
    for form, (low, high) in box.known.items():
        if form.kind != "sum" or low != high or not form.integer:
            continue
        for product, coefficient in form.arguments:
            if len(product) != 1 or abs(coefficient) != 1 or product[0].kind != "symbol":
                continue
            rest = [(k, c) for k, c in form.arguments if k != product]
            inside = any(product[0].value in atom.symbols for k, _ in rest for atom in k)
            if not inside and all(a.kind == "symbol" for k, _ in rest for a in k):
                solved = plus({(): low} if low else {}, dict(rest), -1)
                return {product[0]: of_polynomial({k: c * coefficient for k, c in solved.items()})}
            step = math.gcd(*(c for _, c in rest))
            if step > 1 and not divided:
                remainder = low * coefficient % step
                p: Polynomial = {(symbol(fresh),): step}
                divided = {product[0]: of_polynomial(plus(p, {(): remainder} if remainder else {}))}
    return divided


def refuted(box: Box) -> bool:
    """Whether the bounds of forms and products contradict each other as linear inequalities over the rationals.

    After J. B. J. Fourier and T. S. Motzkin: each step takes one unknown out by adding every pair of inequalities that
    bound it from both sides; bounds are then rounded to integers. False where the system would become too large.
    """
    rows = _rows(box)
    while rows:
        counts: dict[Any, list[int]] = {}
        for row, _ in rows:
            for unknown, c in row.items():
                counts.setdefault(unknown, [0, 0])[c > 0] += 1
        if not counts:
            return any(bound < 0 for _, bound in rows)
        unknown = min(counts, key=lambda u: (counts[u][0] * counts[u][1], counts[u], str(u)))
        above = [(r, b) for r, b in rows if r.get(unknown, 0) > 0]
        below = [(r, b) for r, b in rows if r.get(unknown, 0) < 0]
        rest = [(r, b) for r, b in rows if unknown not in r]
        if len(rest) + len(above) * len(below) > LARGEST_SYSTEM:
            return False
        for r, b in above:
            for s, d in below:
                x, y = -s[unknown], r[unknown]
                joined = {k: v * x for k, v in r.items()}
                for k, v in s.items():
                    joined[k] = joined.get(k, 0) + v * y
                joined = {k: v for k, v in joined.items() if v}
                bound = b * x + d * y
                if joined:
                    divisor = math.gcd(*joined.values())
                    rest.append(({k: v // divisor for k, v in joined.items()}, bound // divisor))
                elif bound < 0:
                    return True
        rows = _tightest(rest)
    return False


Row = tuple[dict[Any, int], int]  # coefficients by unknown; their sum is at most the number


def _rows(box: Box) -> list[Row]:
    rows: list[Row] = []
    unknowns: dict[Any, None] = {}
    for form, (low, high) in box.known.items():
        if form.kind != "sum" or not form.integer or len(form.arguments) < 2:
            continue
        row = dict(form.arguments)
        loose_low, loose_high = box.loose_bounds(form)
        if high != math.inf and high < loose_high:
            rows.append((row, high))
        if low != -math.inf and low > loose_low:
            rows.append(({k: -c for k, c in row.items()}, -low))
    for row, _ in rows:
        unknowns.update(dict.fromkeys(row))
    for product in unknowns:
        low, high = box.product_bounds(product)
        if high != math.inf:
            rows.append(({product: 1}, high))
        if low != -math.inf:
            rows.append(({product: -1}, -low))
    return rows if len(rows) <= LARGEST_SYSTEM else []


def _tightest(rows: Iterable[Row]) -> list[Row]:
    best: dict[frozenset[tuple[Any, int]], Row] = {}
    for row, bound in rows:
        key = frozenset(row.items())
        if key not in best or bound < best[key][1]:
            best[key] = (row, bound)
    return list(best.values())
