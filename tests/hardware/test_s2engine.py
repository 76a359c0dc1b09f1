"""S2Engine: the array gives back the dense product, its counts are as in closed form, its fast form is its plain form."""

import numpy as np
import pytest

from sparsam.errors import Refused
from sparsam.hardware import s2engine
from sparsam.hardware.machine import machine_of
from sparsam.hardware.s2engine import bound, collective_replay, collective_sources, replay, stream_flips, work
from sparsam.hardware.s2engine_array import (
    END,
    GROUP,
    OFF,
    OUT,
    PLACE_W,
    PLACE_X,
    UNLIMITED,
    Array,
    compress,
    cycles,
    pass_ticks,
    run,
)
from sparsam.hardware.simulate import How, simulate
from sparsam.workload import Attention, Conv, Gemm, Tensor, Workload

KIND = {np.int8: "int8", np.int16: "int16"}


def tensor(v, kind=np.int8):
    return Tensor(np.asarray(v).astype(kind), KIND[kind])


def sparse(rng, shape, density, most=127):
    """Integers of which a share is not zero; zero may be drawn among them, too."""
    return rng.integers(-most, most, shape, endpoint=True) * (rng.random(shape) < density)


def drawn(rng, *, mixed=False):
    """Operands of a small pass, and an array with queues and clocks of any size."""
    rows, columns, rounds, groups = (int(v) for v in rng.integers(1, (5, 5, 4, 4)))
    most, kind = (3000, np.int16) if mixed else (127, np.int8)
    x = sparse(rng, (rows, rounds, groups * GROUP), rng.random(), most).astype(kind)
    w = sparse(rng, (columns, groups * GROUP), rng.random(), most).astype(kind)
    num, den = ((4, 1), (2, 1), (5, 2), (1, 1), (8, 1), (7, 3))[rng.integers(6)]
    depths = [int(v) for v in rng.choice([1, 2, 3, 8, UNLIMITED], 4)]
    return x, w, Array(rows, columns, *depths, num, den, bool(rng.integers(2)))


def obeys(x, w, array):
    """All laws of one pass."""
    found = run(x, w, array)
    k = w.shape[1]
    dense = np.einsum("rsk,ck->src", x.astype(np.int64), w.astype(np.int64))
    assert np.array_equal(found.sums, dense)
    asked = work(x.reshape(-1, k), w)
    decisions, queued, multiplied, w_seen, x_seen, _ = found.seen
    assert decisions.sum() == asked.decisions
    assert queued.sum() == multiplied.sum() == asked.pairs
    assert multiplied.max() <= found.ticks * array.den // array.num
    x_lengths, w_lengths = (
        compress(x.reshape(len(x), -1)).lengths,
        compress(np.tile(w, (1, x.shape[1])), k // GROUP, PLACE_W).lengths,
    )
    assert (w_seen == w_lengths).all() and (x_seen == x_lengths[:, None]).all()
    assert (found.peaks <= (array.w, array.x, array.wx, array.s)).all()
    total, finished = pass_ticks(x, w, array)
    assert total == found.ticks and np.array_equal(finished, found.finished)
    assert bound(x, w, array) <= found.ticks
    return found


def test_ten_thousand_random_passes_give_the_dense_product_and_keep_every_law():
    """Sums bit for bit; decisions, pairs and visits as counted; queues within depth; fast form equal; bound below."""
    rng = np.random.default_rng(20)
    for case in range(10_000):
        obeys(*drawn(rng, mixed=case % 4 == 0))


def test_compiled_and_plain_python_agree():
    """The reference and the fast form, as Python runs them, give what the compiled ones give."""
    rng = np.random.default_rng(3)
    for case in range(6):
        x, w, array = drawn(rng, mixed=case % 2 == 0)
        x, w = x[:, :2, : 2 * GROUP], w[:, : 2 * GROUP]
        array = array._replace(wx=min(array.wx, 64))
        for one, other in zip(run(x, w, array), run(x, w, array, plain=True), strict=True):
            assert np.array_equal(one, other)
        if case % 2:
            xs = compress(x.reshape(len(x), -1))
            ws = compress(np.tile(w, (1, x.shape[1])), w.shape[1] // GROUP, PLACE_W, shadow=True)
            finished = np.zeros(x.shape[1], np.int64)
            plain = getattr(cycles, "py_func", cycles)(
                ws.codes, ws.starts, xs.codes, xs.starts, x.shape[1], *map(np.int32, array[2:6]), *array[6:], finished
            )  # fmt: skip
            assert plain == pass_ticks(x, w, array)[0]


def test_streams_hold_the_numbers_and_one_zero_for_an_empty_group():
    """Value, offset, end-of-group and end-of-kernel of a row that can be read by eye."""
    v = np.zeros((1, 48), np.int16)
    v[0, [2, 9]], v[0, 40] = (5, -7), 300
    found = compress(v, 3, PLACE_W)
    assert found.values[found.starts[0] + 1 :][:5].tolist() == [5, -7, 0, 300 & 255, 300 >> 8]
    codes = found.codes[found.starts[0] + 1 :][:5]
    assert (codes & OFF).tolist() == [2, 9, 0, 8, 8]
    assert ((codes & END) != 0).tolist() == [False, True, True, False, True]
    assert ((codes & OUT) != 0).tolist() == [False, False, False, False, True]
    empty = compress(np.zeros((1, 16), np.int8), 0, PLACE_X)
    assert empty.codes[2] & OFF == PLACE_X and empty.values[2] == 0


def test_a_group_takes_its_numbers_less_the_matches_before_their_ends():
    """|W| + |X| - M' - 1 decisions of an isolated PE, counted from the definition; 16 for a dense group."""
    rng = np.random.default_rng(5)
    array = Array(1, 1, UNLIMITED, UNLIMITED, UNLIMITED, 1)
    for _ in range(1000):
        x, w = (sparse(rng, GROUP, rng.random()).astype(np.int8) for _ in range(2))
        at_x, at_w = (set(np.flatnonzero(v).tolist()) or {place} for v, place in ((x, PLACE_X), (w, PLACE_W)))
        early = (at_x - {max(at_x)}) & (at_w - {max(at_w)})
        steps = len(at_w) + len(at_x) - len(early) - 1
        assert run(x[None, None], w[None], array).seen[0, 0, 0] == steps
    ones = np.ones(GROUP, np.int8)
    assert run(ones[None, None], ones[None], array).seen[0, 0, 0] == 16


def test_expected_decisions_of_a_group():
    """16, 15.8, 15.3, … 2.5 decisions for densities 1.0 … 0.1 of both operands: the exact expectations, to their last digit."""
    rng = np.random.default_rng(6)
    expected = (16, 15.8, 15.3, 14.4, 13.2, 11.6, 9.8, 7.6, 5.1, 2.5)
    for density, decisions in zip(np.arange(10, 0, -1) / 10, expected, strict=True):
        x, w = ((rng.random((3000, 4 * GROUP)) < density).astype(np.int8) for _ in range(2))
        found = work(x, w).decisions / (len(x) * len(w) * 4)
        assert found == pytest.approx(decisions, abs=0.07)


def test_dense_operands_run_at_the_multipliers_rate():
    """64 ticks a group at ratio 4, whatever the queues, but for filling and draining (and 0.3 % without queues)."""
    ones = np.ones((16, 36, 9 * GROUP), np.int8)
    for depths in ((1, 1, 1, 1), (2, 2, 1, 1), (3, 3, 8, 1), (UNLIMITED,) * 4):
        total, _ = pass_ticks(ones, ones[:, 0], Array(16, 16, *depths))
        assert 36 * 9 * 64 / total == pytest.approx(1, abs=0.005)


def test_deeper_queues_faster_selection_and_fewer_numbers_are_never_slower():
    """Ticks fall with depth, multiplier cycles with the ratio, and both with density, down to the bound."""
    rng = np.random.default_rng(7)
    times = {}
    for density in (0.8, 0.5, 0.2):
        x = (rng.random((16, 8, 9 * GROUP)) < density).astype(np.int8)
        w = (rng.random((16, 9 * GROUP)) < density).astype(np.int8)
        ladder = ((1, 1, 1), (2, 2, 1), (2, 2, 2), (3, 3, 3), (3, 3, 8), (8, 8, 8), (UNLIMITED,) * 3)
        found = [pass_ticks(x, w, Array(16, 16, *depths))[0] for depths in ladder]
        assert found == sorted(found, reverse=True)
        assert bound(x, w, Array()) <= found[-1] <= 1.35 * bound(x, w, Array())
        fast = [
            pass_ticks(x, w, Array(num=num, den=den))[0] * den / num
            for num, den in ((1, 1), (2, 1), (5, 2), (4, 1), (8, 1))
        ]
        assert fast == sorted(fast, reverse=True)
        times[density] = found
    assert all(a > b > c for a, b, c in zip(*times.values(), strict=True))


def test_wide_numbers_take_a_multiplication_for_each_pair_of_halves():
    """16 by 8 bits costs two slots, 16 by 16 four; on dense operands nothing else counts."""
    ones = np.ones((16, 6, 9 * GROUP), np.int16)
    once, twice, four = (
        pass_ticks(ones * a, (ones * b)[:, 0], Array())[0] for a, b in ((1, 1), (300, 1), (300, -300))
    )
    assert pass_ticks(ones, (ones * 300)[:, 0], Array())[0] == twice
    assert twice == pytest.approx(2 * once, rel=0.01) and four == pytest.approx(4 * once, rel=0.02)


def test_flips_of_the_stream_registers():
    """Bits that change from element to element, from zero on, by hand: 3 at offset 0, then 1 at offset 15, the last."""
    v = np.zeros((1, 16), np.int8)
    v[0, 0], v[0, 15] = 3, 1
    assert stream_flips(compress(v)) == 2 + (1 + 4 + 1)  # two bits up; one down, four of the offset, the end


def layer_of(rng, shape, weight, density=0.5, stride=1, padding=1, dilation=1, groups=1):
    pair = [(v, v) if isinstance(v, int) else v for v in (stride, padding, dilation)]
    return Conv(
        "conv", tensor(sparse(rng, shape, density)), tensor(sparse(rng, weight, density)), *pair, groups
    )


def test_collective_elements_fetch_the_same_groups_with_fewer_reads():
    """What CEs broadcast is the activations, for any stride, dilation and padding; they never read more."""
    rng = np.random.default_rng(8)
    for _ in range(200):
        kh, kw, stride, dilation = (int(v) for v in rng.integers(1, (4, 5, 4, 3)))
        channels, high, wide = (int(v) for v in rng.integers((1, 8, 8), (40, 12, 20)))
        padding = (int(rng.integers(0, kh)), int(rng.integers(0, kw)))
        layer = layer_of(
            rng, (2, channels, high, wide), (3, channels, kh, kw), 0.5, stride, padding, dilation
        )
        (product,) = layer.products(GROUP)
        rows = int(rng.integers(1, 20))
        sent, reads = collective_replay(layer, product, rows)
        assert np.array_equal(sent, s2engine._ordered(product.a.values, layer))
        sources = collective_sources(layer, rows)
        assert reads == (sources == s2engine.OWN).sum() * (product.size[2] // GROUP // sources.shape[1])
        assert reads <= (sources != s2engine.ZERO).sum() * (product.size[2] // GROUP // sources.shape[1])


def test_collective_elements_share_what_a_kernel_reuses():
    """3 by 3, 16 neighbouring positions: 48 groups of a kernel row become 18, with stride 2 33; a 1 by 1 kernel shares none."""
    rng = np.random.default_rng(9)
    for weight, stride, share in (
        ((4, 16, 3, 3), 1, 48 / 18),
        ((4, 16, 3, 3), 2, 48 / 33),
        ((4, 16, 1, 1), 1, 1.0),
    ):
        size = 15 * stride + weight[3]
        layer = layer_of(rng, (1, 16, size, size), weight, stride=stride, padding=0)
        sources = collective_sources(layer, 16)
        assert sources.size / (sources == s2engine.OWN).sum() == pytest.approx(share)


def test_replayed_layers_give_the_convolution():
    """Ragged channels, positions and outputs, groups, strides, 16-bit operands: the sums are those of the dense product."""
    rng = np.random.default_rng(10)
    array = Array(4, 3, 2, 3, 2, 1, 5, 2)
    for groups, most in ((1, 127), (1, 3000), (3, 127)):
        x = sparse(rng, (2, 21, 7, 6), 0.5, most).astype(np.int16)
        w = sparse(rng, (9, 21 // groups, 3, 2), 0.4, most).astype(np.int16)
        layer = Conv("c", tensor(x, np.int16), tensor(w, np.int16), (2, 1), (1, 1), (1, 1), groups)
        for product in layer.products(GROUP):
            found = replay(product, array, layer, mixed=True)
            assert np.array_equal(found, product.result())


def layers(rng):
    q, k, v = (tensor(rng.integers(-100, 100, (50, 2, 24))) for _ in range(3))
    q, k = (Tensor(one.values, "int8", 0.01) for one in (q, k))
    return (
        layer_of(rng, (1, 20, 9, 9), (18, 20, 3, 3), 0.4),
        Gemm("gemm", tensor(sparse(rng, (35, 100), 0.4)), tensor(sparse(rng, (20, 100), 0.3))),
        Attention("attention", q, k, v, np.array([20, 30]), 0.2),
    )


def test_a_workload_is_costed_and_checked():
    """All kinds of layers, exact with replay, and the bound below it; bytes at least compulsory ones, energy in every part."""
    rng = np.random.default_rng(11)
    work_load = Workload(layers(rng))
    machine = machine_of("s2engine")
    exact = simulate(work_load, machine, How(mode="exact", check=True))
    low = simulate(work_load, machine, How(mode="bound"))
    assert (exact.mode, low.mode, exact.left_out) == ("exact", "bound", ())
    for one, other, layer in zip(exact.layers, low.layers, work_load, strict=True):
        assert one.error == 0 and one.macs == layer.macs and one.effectual == layer.effectual()
        assert other.compute_cycles <= one.compute_cycles
        assert one.detail["ticks_with_even_work"] <= one.detail["selection_ticks"]
        assert one.events["mul_int8"] == one.detail["pairs"] >= one.effectual
        assert set(one.energy_pj) == {"compute", "select", "registers", "sram", "dram"}
        assert all(v > 0 for v in one.energy_pj.values())
    conv = exact.layers[0]
    stored = sum(one.nonzero.sum() for one in work_load[0].tensors().values())
    assert conv.dram_bytes >= stored * 13 / 8 + 18 * 81
    assert conv.dense_dram_bytes == 20 * 81 + 18 * 20 * 9 + 18 * 81
    assert (
        conv.dense_cycles == 2 * 6 * 180
    )  # two tiles of columns, six rounds of rows, a multiplication a cycle


def test_activation_reads_fall_with_collective_elements():
    """The switch changes bytes on the chip alone."""
    rng = np.random.default_rng(12)
    load = Workload((layer_of(rng, (1, 16, 18, 18), (16, 16, 3, 3), padding=0),))
    machine = machine_of("s2engine")
    one, other = (simulate(load, machine.varied(collective_elements=on)).layers[0] for on in (True, False))
    assert one.compute_cycles == other.compute_cycles and one.sram_bytes < other.sram_bytes
    share = one.detail["activation_reads_without_collective"] / one.detail["activation_reads_with_collective"]
    assert share == pytest.approx(48 / 18, rel=0.05)


def test_a_sample_is_within_its_standard_error():
    """Sampled cycles lie within three standard errors of exact ones, the same for a seed; the error is what was asked."""
    rng = np.random.default_rng(13)
    load = Workload((layer_of(rng, (1, 64, 40, 40), (128, 64, 3, 3), 0.4),))
    machine = machine_of("s2engine")
    exact = simulate(load, machine, How(mode="exact")).cycles
    found = [simulate(load, machine, How(mode="sampled", error=0.01, seed=seed)) for seed in (1, 1, 2, 3)]
    assert {one.mode for one in found} == {"sampled"}
    assert found[0] == found[1] != found[2]
    for one in found:
        assert 0 < one.error <= 0.01 * one.cycles
        assert abs(one.cycles - exact) <= 3 * one.error


def test_zeros_and_one_by_one_layers_run():
    """A layer of zeros takes its placeholders; one number in, one out."""
    machine = machine_of("s2engine")
    zero = Gemm("zero", tensor(np.zeros((3, 40))), tensor(np.zeros((2, 40))))
    one = Gemm("one", tensor([[3]]), tensor([[-4]]))
    found = simulate(Workload((zero, one)), machine, How(mode="exact", check=True))
    assert found.layers[0].effectual == 0 and found.layers[0].cycles > 0
    assert found.layers[1].effectual == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rows", 0), ("columns", 0), ("w_fifo", 0), ("x_fifo", 0), ("wx_fifo", 0), ("s_fifo", 0), ("ratio", 0.5),
        ("accumulator_bits", 8),
    ],
)  # fmt: skip
def test_impossible_machines_are_refused(name, value):
    """By the name of the parameter and its value."""
    machine = machine_of("s2engine").varied(**{name: value})
    with pytest.raises(Refused, match=name) as found:
        s2engine.check(machine)
    assert found.value.code == "machine-parameter" and repr(value) in str(found.value)


def test_sums_beyond_the_accumulator_are_refused():
    """With the layer, the sum and the width; one bit more and it fits."""
    layer = Gemm("big", tensor(np.full((1, 520), 127)), tensor(np.full((1, 520), 127)))
    machine = machine_of("s2engine")
    assert 520 * 127**2 == 8387080  # below 2 ** 23
    simulate(Workload((layer,)), machine)
    more = Gemm("big", tensor(np.full((1, 521), 127)), tensor(np.full((1, 521), 127)))
    with pytest.raises(Refused, match="layer big: a sum of 8403209 does not fit") as found:
        simulate(Workload((more,)), machine)
    assert found.value.code == "accumulator-overflow"
    simulate(Workload((more,)), machine.varied(accumulator_bits=25))


def test_wide_numbers_want_mixed_precision():
    """Refused by the layer's name without; computed, and exactly, with it."""
    layer = Gemm("wide", tensor([[300, 0, 5]], np.int16), tensor([[2, -400, 7]], np.int16))
    machine = machine_of("s2engine")
    with pytest.raises(Refused, match=r"layer wide: .*mixed_precision") as found:
        simulate(Workload((layer,)), machine)
    assert found.value.code == "workload-range"
    wide = machine.varied(mixed_precision=True, accumulator_bits=31)
    assert simulate(Workload((layer,)), wide, How(mode="exact", check=True)).layers[0].effectual == 2
