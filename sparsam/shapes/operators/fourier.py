"""Fourier transforms: below `torch.fft`, which has cut and filled up the signal, sizes stay or are given.

The framework's own rules for tensors without data sort the dimensions by strides, which are no matter of sizes.
"""

from typing import Any

import torch

from sparsam.shapes.mode import has_symbols
from sparsam.shapes.run import Run

aten = torch.ops.aten
COMPLEX = {
    torch.float16: torch.complex32,
    torch.float32: torch.complex64,
    torch.float64: torch.complex128,
}


def to_complex(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`_fft_c2c`: as many frequencies as points."""
    signal = args[0]
    return signal.new_empty(signal.shape) if has_symbols(signal) else NotImplemented


def of_real(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`_fft_r2c`: the last of the dimensions has half of the frequencies, and one, where the others are the same."""
    signal, dims, _, onesided = args
    if not has_symbols(signal) or signal.dtype not in COMPLEX:
        return NotImplemented
    sizes = list(signal.shape)
    if onesided:
        sizes[dims[-1]] = sizes[dims[-1]] // 2 + 1
    return signal.new_empty(sizes, dtype=COMPLEX[signal.dtype])


def to_real(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`_fft_c2r`: the last of the dimensions is as long as it is told."""
    signal, dims, _, last = args
    if not has_symbols((signal, last)):
        return NotImplemented
    sizes = list(signal.shape)
    sizes[dims[-1]] = last
    return signal.new_empty(sizes, dtype=signal.real.dtype)


RULES = {
    aten._fft_c2c.default: to_complex,
    aten._fft_r2c.default: of_real,
    aten._fft_c2r.default: to_real,
}
