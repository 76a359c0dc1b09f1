"""I-BERT on MiniLM and SST-2: what integers alone answer, which functions cost accuracy, and how fast they are.

    python benchmarks/ibert.py accuracy      # nothing trained; each arithmetic and range, in machine code
    python benchmarks/ibert.py ladder        # which function costs what, simulated on 256 training sentences
    python benchmarks/ibert.py trained 1     # an epoch (or a share of one) with everything rounded
    python benchmarks/ibert.py glue ENCODER  # MRPC, STS-B and RTE: a pretrained encoder fine-tuned, then in integers
    python benchmarks/ibert.py speed         # beside the packed dense model in float32 and bfloat16, in turn in one process

Choices (range, arithmetic) are made by the divergence on training sentences that calibration did not look at; validation and
test have no say.
"""

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
import torch
from tables import store
from trained_here import show

import sparsam
from sparsam.compress import finetune, open_model, predict
from sparsam.compress.ibert_run import IntegerOnlyMethod, batches_of, integer_only, sequences_of
from sparsam.compress.opening import feed_of, split_of
from sparsam.compress.token_run import lengths_of_use
from sparsam.measure import metric_interval, paired_difference
from sparsam.models.integer_only import parts_of
from sparsam.quantization.int8 import RANGES
from sparsam.quantization.integer_only import IBert
from sparsam.quantization.rounded_encoder import LADDER, RoundedEncoder, found_scales
from sparsam.runtime import Batch, freeze
from sparsam.runtime.ends import head_of
from sparsam.task import Task
from sparsam.training.feed import Feed, by_length, matched_rows
from sparsam.training.loop import Settings

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared"))
SPLITS = ("validation", "test")
RUNS = Path("runs/glue")
HELD_OUT = 512
ROUNDS = 7


class Sentences:
    """The dense checkpoint and its rows."""

    def __init__(self, splits: tuple[str, ...] = SPLITS) -> None:
        self.task, self.dense = Task.load(str(SHARED / "data/sst2")), str(SHARED / "models/minilm-sst2")
        one = self.model()
        self.feeds = {name: feed_of(one, split_of(self.task, name), True) for name in ("train", *splits)}
        self.train = self.feeds["train"]
        self.wanted = lengths_of_use(one, self.task, self.train, True)
        drawn = matched_rows(self.train.lengths, self.wanted, 2 * HELD_OUT, 1234)
        self.held_out = np.setdiff1d(drawn, matched_rows(self.train.lengths, self.wanted, 512, 0))[:HELD_OUT]
        self.frozen_dense = freeze(one.model, dtype="float32")
        self.dense_answers = self.logits(self.frozen_dense, self.train, self.held_out)
        self.dense_said: dict[str, np.ndarray] = {}

    def model(self) -> Any:
        return open_model(self.dense, self.task)

    def logits(self, frozen: Any, feed: Feed, rows: np.ndarray) -> torch.Tensor:
        """Logits of rows, in their order."""
        found = torch.zeros(len(rows), 2)
        for group in by_length(feed.lengths[rows], 4096):
            batch = feed.collate(rows[group])
            living = batch["attention_mask"].bool()
            found[torch.from_numpy(group)] = frozen.logits(Batch(batch["input_ids"][living], living.sum(1)))
        return found

    def said(self, frozen: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Answers on a split, and its labels."""
        feed = self.feeds[split]
        rows = np.arange(len(feed))
        labels = torch.cat([feed.collate(rows[at : at + 512])["labels"] for at in range(0, len(rows), 512)])
        return self.logits(frozen, feed, rows).argmax(1).numpy(), labels.numpy()

    def divergence(self, answers: torch.Tensor) -> float:
        """KL of answers on the held-out rows from the dense model's, 1e-4."""
        ours, dense = answers.log_softmax(1), self.dense_answers.log_softmax(1)
        return 1e4 * float((dense.exp() * (dense - ours)).sum(1).mean())


def facts(data: Sentences, name: str, frozen: Any, **more: Any) -> dict[str, Any]:
    """A row of a table of accuracies."""
    divergence = data.divergence(data.logits(frozen, data.train, data.held_out))
    found = {split: data.said(frozen, split) for split in SPLITS}
    if not data.dense_said:
        data.dense_said = {split: data.said(data.frozen_dense, split)[0] for split in SPLITS}
    before = np.concatenate([data.dense_said[split] for split in SPLITS])
    after, labels = (np.concatenate([found[split][k] for split in SPLITS]) for k in (0, 1))
    points = paired_difference("accuracy", before, after, labels)
    return {
        "model": name, **more, "KL 1e-4": round(divergence, 1),
        **{split: int((said == right).sum()) for split, (said, right) in found.items()},
        "points": f"{points.value:+.2f} [{points.low:+.2f}, {points.high:+.2f}]",
    }  # fmt: skip


def accuracy() -> None:
    """Each arithmetic with percentiles, and the default one with each range."""
    data = Sentences()
    rows = [facts(data, "dense, float32", data.frozen_dense, range="")]
    settings = [(IBert(), name) for name in ("percentile", "mse", "minmax")]
    settings += [
        (one, "percentile") for one in (IBert("polynomial"), IBert("table", 8), IBert("table", 15, 8))
    ]
    settings += [(IBert("polynomial", 8, 8), "percentile")]
    for arithmetic, name in settings:
        one = data.model()
        integer_only(one.model, data.train, IntegerOnlyMethod(arithmetic, name), wanted=data.wanted)
        said = f"{arithmetic.activation}, probabilities {arithmetic.probabilities}, residual {arithmetic.residual}"
        rows.append(facts(data, said, freeze(one.model), range=name))
    title = "I-BERT: MiniLM on SST-2 in integers alone, nothing trained; right of 872 and of 1,821; points of both"
    store("ibert-accuracy", title, "python benchmarks/ibert.py accuracy", rows)


def ladder() -> None:
    """Which function costs what: the simulation with some of them in floating point."""
    data = Sentences(())
    one = data.model()
    sparsam.lift(one.model)
    parts, rows = parts_of(one.model), []
    calibration = matched_rows(data.train.lengths, data.wanted, 512, 0)
    batch = sequences_of(data.train.collate(data.held_out[:256]), 0)
    dense = data.dense_answers[:256].log_softmax(1)
    head: Any = head_of(one.model)
    for arithmetic in (IBert("polynomial"), IBert("polynomial", 8, 8)):
        seen = batches_of(data.train, calibration, 0)
        scales = found_scales(parts, seen, arithmetic, RANGES["percentile"], alone=True)
        found = {"probabilities": arithmetic.probabilities, "residual": arithmetic.residual}
        for rung in LADDER:
            with torch.no_grad():
                states = RoundedEncoder(parts, scales, arithmetic, rung).run(batch, alone=True).float()
                ours = head(one.model, states[:, None]).log_softmax(1)
            found[rung] = round(1e4 * float((dense.exp() * (dense - ours)).sum(1).mean()), 1)
        rows.append(found)
    title = "I-BERT: divergence (KL, 1e-4) with one function, or all three, in floating point between its roundings"
    store("ibert-ladder", title, "python benchmarks/ibert.py ladder", rows)


def trained(epochs: float) -> None:
    """A share of an epoch with everything rounded, the dense model teaching."""
    data, rows = Sentences(), []
    for share in (0.0, epochs):
        one, teacher, started = data.model(), sparsam.lift(data.model().model), time.monotonic()
        method = IntegerOnlyMethod(qat_epochs=share, qat_lr=2e-5)
        integer_only(
            one.model, data.train, method, wanted=data.wanted, teacher=teacher, settings=Settings(),
            progress=partial(show, "everything rounded"),
        )  # fmt: skip
        minutes = round((time.monotonic() - started) / 60, 1)
        rows.append(facts(data, "I-BERT", freeze(one.model), epochs=share, minutes=minutes))
    title = (
        "I-BERT: MiniLM on SST-2, trained with everything rounded; right of 872 and of 1,821; points of both"
    )
    store("ibert-trained", title, f"python benchmarks/ibert.py trained {epochs:g}", rows)


def glue(encoder: str) -> None:
    """Pairs of texts and a score: fine-tuned here, then in integers alone, and trained with everything rounded."""
    rows = []
    for name in ("mrpc", "stsb", "rte"):
        task, folder = Task.load(str(SHARED / "data" / name)), RUNS / name
        if not (folder / "MANIFEST.json").exists():
            finetune(encoder, task, folder, settings=Settings(epochs=5, lr=7e-5), progress=show)
        dense = open_model(str(folder), task)
        feed = feed_of(dense, split_of(task, "train"), True)
        wanted = lengths_of_use(dense, task, feed, True)
        split = split_of(task, "validation")
        before = predict(dense, split)[0]
        for share in (None, 0.0, 1.0):
            one, after = dense, before
            if share is not None:
                one = open_model(str(folder), task)
                method = IntegerOnlyMethod(qat_epochs=share, qat_lr=2e-5)
                integer_only(
                    one.model, feed, method, wanted=wanted, teacher=sparsam.lift(open_model(str(folder), task).model),
                    settings=Settings(), progress=partial(show, f"{name}, everything rounded"),
                )  # fmt: skip
                after = predict(one, split)[0]
            points = paired_difference(task.metric, before, after, split.labels)
            rows.append(
                {
                    "task": name, "metric": task.metric, "rows": len(split),
                    "model": "float32" if share is None else f"integers, {share:g} epochs of training",
                    "score": round(100 * metric_interval(task.metric, after, split.labels).value, 2),
                    "points": f"{points.value:+.2f} [{points.low:+.2f}, {points.high:+.2f}]",
                }
            )  # fmt: skip
    title = "I-BERT on MRPC, STS-B and RTE (validation): MiniLM in integers alone, as it is and after an epoch of training"
    store("ibert-glue", title, "python benchmarks/ibert.py glue ENCODER", rows)


def speed() -> None:
    """Ratios within a round: the packed dense model's time over the integers'."""
    data, one = Sentences(("validation",)), None
    one = data.model()
    models = {name: freeze(one.model, dtype=name) for name in ("float32", "bfloat16")}
    integer_only(one.model, data.train, wanted=data.wanted)
    models["integers"] = freeze(one.model)
    feed, rows = data.feeds["validation"], []
    order = np.arange(len(feed))
    for name, size, count in (("batches of 32, as they come", 32, 872), ("one sentence", 1, 200)):
        batches = []
        for at in range(0, count, size):
            batch = feed.collate(order[at : at + size])
            living = batch["attention_mask"].bool()
            batches.append(Batch(batch["input_ids"][living], living.sum(1)))
        times: dict[str, list[float]] = {model: [] for model in models}
        for turn in range(ROUNDS + 1):
            for model, frozen in models.items():
                started = time.perf_counter()
                for batch in batches:
                    frozen.logits(batch)
                if turn:
                    times[model].append(time.perf_counter() - started)
        ours = np.array(times["integers"])
        row: dict[str, Any] = {"inputs": name, "sentences a second": round(count / float(np.median(ours)))}
        for base in ("float32", "bfloat16"):
            ratios = np.array(times[base]) / ours
            low, middle, high = np.percentile(ratios, [0, 50, 100])
            row[f"over packed dense, {base}"] = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        rows.append(row)
    title = f"I-BERT in machine code beside the packed dense model, MiniLM on SST-2, {torch.get_num_threads()} thread(s)"
    notes = [f"medians, least and largest of {ROUNDS} ratios, each within a round of one process"]
    store("ibert-speed", title, "python benchmarks/ibert.py speed", rows, notes)


def main() -> None:
    """One part, or all."""
    parts = {"accuracy": accuracy, "ladder": ladder, "speed": speed}
    asked = sys.argv[1:] or list(parts)
    if asked[0] == "trained":
        trained(float(asked[1]) if len(asked) > 1 else 0.1)
        return
    if asked[0] == "glue":
        glue(asked[1])
        return
    for name in asked:
        parts[name]()


if __name__ == "__main__":
    main()
