"""What a program tells its log: opens and closes with what went through them, renames, scopes, settings, results.

One :class:`Tracker` a process. The capture of Python's own files and of libraries calls it (:mod:`sparsam.provenance.capture`),
and so may a user. All calls are safe in threads and never raise into the program that is tracked.
"""

import fnmatch
import itertools
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsam.provenance.log import Log, Writer

CLASSES = (
    "user", "thread", "program", "call", "duration", "file", "directory", "group", "dataset", "attribute", "datatype", "link",
)  # fmt: skip
"""What can be switched off, as in PROV-IO's configuration."""
SYSTEM = ("/proc/*", "/sys/*", "/dev/*")
PROGRAM = ("*.pyc", "*/__pycache__/*", "*/site-packages/*", "*/dist-packages/*")


@dataclass(frozen=True)
class Selection:
    """What is recorded.

    Args:
        off: of :data:`CLASSES`, what is left out.
        include: patterns of paths (``fnmatch``); empty for all.
        exclude: patterns of paths that are left out all the same.
        code: whether the program's own modules, and what is installed, count as files.
    """

    off: frozenset[str] = frozenset()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = SYSTEM
    code: bool = False

    def wants(self, path: str) -> bool:
        """Whether a file at this absolute path is recorded."""
        if "file" in self.off:
            return False
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in self.exclude):
            return False
        if not self.code and any(fnmatch.fnmatchcase(path, pattern) for pattern in PROGRAM):
            return False
        return not self.include or any(fnmatch.fnmatchcase(path, pattern) for pattern in self.include)


@dataclass
class Handle:
    """An open file, and what went through it."""

    number: int
    path: str
    mode: str
    scope: str | None
    reads: int = 0
    writes: int = 0
    bytes_read: int = 0
    bytes_write: int = 0
    seconds_read: float = 0.0
    seconds_write: float = 0.0
    wrote: bool = False
    closed: bool = False
    file: int | None = None


@dataclass
class Tracker:
    """Tells the log of this process.

    Args:
        log: of this process.
        selection: what is recorded.
        run: id of the run that the process belongs to.
    """

    log: Log
    selection: Selection = field(default_factory=Selection)
    run: str = ""

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self._scopes = threading.local()
        self._root = (
            str(self.log.folder.parent.parent)
            if self.log.folder.parent.name == "runs"
            else str(self.log.folder)
        )
        self._wanted: dict[str, bool] = {}
        self.skipped = 0

    # files

    def path_of(self, file: Any) -> str | None:
        """The absolute path of what is recorded; None for what is not (also for descriptors)."""
        if isinstance(file, int):
            return None
        try:
            name = os.fsdecode(os.fspath(file))
        except TypeError:
            return None
        path = os.path.realpath(name)
        wanted = self._wanted.get(path)
        if wanted is None:
            inside = path.startswith(self._root + os.sep)  # our own
            wanted = not inside and self.selection.wants(path)
            if len(self._wanted) < 100_000:
                self._wanted[path] = wanted
        return path if wanted else None

    def opened(
        self,
        path: str,
        mode: str,
        *,
        created: bool = False,
        emptied: bool = False,
        stat: os.stat_result | None = None,
        through: str = "python",
        file: int | None = None,
        seconds: float = 0.0,
    ) -> Handle:
        """A file was opened. ``mode`` holds r for reading, w for writing, or both."""
        handle = Handle(next(self._numbers), path, mode, self.scope_now, file=file)
        facts: dict[str, Any] = {"handle": handle.number, "path": _text(path), "mode": mode}
        if created:
            facts["created"] = True
        if emptied:
            facts["emptied"] = True
        if created or emptied:
            handle.wrote = True
        if stat is not None:
            facts["inode"] = [stat.st_dev, stat.st_ino]
            if not (created or emptied):
                facts |= {"size": stat.st_size, "changed": stat.st_mtime_ns}
        if handle.scope is not None:
            facts["scope"] = handle.scope
        if through != "python":
            facts["through"] = through
        if seconds and "duration" not in self.selection.off:
            facts["seconds"] = round(seconds, 9)
        self.log.add("open", **facts)
        return handle

    def failed(self, path: str, mode: str, error: OSError) -> None:
        """A file could not be opened."""
        self.log.add(
            "open", path=_text(path), mode=mode, failed=error.errno or -1, scope=self.scope_now, handle=0
        )

    def wrote(self, handle: Handle, size: int, seconds: float = 0.0) -> None:
        """Bytes went out."""
        handle.writes += 1
        handle.bytes_write += size
        handle.seconds_write += seconds
        if not handle.wrote:
            handle.wrote = True
            self.log.add("writing", handle=handle.number)

    def read(self, handle: Handle, size: int, seconds: float = 0.0) -> None:
        """Bytes came in."""
        handle.reads += 1
        handle.bytes_read += size
        handle.seconds_read += seconds

    def synced(self, handle: Handle, seconds: float = 0.0) -> None:
        """The file was flushed to its disk."""
        self.log.add("fsync", handle=handle.number, seconds=round(seconds, 9))

    def closed(self, handle: Handle, stat: os.stat_result | None = None) -> None:
        """A file was closed; its counts are written."""
        if handle.closed:
            return
        handle.closed = True
        facts: dict[str, Any] = {"handle": handle.number}
        times = "duration" not in self.selection.off
        if "call" not in self.selection.off:
            if handle.reads:
                facts |= {"reads": handle.reads, "bytes_read": handle.bytes_read}
                if times:
                    facts["seconds_read"] = round(handle.seconds_read, 9)
            if handle.writes:
                facts |= {"writes": handle.writes, "bytes_write": handle.bytes_write}
                if times:
                    facts["seconds_write"] = round(handle.seconds_write, 9)
        elif handle.writes:
            facts["writes"] = 1
        if handle.wrote:
            if stat is None:
                try:
                    stat = os.stat(handle.path)
                except OSError:
                    stat = None
            if stat is not None:
                facts |= {"size": stat.st_size, "changed": stat.st_mtime_ns}
        self.log.add("close", **facts)

    def used(self, path: str | os.PathLike[str], *, through: str = "given") -> None:
        """A file was read, in one piece: for libraries that open files by themselves, and for users."""
        place = self.path_of(path)
        if place is None:
            return
        try:
            stat = os.stat(place)
        except OSError as error:
            self.failed(place, "r", error)
            return
        handle = self.opened(place, "r", stat=stat, through=through)
        self.read(handle, stat.st_size)
        self.closed(handle)

    def writing(
        self, path: str | os.PathLike[str], *, through: str = "given", keeps: bool = False
    ) -> Handle | None:
        """A file is about to be written by other means; :meth:`closed` ends it. ``keeps``: what is there stays part of it."""
        place = self.path_of(path)
        if place is None:
            return None
        try:
            stat: os.stat_result | None = os.stat(place)
        except OSError:
            stat = None
        return self.opened(place, "rw" if keeps else "w", created=stat is None, emptied=stat is not None and not keeps,
                           stat=stat, through=through)  # fmt: skip

    def moved(self, source: Any, target: Any) -> None:
        """A file or folder has another name now."""
        old, new = self._named(source), self._named(target)
        if old is not None and new is not None:
            self.log.add("rename", source=_text(old), target=_text(new), scope=self.scope_now)

    def linked(self, source: Any, target: Any) -> None:
        """A file has one more name."""
        old, new = self._named(source), self._named(target)
        if old is not None and new is not None:
            self.log.add("link", source=_text(old), target=_text(new))

    def removed(self, path: Any) -> None:
        """A name is gone."""
        place = self._named(path)
        if place is not None:
            self.log.add("remove", path=_text(place))

    def made_folder(self, path: Any) -> None:
        """A folder was made."""
        place = self._named(path)
        if place is not None and "directory" not in self.selection.off:
            self.log.add("mkdir", path=_text(place), scope=self.scope_now)

    def _named(self, path: Any) -> str | None:
        """A name as such: the last part may be a link, or be gone."""
        if isinstance(path, int):
            return None
        try:
            name = os.fsdecode(os.fspath(path))
        except TypeError:
            return None
        folder, last = os.path.split(os.path.abspath(name))
        place = os.path.join(os.path.realpath(folder), last)
        inside = place.startswith(self._root + os.sep)
        return place if not inside and self.selection.wants(place) else None

    def object(
        self, handle: Handle, kind: str, name: str, call: str, *, size: int = 0, seconds: float = 0.0
    ) -> None:
        """A call on an object in a file: a group, dataset, attribute, datatype or link."""
        if kind in self.selection.off:
            return
        facts: dict[str, Any] = {"handle": handle.number, "object": kind, "name": name, "call": call}
        if size:
            facts["bytes"] = size
        if seconds and "duration" not in self.selection.off:
            facts["seconds"] = round(seconds, 9)
        if call in ("create", "write"):
            handle.wrote = True
        self.log.add("object", **facts)

    # what users say

    @property
    def scope_now(self) -> str | None:
        """The scope this thread is in."""
        stack = getattr(self._scopes, "stack", None)
        return stack[-1] if stack else None

    @contextmanager
    def scope(self, name: str) -> Iterator[str]:
        """What is written in here derives from what is read in here alone."""
        made, around = f"{next(self._numbers)}", self.scope_now
        self.log.add("scope", id=made, name=name, parent=around)
        stack = self._scopes.__dict__.setdefault("stack", [])
        stack.append(made)
        try:
            yield made
        finally:
            stack.remove(made)

    def record_metric(self, name: str, value: float | int | str) -> None:
        """A result of this program."""
        self.log.add("metric", name=name, value=value, scope=self.scope_now)

    def record_config(self, values: Mapping[str, Any]) -> None:
        """Settings of this program."""
        for name, value in values.items():
            self.log.add("config", name=str(name), value=value)

    def record_type(self, name: str) -> None:
        """What kind of program this is."""
        self.log.add("type", name=name)

    def record_derived(
        self, target: str | os.PathLike[str], sources: Sequence[str | os.PathLike[str]]
    ) -> None:
        """A file was made from others, by the user's word."""
        self.log.add(
            "derived", target=os.path.realpath(target), sources=[os.path.realpath(one) for one in sources]
        )

    def unseen(self, what: str) -> None:
        """Something cannot be seen; the records say so."""
        self.log.add("unseen", what=what)

    def began(self, facts: Mapping[str, Any], parent: Writer | None, forked: bool) -> None:
        """The first record of a process."""
        more: dict[str, Any] = {"run": self.run}
        if parent is not None:
            more |= {"parent": [parent.host, parent.pid, parent.started], "forked": forked}
        self.log.add("process", **{key: value for key, value in facts.items() if value is not None}, **more)

    def ended(self, status: int | None = None) -> None:
        """The last record of a process."""
        self.log.add("end", status=status)
        self.log.flush()


def _text(path: str) -> str:
    """A path as text that any JSON reader takes: bytes that are no UTF-8 become backslash escapes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return path


def runs_folder(start: str | os.PathLike[str] | None = None) -> Path:
    """``.sparsam`` of the nearest folder upwards that has one, else of the current folder."""
    here = Path(start or os.getcwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / ".sparsam").is_dir():
            return folder / ".sparsam"
    return here / ".sparsam"
