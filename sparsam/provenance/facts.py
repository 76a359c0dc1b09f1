"""Facts of records as what they must be; each raises ValueError, TypeError or KeyError where a log says something else."""

import math
from typing import Any

from sparsam.provenance.writer import Writer

MOST = (1 << 63) - 1
"""That a sum can be."""


def text_of(value: Any) -> str | None:
    """Any value as text; None stays None."""
    return None if value is None else str(value)


def whole(value: Any) -> int | None:
    """A whole number of 64 bits, or None."""
    if value is None:
        return None
    if type(value) is not int or not -MOST <= value <= MOST:
        raise ValueError(value)
    return value


def amount(value: Any) -> int:
    """A count, from 0 on."""
    made = int(value)
    if not 0 <= made <= MOST:
        raise ValueError(value)
    return made


def seconds_of(value: Any) -> float:
    """A finite number."""
    made = float(value)
    if not math.isfinite(made):
        raise ValueError(value)
    return made


def handle_of(facts: dict[str, Any]) -> int | str:
    """What a program calls an open file."""
    handle = facts["handle"]
    if type(handle) is not int and type(handle) is not str:
        raise TypeError(handle)
    return handle


def writer_of(value: Any) -> Writer | None:
    """Of a process, where it is told as one: host, number, time of its start."""
    try:
        host, pid, started = value
        return Writer(str(host), int(pid), int(started))
    except (TypeError, ValueError, OverflowError):
        return None


def inode_of(value: Any) -> tuple[int, int] | None:
    """Device and number."""
    if not value:
        return None
    device, number = value[0], value[1]
    if type(device) is not int or type(number) is not int:
        raise TypeError(value)
    if not (0 <= device < 1 << 64 and 0 <= number < 1 << 64):
        raise ValueError(value)
    return (device, number)
