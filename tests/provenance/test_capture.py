"""What is seen of a program's files, and that the program notices nothing."""

import io
import itertools
import mmap
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sparsam.provenance as provenance
from sparsam.provenance.capture.start import environment
from sparsam.provenance.graph import History
from sparsam.provenance.runs import names_of_runs
from sparsam.provenance.tracking import Selection


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; nobody tracks before or after."""
    monkeypatch.chdir(tmp_path)
    real = (open, io.open, os.open, os.rename, mmap.mmap)
    yield tmp_path
    assert (open, io.open, os.open, os.rename, mmap.mmap) == real
    assert "SPARSAM_TRACK" not in os.environ


def sources(found: History, path: Path | str) -> list[str]:
    """Names of what a file was made from, all the way."""
    entity = found.at(str(Path(path).resolve()))
    assert entity is not None, path
    return sorted(Path(found.entities[x].path).name for x in found.lineage(entity.id))


def counts(found: History, path: Path | str, kind: str) -> tuple[int, int]:
    """Calls and bytes of one kind on all generations of a file."""
    name = str(Path(path).resolve())
    calls = [x for x in found.calls.values() if x.kind == kind and name in found.entities[x.entity].names]
    return sum(x.count for x in calls), sum(x.bytes for x in calls)


MODES = sorted(
    {"".join(letters) for size in (1, 2, 3) for letters in itertools.permutations("rwaxbt+", size)}
    | {"", "rr", "q", "rU"}
)


def test_open_is_as_it_was(place: Path) -> None:
    """For every mode, buffering and newline: the same class, attributes, contents, or error."""

    def tried(mode: str, **more: Any) -> Any:
        for name, content in (("there", b"one\r\ntwo\nthree"), ("new", None)):
            target = place / name
            target.unlink(missing_ok=True)
            if content is not None:
                target.write_bytes(content)
            try:
                with warnings.catch_warnings(record=True) as told, open(name, mode, **more) as file:
                    warnings.simplefilter("always")
                    facts = [
                        type(file).__name__,
                        file.mode,
                        file.name,
                        file.readable(),
                        file.writable(),
                        file.seekable(),
                    ]
                    facts += [
                        getattr(file, x, None) for x in ("encoding", "errors", "newlines", "line_buffering")
                    ]
                    facts += [type(getattr(file, "buffer", None)).__name__, str([x.category for x in told])]
                    if file.readable():
                        facts.append(file.readline())
                        facts.append(file.read())
                    if file.writable():
                        facts.append(file.write(b"abc" if "b" in mode else "äbc\n"))
                        file.flush()
                        facts.append(file.tell())
                found.append([*facts, target.read_bytes()])
            except (OSError, ValueError, TypeError, LookupError) as error:
                found.append((type(error), str(error)))
        return None

    options: list[dict[str, Any]] = [
        {}, {"buffering": 0}, {"buffering": 1}, {"buffering": 512}, {"buffering": -2}, {"newline": ""}, {"newline": "\r\n"},
        {"newline": "x"}, {"encoding": "latin-1"}, {"errors": "strict"}, {"encoding": "no-such"}, {"closefd": False},
    ]  # fmt: skip
    found: list[Any] = []
    for mode in MODES:
        for more in options:
            tried(mode, **more)
    plain, found = found, []
    with provenance.run("r", folder=place / ".sparsam"):
        for mode in MODES:
            for more in options:
                tried(mode, **more)
    assert len(plain) > 4000 and found == plain


def test_what_is_read_and_written(place: Path) -> None:
    """Opened, read, written, with bytes and calls; a file written aside and moved keeps what it was made from."""
    (place / "a").write_bytes(b"x" * 100_000)
    (place / "b").write_text("b")
    with provenance.run("r"):
        Path("a").read_bytes()
        with open("c.tmp", "w") as file:
            for at in range(5000):
                print(at, file=file)
            file.flush()
            os.fsync(file.fileno())
        os.replace("c.tmp", "c")
        Path("b").read_text()
        with open("d", "wb", buffering=0) as raw:
            raw.write(b"12")
            raw.write(b"34")
    found = provenance.recorded()
    assert sources(found, "c") == ["a"] and sources(found, "d") == ["a", "b"]
    assert counts(found, "a", "read")[1] == 100_000
    assert (
        counts(found, "c", "write")[1] == (place / "c").stat().st_size and counts(found, "c", "fsync")[0] == 1
    )
    assert counts(found, "d", "write") == (2, 4) and counts(found, "d", "create")[0] == 1
    entity = found.at(str(place / "c"))
    assert entity is not None and [Path(x).name for x in entity.names] == ["c.tmp", "c"]
    assert entity.size == (place / "c").stat().st_size and not entity.unfinished


def test_the_ways_to_write(place: Path) -> None:
    """Append, change in place, truncate, copy, descriptors, temporary files, memory maps, links."""
    for name in "abcdefgh":
        (place / name).write_bytes(name.encode() * 5000)
    with provenance.run("r"):
        with provenance.scope("append"), open("out1", "w") as out:
            out.write(open("a").read())  # noqa: SIM115
        with provenance.scope("again"), open("out1", "a") as out:
            out.write(Path("b").read_text())
        with provenance.scope("in place"):
            Path("c").read_bytes()
            with open("out2", "w+b") as out:
                out.write(b"123")
                out.seek(0)
                assert out.read() == b"123"
        with provenance.scope("copy"):
            shutil.copyfile("d", "out3")
        with provenance.scope("descriptors"):
            source = os.open("e", os.O_RDONLY)
            target = os.open("out4", os.O_WRONLY | os.O_CREAT)
            os.write(target, os.read(source, 10))
            os.close(source)
            os.close(target)
        with provenance.scope("temporary"):
            Path("f").read_bytes()
            number, name = tempfile.mkstemp(dir=place)
            with os.fdopen(number, "w") as out:
                out.write("f")
            os.rename(name, "out5")
            with tempfile.NamedTemporaryFile("w", dir=place, delete=False) as out:
                out.write("f")
            os.link(out.name, "out6")
            os.unlink(out.name)
        with provenance.scope("map"):
            with open("g", "rb") as given, mmap.mmap(given.fileno(), 0, access=mmap.ACCESS_READ) as seen:
                content = seen[:10]
            with open("out7", "wb") as out:
                out.truncate(10)
            with open("out7", "r+b") as out, mmap.mmap(out.fileno(), 0) as seen:
                seen[:] = content
    found = provenance.recorded()
    for name, wanted in (
        ("out2", ["c"]), ("out3", ["d"]), ("out4", ["e"]), ("out5", ["f"]), ("out6", ["f"]),
    ):  # fmt: skip
        assert sources(found, name) == wanted, name
    assert sources(found, "out1") == ["a", "b", "out1"] and set(sources(found, "out7")) == {"g", "out7"}
    assert counts(found, "out4", "write") == (1, 10) and counts(found, "e", "read") == (1, 10)


def test_errors_are_the_program_s_own(place: Path) -> None:
    """A file that is missing fails as ever, and the attempt is counted where the file was known."""
    with provenance.run("r"):
        with pytest.raises(FileNotFoundError) as error:
            open("missing")  # noqa: SIM115
        assert error.value.filename == "missing"
        with pytest.raises(IsADirectoryError):
            open(place)  # noqa: SIM115
        Path("x").write_text("x")
        with pytest.raises(FileExistsError):
            open("x", "x")  # noqa: SIM115
    found = provenance.recorded()
    assert found.at(str(place / "missing")) is None
    assert sum(x.failed for x in found.calls.values()) == 1


def run(place: Path, code: str, status: int = 0) -> None:
    """A program in a process of its own, tracked."""
    script = place / "program.py"
    script.write_text(code)
    told = environment(str(place / ".sparsam"), f"run-{len(provenance_runs(place))}", Selection(), None)
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=place,
        env=os.environ | told,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr


def provenance_runs(place: Path) -> list[str]:
    """Runs so far."""
    return names_of_runs(place / ".sparsam")


def test_programs_that_a_program_starts(place: Path) -> None:
    """They are tracked, too, know their parent, and share nothing but files with it."""
    for name in ("a", "b"):
        (place / name).write_text(name)
    run(
        place,
        "import subprocess, sys\nopen('a').read()\n"
        "subprocess.run([sys.executable, '-c', \"open('x', 'w').write(open('b').read())\"], check=True)\n",
    )
    found = provenance.recorded()
    assert sources(found, "x") == ["b"]
    (child,) = [x for x in found.programs.values() if x.parent]
    assert child.parent in found.programs and not child.forked and child.ended is not None
    assert found.programs[child.parent].run == child.run


def test_workers_share_memory_with_their_parent(place: Path) -> None:
    """What forked workers read is in what their parent writes; each has a log of its own."""
    for at in range(4):
        (place / f"in{at}").write_text("x")
    run(
        place,
        "import multiprocessing, pathlib\n"
        "def load(at): return pathlib.Path(f'in{at}').read_text()\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool: found = pool.map(load, range(4))\n"
        "    pathlib.Path('out').write_text(''.join(found))\n",
    )
    found = provenance.recorded()
    assert sources(found, "out") == [f"in{at}" for at in range(4)]
    assert sum(x.forked for x in found.programs.values()) >= 2


def test_spawned_workers_are_tracked(place: Path) -> None:
    """multiprocessing's other way to start."""
    assert "spawn" in multiprocessing.get_all_start_methods()
    (place / "in").write_text("x")
    run(
        place,
        "import multiprocessing, pathlib\n"
        "def load(name): pathlib.Path('w').write_text(pathlib.Path(name).read_text())\n"
        "if __name__ == '__main__':\n"
        "    one = multiprocessing.get_context('spawn').Process(target=load, args=('in',)); one.start(); one.join()\n",
    )
    assert sources(provenance.recorded(), "w") == ["in"]


def test_programs_that_end_badly(place: Path) -> None:
    """By an exception, by os._exit, by exec: what they did is recorded."""
    (place / "a").write_text("a")
    run(place, "open('a').read()\nopen('one', 'w').write('1')\nraise SystemExit(3)\n", status=3)
    run(
        place,
        "import os\nopen('a').read()\nf = open('two', 'w'); f.write('1'); f.flush()\nos._exit(4)\n",
        status=4,
    )
    run(
        place,
        "import os, sys\nopen('a').read()\nf = open('three', 'w'); f.write('1'); f.close()\n"
        "os.execv(sys.executable, [sys.executable, '-c', \"open('four', 'w').write(open('three').read())\"])\n",
    )
    found = provenance.recorded()
    assert [sources(found, x) for x in ("one", "two", "three")] == [["a"]] * 3
    assert sources(found, "four") == ["a", "three"]


def test_a_program_s_own_sitecustomize_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours goes first and hands over."""
    (place / "mine").mkdir()
    (place / "mine" / "sitecustomize.py").write_text("import builtins\nbuiltins.mine = 'here'\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place / "mine"), *filter(None, sys.path)]))
    with provenance.run("r"):
        said = subprocess.run(
            [sys.executable, "-c", "import os; print(mine); open('x', 'w').write('x')"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert said.stdout == "here\n"
    assert provenance.recorded().at(str(place / "x")) is not None


def test_what_is_selected(place: Path) -> None:
    """Patterns of paths, and classes switched off."""
    chosen = Selection(off=frozenset({"duration", "directory"}), exclude=("*.log", *Selection().exclude))
    with provenance.run("r", selection=chosen):
        for name in ("a.txt", "a.log"):
            Path(name).write_text("x")
        Path("d").mkdir()
    found = provenance.recorded()
    assert found.at(str(place / "a.txt")) is not None and found.at(str(place / "a.log")) is None
    assert not [x for x in found.entities.values() if x.kind == "directory"]
    assert all(x.seconds == 0 for x in found.calls.values())
    with provenance.run("s", selection=Selection(include=("*/kept/*",))):
        Path("kept").mkdir()
        Path("kept/x").write_text("x")
        Path("y").write_text("y")
    found = provenance.recorded(runs=["s"])
    assert found.at(str(place / "kept/x")) is not None and found.at(str(place / "y")) is None


def test_hot_names_are_sampled_and_counted(place: Path) -> None:
    """The counts are exact, what was read is known, and writes are never left out."""
    for name in ("hot", "cold"):
        (place / name).write_text(name)
    with provenance.run("r", selection=Selection(every=50)) as tracker:
        for _ in range(1000):
            assert open("hot").read() == "hot"  # noqa: SIM115
        Path("cold").read_text()
        for at in range(30):
            Path("out").write_text(str(at))
    found = provenance.recorded()
    assert counts(found, "hot", "open")[0] == 1000 and counts(found, "cold", "open")[0] == 1
    assert sources(found, "out") == ["cold", "hot"]
    entity = found.at(str(place / "out"))
    assert entity is not None and entity.generation == 30
    opens = [x for x in provenance.read_all(tracker.log.folder).records if x.kind == "open"]
    assert len(opens) == 16 + 1000 // 50 + 1 + 30


def test_what_users_say(place: Path) -> None:
    """Types, settings, results, and derivations by word."""
    (place / "a").write_text("a")
    with provenance.run("r"):
        provenance.record_type("Machine Learning")
        provenance.record_config({"rate": 0.1, "layers": [1, 2]})
        with provenance.scope("epoch 1"):
            provenance.record_metric("accuracy", 0.5)
        Path("out").write_text("x")
        provenance.record_derived("out", ["a"])
    found = provenance.recorded()
    (program,) = found.programs.values()
    assert program.types == ["Machine Learning"] and program.configuration == {"rate": 0.1, "layers": [1, 2]}
    ((_, name, value, scope),) = program.metrics
    assert (name, value) == ("accuracy", 0.5) and program.scopes[str(scope)][0] == "epoch 1"
    assert sources(found, "out") == ["a"]
    provenance.record_metric("nobody listens", 1)


def test_hdf5_and_what_lies_in_it(place: Path) -> None:
    """Files, groups, datasets, attributes, datatypes and links, each with its calls; derivation through the file."""
    h5py = pytest.importorskip("h5py")
    import numpy as np

    (place / "raw.bin").write_bytes(np.arange(100.0).tobytes())
    with provenance.run("r"):
        with provenance.scope("convert"), h5py.File("one.h5", "w") as file:
            values = np.fromfile("raw.bin")
            group = file.create_group("g")
            data = group.create_dataset("x", data=values)
            data[:10] = 0
            group.attrs["unit"] = "m"
            file["t"] = np.dtype("f8")
            file["soft"] = h5py.SoftLink("/g/x")
            file.flush()
        with provenance.scope("analyse"), h5py.File("one.h5", "r") as file, h5py.File("two.h5", "w") as out:
            assert file["g"].attrs["unit"] == "m"
            out.create_dataset("mean", data=file["g/x"][:].mean())
        with provenance.scope("append"), h5py.File("two.h5", "a") as out:
            out["more"] = np.ones(3)
    found = provenance.recorded()
    assert sources(found, "one.h5") == ["raw.bin"]
    assert sources(found, "two.h5") == ["one.h5", "raw.bin", "two.h5"]
    kinds = {
        (found.entities[x.entity].kind, found.entities[x.entity].path, x.kind) for x in found.calls.values()
    }
    for wanted in (
        ("group", "/g", "create"), ("dataset", "/g/x", "create"), ("dataset", "/g/x", "write"), ("dataset", "/g/x", "read"),
        ("attribute", "/g@unit", "write"), ("attribute", "/g@unit", "read"), ("datatype", "/t", "create"),
        ("link", "/soft", "create"), ("dataset", "/mean", "create"), ("dataset", "/more", "create"),
    ):  # fmt: skip
        assert wanted in kinds, wanted
    written = [
        x for x in found.calls.values() if (found.entities[x.entity].path, x.kind) == ("/g/x", "write")
    ]
    assert sum(x.bytes for x in written) >= 800


def test_libraries_that_open_files_in_c(place: Path) -> None:
    """safetensors, torch.save and torch.load, NumPy, Parquet by pyarrow and pandas' way through it."""
    import numpy as np
    import pyarrow
    import pyarrow.parquet
    import safetensors.numpy
    import torch

    (place / "seed").write_text("1")
    with provenance.run("r"):
        with provenance.scope("1"):
            Path("seed").read_text()
            safetensors.numpy.save_file({"w": np.ones(3)}, "a.safetensors")
        with provenance.scope("2"):
            safetensors.numpy.load_file("a.safetensors")
            torch.save({"w": torch.ones(3)}, "b.pt")
        with provenance.scope("3"):
            torch.load("b.pt", weights_only=True)
            np.save("c.npy", np.ones(3))
        with provenance.scope("4"):
            np.load("c.npy", mmap_mode="r")
            pyarrow.parquet.write_table(pyarrow.table({"x": [1, 2]}), "d.parquet")
        with provenance.scope("5"):
            pyarrow.parquet.read_table("d.parquet")
            Path("e").write_text("e")
    found = provenance.recorded()
    assert sources(found, "e") == ["a.safetensors", "b.pt", "c.npy", "d.parquet", "seed"]


def test_tracking_is_light(place: Path) -> None:
    """A tracked program imports no torch, numpy, dataclasses or sparsam's stack on our account."""
    heavy = ("torch", "numpy", "dataclasses", "sparsam")
    code = f"import sys; print(*sorted(x for x in sys.modules if x.split('.')[0] in {heavy}))"
    with provenance.run("r"):
        said = subprocess.run(
            [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        ours = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    more = set(ours) - set(said)
    assert "sparsam.provenance.capture.start" in more
    assert not more & {
        "torch",
        "numpy",
        "sparsam.provenance.graph",
        "sparsam.provenance.log",
        "sparsam.plugin",
    }


def test_random_programs_on_real_files(place: Path) -> None:
    """Forty programs that read, write, append, rename, link and copy: lineage is what they did."""
    import random

    draw = random.Random(5)
    truth: dict[str, set[str]] = {}
    content: dict[str, str] = {}
    for at in range(5):
        (place / f"raw{at}").write_text(f"<raw{at}>")
        content[f"raw{at}"] = f"<raw{at}>"
        truth[f"raw{at}"] = set()
    with provenance.run("r"):
        for step in range(40):
            with provenance.scope(f"step {step}"):
                names = draw.sample(sorted(content), 2)
                text = "".join(Path(x).read_text() for x in names)
                made = {
                    x for name in names for x in (truth[name] | ({name} if name.startswith("raw") else set()))
                }
                new, how = f"f{step}", draw.choice(["write", "copy", "aside", "link"])
                if how == "copy":
                    shutil.copy(names[0], new)
                    text = content[names[0]]
                elif how == "aside":
                    Path("tmp").write_text(text)
                    os.replace("tmp", new)
                elif how == "link":
                    Path("tmp2").write_text(text)
                    os.link("tmp2", new)
                    os.remove("tmp2")
                else:
                    Path(new).write_text(text)
                truth[new], content[new] = made, text
    found = provenance.recorded()
    for name, made in truth.items():
        if name.startswith("f"):
            entity = found.at(str(place / name))
            assert entity is not None
            raw = {Path(found.entities[x].path).name for x in found.lineage(entity.id)}
            assert {x for x in raw if x.startswith("raw")} == made
            assert Path(name).read_text() == content[name]


def test_nothing_hangs_where_files_close_inside_of_a_record(place: Path) -> None:
    """A finalizer closes a file, and a signal handler opens one, while a record is being made."""
    (place / "in").write_text("x")
    run(
        place,
        "import gc, signal\n"
        "class C: pass\n"
        "gc.set_threshold(50, 2, 2)\n"
        "signal.signal(signal.SIGALRM, lambda *a: open('in').close())\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\n"
        "for at in range(5000):\n    c = C(); c.me = c; c.f = open('in', 'rb'); del c\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n",
    )
    assert not provenance.read_all(place / ".sparsam" / "runs" / "run-0").damages


def test_functions_are_pickled_and_stand_in_classes_as_before(place: Path) -> None:
    """``pool.map(os.remove, …)``; ``open`` as a class attribute; what a function can do; symlinks under ``rmtree``."""
    import pickle

    class Opener:
        op = open

    (place / "a").write_text("a")
    with provenance.run("r"):
        for function in (open, os.remove, os.rename, os.read, os.open):
            assert pickle.loads(pickle.dumps(function)) is function  # noqa: S301 - our own
        assert Opener().op("a").read() == "a"
        assert os.open in os.supports_dir_fd and os.stat in os.supports_follow_symlinks
        (place / "d" / "e").mkdir(parents=True)
        (place / "d" / "e" / "x").write_text("x")
        shutil.rmtree(place / "d")
    assert not (place / "d").exists() and repr(os.remove) == "<built-in function remove>"


def test_files_left_open_are_whole_in_the_records(place: Path) -> None:
    """The interpreter writes what is in their buffers only after the last function has run."""
    (place / "in").write_text("x")
    run(place, "f = open('out', 'a'); f.write(open('in').read() * 100)\n")
    found = provenance.recorded()
    entity = found.at(str(place / "out"))
    assert sources(found, "out") == ["in"] and entity is not None and entity.size == 100


def test_a_scope_reaches_threads_and_forked_workers(place: Path) -> None:
    """They read for whoever is in it."""
    for name in ("in1", "in2"):
        (place / name).write_text("x")
    run(
        place,
        "import os, threading\nimport sparsam.provenance as p\n"
        "with p.scope('s'):\n"
        "    one = threading.Thread(target=lambda: open('in1').read()); one.start(); one.join()\n"
        "    child = os.fork()\n"
        "    if not child:\n        open('in2').read(); os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "    with open('out', 'w') as out: out.write('x')\n",
    )
    assert sources(provenance.recorded(), "out") == ["in1", "in2"]


def test_times_set_by_the_program_are_no_change(place: Path) -> None:
    """``shutil.copy2`` keeps the chain; a file that was left out and gets a name that is not is seen."""
    (place / "in").write_text("x")
    left_out = Selection(exclude=("*.tmp", *Selection().exclude))
    with provenance.run("r", selection=left_out):
        shutil.copy2("in", "copy")
        Path("out.tmp").write_text("x")
        os.replace("out.tmp", "out")
    with provenance.run("s"):
        Path("next").write_text(Path("copy").read_text())
    found = provenance.recorded()
    assert sources(found, "next") == ["copy", "in"] and found.at(str(place / "out")) is not None


def test_what_was_written_is_on_disk_when_it_is_closed(place: Path) -> None:
    """A program that is killed while it waits has told of its files."""
    (place / "in").write_text("x")
    code = (
        "import os, signal\nopen('out', 'w').write(open('in').read())\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run(place, code, status=-9)
    assert sources(provenance.recorded(), "out") == ["in"]


def test_a_name_within_an_open_folder(place: Path) -> None:
    """``dir_fd``: the file is the one in that folder."""
    for folder in ("one", "two"):
        (place / folder).mkdir()
        (place / folder / "x").write_text(folder)
    with provenance.run("r"):
        number = os.open("two", os.O_RDONLY)
        os.close(os.open("x", os.O_RDONLY, dir_fd=number))
        os.close(number)
    found = provenance.recorded()
    assert found.at(str(place / "two" / "x")) is not None and found.at(str(place / "x")) is None
