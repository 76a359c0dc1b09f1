"""Layers on Griffin's machines: modes, cycles, samples, bytes, energy, and what is refused."""

import numpy as np
import pytest

from sparsam.errors import Refused, Usage
from sparsam.hardware import How, griffin, machines, simulate
from sparsam.hardware.borrowing import Core, Distances, Point
from sparsam.hardware.designs import NotComputed
from sparsam.hardware.griffin import ScheduleCache, choose, efficiency, layer_cost, sampled_total
from sparsam.hardware.machine import machine_of
from sparsam.workload import Attention, Conv, Gemm, Tensor, Workload, bf16_bits

SEED = 20261129
NAMES = sorted(name for name, machine in machines().items() if machine.design == "griffin")


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch):
    """No test is helped by another's schedules."""
    monkeypatch.setattr(griffin, "CACHE", ScheduleCache())


def integers(rng, shape, zeros):
    values = rng.integers(1, 128, shape, dtype=np.int8) * rng.choice(np.array([-1, 1], np.int8), shape)
    return Tensor(np.where(rng.random(shape) < zeros, 0, values).astype(np.int8), "int8")


def gemm(zeros_a, zeros_b, size=(50, 40, 100), name="layer", seed=SEED):
    rng, (m, n, k) = np.random.default_rng(seed), size
    return Gemm(name, integers(rng, (m, k), zeros_a), integers(rng, (n, k), zeros_b))


def attention(seed=SEED):
    rng = np.random.default_rng(seed)
    q, k, v = (integers(rng, (21, 2, 20), 0.0) for _ in range(3))
    return Attention("attention", q, k, v, np.array([8, 13]), 0.001)


def mixed():
    """A workload with each kind of layer, ragged shapes, groups, a stride."""
    rng = np.random.default_rng(SEED)
    conv = Conv(
        "conv", integers(rng, (2, 10, 7, 6), 0.5), integers(rng, (12, 5, 3, 3), 0.6), (2, 1), (1, 1), groups=2
    )
    return Workload([gemm(0.4, 0.8), gemm(0.05, 0.05, (5, 3, 17), "small"), conv, attention()])


def one(layer, machine, how=None):
    return layer_cost(layer, machine_of(machine) if isinstance(machine, str) else machine, how or How())


@pytest.mark.parametrize("name", NAMES)
def test_replayed_layers_are_the_products(name):
    """Each machine's schedules of each kind of layer, carried out, give the dense integers in the cycles that were counted."""
    found = simulate(mixed(), machine_of(name), How(check=True))
    assert found.mode == "exact" and not found.left_out
    for layer in found.layers:
        assert layer.compute_cycles <= layer.dense_cycles
        assert layer.effectual <= layer.detail["multiplications issued"] <= layer.macs
        assert layer.compute_cycles * 1024 >= layer.detail["multiplications issued"]
        assert layer.error == 0


def test_a_wrong_count_does_not_survive_the_check(monkeypatch):
    """Where the fast kernel and the replayed schedule differ by a cycle, the layer is refused."""
    right = griffin.dual_cycles
    monkeypatch.setattr(
        griffin, "dual_cycles", lambda *given: right(*given) + (np.arange(len(given[-1])) == 3)
    )
    with pytest.raises(Refused, match="replayed schedule takes") as found:
        one(gemm(0.5, 0.5), "griffin", How(check=True))
    assert found.value.code == "schedule-differs"


@pytest.mark.parametrize("name", NAMES)
def test_full_operands_take_the_dense_cycles(name):
    """No zeros, no gain and no loss; the dense core takes ceil(m/4) ceil(n/16) ceil(k/16) cycles."""
    found = one(gemm(0, 0), name)
    assert found.compute_cycles == found.dense_cycles == 13 * 3 * 7
    assert found.peak_macs == 1024


def test_the_dense_machine_is_the_baseline():
    """Put to dense, a machine takes the baseline's cycles and bytes whatever is zero."""
    found = one(gemm(0.9, 0.9), machine_of("griffin").varied(kind="dense"))
    assert found.compute_cycles == found.dense_cycles
    assert found.dram_bytes == found.dense_dram_bytes


@pytest.mark.parametrize(
    ("zeros", "point"),
    [((0.05, 0.05), "dense"), ((0.05, 0.8), "B(8,0,1,on)"), ((0.5, 0.05), "A(2,1,1,on)"), ((0.5, 0.8), "AB(2,0,0,2,0,1,on)")],
)  # fmt: skip
def test_the_hybrid_chooses_its_mode_and_reports_it(zeros, point):
    """Dense, by weights, by activations, or both, by thresholds of zeros; the shares stand beside it."""
    found = one(gemm(*zeros), "griffin")
    assert found.detail["points"] == point
    assert found.detail["zeros of activations"] == pytest.approx(zeros[0], abs=0.03)
    assert found.detail["zeros of weights"] == pytest.approx(zeros[1], abs=0.03)


def test_thresholds_are_parameters():
    """A share of zeros above the threshold counts as sparse, one at it does not."""
    machine = machine_of("griffin")
    assert choose(machine, 0.2, 0.2, before=True).kind == "dense"
    assert choose(machine, 0.21, 0.2, before=True).kind == "A"
    assert choose(machine.varied(sparse_above_weights=0.1), 0.2, 0.2, before=True).kind == "B"


def test_modes_of_one_operand_win_where_the_other_is_dense():
    """With zeros in the weights alone the weight mode beats the dual design, and so for activations: why there is a hybrid."""
    weights, activations = gemm(0.0, 0.8, (32, 64, 1024)), gemm(0.5, 0.0, (32, 64, 1024))
    for layer in (weights, activations):
        assert one(layer, "griffin").compute_cycles < 0.9 * one(layer, "sparse-ab").compute_cycles


def test_weights_made_by_the_run_are_not_scheduled():
    """Attention's products run by their activations or dense; Sparse.B leaves them dense, Sparse.AB skips pairs."""
    assert one(attention(), "sparse-b").detail["points"] == "8 x dense"
    assert "A(2,1,1,on)" in one(attention(), "griffin").detail["points"]
    assert one(attention(), "sparse-ab").detail["points"] == "8 x AB(2,0,0,0,0,0,on)"


def test_products_of_training_are_left_out():
    """They are named with the reason, not computed as something else."""
    layer = Gemm("layer", gemm(0.5, 0.5).a, gemm(0.5, 0.5).b, "grad_weight")
    with pytest.raises(NotComputed, match="before the run"):
        one(layer, "griffin")
    found = simulate(Workload([layer, gemm(0.5, 0.5)]), machine_of("griffin"))
    assert [name for name, _ in found.left_out] == ["layer"] and len(found.layers) == 1


def test_real_numbers_are_put_on_eight_bits():
    """bfloat16 is rounded to int8 with one scale; what rounds to zero is a zero of the core."""
    rng = np.random.default_rng(SEED)
    a = Tensor(bf16_bits(rng.standard_normal((8, 32)) ** 5), "bf16")
    found = one(Gemm("layer", a, a), "griffin", How(check=True))
    assert found.detail["zeros of activations"] == pytest.approx(
        float((a.integers(8).values == 0).mean()), abs=1e-3
    )
    assert found.detail["zeros of activations"] > 0.2 > 1 - a.density


def test_a_weight_matrix_is_scheduled_once(monkeypatch):
    """The second layer with the same zeros finds the schedule; other distances, zeros or lanes are scheduled anew."""
    cache, core, far = ScheduleCache(), Core(), Distances(4, 0, 1)
    words = np.random.default_rng(SEED).integers(0, 1 << 16, (3, 20, 16)).astype(np.uint64)
    first = griffin.weight_cycles(words, far, core, cache)
    assert griffin.weight_cycles(words.copy(), far, core, cache) is first
    griffin.weight_cycles(words, Distances(4, 1, 1), core, cache)
    griffin.weight_cycles(words ^ np.uint64(1), far, core, cache)
    griffin.weight_streams(words, far, core, cache)
    assert griffin.weight_streams(words, far, core, cache) is griffin.weight_streams(words, far, core, cache)
    assert (cache.hits, cache.misses) == (3, 4)


def test_the_cache_forgets_the_oldest():
    """It keeps no more bytes than it may; what is larger is not kept at all."""
    cache = ScheduleCache(most=100)
    words = [np.full((1, 1, 1), number, np.uint64) for number in range(4)]
    for word in words[:3]:
        key, _ = cache.get(word, "x")
        cache.put(key, "made", 40)
    assert cache.bytes == 80
    assert cache.get(words[0], "x")[1] is None and cache.get(words[2], "x")[1] == "made"
    assert cache.put(cache.get(words[3], "x")[0], "large", 101) == "large" and cache.bytes == 80


def test_a_sample_says_so_and_is_near():
    """Sampled cycles carry their standard error, as small as was asked; the exact ones lie within four of them."""
    layer = gemm(0.5, 0.8, (1600, 64, 256))
    exact = one(layer, "sparse-ab")
    for error in (0.02, 0.008):
        found = one(layer, "sparse-ab", How(mode="sampled", error=error, seed=7))
        assert found.mode == "sampled" and 0 < found.error <= error * found.compute_cycles
        assert abs(found.compute_cycles - exact.compute_cycles) <= 4 * found.error
        assert found == one(layer, "sparse-ab", How(mode="sampled", error=error, seed=7))
    assert found != one(layer, "sparse-ab", How(mode="sampled", error=error, seed=8))
    assert found.detail == exact.detail | {
        name: found.detail[name] for name in ("activation bytes a cycle", "weight bytes a cycle")
    }


def test_standard_errors_are_honest():
    """Over many draws the sums scatter about the true one by as much as the standard errors say."""
    rng = np.random.default_rng(SEED)
    cycles = rng.gamma(4.0, 5.0, (200, 6)).round().astype(np.int64) + np.arange(6) * 10
    found = [sampled_total(lambda g, h: cycles[g, h], 200, 6, 0.02, seed) for seed in range(300)]
    scores = [(total - cycles.sum()) / error for total, error in found]
    assert abs(np.mean(scores)) < 0.3 and 0.8 < np.std(scores) < 1.3


def test_a_sample_of_everything_is_exact():
    """With few groups of activations nothing is left to chance, and the mode says exact."""
    layer = gemm(0.5, 0.8, (20, 64, 256))
    found = one(layer, "sparse-ab", How(mode="sampled"))
    assert found.mode == "exact" and found.compute_cycles == one(layer, "sparse-ab").compute_cycles


def test_auto_samples_where_exact_takes_too_long(monkeypatch):
    """Beyond so many rows of streams a product is sampled; exact still computes it all."""
    monkeypatch.setattr(griffin, "EXACT_ROWS", 100)
    layer = gemm(0.5, 0.8, (400, 64, 256))
    assert one(layer, "sparse-ab").mode == "sampled"
    assert one(layer, "sparse-ab", How(mode="exact")).mode == "exact"
    assert one(layer, "sparse-b").mode == "exact"  # seconds suffice


@pytest.mark.parametrize("mode", ["exact", "bound"])
def test_pieces_of_the_weights_add_up(monkeypatch, mode):
    """Where all streams together would take too much memory, some groups of columns after the others give the same."""
    layer = gemm(0.5, 0.8, (30, 100, 100))
    at_once = one(layer, "sparse-ab", How(mode=mode))
    monkeypatch.setattr(griffin, "STREAM_BYTES", 3 * 8 * 16 * 7 * 3)
    assert one(layer, "sparse-ab", How(mode=mode)) == at_once
    monkeypatch.setattr(griffin, "STREAM_BYTES", 1)
    assert one(layer, "sparse-ab", How(mode=mode)) == at_once


@pytest.mark.parametrize("name", NAMES)
def test_bounds_lie_below_the_exact_cycles(name):
    """The bound mode counts what no schedule can beat, near enough to be of use, and says so."""
    for layer in (gemm(0.5, 0.8, (64, 64, 512)), gemm(0.2, 0.95, (64, 64, 512))):
        exact, bound = one(layer, name), one(layer, name, How(mode="bound"))
        assert 0.3 * exact.compute_cycles <= bound.compute_cycles <= exact.compute_cycles
        assert bound.mode == "bound" or bound.detail["points"] == "dense"


def test_issued_multiplications_by_mode():
    """Weights alone: each non-zero weight for each row; activations alone: for each column; both: effectual pairs."""
    layer = gemm(0.5, 0.8)
    weights, activations = int(layer.b.nonzero.sum()), int(layer.a.nonzero.sum())
    for name, issued in (
        ("sparse-b", 50 * weights),
        ("sparse-a", 40 * activations),
        ("sparse-ab", layer.effectual()),
    ):
        found = one(layer, name)
        assert found.events["mul_int8"] == found.detail["multiplications issued"] == issued
        assert found.effectual == layer.effectual()


def test_memory_is_read_again_where_buffers_are_too_small():
    """Compulsory bytes where an operand fits; else the cheaper of reading one again for each part of the other."""
    machine = machine_of("griffin").varied(kind="dense")
    small = one(gemm(0, 0, (64, 64, 64)), machine)
    assert small.dram_bytes == 3 * 64 * 64
    large = gemm(0, 0, (2048, 128, 512))  # 1 MiB of activations, 64 KiB of weights
    assert one(large, machine).dram_bytes == 2 * 128 * 512 + 2048 * 512 + 2048 * 128
    tight = machine.varied(a_sram_kb=2048.0, b_sram_kb=1.0)
    assert one(large, tight).dram_bytes == 2048 * 512 + 128 * 512 + 2048 * 128
    images = Conv(
        "conv",
        integers(np.random.default_rng(1), (1, 16, 9, 9), 0),
        integers(np.random.default_rng(2), (8, 16, 3, 3), 0),
    )
    assert one(images, machine).dram_bytes == 16 * 81 + 8 * 16 * 9 + 8 * 49  # images once, not their windows


def test_stored_weights_carry_their_metadata():
    """The stream's rows, holes included, at 8 + 4 bits a place for B(4,0,1)."""
    layer = gemm(0.0, 0.8, (4, 64, 512))
    found = one(layer, "sparse-b")
    rows = found.detail["rows of weights read"] * 4 * 32
    assert found.compute_cycles == pytest.approx(rows, abs=0.02)
    assert found.dram_bytes == pytest.approx(4 * 512 + rows * 16 * 16 * 1.5 + 4 * 64, abs=20)


def test_efficiency_shows_both_its_factors():
    """Speedup over power ratio is the ratio of the energies; on the chip alone and with memory."""
    workload = Workload([gemm(0.5, 0.8, (64, 64, 512)), gemm(0.1, 0.9, (64, 64, 512), "second")])
    machine = machine_of("griffin")
    sparse, dense = simulate(workload, machine), simulate(workload, machine.varied(kind="dense"))
    for chip in (False, True):
        found = efficiency(sparse, dense, chip=chip)
        energies = [
            sum(pj for part, pj in cost.energy_pj.items() if not (chip and part == "dram"))
            for cost in (dense, sparse)
        ]
        assert found.gain == pytest.approx(energies[0] / energies[1])
        assert found.gain == pytest.approx(found.speedup / found.power)
    assert found.speedup == pytest.approx(sparse.compute_speedup) and found.power > 1
    with pytest.raises(Refused, match="same layers") as error:
        efficiency(sparse, simulate(workload[:1], machine))
    assert error.value.code == "efficiency-tables"


def test_a_product_without_rows_costs_nothing():
    """An empty operand is no error."""
    found = one(Gemm("empty", Tensor(np.zeros((0, 8), np.int8), "int8"), gemm(0, 0, (1, 4, 8)).b), "griffin")
    assert found.compute_cycles == found.dense_cycles == found.dram_bytes == 0


def test_sums_beyond_the_accumulators_are_refused():
    """32 bits hold 131,071 products of the largest magnitudes; more are refused by name, unless the numbers are small."""
    k = 1 << 17
    full, small = (Tensor(np.full((1, k), value, np.int8), "int8") for value in (-128, 1))
    with pytest.raises(Refused, match=r"wide.*2147483648 leave the 32 bits") as found:
        one(Gemm("wide", full, full), "griffin")
    assert found.value.code == "accumulator-overflow"
    assert one(Gemm("wide", full, small), "griffin").dense_cycles == k / 16


def test_numbers_beyond_eight_bits_are_refused_with_the_layer():
    """int16 operands that do not fit are not cut off."""
    wide = Tensor(np.full((4, 16), 300, np.int16), "int16")
    with pytest.raises(Refused, match="layer wide") as found:
        one(Gemm("wide", wide, wide), "griffin")
    assert found.value.code == "workload-range"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"lanes": 0}, "lanes .* is 0"),
        ({"rows": -1}, "rows .* is -1"),
        ({"lanes": 6}, "6 lanes are no multiple"),
        ({"rows": 8}, "at most"),
        ({"db1": 64}, "d1 is 64"),
        ({"only_da3": 4}, "d3 is 4"),
        ({"da2": -1}, "da2 .* is -1"),
        ({"kind": "C"}, "kind .* is 'C'"),
        ({"sparse_above_weights": 1.5}, "sparse_above_weights .* is 1.5"),
        ({"a_sram_kb": 0.0}, "a_sram_kb .* is 0"),
        ({"clock_mhz": float("nan")}, "clock_mhz .* is nan"),
    ],
)
def test_impossible_machines_are_refused(changed, says):
    """What was given, and what is possible."""
    with pytest.raises(Refused, match=says) as found:
        simulate(Workload([gemm(0, 0)]), machine_of("griffin").varied(**changed))
    assert found.value.code == "machine-parameter"


def test_shuffle_is_yes_or_no():
    """A number is not taken for it."""
    with pytest.raises(Usage, match="of another kind"):
        machine_of("griffin").varied(shuffle=1)


def test_points_of_machines_are_those_of_the_space():
    """Each machine file is the point that its name says."""
    found = {
        name: {point.name for point in griffin.points_of(machine_of(name)).values()} - {"dense"}
        for name in NAMES
    }
    assert found == {
        "bit-tactical-point": {"B(2,5,0,off)"},
        "griffin": {"AB(2,0,0,2,0,1,on)", "B(8,0,1,on)", "A(2,1,1,on)"},
        "sparse-a": {"A(2,1,0,on)"},
        "sparse-ab": {"AB(2,0,0,2,0,1,on)"},
        "sparse-b": {"B(4,0,1,on)"},
        "tensordash-both-point": {"AB(2,5,0,2,5,0,off)"},
        "tensordash-point": {"A(2,5,0,off)"},
    }
    assert Point.parse("B(4,0,1,on)") in griffin.points_of(machine_of("sparse-b")).values()
