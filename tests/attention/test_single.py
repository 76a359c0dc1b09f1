"""Attention of one query a sequence, against the rows of the definition."""

import pytest
import torch

from sparsam.attention.single import attend_single
from sparsam.attention.softmax import reference

SCALE = 0.35


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("lengths", [[5], [1, 7, 2, 2, 30]])
def test_it_is_a_row_of_the_definition(lengths: list[int], gated: bool) -> None:
    """Values and gradients are those of each sequence's first row, to 1e-5."""
    made = torch.Generator().manual_seed(0)
    t = sum(lengths)
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    sequences = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    inputs = [2 * torch.randn(t, 3, 4, generator=made) for _ in range(3)]
    bias = -3 * torch.rand(t, generator=made)
    found = []
    for single in (False, True):
        leaves = [x.clone().requires_grad_() for x in [*inputs, bias]]
        q, k, v, key_bias = leaves
        gate = key_bias if gated else None
        if single:
            out = attend_single(q[starts], k, v, sequences, scale=SCALE, key_bias=gate)
        else:
            out = reference(q, k, v, lengths, scale=SCALE, key_bias=gate)[0][starts]
        grads = torch.autograd.grad((out**2).sum(), leaves[: 4 if gated else 3])
        found.append([out, *grads])
    for wanted, got in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_no_heads_give_nothing() -> None:
    """A layer without heads mixes nothing, as in the other forms."""
    none = torch.zeros(2, 0, 4)
    out = attend_single(
        none, torch.zeros(5, 0, 4), torch.zeros(5, 0, 4), torch.tensor([0, 0, 0, 1, 1]), scale=1.0
    )
    assert out.shape == (2, 0, 4)


def test_dropout_keeps_the_mean() -> None:
    """Dropped probabilities are made up for."""
    torch.manual_seed(0)
    n = 4000
    q, k = torch.zeros(1, 2, 4), torch.randn(n, 2, 4)
    out = attend_single(q, k, torch.ones(n, 2, 4), torch.zeros(n, dtype=torch.long), scale=1.0, dropout=0.25)
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)
    assert not torch.equal(out, torch.ones_like(out))
