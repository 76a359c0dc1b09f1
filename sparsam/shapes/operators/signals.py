"""Fourier transforms of windows along a signal, which the framework cuts out at places that it wants as plain numbers."""

import inspect
from typing import Any

import torch

from sparsam.shapes.mode import has_symbols
from sparsam.shapes.run import Run

SIGNATURE = inspect.signature(torch.stft)


def stft(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.stft` of (time,) or (batch, time): (batch, frequencies, windows).

    Whatever does not depend on the length is refused by the framework itself, for a signal that is long enough.
    """
    given = SIGNATURE.bind(*args, **kwargs)
    given.apply_defaults()
    of = given.arguments
    signal, points = of["input"], of["n_fft"]
    if not has_symbols(signal) or has_symbols({**of, "input": None}) or of["align_to_window"]:
        return NotImplemented
    if signal.dim() not in (1, 2) or points <= 0:
        return NotImplemented
    trial = signal.new_empty([2] * (signal.dim() - 1) + [4 * points])
    made = torch.stft(**{**of, "input": trial})
    if of["center"]:
        wide = signal if signal.dim() == 2 else signal.unsqueeze(0)
        if of["pad_mode"] == "constant":
            signal = torch.nn.functional.pad(signal, (points // 2, points // 2))
        else:
            padded = torch.nn.functional.pad(wide, (points // 2, points // 2), of["pad_mode"])
            signal = padded if signal.dim() == 2 else padded.squeeze(0)
    length = signal.shape[-1]
    torch._check(length >= points, lambda: f"stft: expected 0 < n_fft <= {length}, but got n_fft={points}")
    hop = of["hop_length"] or points // 4
    windows = 1 + (length - points) // hop
    last = made.dim() - (1 if made.is_complex() else 2)
    sizes = list(made.shape)
    sizes[last] = windows
    if signal.dim() == 2:
        sizes[0] = signal.shape[0]
    return made.new_empty(sizes)


RULES = {torch.stft: stft, torch.Tensor.stft: stft}
