"""Which output of a model stands for which class of a task: matched by name, else by number, said aloud or refused.

The model's own order is left alone. Training data is turned into the model's order, answers are turned into the task's.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.task.split import Split


@dataclass(frozen=True)
class Classes:
    """``outputs[i]`` is the output of the model that stands for class ``i`` of the task; ``notes`` are to be said aloud."""

    outputs: tuple[int, ...]
    notes: tuple[str, ...] = ()


def match(config: Any, labels: Sequence[str], model: str, task: str) -> Classes:
    """Find each of a task's labels among the classes that a model's configuration names, capital letters aside.

    A model without names of its own (``LABEL_0``, ...) is taken to have the task's order. Labels that are whole numbers are
    taken as the model's own numbers where its names say something else.

    Raises:
        Refused: ``head-classes`` (their number does not fit), ``head-labels`` (their names do not).
    """
    names = names_of(config)
    by_name = _by_name(names, labels)
    if by_name is not None:
        return Classes(by_name, _fewer(names, labels, model, task))
    unnamed = names == [f"LABEL_{index}" for index in range(len(names))]
    numbers = [int(label) for label in labels] if all(re.fullmatch(r"-?\d+", x) for x in labels) else None
    outputs = tuple(range(len(labels)))
    if len(labels) != len(names):
        if not unnamed and numbers is None:
            raise _other_labels(names, labels, model, task)
        if numbers is None or not all(0 <= number < len(names) for number in numbers):
            raise Refused(
                f"{model} has {len(names)} classes, the task {task} has {len(labels)}. {_tune(model, task)}",
                code="head-classes",
            )
        outputs = tuple(numbers)
    elif not unnamed and numbers is None:
        raise _other_labels(names, labels, model, task)
    said = _fewer(names, labels, model, task)
    taken = ", ".join(f"{label} as {names[at]}" for label, at in zip(labels[:6], outputs, strict=False))
    taken += ", ..." if len(labels) > 6 else ""
    if unnamed and numbers is None:
        said += (f"{model} does not name its classes; the labels of {task} are taken in order: {taken}",)
    elif not unnamed:
        said += (f"the labels of {task} are numbers and {model} names its classes: {taken}",)
    return Classes(outputs, said)


def names_of(config: Any) -> list[str]:
    """The names of a model's classes, in the order of its outputs."""
    given = getattr(config, "id2label", None) or {}
    return [str(given.get(index, f"LABEL_{index}")) for index in range(int(config.num_labels))]


def in_model_order(split: Split, config: Any) -> Split:
    """The split with its labels as the numbers of the model's outputs, to train on."""
    reader = split.reader
    if reader.problem == "regression":
        return split
    outputs = match(config, reader.classes, "the model", "the data").outputs
    if outputs == tuple(range(len(reader.classes))):
        return split
    index = {value: outputs[at] for value, at in reader.index.items()}
    return replace(split, reader=replace(reader, index=index))


def answers(logits: NDArray[np.float32], config: Any, labels: Sequence[str]) -> NDArray[np.int64]:
    """The class of the task that each row of logits (n, outputs) says; -1 - output where that is none of the task's."""
    classes = -1 - np.arange(logits.shape[1])
    for at, output in enumerate(match(config, labels, "the model", "the data").outputs):
        classes[output] = at
    return np.asarray(classes[logits.argmax(1)], np.int64)


def _by_name(names: Sequence[str], labels: Sequence[str]) -> tuple[int, ...] | None:
    """The outputs of the labels' names; None where a name is missing, or stands there twice."""
    for fold in (str, lambda name: name.strip().casefold()):
        where = {fold(name): index for index, name in enumerate(names)}
        found = [where[fold(label)] for label in labels if fold(label) in where]
        if len(where) == len(names) and len(found) == len(labels) == len(set(found)):
            return tuple(found)
    return None


def _fewer(names: Sequence[str], labels: Sequence[str], model: str, task: str) -> tuple[str, ...]:
    if len(labels) == len(names):
        return ()
    return (
        f"the task {task} holds {len(labels)} of the {len(names)} classes of {model}; any other answer counts as wrong",
    )


def _other_labels(names: Sequence[str], labels: Sequence[str], model: str, task: str) -> Refused:
    known = {name.strip().casefold() for name in names}
    unknown = [label for label in labels if label.strip().casefold() not in known] or labels
    return Refused(
        f"{model} has the classes {_listed(names)}; the task {task} has the labels {_listed(labels)}, of which the model "
        f"does not name {_listed(unknown)}. Give both the same names (id2label of the model, or the labels of the data). "
        f"{_tune(model, task)}",
        code="head-labels",
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:6])) + (", ..." if len(names) > 6 else "")


def _tune(model: str, task: str) -> str:
    return f"Or give it a head for this task: sparsam finetune {model} --task {task} --out DIR"
