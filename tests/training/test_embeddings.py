"""Row-wise gradients of embedding tables: the same training, without a table of zeros at every step."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sparsam.training import embeddings
from sparsam.training.embeddings import touched_rows
from sparsam.training.loop import Settings, Supervised, train

SETTINGS = Settings(epochs=2, lr=1e-3, precision="fp32", clip=0.5)


@pytest.mark.parametrize("large", [1, 1 << 30])
def test_training_is_the_same(classifier: Any, rows: Any, monkeypatch: Any, large: int) -> None:
    """With every table treated by row, or none, the weights end equal; the tables are as they were afterwards."""
    monkeypatch.setattr(embeddings, "LARGE", large)
    model = copy.deepcopy(classifier)
    train(Supervised(model), rows.batches, rows.collate, SETTINGS)
    monkeypatch.setattr(embeddings, "LARGE", 1 << 30)
    plain = copy.deepcopy(classifier)
    train(Supervised(plain), rows.batches, rows.collate, SETTINGS)
    for (name, x), y in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4, msg=name)
    assert not any(m.sparse for m in model.modules() if isinstance(m, nn.Embedding))
    assert not torch.equal(
        model.bert.embeddings.word_embeddings.weight, classifier.bert.embeddings.word_embeddings.weight
    )


def gradient_of(table: nn.Embedding, asked: torch.Tensor) -> torch.Tensor:
    table(asked).pow(2).sum().backward()
    assert table.weight.grad is not None
    return table.weight.grad.clone()


def test_the_optimizer_sees_the_dense_gradient(monkeypatch: Any) -> None:
    """Repeated rows add up, the padding row has none, and rows of an earlier step do not linger."""
    monkeypatch.setattr(embeddings, "LARGE", 1)
    torch.manual_seed(0)
    table = nn.Embedding(20, 3, padding_idx=0)
    twin = copy.deepcopy(table)
    batches = [torch.tensor([[1, 1, 4, 0]]), torch.tensor([[4, 19, 2, 2]])]
    with touched_rows(table) as clean:
        for batch in batches:
            twin.weight.grad = table.weight.grad = None
            torch.testing.assert_close(gradient_of(table, batch), gradient_of(twin, batch))
            clean()
    assert table.weight.grad is None and not table.sparse
    assert torch.equal(gradient_of(table, batches[0]), gradient_of(copy.deepcopy(table), batches[0]))


def test_tied_tables_and_frozen_ones_are_left_alone(monkeypatch: Any) -> None:
    """A table that is an output layer too has a dense gradient; a frozen one has none."""
    monkeypatch.setattr(embeddings, "LARGE", 1)
    torch.manual_seed(0)
    table = nn.Embedding(6, 4)
    twin = copy.deepcopy(table)
    asked = torch.tensor([1, 5])
    with touched_rows(table):
        for module in (table, twin):
            (module(asked) @ module.weight.T).pow(2).sum().backward()
    with touched_rows(table) as clean:
        (table(asked) @ table.weight.T).pow(2).sum().backward()
        torch.testing.assert_close(table.weight.grad, twin.weight.grad)
        clean()
    table.weight.requires_grad_(False)
    with touched_rows(table):
        assert not table.sparse
