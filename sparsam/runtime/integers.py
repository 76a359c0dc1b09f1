"""Integer products with torch's operators: the same integers as :mod:`sparsam.runtime.encoder`, where there is no compiler.

Inputs are rounded to their grids and multiplied as floating-point numbers, so nothing gets faster than in float32.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparsam.models.simulate import rounded
from sparsam.plan import Format
from sparsam.runtime.encoder import NativeProduct, machine
from sparsam.runtime.product import Product


class IntegerProduct:
    """x rounded to its grid, times weights that lie on theirs; arguments and results as of a product in float32."""

    def __init__(self, linears: Sequence[nn.Linear], form: Format, activation: str = "none") -> None:
        self.product, self.form = Product.of(linears, torch.float32, activation), form

    def __call__(self, x: Float[Tensor, "t i"], residual: Float[Tensor, "t o"] | None = None) -> Tensor:
        """Rows through the product, its activation, plus a residual."""
        return self.product(rounded(x, self.form), residual)


def product_of(
    linears: Sequence[nn.Linear], form: Format | None, dtype: torch.dtype, activation: str = "none"
) -> Product | NativeProduct | IntegerProduct:
    """One product of a layer on this machine: in floating point, or in integers where a format says so."""
    if form is None:
        return Product.of(linears, dtype, activation)
    if machine() is not None:
        return NativeProduct(linears, form, activation)
    return IntegerProduct(linears, form, activation)
