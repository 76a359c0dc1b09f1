"""Which output of a model stands for which class of a task."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sparsam.errors import Refused
from sparsam.task import Task, metric_value
from sparsam.task.classes import answers, in_model_order, match


def config(*names: str) -> Any:
    """A model's configuration, as far as its classes go."""
    return SimpleNamespace(id2label=dict(enumerate(names)), num_labels=len(names))


def default(count: int) -> Any:
    """What transformers makes of a head whose classes were never named."""
    return config(*(f"LABEL_{index}" for index in range(count)))


@pytest.mark.parametrize(
    ("model", "labels", "outputs", "notes"),
    [
        (config("neg", "pos"), ("neg", "pos"), (0, 1), ()),
        (config("POSITIVE", "NEGATIVE"), ("negative", "positive"), (1, 0), ()),
        (config("a", "A"), ("A", "a"), (1, 0), ()),
        (config("1", "0"), ("0", "1"), (1, 0), ()),
        (config("neu", "neg", "pos"), ("neg", "pos"), (1, 2), ("holds 2 of the 3 classes of m; any other answer",)),
        (default(2), ("0", "1"), (0, 1), ()),
        (default(2), ("1", "2"), (0, 1), ()),
        (default(2), ("neg", "pos"), (0, 1), ("does not name its classes; .* neg as LABEL_0, pos as LABEL_1",)),
        (default(12), tuple(sorted(f"LABEL_{i}" for i in range(12))), (0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9), ()),
        (default(3), ("0", "2"), (0, 2), ("holds 2 of the 3 classes",)),
        (config("neg", "pos"), ("0", "1"), (0, 1), ("are numbers and m names its classes: 0 as neg, 1 as pos",)),
        (config("neg", "neu", "pos"), ("0", "2"), (0, 2), ("holds 2 of the 3", "0 as neg, 2 as pos")),
    ],
)  # fmt: skip
def test_labels_are_matched_by_name_then_by_number(model: Any, labels: Any, outputs: Any, notes: Any) -> None:
    """Names decide, capital letters aside; numbers are the model's own; what was taken on trust is said."""
    import re

    found = match(model, labels, "m", "t")
    assert found.outputs == outputs
    assert len(found.notes) == len(notes)
    assert all(re.search(wanted, said) for wanted, said in zip(notes, found.notes, strict=True))


@pytest.mark.parametrize(
    ("model", "labels", "code", "text"),
    [
        (config("cat", "dog"), ("neg", "pos"), "head-labels",
         r"m has the classes 'cat', 'dog'; the task t has the labels 'neg', 'pos', .* does not name 'neg', 'pos'\. Give both"),
        (config("neg", "pos"), ("neg", "neutral", "pos"), "head-labels", "does not name 'neutral'"),
        (config("A", "a"), ("a", "b"), "head-labels", "does not name 'b'"),
        (default(3), ("neg", "pos"), "head-classes", "m has 3 classes, the task t has 2"),
        (default(2), ("0", "1", "2"), "head-classes", "sparsam finetune m --task t"),
        (config("a", "b", "c"), ("1", "3"), "head-classes", "m has 3 classes, the task t has 2"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit_are_refused(model: Any, labels: Any, code: str, text: str) -> None:
    """Both lists are named, and what to do."""
    with pytest.raises(Refused, match=text) as caught:
        match(model, labels, "m", "t")
    assert caught.value.code == code


def test_answers_are_the_tasks_classes_and_others_are_wrong() -> None:
    """Logits in the model's order give the task's numbers; a class the task lacks counts against every metric."""
    model, labels = config("neu", "POS", "neg"), ("neg", "pos")
    logits = np.eye(3, dtype=np.float32)[[1, 2, 0, 1]]
    found = answers(logits, model, labels)
    assert found.tolist() == [1, 0, -1, 1]
    truth = np.array([1, 0, 1, 0])
    assert metric_value("accuracy", found, truth) == 0.5
    assert metric_value("f1", found, truth) == 0.5  # 1 right, 1 missed, 1 wrong: of "pos" alone
    assert metric_value("matthews", found, truth) == pytest.approx(2 / np.sqrt(80))  # R_K of three answers


def test_training_labels_are_the_models_outputs(tmp_path: Any) -> None:
    """What the loss sees are the model's own numbers; the task keeps its own."""
    rows = "\n".join(f"w{i},{('neg', 'pos')[i % 2]}" for i in range(40))
    (tmp_path / "train.csv").write_text(f"text,label\n{rows}\n")
    train = Task.load(tmp_path).train
    assert train is not None
    swapped = in_model_order(train, config("pos", "neg"))
    assert np.array_equal(swapped.labels, 1 - train.labels)
    assert np.array_equal(swapped.take(np.arange(5)).labels, 1 - train.take(np.arange(5)).labels)
    assert in_model_order(train, config("neg", "pos")) is train
