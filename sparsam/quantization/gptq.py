"""GPTQ: weights are rounded one input after the other, and those still to come make up for what was lost.

E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, *GPTQ: accurate post-training quantization for generative pre-trained
transformers*, ICLR 2023, arXiv:2210.17323.

Of a product y = W x, rounding W to W^ costs tr(E H E^T) with E = W^ - W and H = 2 sum x x^T over the calibration tokens.
Rounding input j leaves e_j = (w_j - q(w_j)) / U_jj, U the upper Cholesky factor of H^-1; subtracting e_j U_j: from the inputs
that follow makes the cost least for those rounded so far. In blocks: within a block at once, beyond it when the block is done.

- H is damped by a share of its mean diagonal.
- With ``order`` inputs go from the largest diagonal of H to the smallest ("act-order").
- A group's scales are those of its weights as they stand when its first input comes; in another order than the inputs' own
  they are those of the weights as they came, or groups would mix.

Our own choices: grids end where their squared error is least, unless another method is given; an input that is always zero
keeps its rounded weight. Checked in ``tests/quantization/test_gptq.py``.

Letters: t tokens, i inputs, o outputs.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from sparsam.errors import Refused, Usage
from sparsam.quantization.affine import Form, Grid, quantize, spread
from sparsam.quantization.calibrate import MSE, RangeMethod
from sparsam.quantization.uniform import fit

DAMP, BLOCK = 0.01, 128
"""1 % of the mean diagonal, and 128 inputs a block, as the paper has them."""


class Hessian:
    """H = 2 sum x x^T over tokens, in float64: memory i^2, however many there are; two of them merge into that of both."""

    def __init__(self, inputs: int) -> None:
        self.sums: Float64[Tensor, "i i"] = torch.zeros(inputs, inputs, dtype=torch.float64)
        self.count = 0

    def add(self, x: Float[Tensor, "t i"]) -> None:
        """Take in some tokens."""
        self._check(x.shape[1])
        if not bool(torch.isfinite(x).all()):
            raise Refused(
                "a batch to calibrate with holds NaN or infinity. Look for NaN in the weights, or calibrate in float32.",
                code="non-finite",
            )
        wide = x.detach().to("cpu", torch.float64)
        self.sums.addmm_(wide.T, wide)
        self.count += len(x)

    def merge(self, other: "Hessian") -> "Hessian":
        """What one would have summed of both."""
        self._check(len(other.sums))
        both = Hessian(len(self.sums))
        both.sums, both.count = self.sums + other.sums, self.count + other.count
        return both

    def matrix(self) -> Float64[Tensor, "i i"]:
        """H. Raises :class:`~sparsam.errors.Refused` (``calibration-empty``) while nothing was seen."""
        if not self.count:
            raise Refused(
                "nothing was calibrated: no batch held a token. Give samples.", code="calibration-empty"
            )
        return 2 * self.sums

    def _check(self, inputs: int) -> None:
        if inputs != len(self.sums):
            raise Refused(
                f"a batch has {inputs} inputs; this Hessian is of {len(self.sums)}. Keep one for each product.",
                code="calibration-mismatch",
            )


def check_size(hessian: Tensor, inputs: int) -> None:
    """Refuse a Hessian of another number of inputs: ``calibration-mismatch``."""
    if tuple(hessian.shape) != (inputs, inputs):
        raise Refused(
            f"a weight of {inputs} inputs has a Hessian of {inputs} x {inputs}; got {tuple(hessian.shape)}.",
            code="calibration-mismatch",
        )


class Rounded(NamedTuple):
    """A weight in integers, and its grid."""

    q: Integer[Tensor, "o i"]
    grid: Grid


def gptq(
    weight: Float[Tensor, "o i"],
    hessian: Float[Tensor, "_ _"],
    form: Form,
    *,
    method: RangeMethod = MSE(),  # noqa: B008  frozen
    damp: float = DAMP,
    block: int = BLOCK,
    order: bool = False,
) -> Rounded:
    """A weight's integers so that its outputs lose little; without correlations between inputs those of rounding.

    Args:
        weight: of the product.
        hessian: of its inputs, by :class:`Hessian`; any factor of it gives the same.
        form: by channel or group of axis 0, such as :func:`~sparsam.quantization.affine.weight_form` gives.
        method: where grids end.
        damp: share of the mean diagonal that is added to it.
        block: inputs after which the rest of the weight is brought up to date; changes nothing but time.
        order: take inputs with large diagonals first.

    Raises:
        Refused: ``non-finite``; ``calibration-mismatch`` for a Hessian of another size; ``hessian`` where it has no Cholesky
            factor.
        Usage: ``quantization-form`` for a form without a scale for each output; ``quantization-settings``.
    """
    if form.axis != 0:
        raise Usage(
            f"GPTQ rounds each output by itself: scales are by channel or group of axis 0; got {form}.",
            code="quantization-form",
        )
    if not damp >= 0 or block < 1:
        raise Usage(
            f"damp is 0 or more and block at least 1; got {damp!r} and {block!r}.",
            code="quantization-settings",
        )
    outputs, inputs = weight.shape
    check_size(hessian, inputs)
    grid = fit(weight, form, method)  # refuses what is not finite
    if not inputs or not outputs:
        return Rounded(quantize(weight, grid), grid)
    places = _places(hessian, order)
    factor = inverse_factor(hessian[places][:, places], damp)
    live = (
        weight.detach().double()[:, places].clone()
    )  # weights that make up for others, in the order they are taken
    scale, zero = (
        spread(values, form, weight).expand(outputs, inputs)[:, places].clone()
        for values in (grid.scale, grid.zero.float())
    )
    scales, zeros = grid.scale.clone(), grid.zero.clone()
    q = torch.zeros(outputs, inputs, dtype=form.dtype)
    for first in range(0, inputs, block):
        last = min(first + block, inputs)
        errors = torch.zeros(outputs, last - first, dtype=torch.float64)
        for j in range(first, last):
            if form.group is not None and not order and j % form.group == 0:
                _regroup(live, errors, factor, j, first, last, form, method, scales, zeros, scale, zero)
            nearest = (
                torch.round(live[:, j].float() * scale[:, j].reciprocal()) + zero[:, j]
            )  # as quantize does
            held = nearest.clamp_(form.lowest, form.highest)
            q[:, j] = held.to(form.dtype)
            lost = live[:, j] - ((held - zero[:, j]) * scale[:, j]).double()
            errors[:, j - first] = lost / factor[j, j]
            live[:, j:last] -= errors[:, j - first, None] * factor[j, j:last]
        live[:, last:] -= errors @ factor[first:last, last:]
    back = torch.empty_like(places)
    back[places] = torch.arange(inputs)
    return Rounded(q[:, back], Grid(scales, zeros, form))


def _regroup(
    live: Tensor, errors: Tensor, factor: Tensor, j: int, first: int, last: int, form: Form, method: RangeMethod,
    scales: Tensor, zeros: Tensor, scale: Tensor, zero: Tensor,
) -> None:  # fmt: skip
    """New scales for the group that begins at ``j``, of its weights as they stand, those beyond the block included."""
    group = form.group
    assert group is not None
    end = min(j + group, live.shape[1])
    now = live[:, j:end].clone()
    if end > last:  # lazy: what this block has lost so far is not yet in them
        now[:, last - j :] -= errors[:, : j - first] @ factor[first:j, last:end]
    found = fit(now.float(), replace(form, group=None), method)
    scales[:, j // group], zeros[:, j // group] = found.scale, found.zero
    scale[:, j:end], zero[:, j:end] = found.scale[:, None], found.zero[:, None].float()


def _places(hessian: Tensor, order: bool) -> Int64[Tensor, " i"]:
    """The inputs in the order in which they are rounded."""
    if not order:
        return torch.arange(len(hessian))
    return torch.argsort(hessian.diagonal(), descending=True, stable=True)


def inverse_factor(hessian: Float[Tensor, "i i"], damp: float = DAMP) -> Float64[Tensor, "i i"]:
    """The upper Cholesky factor of the damped Hessian's inverse.

    Raises:
        Refused: ``hessian`` where there is none: NaN, or no damping where inputs depend on each other.
    """
    wide = hessian.double().clone()
    mean = float(wide.diagonal().mean())
    wide.diagonal().add_(damp * mean if mean > 0 else 1.0)
    lower, failed = torch.linalg.cholesky_ex(wide)
    if int(failed) or not bool(torch.isfinite(lower).all()):
        raise Refused(
            f"the Hessian of the inputs has no inverse with damping {damp:g}: they depend on each other, or hold NaN. "
            "Calibrate with more samples, or raise the damping.",
            code="hessian",
        )
    upper: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    return upper


def output_loss(
    weight: Float[Tensor, "o i"], rounded: Float[Tensor, "o i"], hessian: Float[Tensor, "i i"]
) -> Float64[Tensor, " o"]:
    """Twice the squared distance of each output over the calibration tokens, diag(E H E^T)."""
    error = rounded.detach().double() - weight.detach().double()
    return ((error @ hessian.double()) * error).sum(1)
