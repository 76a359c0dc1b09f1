"""Weights in integers: every kind of grid by every method, biases corrected, and functions that equalisation leaves alone."""

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsam.errors import Refused, SparsamError, Usage
from sparsam.models.integers import integers_of, put, scales_of
from sparsam.quantization import (
    KL,
    MSE,
    Extremes,
    Form,
    Means,
    MinMax,
    MovingAverage,
    Percentile,
    RangeMethod,
    bias_corrected_by_outputs,
    corrected_bias,
    dequantize,
    divided,
    equalised,
    expected_input,
    fake_quantize,
    fake_quantize_tokens,
    fit,
    quantize_weight,
    smoothed,
    smoothing,
)


def refused(call: Any, code: str, kind: type[SparsamError] = Refused) -> str:
    """The text of the error that ``call`` must raise."""
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.code == code
    return str(caught.value)


def squared(x: Tensor, y: Tensor) -> float:
    return float((x.double() - y.double()).square().sum())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("axis", "group"), [(None, None), (0, None), (0, 32)], ids=["tensor", "channel", "group"]
)
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("method", [MinMax(), Percentile(90.0), MSE(), KL()], ids=lambda m: type(m).__name__)
def test_grids_of_every_kind_worked_out_as_it_runs(
    symmetric: bool, axis: int | None, group: int | None, bits: int, method: RangeMethod
) -> None:
    """Every combination gives the grid that was asked for, and cuts a tail where its method says so; KL by group is refused."""
    form = Form(bits, symmetric, axis=axis, group=group)
    x = torch.distributions.StudentT(2.0).sample((2, 300))
    if group and isinstance(method, KL):
        assert "too few" in refused(lambda: fit(x, form, method), "quantization-method", Usage)
        return
    grid, full = fit(x, form, method), fit(x, form)
    assert grid.form == form
    assert grid.scale.shape == {None: (), 0: (2,) if group is None else (2, 10)}[axis]
    if isinstance(method, MinMax):
        assert torch.equal(grid.scale, full.scale)
        return
    assert bool((grid.scale <= full.scale).all())
    if isinstance(method, MSE):
        assert bits > 4 or bool((grid.scale < full.scale).any())
        assert squared(x, fake_quantize(x, grid)) <= squared(x, fake_quantize(x, full))
    else:
        assert bool((grid.scale < full.scale).any())


def test_methods_that_fit_no_tensor() -> None:
    """A moving average needs samples in an order; a stranger is not taken for min-max."""
    x = torch.randn(3, 4)
    assert "samples in their order" in refused(
        lambda: fit(x, Form(), MovingAverage()), "quantization-method", Usage
    )

    class Mine:
        def start(self, form: Form) -> Any: ...

        def bounds(self, seen: Any, form: Form) -> Any: ...

    assert "Mine object" in refused(lambda: fit(x, Form(), Mine()), "quantization-method", Usage)


@pytest.mark.parametrize("bits", range(2, 9))
def test_integers_go_into_a_module_and_come_back(bits: int) -> None:
    """Within their symmetric bounds, one scale an output; the module's weight is the grid's, and its integers these."""
    linear = nn.Linear(48, 10)
    linear.weight.data[3] = 0.0
    q, grid = quantize_weight(linear.weight, bits)
    top = 2 ** (bits - 1) - 1
    assert q.dtype is torch.int8 and int(q.abs().max()) <= top
    assert grid.scale.shape == (10,) and not grid.zero.any() and not q[3].any()
    put(linear, q, grid.scale)
    assert torch.equal(linear.weight, dequantize(q, grid))
    assert torch.equal(integers_of(linear), q)
    assert torch.equal(scales_of(linear), grid.scale)  # type: ignore[arg-type]


def test_finer_is_nearer() -> None:
    """The squared error falls from min-max to MSE, from channels to groups, and with each bit."""
    weight = torch.distributions.StudentT(4.0).sample((16, 96)) * torch.logspace(-1, 1, 16)[:, None]

    def error(bits: int, **how: Any) -> float:
        return squared(weight, dequantize(*quantize_weight(weight, bits, **how)))

    assert error(4) < error(4, method=MinMax())
    assert error(4, group=16) < error(4, group=48) < error(4)
    errors = [error(bits) for bits in range(2, 9)]
    assert all(a > 2 * b for a, b in pairwise(errors[1:]))


@pytest.mark.parametrize("bits", [6, 7, 8])
def test_a_full_scale_sine(bits: int) -> None:
    """Signal 1/2, noise s^2 / 12: 10 log10(6 / s^2) decibels, which is 6.02 bits + 1.76 where the step s is 2 / 2^bits."""
    x = torch.sin(torch.arange(200_000) * 0.7310585)
    for form in (Form(bits), Form(bits, symmetric=False)):
        grid = fit(x, form)
        found = 10 * torch.log10(x.square().sum() / (fake_quantize(x, grid) - x).square().sum())
        assert float(found) == pytest.approx(10 * float(torch.log10(6 / grid.scale.square())), abs=0.4)
        assert float(found) == pytest.approx(6.02 * bits + 1.76, abs=0.6)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_corrected_biases_restore_the_mean(bits: int, with_bias: bool) -> None:
    """Mean outputs to 1e-4: from the mean inputs where weights alone are rounded, from the outputs where inputs are, too."""
    x, weight = torch.randn(500, 32) + torch.linspace(-2, 3, 32), torch.randn(8, 32) / 32**0.5
    bias = torch.randn(8) if with_bias else None
    rounded = dequantize(*quantize_weight(weight, bits))
    wanted = F.linear(x, weight, bias).mean(0)
    assert float((F.linear(x, rounded, bias).mean(0) - wanted).abs().max()) > 1e-2
    seen = Means()
    for batch in x.split(64):
        seen.add(batch)
    found = corrected_bias(weight, rounded, bias, seen.mean())
    assert float((F.linear(x, rounded, found).mean(0) - wanted).abs().max()) < 1e-4

    def run(bias: Tensor | None) -> Tensor:
        return F.linear(fake_quantize(x, fit(x, Form(bits, symmetric=False))), rounded, bias)

    means = []
    for outputs in (F.linear(x, weight, bias), run(bias)):
        seen = Means()
        seen.add(outputs)
        means.append(seen.mean())
    found = bias_corrected_by_outputs(bias, *means)
    assert float((run(found).mean(0) - wanted).abs().max()) < 1e-4


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_expected_inputs_are_those_of_normal_channels(activation: str | None) -> None:
    """Against N(bias, weight^2) at evenly spaced quantiles, a weight of zero and a negative one included."""
    weight, bias = torch.tensor([1.0, 0.3, -2.0, 0.0, 0.0]), torch.tensor([0.0, -0.5, 1.0, 0.7, -0.7])
    normal = torch.special.ndtri((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)
    x = bias.double() + normal[:, None] * weight.double()
    made = {None: lambda x: x, "relu": F.relu, "gelu": F.gelu}[activation](x)
    torch.testing.assert_close(
        expected_input(weight, bias, activation), made.mean(0).float(), rtol=1e-4, atol=1e-4
    )
    assert "relu, gelu" in refused(
        lambda: expected_input(weight, bias, "tanh"), "quantization-activation", Usage
    )


def test_bias_corrected_without_data() -> None:
    """Behind a norm, the norm's bias is the mean input: the mean outputs come nearer, with no sample looked at."""
    norm = nn.LayerNorm(64)
    nn.init.normal_(norm.weight, 1.0, 0.2)
    nn.init.normal_(norm.bias, 0.0, 1.0)
    weight = torch.randn(16, 64) / 8
    norm.requires_grad_(False)
    rounded = dequantize(*quantize_weight(weight, 2))
    x = norm(torch.randn(4000, 64))
    wanted = (x @ weight.T).mean(0)
    before = ((x @ rounded.T).mean(0) - wanted).norm()
    found = corrected_bias(weight, rounded, None, expected_input(norm.weight, norm.bias))
    assert float((F.linear(x, rounded, found).mean(0) - wanted).norm()) < 0.1 * float(before)


def test_smoothing_follows_its_formula() -> None:
    """s = max|X|^a / max|W|^(1-a) over all weights that read the input; 1 where nothing comes or nothing reads."""
    largest = torch.tensor([4.0, 100.0, 0.0, 9.0])
    first = torch.tensor([[1.0, -0.25, 1.0, 0.0], [0.5, 0.1, 1.0, 0.0]])
    second = torch.tensor([[-4.0, 0.04, 1.0, 0.0]])
    torch.testing.assert_close(smoothing(largest, [first, second]), torch.tensor([1.0, 20.0, 1.0, 1.0]))
    torch.testing.assert_close(smoothing(largest, [first], 1.0), torch.tensor([4.0, 100.0, 1.0, 1.0]))
    torch.testing.assert_close(smoothing(largest, [first], 0.0), torch.tensor([1.0, 4.0, 1.0, 1.0]))
    for alpha in (-0.1, 1.1):
        assert "[0, 1]" in refused(
            lambda a=alpha: smoothing(largest, [first], a), "quantization-settings", Usage
        )
    assert "got none" in refused(lambda: smoothing(largest, []), "quantization-settings", Usage)
    assert "NaN" in refused(lambda: smoothing(largest * float("inf"), [first]), "non-finite")


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.8])
def test_smoothing_changes_no_function_and_helps_integers(alpha: float) -> None:
    """Folded into the norm in front, the products are the same to 1e-5; with outliers in two inputs, int8 loses less."""
    norm = nn.LayerNorm(64)
    nn.init.normal_(norm.weight, 1.0, 0.1)
    norm.weight.data[[3, 40]] *= 60.0
    weights = [torch.randn(16, 64) / 8 for _ in range(3)]
    x = torch.randn(300, 64)
    inputs = norm(x).detach()
    seen = Extremes(-1)
    for batch in inputs.split(50):
        seen.add(batch)
    factors = smoothing(seen.largest(), weights, alpha)
    scale, shift = divided(norm.weight, norm.bias, factors)
    smooth = F.layer_norm(x, (64,), scale, shift).detach()

    def simulated(x: Tensor, weight: Tensor) -> Tensor:
        return fake_quantize(x, fit(x, Form(8, symmetric=False))) @ dequantize(*quantize_weight(weight, 8)).T

    for weight in weights:
        exact = inputs @ weight.T
        torch.testing.assert_close(smooth @ smoothed(weight, factors).T, exact, rtol=1e-5, atol=1e-5)
        plain = squared(simulated(inputs, weight), exact)
        assert squared(simulated(smooth, smoothed(weight, factors)), exact) < 0.5 * plain


def test_smoothing_folds_into_a_product() -> None:
    """A product in front takes the factors by its outputs, with a bias or without."""
    first, bias, second = torch.randn(6, 4), torch.randn(6), torch.randn(3, 6)
    factors = torch.rand(6) + 0.5
    x = torch.randn(20, 4)
    weight, shift = divided(first, bias, factors)
    exact = F.linear(F.linear(x, first, bias), second)
    torch.testing.assert_close(F.linear(F.linear(x, weight, shift), smoothed(second, factors)), exact)
    assert divided(first, None, factors)[1] is None


@pytest.mark.parametrize("activation", [None, "identity", "relu", "leaky_relu"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_equalisation_leaves_the_function(activation: str | None, with_bias: bool) -> None:
    """To 1e-5, through what is homogeneous; what writes and what reads a channel then have one largest weight."""
    first = torch.randn(12, 8) * torch.logspace(-2, 2, 12)[:, None]
    second = torch.randn(5, 12) * torch.logspace(1, -1, 12)
    first[4], second[:, 7] = 0.0, 0.0  # neither written nor read
    bias = torch.randn(12) if with_bias else None
    between = {"relu": F.relu, "leaky_relu": F.leaky_relu}.get(activation or "", lambda x: x)
    a, b, c = equalised(first, bias, second, activation)
    x = torch.randn(50, 8)
    exact = F.linear(between(F.linear(x, first, bias)), second)
    found = F.linear(between(F.linear(x, a, b)), c)
    assert float((found - exact).abs().max() / exact.abs().max()) < 1e-5
    writes, reads = a.abs().amax(1), c.abs().amax(0)
    live = torch.ones(12, dtype=torch.bool)
    live[[4, 7]] = False
    torch.testing.assert_close(writes[live], reads[live])
    assert torch.equal(a[~live], first[~live]) and torch.equal(c[:, ~live], second[:, ~live])
    grids = (Form(4), Form(4))
    before = fake_quantize(first, fit(first, grids[0])), fake_quantize(second, fit(second, grids[1]))
    after = fake_quantize(a, fit(a, grids[0])), fake_quantize(c, fit(c, grids[1]))
    lost = [
        squared(F.linear(between(F.linear(x, w, v)), u), exact) for (w, u), v in ((before, bias), (after, b))
    ]
    assert lost[1] < lost[0]


def test_equalisation_is_refused_where_it_would_change_the_function() -> None:
    """GELU does not commute with a scale; NaN is no range."""
    first, second = torch.randn(3, 2), torch.randn(2, 3)
    text = refused(lambda: equalised(first, None, second, "gelu"), "quantization-activation")
    assert "'gelu'" in text and "leaky_relu" in text
    first[0, 0] = float("nan")
    refused(lambda: equalised(first, None, second), "non-finite")


@pytest.mark.parametrize("bits", [4, 8])
def test_tokens_on_symmetric_grids_of_their_own(bits: int) -> None:
    """A form along the first axis is a token's own scale, max|x_t| over the largest integer, at any bits."""
    x = torch.randn(50, 32) * torch.logspace(-3, 1, 50)[:, None]
    x[7] = 0.0
    grid = fit(x, Form(bits, axis=0))
    top = 2 ** (bits - 1) - 1
    wanted = torch.where(x.abs().amax(1) == 0, 1.0, x.abs().amax(1) / top)
    torch.testing.assert_close(grid.scale, wanted)
    assert bool(((fake_quantize(x, grid) - x).abs() <= 0.5001 * wanted[:, None]).all())


def test_dynamic_tokens_beat_one_grid_where_tokens_differ() -> None:
    """Tokens of sizes that differ by a hundred: each on its own grid is nearer, at the same eight bits."""
    x = torch.randn(64, 32) * torch.logspace(-1, 1, 64)[:, None]
    one = fake_quantize(x, fit(x, Form(8, symmetric=False), MSE()))
    assert squared(fake_quantize_tokens(x), x) < 0.2 * squared(one, x)
