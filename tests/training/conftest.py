"""A tiny text classifier and rows for it, made from nothing: which of two words occurs more often."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from sparsam.models import lift
from sparsam.training.loop import Settings, Supervised, train


class Rows:
    """Random sentences over 30 words; the label says whether word 7 occurs more often than word 8."""

    def __init__(self, count: int = 160, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.lengths = generator.integers(4, 14, count)
        self.ids = [np.concatenate([[2], generator.integers(5, 30, n - 1)]) for n in self.lengths]
        for row in self.ids:
            row[1:3] = generator.choice([7, 8], 2)
        self.labels = np.array([int((row == 7).sum() > (row == 8).sum()) for row in self.ids])

    def __len__(self) -> int:
        return len(self.lengths)

    def collate(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        longest = max(self.lengths[i] for i in indices)
        ids, mask = np.zeros((2, len(indices), longest), np.int64)
        for at, i in enumerate(indices):
            ids[at, : self.lengths[i]] = self.ids[i]
            mask[at, : self.lengths[i]] = 1
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(self.labels[indices]),
        }

    def batches(self, epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng([3, epoch]).permutation(len(self.lengths))
        return [order[i : i + 16] for i in range(0, len(order), 16)]


@pytest.fixture
def rows() -> Rows:
    return Rows()


def make_classifier(dropout: float = 0.1, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=30,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return lift(BertForSequenceClassification(config))


@pytest.fixture
def classifier() -> Any:
    return make_classifier()


@pytest.fixture(scope="session")
def trained() -> Any:
    """A classifier that knows the task, so that attention is uneven. Copy it before use."""
    model, made = make_classifier(), Rows()
    settings = Settings(epochs=10, lr=2e-3, precision="fp32")
    train(Supervised(model), made.batches, made.collate, settings)
    return model


@pytest.fixture
def teacher(classifier: Any) -> Any:
    return copy.deepcopy(classifier)
