"""What a page is made of: artefacts with their facts, plan and evaluation, and benchmarks, found from what was named."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pydantic

from sparsam import artifact
from sparsam.artifact.manifest import CONFIG, read_json, read_manifest
from sparsam.errors import InputOutput, Refused
from sparsam.plan import Plan
from sparsam.report.bench import Bench, read_bench

_form = pydantic.ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, frozen=True)
Count = Annotated[int, pydantic.Field(ge=0)]
Share = Annotated[float, pydantic.Field(ge=0)]


class Kept(pydantic.BaseModel):
    """Mean share of a sequence's tokens alive in one layer."""

    model_config = _form
    attention: Share
    ffn: Share


class Score(pydantic.BaseModel):
    """How good a model was on a split, and what that took. ``name`` is given for the dense model alone."""

    model_config = _form
    split: str
    what: str
    value: float
    low: float
    high: float
    n: Annotated[int, pydantic.Field(ge=1)]
    unit: str
    macs_ratio: Share
    macs_per_sample: Share
    kept: tuple[Kept, ...]
    truncated: Count
    bytes: Count
    name: str = ""


class Difference(pydantic.BaseModel):
    """The paired difference of the model from the dense one."""

    model_config = _form
    value: float
    low: float
    high: float
    n: Count
    unit: str
    extra: dict[str, float | int] = {}


class Evaluated(pydantic.BaseModel):
    """The evaluation record of an artefact."""

    model_config = _form
    task: str
    model: Score
    dense: Score | None = None
    difference: Difference | None = None
    notes: tuple[str, ...] = ()
    machine: dict[str, Any] = {}


@dataclass(frozen=True)
class Run:
    """One artefact: its name on the page, and all that is told of it."""

    name: str
    folder: Path
    model_type: str
    facts: dict[str, Any]
    versions: dict[str, Any]
    plan: Plan | None
    evaluated: Evaluated | None
    file_bytes: int
    config: dict[str, Any] = field(default_factory=dict)


EXPECTED = (
    "expected a folder that sparsam wrote, a folder that holds such folders, or a benchmark's JSON file "
    "(sparsam bench --json)"
)


FRONT = "pareto.json"
"""The file of an accuracy-speed front; see :mod:`sparsam.report.front`."""


def is_front(path: Path) -> bool:
    """Whether a file is an accuracy-speed front rather than a benchmark."""
    return path.name == FRONT and path.is_file()


def find(paths: Sequence[str | Path]) -> tuple[list[Run], list[tuple[str, Bench]]]:
    """Everything that was named: artefacts and benchmarks, each once, in order.

    Raises:
        InputOutput: ``run-missing``, and those of :func:`sparsam.artifact.verify`.
        Refused: ``run-unknown``, ``record-invalid``, ``record-stale``, ``bench-schema``, ``bench-invalid``, ``digest``.
    """
    folders: dict[Path, None] = {}
    benches: list[tuple[str, Bench]] = []
    for path in map(Path, paths):
        if is_front(path):
            continue
        if path.is_file():
            benches.append((path.name, read_bench(path)))
        elif not path.is_dir():
            raise InputOutput(f"there is no {path}; {EXPECTED}.", code="run-missing")
        else:
            folders |= dict.fromkeys(_artefacts(path))
    names = _names(list(folders))
    return [read_run(folder, names[folder]) for folder in folders], benches


def _artefacts(path: Path) -> list[Path]:
    place = path.resolve()
    if (place / artifact.MANIFEST).is_file():
        return [place]
    try:
        found = [one for one in sorted(place.iterdir()) if (one / artifact.MANIFEST).is_file()]
    except OSError as error:
        raise InputOutput(
            f"{path} cannot be read: {error.strerror or error}.", code="file-unreadable"
        ) from None
    if not found:
        raise Refused(
            f"{path} holds no {artifact.MANIFEST}, nor does a folder in it; {EXPECTED}.", code="run-unknown"
        )
    return sorted(found, key=lambda one: one.name != "dense")


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """The shortest end of each path that no other has."""
    names: dict[Path, str] = {}
    for folder in folders:
        for depth in range(1, len(folder.parts) + 1):
            end = folder.parts[-depth:]
            names[folder] = "/".join(end)
            if not any(other != folder and other.parts[-depth:] == end for other in folders):
                break
    return names


def read_run(folder: Path, name: str) -> Run:
    """An artefact, every file of it checked against its manifest."""
    artifact.verify(folder)
    said = read_json(folder / artifact.FACTS) if (folder / artifact.FACTS).is_file() else {}
    config = read_json(folder / CONFIG)
    facts, versions = (
        value if isinstance(value := said.get(key), dict) else {} for key in ("facts", "versions")
    )
    return Run(
        name,
        folder,
        str(config.get("model_type", "unknown")),
        facts,
        versions,
        _plan(config),
        _evaluated(folder),
        sum(entry["bytes"] for file, entry in read_manifest(folder).items() if file.endswith(".safetensors")),
        config,
    )


def _plan(config: dict[str, Any]) -> Plan | None:
    said = config.get("quantization_config")
    return (
        Plan.from_json(said.get("plan")) if isinstance(said, dict) and said.get("plan") is not None else None
    )


def _evaluated(folder: Path) -> Evaluated | None:
    record = artifact.read_record(folder)
    if record is None:
        return None
    try:
        return Evaluated.model_validate_json(pydantic.TypeAdapter(Any).dump_json(record))
    except (pydantic.ValidationError, ValueError, RecursionError) as error:
        first = error.errors()[0] if isinstance(error, pydantic.ValidationError) else None
        place = "" if first is None else ".".join(map(str, first["loc"]))
        why = str(error)[:120] if first is None else first["msg"]
        raise Refused(
            f"{folder / artifact.EVALUATION} is no valid evaluation at {place or 'its head'}: {why}. Delete the file and "
            "evaluate again.",
            code="record-invalid",
        ) from None
