"""Learned Token Pruning on long texts: MiniLM on IMDB reviews of up to 512 tokens.

    python benchmarks/ltp_imdb.py --encoder FOLDER [--rows 5000] [--unlabelled 20000] [--budget 0.35] [--test-rows 2000]

``FOLDER`` is the pretrained encoder all-MiniLM-L6-v2 (or the fine-tuned shared one, whose head is replaced). Validation is
2,000 other reviews of the training split, on which the recipe was chosen; the table is of test reviews. The dense model learns
from 5,000 labelled reviews, the pruned one from the dense one's answers alone, to 20,000 reviews without their labels.
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

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
    parser.add_argument("--rows", type=int, default=5000, help="labelled reviews for the dense model")
    parser.add_argument(
        "--unlabelled", type=int, default=20_000, help="reviews whose labels are not looked at"
    )
    parser.add_argument("--test-rows", type=int, default=2000)
    parser.add_argument("--budget", type=float, default=0.35)
    args = parser.parse_args()
    found = Task.load(str(SHARED / "data/imdb"))
    train, test = found.train, found.validation  # there are but train and test
    assert train is not None and test is not None
    task = replace(
        found,
        train=train.subset(np.arange(args.rows)),
        validation=train.subset(np.arange(len(train) - 5000, len(train) - 3000)),
        test=test.sample(args.test_rows, seed=0),
        notes=(),
    )
    before_and_after(
        "ltp-imdb",
        f"LTP, MiniLM on IMDB ({args.test_rows} test reviews, seeded)",
        f"python benchmarks/ltp_imdb.py {' '.join(sys.argv[1:])}".strip(),
        model=args.encoder,
        task=task,
        runs=Path("runs/ltp-imdb"),
        dense=Settings(epochs=1.5, lr=7e-5, batch_tokens=4096),
        method=LTP(soft_epochs=0.2, hard_epochs=1.5, distill=1.0),
        budget=args.budget,
        settings=Settings(batch_tokens=4096),
        split="test",
        pruned_on=replace(task, train=train.subset(np.arange(args.unlabelled))),
    )


if __name__ == "__main__":
    main()
