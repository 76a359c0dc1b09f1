"""Reductions, products, chance, losses and lengths."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sparsam.shapes.strictness.sizes import Check, counted, nothing, numel, printed


def along(a: dict[str, Any]) -> None:
    """The dimension that is reduced has something in it."""
    dim = counted(a["self"], a["dim"])
    if dim is not None:
        torch._check_index(
            a["self"].shape[dim] != 0,
            lambda: f"{a['name']}(): Expected reduction dim {dim} to have non-zero size.",
        )


def whole(a: dict[str, Any]) -> None:
    """There is something to reduce."""
    torch._check(
        numel(a["self"]) != 0,
        lambda: (
            f"{a['name']}(): Expected reduction dim to be specified for input.numel() == 0. "
            "Specify the reduction dim with the 'dim' argument."
        ),
    )


def median(a: dict[str, Any]) -> None:
    """The dimension of which the median is taken has something in it."""
    along({**a, "name": "median"})


def fourier(a: dict[str, Any]) -> None:
    """There is something to transform: the library of the CPU refuses an empty batch."""
    if a["dim"]:
        torch._check(
            numel(a["self"]) != 0,
            lambda: "MKL FFT error: Intel oneMKL DFTI ERROR: Inconsistent configuration parameters",
        )


def inside(a: dict[str, Any]) -> None:
    """The dimension is there, also of a single number."""
    rank = max(1, a["self"].dim())
    torch._check_index(
        -rank <= a["dim"] < rank,
        lambda: (
            f"Dimension out of range (expected to be in range of [{-rank}, {rank - 1}], but got {a['dim']})"
        ),
    )


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
    count = numel(added)
    torch._check(
        matrix.shape[1] == vector.shape[0] and (count == matrix.shape[0] or count == 1),
        lambda: (
            f"size mismatch, got input ({count}), mat ({matrix.shape[0]}x{matrix.shape[1]}), vec ({vector.shape[0]})"
        ),
    )


def scaled_mm(a: dict[str, Any]) -> None:
    """Columns of the one are rows of the other."""
    one, two = a["self"], a["mat2"]
    if one.dim() == 2 and two.dim() == 2:
        torch._check(
            one.shape[1] == two.shape[0],
            lambda: (
                f"mat_a and mat_b shapes cannot be multiplied ({one.shape[0]}x{one.shape[1]} and "
                f"{two.shape[0]}x{two.shape[1]})"
            ),
        )


def _expands(tensor: torch.Tensor, shape: Sequence[Any]) -> None:
    torch._check(
        tensor.dim() <= len(shape),
        lambda: (
            f"expand({printed(tensor)}, size={list(shape)}): the number of sizes provided ({len(shape)}) must be greater "
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
    torch._check(tensor.shape[-1] <= CATEGORIES, lambda: "number of categories cannot exceed 2^24")
    if not a["replacement"]:
        torch._check(
            count <= tensor.shape[-1],
            lambda: "cannot sample n_sample > prob_dist.size(-1) samples without replacement",
        )


CATEGORIES = 1 << 24


def uniform(a: dict[str, Any]) -> None:
    """The range is one."""
    low, high = a["from"], a["to"]
    torch._check(
        low <= high,
        lambda: f"uniform_ expects to return a [from, to) range, but found from={low} > to={high}",
    )


def bernoulli(a: dict[str, Any]) -> None:
    """A share lies between none and all."""
    share = a["p"]
    torch._check(
        not isinstance(share, (int, float)) or 0 <= share <= 1,
        lambda: f"bernoulli_ expects p to be in [0, 1], but got p={share}",
    )


def soft_margin_loss(a: dict[str, Any]) -> None:
    """The target does not make the input larger."""
    tensor, target = a["self"], a["target"]
    text = f"output with shape {printed(tensor)} doesn't match the broadcast shape of {printed(target)}"
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
    torch._check(numel(tensor) != 0, lambda: "Cannot pack empty tensors.")
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
        torch._check(numel(tensor) == 0, lambda: "ZeroDivisionError")


def ormqr(a: dict[str, Any]) -> None:
    """As many factors as the smaller side has."""
    tau, other, tensor = a["input2"], a["input3"], a["self"]
    if tensor.dim() < 2 or other.dim() < 2 or not tau.dim():
        return
    side = -2 if a["left"] else -1
    torch._check(
        tau.shape[-1] == torch.sym_min(other.shape[side], tensor.shape[-1]),
        lambda: f"torch.ormqr: tau.shape[-1] must be equal to min(other.shape[{side}], input.shape[-1])",
    )


def masked_select(a: dict[str, Any]) -> None:
    """The mask is for the tensor, by broadcasting."""
    tensor, mask = a["self"], a["mask"]
    rank = max(tensor.dim(), mask.dim())
    for back in range(1, min(tensor.dim(), mask.dim()) + 1):
        one, two = tensor.shape[-back], mask.shape[-back]
        torch._check(
            one == two or one == 1 or two == 1,
            lambda one=one, two=two, at=rank - back: (
                f"The size of tensor a ({one}) must match the size of tensor b ({two}) at non-singleton dimension {at}"
            ),
        )


def lstsq(a: dict[str, Any]) -> None:
    """There are rows and columns, and a right side for each row."""
    tensor, other = a["self"], a["b"]
    torch._check(tensor.dim() >= 2, lambda: "torch.linalg.lstsq: input must have at least 2 dimensions.")
    torch._check(other.dim() >= 1, lambda: "torch.linalg.lstsq: other must have at least 1 dimension.")
    lacking = tensor.dim() - other.dim()
    torch._check(
        0 <= lacking <= 1,
        lambda: (
            "torch.linalg.lstsq: input.dim() must be greater or equal to other.dim() and (input.dim() - other.dim()) <= 1"
        ),
    )


CHECKS: Mapping[str, Check] = {
    "aten::linalg_lstsq": lstsq,
    "aten::max.dim": along,
    "aten::min.dim": along,
    "aten::mode": along,
    "aten::_softmax": inside,
    "aten::median.dim": median,
    "aten::nanmedian.dim": median,
    "aten::_fft_c2c": fourier,
    "aten::_fft_c2r": fourier,
    "aten::_fft_r2c": fourier,
    "aten::masked_select": masked_select,
    "aten::max": whole,
    "aten::min": whole,
    "aten::max.other": nothing,
    "aten::min.other": nothing,
    "aten::sort": inside,
    "aten::sort.stable": inside,
    "aten::addmm": addmm,
    "aten::addmv": addmv,
    "aten::_scaled_mm": scaled_mm,
    "aten::uniform": uniform,
    "aten::bernoulli_.float": bernoulli,
    "aten::bernoulli.p": bernoulli,
    "aten::multinomial": multinomial,
    "aten::soft_margin_loss": soft_margin_loss,
    "aten::_pack_padded_sequence": pack_padded_sequence,
    "aten::remainder.Scalar": remainder,
    "aten::ormqr": ormqr,
}
