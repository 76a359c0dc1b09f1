"""SpArch as a whole: the product is exact, counts are conserved, bounds hold, each step of the paper does what it says."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse

from sparsam.errors import Refused
from sparsam.hardware import How, simulate, sparch_count, sparch_merge, sparch_prefetch, sparch_replay
from sparsam.hardware.machine import machine_of
from sparsam.hardware.matrix_market import canonical, read_matrix
from sparsam.hardware.sparch import check, layer_cost, replay, run, simulate_matrices, tick
from sparsam.hardware.sparch_count import compulsory_bytes, partial_matrices, schedule
from sparsam.hardware.sparch_merge import first_merge, merge_order
from sparsam.hardware.sparch_replay import reference_entering
from sparsam.workload import Attention, Conv, Gemm, Tensor, Workload, bf16_bits

SPARCH = machine_of("sparch")
SMALL = SPARCH.varied(ways=4, fifo_depth=64, buffer_lines=8, line_elements=2)
STEPS = {
    "outer product": {"pipelined": False},
    "pipelined merger": {"condense": False, "order": "running", "prefetch": "none"},
    "condensing": {"order": "running", "prefetch": "none"},
    "Huffman": {"prefetch": "none"},
    "prefetch": {},
}
"""The steps of the abstract; each has those before it."""


def drawn(rng: np.random.Generator, most: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Two small integer matrices, from empty to dense."""
    m, k, n = rng.integers(1, most, 3)
    density = rng.choice([0.0, 0.1, 0.3, 0.6, 1.0], 2)
    return (
        rng.integers(-4, 5, (m, k)) * (rng.random((m, k)) < density[0]),
        rng.integers(-4, 5, (k, n)) * (rng.random((k, n)) < density[1]),
    )


def machine_for(rng: np.random.Generator):
    """Any of the machine's ways to work."""
    return SMALL.varied(
        ways=int(rng.choice([2, 4, 8])),
        merge_width=int(rng.choice([4, 16])),
        order=str(rng.choice(["huffman", "queue", "running"])),
        condense=bool(rng.integers(2)),
        size_estimate=str(rng.choice(["products", "elements"])),
    )


def rmat(seed: int, bits: int = 13, edges: int = 60_000):
    """A power-law graph (R-MAT with 0.57, 0.19, 0.19, 0.05), edges drawn twice kept once."""
    rng, rows, columns = (
        np.random.default_rng(seed),
        np.zeros(edges, np.int64),
        np.zeros(edges, np.int64),
    )
    for _ in range(bits):
        quarter = np.searchsorted([0.57, 0.76, 0.95], rng.random(edges), side="right")
        rows, columns = 2 * rows + (quarter >> 1), 2 * columns + (quarter & 1)
    made = scipy.sparse.coo_array((np.ones(edges, np.int64), (rows, columns)), shape=(1 << bits,) * 2).tocsr()
    made.data[:] = 1
    return made


# The product


def reproduces(seed: int, cases: int, *, ticked: bool = False) -> None:
    rng = np.random.default_rng(seed)
    for case in range(cases):
        (a, b), machine = drawn(rng), machine_for(rng)
        found = replay(a, b, machine)
        assert np.array_equal(found.toarray(), a @ b), (seed, case)
        assert found.dtype == np.int64
        positive = replay(abs(a), abs(b), machine)  # nothing cancels: the pattern is SciPy's
        wanted = scipy.sparse.csr_array(abs(a)) @ scipy.sparse.csr_array(abs(b))
        wanted.sort_indices()
        assert np.array_equal(positive.indices, wanted.indices)
        assert np.array_equal(positive.indptr, wanted.indptr)
        if ticked:
            one = tick(a, b, machine)
            assert np.array_equal(one.result.toarray(), a @ b), (seed, case)
            assert one.most <= machine["merge_width"]


def test_schedule_gives_the_integers():
    """The executed rounds give A B exactly, its pattern too where nothing cancels, and the sizes that were counted."""
    reproduces(1, 120)


@pytest.mark.slow
def test_schedule_gives_the_integers_ten_thousand_times():
    """The same for 10,000 pairs; a minute and a half."""
    reproduces(2, 10_000)


def test_ticked_tree_gives_the_integers():
    """Through FIFOs and mergers, cycle by cycle; no merger ever passes on more than its width."""
    reproduces(3, 60, ticked=True)


@pytest.mark.slow
def test_ticked_tree_gives_the_integers_ten_thousand_times():
    """The same for 10,000 pairs; two minutes."""
    reproduces(4, 10_000, ticked=True)


def test_cancelled_sums_stay_as_zeros():
    """1·1 + 1·(-1) is a stored zero; without it the pattern is SciPy's."""
    found = replay(np.array([[1, 1]]), np.array([[1, 2], [-1, 3]]), SPARCH)
    assert found.toarray().tolist() == [[0, 5]]
    assert found.nnz == 2
    found.eliminate_zeros()
    assert found.nnz == 1


def test_real_numbers_agree_to_rounding():
    """float64 within 1e-12 of the largest."""
    rng = np.random.default_rng(5)
    a, b = (scipy.sparse.random_array((200, 200), density=0.05, rng=rng, format="csr") for _ in range(2))
    wanted = (a @ b).toarray()
    assert abs(replay(a, b, SMALL).toarray() - wanted).max() <= 1e-12 * abs(wanted).max()


# Counts


def test_counts_are_those_of_sets():
    """What enters each layer of the tree equals merging sets of keys two by two, for all orders and the outer product."""
    rng = np.random.default_rng(6)
    for _ in range(120):
        (a, b), machine = drawn(rng), machine_for(rng)
        found = run(a, b, machine)
        wanted = reference_entering(a, b, machine)
        if len(found.inputs):
            assert np.array_equal(found.entering, wanted)
        else:
            assert not found.products
        assert run(a, b, machine.varied(pipelined=False)).result == found.result


def test_samples_that_share_all_rows_sum_to_the_whole():
    """Rows in three groups count, together, what all rows do, in every order; rows in no group are left out."""
    rng = np.random.default_rng(7)
    for _ in range(60):
        (a, b), machine = drawn(rng), machine_for(rng)
        a, b = canonical(a), canonical(b)
        columns = partial_matrices(a, b, machine["condense"])
        group = rng.integers(0, 3, a.shape[0])
        given = (machine["ways"], machine["order"])
        whole = schedule(a, b, columns, *given)
        shared = schedule(a, b, columns, *given, group=group)
        assert shared.inputs == whole.inputs
        assert np.array_equal(shared.entering.sum(1), whole.entering.sum(1))
        assert np.array_equal(shared.stored.sum(1), whole.stored.sum(1))
        if machine["order"] != "huffman":  # whose rounds follow the sizes
            some = schedule(a, b, columns, *given, group=np.where(group == 2, -1, group))
            assert np.array_equal(some.entering, shared.entering[:, : some.entering.shape[1]])


def test_plain_kernels_count_the_same(monkeypatch):
    """Without a compiler the same functions run in Python: counts, hits and ticks."""
    a, b = rmat(1, 5, 80), rmat(2, 5, 80)
    both = [SMALL.varied(order=order) for order in ("huffman", "running")]
    wanted, ticked = [run(a, b, one) for one in both], tick(a, b, SMALL)
    for module, names in (
        (sparch_count, ("_union", "_running", "_meet")),
        (sparch_prefetch, ("_buffer", "_raised", "_lowered")),
        (sparch_merge, ("_tick",)),
        (sparch_replay, ("_arrivals",)),
    ):
        for name in names:
            kernel = getattr(module, name)
            monkeypatch.setattr(module, name, getattr(kernel, "py_func", kernel))
    for machine, one in zip(both, wanted, strict=True):
        found = run(a, b, machine)
        assert np.array_equal(found.entering, one.entering)
        assert np.array_equal(found.hits, one.hits)
    again = tick(a, b, SMALL)
    assert np.array_equal(again.cycles, ticked.cycles)
    assert np.array_equal(again.result.toarray(), (a @ b).toarray())


def test_everything_is_made_written_and_read_once():
    """Products, sums, elements of A and stored elements balance, for all ways to work."""
    rng = np.random.default_rng(8)
    for _ in range(80):
        (a, b), machine = drawn(rng), machine_for(rng)
        found = run(a, b, machine)
        a, b = scipy.sparse.csr_array(a), scipy.sparse.csr_array(b)
        assert found.products == int(np.diff(b.indptr)[a.indices].sum())
        pattern = (abs(a) @ abs(b)).nnz
        assert found.result == pattern
        cost = simulate_matrices(a, b, machine)
        outer = run(a, b, machine.varied(pipelined=False))
        assert (cost.dense_cycles, cost.dense_dram_bytes) == (outer.compute_cycles, outer.bytes.sum())
        assert cost.events["mul_fp64"] == found.products
        assert cost.events["add_fp64"] == found.products - pattern
        assert len(found.turn) == a.nnz
        assert sorted(found.trace) == np.flatnonzero(found.columns.lengths).tolist()
        assert found.write_bytes.sum() == found.read_bytes.sum() == 16 * found.stored
        n = len(found.columns.sizes)
        read = [one for inputs in found.inputs for one in inputs]
        assert sorted(read) == list(range(n + max(len(found.inputs) - 1, 0)))
        assert found.entering[:, 0].sum() == found.products + found.stored


def test_time_and_traffic_keep_their_bounds():
    """No more than 16 products, 16 elements and 128 bytes a cycle; all that must move moves."""
    rng = np.random.default_rng(9)
    for _ in range(100):
        a, b = drawn(rng, 40)
        machine = machine_for(rng).varied(prefetch=str(rng.choice(["look-ahead", "lru", "fifo", "none"])))
        found = run(a, b, machine)
        least = compulsory_bytes(scipy.sparse.csr_array(a), scipy.sparse.csr_array(b), machine, found.result)
        assert found.bytes.sum() >= least
        assert found.cycles >= found.compute_cycles >= found.products / 16
        assert found.compute_cycles >= found.entering[:, 0].sum() / machine["merge_width"]
        assert found.bytes.sum() <= 128 * found.cycles


def test_hand_count():
    """A 3 x 3 with rows of 2, 1 and 1 elements times B with rows of 2, 0 and 1: counted on paper.

    Condensed columns: {(0, 0), (1, 2), (2, 1)} and {(0, 2)}. Products: 2 + 1 + 0, and 1. One round merges both: 4
    elements go in; (0, 1) comes twice, so 3 leave. Bytes: A 4·12 and three rows' 4; B rows 0 and 2, one block of 64 each,
    row 2's second use is a hit (row 0's is not used again); C 3·12 and three rows' 4.
    """
    a = np.array([[1, 0, 2], [0, 0, 3], [0, 4, 0]])
    b = np.array([[5, 6, 0], [0, 0, 0], [0, 7, 0]])
    found = run(a, b, SPARCH)
    assert found.columns.sizes.tolist() == [3, 1]
    assert found.entering.tolist() == [[4, 3, 3, 3, 3, 3, 3]]
    assert found.a_bytes.tolist() == [60]
    assert found.b_bytes.tolist() == [128]
    assert found.result_bytes.tolist() == [48]
    assert (found.lines, found.missed) == (3, 2)
    assert found.multiply.tolist() == [3]  # one cycle each for three rows that are not empty
    assert found.cycles == max(3, 1, math.ceil(236 / 128)) + 6 * 6


def test_row_behind_the_line_is_fetched_in_blocks():
    """A row of 50 elements in lines of 48 moves 9 blocks of 64 bytes and one for the last 24 bytes, or two whole lines."""
    a, b = np.ones((1, 1), np.int64), np.ones((1, 50), np.int64)
    assert run(a, b, SPARCH).b_bytes.tolist() == [640]
    assert run(a, b, SPARCH.varied(whole_lines=True)).b_bytes.tolist() == [2 * 576]


# Degenerate


def test_diagonal_takes_one_pass():
    """One condensed column: a single pass, nothing stored, C is B with its rows scaled."""
    b = rmat(3, 6, 200)
    found = run(scipy.sparse.diags_array(np.arange(1.0, 65)), b, SPARCH)
    assert len(found.inputs) == 1
    assert found.stored == 0
    assert found.result == b.nnz


@pytest.mark.parametrize("shape", [(3, 4, 5), (0, 4, 5), (3, 0, 5), (3, 4, 0)])
def test_empty_matrices_take_no_products(shape):
    """Zeros, or no rows at all: C is empty, and only row pointers move."""
    m, k, n = shape
    a, b = np.zeros((m, k), np.int64), np.ones((k, n), np.int64)
    for steps in STEPS.values():
        found = run(a, b, SPARCH.varied(**steps))
        assert (found.products, found.result, found.stored) == (0, 0, 0)
    assert replay(a, b, SPARCH).shape == (m, n)
    assert simulate_matrices(a, b, SPARCH).effectual == 0


def test_dense_matrices():
    """A dense 40 x 40: as many partial matrices as columns with and without condensing, one round, C full."""
    one = np.ones((40, 40), np.int64)
    for steps in ({}, {"condense": False}):
        found = run(one, one, SPARCH.varied(**steps))
        assert (len(found.columns.sizes), len(found.inputs), found.result) == (40, 1, 1600)
    assert np.array_equal(replay(one, one, SPARCH).toarray(), one @ one)


# Figures of reference


def test_pruned_convolution():
    """512 x 4608 at a density of 0.1 times 4608 x 196 at 0.5: 524 partial matrices, 20 first, 9 rounds, 23.1 M products.

    Stored elements, written and read: 1.61 M in the order of a queue. In Huffman order 1.42 M if sizes are sums up to a full
    result; the exact sizes are 3 % smaller still.
    """
    rng = np.random.default_rng(0)
    a = (rng.random((512, 4608)) < 0.1).astype(np.int64)
    b = (rng.random((4608, 196)) < 0.5).astype(np.int64)
    found = run(a, b, SPARCH)
    sizes = found.columns.sizes.tolist()
    assert (len(sizes), first_merge(len(sizes), 64), len(found.inputs)) == (524, 20, 9)
    assert found.products == pytest.approx(23.1e6, rel=0.03)
    assert 2 * run(a, b, SPARCH.varied(order="queue")).stored == pytest.approx(1.61e6, rel=0.03)
    known = list(sizes)

    def capped(inputs: list[int]) -> int:
        known.append(min(512 * 196, sum(known[i] for i in inputs)))
        return known[-1]

    merge_order(sizes, 64, "huffman", capped)
    assert 2 * sum(known[len(sizes) : -1]) == pytest.approx(1.42e6, rel=0.03)
    assert 0.95 * 1.42e6 < 2 * found.stored < 1.42e6


def test_power_law_graph_squared():
    """R-MAT of 8192 nodes: 4679 columns, 920 condensed, 38 first, 15 rounds, 5.42 M products, 2.85 M in C; hit rates."""
    a = rmat(1)
    found = run(a, a, SPARCH)
    sizes = found.columns.sizes.tolist()
    assert len(np.unique(a.indices)) == 4679
    assert (len(sizes), first_merge(len(sizes), 64), len(found.inputs)) == (920, 38, 15)
    assert found.products == pytest.approx(5.42e6, rel=0.03)
    assert found.result == pytest.approx(2.85e6, rel=0.03)
    known = list(sizes)
    for inputs in merge_order(sizes, 64, "huffman"):
        known.append(sum(known[i] for i in inputs))
    assert 2 * sum(known[len(sizes) : -1]) == pytest.approx(
        1.06e6, rel=0.03
    )  # by sums; equal keys make it less
    assert 2 * found.stored < 0.6e6 < 6e6 < 2 * run(a, a, SPARCH.varied(order="queue")).stored < 6.66e6
    for lines, belady, lru in ((256, 0.69, 0.41), (1024, 0.91, 0.82)):
        one = SPARCH.varied(buffer_lines=lines)
        assert run(a, a, one.varied(look_ahead=1 << 30)).hit_rate == pytest.approx(belady, rel=0.03)
        assert run(a, a, one.varied(prefetch="lru")).hit_rate == pytest.approx(lru, rel=0.03)


@pytest.mark.data
def test_steps_move_data_as_the_abstract_says(shared):
    """In the geometric mean over the 15 matrices the merger alone moves more than the outer product; each step then less."""
    files = sorted((shared / "data/matrices").glob("*.mtx.gz"))
    assert len(files) == 15
    moved = []
    for file in files:
        a = read_matrix(file)
        found = [run(a, a, SPARCH.varied(**steps)) for steps in STEPS.values()]
        assert len({one.result for one in found}) == 1
        moved.append([float(one.bytes.sum()) for one in found])
    means = np.exp(np.log(moved).mean(0))
    outer, merger, condensing, huffman, prefetch = means
    assert merger > outer
    assert merger > condensing > huffman > prefetch
    assert prefetch < outer


# Layers


def tensor(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> Tensor:
    return Tensor((rng.integers(-127, 128, shape) * (rng.random(shape) < density)).astype(np.int8), "int8")


def layers(rng: np.random.Generator):
    """One of each kind."""
    yield Gemm("gemm", tensor(rng, (30, 40), 0.5), tensor(rng, (20, 40), 0.1))
    yield Conv(
        "conv", tensor(rng, (1, 4, 6, 6), 0.5), tensor(rng, (6, 2, 3, 3), 0.3), (2, 1), (1, 1), (1, 1), 2
    )
    wide = Tensor(rng.integers(-30_000, 30_000, (5, 12)).astype(np.int16), "int16")
    real = Tensor(bf16_bits(rng.normal(size=(6, 12)) * (rng.random((6, 12)) < 0.5)), "bf16")
    yield Gemm("wide", wide, replace(wide, values=wide.values[:3]))
    yield Gemm("real", real, real)
    q, k, v = (tensor(rng, (9, 2, 4), 0.6) for _ in range(3))
    yield Attention("attention", q, k, v, np.array([4, 5]), 0.01)


def test_every_kind_of_layer_is_computed_and_replayed():
    """GEMM, grouped convolution, 16 bits, bfloat16, attention: effectual pairs once each, the replayed integers right."""
    for layer in layers(np.random.default_rng(10)):
        found = layer_cost(layer, SMALL, How(check=True))
        assert found.effectual == layer.effectual()
        assert found.macs == layer.macs
        assert found.mode == "exact"
        assert found.dense_cycles >= layer.macs / 16
        assert found.dram_bytes > 0


def test_sparser_operand_is_condensed():
    """The operand with the shorter longest row plays A, whichever it is; the product is the same."""
    rng = np.random.default_rng(11)
    dense, thin = tensor(rng, (30, 40), 0.9), tensor(rng, (25, 40), 0.1)
    weights = layer_cost(Gemm("w", dense, thin), SPARCH, How(check=True))
    activations = layer_cost(Gemm("a", thin, dense), SPARCH, How(check=True))
    assert weights.detail["A is"] == "weights"
    assert activations.detail["A is"] == "activations"
    assert weights.compute_cycles == activations.compute_cycles


def test_wrong_replay_is_noticed(monkeypatch):
    """The check compares numbers: one that is off is refused by the layer's name."""
    import sparsam.hardware.sparch as module

    monkeypatch.setattr(module, "replay", lambda a, b, machine: 2 * replay(a, b, machine))
    layer = next(layers(np.random.default_rng(12)))
    with pytest.raises(Refused, match="gemm: the replayed product differs") as caught:
        layer_cost(layer, SPARCH, How(check=True))
    assert caught.value.code == "replay-differs"
    with pytest.raises(Refused, match="differs by"):
        simulate_matrices(np.eye(3, dtype=np.int64), np.eye(3, dtype=np.int64), SPARCH, How(check=True))


def test_dense_layers_lose_to_a_dense_array():
    """With half of the activations and a tenth of the weights a dense array of 1024 8-bit multipliers is faster.

    With a hundredth of each it is not: 16 multipliers keep up with 1024 where the densities' product is below 1/64.
    """
    rng = np.random.default_rng(13)
    speed = []
    for activations, weights in ((0.01, 0.01), (0.5, 0.1), (0.5, 0.5)):
        layer = Gemm("g", tensor(rng, (512, 512), activations), tensor(rng, (512, 512), weights))
        speed.append(layer_cost(layer, SPARCH, How()).detail["speedup over that array"])
    assert speed[0] > 1
    assert 1 / 4 < speed[1] < 1 / 2
    assert speed[2] < 1 / 14


def test_sample_is_near_the_exact_cycles():
    """Sampled cycles lie within four standard errors, which are as small as asked; the same seed gives the same."""
    rng = np.random.default_rng(14)
    layer = Gemm("g", tensor(rng, (4000, 48), 0.3), tensor(rng, (200, 48), 0.4))
    exact = layer_cost(layer, SMALL, How(mode="exact"))
    for seed in range(2):
        found = layer_cost(layer, SMALL, How(mode="sampled", seed=seed, error=0.05))
        assert found.mode == "sampled"
        assert 0 < found.error <= 0.05 * found.compute_cycles
        assert abs(found.compute_cycles - exact.compute_cycles) <= max(
            4 * found.error, 0.01 * exact.compute_cycles
        )
        assert found == layer_cost(layer, SMALL, How(mode="sampled", seed=seed, error=0.05))


def test_bound_is_below_the_exact_cost():
    """Cycles and bytes of mode bound are never above those counted."""
    rng = np.random.default_rng(15)
    for _ in range(100):
        (a, b), machine = drawn(rng), machine_for(rng)
        low, exact = (simulate_matrices(a, b, machine, How(mode=mode)) for mode in ("bound", "exact"))
        assert low.mode == "bound"
        assert low.compute_cycles <= exact.compute_cycles
        assert low.dram_bytes <= exact.dram_bytes


def test_workload_runs_with_energy():
    """All kinds of layers through simulate: cycles of memory, energy of every part that is used."""
    found = simulate(Workload(list(layers(np.random.default_rng(16)))), SPARCH)
    assert len(found.layers) == 5
    assert not found.left_out
    assert all(one.dram_cycles == pytest.approx(one.dram_bytes / 128) for one in found.layers)
    assert all(found.energy_pj[part] > 0 for part in ("compute", "select", "registers", "sram", "dram"))
    assert found.layers[0].energy_pj["dram"] == pytest.approx(found.layers[0].dram_bytes * 8 * 2.93)


# Ticked against counted


def test_ticked_rounds_take_no_less_than_the_model():
    """Cycle by cycle nothing beats the model's multiplying and merging; a tree that is fed well takes less than twice it."""
    a = rmat(4, 8, 3000)
    found = tick(a, a, SPARCH.varied(fetchers=1024))
    model = np.maximum(found.counted.multiply, found.counted.merge)
    assert (found.tree >= model).all()
    assert found.tree.sum() < 2 * model.sum()
    assert (found.cycles >= found.tree).all()


def test_few_fetchers_wait_for_memory():
    """Short rows leave the memory idle unless many are under way: the ticked mode shows what the model does not."""
    a = rmat(5, 9, 1200)
    few, many = (tick(a, a, SPARCH.varied(fetchers=fetchers)) for fetchers in (2, 64))
    assert few.tree.sum() > 1.5 * many.tree.sum()


# Refusals


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("multipliers", 0), ("ways", 0), ("ways", 1), ("ways", 48), ("merge_width", 12), ("merge_chunk", 32),
        ("merge_chunk", 0), ("fifo_depth", 0), ("fifo_depth", 63), ("look_ahead", 0), ("buffer_lines", 0),
        ("line_elements", 0), ("fetchers", 0), ("channels", 0), ("clock_mhz", 0), ("dram_gb_per_s", 0.0),
        ("order", "random"), ("prefetch", "some"), ("size_estimate", "guess"), ("value_bytes", 3), ("stage_cycles", 0),
        ("dram_latency", -1), ("rival_macs", 0),
    ],
)  # fmt: skip
def test_impossible_machine_is_refused(name, value):
    """The error names the parameter, its value and the machine."""
    machine = SPARCH.varied(**{name: value})
    with pytest.raises(Refused, match=f"{name} of machine") as caught:
        check(machine)
    assert caught.value.code == "machine-parameter"
    with pytest.raises(Refused, match=name):
        run(np.eye(2), np.eye(2), machine)


def test_unequal_inner_sizes_are_refused():
    """Both shapes are named."""
    with pytest.raises(Refused, match="A is 2 x 3, B is 4 x 5") as caught:
        simulate_matrices(np.ones((2, 3)), np.ones((4, 5)), SPARCH)
    assert caught.value.code == "matrix-inner-size"


def test_sums_beyond_64_bits_are_refused():
    """Integers whose sums might wrap are not multiplied."""
    large = np.full((2, 2), 2**31, np.int64)
    assert replay(large // 2, large // 2, SPARCH).toarray()[0, 0] == 2**61
    with pytest.raises(Refused, match="may not fit 64 bits") as caught:
        replay(2 * large, large, SPARCH)
    assert caught.value.code == "counter-overflow"


def test_complex_and_infinite_matrices_are_refused():
    """By name and place."""
    with pytest.raises(Refused, match="A holds complex numbers") as caught:
        run(np.eye(2) * 1j, np.eye(2), SPARCH)
    assert caught.value.code == "matrix-complex"
    with pytest.raises(Refused, match="B holds inf in row 1, column 0") as caught:
        run(np.eye(2), np.array([[1.0, 2.0], [np.inf, 3.0]]), SPARCH)
    assert caught.value.code == "matrix-not-finite"
