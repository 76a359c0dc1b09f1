"""Rearrangement inside a layer: never worse, near the best there is."""

import itertools

import numpy as np
import pytest

from sparsam.structure.rearrange import cost, rearrange


def test_never_worse_and_near_the_best() -> None:
    """60 random layers of 10 correlated units: as many kept, no larger cost, the median within a tenth of the best."""
    draw = np.random.default_rng(0)
    ratios = []
    for _ in range(60):
        gradients = draw.normal(size=(40, 4)) @ draw.normal(size=(4, 10)) + 0.5 * draw.normal(size=(40, 10))
        kept = int(draw.integers(3, 8))
        norms = np.square(gradients).sum(0)
        start = np.zeros(10, bool)
        start[np.argsort(-norms, kind="stable")[:kept]] = True
        found = rearrange(gradients.astype(np.float32), start)
        assert found.sum() == kept
        assert cost(gradients, found) <= cost(gradients, start) * (1 + 1e-6)
        best = min(
            cost(gradients, ~np.isin(np.arange(10), pruned))
            for pruned in itertools.combinations(range(10), 10 - kept)
        )
        ratios.append(cost(gradients, found) / best)
    assert np.median(ratios) < 1.1, f"median {np.median(ratios):.3f}, worst {max(ratios):.3f}"


@pytest.mark.parametrize("kept", [0, 5])
def test_all_or_nothing_stays_so(kept: int) -> None:
    """Nothing to choose."""
    gradients = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    keep = np.arange(5) < kept
    assert rearrange(gradients, keep).sum() == kept


def test_two_that_cancel_leave_together() -> None:
    """The diagonal would prune the two smallest, which add up."""
    gradients = np.array([[1.0, 1.0, -1.2, 5.0]], np.float32)
    found = rearrange(gradients, np.array([False, False, True, True]))
    assert found.tolist() == [True, False, False, True]
