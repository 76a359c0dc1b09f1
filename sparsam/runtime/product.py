"""Linear modules as this machine multiplies fastest: weights laid out once, bias and activation in the same pass.

On a CPU torch's own ``linear`` calls MKL, which on AMD processors leaves AVX-512 unused; oneDNN, which torch carries too, runs
the same product in half the time (docs/log.md). Its operators take weights laid out for it beforehand. Where this build
of torch has none, the plain product is taken: the same numbers up to rounding.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

FUSED = {
    "none": ("none", None),
    "relu": ("relu", None),
    "gelu": ("gelu", "none"),
    "gelu-tanh": ("gelu", "tanh"),
}
"""Activations that oneDNN applies itself: its name and variant of each."""


@lru_cache
def prepacks(dtype: torch.dtype) -> bool:
    """Whether this build of torch and this processor multiply prepacked weights of this type."""
    available: bool = torch.backends.mkldnn.is_available()
    if not available or dtype not in (torch.float32, torch.bfloat16):
        return False
    try:
        weight = torch.ones(2, 4, dtype=dtype)
        with torch.inference_mode():
            out = _pointwise(torch.ones(3, 4, dtype=dtype), _reordered(weight), None, "gelu")
    except (AttributeError, RuntimeError):
        return False
    return bool(torch.allclose(out.float(), F.gelu(torch.tensor(4.0)), atol=0.05))


def _reordered(weight: Tensor) -> Tensor:
    made: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return made


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    name, variant = FUSED[activation]
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], variant)
    return out


def activation_name(module: Any) -> str | None:
    """The name of an activation module that can be fused, None for any other."""
    name = type(module).__name__
    if isinstance(module, nn.GELU) or name == "GELUTanh":
        tanh = name == "GELUTanh" or getattr(module, "approximate", "none") == "tanh"
        return "gelu-tanh" if tanh else "gelu"
    return {"GELUActivation": "gelu", "NewGELUActivation": "gelu-tanh", "ReLU": "relu"}.get(name)


class Product:
    """x @ weight.T + bias, then an activation or plus a residual. Holds its own copy of the weights, for inference.

    Args:
        weight: (outputs, inputs). No inputs at all is allowed: then the bias alone is given.
        bias: (outputs,) or None.
        dtype: float32 or bfloat16; of inputs and outputs.
        activation: a key of :data:`FUSED`.
        prepacked: use oneDNN's operators; by default wherever they are.
    """

    def __init__(
        self,
        weight: Float[Tensor, "o i"],
        bias: Float[Tensor, " o"] | None,
        dtype: torch.dtype,
        activation: str = "none",
        prepacked: bool | None = None,
    ) -> None:
        if activation not in FUSED:
            raise ValueError(f"activation is one of {', '.join(FUSED)}; got {activation!r}.")
        self.outputs, self.inputs = weight.shape
        self.activation = activation
        on_cpu = weight.device.type == "cpu" and self.inputs > 0 and self.outputs > 0
        self.prepacked = on_cpu and (prepacks(dtype) if prepacked is None else prepacked)
        # oneDNN's operator takes no gradient, and a weight laid out for it is opaque: it must not alias a parameter.
        own = weight.detach().to(dtype).clone()
        self.bias = None if bias is None else bias.detach().to(dtype).clone()
        self.weight = _reordered(own) if self.prepacked else own

    @classmethod
    def of(cls, linears: Sequence[nn.Linear], dtype: torch.dtype, activation: str = "none") -> "Product":
        """Several linear modules of one input as one product, their outputs side by side."""
        weights: list[Tensor] = [module.weight for module in linears]
        weight = torch.cat(weights)
        biases: list[Tensor] = [
            torch.zeros(module.weight.shape[0]) if module.bias is None else module.bias for module in linears
        ]
        bias = None if all(module.bias is None for module in linears) else torch.cat(biases)
        return cls(weight, bias, dtype, activation)

    def __call__(self, x: Float[Tensor, "t i"], residual: Float[Tensor, "t o"] | None = None) -> Tensor:
        if self.inputs == 0:
            out = x.new_zeros(x.shape[0], self.outputs)
            out = out if self.bias is None else out + self.bias
        elif not self.prepacked:
            out = F.linear(x, self.weight, self.bias)
        elif residual is not None and self.activation == "none":
            summed: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
                x, residual, self.weight, self.bias, "add"
            )
            return summed
        else:
            out = _pointwise(x, self.weight, self.bias, self.activation)
            return out if residual is None else out + residual
        if self.activation == "relu":
            out = F.relu(out)
        elif self.activation != "none":
            out = F.gelu(out, approximate="tanh" if self.activation == "gelu-tanh" else "none")
        return out if residual is None else out + residual
