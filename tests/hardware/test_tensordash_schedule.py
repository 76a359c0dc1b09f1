"""TensorDash's schedule: the pattern, the rule lane by lane, the rule in words, and what both must keep."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware import tensordash
from sparsam.hardware.tensordash import (
    Connections,
    compacted,
    compacted_share,
    connections,
    dealt,
    fan,
    job_cycles,
    levels_of,
    replay,
    restored,
    stream_words,
    walk,
)  # fmt: skip

PAPER = connections()
RULES = [connections(order=order) for order in tensordash.ORDERS]
CURVE = {
    0.1: (1.10, 1.11, 1.08, 1.08, 1.08, 1.08),
    0.2: (1.21, 1.25, 1.18, 1.17, 1.16, 1.17),
    0.3: (1.36, 1.40, 1.30, 1.28, 1.26, 1.27),
    0.4: (1.52, 1.60, 1.43, 1.40, 1.37, 1.39),
    0.5: (1.73, 1.82, 1.60, 1.55, 1.51, 1.52),
    0.6: (1.99, 2.07, 1.81, 1.73, 1.68, 1.69),
    0.7: (2.32, 2.38, 2.04, 1.97, 1.93, 1.88),
    0.8: (2.74, 2.74, 2.43, 2.29, 2.14, 1.98),
    0.9: (2.98, 2.98, 2.93, 2.87, 2.78, 2.00),
    0.99: (3.00, 3.00, 3.00, 3.00, 3.00, 2.00),
}
"""Speedup by share of zeros: one element, the same in the simulator's order, tiles of 4, 8 and 16 rows, an element of depth 2.
Worked out by an independent implementation of the same rules, on 8192 rows."""


def streams(
    draw: np.random.Generator, many: int, rows: int, zeros: float, lanes: int = 16
) -> NDArray[np.bool_]:
    """(many, rows, lanes), True where a number is not zero."""
    return draw.random((many, rows, lanes)) >= zeros


def words(z: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """The same as words."""
    return stream_words(z.reshape(len(z), -1), z.shape[2])


def speedup(z: NDArray[np.bool_], wired: Connections = PAPER, rows: int = 1) -> float:
    """Rows over cycles."""
    return float(z.shape[1] * len(z) / rows / job_cycles(words(z), None, wired, rows).sum())


def test_the_pattern_is_the_papers() -> None:
    """Eight options a lane, in both orders, and six levels."""
    own_later_beside = ((0, 0), (1, 0), (2, 0), (1, -1), (1, 1), (2, -2), (2, 2), (1, -3))
    assert PAPER.options == own_later_beside and (PAPER.move_bits, PAPER.advance_bits) == (3, 2)
    sorted_rest = ((0, 0), (1, -1), (1, 0), (1, 1), (1, 3), (2, -2), (2, 0), (2, 2))
    assert connections(order="dnnsim").options == sorted_rest
    levels = ((0, 5, 10), (1, 6, 11), (2, 7, 12), (3, 8, 13), (4, 9, 14), (15,))
    assert PAPER.levels == levels == connections(order="dnnsim").levels
    assert fan(3, 7) == [(1, 1), (1, -1), (2, 2), (2, -2), (3, 3), (3, -3), (1, 4)]
    assert fan(0, 5) == [] and connections(depth=1).options == ((0, 0),)


def test_lanes_of_a_level_never_reach_the_same_pair() -> None:
    """For every pattern, ring included: brute force over pairs of lanes and options. Each lane is in one level."""
    for lanes, depth, lookaside, order in itertools.product(
        (1, 2, 5, 8, 16, 32), (1, 2, 3, 5), (0, 2, 5, 9), tensordash.ORDERS
    ):
        wired = connections(lanes, depth, lookaside, order)
        assert sorted(itertools.chain(*wired.levels)) == list(range(lanes))
        for level in wired.levels:
            reach = [{(dt, (lane + dl) % lanes) for dt, dl in wired.options} for lane in level]
            assert sum(map(len, reach)) == len(set().union(*reach)), (wired, level)


@pytest.mark.parametrize("rule", RULES, ids=tensordash.ORDERS)
def test_random_streams_gain_what_the_rules_give(rule: Connections) -> None:
    """The whole curve of random zeros, within 1.5 %."""
    draw = np.random.default_rng(7)
    for zeros, (one, simulator, four, eight, sixteen, two) in CURVE.items():
        z = streams(draw, 16, 8192, zeros)
        if rule == PAPER:
            found = [
                speedup(z),
                *(speedup(z, PAPER, rows) for rows in (4, 8, 16)),
                speedup(z, PAPER.within(2)),
            ]
            assert found == pytest.approx([one, four, eight, sixteen, two], rel=0.015), zeros
        else:
            assert speedup(z, rule) == pytest.approx(simulator, rel=0.015), zeros


def test_the_schedule_in_words_is_the_one_lane_by_lane() -> None:
    """Cycles are equal for thousands of random jobs, all patterns, tiles and one- or two-sided."""
    draw, jobs = np.random.default_rng(1), 0
    patterns = [(16, 3, 5), (16, 2, 5), (16, 1, 5), (8, 4, 7), (12, 3, 3), (32, 5, 9), (3, 3, 5)]
    for lanes, depth, lookaside in patterns:
        for order in tensordash.ORDERS:
            wired = connections(lanes, depth, lookaside, order)
            for _ in range(25):
                rows, columns = (int(x) for x in draw.integers(1, 5, 2))
                length, zeros = int(draw.integers(1, 30)), draw.random()
                a, b = streams(draw, 9, length, zeros, lanes), streams(draw, 5, length, zeros / 2, lanes)
                one = job_cycles(words(a), None, wired, rows)
                assert one.tolist() == [len(walk(a[i : i + rows], wired)[1]) for i in range(0, 9, rows)]
                i, j = (
                    x.ravel()
                    for x in np.meshgrid(np.arange(-(-9 // rows)), np.arange(-(-5 // columns)), indexing="ij")
                )
                two = job_cycles(words(a), words(b), wired, rows, columns, (i, j))
                for at, (x, y) in enumerate(zip(i * rows, j * columns, strict=True)):
                    both = a[x : x + rows, None] & b[None, y : y + columns]
                    assert two[at] == len(walk(both.reshape(-1, length, lanes), wired)[1])
                jobs += len(one) + len(two)
    assert jobs > 4000


def in_place(z: NDArray[np.bool_], wired: Connections) -> int:
    """As the authors' simulator counts: rows are filled in place from later ones; two empty rows running are free."""
    left, cycles, free = z.copy(), 0, 0
    for t in range(z.shape[1]):
        if not left[:, t].any() and free < wired.depth - 1 and cycles:
            free += 1
            continue
        free, cycles = 0, cycles + 1
        for stream in left:
            for lane in itertools.chain(*wired.levels):
                for dt, dl in wired.options:
                    at = (t + dt, (lane + dl) % wired.lanes)
                    if at[0] < len(stream) and stream[at]:
                        stream[at] = False  # its own pair, or one swapped into the empty place
                        break
    return cycles


def test_cycles_are_those_of_filling_rows_in_place() -> None:
    """The authors' way to say the rule, rows rewritten in place, gives the same cycles in both orders, tiles included."""
    draw = np.random.default_rng(14)
    for number in range(300):
        z = streams(draw, int(draw.integers(1, 5)), int(draw.integers(1, 25)), draw.random())
        wired = RULES[number % 2]
        assert in_place(z, wired) == job_cycles(words(z), None, wired, len(z))[0]


def test_the_reference_is_the_same_without_a_compiler() -> None:
    """The plain Python form and the compiled form give the same cycles, issues and advances."""
    plain = getattr(tensordash._walk, "py_func", tensordash._walk)
    draw = np.random.default_rng(2)
    for zeros in (0.0, 0.3, 0.6, 0.9, 1.0):
        z = streams(draw, 3, 12, zeros)
        order = np.array([lane for level in PAPER.levels for lane in level])
        dt, dl = (np.array(x) for x in zip(*PAPER.options, strict=True))
        for slow, fast in zip(plain(z, order, dt, dl, PAPER.depth), walk(z, PAPER), strict=True):
            assert (slow == fast).all()
        plain_words = getattr(tensordash._one_job, "py_func", tensordash._one_job)
        first, full = words(z), np.full((1, 12), np.uint64(0xFFFF))
        arrays = tensordash._arrays(PAPER)
        with np.errstate(over="ignore"):
            slow = plain_words(first, full, 0, 0, 3, 1, arrays[3], *arrays[:3], 3, 16)
        assert slow == job_cycles(first, None, PAPER, 3)[0]


def test_one_core_and_all_cores_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results do not depend on how jobs are spread over threads."""
    draw = np.random.default_rng(15)
    a, b = words(streams(draw, 37, 40, 0.5)), words(streams(draw, 11, 40, 0.3))
    jobs = np.arange(10 * 4) // 4, np.arange(10 * 4) % 4
    found = []
    for limit in (0, 1 << 60):
        monkeypatch.setattr(tensordash, "ONE_CORE", limit)
        found.append(job_cycles(a, b, PAPER, 4, 3, jobs).tolist())
    assert found[0] == found[1]


def test_ten_thousand_schedules_carried_out_give_the_product() -> None:
    """Replayed, random integer products come out bit for bit; every pair once, no lane twice a cycle."""
    draw, schedules = np.random.default_rng(3), 0
    rules = [*RULES, PAPER.within(2), connections(8, 4, 5), connections(5, 3, 3, "dnnsim")]
    while schedules < 10_000:
        wired = rules[int(draw.integers(len(rules)))]
        rows, columns = (int(x) for x in draw.integers(1, 5, 2))
        m, n, k = int(draw.integers(1, 60)), int(draw.integers(1, 20)), int(draw.integers(1, 120))
        bits = 8 if draw.random() < 0.5 else 16
        a, b = (draw.integers(-(1 << (bits - 1)), 1 << (bits - 1), shape) for shape in ((m, k), (n, k)))
        a *= draw.random(a.shape) >= draw.random()
        b *= draw.random(b.shape) >= draw.random() / 2
        sides = "one" if draw.random() < 0.6 else "two"
        found, cycles = replay(a, b, wired, rows, columns, sides)
        assert (found == a @ b.T).all()
        jobs = -(-m // rows) * -(-n // columns)
        length = -(-k // wired.lanes)
        assert -(-length // wired.depth) * jobs <= cycles <= length * jobs
        schedules += jobs


def test_floating_point_products_agree_up_to_the_order_of_sums() -> None:
    """The same in floating point, within 1e-10 in double."""
    draw = np.random.default_rng(4)
    a, b = draw.standard_normal((9, 200)), draw.standard_normal((7, 200))
    a[draw.random(a.shape) < 0.7] = 0
    found, _ = replay(a, b, PAPER)
    assert found == pytest.approx(a @ b.T, rel=1e-10, abs=1e-10)


def test_what_is_issued_comes_from_a_place_the_lane_reaches() -> None:
    """Every source lies in the window, at one of the eight offsets; at most 16 pairs a cycle; every pair once."""
    draw = np.random.default_rng(5)
    for zeros in (0.0, 0.4, 0.8, 1.0):
        z = streams(draw, 4, 60, zeros)
        issued, advances = walk(z, PAPER)
        head = np.cumsum(advances) - advances
        time, stream, lane, row, option = issued.T
        dt, dl = np.array(PAPER.options)[option].T
        assert (row - head[time] == dt).all() and (dt < 3).all()
        sources = np.stack([stream, row, (lane + dl) % 16])
        assert z[tuple(sources)].all() and len(np.unique(sources, axis=1).T) == z.sum()
        slots = np.stack([time, stream, lane])
        assert len(np.unique(slots, axis=1).T) == len(issued)
        assert advances.sum() == 60 and advances.min(initial=1) >= 1 and advances.max(initial=1) <= 3


def test_cycles_keep_their_bounds() -> None:
    """A third of the rows at best, all of them at worst; no fewer than the pairs need; nothing on zeros; dense on dense."""
    draw = np.random.default_rng(6)
    for _ in range(300):
        rows, zeros = int(draw.integers(1, 50)), draw.random()
        z = streams(draw, 1, rows, zeros)
        for wired in RULES:
            (cycles,) = job_cycles(words(z), None, wired)
            assert -(-rows // 3) <= cycles <= rows and cycles >= -(-int(z.sum()) // 16)
    for rows in (1, 2, 3, 4, 100):
        assert job_cycles(words(streams(draw, 1, rows, 1.0)), None, PAPER)[0] == -(-rows // 3)
        assert job_cycles(words(streams(draw, 1, rows, 0.0)), None, PAPER)[0] == rows


def test_speedup_stays_below_its_closed_form() -> None:
    """min(depth, 1 / (1 - zeros)), zeros as drawn, streams long enough for the ends not to matter."""
    draw = np.random.default_rng(8)
    for zeros in (0.1, 0.3, 0.5, 0.7, 0.9):
        z = streams(draw, 4, 6000, zeros)
        for wired in (*RULES, PAPER.within(2)):
            assert speedup(z, wired) <= min(wired.depth, 1 / z.mean()) + 1e-9


def test_fewer_pairs_a_deeper_buffer_and_fewer_rows_do_not_cost_cycles_on_average() -> None:
    """Means over many streams: monotone in zeros, in depth and in rows of the tile."""
    draw = np.random.default_rng(9)
    z = streams(draw, 240, 200, 0.4)
    thinned = [z & (draw.random(z.shape) >= share) for share in (0.0, 0.05, 0.1, 0.3, 0.6)]
    means = [job_cycles(words(one), None, PAPER).mean() for one in thinned]
    assert all(x >= y for x, y in itertools.pairwise(means))
    by_depth = [speedup(z, connections(depth=depth)) for depth in (1, 2, 3, 4)]
    assert by_depth[0] == 1.0 and all(x < y for x, y in itertools.pairwise(by_depth))
    by_rows = [speedup(z, PAPER, rows) for rows in (1, 2, 4, 8, 16)]
    assert all(x >= y for x, y in itertools.pairwise(by_rows))


def test_words_are_what_lies_in_the_stream() -> None:
    """Any number of lanes and any length: the padding is zeros."""
    draw = np.random.default_rng(10)
    for lanes, k in ((16, 48), (16, 50), (5, 13), (8, 8), (12, 1), (32, 70)):
        flat = draw.random((3, k)) < 0.5
        found = stream_words(flat, lanes)
        for stream, row in np.ndindex(found.shape):
            expected = sum(
                int(flat[stream, i]) << (i - row * lanes)
                for i in range(row * lanes, min(k, (row + 1) * lanes))
            )
            assert int(found[stream, row]) == expected


def test_dealing_jobs_in_turn_is_what_one_by_one_gives() -> None:
    """The closed form of dealing equals dealing."""
    draw = np.random.default_rng(11)
    for _ in range(50):
        lengths, times, tiles = draw.integers(0, 9, 7), int(draw.integers(1, 12)), int(draw.integers(1, 6))
        found = np.zeros(tiles, int)
        for job, length in enumerate(np.repeat(lengths, times)):
            found[job % tiles] += length
        assert dealt(lengths, times, tiles).tolist() == found.tolist()


def test_a_compacted_tensor_comes_back_as_it_was() -> None:
    """Back-side scheduling is lossless, and takes the rows that the schedule takes."""
    draw = np.random.default_rng(12)
    for _ in range(200):
        wired = RULES[int(draw.integers(2))] if draw.random() < 0.7 else connections(8, 4, 5)
        rows = int(draw.integers(1, 40))
        x = draw.integers(-128, 128, (rows, wired.lanes)) * (
            draw.random((rows, wired.lanes)) >= draw.random()
        )
        stored = compacted(x, wired)
        assert (restored(stored, wired) == x).all()
        assert len(stored.values) == job_cycles(words((x != 0)[None]), None, wired)[0]
        share = compacted_share(words((x != 0)[None]), wired, 16)
        assert share == pytest.approx(min(1.0, stored.bits(16, wired) / (16 * x.size)))


def test_compacting_saves_where_there_are_zeros_and_never_costs() -> None:
    """Dense tensors are stored plain; sparse ones take about a third of the rows, with 3 bits a number more."""
    draw = np.random.default_rng(13)
    assert compacted_share(words(streams(draw, 2, 60, 0.0)), PAPER, 16) == 1.0
    share = compacted_share(words(streams(draw, 2, 6000, 0.95)), PAPER, 16)
    assert share == pytest.approx((16 * 19 + 2) / (16 * 16) / 3, rel=0.01)


def test_patterns_that_cannot_be_are_refused() -> None:
    """No lanes, no buffer, too many of either, an unknown order."""
    for wrong in (
        {"lanes": 0},
        {"lanes": 33},
        {"depth": 0},
        {"depth": 9},
        {"lookaside": -1},
        {"order": "random"},
    ):
        with pytest.raises(Refused) as raised:
            connections(**wrong)
        assert raised.value.code == "machine-parameter"
    assert levels_of(3, ((0, 0), (1, 2), (1, -2))) == ((0,), (1,), (2,))
