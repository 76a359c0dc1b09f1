"""What contestants are given: the same rows in every form, whoever reads them."""

from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints

from sparsam.artifact import Loaded
from sparsam.baselines.feed import Feed, Part
from sparsam.baselines.rows import Stored, write_rows
from sparsam.errors import Refused
from sparsam.task import Rows, encode


def test_rows_come_back_as_they_were_written(text_feed: Feed) -> None:
    """Texts, ids and token types survive the disk; the order by length is stable."""
    stored = text_feed.stored
    assert len(stored) == 24 and stored.rows.texts is not None and stored.rows.texts2 is None
    again = encode(text_feed.loaded.processor, stored.rows)
    assert again.input_ids == stored.encoded.input_ids
    assert again.token_type_ids == stored.encoded.token_type_ids
    assert stored.order("arrival").tolist() == list(range(24))
    lengths = stored.encoded.lengths[stored.order("sorted")]
    assert (np.diff(lengths) >= 0).all() and sorted(stored.order("sorted")) == list(range(24))


def test_given_and_made_inputs_agree(text_feed: Feed) -> None:
    """Padding here and by the tokenizer give the same arrays, and so do ragged rows."""
    rows = np.array([3, 0, 11])
    given, made = (Part(text_feed, rows, read) for read in (False, True))
    assert tuple(given.padded()) == ("input_ids", "attention_mask", "token_type_ids")
    for name, x in given.padded().items():
        np.testing.assert_array_equal(x, made.padded()[name])
    assert given.ragged() == made.ragged()
    assert given.originals() == [text_feed.stored.rows.texts[row] for row in rows]


def test_images_come_as_pixels_and_as_pictures(image_feed: Feed) -> None:
    """Pixels made while timed are those that were given."""
    rows = np.array([4, 1])
    given, made = (Part(image_feed, rows, read).padded()["pixel_values"] for read in (False, True))
    assert given.shape == (2, 3, 8, 8) and given.dtype == np.float32
    np.testing.assert_array_equal(given, made)
    assert [picture.size for picture in Part(image_feed, rows, True).originals()] == [(8, 8), (8, 8)]


def test_pairs_and_long_texts(tmp_path: Path, text_feed: Feed) -> None:
    """Pairs go to pipelines as pairs; a text longer than the position table is cut wherever it is read."""
    rows = Rows(["1 2", " ".join(["3"] * 50)], ["4", "5 6"], None, np.zeros(2), np.arange(2))
    processor = text_feed.loaded.processor
    (tmp_path / "pairs").mkdir()
    write_rows(tmp_path / "pairs", rows, encode(processor, rows, max_length=32), None)
    feed = Feed(Stored(tmp_path / "pairs"), text_feed.loaded)
    feed.check_reading()
    part = Part(feed, np.arange(2), True)
    assert part.originals()[0] == {"text": "1 2", "text_pair": "4"}
    assert part.padded()["input_ids"].shape == (2, 32)
    assert part.ragged()[1] == Part(feed, np.arange(2), False).ragged()[1]
    assert feed.stored.calibration is None


def test_another_tokenizer_is_refused(text_feed: Feed) -> None:
    """Times on other tokens are no comparison."""
    loaded = text_feed.loaded
    other = tiny_checkpoints.words("token_type_ids")
    other.add_tokens(["7 8"])
    other.model_max_length = 5
    odd = Feed(text_feed.stored, Loaded(loaded.model, other, None, {}, loaded.folder))
    with pytest.raises(Refused, match=r"its tokenizer makes other tokens.*first of row \d+.*--dense"):
        odd.check_reading()


def test_inputs_the_model_does_not_take_are_left_out(text_feed: Feed, tiny) -> None:
    """DistilBERT takes no token types, whatever the tokenizer makes."""
    loaded = text_feed.loaded
    own = Feed(text_feed.stored, Loaded(tiny.build("distilbert"), loaded.processor, None, {}, loaded.folder))
    assert own.inputs == ("input_ids", "attention_mask")
    assert Part(own, np.arange(2), True).ragged()[1] is None
