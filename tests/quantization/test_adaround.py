"""AdaRound: the pieces by hand, always one of the two nearest, never worse than rounding, and near the best there is."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsam.errors import Refused, SparsamError, Usage
from sparsam.quantization import (
    MSE,
    Form,
    Hessian,
    adaround,
    dequantize,
    fit,
    output_loss,
    quantize,
    weight_form,
)
from sparsam.quantization.adaround import beta_at, rectified, regulariser


def hessian_of(inputs: int, tokens: int = 400) -> Tensor:
    """Of tokens whose inputs depend on each other."""
    mixing = torch.randn(inputs, inputs) / inputs**0.5 + torch.eye(inputs)
    seen = Hessian(inputs)
    seen.add(torch.randn(tokens, inputs) @ mixing + torch.randn(inputs))
    return seen.matrix()


def test_pieces_by_hand() -> None:
    """h(0) = 1/2, h reaches 0 and 1; nothing is paid where all is decided; beta goes from 20 to 2 after a fifth."""
    v = torch.tensor([0.0, math.log(3.0), -10.0, 10.0])
    # sigmoid(log 3) = 3/4: 1.2 * 0.75 - 0.1 = 0.8
    torch.testing.assert_close(rectified(v), torch.tensor([0.5, 0.8, 0.0, 1.0]))
    assert float(regulariser(torch.tensor([0.0, 1.0]), 2.0)) == 0.0
    # 1 - 0 and 1 - 0.6^2
    assert float(regulariser(torch.tensor([0.5, 0.8]), 2.0)) == pytest.approx(1.64)
    assert [beta_at(done) for done in (0.0, 0.2, 0.6, 1.0)] == pytest.approx([20.0, 20.0, 11.0, 2.0])


def test_one_of_the_two_nearest_and_never_worse() -> None:
    """Each integer is the floor or the one above (cut off at the ends); each output loses no more than by rounding."""
    weight, hessian = torch.randn(12, 32), hessian_of(32)
    for bits in (2, 3, 4):
        found = adaround(weight, hessian, weight_form(bits), steps=200)
        grid = fit(weight, weight_form(bits), MSE())
        assert torch.equal(found.grid.scale, grid.scale)
        low = torch.floor(weight / grid.scale[:, None]).clamp(-grid.form.highest, grid.form.highest)
        up = (low + 1).clamp(max=grid.form.highest)
        assert bool(((found.q == low) | (found.q == up)).all())
        ours, nearest = (
            output_loss(weight, dequantize(q, grid), hessian) for q in (found.q, quantize(weight, grid))
        )
        assert bool((ours <= nearest).all()) and float(ours.sum()) < 0.75 * float(nearest.sum())


def test_near_the_best_of_all_choices() -> None:
    """Of the 2^10 ways to round ten inputs it finds one whose loss is nearer to the least than rounding's by far."""
    weight, hessian = torch.randn(4, 10), hessian_of(10)
    form = weight_form(3)
    grid = fit(weight, form, MSE())
    low = torch.floor(weight / grid.scale[:, None])
    choices = torch.tensor(list(itertools.product((0.0, 1.0), repeat=10)))
    least = []
    for row in range(4):
        q = (low[row] + choices).clamp(form.lowest, form.highest)
        error = (q * grid.scale[row] - weight[row]).double()
        least.append(float(((error @ hessian) * error).sum(1).min()))
    found = adaround(weight, hessian, form, steps=400)
    ours, nearest = (
        float(output_loss(weight, dequantize(q, grid), hessian).sum())
        for q in (found.q, quantize(weight, grid))
    )
    best = sum(least)
    assert best <= ours <= best + 0.25 * (nearest - best)


def test_without_correlations_it_is_rounding() -> None:
    """A diagonal Hessian has its minimum at the nearest integers."""
    weight = torch.randn(6, 20)
    found = adaround(weight, torch.diag(torch.rand(20, dtype=torch.float64) + 0.5), weight_form(4), steps=200)
    assert torch.equal(found.q, quantize(weight, found.grid))


@pytest.mark.parametrize(
    "form", [Form(4, symmetric=False, signed=False, axis=0), Form(3, axis=0, group=8), Form(4)]
)
def test_any_form(form: Form) -> None:
    """Affine, by groups, one grid for all: within the bounds, and better than rounding."""
    weight, hessian = torch.randn(6, 20) + 0.5, hessian_of(20)
    found = adaround(weight, hessian, form, steps=150)
    assert form.lowest <= int(found.q.min()) and int(found.q.max()) <= form.highest
    nearest = dequantize(quantize(weight, found.grid), found.grid)
    ours = output_loss(weight, dequantize(*found), hessian).sum()
    assert float(ours) < float(output_loss(weight, nearest, hessian).sum())


def test_it_repeats() -> None:
    """Nothing is drawn: the same integers every time, and any factor of the Hessian gives them."""
    weight, hessian = torch.randn(5, 16), hessian_of(16)
    told: list[int] = []
    first = adaround(
        weight, hessian, weight_form(4), steps=50, progress=lambda done, total: told.append(done)
    )
    assert torch.equal(first.q, adaround(weight, 8 * hessian, weight_form(4), steps=50).q)
    assert told == list(range(1, 51))
    assert adaround(torch.zeros(0, 4), torch.zeros(4, 4), weight_form(4)).q.shape == (0, 4)


def test_what_adaround_refuses() -> None:
    """Settings out of range, another Hessian's size, NaN."""

    def code_of(call: Any, kind: type[SparsamError] = Refused) -> str:
        with pytest.raises(kind) as caught:
            call()
        return caught.value.code

    weight, hessian = torch.randn(3, 8), hessian_of(8)
    for wrong in ({"steps": 0}, {"rate": 0.0}, {"regularisation": -1.0}):
        call = lambda wrong=wrong: adaround(weight, hessian, weight_form(4), **wrong)  # noqa: E731
        assert code_of(call, Usage) == "quantization-settings"
    assert code_of(lambda: adaround(weight, hessian[:2, :2], weight_form(4))) == "calibration-mismatch"
    assert code_of(lambda: adaround(weight, hessian * math.nan, weight_form(4))) == "non-finite"
    assert code_of(lambda: adaround(weight * math.inf, hessian, weight_form(4))) == "non-finite"
