"""Rules on indices: by number, by mask, by tensor."""

from sparsam.shapes.diagnose import sizes
from sparsam.shapes.diagnose.call import NUMBERS, Answer, Call, listed
from sparsam.shapes.diagnose.joining import mismatch
from sparsam.shapes.diagnose.ranks import dimensions
from sparsam.shapes.diagnose.rule import rule


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
    if not call.said("range|cannot sample n_sample >"):
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
