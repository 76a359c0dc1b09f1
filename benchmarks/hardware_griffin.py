"""Griffin: how fast whole models are simulated, the reference table, and the picture of the borrowing space.

    python benchmarks/hardware_griffin.py            # all of it, a few minutes of two cores
    python benchmarks/hardware_griffin.py bert       # BERT-base at length 384; also: resnet, kernels, space, modes, shuffling

Numbers are drawn: weights and activations of 8 bits, zeros at random. Cycles are simulated, seconds are measured.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait let others run: the machine is shared
sys.path.insert(0, str(Path(__file__).parent))
from tables import store

from sparsam.hardware import How, griffin, simulate
from sparsam.hardware.borrowing import (
    Core,
    Distances,
    Point,
    compress,
    dual_cycles,
    packed,
    packed_groups,
    resources,
    single_cycles,
)
from sparsam.hardware.griffin import ScheduleCache, efficiency
from sparsam.hardware.machine import machine_of
from sparsam.workload import Attention, Conv, Gemm, Layer, Tensor, Workload

SEED = 20261129
PICTURE = Path(__file__).parent.parent / "docs" / "hardware" / "griffin-space.svg"
ZEROS = tuple(x / 10 for x in range(0, 10))
LINES = (("B(2,1,0)", 5), ("B(4,0,0)", 5), ("B(4,0,1)", 5), ("B(2,3,0)", 9), ("B(4,1,0)", 9), ("B(8,0,1)", 9))


def drawn(rng: np.random.Generator, shape: tuple[int, ...], zeros: float) -> Tensor:
    """Integers of 8 bits, each zero with the same chance."""
    values = rng.integers(1, 128, shape, dtype=np.int8) * rng.choice(np.array([-1, 1], np.int8), shape)
    return Tensor(np.where(rng.random(shape, np.float32) < zeros, 0, values).astype(np.int8), "int8")


def bert(weights: float, activations: float, tokens: int = 384) -> Workload:
    """The products of BERT-base: 12 layers of width 768, twelve heads of 64, 3072 filters."""
    rng, layers = np.random.default_rng(SEED), list[Layer]()
    for number in range(12):
        for name, n, k in (
            ("query", 768, 768), ("key", 768, 768), ("value", 768, 768), ("out", 768, 768), ("up", 3072, 768),
            ("down", 768, 3072),
        ):  # fmt: skip
            layers.append(
                Gemm(f"{number}.{name}", drawn(rng, (tokens, k), activations), drawn(rng, (n, k), weights))
            )
        q, k_, v = (drawn(rng, (tokens, 12, 64), 0.0) for _ in range(3))
        layers.append(Attention(f"{number}.attention", q, k_, v, np.array([tokens]), 2e-5))
    return Workload(layers)


def resnet(weights: float, activations: float) -> Workload:
    """The products of ResNet-50 on one image of 224 x 224."""
    rng, layers, wide = np.random.default_rng(SEED), list[Layer](), 64

    def conv(name: str, c: int, size: int, o: int, kernel: int, stride: int) -> None:
        x, w = drawn(rng, (1, c, size, size), activations), drawn(rng, (o, c, kernel, kernel), weights)
        layers.append(Conv(name, x, w, (stride, stride), (kernel // 2, kernel // 2)))

    conv("stem", 3, 224, 64, 7, 2)
    size = 56
    for stage, (blocks, mid) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for block in range(blocks):
            stride = 2 if block == 0 and stage else 1
            conv(f"{stage}.{block}.1", wide, size, mid, 1, 1)
            conv(f"{stage}.{block}.2", mid, size, mid, 3, stride)
            if block == 0:
                conv(f"{stage}.{block}.shortcut", wide, size, 4 * mid, 1, stride)
            size, wide = size // stride, 4 * mid
            conv(f"{stage}.{block}.3", mid, size, wide, 1, 1)
    layers.append(Gemm("head", drawn(rng, (1, 2048), activations), drawn(rng, (1000, 2048), weights)))
    return Workload(layers)


def best_of(work: Callable[[], Any], times: int = 3) -> tuple[float, float, Any]:
    """Seconds of the fastest of some runs by the clock, and in CPU time, and the last result."""
    clock, cpu, found = [], [], None
    for _ in range(times):
        start = time.perf_counter(), time.process_time()
        found = work()
        clock.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return min(clock), min(cpu), found


def whole(name: str, title: str, make: Callable[[float, float], Workload], cases: Any) -> None:
    """Simulate a model on machines and store seconds and rates."""
    rows = []
    for machine, weights, activations, mode in cases:
        workload, found = make(weights, activations), machine_of(machine)

        def run(workload: Workload = workload, found: Any = found, mode: str = mode) -> Any:
            griffin.CACHE = ScheduleCache()  # every run schedules its weights anew
            return simulate(workload, found, How(mode=mode))

        seconds, cpu, cost = best_of(run)
        dense = simulate(workload, found.varied(kind="dense"))
        gain = efficiency(cost, dense, chip=True)
        points = {p.split(" x ")[-1] for one in cost.layers for p in one.detail["points"].split(", ")}
        rows.append(
            {
                "machine": machine, "zeros of weights": weights, "zeros of activations": activations, "mode": cost.mode,
                "standard error": round(cost.error / cost.cycles, 5), "points": " ".join(sorted(points)),
                "seconds": round(seconds, 2),
                "CPU seconds": round(cpu, 2), "M dense cycles/s": round(cost.dense_cycles / seconds / 1e6, 2),
                "M cycles/s": round(cost.cycles / seconds / 1e6, 2),
                "speedup computing": round(cost.compute_speedup, 3), "speedup": round(cost.speedup, 3),
                "power ratio": round(gain.power, 3), "efficiency gain": round(gain.gain, 3),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    store(
        f"hardware-griffin-{name}",
        title,
        f"python benchmarks/hardware_griffin.py {name}",
        rows,
        (
            "seconds are measured, the fastest of three, packing and counting included, on two cores; "
            "CPU seconds are of both cores together",
            "the rest is simulated (reference schedule)",
            "zeros of weights and activations are drawn at random; attention's have none but those of its probabilities",
            "power ratio and efficiency gain: energy table default40, on the chip, beside the same core without sparsity; gain "
            "is speedup computing / power ratio",
        ),
    )


def kernels() -> None:
    """Rates of the kernels by themselves on one thread, in CPU time."""
    import numba

    rng, rows, core = np.random.default_rng(SEED), [], Core()
    words = packed(rng.random((96, 2048, 16, 16), np.float32) >= 0.81)
    b = packed_groups(rng.random((768, 768), np.float32) >= 0.81, 16, 16)
    a = packed_groups(rng.random((1536, 768), np.float32) >= 0.45, 4, 16, joined=True)
    g, h = (x.ravel() for x in np.indices((len(a), len(b))))
    numba.set_num_threads(1)
    for name in ("B(4,0,1)", "B(8,0,1)", "B(2,5,0)", "AB(2,0,0,2,0,1)", "AB(2,5,0,2,5,0)"):
        point = Point.parse(name)
        assert point.weights is not None
        if point.activations is None:
            steps = words.shape[0] * words.shape[1]
            single_cycles(words[:1], point.weights, 16)
            _, seconds, cycles = best_of(lambda p=point: single_cycles(words, p.weights, 16), 7)
        else:
            streams = compress(b, point.weights, core)
            steps = int(streams.lengths.sum()) * len(a)
            dual_cycles(a, streams, point.activations, core, g[:1], h[:1])
            _, seconds, cycles = best_of(
                lambda p=point, s=streams: dual_cycles(a, s, p.activations, core, g, h), 7
            )
        rows.append(
            {
                "design": name, "M rows of the stream/s": round(steps / seconds / 1e6, 2),
                "M core cycles/s": round(int(cycles.sum()) / seconds / 1e6, 2),
            }
        )  # fmt: skip
    store(
        "hardware-griffin-kernels",
        "Griffin's schedules: events a second of one thread",
        "python benchmarks/hardware_griffin.py kernels",
        rows,
        (
            "81 % of weights and 45 % of activations zero at random; CPU time of the fastest of seven, on a shared machine",
        ),
    )


def space() -> None:
    """Speedups over the share of zeros, as a table and as a picture."""
    rng = np.random.default_rng(SEED)
    draws = {pes: rng.random((16, 2048, pes, 16), np.float32) for pes in (16, 4)}

    def speedup(name: str, zeros: float) -> float:
        point = Point.parse(name)
        far, pes = (point.weights, 16) if point.weights else (point.activations, 4)
        assert isinstance(far, Distances)
        return 16 * 2048 / int(single_cycles(packed(draws[pes] >= zeros), far, 16).sum())

    names = (
        "B(2,0,1)", "B(2,1,0)", "B(2,3,0)", "B(2,5,0)", "B(4,0,0)", "B(4,0,1)", "B(4,0,2)", "B(4,1,0)", "B(4,1,1)", "B(8,0,0)",
        "B(8,0,1)", "B(8,1,0)", "A(2,1,0)", "A(2,1,1)", "A(3,1,0)", "A(2,5,0)",
    )  # fmt: skip
    found = {name: [speedup(name, zeros) for zeros in ZEROS] for name in names}
    rows = []
    for name in names:
        needs = resources(Point.parse(name))
        rows.append(
            {"design": name, "inputs of the A multiplexer": needs.a_mux, "adder trees": needs.adder_trees}
            | {
                f"{zeros:g}": round(value, 2)
                for zeros, value in zip(ZEROS, found[name], strict=True)
                if zeros >= 0.3
            }
        )
    store(
        "hardware-griffin-space",
        "The borrowing space: speedup by share of random zeros, simulated (reference schedule)",
        "python benchmarks/hardware_griffin.py space",
        rows,
        ("2048 steps, 16 lanes, 16 columns (B) or 4 rows (A) in lockstep, mean of 16 draws",),
    )
    PICTURE.write_text(picture({name: np.array(found[name]) for name, _ in LINES}))


def picture(found: dict[str, NDArray[np.float64]]) -> str:
    """Lines of speedup over zeros, one colour for each size of multiplexer, readable in light and dark."""
    left, top, width, height, most = 52, 34, 440, 280, 5.0
    colours, dashes = {5: "small", 9: "large"}, {(1, 0): "6 3", (3, 0): "6 3", (0, 0): "2 3", (0, 1): ""}

    def at(zeros: float, value: float) -> tuple[float, float]:
        return left + width * zeros / 0.9, top + height * (most - value) / (most - 1)

    out = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 380" role="img" '
        'aria-label="Speedup by share of zero weights for six designs of the borrowing space">',
        "<style>text{font:12px sans-serif;fill:#24292f}.grid{stroke:#8c959f55}.line{fill:none;stroke-width:2}"
        ".small{stroke:#0969da}.large{stroke:#bc4c00}"
        "@media(prefers-color-scheme:dark){text{fill:#d1d7e0}.small{stroke:#58a6ff}.large{stroke:#f0883e}}</style>",
        f'<text x="{left}" y="18">Speedup of Sparse.B on random zeros (simulated, reference schedule)</text>',
    ]
    for value in (1, 2, 3, 4, 5):
        _, y = at(0, value)
        out.append(f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{left - 10}" y="{y + 4:.1f}" text-anchor="end">{value}</text>')
    for zeros in (0, 0.3, 0.6, 0.9):
        x, y = at(zeros, 1)
        out.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{zeros:.0%}</text>')
    out.append(
        f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">weights that are zero</text>'
    )
    for name, inputs in LINES:
        far = Point.parse(name).weights
        assert far is not None
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, ZEROS, found[name]))
        dash = dashes[far.lane, far.pe]
        out.append(f'<polyline class="line {colours[inputs]}" stroke-dasharray="{dash}" points="{points}"/>')
    floor = float("inf")
    for name, inputs in sorted(
        LINES, key=lambda line: float(found[line[0]][-1])
    ):  # labels from below, 15 apart
        x, y = at(0.9, float(found[name][-1]))
        floor = min(y + 4, floor - 15)
        out.append(f'<text x="{x + 6:.1f}" y="{floor:.1f}">{name}, {inputs} inputs</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def modes() -> None:
    """Each design on a layer dense, sparse in one operand, and in both: the two factors of its efficiency."""
    rng, rows = np.random.default_rng(SEED), []
    for weights, activations in ((0.0, 0.0), (0.81, 0.0), (0.0, 0.45), (0.81, 0.45)):
        layer = Gemm("layer", drawn(rng, (256, 2304), activations), drawn(rng, (512, 2304), weights))
        for name in ("griffin", "sparse-b", "sparse-a", "sparse-ab", "tensordash-both-point"):
            machine = machine_of(name)
            cost = simulate(Workload([layer]), machine)
            gain = efficiency(cost, simulate(Workload([layer]), machine.varied(kind="dense")), chip=True)
            rows.append(
                {
                    "zeros of weights": weights, "zeros of activations": activations, "machine": name,
                    "point": cost.layers[0].detail["points"], "speedup": round(gain.speedup, 2),
                    "power ratio": round(gain.power, 2), "efficiency gain": round(gain.gain, 2),
                }
            )  # fmt: skip
    store(
        "hardware-griffin-modes",
        "One layer in four states, simulated (reference schedule)",
        "python benchmarks/hardware_griffin.py modes",
        rows,
        (
            "256 x 2304 activations, 512 x 2304 weights, zeros at random; energy table default40, on the chip",
            "efficiency gain = speedup / power ratio, beside the same core without sparsity",
        ),
    )


def shuffling() -> None:
    """Zeros of whole channels and zeros at random, shuffled and not."""
    rng, rows, core = np.random.default_rng(SEED), [], Core()
    busy = np.where(np.arange(2048) % 4 == 0, 0.95, 0.15)
    for kind, chance in (("one channel of four busy", busy), ("random", np.full(2048, busy.mean()))):
        a, b = rng.random((256, 2048)) < chance, rng.random((256, 2048)) < chance
        for name in ("B(4,0,1)", "B(8,0,1)", "A(2,1,0)", "A(2,1,1)", "AB(2,0,0,2,0,1)"):
            point, found = Point.parse(name), []
            for shuffle in (False, True):
                right = packed_groups(b, core.columns, core.lanes, shuffle=shuffle)
                left = packed_groups(a, core.rows, core.lanes, shuffle=shuffle, joined=point.kind == "AB")
                if point.activations is None or point.weights is None:
                    far = point.activations or point.weights
                    assert far is not None
                    cycles = single_cycles(left if point.activations else right, far, core.lanes)
                else:
                    g, h = (x.ravel() for x in np.indices((len(left), len(right))))
                    cycles = dual_cycles(
                        left, compress(right, point.weights, core), point.activations, core, g, h
                    )
                found.append(128 * len(cycles) / int(cycles.sum()))
            rows.append({"zeros": kind, "design": name, "off": round(found[0], 2), "on": round(found[1], 2)})
    store(
        "hardware-griffin-shuffling",
        "Speedup with and without shuffling, simulated (reference schedule)",
        "python benchmarks/hardware_griffin.py shuffling",
        rows,
        (
            "65 % zeros: channels 0, 4, 8, … are non-zero with a chance of 0.95, the others of 0.15; or all of 0.35",
        ),
    )


CASES = (
    ("griffin", 0.82, 0.0, "auto"), ("griffin", 0.82, 0.45, "auto"), ("sparse-ab", 0.82, 0.45, "auto"),
    ("sparse-ab", 0.0, 0.0, "exact"), ("sparse-b", 0.82, 0.45, "auto"), ("sparse-a", 0.82, 0.45, "auto"),
    ("tensordash-both-point", 0.82, 0.45, "auto"),
)  # fmt: skip
RESNET = (
    ("griffin", 0.81, 0.43, "auto"), ("griffin", 0.81, 0.43, "sampled"), ("sparse-b", 0.81, 0.43, "auto"),
    ("sparse-a", 0.81, 0.43, "auto"),
)  # fmt: skip


def main() -> None:
    """What is named, or all."""
    parts: dict[str, Callable[[], None]] = {
        "kernels": kernels,
        "space": space,
        "modes": modes,
        "shuffling": shuffling,
        "bert": lambda: whole("bert", "BERT-base at length 384 on Griffin", bert, CASES),
        "resnet": lambda: whole("resnet", "ResNet-50, one image, on Griffin", resnet, RESNET),
    }
    for name in sys.argv[1:] or parts:
        parts[name]()


if __name__ == "__main__":
    main()
