"""Ingesting under bad conditions: crashes, two at once, logs that grow, are damaged or gone; long and wide histories."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from random_records import random_records
from test_history import Told
from test_index import assert_same, index_of, logs_of, put

from sparsam.cli import main
from sparsam.provenance import ingest, questions, tracked
from sparsam.provenance.index import Index, indexed
from sparsam.provenance.ingest import Ingest
from sparsam.provenance.runs import recorded
from sparsam.provenance.writer import MAGIC, Writer

INGEST = """
import sys
from sparsam.provenance.index import indexed
print("begun", flush=True)
indexed(sys.argv[1], records=int(sys.argv[2])).close()
print("done", flush=True)
"""


def written(base: Path, seed: int = 1, count: int = 300) -> dict[Writer, Path]:
    """A random history on disk."""
    return {
        writer: put(base, writer, content) for writer, content in logs_of(random_records(seed, count)).items()
    }


def same(base: Path) -> None:
    """The index says what the history in memory says."""
    assert_same(index_of(base), recorded(base), random.Random(0))


def ingesting(base: Path, records: int) -> "subprocess.Popen[str]":
    """In a process of its own."""
    words = [sys.executable, "-c", INGEST, str(base), str(records)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_only_new_records_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after everything else costs itself; nothing new costs nothing; a late record costs what came after it."""
    taken = []
    run = Ingest.__call__

    def counted(self: Ingest) -> None:
        run(self)
        taken.append(self.taken)

    monkeypatch.setattr(Ingest, "__call__", counted)
    told = Told()
    for at in range(300):
        told.read(1, f"/in{at}")
    whole = logs_of(told.records)[Writer("here", 1, 1)]
    place = put(tmp_path, Writer("here", 1, 1), whole)
    for _ in range(2):
        index_of(tmp_path, records=100).close()
    assert taken == [600, 0]
    told.read(2, "/late")
    put(tmp_path, Writer("here", 2, 1), logs_of(told.records)[Writer("here", 2, 1)])
    index_of(tmp_path, records=100).close()
    assert taken[-1] == 2
    late = Told(clock=400)
    late.read(3, "/between")
    put(tmp_path, Writer("here", 3, 1), logs_of(late.records)[Writer("here", 3, 1)])
    index_of(tmp_path, records=100).close()
    assert 200 < taken[-1] <= 320 and place.exists()
    same(tmp_path)


def test_logs_that_begin_in_another_order_than_they_are_named(tmp_path: Path) -> None:
    """Going back to between their beginnings takes the later one from its first record again."""
    for pid, clock, run in ((9, 100, "a"), (1, 10, "b"), (5, 50, "c")):
        told = Told(clock=clock)
        for at in range(3):
            told.read(pid, f"/in{pid}-{at}")
        put(tmp_path, Writer("here", pid, 1), logs_of(told.records)[Writer("here", pid, 1)], run=run)
        if pid != 9:
            index_of(tmp_path, records=1).close()
    same(tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_a_crash_leaves_an_index_to_go_on_with(tmp_path: Path, seed: int) -> None:
    """Killed anywhere, several times over; afterwards all is there once."""
    written(tmp_path, seed, 600)
    draw = random.Random(seed)
    for _ in range(3):
        process = ingesting(tmp_path, 5)
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        time.sleep(draw.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    same(tmp_path)


def test_two_ingest_at_once(tmp_path: Path) -> None:
    """Both end, and what is there is there once; without locks of the system, too."""
    written(tmp_path, 2, 500)
    running = [ingesting(tmp_path, 20) for _ in range(2)]
    assert [x.communicate()[0].split()[-1] for x in running] == ["done"] * 2
    same(tmp_path)


def test_one_that_was_overtaken_goes_on_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system has no locks, another process may have ended a batch meanwhile."""
    written(tmp_path, 3)
    begin, once = Ingest._begin, itertools.count()

    def overtaken(self: Ingest, disk: Any) -> None:
        if next(once) == 2:
            other = ingest.connect(tmp_path / "index" / "history.sqlite")
            Ingest(other, tmp_path, records=30)()
            other.close()
        begin(self, disk)

    monkeypatch.setattr(Ingest, "_begin", overtaken)
    index_of(tmp_path, records=30).close()
    assert next(once) > 4
    monkeypatch.undo()
    same(tmp_path)


def test_a_log_that_grows_meanwhile_is_read_to_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came afterwards is taken the next time."""
    told = Told()
    for at in range(50):
        told.read(1, f"/in{at}")
    (writer, whole), *_ = logs_of(told.records).items()
    place = put(tmp_path, writer, whole[:2000])
    begin = Ingest._begin

    def grown(self: Ingest, disk: Any) -> None:
        place.write_bytes(whole)
        begin(self, disk)

    monkeypatch.setattr(Ingest, "_begin", grown)
    found = index_of(tmp_path)
    assert 5 < len(found.entities) < 40
    found.close()
    monkeypatch.undo()
    same(tmp_path)


@pytest.mark.parametrize("check", [False, True])
def test_a_turned_byte_in_what_was_taken_is_found(tmp_path: Path, check: bool) -> None:
    """By the log's time of change; where that was set back, when the sums are asked for."""
    logs = written(tmp_path)
    same(tmp_path)
    victim = sorted(logs.values())[0]
    before, content = victim.stat(), bytearray(victim.read_bytes())
    content[len(MAGIC) + 40] ^= 1
    victim.write_bytes(bytes(content))
    if check:
        os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
        untouched = index_of(tmp_path)
        assert untouched.damages == ()
        untouched.close()
    found = indexed(tmp_path, check=check)
    assert isinstance(found, Index) and [x.file for x in found.damages] == [str(victim)]
    found.close()
    same(tmp_path)
    victim.write_bytes(bytes(x ^ (at == len(MAGIC) + 40) for at, x in enumerate(content)))
    same(tmp_path)


def test_logs_that_go_come_back_and_are_copied(tmp_path: Path) -> None:
    """A run that was removed leaves nothing; a log that is in two runs counts once; what is no log is named."""
    logs = written(tmp_path, 4)
    same(tmp_path)
    some = sorted(logs.items())[1]
    content = some[1].read_bytes()
    some[1].unlink()
    same(tmp_path)
    put(tmp_path, some[0], content, run="copy")
    same(tmp_path)
    some[1].write_bytes(content[: len(content) // 2])
    same(tmp_path)
    (tmp_path / "runs" / "copy" / "notes.log").write_text("dear diary")
    (tmp_path / "runs" / "copy" / "host-1-2.log").write_bytes(b"something else")
    (tmp_path / "runs" / "copy" / "host-1-3.log").write_bytes(b"")
    same(tmp_path)
    assert len(recorded(tmp_path).damages) == 3 + (some[1].read_bytes() != content) - 1


@pytest.mark.parametrize("what", ["nonsense", "cut", "version"])
def test_an_index_that_cannot_be_read_is_made_anew(tmp_path: Path, what: str) -> None:
    """It holds nothing that the logs do not."""
    written(tmp_path)
    same(tmp_path)
    file = tmp_path / "index" / "history.sqlite"
    if what == "nonsense":
        file.write_bytes(b"nonsense" * 1000)
    elif what == "cut":
        base = ingest.connect(file)
        base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        base.close()
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2 + 100])
    else:
        base = ingest.connect(file)
        base.execute("PRAGMA user_version = 99")
        base.close()
    same(tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_index_never_breaks_a_command(tmp_path: Path, seed: int, capsys: Any) -> None:
    """Bytes turned in its middle are found by the question or by nobody it matters to; without the index all is as before."""
    written(tmp_path, 5, 600)
    path = next(x.names[0] for x in recorded(tmp_path).entities.values() if x.by is not None)
    words = ["lineage", path, "--folder", str(tmp_path), "--json"]
    assert main(words) == 0
    wanted = capsys.readouterr().out
    file, draw = tmp_path / "index" / "history.sqlite", random.Random(seed)
    base = ingest.connect(file)
    base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    base.close()
    content = bytearray(file.read_bytes())
    for page in draw.sample(range(1, len(content) // 4096), 20):
        content[page * 4096 : page * 4096 + 16] = draw.randbytes(16)
    file.write_bytes(content)
    status = main(words)
    said = capsys.readouterr()
    assert status in (0, 3, 5) and "Traceback" not in said.err
    if status == 5:
        assert "index-damaged" in said.out + said.err
    ingest.remove_base(file)
    assert main(words) == 0 and capsys.readouterr().out == wanted


def test_where_no_index_can_be_written_the_history_answers(tmp_path: Path) -> None:
    """From memory."""
    written(tmp_path)
    (tmp_path / "index").write_text("a file in its place")
    found = indexed(tmp_path)
    assert not isinstance(found, Index) and list(found.entities) == list(recorded(tmp_path).entities)


def test_old_batches_are_joined(tmp_path: Path) -> None:
    """A thousand small ones leave some tens, and one can still go back to before the first."""
    told = Told(clock=1000)
    for at in range(1500):
        told.write(1, f"/f{at % 7}", **({"created": True} if at < 7 else {"emptied": True}))
    for writer, content in logs_of(told.records).items():
        put(tmp_path, writer, content)
    found = index_of(tmp_path, records=3)
    (batches,) = found.base.execute("SELECT count(*) FROM batch").fetchone()
    assert 20 < batches < 90
    found.close()
    early = Told()
    early.read(2, "/f3")
    early.write(2, "/early", created=True)
    put(tmp_path, Writer("here", 2, 1), logs_of(early.records)[Writer("here", 2, 1)])
    same(tmp_path)


def chained(length: int, scopes: bool) -> Told:
    """Each file from the one before: in scopes of one program, or in one program altogether."""
    told = Told()
    for at in range(length):
        facts: dict[str, Any] = {}
        if scopes:
            told(1, "scope", id=str(at), name="step", parent=None)
            facts = {"scope": str(at)}
        if at:
            told.read(1, f"/f{at - 1}", **facts)
        told.write(1, f"/f{at}", created=True, **facts)
        if scopes:
            told(1, "scope-end", id=str(at))
    return told


@pytest.mark.parametrize("scopes", [True, False])
def test_long_chains_take_time_in_proportion(tmp_path: Path, scopes: bool) -> None:
    """Thousands of generations one from the other, each once, nearest first; eight times as many take no 30 times as long."""
    seconds = []
    for length in (500, 4000):
        base = tmp_path / str(length)
        for writer, content in logs_of(chained(length, scopes).records).items():
            put(base, writer, content)
        found = index_of(base)
        last, first = found.at(f"/f{length - 1}"), found.at("/f0")
        assert last is not None and first is not None
        times = []
        for _ in range(3):
            started = time.process_time()
            up, down = found.lineage(last.id), found.impact(first.id)
            times.append(time.process_time() - started)
        seconds.append(min(times))
        assert len(up) == len(down) == length - 1
        if scopes:
            assert (up[-1], down[-1]) == (first.id, last.id)
        assert set(up) - {first.id} == set(down) - {last.id}
        found.close()
    assert seconds[1] < 30 * seconds[0]


def test_what_was_made_from_many_files_is_summed_up(tmp_path: Path, capsys: Any) -> None:
    """In words by folder; in JSON all of them; direct sources are named up to a limit."""
    told = Told()
    for at in range(1500):
        told.read(1, f"/data/part{at % 3}/{at}", size=10)
    told.write(1, "/out/model", created=True)
    for writer, content in logs_of(told.records).items():
        put(tmp_path, writer, content)
    assert main(["lineage", "/out/model", "--folder", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert len(said.splitlines()) < 80 and "and 1,451 more, by folder" in said and "/data/part1" in said
    assert main(["lineage", "/out/model", "--folder", str(tmp_path), "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert len(steps) == 1501 and len(steps[0]["from"]) == questions.MOST_SOURCES and steps[0]["from_more"]
    assert "from_more" not in steps[1]


def test_a_long_run_is_hashed_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through an index of its own that goes when the program ends; hashed and counted as from memory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(x for x in sys.path if x))
    (tmp_path / "in").write_text("x")
    code = "for at in range(5): open(f'out{at}', 'w').write(open('in').read())"
    for run, most in (("short", 1 << 25), ("long", 0)):
        monkeypatch.setattr(tracked, "IN_MEMORY", most)
        made = tracked.track([sys.executable, "-c", code], run=run)
        assert isinstance(made.found, Index) == (run == "long")
        assert made.hashed == 6 and made.found.counts(run) == (1, 5) and made.merged.lost == 0
        out = made.found.at(str(tmp_path / "out3"))
        assert out is not None and out.sha256 == questions.sha256_of("out3")
    monkeypatch.setattr(tracked, "opened", lambda base: (_ for _ in ()).throw(OSError(28, "no space")))
    made = tracked.track([sys.executable, "-c", code], run="no-room")
    assert not isinstance(made.found, Index) and made.hashed == 6
