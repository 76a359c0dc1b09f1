"""What tracking costs: workflows with and without it, in turn in one process; an event; a program's start; a storm of opens.

    python benchmarks/provenance.py          # two minutes; wants a quiet machine

The workflows are small forms of those that PROV-IO was measured on: conversion and analysis of acoustic sensing data in HDF5
(DASSA), training with several settings on a table of physics (Top Reco; here the telescope data of the shared folder),
the write-read, write-overwrite-read and write-append-read kernels of H5bench, and a transformer trained with checkpoints
(Megatron-LM).
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import h5py
import numpy as np
import pyarrow.parquet
import torch
from tables import store
from torch import nn

import sparsam.provenance as provenance
from sparsam.provenance.capture import native
from sparsam.provenance.capture.start import environment
from sparsam.provenance.tracking import Selection
from sparsam.provenance.writer import Writer

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared")).resolve()
ROUNDS = int(os.environ.get("ROUNDS", "41"))
BLOCK = np.random.default_rng(0).normal(size=(512, 1024)).astype(np.float32)  # 2 MiB


def convert(times: int) -> None:
    """Raw recordings of so many times 2 MiB to HDF5, then four analyses of each."""
    block = np.concatenate([BLOCK] * times)
    for at in range(6):
        block.tofile(f"raw{at}.bin")
    for at in range(6):
        with provenance.scope(f"recording {at}"):
            data = np.fromfile(f"raw{at}.bin", np.float32).reshape(block.shape)
            with h5py.File(f"rec{at}.h5", "w") as file:
                file.create_dataset("das", data=data).attrs["rate"] = 500
            with h5py.File(f"rec{at}.h5", "r") as file, h5py.File(f"out{at}.h5", "w") as out:
                values = file["das"][:]
                out["spectrum"] = np.abs(np.fft.rfft(values, axis=1)).mean(0)
                out["mean"], out["std"], out["max"] = values.mean(1), values.std(1), values.max(1)


def search() -> None:
    """A small network with three settings on the telescope's table."""
    table = pyarrow.parquet.read_table(SHARED / "data/science/magic_gamma.parquet")
    columns = [table[name].to_numpy() for name in table.column_names]
    numbers = [x for x in columns if x.dtype.kind == "f"]
    x = torch.tensor(np.stack(numbers, 1), dtype=torch.float32)
    x = (x - x.mean(0)) / x.std(0)
    kinds, codes = np.unique(next(x for x in columns if x.dtype.kind != "f"), return_inverse=True)
    y = torch.tensor(codes).long()
    for rate in (0.001, 0.003, 0.01):
        with provenance.scope(f"rate {rate}"):
            torch.manual_seed(0)
            net = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, len(kinds)))
            optimizer = torch.optim.Adam(net.parameters(), rate)
            for _ in range(3):
                for at in range(0, len(x), 256):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(net(x[at : at + 256]), y[at : at + 256]).backward()
                    optimizer.step()
                provenance.record_metric("accuracy", float((net(x).argmax(1) == y).float().mean()))
            torch.save(net.state_dict(), f"net-{rate}.pt")


def kernel(second: str) -> None:
    """H5bench: eight datasets of 4 MiB written, overwritten or appended to, and read."""
    block = np.concatenate([BLOCK, BLOCK])
    with h5py.File("bench.h5", "w") as file:
        for at in range(8):
            file.create_dataset(f"d{at}", data=block, maxshape=(None, block.shape[1]), chunks=(256, 1024))
    if second:
        with h5py.File("bench.h5", "r+") as file:
            for at in range(8):
                if second == "append":
                    file[f"d{at}"].resize(2 * len(block), 0)
                    file[f"d{at}"][len(block) :] = block
                else:
                    file[f"d{at}"][:] = block
    with h5py.File("bench.h5", "r") as file:
        for at in range(8):
            file[f"d{at}"][:]


def train() -> None:
    """A transformer trained for 24 steps, a checkpoint every six, and gone on from the last."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    optimizer = torch.optim.Adam(model.parameters())
    x = torch.randn(8, 64, 128)
    for step in range(24):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        if step % 6 == 5:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "checkpoint.pt")
    model.load_state_dict(torch.load("checkpoint.pt", weights_only=True)["model"])


def finetune() -> None:
    """MiniLM on SST-2: 24 steps of four sentences, and the model saved."""
    import pyarrow.parquet
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    place = SHARED / "models/minilm-sst2"
    with provenance.scope("fine-tuning"):
        table = pyarrow.parquet.read_table(SHARED / "data/sst2/train.parquet").slice(0, 96)
        column = next(
            name for name in table.column_names if name != "label" and table[name].type == pyarrow.string()
        )
        words = AutoTokenizer.from_pretrained(place)(
            table[column].to_pylist(),
            padding="max_length",
            truncation=True,
            max_length=32,
            return_tensors="pt",
        )
        labels = torch.tensor(table["label"].to_pylist())
        model = AutoModelForSequenceClassification.from_pretrained(place, dtype=torch.float32)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
        for at in range(0, 96, 4):
            optimizer.zero_grad()
            ids, mask = words["input_ids"][at : at + 4], words["attention_mask"][at : at + 4]
            loss = model(input_ids=ids, attention_mask=mask, labels=labels[at : at + 4]).loss
            loss.backward()
            optimizer.step()
            provenance.record_metric("loss", float(loss))
        model.save_pretrained("tuned")


def storm() -> None:
    """Ten thousand opens, reads and closes of tiny files."""
    for at in range(10_000):
        with open(f"tiny{at % 10}") as file:
            file.read()


def timed(work: Callable[[], Any]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def busy(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and seconds of the processor."""
    started = time.process_time()
    return timed(work), time.process_time() - started


def paired(
    work: Callable[[], None], selection: Selection | None = None, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Medians with and without, their ratio round by round, and what a run's log holds."""
    off: list[tuple[float, float]] = []
    on: list[tuple[float, float]] = []
    events, size = 0, 0
    work()
    for turn in range(rounds):
        for tracked in (turn % 2 == 0, turn % 2 == 1):
            if not tracked:
                off.append(busy(work))
                continue
            with provenance.run(f"r{turn}", selection=selection) as tracker:
                on.append(busy(work))
            log = Path(tracker.log.path)
            size, events = log.stat().st_size, len(provenance.read_all(log.parent).records)
            shutil.rmtree(log.parent)
    ratios = sorted(b[0] / a[0] for a, b in zip(off, on, strict=True))
    processor = statistics.median(b[1] / a[1] for a, b in zip(off, on, strict=True))
    return {
        "off, ms": round(1e3 * statistics.median(x[0] for x in off), 1),
        "on, ms": round(1e3 * statistics.median(x[0] for x in on), 1),
        "overhead": f"{100 * (statistics.median(ratios) - 1):+.1f} %",
        "processor time": f"{100 * (processor - 1):+.1f} %",
        "least and largest": f"{100 * (ratios[0] - 1):+.1f} to {100 * (ratios[-1] - 1):+.1f} %",
        "events": events, "bytes an event": round(size / max(events, 1)),
    }  # fmt: skip


STORM = """
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
    char name[20], byte;
    for (int at = 0; at < 10000; at++) {
        sprintf(name, "tiny%d", at % 10);
        int fd = open(name, O_RDONLY);
        if (read(fd, &byte, 1) != 1 || close(fd)) return 1;
    }
    return 0;
}
"""


def starts(place: str) -> list[dict[str, Any]]:
    """Programs with and without: an interpreter that does nothing, another program that does nothing, one that opens files."""
    base = os.path.join(place, ".sparsam")
    plain = environment(base, "starts", Selection(), Writer("host", 1, 1))
    seen = plain | environment(base, "starts", Selection(), Writer("host", 1, 1), native.library(base))
    os.makedirs(os.path.join(base, "runs", "starts"), exist_ok=True)
    Path("storm.c").write_text(STORM)
    subprocess.run(["cc", "-O2", "storm.c", "-o", "storm"], check=True)
    interpreter = [sys.executable, "-c", "pass"]
    rows = []
    for what, command, told in (
        ("start of an interpreter", interpreter, plain), ("the same, seen from C as well", interpreter, seen),
        ("start of /bin/true, seen from C", ["/bin/true"], seen), ("10,000 opens of tiny files in C", ["./storm"], seen),
    ):  # fmt: skip
        off, on = [], []
        for _ in range(ROUNDS):
            for times, known in ((off, dict(os.environ)), (on, os.environ | told)):
                times.append(timed(lambda c=command, k=known: subprocess.run(c, env=k, check=True)))
        a, b = statistics.median(off), statistics.median(on)
        rows.append(
            {
                "what": what,
                "off, ms": round(1e3 * a, 1),
                "on, ms": round(1e3 * b, 1),
                "overhead": f"{1e3 * (b - a):.1f} ms",
            }
        )
    return rows


def main() -> None:
    """All of it, in a folder that is thrown away."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        for at in range(10):
            Path(f"tiny{at}").write_text("x")
        works: dict[str, Callable[[], None]] = {
            "conversion and analyses (DASSA-like), 2 MiB a recording": lambda: convert(1),
            "the same, 16 MiB a recording": lambda: convert(8), "write, read (H5bench)": lambda: kernel(""),
            "write, overwrite, read (H5bench)": lambda: kernel("overwrite"),
            "write, append, read (H5bench)": lambda: kernel("append"), "three settings (Top-Reco-like)": search,
            "training with checkpoints (Megatron-like)": train, "10,000 opens of tiny files": storm,
        }  # fmt: skip
        rows = [{"what": name} | paired(work) for name, work in works.items()]
        rows.append({"what": "MiniLM fine-tuning, 24 steps"} | paired(finetune, rounds=ROUNDS // 4))
        rows.append({"what": "these opens, one in 100 recorded"} | paired(storm, Selection(every=100)))
        rows += starts(place)
        with provenance.run("events") as tracker:
            costs = [
                timed(lambda: tracker.log.add("open", handle=1, path="/data/x", mode="r", size=10))
                for _ in range(20_000)
            ]
        rows.append({"what": "an event, buffered", "on, ms": round(1e3 * statistics.median(costs), 4)})
    os.chdir(Path(__file__).parent.parent)
    notes = [
        f"{ROUNDS} rounds, with and without in turn, the order changing; one process, one thread; ratios within a round"
    ]
    store("provenance-overhead", "What tracking costs", "python benchmarks/provenance.py", rows, notes)


if __name__ == "__main__":
    main()
