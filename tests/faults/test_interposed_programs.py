"""Programs seen from C go on unharmed, whatever happens to the compiler, the cache, the disk, or their descriptors."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparsam.cli import main
from sparsam.errors import InputOutput
from sparsam.provenance.capture import native
from sparsam.provenance.graph import History, history
from sparsam.provenance.log import read_all
from sparsam.provenance.tracked import Tracked, track

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not shutil.which("cc"), reason="wants Linux and a C compiler"
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("3\n1\n2\n")
    return tmp_path


def sources(found: History, name: str) -> list[str]:
    entity = found.at(str(Path(name).resolve()))
    assert entity is not None, name
    return sorted({Path(found.entities[x].path).name for x in found.lineage(entity.id)} - {name})


def unseen(made: Tracked) -> str:
    return "\n".join(what for x in made.found.programs.values() for what in x.unseen)


def built(name: str, text: str, *flags: str) -> str:
    Path(f"{name}.c").write_text(text)
    subprocess.run(["cc", "-w", f"{name}.c", "-o", name, *flags], check=True)
    return str(Path(name).resolve())


def test_no_compiler(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """It is named, and tracking goes on; who asks for it by name is refused."""
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    made = track([sys.executable, "-c", "open('out', 'w').write(open('a').read())"])
    assert sources(made.found, "out") == ["a"] and "no C compiler" in unseen(made)
    with pytest.raises(InputOutput, match="no C compiler") as error:
        track(["true"], native=True)
    assert error.value.code == "no-interposer"
    assert main(["track", "--native", "--", "true"]) == 5
    assert "no C compiler" in capfd.readouterr().err


def test_a_compiler_that_fails(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says is said; nothing half built is left."""
    (place / "cc").write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 1 && exit 0\necho 'out of luck' >&2; exit 1\n"
    )
    (place / "cc").chmod(0o755)
    monkeypatch.setenv("CC", str(place / "cc"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    made = track(["sh", "-c", "cat a > out"])
    assert made.status == 0 and "out of luck" in unseen(made)
    assert not [*(place / "cache").rglob("*.so*"), *(place / ".sparsam").rglob("*.so*")]


def test_switched_off(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the option or the variable; both say so."""
    assert "left out" in unseen(track(["sh", "-c", "cat a > out"], native=False))
    monkeypatch.setenv("SPARSAM_NATIVE", "0")
    assert "SPARSAM_NATIVE=0" in unseen(track(["sh", "-c", "cat a > out"]))


def test_a_cache_that_others_can_write(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is loaded from it."""
    cache = place / "cache" / "sparsam" / "native"
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    made = native.library(place / ".sparsam")
    assert made.startswith(str(place / ".sparsam")) and not list(cache.iterdir())


def test_folders_that_the_variable_cannot_hold(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spaces and colons part names in LD_PRELOAD: no program is told of a library that is not there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "with space"))
    with pytest.raises(native.Unbuilt, match="spaces"):
        native.library(place / "and: colon")
    (place / "with: colon").mkdir()
    os.chdir(place / "with: colon")
    made = track(["sh", "-c", "cat ../a > out; echo said >&2"])
    assert made.status == 0 and "spaces or colons" in unseen(made)


def test_a_static_program_is_named(place: Path) -> None:
    """At the top, below a shell, and from Python: it runs, and the records say that it was not seen."""
    static = built(
        "still", '#include <stdio.h>\nint main(void) { fclose(fopen("s", "w")); return 7; }', "-static"
    )
    made = track([static], native=True)
    assert made.status == 7 and "left no record" in unseen(made)
    made = track(["sh", "-c", f"{static}; cat a > out"], native=True)
    assert f"{static} is linked statically" in unseen(made) and sources(made.found, "out") == ["a"]
    code = f"import subprocess; subprocess.run([{static!r}]); subprocess.Popen([{static!r}], close_fds=False).wait()"
    assert f"{static} is linked statically" in unseen(track([sys.executable, "-c", code], native=True))


def test_programs_with_other_rights_or_without_the_environment(place: Path) -> None:
    """Set-user-id programs and those that are given an environment of their own are named."""
    made = track(["sh", "-c", "env -i /bin/cat a > out"], native=True)
    assert "with an environment of its own" in unseen(made)
    if os.getuid() == 0:
        shutil.copy("/bin/cat", "other")
        os.chown("other", 12345, 12345)
        os.chmod("other", 0o4755)
        made = track(["sh", "-c", "./other a > out"], native=True)
        assert "another user's rights" in unseen(made)


@pytest.mark.parametrize("bytes_of_room", [0, 100, 3000])
def test_a_disk_that_is_full(place: Path, bytes_of_room: int) -> None:
    """The program does what it does; what could not be written is counted, and what was written parses."""
    program = built(
        "writes",
        """
        #include <fcntl.h>
        #include <stdio.h>
        #include <sys/resource.h>
        #include <unistd.h>
        int main(int count, char **words) {
            struct rlimit none = {ROOM, ROOM}, room;
            char name[20];
            getrlimit(RLIMIT_FSIZE, &room); none.rlim_max = room.rlim_max;
            setrlimit(RLIMIT_FSIZE, &none);
            for (int at = 0; at < 30; at++) {
                sprintf(name, "f%d", at);
                int fd = open(name, O_WRONLY | O_CREAT, 0666);
                if (fd < 0 || close(fd)) return 1;
            }
            setrlimit(RLIMIT_FSIZE, &room);
            int fd = open("last", O_WRONLY | O_CREAT, 0666);
            return write(fd, "x", 1) != 1 || close(fd);
        }""".replace("ROOM", str(bytes_of_room)),
    )  # fmt: skip
    made = track([program], native=True, hashes="none")
    assert made.status == 0 and not made.merged.damages and made.merged.lost > 0
    assert made.found.at(str(place / "last")) is not None


def test_records_that_cannot_be_written(place: Path) -> None:
    """The folder is gone or closed to it: same output, same exit code, nothing on standard error."""
    for text in (
        "mv .sparsam elsewhere; cat a > out; echo done",
        "chmod 0 .sparsam; rm -rf .sparsam; sort a > out; echo done",
    ):
        made = subprocess.run(
            ["sh", "-c", text], cwd=place, capture_output=True, text=True, check=False,
            env=os.environ | told(place),
        )  # fmt: skip
        assert (made.returncode, made.stdout, made.stderr) == (0, "done\n", "") and len(
            (place / "out").read_text()
        ) == 6


def told(place: Path) -> dict[str, str]:
    from sparsam.provenance.capture.start import environment
    from sparsam.provenance.tracking import Selection
    from sparsam.provenance.writer import Writer

    (place / ".sparsam" / "runs" / "r").mkdir(parents=True, exist_ok=True)
    library = native.library(place / ".sparsam")
    return environment(str(place / ".sparsam"), "r", Selection(), Writer("host", 1, 1), library)


@pytest.mark.parametrize(
    "value",
    ["", "x", "\x1f" * 5, "/nowhere\x1f/nowhere\x1fr\x1fu\x1f0\x1f", "\x1f".join("abcdef"), "x" * 100_000],
)
def test_a_broken_setting(place: Path, value: str) -> None:
    """The program runs unseen."""
    made = subprocess.run(
        ["sh", "-c", "cat a; exit 3"], cwd=place, capture_output=True, text=True, check=False,
        env=os.environ | told(place) | {native.SETTINGS: value, native.BY: value[:5000]},
    )  # fmt: skip
    assert (made.returncode, made.stdout, made.stderr) == (3, "3\n1\n2\n", "")


PROGRAM = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static void make(const char *name) { int fd = open(name, O_WRONLY | O_CREAT, 0666); write(fd, "x", 1); close(fd); }
static void *threads(void *at) { for (int i = 0; i < 300; i++) { close(open("a", O_RDONLY)); make("t"); } return 0; }
int main(int count, char **words) {
    char *what = words[1], bytes[10];
    int fd = open("a", O_RDONLY);
    read(fd, bytes, 3);
    if (!strcmp(what, "closes all")) for (int at = 3; at < 4096; at++) close(at);
    if (!strcmp(what, "closes ranges")) close_range(3, ~0u, 0);
    if (!strcmp(what, "closes unseen")) for (int at = 3; at < 2048; at++) syscall(SYS_close, at);
    if (!strcmp(what, "takes numbers")) {
        syscall(SYS_close, 512);
        dup2(syscall(SYS_open, "mine", O_RDWR | O_CREAT, 0666), 512);
    }
    if (!strcmp(what, "daemon")) {
        if (fork()) { wait(0); return 0; }
        setsid();
        if (fork()) _exit(0);
        for (int at = 0; at < 4096; at++) close(at);
    }
    if (!strcmp(what, "vforks")) {
        int at = vfork();
        if (!at) { dup2(fd, 0); close(fd); execlp("cat", "cat", "-", NULL); _exit(9); }
        waitpid(at, 0, 0);
    }
    if (!strcmp(what, "fails to exec")) { execl("/no/such", "x", NULL); execl("/etc/passwd", "x", NULL); }
    if (!strcmp(what, "forks threads")) {
        pthread_t all[4];
        for (int at = 0; at < 4; at++) pthread_create(&all[at], 0, threads, 0);
        for (int at = 0; at < 20; at++) { int child = fork(); if (!child) { make("c"); _exit(0); } waitpid(child, 0, 0); }
        for (int at = 0; at < 4; at++) pthread_join(all[at], 0);
    }
    if (!strcmp(what, "no room")) for (int at = 0; at < 2000; at++) open("a", O_RDONLY);
    if (!strcmp(what, "no room")) for (int at = 4; at < 2048; at++) close(at);
    make("out");
    if (!strcmp(what, "killed")) kill(getpid(), SIGKILL);
    if (!strcmp(what, "aborts")) abort();
    if (!strcmp(what, "leaves at once")) syscall(SYS_exit_group, 0);
    return 0;
}
"""


@pytest.mark.parametrize(
    ("what", "status"),
    [
        ("nothing", 0), ("closes all", 0), ("closes ranges", 0), ("closes unseen", 0), ("takes numbers", 0), ("daemon", 0),
        ("vforks", 0), ("fails to exec", 0), ("forks threads", 0), ("no room", 0), ("killed", 137), ("aborts", 134),
        ("leaves at once", 0),
    ],
)  # fmt: skip
def test_whatever_a_program_does(place: Path, what: str, status: int) -> None:
    """It ends as it would, and what it had written is known."""
    program = built("program", PROGRAM, "-pthread")
    made = track(
        ["sh", "-c", 'ulimit -n 1024; ulimit -c 0; "$@"; exit $?', "sh", program, what],
        native=True,
        hashes="none",
    )
    assert made.status == status and not made.merged.damages
    for _ in range(100):
        found = history(read_all(made.folder))
        entity = found.at(str(place / "out"))
        if entity is not None and not entity.unfinished:
            break
    assert entity is not None and "a" in sources(found, "out") and (place / "out").read_text() == "x"


def test_a_program_s_own_preload_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is put in front of it."""
    built("own.so", "int own(void) { return 1; }", "-shared", "-fPIC")
    monkeypatch.setenv("LD_PRELOAD", str(place / "own.so"))
    made = track(["sh", "-c", "cat /proc/self/maps > out"], native=True)
    maps = (place / "out").read_text()
    assert made.status == 0 and "own.so" in maps and "interpose-" in maps
