"""Products in 8-bit integers: the dense model's, after heads and filters were cut, and with what a budget of time chooses.

    python benchmarks/integers.py    # MiniLM on SST-2; the composed model trains for a quarter of an hour on two cores

What is there already is evaluated, not made again. Speeds: ``python benchmarks/serving.py int8 int8-single``. From a dense
checkpoint of one's own the same is

    sparsam compress DENSE --task TASK --method int8 --out DIR
    sparsam compress DENSE --task TASK --method ftpp+int8 --budget macs=0.5x --out DIR
    sparsam compress DENSE --task TASK --budget throughput=3.5x,accuracy=-1 --out DIR
"""

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from compose import row
from tables import store

from sparsam.compress import compress
from sparsam.quantization.int8 import Int8
from sparsam.structure import FTPP
from sparsam.task import Task

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared"))
RUNS = Path("runs/integers")


def main() -> None:
    """Make, evaluate and store."""
    task, dense = Task.load(str(SHARED / "data/sst2")), str(SHARED / "models/minilm-sst2")
    jobs: list[tuple[str, str, dict[str, Any]]] = [
        ("int8", dense, {"methods": [Int8()]}),
        ("ftpp-0.5+int8", dense, {"methods": [FTPP(), Int8()], "budget": "macs=0.5x"}),
        ("ftpp-0.4+int8", dense, {"methods": [FTPP(), Int8()], "budget": "macs=0.4x"}),
        ("composed", dense, {"budget": "throughput=3.5x,accuracy=-1"}),
    ]
    rows = []
    for name, model, given in jobs:
        if not (RUNS / name).exists():
            compress(model, task, out=RUNS / name, strict=False, **given)
        size = sum(file.stat().st_size for file in (RUNS / name).glob("*.safetensors"))
        found = row(name, task, dense, RUNS / name, ("validation", "test"))
        rows.append(found | {"megabytes": f"{size / 1e6:.1f}"})
    store(
        "integers",
        "Products in integers: MiniLM on SST-2, validation and test",
        "python benchmarks/integers.py",
        rows,
    )


if __name__ == "__main__":
    main()
