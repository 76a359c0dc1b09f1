"""Learned Token Pruning on long texts: MiniLM on IMDB reviews of up to 512 tokens.

    python benchmarks/ltp_imdb.py --encoder FOLDER [--rows 5000] [--budget 0.35] [--test-rows 2000]

``FOLDER`` is the pretrained encoder all-MiniLM-L6-v2 (or the fine-tuned shared one, whose head is replaced).
"""

import argparse
import os
import sys
from dataclasses import replace
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
    parser.add_argument("--encoder", default=str(SHARED / "models/minilm-sst2"))
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--test-rows", type=int, default=2000)
    parser.add_argument("--budget", type=float, default=0.35)
    args = parser.parse_args()
    task = Task.load(str(SHARED / "data/imdb"), train_size=args.rows)
    assert task.validation is not None
    task = replace(task, validation=task.validation.sample(args.test_rows, seed=0))
    before_and_after(
        "ltp-imdb",
        f"LTP, MiniLM on IMDB ({args.test_rows} test reviews, seeded)",
        f"python benchmarks/ltp_imdb.py {' '.join(sys.argv[1:])}".strip(),
        model=args.encoder,
        task=task,
        runs=Path("runs/ltp-imdb"),
        dense=Settings(epochs=1.5, lr=7e-5, batch_tokens=4096),
        method=LTP(soft_epochs=0.6, hard_epochs=1.0, threshold_lr=1.5e-2),
        budget=args.budget,
        settings=Settings(batch_tokens=4096),
    )


if __name__ == "__main__":
    main()
