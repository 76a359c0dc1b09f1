"""The index on disk: whatever the steps and orders in which it ingested, it answers as the history in memory does."""

import json
import random
import shutil
import struct
import zlib
from dataclasses import asdict
from pathlib import Path

import pytest
from random_records import random_records
from test_history import Told, Truth

from sparsam.provenance import store
from sparsam.provenance.adapters import imported
from sparsam.provenance.graph import History
from sparsam.provenance.index import Index, indexed
from sparsam.provenance.log import Record, Writer
from sparsam.provenance.runs import recorded
from sparsam.provenance.writer import MAGIC


def logs_of(records: list[Record]) -> dict[Writer, bytes]:
    """The logs that hold these records."""
    made: dict[Writer, bytearray] = {}
    for one in sorted(records, key=lambda x: (x.writer, x.number)):
        body = struct.pack("<Q", one.number) + json.dumps([one.time, one.kind, one.facts]).encode()
        made.setdefault(one.writer, bytearray(MAGIC))
        made[one.writer] += struct.pack("<II", len(body) - 8, zlib.crc32(body)) + body
    return {writer: bytes(content) for writer, content in made.items()}


def put(base: Path, writer: Writer, content: bytes, run: str = "") -> Path:
    """A log in its place; its run by its process unless it is given."""
    folder = base / "runs" / (run or f"run{writer.pid % 2}")
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / writer.file
    place.write_bytes(content)
    return place


def index_of(base: Path, records: int = 1000) -> Index:
    """Never the history in memory."""
    found = indexed(base, records=records)
    assert isinstance(found, Index)
    return found


def assert_same(ours: Index, wanted: History, draw: random.Random, sample: int = 6) -> None:
    """Every fact, and the answers for some of the entities."""
    assert list(ours.programs) == list(wanted.programs)
    for name, program in wanted.programs.items():
        assert vars(ours.programs[name]) == vars(program)
    assert list(ours.entities) == list(wanted.entities)
    for name, one in wanted.entities.items():
        theirs, told = asdict(one), asdict(ours.entities[name])
        for facts in (theirs, told):
            del facts["derived"]
        assert told == theirs
        assert ours.lies_at(one) == wanted.lies_at(one)
    assert dict(ours.accounts) == wanted.accounts and len(ours.accounts) == len(wanted.accounts)
    assert list(ours.accounts) == list(wanted.accounts)
    assert [(host, path, x.id) for host, path, x in ours.lying()] == [
        (host, path, x.id) for host, path, x in wanted.lying()
    ]
    assert list(ours.all_calls()) == list(wanted.all_calls())
    names = sorted({path for one in wanted.entities.values() for path in one.names})
    for path in [*names, "/never"]:
        for host in (None, "here", "there"):
            at, there = ours.at(path, host), wanted.at(path, host)
            assert (at and at.id) == (there and there.id)
    for name in draw.sample(list(wanted.entities), min(sample, len(wanted.entities))):
        assert ours.sources(name) == wanted.sources(name)
        assert ours.sources(name, 2) == wanted.sources(name, 2)
        assert ours.lineage(name) == wanted.lineage(name)
        assert ours.impact(name) == wanted.impact(name)
    for run in {x.run for x in wanted.programs.values()}:
        assert ours.counts(run) == wanted.counts(run)
        assert [x.id for x in ours.inputs(run)] == [x.id for x in wanted.inputs(run)]
    assert ours.damages == wanted.damages
    ours.close()


@pytest.mark.parametrize("seed", range(100))
def test_the_index_answers_as_the_history_in_any_steps(tmp_path: Path, seed: int) -> None:
    """Logs appear and grow in any order, cut anywhere, late records among them; batches of any size."""
    draw = random.Random(seed)
    logs = logs_of(random_records(seed, count=draw.choice([60, 120, 240]), programs=draw.randint(1, 8)))
    reached = dict.fromkeys(logs, 0)
    steps = draw.randint(1, 6)
    for step in range(steps):
        for writer, content in logs.items():
            if step == steps - 1:
                reached[writer] = len(content)
            elif draw.random() < 0.6:
                reached[writer] = draw.randint(reached[writer], len(content))
            if reached[writer]:
                put(tmp_path, writer, content[: reached[writer]])
        if any(reached.values()):
            assert_same(index_of(tmp_path, records=draw.choice([1, 7, 50, 1000])), recorded(tmp_path), draw)


@pytest.mark.parametrize("seed", range(0, 100, 10))
def test_random_transformations_have_their_lineage_from_the_index(tmp_path: Path, seed: int) -> None:
    """The histories with a known truth: programs one after the other, their logs in a random order."""
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
    logs = list(logs_of(told.records).items())
    draw.shuffle(logs)
    for part in (logs[: len(logs) // 2], logs[len(logs) // 2 :]):
        for writer, content in part:
            put(tmp_path, writer, content)
        index_of(tmp_path, records=draw.choice([20, 200])).close()
    found = index_of(tmp_path)
    ids = {entity.id: node for path, node in truth.at.items() if (entity := found.at(path)) is not None}
    ancestors = truth.ancestors()
    assert len(ids) == len(set(truth.at.values()))
    for name, node in ids.items():
        ours = found.lineage(name)
        assert len(ours) == len(ancestors[node])
        assert {ids[x] for x in ours if x in ids} == ancestors[node] & set(ids.values())
        assert {ids[x] for x in found.impact(name) if x in ids} == {
            x for x in ids.values() if node in ancestors[x]
        }
    found.close()


@pytest.mark.parametrize("seed", range(12))
def test_the_graph_in_rdf_follows_in_any_steps(tmp_path: Path, seed: int) -> None:
    """After each step it says what a graph made anew would say, statement for statement."""
    ox = pytest.importorskip("pyoxigraph")
    draw = random.Random(seed)
    logs = logs_of(random_records(seed, count=150, programs=4))
    reached = dict.fromkeys(logs, 0)
    for step in range(4):
        for writer, content in logs.items():
            if draw.random() < 0.6 or step == 3:
                reached[writer] = draw.randint(reached[writer], len(content))
            if reached[writer]:
                put(tmp_path, writer, content[: reached[writer]])
        if not any(reached.values()):
            continue
        if draw.random() < 0.7:
            index_of(tmp_path, records=10).close()  # ingested without being followed
        place = store.built(tmp_path)
        kept = {str(x) for x in ox.Store.read_only(str(place))}
        wanted = ox.Store()
        store.fill(wanted, recorded(tmp_path))
        assert kept == {str(x) for x in wanted}
    assert (tmp_path / "graph" / "made-from.json").is_file()


def test_imports_answer_beside_what_was_recorded(tmp_path: Path) -> None:
    """Documents are joined in memory, in the store, too; once they are gone the index answers alone again."""
    ox = pytest.importorskip("pyoxigraph")
    base, told = tmp_path / ".sparsam", Told()
    told.read(1, "/raw")
    told.write(1, "/ours", created=True)
    for writer, content in logs_of(told.records).items():
        put(base, writer, content)
    index_of(base).close()
    alone = {str(x) for x in ox.Store.read_only(str(store.built(base)))}
    theirs = tmp_path / "theirs.nt"
    prov = "http://www.w3.org/ns/prov#"
    kind = f"<http://www.w3.org/1999/02/22-rdf-syntax-ns#type> <{prov}Entity>"
    theirs.write_text(
        f"<urn:x:made> {kind} .\n<urn:x:raw> {kind} .\n<urn:x:made> <{prov}wasDerivedFrom> <urn:x:raw> .\n"
    )
    imported.keep(theirs, base)
    found = indexed(base)
    assert isinstance(found, History)
    for made, source in (("/ours", "/raw"), ("urn:x:made", "urn:x:raw")):
        one = found.at(made)
        assert one is not None
        assert [found.entities[x].names for x in found.lineage(one.id)] == [[source]]
    both = {str(x) for x in ox.Store.read_only(str(store.built(base)))}
    assert alone < both and len(both) == len(alone) + 3
    shutil.rmtree(base / "imported")
    index_of(base).close()
    assert {str(x) for x in ox.Store.read_only(str(store.built(base)))} == alone
