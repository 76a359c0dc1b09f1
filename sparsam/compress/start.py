"""What a run starts from, opened and checked: the same for the run itself and for its dry run."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from sparsam.compress.method_run import Method, check_methods
from sparsam.compress.opening import Opened, open_model
from sparsam.errors import Refused, Usage
from sparsam.models import plan_of
from sparsam.models.formats import refuse_integers
from sparsam.task import Task, classes


def start_compressing(
    model: Any, teacher: Any, task: Task, methods: Sequence[Method], processor: Any
) -> tuple[Opened, Opened]:
    """The model to compress, and the dense one it learns from and is compared with. Loaded models are copied.

    Raises:
        Usage: ``method-count``, ``teacher-missing``, ``teacher-compressed``.
        Refused: ``teacher-classes``, ``quantized`` for a model whose weights are integers, and those of :func:`open_model`.
    """
    check_methods(methods)
    opened = open_model(_own(model), task, processor=processor)
    refuse_integers(plan_of(opened.model), "compressing it further")
    if teacher is None:
        if removes_tokens(opened.model):
            raise Usage(
                f"{opened.name} is compressed already; give the dense model it came from as --teacher.",
                code="teacher-missing",
            )
        return opened, copy.deepcopy(opened)
    taught = open_model(_own(teacher), task, processor=opened.processor)
    if removes_tokens(taught.model) or in_integers(taught.model):
        raise Usage(
            f"the teacher {taught.name} is compressed itself; give the dense model it came from as --teacher.",
            code="teacher-compressed",
        )
    _check_same_classes(opened, taught, task)
    return opened, taught


def start_finetuning(model: Any, task: Task, processor: Any) -> Opened:
    """The model to fine-tune, with a fresh head unless it came loaded. A loaded model is copied.

    Raises:
        Usage: ``finetune-compressed``. Refused: ``quantized``, and those of :func:`open_model`.
    """
    opened = open_model(_own(model), task, processor=processor, fresh_head=not isinstance(model, nn.Module))
    refuse_integers(plan_of(opened.model), "fine-tuning it")
    if removes_tokens(opened.model):
        raise Usage(
            f"{opened.name} is compressed; fine-tuning would keep its plan. Fine-tune the dense model it came from, or "
            "train it on with transformers' Trainer.",
            code="finetune-compressed",
        )
    return opened


def removes_tokens(model: nn.Module) -> bool:
    """Whether a model runs by a plan with a token rule."""
    plan = plan_of(model)
    return plan is not None and plan.tokens is not None


def in_integers(model: nn.Module) -> bool:
    """Whether any of a model's weights are integers."""
    plan = plan_of(model)
    return plan is not None and plan.in_integers


def _own(model: Any) -> Any:
    """A loaded model is copied, so that its owner's stays as it is."""
    return copy.deepcopy(model) if isinstance(model, nn.Module) else model


def _check_same_classes(opened: Opened, taught: Opened, task: Task) -> None:
    """Outputs are matched one by one while learning from a teacher: both models must have them in one order."""
    if task.problem == "regression":
        return
    first, second = (
        (
            one.model.config.num_labels,
            classes.match(one.model.config, task.labels, one.name, task.name).outputs,
        )
        for one in (opened, taught)
    )
    if first != second:
        own, other = (", ".join(classes.names_of(one.model.config)[:8]) for one in (opened, taught))
        raise Refused(
            f"{opened.name} has the classes {own}; the teacher {taught.name} has {other}: another number or order. Give "
            "the dense model that it came from as --teacher.",
            code="teacher-classes",
        )
