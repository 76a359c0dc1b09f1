"""What is seen of programs that are not Python, and of C libraries inside those that are: a library for ``LD_PRELOAD``.

``interpose.c`` beside this file stands in for the C library's functions on files. It is compiled with the user's own compiler
when it is first needed, and kept in the user's cache, or, where that cannot be written, beside the records.

    SPARSAM_NATIVE=0    leave machine code out
    CC                  the compiler; else cc, gcc or clang
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sparsam.provenance.tracking import Selection
    from sparsam.provenance.writer import Writer

SETTINGS = "SPARSAM_TRACK_NATIVE"
BY = "SPARSAM_TRACK_BY"
"""Who started a program: host, process, start. A program that is seen puts itself there for those that it starts."""
SEPARATOR, BEHIND = "\x1f", "\x1e"
FLAGS = ("-O2", "-std=gnu11", "-fPIC", "-shared", "-w", "-U_FORTIFY_SOURCE", "-fno-stack-protector")
SOURCES = ("interpose.c", "names.h", "programs.h", "record.h")
PATIENCE = 120
"""Seconds a compiler may take."""
_LETTERS = {"duration": "d", "call": "c", "directory": "y", "file": "f"}


class Unbuilt(Exception):
    """Why there is no library."""


def library(beside: str | os.PathLike[str]) -> str:
    """Path of the library, compiled if need be.

    Args:
        beside: a folder to keep it in where the user's cache cannot be written.

    Raises:
        Unbuilt: no compiler, no folder, another system than Linux, or it cannot be loaded.
    """
    import ctypes
    import sys

    if os.environ.get("SPARSAM_NATIVE", "1") == "0":
        raise Unbuilt("SPARSAM_NATIVE=0 leaves machine code out")
    if not sys.platform.startswith("linux") or sys.maxsize < 1 << 32:
        raise Unbuilt("the interposer is for 64-bit Linux")
    made = _built(_folders(os.fspath(beside)))
    try:
        ctypes.CDLL(made)  # told nothing, it does nothing here
    except OSError as error:
        raise Unbuilt(f"the interposer cannot be loaded: {error}") from error
    return made


def _built(folders: list[str]) -> str:
    import hashlib
    import shutil
    import subprocess

    named = os.environ.get("CC")
    found = (shutil.which(name) for name in ((named,) if named else ("cc", "gcc", "clang")))
    program = next((name for name in found if name), None)
    if program is None:
        raise Unbuilt(f"no C compiler was found ({named or 'cc, gcc, clang'})")
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        version = subprocess.run([program, "--version"], capture_output=True, timeout=PATIENCE, check=True)
        parts = [version.stdout, " ".join(FLAGS).encode(), os.uname().machine.encode()]
        for name in SOURCES:
            with open(os.path.join(here, name), "rb") as source:
                parts.append(source.read())
    except (OSError, subprocess.SubprocessError) as error:
        raise Unbuilt(f"{program} does not answer: {error}") from error
    digest = hashlib.sha256(bytes(1).join(parts)).hexdigest()
    last = f"interpose-{digest[:24]}.so"
    reason = ""
    for folder in folders:
        place = os.path.join(folder, last)
        try:
            if os.path.isfile(place) and _ours(place):
                return place
            os.makedirs(folder, mode=0o700, exist_ok=True)
            if _ours(folder):
                _compile(program, os.path.join(here, SOURCES[0]), place)
                return place
            reason = f"{folder} can be written by others"
        except (OSError, subprocess.SubprocessError) as error:
            told = getattr(error, "stderr", None) or str(error)
            reason = told.decode(errors="replace") if isinstance(told, bytes) else told
    raise Unbuilt(f"the interposer could not be built: {reason.strip()[:300]}")


def _compile(program: str, source: str, place: str) -> None:
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory(dir=os.path.dirname(place)) as work:
        made = os.path.join(work, "made.so")
        command = [program, *FLAGS, source, "-o", made, "-ldl"]
        subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True)
        os.replace(made, place)


def _folders(beside: str) -> list[str]:
    """Where it may be kept: names that LD_PRELOAD can hold."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(os.path.join("~", ".cache"))
    places = [os.path.join(home, "sparsam", "native"), os.path.join(beside, "native")]
    fit = [os.path.abspath(place) for place in places if not set(place) & set(" :;\t\n") and place[0] == "/"]
    if not fit:
        raise Unbuilt(
            f"LD_PRELOAD can hold neither {places[0]} nor {places[1]}: spaces or colons in the name"
        )
    return fit


def _ours(path: str) -> bool:
    """Whether nobody else could have written this: what is loaded from here runs."""
    facts = os.stat(path)
    return facts.st_uid == os.getuid() and not facts.st_mode & 0o022


def environment(library: str, folder: str, run: str, selection: Selection, user: str) -> dict[str, str]:
    """What a process needs in its environment to be seen from C."""
    letters = (
        "".join(letter for name, letter in _LETTERS.items() if name in selection.off) + "p" * selection.code
    )
    root = os.path.realpath(folder)
    fields = [os.path.join(root, "runs", run), root, run, user, str(os.getuid()), letters]
    fields += ["-" + pattern for pattern in selection.exclude] + [
        "+" + pattern for pattern in selection.include
    ]
    others = [x for x in os.environ.get("LD_PRELOAD", "").replace(":", " ").split() if x != library]
    return {SETTINGS: SEPARATOR.join(fields), "LD_PRELOAD": ":".join([library, *others])}


def by(writer: Writer) -> str:
    """A process as the variable holds it."""
    return SEPARATOR.join(map(str, writer))


def parent(environment: Mapping[str, str]) -> tuple[str, int, int] | None:
    """Who started this process; None where the variable does not say. C code that looks on puts itself in front."""
    mine, _, before = environment.get(BY, "").partition(BEHIND)
    parts = (before or mine).split(SEPARATOR)
    try:
        host, pid, started = parts[0], int(parts[1]), int(parts[2])
    except (IndexError, ValueError):
        return None
    return host, pid, started


def looks_on() -> bool:
    """Whether this process was started with the library."""
    return SETTINGS in os.environ and "LD_PRELOAD" in os.environ


class Claims:
    """Files that a wrapper in Python tells of while C code opens them: they are not told of twice."""

    def __init__(self) -> None:
        self._library: object = None

    def claim(self, path: str, *, thread: bool = False) -> bool:
        """From here on, the wrapper tells; ``thread``: of all that this thread does. Whether it is to be released again."""
        if self._library is None:
            self._library = self._found()
        if self._library is False:
            return False
        if thread:
            self._library.sparsam_hush(1)  # type: ignore[attr-defined]
        self._library.sparsam_claim(os.fsencode(path))  # type: ignore[attr-defined]
        return True

    def release(self, path: str, *, thread: bool = False) -> None:
        """It tells no more."""
        self._library.sparsam_release(os.fsencode(path))  # type: ignore[attr-defined]
        if thread:
            self._library.sparsam_hush(-1)  # type: ignore[attr-defined]

    def _found(self) -> object:
        if not looks_on():
            return False
        import ctypes

        everything = ctypes.CDLL(None)
        if not hasattr(everything, "sparsam_claim"):
            return False
        everything.sparsam_claim.argtypes = everything.sparsam_release.argtypes = [ctypes.c_char_p]
        everything.sparsam_hush.restype = everything.sparsam_release.restype = None
        return everything


claims = Claims()
