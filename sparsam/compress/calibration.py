"""What the products of a model read: its packed layers run on calibration rows, and watched.

Its token rule is at work, and where the head reads the class token alone the last layer is asked for it alone: what is seen
is what is multiplied in use. Memory is that of a batch, however many rows there are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsam.models import head_alone, stack_of
from sparsam.models.encoder import Linear, Stack, call
from sparsam.models.formats import ROLES
from sparsam.plan import PRODUCTS
from sparsam.quantization import INPUT, Extremes, Grid, Means, MovingAverage, RangeMethod, fake_quantize
from sparsam.training.feed import Feed, by_length

TOKENS = 2048
"""Real tokens a batch. Chosen by us; what is remembered does not depend on it."""


@dataclass(frozen=True)
class Seen:
    """What is remembered of a product's inputs."""

    range: Any
    """The range method's observer."""
    largest: Extremes
    """Of each input."""
    means: dict[str, Means]
    """Of each input, by the role of the module that reads it: in the last layer queries are asked of fewer tokens."""


def products_of(stack: Stack) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Layer, product, and its modules by role, wherever there is something left to multiply."""
    for index, block in enumerate(stack.blocks):
        for product in PRODUCTS:
            modules = {role: block.part(role) for role in ROLES[product]}
            if all(module.weight.numel() for module in modules.values()):
                yield index, product, modules


@torch.no_grad()
def watched(
    model: Any,
    feed: Feed,
    rows: NDArray[np.int64],
    method: RangeMethod,
    *,
    largest: bool = False,
    linear: Linear = call,
    progress: Callable[[int, int], None] | None = None,
) -> dict[tuple[int, str], Seen]:
    """What every product reads while the model runs on some rows, by layer and product.

    Args:
        model: lifted; its products are not rounded yet.
        feed: training rows; their labels are not looked at.
        rows: which of them.
        method: what is remembered for the range of a product's inputs.
        largest: whether the largest absolute value of each input is remembered, too.
        linear: how modules are applied.
        progress: told of rows done, and of all.
    """
    stack, device, done = stack_of(model), next(model.parameters()).device, 0
    seen: dict[tuple[int, str], Seen] = {}
    at: dict[int, tuple[Seen, str]] = {}
    for index, product, modules in products_of(stack):
        one = Seen(method.start(INPUT), Extremes(1), {role: Means() for role in modules})
        seen[index, product] = one
        at |= {id(module): (one, role) for role, module in modules.items()}
    in_order = isinstance(method, MovingAverage)  # it moves once a sample, whose tokens must come together

    def watch(module: nn.Module, x: Float[Tensor, "t i"]) -> Tensor:
        one, role = at.get(id(module), (None, ""))
        if one is not None:
            one.means[role].add(x)
            if role != "q" and role != "v":  # keys are asked of all tokens
                if largest:
                    one.largest.add(x)
                one.range.add(x[None] if in_order else x)
        return linear(module, x)

    with applied_by(stack, watch), head_alone(model):
        for part in rows[:, None] if in_order else grouped(feed, rows):
            batch = feed.collate(part)
            model(**{name: x.to(device) for name, x in batch.items() if name != "labels"})
            done += len(part)
            if progress is not None:
                progress(done, len(rows))
    return seen


def grouped(feed: Feed, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Rows in batches of about :data:`TOKENS` real tokens, by length."""
    for group in by_length(feed.lengths[rows], TOKENS):
        yield rows[group]


@contextmanager
def applied_by(stack: Stack, linear: Linear) -> Iterator[None]:
    """Inside the block linear modules are applied another way."""
    before, stack.linear = stack.linear, linear
    try:
        yield
    finally:
        stack.linear = before


def rounding_to(grids: dict[int, Grid]) -> Linear:
    """The ``linear`` seam with the weights of some modules, by their ids, on grids."""

    def linear(module: nn.Module, x: Float[Tensor, "t i"]) -> Float[Tensor, "t o"]:
        grid = grids.get(id(module))
        if grid is None:
            return call(module, x)
        layer: Any = module
        return F.linear(x, fake_quantize(layer.weight, grid), layer.bias)

    return linear
