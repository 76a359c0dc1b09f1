"""Samples per second of training: stock transformers on padded, length-bucketed batches; packed; LTP's two stages.

    python benchmarks/training_speed.py                # SST-2: short sentences
    python benchmarks/training_speed.py --data imdb    # reviews of up to 512 tokens

MiniLM. The variants take turns in one process, a few steps each, so that a change of the machine's speed meets them
alike; the table holds medians over rounds and the median of the ratios within a round. Precision is bf16 where the machine
computes in it natively, else fp32, for all of them; the table says which.
"""

import argparse
import copy
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForSequenceClassification

sys.path.insert(0, str(Path(__file__).parent))
from tables import store

from sparsam.compress import open_model
from sparsam.models import dense_plan, head_alone, lift, stack_of
from sparsam.task import Task
from sparsam.tokens import LTP
from sparsam.tokens.ltp import ONLY_PROTECTED, token_plan
from sparsam.training.embeddings import touched_rows
from sparsam.training.feed import Feed, answers
from sparsam.training.loop import Settings, Supervised, Trainee, native_bf16
from sparsam.training.tokens import Distillation, HardStage, SoftStage, score_quantiles, solve_scale

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared"))
MODEL = SHARED / "models/minilm-sst2"
SETS = {"sst2": ("SST-2", 64, 8_000), "imdb": ("IMDB", 8, 1_000)}
"""By data set: its name, rows of a padded batch, rows to draw from."""


class Stock(Trainee):
    """transformers as it comes."""

    def __init__(self) -> None:
        super().__init__()
        self.model = AutoModelForSequenceClassification.from_pretrained(MODEL, dtype=torch.float32)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Its own loss."""
        return self.model(**batch).loss, {}


Step = Callable[[dict[str, Tensor]], None]


def stepper(trainee: Trainee, bf16: bool, alive: ExitStack) -> Step:
    """One training step, as the loop takes it; stock's without what the loop adds."""
    trainee.train()
    clean = alive.enter_context(touched_rows(trainee, enabled=not isinstance(trainee, Stock)))
    optimizer = torch.optim.AdamW(trainee.groups(Settings()), lr=2e-5, fused=True)

    def step(batch: dict[str, Tensor]) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, _ = trainee(**batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clean()

    return step


def asker(teacher: torch.nn.Module, bf16: bool) -> Step:
    """The teacher's answers to one batch."""

    def step(batch: dict[str, Tensor]) -> None:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad(), head_alone(teacher), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            teacher(**inputs)

    return step


def rounds(
    feed: Feed, count: int, size: int
) -> Iterator[tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]]:
    """For each round the same rows twice: as padded batches and as packed ones.

    Padded: 8 batches of ``size`` rows of similar length, as transformers' group_by_length makes them out of 50 batches' rows.
    Packed: 8 batches of an equal number of tokens.
    """
    generator = np.random.default_rng(0)
    for _ in range(count):
        pool = generator.permutation(len(feed))[: 50 * size]
        by_length = np.array_split(pool[np.argsort(feed.lengths[pool], kind="stable")], 50)
        chosen = [by_length[i] for i in generator.choice(50, 8, replace=False)]
        rows = np.concatenate(chosen)
        rows = rows[np.argsort(feed.lengths[rows], kind="stable")]
        ends = np.cumsum(feed.lengths[rows])
        cuts = np.searchsorted(ends, ends[-1] * np.arange(1, 8) / 8)
        packed = np.split(rows, cuts)
        order = generator.permutation(8)
        yield [chosen[i] for i in order], [packed[i] for i in order]


def main() -> None:
    """Run the rounds and store the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--data", choices=SETS, default="sst2")
    args = parser.parse_args()
    title, size, drawn = SETS[args.data]
    bf16 = native_bf16(torch.device("cpu"))
    task = Task.load(str(SHARED / "data" / args.data))
    opened = open_model(str(MODEL), task)
    assert task.train is not None
    feed = Feed(task.train.sample(drawn, seed=0), opened.processor, max_length=512)
    teacher = copy.deepcopy(opened.model)

    taught = answers(teacher, feed, np.arange(len(feed)), precision="bf16" if bf16 else "fp32")

    soft_model, hard_model, plain = (copy.deepcopy(opened.model) for _ in range(3))
    method, sample = LTP(), [feed.collate(np.arange(size))]
    first, low, high = score_quantiles(soft_model, stack_of(soft_model), sample, (method.initial, 0.25, 0.75))
    spread = [max(b - a, 1e-3) for a, b in zip(low, high, strict=True)]
    soft = SoftStage(
        soft_model, method.start(first, True, spread), teacher=teacher, distillation=Distillation(), target=0.5, weight=None,
        threshold_lr=5e-3, dropout=method.dropout,
    )  # fmt: skip
    unit = method.relative_to
    at = lambda s: token_plan([*(s * t for t in first[:-1]), ONLY_PROTECTED], relative_to=unit)  # noqa: E731
    calibration = [feed.collate(np.arange(size))]
    lift(hard_model, dense_plan(hard_model))
    hard = HardStage(
        hard_model, at, teacher=teacher, distillation=Distillation(), target=0.5, calibration=calibration,
        steer_every=10**9, dropout=method.dropout,
    )  # fmt: skip
    hard.scale, hard.macs = solve_scale(hard_model, hard.stack, at, calibration, 0.5)
    hard.steer()
    alive = ExitStack()
    stock = "stock transformers, padded, length-bucketed"
    variants = {
        stock: stepper(Stock(), bf16, alive),
        "packed": stepper(Supervised(plain), bf16, alive),
        "LTP soft stage": stepper(soft, bf16, alive),
        "LTP hard stage at 0.5x MACs": stepper(hard, bf16, alive),
        "the teacher's answers, once": asker(teacher, bf16),
    }
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for number, (bucketed, packed) in enumerate(rounds(feed, args.rounds + 1, size)):
        seconds = dict.fromkeys(variants, 0.0)
        for index in range(
            max(len(bucketed), len(packed))
        ):  # turn by turn, so that all meet the same machine
            for name, step in variants.items():
                batches = bucketed if name == stock else packed
                if index >= len(batches):
                    continue
                batch = feed.collate(batches[index])
                if name.startswith("LTP"):
                    batch["taught"] = taught[torch.from_numpy(batches[index])]
                began = time.perf_counter()
                step(batch)
                seconds[name] += time.perf_counter() - began
        if number:  # the first round is a warm-up
            samples = sum(map(len, packed))
            for name in variants:
                rates[name].append(samples / seconds[name])
    epochs = method.soft_epochs + method.hard_epochs
    rates[
        f"LTP, all of it ({method.soft_epochs:g} soft, {method.hard_epochs:g} hard epochs, the answers once)"
    ] = [
        epochs / (method.soft_epochs / a + method.hard_epochs / b + 1 / c)
        for a, b, c in zip(*(rates[name] for name in list(variants)[2:]), strict=True)
    ]
    names = list(rates)
    rows = []
    for name in names:
        row: dict[str, object] = {"training": name, "samples/s": round(statistics.median(rates[name]), 1),
                                  "min": round(min(rates[name]), 1), "max": round(max(rates[name]), 1)}  # fmt: skip
        for label, base in (("x stock", names[0]), ("x packed", names[1])):
            row[label] = round(
                statistics.median(a / b for a, b in zip(rates[name], rates[base], strict=True)), 2
            )
        rows.append(row)
    store(
        "training-speed" if args.data == "sst2" else f"training-speed-{args.data}",
        f"Training MiniLM on {title}",
        f"python benchmarks/training_speed.py {' '.join(sys.argv[1:])}".strip(),
        rows,
        [
            f"Precision {'bf16 autocast' if bf16 else 'fp32: this machine has no native bf16'}, for all variants.",
            f"{args.rounds} rounds of the same {8 * size} rows for all, turn by turn; medians of rates, and of ratios "
            "within a round.",
            "LTP's rows leave dropout out, as its stages do by default; stock and packed have the model's own.",
        ],
    )


if __name__ == "__main__":
    main()
