"""A tracked program goes on unharmed, whatever happens to its records, its environment or its descriptors."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparsam.provenance.capture.start import environment
from sparsam.provenance.graph import history
from sparsam.provenance.log import read_all
from sparsam.provenance.tracking import Selection

PROGRAM = """
import os, sys
open("in").read()
exec_me = sys.argv[1] if len(sys.argv) > 1 else ""
if exec_me == "unwritable":
    os.rename(".sparsam", "elsewhere"); open(".sparsam", "w").close()
elif exec_me == "descriptors":
    os.closerange(3, 4096)
elif exec_me == "daemon":
    if os.fork():
        os.wait(); sys.exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.closerange(0, 4096); os.open(os.devnull, os.O_RDWR); os.dup(0); os.dup(0)
elif exec_me == "chdir":
    os.makedirs("gone/here"); here = os.getcwd(); os.chdir("gone/here"); os.rmdir(here + "/gone/here"); os.rmdir(here + "/gone")
    try:
        open("x", "w")
    except FileNotFoundError:
        os.chdir(here)
elif exec_me == "recursion":
    def deep(n): return open("in").close() or deep(n + 1)
    try:
        deep(0)
    except RecursionError:
        pass
elif exec_me == "threads":
    import threading
    def work(at):
        for _ in range(50):
            open(f"t{at}", "a").write("x")
    many = [threading.Thread(target=work, args=(at,)) for at in range(8)]
    [one.start() for one in many]; [one.join() for one in many]
with open("out", "w") as out:
    out.write("done")
"""


def told(place: Path, run: str = "r") -> dict[str, str]:
    return environment(str(place / ".sparsam"), run, Selection(), None)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A program and its input."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "in").write_text("x")
    return tmp_path


def start(place: Path, what: str, **more: object) -> subprocess.CompletedProcess[str]:
    env = more.pop("env", os.environ | told(place))
    return subprocess.run(
        [sys.executable, "program.py", what],
        cwd=place,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("what", ["", "unwritable", "descriptors", "daemon", "chdir", "recursion", "threads"])
def test_the_program_does_what_it_does(place: Path, what: str) -> None:
    """Same output, nothing on standard error; what was recorded can be read."""
    done = start(place, what)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for _ in range(100):
        if (place / "out").exists() and (place / "out").read_text() == "done":
            break
        time.sleep(0.05)
    assert (place / "out").read_text() == "done"
    if what == "unwritable":
        return
    time_out = 100
    while time_out:
        merged = read_all(place / ".sparsam" / "runs" / "r")
        found = history(merged).at(str(place / "out"))
        if found is not None and not found.unfinished:
            break
        time_out -= 1
        time.sleep(0.05)
    assert found is not None and not merged.damages
    sources = {Path(history(merged).entities[x].path).name for x in history(merged).lineage(found.id)}
    assert "in" in sources
    if what == "threads":
        for at in range(8):
            entity = history(merged).at(str(place / f"t{at}"))
            assert entity is not None and entity.generation == 50


def test_an_empty_environment(place: Path) -> None:
    """No HOME, no PATH, no locale."""
    done = start(place, "", env=told(place))
    assert (done.returncode, done.stderr) == (0, "")
    assert history(read_all(place / ".sparsam" / "runs" / "r")).at(str(place / "out")) is not None


@pytest.mark.parametrize("value", ["", "{", "[]", '{"folder": "/proc/nowhere", "run": "r"}', '{"folder": 3}'])
def test_a_broken_variable(place: Path, value: str) -> None:
    """The program runs untracked."""
    done = start(place, "", env=os.environ | told(place) | {"SPARSAM_TRACK": value})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (place / "out").read_text() == "done"


def test_two_programs_under_one_run(place: Path) -> None:
    """One id given twice at the same time: both are recorded."""
    both = [
        subprocess.Popen([sys.executable, "program.py", ""], cwd=place, env=os.environ | told(place))
        for _ in range(2)
    ]
    assert [one.wait(60) for one in both] == [0, 0]
    found = history(read_all(place / ".sparsam" / "runs" / "r"))
    assert len(found.programs) == 2


def test_names_that_are_no_text(place: Path) -> None:
    """Bytes that are no UTF-8, line breaks, escapes: recorded, and no harm done."""
    names = [b"\xff\xfe", b"a\nb", b"\x1b[31m", "\u202e".encode()]
    code = f"for name in {names}:\n    open(name, 'w').write('x')\n"
    (place / "program.py").write_text(code)
    done = start(place, "")
    assert (done.returncode, done.stderr) == (0, "")
    found = history(read_all(place / ".sparsam" / "runs" / "r"))
    assert sum(x.by is not None for x in found.entities.values()) == 4
