"""Mixed precision: what each product loses at each width, and how many bits each gets within a budget.

Z. Dong et al., *HAWQ-V2*, NeurIPS 2020, arXiv:1911.03852: a product's loss at b bits is the mean trace of its Hessian times
||Q_b(W) - W||^2, the trace by Hutchinson's probes. Z. Yao et al., *HAWQ-V3*, ICML 2021, arXiv:2011.10680: the widths are an
integer programme under size, bit operations or time. With the diagonal Fisher information in the Hessian's place each weight's
error counts by its own squared gradient.

What is spent (bytes, bit operations, or milliseconds of a table) is a number a width; the search comes in as an argument.
Checked in ``tests/quantization/test_mixed.py``: traces against exact Hessians, assignments against every combination.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sparsam.quantization.affine import fake_quantize, weight_form
from sparsam.quantization.calibrate import RangeMethod
from sparsam.quantization.uniform import fit

Width = int | None
"""Bits of a product's weights; None for floating point."""

INPUT_BITS, FLOAT_BITS = 8, 32

Choose = Callable[
    [Sequence[Sequence[float]], Sequence[Sequence[Sequence[float]]], Sequence[float]], list[int]
]
"""Gains, costs and budgets to an entry of each table: a multiple-choice knapsack."""


def traces(
    loss: Float[Tensor, ""], weights: Sequence[Tensor], probes: int, generator: torch.Generator
) -> list[float]:
    """The trace of each weight's own block of the loss's Hessian: E[v . (H v)] over Rademacher v, all blocks at once.

    Args:
        loss: of ``weights``, differentiable twice.
        weights: what the Hessian is by.
        probes: draws of v; the error falls with their square root, and there is none from a block's diagonal.
        generator: for the draws, on the CPU.
    """
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    total = torch.zeros(len(weights), dtype=torch.float64)
    for _ in range(probes):
        v = [
            (torch.randint(0, 2, w.shape, generator=generator) * 2 - 1).to(w.device, w.dtype) for w in weights
        ]
        curved = torch.autograd.grad(gradients, weights, v, retain_graph=True)
        total += torch.tensor(
            [float((a.double() * b.double()).sum()) for a, b in zip(v, curved, strict=True)],
            dtype=torch.float64,
        )
    return [float(one) / probes for one in total]


def rounding_error(weight: Float[Tensor, "o i"], bits: Width, method: RangeMethod) -> Float[Tensor, "o i"]:
    """Q_b(W) - W; nothing in floating point."""
    if bits is None:
        return torch.zeros_like(weight)
    own = weight.detach().float()
    return fake_quantize(own, fit(own, weight_form(bits), method)) - own


def hessian_loss(error: Float[Tensor, "o i"], trace: float) -> float:
    """Mean trace times squared error. A negative estimate, as noise or a saddle gives, counts as none."""
    return max(0.0, trace) / max(1, error.numel()) * float(error.double().square().sum())


def fisher_loss(error: Float[Tensor, "o i"], squares: Float[Tensor, "o i"]) -> float:
    """Squared errors, each times the mean squared gradient of its weight."""
    return float((squares.double() * error.double().square()).sum())


def bit_operations(macs: float, bits: Width) -> float:
    """Multiply-accumulates times the bits of either side."""
    return macs * (FLOAT_BITS * FLOAT_BITS if bits is None else bits * INPUT_BITS)


def worth_asking(costs: Sequence[Sequence[float]]) -> list[int]:
    """Of widths from narrow to wide (float last) those that no wider one is as cheap as, under every budget.

    Args:
        costs: for each budget, what each width costs.
    """
    rows = list(zip(*costs, strict=True))
    return [
        at
        for at, own in enumerate(rows)
        if not any(all(a <= b for a, b in zip(wider, own, strict=True)) for wider in rows[at + 1 :])
    ]


def assign(
    losses: Sequence[Sequence[float]],
    costs: Sequence[Sequence[Sequence[float]]],
    budgets: Sequence[float],
    choose: Choose,
) -> list[int]:
    """One width of each product: the least summed loss within every budget.

    Args:
        losses: a table a product, an entry a width; not negative.
        costs: for each budget, a table a product.
        budgets: each in the unit of its costs.
        choose: a knapsack that takes gains.

    Returns:
        The entry chosen in each table.

    Raises:
        Refused: those of ``choose``.
    """
    gains = [[max(table) - loss for loss in table] for table in losses]
    return choose(gains, costs, budgets)
