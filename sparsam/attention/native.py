"""Attention on packed tokens in machine code: ``native.c``, compiled once for this processor and kept in the user's cache.

Torch's fused attention is made for long sequences; on a batch of sentences it is a third of a frozen model's time, and it
does not tell what attention a token received. This kernel does both (docs/decisions/0010-a-kernel-of-our-own.md). Where
there is no compiler, :func:`attend` is :func:`sparsam.attention.softmax.attend`, the same numbers from torch's operators.

    SPARSAM_NATIVE=0    leave it out
    CC                  the compiler; else cc, gcc or clang

The kernel's threads are torch's: it leaves GOMP's functions open, and the dynamic linker finds those torch has loaded.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
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

SOURCE = Path(__file__).with_name("native.c")
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fPIC", "-fopenmp", "-c")
PATIENCE = 120
"""Seconds a compiler may take."""


def compiler() -> str | None:
    """The C compiler to call, None where there is none or native code is switched off."""
    if os.environ.get("SPARSAM_NATIVE", "1") == "0" or os.name != "posix":
        return None
    named = os.environ.get("CC")
    return next(
        (found for name in ((named,) if named else ("cc", "gcc", "clang")) if (found := shutil.which(name))),
        None,
    )


@lru_cache
def kernel() -> ctypes.CDLL | None:
    """The compiled kernel; None where it cannot be had. The first call on a machine compiles for about a second."""
    program = compiler()
    if program is None:
        return None
    try:
        found = ctypes.CDLL(str(_built(program)))
    except (OSError, subprocess.SubprocessError):
        return None
    call, pointer, number = found.sparsam_attend, ctypes.c_void_p, ctypes.c_int
    call.argtypes = [pointer] * 9 + [ctypes.c_long] * 3 + [number] * 3 + [ctypes.c_float] + [number] * 3
    call.restype = number
    return found


def _built(program: str) -> Path:
    """The shared library's path, compiled if it is not in the cache."""
    version = subprocess.run([program, "--version"], capture_output=True, timeout=PATIENCE, check=True).stdout
    told = b"\0".join([SOURCE.read_bytes(), " ".join(FLAGS).encode(), version, _processor()])
    folder = _cache()
    place = folder / f"attention-{hashlib.sha256(told).hexdigest()[:24]}.so"
    if place.is_file() and _ours(place):
        return place
    with tempfile.TemporaryDirectory(dir=folder) as work:
        compiled, linked = Path(work) / "native.o", Path(work) / "native.so"
        for command in (
            [program, *FLAGS, str(SOURCE), "-o", str(compiled)],
            [program, "-shared", str(compiled), "-o", str(linked)],
        ):
            subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True)
        os.replace(linked, place)
    return place


def _cache() -> Path:
    """A folder that only this user writes to."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "sparsam" / "native"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _ours(folder) and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="sparsam-native-"))


def _ours(path: Path) -> bool:
    """Whether nobody else could have written this: what is loaded from here runs."""
    facts = path.stat()
    return facts.st_uid == os.getuid() and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _processor() -> bytes:
    """What ``-march=native`` looks at: a cache may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    wanted = (b"model name", b"flags", b"Features", b"CPU part")
    return b"\n".join(sorted({line for line in lines if line.startswith(wanted)}))


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
