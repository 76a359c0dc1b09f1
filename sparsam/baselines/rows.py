"""The rows of a race on disk, written once and read by every contestant: token ids or pixels, and what they were made from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.task import Encoded, Rows

_TEXTS, _IMAGES, _ENCODED, _CALIBRATION = "texts.json", "images.npz", "encoded.npz", "calibration.npz"


def write_rows(folder: Path, rows: Rows, encoded: Encoded, calibration: Encoded | None) -> None:
    """Write what the contestants need.

    Args:
        folder: an empty one.
        rows: texts or images as they came.
        encoded: the same rows as token ids or pixels.
        calibration: training rows for a quantizer; None where there are none.
    """
    (folder / _TEXTS).write_text(json.dumps([rows.texts, rows.texts2]), encoding="utf-8")
    if rows.images is not None:
        shapes = np.array([image.shape for image in rows.images], np.int64)
        flat = np.concatenate([image.reshape(-1) for image in rows.images])
        np.savez(folder / _IMAGES, shapes=shapes, flat=flat)
    _write(folder / _ENCODED, encoded)
    if calibration is not None:
        _write(folder / _CALIBRATION, calibration)


def _write(file: Path, encoded: Encoded) -> None:
    if encoded.pixel_values is not None:
        np.savez(file, pixels=encoded.pixel_values)
        return
    held: dict[str, Any] = {"lengths": encoded.lengths, "ids": _flat(encoded.input_ids or [])}
    if encoded.token_type_ids is not None:
        held["kinds"] = _flat(encoded.token_type_ids)
    np.savez(file, **held)


def _flat(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.concatenate([np.asarray(row, np.int64) for row in rows]) if rows else np.zeros(0, np.int64)


@dataclass(frozen=True)
class Stored:
    """What :func:`write_rows` left in a folder; read when it is first asked for."""

    folder: Path

    @cached_property
    def encoded(self) -> Encoded:
        """Token ids, or pixels; labels are not for contestants."""
        return _read(self.folder / _ENCODED)

    @cached_property
    def calibration(self) -> Encoded | None:
        """Training rows for a quantizer, or None."""
        file = self.folder / _CALIBRATION
        return _read(file) if file.is_file() else None

    @cached_property
    def rows(self) -> Rows:
        """Texts or images as they came."""
        texts, partners = json.loads((self.folder / _TEXTS).read_text(encoding="utf-8"))
        images = None
        if (self.folder / _IMAGES).is_file():
            with np.load(self.folder / _IMAGES, allow_pickle=False) as held:
                shapes, flat = held["shapes"], held["flat"]
            ends = np.cumsum(shapes.prod(1))
            images = [
                flat[end - shape.prod() : end].reshape(shape) for shape, end in zip(shapes, ends, strict=True)
            ]
        n = len(self)
        return Rows(texts, partners, images, np.zeros(n, np.int64), np.arange(n), "the rows of the race")

    def __len__(self) -> int:
        return len(self.encoded)

    def order(self, name: str) -> NDArray[np.int64]:
        """Row numbers as they came (``arrival``), or by length (``sorted``)."""
        if name == "arrival":
            return np.arange(len(self))
        return np.argsort(self.encoded.lengths, kind="stable")


def _read(file: Path) -> Encoded:
    with np.load(file, allow_pickle=False) as held:
        found: dict[str, NDArray[Any]] = {name: held[name] for name in held.files}
    if "pixels" in found:
        return Encoded(np.zeros(len(found["pixels"]), np.int64), pixel_values=found["pixels"])
    ends = np.cumsum(found["lengths"])[:-1]
    labels = np.zeros(len(found["lengths"]), np.int64)
    kinds = [part.tolist() for part in np.split(found["kinds"], ends)] if "kinds" in found else None
    return Encoded(
        labels, input_ids=[part.tolist() for part in np.split(found["ids"], ends)], token_type_ids=kinds
    )
