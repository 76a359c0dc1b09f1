"""Exponents of bfloat16 stored as a base and differences, groups of values along one axis: exact both ways.

O. Mohamed Awad et al., "FPRaker: A Processing Element For Accelerating Neural Network Training", MICRO 2021, arXiv:2010.08065,
compresses what goes to memory this way. The field widths are from memory, not checked against the paper.

A group of g values (:data:`GROUP`, fewer at the end of the axis) is written as

    code   3 bits   the width w of a difference, see :data:`WIDTHS`
    base   8 bits   the exponent of the first value
    g x 8  bits     sign and significand of each value
    (g-1) x w bits  exponent of each further value less the base, modulo 2**w

so that it takes ``8 g + 11 + (g - 1) w`` bits where 16 g would go raw. w is the bits of the largest distance from the base and
one for its sign; 0 where all exponents are equal. One bit never occurs, and eight bits hold any exponent modulo 256, so three
bits of code name every width there is.

With a bitmap, g bits in front say which values are not zero (+0, all bits clear), and only these are written; a group of
zeros is its bitmap alone. Without one, a zero's exponent is 0 like any other and makes its group wide.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused

GROUP = 32
"""Values in a group; from memory, not checked against the paper."""
CODE = 3
"""Bits that name the width of a group's differences; from memory, not checked against the paper."""
WIDTHS = (0, 2, 3, 4, 5, 6, 7, 8)
"""Width by code."""
ZEROS = ("stored", "bitmap", "smaller")
"""How zeros are held: like other values, left out with a bitmap, or whichever of the two makes the tensor smaller."""

_CODE_OF = np.array([0, 1, 1, 2, 3, 4, 5, 6, 7, 7])  # by width


@dataclass(frozen=True)
class Packed:
    """Values as they lie in memory.

    Args:
        data: the groups, one after the other, first bit in the highest place of its byte.
        bits: how many of them count.
        shape: of the values.
        axis: along which they are grouped.
        group: values in a group.
        bitmap: whether zeros are left out.
    """

    data: NDArray[np.uint8]
    bits: int
    shape: tuple[int, ...]
    axis: int
    group: int
    bitmap: bool


def encode(values: NDArray[np.uint16], axis: int = -1, group: int = GROUP, *, bitmap: bool = False) -> Packed:
    """Bits of bfloat16, any shape and any bits, into groups along an axis.

    Raises:
        Refused: ``base-delta-values`` for a type other than uint16 or a group of less than one value.
    """
    blocks, lengths = _blocks(values, axis, group)
    kept = _kept(blocks, lengths, bitmap)
    codes = _codes(blocks, kept)
    counts = kept.sum(1)
    sizes = _sizes(lengths, counts, codes, bitmap)
    starts = np.cumsum(sizes) - sizes
    stream = np.zeros(int(sizes.sum()), np.uint8)
    order = np.argsort(~kept, axis=1, kind="stable")  # kept values first, in their order
    packed = np.take_along_axis(blocks, order, 1)
    for length, count, code in np.unique(np.stack([lengths, counts, codes], 1), axis=0).tolist():
        mine = np.flatnonzero((lengths == length) & (counts == count) & (codes == code))
        parts = [kept[mine, :length].astype(np.uint8)] if bitmap else []
        if count:
            x = packed[mine, :count].astype(np.int64)
            exponent = (x >> 7) & 255
            delta = exponent[:, 1:] - exponent[:, :1]
            parts += [
                _spread(np.full((len(mine), 1), code), CODE),
                _spread(exponent[:, :1], 8),
                _spread(((x >> 8) & 128) | (x & 127), 8),
                _spread(delta, WIDTHS[code]),
            ]
        row = np.concatenate(parts, axis=1)
        stream[starts[mine, None] + np.arange(row.shape[1])] = row
    return Packed(np.packbits(stream), len(stream), values.shape, axis, group, bitmap)


def decode(packed: Packed) -> NDArray[np.uint16]:
    """The values again, every bit of them.

    Raises:
        Refused: ``base-delta-stream`` for a stream that ends early or runs on.
    """
    empty = np.zeros(packed.shape, np.uint16)
    blocks, lengths = _blocks(empty, packed.axis, packed.group)
    stream = np.unpackbits(packed.data)[: packed.bits]
    starts, counts, codes = (np.zeros(len(lengths), np.int64) for _ in range(3))
    at = 0
    for number, length in enumerate(lengths.tolist()):
        starts[number] = at
        counts[number] = count = (
            int(stream[at : at + length].sum(dtype=np.int64)) if packed.bitmap else length
        )
        at += length if packed.bitmap else 0
        if count:
            codes[number] = code = int(stream[at : at + CODE] @ np.array([4, 2, 1])[: len(stream[at:])])
            at += CODE + 8 + 8 * count + (count - 1) * WIDTHS[code]
    if at != packed.bits or packed.bits > 8 * len(packed.data):
        raise Refused(f"the groups take {at} bits, and {packed.bits} are there.", code="base-delta-stream")
    kept = _kept(blocks, lengths, False)
    for length, count, code in np.unique(np.stack([lengths, counts, codes], 1), axis=0).tolist():
        mine = np.flatnonzero((lengths == length) & (counts == count) & (codes == code))
        at_row = starts[mine]
        if packed.bitmap:
            kept[mine, :length] = stream[at_row[:, None] + np.arange(length)] == 1
            at_row = at_row + length
        if not count:
            continue
        base = _gather(stream, at_row + CODE, 1, 8)
        body = _gather(stream, at_row + CODE + 8, count, 8)
        delta = _gather(stream, at_row + CODE + 8 + 8 * count, count - 1, WIDTHS[code])
        half = 1 << (WIDTHS[code] - 1) if WIDTHS[code] else 1
        exponent = np.concatenate([base, (base + ((delta + half) % (2 * half) - half)) & 255], 1)
        whole = ((body & 128) << 8) | (exponent << 7) | (body & 127)
        rows, columns = np.nonzero(kept[mine])
        blocks[mine[rows], columns] = whole.reshape(-1).astype(np.uint16)
    return _unblocked(blocks, packed.shape, packed.axis)


def stored_bits(
    values: NDArray[np.uint16], axis: int = -1, group: int = GROUP, *, zeros: str = "smaller"
) -> int:
    """Bits that values take, without writing them.

    Args:
        values: bits of bfloat16.
        axis: along which they are grouped.
        group: values in a group.
        zeros: one of :data:`ZEROS`.

    Raises:
        Refused: ``base-delta-values``.
    """
    if zeros not in ZEROS:
        raise Refused(f"zeros are {', '.join(ZEROS)}; got {zeros!r}.", code="base-delta-values")
    blocks, lengths = _blocks(values, axis, group)
    found = []
    for bitmap in (False, True):
        if zeros in ("smaller", "bitmap" if bitmap else "stored"):
            kept = _kept(blocks, lengths, bitmap)
            found.append(int(_sizes(lengths, kept.sum(1), _codes(blocks, kept), bitmap).sum()))
    return min(found)


def _blocks(
    values: NDArray[np.uint16], axis: int, group: int
) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """(groups, group) padded with zeros, and how many values of each are real."""
    if values.dtype != np.uint16 or group < 1 or not values.ndim:
        raise Refused(
            f"bits of bfloat16 (uint16, one axis or more) in groups of one or more; got {values.dtype} of {values.shape} "
            f"in groups of {group}.",
            code="base-delta-values",
        )
    moved = np.moveaxis(values, axis, -1)
    rows = moved.reshape(-1, moved.shape[-1]) if values.size else np.zeros((0, 1), np.uint16)
    wide = -(-rows.shape[1] // group) * group
    padded = np.pad(rows, ((0, 0), (0, wide - rows.shape[1])))
    lengths = np.full((len(rows), wide // group), group, np.int64)
    lengths[:, -1] -= wide - rows.shape[1]
    return padded.reshape(-1, group), lengths.reshape(-1)


def _unblocked(blocks: NDArray[np.uint16], shape: tuple[int, ...], axis: int) -> NDArray[np.uint16]:
    moved = list(shape)
    long = moved.pop(axis)
    if not blocks.size:
        return np.zeros(shape, np.uint16)
    rows = blocks.reshape(int(np.prod(moved)), -1)[:, :long]
    return np.ascontiguousarray(np.moveaxis(rows.reshape(*moved, long), -1, axis))


def _kept(blocks: NDArray[np.uint16], lengths: NDArray[np.int64], bitmap: bool) -> NDArray[np.bool_]:
    real = np.arange(blocks.shape[1]) < lengths[:, None]
    return real & (blocks != 0) if bitmap else real


def _codes(blocks: NDArray[np.uint16], kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Which width each group needs; 0 for a group that keeps nothing."""
    exponent = ((blocks >> 7) & 255).astype(np.int16)
    base = np.take_along_axis(exponent, kept.argmax(1)[:, None], 1)
    most = np.where(kept, np.abs(exponent - base), 0).max(1, initial=0)
    width = np.where(most > 0, np.frexp(most.astype(np.float64))[1] + 1, 0)  # bits of the number, and a sign
    return _CODE_OF[width].astype(np.int64)


def _sizes(
    lengths: NDArray[np.int64], counts: NDArray[np.int64], codes: NDArray[np.int64], bitmap: bool
) -> NDArray[np.int64]:
    width = np.array(WIDTHS)[codes]
    body = np.where(counts > 0, 8 * counts + CODE + 8 + (counts - 1) * width, 0)
    return np.asarray(body + (lengths if bitmap else 0), np.int64)


def _spread(x: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """(rows, count) as (rows, count x width) bits, highest first."""
    bits = (x[:, :, None] >> np.arange(width - 1, -1, -1)) & 1
    return bits.reshape(len(x), -1).astype(np.uint8)


def _gather(stream: NDArray[np.uint8], at: NDArray[np.int64], count: int, width: int) -> NDArray[np.int64]:
    """(rows, count) numbers of so many bits that lie end to end from each place."""
    places = at[:, None] + np.arange(count * width)
    bits = stream[places].reshape(len(at), count, width).astype(np.int64)
    return np.asarray((bits << np.arange(width - 1, -1, -1)).sum(2), np.int64)
