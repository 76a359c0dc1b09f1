"""Integer products with torch's operators: the same integers as :mod:`sparsam.runtime.encoder`, where there is no compiler.

Inputs are rounded to their grids and multiplied as floating-point numbers, so nothing gets faster than in float32.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparsam.plan import Format
from sparsam.quantization.affine import INPUT, Grid, fake_quantize, fake_quantize_tokens
from sparsam.runtime.encoder import NativeProduct, machine
from sparsam.runtime.product import Product


class IntegerProduct:
    """x rounded to its grid, times weights that lie on theirs; arguments and results as of a product in float32."""

    def __init__(self, linears: Sequence[nn.Linear], format: Format, activation: str = "none") -> None:
        self.product = Product.of(linears, torch.float32, activation)
        self.grid: Grid | None = None
        if format.input == "tensor":
            assert format.scale is not None and format.zero is not None
            zero = torch.tensor(format.zero, dtype=torch.int32)
            self.grid = Grid(torch.tensor(format.scale, dtype=torch.float32), zero, INPUT)

    def __call__(self, x: Float[Tensor, "t i"], residual: Float[Tensor, "t o"] | None = None) -> Tensor:
        """Rows through the product, its activation, plus a residual."""
        on_grid = fake_quantize_tokens(x) if self.grid is None else fake_quantize(x, self.grid)
        return self.product(on_grid, residual)


def product_of(
    linears: Sequence[nn.Linear], format: Format | None, dtype: torch.dtype, activation: str = "none"
) -> Product | NativeProduct | IntegerProduct:
    """One product of a layer on this machine: in floating point, or in integers where a format is given."""
    if format is None:
        return Product.of(linears, dtype, activation)
    if machine() is not None:
        return NativeProduct(linears, format, activation)
    return IntegerProduct(linears, format, activation)
