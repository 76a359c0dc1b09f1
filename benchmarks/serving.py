"""How fast compressed checkpoints are, reloaded, beside other ways to serve the dense model they came from.

    python benchmarks/serving.py sst2      # batches of 32: MiniLM on SST-2, models of ltp_sst2.py
    python benchmarks/serving.py all       # every peer, the stock pipeline too
    python benchmarks/serving.py single    # the same, one sentence at a time
    python benchmarks/serving.py imdb      # texts up to 512 tokens, the model of ltp_imdb.py
    python benchmarks/serving.py fashion   # a ViT, the model of ltp_images.py
    python benchmarks/serving.py composed composed-single composed-imdb   # the models of compose.py
    python benchmarks/serving.py int8 int8-single    # the models of integers.py
    python benchmarks/serving.py exported  # its ftpp-0.4+int8, exported: sparsam export DIR --to onnx --out runs/onnx-ftpp04
    python benchmarks/serving.py           # all of these

Wants the extras ``onnx`` and ``openvino`` for those peers, and a quiet machine: half an hour on two cores in all. ``live`` is
the dense model with a rule whose thresholds nobody falls below: what asking costs. Without files of ours the same is

    sparsam bench DIR --task TASK
"""

import argparse
import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from tables import store

import sparsam
from sparsam.artifact import load_dense
from sparsam.models import stack_of
from sparsam.plan import LayerPlan, Plan
from sparsam.task import Task
from sparsam.tokens.ltp import token_plan

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared"))
RUNS = Path("runs")
LIVE = RUNS / "serving/live"
PEERS = ("eager-fp32", "packed-fp32", "packed-bf16", "onnxruntime-int8", "openvino-bf16", "openvino-int8")


@dataclass(frozen=True)
class Job:
    """One table."""

    title: str
    data: str
    models: tuple[Path, ...]
    dense: Path
    baselines: tuple[str, ...] | None = None
    split: str = "validation"
    batch: int = 32
    order: str = "both"
    rows: int | None = None
    test_rows: int | None = None
    """Draw so many test rows with seed 0."""


SST2 = tuple(RUNS / f"ltp-sst2/curve-ltp-{budget}-0.25+0.35-seed0" for budget in ("0.6", "0.5", "0.35"))
MINILM = SHARED / "models/minilm-sst2"
INTEGERS = tuple(RUNS / f"integers/{name}" for name in ("int8", "ftpp-0.5+int8", "ftpp-0.4+int8", "composed"))
JOBS = {
    "sst2": Job("MiniLM on SST-2, batches of 32", "sst2", (*SST2, LIVE), MINILM, (*PEERS, "compile-bf16")),
    "single": Job(
        "MiniLM on SST-2, one sentence at a time", "sst2", (SST2[1], LIVE), MINILM, PEERS, batch=1, order="arrival", rows=200
    ),
    "all": Job("MiniLM on SST-2, every peer, arrival order", "sst2", SST2[1:2], MINILM, order="arrival", rows=400),
    "imdb": Job(
        "MiniLM on IMDB, batches of 32", "imdb",
        (RUNS / "ltp-imdb/ltp-0.35-20000-1.5-0.2+1.5", RUNS / "integers/imdb-ltp+int8"),
        RUNS / "ltp-imdb/dense-5000-1.5", PEERS, "test", rows=64, test_rows=2000,
    ),
    "fashion": Job(
        "ViT of width 128, depth 4, on Fashion-MNIST, batches of 32", "fashion_mnist",
        (RUNS / "ltp-fashion/ltp-0.6-60000-8-0.5+2",), RUNS / "ltp-fashion/dense-60000-8",
        PEERS, rows=1000,
    ),
    "composed": Job(
        "MiniLM on SST-2, tokens, heads and filters, batches of 32", "sst2", (RUNS / "compose/ltp048-ftpp-0.2",), MINILM,
        PEERS, rows=416,
    ),
    "composed-single": Job(
        "MiniLM on SST-2, tokens, heads and filters, one sentence at a time", "sst2", (RUNS / "compose/ltp048-ftpp-0.2",),
        MINILM, PEERS, batch=1, order="arrival", rows=200,
    ),
    "composed-imdb": Job(
        "MiniLM on IMDB, tokens, heads and filters, batches of 32", "imdb", (RUNS / "compose/imdb-ftpp-0.28",),
        RUNS / "ltp-imdb/dense-5000-1.5", PEERS, "test", rows=64, test_rows=2000, order="arrival",
    ),
    "int8": Job("MiniLM on SST-2, products in integers, batches of 32", "sst2", INTEGERS, MINILM, PEERS, rows=416),
    "exported": Job(
        "MiniLM on SST-2, exported graphs, batches of 32", "sst2",
        tuple(RUNS / f"{to}-{name}" for name in ("ftpp04", "composed") for to in ("onnx", "openvino")), MINILM,
        ("onnxruntime-fp32", "onnxruntime-int8", "openvino-fp32"),
        rows=416,
    ),
    "int8-single": Job(
        "MiniLM on SST-2, products in integers, one sentence at a time", "sst2", INTEGERS, MINILM, PEERS, batch=1,
        order="arrival", rows=200,
    ),
}  # fmt: skip


def make_live() -> None:
    """The dense model, asked in every layer but the last."""
    if LIVE.exists():
        return
    loaded = load_dense(MINILM)
    layers = len(stack_of(sparsam.lift(loaded.model)).left)
    rule = token_plan([1e-9] * (layers - 1) + [0.0], relative_to="others")
    model = load_dense(MINILM).model
    plan = Plan(model.config.model_type, (LayerPlan(),) * layers, tokens=rule)
    sparsam.save(sparsam.lift(model, plan), LIVE, processor=loaded.processor, facts={"source": str(MINILM)})


def row_of(row: Any) -> dict[str, Any]:
    """A line of the table."""
    found = {
        "model": row.model,
        "over": row.baseline,
        "order": row.order,
        "tokenizing": "timed" if row.tokenisation else "before",
        "times faster": round(row.ratio_to_baseline, 3),
        "least": round(row.low, 3),
        "largest": round(row.high, 3),
        "doubtful": "yes" if row.doubtful else "",
        "samples/s": round(row.samples_per_second, 1),
        "score": round(100 * row.accuracy, 2),
        "points": round(row.accuracy_difference, 2),
        "interval": [round(end, 2) for end in row.interval],
    }
    if row.p50_ms is not None:
        found |= {"p50 ms": round(row.p50_ms, 3), "p95 ms": round(row.p95_ms, 3)}
    return found


def main() -> None:
    """Race and store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "jobs", nargs="*", metavar="JOB", help=f"some of {', '.join(JOBS)}; all if none is named"
    )
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    for name in args.jobs or JOBS:
        job = JOBS[name]
        if job.dense == MINILM:
            make_live()
        missing = [str(path) for path in (*job.models, job.dense) if not path.exists()]
        if missing:
            print(f"{name}: left out; {', '.join(missing)} is missing. Train it first.", file=sys.stderr)
            continue
        task = Task.load(str(SHARED / "data" / job.data))
        if job.test_rows is not None:
            held = task.test or task.validation
            assert held is not None
            task = replace(task, test=held.sample(job.test_rows, seed=0))
        found = sparsam.bench(
            job.models, task, baselines=job.baselines, dense=job.dense, split=job.split, batch=job.batch,
            order=job.order if task.kind == "text" else "both", rows=job.rows, rounds=args.rounds,
            progress=lambda stage, done, total, said: print(stage, done, total, file=sys.stderr, flush=True),
        )  # fmt: skip
        notes = [*found.warnings, *(f"not timed: {peer}: {why}" for peer, why in found.absent.items())]
        command = f"python benchmarks/serving.py {name}"
        store(f"serving-{name}", f"Speed: {job.title}", command, [row_of(row) for row in found.rows], notes)
        (RUNS / "serving").mkdir(parents=True, exist_ok=True)
        found.save(RUNS / f"serving/{name}.json")
        print(json.dumps(found.machine, indent=1), file=sys.stderr)


if __name__ == "__main__":
    main()
