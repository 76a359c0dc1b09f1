"""SpArch, simulated: what each step saves on fifteen real matrices, how long that takes, and what layers of networks cost.

    python benchmarks/hardware_sparch.py            # all of it
    python benchmarks/hardware_sparch.py steps      # DRAM bytes, step by step; also speed, model, layers

Needs the matrices under ``data/matrices`` of the shared folder (SPARSAM_SHARED) for all but ``layers``.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from tables import store

from sparsam.hardware import How
from sparsam.hardware.machine import machine_of
from sparsam.hardware.matrix_market import read_matrix
from sparsam.hardware.sparch import layer_cost, run, simulate_matrices, tick
from sparsam.workload import Gemm, Tensor

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared"))
SPARCH = machine_of("sparch")
STEPS: dict[str, dict[str, Any]] = {
    "outer product": {"pipelined": False},
    "merger": {"condense": False, "order": "running", "prefetch": "none"},
    "condensing": {"order": "running", "prefetch": "none"},
    "Huffman": {"prefetch": "none"},
    "prefetch": {},
}
QUEUE: dict[str, dict[str, Any]] = {
    "merger, queue": {"condense": False, "order": "queue", "prefetch": "none"},
    "condensing, queue": {"order": "queue", "prefetch": "none"},
}
COMMAND = "python benchmarks/hardware_sparch.py"


def matrices() -> dict[str, Any]:
    """By name."""
    files = sorted((SHARED / "data/matrices").glob("*.mtx.gz"))
    return {file.name.removesuffix(".mtx.gz"): read_matrix(file) for file in files}


def mean(values: Any) -> Any:
    """Geometric, down the rows."""
    return np.exp(np.log(np.asarray(values, float)).mean(0))


def factors(ratios: Any) -> dict[str, str]:
    """What each of the four steps changes, and all together; ratios are to the outer product."""
    merger, condensing, huffman, prefetch = ratios
    return {
        "merger": f"x {merger:.3g}",
        "condensing": f"/ {merger / condensing:.3g}",
        "Huffman": f"/ {condensing / huffman:.3g}",
        "prefetch": f"/ {huffman / prefetch:.3g}",
        "all": f"/ {1 / prefetch:.3g}",
    }


def steps() -> None:
    """DRAM bytes over those of the outer product."""
    rows, all_ratios = [], []
    for name, a in matrices().items():
        found = {step: run(a, a, SPARCH.varied(**given)) for step, given in (STEPS | QUEUE).items()}
        base = float(found["outer product"].bytes.sum())
        ratios = {step: float(one.bytes.sum()) / base for step, one in found.items()}
        all_ratios.append([ratios[step] for step in (*list(STEPS)[1:], *QUEUE)])
        rows.append(
            {"matrix": name, "outer product, MB": base / 1e6}
            | {step: f"{ratios[step]:.3g}" for step in list(STEPS)[1:]}
            | {"all": f"/ {1 / ratios['prefetch']:.3g}"}
            | {"speed": f"{found['outer product'].cycles / found['prefetch'].cycles:.3g}x"}
            | {"hit rate": f"{found['prefetch'].hit_rate:.2f}"}
            | {step: f"{ratios[step]:.3g}" for step in QUEUE}
        )
    means = mean(all_ratios)
    rows.append(
        {"matrix": "geometric mean"}
        | {step: f"{value:.3g}" for step, value in zip((*list(STEPS)[1:], *QUEUE), means, strict=True)}
        | {"all": f"/ {1 / means[3]:.3g}"}
    )
    rows.append({"matrix": "step"} | factors(means[:4]))
    whole = []
    for a in matrices().values():
        found = [run(a, a, SPARCH.varied(whole_lines=True, **given)).bytes.sum() for given in STEPS.values()]
        whole.append([one / found[0] for one in found[1:]])
    rows.append({"matrix": "step, whole lines fetched"} | factors(mean(whole)))
    rows.append(
        {
            "matrix": "abstract, 20 other matrices", "merger": "x 5.2 (implied)", "condensing": "/ 5.4",
            "Huffman": "/ 1.8", "prefetch": "/ 1.5", "all": "/ 2.8",
        }
    )  # fmt: skip
    store(
        "hardware-sparch-steps",
        "SpArch, simulated: DRAM bytes of squaring a matrix over those of an outer product that stores every product",
        f"{COMMAND} steps",
        rows,
        [
            "each column has the steps before it; merger and condensing in the running order, where each round merges the "
            "result of the round before with the next 63",
            "the last two columns take a queue instead, results at its end: then the merger alone moves less than the outer "
            "product",
            "speed: cycles of the outer product over SpArch's, same multipliers and memory",
            "5.2 is implied: 5.4 * 1.8 * 1.5 / 2.8",
        ],
    )


def speed() -> None:
    """Seconds of one core to simulate a square, reading the file left out; the best of three."""
    rows = []
    simulate_matrices(np.eye(2), np.eye(2), SPARCH)
    for name, a in matrices().items():
        took, worked = [], []
        for _ in range(3):
            start, begun = time.perf_counter(), time.process_time()
            found = simulate_matrices(a, a, SPARCH)
            took.append(time.perf_counter() - start)
            worked.append(time.process_time() - begun)
        begun = time.process_time()
        for given in STEPS.values():
            run(a, a, SPARCH.varied(**given))
        all_steps = time.process_time() - begun
        merged = found.detail["products"] + found.detail["stored elements"]
        rows.append(
            {
                "matrix": name, "products": found.detail["products"], "rounds": found.detail["rounds"],
                "seconds": f"{min(took):.2f}", "of the processor": f"{min(worked):.2f}",
                "of the processor, five steps": f"{all_steps:.2f}",
                "million elements merged a second": f"{merged / min(worked) / 1e6:.0f}",
                "simulated cycles": found.detail["cycles round by round, memory in each"],
            }
        )  # fmt: skip
    store(
        "hardware-sparch-speed", "SpArch: time to simulate squaring a matrix, exact, on one core", f"{COMMAND} speed", rows,
        ["seconds: SpArch and its baseline, the best of three; of the processor: what was worked",
         "million elements: of the processor's seconds"],
    )  # fmt: skip


def model() -> None:
    """The counted model beside the ticked tree and channels."""
    rows = []
    for name in ("bcsstk13", "mbeacxc", "wiki-Vote", "bcspwr10", "cryg2500", "p2p-Gnutella08"):
        a = read_matrix(SHARED / f"data/matrices/{name}.mtx.gz")
        tick(a[:1], a, SPARCH)
        begun = time.process_time()
        found = tick(a, a, SPARCH)
        took = time.process_time() - begun
        patient = tick(a, a, SPARCH.varied(fetchers=1024))
        counted = np.maximum(found.counted.multiply, found.counted.merge).sum()
        rows.append(
            {
                "matrix": name, "model, computing": int(counted), "ticked tree": int(found.tree.sum()),
                "ticked over model": f"{found.tree.sum() / counted:.2f}",
                "with 1024 fetchers": f"{patient.tree.sum() / counted:.2f}",
                "model with memory": found.counted.cycles, "ticked with memory": int(found.cycles.sum()),
                "cycles ticked a second": f"{found.tree.sum() / took:.3g}",
            }
        )  # fmt: skip
    store(
        "hardware-sparch-model", "SpArch: the counted model beside the merge tree and channels ticked cycle by cycle",
        f"{COMMAND} model", rows,
        ["with 1024 fetchers rows are there when wanted; with the machine's 16 short rows wait for the memory's latency"],
    )  # fmt: skip


def layers() -> None:
    """A layer of 384 tokens, 768 to 3072, at densities from graphs' to networks'."""
    rows = []
    rng = np.random.default_rng(0)

    def drawn(shape: tuple[int, int], density: float) -> Tensor:
        values = rng.integers(1, 128, shape) * (rng.random(shape) < density)
        return Tensor(values.astype(np.int8), "int8")

    for activations, weights in (
        (0.01, 0.01), (0.1, 0.1), (0.1, 0.02), (0.5, 0.02), (0.5, 0.1), (1.0, 0.1), (1.0, 0.5), (1.0, 1.0),
    ):  # fmt: skip
        layer = Gemm("layer", drawn((384, 768), activations), drawn((3072, 768), weights))
        cells: dict[str, Any] = {
            "activations": f"{activations:.0%}", "weights": f"{weights:.0%}", "both": f"{activations * weights:.2%}"
        }  # fmt: skip
        for name, machine in (
            ("", SPARCH),
            (", 1-byte numbers", SPARCH.varied(value_bytes=1, index_bytes=2)),
        ):
            one = layer_cost(layer, machine, How())
            rival = next(
                value for key, value in one.detail.items() if key.startswith("cycles of a dense array")
            )
            took = max(one.compute_cycles, one.dram_bytes / 128)
            cells |= {
                f"cycles{name}": int(took),
                f"over 16 dense multipliers{name}": f"{max(one.dense_cycles, one.dense_dram_bytes / 128) / took:.3g}x",
                f"over 1024 of 8 bits{name}": f"{rival / took:.3g}x",
                f"DRAM bytes over dense 8 bits{name}": f"{one.dram_bytes / (384 * 768 + 768 * 3072 + 384 * 3072):.3g}x",
            }
        rows.append(cells | {"mode": one.mode})
    store(
        "hardware-sparch-layers", "SpArch, simulated: a layer of a network, 384 x 768 x 3072, random zeros",
        f"{COMMAND} layers", rows,
        ["8-byte numbers with 4-byte indices are the design's own; 1-byte numbers with 2-byte indices are our variation"],
    )  # fmt: skip


def main() -> None:
    """What is asked for, or all."""
    known = {"steps": steps, "speed": speed, "model": model, "layers": layers}
    for name in sys.argv[1:] or known:
        known[name]()


if __name__ == "__main__":
    main()
