"""I-BERT's functions on integers: the errors of its polynomials, exact square roots and factors, rows of any kind."""

import math
import random
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from sparsam.errors import Refused, Usage
from sparsam.quantization.dyadic import added, dyadic, narrow, requantize, rescale
from sparsam.quantization.ibert import (
    EXP,
    LN2,
    ROOT,
    exp_constants,
    gelu_constants,
    i_exp,
    i_gelu,
    i_layernorm,
    i_softmax,
    i_sqrt,
    looked_up,
    norm_constants,
    table,
)


def gelu_error(scale: float, shift: int | None = None, end: float = 4.0) -> torch.Tensor:
    """What integers of a scale make of GELU, less GELU, on [-end, end]."""
    q = torch.arange(-round(end / scale), round(end / scale) + 1)
    constants = gelu_constants(scale, shift)
    return i_gelu(q, constants) * constants.scale - F.gelu(q.double() * scale)


def test_gelu_has_the_papers_error():
    """On a grid of 2e5 points: RMS 0.0082, at most 0.0182, at 2.35 from 0; better than the sigmoid and the h-GELU."""
    error = gelu_error(4e-5, shift=0)
    assert float(error.square().mean().sqrt()) == pytest.approx(0.0082, abs=1e-4)
    assert float(error.abs().max()) == pytest.approx(0.0182, abs=1e-4)
    assert abs(abs(int(error.abs().argmax()) - 100_000) * 4e-5 - 2.35) < 0.01
    x = torch.linspace(-4, 4, 200_001, dtype=torch.float64)
    for other, rms, most in (
        (x * torch.sigmoid(1.702 * x), 0.0118, 0.0203),
        (x * F.relu6(1.702 * x + 3) / 6, 0.0306, 0.0687),
    ):
        apart = other - F.gelu(x)
        assert float(apart.square().mean().sqrt()) == pytest.approx(rms, abs=1e-4)
        assert float(apart.abs().max()) == pytest.approx(most, abs=1e-4)


def test_gelu_without_shift_serves_any_fine_scale():
    """The exact form is as good up to a scale of 0.03; the shift this library takes costs nothing."""
    for scale in (1e-4, 1e-3, 0.01, 0.03):
        assert float(gelu_error(scale, 0).abs().max()) < 0.0185
    for scale in (6e-5, 3e-4, 1e-3, 0.01):
        assert float(gelu_error(scale).abs().max()) < 0.0186


def released_gelu(q: torch.Tensor, scale: float) -> torch.Tensor:
    """GELU as the released code computes it: negative scales, always 14 bits of shift, 1 rounded by itself."""
    inner = scale / 1.4142
    b, c, y_scale = (
        math.floor(-1.769 / inner),
        math.floor(1 / (-0.2888 * inner**2)),
        -0.2888 * inner**2 * 2**14,
    )
    y = (torch.sign(q) * ((q.abs().clamp(max=-b) + b) ** 2 + c)) >> 14
    return q * (y + math.floor(1 / y_scale)) * (scale * y_scale / 2)


@pytest.mark.parametrize(("scale", "most"), [(2.4e-4, 0.018), (1e-3, 0.022), (4e-3, 0.09), (1e-2, 0.7)])
def test_fixed_shift_of_the_released_code_spoils_coarse_scales(scale: float, most: float):
    """Its errors are those of the card's table; ours stays at 0.0186 on every one of these scales."""
    q = torch.arange(-round(4 / scale), round(4 / scale) + 1)
    found = (released_gelu(q, scale) - F.gelu(q.double() * scale)).abs().max()
    assert float(found) == pytest.approx(most, rel=0.06)
    assert float(gelu_error(scale).abs().max()) < 0.0186


def test_gelu_is_exact_far_out():
    """Far left nothing is left, far right the input itself."""
    constants = gelu_constants(1e-3)
    q = torch.tensor([-32767, -8000, 8000, 32767])
    y = i_gelu(q, constants) * constants.scale
    assert y[:2].tolist() == [0.0, 0.0]
    torch.testing.assert_close(
        y[2:], torch.tensor([8.0, 32.767]).double(), rtol=1e-3, atol=0, check_dtype=False
    )


def test_erf_polynomial_has_its_worst_error_at_zero():
    """At most 0.096, in the odd jump at 0, where GELU multiplies it by 0."""
    z = torch.linspace(0, 4, 200_001, dtype=torch.float64)
    error = (-0.2888 * (z.clamp(max=1.769) - 1.769) ** 2 + 1 - torch.erf(z)).abs()
    assert int(error.argmax()) == 0
    assert float(error[0]) == pytest.approx(0.0962, abs=1e-4)


def test_exp_polynomial_has_the_papers_error():
    """On (-ln 2, 0]: at most 1.91e-3, relative 3.3e-3, with the released constants."""
    a, b, c = EXP
    p = torch.linspace(-math.log(2), 0, 200_001, dtype=torch.float64)[1:]
    error = (a * p * p + b * p + c - p.exp()).abs()
    assert float(error.max()) == pytest.approx(1.91e-3, abs=1e-4)
    assert float((error / p.exp()).max()) == pytest.approx(3.3e-3, abs=1e-4)


@pytest.mark.parametrize(
    ("scale", "most"),
    [
        (1 / 1024, 1.9e-3),
        (1 / 256, 1.9e-3),
        (1 / 64, 2.9e-3),
        (1 / 32, 3.7e-3),
        (0.05, 2.3e-2),
        (0.1, 5.4e-2),
    ],
)
def test_exp_loses_little_on_any_scale(scale: float, most: float):
    """The card's table where ln 2 is rounded down; never more, and never above 3.8e-3, where it is rounded to the nearest."""
    ours = exp_constants(scale)
    cut = replace(ours, ln2=math.floor(LN2 / scale))
    q = torch.arange(0, -round(25 / scale), -1)
    want = (q.double() * scale).exp()
    y, of_cut = (i_exp(q, one, keep=30) * (one.scale / 2**30) for one in (ours, cut))
    assert float((of_cut - want).abs().max()) == pytest.approx(most, rel=0.06)
    assert float((y - want).abs().max()) <= min(3.8e-3, float((of_cut - want).abs().max()))
    if scale <= 1 / 256:  # 1 at 0, and no step up by more than 1e-4 on the way left
        assert float(y[0]) == pytest.approx(1, abs=3e-4)
        assert float(y.diff().max()) < 1e-4


def test_exp_refuses_scales_without_octaves():
    """A step as large as ln 2 has no octaves to count."""
    with pytest.raises(Refused, match="ln 2 has some steps"):
        exp_constants(0.2)


def test_square_root_is_the_whole_one():
    """math.isqrt for all below 2^16, random 32-bit numbers, squares and their neighbours, up to 2^62."""
    made = random.Random(0)
    numbers = [*range(1 << 16), *(made.getrandbits(32) for _ in range(200_000)), (1 << 32) - 1]
    for k in (3, 1000, 65_535, 65_536, 2**20 + 7, 2**26, 2**30 + 1, 2**31 - 1):
        numbers += [k * k - 1, k * k, k * k + 1]
    assert i_sqrt(torch.tensor(numbers)).tolist() == [math.isqrt(n) for n in numbers]


def test_factors_round_exactly_half_up():
    """1e5 random sums and factors, ties included, against fractions; no float has a hand in it."""
    made = random.Random(1)
    for bits in (8, 15, 22, 30):
        factors = [made.uniform(1, 2) * 2.0 ** -made.randint(2, 30) for _ in range(25)]
        for value in factors:
            factor = dyadic(value, bits)
            m, e = int(factor.m), factor.e
            assert abs(m / 2**e / value - 1) <= 2.0**-bits
            q = [made.randint(-(2**31), 2**31 - 1) >> made.randint(0, 24) for _ in range(1000)]
            found = rescale(torch.tensor(q), factor).tolist()
            assert found == [math.floor(Fraction(x * m, 2**e) + Fraction(1, 2)) for x in q]
    tie = dyadic(0.5)
    assert rescale(torch.tensor([-3, -1, 1, 3]), tie).tolist() == [-1, 0, 1, 2]


def test_factors_by_channel_share_an_exponent():
    """A channel of small weights is exact to the last bit of the largest one's factor."""
    wanted = torch.tensor([1e-3, 3.0e-5, 0.0], dtype=torch.float64)
    factor = dyadic(wanted)
    assert float((factor.value() - wanted).abs().max()) <= 2.0 ** -(factor.e + 1)
    q = torch.tensor([[127_000, 127_000, 127_000]])
    assert requantize(q, factor, 8).tolist() == [[127, 4, 0]]
    assert requantize(-q, factor, 8).dtype == torch.int8


@pytest.mark.parametrize(
    ("bits", "ends", "dtype"), [(8, 127, torch.int8), (16, 32767, torch.int16), (22, 2**21 - 1, torch.int32)]
)
def test_every_width_is_cut_off_symmetrically(bits: int, ends: int, dtype: torch.dtype):
    """127 stays 127 where the released code makes 126 of it, and widths of 22 bits are cut off like any other."""
    q = narrow(torch.tensor([-(2**40), -ends, 0, ends, 2**40]), bits)
    assert q.tolist() == [-ends, -ends, 0, ends, ends]
    assert q.dtype == dtype


def test_factor_that_no_integer_holds_is_refused():
    """NaN, a negative factor, one above 2^22, and a mantissa without bits."""
    for bad in (float("nan"), -1.0, 2.0**40):
        with pytest.raises(Refused, match="factor"):
            dyadic(bad)
    with pytest.raises(Usage, match="2 to 30 bits"):
        dyadic(0.5, 40)


def test_branches_of_different_scales_add_up():
    """A residual and a product's sums meet at a third scale, each rounded once."""
    a, b = torch.tensor([1000, -5]), torch.tensor([7, 3])
    assert added(a, dyadic(0.25), b, dyadic(1.5), 16).tolist() == [250 + 11, -1 + 5]
    assert added(torch.tensor([2**30]), dyadic(0.5), b[:1], dyadic(1.5), 22).tolist() == [2**21 - 1]


@pytest.mark.parametrize("n", [16, 128, 512])
@pytest.mark.parametrize("settings", [{}, {"bits": 8, "carry": True}], ids=["15 bits", "8 bits, carried"])
def test_softmax_is_near_and_sums_to_one(n: int, settings: dict):
    """At most 5e-3 from softmax at 15 bits, at scales from 1/256 on; rows sum to 1 within 1 %, flat rows of 512 keys, too."""
    made = torch.Generator().manual_seed(n)
    for scale in (2.0**-8, 2.0**-10):
        for spread in (0.0, 0.3, 2.0, 8.0):
            q = (torch.randn(64, n, generator=made) * spread / scale).round().long()
            bits = settings.get("bits", 15)
            p = i_softmax(q, exp_constants(scale), **settings)
            got = p.double() / 2**bits
            most = (
                2.0**-8 + 2e-3 if bits == 8 else 5e-3
            )  # a key may be off by nearly a step where rounding is handed on
            assert float((got - (q.double() * scale).softmax(1)).abs().max()) <= most
            assert 0.99 <= float(got.sum(1).min()) <= float(got.sum(1).max()) <= 1.01
            assert 0 <= int(p.min()) <= int(p.max()) < 2**bits


def test_softmax_cut_to_8_bits_loses_its_mass():
    """As the released code does it rows sum to less the longer they are, 0.52 at 512 keys here; rounded, 256 does not occur."""
    made, constants = torch.Generator().manual_seed(0), exp_constants(1 / 256)
    for n, left in ((16, 0.97), (128, 0.80), (512, 0.52)):
        q = (torch.randn(400, n, generator=made) * 1.5 * 256).round().long()
        assert float(i_softmax(q, constants, bits=8, cut=True).sum(1).double().mean() / 256) == pytest.approx(
            left, abs=0.02
        )
    one = torch.tensor([[0, -(10**6), -(10**6)]])
    assert i_softmax(one, constants, bits=8).tolist() == [[255, 0, 0]]
    assert i_softmax(one, constants, bits=8, carry=True).tolist() == [[255, 0, 0]]


def test_masked_keys_neither_count_nor_set_the_maximum():
    """A masked key with the largest logit changes nothing: the rest is what it is without it; nothing left gives zeros."""
    constants = exp_constants(2.0**-10)
    q = torch.tensor([[500, 90_000, -300, 0]])
    keep = torch.tensor([[True, False, True, True]])
    found = i_softmax(q, constants, keep=keep)
    assert found[0, 1] == 0
    assert torch.equal(found[:, keep[0]], i_softmax(q[:, keep[0]], constants))
    assert i_softmax(q, constants, keep=torch.zeros(1, 4, dtype=torch.bool)).tolist() == [[0] * 4]
    assert i_softmax(q[:, :0], constants).shape == (1, 0)


def normed(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, eps: float, out: float, bits: int = 8):
    """Rows through the integer norm, at a scale of 1e-4."""
    q = narrow(torch.floor(x / 1e-4 + 0.5).long(), 22)
    y = i_layernorm(q, norm_constants(gamma, beta, eps, 1e-4, out, bits))
    return y.double() * out


def test_layernorm_of_8_bits_is_near():
    """At most 2e-2 from floating point on N(0, 1) rows of 768; gamma may be negative or 0."""
    made = torch.Generator().manual_seed(0)
    x = torch.randn(256, 768, generator=made)
    gamma, beta = torch.randn(768, generator=made), torch.randn(768, generator=made) * 0.1
    gamma[:5] = torch.tensor([0.0, -1.0, 1e-9, -2.0, 0.0])
    want = F.layer_norm(x.double(), (768,), gamma.double(), beta.double(), 1e-12)
    found = normed(x, gamma, beta, 1e-12, float(want.abs().max()) / 127)
    assert float((found - want).abs().max()) <= float(want.abs().max()) / 254 + 1e-3
    plain = torch.ones(768), torch.zeros(768)
    want = F.layer_norm(x.double(), (768,), eps=1e-12)
    assert float((normed(x, *plain, 1e-12, float(want.abs().max()) / 127) - want).abs().max()) <= 2e-2
    assert float((normed(x, *plain, 1e-12, 1e-3, 16) - want).abs().max()) <= 6.5e-4


def test_layernorm_of_a_constant_row_is_beta():
    """Nothing is divided by 0: such a row gives beta at every gamma, 0 included, and without any epsilon."""
    gamma, beta = torch.tensor([1.0, 0.0, -3.0]), torch.tensor([0.5, -0.25, 0.1])
    found = normed(torch.full((2, 3), 7.0), gamma, beta, 0.0, 0.01)
    torch.testing.assert_close(found, beta.double().expand(2, 3), rtol=0, atol=0.005 + 1e-7)


def test_layernorm_has_its_epsilon():
    """A row hardly wider than epsilon is shrunk as in floating point."""
    x, gamma, beta = torch.tensor([[0.01, -0.01, 0.02, -0.02]]), torch.ones(4), torch.zeros(4)
    want = F.layer_norm(x.double(), (4,), gamma.double(), beta.double(), 1e-3)
    found = normed(x, gamma, beta, 1e-3, 1e-3, 16)
    assert float((found - want).abs().max()) < 5e-3
    assert float(want.abs().max()) < 0.6  # 1.2 without epsilon


def test_table_is_exact_to_half_a_step():
    """256 entries answer for any activation of 8-bit inputs, at both ends, too."""
    for function in (F.gelu, torch.tanh, F.relu, F.silu):
        entries = table(function, 0.05, 0.06)
        q = torch.arange(-127, 128, dtype=torch.int8)
        error = (looked_up(q, entries).double() * 0.06 - function(q.double() * 0.05)).abs()
        assert float(error.max()) <= 0.03 + 1e-12
        assert entries.dtype == torch.int8
        assert len(entries) == 256


def test_constants_of_the_code_are_on_record():
    """The two constants that papers round are those of the released code."""
    assert (LN2, ROOT) == (0.6931, 1.4142)
