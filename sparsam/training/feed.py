"""A split as a training loop sees it: lengths, batches of indices, and tensors of a batch.

Texts are tokenized once and kept as token ids. Images are decoded and processed batch by batch, so memory does not grow with
their number.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsam.models import head_alone
from sparsam.task import Encoded, Split, collate, encode, join, token_budget_batches
from sparsam.training.loop import Batches

CHUNK = 1024
"""Rows tokenized, or predicted, at once. Chosen by us: bounds memory, costs nothing."""

BUCKET = 64
"""Batches of a training epoch are sorted by length inside runs of this many batches' examples: packed layers do not care,
but embeddings and attention then pad less. Chosen by us."""


class Feed:
    """A split ready to be trained on.

    Args:
        split: the rows.
        processor: a tokenizer or an image processor.
        max_length: longest text in tokens; longer ones are cut and counted in ``truncated``.
        truncate: refuse long texts instead, if False.
        image_tokens: tokens of one image, class token included.
        pad_id: token id of padding.
    """

    def __init__(
        self,
        split: Split,
        processor: Any,
        *,
        max_length: int | None = None,
        truncate: bool = True,
        image_tokens: int = 1,
        pad_id: int = 0,
    ) -> None:
        self.split, self.processor, self.pad_id = split, processor, pad_id
        self.encoded: Encoded | None = None
        self.truncated = 0
        first = split.take(np.arange(min(1, len(split))))
        if first.images is None:
            parts = [
                encode(processor, rows, max_length=max_length, truncate=truncate)
                for rows in split.batches(CHUNK)
            ]
            self.encoded = join(parts)
            self.truncated = self.encoded.truncated
            self.lengths = self.encoded.lengths
        else:
            self.lengths = np.full(len(split), image_tokens, np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def collate(self, indices: NDArray[np.int64]) -> dict[str, Tensor]:
        """The tensors of a batch."""
        if self.encoded is None:
            part = encode(self.processor, self.split.take(indices))
            return tensors(collate(part, np.arange(len(indices)), self.pad_id))
        return tensors(collate(self.encoded, indices, self.pad_id))

    def batches(self, tokens: int, seed: int, rows: NDArray[np.int64] | None = None) -> Batches:
        """Batches of about ``tokens`` real tokens over ``rows`` (all of them if absent), shuffled anew every epoch."""
        chosen = np.arange(len(self)) if rows is None else rows
        mean = float(self.lengths[chosen].mean()) if len(chosen) else 1.0
        bucket = max(1, int(BUCKET * tokens / max(mean, 1.0)))

        def of_epoch(epoch: int) -> list[NDArray[np.int64]]:
            generator = np.random.default_rng([seed, epoch])
            found = token_budget_batches(self.lengths[chosen], tokens, generator=generator, bucket=bucket)
            return [chosen[batch] for batch in found]

        return of_epoch


@torch.no_grad()
def answers(
    model: nn.Module,
    feed: Feed,
    rows: NDArray[np.int64],
    *,
    precision: str = "fp32",
    tokens: int = 4096,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """A model's logits for some rows of a feed, once for all epochs: (len(feed), classes) float32, NaN for the other rows.

    Rows go by length, about ``tokens`` of them at a time.
    """
    device = next(model.parameters()).device
    model.eval()
    found: Tensor | None = None
    done = 0
    for part in by_length(feed.lengths[rows], tokens):
        group = rows[part]
        batch = {name: x.to(device) for name, x in feed.collate(group).items() if name != "labels"}
        with head_alone(model), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(**batch).logits.float().cpu()
        if found is None:
            found = torch.full((len(feed), logits.shape[1]), torch.nan)
        found[torch.from_numpy(group)] = logits
        done += len(group)
        if progress is not None:
            progress(done, len(rows))
    assert found is not None, "no rows"
    return found


def by_length(lengths: NDArray[np.int64], tokens: int) -> list[NDArray[np.int64]]:
    """Row numbers from the shortest to the longest, in groups of about ``tokens`` real tokens."""
    order = np.argsort(lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    groups = np.split(order, np.flatnonzero(np.diff(ends // tokens)) + 1)
    return [group for group in groups if len(group)]


def tensors(batch: dict[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Arrays to tensors, labels as the losses want them."""
    made = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in batch.items()}
    labels = made.get("labels")
    if labels is not None:
        made["labels"] = labels.float() if labels.is_floating_point() else labels.long()
    return made


def streamed(
    split: Split,
    processor: Any,
    *,
    tokens: int,
    max_length: int | None,
    truncate: bool,
    image_tokens: int,
    pad_id: int,
) -> Iterator[tuple[NDArray[np.int64], dict[str, Tensor], int]]:
    """Every row once, a chunk at a time: row numbers, tensors, texts cut. Rows of a chunk go by length.

    Memory is that of one chunk, whatever the size of the split.
    """
    start = 0
    for rows in split.batches(CHUNK):
        part = encode(processor, rows, max_length=max_length, truncate=truncate)
        lengths = part.lengths if part.input_ids is not None else np.full(len(part), image_tokens, np.int64)
        cut = part.truncated
        for group in by_length(lengths, tokens):
            yield start + group, tensors(collate(part, group, pad_id)), cut
            cut = 0
        start += len(part)


def matched_rows(
    lengths: NDArray[np.int64], wanted: NDArray[np.int64], count: int, seed: int
) -> NDArray[np.int64]:
    """``count`` rows whose lengths are spread like ``wanted``: a budget is read on lengths like those of use.

    SST-2's training rows are phrases, its validation rows whole sentences; only lengths are looked at, never a label. For each
    drawn length the nearest row not taken yet.
    """
    generator = np.random.default_rng([seed, 101])
    count = min(count, len(lengths))
    order = np.lexsort((generator.permutation(len(lengths)), lengths))
    left = lengths[order].astype(np.float64)
    taken = np.zeros(len(order), bool)
    drawn = np.sort(generator.choice(wanted, count))
    for length in drawn:
        at = int(np.searchsorted(left, length))
        low, high = at - 1, at
        while True:
            low_gap = abs(left[low] - length) if low >= 0 else np.inf
            high_gap = abs(left[high] - length) if high < len(left) else np.inf
            pick = low if low_gap < high_gap else high
            if not taken[pick]:
                taken[pick] = True
                break
            if pick == low:
                low -= 1
            else:
                high += 1
    return np.sort(order[taken])
