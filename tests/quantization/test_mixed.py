"""Mixed precision: traces beside exact Hessians, losses beside what rounding does, assignments beside every combination."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from sparsam.errors import Refused
from sparsam.quantization import MinMax
from sparsam.quantization.mixed import (
    assign,
    bit_operations,
    fisher_loss,
    hessian_loss,
    rounding_error,
    traces,
    worth_asking,
)
from sparsam.structure.knapsack import choose_within


def net() -> tuple[nn.Sequential, torch.Tensor]:
    """A net of 200 parameters, and its loss."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Linear(10, 12), nn.Tanh(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 4, bias=False)
    ).double()
    assert sum(p.numel() for p in made.parameters()) == 200
    x, y = torch.randn(64, 10).double(), torch.randn(64, 4).double()
    return made, (made(x) - y).square().mean()


def exact(loss: torch.Tensor, weight: torch.Tensor) -> float:
    """Second derivatives one by one."""
    (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
    flat = gradient.flatten()
    return sum(
        float(torch.autograd.grad(flat[at], weight, retain_graph=True)[0].flatten()[at])
        for at in range(flat.numel())
    )


def test_the_trace_is_that_of_the_exact_hessian() -> None:
    """Within 5 % on a net of 200 parameters, in all and of each weight alone."""
    made, loss = net()
    weights = list(made.parameters())
    found = traces(loss, weights, 2000, torch.Generator().manual_seed(0))
    wanted = [exact(loss, weight) for weight in weights]
    assert sum(found) == pytest.approx(sum(wanted), rel=0.05)
    for own, its, weight in zip(found, wanted, weights, strict=True):
        if weight.ndim == 2:
            assert own == pytest.approx(its, rel=0.05)


def test_a_diagonal_needs_one_probe() -> None:
    """v . (H v) is the trace itself whatever the signs; the same draws give the same bits."""
    w, scale = torch.randn(3, 4, requires_grad=True), torch.arange(12.0).view(3, 4)
    loss = (scale * w.square()).sum() / 2
    assert traces(loss, [w], 1, torch.Generator().manual_seed(5)) == pytest.approx([66.0])


def test_losses_fall_with_bits() -> None:
    """By Hessian and by Fisher; none in floating point; a trace that is negative counts as none."""
    torch.manual_seed(0)
    w, squares = torch.randn(8, 16), torch.rand(8, 16)
    errors = [rounding_error(w, bits, MinMax()) for bits in (2, 3, 4, 6, 8, None)]
    for losses in ([hessian_loss(e, 3.0) for e in errors], [fisher_loss(e, squares) for e in errors]):
        assert losses == sorted(losses, reverse=True) and losses[-1] == 0.0 < losses[-2]
    assert hessian_loss(errors[0], -1.0) == 0.0
    assert hessian_loss(errors[0], 128.0) == pytest.approx(float(errors[0].square().sum()), rel=1e-5)
    assert fisher_loss(errors[0], torch.full((8, 16), 2.0)) == pytest.approx(
        2 * float(errors[0].square().sum()), rel=1e-5
    )


def test_bit_operations_are_macs_times_bits() -> None:
    """Inputs have eight; floats 32 on either side."""
    assert [bit_operations(10, bits) for bits in (2, 8, None)] == [160, 640, 10240]


def test_widths_that_a_wider_one_is_as_cheap_as() -> None:
    """In bytes of a file 2 and 3 bits cost what 4 do; bit operations tell them apart."""
    size, work = [1, 1, 1, 2, 2, 2, 2, 8], [2, 3, 4, 5, 6, 7, 8, 64]
    assert worth_asking([size]) == [2, 6, 7]
    assert worth_asking([work]) == worth_asking([size, work]) == list(range(8))


@pytest.mark.parametrize("seed", range(8))
def test_the_assignment_is_the_best_of_all(seed: int) -> None:
    """Under size, under bit operations, and under both, beside every combination."""
    draw = np.random.default_rng(seed)
    widths: list[int | None] = [2, 4, 8, None]
    macs = draw.integers(10, 100, 5)
    losses = [[*sorted((float(x) for x in draw.random(3)), reverse=True), 0.0] for _ in macs]
    size = [[float(m * b) for b in (1, 2, 4, 16)] for m in macs]
    work = [[bit_operations(float(m), bits) for bits in widths] for m in macs]
    for costs, shares in (([size], [0.3]), ([work], [0.02]), ([size, work], [0.3, 0.025])):
        budgets = [share * sum(row[-1] for row in table) for share, table in zip(shares, costs, strict=True)]
        found = assign(losses, costs, budgets, choose_within)

        def spent(entries: tuple[int, ...], table: list[list[float]]) -> float:
            return sum(row[at] for row, at in zip(table, entries, strict=True))

        best = min(
            sum(row[at] for row, at in zip(losses, entries, strict=True))
            for entries in itertools.product(range(4), repeat=5)
            if all(spent(entries, t) <= b for t, b in zip(costs, budgets, strict=True))
        )
        assert all(spent(tuple(found), t) <= b * (1 + 1e-9) for t, b in zip(costs, budgets, strict=True))
        assert sum(row[at] for row, at in zip(losses, found, strict=True)) == pytest.approx(best)


def test_a_budget_below_the_narrowest_is_refused() -> None:
    """With the least that is possible."""
    with pytest.raises(Refused, match="the least that can be left costs 2"):
        assign([[1.0, 0.0]] * 2, [[[1.0, 4.0]] * 2], [1.5], choose_within)
