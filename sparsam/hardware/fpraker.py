"""FPRaker: bfloat16 products, one operand's significand worked off as a series of signed powers of two.

O. Mohamed Awad, M. Mahmoud, I. Edo, A. Hadi Zadeh, C. Bannon, A. Jayarajan, G. Pekhimenko, A. Moshovos, "FPRaker: A Processing
Element For Accelerating Neural Network Training", MICRO 2021, arXiv:2010.08065. Built from the abstract, that of the
patent (WO2022016261A1) and figures from memory; what the sources leave open is a parameter or is stated below as ours.

**A set** is eight pairs (A, B) of one output's sum. A zero in either makes its lane idle.

- Exponent stage: ``e_i = ea_i + eb_i``; ``e_max`` is the largest of them and of the accumulator's exponent after its last
  normalisation (0 has none). ``d_i = e_max - e_i``.
- Term stage: a term of A_i at position p of its significand (7 is the hidden bit; the canonical form may reach 8) shifts B_i
  right by ``k = d_i + 7 - p``. Each cycle ``base`` is the smallest k in front; lanes with ``k - base <= reach`` fire one term.
- Out of bounds: a lane whose term in front has ``k > out_of_bounds`` is done, as its further terms are smaller yet.

**The accumulator** is ``s 2**(e - f)``, f fraction bits, ``2**f <= |s| < 2**(f + 1)`` or s = 0. Where the sources are silent:

- Before a set, s is shifted right to ``e_max``: to nearest, ties to even.
- A term reaches the adder tree as ``|B_i| 2**-k`` cut off (towards zero) at the accumulator's last place, then takes its
  sign. So a term with k > f is nothing, and ``out_of_bounds >= f`` changes no bit of any result; a smaller one does.
- Within a set the sum has as many integer bits as it needs (six: eight products below 4, and itself). How often it outgrew the
  machine's ``integer_bits`` is counted and reported.
- After the set it is normalised, to nearest, ties to even. Its exponent has as many bits as it needs.
- After ``chunk`` products it is added to an outer accumulator of the same form, rounded once, to nearest even, and starts at
  zero.
- Subnormal inputs are normalised on their way in, which is exact.

:func:`dot_reference` is this in Python's big numbers, terms all at once and in no cycles; the schedule, with or without
numba, gives the same bits. :func:`dot_parallel` is the bit-parallel baseline with the same accumulator: eight whole products,
cut off at the same place.

**A tile** is ``columns`` x ``rows`` of these: a column shares its A, a row its B. A column takes as long for a set as its
slowest element, and no less than ``exponent_share`` cycles, as so many elements take turns at an exponent block. Column c
starts set s when it has finished s - 1 and every column has finished s - 1 - ``buffer_depth``. A pass, one output an element,
starts with all columns together (chosen by us). **The chip** has as many tiles as the area of the bit-parallel ones buys; a
pass goes to the tile that is free first, on both. Which operand is A: :func:`serial_operand`.

Not here: the bfloat16 form of Bit-Pragmatic, which the paper has as a second baseline.
"""

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware.base_delta import ZEROS, stored_bits
from sparsam.hardware.cost import BOUND, EXACT, SAMPLED, LayerCost
from sparsam.hardware.designs import NotComputed
from sparsam.hardware.fpraker_element import (
    EVERY_TERM,
    EXACT_SETS,
    FEW,
    FIRST_DRAW,
    LANES,
    ORDERS,
    SERIAL,
    TERMS,
    Rules,
    blocks,
    dot_reference,
    fields,
    replay,
    rules_of,
    run_passes,
    whole_bits,
)
from sparsam.hardware.jit import jit
from sparsam.hardware.machine import Machine
from sparsam.workload import Attention, Conv, Gemm, Layer, Tensor, bf16_bits

# A layer


def check(machine: Machine) -> None:
    """Raise Refused ``machine-parameter`` for parameters that no such machine can have."""
    rules_of(machine)
    machine.whole("lanes", LANES, LANES)
    machine.whole("dense_tiles", 1, 1 << 16)
    machine.whole("operand_buffer_kb", 1)
    machine.whole("group", 1, 1 << 16)
    for name in ("clock_mhz", "dram_gb_per_s", "tile_area_ratio", "tile_power_ratio"):
        machine.number(name)
    for name, possible in (("serial", SERIAL), ("zeros", ("raw", *ZEROS))):
        if machine[name] not in possible:
            raise Refused(
                f"{name} of machine {machine.name} is {machine[name]!r}; it must be one of {', '.join(possible)}.",
                code="machine-parameter",
            )
    tiles_of(machine)


def tiles_of(machine: Machine) -> int:
    """Tiles on the area of the bit-parallel ones: their number over the ratio of the areas, to the nearest.

    Raises:
        Refused: ``machine-parameter`` where not one fits.
    """
    tiles = round(machine.whole("dense_tiles") / machine.number("tile_area_ratio"))
    if tiles < 1:
        raise Refused(
            f"tile_area_ratio of machine {machine.name} is {machine['tile_area_ratio']!r}: not one tile fits on the area of "
            f"{machine['dense_tiles']} bit-parallel ones.",
            code="machine-parameter",
        )
    return tiles


def serial_operand(product: Gemm, rule: str) -> str:
    """Which operand of a product is worked off term by term.

    Args:
        product: in the products of training, ``a`` is the gradient.
        rule: ``role`` takes what flows, activations in the forward product and gradients in the other two (which the paper
            fixes for each kind of product, from memory); ``fewer`` the operand with fewer terms a number, a zero having none;
            or its name.

    Returns:
        ``a`` or ``b``.
    """
    if rule == "fewer":
        few_a, few_b = (
            float(TERMS[fields(whole_bits(x)).significand].mean()) if x.values.size else 0.0
            for x in (product.a, product.b)
        )
        return "b" if few_b < few_a else "a"
    return "a" if rule == "role" else rule


def training_products(product: Gemm, gradient: Tensor) -> tuple[Gemm, Gemm, Gemm]:
    """The three products of training from a forward product ``y = a b^T`` and the gradient of y.

    Of a convolution, take each of its :meth:`~sparsam.workload.Conv.products`; the gradient of its rows is then summed back
    into the image outside of the product.

    Args:
        product: a (m, k), b (n, k).
        gradient: (m, n).

    Returns:
        Itself; the gradient of a, ``gradient b``; the gradient of b, ``gradient^T a``. The gradient is operand ``a`` of both.

    Raises:
        Refused: ``workload-shape``.
    """
    m, n, _ = product.size
    if gradient.shape != (m, n):
        raise Refused(
            f"{product.name}: the gradient of a result ({m}, {n}) has its shape; got {gradient.shape}.",
            code="workload-shape",
        )

    def turned(x: Tensor) -> Tensor:
        if np.ndim(x.scale):
            x = x.bf16()  # a scale for each row is none for each column
        return replace(x, values=np.ascontiguousarray(x.values.T))

    return (
        replace(product, role="forward"),
        Gemm(product.name, gradient, turned(product.b), "grad_input"),
        Gemm(product.name, turned(gradient), turned(product.a), "grad_weight"),
    )


def profiled_out_of_bounds(
    layer: Layer, machine: Machine, error: float, *, passes: int = 16, seed: int = 0
) -> int:
    """The smallest ``out_of_bounds`` that keeps a layer's results; for ``out_of_bounds_by_layer``.

    Tried on some passes of each product: the squared difference from the results with the accumulator's full width, over
    their squares, summed, and its root at most ``error``. (The paper takes accumulator widths of a statistical model instead;
    from memory.)
    """
    rules, rng = rules_of(machine), np.random.default_rng(seed)
    limits = range(rules.fraction_bits + 1)
    off, size = np.zeros(len(limits)), 0.0
    for product in layer.products(LANES):
        a, b = (whole_bits(_operand(x)) for x in (product.a, product.b))
        if serial_operand(product, machine["serial"]) == "b":
            a, b = b, a
        left, right = blocks(a, rules.columns), blocks(b, rules.rows)
        high, wide = len(left.exponent), len(right.exponent)
        chosen = rng.choice(high * wide, min(passes, high * wide), replace=False)
        which = np.stack([chosen // wide, chosen % wide], 1)
        full = run_passes(left, right, which, replace(rules, out_of_bounds=EVERY_TERM)).values(
            rules.fraction_bits
        )
        size += float((full**2).sum())
        for number, limit in enumerate(limits):
            found = run_passes(left, right, which, replace(rules, out_of_bounds=limit)).values(
                rules.fraction_bits
            )
            off[number] += float(((found - full) ** 2).sum())
    good = off <= error**2 * size
    return next(limit for limit in limits if good[limit:].all())


@jit
def deal(passes: NDArray[np.float64], tiles: int) -> float:
    """Cycles of a chip: passes in their order, each to the tile that is free first."""
    busy = np.zeros(tiles)
    for number in range(len(passes)):
        busy[busy.argmin()] += passes[number]
    return float(busy.max())


@dataclass
class _Work:
    """A product on the way through: its passes, and what is known of them."""

    passes: NDArray[np.float64]  # cycles of each, where not drawn those of its like
    sets: int
    real_sets: int  # of elements that have an output
    variance: float  # of the sum of all passes
    terms: float
    kept: float
    alone: float
    columns: float
    outgrown: float
    mode: str
    at_least: float  # of the sum of all passes


def layer_cost(layer: Layer, machine: Machine, how: Any) -> LayerCost:
    """A layer on the chip, beside as many bit-parallel tiles as fit on the same area.

    Integers of 8 bits are taken as they are, exact in bfloat16, their scale applied to results; wider ones are rounded to
    bfloat16. A sample's error is that of the passes' sum, and of which passes come last; a layer whose tiles have so few passes
    that the second alone is too large is simulated whole. ``how.check`` replays 8-bit integers in exact sums, and compares 64
    sums of each product with :func:`dot_reference`.

    Raises:
        NotComputed: for a layer without a multiplication.
        Refused: ``fpraker-schedule`` where a check fails.
    """
    return _layer_cost(layer, machine, how, how.error)


def _layer_cost(layer: Layer, machine: Machine, how: Any, allowed: float) -> LayerCost:
    """The same, products sampled to the error ``allowed``, which shrinks until the layer's is as asked."""
    rules, tiles, dense_tiles = rules_of(machine, layer.name), tiles_of(machine), machine.whole("dense_tiles")
    if not layer.macs:
        raise NotComputed("it multiplies nothing")
    rng = np.random.default_rng([how.seed, *layer.name.encode(), *layer.role.encode()])
    count = (
        2 * len(layer.lengths) * layer.q.shape[1]
        if isinstance(layer, Attention)
        else layer.groups
        if isinstance(layer, Conv)
        else 1
    )
    work: list[_Work] = []
    effectual, serial, moved = 0, set(), _Moved(machine)
    for tensors in layer.tensors().items() if not isinstance(layer, Attention) else ():
        moved.operand(*tensors, 1 if layer.kind == "conv" else -1)
    for given in layer.products(LANES):
        product = Gemm(given.name, _operand(given.a), _operand(given.b), given.role)
        effectual += product.effectual()
        moved.result(product, last=not isinstance(layer, Conv) or len(work) + 1 == count)
        if isinstance(layer, Attention):  # each product's operands, probabilities among them
            names, k = (
                (("p", "v"), product.size[0])
                if product.name.endswith(".context")
                else (("q", "k"), layer.q.shape[2])
            )
            for name, x in zip(names, (product.a, product.b), strict=True):
                moved.operand(name, Tensor(x.values[:, :k], x.format), -1)
        which = serial_operand(product, machine["serial"])
        serial.add(which)
        a, b = (whole_bits(x) for x in (product.a, product.b)[:: 1 if which == "a" else -1])
        if how.check:
            _checked(product, a, b, rules, rng)
        work.append(_simulated(a, b, rules, how.mode, allowed * math.sqrt(count), rng, count))
    passes = np.concatenate([one.passes for one in work])
    dense = np.concatenate([np.full(len(one.passes), float(one.sets)) for one in work])
    mode = next((mode for mode in (BOUND, SAMPLED) if any(one.mode == mode for one in work)), EXACT)
    dense_cycles, cycles, error = deal(dense, dense_tiles), deal(passes, tiles), 0.0
    if mode == SAMPLED:  # which pass comes last is not known: dealt in other orders, too
        other = [
            deal(np.concatenate([rng.permutation(one.passes) for one in work]), tiles) for _ in range(ORDERS)
        ]
        cycles = float(np.mean([cycles, *other]))
        error = math.sqrt(sum(one.variance for one in work) / tiles**2 + np.var([cycles, *other], ddof=1))
        if error > how.error * cycles:
            if len(passes) < FEW * tiles:
                how = replace(how, mode=EXACT)
            return _layer_cost(layer, machine, how, 0.6 * allowed)
    real_sets = sum(one.real_sets for one in work)
    tile_sets = sum(one.sets * len(one.passes) for one in work)
    terms, kept, alone = (sum(getattr(one, x) for one in work) for x in ("terms", "kept", "alone"))
    alone -= tile_sets * rules.rows * rules.columns - real_sets  # elements without an output, a cycle a set
    detail = {
        "terms a set": terms / real_sets,
        "terms out of bounds": 1 - kept / terms if terms else 0.0,
        "out of bounds beyond": rules.out_of_bounds,
        "cycles a set, tile": float(passes.sum()) / tile_sets,
        "serial operand": "+".join(sorted(serial)),
        "tiles": tiles,
        "bit-parallel tiles": dense_tiles,
    }
    if mode == BOUND:
        detail["cycles at least"] = sum(one.at_least for one in work) / tiles
    else:
        columns = sum(one.columns for one in work) / rules.columns
        detail |= {
            "cycles a set, element alone": alone / real_sets,
            "cycles waiting for other columns": 1 - columns / float(passes.sum()),
            "sets beyond the integer bits": sum(one.outgrown for one in work) / real_sets,
        }
    speedup = dense_cycles / cycles
    detail["core energy, bit-parallel over serial"] = (
        speedup * dense_tiles / (tiles * machine.number("tile_power_ratio"))
    )
    own, raw = moved.dram_bytes(fits=isinstance(layer, Attention))
    detail |= moved.ratios()
    sram = float(tile_sets * (rules.rows + rules.columns) * LANES * 2 + moved.results * 2)
    return LayerCost(
        layer.name, layer.kind, layer.role, layer.macs,
        dense_cycles=dense_cycles, compute_cycles=cycles, mode=mode,
        peak_macs=float(tiles * rules.rows * rules.columns * LANES) / rules.exponent_share,
        effectual=effectual, error=error,
        dram_bytes=own, dense_dram_bytes=raw, sram_bytes=sram,
        events=_events(kept, alone, real_sets, tile_sets, rules), detail=detail,
    )  # fmt: skip


def _operand(x: Tensor) -> Tensor:
    return x if x.format in ("bf16", "int8") else x.bf16()


def _events(kept: float, alone: float, real_sets: int, tile_sets: int, rules: Rules) -> dict[str, float]:
    """What costs energy, widths scaled linearly to the energy table's 32 bits (chosen by us).

    A term: a shift within the reach and a place in the adder tree (16 bits each). A cycle of an element: a shift and an
    addition of the accumulator (16), its register and eight terms of four bits. A set of an element: eight sums, comparisons
    and differences of exponents (9 bits), and its B. A set of a column: eight significands into terms.
    """
    return {
        "shift_32": (kept + alone) / 2,
        "add_int32": (kept + alone) / 2 + real_sets * LANES * 2 * 9 / 32,
        "compare_32": real_sets * LANES * 9 / 32,
        "register_bit": alone * (24 + 4 * LANES),
        "fifo_bit": float(real_sets * LANES * 16),
        "logic_32": float(tile_sets * rules.columns * LANES),
    }


def _simulated(
    a: NDArray[np.uint16],
    b: NDArray[np.uint16],
    rules: Rules,
    mode: str,
    allowed: float,
    rng: np.random.Generator,
    of: int,
) -> _Work:
    """Passes of one of ``of`` products: all of them, some (to an error, as a share), or their bounds."""
    m, n, sets = len(a), len(b), a.shape[1] // LANES
    terms_a, live_b = TERMS[fields(a).significand], fields(b).significand != 0
    terms = float(terms_a.sum(0, dtype=np.int64) @ live_b.sum(0, dtype=np.int64))
    high, wide = -(-m // rules.columns), -(-n // rules.rows)
    if mode == BOUND:
        return _bounded(terms_a, live_b, rules, terms)
    # terms of a pass, exactly, from sums over its columns and rows
    of_a = np.add.reduceat(terms_a.astype(np.float32), np.arange(0, m, rules.columns), 0)
    of_b = np.add.reduceat(live_b.astype(np.float32), np.arange(0, n, rules.rows), 0)
    left, right = blocks(a, rules.columns), blocks(b, rules.rows)
    total = high * wide
    exact = mode == EXACT or (mode == "auto" and total * of * sets * rules.rows * rules.columns <= EXACT_SETS)

    def run(chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """(passes, 6): cycles, columns, alone, kept, outgrown, terms."""
        found = []
        for at in range(0, len(chosen), 1 << 12):
            part = chosen[at : at + (1 << 12)]
            which = np.stack([part // wide, part % wide], 1)
            done = run_passes(left, right, which, rules)
            own = np.zeros(len(part))
            if not exact:
                for x in range(0, len(part), 256):
                    some = which[x : x + 256]
                    own[x : x + 256] = np.einsum(
                        "pk,pk->p", of_a[some[:, 0]], of_b[some[:, 1]], dtype=np.float64
                    )
            found.append(
                np.stack(
                    [done.cycles, done.column_cycles, done.element_cycles, done.kept, done.outgrown, own], 1
                )
            )
        return np.concatenate(found).astype(np.float64)

    real = m * n * sets
    if exact:
        got = run(np.arange(total))
        sums = got.sum(0).tolist()
        return _Work(got[:, 0], sets, real, 0.0, terms, sums[3], sums[2], sums[1], sums[4], EXACT, sums[0])
    strata = _strata(of_a.sum(1), wide, rng)
    taken = [0] * len(strata)
    drawn: list[list[NDArray[np.float64]]] = [[] for _ in strata]
    aim = min(total, max(2 * len(strata), FIRST_DRAW // of))
    while True:
        for number, stratum in enumerate(strata):
            more = min(len(stratum), max(2, -(-aim * len(stratum) // total))) - taken[number]
            if more > 0:
                drawn[number].append(run(stratum[taken[number] : taken[number] + more]))
                taken[number] += more
        samples = [np.concatenate(one) for one in drawn]
        variance = 0.0
        for stratum, sample in zip(strata, samples, strict=True):
            if len(sample) < len(stratum):
                own = float(sample[:, 0].var(ddof=1))
                variance += len(stratum) ** 2 * own / len(sample) * (1 - len(sample) / len(stratum))
        sums = np.sum(
            [x.mean(0) * len(stratum) for stratum, x in zip(strata, samples, strict=True)], 0
        ).tolist()
        error = math.sqrt(variance) / sums[0]
        if error <= allowed or sum(taken) == total:
            break
        aim = min(total, max(2 * sum(taken), int(1.1 * sum(taken) * min(100.0, (error / allowed) ** 2))))
    passes = np.empty(total)
    for stratum, sample in zip(strata, samples, strict=True):
        rest = len(stratum) - len(sample)
        passes[stratum[: len(sample)]] = sample[:, 0]
        if rest:  # the drawn ones again, in any order, and their mean what the stratum's is
            again = rng.permutation(np.resize(sample[:, 0], rest))
            passes[stratum[len(sample) :]] = again + (sample[:, 0].mean() - again.mean())
    kept = terms * sums[3] / sums[5] if sums[5] else 0.0  # of terms, which are counted exactly
    done = EXACT if sum(taken) == total else SAMPLED
    return _Work(passes, sets, real, variance, terms, kept, sums[2], sums[1], sums[4], done, sums[0])


def _strata(
    terms: NDArray[np.float64], wide: int, rng: np.random.Generator, most: int = 12
) -> list[NDArray[np.int64]]:
    """Passes in up to twelve strata, in the order of the terms of their block of A, each stratum in a drawn order."""
    parts = np.array_split(np.argsort(terms, kind="stable"), min(most, len(terms)))
    return [rng.permutation((part[:, None] * wide + np.arange(wide)).ravel()) for part in parts]


def _bounded(terms_a: NDArray[np.uint8], live_b: NDArray[np.bool_], rules: Rules, terms: float) -> _Work:
    """Bounds that need no exponent: cycles are the upper one.

    A cycle fires at least one term, and raises the smallest shift: a lane that fired at k goes on at k + 2 or later (no two
    terms are adjacent), one that waited is beyond k + reach. Shifts lie in -1 … out_of_bounds. So a set takes no more cycles
    than its lanes have terms, and no more than ``(out_of_bounds + 1) // min(2, reach + 1) + 1``. It takes no fewer than its
    longest lane, where no term can be out of bounds, and never fewer than the share of the exponent block.
    """
    m, n = len(terms_a), len(live_b)
    high, wide = -(-m // rules.columns), -(-n // rules.rows)
    lanes = np.pad(terms_a, ((0, -m % rules.columns), (0, 0))).reshape(high, rules.columns, -1, LANES)
    most = (rules.out_of_bounds + 1) // min(2, rules.reach + 1) + 1
    upper = (
        np.clip(lanes.sum(3, dtype=np.int64), rules.exponent_share, max(most, rules.exponent_share))
        .max(1)
        .sum(1)
    )
    sets = lanes.shape[2]
    lower = np.full(high, rules.exponent_share * sets)
    if rules.out_of_bounds >= EVERY_TERM:  # lanes that have a partner in every block of B
        paired = np.logical_or.reduceat(live_b, np.arange(0, n, rules.rows), 0).all(0).reshape(sets, LANES)
        longest = np.where(paired, lanes, 0).max(3)
        lower = np.maximum(longest, rules.exponent_share).sum(2, dtype=np.int64).max(1)
    passes = np.repeat(upper.astype(np.float64), wide)
    real = m * n * sets
    alone = float(upper.sum()) * wide * rules.rows * rules.columns
    at_least = float(lower.sum()) * wide
    return _Work(passes, sets, real, 0.0, terms, terms, alone, alone, 0.0, BOUND, at_least)


def _checked(
    product: Gemm, a: NDArray[np.uint16], b: NDArray[np.uint16], rules: Rules, rng: np.random.Generator
) -> None:
    """Replay in integers where there are some, and compare sums of the kernel with big numbers."""
    if (
        product.a.format == product.b.format == "int8"
        and (replay(product, rules)[0] != product.result()).any()
    ):
        raise Refused(f"{product.name}: the replayed schedule gives other integers.", code="fpraker-schedule")
    high, wide = -(-len(a) // rules.columns), -(-len(b) // rules.rows)
    chosen = rng.choice(high * wide, min(64, high * wide), replace=False)
    which = np.stack([chosen // wide, chosen % wide], 1)
    done = run_passes(blocks(a, rules.columns), blocks(b, rules.rows), which, rules)
    for number, (i, j) in enumerate(which.tolist()):
        c = int(rng.integers(min(rules.columns, len(a) - i * rules.columns)))
        r = int(rng.integers(min(rules.rows, len(b) - j * rules.rows)))
        m, n = i * rules.columns + c, j * rules.rows + r
        found = int(done.s[number, c, r]) * Fraction(2) ** (int(done.e[number, c, r]) - rules.fraction_bits)
        if found != (expected := dot_reference(a[m], b[n], rules)):
            raise Refused(
                f"{product.name}: output ({m}, {n}) is {float(found)!r} and should be {float(expected)!r}.",
                code="fpraker-schedule",
            )


# Memory


@dataclass
class _Moved:
    """Bits of a layer's operands and results, as stored and raw. Channels, or what is summed over, are grouped."""

    machine: Machine
    own: dict[str, int] = field(default_factory=dict)
    raw: dict[str, int] = field(default_factory=dict)
    own_results: int = 0
    results: int = 0
    beside: list[NDArray[np.uint16]] = field(default_factory=list)

    def stored(self, bits: NDArray[np.uint16], axis: int) -> int:
        zeros = self.machine["zeros"]
        return (
            16 * bits.size
            if zeros == "raw"
            else stored_bits(bits, axis, self.machine.whole("group"), zeros=zeros)
        )

    def operand(self, name: str, x: Tensor, axis: int) -> None:
        bits = whole_bits(_operand(x))
        self.own[name] = self.own.get(name, 0) + self.stored(bits, axis)
        self.raw[name] = self.raw.get(name, 0) + 16 * bits.size

    def result(self, product: Gemm, last: bool) -> None:
        """In bfloat16, before any activation function; kept side by side up to the ``last``, then grouped along the outputs."""
        self.results += product.size[0] * product.size[1]
        if self.machine["zeros"] == "raw":
            self.own_results = 16 * self.results
            return
        a, b = (
            x.values.astype(np.float32) if x.format == "int8" else x.real() for x in (product.a, product.b)
        )
        self.beside.append(bf16_bits(a @ b.T))
        if last:
            self.own_results += self.stored(np.concatenate(self.beside, axis=1), -1)
            self.beside.clear()

    def ratios(self) -> dict[str, float]:
        found = {f"{name} stored over raw": bits / self.raw[name] for name, bits in self.own.items() if bits}
        return found | {"results stored over raw": self.own_results / (16 * self.results)}

    def dram_bytes(self, fits: bool) -> tuple[float, float]:
        """Of the chip and of the bit-parallel one.

        One operand lies in half of the buffer while the other streams by: what does not fit is cut, and the other is read
        again for each piece; the cheaper of the two ways. ``fits``: many small products, each operand read once. Results go
        out once.
        """
        half = self.machine.whole("operand_buffer_kb") * 1024 / 2

        def read(bits: dict[str, int]) -> float:
            sizes = [x / 8 for x in bits.values()]
            if fits or min(sizes) == 0:
                return sum(sizes)
            x, y = sizes
            return min(x + y * math.ceil(x / half), x * math.ceil(y / half) + y)

        return read(self.own) + self.own_results / 8, read(self.raw) + self.results * 2.0
