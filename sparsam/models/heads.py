"""What a model's head answers, told by the name of its class: one verdict for opening a model and for inspecting it."""

from collections.abc import Sequence

from sparsam.errors import Refused

CLASSIFIERS = ("ForSequenceClassification", "ForImageClassification")
"""Heads that are trained, compressed and evaluated: one answer for a whole text or image."""

TWO_HEADS = "ForImageClassificationWithTeacher"

REFUSED_HEADS = {
    "ForTokenClassification": "it gives a class for every token, not one for a whole text",
    "ForQuestionAnswering": "it gives the place of an answer in a text, not a class",
    "ForMultipleChoice": "it chooses between several texts, which come as one example",
    "ForNextSentencePrediction": "it tells whether two sentences follow each other, a task of pretraining",
    TWO_HEADS: "it has two heads, and transformers gives it no loss to be trained with",
    "ForSemanticSegmentation": "it gives a class for every patch, not one for a whole image",
}
"""Heads that are known by name, and why each is refused."""

NO_HEAD = "it has no classification head"


def why_not(names: Sequence[str]) -> str | None:
    """Why a model of this class is not evaluated and compressed as it is; None if it is.

    Args:
        names: of the class and those it comes from, nearest first.
    """
    for name in names:
        if name.endswith(CLASSIFIERS):
            return None
        for ending, reason in REFUSED_HEADS.items():
            if name.endswith(ending):
                return f"{name} is refused: {reason}"
    return NO_HEAD


def check_head(names: Sequence[str], model: str, task: str) -> None:
    """Refuse a model whose head is no classifier of whole texts or images.

    Raises:
        Refused: ``head-missing``, ``head-kind``.
    """
    reason = why_not(names)
    if reason is None:
        return
    if reason == NO_HEAD:
        raise Refused(
            f"{model} has no classification head. Fine-tune it first: sparsam finetune {model} "
            f"--task {task} --out DIR",
            code="head-missing",
        )
    if names[0].endswith(TWO_HEADS):
        mend = f"Load it as {names[0].removesuffix('WithTeacher')}, save that and fine-tune it"
    else:
        mend = "Fine-tune it first, which gives it another head"
    raise Refused(
        f"{model}: {reason}. {mend}: sparsam finetune {model} --task {task} --out DIR", code="head-kind"
    )
