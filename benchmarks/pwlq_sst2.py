"""PWLQ beside uniform grids on MiniLM and SST-2: weights of 4 bits, inputs of 8 bits token by token.

    python benchmarks/pwlq_sst2.py           # answers on validation and test, simulated
    python benchmarks/pwlq_sst2.py --save    # int8, and the int8 form of PWLQ, as checkpoints
    python benchmarks/pwlq_sst2.py --speed   # these two on the clock, in turn; wants a quiet machine for a minute

Nothing is trained; the words' embeddings stay in floating point while answers are compared. Answers are kept in ``runs/pwlq/``;
a run that was stopped goes on.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from tables import store

import sparsam
from sparsam.compress import open_model
from sparsam.compress.calibration import applied_by, products_of, watched
from sparsam.compress.evaluation import predict
from sparsam.compress.opening import feed_of, split_of
from sparsam.compress.pwlq_run import apply_pwlq, rounded_inputs
from sparsam.measure import paired_difference
from sparsam.models import stack_of
from sparsam.quantization import MSE, corrected_bias
from sparsam.quantization.pwlq import quantize_pwlq, released, released_correction, uniform
from sparsam.runtime import Batch
from sparsam.search.integers import quickly_in_integers
from sparsam.task import Task
from sparsam.training.feed import matched_rows

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared"))
DENSE = SHARED / "models/minilm-sst2"
PLACE = Path("runs/pwlq")
SPLITS = ("validation", "test")
DRAWN = 4096
"""Training rows that the 512 of calibration are drawn from: those that have to be tokenized."""
Rounding = Callable[[Tensor], Tensor]


def looked_at(task: Task) -> tuple[Any, Any]:
    """The model, and what its products read of 512 training rows with lengths like those of validation."""
    opened = open_model(str(DENSE), task)
    feed = feed_of(opened, split_of(task, "train").sample(DRAWN), True)
    other = feed_of(opened, split_of(task, "validation"), True)
    rows = matched_rows(feed.lengths, other.lengths, 512, 0)
    return opened, watched(opened.model, feed, rows, MSE())


def variants(bits: int) -> dict[str, Rounding]:
    """How weights are rounded, by name."""
    found: dict[str, Rounding] = {
        f"uniform {bits}, full range": lambda w: uniform(w, bits, clip=False),
        f"PWLQ {bits}, int8 form": lambda w: quantize_pwlq(w, bits, form="int8").dequantized(),
        f"uniform {bits + 1}, clipped": lambda w: uniform(w, bits + 1),
        f"PWLQ {bits}, released code (Gauss)": lambda w: released(w, bits),
        f"uniform {bits}, clipped": lambda w: uniform(w, bits),
    }
    for how in ("gaussian", "laplace", "search", "grid"):
        found[f"PWLQ {bits}, {how}"] = lambda w, how=how: quantize_pwlq(w, bits, breakpoint=how).dequantized()
    return found


def accuracy(seconds: float, partly: bool = False) -> None:
    """Answer with every variant that has not answered yet, then store the table."""
    until, task = time.monotonic() + seconds, Task.load(str(SHARED / "data/sst2"))
    PLACE.mkdir(parents=True, exist_ok=True)
    place = PLACE / "sst2.safetensors"
    kept = load_file(place) if place.exists() else {}
    if "exact" in kept:
        opened = open_model(str(DENSE), task)
    else:
        opened, seen = looked_at(task)
        kept |= {
            f"mean; {index} {role}": one.mean()
            for (index, _), found in seen.items()
            for role, one in found.means.items()
        }
        kept["exact"] = torch.from_numpy(
            np.concatenate([predict(opened, split_of(task, split))[0] for split in SPLITS])
        )
        save_file(kept, place)
    stack = stack_of(opened.model)
    modules = [
        (module, kept[f"mean; {index} {role}"])
        for index, _, by_role in products_of(stack)
        for role, module in by_role.items()
    ]
    exact = [(m.weight.detach().clone(), m.bias.detach().clone()) for m, _ in modules]

    def answers(backs: list[Tensor], correction: str) -> Tensor:
        for (module, mean), (weight, bias), back in zip(modules, exact, backs, strict=True):
            with torch.no_grad():
                module.bias.copy_(corrected_bias(weight, back, bias, mean) if correction == "bias" else bias)
                module.weight.copy_(released_correction(weight, back) if correction == "released" else back)
        with applied_by(stack, rounded_inputs):
            found = [predict(opened, split_of(task, split))[0] for split in SPLITS]
        return torch.from_numpy(np.concatenate(found))

    jobs: list[tuple[str, Rounding | None, tuple[str, ...]]] = [("float32 weights", None, ("none",))]
    jobs.append(("uniform 8, full range", lambda w: uniform(w, 8, clip=False), ("none",)))
    for name, how in variants(4).items():
        jobs.append((name, how, ("none", "released") if "released" in name else ("none", "bias")))
    labels = np.concatenate([split_of(task, split).labels for split in SPLITS])
    for name, how, corrections in jobs:
        missing = [one for one in corrections if f"{name}; {one}" not in kept]
        if not missing or time.monotonic() > until:
            continue
        backs = [weight if how is None else how(weight) for weight, _ in exact]
        pairs = [(back.double(), weight.double()) for back, (weight, _) in zip(backs, exact, strict=True)]
        noise = sum(float((back - weight).square().sum()) for back, weight in pairs)
        kept[f"noise; {name}"] = torch.tensor(noise / sum(float(w.square().sum()) for _, w in pairs))
        for correction in missing:
            key = f"{name}; {correction}"
            kept[key] = answers(backs, correction)
            print(key, int((kept[key].argmax(1).numpy() == labels).sum()), flush=True)
            save_file(kept, place)
    flat = [(name, how, one) for name, how, corrections in jobs for one in corrections]
    missing = [f"{name}; {one}" for name, _, one in flat if f"{name}; {one}" not in kept]
    if missing and not partly:
        return
    flat = [job for job in flat if f"{job[0]}; {job[2]}" not in missing]
    logits = kept["exact"]
    before = logits.argmax(1).numpy()
    rows: list[dict[str, Any]] = []
    count = len(split_of(task, "validation"))
    for name, how, correction in [("float32", None, ""), *flat]:
        scores = logits if name == "float32" else kept[f"{name}; {correction}"]
        after = scores.argmax(1).numpy()
        found = paired_difference("accuracy", before, after, labels)
        bits = 32 if how is None else int(name.split()[1].strip(",")) + name.startswith("PWLQ")
        noise = kept.get(f"noise; {name}", torch.tensor(0.0))
        rows.append(
            {
                "weights": name, "stored bits": bits, "correction": correction,
                "squared error": "" if how is None else f"{100 * float(noise):.3f} %",
                "validation": int((after == labels)[:count].sum()), "test": int((after == labels)[count:].sum()),
                "points": f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]",
                "lost/won": f"{found.extra['lost']}/{found.extra['won']}",
                "answers changed": int((before != after).sum()),
                "moved": f"{float((scores - logits).abs().mean()):.3f}",
            }
        )  # fmt: skip
    store(
        "pwlq-sst2",
        f"PWLQ and uniform grids: MiniLM-L6 on SST-2, validation ({count}) and test ({len(labels) - count})",
        "python benchmarks/pwlq_sst2.py",
        rows,
        notes=[
            "Weights of the encoder's products by output; inputs in 8 bits, each token on its own grid; words' embeddings in "
            "float32; simulated, nothing trained. Inputs of the row float32 are float32.",
            "squared error: of the weights, relative to their own squares; points: both splits together, less float32's, "
            "paired, with its 95 % interval; moved: mean distance of a logit.",
            "correction: none, through biases (E[x] of 512 training rows), or the released code's rescaling.",
        ],
    )


def save() -> None:
    """The two checkpoints that are raced: weights to the nearest of eight bits, and in pieces."""
    task = Task.load(str(SHARED / "data/sst2"))
    opened, seen = looked_at(task)
    sparsam.save(quickly_in_integers(opened.model, words=True), PLACE / "int8", processor=opened.processor)
    apply_pwlq(opened.model, seen, 4, words=8)
    sparsam.save(opened.model, PLACE / "pwlq4", processor=opened.processor)


def speed(rounds: int) -> None:
    """Batches of 32 of the validation split in arrival order, each checkpoint in turn; ratios within a round."""
    texts = split_of(Task.load(str(SHARED / "data/sst2")), "validation").take(np.arange(872)).texts
    assert texts is not None
    places = {"int8": PLACE / "int8", "PWLQ 4, int8 form": PLACE / "pwlq4", "float32, packed": DENSE}
    entrants, batches = {}, {}
    for name, place in places.items():
        opened = open_model(str(place))
        entrants[name] = sparsam.freeze(opened.model, processor=opened.processor, dtype="float32")
        batches[name] = [
            Batch.of(found["input_ids"], found.get("token_type_ids"))
            for found in (opened.processor(texts[at : at + 32]) for at in range(0, len(texts), 32))
        ]
    times: dict[str, list[float]] = {name: [] for name in entrants}
    for at in range(rounds + 1):
        for name in [*entrants][at % 3 :] + [*entrants][: at % 3]:
            started = time.perf_counter()
            for batch in batches[name]:
                entrants[name].logits(batch)
            if at:  # the first round warms up
                times[name].append(time.perf_counter() - started)
    rows = []
    for name, place in places.items():
        ratios = np.array(times["int8"]) / np.array(times[name])
        low, high = np.percentile(ratios, (25, 75))
        files = sum(file.stat().st_size for file in place.glob("*.safetensors"))
        rows.append(
            {
                "model": name,
                "megabytes": f"{files / 1e6:.1f}",
                "sentences/s": f"{len(texts) / np.median(times[name]):.0f}",
                "speed over int8": f"{np.median(ratios):.3f} [{low:.3f}, {high:.3f}]",
            }
        )
    store(
        "pwlq-speed",
        "The int8 form of PWLQ beside int8: MiniLM-L6 on SST-2, saved, reloaded and frozen",
        "python benchmarks/pwlq_sst2.py --speed",
        rows,
        notes=[
            f"{rounds} rounds, each model in turn in every one; batches of 32 of validation, arrival order, tokenized before; "
            f"{torch.get_num_threads()} thread(s); medians, ratios within a round with their quartiles.",
            "Both integer models have their words' embeddings in 8 bits; the float32 model's file is in float16.",
        ],
    )


def main() -> None:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so many")
    parser.add_argument("--partly", action="store_true", help="store the table without what is missing")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if args.save:
        save()
    elif args.speed:
        speed(args.rounds)
    else:
        accuracy(args.seconds, args.partly)


if __name__ == "__main__":
    main()
