"""Python's own files: ``open``, and the functions of ``os``.

``open`` gives the real classes of ``io`` around a raw file of ours, which counts what the system is asked for: a call a
buffer, not a call a line.
"""

from __future__ import annotations

import _io
import builtins
import io
import mmap
import os
import stat
import sys
from _thread import _local
from time import perf_counter
from weakref import WeakSet

from sparsam.provenance.capture import native
from sparsam.provenance.tracking import Handle, Tracker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_real_open = _io.open
_readinto, _read, _readall, _write = io.FileIO.readinto, io.FileIO.read, io.FileIO.readall, io.FileIO.write
_inside = _local()
_open_files: WeakSet[Any] = WeakSet()
"""Buffers around files of ours; what is left in them at the end is written before the last record."""
_tracker: Tracker | None = None
_by_number: dict[int, Handle] = {}
"""Descriptors that are open, and their handles."""
_originals: dict[tuple[Any, str], Any] = {}


class TrackedFile(io.FileIO):
    """A raw file that counts what goes through it."""

    _handle: Handle | None = None
    _shared = False  # the descriptor had a handle before

    def readinto(self, buffer: Any) -> int | None:
        """As in ``io``."""
        handle = self._handle
        if handle is None:
            return _readinto(self, buffer)
        started = perf_counter()
        count = _readinto(self, buffer)
        if _tracker is not None:
            _tracker.read(handle, count or 0, perf_counter() - started)
        return count

    def read(self, size: int | None = -1) -> bytes | Any:
        """As in ``io``."""
        handle = self._handle
        if handle is None:
            return _read(self, -1 if size is None else size)
        started = perf_counter()
        found = _read(self, -1 if size is None else size)
        if _tracker is not None:
            _tracker.read(handle, len(found or b""), perf_counter() - started)
        return found

    def readall(self) -> bytes | Any:
        """As in ``io``."""
        handle = self._handle
        if handle is None:
            return _readall(self)
        started = perf_counter()
        found = _readall(self)
        if _tracker is not None:
            _tracker.read(handle, len(found or b""), perf_counter() - started)
        return found

    def write(self, content: Any) -> int | Any:
        """As in ``io``."""
        handle = self._handle
        if handle is None:
            return _write(self, content)
        started = perf_counter()
        count = _write(self, content)
        if _tracker is not None:
            _tracker.wrote(handle, count or 0, perf_counter() - started)
        return count

    def truncate(self, size: int | None = None) -> int:
        """As in ``io``."""
        found = super().truncate(size)
        if self._handle is not None and _tracker is not None:
            _tracker.wrote(self._handle, 0)
        return found

    def close(self) -> None:
        """As in ``io``; the counts are written down."""
        handle, self._handle = self._handle, None
        if handle is None or _tracker is None or self.closed:
            super().close()
            return
        found = None
        try:
            number = self.fileno()
            if handle.wrote:
                found = os.fstat(number)
            if self.closefd:
                _by_number.pop(number, None)
        except (OSError, ValueError):
            pass
        try:
            super().close()
        finally:
            if (self.closefd or not self._shared) and not _open_elsewhere(handle):
                _tracker.closed(handle, found)


TrackedFile.__name__, TrackedFile.__qualname__, TrackedFile.__module__ = (
    "FileIO",
    "FileIO",
    "_io",
)  # nobody shall notice


def tracked_open(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> Any:
    """``io.open``: the same results and the same errors."""
    tracker = _tracker
    if (
        tracker is None
        or getattr(_inside, "on", False)
        or not _ordinary(mode, buffering, encoding, errors, newline)
    ):
        return _real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    if (
        tracker.selection.every > 1
        and mode[0] == "r"
        and "+" not in mode
        and isinstance(file, str)
        and tracker.skips(file)
    ):
        _inside.on = True
        try:
            return _real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        finally:
            _inside.on = False
    by_number = isinstance(file, int) or opener is not None
    path, before = (None if by_number else tracker.look(file)) or (None, None)
    if path is not None and path.endswith(".py") and _loads_code():
        path = None  # a module that is imported
    if path is None and not by_number:
        return _real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    kind = mode.replace("b", "").replace("t", "")
    started = perf_counter()
    _inside.on = True
    try:
        raw = TrackedFile(file, kind, closefd, opener)
    except OSError as error:
        if path is not None:
            tracker.failed(path, _letters(kind), error)
        raise
    finally:
        _inside.on = False
    try:
        _watch(tracker, raw, path, kind, before, perf_counter() - started)
        return _buffered(raw, mode, buffering, encoding, errors, newline)
    except BaseException:
        raw.close()
        raise


def _loads_code() -> bool:
    """Whether whoever opens a file does so to run it."""
    try:
        caller = sys._getframe(3).f_code.co_filename
    except ValueError:  # the interpreter itself
        return True
    return any(part in caller for part in ("importlib", "zipimport", "runpy"))


def _ordinary(mode: Any, buffering: Any, encoding: Any, errors: Any, newline: Any) -> bool:
    """Whether ``io.open`` would take these arguments; it says itself what is wrong with others."""
    if not isinstance(mode, str) or not isinstance(buffering, int):
        return False
    letters = set(mode)
    if letters - set("rwaxbt+") or len(mode) != len(letters) or len(letters & set("rwax")) != 1:
        return False
    binary = "b" in letters
    text_only = "t" in letters or encoding is not None or errors is not None or newline is not None
    if (binary and (text_only or buffering == 1)) or buffering < -1:
        return False
    return (buffering != 0 or binary) and (newline in (None, "", "\n", "\r", "\r\n"))


def _letters(kind: str) -> str:
    return "rw" if "+" in kind else "r" if kind == "r" else "w"


def _watch(
    tracker: Tracker,
    raw: TrackedFile,
    path: str | None,
    kind: str,
    before: os.stat_result | None,
    seconds: float,
) -> None:
    """Give a raw file its handle."""
    number = raw.fileno()
    known = _by_number.get(number)
    if known is not None and path is None:
        raw._handle, raw._shared = known, True
        return
    found = os.fstat(number)
    if not stat.S_ISREG(found.st_mode):
        if stat.S_ISFIFO(found.st_mode):
            for letter, way in (("r", "in"), ("w", "out")):
                if letter in _letters(kind):
                    tracker.log.add("pipe", pipe=[found.st_dev, found.st_ino], way=way)
        return
    created = emptied = False
    if path is None:
        if number <= 2 and native.looks_on():
            return  # what was there when the program began is seen from C
        path = path_of_number(tracker, number)
        if path is None:
            return
        emptied = kind.startswith("w") and found.st_size == 0
    else:
        created = kind[0] in "wxa" and before is None
        emptied = kind[0] == "w" and before is not None
    raw._handle = _by_number[number] = tracker.opened(
        path, _letters(kind), created=created, emptied=emptied, found=found, seconds=seconds
    )


def piped(tracker: Tracker, number: int, way: str) -> None:
    """A descriptor that is a pipe: what one end has read may be in what the other writes."""
    try:
        found = os.fstat(number)
    except OSError:
        return
    if stat.S_ISFIFO(found.st_mode):
        tracker.log.add("pipe", pipe=[found.st_dev, found.st_ino], way=way)


def path_of_number(tracker: Tracker, number: int) -> str | None:
    """Of a descriptor, by what the system says; None where it does not or where it is not recorded."""
    try:
        name = os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return None
    return tracker.path_of(name) if name.startswith("/") and not name.endswith(" (deleted)") else None


def _buffered(
    raw: TrackedFile, mode: str, buffering: int, encoding: str | None, errors: str | None, newline: str | None
) -> Any:
    """The file around the raw one that ``io.open`` gives."""
    binary, lines = "b" in mode, buffering == 1 or (buffering < 0 and "b" not in mode and raw.isatty())
    if buffering in (-1, 1):
        block = getattr(raw, "_blksize", 0)
        if sys.version_info >= (3, 14):
            block = max(min(block, 8 << 20), io.DEFAULT_BUFFER_SIZE)
        buffering = block if block > 1 else io.DEFAULT_BUFFER_SIZE
    if buffering == 0:
        return raw
    made: Any
    if "+" in mode:
        made = io.BufferedRandom(raw, buffering)
    elif "r" in mode:
        made = io.BufferedReader(raw, buffering)
    else:
        made = io.BufferedWriter(raw, buffering)
    if "r" not in mode or "+" in mode:
        _open_files.add(made)
    if binary:
        return made
    text = io.TextIOWrapper(made, encoding, errors, newline, lines)
    text.mode = mode  # type: ignore[misc]
    if "r" not in mode or "+" in mode:
        _open_files.add(text)
    return text


def flush_all() -> None:
    """What the program left in buffers, as the interpreter would do a little later."""
    for file in list(_open_files):
        try:
            file.flush()
        except Exception:  # closed meanwhile, or its descriptor is gone; the interpreter says so
            continue


# the functions of os


def _os_open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    tracker, real = _tracker, _originals[os, "open"]
    if dir_fd is not None and tracker is not None:
        return _opened_within(tracker, path, flags, mode, dir_fd)
    seen = tracker.look(path) if tracker is not None and not getattr(_inside, "on", False) else None
    if seen is None:
        return int(real(path, flags, mode, dir_fd=dir_fd))
    assert tracker is not None
    place, before = seen
    writes = flags & (os.O_WRONLY | os.O_RDWR)
    kind = "rw" if flags & os.O_RDWR else "w" if writes else "r"
    _inside.on = True
    try:
        number = int(real(path, flags, mode, dir_fd=dir_fd))
    except OSError as error:
        tracker.failed(place, kind, error)
        raise
    finally:
        _inside.on = False
    found = os.fstat(number)
    if stat.S_ISREG(found.st_mode):
        created = bool(flags & os.O_CREAT) and before is None
        emptied = bool(flags & os.O_TRUNC) and bool(writes) and before is not None
        _by_number[number] = tracker.opened(place, kind, created=created, emptied=emptied, found=found)
    return number


def _opened_within(tracker: Tracker, path: Any, flags: int, mode: int, dir_fd: int) -> int:
    """A name in an open folder; where it lies the system says afterwards."""
    inside, _inside.on = getattr(_inside, "on", False), True
    try:
        number = int(_originals[os, "open"](path, flags, mode, dir_fd=dir_fd))
    finally:
        _inside.on = inside
    found = os.fstat(number)
    place = path_of_number(tracker, number) if stat.S_ISREG(found.st_mode) and not inside else None
    if place is not None:
        writes = flags & (os.O_WRONLY | os.O_RDWR)
        kind = "rw" if flags & os.O_RDWR else "w" if writes else "r"
        created = bool(flags & os.O_CREAT) and bool(flags & os.O_EXCL)
        emptied = bool(writes) and not created and found.st_size == 0
        _by_number[number] = tracker.opened(place, kind, created=created, emptied=emptied, found=found)
    return number


def _open_elsewhere(handle: Handle) -> bool:
    """Whether another descriptor leads to the same open file; one that C code has closed meanwhile does not."""
    if not handle.doubled:
        return False
    for number in [number for number, one in _by_number.items() if one is handle]:
        try:
            found = os.fstat(number)
            if handle.node is None or (found.st_dev, found.st_ino) == handle.node:
                return True
        except OSError:
            pass
        del _by_number[number]
    return False


def _os_dup2(fd: int, fd2: int, inheritable: bool = True) -> int:
    found = int(_originals[os, "dup2"](fd, fd2, inheritable))
    if fd != fd2:
        old = _by_number.pop(fd2, None)
        if old is not None and _tracker is not None and not _open_elsewhere(old):
            _tracker.closed(old)
        _same(fd, fd2)
    return found


def _same(fd: int, fd2: int) -> None:
    """Two descriptors lead to one open file."""
    if (handle := _by_number.get(fd)) is not None:
        _by_number[fd2] = handle
        handle.doubled = True
    else:
        _by_number.pop(fd2, None)


def _os_dup(fd: int) -> int:
    found = int(_originals[os, "dup"](fd))
    _same(fd, found)
    return found


def _os_close(fd: int) -> None:
    handle = _by_number.pop(fd, None)
    found = None
    if handle is not None and handle.wrote:
        try:
            found = os.fstat(fd)
        except OSError:
            found = None
    _originals[os, "close"](fd)
    if handle is not None and _tracker is not None and not _open_elsewhere(handle):
        _tracker.closed(handle, found)


def _counted(name: str, kind: str, at: int = 0) -> Callable[..., Any]:
    """A function of ``os`` whose argument ``at`` is a descriptor that it reads from or writes to."""
    real = getattr(os, name)

    def call(*args: Any, **more: Any) -> Any:
        handle = _by_number.get(args[at]) if len(args) > at and isinstance(args[at], int) else None
        if handle is None or _tracker is None:
            return real(*args, **more)
        started = perf_counter()
        found = real(*args, **more)
        count = found if isinstance(found, int) else len(found) if isinstance(found, bytes) else 0
        tell = _tracker.read if kind == "read" else _tracker.wrote
        tell(handle, count, perf_counter() - started)
        return found

    return call


def _copied(name: str, out: int, source: int) -> Callable[..., Any]:
    """``sendfile`` and ``copy_file_range``: from one descriptor to another."""
    real = getattr(os, name)

    def call(*args: Any, **more: Any) -> Any:
        found = real(*args, **more)
        if _tracker is not None and isinstance(found, int) and len(args) > max(out, source):
            if (handle := _by_number.get(args[source])) is not None:
                _tracker.read(handle, found)
            if (handle := _by_number.get(args[out])) is not None:
                _tracker.wrote(handle, found)
        return found

    return call


def _synced(name: str) -> Callable[..., Any]:
    real = getattr(os, name)

    def call(fd: Any) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        started = perf_counter()
        real(fd)
        if _tracker is not None and (handle := _by_number.get(number)) is not None:
            _tracker.synced(handle, perf_counter() - started)

    return call


def _told(name: str, tell: Callable[[Tracker, tuple[Any, ...]], None]) -> Callable[..., Any]:
    """A function of ``os`` on names, told of once it has worked."""
    real = getattr(os, name)

    def call(*args: Any, **more: Any) -> Any:
        found = real(*args, **more)
        plain = not any(more.get(key) is not None for key in ("dir_fd", "src_dir_fd", "dst_dir_fd"))
        if _tracker is not None and plain and not getattr(_inside, "on", False):
            given = args + tuple(more[key] for key in ("src", "dst", "path") if key in more)
            try:
                tell(_tracker, given)
            except Exception:  # the program's call has worked, and goes on
                _tracker.unseen(f"os.{name} with arguments of another form")
        return found

    return call


def _truncated(tracker: Tracker, given: tuple[Any, ...]) -> None:
    if isinstance(given[0], int):
        if (handle := _by_number.get(given[0])) is not None:
            tracker.wrote(handle, 0)
    elif (place := tracker.path_of(given[0])) is not None:
        handle = tracker.opened(place, "rw")  # what its size was before is not known any more
        tracker.wrote(handle, 0)
        tracker.closed(handle)


class TrackedMap(mmap.mmap):
    """A memory map; what it maps counts as read, and as written where it may be."""

    def __new__(cls, fileno: int, length: int, *args: Any, **more: Any) -> TrackedMap:
        """As in ``mmap``."""
        made = super().__new__(cls, fileno, length, *args, **more)
        handle = _by_number.get(fileno)
        if handle is not None and _tracker is not None:
            access = more.get("access", mmap.ACCESS_DEFAULT)
            flags, prot = (
                more.get("flags", mmap.MAP_SHARED),
                more.get("prot", mmap.PROT_READ | mmap.PROT_WRITE),
            )
            shared = access == mmap.ACCESS_WRITE or (
                access == mmap.ACCESS_DEFAULT
                and bool(flags & mmap.MAP_SHARED)
                and bool(prot & mmap.PROT_WRITE)
            )
            _tracker.read(handle, len(made))
            if shared and "w" in handle.mode:
                _tracker.wrote(handle, len(made))
        return made


TrackedMap.__name__, TrackedMap.__qualname__, TrackedMap.__module__ = "mmap", "mmap", "mmap"


class _Stand:
    """A function in place of another: no method where it stands in a class, and pickled by the other's name."""

    def __init__(self, function: Callable[..., Any], old: Any) -> None:
        self._function = function
        self.__name__, self.__qualname__ = old.__name__, old.__name__
        self.__doc__, self.__module__ = (
            old.__doc__,
            "io" if old.__name__ == "open" and old is _real_open else "os",
        )
        self.__wrapped__ = old

    def __call__(self, *args: Any, **more: Any) -> Any:
        return self._function(*args, **more)

    def __reduce__(self) -> str:
        return str(self.__name__)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)


def _touched(tracker: Tracker, given: tuple[Any, ...]) -> None:
    if isinstance(given[0], int):
        handle = _by_number.get(given[0])
        path: Any = handle.path if handle is not None else None
    else:
        path = given[0]
    if path is not None:
        tracker.touched(path)


def _audited(event: str, args: tuple[Any, ...]) -> None:
    """What the functions above did not see: files opened by C code of Python's own. It cannot be taken out again."""
    tracker = _tracker
    if tracker is None or getattr(_inside, "on", False):
        return
    if event == "open":
        path, _mode, flags = args
        if isinstance(path, int) or path is None or str(path).endswith((".py", ".pyc", ".so")):
            return
        if not isinstance(flags, int) or flags & (os.O_WRONLY | os.O_RDWR):
            return
        _inside.on = True
        try:
            tracker.used(path, through="C")
        except Exception:  # nothing may come of looking on
            return
        finally:
            _inside.on = False
    elif event == "os.exec":
        tracker.tell_objects()
        tracker.log.settle()
        tracker.log.flush()
    elif event in STARTS:
        tracker.log.settle()


STARTS = frozenset(("subprocess.Popen", "os.posix_spawn", "os.system", "os.startfile"))
"""Other programs, which may ask what this one has done so far."""
_hooked = False
ABLE: tuple[set[Any], ...] = (
    os.supports_dir_fd,
    os.supports_fd,
    os.supports_follow_symlinks,
    os.supports_effective_ids,
)
_able: list[tuple[set[Any], Any]] = []


def install(tracker: Tracker) -> None:
    """Begin to look on."""
    global _tracker, _hooked
    if _tracker is not None:
        _tracker = tracker
        return
    replaced: dict[tuple[Any, str], Any] = {(owner, "open"): tracked_open for owner in (builtins, io, _io)}
    replaced |= {(os, "open"): _os_open, (os, "close"): _os_close, (mmap, "mmap"): TrackedMap}
    for name in ("read", "pread", "readv", "preadv"):
        replaced[os, name] = _counted(name, "read")
    for name in ("write", "pwrite", "writev", "pwritev", "posix_fallocate"):
        replaced[os, name] = _counted(name, "write")
    replaced |= {
        (os, "sendfile"): _copied("sendfile", 0, 1),
        (os, "copy_file_range"): _copied("copy_file_range", 1, 0),
    }
    replaced |= {(os, name): _synced(name) for name in ("fsync", "fdatasync")}
    replaced |= {(os, name): _told(name, lambda t, a: t.moved(a[0], a[1])) for name in ("rename", "replace")}
    replaced[os, "link"] = _told("link", lambda t, a: t.linked(a[0], a[1]))
    replaced |= {(os, name): _told(name, lambda t, a: t.removed(a[0])) for name in ("unlink", "remove")}
    replaced[os, "mkdir"] = _told("mkdir", lambda t, a: t.made_folder(a[0]))
    replaced |= {(os, name): _told(name, _truncated) for name in ("truncate", "ftruncate")}
    replaced |= {(os, "dup"): _os_dup, (os, "dup2"): _os_dup2, (os, "utime"): _told("utime", _touched)}
    replaced[os, "symlink"] = _told("symlink", lambda t, a: t.forget_folders(new_link=True))
    one_open = _Stand(tracked_open, _real_open)
    for (owner, name), new in replaced.items():
        old = _originals[owner, name] = getattr(owner, name)
        stand = new if isinstance(new, type) else one_open if new is tracked_open else _Stand(new, old)
        setattr(owner, name, stand)
        for able in ABLE:
            if old in able:  # what a function can do, asked of the function itself
                able.add(stand)
                _able.append((able, stand))
    _tracker = tracker
    if not _hooked:
        sys.addaudithook(_audited)
        _hooked = True


def uninstall() -> None:
    """Stop looking on; files that are open are left to themselves."""
    global _tracker
    tracker, _tracker = _tracker, None
    for (owner, name), old in _originals.items():
        setattr(owner, name, old)
    for able, stand in _able:
        able.discard(stand)
    _able.clear()
    if tracker is not None:
        for handle in list(_by_number.values()):
            tracker.closed(handle)
    _by_number.clear()
    _originals.clear()


def current() -> Tracker | None:
    """Who is looking on."""
    return _tracker
