"""The graph of merged records: generations, derivations, renames, links, scopes; beside a simulated truth."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from sparsam.provenance.graph import History, history
from sparsam.provenance.log import Merged, Record, Writer


@dataclass
class Told:
    """Records of several processes, at the times one says."""

    records: list[Record] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)
    clock: int = 0
    handle: int = 0

    def __call__(self, pid: int, kind: str, **facts: Any) -> None:
        number = self.numbers.get(pid, 0)
        self.numbers[pid] = number + 1
        self.clock += 1
        self.records.append(Record(Writer("here", pid, 1), number, self.clock, kind, facts))

    def open(self, pid: int, path: str, mode: str = "r", **facts: Any) -> int:
        self.handle += 1
        self(pid, "open", handle=self.handle, path=path, mode=mode, **facts)
        return self.handle

    def close(self, pid: int, handle: int, **facts: Any) -> None:
        self(pid, "close", handle=handle, **facts)

    def read(self, pid: int, path: str, **facts: Any) -> None:
        self.close(pid, self.open(pid, path, **facts), reads=1, bytes_read=10)

    def write(self, pid: int, path: str, **facts: Any) -> None:
        self.close(pid, self.open(pid, path, "w", **facts), writes=1, bytes_write=10, size=10)

    def history(self) -> History:
        return history(Merged(tuple(self.records)))


def paths(found: History, ids: Iterable[str]) -> list[str]:
    """Sorted ``path@generation``."""
    return sorted(f"{found.entities[x].path}@{found.entities[x].generation}" for x in ids)


def lineage(found: History, path: str) -> list[str]:
    entity = found.at(path)
    assert entity is not None
    return paths(found, found.lineage(entity.id))


def test_a_written_file_derives_from_what_was_open_before_it_was_closed() -> None:
    """Read before, and read while it was open; not what was read afterwards."""
    told = Told()
    told.read(1, "/a")
    out = told.open(1, "/out", "w", created=True)
    told.read(1, "/b")
    told.close(1, out, writes=1, size=3)
    told.read(1, "/c")
    found = told.history()
    assert lineage(found, "/out") == ["/a@0", "/b@0"]
    source = found.at("/a")
    assert source is not None and paths(found, found.impact(source.id)) == ["/out@1"]


def test_overwriting_makes_a_new_generation_that_is_no_child_of_the_old() -> None:
    """Before and after do not fall into one; an append is made from what was there."""
    told = Told()
    told.read(1, "/a")
    told.write(1, "/out", created=True)
    told.read(2, "/b")
    told.write(2, "/out", emptied=True)
    told.read(3, "/out")
    told.write(3, "/next", created=True)
    appended = told.open(4, "/out", "w")
    told(4, "writing", handle=appended)
    told.close(4, appended, writes=1, size=20)
    found = told.history()
    assert lineage(found, "/next") == ["/b@0", "/out@2"]
    assert lineage(found, "/out") == ["/b@0", "/out@2"]
    new = found.at("/out")
    assert new is not None and new.generation == 3
    assert found.entities[new.revision or ""].generation == 2


def test_a_file_is_followed_through_renames_and_links() -> None:
    """Written aside and moved into place; read under another name; the folder around it renamed."""
    told = Told()
    told.read(1, "/a")
    told.write(1, "/d/.tmp", created=True)
    told(1, "rename", source="/d/.tmp", target="/d/out")
    told(1, "link", source="/d/out", target="/d/same")
    told.read(2, "/d/same")
    told.write(2, "/x", created=True)
    told(2, "rename", source="/d", target="/e")
    told.read(3, "/e/out")
    told.write(3, "/y", created=True)
    found = told.history()
    assert lineage(found, "/x") == ["/a@0", "/d/.tmp@1"] == lineage(found, "/y")
    moved = found.at("/e/out")
    assert moved is not None and moved.names == ["/d/.tmp", "/d/out", "/d/same", "/e/out", "/e/same"]


def test_two_names_of_one_inode_are_one_file() -> None:
    """Even if nobody saw the link being made."""
    told = Told()
    told.write(1, "/a", created=True, inode=[1, 7])
    told.read(2, "/b", inode=[1, 7], size=10)
    told.write(2, "/out", created=True, inode=[1, 8])
    assert lineage(told.history(), "/out") == ["/a@1"]


def test_what_changed_unseen_is_another_generation() -> None:
    """A file of another size than it was left with is not made from what made it before."""
    told = Told()
    told.read(1, "/a")
    told.write(1, "/m", created=True)
    told.read(2, "/m", size=11)
    told.write(2, "/out", created=True)
    found = told.history()
    assert lineage(found, "/out") == ["/m@2"]
    changed = found.at("/m")
    assert changed is not None and changed.outside and changed.by is None


def test_a_scope_narrows_what_a_file_is_made_from() -> None:
    """What is read in it, and in scopes within it."""
    told = Told()
    told.read(1, "/settings")
    for name in ("1", "2"):
        told(1, "scope", id=name, name=f"step {name}", parent=None)
        told.read(1, f"/in{name}", scope=name)
        told(1, "scope", id=name + "i", name="inner", parent=name)
        told.read(1, f"/inner{name}", scope=name + "i")
        told.write(1, f"/out{name}", created=True, scope=name)
    told.write(1, "/all", created=True)
    found = told.history()
    assert lineage(found, "/out2") == ["/in2@0", "/inner2@0"]
    assert lineage(found, "/all") == ["/in1@0", "/in2@0", "/inner1@0", "/inner2@0", "/settings@0"]


def test_forked_processes_share_what_they_read() -> None:
    """A worker's data is in the parent's checkpoint; a program that is started anew shares files alone."""
    told = Told()
    told(1, "process", run="r")
    told(2, "process", run="r", parent=["here", 1, 1], forked=True)
    told(3, "process", run="r", parent=["here", 1, 1], forked=False)
    told.read(2, "/data")
    told.read(3, "/other")
    told.write(1, "/checkpoint", created=True)
    assert lineage(told.history(), "/checkpoint") == ["/data@0"]


def test_nothing_becomes_its_own_ancestor() -> None:
    """Two files written at once that read one another."""
    told = Told()
    x, y = (told.open(1, name, "rw", created=True) for name in ("/x", "/y"))
    told.read(1, "/x")
    told.read(1, "/y")
    told.read(1, "/a")
    told.close(1, x, writes=1)
    told.close(1, y, writes=1)
    found = told.history()
    assert lineage(found, "/x") == ["/a@0", "/y@1"] and lineage(found, "/y") == ["/a@0"]


def test_a_process_that_died_leaves_unfinished_files() -> None:
    """What it had read is in them all the same."""
    told = Told()
    told(1, "process", run="r")
    told.read(1, "/a")
    told.open(1, "/out", "w", created=True)
    found = told.history()
    out = found.at("/out")
    assert out is not None and out.unfinished and lineage(found, "/out") == ["/a@0"]


def test_strange_facts_spoil_nothing() -> None:
    """A record without what its kind needs is named, and the rest is read."""
    told = Told()
    told(1, "close", handle=99)
    told(1, "open", path="/a")
    told(1, "no-such-kind", x=1)
    told.write(1, "/out", created=True)
    found = told.history()
    program = next(iter(found.programs.values()))
    assert found.at("/out") is not None and len(program.unseen) == 2


def test_objects_in_a_file_are_entities_of_their_own() -> None:
    """A dataset has its file's generation, its calls, and whoever wrote it."""
    told = Told()
    handle = told.open(1, "/f.h5", "rw", created=True)
    for call, size in (("create", 0), ("write", 80), ("write", 80)):
        told(1, "object", handle=handle, object="dataset", name="/g/x", call=call, bytes=size)
    told.close(1, handle, size=100)
    found = told.history()
    (dataset,) = [x for x in found.entities.values() if x.kind == "dataset"]
    file = found.at("/f.h5")
    assert file is not None and dataset.within == file.id and dataset.path == "/g/x"
    (written,) = [x for x in found.calls.values() if x.entity == dataset.id and x.kind == "write"]
    assert (written.count, written.bytes) == (2, 160)


@dataclass
class Truth:
    """File transformations as they are meant, beside the records of them. A node is a generation of a file."""

    told: Told
    draw: random.Random
    at: dict[str, int] = field(default_factory=dict)  # path: node
    parents: list[set[int]] = field(default_factory=list)

    def node(self, parents: set[int]) -> int:
        self.parents.append(set(parents))
        return len(self.parents) - 1

    def step(self, pid: int) -> None:
        """One program: some reads, some writes of every sort."""
        told, draw = self.told, self.draw
        read: set[int] = set()
        for path in draw.sample(sorted(self.at), min(len(self.at), draw.randint(1, 4))):
            told.read(pid, path)
            read.add(self.at[path])
        for _ in range(draw.randint(1, 3)):
            how = draw.choice(["new", "over", "append", "change", "aside", "link", "move"])
            path, fresh = draw.choice(sorted(self.at)), f"/f{told.clock}"
            if how == "new":
                told.write(pid, fresh, created=True)
                self.at[fresh] = self.node(read)
            elif how == "over":
                told.write(pid, path, emptied=True)
                self.again(path, self.node(read))
            elif how in ("append", "change"):
                handle = told.open(pid, path, "w" if how == "append" else "rw")
                told(pid, "writing", handle=handle)
                told.close(pid, handle, writes=1)
                read.add(self.at[path])  # what is changed is read
                self.again(path, self.node(read))
            elif how == "aside":
                told.write(pid, fresh, created=True)
                told(pid, "rename", source=fresh, target=path)
                self.at[path] = self.node(read)  # other names keep the old file
            elif how == "link":
                told(pid, "link", source=path, target=fresh)
                self.at[fresh] = self.at[path]
            else:
                told(pid, "rename", source=path, target=fresh)
                self.at[fresh] = self.at.pop(path)

    def again(self, path: str, made: int) -> None:
        """All names of the file have the new generation."""
        before = self.at[path]
        self.at |= {name: made for name, node in self.at.items() if node == before}

    def ancestors(self) -> list[set[int]]:
        """Of each node; parents come before their children."""
        found: list[set[int]] = []
        for parents in self.parents:
            found.append(parents.union(*(found[x] for x in parents)))
        return found


@pytest.mark.parametrize("seed", range(100))
def test_lineage_and_impact_equal_the_truth(seed: int) -> None:
    """200 nodes and more, overwritten, appended to, changed in place, renamed, linked, written aside and moved."""
    draw = random.Random(seed)
    told = Told()
    truth = Truth(told, draw)
    for number in range(8):
        told.read(0, f"/raw{number}")
        truth.at[f"/raw{number}"] = truth.node(set())
    pid = 0
    while len(truth.parents) < 210:
        pid += 1
        truth.step(pid)
    found = told.history()
    ids: dict[str, int] = {}
    for path, node in truth.at.items():
        entity = found.at(path)
        assert entity is not None
        ids[entity.id] = node
    ancestors = truth.ancestors()
    for name, node in ids.items():
        ours, wanted = found.lineage(name), ancestors[node]
        assert len(ours) == len(wanted)
        assert {ids[x] for x in ours if x in ids} == wanted & set(ids.values())
        children = {x for x in ids.values() if node in ancestors[x]}
        assert {ids[x] for x in found.impact(name) if x in ids} == children
