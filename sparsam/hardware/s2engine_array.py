"""S2Engine's array: its compressed streams, selection, queues and multipliers, tick by tick; see :mod:`.s2engine`.

Letters: ``r`` rows of the array, ``c`` columns, ``g`` groups of one output, ``s`` rounds (an output position for each row).
"""

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware.jit import COMPILED, jit
from sparsam.hardware.machine import Machine

GROUP = 16
"""Consecutive channels of one position of the kernel; offsets have 4 bits."""
OFF, KEY, OUT, LAST, EMPTY, LOW, HIGH = 0xF, 0x1F0, 0x200, 0x400, 0x800, 0x1000, 0x2000
"""Bits of an element's code: offset; order (the offset, or 16 for the last of its group, which waits for the other stream);
end of kernel; last of its stream; nothing there; low and high half of a 16-bit number."""
END = 0x100  # the top bit of KEY: the last of its group
DONE = EMPTY | LAST
UNLIMITED = 1 << 30
"""A queue that never fills."""
PLACE_X, PLACE_W = 1, 0
"""Where the explicit zero of a group without a number stands: activations at offset 1, weights at 0 (authors' simulator)."""
SEGMENT_WARM, SEGMENT_LENGTH = 64, 128
"""Groups of a sampled segment that fill the array before it is watched, and groups that are watched; chosen by us: over twelve
seeds and six layers the mean of the samples was within one standard error of the exact ticks."""
EXACT_LIMIT = 2.5e8
"""PE ticks of a layer up to which ``auto`` is exact: about a second on a core; chosen by us."""
LEAST_SEGMENTS = 24
"""Segments of a sample before its standard error is trusted; chosen by us."""


class Array(NamedTuple):
    """The array of a machine: its size, depths of the queues, clocks.

    ``num / den`` ticks of the selection clock to a cycle of the multipliers. ``drain``: sums leave downwards through the
    S-FIFOs, and a sum that cannot leave holds its multiplier up; without it they vanish.
    """

    rows: int = 16
    columns: int = 16
    w: int = 3
    x: int = 3
    wx: int = 8
    s: int = 1
    num: int = 4
    den: int = 1
    drain: bool = True


def array_of(machine: Machine) -> Array:
    """The array of a machine.

    Raises:
        Refused: ``machine-parameter``.
    """
    ratio = Fraction(machine.number("ratio")).limit_denominator(64)
    if ratio < 1 or ratio > 64:
        raise Refused(
            f"ratio of machine {machine.name} is {machine['ratio']!r}; the selection clock is 1 to 64 times the multipliers'.",
            code="machine-parameter",
        )
    for name in ("drain", "mixed_precision", "collective_elements"):
        if not isinstance(machine[name], bool):
            raise Refused(
                f"{name} of machine {machine.name} is {machine[name]!r}; it must be true or false.",
                code="machine-parameter",
            )
    rows, columns = (machine.whole(name, 1, 1024) for name in ("rows", "columns"))
    w, x, wx, s = (machine.whole(name, 1, UNLIMITED) for name in ("w_fifo", "x_fifo", "wx_fifo", "s_fifo"))
    return Array(rows, columns, w, x, wx, s, ratio.numerator, ratio.denominator, machine["drain"])


# Streams


class Streams(NamedTuple):
    """Compressed rows, end to end.

    Args:
        codes: int32; element 0 is :data:`DONE`; each stream is an :data:`EMPTY`, its elements, a :data:`DONE`.
        values: int32, the number that each element carries: 8 bits, or an unsigned low or signed high half.
        starts: int64, (n,): where the streams' :data:`EMPTY` stand.
        lengths: int64, (n,): elements of each.
    """

    codes: NDArray[np.int32]
    values: NDArray[np.int32]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


@jit
def elements(v: NDArray[Any]) -> NDArray[np.int64]:
    """Elements of each row: halves counted, a placeholder where a group has none."""
    n, k = v.shape
    found = np.zeros(n, np.int64)
    for i in range(n):
        for g in range(0, k, 16):
            here = 0
            for j in range(g, g + 16):
                if v[i, j] != 0:
                    here += 1 if -128 <= v[i, j] <= 127 else 2
            found[i] += max(here, 1)
    return found


@jit
def _compress(
    v: NDArray[Any], kernel: int, place: int, shadow: bool, lengths: NDArray[np.int64],
    codes: NDArray[np.int32], values: NDArray[np.int32], starts: NDArray[np.int64],
) -> None:  # fmt: skip
    n, k = v.shape
    codes[0] = DONE
    at = 1
    for i in range(n):
        starts[i] = at
        codes[at] = EMPTY
        at += 1
        for g in range(0, k, 16):
            last = place
            for j in range(16):
                if v[i, g + j] != 0:
                    last = j
            closes = kernel > 0 and (g // 16) % kernel == kernel - 1
            for j in range(16):
                here = np.int64(v[i, g + j])
                if here == 0 and (j != last or v[i, g + last] != 0):
                    continue
                wide = here < -128 or here > 127
                if wide:
                    codes[at] = j | (j << 4) | LOW
                    values[at] = here & 255
                    at += 1
                code = j | ((16 if j == last else j) << 4) | (HIGH if wide else 0)
                if closes and j == last:
                    code |= OUT
                if g + 16 == k and j == last:
                    code |= LAST
                codes[at] = code
                values[at] = here >> 8 if wide else here
                at += 1
                if shadow and code & OUT:
                    codes[at] = code & ~OUT
                    at += 1
        codes[at] = DONE
        at += 1


def compress(v: NDArray[Any], kernel: int = 0, place: int = PLACE_X, *, shadow: bool = False) -> Streams:
    """Rows of integers as streams of their non-zero numbers.

    Args:
        v: (n, k), k a multiple of :data:`GROUP`; numbers beyond 8 bits become two elements, low half first.
        kernel: groups of one kernel, whose last element carries the end-of-kernel mark; 0 for none (activations).
        place: offset of the explicit zero of a group that has no number.
        shadow: put a copy without its mark behind each end-of-kernel element, as :func:`cycles` wants.
    """
    v = np.ascontiguousarray(v)
    if v.ndim != 2 or v.shape[1] % GROUP or not v.size:
        raise Refused(f"streams are made of groups of {GROUP}; got {v.shape}.", code="workload-shape")
    lengths = elements(v)
    copies = v.shape[1] // GROUP // kernel if shadow and kernel else 0
    size = int(lengths.sum()) + len(v) * (2 + copies) + 1
    codes, values = np.zeros(size, np.int32), np.zeros(size, np.int32)
    starts = np.zeros(len(v), np.int64)
    _compress(v, kernel, place, shadow, lengths, codes, values, starts)
    return Streams(codes, values, starts, lengths)


# The array in plain words


@jit
def ones(v: int) -> int:
    """Bits that are set."""
    found = 0
    while v:
        v &= v - 1
        found += 1
    return found


@jit
def ticks(
    wc: NDArray[np.int32], wv: NDArray[np.int32], ws: NDArray[np.int64], wn: NDArray[np.int64],
    xc: NDArray[np.int32], xv: NDArray[np.int32], xs: NDArray[np.int64], xn: NDArray[np.int64],
    rounds: int, dw: int, dx: int, dp: int, ds: int, num: int, den: int, drain: bool,
    sums: NDArray[np.int64], seen: NDArray[np.int64], peaks: NDArray[np.int64], finished: NDArray[np.int64],
) -> int:  # fmt: skip
    """The array, tick by tick: decide on what stood at the tick's start, then do it. The reference of :func:`cycles`.

    Args:
        wc, wv, ws, wn: weights, a stream a column (see :class:`Streams`). xc, xv, xs, xn: activations, a stream a row.
        rounds: outputs of each PE.
        dw, dx, dp, ds: depths of W-, X-, WX- and S-FIFO.
        num, den: ticks to a cycle of the multipliers.
        drain: sums leave through the S-FIFOs.
        sums: (rounds, r, c), filled with the sums in the order in which they leave at the bottom (row 0's first).
        seen: (6, r, c), filled with decisions, pairs queued, pairs multiplied, elements of W and of X that were in the
            registers, and bits of the pair register that flipped.
        peaks: (4,), filled with the largest filling of each kind of FIFO.
        finished: (rounds,), filled with the tick at which the last sum of each round has left its PE.

    Returns:
        Ticks until the last sum has left and the streams have run out.
    """
    rows, columns = len(xs), len(ws)
    cap_w, cap_x = min(dw, wn.max()), min(dx, xn.max())
    cap_p, cap_s = min(dp, 2 * wn.max()), min(ds, rounds * rows)
    fw = np.zeros((rows, columns, cap_w), np.int64)  # W-FIFO: places of elements, a ring
    fx = np.zeros((rows, columns, cap_x), np.int64)
    fp = np.zeros((rows, columns, cap_p, 4), np.int64)  # WX-FIFO: two numbers, shift, out
    fs = np.zeros((rows, columns, cap_s, 2), np.int64)  # S-FIFO: sum, end of forwarding
    hw, hx, hp, hs = (
        np.zeros((rows, columns), np.int64),
        np.zeros((rows, columns), np.int64),
        np.zeros((rows, columns), np.int64),
        np.zeros((rows, columns), np.int64),
    )  # heads of the rings
    nw, nx, np_, ns = (
        np.zeros((rows, columns), np.int64),
        np.zeros((rows, columns), np.int64),
        np.zeros((rows, columns), np.int64),
        np.zeros((rows, columns), np.int64),
    )  # filling
    rw = np.zeros(
        (rows, columns), np.int64
    )  # place of the element in the register; 0 for none yet, -1 for no more
    rx = np.zeros((rows, columns), np.int64)
    ew, ex = np.zeros(columns, np.int64), np.zeros(rows, np.int64)  # elements that left the edge
    had = np.zeros((rows, columns), np.bool_)  # the out element has its pair
    crossed = np.zeros((rows, columns), np.bool_)  # of two halves and two halves, the fourth pair is due
    low = np.zeros((rows, columns), np.int64)  # last low half of X
    acc = np.zeros((rows, columns), np.int64)
    held = np.zeros((rows, columns), np.bool_)  # the accumulator holds a sum that has not left
    own = np.zeros((rows, columns), np.bool_)  # all sums from above have passed
    pair = np.zeros((rows, columns), np.int64)  # bits of the pair register
    out = np.zeros((rows, columns), np.int64)  # sums that are done
    left = np.full(rounds, rows * columns, np.int64)
    bottom = np.zeros(columns, np.int64)
    act = np.zeros((rows, columns), np.int64)
    mac = np.zeros((rows, columns), np.bool_)
    leave = np.zeros((rows, columns), np.int64)
    own[0] = True
    todo, alive = rounds * rows * columns, rows * columns
    t = clock = 0
    while todo > 0 or alive > 0:
        clock += den
        beat = clock >= num
        if beat:
            clock -= num
        for r in range(rows):  # decide: selection
            for c in range(columns):
                may_w = (ew[c] < wn[c] if r == 0 else nw[r, c] > 0) and (r == rows - 1 or nw[r + 1, c] < dw)
                may_x = (ex[r] < xn[r] if c == 0 else nx[r, c] > 0) and (
                    c == columns - 1 or nx[r, c + 1] < dx
                )
                a, b = rw[r, c], rx[r, c]
                act[r, c] = 0
                if a < 0 or b < 0:
                    continue
                if a == 0 or b == 0:  # the first element of a stream goes into its register by itself
                    act[r, c] = (1 if a == 0 and may_w else 0) | (2 if b == 0 and may_x else 0)
                    continue
                w, x = wc[a], xc[b]
                w_end, x_end = w & END != 0, x & END != 0
                w_off, x_off = w & OFF, x & OFF
                push = closing = False
                if w_off == x_off:
                    push = True
                    if x & LOW:
                        go_w, go_x = False, True
                    elif w & LOW:
                        go_w, go_x = True, False
                    elif w & HIGH and x & HIGH and not crossed[r, c]:
                        go_w = go_x = False
                    else:
                        go_w, go_x = w_end == x_end or x_end, w_end == x_end or w_end
                        closing = w & OUT != 0
                elif w_off < x_off:
                    go_w = not w_end or x_end
                    go_x = w_end
                else:
                    go_x = not x_end or w_end
                    go_w = x_end
                if w_off != x_off and w_end and x_end and w & OUT and not had[r, c]:
                    push = closing = True  # an empty pair carries the mark
                if (
                    (not go_w or w & LAST or may_w)
                    and (not go_x or x & LAST or may_x)
                    and (not push or np_[r, c] < dp)
                ):
                    act[r, c] = (
                        4
                        | (1 if go_w else 0)
                        | (2 if go_x else 0)
                        | (8 if push else 0)
                        | (16 if closing else 0)
                    )
        for r in range(rows):  # decide: multipliers
            for c in range(columns):
                mac[r, c] = beat and np_[r, c] > 0 and not held[r, c]
        for r in range(
            rows - 1, -1, -1
        ):  # decide: sums; room below also where the head there leaves in this tick
            for c in range(columns):
                room = r == rows - 1 or ns[r + 1, c] < ds or leave[r + 1, c] == 1
                leave[r, c] = 0
                if room and not own[r, c] and ns[r, c] > 0:
                    leave[r, c] = 1
                elif room and own[r, c] and held[r, c]:
                    leave[r, c] = 2
        for r in range(rows):  # do: selection
            for c in range(columns):
                a = act[r, c]
                w, x = rw[r, c], rx[r, c]
                if a & 8:
                    matched = wc[w] & OFF == xc[x] & OFF
                    first = wv[w] if matched else 0
                    second = low[r, c] if crossed[r, c] else xv[x]
                    second = second if matched else 0
                    shift = (8 if wc[w] & HIGH and matched else 0) + (
                        8 if xc[x] & HIGH and not crossed[r, c] and matched else 0
                    )
                    at = (hp[r, c] + np_[r, c]) % cap_p
                    fp[r, c, at, 0] = first
                    fp[r, c, at, 1] = second
                    fp[r, c, at, 2] = shift
                    fp[r, c, at, 3] = 1 if a & 16 else 0
                    np_[r, c] += 1
                    seen[1, r, c] += 1
                    if a & 16:
                        had[r, c] = True
                    if xc[x] & LOW:
                        low[r, c] = xv[x]
                    if matched and wc[w] & HIGH and xc[x] & HIGH:
                        crossed[r, c] = not crossed[r, c]
                if a & 4:
                    seen[0, r, c] += 1
                if a & 1:
                    had[r, c] = False
                    if w > 0 and wc[w] & LAST:
                        rw[r, c] = -1
                        alive -= 1
                    else:
                        if r == 0:
                            ew[c] += 1
                            place = ws[c] + ew[c]
                        else:
                            place = fw[r, c, hw[r, c]]
                            hw[r, c] = (hw[r, c] + 1) % cap_w
                            nw[r, c] -= 1
                        rw[r, c] = place
                        seen[3, r, c] += 1
                if a & 2:
                    if x > 0 and xc[x] & LAST:
                        rx[r, c] = -1
                    else:
                        if c == 0:
                            ex[r] += 1
                            place = xs[r] + ex[r]
                        else:
                            place = fx[r, c, hx[r, c]]
                            hx[r, c] = (hx[r, c] + 1) % cap_x
                            nx[r, c] -= 1
                        rx[r, c] = place
                        seen[4, r, c] += 1
        for r in range(rows):  # do: hand copies to the neighbours
            for c in range(columns):
                if act[r, c] & 1 and rw[r, c] > 0 and r < rows - 1:
                    fw[r + 1, c, (hw[r + 1, c] + nw[r + 1, c]) % cap_w] = rw[r, c]
                    nw[r + 1, c] += 1
                if act[r, c] & 2 and rx[r, c] > 0 and c < columns - 1:
                    fx[r, c + 1, (hx[r, c + 1] + nx[r, c + 1]) % cap_x] = rx[r, c]
                    nx[r, c + 1] += 1
        for r in range(rows - 1, -1, -1):  # do: sums
            for c in range(columns):
                if leave[r, c] == 0:
                    continue
                if leave[r, c] == 1:
                    total, mark = fs[r, c, hs[r, c], 0], fs[r, c, hs[r, c], 1]
                    hs[r, c] = (hs[r, c] + 1) % cap_s
                    ns[r, c] -= 1
                    own[r, c] = mark == 1
                    mark = 0
                else:
                    total, mark = acc[r, c], 1
                    acc[r, c] = 0
                    held[r, c] = False
                    own[r, c] = r == 0
                    left[out[r, c] - 1] -= 1
                    if left[out[r, c] - 1] == 0:
                        finished[out[r, c] - 1] = t + 1
                if r < rows - 1:
                    at = (hs[r + 1, c] + ns[r + 1, c]) % cap_s
                    fs[r + 1, c, at, 0] = total
                    fs[r + 1, c, at, 1] = mark
                    ns[r + 1, c] += 1
                else:
                    sums[bottom[c] // rows, bottom[c] % rows, c] = total
                    bottom[c] += 1
                    todo -= 1
        for r in range(rows):  # do: multipliers
            for c in range(columns):
                if not mac[r, c]:
                    continue
                at = hp[r, c]
                first, second = fp[r, c, at, 0], fp[r, c, at, 1]
                shift, mark = fp[r, c, at, 2], fp[r, c, at, 3]
                hp[r, c] = (at + 1) % cap_p
                np_[r, c] -= 1
                seen[2, r, c] += 1
                bits = (first & 255) | ((second & 255) << 8) | (shift << 13) | (mark << 18)
                seen[5, r, c] += ones(bits ^ pair[r, c])
                pair[r, c] = bits
                acc[r, c] += (first * second) << shift
                if mark:
                    if drain:
                        held[r, c] = True
                    else:
                        sums[out[r, c], r, c] = acc[r, c]
                        acc[r, c] = 0
                        todo -= 1
                        left[out[r, c]] -= 1
                        if left[out[r, c]] == 0:
                            finished[out[r, c]] = t + 1
                    out[r, c] += 1
        for r in range(rows):
            for c in range(columns):
                peaks[0] = max(peaks[0], nw[r, c])
                peaks[1] = max(peaks[1], nx[r, c])
                peaks[2] = max(peaks[2], np_[r, c])
                peaks[3] = max(peaks[3], ns[r, c])
        t += 1
    return t


class Replayed(NamedTuple):
    """What :func:`ticks` saw: ticks, sums (rounds, r, c), counts (6, r, c), peaks (4,) and the end of each round."""

    ticks: int
    sums: NDArray[np.int64]
    seen: NDArray[np.int64]
    peaks: NDArray[np.int64]
    finished: NDArray[np.int64]


def run(x: NDArray[Any], w: NDArray[Any], array: Array, *, plain: bool = False) -> Replayed:
    """One pass through the array by :func:`ticks`.

    Args:
        x: (r, rounds, k), activations of each row, round by round. w: (c, k), weights of each column, repeated each round.
        array: depths and clocks; its size is that of the operands.
        plain: run it as plain Python even where numba is installed.
    """
    rows, rounds, k = x.shape
    xs = compress(x.reshape(rows, -1), 0, PLACE_X)
    ws = compress(np.tile(w, (1, rounds)), k // GROUP, PLACE_W)
    sums = np.zeros((rounds, rows, len(w)), np.int64)
    seen, peaks, finished = (
        np.zeros((6, rows, len(w)), np.int64),
        np.zeros(4, np.int64),
        np.zeros(rounds, np.int64),
    )
    function: Any = getattr(ticks, "py_func", ticks) if plain else ticks
    found = function(
        *ws, *xs, rounds, array.w, array.x, array.wx, array.s, array.num, array.den, array.drain, sums, seen, peaks,
        finished,
    )  # fmt: skip
    return Replayed(int(found), sums, seen, peaks, finished)


# The array for time alone


@jit
def cycles(
    wc: NDArray[np.int32], ws: NDArray[np.int64], xc: NDArray[np.int32], xs: NDArray[np.int64],
    rounds: int, dw: np.int32, dx: np.int32, dp: np.int32, ds: np.int32, num: int, den: int, drain: bool,
    finished: NDArray[np.int64],
) -> int:  # fmt: skip
    """The ticks of :func:`ticks` for 8-bit operands, without the numbers.

    No queue holds anything here: all PEs of a row see the same stream in the same order, so fillings and a place in the stream
    say it all. State lies in flat arrays with one column more than the array has, and each step is a loop without branches that
    the compiler turns into vector instructions. -1 is true in ``gw`` … ``fb``.

    Args:
        wc, ws: weights with shadows (see :func:`compress`). xc, xs: activations.
        rounds, dw, dx, dp, ds, num, den, drain: as of :func:`ticks`.
        finished: (rounds,), filled with the tick at which the last sum of each round has left its PE.

    Returns:
        Ticks until the last sum has left and the streams have run out.
    """
    rows, columns = len(xs), len(ws)
    pitch = columns + 1
    size = rows * pitch
    big = 1 << 30
    w, x = np.full(size, DONE, np.int32), np.full(size, DONE, np.int32)
    wp, xp = np.zeros(size, np.uint32), np.zeros(size, np.uint32)
    fills_w, fills_x = np.zeros(size + pitch, np.int32), np.zeros(size + 1, np.int32)
    pairs, popped = np.zeros(size, np.int32), np.zeros(size, np.int32)
    due = np.full(size, -1, np.int32)  # pairs popped when the next out pair has gone
    outs, done = np.zeros(size, np.int64), np.zeros(size, np.int64)
    held, passed, fills_s = (
        np.zeros(size, np.int32),
        np.zeros(size, np.int32),
        np.zeros(size + pitch, np.int32),
    )
    acts = np.zeros(size + pitch, np.int32)
    ring = 1
    while ring < rounds and ring < dp:
        ring *= 2
    marks = np.zeros((size, ring), np.int32)
    ring -= 1
    left = np.full(rounds, rows * columns, np.int64)
    for r in range(rows):
        for c in range(columns):
            i = r * pitch + c
            w[i] = x[i] = EMPTY
            wp[i], xp[i] = ws[c], xs[r]
        fills_x[r * pitch], fills_x[r * pitch + columns] = big, -big
    for c in range(pitch):
        fills_w[c], fills_w[size + c] = big, -big
    below_w, right_x, below_s = fills_w[pitch:], fills_x[1:], fills_s[pitch:]
    act, act_above, act_left = acts[pitch:], acts[:size], acts[pitch - 1 :]
    todo, alive = rows * columns * rounds, rows * columns
    t = busy = clock = 0
    while todo > 0 or alive > 0:
        clock += den
        beat = clock >= num
        if beat:
            clock -= num
        for i in range(size):
            a, b = w[i], x[i]
            gw = ((-fills_w[i]) & (below_w[i] - dw)) >> 31
            gx = ((-fills_x[i]) & (right_x[i] - dx)) >> 31
            ahead = (b & KEY) - (a & KEY)
            aw, ax = ~(ahead >> 31), ~((-ahead) >> 31)
            la, lb = -((a >> 10) & 1), -((b >> 10) & 1)
            ea, eb = -((a >> 11) & 1), -((b >> 11) & 1)
            out = -((a >> 9) & 1)
            push = ((((a ^ b) & OFF) - 1) >> 31) | (aw & ax & out)
            go = ~(ea | eb) & (~aw | la | gw) & (~ax | lb | gx) & (~push | ((pairs[i] - dp) >> 31))
            fa, fb = (go & aw) | (ea & ~la & gw), (go & ax) | (eb & ~lb & gx)
            push &= go
            act[i] = (
                (fa & 1)
                | (fb & 2)
                | (push & 4)
                | (fa & ~la & 8)
                | (fb & ~lb & 16)
                | (push & out & 32)
                | (fa & la & 128)
            )
        if beat:
            for i in range(size):
                act[i] |= (((-pairs[i]) & ~(-held[i])) >> 31) & 64
        events = 0
        for i in range(size):
            events |= act[i]
        if busy > 0:
            for r in range(rows - 1, -1, -1):
                for c in range(columns):
                    i = r * pitch + c
                    if r < rows - 1 and below_s[i] >= ds:
                        continue
                    if passed[i] < r:
                        if fills_s[i] > 0:
                            fills_s[i] -= 1
                            passed[i] += 1
                            if r < rows - 1:
                                below_s[i] += 1
                            else:
                                busy -= 1
                    elif held[i] != 0:
                        held[i] = passed[i] = 0
                        k = done[i] - 1
                        left[k] -= 1
                        todo -= 1
                        if left[k] == 0:
                            finished[k] = t + 1
                        if r < rows - 1:
                            below_s[i] += 1
                        else:
                            busy -= 1
        for i in range(size):
            fills_w[i] += ((act_above[i] >> 3) & 1) - ((act[i] >> 3) & 1)
        for i in range(size):
            fills_x[i] += ((act_left[i] >> 4) & 1) - ((act[i] >> 4) & 1)
        for i in range(size):
            pairs[i] += ((act[i] >> 2) & 1) - ((act[i] >> 6) & 1)
        for i in range(size):
            wp[i] += act[i] & 1
        for i in range(size):
            xp[i] += (act[i] >> 1) & 1
        if events & 64:
            for i in range(size):
                popped[i] += (act[i] >> 6) & 1
        if events & 128:
            for i in range(size):
                alive -= (act[i] >> 7) & 1
        if events & 32:
            for i in range(size):
                if act[i] & 32:
                    wp[i] += 1  # to the copy without the mark, or beyond it
                    mark = popped[i] + pairs[i]
                    if outs[i] == done[i]:
                        due[i] = mark
                    marks[i, outs[i] & ring] = mark
                    outs[i] += 1
        for i in range(size):
            w[i] = wc[wp[i]]
        for i in range(size):
            x[i] = xc[xp[i]]
        if events & 64:
            hit = 0
            for i in range(size):
                hit |= (act[i] >> 6) & (popped[i] == due[i])
            if hit & 1:
                for i in range(size):
                    if act[i] & 64 and popped[i] == due[i]:
                        k = done[i]
                        done[i] += 1
                        due[i] = marks[i, done[i] & ring] if outs[i] > done[i] else -1
                        if drain:
                            held[i] = 1
                            busy += 1
                        else:
                            left[k] -= 1
                            todo -= 1
                            if left[k] == 0:
                                finished[k] = t + 1
        t += 1
    return t


def pass_ticks(x: NDArray[Any], w: NDArray[Any], array: Array) -> tuple[int, NDArray[np.int64]]:
    """Ticks of a pass, and the tick at which the last sum of each round has left its PE; operands as of :func:`run`.

    16-bit operands go through :func:`ticks`.
    """
    rows, rounds, k = x.shape
    if not COMPILED or _wide(x) or _wide(w):
        slow = run(x, w, array)
        return slow.ticks, slow.finished
    xs = compress(x.reshape(rows, -1), 0, PLACE_X)
    ws = compress(np.tile(w, (1, rounds)), k // GROUP, PLACE_W, shadow=True)
    finished = np.zeros(rounds, np.int64)
    dw, dx, dp, ds = (np.int32(d) for d in (array.w, array.x, array.wx, array.s))
    found = cycles(
        ws.codes, ws.starts, xs.codes, xs.starts, rounds, dw, dx, dp, ds, array.num, array.den, array.drain, finished
    )  # fmt: skip
    return int(found), finished


def _wide(v: NDArray[Any]) -> bool:
    return v.dtype != np.int8 and bool(v.size) and bool(v.min() < -128 or v.max() > 127)
