"""The evaluation record: what was measured of a saved model, in ``evaluation.json`` beside its manifest.

The model is measured after it was saved and reloaded, so the manifest, written last, cannot name these figures. The record
names the manifest instead, by its digest: figures of another model are refused. See docs/decisions/0011-evaluation-record.md.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsam.artifact.manifest import (
    EVALUATION,
    MANIFEST,
    json_text,
    read_json,
    read_manifest,
    sha256_of,
)
from sparsam.artifact.staging import real_path, write_whole
from sparsam.errors import InputOutput, Refused

RECORD = "sparsam.evaluation/1"
"""The schema of ``evaluation.json``."""


def write_record(folder: str | os.PathLike[str], evaluation: Mapping[str, Any]) -> Path:
    """Keep what was measured of the artefact in ``folder``, whole or not at all; returns the file.

    Args:
        folder: what :func:`save` wrote.
        evaluation: anything JSON can say.

    Raises:
        Usage: ``record``.
        InputOutput: ``manifest-missing``, ``manifest-invalid``, and those of :func:`save` where the disk fails.
    """
    target = real_path(folder)
    read_manifest(target)
    whole = {"schema": RECORD, "manifest": sha256_of(target / MANIFEST), "evaluation": dict(evaluation)}
    text = json_text(whole, "an evaluation", "record")
    file = target / EVALUATION
    write_whole(file, text, near=target)
    return file


def read_record(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What was measured of the artefact in ``folder``; None where nothing is kept.

    Raises:
        InputOutput: ``file-unreadable``, ``json-invalid``.
        Refused: ``record-version``, ``record-stale`` (it was measured of another model than the one that stands there).
    """
    place = real_path(folder)
    file = place / EVALUATION
    if not os.path.lexists(file):
        return None
    whole = read_json(file)
    if whole.get("schema") != RECORD:
        raise Refused(
            f"{file} has the schema {str(whole.get('schema'))[:60]!r}; expected {RECORD!r}. Upgrade sparsam, or delete the "
            "file and evaluate again.",
            code="record-version",
        )
    if not (place / MANIFEST).is_file() or whole.get("manifest") != sha256_of(place / MANIFEST):
        raise Refused(
            f"{file} was measured of another model than the one that stands there: it does not name this {MANIFEST}. "
            "Delete the file and evaluate again.",
            code="record-stale",
        )
    found = whole.get("evaluation")
    if not isinstance(found, dict):
        raise InputOutput(
            f"{file} holds no object 'evaluation'. Delete the file and evaluate again.", code="json-invalid"
        )
    return found
