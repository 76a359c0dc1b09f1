"""What a conjunction says about some of its symbols: the others are eliminated.

A value that the program has forgotten may still be linked to sizes (a round of a loop over N items is below N). That
there is such a value is a fact about the sizes, and the same fact however the value is called.
"""

import functools
from collections.abc import Callable, Iterable

import sympy

from sparsam.shapes.environment import printed, symbols_of

INEQUALITIES = (sympy.Lt, sympy.Le, sympy.Gt, sympy.Ge)


def project(conditions: Iterable[sympy.Basic], gone: Callable[[str], bool]) -> list[sympy.Basic]:
    """The same said about the other symbols, exactly; conditions that cannot be freed of a symbol stay as they are.

    Args:
        conditions: All of them hold for some values.
        gone: Whether a symbol is to be eliminated, by its name as printed.
    """
    kept: dict[sympy.Basic, None] = {}
    left: list[tuple[sympy.Basic, frozenset[sympy.Symbol]]] = []
    for condition in conditions:
        forgotten = frozenset(s for s in symbols_of(condition) if gone(printed(s)))
        if forgotten:
            left.append((condition, forgotten))
        else:
            kept[condition] = None
    known: set[sympy.Basic] | None = None
    while left:
        group, left = _component(left)
        if all(symbols_of(condition) <= forgotten for condition, forgotten in group):
            continue  # about nothing else, and satisfied by what they come from
        done = [condition for condition, _ in group]
        for symbol in sorted(frozenset().union(*(names for _, names in group)), key=lambda s: s.name):
            done = _without(done, symbol)
        if known is None:
            known = {form for condition in kept if (form := _normal(condition)) is not None}
        for condition in done:
            if condition != sympy.true and _normal(condition) not in known:
                kept[condition] = None
    return list(kept)


def _component(
    left: list[tuple[sympy.Basic, frozenset[sympy.Symbol]]],
) -> tuple[
    list[tuple[sympy.Basic, frozenset[sympy.Symbol]]], list[tuple[sympy.Basic, frozenset[sympy.Symbol]]]
]:
    """Conditions that share forgotten symbols, directly or through others, and the rest."""
    names = set(left[0][1])
    group, rest, grown = [], left, True
    while grown:
        joined = [item for item in rest if item[1] & names]
        rest = [item for item in rest if not item[1] & names]
        for item in joined:
            names |= item[1]
        group += joined
        grown = bool(joined)
    return group, rest


def _without(conditions: list[sympy.Basic], symbol: sympy.Symbol) -> list[sympy.Basic]:
    """The conditions freed of a whole number, all of them as they were where that cannot be done exactly."""
    about = [condition for condition in conditions if symbol in symbols_of(condition)]
    others = [condition for condition in conditions if symbol not in symbols_of(condition)]
    if not about:
        return conditions
    lower, upper = [], []
    for condition in about:
        form = _normal(condition)
        if form is None or not symbol.is_integer:
            return conditions
        factor = form.coeff(symbol)
        bound = sympy.expand(form - factor * symbol)
        if factor not in (1, -1) or symbol in symbols_of(bound):
            return conditions
        if factor == 1:
            lower.append(-bound)  # symbol + bound >= 0
        else:
            upper.append(bound)  # bound - symbol >= 0
    return others + [sympy.Ge(sympy.expand(high - low), 0) for low in lower for high in upper]


@functools.lru_cache(maxsize=65536)
def _normal(condition: sympy.Basic) -> sympy.Basic | None:
    """An expression that is at least 0 exactly where the condition holds; None where there is none."""
    if not isinstance(condition, INEQUALITIES) or not (condition.lhs.is_integer and condition.rhs.is_integer):
        return None
    if isinstance(condition, (sympy.Lt, sympy.Le)):
        difference = condition.rhs - condition.lhs
    else:
        difference = condition.lhs - condition.rhs
    if isinstance(condition, (sympy.Lt, sympy.Gt)):
        difference = difference - 1
    return sympy.expand(difference)
