"""Learned Token Pruning on a fine-tuned MiniLM and SST-2: accuracy at cost, over seeds and along a curve beside controls.

    python benchmarks/ltp_sst2.py seeds --budget 0.48      # three seeds at one budget
    python benchmarks/ltp_sst2.py curve                    # one seed, five budgets, each from the one before: LTP,
                                                           # top-k, manual thresholds, random
    python benchmarks/ltp_sst2.py                          # both

Validation (872 sentences), test (1,821) and both together, paired with the dense model's answers. Checkpoints go
to ``runs/ltp-sst2/``; what is there already is evaluated, not trained again. A folder's name says how it was trained.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from tables import store, training_minutes

from sparsam.compress import Opened, compress, evaluate, open_model
from sparsam.cost import Budget
from sparsam.measure import paired_difference
from sparsam.task import Task
from sparsam.tokens import LTP
from sparsam.tokens.control import Control
from sparsam.training.loop import Settings

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared"))
MODEL, DATA = SHARED / "models/minilm-sst2", SHARED / "data/sst2"
RUNS = Path("runs/ltp-sst2")
CURVE = (0.7, 0.6, 0.5, 0.42, 0.35)
RULES = ("ltp", "top-k", "linear-threshold", "random")


def answers(opened: Opened, task: Task) -> dict[str, Any]:
    """Predictions, labels and share of MACs on validation, test and both."""
    found: dict[str, Any] = {}
    for split in ("validation", "test"):
        found[split] = evaluate(opened, task, split=split)
    return found


def row(name: str, dense: dict[str, Any], after: dict[str, Any], minutes: float | str) -> dict[str, Any]:
    """One line of the table."""
    out: dict[str, Any] = {"model": name}
    for split in ("validation", "test", "both"):
        parts = ("validation", "test") if split == "both" else (split,)
        labels = np.concatenate([dense[p].labels for p in parts])
        a, b = (np.concatenate([x[p].predictions for p in parts]) for x in (dense, after))
        difference = paired_difference("accuracy", a, b, labels)
        out[split] = f"{100 * (b == labels).mean():.2f}"
        out[f"{split} −dense"] = f"{difference.value:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"
        cost = sum(after[p].cost.macs for p in parts) / sum(after[p].dense.macs for p in parts)
        if split == "both":
            out["flips lost/won"] = f"{difference.extra['lost']}/{difference.extra['won']}"
            out["MACs"] = f"{cost:.3f}x"
    out["tokens kept"] = [round(layer["ffn"], 2) for layer in after["validation"].kept]
    out["training min"] = minutes
    return out


def run(
    name: str,
    method: LTP | Control,
    budget: float,
    seed: int,
    task: Task,
    dense: dict[str, Any],
    start: Path = MODEL,
) -> tuple[dict[str, Any], Path]:
    """Compress unless it is there, evaluate, give the row."""
    soft = method.soft_epochs if isinstance(method, LTP) else 0.0
    folder = RUNS / f"{name}-{budget}-{soft:g}+{method.hard_epochs:g}-seed{seed}"
    if not folder.exists():
        compress(
            str(start),
            task,
            out=folder,
            methods=[method],
            budget=Budget(macs=budget),
            strict=False,
            teacher=None if start == MODEL else str(MODEL),
            settings=Settings(seed=seed),
            progress=show,
        )
    found = row(name, dense, answers(open_model(str(folder), task), task), training_minutes(folder))
    return {"model": name, "budget": f"{budget}x", "seed": seed, **found}, folder


def show(stage: str, step: int, total: int, logs: dict[str, float]) -> None:
    """A line every 25 steps."""
    if step % 25 == 0 or step == total:
        print(stage, step, total, {k: round(v, 4) for k, v in logs.items()}, file=sys.stderr, flush=True)


def seeds(args: argparse.Namespace, task: Task, dense: dict[str, Any]) -> list[dict[str, Any]]:
    """One budget, several seeds, and their mean."""
    method = LTP(soft_epochs=args.soft_epochs, hard_epochs=args.hard_epochs)
    rows = [run("ltp", method, args.budget, seed, task, dense)[0] for seed in args.seeds]
    means: dict[str, Any] = {"model": f"mean of {len(rows)} seeds"}
    for key in ("validation −dense", "test −dense", "both −dense"):
        means[key] = f"{np.mean([float(found[key].split()[0]) for found in rows]):+.2f}"
    return [*rows, means]


def curve(args: argparse.Namespace, task: Task, dense: dict[str, Any]) -> list[dict[str, Any]]:
    """Falling budgets, each from the model before it; equal epochs for every rule."""
    rows = []
    for rule in args.rules:
        start = MODEL
        for budget in args.budgets if rule == "ltp" else args.control_budgets or args.budgets:
            method: LTP | Control
            if rule == "ltp":
                method = LTP(soft_epochs=args.curve_soft, hard_epochs=args.curve_hard)
            else:
                method = Control(rule, hard_epochs=args.curve_soft + args.curve_hard)
            made, start = run(f"curve-{rule}", method, budget, 0, task, dense, start)
            rows.append(made)
    return rows


def main() -> None:
    """Run the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", nargs="?", default="all", choices=("seeds", "curve", "all"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=0.48)
    parser.add_argument("--soft-epochs", type=float, default=LTP.soft_epochs)
    parser.add_argument("--hard-epochs", type=float, default=LTP.hard_epochs)
    parser.add_argument("--budgets", type=float, nargs="+", default=list(CURVE))
    parser.add_argument("--control-budgets", type=float, nargs="+", help="those of the controls, if others")
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=RULES)
    parser.add_argument("--curve-soft", type=float, default=0.25, help="epochs of the soft stage, each point")
    parser.add_argument("--curve-hard", type=float, default=0.35, help="epochs of the hard stage, each point")
    args = parser.parse_args()
    task = Task.load(str(DATA))
    dense = answers(open_model(str(MODEL), task), task)
    first = row("dense", dense, dense, "")
    notes = [
        "MACs: encoder, over real lengths, scoring included, relative to the dense model on the same sentences.",
        "Differences in points, paired with the dense model's answers, 95 % bootstrap interval.",
        "Training minutes are those of the row's own run, on one core.",
    ]
    command = f"python benchmarks/ltp_sst2.py {' '.join(sys.argv[1:])}".strip()
    if args.table != "curve":
        rows = [first, *seeds(args, task, dense)]
        store(f"ltp-sst2-seeds-{args.budget}", "LTP, MiniLM on SST-2: seeds", command, rows, notes)
    if args.table != "seeds":
        rows = [first, *curve(args, task, dense)]
        store(
            "ltp-sst2-curve", "LTP and controls, MiniLM on SST-2: a warm-started curve", command, rows, notes
        )


if __name__ == "__main__":
    main()
