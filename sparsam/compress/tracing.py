"""A model run on rows of a task, and what it multiplied: a trace for simulators of accelerators."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsam.compress.evaluation import Progress
from sparsam.compress.opening import Opened, split_of
from sparsam.errors import Usage
from sparsam.models.digest import weights_digest
from sparsam.runtime.record import record
from sparsam.task import Task, classes, collate, encode
from sparsam.training.feed import by_length, tensors
from sparsam.workload import Stored, Writer

ROWS = 8
"""A batch that says how real numbers are spread, in a folder of megabytes. Chosen by us."""


@dataclass(frozen=True)
class Part:
    """Layers of one kind and role."""

    kind: str
    role: str
    layers: int
    macs: int
    flowing: float
    """Share of numbers that are not zero in what flows: activations, gradients, queries."""
    staying: float
    """The same of weights, or of what is multiplied with in their place."""


@dataclass(frozen=True)
class Traced:
    """A trace on disk."""

    folder: Path
    rows: int
    macs: int
    size_bytes: int
    parts: tuple[Part, ...]
    facts: Mapping[str, Any]

    @property
    def layers(self) -> int:
        """How many layers were recorded."""
        return sum(part.layers for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """The figures, and the facts of the index."""
        return {
            "folder": str(self.folder), "layers": self.layers, "macs": self.macs, "bytes": self.size_bytes,
            "parts": [asdict(part) for part in self.parts], "facts": dict(self.facts),
        }  # fmt: skip


def trace(
    opened: Opened,
    task: Task,
    out: str | Path,
    *,
    rows: int = ROWS,
    format: str | None = None,
    train: bool = False,
    split: str | None = None,
    batch_tokens: int = 4096,
    truncate: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> Traced:
    """Run a model on drawn rows of a task and write what it multiplied, layer by layer.

    Args:
        opened: the model.
        task: where rows come from; in training the loss is the task's.
        out: folder of the trace, written whole or not at all.
        rows: how many are drawn; all where there are fewer.
        format: of the operands, ``int8`` or ``bf16``; by default bf16 in training, else int8.
        train: one step of training a batch, weights as they are; else inference.
        split: which rows; by default ``train`` in training, else ``validation``.
        batch_tokens: real tokens a batch; layers of later batches have numbers behind their names.
        truncate: cut texts that are too long for the model, instead of refusing them.
        seed: draws the rows, and dropout in training.
        progress: told of rows done.

    Raises:
        Usage: ``trace-rows``, ``trace-folder``, ``trace-format``, ``split-missing``.
        Refused: those of :func:`~sparsam.runtime.record.record`.
    """
    if rows < 1:
        raise Usage(f"a trace is of at least one row; got rows={rows}.", code="trace-rows")
    Writer(out)  # refuses the folder before the work
    name = split or ("train" if train else "validation")
    source = split_of(task, name)
    if train:
        source = classes.in_model_order(source, opened.model.config)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(source))[:rows])
    read = encode(opened.processor, source.take(drawn), max_length=opened.max_length, truncate=truncate)
    lengths = (
        read.lengths if read.input_ids is not None else np.full(len(drawn), opened.image_tokens, np.int64)
    )
    device = next(opened.model.parameters()).device

    def batches() -> Iterator[dict[str, Tensor]]:
        done = 0
        for group in by_length(lengths, batch_tokens):
            batch = tensors(collate(read, group, opened.pad_id))
            yield {key: x.to(device) for key, x in batch.items() if train or key != "labels"}
            done += len(group)
            if progress is not None:
                progress("trace", done, len(drawn), {})

    facts = {
        "model": opened.name, "weights_sha256": weights_digest(opened.model), "task": task.name, "split": name,
        "seed": seed, "row_numbers": drawn.tolist(), "tokens": int(lengths.sum()), "truncated": read.truncated,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = record(opened.model, batches(), out, format=format, train=train, facts=facts)
    stored = found.layers
    assert isinstance(stored, Stored)
    size = sum(file.stat().st_size for file in Path(out).iterdir())
    return Traced(Path(out), len(drawn), int(found.facts["macs"]), size, tuple(parts_of(stored)), found.facts)


FLOWING = {"gemm": ("a",), "conv": ("x",), "attention": ("q",)}
STAYING = {"gemm": ("b",), "conv": ("weight",), "attention": ("k", "v")}


def parts_of(stored: Stored) -> Iterator[Part]:
    """Layers by kind and role, from a trace's index alone."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in stored.entries:
        found.setdefault((one["kind"], one["settings"]["role"]), []).append(one)
    for (kind, role), layers in found.items():
        flowing, staying = (_density(layers, names[kind]) for names in (FLOWING, STAYING))
        yield Part(kind, role, len(layers), sum(int(one["macs"]) for one in layers), flowing, staying)


def _density(layers: list[Mapping[str, Any]], names: tuple[str, ...]) -> float:
    operands = [one["operands"][name] for one in layers for name in names]
    sizes = np.array([np.prod(one["shape"], dtype=np.float64) for one in operands])
    shares = np.array([one["density"] for one in operands])
    return float((sizes * shares).sum() / max(sizes.sum(), 1))
