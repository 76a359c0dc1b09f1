"""Rules on operations that show the same elements in another shape."""

import re
from collections.abc import Sequence

from sparsam.shapes.diagnose import sizes
from sparsam.shapes.diagnose.call import Answer, Call, listed
from sparsam.shapes.diagnose.rule import rule

BATCH = frozenset({"b", "n", "batch", "batch_size", "bs", "bsz"})
LENGTH = frozenset({"t", "l", "s", "length", "seq", "seq_len", "tokens", "sequence_length", "time", "steps"})


def _per(shared: list[str]) -> str:
    """What the factors common to both sides are, in words: "per token" for a batch and a length."""
    names = {size.lower() for size in shared if re.fullmatch(r"[A-Za-z_]\w*", size)}
    if not names or any(re.search(r"\W", size) for size in shared):
        return ""
    if names & LENGTH and names <= LENGTH | BATCH:
        return " per token"
    return " per sample" if names <= BATCH else ""


@rule(
    "reshape-infer",
    "view reshape view_as reshape_as _unsafe_view _reshape_alias",
    says=r"shape '.*-1.*' is invalid|only one dimension can be inferred|cannot reshape tensor of 0 elements",
)
def reshape_infer(call: Call) -> Answer | None:
    """A size of -1 that cannot be inferred.

    With one size given as -1 the framework divides the number of elements by the product of the others.
    The division has to come out even, only one size may be -1, and the others may not be 0.

    Fails:
    ```python
    x = torch.rand(6, 10)
    x.view(-1, 7)  # here
    ```

    Mended:
    ```python
    x = torch.rand(6, 10)
    x.view(-1, 5)
    ```
    """
    if call.said(r"view size is not compatible|Cannot view a tensor"):
        return None  # the number of elements fits
    said = call.said(r"shape '\[(.*)\]' is invalid for input of size (.+)")
    asked = call.asked or (listed(said[1]) if said else None)
    if asked is None or "-1" not in asked:
        return None
    if list(asked).count("-1") > 1:
        return Answer(
            f"cannot infer more than one size of {sizes.shape(asked)}",
            "more than one -1",
            "give all sizes but one",
        )
    given = call.shape()
    others = [size for size in asked if size != "-1"]
    rest, divisor, shared = sizes.without_common(given or [said[2] if said else "?"], others)
    whole = sizes.shape(given) if given else f"{sizes.pretty(said[2]) if said else '?'} elements"
    if call.value(sizes_product(others)) == 0:
        return Answer(
            f"cannot infer -1 in {sizes.shape(asked)} of {whole}: the other sizes give 0",
            "the other sizes give 0",
        )
    caret = f"{sizes.counted(rest)}{_per(shared)}, not a multiple of {sizes.counted(divisor)}"
    return Answer(f"cannot view {whole} as {sizes.shape(asked)}", caret)


def sizes_product(factors: list[str]) -> str:
    """The product as an expression."""
    return "*".join(f"({factor})" for factor in factors) or "1"


@rule(
    "view-stride",
    "view _unsafe_view view_as",
    says=r"view size is not compatible|Cannot view a tensor with shape .* and strides",
)
def view_stride(call: Call) -> Answer | None:
    """A view of elements that do not lie next to each other.

    After `transpose`, `permute` or slicing the elements of neighbouring dimensions are no longer adjacent in memory, and
    `view` cannot merge these dimensions. `reshape` copies where it has to.

    Fails:
    ```python
    x = torch.rand(2, 12, 5, 64).transpose(1, 2)
    x.view(2, 5, 768)  # here
    ```

    Mended:
    ```python
    x = torch.rand(2, 12, 5, 64).transpose(1, 2)
    x.reshape(2, 5, 768)
    ```
    """
    said = call.said(
        r"view size is not compatible|Cannot view a tensor with shape (\(.*?\)|\[.*?\]) and strides .* as a "
        r"tensor with shape (\(.*?\)|\[.*?\])"
    )
    if not said:
        return None
    given = call.shape() or (listed(said[1]) if said[1] else None)
    asked = call.asked or (listed(said[2]) if said[2] else None)
    if given and asked and "-1" not in asked:
        rest, others, _ = sizes.without_common(given, asked)
        values = call.value(sizes_product(rest)), call.value(sizes_product(others))
        if None not in values and values[0] != values[1]:
            return None
    what = f"{sizes.shape(given)} as {sizes.shape(asked)}" if given and asked else "the tensor so"
    return Answer(
        f"cannot view {what}: its elements do not lie next to each other",
        "transposed, permuted or sliced before",
        ".reshape(…) in place of .view(…), or .contiguous() before",
    )


@rule(
    "view-numel",
    "view reshape view_as reshape_as _unsafe_view _reshape_alias resize",
    says=r"shape '.*' is invalid for input of size|cannot reshape array of size|Cannot view a tensor with shape",
)
def view_numel(call: Call) -> Answer | None:
    """A view with another number of elements.

    `view` and `reshape` keep all elements: the products of the sizes before and after are equal.

    Fails:
    ```python
    x = torch.rand(2, 12, 5, 64).transpose(1, 2)
    x.reshape(2, 5, 512)  # here
    ```

    Mended:
    ```python
    x = torch.rand(2, 12, 5, 64).transpose(1, 2)
    x.reshape(2, 5, 12 * 64)
    ```
    """
    said = call.said(r"shape '\[(.*)\]' is invalid for input of size (.+)") or call.said(
        r"cannot reshape array of size ()(\S+) into shape \((.*)\)"
    )
    in_words = said[said.re.groups if said.re.groups == 3 else 1] if said else ""
    given = call.shape()
    asked = call.asked or (listed(in_words) if said else None)
    if call.names & {"view_as", "reshape_as"} and len(call.tensors) > 1:
        asked = call.tensors[1].shape
    if asked is None or (given is None and not said):
        return None
    wrong = next((size for size in asked if (call.value(size) or 0) < -1), None)
    if wrong is not None:
        return Answer(f"a size of {wrong} in {sizes.shape(asked)}", f"{wrong} is no size")
    rest, others, shared = sizes.without_common(given or [said[2] if said else "?"], asked)
    whole = sizes.shape(given) if given else f"{sizes.pretty(said[2]) if said else '?'} elements"
    fix = f"{sizes.product(rest)} in place of {sizes.pretty(others[0])}" if len(others) == 1 and rest else ""
    return Answer(
        f"cannot view {whole} as {sizes.shape(asked)}",
        f"{sizes.counted(rest)}{_per(shared)}, {sizes.counted(others)} asked",
        fix,
    )


@rule("unflatten-sizes", "unflatten Unflatten", says=r"^unflatten: ")
def unflatten_sizes(call: Call) -> Answer | None:
    """A dimension split into sizes whose product is another.

    The product of the sizes that `unflatten` is given is the size of the dimension; one of them may be -1.

    Fails:
    ```python
    x = torch.rand(2, 10)
    x.unflatten(1, (3, 4))  # here
    ```

    Mended:
    ```python
    x = torch.rand(2, 10)
    x.unflatten(1, (2, 5))
    ```
    """
    said = call.said(r"sizes \[(.*?)\] don't multiply up to the size of dim (\S+) \((.+)\) in")
    if not said:
        return None
    asked = listed(said[1])
    return Answer(
        f"cannot unflatten dimension {said[2]} of size {sizes.pretty(said[3])} into {sizes.shape(asked)}",
        f"{sizes.counted(asked)}, {sizes.pretty(said[3])} there",
    )


def _position(call: Call, given: Sequence[str], asked: Sequence[str], size: str) -> int | None:
    """The dimension of what was asked for in which a size cannot be expanded."""
    for back in range(1, min(len(given), len(asked)) + 1):
        if call.equal(given[-back], size) and asked[-back] != "-1" and not call.equal(asked[-back], size):
            return len(asked) - back
    return None


@rule(
    "expand-sizes",
    "expand expand_as broadcast_to copy __setitem__",
    says=r"expanded size of the tensor|attempting to expand a dimension|expand\(.*number of sizes provided",
)
def expand_sizes(call: Call) -> Answer | None:
    """A dimension that is not 1 expanded to another size.

    `expand`, `broadcast_to`, `copy_` and an assignment to a slice repeat dimensions of size 1; others keep their size, and
    new dimensions come in front. `repeat` makes real copies of any dimension.

    Fails:
    ```python
    mask = torch.rand(4, 3)
    mask.expand(4, 5)  # here
    ```

    Mended:
    ```python
    mask = torch.rand(4, 1)
    mask.expand(4, 5)
    ```
    """
    said = call.said(r"expanded size of the tensor \((.+?)\) must match the existing size \((.+?)\) at "
                     r"non-singleton dimension (\d+)\.?\s*Target sizes: \[(.*?)\]\.?\s*Tensor sizes: \[(.*?)\]")  # fmt: skip
    if said:
        got, target = listed(said[5]), listed(said[4])
        return Answer(
            f"cannot expand {sizes.shape(got)} to {sizes.shape(target)}",
            f"{sizes.pretty(said[2])} in dimension {said[3]}, {sizes.pretty(said[1])} asked",
        )
    said = call.said(r"number of sizes provided \((\d+)\) must be greater or equal to the number of dimensions in the "
                     r"tensor \((\d+)\)")  # fmt: skip
    given, asked = call.shape(), call.asked
    if said:
        what = f"{sizes.shape(given)} to {sizes.shape(asked)}" if given and asked else "the tensor"
        return Answer(
            f"cannot expand {what}: {said[1]} sizes for {said[2]} dimensions",
            f"{said[2]} dimensions, {said[1]} sizes",
        )
    said = call.said(r"attempting to expand a dimension of length (.+?) -> (.+?)!")
    if said:
        if call.name == "__setitem__" and len(call.tensors) > 1:
            given, asked = call.shape(1), None
        what = (
            f"{sizes.shape(given)} to {sizes.shape(asked)}" if given and asked else sizes.shape(given or ())
        )
        at = _position(call, given or (), asked or (), said[1])
        one, two = sizes.pretty(said[1]), sizes.pretty(said[2])
        return Answer(
            f"cannot expand {what}", f"{one}{f' in dimension {at}' if at is not None else ''}, {two} asked"
        )
    said = call.said(r"expanded size of the tensor \((.+?)\) isn't allowed in a leading")
    if said:
        return Answer(f"expand: a size of {said[1]} for a new dimension in front", f"{said[1]} is no size")
    return None


@rule("repeat-rank", "repeat tile", says=r"dimensions of repeat dims")
def repeat_rank(call: Call) -> Answer | None:
    """Fewer repetitions than dimensions.

    `repeat` takes a number for each dimension; more of them add dimensions in front.

    Fails:
    ```python
    x = torch.rand(4, 3)
    x.repeat(2)  # here
    ```

    Mended:
    ```python
    x = torch.rand(4, 3)
    x.repeat(1, 2)
    ```
    """
    given, asked = call.shape(), call.asked
    if given is None or asked is None or len(asked) >= len(given):
        return (
            Answer("repeat: fewer numbers than the tensor has dimensions")
            if call.said("repeat dims")
            else None
        )
    return Answer(
        f"repeat of {sizes.shape(given)}: got {len(asked)} numbers, expected at least {len(given)}",
        f"{len(given)} dimensions, {len(asked)} repetitions",
        f".repeat({', '.join(['1'] * (len(given) - len(asked)) + list(asked))})",
    )


@rule("permute-rank", "permute", says=r"permute\(|invalid permutation")
def permute_rank(call: Call) -> Answer | None:
    """An order of dimensions that does not name each of them once.

    `permute` takes each dimension once. Images from files are often (height, width) without channels.

    Fails:
    ```python
    image = torch.rand(28, 28)
    image.permute(2, 0, 1)  # here
    ```

    Mended:
    ```python
    image = torch.rand(28, 28, 3)
    image.permute(2, 0, 1)
    ```
    """
    given, order = call.shape(), call.asked
    if given is None or order is None:
        said = call.said(r"input\.dim\(\) = (\d+) is not equal to len\(dims\) = (\d+)")
        return Answer(f"permute: {said[2]} numbers for {said[1]} dimensions") if said else None
    if len(order) == len(given) and len(set(order)) == len(order):
        return None
    wrong = (
        f"{len(given)} dimensions, {len(order)} named"
        if len(order) != len(given)
        else "a dimension named twice"
    )
    return Answer(f"cannot permute {sizes.shape(given)} by {sizes.shape(order)}", wrong)


@rule(
    "dim-range",
    says=r"dimension out of range|dim(ension)? .* out of range|dimension specified as .* but tensor has no|"
    r"list assignment index out of range|start_dim cannot come after",
)
def dim_range(call: Call) -> Answer | None:
    """A dimension that the tensor does not have.

    Dimensions are counted from 0, or from the end with negative numbers.
    The number of dimensions often changes where a batch is missing, or where `squeeze()` without an argument takes away a
    dimension that happens to be 1.

    Fails:
    ```python
    scores = torch.rand(4, 10)
    scores.softmax(dim=0).sum(dim=2)  # here
    ```

    Mended:
    ```python
    scores = torch.rand(4, 10)
    scores.softmax(dim=0).sum(dim=1)
    ```
    """
    given = call.shape()
    of = f" of {sizes.shape(given)}" if given is not None else ""
    if call.said("start_dim cannot come after"):
        return Answer(f"{call.words}{of}: the first dimension comes after the last", "start after end")
    said = call.said(r"range of \[(-?\d+), (-?\d+)\], but got (-?\d+)")
    without = call.said(r"specified as (-?\d+) but tensor has no")
    asked = (
        said[3]
        if said
        else without[1]
        if without
        else (call.number("dim") or (call.numbers[0] if call.numbers else None))
    )
    if asked is None:
        return None
    rank = f"{len(given)} dimensions" if given is not None and len(given) != 1 else "1 dimension"
    allowed = f"expected {said[1]} … {said[2]}" if said else f"the tensor has {rank}"
    return Answer(
        f"dimension of {call.words}{of}: got {asked}, {allowed}",
        f"{rank}, dimension {asked} asked" if given is not None else "",
    )
