"""Files of results: written whole or not at all, and only where nothing else stands."""

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from sparsam.errors import InputOutput, Usage


def write_whole(file: Path, text: str) -> None:
    """Write a text file beside its place, then put it there in one step.

    Raises:
        InputOutput: ``not-writable``; what stood there is untouched.
    """
    name = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=file.parent, prefix=f".{file.name}.", delete=False, encoding="utf-8"
        ) as out:
            name = out.name
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, file)
    except OSError as error:
        if name is not None:
            with suppress(OSError):
                os.unlink(name)
        raise InputOutput(
            f"{file} cannot be written: {error.strerror or error}.", code="not-writable"
        ) from error


def _umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def folder_for(folder: str | os.PathLike[str], index: str) -> Path:
    """The folder that results go to: new, empty, or one that holds such results already (a file called ``index``).

    Raises:
        Usage: ``out-folder``.
        InputOutput: ``not-writable``.
    """
    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise Usage(f"{place} is a file; --out names a folder.", code="out-folder")
    if place.is_dir() and not (place / index).is_file() and any(place.iterdir()):
        raise Usage(
            f"{place} holds files and no {index}; it is left alone. Name a new folder.", code="out-folder"
        )
    there = next(x for x in (place.absolute(), *place.absolute().parents) if x.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputOutput(
            f"{place} cannot be made: {there} is no folder that one may write to.", code="not-writable"
        )
    return place


def plain_json(value: Any) -> Any:
    """Numbers, arrays and mappings as JSON knows them; what is infinite or NaN as text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain_json(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def json_text(value: Any) -> str:
    """As it stands in a file."""
    return json.dumps(plain_json(value), indent=1, allow_nan=False) + "\n"
