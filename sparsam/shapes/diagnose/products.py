"""Rules on matrix products."""

from collections.abc import Sequence

from sparsam.shapes.diagnose import sizes
from sparsam.shapes.diagnose.call import NUMBERS, Answer, Call, listed
from sparsam.shapes.diagnose.rule import rule

PRODUCTS = ("matmul mm bmm __matmul__ __rmatmul__ addmm baddbmm addbmm mv dot inner vdot addmv chain_matmul multi_dot "
            "tensordot")  # fmt: skip


@rule("linear-width", "linear Linear LazyLinear Bilinear bilinear")
def linear_width(call: Call) -> Answer | None:
    """The last dimension does not fit a linear layer.

    A linear layer multiplies the last dimension of its input, which has to be `in_features`.
    Behind convolutions it is channels × height × width, and follows from the size of the images.

    Fails:
    ```python
    x = torch.rand(2, 768, 197)
    nn.Linear(768, 64)(x)  # here
    ```

    Mended:
    ```python
    x = torch.rand(2, 768, 197)
    nn.Linear(768, 64)(x.mT)
    ```
    """
    if call.names & {"Bilinear", "bilinear"}:
        said = call.said(r"(input\d) size does not match weight size: got (\S+) but expected (\S+)")
        return (
            Answer(f"{said[1]} of bilinear: got {said[2]}, expected {said[3]} in the last dimension")
            if said
            else None
        )
    given, weight = call.shape(), call.operand("weight")
    if weight is None and not call.is_module and len(call.tensors) > 1:
        weight = call.tensors[1]
    said = call.said(rf"(?:X|and) {NUMBERS}\.?$") or call.said(r"\(\S+x\S+ and (\S+)x\S+\)")
    # A layer may have been given another's weight: what it was made for does not count then.
    expected = weight.shape[-1] if weight and weight.shape else call.number("in_features")
    if expected is None and said:
        expected = listed(said[1])[0]
    if given is None:
        pair = _two(call)
        return _linear(call, pair[0], pair[1][0]) if pair else None
    if not given or expected is None or call.equal(given[-1], expected):
        return None
    return _linear(call, given, expected)


def _linear(call: Call, given: Sequence[str], expected: str) -> Answer:
    got = sizes.pretty(given[-1])
    fix = ""
    if len(given) > 1 and call.equal(given[-2], expected):
        fix = "x.mT, or x.transpose(-1, -2)"
    elif len(given) > 2 and call.equal("*".join(f"({size})" for size in given[1:]), expected):
        fix = "x.flatten(1)"
    elif got.isdigit() and call.is_module:
        fix = f"in_features={got}"
    return Answer(
        f"last dimension of {sizes.shape(given)} for {call.words}: got {got}, expected {sizes.pretty(expected)}",
        f"{got}, {sizes.pretty(expected)} asked",
        fix,
    )


def _two(call: Call) -> tuple[list[str], list[str]] | None:
    """The two matrices as the framework names them."""
    said = call.said(rf"got {NUMBERS} X {NUMBERS}")
    if said:
        return listed(said[1]), listed(said[2])
    said = call.said(r"\(([^()\s]+)x([^()\s]+) and ([^()\s]+)x([^()\s]+)\)")
    return ([said[1], said[2]], [said[3], said[4]]) if said else None


@rule("matmul-batch", PRODUCTS)
def matmul_batch(call: Call) -> Answer | None:
    """Batches of matrices that do not fit each other.

    The dimensions in front of the last two are broadcast by `matmul`, and have to be equal for `bmm`.

    Fails:
    ```python
    weights, values = torch.rand(2, 12, 5, 5), torch.rand(2, 4, 5, 64)
    weights @ values  # here
    ```

    Mended:
    ```python
    weights, values = torch.rand(2, 12, 5, 5), torch.rand(2, 4, 5, 64)
    weights @ values.repeat_interleave(3, 1)
    ```
    """
    left, right = _pair(call)
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return None
    if call.names & {"tensordot", "mm", "addmm"} or not call.equal(left[-1], right[-2]):
        return None
    same = bool(call.names & {"bmm", "baddbmm"})
    for back in range(3, min(len(left), len(right)) + 1):
        one, two = left[-back], right[-back]
        if call.equal(one, two) or (
            not same and (sizes.one(one, call.witness) or sizes.one(two, call.witness))
        ):
            continue
        return Answer(
            f"cannot multiply batches {sizes.shape(left)} and {sizes.shape(right)}",
            f"{sizes.pretty(one)} against {sizes.pretty(two)} in dimension {-back}",
        )
    return None


@rule(
    "matmul-inner",
    PRODUCTS,
    says=r"mat1 and mat2 shapes cannot be multiplied|same reduction dim|batch2 tensor to be|"
    r"contracted dimensions need to match|mismatch in its core dimension",
)
def matmul_inner(call: Call) -> Answer | None:
    """The inner sizes of a matrix product differ.

    (…, n, k) @ (…, k, m): the last size of the left is the last but one of the right.

    Fails:
    ```python
    queries, keys = torch.rand(2, 12, 5, 64), torch.rand(2, 12, 7, 64)
    queries @ keys  # here
    ```

    Mended:
    ```python
    queries, keys = torch.rand(2, 12, 5, 64), torch.rand(2, 12, 7, 64)
    queries @ keys.transpose(-1, -2)
    ```
    """
    said = call.said(r"first has size (\S+) in dim (\S+) and second has size (\S+) in dim (\S+)")
    if said:
        one, two = sizes.pretty(said[1]), sizes.pretty(said[3])
        return Answer(
            f"{call.words}: contracted sizes {one} (dimension {said[2]}) and {two} (dimension {said[4]})",
            f"{one} against {two}",
        )
    left, right = _pair(call)
    if left is None or right is None:
        said = call.said(r"core dimension .*\(size (\S+) is different from (\S+?)\)")
        if said:
            one, two = sizes.pretty(said[2]), sizes.pretty(said[1])
            return Answer(f"cannot multiply: inner sizes {one} and {two}", f"inner sizes {one} and {two}")
        pair = _two(call)
        if pair is None:
            return None
        left, right = pair
    if not left or not right:
        return Answer(
            f"{call.words} of {sizes.shape(left)} and {sizes.shape(right)}: a factor without dimensions"
        )
    one, two = left[-1], right[0] if len(right) == 1 else right[-2]
    if call.equal(one, two):
        return None
    fix = ""
    if len(right) > 1 and call.equal(one, right[-1]):
        fix = "transpose the right factor: .transpose(-1, -2)"
    elif len(left) > 1 and call.equal(left[-2], two):
        fix = "transpose the left factor: .transpose(-1, -2)"
    return Answer(
        f"cannot multiply {sizes.shape(left)} with {sizes.shape(right)}",
        f"inner sizes {sizes.pretty(one)} and {sizes.pretty(two)}",
        fix,
    )


def _pair(call: Call) -> tuple[Sequence[str] | None, Sequence[str] | None]:
    """Shapes of the two factors."""
    skip = 1 if call.names & {"addmm", "baddbmm", "addbmm", "addmv"} else 0
    factors = [tensor.shape for tensor in call.tensors[skip:]]
    if len(factors) < 2 or not call.names & set(PRODUCTS.split()):
        return None, None
    if call.name == "__rmatmul__":
        factors.reverse()
    return factors[0], factors[1]


@rule("einsum", "einsum", says=r"^einsum\(\): ")
def einsum(call: Call) -> Answer | None:
    """An equation that does not fit its operands.

    A letter has one size in all operands, each operand has as many dimensions as letters, and the letters behind the arrow
    stand in front of it too.

    Fails:
    ```python
    left, right = torch.rand(2, 3, 4), torch.rand(2, 5, 6)
    torch.einsum("bij,bjk->bik", left, right)  # here
    ```

    Mended:
    ```python
    left, right = torch.rand(2, 3, 4), torch.rand(2, 4, 6)
    torch.einsum("bij,bjk->bik", left, right)
    ```
    """
    shapes = " and ".join(sizes.shape(o.shape) for o in call.tensors if o.shape is not None)
    equation = next((o.text.strip("'\"") for o in call.arguments if o.kind == "other" and o.text), "")
    head = f"einsum {equation!r}".removesuffix(" ''") + (f" of {shapes}" if shapes else "")
    said = call.said(
        r"subscript (\w+) has size (\S+) for operand (\d+) which does not broadcast with previously seen size (\S+)"
    )
    if said:
        one, two = sizes.pretty(said[2]), sizes.pretty(said[4])
        return Answer(
            f"{head}: {said[1]} is {two} and {one}", f"{said[1]}: {two}, and {one} in operand {said[3]}"
        )
    said = call.said(
        r"number of subscripts in the equation \((\d+)\) .* number of dimensions \((\d+)\) for operand (\d+)"
    )
    if said:
        return Answer(
            f"{head}: {said[1]} letters for the {said[2]} dimensions of operand {said[3]}",
            f"operand {said[3]}: {said[2]} dimensions",
        )
    said = call.said(r"einsum\(\): (.*)")
    return Answer(f"{head}: {said[1].rstrip('.')}") if said else None


@rule(
    "linalg-sizes",
    "inv solve cholesky det slogdet eigh eig svd qr lstsq cross cdist inverse cholesky_solve kron outer trace "
    "matrix_power matrix_exp",
    says=r"batches of square matrices|Incompatible shapes of A and B",
)
def linalg_sizes(call: Call) -> Answer | None:
    """A matrix of the wrong form for an operation of linear algebra.

    Inverses, determinants and Cholesky factors are of square matrices; in a system A X = B both have the same number of
    rows; `cross` works on three components; `cdist` on points of one width.

    Fails:
    ```python
    samples = torch.rand(10, 3)
    torch.linalg.inv(samples)  # here
    ```

    Mended:
    ```python
    samples = torch.rand(10, 3)
    torch.linalg.inv(samples.T @ samples)
    ```
    """
    shapes = " and ".join(sizes.shape(o.shape) for o in call.tensors if o.shape is not None)
    if call.said("square matri"):
        given = call.shape()
        caret = f"{sizes.pretty(given[-2])} by {sizes.pretty(given[-1])}" if given and len(given) > 1 else ""
        return Answer(f"{call.words} of {shapes or 'a matrix'}: a square matrix is needed", caret)
    said = call.said(
        r"must have length 3\. Got (\S+) and (\S+)|columns\. X1: (\S+) X2: (\S+)|Incompatible shapes|Expected 1-D"
    )
    if not said:
        return None
    if said[1] or said[3]:
        one, two = said[1] or said[3], said[2] or said[4]
        caret = f"{sizes.pretty(one)} and {sizes.pretty(two)}" + (", 3 asked" if said[1] else "")
        return Answer(f"{call.words} of {shapes or f'{one} and {two}'}: the sizes do not fit", caret)
    return Answer(f"{call.words} of {shapes}: the sizes do not fit") if shapes else None
