"""Whether a model, its processor and a task fit together: found out on opening, before any compute."""

from typing import Any

from transformers import ImageProcessingMixin, PreTrainedTokenizerBase

from sparsam.errors import Refused
from sparsam.models.heads import check_head
from sparsam.task import Task, classes


def check_fit(model: Any, processor: Any, kind: str, name: str, task: Task) -> tuple[str, ...]:
    """What to say aloud of a model that can be used for a task.

    Raises:
        Refused: ``task-kind``, ``processor-missing``, ``vocabulary``, ``head-missing``, ``head-kind``, ``head-classes``,
            ``head-labels``.
    """
    if kind != task.kind:
        raise Refused(
            f"{name} reads {kind}, the task {task.name} holds {task.kind}. Choose a model of the other kind.",
            code="task-kind",
        )
    _check_processor(processor, kind, name)
    if kind == "text":
        _check_vocabulary(model, processor, name)
    check_head([part.__name__ for part in type(model).__mro__], name, task.name)
    if task.problem == "classification":
        return classes.match(model.config, task.labels, name, task.name).notes
    if model.config.num_labels != 1:
        raise Refused(
            f"{name} has {model.config.num_labels} classes, the task {task.name} wants one number. Fine-tune it "
            f"first: sparsam finetune {name} --task {task.name} --out DIR",
            code="head-classes",
        )
    return ()


def _check_processor(processor: Any, kind: str, name: str) -> None:
    """Refuse a model without what turns texts or images into its input."""
    if kind == "text" and (processor is None or isinstance(processor, ImageProcessingMixin)):
        raise Refused(
            f"{name} has no tokenizer: no tokenizer.json, and no vocabulary (vocab.txt, vocab.json, a sentencepiece "
            "model). Copy these files from the model it was made from, or save them there: "
            "AutoTokenizer.from_pretrained(ORIGINAL).save_pretrained(DIR).",
            code="processor-missing",
        )
    if kind == "image" and (processor is None or isinstance(processor, PreTrainedTokenizerBase)):
        raise Refused(
            f"{name} has no image processor: no preprocessor_config.json. Copy this file from the model it was made "
            "from, or save it there: AutoImageProcessor.from_pretrained(ORIGINAL).save_pretrained(DIR).",
            code="processor-missing",
        )


def _check_vocabulary(model: Any, tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer that gives token ids beyond the model's embedding table."""
    vocabulary: dict[str, int] = getattr(tokenizer, "get_vocab", dict)()
    rows = int(model.get_input_embeddings().num_embeddings)
    token, largest = max(vocabulary.items(), key=lambda item: item[1], default=("", -1))
    if largest >= rows:
        raise Refused(
            f"{name}: its tokenizer gives ids up to {largest:,} ({token!r}), the model has embeddings for 0 to {rows - 1:,}. "
            "Copy the tokenizer that the model was trained with into the folder, or give the model the rows that are "
            "missing (model.resize_token_embeddings(len(tokenizer))), save it and train it.",
            code="vocabulary",
        )
