"""C text compiled for this processor on first use, and kept in the user's cache.

What is left of a model runs in small pieces of machine code: attention of short sequences, products in integers. Their texts
lie in the package, are compiled with the user's own compiler in a second or two, and are loaded from a folder that nobody
else can write to. Where there is no compiler every caller has the same numbers from torch's operators.

    SPARSAM_NATIVE=0    leave machine code out
    CC                  the compiler; else cc, gcc or clang

The library's threads are torch's: it leaves GOMP's functions open, and the dynamic linker finds those torch has loaded.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fPIC", "-fopenmp", "-c")
PATIENCE = 120
"""Seconds a compiler may take."""


def compiler() -> str | None:
    """The C compiler to call, None where there is none or native code is switched off."""
    if os.environ.get("SPARSAM_NATIVE", "1") == "0" or os.name != "posix":
        return None
    named = os.environ.get("CC")
    return next(
        (found for name in ((named,) if named else ("cc", "gcc", "clang")) if (found := shutil.which(name))),
        None,
    )


def library(source: Path, includes: Sequence[Path] = (), flags: Sequence[str] = ()) -> ctypes.CDLL | None:
    """The compiled form of a text; None where it cannot be had.

    Args:
        source: what is compiled.
        includes: the texts that it includes; they lie in any folder, under names of their own.
        flags: more of them, such as ``-DNAME=1``.
    """
    program = compiler()
    if program is None:
        return None
    try:
        return ctypes.CDLL(str(built(program, source, includes, flags)))
    except (OSError, subprocess.SubprocessError):
        return None


def built(program: str, source: Path, includes: Sequence[Path] = (), flags: Sequence[str] = ()) -> Path:
    """The shared library's path, compiled if it is not in the cache."""
    version = subprocess.run([program, "--version"], capture_output=True, timeout=PATIENCE, check=True).stdout
    texts = [path.read_bytes() for path in (source, *includes)]
    told = b"\0".join([*texts, " ".join([*FLAGS, *flags]).encode(), version, _processor()])
    folder = _cache()
    place = folder / f"{source.stem}-{hashlib.sha256(told).hexdigest()[:24]}.so"
    if place.is_file() and _ours(place):
        return place
    places = [f"-I{path.parent}" for path in includes]
    with tempfile.TemporaryDirectory(dir=folder) as work:
        compiled, linked = Path(work) / "native.o", Path(work) / "native.so"
        for command in (
            [program, *FLAGS, *flags, *places, str(source), "-o", str(compiled)],
            [program, "-shared", str(compiled), "-o", str(linked)],
        ):
            subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True)
        os.replace(linked, place)
    return place


def _cache() -> Path:
    """A folder that only this user writes to."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "sparsam" / "native"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _ours(folder) and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="sparsam-native-"))


def _ours(path: Path) -> bool:
    """Whether nobody else could have written this: what is loaded from here runs."""
    facts = path.stat()
    return facts.st_uid == os.getuid() and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _processor() -> bytes:
    """What ``-march=native`` looks at: a cache may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    wanted = (b"model name", b"flags", b"Features", b"CPU part")
    return b"\n".join(sorted({line for line in lines if line.startswith(wanted)}))
