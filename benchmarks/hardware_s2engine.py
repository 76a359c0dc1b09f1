"""S2Engine's simulator: beside the authors' result files, and how fast it is.

python benchmarks/hardware_s2engine.py [sweep] [ratio] [speed]
"""

import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import tables

from sparsam.hardware.machine import machine_of
from sparsam.hardware.s2engine import bound, layer_cost
from sparsam.hardware.s2engine_array import UNLIMITED, Array, pass_ticks, run
from sparsam.hardware.simulate import How, simulate
from sparsam.workload import Conv, Gemm, Tensor, Workload

PUBLISHED = tomllib.loads((Path(__file__).parent / "s2engine_published.toml").read_text(encoding="utf-8"))
DENSE = 24 * 24 * 9 * 4
"""Selection ticks of the published layer at the dense peak of 256 multipliers, ratio 4."""
SEEDS = 48


def operands(w_density, x_density, seed):
    """The published layer: activations (r, s, k), weights (c, k)."""
    rng = np.random.default_rng(seed)
    x, w = (
        (127 * (rng.random(shape) < density)).astype(np.int8)
        for shape, density in (((1, 16, 26, 26), x_density), ((16, 16, 3, 3), w_density))
    )
    (product,) = Conv("layer", Tensor(x, "int8"), Tensor(w, "int8")).products(16)
    return product.a.values.reshape(36, 16, -1).transpose(1, 0, 2), product.b.values


def taken(w_density, x_density, fifos, drain):
    """Ticks: mean and standard deviation over draws of data."""
    array = Array(16, 16, *[v or UNLIMITED for v in fifos or (0,) * 4], drain=drain)
    seeds = 1 if w_density == x_density == 1 else SEEDS
    found = [pass_ticks(*operands(w_density, x_density, seed), array)[0] for seed in range(seeds)]
    return float(np.mean(found)), float(np.std(found))


def sweep():
    """The forty points, and the ticks."""
    rows, off, plain = [], [], []
    names = ["/".join(map(str, fifos)) or "unlimited" for fifos in PUBLISHED["sweep"]["fifos"]]
    for density, authors, others in zip(
        *(PUBLISHED["sweep"][k] for k in ("density", "authors", "plain")), strict=True
    ):
        row = {"density": density}
        for name, fifos, author, other in zip(
            names, PUBLISHED["sweep"]["fifos"], authors, others, strict=True
        ):
            (mean, spread), (bare, _) = (taken(density, density, fifos, drain) for drain in (True, False))
            off.append((DENSE / mean / author - 1, DENSE / bare / author - 1))
            plain.append((DENSE / bare / other - 1, spread / mean))
            row[name] = (
                f"{DENSE / mean:.2f} ({author:.2f}, {off[-1][0]:+.1%}; no drain {off[-1][1]:+.1%}, "
                f"beside {other:.2f} {plain[-1][0]:+.1%}; sd {spread / mean:.1%})"
            )
        rows.append(row)
    most = np.abs(np.array(off))
    others = np.abs(np.array(plain)[:, 0])
    notes = [
        f"ours (authors' result files, difference; without the drain of sums, and beside another implementation without it; "
        f"standard deviation of one draw of data); means of {SEEDS} draws",
        *(
            f"{name}: {(most[:, i] <= 0.08).sum()} of 40 points within 8 % of the authors', "
            f"{(most[:, i] <= 0.04).sum()} within 4 %, at most {most[:, i].max():.1%}"
            for i, name in enumerate(("with the drain", "without"))
        ),
        f"beside the other implementation (one draw): {(others <= 0.02).sum()} of 40 within 2 %, at most {others.max():.1%}",
    ]
    tables.store(
        "s2engine-sweep", "S2Engine: speed-up over the dense peak, 24 x 24 x 16 -> 24 x 24 x 16, 3 x 3",
        "python benchmarks/hardware_s2engine.py sweep", rows, notes,
    )  # fmt: skip
    rows = []
    for w_density, x_density, *fifos, authors in PUBLISHED["ticks"]["rows"]:
        (mean, spread), (bare, _) = (taken(w_density, x_density, fifos, drain) for drain in (True, False))
        rows.append(
            {
                "weights": w_density, "activations": x_density,
                "queues": "/".join(map(str, fifos)) if any(fifos) else "unlimited",
                "ticks": round(mean), "authors": authors, "off": f"{mean / authors - 1:+.1%}",
                "sd of a draw": f"{spread / mean:.1%}", "without drain": f"{bare / authors - 1:+.1%}",
            }
        )  # fmt: skip
    tables.store(
        "s2engine-ticks", "S2Engine: selection ticks of the same layer", "python benchmarks/hardware_s2engine.py sweep", rows
    )  # fmt: skip


def ratio():
    """The authors' sweep of clocks: a whole layer of 256 channels on 256 x 256 PEs, weights 25 % and activations 50 % dense."""
    rng, rounds, k = np.random.default_rng(0), 13, 9 * 256
    x = (127 * (rng.random((256, rounds, k)) < 0.5)).astype(np.int8)
    w = (127 * (rng.random((256, k)) < 0.25)).astype(np.int8)
    x[64:, -1] = 0  # 56 x 56 positions are 12 1/4 rounds
    rows = []
    for number, clocks in enumerate(PUBLISHED["ratio"]["ratio"]):
        if clocks not in (2.0, 2.5, 4.0, 8.0):
            continue
        row = {"ratio": clocks}
        num, den = clocks.as_integer_ratio()
        for depths in ("3/3/8", "8/8/8", "1/1/1"):
            total, ends = pass_ticks(x, w, Array(256, 256, *map(int, depths.split("/")), 1, num, den))
            authors = PUBLISHED["ratio"][depths][number] / PUBLISHED["ratio"]["peak"]
            whole, steady = 12.25 * k * clocks / total, 6 * k * clocks / (ends[-2] - ends[-8])
            row[depths] = (
                f"{whole:.2f}, steady {steady:.2f} ({authors:.2f}, {whole / authors - 1:+.0%}, {steady / authors - 1:+.0%})"
            )
            print(clocks, depths, row[depths], flush=True)
        rows.append(row)
    tables.store(
        "s2engine-ratio", "S2Engine: speed-up over the dense peak by the ratio of clocks, 256 x 256 PEs",
        "python benchmarks/hardware_s2engine.py ratio", rows,
        ["ours for the whole layer and for rounds 7 to 12 alone (authors', difference of each). The authors' file does not "
         "state its densities; 25 % of weights and 50 % of activations, the default of its neighbours, are assumed"],
    )  # fmt: skip


def resnet50(seed=0):
    """The layers of ResNet-50 at 224 x 224, one image; zeros drawn: weights 30 % dense, activations 40 %, the image dense."""
    rng = np.random.default_rng(seed)
    found = []

    def conv(name, channels, outputs, size, kernel, stride, density=0.4):
        x = np.rint(np.abs(rng.normal(0, 30, (1, channels, size, size)))).clip(1, 127)
        w = np.rint(rng.normal(0, 30, (outputs, channels, kernel, kernel))).clip(-127, 127)
        x, w = (v * (rng.random(v.shape) < d) for v, d in ((x, density), (w, 0.3)))
        x, w = (Tensor(v.astype(np.int8), "int8") for v in (x, w))
        found.append(Conv(name, x, w, (stride, stride), (kernel // 2, kernel // 2)))

    conv("conv1", 3, 64, 224, 7, 2, 1.0)
    size, before = 56, 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            at = f"layer{stage + 1}.{block}"
            conv(f"{at}.conv1", before, width, size, 1, 1)
            conv(f"{at}.conv2", width, width, size, 3, stride)
            conv(f"{at}.conv3", width, 4 * width, size // stride, 1, 1)
            if not block:
                conv(f"{at}.downsample", before, 4 * width, size, 1, stride)
            size, before = size // stride, 4 * width
    a, b = (
        (rng.integers(-127, 128, shape) * (rng.random(shape) < 0.3)).astype(np.int8)
        for shape in ((1, 2048), (1000, 2048))
    )
    found.append(Gemm("fc", Tensor(a, "int8"), Tensor(b, "int8")))
    return Workload(found)


def speed():
    """Events a second, and the layers of ResNet-50."""
    rng = np.random.default_rng(0)
    rows = []
    for name, density, groups, rounds in (
        ("3 x 3 of 64 channels, half dense", 0.5, 36, 8),
        ("dense", 1.0, 36, 8),
        ("1 x 1 of 64 channels, half dense", 0.5, 4, 64),
    ):
        x, w = (
            (127 * (rng.random(s) < density)).astype(np.int8)
            for s in ((16, rounds, 16 * groups), (16, 16 * groups))
        )
        for form, function in (("fast", pass_ticks), ("reference", run), ("bound", bound)):
            function(x, w, Array())
            best = min(clocked(lambda: function(x, w, Array())) for _ in range(5))  # noqa: B023
            events = pass_ticks(x, w, Array())[0] * 256
            rows.append(
                {"what": f"{form}, {name}", "million PE ticks a second of a core": events / best / 1e6}
            )
    work = resnet50()
    machine = machine_of("s2engine")
    layer_cost(work[1], machine, How(mode="sampled"))
    for mode in ("sampled", "auto", "exact", "bound"):
        wall, cpu = time.perf_counter(), time.process_time()
        cost = simulate(work, machine, How(mode=mode))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        worst = max(one.error / one.compute_cycles for one in cost.layers)
        cycles = sum(one.compute_cycles for one in cost.layers)
        rows.append(
            {
                "what": f"ResNet-50's {len(work)} layers, {mode}", "seconds": wall, "seconds of a core": cpu, "cycles": cycles,
                "standard error": f"{cost.error / cycles:.2%}", "largest of a layer": f"{worst:.2%}",
                "speed-up": cost.compute_speedup,
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    tables.store(
        "s2engine-speed", "S2Engine's simulator: speed", "python benchmarks/hardware_s2engine.py speed", rows,
        ["rates are the best of five, in time of the processor. "
         "PE ticks of bound: those that the fast form goes through on the same pass"],
    )  # fmt: skip


def clocked(work):
    """Seconds of the processor."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    for part in sys.argv[1:] or ("sweep", "ratio", "speed"):
        {"sweep": sweep, "ratio": ratio, "speed": speed}[part]()
