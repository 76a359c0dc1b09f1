"""TensorDash on the layer sets of BERT-base and ResNet-50: seconds, and schedules a second.

    python benchmarks/hardware_tensordash.py

Numbers are drawn (see hardware_layers.py), half of them zero; making them is not timed, unfolding convolutions and packing bits
is. Cycles in the table are simulated.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from hardware_layers import bert_base, resnet50
from tables import store

from sparsam.hardware import How, LayerCost, Machine, machines
from sparsam.hardware.tensordash import connections, job_cycles, layer_cost, stream_words, walk
from sparsam.workload import Layer


def best(run: Callable[[], Any], times: int = 5) -> tuple[float, float]:
    """Seconds of the fastest of some runs: of the processor, all threads together, and by the clock on the wall."""
    found = []
    for _ in range(times):
        began = time.process_time(), time.perf_counter()
        run()
        found.append((time.process_time() - began[0], time.perf_counter() - began[1]))
    return min(x for x, _ in found), min(x for _, x in found)


def layers_row(name: str, layers: list[Layer], machine: Machine, how: How) -> dict[str, Any]:
    """A row of the table: a layer set on a machine."""

    def run() -> list[LayerCost]:
        return [layer_cost(layer, machine, how) for layer in layers]

    costs, (seconds, wall) = run(), best(run, 3)
    dense, own = sum(one.dense_cycles for one in costs), sum(one.compute_cycles for one in costs)
    error = sum(one.error**2 for one in costs) ** 0.5
    return {
        "layers": name, "machine": machine.name, "mode": "/".join(sorted({one.mode for one in costs})),
        "processor seconds": round(seconds, 2), "elapsed": round(wall, 2),
        "simulated cycles": round(own), "standard error": f"{100 * error / own:.2f} %",
        "simulated speedup": round(dense / own, 3), "MACs a second": f"{sum(x.macs for x in costs) / seconds:.3g}",
    }  # fmt: skip


def main() -> None:
    """Both tables."""
    bert, resnet = list(bert_base()), list(resnet50())
    gathered = list(resnet50(cluster=0.5))
    one, two = machines()["tensordash"], machines()["tensordash-two"]
    layer_cost(bert[0], one, How())  # compiled kernels are read from the disk
    rows = [
        layers_row("BERT-base, 384 tokens", bert, one, How("exact")),
        layers_row("ResNet-50, one image", resnet, one, How("exact")),
        layers_row("ResNet-50, zeros gathered in channels", gathered, one, How("exact")),
        layers_row("ResNet-50, one image", resnet, machines()["tensordash-dnnsim"], How("exact")),
        layers_row(
            "BERT-base, half of the weights zero",
            list(bert_base(weight_zeros=0.5)),
            two,
            How("sampled", 0.01),
        ),
        layers_row(
            "ResNet-50, half of the weights zero", list(resnet50(weight_zeros=0.5)), two, How("sampled", 0.01)
        ),
    ]
    store(
        "hardware-tensordash",
        "TensorDash on layer sets with drawn zeros, half of the inputs",
        "python benchmarks/hardware_tensordash.py",
        rows,
        [
            "One thread, best of three. "
            "Targets on two free cores: BERT-base within 2 s, ResNet-50 within 10 s.",
            "MACs a second are dense multiplications of the layers over processor seconds.",
        ],
    )
    draw, wired = np.random.default_rng(0), connections()
    rates = []
    for zeros in (0.1, 0.5, 0.9):
        z = draw.random((2000, 500, 16)) >= zeros
        packed, few = stream_words(z.reshape(2000, -1), 16), z[:200]
        cycles = int(job_cycles(packed, None, wired).sum())
        own = sum(len(walk(stream[None], wired)[1]) for stream in few)

        def in_words(packed: Any = packed) -> None:
            job_cycles(packed, None, wired)

        def by_lane(few: Any = few) -> None:
            for stream in few:
                walk(stream[None], wired)

        (fast, _), (slow, _) = best(in_words), best(by_lane, 3)
        rates.append(
            {
                "zeros": zeros, "speedup": round(packed.size / cycles, 3),
                "cycles of elements a second, in words": f"{cycles / fast:.3g}",
                "rows a second, in words": f"{packed.size / fast:.3g}", "cycles a second, lane by lane": f"{own / slow:.3g}",
            }
        )  # fmt: skip
    store(
        "hardware-tensordash-rates",
        "Schedules a second: all lanes of a level in a word, and lane by lane with what was issued",
        "python benchmarks/hardware_tensordash.py",
        rates,
        ["Per second of one processor, best of five."],
    )


if __name__ == "__main__":
    main()
