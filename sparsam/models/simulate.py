"""A product's input as an integer product reads it: rounded to 8 bits, and back in floating point.

With weights that lie on their grid a product in floating point then gives what the product in integers gives, up to float
rounding. Gradients pass straight through; where a fixed grid cuts values off they stop.
"""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from sparsam.plan import Format
from sparsam.quantization.affine import INPUT, Grid, fake_quantize, fake_quantize_tokens


def rounded(x: Float[Tensor, "t i"], form: Format) -> Float[Tensor, "t i"]:
    """``x`` on the grid of a format: each token's own, or the one that calibration gave."""
    return fake_quantize_tokens(x) if form.input == "token" else fake_quantize(x, grid_of(form))


@lru_cache(maxsize=1024)
def grid_of(form: Format) -> Grid:
    """The calibrated grid of a product's input."""
    assert form.scale is not None and form.zero is not None
    return Grid(torch.tensor(form.scale), torch.tensor(form.zero, dtype=torch.int32), INPUT)
