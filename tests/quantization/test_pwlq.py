"""PWLQ on tensors: breakpoints, errors, the int8 form, packed codes, and channels that have hardly any shape."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsam.errors import Refused, SparsamError, Usage
from sparsam.models.integers import on_grid
from sparsam.quantization import quantize_weight
from sparsam.quantization.bits import pack_bits, unpack_bits
from sparsam.quantization.levels import Ordered, exact_scale
from sparsam.quantization.pwlq import (
    BREAKPOINTS,
    Outermost,
    PiecewiseGrid,
    closed_form,
    counts,
    expected_error,
    from_pieces,
    in_pieces,
    input_grid,
    largest_ratio,
    optimum,
    quantize_pwlq,
    released,
    released_correction,
    slope,
    steps_a_piece,
    uniform,
    unpacked,
)

# Of a Gaussian and a Laplacian of unit variance: range, root of the derivative, closed form (the method's card and paper).
OPTIMA = {
    "gaussian": {2: 0.882, 3: 1.158, 4: 1.392, 5: 1.589, 6: 1.755, 8: 2.015, 10: 2.210, 12: 2.362, 16: 2.587},
    "laplace": {2: 0.809, 3: 1.068, 4: 1.291, 5: 1.487, 6: 1.660, 8: 1.956, 10: 2.202, 12: 2.411, 16: 2.752},
}


def sample(law: str, *shape: int) -> Tensor:
    """Numbers of unit variance."""
    if law == "gaussian":
        return torch.randn(*shape)
    return torch.distributions.Laplace(0.0, math.sqrt(0.5)).sample(shape)


def mse(x: Tensor, y: Tensor) -> float:
    return float((x.double() - y.double()).square().mean())


def refused(call: Callable[[], object], code: str, kind: type[SparsamError] = Refused) -> str:
    """The text of the error that ``call`` must raise."""
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.code == code
    return str(caught.value)


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_closed_forms_are_near_the_optimum(law: str) -> None:
    """The root is the card's to its digits; on ranges from 3 to 10 the fits are within 0.013 (Gauss) and 0.022 sigma of it."""
    reach = torch.tensor(list(OPTIMA[law]), dtype=torch.float64)
    root = optimum(reach, law)[:, 0]  # type: ignore[arg-type]
    assert torch.allclose(root, torch.tensor(list(OPTIMA[law].values()), dtype=torch.float64), atol=6e-4)
    wide = torch.linspace(3, 10, 71, dtype=torch.float64)
    far = (closed_form(wide, law) - optimum(wide, law)[:, 0]).abs().max()  # type: ignore[arg-type]
    assert far < (0.013 if law == "gaussian" else 0.022)


def test_the_closed_form_is_p_over_sigma() -> None:
    """Read as p / m, as it is printed, it would lie outside the range at m = 3 sigma: beyond half of it at least."""
    reach = torch.tensor([3.0], dtype=torch.float64)
    assert float(closed_form(reach)) > 1.0  # no share of m
    assert float(optimum(reach)) / 3 == pytest.approx(0.386, abs=1e-3)


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
@pytest.mark.parametrize("reach", [3.0, 4.0, 6.0, 8.0, 10.0])
def test_expected_error_is_convex_with_one_optimum(law: str, reach: float) -> None:
    """On (0, m/2): second differences positive, one change of sign of the slope, and slope is the error's own derivative."""
    p = torch.linspace(0.001, 0.499, 500, dtype=torch.float64)[:, None] * reach
    m = torch.full((500,), reach, dtype=torch.float64)
    error, rise = expected_error(p, m, 4, law), slope(p, m, 0, law)  # type: ignore[arg-type]
    assert bool((error.diff().diff() > 0).all())
    assert int((rise.sign().diff() != 0).sum()) == 1
    numeric = (error[2:] - error[:-2]) / (p[2:, 0] - p[:-2, 0]) * 12 * steps_a_piece(4) ** 2 / 2
    assert float((numeric - rise[1:-1]).abs().max() / rise.abs().max()) < 1e-3


def test_the_lemma_holds_for_the_model() -> None:
    """At the optimum the expected error is below C(b-1) / (16 C(b)) of the uniform one's, C(b) (2m)^2."""
    m = torch.linspace(2, 12, 21, dtype=torch.float64)
    for bits in range(2, 9):
        uniform_error = (2 * m).square() / (12 * (2**bits - 1) ** 2)
        bound = ((2**bits - 1) / (2 ** (bits - 1) - 1)) ** 2 / 16
        assert bool((expected_error(optimum(m), m, bits) < bound * uniform_error).all())


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_sampled_errors_keep_the_lemma(law: str) -> None:
    """Full range, 3 to 8 bits, 100,000 numbers: below C(b-1) / (16 C(b)) of a uniform grid with step 2m / (2^b - 1)."""
    x = sample(law, 1, 100_000)
    m = float(x.abs().max())
    for bits in range(3, 9):
        step = 2 * m / (2**bits - 1)
        flat = (((x + m) / step).round() * step - m).clamp(-m, m)
        bound = ((2**bits - 1) / (2 ** (bits - 1) - 1)) ** 2 / 16
        found = quantize_pwlq(x, bits, breakpoint=law)
        assert mse(found.dequantized(), x) < bound * mse(flat, x), bits
        assert float(found.coarse_errors) > 0


# The card's table: 20,000 numbers of unit variance; uniform of b + 1 bits at the full range and clipped, PWLQ of b bits at the
# full range and searched. The full range of 20,000 numbers varies from draw to draw, so medians of draws are compared.
TABLE = {
    ("gaussian", 3): (2.97e-2, 1.32e-2, 2.57e-2, 1.53e-2),
    ("gaussian", 4): (6.35e-3, 3.80e-3, 4.86e-3, 3.64e-3),
    ("gaussian", 5): (1.45e-3, 1.01e-3, 1.04e-3, 8.55e-4),
    ("laplace", 3): (5.99e-2, 2.48e-2, 3.85e-2, 2.38e-2),
    ("laplace", 4): (2.01e-2, 8.82e-3, 8.91e-3, 6.41e-3),
    ("laplace", 5): (4.56e-3, 2.74e-3, 1.94e-3, 1.63e-3),
}


@pytest.mark.parametrize(("law", "bits"), TABLE)
def test_equal_storage_table_is_reproduced(law: str, bits: int) -> None:
    """Searched columns within 15 %, full-range ones within the spread of draws; who wins is the same."""
    x = sample(law, 9, 20_000)
    full, clipped = uniform(x, bits + 1, clip=False), uniform(x, bits + 1)
    at_range, searched = quantize_pwlq(x, bits, breakpoint="grid"), quantize_pwlq(x, bits)
    found = [
        float((full - x).square().mean(1).median()),
        float((clipped - x).square().mean(1).median()),
        float(at_range.errors.median()),
        float(searched.errors.median()),
    ]
    wanted = TABLE[law, bits]
    assert found[1] == pytest.approx(wanted[1], rel=0.15)
    assert found[3] == pytest.approx(wanted[3], rel=0.15)
    assert found[0] == pytest.approx(wanted[0], rel=0.6)
    assert found[2] == pytest.approx(wanted[2], rel=0.35)
    assert torch.allclose(searched.uniform_errors, (clipped - x).double().square().mean(1))
    assert (found[3] < found[1]) == (
        wanted[3] < wanted[1]
    )  # at 3 bits a Gaussian is better off with the uniform grid


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_each_better_search_loses_less_on_every_channel(law: str) -> None:
    """Exact <= search + 3 % and search <= grid <= closed form <= uniform of b bits; in int8 the same, never below free."""
    w = sample(law, 24, 256) * torch.rand(24, 1)
    for bits in (3, 4):
        found = {how: quantize_pwlq(w, bits, breakpoint=how).errors for how in BREAKPOINTS}
        whole = {how: quantize_pwlq(w, bits, breakpoint=how, form="int8").errors for how in BREAKPOINTS}
        slack = 1 + 1e-5  # steps are float32
        for one in (found, whole):
            assert bool((one["search"] <= one["grid"] * slack).all())
            assert bool((one["exact"] <= one["search"] * (1.03 if one is found else slack)).all())
        assert bool((found["grid"] <= found["gaussian"] * slack).all())
        assert bool((found["grid"] <= found["laplace"] * slack).all())
        assert bool((found["gaussian"] < quantize_pwlq(w, bits).coarse_errors).all())
        assert bool((found["exact"] <= whole["exact"] * slack).all())
        assert float(whole["search"].mean() / whole["exact"].mean()) < 1.05


def test_exact_scale_is_the_least_of_a_dense_row_of_scales() -> None:
    """No scale of 20,000 tried ones is better than the one that moments give, and its error is the true one."""
    x = sample("laplace", 6, 40).abs()
    levels = counts(2, 7) @ torch.tensor([1.0, 5.0], dtype=torch.float64)
    scale, error = exact_scale(x, levels)
    tried = torch.linspace(1e-4, 1.0, 20_000, dtype=torch.float64)
    true = Ordered(x).error(tried[:, None] * levels * torch.ones(6, 1, 1, dtype=torch.float64))
    own = Ordered(x).error((scale[:, None] * levels)[:, None])[:, 0]
    assert torch.allclose(own, error, rtol=1e-9)
    assert bool((error <= true.amin(1) * (1 + 1e-9)).all())


def test_exact_free_form_is_the_least_of_a_dense_grid() -> None:
    """Breakpoint and range together, against 150 x 150 pairs of steps: within 2 % of the least of them, or below."""
    x = sample("gaussian", 3, 48)
    found = quantize_pwlq(x, 3, breakpoint="exact").errors
    m, share = torch.meshgrid(
        torch.linspace(0.3, 1.05, 150).double(), torch.linspace(0.03, 0.7, 150).double(), indexing="ij"
    )
    ordered = Ordered(x.abs())
    steps = torch.stack([m * share, m * (1 - share)], 2).flatten(0, 1) / 3 * ordered.largest[:, None, None]
    least = ordered.error(steps @ counts(2, 3).T).amin(1) / 48
    assert bool((found <= least * 1.02).all())


def test_errors_from_sums_are_those_of_rounding() -> None:
    """What sums from the left give for candidates is the squared distance to the nearest level, number by number."""
    x = sample("laplace", 4, 100).double().abs()
    levels = torch.rand(4, 5, 9, dtype=torch.float64).cumsum(2) - 0.5
    levels[..., 0] = 0.0
    levels = levels.sort(2).values
    by_hand = (x[:, None, :, None] - levels[:, :, None]).square().amin(3).sum(2)
    assert torch.allclose(Ordered(x).error(levels), by_hand)


def test_half_the_range_is_the_uniform_grid() -> None:
    """With p = m / 2 all 4L + 1 levels are evenly apart, and rounding is uniform."""
    x = sample("gaussian", 3, 500)
    m = x.abs().amax(1, keepdim=True)
    for bits in (3, 4, 6):
        top = 2 * steps_a_piece(bits)
        grid = PiecewiseGrid((m / top).expand(3, 2).contiguous(), bits)
        step = m.double() / top
        assert torch.allclose(grid.fake_quantize(x), ((x / step).round() * step).float(), atol=1e-6)


@pytest.mark.parametrize("form", ["free", "int8"])
@pytest.mark.parametrize("breakpoint", BREAKPOINTS)
def test_laws_of_rounding(breakpoint: str, form: str) -> None:
    """Rounding is odd, changes nothing the second time, and keeps to its levels; the codes have b + 1 bits."""
    w = sample("laplace", 5, 120)
    found = quantize_pwlq(w, 4, breakpoint=breakpoint, form=form)  # type: ignore[arg-type]
    back = found.dequantized()
    assert torch.equal(found.grid.fake_quantize(back), back)
    mirrored = quantize_pwlq(-w, 4, breakpoint=breakpoint, form=form)  # type: ignore[arg-type]
    assert torch.equal(mirrored.dequantized(), -back)
    assert found.grid.width == 5 and int(found.codes.abs().max()) <= 14
    assert torch.allclose(found.errors, (back - w).double().square().mean(1))


def test_a_second_search_finds_the_first_one_s_levels() -> None:
    """A weight that was rounded is rounded to itself when it is searched anew."""
    back = quantize_pwlq(sample("gaussian", 6, 300), 4, form="int8").dequantized()
    again = quantize_pwlq(back, 4, form="int8", breakpoint="exact").dequantized()
    assert float((again - back).abs().max()) <= 1e-6 * float(back.abs().max())


@pytest.mark.parametrize("form", ["free", "int8"])
def test_more_bits_never_lose_more(form: str) -> None:
    """On every channel, from 2 bits to as many as the form has."""
    w = sample("laplace", 12, 400)
    errors = [quantize_pwlq(w, bits, form=form).errors for bits in range(2, 8 if form == "int8" else 9)]  # type: ignore[arg-type]
    for fewer, more in pairwise(errors):
        if form == "int8" and more is errors[-1]:
            continue  # 7 bits fill 127 with one ratio, 1: a uniform grid
        assert bool((more <= fewer).all())


@pytest.mark.parametrize("pieces", [2, 3, 4])
def test_more_breakpoints_never_lose_more(pieces: int) -> None:
    """Searched: one to three, by channel and in all; stored bits are those of the number of levels."""
    w = sample("gaussian", 3, 200)
    found = quantize_pwlq(w, 4, breakpoints=pieces - 1)
    assert found.grid.steps.shape == (3, pieces) and found.grid.breakpoints.shape == (3, pieces - 1)
    assert found.grid.width == {2: 5, 3: 6, 4: 6}[pieces]
    if pieces > 2:
        fewer = quantize_pwlq(w, 4, breakpoints=pieces - 2)
        assert bool((found.errors <= fewer.errors * (1 + 1e-6)).all())
    in_all = quantize_pwlq(w, 4, breakpoints=pieces - 1, per="tensor")
    assert in_all.grid.steps.shape == (1, pieces) and float(in_all.errors.mean()) < float(
        in_all.coarse_errors.mean()
    )
    by_law = quantize_pwlq(w, 4, breakpoints=pieces - 1, breakpoint="gaussian")
    at_range = quantize_pwlq(w, 4, breakpoints=pieces - 1, breakpoint="grid")
    assert bool((at_range.errors <= by_law.errors * (1 + 1e-6)).all())
    assert bool((found.errors <= at_range.errors * (1 + 1e-6)).all())


def test_several_breakpoints_of_the_law_are_where_no_other_is_better() -> None:
    """Moving either of two breakpoints of the expected error's optimum a little either way raises it."""
    reach = torch.tensor([4.0, 7.0], dtype=torch.float64)
    p = optimum(reach, "gaussian", 2)
    least = expected_error(p, reach, 4)
    for at in (0, 1):
        for by in (-0.01, 0.01):
            moved = p.clone()
            moved[:, at] += by
            assert bool((expected_error(moved, reach, 4) > least).all())


@pytest.mark.parametrize("bits", range(2, 8))
@pytest.mark.parametrize("per", ["channel", "tensor"])
def test_int8_form_is_an_int8_tensor(bits: int, per: str) -> None:
    """Integers lie in -127 to 127, and times their scales are the dequantized weight, bit for bit."""
    w = sample("laplace", 7, 90)
    found = quantize_pwlq(w, bits, form="int8", per=per)  # type: ignore[arg-type]
    q = found.integers()
    assert q.dtype == torch.int8 and int(q.abs().max()) <= 127 and found.scales.shape == (7,)
    assert torch.equal(on_grid(q, found.scales), found.dequantized())
    assert len(q.unique()) <= 4 * steps_a_piece(bits) + 1 or per == "channel"
    assert largest_ratio(bits) == min(19, 127 // steps_a_piece(bits) - 1)


def test_int8_product_is_the_product_of_the_dequantized_weight() -> None:
    """torch's own int8 product, times the scales, within 1e-6 of floating point; the graph holds an int8 product."""
    w, x = sample("gaussian", 48, 64), torch.randint(-128, 128, (32, 64), dtype=torch.int8)
    found = quantize_pwlq(w, 4, form="int8")
    q, scales = found.integers(), found.scales

    class Product(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch._int_mm(x, q.T.contiguous()).float() * scales  # type: ignore[attr-defined]

    exact = x.double() @ found.dequantized().double().T
    assert float((Product()(x).double() - exact).abs().max() / exact.abs().max()) < 1e-6
    graph = torch.export.export(Product(), (x,)).graph
    products = [node for node in graph.nodes if "_int_mm" in str(node.target)]
    assert len(products) == 1
    assert [a.meta["val"].dtype for a in products[0].args] == [torch.int8, torch.int8]


def test_int8_form_loses_little_to_the_free_one() -> None:
    """Without a searched range within 7 % of it in the mean, with one within 10 %, for 3 to 5 bits and three laws."""
    laws = [sample("gaussian", 4, 4000), sample("laplace", 4, 4000)]
    laws.append(torch.distributions.StudentT(5.0).sample((4, 4000)))
    for w in laws:
        for bits in (3, 4, 5):
            for how, limit in (("grid", 1.07), ("search", 1.10)):
                free = quantize_pwlq(w, bits, breakpoint=how).errors.mean()
                assert float(quantize_pwlq(w, bits, breakpoint=how, form="int8").errors.mean() / free) < limit


def test_a_product_is_a_sum_over_pieces() -> None:
    """Inputs in integers: one product of integers a piece, each times its step, is the dequantized weight's (equation 12)."""
    w = sample("gaussian", 5, 60)
    x = torch.randint(0, 256, (9, 60)).double()
    for breakpoints in (1, 2, 3):
        found = quantize_pwlq(w, 4, breakpoints=breakpoints)
        parts = found.grid.parts(found.codes)
        assert parts.shape[0] == breakpoints + 1 and int(parts.abs().max()) <= 7
        sums = torch.stack([x @ part.double().T for part in parts])  # exact integers
        y = (sums * found.grid.steps.double().T[:, None]).sum(0)
        exact = x @ found.dequantized().double().T
        assert float((y - exact).abs().max() / exact.abs().max()) < 1e-6


@pytest.mark.parametrize("width", range(2, 17))
@pytest.mark.parametrize("numbers", [0, 1, 7, 8, 13])
def test_bits_are_packed_without_loss(width: int, numbers: int) -> None:
    """Every integer of so many bits comes back, whatever the length of a row."""
    reach = 1 << width - 1
    q = torch.randint(-reach, reach, (3, numbers))
    if numbers:
        q[0, 0], q[-1, -1] = -reach, reach - 1
    stored = pack_bits(q, width)
    assert stored.dtype == torch.uint8 and stored.shape == (3, -(-numbers * width // 8))
    assert torch.equal(unpack_bits(stored, width, numbers).long(), q)


@pytest.mark.parametrize("bits", range(2, 9))
def test_packed_codes_come_back_from_a_file(bits: int, tmp_path: Path) -> None:
    """From safetensors the same weight, bit for bit; the file is (b + 1) / 32 of float32 and the scales, within 1 %."""
    w = sample("laplace", 64, 32, 3, 3)
    forms = [("free", 1), ("free", 3)] + ([("int8", 1)] if bits < 8 else [])
    for form, breakpoints in forms:
        found = quantize_pwlq(w, bits, form=form, breakpoint="gaussian", breakpoints=breakpoints)  # type: ignore[arg-type]
        held = {"codes": found.packed(), "steps": found.grid.steps}
        if found.grid.ratios is not None:
            held |= {
                "steps": found.grid.steps[:, :1].contiguous(),
                "ratios": found.grid.ratios.to(torch.uint8),
            }
        save_file(held, tmp_path / "w.safetensors")
        read = load_file(tmp_path / "w.safetensors")
        ratios = read["ratios"].to(torch.int32) if "ratios" in read else None
        steps = (
            read["steps"]
            if ratios is None
            else torch.cat([read["steps"], read["steps"] * ratios[:, None]], 1)
        )
        grid = PiecewiseGrid(steps, bits, ratios)
        assert torch.equal(grid.dequantize(unpacked(read["codes"], grid, w.shape)), found.dequantized())
        wanted = found.stored_bits / 8
        assert breakpoints > 1 or wanted == w.numel() * (bits + 1) / 8 + 64 * (5 if form == "int8" else 8)
        header = 8 + int.from_bytes((tmp_path / "w.safetensors").read_bytes()[:8], "little")
        assert (tmp_path / "w.safetensors").stat().st_size - header == pytest.approx(wanted, rel=0.01)


def test_packed_codes_that_do_not_fit_are_refused() -> None:
    """Missing bytes, and codes that no level has, are said by name."""
    found = quantize_pwlq(sample("gaussian", 4, 10), 4)
    stored = found.packed()
    assert "7 bytes" in refused(lambda: unpacked(stored[:, :-1], found.grid, found.codes.shape), "bits-shape")
    wrong = pack_bits(torch.full((4, 10), -16), 5)
    assert "-14 to 14" in refused(lambda: unpacked(wrong, found.grid, found.codes.shape), "pwlq-codes")
    assert "-16 to 15" in refused(lambda: pack_bits(torch.full((1, 2), 16), 5), "bits-range")


@pytest.mark.parametrize("form", ["free", "int8"])
@pytest.mark.parametrize("breakpoint", BREAKPOINTS)
def test_channels_of_hardly_any_shape(breakpoint: str, form: str) -> None:
    """All zeros, one number that is not, a constant, one magnitude of two signs are exact; other rows are finite."""
    w = torch.zeros(9, 8)
    w[1, 3] = -0.3
    w[2] = 0.7
    w[3] = torch.tensor([1.0, -1.0] * 4) * 0.123
    w[4] = torch.tensor([0.0, 2.5] * 4)
    w[5] = torch.tensor([0.9, 1.0] * 4)
    w[6] = torch.tensor([0.9, -1.0] * 4)
    w[7] = 1e-35 * torch.tensor([1.0, 2.0] * 4)
    w[8, :2] = torch.tensor([1000.0, 0.001])
    found = quantize_pwlq(w, 4, breakpoint=breakpoint, form=form)  # type: ignore[arg-type]
    back = found.dequantized()
    assert torch.equal(back[:5], w[:5])
    assert bool(back.isfinite().all()) and bool(found.errors.isfinite().all())
    assert float((back[5:7] - w[5:7]).abs().max()) < 0.04 and bool((back[7] == 0).all())
    assert float(back[8, 0]) == pytest.approx(1000.0, rel=1e-5)
    if form == "int8":
        assert torch.equal(on_grid(found.integers(), found.scales), back)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (3, 1), (1, 1), (4, 2, 3, 3)])
def test_any_shape_of_weight(shape: tuple[int, ...]) -> None:
    """No outputs, no inputs, one weight an output, a convolution: the record has the weight's shape."""
    w = torch.randn(*shape)
    for form in ("free", "int8"):
        found = quantize_pwlq(w, 4, form=form)  # type: ignore[arg-type]
        assert found.dequantized().shape == w.shape and found.errors.shape == shape[:1]
        assert torch.equal(unpacked(found.packed(), found.grid, w.shape), found.codes)
    assert shape[1:] != (1,) or torch.equal(found.dequantized(), w)


def test_what_does_not_go_together_is_refused_by_name() -> None:
    """NaN, one bit, strange names, forms that have no place in int8."""
    w = torch.randn(2, 8)
    assert "2 to 8" in refused(lambda: quantize_pwlq(w, 1), "pwlq-settings", Usage)
    assert "NaN" in refused(lambda: quantize_pwlq(w / 0 * 0, 4), "non-finite")
    wrong = refused(lambda: quantize_pwlq(w, 4, breakpoint="cauchy"), "pwlq-settings", Usage)
    assert "gaussian, laplace" in wrong and "'cauchy'" in wrong
    assert "254" in refused(lambda: quantize_pwlq(w, 8, form="int8"), "pwlq-settings", Usage)
    several = refused(lambda: quantize_pwlq(w, 4, form="int8", breakpoints=2), "pwlq-settings", Usage)
    assert "one breakpoint" in several
    exact = refused(lambda: quantize_pwlq(w, 4, breakpoint="exact", breakpoints=2), "pwlq-settings", Usage)
    assert "search" in exact
    assert "free form" in refused(lambda: quantize_pwlq(w, 4).integers(), "pwlq-form")
    grid = quantize_pwlq(w, 4).grid
    assert "2 channels" in refused(lambda: grid.quantize(torch.randn(3, 8)), "quantization-shape")
    assert "from 1 to 17" in refused(
        lambda: PiecewiseGrid(grid.steps, 4, torch.tensor([18, 1], dtype=torch.int32)), "pwlq-ratio"
    )


def test_released_centre_is_two_s_complement() -> None:
    """At four bits centre levels are 2p / 15 apart up to 14/15 p, and -p itself goes to -16/15 p; tails begin at p."""
    w = sample("gaussian", 1, 5000)
    p = float(closed_form((w.abs().max() / w.std())[None].double())) * float(w.std())
    back = released(w, 4)
    centre = back[w.abs() < 0.999 * p] / p
    assert float(centre.max()) == pytest.approx(14 / 15, abs=1e-3)
    assert float(centre.min()) == pytest.approx(-14 / 15, abs=1e-3)
    assert float(centre.unique().diff().min()) == pytest.approx(2 / 15, abs=1e-3)
    assert float(back[w.abs() > p].abs().min()) == pytest.approx(p, rel=1e-3)
    assert len(back.unique()) <= 32
    ratio = mse(back, w) / mse(quantize_pwlq(w, 4, breakpoint="gaussian").dequantized(), w)
    assert 0.7 < ratio < 1.1


def test_released_correction_gives_the_spread_and_leaves_the_levels() -> None:
    """Each output has the exact weights' standard deviation and nearly their mean; zero is then no level any more."""
    w = sample("laplace", 4, 200) + 0.1
    back = quantize_pwlq(w, 4, form="int8").dequantized()
    moved = released_correction(w, back)
    stretch = w.std(1) / back.std(1)
    assert torch.allclose(moved.mean(1), w.mean(1) * stretch, atol=1e-5)
    assert torch.allclose(moved.std(1), w.std(1), rtol=1e-4)
    assert len(moved[0].unique()) == len(back[0].unique()) and float(moved[0].abs().min()) > 0


def test_uniform_of_any_width_is_no_worse_than_the_package_s_own_search() -> None:
    """The clipped grid to compare with is at least as near as the one that products in integers have."""
    w = sample("laplace", 30, 200)
    for bits in (3, 4, 5, 8):
        q, grid = quantize_weight(w, bits)
        own = ((q.float() * grid.scale[:, None]) - w).square().sum()
        assert float((uniform(w, bits) - w).square().sum()) <= 1.002 * float(own)


def test_inputs_have_a_grid_in_pieces() -> None:
    """Signed or not, as the sample is; nearer than uniform of b bits; ranges end at medians of the ten outermost numbers."""
    for x in (sample("laplace", 4000), sample("laplace", 4000).relu()):
        grid = input_grid(x, 4)
        signed = bool((x < 0).any())
        assert grid.signed == signed and grid.width == 5
        if not signed:
            assert float(grid.fake_quantize(torch.tensor([-3.0]))) == 0.0
        flat = uniform(x[None], 4 if signed else 5, clip=False)[0]
        assert mse(grid.fake_quantize(x), x) < mse(flat, x)
    assert float(input_grid(torch.zeros(5), 4).fake_quantize(torch.zeros(5)).abs().max()) == 0.0
    whole, split = Outermost(), Outermost()
    x = torch.randn(300)
    whole.add(x)
    for part in x.split(7):
        split.add(part)
    assert whole.bounds() == split.bounds()
    assert float(whole.bounds()[1]) == float(x.sort(descending=True).values[4:6].mean())
    narrow = input_grid(x, 4, reach=float(whole.bounds()[1]))
    assert float(narrow.reach) == pytest.approx(float(whole.bounds()[1]), rel=1e-6)
    assert "no numbers" in refused(lambda: Outermost().bounds(), "calibration-empty")
    assert "no numbers" in refused(lambda: input_grid(torch.zeros(0)), "calibration-empty")


@pytest.mark.data
def test_searches_on_every_channel_of_a_real_model(shared: Path) -> None:
    """MiniLM's 36 matrices: grid <= closed forms <= uniform of b bits on every output; the mean beats equal storage."""
    held = load_file(shared / "models" / "minilm-sst2" / "model.safetensors")
    matrices = [w.float() for name, w in held.items() if "encoder" in name and w.ndim == 2]
    assert len(matrices) == 36
    for w in matrices[::6]:
        found = {how: quantize_pwlq(w, 4, breakpoint=how) for how in ("gaussian", "laplace", "grid")}
        for law in ("gaussian", "laplace"):
            assert bool((found["grid"].errors <= found[law].errors * (1 + 1e-5)).all())
            assert bool((found[law].errors <= found[law].coarse_errors).all())
        best = quantize_pwlq(w, 4, form="int8")
        assert float(best.errors.mean()) < float(best.uniform_errors.mean())


@pytest.mark.parametrize("bits", range(2, 8))
@pytest.mark.parametrize("inputs", [0, 1, 37])
def test_integers_alone_are_packed(bits: int, inputs: int) -> None:
    """Every integer of the int8 form comes back from b + 1 bits, its ratio found again from the integers."""
    found = quantize_pwlq(sample("laplace", 40, inputs), bits, form="int8").integers()
    length, top = steps_a_piece(bits), largest_ratio(bits)
    made = torch.randint(-2 * length, 2 * length + 1, (40, inputs))
    ratios = torch.randint(1, top + 1, (40, 1))
    made = (made.abs().clamp(max=length) + (made.abs() - length).clamp(min=0) * ratios) * made.sign()
    for integers in (found, made.to(torch.int8)):
        stored = in_pieces(integers, bits)
        assert stored.shape == (40, 1 + -(-inputs * (bits + 1) // 8))
        assert torch.equal(from_pieces(stored, bits, inputs), integers)
