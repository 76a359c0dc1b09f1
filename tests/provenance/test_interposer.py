"""What is seen of programs that are not Python and of C libraries, and that they notice nothing."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sparsam.provenance as provenance
from sparsam.provenance.capture import native
from sparsam.provenance.graph import History
from sparsam.provenance.tracked import Tracked, track
from sparsam.provenance.tracking import Selection

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not shutil.which("cc"), reason="wants Linux and a C compiler"
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two small files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("3\n1\n2\n")
    (tmp_path / "b").write_text("5\n4\n")
    return tmp_path


def sources(found: History, name: str) -> list[str]:
    """Names of what a file was made from, all the way, itself left out."""
    entity = found.at(str(Path(name).resolve()))
    assert entity is not None, name
    return sorted({Path(found.entities[x].path).name for x in found.lineage(entity.id)} - {name})


def calls(found: History, name: str, kind: str) -> tuple[int, int]:
    """Calls and bytes of one kind on a file."""
    path = str(Path(name).resolve())
    these = [x for x in found.calls.values() if x.kind == kind and path in found.entities[x.entity].names]
    return sum(x.count for x in these), sum(x.bytes for x in these)


def shell(text: str, **more: Any) -> Tracked:
    made = track(["sh", "-c", text], native=True, **more)
    assert not made.merged.damages and not made.merged.lost
    return made


def built(place: Path, name: str, text: str, *flags: str) -> str:
    """A program in C."""
    (place / f"{name}.c").write_text(text)
    subprocess.run(["cc", "-w", *flags, f"{name}.c", "-o", name], cwd=place, check=True)
    return str(place / name)


def test_a_shell_s_three_steps(place: Path) -> None:
    """Sorted, copied, compressed: all the way back, each by its program, and nothing is said to have come unseen."""
    found = shell("sort a > out; cp out c; gzip -k c").found
    assert sources(found, "c.gz") == ["a", "c", "out"] and sources(found, "c") == ["a", "out"]
    makers = {
        Path(x.path).name: found.programs[str(x.by)].facts["argv"][0] for x in found.entities.values() if x.by
    }
    assert makers["c"] == "cp" and makers["c.gz"] == "gzip" and makers["out"] == "sort"
    assert not [x for x in found.entities.values() if x.outside or x.unfinished]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("cat a | tr 1 9 > out", ["a"]),
        ("cat a b | sort | uniq | head -n 1 > out", ["a", "b"]),
        ("sort b | cat - /dev/zero | head -n 1 > out", ["b"]),
        ("{ cat a; cat b; } > out", ["a", "b"]),
        ("cat a > out; cat b >> out", ["a", "b"]),
        ("sort < a > out", ["a"]),
        ("sort -o out a", ["a"]),
        ("x=$(cat a); echo $x > out", ["a"]),
        ("while read x; do echo $x; done < a > out", ["a"]),
        ("tar cf t.tar a; rm a; tar xf t.tar; mv a out", ["a", "t.tar"]),
        ("tar czf out a b", ["a", "b"]),
        ("cp a out; sed -i s/1/9/ out", ["a"]),
        ("ln a x; cat x > out", ["a"]),
        ("ln -s a x; cp x out", ["a"]),
        ("mkfifo f; cat a > f & cat f > out; wait", ["a"]),
        ("dd if=a of=out 2>/dev/null", ["a"]),
        ("exec 3< a; cat <&3 > out", ["a"]),
        ("cat a > tmp; mv tmp out; rm -f tmp", ["a"]),
        ("awk '{print > \"out\"}' a b", ["a", "b"]),
        ("split -n 1 a part; mv partaa out", ["a"]),
        ("tee x < a > out", ["a"]),
        ("cat b > /dev/null; (cat a) | (cat; true) > out", ["a"]),
    ],
)
def test_ways_of_the_shell(place: Path, text: str, wanted: list[str]) -> None:
    """Pipes, redirections, subshells, here and there: what was made from what."""
    found = shell(text).found
    assert [x for x in sources(found, "out") if x not in ("tmp", "x", "f", "partaa")] == wanted


def test_programs_share_files_and_pipes_alone(place: Path) -> None:
    """What another program beside it reads is in none of its files."""
    found = shell("cat b > x; cat a > y").found
    assert sources(found, "y") == ["a"] and sources(found, "x") == ["b"]


def test_what_a_shell_opened_for_a_program_is_the_program_s(place: Path) -> None:
    """A generation of each; nobody unseen is blamed for what the program wrote before its handle was told of."""
    found = shell("sort a | uniq > out").found
    made = [x for x in found.entities.values() if Path(x.path).name == "out"]
    assert [(x.generation, x.size) for x in made] == [(1, 0), (2, 6)]
    assert not any(x.outside for x in found.entities.values())


def test_a_pipe_to_python_and_back(place: Path) -> None:
    """What a program says to its parent is in what the parent writes; what it is told is in what it writes."""
    code = (
        "import subprocess\n"
        "said = subprocess.run(['sort', 'a'], capture_output=True).stdout\n"
        "open('out', 'wb').write(said)\n"
        "given = open('b', 'rb').read()\n"
        "subprocess.run(['sh', '-c', 'cat > other'], input=given, check=True)\n"
    )
    found = track([sys.executable, "-c", code], native=True).found
    assert sources(found, "out") == ["a"] and sources(found, "other") == ["a", "b"]


def test_calls_and_bytes(place: Path) -> None:
    """Of every function that moves bytes, in C; what goes through stdio is told by the file's offset."""
    program = built(
        place, "moves",
        """
        #define _GNU_SOURCE
        #include <fcntl.h>
        #include <stdio.h>
        #include <sys/mman.h>
        #include <sys/sendfile.h>
        #include <sys/uio.h>
        #include <unistd.h>
        #include <string.h>
        int main(void) {
            char bytes[100]; memset(bytes, 'x', 100);
            struct iovec two[2] = {{bytes, 10}, {bytes, 20}};
            int in = open("in", O_RDWR | O_CREAT | O_TRUNC, 0666);
            write(in, bytes, 100); pwrite(in, bytes, 50, 100); writev(in, two, 2);
            fsync(in); fdatasync(in); close(in);
            in = open("in", O_RDONLY); read(in, bytes, 7); pread(in, bytes, 5, 0); readv(in, two, 2);
            int out = creat("sent", 0666); lseek(in, 0, SEEK_SET);
            sendfile(out, in, NULL, 40); close(out);
            out = openat(AT_FDCWD, "copied", O_WRONLY | O_CREAT, 0666); off_t at = 0;
            copy_file_range(in, &at, out, NULL, 30, 0); close(out);
            out = open("mapped", O_RDWR | O_CREAT, 0666); ftruncate(out, 10);
            char *map = mmap(NULL, 10, PROT_READ | PROT_WRITE, MAP_SHARED, out, 0); memset(map, 'm', 10); munmap(map, 10);
            close(out); close(in);
            FILE *file = fopen("stdio", "w"); for (int i = 0; i < 5000; i++) fprintf(file, "%d\\n", i); fclose(file);
            file = fopen("stdio", "r"); while (fgets(bytes, 100, file)) ; fclose(file);
            truncate("sent", 4); rename("sent", "moved"); link("moved", "linked"); unlink("moved"); mkdir("folder", 0777);
            return 0;
        }""",
    )  # fmt: skip
    found = track([program], native=True).found
    assert calls(found, "in", "write") == (3, 180) and calls(found, "in", "fsync")[0] == 2
    assert calls(found, "in", "read") == (5, 7 + 5 + 30 + 40 + 30)
    assert calls(found, "copied", "write") == (1, 30) and calls(found, "mapped", "write")[0] >= 1
    size = (place / "stdio").stat().st_size
    assert calls(found, "stdio", "write") == (1, size) and calls(found, "stdio", "read") == (1, size)
    entity = found.at(str(place / "linked"))
    assert entity is not None and entity.size == 4 and entity.generation == 2
    assert [Path(x).name for x in entity.names] == ["sent", "moved", "linked"]
    assert any(x.kind == "directory" and x.path == str(place / "folder") for x in found.entities.values())


def test_c_libraries_inside_python(place: Path) -> None:
    """SQLite and the C library itself by ctypes: seen, in the program's own name; Python's own files are counted once."""
    code = (
        "import ctypes, os, sqlite3\n"
        "libc = ctypes.CDLL(None)\n"
        "number = libc.open(b'a', 0); libc.read(number, ctypes.create_string_buffer(4), 4); libc.close(number)\n"
        "base = sqlite3.connect('base.db'); base.execute('create table t (x)'); base.commit(); base.close()\n"
        "open('out', 'w').write(open('b').read())\n"
        "n = os.open('low', os.O_WRONLY | os.O_CREAT); os.write(n, b'12'); os.close(n)\n"
        "print('said', flush=True)\n"
    )
    with open("said", "w") as said:
        made = track_to(said, [sys.executable, "-c", code])
    found = made.found
    assert sources(found, "out") == ["a", "b"] and calls(found, "a", "read") == (1, 4)
    assert sources(found, "base.db") == ["a"]
    assert calls(found, "b", "read")[1] == 4 and calls(found, "out", "write") == (1, 4)
    assert calls(found, "low", "write") == (1, 2)
    assert sources(found, "said") == ["a", "b"] and calls(found, "said", "write")[1] == 5
    assert len(found.programs) == 2  # sparsam's own and this one, whose records lie in two logs


def track_to(out: Any, command: list[str]) -> Tracked:
    """Tracked, standard output led elsewhere."""
    before = os.dup(1)
    os.dup2(out.fileno(), 1)
    try:
        return track(command, native=True)
    finally:
        os.dup2(before, 1)
        os.close(before)


def test_c_libraries_inside_forked_workers(place: Path) -> None:
    """What they read there is in what their parent writes; they are programs of their own, each once."""
    (place / "program.py").write_text(
        "import ctypes, multiprocessing, pathlib\n"
        "def load(name):\n"
        "    libc, room = ctypes.CDLL(None), ctypes.create_string_buffer(9)\n"
        "    number = libc.open(name.encode(), 0); libc.read(number, room, 9); libc.close(number)\n"
        "    return room.value.decode()\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool: found = pool.map(load, ['a', 'b'], 1)\n"
        "    pathlib.Path('out').write_text(''.join(found))\n"
    )
    made = track([sys.executable, "program.py"], native=True)
    assert sources(made.found, "out") == ["a", "b"] and (place / "out").read_text() == "3\n1\n2\n5\n4\n"
    assert sum(x.forked for x in made.found.programs.values()) == 2 and len(made.found.programs) == 4


def test_a_library_s_file_counts_once(place: Path) -> None:
    """HDF5, Parquet, safetensors and torch.save by their wrappers; C code that opens the same file is not told of again."""
    pytest.importorskip("h5py")
    code = (
        "import h5py, numpy as np, pyarrow, pyarrow.parquet as pq, safetensors.numpy as st\n"
        "table = pyarrow.table({'x': np.arange(10000)})\n"
        "pq.write_table(table, 'q'); pq.read_table('q')\n"
        "with h5py.File('h', 'w') as file: file['x'] = np.ones(1000)\n"
        "with h5py.File('h') as file: file['x'][:]\n"
        "for _ in range(2): st.save_file({'x': np.ones(1000)}, 's'); st.load_file('s')\n"
    )
    for way in (True, False):
        made = track([sys.executable, "-c", code], native=way, run=f"native-{way}")
        found = made.found
        size = (place / "q").stat().st_size
        assert calls(found, "q", "write") == (1, size) and calls(found, "q", "read") == (1, size)
        assert calls(found, "h", "create")[0] == 1 - (not way) and calls(found, "h", "open")[0] == 1 + (
            not way
        )
        size = (place / "s").stat().st_size
        assert calls(found, "s", "write") == (2, 2 * size)
        assert [x.generation for x in found.entities.values() if x.names[-1] == str(place / "s")][-1] == 2
        assert not [x.path for x in found.entities.values() if x.outside]


def test_descriptors_that_were_doubled(place: Path) -> None:
    """A file is closed when its last descriptor is: what was read in between is in it."""
    code = (
        "import os\n"
        "with open('out', 'w') as file:\n"
        "    kept = os.dup(file.fileno())\n"
        "second = os.open('more', os.O_WRONLY | os.O_CREAT)\n"
        "os.dup2(second, 77); os.close(second)\n"
        "text = open('a', 'rb').read()\n"
        "os.write(kept, text); os.close(kept); os.write(77, text); os.close(77)\n"
        "open('b').read()\n"
        "open('c', 'w').close()\n"
    )
    for way in (True, False):
        found = track([sys.executable, "-c", code], native=way, run=f"native-{way}").found
        for name in ("out", "more"):
            assert set(sources(found, name)) <= {"a"} | ({"b", "c", "more", "out"} if way is False else set())
            assert "a" in sources(found, name) and calls(found, name, "write") == (1, 6)
        for name in ("out", "more", "c"):
            os.remove(name)


@pytest.mark.parametrize("way", ["spawn", "forkserver"])
@pytest.mark.parametrize("interposed", [True, False])
def test_started_workers_read_for_their_parent(place: Path, way: str, interposed: bool) -> None:
    """What they hand back is in what the parent writes, whether or not C code looks on."""
    (place / "program.py").write_text(
        "import multiprocessing, pathlib\n"
        "def load(name): return pathlib.Path(name).read_text()\n"
        "if __name__ == '__main__':\n"
        f"    with multiprocessing.get_context('{way}').Pool(2) as pool: found = pool.map(load, ['a', 'b'])\n"
        "    pathlib.Path('out').write_text(''.join(found))\n"
    )
    found = track([sys.executable, "program.py"], native=interposed).found
    assert sources(found, "out") == ["a", "b"]


def test_threads_and_forks_in_c(place: Path) -> None:
    """Eight threads write 200 files each, then four forked children do: every one is in the log once, finished."""
    program = built(
        place, "many",
        """
        #include <fcntl.h>
        #include <pthread.h>
        #include <stdio.h>
        #include <sys/wait.h>
        #include <unistd.h>
        static void *work(void *at) {
            char name[40];
            for (int i = 0; i < 200; i++) {
                sprintf(name, "f-%ld-%d", (long)at, i);
                int fd = open(name, O_WRONLY | O_CREAT, 0666); write(fd, name, 10); close(fd);
            }
            return NULL;
        }
        int main(void) {
            pthread_t all[8];
            mkdir("d", 0777); chdir("d");
            for (long at = 0; at < 8; at++) pthread_create(&all[at], NULL, work, (void *)at);
            for (int at = 0; at < 8; at++) pthread_join(all[at], NULL);
            for (long at = 8; at < 12; at++) if (!fork()) { work((void *)at); _exit(0); }
            while (wait(NULL) > 0);
            return 0;
        }""",
        "-pthread",
    )  # fmt: skip
    made = track([program], native=True, hashes="none")
    files = [x for x in made.found.entities.values() if "/d/f-" in x.path]
    assert len(files) == 2400 and all(x.generation == 1 and x.size == 10 and not x.unfinished for x in files)
    assert sum(x.forked for x in made.found.programs.values()) == 4


def test_signals_in_the_middle(place: Path) -> None:
    """A handler that opens files while one is being recorded: nothing hangs, all is told."""
    program = built(
        place, "signals",
        """
        #include <fcntl.h>
        #include <signal.h>
        #include <sys/time.h>
        #include <unistd.h>
        static volatile int handled;
        static void handler(int number) { int fd = open("b", O_RDONLY); if (fd >= 0) close(fd); handled++; }
        int main(void) {
            struct itimerval fast = {{0, 200}, {0, 200}};
            signal(SIGALRM, handler); setitimer(ITIMER_REAL, &fast, 0);
            for (int at = 0; at < 5000; at++) { int fd = open("a", O_RDONLY); if (fd >= 0) close(fd); }
            signal(SIGALRM, SIG_IGN);
            return handled == 0;
        }""",
    )  # fmt: skip
    made = track([program], native=True)
    assert made.status == 0 and calls(made.found, "a", "open")[0] == 5000
    assert calls(made.found, "b", "open")[0] > 0 and not made.merged.damages


def test_a_shell_that_is_killed_is_still_the_parent(place: Path) -> None:
    """What it started knows it, up to the command that was tracked."""
    made = track(["bash", "-c", "cat a > out; kill -9 $$"], native=True)
    assert made.status == 137 and sources(made.found, "out") == ["a"]
    found = made.found
    entity = found.at(str(place / "out"))
    assert entity is not None
    maker = found.programs[str(entity.by)]
    assert maker.facts["argv"] == ["cat", "a"]
    assert found.programs[str(maker.parent)].facts["argv"][0].endswith("bash")
    assert found.programs[str(found.programs[str(maker.parent)].parent)].parent is None


def test_the_compiler_s_own_programs(place: Path) -> None:
    """A program is made from its source, through what the compiler's parts hand to one another."""
    (place / "one.h").write_text("#define X 1\n")
    (place / "one.c").write_text('#include "one.h"\nint main(void) { return X; }\n')
    found = track(["cc", "one.c", "-o", "one"], native=True).found
    assert {"one.c", "one.h"} <= set(sources(found, "one"))


def test_what_is_selected_in_c(place: Path) -> None:
    """Patterns and classes as in Python."""
    chosen = Selection(off=frozenset({"duration", "directory"}), exclude=("*.log", *Selection().exclude))
    found = shell("cat a > x.log; cat a > y; mkdir d", selection=chosen).found
    assert found.at(str(place / "x.log")) is None and sources(found, "y") == ["a"]
    assert not [x for x in found.entities.values() if x.kind == "directory"]
    assert all(x.seconds == 0 for x in found.calls.values())
    found = shell("cat a > y; cat b > z", selection=Selection(include=("*/b", "*/z"))).found
    assert found.at(str(place / "a")) is None and sources(found, "z") == ["b"]


def test_it_is_built_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whoever comes first, in the user's cache; where that cannot be written, beside the records."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    first = native.library(place / ".sparsam")
    when = os.stat(first).st_mtime_ns
    assert native.library(place / ".sparsam") == first and os.stat(first).st_mtime_ns == when
    assert first.startswith(str(place / "cache")) and ctypes.CDLL(first).sparsam_claim(b"x") == 0
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert native.library(place / ".sparsam").startswith(str(place / ".sparsam"))


def test_names_that_are_no_text_in_c(place: Path) -> None:
    """Bytes that are no UTF-8, line breaks, escapes: as Python's capture writes them."""
    names = [b"\xff\xfe", b"a\nb", b"\x1b[31m", "\u202e\u00e9".encode(), b'"\\', b"\xed\xa0\x80", b"\xe2\x82"]
    for name in names:
        (place / "one").write_text("x")
        os.rename("one", name)
    copied = [b"copy" + name for name in names]
    script = b"\n".join(b"cp '" + name + b"' '" + new + b"'" for name, new in zip(names, copied, strict=True))
    (place / "script").write_bytes(script)
    found = track(["sh", "script"], native=True).found
    code = f"import sys\nfor name in {copied}: open(name).read()\n"
    second = track([sys.executable, "-c", code], native=True).found
    wrote = {x.path for x in found.entities.values() if x.by}
    assert len(wrote) == len(names) and {x.path for x in second.entities.values()} == wrote
    assert not provenance.recorded().damages


def test_small_stacks_in_c(place: Path) -> None:
    """A thread with the least stack there may be, and a handler on a stack of its own, open files."""
    program = built(
        place, "small",
        """
        #define _GNU_SOURCE
        #include <fcntl.h>
        #include <pthread.h>
        #include <signal.h>
        #include <stdio.h>
        #include <unistd.h>
        static void make(const char *name) { int fd = open(name, O_WRONLY | O_CREAT, 0666); write(fd, "x", 1); close(fd); }
        static void *work(void *at) { make("one"); rename("one", "out"); return 0; }
        static void handler(int number) { make("two"); link("two", "three"); }
        int main(void) {
            static char stack[8192];
            stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
            struct sigaction how = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
            pthread_attr_t small; pthread_t one;
            pthread_attr_init(&small); pthread_attr_setstacksize(&small, 16384);
            if (pthread_create(&one, &small, work, 0)) return 2;
            pthread_join(one, 0);
            sigaltstack(&other, 0); sigaction(SIGUSR1, &how, 0); raise(SIGUSR1);
            return 0;
        }""",
        "-pthread",
    )  # fmt: skip
    made = track([program], native=True)
    assert made.status == 0
    for name in ("out", "three"):
        assert made.found.at(str(place / name)) is not None
