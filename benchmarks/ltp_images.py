"""Learned Token Pruning on Fashion-MNIST with a ViT of width 128, depth 4, patch 4, trained here.

python benchmarks/ltp_images.py [--epochs 8] [--budget 0.6]
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from trained_here import before_and_after

from sparsam.task import Task
from sparsam.tokens import LTP
from sparsam.training.loop import Settings

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared"))


def main() -> None:
    """Train what is missing, evaluate, store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=float, default=8.0)
    parser.add_argument("--budget", type=float, default=0.6)
    args = parser.parse_args()
    before_and_after(
        "ltp-fashion-mnist",
        "LTP, ViT on Fashion-MNIST (10,000 test images)",
        f"python benchmarks/ltp_images.py {' '.join(sys.argv[1:])}".strip(),
        model="vit:width=128,layers=4,heads=4,patch=4",
        task=Task.load(str(SHARED / "data/fashion_mnist")),
        runs=Path("runs/ltp-fashion"),
        dense=Settings(epochs=args.epochs, lr=1e-3, batch_tokens=6400, warmup=0.1, weight_decay=0.05),
        method=LTP(
            soft_epochs=0.5,
            hard_epochs=args.epochs / 4,
            lr=2e-4,
            hard_lr=3e-4,
            threshold_lr=2e-2,
            temperature=0.1,
            temperature_unit="mean",
            dropout=True,
        ),
        budget=args.budget,
        settings=Settings(batch_tokens=6400, weight_decay=0.05),
    )


if __name__ == "__main__":
    main()
