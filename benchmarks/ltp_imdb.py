"""Learned Token Pruning on long texts: MiniLM on IMDB reviews of up to 512 tokens.

    python benchmarks/ltp_imdb.py --encoder FOLDER [--rows 5000] [--budget 0.35] [--test-rows 2000]

``FOLDER`` is the pretrained encoder all-MiniLM-L6-v2 (or the fine-tuned shared one, whose head is replaced).
"""

import argparse
import os
import sys
import time
from dataclasses import replace
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
RUNS = Path("runs/ltp-imdb")


def show(stage: str, step: int, total: int, logs: dict[str, float]) -> None:
    """A line every 25 steps."""
    if step % 25 == 0 or step == total:
        print(stage, step, total, {k: round(v, 4) for k, v in logs.items()}, file=sys.stderr, flush=True)


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
    began = time.monotonic()
    if not (RUNS / "dense").exists():
        finetune(
            args.encoder,
            task,
            RUNS / "dense",
            progress=show,
            settings=Settings(epochs=1.5, lr=7e-5, batch_tokens=4096),
        )
    dense_minutes = (time.monotonic() - began) / 60
    out = RUNS / f"ltp-{args.budget}"
    began = time.monotonic()
    if not out.exists():
        method = LTP(soft_epochs=0.6, hard_epochs=1.0, threshold_lr=1.5e-2)
        compress(str(RUNS / "dense"), task, out=out, methods=[method],
                 budget=Budget(macs=args.budget), strict=False, settings=Settings(batch_tokens=4096),
                 progress=show)  # fmt: skip
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
        "ltp-imdb",
        f"LTP, MiniLM on IMDB ({args.test_rows} test reviews, seeded)",
        f"python benchmarks/ltp_imdb.py {' '.join(sys.argv[1:])}".strip(),
        rows,
        list(task.notes),
    )


if __name__ == "__main__":
    main()
