"""Records of which there are many, put together by hand: an encoder takes twice as long for the same JSON.

What a record says is given to the log as values; these functions make it text when records are written, many at a time.
"""

from __future__ import annotations

from json.encoder import encode_basestring_ascii as quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from typing import Any

    from sparsam.provenance.tracking import Handle


def plain(path: str) -> str:
    """A path as text that any JSON reader takes: bytes that are no UTF-8 become backslash escapes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return path


def opened(
    number: int,
    path: str,
    mode: str,
    created: bool,
    emptied: bool,
    found: os.stat_result | None,
    scope: str | None,
    through: str,
    seconds: float,
) -> str:
    """A file was opened; ``found`` is what lay there."""
    text = f'"open",{{"handle":{number},"path":{quoted(plain(path))},"mode":"{mode}"'
    if created:
        text += ',"created":true'
    if emptied:
        text += ',"emptied":true'
    if found is not None:
        text += f',"inode":[{found.st_dev},{found.st_ino}]'
        if not (created or emptied):
            text += f',"size":{found.st_size},"changed":{found.st_mtime_ns}'
    if scope is not None:
        text += f',"scope":{quoted(scope)}'
    if through != "python":
        text += f',"through":{quoted(through)}'
    if seconds:
        text += f',"seconds":{seconds:.9f}'
    return text + "}"


def closed(
    handle: Handle, objects: Iterable[tuple[Any, ...]], found: os.stat_result | None, calls: bool, times: bool
) -> str:
    """A file was closed, after calls on these objects in it; ``found`` is what was written."""
    text = f'"close",{{"handle":{handle.number}'
    if objects:
        text += f',"objects":{counted(objects, times)}'
    if calls and handle.reads:
        text += f',"reads":{handle.reads},"bytes_read":{handle.bytes_read}'
        if times:
            text += f',"seconds_read":{handle.seconds_read:.9f}'
    if calls and handle.writes:
        text += f',"writes":{handle.writes},"bytes_write":{handle.bytes_write}'
        if times:
            text += f',"seconds_write":{handle.seconds_write:.9f}'
    elif handle.writes:
        text += ',"writes":1'
    if found is not None:
        text += f',"size":{found.st_size},"changed":{found.st_mtime_ns}'
        if handle.node not in (None, (found.st_dev, found.st_ino)):
            text += f',"inode":[{found.st_dev},{found.st_ino}]'  # a library wrote it aside, and put it in its place
    return text + "}"


def objects(number: int, told: Iterable[tuple[Any, ...]], times: bool) -> str:
    """Calls on objects in a file that stays open."""
    return f'"objects",{{"handle":{number},"calls":{counted(told, times)}}}'


def counted(told: Iterable[tuple[Any, ...]], times: bool) -> str:
    """Calls on objects, those that are alike told together: kind, name, call, how many, bytes, seconds, time of the first."""
    sums: dict[tuple[str, str, str], list[Any]] = {}
    for _, kind, name, call, size, seconds, when in told:
        entry = sums.get((kind, name, call))
        if entry is None:
            sums[kind, name, call] = [1, size, seconds, when]
        else:
            entry[0] += 1
            entry[1] += size
            entry[2] += seconds
    rows = [
        f'["{kind}",{quoted(name)},"{call}",{count},{size},{seconds if times else 0:.9f},{first}]'
        for (kind, name, call), (count, size, seconds, first) in sums.items()
    ]
    return f"[{','.join(rows)}]"
