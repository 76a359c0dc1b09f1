"""Bytes between a memory and a smaller one: what must move, what a tiling moves, and how long channels take for it.

A product is ``c[m, n] = sum over k of a[m, k] b[n, k]``. It is cut into tiles of ``tile = (tm, tn, tk)``, which are worked off
in three nested loops; ``order`` names them from the outside in, ``"mnk"`` or any other. The smaller memory holds one tile of
each operand and keeps it for as long as the next step wants the same. So an operand is read once for each trip of the loops
that do not move it, as far as a loop that does move it turns inside of them; and a result whose sum is not finished when its
tile is left goes out and comes back as a partial sum. All of it is closed form; the test moves the tiles one by one and counts.

:func:`compulsory` is the least any schedule can do: each operand in once, each result out once.
:class:`Channels` spreads addresses over the channels of a memory (HBM, LPDDR) block by block; the fullest one sets the time.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsam.errors import Refused

ORDERS = tuple("".join(order) for order in permutations("mnk"))
"""Nestings of the three loops, outermost first."""


@dataclass(frozen=True)
class Traffic:
    """Bytes that cross the border of a memory, by operand.

    Args:
        a, b: read.
        c: results written.
        partial: partial sums, written and read back, both counted.
    """

    a: float
    b: float
    c: float
    partial: float = 0.0

    @property
    def total(self) -> float:
        """All of it, in bytes."""
        return self.a + self.b + self.c + self.partial


def compulsory(m: int, n: int, k: int, bits_a: float, bits_b: float, bits_c: float) -> Traffic:
    """The least traffic of a product: each operand read once, each result written once.

    Args:
        m, n, k: size of the product; any may be 0.
        bits_a, bits_b, bits_c: of one number as it is stored, metadata included; a fraction where a stored form is compressed.

    Raises:
        Refused: ``memory-size`` for a negative size or width.
    """
    _sizes(m, n, k, bits_a, bits_b, bits_c)
    return Traffic(m * k * bits_a / 8, n * k * bits_b / 8, m * n * bits_c / 8)


def tiled(
    m: int,
    n: int,
    k: int,
    tile: tuple[int, int, int],
    order: str,
    bits_a: float,
    bits_b: float,
    bits_c: float,
    bits_partial: float = 32,
) -> Traffic:
    """The traffic of a tiled product, one tile of each operand held at a time (see the head of this file).

    Args:
        m, n, k: size of the product.
        tile: (tm, tn, tk); larger than the product counts as the product's size.
        order: of the loops over tiles, outermost first; one of :data:`ORDERS`.
        bits_a, bits_b, bits_c: of one number as it is stored.
        bits_partial: of a partial sum that leaves before it is finished.

    Raises:
        Refused: ``memory-size``, ``memory-order``.
    """
    _sizes(m, n, k, bits_a, bits_b, bits_c, bits_partial)
    if order not in ORDERS:
        raise Refused(f"order of loops {order!r}; known are {', '.join(ORDERS)}.", code="memory-order")
    if min(tile) < 1:
        raise Refused(f"a tile is (tm, tn, tk), each at least 1; got {tile}.", code="memory-size")
    trips = {name: -(-size // by) for name, size, by in zip("mnk", (m, n, k), tile, strict=True)}
    least = compulsory(m, n, k, bits_a, bits_b, bits_c)
    if not m * n * k:
        return least
    again = int(_visits(order, trips, "mn"))
    return Traffic(
        least.a * int(_visits(order, trips, "mk")),
        least.b * int(_visits(order, trips, "nk")),
        least.c,
        2 * (again - 1) * m * n * bits_partial / 8,
    )


@lru_cache(maxsize=4096)
def least_tiling(
    m: int,
    n: int,
    k: int,
    buffer_bytes: float,
    bits_a: float,
    bits_b: float,
    bits_c: float,
    bits_partial: float = 32,
) -> tuple[tuple[int, int, int], str, Traffic]:
    """The tiling that moves least among those whose three tiles fit a buffer: (tile, order, traffic).

    Tried are all orders and sizes that halve each side again and again; of equals the largest tile is taken. Tiles of the
    result are held as partial sums. A buffer that is filled while the other half is read from counts half.

    Raises:
        Refused: ``memory-buffer`` where not even single numbers fit.
    """
    _sizes(m, n, k, bits_a, bits_b, bits_c, bits_partial)
    sides = [
        np.array(sorted({-(-size // (1 << i)) for i in range(size.bit_length() + 1)}), np.int64)
        for size in (max(m, 1), max(n, 1), max(k, 1))
    ]
    tiles = np.stack([x.ravel() for x in np.meshgrid(*sides, indexing="ij")])
    tm, tn, tk = tiles
    fits = tm * tk * bits_a + tn * tk * bits_b + tm * tn * bits_partial <= 8 * buffer_bytes
    if not fits.any():
        raise Refused(
            f"a buffer of {buffer_bytes:g} bytes holds no tile of {bits_a:g}, {bits_b:g} and {bits_partial:g} bits.",
            code="memory-buffer",
        )
    tiles = tiles[:, fits]
    tiles = tiles[:, np.argsort(-tiles.prod(0), kind="stable")]
    trips = {name: -(-size // by) for name, size, by in zip("mnk", (m, n, k), tiles, strict=True)}
    best: tuple[float, int, str] = (math.inf, 0, ORDERS[0])
    for order in ORDERS:
        total = (
            _visits(order, trips, "mk") * (m * k * bits_a)
            + _visits(order, trips, "nk") * (n * k * bits_b)
            + (_visits(order, trips, "mn") - 1) * (2 * m * n * bits_partial)
        )
        at = int(np.argmin(total))
        if total[at] < best[0]:
            best = (float(total[at]), at, order)
    tile = tuple(int(x) for x in tiles[:, best[1]])
    tile = (tile[0], tile[1], tile[2])
    return tile, best[2], tiled(m, n, k, tile, best[2], bits_a, bits_b, bits_c, bits_partial)


def memory_cycles(moved_bytes: float, gb_per_s: float, clock_mhz: float) -> float:
    """Cycles of a clock in which a memory moves so many bytes at its full rate (GB = 10⁹ bytes).

    Raises:
        Refused: ``memory-size``.
    """
    if not gb_per_s > 0 or not clock_mhz > 0 or moved_bytes < 0:
        raise Refused(
            f"{moved_bytes:g} bytes at {gb_per_s:g} GB/s and {clock_mhz:g} MHz; rates are positive.",
            code="memory-size",
        )
    return moved_bytes / (gb_per_s * 1e3 / clock_mhz)


@dataclass(frozen=True)
class Channels:
    """A memory of several channels; blocks of addresses go round them.

    Args:
        count: of channels.
        gb_per_s: of one channel.
        interleave_bytes: block of addresses that lies in one channel before the next begins.
        burst_bytes: what a channel moves at least; a request is widened to whole bursts.

    Raises:
        Refused: ``memory-channels``.
    """

    count: int
    gb_per_s: float
    interleave_bytes: int = 256
    burst_bytes: int = 32

    def __post_init__(self) -> None:
        wrong = min(self.count, self.interleave_bytes, self.burst_bytes) < 1 or not self.gb_per_s > 0
        if wrong or self.interleave_bytes % self.burst_bytes:
            raise Refused(
                f"{self.count} channels of {self.gb_per_s:g} GB/s, {self.interleave_bytes} bytes in one before the next, "
                f"bursts of {self.burst_bytes}; all are positive, and a block is a whole number of bursts.",
                code="memory-channels",
            )

    def load(self, start: ArrayLike, size: ArrayLike) -> NDArray[np.int64]:
        """Bytes on each channel, (count,), for requests of ``size`` bytes from address ``start`` (arrays of one length).

        A request is widened to whole bursts; requests of no bytes move nothing.

        Raises:
            Refused: ``memory-size`` for negative addresses or sizes.
        """
        begin = np.atleast_1d(np.asarray(start, np.int64))
        length = np.atleast_1d(np.asarray(size, np.int64))
        if begin.shape != length.shape or (begin < 0).any() or (length < 0).any():
            raise Refused(
                f"addresses {begin.shape} and sizes {length.shape}, none negative.", code="memory-size"
            )
        begin, length = begin[length > 0], length[length > 0]
        end = -(-(begin + length) // self.burst_bytes) * self.burst_bytes
        begin = begin // self.burst_bytes * self.burst_bytes
        return np.array(
            [int((self._below(end, c) - self._below(begin, c)).sum()) for c in range(self.count)], np.int64
        )

    def _below(self, address: NDArray[np.int64], channel: int) -> NDArray[np.int64]:
        """Bytes of a channel at lower addresses than these."""
        block = self.interleave_bytes
        rounds, rest = np.divmod(address, block * self.count)
        return np.asarray(rounds * block + np.clip(rest - channel * block, 0, block), np.int64)

    def cycles(self, load: ArrayLike, clock_mhz: float) -> float:
        """Cycles until the fullest channel is done."""
        return memory_cycles(float(np.max(load, initial=0)), self.gb_per_s, clock_mhz)

    def imbalance(self, load: ArrayLike) -> float:
        """The fullest channel over the mean; 1 is even."""
        loads = np.asarray(load, float)
        return float(loads.max() / loads.mean()) if loads.size and loads.any() else 1.0


def _visits(order: str, trips: Mapping[str, Any], own: str) -> Any:
    """How often an operand that the ``own`` loops move goes by: trips of each other loop that has a moving one inside."""
    found: Any = 1
    moving: Any = False
    for name in reversed(order):
        if name in own:
            moving = moving | (trips[name] > 1)
        else:
            found = found * np.where(moving, trips[name], 1)
    return found


def _sizes(m: int, n: int, k: int, *bits: float) -> None:
    if min(m, n, k) < 0 or min(bits) < 0:
        raise Refused(
            f"a product of m {m}, n {n}, k {k} with widths {bits} bits; none is negative.", code="memory-size"
        )
