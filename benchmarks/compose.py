"""Tokens, heads and filters together: a model that LTP trained is cut by FTPP and trained on, beside the dense one.

    python benchmarks/compose.py sst2     # MiniLM on SST-2, from the model of ltp_sst2.py seeds --budget 0.48
    python benchmarks/compose.py imdb     # MiniLM on IMDB, from the model of ltp_imdb.py
    python benchmarks/compose.py          # both

What is there already is evaluated, not made again. Speeds: ``benchmarks/serving.py composed composed-imdb``. From a dense
checkpoint of one's own the same is one command:

    sparsam compress DENSE --task TASK --method ltp+ftpp --budget macs=0.2x --recover 2 --distill 0.9 --out DIR
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from tables import store

from sparsam.compress import compress, evaluate
from sparsam.measure import paired_difference
from sparsam.structure import FTPP
from sparsam.task import Task
from sparsam.tokens import LTP
from sparsam.training.loop import Settings

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared"))
RUNS = Path("runs/compose")


def row(name: str, task: Task, dense: str, folder: Path, splits: tuple[str, ...]) -> dict[str, Any]:
    """A line of the table: all splits together, paired with the dense model."""
    a, b = ([evaluate(one, task, split=split) for split in splits] for one in (dense, str(folder)))
    labels = np.concatenate([one.labels for one in a])
    before, after = (np.concatenate([one.predictions for one in side]) for side in (a, b))
    found = paired_difference("accuracy", before, after, labels)
    macs = sum(one.cost.macs for one in b) / sum(one.dense.macs for one in b)
    return {
        "model": name, "MACs": f"{macs:.3f}x", "rows": len(labels), "dense": f"{100 * (before == labels).mean():.2f}",
        "score": f"{100 * (after == labels).mean():.2f}",
        "difference": f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]",
        "lost/won": f"{found.extra['lost']}/{found.extra['won']}",
    }  # fmt: skip


def sst2() -> list[dict[str, Any]]:
    """0.468x by tokens, then 0.2x."""
    task, dense = Task.load(str(SHARED / "data/sst2")), str(SHARED / "models/minilm-sst2")
    folder = RUNS / "ltp048-ftpp-0.2"
    if not folder.exists():
        compress(
            "runs/ltp-sst2/ltp-0.48-1+2-seed0", task, out=folder, teacher=dense, budget="macs=0.2x", strict=False,
            methods=[FTPP(macs=0.208), LTP(soft_epochs=0, hard_epochs=2, distill=0.9)],
        )  # fmt: skip
    return [row("SST-2, validation and test", task, dense, folder, ("validation", "test"))]


def imdb() -> list[dict[str, Any]]:
    """0.344x by tokens, then 0.28x: heads and filters without training, thresholds solved again."""
    found, dense = Task.load(str(SHARED / "data/imdb")), "runs/ltp-imdb/dense-5000-1.5"
    train, test = found.train, found.validation
    assert train is not None and test is not None
    order = np.random.default_rng(0).permutation(len(train))[:6000]
    task = replace(
        found,
        train=train.subset(np.sort(order[200:])),
        validation=train.subset(np.sort(order[:200])),
        test=test.sample(2000, seed=0),
    )
    folder = RUNS / "imdb-ftpp-0.28"
    if not folder.exists():
        compress(
            "runs/ltp-imdb/ltp-0.35-20000-1.5-0.2+1.5", task, out=folder, teacher=dense, budget="macs=0.28x", strict=False,
            methods=[FTPP(macs=0.2912, samples=512), LTP(soft_epochs=0, hard_epochs=0, distill=1.0)],
            settings=Settings(batch_tokens=2048),
        )  # fmt: skip
    return [row("IMDB, 2,000 test reviews", task, dense, folder, ("test",))]


def main() -> None:
    """Whatever was named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs = {"sst2": sst2, "imdb": imdb}
    parser.add_argument(
        "jobs", nargs="*", metavar="JOB", help=f"some of {', '.join(jobs)}; all if none is named"
    )
    named = parser.parse_args().jobs or list(jobs)
    rows = [line for name in named for line in jobs[name]()]
    store("compose", "Tokens, heads and filters together: MiniLM", "python benchmarks/compose.py", rows)


if __name__ == "__main__":
    main()
