"""Products in integers where every text is as long as the others, so that nobody pads: 128 and 384 tokens, two shapes of model.

    python benchmarks/lengths.py [SHAPE-LENGTH ...]    # minilm-128 minilm-384 base-128 base-384; all if none is named

MiniLM is the shared model; ``base`` has BERT-base's shape and random weights, which suffice for a clock. Texts are SST-2
sentences one after the other, cut by the tokenizer's own limit. Wants the extras ``onnx`` and ``openvino`` and a quiet machine.
"""

import argparse
import csv
import os
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

sys.path.insert(0, str(Path(__file__).parent))
from serving import row_of
from tables import store

import sparsam
from sparsam.artifact import load_dense
from sparsam.compress import compress
from sparsam.quantization.int8 import Int8
from sparsam.task import Task

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared"))
RUNS = Path("runs/lengths")
MINILM = SHARED / "models/minilm-sst2"
PEERS = ("eager-fp32", "packed-bf16", "onnxruntime-int8", "openvino-int8")
JOBS = {
    "minilm-128": (128, 32, 128),
    "minilm-384": (384, 8, 48),
    "base-128": (128, 32, 64),
    "base-384": (384, 8, 24),
}
"""Tokens, rows of a batch, rows that are timed."""
TITLES = {"minilm": "MiniLM", "base": "BERT-base's shape, random weights"}


def data() -> Path:
    """A task of long texts."""
    folder = RUNS / "data"
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    train = Task.load(str(SHARED / "data/sst2")).train
    assert train is not None
    read = train.take(np.arange(24_000))
    assert read.texts is not None
    rows = [(" ".join(read.texts[at : at + 60]), int(read.labels[at])) for at in range(0, 24_000, 60)]
    for name, part in (("train", rows[:200]), ("validation", rows[200:])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("sentence", "label"), *part])
    return folder


def dense(shape: str, length: int) -> Path:
    """The dense checkpoint whose tokenizer cuts at ``length``."""
    folder = RUNS / f"{shape}-{length}"
    if folder.exists():
        return folder
    tokenizer = AutoTokenizer.from_pretrained(MINILM, model_max_length=length)
    if shape == "base":
        torch.manual_seed(0)
        model = BertForSequenceClassification(BertConfig(num_labels=2))
    else:
        model = load_dense(MINILM).model
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    """Race and store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("jobs", nargs="*", metavar="SHAPE-LENGTH", help=f"some of {', '.join(JOBS)}")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    task = Task.load(str(data()))
    for name in args.jobs or JOBS:
        shape = name.split("-")[0]
        length, batch, count = JOBS[name]
        model, folder = dense(shape, length), RUNS / f"{name}-int8"
        if not folder.exists():
            compress(str(model), task, out=folder, methods=[Int8(samples=32)], strict=False)
        found = sparsam.bench(
            [folder], task, baselines=PEERS, dense=model, split="validation", batch=batch, order="arrival", rows=count,
            rounds=args.rounds,
            progress=lambda stage, done, total, said: print(stage, done, total, file=sys.stderr, flush=True),
        )  # fmt: skip
        rows = [row_of(row) for row in found.rows if not row.tokenisation]
        for row in rows:  # random weights and cut texts: scores say nothing
            for key in ("score", "points", "interval"):
                row.pop(key)
        notes = [f"not timed: {peer}: {why}" for peer, why in found.absent.items()]
        title = f"Speed: products in integers, {TITLES[shape]}, {length} tokens each, batches of {batch}"
        store(f"lengths-{name}", title, f"python benchmarks/lengths.py {name}", rows, notes)


if __name__ == "__main__":
    main()
