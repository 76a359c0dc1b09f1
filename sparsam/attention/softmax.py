"""Softmax attention on packed tokens, with the attention each token receives on request.

Letters: t packed tokens, h heads, k head width, g sequences of one group, n (padded) tokens of the group.

``reference`` walks the sequences one by one in the plainest way. ``attend`` gives the same numbers faster: it views
the packed tokens as a few rectangles, and runs each as one fused kernel or as one materialised softmax.

    groups    one rectangle for each distinct length, no padding at all
    buckets   similar lengths share a rectangle; its padding is masked
    padded    one rectangle for the whole batch

A token's *received attention* is the sum of its column of probabilities over the living queries, averaged over heads.
Over the living tokens of a sequence it sums to their number, so its mean is 1 whatever the length or the padding.
It is accumulated in float32. Where a layer has no heads left it is 1 for every token: nobody is preferred.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsam.attention.tiled import attend_tiled
from sparsam.dropout import dropout as drop

Form = Literal["auto", "groups", "buckets", "padded"]
PairBias = Callable[[Int[Tensor, "g n"]], Float[Tensor, "g h n n"]]
Attend = Callable[..., tuple[Tensor, Tensor | None]]

# A bucket takes a sequence of at least this share of its longest: at most 1 - 0.8**2 = 36 % of its products are padding.
# Chosen by us: on SST-2 batches of 32 (22 distinct lengths) it leaves 5-6 rectangles.
BUCKET = 0.8
# Fewer distinct lengths than this: exact groups, no padding. Chosen by us.
FEW = 5
# Rows of probabilities recomputed at once when scores come from the row logsumexp.
CHUNK = 256
# Up to this many tokens gradients on a CPU go through tiles: torch's fused backward pass is made for long sequences, and in
# bf16 takes six times as long at 25 tokens, twice at 192 (docs/log.md).
LEARNED_IN_TILES = {torch.bfloat16: 256, torch.float32: 64}


class Rectangle(NamedTuple):
    """Some sequences of the batch seen as a (g, n) rectangle of slots; ``valid`` is None without padding."""

    g: int
    n: int
    valid: Bool[Tensor, "g n"] | None


class Layout(NamedTuple):
    """A batch as rectangles, their slots laid end to end.

    ``take`` names the packed token of each slot (for padding, some token of the same sequence), ``place`` the slot of each
    packed token. Both are None where all lengths are equal: a view is enough.
    """

    rectangles: tuple[Rectangle, ...]
    take: Int[Tensor, " s"] | None
    place: Int[Tensor, " t"] | None

    def split(self, x: Tensor) -> list[Tensor]:
        """Packed rows (t, ...) as one (g, n, ...) for each rectangle."""
        slots = x if self.take is None else x.index_select(0, self.take)
        parts = torch.split(slots, [r.g * r.n for r in self.rectangles])
        return [part.view(r.g, r.n, *x.shape[1:]) for part, r in zip(parts, self.rectangles, strict=True)]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The inverse: one (g, n, ...) for each rectangle to packed rows (t, ...)."""
        flat = [part.flatten(0, 1) for part in parts]
        slots = flat[0] if len(flat) == 1 else torch.cat(flat)
        return slots if self.place is None else slots.index_select(0, self.place)


@lru_cache(maxsize=256)
def layout(lengths: tuple[int, ...], form: Form, device: torch.device) -> Layout:
    """How to view packed sequences of these lengths as rectangles. Sequences of length 0 are skipped."""
    sizes = np.asarray(lengths, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    alive = np.flatnonzero(sizes)
    distinct = np.unique(sizes[alive])
    if distinct.size == 0:
        return Layout((), None, None)
    if distinct.size == 1 and alive.size == sizes.size:
        return Layout((Rectangle(int(alive.size), int(distinct[0]), None),), None, None)
    if form == "auto":
        form = "groups" if distinct.size < FEW else "buckets"
    if form == "padded":
        bounds = [int(distinct[-1])]
    elif form == "groups":
        bounds = [int(n) for n in distinct]
    else:
        bounds = []
        for n in distinct[::-1]:
            if not bounds or n < BUCKET * bounds[-1]:
                bounds.append(int(n))
        bounds.reverse()
    rectangles, slots, filled = [], [], []
    low = 0
    for bound in bounds:
        members = alive[(sizes[alive] > low) & (sizes[alive] <= bound)]
        low = bound
        n = int(sizes[members].max())
        steps = np.arange(n)
        valid = steps[None, :] < sizes[members, None]
        slots.append(np.where(valid, starts[members, None] + steps[None, :], starts[members, None]).ravel())
        filled.append(valid.ravel())
        whole = bool(valid.all())
        rectangles.append(Rectangle(len(members), n, None if whole else torch.from_numpy(valid).to(device)))
    take, real = np.concatenate(slots), np.concatenate(filled)
    place = np.empty(int(sizes.sum()), dtype=np.int64)
    place[take[real]] = np.flatnonzero(real)
    return Layout(tuple(rectangles), torch.from_numpy(take).to(device), torch.from_numpy(place).to(device))


def reference(
    q: Float[Tensor, "t h k"],
    k: Float[Tensor, "t h k"],
    v: Float[Tensor, "t h k"],
    lengths: Sequence[int],
    *,
    scale: float,
    scores: bool = False,
    key_bias: Float[Tensor, " t"] | None = None,
    row_weight: Float[Tensor, " t"] | None = None,
    pair_bias: PairBias | None = None,
    positions: Int[Tensor, " t"] | None = None,
) -> tuple[Float[Tensor, "t h k"], Float[Tensor, " t"] | None]:
    """The definition, sequence by sequence. See :func:`attend` for the arguments."""
    outs, received, start = [], [], 0
    for n in lengths:
        span = slice(start, start + n)
        start += n
        logits = torch.einsum("ihk,jhk->hij", q[span].float(), k[span].float()) * scale
        if pair_bias is not None:
            assert positions is not None
            logits = logits + pair_bias(positions[span].unsqueeze(0))[0]
        if key_bias is not None:
            logits = logits + key_bias[span]
        p = logits.softmax(-1)
        outs.append(torch.einsum("hij,jhk->ihk", p, v[span].float()).to(v.dtype))
        rows = p if row_weight is None else p * row_weight[span, None]
        received.append(rows.sum(1).mean(0) if len(p) else logits.new_ones(n))
    out = torch.cat(outs) if outs else torch.zeros_like(v)
    return out, torch.cat([v.new_zeros(0, dtype=torch.float32), *received]) if scores else None


def attend(
    q: Float[Tensor, "t h k"],
    k: Float[Tensor, "t h k"],
    v: Float[Tensor, "t h k"],
    lengths: Sequence[int],
    *,
    scale: float,
    scores: bool = False,
    key_bias: Float[Tensor, " t"] | None = None,
    row_weight: Float[Tensor, " t"] | None = None,
    pair_bias: PairBias | None = None,
    positions: Int[Tensor, " t"] | None = None,
    dropout: float = 0.0,
    form: Form = "auto",
    fused: bool | None = None,
) -> tuple[Float[Tensor, "t h k"], Float[Tensor, " t"] | None]:
    """Attention inside each sequence of a packed batch.

    Args:
        q, k, v: packed queries, keys, values.
        lengths: tokens of each sequence, as host integers; their sum is t.
        scale: what the products are multiplied with.
        scores: also return each token's received attention, (t,) in float32, before dropout.
        key_bias: added to the logits of a key, for all heads and queries: the log of a soft gate or of a size.
        row_weight: what a query's row counts in the received attention (a soft gate); 1 where absent.
        pair_bias: maps original positions (g, n) to a bias (g, h, n, n), as relative positions need.
        positions: original positions (t,), needed with ``pair_bias``.
        dropout: on the probabilities.
        form: how sequences are laid into rectangles; ``auto`` takes groups for few distinct lengths, else buckets.
        fused: use the fused kernel (no scores from it); by default wherever scores and gates are not asked for, and not for
            gradients of short sequences on a CPU (:data:`LEARNED_IN_TILES`).

    Returns:
        The attended values (t, h, k) and the received attention or None.
    """
    t, h, _ = v.shape
    if t == 0 or h == 0:
        return torch.zeros_like(v), v.new_ones(t, dtype=torch.float32) if scores else None
    if _varlen_fits(q, key_bias, pair_bias, dropout) and not (
        scores and torch.is_grad_enabled() and q.requires_grad
    ):
        # the kernel's logsumexp carries no gradient, so scores that are to be learned from are materialised below
        return _varlen(q, k, v, lengths, scale, scores, row_weight)
    plan = layout(tuple(lengths), form, q.device)
    longest_tiled = 0
    if fused is None:
        if q.device.type == "cpu" and q.requires_grad and torch.is_grad_enabled():
            longest_tiled = LEARNED_IN_TILES.get(q.dtype, 0)
        # The fused kernel has no dropout of its own on a CPU; torch then materialises too, with dearer draws.
        fused = not scores and key_bias is None and not (dropout and q.device.type == "cpu")
    if pair_bias is not None:
        assert positions is not None, "pair_bias needs positions"
    queries, keys, values = (plan.split(x) for x in (q, k, v))
    by_key, weights, places = (
        None if x is None else plan.split(x)
        for x in (key_bias, row_weight if scores else None, positions if pair_bias is not None else None)
    )
    outs, columns = [], []
    for index, (g, n, valid) in enumerate(plan.rectangles):
        gq, gk, gv = (x[index].transpose(1, 2) for x in (queries, keys, values))  # (g, h, n, k)
        bias = None if pair_bias is None or places is None else pair_bias(places[index])
        weight = None if weights is None else weights[index]
        if scores and valid is not None:
            weight = valid.float() if weight is None else weight * valid
        tiled = not fused or n <= longest_tiled
        if tiled and pair_bias is None and dropout < 1 and q.device.type == "cpu":
            of_key = None if by_key is None else by_key[index]
            if valid is not None:
                of_key = torch.zeros(g, n) if of_key is None else of_key
                of_key = of_key.masked_fill(~valid, float("-inf"))
            out, received = attend_tiled(gq, gk, gv, of_key, weight, scale, dropout, scores)
            columns.append(received)
            outs.append(out.transpose(1, 2))
            continue
        if by_key is not None:
            of_key = by_key[index][:, None, None, :]
            bias = of_key if bias is None else bias + of_key
        if valid is not None:
            if bias is None:
                bias = torch.zeros(g, 1, 1, n, device=q.device)
            bias = bias.masked_fill(~valid[:, None, None, :], float("-inf"))
        if fused and not scores:
            mask = None if bias is None else bias.to(q.dtype)
            out = F.scaled_dot_product_attention(gq, gk, gv, attn_mask=mask, dropout_p=dropout, scale=scale)
        else:
            logits = (gq @ gk.transpose(-1, -2)).float() * scale
            if bias is not None:
                logits = logits + bias
            p = logits.softmax(-1)  # (g, h, n, n)
            if scores:
                if weight is None:
                    columns.append(p.sum((1, 2)) / h)
                else:
                    columns.append(torch.einsum("ghij,gi->gj", p, weight) / h)
            p = drop(p, dropout)
            out = p.to(v.dtype) @ gv
        outs.append(out.transpose(1, 2))  # (g, n, h, k)
    return plan.join(outs), plan.join(columns) if scores else None


def received_from_logsumexp(
    q: Float[Tensor, "n h k"],
    k: Float[Tensor, "n h k"],
    logsumexp: Float[Tensor, "h n"],
    scale: float,
    row_weight: Float[Tensor, " n"] | None = None,
    chunk: int = CHUNK,
) -> Float[Tensor, " n"]:
    """Received attention of one sequence without a matrix of probabilities in memory: n·chunk instead of n·n."""
    n = q.shape[0]
    total = torch.zeros(n, dtype=torch.float32, device=q.device)
    for start in range(0, n, chunk):
        rows = slice(start, start + chunk)
        p = torch.exp(
            torch.einsum("ihk,jhk->hij", q[rows].float(), k.float()) * scale - logsumexp[:, rows, None]
        )
        if row_weight is not None:
            p = p * row_weight[rows, None]
        total += p.sum((0, 1))
    return total / q.shape[1]


def _varlen_operator() -> Callable[..., tuple[Tensor, Tensor]] | None:
    """torch's ragged attention, where this build has it (CUDA only)."""
    try:
        from torch.nn.attention import varlen
    except ImportError:
        return None
    return getattr(varlen, "varlen_attn", None)


def _varlen_fits(q: Tensor, key_bias: Tensor | None, pair_bias: PairBias | None, dropout: float) -> bool:
    if not q.is_cuda or q.dtype not in (torch.float16, torch.bfloat16) or dropout or q.shape[-1] % 8:
        return False
    return key_bias is None and pair_bias is None and _varlen_operator() is not None


def _varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Sequence[int],
    scale: float,
    scores: bool,
    row_weight: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Ragged flash attention on CUDA; scores are recomputed from the row logsumexp, sequence by sequence."""
    operator = _varlen_operator()
    assert operator is not None
    ends = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=q.device)
    longest = max(lengths)
    result = operator(
        q, k, v, ends, ends, longest, longest, scale=scale, return_aux=_lse() if scores else None
    )
    if not scores:
        return (result[0] if isinstance(result, tuple) else result), None
    out, logsumexp = result  # logsumexp (h, t)
    received, start = [], 0
    for n in lengths:
        span = slice(start, start + n)
        start += n
        weight = None if row_weight is None else row_weight[span]
        received.append(received_from_logsumexp(q[span], k[span], logsumexp[:, span].float(), scale, weight))
    return out, torch.cat(received)


def _lse() -> object:
    from torch.nn.attention import varlen

    return varlen.AuxRequest(lse=True)
