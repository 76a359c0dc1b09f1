"""What a contestant is given of a batch, in the form it asks for: padded, ragged, pixels, or the texts and images themselves.

Asking is part of the timed work. Where reading is timed too, tokenizer or image processor run at that moment, in the way their
own documentation has it; else token ids and pixels were there before, and only the padding is done.
"""

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.artifact import Graph, Loaded, LoadedExport
from sparsam.baselines.rows import Stored
from sparsam.errors import Refused
from sparsam.models.positions import longest_text
from sparsam.task import Encoded, Rows, collate, encode

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Feed:
    """Rows for one checkpoint, with its own tokenizer or image processor."""

    stored: Stored
    loaded: Loaded | LoadedExport

    @cached_property
    def is_image(self) -> bool:
        """Whether the rows are images."""
        return self.stored.encoded.pixel_values is not None

    @cached_property
    def longest(self) -> int | None:
        """Longest text in tokens."""
        return None if self.is_image else longest_text(self.loaded.model.config, self.loaded.processor)

    @cached_property
    def pad_id(self) -> int:
        """Token id of padding."""
        return int(getattr(self.loaded.processor, "pad_token_id", None) or 0)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The model's inputs, in order."""
        if self.is_image:
            return ("pixel_values",)
        if isinstance(self.loaded.model, Graph):
            return self.loaded.model.inputs
        taken = set(inspect.signature(self.loaded.model.forward).parameters)
        kinds = ("token_type_ids",) if self.stored.encoded.token_type_ids is not None else ()
        return tuple(name for name in ("input_ids", "attention_mask", *kinds) if name in taken)

    def sample(self, encoded: Encoded, rows: NDArray[np.int64]) -> Arrays:
        """Some rows of ``encoded`` as the model's inputs, padded."""
        found = collate(encoded, rows, self.pad_id)
        return {name: found[name] for name in self.inputs}

    def check_reading(self) -> None:
        """See that this checkpoint reads the rows as the baseline's does.

        Raises:
            Refused: ``other-tokens``.
        """
        if self.is_image:
            return
        own = encode(self.loaded.processor, self.stored.rows, max_length=self.longest).input_ids or []
        wanted = self.stored.encoded.input_ids or []
        other = next(
            (at for at, pair in enumerate(zip(own, wanted, strict=True)) if pair[0] != pair[1]), None
        )
        if other is not None:
            raise Refused(
                f"its tokenizer makes other tokens than the dense checkpoint's, first of row {other}; times of other "
                "inputs cannot be compared. Give the dense checkpoint it was made from (--dense).",
                code="other-tokens",
            )


@dataclass(frozen=True)
class Part:
    """Some rows of a feed; with ``read`` they are tokenized or processed when they are asked for."""

    feed: Feed
    rows: NDArray[np.int64]
    read: bool

    def padded(self) -> Arrays:
        """The model's inputs by name, padded to the longest row."""
        feed = self.feed
        if not self.read or feed.is_image:
            return (
                {"pixel_values": self.pixels()}
                if feed.is_image
                else feed.sample(feed.stored.encoded, self.rows)
            )
        found = feed.loaded.processor(*self._texts(), **self._cut(), padding=True, return_tensors="np")
        return {name: np.asarray(found[name], np.int64) for name in feed.inputs}

    def ragged(self) -> tuple[list[list[int]], list[list[int]] | None]:
        """Token ids row by row, and token types where the model takes them."""
        feed, encoded = self.feed, self.feed.stored.encoded
        if self.read:
            found = feed.loaded.processor(*self._texts(), **self._cut())
            ids, kinds = found["input_ids"], found.get("token_type_ids")
        else:
            assert encoded.input_ids is not None
            ids = [encoded.input_ids[row] for row in self.rows]
            kinds = (
                None if encoded.token_type_ids is None else [encoded.token_type_ids[row] for row in self.rows]
            )
        return ids, kinds if "token_type_ids" in feed.inputs else None

    def pixels(self) -> NDArray[np.float32]:
        """Pixels (n, c, h, w)."""
        if not self.read:
            assert self.feed.stored.encoded.pixel_values is not None
            return self.feed.stored.encoded.pixel_values[self.rows]
        images = self.feed.stored.rows.images or []
        few = Rows(None, None, [images[row] for row in self.rows], np.zeros(len(self.rows)), self.rows)
        made = encode(self.feed.loaded.processor, few).pixel_values
        assert made is not None
        return made

    def originals(self) -> list[Any]:
        """Texts, pairs of texts as transformers' pipelines take them, or pictures."""
        if self.feed.is_image:
            from PIL import Image

            from sparsam.task.images import in_channels

            images = self.feed.stored.rows.images or []
            return [Image.fromarray(in_channels(images[row], 3)) for row in self.rows]
        texts = self._texts()
        if len(texts) == 1:
            return texts[0]
        return [{"text": first, "text_pair": second} for first, second in zip(*texts, strict=True)]

    def _texts(self) -> tuple[list[str], ...]:
        rows = self.feed.stored.rows
        return tuple(
            [texts[row] for row in self.rows] for texts in (rows.texts, rows.texts2) if texts is not None
        )

    def _cut(self) -> dict[str, Any]:
        return {"truncation": True, "max_length": self.feed.longest}
