"""All or nothing: a folder is written beside its place, flushed, and exchanged with what stands there in one step."""

import ctypes
import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from sparsam.artifact.manifest import files_of, is_artifact
from sparsam.errors import InputOutput, SparsamError, Usage

STALE_SECONDS = 24 * 3600
"""Age after which a staging folder of another machine counts as left behind. Chosen by us: no save takes a day."""


def real_path(folder: str | os.PathLike[str]) -> Path:
    """Where a folder really is, so that a link to one is kept and its goal replaced."""
    try:
        place = Path(folder).expanduser().resolve()
        str(place).encode()  # safetensors reads and writes under no other names
        return place
    except (OSError, ValueError, RuntimeError) as error:
        raise Usage(f"{folder!r} is no path: {error}.", code="path") from None


def this_machine() -> str:
    """Six hexadecimal digits for this machine: process ids mean nothing on another that shares the disk."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def beside(target: Path, kind: str) -> Path:
    """A new name beside ``target``, with this process and machine in it."""
    return target.with_name(f"{target.name}.{kind}-{os.getpid()}-{this_machine()}{secrets.token_hex(3)}")


def left_behind(target: Path, kind: str) -> list[Path]:
    """Folders beside ``target`` that a save of it left when it was killed; the newest first."""
    pattern = re.compile(re.escape(target.name) + rf"\.{kind}-(\d+)-([0-9a-f]{{6}})[0-9a-f]{{6}}")
    found: list[tuple[float, Path]] = []
    with suppress(OSError):
        for path in target.parent.iterdir():
            match = pattern.fullmatch(path.name)
            if match is None:
                continue
            with suppress(OSError):
                changed = path.stat().st_mtime
                alone = match[2] == this_machine() and not _alive(int(match[1]))
                if alone or (match[2] != this_machine() and _now() - changed > STALE_SECONDS):
                    found.append((changed, path))
    return [path for _, path in sorted(found, reverse=True)]


def _now() -> float:
    return time.time()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def recover(target: Path) -> None:
    """Put back a folder that was renamed aside by a save that stopped before its second rename."""
    if os.path.lexists(target):
        return
    for aside in left_behind(target, "old"):
        if is_artifact(aside):
            os.rename(aside, target)
            return


def collect(target: Path) -> None:
    """Remove what killed saves left beside ``target``."""
    for kind in ("tmp", "old"):
        for path in left_behind(target, kind):
            shutil.rmtree(path, ignore_errors=True)


def flush(folder: Path) -> None:
    """Wait until a folder and all that is in it is on disk."""
    for file in files_of(folder):
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
    for where in {file.parent for file in files_of(folder)} | {folder}:
        flush_folder(where)


def write_whole(file: Path, text: str, near: Path | None = None) -> None:
    """Write a text file, whole or not at all.

    What a killed process leaves stands beside ``near``, the file itself if absent, where the next write removes it.

    Raises:
        InputOutput: ``no-space``, ``not-writable``, ``save-failed``.
    """
    place = file if near is None else near
    with failures(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        collect(place)
        staging = beside(place, "tmp")
        try:
            staging.mkdir()
            with open(staging / file.name, "w", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(staging / file.name, file)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        flush_folder(file.parent)


def flush_folder(folder: Path) -> None:
    """Wait until a folder's own entries are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(staging: Path, target: Path) -> None:
    """Rename ``staging`` to ``target``; if a folder stands there, ``staging`` is that folder afterwards, or gone."""
    try:
        os.rename(staging, target)  # nothing there, or an empty folder
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if exchange(staging, target):
        return
    aside = beside(target, "old")
    os.rename(target, aside)
    try:
        os.rename(staging, target)
    except BaseException:
        try:
            os.rename(aside, target)
        except OSError as error:
            raise InputOutput(
                f"{target} could not be replaced, and the old folder not be put back: {error.strerror}. It is whole, and "
                f"stands at {aside}; rename it to {target.name}.",
                code="save-failed",
            ) from error
        raise
    shutil.rmtree(aside, ignore_errors=True)


_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    done = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BARRED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def failures(target: Path) -> Iterator[None]:
    """Tell a failing disk in our own words."""
    try:
        yield
    except SparsamError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number is None and (match := re.search(r"os error (\d+)", str(error))):
            number = int(match[1])  # libraries in Rust; tokenizers raises a bare Exception
        if number is None and not isinstance(error, OSError | SafetensorError):
            raise
        said = os.strerror(number) if number else str(error)
        if number in _FULL:
            code, mend = "no-space", "Free space or choose another disk, then save again."
        elif number in _BARRED:
            code, mend = "not-writable", "Choose a folder you may write to, then save again."
        else:
            code, mend = "save-failed", "Check the disk, then save again."
        raise InputOutput(
            f"{target} could not be saved: {said}. What stood there before is untouched. {mend}", code=code
        ) from error


def user_cache(name: str) -> Path:
    """``sparsam/NAME`` in the user's cache; a new temporary folder for a user without a home."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        base = Path(tempfile.mkdtemp(prefix="cache-"))
    return base / "sparsam" / name
