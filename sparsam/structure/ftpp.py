"""FTPP: which heads and filters leave, and how those that stay make up for them, without training.

"A Fast Post-Training Pruning Framework for Transformers", Kwon, Kim, Mahoney, Hassoun, Keutzer, Gholami, NeurIPS 2022, arXiv
2204.09656.

1. Scores: the diagonal of the empirical Fisher information of a gate on every head and filter.
2. Search: the largest summed score within a budget, or several (:mod:`sparsam.structure.knapsack`).
3. Rearrangement inside each layer by the layer's full Fisher information (:mod:`sparsam.structure.rearrange`).
4. Tuning: each half's output reproduced from what is left (:mod:`sparsam.structure.reconstruct`).

The authors' code differs from this in four ways, kept as ``variant="released"`` so that both can be compared: gradients are
of the mean loss of batches of 32 (their squares are not the Fisher information of samples); what is reproduced is not the
dense model but the one pruned at the square root of the budget; scales are solved by LSMR with damping on the normal equations,
and tuning stops at the first system that fails; the first layer's attention is not tuned.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused, Usage
from sparsam.plan import LayerPlan
from sparsam.structure.knapsack import choose_within, two_costs
from sparsam.structure.rearrange import rearrange

SCORES = ("fisher", "magnitude", "random")
TUNES = ("full", "scale", "none")
VARIANTS = ("sparsam", "released")
LABELS = ("data", "sampled")
BATCH = 32
"""Samples whose gradients the released code averages."""

SAMPLES = 2048
"""Calibration samples, the paper's number."""


@dataclass(frozen=True)
class FTPP:
    """Settings of the method.

    Args:
        macs: share of the dense model's multiply-accumulates to stay within; the budget's, if None.
        samples: of the training rows, drawn with lengths like those of use; 2,048, or as many as there are, if None.
        score: ``fisher``, or as a control ``magnitude`` (mean square of a unit's weights) or ``random``.
        rearrange: look for better units inside each layer by its full Fisher information.
        tune: ``full`` solves the kept output weights and their bias, ``scale`` one scalar a unit as the paper does, ``none``
            nothing.
        multiple: filters are kept in multiples of this, which products run fastest at; 1 takes any number. Searches by a table.
        labels: ``data``, or ``sampled`` from the model's own answers where there are none (or they are not to be trusted).
        ridge: see :data:`sparsam.structure.reconstruct.RIDGE`.
        variant: ``released`` is the authors' code; see above.
        recover_epochs: epochs of distillation from the dense model afterwards; none by default.
        recover_lr: its peak learning rate.
        distill: share of the loss that comes from the dense model's answers, while recovering.
    """

    macs: float | None = None
    samples: int | None = None
    score: str = "fisher"
    rearrange: bool = True
    tune: str = "full"
    multiple: int = 16
    labels: str = "data"
    ridge: float = 1e-3
    variant: str = "sparsam"
    recover_epochs: float = 0.0
    recover_lr: float = 6e-5
    distill: float = 0.9

    def __post_init__(self) -> None:
        for name, choices in (("score", SCORES), ("tune", TUNES), ("labels", LABELS), ("variant", VARIANTS)):
            if getattr(self, name) not in choices:
                raise Usage(
                    f"{name} is one of {', '.join(choices)}; got {getattr(self, name)!r}.",
                    code="method-settings",
                )
        for name, low in (("samples", 2), ("multiple", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise Usage(f"{name} must be at least {low}; got {value!r}.", code="method-settings")
        for name in ("ridge", "recover_epochs", "recover_lr"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise Usage(f"{name} must be 0 or more and finite; got {value!r}.", code="method-settings")
        if self.macs is not None and not 0 < self.macs <= 1:
            raise Usage(f"macs lies in (0, 1]; got {self.macs!r}.", code="method-settings")
        if not 0 <= self.distill <= 1:
            raise Usage(f"distill lies in [0, 1]; got {self.distill!r}.", code="method-settings")


@dataclass(frozen=True)
class Scores:
    """What every unit is worth, layer by layer: importances (u,), and the gradients (b, u) they come from, if they do."""

    heads: tuple[NDArray[np.float64], ...]
    filters: tuple[NDArray[np.float64], ...]
    head_gradients: tuple[NDArray[np.float32], ...] = ()
    filter_gradients: tuple[NDArray[np.float32], ...] = ()


def fisher(heads: Sequence[NDArray[np.float32]], filters: Sequence[NDArray[np.float32]]) -> Scores:
    """Scores from gradients by gates (b, u) of each layer: their squares summed over samples.

    Raises:
        Refused: ``non-finite`` naming the layer.
    """
    for layer, pair in enumerate(zip(heads, filters, strict=True)):
        if not all(np.isfinite(x).all() for x in pair):
            raise Refused(
                f"a gradient in layer {layer} is not a number. Look for NaN in the weights, or for values that overflow.",
                code="non-finite",
            )
    squares = [tuple(np.square(x.astype(np.float64)).sum(0) for x in kind) for kind in (heads, filters)]
    return Scores(squares[0], squares[1], tuple(heads), tuple(filters))


def batch_means(
    gradients: NDArray[np.float32], order: NDArray[np.int64], size: int = BATCH
) -> NDArray[np.float32]:
    """Gradients of the mean loss of batches of ``size`` samples, from those of samples."""
    return np.stack([gradients[part].mean(0) for part in np.array_split(order, max(1, len(order) // size))])


@dataclass(frozen=True)
class Prices:
    """What may be kept and what it costs: for every layer's half, the numbers of units on offer and the price of each.

    ``heads[l]`` and ``filters[l]`` are pairs of equally long arrays, numbers and prices; ``fixed`` is spent in any case. Prices
    are MACs (exact integers fit) or milliseconds of a clock; ``budget`` is in the same unit.
    """

    heads: tuple[tuple[NDArray[np.int64], NDArray[np.float64]], ...]
    filters: tuple[tuple[NDArray[np.int64], NDArray[np.float64]], ...]
    budget: float
    fixed: float = 0.0
    uniform: tuple[int, int, int] | None = None
    """Price of one head, price of one filter, and the budget, as exact integers, where every layer's are the same."""


def search(
    scores: Scores, prices: Prices | Sequence[Prices]
) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """The heads and filters of each layer to keep: boolean masks of the largest summed score within the prices' budget.

    With several prices the budgets of all are kept, and what is on offer is what all of them offer.

    Raises:
        Refused: ``budget-unreachable``.
    """
    given = [prices] if isinstance(prices, Prices) else list(prices)
    shapes = {len(x) for x in scores.heads}, {len(x) for x in scores.filters}
    if len(given) == 1 and given[0].uniform is not None and all(len(kind) == 1 for kind in shapes):
        found = two_costs(np.stack(scores.heads), np.stack(scores.filters), *given[0].uniform)
        return list(zip(*found, strict=True))
    tables = [[pair for layer in zip(one.heads, one.filters, strict=True) for pair in layer] for one in given]
    offers = [
        reduce(np.intersect1d, (numbers for numbers, _ in block)) for block in zip(*tables, strict=True)
    ]
    costs = [
        [cost[np.searchsorted(numbers, offer)] for (numbers, cost), offer in zip(one, offers, strict=True)]
        for one in tables
    ]
    worth = [x for layer in zip(scores.heads, scores.filters, strict=True) for x in layer]
    gains = [
        np.concatenate([[0.0], np.cumsum(np.sort(x)[::-1])])[numbers]
        for x, numbers in zip(worth, offers, strict=True)
    ]
    entries = choose_within(gains, costs, [one.budget - one.fixed for one in given])
    keep = [_best(x, int(numbers[entry])) for x, numbers, entry in zip(worth, offers, entries, strict=True)]
    return list(zip(keep[::2], keep[1::2], strict=True))


def rearranged(
    scores: Scores, keep: Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_]]]
) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """The same numbers of units in every layer, chosen by each layer's full Fisher information."""
    if not scores.head_gradients:
        return list(keep)
    return [
        (rearrange(g, heads), rearrange(n, filters))
        for g, n, (heads, filters) in zip(scores.head_gradients, scores.filter_gradients, keep, strict=True)
    ]


def to_plans(keep: Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_]]]) -> list[LayerPlan]:
    """Masks to indices."""
    return [LayerPlan(_indices(heads), _indices(filters)) for heads, filters in keep]


def offered(count: int, multiple: int) -> NDArray[np.int64]:
    """The numbers of units that may be kept: multiples, none, and all."""
    return np.unique(np.append(np.arange(0, count + 1, multiple), count))


def _indices(keep: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(one) for one in np.flatnonzero(keep))


def _best(worth: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    keep = np.zeros(len(worth), bool)
    keep[np.argsort(-worth, kind="stable")[:count]] = True
    return keep
