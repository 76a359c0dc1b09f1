"""The demo: no network, no files. A small ViT learns scikit-learn's handwritten digits, then to do with less.

It learns which patches to drop, loses heads and filters, and learns to live with both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sparsam.bench import Benchmark, bench
from sparsam.compress import Compressed, Progress, compress, finetune
from sparsam.cost import Budget
from sparsam.report import check_target, write_report
from sparsam.structure import FTPP
from sparsam.task import Task
from sparsam.tokens import LTP
from sparsam.training.loop import Settings

MODEL = "vit:width=64,layers=4,heads=4,patch=2"
BUDGET = Budget(macs=0.4)
DENSE = Settings(epochs=40, lr=1e-3, batch_tokens=1088, warmup=0.1, weight_decay=0.05)
TOKENS = LTP(
    soft_epochs=15,
    hard_epochs=40,
    lr=3e-4,
    hard_lr=1e-3,
    threshold_lr=2e-2,
    temperature=0.1,
    temperature_unit="mean",
    distill=0.9,
    distill_states=0.5,
    steer_every=50,
)
METHODS = (TOKENS, FTPP(), replace(TOKENS, soft_epochs=0, hard_epochs=15))
"""Patches first, then heads and filters without training, then the weights that are left learn to live with both."""


def run_demo(
    out: str | Path, progress: Progress | None = None, say: Callable[[str], None] = lambda text: None
) -> Compressed:
    """Train, compress, save, reload, evaluate; both checkpoints stand under ``out`` afterwards."""
    torch.set_num_threads(
        1
    )  # products this small are slower on two threads, and far slower on a busy machine
    out = Path(out)
    task = Task.load("digits")
    say(f"A ViT of width 64 with 4 layers learns {len(task.train or ())} handwritten digits.")
    finetune(MODEL, task, out / "dense", settings=DENSE, progress=progress)
    say(
        f"It learns which patches to drop, and loses heads and filters: {BUDGET.macs}x of its operations may stay."
    )
    settings = Settings(batch_tokens=DENSE.batch_tokens, weight_decay=DENSE.weight_decay)
    return compress(
        str(out / "dense"),
        task,
        out=out / "compressed",
        methods=METHODS,
        budget=BUDGET,
        settings=settings,
        progress=progress,
        strict=False,
    )


BASELINES = ("eager-fp32", "eager-bf16", "packed-fp32", "packed-bf16")
"""What the demo is raced against: what needs no extra and no minutes of compiling."""


def race_demo(out: str | Path, progress: Progress | None = None) -> Benchmark:
    """How fast the compressed checkpoint is, reloaded, beside the dense one."""
    out = Path(out)
    return bench(
        out / "compressed",
        Task.load("digits"),
        baselines=BASELINES,
        dense=out / "dense",
        batch=128,  # of 32 such small images neither takes long enough to be told apart
        rounds=7,
        progress=progress,
    )


def page_of_demo(out: str | Path) -> Path:
    """Where the demo's report stands."""
    return Path(out) / "report.html"


def check_demo(out: str | Path) -> None:
    """Refuse before the training what could not be written after it."""
    check_target(page_of_demo(out))


def report_demo(out: str | Path, bench: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Write the report of both checkpoints, with what was measured of their speed in ``bench``; returns the page."""
    out = Path(out)
    return write_report([out / "dense", out / "compressed"], page_of_demo(out), bench=bench)
