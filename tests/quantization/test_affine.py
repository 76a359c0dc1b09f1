"""Grids of integers: their laws, the shapes they are for, tokens on grids of their own, exact products."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsam.errors import Refused, SparsamError, Usage
from sparsam.quantization import (
    INPUT,
    Form,
    Grid,
    dequantize,
    fake_quantize,
    fake_quantize_tokens,
    fit,
    grid_between,
    integer_product,
    integer_sums,
    quantize,
    quantize_tokens,
    weight_form,
)
from sparsam.quantization.affine import SMALLEST, inside

forms = st.one_of(
    st.builds(Form, bits=st.integers(2, 8), full=st.booleans()),
    st.builds(Form, bits=st.integers(2, 8), symmetric=st.just(False), signed=st.booleans()),
)
numbers = st.floats(-1e6, 1e6, width=32)
samples = st.lists(numbers, min_size=1, max_size=40).map(lambda x: torch.tensor(x, dtype=torch.float32))


def refused(call: Any, code: str, kind: type[SparsamError] = Refused) -> str:
    """The text of the error that ``call`` must raise."""
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.code == code
    return str(caught.value)


@given(samples, forms)
@settings(max_examples=300, deadline=None)
def test_laws_of_a_grid(x: Tensor, form: Form) -> None:
    """Integers in their bounds and dtype; zero exact; idempotent; monotone; half a step at most inside the range."""
    grid = grid_between(x.min(), x.max(), form)
    q = quantize(x, grid)
    assert q.dtype is (torch.int8 if form.signed else torch.uint8)
    assert form.lowest <= int(q.min()) <= int(q.max()) <= form.highest
    assert not dequantize(quantize(torch.zeros(1), grid), grid).any()
    back = dequantize(q, grid)
    assert torch.equal(quantize(back, grid), q)
    assert torch.equal(fake_quantize(x, grid), back)
    ordered = quantize(x.sort().values, grid).int()
    assert bool((ordered.diff() >= 0).all())
    lowest, highest = (float(grid.scale) * (level - int(grid.zero)) for level in (form.lowest, form.highest))
    held = (x >= lowest) & (x <= highest)
    assert bool(((x - back).abs()[held] <= 0.5001 * grid.scale).all())


@given(samples, forms)
@settings(max_examples=200, deadline=None)
def test_a_range_is_covered(x: Tensor, form: Form) -> None:
    """Every number between the ends of the range comes back within half a step, or one where the zero was rounded."""
    grid = grid_between(x.min(), x.max(), form)
    reach = 0.5001 if form.symmetric else 1.0001
    assert bool(((x - fake_quantize(x, grid)).abs() <= reach * grid.scale).all())


def test_numbers_by_hand() -> None:
    """Two bits affine over [-1, 2]: s = 1, z = 1. Three bits symmetric over 3: s = 1. Halves go to the even integer."""
    grid = grid_between(torch.tensor(-1.0), torch.tensor(2.0), Form(2, symmetric=False, signed=False))
    assert (float(grid.scale), int(grid.zero)) == (1.0, 1)
    assert quantize(torch.tensor([-9.0, -1, -0.5, 0.5, 1.5, 2, 9]), grid).tolist() == [0, 0, 1, 1, 3, 3, 3]
    signed = grid_between(torch.tensor(-1.0), torch.tensor(2.0), Form(2, symmetric=False))
    assert int(signed.zero) == -1
    assert quantize(torch.tensor([-1.0, 0, 2]), signed).tolist() == [-2, -1, 1]
    even = grid_between(torch.tensor(-3.0), torch.tensor(1.0), Form(3))
    assert quantize(torch.tensor([-4.0, -2.5, -1.5, 0.5, 1.5, 2.5]), even).tolist() == [-3, -2, -2, 0, 2, 2]
    full = grid_between(torch.tensor(-3.0), torch.tensor(1.0), Form(3, full=True))
    assert quantize(torch.tensor([-4.0, 4.0]), full).tolist() == [-4, 3]
    infinite = quantize(torch.tensor([math.inf, -math.inf]), even)
    assert infinite.tolist() == [3, -3]


@pytest.mark.parametrize("form", [Form(4), Form(4, symmetric=False), INPUT])
@pytest.mark.parametrize("largest", [0.0, 1e-44, SMALLEST / 2])
def test_nothing_but_zeros(form: Form, largest: float) -> None:
    """A range that is zero, or too small to have an inverse, has the scale 1, and its numbers become zero."""
    x = torch.full((3,), largest)
    grid = fit(x, form)
    assert float(grid.scale) == 1.0
    assert not fake_quantize(x, grid).any()


def test_the_gradient_is_a_mask() -> None:
    """Straight through for what rounds to an integer of the grid, nothing for what is cut off."""
    grid = grid_between(torch.tensor(-1.0), torch.tensor(2.0), Form(2, symmetric=False))
    x = torch.tensor([-5.0, -1.4, -1.0, 0.2, 2.4, 2.6, 5.0], requires_grad=True)
    weights = torch.arange(1.0, 8.0)
    (fake_quantize(x, grid) * weights).sum().backward()
    wanted = torch.tensor([False, True, True, True, True, False, False])
    assert torch.equal(inside(x, grid), wanted)
    assert torch.equal(x.grad, weights * wanted)


def test_other_dtypes_and_nan() -> None:
    """bfloat16 in, bfloat16 out; NaN stays NaN in floating point and is refused as an integer."""
    grid = grid_between(torch.tensor(-1.0), torch.tensor(1.0), Form(8))
    assert fake_quantize(torch.randn(5, dtype=torch.bfloat16), grid).dtype is torch.bfloat16
    bad = torch.tensor([0.5, math.nan])
    assert fake_quantize(bad, grid).isnan().tolist() == [False, True]
    assert "NaN has no integer" in refused(lambda: quantize(bad, grid), "non-finite")
    assert "holds NaN" in refused(lambda: fit(bad, Form()), "non-finite")
    for end in (math.nan, math.inf):
        text = refused(lambda e=end: grid_between(torch.tensor(0.0), torch.tensor(e), Form()), "non-finite")
        assert "a range is NaN" in text


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_any_axis_has_scales(axis: int) -> None:
    """By channel is the same as each channel alone."""
    x = torch.randn(3, 4, 5) * torch.tensor([1.0, 20.0, 300.0])[:, None, None]
    for symmetric in (True, False):
        form, one = Form(5, symmetric, axis=axis), Form(5, symmetric)
        grid = fit(x, form)
        assert grid.scale.shape == (x.shape[axis],)
        alone = [fake_quantize(part, fit(part, one)) for part in x.unbind(axis)]
        assert torch.equal(fake_quantize(x, grid), torch.stack(alone, axis % 3))


@pytest.mark.parametrize("group", [1, 3, 4, 12, 50])
@pytest.mark.parametrize("axis", [0, 1])
def test_groups_and_a_shorter_last_one(group: int, axis: int) -> None:
    """By group is the same as each piece alone, the last one shorter where it does not come out even."""
    x = torch.randn(5, 12) if axis == 0 else torch.randn(12, 5).contiguous()
    form = Form(4, axis=axis, group=group)
    grid = fit(x, form)
    rows = x.movedim(axis, 0)
    assert grid.scale.shape == (5, math.ceil(12 / group))
    wanted = torch.stack(
        [torch.cat([fake_quantize(part, fit(part, Form(4))) for part in row.split(group)]) for row in rows]
    )
    assert torch.equal(fake_quantize(x, grid).movedim(axis, 0), wanted)
    assert torch.equal(dequantize(quantize(x, grid), grid), fake_quantize(x, grid))


def test_groups_of_a_convolution() -> None:
    """The numbers of a filter are grouped in the order they lie in."""
    x = torch.randn(2, 3, 2, 2)
    grid = fit(x, Form(4, axis=0, group=5))
    assert grid.scale.shape == (2, 3)
    torch.testing.assert_close(grid.scale[1, 2] * 7, x[1].flatten()[10:].abs().max())


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
@pytest.mark.parametrize("form", [Form(), Form(axis=0), Form(axis=0, group=3), Form(axis=1)])
def test_empty_weights(shape: tuple[int, int], form: Form) -> None:
    """A weight from which everything was cut has a grid, too."""
    x = torch.zeros(shape)
    grid = fit(x, form)
    assert quantize(x, grid).shape == shape
    assert dequantize(quantize(x, grid), grid).shape == shape


@pytest.mark.parametrize(
    ("settings_", "what"),
    [
        ({"bits": 1}, "2 to 8"),
        ({"bits": 9}, "2 to 8"),
        ({"signed": False}, "symmetric=False"),
        ({"symmetric": False, "full": True}, "full is for symmetric"),
        ({"group": 4}, "needs the axis"),
        ({"group": 0, "axis": 0}, "from 1 on"),
    ],
)
def test_forms_that_are_none(settings_: dict[str, Any], what: str) -> None:
    """A setting that makes no sense is named."""
    assert what in refused(lambda: Form(**settings_), "quantization-form", Usage)


def test_grids_that_are_none() -> None:
    """Scales, zero points and shapes that cannot be are refused, when made and when used."""
    one, zero = torch.tensor(1.0), torch.tensor(0, dtype=torch.int32)
    for scale in (0.0, -1.0, math.nan, math.inf):
        text = refused(lambda s=scale: Grid(torch.tensor(s), zero, Form()), "quantization-scale")
        assert "above 0 and finite" in text
    assert "0 to 255" in refused(lambda: Grid(one, zero - 1, INPUT), "quantization-zero")
    assert "2 axes" in refused(
        lambda: Grid(one[None], zero[None], Form(axis=0, group=2)), "quantization-shape"
    )
    grid = fit(torch.randn(4, 6), weight_form(8, 4))
    assert "needs (4, 3)" in refused(lambda: quantize(torch.randn(4, 9), grid), "quantization-shape")
    assert "needs (5, 2)" in refused(lambda: fake_quantize(torch.randn(5, 6), grid), "quantization-shape")
    assert "axis 2" in refused(lambda: fit(torch.randn(4, 6), Form(axis=2)), "quantization-shape")


@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4)),
)
@settings(max_examples=300, deadline=None)
def test_tokens_follow_the_formula(rows: list[list[float]]) -> None:
    """Each token by the formula, number by number in float32; what is too wide for float32 has NaN as its scale."""
    import numpy as np

    x = torch.tensor(rows, dtype=torch.float32).reshape(len(rows), 4)
    found = quantize_tokens(x)
    assert found.q.dtype is torch.uint8
    f = np.float32
    for row, q, zero, scale in zip(x.numpy(), found.q.numpy(), found.zero, found.scale, strict=True):
        low, high = min(f(0), row.min()), max(f(0), row.max())
        with np.errstate(over="ignore"):
            span = f(high - low)
        if not np.isfinite(span):
            assert math.isnan(float(scale)) and int(zero) == 0 and not q.any()
            continue
        s, inverse = (f(1), f(1)) if span < SMALLEST else (f(span / f(255)), f(f(255) / span))
        z = min(max(np.rint(f(-low * inverse)), f(0)), f(255))
        assert float(scale) == s and int(zero) == z
        wanted = [min(max(f(np.rint(f(number * inverse))) + z, f(0)), f(255)) for number in row]
        assert q.tolist() == wanted


def test_tokens_are_affine_grids_by_row() -> None:
    """The same scales and zero points as grids by channel, and integers that differ at most where a half is rounded."""
    x = torch.randn(50, 33) * torch.logspace(-3, 3, 50)[:, None] + 0.1
    q, zero, scale = quantize_tokens(x)
    grid = fit(x, Form(8, symmetric=False, signed=False, axis=0))
    assert torch.equal(grid.scale, scale) and torch.equal(grid.zero, zero)
    assert int((quantize(x, grid).int() - q.int()).abs().max()) <= 1
    y = fake_quantize_tokens(x)
    assert torch.equal(y, (q.float() - zero[:, None]) * scale[:, None])
    assert bool(((y - x).abs() <= scale[:, None] * 1.0001).all())


def test_a_token_that_is_not_finite_gives_nan() -> None:
    """Like in floating point, and the other tokens do not notice. A token of zeros, and tokens without inputs."""
    x = torch.randn(4, 3)
    x[1, 2], x[2, 0], x[3] = math.nan, math.inf, 0.0
    q, zero, scale = quantize_tokens(x)
    assert scale.isnan().tolist() == [False, True, True, False]
    assert (float(scale[3]), int(zero[3]), q[3].tolist()) == (1.0, 0, [0, 0, 0])
    y = integer_product(q, zero, scale, torch.ones(2, 3, dtype=torch.int8), torch.ones(2))
    assert y.isnan().any(1).tolist() == [False, True, True, False]
    assert torch.equal(quantize_tokens(x[:1]).q, q[:1])
    empty = quantize_tokens(torch.zeros(2, 0))
    bias = torch.tensor([1.0, 2.0, 3.0])
    nothing = integer_product(
        *(empty.q, empty.zero, empty.scale), torch.zeros(3, 0, dtype=torch.int8), torch.ones(3), bias
    )
    assert torch.equal(nothing, bias.expand(2, 3))


def test_gradient_of_tokens_passes() -> None:
    """Nothing lies outside a token's own range."""
    x = torch.randn(3, 5, requires_grad=True)
    weights = torch.randn(3, 5)
    (fake_quantize_tokens(x) * weights).sum().backward()
    assert torch.equal(x.grad, weights)


@given(
    st.integers(1, 5), st.integers(0, 40), st.integers(1, 5), st.booleans(), st.booleans(), st.integers(0, 99)
)
@settings(max_examples=150, deadline=None)
def test_sums_equal_the_product_of_differences(
    t: int, i: int, o: int, signed: bool, affine: bool, seed: int
) -> None:
    """The expansion is exact: sums of (q_x - z_x)(w_q - z_w) in int64, symmetric and affine weights, signed and unsigned."""
    draw = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.randint(low, high, shape, generator=draw).to(dtype)

    ends, kind = ((-128, 128), torch.int8) if signed else ((0, 256), torch.uint8)
    x, z_x = integers(*ends, (t, i), kind), integers(*ends, (t,), torch.int32)
    w = integers(-127, 128, (o, i), torch.int8)
    z_w = integers(-127, 128, (o,), torch.int32) if affine else None
    offsets = torch.zeros(o, 1, dtype=torch.int64) if z_w is None else z_w.long()[:, None]
    wanted = (x.long() - z_x.long()[:, None]) @ (w.long() - offsets).T
    assert torch.equal(integer_sums(x, z_x, w, z_w).long(), wanted)


def test_product_equals_that_of_the_numbers() -> None:
    """s_x s_w sums + bias is the product of the dequantized tensors, up to float32; and near the one in floating point."""
    x, weight, bias = torch.randn(20, 64) + 0.3, torch.randn(7, 64), torch.randn(7)
    grid = fit(weight, weight_form(8))
    q, zero, scale = quantize_tokens(x)
    y = integer_product(q, zero, scale, quantize(weight, grid), grid.scale, bias)
    simulated = fake_quantize_tokens(x).double() @ fake_quantize(weight, grid).double().T + bias
    torch.testing.assert_close(y, simulated.float(), rtol=1e-6, atol=1e-5)
    exact = x @ weight.T + bias
    assert float((y - exact).norm() / exact.norm()) < 0.01
    without = integer_product(q, zero, scale, quantize(weight, grid), grid.scale)
    assert torch.equal(without + bias, y)


def test_an_accumulator_that_could_overflow_is_refused() -> None:
    """66,311 inputs of the largest weights are proven safe for any input, one more is not; smaller weights may be more."""
    inputs = (2**31 - 1) // (255 * 127)
    x, zero = torch.full((1, inputs + 1), 255, dtype=torch.uint8), torch.zeros(1, dtype=torch.int32)
    w = torch.full((1, inputs + 1), 127, dtype=torch.int8)
    assert int(integer_sums(x[:, 1:], zero, w[:, 1:])) == 255 * 127 * inputs
    text = refused(lambda: integer_sums(x, zero, w), "accumulator")
    assert f"{inputs + 1} inputs" in text and "Split" in text
    assert int(integer_sums(x, zero, w // 2)) == 255 * 63 * (inputs + 1)
    offset = torch.full((1,), 127, dtype=torch.int32)
    refused(lambda: integer_sums(x, zero, w // 2, offset), "accumulator")
