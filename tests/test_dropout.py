"""Dropout: the rate is met everywhere, the mean is kept, gradients go where values went."""

import pytest
import torch
import torch.nn.functional as F

from sparsam.dropout import dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rate_mean_and_lanes(rate: float, dtype: torch.dtype) -> None:
    """The share of zeros is the rate, in each of the four lanes of a draw; what stays makes up for it."""
    torch.manual_seed(0)
    found = dropout(torch.ones(400_003, dtype=dtype), rate)
    for lane in range(4):
        assert (found[lane::4] == 0).float().mean().item() == pytest.approx(rate, abs=0.006)
    stays = found[found != 0]
    assert stays.unique().numel() == 1
    assert stays[0].item() == pytest.approx(1 / (1 - rate), rel=0.01)
    assert found.float().mean().item() == pytest.approx(1.0, abs=0.02 / (1 - rate))


def test_neighbours_are_independent() -> None:
    """Pairs in one draw, and across draws, are dropped together as often as chance has it."""
    torch.manual_seed(1)
    gone = dropout(torch.ones(400_000), 0.3) == 0
    for step in (1, 2, 3, 4, 5):
        both = (gone[:-step] & gone[step:]).float().mean().item()
        assert both == pytest.approx(0.09, abs=0.004)


def test_gradient_is_the_mask() -> None:
    """What was dropped gets no gradient; what stayed gets its scale."""
    torch.manual_seed(2)
    x = torch.randn(7, 33, requires_grad=True)
    y = dropout(x, 0.4)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, y == 0)
    torch.testing.assert_close(y, x * x.grad)


def test_repeats_with_the_generator() -> None:
    """The same seed drops the same elements; the next call drops others."""
    x = torch.ones(1000)
    torch.manual_seed(3)
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5), first)
    assert not torch.equal(first, second)


def test_ends() -> None:
    """Rate 0 is the tensor itself, rate 1 is nothing at all, and an empty tensor stays empty."""
    x = torch.randn(5, 3)
    assert dropout(x, 0.0) is x
    assert torch.equal(dropout(x, 1.0), F.dropout(x, 1.0))
    assert dropout(x[:0], 0.5).shape == (0, 3)
