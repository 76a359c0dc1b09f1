"""Softmax attention of one query a sequence: what a layer needs whose only reader is the class token."""

from jaxtyping import Float, Int
from torch import Tensor

from sparsam.dropout import dropout as drop


def attend_single(
    q: Float[Tensor, "b h k"],
    k: Float[Tensor, "t h k"],
    v: Float[Tensor, "t h k"],
    sequences: Int[Tensor, " t"],
    *,
    scale: float,
    key_bias: Float[Tensor, " t"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "b h k"]:
    """Each query over the tokens of its own sequence; work and memory grow with t, not with its square.

    Args:
        q: one query for each of b sequences; none of them empty.
        k, v: packed keys and values.
        sequences: which sequence each token belongs to, 0 to b - 1.
        scale: what the products are multiplied with.
        key_bias: added to the logits of a key.
        dropout: on the probabilities.
    """
    b, h, _ = q.shape
    if h == 0:
        return q
    logits = (q.float().index_select(0, sequences) * k.float()).sum(-1) * scale  # (t, h)
    if key_bias is not None:
        logits = logits + key_bias[:, None]
    place = sequences[:, None].expand(-1, h)
    top = logits.new_full((b, h), float("-inf")).scatter_reduce(0, place, logits.detach(), "amax")
    weights = (logits - top.index_select(0, sequences)).exp()
    total = weights.new_zeros(b, h).index_add(0, sequences, weights)
    p = drop(weights / total.index_select(0, sequences), dropout)
    mixed = (p.unsqueeze(-1) * v.float()).flatten(1)
    return mixed.new_zeros(b, mixed.shape[1]).index_add(0, sequences, mixed).view(b, h, -1).to(v.dtype)
