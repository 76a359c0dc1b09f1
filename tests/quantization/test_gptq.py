"""GPTQ: nothing to make up for, nothing made up; otherwise nearer than rounding, whatever the batches, blocks and groups."""

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
    MinMax,
    dequantize,
    fit,
    gptq,
    output_loss,
    quantize,
    quantize_weight,
    weight_form,
)


def correlated(inputs: int, tokens: int = 600, seed: int = 0) -> Tensor:
    """Tokens whose inputs depend on each other and differ in size."""
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=draw) / inputs**0.5 + torch.eye(inputs)
    sizes = torch.logspace(-0.5, 0.5, inputs)
    return (torch.randn(tokens, inputs, generator=draw) * sizes) @ mixing + torch.randn(
        inputs, generator=draw
    )


def hessian_of(x: Tensor) -> Tensor:
    seen = Hessian(x.shape[1])
    seen.add(x)
    return seen.matrix()


def loss(weight: Tensor, found: Any, hessian: Tensor) -> float:
    return float(output_loss(weight, dequantize(*found), hessian).sum())


@pytest.mark.parametrize("group", [None, 16])
@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_diagonal_hessian_gives_rounding_to_nearest(bits: int, order: bool, group: int | None) -> None:
    """Inputs that do not depend on each other leave nothing to make up for: the very integers, whatever the order."""
    weight = torch.randn(6, 40)
    hessian = torch.diag(torch.rand(40, dtype=torch.float64) + 0.1)
    form = weight_form(bits, group)
    found = gptq(weight, hessian, form, order=order, block=8)
    grid = fit(weight, form, MSE())
    assert torch.equal(found.grid.scale, grid.scale) and torch.equal(found.q, quantize(weight, grid))


def by_definition(weight: Tensor, hessian: Tensor, bits: int) -> Tensor:
    """Input by input with the inverse of what is left of H: the optimal update, no Cholesky factor."""
    grid = fit(weight, weight_form(bits), MSE())
    wide = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    live, found = weight.double().clone(), torch.zeros(weight.shape, dtype=torch.int8)
    for j in range(weight.shape[1]):
        inverse = torch.linalg.inv(wide[j:, j:])
        q = quantize(live[:, j : j + 1].float(), grid)
        found[:, j] = q[:, 0]
        error = (live[:, j] - dequantize(q, grid)[:, 0].double()) / inverse[0, 0]
        live[:, j:] -= error[:, None] * inverse[0]
    return found


@pytest.mark.parametrize("block", [1, 5, 64])
@pytest.mark.parametrize("bits", [3, 4])
def test_it_is_the_optimal_update(bits: int, block: int) -> None:
    """The same integers as with the inverse worked out anew for every input, in blocks of any size."""
    weight, hessian = torch.randn(7, 23), hessian_of(correlated(23))
    assert torch.equal(
        gptq(weight, hessian, weight_form(bits), block=block).q, by_definition(weight, hessian, bits)
    )


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("group", [None, 16, 24])
@pytest.mark.parametrize("order", [False, True])
def test_it_beats_rounding_where_inputs_correlate(bits: int, group: int | None, order: bool) -> None:
    """The outputs' squared error is lower at any bits, by channel and by groups, that the blocks do not divide, too."""
    weight, x = torch.randn(24, 72), correlated(72)
    hessian = hessian_of(x)
    found = gptq(weight, hessian, weight_form(bits, group), order=order, block=20)
    nearest = quantize_weight(weight, bits, group=group)
    assert loss(weight, found, hessian) < 0.9 * loss(weight, nearest, hessian)
    # the loss is the distance of the outputs
    away = ((dequantize(*found) - weight).double() @ x.double().T).square().sum()
    assert loss(weight, found, hessian) == pytest.approx(2 * float(away), rel=1e-6)
    assert int(found.q.abs().max()) <= found.grid.form.highest


@pytest.mark.parametrize("group", [8, 24, 72])
def test_blocks_change_nothing(group: int) -> None:
    """Lazy updates are the same updates, also where a group reaches beyond its block."""
    weight, hessian = torch.randn(5, 72), hessian_of(correlated(72))
    form = weight_form(3, group)
    one, other = (gptq(weight, hessian, form, block=block) for block in (20, 1000))
    assert torch.equal(one.q, other.q)
    torch.testing.assert_close(one.grid.scale, other.grid.scale)


def test_order_helps_where_inputs_differ() -> None:
    """Large inputs first: what they lose can still be made up for."""
    weight, hessian = torch.randn(24, 96), hessian_of(correlated(96))
    plain, ordered = (gptq(weight, hessian, weight_form(3), order=order) for order in (False, True))
    assert loss(weight, ordered, hessian) < loss(weight, plain, hessian)


def test_a_hessian_merges_over_batches() -> None:
    """Any batches, in one observer or two that merge, sum to the same matrix; no memory of how many there were."""
    x = correlated(12, 300)
    whole = hessian_of(x)
    torch.testing.assert_close(whole, 2 * x.double().T @ x.double())
    for parts in (x.split(7), x.split(100)):
        seen = [Hessian(12), Hessian(12)]
        for at, part in enumerate(parts):
            seen[at % 2].add(part)
        both = seen[0].merge(seen[1])
        assert both.count == 300
        torch.testing.assert_close(both.matrix(), whole, rtol=1e-12, atol=1e-12)
    weight = torch.randn(4, 12)
    a, b = (gptq(weight, h, weight_form(4)) for h in (whole, 17.0 * whole))
    assert torch.equal(a.q, b.q)


def test_inputs_that_are_always_zero() -> None:
    """Their weights are rounded and move nothing; all inputs zero is rounding to nearest."""
    x = correlated(16)
    x[:, [3, 9]] = 0.0
    weight = torch.randn(4, 16)
    found = gptq(weight, hessian_of(x), weight_form(4))
    nearest = quantize(weight, found.grid)
    assert torch.equal(found.q[:, [3, 9]], nearest[:, [3, 9]]) and not torch.equal(found.q, nearest)
    assert torch.equal(gptq(weight, torch.zeros(16, 16), weight_form(4)).q, nearest)


def test_affine_grids_and_min_max() -> None:
    """Any form by channel: integers from 0, grids to the largest weight."""
    weight, hessian = torch.rand(5, 30), hessian_of(correlated(30))
    form = Form(4, symmetric=False, signed=False, axis=0)
    found = gptq(weight, hessian, form, method=MinMax())
    assert found.q.dtype is torch.uint8 and int(found.q.max()) <= 15
    grid = fit(weight, form)
    assert loss(weight, found, hessian) < loss(weight, (quantize(weight, grid), grid), hessian)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_empty_weights(shape: tuple[int, int]) -> None:
    """Nothing to round."""
    assert gptq(torch.zeros(shape), torch.zeros(shape[1], shape[1]), weight_form(4)).q.shape == shape


def test_what_gptq_refuses() -> None:
    """Other sizes, other forms, NaN, a Hessian without an inverse, settings out of range, nothing seen."""

    def code_of(call: Any, kind: type[SparsamError] = Refused) -> str:
        with pytest.raises(kind) as caught:
            call()
        return caught.value.code

    weight, hessian = torch.randn(3, 8), hessian_of(correlated(8))
    assert code_of(lambda: gptq(weight, hessian[:4, :4], weight_form(4))) == "calibration-mismatch"
    assert code_of(lambda: gptq(weight, hessian, Form(4)), Usage) == "quantization-form"
    assert code_of(lambda: gptq(weight, hessian, weight_form(4), damp=-1.0), Usage) == "quantization-settings"
    assert code_of(lambda: gptq(weight, hessian, weight_form(4), block=0), Usage) == "quantization-settings"
    assert code_of(lambda: gptq(weight * math.nan, hessian, weight_form(4))) == "non-finite"
    assert code_of(lambda: gptq(weight, hessian * math.nan, weight_form(4))) == "hessian"
    assert code_of(lambda: gptq(weight, torch.ones(8, 8), weight_form(4), damp=0.0)) == "hessian"
    assert code_of(lambda: Hessian(3).matrix()) == "calibration-empty"
    assert code_of(lambda: Hessian(3).add(torch.zeros(2, 4))) == "calibration-mismatch"
    assert code_of(lambda: Hessian(3).merge(Hessian(4))) == "calibration-mismatch"
    assert code_of(lambda: Hessian(2).add(torch.tensor([[1.0, math.inf]]))) == "non-finite"
