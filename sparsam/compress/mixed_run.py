"""Mixed precision on one model: what each product loses at each width, on calibration rows, and the widths of a budget.

    kl        the model's divergence from its own answers while one product alone is rounded, its inputs too
    hessian   the mean trace of that divergence's Hessian by the product's weights, times what rounding moves them (HAWQ-V2)
    fisher    squared gradients of answers drawn from the model, times each weight's squared error

No labels are read: all three ask how far the answers move. The mathematics of the last two is in ``quantization.mixed``.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparsam.attention import reference
from sparsam.compress.calibration import applied_by, products_of, rounding_to
from sparsam.models import head_alone, stack_of
from sparsam.models.encoder import Stack
from sparsam.models.stored import HALF
from sparsam.plan import Format
from sparsam.quantization import Grid, fit, weight_form
from sparsam.quantization.calibrate import RangeMethod
from sparsam.quantization.mixed import Width, fisher_loss, hessian_loss, rounding_error, traces

WIDTHS: tuple[Width, ...] = (2, 3, 4, 5, 6, 7, 8, None)
"""What a product may get, from narrow to wide."""

ROWS = 64
"""Calibration rows that losses are looked at on. Chosen by us: every product and width is a pass over them."""

PROBES = 32
"""Draws of Hutchinson's estimate; HAWQ-V2 takes 50 at most."""

Ends = Callable[[int], RangeMethod]
"""Where weights of so many bits end."""

Losses = dict[tuple[int, str], list[float]]
"""By layer and product: one a width."""


def losses_of(
    model: Any,
    batches: Sequence[dict[str, Tensor]],
    kind: str,
    widths: Sequence[Width],
    ends: Ends,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Losses:
    """What every product loses at every width. The model is left as it is.

    Args:
        model: lifted, in floating point.
        batches: calibration rows; their labels are not looked at.
        kind: ``kl``, ``hessian`` or ``fisher``.
        widths: on offer.
        ends: where an output's weights of so many bits end.
        seed: of the probes, and of drawn answers.
        progress: told of products or batches done, and of all.
    """
    given = [{name: x for name, x in batch.items() if name != "labels"} for batch in batches]
    with head_alone(model):
        if kind == "kl":
            return _by_divergence(model, given, widths, ends, progress)
        curved = _hessian if kind == "hessian" else _fisher
        return curved(model, given, widths, ends, torch.Generator().manual_seed(seed), progress)


@torch.no_grad()
def _by_divergence(
    model: Any,
    batches: Sequence[dict[str, Tensor]],
    widths: Sequence[Width],
    ends: Ends,
    progress: Callable[[int, int], None] | None,
) -> Losses:
    stack, found = stack_of(model), dict[tuple[int, str], list[float]]()
    wanted = [model(**batch).logits.float() for batch in batches]
    products = list(products_of(stack))
    for done, (index, product, modules) in enumerate(products):
        row = []
        for bits in widths:
            grids = {} if bits is None else _grids(modules.values(), bits, ends)
            formats: dict[Any, Format] = {} if bits is None else {product: Format(bits)}
            with _rounded(stack, index, formats), applied_by(stack, rounding_to(grids)):
                answers = [model(**batch).logits.float() for batch in batches] if bits else wanted
            row.append(sum(float(apart(own, its)) for own, its in zip(answers, wanted, strict=True)))
        found[index, product] = row
        if progress is not None:
            progress(done + 1, len(products))
    return found


def _hessian(
    model: Any,
    batches: Sequence[dict[str, Tensor]],
    widths: Sequence[Width],
    ends: Ends,
    generator: torch.Generator,
    progress: Callable[[int, int], None] | None,
) -> Losses:
    stack = stack_of(model)
    products = list(products_of(stack))
    weights = [module.weight for _, _, modules in products for module in modules.values()]
    total = [0.0] * len(weights)
    with torch.enable_grad(), _differentiable_twice(stack), _learning(weights):
        for done, batch in enumerate(batches):
            own = model(**batch).logits.float()
            found = traces(apart(own, own.detach()), weights, PROBES, generator)
            total = [a + b for a, b in zip(total, found, strict=True)]
            if progress is not None:
                progress(done + 1, len(batches))
    of_weight = {id(weight): trace for weight, trace in zip(weights, total, strict=True)}
    return _summed(
        products, widths, ends, lambda weight, error: hessian_loss(error, of_weight[id(weight)]) / 2
    )


def _fisher(
    model: Any,
    batches: Sequence[dict[str, Tensor]],
    widths: Sequence[Width],
    ends: Ends,
    generator: torch.Generator,
    progress: Callable[[int, int], None] | None,
) -> Losses:
    products = list(products_of(stack_of(model)))
    weights = [module.weight for _, _, modules in products for module in modules.values()]
    squares = {id(weight): torch.zeros_like(weight) for weight in weights}
    with torch.enable_grad(), _learning(weights):
        for done, batch in enumerate(batches):
            rows = model(**batch).logits.float()
            for number, row in enumerate(rows):
                if len(row) == 1:  # a number: answers scatter around it with variance one
                    score = row[0]
                else:
                    drawn = int(torch.multinomial(row.detach().softmax(0).cpu(), 1, generator=generator))
                    score = row.log_softmax(0)[drawn]
                again = number + 1 < len(rows)
                for weight, slope in zip(
                    weights, torch.autograd.grad(score, weights, retain_graph=again), strict=True
                ):
                    squares[id(weight)] += slope.square()
            if progress is not None:
                progress(done + 1, len(batches))
    return _summed(products, widths, ends, lambda weight, error: fisher_loss(error, squares[id(weight)]) / 2)


def _summed(
    products: Sequence[tuple[int, str, dict[str, Any]]],
    widths: Sequence[Width],
    ends: Ends,
    loss: Callable[[Tensor, Tensor], float],
) -> Losses:
    """The losses of a product's modules together; second-order terms between them are left out, as between products."""
    return {
        (index, product): [
            0.0
            if bits is None
            else sum(
                loss(module.weight, rounding_error(module.weight, bits, ends(bits)))
                for module in modules.values()
            )
            for bits in widths
        ]
        for index, product, modules in products
    }


def apart(own: Float[Tensor, "b c"], wanted: Float[Tensor, "b c"]) -> Float[Tensor, ""]:
    """Summed Kullback-Leibler divergence (nats) of answers from others; of numbers, half the squares."""
    if own.shape[1] == 1:
        return (own - wanted).square().sum() / 2
    a, b = wanted.log_softmax(1), own.log_softmax(1)
    return (a.exp() * (a - b)).sum()


def bytes_at(modules: Sequence[Any], bits: Width) -> float:
    """Bytes of a product's weights and scales as they lie in files."""
    found = 0
    for module in modules:
        outputs, inputs = module.weight.shape
        each = 4 * inputs if bits is None else 4 + (inputs if bits > HALF else (inputs + 1) // 2)
        found += outputs * each
    return float(found)


def _grids(modules: Iterable[Any], bits: int, ends: Ends) -> dict[int, Grid]:
    return {id(module): fit(module.weight, weight_form(bits), ends(bits)) for module in modules}


@contextmanager
def _rounded(stack: Stack, index: int, formats: dict[Any, Format]) -> Iterator[None]:
    """Inside the block one layer's inputs are rounded by these formats."""
    before = stack.left
    layers = list(before)
    layers[index] = replace(layers[index], formats=formats)
    stack.left = tuple(layers)
    try:
        yield
    finally:
        stack.left = before


@contextmanager
def _differentiable_twice(stack: Stack) -> Iterator[None]:
    """Inside the block attention is the plain one: the fast ones have no second derivative."""

    def attend(*args: Any, dropout: float = 0.0, **kwargs: Any) -> Any:
        return reference(*args, **kwargs)

    before, stack.attend = stack.attend, attend
    try:
        yield
    finally:
        stack.attend = before


@contextmanager
def _learning(weights: Sequence[Tensor]) -> Iterator[None]:
    """Inside the block weights take gradients."""
    before = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight, was in zip(weights, before, strict=True):
            weight.requires_grad_(was)
