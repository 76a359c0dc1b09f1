"""Integers of a few bits laid end to end: the first in the lowest bits of the first byte, each row begins a byte of its own."""

import torch
from jaxtyping import Integer, Shaped, UInt8
from torch import Tensor

from sparsam.errors import Refused


def bytes_of(numbers: int, width: int) -> int:
    """Bytes of a row of so many integers."""
    return (numbers * width + 7) // 8


def pack_bits(q: Integer[Tensor, "c n"], width: int) -> UInt8[Tensor, "c m"]:
    """Signed integers of ``width`` bits, two's complement, in m = ceil(n width / 8) bytes a row.

    Raises:
        Refused: ``bits-range`` for an integer that takes more bits.
    """
    reach = 1 << width - 1
    if q.numel() and (int(q.min()) < -reach or int(q.max()) >= reach):
        raise Refused(
            f"integers of {width} bits lie in {-reach} to {reach - 1}; got {int(q.min())} to {int(q.max())}. Use more bits.",
            code="bits-range",
        )
    c, n = q.shape
    flat = (q.to(torch.int32)[..., None] >> torch.arange(width)) & 1  # (c, n, width)
    row = flat.view(c, n * width).to(torch.uint8)
    m = bytes_of(n, width)
    row = torch.nn.functional.pad(row, (0, 8 * m - n * width)).view(c, m, 8)
    return (row << torch.arange(8, dtype=torch.uint8)).sum(2, dtype=torch.uint8)


def unpack_bits(stored: Shaped[Tensor, "c m"], width: int, numbers: int) -> Integer[Tensor, "c n"]:
    """The inverse of :func:`pack_bits`, as int16.

    Raises:
        Refused: ``bits-shape`` where the bytes are not uint8, or not as many as so many integers take.
    """
    if stored.dtype != torch.uint8 or stored.shape[1] != bytes_of(numbers, width):
        raise Refused(
            f"{numbers} integers of {width} bits take {bytes_of(numbers, width)} bytes a row, uint8; got "
            f"{stored.shape[1]}, {str(stored.dtype).removeprefix('torch.')}. Restore the file.",
            code="bits-shape",
        )
    row = ((stored[..., None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten(1)[:, : numbers * width]
    flat = row.view(len(stored), numbers, width).to(torch.int32)
    whole = (flat << torch.arange(width)).sum(2)
    return (whole - ((whole >> width - 1) << width)).to(torch.int16)
