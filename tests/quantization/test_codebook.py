"""Codebooks: levels from their definitions, the nearest of them, scales, and what is an integer after all."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sparsam.errors import Refused, SparsamError, Usage
from sparsam.quantization import (
    MSE,
    Form,
    MinMax,
    additive_powers,
    as_integers,
    dequantize,
    fit,
    lloyd_max,
    lloyd_max_normal,
    log_thresholds,
    normal_float,
    powers_of_two,
    quantize,
    to_levels,
    to_own_levels,
)


def squared(x: Tensor, y: Tensor) -> float:
    return float((x.double() - y.double()).square().sum())


def test_normal_float_by_its_definition() -> None:
    """Four bits: eight normal quantiles above zero, seven below, evenly spaced in probability; worked out by bisection here."""

    def quantile(p: float) -> float:
        low, high = -10.0, 10.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if 0.5 * math.erfc(-middle / math.sqrt(2)) < p else (low, middle)
        return low

    outer = 1 - (1 / 30 + 1 / 32) / 2
    above = [quantile(0.5 + (outer - 0.5) * j / 8) for j in range(9)]
    below = [-quantile(0.5 + (outer - 0.5) * j / 7) for j in range(7, 0, -1)]
    wanted = torch.tensor([value / above[-1] for value in below + above])
    torch.testing.assert_close(normal_float(4), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", range(2, 9))
def test_normal_float_has_a_zero_and_both_ends(bits: int) -> None:
    """2^bits levels in rising order; one more above zero than below."""
    levels = normal_float(bits)
    assert len(levels) == 2**bits and bool((levels.diff() > 0).all())
    assert (float(levels[0]), float(levels[-1])) == (-1.0, 1.0)
    assert int((levels == 0).nonzero()) == 2 ** (bits - 1) - 1


def test_powers_of_two_by_hand() -> None:
    """0, ±1, ±2, ±4 with three bits; sums of powers with three and five."""
    assert powers_of_two(2).tolist() == [-1, 0, 1]
    assert powers_of_two(3).tolist() == [-4, -2, -1, 0, 1, 2, 4]
    assert additive_powers(3).tolist() == [-4, -2, -1, 0, 1, 2, 4]
    # {0, 1, 1/4, 1/16} + {0, 1/2, 1/8, 1/32}, times 32
    first, second = (0, 32, 8, 2), (0, 16, 4, 1)
    assert additive_powers(5)[15:].tolist() == sorted(a + b for a in first for b in second)
    assert additive_powers(4)[7:].tolist() == [0, 1, 2, 3, 4, 6, 8, 10]
    assert len(additive_powers(7)) == 127


@pytest.mark.parametrize("bits", range(2, 9))
def test_lloyd_max_is_a_fixed_point(bits: int) -> None:
    """Levels are the means between their thresholds, by numerical integration, and the error is the integral's."""
    levels, error = lloyd_max_normal(bits)
    x = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    weight = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi) * float(x[1] - x[0])
    at = torch.bucketize(x, (levels[1:] + levels[:-1]) / 2)
    mass = torch.zeros(2**bits, dtype=torch.float64).index_add_(0, at, weight)
    means = torch.zeros(2**bits, dtype=torch.float64).index_add_(0, at, weight * x) / mass
    assert float((means - levels).abs().max()) < 2e-3
    assert float((weight * (x - levels[at]).square()).sum()) == pytest.approx(error, rel=1e-4)


def test_lloyd_max_beats_every_even_spacing() -> None:
    """The best even levels on N(0, 1) (test_calibrate.py) have a larger error at every width; a bit gains below 6 dB."""
    even = {2: 0.11885, 3: 0.03744, 4: 0.011543, 5: 0.003495, 6: 0.001040, 8: 8.77e-5}
    errors = {bits: lloyd_max_normal(bits)[1] for bits in range(2, 9)}
    assert all(errors[bits] < value for bits, value in even.items())
    assert all(3.3 < a / b < 4.0 for a, b in pairwise(errors.values()))
    # Panter and Dite: the error of many levels tends to π sqrt(3) / 2 over their number squared
    assert errors[8] * 4**8 == pytest.approx(math.pi * math.sqrt(3) / 2, rel=0.01)


def test_lloyd_max_of_numbers() -> None:
    """On a normal sample the distribution's error and levels; rounds lower the error; few values are met exactly."""
    x = torch.special.ndtri((torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16).float()[None]
    levels, error = lloyd_max(x, 3, rounds=400)
    wanted, least = lloyd_max_normal(3)
    assert float(error) / 2**16 == pytest.approx(least, rel=2e-3)
    torch.testing.assert_close(levels[0].double(), wanted, rtol=0.02, atol=0.01)
    rows = torch.distributions.StudentT(3.0).sample((5, 400))
    errors = torch.stack([lloyd_max(rows, 3, rounds)[1] for rounds in range(12)])
    assert bool((errors.diff(dim=0) <= 1e-9).all()) and bool((errors[-1] < errors[0]).all())
    few = torch.tensor([[-2.0, -0.5, 0.25, 2.5]]).repeat(1, 9)
    found = to_own_levels(few, 2)
    torch.testing.assert_close(found.values(), few)
    assert float(lloyd_max(torch.full((2, 7), 0.25), 4)[1].max()) == 0.0


@pytest.mark.parametrize(
    "levels", [powers_of_two(4), additive_powers(5), normal_float(4)], ids=["pow2", "apot", "nf4"]
)
@pytest.mark.parametrize(("axis", "group"), [(None, None), (0, None), (0, 32), (1, None)])
@pytest.mark.parametrize("method", [MinMax(), MSE(candidates=20)], ids=lambda m: type(m).__name__)
def test_numbers_go_to_the_nearest_level(
    levels: Tensor, axis: int | None, group: int | None, method: MinMax | MSE
) -> None:
    """An oracle tries every level; zero is exact, codes are of their bits, what is quantized stays, MSE is never worse."""
    x = torch.distributions.StudentT(3.0).sample((6, 70))
    x[2, 5] = x[3] = 0.0
    form = Form(5, axis=axis, group=group)
    codes = to_levels(x, levels, form, method)
    y = codes.values()
    wide = {None: lambda s: s, 0: lambda s: s[:, None], 1: lambda s: s}[axis]
    scale = codes.scale.repeat_interleave(32, 1)[:, :70] if group else wide(codes.scale)
    oracle = (x[..., None] - scale[..., None] * levels).abs().amin(-1)
    torch.testing.assert_close((x - y).abs(), oracle)
    assert int(codes.codes.max()) < len(levels) and y[2, 5] == 0 and not y[3].any()
    again = to_levels(y, levels, form)
    assert isinstance(method, MSE) or torch.equal(again.values(), y)
    assert squared(x, y) <= squared(x, to_levels(x, levels, form).values())
    if isinstance(method, MinMax):
        where = x.abs() == x.abs().max()
        torch.testing.assert_close(scale.expand_as(x)[where] * levels.abs().max(), x.abs()[where])


def test_rounded_logarithms() -> None:
    """With log_thresholds: sgn(x) 2^rint(log2|x|), zero below the least power less half; the middles have less error."""
    levels = powers_of_two(4)
    x = torch.randn(2000) * 20
    x[0] = 64.0
    form = Form(4)
    shifted = to_levels(x, levels, form, thresholds=log_thresholds(levels))
    scale = float(x.abs().max()) / 64
    y = x / scale
    wanted = torch.sign(y) * 2.0 ** torch.round(torch.log2(y.abs())).clamp(max=6)
    wanted[y.abs() < 2**-0.5] = 0.0
    torch.testing.assert_close(shifted.values(), wanted * scale)
    assert squared(x, to_levels(x, levels, form).values()) < squared(x, shifted.values())


@pytest.mark.parametrize(("bits", "wide"), [(2, 2), (3, 4), (4, 8)])
def test_powers_of_two_are_integers_up_to_four_bits(bits: int, wide: int) -> None:
    """The same numbers on a grid of int8, in so many bits; from five bits on they are not."""
    x = torch.randn(7, 40)
    codes = to_levels(x, powers_of_two(bits), Form(bits, axis=0), MSE(candidates=20))
    found = as_integers(codes)
    assert found is not None
    q, scale, width = found
    assert width == wide and int(q.abs().max()) <= 2 ** (wide - 1) - 1 and q.dtype is torch.int8
    assert torch.equal(q.float() * scale[:, None], codes.values())
    assert set(q.abs().unique().tolist()) <= {0, *(2**e for e in range(7))}
    assert as_integers(to_levels(x, powers_of_two(5), Form(5, axis=0))) is None
    assert as_integers(to_levels(x, powers_of_two(3), Form(3, axis=0, group=8))) is None
    assert as_integers(to_levels(x, normal_float(4), Form(4, axis=0))) is None
    assert as_integers(to_own_levels(x, 3)) is None


def test_normal_weights_lose_less_on_normal_levels() -> None:
    """By groups of 64, four bits: NormalFloat is nearer than even steps to the largest, and each output's own levels nearer."""
    x = torch.randn(64, 512)
    form = Form(4, axis=0, group=64)
    even = dequantize(quantize(x, fit(x, form)), fit(x, form))
    assert squared(x, to_levels(x, normal_float(4), form).values()) < 0.9 * squared(x, even)
    by_output = Form(4, axis=0)
    own = squared(x, to_own_levels(x, 4).values())
    assert own < squared(x, to_levels(x, normal_float(4), by_output, MSE()).values())
    assert own < squared(x, dequantize(quantize(x, fit(x, by_output, MSE())), fit(x, by_output, MSE())))


def test_what_codes_take_packed() -> None:
    """Codes of their bits, four bytes a scale or level."""
    x = torch.randn(6, 100)
    assert to_levels(x, normal_float(4), Form(4, axis=0, group=32)).packed_bytes == 300 + 4 * (6 * 4 + 16)
    assert to_own_levels(x, 3).packed_bytes == 225 + 4 * 6 * 8


def test_what_codebooks_refuse() -> None:
    """Bits out of range, levels that do not rise or are too many, NaN."""

    def code_of(call: object, kind: type[SparsamError] = Usage) -> str:
        with pytest.raises(kind) as caught:
            call()  # type: ignore[operator]
        return caught.value.code

    x = torch.randn(3, 4)
    for make in (powers_of_two, normal_float, lloyd_max_normal):
        assert code_of(lambda make=make: make(9)) == code_of(lambda make=make: make(1)) == "quantization-form"
    for bits in (2, 6, 8):
        assert code_of(lambda bits=bits: additive_powers(bits)) == "quantization-form"
    for levels in (torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0]), powers_of_two(3)):
        assert code_of(lambda levels=levels: to_levels(x, levels, Form(2))) == "quantization-form"
    x[0, 0] = math.nan
    assert code_of(lambda: to_levels(x, powers_of_two(2), Form(2)), Refused) == "non-finite"
    assert code_of(lambda: lloyd_max(x, 2), Refused) == "non-finite"
