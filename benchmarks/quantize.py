"""All schemes of ``sparsam quantize`` beside each other: MiniLM on SST-2, validation and test, nothing trained.

    python benchmarks/quantize.py                    # all, and the table: half an hour on one core
    python benchmarks/quantize.py gptq-4 gptq-3      # make and measure some of them; the table holds what was measured so far

What is there already is not made again. From a dense checkpoint of one's own one row is

    sparsam quantize DENSE --task TASK --scheme gptq --bits 4 --out DIR
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
from tables import store

from sparsam import artifact
from sparsam.compress import Opened, open_model, predict, weight_bytes
from sparsam.compress.opening import split_of
from sparsam.compress.quantize_run import Asked, QuantizeRun
from sparsam.measure import paired_difference
from sparsam.quantization.schemes import SCHEMES
from sparsam.task import Task
from sparsam.task.classes import answers

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared"))
RUNS = Path("runs/quantize")
SPLITS = ("validation", "test")

JOBS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "uniform-8": ("uniform", 8, {}),
    "uniform-4": ("uniform", 4, {}),
    "uniform-4-corrected": ("uniform", 4, {"correct": True}),
    "affine-4": ("affine", 4, {}),
    "groups-4-of-128": ("groups", 4, {"group": 128}),
    "groups-4-of-64": ("groups", 4, {"group": 64}),
    "groups-4-of-32": ("groups", 4, {"group": 32}),
    "gptq-4": ("gptq", 4, {}),
    "gptq-4-of-64": ("gptq", 4, {"group": 64}),
    "adaround-4": ("adaround", 4, {}),
    "power-of-two-4": ("power-of-two", 4, {}),
    "additive-powers-4": ("additive-powers", 4, {}),
    "normal-float-4": ("normal-float", 4, {}),
    "lloyd-max-4": ("lloyd-max", 4, {}),
    "uniform-3": ("uniform", 3, {}),
    "groups-3-of-64": ("groups", 3, {}),
    "gptq-3": ("gptq", 3, {}),
    "gptq-3-corrected": ("gptq", 3, {"correct": True}),
    "gptq-3-of-64": ("gptq", 3, {"group": 64}),
    "adaround-3": ("adaround", 3, {}),
    "normal-float-3": ("normal-float", 3, {}),
    "lloyd-max-3": ("lloyd-max", 3, {}),
}


def logits_of(opened: Opened, task: Task) -> NDArray[np.float32]:
    """Of all rows of both splits."""
    return np.concatenate([predict(opened, split_of(task, split))[0] for split in SPLITS])


def divergence(dense: NDArray[np.float32], own: NDArray[np.float32]) -> float:
    """Mean KL from the dense model's answers, nats."""
    a, b = (
        x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in (dense.astype(float), own.astype(float))
    )
    return float((np.exp(a) * (a - b)).sum(1).mean())


def measured(name: str, task: Task, dense: Opened) -> dict[str, Any]:
    """A line of the table: made if it is not there, reloaded, asked for all rows."""
    scheme, bits, options = JOBS[name]
    asked, folder = Asked(SCHEMES[scheme], bits, **options), RUNS / name
    if not folder.exists():
        opened = open_model(str(SHARED / "models/minilm-sst2"), task)
        run = QuantizeRun(opened, task, asked)
        run.apply()
        facts = {
            "quantization": asked.to_json() | {"packed_bytes": run.packed_bytes(), "samples": len(run.rows)}
        }
        artifact.save(opened.model.cpu(), folder, processor=opened.processor, facts=facts)
    known = RUNS / "dense.npy"
    if not known.exists():
        np.save(known, logits_of(dense, task))
    wanted, opened = np.load(known), open_model(str(folder), task)
    own, packed = logits_of(opened, task), opened.facts["quantization"]["packed_bytes"]
    labels = np.concatenate([split_of(task, split).labels for split in SPLITS])
    before, after = (answers(x, dense.model.config, task.labels) for x in (wanted, own))
    found = paired_difference("accuracy", before, after, labels)
    return {
        "scheme": scheme, "bits": bits, "group": asked.group or "", "corrected": "yes" if asked.correct else "",
        "runs as": "int8" if asked.runs_in_integers else "simulated",
        "inputs": "8 bits by token" if asked.runs_in_integers else "float",
        "accuracy": f"{100 * (after == labels).mean():.2f}",
        "difference": f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]",
        "lost/won": f"{found.extra['lost']}/{found.extra['won']}",
        "mean KL": f"{divergence(wanted, own):.5f}",
        "MB saved": f"{weight_bytes(opened.model) / 1e6:.2f}", "MB packed": f"{packed / 1e6:.2f}",
    }  # fmt: skip


def main() -> None:
    """Measure what was named, and store what there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "jobs", nargs="*", metavar="JOB", help=f"some of {', '.join(JOBS)}; all if none is named"
    )
    named = parser.parse_args().jobs or list(JOBS)
    RUNS.mkdir(parents=True, exist_ok=True)
    task, dense = Task.load(str(SHARED / "data/sst2")), None
    for name in named:
        line = RUNS / f"{name}.json"
        if not line.exists():
            dense = dense or open_model(str(SHARED / "models/minilm-sst2"), task)
            line.write_text(json.dumps(measured(name, task, dense)))
            print(name, line.read_text(), file=sys.stderr, flush=True)
    rows = [json.loads(line.read_text()) for name in JOBS if (line := RUNS / f"{name}.json").exists()]
    store(
        "quantize",
        "Schemes of quantization: MiniLM on SST-2, validation and test, nothing trained",
        "python benchmarks/quantize.py",
        rows,
        [
            "2,693 rows; differences are paired with the dense model's answers, 95 % intervals; KL from them in nats",
            "words' embeddings (47 MB) stay in float32; 512 calibration rows where any are read",
            "packed: codes of so many bits, scales and levels in float32; only what runs as int8 is saved that way",
        ],
    )


if __name__ == "__main__":
    main()
