"""Ranges from batches: the same whatever the batches, mergeable, in constant memory; what each method does with a tail."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsam.errors import Refused, SparsamError, Usage
from sparsam.quantization import (
    ACIQ,
    KL,
    MSE,
    Averages,
    Extremes,
    Form,
    Histogram,
    Means,
    MinMax,
    MovingAverage,
    Percentile,
    RangeMethod,
    calibrate,
    fake_quantize,
    fit,
    grid_between,
)

METHODS = (
    MinMax(),
    MovingAverage(0.9),
    Percentile(99.0),
    Percentile(99.0, of="ends"),
    Percentile(99.0, of="magnitude"),
    MSE(),
    KL(magnitudes=512),
    ACIQ(),
    ACIQ("normal"),
)
FORMS = (Form(4), Form(8), Form(4, symmetric=False), Form(8, symmetric=False, signed=False))
OBSERVERS: tuple[Callable[[], Any], ...] = (
    Extremes,
    lambda: Extremes(-1),
    Histogram,
    lambda: Histogram(-1),
    Means,
)


def refused(call: Any, code: str, kind: type[SparsamError] = Refused) -> str:
    """The text of the error that ``call`` must raise."""
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.code == code
    return str(caught.value)


def state(observer: Any) -> dict[str, Any]:
    """All that an observer remembers, tensors as lists."""
    found: dict[str, Any] = {}
    for name, value in vars(observer).items():
        found[name] = (
            value.tolist()
            if isinstance(value, Tensor)
            else state(value)
            if hasattr(value, "__dict__")
            else value
        )
    return found


def sample(seed: int = 0, n: int = 130, c: int = 3) -> Tensor:
    """Rows (n, c) whose scale grows on the way, with zeros, tails and one channel of one sign."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, c, generator=draw) * torch.logspace(-4, 2, n)[:, None]
    x[torch.rand(n, c, generator=draw) < 0.1] = 0.0
    x[:, 0] = x[:, 0].abs() ** 1.5
    return x


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("form", FORMS, ids=["sym4", "sym8", "affine4", "affine8"])
@pytest.mark.parametrize("axis", [None, 1])
def test_laws_of_a_range_method(method: RangeMethod, form: Form, axis: int | None) -> None:
    """The same grid bit for bit from batches of 1, 2, 7, 64 and all; bounds within what was seen; nothing seen is refused."""
    form = Form(form.bits, form.symmetric, form.signed, axis=axis)
    x = sample()
    found = [calibrate(method, x.split(size), form) for size in (1, 2, 7, 64, len(x))]
    for grid in found[1:]:
        assert torch.equal(grid.scale, found[0].scale) and torch.equal(grid.zero, found[0].zero)
    observer = method.start(form)
    observer.add(x)
    low, high = method.bounds(observer, form)
    rows = x.reshape(1, -1) if axis is None else x.T
    assert bool((low >= rows.amin(1).view_as(low)).all()) and bool((high <= rows.amax(1).view_as(high)).all())
    for nothing in ([], [x[:0]]):
        text = refused(lambda n=nothing: calibrate(method, n, form), "calibration-empty")
        assert "no batch held a number" in text


@pytest.mark.parametrize("make", OBSERVERS)
def test_merging_equals_seeing_both(make: Callable[[], Any]) -> None:
    """Exactly, either way round, with an empty one, and whichever of the two saw the larger numbers."""
    x = sample()
    for cut in (0, 1, 70, 130):
        parts = [make() for _ in range(2)]
        parts[0].add(x[:cut])
        parts[1].add(x[cut:])
        both = make()
        both.add(x)
        assert state(parts[0].merge(parts[1])) == state(both) == state(parts[1].merge(parts[0]))


@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=6), max_size=6),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_a_histogram_has_no_memory_of_the_order(batches: list[list[float]], random: Any) -> None:
    """Any batches in any order, merged in any way, count the same; every number is counted where it lies."""
    one, other, merged = Histogram(bins=16), Histogram(bins=16), Histogram(bins=16)
    for batch in batches:
        one.add(torch.tensor(batch, dtype=torch.float32))
    mixed = [number for batch in batches for number in batch]
    random.shuffle(mixed)
    for number in mixed:
        other.add(torch.tensor([number], dtype=torch.float32))
    for batch in batches:
        part = Histogram(bins=16)
        part.add(torch.tensor(batch, dtype=torch.float32))
        merged = part.merge(merged)
    assert state(one) == state(other) == state(merged)
    if mixed:
        x = torch.tensor(mixed, dtype=torch.float32).double()
        assert int(one.total()) == len(x)
        assert int(one.zeros) == int((x == 0).sum())
        place = torch.floor(x[x != 0] / one.width()).long() + one.half
        assert one.counts[0].tolist() == torch.bincount(place, minlength=16).tolist()
        largest = x.abs().max()
        if largest > 0:
            assert largest < one.half * one.width() <= 2 * largest


def test_memory_does_not_grow() -> None:
    """What a histogram holds after a hundred batches is what it held after one."""
    seen = Histogram(-1)
    sizes = []
    for k in range(100):
        seen.add(torch.randn(50, 4) * 1.1**k)
        sizes.append(sum(x.numel() for x in (seen.counts, seen.zeros, seen.exponent)))
    assert set(sizes) == {4 * 4096 + 4 + 4}
    assert seen.total().tolist() == [5000] * 4


def test_hundred_percent_are_the_extremes() -> None:
    """Percentile 100 equals min-max, on histograms and on tensors, bit for bit."""
    x = sample()
    for form in FORMS:
        for of in ("magnitude", "ends", None):
            for found in (
                calibrate(Percentile(100, of), x.split(7), form),
                fit(x, form, Percentile(100, of)),
            ):
                assert torch.equal(found.scale, fit(x, form).scale) and torch.equal(
                    found.zero, fit(x, form).zero
                )


def test_percentiles_by_hand() -> None:
    """Of 1 to 100 and -1 to -50, in exact bins: what is left out at each end, and by magnitude."""
    x = torch.cat([torch.arange(1.0, 101), -torch.arange(1.0, 51)])
    form = Form(8, symmetric=False)
    seen = Histogram(bins=256)  # bins of width 1
    seen.add(x)
    assert float(seen.width()) == 1.0
    # 8 % of 150 are 12: six at each end, so that 94 and -44 stay; the far edges of their bins are 95 and -44
    low, high = Percentile(92).bounds(seen, form)
    assert (float(low), float(high)) == (-44.0, 95.0)
    # twelve by magnitude: 89 to 100 go, 88 stays; nothing below zero lies as far out
    low, high = Percentile(92, of="magnitude").bounds(seen, form)
    assert (float(low), float(high)) == (-50.0, 89.0)
    # on the numbers themselves
    exact = fit(x, form, Percentile(92))
    assert float(exact.scale) == pytest.approx((94 + 44) / 255)
    exact = fit(x, Form(8), Percentile(92))
    assert float(exact.scale) == pytest.approx(88 / 127)


def test_zeros_count_among_the_numbers() -> None:
    """A thousand numbers of which 990 are zero: one percent of all are ten, and all of these may go."""
    x = torch.zeros(1000)
    x[:10] = torch.arange(1.0, 11)
    form = Form(8)
    for percent, bound in ((99.0, 0.0), (99.5, 5.0), (100.0, 10.0)):
        grid = fit(x, form, Percentile(percent))
        assert float(grid.scale) == pytest.approx(bound / 127 if bound else 1.0)
        seen = Histogram()
        seen.add(x)
        _, high = Percentile(percent).bounds(seen, form)
        assert float(high) == pytest.approx(bound, abs=float(seen.width()))


def test_moving_average_by_hand() -> None:
    """Half of the old, half of the new, sample by sample; with lengths, a sample is as many tokens."""
    x = torch.tensor([[-1.0, 4.0], [-3.0, 0.0], [1.0, 2.0]])
    seen = Averages(0.5)
    seen.add(x)
    # low -1, (-1 - 3) / 2 = -2, (-2 + 1) / 2; high 4, 2, 2
    assert [float(end) for end in seen.bounds()] == [-0.5, 2.0]
    packed = Averages(0.5)
    packed.add(x, torch.tensor([2, 0, 1]))
    # low -3, then (-3 + 1) / 2; high 4, then 3
    assert [float(end) for end in packed.bounds()] == [-1.0, 3.0]
    by_channel = Averages(0.5, -1)
    by_channel.add(x)
    assert [end.tolist() for end in by_channel.bounds()] == [[-0.5, 2.0], [-0.5, 2.0]]


NORMAL = torch.special.ndtri((torch.arange(2**18, dtype=torch.float64) + 0.5) / 2**18).float()
"""N(0, 1) at evenly spaced quantiles: a sample without the noise of one."""

ZERO_LEVEL = {
    2: (0.19017, 1.22),
    3: (0.04686, 1.95),
    4: (0.012889, 2.47),
    5: (0.003693, 2.90),
    6: (0.001069, 3.27),
    8: (8.83e-5, 3.92),
}
"""Bits: least squared error on N(0, 1) of 2^bits - 1 levels, one of them zero; the top level. By numerical integration."""

NO_ZERO_LEVEL = {
    2: (0.11885, 1.49),
    3: (0.03744, 2.05),
    4: (0.011543, 2.51),
    5: (0.003495, 2.92),
    6: (0.001040, 3.28),
    8: (8.77e-5, 3.92),
}
"""The same of 2^bits levels, none of them zero; agrees with J. Max, *Quantizing for minimum distortion*, 1960."""


def squared(x: Tensor, y: Tensor) -> float:
    return float((x.double() - y.double()).square().mean())


@pytest.mark.parametrize("bits", ZERO_LEVEL)
def test_least_squares_on_the_normal_distribution(bits: int) -> None:
    """The table's error within 3 %, and its top level, from a histogram and from the numbers."""
    form = Form(bits)
    for grid in (calibrate(MSE(), NORMAL.split(50_000), form), fit(NORMAL, form, MSE())):
        error, top = ZERO_LEVEL[bits]
        assert squared(NORMAL, fake_quantize(NORMAL, grid)) == pytest.approx(error, rel=0.03)
        assert float(grid.scale) * form.highest == pytest.approx(top, rel=0.03)


@pytest.mark.parametrize("bits", NO_ZERO_LEVEL)
def test_levels_beside_zero_on_the_normal_distribution(bits: int) -> None:
    """2^bits levels half a step beside zero: the full symmetric grid, shifted. The best clip is found by trying."""
    form = Form(bits, full=True)
    error, top = NO_ZERO_LEVEL[bits]
    found = []
    for level in torch.linspace(0.8 * top, 1.2 * top, 41):
        step = level / (2 ** (bits - 1) - 0.5)
        grid = grid_between(-step * form.highest, step * form.highest, form)
        found.append((squared(NORMAL, fake_quantize(NORMAL - step / 2, grid) + step / 2), float(level)))
    least, where = min(found)
    assert least == pytest.approx(error, rel=0.03)
    assert where == pytest.approx(top, rel=0.03)


@pytest.mark.parametrize("bits", [6, 8])
def test_an_affine_grid_lies_between_the_two_tables(bits: int) -> None:
    """It has 2^bits levels and one of them is zero; at 6 and 8 bits the tables are 3 % apart at most."""
    form = Form(bits, symmetric=False)
    for grid in (calibrate(MSE(), [NORMAL], form), fit(NORMAL, form, MSE())):
        error = squared(NORMAL, fake_quantize(NORMAL, grid))
        assert error == pytest.approx(NO_ZERO_LEVEL[bits][0], rel=0.03)
        assert error == pytest.approx(ZERO_LEVEL[bits][0], rel=0.03)


def test_max_range_of_four_bits() -> None:
    """On 1e5 normal numbers: about 3.6e-2 with the largest as the end, 1.3e-2 with the best clip."""
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    assert squared(x, fake_quantize(x, fit(x, Form(4)))) == pytest.approx(3.6e-2, rel=0.1)
    assert squared(x, fake_quantize(x, fit(x, Form(4), MSE()))) == pytest.approx(1.3e-2, rel=0.03)


@pytest.mark.parametrize("form", FORMS, ids=["sym4", "sym8", "affine4", "affine8"])
@pytest.mark.parametrize("power", [2.0, 2.4])
def test_mse_is_never_worse_than_min_max(form: Form, power: float) -> None:
    """Neither on the numbers nor (beyond a bin's width) on a histogram of them; by channel it is the best for each."""
    x = torch.distributions.StudentT(3.0).sample((2000, 4)) * torch.tensor([1.0, 5.0, 0.1, 30.0])
    by_channel = Form(form.bits, form.symmetric, form.signed, axis=1)

    def error(grid: Any) -> Tensor:
        return ((fake_quantize(x, grid) - x).abs() ** power).double().sum(0)

    exact = error(fit(x, by_channel, MSE(power=power)))
    assert bool((exact <= error(fit(x, by_channel))).all())
    streamed = error(calibrate(MSE(power=power), x.split(100), by_channel))
    assert bool((streamed <= 1.05 * exact).all())
    assert float(error(fit(x, form, MSE(power=power))).sum()) >= float(exact.sum()) * 0.999


def test_mse_of_one_sided_numbers_moves_one_end() -> None:
    """Few negative numbers far out, many positive ones: an affine grid cuts each end where it costs least."""
    x = torch.cat([torch.rand(5000), torch.tensor([-40.0])])
    form = Form(4, symmetric=False)
    for grid in (fit(x, form, MSE()), calibrate(MSE(), [x], form)):
        assert fake_quantize(x, grid)[:-1].sub(x[:-1]).abs().max() < 2.0
    best, plain = fit(x, form, MSE()), fit(x, form)
    assert squared(x, fake_quantize(x, best)) <= squared(x, fake_quantize(x, plain))


def test_kl_cuts_a_tail_and_min_max_does_not() -> None:
    """A Laplace sample, and one number far beyond it."""
    draw = torch.Generator().manual_seed(0)
    u = torch.rand(200_000, generator=draw) - 0.5
    x = -u.sign() * torch.log1p(-2 * u.abs())
    largest = float(x.abs().max())
    for form in (Form(8), Form(8, symmetric=False)):
        low, high = (float(end) for end in KL().bounds(_seen(x), form))
        assert 3.0 < high < 0.9 * largest
        assert -0.9 * largest < low
        assert MinMax().bounds(_seen(x), form)[1] == x.max()
    far = torch.cat([x, torch.tensor([50.0 * largest])])
    assert float(KL().bounds(_seen(far), Form(8))[1]) < 6 * largest  # 128 of 1120 bins, each 1/2 wide


def _seen(x: Tensor) -> Histogram:
    seen = Histogram()
    seen.add(x)
    return seen


def test_kl_keeps_what_fits() -> None:
    """Numbers on fewer values than there are levels lose nothing, so nothing is cut; exact zeros do not count."""
    x = torch.arange(1.0, 101).repeat(20)
    assert float(KL().bounds(_seen(x), Form(8))[1]) == 100.0
    with_zeros = torch.cat([x, torch.zeros(100_000)])
    assert float(KL().bounds(_seen(with_zeros), Form(8))[1]) == 100.0
    assert [float(end) for end in KL().bounds(_seen(torch.zeros(5)), Form(8))] == [0.0, 0.0]


def test_kl_by_hand() -> None:
    """Four magnitudes with counts 8, 4, 2, 2 on two levels.

    i = 2: P = (8, 8) / 16, Q = (8, 4) / 12. i = 3: P = (8, 4, 4) / 16, levels {0}, {1, 2}, Q = (8, 3, 3) / 14.
    i = 4: P = (8, 4, 2, 2) / 16, levels {0, 1}, {2, 3}, Q = (6, 6, 2, 2) / 16.
    """
    import numpy as np

    from sparsam.quantization.calibrate import _least_divergence

    def divergence(p: list[float], q: list[float]) -> float:
        total, other = sum(p), sum(q)
        return sum(a / total * math.log(a / total * other / b) for a, b in zip(p, q, strict=True))

    by_hand = {
        2: divergence([8, 8], [8, 4]),
        3: divergence([8, 4, 4], [8, 3, 3]),
        4: divergence([8, 4, 2, 2], [6, 6, 2, 2]),
    }
    assert _least_divergence(np.array([8, 4, 2, 2]), 2) == min(by_hand, key=by_hand.__getitem__)


def test_analytic_clips_of_the_two_distributions() -> None:
    """The card's multiples of b and sigma for 2, 3 and 4 bits; at each the derivative by the clip is zero, by differences."""
    laplace, normal = ACIQ(), ACIQ("normal")
    assert [laplace.clip(bits) for bits in (2, 3, 4)] == pytest.approx([2.83, 3.89, 5.03], abs=0.01)
    assert [normal.clip(bits) for bits in (2, 3, 4)] == pytest.approx([1.71, 2.15, 2.55], abs=0.01)

    def of_laplace(a: float, bits: int) -> float:
        return 2 * math.exp(-a) + a * a / (3 * 4**bits)

    def of_normal(a: float, bits: int) -> float:
        tail = (1 + a * a) * math.erfc(a / math.sqrt(2)) / 2 - a * math.exp(-a * a / 2) / math.sqrt(
            2 * math.pi
        )
        return 2 * tail + a * a / (3 * 4**bits)

    for error, method in ((of_laplace, laplace), (of_normal, normal)):
        for bits in range(2, 9):
            at = method.clip(bits)
            assert error(at, bits) < min(error(0.99 * at, bits), error(1.01 * at, bits))


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("symmetric", [True, False])
def test_analytic_clips_of_their_own_distribution_are_near_the_best(bits: int, symmetric: bool) -> None:
    """Within a tenth of the search's error from 3 bits on, from a histogram and from numbers; one sign has a bit more.

    With 2 bits there are three or four levels: the formula's many small steps are none.
    """
    form = Form(bits, symmetric)
    laplace = torch.distributions.Laplace(0.0, 2.0).sample((60_000,)) + (0.0 if symmetric else 0.5)
    for x, method in ((laplace, ACIQ()), (NORMAL, ACIQ("normal"))):
        best = squared(x, fake_quantize(x, fit(x, form, MSE())))
        grids = fit(x, form, method), calibrate(method, x.split(7_000), form)
        for grid in grids:
            assert squared(x, fake_quantize(x, grid)) < (1.1 if bits > 2 else 1.7) * best
        assert float(grids[0].scale) == pytest.approx(float(grids[1].scale), rel=2e-3)
    one_sided = laplace.abs()
    grid = fit(one_sided, Form(bits, symmetric=False), ACIQ())
    reach = float(grid.scale) * (2**bits - 1)
    assert reach == pytest.approx(float(one_sided.mean()) * ACIQ().clip(bits + 1), rel=1e-3)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("method", [MinMax(), Percentile(99.0), MSE(), KL()], ids=lambda m: type(m).__name__)
def test_static_grids_of_every_kind(
    symmetric: bool, axis: int | None, bits: int, method: RangeMethod
) -> None:
    """Every combination gives the grid that was asked for, and the methods differ where a tail gives them reason to."""
    form = Form(bits, symmetric, axis=axis)
    x = torch.distributions.StudentT(2.0).sample((800, 3))
    grid = calibrate(method, x.split(64), form)
    assert grid.form == form and grid.scale.shape == (() if axis is None else (3,))
    if not isinstance(method, MinMax):
        assert bool((grid.scale < calibrate(MinMax(), [x], form).scale).all())


def test_means_are_exact_and_by_channel() -> None:
    """The mean of multiples of 2^-24 exactly; the same bits for any batches; of any others within a rounding."""
    x = torch.randint(-(2**20), 2**20, (501, 3)).float() / 2**10
    found = []
    for size in (1, 2, 7, 64):
        seen = Means()
        for batch in x.split(size):
            seen.add(batch)
        found.append(seen.mean())
    for mean in found:
        assert torch.equal(mean, x.double().mean(0).float())
    y = torch.randn(400, 2, 3)
    seen = Means()
    seen.add(y)
    torch.testing.assert_close(seen.mean(), y.double().mean((0, 1)).float(), rtol=0, atol=2**-25)
    large = Means()
    assert "64 bits" in refused(lambda: large.add(torch.full((2, 1), 3e38)), "calibration-range")


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(method: RangeMethod, bad: float) -> None:
    """By name, before anything is remembered of the batch."""
    x = torch.randn(5, 3)
    observer = method.start(Form())
    observer.add(x)
    before = state(observer)
    spoilt = x * 100
    spoilt[2, 1] = bad
    assert "NaN or infinity" in refused(lambda: observer.add(spoilt), "non-finite")
    assert state(observer) == before
    refused(lambda: Means().add(spoilt), "non-finite")


def test_what_does_not_fit_is_refused() -> None:
    """Axes that hold samples, other channels, other kinds, groups, settings."""
    x = torch.randn(5, 3)
    for axis in (0, -2, 2):
        text = refused(lambda a=axis: calibrate(MinMax(), [x], Form(axis=a)), "calibration-axis")
        assert "holds the samples" in text
    for make in (lambda: Extremes(1), lambda: Histogram(1), lambda: Averages(0.9, 1), Means):
        seen = make()
        seen.add(x)
        assert "4 channels after batches of 3" in refused(
            lambda s=seen: s.add(torch.randn(5, 4)), "calibration-mismatch"
        )
    assert "bins is" in refused(lambda: Histogram().merge(Histogram(bins=16)), "calibration-mismatch")
    assert "axis is" in refused(lambda: Extremes().merge(Extremes(1)), "calibration-mismatch")
    for method in METHODS:
        text = refused(lambda m=method: m.start(Form(axis=0, group=4)), "calibration-group", Usage)
        assert "Use fit" in text
    for wrong in (
        lambda: Percentile(49.0),
        lambda: Percentile(100.1),
        lambda: Percentile(math.nan),
        lambda: MovingAverage(1.0),
        lambda: MSE(candidates=0),
        lambda: MSE(power=0.0),
        lambda: KL(magnitudes=4),
        lambda: Histogram(bins=1000),
    ):
        refused(wrong, "calibration-settings", Usage)
