"""Packing by mask, choosing, putting back, filling and folding, against plain loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsam.packed import Packed, fill_with_survivors, merge, pack, select, unpack

masks = (
    st.integers(1, 5)
    .flatmap(lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=4))
    .map(torch.tensor)
)


def numbered(b: int, n: int, d: int = 3) -> torch.Tensor:
    """States that tell where they come from; never zero."""
    return torch.arange(1, b * n * d + 1, dtype=torch.float32).view(b, n, d)


@given(masks)
@settings(max_examples=80, deadline=None)
def test_pack_follows_the_mask(mask: torch.Tensor) -> None:
    """Living tokens lie in order, wherever the padding stands; sequence and position are the original ones."""
    b, n = mask.shape
    x = numbered(b, n)
    packed = pack(x, mask)
    places = [(i, j) for i in range(b) for j in range(n) if mask[i, j]]
    assert packed.lengths.tolist() == mask.sum(1).tolist()
    assert list(zip(packed.sequences.tolist(), packed.positions.tolist(), strict=True)) == places
    assert torch.equal(
        packed.values, torch.stack([x[i, j] for i, j in places]) if places else x.new_zeros(0, 3)
    )


@given(masks)
@settings(max_examples=80, deadline=None)
def test_unpack_puts_back_and_fills_with_zeros(mask: torch.Tensor) -> None:
    """Every living token is back in place; every other place is zero."""
    b, n = mask.shape
    x = numbered(b, n)
    assert torch.equal(unpack([pack(x, mask)], b), x * mask.unsqueeze(-1))


def test_no_mask_means_all_live() -> None:
    """Without a mask nothing is copied out of order."""
    x = numbered(2, 3)
    packed = pack(x)
    assert packed.lengths.tolist() == [3, 3]
    assert torch.equal(unpack([packed], 2), x)


@given(masks, st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_select_in_steps_loses_nothing(mask: torch.Tensor, rng: object) -> None:
    """Parts removed in several steps and the survivors together are what was packed, each at its own place."""
    b, n = mask.shape
    x = numbered(b, n)
    tokens, parts = pack(x, mask), []
    for _ in range(3):
        keep = torch.tensor([rng.random() < 0.6 for _ in range(tokens.values.shape[0])], dtype=torch.bool)
        parts.append(select(tokens, ~keep))
        kept = select(tokens, keep)
        assert kept.lengths.shape == (b,)
        assert (kept.lengths + parts[-1].lengths).tolist() == tokens.lengths.tolist()
        assert torch.equal(kept.values, tokens.values[keep])
        assert torch.equal(kept.positions, tokens.positions[keep])
        tokens = kept
    assert torch.equal(unpack([tokens, *parts], b), x * mask.unsqueeze(-1))


def test_sequence_emptied_last_keeps_its_count() -> None:
    """A batch whose last sequence lost all tokens still has a length for it."""
    packed = pack(numbered(3, 2))
    kept = select(packed, torch.tensor([True, True, False, True, False, False]))
    assert kept.lengths.tolist() == [2, 1, 0]


def test_empty_batches() -> None:
    """No sequences, or no living token, is a batch like any other."""
    assert unpack([pack(torch.zeros(0, 4, 3))], 0).shape == (0, 4, 3)
    empty = pack(numbered(2, 2), torch.zeros(2, 2, dtype=torch.bool))
    assert empty.lengths.tolist() == [0, 0]
    assert torch.equal(unpack([empty], 2), torch.zeros(2, 2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mean_over_all_is_mean_over_survivors(dtype: torch.dtype) -> None:
    """With removed states replaced, the mean over a sequence equals the mean over its survivors; dtype is kept."""
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.bool)
    tokens = pack(torch.randn(3, 4, 8).to(dtype), mask)
    keep = torch.tensor([True, False, False, True, True, True])
    survivors, removed = select(tokens, keep), select(tokens, ~keep)
    full = unpack([survivors, fill_with_survivors(removed, survivors)], 3)
    assert full.dtype == dtype
    mean = full.float().sum(1) / mask.sum(1, keepdim=True)
    wanted = torch.stack([survivors.values[survivors.sequences == i].float().mean(0) for i in range(3)])
    torch.testing.assert_close(mean, wanted, atol=1e-6 if dtype != torch.bfloat16 else 1e-2, rtol=0)


def test_mean_of_many_survivors_is_exact_in_bf16() -> None:
    """512 equal states in bf16 have that state as their mean: the sum is not kept in bf16."""
    tokens = pack(torch.full((1, 513, 2), 1.125, dtype=torch.bfloat16))
    keep = torch.arange(513) < 512
    filled = fill_with_survivors(select(tokens, ~keep), select(tokens, keep))
    assert torch.equal(filled.values, torch.full((1, 2), 1.125, dtype=torch.bfloat16))


def test_fill_of_a_sequence_without_survivors_is_finite() -> None:
    """A sequence that lost everything gives zeros, not NaN."""
    tokens = pack(numbered(1, 2))
    filled = fill_with_survivors(tokens, select(tokens, torch.zeros(2, dtype=torch.bool)))
    assert torch.equal(filled.values, torch.zeros(2, 3))


def test_merge_by_hand() -> None:
    """Sizes 1, 2, 3: the second folded into the first weighs double; the third stays as it is."""
    values = torch.tensor([[3.0], [6.0], [7.0]])
    merged, sizes = merge(values, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0, 2]))
    assert merged[0].item() == 5.0 and merged[2].item() == 7.0
    assert sizes[0].item() == 3.0 and sizes[2].item() == 3.0


def test_token_folded_away_keeps_its_own_last_state() -> None:
    """What was folded into another still shows the state it had."""
    merged, _ = merge(torch.tensor([[3.0], [6.0]]), torch.ones(2), torch.tensor([0, 0]))
    assert merged[1].item() == 6.0


def test_merge_of_many_is_exact_in_bf16() -> None:
    """600 equal bf16 states fold into that state."""
    values = torch.full((600, 1), 1.125, dtype=torch.bfloat16)
    merged, sizes = merge(values, torch.ones(600), torch.zeros(600, dtype=torch.long))
    assert merged[0].item() == 1.125 and merged.dtype == torch.bfloat16 and sizes[0].item() == 600


@given(st.integers(1, 12), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_merge_keeps_the_weighted_sum(t: int, seed: int) -> None:
    """Whatever is folded where, the size-weighted sum over the tokens left is unchanged."""
    torch.manual_seed(seed)
    values, sizes = torch.randn(t, 4), torch.rand(t) + 0.5
    roots = torch.rand(t) < 0.5
    roots[0] = True
    into = torch.where(roots, torch.arange(t), torch.multinomial(roots.float().expand(t, t), 1).squeeze(1))
    merged, total = merge(values, sizes, into)
    torch.testing.assert_close(
        (merged * total[:, None])[roots].sum(0), (values * sizes[:, None]).sum(0), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(total[roots].sum(), sizes.sum())


def test_with_values_may_change_the_width() -> None:
    """The same tokens carry states of another width."""
    packed = pack(numbered(1, 2)).with_values(torch.zeros(2, 7))
    assert isinstance(packed, Packed) and packed.values.shape == (2, 7) and packed.lengths.tolist() == [2]
