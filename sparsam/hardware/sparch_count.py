"""SpArch: what a product takes, counted exactly round by round. See :mod:`sparsam.hardware.sparch`.

Z. Zhang, H. Wang, S. Han, W. J. Dally, HPCA 2020.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware.jit import jit
from sparsam.hardware.machine import Machine
from sparsam.hardware.matrix_market import Sparse, canonical
from sparsam.hardware.sparch_merge import ORDERS, first_merge, merge_order
from sparsam.hardware.sparch_prefetch import hit_lines

Ints = NDArray[np.int64]
PREFETCH = ("look-ahead", "lru", "fifo", "none")
ARITHMETIC = {8: ("mul_fp64", "add_fp64"), 2: ("mul_bf16", "add_fp32"), 1: ("mul_int8", "add_int32")}
"""Bytes of a number, and the events of its arithmetic."""


def check(machine: Machine) -> None:
    """Refuse ``machine-parameter`` what no such machine can be."""
    width = machine.whole("merge_width", 2, 1024, power_of_two=True)
    machine.whole("merge_chunk", 1, width, power_of_two=True)
    ways = machine.whole("ways", 2, 4096, power_of_two=True)
    machine.whole("fifo_depth", ways, 1 << 24)
    for name in (
        "multipliers", "stage_cycles", "look_ahead", "buffer_lines", "line_elements", "index_bytes",
        "interleave_bytes", "channels", "fetchers", "rival_macs",
    ):  # fmt: skip
        machine.whole(name)
    machine.whole("dram_latency", 0)
    for name in ("clock_mhz", "dram_gb_per_s", "dram_pj_per_bit"):
        machine.number(name)
    for name, known in (
        ("order", ORDERS),
        ("prefetch", PREFETCH),
        ("size_estimate", ("products", "elements")),
        ("value_bytes", tuple(ARITHMETIC)),
        ("pipelined", (False, True)),
        ("condense", (False, True)),
        ("whole_lines", (False, True)),
    ):
        value = machine[name]
        if not any(value == one and type(value) is type(one) for one in known):
            raise Refused(
                f"{name} of machine {machine.name} is {value!r}; it must be one of {', '.join(map(str, known))}.",
                code="machine-parameter",
            )


# Condensing


def condensed(a: Any) -> Ints:
    """(e,) the condensed column of each element of A in the order of its rows: how many stand before it in its row."""
    return np.asarray(np.arange(a.nnz) - np.repeat(a.indptr[:-1], np.diff(a.indptr)), np.int64)


@dataclass(frozen=True)
class Columns:
    """The partial matrices that a product falls into.

    Args:
        rows: (e,) row of each element of A.
        leaf: (e,) its partial matrix; -1 for none.
        lengths: (e,) elements of its row of B.
        sizes: (n,) elements of each partial matrix.
        elements: (n,) elements of A in each.
    """

    rows: Ints
    leaf: Ints
    lengths: Ints
    sizes: Ints
    elements: Ints

    @property
    def products(self) -> int:
        """Multiplications."""
        return int(self.lengths.sum())


def partial_matrices(a: Any, b: Any, condense: bool = True) -> Columns:
    """Elements of A by partial matrix: by condensed columns, or by columns as they are.

    Partial matrix j is the sum over its elements (i, k, v) of v B[k, :], placed in row i. Without condensing, columns whose row
    of B is empty have none; a condensed column mixes rows of B, and is merged even if all of them are empty.
    """
    rows = np.repeat(np.arange(a.shape[0], dtype=np.int64), np.diff(a.indptr))
    lengths = np.diff(b.indptr)[a.indices]
    found, leaf = np.full(a.nnz, -1, np.int64), condensed(a) if condense else a.indices
    does = np.ones(a.nnz, np.bool_) if condense else lengths > 0
    names, found[does] = np.unique(leaf[does], return_inverse=True)
    sizes = np.bincount(found[does], weights=lengths[does], minlength=len(names)).astype(np.int64)
    return Columns(rows, found, lengths, sizes, np.bincount(found[does], minlength=len(names)))


# Sizes of what is merged


@dataclass(frozen=True)
class Schedule:
    """Rounds of merging, with exact counts for each group of rows (one group of all rows, unless sampled).

    Args:
        inputs: of each round: below n a partial matrix, n + r the result of round r.
        entering: (rounds, groups, layers + 1) elements entering each layer of the tree; the last is what leaves it.
        stored: (rounds, groups) how many of them were read back.
    """

    inputs: list[list[int]]
    entering: Ints
    stored: Ints


def schedule(
    a: Any, b: Any, columns: Columns, ways: int, order: str, *, by_elements: bool = False,
    group: Ints | None = None, scale: float = 1.0,
) -> Schedule:  # fmt: skip
    """Decide each round and count what it merges, exactly.

    Args:
        a, b: compressed rows.
        columns: see :func:`partial_matrices`.
        ways: streams merged at once; a power of two.
        order: see :func:`sparsam.hardware.sparch_merge.merge_order`.
        by_elements: ``huffman`` goes by the elements of A, and results by their sum, instead of products and what was
            really written.
        group: (rows,) which sample each row is in, -1 for none; None for all rows in one.
        scale: how much larger the whole is than all samples together.
    """
    group = np.zeros(a.shape[0], np.int64) if group is None else group
    groups = int(group.max(initial=0)) + 1
    taken = (columns.leaf >= 0) & (group[columns.rows] >= 0)
    b_columns = b.indices.astype(np.int32)
    if order == "running":
        inputs = merge_order(columns.sizes.tolist(), ways, order)
        fresh = np.zeros((len(inputs), groups), np.int64)
        double = np.zeros((len(inputs), groups, 64), np.int64)
        at = np.flatnonzero(taken)
        _running(
            columns.rows[at], columns.leaf[at], b.indptr[a.indices[at]], columns.lengths[at], b_columns, b.shape[1],
            group, len(columns.sizes), first_merge(len(columns.sizes), ways), ways, fresh, double,
        )  # fmt: skip
        out = np.cumsum(fresh, 0)
        stored = np.concatenate([np.zeros((min(1, len(inputs)), groups), np.int64), out[:-1]])
        into = out + double.sum(2)
        return Schedule(inputs, _entering(into, double, ways), stored)
    at = np.flatnonzero(taken)
    at = at[np.argsort(columns.leaf[at], kind="stable")]
    begin = np.searchsorted(columns.leaf[at], np.arange(len(columns.sizes) + 1))
    results: dict[int, tuple[Ints, Ints, NDArray[np.int32]]] = {}  # rows, ends of rows, columns
    found: list[tuple[Ints, Ints, Ints]] = []
    stamp = np.full(b.shape[1], -1, np.int64)
    n, tag = len(columns.sizes), 0

    def merged(inputs: list[int]) -> int:
        nonlocal tag
        rows, slots, starts, lengths, sources = [], [], [], [], []
        pool, offset = [np.zeros(0, np.int32)], 0
        for slot, one in enumerate(inputs):
            if one < n:
                mine = at[begin[one] : begin[one + 1]]
                rows.append(columns.rows[mine])
                starts.append(b.indptr[a.indices[mine]])
                lengths.append(columns.lengths[mine])
            else:
                theirs, ends, cols = results.pop(one)
                rows.append(theirs)
                lengths.append(np.diff(ends, prepend=0))
                starts.append(ends - lengths[-1] + offset)
                pool.append(cols)
                offset += len(cols)
            slots.append(np.full(len(rows[-1]), slot, np.int64))
            sources.append(np.full(len(rows[-1]), one >= n))
        row, length, source = np.concatenate(rows), np.concatenate(lengths), np.concatenate(sources)
        stack = np.argsort(row, kind="stable")  # by row, then by slot
        row, length, source = row[stack], length[stack], source[stack]
        out = np.empty(int(length.sum()), np.int32)
        different, first = np.unique(row, return_index=True)
        ends, double = np.zeros(len(different), np.int64), np.zeros((groups, 64), np.int64)
        made = _union(
            np.concatenate(slots)[stack], source, np.concatenate(starts)[stack], length, np.append(first, len(row)),
            group[different], b_columns, np.concatenate(pool), stamp, tag, ways, out, ends, double,
        )  # fmt: skip
        tag += len(different)
        into = np.bincount(group[row], weights=length, minlength=groups).astype(np.int64)
        back = np.bincount(group[row], weights=length * source, minlength=groups).astype(np.int64)
        found.append((into, back, double))
        results[n + len(found) - 1] = (different, ends, out[:made].copy())
        return round(made * scale)

    if by_elements:
        inputs = merge_order(columns.elements.tolist(), ways, order)
        for one in inputs:
            merged(one)
    else:
        inputs = merge_order(columns.sizes.tolist(), ways, order, merged)
    into = np.array([one[0] for one in found], np.int64).reshape(-1, groups)
    stored = np.array([one[1] for one in found], np.int64).reshape(-1, groups)
    double = np.array([one[2] for one in found], np.int64).reshape(-1, groups, 64)
    return Schedule(inputs, _entering(into, double, ways), stored)


def _entering(into: Ints, double: Ints, ways: int) -> Ints:
    """Elements entering each layer: two equal keys become one in the layer where their streams meet."""
    layers = ways.bit_length() - 1
    gone = np.cumsum(
        double[..., : layers + 1], -1
    )  # entry h: of streams that meet in layer h, counted from 1
    return np.asarray(into[..., None] - gone, np.int64)


@jit
def _meet(one: int, other: int) -> int:
    """The layer, counted from 1, in which two ports of the tree come together."""
    differ, layer = one ^ other, 0
    while differ > 0:
        differ >>= 1
        layer += 1
    return layer


@jit
def _union(
    slots: Ints, source: NDArray[np.bool_], starts: Ints, lengths: Ints, first: Ints, group: Ints,
    b_columns: NDArray[np.int32], pool: NDArray[np.int32], stamp: Ints, tag: int, ways: int,
    out: NDArray[np.int32], ends: Ints, double: Ints,
) -> int:  # fmt: skip
    """Different columns of each row, in no order; ``stamp`` keeps who brought a column last, by row and port."""
    n = 0
    for r in range(len(ends)):
        mark = (tag + r) * ways
        for s in range(first[r], first[r + 1]):
            for e in range(starts[s], starts[s] + lengths[s]):
                column = pool[e] if source[s] else b_columns[e]
                before = stamp[column] - mark
                if before < 0:
                    out[n] = column
                    n += 1
                else:
                    double[group[r], _meet(before, slots[s])] += 1
                stamp[column] = mark + slots[s]
        ends[r] = n
    return n


@jit
def _running(
    rows: Ints, leaf: Ints, starts: Ints, lengths: Ints, b_columns: NDArray[np.int32], width: int,
    group: Ints, leaves: int, begins: int, ways: int, fresh: Ints, double: Ints,
) -> None:  # fmt: skip
    """Every round of the running order in one pass: a column that an earlier round brought comes with the result, at port 0."""
    stamp = np.full(width, -1, np.int64)
    for e in range(len(rows)):
        mark = rows[e] * leaves
        turn = 0 if leaf[e] < begins else 1 + (leaf[e] - begins) // (ways - 1)
        slot = leaf[e] if turn == 0 else 1 + (leaf[e] - begins) % (ways - 1)
        for x in range(starts[e], starts[e] + lengths[e]):
            column = b_columns[x]
            before = stamp[column] - mark
            if before < 0:
                fresh[turn, group[rows[e]]] += 1
            else:
                earlier = 0 if before < begins else 1 + (before - begins) // (ways - 1)
                port = 0
                if earlier == turn:
                    port = before if turn == 0 else 1 + (before - begins) % (ways - 1)
                double[turn, group[rows[e]], _meet(port, slot)] += 1
            stamp[column] = mark + leaf[e]


# What a product takes


@dataclass(frozen=True)
class Run:
    """A product on the machine, round by round; arrays are (rounds,).

    Args:
        columns: partial matrices.
        inputs: of each round, as in :class:`Schedule`; empty without the pipelined merger.
        turn: (e,) the round in which each element of A is used.
        trace: (e,) elements of A in the order of use; hits: lines of their rows found on the chip.
        multiply: cycles of the multipliers.
        merge: cycles of the busiest layer's merger.
        entering: (rounds, layers + 1) elements entering each layer, and leaving the last.
        a_bytes, b_bytes, read_bytes, write_bytes, result_bytes: moved: A, rows of B, stored partial matrices, the result.
        lines, missed: of B, wanted and fetched.
        fetched: elements of B that were fetched.
        fill: cycles through the tree.
        bytes_a_cycle: of the memory.
    """

    columns: Columns
    inputs: list[list[int]]
    turn: Ints
    trace: Ints
    hits: Ints
    multiply: Ints
    merge: Ints
    entering: Ints
    a_bytes: Ints
    b_bytes: Ints
    read_bytes: Ints
    write_bytes: Ints
    result_bytes: Ints
    lines: int
    missed: int
    fetched: int
    fill: int
    bytes_a_cycle: float

    @property
    def bytes(self) -> Ints:
        """(rounds,) all that is moved to and from memory."""
        return self.a_bytes + self.b_bytes + self.read_bytes + self.write_bytes + self.result_bytes

    @property
    def products(self) -> int:
        """Multiplications."""
        return self.columns.products

    @property
    def result(self) -> int:
        """Elements of C, sums that happen to be zero included."""
        return int(self.entering[-1, -1])

    @property
    def stored(self) -> int:
        """Elements of partial matrices that were written, and read once each."""
        return int(self.entering[:-1, -1].sum())

    @property
    def compute_cycles(self) -> int:
        """As if memory were never waited for."""
        return int((np.maximum(self.multiply, self.merge) + self.fill).sum())

    @property
    def cycles(self) -> int:
        """Each round the longest of multiplying, merging and moving, and the way through the tree."""
        moving = np.ceil(self.bytes / self.bytes_a_cycle).astype(np.int64)
        return int((np.maximum(np.maximum(self.multiply, self.merge), moving) + self.fill).sum())

    @property
    def hit_rate(self) -> float:
        """Share of lines of B found on the chip."""
        return 1 - self.missed / self.lines if self.lines else 0.0


def element_sizes(machine: Machine) -> tuple[int, int, int]:
    """Bytes of a number, of an element of a row (with its column), of an element of a stored matrix (with its row, too)."""
    value, index = machine.whole("value_bytes"), machine.whole("index_bytes")
    return value, value + index, value + 2 * index


def memory_rate(machine: Machine) -> float:
    """Bytes that the memory moves in a cycle."""
    return machine.number("dram_gb_per_s") * 1e9 / (machine.number("clock_mhz") * 1e6)


def _rows_fetched(lengths: Ints, hits: Ints, machine: Machine) -> tuple[Ints, Ints]:
    """Bytes moved, and elements among them, for the lines of a row behind those on the chip."""
    line, (_, element, _) = machine.whole("line_elements"), element_sizes(machine)
    block = machine.whole("interleave_bytes")
    missing = np.maximum(lengths - line * hits, 0)
    if machine["whole_lines"]:
        return -(-missing // line) * line * element, missing
    whole, rest = missing // line, missing % line
    return (whole * -(-line * element // block) + -(-rest * element // block)) * block, missing


def compulsory_bytes(a: Any, b: Any, machine: Machine, result: int) -> int:
    """Elements of A once, the rows of B that are wanted once, and C with its row pointers once, in the machine's own form."""
    _, element, _ = element_sizes(machine)
    touched = int(np.diff(b.indptr)[np.unique(a.indices)].sum())
    return element * (int(a.nnz) + touched + result) + machine.whole("index_bytes") * int(a.shape[0])


def outer_product(a: Any, b: Any, machine: Machine, result: int) -> tuple[int, int]:
    """Computing cycles and bytes of :func:`run` with ``pipelined`` off, from the size of the result."""
    lengths, index = np.diff(b.indptr)[a.indices], machine.whole("index_bytes")
    triple = element_sizes(machine)[2]
    products = int(lengths.sum())
    multiply = int((-(-lengths // machine.whole("multipliers"))).sum())
    merge = -(-products // machine.whole("merge_width"))
    fill = (machine.whole("ways").bit_length() - 1) * machine.whole("stage_cycles")
    moved = compulsory_bytes(a, b, machine, result) + index * int(a.shape[1]) + 2 * triple * products
    return multiply + merge + 2 * fill, moved


def pair(a: Sparse, b: Sparse, machine: Machine) -> tuple[Any, Any]:
    """Both matrices in canonical form, checked against each other and the widths of counters."""
    check(machine)
    a, b = canonical(a, "A"), canonical(b, "B")
    if a.shape[1] != b.shape[0]:
        raise Refused(
            f"inner sizes differ: A is {a.shape[0]} x {a.shape[1]}, B is {b.shape[0]} x {b.shape[1]}. A has as many "
            "columns as B has rows.",
            code="matrix-inner-size",
        )
    most = np.iinfo(np.int64).max
    if a.shape[0] * b.shape[1] >= most:
        raise Refused(
            f"a result of {a.shape[0]} x {b.shape[1]} has more places than a key of 64 bits counts.",
            code="matrix-size",
        )
    return a, b


def run(a: Sparse, b: Sparse, machine: Machine) -> Run:
    """Count one product on the machine, exactly.

    Args:
        a: (m, k), b: (k, n), of SciPy or NumPy.
        machine: of design ``sparch``.

    Raises:
        Refused: ``machine-parameter``, ``matrix-inner-size``, ``matrix-size``, and those of
            :func:`sparsam.hardware.matrix_market.canonical`.
    """
    return run_checked(*pair(a, b, machine), machine)


def run_checked(a: Any, b: Any, machine: Machine) -> Run:
    """:func:`run` of what :func:`pair` gave."""
    return _counted(a, b, machine, partial_matrices(a, b, machine["condense"]), None, np.ones(1))[0]


def run_sampled(a: Sparse, b: Sparse, machine: Machine, group: Ints) -> tuple[Run, list[Run]]:
    """The same, with the sizes of merged matrices estimated from some rows of A by the ratio of products; all else is exact.

    Args:
        group: (m,) the sample that each row of A is in, 0 …; -1 for none.

    Returns:
        The counts from all samples together, and from each by itself; no sample by itself where one has no product.

    Raises:
        Refused: as :func:`run`.
    """
    a, b = pair(a, b, machine)
    columns = partial_matrices(a, b, machine["condense"])
    inside = group[columns.rows] >= 0
    drawn = np.bincount(
        group[columns.rows][inside], weights=columns.lengths[inside], minlength=int(group.max(initial=0)) + 1
    )
    if drawn.min() == 0:
        return _counted(a, b, machine, columns, None, np.ones(1))[0], []
    return _counted(a, b, machine, columns, group, columns.products / drawn)


def _counted(
    a: Any, b: Any, machine: Machine, columns: Columns, group: Ints | None, scales: NDArray[np.float64]
) -> tuple[Run, list[Run]]:
    """``scales``: how much larger the whole is than each sample."""
    ways, width = machine.whole("ways"), machine.whole("merge_width")
    pipelined, index = machine["pipelined"], machine.whole("index_bytes")
    _, element, triple = element_sizes(machine)
    scale = float(1 / (1 / scales).sum())
    plan = schedule(
        a, b, columns, ways, machine["order"] if pipelined else "running",
        by_elements=machine["size_estimate"] == "elements", group=group, scale=scale,
    )  # fmt: skip
    rounds = max(1, len(plan.inputs)) if pipelined else 2
    # the last entry: elements without products go with the first round
    of_leaf = np.zeros(len(columns.sizes) + 1, np.int64)
    if pipelined:
        for number, inputs in enumerate(plan.inputs):
            of_leaf[[one for one in inputs if one < len(columns.sizes)]] = number
    turn = of_leaf[columns.leaf]
    trace = np.argsort(turn, kind="stable")  # round by round, in each row by row
    trace = trace[columns.lengths[trace] > 0]
    line = machine.whole("line_elements")
    wanted = -(-np.diff(b.indptr) // line)
    prefetch = machine["prefetch"]
    reuses = not machine["condense"] or not pipelined  # elements of a column want one row: it is read once
    if reuses:
        hits = np.zeros(len(trace), np.int64)
        _, once = np.unique(a.indices[trace], return_index=True)
        again = np.ones(len(trace), np.bool_)
        again[once] = False
        hits[again] = wanted[a.indices[trace[again]]]
    elif prefetch == "none":
        hits = np.zeros(len(trace), np.int64)
    else:
        hits = hit_lines(
            a.indices[trace], wanted, machine.whole("buffer_lines"),
            look_ahead=machine.whole("look_ahead"), policy=prefetch,
        )  # fmt: skip
    moved, fetched = _rows_fetched(columns.lengths[trace], hits, machine)
    if reuses:  # rows follow each other in memory
        moved = fetched * element

    def by_round(what: Ints, at: Ints = trace) -> Ints:
        return np.bincount(turn[at], weights=what, minlength=rounds).astype(np.int64)

    everything = np.arange(a.nnz)
    heads = a.shape[0] if machine["condense"] and pipelined else a.shape[1]
    touched = np.unique(turn * np.int64(a.shape[0]) + columns.rows) // max(a.shape[0], 1)
    a_bytes = element * by_round(np.ones(a.nnz, np.int64), everything)
    if machine["condense"] and pipelined:
        a_bytes += index * np.bincount(touched, minlength=rounds)
    else:
        a_bytes[0] += index * heads
    multiply = by_round(-(-columns.lengths[trace] // machine.whole("multipliers")))
    b_bytes = by_round(moved)
    lines, missed = int(wanted[a.indices[trace]].sum()), int((wanted[a.indices[trace]] - hits).sum())

    def counts(entering: Any, stored: Any) -> Run:
        entering, stored = np.rint(entering).astype(np.int64), np.rint(stored).astype(np.int64)
        if not len(entering):
            entering, stored = np.zeros((1, ways.bit_length()), np.int64), np.zeros(1, np.int64)
        last = entering[-1, -1]
        if pipelined:
            merge = -(-entering[:, :-1].max(1) // width)
            read, write = triple * stored, triple * entering[:, -1]
            write[-1] = 0
        else:
            products = columns.products
            entering = np.zeros((2, ways.bit_length()), np.int64)
            entering[0, -1], entering[1, :-1], entering[1, -1] = products, products, last
            merge = np.array([0, -(-products // width)])
            read, write = np.array([0, triple * products]), np.array([triple * products, 0])
        result = np.zeros(rounds, np.int64)
        result[-1] = element * last + index * a.shape[0]
        return Run(
            columns, plan.inputs if pipelined else [], turn, trace, hits, multiply, merge, entering, a_bytes, b_bytes,
            read, write, result, lines, missed, int(fetched.sum()),
            (ways.bit_length() - 1) * machine.whole("stage_cycles"), memory_rate(machine),
        )  # fmt: skip

    pooled = counts(scale * plan.entering.sum(1), scale * plan.stored.sum(1))
    if group is None:
        return pooled, []
    each = [counts(plan.entering[:, g] * one, plan.stored[:, g] * one) for g, one in enumerate(scales)]
    return pooled, each
