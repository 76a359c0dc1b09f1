"""The reference schedule of Griffin's borrowing space: kernels, bounds, replay, the table of random zeros, shuffling."""

import subprocess
import sys

import numpy as np
import pytest

from sparsam.errors import Refused
from sparsam.hardware.borrowing import (
    GRIFFIN,
    STARRED,
    Core,
    Distances,
    Point,
    Schedule,
    compress,
    dual_cycles,
    dual_mask,
    laid_out,
    least_cycles,
    packed,
    packed_groups,
    places,
    reference_schedule,
    replay,
    replay_product,
    resources,
    schedule,
    shuffled,
    single_cycles,
    tile_schedules,
)

SEED = 20261129
ZEROS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TABLE = {
    "B(4,0,0)": (1.18, 1.27, 1.37, 1.50, 1.70, 1.96, 2.47),
    "B(4,0,1)": (1.33, 1.48, 1.66, 1.88, 2.16, 2.56, 3.21),
    "B(8,0,1)": (1.40, 1.61, 1.88, 2.23, 2.73, 3.47, 4.76),
    "B(4,1,1)": (1.42, 1.63, 1.90, 2.22, 2.63, 3.13, 4.05),
    "B(2,5,0)": (1.32, 1.46, 1.63, 1.84, 2.02, 2.37, 2.96),
    "A(2,1,0)": (1.24, 1.35, 1.47, 1.63, 1.81, 2.08, 2.64),
    "A(2,1,1)": (1.34, 1.49, 1.67, 1.87, 2.09, 2.47, 2.96),
    "A(3,1,0)": (1.31, 1.46, 1.62, 1.84, 2.08, 2.48, 3.18),
    "A(2,5,0)": (1.35, 1.52, 1.71, 1.96, 2.23, 2.64, 2.99),
}
"""Speedups of the reference schedule on random zeros, 2048 steps, 16 lanes, 16 columns or 4 rows: an independent program's."""


def dual(a, b, point, core):
    """Cycles of all tiles of two masks (m, k) and (n, k), groups of activations first."""
    left = laid_out(a, core.rows, core.lanes, shuffle=point.shuffle)
    streams = compress(
        packed(laid_out(b, core.columns, core.lanes, shuffle=point.shuffle)), point.weights, core
    )
    g, h = np.meshgrid(np.arange(len(left)), np.arange(len(streams.lengths)), indexing="ij")
    words = packed(left.reshape(*left.shape[:2], -1))
    return dual_cycles(words, streams, point.activations, core, g.ravel(), h.ravel()).reshape(g.shape)


def random_distances(rng, pes, lanes, most=4):
    return Distances(
        int(rng.integers(0, most)), int(rng.integers(0, min(3, lanes))), int(rng.integers(0, min(3, pes)))
    )


def test_small_schedule_counted_by_hand():
    """Two lanes, two columns, B(1,0,1): what is taken when, and from where."""
    weights = np.array(
        [  # step, column, lane
            [[1, 0], [1, 1]],
            [[1, 1], [0, 0]],
            [[0, 0], [0, 1]],
        ],
        bool,
    )
    found = schedule(weights[:, None], Distances(1, 0, 1))
    # cycle 0: own elements; lane 1 of column 0 takes its next step's. Column 0's lane 0 of step 1 is left: column 1 looks at
    # column 0 through the ring, but its slots are busy. The window moves one step.
    # cycle 1: own element of column 0, lane 0; lane 1 of column 0 takes step 2 of column 1 (place 2: one PE aside). Done.
    assert places(Distances(1, 0, 1)).tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert found.heads.tolist() == [0, 1]
    assert found.picks[:, 0].tolist() == [[[0, 1], [0, 0]], [[0, -1], [-1, 1]]]


@pytest.mark.parametrize(
    ("xs", "pes", "lanes"), [(1, 4, 4), (1, 3, 5), (1, 16, 16), (3, 2, 4), (2, 4, 16), (2, 1, 8)]
)
def test_kernel_equals_plain_python(xs, pes, lanes):
    """The bit-word kernel gives every slot what the loops over slots give it."""
    rng = np.random.default_rng(SEED)
    for _ in range(6):
        far = random_distances(rng, pes, lanes)
        mask = rng.random((int(rng.integers(1, 12)), xs, pes, lanes)) < rng.random()
        expected, found = reference_schedule(mask, far), schedule(mask, far)
        assert np.array_equal(expected.heads, found.heads)
        assert np.array_equal(expected.picks, found.picks)


def test_counting_kernels_equal_plain_python():
    """Cycles of groups and of tiles of both operands are those of the schedules made slot by slot."""
    rng, core = np.random.default_rng(SEED), Core(2, 3, 4)
    for _ in range(10):
        point = Point(random_distances(rng, 3, 4), random_distances(rng, 2, 4))
        a, b = rng.random((5, 30)) < rng.random(), rng.random((7, 30)) < rng.random()
        left, right = laid_out(a, 2, 4), laid_out(b, 3, 4)
        streams = [reference_schedule(one[:, None], point.weights) for one in right]
        assert single_cycles(packed(right), point.weights, 4).tolist() == [one.cycles for one in streams]
        expected = [
            [reference_schedule(dual_mask(one, stream), point.activations).cycles for stream in streams]
            for one in left
        ]
        assert dual(a, b, point, core).tolist() == expected


def test_kernels_run_without_numba():
    """Where numba is not installed the same functions run in plain Python, with the same result."""
    program = (
        "import sys; sys.modules['numba'] = None\n"
        "import numpy as np\n"
        "from sparsam.hardware.borrowing import Core, Point, replay_product\n"
        "from sparsam.hardware.jit import COMPILED\n"
        "assert not COMPILED\n"
        "rng = np.random.default_rng(3)\n"
        "a = rng.integers(-128, 128, (5, 20)) * (rng.random((5, 20)) < 0.5)\n"
        "b = rng.integers(-128, 128, (7, 20)) * (rng.random((7, 20)) < 0.5)\n"
        "for text in ('B(2,1,1)', 'A(2,1,1,on)', 'AB(1,1,1,2,0,1,on)'):\n"
        "    sums, cycles = replay_product(a, b, Point.parse(text), Core(2, 4, 4))\n"
        "    assert np.array_equal(sums, a @ b.T)\n"
        "    print(cycles)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True
    )
    rng = np.random.default_rng(3)
    a = rng.integers(-128, 128, (5, 20)) * (rng.random((5, 20)) < 0.5)
    b = rng.integers(-128, 128, (7, 20)) * (rng.random((7, 20)) < 0.5)
    points = [Point.parse(text) for text in ("B(2,1,1)", "A(2,1,1,on)", "AB(1,1,1,2,0,1,on)")]
    assert [int(x) for x in done.stdout.split()] == [
        replay_product(a, b, point, Core(2, 4, 4))[1] for point in points
    ]


def test_ten_thousand_tiles_replay_to_the_product():
    """10,000 random tiles of all kinds: sums bit for bit, each operation exactly once, never more than there are multipliers.

    Shapes are ragged (zeros at the edges), densities from none to all, PEs and lanes wrap around, sums of neighbours' products
    go to the neighbours' accumulators.
    """
    rng = np.random.default_rng(SEED)
    for case in range(10_000):
        rows, columns, lanes = (int(x) for x in rng.integers(1, (4, 5, 7)))
        steps = int(rng.integers(1, 9))
        kind = ("A", "B", "AB")[case % 3]
        point = Point(
            random_distances(rng, columns, lanes) if "B" in kind else None,
            random_distances(rng, rows, lanes) if "A" in kind else None,
        )
        m, n, k = (
            int(rng.integers(1, 1 + rows)), int(rng.integers(1, 1 + columns)), int(rng.integers(1, 1 + steps * lanes)),
        )  # fmt: skip
        a = rng.integers(-128, 128, (m, k), dtype=np.int8) * (rng.random((m, k)) < rng.random())
        b = rng.integers(-128, 128, (n, k), dtype=np.int8) * (rng.random((n, k)) < rng.random())
        left, right = laid_out(a, rows, lanes)[0], laid_out(b, columns, lanes)[0]
        stream, online = tile_schedules(left, right, point)
        done = replay(left, right, stream, online, resources(point).a_buffer)
        assert np.array_equal(done.sums[:m, :n], a.astype(np.int64) @ b.astype(np.int64).T), case
        some_a = (left != 0).transpose(1, 0, 2)[:, None] if "A" in kind else np.True_
        some_b = (right != 0).transpose(1, 0, 2)[None] if "B" in kind else np.True_
        assert np.array_equal(done.times, np.broadcast_to(some_a & some_b, done.times.shape)), case
        assert done.busiest <= rows * columns * lanes
        most = 1 + (point.weights.time if point.weights else 0)
        most *= 1 + (point.activations.time if point.activations else 0)
        assert -(-len(left) // most) <= online.cycles <= len(left), case


@pytest.mark.parametrize("name", ["B(8,0,1,on)", "A(2,1,1,on)", "AB(2,0,0,2,0,1,on)", "AB(1,2,1,2,3,1)"])
def test_ragged_product_replays(name):
    """A product whose sizes are no multiples of the core's, by its schedules: all tiles together."""
    rng = np.random.default_rng(SEED)
    a = rng.integers(-128, 128, (9, 101)) * (rng.random((9, 101)) < 0.5)
    b = rng.integers(-128, 128, (21, 101)) * (rng.random((21, 101)) < 0.3)
    sums, cycles = replay_product(a, b, Point.parse(name), Core())
    assert np.array_equal(sums, a @ b.T)
    assert cycles < 3 * 2 * 7


def test_replay_refuses_what_the_hardware_cannot_do():
    """A multiplexer that reaches beyond the buffer, and one that takes from a hole of the stream."""
    a, b = np.ones((4, 1, 2), np.int8), np.zeros((4, 2, 2), np.int8)
    b[0, 0], b[2, 1] = 1, 1
    stream, online = tile_schedules(a, b, Point.parse("B(2,0,0)"))
    replay(a, b, stream, online, 3)
    with pytest.raises(Refused, match="beyond the activations' buffer") as found:
        replay(a, b, stream, online, 2)
    assert found.value.code == "schedule-impossible"
    every = Schedule(online.heads, np.zeros_like(online.picks), online.places)
    with pytest.raises(Refused, match="empty place"):
        replay(a, b, stream, every, 3)


def test_no_schedule_beats_its_bounds():
    """Cycles lie between the least that the distances allow and one a step; full operands take one a step."""
    rng = np.random.default_rng(SEED)
    for _ in range(60):
        far = random_distances(rng, 4, 8)
        density = rng.random((1, 1, 4, 8)) * rng.random()  # some places are busier than others
        mask = rng.random((3, 40, 4, 8)) < density
        least = least_cycles(mask.sum(1), 40, far)
        found = single_cycles(packed(mask), far, 8)
        assert (least <= found).all() and (found <= 40).all()
        assert (single_cycles(packed(np.ones_like(mask)), far, 8) == 40).all()


def test_busiest_place_bounds_the_cycles():
    """What one lane of one PE alone has to do takes its count over the slots that reach it; the bound is reached."""
    mask = np.zeros((32, 1, 4, 8), bool)
    mask[:, :, 2, 3] = True
    counts = mask[:, 0].sum(0)
    for far, cycles in ((Distances(3, 0, 0), 32), (Distances(3, 0, 1), 16), (Distances(3, 1, 1), 8)):
        assert least_cycles(counts, 32, far) == cycles
        assert schedule(mask, far).cycles == cycles


def test_dense_operands_take_a_cycle_a_step_in_every_mode():
    """Nothing is gained and nothing lost where nothing is zero."""
    full = np.ones((16, 160), bool)
    for point in (GRIFFIN["B"], STARRED["Sparse.B*"]):
        assert single_cycles(packed(laid_out(full, 16, 16)), point.weights, 16).tolist() == [10]
    for point in (GRIFFIN["A"], STARRED["Sparse.A*"]):
        assert single_cycles(packed(laid_out(full, 4, 16)), point.activations, 16).tolist() == [10] * 4
    assert (dual(full, full, GRIFFIN["AB"], Core()) == 10).all()


def test_reference_table_of_random_zeros():
    """The speedups of an independent program for the same rules, each within 2 %."""
    rng = np.random.default_rng(SEED)
    draws = {pes: rng.random((8, 2048, pes, 16), np.float32) for pes in (16, 4)}
    for name, row in TABLE.items():
        point = Point.parse(name)
        far, pes = (point.weights, 16) if point.weights else (point.activations, 4)
        for zeros, expected in zip(ZEROS, row, strict=True):
            found = 2048 * 8 / single_cycles(packed(draws[pes] >= zeros), far, 16).sum()
            assert found == pytest.approx(expected, rel=0.02), (name, zeros)


@pytest.mark.parametrize("pes", [4, 16])
def test_longer_distances_never_cost_cycles(pes):
    """On random zeros, each distance made longer by one: the mean cycles do not rise."""
    rng = np.random.default_rng(SEED)
    draw = rng.random((8, 256, pes, 16), np.float32)
    for zeros in (0.4, 0.8):
        words = packed(draw >= zeros)
        mean = {}

        def cycles(far, words=words, mean=mean):
            if far not in mean:
                mean[far] = float(single_cycles(words, far, 16).mean())
            return mean[far]

        for time in (1, 2, 4):
            for lane in (0, 1, 3):
                for pe in (0, 1, 2):
                    here = cycles(Distances(time, lane, pe))
                    for more in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
                        assert cycles(Distances(time + more[0], lane + more[1], pe + more[2])) <= here


def test_longer_distances_never_cost_cycles_where_both_are_skipped():
    """The same for each of the six distances of Sparse.AB."""
    rng, core = np.random.default_rng(SEED), Core(4, 8, 16)
    a, b = rng.random((32, 1024)) < 0.5, rng.random((32, 1024)) < 0.3
    here = dual(a, b, Point.parse("AB(2,0,0,2,0,1)"), core).mean()
    for name in (
        "AB(3,0,0,2,0,1)", "AB(2,1,0,2,0,1)", "AB(2,0,1,2,0,1)", "AB(2,0,0,3,0,1)", "AB(2,0,0,2,1,1)", "AB(2,0,0,2,0,2)",
    ):  # fmt: skip
        assert dual(a, b, Point.parse(name), core).mean() <= here, name


def test_more_columns_in_lockstep_never_help():
    """The slowest lane of the slowest column decides: speedup falls with the columns that move together."""
    rng = np.random.default_rng(SEED)
    draw = rng.random((16, 1024, 16, 16), np.float32)
    for zeros in (0.5, 0.8):
        for far in (Distances(4, 0, 0), Distances(2, 2, 0)):
            mean = []
            for columns in (1, 2, 4, 8, 16):
                mask = draw[:, :, :columns] >= zeros
                mean.append(single_cycles(packed(np.ascontiguousarray(mask)), far, 16).mean())
            assert mean == sorted(mean)


def test_a_neighbour_column_is_worth_more_than_lanes_for_the_same_multiplexer():
    """Sixteen columns in lockstep: multiplexers of as many inputs save more cycles where they cross to a neighbour column."""
    rng = np.random.default_rng(SEED)
    draw = rng.random((8, 1024, 16, 16), np.float32)
    for zeros in ZEROS:
        words = packed(draw >= zeros)

        def cycles(name, words=words):
            point = Point.parse(name)
            return resources(point).a_mux, single_cycles(words, point.weights, 16).mean()

        for crossing, aside in (("B(4,0,1)", "B(2,1,0)"), ("B(8,0,1)", "B(4,1,0)"), ("B(8,0,1)", "B(2,3,0)")):
            assert cycles(crossing)[0] == cycles(aside)[0]
            assert cycles(crossing)[1] < 0.95 * cycles(aside)[1], (crossing, aside, zeros)
        assert cycles("B(4,0,1)")[0] == 5 and cycles("B(2,5,0)")[0] == 13
        assert cycles("B(4,0,1)")[1] < 1.01 * cycles("B(2,5,0)")[1]


def test_a_column_and_a_lane_aside_save_the_same_at_equal_lookahead():
    """All slots move in lockstep, so on random zeros one neighbour is worth as much as another: only the hardware differs."""
    rng = np.random.default_rng(SEED)
    draw = rng.random((16, 2048, 16, 16), np.float32)
    for zeros in (0.5, 0.8):
        words = packed(draw >= zeros)
        column, lane = (
            single_cycles(words, Point.parse(x).weights, 16).mean() for x in ("B(4,0,1)", "B(4,1,0)")
        )
        assert column == pytest.approx(lane, rel=0.01)
        assert resources(Point.parse("B(4,0,1)")).a_mux < resources(Point.parse("B(4,1,0)")).a_mux


def test_shuffling_rotates_groups_of_four_lanes():
    """Lane j of step t is found at (j + t) mod 4 of its group; nothing is lost."""
    x = np.arange(2 * 5 * 3 * 8).reshape(2, 5, 3, 8)
    found = shuffled(x)
    for t in range(5):
        for lane in range(8):
            assert np.array_equal(found[:, t, :, lane // 4 * 4 + (lane + t) % 4], x[:, t, :, lane])
    with pytest.raises(Refused, match="6 lanes"):
        shuffled(np.zeros((1, 1, 1, 6)))


@pytest.mark.parametrize(("pes", "lanes"), [(4, 16), (16, 16), (2, 32), (3, 8), (5, 4), (3, 12)])
@pytest.mark.parametrize("shuffle", [False, True])
def test_words_are_packed_and_shuffled_as_the_numbers_are(pes, lanes, shuffle):
    """The fast way to words gives what laying out, shuffling and packing one after the other give."""
    mask = np.random.default_rng(SEED).random((3 * pes + 1, 7 * lanes + 3)) < 0.5
    steps = laid_out(mask, pes, lanes, shuffle=shuffle)
    assert np.array_equal(packed_groups(mask, pes, lanes, shuffle=shuffle), packed(steps))
    if pes * lanes <= 64:
        joined = packed_groups(mask, pes, lanes, shuffle=shuffle, joined=True)
        assert np.array_equal(joined, packed(steps.reshape(*steps.shape[:2], -1)))


@pytest.mark.parametrize("kind", ["A", "B", "AB"])
def test_shuffling_helps_zeros_of_channels_and_not_random_ones(kind):
    """Channels that are zero throughout: shuffled lanes share the work. Random zeros: no difference beyond the noise."""
    rng, core = np.random.default_rng(SEED), Core()
    busy = np.where(np.arange(2048) % 4 == 0, 0.95, 0.15)  # one channel of four does nearly all the work
    drawn = {
        "channels": (rng.random((64, 2048)) < busy, rng.random((64, 2048)) < busy),
        "random": (rng.random((64, 2048)) < 0.35, rng.random((64, 2048)) < 0.35),
    }
    cycles = {}
    for zeros, (a, b) in drawn.items():
        for shuffle in (False, True):
            point = Point.parse({"A": "A(2,1,0)", "B": "B(4,0,1)", "AB": "AB(2,0,0,2,0,1)"}[kind])
            point = Point(point.weights, point.activations, shuffle)
            if kind == "AB":
                found = dual(a, b, point, core)
            else:
                x, pes, far = (a, 4, point.activations) if kind == "A" else (b, 16, point.weights)
                found = single_cycles(packed(laid_out(x, pes, 16, shuffle=shuffle)), far, 16)
            cycles[zeros, shuffle] = found.ravel().astype(float)
    assert cycles["channels", True].mean() < 0.9 * cycles["channels", False].mean()
    difference = cycles["random", True] - cycles["random", False]
    noise = np.hypot(cycles["random", True].std(), cycles["random", False].std())
    assert abs(difference.mean()) <= noise
