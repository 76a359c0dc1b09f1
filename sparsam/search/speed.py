"""How fast frozen models are, side by side in this process: every round runs each of them once, in turn."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sparsam.runtime import Frozen
from sparsam.runtime.freeze import Batch
from sparsam.task import Encoded

ROUNDS = 7


@dataclass(frozen=True)
class Speed:
    """Samples a second, and milliseconds of a batch (median), of each model; ratios are medians of the rounds' ratios."""

    throughput: tuple[float, ...]
    p50: tuple[float, ...]
    ratios: tuple[float, ...]
    """How many times faster than the first one, in samples a second."""
    latency_ratios: tuple[float, ...]
    """p50 relative to the first one's."""
    spread: float
    """Largest ratio of a round over the smallest, of the model where they differ most."""


def batches_of(encoded: Encoded, size: int) -> list[Any]:
    """Packed batches of token ids, or of pixels, in the order the rows came in."""
    found: list[Any] = []
    for start in range(0, len(encoded), size):
        part = slice(start, start + size)
        if encoded.pixel_values is not None:
            found.append(torch.from_numpy(encoded.pixel_values[part]))
        elif encoded.input_ids is not None:
            kinds = encoded.token_type_ids
            found.append(Batch.of(encoded.input_ids[part], None if kinds is None else kinds[part]))
    return found


def compare(models: Sequence[Frozen], batches: Sequence[Any], samples: int, rounds: int = ROUNDS) -> Speed:
    """Time frozen models on the same batches. The first one is what the others are compared with."""
    seconds = np.empty((rounds + 1, len(models)))
    medians = np.empty((rounds + 1, len(models)))
    for number in range(rounds + 1):  # the first round warms up
        order = list(enumerate(models))
        for at, model in order if number % 2 == 0 else order[::-1]:
            each = []
            for batch in batches:
                started = time.perf_counter()
                model.logits(batch) if isinstance(batch, Batch) else model.of_images(batch)
                each.append(time.perf_counter() - started)
            seconds[number, at], medians[number, at] = sum(each), statistics.median(each)
    seconds, medians = seconds[1:], medians[1:]
    ratios = seconds[:, :1] / seconds
    return Speed(
        tuple(samples / float(np.median(seconds[:, at])) for at in range(len(models))),
        tuple(1000 * float(np.median(medians[:, at])) for at in range(len(models))),
        tuple(float(x) for x in np.median(ratios, 0)),
        tuple(float(x) for x in np.median(medians / medians[:, :1], 0)),
        float((ratios.max(0) / ratios.min(0)).max()),
    )
