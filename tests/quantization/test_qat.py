"""Training for integers: gradients as written down, ranges that move and freeze, and what training wins back."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsam.errors import Refused, SparsamError, Usage
from sparsam.quantization import (
    INPUT,
    FixedGrid,
    Form,
    LearnedClip,
    LearnedGrid,
    MinMax,
    MovingGrid,
    RoundedLinear,
    TokenGrids,
    dequantize,
    fake_quantize,
    fake_quantize_tokens,
    fit,
    grid_between,
    lsq,
    lsq_start,
    quantize,
    weight_form,
)

FORMS = (
    Form(2),
    Form(4),
    Form(4, symmetric=False),
    Form(4, axis=0),
    Form(3, axis=1),
    Form(4, axis=0, group=4),
    INPUT,
)


def refused(call: Any, code: str, kind: type[SparsamError] = Refused) -> str:
    """The text of the error that ``call`` must raise."""
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.code == code
    return str(caught.value)


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_lsq_gradients_number_by_number(form: Form) -> None:
    """The scale's: rint(v) - v inside, the cut integer outside, summed over those that share it, over sqrt(N highest)."""
    x = torch.randn(3, 6).requires_grad_()
    grid = fit(x * 0.6, form)
    scale = grid.scale.clone().requires_grad_()
    g = torch.randn(3, 6)
    y = lsq(x, scale, grid)
    assert torch.equal(y, fake_quantize(x.detach(), grid))
    (y * g).sum().backward()
    wanted, count = torch.zeros_like(grid.scale), torch.zeros_like(grid.scale)
    inside = torch.zeros(3, 6)
    for row in range(3):
        for column in range(6):
            at: tuple[int, ...] = ()
            if form.axis is not None:
                at = ((row, column)[form.axis],) + (() if form.group is None else (column // form.group,))
            s, z = float(grid.scale[at]), int(grid.zero[at])
            v = float(x.detach()[row, column]) / s
            if form.lowest <= round(v) + z <= form.highest:
                inside[row, column] = 1.0
                slope = round(v) - v
            else:
                slope = (form.lowest if v < 0 else form.highest) - z
            wanted[at] += float(g[row, column]) * slope
            count[at] += 1
    assert float(inside.mean()) > 0
    torch.testing.assert_close(scale.grad, wanted / (count * form.highest).sqrt(), rtol=1e-4, atol=1e-5)
    assert x.grad is not None and torch.equal(x.grad, g * inside)


@given(st.integers(2, 8), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_learned_scales_round_like_any_grid(bits: int, seed: int) -> None:
    """What trains is what is written out: forward equals dequantized integers of the grid, bit for bit."""
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
    learned = LearnedGrid(lsq_start(weight, weight_form(bits)))
    with torch.no_grad():
        learned.scale.mul_(1.37)
    assert torch.equal(learned(weight), dequantize(quantize(weight, learned.grid()), learned.grid()))


def test_lsq_starts_from_the_mean() -> None:
    """s = 2 mean|x| / sqrt(highest), in all, by channel and for inputs of one sign."""
    x = torch.randn(4, 50)
    torch.testing.assert_close(lsq_start(x, Form(4)).scale, 2 * x.abs().mean() / 7**0.5)
    torch.testing.assert_close(lsq_start(x, Form(4, axis=0)).scale, 2 * x.abs().mean(1) / 7**0.5)
    start = lsq_start(x.relu(), Form(4, symmetric=False, signed=False))
    torch.testing.assert_close(start.scale, 2 * x.relu().mean() / 15**0.5)
    assert int(start.zero) == 0


def test_a_learned_scale_finds_the_best_one() -> None:
    """Gradient descent on the squared error, from a scale three times too large, ends where a search does."""
    x = torch.randn(4000)
    best = min(
        float((fake_quantize(x, grid_between(-top, top, Form(3))) - x).square().mean())
        for top in torch.linspace(0.5, 4, 200)
    )
    learned = LearnedGrid(grid_between(torch.tensor(-6.0), torch.tensor(6.0), Form(3)))
    optimizer = torch.optim.SGD([learned.scale], 2.0)
    for _ in range(300):
        optimizer.zero_grad()
        (learned(x) - x).square().mean().mul(len(x) ** 0.5).backward()
        optimizer.step()
    assert float((learned(x) - x).detach().square().mean()) < 1.02 * best


def test_a_learned_scale_stays_above_zero() -> None:
    """A step far too long leaves a thousandth of the first scale; training goes on from there."""
    x = torch.randn(20)
    learned = LearnedGrid(fit(x, Form(4)))
    first = learned.scale.detach().clone()
    with torch.no_grad():
        learned.scale.fill_(-5.0)
    assert torch.equal(learned.grid().scale, first * 1e-3)
    learned(x).square().sum().neg().backward()
    assert learned.scale.grad is not None and float(learned.scale.grad) < 0  # a larger scale lowers this loss
    learned.freeze()
    assert not learned.scale.requires_grad
    learned.freeze(False)
    assert learned.scale.requires_grad


def test_a_learned_clip_follows_its_formulas() -> None:
    """PACT by hand: levels of alpha / 3, the gradient of alpha counts what reaches it, that of x what lies between."""
    x = torch.tensor([-1.0, 0.0, 0.4, 0.6, 1.4, 1.5, 2.0, 9.0], requires_grad=True)
    clip = LearnedClip(2, 1.5)
    y = clip(x)
    torch.testing.assert_close(y.detach(), torch.tensor([0.0, 0.0, 0.5, 0.5, 1.5, 1.5, 1.5, 1.5]))
    (y * torch.arange(1.0, 9.0)).sum().backward()
    assert clip.alpha.grad is not None and float(clip.alpha.grad) == 6 + 7 + 8
    assert x.grad is not None and x.grad.tolist() == [0, 0, 3, 4, 5, 0, 0, 0]
    with torch.no_grad():
        clip.alpha.fill_(-1.0)  # a step far too long: it can come back
    assert float(clip.grid().scale) == pytest.approx(1.5e-3 / 3)
    for wrong in (0.0, -1.0, float("inf")):
        assert "alpha" in refused(lambda w=wrong: LearnedClip(4, w), "quantization-settings", Usage)


def test_a_learned_clip_rests_where_cutting_off_and_decay_are_even() -> None:
    """On the squared error, from far outside: at rest 2 E(x - alpha)+ is the decay's slope, with less error than at first."""
    x = torch.randn(4000).relu()
    clip = LearnedClip(3, 8.0)
    optimizer = torch.optim.SGD([clip.alpha], 0.5)
    before = float((clip(x) - x).detach().square().mean())
    for _ in range(600):
        optimizer.zero_grad()
        ((clip(x) - x).square().mean() + 0.004 * clip.alpha.square()).backward()
        optimizer.step()
    alpha = float(clip.alpha.detach())
    assert 2 * float((x - alpha).clamp(min=0).mean()) == pytest.approx(0.008 * alpha, rel=0.05)
    assert float((clip(x) - x).detach().square().mean()) < 0.25 * before


def test_a_range_follows_and_freezes() -> None:
    """By hand at momentum 1/2; it stands still in evaluation and when frozen, and comes back from a state dict as it was."""
    moving = MovingGrid(INPUT, momentum=0.5)
    assert "seen no input" in refused(
        lambda: moving(torch.randn(3)) if moving.eval() else None, "calibration-empty"
    )
    moving.train()
    moving(torch.tensor([-1.0, 3.0]))
    assert (float(moving.low), float(moving.high)) == (-1.0, 3.0)
    moving(torch.tensor([-2.0, 1.0]))
    assert (float(moving.low), float(moving.high)) == (-1.5, 2.0)
    grid = moving.grid()
    x = torch.randn(9)
    moving.eval()
    assert torch.equal(moving(x * 50), fake_quantize(x * 50, grid))
    moving.train().freeze()
    moving(torch.tensor([-9.0, 9.0]))
    assert float(moving.high) == 2.0
    back = MovingGrid(INPUT, momentum=0.5)
    back.load_state_dict(moving.state_dict())
    assert torch.equal(back(x), moving(x))
    back.freeze(False)
    back(torch.tensor([-2.5, 4.0]))
    assert (float(back.low), float(back.high)) == (-2.0, 3.0)
    refused(lambda: MovingGrid(Form(axis=0)), "quantization-form", Usage)
    assert "[0, 1)" in refused(lambda: MovingGrid(INPUT, 1.0), "quantization-settings", Usage)


def test_a_fixed_grid_stands_still_and_is_saved() -> None:
    """Its numbers lie in the state dict, and are none of the parameters."""
    weight = torch.randn(4, 6)
    fixed = FixedGrid(fit(weight, weight_form(4)))
    assert torch.equal(fixed(weight), fake_quantize(weight, fixed.grid()))
    assert set(fixed.state_dict()) == {"scale", "zero"} and not list(fixed.parameters())


def test_a_linear_layer_between_two_grids() -> None:
    """Forward is the product of the rounded; the layer keeps its parameters, and they get gradients."""
    linear, x = nn.Linear(6, 4), torch.randn(5, 6)
    grid = fit(linear.weight, weight_form(4))
    rounded = RoundedLinear(linear, FixedGrid(grid), TokenGrids())
    y = rounded(x)
    assert torch.equal(y, F.linear(fake_quantize_tokens(x), fake_quantize(linear.weight, grid), linear.bias))
    y.sum().backward()
    assert rounded.linear is linear and linear.weight.grad is not None and bool(linear.weight.grad.any())
    plain = RoundedLinear(linear, FixedGrid(grid))
    assert torch.equal(plain(x), F.linear(x, fake_quantize(linear.weight, grid), linear.bias))


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Handwritten digits: inputs and labels to train on, and 597 held out."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return x[:1200], y[:1200], x[1200:], y[1200:]


def trained(
    net: nn.Module, x: Tensor, y: Tensor, steps: int, lr: float, teacher: nn.Module | None = None
) -> nn.Module:
    """Adam on batches of 64; with a teacher, half of the loss is the divergence from its answers at temperature 2."""
    draw = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr)
    net.train()
    for _ in range(steps):
        rows = torch.randint(len(x), (64,), generator=draw)
        logits = net(x[rows])
        loss = F.cross_entropy(logits, y[rows])
        if teacher is not None:
            with torch.no_grad():
                wanted = F.log_softmax(teacher(x[rows]) / 2, -1)
            match = F.kl_div(F.log_softmax(logits / 2, -1), wanted, log_target=True, reduction="batchmean")
            loss = 0.5 * loss + 0.5 * 4 * match
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def held_out(net: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Cross-entropy and accuracy."""
    with torch.no_grad():
        logits = net(x)
    return float(F.cross_entropy(logits, y)), float((logits.argmax(1) == y).float().mean())


@pytest.fixture(scope="module")
def dense(digits: tuple[Tensor, Tensor, Tensor, Tensor]) -> nn.Module:
    """A small network in floating point, whose channels differ in size by ten, as those of large ones do: same function."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    trained(net, *digits[:2], 1000, 3e-3)
    sizes = torch.logspace(-0.5, 0.5, 24)
    with torch.no_grad():
        for weight, factor in (
            (net[0].weight, sizes[:, None]),
            (net[0].bias, sizes),
            (net[2].weight, 1 / sizes),
        ):
            weight.mul_(factor)
    return net


def rounded(dense: nn.Module, x: Tensor, bits: int, kind: str) -> nn.Sequential:
    """The network with weights and inputs of so many bits, both by min-max: how post-training quantization leaves it."""
    net = copy.deepcopy(dense)
    assert isinstance(net, nn.Sequential)
    form = Form(bits, symmetric=False, signed=False)
    layers: list[nn.Module] = []
    for layer in net:
        if isinstance(layer, nn.Linear):
            make = LearnedGrid if kind == "learned" else FixedGrid
            weights = make(fit(layer.weight, Form(bits), MinMax()))
            inputs: nn.Module = make(fit(x, form, MinMax()))
            if kind == "moving":
                inputs = MovingGrid(form)
                inputs.train()(x)
            layers.append(RoundedLinear(layer, weights, inputs))
        else:
            layers.append(layer)
        with torch.no_grad():
            x = layer(x)
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("kind", ["fixed", "moving", "learned"])
def test_training_wins_back_what_rounding_lost(
    digits: tuple[Tensor, Tensor, Tensor, Tensor], dense: nn.Module, kind: str
) -> None:
    """At least half of the loss, and of the accuracy, that 4 bits cost on digits that were held out; with a teacher, too."""
    x, y, *rest = digits
    start = rounded(dense, x, 4, kind)
    (exact, right), (lost, worse) = held_out(dense, *rest), held_out(start, *rest)
    assert lost > 2 * exact and worse < right - 0.1
    for teacher in (None, dense):
        net = trained(copy.deepcopy(start), x, y, 150, 1e-3, teacher)
        loss, accuracy = held_out(net, *rest)
        assert loss - exact < 0.5 * (lost - exact)
        assert right - accuracy < 0.5 * (right - worse)
