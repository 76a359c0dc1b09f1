"""Exported models, kept between runs: a folder each, named after all that went into it, written whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from sparsam.artifact.manifest import sha256_of
from sparsam.artifact.staging import beside, collect, failures, flush, flush_folder, user_cache
from sparsam.errors import InputOutput

DIGESTS = "digests.json"
"""SHA-256 of every other file of an entry, by name; written last."""


def default_cache() -> Path:
    """``sparsam/exports`` in the user's cache."""
    return user_cache("exports")


@dataclass(frozen=True)
class Entry:
    """One exported model: where it belongs, and how it is made.

    ``key`` names everything it depends on; ``write`` puts its files into an empty folder.
    """

    root: Path
    key: Mapping[str, object]
    write: Callable[[Path], None]

    @property
    def folder(self) -> Path:
        """Where it stands, or will."""
        text = json.dumps(dict(self.key), sort_keys=True)
        return self.root / hashlib.sha256(text.encode()).hexdigest()[:32]

    def is_there(self) -> bool:
        """Whether it is in the cache and undamaged."""
        try:
            digests = json.loads((self.folder / DIGESTS).read_bytes())
            return bool(digests) and digests == _digests(self.folder)
        except (OSError, ValueError, InputOutput):
            return False

    def made(self) -> Path:
        """The folder, made if it is not there; a damaged one is made again.

        Raises:
            InputOutput: ``no-space``, ``not-writable``, ``save-failed``.
        """
        target = self.folder
        if self.is_there():
            return target
        with failures(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            collect(target)
            staging = beside(target, "tmp")
            try:
                staging.mkdir()
                self.write(staging)
                (staging / DIGESTS).write_text(json.dumps(_digests(staging)), encoding="utf-8")
                flush(staging)
                shutil.rmtree(target, ignore_errors=True)  # a damaged one
                try:
                    os.rename(staging, target)
                except OSError:
                    if not self.is_there():  # else another process was quicker
                        raise
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            flush_folder(target.parent)
        return target


def _digests(folder: Path) -> dict[str, str]:
    return {file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.name != DIGESTS}


def digest_of(folder: Path) -> str:
    """SHA-256 over a checkpoint's configuration and weights."""
    found = hashlib.sha256()
    for file in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        found.update(f"{file.name} {sha256_of(file)}\n".encode())
    return found.hexdigest()


def versions_of(*names: str) -> dict[str, str]:
    """Versions of what makes an export; ``absent`` where it is not installed."""
    return {name: version_of(name) or "absent" for name in names}


def version_of(name: str) -> str | None:
    """The version of an installed package; nothing is imported."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
