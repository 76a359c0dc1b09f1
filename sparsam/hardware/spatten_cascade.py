"""SpAtten's cascade: which tokens and heads are left, from the attention that they have drawn in all layers before.

After a layer, a token's score grows by the probabilities that the layer's queries gave it, over all heads and queries; a head's
by the absolute values of its results. Before a layer that prunes, tokens with the smallest scores leave, for good; so do heads.
Scores of those that stay are carried on. (The paper's algorithm after public reading notes; see docs/hardware/spatten.md.)

Shares are of what is left, so they compound: ``floor(n * (1 - p))`` of n tokens stay. For heads the same rule would take one
head of twelve at the smallest share, in each layer; here ``floor(h * product of (1 - p))`` of the layer's h heads stay.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware.spatten_topk import select_rows
from sparsam.workload import Attention


@dataclass(frozen=True)
class Schedule:
    """Shares that are removed before each layer: none in the first, then growing linearly around a mean.

    Args:
        layers: of attention in the model.
        after: share of the layers, from the first, before which nothing is removed.
        start: share removed at the first pruning layer; ``2 * mean - start`` at the last.
        mean: over the pruning layers.

    Raises:
        Refused: ``machine-parameter`` for a share outside of 0 to 1.
    """

    layers: int
    after: float
    start: float
    mean: float

    def __post_init__(self) -> None:
        shares = {
            "after": self.after,
            "start": self.start,
            "mean": self.mean,
            "end": 2 * self.mean - self.start,
        }
        for name, share in shares.items():
            if not 0 <= share < 1 and not (name == "after" and share == 1):
                raise Refused(
                    f"a pruning schedule's {name} is {share:g} (end = 2 x mean - start); shares lie from 0 to below 1.",
                    code="machine-parameter",
                )

    def share(self, layer: int) -> float:
        """Removed before a layer. Layers beyond the last are as the last."""
        first = max(1, math.ceil(self.after * self.layers))
        if layer < first:
            return 0.0
        steps = self.layers - 1 - first
        at = min(1.0, (layer - first) / steps) if steps > 0 else 0.5
        return self.start + (2 * self.mean - 2 * self.start) * at

    def left(self, layer: int) -> float:
        """Product of what stays, up to and with a layer."""
        return math.prod(1 - self.share(i) for i in range(layer + 1))


@dataclass
class Living:
    """A sequence's living tokens and heads at a layer, and the scores so far.

    Args:
        places: (n,) living tokens, by their first places, rising.
        heads: (h,) living heads, by their names in the model, rising.
        token_score, token_gone: by first place.
        head_score, head_gone: by name.
    """

    places: NDArray[np.int64]
    heads: NDArray[np.int64]
    token_score: NDArray[np.float64]
    token_gone: NDArray[np.bool_]
    head_score: NDArray[np.float64]
    head_gone: NDArray[np.bool_]


@dataclass
class Cascade:
    """What SpAtten carries from layer to layer.

    Args:
        tokens, heads: schedules.
        protected: first tokens that stay.
        comparators, seed: of the selector.
        layer: that comes next.
        living: a sequence a place.
        select_cycles, compared: of the selections at the last layer's door.
    """

    tokens: Schedule
    heads: Schedule
    protected: int
    comparators: int
    seed: int = 0
    layer: int = 0
    living: list[Living] = field(default_factory=list)
    select_cycles: int = 0
    compared: int = 0
    _recorded: list[int] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)

    def enter(self, layer: Attention) -> list[Living]:
        """The living tokens and heads at a layer's door, pruned by the schedules.

        A layer that was there before (in a later batch: ``name#2``) begins a new run; so does one with another number of
        sequences, or with more tokens than the layer before recorded.
        """
        places = _places(layer)
        names = (
            np.arange(layer.q.shape[1]) if layer.heads is None else np.sort(np.asarray(layer.heads, np.int64))
        )
        self.select_cycles = self.compared = 0
        goes_on = (
            layer_of(layer.name) not in self._names
            and len(self.living) == len(places)
            and all(
                len(p) <= n and p.max() < len(one.token_score)
                for p, n, one in zip(places, self._recorded, self.living, strict=True)
            )
        )
        if not goes_on:
            self.layer, self._names = 0, set()
            self.living = [
                Living(
                    p,
                    names,
                    np.zeros(int(p.max()) + 1),
                    np.zeros(int(p.max()) + 1, np.bool_),
                    np.zeros(0),
                    np.zeros(0, np.bool_),
                )
                for p in places
            ]
        for number, (p, one) in enumerate(zip(places, self.living, strict=True)):
            more = max(0, int(names.max()) + 1 - len(one.head_score))
            one.head_score, one.head_gone = (
                np.pad(one.head_score, (0, more)),
                np.pad(one.head_gone, (0, more)),
            )
            one.places, one.heads = p[~one.token_gone[p]], names[~one.head_gone[names]]
            self._prune(number, one, len(names))
        self._recorded = [len(p) for p in places]
        self._names.add(layer_of(layer.name))
        self.layer += 1
        return self.living

    def _prune(self, number: int, one: Living, all_heads: int) -> None:
        share, n = self.tokens.share(self.layer), len(one.places)
        stay = max(math.floor(n * (1 - share) + 1e-9), int((one.places < self.protected).sum()), 1)
        if share > 0 and stay < n:
            score = np.where(one.places < self.protected, np.inf, one.token_score[one.places])
            keep = self._select(score, stay, 2 * number)
            one.token_gone[one.places[~keep]] = True
            one.places = one.places[keep]
        stay = max(math.floor(all_heads * self.heads.left(self.layer) + 1e-9), 1)
        if stay < len(one.heads):
            keep = self._select(one.head_score[one.heads], stay, 2 * number + 1)
            one.head_gone[one.heads[~keep]] = True
            one.heads = one.heads[keep]

    def _select(self, score: NDArray[np.float64], k: int, number: int) -> NDArray[np.bool_]:
        """The engine on importances, as float32."""
        keep, cycles, compared = select_rows(
            score[None].astype(np.float32), np.array([len(score)]), np.array([k]), self.comparators,
            self.seed + 7919 * self.layer, number,
        )  # fmt: skip
        self.select_cycles += int(cycles[0])
        self.compared += int(compared[0])
        return np.asarray(keep[0], np.bool_)


def layer_of(name: str) -> str:
    """A layer's name in the model: traces of several batches number its later calls, ``name#2``."""
    base, mark, number = name.rpartition("#")
    return base if mark and number.isdigit() else name


def _places(layer: Attention) -> list[NDArray[np.int64]]:
    """First places of each sequence's tokens."""
    if layer.tokens is not None:
        found = [np.asarray(layer.tokens[rows], np.int64) for rows in layer.sequences()]
        for number, one in enumerate(found):
            if (one < 0).any() or (np.diff(one) <= 0).any():
                raise Refused(
                    f"{layer.name}: places of sequence {number} do not rise from 0 on.", code="workload-shape"
                )
        return found
    return [np.arange(int(n), dtype=np.int64) for n in layer.lengths]
