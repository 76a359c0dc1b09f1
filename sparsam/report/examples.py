"""Example images, layer by layer: which patches an image model still reads after each of its layers.

The model is run on a few validation rows. Nothing of the data is kept with a model, so the task is needed again here.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.report.runs import Run
from sparsam.task import Task, held_out
from sparsam.task.classes import answers

LARGEST = 96
"""Longest side of an image on the page, in pixels. Chosen by us: a page of eight stays below a megabyte."""

COUNT = 6
"""Images shown. Chosen by us."""


@dataclass(frozen=True)
class Example:
    """One image: ``after[l]`` are the patches, numbered row by row, that go on after layer ``l``."""

    png: str
    label: str
    answer: str
    row: int
    down: int
    across: int
    after: tuple[tuple[int, ...], ...]

    @property
    def patches(self) -> int:
        """Patches of the whole image."""
        return self.down * self.across


def examples_of(run: Run, task: Task, count: int = COUNT) -> tuple[Example, ...]:
    """A few validation images as the model reads them; nothing for a model of texts, or one without a token rule.

    Raises:
        Refused: ``held-out`` where the model has learned those images.
    """
    if (
        run.plan is None
        or run.plan.tokens is None
        or task.kind != "image"
        or not task.labels
        or task.validation is None
    ):
        return ()
    import torch

    from sparsam import artifact
    from sparsam.models import stack_of

    held_out.check(task, run.facts, run.name)
    loaded = artifact.load(run.folder)
    model = loaded.model.eval()
    rows = task.validation.take(_different(np.asarray(task.validation.labels), count))
    pixels = task.encode(loaded.processor, rows).pixel_values
    if pixels is None or loaded.processor is None:
        return ()
    stack = stack_of(model)
    before, stack.states = stack.states, []
    try:
        with torch.no_grad():
            logits = model(pixel_values=torch.from_numpy(pixels)).logits.numpy()
        states = stack.states
    finally:
        stack.states = before
    down, across = _grid(model.config)
    first = stack.family.protected
    living = [
        [(state.positions[state.sequences == at] - first).tolist() for state in states]
        for at in range(len(rows))
    ]
    said = answers(logits, model.config, task.labels).tolist()
    return tuple(
        Example(
            png=_png(image),
            label=task.labels[int(rows.labels[at])],
            answer=task.labels[said[at]] if said[at] >= 0 else "none of these",
            row=int(rows.numbers[at]),
            down=down,
            across=across,
            after=tuple(tuple(patch for patch in layer if patch >= 0) for layer in living[at]),
        )
        for at, image in enumerate(rows.images or [])
    )


def _different(labels: NDArray[Any], count: int) -> NDArray[np.int64]:
    """The first rows, one of a class while classes last."""
    _, first = np.unique(labels, return_index=True)
    chosen = np.sort(first)[:count].tolist()
    chosen += [row for row in range(len(labels)) if row not in chosen][: count - len(chosen)]
    return np.array(chosen, np.int64)


def _grid(config: Any) -> tuple[int, int]:
    """Patches from top to bottom and from left to right."""
    sides: list[tuple[int, int]] = []
    for value in (config.image_size, config.patch_size):
        pair: Sequence[int] = (value, value) if isinstance(value, int) else value
        sides.append((int(pair[0]), int(pair[1])))
    return sides[0][0] // sides[1][0], sides[0][1] // sides[1][1]


def _png(image: NDArray[np.uint8]) -> str:
    """An image (h, w, c) as the base64 of a PNG without anything but its pixels."""
    from PIL import Image

    shown = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    shown.thumbnail((LARGEST, LARGEST))
    held = io.BytesIO()
    shown.save(held, "PNG", optimize=True)
    return base64.b64encode(held.getvalue()).decode("ascii")
