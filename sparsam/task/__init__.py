"""Tasks: data, preprocessing and metric, for text and images.

    task = Task.load("nyu-mll/glue:sst2")            # or a folder, a file, "digits"
    rows = task.validation.take(np.arange(8))
    encoded = task.encode(tokenizer, rows, max_length=512)
    metric_value(task.metric, logits, encoded.labels)

Imports neither torch nor transformers; a tokenizer or image processor is any callable of their form.
"""

from sparsam.task.definition import Task
from sparsam.task.encode import (
    Encoded,
    Processor,
    collate,
    encode,
    in_order_batches,
    join,
    token_budget_batches,
)
from sparsam.task.images import ImagePreprocess
from sparsam.task.metrics import METRIC_NAMES, METRICS, metric_value
from sparsam.task.split import Rows, Split

__all__ = [
    "METRICS", "METRIC_NAMES", "Encoded", "ImagePreprocess", "Processor", "Rows", "Split", "Task", "collate",
    "encode", "in_order_batches", "join", "metric_value", "token_budget_batches",
]  # fmt: skip
