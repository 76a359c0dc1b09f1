"""SpArch's merger: the comparator array, adding and closing gaps, the order of merging, and the merge tree cycle by cycle.

Z. Zhang, H. Wang, S. Han, W. J. Dally, HPCA 2020. Elements are merged by their key, ``row * columns + column``, in 64 bits.

A comparator array takes a window of each of two sorted streams and gives the smallest of both in one cycle. Cell (i, j)
compares ``a[j] > b[i]``. The cells on the border between the two answers form a staircase with one cell on each anti-diagonal,
and the cell on anti-diagonal t holds output t. The hierarchical array first compares the ends of chunks, which finds the blocks
that the staircase runs through, at most ``2 * chunks - 1``, and compares elements in these alone.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware.jit import jit

Ints = NDArray[np.int64]
ORDERS = ("huffman", "queue", "running")
LAST = np.iinfo(np.int64).max
"""Stands behind the end of a stream; no key is as large."""


# One merger


def comparator_array(a: Ints, b: Ints) -> tuple[Ints, NDArray[np.bool_], int]:
    """The flat array: the outputs of two windows of equal width until one is used up, and from which side each is.

    Args:
        a, b: (n,) sorted keys, :data:`LAST` behind the end. Equal keys leave ``a`` first.

    Returns:
        n to 2n - 1 outputs, of which the first n leave in this cycle; as many booleans, True where from ``a``; and the number
        of comparators.
    """
    n = len(a)
    greater = a[None, :] > b[:, None]  # (n of b, n of a)
    on = _staircase(greater, np.ones((n, n), np.bool_))
    i, j = np.nonzero(on)
    order = np.argsort(i + j)
    i, j = i[order], j[order]
    from_a = ~greater[i, j]
    return np.where(from_a, a[j], b[i]), from_a, n * n


def hierarchical_array(a: Ints, b: Ints, chunk: int) -> tuple[Ints, NDArray[np.bool_], int]:
    """The same from chunks: the ends of chunks are compared first, then the elements of the blocks on the staircase.

    Args:
        chunk: elements of a chunk; divides the window.

    Returns:
        As :func:`comparator_array`; comparators are those that are built: chunks² and the most blocks there can be.
    """
    n = len(a)
    chunks = n // chunk
    ends = a[chunk - 1 :: chunk][None, :] > b[chunk - 1 :: chunk][:, None]  # the array on top
    inside = np.zeros((n, n), np.bool_)
    row, column, blocks = 0, 0, 0
    while row < chunks and column < chunks:
        inside[row * chunk : (row + 1) * chunk, column * chunk : (column + 1) * chunk] = True
        blocks += 1
        if ends[row, column]:  # the chunk that ends first is left behind
            row += 1
        else:
            column += 1
    assert blocks <= 2 * chunks - 1
    greater = np.zeros((n, n), np.bool_)
    greater[inside] = (a[None, :] > b[:, None])[inside]
    i, j = np.nonzero(_staircase(greater, inside))
    order = np.argsort(i + j)
    i, j = i[order], j[order]
    from_a = ~greater[i, j]
    return np.where(from_a, a[j], b[i]), from_a, chunks**2 + (2 * chunks - 1) * chunk**2


def _staircase(greater: NDArray[np.bool_], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells on the border: the cell to the left lets its ``a`` go first, the one above its ``b``.

    A neighbour outside the array, or in a block that the staircase does not enter, says yes.
    """
    left = np.ones_like(greater)
    left[:, 1:] = ~greater[:, :-1] | ~inside[:, :-1]
    above = np.ones_like(greater)
    above[1:] = greater[:-1] | ~inside[:-1]
    return left & above & inside


@jit
def merge_step(
    a: Ints, a_from: int, a_ends: bool, b: Ints, b_from: int, b_ends: bool, width: int, out: Ints
) -> tuple[int, int]:
    """One cycle of a merger as the tree uses it: at most ``width`` outputs, and only what is certain.

    Args:
        a, b: sorted keys; those before ``a_from`` and ``b_from`` have gone.
        a_ends, b_ends: whether anything may follow behind the last key.
        out: (width,) is filled.

    Returns:
        How many were taken from each side. Their sum is ``width``, or all that is certain if that is less.
    """
    i, j, n = a_from, b_from, 0
    while n < width:
        if i < len(a) and j < len(b):
            first = a[i] <= b[j]
        elif i < len(a) and b_ends:
            first = True
        elif j < len(b) and a_ends:
            first = False
        else:
            break
        out[n] = a[i] if first else b[j]
        i, j = (i + 1, j) if first else (i, j + 1)
        n += 1
    return i - a_from, j - b_from


def add_neighbours(keys: Ints, values: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """The adder stage: of two neighbours with equal keys the second takes the sum, the first becomes a gap.

    Returns:
        (n,) True where an element stays, and (n,) values.
    """
    same = np.zeros(len(keys), np.bool_)
    same[:-1] = keys[:-1] == keys[1:]
    values = values.copy()
    values[1:][same[:-1]] += values[:-1][same[:-1]]
    return ~same, values


def eliminate_gaps(stays: NDArray[np.bool_], what: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """The zero eliminator: the gaps before each element are counted, then log2(n) layers each shift by a power of two or not.

    Args:
        stays: (n,) False for gaps; n a power of two.
        what: (n,) keys or values.

    Returns:
        (n,) the elements that stay in front, zeros behind, and their number.
    """
    n = len(stays)
    shift = np.where(stays, np.cumsum(~stays), 0)
    what = np.where(stays, what, 0)
    for layer in range(max(n - 1, 0).bit_length()):
        moves = np.flatnonzero(shift >> layer & 1)
        to = moves - (1 << layer)
        carried, gone = what[moves], shift[moves]
        what[moves], shift[moves] = 0, 0
        if what[to].any() or shift[to].any():
            raise AssertionError("two elements met in the zero eliminator")
        what[to], shift[to] = carried, gone
    return what, int(stays.sum())


# The order of merging


def first_merge(streams: int, ways: int) -> int:
    """Streams of the first round, so that every later one is full: (n - 2) mod (ways - 1) + 2; 1 for one stream."""
    return (streams - 2) % (ways - 1) + 2 if streams > 1 else streams


def round_count(streams: int, ways: int) -> int:
    """Rounds until one stream is left; a single stream takes one."""
    return 1 + -(-(streams - first_merge(streams, ways)) // (ways - 1)) if streams > 1 else streams


def merge_order(
    sizes: Sequence[int], ways: int, order: str, merged: Callable[[list[int]], int] | None = None
) -> list[list[int]]:
    """Which streams are merged in each round.

    Args:
        sizes: of the n partial matrices.
        ways: streams that the tree merges at once.
        order: ``huffman``: the smallest; ``queue``: in order, results at the end of the queue; ``running``: in order, the
            result of the round before always among them.
        merged: size of a round's result, told its inputs as soon as the round is decided; None for the sum of their sizes.

    Returns:
        Inputs of each round: below n a partial matrix, n + r the result of round r.

    Raises:
        Refused: ``machine-parameter``.
    """
    if order not in ORDERS or ways < 2:
        raise Refused(
            f"{ways} ways in order {order!r}; at least 2, and one of {', '.join(ORDERS)}.",
            code="machine-parameter",
        )
    n, known = len(sizes), [int(size) for size in sizes]
    line = [(known[i] if order == "huffman" else i, i) for i in range(n)]
    if order == "huffman":
        heapq.heapify(line)
    rounds: list[list[int]] = []
    take, begin = first_merge(n, ways), 0
    while len(line) - begin > 1 or (n == 1 and not rounds):
        if order == "huffman":
            inputs = [heapq.heappop(line)[1] for _ in range(take)]
        else:
            inputs = [one for _, one in line[begin : begin + take]]
            begin += take
        rounds.append(inputs)
        known.append(sum(known[i] for i in inputs) if merged is None else merged(inputs))
        made = (known[-1], n + len(rounds) - 1)
        if order == "huffman":
            heapq.heappush(line, made)
        elif order == "queue":
            line.append(made)
        else:
            begin -= 1
            line[begin] = made
        take = ways
    return rounds


# The tree, cycle by cycle


@dataclass(frozen=True)
class Ticked:
    """A round of merging, cycle by cycle.

    Args:
        cycles: until the last element has left the root.
        keys, values: what left it, in order.
        most: the largest number of elements that any level's merger passed on in one cycle.
        busy: (levels,) cycles in which each level's merger passed something on.
    """

    cycles: int
    keys: Ints
    values: NDArray[Any]
    most: int
    busy: Ints


def tick_tree(
    keys: Ints,
    values: NDArray[Any],
    starts: Ints,
    segments: Ints,
    lengths: Ints,
    ready: Ints,
    made: NDArray[np.bool_],
    *,
    width: int = 16,
    loads: int = 8,
    depth: int = 1024,
    limit: int = 1 << 40,
) -> Ticked:
    """The merge tree, ticked: a merger a level, FIFOs between, multipliers and a loader in front.

    Each cycle, from the root down: up to ``width`` elements leave the root; each level's one merger serves the node that can
    pass on the most (the first of equals); then the multipliers make up to ``width`` products of one row of B for the stream
    with the most room, and the loader brings up to ``loads`` elements of a stored partial matrix to one. Sums are made where
    two streams meet; a node holds its last output back until it knows that no equal key follows.

    Args:
        keys, values: (e,) elements of all streams, one stream after the other, sorted within.
        starts: (s + 1,) where each stream begins; s is a power of two (empty streams fill up).
        segments: (s + 1,) where each stream's segments begin.
        lengths, ready: (segments,) elements of each row of B or memory access, and the cycle at which they are there.
        made: (s,) True for products, False for what was stored.
        depth: elements that the FIFOs of one level hold together.
        limit: cycles at which to give up.

    Raises:
        Refused: ``machine-parameter`` for FIFOs too small to hold an element a node, ``sparch-stuck`` at the limit.
    """
    streams = len(starts) - 1
    if streams & (streams - 1) or depth < streams or width < 1 or loads < 1:
        raise Refused(
            f"a tree of {streams} ways with FIFOs of {depth} elements a level, {width} elements a cycle and {loads} loaded; "
            "ways are a power of two, and each node's FIFO holds at least one element.",
            code="machine-parameter",
        )
    out_keys, out_values = np.empty_like(keys), np.empty_like(values)
    levels = streams.bit_length() - 1
    busy = np.zeros(levels, np.int64)
    cycles, count, most = _tick(
        keys, values, starts, segments, lengths, ready, made, width, loads, depth, limit,
        out_keys, out_values, busy,
    )  # fmt: skip
    if cycles < 0:
        raise Refused(f"a merge round has not ended after {limit} cycles.", code="sparch-stuck")
    return Ticked(cycles, out_keys[:count], out_values[:count], most, busy)


@jit
def _tick(
    keys: Ints, values: NDArray[Any], starts: Ints, segments: Ints, lengths: Ints, ready: Ints,
    made: NDArray[np.bool_], width: int, loads: int, depth: int, limit: int,
    out_keys: Ints, out_values: NDArray[Any], busy: Ints,
) -> tuple[int, int, int]:  # fmt: skip
    """Nodes are numbered level by level, leaves first; node i of level l has its FIFO at ``base[l] + i``."""
    streams = len(starts) - 1
    levels = len(busy)
    base = np.zeros(levels + 2, np.int64)
    for level in range(levels + 1):
        base[level + 1] = base[level] + (streams >> level)
    nodes = base[levels + 1]
    room = np.empty(nodes, np.int64)
    for level in range(levels + 1):
        room[base[level] : base[level + 1]] = depth // (streams >> level)
    fifo_keys = np.zeros((nodes, depth), np.int64)
    fifo_values = np.zeros((nodes, depth), values.dtype)
    head = np.zeros(nodes, np.int64)
    held = np.zeros(nodes, np.int64)
    ended = np.zeros(nodes, np.bool_)  # nothing more will be put into the FIFO
    waits = np.zeros(nodes, np.bool_)  # the node's last output is held back
    wait_keys = np.zeros(nodes, np.int64)
    wait_values = np.zeros(nodes, values.dtype)
    at, segment, used = starts[:-1].copy(), segments[:-1].copy(), np.zeros(streams, np.int64)
    for s in range(streams):
        ended[s] = at[s] == starts[s + 1]
    root, count, most, cycle = nodes - 1, 0, 0, 0
    while True:
        take = min(width, held[root])
        for _ in range(take):
            out_keys[count] = fifo_keys[root, head[root]]
            out_values[count] = fifo_values[root, head[root]]
            head[root] = (head[root] + 1) % room[root]
            count += 1
        held[root] -= take
        if ended[root] and held[root] == 0:
            return cycle, count, most
        if cycle >= limit:
            return -1, 0, 0
        cycle += 1
        for level in range(levels, 0, -1):
            best, could = -1, 0
            for i in range(streams >> level):
                node, left = base[level] + i, base[level - 1] + 2 * i
                right = left + 1
                if ended[node]:
                    continue
                if (held[left] == 0 and not ended[left]) or (held[right] == 0 and not ended[right]):
                    continue
                all_in = ended[left] and ended[right]
                if all_in and held[left] + held[right] == 0:
                    able = 1  # hands on what it held back, or says that it has ended
                else:
                    able = min(width, held[left] + held[right])
                if waits[node] and held[node] == room[node]:
                    continue
                able = min(able, room[node] - held[node] + 1)
                if able > could:
                    best, could = node, able
            if best < 0:
                continue
            left = base[level - 1] + 2 * (best - base[level])
            right = left + 1
            passed = 0
            while passed < width:
                if held[left] > 0 and held[right] > 0:
                    child = left if fifo_keys[left, head[left]] <= fifo_keys[right, head[right]] else right
                elif held[left] > 0 and ended[right]:
                    child = left
                elif held[right] > 0 and ended[left]:
                    child = right
                else:
                    break
                key, value = fifo_keys[child, head[child]], fifo_values[child, head[child]]
                if waits[best] and wait_keys[best] == key:
                    wait_values[best] += value
                else:
                    if waits[best]:
                        if held[best] == room[best]:
                            break
                        tail = (head[best] + held[best]) % room[best]
                        fifo_keys[best, tail], fifo_values[best, tail] = wait_keys[best], wait_values[best]
                        held[best] += 1
                    waits[best], wait_keys[best], wait_values[best] = True, key, value
                head[child] = (head[child] + 1) % room[child]
                held[child] -= 1
                passed += 1
            if ended[left] and ended[right] and held[left] + held[right] == 0 and passed < width:
                if waits[best] and held[best] < room[best]:
                    tail = (head[best] + held[best]) % room[best]
                    fifo_keys[best, tail], fifo_values[best, tail] = wait_keys[best], wait_values[best]
                    held[best] += 1
                    waits[best] = False
                if not waits[best]:
                    ended[best] = True
            if passed:
                busy[level - 1] += 1
                most = max(most, passed)
        for kind in range(2):
            best, could = -1, 0
            for s in range(streams):
                if made[s] == (kind == 0) and at[s] < starts[s + 1] and ready[segment[s]] <= cycle:
                    able = min(room[s] - held[s], starts[s + 1] - at[s])
                    if able > could:
                        best, could = s, able
            if best < 0:
                continue
            left_over = width if kind == 0 else loads
            while left_over > 0 and at[best] < starts[best + 1] and held[best] < room[best]:
                if ready[segment[best]] > cycle:
                    break
                tail = (head[best] + held[best]) % room[best]
                fifo_keys[best, tail], fifo_values[best, tail] = keys[at[best]], values[at[best]]
                held[best] += 1
                at[best] += 1
                used[best] += 1
                left_over -= 1
                if used[best] == lengths[segment[best]]:
                    segment[best] += 1
                    used[best] = 0
                    if kind == 0:
                        break  # the multipliers take one row of B a cycle
            if at[best] == starts[best + 1]:
                ended[best] = True
