"""S2Engine: a systolic array that picks matching pairs out of compressed streams, tick by tick.

J. Yang, W. Fu, X. Cheng, X. Ye, P. Dai, W. Zhao, *S2Engine: A Novel Systolic Architecture for Sparse Convolutional Neural
Networks*, IEEE Transactions on Computers, 2021, arXiv:2106.07894. The rules follow the authors' simulator (read as rules and
figures; nothing is copied); ``docs/hardware/s2engine.md`` says which are ours.

Weights move down the columns of the array (one output channel each), activations along its rows (one output position each),
both as streams of their non-zero numbers in groups of 16 channels: value, offset in the group, end-of-group, and for weights
end-of-kernel ("out"). Every processing element (PE) compares the offsets at the head of its two streams, one decision a tick of
the fast selection clock, and queues the pairs that match for a multiplier that runs ``ratio`` times slower. All queues are
finite: what is full stalls what feeds it.

- In :mod:`.s2engine_array`, :func:`compress` makes the streams, and :func:`ticks` is the array in plain words, with the numbers
  in it: it gives the sums back (:func:`replay`) and everything that can be counted. :func:`cycles` is the same for time alone,
  some tens of times as fast.
- :func:`work` counts decisions and pairs of a product in closed form; :func:`bound` is the time without queue limits.
- :func:`collective_sources` says which groups the collective elements (CE) at the left edge take over from a neighbour.

Letters: ``r`` rows of the array, ``c`` columns, ``g`` groups of one output, ``s`` rounds (an output position for each row).
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware.cost import BOUND, EXACT, SAMPLED, LayerCost
from sparsam.hardware.jit import COMPILED, jit
from sparsam.hardware.machine import Machine
from sparsam.hardware.s2engine_array import (
    END,
    EXACT_LIMIT,
    GROUP,
    LEAST_SEGMENTS,
    LOW,
    OFF,
    OUT,
    PLACE_W,
    PLACE_X,
    SEGMENT_LENGTH,
    SEGMENT_WARM,
    Array,
    Streams,
    array_of,
    compress,
    elements,
    ones,
    pass_ticks,
    run,
)
from sparsam.workload import Conv, Gemm, Layer


def check(machine: Machine) -> None:
    """Refuse parameters that no such machine can have.

    Raises:
        Refused: ``machine-parameter``.
    """
    array_of(machine)
    machine.whole("accumulator_bits", 17, 63)
    machine.number("clock_mhz")
    machine.number("dram_gb_per_s")


# Counts in closed form


class Work(NamedTuple):
    """What a product asks of the array, whatever the queues.

    Args:
        decisions: ticks in which a PE decides, summed over PEs.
        pairs: pairs that reach multipliers, those with an explicit zero and empty ones with an end-of-kernel mark included.
        x_elements, w_elements: of the compressed operands.
    """

    decisions: int
    pairs: int
    x_elements: int
    w_elements: int


@jit
def _marginals(v: NDArray[Any], place: int, found: NDArray[np.int64]) -> int:
    """Over the rows, for each k: numbers with placeholders, those before their group's last, the last, wide ones, halves."""
    n, k = v.shape
    elements = 0
    for i in range(n):
        for g in range(0, k, 16):
            last = -1
            for j in range(g, g + 16):
                if v[i, j] != 0:
                    last = j
                    wide = 0 if -128 <= v[i, j] <= 127 else 1
                    found[0, j] += 1
                    found[1, j] += 1
                    found[3, j] += wide
                    found[4, j] += 1 + wide
                    elements += 1 + wide
            if last < 0:
                last = g + place
                found[0, last] += 1
                found[1, last] += 1
                found[4, last] += 1
                elements += 1
            found[1, last] -= 1
            found[2, last] += 1
    return elements


def work(x: NDArray[Any], w: NDArray[Any]) -> Work:
    """Decisions and pairs of ``x`` (m, k) times ``w`` (n, k), exactly, from sums over the rows alone.

    A group takes |W| + |X| - M' - 1 decisions, M' the matches in which neither number is its group's last; each match of two
    16-bit numbers one more. Over all pairs of rows M' is a product of two sums for each k.
    """
    (m, k), n = x.shape, len(w)
    of_x, of_w = np.zeros((5, k), np.int64), np.zeros((5, k), np.int64)
    x_elements, w_elements = int(_marginals(x, PLACE_X, of_x)), int(_marginals(w, PLACE_W, of_w))
    decisions = n * x_elements + m * w_elements - m * n * (k // GROUP)
    decisions += int(of_x[3] @ of_w[3]) - int(of_x[1] @ of_w[1])
    closed = int(of_x[0, -GROUP:] @ of_w[2, -GROUP:])  # kernels whose last number finds its match
    return Work(decisions, int(of_x[4] @ of_w[4]) + m * n - closed, x_elements, w_elements)


@jit
def _masks(v: NDArray[Any], place: int, masks: NDArray[np.int32]) -> None:
    """Of each group: numbers with placeholder, wide ones, and the last."""
    n, k = v.shape
    for i in range(n):
        for g in range(k // 16):
            some = wide = top = 0
            for j in range(16):
                here = v[i, 16 * g + j]
                if here != 0:
                    some |= 1 << j
                    top = 1 << j
                    if here < -128 or here > 127:
                        wide |= 1 << j
            if some == 0:
                some = top = 1 << place
            masks[0, i, g], masks[1, i, g], masks[2, i, g] = some, wide, top


@jit
def _count(v: int) -> int:
    v = v - ((v >> 1) & 0x5555)
    v = (v & 0x3333) + ((v >> 2) & 0x3333)
    v = (v + (v >> 4)) & 0x0F0F
    return (v + (v >> 8)) & 31


@jit
def _bound(mx: NDArray[np.int32], mw: NDArray[np.int32], ratio: float) -> float:
    rows, columns, groups, kernel = mx.shape[1], mw.shape[1], mx.shape[2], mw.shape[2]
    ends = np.zeros((rows + 1, columns + 1))  # of the group before, at each PE; border: nothing to wait for
    after = np.zeros((rows + 1, columns + 1))
    busy = np.zeros((rows, columns))
    for g in range(groups):
        for r in range(rows):
            some, wide, top = mx[0, r, g], mx[1, r, g], mx[2, r, g]
            size = _count(some) + _count(wide)
            for c in range(columns):
                also, broad, last = mw[0, c, g % kernel], mw[1, c, g % kernel], mw[2, c, g % kernel]
                both = some & also
                steps = (
                    size
                    + _count(also)
                    + _count(broad)
                    - 1
                    - _count(both & ~top & ~last)
                    + _count(wide & broad)
                )
                pairs = _count(both) + _count(some & broad) + _count(wide & also) + _count(wide & broad)
                if g % kernel == kernel - 1 and last & some == 0:
                    pairs += 1
                if g == 0:
                    start = max(r, c) + 1.0
                else:
                    start = max(ends[r + 1, c + 1], max(ends[r, c + 1], ends[r + 1, c]) + 1.0)
                after[r + 1, c + 1] = start + steps
                busy[r, c] = max(busy[r, c], start) + ratio * pairs
        ends, after = after, ends
    most = 0.0
    for r in range(rows):
        for c in range(columns):
            most = max(most, ends[r + 1, c + 1], busy[r, c] - ratio + 1.0)
    return most


def bound(x: NDArray[Any], w: NDArray[Any], array: Array) -> float:
    """Ticks that no pass can do without, however deep its queues; operands as of :func:`run`.

    Group by group: a PE begins one after it has ended the one before, and a tick after its neighbours above and to the left
    have; its multiplier takes ``ratio`` ticks for each pair. What starves within a group and what waits for sums to leave is
    left out.
    """
    rows, rounds, k = x.shape
    mx = np.zeros((3, rows, rounds * k // GROUP), np.int32)
    mw = np.zeros((3, len(w), k // GROUP), np.int32)
    _masks(np.ascontiguousarray(x).reshape(rows, -1), PLACE_X, mx)
    _masks(np.ascontiguousarray(w), PLACE_W, mw)
    return float(_bound(mx, mw, array.num / array.den))


@jit
def _flips(
    codes: NDArray[np.int32], values: NDArray[np.int32], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> int:
    """Bits that flip in a register that sees each stream, from zero on: value, offset, end, out, half."""
    found = 0
    for i in range(len(starts)):
        was = 0
        for at in range(starts[i] + 1, starts[i] + 1 + lengths[i]):
            code = codes[at]
            now = (
                (values[at] & 255)
                | ((code & OFF) << 8)
                | (4096 if code & END else 0)
                | (8192 if code & OUT else 0)
                | (16384 if code & LOW else 0)
            )
            found += ones(now ^ was)
            was = now
    return found


def stream_flips(streams: Streams) -> int:
    """Bits that flip in one register that sees each of the streams, summed over the streams."""
    return int(_flips(*streams))


# Collective elements

OWN, BELOW, ZERO = 0, 1, 2
"""Where the CE of a row takes a group from: its buffer, the CE of the next row, nowhere (padding)."""


def collective_sources(layer: Conv, rows: int) -> NDArray[np.int8]:
    """Where each output position takes its groups from: (m, kernel positions), the same for all channels.

    Rows of the array are neighbouring positions of one row of the output, so the next row reads ``stride`` positions to the
    right: what it needs at a position of the kernel, this one needs ``stride / dilation`` positions of the kernel later, and
    takes it from there. The last row of the array and the last position of a row of the output have nobody to take from.
    """
    batch = layer.x.shape[0]
    (high, wide), (sh, sw), (dh, dw), (ph, pw) = layer.out, layer.stride, layer.dilation, layer.padding
    kh, kw = layer.weight.shape[2:]
    y = np.arange(high)[:, None] * sh + np.arange(kh) * dh - ph  # (oh, kh)
    x = np.arange(wide)[:, None] * sw + np.arange(kw) * dw - pw
    inside = ((y >= 0) & (y < layer.x.shape[2]))[:, None, :, None] & ((x >= 0) & (x < layer.x.shape[3]))[
        None, :, None, :
    ]
    found = np.broadcast_to(np.where(inside, OWN, ZERO).astype(np.int8), (batch, high, wide, kh, kw))
    found = found.reshape(-1, kh, kw).copy()
    if sw % dw == 0 and sw // dw < kw:
        m = np.arange(len(found))
        follows = (m % rows != rows - 1) & (m % wide != wide - 1) & (m + 1 < len(found))
        late = found[:, :, sw // dw :]
        late[follows[:, None, None] & (late == OWN)] = BELOW
    return found.reshape(len(found), -1)


def collective_replay(layer: Conv, product: Gemm, rows: int) -> tuple[NDArray[Any], int]:
    """Fetch the activations of a convolution as the CEs do, each group from where :func:`collective_sources` says.

    Returns:
        (m, k), what the CEs broadcast to their rows, groups in the order of the array, and how many groups buffers gave.
    """
    sources = collective_sources(layer, rows)
    a, positions = _ordered(product.a.values, layer), sources.shape[1]
    groups = a.reshape(len(a), -1, GROUP)
    sent = np.zeros_like(groups)
    reads = 0
    late = layer.stride[1] // layer.dilation[1]
    for m in range(len(a) - 1, -1, -1):
        for g in range(groups.shape[1]):
            source = sources[m, g % positions]
            if source == OWN:
                sent[m, g] = groups[m, g]
                reads += 1
            elif source == BELOW:
                sent[m, g] = sent[m + 1, g - late]
    return sent.reshape(a.shape), reads


@jit
def _reads(v: NDArray[Any], sources: NDArray[np.int8], found: NDArray[np.int64]) -> None:
    """Elements that are read with and without collective elements."""
    n, k = v.shape
    positions = sources.shape[1]
    for i in range(n):
        for g in range(k // 16):
            source = sources[i, g % positions]
            here = 0
            for j in range(16 * g, 16 * g + 16):
                if v[i, j] != 0:
                    here += 1 if -128 <= v[i, j] <= 127 else 2
            here = max(here, 1)
            found[0] += here if source == 0 else 0
            found[1] += here if source != 2 else 0


def _ordered(v: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """Groups of a convolution in the order of the array: all positions of the kernel for 16 channels, then the next 16.

    So a CE keeps what it passes on for one position of the kernel, not for all channels of it.
    """
    if not isinstance(layer, Conv):
        return v
    positions = layer.weight.shape[2] * layer.weight.shape[3]
    return np.ascontiguousarray(v.reshape(len(v), positions, -1, GROUP).transpose(0, 2, 1, 3)).reshape(
        v.shape
    )


# A layer


@dataclass
class _Taken:
    """Ticks of a product, with their standard error."""

    ticks: float
    error: float
    mode: str


def _threads() -> int:
    if not COMPILED:
        return 1
    return min(int(os.environ.get("NUMBA_NUM_THREADS", os.cpu_count() or 1)), os.cpu_count() or 1)


def _exact(x: NDArray[Any], w: NDArray[Any], array: Array, pool: ThreadPoolExecutor) -> _Taken:
    tiles = [w[c : c + array.columns] for c in range(0, len(w), array.columns)]
    return _Taken(
        float(sum(one[0] for one in pool.map(lambda tile: pass_ticks(x, tile, array), tiles))), 0.0, EXACT
    )


def _sampled(
    x: NDArray[Any],
    w: NDArray[Any],
    array: Array,
    pool: ThreadPoolExecutor,
    share: float,
    seed: tuple[int, int],
    ticks_expected: float,
) -> _Taken:
    """Segments of passes drawn at random: a column of tiles, and where its rounds begin (they wrap around).

    A segment's first rounds fill the array; the rest give the ticks of a round. A queue deeper than 64 remembers longer than a
    segment lasts: then whole passes are drawn.
    """
    rounds, groups = x.shape[1], x.shape[2] // GROUP
    tiles = -(-len(w) // array.columns)
    warm, length = -(-SEGMENT_WARM // groups), -(-SEGMENT_LENGTH // groups)
    whole = 2 * rounds <= 3 * (warm + length) or max(array.w, array.x, array.wx) > 64
    draw = np.random.default_rng(seed)
    order = draw.permutation(tiles)

    def one(job: tuple[int, int]) -> float:
        tile, start = job
        mine = w[tile * array.columns : (tile + 1) * array.columns]
        if whole:
            return float(pass_ticks(x, mine, array)[0])
        some = x[:, (start + np.arange(warm + length)) % rounds]
        _, ends = pass_ticks(some, mine, array)
        rate = (ends[-1] - ends[warm - 1]) / length
        return float(ends[warm - 1] + (rounds - warm) * rate)

    found: list[float] = []
    cost = ticks_expected / tiles * (1.0 if whole else (warm + length) / rounds)
    while True:
        if (whole and len(found) + 8 >= tiles) or cost * (len(found) + 8) > 0.8 * ticks_expected:
            return _exact(x, w, array, pool)
        if whole:
            jobs = [(int(tile), 0) for tile in order[len(found) : len(found) + 8]]
        else:
            jobs = [(int(draw.integers(tiles)), int(draw.integers(rounds))) for _ in range(8)]
        found += pool.map(one, jobs)
        if len(found) >= LEAST_SEGMENTS:
            mean, spread = float(np.mean(found)), float(np.std(found, ddof=1))
            error = spread / len(found) ** 0.5 * ((1 - len(found) / tiles) ** 0.5 if whole else 1.0)
            if error <= share * mean:
                return _Taken(tiles * mean, tiles * error, SAMPLED)


def _operands(layer: Layer, product: Gemm, array: Array, mixed: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """Activations, padded with rows of zeros to whole rounds, and weights, as integers in the order of the array."""
    bits = 16 if mixed else 8
    try:
        a, b = (_ordered(one.integers(bits).values, layer) for one in (product.a, product.b))
    except Refused as error:
        hint = "" if mixed else " A machine with mixed_precision = true takes 16 bits."
        raise Refused(f"layer {product.name}: {error}{hint}", code=error.code) from error
    more = -len(a) % array.rows if len(a) > array.rows else 0
    return np.pad(a, ((0, more), (0, 0))) if more else a, b


def _fits(name: str, a: NDArray[Any], b: NDArray[Any], bits: int) -> None:
    """Refuse sums beyond the accumulator; within a sum it may wrap, since what it ends on is right all the same."""
    most = float(1 << (bits - 1))
    lengths = [np.sqrt((one.astype(np.float64) ** 2).sum(1)) for one in (a, b)]
    if lengths[0].max() * lengths[1].max() < most:
        return
    right = b.astype(np.float64).T
    for at in range(0, len(a), 1024):
        found = a[at : at + 1024].astype(np.float64) @ right
        worst = found.max() if found.max() >= most else found.min()
        if worst >= most or worst < -most:
            raise Refused(
                f"layer {name}: a sum of {int(worst)} does not fit in an accumulator of {bits} bits; "
                "give the machine more accumulator_bits.",
                code="accumulator-overflow",
            )


def _depth(layer: Layer, product: Gemm) -> int:
    """What is summed over, without the zeros that fill groups."""
    if isinstance(layer, Conv):
        return int(np.prod(layer.weight.shape[1:]))
    if isinstance(layer, Gemm):
        return layer.size[2]
    return layer.q.shape[2] if product.name.endswith(".scores") else product.size[0]


def _image_elements(layer: Conv, bits: int) -> int:
    """Elements of the compressed images, each stored once."""
    v = layer.x.integers(bits).values
    batch, channels, high, wide = v.shape
    per = channels // layer.groups
    rows = v.reshape(batch, layer.groups, per, high, wide).transpose(0, 1, 3, 4, 2).reshape(-1, per)
    return int(elements(np.pad(rows, ((0, 0), (0, -per % GROUP)))).sum())


def replay(
    product: Gemm, array: Array, layer: Layer | None = None, *, mixed: bool = False
) -> NDArray[np.int64]:
    """Run a product through the array with its numbers: (m, n), the sums that leave it.

    Args:
        product: k a multiple of :data:`GROUP` (``layer.products(GROUP)``).
        array: what runs it.
        layer: a convolution whose order of groups is taken.
        mixed: 16-bit operands in halves.
    """
    a, b = _operands(layer or product, product, array, mixed)
    rows = min(array.rows, len(a))
    x = a.reshape(-1, rows, a.shape[1]).transpose(1, 0, 2)
    found = [
        run(x, b[c : c + array.columns], array).sums.reshape(len(a), -1)
        for c in range(0, len(b), array.columns)
    ]
    return np.concatenate(found, 1)[: product.size[0]]


def layer_cost(layer: Layer, machine: Machine, how: Any) -> LayerCost:
    """A layer on the machine: cycles of its multipliers, events, bytes. See :class:`sparsam.hardware.simulate.How` for ``how``.

    Raises:
        Refused: ``workload-range`` for numbers beyond the operands' width, ``accumulator-overflow``.
    """
    array, mixed = array_of(machine), bool(machine["mixed_precision"])
    bits, width = machine.whole("accumulator_bits", 17, 63), 2 if mixed else 1
    mark = 1 if mixed else 0
    x_bits, w_bits = 13 + mark, 14 + mark
    ratio = array.num / array.den
    total = dict.fromkeys(
        (
            "decisions",
            "pairs",
            "x",
            "w",
            "fifo",
            "flips",
            "reads",
            "all_reads",
            "sram",
            "dram",
            "dense_dram",
            "dense",
            "limit",
        ),
        0.0,
    )
    parts: list[_Taken] = []
    prepared = [(product, *_operands(layer, product, array, mixed)) for product in layer.products(GROUP)]
    worked = [work(a, b) for _, a, b in prepared]
    expected = [1.25 * max(one.decisions, ratio * one.pairs) for one in worked]
    sample = how.mode == "sampled" or (how.mode == "auto" and sum(expected) > EXACT_LIMIT)
    effectual = 0
    with ThreadPoolExecutor(_threads()) as pool:
        for number, ((product, a, b), asked) in enumerate(zip(prepared, worked, strict=True)):
            m, n, k = product.size
            _fits(product.name, a, b, bits)
            rows = min(array.rows, len(a))
            x = a.reshape(-1, rows, k).transpose(1, 0, 2)  # (r, s, k)
            tiles, rounds = -(-n // array.columns), x.shape[1]
            if how.mode == "bound":
                tops = [bound(x, b[c : c + array.columns], array) for c in range(0, n, array.columns)]
                parts.append(_Taken(sum(tops), 0.0, BOUND))
            elif sample:
                seed = (how.seed, crc32(product.name.encode()))  # layers are drawn independently
                parts.append(_sampled(x, b, array, pool, how.error, seed, expected[number]))
            else:
                parts.append(_exact(x, b, array, pool))
            if how.check:
                found = replay(product, array, layer, mixed=mixed)
                if not np.array_equal(found, a[:m].astype(np.int64) @ b.astype(np.int64).T):
                    raise Refused(
                        f"{product.name}: the replayed schedule gives another result.", code="replay-result"
                    )
            effectual += int((a != 0).sum(0, dtype=np.int64) @ (b != 0).sum(0, dtype=np.int64))
            sources = (
                collective_sources(layer, array.rows)
                if isinstance(layer, Conv)
                else np.zeros((m, 1), np.int8)
            )
            reads = np.zeros(2, np.int64)
            _reads(a[:m], sources, reads)
            taken = reads[0] if machine["collective_elements"] else reads[1]
            # each element is in each register of its row or column once; a column's stream comes again each round
            once = compress(b, k // GROUP, PLACE_W)
            twice = compress(np.tile(b, (1, 2)), k // GROUP, PLACE_W)
            first, again = stream_flips(once), stream_flips(twice)
            lines = compress(x.reshape(rows, -1), 0, PLACE_X)
            little = run(x[:, :1, : min(k, 32 * GROUP)], b[: array.columns, : min(k, 32 * GROUP)], array)
            pair_flips = float(little.seen[5].sum()) / max(float(little.seen[2].sum()), 1.0) * asked.pairs
            total["flips"] += (
                rows * (first + (rounds - 1) * (again - first)) + n * stream_flips(lines) + pair_flips
            )
            hops = rounds * n * rows * (rows - 1) / 2 if array.drain else 0
            total["fifo"] += (
                asked.w_elements * rounds * rows * w_bits
                + asked.x_elements * n * x_bits
                + asked.pairs * (17 + 2 * mark)
                + hops * (bits + 1)
            )
            total["sram"] += (
                asked.w_elements * rounds * w_bits / 8 + float(taken) * tiles * x_bits / 8 + m * n * width
            )
            total["reads"] += float(reads[0]) * tiles
            total["all_reads"] += float(reads[1]) * tiles
            total["decisions"] += asked.decisions
            total["pairs"] += asked.pairs
            total["x"] += asked.x_elements
            total["w"] += asked.w_elements
            total["dram"] += asked.w_elements * w_bits / 8 + m * n * width
            if not isinstance(layer, Conv):  # rows of an image's neighbouring positions are the same numbers
                total["dram"] += int(elements(np.ascontiguousarray(a[:m])).sum()) * x_bits / 8
                total["dense_dram"] += m * _depth(layer, product) * width
            total["dense_dram"] += n * _depth(layer, product) * width + m * n * width
            total["dense"] += tiles * rounds * _depth(layer, product)
            total["limit"] += max(asked.decisions, asked.pairs * ratio) / (rows * min(n, array.columns))
    if isinstance(layer, Conv):
        total["dram"] += _image_elements(layer, 16 if mixed else 8) * x_bits / 8
        total["dense_dram"] += layer.x.values.size * width
    ticks_taken = sum(one.ticks for one in parts)
    error = sum(one.error**2 for one in parts) ** 0.5
    modes = {one.mode for one in parts}
    mode = next(mode for mode in (BOUND, SAMPLED, EXACT) if mode in modes)
    events = {
        "compare_4": total["decisions"], "mul_int8": total["pairs"],
        ("add_int32" if mixed else "add_int24"): total["pairs"],
        "register_bit": total["flips"], "fifo_bit": total["fifo"],
    } | ({"shift_32": total["pairs"]} if mixed else {})  # fmt: skip
    return LayerCost(
        name=layer.name,
        kind=layer.kind,
        role=layer.role,
        macs=layer.macs,
        effectual=effectual,
        dense_cycles=total["dense"],
        compute_cycles=ticks_taken / ratio,
        mode=mode,
        error=error / ratio,
        peak_macs=float(array.rows * array.columns),
        dram_bytes=total["dram"],
        dense_dram_bytes=total["dense_dram"],
        sram_bytes=total["sram"],
        events=events,
        detail={
            "selection_ticks": ticks_taken,
            "decisions": total["decisions"],
            "pairs": total["pairs"],
            "ticks_with_even_work": total["limit"],
            "activation_reads_without_collective": total["all_reads"],
            "activation_reads_with_collective": total["reads"],
            "elements_of_activations": total["x"],
            "elements_of_weights": total["w"],
        },
    )
