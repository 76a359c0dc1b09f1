"""How fast FPRaker is simulated: layers of the shapes of ResNet-50, sampled, whole, and bounded.

    NUMBA_NUM_THREADS=2 python benchmarks/hardware_fpraker.py

One image of 224 x 224. Weights are Gaussian; what flows is the positive part of Gaussian numbers, each channel with a size of
its own (the logarithm of which is Gaussian, too), so that half of them are zero; the image itself is Gaussian. Nothing is
trained: the cycles say how the simulator does, not what a network gains.

Seconds stand beside the processor's own seconds of all threads, which other load on the machine does not lengthen.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from tables import store

from sparsam.hardware import How, machines, simulate
from sparsam.hardware.fpraker import LANES, threads
from sparsam.workload import Conv, Gemm, Layer, Tensor, Workload, bf16_bits


def shapes() -> list[tuple[str, int, int, int, int, int]]:
    """Name, channels in and out, kernel, stride, side of the image, of all 53 convolutions."""
    found, channels, side = [("stem", 3, 64, 7, 2, 224)], 64, 56
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            at = f"stage{stage + 1}.{block}"
            found.append((f"{at}.reduce", channels, width, 1, 1, side))
            found.append((f"{at}.spread", width, width, 3, stride, side))
            found.append((f"{at}.expand", width, 4 * width, 1, 1, side // stride))
            if not block:
                found.append((f"{at}.shortcut", channels, 4 * width, 1, stride, side))
            channels, side = 4 * width, side // stride
    return found


def layers(seed: int = 0) -> list[Layer]:
    """With their numbers."""
    rng, found = np.random.default_rng(seed), []

    def flowing(channels: int, *size: int) -> Tensor:
        x = rng.standard_normal((1, channels, *size), np.float32)
        if channels > 3:
            x = np.maximum(x, 0) * np.exp(rng.standard_normal((1, channels, *[1] * len(size)), np.float32))
        return Tensor(bf16_bits(x), "bf16")

    for name, given, made, kernel, stride, side in shapes():
        weight = (
            rng.standard_normal((made, given, kernel, kernel), np.float32) * (2 / (given * kernel**2)) ** 0.5
        )
        found.append(
            Conv(
                name,
                flowing(given, side, side),
                Tensor(bf16_bits(weight), "bf16"),
                stride=(stride, stride),
                padding=(kernel // 2, kernel // 2),
            )
        )
    head = Tensor(bf16_bits(rng.standard_normal((1000, 2048), np.float32) * 0.02), "bf16")
    return [*found, Gemm("head", flowing(2048), head)]


def main() -> None:
    """Print and store the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--laps", type=int, default=2, help="the fastest counts")
    args = parser.parse_args()
    began = time.perf_counter()
    work = Workload(layers(), {"about": "shapes of ResNet-50"})
    drawn = time.perf_counter() - began
    began = time.perf_counter()
    tiny = Tensor(bf16_bits(np.ones((8, 8), np.float32)), "bf16")
    for mode in ("exact", "sampled", "bound"):
        simulate(Workload([Gemm("tiny", tiny, tiny)], {}), machines()["fpraker"], How(mode))
    compiled = time.perf_counter() - began
    sets = 0
    for layer in work:
        for product in layer.products(LANES):
            m, n, k = product.size
            sets += -(-m // 8) * -(-n // 8) * 64 * (k // LANES)
    macs = sum(layer.macs for layer in work)
    rows = []
    for name, mode, varied in (
        ("sampled to 1 %", "sampled", {}),
        ("whole", "exact", {}),
        ("bounded", "bound", {}),
        ("sampled, out of bounds beyond 6", "sampled", {"out_of_bounds": 6}),
        ("sampled, sums in one piece", "sampled", {"chunk": 0}),
    ):
        machine = machines()["fpraker"].varied(**varied)
        taken = []
        for _ in range(args.laps):
            began = time.perf_counter(), time.process_time()
            cost = simulate(work, machine, How(mode, error=0.01))
            taken.append((time.perf_counter() - began[0], time.process_time() - began[1]))
        wall, busy = (min(x) for x in zip(*taken, strict=True))
        print(name, wall, busy, flush=True)
        own = sum(one.compute_cycles for one in cost.layers)
        terms, kept, all_sets = 0.0, 0.0, 0
        for one in cost.layers:
            here = one.macs / LANES
            all_sets += here
            terms += one.detail["terms a set"] * here
            kept += one.detail["terms a set"] * here * (1 - one.detail["terms out of bounds"])
        rows.append(
            {
                "simulated": name,
                "seconds": round(wall, 2),
                "processor seconds": round(busy, 2),
                "Mcycles": own / 1e6,
                "standard error %": 100 * cost.error / own,
                "largest of a layer %": 100 * max(one.error / one.compute_cycles for one in cost.layers),
                "layers sampled": sum(one.mode == "sampled" for one in cost.layers),
                "terms a set": terms / all_sets,
                "out of bounds %": 100 * (1 - kept / terms) if mode != "bound" else "",
                "computing, times bit-parallel": cost.compute_speedup,
                "memory included": cost.speedup,
                "M element sets a processor second": sets / busy / 1e6 if mode == "exact" else "",
                "M MAC a processor second": macs / busy / 1e6 if mode == "exact" else "",
            }
        )
        store(
            "hardware-fpraker",
            "FPRaker simulated: layers of the shapes of ResNet-50, one image",
            "NUMBA_NUM_THREADS=2 python benchmarks/hardware_fpraker.py",
            rows,
            [
                f"{macs / 1e9:.2f} G multiplications, {sets / 1e6:.0f} M sets of eight, {len(work)} layers; numbers drawn in "
                f"{drawn:.1f} s, compiled or read from numba's cache in {compiled:.1f} s, neither counted",
                f"{threads()} threads; the machine was under other load; the best of {args.laps}",
                "Cycles are simulated. Numbers are drawn, not trained: terms and shares say where these ratios are from.",
            ],
        )


if __name__ == "__main__":
    main()
