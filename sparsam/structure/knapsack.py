"""What to keep under a budget: the two searches whose optimum can be computed.

    two_costs   every head costs the same, every filter costs the same (multiply-accumulates of one set of lengths)
    choose      every layer's half has a table of costs: one entry a number of units kept (a clock's, or MACs after tokens left)

Both take larger scores as worth more, add them up, and never exceed the budget.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from sparsam.errors import Refused

Table = Sequence[float] | NDArray[Any]
STATES = 50_000
"""Combinations of cost and gain that are held while choosing. Chosen by us: 12 layers of 13 and 97 entries take a second."""


def two_costs(
    heads: Float[NDArray[Any], "l h"],
    filters: Float[NDArray[Any], "l f"],
    cost_of_head: int,
    cost_of_filter: int,
    budget: int,
) -> tuple[Bool[NDArray[Any], "l h"], Bool[NDArray[Any], "l f"]]:
    """The heads and filters of the largest summed score within a budget (Kwon et al. 2022, algorithm 1).

    With one price a kind the best n of a kind are its n best, so every number of heads is tried, none included, with as many
    filters as are left for. Numbers of heads that alone exceed the budget are not. Equal scores go by index.

    Args:
        heads, filters: scores, not negative.
        cost_of_head, cost_of_filter: above 0, in the budget's unit.
        budget: at most this is spent.

    Raises:
        Refused: ``budget-unreachable`` for a negative budget, ``non-finite``.
    """
    _check(heads, filters)
    if budget < 0:
        raise Refused(
            f"the budget is {budget}; what cannot be left out costs more already. Allow more.",
            code="budget-unreachable",
        )
    best_heads, best_filters = (np.argsort(-x.ravel(), kind="stable") for x in (heads, filters))
    worth_heads, worth_filters = (
        np.concatenate([[0.0], np.cumsum(x.ravel()[order].astype(np.float64))])
        for x, order in ((heads, best_heads), (filters, best_filters))
    )
    most = min(heads.size, budget // cost_of_head)
    numbers = [(h, min(filters.size, (budget - h * cost_of_head) // cost_of_filter)) for h in range(most + 1)]
    # Of equal sums the one with more heads: nothing that still fits is left out.
    _, h, n = max((worth_heads[h] + worth_filters[n], h, n) for h, n in numbers)
    return _first(best_heads, h, heads.shape), _first(best_filters, n, filters.shape)


def choose(gains: Sequence[Table], costs: Sequence[Table], budget: float) -> list[int]:
    """One entry of every table: the largest summed gain whose summed cost keeps the budget (multiple-choice knapsack).

    The optimum, as long as no more than :data:`STATES` combinations are undominated; beyond that costs are rounded up to
    that many steps of the budget, so that it is kept all the same.

    Args:
        gains, costs: a table of each a block, in any order of entries; costs not negative.
        budget: in the unit of the costs.

    Returns:
        The entry chosen in each table.

    Raises:
        Refused: ``budget-unreachable``, naming the least that is possible; ``non-finite``.
    """
    tables = [
        (np.asarray(g, np.float64), np.asarray(c, np.float64)) for g, c in zip(gains, costs, strict=True)
    ]
    for gain, cost in tables:
        _check(gain, cost)
    least = sum(float(cost.min()) for _, cost in tables)
    if least > budget:
        raise Refused(
            f"the budget is {budget:.6g}; the least that can be left costs {least:.6g}. Allow more.",
            code="budget-unreachable",
        )
    still = np.append(np.cumsum([float(cost.min()) for _, cost in tables][::-1])[::-1][1:], 0.0)
    total, spent = np.zeros(1), np.zeros(1)
    taken: list[
        tuple[NDArray[np.int64], NDArray[np.int64]]
    ] = []  # of each state: the one before, and the entry
    for (gain, cost), later in zip(tables, still, strict=True):
        sums, spends = (total[:, None] + gain).ravel(), (spent[:, None] + cost).ravel()
        fits = np.flatnonzero(spends <= budget - later)
        if not fits.size:  # rounding of sums alone
            fits = np.array([int(spends.argmin())])
        left = _undominated(sums[fits], spends[fits])
        if len(left) > STATES:
            steps = np.ceil(spends[fits] / budget * STATES) / STATES * budget
            rounded = np.where(steps <= budget - later, steps, spends[fits])
            left = _undominated(sums[fits], rounded)
            spends[fits] = rounded
        chosen = fits[left]
        taken.append((chosen // len(gain), chosen % len(gain)))
        total, spent = sums[chosen], spends[chosen]
    at = int(total.argmax())
    entries = []
    for before, entry in reversed(taken):
        entries.append(int(entry[at]))
        at = int(before[at])
    return entries[::-1]


def _undominated(gain: NDArray[Any], cost: NDArray[Any]) -> NDArray[np.int64]:
    """The states that no cheaper one, and none as cheap, equals in gain; cheapest first."""
    order = np.lexsort((-gain, cost))
    sorted_gain = gain[order]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(sorted_gain)[:-1]])
    return order[sorted_gain > before]


def _first(order: NDArray[np.int64], count: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    keep = np.zeros(int(np.prod(shape)), bool)
    keep[order[:count]] = True
    return keep.reshape(shape)


def _check(*given: NDArray[Any]) -> None:
    for x in given:
        if not np.isfinite(x).all() or (x < 0).any():
            raise Refused(
                "a score or a cost is negative or not a number. Look for NaN in the weights, or in the gradients.",
                code="non-finite",
            )
