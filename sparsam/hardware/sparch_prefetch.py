"""SpArch's row prefetcher: which lines of B's rows are on the chip when they are wanted.

Z. Zhang, H. Wang, S. Han, W. J. Dally, HPCA 2020. A is condensed, so elements of a column want different rows of B. The
elements of A that wait in the look-ahead queue tell which rows are wanted next; when the buffer is full, the row whose next use
is farthest goes, line by line.

The rule, exactly. An access wants all lines of one row. Those on the chip are hits, the others are fetched. Then the buffer
keeps the ``capacity`` lines that stand first in this order: rows whose next use the queue shows, the nearest first; then the
others, the one used last first. Of a row the first lines stay longest. A line that is not kept is used as it streams by. With a
queue of the whole trace that is Belady's optimal choice, for fetches that may pass by; with a queue of 1, which shows the
present use alone, it is least recently used.
"""

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware.jit import jit

POLICIES = ("look-ahead", "lru", "fifo")
Ints = NDArray[np.int64]


def next_uses(trace: Ints) -> Ints:
    """(t,) position of each access's next access to the same row; t where there is none."""
    found = np.full(len(trace), len(trace), np.int64)
    order = np.argsort(trace, kind="stable")
    same = trace[order][1:] == trace[order][:-1]
    found[order[:-1][same]] = order[1:][same]
    return found


def hit_lines(
    trace: Ints, lines: Ints, capacity: int, *, look_ahead: int = 8192, policy: str = "look-ahead"
) -> Ints:
    """How many lines of its row each access finds on the chip; they are the row's first.

    Args:
        trace: (t,) rows in the order they are wanted.
        lines: (rows,) how many lines each row has.
        capacity: lines that the buffer holds.
        look_ahead: elements of A that are seen, the present one included. Only ``look-ahead`` uses it.
        policy: ``look-ahead``; ``lru`` (row used longest ago goes, its last line first), ``fifo`` (row that came first goes).

    Returns:
        (t,) hits.

    Raises:
        Refused: ``machine-parameter``.
    """
    if policy not in POLICIES or capacity < 1 or look_ahead < 1:
        raise Refused(
            f"a row buffer of {capacity} lines, look-ahead {look_ahead}, policy {policy!r}; at least one line and one element, "
            f"and one of {', '.join(POLICIES)}.",
            code="machine-parameter",
        )
    trace, lines = np.ascontiguousarray(trace, np.int64), np.ascontiguousarray(lines, np.int64)
    seen = 1 if policy == "lru" else min(look_ahead, len(trace) + 1)
    found = np.zeros(len(trace), np.int64)
    if len(trace):
        _buffer(trace, lines, next_uses(trace), capacity, seen, policy == "fifo", found)
    return found


def reference_hit_lines(
    trace: Ints, lines: Ints, capacity: int, *, look_ahead: int = 8192, policy: str = "look-ahead"
) -> Ints:
    """:func:`hit_lines` by the rule as it is written: all rows sorted at each access. For tests."""
    held: dict[int, int] = {}
    last: dict[int, int] = {}
    found = np.zeros(len(trace), np.int64)
    for t, row in enumerate(int(x) for x in trace):
        found[t] = held.get(row, 0)
        if policy != "fifo" or row not in held:
            last[row] = t
        held[row] = int(lines[row])
        shown = trace[t + 1 : t + look_ahead].tolist() if policy == "look-ahead" else []

        def rank(one: int, shown: list[int] = shown) -> tuple[int, int]:
            return (0, shown.index(one)) if one in shown else (1, -last[one])

        room, kept = capacity, {}
        for one in sorted(held, key=rank):
            if stays := min(held[one], room):
                kept[one] = stays
                room -= stays
        held = kept
    return found


@jit
def _buffer(
    trace: Ints, lines: Ints, following: Ints, capacity: int, seen: int, fifo: bool, found: Ints
) -> None:
    """Rows with a known next use in a heap (the farthest on top, outdated entries left in), the others in a list by recency."""
    many, rows = len(trace), len(lines)
    held = np.zeros(rows, np.int64)
    coming = np.zeros(rows, np.int64)  # next use of a row that is held
    before = np.full(
        rows + 1, rows, np.int64
    )  # the list, closed by the entry `rows`: its follower is the oldest
    after = np.full(rows + 1, rows, np.int64)
    listed = np.zeros(rows, np.bool_)
    heap = np.empty(2 * many + 2, np.int64)
    size, total = 0, 0
    for t in range(many):
        enters = t + seen - 1
        if not fifo and t < enters < many:
            row = trace[enters]
            if held[row] > 0 and listed[row]:
                after[before[row]], before[after[row]] = after[row], before[row]
                listed[row] = False
                heap[size] = enters
                size = _raised(heap, size)
        row = trace[t]
        found[t] = held[row]
        total += lines[row] - held[row]
        if not fifo or held[row] == 0:
            if listed[row]:
                after[before[row]], before[after[row]] = after[row], before[row]
                listed[row] = False
            coming[row] = following[t]
            if not fifo and following[t] <= enters and following[t] < many:
                heap[size] = following[t]
                size = _raised(heap, size)
            elif lines[row] > 0:
                before[row], after[row] = before[rows], rows
                after[before[rows]] = row
                before[rows] = row
                listed[row] = True
        held[row] = lines[row]
        while total > capacity:
            row = after[rows]
            if row == rows:
                row = trace[heap[0]]
                if heap[0] <= t or listed[row] or held[row] == 0 or coming[row] != heap[0]:
                    size = _lowered(heap, size)
                    continue
            goes = min(held[row], total - capacity)
            held[row] -= goes
            total -= goes
            if held[row] == 0 and listed[row]:
                after[before[row]], before[after[row]] = after[row], before[row]
                listed[row] = False


@jit
def _raised(heap: Ints, at: int) -> int:
    """Move the entry at the end to its place; the new size."""
    size = at + 1
    while at > 0 and heap[(at - 1) // 2] < heap[at]:
        heap[(at - 1) // 2], heap[at] = heap[at], heap[(at - 1) // 2]
        at = (at - 1) // 2
    return size


@jit
def _lowered(heap: Ints, size: int) -> int:
    """Take the largest away; the new size."""
    size -= 1
    heap[0] = heap[size]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            return size
        if child + 1 < size and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= heap[at]:
            return size
        heap[child], heap[at] = heap[at], heap[child]
        at = child
