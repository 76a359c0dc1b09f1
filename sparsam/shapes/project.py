"""What a conjunction says about some of its symbols: the others are eliminated.

A value that the program has forgotten may still be linked to sizes (a round of a loop over N items is below N). That
there is such a value is a fact about the sizes, and the same fact however the value is called.
"""

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

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
    for condition in (part for one in conditions for part in _parts(one)):
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


def _parts(condition: sympy.Basic) -> list[sympy.Basic]:
    """A product that is not 0 is one of factors that are not 0."""
    if isinstance(condition, sympy.Ne) and condition.rhs == 0 and isinstance(condition.lhs, sympy.Mul):
        return [sympy.Ne(factor, 0) for factor in condition.lhs.args if not factor.is_number]
    return [condition]


def facts(conditions: Iterable[sympy.Basic], gone: Callable[[str], bool]) -> frozenset[str]:
    """Conditions as texts: those that share forgotten symbols as one, whatever these are called.

    Args:
        conditions: Of one state.
        gone: Whether a symbol is forgotten, by its name as printed.
    """
    found: list[str] = []
    left: list[tuple[sympy.Basic, frozenset[sympy.Symbol]]] = []
    for condition in conditions:
        forgotten = frozenset(s for s in symbols_of(condition) if gone(printed(s)))
        if forgotten:
            left.append((condition, forgotten))
        else:
            found.append(str(condition))
    while left:
        group, left = _component(left)
        names = {symbol.name for _, forgotten in group for symbol in forgotten}
        pattern = re.compile(
            r"\b(?:" + "|".join(map(re.escape, sorted(names, key=len, reverse=True))) + r")\b"
        )
        texts = sorted((str(condition) for condition, _ in group), key=lambda text: pattern.sub("?", text))
        found.append(_numbered(" & ".join(texts), pattern))
    return frozenset(found)


def _numbered(text: str, names: re.Pattern[str]) -> str:
    numbers: dict[str, str] = {}
    return names.sub(lambda match: numbers.setdefault(match.group(), f"?{len(numbers)}"), text)


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
    if not symbol.is_integer:
        return conditions
    for condition in about:
        value = _solved(condition, symbol, sympy.Eq)
        if value is not None:
            return others + [one.xreplace({symbol: value}) for one in about if one is not condition]
    lower, upper, barred = [], [], []
    for condition in about:
        value = _solved(condition, symbol, sympy.Ne)
        if value is not None:
            barred.append(value)
            continue
        form = _normal(condition)
        if form is None:
            return conditions
        factor = form.coeff(symbol)
        bound = sympy.expand(form - factor * symbol)
        if factor not in (1, -1) or symbol in symbols_of(bound):
            return conditions
        if factor == 1:
            lower.append(-bound)  # symbol + bound >= 0
        else:
            upper.append(bound)  # bound - symbol >= 0
    if lower and upper and not _moved(lower, upper, barred):
        return conditions
    return others + [sympy.Ge(sympy.expand(high - low), 0) for low in lower for high in upper]


def _solved(condition: sympy.Basic, symbol: sympy.Symbol, kind: Any) -> sympy.Basic | None:
    """The value that an equation, or the opposite of one, names for a symbol; None where it is of another form."""
    if not isinstance(condition, kind) or not (condition.lhs.is_integer and condition.rhs.is_integer):
        return None
    form = sympy.expand(condition.lhs - condition.rhs)
    factor = form.coeff(symbol)
    rest = sympy.expand(form - factor * symbol)
    if factor not in (1, -1) or symbol in symbols_of(rest):
        return None
    return -rest * factor


def _moved(lower: list[sympy.Basic], upper: list[sympy.Basic], barred: list[sympy.Basic]) -> bool:
    """Moves bounds past values that are not taken; whether none of these is left."""
    left, moved = list(barred), True
    while moved:
        moved = False
        for value in list(left):
            for bounds, step in ((lower, 1), (upper, -1)):
                for number, bound in enumerate(bounds):
                    if sympy.expand(bound - value) == 0:
                        bounds[number] = sympy.expand(bound + step)
                        left = [other for other in left if other is not value]
                        moved = True
    return not left


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
