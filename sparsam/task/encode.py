"""From rows to what a model reads, and from examples to batches.

Letters: n examples, c channels, h height, w width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused, Usage
from sparsam.task.images import ImagePreprocess, in_channels
from sparsam.task.split import Rows

#: A tokenizer or image processor of transformers, or an ImagePreprocess.
Processor = Callable[..., Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Encoded:
    """Examples ready for a model: token ids of their own length each, or ``pixel_values`` float32 (n, c, h, w).

    ``truncated`` counts the texts that were cut to the model's longest input.
    """

    labels: NDArray[Any]
    input_ids: list[list[int]] | None = None
    token_type_ids: list[list[int]] | None = None
    pixel_values: NDArray[np.float32] | None = None
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text, special tokens included (n,). Raises Usage for images: the model says theirs."""
        if self.input_ids is None:
            raise Usage(
                "images have no lengths of their own; every one has as many patches.", code="no-lengths"
            )
        return np.fromiter(map(len, self.input_ids), np.int64, len(self.input_ids))


def encode(
    processor: Processor, rows: Rows, *, max_length: int | None = None, truncate: bool = True
) -> Encoded:
    """Tokenize the texts, without padding, or turn the images into pixel values.

    A text longer than ``max_length`` tokens is cut and counted; with ``truncate=False`` it raises Refused
    ``text-too-long``.
    """
    if rows.images is not None:
        return Encoded(rows.labels, pixel_values=pixels_of(processor, rows.images))
    if rows.texts is None:
        raise Usage("these rows hold neither texts nor images.", code="rows-empty")
    read = _tokenize(processor, rows.texts, rows.texts2)
    ids = [list(one) for one in read["input_ids"]]
    kinds = [list(one) for one in read["token_type_ids"]] if "token_type_ids" in read else None
    long = [at for at, one in enumerate(ids) if max_length is not None and len(one) > max_length]
    if long:
        if not truncate:
            raise Refused(
                f"{rows.where}: row {rows.numbers[long[0]]} has {len(ids[long[0]]):,} tokens, the model's limit is "
                f"{max_length:,} ({len(long):,} of these {len(ids):,} rows are too long). Shorten them, or leave out "
                "--no-truncate to have them cut.",
                code="text-too-long",
            )
        second = None if rows.texts2 is None else [rows.texts2[at] for at in long]
        cut = _tokenize(
            processor, [rows.texts[at] for at in long], second, truncation=True, max_length=max_length
        )
        for at, one in enumerate(long):
            ids[one] = list(cut["input_ids"][at])
            if kinds is not None:
                kinds[one] = list(cut["token_type_ids"][at])
    return Encoded(rows.labels, input_ids=ids, token_type_ids=kinds, truncated=len(long))


def _tokenize(
    processor: Processor, first: list[str], second: list[str] | None, **options: Any
) -> Mapping[str, Any]:
    if not first:
        return {"input_ids": []}
    texts = (first,) if second is None else (first, second)
    return processor(
        *texts, **({"truncation": False} | options), padding=False, return_attention_mask=False, verbose=False
    )


def pixels_of(processor: Processor, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Pixel values (n, c, h, w) of images, uint8 (h, w) or (h, w, c); grey ones become RGB."""
    if isinstance(processor, ImagePreprocess):
        return np.asarray(processor(images)["pixel_values"])
    from PIL import Image

    # As pipeline("image-classification") does: RGB through Pillow, so that both see the same pixels.
    shown = [Image.fromarray(in_channels(image, 3)) for image in images]
    return np.stack([np.asarray(one, np.float32) for one in processor(images=shown)["pixel_values"]])


def join(parts: Sequence[Encoded]) -> Encoded:
    """Encoded pieces, end to end."""
    if not parts:
        raise Usage("nothing to join: no encoded rows were given.", code="rows-empty")
    return Encoded(
        labels=np.concatenate([part.labels for part in parts]),
        input_ids=None
        if parts[0].input_ids is None
        else [one for part in parts for one in part.input_ids or []],
        token_type_ids=(
            None
            if parts[0].token_type_ids is None
            else [one for part in parts for one in part.token_type_ids or []]
        ),
        pixel_values=(
            None
            if parts[0].pixel_values is None
            else np.concatenate([part.pixel_values for part in parts if part.pixel_values is not None])
        ),
        truncated=sum(part.truncated for part in parts),
    )


def collate(
    encoded: Encoded,
    indices: Sequence[int] | NDArray[np.int64],
    pad_id: int = 0,
    padding_side: Literal["right", "left"] = "right",
) -> dict[str, NDArray[Any]]:
    """One batch as arrays, padded to its longest text.

    ``input_ids``, ``attention_mask`` and, where the tokenizer gave them, ``token_type_ids`` int64 (n, longest); or
    ``pixel_values`` float32 (n, c, h, w); and ``labels`` (n,).
    """
    where = np.asarray(indices, np.int64)
    if encoded.pixel_values is not None:
        return {"pixel_values": encoded.pixel_values[where], "labels": encoded.labels[where]}
    assert encoded.input_ids is not None
    ids = [encoded.input_ids[at] for at in where]
    longest = max(map(len, ids), default=0)
    batch = {
        "input_ids": np.full((len(ids), longest), pad_id, np.int64),
        "attention_mask": np.zeros((len(ids), longest), np.int64),
    }
    if encoded.token_type_ids is not None:
        batch["token_type_ids"] = np.zeros((len(ids), longest), np.int64)
    for at, one in enumerate(ids):
        place = slice(0, len(one)) if padding_side == "right" else slice(longest - len(one), longest)
        batch["input_ids"][at, place] = one
        batch["attention_mask"][at, place] = 1
        if encoded.token_type_ids is not None:
            batch["token_type_ids"][at, place] = encoded.token_type_ids[where[at]]
    return {**batch, "labels": encoded.labels[where]}


def token_budget_batches(
    lengths: NDArray[np.int64] | Sequence[int],
    tokens_per_batch: int,
    *,
    generator: np.random.Generator,
    max_examples: int | None = None,
    bucket: int | None = None,
) -> list[NDArray[np.int64]]:
    """Shuffled batches of at most ``tokens_per_batch`` real tokens (and ``max_examples``); each example once.

    An example longer than the budget gets a batch of its own. ``bucket`` sorts by length inside runs of that many
    shuffled examples, so that a batch holds few distinct lengths, and shuffles the batches again.
    """
    for name, value in (
        ("tokens_per_batch", tokens_per_batch),
        ("max_examples", max_examples),
        ("bucket", bucket),
    ):
        if value is not None and value < 1:
            raise Usage(f"{name} must be at least 1; got {value}.", code="batch-size")
    tokens = np.asarray(lengths, np.int64)
    order = generator.permutation(len(tokens))
    if bucket is not None:
        runs = [order[start : start + bucket] for start in range(0, len(order), bucket)]
        order = (
            np.concatenate([run[np.argsort(tokens[run], kind="stable")] for run in runs]) if runs else order
        )
    batches: list[NDArray[np.int64]] = []
    start = spent = 0
    for at, length in enumerate(tokens[order].tolist()):
        if at > start and (spent + length > tokens_per_batch or at - start == max_examples):
            batches.append(order[start:at])
            start, spent = at, 0
        spent += length
    if start < len(order):
        batches.append(order[start:])
    if bucket is not None:
        batches = [batches[at] for at in generator.permutation(len(batches))]
    return batches


def in_order_batches(n: int, size: int) -> list[NDArray[np.int64]]:
    """0 ... n-1 in pieces of ``size``; the last may be smaller."""
    if size < 1:
        raise Usage(f"a batch needs at least one row; got size {size}.", code="batch-size")
    return [np.arange(start, min(start + size, n)) for start in range(0, n, size)]
