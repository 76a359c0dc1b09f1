"""The rules by which records become generations, derivations and counts; see :mod:`sparsam.provenance.graph` for what they say.

:class:`Fold` takes records in the order of time, one after the other, and changes a :class:`sparsam.provenance.state.State`;
it holds nothing itself, so that it can stop after any record and go on with another state that says the same.
"""

from typing import Any

from sparsam.provenance.decisions import take
from sparsam.provenance.facts import MOST, amount, handle_of, inode_of, seconds_of, text_of, whole, writer_of
from sparsam.provenance.placing import Placing
from sparsam.provenance.state import (
    DIRECTORY,
    OBJECT,
    WRITTEN,
    Node,
    Process,
    Reads,
    Session,
    State,
    Tally,
    Telling,
    Within,
)
from sparsam.provenance.writer import Writer

OBJECTS = ("group", "dataset", "attribute", "datatype", "link")
"""What lies inside a file of HDF5."""
CALLS = ("create", "open", "read", "write", "fsync", "rename")


class Fold(Placing):
    """Takes records in the order of time."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self._handlers = {
            name.removeprefix("_on_").replace("_", "-"): getattr(self, name)
            for name in dir(self)
            if name.startswith("_on_")
        }

    def add(self, time: int, writer: Writer, number: int, kind: str, facts: dict[str, Any]) -> None:
        """The next record."""
        program = self.state.programs[writer]
        if program is None:
            program = self._known(writer)
        if kind == "process" and (main := writer_of(facts.get("of"))) is not None:
            program.of = (self.state.programs[main] or self._known(main)).key
            self.state.changed["program"][program.key] = program
            return
        log = program.key
        if program.of is not None:
            program = self.state.program_of[program.of]
        if program.rank is None:
            program.rank, program.began, program.group = self.state.number("rank"), time, program.key
            self.state.changed["program"][program.key] = program
        handler = self._handlers.get(kind)
        if handler is not None:
            self.time, self.number, self.host, self.program = time, number, writer.host, log
            try:
                handler(program, facts)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                what = f"record {number} ({kind}) has other facts than expected"
                self.state.say(program.key, "unseen", time, what, None, None)

    def finish(self) -> None:
        """Close what nobody closed."""
        for session in self.state.open_sessions():
            unfinished = self.state.program_of[session.program].ended is None
            self._close(session, unfinished=unfinished)

    # programs

    def _known(self, writer: Writer) -> Process:
        made = Process(self.state.number("program"), writer)
        made.group = made.key
        self.state.programs[writer] = self.state.program_of[made.key] = made
        self.state.new("program", made)
        return made

    def _on_process(self, program: Process, facts: dict[str, Any]) -> None:
        self.state.changed["program"][program.key] = program
        program.run, program.began = str(facts.get("run", "")), self.time
        program.facts = {key: value for key, value in facts.items() if key not in ("run", "parent", "forked")}
        if facts.get("parent"):
            host, pid, started = facts["parent"]
            writer = Writer(str(host), int(pid), int(started))
            parent = self.state.programs[writer] or self._known(writer)
            program.parent = parent.key
            program.forked = bool(facts.get("forked"))
            if program.forked or facts.get("worker"):
                program.group = parent.group

    def _on_pipe(self, program: Process, facts: dict[str, Any]) -> None:
        """A program writes to a pipe, or reads from one."""
        inode = inode_of(facts["pipe"])
        if inode is None:
            raise ValueError(facts["pipe"])
        self.state.connect((self.host, *inode), program.group, out=facts["way"] == "out")

    def _on_end(self, program: Process, facts: dict[str, Any]) -> None:
        self.state.changed["program"][program.key] = program
        program.ended, program.status = self.time, facts.get("status")

    def _on_type(self, program: Process, facts: dict[str, Any]) -> None:
        self.state.say(program.key, "type", self.time, str(facts["name"]), None, None)

    def _on_config(self, program: Process, facts: dict[str, Any]) -> None:
        self.state.say(program.key, "config", self.time, str(facts["name"]), facts["value"], None)

    def _on_metric(self, program: Process, facts: dict[str, Any]) -> None:
        scope = text_of(facts.get("scope"))
        self.state.say(program.key, "metric", self.time, str(facts["name"]), facts["value"], scope)

    def _on_scope(self, program: Process, facts: dict[str, Any]) -> None:
        state, name, parent = self.state, str(facts["id"]), text_of(facts.get("parent"))
        state.say(program.key, "scope", self.time, str(facts["name"]), parent, name)
        one = state.scopes[program.group, name]
        if one is None:
            one = Within(state.number("scope"), program.group, name, parent)
            state.scopes[program.group, name] = one
        one.parent, one.open, one.stage = parent, True, bool(facts.get("stage"))
        state.changed["scope"][one.key] = one
        state.open_scopes.setdefault(program.group, {})[name] = None

    def _on_scope_end(self, program: Process, facts: dict[str, Any]) -> None:
        name = str(facts["id"])
        one = self.state.scopes[program.group, name]
        if one is not None:
            one.open = False
            self.state.changed["scope"][one.key] = one
            self.state.open_scopes.get(program.group, {}).pop(name, None)

    def _on_touched(self, program: Process, facts: dict[str, Any]) -> None:
        place = self.state.places[self.host, str(facts["path"])]
        size, changed = whole(facts["size"]), whole(facts["changed"])
        if place is not None and place.file is not None:
            entity = self._current(self.state.files[place.file])
            if entity.size in (None, size):
                entity.size, entity.changed = size, changed
                self.state.changed["entity"][entity.key] = entity

    def _on_unseen(self, program: Process, facts: dict[str, Any]) -> None:
        self.state.say(program.key, "unseen", self.time, str(facts["what"]), None, None)

    def _on_lost(self, program: Process, facts: dict[str, Any]) -> None:
        program.lost = amount(facts["records"])
        self.state.changed["program"][program.key] = program

    # files

    def _on_open(self, program: Process, facts: dict[str, Any]) -> None:
        path, mode, scope = str(facts["path"]), str(facts["mode"]), text_of(facts.get("scope"))
        state = self.state
        if facts.get("failed"):
            there = state.places[self.host, path]
            if there is not None and there.file is not None:
                self._count(program, "open", state.files[there.file].current, scope, failed=1)
            return
        handle, seconds = handle_of(facts), seconds_of(facts.get("seconds", 0))
        inode = inode_of(facts.get("inode"))
        size, changed = whole(facts.get("size")), whole(facts.get("changed"))
        fresh = bool(facts.get("created"))
        if facts.get("inherited") and "w" in mode:
            size = changed = None  # it was looked at late: what the program itself wrote may be in it already
        place = self._place(path)
        file = self._file(place, inode, size, changed, fresh)
        session = Session(state.number("session"), program.key, handle, scope, file.key, file.current)
        old = state.sessions[program.key, handle]
        if old is not None:
            state.ended(old)
            self._close(old, unfinished=True)
        state.sessions[program.key, handle] = session
        state.new("session", session)
        before = self._current(file)
        if fresh or facts.get("emptied"):
            self._write(program, session, keeps=False, first=fresh)
        elif "r" in mode:
            self._read(session, session.entity)
        self._count(program, "create" if fresh else "open", session.entity, scope, seconds=seconds)
        if not fresh and place.key not in before.names:
            self._name(before, place)

    def _on_opens(self, program: Process, facts: dict[str, Any]) -> None:
        """Opens for reading that were counted alone."""
        count = amount(facts["count"])
        file = self._file(self._place(str(facts["path"])))
        self._count(program, "open", file.current, None, count=count)

    def _on_writing(self, program: Process, facts: dict[str, Any]) -> None:
        """The first write through a handle that did not empty its file."""
        session = self._session(program, facts)
        if not session.wrote:
            self._write(program, session, keeps=True, first=False)

    def _on_reading(self, program: Process, facts: dict[str, Any]) -> None:
        """A mapping or a late read through a handle that was opened for writing, too."""
        session = self._session(program, facts)
        self._read(session, session.entity)

    def _on_fsync(self, program: Process, facts: dict[str, Any]) -> None:
        session = self._session(program, facts)
        seconds = seconds_of(facts.get("seconds", 0))
        self._count(program, "fsync", session.entity, session.scope, seconds=seconds)

    def _on_close(self, program: Process, facts: dict[str, Any]) -> None:
        state, session = self.state, self._session(program, facts)
        if facts.get("objects"):
            self._on_objects(program, {"handle": facts["handle"], "calls": facts["objects"]})
        if facts.get("writes") and not session.wrote:
            self._write(program, session, keeps=True, first=False)
        state.ended(session)
        for kind in ("read", "write"):
            if facts.get(kind + "s"):
                self._count(
                    program, kind, session.entity, session.scope, count=amount(facts[kind + "s"]),
                    size=amount(facts.get("bytes_" + kind, 0)), seconds=seconds_of(facts.get("seconds_" + kind, 0)),
                )  # fmt: skip
        entity = state.entities[session.entity]
        if (session.wrote or entity.size is None) and ("size" in facts or "changed" in facts):
            entity.size = whole(facts.get("size", entity.size))
            entity.changed = whole(facts.get("changed", entity.changed))
            state.changed["entity"][entity.key] = entity
        inode = inode_of(facts.get("inode"))
        if inode is not None:
            self._numbered(state.files[session.file], inode)
        self._close(session)

    def _on_rename(self, program: Process, facts: dict[str, Any]) -> None:
        source, target, scope = str(facts["source"]), str(facts["target"]), text_of(facts.get("scope"))
        names, known = [source], self.state.places[self.host, source]
        if known is None or known.file is None:  # a folder, or a file that was never seen
            names = [x.path for x in self.state.inside(self.host, source)] or names
        for name in names:
            place, new = self._place(name), self._place(target + name[len(source) :])
            file = self._file(place)
            self._unlink(new)
            place.file = None
            file.paths.discard(place.key)
            self.state.changed["place"][place.key] = place
            self._lay(new, file)
            entity = self._current(file)
            self._name(entity, new)
            self._count(program, "rename", entity.key, scope)

    def _on_link(self, program: Process, facts: dict[str, Any]) -> None:
        source, target = self._place(str(facts["source"])), self._place(str(facts["target"]))
        file = self._file(source)
        self._unlink(target)
        self._lay(target, file)
        self._name(self._current(file), target)

    def _on_remove(self, program: Process, facts: dict[str, Any]) -> None:
        place = self.state.places[self.host, str(facts["path"])]
        if place is not None:
            self._unlink(place)

    def _on_mkdir(self, program: Process, facts: dict[str, Any]) -> None:
        place, scope = self._place(str(facts["path"])), text_of(facts.get("scope"))
        made = self._made("directory", DIRECTORY, place, 1)
        made.by = program.key
        self._count(program, "create", made.key, scope)

    def _on_object(self, program: Process, facts: dict[str, Any]) -> None:
        """A call on an object in a file."""
        state, session = self.state, self._session(program, facts)
        kind, name, call = str(facts["object"]), str(facts["name"]), str(facts["call"])
        if kind not in OBJECTS or call not in CALLS:
            raise ValueError(kind, call)
        count, size = amount(facts.get("count", 1)), amount(facts.get("bytes", 0))
        seconds = seconds_of(facts.get("seconds", 0))
        if call in ("create", "write") and not session.wrote:
            self._write(program, session, keeps=True, first=False)
        elif call == "read":
            self._read(session, session.entity)
        key = state.objects[session.entity, kind, name]
        if key is None:
            file = state.entities[session.entity]
            made = self._made(kind, OBJECT, self._place(name), file.generation)
            made.within = file.key
            if session.wrote and call in ("create", "write"):
                made.by = program.key
            key = state.objects[session.entity, kind, name] = made.key
        self._count(
            program, call, key, session.scope, count=count, size=size, seconds=seconds,
            failed=int(bool(facts.get("failed"))),
        )  # fmt: skip

    def _on_objects(self, program: Process, facts: dict[str, Any]) -> None:
        """Calls on objects in a file, counted."""
        names = ("object", "name", "call", "count", "bytes", "seconds")
        for one in facts["calls"]:
            told, first = dict(zip(names, one, strict=False)) | {"handle": facts["handle"]}, whole(one[6])
            self._on_object(program, told)
            session = self._session(program, facts)
            entity = self.state.objects[session.entity, str(told["object"]), str(told["name"])]
            call = self.state.calls[str(told["call"]), program.key, entity or 0, session.scope]
            if call is not None and first is not None:
                call.first = min(call.first, first)

    def _on_derived(self, program: Process, facts: dict[str, Any]) -> None:
        """The user's own word that a file was made from others."""
        sources = [str(name) for name in facts["sources"]]
        target = self._current(self._file(self._place(str(facts["target"]))))
        for name in sources:
            source = self._file(self._place(name)).current
            if source != target.key:
                self._derive(target, source)

    def _told(self, program: Process, kind: str, facts: dict[str, Any]) -> None:
        """What a program decided about a file that it wrote."""
        take({}, "", "", kind, facts, [])  # refused here where it says something else
        target = self._current(self._file(self._place(str(facts["path"]))))
        sources = [self._file(self._place(str(name))).current for name in facts.get("sources", ())]
        told = {key: value for key, value in facts.items() if key not in ("path", "sources")}
        self.state.tell(Telling(target.key, program.key, kind, told, sources))
        self.state.changed["entity"][target.key] = target

    def _on_account(self, program: Process, facts: dict[str, Any]) -> None:
        self._told(program, "account", facts)

    def _on_calibration(self, program: Process, facts: dict[str, Any]) -> None:
        self._told(program, "calibration", facts)

    def _on_decision(self, program: Process, facts: dict[str, Any]) -> None:
        self._told(program, "decision", facts)

    def _on_hash(self, program: Process, facts: dict[str, Any]) -> None:
        place = self.state.places[self.host, str(facts["path"])]
        if place is None or place.file is None:
            return
        entity = self._current(self.state.files[place.file])
        if (entity.size, entity.changed) == (facts.get("size"), facts.get("changed")):
            entity.sha256 = str(facts["sha256"])
            self.state.changed["entity"][entity.key] = entity

    # what they share

    def _session(self, program: Process, facts: dict[str, Any]) -> Session:
        handle = handle_of(facts)
        found = self.state.sessions[program.key, handle]
        if found is None:
            raise KeyError(handle)
        return found

    def _write(self, program: Process, session: Session, *, keeps: bool, first: bool) -> None:
        """A new generation begins. ``keeps``: what was there stays part of it. ``first``: there was nothing before."""
        state, file = self.state, self.state.files[session.file]
        old = self._current(file)
        places = sorted((state.place_of[x] for x in file.paths), key=lambda x: x.path)
        place = places[0] if places else state.place_of[old.place]
        if first:
            state.forget(old)  # nothing had been there
        file.generation += 1
        made = self._generation(file, WRITTEN, place, None, None)
        session.entity = made.key
        made.by = program.key
        for other in places[1:]:
            self._name(made, other)
        if not first:
            made.revision = old.key
            if keeps and old.size != 0:
                self._derive(made, old.key)
                self._read(session, old.key)
        session.wrote = True
        state.changed["session"][session.key] = session
        file.writers += 1

    def _derive(self, target: Node, source: int) -> None:
        self.state.changed["entity"][target.key] = target
        self.state.derive(target, source)

    def _read(self, session: Session, entity: int) -> None:
        """Put it into the list of the processes that share memory, and of each scope that is open."""
        state, file = self.state, self.state.files[session.file]
        if file.writers and entity == file.current:
            one = state.entities[entity]
            one.in_progress = True
            state.changed["entity"][entity] = one
        group = state.program_of[session.program].group
        # a thread, or a forked worker, without a scope of its own may read for any that is open
        front = [session.scope] if session.scope is not None else list(state.open_scopes.get(group, ()))
        inside: dict[str | None, None] = {None: None}
        for first in front:
            scope: str | None = first
            while scope is not None and scope not in inside:
                inside[scope] = None
                around = state.scopes[group, scope]
                scope = around.parent if around is not None else None
        for name in inside:
            known = state.lists[group, name]
            if known is None:
                known = Reads(state.number("list"), group, name)
                state.lists[group, name] = known
            state.put_read(known, entity)

    def _close(self, session: Session, *, unfinished: bool = False) -> None:
        """What was read until now is in what was written."""
        if not session.wrote:
            return
        state, file = self.state, self.state.files[session.file]
        file.writers -= 1
        state.changed["file"][file.key] = file
        entity = state.entities[session.entity]
        entity.unfinished |= unfinished
        state.changed["entity"][entity.key] = entity
        group = state.program_of[session.program].group
        reads = state.lists[group, self._narrowing(group, session.scope)]
        piped = [state.lists[x, None] for x in self._upstream(group)]
        if (reads is None or not reads.count) and not piped:
            return
        made = state.made_of(entity.key) if entity.in_progress else {entity.key}
        if reads is not None and reads.count and len(made) == 1:
            state.made_from(entity, reads, reads.count)
            state.changed["entity"][entity.key] = entity
            reads = None
        for one in (reads, *piped):
            for source in () if one is None else state.first_reads(one, one.count):
                if source not in made:
                    self._derive(entity, source)

    def _upstream(self, group: int) -> list[int]:
        """Those whose reads may have come to it through pipes, all the way."""
        read_by, written_by, found = self.state.read_by, self.state.written_by, {group: None}
        front = [group]
        while front:
            writers = [x for one in front for pipe in read_by.get(one, ()) for x in written_by.get(pipe, ())]
            front = [one for one in dict.fromkeys(writers) if one not in found]
            found |= dict.fromkeys(front)
        return sorted(list(found)[1:])

    def _narrowing(self, group: int, scope: str | None) -> str | None:
        """The scope, or the next around it, that is more than a stage."""
        seen: set[str] = set()
        while scope is not None and scope not in seen:
            seen.add(scope)
            one = self.state.scopes[group, scope]
            if one is None or not one.stage:
                break
            scope = one.parent
        return scope

    def _count(
        self,
        program: Process,
        kind: str,
        entity: int,
        scope: str | None,
        *,
        count: int = 1,
        size: int = 0,
        seconds: float = 0.0,
        failed: int = 0,
    ) -> None:
        key = (kind, program.key, entity, scope)
        call = self.state.calls[key]
        if call is None:
            call = Tally(self.state.number("call"), program.key, kind, entity, scope, first=self.time)
            self.state.calls[key] = call
        call.count = min(MOST, call.count + count)
        call.bytes = min(MOST, call.bytes + size)
        call.seconds += seconds
        call.failed += failed
        call.last = self.time
        self.state.changed["call"][call.key] = call
