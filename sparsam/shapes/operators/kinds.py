"""Types of tensors that the framework compares on data only: its symbolic rules for products and layers take any mixture."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from sparsam.shapes.run import Run

NAMES = {
    torch.float64: "Double", torch.float32: "Float", torch.float16: "Half", torch.bfloat16: "BFloat16",
    torch.int64: "Long", torch.int32: "Int", torch.int16: "Short", torch.int8: "Char", torch.uint8: "Byte",
    torch.bool: "Bool", torch.complex64: "ComplexFloat", torch.complex128: "ComplexDouble",
}  # fmt: skip


def _name(tensor: torch.Tensor) -> str:
    return NAMES.get(tensor.dtype, str(tensor.dtype))


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    return [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]


def product(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`linear`, `matmul`, `mm`, `addmm` …: factors are of one type, unless a lower precision is chosen for them.

    Raises:
        RuntimeError: If they are not.
    """
    if torch.is_autocast_enabled("cpu"):
        return NotImplemented
    tensors = _tensors(args, kwargs)
    for other in tensors[1:]:
        if other.dtype != tensors[0].dtype:
            raise RuntimeError(
                f"mat1 and mat2 must have the same dtype, but got {_name(tensors[0])} and {_name(other)}"
            )
    return NotImplemented


def layer(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Normalisation, transposed convolution, recurrent cells: input and weights are of one type.

    Raises:
        RuntimeError: If they are not.
    """
    if torch.is_autocast_enabled("cpu"):
        return NotImplemented
    tensors = _tensors(args, kwargs)
    for other in tensors[1:]:
        if other.is_floating_point() and other.dtype != tensors[0].dtype:
            raise RuntimeError(f"expected scalar type {_name(other)} but found {_name(tensors[0])}")
    return NotImplemented


def real_only(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`softmax`, `gelu` …: of real numbers, unless another type is asked for.

    Raises:
        RuntimeError: If they are whole numbers.
    """
    tensor = args[0] if args else kwargs.get("input")
    asked = kwargs.get("dtype") is not None or any(isinstance(arg, torch.dtype) for arg in args[1:])
    if (
        isinstance(tensor, torch.Tensor)
        and not asked
        and not (tensor.is_floating_point() or tensor.is_complex())
    ):
        name = getattr(func, "__name__", "this call")
        raise RuntimeError(f"\"{name}\" not implemented for '{_name(tensor)}'")
    return NotImplemented


def classes(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`cross_entropy`: its target holds class numbers of type int64 or uint8, or probabilities.

    Raises:
        RuntimeError: If it holds others.
    """
    target = args[1] if len(args) > 1 else kwargs.get("target")
    if (
        isinstance(target, torch.Tensor)
        and not target.is_floating_point()
        and target.dtype not in (torch.int64, torch.uint8)
    ):
        raise RuntimeError(f"expected scalar type Long but found {_name(target)}")
    return NotImplemented


def pair(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`binary_cross_entropy`: prediction and target are of one type.

    Raises:
        RuntimeError: If they are not.
    """
    tensors = _tensors(args, kwargs)[:2]
    if len(tensors) == 2 and tensors[0].dtype != tensors[1].dtype:
        raise RuntimeError(f"Found dtype {_name(tensors[1])} but expected {_name(tensors[0])}")
    return NotImplemented


_PRODUCTS = (
    F.linear, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.__rmatmul__, torch.mm,
    torch.Tensor.mm, torch.addmm, torch.Tensor.addmm, torch.mv, torch.Tensor.mv, torch.addmv, torch.baddbmm,
    torch.Tensor.baddbmm,
)  # fmt: skip
_LAYERS = (
    F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
)  # fmt: skip
_CELLS = (torch.lstm_cell, torch.gru_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell)
_REAL = (
    F.gelu,
    F.softmax,
    F.log_softmax,
    torch.softmax,
    torch.log_softmax,
    torch.Tensor.softmax,
    F.silu,
    F.elu,
)


def cell(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Recurrent cells."""
    flat = [part for arg in args for part in (arg if isinstance(arg, (tuple, list)) else (arg,))]
    return product(run, func, tuple(flat), kwargs)


RULES: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(_PRODUCTS, product),
    **dict.fromkeys(_LAYERS, layer),
    **dict.fromkeys(_CELLS, cell),
    **dict.fromkeys(_REAL, real_only),
    F.cross_entropy: classes,
    F.binary_cross_entropy: pair,
}
