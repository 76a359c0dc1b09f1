"""Files: nothing is written during a check; what is read is read where that is harmless, else nothing is known of it.

What a run did to files is among its notes (`FILES`), by absolute path, and what it asks about files is answered from them.
"""

import builtins
import errno
import glob
import io
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch

from sparsam.shapes.run import FILES, Run, Stop, current
from sparsam.shapes.standins.packages import Absent
from sparsam.shapes.verdict import Unknown

# Files of Python that call for the program, as they are named on disk and in its binary; and the hook that its loops run in.
_BETWEEN = (
    "pathlib.py", "glob.py", "os.py", "shutil.py", "tempfile.py", "fnmatch.py", "_collections_abc.py",
    "<frozen os>", "<frozen _collections_abc>", os.path.join("shapes", "loops.py"),
)  # fmt: skip


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
            _put(run, "written", self.path, self.getvalue())
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


def asked_by_program(run: Run) -> bool:
    """Whether the program's own line calls, itself or through one of Python's own functions on files."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.endswith(_BETWEEN):
        frame = frame.f_back
    return frame is not None and run.places.own(frame.f_code.co_filename)


def _missing(run: Run, path: Any, what: str = "is not there") -> Stop:
    return Stop(
        Unknown("missing-file", f"{path} {what}; what the program does with it is not known", run._here())
    )


# -- what a run did to files ----------------------------------------------------------------------------------------------


def _put(run: Run, kind: str, path: Any, held: Any) -> None:
    """A file or folder is there from now on: `kind` is one of `FILES`."""
    path = os.path.abspath(path)
    for other in FILES:
        run.notes.get(other, {}).pop(path, None)
    run.notes.setdefault(kind, {})[path] = held


def _known(run: Run | None, path: Any) -> str:
    """What a run made of a path: "file", "folder", "gone"; empty if it did nothing to it."""
    if run is None or not run.notes or not isinstance(path, (str, os.PathLike)):
        return ""
    at = os.path.abspath(path)
    for kind, what in (("written", "file"), ("saved", "file"), ("folders", "folder"), ("removed", "gone")):
        if at in run.notes.get(kind, ()):
            return what
    removed = run.notes.get("removed", ())
    return "gone" if any(str(above) in removed for above in pathlib.PurePath(at).parents) else ""


def _gone(path: Any) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))


def _beneath(run: Run, path: Any) -> list[tuple[str, str]]:
    """What the run did to files and folders in a folder: path and kind, by the paths' order."""
    start = os.path.abspath(path).rstrip(os.sep) + os.sep
    return sorted((at, kind) for kind in FILES for at in run.notes.get(kind, ()) if at.startswith(start))


def _making(real: Callable[..., Any], *, above: bool = False) -> Callable[..., Any]:
    """`os.mkdir` and `os.makedirs`."""

    def function(path: Any, *args: Any, **kwargs: Any) -> Any:
        run = current()
        if run is None or not isinstance(path, (str, os.PathLike)):
            return real(path, *args, **kwargs) if run is None else None
        allowed = kwargs.get("exist_ok", args[1] if above and len(args) > 1 else False)
        known = _known(run, path)
        if known == "file" or (known == "folder" and not allowed):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(path))
        at = pathlib.Path(os.path.abspath(path))
        for folder in (*(reversed(at.parents) if above else ()), at):
            if _known(run, folder) == "gone" or not os.path.isdir(folder):
                _put(run, "folders", folder, None)
        return None

    return function


def _removing(real: Callable[..., Any], *, sure: bool = False) -> Callable[..., Any]:
    """Functions that remove: `sure` of those that fail where the run has removed it before."""

    def function(path: Any, *args: Any, **kwargs: Any) -> Any:
        run = current()
        if run is None or not isinstance(path, (str, os.PathLike)):
            return real(path, *args, **kwargs) if run is None else None
        if sure and _known(run, path) == "gone":
            raise _gone(path)
        for at, kind in _beneath(run, path):
            del run.notes[kind][at]
        _put(run, "removed", path, None)
        return None

    return function


def _moving(real: Callable[..., Any], *, stays: bool) -> Callable[..., Any]:
    """Functions that rename, link or copy: what a file holds that the run did not write is not looked at."""

    def function(src: Any, dst: Any, *args: Any, **kwargs: Any) -> Any:
        run = current()
        if run is None or not isinstance(src, (str, os.PathLike)) or not isinstance(dst, (str, os.PathLike)):
            return real(src, dst, *args, **kwargs) if run is None else None
        start, end = os.path.abspath(src), os.path.abspath(dst)
        if _known(run, start) == "gone":
            raise _gone(src)
        if os.path.isdir(end) and not os.path.isdir(start):
            end = os.path.join(end, os.path.basename(start))
        beneath = _beneath(run, start)
        if _known(run, start) == "folder" or (not _known(run, start) and os.path.isdir(start)):
            _put(run, "folders", end, None)
        else:
            kind = "written" if start in run.notes.get("written", ()) else "saved"
            _put(run, kind, end, run.notes.get(kind, {}).get(start, Stored(start, harmless=False)))
        for at, kind in beneath:
            _put(run, kind, end + at[len(start) :], run.notes[kind][at])
            if not stays:
                del run.notes[kind][at]
        if not stays:
            _put(run, "removed", start, None)
        return dst

    return function


def _there(real: Callable[..., Any], *kinds: str) -> Callable[..., Any]:
    """Whether there is something at a path, or something of these kinds."""

    def function(path: Any, *args: Any, **kwargs: Any) -> Any:
        known = _known(current(), path)
        return known in kinds if known else real(path, *args, **kwargs)

    return function


def _measuring(real: Callable[..., Any]) -> Callable[..., Any]:
    """What nothing is known of where the run wrote a file itself: its size, its times."""

    def function(path: Any, *args: Any, **kwargs: Any) -> Any:
        run = current()
        known = _known(run, path)
        if run is None or not known:
            return real(path, *args, **kwargs)
        if known == "gone":
            raise _gone(path)
        raise _missing(run, path, "is the program's own; its size and times are not known")

    return function


def _touching(real: Callable[..., Any]) -> Callable[..., Any]:
    """`Path.touch`."""

    def function(path: Any, *args: Any, **kwargs: Any) -> Any:
        run = current()
        if run is None:
            return real(path, *args, **kwargs)
        if not os.path.exists(path):
            _put(run, "written", path, "")
        return None

    return function


def _storing(real: Callable[..., Any], at: int = 0, ending: str = "") -> Callable[..., Any]:
    """A function that writes a file of which nothing is known afterwards but that it is there.

    Args:
        real: The function.
        at: Which of its arguments is the path.
        ending: Put behind a path that has none.
    """

    def function(*args: Any, **kwargs: Any) -> Any:
        run = current()
        if run is None:
            return real(*args, **kwargs)
        path = args[at] if len(args) > at else None
        if isinstance(path, (str, os.PathLike)):
            name = os.fspath(path)
            name = name if name.endswith(ending) else name + ending
            _put(run, "saved", name, Stored(name, harmless=False))
        return None

    return function


# -- reading and writing ------------------------------------------------------------------------------------------------


def _opener(real: Callable[..., Any]) -> Callable[..., Any]:
    def opening(file: Any, mode: Any = "r", *args: Any, **kwargs: Any) -> Any:
        run = current()
        if run is None or not isinstance(file, (str, os.PathLike)) or file == os.devnull:
            return real(file, mode, *args, **kwargs)
        path = os.path.abspath(file)
        texts = run.notes.get("written", {})
        if any(letter in mode for letter in "wax+"):
            before = texts.get(path, "") if "a" in mode else ""
            _put(run, "written", path, before)
            return Nowhere(path, before)
        if path in texts:
            return io.BytesIO(texts[path].encode()) if "b" in mode else io.StringIO(texts[path])
        known = _known(run, path)
        if known == "gone":
            raise _gone(file)
        if known:
            raise _missing(run, file, "is the program's own; what it holds is not known")
        if not os.path.exists(path) and asked_by_program(run):
            raise _missing(run, file)
        return real(file, mode, *args, **kwargs)

    return opening


def _only_outside(real: Callable[..., Any]) -> Callable[..., Any]:
    """A function that writes: does nothing during a run."""

    def function(*args: Any, **kwargs: Any) -> Any:
        return real(*args, **kwargs) if current() is None else None

    return function


def _listing(real: Callable[..., Any], *, names: bool) -> Callable[..., Any]:
    """`os.listdir`, which gives names, and `os.scandir`, which gives entries."""

    def function(path: Any = ".", *args: Any) -> Any:
        run = current()
        if run is None or not isinstance(path, (str, os.PathLike)):
            return real(path, *args)
        beneath, known = _beneath(run, path), _known(run, path)
        if not os.path.isdir(path) and asked_by_program(run):
            raise _missing(run, path, "is no folder here")
        if not beneath and not known:
            return real(path, *args)
        found: dict[str, Any] = {}
        if known != "folder":
            listed = real(path, *args)
            found = {name if names else name.name: name for name in listed}
        start = os.path.abspath(path)
        for at, kind in beneath:
            name = os.path.relpath(at, start)
            if os.sep in name:
                continue
            found.pop(name, None)
            if kind != "removed":
                found[name] = name if names else Entry(name, os.path.join(path, name), kind == "folders")
        inside = [found[name] for name in sorted(found)]
        return inside if names else Entries(inside)

    return function


class Entry:
    """What `os.scandir` tells of a file or folder that the run has made.

    Args:
        name: In its folder.
        path: As it was asked for.
        folder: Whether it is one.
    """

    def __init__(self, name: str, path: str, folder: bool) -> None:
        self.name, self.path, self._folder = name, path, folder

    def __fspath__(self) -> str:
        return self.path

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a folder."""
        return self._folder

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a file."""
        return not self._folder

    def is_symlink(self) -> bool:
        """It is none."""
        return False

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """As `os.stat` has it."""
        return os.stat(self.path)


class Entries:
    """What `os.scandir` gives: an iterator that can be closed."""

    def __init__(self, entries: list[Any]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> "Entries":
        return self

    def __next__(self) -> Any:
        return next(self._entries)

    def __enter__(self) -> "Entries":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is open."""


def _globbing(real: Callable[..., Any]) -> Callable[..., Any]:
    def function(pathname: Any, *args: Any, **kwargs: Any) -> Any:
        found = real(pathname, *args, **kwargs)
        run = current()
        if run is None or not asked_by_program(run):
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
        _put(run, "saved", f, obj)


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
        named = run is not None and isinstance(file, (str, os.PathLike))
        if named and (_known(run, file) or not os.path.exists(file)):
            return Stored(str(file), harmless=False)
        if kwargs.pop("allow_pickle", False) and run is not None:
            kwargs["allow_pickle"] = False
        return real(file, *args, **kwargs)

    return function


def patches() -> Iterator[tuple[Any, str, Any]]:
    """(owner, attribute, stand-in) for all of this module."""
    yield builtins, "open", _opener(builtins.open)
    yield io, "open", _opener(io.open)
    yield os, "mkdir", _making(os.mkdir)
    yield os, "makedirs", _making(os.makedirs, above=True)
    for name in ("remove", "unlink", "rmdir", "removedirs"):
        yield os, name, _removing(getattr(os, name), sure=name != "removedirs")
    yield shutil, "rmtree", _removing(shutil.rmtree)
    for name in ("rename", "renames", "replace", "symlink", "link"):
        yield os, name, _moving(getattr(os, name), stays=name in ("symlink", "link"))
    for name in ("copy", "copyfile", "copy2", "copytree", "move"):
        yield shutil, name, _moving(getattr(shutil, name), stays=name != "move")
    for name in ("chmod", "truncate", "utime"):
        yield os, name, _only_outside(getattr(os, name))
    for name in ("make_archive", "unpack_archive"):
        yield shutil, name, _only_outside(getattr(shutil, name))
    for name, kinds in (("exists", ("file", "folder")), ("isfile", ("file",)), ("isdir", ("folder",))):
        yield os.path, name, _there(getattr(os.path, name), *kinds)
        method = {"isfile": "is_file", "isdir": "is_dir"}.get(name, name)
        yield pathlib.Path, method, _there(getattr(pathlib.Path, method), *kinds)
    yield os.path, "lexists", _there(os.path.lexists, "file", "folder")
    yield pathlib.Path, "touch", _touching(pathlib.Path.touch)
    yield pathlib.Path, "stat", _measuring(pathlib.Path.stat)
    for name in ("getsize", "getmtime", "getctime", "getatime"):
        yield os.path, name, _measuring(getattr(os.path, name))
    yield os, "listdir", _listing(os.listdir, names=True)
    yield os, "scandir", _listing(os.scandir, names=False)
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

        yield Image.Image, "save", _storing(Image.Image.save, at=1)


def _of_numpy() -> Iterator[tuple[Any, str, Any]]:
    from sparsam.shapes.standins import arrays

    if arrays.NUMPY:
        import numpy as np

        endings = {"save": ".npy", "savez": ".npz", "savez_compressed": ".npz", "savetxt": ""}
        for name, ending in endings.items():
            yield np, name, _storing(getattr(np, name), ending=ending)
        for name in ("load", "loadtxt", "genfromtxt", "fromfile"):
            yield np, name, _array_of(getattr(np, name))
