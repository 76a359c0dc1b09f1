"""The manifest: name, size and SHA-256 of every file of a folder; written last, checked on demand."""

import hashlib
import json
import os
import platform
import re
import stat
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from sparsam import plugin
from sparsam.errors import InputOutput, Refused, SparsamError, Usage

MANIFEST = "MANIFEST.json"
FACTS = "sparsam.json"
CONFIG = "config.json"
EVALUATION = "evaluation.json"
SCHEMA = 1
MAX_JSON_BYTES = 2_000_000
"""What is read of a JSON file. So many bytes of brackets take 0.05 GB and half a second to read; chosen by us."""


def versions() -> dict[str, str]:
    """Versions of what a checkpoint depends on."""
    found = {"python": platform.python_version()}
    for name in ("sparsam", "torch", "transformers", "safetensors"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def write_manifest(folder: Path) -> None:
    """Write the manifest of a folder whose other files are complete."""
    entries = {}
    for file in files_of(folder):
        entries[file.relative_to(folder).as_posix()] = {
            "bytes": file.stat().st_size,
            "sha256": sha256_of(file),
        }
    write_text(folder / MANIFEST, _as_written(versions(), entries))


def _as_written(made_with: Any, entries: dict[str, dict[str, Any]]) -> str:
    """The one text of a manifest."""
    whole = {"schema": SCHEMA, "versions": made_with, "files": entries}
    return json.dumps(whole, indent=2, sort_keys=True, allow_nan=False) + "\n"


def files_of(folder: Path) -> list[Path]:
    """All files of a folder, in order. A folder that cannot be listed is an OSError; ``rglob`` would pass it over."""
    return sorted(path for path in entries_of(folder) if path.is_file())


def entries_of(folder: Path) -> list[Path]:
    """All that stands in a folder and those inside, but for the folders themselves."""
    return [Path(where, name) for where, _, names in os.walk(folder, onerror=_fail) for name in names]


def _fail(error: OSError) -> None:
    raise error


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits; :class:`InputOutput` where it cannot be read."""
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(file, error) from None


def json_text(whole: dict[str, Any], what: str, code: str) -> str:
    """An object as the text of a file that is read again. Raises Usage ``code`` for what JSON cannot say, or too much of it."""
    try:
        text = json.dumps(whole, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise Usage(
            f"{what} must be JSON (text, finite numbers, lists, objects): {error}.", code=code
        ) from None
    if len(text) > MAX_JSON_BYTES:
        raise Usage(
            f"{what}: {len(text)} bytes as JSON; no more than {MAX_JSON_BYTES} are read again. Keep figures of that size in a "
            "file of their own.",
            code=code,
        )
    return text


def write_text(file: Path, text: str) -> None:
    """Write text with the same bytes on every system."""
    with open(file, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)


def is_artifact(folder: Any) -> bool:
    """Whether a folder says that sparsam wrote it: it has a manifest, whatever is in that, or a plan in its config.

    Nothing is checked; a folder that says so and is not whole is refused by :func:`load` and :func:`load_dense`.
    """
    try:
        place = Path(folder)
        return has_manifest(place) or plugin.has_plan(read_json(place / CONFIG))
    except (SparsamError, TypeError, ValueError, OSError):
        return False


def has_manifest(folder: Path) -> bool:
    """Whether a folder has a manifest, be it readable or not."""
    return os.path.lexists(folder / MANIFEST)


def verify(folder: str | os.PathLike[str]) -> None:
    """Check every file of an artefact against its manifest. Files the manifest does not name are passed over.

    Raises:
        InputOutput: ``manifest-missing``, ``manifest-invalid``, ``file-missing``, ``file-size``, ``file-unreadable``.
        Refused: ``digest`` (a file was changed), ``saved-over`` (another tool saved a whole model there),
            ``artifact-version`` (a newer schema).
    """
    folder = Path(folder)
    entries = read_manifest(folder)
    try:
        _check(folder, entries)
        _check_itself(folder, entries)
    except SparsamError:
        over = _saved_over(folder, entries)
        if over is None:
            raise
        raise Refused(
            f"{folder} was saved over by another tool (save_pretrained, the Trainer) after sparsam wrote it: {over} is whole, "
            f"but not the one that {MANIFEST} names. If that was meant, delete {MANIFEST} and {FACTS} there, or save the "
            "model with sparsam.save; if not, copy or download the folder again.",
            code="saved-over",
        ) from None


def _check_itself(folder: Path, entries: dict[str, dict[str, Any]]) -> None:
    """The manifest is what a save writes for these files and the versions that the facts tell: nothing covers it otherwise."""
    try:
        names, written = os.listdir(folder), (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise _unreadable(folder / MANIFEST, error) from None
    weights = {name for name in names if _WEIGHTS.fullmatch(name)}
    for name in sorted({CONFIG, FACTS, *weights} - set(entries)):
        raise InputOutput(f"{folder / MANIFEST} does not name {name}. {AGAIN}", code="manifest-invalid")
    try:
        wanted = _as_written(read_json(folder / FACTS).get("versions"), entries).encode()
    except (ValueError, RecursionError):  # infinite numbers, or brackets without end
        wanted = b""
    if written != wanted:
        raise InputOutput(f"{folder / MANIFEST} is not as it was written. {AGAIN}", code="manifest-invalid")


def _saved_over(folder: Path, entries: dict[str, dict[str, Any]]) -> str | None:
    """Weights that are not those of the manifest, and whole all the same: damage would show in their own digests.

    Without digests (another tool writes none) a whole file of another size will do: a flipped bit leaves the size as it is.
    """
    for name, entry in entries.items():
        file = folder / name
        if file.suffix != ".safetensors":
            continue
        try:
            signed = plugin.check_file(file)
            if sha256_of(file) != entry["sha256"] if signed else file.stat().st_size != entry["bytes"]:
                return name
        except (SparsamError, OSError):
            return None
    return None


def _check(folder: Path, entries: dict[str, dict[str, Any]]) -> None:
    for name, entry in entries.items():
        file = folder / name
        try:
            found = file.stat()
        except (OSError, ValueError):  # a name that no file can have
            raise InputOutput(
                f"{file} is missing; {MANIFEST} names it. {AGAIN}", code="file-missing"
            ) from None
        size = found.st_size
        if not stat.S_ISREG(found.st_mode):
            raise InputOutput(f"{file} is no ordinary file. {AGAIN}", code="file-unreadable")
        if size != entry["bytes"]:
            raise InputOutput(
                f"{file} has {size} bytes; {MANIFEST} says {entry['bytes']}. {AGAIN}", code="file-size"
            )
        digest = sha256_of(file)
        if digest != entry["sha256"]:
            raise Refused(
                f"{file} is not what was saved: its SHA-256 is {digest[:12]}…, {MANIFEST} says "
                f"{entry['sha256'][:12]}…. {AGAIN}",
                code="digest",
            )


def _unreadable(file: Path, error: OSError) -> InputOutput:
    return InputOutput(
        f"{file} cannot be read: {error.strerror or error}. Check its permissions.", code="file-unreadable"
    )


AGAIN = "Copy or download the folder again; to change a model, load it, change it and save it with sparsam."
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_HEX = re.compile(r"[0-9a-f]{64}")


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """The files a manifest names, checked for form."""
    file = folder / MANIFEST
    if not file.is_file():
        raise InputOutput(
            f"{folder} has no {MANIFEST}, so it is no folder that sparsam wrote, or not all of one. {AGAIN}",
            code="manifest-missing",
        )
    whole = read_json(file)
    version = whole.get("schema")
    if isinstance(version, int) and not isinstance(version, bool) and version > SCHEMA:
        raise Refused(
            f"{file} has schema version {version}; this sparsam reads up to {SCHEMA}. Upgrade sparsam.",
            code="artifact-version",
        )
    entries = whole.get("files")
    if (
        version != SCHEMA
        or not isinstance(entries, dict)
        or not entries
        or not all(map(_is_entry, entries.items()))
    ):
        raise InputOutput(f"{file} cannot be read as a manifest. {AGAIN}", code="manifest-invalid")
    return entries


def _is_entry(item: tuple[str, Any]) -> bool:
    name, entry = item
    path = PurePosixPath(name)
    inside = (
        bool(path.parts)
        and not path.is_absolute()
        and ".." not in path.parts
        and not set(name) & {"\\", "\0", ":"}
    )
    return (
        inside
        and isinstance(entry, dict)
        and set(entry) == {"bytes", "sha256"}
        and type(entry.get("bytes")) is int
        and isinstance(entry.get("sha256"), str)
        and bool(_HEX.fullmatch(entry["sha256"]))
    )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputOutput: ``file-missing``, ``file-unreadable``, ``json-invalid``.
    """
    try:
        found = file.stat()
        if found.st_size > MAX_JSON_BYTES:
            raise InputOutput(
                f"{file} has {found.st_size} bytes; no more than {MAX_JSON_BYTES} are read.",
                code="json-invalid",
            )
        if not stat.S_ISREG(found.st_mode):  # a pipe or a device would be read without end
            raise InputOutput(f"{file} is no ordinary file. {AGAIN}", code="file-unreadable")
        whole = json.loads(file.read_bytes().decode("utf-8"))
    except SparsamError:
        raise
    except FileNotFoundError:
        raise InputOutput(f"{file} is missing. {AGAIN}", code="file-missing") from None
    except OSError as error:
        raise _unreadable(file, error) from None
    except (ValueError, RecursionError) as error:
        raise InputOutput(f"{file} is not JSON: {str(error)[:120]}. {AGAIN}", code="json-invalid") from None
    if not isinstance(whole, dict):
        raise InputOutput(f"{file} holds no JSON object. {AGAIN}", code="json-invalid")
    return whole
