"""TensorDash: pairs that are zero give their multiplier to a pair that would have come later, or next door.

M. Mahmoud, I. Edo, A. Hadi Zadeh, O. Mohamed Awad, G. Pekhimenko, J. Albericio, A. Moshovos. *TensorDash: Exploiting Sparsity
to Accelerate Deep Neural Network Training and Inference*, MICRO 2020, arXiv:2009.00748. Rules from the authors' simulator
(DNNsim, an earlier revision) and from claims of US patent 12,182,621; what is from memory says so in the machine's file.

A processing element multiplies ``lanes`` pairs a cycle into one sum. The operands of an output are a *stream*: row t holds
the pairs a dense element multiplies in cycle t. The element sees ``depth`` rows; a lane takes its own pair of the first row
or one of a few others, ``(dt rows later, dl lanes on)``, lanes in a ring. A fixed hierarchy of *levels* decides in one cycle,
and empty first rows are left behind. Elements of a *tile* share operands along rows and columns, so all of them move on
together, as far as the slowest allows.

One-sided, the rows of the tile are streams of one operand alone (``scheduled``, the one with more zeros), and an element may
still multiply by a zero of the other. Two-sided, a pair counts where both are not zero, each element has a scheduler of its
own, and the tile waits for all of them.

The schedule is in two forms: :func:`walk`, lane by lane as a reader would do it, which also says what was issued; and
:func:`job_cycles`, all lanes of a level at once in the bits of a word. Tests hold them equal.

Not here: conflicts of memory banks, which the authors' address map avoids; area and power.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware.cost import BOUND, EXACT, MODES, SAMPLED, LayerCost
from sparsam.hardware.dense import MULTIPLY
from sparsam.hardware.jit import jit, parallel, prange
from sparsam.hardware.machine import Machine
from sparsam.hardware.memory import least_tiling
from sparsam.hardware.replay import Issued, replayed, sums_fit
from sparsam.workload import Attention, Conv, Gemm, Layer, Tensor, from_bf16

ORDERS = ("patent", "dnnsim")
SIDES = ("one", "two")
SCHEDULED = ("auto", "a", "b")
MOST_LANES, MOST_DEPTH = 32, 8
EXACT_ROWS = 8_000_000
"""Rows of streams that two-sided scheduling works off exactly in mode ``auto``, about a second; beyond, it samples."""
ONE_CORE = 1_000_000
"""Rows of streams that are worked off on one core, a tenth of a second; fewer are not worth waking another for."""
WATCHED = 128
"""Streams a product is looked at closer for: lengths without the tile, use of each movement. Chosen by us."""

Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Connections:
    """Which pairs a lane can take, and who chooses first.

    Args:
        lanes: multipliers of an element, a ring.
        depth: rows the element sees.
        options: (dt, dl) in the order a lane tries them, its own (0, 0) first.
        levels: lanes that choose at the same time; earlier levels first.
    """

    lanes: int
    depth: int
    options: tuple[tuple[int, int], ...]
    levels: tuple[tuple[int, ...], ...]

    def within(self, depth: int) -> "Connections":
        """The same connections as far as a shallower buffer reaches."""
        options = tuple(one for one in self.options if one[0] < depth)
        return Connections(self.lanes, depth, options, levels_of(self.lanes, options))

    @property
    def move_bits(self) -> int:
        """Of the number of an option: 3 for the paper's eight."""
        return (len(self.options) - 1).bit_length()

    @property
    def advance_bits(self) -> int:
        """Of the rows that are left behind, one to ``depth``: 2 for the paper's three."""
        return (self.depth - 1).bit_length()


@cache
def connections(lanes: int = 16, depth: int = 3, lookaside: int = 5, order: str = "patent") -> Connections:
    """The authors' pattern, for any size.

    A lane reaches ``depth`` - 1 pairs of its own lane later on, and ``lookaside`` of others, which fan out in both directions
    with growing distance while the row goes round (shape T). ``patent`` tries own, then later, then beside; its fan begins to
    the left, as the paper's figure has it (from memory). ``dnnsim`` tries own, then all others by row and lane; its fan
    begins to the right.

    Raises:
        Refused: ``machine-parameter``.
    """
    if not 1 <= lanes <= MOST_LANES or not 1 <= depth <= MOST_DEPTH or not 0 <= lookaside <= 64:
        raise Refused(
            f"{lanes} lanes (1 to {MOST_LANES}), depth {depth} (1 to {MOST_DEPTH}), lookaside {lookaside} (0 to 64).",
            code="machine-parameter",
        )
    if order not in ORDERS:
        raise Refused(f"order is one of {', '.join(ORDERS)}; got {order!r}.", code="machine-parameter")
    later = [(dt, 0) for dt in range(1, depth)]
    beside = fan(depth - 1, lookaside, -1 if order == "patent" else 1)
    others = later + beside if order == "patent" else sorted(later + beside)
    options = ((0, 0), *others)
    return Connections(lanes, depth, options, levels_of(lanes, options))


def fan(lookahead: int, many: int, first: int = 1) -> list[tuple[int, int]]:
    """Offsets beside a lane (shape T): (1, d) (1, -d) (2, d + 1) (2, -d - 1) … with d from ``first``, rows going round."""
    found: list[tuple[int, int]] = []
    dt, dl = 1, 1
    for number in range(many if lookahead else 0):
        found.append((dt, dl * first))
        dl = -dl
        if number % 2:
            dl, dt = dl + 1, dt % lookahead + 1
    return found


def levels_of(lanes: int, options: tuple[tuple[int, int], ...]) -> tuple[tuple[int, ...], ...]:
    """Lanes in levels: within one, no two can reach the same pair, round the ring too.

    Two lanes reach the same pair when they are as far apart as two offsets of one row, so lanes of a level are spread by one
    more than the farthest: 5 for the paper's pattern, which gives {0, 5, 10} … {4, 9, 14} {15}.
    """
    step = 1 + max(
        (abs(x - y) for at, x in options for other, y in options if at == other),
        default=0,
    )
    left, found = list(range(lanes)), []
    while left:
        first = left[0]
        level = [first] + [x for x in range(first + step, lanes - step + first, step) if x in left]
        left = [x for x in left if x not in level]
        found.append(tuple(level))
    return tuple(found)


def stream_words(nonzero: NDArray[np.bool_], lanes: int) -> Words:
    """(s, k) of streams as words (s, t): bit l of word t is whether number t lanes + l is there; k padded with zeros."""
    many, k = nonzero.shape
    rows, wide = -(-k // lanes), -(-lanes // 8)
    if k % lanes or lanes % 8:
        full = np.zeros((many, rows, 8 * wide), np.bool_)
        flat = np.zeros((many, rows * lanes), np.bool_)
        flat[:, :k] = nonzero
        full[..., :lanes] = flat.reshape(many, rows, lanes)
        nonzero = full.reshape(many, -1)
    packed = np.packbits(nonzero, axis=1, bitorder="little").reshape(many, rows, wide)
    words = np.zeros((many, rows), np.uint64)
    for byte in range(wide):
        words |= packed[..., byte].astype(np.uint64) << np.uint64(8 * byte)
    return words


@jit
def _one_job(
    a: Any, b: Any, m: int, n: int, rows: int, columns: int, levels: Any, dt: Any, right: Any, left: Any, depth: int, lanes: int
) -> int:  # fmt: skip
    """Cycles of the job whose streams begin at row m of ``a`` and row n of ``b``; see :func:`job_cycles`."""
    length = a.shape[1]
    everyone = np.uint64((1 << lanes) - 1)
    nothing = np.uint64(0)
    down, across = min(rows, a.shape[0] - m), min(columns, b.shape[0] - n)
    seen = np.zeros((down * across, depth), np.uint64)
    for s in range(down * across):
        for h in range(min(depth, length)):
            seen[s, h] = a[m + s // across, h] & b[n + s % across, h]
    t, cycles = 0, 0
    while t < length:
        advance = depth
        for s in range(down * across):
            z = seen[s]
            idle = everyone & ~z[0]  # every lane with a pair of its own takes it: no other can
            z[0] = nothing
            rest = nothing
            for h in range(1, depth):
                rest |= z[h]
            if rest != nothing and idle != nothing:
                for level in range(len(levels)):
                    need = idle & levels[level]
                    for o in range(1, len(dt)):
                        row = z[dt[o]]
                        take = ((row >> right[o]) | (row << left[o])) & need
                        need &= ~take
                        z[dt[o]] = row & ~((take << right[o]) | (take >> left[o]))
            empty = 1
            while empty < depth and z[empty] == nothing:
                empty += 1
            advance = min(advance, empty)
        t += advance
        cycles += 1
        for s in range(down * across):
            for h in range(depth):
                if h + advance < depth:
                    seen[s, h] = seen[s, h + advance]
                elif t + h < length:
                    seen[s, h] = a[m + s // across, t + h] & b[n + s % across, t + h]
                else:
                    seen[s, h] = nothing
    return cycles


@jit
def _few_jobs(
    a: Any, b: Any, first: Any, second: Any, rows: int, columns: int, levels: Any, dt: Any, right: Any, left: Any,
    depth: int, lanes: int,
) -> Any:  # fmt: skip
    """Cycles of each job, one after the other."""
    found = np.zeros(len(first), np.int64)
    for i in range(len(first)):
        m, n = first[i] * rows, second[i] * columns
        found[i] = _one_job(a, b, m, n, rows, columns, levels, dt, right, left, depth, lanes)
    return found


@parallel
def _many_jobs(
    a: Any, b: Any, first: Any, second: Any, rows: int, columns: int, levels: Any, dt: Any, right: Any, left: Any,
    depth: int, lanes: int,
) -> Any:  # fmt: skip
    """The same on all cores."""
    found = np.zeros(len(first), np.int64)
    for i in prange(len(first)):
        m, n = first[i] * rows, second[i] * columns
        found[i] = _one_job(a, b, m, n, rows, columns, levels, dt, right, left, depth, lanes)
    return found


def job_cycles(
    a: Words,
    b: Words | None,
    wired: Connections,
    rows: int = 1,
    columns: int = 1,
    jobs: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> NDArray[np.int64]:
    """Cycles of a tile for each of its jobs, bit-parallel.

    Args:
        a: (m, t) words of streams; ``rows`` of them make a job.
        b: (n, t) of the other operand, ``columns`` a job; None for one-sided scheduling of ``a``.
        wired: the connections.
        rows, columns: of the tile; a last job has fewer.
        jobs: numbers of groups of ``a`` and of ``b``; None for all groups of ``a`` with the first of ``b``.
    """
    other = np.full((1, a.shape[1]), np.uint64((1 << wired.lanes) - 1)) if b is None else b
    if jobs is None:
        groups = np.arange(-(-len(a) // rows))
        jobs = (groups, np.zeros_like(groups))
    dt, right, left, levels = _arrays(wired)
    work = len(jobs[0]) * a.shape[1] * rows * (columns if b is not None else 1)
    run = _few_jobs if work < ONE_CORE else _many_jobs
    found: NDArray[np.int64] = run(
        np.ascontiguousarray(a), np.ascontiguousarray(other), jobs[0], jobs[1], rows, columns if b is not None else 1,
        levels, dt, right, left, wired.depth, wired.lanes,
    )  # fmt: skip
    return found


@cache
def _arrays(wired: Connections) -> tuple[NDArray[np.int64], Words, Words, Words]:
    """Rows and rotations of the options, lanes of the levels as words."""
    right = np.array([dl % wired.lanes for _, dl in wired.options], np.uint64)
    levels = np.array([sum(1 << lane for lane in level) for level in wired.levels], np.uint64)
    return np.array([dt for dt, _ in wired.options], np.int64), right, np.uint64(wired.lanes) - right, levels


@jit
def _walk(z: Any, lane_order: Any, dt: Any, dl: Any, depth: int) -> Any:
    """Lane by lane; see :func:`walk`. Columns of what is issued: time, stream, lane, row, option."""
    streams, length, lanes = z.shape
    left = z.copy()
    issued = np.zeros((int(z.sum()), 5), np.int64)
    advances = np.zeros(length, np.int64)
    many, t, cycles = 0, 0, 0
    while t < length:
        advance = depth
        for s in range(streams):
            for lane in lane_order:
                for o in range(len(dt)):
                    row, source = t + dt[o], (lane + dl[o]) % lanes
                    if row < length and left[s, row, source]:
                        left[s, row, source] = False
                        issued[many, 0], issued[many, 1], issued[many, 2] = cycles, s, lane
                        issued[many, 3], issued[many, 4] = row, o
                        many += 1
                        break
            empty = 1
            while empty < depth and not (t + empty < length and left[s, t + empty].any()):
                empty += 1
            advance = min(advance, empty)
        advances[cycles] = min(advance, length - t)
        t += advance
        cycles += 1
    return issued[:many], advances[:cycles]


def walk(z: NDArray[np.bool_], wired: Connections) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The reference: one job's schedule, lane by lane in the order of the levels.

    Args:
        z: (s, t, lanes), True where a pair of stream s is to be multiplied.
        wired: the connections.

    Returns:
        What was issued, (p, 5): time, stream, lane, row it came from, option. And for each cycle the rows that were left
        behind.
    """
    order = np.array([lane for level in wired.levels for lane in level], np.int64)
    dt, dl = (np.array(x, np.int64) for x in zip(*wired.options, strict=True))
    issued, advances = _walk(np.ascontiguousarray(z), order, dt, dl, wired.depth)
    return issued, advances


def replay(
    a: NDArray[Any], b: NDArray[Any], wired: Connections, rows: int = 4, columns: int = 4, sides: str = "one"
) -> tuple[NDArray[Any], int]:
    """A product from its schedule carried out, checked; and the cycles of one tile.

    ``a`` (m, k) is the scheduled operand. The tile works off one job after the other; a unit is one of its elements.

    Raises:
        Refused: as :func:`sparsam.hardware.replay.replayed`.
    """
    (m, k), n, lanes = a.shape, len(b), wired.lanes
    more = ((0, 0), (0, -k % lanes))
    blocks_a = np.pad(a != 0, more).reshape(m, -1, lanes)
    blocks_b = np.pad(b != 0, more).reshape(n, -1, lanes)
    columns_of: list[NDArray[np.int64]] = []
    start = 0
    for i in range(0, m, rows):
        ours = blocks_a[i : i + rows]
        schedule = walk(ours, wired) if sides == "one" else None
        for j in range(0, n, columns):
            across = len(blocks_b[j : j + columns])
            if schedule is None:
                both = ours[:, None] & blocks_b[None, j : j + columns]
                issued, advances = walk(both.reshape(-1, *both.shape[2:]), wired)
                element = issued[:, 1]
                where = np.stack([i + element // across, j + element % across])
            else:
                one, advances = schedule
                issued = np.repeat(one, across, axis=0)
                column = np.tile(np.arange(across), len(one))
                where = np.stack([i + issued[:, 1], j + column])
                element = issued[:, 1] * across + column
            offsets = np.array([dl for _, dl in wired.options])
            source = issued[:, 3] * lanes + (issued[:, 2] + offsets[issued[:, 4]]) % lanes
            columns_of.append(np.stack([*where, source, start + issued[:, 0], element, issued[:, 2]]))
            start += len(advances)
    table = np.concatenate(columns_of, axis=1) if columns_of else np.zeros((6, 0), np.int64)
    inside = table[2] < k
    if not inside.all():
        raise Refused("a pair of the padding was issued.", code="replay-range")
    return replayed(a, b, Issued(*table), lanes=lanes, units=rows * columns), start


@dataclass(frozen=True)
class Compacted:
    """A tensor as the back-side scheduler stores it: rows of values, each with the movement that brought it there.

    Args:
        values: (r, lanes).
        moves: (r, lanes), number of the option; 0 beside an empty slot.
        advance: (r,), rows of the original that end here.
        rows: of the original.
    """

    values: NDArray[Any]
    moves: NDArray[np.uint8]
    advance: NDArray[np.uint8]
    rows: int

    def bits(self, width: int, wired: Connections) -> int:
        """Stored: a value and a movement a slot, an advance a row."""
        return self.values.size * (width + wired.move_bits) + len(self.values) * wired.advance_bits


def compacted(rows: NDArray[Any], wired: Connections) -> Compacted:
    """Store a tensor (t, lanes) as scheduled for one element: the scheduler run on results as they are written."""
    issued, advances = walk((rows != 0)[None], wired)
    values = np.zeros((len(advances), wired.lanes), rows.dtype)
    moves = np.zeros(values.shape, np.uint8)
    offsets = np.array(wired.options)
    time, lane, row, option = issued[:, 0], issued[:, 2], issued[:, 3], issued[:, 4]
    values[time, lane] = rows[row, (lane + offsets[option, 1]) % wired.lanes]
    moves[time, lane] = option
    return Compacted(values, moves, advances.astype(np.uint8), len(rows))


def restored(stored: Compacted, wired: Connections) -> NDArray[Any]:
    """The tensor again, (t, lanes): the mirrored movements."""
    found = np.zeros((stored.rows, wired.lanes), stored.values.dtype)
    head = np.cumsum(stored.advance.astype(np.int64)) - stored.advance
    for start, values, moves in zip(head, stored.values, stored.moves, strict=True):
        for lane in np.flatnonzero(values):  # an empty slot must not wipe out what came earlier
            dt, dl = wired.options[moves[lane]]
            found[start + dt, (lane + dl) % wired.lanes] = values[lane]
    return found


def compacted_share(words: Words, wired: Connections, width: int) -> float:
    """Bits of the compacted form over those of the plain one; at most 1, for a tensor that would grow is stored plain.

    Each stream (a row of ``words``) is scheduled by itself.
    """
    if not words.size:
        return 1.0
    rows = int(job_cycles(words, None, wired).sum())
    stored = rows * (wired.lanes * (width + wired.move_bits) + wired.advance_bits)
    return min(1.0, stored / (words.size * wired.lanes * width))


def check(machine: Machine) -> None:
    """Raise Refused ``machine-parameter`` for parameters that no TensorDash can have."""
    for name in ("tile_rows", "tile_columns", "tiles"):
        machine.whole(name, most=1 << 16)
    machine.whole("lanes", 1, MOST_LANES)
    machine.whole("depth", 1, MOST_DEPTH)
    machine.whole("lookaside", 0, 64)
    machine.whole("accumulator_bits", 16, 62)
    for name in ("clock_mhz", "dram_gb_per_s", "buffer_kb"):
        machine.number(name)
    machine.number("gate", above=-1e-9)
    for name, known in (
        ("order", ORDERS),
        ("sides", SIDES),
        ("scheduled", SCHEDULED),
        ("back_side", (True, False)),
    ):
        if machine[name] not in known or isinstance(machine[name], bool) != isinstance(known[0], bool):
            raise Refused(
                f"{name} of machine {machine.name} is {machine[name]!r}; known are {', '.join(map(str, known))}.",
                code="machine-parameter",
            )
    connections(machine["lanes"], machine["depth"], machine["lookaside"], machine["order"])


@dataclass(frozen=True)
class Spread:
    """Cycles of a product on all tiles.

    Args:
        cycles: of the fullest tile.
        error: standard error of the cycles; 0 where exact.
        busy: cycles of all tiles together.
        mode: ``exact``, ``sampled`` or ``bound``.
    """

    cycles: float
    error: float
    busy: float
    mode: str


def dealt(lengths: NDArray[np.int64], times: int, tiles: int) -> NDArray[np.int64]:
    """Cycles of each tile when every length is worked off ``times`` times, and these jobs are dealt to the tiles in turn."""
    even, rest = divmod(times, tiles)
    found = np.full(tiles, int(lengths.sum()) * even, np.int64)
    start = (np.arange(len(lengths)) * times) % tiles
    for more in range(rest):
        found += np.bincount((start + more) % tiles, lengths, tiles).astype(np.int64)
    return found


def spread(
    ours: NDArray[np.bool_],
    others: NDArray[np.bool_],
    wired: Connections,
    tile: tuple[int, int, int] = (4, 4, 16),
    sides: str = "one",
    mode: str = "auto",
    error: float = 0.01,
    draw: np.random.Generator | None = None,
) -> Spread:
    """Cycles of a product on all tiles.

    Args:
        ours: (m, k), where the scheduled operand is not zero.
        others: (n, k), the other.
        wired: the connections.
        tile: rows, columns, and how many tiles.
        sides: ``one`` or ``two``.
        mode: as :class:`sparsam.hardware.simulate.How` has it. Two-sided, ``auto`` samples beyond :data:`EXACT_ROWS`.
            ``bound`` is what no schedule goes below: ``depth`` rows a cycle, and the pairs of the fullest stream of each job.
        error: standard error at which sampling stops, as a share.
        draw: random numbers of the sample.
    """
    rows, columns, tiles = tile
    words = stream_words(ours, wired.lanes)
    groups, fars, length = -(-len(ours) // rows), -(-len(others) // columns), words.shape[1]
    if mode == BOUND:
        counts = ours.sum(1)[:, None]
        if sides == "two":
            counts = np.rint(ours.astype(np.float32) @ others.T.astype(np.float32)).astype(np.int64)
        across = columns if sides == "two" else 1
        full = np.zeros((groups * rows, -(-counts.shape[1] // across) * across), np.int64)
        full[: counts.shape[0], : counts.shape[1]] = counts
        most = full.reshape(groups, rows, -1, across).max((1, 3))
        least = np.maximum(-(-most // wired.lanes), -(-length // wired.depth)).ravel()
        each = dealt(least, 1 if sides == "two" else fars, tiles)
        return Spread(float(each.max()), 0.0, float(each.sum()), BOUND)
    facing = stream_words(others, wired.lanes) if sides == "two" else None
    jobs = groups * fars if sides == "two" else groups

    def run(which: NDArray[np.int64]) -> NDArray[np.int64]:
        at = (which // fars, which % fars) if sides == "two" else (which, np.zeros_like(which))
        return job_cycles(words, facing, wired, rows, columns, at)

    work = jobs * length * rows * (columns if sides == "two" else 1)
    if mode == SAMPLED or (mode == "auto" and sides == "two" and work > EXACT_ROWS):
        order = (draw or np.random.default_rng(0)).permutation(jobs)
        seen = np.zeros(0, np.int64)
        while len(seen) < jobs:
            seen = np.append(seen, run(order[len(seen) : max(64, 2 * len(seen))]))
            mean = seen.mean()
            missing = math.sqrt(1 - len(seen) / jobs)  # drawn without putting back
            off = float(seen.std(ddof=1) / math.sqrt(len(seen))) * missing if len(seen) > 1 else math.inf
            if missing > 0 and off <= error * mean:
                fullest = -(-groups * fars // tiles)
                return Spread(float(mean * fullest), off * fullest, float(mean * groups * fars), SAMPLED)
    lengths = run(np.arange(jobs))
    each = dealt(lengths, 1 if sides == "two" else fars, tiles)
    return Spread(float(each.max()), 0.0, float(each.sum()), EXACT)


@dataclass
class _Sum:
    """What the products of a layer add up to; ``busy`` are cycles of tiles that schedule, ``worked`` those of all tiles."""

    cycles: float = 0.0
    dense: int = 0
    variance: float = 0.0
    mode: int = 0
    effectual: int = 0
    issued: int = 0
    busy: float = 0.0
    worked: float = 0.0
    watched_rows: int = 0
    watched_cycles: int = 0
    dram: float = 0.0
    dense_dram: float = 0.0
    sram: float = 0.0
    staged_bits: float = 0.0
    stored_rows: float = 0.0
    gated: int = 0
    products: int = 0


def layer_cost(layer: Layer, machine: Machine, how: Any) -> LayerCost:
    """A layer on TensorDash: products one after the other, each spread over all tiles.

    The jobs of a product (a group of streams with a group of the other side) are dealt to the tiles in turn, and the fullest
    tile sets the time, of the dense baseline, too. Memory: :func:`_add_traffic`.

    Raises:
        Refused: ``accumulator-overflow`` with the layer, ``replay-…`` where ``how.check`` finds a fault.
    """
    wired = connections(machine["lanes"], machine["depth"], machine["lookaside"], machine["order"])
    total = _Sum()
    moves = np.zeros(len(wired.options), np.int64)
    advances = np.zeros(wired.depth + 1, np.int64)
    sides: dict[str, int] = {}
    draw = np.random.default_rng([how.seed % (1 << 63), crc32(f"{layer.name} {layer.role}".encode())])
    shares = _stored_shares(layer, wired) if machine["back_side"] else None
    for product in layer.products(block=wired.lanes):
        if not math.prod(product.size):
            continue
        sums_fit(product, machine["accumulator_bits"], machine.name)
        side = _scheduled_side(product, machine)
        sides[side] = sides.get(side, 0) + 1
        gated = _add_product(total, product, side, wired, machine, how, draw)
        if not gated:
            _watch(total, product, side, wired, machine, draw, moves, advances)
        _add_traffic(total, layer, product, side, wired, machine, shares)
    rows, columns, tiles = (machine[name] for name in ("tile_rows", "tile_columns", "tiles"))
    first = max(layer.tensors().values(), key=lambda one: one.bits)
    elements, schedulers = rows * columns, rows if machine["sides"] == "one" else rows * columns
    scheduled = total.stored_rows if machine["back_side"] else total.busy * schedulers
    # the scheduler's logic: an and, and two and-nots, of all lanes for each option of each level
    word_steps = len(wired.levels) * len(wired.options) * 3 * wired.lanes / 32
    return LayerCost(
        layer.name,
        layer.kind,
        layer.role,
        macs=layer.macs,
        dense_cycles=total.dense,
        compute_cycles=total.cycles if total.mode else int(total.cycles),
        mode=MODES[total.mode],
        peak_macs=elements * tiles * wired.lanes,
        effectual=total.effectual,
        error=math.sqrt(total.variance),
        dram_bytes=total.dram,
        dense_dram_bytes=total.dense_dram,
        sram_bytes=total.sram + total.dram,
        events={
            MULTIPLY[first.format]: total.issued,
            "add_fp32" if first.format == "bf16" else "add_int32": total.issued,
            # a multiplexer of eight inputs is two of four; one for each row's operand and one for each element's other
            "mux_byte": total.busy * (schedulers + elements) * wired.lanes * first.bits / 8 * 2,
            "logic_32": scheduled * word_steps,
            "register_bit": total.staged_bits
            + 32.0 * total.worked * elements,  # staging; the sum of each element
        },
        detail={
            "scheduled": sides,
            "gated_products": total.gated,
            "products": total.products,
            "tile_speedup": total.dense / total.cycles if total.cycles else 1.0,
            "element_speedup": total.watched_rows / total.watched_cycles if total.watched_cycles else 1.0,
            "moves": {f"{dt:+d},{dl:+d}": int(x) for (dt, dl), x in zip(wired.options, moves, strict=True)},
            "advances": advances[1:].tolist(),
        },
    )


def _facing(product: Gemm, side: str) -> tuple[Tensor, Tensor]:
    """The scheduled operand, and the other."""
    return (product.a, product.b) if side == "a" else (product.b, product.a)


def _scheduled_side(product: Gemm, machine: Machine) -> str:
    """The operand with more zeros, unless the machine names one."""
    if machine["scheduled"] != "auto":
        return str(machine["scheduled"])
    a, b = (_zero_share(one) for one in (product.a, product.b))
    return "a" if a >= b else "b"


def _zero_share(x: Tensor) -> float:
    return 1 - np.count_nonzero(x.nonzero) / x.values.size


def _add_product(
    total: _Sum,
    product: Gemm,
    side: str,
    wired: Connections,
    machine: Machine,
    how: Any,
    draw: np.random.Generator,
) -> bool:
    """Cycles and multiplications of one product more; True where the scheduler was passed by."""
    ours, others = _facing(product, side)
    rows, columns, tiles = (machine[name] for name in ("tile_rows", "tile_columns", "tiles"))
    nonzero, far = ours.nonzero, others.nonzero
    jobs = -(-len(nonzero) // rows) * -(-len(far) // columns)
    dense = -(-jobs // tiles) * (product.size[2] // wired.lanes)
    total.products += 1
    total.dense += dense
    effectual = int(_column_counts(nonzero) @ _column_counts(far))
    total.effectual += effectual
    zeros = _zero_share(ours) if machine["sides"] == "one" else 1 - effectual / product.macs
    if zeros < machine["gate"]:
        total.gated += 1
        total.cycles += dense
        total.issued += product.macs
        total.worked += jobs * (product.size[2] // wired.lanes)
        return True
    found = spread(nonzero, far, wired, (rows, columns, tiles), machine["sides"], how.mode, how.error, draw)
    total.cycles += found.cycles
    total.variance += found.error**2
    total.busy += found.busy
    total.worked += found.busy
    total.mode = max(total.mode, MODES.index(found.mode))
    total.issued += effectual if machine["sides"] == "two" else int(np.count_nonzero(nonzero)) * len(far)
    if how.check:
        _checked(product, side, wired, machine)
    return False


def _column_counts(there: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How often each column is there; sums of bytes, which are faster than of booleans as integers."""
    most = 255
    found = np.zeros(there.shape[1], np.int64)
    for start in range(0, len(there), most):
        found += there[start : start + most].view(np.uint8).sum(0, dtype=np.uint8)
    return found


def _watch(
    total: _Sum,
    product: Gemm,
    side: str,
    wired: Connections,
    machine: Machine,
    draw: np.random.Generator,
    moves: NDArray[np.int64],
    advances: NDArray[np.int64],
) -> None:
    """Look at some streams closer: their length without the tile, and which movement is used how often."""
    ours, others = (one.nonzero for one in _facing(product, side))
    seen = ours[np.sort(draw.choice(len(ours), min(len(ours), WATCHED), replace=False))]
    if machine["sides"] == "two":
        seen = seen & others[draw.integers(0, len(others), len(seen))]
    words = stream_words(seen, wired.lanes)
    total.watched_cycles += int(job_cycles(words, None, wired).sum())
    total.watched_rows += words.size
    for stream in seen[:4]:
        issued, moved_on = walk(stream.reshape(1, -1, wired.lanes), wired)
        moves += np.bincount(issued[:, 4], minlength=len(moves))
        advances += np.bincount(moved_on, minlength=len(advances))


def _stored_shares(layer: Layer, wired: Connections) -> tuple[float, float] | None:
    """Back-side scheduling: bits of both operands as stored compacted over plain; None where products are made on the way.

    A tensor lies in memory position by position, channels innermost in blocks of ``lanes``; each row of an image, each filter,
    each row of a matrix is scheduled by itself.
    """
    if isinstance(layer, Attention):
        return None
    if isinstance(layer, Gemm):
        return _product_shares(layer, wired)
    found = []
    for one in (layer.x, layer.weight):
        there = np.moveaxis(one.nonzero, 1, -1)  # (b, h, w, c) or (o, kh, kw, c)
        there = np.pad(there, ((0, 0), (0, 0), (0, 0), (0, -there.shape[-1] % wired.lanes)))
        many = there.shape[0] * (there.shape[1] if one is layer.x else 1)
        found.append(compacted_share(stream_words(there.reshape(many, -1), wired.lanes), wired, one.bits))
    return found[0], found[1]


def _product_shares(product: Gemm, wired: Connections) -> tuple[float, float]:
    first, second = (
        compacted_share(stream_words(one.nonzero, wired.lanes), wired, one.bits)
        for one in (product.a, product.b)
    )
    return first, second


def _add_traffic(
    total: _Sum,
    layer: Layer,
    product: Gemm,
    side: str,
    wired: Connections,
    machine: Machine,
    shares: tuple[float, float] | None,
) -> None:
    """Bytes of one product more.

    Outside the chip: the tiling that moves least, half of ``buffer_kb`` worked from while the other half fills; numbers as
    stored, without the zeros that only pad, a convolution's images unfolded on the chip; results plain, for their zeros are
    not known here.

    On the chip: streams go to a tile's rows once for each group of columns, and the other way round; results once.
    """
    (m, n, k), a, b = product.size, product.a, product.b
    rows, columns = machine["tile_rows"], machine["tile_columns"]
    stored_a, stored_b = stored_numbers(layer, product)
    if machine["back_side"]:
        share_a, share_b = shares or _product_shares(product, wired)
    else:
        share_a = share_b = 1.0
    bits_a, bits_b = a.bits * min(1.0, stored_a / (m * k)), b.bits * min(1.0, stored_b / (n * k))
    size = 1024 * machine.number("buffer_kb") / 2
    total.dense_dram += least_tiling(m, n, k, size, bits_a, bits_b, a.bits)[2].total
    total.dram += least_tiling(m, n, k, size, bits_a * share_a, bits_b * share_b, a.bits)[2].total
    down, across = (rows, columns) if side == "a" else (columns, rows)
    read_a, read_b = m * k * -(-n // across) * a.bits / 8, n * k * -(-m // down) * b.bits / 8
    total.sram += read_a * share_a + read_b * share_b + m * n * a.bits / 8
    total.staged_bits += 8 * (read_a + read_b)
    total.stored_rows += (stored_a * share_a + stored_b * share_b) / wired.lanes


def stored_numbers(layer: Layer, product: Gemm) -> tuple[float, float]:
    """Numbers of both operands of a layer's product as they lie in memory: images before unfolding, nothing padded."""
    if isinstance(layer, Attention):
        m, n, _ = product.size
        inner = layer.q.shape[2] if product.name.endswith(".scores") else m
        return m * inner, n * inner
    first, second = (one.values.size for one in layer.tensors().values())
    groups = layer.groups if isinstance(layer, Conv) else 1
    return first / groups, second / groups


def _checked(product: Gemm, side: str, wired: Connections, machine: Machine) -> None:
    """Carry out one job of a product, and hold its cycles against the fast form."""
    rows, columns, sides = machine["tile_rows"], machine["tile_columns"], machine["sides"]
    ours, others = (
        from_bf16(one.values).astype(np.float64) if one.format == "bf16" else one.values
        for one in _facing(product, side)
    )
    ours, others = ours[:rows], others[:columns]
    _, cycles = replay(ours, others, wired, rows, columns, sides)
    fast = spread(ours != 0, others != 0, wired, (rows, columns, 1), sides, EXACT).cycles
    if cycles != fast:
        raise Refused(
            f"{product.name}: {cycles} cycles lane by lane, {fast:g} in words.", code="replay-cycles"
        )
