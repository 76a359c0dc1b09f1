"""Tracking beside other tools that record where results came from: seconds, events and bytes on the same workflows.

    python -m venv --system-site-packages peers && peers/bin/pip install mlflow-skinny flowcept noworkflow
    python benchmarks/provenance_peers.py peers/bin

Each tool records a program of its own process: MLflow a run for each part with its settings and results, Flowcept (without
services, JSON lines) a task for each part, noWorkflow the whole script as it does by default, sparsam whatever files are
touched. ProvLake's client is not offered for this Python. Times are those of the workflow within its process, warmed up by one
pass; tools in turn, ratios within a round.
"""

import inspect
import json
import os
import shutil
import site
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import provenance as workflows
from tables import store

import sparsam.provenance as records

HERE = Path(__file__).resolve().parent
SHARED = workflows.SHARED
ROUNDS = int(os.environ.get("ROUNDS", "7"))
PATIENCE = int(os.environ.get("PATIENCE", "60"))
"""Seconds for a process; four times as long for fine-tuning."""
BESIDE = f"; beside {os.environ['BESIDE']}" if os.environ.get("BESIDE") else ""
"""What else ran on the machine, for the notes of the table."""

HEAD = """
import json, os, sys, time
import numpy as np
BLOCK = np.random.default_rng(0).normal(size=(512, 1024)).astype(np.float32)
from pathlib import Path
SHARED = Path({shared!r})
"""

TOOLS = {
    "none": """
import contextlib
class provenance:
    scope = staticmethod(lambda name: contextlib.nullcontext())
    record_metric = staticmethod(lambda name, value: None)
def told(work): work()
""",
    "sparsam": "import sparsam.provenance as provenance\ndef told(work): work()\n",
    "MLflow": """
import warnings, logging; warnings.simplefilter("ignore"); logging.disable(logging.WARNING)
import mlflow
mlflow.set_tracking_uri("file:" + os.path.abspath("mlruns"))
class provenance:
    @staticmethod
    def scope(name):
        made = mlflow.start_run(run_name=name, nested=True)
        mlflow.log_param("part", name)
        return made
    record_metric = staticmethod(mlflow.log_metric)
def told(work):
    with mlflow.start_run():
        mlflow.log_param("folder", os.getcwd())
        work()
""",
    "Flowcept": """
from flowcept import Flowcept, FlowceptTask
class provenance:
    @staticmethod
    def scope(name): return FlowceptTask(activity_id=name, used={"part": name})
    @staticmethod
    def record_metric(name, value):
        FlowceptTask(activity_id=name, used={"name": name}, generated={"value": value})
def told(work):
    with Flowcept(workflow_name="benchmark", start_persistence=False, check_safe_stops=False,
                  delete_buffer_file=False): work()
""",
}
TOOLS["noWorkflow"] = TOOLS["none"]
TAIL = """
told(WORK)
seconds = []
for _ in range(REPEATS):
    started = time.perf_counter(), time.process_time()
    told(WORK)
    seconds.append((time.perf_counter() - started[0], time.process_time() - started[1]))
Path("seconds").write_text(json.dumps(seconds))
"""


def written(place: Path, tool: str, work: str, repeats: int) -> Path:
    """The script that one tool records."""
    needs = {
        "convert": "import h5py\n",
        "search": "import pyarrow.parquet, torch\nfrom torch import nn\ntorch.set_num_threads(1)\n",
        "train": "import torch\nfrom torch import nn\ntorch.set_num_threads(1)\n",
        "finetune": "import torch\ntorch.set_num_threads(1)\n",
    }[work]
    function = getattr(workflows, work)
    call = "lambda: convert(1)" if work == "convert" else work
    text = HEAD.format(shared=str(SHARED)) + needs + TOOLS[tool] + inspect.getsource(function)
    script = place / "script.py"
    script.write_text(text + TAIL.replace("WORK", call).replace("REPEATS", str(repeats)))
    return script


def run(place: Path, tool: str, work: str, repeats: int, folder: Path) -> dict[str, Any]:
    """One process: seconds of the workflow, of all, and what was recorded."""
    place.mkdir()
    written(place, tool, work, repeats)
    python = str(folder / "python")
    command = {
        "sparsam": [sys.executable, "-m", "sparsam", "track", "--hash", "none", "--", python, "script.py"],
        "noWorkflow": [str(folder / "now"), "run", "script.py"],
    }.get(tool, [python, "script.py"])
    theirs = folder.parent / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    libraries = os.pathsep.join(
        map(str, [HERE.parent, theirs, *site.getsitepackages()])
    )  # one torch for all of them
    extra = {"PYTHONPATH": libraries, "OMP_NUM_THREADS": "1", "MLFLOW_ALLOW_FILE_STORE": "true"}
    started = time.perf_counter()
    limit = PATIENCE * (4 if work == "finetune" else 1)
    env = os.environ | extra
    try:
        done = subprocess.run(
            command, cwd=place, env=env, capture_output=True, text=True, check=False, timeout=limit
        )
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{tool} on {work}: not ended after {limit} s") from None
    whole = time.perf_counter() - started
    if not (place / "seconds").exists():
        raise SystemExit(f"{tool} on {work}: {(done.stderr + done.stdout)[-2000:]}")
    seconds, busy = map(statistics.median, zip(*json.loads((place / "seconds").read_text()), strict=True))
    events, size = recorded(place, tool)
    shutil.rmtree(place)
    return {"seconds": seconds, "busy": busy, "whole": whole, "events": events, "bytes": size}


def recorded(place: Path, tool: str) -> tuple[int, int]:
    """How many things a tool has noted, and in how many bytes."""

    def size(*names: str) -> int:
        every = [x for name in names for x in [place / name, *(place / name).rglob("*")]]
        return sum(x.stat().st_size for x in every if x.is_file())

    if tool == "sparsam":
        (run_folder,) = (place / ".sparsam/runs").iterdir()
        return len(records.read_all(run_folder).records), size(".sparsam/runs")
    if tool == "MLflow":
        notes = [
            x for x in (place / "mlruns").rglob("*") if x.is_file() and x.parent.name in ("params", "tags")
        ]
        lines = [x.read_text().count("\n") for x in (place / "mlruns").rglob("metrics/*")]
        return len(notes) + sum(lines), size("mlruns")
    if tool == "Flowcept":
        return (place / "flowcept_buffer.jsonl").read_text().count("\n"), size("flowcept_buffer.jsonl")
    if tool == "noWorkflow":
        base = sqlite3.connect(place / ".noworkflow" / "db.sqlite")
        count = sum(
            base.execute(f"select count(*) from {table}").fetchone()[0]
            for table in ("evaluation", "activation", "file_access", "dependency")
        )
        base.close()
        return count, size(".noworkflow")
    return 0, 0


def main() -> None:
    """All tools on all workflows, in turn."""
    folder = Path(sys.argv[1]).resolve()
    only = sys.argv[2:] or ["convert", "search", "train", "finetune"]
    names = {
        "convert": "conversion and analyses (DASSA-like), 2 MiB", "search": "three settings (Top-Reco-like)",
        "train": "training with checkpoints (Megatron-like)", "finetune": "MiniLM fine-tuning, 24 steps",
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for work in only:
        repeats, rounds = (1, 2) if work == "finetune" else (5, ROUNDS)
        found: dict[str, list[dict[str, Any]]] = {tool: [] for tool in TOOLS}
        with tempfile.TemporaryDirectory() as place:
            for turn in range(rounds):
                order = list(TOOLS) if turn % 2 == 0 else list(TOOLS)[::-1]
                for tool in order:
                    if tool not in failed:
                        try:
                            found[tool].append(
                                run(Path(place) / f"{tool}-{turn}", tool, work, repeats, folder)
                            )
                        except SystemExit as error:
                            print(error, file=sys.stderr)
                            failed[tool] = "not ended" if "not ended" in str(error) else "does not run"
        for tool, all_of in found.items():
            base = found["none"]
            if len(all_of) < len(base):
                rows.append({"workflow": names[work], "tool": tool, "within, ms": failed[tool]})
                continue
            ratios = sorted(x["seconds"] / y["seconds"] for x, y in zip(all_of, base, strict=True))
            busy = statistics.median(x["busy"] / y["busy"] for x, y in zip(all_of, base, strict=True))
            more = statistics.median(x["whole"] - y["whole"] for x, y in zip(all_of, base, strict=True))
            events, size = all_of[-1]["events"], all_of[-1]["bytes"]
            rows.append({
                "workflow": names[work], "tool": tool,
                "within, ms": round(1e3 * statistics.median(x["seconds"] for x in all_of), 1),
                "overhead": "" if tool == "none" else f"{100 * (statistics.median(ratios) - 1):+.1f} %",
                "least and largest": "" if tool == "none" else " to ".join(f"{100 * (ratios[x] - 1):+.1f} %" for x in (0, -1)),
                "processor time": "" if tool == "none" else f"{100 * (busy - 1):+.1f} %",
                "whole process, s more": "" if tool == "none" else round(more, 2),
                "events": events or "", "bytes": size or "", "bytes an event": round(size / events) if events else "",
            })  # fmt: skip
            print(rows[-1], flush=True)
        tell(rows)


def tell(rows: list[dict[str, Any]]) -> None:
    """The table so far."""
    notes = [
        f"{ROUNDS} rounds (2 of fine-tuning), tools in turn, the order changing; one thread{BESIDE}",
        "within: median pass of the workflow in a process that made one before; events and bytes: of all passes of a process",
        "events: records (sparsam), parameters, tags and metric values (MLflow), lines (Flowcept), "
        "evaluations, activations, file accesses and dependencies (noWorkflow)",
        "ProvLake's client: no distribution for this Python in the registry",
        f"not ended: a process took more than {PATIENCE} s (four times as long for fine-tuning); it is not tried again",
    ]
    here = os.getcwd()
    os.chdir(HERE.parent)
    store(
        "provenance-peers",
        "Tracking beside other tools",
        "python benchmarks/provenance_peers.py peers/bin",
        rows,
        notes,
    )
    os.chdir(here)


if __name__ == "__main__":
    main()
