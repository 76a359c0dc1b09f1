"""PWLQ applied to a lifted model: weights in pieces, biases that make up for them, the plan that runs them in int8.

The int8 form is saved, loaded and frozen as any model in 8-bit integers is; the free form is a simulation, in floating point.
The mathematics is in :mod:`sparsam.quantization.pwlq`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sparsam.compress.calibration import Seen, products_of
from sparsam.models import dense_plan, lift, plan_of, stack_of
from sparsam.models.encoder import call
from sparsam.models.formats import refuse_integers, words_of
from sparsam.models.integers import put
from sparsam.plan import Format, Plan
from sparsam.quantization import (
    INPUT,
    MSE,
    RangeMethod,
    corrected_bias,
    fake_quantize_tokens,
    fit,
    grid_between,
    quantize,
    weight_form,
)
from sparsam.quantization.pwlq import Form, Pwlq, quantize_pwlq


@dataclass(frozen=True)
class InPieces:
    """What was done to a model.

    Args:
        layers: the weights of its products, by the names of their modules.
        plan: what the model runs by now; of the free form as before.
    """

    layers: Mapping[str, Pwlq]
    plan: Plan

    @property
    def stored_bits(self) -> int:
        """Of all products' weights, codes, steps and ratios."""
        return sum(one.stored_bits for one in self.layers.values())

    def rows(self) -> list[dict[str, Any]]:
        """A line a module: signal to noise in dB, of uniform grids, too: of equal storage (clipped), and of ``bits`` bits."""
        found = []
        for name, one in self.layers.items():
            power = float(one.dequantized().double().square().mean())
            found.append(
                {
                    "module": name,
                    "bits": one.grid.bits,
                    "stored": one.grid.width,
                    "SQNR": _decibel(power, one.errors),
                    "uniform, equal storage": _decibel(power, one.uniform_errors),
                    "uniform, equal bits": _decibel(power, one.coarse_errors),
                    "mean squared error": float(one.errors.mean()),
                }
            )
        return found


def _decibel(power: float, errors: Tensor) -> float:
    noise = float(errors.mean()) if errors.numel() else 0.0
    return float("inf") if noise == 0 else float(10 * torch.log10(torch.tensor(power / noise)))


@torch.no_grad()
def apply_pwlq(
    model: Any,
    seen: Mapping[tuple[int, str], Seen],
    bits: int = 4,
    *,
    breakpoint: str = "search",
    breakpoints: int = 1,
    form: Form = "int8",
    correct: bool = True,
    inputs: Literal["token", "tensor"] = "token",
    method: RangeMethod = MSE(),  # noqa: B008  frozen
    words: int | None = None,
    packed: bool = True,
) -> InPieces:
    """Put a lifted model's products in pieces, in place.

    Args:
        model: lifted, in floating point; its rule, heads and filters stay.
        seen: what its products read (:func:`~sparsam.compress.calibration.watched`).
        bits, breakpoint, breakpoints, form: as of :func:`~sparsam.quantization.pwlq.quantize_pwlq`.
        correct: move what the weights change in the mean outputs into the biases.
        inputs: each token on a grid of its own, or all on the calibrated one (int8 form).
        method: the range method that ``seen`` was made with.
        words: bits of the words' embeddings, uniform (int8 form); None leaves them.
        packed: files hold b + 1 bits a weight (int8 form); otherwise a byte.

    Raises:
        Refused: ``quantized`` for a model in integers, ``non-finite``.
        Usage: ``pwlq-settings``.
    """
    stack = stack_of(model)
    plan = plan_of(model) or dense_plan(model)
    refuse_integers(plan, "putting them in pieces")
    names = {id(module): name for name, module in model.named_modules()}
    made: dict[str, Pwlq] = {}
    formats: list[dict[Any, Format]] = [{} for _ in stack.left]
    for index, product, modules in products_of(stack):
        one = seen[index, product]
        for role, module in modules.items():
            found = quantize_pwlq(
                module.weight, bits, breakpoint=breakpoint, breakpoints=breakpoints, form=form
            )
            made[names[id(module)]] = found
            back = found.dequantized().to(module.weight.device)
            if correct and module.bias is not None:
                mean = one.means[role].mean().to(module.weight.device)
                module.bias.copy_(corrected_bias(module.weight, back, module.bias, mean))
            if form == "int8":
                put(module, found.integers(), found.scales)
            else:
                module.weight.copy_(back)
        grid = grid_between(*method.bounds(one.range, INPUT), INPUT)
        formats[index][product] = Format(
            8, inputs, float(grid.scale), int(grid.zero), bits if packed and form == "int8" else None
        )
    if form == "free":
        return InPieces(made, plan)
    table = words_of(model) if words is not None else None
    if table is not None and words is not None:
        own = fit(table.weight, weight_form(words))
        put(table, quantize(table.weight, own), own.scale)
    layers = tuple(replace(left, formats=one) for left, one in zip(plan.layers, formats, strict=True))
    plan = replace(plan, layers=layers, embeddings=None if table is None else words)
    lift(model, plan)
    return InPieces(made, plan)


def rounded_inputs(module: nn.Module, x: Float[Tensor, "t i"]) -> Float[Tensor, "t o"]:
    """The ``linear`` seam that rounds every input, each token on a grid of 8 bits: what the free form is looked at with."""
    if not isinstance(module, nn.Linear):
        return call(module, x)
    return F.linear(fake_quantize_tokens(x), module.weight, module.bias)
