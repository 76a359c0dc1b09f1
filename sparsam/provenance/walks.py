"""Walks through what came from what, in an index: without recursion, and each step of a list of reads once.

An entity is made from the first so many entries of a list. Whoever has gone through the first so many of a list need not do so
again for another entity of the same list, so a walk takes time in proportion to what it finds, not to the number of
derivations.
"""

import sqlite3
from collections.abc import Iterator

_DERIVED = 8  # the flag of an entity that has derivations beside its list


def upward(base: sqlite3.Connection, start: int) -> Iterator[int]:
    """Everything an entity was made from, nearest first; not itself."""
    row = base.execute("SELECT reads, count, flags FROM entity WHERE key = ?", (start,)).fetchone()
    seen, done, front = {start}, dict[int, int](), [(start, *row)]
    step = base.cursor()
    while front:
        following = []
        for key, reads, count, flags in front:
            found = []
            if flags & _DERIVED:
                found += step.execute(
                    "SELECT entity.key, reads, count, flags FROM derived JOIN entity ON entity.key = source "
                    "WHERE target = ? ORDER BY source",
                    (key,),
                ).fetchall()
            if reads is not None and done.get(reads, 0) < count:
                found += step.execute(
                    "SELECT entity.key, reads, entity.count, flags FROM read JOIN entity ON entity.key = read.entity "
                    "WHERE list = ? AND position >= ? AND position < ? ORDER BY position",
                    (reads, done.get(reads, 0), count),
                ).fetchall()
                done[reads] = count
            for other in found:
                if other[0] not in seen:
                    seen.add(other[0])
                    following.append(other)
                    yield other[0]
        front = following


def downward(base: sqlite3.Connection, start: int) -> Iterator[int]:
    """Everything that was made from an entity, nearest first; not itself."""
    seen, done, front = {start}, dict[int, int](), [start]
    step = base.cursor()
    while front:
        following = []
        for one in front:
            found = step.execute(
                "SELECT target FROM derived WHERE source = ? ORDER BY target", (one,)
            ).fetchall()
            listed = step.execute(
                "SELECT list, position FROM read WHERE entity = ? ORDER BY list", (one,)
            ).fetchall()
            for reads, position in listed:
                low = done.get(reads, 1 << 62)
                if position < low:
                    found += step.execute(
                        "SELECT key FROM entity WHERE reads = ? AND count > ? AND count <= ? ORDER BY key",
                        (reads, position, low),
                    ).fetchall()
                    done[reads] = position
            for (other,) in found:
                if other not in seen:
                    seen.add(other)
                    following.append(other)
                    yield other
        front = following


def sources(base: sqlite3.Connection, key: int, most: int = -1) -> list[int]:
    """What an entity was made from directly, in order; not itself, and not more than ``most``."""
    reads, count = base.execute("SELECT reads, count FROM entity WHERE key = ?", (key,)).fetchone()
    derived = base.execute(
        "SELECT source FROM derived WHERE target = ? ORDER BY source LIMIT ?", (key, most)
    ).fetchall()
    listed = base.execute(
        "SELECT entity FROM read WHERE list = ? AND position < ? ORDER BY position LIMIT ?",
        (reads, count, -1 if most < 0 else most + len(derived) + 1),
    ).fetchall()
    found = [x for x in dict.fromkeys(x for (x,) in derived + listed) if x != key]
    return found if most < 0 else found[:most]
