"""FPRaker: bfloat16 products, one operand's significand worked off as a series of signed powers of two.

O. Mohamed Awad, M. Mahmoud, I. Edo, A. Hadi Zadeh, C. Bannon, A. Jayarajan, G. Pekhimenko, A. Moshovos, "FPRaker: A Processing
Element For Accelerating Neural Network Training", MICRO 2021, arXiv:2010.08065. Built from the abstract, the patent
(WO2022016261A1) and figures from memory; what the sources leave open is a parameter or is stated below as ours.

**A set** is eight pairs (A, B) of one output's sum. A zero in either makes its lane idle.

- Exponent stage: ``e_i = ea_i + eb_i``; ``e_max`` is the largest of them and of the accumulator's exponent after its last
  normalisation (0 has none). ``d_i = e_max - e_i``.
- Term stage: a term of A_i at position p of its significand (7 is the hidden bit; the canonical form may reach 8) shifts B_i
  right by ``k = d_i + 7 - p``. Each cycle ``base`` is the smallest k in front; lanes with ``k - base <= reach`` fire one term.
- Out of bounds: a lane whose term in front has ``k > out_of_bounds`` is done, as its further terms are smaller yet.

**The accumulator** is ``s 2**(e - f)``, f fraction bits, ``2**f <= |s| < 2**(f + 1)`` or s = 0. Where the sources are silent:

- Before a set, s is shifted right to ``e_max``: to nearest, ties to even.
- A term reaches the adder tree as ``|B_i| 2**-k`` cut off (towards zero) at the accumulator's last place, then takes its sign. So a
  term with k > f is nothing, and ``out_of_bounds >= f`` changes no bit of any result; a smaller one does.
- Within a set the sum has as many integer bits as it needs (six: eight products below 4, and itself). How often it outgrew the
  machine's ``integer_bits`` is counted and reported.
- After the set it is normalised, to nearest, ties to even. Its exponent has as many bits as it needs.
- After ``chunk`` products it is added to an outer accumulator of the same form, rounded once, to nearest even, and starts at zero.
- Subnormal inputs are normalised on their way in, which is exact.

:func:`dot_reference` is this in Python's big numbers, terms all at once and in no cycles; the schedule, with or without numba, gives
the same bits. :func:`dot_parallel` is the bit-parallel baseline with the same accumulator: eight whole products, cut off at the
same place.

**A tile** is ``columns`` x ``rows`` of these: a column shares its A, a row its B. A column takes as long for a set as its slowest
element, and no less than ``exponent_share`` cycles, as so many elements take turns at an exponent block. Column c starts set s when it
has finished s - 1 and every column has finished s - 1 - ``buffer_depth``. A pass, one output an element, starts with all
columns together (chosen by us). **The chip** has as many tiles as the area of the bit-parallel ones buys; a pass goes to the tile that
is free first, on both. Which operand is A: :func:`serial_operand`.

Not here: the bfloat16 form of Bit-Pragmatic, which the paper has as a second baseline.
"""

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware.base_delta import ZEROS, stored_bits
from sparsam.hardware.cost import BOUND, EXACT, SAMPLED, LayerCost
from sparsam.hardware.designs import NotComputed
from sparsam.hardware.jit import jit, parallel, prange
from sparsam.hardware.machine import Machine
from sparsam.workload import Gemm, Layer, Tensor, bf16_bits

LANES = 8
"""Pairs in a set; from memory, not checked against the paper. The term masks of eight lanes are two 64-bit words."""
EVERY_TERM = 1000
"""An ``out_of_bounds`` that no pair of finite bfloat16 numbers reaches."""
SERIAL = ("role", "a", "b", "fewer")
NO_EXPONENT = -4096  # of a zero
NOTHING = -2000  # e_max of a set without a pair; below any sum of two exponents, above those with a zero's
EXACT_SETS = 30_000_000  # of single elements that mode auto still simulates one and all: seconds on a core
FIRST_DRAW = 96  # passes of a product


# Terms


def naf(significand: int) -> list[tuple[int, int]]:
    """The canonical form of a whole number: (position, digit 1 or -1), largest first, no two positions adjacent."""
    found, position = [], 0
    while significand:
        if significand & 1:
            digit = 2 - significand % 4
            found.append((position, digit))
            significand -= digit
        significand >>= 1
        position += 1
    return found[::-1]


def _term_tables() -> tuple[NDArray[np.int8], NDArray[np.int8], NDArray[np.uint8], NDArray[np.uint16]]:
    positions, digits = np.zeros((256, 5), np.int8), np.zeros((256, 5), np.int8)
    counts, masks = np.zeros(256, np.uint8), np.zeros(256, np.uint16)
    for significand in range(256):
        terms = naf(significand)
        counts[significand] = len(terms)
        for number, (position, digit) in enumerate(terms):
            positions[significand, number], digits[significand, number] = position, digit
            masks[significand] |= 1 << (8 - position)
    return positions, digits, counts, masks


POSITIONS, DIGITS, TERMS, MASKS = _term_tables()
"""Of all 256 significands: positions and digits of their terms, largest first; how many; and bit 8 - p set for a term at p."""


class Fields(NamedTuple):
    """Numbers taken apart; zeros have exponent :data:`NO_EXPONENT` and significand 0. The value is
    ``(-1)**negative significand 2**(exponent - 7)``.
    """

    exponent: NDArray[np.int16]
    significand: NDArray[np.uint8]
    negative: NDArray[np.uint8]


def fields(bits: NDArray[np.uint16]) -> Fields:
    """Of finite bfloat16, any shape. Subnormals are normalised."""
    exponent = ((bits >> 7) & 255).astype(np.int16)
    significand = (bits & 127).astype(np.uint8)
    subnormal = (exponent == 0) & (significand != 0)
    short = np.zeros_like(exponent)
    if subnormal.any():
        short[subnormal] = 8 - np.frexp(significand[subnormal].astype(np.float32))[1]
    whole = np.where(exponent > 0, significand | 128, significand << short.astype(np.uint8)).astype(np.uint8)
    unbiased = np.where(subnormal, -126 - short, exponent - 127)
    return Fields(
        np.where(whole == 0, NO_EXPONENT, unbiased).astype(np.int16), whole, (bits >> 15).astype(np.uint8)
    )


# The rules


@dataclass(frozen=True)
class Rules:
    """What an element and a tile of them do; see the head of this file.

    Args:
        reach: how far beyond the smallest shift a lane still fires.
        out_of_bounds: the largest shift of a term that is worked off.
        fraction_bits, integer_bits: of the accumulator.
        chunk: products until the accumulator is emptied into the outer one, a multiple of eight; 0 for never.
        rows, columns: of a tile.
        exponent_share: elements that take turns at an exponent block.
        buffer_depth: sets that a column may run ahead by.
    """

    reach: int = 3
    out_of_bounds: int = 12
    fraction_bits: int = 12
    integer_bits: int = 4
    chunk: int = 64
    rows: int = 8
    columns: int = 8
    exponent_share: int = 2
    buffer_depth: int = 1

    @property
    def sets_a_chunk(self) -> int:
        """1 << 40 where the accumulator is never emptied."""
        return self.chunk // LANES or 1 << 40


def rules_of(machine: Machine, layer: str = "") -> Rules:
    """A machine's rules for a layer: ``out_of_bounds_by_layer`` names patterns, the first that fits counts.

    Raises:
        Refused: ``machine-parameter``.
    """
    own = machine["out_of_bounds_by_layer"]
    if not isinstance(own, dict) or not all(
        isinstance(x, int) and not isinstance(x, bool) and 0 <= x <= EVERY_TERM for x in own.values()
    ):
        raise Refused(
            f"out_of_bounds_by_layer of machine {machine.name} is {own!r}; it must name layers (patterns) with whole numbers "
            f"from 0 to {EVERY_TERM}.",
            code="machine-parameter",
        )
    general = machine.whole("out_of_bounds", 0, EVERY_TERM)
    chunk = machine.whole("chunk", 0)
    if chunk % LANES:
        raise Refused(
            f"chunk of machine {machine.name} is {chunk}; it must be a multiple of {LANES}, or 0 for sums in one piece.",
            code="machine-parameter",
        )
    return Rules(
        reach=machine.whole("reach", 0, EVERY_TERM),
        out_of_bounds=next((x for name, x in own.items() if fnmatchcase(layer, name)), general),
        fraction_bits=machine.whole("fraction_bits", 7, 24),
        integer_bits=machine.whole("integer_bits", 1, 16),
        chunk=chunk,
        rows=machine.whole("rows", 1, 64),
        columns=machine.whole("columns", 1, 64),
        exponent_share=machine.whole("exponent_share", 1, 64),
        buffer_depth=machine.whole("buffer_depth", 0, 64),
    )


# An element, plainly


def schedule(
    a: NDArray[np.uint16], b: NDArray[np.uint16], rules: Rules, accumulator: int | None = None
) -> tuple[int, list[tuple[int, int, int, int]], int]:
    """One set, cycle by cycle; the reference.

    Args:
        a, b: (lanes,), bits of bfloat16; a is serial.
        rules: reach and out of bounds.
        accumulator: its exponent, None where it is zero.

    Returns:
        Cycles (0 where no term is worked off), what fired as (cycle, lane, position, digit), and e_max.
    """
    of_a, of_b = fields(a), fields(b)
    live = [i for i in range(len(a)) if of_a.significand[i] and of_b.significand[i]]
    exponent = {i: int(of_a.exponent[i]) + int(of_b.exponent[i]) for i in live}
    e_max = max([*exponent.values(), NOTHING if accumulator is None else accumulator])
    terms = {i: naf(int(of_a.significand[i])) for i in live}
    fired: list[tuple[int, int, int, int]] = []
    cycle = 0
    while True:
        shift = {}
        for i in live:
            if terms[i]:
                k = e_max - exponent[i] + 7 - terms[i][0][0]
                if k > rules.out_of_bounds:
                    terms[i] = []
                else:
                    shift[i] = k
        if not shift:
            return cycle, fired, e_max
        base = min(shift.values())
        fired += [(cycle, i, *terms[i].pop(0)) for i, k in shift.items() if k - base <= rules.reach]
        cycle += 1


def cut_off(significand: int, k: int, fraction_bits: int) -> int:
    """What a term brings: B's significand shifted right by k, cut off at the accumulator's last place, in units of it."""
    left = fraction_bits - 7 - k
    return significand << left if left >= 0 else significand >> -left


def dot_serial(
    a: NDArray[np.uint16], b: NDArray[np.uint16], rules: Rules
) -> tuple[Fraction, list[int], int]:
    """A whole sum through :func:`schedule`: the value, cycles of each set, and how many terms fired.

    Args:
        a, b: (k,), bits of bfloat16, k a multiple of eight.
        rules: of the element.
    """
    f = rules.fraction_bits
    total, cycles, kept = Fraction(0), [], 0
    s, e = 0, 0  # the accumulator: s 2**(e - f)
    for number, at in enumerate(range(0, len(a), LANES)):
        mine = slice(at, at + LANES)
        took, fired, e_max = schedule(a[mine], b[mine], rules, e if s else None)
        of_a, of_b = fields(a[mine]), fields(b[mine])
        s = round(Fraction(s, 1 << (e_max - e))) if s else 0
        for _, i, position, digit in fired:
            d = e_max - int(of_a.exponent[i]) - int(of_b.exponent[i])
            sign = -digit if of_a.negative[i] != of_b.negative[i] else digit
            s += sign * cut_off(int(of_b.significand[i]), d + 7 - position, f)
        s, e = _normalised_big(Fraction(s) * Fraction(2) ** (e_max - f), f)
        cycles.append(took)
        kept += len(fired)
        if (number + 1) % rules.sets_a_chunk == 0:
            total, s = _rounded_big(total + s * Fraction(2) ** (e - f), f), 0
    return _rounded_big(total + s * Fraction(2) ** (e - f), f), cycles, kept


# The same result without cycles, and what it is compared with


def _exponent_of(x: Fraction) -> int:
    """floor(log2 |x|) of a number that is not zero."""
    x = abs(x)
    guess = x.numerator.bit_length() - x.denominator.bit_length()
    return guess if Fraction(2) ** guess <= x else guess - 1


def _normalised_big(x: Fraction, fraction_bits: int) -> tuple[int, int]:
    """(s, e) of the nearest ``s 2**(e - f)``, ties to even."""
    if not x:
        return 0, 0
    e = _exponent_of(x)
    s = round(x / Fraction(2) ** (e - fraction_bits))  # Python rounds halves to even
    return (s // 2, e + 1) if abs(s) == 2 << fraction_bits else (s, e)


def _rounded_big(x: Fraction, fraction_bits: int) -> Fraction:
    s, e = _normalised_big(x, fraction_bits)
    return s * Fraction(2) ** (e - fraction_bits)


def exact_value(bits: int) -> Fraction:
    """A finite bfloat16 as a fraction."""
    exponent, fraction = (bits >> 7) & 255, bits & 127
    size = Fraction(fraction + (128 if exponent else 0)) * Fraction(2) ** (max(exponent, 1) - 134)
    return -size if bits >> 15 else size


def dot_exact(a: NDArray[np.uint16], b: NDArray[np.uint16]) -> Fraction:
    """The sum of products without any rounding."""
    return sum(
        (exact_value(x) * exact_value(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)), Fraction(0)
    )


def dot_reference(
    a: NDArray[np.uint16], b: NDArray[np.uint16], rules: Rules, *, whole: bool = False
) -> Fraction:
    """The accumulator's meaning in fractions: each set's terms all at once, no schedule, no tables, no fields.

    Args:
        a, b: (k,), bits of bfloat16; the sum is over sets of eight.
        rules: of the accumulator; terms beyond ``out_of_bounds`` are left out.
        whole: products are cut off once, whole, instead of term by term (the bit-parallel element); no term is left out.
    """
    f = rules.fraction_bits
    total = acc = Fraction(0)
    for number, at in enumerate(range(0, len(a), LANES)):
        pairs = [
            (x, y)
            for x, y in zip(a[at : at + LANES].tolist(), b[at : at + LANES].tolist(), strict=True)
            if x & 0x7FFF and y & 0x7FFF
        ]
        values = [(exact_value(x), exact_value(y)) for x, y in pairs]
        tops = [_exponent_of(x) + _exponent_of(y) for x, y in values]
        if acc:
            tops.append(_exponent_of(acc))
        if tops:
            unit = Fraction(2) ** (max(tops) - f)
            acc = round(acc / unit) * unit
            for x, y in values:
                if whole:
                    acc += math.trunc(x * y / unit) * unit
                    continue
                lift = Fraction(2) ** (7 - _exponent_of(x))
                for position, digit in naf(int(abs(x) * lift)):
                    term = (digit if x > 0 else -digit) * Fraction(2) ** position / lift
                    k = max(tops) - _exponent_of(y) - _exponent_of(abs(term))
                    if k <= rules.out_of_bounds:
                        acc += math.trunc(term * y / unit) * unit
            acc = _rounded_big(acc, f)
        if (number + 1) % rules.sets_a_chunk == 0:
            total, acc = _rounded_big(total + acc, f), Fraction(0)
    return _rounded_big(total + acc, f)


def dot_parallel(a: NDArray[np.uint16], b: NDArray[np.uint16], rules: Rules) -> Fraction:
    """The bit-parallel baseline: a set a cycle into the same accumulator. Differs from the serial one where terms are cut off."""
    return dot_reference(a, b, rules, whole=True)


# Kernels


@jit
def _shifted(x: int, n: int) -> int:
    """x / 2**n to nearest, ties to even; n may be negative."""
    if n <= 0:
        return x << -n
    if n > 40:  # |x| < 2**31
        return 0
    quotient = x >> n
    rest, half = x - (quotient << n), 1 << (n - 1)
    if rest > half or (rest == half and quotient & 1):
        quotient += 1
    return quotient


@jit
def _normalised(x: int, e: int, f: int) -> tuple[int, int]:
    """``x 2**(e - f)`` as (s, e) with ``2**f <= |s| < 2**(f + 1)``, rounded to nearest even."""
    if x == 0:
        return 0, e
    v, top = abs(x), 0
    for step in (32, 16, 8, 4, 2, 1):
        if v >> step:
            v >>= step
            top += step
    x = _shifted(x, top - f)
    e += top - f
    if abs(x) == 2 << f:
        x >>= 1
        e += 1
    return x, e


@jit
def _sum(x: int, ex: int, y: int, ey: int, f: int) -> tuple[int, int]:
    """Two accumulators' sum, rounded once."""
    if x == 0 or y == 0:
        return (y, ey) if x == 0 else (x, ex)
    if ex < ey:
        x, ex, y, ey = y, ey, x, ex
    if ex - ey > f + 2:  # less than a quarter of the larger one's last place
        return x, ex
    return _normalised((x << (ex - ey)) + y, ey, f)


@jit
def _masked_cycles(x0: int, x1: int, window: int) -> int:
    """Cycles of eight lanes given as masks of 16 bits, bit k + 1 set for a term with shift k. ``window`` has reach + 1 bits."""
    cycles = 0
    ones, tops = 0x0001000100010001, 0x0000800080008000
    while True:
        both = x0 | x1
        if both == 0:
            return cycles
        both |= both >> 32
        both = (both | (both >> 16)) & 0xFFFF
        fire = ((both & -both) * window & 0x7FFF) * ones
        x0 ^= x0 & ~((x0 | tops) - ones) & fire  # each lane's lowest bit, if the window has it
        x1 ^= x1 & ~((x1 | tops) - ones) & fire
        cycles += 1


@jit
def _masked_terms(x0: int, x1: int) -> int:
    """How many bits are set; no two of a lane are adjacent."""
    first, second = (x0 | (x0 >> 1)) & 0x5555555555555555, (x1 | (x1 >> 1)) & 0x5555555555555555
    pairs = (first & 0x3333333333333333) + ((first >> 2) & 0x3333333333333333)
    pairs += (second & 0x3333333333333333) + ((second >> 2) & 0x3333333333333333)
    pairs = (pairs & 0x0F0F0F0F0F0F0F0F) + ((pairs >> 4) & 0x0F0F0F0F0F0F0F0F)
    pairs += pairs >> 32
    pairs += pairs >> 16
    return (pairs + (pairs >> 8)) & 0xFF


@jit
def _issued(
    distance: NDArray[np.int64], significand: NDArray[np.int64], rules: NDArray[np.int64], fired: NDArray[np.int16],
    positions: NDArray[np.int8], terms: NDArray[np.uint8],
) -> tuple[int, int]:  # fmt: skip
    """Any set: cycles, and terms that fired. ``fired[lane, term]`` is the cycle, -1 where left out; ``significand`` 0 is idle."""
    reach, limit = rules[0], rules[1]
    lanes = len(distance)
    cycles, kept = 0, 0
    front = np.zeros(lanes, np.int64)
    fired[:] = -1
    while True:
        base = 1 << 30
        for i in range(lanes):
            if front[i] < terms[significand[i]]:
                k = distance[i] + 7 - positions[significand[i], front[i]]
                if k > limit:
                    front[i] = 8
                else:
                    base = min(base, k)
        if base == 1 << 30:
            return cycles, kept
        for i in range(lanes):
            if front[i] < terms[significand[i]]:
                if distance[i] + 7 - positions[significand[i], front[i]] - base <= reach:
                    fired[i, front[i]] = cycles
                    front[i] += 1
                    kept += 1
        cycles += 1


@parallel
def _passes(
    ea: NDArray[np.int16], sa: NDArray[np.uint8], na: NDArray[np.uint8],
    eb: NDArray[np.int16], sb: NDArray[np.uint8], nb: NDArray[np.uint8],
    which: NDArray[np.int64], rules: NDArray[np.int64], brought: NDArray[np.int32],
    masks: NDArray[np.uint16], positions: NDArray[np.int8], terms: NDArray[np.uint8],
    counts: NDArray[np.int64], s_of: NDArray[np.int64], e_of: NDArray[np.int64],
) -> None:  # fmt: skip
    """Passes of a tile. Operands are (rows, sets, lanes), rows a multiple of the tile's; the rest as in :func:`run_passes`."""
    reach, limit, f, per_chunk, floor, depth = rules[0], rules[1], rules[2], rules[3], rules[4], rules[5]
    outgrown, narrow = 1 << (f + rules[6]), limit <= 13
    columns, rows, sets, lanes = s_of.shape[1], s_of.shape[2], ea.shape[1], ea.shape[2]
    window, keep = (1 << min(reach + 1, 15)) - 1, (1 << min(limit + 2, 15)) - 1
    far, last = limit + 2, len(brought) - 1
    for number in prange(len(which)):
        first_a, first_b = which[number, 0] * columns, which[number, 1] * rows
        s, e = np.zeros((columns, rows), np.int64), np.zeros((columns, rows), np.int64)
        finish, before = np.zeros(columns, np.int64), np.zeros(depth + 1, np.int64)
        distance, significand = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
        fired = np.zeros((lanes, 5), np.int16)
        alone, in_columns, kept, wide = 0, 0, 0, 0
        for t in range(sets):
            gate, latest = before[t % (depth + 1)], 0
            for c in range(columns):
                slowest = floor
                for r in range(rows):
                    e_max = e[c, r] if s[c, r] != 0 else NOTHING
                    for i in range(lanes):
                        distance[i] = int(ea[first_a + c, t, i]) + int(eb[first_b + r, t, i])
                        e_max = max(e_max, distance[i])
                    brings, x0, x1 = 0, 0, 0
                    for i in range(lanes):
                        d = e_max - distance[i]
                        one, other = int(sa[first_a + c, t, i]), int(sb[first_b + r, t, i])
                        v = int(brought[min(d, last), one & 127, other & 127])
                        flip = -(int(na[first_a + c, t, i]) ^ int(nb[first_b + r, t, i]))
                        brings += (v ^ flip) - flip
                        if narrow:
                            mask = (int(masks[one]) << min(d, far)) & keep
                            if i < 4:
                                x0 |= mask << (16 * i)
                            else:
                                x1 |= mask << (16 * (i - 4))
                        else:
                            distance[i] = d
                            significand[i] = one if other else 0
                    if narrow:
                        took, worked = _masked_cycles(x0, x1, window), _masked_terms(x0, x1)
                    else:
                        took, worked = _issued(distance, significand, rules, fired, positions, terms)
                    kept += worked
                    alone += max(took, 1)
                    slowest = max(slowest, took)
                    total = brings
                    if s[c, r] != 0:
                        total += _shifted(s[c, r], e_max - e[c, r])
                    if abs(total) >= outgrown:
                        wide += 1
                    s[c, r], e[c, r] = _normalised(total, e_max, f)
                in_columns += slowest
                finish[c] = max(finish[c], gate) + slowest
                latest = max(latest, finish[c])
            before[t % (depth + 1)] = latest
            if (t + 1) % per_chunk == 0 or t + 1 == sets:
                for c in range(columns):
                    for r in range(rows):
                        s_of[number, c, r], e_of[number, c, r] = _sum(
                            s_of[number, c, r], e_of[number, c, r], s[c, r], e[c, r], f
                        )
                        s[c, r] = 0
        counts[number, 0], counts[number, 1], counts[number, 2] = finish.max(), in_columns, alone
        counts[number, 3], counts[number, 4] = kept, wide


@lru_cache(maxsize=8)
def _brought(fraction_bits: int, out_of_bounds: int) -> NDArray[np.int32]:
    """[d, a, b] what a lane adds in a set at distance d, both significands without their hidden bit; the last row is nothing."""
    last = min(out_of_bounds, fraction_bits) + 2
    b = np.arange(128, 256)
    found = np.zeros((last + 1, 128, 128), np.int32)
    for d in range(last):
        for a in range(128):
            for position, digit in naf(a + 128):
                k = d + 7 - position
                if k <= out_of_bounds:
                    left = fraction_bits - 7 - k
                    found[d, a] += digit * (b << left if left >= 0 else b >> -left)
    return found


class Passes(NamedTuple):
    """What passes of a tile took and gave, one index a pass.

    Args:
        cycles: of the tile.
        column_cycles: of all columns, without waiting for one another.
        element_cycles: of all elements, each for itself, one at least a set.
        kept: terms that fired.
        outgrown: sets that left the accumulator's integer bits.
        s, e: (passes, columns, rows), results ``s 2**(e - f)``.
    """

    cycles: NDArray[np.int64]
    column_cycles: NDArray[np.int64]
    element_cycles: NDArray[np.int64]
    kept: NDArray[np.int64]
    outgrown: NDArray[np.int64]
    s: NDArray[np.int64]
    e: NDArray[np.int64]

    def values(self, fraction_bits: int) -> NDArray[np.float64]:
        """(passes, columns, rows), the results; exact, as float64 holds more digits."""
        return np.ldexp(self.s.astype(np.float64), (self.e - fraction_bits).astype(np.int32))


def run_passes(a: Fields, b: Fields, which: NDArray[np.int64], rules: Rules) -> Passes:
    """Passes of a tile, compiled.

    Args:
        a: (m, sets, 8), the serial operand, m a multiple of the tile's columns.
        b: (n, sets, 8), n a multiple of the tile's rows.
        which: (passes, 2), blocks of a and b.
        rules: of the tile.
    """
    counts = np.zeros((len(which), 5), np.int64)
    s, e = (np.zeros((len(which), rules.columns, rules.rows), np.int64) for _ in range(2))
    numbers = np.array(
        [rules.reach, rules.out_of_bounds, rules.fraction_bits, rules.sets_a_chunk, rules.exponent_share,
         rules.buffer_depth, rules.integer_bits],
        np.int64,
    )  # fmt: skip
    brought = _brought(rules.fraction_bits, rules.out_of_bounds)
    _passes(*a, *b, which, numbers, brought, MASKS, POSITIONS, TERMS, counts, s, e)
    return Passes(*counts.T, s, e)
