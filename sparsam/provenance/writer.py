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
from _thread import allocate_lock, get_ident, start_new_thread
from collections import deque

from sparsam.errors import InputOutput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# bound before anything is put in place of them, by sparsam or by the program's tests
_write, _fstat, _close, _open, _truncate, _time = (
    os.write,
    os.fstat,
    os.close,
    os.open,
    os.ftruncate,
    time.time_ns,
)

MAGIC = b"sparsam log 1\n"
SUFFIX = ".log"
HEAD = struct.Struct("<IIQ")
_head, _number = HEAD.pack, struct.Struct("<Q").pack
LARGEST = 1 << 24
"""Of a payload, in bytes; a longer one is damage."""
FLUSH_BYTES = 1 << 16
FLUSH_AFTER = 10**9
"""Nanoseconds."""
SOON = 0.1
"""Seconds in which what is due is flushed, while much of it comes."""
AT_ONCE = 2
"""How often it is flushed at once before much has come."""
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


_forks = [0]


def _forked() -> None:
    _forks[0] += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


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
        self._queue: deque[tuple[int, str | Callable[..., str], Any]] = deque()
        self._begin(parent)

    def _begin(self, parent: Writer | None) -> None:
        self.writer = Writer(
            os.uname().nodename if hasattr(os, "uname") else "host", os.getpid(), time.time_ns()
        )
        self._forks = _forks[0]
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
        self._flushed = self._clock = self.writer.started
        self._at_once = AT_ONCE
        self._waker: _Waker | None = None

    @property
    def path(self) -> str:
        """Of the file."""
        return os.path.join(self.folder, self.writer.file)

    def add(self, kind: str, **facts: Any) -> None:
        """Append one record; it is on its way to disk after at most a second if more follow, or at :meth:`flush`.

        Never waits: a signal handler or a finalizer that comes in while a record is being made leaves its own in the queue.
        """
        self.say(kind, facts)

    def say(self, what: str | Callable[..., str], values: Any) -> None:
        """Append one record like :meth:`add`; a function makes its text of these values later, when it is written."""
        if _forks[0] != self._forks:
            self.forked()
        now = _time()
        self._queue.append((now, what, values))
        late = not 0 <= now - self._flushed < FLUSH_AFTER
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
        queue = self._queue
        while queue:
            now, what, values = queue.popleft()
            if isinstance(what, str):
                self._put(what, values, now)
            else:
                self._put_text(what(*values), now)

    def _put(self, kind: str, facts: dict[str, Any], now: int) -> None:
        try:
            text = _dumps([kind, facts])
        except (TypeError, ValueError, RecursionError):
            text = _dumps([kind, {key: _plain(value) for key, value in facts.items()}])
        self._put_text(text[1:-1], now)

    def _put_text(self, text: str, now: int) -> None:
        self._clock = now
        if now < self._last:  # a clock that is set back does not turn the order round
            now = self._last
        self._last = now
        number = self._number
        payload = f"[{now},{text}]".encode()
        size = len(payload)
        if size > LARGEST:
            kind = text[1 : text.index('"', 1)]
            payload = _dumps([now, "dropped", {"kind": kind, "bytes": size}]).encode()
            size = len(payload)
        self._waiting += _head(size, zlib.crc32(payload, zlib.crc32(_number(number))), number) + payload
        self._number = number + 1
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

    def flush_soon(self) -> None:
        """Flush now, or within a tenth of a second where there was much to flush lately, whatever the program does.

        A flush takes as long as a small file's whole life. So a program that closes one file after the other has them written
        down together, by a thread that lives as long as that goes on.
        """
        if self._waker is not None:
            return
        if not 0 <= _time() - self._flushed < SOON * 1e9:
            self._at_once = AT_ONCE
        if self._at_once:
            self._at_once -= 1
        elif _Waker.begin(self):
            return
        self.flush()

    def settle(self) -> None:
        """Flush what is due, and end the thread that would have done it."""
        waker = self._waker
        if waker is not None:
            waker.end()

    def _flush(self) -> None:
        self._flushed = self._clock
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
        self.settle()
        self.flush()
        if os.getpid() == self.writer.pid and self._file is not None:
            with _no_matter:
                _close(self._file)
            self._file = None


class _Waker:
    """A thread that flushes a log as long as records come, and once more."""

    def __init__(self, log: Log) -> None:
        self._log, self._wake, self._ended = log, allocate_lock(), allocate_lock()
        self._wake.acquire()
        self._ended.acquire()

    @classmethod
    def begin(cls, log: Log) -> bool:
        """Whether there is such a thread now."""
        import signal

        made, started = cls(log), False
        log._waker = made
        mask = getattr(signal, "pthread_sigmask", None)
        before = mask(signal.SIG_BLOCK, ()) if mask is not None else ()
        try:
            if mask is not None:  # signals to the program are for its own threads
                mask(signal.SIG_BLOCK, signal.valid_signals())
            start_new_thread(made._run, ())
            started = True
        except RuntimeError:  # no more threads are to be had
            pass
        finally:
            if not started:
                log._waker = None
            if mask is not None:
                mask(signal.SIG_SETMASK, before)
        return started

    def _run(self) -> None:
        log = self._log
        while not self._wake.acquire(True, SOON):
            if not log._queue and not log._waiting:
                break
            log.flush()
        log._waker = None  # from here on another one is begun
        log.flush()
        self._ended.release()

    def end(self) -> None:
        """It flushes at once, and is gone."""
        try:
            self._wake.release()
        except RuntimeError:  # somebody else has just done so
            return
        self._ended.acquire(True, 1.0)


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
