"""AdaRound: which weights are rounded up and which down is learned, so that outputs lose little.

M. Nagel, R. A. Amjad, M. van Baalen, C. Louizos, T. Blankevoort, *Up or down? Adaptive rounding for post-training
quantization*, ICML 2020, arXiv:2004.10568.

    W^ = s clamp(floor(W / s) + h(V), lowest, highest)        h(V) = clamp(1.2 sigmoid(V) - 0.1, 0, 1)
    loss = |W x - W^ x|^2 over the calibration tokens  +  weight · sum of 1 - |2 h(V) - 1|^beta

V starts where W^ is W. During the first fifth of the steps the regulariser is off; then beta falls from 20 to 2 by half a
cosine, and what is undecided goes to 0 or 1. In the end h is rounded.

Where we differ: the first term is worked out from H = 2 sum x x^T (:class:`~sparsam.quantization.gptq.Hessian`), which is its
exact value over all calibration tokens, in place of batches of them; it is taken in steps of each output's grid, relative to
H's mean diagonal, so that one weight of the regulariser suits all; there is no activation in it; and an output that comes out
worse than rounding to nearest, under H, is rounded to nearest. Checked in ``tests/quantization/test_adaround.py``.

Letters: i inputs, o outputs.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sparsam.errors import Refused, Usage
from sparsam.quantization.affine import Form, dequantize, quantize, spread
from sparsam.quantization.calibrate import MSE, RangeMethod
from sparsam.quantization.gptq import Rounded, check_size, output_loss
from sparsam.quantization.uniform import fit

STEPS, RATE, WEIGHT = 400, 0.1, 1.0
"""Steps of Adam, its rate, and the regulariser's weight. Gradients are exact, so few steps do. Chosen by us on 384 correlated
inputs at 4 bits, 600 steps: weights from 0.02 to 1 take the loss from 0.51 to 0.29 of rounding's, a rate of 0.1 in place of
0.03 to 0.28; 300 steps end at 0.31."""

BETA = (20.0, 2.0)
WARM = 0.2
"""Share of the steps without the regulariser."""


def rectified(v: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """h(V): a sigmoid stretched beyond 0 and 1 and cut off there, so that it reaches both."""
    return (1.2 * torch.sigmoid(v) - 0.1).clamp(0, 1)


def regulariser(h: Float[Tensor, "*shape"], beta: float) -> Float[Tensor, ""]:
    """Sum of 1 - |2 h - 1|^beta: nothing where all is decided."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


def beta_at(done: float) -> float:
    """beta after a share of the steps; 20 while there is no regulariser."""
    high, low = BETA
    along = min(1.0, max(0.0, (done - WARM) / (1 - WARM)))
    return low + (high - low) * (1 + math.cos(math.pi * along)) / 2


def adaround(
    weight: Float[Tensor, "o i"],
    hessian: Float[Tensor, "_ _"],
    form: Form,
    *,
    method: RangeMethod = MSE(),  # noqa: B008  frozen
    steps: int = STEPS,
    rate: float = RATE,
    regularisation: float = WEIGHT,
    progress: Callable[[int, int], None] | None = None,
) -> Rounded:
    """A weight's integers, each one of the two nearest, so that its outputs lose little.

    Args:
        weight: of the product.
        hessian: of its inputs, by :class:`~sparsam.quantization.gptq.Hessian`; any factor of it gives the same.
        form: the grid's, any; symmetric by channel in plans.
        method: where grids end.
        steps, rate, regularisation: of Adam, and how much deciding is worth.
        progress: told of steps done, and of all.

    Raises:
        Refused: ``non-finite``, ``calibration-mismatch``. Usage: ``quantization-settings``.
    """
    if steps < 1 or not rate > 0 or not regularisation > 0:
        raise Usage(
            f"steps is at least 1, rate and regularisation above 0; got {steps!r}, {rate!r} and {regularisation!r}.",
            code="quantization-settings",
        )
    check_size(hessian, weight.shape[1])
    if not bool(torch.isfinite(hessian).all()):
        raise Refused(
            "the Hessian of the inputs holds NaN or infinity. Look for NaN in the weights, or calibrate in float32.",
            code="non-finite",
        )
    grid = fit(weight, form, method)
    nearest = quantize(weight, grid)
    if not weight.numel():
        return Rounded(nearest, grid)
    own = weight.detach().float()
    exact = own / spread(grid.scale, form, own)
    zero, low = spread(grid.zero.float(), form, own), torch.floor(exact)
    mean = hessian.diagonal().double().mean().clamp(min=1e-30)
    curved = (hessian.double() / mean).float()
    h = (exact - low).clamp(0.01, 0.99)
    v = torch.log((h + 0.1) / (1.1 - h))  # h(v) = h
    first, second = torch.zeros_like(v), torch.zeros_like(v)
    for step in range(steps):
        soft = 1.2 * torch.sigmoid(v) - 0.1
        h = soft.clamp(0, 1)
        q = low + zero + h
        held = q.clamp(form.lowest, form.highest)
        slope = ((held - zero - exact) @ curved) * 2
        slope[held != q] = 0.0
        done = step / steps
        if done >= WARM:
            beta, away = beta_at(done), 2 * h - 1
            slope -= regularisation * 2 * beta * torch.sign(away) * away.abs().pow(beta - 1)
        open_ = (soft > 0) & (soft < 1)
        slope *= torch.where(
            open_, (soft + 0.1) * (1.1 - soft) / 1.2, 0.0
        )  # dh / dv = 1.2 sigmoid (1 - sigmoid)
        first.lerp_(slope, 0.1)
        second.lerp_(slope.square(), 0.001)
        ahead = (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        v -= rate * ahead
        if progress is not None:
            progress(step + 1, steps)
    found = (low + zero + (rectified(v) >= 0.5)).clamp(form.lowest, form.highest).to(form.dtype)
    losses = [output_loss(own, dequantize(q, grid), hessian) for q in (found, nearest)]
    return Rounded(torch.where((losses[0] <= losses[1])[:, None], found, nearest), grid)
