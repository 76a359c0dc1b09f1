"""SpArch's schedule executed: with numbers in NumPy, and cycle by cycle. See :mod:`sparsam.hardware.sparch`.

Z. Zhang, H. Wang, S. Han, W. J. Dally, HPCA 2020.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware.jit import jit
from sparsam.hardware.machine import Machine
from sparsam.hardware.matrix_market import Sparse
from sparsam.hardware.sparch_count import Ints, Run, element_sizes, memory_rate, pair, run_checked
from sparsam.hardware.sparch_merge import tick_tree


def _expanded(a: Any, b: Any, rows: Ints, at: Ints, lengths: Ints) -> tuple[Ints, NDArray[Any]]:
    """Keys and values of the products of some elements of A, one row of B after the other."""
    starts = b.indptr[a.indices[at]]
    where = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))
    keys = np.repeat(rows, lengths) * np.int64(b.shape[1]) + b.indices[where]
    return keys, np.repeat(a.data[at], lengths) * b.data[where]


def _fits(a: Any, b: Any) -> None:
    """Refuse integers whose sums may not fit 64 bits."""
    if a.dtype.kind != "i" or b.dtype.kind != "i" or not a.nnz or not b.nnz:
        return
    most = [max(abs(int(x.data.min())), abs(int(x.data.max()))) for x in (a, b)]
    terms = int(np.diff(a.indptr).max())
    if most[0] * most[1] * terms > np.iinfo(np.int64).max:
        raise Refused(
            f"sums of {terms} products of {most[0]} and {most[1]} may not fit 64 bits.",
            code="counter-overflow",
        )


def _matrix(keys: Ints, values: NDArray[Any], shape: tuple[int, int]) -> Any:
    rows, columns = keys // shape[1], keys % shape[1]
    return scipy.sparse.csr_array(
        (values, columns, np.searchsorted(rows, np.arange(shape[0] + 1))), shape=shape
    )


def _streams(
    a: Any, b: Any, found: Run, number: int, results: dict[int, tuple[Ints, NDArray[Any]]]
) -> Iterator[tuple[Ints, NDArray[Any], Ints]]:
    """Each input of a round: keys, values, and the elements of A behind it, none for a stored one, which is used up."""
    n = len(found.columns.sizes)
    for one in found.inputs[number]:
        if one < n:
            at = np.flatnonzero(found.columns.leaf == one)
            yield *_expanded(a, b, found.columns.rows[at], at, found.columns.lengths[at]), at
        else:
            yield *results.pop(one), np.zeros(0, np.int64)


def replay(a: Sparse, b: Sparse, machine: Machine) -> Any:
    """Execute the schedule with numbers, in NumPy alone: C as compressed rows; sums that are zero stay.

    Integers are exact. Each element of a partial matrix is made once, and each stored matrix is read once.

    Raises:
        Refused: those of :func:`run`; ``counter-overflow`` for integers whose sums may not fit 64 bits; ``replay-differs`` if a
            round's size is not the one counted.
    """
    a, b = pair(a, b, machine)
    _fits(a, b)
    found = run_checked(a, b, machine.varied(pipelined=True))
    results: dict[int, tuple[Ints, NDArray[Any]]] = {}
    n = len(found.columns.sizes)
    keys, values = np.zeros(0, np.int64), np.zeros(0, np.result_type(a.dtype, b.dtype))
    for number in range(len(found.inputs)):
        parts = list(_streams(a, b, found, number, results))
        keys, values = np.concatenate([one[0] for one in parts]), np.concatenate([one[1] for one in parts])
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], values[order]
        starts = (
            np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else np.zeros(0, np.int64)
        )
        keys, values = keys[starts], np.add.reduceat(values, starts) if len(starts) else values
        if len(keys) != found.entering[number, -1]:
            raise Refused(
                f"round {number} gives {len(keys)} elements; {found.entering[number, -1]} were counted.",
                code="replay-differs",
            )
        results[n + number] = (keys, values)
    if len(results) > 1:
        raise Refused(f"{len(results) - 1} stored matrices were never read.", code="replay-differs")
    return _matrix(keys, values, (a.shape[0], b.shape[1]))


@dataclass(frozen=True)
class TickedRun:
    """A product, cycle by cycle.

    Args:
        result: C.
        cycles: (rounds,) with memory.
        tree: (rounds,) until the tree is empty.
        memory: (rounds,) until the busiest channel is done.
        counted: what the model says of the same.
        most: largest number of elements that a merger passed on in a cycle.
    """

    result: Any
    cycles: Ints
    tree: Ints
    memory: Ints
    counted: Run
    most: int


def tick(a: Sparse, b: Sparse, machine: Machine) -> TickedRun:
    """Run the merge tree and the memory's channels cycle by cycle; for small matrices, to hold the model against.

    Requests go to the channels in the order of use, as many under way as there are fetchers for rows of B and as many again for
    stored matrices; a block of the interleave keeps its channel busy for its bytes, and is there after the memory's latency.
    Writes and A are spread evenly and count into each channel's time.

    Raises:
        Refused: as :func:`replay`; ``sparch-stuck``.
    """
    a, b = pair(a, b, machine)
    _fits(a, b)
    counted = run_checked(a, b, machine.varied(pipelined=True))
    ways, channels = machine.whole("ways"), machine.whole("channels")
    block, (_, element, triple) = machine.whole("interleave_bytes"), element_sizes(machine)
    line, a_block = (
        machine.whole("line_elements"),
        max(1, machine.whole("interleave_bytes") // element_sizes(machine)[2]),
    )
    takes = channels * block / memory_rate(machine)  # cycles of a channel for a block
    hits = np.zeros(a.nnz, np.int64)
    hits[counted.trace] = counted.hits
    results: dict[int, tuple[Ints, NDArray[Any]]] = {}
    place: dict[int, int] = {}
    end = int(b.nnz) * element  # stored matrices lie behind B, one after the other
    kind = np.result_type(a.dtype, b.dtype)
    cycles, tree, memory, most = [], [], [], 0
    keys, values = np.zeros(0, np.int64), np.zeros(0, kind)
    for number, inputs in enumerate(counted.inputs):
        parts = list(_streams(a, b, counted, number, results))
        wanted = np.sort(np.concatenate([one[2] for one in parts]))  # row by row
        missing = -(-counted.columns.lengths[wanted] // line) - hits[wanted]
        first = (b.indptr[a.indices[wanted]] + line * hits[wanted]) * element
        moved = np.maximum(counted.columns.lengths[wanted] - line * hits[wanted], 0) * element
        if machine["whole_lines"]:
            moved = missing * line * element
        stored = [place[one] for one, part in zip(inputs, parts, strict=True) if not len(part[2])]
        pieces = [-(-len(part[0]) // a_block) for part in parts if not len(part[2])]
        ready, back, free = _arrivals(
            first, missing, moved, line * element, np.array(stored, np.int64), np.array(pieces, np.int64), block,
            channels, takes, float(machine.whole("dram_latency")), machine.whole("fetchers"),
        )  # fmt: skip
        when = np.zeros(a.nnz, np.int64)
        when[wanted] = ready
        lengths, times, segments, seen = [], [], [0], 0
        for part in parts:
            if len(part[2]):
                some = part[2][counted.columns.lengths[part[2]] > 0]
                lengths.append(counted.columns.lengths[some])
                times.append(when[some])
            else:
                piece = np.full(-(-len(part[0]) // a_block), a_block, np.int64)
                piece[-1:] = len(part[0]) - a_block * (len(piece) - 1)
                lengths.append(piece)
                times.append(back[seen : seen + len(piece)])
                seen += len(piece)
            segments.append(segments[-1] + len(lengths[-1]))
        empty = ways - len(parts)
        starts = np.cumsum([0] + [len(part[0]) for part in parts] + [0] * empty)
        segments += [segments[-1]] * empty
        made = np.array([len(part[2]) > 0 for part in parts] + [True] * empty)
        done = tick_tree(
            np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]).astype(kind),
            starts, np.array(segments, np.int64),
            np.concatenate(lengths), np.concatenate(times), made, width=machine.whole("merge_width"),
            loads=max(1, int(memory_rate(machine)) // triple), depth=machine.whole("fifo_depth"),
        )  # fmt: skip
        keys, values, most = done.keys, done.values, max(most, done.most)
        even = (counted.a_bytes + counted.write_bytes + counted.result_bytes)[number] / memory_rate(machine)
        tree.append(done.cycles)
        memory.append(math.ceil(free + even))
        cycles.append(max(tree[-1], memory[-1]) + counted.fill)
        name = len(counted.columns.sizes) + number
        results[name], place[name] = (keys, values), end
        end += -(-len(keys) * triple // block) * block
    shape = (a.shape[0], b.shape[1])
    return TickedRun(
        _matrix(keys, values, shape), np.array(cycles, np.int64), np.array(tree, np.int64), np.array(memory, np.int64),
        counted, most,
    )  # fmt: skip


@jit
def _arrivals(
    first: Ints, missing: Ints, moved: Ints, line_bytes: int, stored: Ints, pieces: Ints, block: int, channels: int,
    takes: float, latency: float, fetchers: int,
) -> tuple[Ints, Ints, float]:  # fmt: skip
    """When each element's row is there, and each block of stored matrices; and when the busiest channel is free."""
    free = np.zeros(channels)
    ready, back = np.zeros(len(first), np.int64), np.zeros(pieces.sum(), np.int64)
    rows_under_way, blocks_under_way = np.zeros(fetchers), np.zeros(fetchers)
    lines, blocks, e, latest = 0, 0, 0, 0.0
    piece, turn = np.zeros(len(pieces), np.int64), 0
    begin = np.zeros(len(pieces), np.int64)
    for s in range(1, len(pieces)):
        begin[s] = begin[s - 1] + pieces[s - 1]
    while e < len(first) or blocks < len(back):
        next_row, next_block = rows_under_way[lines % fetchers], blocks_under_way[blocks % fetchers]
        if e < len(first) and (blocks >= len(back) or next_row <= next_block):
            for number in range(missing[e]):
                issued, arrived = rows_under_way[lines % fetchers], 0.0
                for byte in range(0, min(line_bytes, moved[e] - number * line_bytes), block):
                    channel = (first[e] + number * line_bytes + byte) // block % channels
                    free[channel] = max(free[channel], issued) + takes
                    arrived = max(arrived, free[channel] + latency)
                rows_under_way[lines % fetchers] = arrived
                lines += 1
                latest = max(latest, arrived)
            ready[e] = int(np.ceil(latest))
            e += 1
        else:
            while piece[turn] == pieces[turn]:
                turn = (turn + 1) % len(pieces)
            channel = (stored[turn] // block + piece[turn]) % channels
            free[channel] = max(free[channel], next_block) + takes
            blocks_under_way[blocks % fetchers] = free[channel] + latency
            back[begin[turn] + piece[turn]] = int(np.ceil(free[channel] + latency))
            piece[turn] += 1
            blocks += 1
            turn = (turn + 1) % len(pieces)
    return ready, back, free.max()


def reference_entering(a: Sparse, b: Sparse, machine: Machine) -> Ints:
    """What enters each layer of the tree in each round, and leaves the last, by merging sets of keys two by two; for tests."""
    a, b = pair(a, b, machine)
    found = run_checked(a, b, machine.varied(pipelined=True))
    results: dict[int, tuple[Ints, NDArray[Any]]] = {}
    entering = np.zeros((len(found.inputs), machine.whole("ways").bit_length()), np.int64)
    for number in range(len(found.inputs)):
        streams = [one[0] for one in _streams(a, b, found, number, results)]
        streams += [np.zeros(0, np.int64)] * (machine.whole("ways") - len(streams))
        for layer in range(entering.shape[1]):
            entering[number, layer] = sum(len(one) for one in streams)
            if len(streams) > 1:
                streams = [
                    np.union1d(one, other) for one, other in zip(streams[::2], streams[1::2], strict=True)
                ]
        results[len(found.columns.sizes) + number] = streams[0], streams[0]
    return entering
