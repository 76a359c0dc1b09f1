"""Numbered descriptors of files in memory, for programs that write by `os.open` and `os.write` instead of `open`.

Each number is a real descriptor, to an empty memory file of the kernel's, so that no other file gets it; what is read
and written goes to the overlay.
"""

import builtins
import errno
import io
import os
from collections.abc import Callable
from typing import Any

from sparsam.shapes.overlay import Overlay, Raw, replace

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def install(overlay: Overlay) -> None:
    """Put the stand-ins in the place of the functions of `os`, for the whole process and for good."""
    held: dict[int, Raw] = {}
    reopen = overlay.open
    real: dict[str, Callable[..., Any]] = {
        name: getattr(os, name)
        for name in ("open", "close", "read", "write", "lseek", "fstat", "ftruncate", "fsync", "fdatasync")
    }

    def opening(path: Any, flags: int, mode: int = 0o777, *, dir_fd: Any = None) -> int:
        if (
            dir_fd is not None
            or not (flags & _WRITING or overlay.knows(path))
            or os.fspath(path) == os.devnull
        ):
            return int(real["open"](path, flags, mode, dir_fd=dir_fd))
        there = overlay.exists(path)
        if there and flags & os.O_CREAT and flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        if not there and not flags & os.O_CREAT:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        access = flags & os.O_ACCMODE
        kept = "r" if there and not flags & os.O_TRUNC else "w"
        raw = overlay.open(path, f"{kept}+b" if access != os.O_RDONLY or kept == "w" else "rb", buffering=0)
        if flags & os.O_APPEND:
            raw.append()
        number = os.memfd_create("overlay")
        held[number] = raw
        return number

    def closing(number: int) -> None:
        held.pop(number, None)
        real["close"](number)

    def passed(name: str, stand_in: Callable[..., Any]) -> Callable[..., Any]:
        genuine = real[name]

        def chosen(number: Any, *given: Any) -> Any:
            raw = held.get(number) if isinstance(number, int) else None
            return genuine(number, *given) if raw is None else stand_in(raw, *given)

        return chosen

    def opened(file: Any, mode: str = "r", *given: Any, **options: Any) -> Any:
        raw = held.get(file) if isinstance(file, int) else None
        if raw is None:
            return reopen(file, mode, *given, **options)
        return overlay.dress(_Owned(raw, lambda: closing(file)), mode, *given, **options)

    def truncating(path: Any, length: int) -> None:
        if isinstance(path, int):
            stand_ins["ftruncate"](path, length)
        else:
            overlay.truncate(path, length)

    stand_ins: dict[str, Callable[..., Any]] = {
        "open": opening,
        "close": closing,
        "read": passed("read", lambda raw, count: raw.read(count)),
        "write": passed("write", lambda raw, data: raw.write(data)),
        "lseek": passed("lseek", lambda raw, offset, whence: raw.seek(offset, whence)),
        "fstat": passed("fstat", lambda raw: overlay.stat(raw.name)),
        "ftruncate": passed("ftruncate", lambda raw, length: raw.truncate(length)),
        "fsync": passed("fsync", lambda raw: None),
        "fdatasync": passed("fdatasync", lambda raw: None),
        "truncate": truncating,
    }
    replace(
        [
            *((os, name, stand_in) for name, stand_in in stand_ins.items()),
            (builtins, "open", opened),
            (io, "open", opened),
        ]
    )


class _Owned(Raw):
    """A file opened from a descriptor, which it closes with itself."""

    def __init__(self, raw: Raw, on_close: Callable[[], None]) -> None:
        self.__dict__.update(raw.__dict__)
        self._on_close = on_close

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._on_close()
