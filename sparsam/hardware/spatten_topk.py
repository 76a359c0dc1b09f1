"""SpAtten's top-k engine: quick-select with zero eliminators, and how many cycles it takes.

H. Wang, Z. Zhang, S. Han. *SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head Pruning*, HPCA 2021,
arXiv:2012.09852; the rules are those of the authors' released hardware (``mit-han-lab/spatten``, a0f1388).

A pass reads the remaining scores ``lanes`` at a time and compares each with a pivot. What lies before the pivot (is larger) and
what lies after it go through a zero eliminator each into a buffer of their own; one of the two is the next pass's input. The
pivot is element 0 of a random row of ``lanes`` scores, drawn while the row is written. A pass of ``n`` scores takes
``ceil(n / lanes) + 3`` cycles (the authors' latency model). Filling the first buffer happens while scores arrive and draining
while values are fetched, so neither is counted, as there.

Random numbers are those of a small generator written out here (xorshift of 32 bits), so that compiled and plain Python agree.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware.jit import jit, parallel, prange

PASS_OVERHEAD = 3
"""Cycles that a pass takes beyond reading its scores: comparator, zero eliminator, buffer. Authors' latency model."""


def eliminate(
    values: NDArray[np.int64], keep: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A zero eliminator: the kept elements of vectors, moved to the front in their order, as the network moves them.

    An exclusive prefix sum counts what is dropped before each element; layer ``b`` of ``log2(width)`` moves an element left by
    ``2 ** b`` where bit ``b`` of its count is set.

    Args:
        values: (…, width), width a power of two.
        keep: of the same shape, True stays.

    Returns:
        (…, width) with zeros behind the kept elements, and (…,) how many those are.

    Raises:
        Refused: ``spatten-width``.
    """
    width = values.shape[-1]
    if width < 1 or width & (width - 1) or keep.shape != values.shape:
        raise Refused(
            f"a zero eliminator takes vectors of a power of two and a mask of the same shape; got {values.shape} and "
            f"{keep.shape}.",
            code="spatten-width",
        )
    dropped = np.cumsum(~keep, axis=-1, dtype=np.int64) - ~keep
    here, count, full = values.copy(), np.where(keep, dropped, 0), keep.copy()
    step = 1
    while step < width:
        moves = full & ((count & step) != 0)
        stays = full & ~moves
        came = np.zeros_like(full)
        came[..., :-step] = moves[..., step:]
        for x in (here, count):
            moved = np.zeros_like(x)
            moved[..., :-step] = x[..., step:]
            x[...] = np.where(came, moved, np.where(stays, x, 0))
        full = came | stays
        step *= 2
    return here, keep.sum(-1, dtype=np.int64)


def compact(values: NDArray[np.int64], keep: NDArray[np.bool_], width: int) -> list[NDArray[np.int64]]:
    """A stream through a zero eliminator and its realign stage: full vectors of ``width``, the last may be shorter.

    Args:
        values: (n,), of which ``width`` enter a cycle.
        keep: (n,).
        width: a power of two.
    """
    more = -len(values) % width
    padded = np.pad(values, (0, more)).reshape(-1, width)
    packed, sizes = eliminate(padded, np.pad(keep, (0, more)).reshape(-1, width))
    waiting: list[int] = []
    out = []
    for vector, size in zip(packed, sizes, strict=True):
        waiting.extend(int(x) for x in vector[:size])
        if len(waiting) >= width:
            out.append(np.array(waiting[:width], np.int64))
            waiting = waiting[width:]
    if waiting:
        out.append(np.array(waiting, np.int64))
    return out


@dataclass(frozen=True)
class Selection:
    """What the engine found, and what it took.

    Args:
        keep: (n,), True for the k largest; of those equal to the last, the first in order.
        last: the k-th largest score.
        keep_equal: how many of those equal to it stay.
        passes: sizes of the sequences that were read, pass by pass.
        sides: of each pass: scores before the pivot, equal to it, after it.
        cycles: all passes.
    """

    keep: NDArray[np.bool_]
    last: float
    keep_equal: int
    passes: tuple[int, ...]
    sides: tuple[tuple[int, int, int], ...]
    cycles: int

    @property
    def comparisons(self) -> int:
        """Scores compared with a pivot, all passes."""
        return sum(self.passes)


def quick_select(scores: NDArray[np.float32], k: int, lanes: int, seed: int = 0) -> Selection:
    """The plain form of :func:`select_rows`, one row, with everything that happened.

    Args:
        scores: (n,).
        k: how many stay, from 1 to n.
        lanes: comparators a side, scores a cycle.
        seed: of the pivots.

    Raises:
        Refused: ``spatten-select``.
    """
    _possible(len(scores), k, lanes)
    state = mixed(seed, 0)
    target, sequence = k - 1, list(scores.tolist())
    passes, sides = [], []
    while True:
        row, state = _pivot_row(len(sequence), lanes, state)
        pivot = sequence[row * lanes]
        before = [x for x in sequence if x > pivot]
        after = [x for x in sequence if x < pivot]
        equal = len(sequence) - len(before) - len(after)
        passes.append(len(sequence))
        sides.append((len(before), equal, len(after)))
        if len(before) > target:
            sequence = before
        elif len(before) + equal > target:
            break
        else:
            target -= len(before) + equal
            sequence = after
    keep_equal = target + 1 - len(before)
    same = scores == pivot
    keep = (scores > pivot) | (same & (np.cumsum(same) <= keep_equal))
    cycles = sum(-(-n // lanes) + PASS_OVERHEAD for n in passes)
    return Selection(keep, float(pivot), keep_equal, tuple(passes), tuple(sides), cycles)


def _possible(n: int, k: int, lanes: int) -> None:
    if not 1 <= k <= n or lanes < 1:
        raise Refused(
            f"the engine keeps 1 to n scores with at least one comparator; got n {n}, k {k}, comparators {lanes}.",
            code="spatten-select",
        )


def select_rows(
    scores: NDArray[np.float32],
    widths: NDArray[np.int64],
    k: NDArray[np.int64],
    lanes: int,
    seed: int = 0,
    first: int = 0,
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """The engine on many rows of scores, each with pivots of its own.

    A row whose ``k`` is its width or more is not sorted out at all: everything stays, no cycle.

    Args:
        scores: (r, n).
        widths: (r,), how many scores of each row count.
        k: (r,), at least 1.
        lanes: comparators a side.
        seed: of the pivots; row ``i`` draws from ``mixed(seed, first + i)``.
        first: number of the first row, so that rows may be handed over in parts.

    Returns:
        (r, n) True where a score stays; (r,) cycles; (r,) comparisons.

    Raises:
        Refused: ``spatten-select``.
    """
    if len(scores) and (int(k.min()) < 1 or int(widths.min()) < 1 or int(widths.max()) > scores.shape[1]):
        raise Refused(
            f"rows of {int(widths.min())} to {int(widths.max())} of {scores.shape[1]} scores, k from {int(k.min())}; "
            "each row has at least one score and keeps at least one.",
            code="spatten-select",
        )
    _possible(1, 1, lanes)
    keep = np.zeros(scores.shape, np.bool_)
    cycles, compared = np.zeros(len(scores), np.int64), np.zeros(len(scores), np.int64)
    many = np.ascontiguousarray(scores, np.float32)
    _select(many, widths.astype(np.int64), k.astype(np.int64), lanes, seed, first, keep, cycles, compared)
    return keep, cycles, compared


def mixed(seed: int, number: int) -> int:
    """A state of the generator, never 0, from a seed and the number of a row (Murmur's finalizer)."""
    return int(_mixed(seed, number))


def drawn(n: int, state: int) -> tuple[int, int]:
    """A number from 0 to n - 1, and the generator's next state."""
    state = int(_stepped(state))
    return (state * n) >> 32, state


@jit
def _mixed(seed: int, number: int) -> int:
    x = (seed * 0x9E3779B1 + number * 0x7FEB352D + 0x1234567) & 0xFFFFFFFF
    x ^= x >> 16
    x = (x * 0x45D9F3B) & 0xFFFFFFFF
    x ^= x >> 16
    x = (x * 0x45D9F3B) & 0xFFFFFFFF
    x ^= x >> 16
    return x if x != 0 else 1


@jit
def _stepped(state: int) -> int:
    state ^= (state << 13) & 0xFFFFFFFF
    state ^= state >> 17
    state ^= (state << 5) & 0xFFFFFFFF
    return state


@jit
def _pivot_row(n: int, lanes: int, state: int) -> tuple[int, int]:
    """Which row's first score is the pivot: row ``c`` takes the place with chance 1 / (the power of two above c)."""
    found, mask = 0, 0
    for row in range(1, (n + lanes - 1) // lanes):
        while mask < row:
            mask = mask * 2 + 1
        state = _stepped(state)
        if ((state >> 7) & mask) == 0:
            found = row
    return found, state


@parallel
def _select(
    scores: NDArray[np.float32],
    widths: NDArray[np.int64],
    k: NDArray[np.int64],
    lanes: int,
    seed: int,
    first: int,
    keep: NDArray[np.bool_],
    cycles: NDArray[np.int64],
    compared: NDArray[np.int64],
) -> None:
    for row in prange(len(scores)):
        n, target = widths[row], k[row] - 1
        if target >= n - 1:
            keep[row, :n] = True
            continue
        state = _mixed(seed, first + row)
        sequence = scores[row, :n].copy()
        after = np.empty(n, np.float32)
        while True:
            at, state = _pivot_row(n, lanes, state)
            pivot = sequence[at * lanes]
            before = behind = 0
            cycles[row] += (n + lanes - 1) // lanes + 3
            compared[row] += n
            for i in range(n):
                x = sequence[i]
                if x > pivot:
                    sequence[before] = x  # never ahead of i
                    before += 1
                elif x < pivot:
                    after[behind] = x
                    behind += 1
            equal = n - before - behind
            if before > target:
                n = before
            elif before + equal > target:
                left = target + 1 - before
                break
            else:
                target -= before + equal
                sequence, after = after, sequence
                n = behind
        for i in range(widths[row]):
            x = scores[row, i]
            if x > pivot:
                keep[row, i] = True
            elif x == pivot and left > 0:
                keep[row, i] = True
                left -= 1


def rank_cycles(n: NDArray[np.int64], k: NDArray[np.int64], lanes: int, seed: int = 0) -> NDArray[np.int64]:
    """Cycles for rows of distinct scores, by the ranks of random pivots alone: nothing is moved.

    The pivot's rank is uniform, as of scores in random order. A row with k >= n takes no cycle.

    Args:
        n, k: (r,), k at least 1.
    """
    out = np.zeros(len(n), np.int64)
    _ranks(n.astype(np.int64), k.astype(np.int64), lanes, seed, out)
    return out


@parallel
def _ranks(n: NDArray[np.int64], k: NDArray[np.int64], lanes: int, seed: int, out: NDArray[np.int64]) -> None:
    for row in prange(len(n)):
        left, target = n[row], k[row] - 1
        if target >= left - 1:
            continue
        state = _mixed(seed, row)
        while True:
            out[row] += (left + lanes - 1) // lanes + 3
            state = _stepped(state)
            rank = (state * left) >> 32
            if rank > target:
                left = rank
            elif rank == target:
                break
            else:
                target -= rank + 1
                left -= rank + 1


def sorted_cycles(
    scores: NDArray[np.float32], k: int, lanes: int, draws: int, seed: int = 0
) -> NDArray[np.int64]:
    """Cycles of ``draws`` runs on real scores with random pivots, on the sorted scores: equal scores stay together.

    Args:
        scores: (n,).
        k: from 1 to n - 1 to cost anything.
    """
    _possible(len(scores), k, lanes)
    out = np.zeros(draws, np.int64)
    if k < len(scores):
        falling = np.ascontiguousarray(-np.sort(-np.asarray(scores, np.float32)))
        _sorted(falling, k, lanes, seed, out)
    return out


@jit
def _sorted(falling: NDArray[np.float32], k: int, lanes: int, seed: int, out: NDArray[np.int64]) -> None:
    for draw in range(len(out)):
        state, low, high, place = _mixed(seed, draw), 0, len(falling), k - 1
        while True:
            out[draw] += (high - low + lanes - 1) // lanes + 3
            state = _stepped(state)
            at = low + ((state * (high - low)) >> 32)
            start = end = at
            while start > low and falling[start - 1] == falling[at]:
                start -= 1
            while end < high and falling[end] == falling[at]:
                end += 1
            if place < start:
                high = start
            elif place < end:
                break
            else:
                low = end


@lru_cache(maxsize=8)
def mean_cycles(most: int, lanes: int) -> NDArray[np.float64]:
    """The mean of :func:`rank_cycles` for every n and k up to ``most``, by recursion and not by drawing.

    Returns:
        (most + 1, most + 1), at [n, k]; 0 where k is 0 or at least n.
    """
    out = np.zeros((most + 1, most + 1))
    _means(lanes, out)
    out.setflags(write=False)
    return out


@jit
def _means(lanes: int, out: NDArray[np.float64]) -> None:
    """E[n, t] = cost(n) + (sum of E[r, t] over ranks r > t, sum of E[n - 1 - r, t - 1 - r] over r < t) / n, t = k - 1."""
    most = len(out) - 1
    larger, smaller = np.zeros(most + 1), np.zeros(most + 1)  # running sums, at t, for the current n
    before = np.zeros(most + 1)
    for n in range(1, most + 1):
        for t in range(n - 1, 0, -1):
            smaller[t] = smaller[t - 1] + before[t - 1]
        smaller[0] = 0.0
        cost = (n + lanes - 1) // lanes + 3
        for t in range(n):
            if t < n - 1:
                larger[t] += before[t]
            value = cost + (larger[t] + smaller[t]) / n
            if t < n - 1:
                out[n, t + 1] = value
            out[0, t] = value  # kept here until the row is done
        for t in range(n):
            before[t] = out[0, t]
            out[0, t] = 0.0
