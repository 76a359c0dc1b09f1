"""Running a command with tracking on: what ``sparsam track`` does."""

import atexit
import os
import platform
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsam.errors import InputOutput, Usage
from sparsam.provenance.capture import native as interposer
from sparsam.provenance.capture import start
from sparsam.provenance.graph import history
from sparsam.provenance.index import Index, Recorded, opened
from sparsam.provenance.log import Merged, logs_in, read_all
from sparsam.provenance.questions import sha256_of
from sparsam.provenance.runs import check_name
from sparsam.provenance.tracking import Selection, runs_folder
from sparsam.provenance.writer import Log

HASHES = ("all", "written", "none")
IN_MEMORY = 1 << 25
"""Bytes of logs, up to which a run's graph is made in memory."""


@dataclass(frozen=True)
class Tracked:
    """A command that was run.

    Args:
        run: its id.
        folder: of its logs.
        status: its exit code; 128 + n where signal n ended it.
        found: the graph of this run.
        merged: its records; none where there are very many, but what was damaged and lost all the same.
        hashed: files whose content was hashed.
    """

    run: str
    folder: Path
    status: int
    found: Recorded
    merged: Merged
    hashed: int


def track(
    command: Sequence[str],
    *,
    folder: str | os.PathLike[str] | None = None,
    run: str | None = None,
    selection: Selection | None = None,
    hashes: str = "all",
    native: bool | None = None,
) -> Tracked:
    """Run a command, all programs in it tracked, and hash what they read and wrote once it has ended.

    Signals reach the command first. Files that changed after they were last seen are not hashed.

    Args:
        command: what to run.
        folder: ``.sparsam``; by default that of the nearest folder upwards that has one.
        run: id of the run; a new one by default.
        selection: what is recorded.
        hashes: of :data:`HASHES`, whose content is hashed.
        native: also programs that are not Python, and C libraries, by the interposer; None does so where it can be built,
            and the records say why where it cannot.

    Raises:
        Usage: ``command-missing``, ``hashes``.
        InputOutput: ``command-missing`` where there is no such program, ``log-folder``; ``no-interposer`` where ``native`` is
            asked for and cannot be had.
    """
    if hashes not in HASHES:
        raise Usage(f"hashes is one of {', '.join(HASHES)}; got {hashes!r}.", code="hashes")
    if not command:
        raise Usage(
            "nothing to run. Give a command: sparsam track -- python train.py", code="command-missing"
        )
    check_name(run)
    program = shutil.which(command[0])
    if program is None:
        raise InputOutput(f"no program {command[0]!r} was found.", code="command-missing")
    base, run, chosen = os.fspath(folder or runs_folder()), run or start.new_run(), selection or Selection()
    library, why_not = _interposer(base, native)
    log = Log(os.path.join(base, "runs", run))
    facts = {"argv": list(command), "cwd": os.getcwd(), "user": start._user(), "host": platform.node()}
    log.add(
        "process",
        **facts,
        run=run,
        code=code_state(os.getcwd()),
        machine=machine(),
        container=start.container(),
    )
    if why_not:
        log.add("unseen", what=f"programs that are not Python, and files that C libraries open: {why_not}")
    log.flush()
    told = start.environment(base, run, chosen, log.writer, library)
    status, number = _run([program, *command[1:]], os.environ | told)
    found, merged = _of_run(log.folder)
    if library and not any(x.writer.pid == number for x in found.programs.values()):
        log.add(
            "unseen",
            what=f"{program} left no record: it is linked statically, runs with another user's rights, or was killed at once",
        )
    elif len(found.programs) == 1:
        log.add(
            "unseen", what="no Python program of this interpreter's kind was started: its files were not seen"
        )
    hashed = hash_files(log, found, hashes)
    log.add("end", status=status)
    log.close()
    found, merged = _of_run(log.folder, found)
    return Tracked(run, Path(log.folder), status, found, merged, hashed)


def _of_run(folder: str, known: Recorded | None = None) -> tuple[Recorded, Merged]:
    """The graph of one run: in memory, or where its logs are long in an index that is thrown away afterwards."""
    if isinstance(known, Index) or sum(x.stat().st_size for x in logs_in(folder)) > IN_MEMORY:
        try:
            found = _aside(folder, known)
            return found, Merged((), found.damages, sum(x.lost for x in found.programs.values()))
        except (OSError, sqlite3.Error):
            pass  # no room for it
    merged = read_all(folder)
    return history(merged), merged


def _aside(folder: str, known: Recorded | None) -> Index:
    if isinstance(known, Index):
        known.close()
        return opened(known.folder)
    base = os.path.dirname(os.path.dirname(folder))
    aside = Path(tempfile.mkdtemp(prefix="run-", dir=base))
    atexit.register(shutil.rmtree, aside, ignore_errors=True)
    (aside / "index").mkdir()
    (aside / "runs").mkdir()
    (aside / "runs" / os.path.basename(folder)).symlink_to(os.path.abspath(folder))
    return opened(aside)


def _interposer(base: str, native: bool | None) -> tuple[str | None, str]:
    """Path of the library for programs that are not Python, or why there is none."""
    if native is False:
        return None, "the interposer was left out"
    try:
        return interposer.library(base), ""
    except interposer.Unbuilt as error:
        if native:
            raise InputOutput(
                f"--native: {error}. Without --native, Python programs alone are recorded.",
                code="no-interposer",
            ) from error
        return None, str(error)


def _run(command: Sequence[str], environment: dict[str, str]) -> tuple[int, int]:
    """Exit code and process number."""
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        raise InputOutput(f"{command[0]} cannot be run: {error.strerror}.", code="command-missing") from error

    def passed_on(number: int, frame: Any) -> None:
        process.send_signal(number)

    old = {one: signal.signal(one, passed_on) for one in (signal.SIGTERM, signal.SIGHUP)}
    old[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both
    try:
        code = process.wait()
    finally:
        for one, handler in old.items():
            signal.signal(one, handler)
    return (code if code >= 0 else 128 - code), process.pid


def hash_files(log: Log, found: Recorded, hashes: str) -> int:
    """Hash what a run read and wrote, as far as it is as it was last seen; how many files that were."""
    count = 0
    if hashes == "none":
        return count
    for host, path, one in found.lying():
        if one.kind != "file" or host != log.writer.host or (hashes == "written" and one.by is None):
            continue
        try:
            before = os.stat(path)
            if not stat.S_ISREG(before.st_mode):
                continue
            if (before.st_size, before.st_mtime_ns) != (one.size, one.changed):
                continue
            digest = sha256_of(path)
            after = os.stat(path)
        except OSError:
            continue
        if (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
            log.add("hash", path=path, size=after.st_size, changed=after.st_mtime_ns, sha256=digest)
            count += 1
    return count


def code_state(folder: str) -> dict[str, Any]:
    """The commit of the repository a folder lies in, and whether it was changed since; empty outside of one."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", folder, *words], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return {}
    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": bool(changed), "root": git("rev-parse", "--show-toplevel")}


def machine() -> dict[str, Any]:
    """What the command runs on."""
    return {
        "system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count(),
        "python": platform.python_version(), "executable": sys.executable,
    }  # fmt: skip
