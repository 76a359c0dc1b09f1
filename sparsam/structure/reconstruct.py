"""Making up for what was removed: the outputs of a half reproduced by least squares over the units that are left.

All that is needed of the calibration tokens are sums of products: :class:`Products` adds them up batch by batch, in float64.

Letters: t tokens, a inputs of the output product (kept heads times their width, or kept filters), d width of the model, u
units.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sparsam.errors import Refused

RIDGE = 1e-3
"""Share of the Gram matrix's mean diagonal that is added to it. From the card of the method; moves nothing measurable down to
a tenth of it."""

LARGEST = 10.0
"""A unit is scaled by at most this, as in the released code; beyond it the system was singular, not the unit important."""


@dataclass
class Products:
    """Sums over tokens: x^T x, x^T r, x, r, r^2, and how many. x are inputs (t, a), r what the product is to give (t, d)."""

    gram: Float[Tensor, "a a"]
    cross: Float[Tensor, "a d"]
    inputs: Float[Tensor, " a"]
    targets: Float[Tensor, " d"]
    squares: float = 0.0
    count: int = 0

    @staticmethod
    def zeros(a: int, d: int) -> "Products":
        """Nothing added yet."""
        gram, cross, inputs, targets = (
            torch.zeros(*shape, dtype=torch.float64) for shape in ((a, a), (a, d), (a,), (d,))
        )
        return Products(gram, cross, inputs, targets)

    def add(self, x: Float[Tensor, "t a"], r: Float[Tensor, "t d"]) -> None:
        """Add a batch; its products are made in float32, whatever autocasting is on."""
        x, r = x.float(), r.float()
        with torch.autocast(x.device.type, enabled=False):
            self.gram += x.T @ x
            self.cross += x.T @ r
        self.inputs += x.sum(0, dtype=torch.float64)
        self.targets += r.sum(0, dtype=torch.float64)
        self.squares += float(r.square().sum(dtype=torch.float64))
        self.count += x.shape[0]

    def error(self, weight: Float[Tensor, "a d"], bias: Float[Tensor, " d"]) -> float:
        """Mean squared distance of ``x @ weight + bias`` from what was wanted, a token."""
        w, c = weight.double(), bias.double()
        fitted = (w * (self.gram @ w)).sum() + 2 * (self.inputs @ w) @ c + self.count * c @ c
        crossed = (w * self.cross).sum() + self.targets @ c
        return max(0.0, float(fitted - 2 * crossed + self.squares)) / max(self.count, 1)


@dataclass(frozen=True)
class Solved:
    """The output product after reconstruction: its weights (a, d) and bias (d,), and the error before and after."""

    weight: Float[Tensor, "a d"]
    bias: Float[Tensor, " d"]
    before: float
    after: float
    scales: NDArray[Any] | None = None


@dataclass(frozen=True)
class System:
    """One half's problem: what its units gave, what its output was to be, and its output product as it is."""

    products: Products
    weight: Float[Tensor, "a d"]
    bias: Float[Tensor, " d"]
    units: int
    has_bias: bool = True
    """Whether the output product has a bias that may change."""

    def full(self, ridge: float = RIDGE) -> Solved:
        """New weights for all that is left, and a new bias: the least squares of all, pulled to the weights as they are.

        min |x w + c - r|^2 + ridge m |w - w0|^2 over w and c, m the mean of the centred Gram matrix' diagonal.
        """
        p, w0 = self.products, self.weight.double()
        self._check()
        gram, cross = _centred(p) if self.has_bias else (p.gram, p.cross)
        lam = ridge * float(gram.diagonal().mean()) if gram.numel() else 0.0
        if not p.count:
            return self._kept()
        weight = w0 + _solve(gram, cross - gram @ w0, lam) if lam > 0 else w0
        bias = (p.targets - p.inputs @ weight) / p.count if self.has_bias else self.bias.double()
        return self._better(weight, bias)

    def scaled(self, ridge: float = RIDGE) -> Solved:
        """One scalar a unit, folded into the weights; the bias stays (Kwon et al. 2022, section 3.4).

        The damped least squares of s in sum_u s_u x_u w_u + c = r, pulled to one.
        """
        self._check()
        normal, right = self._normal()
        lam = ridge * float(normal.diagonal().mean()) if normal.numel() else 0.0
        if not (lam > 0 and self.products.count):
            return self._kept()
        moved = _solve(normal, (right - normal.sum(1))[:, None], lam)[:, 0]
        return self._folded((1 + moved).clamp(-LARGEST, LARGEST).numpy())

    def released(self) -> Solved | None:
        """As the authors' code solves it: LSMR on the normal equations with damping 1; None where it gives up.

        It gives up where LSMR does not converge or a scale exceeds :data:`LARGEST`, and then tunes no later half either. For
        attention it solves an intercept beside the scales and throws it away.
        """
        from scipy.sparse.linalg import lsmr

        normal, right = self._normal()
        head = self.units < self.weight.shape[0]
        if head:  # the intercept's column is one constant added to all outputs of all tokens
            p, w = self.products, self.weight.double()
            column = _by_unit(((p.inputs[:, None] * w).sum(1))[:, None], self.units)
            ones = torch.tensor([[float(p.count * w.shape[1])]], dtype=torch.float64)
            normal = torch.cat([torch.cat([normal, column], 1), torch.cat([column.T, ones], 1)])
            right = torch.cat([right, (p.targets.sum() - p.count * self.bias.double().sum())[None]])
        start = torch.ones(len(right), dtype=torch.float64)
        found, status, *_ = lsmr(normal.numpy(), (right - normal @ start).numpy(), damp=1.0)
        scales = start.numpy() + found
        scales = scales[:-1] if head else scales
        if status >= 3 or not np.isfinite(scales).all() or (np.abs(scales) > LARGEST).any():
            return None
        return self._folded(scales)

    def _check(self) -> None:
        p = self.products
        if not all(bool(torch.isfinite(x).all()) for x in (p.gram, p.cross, p.inputs, p.targets)):
            raise Refused(
                "the calibration activations are not numbers, or too large to be squared. Look for NaN in the weights.",
                code="non-finite",
            )

    def _normal(self) -> tuple[Tensor, Tensor]:
        """The normal equations of one scalar a unit: (w w^T) * gram and rowsum(w * cross), summed over each unit's inputs."""
        p, w = self.products, self.weight.double()
        cross = p.cross - p.inputs[:, None] * self.bias.double()
        right = _by_unit((w * cross).sum(1, keepdim=True), self.units)[:, 0]
        normal = _by_unit(_by_unit((w @ w.T) * p.gram, self.units).T, self.units)
        return normal, right

    def _folded(self, scales: NDArray[Any]) -> Solved:
        each = self.weight.shape[0] // max(self.units, 1)
        factor = torch.from_numpy(scales).repeat_interleave(each)
        return self._better(self.weight.double() * factor[:, None], self.bias.double(), scales)

    def _kept(self) -> Solved:
        now = self.products.error(self.weight, self.bias)
        return Solved(self.weight, self.bias, now, now)

    def _better(self, weight: Tensor, bias: Tensor, scales: NDArray[Any] | None = None) -> Solved:
        """The solution, unless rounding made it worse than what was there."""
        before, after = (self.products.error(w, c) for w, c in ((self.weight, self.bias), (weight, bias)))
        if not after <= before:
            return self._kept()
        return Solved(weight, bias, before, after, scales)


def _centred(p: Products) -> tuple[Tensor, Tensor]:
    """Gram matrix and cross products about the means: what is left of them when the bias is free."""
    count = max(p.count, 1)
    return p.gram - torch.outer(p.inputs, p.inputs) / count, p.cross - torch.outer(
        p.inputs, p.targets
    ) / count


def _by_unit(x: Float[Tensor, "a m"], units: int) -> Float[Tensor, "u m"]:
    """Rows summed unit by unit."""
    return x.reshape(units, -1, x.shape[1]).sum(1) if units else x


def _solve(gram: Tensor, right: Tensor, lam: float) -> Tensor:
    """The damped system; a Gram matrix of few tokens is singular up to rounding, and gets more damping until it is not."""
    identity = torch.eye(len(gram), dtype=gram.dtype)
    while True:
        factor, failed = torch.linalg.cholesky_ex(gram + lam * identity)
        if not int(failed):
            return torch.cholesky_solve(right, factor)
        lam *= 10
