"""The main road: a model and a task in, a smaller checkpoint out, checked after reload.

    load ─ methods ─ save ─ reload ─ evaluate

Choices are made on training data alone: thresholds and penalties on a seeded slice of it. Validation is looked at once, through
the reloaded checkpoint.
"""

from sparsam.compress.dry_run import DryRun, plan_finetuning, plan_run
from sparsam.compress.evaluation import Evaluation, Progress, evaluate, predict
from sparsam.compress.method_run import Method
from sparsam.compress.opening import Opened, open_model, weight_bytes
from sparsam.compress.quantize_run import Quantized, quantize_model
from sparsam.compress.road import Compressed, Finetuned, compress, finetune

__all__ = [
    "Compressed",
    "DryRun",
    "Evaluation",
    "Finetuned",
    "Method",
    "Opened",
    "Progress",
    "Quantized",
    "compress",
    "evaluate",
    "finetune",
    "open_model",
    "plan_finetuning",
    "plan_run",
    "predict",
    "quantize_model",
    "weight_bytes",
]
