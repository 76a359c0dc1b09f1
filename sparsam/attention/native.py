"""Attention on packed tokens in machine code: ``native.c``, compiled once for this processor and kept in the user's cache.

Torch's fused attention is made for long sequences; on a batch of sentences it is a third of a frozen model's time, and it
does not tell what attention a token received. This kernel does both (docs/decisions/0010-a-kernel-of-our-own.md). Where
there is no compiler (:mod:`sparsam.native`), :func:`attend` is :func:`sparsam.attention.softmax.attend`, the same numbers
from torch's operators.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsam.attention import softmax
from sparsam.attention.single import attend_single as plain_single
from sparsam.attention.softmax import PairBias
from sparsam.native import library

SOURCE = Path(__file__).with_name("native.c")


@lru_cache
def kernel() -> ctypes.CDLL | None:
    """The compiled kernel; None where it cannot be had. The first call on a machine compiles for about a second."""
    found = library(SOURCE)
    if found is None:
        return None
    call, pointer, number = found.sparsam_attend, ctypes.c_void_p, ctypes.c_int
    call.argtypes = [pointer] * 9 + [ctypes.c_long] * 3 + [number] * 3 + [ctypes.c_float] + [number] * 3
    call.restype = number
    return found


def attend(
    q: Float[Tensor, "t h k"],
    k: Float[Tensor, "t h k"],
    v: Float[Tensor, "t h k"],
    lengths: Sequence[int],
    *,
    scale: float,
    scores: bool = False,
    key_bias: Float[Tensor, " t"] | None = None,
    row_weight: Float[Tensor, " t"] | None = None,
    pair_bias: PairBias | None = None,
    positions: Int[Tensor, " t"] | None = None,
    dropout: float = 0.0,
) -> tuple[Float[Tensor, "t h k"], Float[Tensor, " t"] | None]:
    """As :func:`sparsam.attention.softmax.attend`, for inference: no gradient passes through it.

    A bias by pairs, dropout, gradients and other types than float32 and bfloat16 go to that function.
    """
    if pair_bias is not None or dropout or not fits(q, k, v):
        return softmax.attend(
            q, k, v, lengths, scale=scale, scores=scores, key_bias=key_bias, row_weight=row_weight,
            pair_bias=pair_bias, positions=positions, dropout=dropout,
        )  # fmt: skip
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return attend_packed(
        q, k, v, starts, scale=scale, scores=scores, key_bias=key_bias, row_weight=row_weight
    )


def fits(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernel takes these: on the CPU, no gradient wanted, heads side by side in each row."""
    if q.device.type != "cpu" or q.dtype not in (torch.float32, torch.bfloat16) or kernel() is None:
        return False
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return False
    if v.shape[0] == 0 or v.shape[1] == 0:
        return False
    return all(x.stride(2) == 1 and x.stride(1) == x.shape[2] and x.dtype == q.dtype for x in (q, k, v))


def attend_packed(
    q: Float[Tensor, "t2 h k"],
    k: Float[Tensor, "t h k"],
    v: Float[Tensor, "t h k"],
    starts: np.ndarray,
    *,
    scale: float,
    scores: bool = False,
    key_bias: Tensor | None = None,
    row_weight: Tensor | None = None,
    alone: bool = False,
) -> tuple[Float[Tensor, "t2 h k"], Float[Tensor, " t"] | None]:
    """The kernel itself, for tensors that :func:`fits` accepts.

    Args:
        starts: where each sequence begins, and the end: (b + 1) int64, from 0 to t.
        alone: q has one query a sequence instead of one a token.
    """
    found = kernel()
    assert found is not None
    t, heads, width = v.shape
    out = torch.empty(q.shape, dtype=q.dtype)
    columns = torch.empty(heads, t) if scores else None
    received = torch.empty(t) if scores else None
    key_bias, row_weight = (None if x is None else x.float().contiguous() for x in (key_bias, row_weight))
    failed = found.sparsam_attend(
        q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), _pointer(columns), _pointer(received),
        _pointer(key_bias), _pointer(row_weight), starts.ctypes.data, q.stride(0), k.stride(0), v.stride(0),
        len(starts) - 1, heads, width, scale, q.dtype == torch.bfloat16, alone, torch.get_num_threads(),
    )  # fmt: skip
    if failed:
        raise MemoryError(f"attention over {t} tokens found no memory for a head's keys and values")
    return out, received


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def attend_single(
    q: Float[Tensor, "b h k"],
    k: Float[Tensor, "t h k"],
    v: Float[Tensor, "t h k"],
    sequences: Int[Tensor, " t"],
    *,
    scale: float,
    key_bias: Float[Tensor, " t"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "b h k"]:
    """As :func:`sparsam.attention.single.attend_single`, for inference."""
    if dropout or not fits(q, k, v):
        return plain_single(q, k, v, sequences, scale=scale, key_bias=key_bias, dropout=dropout)
    lengths = torch.bincount(sequences, minlength=q.shape[0]).numpy()
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return attend_packed(q, k, v, starts, scale=scale, key_bias=key_bias, alone=True)[0]
