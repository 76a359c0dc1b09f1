"""FPRaker's processing element: terms, rules, accumulator, what it is held against, kernels; see :mod:`.fpraker`."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware.jit import jit, numba
from sparsam.hardware.machine import Machine
from sparsam.workload import Gemm, Tensor, bf16_bits

LANES = 8
"""Pairs in a set; from memory, not checked against the paper. The term masks of eight lanes are two 64-bit words."""
EVERY_TERM = 1000
"""An ``out_of_bounds`` that no pair of finite bfloat16 numbers reaches."""
SERIAL = ("role", "a", "b", "fewer")
NO_EXPONENT = -4096  # of a zero
NOTHING = -2000  # e_max of a set without a pair; below any sum of two exponents, above those with a zero's
EXACT_SETS = 30_000_000  # of single elements that mode auto still simulates one and all: seconds on a core
FIRST_DRAW = 96  # passes of a layer
ORDERS = 8  # of sampled passes, dealt to the tiles
FEW = 200  # passes a tile, below which a layer may be simulated whole


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
    """Numbers taken apart: ``(-1)**negative significand 2**(exponent - 7)``; zeros have :data:`NO_EXPONENT` and 0."""

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


def dot_serial(a: NDArray[np.uint16], b: NDArray[np.uint16], rules: Rules) -> tuple[Fraction, list[int], int]:
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
    """The bit-parallel baseline: a set a cycle into the same accumulator. Differs from the serial one in what is cut off."""
    return dot_reference(a, b, rules, whole=True)


# Kernels


@jit
def _issued(
    distance: NDArray[np.int64], significand: NDArray[np.int64], reach: int, limit: int, fired: NDArray[np.int16],
    positions: NDArray[np.int8], terms: NDArray[np.uint8],
) -> tuple[int, int]:  # fmt: skip
    """Any set: cycles, and terms that fired. ``fired[lane, term]`` is the cycle, -1 where left out; an idle lane has 0."""
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
            more = front[i] < terms[significand[i]]
            if more and distance[i] + 7 - positions[significand[i], front[i]] - base <= reach:
                fired[i, front[i]] = cycles
                front[i] += 1
                kept += 1
        cycles += 1


@jit
def _passes(
    ea: NDArray[np.int16], ca: NDArray[np.uint8], eb: NDArray[np.int16], cb: NDArray[np.uint8],
    which: NDArray[np.int64], rules: NDArray[np.int64], brought: NDArray[np.int32],
    masks: NDArray[np.int64], positions: NDArray[np.int8], terms: NDArray[np.uint8],
    counts: NDArray[np.int64], s_of: NDArray[np.int64], e_of: NDArray[np.int64],
) -> None:  # fmt: skip
    """Passes of a tile, see :func:`run_passes`.

    Plain loops over all elements of a tile, which the compiler turns into vector instructions. A lane is a mask of 16 bits, bit
    k + 1 set for a term with shift k; four lanes are a word.
    """
    reach, limit, f, per_chunk, floor, depth = rules[0], rules[1], rules[2], rules[3], rules[4], rules[5]
    outgrown, narrow = 1 << (f + rules[6]), limit <= 13
    columns, rows, sets, lanes = s_of.shape[1], s_of.shape[2], ea.shape[1], ea.shape[2]
    window, keep, far = (1 << min(reach + 1, 15)) - 1, (1 << min(limit + 2, 15)) - 1, brought.shape[1] - 1
    ones, tops = 0x0001000100010001, 0x0000800080008000
    all_of = columns * rows
    tile = np.zeros((10, columns, rows), np.int64)  # by column and row, and the same in one line
    top2, x02, x12, took2, total2 = tile[0], tile[1], tile[2], tile[3], tile[4]
    line = tile.reshape(10, all_of)
    top, x0, x1, took, total = line[0], line[1], line[2], line[3], line[4]
    s, e, outer, outer_e = line[5], line[6], line[7], line[8]
    real = np.zeros(all_of)
    pattern = real.view(np.int64)
    distance, significand = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
    fired = np.zeros((lanes, 5), np.int16)
    finish, before = np.zeros(columns, np.int64), np.zeros(depth + 1, np.int64)
    for number in range(len(which)):
        own_a, own_b = which[number, 0], which[number, 1]
        s[:], outer[:], outer_e[:], finish[:], before[:] = 0, 0, 0, 0, 0
        alone, in_columns, kept, wide = 0, 0, 0, 0
        for t in range(sets):
            # exponent stage
            for j in range(all_of):
                top[j] = e[j] if s[j] != 0 else NOTHING
                x0[j] = x1[j] = total[j] = took[j] = 0
            for i in range(lanes):
                for c in range(columns):
                    exponent = int(ea[own_a, t, i, c])
                    for r in range(rows):
                        top2[c, r] = max(top2[c, r], exponent + int(eb[own_b, t, i, r]))
            # what each lane brings to the accumulator, and its terms
            for i in range(lanes):
                shift = 16 * (i & 3)
                word = x02 if i < 4 else x12
                for c in range(columns):
                    exponent, code = int(ea[own_a, t, i, c]), int(ca[own_a, t, i, c])
                    mask, negative = masks[code & 127], code >> 7
                    mine = brought[code & 127]
                    for r in range(rows):
                        d = min(top2[c, r] - exponent - int(eb[own_b, t, i, r]), far)
                        word[c, r] |= ((mask << d) & keep) << shift
                        other = int(cb[own_b, t, i, r])
                        v, flip = int(mine[d, other & 127]), -(negative ^ (other >> 7))
                        total2[c, r] += (v ^ flip) - flip
            # cycles
            if narrow:
                for j in range(all_of):  # bits set: no two of a lane are adjacent
                    one = (x0[j] | (x0[j] >> 1)) & 0x5555555555555555
                    two = (x1[j] | (x1[j] >> 1)) & 0x5555555555555555
                    one = (one & 0x3333333333333333) + ((one >> 2) & 0x3333333333333333)
                    one += (two & 0x3333333333333333) + ((two >> 2) & 0x3333333333333333)
                    one = (one & 0x0F0F0F0F0F0F0F0F) + ((one >> 4) & 0x0F0F0F0F0F0F0F0F)
                    one += one >> 32
                    one += one >> 16
                    kept += (one + (one >> 8)) & 0xFF
                left = 1
                while left:
                    left = 0
                    for j in range(all_of):
                        both = x0[j] | x1[j]
                        both |= both >> 32
                        both = (both | (both >> 16)) & 0xFFFF
                        fire = ((both & -both) * window & 0x7FFF) * ones
                        x0[j] ^= (
                            x0[j] & ~((x0[j] | tops) - ones) & fire
                        )  # each lane's lowest bit, if the window has it
                        x1[j] ^= x1[j] & ~((x1[j] | tops) - ones) & fire
                        took[j] += 1 if both else 0
                        left |= x0[j] | x1[j]
            else:
                for j in range(all_of):
                    c, r = j // rows, j % rows
                    for i in range(lanes):
                        exponent = int(ea[own_a, t, i, c]) + int(eb[own_b, t, i, r])
                        distance[i] = top[j] - exponent
                        significand[i] = 128 | (int(ca[own_a, t, i, c]) & 127) if exponent > NOTHING else 0
                    took[j], worked = _issued(distance, significand, reach, limit, fired, positions, terms)
                    kept += worked
            # accumulator: to e_max, to nearest even; add; normalise, to nearest even
            for j in range(all_of):
                n = min(top[j] - e[j], 40) if s[j] != 0 else 0  # |s| < 2**25
                moved = (s[j] + (((1 << n) - 1) >> 1) + ((s[j] >> n) & (1 if n > 0 else 0))) >> n
                total[j] += moved
                real[j] = abs(total[j])
                wide += 1 if abs(total[j]) >= outgrown else 0
                alone += max(took[j], 1)
            for j in range(all_of):
                n = (pattern[j] >> 52) - 1023 - f  # floor(log2) of a whole number in a float64, less f
                right, left = max(n, 0), min(max(-n, 0), 32)
                moved = total[j] << left
                moved = (
                    moved + (((1 << right) - 1) >> 1) + ((moved >> right) & (1 if right > 0 else 0))
                ) >> right
                over = 1 if abs(moved) == 2 << f else 0
                s[j] = moved >> over
                e[j] = top[j] + n + over
            # columns run ahead as far as the buffers go
            gate, latest = before[t % (depth + 1)], 0
            for c in range(columns):
                slowest = floor
                for r in range(rows):
                    slowest = max(slowest, took2[c, r])
                in_columns += slowest
                finish[c] = max(finish[c], gate) + slowest
                latest = max(latest, finish[c])
            before[t % (depth + 1)] = latest
            if (t + 1) % per_chunk == 0 or t + 1 == sets:
                for j in range(all_of):
                    outer[j], outer_e[j] = _sum(outer[j], outer_e[j], s[j], e[j], f)
                    s[j] = 0
        for j in range(all_of):
            s_of[number, j // rows, j % rows], e_of[number, j // rows, j % rows] = outer[j], outer_e[j]
        counts[number, 0], counts[number, 1], counts[number, 2] = finish.max(), in_columns, alone
        counts[number, 3], counts[number, 4] = kept, wide


@jit
def _sum(x: int, ex: int, y: int, ey: int, f: int) -> tuple[int, int]:
    """Two accumulators' sum, rounded once, to nearest even."""
    if x == 0 or y == 0:
        return (y, ey) if x == 0 else (x, ex)
    if ex < ey:
        x, ex, y, ey = y, ey, x, ex
    if ex - ey > f + 2:  # less than a quarter of the larger one's last place
        return x, ex
    x = (x << (ex - ey)) + y
    if x == 0:
        return 0, 0
    n = -f
    while abs(x) >> (f + n) > 1:
        n += 1
    if n <= 0:
        return x << -n, ey + n
    x = (x + (((1 << n) - 1) >> 1) + ((x >> n) & 1)) >> n
    return (x >> 1, ey + n + 1) if abs(x) == 2 << f else (x, ey + n)


def threads() -> int:
    """How many threads numba may use; passes are dealt to so many. Its own parallel loops take twice as long to compile."""
    return int(numba.get_num_threads()) if numba is not None else 1


@lru_cache(maxsize=8)
def _brought(fraction_bits: int, out_of_bounds: int) -> NDArray[np.int32]:
    """[a, d, b] what a lane adds in a set at distance d, both significands without their hidden bit; nothing at the last d."""
    far = (out_of_bounds if out_of_bounds <= 13 else fraction_bits) + 2
    b = np.arange(128, 256)
    found = np.zeros((128, far + 1, 128), np.int32)
    for a in range(128):
        for d in range(far):
            for position, digit in naf(a + 128):
                k = d + 7 - position
                if k <= out_of_bounds:
                    left = fraction_bits - 7 - k
                    found[a, d] += digit * (b << left if left >= 0 else b >> -left)
    return found


class Blocks(NamedTuple):
    """An operand in blocks of a tile's columns or rows, (blocks, sets, lanes, width).

    Args:
        exponent: :data:`NO_EXPONENT` of a zero.
        code: the significand without its hidden bit, and the sign in bit 7.
    """

    exponent: NDArray[np.int16]
    code: NDArray[np.uint8]


def blocks(x: NDArray[np.uint16], width: int) -> Blocks:
    """(rows, k) bits of bfloat16, k a multiple of eight; rows are padded with zeros to a multiple of ``width``."""
    x = np.pad(x, ((0, -len(x) % width), (0, 0)))
    of = fields(x.reshape(len(x) // width, width, -1, LANES).transpose(0, 2, 3, 1))
    return Blocks(
        np.ascontiguousarray(of.exponent), np.ascontiguousarray((of.significand & 127) | (of.negative << 7))
    )


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


def run_passes(a: Blocks, b: Blocks, which: NDArray[np.int64], rules: Rules) -> Passes:
    """Passes of a tile, compiled, on all of numba's threads; each pass is for itself.

    Args:
        a: the serial operand, in blocks of the tile's columns.
        b: the other, in blocks of its rows.
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
    brought, masks = _brought(rules.fraction_bits, rules.out_of_bounds), MASKS[128:].astype(np.int64)

    def some(part: slice) -> None:
        _passes(
            *a, *b, which[part], numbers, brought, masks, POSITIONS, TERMS, counts[part], s[part], e[part]
        )

    size = max(1, -(-len(which) // (4 * threads())))
    parts = [slice(at, at + size) for at in range(0, len(which), size)]
    if threads() == 1 or len(parts) == 1:
        for part in parts:
            some(part)
    else:
        with ThreadPoolExecutor(threads()) as pool:
            list(pool.map(some, parts))
    cycles, columns, alone, kept, outgrown = counts.T
    return Passes(cycles, columns, alone, kept, outgrown, s, e)


# Replay


@jit
def _replayed(
    ea: NDArray[np.int16], sa: NDArray[np.uint8], na: NDArray[np.uint8],
    eb: NDArray[np.int16], sb: NDArray[np.uint8], nb: NDArray[np.uint8],
    reach: int, positions: NDArray[np.int8], digits: NDArray[np.int8], terms: NDArray[np.uint8],
    out: NDArray[np.int64],
) -> tuple[int, int]:  # fmt: skip
    """Sums of whole-numbered operands (rows, sets, lanes) from the schedule; terms fired, and cycles that break a rule."""
    lanes = ea.shape[2]
    distance, significand = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
    fired = np.zeros((lanes, 5), np.int16)
    done, breaches = 0, 0
    for m in range(len(ea)):
        for n in range(len(eb)):
            for t in range(ea.shape[1]):
                top = NOTHING
                for i in range(lanes):
                    distance[i] = int(ea[m, t, i]) + int(eb[n, t, i])
                    top = max(top, distance[i])
                for i in range(lanes):
                    significand[i] = sa[m, t, i] if sb[n, t, i] else 0
                    distance[i] = top - distance[i]
                cycles, kept = _issued(distance, significand, reach, EVERY_TERM, fired, positions, terms)
                done += kept
                for cycle in range(cycles):
                    base, most, count = 1 << 30, -(1 << 30), 0
                    for i in range(lanes):
                        here = 0
                        for j in range(terms[significand[i]]):
                            if fired[i, j] == cycle:
                                here += 1
                                k = distance[i] + 7 - int(positions[significand[i], j])
                                base, most = min(base, k), max(most, k)
                                # sig_a sig_b 2**(ea + eb - 14), a term of it: whole, as both numbers are
                                up = top - k - 7
                                sign = (
                                    -digits[significand[i], j]
                                    if na[m, t, i] != nb[n, t, i]
                                    else digits[significand[i], j]
                                )
                                out[m, n] += sign * (
                                    int(sb[n, t, i]) << up if up >= 0 else int(sb[n, t, i]) >> -up
                                )
                        count += here
                        breaches += 1 if here > 1 else 0
                    breaches += 1 if count == 0 or count > lanes or most - base > reach else 0
    return done, breaches


def replay(product: Gemm, rules: Rules) -> tuple[NDArray[np.int64], int]:
    """Execute the schedule of a product of 8-bit integers with an accumulator that rounds nothing.

    Every term of every pair is issued (``out_of_bounds`` does not count here); integers up to 256 are bfloat16 as they are.

    Returns:
        (m, n) sums, and how many terms fired.

    Raises:
        Refused: ``workload-integers`` for wider operands, ``fpraker-schedule`` for a schedule that breaks a rule of the
            element or leaves a term out.
    """
    if product.a.format != "int8" or product.b.format != "int8":
        raise Refused(
            f"{product.name}: a replay in integers is of int8; got {product.a.format} and {product.b.format}.",
            code="workload-integers",
        )
    a, b = (fields(whole_bits(x).reshape(len(x.values), -1, LANES)) for x in (product.a, product.b))
    out = np.zeros((len(product.a.values), len(product.b.values)), np.int64)
    fired, breaches = _replayed(*a, *b, rules.reach, POSITIONS, DIGITS, TERMS, out)
    expected = int(
        TERMS[a.significand].sum(0, dtype=np.int64).ravel()
        @ (b.significand != 0).sum(0, dtype=np.int64).ravel()
    )
    if breaches or fired != expected:
        raise Refused(
            f"{product.name}: {breaches} cycles break a rule; {fired} of {expected} terms fired.",
            code="fpraker-schedule",
        )
    return out, fired


def whole_bits(x: Tensor) -> NDArray[np.uint16]:
    """Operands as bfloat16; integers as the numbers they are, exact below 256."""
    return x.values if x.format == "bf16" else bf16_bits(x.values.astype(np.float32))
