"""The log: whole records or none, whatever happens to the process, the file or the disk."""

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sparsam.errors import InputOutput
from sparsam.provenance import writer
from sparsam.provenance.log import Log, Recovered, logs_in, merge, read, read_all
from sparsam.provenance.writer import MAGIC

WRITER = """
import sys, time
from sparsam.provenance.log import Log
log = Log(sys.argv[1])
for number in range(int(sys.argv[2])):
    log.add("event", at=number)
    if number % 100 == 99:
        log.flush()
        print(number, flush=True)
log.close()
print("end", flush=True)
"""


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Numbers, times that never fall, kinds and facts, paths that are no UTF-8 among them."""
    log = Log(tmp_path)
    for at in range(50):
        log.add("event", at=at, path=os.fsdecode(b"/x\xff"), other={1, 2})
    log.close()
    found = read(log.path)
    assert found.damage is None and [x.facts["at"] for x in found.records] == list(range(50))
    assert [x.number for x in found.records] == list(range(50))
    assert all(a.time <= b.time for a, b in itertools.pairwise(found.records))
    assert found.records[0].writer == log.writer


@pytest.mark.parametrize("seed", range(20))
def test_records_before_the_damage_are_read(tmp_path: Path, seed: int) -> None:
    """Cut anywhere, or a byte turned anywhere: the prefix is whole and the damage is named."""
    draw = random.Random(seed)
    log = Log(tmp_path)
    for at in range(40):
        log.add("event", at=at)
    log.close()
    whole = Path(log.path).read_bytes()
    ends = [len(MAGIC)]
    while ends[-1] < len(whole):
        ends.append(ends[-1] + 16 + int.from_bytes(whole[ends[-1] : ends[-1] + 4], "little"))
    at = draw.randrange(len(MAGIC), len(whole))
    cut = bytearray(whole)
    if seed % 2:
        del cut[at:]
    else:
        cut[at] ^= 1 << draw.randrange(8)
    Path(log.path).write_bytes(bytes(cut))
    found = read(log.path)
    sound = sum(end <= at for end in ends) - 1
    assert [x.facts["at"] for x in found.records] == list(range(sound))
    if ends[sound] < len(cut):
        assert found.damage is not None and found.damage.offset == ends[sound] and found.damage.reason


def test_eight_processes_killed_at_random(tmp_path: Path) -> None:
    """Every record that was flushed is there once and in order; what is left parses."""
    draw = random.Random(0)
    count = 10_000
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(count)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    for process in running[:6]:
        time.sleep(draw.random() * 0.1)
        process.send_signal(signal.SIGKILL)
    said = {process.pid: process.communicate()[0].split() for process in running}
    merged = read_all(tmp_path)
    by_pid: dict[int, list[int]] = {}
    for record in merged.records:
        by_pid.setdefault(record.writer.pid, []).append(record.facts["at"])
    for process in running:
        found = by_pid.get(process.pid, [])
        assert found == list(range(len(found)))
        last = said[process.pid][-1] if said[process.pid] else "-1"
        assert len(found) == count if last == "end" else len(found) > int(last)
    assert all(one.reason for one in merged.damages)


def test_merging_knows_no_order(tmp_path: Path) -> None:
    """Any order, in steps, or twice: the same."""
    folders = [tmp_path / str(at) for at in range(4)]
    for folder in folders:
        log = Log(folder)
        for at in range(20):
            log.add("event", at=at)
        log.close()
    logs = [read(next(logs_in(folder))) for folder in folders]
    wanted = merge(logs)
    assert len(wanted.records) == 80
    for order in itertools.permutations(logs):
        assert merge(order) == wanted
    first = Recovered(merge(logs[:2]).records)
    assert merge([first, *logs[2:]]).records == wanted.records == merge(logs + logs).records


def test_a_forked_child_has_a_log_of_its_own(tmp_path: Path) -> None:
    """What waited in memory is written by the parent alone."""
    log = Log(tmp_path)
    log.add("event", who="parent")
    child = os.fork()
    if child == 0:
        log.add(
            "event", who="child"
        )  # on disk at once: a pool kills its workers when they have nothing to do
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    log.add("event", who="parent")
    log.close()
    merged = read_all(tmp_path)
    assert [(x.writer.pid == child, x.facts["who"]) for x in sorted(merged.records, key=lambda x: x.facts["who"])] == [
        (True, "child"), (False, "parent"), (False, "parent"),
    ]  # fmt: skip


def test_threads_share_a_log(tmp_path: Path) -> None:
    """No record is lost or torn."""
    log = Log(tmp_path)

    def work(who: int) -> None:
        for at in range(500):
            log.add("event", who=who, at=at)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    log.close()
    records = read(log.path).records
    assert len(records) == 4000
    for who in range(8):
        assert [x.facts["at"] for x in records if x.facts["who"] == who] == list(range(500))


def test_a_full_disk_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program goes on, no half of a record stays, and the loss is said once there is room."""
    log = Log(tmp_path)
    log.add("event", at=0)
    log.flush()
    write = os.write

    def full(file: int, content: bytes) -> int:
        write(file, content[:7])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "_write", full)
    for at in range(1, 5):
        log.add("event", at=at)
    log.flush()
    assert log.lost == 4
    monkeypatch.setattr(writer, "_write", write)
    log.add("event", at=5)
    log.close()
    found = read(log.path)
    assert found.damage is None
    assert [x.facts.get("at") for x in found.records if x.kind == "event"] == [0, 5]
    assert merge([found]).lost == 4


def test_a_folder_that_goes_does_no_harm(tmp_path: Path) -> None:
    """What is written there is lost, and counted."""
    log = Log(tmp_path / "runs")
    log.add("event", at=0)
    Path(log.folder).rmdir()
    log.flush()
    assert log.lost == 1
    Path(log.folder).mkdir()
    log.add("event", at=1)
    log.close()
    found = read(log.path)
    assert [x.facts["at"] for x in found.records if x.kind == "event"] == [1] and found.damage is None


def test_a_program_may_close_all_descriptors(tmp_path: Path) -> None:
    """Nothing is lost, and nothing is written into a file that got the number afterwards."""
    log = Log(tmp_path / "runs")
    log.add("event", at=0)
    log.flush()
    number = log._file
    assert number is not None
    os.close(number)
    other = os.open(tmp_path / "other", os.O_WRONLY | os.O_CREAT)
    os.dup2(other, number)
    log.add("event", at=1)
    log.close()
    assert [x.facts["at"] for x in read(log.path).records] == [0, 1]
    assert (tmp_path / "other").read_bytes() == b""
    os.close(other)
    os.close(number)


def test_a_clock_that_jumps_back_keeps_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times never fall within a process."""
    log = Log(tmp_path)
    times = iter([50, 10, 60])
    monkeypatch.setattr(writer, "_time", lambda: next(times))
    for at in range(3):
        log.add("event", at=at)
    log.close()
    assert [x.time for x in read(log.path).records] == [50, 50, 60]


def test_records_taken_out_are_missed(tmp_path: Path) -> None:
    """Numbers run on; a hole that no loss explains is damage, and the rest is read."""
    log = Log(tmp_path)
    for at in range(5):
        log.add("event", at=at)
    log.close()
    whole = Path(log.path).read_bytes()
    start = len(MAGIC)
    end = start + 16 + int.from_bytes(whole[start : start + 4], "little")
    third = end + 16 + int.from_bytes(whole[end : end + 4], "little")
    Path(log.path).write_bytes(whole[:end] + whole[third:])
    found = read(log.path)
    assert [x.facts["at"] for x in found.records] == [0, 2, 3, 4]
    assert found.damage is not None and found.damage.reason == "1 records are missing in between"


def test_other_files_are_no_logs(tmp_path: Path) -> None:
    """They are named, and the rest is read."""
    (tmp_path / "notes.log").write_text("dear diary")
    with pytest.raises(InputOutput) as error:
        read(tmp_path / "notes.log")
    assert error.value.code == "log-unreadable"
    (tmp_path / "host-1-2.log").write_bytes(b"something else")
    assert read(tmp_path / "host-1-2.log").damage is not None
    log = Log(tmp_path)
    log.add("event", at=1)
    log.close()
    merged = read_all(tmp_path)
    assert len(merged.records) == 1 and len(merged.damages) == 2


def test_a_record_costs_little(tmp_path: Path) -> None:
    """A payload is compact JSON: an open and a close of an ordinary path take less than 300 bytes together."""
    log = Log(tmp_path)
    log.add(
        "open",
        handle=1,
        path="/home/someone/data/train.parquet",
        mode="r",
        inode=[65024, 1234567],
        size=10**9,
    )
    log.add("close", handle=1, reads=100, bytes_read=10**9, seconds_read=0.123456789)
    log.close()
    assert Path(log.path).stat().st_size - len(MAGIC) < 300
