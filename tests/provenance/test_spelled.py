"""Records put together by hand say what an encoder would; patterns and names that are looked up once are as ever."""

import fnmatch
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sparsam.provenance as provenance
from sparsam.provenance import spelled
from sparsam.provenance.capture.start import environment
from sparsam.provenance.log import Log, read
from sparsam.provenance.tracking import Handle, Selection, Tracker, _fits

TEXTS = st.text(max_size=20) | st.sampled_from(['"', "\\", "\n", "ä", "\udc80x", "\x00", "�"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine
@given(TEXTS, st.booleans(), st.booleans(), st.none() | TEXTS, st.floats(0, 1e6))
def test_an_open_is_spelled_as_json(
    name: str, created: bool, there: bool, scope: str | None, seconds: float
) -> None:
    """Every fact comes back, whatever the path and the scope hold."""
    found = os.stat(__file__) if there else None
    text = spelled.opened(7, f"/{name}", "rw", created, False, found, scope, "h5py", seconds)
    kind, facts = json.loads(f"[{text}]")
    wanted: dict[str, Any] = {
        "handle": 7, "path": spelled.plain(f"/{name}"), "mode": "rw", "through": "h5py",
    }  # fmt: skip
    if created:
        wanted["created"] = True
    if found is not None:
        wanted["inode"] = [found.st_dev, found.st_ino]
        if not created:
            wanted |= {"size": found.st_size, "changed": found.st_mtime_ns}
    if scope is not None:
        wanted["scope"] = scope
    if seconds:
        wanted["seconds"] = pytest.approx(seconds, abs=1e-9)
    assert (kind, facts) == ("open", wanted)


def test_calls_on_objects_are_summed_up() -> None:
    """Alike calls are one entry with their number, bytes, seconds, and the time of the first."""
    handle = Handle(3, "/x", "rw", None, 0)
    told = [(handle, "dataset", '/a"b', "read", 10, 0.5, 100), (handle, "group", "/", "open", 0, 0.125, 101)]
    told.append((handle, "dataset", '/a"b', "read", 5, 0.25, 102))
    rows = [["dataset", '/a"b', "read", 2, 15, 0.75, 100], ["group", "/", "open", 1, 0, 0.125, 101]]
    assert json.loads(f"[{spelled.objects(3, told, True)}]") == ["objects", {"handle": 3, "calls": rows}]
    handle.writes, handle.bytes_write, handle.seconds_write = 2, 30, 0.5
    kind, facts = json.loads(f"[{spelled.closed(handle, told, None, True, False)}]")
    assert kind == "close" and facts["objects"] == [[*row[:5], 0, row[6]] for row in rows]
    assert facts["writes"] == 2 and facts["bytes_write"] == 30 and "seconds_write" not in facts
    assert json.loads(f"[{spelled.closed(handle, (), None, False, True)}]")[1] == {"handle": 3, "writes": 1}


def test_patterns_fit_as_fnmatch_says() -> None:
    """Of many patterns, simple and not, on many paths."""
    draw = random.Random(0)
    patterns = ["".join(draw.choice("*?[]!/ab.") for _ in range(draw.randint(0, 5))) for _ in range(400)]
    paths = ["/" + "".join(draw.choice("/ab.[\n") for _ in range(draw.randint(0, 6))) for _ in range(200)]
    agreed = set()
    for pattern in [*patterns, *Selection().exclude, "*.pyc", "*/__pycache__/*", "*", "**", ""]:
        fits = _fits((pattern,))
        for path in [*paths, "/proc/self", "/a/__pycache__/b.pyc"]:
            assert fits(path) == fnmatch.fnmatchcase(path, pattern), (pattern, path)
            agreed.add(fits(path))
    assert agreed == {True, False} and not _fits(())("/a")


def test_a_link_in_a_folder_s_place_is_followed(tmp_path: Path) -> None:
    """A name that was looked up before leads where the link says now."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    with provenance.run("r", folder=tmp_path / ".sparsam") as tracker:
        assert (tmp_path / "one" / "x").read_text() == "one"
        os.rename(tmp_path / "one", tmp_path / "away")
        os.symlink(tmp_path / "two", tmp_path / "one")
        assert (tmp_path / "one" / "x").read_text() == "two"
    paths = [x.facts["path"] for x in read(tracker.log.path).records if x.kind == "open"]
    assert [Path(path).parent.name for path in paths] == ["one", "two"]


BURST = """
import sys, time
for at in range(40):
    with open(f"f{at}", "w") as file: file.write("x")
print("written", flush=True)
time.sleep(60)
"""


def test_many_files_that_are_closed_in_a_row_are_on_disk_soon(tmp_path: Path) -> None:
    """A program that idles afterwards and is killed has lost none of them."""
    told = environment(str(tmp_path / ".sparsam"), "r", Selection(), None)
    with subprocess.Popen(
        [sys.executable, "-c", BURST], cwd=tmp_path, env=os.environ | told, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None and program.stdout.readline() == b"written\n"
        time.sleep(2)  # a tenth of a second, on a machine that is busy
        os.kill(program.pid, signal.SIGKILL)
    found = provenance.recorded(tmp_path / ".sparsam")
    for at in range(40):
        one = found.at(str(tmp_path / f"f{at}"))
        assert one is not None and one.size == 1 and not one.unfinished


def threads() -> int:
    """Of this process, by what the system says."""
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads by /proc")
def test_the_thread_that_flushes_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there while much comes, not while a process is forked, and not once nothing comes; few threads do as well."""
    monkeypatch.chdir(tmp_path)
    before = threads()
    python = set(threading.enumerate())  # what other tests have left may end while this one runs

    def burst() -> None:
        for at in range(20):
            Path(f"f{at}").write_text("x")

    def gone() -> bool:
        for _ in range(100):
            if tracker.log._waker is None and threads() <= before:
                return True
            time.sleep(0.05)
        return False

    with provenance.run("r") as tracker:
        burst()
        assert tracker.log._waker is not None and python.issuperset(threading.enumerate())
        child = os.fork()
        if child == 0:
            os._exit(0 if tracker.log._waker is None else 1)
        assert tracker.log._waker is None and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len([x for x in read(tracker.log.path).records if x.kind == "close"]) == 20
        burst()
        assert gone()
        assert len([x for x in read(tracker.log.path).records if x.kind == "close"]) == 40
        burst()
        with provenance.indexed() as asked:
            assert asked.at(str(tmp_path / "f19")) is not None
        assert len(provenance.recorded().calls) >= 40
        burst()
        subprocess.run(["true"], check=True)  # which might ask for what was done so far
        assert len([x for x in read(tracker.log.path).records if x.kind == "close"]) == 80
        monkeypatch.setattr(
            "sparsam.provenance.writer.start_new_thread", lambda *_: (_ for _ in ()).throw(RuntimeError)
        )
        burst()
        assert len([x for x in read(tracker.log.path).records if x.kind == "close"]) == 100
    assert gone()


def test_a_log_without_a_thread_is_flushed_at_once_at_first(tmp_path: Path) -> None:
    """A file now and then is on disk when it is closed, and needs no thread."""
    log = Log(tmp_path / "runs")
    tracker = Tracker(log)
    for at in range(2):
        tracker.closed(tracker.opened(f"/x{at}", "w", created=True))
        assert log._waker is None and len(read(log.path).records) == 2 * at + 2
    log.close()


def test_names_of_objects_in_hdf5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below groups, after a group was moved, through links into other files, and of one file that is open twice."""
    h5py = pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    with h5py.File("other.h5", "w") as file:
        file["data"] = [1, 2]
    with provenance.run("r"):
        with h5py.File("main.h5", "w") as file:
            group = file.create_group("a").create_group("b")
            group.create_dataset("x", data=[1.0]).attrs["unit"] = "m"
            group.create_dataset("deep/y", data=[1.0])
            group.create_dataset("/top", data=[1.0])
            file.move("a", "c")
            file["c/b"].create_dataset("z", data=[1.0])
            file["data"] = h5py.ExternalLink("other.h5", "/data")
        with h5py.File("main.h5", "r") as file:
            assert list(file["data"][:]) == [1, 2]
        first, second = h5py.File("main.h5", "r"), h5py.File("main.h5", "r")
        assert first["top"][0] == second["c/b/x"][0] == 1
        second.close()
        assert first["c/b/z"][0] == 1
        first["c"].file.close()
        assert not first
    found = provenance.recorded()
    calls = {
        (found.entities[x.entity].kind, found.entities[x.entity].path, x.kind) for x in found.calls.values()
    }
    for wanted in (
        ("group", "/a", "create"), ("group", "/a/b", "create"), ("dataset", "/a/b/x", "create"),
        ("attribute", "/a/b/x@unit", "create"), ("dataset", "/a/b/deep/y", "create"), ("dataset", "/top", "create"),
        ("group", "/c/b", "open"), ("dataset", "/c/b/z", "write"), ("link", "/data", "create"), ("dataset", "/top", "read"),
        ("dataset", "/c/b/x", "read"), ("dataset", "/c/b/z", "read"),
    ):  # fmt: skip
        assert wanted in calls, wanted
    assert ("dataset", "/data", "read") not in calls  # it lies in the other file
    (program,) = found.programs.values()
    assert program.ended is not None and not [x for x in found.entities.values() if x.unfinished]
