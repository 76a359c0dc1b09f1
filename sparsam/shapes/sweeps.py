"""How bounds are carried between a function and its arguments, for each kind of atom."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

from sparsam.shapes import intervals as iv
from sparsam.shapes.intervals import Interval
from sparsam.shapes.terms import Term, compare, plus, polynomial, times

if TYPE_CHECKING:
    from sparsam.shapes.box import Box

LARGEST_POWER = 64  # exponent up to which the bound of a power is computed; chosen by us


def sweep(box: Box, atom: Term) -> None:
    """Carry bounds between a function and its arguments."""
    kind = atom.kind
    if kind == "//":
        _sweep_quotient(box, atom)
    elif kind in ("max", "min"):
        _sweep_extreme(box, atom)
    elif kind == "where":
        holds, fails, yes, no = atom.arguments
        first, second = box.bounds(yes), box.bounds(no)
        if box.status(fails) is True or box.status(holds) is False:
            box.limit(atom, *second)
        elif box.status(holds) is True or box.status(fails) is False:
            box.limit(atom, *first)
        else:
            box.limit(atom, min(first[0], second[0]), max(first[1], second[1]))
    elif kind == "dense":
        box.limit(atom, 0, 1)
    elif kind == "power":
        _sweep_power(box, atom)
    elif kind.startswith("bits-"):
        _sweep_bits(box, atom)
    else:
        _sweep_float(box, atom)


def _sweep_quotient(box: Box, atom: Term) -> None:
    top, bottom = atom.arguments
    x, y = box.bounds(top), box.bounds(bottom)
    box.limit(atom, *iv.floor_divide(x, y))
    low, high = box.known[atom]
    sign = 1 if y[0] >= 1 else -1 if y[1] <= -1 else 0
    if not sign:
        return
    if (atom, sign) not in box.told:
        box.told.add((atom, sign))
        p, q = polynomial(top), polynomial(bottom)
        rest = plus(p, times({(atom,): 1}, q), -1)
        # 0 <= rest <= q - 1 for a positive divisor, q + 1 <= rest <= 0 for a negative one
        box.add(compare("<=0", {k: -sign * c for k, c in rest.items()}))
        box.add(compare("<=0", plus({k: sign * c for k, c in plus(rest, q, -1).items()}, {(): 1})))
    if sign > 0:
        a = min(iv.multiply_bounds(low, y[0]), iv.multiply_bounds(low, y[1]))
        up = iv.add_bounds(high, 1)
        b = iv.add_bounds(max(iv.multiply_bounds(up, y[0]), iv.multiply_bounds(up, y[1])), -1)
        box.narrow(top, a, b)
        x = box.bounds(top)
        if low >= 1 and x[1] != math.inf:
            box.narrow(bottom, -math.inf, iv.divide_down(x[1], low))
        if x[0] > 0 and high != math.inf and high >= 0:
            box.narrow(bottom, iv.add_bounds(iv.divide_down(x[0], high + 1), 1), math.inf)


def _sweep_extreme(box: Box, atom: Term) -> None:
    found = [box.bounds(a) for a in atom.arguments]
    pick = max if atom.kind == "max" else min
    box.limit(atom, pick(a for a, _ in found), pick(b for _, b in found))
    low, high = box.known[atom]
    for argument in atom.arguments:
        if atom.kind == "max":
            box.narrow(argument, -math.inf, high)
        else:
            box.narrow(argument, low, math.inf)
    if atom.kind == "max":
        able = [a for a, (_, b) in zip(atom.arguments, found, strict=True) if b >= low]
    else:
        able = [a for a, (b, _) in zip(atom.arguments, found, strict=True) if b <= high]
    if len(able) == 1:
        box.narrow(able[0], low, high)


def _sweep_power(box: Box, atom: Term) -> None:
    (a, b), (c, d) = (box.bounds(t) for t in atom.arguments)
    if a >= 1 and c >= 0:
        top = math.inf if b == math.inf or d == math.inf or d > LARGEST_POWER else b**d
        box.limit(atom, a ** min(c, LARGEST_POWER), 1 if b == 1 else top)
        high = box.known[atom][1]
        if a >= 2 and high != math.inf:
            box.narrow(atom.arguments[1], -math.inf, int(high).bit_length())


def _sweep_bits(box: Box, atom: Term) -> None:
    (a, b), (c, d) = (box.bounds(t) for t in atom.arguments)
    if a < 0 or c < 0:
        return
    if atom.kind == "bits-bitwise_and":
        box.limit(atom, 0, min(b, d))
    else:
        top = math.inf if math.inf in (b, d) else (1 << max(b.bit_length(), d.bit_length())) - 1
        box.limit(atom, max(a, c) if atom.kind == "bits-bitwise_or" else 0, top)


ROUNDINGS: dict[str, Any] = {"floor": math.floor, "ceil": math.ceil, "trunc": math.trunc, "round": round}


def _sweep_float(box: Box, atom: Term) -> None:
    """Floats: forwards by the operation itself, backwards with a slack."""
    kind = atom.kind
    found = [box.bounds(a) for a in atom.arguments]
    x = found[0]
    if kind in ROUNDINGS:
        box.limit(atom, *iv.monotone(lambda v: v if math.isinf(v) else ROUNDINGS[kind](v), x))
        low, high = box.known[atom]
        box.narrow(atom.arguments[0], iv.add_bounds(low, -1), iv.add_bounds(high, 1))
        if kind == "floor":
            box.narrow(atom.arguments[0], low, math.inf)
        if kind == "ceil":
            box.narrow(atom.arguments[0], -math.inf, high)
    elif kind == "float":
        box.limit(atom, iv.as_float(x[0]), iv.as_float(x[1]))
        low, high = box.known[atom]
        if max(abs(low), abs(high)) > 2**53:
            low, high = iv.widen(low, -1), iv.widen(high, 1)
        box.narrow(atom.arguments[0], low, high)
    elif kind == "+":
        box.limit(atom, *iv.fold(lambda a, b: iv.monotone_sum(a, b), found))
    elif kind == "*":
        box.limit(atom, *iv.fold(lambda a, b: iv.corners(operator.mul, a, b), found))
        _narrow_scaled(box, atom, operator.truediv)
    elif kind == "/":
        y = found[1]
        if y[0] > 0 or y[1] < 0:
            box.limit(atom, *iv.corners(operator.truediv, x, y))
            if y[0] == y[1]:
                low, high = sorted(as_product(v, y[0]) for v in box.known[atom])
                box.narrow(atom.arguments[0], iv.widen(low, -1), iv.widen(high, 1))
    elif kind == "sqrt":
        if x[0] < 0:
            box.limit(atom, 0.0, math.inf if x[1] < 0 else iv.monotone(math.sqrt, (0, x[1]))[1])
            return
        box.limit(atom, *iv.monotone(math.sqrt, x))
        low, high = (as_product(v, v) for v in box.known[atom])
        box.narrow(atom.arguments[0], iv.widen(low, -1), iv.widen(high, 1))
    elif kind == "**":
        _sweep_float_power(box, atom, found)
    elif kind in ("exp", "log", "log2", "asinh", "tanh", "sinh", "atan"):
        box.limit(atom, *iv.monotone(getattr(math, kind), x, exact=False))
    elif kind in ("sin", "cos"):
        box.limit(atom, -1.0, 1.0)
    elif kind == "abs":
        box.limit(atom, 0, max(abs(x[0]), abs(x[1])))


def _sweep_float_power(box: Box, atom: Term, found: list[Interval]) -> None:
    (a, b), (e, same) = found
    if e != same or e <= 0 or a < 0:
        return
    low, high = iv.monotone(lambda v: float(v) ** float(e), (a, b), exact=False)
    box.limit(atom, max(low, 0.0), high)
    low, high = iv.monotone(lambda v: float(v) ** (1 / float(e)), box.known[atom], exact=False)
    box.narrow(atom.arguments[0], low - abs(low) * 1e-9, high + abs(high) * 1e-9)


def as_product(a: Any, b: Any) -> float:
    """The product as a float."""
    return float(iv.multiply_bounds(iv.as_float(a), iv.as_float(b)))


def _narrow_scaled(box: Box, atom: Term, inverse: Any) -> None:
    """The one argument of a product of floats that is no constant."""
    open_ = [a for a in atom.arguments if a.kind != "number"]
    if len(open_) != 1:
        return
    factor = 1.0
    for argument in atom.arguments:
        if argument.kind == "number":
            factor *= iv.as_float(argument.value)
    if not factor or math.isinf(factor):
        return
    low, high = sorted(inverse(v, factor) for v in box.known[atom])
    box.narrow(open_[0], iv.widen(low, -1), iv.widen(high, 1))
