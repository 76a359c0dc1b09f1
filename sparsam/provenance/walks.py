"""Walks through what came from what, in an index: without recursion, and each step of a list of reads once.

An entity is made from the first so many entries of a list. Whoever has gone through the first so many of a list need not do so
again for another entity of the same list, so a walk takes time in proportion to what it finds, not to the number of
derivations.
"""

import sqlite3
from dataclasses import dataclass, field

_DERIVED = 8  # the flag of an entity that has derivations beside its list
_EVERYTHING = 1 << 62


@dataclass
class Upward:
    """Towards what things were made from, from several starts one after the other; what was reached once is not given again."""

    base: sqlite3.Connection
    reached: set[int] = field(default_factory=set)
    gone_on: set[int] = field(default_factory=set)
    done: dict[int, int] = field(default_factory=dict)
    """Of each list, how many of its first entries were gone through."""

    def __call__(self, start: int) -> list[int]:
        """What is reached from here, nearest first; not the start."""
        row = self.base.execute("SELECT reads, count, flags FROM entity WHERE key = ?", (start,)).fetchone()
        front, found = [(start, *row)], []
        while front:
            following = []
            for one in front:
                if one[0] in self.gone_on:
                    continue
                self.gone_on.add(one[0])
                for other in self._step(*one):
                    if other[0] not in self.reached and other[0] != start:
                        self.reached.add(other[0])
                        following.append(other)
                        found.append(other[0])
            front = following
        return found

    def _step(
        self, key: int, reads: int | None, count: int, flags: int
    ) -> list[tuple[int, int | None, int, int]]:
        found = []
        if flags & _DERIVED:
            found += self.base.execute(
                "SELECT entity.key, reads, count, flags FROM derived JOIN entity ON entity.key = source "
                "WHERE target = ? ORDER BY source",
                (key,),
            ).fetchall()
        if reads is not None and self.done.get(reads, 0) < count:
            found += self.base.execute(
                "SELECT entity.key, reads, entity.count, flags FROM read JOIN entity ON entity.key = read.entity "
                "WHERE list = ? AND position >= ? AND position < ? ORDER BY position",
                (reads, self.done.get(reads, 0), count),
            ).fetchall()
            self.done[reads] = count
        return found


@dataclass
class Downward:
    """Towards what was made from things; as :class:`Upward`."""

    base: sqlite3.Connection
    reached: set[int] = field(default_factory=set)
    gone_on: set[int] = field(default_factory=set)
    done: dict[int, int] = field(default_factory=dict)
    """Of each list, from which position on it was gone through."""

    def __call__(self, start: int) -> list[int]:
        """What is reached from here, nearest first; not the start."""
        front, found = [start], []
        while front:
            following = []
            for one in front:
                if one in self.gone_on:
                    continue
                self.gone_on.add(one)
                for (other,) in self._step(one):
                    if other not in self.reached and other != start:
                        self.reached.add(other)
                        following.append(other)
                        found.append(other)
            front = following
        return found

    def _step(self, key: int) -> list[tuple[int]]:
        found = self.base.execute(
            "SELECT target FROM derived WHERE source = ? ORDER BY target", (key,)
        ).fetchall()
        listed = self.base.execute(
            "SELECT list, position FROM read WHERE entity = ? ORDER BY list", (key,)
        ).fetchall()
        for reads, position in listed:
            low = self.done.get(reads, _EVERYTHING)
            if position < low:
                found += self.base.execute(
                    "SELECT key FROM entity WHERE reads = ? AND count > ? AND count <= ? ORDER BY key",
                    (reads, position, low),
                ).fetchall()
                self.done[reads] = position
        return found


def sources(
    base: sqlite3.Connection, key: int, most: int = -1, firsts: dict[tuple[int, int], list[int]] | None = None
) -> list[int]:
    """What an entity was made from directly, in order; not itself, and not more than ``most``.

    ``firsts`` keeps the beginnings of lists from one question to the next.
    """
    reads, count, flags = base.execute(
        "SELECT reads, count, flags FROM entity WHERE key = ?", (key,)
    ).fetchone()
    found: list[int] = []
    if flags & _DERIVED:
        rows = base.execute(
            "SELECT source FROM derived WHERE target = ? ORDER BY source LIMIT ?", (key, most)
        )
        found += [x for (x,) in rows]
    if reads is not None:
        wanted = count if most < 0 else most + len(found) + 1
        listed = None if firsts is None else firsts.get((reads, wanted))
        if listed is None:
            rows = base.execute(
                "SELECT entity FROM read WHERE list = ? AND position < ? ORDER BY position", (reads, wanted)
            )
            listed = [x for (x,) in rows]
            if firsts is not None and most >= 0:
                firsts[reads, wanted] = listed
        found += listed[:count]
    known = [x for x in dict.fromkeys(found) if x != key]
    return known if most < 0 else known[:most]
