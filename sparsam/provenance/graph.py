"""From logs to a graph: which version of which file came from which, through which program.

:func:`history` is a pure function of the merged records (by the rules in :mod:`sparsam.provenance.fold`). A file is more than
its path: it keeps what it is when it is renamed or linked, and each time it is written it becomes a new *generation*, an entity
of its own. What a program reads binds to the
generation that lay there when it was opened; what it writes derives from every generation that the program had opened for
reading before the written file was closed, and, where it was not emptied first, from the generation before it.
A file that is read while it is being written is kept out of what would make it its own ancestor.

Two rules narrow or widen that: inside a scope of the user's only what was read in this scope (or in one within it) counts; and
processes that were forked from one another share memory, so what one read may be in what another writes; so do workers that
multiprocessing starts. Other programs that were started anew (exec) share files and pipes alone: what a program reads from a
pipe may hold all that its writers have read.

Where a file is not as it was last seen (size, time of change, inode), something unseen wrote it: the new generation says so.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sparsam.provenance.decisions import Account, take
from sparsam.provenance.fold import CALLS, OBJECTS, Fold
from sparsam.provenance.ids import entity_id, program_id
from sparsam.provenance.log import Merged, Writer
from sparsam.provenance.state import State

__all__ = [
    "CALLS", "OBJECTS", "Call", "Entity", "History", "Program", "entity_id", "history", "in_order", "program_id",
]  # fmt: skip


@dataclass
class Entity:
    """One generation of a file, a directory, or an object in a file.

    Args:
        id: stable: made of the record that began it.
        kind: file, directory, or one of :data:`OBJECTS`.
        path: when it came to be; of an object its name within its file.
        generation: 0 for what was found, 1, 2, … for what was written since.
        names: every path it was seen under, in order.
        size: bytes, when last seen.
        changed: time of change (ns since 1970), when last seen.
        sha256: of its bytes, if worked out.
        derived: ids of what it was made from, as far as they are not told by ``reads``, in the order in which they began.
        reads: (list of :attr:`History.reads`, how many of its first) that it was made from as well.
        revision: id of the generation before it.
        within: id of the file that an object lies in.
        by: id of the program that wrote it; None for what was found.
        began: time (ns) of the record that began it.
        outside: it changed without a program in sight.
        unfinished: its writer never closed it.
    """

    id: str
    kind: str
    path: str
    host: str
    generation: int
    began: int
    names: list[str] = field(default_factory=list)
    size: int | None = None
    changed: int | None = None
    sha256: str | None = None
    derived: list[str] = field(default_factory=list)
    reads: list[tuple[str, int]] = field(default_factory=list)
    revision: str | None = None
    within: str | None = None
    by: str | None = None
    outside: bool = False
    unfinished: bool = False


@dataclass
class Call:
    """Calls of one kind by one program (in one scope) on one entity, counted together."""

    kind: str
    program: str
    entity: str
    scope: str | None
    count: int = 0
    bytes: int = 0
    seconds: float = 0.0
    failed: int = 0
    first: int = 0
    last: int = 0


@dataclass
class Program:
    """A process: what ran, where, for whom."""

    id: str
    writer: Writer
    run: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    began: int = 0
    ended: int | None = None
    status: int | None = None
    parent: str | None = None
    forked: bool = False
    configuration: dict[str, Any] = field(default_factory=dict)
    types: list[str] = field(default_factory=list)
    metrics: list[tuple[int, str, Any, str | None]] = field(default_factory=list)
    """(time, name, value, scope)."""
    scopes: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    """id: (name, the scope around it)."""
    unseen: list[str] = field(default_factory=list)
    lost: int = 0


@dataclass
class History:
    """The graph."""

    entities: dict[str, Entity] = field(default_factory=dict)
    programs: dict[str, Program] = field(default_factory=dict)
    calls: dict[tuple[str, str, str, str | None], Call] = field(default_factory=dict)
    reads: dict[str, list[str]] = field(default_factory=dict)
    """What was read, each entity once, in order: by processes that share memory, or in a scope."""
    current: dict[tuple[str, str], str] = field(default_factory=dict)
    """(host, path): the generation that lies there now."""
    damages: tuple[Any, ...] = ()
    accounts: dict[str, Account] = field(default_factory=dict)
    """Entity: what its maker told of how it was made."""
    foreign: list[tuple[str, str, Any]] = field(default_factory=list)
    """Statements of imported documents, as they were (see :mod:`sparsam.provenance.adapters`)."""
    stated: set[str] = field(default_factory=set)
    """Ids of which ``foreign`` says all there is, so that nothing is said twice."""

    imported: set[str] = field(default_factory=set)
    """Ids of entities that no tracked program of ours saw."""

    def join(self, other: "History") -> None:
        """Take in the history of an import; what was recorded here is left as it is."""
        own = {*self.programs, *self.entities}
        self.imported |= set(other.entities) - own
        self.calls |= {key: one for key, one in other.calls.items() if one.program not in own}
        self.programs = other.programs | self.programs
        self.entities = other.entities | self.entities
        self.accounts = {key: x for key, x in other.accounts.items() if key not in own} | self.accounts
        self.damages = (*self.damages, *other.damages)
        self.foreign += other.foreign
        self.stated |= other.stated - own

    def __enter__(self) -> "History":
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is to be let go of."""

    _lying: dict[str, set[str]] | None = field(default=None, init=False, repr=False, compare=False)

    def at(self, path: str, host: str | None = None) -> Entity | None:
        """What lies at a path now, or lay there last; None for a path that was never seen."""
        for (where, name), found in self.current.items():
            if name == path and host in (None, where):
                return self.entities[found]
        last = [x for x in self.entities.values() if path in x.names and host in (None, x.host)]
        return max(last, key=lambda x: (x.began, x.generation), default=None)

    def sources(self, entity: str, most: int = -1) -> list[str]:
        """What it was made from directly, in order; not itself, and not more than ``most``."""
        one = self.entities[entity]
        found = dict.fromkeys(one.derived)
        for key, count in one.reads:
            found |= dict.fromkeys(self.reads[key][:count])
        listed = [x for x in found if x != entity]
        return listed if most < 0 else listed[:most]

    def lineage(self, entity: str) -> list[str]:
        """Everything it was made from, nearest first; not itself."""
        return self.walk(up=True)(entity)

    def impact(self, entity: str) -> list[str]:
        """Everything that was made from it, nearest first; not itself."""
        return self.walk(up=False)(entity)

    def walk(self, *, up: bool) -> Callable[[str], list[str]]:
        """As :meth:`lineage` or :meth:`impact`, from one entity after the other; what was reached once is not given again."""
        edges = self.sources if up else self._targets()
        reached, gone_on = set[str](), set[str]()

        def go(start: str) -> list[str]:
            front, found = [start], []
            while front:
                following = []
                for one in front:
                    if one in gone_on:
                        continue
                    gone_on.add(one)
                    fresh = [x for x in edges(one) if x not in reached and x != start]
                    reached.update(fresh)
                    following += fresh
                    found += fresh
                front = following
            return found

        return go

    def _targets(self) -> Callable[[str], list[str]]:
        onward: dict[str, list[str]] = {}
        among: dict[str, list[tuple[int, str]]] = {}
        for one in self.entities.values():
            for source in one.derived:
                onward.setdefault(source, []).append(one.id)
            for key, count in one.reads:
                among.setdefault(key, []).append((count, one.id))
        place: dict[str, list[tuple[str, int]]] = {}
        for key, reads in self.reads.items():
            for at, source in enumerate(reads if key in among else ()):
                place.setdefault(source, []).append((key, at))

        def targets(source: str) -> list[str]:
            found = dict.fromkeys(onward.get(source, []))
            for key, at in place.get(source, []):
                found |= dict.fromkeys(name for count, name in among[key] if count > at)
            return [x for x in found if x != source]

        return targets

    def lies_at(self, entity: Entity) -> list[str]:
        """The names under which it lies now, of those that it had."""
        if self._lying is None:
            self._lying = {}
            for (_, path), name in self.current.items():
                self._lying.setdefault(name, set()).add(path)
        there = self._lying.get(entity.id, ())
        return [x for x in entity.names if x in there]

    def lying(self) -> Iterator[tuple[str, str, Entity]]:
        """Host, path, and what lies there, by host and path."""
        for (host, path), name in sorted(self.current.items()):
            yield host, path, self.entities[name]

    def program_of(self, entity: Entity) -> Program | None:
        """The program that wrote it."""
        return self.programs.get(entity.by or "")

    def run_names(self) -> list[str]:
        """All runs, oldest first."""
        return list(dict.fromkeys(x.run for x in sorted(self.programs.values(), key=lambda x: x.began)))

    def programs_in(self, run: str) -> Iterator[Program]:
        """The programs of a run, in the order in which they began to tell."""
        yield from (x for x in self.programs.values() if x.run == run)

    def _of(self, run: str) -> set[str]:
        return {x.id for x in self.programs.values() if x.run == run}

    def counts(self, run: str) -> tuple[int, int]:
        """How many files a run read that it had not written, and how many it wrote."""
        own = self._of(run)
        written = {x.id for x in self.entities.values() if x.by in own and x.kind == "file"}
        read = {x.entity for x in self.calls.values() if x.program in own and x.kind == "read"}
        return len(read - written), len(written)

    def inputs(self, run: str) -> list[Entity]:
        """Files that a run read and that it had not written."""
        own = self._of(run)
        read = {x.entity for x in self.calls.values() if x.program in own and x.kind == "read"}
        return [
            x for name, x in self.entities.items() if name in read and x.by not in own and x.kind == "file"
        ]

    def calls_of(self, run: str) -> Iterator[tuple[Call, Entity]]:
        """Every call of a run, in the order in which they came to be, and on what it was."""
        own = self._of(run)
        yield from ((x, self.entities[x.entity]) for x in self.calls.values() if x.program in own)

    def all_calls(self) -> Iterator[Call]:
        """Every call, in the order in which they came to be."""
        yield from self.calls.values()

    def used(self) -> Iterator[tuple[str, str]]:
        """Every program with every entity that it read, once."""
        yield from dict.fromkeys((x.program, x.entity) for x in self.calls.values() if x.kind == "read")


def history(merged: Merged) -> History:
    """The graph of merged records; the same for the same records, whatever order their logs were read in."""
    state = State()
    fold = Fold(state)
    for record in merged.records:
        fold.add(record.time, record.writer, record.number, record.kind, record.facts)
    fold.finish()
    return _told(state, merged)


def _told(state: State, merged: Merged) -> History:
    """By their ids in place of their numbers."""
    found = History(damages=merged.damages)
    ids = {x.key: program_id(x.writer) for x in state.program_of.values()}
    names = {x.key: x.path for x in state.place_of.values()}
    lists = {
        x.key: ids[x.group] + ("" if x.scope is None else f" {x.scope}")
        for x in state.lists.values()
        if x is not None
    }
    told = [x for x in state.program_of.values() if x.rank is not None]
    for x in sorted(told, key=lambda x: x.rank or 0):
        parent = None if x.parent is None else ids[x.parent]
        found.programs[ids[x.key]] = Program(
            ids[x.key], x.writer, x.run, x.facts, x.began, x.ended, x.status, parent, x.forked, lost=x.lost
        )  # fmt: skip
    for program, kind, when, name, value, scope in state.said:
        tell(found.programs[ids[program]], kind, when, name, value, scope)
    of: dict[int, str] = {}
    for one in state.entities.values():
        writer = state.program_of[one.program].writer
        of[one.key] = entity_id(writer, one.number, one.form, one.kind, names[one.place], one.generation)
    for one in state.entities.values():
        found.entities[of[one.key]] = Entity(
            of[one.key], one.kind, names[one.place], state.program_of[one.program].writer.host, one.generation, one.began,
            [names[x] for x in one.names], one.size, one.changed, one.sha256,
            [of[x] for x in sorted(state.derived.get(one.key, ()))],
            [] if one.reads is None else [(lists[one.reads], one.count)],
            None if one.revision is None else of.get(one.revision),
            None if one.within is None else of[one.within], None if one.by is None else ids[one.by], one.outside,
            one.unfinished,
        )  # fmt: skip
    for account in state.accounts:
        ids_of_sources = [of[x] for x in account.sources]
        take(
            found.accounts,
            of[account.entity],
            ids[account.program],
            account.kind,
            account.facts,
            ids_of_sources,
        )
    for call in state.calls.values():
        if call is not None:
            program_name, entity = ids[call.program], of[call.entity]
            found.calls[call.kind, program_name, entity, call.scope] = Call(
                call.kind, program_name, entity, call.scope, call.count, call.bytes, call.seconds, call.failed, call.first,
                call.last,
            )  # fmt: skip
    found.reads = {lists[key]: [of[x] for x in reads] for key, reads in state.reads.items()}
    for place in sorted(state.place_of.values(), key=lambda x: x.since):
        if place.file is not None:
            found.current[place.host, place.path] = of[state.files[place.file].current]
    return found


def tell(program: Program, kind: str, when: int, name: str, value: Any, scope: str | None) -> None:
    """Put down what a program told of itself."""
    if kind == "type":
        program.types.append(name)
    elif kind == "config":
        program.configuration[name] = value
    elif kind == "metric":
        program.metrics.append((when, name, value, scope))
    elif kind == "scope":
        program.scopes[str(scope)] = (name, value)
    else:
        program.unseen.append(name)


def in_order(entities: Iterable[Entity]) -> list[Entity]:
    """By when they began."""
    return sorted(entities, key=lambda x: (x.began, x.generation, x.id))
