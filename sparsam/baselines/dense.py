"""Which dense checkpoint a compressed one came from, found in what was saved with it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsam import artifact
from sparsam.artifact import LoadedExport
from sparsam.artifact.manifest import read_json
from sparsam.baselines.laps import load
from sparsam.errors import Refused, Usage
from sparsam.models.digest import weights_digest
from sparsam.models.heads import check_head
from sparsam.task import Task, classes, held_out


@dataclass(frozen=True)
class Checkpoint:
    """A model that can be raced: loaded once to see that it is whole and fits the task, then let go."""

    name: str
    folder: Path
    config: Any
    processor: Any
    has_plan: bool
    digest: str
    outputs: tuple[int, ...]
    """``outputs[i]`` is the output that stands for class ``i`` of the task; empty for a regression."""
    notes: tuple[str, ...]
    exported: str | None = None
    """What it was exported to, where ``sparsam export`` wrote it; it leads to what it was made from like a plan does."""
    integers: bool = False
    """Whether its products are in integers."""


def checkpoint(source: str | Path, task: Task) -> Checkpoint:
    """Read and check a folder, or a hub id that the user named.

    Raises:
        Refused: ``task-kind``, ``processor-missing``, ``head-missing``, ``head-kind``, ``head-classes``, ``head-labels``,
            ``held-out``, and those of loading.
        InputOutput: those of loading.
    """
    name, found = str(source), load(source)
    kind = "image" if found.model.main_input_name == "pixel_values" else "text"
    if kind != task.kind:
        raise Refused(
            f"{name} reads {kind}, the task {task.name} holds {task.kind}. Choose a task of the other kind.",
            code="task-kind",
        )
    if found.processor is None:
        raise Refused(
            f"{name} has no tokenizer or image processor. Copy its files from the model it was made from.",
            code="processor-missing",
        )
    config = found.model.config
    if not isinstance(found, LoadedExport):  # an export's head was looked at when it was made
        check_head([part.__name__ for part in type(found.model).__mro__], name, task.name)
    outputs: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    if task.problem == "classification":
        matched = classes.match(config, task.labels, name, task.name)
        outputs, notes = matched.outputs, matched.notes
    elif config.num_labels != 1:
        raise Refused(
            f"{name} has {config.num_labels} classes, the task {task.name} wants one number.",
            code="head-classes",
        )
    held_out.check(task, facts_of(found.folder), name)
    if isinstance(found, LoadedExport):
        digest = str(found.facts.get("source_sha256"))
        return Checkpoint(
            name, found.folder, config, found.processor, True, digest, outputs, notes, found.model.to
        )
    digest = weights_digest(found.model)
    integers = found.plan is not None and any(left.formats for left in found.plan.layers)
    return Checkpoint(
        name,
        found.folder,
        config,
        found.processor,
        found.plan is not None,
        digest,
        outputs,
        notes,
        None,
        integers,
    )


def facts_of(folder: Path) -> Mapping[str, Any]:
    """What was saved with a model; nothing for a foreign one."""
    file = folder / artifact.FACTS
    facts = read_json(file).get("facts") if file.is_file() else None
    return facts if isinstance(facts, dict) else {}


def base_of(candidates: Sequence[Checkpoint], dense: str | os.PathLike[str] | None, task: Task) -> Checkpoint:
    """The dense checkpoint of all candidates: the one that is named, or the one that all came from.

    Raises:
        Usage: ``dense-missing``, ``dense-differs``, ``dense-compressed``.
    """
    if dense is not None:
        given = checkpoint(os.fspath(dense), task)
        if given.has_plan:
            raise Usage(
                f"{given.name} is compressed itself; name the dense checkpoint.", code="dense-compressed"
            )
        return given
    found = [dense_of(one, task) for one in candidates]
    other = next((at for at, one in enumerate(found) if one.digest != found[0].digest), None)
    if other is not None:
        raise Usage(
            f"{candidates[0].name} comes from {found[0].name}, {candidates[other].name} from {found[other].name}. Race those "
            "together that come from one dense checkpoint, or name the one to compare with: --dense DIR.",
            code="dense-differs",
        )
    return found[0]


def dense_of(candidate: Checkpoint, task: Task, option: str = "--dense") -> Checkpoint:
    """The dense checkpoint that a model was compressed from; the model itself where it has no plan.

    The facts saved with a model name its source; that is looked for as it was written, then from each folder above the model,
    then beside it. Weights must be those that the facts name by digest. A source is never fetched from the hub.

    Raises:
        Usage: ``dense-missing``, naming the ``option`` that takes its place.
    """
    at, seen = candidate, {candidate.folder}
    give = f"Name the dense checkpoint: {option} DIR."
    while at.has_plan:
        at = _source(at, task, give)
        if at.folder in seen:
            raise Usage(
                f"{candidate.name}: the models it was made from lead in a circle. {give}",
                code="dense-missing",
            )
        seen.add(at.folder)
    return at


def _source(model: Checkpoint, task: Task, give: str) -> Checkpoint:
    facts = facts_of(model.folder)
    source, digest = facts.get("source"), facts.get("source_sha256")
    if not isinstance(source, str) or not source:
        raise Usage(f"{model.name} does not say which model it was made from. {give}", code="dense-missing")
    changed = None
    for place in _places(source, model.folder):
        if not (place / "config.json").is_file():
            continue
        found = checkpoint(place, task)
        if not isinstance(digest, str) or found.digest == digest:
            return found
        changed = place
    if changed is not None:
        raise Usage(
            f"{model.name} was made from {source!r}; the weights in {changed} are others by now. {give}",
            code="dense-missing",
        )
    raise Usage(
        f"{model.name} was made from {source!r}, which is not on this machine. {give}", code="dense-missing"
    )


def _places(source: str, folder: Path) -> list[Path]:
    """Where a source may stand, the likeliest first."""
    try:
        written = Path(source).expanduser()
        places = [written, *(above / written for above in folder.parents), folder.parent / written.name]
        return list(dict.fromkeys(place.resolve() for place in places))
    except (OSError, ValueError, RuntimeError):  # no path at all
        return []
