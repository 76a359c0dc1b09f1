"""Counting what a lifted model did: surviving lengths of real inputs to multiply-accumulates."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsam.cost import Cost, Shape, dense_cost, encoder_cost
from sparsam.models.encoder import Kept, Stack


def shapes_of(stack: Stack) -> list[Shape]:
    """Each layer's widths as they stand, and whether the rule in place scores its tokens."""
    shapes = []
    for index, block in enumerate(stack.blocks):
        head_width = int(block.part("head_width"))
        inner, width = block.part("v").weight.shape
        rule = stack.rule
        scored = rule is not None and rule.prunes(index) and rule.wants_scores(index)
        shapes.append(Shape(width, inner // head_width, head_width, block.part("up").weight.shape[0], scored))
    return shapes


def dense_shapes_of(model: Any, stack: Stack) -> list[Shape]:
    """Each layer's widths in the dense model: as they stand, but with the heads and filters that the plan left out."""
    config = model.config
    heads, filters = (
        next((getattr(config, name) for name in names if hasattr(config, name)), None)
        for names in (("num_attention_heads", "n_heads"), ("intermediate_size", "hidden_dim"))
    )
    return [
        replace(
            shape,
            heads=shape.heads if left.heads is None or heads is None else heads,
            filters=shape.filters if left.filters is None or filters is None else filters,
        )
        for shape, left in zip(shapes_of(stack), stack.left, strict=True)
    ]


@dataclass
class Tally:
    """Work and survivors summed over batches; its size does not grow with the number of examples."""

    cost: Cost = field(default_factory=Cost)
    dense: Cost = field(default_factory=Cost)
    attention: NDArray[np.float64] | None = None
    """Mean share of a sequence's tokens at each layer's attention, summed over sequences."""
    ffn: NDArray[np.float64] | None = None

    def add(self, shapes: list[Shape], kept: Kept, dense_shapes: list[Shape] | None = None) -> None:
        """Count one forward pass. ``dense_shapes``: widths of the dense model, where heads or filters are gone."""
        n = [x.cpu().numpy() for x in kept.attention]
        m = [x.cpu().numpy() for x in kept.ffn]
        self.cost = self.cost + encoder_cost(shapes, n, m)
        self.dense = self.dense + dense_cost(dense_shapes or shapes, n[0])
        original = np.maximum(n[0], 1)
        at = np.array([(x / original).sum() for x in n])
        after = np.array([(x / original).sum() for x in m])
        self.attention = at if self.attention is None else self.attention + at
        self.ffn = after if self.ffn is None else self.ffn + after

    @property
    def ratio(self) -> float:
        """MACs relative to the dense model on the same inputs."""
        return self.cost.relative_to(self.dense)

    def shares(self) -> list[dict[str, float]]:
        """Mean share of tokens alive in each layer, at attention and at feed-forward."""
        if self.attention is None or self.ffn is None:
            return []
        count = max(self.cost.samples, 1)
        return [
            {"attention": float(a / count), "ffn": float(f / count)}
            for a, f in zip(self.attention, self.ffn, strict=True)
        ]


@torch.no_grad()
def count(model: Any, stack: Stack, batches: Iterable[dict[str, Tensor]]) -> Tally:
    """Run batches through the model as it stands and count. The model's mode is put back afterwards."""
    tally, training = Tally(), model.training
    model.eval()
    shapes, dense = shapes_of(stack), dense_shapes_of(model, stack)
    try:
        for batch in batches:
            with stack.recording() as kept:
                model(**{name: x for name, x in batch.items() if name != "labels"})
            tally.add(shapes, kept, dense)
    finally:
        model.train(training)
    return tally
