"""Rules on indices: by number, by mask, by tensor."""

import re

from sparsam.shapes.diagnose import sizes
from sparsam.shapes.diagnose.call import NUMBERS, Answer, Call, listed
from sparsam.shapes.diagnose.joining import mismatch
from sparsam.shapes.diagnose.rule import rule


def dimensions(count: int) -> str:
    """A number of dimensions in words."""
    return f"{count} dimension{'' if count == 1 else 's'}"


@rule("index-rank", says=r"too many indices for")
def index_rank(call: Call) -> Answer | None:
    """More indices than dimensions.

    Each index or slice takes a dimension; `None` makes one, and `...` stands for those that are not named.

    Fails:
    ```python
    image = torch.rand(28, 28)
    image[0, :, :]  # here
    ```

    Mended:
    ```python
    image = torch.rand(1, 28, 28)
    image[0, :, :]
    ```
    """
    said = call.said(r"of dimension (\d+)|array is (\d+)-dimensional")
    given = call.shape()
    rank = str(len(given)) if given is not None else ((said[1] or said[2]) if said else "")
    of = f" of {sizes.shape(given)}" if given is not None else ""
    return Answer(
        f"too many indices{of}: the tensor has {rank} dimension{'' if rank == '1' else 's'}",
        f"{rank} dimensions" if rank != "1" else "1 dimension",
    )


@rule(
    "index-range",
    "__getitem__ select index_select embedding gather scatter take take_along_dim",
    says=r"is out of bounds for (dimension|axis)|index \S+ out of range for tensor|index out of range in self",
)
def index_range(call: Call) -> Answer | None:
    """An index past the end.

    A dimension of size n has the indices 0 … n − 1, and −n … −1 from the end. In an embedding n is the number of rows:
    a vocabulary or a number of positions that is too small.

    Fails:
    ```python
    hidden = torch.rand(4, 3)
    hidden[:, 3]  # here
    ```

    Mended:
    ```python
    hidden = torch.rand(4, 3)
    hidden[:, -1]
    ```
    """
    said = call.said(r"index (\S+) is out of bounds for (?:dimension|axis) (\S+) with size (\S+?)\.?$")
    said = said or call.said(r"index (\S+) out of range for tensor of size \[.*?\] at dimension (\S+?)\.?$")
    given = call.shape()
    if said:
        index, dimension = sizes.pretty(said[1]), said[2]
        rank = len(given) if given is not None else 0
        at = int(dimension) if dimension.lstrip("-").isdigit() else None
        known = given is not None and at is not None and -rank <= at < rank
        size = (
            said[3]
            if said.re.groups > 2
            else (given[at] if known and given is not None and at is not None else "?")
        )
        if (
            known
            and given is not None
            and at is not None
            and (call.value(given[at]) == call.value(size) or size == "?")
        ):
            size = given[at]
        of = f" of {sizes.shape(given)}" if given is not None else ""
        return Answer(
            f"index {index} in dimension {dimension}{of}: got {index}, expected less than {sizes.pretty(size)}",
            f"{sizes.pretty(size)} in dimension {dimension}, index {index} asked",
        )
    if call.said("index out of range in self"):
        rows = call.number("num_embeddings") or (call.tensors[-1].shape or ["?"])[0] if call.tensors else "?"
        if call.names & {"embedding", "Embedding"}:
            weight = call.operand("weight")
            rows = weight.shape[0] if weight is not None and weight.shape else rows
            return Answer(
                f"row number past the end of {call.words}",
                f"{sizes.pretty(rows)} rows",
                "a larger num_embeddings",
            )
        return Answer(f"index past the end in {call.words}", "")
    return None


@rule(
    "index-shape",
    "__getitem__ __setitem__ index index_put",
    says=r"shape of the mask|indexing tensors could not be broadcast|"
    r"shape mismatch: (indexing|value)|mask .* does not match",
)
def index_shape(call: Call) -> Answer | None:
    """A mask or indices of a shape that does not fit.

    A mask of bools has the sizes of the dimensions that it picks from; several tensors of indices are broadcast with each
    other.

    Fails:
    ```python
    tokens, keep = torch.rand(4, 7, 16), torch.ones(7, dtype=torch.bool)
    tokens[keep]  # here
    ```

    Mended:
    ```python
    tokens, keep = torch.rand(4, 7, 16), torch.ones(7, dtype=torch.bool)
    tokens[:, keep]
    ```
    """
    said = call.said(
        r"shape of the mask \[(.*?)\] at index (\d+) does not match the shape of the indexed tensor \[(.*?)\] at index (\d+)"
    )
    if said:
        mask, given = listed(said[1]), call.shape() or listed(said[3])
        at = int(said[2])
        one = mask[at] if at < len(mask) else "?"
        two = given[int(said[4])] if int(said[4]) < len(given) else "?"
        return Answer(
            f"mask {sizes.shape(mask)} on {sizes.shape(given)}: got {sizes.pretty(one)}, expected {sizes.pretty(two)}",
            f"{sizes.pretty(one)} in the mask, {sizes.pretty(two)} in the tensor",
        )
    said = call.said(
        r"could not be broadcast together with shapes (.*)|value tensor of shape \[(.*?)\] cannot be broadcast"
    )
    if said:
        return Answer(
            f"{call.words} with tensors of shapes {(said[1] or said[2] or '').rstrip('.')}: they cannot be broadcast"
        )
    indices = [o.shape for o in call.tensors[1:] if o.shape is not None]
    if (
        call.said("Attempting to broadcast a dimension")
        and call.name == "__getitem__"
        and mismatch(call, indices)
    ):
        shown = " and ".join(map(sizes.shape, indices))
        return Answer(f"indexing with tensors of shapes {shown}: they cannot be broadcast", shown)
    return None


@rule(
    "gather-sizes",
    "gather scatter scatter_add scatter_reduce index_add index_copy index_fill take_along_dim index_select "
    "repeat_interleave masked_scatter",
    says=r"to be no larger (size )?than|index tensor must have the same number|Number of indices \(|"
    r"repeats must have the same size",
)
def gather_sizes(call: Call) -> Answer | None:
    """An index tensor that does not fit what it is applied to.

    `gather` and `scatter` take an index with as many dimensions as the tensor, and no larger in all but the dimension that
    is picked from; `index_add` and `index_copy` take as many indices as rows.

    Fails:
    ```python
    scores, best = torch.rand(4, 10), torch.zeros(4, dtype=torch.long)
    scores.gather(1, best)  # here
    ```

    Mended:
    ```python
    scores, best = torch.rand(4, 10), torch.zeros(4, dtype=torch.long)
    scores.gather(1, best[:, None])
    ```
    """
    shapes = [o.shape for o in call.tensors if o.shape is not None]
    said = call.said(rf"at dimension (\d+) expected index {NUMBERS} to be no larger than self {NUMBERS}|expected index "
                     rf"{NUMBERS} to be no larger than (?:self|src) {NUMBERS}")  # fmt: skip
    given = shapes[0] if shapes else (listed(said[3] or said[5]) if said else None)
    index = shapes[1] if len(shapes) > 1 else (listed(said[2] or said[4]) if said else None)
    if call.said("same number of dimensions|same dimensionality"):
        shown = (
            f" {sizes.shape(index)} on {sizes.shape(given)}"
            if given is not None and index is not None
            else ""
        )
        ranks = (
            f"{dimensions(len(index))}, {len(given)} asked" if given is not None and index is not None else ""
        )
        fix = (
            "index.unsqueeze(-1)"
            if given is not None and index is not None and len(index) + 1 == len(given)
            else ""
        )
        return Answer(f"index{shown} of {call.words}: another number of dimensions", ranks, fix)
    if said and given is not None and index is not None:
        where = f" in dimension {said[1]}" if said[1] else ""
        return Answer(
            f"index {sizes.shape(index)} of {call.words} on {sizes.shape(given)}: larger than the tensor{where}",
            f"{sizes.shape(index)} against {sizes.shape(given)}",
        )
    said = call.said(r"Number of indices \((\S+)\) should be equal to \w+\.size\(dim\):? \((\S+?)\)|"
                     r"repeats\.size\(0\) = (\S+) and input\.size\(\S+\) = (\S+)")  # fmt: skip
    if said:
        one, two = sizes.pretty(said[1] or said[3]), sizes.pretty(said[2] or said[4])
        return Answer(f"{call.words}: {one} indices for {two} rows", f"{one} against {two}")
    return None


@rule(
    "topk-range",
    "topk kthvalue multinomial",
    says=r"selected (index|number) k out of range|k not in range|cannot sample n_sample >",
)
def topk_range(call: Call) -> Answer | None:
    """More is picked than there is.

    `topk(k)` and `kthvalue(k)` need at least k numbers in the dimension, `multinomial` without replacement too.

    Fails:
    ```python
    scores = torch.rand(4, 3)
    scores.topk(5)  # here
    ```

    Mended:
    ```python
    scores = torch.rand(4, 3)
    scores.topk(min(5, scores.shape[-1]))
    ```
    """
    if not call.said("range|cannot sample"):
        return None
    given = call.shape()
    asked = call.number("k", "num_samples") or next(iter(call.numbers), None)
    if given is None or asked is None:
        return Answer(f"{call.words}: more is picked than there is")
    dimension = next(iter(call.numbers[1:]), "-1")
    at = int(dimension) if dimension.lstrip("-").isdigit() else -1
    size = given[at] if given and -len(given) <= at < len(given) else "1"
    return Answer(
        f"{call.words} of {sizes.shape(given)}: got k = {sizes.pretty(asked)}, expected at most {sizes.pretty(size)}",
        f"{sizes.pretty(size)} there, {sizes.pretty(asked)} asked",
        f"min({asked}, x.shape[{at}])",
    )


@rule(
    "tensor-rank",
    says=r"Expected \dD .*input|non-empty 3D or 4D|Expected 3D or 4D|expects a tensor with <=|expected \d+D"
    r"|must be (a matrix|2D|3D)|must be a 3D tensor|Supports 1D or 2D|must have at least \d dim|\dD or \dD|"
    r"vector and vector|1D tensors expected|Dimension out of range \(expected to be in range of \[-2, 1\], but got -3\)",
)
def tensor_rank(call: Call) -> Answer | None:
    """A tensor with a wrong number of dimensions.

    `Conv2d` takes (batch, channels, height, width) or the same without a batch, `BatchNorm1d` (batch, channels) or
    (batch, channels, length), `mm` two matrices. Often a dimension of channels or a batch is missing, or has been squeezed
    away.

    Fails:
    ```python
    image = torch.rand(28, 28)
    nn.Conv2d(1, 8, 3)(image)  # here
    ```

    Mended:
    ```python
    image = torch.rand(28, 28)
    nn.Conv2d(1, 8, 3)(image[None])
    ```
    """
    if call.said("Dimension out of range") and "ool" not in call.name:
        return None
    given = call.shape()
    of = f"{sizes.shape(given)}" if given is not None else "the tensor"
    if given is None:
        said = call.said(r"got (?:an input of dimension )?(\d)D?\b")
        given = ["…"] * int(said[1]) if said else None
    patterns = (
        r"Expected (.*?) input to", r"expected (\d+D(?: or \d+D)?(?: \(batch mode\))?)", r"Expected (\dD or \dD)",
        r"tensor with (<= \d+) dimensions", r"to be (\dD or \dD)", r"Supports (\dD or \dD)", r"at least (\d+) dim",
        r"must be (a matrix|2D|3D|a 3D tensor)", r"(3D or 4D)", r"(\dD or \dD)", r"(1D) tensors",
    )  # fmt: skip
    said = next((match for match in map(call.said, patterns) if match), None)
    spatial = next((int(name[-2]) for name in call.names if re.search(r"[12]d$", name)), 2)
    expected = said[1] if said else f"{spatial + 1}D or {spatial + 2}D"
    if said and "at least" in said[0]:
        expected = f"at least {said[1]}"
    elif said and said[0].endswith("dimensions") and "<=" in said[1]:
        expected = f"at most {said[1].removeprefix('<= ')}"
    wrong = next(
        (
            tensor.shape
            for tensor in call.tensors
            if call.said("mat2|batch2|b must") and tensor is call.tensors[-1]
        ),
        given,
    )
    count = len(wrong) if wrong is not None else None
    of = sizes.shape(wrong) if wrong is not None else of
    fix = "x.unsqueeze(0)" if count is not None and count == 2 and "3D" in expected and call.is_module else ""
    shown = (
        f"got {count} dimensions, expected {expected}"
        if count != 1
        else f"got 1 dimension, expected {expected}"
    )
    return Answer(f"{of} for {call.words}: {shown if count is not None else f'expected {expected}'}",
                  f"{count} dimension{'' if count == 1 else 's'}" if count is not None else "", fix)  # fmt: skip


@rule(
    "negative-size",
    says=r"negative dimension|must be non-negative|upper bound and lower bound inconsistent|"
    r"negative dimensions are not allowed",
)
def negative_size(call: Call) -> Answer | None:
    """A tensor with a negative size, or a range that goes backwards.

    Sizes that are computed by subtraction can fall below 0 for small inputs.

    Fails:
    ```python
    length, longest = 5, 3
    torch.zeros(2, longest - length)  # here
    ```

    Mended:
    ```python
    length, longest = 5, 3
    torch.zeros(2, max(longest - length, 0))
    ```
    """
    asked = call.asked
    said = call.said(r"negative dimension (\S+?): \[(.*?)\]")
    if said:
        return Answer(
            f"{call.words} of {sizes.shape(asked or listed(said[2]))}: a size of {said[1]}",
            f"{said[1]} is no size",
            "max(…, 0)",
        )
    if call.said("upper bound and lower bound"):
        ends = [sizes.pretty(number) for number in call.numbers]
        return Answer(
            f"{call.words} from {ends[0]} to {ends[1]}: the step has another sign"
            if len(ends) > 1
            else f"{call.words}: the end comes before the start",
            "",
            "",
        )
    shown = f" of {sizes.shape(asked)}" if asked else ""
    below = next((size for size in asked or () if (call.value(size) or 0) < 0), "")
    caret = f"{sizes.pretty(below)} = {call.value(below)}" if below and not below.startswith("-") else ""
    return Answer(f"{call.words}{shown}: a negative size", caret or "a size is 0 or more", "max(…, 0)")


@rule(
    "empty",
    says=r"to have non-zero size|input\.numel\(\) == 0|non-empty|num_samples=0|Invalid number of data points \(0\)|"
    r"zero-size|empty (tensor|sequence|list)|cannot reshape tensor of 0 elements|got 0 elements|empty range|"
    r"reduction operation .* no identity|stack expects a non-empty|expected a non-empty list|iterable argument is empty",
)
def empty(call: Call) -> Answer | None:
    """Nothing where something is needed.

    The largest of no numbers does not exist, an empty list cannot be stacked, an empty data set cannot be shuffled.
    A size of 0 comes from a filter that lets nothing through, an integer division, or a data set that was not found.

    Fails:
    ```python
    scores = torch.rand(0, 10)
    scores.max(dim=0)  # here
    ```

    Mended:
    ```python
    scores = torch.rand(0, 10)
    best = scores.max(dim=0) if len(scores) else None
    ```
    """
    given = call.shape()
    zero = given is not None and any(call.value(size) == 0 for size in given)
    if (
        given is not None
        and not zero
        and not call.said("empty list|empty sequence|num_samples=0|data points")
    ):
        return None
    shown = f" of {sizes.shape(given)}" if given is not None else ""
    caret = next(
        (
            f"{sizes.pretty(size)} is 0" if size != "0" else "a size of 0"
            for size in given or ()
            if call.value(size) == 0
        ),
        "",
    )
    return Answer(f"{call.words}{shown}: there is nothing in it", caret)
