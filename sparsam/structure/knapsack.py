"""What to keep under a budget: two searches whose optimum can be computed, and one for several budgets at once.

    two_costs      every head costs the same, every filter costs the same (multiply-accumulates of one set of lengths)
    choose         every layer's half has a table of costs: one entry a number of units kept (a clock's, or MACs after tokens
                   left)
    choose_within  the same with a table for each of several budgets, all of which are kept; the optimum where there are few
                   combinations, else near it

All take larger scores as worth more, add them up, and never exceed a budget.
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

CANDIDATES = 4_000
"""Combinations that :func:`choose_within` compares one by one, all with all; with more of them it no longer finds the optimum
for sure. Chosen by us: a twentieth of a second a table."""

MOVES = 400
"""Steps that the prices of several budgets are moved in. Chosen by us: on random tables of 12 layers the gain is within a
hundredth of the bound from 200 on."""


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


def choose_within(
    gains: Sequence[Table], costs: Sequence[Sequence[Table]], budgets: Sequence[float]
) -> list[int]:
    """One entry of every table: a large summed gain whose summed costs keep every budget.

    Up to :data:`CANDIDATES` combinations it is the largest. Beyond, every budget has a price (a multiplier): entries are
    chosen one by one by gain less price times cost, prices rise for budgets that are exceeded and fall for others, and of what
    keeps all budgets the best is improved by exchanging entries of two tables at a time while that gains. Where each table has
    an entry that is cheapest under every budget, something is found whenever there is anything.

    Args:
        gains: a table a block.
        costs: for each budget, a table a block; not negative.
        budgets: each in the unit of its costs.

    Returns:
        The entry chosen in each table.

    Raises:
        Refused: ``budget-unreachable``, naming a budget and the least that is possible, or saying that none keeps all;
            ``non-finite``.
    """
    if len(budgets) == 1:
        return choose(gains, costs[0], budgets[0])
    worth = [np.asarray(gain, np.float64) for gain in gains]
    for number, (tables, budget) in enumerate(zip(costs, budgets, strict=True)):
        _check(*worth, *(np.asarray(cost, np.float64) for cost in tables))
        least = sum(float(np.min(cost)) for cost in tables)
        if least > budget:
            raise Refused(
                f"budget {number + 1} of {len(budgets)} is {budget:.6g}; the least that can be left costs {least:.6g}. "
                "Allow more.",
                code="budget-unreachable",
            )
    scale = np.array([budget if budget > 0 else 1.0 for budget in budgets])
    limit = np.asarray(budgets, np.float64) / scale * (1 + 1e-12)  # sums are rounded
    price = [
        np.stack([np.asarray(one, np.float64) for one in block], 1) / scale
        for block in zip(*costs, strict=True)
    ]  # (entries, budgets)
    found = _all_compared(worth, price, limit)
    if found is None:
        found = _priced(worth, price, limit)
    if not found:
        raise Refused(
            f"no combination was found that keeps all {len(budgets)} budgets, though each alone can be kept. Allow more of "
            "one.",
            code="budget-unreachable",
        )
    return found


def _all_compared(
    worth: Sequence[NDArray[np.float64]], price: Sequence[NDArray[np.float64]], limit: NDArray[np.float64]
) -> list[int] | None:
    """The optimum, by keeping all undominated states; empty where nothing fits, None where there are too many to compare."""
    mins = np.array([cost.min(0) for cost in price])
    still = np.concatenate([np.cumsum(mins[::-1], 0)[::-1][1:], np.zeros((1, len(limit)))])
    total, spent = np.zeros(1), np.zeros((1, len(limit)))
    taken: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for gain, cost, later in zip(worth, price, still, strict=True):
        if len(total) * len(gain) > 50 * CANDIDATES:
            return None
        sums = (total[:, None] + gain).ravel()
        spends = (spent[:, None, :] + cost).reshape(-1, len(limit))
        fits = np.flatnonzero((spends + later <= limit).all(1))
        if len(fits) > CANDIDATES:
            return None
        order = fits[np.lexsort((spends[fits].sum(1), -sums[fits]))]
        better = (sums[order][:, None] >= sums[order]) & (spends[order][:, None] <= spends[order]).all(2)
        left = order[~np.triu(better, 1).any(0)]  # an earlier one gains as much and costs no more
        if not left.size:
            return []
        taken.append((left // len(gain), left % len(gain)))
        total, spent = sums[left], spends[left]
    at, entries = int(total.argmax()), []
    for before, entry in reversed(taken):
        entries.append(int(entry[at]))
        at = int(before[at])
    return entries[::-1]


def _priced(
    worth: Sequence[NDArray[np.float64]], price: Sequence[NDArray[np.float64]], limit: NDArray[np.float64]
) -> list[int]:
    """Something good, by moving prices and exchanging entries; empty where nothing was found that keeps all limits."""
    whole = sum(float(gain.max()) for gain in worth) or 1.0

    def spent(entries: Sequence[int]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.sum(
            [cost[at] for cost, at in zip(price, entries, strict=True)], axis=0
        )
        return found

    def gained(entries: Sequence[int]) -> float:
        return sum(float(gain[at]) for gain, at in zip(worth, entries, strict=True))

    started = [int((cost / np.maximum(limit, 1e-300)).sum(1).argmin()) for cost in price]
    kept: dict[tuple[int, ...], float] = {}
    if (spent(started) <= limit).all():
        kept[tuple(started)] = gained(started)
    dear = np.zeros(len(limit))
    for step in range(MOVES):
        entries = [int((gain - cost @ dear).argmax()) for gain, cost in zip(worth, price, strict=True)]
        over = spent(entries) - limit
        if (over <= 0).all():
            kept[tuple(entries)] = gained(entries)
        dear = np.maximum(0.0, dear + whole * over / (1 + 0.2 * step))
    if not kept:  # gains aside: prices alone, moved until the dearest budget is kept
        weight = np.ones(len(limit)) / len(limit)
        for _ in range(MOVES):
            entries = [int((cost @ weight).argmin()) for cost in price]
            over = spent(entries) - limit
            if (over <= 0).all():
                kept[tuple(entries)] = gained(entries)
                break
            weight = weight * np.exp(np.clip(over / max(float(np.abs(over).max()), 1e-12), -1, 1) / 4)
            weight /= weight.sum()
    best = sorted(kept, key=lambda entries: kept[entries])[-3:]
    return max((_exchanged(list(one), worth, price, limit) for one in best), key=gained, default=[])


def _exchanged(
    entries: list[int],
    worth: Sequence[NDArray[np.float64]],
    price: Sequence[NDArray[np.float64]],
    limit: NDArray[np.float64],
) -> list[int]:
    """Entries of two tables changed together, over and over, while the gain grows and all limits are kept."""
    pairs = [(a, b) for a in range(len(worth)) for b in range(a + 1, len(worth))] or [(0, 0)]
    grew = True
    while grew:
        grew = False
        for a, b in pairs:
            others = [price[t][at] for t, at in enumerate(entries) if t not in (a, b)]
            rest = np.sum(others, axis=0) if others else np.zeros(len(limit))
            if a == b:
                sums, spends = worth[a][:, None], price[a][:, None] + rest
            else:
                sums, spends = worth[a][:, None] + worth[b], price[a][:, None] + price[b] + rest
            fits = (spends <= limit).all(2)
            sums = np.where(fits, sums, -np.inf)
            first, second = np.unravel_index(int(sums.argmax()), sums.shape)
            now = sums[entries[a], entries[b] if a != b else 0]
            if sums[first, second] > now + 1e-12 * abs(now):
                entries[a], entries[b] = int(first), int(second if a != b else first)
                grew = True
    return entries


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
