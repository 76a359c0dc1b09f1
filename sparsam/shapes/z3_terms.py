"""Conditions for z3: integers and Python's floor division exactly, floats as reals within their rounding error.

A float operation rounds, and so does a conversion of its arguments, so its result is a real of its own near the exact one
(2^-53 of it for each rounding). What z3 refutes
under that is refuted for the floats as well; a model it finds may miss by the rounding, and is checked by whoever asked.
Functions without a theory (logarithms, bits, powers with unknown base) are unknowns within known bounds.
z3 is imported when the first query reaches it.
"""

import importlib.util
import math
from fractions import Fraction
from typing import Any

from sparsam.shapes.box import Box
from sparsam.shapes.terms import Term

MODERATE = 1 << 40  # symbols up to this are looked for where floats are taken for reals
EXACT = 1 << 52  # integers below are exact as floats, and so is the floor of a ratio of two of them
FINITE = 1e300
ROUNDING = Fraction(1, 1 << 53)
TINY = Fraction(1, 1 << 700)  # above the absolute error where a result underflows
LARGEST_TABLE = 64  # exponents for which a power is written out


def available() -> bool:
    """Whether z3 can be imported."""
    return importlib.util.find_spec("z3") is not None


class Z3:
    """A connection to z3. Each query has a context of its own: in a shared one answers and times depend on the past."""

    def __init__(self, rlimit: int) -> None:
        import z3

        self.z3 = z3
        self.rlimit = rlimit

    def solve(self, box: Box, *, exact: bool = False) -> tuple[str, dict[str, Any], str]:
        """Say "sat" with a value for each symbol of the box, "unsat" or "unknown", and z3's reason.

        Args:
            box: What has to hold.
            exact: Floats are reals: a model is more likely one of the floats, and "unsat" says nothing about these.
        """
        context = self.z3.Context()
        writer = _Writer(self.z3, context, box, exact)
        solver = self.z3.Solver(ctx=context)
        solver.set("rlimit", self.rlimit)
        solver.set("random_seed", 0)
        symbols = {t.value: writer.term(t) for t in box.known if t.kind == "symbol"}
        for condition in box.conditions:
            solver.add(writer.condition(condition))
        solver.add(*writer.facts)
        result = str(solver.check())
        if result != "sat":
            return result, {}, solver.reason_unknown() if result == "unknown" else ""
        model = solver.model()
        values = {name: _python(model.eval(v, model_completion=True)) for name, v in symbols.items()}
        return ("unknown", {}, "irrational model") if None in values.values() else (result, values, "")


def _python(value: Any) -> Any:
    """A number of z3: integer, fraction, or root of a polynomial to twenty digits; None for anything else."""
    if hasattr(value, "as_fraction"):
        return float(value.as_fraction())
    if hasattr(value, "as_long"):
        return value.as_long()
    return float(value.approx(20).as_fraction()) if hasattr(value, "approx") else None


class _Writer:
    def __init__(self, z3: Any, context: Any, box: Box, exact: bool = False) -> None:
        self.z3 = z3
        self.exact = exact
        self.context = context
        self.box = box
        self.facts: list[Any] = []
        self.done: dict[Term, Any] = {}

    def condition(self, condition: Term) -> Any:
        z3, kind = self.z3, condition.kind
        if kind in ("true", "false"):
            return z3.BoolVal(kind == "true", self.context)
        if kind in ("and", "or"):
            sides = [self.condition(a) for a in condition.arguments]
            return z3.And(*sides) if kind == "and" else z3.Or(*sides)
        if kind in ("=0", "!=0", "<=0"):
            value = self.term(condition.arguments[0])
            return value == 0 if kind == "=0" else value != 0 if kind == "!=0" else value <= 0
        left, right = condition.arguments
        (a, b), (c, d) = self.box.bounds(left), self.box.bounds(right)
        if (math.isinf(a) and a == b) or (math.isinf(c) and c == d):
            decided = self.box.status(condition)
            free = z3.FreshBool(ctx=self.context)
            return free if decided is None else z3.BoolVal(decided, self.context)
        x, y = self.real(left), self.real(right)
        return x == y if kind == "=" else x != y if kind == "!=" else x <= y if kind == "<=" else x < y

    def real(self, term: Term) -> Any:
        value = self.term(term)
        return self.z3.ToReal(value) if self.z3.is_int(value) else value

    def term(self, term: Term) -> Any:
        if term not in self.done:
            self.done[term] = self._term(term)
        return self.done[term]

    def number(self, value: Any) -> Any:
        if isinstance(value, int):
            return self.z3.IntVal(value, self.context)
        fraction = Fraction(value)
        return self.z3.RealVal(f"{fraction.numerator}/{fraction.denominator}", self.context)

    def unknown(self, term: Term, name: str | None = None) -> Any:
        """A variable for the term within its bounds."""
        z3 = self.z3
        make = z3.Int if term.integer else z3.Real
        variable = make(name or f"[{term.text}]", self.context)
        low, high = self.box.bounds(term)
        if not math.isinf(low):
            self.facts.append(variable >= self.number(low))
        if not math.isinf(high):
            self.facts.append(variable <= self.number(high))
        return variable

    def _term(self, term: Term) -> Any:
        z3, kind = self.z3, term.kind
        if kind == "number":
            return self.unknown(term) if math.isinf(term.value) else self.number(term.value)
        if kind == "symbol":
            variable = self.unknown(term, term.value)
            if self.exact:
                self.facts += [variable <= MODERATE, variable >= -MODERATE]
            return variable
        if kind == "sum":
            parts = []
            for product, coefficient in term.arguments:
                factors = [self.term(a) for a in product]
                if coefficient != 1 or not factors:
                    factors.insert(0, self.number(coefficient))
                parts.append(z3.Product(*factors) if len(factors) > 1 else factors[0])
            return z3.Sum(*parts) if len(parts) > 1 else parts[0]
        if kind == "//":
            return self.quotient(*term.arguments)
        if kind in ("max", "min"):
            values = [
                self.term(a) if term.integer else self.real(a)
                for a in term.arguments
                if not (a.kind == "number" and math.isinf(a.value))
            ]
            if len(values) < len(term.arguments):
                return self.unknown(term)
            result = values[0]
            for value in values[1:]:
                result = z3.If(result >= value if kind == "max" else result <= value, result, value)
            return result
        if kind == "where":
            holds, _, yes, no = term.arguments
            pick = self.term if term.integer else self.real
            return z3.If(self.condition(holds), pick(yes), pick(no))
        if kind == "power":
            return self.power(term)
        if kind in ("floor", "ceil", "trunc", "round"):
            return self.rounding(term)
        return self.float(term)

    def quotient(self, top: Term, bottom: Term) -> Any:
        """Floor division; z3's own leaves a remainder that is not negative, which is the same for positive divisors."""
        x, y = self.term(top), self.term(bottom)
        low, high = self.box.bounds(bottom)
        if low >= 0:
            return x / y
        if high <= 0:
            return (-x) / (-y)
        return self.z3.If(y > 0, x / y, (-x) / (-y))

    def power(self, term: Term) -> Any:
        base, exponent = term.arguments
        result = self.unknown(term)
        low, high = self.box.bounds(exponent)
        if base.kind == "number" and low >= 0 and high <= LARGEST_TABLE:
            e = self.term(exponent)
            for i in range(low, high + 1):
                self.facts.append(self.z3.Implies(e == i, result == self.number(base.value**i)))
        return result

    def finite(self, *terms: Term) -> bool:
        return all(max(map(abs, self.box.bounds(t))) < FINITE for t in terms)

    def rounding(self, term: Term) -> Any:
        z3 = self.z3
        (side,) = term.arguments
        if (
            side.kind == "/"
            and term.kind in ("floor", "ceil")
            and all(a.integer and max(map(abs, self.box.bounds(a))) <= EXACT for a in side.arguments)
        ):
            top, bottom = side.arguments
            if term.kind == "floor":
                return self.quotient(top, bottom)
            x, y = self.term(top), self.term(bottom)
            down = z3.If(y > 0, (-x) / y, x / (-y))
            return -down
        if not self.exact and not self.finite(side):
            return self.unknown(term)
        x = self.real(side)
        down = z3.ToInt(x)
        if term.kind == "floor":
            return down
        up = -z3.ToInt(-x)
        if term.kind == "ceil":
            return up
        if term.kind == "trunc":
            return z3.If(x >= 0, down, up)
        half = z3.RealVal("1/2", self.context)
        nearest = z3.ToInt(x + half)
        tie = z3.And(x + half == z3.ToReal(nearest), nearest % 2 == 1)
        return z3.If(tie, nearest - 1, nearest)

    def float(self, term: Term) -> Any:
        """A variable for the result of a float operation, near the exact result where there is a theory for it."""
        z3, kind = self.z3, term.kind
        arguments = term.arguments
        if kind == "float" and max(map(abs, self.box.bounds(arguments[0]))) <= EXACT:
            return self.real(arguments[0])
        result = self.unknown(term)
        if not self.exact and not self.finite(term, *arguments):
            return result
        if kind in ("+", "*", "/", "float"):
            values = [self.real(a) for a in arguments]
            if kind == "/":
                exact = values[0] / values[1]
            elif kind == "*":
                exact = z3.Product(*values)
            else:
                exact = z3.Sum(*values)
            size = z3.Sum(*[z3.If(v >= 0, v, -v) for v in (values if kind == "+" else [exact])])
            if not self.exact and kind == "*" and len(values) > 2 and not self.moderate(arguments):
                return result
            if self.exact:
                self.facts.append(result == exact)
                return result
            error = size * self.number(ROUNDING * 2 * max(len(values), 2)) + self.number(TINY)
            self.facts += [result <= exact + error, result >= exact - error]
        elif kind == "sqrt" or (kind == "**" and arguments[1].value == 0.5):
            x = self.real(arguments[0])
            square = result * result
            slack = self.number(Fraction(1, 1 << 48))
            near = z3.And(
                square <= x + x * slack + self.number(TINY), square >= x - x * slack - self.number(TINY)
            )
            self.facts.append(z3.Implies(x >= 0, z3.And(result >= 0, near)))
        elif kind == "abs":
            x = self.real(arguments[0])
            self.facts.append(result == z3.If(x >= 0, x, -x))
        return result

    def moderate(self, arguments: tuple[Term, ...]) -> bool:
        """Whether no partial product of several factors overflows, nor loses more than TINY where it underflows."""
        return all(max(map(abs, self.box.bounds(a))) < 1e50 for a in arguments) and len(arguments) < 5
