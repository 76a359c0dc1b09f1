"""Files: nothing is written during a check; what is read is read where that is harmless, else nothing is known of it."""

import builtins
import glob
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch

from sparsam.shapes.run import Run, Stop, current
from sparsam.shapes.standins.packages import Absent
from sparsam.shapes.verdict import Unknown

_BETWEEN = (
    "pathlib.py",
    "glob.py",
    "os.py",
    "shutil.py",
    "tempfile.py",
    "fnmatch.py",
)  # of Python, that call for the program


class Nowhere(io.StringIO):
    """A file that is written: its text can be read again in the same run.

    Args:
        path: Its name.
        before: Text that it had, to which more is added.
    """

    def __init__(self, path: str, before: str = "") -> None:
        super().__init__()
        self.path, self.name = path, path
        super().write(before)

    def write(self, text: Any) -> int:
        """Takes text or bytes."""
        return super().write(text if isinstance(text, str) else "")

    def close(self) -> None:
        """Keeps the text for the rest of the run."""
        run = current()
        if run is not None and not self.closed:
            run.notes.setdefault("written", {})[os.path.abspath(self.path)] = self.getvalue()
        super().close()

    def fileno(self) -> int:
        """There is none."""
        raise io.UnsupportedOperation("fileno")


class Stored(Absent):
    """What a file holds that is not read: a state, a model, a list, whatever the program takes it for."""

    def _used(self) -> None:
        run = current()
        if run is not None:
            run.unknown("missing-file", f"what {self.__dict__['_name']} holds is not known")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._used()
        return Stored(f"{self.__dict__['_name']}(…)", harmless=False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        if name in ("to", "cuda", "cpu", "eval", "train", "float", "half"):
            return lambda *args, **kwargs: self
        if name in ("get", "pop", "setdefault"):
            return lambda key, *others: self[key]
        if name in ("items", "keys", "values"):
            return lambda: self._pairs(name)
        if name == "load_state_dict":
            return lambda *args, **kwargs: None
        return Stored(f"{self.__dict__['_name']}.{name}", harmless=False)

    def _pairs(self, name: str) -> list[Any]:
        key, value = "…", self["…"]
        return [{"items": (key, value), "keys": key, "values": value}[name]]

    def __getitem__(self, key: Any) -> "Stored":
        return Stored(f"{self.__dict__['_name']}[{key!r}]", harmless=False)

    def __contains__(self, key: Any) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(["…"])


def stored(value: Any) -> bool:
    """Whether a value is what a file holds that was not read, or a dictionary made of such."""
    if isinstance(value, Absent):
        return True
    return isinstance(value, dict) and any(isinstance(item, Absent) for item in value.values())


def _asker(run: Run) -> bool:
    """Whether the program's own line calls, itself or through one of Python's own functions on files."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.endswith(_BETWEEN):
        frame = frame.f_back
    return frame is not None and run.places.own(frame.f_code.co_filename)


def _missing(run: Run, path: Any, what: str = "is not there") -> Stop:
    return Stop(
        Unknown("missing-file", f"{path} {what}; what the program does with it is not known", run._here())
    )


# -- reading and writing ------------------------------------------------------------------------------------------------


def _opener(real: Callable[..., Any]) -> Callable[..., Any]:
    def opening(file: Any, mode: Any = "r", *args: Any, **kwargs: Any) -> Any:
        run = current()
        if run is None or not isinstance(file, (str, os.PathLike)) or file == os.devnull:
            return real(file, mode, *args, **kwargs)
        path = os.path.abspath(file)
        known = run.notes.get("written", {})
        if any(letter in mode for letter in "wax+"):
            return Nowhere(path, known.get(path, "") if "a" in mode else "")
        if path in known:
            return io.BytesIO(known[path].encode()) if "b" in mode else io.StringIO(known[path])
        if not os.path.exists(path) and _asker(run):
            raise _missing(run, file)
        return real(file, mode, *args, **kwargs)

    return opening


def _writes(result: Any = None) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        return result

    return function


def _only_outside(real: Callable[..., Any]) -> Callable[..., Any]:
    """A function that writes: does nothing during a run."""

    def function(*args: Any, **kwargs: Any) -> Any:
        return real(*args, **kwargs) if current() is None else None

    return function


def _listing(real: Callable[..., Any]) -> Callable[..., Any]:
    def function(path: Any = ".", *args: Any) -> Any:
        run = current()
        if (
            run is not None
            and isinstance(path, (str, os.PathLike))
            and not os.path.isdir(path)
            and _asker(run)
        ):
            raise _missing(run, path, "is no folder here")
        return real(path, *args)

    return function


def _globbing(real: Callable[..., Any]) -> Callable[..., Any]:
    def function(pathname: Any, *args: Any, **kwargs: Any) -> Any:
        found = real(pathname, *args, **kwargs)
        run = current()
        if run is None or not _asker(run):
            return found
        found = list(found)
        if not found:
            run.unknown("missing-file", f"no file fits {pathname}; the program is tried without any")
        return found

    return function


# -- what the framework stores --------------------------------------------------------------------------------------------


def save(obj: Any, f: Any = None, *args: Any, **kwargs: Any) -> None:
    """`torch.save`: writes nothing, and is remembered for `torch.load` in the same run."""
    run = current()
    if run is not None and isinstance(f, (str, os.PathLike)):
        run.notes.setdefault("saved", {})[os.path.abspath(f)] = obj


def load(f: Any, *args: Any, **kwargs: Any) -> Any:
    """`torch.load`: what the run saved under that name, else something of which nothing is known."""
    run = current()
    if run is not None and isinstance(f, (str, os.PathLike)):
        saved = run.notes.get("saved", {})
        if os.path.abspath(f) in saved:
            return saved[os.path.abspath(f)]
    return Stored(str(f) if isinstance(f, (str, os.PathLike)) else "the file", harmless=False)


def _accepts(real: Callable[..., Any], result: Any = None) -> Callable[..., Any]:
    """`load_state_dict`: takes a state of which nothing is known."""

    def function(self: Any, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        return result if stored(state_dict) else real(self, state_dict, *args, **kwargs)

    return function


def _array_of(real: Callable[..., Any]) -> Callable[..., Any]:
    """Functions of NumPy that read a file: for real where it is there."""

    def function(file: Any, *args: Any, **kwargs: Any) -> Any:
        run = current()
        if run is not None and isinstance(file, (str, os.PathLike)) and not os.path.exists(file):
            return Stored(str(file), harmless=False)
        if kwargs.pop("allow_pickle", False) and run is not None:
            kwargs["allow_pickle"] = False
        return real(file, *args, **kwargs)

    return function


def patches() -> Iterator[tuple[Any, str, Any]]:
    """(owner, attribute, stand-in) for all of this module."""
    yield builtins, "open", _opener(builtins.open)
    yield io, "open", _opener(io.open)
    for name in ("mkdir", "makedirs", "remove", "unlink", "rmdir", "removedirs", "rename", "replace", "symlink", "link",
                 "chmod", "truncate", "utime"):  # fmt: skip
        yield os, name, _only_outside(getattr(os, name))
    for name in ("rmtree", "copy", "copyfile", "copy2", "copytree", "move", "make_archive", "unpack_archive"):
        yield shutil, name, _only_outside(getattr(shutil, name))
    yield os, "listdir", _listing(os.listdir)
    yield os, "scandir", _listing(os.scandir)
    yield glob, "glob", _globbing(glob.glob)
    yield torch, "save", save
    yield torch, "load", load
    for kind in (
        torch.nn.Module,
        torch.optim.Optimizer,
        torch.optim.lr_scheduler.LRScheduler,
        torch.amp.GradScaler,
    ):
        yield (
            kind,
            "load_state_dict",
            _accepts(kind.load_state_dict, _Keys() if kind is torch.nn.Module else None),
        )
    yield from _of_pillow()
    yield from _of_numpy()


class _Keys(tuple):  # type: ignore[type-arg]
    """What `load_state_dict` says of keys: none are missing, none too many."""

    missing_keys: tuple[str, ...] = ()
    unexpected_keys: tuple[str, ...] = ()

    def __new__(cls) -> "_Keys":
        return super().__new__(cls, ([], []))


def _of_pillow() -> Iterator[tuple[Any, str, Any]]:
    from sparsam.shapes.standins import pictures

    if pictures.PILLOW:
        from PIL import Image

        yield Image.Image, "save", _only_outside(Image.Image.save)


def _of_numpy() -> Iterator[tuple[Any, str, Any]]:
    from sparsam.shapes.standins import arrays

    if arrays.NUMPY:
        import numpy as np

        for name in ("save", "savez", "savez_compressed", "savetxt"):
            yield np, name, _only_outside(getattr(np, name))
        for name in ("load", "loadtxt", "genfromtxt", "fromfile"):
            yield np, name, _array_of(getattr(np, name))
