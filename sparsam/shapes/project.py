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

PAIRS = 16  # of a lower and an upper bound of a symbol, of which each makes a condition: elimination doubles with each symbol
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
        names = frozenset().union(*(names for _, names in group))
        done = _eliminated(tuple(condition for condition, _ in group), names)
        if known is None:
            known = {form for condition in kept if (form := _normal(condition)) is not None}
        for condition in done:
            if condition != sympy.true and _normal(condition) not in known:
                kept[condition] = None
    return list(kept)


@functools.lru_cache(maxsize=16384)
def _eliminated(conditions: tuple[sympy.Basic, ...], gone: frozenset[sympy.Symbol]) -> list[sympy.Basic]:
    """What conditions that share forgotten symbols say about the others."""
    done = list(conditions)
    waiting = sorted(gone, key=lambda s: s.name)
    while waiting:
        before = waiting
        for symbol in before:
            done = [part for one in _without(done, symbol) for part in _parts(one)]
        waiting = [symbol for symbol in before if any(symbol in symbols_of(one) for one in done)]
        if len(waiting) == len(before):
            break
    return _about_others(done, gone)


@functools.lru_cache(maxsize=65536)
def _parts(condition: sympy.Basic) -> list[sympy.Basic]:
    """A condition as simpler ones: a product that is not 0 is one of factors that are not 0."""
    if not isinstance(condition, (sympy.Eq, sympy.Ne)):
        return [condition]
    if isinstance(condition, sympy.Ne) and condition.rhs == 0 and isinstance(condition.lhs, sympy.Mul):
        return [sympy.Ne(factor, 0) for factor in condition.lhs.args if not factor.is_number]
    times, largest = condition.lhs.as_coeff_Mul()
    one = largest.func.__name__ == "Max" and len(largest.args) == 2 and largest.args[0] == 1
    if one and times != 0 and condition.rhs == times and largest.args[1].is_integer:
        return [
            sympy.Le(largest.args[1], 1) if isinstance(condition, sympy.Eq) else sympy.Ge(largest.args[1], 2)
        ]
    return [condition]


def _about_others(conditions: list[sympy.Basic], forgotten: frozenset[sympy.Symbol]) -> list[sympy.Basic]:
    """Without those that say that there are some forgotten values, and nothing else."""
    kept = [one for one in conditions if not symbols_of(one) & forgotten]
    left = [(one, symbols_of(one) & forgotten) for one in conditions if symbols_of(one) & forgotten]
    while left:
        group, left = _component(left)
        if not all(symbols_of(condition) <= forgotten for condition, _ in group):
            kept += [condition for condition, _ in group]
    return kept


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
            found.append(written(condition))
    while left:
        group, left = _component(left)
        names = {symbol.name for _, forgotten in group for symbol in forgotten}
        pattern = re.compile(
            r"\b(?:" + "|".join(map(re.escape, sorted(names, key=len, reverse=True))) + r")\b"
        )
        texts = sorted(
            (written(condition) for condition, _ in group), key=lambda text: pattern.sub("?", text)
        )
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
            rest = [one for one in about if one is not condition]
            return _put(rest, symbol, value, others, conditions)
    lower, upper, barred, odd = [], [], [], False
    for condition in about:
        value = _solved(condition, symbol, sympy.Ne)
        if value is not None:
            barred.append(value)
            continue
        form = _normal(condition)
        factor = sympy.S.Zero if form is None else form.coeff(symbol)
        bound = None if form is None else sympy.expand(form - factor * symbol)
        if bound is None or factor not in (1, -1) or symbol in symbols_of(bound):
            odd = True
        elif factor == 1:
            lower.append(-bound)  # symbol + bound >= 0
        else:
            upper.append(bound)  # bound - symbol >= 0
    clear = not (lower and upper) or _moved(lower, upper, barred)
    only = next((low for low in lower for high in upper if sympy.expand(high - low) == 0), None)
    if only is not None:
        return _put(about, symbol, only, others, conditions)
    if odd or not clear or len(lower) * len(upper) > PAIRS:
        return conditions
    return others + [sympy.Ge(sympy.expand(high - low), 0) for low in lower for high in upper]


def _put(
    about: list[sympy.Basic],
    symbol: sympy.Symbol,
    value: sympy.Basic,
    others: list[sympy.Basic],
    conditions: list[sympy.Basic],
) -> list[sympy.Basic]:
    """The others, and these with a value in a symbol's place; all as they were where one of them has no value then."""
    try:
        return others + [one.xreplace({symbol: value}) for one in about]
    except ZeroDivisionError:
        return conditions


def _solved(condition: sympy.Basic, symbol: sympy.Symbol, kind: Any) -> sympy.Basic | None:
    """The value that an equation, or the opposite of one, names for a symbol; None where it is of another form."""
    if not isinstance(condition, kind) or not (condition.lhs.is_integer and condition.rhs.is_integer):
        return None
    form = sympy.expand(condition.lhs - condition.rhs)
    factor = form.coeff(symbol)
    rest = sympy.expand(form - factor * symbol)
    if not factor.is_Integer or factor == 0 or symbol in symbols_of(rest):
        return None
    value = sympy.expand(-rest / factor)
    return value if value.is_integer else None


def _moved(lower: list[sympy.Basic], upper: list[sympy.Basic], barred: list[sympy.Basic]) -> bool:
    """Moves bounds past values that are not taken; whether none of these is left."""
    left, moved = list(barred), True
    while moved:
        moved = False
        for value in list(left):
            for bounds, step in ((lower, 1), (upper, -1)):
                for number, bound in enumerate(bounds):
                    beyond = sympy.expand(bound - value) * step
                    if beyond == 0:
                        bounds[number] = sympy.expand(bound + step)
                    if beyond.is_nonnegative and beyond.is_number:
                        left = [other for other in left if other is not value]
                        moved = True
    return not left


@functools.lru_cache(maxsize=65536)
def written(condition: sympy.Basic) -> str:
    """A condition, or an expression, as text."""
    return str(condition)


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
    constant, rest = sympy.expand(difference).as_coeff_Add()
    factors = [term.as_coeff_Mul()[0] for term in sympy.Add.make_args(rest)]
    if not constant.is_Integer or not all(factor.is_Integer and factor != 0 for factor in factors):
        return constant + rest
    shared = sympy.igcd(*factors) if len(factors) > 1 else abs(factors[0])
    return sympy.expand(rest / shared) + sympy.floor(constant / shared)
