"""What is known of a conjunction of conditions: an interval for each atom and each linear form, narrowed until it stays.

An atom under an "or" or a `Where` may have no value. Then it is taken to be any number: nothing is inferred of its
arguments from it unless they are certain to give it one.

A condition on a sum is a bound on its form, the sum without its constant and in lowest terms, so conditions on the same
form meet in one interval: `a - b <= 3` and `b - a <= -5` contradict each other at once. From there bounds are carried
to and fro between a sum and its products, a product and its factors, a function and its arguments.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from sparsam.shapes import intervals as iv
from sparsam.shapes.intervals import EVERYTHING, Interval
from sparsam.shapes.sweeps import ROUNDINGS, sweep
from sparsam.shapes.terms import (
    FALSE,
    TRUE,
    Product,
    Term,
    compare,
    content,
    divide,
    join,
    of_polynomial,
    plus,
    polynomial,
)

ROUNDS = 12  # sweeps over everything; bounds that creep by one in each are left where they are; chosen by us
LARGEST = 1 << 256  # finite bounds stop here: one beyond is loosened to it or to infinity; chosen by us
LARGEST_SHARE = 1 - 2**-50  # of a number as a float: two roundings do not make it more than the number
SPREAD = 64  # excluded values that an end is moved past one by one


class Empty(Exception):
    """Nothing satisfies the conditions."""


Split = tuple[Term, int, int]  # form, factor, constant


def split(term: Term, cache: dict[Term, Split]) -> Split:
    """An exact integer term as `factor*form + constant`, where the form's first coefficient is positive."""
    if term not in cache:
        p = polynomial(term)
        constant = p.pop((), 0)
        if not p:
            cache[term] = (term, 0, constant)
        else:
            factor = math.gcd(*p.values())
            if next(iter(p.values())) < 0:
                factor = -factor
            cache[term] = (of_polynomial({k: c // factor for k, c in p.items()}), factor, constant)
    return cache[term]


def _share_of(term: Term) -> Term | None:
    """The whole number of which this is a share, as a float, if it is one."""
    if term.kind != "*" or len(term.arguments) != 2:
        return None
    share, whole = sorted(term.arguments, key=lambda side: side.kind != "number")
    if share.kind != "number" or whole.kind != "float" or not 0 <= share.value <= LARGEST_SHARE:
        return None
    of: Term = whole.arguments[0]
    return of if of.integer else None


class Box:
    """Conditions and what follows for each term.

    Args:
        known: Interval of each symbol.
        cache: Of `split`, shared between boxes.
    """

    def __init__(self, known: Mapping[Term, Interval], cache: dict[Term, Split]) -> None:
        self.known: dict[Term, Interval] = {}
        self.excluded: dict[Term, set[Any]] = {}
        self.clauses: list[Term] = []
        self.floats: list[Term] = []
        self.conditions: dict[Term, None] = {}  # all that were added, without "and"
        self.cache = cache
        self.seen: set[Term] = set()
        self.told: set[tuple[Term, int]] = set()
        self.moved = True
        self.time = 0
        self.changed: dict[Term, int] = {}
        self.swept: dict[Term, int] = {}
        for term, (low, high) in known.items():
            self.limit(term, low, high)

    def copy(self) -> "Box":
        """A box of its own with the same content."""
        other = Box({}, self.cache)
        other.known, other.clauses, other.floats = dict(self.known), list(self.clauses), list(self.floats)
        other.excluded = {k: set(v) for k, v in self.excluded.items()}
        other.conditions = dict(self.conditions)
        other.seen, other.told = set(self.seen), set(self.told)
        other.time, other.changed, other.swept = self.time, dict(self.changed), dict(self.swept)
        return other

    def limit(self, term: Term, low: Any, high: Any) -> None:
        """The term lies between these.

        Raises:
            Empty: If it cannot.
        """
        if term.kind == "number":
            if not low <= term.value <= high:
                raise Empty
            return
        if term.integer:
            if isinstance(low, float) and not math.isinf(low):
                low = math.ceil(low)
            if isinstance(high, float) and not math.isinf(high):
                high = math.floor(high)
            low = -math.inf if low < -LARGEST else LARGEST if low > LARGEST else low
            high = math.inf if high > LARGEST else -LARGEST if high < -LARGEST else high
        old_low, old_high = self.known.get(term, EVERYTHING)
        if low > old_low or high < old_high or term not in self.known:
            low, high = max(low, old_low), min(high, old_high)
            banned = self.excluded.get(term)
            if banned:
                for _ in range(SPREAD):
                    low = low + 1 if low in banned else low
                    high = high - 1 if high in banned else high
            if low > high:
                raise Empty
            self.known[term] = (low, high)
            self.time += 1
            self.changed[term] = self.time
            self.moved = True

    def narrow(self, term: Term, low: Any, high: Any) -> None:
        """The term, which may be any sum, lies between these."""
        if not term.integer or term.kind != "sum":
            self.limit(term, low, high)
            return
        form, factor, constant = split(term, self.cache)
        low, high = iv.add_bounds(low, -constant), iv.add_bounds(high, -constant)
        if factor < 0:
            low, high, factor = -high, -low, -factor
        self.limit(form, iv.divide_up(low, factor), iv.divide_down(high, factor))

    def bounds(self, term: Term) -> Interval:
        """Where the term lies, as far as is known."""
        if term.kind == "number":
            return term.value, term.value
        if term.kind != "sum" or not term.integer:
            known = self.known.get(term)
            return known if known is not None else EVERYTHING
        form, factor, constant = split(term, self.cache)
        return iv.add(iv.scale(self.form_bounds(form), factor), (constant, constant))

    def form_bounds(self, form: Term) -> Interval:
        """Where a sum without constant lies, or an atom."""
        known = self.known.get(form, EVERYTHING)
        if form.kind != "sum":
            return known
        total = self.loose_bounds(form)
        return max(known[0], total[0]), min(known[1], total[1])

    def loose_bounds(self, form: Term) -> Interval:
        """Where a sum lies by what is known of its products alone."""
        total: Interval = (0, 0)
        for product, coefficient in form.arguments:
            total = iv.add(total, iv.scale(self.product_bounds(product), coefficient))
        return total

    def product_bounds(self, product: Product) -> Interval:
        """Where a product of atoms lies."""
        if len(product) == 1:
            return self.known.get(product[0], EVERYTHING)
        result: Interval = (1, 1)
        for atom, exponent in Counter(product).items():
            result = iv.multiply(result, iv.power(self.known.get(atom, EVERYTHING), exponent))
        return result

    def add(self, condition: Term) -> None:
        """One more condition.

        Raises:
            Empty: If it contradicts what is known.
        """
        if condition == FALSE:
            raise Empty
        if condition == TRUE or condition in self.conditions:
            return
        if condition.kind == "and":
            for side in condition.arguments:
                self.add(side)
            return
        self.conditions[condition] = None
        self.moved = True
        if condition.kind == "or":
            self._meet_all(condition)
            self.clauses.append(condition)
            return
        for side in condition.arguments:
            self.meet(side)
        if condition.kind not in ("=0", "!=0", "<=0"):
            self.floats.append(condition)
            return
        (side,) = condition.arguments
        form, factor, constant = split(side, self.cache)
        if condition.kind == "!=0":
            if constant % factor == 0:
                self._exclude(form, -constant // factor)
        else:
            self.narrow(side, 0 if condition.kind == "=0" else -math.inf, 0)
        if form.kind == "sum":
            if constant:
                self._signs(condition.kind, form, factor, constant)
            else:
                self._factor(condition.kind, side)

    def _meet_all(self, condition: Term) -> None:
        for side in condition.arguments:
            if side.kind in ("and", "or"):
                self._meet_all(side)
            else:
                for term in side.arguments:
                    self.meet(term)

    def _exclude(self, form: Term, value: int) -> None:
        self.excluded.setdefault(form, set()).add(value)
        low, high = self.known.get(form, EVERYTHING)
        if value in (low, high):
            self.known[form] = (low, high)
            self.limit(form, low + (low == value), high - (high == value))

    def _factor(self, kind: str, side: Term) -> None:
        """A sum without constant whose products share atoms: each of these is zero, or the rest has to do it."""
        p = polynomial(side)
        _, common = content(p)
        if not common or (len(p) == 1 and len(common) == 1):
            return
        rest = divide(p, 1, common)
        atoms = sorted(set(common), key=lambda t: t.text)
        if kind == "!=0":
            for atom in atoms:
                self.add(compare("!=0", {(atom,): 1}))
            self.add(compare("!=0", rest))
        elif kind == "=0":
            self.add(join("or", [*(compare("=0", {(atom,): 1}) for atom in atoms), compare("=0", rest)]))
        elif all(self.known.get(atom, EVERYTHING)[0] >= 0 for atom in atoms):
            zero = [compare("=0", {(a,): 1}) for a in atoms if self.known[a][0] <= 0]
            self.add(join("or", [*zero, compare("<=0", rest)]))

    def _signs(self, kind: str, form: Term, factor: int, constant: int) -> None:
        """A form whose products share a nonnegative factor and which is bounded away from zero: so is the rest."""
        p = polynomial(form)
        _, common = content(p)
        if kind == "!=0" or not common or len(p) == 1:
            return
        if any(self.known.get(atom, EVERYTHING)[0] < 0 for atom in common):
            return
        if kind == "<=0" and constant < 0:
            return
        rest = divide(p, 1, common)
        if (factor < 0) is (constant > 0):  # the form is at least one, otherwise at most minus one
            self.add(compare("<=0", plus({(): 1}, rest, -1)))
        else:
            self.add(compare("<=0", plus(rest, {(): 1})))
        for atom in sorted(set(common), key=lambda t: t.text):
            self.limit(atom, 1, math.inf)

    def meet(self, term: Term) -> None:
        """Look at the term's atoms, and say what their definition says."""
        if term in self.seen:
            return
        self.seen.add(term)
        if term.kind == "sum":
            for product, _ in term.arguments:
                for atom in product:
                    self.meet(atom)
            return
        if term.kind in ("number", "symbol"):
            return
        if term.kind == "where":
            holds, fails, yes, no = term.arguments
            self._meet_all(join_pair(holds, fails))
            self.meet(yes)
            self.meet(no)
        else:
            for argument in term.arguments:
                self.meet(argument)
        self.known.setdefault(term, EVERYTHING)
        self.moved = True
        if term.kind in ("max", "min") and term.integer:
            sign = 1 if term.kind == "max" else -1
            for argument in term.arguments:
                difference = plus(polynomial(argument), {(term,): 1}, -1)
                self.add(compare("<=0", {k: sign * c for k, c in difference.items()}))
            equal = [
                compare("=0", plus(polynomial(argument), {(term,): 1}, -1)) for argument in term.arguments
            ]
            self.add(join("or", equal))
        if term.kind in ROUNDINGS and (of := _share_of(term.arguments[0])) is not None:
            # No more than the whole, where that is no less than 0.
            less = plus({(term,): 1}, polynomial(of), -1)
            self.add(join("or", [compare("<=0", plus(polynomial(of), {(): 1})), compare("<=0", less)]))

    def propagate(self) -> None:
        """Carry bounds to and fro until nothing moves, or for a number of rounds.

        Raises:
            Empty: If nothing is left.
        """
        for _ in range(ROUNDS):
            if not self.moved:
                return
            self.moved = False
            for term in list(self.known):
                if self._stale(term):
                    self.swept[term] = self.time
                    if term.kind == "sum":
                        self._sweep_form(term)
                    elif term.kind not in ("symbol", "number"):
                        sweep(self, term)
            for condition in self.floats:
                self._sweep_floats(condition)
            self._sweep_clauses()

    def _stale(self, term: Term) -> bool:
        last = self.swept.get(term, -1)
        if last < 0 or self.changed.get(term, 0) > last:
            return True
        if term.parts is None:
            term.parts = tuple(self._parts(term))
        changed = self.changed
        return any(changed.get(part, 0) > last for part in term.parts)

    def _parts(self, term: Term) -> Iterator[Term]:
        if term.kind == "sum":
            for product, _ in term.arguments:
                yield from product
        else:
            for argument in term.arguments:
                if argument.kind == "sum":
                    if argument.integer:
                        yield split(argument, self.cache)[0]
                    yield from self._parts(argument)
                elif argument.kind in ("and", "or", "=0", "!=0", "<=0", "=", "!=", "<=", "<"):
                    yield from self._parts(argument)
                else:
                    yield argument

    def _sweep_form(self, form: Term) -> None:
        if not form.integer:
            return
        parts = [iv.scale(self.product_bounds(k), c) for k, c in form.arguments]
        low = high = 0
        endless_low = endless_high = 0
        for a, b in parts:
            if a == -math.inf:
                endless_low += 1
            else:
                low += a
            if b == math.inf:
                endless_high += 1
            else:
                high += b
        self.limit(form, -math.inf if endless_low else low, math.inf if endless_high else high)
        known_low, known_high = self.known[form]
        for (product, c), (a, b) in zip(form.arguments, parts, strict=True):
            rest_low = -math.inf if endless_low - (a == -math.inf) else low - (0 if a == -math.inf else a)
            rest_high = math.inf if endless_high - (b == math.inf) else high - (0 if b == math.inf else b)
            new_low, new_high = (
                iv.add_bounds(known_low, -rest_high),
                iv.add_bounds(known_high, -rest_low),
            )
            if new_low > a or new_high < b:
                if c < 0:
                    new_low, new_high, c = -new_high, -new_low, -c
                self._sweep_product(product, iv.divide_up(new_low, c), iv.divide_down(new_high, c))
        for product, c in form.arguments:
            if len(product) == 2 and product[0] == product[1]:
                self._sweep_square(form, product[0], c)

    def _sweep_square(self, form: Term, atom: Term, c: int) -> None:
        """Bounds of x from `c*x*x + d*x + rest`, whose two terms by themselves may be unbounded."""
        d = 0
        rest: Interval = (0, 0)
        for product, coefficient in form.arguments:
            if product == (atom,):
                d = coefficient
            elif product != (atom, atom):
                rest = iv.add(rest, iv.scale(self.product_bounds(product), coefficient))
        if not d:
            return
        low, high = self.known[form]
        top = iv.add_bounds(high, -rest[0])
        if c < 0:
            c, d, top = -c, -d, iv.add_bounds(-low, rest[1])
        if top == math.inf:
            return
        square = d * d + 4 * c * top  # (2*c*x + d)**2 is at most this
        if square < 0:
            raise Empty
        root = math.isqrt(square)
        self.limit(atom, iv.divide_up(-root - d, 2 * c), iv.divide_down(root - d, 2 * c))

    def _sweep_product(self, product: Product, low: Any, high: Any) -> None:
        if len(product) == 1:
            self.limit(product[0], low, high)
            return
        counts = Counter(product)
        for atom, exponent in counts.items():
            rest: Interval = (1, 1)
            for other, times_ in counts.items():
                if other is not atom:
                    rest = iv.multiply(rest, iv.power(self.known.get(other, EVERYTHING), times_))
            a, b = iv.factor_of((low, high), rest)
            if exponent == 1:
                self.limit(atom, a, b)
            elif not (isinstance(b, float) and math.isinf(b)) and exponent % 2 == 0:
                if b < 0:
                    raise Empty
                root = math.isqrt(b)  # of an even power: at most the square root in size
                self.limit(atom, -root, root)

    def _sweep_floats(self, condition: Term) -> None:
        left, right = condition.arguments
        (a, b), (c, d) = self.bounds(left), self.bounds(right)
        if condition.kind == "!=":
            if a == b == c == d:
                raise Empty
            return
        if a > d or (condition.kind == "<" and a >= d):
            raise Empty
        if condition.kind == "=":
            if c > b:
                raise Empty
            self.narrow(left, c, d)
            self.narrow(right, a, b)
            return
        strict = condition.kind == "<"
        self.narrow(left, -math.inf, _below(d) if strict and left.integer else d)
        self.narrow(right, _above(a) if strict and right.integer else a, math.inf)

    def status(self, condition: Term) -> bool | None:
        """Whether the condition is certain, impossible, or neither is known."""
        kind = condition.kind
        if kind in ("true", "false"):
            return kind == "true"
        if kind in ("and", "or"):
            found = [self.status(side) for side in condition.arguments]
            decisive = kind == "or"
            if decisive in found:
                return decisive
            return None if None in found else not decisive
        if kind in ("=0", "!=0", "<=0"):
            (side,) = condition.arguments
            low, high = self.bounds(side)
            if kind == "<=0":
                return True if high <= 0 else False if low > 0 else None
            equal: bool | None = True if low == high == 0 else False if low > 0 or high < 0 else None
            if equal is None:
                form, factor, constant = split(side, self.cache)
                if constant % factor == 0 and -constant // factor in self.excluded.get(form, ()):
                    equal = False
            return equal if equal is None or kind == "=0" else not equal
        left, right = condition.arguments
        (a, b), (c, d) = self.bounds(left), self.bounds(right)
        if kind == "<=":
            return True if b <= c else False if a > d else None
        if kind == "<":
            return True if b < c else False if a >= d else None
        same = True if a == b == c == d else False if a > d or c > b else None
        return same if same is None or kind == "=" else not same

    def _sweep_clauses(self) -> None:
        for clause in list(self.clauses):
            sides = [(side, self.status(side)) for side in clause.arguments]
            if any(status is True for _, status in sides):
                self.clauses.remove(clause)
                continue
            left = [side for side, status in sides if status is None]
            if not left:
                raise Empty
            if len(left) == 1:
                self.clauses.remove(clause)
                self.add(left[0])


def join_pair(a: Term, b: Term) -> Term:
    """Two conditions in a plain pair, whichever they are."""
    return Term("and", (a, b), f"[{a.text}, {b.text}]")


def _below(bound: Any) -> Any:
    return bound if math.isinf(bound) else math.ceil(bound) - 1


def _above(bound: Any) -> Any:
    return bound if math.isinf(bound) else math.floor(bound) + 1
