"""I-BERT on a real fine-tuned encoder and real sentences: MiniLM on SST-2, from the shared folder."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sparsam
from sparsam.compress import open_model
from sparsam.compress.ibert_run import IntegerOnlyMethod, integer_only, sequences_of
from sparsam.compress.opening import feed_of, split_of
from sparsam.compress.token_run import lengths_of_use
from sparsam.models.integer_only import encoder_of
from sparsam.quantization.integer_only import IBert
from sparsam.runtime import Batch, freeze
from sparsam.runtime.ibert import NativeIntegers
from sparsam.task import Task
from sparsam.training.feed import Feed, by_length
from sparsam.training.loop import Settings

pytestmark = [pytest.mark.data, pytest.mark.timeout(1800)]
DENSE = 781
"""Right of 872 in validation, in float32."""


class Sentences:
    """The dense checkpoint, training rows, and the validation split."""

    def __init__(self, shared: Path) -> None:
        self.task, self.dense = (
            Task.load(str(shared / "data" / "sst2")),
            str(shared / "models" / "minilm-sst2"),
        )
        one = self.model()
        self.train, self.validation = (
            feed_of(one, split_of(self.task, name), True) for name in ("train", "validation")
        )
        self.wanted = lengths_of_use(one, self.task, self.train, True)

    def model(self) -> Any:
        return open_model(self.dense, self.task)

    def right(self, model: Any, feed: Feed | None = None) -> int:
        """Of a frozen model's answers, in validation."""
        frozen, feed = freeze(model), self.validation
        found = 0
        for rows in by_length(feed.lengths, 4096):
            batch = feed.collate(rows)
            living = batch["attention_mask"].bool()
            logits = frozen.logits(Batch(batch["input_ids"][living], living.sum(1)))
            found += int((logits.argmax(1) == batch["labels"]).sum())
        return found


@pytest.fixture(scope="module")
def sentences(shared: Path) -> Sentences:
    return Sentences(shared)


@pytest.mark.parametrize("arithmetic", [IBert(), IBert("polynomial")], ids=["table", "polynomial"])
def test_integers_alone_lose_a_point_and_a_half_at_most(
    sentences: Sentences, arithmetic: IBert, tmp_path: Path
) -> None:
    """Nothing trained: validation after a save and a reload; machine code gives the reference's integers on real sentences."""
    one = sentences.model()
    integer_only(one.model, sentences.train, IntegerOnlyMethod(arithmetic), wanted=sentences.wanted)
    sparsam.save(one.model, tmp_path / "out", processor=one.processor)
    loaded = sparsam.load(tmp_path / "out").model
    assert sentences.right(loaded) >= DENSE - 0.015 * 872
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert size < 25e6  # of 90.9 MB
    encoder = encoder_of(loaded)
    tokens = sequences_of(sentences.validation.collate(np.arange(64)), 0)
    given = (tokens.ids, tokens.positions, tokens.kinds, tokens.lengths)
    want = encoder.run(*given, alone=True)
    assert torch.equal(NativeIntegers(encoder).run(*given, alone=True), want.int())


@pytest.mark.skipif(os.environ.get("SPARSAM_LONG") != "1", reason="takes minutes; SPARSAM_LONG=1 asks for it")
@pytest.mark.slow  # training with rounding, some minutes on two cores
def test_training_with_rounding_wins_back_most_of_it(sentences: Sentences) -> None:
    """A thirtieth of an epoch, 27 steps, towards the dense model's answers: half a point at most is left of what is lost."""
    one, teacher = sentences.model(), sentences.model().model
    method = IntegerOnlyMethod(qat_epochs=0.03, qat_lr=2e-5)
    integer_only(
        one.model,
        sentences.train,
        method,
        wanted=sentences.wanted,
        teacher=sparsam.lift(teacher),
        settings=Settings(),
    )
    assert sentences.right(one.model) >= DENSE - 0.005 * 872
