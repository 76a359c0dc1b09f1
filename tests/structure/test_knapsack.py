"""The searches against every subset there is."""

import itertools

import numpy as np
import pytest

from sparsam.errors import Refused
from sparsam.structure import knapsack
from sparsam.structure.knapsack import choose, choose_within, two_costs


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


def best_within(gains: list[np.ndarray], costs: list[list[np.ndarray]], budgets: list[float]) -> float:
    """The largest summed gain of any combination within all budgets; minus infinity where there is none."""
    best = -np.inf
    for chosen in itertools.product(*(range(len(gain)) for gain in gains)):
        spent = [sum(c[at] for c, at in zip(one, chosen, strict=True)) for one in costs]
        if all(cost <= budget for cost, budget in zip(spent, budgets, strict=True)):
            best = max(best, sum(gain[at] for gain, at in zip(gains, chosen, strict=True)))
    return float(best)


def spent_and_gained(
    chosen: list[int], gains: list[np.ndarray], costs: list[list[np.ndarray]]
) -> tuple[list[float], float]:
    """What entries cost under each budget, and what they give."""
    spent = [sum(float(c[at]) for c, at in zip(one, chosen, strict=True)) for one in costs]
    return spent, sum(float(g[at]) for g, at in zip(gains, chosen, strict=True))


@pytest.mark.parametrize("several", [2, 3])
def test_choice_within_several_budgets_equals_every_combination(several: int) -> None:
    """200 random cases, tables not monotone, many of them impossible: feasible where anything is, and the optimum."""
    draw = np.random.default_rng(several)
    possible = 0
    for _ in range(200):
        sizes = draw.integers(1, 7, 4)
        gains = [draw.random(size) for size in sizes]
        costs = [[draw.random(size) * 3 for size in sizes] for _ in range(several)]
        budgets = [float(sum(c.min() for c in one) + draw.uniform(0, 0.6) * 3 * 4 / 2) for one in costs]
        wanted = best_within(gains, costs, budgets)
        if wanted == -np.inf:
            with pytest.raises(Refused, match="no combination was found that keeps all"):
                choose_within(gains, costs, budgets)
            continue
        possible += 1
        spent, gained = spent_and_gained(choose_within(gains, costs, budgets), gains, costs)
        assert all(cost <= budget * (1 + 1e-12) for cost, budget in zip(spent, budgets, strict=True))
        assert gained == pytest.approx(wanted, abs=1e-12)
    assert possible > 50


def test_moved_prices_come_near_the_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs that rise with units: feasible always, each gain at least 0.85 of the optimum, their mean 0.99 (of four tables)."""
    draw = np.random.default_rng(5)
    shares = []
    for _ in range(80):
        sizes = draw.integers(2, 7, 4)
        gains = [np.append(0.0, np.cumsum(np.sort(draw.random(size))[::-1])) for size in sizes]
        costs = [[np.cumsum(draw.random(size + 1)) for size in sizes] for _ in range(2)]
        budgets = [float(draw.uniform(sum(c[0] for c in one), sum(c[-1] for c in one))) for one in costs]
        wanted = best_within(gains, costs, budgets)
        monkeypatch.setattr(knapsack, "CANDIDATES", 0)
        spent, gained = spent_and_gained(choose_within(gains, costs, budgets), gains, costs)
        monkeypatch.undo()
        assert all(cost <= budget * (1 + 1e-12) for cost, budget in zip(spent, budgets, strict=True))
        shares.append(1.0 if wanted == 0 else gained / wanted)
    assert min(shares) >= 0.85 and float(np.mean(shares)) >= 0.99


@pytest.mark.parametrize("several", [2, 3])
def test_moved_prices_come_near_the_bound_of_a_real_size(several: int) -> None:
    """Twelve layers of 13 and 49 entries: within 2 % of what the relaxed problem, which gains at least as much, allows."""
    from scipy.optimize import linprog

    draw = np.random.default_rng(several)
    sizes = [13, 49] * 12
    gains = [np.append(0.0, np.cumsum(np.sort(draw.random(size - 1) ** 3)[::-1])) for size in sizes]
    costs = [
        [np.append(0.0, np.cumsum(draw.random(size - 1))) * draw.uniform(0.3, 3) for size in sizes]
        for _ in range(several)
    ]
    budgets = [draw.uniform(0.3, 0.6) * sum(float(c[-1]) for c in one) for one in costs]
    spent, gained = spent_and_gained(choose_within(gains, costs, budgets), gains, costs)
    assert all(cost <= budget * (1 + 1e-12) for cost, budget in zip(spent, budgets, strict=True))
    blocks = np.repeat(np.arange(len(sizes)), sizes)
    relaxed = linprog(
        -np.concatenate(gains), A_ub=np.stack([np.concatenate(one) for one in costs]), b_ub=budgets,
        A_eq=(blocks == np.arange(len(sizes))[:, None]).astype(float), b_eq=np.ones(len(sizes)), bounds=(0, 1),
    )  # fmt: skip
    assert gained >= 0.98 * -relaxed.fun


def test_a_budget_that_alone_cannot_be_kept_is_named() -> None:
    """By its number, with the least that is possible; one budget is the plain choice; nothing keeps what is free."""
    gains, costs = [[0.0, 1.0], [0.0, 2.0]], [[[0.0, 5.0], [0.0, 6.0]], [[1.0, 2.0], [1.0, 2.0]]]
    with pytest.raises(Refused, match=r"budget 2 of 2 is 1\.5; the least that can be left costs 2") as caught:
        choose_within(gains, costs, [10.0, 1.5])
    assert caught.value.code == "budget-unreachable"
    assert choose_within(gains, costs[:1], [6.0]) == choose(gains, costs[0], 6.0) == [0, 1]
    assert choose_within(gains, costs, [0.0, 9.0]) == [0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_scores_are_numbers(bad: float) -> None:
    """NaN, infinity and negative scores are refused, not sorted to some place."""
    worth = np.ones((2, 2))
    worth[1, 1] = bad
    with pytest.raises(Refused, match="negative or not a number"):
        two_costs(worth, np.ones((2, 3)), 10, 1, 20)
    with pytest.raises(Refused, match="negative or not a number"):
        choose([[0.0, bad]], [[0.0, 1.0]], 1.0)
    with pytest.raises(Refused, match="negative or not a number"):
        choose_within([[0.0, 1.0]], [[[0.0, 1.0]], [[0.0, bad]]], [1.0, 1.0])
