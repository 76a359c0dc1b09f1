"""Learned Token Pruning on Fashion-MNIST with a ViT of width 128, depth 4, patch 4, trained here.

python benchmarks/ltp_images.py [--epochs 8] [--budget 0.6]
"""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tables import store

from sparsam.compress import compress, evaluate, finetune, open_model
from sparsam.cost import Budget
from sparsam.measure import paired_difference
from sparsam.task import Task
from sparsam.tokens import LTP
from sparsam.training.loop import Settings

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared"))
RUNS = Path("runs/ltp-fashion")
MODEL = "vit:width=128,layers=4,heads=4,patch=4"


def show(stage: str, step: int, total: int, logs: dict[str, float]) -> None:
    """A line every 100 steps."""
    if step % 100 == 0 or step == total:
        print(stage, step, total, {k: round(v, 4) for k, v in logs.items()}, file=sys.stderr, flush=True)


def main() -> None:
    """Train what is missing, evaluate, store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=float, default=8.0)
    parser.add_argument("--budget", type=float, default=0.6)
    args = parser.parse_args()
    task = Task.load(str(SHARED / "data/fashion_mnist"))
    began = time.monotonic()
    if not (RUNS / "dense").exists():
        finetune(MODEL, task, RUNS / "dense", progress=show,
                 settings=Settings(epochs=args.epochs, lr=1e-3, batch_tokens=6400, warmup=0.1, weight_decay=0.05))  # fmt: skip
    dense_minutes = (time.monotonic() - began) / 60
    out = RUNS / f"ltp-{args.budget}"
    began = time.monotonic()
    if not out.exists():
        method = LTP(soft_epochs=0.5, hard_epochs=args.epochs / 4, lr=2e-4, hard_lr=3e-4, threshold_lr=2e-2)
        compress(str(RUNS / "dense"), task, out=out, methods=[method], budget=Budget(macs=args.budget), strict=False,
                 settings=Settings(batch_tokens=6400, weight_decay=0.05), progress=show)  # fmt: skip
    minutes = (time.monotonic() - began) / 60
    dense, after = (evaluate(open_model(str(folder), task), task) for folder in (RUNS / "dense", out))
    difference = paired_difference("accuracy", dense.predictions, after.predictions, dense.labels)
    rows = [
        {"model": name, "accuracy": f"{100 * e.metric.value:.2f} [{100 * e.metric.low:.2f}, {100 * e.metric.high:.2f}]",
         "MACs": f"{e.macs_ratio:.3f}x", "−dense": "" if e is dense else
         f"{difference.value:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]",
         "tokens kept": [round(layer["ffn"], 2) for layer in e.kept], "training min": round(spent, 1)}
        for name, e, spent in (("dense", dense, dense_minutes), ("LTP", after, minutes))
    ]  # fmt: skip
    store(
        "ltp-fashion-mnist",
        "LTP, ViT on Fashion-MNIST (10,000 test images)",
        f"python benchmarks/ltp_images.py {' '.join(sys.argv[1:])}".strip(),
        rows,
        list(task.notes),
    )


if __name__ == "__main__":
    main()
