"""Products in 8-bit integers: the dense model's, after heads and filters were cut, and with what a budget of time chooses.

    python benchmarks/integers.py         # MiniLM on SST-2; the composed model trains for a quarter of an hour on two cores
    python benchmarks/integers.py imdb    # on IMDB, the model of ltp_imdb.py put in integers

What is there already is evaluated, not made again. Speeds: ``python benchmarks/serving.py int8 int8-single``. From a dense
checkpoint of one's own the same is

    sparsam compress DENSE --task TASK --method int8 --out DIR
    sparsam compress DENSE --task TASK --method ftpp+int8 --budget macs=0.5x --out DIR
    sparsam compress DENSE --task TASK --budget throughput=3.5x,accuracy=-1 --out DIR
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from compose import row
from tables import store

from sparsam.compress import compress, evaluate
from sparsam.measure import paired_difference
from sparsam.quantization.int8 import Int8
from sparsam.structure import FTPP
from sparsam.task import Task

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared"))
RUNS = Path("runs/integers")


def imdb() -> None:
    """Tokens, then integers, on 2,000 test reviews."""
    found, dense = Task.load(str(SHARED / "data/imdb")), "runs/ltp-imdb/dense-5000-1.5"
    train, test = found.train, found.validation
    assert train is not None and test is not None
    task = replace(
        found,
        train=train.subset(np.arange(5000)),
        validation=train.subset(np.arange(len(train) - 5000, len(train) - 4800)),
        test=test.sample(2000, seed=0),
    )
    pruned, folder = "runs/ltp-imdb/ltp-0.35-20000-1.5-0.2+1.5", RUNS / "imdb-ltp+int8"
    if not folder.exists():
        compress(pruned, task, out=folder, methods=[Int8(samples=256)], teacher=dense, strict=False)
    before, *after = (evaluate(str(one), task, split="test") for one in (dense, pruned, folder))
    rows = []
    for name, one in zip(("LTP", "LTP, int8"), after, strict=True):
        difference = paired_difference("accuracy", before.predictions, one.predictions, before.labels)
        rows.append(
            {
                "model": name, "MACs": f"{one.macs_ratio:.3f}x", "rows": len(one.labels),
                "dense": f"{100 * before.metric.value:.2f}", "score": f"{100 * one.metric.value:.2f}",
                "difference": f"{difference.value:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]",
            }
        )  # fmt: skip
    store("integers-imdb", "Products in integers: MiniLM on IMDB", "python benchmarks/integers.py imdb", rows)


def main() -> None:
    """Make, evaluate and store."""
    if sys.argv[1:] == ["imdb"]:
        imdb()
        return
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
