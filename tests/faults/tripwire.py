"""Faults at Python's own calls: something happens before the k-th operation that changes the disk. Runs everywhere."""

import builtins
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers.modeling_utils

from sparsam.artifact import staging
from sparsam.training import loop


@contextmanager
def each_operation(under: Path, act: Callable[[str], None]) -> Iterator[None]:
    """Call ``act`` before every operation that changes the disk: opening to write, write, fsync, mkdir, chmod, rename."""
    before = {
        (thing, name): getattr(thing, name)
        for thing, name in (
            (builtins, "open"),
            (io, "open"),
            (os, "open"),
            (os, "fsync"),
            (os, "mkdir"),
            (os, "chmod"),
            (os, "rename"),
            (os, "replace"),
            (loop, "save_file"),
            (transformers.modeling_utils, "safe_save_file"),
            (staging, "exchange"),
        )
    }

    class Written:
        """A file whose writes are operations too."""

        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def write(self, data: Any) -> Any:
            act("write")
            return self.stream.write(data)

        def __enter__(self) -> Any:
            self.stream.__enter__()
            return self

        def __exit__(self, *args: Any) -> Any:
            return self.stream.__exit__(*args)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        real = before[builtins, "open"]
        if not isinstance(file, str | Path) or not str(file).startswith(str(under)):
            return real(file, mode, *args, **kwargs)
        act(f"open {mode}")
        stream = real(file, mode, *args, **kwargs)
        return Written(stream) if set(mode) & set("wax+") else stream

    removing = []  # while a folder is removed nothing counts: a failure there leaves litter, which the next save collects

    def counted(name: str, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not removing:
                act(name)
            return real(*args, **kwargs)

        return call

    def remove(*args: Any, **kwargs: Any) -> None:
        removing.append(1)
        try:
            real_remove(*args, **kwargs)
        finally:
            removing.pop()

    real_remove = shutil.rmtree
    try:
        for (thing, name), real in before.items():
            setattr(thing, name, opened if thing in (builtins, io) else counted(name, real))
        shutil.rmtree = remove  # type: ignore[assignment]
        yield
    finally:
        for (thing, name), real in before.items():
            setattr(thing, name, real)
        shutil.rmtree = real_remove


class Trip:
    """Does something at the k-th operation."""

    def __init__(self, k: int, action: Callable[[], Any], persistent: bool = False) -> None:
        self.left = k
        self.action = action
        self.persistent = persistent

    def __call__(self, name: str) -> None:
        self.left -= 1
        if self.left == 0 or (self.persistent and self.left < 0):
            self.action()

    @property
    def tripped(self) -> bool:
        return self.left <= 0


def failing(number: int) -> Callable[[], Any]:
    """Raise as the disk would."""

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail
