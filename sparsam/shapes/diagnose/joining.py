"""Rules on operations that join tensors and take them apart, and on elementwise ones."""

from sparsam.shapes.diagnose import sizes
from sparsam.shapes.diagnose.call import NUMBERS, Answer, Call, listed
from sparsam.shapes.diagnose.rule import rule

PLAIN = frozenset(
    {
        "+",
        "-",
        "*",
        "/",
        "add",
        "sub",
        "mul",
        "div",
        "+=",
        "-=",
        "*=",
        "/=",
        "rsub",
        "true_divide",
        "radd",
        "rmul",
        "the call",
    }
)
"""Operators that go without saying."""


@rule(
    "cat-sizes",
    "cat concat concatenate hstack vstack dstack row_stack column_stack",
    says=r"Sizes of tensors must match except|same number of dimensions: got|all the input array",
)
def cat_sizes(call: Call) -> Answer | None:
    """Tensors of different sizes joined.

    All sizes but that of the joined dimension are equal, and so is the number of dimensions.

    Fails:
    ```python
    up, skip = torch.rand(1, 64, 28, 28), torch.rand(1, 64, 27, 27)
    torch.cat([up, skip], dim=1)  # here
    ```

    Mended:
    ```python
    up, skip = torch.rand(1, 64, 28, 28), torch.rand(1, 64, 27, 27)
    torch.cat([up, F.interpolate(skip, size=(28, 28))], dim=1)
    ```
    """
    if call.said("dimension out of range"):
        return None
    shapes = [o.shape for o in call.tensors if o.shape is not None]
    said = call.said(r"except in dimension (-?\d+)\. Expected (?:size )?(.+?)(?: in dimension (\d+))? but got (?:size )?(.+?) "
                     r"for tensor number (\d+)")  # fmt: skip
    dim = int(said[1]) if said else None
    ranks = {len(shape) for shape in shapes}
    if len(ranks) > 1 and call.said("number of dimensions|all the input array"):
        shown = " and ".join(sizes.shape(shape) for shape in _two_ranks(shapes))
        return Answer(f"cannot join {shown}", "different numbers of dimensions")
    if len(shapes) < 2:
        if said:
            return Answer(
                f"cannot join tensors in dimension {said[1]}: got {said[4]}, expected {said[2]}",
                f"{said[2]} and {said[4]}",
            )
        said = call.said(
            r"same number of dimensions: got (\d+) and (\d+)|Expected (\d+)-D tensors, but got (\d+)-D"
        )
        return (
            Answer(f"cannot join tensors of {said[1] or said[3]} and {said[2] or said[4]} dimensions")
            if said
            else None
        )
    first = shapes[0]
    if said is None and not call.said("all the input array"):
        return None
    for at, other in enumerate(shapes[1:], 1):
        for dimension, (one, two) in enumerate(zip(first, other, strict=False)):
            if dimension != (dim if dim is None or dim >= 0 else dim + len(first)) and not call.equal(
                one, two
            ):
                where = f" in dimension {dim}" if dim is not None else ""
                which = f" (tensor {at} of the list)" if len(shapes) > 2 else ""
                return Answer(
                    f"cannot join {sizes.shape(first)} and {sizes.shape(other)}{where}",
                    f"{sizes.pretty(one)} and {sizes.pretty(two)} in dimension {dimension}{which}",
                )
    return None


def _two_ranks(shapes: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The first shape, and the first with another number of dimensions."""
    return [shapes[0], next(shape for shape in shapes if len(shape) != len(shapes[0]))]


@rule(
    "collate-sizes",
    "default_collate collate DataLoader __next__ collate_tensor_fn stack",
    says=r"each element in list of batch should be of equal size|Trying to resize storage",
)
def collate_sizes(call: Call) -> Answer | None:
    """Samples of different sizes in one batch.

    A data loader stacks the samples of a batch, which works for samples of one size only. Sentences and images of their
    own sizes need a `collate_fn` that pads them, or a transform that crops.

    Fails:
    ```python
    samples = [torch.rand(5), torch.rand(7)]
    batch = next(iter(data.DataLoader(samples, batch_size=2)))  # here
    ```

    Mended:
    ```python
    samples = [torch.rand(5), torch.rand(7)]
    pad = lambda batch: nn.utils.rnn.pad_sequence(batch, batch_first=True)
    batch = next(iter(data.DataLoader(samples, batch_size=2, collate_fn=pad)))
    ```
    """
    if call.name == "stack" and ("stack" in call.failure.place.source or not call.failure.place.source):
        return None
    said = call.said(rf"equal size, but got {NUMBERS} at entry 0(?: and {NUMBERS} at entry (\d+))?")
    if said:
        one = sizes.shape(listed(said[1]))
        two = sizes.shape(listed(said[2])) if said[2] is not None else "another shape"
        return Answer(
            f"samples of a batch: got {one} and {two}", f"{one} and {two}", "pad or crop in a collate_fn"
        )
    shapes = list(dict.fromkeys(o.shape for o in call.tensors if o.shape is not None))
    if len(shapes) > 1:
        shown = f"{sizes.shape(shapes[0])} and {sizes.shape(shapes[1])}"
        return Answer(f"samples of a batch: got {shown}", shown, "pad or crop in a collate_fn")
    if call.said("equal size"):
        return Answer("samples of a batch are of different sizes", "", "pad or crop in a collate_fn")
    return None


@rule(
    "stack-sizes",
    "stack",
    says=r"stack expects each tensor to be equal size|all input arrays must have the same shape",
)
def stack_sizes(call: Call) -> Answer | None:
    """Tensors of different shapes stacked.

    `stack` makes a new dimension of tensors that are all of one shape; `cat` joins along a dimension that is there.

    Fails:
    ```python
    words, mask = torch.rand(4, 5), torch.rand(4, 1)
    torch.stack([words, mask], dim=1)  # here
    ```

    Mended:
    ```python
    words, mask = torch.rand(4, 5), torch.rand(4, 1)
    torch.cat([words, mask], dim=1)
    ```
    """
    shapes = [o.shape for o in call.tensors if o.shape is not None]
    for at, other in enumerate(shapes[1:], 1):
        first = shapes[0]
        if len(first) != len(other) or any(not call.equal(a, b) for a, b in zip(first, other, strict=True)):
            which = f" (tensor {at} of the list)" if len(shapes) > 2 else ""
            return Answer(
                f"cannot stack {sizes.shape(first)} and {sizes.shape(other)}", f"shapes differ{which}"
            )
    said = call.said(rf"but got {NUMBERS} at entry 0(?: and {NUMBERS} at entry \d+)?")
    if said:
        two = f" and {sizes.shape(listed(said[2]))}" if said[2] is not None else " and another shape"
        return Answer(f"cannot stack {sizes.shape(listed(said[1]))}{two}", "shapes differ")
    return None


@rule(
    "split-sizes",
    "split split_with_sizes chunk tensor_split unbind hsplit vsplit dsplit narrow",
    says=r"split_with_sizes expects|Split sizes add up|exceeds dimension size|split expects split_size|"
    r"`?chunks`? to be greater|number of sections|length must be non-negative",
)
def split_sizes(call: Call) -> Answer | None:
    """Parts that do not add up to the whole.

    The sizes given to `split` add up to the size of the dimension; `narrow` stays within it; the number of parts is
    positive.

    Fails:
    ```python
    gates = torch.rand(4, 10)
    gates.split([3, 4], dim=1)  # here
    ```

    Mended:
    ```python
    gates = torch.rand(4, 10)
    gates.split([3, 7], dim=1)
    ```
    """
    said = call.said(
        r"sum exactly to (.+?) \(input tensor's size at dimension (-?\d+)\), but got split_sizes=\[(.*?)\]"
    )
    if said:
        parts = listed(said[3])
        total = sizes.product(["+".join(f"({part})" for part in parts)])
        shown = " + ".join(sizes.pretty(part) for part in parts)
        return Answer(
            f"cannot split dimension {said[2]} of size {sizes.pretty(said[1])} into {sizes.shape(parts)}",
            f"{shown} = {total}, {sizes.pretty(said[1])} there",
        )
    said = call.said(r"Split sizes add up to (.+?) but got the tensor's size of (.+)")
    if said:
        total, size = sizes.pretty(said[1]), sizes.pretty(said[2])
        parts = list(call.asked or ())
        shown = f"{' + '.join(map(sizes.pretty, parts))} = {total}" if len(parts) > 1 else total
        whole = call.shape()
        of = f" of {sizes.shape(whole)}" if whole is not None else ""
        return Answer(
            f"cannot split a dimension{of}: the parts add up to {total}, not {size}", f"{shown}, {size} there"
        )
    said = call.said(
        r"dimension (-?\d+), but the size of the dimension (.+?) is not divisible by the split_size (\S+?)!?$"
    )
    if said:
        size, parts_ = sizes.pretty(said[2]), sizes.pretty(said[3])
        return Answer(f"{call.words}: {size} in {parts_} equal parts", f"{size} is no multiple of {parts_}")
    said = call.said(r"start out of range \(expected to be in range of \[(.+?), (.+?)\], but got (.+?)\)")
    if said:
        low, high, got = (sizes.pretty(part) for part in said.groups())
        return Answer(f"narrow: start {got}, expected {low} … {high}", f"start {got} of {high}")
    said = call.said(r"start \((.+?)\) \+ length \((.+?)\) exceeds dimension size \((.+?)\)")
    if said:
        start, length, size = (sizes.pretty(part) for part in said.groups())
        return Answer(f"narrow: {length} from {start} on, of {size}", f"{start} + {length} > {size}")
    said = call.said(
        r"greater than 0,? got:? (\S+)|larger than 0, got (\S+)|split_size=(\S+)|length must be non-negative"
    )
    return (
        Answer(f"{call.words} into {next((g for g in said.groups() if g), 'a negative number of')} parts")
        if said
        else None
    )


@rule("glu-halves", "glu GLU", says=r"Halving dimension must be even")
def glu_halves(call: Call) -> Answer | None:
    """An odd size to be halved.

    A gated linear unit uses one half of a dimension as the gate of the other.

    Fails:
    ```python
    F.glu(torch.rand(2, 3))  # here
    ```

    Mended:
    ```python
    F.glu(torch.rand(2, 6))
    ```
    """
    said = call.said(r"dimension (-?\d+) is size (.+)")
    if not said:
        return None
    size = sizes.pretty(said[2])
    return Answer(f"glu halves dimension {said[1]} of size {size}, which is odd", f"{size} is odd")


@rule("inplace-shape", says=r"output with shape .* doesn't match the broadcast shape")
def inplace_shape(call: Call) -> Answer | None:
    """The result of an operation in place does not fit.

    `x += y` and methods with an underscore keep the shape of x: y may be broadcast to x, and not x to y.

    Fails:
    ```python
    total = torch.zeros(10)
    total += torch.rand(4, 10)  # here
    ```

    Mended:
    ```python
    total = torch.zeros(10)
    total += torch.rand(4, 10).sum(0)
    ```
    """
    said = call.said(rf"output with shape {NUMBERS} doesn't match the broadcast shape {NUMBERS}")
    if not said:
        return None
    kept, made = sizes.shape(listed(said[1])), sizes.shape(listed(said[2]))
    return Answer(f"{call.words} in place: {kept} cannot hold {made}", f"{kept}, {made} would be needed")


def mismatch(call: Call, shapes: list[tuple[str, ...]]) -> tuple[int, str, str, int, int] | None:
    """The first pair of shapes that cannot be broadcast: dimension from the end, both sizes, which two."""
    for second in range(1, len(shapes)):
        for first in range(second):
            one, two = shapes[first], shapes[second]
            for back in range(1, min(len(one), len(two)) + 1):
                a, b = one[-back], two[-back]
                if not (call.equal(a, b) or sizes.one(a, call.witness) or sizes.one(b, call.witness)):
                    return -back, a, b, first, second
    return None


@rule(
    "broadcast",
    says=r"must match the size of tensor|to broadcast a dimension of length|could not be broadcast together "
    r"with shapes|not broadcastable|Shape mismatch: objects cannot be broadcast",
)
def broadcast(call: Call) -> Answer | None:
    """Shapes that cannot be broadcast.

    Shapes are compared from the last dimension on: two sizes fit if they are equal or one of them is 1, and missing
    dimensions in front count as 1. A dimension that is kept (`keepdim=True`) or added (`x[:, None]`) is often what is
    missing.

    Fails:
    ```python
    x = torch.rand(4, 10)
    x - x.mean(1)  # here
    ```

    Mended:
    ```python
    x = torch.rand(4, 10)
    x - x.mean(1, keepdim=True)
    ```
    """
    shapes = [o.shape for o in call.tensors if o.shape is not None]
    found = mismatch(call, shapes)
    if found:
        back, one, two, first, second = found
        return Answer(
            f"cannot broadcast {sizes.shape(shapes[first])} with {sizes.shape(shapes[second])}" + _in(call),
            f"{sizes.pretty(one)} against {sizes.pretty(two)} in {'the last dimension' if back == -1 else f'dimension {back}'}",
            _missing(call, shapes[first], shapes[second]),
        )
    said = call.said(
        r"size of tensor a \((.+?)\) must match the size of tensor b \((.+?)\) at non-singleton dimension (\d+)"
    )
    if said:
        one, two = sizes.pretty(said[1]), sizes.pretty(said[2])
        return Answer(
            f"cannot broadcast {one} with {two} in dimension {said[3]} of {call.words}",
            f"{one} against {two}",
        )
    said = call.said(rf"index \d+ had {NUMBERS}; but expected shape should be broadcastable to {NUMBERS}")
    said = said or call.said(rf"(?:shapes) {NUMBERS},? {NUMBERS}")
    if said:
        one, two = sizes.shape(listed(said[1])), sizes.shape(listed(said[2]))
        return Answer(f"cannot broadcast {one} with {two}{_in(call)}", f"{one} against {two}")
    return None


def _in(call: Call) -> str:
    """The operation, where it does not go without saying."""
    return "" if call.words in PLAIN else f" in {call.words}"


def _missing(call: Call, one: tuple[str, ...], two: tuple[str, ...]) -> str:
    """A hint where one more dimension in the shorter shape would make it fit."""
    short, long = (one, two) if len(one) < len(two) else (two, one)
    if len(short) == len(long) or not short:
        return ""
    grown = (*short, "1")
    fits = all(
        sizes.alike(a, b) or a == "1" or b == "1"
        for a, b in zip(reversed(grown), reversed(long), strict=False)
    )
    return "unsqueeze(-1) on the shorter one, or keepdim=True where it was reduced" if fits else ""
