"""What a program tells its log: opens and closes with what went through them, renames, scopes, settings, results.

One :class:`Tracker` a process. The capture of Python's own files and of libraries calls it (:mod:`sparsam.provenance.capture`),
and so may a user. All calls are safe in threads and never raise into the program that is tracked.
"""

from __future__ import annotations

import fnmatch
import itertools
import os
import stat
from _thread import _local
from collections import deque
from time import time_ns

from sparsam.provenance import spelled
from sparsam.provenance.spelled import plain as _text
from sparsam.provenance.writer import FLUSH_AFTER, Log, Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

CLASSES = (
    "user", "thread", "program", "call", "duration", "file", "directory", "group", "dataset", "attribute", "datatype", "link",
)  # fmt: skip
"""What can be switched off, as in PROV-IO's configuration."""
SYSTEM = ("/proc/*", "/sys/*", "/dev/*")
PROGRAM = ("*.pyc", "*/__pycache__/*", "*/site-packages/*", "*/dist-packages/*", "*.egg-info/*")


class Selection:
    """What is recorded.

    Args:
        off: of :data:`CLASSES`, what is left out.
        include: patterns of paths (``fnmatch``); empty for all.
        exclude: patterns of paths that are left out all the same.
        code: whether the program's own modules, and what is installed, count as files.
        every: after 16 opens for reading of one name, one in so many is recorded and the others are counted; 1 records all.
    """

    def __init__(
        self,
        off: frozenset[str] = frozenset(),
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = SYSTEM,
        code: bool = False,
        every: int = 1,
    ) -> None:
        self.off, self.include, self.exclude, self.code, self.every = (
            off,
            include,
            exclude,
            code,
            max(1, every),
        )
        self._out = _fits(("*",) if "file" in off else exclude if code else (*exclude, *PROGRAM))
        self._within = _fits(include)

    def wants(self, path: str) -> bool:
        """Whether a file at this absolute path is recorded."""
        return not self._out(path) and (not self.include or self._within(path))


def _fits(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a path fits one of these, as ``fnmatchcase`` says; nearly all are a beginning, an end or a part."""
    starts: list[str] = []
    ends: list[str] = []
    parts: list[str] = []
    others: list[str] = []
    for pattern in patterns:
        text = pattern.strip("*")
        plain = not set(text) & set("*?[")
        for list_of, form in ((starts, f"{text}*"), (ends, f"*{text}"), (parts, f"*{text}*")):
            if plain and pattern == form:
                list_of.append(text)
                break
        else:
            others.append(pattern)
    first, last = tuple(starts), tuple(ends)

    def fits(path: str) -> bool:
        if path.startswith(first) or path.endswith(last):
            return True
        for part in parts:
            if part in path:
                return True
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in others) if others else False

    return fits


class Handle:
    """An open file, and what went through it."""

    __slots__ = (
        "bytes_read", "bytes_write", "closed", "doubled", "epoch", "mode", "node", "number", "path", "reads", "scope",
        "seconds_read", "seconds_write", "writes", "wrote",
    )  # fmt: skip

    def __init__(self, number: int, path: str, mode: str, scope: str | None, epoch: int) -> None:
        self.number, self.path, self.mode, self.scope, self.epoch = number, path, mode, scope, epoch
        self.reads = self.writes = self.bytes_read = self.bytes_write = 0
        self.seconds_read = self.seconds_write = 0.0
        self.wrote = self.closed = self.doubled = False
        self.node: tuple[int, int] | None = None


class Tracker:
    """Tells the log of this process.

    Args:
        log: of this process.
        selection: what is recorded.
        run: id of the run that the process belongs to.
    """

    def __init__(self, log: Log, selection: Selection | None = None, run: str = "") -> None:
        self.log, self.selection, self.run = log, selection or Selection(), run
        self._numbers = itertools.count(1)
        self._scopes = _local()
        runs = os.path.dirname(log.folder)
        root = os.path.dirname(runs) if os.path.basename(runs) == "runs" else log.folder
        self._root = root + os.sep
        self._wanted: dict[str, bool] = {}
        self._places: dict[str, str] = {}
        self._folders: dict[str, str] = {}
        self._links = False
        self._opens: dict[str, int] = {}
        self._left_out: dict[str, int] = {}
        self._objects: deque[tuple[Handle, str, str, str, int, float, int]] = deque()
        self._told = time_ns()
        self.epoch = 0

    # files

    def path_of(self, file: Any) -> str | None:
        """The absolute path of what is recorded; None for what is not (also for descriptors)."""
        found = self.look(file)
        return None if found is None else found[0]

    def look(self, file: Any) -> tuple[str, os.stat_result | None] | None:
        """The absolute path of what is recorded, and what lies there; None for what is not (also for descriptors)."""
        if isinstance(file, int):
            return None
        try:
            name = file if file.__class__ is str else os.fsdecode(os.fspath(file))
        except TypeError:
            return None
        if ("/site-packages/" in name or "/dist-packages/" in name) and not self.selection.code:
            return None  # thousands while large libraries are imported: no look at the disk for them
        try:
            path = self._place(name)
        except (OSError, ValueError):  # no current folder, or a name that no system knows
            return None
        try:
            found: os.stat_result | None = os.lstat(path)
            if found is not None and stat.S_ISLNK(found.st_mode):
                path = os.path.realpath(path)
                found = os.stat(path)
        except OSError:
            found = None
        except ValueError:
            return None
        wanted = self._wanted.get(path)
        if wanted is None:
            wanted = not path.startswith(self._root) and self.selection.wants(path)  # our own, and others
            if len(self._wanted) < 100_000:
                self._wanted[path] = wanted
        return (path, found) if wanted else None

    def _place(self, name: str) -> str:
        """Absolute, the folder without symbolic links; each is looked up once."""
        full = name if name.startswith("/") else f"{os.getcwd()}/{name}"
        path = self._places.get(full)
        if path is None:
            folder, _, last = full.rpartition("/")
            if last in ("", ".", ".."):
                return os.path.realpath(full)
            real = self._folders.get(folder)
            if real is None:
                real = os.path.join(os.path.realpath(folder or "/"), "")
                self._links = self._links or real != f"{folder}/"
                if len(self._folders) < 10_000:
                    self._folders[folder] = real
            path = real + last
            if len(self._places) < 10_000:
                self._places[full] = path
        return path

    def forked(self) -> None:
        """In a child: what was open belongs to the parent."""
        self.epoch += 1
        self._left_out.clear()
        self._objects.clear()
        self.log.forked()

    def _own(self, handle: Handle) -> None:
        """A handle that was inherited is told of once more when it is used."""
        handle.epoch, handle.number, handle.wrote = self.epoch, next(self._numbers), False
        handle.reads = handle.writes = handle.bytes_read = handle.bytes_write = 0
        handle.seconds_read = handle.seconds_write = 0.0
        self.log.add("open", handle=handle.number, path=_text(handle.path), mode=handle.mode, inherited=True)

    def forget_folders(self, *, new_link: bool = False) -> None:
        """Where names have changed, links may lead elsewhere."""
        if self._links or new_link:
            self._folders.clear()
            self._places.clear()

    def touched(self, path: Any) -> None:
        """A file has another time of change by the program's own word; its bytes are as they were."""
        place = self.path_of(path)
        if place is not None:
            try:
                found = os.stat(place)
            except OSError:
                return
            self.log.add("touched", path=_text(place), size=found.st_size, changed=found.st_mtime_ns)

    def skips(self, name: str) -> bool:
        """Whether an open for reading is only counted, for the name was opened often; asked where ``every`` is above 1."""
        if not name.startswith("/"):
            name = f"{os.getcwd()}/{name}"
        if name not in self._opens and len(self._opens) > 100_000:
            return False
        count = self._opens.get(name, 0) + 1
        self._opens[name] = count
        if count <= 16 or count % self.selection.every == 0:
            return False
        self._left_out[name] = self._left_out.get(name, 0) + 1
        return True

    def tell_left_out(self) -> None:
        """Write down how often names were opened beyond what is recorded."""
        for name, count in self._left_out.items():
            path = self.path_of(name)
            if path is not None:
                self.log.add("opens", path=_text(path), count=count)
        self._left_out.clear()

    def opened(
        self,
        path: str,
        mode: str,
        *,
        created: bool = False,
        emptied: bool = False,
        found: os.stat_result | None = None,
        through: str = "python",
        seconds: float = 0.0,
    ) -> Handle:
        """A file was opened. ``mode`` holds r for reading, w for writing, or both."""
        stack = getattr(self._scopes, "stack", None)
        scope = stack[-1] if stack else None
        number = next(self._numbers)
        handle = Handle(number, path, mode, scope, self.epoch)
        if created or emptied:
            handle.wrote = True
        if found is not None:
            handle.node = found.st_dev, found.st_ino
        if "duration" in self.selection.off:
            seconds = 0.0
        self.log.say(spelled.opened, (number, path, mode, created, emptied, found, scope, through, seconds))
        return handle

    def failed(self, path: str, mode: str, error: OSError) -> None:
        """A file could not be opened."""
        self.log.add(
            "open", path=_text(path), mode=mode, failed=error.errno or -1, scope=self.scope_now, handle=0
        )

    def wrote(self, handle: Handle, size: int, seconds: float = 0.0) -> None:
        """Bytes went out."""
        if handle.epoch != self.epoch:
            self._own(handle)
        handle.writes += 1
        handle.bytes_write += size
        handle.seconds_write += seconds
        if not handle.wrote:
            handle.wrote = True
            self.log.add("writing", handle=handle.number)

    def read(self, handle: Handle, size: int, seconds: float = 0.0) -> None:
        """Bytes came in."""
        if handle.epoch != self.epoch:
            self._own(handle)
        handle.reads += 1
        handle.bytes_read += size
        handle.seconds_read += seconds

    def synced(self, handle: Handle, seconds: float = 0.0) -> None:
        """The file was flushed to its disk."""
        if handle.epoch != self.epoch:
            self._own(handle)
        self.log.add("fsync", handle=handle.number, seconds=round(seconds, 9))

    def closed(self, handle: Handle, found: os.stat_result | None = None) -> None:
        """A file was closed; its counts are written."""
        if handle.closed or handle.epoch != self.epoch:
            return
        handle.closed = True
        these = self.tell_objects(handle) if self._objects else ()
        if not handle.wrote:
            found = None
        elif found is None:
            try:
                found = os.stat(handle.path)
            except OSError:
                found = None
        off = self.selection.off
        self.log.say(spelled.closed, (handle, these, found, "call" not in off, "duration" not in off))
        if handle.wrote:
            self.log.flush_soon()

    def used(self, path: str | os.PathLike[str], *, through: str = "given") -> None:
        """A file was read, in one piece: for libraries that open files by themselves, and for users."""
        place = self.path_of(path)
        if place is None:
            return
        try:
            found = os.stat(place)
        except OSError as error:
            self.failed(place, "r", error)
            return
        if not stat.S_ISREG(found.st_mode):
            return
        handle = self.opened(place, "r", found=found, through=through)
        self.read(handle, found.st_size)
        self.closed(handle)

    def writing(
        self, path: str | os.PathLike[str], *, through: str = "given", keeps: bool = False
    ) -> Handle | None:
        """A file is about to be written by other means; :meth:`closed` ends it. ``keeps``: what is there stays part of it."""
        place = self.path_of(path)
        if place is None:
            return None
        found: os.stat_result | None = None
        try:
            found = os.stat(place)
        except OSError:
            found = None
        gone = found is None
        return self.opened(
            place, "rw" if keeps else "w", created=gone, emptied=not gone and not keeps, found=found, through=through
        )  # fmt: skip

    def moved(self, source: Any, target: Any) -> None:
        """A file or folder has another name now."""
        self.forget_folders()
        old, new = self._named(source), self._named(target)
        if old is None and new is not None:  # what was not recorded has a name that is
            handle = self.writing(new)
            if handle is not None:
                self.wrote(handle, 0)
                self.closed(handle)
        elif old is not None and new is None:
            self.log.add("remove", path=_text(old))
        elif old is not None and new is not None:
            self.log.add("rename", source=_text(old), target=_text(new), scope=self.scope_now)

    def linked(self, source: Any, target: Any) -> None:
        """A file has one more name."""
        old, new = self._named(source), self._named(target)
        if old is not None and new is not None:
            self.log.add("link", source=_text(old), target=_text(new))

    def removed(self, path: Any) -> None:
        """A name is gone."""
        self.forget_folders()
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
        inside = place.startswith(self._root)
        return place if not inside and self.selection.wants(place) else None

    def object(
        self, handle: Handle, kind: str, name: str, call: str, size: int = 0, seconds: float = 0.0
    ) -> None:
        """A call on an object in a file: a group, dataset, attribute, datatype or link.

        Calls are gathered, and told together before anything is closed, and once a second.
        """
        if kind in self.selection.off:
            return
        if handle.epoch != self.epoch:
            self._own(handle)
        if not handle.wrote and (call == "create" or call == "write"):
            handle.wrote = True
            self.log.add("writing", handle=handle.number)
        now = time_ns()
        told = (handle, kind, name, call, size, seconds, now)
        self._objects.append(told)
        if len(self._objects) > 4096 or self.log.eager or not 0 <= now - self._told < FLUSH_AFTER:
            self.tell_objects()

    def tell_objects(self, closing: Handle | None = None) -> Sequence[tuple[Any, ...]]:
        """Write down the calls on objects since the last time; those of a handle that is being closed are given back."""
        self._told = time_ns()
        told: dict[Handle, list[tuple[Any, ...]]] = {}
        these = self._objects
        while these:
            one = these.popleft()
            told.setdefault(one[0], []).append(one)
        mine = told.pop(closing, ()) if closing is not None else ()
        for handle, calls in told.items():
            self.log.say(spelled.objects, (handle.number, calls, "duration" not in self.selection.off))
        return mine

    # what users say

    @property
    def scope_now(self) -> str | None:
        """The scope this thread is in."""
        stack = getattr(self._scopes, "stack", None)
        return stack[-1] if stack else None

    def scope(self, name: str) -> Scope:
        """What is written in here derives from what is read in here alone."""
        return Scope(self, name)

    def stage(self, name: str) -> Scope:
        """A scope that narrows nothing: calls and results in here are told apart, what is written derives as outside."""
        return Scope(self, name, stage=True)

    def record_metric(self, name: str, value: float | int | str) -> None:
        """A result of this program."""
        if not isinstance(value, str | bool | int | float) and hasattr(value, "__float__"):
            value = float(value)  # a number of NumPy's or torch's
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
        self.tell_objects()
        self.tell_left_out()
        self.log.add("end", status=status)
        self.log.settle()
        self.log.flush()


class Scope:
    """A part of a program, entered and left."""

    def __init__(self, tracker: Tracker, name: str, stage: bool = False) -> None:
        self._tracker, self.name, self.stage = tracker, name, stage
        self.id = f"{os.getpid()}.{next(tracker._numbers)}"

    def __enter__(self) -> str:
        tracker = self._tracker
        more = {"stage": True} if self.stage else {}
        tracker.log.add("scope", id=self.id, name=self.name, parent=tracker.scope_now, **more)
        tracker._scopes.__dict__.setdefault("stack", []).append(self.id)
        return self.id

    def __exit__(self, *error: object) -> None:
        stack = self._tracker._scopes.__dict__.get("stack", [])
        if self.id in stack:  # left by another thread than the one that entered it
            stack.remove(self.id)
        self._tracker.log.add("scope-end", id=self.id)


def runs_folder(start: str | os.PathLike[str] | None = None) -> str:
    """``.sparsam`` of the nearest folder upwards that has one, else of the current folder."""
    here = folder = os.path.realpath(start or os.getcwd())
    while not os.path.isdir(os.path.join(folder, ".sparsam")):
        if folder == os.path.dirname(folder):
            return os.path.join(here, ".sparsam")
        folder = os.path.dirname(folder)
    return os.path.join(folder, ".sparsam")
