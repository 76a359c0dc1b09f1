"""From logs to a graph: which version of which file came from which, through which program.

:func:`history` is a pure function of the merged records. A file is more than its path: it keeps what it is when it is renamed
or linked, and each time it is written it becomes a new *generation*, an entity of its own. What a program reads binds to the
generation that lay there when it was opened; what it writes derives from every generation that the program had opened for
reading before the written file was closed, and, where it was not emptied first, from the generation before it.
A file that is read while it is being written is kept out of what would make it its own ancestor.

Two rules narrow or widen that: inside a scope of the user's only what was read in this scope (or in one within it) counts; and
processes that were forked from one another share memory, so what one read may be in what another writes; so do workers that
multiprocessing starts. Other programs that were started anew (exec) share files and pipes alone: what a program reads from a
pipe may hold all that its writers have read.

Where a file is not as it was last seen (size, time of change, inode), something unseen wrote it: the new generation says so.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sparsam.provenance.log import Merged, Record, Writer

OBJECTS = ("group", "dataset", "attribute", "datatype", "link")
"""What lies inside a file of HDF5."""
CALLS = ("create", "open", "read", "write", "fsync", "rename")


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
        derived: ids of what it was made from, as far as they are not told by ``reads``.
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
    derived: set[str] = field(default_factory=set)
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

    def at(self, path: str, host: str | None = None) -> Entity | None:
        """What lies at a path now, or lay there last; None for a path that was never seen."""
        for (where, name), found in self.current.items():
            if name == path and host in (None, where):
                return self.entities[found]
        last = [x for x in self.entities.values() if path in x.names and host in (None, x.host)]
        return max(last, key=lambda x: (x.began, x.generation), default=None)

    def sources(self, entity: str) -> list[str]:
        """What it was made from directly, in order; not itself."""
        one = self.entities[entity]
        found = dict.fromkeys(sorted(one.derived))
        for key, count in one.reads:
            found |= dict.fromkeys(self.reads[key][:count])
        return [x for x in found if x != entity and x in self.entities]

    def lineage(self, entity: str) -> list[str]:
        """Everything it was made from, nearest first; not itself."""
        return list(_reach(entity, self.sources))

    def impact(self, entity: str) -> list[str]:
        """Everything that was made from it, nearest first; not itself."""
        onward: dict[str, list[str]] = {}
        among: dict[str, list[tuple[int, str]]] = {}
        for one in self.entities.values():
            for source in one.derived:
                onward.setdefault(source, []).append(one.id)
            for key, count in one.reads:
                among.setdefault(key, []).append((count, one.id))
        place: dict[str, list[tuple[str, int]]] = {}
        for key in among:
            for at, source in enumerate(self.reads[key]):
                place.setdefault(source, []).append((key, at))

        def targets(source: str) -> list[str]:
            found = dict.fromkeys(sorted(onward.get(source, [])))
            for key, at in place.get(source, []):
                found |= dict.fromkeys(name for count, name in among[key] if count > at)
            return [x for x in found if x != source]

        return list(_reach(entity, targets))


def _reach(start: str, edges: Callable[[str], list[str]]) -> Iterator[str]:
    seen, front = {start}, [start]
    while front:
        following = []
        for one in front:
            for other in edges(one):
                if other not in seen:
                    seen.add(other)
                    following.append(other)
                    yield other
        front = following


def history(merged: Merged) -> History:
    """The graph of merged records; the same for the same records, whatever order their logs were read in."""
    made = _Builder()
    for record in merged.records:
        made.add(record)
    return made.finished(merged)


def program_id(writer: Writer) -> str:
    """Stable, of a process."""
    return (
        "program-"
        + hashlib.sha256(f"{writer.host}\0{writer.pid}\0{writer.started}".encode()).hexdigest()[:24]
    )


def _entity_id(record: Record, what: str) -> str:
    writer = record.writer
    text = f"{writer.host}\0{writer.pid}\0{writer.started}\0{record.number}\0{what}"
    return "entity-" + hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass
class _File:
    """A file as such, whatever it is called."""

    current: str  # its generation
    inode: tuple[int, int] | None
    paths: set[str]
    generation: int
    writers: int = 0  # open sessions that have written


@dataclass
class _Session:
    """From an open to its close."""

    program: str
    scope: str | None
    file: _File
    entity: str  # bound at the open, or made at the first write
    mode: str
    opened: int
    wrote: bool = False


class _Builder:
    """Takes records in the order of time."""

    def __init__(self) -> None:
        self.found = History()
        self.files: dict[tuple[str, str], _File] = {}
        self.inodes: dict[tuple[str, int, int], _File] = {}
        self.sessions: dict[tuple[str, Any], _Session] = {}
        self.group: dict[str, str] = {}  # program: the first of those that share memory
        self.listed: dict[str, set[str]] = {}  # what stands in each list of reads
        self.scopes: dict[str, dict[str, str | None]] = {}  # group: scope, the scope around it
        self.open_scopes: dict[str, dict[str, None]] = {}
        self.in_progress: set[str] = set()  # generations that were read before their writer closed them
        self.objects: dict[tuple[str, str, str], str] = {}  # (file generation, kind, name): entity
        self.same: dict[
            Writer, Writer
        ] = {}  # a log from C, and the log of the Python program that it belongs to
        self.pipes: dict[
            tuple[Any, ...], tuple[dict[str, None], dict[str, None]]
        ] = {}  # who writes, who reads
        self.piped: dict[str, set[tuple[Any, ...]]] = {}  # group: pipes that it reads

    # programs

    def program(self, record: Record) -> Program:
        writer = self.same.get(record.writer, record.writer)
        key = program_id(writer)
        if key not in self.found.programs:
            self.found.programs[key] = Program(key, writer, began=record.time)
            self.group[key] = key
        return self.found.programs[key]

    def add(self, record: Record) -> None:
        if record.kind == "process" and record.facts.get("of"):
            host, pid, started = record.facts["of"]
            self.same[record.writer] = Writer(str(host), int(pid), int(started))
            return
        program = self.program(record)
        handler = getattr(self, "_on_" + record.kind.replace("-", "_"), None)
        if handler is not None:
            try:
                handler(record, program, record.facts)
            except (KeyError, TypeError, ValueError, AttributeError):
                program.unseen.append(f"record {record.number} ({record.kind}) has other facts than expected")

    def _on_process(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        program.run, program.began = str(facts.get("run", "")), record.time
        program.facts = {key: value for key, value in facts.items() if key not in ("run", "parent", "forked")}
        if facts.get("parent"):
            host, pid, started = facts["parent"]
            program.parent = program_id(Writer(str(host), int(pid), int(started)))
            program.forked = bool(facts.get("forked"))
            if program.forked or facts.get("worker"):
                self.group[program.id] = self.group.get(program.parent, program.parent)

    def _on_pipe(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        """A program writes to a pipe, or reads from one."""
        device, number = facts["pipe"]
        group, pipe = self.group.get(program.id, program.id), (record.writer.host, device, number)
        writers, readers = self.pipes.setdefault(pipe, ({}, {}))
        if facts["way"] == "out":
            writers[group] = None
        else:
            readers[group] = None
            self.piped.setdefault(group, set()).add(pipe)

    def _upstream(self, group: str) -> list[str]:
        """Those whose reads may have come to it through pipes, all the way."""
        found, front = {group: None}, [group]
        while front:
            following = [
                writer for one in front for pipe in self.piped.get(one, ()) for writer in self.pipes[pipe][0]
            ]
            front = [one for one in dict.fromkeys(following) if one not in found]
            found |= dict.fromkeys(front)
        return list(found)[1:]

    def _on_end(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        program.ended, program.status = record.time, facts.get("status")

    def _on_type(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        program.types.append(str(facts["name"]))

    def _on_config(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        program.configuration[str(facts["name"])] = facts["value"]

    def _on_metric(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        program.metrics.append((record.time, str(facts["name"]), facts["value"], facts.get("scope")))

    def _on_scope(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        program.scopes[str(facts["id"])] = (str(facts["name"]), facts.get("parent"))
        group = self.group.get(program.id, program.id)
        self.scopes.setdefault(group, {})[str(facts["id"])] = facts.get("parent")
        self.open_scopes.setdefault(group, {})[str(facts["id"])] = None

    def _on_scope_end(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        self.open_scopes.get(self.group.get(program.id, program.id), {}).pop(str(facts["id"]), None)

    def _on_touched(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        file = self.files.get((record.writer.host, str(facts["path"])))
        if file is not None:
            entity = self.found.entities[file.current]
            if entity.size in (None, facts["size"]):
                entity.size, entity.changed = facts["size"], facts["changed"]

    def _on_unseen(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        program.unseen.append(str(facts["what"]))

    def _on_lost(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        program.lost = int(facts["records"])

    # files

    def _on_open(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        path, mode, scope = str(facts["path"]), str(facts["mode"]), facts.get("scope")
        if facts.get("failed"):
            key = self.files.get((record.writer.host, path))
            if key is not None:
                self._count(record, program, "open", key.current, scope, failed=1)
            return
        inode = tuple(facts["inode"]) if facts.get("inode") else None
        fresh = bool(facts.get("created"))
        file = self._file(record, path, inode, facts.get("size"), facts.get("changed"), fresh)
        session = _Session(program.id, scope, file, file.current, mode, record.time)
        handle = (program.id, facts["handle"])
        if handle in self.sessions:
            self._close(self.sessions.pop(handle), unfinished=True)
        self.sessions[handle] = session
        before = self.found.entities[file.current]
        if fresh or facts.get("emptied"):
            self._write(record, program, session, keeps=False, first=fresh)
        elif "r" in mode:
            self._read(record, session)
        self._count(
            record,
            program,
            "create" if fresh else "open",
            session.entity,
            scope,
            seconds=facts.get("seconds", 0),
        )
        before.names = before.names if path in before.names else [*before.names, path]

    def _on_opens(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        """Opens for reading that were counted alone."""
        file = self._file(record, str(facts["path"]))
        self._count(record, program, "open", file.current, None, count=int(facts["count"]))

    def _on_writing(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        """The first write through a handle that did not empty its file."""
        session = self.sessions[program.id, facts["handle"]]
        if not session.wrote:
            self._write(record, program, session, keeps=True, first=False)

    def _on_reading(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        """A mapping or a late read through a handle that was opened for writing, too."""
        self._read(record, self.sessions[program.id, facts["handle"]])

    def _on_fsync(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        session = self.sessions[program.id, facts["handle"]]
        self._count(record, program, "fsync", session.entity, session.scope, seconds=facts.get("seconds", 0))

    def _on_close(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        if facts.get("objects"):
            self._on_objects(record, program, {"handle": facts["handle"], "calls": facts["objects"]})
        session = self.sessions.pop((program.id, facts["handle"]))
        if facts.get("writes") and not session.wrote:
            self._write(record, program, session, keeps=True, first=False)
        for kind in ("read", "write"):
            if facts.get(kind + "s"):
                self._count(
                    record, program, kind, session.entity, session.scope, count=facts[kind + "s"],
                    size=facts.get("bytes_" + kind, 0), seconds=facts.get("seconds_" + kind, 0),
                )  # fmt: skip
        entity = self.found.entities[session.entity]
        if session.wrote or entity.size is None:
            entity.size, entity.changed = facts.get("size", entity.size), facts.get("changed", entity.changed)
        if facts.get("inode"):
            device, number = session.file.inode = tuple(facts["inode"])
            self.inodes[record.writer.host, device, number] = session.file
        self._close(session)

    def _on_rename(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        host, source, target = record.writer.host, str(facts["source"]), str(facts["target"])
        names = [source]
        if (host, source) not in self.files:  # a folder, or a file that was never seen
            inside = [name for where, name in self.files if where == host and name.startswith(source + "/")]
            names = inside or names
        for name in names:
            file = self._file(record, name)
            new = target + name[len(source) :]
            self._unlink(host, new)
            self.files.pop((host, name), None)
            self.files[host, new] = file
            file.paths.discard(name)
            file.paths.add(new)
            entity = self.found.entities[file.current]
            entity.names = [*entity.names, new]
            self._count(record, program, "rename", entity.id, facts.get("scope"))

    def _on_link(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        host, target = record.writer.host, str(facts["target"])
        file = self._file(record, str(facts["source"]))
        self._unlink(host, target)
        self.files[host, target] = file
        file.paths.add(target)
        self.found.entities[file.current].names.append(target)

    def _on_remove(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        self._unlink(record.writer.host, str(facts["path"]))

    def _on_mkdir(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        path = str(facts["path"])
        made = _entity_id(record, "directory")
        self.found.entities[made] = Entity(
            made, "directory", path, record.writer.host, 1, record.time, [path], by=program.id
        )
        self._count(record, program, "create", made, facts.get("scope"))

    def _on_object(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        """A call on an object in a file."""
        session = self.sessions[program.id, facts["handle"]]
        kind, name, call = str(facts["object"]), str(facts["name"]), str(facts["call"])
        if call in ("create", "write") and not session.wrote:
            self._write(record, program, session, keeps=True, first=False)
        elif call == "read":
            self._read(record, session)
        key = (session.entity, kind, name)
        if key not in self.objects:
            self.objects[key] = made = _entity_id(record, f"{kind} {name}")
            file = self.found.entities[session.entity]
            entity = Entity(
                made, kind, name, record.writer.host, file.generation, record.time, [name], within=file.id
            )
            if session.wrote and call in ("create", "write"):
                entity.by = program.id
            self.found.entities[made] = entity
        self._count(
            record, program, call, self.objects[key], session.scope, count=facts.get("count", 1),
            size=facts.get("bytes", 0), seconds=facts.get("seconds", 0), failed=int(bool(facts.get("failed"))),
        )  # fmt: skip

    def _on_objects(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        """Calls on objects in a file, counted."""
        names = ("object", "name", "call", "count", "bytes", "seconds")
        for one in facts["calls"]:
            told = dict(zip(names, one, strict=False)) | {"handle": facts["handle"]}
            self._on_object(record, program, told)
            session = self.sessions[program.id, facts["handle"]]
            entity = self.objects[session.entity, str(told["object"]), str(told["name"])]
            call = self.found.calls[str(told["call"]), program.id, entity, session.scope]
            call.first = min(call.first, int(one[6]))

    def _on_derived(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        """The user's own word that a file was made from others."""
        target = self.found.entities[self._file(record, str(facts["target"])).current]
        target.derived |= {self._file(record, str(name)).current for name in facts["sources"]} - {target.id}

    def _on_hash(self, record: Record, program: Program, facts: dict[str, Any]) -> None:
        file = self.files.get((record.writer.host, str(facts["path"])))
        if file is None:
            return
        entity = self.found.entities[file.current]
        if (entity.size, entity.changed) == (facts.get("size"), facts.get("changed")):
            entity.sha256 = str(facts["sha256"])

    # what they share

    def _file(
        self,
        record: Record,
        path: str,
        inode: tuple[int, ...] | None = None,
        size: int | None = None,
        changed: int | None = None,
        fresh: bool = False,
    ) -> _File:
        """The file at a path, found anew where it is not as it was left."""
        host = record.writer.host
        node = (host, inode[0], inode[1]) if inode is not None else None
        file = self.files.get((host, path))
        if file is not None and fresh:  # made anew: what was known has gone unseen
            self._unlink(host, path)
            file = None
        if file is not None and node is not None and file.inode not in (None, node[1:]):
            self._unlink(host, path)  # something unseen was put in its place
            file = self._found(record, path, node, size, changed, outside=True)
        if file is None and node is not None and not fresh:
            other = self.inodes.get(node)
            if other is not None and other.paths and self._unchanged(other, size, changed):
                other.paths.add(path)  # a link, or a name that was given unseen
                self.found.entities[other.current].names.append(path)
                file = self.files[host, path] = other
        if file is None:
            file = self._found(record, path, node, size, changed)
        elif not self._unchanged(file, size, changed) and not self._being_written(file):
            file.generation += 1
            old, file.current = file.current, _entity_id(record, f"outside {path}")
            self._entity(record, path, file, size, changed, outside=True).revision = old
        if node is not None:
            file.inode = node[1:]
            self.inodes[node] = file
        return file

    def _found(
        self,
        record: Record,
        path: str,
        node: Any,
        size: int | None,
        changed: int | None,
        outside: bool = False,
    ) -> _File:
        file = _File(_entity_id(record, f"found {path}"), node[1:] if node else None, {path}, 0)
        self.files[record.writer.host, path] = file
        self._entity(record, path, file, size, changed, outside)
        return file

    def _entity(
        self,
        record: Record,
        path: str,
        file: _File,
        size: int | None,
        changed: int | None,
        outside: bool = False,
    ) -> Entity:
        made = Entity(
            file.current, "file", path, record.writer.host, file.generation, record.time, [path], size, changed,
            outside=outside,
        )  # fmt: skip
        self.found.entities[made.id] = made
        return made

    def _unchanged(self, file: _File, size: int | None, changed: int | None) -> bool:
        entity = self.found.entities[file.current]
        same_size = size is None or entity.size is None or size == entity.size
        same_time = changed is None or entity.changed is None or changed == entity.changed
        return same_size and same_time

    def _being_written(self, file: _File) -> bool:
        return file.writers > 0

    def _unlink(self, host: str, path: str) -> None:
        file = self.files.pop((host, path), None)
        if file is None:
            return
        file.paths.discard(path)
        if not file.paths and file.inode is not None:
            self.inodes.pop((host, *file.inode), None)

    def _write(
        self, record: Record, program: Program, session: _Session, *, keeps: bool, first: bool
    ) -> None:
        """A new generation begins. ``keeps``: what was there stays part of it. ``first``: there was nothing before."""
        file = session.file
        old = self.found.entities[file.current]
        path = next(iter(sorted(file.paths)), old.path)
        if first:
            self.found.entities.pop(old.id)  # nothing had been there
        file.generation += 1
        file.current = session.entity = _entity_id(record, f"written {path}")
        made = self._entity(record, path, file, None, None)
        made.names, made.by = sorted(file.paths) or [path], program.id
        if not first:
            made.revision = old.id
            if keeps and old.size != 0:
                made.derived.add(old.id)
                self._read(record, session, old.id)
        session.wrote = True
        file.writers += 1

    def _read(self, record: Record, session: _Session, entity: str | None = None) -> None:
        """Put it into the list of the processes that share memory, and of each scope that is open."""
        entity = entity or session.entity
        if self._being_written(session.file) and entity == session.file.current:
            self.in_progress.add(entity)
        group = self.group.get(session.program, session.program)
        scopes = self.scopes.get(group, {})
        # a thread, or a forked worker, without a scope of its own may read for any that is open
        front = [session.scope] if session.scope is not None else list(self.open_scopes.get(group, ()))
        inside: dict[str, None] = {}
        for first in front:
            scope: str | None = first
            while scope is not None and scope not in inside:
                inside[scope] = None
                scope = scopes.get(scope)
        keys = [group, *(f"{group} {scope}" for scope in inside)]
        for key in keys:
            if entity not in self.listed.setdefault(key, set()):
                self.listed[key].add(entity)
                self.found.reads.setdefault(key, []).append(entity)

    def _close(self, session: _Session, *, unfinished: bool = False) -> None:
        """What was read until now is in what was written."""
        if not session.wrote:
            return
        session.file.writers -= 1
        entity = self.found.entities[session.entity]
        entity.unfinished |= unfinished
        group = self.group.get(session.program, session.program)
        key = group if session.scope is None else f"{group} {session.scope}"
        keys = [key, *sorted(self._upstream(group))] if group in self.piped else [key]
        for key in keys:
            count = len(self.found.reads.get(key, ()))
            if not count:
                continue
            if entity.id not in self.in_progress:
                entity.reads.append((key, count))
                continue
            for source in self.found.reads[key][:count]:
                if (
                    source != entity.id
                    and source in self.found.entities
                    and entity.id not in self.found.lineage(source)
                ):
                    entity.derived.add(source)

    def _count(
        self,
        record: Record,
        program: Program,
        kind: str,
        entity: str,
        scope: str | None,
        *,
        count: int = 1,
        size: int = 0,
        seconds: float = 0.0,
        failed: int = 0,
    ) -> None:
        key = (kind, program.id, entity, scope)
        call = self.found.calls.setdefault(key, Call(kind, program.id, entity, scope, first=record.time))
        call.count += int(count)
        call.bytes += int(size)
        call.seconds += float(seconds)
        call.failed += failed
        call.last = record.time

    def finished(self, merged: Merged) -> History:
        """Close what nobody closed, and give the graph."""
        for session in self.sessions.values():
            self._close(session, unfinished=self.found.programs[session.program].ended is None)
        self.sessions.clear()
        # calls on entities that turned out not to have been there
        self.found.calls = {
            key: one for key, one in self.found.calls.items() if one.entity in self.found.entities
        }
        self.found.current = {key: file.current for key, file in self.files.items()}
        self.found.damages = merged.damages
        return self.found


def in_order(entities: Iterable[Entity]) -> list[Entity]:
    """By when they began."""
    return sorted(entities, key=lambda x: (x.began, x.generation, x.id))
