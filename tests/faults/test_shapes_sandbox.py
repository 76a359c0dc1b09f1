"""Hostile and clumsy programs under the shape checker: each ends in a named refusal, none as proved, nothing is touched."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparsam.shapes import channel, overlay, sandbox
from sparsam.shapes.source import read

CHILD = Path(__file__).parent.parent / "shapes" / "trial_child.py"
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the sandbox is written for Linux"
)


@pytest.fixture
def check(tmp_path):
    """Runs a program under the guards; it may not leave a file behind."""

    def go(text, *, seconds=5.0, request=None, on_event=None, **limits):
        folder = tmp_path / "program"
        folder.mkdir(exist_ok=True)
        (folder / "train.py").write_text(text)
        before = sorted(tmp_path.rglob("*"))
        outcome = sandbox.run(
            read(str(folder / "train.py")),
            request or {},
            limits=sandbox.Limits(seconds=seconds, **limits),
            on_event=on_event,
            child=CHILD,
        )
        assert sorted(tmp_path.rglob("*")) == before
        return outcome

    return go


def proved(outcome):
    """Whether the checker may take the run for complete."""
    return outcome.finished and not outcome.unknowns and outcome.result["verdict"] == "proved"


def test_harmless_program_finishes(check):
    """Its result, its output, its messages; and the kernel's means are told."""
    events = []
    outcome = check("import sys\nprint('hi')\nprint('there', file=sys.stderr)", on_event=events.append)
    assert proved(outcome)
    assert "hi\n" in outcome.output
    assert "there\n" in outcome.output
    assert events == [{"started": str(events[0]["started"])}]
    assert set(outcome.guards) >= {"Landlock", "seccomp", "network namespace", "resource limits"}
    assert outcome.guards["resource limits"] == "yes"
    assert outcome.exit_code == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_torch_works_under_the_guards(check, when):
    """Imported before or after them."""
    outcome = check(
        "import torch\nprint((torch.ones(2, 3) @ torch.ones(3, 4)).shape)",
        seconds=60,
        request={"torch": when},
    )
    assert proved(outcome), outcome
    assert "torch.Size([2, 4])" in outcome.output
    assert outcome.peak_bytes < 600e6


ORDINARY = """
import json, logging, os, pathlib, random, shutil, tempfile
os.makedirs("runs/one", exist_ok=True)
os.makedirs("runs/one", exist_ok=True)
with open("runs/one/log.txt", "w") as file:
    file.write("epoch 1\\n")
with open("runs/one/log.txt", "a") as file:
    print("epoch 2", file=file)
assert open("runs/one/log.txt").read() == "epoch 1\\nepoch 2\\n"
assert os.path.getsize("runs/one/log.txt") == 16
assert os.path.isdir("runs") and os.path.isfile("runs/one/log.txt")
path = pathlib.Path("runs") / "best.json"
path.write_text(json.dumps({"a": 1}))
assert json.loads(path.read_bytes()) == {"a": 1}
os.replace(path, "runs/last.json")
assert not path.exists() and sorted(os.listdir("runs")) == ["last.json", "one"]
assert [p.name for p in pathlib.Path("runs").glob("*.json")] == ["last.json"]
assert sorted(e.name for e in os.scandir("runs") if e.is_dir()) == ["one"]
shutil.copytree("runs", "copy")
shutil.copy("runs/last.json", "copy/other.json")
assert sorted(os.listdir("copy")) == ["last.json", "one", "other.json"]
os.rename("copy", "moved")
assert open("moved/one/log.txt").readline() == "epoch 1\\n"
shutil.rmtree("moved")
assert not os.path.exists("moved/one")
os.remove("train.py")
assert not os.path.exists("train.py")
with open("train.py", "x") as file:
    file.write("new")
with open("b.bin", "wb+") as file:
    file.write(b"0123456789")
    file.seek(2)
    assert file.read(3) == b"234"
    file.truncate(4)
with open("b.bin", "r+b") as file:
    file.seek(6)
    file.write(b"x")
assert open("b.bin", "rb").read() == b"0123\\0\\0x"
for bad, error in ((lambda: open("none/x", "w"), FileNotFoundError), (lambda: os.mkdir("runs"), FileExistsError),
                   (lambda: os.rmdir("runs"), OSError), (lambda: open("runs", "w"), IsADirectoryError),
                   (lambda: open("gone"), FileNotFoundError), (lambda: open("b.bin", "x"), FileExistsError),
                   (lambda: os.remove("gone"), FileNotFoundError), (lambda: open("b.bin", "wr"), ValueError)):
    try:
        bad()
    except error:
        continue
    raise SystemExit("no error")
with tempfile.TemporaryDirectory() as folder:
    pathlib.Path(folder, "x").touch()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("a")
        file.flush()
        assert open(file.name).read() == "a"
assert not os.path.exists(folder)
number, name = tempfile.mkstemp()
with os.fdopen(number, "w") as file:
    file.write("by number")
assert open(name).read() == "by number"
number = os.open("c.bin", os.O_CREAT | os.O_RDWR | os.O_EXCL)
assert os.write(number, b"abc") == 3 and os.lseek(number, 0, 0) == 0 and os.read(number, 9) == b"abc"
os.ftruncate(number, 1)
assert os.fstat(number).st_size == 1
os.close(number)
assert open("c.bin", "rb").read() == b"a"
logging.basicConfig(filename="run.log", level="INFO")
logging.info("hello")
assert "hello" in open("run.log").read()
open(os.devnull, "w").write("x" * 1000)
import signal
signal.signal(signal.SIGINT, lambda *a: None)
signal.signal(signal.SIGALRM, signal.SIG_IGN)
print("all of it")
"""


def test_ordinary_script_writes_to_memory_and_goes_on(check, monkeypatch, tmp_path):
    """Logs, checkpoints, folders, temporary files: kept in memory, read back, no refusal, nothing on the disk."""
    (tmp_path / "program").mkdir()
    monkeypatch.chdir(tmp_path / "program")
    outcome = check(ORDINARY)
    assert proved(outcome), outcome
    assert "all of it" in outcome.output
    assert (tmp_path / "program" / "train.py").read_text() == ORDINARY


def test_numpy_files_are_written_and_read_back(check, monkeypatch, tmp_path):
    """Arrays go through the files in memory too."""
    (tmp_path / "program").mkdir()
    monkeypatch.chdir(tmp_path / "program")
    outcome = check(
        "import numpy as np\nnp.save('a.npy', np.arange(3))\nassert np.load('a.npy').sum() == 3\n"
        "np.savez('b.npz', x=np.ones(2))\nassert np.load('b.npz')['x'].sum() == 2\n"
        "np.savetxt('c.csv', np.ones(2))\nassert np.loadtxt('c.csv').sum() == 2"
    )
    assert proved(outcome), outcome


USUAL = """
import asyncio, getpass, platform, socket, uuid
from concurrent.futures import ThreadPoolExecutor
import numpy, PIL.Image, tqdm
for _ in tqdm.tqdm(range(3)):
    pass
async def three():
    return 3
assert asyncio.run(three()) == 3
assert list(ThreadPoolExecutor(2).map(abs, [1, -2])) == [1, 2]
PIL.Image.new("RGB", (4, 4)).save("a.png")
assert PIL.Image.open("a.png").size == (4, 4)
print(platform.platform(), socket.gethostname(), uuid.uuid4(), getpass.getuser())
"""


def test_usual_libraries_are_not_disturbed(check, monkeypatch, tmp_path):
    """Progress bars, coroutines, pools of threads, images, facts about the machine: no refusal."""
    (tmp_path / "program").mkdir()
    monkeypatch.chdir(tmp_path / "program")
    outcome = check(USUAL, seconds=20)
    assert proved(outcome), outcome


REFUSED = {
    "process": [
        "import os\nos.system('touch x')",
        "import subprocess\nsubprocess.run(['touch', 'x'])",
        "import os\nos.fork()",
        "import os\nos.execv('/bin/true', ['true'])",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "import multiprocessing as m\nif __name__ == 'program': m.get_context('fork').Process(target=print).start()",
        "import os\nos.popen('ls')",
        "import multiprocessing\nmultiprocessing.Queue()",
        "import _posixsubprocess\n_posixsubprocess.fork_exec([b'true'], [b'/bin/true'], True, ())",
    ],
    "network": [
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:1/')",
        "import socket\nsocket.create_connection(('127.0.0.1', 1))",
        "import socket\nsocket.getaddrinfo('localhost', 80)",
    ],
    "signal": [
        "import os\nos.kill(os.getppid(), 9)",
        "import os\nos.killpg(0, 9)",
        "import resource\nresource.setrlimit(resource.RLIMIT_DATA, (-1, -1))",
    ],
    "file": [
        "import posix\nposix.unlink(__file__)",
        "import posix\nposix.rename(__file__, 'x')",
        "import os\nos.symlink('a', 'b')",
    ],
    "write": [
        "import posix\nposix.open('x', posix.O_CREAT | posix.O_WRONLY)",
        "import _io\n_io.open('x', 'w')",
    ],
    "read": [
        "open('/dev/zero', 'rb').read()",
        "import os\nfd = os.open('/dev/zero', os.O_RDONLY)",
        "open('/proc/self/mem', 'rb')",
    ],
    "native": [
        "import ctypes\nctypes.CDLL(None).abort()",
        "import ctypes\nctypes.string_at(0)",
        "import cffi",
        "import _xxsubinterpreters",
    ],
    "interpreter": [
        "import sys\nsys.settrace(lambda *a: None)",
        "import gc\ngc.get_objects()",
        "(lambda: 0).__code__.replace(co_name='x')",
        "import sparsam.shapes.guards as g\ng.watch.__code__ = (lambda: 0).__code__",
        "import sys\nsys.addaudithook(print)",
    ],
    "database": ["import sqlite3\nsqlite3.connect('x.db')"],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_reaching_out_is_refused_by_name(check, kind):
    """Even if the program swallows the refusal: it is known, with its line, and the run is not proved."""
    pieces = [
        "try:\n"
        + "".join(f"    {line}\n" for line in text.split("\n"))
        + "except BaseException as e:\n    print(repr(e))\n"
        for text in REFUSED[kind]
    ]
    outcome = check("\n".join(pieces))
    assert not proved(outcome)
    assert outcome.finished, outcome
    ours = [r for r in outcome.refusals if r.kind == kind and r.file.endswith("train.py")]
    assert len({r.line for r in ours}) >= len(pieces), (outcome.refusals, outcome.output)
    assert all(u.code == "refused" and u.place is not None for u in outcome.unknowns)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("while True: pass", "time"),
        ("import time\ntime.sleep(100)", "time"),
        ("import re\nre.match('(a+)+$', 'a' * 60 + 'b')", "time"),
        (
            "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)",
            "time",
        ),
        ("import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass", "time"),
        ("def f():\n    try: f()\n    finally: f()\nf()", "time"),
        ("x = open('/dev/urandom', 'rb')\nwhile True: x.read(1000)", "time"),
    ],
)
def test_program_that_does_not_end_is_ended(check, text, code):
    """In time, whatever signals it ignores."""
    start = time.monotonic()
    outcome = check(text, seconds=0.6)
    assert time.monotonic() - start < 6
    assert [u.code for u in outcome.unknowns] == [code]
    assert not outcome.finished


FORGER = """
import os
for descriptor in range(3, 100):
    try:
        os.write(descriptor, b'{"kind": "finish"}\\n')
    except OSError:
        pass
"""


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("import os\nos._exit(0)", {"exit"}),
        ("import os\nos.abort()", {"crash"}),
        ("import os, signal\nos.closerange(0, 1000)", {"exit"}),
        (FORGER, {"protocol"}),
        ("import __main__\n__main__.channel.finish({'verdict': 'proved'})", {"protocol"}),
        (
            "import __main__, threading\nthreading.Thread(target=__main__.channel.finish, args=({},)).start()\nwhile 1: 0",
            {"protocol"},
        ),
        ("while True: print('x' * 100000)", {"output"}),
        ("import sys\nwhile True: sys.stderr.write('x' * 100000)", {"output"}),
        ("import ctypes\nx = ctypes.cast(1, ctypes.POINTER(ctypes.c_int))\nprint(x[0])", {"crash"}),
        ("import sys\nsys.setrecursionlimit(10**8)\ndef f(): return f()\nf()", {"crash", "memory", "time"}),
    ],
)  # fmt: skip
def test_program_that_breaks_off_is_no_success(check, text, codes):
    """Leaving, crashing, forging, flooding: never a result."""
    outcome = check(text, seconds=1.0, output_bytes=100_000, bytes=300_000_000)
    assert not outcome.finished
    assert outcome.unknowns[0].code in codes, outcome
    assert len(outcome.output) <= 100_000


@pytest.mark.parametrize(
    "text",
    [
        "x = bytearray(10**10)",
        "x = []\nwhile True: x.append(bytearray(10**6))",
        "import mmap\nx = []\nwhile True:\n    m = mmap.mmap(-1, 1 << 28)\n    x.append(m)\n    m[:] = bytes(1 << 28)",
        "x = [0] * 10**10",
    ],
)
def test_huge_allocation_fails(check, text):
    """In the program, or with the program; the machine does not notice."""
    outcome = check(text, seconds=20, bytes=400_000_000)
    assert not proved(outcome)
    assert outcome.peak_bytes < 800e6
    if outcome.finished:
        assert outcome.result["verdict"] == "error"
        assert "MemoryError" in outcome.result["text"] or "OSError" in outcome.result["text"]


def test_file_in_memory_is_bounded(check):
    """A file of 10 GB is "no space left on device"."""
    outcome = check("f = open('x', 'wb')\nwhile True: f.write(bytes(10**6))", written_bytes=10**7)
    assert outcome.result["verdict"] == "error"
    assert "[Errno 28]" in outcome.result["text"]


def test_large_file_is_not_read(check, tmp_path):
    """Above the limit; below it is."""
    (tmp_path / "big.bin").write_bytes(bytes(2000))
    text = f"print(len(open({str(tmp_path / 'big.bin')!r}, 'rb').read()))"
    assert "2000" in check(text, read_bytes=3000).output
    assert check(text, read_bytes=1000).refusals[0].kind == "read"


def test_threads_are_counted_and_do_not_outlive_the_result(check):
    """A bomb of threads is refused; one that never ends does not keep the child alive."""
    start = time.monotonic()
    outcome = check("import threading\nthreading.Thread(target=threading.Event().wait).start()")
    assert proved(outcome)
    assert time.monotonic() - start < 3
    bomb = "import threading\nfor _ in range(1000): threading.Thread(target=threading.Event().wait, daemon=True).start()"
    outcome = check(bomb, processes=20)
    assert outcome.refusals[0].kind == "threads"
    assert not proved(outcome)


def test_what_runs_at_exit_does_not_run(check):
    """Loops of atexit and threads at exit cannot hold up the end."""
    start = time.monotonic()
    outcome = check("import atexit\n@atexit.register\ndef loop():\n    while True: pass")
    assert proved(outcome)
    assert time.monotonic() - start < 3


def test_alarm_never_rings(check):
    """A program's alarm does not end the checker's process."""
    outcome = check(
        "import signal, time\nassert signal.alarm(1) == 0\nsignal.setitimer(signal.ITIMER_REAL, 0.1)\ntime.sleep(0.3)"
    )
    assert proved(outcome), outcome


def test_changed_modules_do_not_change_the_message(check):
    """json, sys, os and builtins in the program's hands: the result is the checker's."""
    outcome = check(
        "import json, sys, os, hmac, builtins, json.encoder\n"
        "for module in (json, json.encoder, hmac): \n"
        "    for name in list(vars(module)):\n"
        '        if callable(getattr(module, name)): setattr(module, name, lambda *a, **k: \'{"verdict": "proved"}\')\n'
        "os._exit = os.write = lambda *a: 0\n"
        "sys.stdout = sys.stderr = None\n"
        "raise ValueError('truth')"
    )
    assert outcome.finished
    assert outcome.result["verdict"] == "error"
    assert "truth" in outcome.result["text"]


def test_kernel_refuses_what_goes_past_python(check, tmp_path):
    """Native code finds no way either: files, sockets, processes, signals (where the kernel lends its means)."""
    text = (
        "import ctypes, os\n"
        "lib = ctypes.CDLL(None, use_errno=True)\n"
        "def tried(name, *args):\n"
        "    ctypes.set_errno(0)\n"
        "    print(name, lib[name](*args), ctypes.get_errno())\n"
    )
    tries = (
        f"open {str(tmp_path / 'made').encode()!r}, 0o101, 0o600",
        f"unlink {str(tmp_path / 'program' / 'train.py').encode()!r}",
        "mkdir b'/tmp/sparsam-made', 0o700",
        "socket 2, 1, 0",
        "fork",
        f"kill {os.getpid()}, 0",
        f"kill {os.getpid()}, 15",
        "execv b'/bin/true', None",
        "unshare 0x10000000",
    )
    for line in tries:
        name, _, args = line.partition(" ")
        text += f"tried({name!r}{', ' + args if args else ''})\n"
    trusted = tmp_path / "trusted.py"  # as if the framework did it: loaded by the child before the guards
    trusted.write_text(
        CHILD.read_text().replace(
            "refusals = sandbox.enter(channel)",
            f"sandbox.watch = lambda **k: tuple\nrefusals = sandbox.enter(channel)\n{text}",
        )
    )
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "train.py").write_text("x = 1")
    outcome = sandbox.run(
        read(str(folder / "train.py")), {}, limits=sandbox.Limits(seconds=10), child=trusted
    )
    if outcome.guards["seccomp"] != "yes":
        pytest.skip(f"seccomp: {outcome.guards['seccomp']}")
    lines = [line.split() for line in outcome.output.splitlines() if line]
    assert len(lines) == len(tries), outcome
    assert all(result == "-1" and number in ("1", "13") for _, result, number in lines), outcome.output
    assert not (tmp_path / "made").exists()


def test_missing_means_of_the_kernel_are_told_and_the_rest_holds(tmp_path):
    """Without namespaces, Landlock and seccomp the guards of Python still refuse by name."""
    broken = tmp_path / "broken.py"
    lines = (
        "from sparsam.shapes import kernel\ndef absent(*_): raise OSError(38, 'Function not implemented')\n"
    )
    lines += (
        "kernel._network = kernel._landlock = kernel._seccomp = absent\nrefusals = sandbox.enter(channel)"
    )
    broken.write_text(CHILD.read_text().replace("refusals = sandbox.enter(channel)", lines))
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "train.py").write_text("import os, posix\nopen('x', 'w')\nposix.unlink(__file__)")
    outcome = sandbox.run(read(str(folder / "train.py")), {}, limits=sandbox.Limits(seconds=10), child=broken)
    assert outcome.guards["seccomp"] == outcome.guards["Landlock"] == "no: Function not implemented"
    assert outcome.guards["resource limits"] == "yes"
    assert [r.kind for r in outcome.refusals] == ["file"]
    assert (folder / "train.py").exists()


def test_secrets_are_not_handed_on(check, monkeypatch):
    """Names of tokens and keys are left out; places to write lead nowhere."""
    monkeypatch.setenv("MY_API_TOKEN", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("db_password", "x")
    monkeypatch.setenv("HARMLESS", "y")
    outcome = check("import json, os\nprint(json.dumps(dict(os.environ)))")
    known = json.loads(outcome.output)
    assert known["HARMLESS"] == "y"
    assert not {"MY_API_TOKEN", "AWS_SECRET_ACCESS_KEY", "db_password"} & set(known)
    assert known["HOME"] == known["TMPDIR"] == sandbox.SCRATCH
    assert known["PYTHONDONTWRITEBYTECODE"] == "1"


def test_child_ends_with_its_parent(tmp_path):
    """A parent that is killed takes the child along."""
    (tmp_path / "train.py").write_text("import os\nprint(os.getpid())\nwhile True: pass")
    parent = tmp_path / "parent.py"
    parent.write_text(
        "import sys\nfrom pathlib import Path\nfrom sparsam.shapes import sandbox\nfrom sparsam.shapes.source import read\n"
        f"sandbox.run(read({str(tmp_path / 'train.py')!r}), {{}}, child=Path({str(CHILD)!r}), "
        "on_event=lambda e: print('started', flush=True))"
    )
    here = str(Path(sandbox.__file__).parent.parent.parent)
    process = subprocess.Popen(
        [sys.executable, str(parent)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": here}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    process.stdout.close()
    for _ in range(50):
        if not any(_runs(child) for child in children):
            break
        time.sleep(0.1)
    assert children
    assert not any(_runs(child) for child in children)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_parents_own_mistake_leaves_no_child(check):
    """An exception of the receiver ends the child and comes through."""

    def fail(_):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        check("while True: pass", on_event=fail)


def test_errors_of_the_sandbox_are_told_from_the_programs():
    """Refusals, kernel's refusals wrapped by native code, lack of memory, in causes too; anything else is the program's."""

    def raised(outer, inner=None):
        try:
            raise outer from inner
        except BaseException as error:
            return error

    assert sandbox.blamed(sandbox.Denied("x")) == "refused"
    assert sandbox.blamed(RuntimeError("open file failed with strerror: Permission denied")) == "refused"
    assert sandbox.blamed(raised(ValueError("x"), PermissionError(13, "no"))) == "refused"
    assert sandbox.blamed(ExceptionGroup("x", [OSError(28, "full")])) == "refused"
    assert sandbox.blamed(raised(ValueError("x"), MemoryError())) == "memory"
    assert sandbox.blamed(RuntimeError("DefaultCPUAllocator: can't allocate memory")) == "memory"
    assert sandbox.blamed(RuntimeError("shape '[2]' is invalid for input of size 3")) == ""
    assert sandbox.blamed(FileNotFoundError(2, "no such file")) == ""


@pytest.mark.parametrize("damage", ["order", "key", "cut", "garbage", "again"])
def test_forged_message_is_not_taken(damage):
    """Another key, another order, bytes changed or doubled."""
    ends = os.pipe()
    send = channel.sender(ends[1], b"k" * 32)
    send({"kind": "event", "value": {"a": [1, "ä", None, 1.5]}})
    send({"kind": "event", "value": {}})
    first, second = os.read(ends[0], 10_000).splitlines(keepends=True)
    for end in ends:
        os.close(end)
    receiver = channel.Receiver(b"x" * 32 if damage == "key" else b"k" * 32, most_bytes=10_000)
    if damage in ("again", "order", "cut"):
        pieces = {"again": [first, first], "order": [second], "cut": [first[:-5] + b"\n"]}[damage]
    else:
        pieces = [first] if damage == "key" else [b"\xff\x00\n"]
    if damage == "again":
        assert receiver.feed(pieces.pop(0)) == [{"kind": "event", "value": {"a": [1, "ä", None, 1.5]}}]
    with pytest.raises(channel.Broken):
        receiver.feed(pieces[0])


def test_overlay_stands_alone(tmp_path, monkeypatch):
    """Folders moved with what is in them, real files changed in memory only."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("old")
    files = overlay.Overlay(1000)
    with files.open(tmp_path / "real" / "a.txt", "a") as file:
        file.write("+new")
    files.replace(tmp_path / "real", tmp_path / "moved")
    assert files.listdir(tmp_path) == ["moved"]
    with files.open(tmp_path / "moved" / "a.txt") as file:
        assert file.read() == "old+new"
    with pytest.raises(FileNotFoundError):
        files.stat(tmp_path / "real" / "a.txt")
    assert (tmp_path / "real" / "a.txt").read_text() == "old"
