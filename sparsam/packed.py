"""The one layout inside the encoder: the living tokens of a batch lie end to end.

Letters: b batch, n padded tokens of one sequence, t packed tokens, d width.

Rows are gathered by ``index_select``: with its gradient it takes a quarter of the time of indexing with brackets on a CPU.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """Tokens end to end, sequence by sequence, in their original order.

    ``rows`` says where each token stands in the padded batch laid flat, so its sequence is ``rows // width`` and
    its original position ``rows % width``. ``lengths`` counts the living tokens of each sequence; 0 is allowed.
    """

    values: Float[Tensor, "t d"]
    lengths: Int[Tensor, " b"]
    rows: Int[Tensor, " t"]
    width: int

    @property
    def sequences(self) -> Int[Tensor, " t"]:
        """Which sequence each token belongs to."""
        return self.rows // self.width

    @property
    def positions(self) -> Int[Tensor, " t"]:
        """Each token's place in its padded sequence, as it was before anything was removed."""
        return self.rows % self.width

    def with_values(self, values: Float[Tensor, "t e"]) -> "Packed":
        """The same tokens with other states."""
        return replace(self, values=values)


def pack(x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None = None) -> Packed:
    """Lay the living tokens of a batch end to end. Without a mask all tokens live.

    Packing is by mask, not by length: padding may stand on the left, on the right or in the middle.
    """
    b, n, _ = x.shape
    if mask is None:
        rows = torch.arange(b * n, device=x.device)
        return Packed(x.flatten(0, 1), torch.full((b,), n, device=x.device), rows, n)
    rows = mask.flatten().nonzero().squeeze(1)
    return Packed(x.flatten(0, 1).index_select(0, rows), mask.sum(1), rows, n)


def select(tokens: Packed, keep: Bool[Tensor, " t"]) -> Packed:
    """Only the tokens of ``keep``; the others cost nothing from here on."""
    chosen = keep.nonzero().squeeze(1)
    rows = tokens.rows[chosen]
    lengths = torch.bincount(rows // tokens.width, minlength=tokens.lengths.shape[0])
    return Packed(tokens.values.index_select(0, chosen), lengths, rows, tokens.width)


def unpack(parts: list[Packed], batch: int) -> Float[Tensor, "b n d"]:
    """Put tokens back where they stood; places that no part names are zero.

    ``parts`` are disjoint: the survivors, and at each layer the tokens removed there, so that every token that
    ever lived shows its last state.
    """
    values = torch.cat([part.values for part in parts])
    rows = torch.cat([part.rows for part in parts])
    n, d = parts[0].width, values.shape[1]
    if rows.shape[0] == batch * n and len(parts) == 1:  # nothing padded, nothing removed: already in order
        return values.view(batch, n, d)
    return values.new_zeros(batch * n, d).index_copy(0, rows, values).view(batch, n, d)


def fill_with_survivors(removed: Packed, survivors: Packed) -> Packed:
    """The removed tokens' states replaced by the mean of their sequence's survivors.

    A mean over all tokens of the sequence then equals the mean over its survivors. Sums are kept in float32 at least.
    """
    b, d = survivors.lengths.shape[0], survivors.values.shape[1]
    wide = _wide(survivors.values)
    totals = wide.new_zeros(b, d).index_add(0, survivors.sequences, wide)
    means = totals / survivors.lengths.clamp(min=1).unsqueeze(1)
    return removed.with_values(means[removed.sequences].to(survivors.values.dtype))


def merge(
    values: Float[Tensor, "t d"], sizes: Float[Tensor, " t"], into: Int[Tensor, " t"]
) -> tuple[Float[Tensor, "t d"], Float[Tensor, " t"]]:
    """Fold each token into the token ``into`` names (itself, if it stays): size-weighted mean, sizes added.

    A token folded into another keeps its own state, the last it had, and counts 0.
    """
    total = torch.zeros_like(sizes).index_add(0, into, sizes)
    wide = _wide(values)
    summed = torch.zeros_like(wide).index_add(0, into, wide * sizes.unsqueeze(1))
    means = summed / total.clamp(min=1e-12).unsqueeze(1)
    return torch.where(total.unsqueeze(1) > 0, means, wide).to(values.dtype), total


def _wide(values: Tensor) -> Tensor:
    """In float32, unless it is wider already: sums of many half-precision states lose their last bits."""
    return values if values.dtype == torch.float64 else values.float()
