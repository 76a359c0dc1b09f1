"""Griffin: one core that skips zeros of weights, of activations, or of both, and chooses layer by layer.

J. H. Shin, A. Shafiee, A. Pedram, H. Abdel-Aziz, L. Li, J. Hassoun, *Griffin: Rethinking Sparse Optimization for Deep Learning
Architectures*, HPCA 2022, arXiv:2107.12922. The space of designs, the schedules and their replay are in
:mod:`sparsam.hardware.borrowing`; here they meet layers and machines.

A machine is a point of that space (``kind`` A, B, AB or dense), or the hybrid, which has a point for each mode. Weights are
scheduled before the run, so an operand that the run itself makes (in both of attention's products) is not: such a product runs
by its activations, or dense. Every number is the reference schedule's; it has not been checked against the authors' scheduler.
"""

import hashlib
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware.borrowing import (
    SHUFFLE_GROUP,
    WORD,
    Core,
    Distances,
    Point,
    Streams,
    check_distances,
    compress,
    dual_cycles,
    laid_out,
    least_cycles,
    packed_groups,
    replay_product,
    resources,
    single_cycles,
)
from sparsam.hardware.cost import BOUND, EXACT, MODES, SAMPLED, Cost, LayerCost
from sparsam.hardware.designs import NotComputed
from sparsam.hardware.machine import Machine
from sparsam.workload import Attention, Conv, Gemm, Layer

KINDS = ("dense", "A", "B", "AB", "hybrid")
EXACT_ROWS = 60_000_000
"""Rows of streams that ``auto`` still schedules one by one for a product, about ten seconds of one core; chosen by us."""
STREAM_BYTES = 1 << 28
"""Of the streams that are held at a time; chosen by us."""
BATCH = 1 << 16
"""Tiles that are scheduled in one call."""
FIRST_SAMPLE = 8
"""Groups of activations drawn for each group of weights at first; chosen by us."""
T = TypeVar("T")


def core_of(machine: Machine) -> Core:
    """Its multipliers."""
    return Core(
        machine.whole("rows", most=WORD),
        machine.whole("columns", most=256),
        machine.whole("lanes", most=WORD),
    )


def points_of(machine: Machine) -> dict[str, Point]:
    """The points a machine can be put to, by mode (A, B, AB, dense).

    Raises:
        Refused: ``machine-parameter``.
    """
    kind = machine["kind"]
    if kind not in KINDS:
        raise Refused(
            f"kind of machine {machine.name} is {kind!r}; it must be one of {', '.join(KINDS)}.",
            code="machine-parameter",
        )
    shuffle = machine["shuffle"]
    if not isinstance(shuffle, bool):
        raise Refused(
            f"shuffle of machine {machine.name} is {shuffle!r}; it must be true or false.",
            code="machine-parameter",
        )

    def far(prefix: str) -> Distances:
        return Distances(*(machine.whole(f"{prefix}{axis}", least=0) for axis in (1, 2, 3)))

    found = {"dense": Point()}
    if kind in ("B", "AB", "hybrid"):
        weights = far("db")
        if kind == "B":
            found["B"] = Point(weights, None, shuffle)
        else:
            found["AB"] = Point(weights, far("da"), shuffle)
    elif kind == "A":
        found["A"] = Point(None, far("da"), shuffle)
    if kind == "hybrid":
        found["B"] = Point(far("only_db"), None, shuffle)
        found["A"] = Point(None, far("only_da"), shuffle)
    return found


def check(machine: Machine) -> None:
    """Raise Refused ``machine-parameter`` for parameters that no such machine can have."""
    core, points = core_of(machine), points_of(machine)
    if machine["kind"] in ("AB", "hybrid") and core.rows * core.lanes > WORD:
        raise Refused(
            f"machine {machine.name} has {core.rows} rows of {core.lanes} lanes; rows times lanes may be {WORD} at most where "
            "both operands are skipped.",
            code="machine-parameter",
        )
    if machine["shuffle"] and core.lanes % SHUFFLE_GROUP:
        raise Refused(
            f"machine {machine.name} shuffles groups of {SHUFFLE_GROUP} lanes; {core.lanes} lanes are no multiple.",
            code="machine-parameter",
        )
    for point in points.values():
        if point.weights is not None:
            check_distances(point.weights, core.columns, core.lanes, f"weights of machine {machine.name}")
        if point.activations is not None:
            check_distances(
                point.activations, core.rows, core.lanes, f"activations of machine {machine.name}"
            )
    for name in ("a_sram_kb", "b_sram_kb", "clock_mhz", "dram_gb_per_s"):
        machine.number(name)
    if machine["kind"] == "hybrid":
        for name in ("sparse_above_weights", "sparse_above_activations"):
            if not 0 <= machine.number(name, above=-1.0) <= 1:
                raise Refused(
                    f"{name} of machine {machine.name} is {machine[name]!r}; it must be a share from 0 to 1.",
                    code="machine-parameter",
                )


def choose(machine: Machine, zeros_a: float, zeros_b: float, *, before: bool) -> Point:
    """The point that a product runs at.

    The hybrid takes the mode of the operands whose share of zeros is above the machine's thresholds; others have one mode.
    Where weights are not known before the run, Sparse.B is the dense core, Sparse.AB skips pairs of weights as they are.

    Args:
        machine: of this design.
        zeros_a: share of activations that are zero.
        zeros_b: share of weights that are zero.
        before: the weights are known before the run.
    """
    points, kind = points_of(machine), machine["kind"]
    if kind == "hybrid":
        name = "A" if zeros_a > machine["sparse_above_activations"] else ""
        name += "B" if before and zeros_b > machine["sparse_above_weights"] else ""
        return points[name or "dense"]
    if before or kind in ("A", "dense"):
        return points[kind]
    if kind == "B":
        return points["dense"]
    return Point(Distances(0, 0, 0), points["AB"].activations, points["AB"].shuffle)


class ScheduleCache:
    """Schedules of weights by their zeros and the design; the least recently used go first.

    Args:
        most: bytes that are kept.
    """

    def __init__(self, most: int = 1 << 28) -> None:
        self.most, self.bytes, self.hits, self.misses = most, 0, 0, 0
        self._kept: OrderedDict[tuple[Any, ...], tuple[Any, int]] = OrderedDict()

    def get(self, words: NDArray[np.uint64], *design: Any) -> tuple[tuple[Any, ...], Any]:
        """The key, and what is kept under it or None."""
        digest = hashlib.blake2b(np.ascontiguousarray(words).data, digest_size=16).digest()
        key = (digest, words.shape, *design)
        if key in self._kept:
            self.hits += 1
            self._kept.move_to_end(key)
            return key, self._kept[key][0]
        self.misses += 1
        return key, None

    def put(self, key: tuple[Any, ...], made: T, size: int) -> T:
        """Keep ``made``, of ``size`` bytes, and give it back."""
        if size <= self.most:
            self._kept[key] = (made, size)
            self.bytes += size
            while self.bytes > self.most:
                self.bytes -= self._kept.popitem(last=False)[1][1]
        return made


CACHE = ScheduleCache()
"""Of this process."""


def weight_cycles(
    words: NDArray[np.uint64], far: Distances, core: Core, cache: ScheduleCache | None = None
) -> NDArray[np.int64]:
    """(groups,) cycles of each group of weight columns, from a cache (:data:`CACHE`) where they were scheduled before."""
    cache = CACHE if cache is None else cache
    key, found = cache.get(words, "B", far, core.lanes)
    if found is None:
        made = single_cycles(words, far, core.lanes)
        return cache.put(key, made, made.nbytes)
    kept: NDArray[np.int64] = found
    return kept


def weight_streams(
    words: NDArray[np.uint64], far: Distances, core: Core, cache: ScheduleCache | None = None
) -> Streams:
    """The compressed streams of all groups of columns, from the cache where they were made before."""
    cache = CACHE if cache is None else cache
    key, found = cache.get(words, "AB", far, core.lanes, core.rows)
    if found is None:
        made = compress(words, far, core)
        return cache.put(key, made, made.nbytes)
    kept: Streams = found
    return kept


@dataclass(frozen=True)
class Ran:
    """A product on the core.

    Args:
        cycles: of all tiles; a float where sampled.
        error: their standard error.
        mode: ``exact``, ``sampled`` or ``bound``.
        issued: multiplications that were carried out.
        b_rows: rows of weights that are read for one pass over all columns.
    """

    cycles: float
    error: float
    mode: str
    issued: int
    b_rows: int


def run_product(product: Gemm, point: Point, core: Core, how: Any) -> Ran:
    """Cycles of a product in integers at a point of the space."""
    m, n, k = product.size
    if not product.macs:
        return Ran(0, 0.0, EXACT, 0, 0)
    rows, columns, steps = -(-m // core.rows), -(-n // core.columns), -(-k // core.lanes)
    if point.kind == "dense":
        return Ran(rows * columns * steps, 0.0, EXACT, product.macs, columns * steps)
    a, b = product.a.nonzero, product.b.nonzero
    if point.activations is None:
        assert point.weights is not None
        issued = int(b.sum()) * m
        words = packed_groups(b, core.columns, core.lanes, shuffle=point.shuffle)
        if how.mode == BOUND:
            least = _least(b, core.columns, point.weights, core, point.shuffle)
            return Ran(int(least.sum()) * rows, 0.0, BOUND, issued, int(least.sum()))
        each = weight_cycles(words, point.weights, core)
        return Ran(int(each.sum()) * rows, 0.0, EXACT, issued, int(each.sum()))
    if point.weights is None:
        issued = int(a.sum()) * n
        if how.mode == BOUND:
            least = _least(a, core.rows, point.activations, core, point.shuffle)
            return Ran(int(least.sum()) * columns, 0.0, BOUND, issued, columns * steps)
        words = packed_groups(a, core.rows, core.lanes, shuffle=point.shuffle)
        each = single_cycles(words, point.activations, core.lanes)
        return Ran(int(each.sum()) * columns, 0.0, EXACT, issued, columns * steps)
    return _run_dual(product, a, b, point, core, how)


def _least(x: NDArray[np.bool_], pes: int, far: Distances, core: Core, shuffle: bool) -> NDArray[np.int64]:
    counts = laid_out(x, pes, core.lanes, shuffle=shuffle).sum(1, dtype=np.int64)
    return least_cycles(counts, -(-x.shape[1] // core.lanes), far)


def _run_dual(
    product: Gemm, a: NDArray[np.bool_], b: NDArray[np.bool_], point: Point, core: Core, how: Any
) -> Ran:
    """Sparse.AB, as many groups of weights at a time as their streams may take memory."""
    far, ahead = point.weights, point.activations
    assert far is not None and ahead is not None
    rows, steps = -(-len(a) // core.rows), -(-a.shape[1] // core.lanes)
    a_words = packed_groups(a, core.rows, core.lanes, shuffle=point.shuffle, joined=True)
    b_words = packed_groups(b, core.columns, core.lanes, shuffle=point.shuffle)
    group_bytes = 8 * core.columns * steps * (1 + far.time) * (1 + far.lane)
    piece = max(1, STREAM_BYTES // group_bytes)
    total, variance, b_rows, modes = 0.0, 0.0, 0, {EXACT}
    for first in range(0, len(b_words), piece):
        streams = weight_streams(b_words[first : first + piece], far, core)
        columns = len(streams.lengths)
        b_rows += int(streams.lengths.sum())

        def cycles(
            g: NDArray[np.int64], h: NDArray[np.int64], streams: Streams = streams
        ) -> NDArray[np.int64]:
            return dual_cycles(a_words, streams, ahead, core, g, h)

        if how.mode == BOUND:
            mine = b[first * core.columns : (first + piece) * core.columns]
            many_a = np.add.reduceat(a.astype(np.float64), np.arange(0, len(a), core.rows), axis=0)
            many_b = np.add.reduceat(mine.astype(np.float64), np.arange(0, len(mine), core.columns), axis=0)
            full = np.ceil(many_a @ many_b.T / core.multipliers).astype(np.int64)
            total += int(np.maximum(full, -(-streams.lengths // (1 + ahead.time))[None, :]).sum())
            modes.add(BOUND)
        elif how.mode == SAMPLED or (
            how.mode == "auto" and rows * int(streams.lengths.mean()) * len(b_words) > EXACT_ROWS
        ):
            seed = [how.seed, zlib.crc32(product.name.encode()), first]
            found, error = sampled_total(cycles, rows, columns, how.error, seed)
            total, variance = total + found, variance + error**2
            modes.add(SAMPLED if error else EXACT)
        else:
            for at in range(0, rows * columns, BATCH):
                tile = np.arange(at, min(rows * columns, at + BATCH))
                total += int(cycles(tile % rows, tile // rows).sum())
    mode = max(modes, key=MODES.index)
    whole = total if mode == SAMPLED else int(total)
    return Ran(whole, float(np.sqrt(variance)), mode, product.effectual(), b_rows)


def sampled_total(cycles: Any, rows: int, columns: int, error: float, seed: Any) -> tuple[float, float]:
    """The sum over all tiles from some, and its standard error.

    For each group of weights (a stratum) groups of activations are drawn without replacement, at first eight, then twice as
    many until the standard error is at most ``error`` of the sum. What is drawn in full has no error.

    Args:
        cycles: of tiles, from the groups of activations and of weights.
        rows, columns: how many groups there are of each.
        error: share.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    orders = np.stack([rng.permutation(rows) for _ in range(columns)])
    have = np.zeros((columns, 0), np.int64)
    want = min(rows, FIRST_SAMPLE)
    while True:
        g = orders[:, have.shape[1] : want]
        h = np.repeat(np.arange(columns), g.shape[1])
        have = np.concatenate([have, cycles(g.ravel(), h).reshape(columns, -1)], axis=1)
        total = rows * have.mean(1).sum()
        if want == rows:
            return float(have.sum()), 0.0
        variance = rows * (rows - want) / want * have.var(1, ddof=1).sum()
        if np.sqrt(variance) <= error * total:
            return float(total), float(np.sqrt(variance))
        want = min(rows, 2 * want)


@dataclass
class _Sum:
    """What a layer's products add up to."""

    dense: int = 0
    cycles: float = 0.0
    variance: float = 0.0
    modes: set[str] = field(default_factory=lambda: {EXACT})
    macs: int = 0
    effectual: int = 0
    issued: int = 0
    dram: float = 0.0
    dense_dram: float = 0.0
    a_read: float = 0.0
    b_read: float = 0.0
    written: float = 0.0
    zeros_a: float = 0.0
    zeros_b: float = 0.0
    stream: float = 0.0
    events: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)


def layer_cost(layer: Layer, machine: Machine, how: Any) -> LayerCost:
    """A layer on the machine.

    Raises:
        NotComputed: for the products of training: weights are scheduled before the run.
        Refused: ``workload-range`` for integers beyond 8 bits, ``accumulator-overflow``, ``schedule-differs``.
    """
    if layer.role != "forward":
        raise NotComputed("Griffin schedules weights before the run; products of training are not inference")
    core, found = core_of(machine), _Sum()
    for product in _in_int8(layer):
        _add(found, product, layer, core, machine, how)
    mode = max(found.modes, key=MODES.index)
    share = found.macs or 1
    detail = {
        "points": ", ".join(f"{many} x {name}" if many > 1 else name for name, many in found.points.items()),
        "zeros of activations": round(found.zeros_a / share, 4),
        "zeros of weights": round(found.zeros_b / share, 4),
        "rows of weights read": round(found.stream / share, 4),
        "multiplications issued": found.issued,
        "activation bytes a cycle": round(found.a_read / found.cycles, 2) if found.cycles else 0.0,
        "weight bytes a cycle": round(found.b_read / found.cycles, 2) if found.cycles else 0.0,
    }
    return LayerCost(
        name=layer.name,
        kind=layer.kind,
        role=layer.role,
        macs=layer.macs,
        effectual=found.effectual,
        dense_cycles=found.dense,
        compute_cycles=found.cycles,
        mode=mode,
        error=float(np.sqrt(found.variance)),
        peak_macs=core.multipliers,
        dram_bytes=found.dram,
        dense_dram_bytes=found.dense_dram,
        sram_bytes=found.a_read + found.b_read + found.written + found.dram,
        events=dict(found.events),
        detail=detail,
    )


def _in_int8(layer: Layer) -> Iterator[Gemm]:
    """The layer's products in 8-bit integers; k is padded at its end alone."""
    for one in layer.products():
        try:
            product = Gemm(one.name, one.a.integers(8), one.b.integers(8), one.role)
        except Refused as error:
            raise Refused(f"layer {layer.name}: {error}", code=error.code) from error
        check_accumulators(product)
        yield product


def check_accumulators(product: Gemm) -> None:
    """Raises Refused ``accumulator-overflow`` where sums of a product's magnitudes leave the accumulators' 32 bits."""
    if product.size[2] << 14 < 1 << 31:  # no magnitude is above 128
        return
    a, b = (np.abs(one.values.astype(np.float64)) for one in (product.a, product.b))
    if (most := int((a @ b.T).max(initial=0))) >= 1 << 31:
        raise Refused(
            f"{product.name}: sums of magnitude up to {most} leave the 32 bits of the accumulators; "
            f"split k = {product.size[2]}.",
            code="accumulator-overflow",
        )


def _add(found: _Sum, product: Gemm, layer: Layer, core: Core, machine: Machine, how: Any) -> None:
    """One product more."""
    m, n, k = product.size
    zeros_a, zeros_b = 1 - product.a.density, 1 - product.b.density
    point = choose(machine, zeros_a, zeros_b, before=not isinstance(layer, Attention))
    ran = run_product(product, point, core, how)
    if how.check:
        _check_replay(product, point, core, ran)
    needs = resources(point)
    rows, columns, steps = -(-m // core.rows), -(-n // core.columns), -(-k // core.lanes)
    dense = rows * columns * steps
    a_read = float(dense * core.rows * core.lanes)
    b_each = 1 + needs.metadata_bits / 8
    b_read = rows * ran.b_rows * core.columns * core.lanes * b_each
    pes = core.rows * core.columns

    found.points[point.name] += 1
    found.modes.add(ran.mode)
    found.dense += dense
    found.cycles += ran.cycles
    found.variance += ran.error**2
    found.macs += product.macs
    found.effectual += product.effectual()
    found.issued += ran.issued
    found.zeros_a += zeros_a * product.macs
    found.zeros_b += zeros_b * product.macs
    found.stream += ran.b_rows / max(1, columns * steps) * product.macs
    found.a_read += a_read
    found.b_read += b_read
    found.written += m * n

    a_bytes = float(m * k)
    if isinstance(layer, Conv):
        a_bytes = (
            float(np.prod(layer.x.shape)) / layer.groups
        )  # the images; rows of them are made on the chip
    stored = n * k if point.weights is None else ran.b_rows * core.columns * core.lanes * b_each
    a_sram, b_sram = (1024 * machine.number(name) for name in ("a_sram_kb", "b_sram_kb"))
    found.dram += _dram_bytes(a_bytes, stored, m * n, rows, columns, a_sram, b_sram)
    found.dense_dram += _dram_bytes(a_bytes, n * k, m * n, rows, columns, a_sram, b_sram)

    events: dict[str, float] = {
        "mul_int8": ran.issued,
        "add_int24": ran.issued,  # in the trees; an idle lane adds nothing
        "add_int32": needs.adder_trees * pes * ran.cycles,
        "register_bit": 8 * a_read + 8 * b_read + 16 * ran.issued + 2 * 32 * pes * ran.cycles,
    }
    if point.kind != "dense":
        ports = sum(-(-(fan - 1) // 3) for fan in (needs.a_mux, needs.b_mux))  # multiplexers of four inputs
        events["mux_byte"] = ports * ran.issued
    if point.activations is not None:
        looked = core.rows * core.lanes * (1 if point.weights is None else core.columns)
        far = point.activations
        tries = far.time * (1 + far.lane) * (1 + far.pe)
        tested = a_read + (0.0 if point.weights is None else b_read / b_each)
        events["compare_4"] = 2 * tested  # a byte is zero
        events["logic_32"] = 3 * tries * looked / 32 * ran.cycles  # take, clear the source, clear the slot
    found.events.update(events)


def _check_replay(product: Gemm, point: Point, core: Core, ran: Ran) -> None:
    """Carry the schedule out and compare. Raises Refused ``schedule-differs``."""
    sums, cycles = replay_product(product.a.values, product.b.values, point, core)
    if not np.array_equal(sums, product.result()) or (ran.mode == EXACT and cycles != ran.cycles):
        raise Refused(
            f"{product.name}: the replayed schedule takes {cycles} cycles for {ran.cycles}, or its sums are not the product's.",
            code="schedule-differs",
        )


def _dram_bytes(a: float, b: float, c: float, rows: int, columns: int, a_sram: float, b_sram: float) -> float:
    """Bytes to and from memory outside the chip: each operand once, or one of them again for each part of the other that fits.

    Args:
        a, b, c: bytes of the operands and of the result.
        rows, columns: groups of the core's rows and columns, which are not split.
        a_sram, b_sram: bytes on the chip.
    """
    if not rows or not columns:
        return 0.0
    parts_a = -(-rows // max(1, int(a_sram / (a / rows)))) if a > a_sram else 1
    parts_b = -(-columns // max(1, int(b_sram / (b / columns)))) if b > b_sram else 1
    return min(a + b * parts_a, b + a * parts_b) + c


@dataclass(frozen=True)
class Efficiency:
    """Operations a joule of a sparse design beside the dense core, and the two factors it is made of.

    Args:
        speedup: dense cycles over the design's.
        power: its mean power over that of the dense core.
        gain: speedup / power, of effective TOPS/W.
    """

    speedup: float
    power: float
    gain: float


def efficiency(sparse: Cost, dense: Cost, *, chip: bool = False) -> Efficiency:
    """Of a workload on a machine and on the same with ``kind`` dense, with the same energy table.

    Args:
        sparse, dense: of the same layers.
        chip: memory outside the chip is left out, its time and its energy.

    Raises:
        Refused: ``efficiency-tables`` for costs that cannot be compared.
    """
    if sparse.constants != dense.constants or len(sparse.layers) != len(dense.layers):
        raise Refused(
            f"energies of tables {sparse.constants} and {dense.constants}, {len(sparse.layers)} and {len(dense.layers)} "
            "layers; an efficiency compares the same layers with the same table.",
            code="efficiency-tables",
        )
    energies, times = [], []
    for cost in (sparse, dense):
        parts = cost.energy_pj
        energies.append(sum(pj for part, pj in parts.items() if not chip or part != "dram"))
        times.append(sum(one.compute_cycles for one in cost.layers) if chip else cost.cycles)
    if not all(energies) or not all(times):
        return Efficiency(1.0, 1.0, 1.0)
    speedup = times[1] / times[0]
    power = (energies[0] / times[0]) / (energies[1] / times[1])
    return Efficiency(speedup, power, speedup / power)
