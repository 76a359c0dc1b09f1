"""The two searches against every subset there is."""

import itertools

import numpy as np
import pytest

from sparsam.errors import Refused
from sparsam.structure import knapsack
from sparsam.structure.knapsack import choose, two_costs


def best_subset(scores: np.ndarray, costs: np.ndarray, budget: int) -> float:
    """The largest summed score of any subset within the budget."""
    subsets = np.array(list(itertools.product((0, 1), repeat=len(scores))), dtype=np.int64)
    fits = subsets @ costs <= budget
    return float((subsets[fits] @ scores).max())


def test_search_equals_every_subset() -> None:
    """200 random scores and budgets, below attention's own share too: the optimum, within budget, nothing left to add."""
    draw = np.random.default_rng(0)
    layers, heads, filters = 2, 3, 4
    for _ in range(200):
        of_head, of_filter = int(draw.integers(1, 200)), int(draw.integers(1, 40))
        f_heads, f_filters = draw.random((layers, heads)) ** 3, draw.random((layers, filters)) ** 3
        whole = layers * (heads * of_head + filters * of_filter)
        budget = int(draw.uniform(0.05, 0.95) * whole)
        keep_heads, keep_filters = two_costs(f_heads, f_filters, of_head, of_filter, budget)
        spent = int(keep_heads.sum()) * of_head + int(keep_filters.sum()) * of_filter
        assert spent <= budget
        found = f_heads[keep_heads].sum() + f_filters[keep_filters].sum()
        scores = np.concatenate([f_heads.ravel(), f_filters.ravel()])
        costs = np.array([of_head] * f_heads.size + [of_filter] * f_filters.size)
        assert found == pytest.approx(best_subset(scores, costs, budget), abs=1e-12)
        left = budget - spent
        assert keep_heads.all() or left < of_head
        assert keep_filters.all() or left < of_filter


def test_units_without_a_score_are_kept_where_they_fit() -> None:
    """Gradients of exactly zero tie; the budget is used all the same, by index."""
    heads, filters = two_costs(np.zeros((2, 2)), np.zeros((2, 3)), 10, 1, 23)
    assert heads.sum() == 2 and filters.sum() == 3
    assert heads[0].all() and filters[0].all()


def test_a_budget_of_nothing_keeps_nothing() -> None:
    """Zero is a budget, less is none."""
    heads, filters = two_costs(np.ones((2, 2)), np.ones((2, 3)), 10, 1, 0)
    assert not heads.any() and not filters.any()
    with pytest.raises(Refused, match="the budget is -1; what cannot be left out costs more already"):
        two_costs(np.ones((2, 2)), np.ones((2, 3)), 10, 1, -1)


def brute(gains: list[np.ndarray], costs: list[np.ndarray], budget: float) -> float:
    """The largest summed gain of any combination within the budget."""
    best = -np.inf
    for chosen in itertools.product(*(range(len(gain)) for gain in gains)):
        if sum(cost[at] for cost, at in zip(costs, chosen, strict=True)) <= budget:
            best = max(best, sum(gain[at] for gain, at in zip(gains, chosen, strict=True)))
    return best


def tables(draw: np.random.Generator, blocks: int = 4) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tables of a clock: neither gains nor costs rise from entry to entry."""
    sizes = draw.integers(1, 7, blocks)
    return [draw.random(size) for size in sizes], [draw.random(size) * 3 for size in sizes]


def test_choice_equals_every_combination() -> None:
    """300 random tables that are not monotone, budgets from just possible to all."""
    draw = np.random.default_rng(1)
    for _ in range(300):
        gains, costs = tables(draw)
        least, most = sum(c.min() for c in costs), sum(c.max() for c in costs)
        budget = float(draw.uniform(least, most))
        chosen = choose(gains, costs, budget)
        assert sum(c[at] for c, at in zip(costs, chosen, strict=True)) <= budget * (1 + 1e-12)
        got = sum(g[at] for g, at in zip(gains, chosen, strict=True))
        assert got == pytest.approx(brute(gains, costs, budget), abs=1e-12)


def test_rounding_keeps_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more combinations than are held, costs are rounded up: never over the budget, and near the optimum."""
    draw = np.random.default_rng(2)
    for _ in range(30):
        gains, costs = tables(draw, 6)
        budget = float(draw.uniform(sum(c.min() for c in costs), sum(c.max() for c in costs)))
        exact = sum(g[at] for g, at in zip(gains, choose(gains, costs, budget), strict=True))
        monkeypatch.setattr(knapsack, "STATES", 60)
        chosen = choose(gains, costs, budget)
        monkeypatch.undo()
        assert sum(c[at] for c, at in zip(costs, chosen, strict=True)) <= budget * (1 + 1e-12)
        assert sum(g[at] for g, at in zip(gains, chosen, strict=True)) >= 0.9 * exact


def test_the_cheapest_of_all_is_possible() -> None:
    """A budget that just suffices is met; one below it is refused with the least that is possible."""
    gains, costs = [[0.0, 1.0], [0.0, 2.0]], [[0.1, 5.0], [0.2, 6.0]]
    assert choose(gains, costs, 0.1 + 0.2) == [0, 0]
    with pytest.raises(Refused, match=r"the budget is 0\.25; the least that can be left costs 0\.3"):
        choose(gains, costs, 0.25)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_scores_are_numbers(bad: float) -> None:
    """NaN, infinity and negative scores are refused, not sorted to some place."""
    worth = np.ones((2, 2))
    worth[1, 1] = bad
    with pytest.raises(Refused, match="negative or not a number"):
        two_costs(worth, np.ones((2, 3)), 10, 1, 20)
    with pytest.raises(Refused, match="negative or not a number"):
        choose([[0.0, bad]], [[0.0, 1.0]], 1.0)
