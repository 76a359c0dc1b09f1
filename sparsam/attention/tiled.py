"""Materialised softmax attention, a tile at a time: the probabilities never leave the processor's cache.

Received attention and soft gates need the probabilities themselves, which no fused kernel gives. A whole batch of them, say
8 sequences of 512 tokens with 12 heads, takes 100 MB, and softmax, its gradient and the casts between them walk over that a
dozen times. Here a tile (some heads of some sequences) goes through all steps before the next one begins, and the
gradient works its probabilities out again instead of reading them back (as Dao et al., FlashAttention, 2022, do on a GPU).

Letters: g sequences of n (padded) tokens, h heads, w head width; r = g·h heads of sequences, the rows of a tile.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsam.dropout import mask_like

# Probabilities of one tile: 2 MiB in float32. Chosen by us: with an L2 cache of 1 MiB, half and twice as many are within 10 %.
TILE = 1 << 19
# Up to so many probabilities are kept for the gradient: reading them back is cheaper than working them out again.
KEPT = 1 << 21


def attend_tiled(
    q: Float[Tensor, "g h n w"],
    k: Float[Tensor, "g h n w"],
    v: Float[Tensor, "g h n w"],
    key_bias: Float[Tensor, "g n"] | None,
    row_weight: Float[Tensor, "g n"] | None,
    scale: float,
    dropout: float = 0.0,
    scores: bool = True,
) -> tuple[Float[Tensor, "g h n w"], Float[Tensor, "g n"]]:
    """Attended values, and the attention each key receives: summed over rows by their weight, averaged over heads.

    Without ``scores`` the latter is zeros. ``key_bias`` is added to a key's logits; minus infinity leaves it out.
    Dropout of the probabilities, below 1, comes after the received attention; it is drawn from one number of torch's default
    generator. Gradients reach all five tensors.
    """
    g, h, n, _ = q.shape
    rows = [x.reshape(g * h, n, x.shape[-1]) for x in (q, k, v)]
    wide = torch.promote_types(q.dtype, torch.float32)
    of_row = [
        None if x is None else x[:, None].expand(g, h, n).reshape(g * h, n).to(wide)
        for x in (key_bias, row_weight)
    ]
    out, received = _Tiled.apply(*rows, *of_row, scale, dropout, scores)  # type: ignore[no-untyped-call]
    return out.view(g, h, n, -1), received.view(g, h, n).mean(1)


def _tiles(r: int, n: int) -> Iterator[slice]:
    """Slices of rows, with about TILE probabilities each."""
    step = max(1, TILE // (n * n))
    return (slice(first, first + step) for first in range(0, r, step))


def _probabilities(q: Tensor, k: Tensor, bias: Tensor | None, scale: float) -> Float[Tensor, "r n n"]:
    """One tile's softmax, in float32 or wider."""
    logits = torch.bmm(q, k.transpose(1, 2))
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    logits.mul_(scale)
    if bias is not None:
        logits.add_(bias[:, None])
    return logits.softmax(-1)


class _Tiled(torch.autograd.Function):
    """q, k, v (r, n, w), bias and weight (r, n) or None; gives (r, n, w) and the sums of columns (r, n)."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        weight: Tensor | None,
        scale: float,
        dropout: float,
        scores: bool,
    ) -> tuple[Tensor, Tensor]:
        r, n, _ = q.shape
        ctx.scores = scores
        ctx.dropout, ctx.seed = dropout, int(torch.randint(2**62, ())) if dropout else 0
        draws = torch.Generator().manual_seed(ctx.seed)
        kept: list[Tensor] = []
        keep = r * n * n <= KEPT and any(ctx.needs_input_grad)
        out = torch.empty_like(v)
        received = torch.zeros(r, n, dtype=torch.promote_types(q.dtype, torch.float32), device=q.device)
        for tile in _tiles(r, n):
            p = _probabilities(q[tile], k[tile], None if bias is None else bias[tile], scale)
            if scores and weight is None:
                torch.sum(p, 1, out=received[tile])
            elif weight is not None and scores:
                torch.bmm(weight[tile, None], p, out=received[tile, None])
            if keep:
                kept.append(p)
            if dropout:
                p = p * mask_like(p, dropout, draws)
            torch.bmm(p.to(v.dtype), v[tile], out=out[tile])
        ctx.save_for_backward(q, k, v, bias, weight, *kept)
        ctx.scale = scale
        return out, received

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_received: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, weight, *kept = ctx.saved_tensors
        r, n, _ = q.shape
        draws = torch.Generator().manual_seed(ctx.seed)  # the same numbers again
        d_out = d_out.contiguous()
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        d_bias = torch.empty_like(bias) if bias is not None and ctx.needs_input_grad[3] else None
        d_weight = torch.empty_like(weight) if weight is not None and ctx.needs_input_grad[4] else None
        for index, tile in enumerate(_tiles(r, n)):
            if kept:
                p = kept[index]
            else:
                p = _probabilities(q[tile], k[tile], None if bias is None else bias[tile], ctx.scale)
            column = d_received[tile, None]
            dp = torch.bmm(d_out[tile], v[tile].transpose(1, 2)).to(p.dtype)
            used = p
            if ctx.dropout:
                mask = mask_like(p, ctx.dropout, draws)
                dp, used = dp.mul_(mask), mask.mul_(p)
            if ctx.scores and weight is None:
                dp.add_(column)
            elif ctx.scores:
                dp.addcmul_(weight[tile, :, None], column)
            if d_weight is not None:
                torch.bmm(p, column.transpose(1, 2), out=d_weight[tile, :, None])
            torch.bmm(used.to(v.dtype).transpose(1, 2), d_out[tile], out=dv[tile])
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
            if d_bias is not None:
                torch.sum(ds, 1, out=d_bias[tile])
            ds = ds.mul_(ctx.scale).to(q.dtype)
            torch.bmm(ds, k[tile], out=dq[tile])
            torch.bmm(ds.transpose(1, 2), q[tile], out=dk[tile])
        return dq, dk, dv, d_bias, d_weight, None, None, None
