"""Dense arrays beside SCALE-Sim on the same products: cycles, and what the answer takes.

    python benchmarks/hardware_dense.py --scale-sim PYTHON

PYTHON is an interpreter of another environment with SCALE-Sim in it (pip install scalesim "numpy<2" "pandas<3"); it is no
dependency. Products are a BERT-base layer's at 64 tokens on an array of 32 x 32, in both dataflows; SCALE-Sim walks its memory
traces, which we do not: the times compare what one waits for, not the same work.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from tables import store

from sparsam.hardware import How, machines
from sparsam.hardware.dense import array_cycles, layer_cost
from sparsam.workload import Gemm, Tensor

PRODUCTS = [
    ("768 x 768", (64, 768, 768)),
    ("768 x 3072", (64, 3072, 768)),
    ("3072 x 768", (64, 768, 3072)),
]
CONFIGURATION = """[general]
run_name = run
[architecture_presets]
ArrayHeight: 32
ArrayWidth: 32
IfmapSramSzkB: 4096
FilterSramSzkB: 4096
OfmapSramSzkB: 4096
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Dataflow: {flow}
Bandwidth: 100
ReadRequestBuffer: 64
WriteRequestBuffer: 64
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
SparseRep: ellpack_block
OptimizedMapping: false
BlockSize: 4
RandomNumberGeneratorSeed: 40
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""


def scale_sim(python: str, flow: str, size: tuple[int, int, int]) -> tuple[int, float]:
    """Its cycles and its seconds for one product."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "run.cfg").write_text(CONFIGURATION.format(flow=flow))
        (place / "gemm.csv").write_text("Layer,M,N,K,\n" + ",".join(map(str, ("one", *size))) + ",\n")
        (place / "layout.csv").write_text("Layer name" + ",x" * 20 + ",\none" + ",1" * 20 + ",\n")
        began = time.perf_counter()
        program = (
            "from scalesim.scale_sim import scalesim\n"
            "run = scalesim(True, False, 'run.cfg', 'gemm.csv', 'layout.csv', True)\n"
            "run.run_scale(top_path='out')\n"
        )
        subprocess.run([python, "-W", "ignore", "-c", program], cwd=place, check=True, capture_output=True)
        took = time.perf_counter() - began
        (report,) = place.rglob("COMPUTE_REPORT.csv")
        rows = list(csv.reader(report.open()))
        return int(float(rows[1][2])), took


def main() -> None:
    """The table."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--scale-sim", metavar="PYTHON", help="an interpreter that has scalesim")
    python = arguments.parse_args().scale_sim
    rows = []
    for name, (m, n, k) in PRODUCTS:
        a, b = (Tensor(np.ones(shape, np.int8), "int8") for shape in ((m, k), (n, k)))
        layer = Gemm(name, a, b)
        for flow in ("os", "ws"):
            machine = machines()[f"systolic-{flow}"]
            times = []
            for _ in range(7):
                began = time.perf_counter()
                found = layer_cost(layer, machine, How())
                times.append(time.perf_counter() - began)
            row = {
                "product": f"{m} x {name}", "dataflow": flow, "cycles, paper's formula": int(found.compute_cycles),
                "cycles, drain hidden": array_cycles(m, n, k, 32, 32, flow, "hidden"),
                "milliseconds": round(1e3 * min(times), 3),
            }  # fmt: skip
            if python:
                cycles, took = scale_sim(python, flow, (m, n, k))
                row |= {"SCALE-Sim 3.0.0 prints": cycles, "SCALE-Sim, seconds": round(took, 1)}
                assert cycles + 1 == row["cycles, drain hidden"], row
            rows.append(row)
    store(
        "hardware-dense",
        "Dense arrays beside SCALE-Sim: a BERT-base layer's products at 64 tokens, 32 x 32 multipliers",
        "python benchmarks/hardware_dense.py --scale-sim PYTHON",
        rows,
        [
            "SCALE-Sim prints the number of its last cycle, counted from 0: one less than the count, in every row.",
            "Its seconds are of a process that starts, walks the memory traces and writes its reports; ours of one call, "
            "best of 7; under load.",
        ],
    )


if __name__ == "__main__":
    main()
