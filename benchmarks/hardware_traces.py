"""What recording a run takes, and how near the recorded operands are to what the model multiplied.

    python benchmarks/hardware_traces.py           # needs the shared folder (SPARSAM_SHARED, or ../shared) for MiniLM on SST-2

BERT-base and ResNet-50 have random weights: time, size and memory depend on shapes alone. Each case runs in a process of its
own, so that the peak of its memory is its own. Best of three runs.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import store

import sparsam
from sparsam.compress import open_model
from sparsam.compress.tracing import trace
from sparsam.runtime.record import record
from sparsam.task import Task
from sparsam.workload import Gemm, Workload

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared"))
CASES = ("BERT-base, 384 tokens", "BERT-base, 384 tokens, a training step", "ResNet-50, one image")
RUNS = 3


def model_of(case: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """The model of a case and its batch."""
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        ResNetConfig,
        ResNetForImageClassification,
    )

    torch.manual_seed(0)
    if case.startswith("ResNet"):
        return ResNetForImageClassification(ResNetConfig()).eval(), {
            "pixel_values": torch.randn(1, 3, 224, 224)
        }
    model = sparsam.lift(BertForSequenceClassification(BertConfig()).eval())
    batch = {
        "input_ids": torch.randint(0, 1000, (1, 384)),
        "attention_mask": torch.ones(1, 384, dtype=torch.long),
    }
    return model, batch | ({"labels": torch.tensor([1])} if "training" in case else {})


def measure(case: str, folder: Path) -> dict[str, Any]:
    """Seconds, layers, bytes and memory of one case."""
    torch.set_num_threads(1)
    model, batch = model_of(case)
    training, alone, recorded, read = "training" in case, [], [], []
    for _ in range(RUNS):
        start = time.perf_counter()
        with torch.set_grad_enabled(training):
            out = model(**batch)
            if training:
                out.loss.backward()
        alone.append(time.perf_counter() - start)
    model.zero_grad()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(RUNS):
        start = time.perf_counter()
        found = record(model, [batch], folder, train=training)
        recorded.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(RUNS):
        start = time.perf_counter()
        for _layer in found:
            pass
        read.append(time.perf_counter() - start)
    size = sum(file.stat().st_size for file in folder.iterdir())
    return {
        "run": case, "format": found.facts["format"], "alone, s": round(min(alone), 2),
        "recorded, s": round(min(recorded), 2), "read, s": round(min(read), 2), "layers": len(found),
        "folder, MB": round(size / 1e6, 1), "more memory at the peak, MB": round((peak - before) / 1e3, 1),
    }  # fmt: skip


def nearness(folder: Path) -> list[dict[str, Any]]:
    """MiniLM on SST-2: signal-to-noise ratios of recorded products, and shares of numbers that are not zero."""
    task, rows = Task.load(str(SHARED / "data/sst2")), []
    for format in ("int8", "bf16"):
        opened = open_model(str(SHARED / "models/minilm-sst2"), task)
        seen: dict[str, torch.Tensor] = {}
        for name, part in opened.model.named_modules():
            if isinstance(part, torch.nn.Linear):
                part.register_forward_hook(
                    lambda module, args, out, name=name, seen=seen: seen.__setitem__(
                        name, (out - module.bias).detach()
                    )
                )
        made = trace(opened, task, folder / format, rows=8, format=format)
        ratios, reads = {}, []
        for one in Workload.load(folder / format):
            if isinstance(one, Gemm):
                wanted = seen[one.name].numpy()
                missed = one.a.real() @ one.b.real().T - wanted
                ratios[one.name] = 10 * np.log10(np.mean(wanted**2) / np.mean(missed**2))
                if one.name.endswith(".output.dense") and "attention" not in one.name:
                    reads.append(round(100 * one.a.density, 1))
        share = {part.kind: 100 * part.flowing for part in made.parts}
        rows.append(
            {
                "format": format, "tokens": made.facts["tokens"], "SQNR, least, dB": round(float(min(ratios.values())), 1),
                "median, dB": round(float(np.median(list(ratios.values()))), 1),
                "not zero of what flows into linear layers, %": round(share["gemm"], 2),
                "of what `down` reads, layer by layer, %": reads, "folder, MB": round(made.size_bytes / 1e6, 1),
            }
        )  # fmt: skip
    return rows


def main() -> None:
    """All cases, and the table of nearness."""
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for number, case in enumerate(CASES):
            folder = str(Path(place) / str(number))
            done = subprocess.run(
                [sys.executable, __file__, case, folder], capture_output=True, text=True, check=True
            )
            rows.append(json.loads(done.stdout.splitlines()[-1]))
        store(
            "hardware-traces", "Recording a run", "python benchmarks/hardware_traces.py", rows,
            ["one thread; best of three; under load"],
        )  # fmt: skip
        store(
            "hardware-traces-nearness", "A trace beside its run: MiniLM on 8 rows of SST-2",
            "python benchmarks/hardware_traces.py", nearness(Path(place)),
            ["SQNR: the recorded product beside the module's output in float32, without its bias, over all linear layers"],
        )  # fmt: skip


if __name__ == "__main__":
    main()
