"""Layers on TensorDash: against the reference job by job, against the dense tile, in bytes, in energy, refused by name."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from sparsam.errors import Refused
from sparsam.hardware import How, Machine, machines, simulate, tensordash
from sparsam.hardware.backward import backward
from sparsam.hardware.cost import LayerCost
from sparsam.hardware.memory import compulsory
from sparsam.hardware.tensordash import connections, walk
from sparsam.workload import Attention, Conv, Gemm, Layer, Tensor, Workload, bf16_bits

MACHINE = machines()["tensordash"]


def some(draw: np.random.Generator, *shape: int, zeros: float = 0.5, format: str = "int8") -> Tensor:
    """Numbers, some of them zero."""
    alive = draw.random(shape) >= zeros
    if format == "bf16":
        return Tensor(bf16_bits((draw.standard_normal(shape) * alive).astype(np.float32)), "bf16")
    values = draw.integers(1, 100, shape) * draw.choice([-1, 1], shape) * alive
    return Tensor(values.astype({"int8": np.int8, "int16": np.int16}[format]), format)


def product(seed: int, m: int, n: int, k: int, zeros: float = 0.5, **kind: Any) -> Gemm:
    """A product whose first operand has so many zeros, and whose second has few."""
    draw = np.random.default_rng(seed)
    return Gemm("one", some(draw, m, k, zeros=zeros, **kind), some(draw, n, k, zeros=0.02, **kind))


def cost(layer: Layer, how: How | None = None, machine: Machine = MACHINE, **values: Any) -> LayerCost:
    """Of one layer."""
    (found,) = simulate(Workload([layer]), machine.varied(**values), how).layers
    return found


def test_cycles_are_those_of_the_reference_job_by_job() -> None:
    """On one tile, window groups times filter groups of the schedule lane by lane: the sum of the authors' simulator."""
    layer, wired = product(0, 30, 21, 200), connections()
    z = np.pad(layer.a.nonzero, ((0, 0), (0, 8))).reshape(30, -1, 16)
    lengths = [len(walk(z[i : i + 4], wired)[1]) for i in range(0, 30, 4)]
    found = cost(layer, tiles=1)
    assert found.compute_cycles == sum(lengths) * 6 and found.dense_cycles == 8 * 6 * 13
    turns = np.zeros(16, int)
    for job, length in enumerate(np.repeat(lengths, 6)):
        turns[job % 16] += length
    assert cost(layer).compute_cycles == turns.max() and cost(layer).dense_cycles == 3 * 13
    wide = machines()["tensordash-dnnsim"]
    order = connections(order="dnnsim")
    assert cost(layer, machine=wide).compute_cycles == 2 * sum(
        len(walk(z[i : i + 4], order)[1]) for i in range(0, 30, 4)
    )


def test_dense_layers_take_what_the_dense_tile_takes() -> None:
    """All ones: products, convolutions with and without groups, attention; one- and two-sided, gate or none."""
    one = Tensor(np.ones((40, 64), np.int8), "int8")
    image = Tensor(np.ones((1, 32, 6, 6), np.int8), "int8")
    kernel = Tensor(np.ones((8, 16, 3, 3), np.int8), "int8")
    tokens = Tensor(np.ones((9, 2, 16), np.int8), "int8")
    layers: list[Layer] = [
        Gemm("g", one, one),
        Conv("c", image, kernel, groups=2),
        Attention("a", tokens, tokens, tokens, np.array([9]), 0.1),
    ]
    for layer in layers:
        for name in ("tensordash", "tensordash-two", "tensordash-dnnsim"):
            for gate in (0.0, 0.01):
                if layer.kind == "attention":  # 9 of 16 lanes in the second product; the first is dense
                    assert cost(layer, machine=machines()[name], gate=gate).compute_cycles > 0
                    continue
                found = cost(layer, machine=machines()[name], gate=gate)
                assert found.compute_cycles == found.dense_cycles, (layer.name, name)
                assert found.detail["gated_products"] == (found.detail["products"] if gate else 0)


def test_nothing_but_zeros_takes_a_third() -> None:
    """The closed form of a layer of zeros: every job a third of its rows, rounded up."""
    zero, full = Tensor(np.zeros((8, 160), np.int8), "int8"), Tensor(np.ones((8, 160), np.int8), "int8")
    found = cost(Gemm("z", zero, full), tiles=1)
    assert found.dense_cycles == 2 * 2 * 10 and found.compute_cycles == 2 * 2 * 4
    assert found.effectual == 0 and found.events["mul_int8"] == 0


def test_the_operand_with_more_zeros_is_scheduled() -> None:
    """Whichever side it is; scheduling the other gains nothing."""
    layer = product(1, 64, 48, 320, zeros=0.7)
    turned = Gemm("t", layer.b, layer.a)
    assert cost(layer).detail["scheduled"] == {"a": 1} and cost(turned).detail["scheduled"] == {"b": 1}
    assert cost(layer, tiles=1).compute_cycles == cost(turned, tiles=1).compute_cycles
    assert cost(layer, scheduled="b", gate=0.0).compute_cycles > 0.95 * cost(layer).dense_cycles


def test_below_the_gate_the_scheduler_is_off() -> None:
    """Few zeros: dense cycles, no scheduling events, all multiplications."""
    layer = product(2, 32, 32, 320, zeros=0.04)
    off, on = cost(layer, gate=0.05), cost(layer, gate=0.0)
    assert off.compute_cycles == off.dense_cycles >= on.compute_cycles
    assert off.events["mux_byte"] == off.events["logic_32"] == 0 < on.events["mux_byte"]
    assert off.events["mul_int8"] == 32 * 32 * 320 > on.events["mul_int8"]
    sparse = product(2, 32, 32, 320, zeros=0.8)
    baseline = cost(sparse, gate=2.0)  # a gate that nothing passes is the dense baseline, energy included
    assert baseline.compute_cycles == baseline.dense_cycles and baseline.energy_pj["select"] == 0
    assert sum(baseline.energy_pj.values()) > sum(cost(sparse).energy_pj.values())


def test_layers_without_work_take_no_time() -> None:
    """No rows: no cycles, no bytes, no fault; a simulation leaves it out and says why."""
    layer = Gemm(
        "none", Tensor(np.zeros((0, 16), np.int8), "int8"), Tensor(np.ones((4, 16), np.int8), "int8")
    )
    machine = machines()["tensordash"]
    found = tensordash.layer_cost(layer, machine, How())
    assert found.compute_cycles == found.dense_cycles == found.dram_bytes == 0
    assert simulate(Workload([layer]), machine).left_out == (("none", "it multiplies nothing"),)


def test_two_sides_skip_what_is_zero_on_either() -> None:
    """Issued are the effectual pairs alone, and one element alone is faster for it."""
    draw = np.random.default_rng(3)
    layer = Gemm("g", some(draw, 32, 640, zeros=0.5), some(draw, 32, 640, zeros=0.5))
    single: dict[str, Any] = {"tile_rows": 1, "tile_columns": 1, "tiles": 1}
    one, two = cost(layer, **single), cost(layer, machine=machines()["tensordash-two"], **single)
    assert two.events["mul_int8"] == two.effectual == layer.effectual() < one.events["mul_int8"]
    assert two.mode == "exact" and two.compute_cycles < 0.8 * one.compute_cycles


def test_samples_agree_with_the_exact_count_within_their_error() -> None:
    """Standard errors hold: over forty seeds few estimates lie beyond two; the same seed gives the same number."""
    layer = product(4, 2000, 24, 1600, zeros=0.6)
    exact = cost(layer, tiles=1)
    found = [cost(layer, How("sampled", 0.01, seed), tiles=1) for seed in range(40)]
    assert {one.mode for one in found} == {"sampled"} and len({one.compute_cycles for one in found}) > 20
    off = np.array([(one.compute_cycles - exact.compute_cycles) / one.error for one in found])
    assert (np.abs(off) > 2).sum() <= 6 and np.abs(off).max() < 5
    assert all(0 < one.error <= 0.01 * one.compute_cycles for one in found)
    again = cost(layer, How("sampled", 0.01, 7), tiles=1)
    assert again.compute_cycles == found[7].compute_cycles
    assert cost(product(4, 8, 8, 64), How("sampled")).mode == "exact"  # too few jobs to draw from


def test_two_sided_work_is_sampled_where_it_would_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Auto samples beyond the limit, exact does not, and both agree within the error."""
    monkeypatch.setattr(tensordash, "EXACT_ROWS", 1000)
    layer, machine = product(5, 90, 80, 320), machines()["tensordash-two"]
    drawn, exact = cost(layer, machine=machine), cost(layer, How("exact"), machine)
    assert (drawn.mode, exact.mode) == ("sampled", "exact")
    most = -(-23 * 20 // 16)  # jobs of the fullest tile; the exact count takes the fullest of sixteen sums
    assert drawn.compute_cycles == pytest.approx(exact.compute_cycles, rel=0.05) and most == 29


def test_bounds_are_below_the_schedule() -> None:
    """The bound is never above the exact cycles, and tight on zeros and on ones."""
    for name in ("tensordash", "tensordash-two"):
        for zeros in (0.0, 0.3, 0.6, 0.9, 1.0):
            layer = product(6, 37, 29, 300, zeros)
            least, exact = (cost(layer, How(mode), machines()[name], gate=0.0) for mode in ("bound", "exact"))
            assert least.mode == "bound" and least.compute_cycles <= exact.compute_cycles
            if zeros == 1.0:
                assert least.compute_cycles == exact.compute_cycles


def test_clustered_zeros_gain_less_in_a_tile_than_in_an_element() -> None:
    """Real zeros gather; a tile waits for its fullest row, so it loses more than with zeros anywhere."""
    draw = np.random.default_rng(8)
    share = np.repeat(draw.beta(0.4, 0.4, (256, 1)), 320, axis=1)
    gathered = (draw.random((256, 320)) >= share) * draw.integers(1, 9, (256, 320))
    spread = draw.permutation(gathered.ravel()).reshape(256, 320)
    b = Tensor(np.ones((16, 320), np.int8), "int8")
    loss = {}
    for name, values in (("gathered", gathered), ("anywhere", spread)):
        found = cost(Gemm(name, Tensor(values.astype(np.int8), "int8"), b), tiles=1).detail
        loss[name] = found["element_speedup"] / found["tile_speedup"]
    assert loss["gathered"] > 1.1 * loss["anywhere"] > 1


def test_back_side_scheduling_moves_fewer_bytes_in_the_same_cycles() -> None:
    """Sparse operands travel compacted; dense ones plain; the schedule is the same."""
    draw = np.random.default_rng(9)
    image = some(draw, 1, 64, 12, 12, zeros=0.85, format="bf16")
    conv = Conv("c", image, some(draw, 32, 64, 3, 3, zeros=0.0, format="bf16"), padding=(1, 1))
    for layer in (product(9, 64, 64, 640, 0.85, format="bf16"), conv):
        plain, stored = cost(layer), cost(layer, back_side=True)
        assert plain.compute_cycles == stored.compute_cycles
        assert stored.dram_bytes < plain.dram_bytes == stored.dense_dram_bytes
        assert stored.sram_bytes < plain.sram_bytes
        assert 0 < stored.events["logic_32"] < plain.events["logic_32"]
    full = product(10, 32, 32, 320, 0.0)
    assert cost(full, back_side=True).dram_bytes == cost(full).dram_bytes


def test_bytes_are_at_least_what_must_move() -> None:
    """Each operand in once, each result out once: just that in the paper's buffers, more in small ones."""
    draw = np.random.default_rng(11)
    conv = Conv("c", some(draw, 1, 3, 20, 20), some(draw, 8, 3, 3, 3), padding=(1, 1))
    q, k, v = (some(draw, 20, 3, 16) for _ in range(3))
    attention = Attention("a", q, k, v, np.array([12, 8]), 0.25)
    gemm = product(12, 100, 60, 333)
    least = {
        "conv": 3 * 400 + 8 * 27 + 8 * 400,
        "gemm": compulsory(100, 60, 333, 8, 8, 8).total,
        "attention": 3 * sum(2 * t * 16 + 3 * t * t + t * 16 + t * 16 - t * t for t in (12, 8)),
    }
    for layer in (conv, attention, gemm):
        assert cost(layer).dram_bytes == pytest.approx(least[layer.kind]), layer.kind
        assert cost(layer, buffer_kb=0.25).dram_bytes > least[layer.kind]
        assert cost(layer).sram_bytes > cost(layer).dram_bytes


@pytest.mark.parametrize("format", ["int8", "int16", "bf16"])
def test_layers_are_checked_on_request(format: str) -> None:
    """A job of each product is carried out and compared, for each number format and both kinds of scheduling."""
    draw = np.random.default_rng(13)
    q, k, v = (some(draw, 11, 2, 20, format=format) for _ in range(3))
    x, weight = some(draw, 1, 20, 6, 6, format=format), some(draw, 8, 10, 3, 3, format=format)
    layers: list[Layer] = [
        product(13, 10, 9, 100, 0.6, format=format),
        product(14, 3, 2, 17, 0.9, format=format),
        Attention("a", q, k, v, np.array([7, 4]), 0.2),
        Conv("c", x, weight, (2, 1), (1, 1), groups=2),
    ]
    for name in ("tensordash", "tensordash-two"):
        for layer in layers:
            assert cost(layer, How(check=True), machines()[name]).compute_cycles > 0


def test_a_schedule_that_differs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the fast form does not pass the check."""
    sound = tensordash.job_cycles
    monkeypatch.setattr(tensordash, "job_cycles", lambda *given: sound(*given) + 1)
    with pytest.raises(Refused, match="cycles lane by lane") as raised:
        cost(product(15, 10, 9, 100), How(check=True))
    assert raised.value.code == "replay-cycles"


def test_the_three_products_of_training_run() -> None:
    """Forward, gradients of input and of weights, each with its role; zeros of activations and of gradients are used."""
    draw = np.random.default_rng(16)
    layer = Conv(
        "c", some(draw, 2, 32, 14, 14, zeros=0.5), some(draw, 32, 32, 3, 3, zeros=0.0), (2, 2), (1, 1)
    )
    gradient = some(draw, 2, 32, *layer.out, zeros=0.8)
    costs = simulate(Workload([layer, *backward(layer, gradient)]), MACHINE).layers
    gain: dict[str, float] = {}
    for role in ("forward", "grad_input", "grad_weight"):
        mine = [one for one in costs if one.role == role]
        assert mine
        gain[role] = sum(one.dense_cycles for one in mine) / sum(one.compute_cycles for one in mine)
    assert gain["forward"] > 1.3 and gain["grad_input"] > 1.6 and gain["grad_weight"] > 1.6


def test_scheduling_costs_little_energy_beside_multiplying() -> None:
    """Multiplexers and schedulers take a small share of the arithmetic they steer, in bfloat16."""
    found = cost(product(17, 64, 64, 640, 0.5, format="bf16"))
    assert 0 < found.energy_pj["select"] < 0.15 * found.energy_pj["compute"]
    assert set(found.events) == {
        "mul_bf16",
        "add_fp32",
        "mux_byte",
        "logic_32",
        "register_bit",
        "dram_byte",
        "sram_byte",
    }


def test_sums_beyond_the_accumulator_are_refused() -> None:
    """The layer, the sums and the width are named; a wider accumulator takes them."""
    layer = Gemm(
        "big", Tensor(np.full((2, 40), 100, np.int8), "int8"), Tensor(np.full((2, 40), 100, np.int8), "int8")
    )
    with pytest.raises(
        Refused, match="big: sums from 400000 to 400000 do not fit an accumulator of 16 bits"
    ) as raised:
        cost(layer, accumulator_bits=16)
    assert raised.value.code == "accumulator-overflow"
    assert cost(layer, accumulator_bits=20).compute_cycles > 0
    wide = Tensor(np.full((1, 1 << 20), 32767, np.int16), "int16")
    with pytest.raises(Refused, match="do not fit an accumulator of 48 bits"):
        cost(Gemm("wide", wide, wide))


def test_machines_that_cannot_be_are_refused() -> None:
    """Zero lanes, no buffer, unknown words: named with the machine, before any layer runs."""
    wrong: list[dict[str, Any]] = [
        {"lanes": 0}, {"lanes": 64}, {"depth": 0}, {"lookaside": -1}, {"tiles": 0}, {"tile_rows": 0}, {"order": "best"},
        {"sides": "three"}, {"scheduled": "c"}, {"gate": -0.5}, {"clock_mhz": 0.0}, {"buffer_kb": -1.0},
    ]  # fmt: skip
    for values in wrong:
        with pytest.raises(Refused, match="tensordash") as raised:
            cost(product(18, 4, 4, 16), **values)
        assert raised.value.code == "machine-parameter", values


def test_without_a_compiler_the_numbers_are_the_same() -> None:
    """numba is an extra: where it is missing the same functions run as plain Python."""
    text = (
        "import sys; sys.modules['numba'] = None\n"
        "import numpy as np\n"
        "from sparsam.hardware import tensordash, jit\n"
        "assert not jit.COMPILED and 'torch' not in sys.modules\n"
        "z = np.random.default_rng(0).random((6, 160)) < 0.4\n"
        "print(tensordash.job_cycles(tensordash.stream_words(z, 16), None, tensordash.connections(), 2).tolist())\n"
    )
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, timeout=60)
    z = np.random.default_rng(0).random((6, 160)) < 0.4
    assert ran.stdout.strip() == str(
        tensordash.job_cycles(tensordash.stream_words(z, 16), None, connections(), 2).tolist()
    )
