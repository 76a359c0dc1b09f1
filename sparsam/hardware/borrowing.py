"""Borrowing of non-zero operations: the design space of Griffin, its schedules, and their replay.

J. H. Shin, A. Shafiee, A. Pedram, H. Abdel-Aziz, L. Li, J. Hassoun, *Griffin: Rethinking Sparse Optimization for Deep Learning
Architectures*, HPCA 2022, arXiv:2107.12922.

A core multiplies ``rows`` activations rows with ``columns`` weight columns, ``lanes`` numbers of each in a cycle. A slot of the
core is a step in time, a processing element (PE) and a lane. Where its own pair is zero, a multiplier may borrow one that is at
most d1 steps ahead, d2 lanes aside and d3 PEs aside: :class:`Distances`.

What the abstract does not fix is fixed here, and every result is that of this *reference schedule*: a slot takes its own
element first; then all idle slots try one place after the other, nearest time first, then nearest PE, then nearest lane; lanes
and PEs are rings inside the core and borrowing looks one way; the window moves by the leading steps done, at least one.

Letters: ``t`` steps, ``x`` what moves in lockstep and never borrows from each other, ``p`` PEs, ``l`` lanes, ``g`` groups of
PEs.
"""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused, Usage
from sparsam.hardware.jit import jit, parallel, prange

WORD = 64
"""Bits of a word: a column's multipliers (rows times lanes) must fit in one."""
SHUFFLE_GROUP = 4
"""Lanes that the shuffle rotates together (from memory and a reader's notes, not checked against the paper)."""


class Distances(NamedTuple):
    """How far a multiplier borrows: steps ahead, lanes aside, PEs aside (d1, d2, d3 of the paper)."""

    time: int
    lane: int
    pe: int


@dataclass(frozen=True)
class Core:
    """Multipliers: ``rows`` by ``columns`` PEs of ``lanes`` each (M0, N0, K0)."""

    rows: int = 4
    columns: int = 16
    lanes: int = 16

    @property
    def multipliers(self) -> int:
        """In all."""
        return self.rows * self.columns * self.lanes


@dataclass(frozen=True)
class Point:
    """A design in the space: how far it borrows by weights, by activations, and whether lanes are shuffled.

    Written ``B(4,0,1,on)``, ``A(2,1,0,off)``, ``AB(2,0,0,2,0,1,on)`` (activations first), ``dense``.
    """

    weights: Distances | None = None
    activations: Distances | None = None
    shuffle: bool = False

    @property
    def kind(self) -> str:
        """``dense``, ``A``, ``B`` or ``AB``."""
        return ("A" if self.activations else "") + ("B" if self.weights else "") or "dense"

    @property
    def name(self) -> str:
        """As it is written."""
        far = (*(self.activations or ()), *(self.weights or ()))
        ending = "on" if self.shuffle else "off"
        return f"{self.kind}({','.join(map(str, far))},{ending})" if far else "dense"

    @classmethod
    def parse(cls, text: str) -> "Point":
        """A point from how it is written; shuffling is off where nothing is said.

        Raises:
            Usage: ``borrowing-point``.
        """
        found = re.fullmatch(r"(A|B|AB)\((\d+(?:,\d+)*)(?:,(on|off))?\)", text.replace(" ", ""))
        numbers = [int(x) for x in found[2].split(",")] if found else []
        if not found or len(numbers) != 3 * len(found[1]):
            raise Usage(
                f"{text!r} is no point of the borrowing space; write B(4,0,1,on), A(2,1,0,off) or AB(2,0,0,2,0,1,on).",
                code="borrowing-point",
            )
        triples = [Distances(*numbers[at : at + 3]) for at in range(0, len(numbers), 3)]
        by = dict(zip(found[1], triples, strict=True))
        return cls(by.get("B"), by.get("A"), found[3] == "on")


STARRED = {
    "Sparse.B*": Point.parse("B(4,0,1,on)"),
    "Sparse.A*": Point.parse("A(2,1,0,on)"),
    "Sparse.AB*": Point.parse("AB(2,0,0,2,0,1,on)"),
}
"""The paper's choices of each kind (from memory, not checked against the paper)."""
GRIFFIN = {
    "AB": Point.parse("AB(2,0,0,2,0,1,on)"),
    "B": Point.parse("B(8,0,1,on)"),
    "A": Point.parse("A(2,1,1,on)"),
}
"""The hybrid: one set of buffers, multiplexers and adder trees in three modes (from memory, not checked against the paper)."""
EARLIER = {
    "Bit-Tactical (weights)": Point.parse("B(2,5,0)"),
    "TensorDash, one side": Point.parse("A(2,5,0)"),
    "TensorDash, both sides": Point.parse("AB(2,5,0,2,5,0)"),
}
"""Earlier designs as points (from memory, not checked against the paper). TensorDash's own eight places are no box of
distances: :mod:`sparsam.hardware.tensordash` has its rules."""


@dataclass(frozen=True)
class Resources:
    """What a design adds to each PE: depths of buffers in steps, inputs of a multiplier's multiplexers, adder trees."""

    a_buffer: int
    b_buffer: int
    a_mux: int
    b_mux: int
    adder_trees: int
    metadata_bits: int
    """Stored beside each weight of a schedule made before the run."""


def resources(point: Point) -> Resources:
    """The paper's cost formulas, from memory, not checked against the paper.

    That they give Griffin's three modes the same multiplexers and trees supports them. Metadata selects the place a weight was
    borrowed from: ceil(log2) of the places in time and lanes, and of the adder trees.
    """
    a, b = point.activations, point.weights
    bits = 0
    if b is not None:
        bits = (b.time * (1 + b.lane)).bit_length() + b.pe.bit_length()
    if a is None and b is None:
        return Resources(1, 1, 1, 1, 1, 0)
    if a is None and b is not None:
        return Resources(1 + b.time, 1, 1 + b.time * (1 + b.lane), 1, 1 + b.pe, bits)
    assert a is not None
    if b is None:
        far = 1 + a.time * (1 + a.lane) * (1 + a.pe)
        return Resources(1 + a.time, 1 + a.time, far, 1 + a.time * (1 + a.lane), 1 + a.pe, 0)
    window = (1 + a.time) * (1 + b.time)
    return Resources(
        window,
        1 + a.time,
        1 + (window - 1) * (1 + a.lane + b.lane) * (1 + a.pe),
        1 + a.time * (1 + a.lane) * (1 + b.pe),
        (1 + a.pe) * (1 + b.pe),
        bits,
    )


def check_distances(far: Distances, pes: int, lanes: int, who: str) -> None:
    """Raises Refused ``machine-parameter`` for distances that no core of so many PEs and lanes has."""
    for name, value, most in (("d1", far.time, 63), ("d2", far.lane, lanes - 1), ("d3", far.pe, pes - 1)):
        if not 0 <= value <= most:
            raise Refused(
                f"{who}: distance {name} is {value}; it must be from 0 to {most} for {pes} PEs of {lanes} lanes.",
                code="machine-parameter",
            )


# --- operands laid out for a core


def shuffled(x: NDArray[Any]) -> NDArray[Any]:
    """Rotate lanes inside each group of four by the step: lane j of step t moves to (j + t) mod 4 of its group.

    Done alike to both operands it changes no product; it spreads channels that are often zero over four lanes. The function of
    the step is chosen by us: the paper's is not established.

    Args:
        x: (g, t, p, l).
    """
    steps, lanes = x.shape[1], x.shape[3]
    if lanes % SHUFFLE_GROUP:
        raise _unshuffled(lanes)
    lane = np.arange(lanes)
    inside = (lane[None, :] - np.arange(steps)[:, None]) % SHUFFLE_GROUP
    source = lane[None, :] // SHUFFLE_GROUP * SHUFFLE_GROUP + inside  # (t, l)
    return np.take_along_axis(x, source[None, :, None, :], axis=3)


def _unshuffled(lanes: int) -> Refused:
    return Refused(
        f"shuffling rotates groups of {SHUFFLE_GROUP} lanes; {lanes} lanes are no multiple.",
        code="machine-parameter",
    )


def laid_out(x: NDArray[Any], pes: int, lanes: int, *, shuffle: bool = False) -> NDArray[Any]:
    """(n, k) numbers as (g, t, p, l): groups of ``pes`` rows, steps of ``lanes`` along k; zeros where the shape is ragged."""
    n, k = x.shape
    padded = np.pad(x, ((0, -n % pes), (0, -k % lanes)))
    found = padded.reshape(padded.shape[0] // pes, pes, padded.shape[1] // lanes, lanes).transpose(0, 2, 1, 3)
    return shuffled(found) if shuffle else np.ascontiguousarray(found)


def packed(mask: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """The last axis, at most 64 long, as the bits of a word; the first in the lowest bit."""
    wide = np.zeros((*mask.shape[:-1], WORD), np.bool_)
    wide[..., : mask.shape[-1]] = mask
    words = np.packbits(wide, axis=-1, bitorder="little").view("<u8")
    return np.ascontiguousarray(words.reshape(mask.shape[:-1])).astype(np.uint64)


def packed_groups(
    mask: NDArray[np.bool_], pes: int, lanes: int, *, shuffle: bool = False, joined: bool = False
) -> NDArray[np.uint64]:
    """(n, k) of what is not zero as words, as :func:`laid_out` and :func:`packed` give them, without a wide copy.

    Args:
        mask: (n, k).
        pes: rows of a group.
        lanes: of a step.
        shuffle: rotate lanes, on the words.
        joined: one word for all PEs of a step, lanes of the first in the lowest bits.

    Returns:
        (g, t, p), or (g, t) where ``joined``.
    """
    n, k = mask.shape
    if lanes % 8:
        steps = laid_out(mask, pes, lanes)
        words = packed(steps.reshape(*steps.shape[:2], -1) if joined else steps)
    else:
        whole = np.pad(mask, ((0, -n % pes), (0, -k % lanes)))
        bits = np.packbits(whole, axis=1, bitorder="little")
        steps = bits.reshape(len(whole) // pes, pes, whole.shape[1] // lanes, lanes // 8).transpose(
            0, 2, 1, 3
        )
        if joined:
            steps = steps.reshape(*steps.shape[:2], -1)
        wide = np.zeros((*steps.shape[:-1], WORD // 8), np.uint8)
        wide[..., : steps.shape[-1]] = steps
        words = wide.view("<u8")[..., 0].astype(np.uint64)
    if not shuffle:
        return words
    if lanes % SHUFFLE_GROUP:
        raise _unshuffled(lanes)
    by = (np.arange(words.shape[1]) % SHUFFLE_GROUP).astype(np.uint64)  # of each step
    by = by.reshape(1, -1, *[1] * (words.ndim - 2))
    ones = np.uint64(0x1111111111111111)
    low = ((np.uint64(1) << by) - np.uint64(1)) * ones  # lanes that come round
    around = (words >> (np.uint64(SHUFFLE_GROUP) - by)) & low
    return np.asarray(((words << by) & ~low) | around, np.uint64)


# --- the schedule


@dataclass(frozen=True)
class Schedule:
    """What each slot does in each cycle.

    Args:
        heads: (cycles,) step that the window starts at.
        picks: (cycles, x, p, l) place that the slot took from, an index into ``places``; -1 where it is idle.
        places: (places, 3) steps ahead, PEs aside, lanes aside; the first is the slot's own.
    """

    heads: NDArray[np.int64]
    picks: NDArray[np.int16]
    places: NDArray[np.int64]

    @property
    def cycles(self) -> int:
        """That the schedule takes."""
        return len(self.heads)


def places(far: Distances) -> NDArray[np.int64]:
    """(places, 3): where a slot looks, in order; steps ahead, PEs aside, lanes aside."""
    found = [(0, 0, 0)]
    for time in range(1, 1 + far.time):
        found += [(time, pe, lane) for pe in range(1 + far.pe) for lane in range(1 + far.lane)]
    return np.array(found, np.int64)


def reference_schedule(mask: NDArray[np.bool_], far: Distances) -> Schedule:
    """The reference schedule in plain Python, slot by slot: what the kernels must equal.

    Args:
        mask: (t, x, p, l), True where there is something to do.
        far: how far slots borrow, in t, l and p.
    """
    left = mask.copy()
    steps, xs, pes, lanes = mask.shape
    where = places(far)
    heads, picks = [], []
    t = 0
    while t < steps:
        pick = np.full((xs, pes, lanes), -1, np.int16)
        for number, (time, pe, lane) in enumerate(where):
            if t + time >= steps:
                continue
            for x in range(xs):
                for p in range(pes):
                    for l in range(lanes):  # noqa: E741
                        source = (t + time, x, (p + pe) % pes, (l + lane) % lanes)
                        if pick[x, p, l] < 0 and left[source]:
                            pick[x, p, l] = number
                            left[source] = False
        heads.append(t)
        picks.append(pick)
        t += 1
        for _ in range(far.time):
            if t < steps and not left[t].any():
                t += 1
            else:
                break
    return Schedule(np.array(heads, np.int64), np.array(picks, np.int16), where)


def moves_of(far: Distances, lanes: int, fields: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """The places as the kernels want them: (places, 3) steps, words, whether rotated; (places, 4) rotations and their masks.

    With one field a word is a PE's lanes and PEs are words; with more, a word is the lanes of all PEs of a column, and PEs are
    fields.
    """
    moves, turns = [], []
    for time, pe, lane in places(far).tolist():
        words, turn = (pe, 0) if fields == 1 else (0, pe % fields * lanes)
        lane %= lanes
        low, high = (1 << lane) - 1, ((1 << lane) - 1) << (lanes - lane)
        spread = sum(1 << (field * lanes) for field in range(fields))
        moves.append((time, words, bool(turn or lane)))
        turns.append((turn, lane, low * spread, high * spread))
    return np.array(moves, np.int64), np.array(turns, np.uint64)


@jit
def _towards(x: Any, turned: Any, lanes: Any, width: Any, full: Any) -> Any:
    """Bits of sources, moved to the slots that could take them (one word)."""
    turn, lane, high = turned[0], turned[1], turned[3]
    if turn:
        x = ((x >> turn) | (x << (width - turn))) & full
    if lane:
        x = ((x >> lane) & ~high) | ((x << (lanes - lane)) & high)
    return x


@jit
def _back(x: Any, turned: Any, lanes: Any, width: Any, full: Any) -> Any:
    """Bits of slots, moved to the sources they took (one word)."""
    turn, lane, low = turned[0], turned[1], turned[2]
    if lane:
        x = ((x << lane) & ~low & full) | ((x >> (lanes - lane)) & low)
    if turn:
        x = ((x << turn) | (x >> (width - turn))) & full
    return x


@jit
def _run(
    rows: Any, length: int, moves: Any, turns: Any, lanes: int, fields: int, left: Any, idle: Any, heads: Any, taken: Any,
    record: bool,
) -> int:  # fmt: skip
    """Schedule one tile.

    Args:
        rows: (t, w) words of what there is to do; the first ``length`` are read.
        moves, turns: of :func:`moves_of`.
        left: (1 + d1, w) room for the window, a ring.
        idle: (w,) room.
        heads: (t,) where ``record``: the window's first step in each cycle.
        taken: (t, places, w) where ``record``, else (1, places, w): slots that took from each place.
    """
    depth, words = left.shape
    width = np.uint64(lanes * fields)
    wide = np.uint64(lanes)
    one = np.uint64(1)
    full = ~np.uint64(0) if lanes * fields == 64 else (one << width) - one
    for d in range(depth):
        for w in range(words):
            left[d, w] = rows[d, w] if d < length else np.uint64(0)
    t, cycles, top = 0, 0, 0
    while t < length:
        at = cycles if record else 0
        if record:
            heads[at] = t
        for w in range(words):
            own = left[top, w]
            taken[at, 0, w] = own
            idle[w] = full & ~own
            left[top, w] = np.uint64(0)
        for o in range(1, len(moves)):
            d = (top + moves[o, 0]) % depth
            aside = moves[o, 1]
            for part in range(2):
                first = 0 if part == 0 else words - aside
                last = words - aside if part == 0 else words
                shift = aside if part == 0 else aside - words
                if moves[o, 2]:
                    for w in range(first, last):
                        got = _towards(left[d, w + shift], turns[o], wide, width, full) & idle[w]
                        idle[w] ^= got
                        left[d, w + shift] ^= _back(got, turns[o], wide, width, full)
                        taken[at, o, w] = got
                else:
                    for w in range(first, last):
                        got = left[d, w + shift] & idle[w]
                        idle[w] ^= got
                        left[d, w + shift] ^= got
                        taken[at, o, w] = got
        steps = 1
        while steps < depth:
            d = (top + steps) % depth
            some = np.uint64(0)
            for w in range(words):
                some |= left[d, w]
            if some:
                break
            steps += 1
        for s in range(steps):
            r = t + depth + s
            d = (top + s) % depth
            for w in range(words):
                left[d, w] = rows[r, w] if r < length else np.uint64(0)
        top = (top + steps) % depth
        t += steps
        cycles += 1
    return cycles


@jit
def _group(words: Any, moves: Any, turns: Any, depth: int, lanes: int) -> int:
    """Cycles of one group; words (t, p)."""
    pes = words.shape[1]
    left, idle = np.empty((depth, pes), np.uint64), np.empty(pes, np.uint64)
    heads, taken = np.empty(1, np.int64), np.empty((1, len(moves), pes), np.uint64)
    cycles: int = _run(words, len(words), moves, turns, lanes, 1, left, idle, heads, taken, False)
    return cycles


@parallel
def _single(words: Any, moves: Any, turns: Any, depth: int, lanes: int) -> Any:
    """Cycles of each group; words (g, t, p)."""
    found = np.empty(len(words), np.int64)
    for g in prange(len(words)):
        found[g] = _group(words[g], moves, turns, depth, lanes)
    return found


@jit
def _recorded(
    words: Any, moves: Any, turns: Any, depth: int, lanes: int, fields: int, heads: Any, taken: Any
) -> int:
    """One tile, with what each slot took; words (t, w)."""
    left = np.empty((depth, words.shape[1]), np.uint64)
    idle = np.empty(words.shape[1], np.uint64)
    return int(_run(words, len(words), moves, turns, lanes, fields, left, idle, heads, taken, True))


@jit
def _picks(taken: Any, cycles: int, bits: int) -> Any:
    """(cycles, w, bits) the place each slot took from, -1 where idle."""
    found = np.full((cycles, taken.shape[2], bits), -1, np.int16)
    one = np.uint64(1)
    for c in range(cycles):
        for o in range(taken.shape[1]):
            for w in range(taken.shape[2]):
                word = taken[c, o, w]
                if word:
                    for bit in range(bits):
                        if (word >> np.uint64(bit)) & one:
                            found[c, w, bit] = o
    return found


def schedule(mask: NDArray[np.bool_], far: Distances) -> Schedule:
    """The reference schedule of one tile by the bit-word kernel; see :func:`reference_schedule`.

    Args:
        mask: (t, x, p, l). With more than one x, p times l is at most 64.
        far: how far slots borrow.
    """
    steps, xs, pes, lanes = mask.shape
    fields = 1 if xs == 1 else pes
    words = packed(mask.reshape(steps, pes, lanes) if xs == 1 else mask.reshape(steps, xs, pes * lanes))
    moves, turns = moves_of(far, lanes, fields)
    heads = np.zeros(steps, np.int64)
    taken = np.zeros((steps, len(moves), words.shape[1]), np.uint64)
    cycles = _recorded(words, moves, turns, 1 + far.time, lanes, fields, heads, taken)
    picks = _picks(taken, cycles, fields * lanes).reshape(cycles, xs, pes, lanes)
    return Schedule(heads[:cycles], picks, places(far))


def single_cycles(words: NDArray[np.uint64], far: Distances, lanes: int) -> NDArray[np.int64]:
    """Cycles of each group where one operand alone is looked at (Sparse.B, Sparse.A).

    Args:
        words: (g, t, p), bits are lanes.
        far: how far slots borrow.
        lanes: bits that count.
    """
    found: NDArray[np.int64] = _single(words, *moves_of(far, lanes, 1), 1 + far.time, lanes)
    return found


# --- both operands: the weights' stream, then pairs of it


@dataclass(frozen=True)
class Streams:
    """Weights of each group of columns, compressed before the run.

    Args:
        lengths: (g,) rows of each stream.
        heads: (g, t) step that each row's window starts at.
        selects: (g, t, places in time and lanes, columns) slots whose activation lies there, repeated for each row of the core.
        places: (places in time and lanes, 2) steps ahead, lanes aside.
    """

    lengths: NDArray[np.int64]
    heads: NDArray[np.int64]
    selects: NDArray[np.uint64]
    places: NDArray[np.int64]

    @property
    def nbytes(self) -> int:
        """In memory."""
        return self.heads.nbytes + self.selects.nbytes


@jit
def _stream(
    words: Any,
    moves: Any,
    turns: Any,
    depth: int,
    lanes: int,
    kind: Any,
    spread: Any,
    heads: Any,
    selects: Any,
) -> int:
    """The stream of one group; kind (places,) is which select a place belongs to."""
    steps, pes = words.shape
    left, idle = np.empty((depth, pes), np.uint64), np.empty(pes, np.uint64)
    taken = np.empty((steps, len(moves), pes), np.uint64)
    cycles: int = _run(words, steps, moves, turns, lanes, 1, left, idle, heads, taken, True)
    for c in range(cycles):
        for o in range(len(moves)):
            for w in range(pes):
                selects[c, kind[o], w] |= taken[c, o, w] * spread
    return cycles


@parallel
def _compress(
    words: Any,
    moves: Any,
    turns: Any,
    depth: int,
    lanes: int,
    kind: Any,
    spread: Any,
    heads: Any,
    selects: Any,
) -> Any:
    """The streams of all groups."""
    found = np.empty(len(words), np.int64)
    for g in prange(len(words)):
        found[g] = _stream(words[g], moves, turns, depth, lanes, kind, spread, heads[g], selects[g])
    return found


def compress(words: NDArray[np.uint64], far: Distances | None, core: Core) -> Streams:
    """The offline pass of Sparse.AB over all groups of columns; without distances the weights as they are.

    Args:
        words: (g, t, columns), bits are lanes.
        far: how far weights are borrowed.
        core: for its rows and lanes.
    """
    far = far or Distances(0, 0, 0)
    where = places(far)
    seen = sorted({(int(time), int(lane)) for time, _, lane in where})
    kind = np.array([seen.index((int(time), int(lane))) for time, _, lane in where], np.int64)
    groups, steps, pes = words.shape
    heads = np.zeros((groups, steps), np.int64)
    selects = np.zeros((groups, steps, len(seen), pes), np.uint64)
    spread = np.uint64(sum(1 << (row * core.lanes) for row in range(core.rows)))
    moves, turns = moves_of(far, core.lanes, 1)
    lengths = _compress(words, moves, turns, 1 + far.time, core.lanes, kind, spread, heads, selects)
    most = int(lengths.max(initial=0))
    return Streams(
        lengths, heads[:, :most].copy(), selects[:, :most].copy(), np.array(seen, np.int64).reshape(-1, 2)
    )


@jit
def _pairs(
    a: Any, heads: Any, selects: Any, length: int, ahead: Any, bends: Any, lanes: int, fields: int, rows: Any
) -> None:
    """Rows of a stream against a group of activations: what is left to do, into rows (t, columns)."""
    width = np.uint64(lanes * fields)
    one = np.uint64(1)
    full = ~np.uint64(0) if lanes * fields == 64 else (one << width) - one
    for r in range(length):
        for w in range(rows.shape[1]):
            rows[r, w] = np.uint64(0)
        for j in range(len(ahead)):
            t = heads[r] + ahead[j]
            if t < len(a):
                word = _towards(a[t], bends[j], np.uint64(lanes), width, full)
                if word:
                    for w in range(rows.shape[1]):
                        rows[r, w] |= word & selects[r, j, w]


@jit
def _tile(
    a: Any, heads: Any, selects: Any, length: int, ahead: Any, bends: Any, moves: Any, turns: Any, depth: int,
    lanes: int, fields: int,
) -> int:  # fmt: skip
    """Cycles of one tile: a group of activations with the stream of a group of weights."""
    columns = selects.shape[2]
    rows = np.empty((length, columns), np.uint64)
    _pairs(a, heads, selects, length, ahead, bends, lanes, fields, rows)
    left, idle = np.empty((depth, columns), np.uint64), np.empty(columns, np.uint64)
    no_heads, taken = np.empty(1, np.int64), np.empty((1, len(moves), columns), np.uint64)
    cycles: int = _run(rows, length, moves, turns, lanes, fields, left, idle, no_heads, taken, False)
    return cycles


@parallel
def _dual(
    a: Any, heads: Any, selects: Any, lengths: Any, ahead: Any, bends: Any, moves: Any, turns: Any, depth: int,
    lanes: int, fields: int, tile_a: Any, tile_b: Any,
) -> Any:  # fmt: skip
    """Cycles of each tile (group of activations, group of weights)."""
    found = np.empty(len(tile_a), np.int64)
    for i in prange(len(tile_a)):
        g, h = tile_a[i], tile_b[i]
        found[i] = _tile(
            a[g], heads[h], selects[h], lengths[h], ahead, bends, moves, turns, depth, lanes, fields
        )
    return found


def _bends(streams: Streams, core: Core) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Steps ahead and lane rotations of a stream's places, for the kernels."""
    bends = [moves_of(Distances(1, int(lane), 0), core.lanes, core.rows)[1][-1] for _, lane in streams.places]
    return np.ascontiguousarray(streams.places[:, 0]), np.array(bends)


def dual_cycles(
    a_words: NDArray[np.uint64],
    streams: Streams,
    far: Distances,
    core: Core,
    tile_a: NDArray[np.int64],
    tile_b: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Cycles of tiles where pairs of a compressed stream are skipped on the fly (Sparse.AB).

    Args:
        a_words: (groups of rows, t), bits are rows times lanes.
        streams: of the weights.
        far: how far activations are borrowed.
        core: the multipliers.
        tile_a, tile_b: (tiles,) the groups of activations and of weights of each tile.
    """
    ahead, bends = _bends(streams, core)
    moves, turns = moves_of(far, core.lanes, core.rows)
    found: NDArray[np.int64] = _dual(
        a_words, streams.heads, streams.selects, streams.lengths, ahead, bends, moves, turns, 1 + far.time,
        core.lanes, core.rows, np.ascontiguousarray(tile_a, np.int64), np.ascontiguousarray(tile_b, np.int64),
    )  # fmt: skip
    return found


def dual_mask(a: NDArray[np.bool_], stream: Schedule) -> NDArray[np.bool_]:
    """What the online pass of Sparse.AB finds to do, (rows of the stream, columns, rows of the core, lanes), in plain NumPy.

    Args:
        a: (t, rows, l) activations that are not zero.
        stream: of the weights, x of length one.
    """
    picks = stream.picks[:, 0]  # (r, columns, l)
    where = stream.places[picks]
    t = np.minimum(stream.heads[:, None, None] + where[..., 0], len(a) - 1)
    lane = (np.arange(a.shape[2]) + where[..., 2]) % a.shape[2]
    row = np.arange(a.shape[1])[None, None, :, None]
    return np.asarray(a[t[:, :, None], row, lane[:, :, None]] & (picks >= 0)[:, :, None], np.bool_)


# --- what a schedule cannot beat


def least_cycles(counts: NDArray[np.int64], steps: int, far: Distances) -> NDArray[np.int64]:
    """Cycles that no schedule of such distances can beat.

    The window moves 1 + d1 steps a cycle at most; and what lies on neighbouring PEs and lanes can be done by these and those d3
    and d2 before them alone.

    Args:
        counts: (…, p, l) of what there is to do on each.
        steps: in time.
        far: how far slots borrow.

    Returns:
        (…) cycles.
    """
    pes, lanes = counts.shape[-2:]
    around = np.concatenate([counts, counts], axis=-2)
    ring = np.pad(np.concatenate([around, around], axis=-1), [(0, 0)] * (counts.ndim - 2) + [(1, 0), (1, 0)])
    ring = ring.cumsum(-2).cumsum(-1)
    least = np.full(counts.shape[:-2], -(-steps // (1 + far.time)), np.int64)
    for tall in range(1, pes + 1):
        strips = ring[..., tall : tall + pes, :] - ring[..., :pes, :]
        for wide in range(1, lanes + 1):
            inside = strips[..., wide : wide + lanes] - strips[..., :lanes]
            servers = min(tall + far.pe, pes) * min(wide + far.lane, lanes)
            least = np.maximum(least, -(-inside.max((-2, -1)) // servers))
    return least


# --- replay


@dataclass(frozen=True)
class Replayed:
    """What a schedule computes when it is carried out.

    Args:
        sums: (rows, columns) in the accumulators.
        times: (rows, columns, t, l) how often each pair of numbers was multiplied.
        busiest: multiplications of the busiest cycle.
    """

    sums: NDArray[np.int64]
    times: NDArray[np.int32]
    busiest: int


@jit
def _replay(
    a: Any, values: Any, stream_heads: Any, stream_picks: Any, stream_places: Any, heads: Any, picks: Any, pick_places: Any,
    a_depth: int, sums: Any, times: Any,
) -> int:  # fmt: skip
    """Carry out a schedule; returns the busiest cycle's multiplications, or -1 for one that the hardware could not do."""
    rows, columns, lanes = a.shape[1], values.shape[1], a.shape[2]
    trees = np.zeros((rows, columns), np.int64)  # by distance: [rows aside, columns aside]
    busiest = 0
    for c in range(len(heads)):
        busy = 0
        for n in range(columns):
            for m in range(rows):
                trees[:, :] = 0
                for k in range(lanes):
                    pick = picks[c, n, m, k]
                    if pick < 0:
                        continue
                    r = heads[c] + pick_places[pick, 0]
                    down = pick_places[pick, 1]
                    lane = (k + pick_places[pick, 2]) % lanes
                    if r >= len(stream_heads) or stream_picks[r, n, lane] < 0:
                        return -1  # an empty place of the stream
                    place = stream_picks[r, n, lane]
                    t = stream_heads[r] + stream_places[place, 0]
                    over = stream_places[place, 1]
                    source = (lane + stream_places[place, 2]) % lanes
                    if t >= len(a) or t - stream_heads[heads[c]] >= a_depth:
                        return -1  # beyond the activations' buffer
                    row, column = (m + down) % rows, (n + over) % columns
                    trees[down, over] += np.int64(a[t, row, source]) * np.int64(values[r, n, lane])
                    times[row, column, t, source] += 1
                    busy += 1
                for down in range(rows):
                    for over in range(columns):
                        sums[(m + down) % rows, (n + over) % columns] += trees[down, over]
        busiest = max(busiest, busy)
    return busiest


def stream_values(b: NDArray[Any], stream: Schedule) -> NDArray[Any]:
    """(rows of the stream, columns, l) weights in the order they are stored; zeros in its holes.

    Args:
        b: (t, columns, l).
        stream: of these weights.
    """
    picks = stream.picks[:, 0]
    where = stream.places[picks]  # (r, n, l, 3); holes read the last place and are put out below
    _, columns, lanes = picks.shape
    t = np.minimum(stream.heads[:, None, None] + where[..., 0], len(b) - 1)
    n = (np.arange(columns)[None, :, None] + where[..., 1]) % columns
    lane = (np.arange(lanes)[None, None, :] + where[..., 2]) % lanes
    return np.where(picks >= 0, b[t, n, lane], 0).astype(b.dtype)


def tile_schedules(a: NDArray[Any], b: NDArray[Any], point: Point) -> tuple[Schedule, Schedule]:
    """The stream of a tile's weights and the schedule of its multipliers.

    Where a design looks at one operand alone, the other pass is the plain one: a row of the stream is a step, or every
    multiplier takes its own place of every row.

    Args:
        a: (t, rows, l) activations.
        b: (t, columns, l) weights.
        point: the design.

    Returns:
        The stream, x of length one, p the columns; and the schedule over its rows, x the columns, p the core's rows.
    """
    (_, rows, lanes), columns = a.shape, b.shape[1]
    if point.weights is not None:
        stream = schedule((b != 0)[:, None], point.weights)
    else:
        every = np.zeros((len(b), 1, columns, lanes), np.int16)
        stream = Schedule(np.arange(len(b)), every, places(Distances(0, 0, 0)))
    if point.activations is None:
        taken = np.where(stream.picks[:, 0] >= 0, 0, -1).astype(np.int16)  # (r, columns, l)
        picks = np.repeat(taken[:, :, None, :], rows, axis=2)
        return stream, Schedule(np.arange(stream.cycles), picks, places(Distances(0, 0, 0)))
    if point.weights is not None:
        return stream, schedule(dual_mask(a != 0, stream), point.activations)
    found = schedule((a != 0)[:, None], point.activations)  # all columns alike
    picks = np.repeat(found.picks, columns, axis=1)
    return stream, Schedule(found.heads, picks, found.places)


def replay(a: NDArray[Any], b: NDArray[Any], stream: Schedule, online: Schedule, a_depth: int) -> Replayed:
    """Carry out the schedules of a tile: multiply what the multiplexers select, add into the accumulators the trees lead to.

    Args:
        a: (t, rows, l) activations, shuffled where the design shuffles.
        b: (t, columns, l) weights, shuffled alike.
        stream: of the weights.
        online: of the multipliers, over the rows of the stream.
        a_depth: steps that the activations' buffer holds.

    Raises:
        Refused: ``schedule-impossible`` where a multiplier would reach beyond a buffer or into a hole of the stream.
    """
    rows, columns = a.shape[1], b.shape[1]
    sums = np.zeros((rows, columns), np.int64)
    times = np.zeros((rows, columns, a.shape[0], a.shape[2]), np.int32)
    busiest = _replay(
        a, stream_values(b, stream), stream.heads, stream.picks[:, 0], stream.places, online.heads, online.picks,
        online.places, a_depth, sums, times,
    )  # fmt: skip
    if busiest < 0:
        raise Refused(
            "the schedule reads an empty place of the stream or beyond the activations' buffer.",
            code="schedule-impossible",
        )
    return Replayed(sums, times, int(busiest))


def replay_product(
    a: NDArray[Any], b: NDArray[Any], point: Point, core: Core
) -> tuple[NDArray[np.int64], int]:
    """A whole product by its schedules: (m, n) sums of ``a`` (m, k) with ``b`` (n, k), and its cycles.

    Raises:
        Refused: ``schedule-impossible``, also where a pair was multiplied twice or an effectual one never.
    """
    left = laid_out(a, core.rows, core.lanes, shuffle=point.shuffle)
    right = laid_out(b, core.columns, core.lanes, shuffle=point.shuffle)
    found = np.zeros((len(left) * core.rows, len(right) * core.columns), np.int64)
    depth, cycles = resources(point).a_buffer, 0
    for g, one in enumerate(left):
        for h, other in enumerate(right):
            stream, online = tile_schedules(one, other, point)
            done = replay(one, other, stream, online, depth)
            pairs = (one.transpose(1, 0, 2)[:, None] != 0) & (other.transpose(1, 0, 2)[None] != 0)
            if (done.times > 1).any() or (done.times[pairs] != 1).any() or done.busiest > core.multipliers:
                raise Refused(f"tile ({g}, {h}) is not computed exactly once.", code="schedule-impossible")
            rows = slice(g * core.rows, (g + 1) * core.rows)
            found[rows, h * core.columns : (h + 1) * core.columns] = done.sums
            cycles += online.cycles
    return found[: len(a), : len(b)], cycles
