"""Sizes that the kernels of eager torch refuse and torch's rules for tensors without data let pass.

One check for each operator, asked before torch's own rule. A check compares the same sizes as the kernel and raises what
the kernel raises, so that a symbolic size is split there. Types are the business of `eager`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

Check = Callable[..., None]


def refuse(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], mode: Any) -> None:
    """Raises what the operator's kernel says of the sizes that it is given.

    Args:
        func: The operator.
        args: What it is called with, on tensors without data.
        kwargs: The same.
        mode: Of those tensors, for a check that calls operators itself.

    Raises:
        RuntimeError: As the kernel does; also IndexError.
    """
    found = _checks.get(func)
    if found is None:
        schema = getattr(func, "_schema", None)
        name = "" if schema is None else schema.name
        whole = f"{name}.{schema.overload_name}" if schema is not None and schema.overload_name else name
        found = _checks[func] = CHECKS.get(whole) or CHECKS.get(name.rstrip("_")) or _nothing
    if found is _nothing:
        return
    named = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
    for argument in func._schema.arguments[len(args) :]:
        named[argument.name] = kwargs.get(argument.name, argument.default_value)
    if "input" in named and "self" not in named:
        named["self"] = named["input"]
    named["name"] = func._schema.name.removeprefix("aten::").strip("_")
    if found in _CALLING:
        with mode:
            found(named)
    else:
        found(named)


def _nothing(a: dict[str, Any]) -> None:
    pass


_checks: dict[Any, Check] = {}


def _shape(tensor: torch.Tensor) -> str:
    return f"[{', '.join(str(size) for size in tensor.shape)}]"


def _numel(tensor: torch.Tensor) -> Any:
    count: Any = 1
    for size in tensor.shape:
        count = count * size
    return count


def _dim(tensor: torch.Tensor, dim: int) -> int | None:
    """A dimension counted from the front; None where there is none, which torch says itself."""
    rank = tensor.dim()
    return dim % rank if -rank <= dim < rank else None


# -- reductions -------------------------------------------------------------------------------------------------------


def along(a: dict[str, Any]) -> None:
    """The dimension that is reduced has something in it."""
    dim = _dim(a["self"], a["dim"])
    if dim is not None:
        torch._check_index(
            a["self"].shape[dim] != 0,
            lambda: f"{a['name']}(): Expected reduction dim {dim} to have non-zero size.",
        )


def whole(a: dict[str, Any]) -> None:
    """There is something to reduce."""
    torch._check(
        _numel(a["self"]) != 0,
        lambda: (
            f"{a['name']}(): Expected reduction dim to be specified for input.numel() == 0. "
            "Specify the reduction dim with the 'dim' argument."
        ),
    )


def sort(a: dict[str, Any]) -> None:
    """The dimension is there, also of a single number."""
    rank = max(1, a["self"].dim())
    torch._check_index(
        -rank <= a["dim"] < rank,
        lambda: (
            f"Dimension out of range (expected to be in range of [{-rank}, {rank - 1}], but got {a['dim']})"
        ),
    )


# -- products ---------------------------------------------------------------------------------------------------------


def addmm(a: dict[str, Any]) -> None:
    """What is added can be expanded to the product, and does not make the product larger."""
    one, two, added = a["mat1"], a["mat2"], a["self"]
    if one.dim() == 2 and two.dim() == 2:
        _expands(added, (one.shape[0], two.shape[1]))


def addmv(a: dict[str, Any]) -> None:
    """A vector is added to a matrix times a vector."""
    matrix, vector, added = a["mat"], a["vec"], a["self"]
    torch._check(
        matrix.dim() == 2 and vector.dim() == 1 and added.dim() <= 1,
        lambda: f"vector + matrix @ vector expected, got {added.dim()}, {matrix.dim()}, {vector.dim()}",
    )
    count = _numel(added)
    torch._check(
        matrix.shape[1] == vector.shape[0] and (count == matrix.shape[0] or count == 1),
        lambda: (
            f"size mismatch, got input ({count}), mat ({matrix.shape[0]}x{matrix.shape[1]}), vec ({vector.shape[0]})"
        ),
    )


def _expands(tensor: torch.Tensor, shape: Sequence[Any]) -> None:
    torch._check(
        tensor.dim() <= len(shape),
        lambda: (
            f"expand({_shape(tensor)}, size={list(shape)}): the number of sizes provided ({len(shape)}) must be greater "
            f"or equal to the number of dimensions in the tensor ({tensor.dim()})"
        ),
    )
    for back in range(1, tensor.dim() + 1):
        have, want = tensor.shape[-back], shape[-back]
        torch._check(
            have == want or have == 1,
            lambda have=have, want=want, back=back: (
                f"The expanded size of the tensor ({want}) must match the existing size ({have}) at non-singleton "
                f"dimension {len(shape) - back}."
            ),
        )


# -- images -----------------------------------------------------------------------------------------------------------


def adaptive(a: dict[str, Any]) -> None:
    """Adaptive pooling has something to pool."""
    tensor = a["self"]
    first = tensor.dim() - 2 if a["name"].endswith("2d") else 1
    for dim in range(max(first, 1), tensor.dim()):
        torch._check(
            tensor.shape[dim] != 0,
            lambda dim=dim: (
                f"{a['name'].strip('_')}(): Expected input to have non-zero size for non-batch dimensions, but input has "
                f"sizes {_shape(tensor)} with dimension {dim} being empty"
            ),
        )


def convolution(a: dict[str, Any]) -> None:
    """A kernel has a size, and a transposed convolution gives something."""
    tensor, weight = a["self"], a["weight"]
    kernel = weight.shape[2:]
    for size in kernel:
        torch._check(
            size != 0,
            lambda: f"kernel size should be greater than zero, but got {' x '.join(str(k) for k in kernel)}",
        )
    if not a["transposed"] or tensor.dim() != weight.dim():
        return
    count = len(kernel)
    stride, padding, dilation, more = (
        list(a[name]) * (count if len(a[name]) == 1 else 1)
        for name in ("stride", "padding", "dilation", "output_padding")
    )
    sizes = [
        (tensor.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + more[i] + 1
        for i in range(count)
    ]
    for size in sizes:
        torch._check(
            size >= 1,
            lambda: (
                f"Given input size per channel: ({' x '.join(str(s) for s in tensor.shape[2:])}). Calculated output size "
                f"per channel: ({' x '.join(str(s) for s in sizes)}). Output size is too small"
            ),
        )


def upsample(a: dict[str, Any]) -> None:
    """There is something to interpolate between, and something comes out."""
    tensor, asked = a["self"], a["output_size"]
    sizes = [*tensor.shape[2:], *(asked or ())]
    for size in sizes:
        torch._check(
            size > 0,
            lambda: (
                f"Input and output sizes should be greater than 0, but got input ({_shape(tensor)}) output ({asked})"
            ),
        )
    if tensor.dim() > 1:
        torch._check(
            tensor.shape[1] != 0,
            lambda: (
                f"Non-empty {tensor.dim()}D data tensor expected but got a tensor with sizes {_shape(tensor)}"
            ),
        )


# -- normalisation ----------------------------------------------------------------------------------------------------


def batch_norm(a: dict[str, Any]) -> None:
    """Statistics are taken of something, and kept in vectors."""
    for name in ("running_mean", "running_var"):
        kept = a.get(name)
        if kept is not None:
            torch._check(
                kept.dim() == 1,
                lambda kept=kept: f"TensorAccessor expected 1 dims but tensor has {kept.dim()}",
            )
    if a.get("training", a.get("train", True)):
        torch._check(
            _numel(a["self"]) != 0,
            lambda: f"input tensor must have at least one element, but got input_sizes = {_shape(a['self'])}",
        )


def group_norm(a: dict[str, Any]) -> None:
    """Weight and bias have one number for each channel."""
    for name in ("weight", "bias"):
        given = a[name]
        if given is not None:
            torch._check(
                given.dim() == 1 and given.shape[0] == a["C"],
                lambda given=given, name=name: (
                    f"Expected {name} to be a vector of size equal to the number of channels in input, but got {name} "
                    f"of shape {_shape(given)} and input of shape {_shape(a['self'])}"
                ),
            )


# -- views ------------------------------------------------------------------------------------------------------------


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
    dim = _dim(tensor, a["dim"])
    if dim is None:
        return
    size = tensor.shape[dim]
    torch._check_index(
        -size <= index and index < size,
        lambda: (
            f"select(): index {index} out of range for tensor of size {_shape(tensor)} at dimension {dim}"
        ),
    )
    _slice_is(source, [*tensor.shape[:dim], *tensor.shape[dim + 1 :]])


def diagonal_scatter(a: dict[str, Any]) -> None:
    """What is written has the shape of the diagonal."""
    tensor, offset = a["self"], a["offset"]
    one, two = _dim(tensor, a["dim1"]), _dim(tensor, a["dim2"])
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
            f"src size = {_shape(source)}, slice size = {list(shape)}"
        ),
    )


# -- indices ----------------------------------------------------------------------------------------------------------


def within(a: dict[str, Any]) -> None:
    """No index lies within an empty dimension."""
    tensor, index = a["self"], a["index"]
    dim = _dim(tensor, a["dim"])
    if dim is None or tensor.dim() != index.dim():
        return
    if tensor.shape[dim] == 0:
        torch._check(_numel(index) == 0, lambda: f"index 0 is out of bounds for dimension {dim} with size 0")


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
            torch._check_index(_numel(given) == 0, lambda: "index is out of bounds for dimension with size 0")
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
                    f"The shape of the mask {_shape(one)} at index {number} does not match the shape of the indexed "
                    f"tensor {_shape(tensor)} at index {at}"
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
        f"shape mismatch: value tensor of shape {_shape(values)} cannot be broadcast to indexing result of shape "
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
            _numel(given) == 1,
            lambda: f"index_select(): Index to scalar can have only 1 value, got {_numel(given)} value(s)",
        )
        return
    dim = _dim(tensor, a["dim"])
    if dim is not None and tensor.shape[dim] == 0:
        torch._check_index(_numel(given) == 0, lambda: "index out of range in self")


def index_add(a: dict[str, Any]) -> None:
    """Both tensors have one shape but for the dimension of the index."""
    tensor, source = a["self"], a["source"]
    if a["name"] == "index_reduce" and tensor.dim() == 0 and a["index"].dim() == 1:
        torch._check_index(
            a["index"].shape[0] == 1,
            lambda: f"Dimension specified as {a['dim']} but tensor has no dimensions",
        )
    dim, other = _dim(tensor, a["dim"]), _dim(source, a["dim"])
    one = [size for i, size in enumerate(tensor.shape) if i != dim]
    two = [size for i, size in enumerate(source.shape) if i != other]
    torch._check(
        len(one) == len(two)
        and tensor.dim() == source.dim()
        and all(bool(x == y) for x, y in zip(one, two, strict=True)),
        lambda: (
            "source tensor shape must match self tensor shape, excluding the specified dimension. "
            f"Got self.shape = {_shape(tensor)} source.shape = {_shape(source)}"
        ),
    )


def put(a: dict[str, Any]) -> None:
    """One number for each index, and somewhere to put it."""
    tensor, given, source = a["self"], a["index"], a["source"]
    torch._check_index(
        _numel(source) == _numel(given),
        lambda: (
            "put_(): Expected source and index to have the same number of elements, but got source.numel() = "
            f"{_numel(source)}, index.numel() = {_numel(given)}"
        ),
    )
    if _numel(tensor) == 0:
        torch._check_index(_numel(given) == 0, lambda: "put_(): Tried to put elements into an empty tensor")


def take(a: dict[str, Any]) -> None:
    """Nothing is taken from nothing."""
    if _numel(a["self"]) == 0:
        torch._check_index(_numel(a["index"]) == 0, lambda: "take(): tried to take from an empty tensor")


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


# -- chance, losses, lengths ------------------------------------------------------------------------------------------


def multinomial(a: dict[str, Any]) -> None:
    """As many can be drawn as are there."""
    tensor, count = a["self"], a["num_samples"]
    torch._check(
        1 <= tensor.dim() <= 2,
        lambda: "prob_dist must be 1 or 2 dim",
    )
    torch._check(
        tensor.is_floating_point(),
        lambda: (
            "multinomial only supports floating-point dtypes for input, got: "
            f"{str(tensor.dtype).removeprefix('torch.')}"
        ),
    )
    torch._check(count > 0, lambda: "cannot sample n_sample <= 0 samples")
    if not a["replacement"]:
        torch._check(
            count <= tensor.shape[-1],
            lambda: "cannot sample n_sample > prob_dist.size(-1) samples without replacement",
        )


def soft_margin_loss(a: dict[str, Any]) -> None:
    """The target does not make the input larger."""
    tensor, target = a["self"], a["target"]
    text = f"output with shape {_shape(tensor)} doesn't match the broadcast shape of {_shape(target)}"
    torch._check(target.dim() <= tensor.dim(), lambda: text)
    for have, want in zip(reversed(target.shape), reversed(tensor.shape), strict=False):
        torch._check(have == want or have == 1, lambda: text)


def pack_padded_sequence(a: dict[str, Any]) -> None:
    """A length for each sequence."""
    tensor, lengths = a["self"], a["lengths"]
    torch._check(
        lengths.dim() == 1 and lengths.dtype is torch.int64,
        lambda: (
            "'lengths' argument should be a 1D CPU int64 tensor, but got "
            f"{lengths.dim()}D {lengths.device.type} {str(lengths.dtype).removeprefix('torch.')} tensor"
        ),
    )
    torch._check(_numel(tensor) != 0, lambda: "Cannot pack empty tensors.")
    batch = tensor.shape[0 if a["batch_first"] else 1]
    torch._check(
        lengths.shape[0] == batch,
        lambda: (
            f"Expected `len(lengths)` to be equal to batch_size, but got {lengths.shape[0]} (batch_size={batch})"
        ),
    )


def remainder(a: dict[str, Any]) -> None:
    """Whole numbers are not divided by zero."""
    tensor, other = a["self"], a["other"]
    whole_numbers = not tensor.is_floating_point() and not tensor.is_complex()
    if whole_numbers and isinstance(other, (int, torch.SymInt)) and other == 0:
        torch._check(_numel(tensor) == 0, lambda: "ZeroDivisionError")


def ormqr(a: dict[str, Any]) -> None:
    """As many factors as the smaller side has."""
    other, tau, tensor = a["input2"], a["input3"], a["self"]
    if tensor.dim() < 2 or other.dim() < 2 or not tau.dim():
        return
    side = -2 if a["left"] else -1
    torch._check(
        tau.shape[-1] == torch.sym_min(other.shape[side], tensor.shape[-1]),
        lambda: f"torch.ormqr: tau.shape[-1] must be equal to min(other.shape[{side}], input.shape[-1])",
    )


CHECKS: Mapping[str, Check] = {
    "aten::max.dim": along,
    "aten::min.dim": along,
    "aten::mode": along,
    "aten::max": whole,
    "aten::min": whole,
    "aten::max.other": _nothing,
    "aten::min.other": _nothing,
    "aten::sort": sort,
    "aten::sort.stable": sort,
    "aten::addmm": addmm,
    "aten::addmv": addmv,
    "aten::_adaptive_avg_pool2d": adaptive,
    "aten::_adaptive_avg_pool3d": adaptive,
    "aten::convolution": convolution,
    "aten::upsample_linear1d": upsample,
    "aten::upsample_bilinear2d": upsample,
    "aten::upsample_bicubic2d": upsample,
    "aten::upsample_trilinear3d": upsample,
    "aten::native_batch_norm": batch_norm,
    "aten::_native_batch_norm_legit": batch_norm,
    "aten::_batch_norm_with_update": batch_norm,
    "aten::native_group_norm": group_norm,
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
    "aten::index_select": index_select,
    "aten::index_add": index_add,
    "aten::index_reduce": index_add,
    "aten::put": put,
    "aten::take": take,
    "aten::bucketize.Tensor": bucketize,
    "aten::searchsorted.Tensor": searchsorted,
    "aten::multinomial": multinomial,
    "aten::soft_margin_loss": soft_margin_loss,
    "aten::_pack_padded_sequence": pack_padded_sequence,
    "aten::remainder.Scalar": remainder,
    "aten::ormqr": ormqr,
}
"""A check by operator: by its whole name, else by its name without the underscore of an operator in place."""
_CALLING = frozenset({index_put})
