"""How good a model is on a split, and what it took: metric with interval, tokens kept, MACs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sparsam.compress.opening import Opened, open_model, split_of
from sparsam.cost import Cost
from sparsam.errors import Refused
from sparsam.measure import Measurement, metric_interval
from sparsam.models import is_lifted, plan_of, stack_of, unlift
from sparsam.models.count import Tally, dense_shapes_of, shapes_of
from sparsam.runtime import Batch, freeze
from sparsam.task import Split, Task
from sparsam.task.classes import answers
from sparsam.training.feed import streamed

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Stage, step, total, figures."""


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on a split, and what it took."""

    split: str
    metric: Measurement
    cost: Cost
    dense: Cost
    kept: tuple[dict[str, float], ...]
    """Mean share of tokens alive, layer by layer, at attention and at feed-forward."""
    truncated: int
    seconds: float
    predictions: NDArray[Any]
    """Classes as the task numbers them (-1 - output for one of the model's that the task lacks), or numbers."""
    labels: NDArray[Any]

    @property
    def macs_ratio(self) -> float:
        """MACs relative to the dense model on the same inputs."""
        return self.cost.relative_to(self.dense)

    def to_json(self) -> dict[str, Any]:
        """The facts without the predictions."""
        return {
            "split": self.split,
            **self.metric.as_json(),
            "macs": self.cost.macs,
            "macs_ratio": self.macs_ratio,
            "macs_per_sample": self.cost.macs / max(self.cost.samples, 1),
            "kept": list(self.kept),
            "truncated": self.truncated,
            "seconds": self.seconds,
        }


@torch.no_grad()
def predict(
    opened: Opened,
    split: Split,
    *,
    batch_tokens: int = 4096,
    truncate: bool = True,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], Tally, int]:
    """Logits of every row (n, classes), the work it took, and how many texts were cut.

    A model whose plan says that its encoder runs in integers alone answers in them: its forward pass through transformers is
    near them, no more, and is asked for the work alone.
    """
    model = opened.model.eval()
    alone = _in_integers_alone(model)
    stack, device = stack_of(model), next(model.parameters()).device
    shapes, dense, tally, cut = shapes_of(stack), dense_shapes_of(model, stack), Tally(), 0
    logits: NDArray[np.float32] | None = None
    done = 0
    for rows, batch, truncated in streamed(
        split,
        opened.processor,
        tokens=batch_tokens,
        max_length=opened.max_length,
        truncate=truncate,
        image_tokens=opened.image_tokens,
        pad_id=opened.pad_id,
    ):
        inputs = {name: x.to(device) for name, x in batch.items() if name != "labels"}
        with stack.recording() as kept:
            out = model(**inputs).logits.float().cpu().numpy()
        if alone is not None:
            out = alone(batch)
        if logits is None:
            logits = np.zeros((len(split), out.shape[1]), np.float32)
        logits[rows] = out
        tally.add(shapes, kept, dense)
        cut += truncated
        done += len(rows)
        if progress is not None:
            progress("evaluate", done, len(split), {})
    if logits is None:
        raise Refused("the split is empty; there is nothing to evaluate.", code="split-empty")
    if not np.isfinite(logits).all():
        row = int(np.flatnonzero(~np.isfinite(logits).all(1))[0])
        raise Refused(
            f"the model's output for row {row} is not a number. Look for NaN in its weights, or load it in "
            "float32.",
            code="non-finite",
        )
    return logits, tally, cut


def _in_integers_alone(model: Any) -> Callable[[dict[str, torch.Tensor]], NDArray[np.float32]] | None:
    """Answers to padded texts (padding on the right) in integers; None for a model that has floats in its encoder."""
    plan = plan_of(model)
    if plan is None or plan.integer_only is None:
        return None
    frozen = freeze(model)

    def answer(batch: dict[str, torch.Tensor]) -> NDArray[np.float32]:
        living, kinds = batch["attention_mask"].bool(), batch.get("token_type_ids")
        packed = Batch(batch["input_ids"][living], living.sum(1), None if kinds is None else kinds[living])
        found: NDArray[np.float32] = frozen.logits(packed).float().numpy()
        return found

    return answer


def evaluate(
    model: Any,
    task: Task | str,
    *,
    split: str = "validation",
    processor: Any = None,
    batch_tokens: int = 4096,
    truncate: bool = True,
    progress: Progress | None = None,
) -> Evaluation:
    """Metric with its 95 % interval, kept tokens and MACs of a model on a split.

    Args:
        model: a folder, hub id, transformers model, or what :func:`open_model` gave. A loaded model is given back as it came:
            in its mode, and on its stock forward pass if that was its own.
        task: what :meth:`Task.load` reads, or a task.
        split: ``train``, ``validation`` or ``test``.
    """
    task = Task.load(task) if isinstance(task, str) else task
    with _as_it_was(model):
        opened = model if isinstance(model, Opened) else open_model(model, task, processor=processor)
        chosen = split_of(task, split)
        started = time.monotonic()
        logits, tally, cut = predict(
            opened, chosen, batch_tokens=batch_tokens, truncate=truncate, progress=progress
        )
    if task.problem == "regression":
        predictions: NDArray[Any] = logits[:, 0]
    else:
        predictions = answers(logits, opened.model.config, task.labels)
    labels = chosen.labels
    metric = metric_interval(task.metric, predictions, labels)
    return Evaluation(
        split,
        metric,
        tally.cost,
        tally.dense,
        tuple(tally.shares()),
        cut,
        time.monotonic() - started,
        predictions,
        labels,
    )


@contextmanager
def _as_it_was(model: Any) -> Iterator[None]:
    """Inside the block a loaded model may be lifted and put into another mode; after it it is as it was."""
    model = model.model if isinstance(model, Opened) else model
    if not isinstance(model, nn.Module):
        yield
        return
    stock, modes = not is_lifted(model), {name: part.training for name, part in model.named_modules()}
    try:
        yield
    finally:
        if stock and is_lifted(model):
            unlift(model)
        for name, part in model.named_modules():
            part.training = modes.get(name, part.training)
