"""Views that are written to, and indices."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sparsam.shapes.strictness.sizes import Check, counted, numel, printed


def as_strided(a: dict[str, Any]) -> None:
    """The last element lies within the storage."""
    tensor, sizes, strides = a["self"], a["size"], a["stride"]
    offset = a["storage_offset"]
    offset = tensor.storage_offset() if offset is None else offset
    if len(sizes) != len(strides) or isinstance(tensor, torch.nn.Parameter):
        return
    last: Any = offset
    for size, stride in zip(sizes, strides, strict=True):
        if size == 0:
            return
        last = last + (size - 1) * stride
    there = tensor.untyped_storage().nbytes()
    itemsize = tensor.dtype.itemsize
    torch._check(
        (last + 1) * itemsize <= there,
        lambda: (
            f"setStorage: sizes {list(sizes)}, strides {list(strides)}, storage offset {offset}, and itemsize {itemsize} "
            f"requiring a storage size of {(last + 1) * itemsize} are out of bounds for storage of size {there}"
        ),
    )


def select_scatter(a: dict[str, Any]) -> None:
    """What is written has the shape of the slice."""
    tensor, source, index = a["self"], a["src"], a["index"]
    dim = counted(tensor, a["dim"])
    if dim is None:
        return
    size = tensor.shape[dim]
    torch._check_index(
        -size <= index and index < size,
        lambda: (
            f"select(): index {index} out of range for tensor of size {printed(tensor)} at dimension {dim}"
        ),
    )
    _slice_is(source, [*tensor.shape[:dim], *tensor.shape[dim + 1 :]])


def diagonal_scatter(a: dict[str, Any]) -> None:
    """What is written has the shape of the diagonal."""
    tensor, offset = a["self"], a["offset"]
    one, two = counted(tensor, a["dim1"]), counted(tensor, a["dim2"])
    for name in ("dim1", "dim2"):
        rank = max(tensor.dim(), 1)
        torch._check_index(
            -rank <= a[name] < rank,
            lambda name=name, rank=rank: (
                f"Dimension out of range (expected to be in range of [{-rank}, {rank - 1}], but got {a[name]})"
            ),
        )
    if one is None or two is None or one == two:
        return
    rows, columns = tensor.shape[one], tensor.shape[two]
    rows, columns = (rows, columns - offset) if offset >= 0 else (rows + offset, columns)
    count = torch.sym_max(torch.sym_min(rows, columns), 0)
    _slice_is(a["src"], [*(size for i, size in enumerate(tensor.shape) if i not in (one, two)), count])


def _slice_is(source: torch.Tensor, shape: Sequence[Any]) -> None:
    torch._check(
        source.dim() == len(shape)
        and all(bool(have == want) for have, want in zip(source.shape, shape, strict=True)),
        lambda: (
            "expected src to have a size equal to the slice of self. "
            f"src size = {printed(source)}, slice size = {list(shape)}"
        ),
    )


def within(a: dict[str, Any]) -> None:
    """No index lies within an empty dimension."""
    tensor, index = a["self"], a["index"]
    dim = counted(tensor, a["dim"])
    if dim is None or tensor.dim() != index.dim():
        return
    if tensor.shape[dim] == 0:
        torch._check(numel(index) == 0, lambda: f"index 0 is out of bounds for dimension {dim} with size 0")


def index(a: dict[str, Any]) -> None:
    """As `within`, for an index of each of some dimensions."""
    tensor, dim = a["self"], 0
    for given in a["indices"]:
        if given is None:
            dim += 1
            continue
        if given.dtype in (torch.bool, torch.uint8):
            dim += given.dim()
            continue
        if dim < tensor.dim() and tensor.shape[dim] == 0:
            torch._check_index(numel(given) == 0, lambda: "index is out of bounds for dimension with size 0")
        dim += 1


def index_put(a: dict[str, Any]) -> None:
    """What is written can be expanded to what is chosen; a mask has the shape of what it masks."""
    tensor, given, values = a["self"], a["indices"], a["values"]
    index(a)
    dim, masked = 0, False
    for number, one in enumerate(given):
        if one is None or one.dtype not in (torch.bool, torch.uint8):
            dim += 1
            continue
        masked = True
        for offset, size in enumerate(one.shape):
            if dim + offset >= tensor.dim():
                raise IndexError(f"too many indices for tensor of dimension {tensor.dim()}")
            torch._check_index(
                size == tensor.shape[dim + offset],
                lambda one=one, number=number, at=dim + offset: (
                    f"The shape of the mask {printed(one)} at index {number} does not match the shape of the indexed "
                    f"tensor {printed(tensor)} at index {at}"
                ),
            )
        dim += one.dim()
    if masked:
        rest: Sequence[Any] = tensor.shape[dim:] if len(given) == 1 else ()
        if len(given) == 1:
            _fits(values, rest, 1)
        return
    _fits(values, torch.ops.aten.index.Tensor(tensor, given).shape, 0)


def _fits(values: torch.Tensor, shape: Sequence[Any], unknown: int) -> None:
    """Whether values can be expanded to a shape, before which stand some sizes that only the data know."""
    text = (
        f"shape mismatch: value tensor of shape {printed(values)} cannot be broadcast to indexing result of shape "
        f"[{', '.join(['?'] * unknown + [str(size) for size in shape])}]"
    )
    sizes = list(values.shape)
    torch._check(len(sizes) <= len(shape) + unknown, lambda: text)
    for back in range(1, min(len(sizes), len(shape)) + 1):
        torch._check(sizes[-back] == shape[-back] or sizes[-back] == 1, lambda: text)


def index_select(a: dict[str, Any]) -> None:
    """Rows are named by a vector; a single number has one row."""
    tensor, given = a["self"], a["index"]
    torch._check_index(given.dim() <= 1, lambda: "index_select(): Index is supposed to be a vector")
    if tensor.dim() == 0:
        torch._check(
            numel(given) == 1,
            lambda: f"index_select(): Index to scalar can have only 1 value, got {numel(given)} value(s)",
        )
        return
    dim = counted(tensor, a["dim"])
    if dim is not None and tensor.shape[dim] == 0:
        torch._check(numel(given) == 0, lambda: "index_select(): self indexing axis dim should be positive")


def embedding(a: dict[str, Any]) -> None:
    """A table has rows and columns; without rows it is asked for none."""
    torch._check(a["weight"].dim() == 2, lambda: "'weight' must be 2-D")
    if a["weight"].shape[0] == 0:
        torch._check(
            numel(a["indices"]) == 0, lambda: "index_select(): self indexing axis dim should be positive"
        )


def index_add(a: dict[str, Any]) -> None:
    """Both tensors have one shape but for the dimension of the index."""
    tensor, source = a["self"], a["source"]
    if a["name"] == "index_reduce" and tensor.dim() == 0 and a["index"].dim() == 1:
        torch._check_index(
            a["index"].shape[0] == 1,
            lambda: f"Dimension specified as {a['dim']} but tensor has no dimensions",
        )
    dim, other = counted(tensor, a["dim"]), counted(source, a["dim"])
    one = [size for i, size in enumerate(tensor.shape) if i != dim]
    two = [size for i, size in enumerate(source.shape) if i != other]
    torch._check(
        len(one) == len(two)
        and tensor.dim() == source.dim()
        and all(bool(x == y) for x, y in zip(one, two, strict=True)),
        lambda: (
            "source tensor shape must match self tensor shape, excluding the specified dimension. "
            f"Got self.shape = {printed(tensor)} source.shape = {printed(source)}"
        ),
    )


def put(a: dict[str, Any]) -> None:
    """One number for each index, and somewhere to put it."""
    tensor, given, source = a["self"], a["index"], a["source"]
    torch._check_index(
        numel(source) == numel(given),
        lambda: (
            "put_(): Expected source and index to have the same number of elements, but got source.numel() = "
            f"{numel(source)}, index.numel() = {numel(given)}"
        ),
    )
    if numel(tensor) == 0:
        torch._check_index(numel(given) == 0, lambda: "put_(): Tried to put elements into an empty tensor")


def take(a: dict[str, Any]) -> None:
    """Nothing is taken from nothing."""
    if numel(a["self"]) == 0:
        torch._check_index(numel(a["index"]) == 0, lambda: "take(): tried to take from an empty tensor")


def bucketize(a: dict[str, Any]) -> None:
    """Boundaries are a vector."""
    torch._check(
        a["boundaries"].dim() == 1,
        lambda: f"boundaries tensor must be 1 dimension, but got dim({a['boundaries'].dim()})",
    )


def searchsorted(a: dict[str, Any]) -> None:
    """Boundaries have a dimension."""
    torch._check(
        a["sorted_sequence"].dim() != 0,
        lambda: "torch.searchsorted(): boundaries tensor should have positive dimension, but got 0 dimension",
    )


CHECKS: Mapping[str, Check] = {
    "aten::as_strided": as_strided,
    "aten::as_strided_copy": as_strided,
    "aten::as_strided_scatter": as_strided,
    "aten::select_scatter": select_scatter,
    "aten::diagonal_scatter": diagonal_scatter,
    "aten::gather": within,
    "aten::scatter": within,
    "aten::scatter_add": within,
    "aten::scatter_reduce": within,
    "aten::index.Tensor": index,
    "aten::index_put": index_put,
    "aten::_index_put_impl": index_put,
    "aten::_unsafe_index_put": index_put,
    "aten::embedding": embedding,
    "aten::_embedding_bag": embedding,
    "aten::_embedding_bag_forward_only": embedding,
    "aten::index_select": index_select,
    "aten::index_add": index_add,
    "aten::index_reduce": index_add,
    "aten::put": put,
    "aten::take": take,
    "aten::bucketize.Tensor": bucketize,
    "aten::searchsorted.Tensor": searchsorted,
}

CALLING = frozenset({index_put})
"""Checks that call operators themselves."""
