"""Rules on losses."""

from collections.abc import Sequence

from sparsam.shapes.diagnose import sizes
from sparsam.shapes.diagnose.call import NUMBERS, Answer, Call, listed
from sparsam.shapes.diagnose.joining import mismatch
from sparsam.shapes.diagnose.rule import rule

CLASSES = (
    "cross_entropy nll_loss CrossEntropyLoss NLLLoss NLLLoss2d nll_loss_forward nll_loss2d_forward nll_loss2d"
)
ELEMENTS = ("mse_loss MSELoss l1_loss L1Loss smooth_l1_loss SmoothL1Loss huber_loss HuberLoss binary_cross_entropy BCELoss "
            "binary_cross_entropy_with_logits BCEWithLogitsLoss kl_div KLDivLoss poisson_nll_loss gaussian_nll_loss "
            "soft_margin_loss SoftMarginLoss multilabel_soft_margin_loss MultiLabelSoftMarginLoss hinge_embedding_loss "
            "cosine_embedding_loss CosineEmbeddingLoss margin_ranking_loss MarginRankingLoss triplet_margin_loss "
            "TripletMarginLoss")  # fmt: skip
OTHERS = "multi_margin_loss MultiMarginLoss multilabel_margin_loss MultiLabelMarginLoss ctc_loss CTCLoss"


def _two(call: Call) -> tuple[Sequence[str] | None, Sequence[str] | None]:
    return call.shape(0, "input", "self"), call.shape(1, "target")


@rule("loss-weight", CLASSES, says=r"weight tensor should be defined")
def loss_weight(call: Call) -> Answer | None:
    """Class weights for another number of classes.

    `weight` has one number for each class, which is the size of dimension 1 of the scores.

    Fails:
    ```python
    scores, target = torch.rand(4, 3), torch.tensor([0, 1, 2, 0])
    F.cross_entropy(scores, target, weight=torch.tensor([1.0, 2.0]))  # here
    ```

    Mended:
    ```python
    scores, target = torch.rand(4, 3), torch.tensor([0, 1, 2, 0])
    F.cross_entropy(scores, target, weight=torch.tensor([1.0, 2.0, 1.0]))
    ```
    """
    said = call.said(rf"for all (\S+) classes .* weight tensor of shape: {NUMBERS}")
    if said:
        return Answer(
            f"weight of {call.words}: got {sizes.shape(listed(said[2]))}, expected ({said[1]},)",
            f"{said[1]} classes",
        )
    if not call.said("weight tensor should be defined"):
        return None
    scores, weight = call.shape(0), call.shape(2, "weight")
    if scores is None or weight is None or len(scores) < 2:
        return None
    return Answer(
        f"weight of {call.words}: got {sizes.shape(weight)}, expected ({sizes.pretty(scores[1])},)",
        f"{sizes.pretty(scores[1])} classes",
    )


@rule(
    "loss-target-rank",
    CLASSES,
    says=r"multi-target not supported|only batches of spatial targets|Expected target size",
)
def loss_target_rank(call: Call) -> Answer | None:
    """A target of class numbers with a wrong number of dimensions.

    Scores are (batch, classes, …), the target is (batch, …): the dimension of the classes is missing in it.
    A target of one column is (batch, 1); scores of tokens (batch, tokens, classes) have to be flattened or turned.

    Fails:
    ```python
    scores, target = torch.rand(4, 10), torch.zeros(4, 1, dtype=torch.long)
    F.cross_entropy(scores, target)  # here
    ```

    Mended:
    ```python
    scores, target = torch.rand(4, 10), torch.zeros(4, 1, dtype=torch.long)
    F.cross_entropy(scores, target.squeeze(1))
    ```
    """
    scores, target = _two(call)
    if scores is None or target is None:
        return None
    if not scores or len(target) == len(scores) - 1 or (len(scores) == 1 and not target):
        return None
    expected = [scores[0], *scores[2:]] if len(scores) > 1 else []
    fix = ""
    if len(target) == len(scores) and target[-1] == "1" and len(scores) == 2:
        fix = "target.squeeze(1)"
    elif len(scores) == 3 and len(target) == 2:
        fix = "scores.flatten(0, 1), target.flatten()"
    elif len(target) == len(scores) and all(call.equal(a, b) for a, b in zip(scores, target, strict=True)):
        fix = "target.argmax(1), or probabilities as floats"
    return Answer(
        f"target {sizes.shape(target)} of {call.words} with scores {sizes.shape(scores)}: expected {sizes.shape(expected)}",
        f"{len(target)} dimensions, {len(expected)} asked",
        fix,
    )


@rule(
    "loss-batch",
    CLASSES,
    OTHERS,
    says=r"input batch_size|inconsistent target size|^size mismatch \(got input|input_lengths must be of size",
)
def loss_batch(call: Call) -> Answer | None:
    """Scores and target of different batches.

    Scores are (batch, classes, …) and the target (batch, …); the batch and what follows the classes agree.
    A fixed size in a `view` before the loss, or another slicing of inputs and targets, are the usual causes.

    Fails:
    ```python
    scores, target = torch.rand(4, 10), torch.zeros(3, dtype=torch.long)
    F.cross_entropy(scores, target)  # here
    ```

    Mended:
    ```python
    scores, target = torch.rand(4, 10), torch.zeros(4, dtype=torch.long)
    F.cross_entropy(scores, target)
    ```
    """
    scores, target = _two(call)
    if scores is None or target is None:
        said = call.said(r"input batch_size \((.+?)\) to match target batch_size \((.+?)\)\.")
        if not said:
            return None
        one, two = sizes.pretty(said[1]), sizes.pretty(said[2])
        return Answer(f"{call.words}: scores of {one}, target of {two}", f"{one} scores, {two} targets")
    expected = [scores[0], *scores[2:]] if len(scores) > 1 else []
    head = f"{call.words} of scores {sizes.shape(scores)} and target {sizes.shape(target)}"
    if call.names & {"ctc_loss", "CTCLoss"}:
        return (
            Answer(f"{head}: lengths and targets do not fit the batch")
            if call.said("must be of size")
            else None
        )
    for dimension, (one, two) in enumerate(zip(expected, target, strict=False)):
        if not call.equal(one, two):
            where = "in the batch" if dimension == 0 else f"in dimension {dimension} of the target"
            return Answer(
                f"{head}: {sizes.pretty(one)} against {sizes.pretty(two)} {where}",
                f"{sizes.pretty(one)} scores, {sizes.pretty(two)} targets",
            )
    if call.names & set(OTHERS.split()) and call.said("target"):
        return Answer(f"{head}: the sizes do not fit", "")
    return None


@rule("loss-shape", ELEMENTS, says=r"Target size .* must be the same as input size|Using a target size")
def loss_shape(call: Call) -> Answer | None:
    """Input and target of different shapes.

    Losses of elements (`mse_loss`, `l1_loss`, `binary_cross_entropy`, …) compare number with number.
    A column (batch, 1) against (batch,) is the usual case; where it does not fail it is broadcast to (batch, batch), which
    is worse.

    Fails:
    ```python
    scores, target = torch.rand(4, 1), torch.rand(4)
    F.binary_cross_entropy(scores, target)  # here
    ```

    Mended:
    ```python
    scores, target = torch.rand(4, 1), torch.rand(4)
    F.binary_cross_entropy(scores.squeeze(1), target)
    ```
    """
    said = call.said(
        rf"target size \({NUMBERS}\).* input size \({NUMBERS}\)|target size {NUMBERS}.* input size {NUMBERS}"
    )
    one, two = _two(call)
    if (one is None or two is None) and said:
        groups = [group for group in said.groups() if group is not None]
        two, one = listed(groups[0]), listed(groups[1])
    if one is None or two is None:
        return None
    strict = call.said("target size") or call.said("must be the same")
    shapes = [o.shape for o in call.tensors if o.shape is not None]
    found = mismatch(call, shapes)
    if not strict and found is None:
        return None
    if not strict and found is not None and not call.said("size of tensor|broadcast"):
        return None
    fix = ""
    if len(one) == len(two) + 1 and one[-1] == "1":
        fix = "scores.squeeze(-1)"
    elif len(two) == len(one) + 1 and two[-1] == "1":
        fix = "target.squeeze(-1)"
    if found is not None and found[4] > 1:
        one, two = shapes[found[3]], shapes[found[4]]
    return Answer(
        f"{call.words} of {sizes.shape(one)} and {sizes.shape(two)}: the shapes differ",
        f"{sizes.shape(one)} against {sizes.shape(two)}",
        fix,
    )


@rule("backward-shape", "backward grad", says=r"Mismatch in shape: grad_output")
def backward_shape(call: Call) -> Answer | None:
    """A gradient of another shape than what it is the gradient of.

    The argument of `backward` has the shape of the tensor it is called on; for one number it can be left out.

    Fails:
    ```python
    weights = torch.rand(3, requires_grad=True)
    (2 * weights).backward(torch.ones(4))  # here
    ```

    Mended:
    ```python
    weights = torch.rand(3, requires_grad=True)
    (2 * weights).backward(torch.ones(3))
    ```
    """
    said = call.said(rf"a shape of {NUMBERS} and .* a shape of {NUMBERS}")
    if not said:
        return None
    got, expected = sizes.shape(listed(said[1])), sizes.shape(listed(said[2]))
    return Answer(
        f"gradient given to {call.words}: got {got}, expected {expected}", f"{got}, {expected} asked"
    )
