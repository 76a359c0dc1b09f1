"""Dense arrays against SCALE-Sim's output and against their own schedule carried out; the checker against broken schedules."""

from dataclasses import replace

import numpy as np
import pytest

from sparsam.errors import Refused
from sparsam.hardware import How, machines, simulate
from sparsam.hardware.dense import array_cycles, fold_cycles, product_sizes, replay, schedule
from sparsam.hardware.replay import Issued, replayed
from sparsam.workload import Attention, Conv, Gemm, Layer, Tensor, Workload

SIZES = [(4, 4, 4), (8, 8, 8), (5, 7, 9), (16, 4, 3), (33, 17, 20), (1, 1, 1), (64, 64, 64)]
SCALE_SIM = {
    (4, 4, "os"): [9, 55, 59, 35, 1169, 6, 17919],
    (4, 4, "ws"): [13, 71, 89, 25, 1074, 10, 18943],
    (4, 8, "os"): [13, 35, 37, 51, 809, 10, 9471],
    (4, 8, "ws"): [17, 43, 56, 29, 704, 14, 9983],
    (8, 4, "os"): [13, 35, 37, 25, 749, 10, 9471],
    (8, 4, "ws"): [21, 51, 91, 33, 764, 18, 10495],
}
"""Column "Total Cycles" of SCALE-Sim 3.0.0 (PyPI, numpy 1.26) for these arrays and sizes as a GEMM file, without stalls."""


@pytest.mark.parametrize(("rows", "columns", "flow"), SCALE_SIM)
def test_cycles_are_scale_sims_plus_the_cycle_numbered_zero(rows: int, columns: int, flow: str) -> None:
    """The program prints the number of the last cycle, counted from 0; its output-stationary folds hide the drain."""
    for (m, n, k), printed in zip(SIZES, SCALE_SIM[rows, columns, flow], strict=True):
        assert array_cycles(m, n, k, rows, columns, flow, "hidden") == printed + 1


def test_cycles_of_the_paper_charge_the_drain() -> None:
    """With the drain charged, a fold is 2R + C + T - 2 in both dataflows."""
    assert array_cycles(65, 33, 100, 32, 16, "os") == 3 * 3 * (2 * 32 + 16 + 100 - 2)
    assert array_cycles(65, 33, 100, 32, 16, "ws") == 4 * 3 * (2 * 32 + 16 + 65 - 2)


def test_busy_multipliers_are_the_dense_product() -> None:
    """R C cycles times the utilisation is the count of multiplications, in a simulated run."""
    draw = np.random.default_rng(0)
    a, b = (Tensor(draw.integers(-9, 9, shape).astype(np.int8), "int8") for shape in ((70, 90), (50, 90)))
    for name in ("systolic-os", "systolic-ws"):
        found = simulate(Workload([Gemm("one", a, b)]), machines()[name], How())
        (one,) = found.layers
        assert found.utilisation * one.peak_macs * one.cycles == pytest.approx(70 * 50 * 90)
        assert one.compute_cycles == one.dense_cycles and found.mode == "exact"


def test_schedules_give_the_product_and_take_the_cycles_of_the_formula() -> None:
    """The replay is the product bit for bit; the last multiplication falls where the formula ends."""
    draw = np.random.default_rng(1)
    for _ in range(60):
        rows, columns = (int(x) for x in draw.integers(1, 6, 2))
        m, n, k = (int(x) for x in draw.integers(1, 14, 3))
        a, b = draw.integers(-128, 128, (m, k)), draw.integers(-128, 128, (n, k))
        for flow, stream, wide, deep in (("os", k, m, n), ("ws", m, k, n)):
            assert (replay(a, b, rows, columns, flow) == a @ b.T).all()
            end = int(schedule(m, n, k, rows, columns, flow, "hidden").time.max()) + 1
            idle = (-wide % rows) + (-deep % columns)  # of a last fold that does not fill the array
            assert end + idle == array_cycles(m, n, k, rows, columns, flow, "hidden"), stream


def test_sizes_from_shapes_are_those_of_the_products() -> None:
    """A layer's products need not be made to know how large they are."""
    draw = np.random.default_rng(2)

    def some(*shape: int) -> Tensor:
        return Tensor(draw.integers(-3, 4, shape).astype(np.int8), "int8")

    lengths = np.array([5, 3, 5])
    layers: list[Layer] = [
        Gemm("g", some(4, 6), some(3, 6)),
        Conv("c", some(2, 4, 7, 6), some(6, 2, 3, 3), (2, 1), (1, 0), groups=2),
        Attention("a", some(13, 2, 4), some(13, 2, 4), some(13, 2, 3), lengths, 0.5),
    ]
    for layer in layers:
        made = sorted(one.size for one in layer.products())
        said = sorted((m, n, k) for many, m, n, k in product_sizes(layer) for _ in range(many))
        assert made == said
        assert sum(m * n * k for m, n, k in said) == layer.macs


def test_the_checker_finds_each_kind_of_fault() -> None:
    """A missed, doubled, impossible or crowded multiplication is named; the sound schedule passes."""
    draw = np.random.default_rng(3)
    a, b = draw.integers(1, 9, (3, 4)), draw.integers(1, 9, (2, 4))
    good = schedule(3, 2, 4, 2, 2)
    assert (replayed(a, b, good, lanes=1, units=4) == a @ b.T).all()
    columns = ("m", "n", "k", "time", "unit", "lane")

    def kept(which: np.ndarray) -> Issued:
        return Issued(*(getattr(good, name)[which] for name in columns))

    everything = np.arange(len(good))
    with pytest.raises(Refused, match="is never issued") as raised:
        replayed(a, b, kept(everything[1:]), lanes=1)
    assert raised.value.code == "replay-missed"
    twice = kept(np.append(everything, 0))
    later = replace(twice, time=np.append(good.time, 999))
    with pytest.raises(Refused, match="issued 2 times"):
        replayed(a, b, later, lanes=1)
    with pytest.raises(Refused, match="lane 0 of unit 0 has 2 multiplications in cycle 0"):
        replayed(a, b, twice, lanes=1)
    with pytest.raises(Refused, match="unit 3 of 3"):
        replayed(a, b, good, lanes=1, units=3)
    with pytest.raises(Refused, match="columns of one length"):
        replace(good, time=good.time[1:])
    zero = a * 1
    zero[0, 0] = 0  # a multiplication with zero need not be issued
    assert (replayed(zero, b, kept((good.m != 0) | (good.k != 0)), lanes=1) == zero @ b.T).all()


def test_floating_point_is_checked_too() -> None:
    """Products of floating-point operands agree with the dense one up to rounding."""
    draw = np.random.default_rng(4)
    a, b = draw.standard_normal((5, 6)), draw.standard_normal((4, 6))
    assert replay(a, b, 2, 3) == pytest.approx(a @ b.T)


def test_arrays_that_cannot_be_are_refused() -> None:
    """Zero rows, unknown dataflows and clocks of nothing are named with the machine."""
    machine = machines()["systolic-os"]
    work = Workload(
        [Gemm("one", Tensor(np.ones((2, 2), np.int8), "int8"), Tensor(np.ones((2, 2), np.int8), "int8"))]
    )
    for values in (
        {"rows": 0},
        {"accumulator_bits": 8},
        {"columns": -1},
        {"dataflow": "is"},
        {"drain": "never"},
        {"clock_mhz": 0.0},
    ):
        with pytest.raises(Refused, match=str(next(iter(values.values())))) as raised:
            simulate(work, machine.varied(**values))
        assert raised.value.code == "machine-parameter"


def test_memory_outside_moves_at_least_what_must_move() -> None:
    """DRAM bytes are at least operands and results once, and just that where the buffer is large."""
    draw = np.random.default_rng(5)
    x = Tensor(draw.integers(-3, 4, (1, 16, 20, 20)).astype(np.int8), "int8")
    weight = Tensor(draw.integers(-3, 4, (32, 16, 3, 3)).astype(np.int8), "int8")
    layer = Conv("c", x, weight, padding=(1, 1))
    least = x.values.size + weight.values.size + 32 * 20 * 20
    machine = machines()["systolic-os"]
    (wide,) = simulate(Workload([layer]), machine.varied(buffer_kb=4096)).layers
    (tight,) = simulate(Workload([layer]), machine.varied(buffer_kb=4)).layers
    assert wide.dram_bytes == pytest.approx(least) and tight.dram_bytes > least
    assert fold_cycles(4, 4, 4) == 14


def test_sums_beyond_the_accumulator_are_refused() -> None:
    """Wide integers are looked at, and named with the layer where they do not fit; narrow ones cannot overflow."""
    wide = Tensor(np.full((2, 16), 20000, np.int16), "int16")
    machine = machines()["systolic-ws"]
    with pytest.raises(
        Refused, match="wide: sums from 6400000000 to 6400000000 do not fit an accumulator of 32"
    ) as raised:
        simulate(Workload([Gemm("wide", wide, wide)]), machine)
    assert raised.value.code == "accumulator-overflow"
    assert simulate(Workload([Gemm("wide", wide, wide)]), machine.varied(accumulator_bits=40)).cycles > 0
