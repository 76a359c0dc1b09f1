"""The writing side of the log: what every tracked program imports, so it imports little itself.

The format stands in :mod:`sparsam.provenance.log`.
"""

from __future__ import annotations

import json
import json.encoder
import os
import struct
import time
import zlib
from _thread import allocate_lock, get_ident
from collections import deque

from sparsam.errors import InputOutput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# bound before anything is put in place of them, by sparsam or by the program's tests
_write, _fstat, _close, _open, _truncate, _time, _tick, _getpid = (
    os.write,
    os.fstat,
    os.close,
    os.open,
    os.ftruncate,
    time.time_ns,
    time.monotonic,
    os.getpid,
)

MAGIC = b"sparsam log 1\n"
SUFFIX = ".log"
HEAD = struct.Struct("<IIQ")
_length_and_sum, _number = struct.Struct("<II").pack, struct.Struct("<Q").pack
LARGEST = 1 << 24
"""Of a payload, in bytes; a longer one is damage."""
FLUSH_BYTES = 1 << 16
FLUSH_SECONDS = 1.0
BATCH = 128
"""Records that are encoded together: one at a time, between a program's own work, each would find the caches cold."""
_encoder = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False, allow_nan=False)


def _encoding() -> Callable[[Any], str]:
    """The encoder; where it is in C, made once and not for every record."""
    try:
        parts = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
            None, _encoder.default, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, False
        )
        if "".join(parts([1, "a", {"b": 1.5}], 0)) == '[1,"a",{"b":1.5}]':
            return lambda value: "".join(parts(value, 0))
    except (AttributeError, TypeError, ValueError):  # another Python has it otherwise
        pass
    return _encoder.encode


_dumps = _encoding()


class Writer(tuple["str | int", ...]):
    """Which process wrote: host, process, and when it started (nanoseconds since 1970), so that a number used again differs."""

    __slots__ = ()

    def __new__(cls, host: str, pid: int, started: int) -> Writer:
        """Of these three."""
        return super().__new__(cls, (host, pid, started))

    @property
    def host(self) -> str:
        """Name of the machine."""
        return str(self[0])

    @property
    def pid(self) -> int:
        """Number of the process."""
        return int(self[1])

    @property
    def started(self) -> int:
        """Nanoseconds since 1970."""
        return int(self[2])

    @property
    def file(self) -> str:
        """The name of its log."""
        host = "".join(x if x.isalnum() or x in "-." else "_" for x in self.host)[:60] or "host"
        return f"{host}-{self.pid}-{self.started}{SUFFIX}"


class Log:
    """The log of this process in a folder.

    Safe to use from many threads. After a fork the child starts a log of its own. Nothing here raises once the log is open:
    losses are counted in :attr:`lost`.

    Raises:
        InputOutput: ``log-folder`` where the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str], *, parent: Writer | None = None) -> None:
        self.folder = os.path.abspath(folder)
        try:
            os.makedirs(self.folder, exist_ok=True)
        except OSError as error:
            raise InputOutput(
                f"{self.folder} cannot be made: {error.strerror}.", code="log-folder"
            ) from error
        self._lock = allocate_lock()
        self._owner = 0
        self._queue: deque[tuple[int, str, dict[str, Any]]] = deque()
        self._begin(parent)

    def _begin(self, parent: Writer | None) -> None:
        self.writer = Writer(
            os.uname().nodename if hasattr(os, "uname") else "host", os.getpid(), time.time_ns()
        )
        self._pid = self.writer.pid
        self.parent = parent
        self.eager = (
            parent is not None
        )  # a forked worker may be killed at any time, once it has nothing to do
        self.lost = 0
        self._said_lost = 0
        self._number = 0
        self._last = 0
        self._waiting = bytearray(MAGIC)
        self._counted = 0  # records in _waiting
        self._file: int | None = None
        self._node = (0, 0)
        self._flushed = _tick()

    @property
    def path(self) -> str:
        """Of the file."""
        return os.path.join(self.folder, self.writer.file)

    def add(self, kind: str, **facts: Any) -> None:
        """Append one record; it is on its way to disk after at most a second if more follow, or at :meth:`flush`.

        Never waits: a signal handler or a finalizer that comes in while a record is being made leaves its own in the queue.
        """
        if _getpid() != self._pid:  # forked without notice
            self.forked()
        self._queue.append((_time(), kind, facts))
        late = _tick() - self._flushed >= FLUSH_SECONDS
        if len(self._queue) < BATCH and not late and not self.eager:
            return
        while self._queue and self._lock.acquire(False):
            self._owner = get_ident()
            try:
                self._drain()
                if self.eager or late or len(self._waiting) >= FLUSH_BYTES:
                    self._flush()
            finally:
                self._owner = 0
                self._lock.release()

    def _drain(self) -> None:
        while self._queue:
            now, kind, facts = self._queue.popleft()
            self._put(kind, facts, now)

    def _put(self, kind: str, facts: dict[str, Any], now: int) -> None:
        if now < self._last:  # a clock that is set back does not turn the order round
            now = self._last
        self._last = now
        number = self._number
        try:
            payload = _dumps([now, kind, facts]).encode()
        except (TypeError, ValueError, RecursionError):
            payload = _dumps([now, kind, {key: _plain(value) for key, value in facts.items()}]).encode()
        if len(payload) > LARGEST:
            payload = _dumps([now, "dropped", {"kind": kind, "bytes": len(payload)}]).encode()
        body = _number(number) + payload
        self._waiting += _length_and_sum(len(payload), zlib.crc32(body)) + body
        self._number += 1
        self._counted += 1

    def flush(self) -> None:
        """Hand all records to the system; they survive the end of the process, however it ends."""
        if self._owner == get_ident():  # called from within: whoever goes on flushes
            return
        if not self._lock.acquire(True, 5.0):
            return
        self._owner = get_ident()
        try:
            if os.getpid() == self.writer.pid:
                self._drain()
                self._flush()
        finally:
            self._owner = 0
            self._lock.release()

    def _flush(self) -> None:
        self._flushed = _tick()
        if not self._waiting:
            return
        if self.lost > self._said_lost:
            self._said_lost = self.lost
            self._put("lost", {"records": self.lost}, _time())
        try:
            left = memoryview(bytes(self._waiting))
            before, file = self._size()
            try:
                while left:
                    left = left[_write(file, left) :]
            except OSError:
                _truncate(file, before)  # no half of a record stays
                raise
        except OSError:
            self.lost += self._counted
            header = self._number == self._counted  # nothing was ever written
            self._waiting = bytearray(MAGIC) if header and self._empty() else bytearray()
        else:
            self._waiting = bytearray()
        self._counted = 0

    def _size(self) -> tuple[int, int]:
        """Bytes in the file, and its number; opened once more where it is closed, or its number is another file's now."""
        if self._file is not None:
            with _no_matter:
                now = _fstat(self._file)
                if (now.st_dev, now.st_ino) == self._node:
                    return now.st_size, self._file
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        self._file = _high(_open(self.path, flags, 0o666))
        now = _fstat(self._file)
        self._node = (now.st_dev, now.st_ino)
        return now.st_size, self._file

    def _empty(self) -> bool:
        try:
            return os.stat(self.path).st_size == 0
        except OSError:
            return True

    def forked(self) -> None:
        """In a child: begin a log of its own, with this process as its parent."""
        self._lock, self._owner = allocate_lock(), 0
        self._queue.clear()
        parent = self.writer
        if self._file is not None:
            with _no_matter:
                _close(self._file)
        self._begin(parent)

    def close(self) -> None:
        """Flush, and let go of the file."""
        self.flush()
        if os.getpid() == self.writer.pid and self._file is not None:
            with _no_matter:
                _close(self._file)
            self._file = None


def _plain(value: Any) -> Any:
    """What JSON can hold of a value; text for the rest."""
    try:
        _dumps(value)
    except (TypeError, ValueError, RecursionError):
        if isinstance(value, os.PathLike | bytes):
            return os.fsdecode(value).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        try:
            return str(value)[:1000]
        except Exception:  # the program's own __str__
            return type(value).__name__
    return value


def _high(number: int) -> int:
    """The same file under a number that programs do not expect to be free."""
    try:
        import fcntl

        high = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 512)
    except (ImportError, OSError, ValueError):
        return number
    _close(number)
    return high


class _NoMatter:
    """What the system refuses here does no harm."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> bool:
        return kind is not None and issubclass(kind, OSError)


_no_matter = _NoMatter()
