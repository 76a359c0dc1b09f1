"""What a compiler makes of the dense model, one sentence at a time, beside machine code of ours: the figures of decision 14.

    python benchmarks/compiled.py    # about five minutes, most of them compiling

MiniLM on SST-2, 100 sentences as they came, each variant once a round in turn, in this process. torch.compile with freezing and
AOTInductor are given the stock model and one sentence's tokens without padding, compiled for any length.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tables import store

from sparsam.artifact import load_dense
from sparsam.compress.opening import open_model
from sparsam.runtime import Batch, freeze
from sparsam.search.integers import quickly_in_integers
from sparsam.task import Task, encode

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared"))
MODEL = SHARED / "models/minilm-sst2"
ROWS, ROUNDS = 100, 7
Answer = Callable[[torch.Tensor], Any]


class Logits(torch.nn.Module):
    """The stock model on one sentence: token ids (1, t) to logits (1, c)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Nothing is padded."""
        found: torch.Tensor = self.model(
            input_ids=input_ids, attention_mask=torch.ones_like(input_ids)
        ).logits
        return found


def compiled(dtype: torch.dtype) -> Answer:
    """torch.compile with the weights frozen into the graph."""
    torch._inductor.config.freezing = True
    model = torch.compile(Logits(load_dense(MODEL).model).eval().to(dtype), dynamic=True)
    return lambda ids: model(ids)


def ahead_of_time(dtype: torch.dtype) -> Answer:
    """AOTInductor: exported, compiled to a shared library, called without Python between its operators."""
    model = Logits(load_dense(MODEL).model).eval().to(dtype)
    given = torch.randint(1000, 2000, (1, 24))
    exported = torch.export.export(
        model, (given,), dynamic_shapes={"input_ids": {1: torch.export.Dim("t", min=2, max=512)}}
    )
    folder = tempfile.mkdtemp()
    package = torch._inductor.aoti_compile_and_package(exported, package_path=f"{folder}/model.pt2")
    runner = torch._inductor.aoti_load_package(package)
    return lambda ids: runner(ids)


def ours(dtype: str, integers: bool = False) -> Answer:
    """Frozen, packed."""
    model = open_model(str(MODEL), Task.load(str(SHARED / "data/sst2"))).model
    frozen = freeze(quickly_in_integers(model) if integers else model, dtype=dtype)
    return lambda ids: frozen.logits(Batch(ids[0], torch.tensor([ids.shape[1]])))


def eager() -> Answer:
    """The stock model."""
    model = Logits(load_dense(MODEL).model).eval()
    return lambda ids: model(ids)


@torch.inference_mode()
def main() -> None:
    """Build, warm, time, store."""
    held = Task.load(str(SHARED / "data/sst2")).validation
    assert held is not None
    encoded = encode(load_dense(MODEL).processor, held.take(np.arange(ROWS)))
    assert encoded.input_ids is not None
    sentences = [torch.tensor([[int(n) for n in ids]]) for ids in encoded.input_ids]
    makers: dict[str, Callable[[], Answer]] = {
        "transformers, eager, float32": eager,
        "torch.compile, freezing, float32": lambda: compiled(torch.float32),
        "torch.compile, freezing, bfloat16": lambda: compiled(torch.bfloat16),
        "AOTInductor, float32": lambda: ahead_of_time(torch.float32),
        "AOTInductor, bfloat16": lambda: ahead_of_time(torch.bfloat16),
        "ours, float32": lambda: ours("float32"),
        "ours, bfloat16": lambda: ours("bfloat16"),
        "ours, int8": lambda: ours("float32", integers=True),
    }
    ready, answers, warm, notes = {}, {}, {}, []
    for name, make in makers.items():
        started = time.perf_counter()
        try:
            with torch.inference_mode(False), torch.no_grad():
                one = make()
            found = [one(ids) for ids in sentences]
        except Exception as error:  # what cannot be compiled here is said
            notes.append(f"not timed: {name}: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
            continue
        ready[name], warm[name] = one, time.perf_counter() - started
        answers[name] = [
            int(torch.as_tensor(x[0] if isinstance(x, list | tuple) else x).argmax()) for x in found
        ]
    medians: dict[str, list[float]] = {name: [] for name in ready}
    for number in range(ROUNDS):
        order = list(ready.items())
        for name, one in order if number % 2 == 0 else order[::-1]:
            each = []
            for ids in sentences:
                started = time.perf_counter()
                one(ids)
                each.append(time.perf_counter() - started)
            medians[name].append(1000 * statistics.median(each))
    base = medians["transformers, eager, float32"]
    own = answers["transformers, eager, float32"]
    rows = [
        {
            "variant": name,
            "p50 ms": round(statistics.median(times), 3),
            "of eager's": round(statistics.median(a / b for a, b in zip(times, base, strict=True)), 3),
            "seconds until warm": round(warm[name], 1),
            "other answers": sum(a != b for a, b in zip(answers[name], own, strict=True)),
        }
        for name, times in medians.items()
    ]
    store(
        "compiled",
        "One sentence at a time: compilers and machine code",
        "python benchmarks/compiled.py",
        rows,
        notes,
    )


if __name__ == "__main__":
    main()
