"""Rules on data loading, and on exceptions that the program and Python raise."""

import re

from sparsam.shapes.diagnose import sizes
from sparsam.shapes.diagnose.call import NUMBERS, Answer, Call, listed
from sparsam.shapes.diagnose.rule import rule

SHAPED = frozenset(
    {
        "view",
        "reshape",
        "expand",
        "unflatten",
        "broadcast_to",
        "view_copy",
        "_unsafe_view",
        "_reshape_alias",
        "resize",
    }
)
"""Operations that take a shape."""


def _asked(call: Call) -> list[str]:
    return list(call.asked or ()) if call.names & SHAPED else []


def _first_sizes(call: Call) -> list[str]:
    """The first size of each tensor, which may be a batch's."""
    return [o.shape[0] for o in call.tensors if o.shape]


def remainder(call: Call, size: str) -> str | None:
    """The remainder that a size is, if it is that of a data loader's last batch ("N % B"); None otherwise.

    A size says so itself, or its symbol does. On a path that settles the size, samples are loaded and the remainder
    was found to be more than 0 on the way; it is this one if the numbers agree, and are not as common as 0 and 1.
    """
    if re.search(r"\b(?:Python)?Mod\(|%", size):
        return size
    for name, symbol in call.symbols.items():
        if re.search(rf"\b{re.escape(name)}\b", size) and "last batch" in symbol.meaning:
            return size
    if (
        size.isdigit()
        and int(size) > 1
        and any("index of a sample" in symbol.meaning for symbol in call.symbols.values())
    ):
        found = (re.fullmatch(r"(\w+ % \w+) > 0", condition) for condition in call.conditions)
        return next((match[1] for match in found if match and call.value(match[1]) == int(size)), None)
    return None


@rule("last-batch")
def last_batch(call: Call) -> Answer | None:
    """A last batch that is smaller than the others.

    If the length of the data set is no multiple of the batch size, the last batch of an epoch is smaller.
    A program that has the batch size written into its shapes fails there, at the end of the first epoch.

    Fails:
    ```python
    loader = data.DataLoader(torch.rand(10, 3), batch_size=4)
    for batch in loader:
        batch.view(4, 1, 3)  # here
    ```

    Mended:
    ```python
    loader = data.DataLoader(torch.rand(10, 3), batch_size=4, drop_last=True)
    for batch in loader:
        batch.view(4, 1, 3)
    ```
    """
    found = _first_sizes(call)
    small, rest = next(
        ((size, rest) for size in found if (rest := remainder(call, size)) is not None), ("", "")
    )
    if not small:
        return None
    others = [size for size in [*found, *_asked(call)] if remainder(call, size) is None and size != "-1"]
    fixed = [size for size in others if not call.equal(size, small) and call.value(size) not in (0, 1)]
    value = call.value(small)
    got = sizes.pretty(rest) + (f" = {value}" if value is not None and str(value) != rest else "")
    if not fixed:
        return None
    shapes = " and ".join(sizes.shape(o.shape) for o in call.tensors if o.shape is not None)
    asked = sizes.shape(_asked(call)) if _asked(call) else ""
    head = f"{call.words} of {shapes}" + (f" and {asked}" if asked else "")
    return Answer(
        f"{head}: the last batch has {got} samples",
        f"{got} in the last batch, {sizes.pretty(fixed[0])} asked",
        "drop_last=True in the data loader, or take the size from the batch: x.shape[0]",
    )


@rule(
    "dataset-lengths",
    "TensorDataset random_split __init__ StackDataset",
    says=r"Size mismatch between (tensors|datasets)|Sum of input lengths does not equal",
)
def dataset_lengths(call: Call) -> Answer | None:
    """Parts of a data set with lengths that do not fit.

    All tensors of a `TensorDataset` have the same first size; the lengths given to `random_split` add up to the length of
    the data set (fractions that add up to 1 always do).

    Fails:
    ```python
    points = data.TensorDataset(torch.rand(10, 3))
    train, test = data.random_split(points, [8, 3])  # here
    ```

    Mended:
    ```python
    points = data.TensorDataset(torch.rand(10, 3))
    train, test = data.random_split(points, [0.8, 0.2])
    ```
    """
    if call.said("Size mismatch between"):
        shapes = " and ".join(sizes.shape(o.shape) for o in call.tensors if o.shape is not None)
        first = " and ".join(sizes.pretty(o.shape[0]) for o in call.tensors if o.shape)
        return Answer(
            f"{call.words} of {shapes or 'tensors'}: different first sizes", f"{first} rows" if first else ""
        )
    if call.said("Sum of input lengths"):
        lengths = " + ".join(sizes.pretty(size) for size in call.asked or ())
        return Answer(f"{call.words}: the lengths do not add up to the data set's{f' ({lengths})' if lengths else ''}",
                      lengths, "fractions, such as [0.8, 0.2]")  # fmt: skip
    return None


@rule("state-dict", "load_state_dict", says=r"loading state_dict for")
def state_dict(call: Call) -> Answer | None:
    """Parameters of a checkpoint with other shapes or names than the model's.

    The model has to be built with the settings it was saved with. `strict=False` lets names differ, and no shapes.

    Fails:
    ```python
    saved = nn.Linear(5, 3).state_dict()
    nn.Linear(4, 3).load_state_dict(saved)  # here
    ```

    Mended:
    ```python
    saved = nn.Linear(5, 3).state_dict()
    nn.Linear(5, 3).load_state_dict(saved)
    ```
    """
    said = call.said(rf"size mismatch for (\S+): copying a param with shape {NUMBERS} from checkpoint, the shape in current "
                     rf"model is {NUMBERS}")  # fmt: skip
    if said:
        got, expected = sizes.shape(listed(said[2])), sizes.shape(listed(said[3]))
        more = len(re.findall("size mismatch for", call.text)) - 1
        return Answer(
            f"{said[1]} of the checkpoint: got {got}, expected {expected}{f' (and {more} more)' if more else ''}",
            f"{got}, {expected} in the model",
        )
    said = call.said(r"(Missing|Unexpected) key\(s\) in state_dict: (.{1,120})")
    if said:
        return Answer(
            f"{said[1].lower()} parameters in the checkpoint: {said[2].strip()}",
            f"{said[1].lower()} parameters",
        )
    return Answer("the checkpoint does not fit the model") if call.said("loading state_dict") else None


@rule("unpack-rank", says=r"values to unpack")
def unpack_rank(call: Call) -> Answer | None:
    """A shape or a tuple taken apart into another number of names.

    `b, n, d = x.shape` needs a tensor of three dimensions. A tensor itself is taken apart along its first dimension.

    Fails:
    ```python
    x = torch.rand(4, 768)
    batch, tokens, width = x.shape  # here
    ```

    Mended:
    ```python
    x = torch.rand(4, 197, 768)
    batch, tokens, width = x.shape
    ```
    """
    said = call.said(r"not enough values to unpack \(expected (?:at least )?(\d+), got (\d+)\)")
    given = call.shape()
    of = f" of {sizes.shape(given)}" if given is not None else ""
    if said:
        return Answer(
            f"unpacking{of}: got {said[2]} values, expected {said[1]}", f"{said[2]} values, {said[1]} names"
        )
    said = call.said(r"too many values to unpack \(expected (\d+)(?:, got (\d+))?\)")
    if said:
        got = said[2] or f"more than {said[1]}"
        return Answer(
            f"unpacking{of}: got {got} values, expected {said[1]}", f"{said[1]} names, {got} values"
        )
    return None


@rule("zero-division", says=r"division or modulo by zero|division by zero|modulo by zero")
def zero_division(call: Call) -> Answer | None:
    """A division by a size that can be 0.

    Averages over batches divide by the number of batches, which is 0 for a data set shorter than one batch with
    `drop_last=True`.

    Fails:
    ```python
    samples, batch_size = 10, 32
    batches = samples // batch_size
    mean = 1.0 / batches  # here
    ```

    Mended:
    ```python
    samples, batch_size = 10, 32
    batches = samples // batch_size
    mean = 1.0 / max(batches, 1)
    ```
    """
    return (
        Answer("division by zero", "0 here", "max(…, 1), where 0 is meant to be possible")
        if call.said("zero")
        else None
    )


@rule(
    "shape-index",
    says=r"^(tuple|list|string|pop from empty list|range object|deque)?( assignment| index| pop index)? ?out of range$|"
    r"^(tuple|list) index out of range|^pop from (an )?empty",
)
def shape_index(call: Call) -> Answer | None:
    """A tuple or list indexed past its end.

    `x.shape[2]` needs a tensor of at least three dimensions; lists of layers or of features end too.

    Fails:
    ```python
    x = torch.rand(4, 768)
    width = x.shape[2]  # here
    ```

    Mended:
    ```python
    x = torch.rand(4, 768)
    width = x.shape[-1]
    ```
    """
    what = next((word for word in ("tuple", "list") if word in call.text), "sequence")
    return (
        Answer(f"{what} indexed past its end", "past the end") if call.failure.error == "IndexError" else None
    )


OWN = frozenset(
    {
        "AssertionError",
        "ValueError",
        "RuntimeError",
        "NotImplementedError",
        "Exception",
        "KeyError",
        "SystemExit",
    }
)


@rule("own-raise")
def own_raise(call: Call) -> Answer | None:
    """The program refuses these sizes itself.

    A `raise` or an `assert` of the program is reached. If it guards against sizes that never occur, give a range
    (`--arg batch_size=1..512`) that leaves them out.

    Fails:
    ```python
    x = torch.rand(4, 197, 768)
    assert x.shape[1] % 2 == 0, "an even number of tokens, please"  # here
    ```

    Mended:
    ```python
    x = torch.rand(4, 196, 768)
    assert x.shape[1] % 2 == 0, "an even number of tokens, please"
    ```
    """
    if call.failure.operation:
        return None
    source = call.failure.place.source if call.failure.chain else ""
    if source and not re.search(r"\b(raise|assert)\b", source):
        return None
    if not source and call.failure.error not in OWN:
        return None
    text = f": {call.text}" if call.text else ""
    what = (
        "assertion fails"
        if call.failure.error == "AssertionError"
        else f"the program raises {call.failure.error}"
    )
    broken = f"needs {sizes.pretty(call.requirement)}" if call.requirement else ""
    return Answer(f"{what}{text}", broken)


@rule(
    "argument-type",
    says=r"must be \w+( or \w+)*, not|invalid combination of arguments|unexpected keyword argument|missing \d+ required|"
    r"takes .* positional arguments? but|got multiple values for|unsupported operand type|doesn't apply to a",
)
def argument_type(call: Call) -> Answer | None:
    """A call with arguments of the wrong type, too few or too many.

    A number in place of a tensor, a tensor in place of a number, a list in place of a tensor.

    Fails:
    ```python
    features = [torch.rand(4, 8), torch.rand(4, 8)]
    torch.relu(features)  # here
    ```

    Mended:
    ```python
    features = [torch.rand(4, 8), torch.rand(4, 8)]
    torch.relu(torch.cat(features))
    ```
    """
    if call.failure.error != "TypeError":
        return None
    said = call.said(r"argument '(\w+)' .*?must be (.+?), not (?:a )?([\w.]+)")
    if said:
        return Answer(
            f"{said[1]} of {call.words}: got {said[3]}, expected {said[2]}", f"{said[3]}, {said[2]} asked"
        )
    said = call.said(r"invalid combination of arguments - got (\(.*?\)), but")
    if said:
        return Answer(f"{call.words} does not take {said[1]}", f"{said[1]} given")
    return Answer(call.text)


@rule(
    "argument-value",
    says=r"must be (greater than|non-negative|positive|nonzero|larger than|between|at least|less than|in range)|non-positive|"
    r"is not a valid value|has to be between|should be in|expects positive|must be a non-negative|negative stride|"
    r"non-negative window|should be greater|does not support non-positive",
)
def argument_value(call: Call) -> Answer | None:
    """A setting outside of what an operation takes.

    Strides, windows and groups are at least 1, paddings at least 0, the probability of a dropout lies between 0 and 1.
    Settings that are computed from sizes, such as `size // 8`, become 0 for small ones.

    Fails:
    ```python
    x = torch.rand(1, 3, 6)
    F.max_pool1d(x, kernel_size=x.shape[-1] // 8)  # here
    ```

    Mended:
    ```python
    x = torch.rand(1, 3, 6)
    F.max_pool1d(x, kernel_size=max(x.shape[-1] // 8, 1))
    ```
    """
    return Answer(call.text if call.name in call.text else f"{call.words}: {call.text}")


@rule("program-error")
def program_error(call: Call) -> Answer | None:
    """An error of the program that has nothing to do with shapes.

    A name that does not exist, an argument that is missing, an attribute misspelt. It is reported because it ends the
    program for these sizes as surely as a wrong shape.

    Fails:
    ```python
    x = torch.rand(4, 3)
    x.shap  # here
    ```

    Mended:
    ```python
    x = torch.rand(4, 3)
    x.shape
    ```
    """
    if call.failure.operation and call.failure.error not in ("AttributeError", "NameError", "KeyError"):
        return None
    return Answer(f"{call.failure.error}: {call.text}" if call.text else call.failure.error)


@rule("framework")
def framework(call: Call) -> Answer | None:
    """The framework refuses the call, for a reason without a diagnostic of its own.

    The message is the framework's own sentence.

    Fails:
    ```python
    torch.rand(2, 3).roll((1, 2), (0,))  # here
    ```

    Mended:
    ```python
    torch.rand(2, 3).roll((1, 2), (0, 1))
    ```
    """
    shapes = ", ".join(sizes.shape(o.shape) for o in call.tensors[:3] if o.shape is not None)
    return Answer(
        f"{call.words}: {call.text}" if call.text else f"{call.words}: {call.failure.error}", shapes
    )
