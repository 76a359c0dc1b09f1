"""Libraries that open files in C: thin wrappers, put on when a library is first imported.

safetensors, torch.save, h5py (files and the objects in them), pyarrow's Parquet and memory maps, scipy's Matrix Market. What
pandas and ``datasets`` read and write goes through these or through Python's own files. Of sparsam itself: folders that change
places in one call, and looks at what is about to be replaced.
"""

from __future__ import annotations

import os
import sys
from time import perf_counter

from sparsam.provenance.capture import files
from sparsam.provenance.capture.native import claims
from sparsam.provenance.tracking import Handle, Tracker

TYPE_CHECKING = False
if TYPE_CHECKING:
    import importlib.machinery
    from collections.abc import Callable, Sequence
    from types import ModuleType
    from typing import Any

    Place = tuple[Handle, str, bytes]
    """Of an object of h5py: the handle of its file, its name in it, and HDF5's name of the file."""

_undo: list[Callable[[], None]] = []


def _tracker() -> Tracker | None:
    return files.current()


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    old = getattr(owner, name, None)
    if old is None or getattr(old, "_sparsam", False):
        return
    new = make(old)
    for fact in ("__doc__", "__name__", "__qualname__", "__module__", "__wrapped__"):
        try:
            setattr(new, fact, old if fact == "__wrapped__" else getattr(old, fact))
        except (AttributeError, TypeError):
            continue
    if callable(getattr(new, "__setattr__", None)) and hasattr(new, "__dict__"):
        new._sparsam = True
    setattr(owner, name, new)
    _undo.append(lambda: setattr(owner, name, old))


def _reads(through: str, at: int = 0, keyword: str = "") -> Callable[[Any], Any]:
    """A function that reads the file named by an argument."""

    def make(old: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            with _Telling(_path(args, more, at, keyword)) as telling:
                if telling.path is not None:
                    telling.tracker.used(telling.path, through=through)
                return old(*args, **more)

        return call

    return make


def _writes(through: str, at: int, keyword: str = "") -> Callable[[Any], Any]:
    """A function that writes the file named by an argument, in one piece."""

    def make(old: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            with _Telling(_path(args, more, at, keyword), writes=True) as telling:
                if telling.path is None:
                    return old(*args, **more)
                handle = telling.tracker.writing(telling.path, through=through)
                started = perf_counter()
                try:
                    return old(*args, **more)
                finally:
                    if handle is not None:
                        telling.tracker.wrote(handle, _size(handle.path), perf_counter() - started)
                        telling.tracker.closed(handle)

        return call

    return make


class _Telling:
    """While a wrapper tells of a file, nobody else does: no wrapper that is called within, no capture in Python or in C."""

    __slots__ = ("_before", "_claimed", "_thread", "path", "tracker")
    tracker: Tracker

    def __init__(self, path: Any, *, writes: bool = False) -> None:
        found, self._thread = _tracker(), writes
        self._before, self._claimed = getattr(files._inside, "on", False), False
        self.path = (
            found.path_of(path) if found is not None and path is not None and not self._before else None
        )
        if found is not None:
            self.tracker = found

    def __enter__(self) -> _Telling:
        if self.path is not None:
            files._inside.on = True
            self._claimed = claims.claim(self.path, thread=self._thread)
        return self

    def __exit__(self, *error: object) -> None:
        if self.path is not None:
            files._inside.on = self._before
            if self._claimed:
                claims.release(self.path, thread=self._thread)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _path(args: Sequence[Any], more: dict[str, Any], at: int, keyword: str) -> Any:
    found = args[at] if len(args) > at else more.get(keyword)
    return found if isinstance(found, str | bytes | os.PathLike) else None


def _seen_class(old: Any) -> Any:
    """A class in place of ``safe_open``: what it makes are the other's, and counts as its instances."""

    class Seen(type):
        def __instancecheck__(cls, thing: Any) -> bool:
            return isinstance(thing, old)

        def __call__(cls, *args: Any, **more: Any) -> Any:
            with _Telling(_path(args, more, 0, "filename")) as telling:
                if telling.path is not None:
                    telling.tracker.used(telling.path, through="safetensors")
                return old(*args, **more)

    return Seen(old.__name__, (), {"__doc__": old.__doc__, "__module__": old.__module__})


def _safetensors(module: ModuleType) -> None:
    _replace(module, "safe_open", _seen_class)


def _safetensors_of(module: ModuleType) -> None:
    for name, at in (("save_file", 1), ("save_model", 1)):
        _replace(module, name, _writes("safetensors", at, "filename"))
    _replace(module, "safe_open", _seen_class)  # which load_file and load_model call


def _torch(module: ModuleType) -> None:
    _replace(module, "save", _writes("torch.save", 1, "f"))


def _parquet(module: ModuleType) -> None:
    _replace(module, "read_table", _reads("pyarrow", 0, "source"))
    _replace(module, "read_metadata", _reads("pyarrow", 0, "where"))
    _replace(module, "read_schema", _reads("pyarrow", 0, "where"))
    _replace(module.ParquetFile, "__init__", _reads("pyarrow", 1, "source"))
    _replace(module, "write_table", _writes("pyarrow", 1, "where"))

    def writer(old: Any) -> Any:
        def call(self: Any, where: Any, *args: Any, **more: Any) -> Any:
            with _Telling(_path((where,), {}, 0, "")) as telling:
                if telling.path is not None:
                    self._sparsam_handle = telling.tracker.writing(telling.path, through="pyarrow")
                return old(self, where, *args, **more)

        return call

    def closing(old: Any) -> Any:
        def call(self: Any) -> Any:
            found = old(self)
            tracker, handle = _tracker(), getattr(self, "_sparsam_handle", None)
            if tracker is not None and handle is not None and not handle.closed:
                tracker.wrote(handle, _size(handle.path))
                tracker.closed(handle)
            return found

        return call

    _replace(module.ParquetWriter, "__init__", writer)
    _replace(module.ParquetWriter, "close", closing)


def _pyarrow(module: ModuleType) -> None:
    _replace(module, "memory_map", _reads("pyarrow", 0, "path"))


def _matrix_market(module: ModuleType) -> None:
    _replace(module, "mmread", _reads("scipy", 0, "source"))
    _replace(module, "mmwrite", _writes("scipy", 0, "target"))


def _h5py(module: ModuleType) -> None:
    """Files, and groups, datasets, attributes, committed types and links in them, each with its calls.

    Every object that h5py makes keeps where it is: HDF5 takes longer to tell it than all the rest of a wrapper.
    """
    open_files: dict[bytes, Handle] = {}
    moved: set[Handle] = set()  # files in which something has got another name
    kinds: dict[type, str] = {}
    file_name, object_name, file_id = module.h5f.get_name, module.h5i.get_name, module.h5f.FileID

    def known(thing: Any, near: Place | None = None) -> Place | None:
        """Where an object is; ``near``: where the group is that it was found in."""
        found = thing.__dict__.get("_sparsam")
        if found is None or found[0].closed:
            try:
                file = file_name(thing._id)
                handle = near[0] if near is not None and near[2] == file else open_files.get(file)
                name = (object_name(thing._id) or b"").decode("utf-8", "replace")
            except Exception:  # closed, or no file of its own
                return None
            if handle is None:
                return None
            found = thing.__dict__["_sparsam"] = (handle, name, file)
        return found  # type: ignore[no-any-return]

    def born(made: Any, owner: Any, name: Any) -> Place | None:
        """Where an object is that was just made: in its group, and in no other file, if its name is a plain one."""
        mine = owner.__dict__.get("_sparsam")
        if mine is None or mine[0].closed or mine[0] in moved or name.__class__ is not str or "/" in name:
            return known(made)
        found = made.__dict__["_sparsam"] = (mine[0], within(mine[1], name), mine[2])
        return found

    def within(group: str, name: Any) -> str:
        text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        return text if text.startswith("/") else f"{group.rstrip('/')}/{text}"

    def opening(old: Any) -> Any:
        def call(self: Any, name: Any, mode: Any = "r", *args: Any, **more: Any) -> Any:
            tracker = files._tracker
            if tracker is None or isinstance(
                name, file_id
            ):  # the latter: h5py's own way from an object to its file
                return old(self, name, mode, *args, **more)
            seen = tracker.look(name) if isinstance(name, (str, bytes, os.PathLike)) else None
            if seen is None:
                return old(self, name, mode, *args, **more)
            path, before = seen
            claimed = claims.claim(path)
            try:
                found = old(self, name, mode, *args, **more)
            finally:
                if claimed:
                    claims.release(path)
            writes = mode in ("w", "w-", "x", "a", "r+")
            now = before
            if before is None:
                try:
                    now = os.stat(path)
                except OSError:
                    now = None
            handle = tracker.opened(
                path, "r" if not writes else "rw" if mode in ("a", "r+") else "w", created=writes and before is None,
                emptied=mode == "w" and before is not None, found=now, through="h5py",
            )  # fmt: skip
            file = file_name(self._id)
            open_files[file] = handle
            self.__dict__["_sparsam"] = (handle, "/", file)
            return found

        return call

    def closing(old: Any) -> Any:
        def call(self: Any) -> Any:
            owner = known(self)
            found = old(self)
            if owner is not None:
                handle, _, file = owner
                if open_files.get(file) is handle:
                    del open_files[file]
                moved.discard(handle)
                tracker = files._tracker
                if tracker is not None:
                    tracker.closed(handle)
            return found

        return call

    def flushing(old: Any) -> Any:
        def call(self: Any) -> Any:
            started = perf_counter()
            found = old(self)
            seconds = perf_counter() - started
            tracker, owner = files._tracker, known(self)
            if tracker is not None and owner is not None:
                tracker.synced(owner[0], seconds)
            return found

        return call

    def moving(old: Any) -> Any:
        def call(self: Any, *args: Any, **more: Any) -> Any:
            found = old(self, *args, **more)
            owner = known(self)
            if owner is not None:
                moved.add(owner[0])
            return found

        return call

    def creating(kind: str, wrote: bool = False) -> Callable[[Any], Any]:
        def make(old: Any) -> Any:
            def call(self: Any, name: Any, *args: Any, **more: Any) -> Any:
                started = perf_counter()
                found = old(self, name, *args, **more)
                seconds, tracker = perf_counter() - started, files._tracker
                if name is None or tracker is None:  # without a name now, it gets one later
                    return found
                owner = born(found, self, name)
                if owner is not None:
                    tracker.object(owner[0], kind, owner[1], "create", 0, seconds)
                    content = more.get("data", args[2] if len(args) > 2 else None)
                    if wrote and content is not None:
                        size = int(getattr(content, "nbytes", 0))
                        tracker.object(owner[0], kind, owner[1], "write", size, seconds)
                return found

            return call

        return make

    def getting(old: Any) -> Any:
        dataset, group = module.Dataset, module.Group

        def call(self: Any, name: Any) -> Any:
            started = perf_counter()
            found = old(self, name)
            seconds, tracker = perf_counter() - started, files._tracker
            mine = self.__dict__.get("_sparsam")
            whole = hasattr(found, "__dict__")
            owner = known(found, mine) if whole else known(self)
            if owner is not None and tracker is not None:
                kind = (
                    "dataset"
                    if isinstance(found, dataset)
                    else "group"
                    if isinstance(found, group)
                    else "datatype"
                )
                tracker.object(
                    owner[0], kind, owner[1] if whole else within(owner[1], name), "open", 0, seconds
                )
            return found

        return call

    def kind_of(given: type) -> str:
        types = getattr(sys.modules.get("numpy"), "dtype", ())
        if issubclass(given, (module.SoftLink, module.ExternalLink, module.HLObject)):
            return "link"
        return "datatype" if issubclass(given, types) else "dataset"

    def setting(old: Any) -> Any:
        def call(self: Any, name: Any, value: Any) -> Any:
            started = perf_counter()
            found = old(self, name, value)
            seconds, tracker = perf_counter() - started, files._tracker
            owner = known(self)
            if owner is not None and tracker is not None:
                kind = kinds.get(value.__class__)
                if kind is None:
                    kind = kinds[value.__class__] = kind_of(value.__class__)
                path = within(owner[1], name)
                tracker.object(owner[0], kind, path, "create", 0, seconds)
                if kind == "dataset":
                    size = int(getattr(value, "nbytes", 0))
                    tracker.object(owner[0], kind, path, "write", size, seconds)
            return found

        return call

    def data(call_name: str) -> Callable[[Any], Any]:
        def make(old: Any) -> Any:
            def call(self: Any, *args: Any, **more: Any) -> Any:
                started = perf_counter()
                found = old(self, *args, **more)
                seconds, tracker = perf_counter() - started, files._tracker
                owner = known(self)
                if owner is not None and tracker is not None:
                    content = found if call_name == "read" else args[1] if len(args) > 1 else None
                    size = int(getattr(content, "nbytes", 0))
                    tracker.object(owner[0], "dataset", owner[1], call_name, size, seconds)
                return found

            return call

        return make

    def attaching(old: Any) -> Any:
        def call(self: Any, parent: Any) -> None:
            old(self, parent)
            owner = getattr(parent, "_sparsam", None)
            if owner is not None:
                self._sparsam = owner

        return call

    def attribute(call_name: str) -> Callable[[Any], Any]:
        def make(old: Any) -> Any:
            def call(self: Any, name: Any, *args: Any, **more: Any) -> Any:
                started = perf_counter()
                found = old(self, name, *args, **more)
                seconds, tracker = perf_counter() - started, files._tracker
                owner = known(self)
                if owner is not None and tracker is not None:
                    tracker.object(owner[0], "attribute", f"{owner[1]}@{name}", call_name, 0, seconds)
                return found

            return call

        return make

    _replace(module.File, "__init__", opening)
    _replace(module.File, "close", closing)
    _replace(module.File, "flush", flushing)
    _replace(module.Group, "create_dataset", creating("dataset", True))
    _replace(module.Group, "create_group", creating("group"))
    _replace(module.Group, "move", moving)
    _replace(module.Group, "__getitem__", getting)
    _replace(module.Group, "__setitem__", setting)
    _replace(module.Dataset, "__getitem__", data("read"))
    _replace(module.Dataset, "__setitem__", data("write"))
    _replace(module.AttributeManager, "__init__", attaching)
    for name, call_name in (
        ("create", "create"),
        ("__getitem__", "read"),
        ("__setitem__", "write"),
        ("modify", "write"),
    ):
        _replace(module.AttributeManager, name, attribute(call_name))


def _exchanges(module: ModuleType) -> None:
    """Two folders that change places in one call of the system, which no function of ``os`` makes."""

    def exchanging(old: Any) -> Any:
        def call(one: Any, other: Any) -> Any:
            done, tracker = old(one, other), _tracker()
            if done and tracker is not None:
                between = f"{os.fspath(other)}.exchanged"
                for source, target in ((other, between), (one, other), (between, one)):
                    tracker.moved(source, target)
            return done

        return call

    _replace(module, "exchange", exchanging)


def _looks(module: ModuleType) -> None:
    """What a folder is, asked before something else is put in its place: nothing is made from what it holds."""

    def looking(old: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            inside, files._inside.on = getattr(files._inside, "on", False), True
            try:
                return old(*args, **more)
            finally:
                files._inside.on = inside

        return call

    for name in ("is_artifact", "check_target"):
        _replace(module, name, looking)


KNOWN: dict[str, Callable[[ModuleType], None]] = {
    "safetensors": _safetensors, "safetensors.torch": _safetensors_of, "safetensors.numpy": _safetensors_of, "torch": _torch,
    "pyarrow": _pyarrow, "pyarrow.parquet": _parquet, "h5py": _h5py, "scipy.io": _matrix_market,
    "sparsam.artifact.manifest": _looks, "sparsam.artifact.saving": _looks, "sparsam.report.page": _looks,
    "sparsam.artifact.staging": _exchanges,
}  # fmt: skip


class _Finder:
    """Lets the others find a module, and looks on when it has been loaded."""

    def __init__(self) -> None:
        self.busy: set[str] = set()

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in KNOWN or name in self.busy:
            return None
        self.busy.add(name)
        try:
            for finder in sys.meta_path:
                spec = None if finder is self else finder.find_spec(name, path, target)
                if spec is not None and spec.loader is not None:
                    wrapped: Any = _Loader(spec.loader, name)
                    spec.loader = wrapped
                    return spec
        finally:
            self.busy.discard(name)
        return None


class _Loader:
    """The real loader, and then the wrappers."""

    def __init__(self, real: Any, name: str) -> None:
        self._real, self._name = real, name

    def create_module(self, spec: Any) -> Any:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None:
            spec.loader = self._real
        module.__loader__ = self._real
        self._real.exec_module(module)
        _put_on(self._name, module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _put_on(name: str, module: ModuleType) -> None:
    try:
        KNOWN[name](module)
    except Exception as error:  # another version of the library: the program goes on, and the log says so
        tracker = _tracker()
        if tracker is not None:
            tracker.unseen(f"{name}: {type(error).__name__}: {error}")


_finder = _Finder()


def install() -> None:
    """Look on libraries that are loaded already, and on those that will be."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    for name in KNOWN:
        module = sys.modules.get(name)
        if module is not None:
            _put_on(name, module)


def uninstall() -> None:
    """Give all libraries their own functions back."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    for undo in reversed(_undo):
        undo()
    _undo.clear()
