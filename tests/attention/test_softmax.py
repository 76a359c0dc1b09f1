"""Every fast form of attention against the definition, and the received attention against three other routes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsam.attention import softmax, tiled
from sparsam.attention.softmax import attend, layout, received_from_logsumexp, reference

FORMS: tuple[softmax.Form, ...] = ("auto", "groups", "buckets", "padded")
SCALE = 0.35
lengths_of_a_batch = st.lists(st.integers(0, 12), min_size=0, max_size=9)


def batch(
    lengths: list[int], heads: int = 3, width: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Any:
    """Packed q, k, v of these lengths, with logits spread widely enough to matter."""
    made = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(sum(lengths), heads, width, generator=made).to(dtype) for _ in range(3)]


def toy_bias(heads: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A bias that differs by head, direction and distance of the original positions."""
    slope = torch.linspace(-0.3, 0.4, heads)

    def bias(positions: torch.Tensor) -> torch.Tensor:
        relative = (positions[:, None, :] - positions[:, :, None]).float()
        return slope[None, :, None, None] * relative[:, None].clamp(-4, 4) + 0.05 * relative[:, None].sign()

    return bias


def positions_of(lengths: list[int], seed: int) -> torch.Tensor:
    """Rising original positions with gaps, as after removal."""
    made = torch.Generator().manual_seed(seed)
    return torch.cat(
        [torch.randperm(40, generator=made)[:n].sort().values for n in lengths] or [torch.zeros(0).long()]
    )


def definition(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: list[int],
    key_bias: Any = None,
    row_weight: Any = None,
    pair_bias: Any = None,
    positions: Any = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and received attention in float64, head by head and query by query."""
    q, k, v = q.double(), k.double(), v.double()
    out, received = torch.zeros_like(v), torch.zeros(v.shape[0], dtype=torch.float64)
    start = 0
    for n in lengths:
        bias = None if pair_bias is None else pair_bias(positions[start : start + n][None])[0].double()
        for h in range(v.shape[1]):
            for i in range(start, start + n):
                row = (k[start : start + n, h] * q[i, h]).sum(1) * SCALE
                if bias is not None:
                    row = row + bias[h, i - start]
                if key_bias is not None:
                    row = row + key_bias[start : start + n].double()
                p = torch.exp(row - row.max())
                p = p / p.sum()
                out[i, h] = p @ v[start : start + n, h]
                weight = 1.0 if row_weight is None else float(row_weight[i])
                received[start : start + n] += weight * p / v.shape[1]
        start += n
    return out, received


@pytest.mark.parametrize(
    "extras",
    [(), ("key_bias",), ("row_weight",), ("pair_bias",), ("key_bias", "row_weight", "pair_bias")],
    ids=lambda e: "+".join(e) or "plain",
)
def test_reference_is_the_definition(extras: tuple[str, ...]) -> None:
    """The plain form itself, against loops in float64."""
    lengths = [3, 0, 5, 1]
    q, k, v = batch(lengths)
    given = arguments(lengths, 3, extras)
    out, received = reference(q, k, v, lengths, scale=SCALE, scores=True, **given)
    wanted, scores = definition(q, k, v, lengths, **given)
    assert received is not None
    torch.testing.assert_close(out.double(), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(received.double(), scores, atol=1e-5, rtol=0)


def arguments(lengths: list[int], heads: int, extras: tuple[str, ...], seed: int = 0) -> dict[str, Any]:
    """The optional arguments named in ``extras``, filled at random."""
    made = torch.Generator().manual_seed(seed + 1)
    t = sum(lengths)
    given: dict[str, Any] = {}
    if "key_bias" in extras:
        given["key_bias"] = -3 * torch.rand(t, generator=made)
    if "row_weight" in extras:
        given["row_weight"] = torch.rand(t, generator=made)
    if "pair_bias" in extras:
        given |= {"pair_bias": toy_bias(heads), "positions": positions_of(lengths, seed)}
    return given


@given(
    lengths_of_a_batch, st.sets(st.sampled_from(["key_bias", "row_weight", "pair_bias"])), st.integers(0, 999)
)
@settings(max_examples=60, deadline=None)
def test_every_form_agrees_with_the_reference(lengths: list[int], extras: set[str], seed: int) -> None:
    """Groups, buckets, one padded view and the automatic choice, fused or not, with or without scores: 1e-5."""
    q, k, v = batch(lengths, seed=seed)
    given = arguments(lengths, 3, tuple(extras), seed)
    wanted, wanted_scores = reference(q, k, v, lengths, scale=SCALE, scores=True, **given)
    for form in FORMS:
        for fused in (None, True, False):
            for scores in (False, True):
                out, received = attend(
                    q, k, v, lengths, scale=SCALE, scores=scores, form=form, fused=fused, **given
                )
                torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-5)
                if scores:
                    assert received is not None and wanted_scores is not None
                    torch.testing.assert_close(received, wanted_scores, atol=1e-5, rtol=1e-5)
                else:
                    assert received is None


@pytest.mark.parametrize("form", FORMS)
def test_long_mixed_batch(form: softmax.Form) -> None:
    """Lengths 1, 2, 511 and 512 in one batch, many distinct ones beside them."""
    lengths = [512, 1, 511, 2, 40, 33, 77]
    q, k, v = batch(lengths, heads=2)
    wanted = reference(q, k, v, lengths, scale=SCALE, scores=True)
    torch.testing.assert_close(
        attend(q, k, v, lengths, scale=SCALE, scores=True, form=form), wanted, atol=1e-5, rtol=1e-5
    )


@given(lengths_of_a_batch, st.sampled_from(FORMS))
@settings(max_examples=60, deadline=None)
def test_received_attention_sums_to_the_length(lengths: list[int], form: softmax.Form) -> None:
    """Over each sequence it sums to its number of tokens: mean 1, whatever lies beside it."""
    q, k, v = batch(lengths)
    _, received = attend(q, k, v, lengths, scale=SCALE, scores=True, form=form)
    assert received is not None and received.dtype == torch.float32
    for n, part in zip(lengths, received.split(lengths), strict=True):
        assert part.sum().item() == pytest.approx(n, abs=1e-4)
        assert bool((part > 0).all())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fused", [True, False])
def test_neighbours_change_nothing(form: softmax.Form, fused: bool) -> None:
    """A sequence among others has the numbers it has alone: padding of a rectangle gets and gives nothing."""
    lengths = [3, 9, 1, 7, 8, 2, 11]
    q, k, v = batch(lengths)
    out, received = attend(q, k, v, lengths, scale=SCALE, scores=True, form=form)
    plain, _ = attend(q, k, v, lengths, scale=SCALE, form=form, fused=fused)
    assert received is not None
    start = 0
    for n in lengths:
        span = slice(start, start + n)
        start += n
        alone, alone_received = attend(q[span], k[span], v[span], [n], scale=SCALE, scores=True)
        torch.testing.assert_close(out[span], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(plain[span], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(received[span], alone_received, atol=1e-5, rtol=1e-5)


def test_layout_wastes_at_most_the_stated_share() -> None:
    """Buckets pad at most 1 - 0.8^2 of a sequence's products; groups pad nothing; each token stands once."""
    lengths = tuple(range(1, 120))
    for form in FORMS:
        made = layout(lengths, form, torch.device("cpu"))
        assert made.take is not None and made.place is not None
        assert torch.equal(made.take[made.place], torch.arange(sum(lengths)))  # each token stands once
        assert len(made.take) == sum(g * n for g, n, _ in made.rectangles)
        real = torch.cat(
            [
                torch.ones(g * n, dtype=torch.bool) if valid is None else valid.flatten()
                for g, n, valid in made.rectangles
            ]
        )
        assert made.place.sort().values.tolist() == real.nonzero().flatten().tolist()
        for _, n, valid in made.rectangles:
            shortest = n if valid is None else int(valid.sum(1).min())
            if form == "groups":
                assert valid is None
            if form in ("auto", "buckets"):
                assert shortest >= softmax.BUCKET * n


@pytest.mark.parametrize("chunk", [1, 3, 7, 256])
@pytest.mark.parametrize("weighted", [False, True])
def test_scores_from_the_row_logsumexp(chunk: int, weighted: bool) -> None:
    """Recomputed in chunks from torch.logsumexp they equal the materialised ones to 1e-6."""
    q, k, v = batch([23])
    weight = torch.rand(23) if weighted else None
    lse = torch.logsumexp(torch.einsum("ihk,jhk->hij", q, k) * SCALE, -1)
    _, wanted = reference(q, k, v, [23], scale=SCALE, scores=True, row_weight=weight)
    received = received_from_logsumexp(q, k, lse, SCALE, weight, chunk)
    torch.testing.assert_close(received, wanted, atol=1e-6, rtol=1e-6)


def test_scores_from_the_flash_kernel() -> None:
    """The logsumexp that torch's CPU flash kernel returns gives the same scores."""
    q, k, v = batch([37])
    rows = [x.transpose(0, 1)[None] for x in (q, k, v)]
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*rows, 0.0, False, scale=SCALE)
    if lse.shape[1] != 3:  # (b, n, h) in some releases
        lse = lse.transpose(1, 2)
    wanted, scores = reference(q, k, v, [37], scale=SCALE, scores=True)
    torch.testing.assert_close(
        received_from_logsumexp(q, k, lse[0].float(), SCALE), scores, atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(out[0].transpose(0, 1), wanted, atol=1e-5, rtol=1e-5)


def test_scores_from_the_gradient_of_v() -> None:
    """The column sums are the gradient of the summed output with respect to v: an independent route."""
    lengths = [5, 9, 2]
    q, k, v = batch(lengths)
    v.requires_grad_(True)
    out = F.scaled_dot_product_attention
    columns, start = [], 0
    for n in lengths:
        span = slice(start, start + n)
        start += n
        o = out(*(x[span].transpose(0, 1) for x in (q, k, v)), scale=SCALE)  # (h, n, k)
        (grad,) = torch.autograd.grad(o[..., 0].sum(), v)
        columns.append(grad[span, :, 0].mean(1))
    _, received = attend(q, k, v.detach(), lengths, scale=SCALE, scores=True)
    torch.testing.assert_close(received, torch.cat(columns), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_gives_scores_in_single(form: softmax.Form) -> None:
    """bf16 in, bf16 out, but scores in float32 that still sum to the length."""
    lengths = [70, 33, 4]
    q, k, v = batch(lengths, dtype=torch.bfloat16)
    out, received = attend(q, k, v, lengths, scale=SCALE, scores=True, form=form)
    wanted, scores = reference(q, k, v, lengths, scale=SCALE, scores=True)
    assert received is not None and scores is not None
    assert out.dtype == torch.bfloat16 and received.dtype == torch.float32 and scores.dtype == torch.float32
    assert [float(part.sum()) for part in received.split(lengths)] == pytest.approx(lengths, rel=1e-5)
    torch.testing.assert_close(out.float(), wanted.float(), atol=0.1, rtol=0.1)
    torch.testing.assert_close(received, scores, atol=0.15, rtol=0.1)


@pytest.mark.parametrize("form", FORMS)
def test_dropout_leaves_scores_alone(form: softmax.Form) -> None:
    """Dropout changes the output and never the scores."""
    lengths = [9, 12, 3]
    q, k, v = batch(lengths)
    torch.manual_seed(0)
    dropped, received = attend(q, k, v, lengths, scale=SCALE, scores=True, dropout=0.5, form=form)
    wanted, scores = attend(q, k, v, lengths, scale=SCALE, scores=True, form=form)
    assert not torch.allclose(dropped, wanted)
    torch.testing.assert_close(received, scores)


@pytest.mark.parametrize("scores", [False, True])
def test_dropout_keeps_the_mean(scores: bool) -> None:
    """Over many draws the dropped output averages to the undropped one, in both forms."""
    q, k, v = batch([6], heads=1)
    torch.manual_seed(0)
    many = [attend(q, k, v, [6], scale=SCALE, scores=scores, dropout=0.3)[0] for _ in range(3000)]
    plain, _ = attend(q, k, v, [6], scale=SCALE)
    torch.testing.assert_close(torch.stack(many).mean(0), plain, atol=0.12, rtol=0.05)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fused", [None, True, False])
def test_gradients_agree_with_the_reference(form: softmax.Form, fused: bool | None) -> None:
    """Gradients of q, k, v, of a key's gate, of a row's weight and of the bias equal the reference's."""
    lengths = [4, 7, 2, 5, 6, 9]
    table = torch.randn(3, 81, requires_grad=True)
    given = arguments(lengths, 3, ("key_bias", "row_weight", "pair_bias"))
    given["pair_bias"] = lambda p: table[:, (p[:, None, :] - p[:, :, None]) + 40].permute(1, 0, 2, 3)
    mix = torch.randn(sum(lengths))
    found = []
    for how in (reference, lambda *a, **kw: attend(*a, form=form, fused=fused, **kw)):
        for scores in (True, False):
            leaves = [
                x.clone().requires_grad_(True)
                for x in (*batch(lengths), given["key_bias"], given["row_weight"])
            ]
            out, received = how(
                *leaves[:3],
                lengths,
                scale=SCALE,
                scores=scores,
                **given | {"key_bias": leaves[3], "row_weight": leaves[4]},
            )
            loss = out.square().sum() + (0 if received is None else (received * mix).sum())
            grads = torch.autograd.grad(loss, [*leaves, table], allow_unused=True)
            found.append([torch.zeros(()) if g is None else g for g in grads])
    for wanted, got in zip(found[:2], found[2:], strict=True):
        for a, b in zip(wanted, got, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_nothing_to_attend() -> None:
    """No tokens, or only empty sequences, give empty results of the right shape and type."""
    for lengths in ([], [0], [0, 0, 0]):
        q, k, v = batch(lengths)
        for scores in (False, True):
            out, received = attend(q, k, v, lengths, scale=SCALE, scores=scores)
            assert out.shape == (0, 3, 4)
            assert (received is not None and received.shape == (0,)) if scores else received is None
            assert reference(q, k, v, lengths, scale=SCALE, scores=scores)[0].shape == (0, 3, 4)


def test_no_heads_prefer_nobody() -> None:
    """A layer without heads mixes nothing, and every token receives 1: a threshold cannot empty the sequence."""
    q, k, v = batch([3, 2], heads=0)
    for how in (attend, reference):
        out, received = how(q, k, v, [3, 2], scale=SCALE, scores=True)
        assert out.shape == (5, 0, 4)
        assert torch.equal(received, torch.ones(5))


def test_extreme_logits_stay_finite() -> None:
    """Logits of thousands, and gates that are all but shut, give finite results that still sum to the length."""
    lengths = [6, 3, 5]
    q, k, v = batch(lengths)
    gate = torch.full((14,), -1e6)
    gate[[0, 6, 9]] = 0.0
    for form in FORMS:
        out, received = attend(q * 500, k, v, lengths, scale=SCALE, scores=True, key_bias=gate, form=form)
        assert received is not None and bool(out.isfinite().all())
        assert [float(part.sum()) for part in received.split(lengths)] == pytest.approx(lengths, rel=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_ragged_kernel_on_cuda_agrees_with_the_reference(dtype: torch.dtype) -> None:
    """The varlen kernel and scores from its logsumexp, empty sequences and row weights included."""
    lengths = [5, 0, 128, 77, 1, 300]
    q, k, v = (x.cuda() for x in batch(lengths, heads=4, width=32, dtype=dtype))
    weight = torch.rand(sum(lengths), device="cuda")
    assert softmax._varlen_fits(q, None, None, 0.0) == (softmax._varlen_operator() is not None)
    for row_weight in (None, weight):
        out, received = attend(q, k, v, lengths, scale=SCALE, scores=True, row_weight=row_weight)
        wanted, scores = reference(q, k, v, lengths, scale=SCALE, scores=True, row_weight=row_weight)
        torch.testing.assert_close(out.float(), wanted.float(), atol=2e-2, rtol=2e-2)
        torch.testing.assert_close(received, scores, atol=2e-2, rtol=2e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
def test_scores_on_cuda_carry_their_whole_gradient() -> None:
    """Scores that are learned from have the reference's gradient on CUDA, too."""
    lengths = [9, 17]
    grads = []
    for how in (attend, reference):
        q, k, v = (x.cuda().requires_grad_(True) for x in batch(lengths, width=16, dtype=torch.bfloat16))
        _, received = how(q, k, v, lengths, scale=SCALE, scores=True)
        grads.append(torch.autograd.grad((received * torch.arange(26.0, device="cuda")).sum(), (q, k)))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a.float(), b.float(), atol=0.3, rtol=0.1)


@given(
    lengths_of_a_batch.filter(any),
    st.sets(st.sampled_from(["key_bias", "row_weight"])),
    st.sampled_from([1, 50, 1 << 19]),
    st.booleans(),
    st.sampled_from(FORMS),
    st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_tiles_have_the_gradients_of_the_reference(
    lengths: list[int], extras: set[str], tile: int, kept: bool, form: softmax.Form, seed: int
) -> None:
    """Whatever the size of a tile, probabilities kept or worked out again: outputs and all five gradients in float64."""
    found = []
    given = {name: x.double() for name, x in arguments(lengths, 3, tuple(extras), seed).items()}
    for attention in (reference_in_double, attend):
        inputs = [x.clone().requires_grad_() for x in batch(lengths, seed=seed, dtype=torch.float64)]
        extra = {name: x.clone().requires_grad_() for name, x in given.items()}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiled, "TILE", tile)
            patch.setattr(tiled, "KEPT", tiled.KEPT if kept else 0)
            more = {"form": form} if attention is attend else {}
            out, received = attention(*inputs, lengths, scale=SCALE, scores=True, **extra, **more)
            assert received is not None
            wave = torch.arange(received.numel(), dtype=received.dtype).sin()
            ((out**2).sum() + (received**2 * wave).sum()).backward()
        found.append([out, received, *(x.grad for x in [*inputs, *extra.values()])])
    for wanted, got in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-9, rtol=1e-9)


def reference_in_double(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: list[int],
    scale: float,
    scores: bool,
    key_bias: torch.Tensor | None = None,
    row_weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention sequence by sequence, with gradients, in the precision of its inputs."""
    outs, received, start = [v.new_zeros(0, *v.shape[1:])], [v.new_zeros(0)], 0
    for n in lengths:
        span = slice(start, start + n)
        start += n
        logits = torch.einsum("ihk,jhk->hij", q[span], k[span]) * scale
        p = (logits if key_bias is None else logits + key_bias[span]).softmax(-1)
        outs.append(torch.einsum("hij,jhk->ihk", p, v[span]))
        received.append((p if row_weight is None else p * row_weight[span, None]).sum(1).mean(0))
    return torch.cat(outs), torch.cat(received)


def test_tiles_in_bfloat16_stay_near_the_reference() -> None:
    """Products in bfloat16, the softmax in float32: within the rounding of the products."""
    lengths = [40, 3, 33]
    q, k, v = batch(lengths, heads=4, width=8, dtype=torch.bfloat16)
    out, received = attend(q, k, v, lengths, scale=SCALE, scores=True)
    wanted, scores = reference(q, k, v, lengths, scale=SCALE, scores=True)
    assert out.dtype == torch.bfloat16 and received is not None and received.dtype == torch.float32
    torch.testing.assert_close(out, wanted, atol=0.05, rtol=0.05)
    torch.testing.assert_close(received, scores, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("kept", [0, 1 << 21])
def test_tiles_drop_the_same_probabilities_in_the_gradient(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout is drawn again from its seed: the gradient is that of the function that was computed, by differences."""
    monkeypatch.setattr(tiled, "KEPT", kept)
    monkeypatch.setattr(tiled, "TILE", 30)
    lengths = [5, 4, 5]
    inputs = [x.requires_grad_() for x in batch(lengths, heads=2, width=3, dtype=torch.float64)]

    def attended(*qkv: torch.Tensor) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(0)
        out, received = attend(*qkv, lengths, scale=SCALE, scores=True, dropout=0.4)
        assert received is not None
        return out, received

    assert torch.autograd.gradcheck(attended, inputs)


def test_tiles_drop_at_the_rate_after_the_scores() -> None:
    """Scores are those without dropout; a value is left out of a sum as often as the rate says, and made up for."""
    lengths = [200, 120]
    q, k, _ = batch(lengths, heads=2, width=8)
    v = torch.ones(sum(lengths), 2, 8)
    torch.manual_seed(0)
    _, wanted = attend(q * 0, k, v, lengths, scale=SCALE, scores=True)
    out, received = attend(q * 0, k, v, lengths, scale=SCALE, scores=True, dropout=0.25)
    torch.testing.assert_close(received, wanted)
    assert out.mean().item() == pytest.approx(1.0, abs=0.01)
    share = out[:200, :, 0] * 200 * 0.75  # how many of 200 equal probabilities stayed
    torch.testing.assert_close(share, share.round(), atol=0.05, rtol=0)
    assert share.std().item() == pytest.approx((200 * 0.25 * 0.75) ** 0.5, rel=0.15)
