"""Rules on numbers of dimensions, and on sizes that cannot be."""

import re

from sparsam.shapes.diagnose import sizes
from sparsam.shapes.diagnose.call import Answer, Call, listed
from sparsam.shapes.diagnose.rule import rule

EXPECTED = (
    (r"Expected (\dD .*?) input to", "{}"),
    (r"expected (\dD(?: or \dD)?(?: \(batch mode\))?)", "{}"),
    (r"Expected (\d)-dimensional input", "{}"),
    (r"with <= (\d+) dimensions", "at most {}"),
    (r"(one|two) or fewer dimensions", "at most {}"),
    (r"at least (\d+|two|three) dim", "at least {}"),
    (r"Input dimension should be at least (\d)", "at least {}"),
    (r"total dims >= (\d)", "at least {}"),
    (r"must be (a matrix|[23]D|a 3D tensor)", "{}"),
    (r"expected a (matrix), but got", "a {}"),
    (r"must be (1 or 2|1) dim", "{}"),
    (r"'weight' must be (\d)-D", "{} of the weight"),
    (r"only supports a? ?(0)-dimensional", "{}"),
    (r"Supports (\dD or \dD)", "{}"),
    (r"(\dD or \dD)(?: \(batch mode\))? tensor", "{}"),
    (r"to be (\dD or \dD)", "{}"),
    (r"(1D) tensors expected", "{}"),
    (r"non-empty (\dD or \dD)", "{}"),
    (r"Expected (1-D) argument", "{}"),
)
"""What the framework says it expected, and how that is printed."""
POOL_RANK = r"range of \[-2, 1\], but got -3"
"""What pooling on tensors without data says to two dimensions."""


def dimensions(count: int) -> str:
    """A number of dimensions in words."""
    return f"{count} dimension{'' if count == 1 else 's'}"


@rule("tensor-rank", says="|".join([*(pattern for pattern, _ in EXPECTED), POOL_RANK]))
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
    pooled = call.said(POOL_RANK)
    if pooled and "ool" not in call.name:
        return None
    said = next(
        (words.format(match[1]) for pattern, words in EXPECTED if (match := call.said(pattern))), None
    )
    spatial = next((int(name[-2]) for name in call.names if re.search(r"[12]d$", name)), 2)
    expected = said or f"{spatial + 1}D or {spatial + 2}D"
    given = call.shape()
    if call.said("mat2|batch2|b must|'weight' must") and call.tensors:
        given = call.tensors[-1].shape
    if given is None:
        rank = call.said(r"got (?:an input of dimension )?(\d)D?\b")
        if rank is None:
            return Answer(f"a tensor for {call.words}: expected {expected}")
        count, shown = int(rank[1]), "a tensor"
    else:
        count, shown = len(given), sizes.shape(given)
    fix = "x.unsqueeze(0)" if call.is_module and "3D" in expected and count == 2 else ""
    return Answer(
        f"{shown} for {call.words}: got {dimensions(count)}, expected {expected}", dimensions(count), fix
    )


@rule(
    "dim-repeated",
    says=r"appears multiple times|repeated dim|dimensions cannot be identical|dims to be different|"
    r"duplicate (dim|value in the list of dims)",
)
def dim_repeated(call: Call) -> Answer | None:
    """A dimension named twice.

    Operations over several dimensions take each of them once; -1 and the last number are the same dimension.

    Fails:
    ```python
    x = torch.rand(2, 3)
    x.amax(dim=(1, -1))  # here
    ```

    Mended:
    ```python
    x = torch.rand(2, 3)
    x.amax(dim=(0, 1))
    ```
    """
    given = call.shape()
    of = f" of {sizes.shape(given)}" if given is not None else ""
    said = call.said(r"dim (-?\d+) appears multiple")
    which = f"dimension {said[1]}" if said else "a dimension"
    return Answer(f"{call.words}{of}: {which} is named twice", f"{which}, twice")


@rule(
    "negative-size",
    says=r"negative dimension|Dimension size must be non-negative|number of steps must be|"
    r"upper bound and lower bound inconsistent|negative dimensions are not allowed",
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
    r"zero-size|empty (tensor|sequence|list)|got 0 elements|empty range|reduction operation .* no identity|"
    r"iterable argument is empty|optional 0 dim batch|to have positive length|over an empty dimension|"
    r"at least one tensor",
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
