"""What the fold of the records knows at a point in time: files, generations, sessions, programs, lists of what was read.

Everything has a whole number, given in the order in which it came to be. :class:`State` keeps all of it in memory;
:class:`sparsam.provenance.disk.Disk` keeps in memory what is in use and the rest in a file. The fold
(:mod:`sparsam.provenance.fold`) knows no difference: whatever it changes it names in :attr:`State.changed`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sparsam.provenance.writer import Writer

K = TypeVar("K")
V = TypeVar("V")
FOUND, WRITTEN, OUTSIDE, DIRECTORY, OBJECT = range(5)
"""How an entity came to be: its id is made of this, too."""


@dataclass(slots=True)
class Node:
    """An entity; see :class:`sparsam.provenance.graph.Entity`. Places, files, programs and entities by their numbers."""

    key: int
    kind: str
    form: int
    place: int
    program: int
    """Whose record began it."""
    number: int
    """Of that record."""
    generation: int
    began: int
    names: list[int]
    file: int | None = None
    size: int | None = None
    changed: int | None = None
    sha256: str | None = None
    reads: int | None = None
    count: int = 0
    """Made from the first so many of this list of reads."""
    revision: int | None = None
    within: int | None = None
    by: int | None = None
    outside: bool = False
    unfinished: bool = False
    in_progress: bool = False
    """It was read before its writer closed it."""
    derived: bool = False
    """There are derivations beside the list."""


@dataclass(slots=True)
class Place:
    """A path on a host, or the name of an object in a file."""

    key: int
    host: str
    path: str
    file: int | None = None
    since: int = 0
    """When the file came to lie here; of two files the one with the smaller number came first."""
    last: int | None = None
    """The latest entity that was called so, by (began, generation)."""
    began: int = 0
    generation: int = 0


@dataclass(slots=True)
class File:
    """A file as such, whatever it is called."""

    key: int
    current: int
    inode: tuple[int, int] | None
    paths: set[int]
    generation: int = 0
    writers: int = 0
    """Open sessions that have written."""


@dataclass(slots=True)
class Inode:
    """Which file has it."""

    key: int
    host: str
    device: int
    number: int
    file: int | None


@dataclass(slots=True)
class Session:
    """From an open to its close."""

    key: int
    program: int
    handle: int | str
    scope: str | None
    file: int
    entity: int
    wrote: bool = False


@dataclass(slots=True)
class Process:
    """A program; ``rank`` is None for one that others named and that never told anything itself."""

    key: int
    writer: Writer
    rank: int | None = None
    run: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    began: int = 0
    ended: int | None = None
    status: Any = None
    parent: int | None = None
    forked: bool = False
    group: int = 0
    """The first of those that share memory."""
    lost: int = 0
    of: int | None = None
    """A log from C alone: of the program, in Python, that it belongs to."""


@dataclass(slots=True)
class Tally:
    """Calls of one kind by one program in one scope on one entity."""

    key: int
    program: int
    kind: str
    entity: int
    scope: str | None
    count: int = 0
    bytes: int = 0
    seconds: float = 0.0
    failed: int = 0
    first: int = 0
    last: int = 0


@dataclass(slots=True)
class Reads:
    """A list of what was read: by processes that share memory, or in a scope of theirs."""

    key: int
    group: int
    scope: str | None
    count: int = 0


@dataclass(slots=True)
class Within:
    """A scope of the user's, and the one around it."""

    key: int
    group: int
    id: str
    parent: str | None
    open: bool = True
    stage: bool = False
    """It narrows nothing."""


@dataclass(slots=True)
class Telling:
    """A record of how an entity was made, by its maker's word; see :func:`sparsam.provenance.decisions.take`."""

    entity: int
    program: int
    kind: str
    facts: dict[str, Any]
    sources: list[int]


class Kept(dict[K, V], Generic[K, V]):
    """A dictionary that asks elsewhere for what it does not hold."""

    def __init__(self, load: Callable[[K], V]) -> None:
        super().__init__()
        self._load = load

    def __missing__(self, key: K) -> V:
        return self._load(key)


TABLES = ("entity", "place", "file", "inode", "session", "program", "call", "list", "scope")
Thing = Node | Place | File | Inode | Session | Process | Tally | Reads | Within
Pipe = tuple[str, int, int]
"""Host, device, number."""
Said = tuple[int, str, int, str, Any, str | None]
"""Program, kind (type, config, metric, scope, unseen), time, name, value, scope."""


class State:
    """All of it in memory."""

    def __init__(self) -> None:
        self.counters: dict[str, int] = dict.fromkeys((*TABLES, "since", "rank"), 0)
        self.changed: dict[str, dict[int, Any]] = {name: {} for name in TABLES}
        self.entities: Kept[int, Node] = Kept(self._entity)
        self.files: Kept[int, File] = Kept(self._file)
        self.places: Kept[tuple[str, str], Place | None] = Kept(self._place)
        self.place_of: Kept[int, Place] = Kept(self._place_of)
        self.inodes: Kept[tuple[str, int, int], Inode | None] = Kept(self._inode)
        self.sessions: Kept[tuple[int, int | str], Session | None] = Kept(self._session)
        self.programs: Kept[Writer, Process | None] = Kept(self._program)
        self.program_of: Kept[int, Process] = Kept(self._program_of)
        self.calls: Kept[tuple[str, int, int, str | None], Tally | None] = Kept(self._call)
        self.lists: Kept[tuple[int, str | None], Reads | None] = Kept(self._list)
        self.scopes: Kept[tuple[int, str], Within | None] = Kept(self._scope)
        self.objects: Kept[tuple[int, str, str], int | None] = Kept(self._object)
        self.open_scopes: dict[int, dict[str, None]] = {}
        self.listed: set[tuple[int, int]] = set()
        self.reads: dict[int, list[int]] = {}
        self.derived: dict[int, dict[int, None]] = {}
        self.written_by: dict[Pipe, dict[int, None]] = {}
        """Groups that write to a pipe."""
        self.read_by: dict[int, dict[Pipe, None]] = {}
        """Pipes that a group reads from."""
        self.said: list[Said] = []
        self.accounts: list[Telling] = []
        self._onward: dict[int, list[int]] = {}
        self._listed_at: dict[int, list[tuple[int, int]]] = {}
        self._made_from: dict[int, list[tuple[int, int]]] = {}

    def number(self, what: str) -> int:
        """The next one."""
        self.counters[what] += 1
        return self.counters[what]

    def new(self, table: str, one: Thing) -> None:
        """Something came to be."""
        self.changed[table][one.key] = one

    def forget(self, one: Node) -> None:
        """An entity that turned out not to have been there."""
        self.entities.pop(one.key, None)
        self.changed["entity"].pop(one.key, None)

    def ended(self, session: Session) -> None:
        """A session was closed."""
        self.sessions.pop((session.program, session.handle), None)
        self.changed["session"].pop(session.key, None)

    def say(self, *what: Any) -> None:
        """What a program told of itself; see :data:`Said`."""
        self.said.append(what)

    def connect(self, pipe: Pipe, group: int, *, out: bool) -> bool:
        """A group writes to a pipe, or reads from it; whether that is news."""
        known = self.written_by.setdefault(pipe, {}) if out else self.read_by.setdefault(group, {})
        one: Any = group if out else pipe
        fresh = one not in known
        known[one] = None
        return fresh

    def tell(self, account: Telling) -> None:
        """How an entity was made."""
        self.accounts.append(account)

    def put_read(self, one: Reads, entity: int) -> None:
        """At the end of a list, unless it is in it."""
        if (one.key, entity) not in self.listed:
            self.listed.add((one.key, entity))
            self.reads.setdefault(one.key, []).append(entity)
            self._listed_at.setdefault(entity, []).append((one.key, one.count))
            one.count += 1
            self.changed["list"][one.key] = one

    def first_reads(self, one: Reads, count: int) -> Iterable[int]:
        """Of a list."""
        return self.reads.get(one.key, [])[:count]

    def derive(self, target: Node, source: int) -> None:
        """It was made from it."""
        target.derived = True
        if source not in self.derived.setdefault(target.key, {}):
            self.derived[target.key][source] = None
            self._onward.setdefault(source, []).append(target.key)

    def made_from(self, one: Node, reads: Reads, count: int) -> None:
        """From the first so many of a list."""
        one.reads, one.count = reads.key, count
        self._made_from.setdefault(reads.key, []).append((count, one.key))

    def made_of(self, entity: int) -> set[int]:
        """Everything that was made from it, and itself."""
        seen, front = {entity}, [entity]
        while front:
            one = front.pop()
            others = list(self._onward.get(one, ()))
            for key, at in self._listed_at.get(one, ()):
                others += [name for count, name in self._made_from.get(key, ()) if count > at]
            front += [x for x in dict.fromkeys(others) if x not in seen]
            seen.update(others)
        return seen

    def inside(self, host: str, folder: str) -> list[Place]:
        """Places in a folder where files lie, by when these came there."""
        found = [
            x
            for x in self.places.values()
            if x is not None and x.host == host and x.file is not None and x.path.startswith(folder + "/")
        ]
        return sorted(found, key=lambda x: x.since)

    def open_sessions(self) -> Iterator[Session]:
        """In the order in which they were opened."""
        yield from sorted((x for x in self.sessions.values() if x is not None), key=lambda x: x.key)

    # what is not in memory; a state that is all in memory has nothing elsewhere

    def _entity(self, key: int) -> Node:
        raise KeyError(key)

    def _file(self, key: int) -> File:
        raise KeyError(key)

    def _place(self, key: tuple[str, str]) -> Place | None:
        return None

    def _place_of(self, key: int) -> Place:
        raise KeyError(key)

    def _inode(self, key: tuple[str, int, int]) -> Inode | None:
        return None

    def _session(self, key: tuple[int, int | str]) -> Session | None:
        return None

    def _program(self, key: Writer) -> Process | None:
        return None

    def _program_of(self, key: int) -> Process:
        raise KeyError(key)

    def _call(self, key: tuple[str, int, int, str | None]) -> Tally | None:
        return None

    def _list(self, key: tuple[int, str | None]) -> Reads | None:
        return None

    def _scope(self, key: tuple[int, str]) -> Within | None:
        return None

    def _object(self, key: tuple[int, str, str]) -> int | None:
        return None
