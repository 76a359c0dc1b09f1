"""How fast FPRaker is simulated: layers of the shapes of ResNet-50, sampled, whole, and bounded.

    NUMBA_NUM_THREADS=2 python benchmarks/hardware_fpraker.py
    python benchmarks/hardware_fpraker.py --training     # a small network while it is trained: what real numbers do

One image of 224 x 224. Weights are Gaussian; what flows is the positive part of Gaussian numbers, each channel with a size of
its own (the logarithm of which is Gaussian, too), so that half of them are zero; the image itself is Gaussian. Nothing is
trained: the cycles say how the simulator does, not what a network gains.

Seconds stand beside the processor's own seconds of all threads, which other load on the machine does not lengthen.
"""

import argparse
import sys
import time
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from sklearn.datasets import load_digits
from tables import store

from sparsam.hardware import How, machines, simulate
from sparsam.hardware.fpraker import training_products
from sparsam.hardware.fpraker_element import LANES, threads
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


def trained(steps: int, seed: int = 0) -> tuple[list[Gemm], float]:
    """The products of one step of training after so many: digits, 64-256-256-10, ReLU, plain gradient descent; and the loss."""
    data = load_digits()
    rng = np.random.default_rng(seed)
    x_all, y_all = data.data.astype(np.float32), data.target
    sizes = (64, 256, 256, 10)
    weights = [
        rng.standard_normal((n, m), np.float32) * (2 / m) ** 0.5 * (1 / 16 if m == 64 else 1)
        for m, n in pairwise(sizes)
    ]
    for step in range(steps + 1):
        rows = rng.choice(len(x_all), 256, replace=False)
        flow = [x_all[rows]]
        for number, weight in enumerate(weights):
            out = flow[-1] @ weight.T
            flow.append(out if number == 2 else np.maximum(out, 0))
        logits = flow[-1] - flow[-1].max(1, keepdims=True)
        chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        loss = float(-np.log(chance[np.arange(256), y_all[rows]]).mean())
        back = (chance - np.eye(10, dtype=np.float32)[y_all[rows]]) / 256
        found = []
        for number in (2, 1, 0):
            a, w, g = (Tensor(bf16_bits(x), "bf16") for x in (flow[number], weights[number], back))
            if step == steps:
                found += training_products(Gemm(f"layer {number + 1}", a, w), g)
            change = back.T @ flow[number]
            back = (back @ weights[number]) * (flow[number] > 0)
            weights[number] -= np.float32(0.05 / 256 if number == 0 else 0.05) * change
    return found, loss


def training() -> None:
    """Print and store the table of a network in training."""
    rows = []
    for steps in (0, 100, 1000):
        products, loss = trained(steps)
        for product in products:
            if product.name != "layer 2":
                continue
            for label, values in (
                ("8 rows", {}),
                ("1 row", {"rows": 1}),
                ("8 rows, one piece", {"chunk": 0}),
            ):
                machine = machines()["fpraker"].varied(dense_tiles=1, tile_area_ratio=1 / 4.5, **values)
                cost = simulate(Workload([product], {}), machine, How("exact")).layers[0]
                rows.append(
                    {
                        "steps": steps,
                        "loss": loss,
                        "product": product.role,
                        "tile": label,
                        "zeros of A %": 100 * (1 - product.a.density),
                        "terms a set": cost.detail["terms a set"],
                        "out of bounds %": 100 * cost.detail["terms out of bounds"],
                        "cycles a set, element alone": cost.detail["cycles a set, element alone"],
                        "cycles a set, tile": cost.detail["cycles a set, tile"],
                        "4.5 over it": 4.5 / cost.detail["cycles a set, tile"],
                    }
                )
    store(
        "hardware-fpraker-training",
        "FPRaker simulated: the middle layer of a small network while it is trained",
        "python benchmarks/hardware_fpraker.py --training",
        rows,
        [
            "digits of scikit-learn, 64-256-256-10, ReLU, 256 rows a step, plain gradient descent; rounded to bfloat16",
            "Cycles are simulated; A is the activation forward and the gradient in the other two products.",
        ],
    )


def main() -> None:
    """Print and store the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--laps", type=int, default=2, help="the fastest counts")
    parser.add_argument("--training", action="store_true", help="the small network instead")
    args = parser.parse_args()
    if args.training:
        training()
        return
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
