"""Opening a model: from a folder, a hub id or an object, with what it takes to feed it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsam import artifact
from sparsam.artifact.manifest import read_json
from sparsam.compress.fit import check_fit
from sparsam.errors import Usage
from sparsam.models import is_lifted, lift, plan_of
from sparsam.models.positions import longest_text
from sparsam.models.scratch import is_scratch, make_vit
from sparsam.models.stored import to_store
from sparsam.task import Split, Task, classes, held_out
from sparsam.training.feed import Feed
from sparsam.training.loop import compute_device


@dataclass(frozen=True)
class Opened:
    """A model with what it takes to feed it; ``facts`` are what was saved with it, ``notes`` are to be said aloud."""

    model: Any
    processor: Any
    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """``text`` or ``image``."""
        return "image" if self.model.main_input_name == "pixel_values" else "text"

    @property
    def image_tokens(self) -> int:
        """Tokens of one image, class token included; 1 for text models."""
        return image_tokens(self.model.config) if self.kind == "image" else 1

    @property
    def max_length(self) -> int | None:
        """Longest text the position table holds."""
        return longest_text(self.model.config, self.processor) if self.kind == "text" else None

    @property
    def pad_id(self) -> int:
        """Token id of padding."""
        found = getattr(self.processor, "pad_token_id", None)
        return int(found) if found is not None else 0


def image_tokens(config: Any) -> int:
    """Patches of one image and the special tokens before them."""
    size, patch = config.image_size, config.patch_size
    height, width = (size, size) if isinstance(size, int) else size
    down, across = (patch, patch) if isinstance(patch, int) else patch
    return (height // down) * (width // across) + (2 if config.model_type == "deit" else 1)


def open_model(
    source: Any, task: Task | None = None, *, processor: Any = None, fresh_head: bool = False
) -> Opened:
    """A model from a folder, a hub id, or one that is loaded already, with its processor.

    Opened by name it goes to the accelerator where there is one; loaded already it stays where it is. Either way it is lifted.

    Args:
        source: folder, hub id or transformers model.
        task: what it will be used for; says the kind of head, and the classes of a fresh one.
        processor: needed when ``source`` is a model.
        fresh_head: give it a new head for the task (fine-tuning) instead of asking for a trained one.

    Raises:
        Refused: the family is not supported, weights are missing, corrupt or not finite, or the model and the task do not fit.
    """
    if isinstance(source, nn.Module):
        if processor is None:
            raise Usage(
                "give processor= (tokenizer or image processor) together with a loaded model.",
                code="processor-missing",
            )
        opened = Opened(source, processor, str(getattr(source, "name_or_path", "") or type(source).__name__))
    elif is_scratch(source):
        if task is None or task.kind != "image" or task.train is None or not fresh_head:
            raise Usage(
                f"{source!r} makes a new image model; it can only be fine-tuned on an image task.",
                code="model-spec",
            )
        images = task.train.take(np.arange(1)).images or []
        size = (int(images[0].shape[0]), int(images[0].shape[1]))
        model, made_processor = make_vit(source, image_size=size, labels=tuple(task.labels))
        opened = Opened(model, processor or made_processor, source)
    elif artifact.is_artifact(source) and not fresh_head:
        loaded = artifact.load(source)
        opened = Opened(loaded.model, processor or loaded.processor, str(source), loaded.facts)
    else:
        labels = None
        if fresh_head and task is not None:
            labels = tuple(task.labels)
        made = artifact.load_dense(
            source,
            kind=None if task is None else task.kind,
            labels=labels,
            regression=task is not None and task.problem == "regression",
        )
        opened = Opened(made.model, processor or made.processor, str(source), _facts(made.folder))
    if task is not None:
        notes = check_fit(opened.model, opened.processor, opened.kind, opened.name, task)
        opened = replace(opened, notes=notes)
        held_out.check(task, opened.facts, opened.name)
    if not is_lifted(opened.model):
        lift(opened.model)
    if not isinstance(source, nn.Module):  # a model that came loaded stays where its owner put it
        opened.model.to(compute_device())
    return opened


def _facts(folder: Path) -> Mapping[str, Any]:
    """What was saved with a model: where it came from and what it was trained on. Nothing for a foreign one."""
    facts = read_json(folder / artifact.FACTS).get("facts") if (folder / artifact.FACTS).is_file() else None
    return facts if isinstance(facts, dict) else {}


def rows_record(method: str, rows: NDArray[np.int64]) -> dict[str, Any]:
    """What a model keeps of the rows a method looked at: how many, and the SHA-256 of their numbers in the training split."""
    numbers = np.sort(rows).astype("<i8").tobytes()
    return {
        "method": method,
        "of": "train",
        "rows": len(rows),
        "sha256": hashlib.sha256(numbers).hexdigest(),
    }


def data_record(task: Task) -> list[dict[str, Any]]:
    """What a model keeps of its task's files."""
    return [{"file": file, "bytes": size, "sha256": digest} for file, size, digest in task.source_hashes()]


def split_of(task: Task, name: str) -> Split:
    """A split of the task, by name."""
    found = getattr(task, name, None) if name in ("train", "validation", "test") else None
    if not isinstance(found, Split):
        raise Usage(
            f"the task {task.name} has no split {name!r}; choose another one with --split.",
            code="split-missing",
        )
    return found


def feed_of(opened: Opened, split: Split, truncate: bool) -> Feed:
    """A split as the training loop sees it, encoded for this model, its labels in the order of the model's classes."""
    return Feed(
        classes.in_model_order(split, opened.model.config),
        opened.processor,
        max_length=opened.max_length,
        truncate=truncate,
        image_tokens=opened.image_tokens,
        pad_id=opened.pad_id,
    )


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers that are saved; integers count as they lie in files."""
    state = to_store(model, model.state_dict(), plan_of(model))
    seen: dict[int, Tensor] = {x.data_ptr(): x for x in state.values()}
    return sum(x.numel() * x.element_size() for x in seen.values())
