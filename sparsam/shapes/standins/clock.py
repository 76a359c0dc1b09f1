"""Clocks and names made of chance: the same in each run, for what differs between two runs alone is no state of theirs.

Texts that a program makes of the hour, of a unique number or of a temporary folder are compared as they are. What
`time.time()` and its like give is a symbol instead (see `chance`).
"""

import datetime
import hashlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from sparsam.shapes.run import current

NOW = time.time()  # of all runs
COUNTS = "drawn"  # note of a run: how many names were made


_REAL = datetime.datetime


class _Kind(type(datetime.datetime)):  # type: ignore[misc]
    """Whatever is a datetime of the real class is one of `Clock`, too; classes that a program derives are as they are."""

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _REAL) if cls is Clock else type.__instancecheck__(cls, value)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, _REAL) if cls is Clock else type.__subclasscheck__(cls, kind)


class Clock(datetime.datetime, metaclass=_Kind):
    """`datetime.datetime`, which stands still during a run."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        """The moment of all runs."""
        return _REAL.now(tz) if current() is None else _REAL.fromtimestamp(NOW, tz)

    @classmethod
    def today(cls) -> Any:
        """The moment of all runs, local time."""
        return cls.now()

    @classmethod
    def utcnow(cls) -> Any:
        """The moment of all runs, without a zone."""
        return cls.now(datetime.UTC).replace(tzinfo=None)


def _at(real: Callable[..., Any], position: int, moment: Any) -> Callable[..., Any]:
    """A function of `time` that takes the present moment where it is not told one."""

    def function(*given: Any) -> Any:
        if current() is None or len(given) > position:
            return real(*given)
        return real(*given, moment)

    return function


def _whole(real: Callable[[], int]) -> Callable[[], int]:
    """A clock that counts in whole nanoseconds."""

    def function() -> int:
        return real() if current() is None else int(NOW) * 10**9

    return function


def _next() -> int:
    run = current()
    if run is None:
        return 0
    run.notes[COUNTS] = number = run.notes.get(COUNTS, 0) + 1
    return int(number)


def _bytes(real: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """`os.urandom`: other bytes at each call of a run, the same in each run."""

    def function(size: int) -> bytes:
        if current() is None:
            return real(size)
        return hashlib.shake_256(str(_next()).encode()).digest(size)

    return function


def _names(real: Callable[[], Iterator[str]]) -> Callable[[], Iterator[str]]:
    """Names to try for temporary files."""

    def function() -> Iterator[str]:
        return real() if current() is None else (f"{_next():08d}" for _ in itertools.count())

    return function


def patches() -> Iterator[tuple[Any, str, Any]]:
    """(owner, attribute, stand-in) for all of this module."""
    yield datetime, "datetime", Clock
    for name in ("localtime", "gmtime", "ctime"):
        yield time, name, _at(getattr(time, name), 0, NOW)
    yield time, "strftime", _at(time.strftime, 1, time.localtime(NOW))
    for name in ("time_ns", "perf_counter_ns", "monotonic_ns", "process_time_ns"):
        yield time, name, _whole(getattr(time, name))
    yield os, "urandom", _bytes(os.urandom)
    yield tempfile, "_get_candidate_names", _names(tempfile._get_candidate_names)  # type: ignore[attr-defined]
