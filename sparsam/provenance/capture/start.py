"""The beginning and end of tracking in a process, and how it is passed on to the processes that it starts."""

from __future__ import annotations

import atexit
import json
import os
import sys
import time

from sparsam.provenance.capture import files, native
from sparsam.provenance.tracking import Selection, Tracker, runs_folder
from sparsam.provenance.writer import Log, Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

VARIABLE = "SPARSAM_TRACK"
"""Holds, for the processes that a tracked one starts, where the run's logs lie and who started them."""
SITE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "site")
RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID", "MV2_COMM_WORLD_RANK")
WORLDS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS", "MV2_COMM_WORLD_SIZE")


def new_run() -> str:
    """An id that sorts by time and is not given twice."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + os.urandom(4).hex()


def facts_of_process() -> dict[str, Any]:
    """What ran, where, for whom."""
    rank = next((os.environ[name] for name in RANKS if name in os.environ), None)
    world = next((os.environ[name] for name in WORLDS if name in os.environ), None)
    return {
        "argv": [str(x) for x in getattr(sys, "orig_argv", sys.argv)], "cwd": _cwd(), "executable": sys.executable,
        "python": ".".join(map(str, sys.version_info[:3])), "user": _user(), "host": _host(), "rank": rank, "world": world,
        "container": container(), "environment": {
            name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PYTHONHASHSEED", "VIRTUAL_ENV")
            if name in os.environ
        },
    }  # fmt: skip


def _worker() -> bool:
    """Whether multiprocessing or joblib started this to work for its parent: results go back by ways that are not seen."""
    given = " ".join(getattr(sys, "orig_argv", sys.argv))
    return any(
        x in given for x in ("--multiprocessing-fork", "multiprocessing.forkserver", "popen_loky_posix")
    )


def _host() -> str:
    return os.uname().nodename if hasattr(os, "uname") else "host"


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _user() -> str:
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError, OSError):
        return str(os.getuid()) if hasattr(os, "getuid") else ""


def container() -> str | None:
    """The id of the container this runs in, from its control group; None outside of one."""
    import re

    for place in ("/proc/self/cgroup", "/proc/self/mountinfo"):
        try:
            with files._real_open(place, encoding="utf-8", errors="replace") as file:
                found = re.search(
                    r"(?:docker|containers?|libpod|kubepods|lxc)[^\n]*?([0-9a-f]{64})", file.read(1 << 20)
                )
        except OSError:
            continue
        if found:
            return found[1]
    return None


def install(
    folder: str | os.PathLike[str] | None = None,
    *,
    run: str | None = None,
    selection: Selection | None = None,
    parent: Writer | None = None,
    libraries: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> Tracker:
    """Begin to track this process.

    Args:
        folder: ``.sparsam``, under which a run has its logs; by default that of the nearest folder upwards that has one.
        run: id of the run; a new one by default.
        selection: what is recorded.
        parent: who started this process.
        libraries: also look on libraries that open files in C.
        facts: what is known of this process beyond, or better than, what it can tell of itself.

    Raises:
        InputOutput: ``log-folder`` where the logs cannot be kept.
    """
    run = run or new_run()
    base = os.fspath(folder) if folder is not None else runs_folder()
    log = Log(os.path.join(base, "runs", run))
    tracker = Tracker(log, selection or Selection(), run)
    log.eager = worker = _worker()  # pools kill theirs
    told = facts_of_process() | dict(facts or {}) | ({"worker": True} if worker else {})
    tracker.began(told, parent, False)
    log.flush()
    _pass_on(tracker)
    files.install(tracker)
    if libraries:
        from sparsam.provenance.capture import libraries as known

        known.install()
    _watch_forks()
    global _exit
    if not _ready:
        atexit.register(_ended)
        _exit = os._exit
        _ready.append(True)
    os._exit = _leave
    return tracker


_ready: list[bool] = []
_exit = os._exit


def _leave(status: int) -> Any:
    _ended()
    _exit(status)


def _ended() -> None:
    tracker = files.current()
    if tracker is not None and tracker.log.writer.pid == os.getpid():
        close_all(tracker)
        tracker.ended()


def close_all(tracker: Tracker) -> None:
    """Tell the log of files that are still open as if they were closed now."""
    files.flush_all()
    for handle in list(files._by_number.values()):
        tracker.closed(handle)


def environment(
    folder: str, run: str, selection: Selection, parent: Writer | None, library: str | None = None
) -> dict[str, str]:
    """What a process needs in its environment to begin by tracking itself; with ``library`` it is seen from C, too."""
    told = {
        "folder": os.path.join(os.path.abspath(folder), "runs", run), "run": run, "parent": list(parent or ("", 0, 0)),
        "off": sorted(selection.off), "include": selection.include, "exclude": selection.exclude, "code": selection.code,
        "every": selection.every,
    }  # fmt: skip
    path = os.environ.get("PYTHONPATH", "")
    rest = [entry for entry in path.split(os.pathsep) if entry != SITE] if path else []
    made = {VARIABLE: json.dumps(told), "PYTHONPATH": os.pathsep.join([SITE, *rest])}
    if parent is not None:
        made[native.BY] = native.by(parent)
    return made | (native.environment(library, folder, run, selection, _user()) if library else {})


def _pass_on(tracker: Tracker) -> None:
    base = os.path.dirname(os.path.dirname(tracker.log.folder))
    os.environ.update(environment(base, tracker.run, tracker.selection, tracker.log.writer))


_forks: list[bool] = []


def _watch_forks() -> None:
    if not _forks and hasattr(os, "register_at_fork"):
        os.register_at_fork(before=settle, after_in_child=_forked)
        _forks.append(True)


def settle() -> None:
    """Records of this process that are due are on disk, and no thread is about to write them."""
    tracker = files.current()
    if tracker is not None:
        tracker.log.settle()


def _forked() -> None:
    tracker = files.current()
    if tracker is None:
        return
    parent = tracker.log.writer
    tracker.forked()
    tracker.began({"argv": [str(x) for x in sys.argv], "cwd": _cwd(), "host": _host()}, parent, True)
    _pass_on(tracker)


def start() -> Tracker | None:
    """What ``sitecustomize`` does in a process that a tracked one started; never raises."""
    try:
        told = json.loads(os.environ[VARIABLE])
        host, pid, started = native.parent(os.environ) or told["parent"]
        chosen = Selection(
            frozenset(told["off"]),
            tuple(told["include"]),
            tuple(told["exclude"]),
            bool(told["code"]),
            int(told["every"]),
        )
        parent = Writer(str(host), int(pid), int(started)) if pid else None
        base = os.path.dirname(os.path.dirname(told["folder"]))
        tracker = install(base, run=str(told["run"]), selection=chosen, parent=parent)
        for number, way in ((0, "in"), (1, "out"), (2, "out")):
            files.piped(tracker, number, way)
        return tracker
    except Exception as error:  # the program goes on untracked
        if "SPARSAM_TRACK_DEBUG" in os.environ:
            sys.stderr.write(f"sparsam: not tracked: {type(error).__name__}: {error}\n")
        return None


def uninstall() -> None:
    """Stop tracking this process, its last record written."""
    tracker = files.current()
    files.uninstall()
    libraries = sys.modules.get("sparsam.provenance.capture.libraries")
    if libraries is not None:
        libraries.uninstall()
    os._exit = _exit
    os.environ.pop(VARIABLE, None)
    os.environ.pop(native.BY, None)
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if path[0] == SITE:
        os.environ["PYTHONPATH"] = os.pathsep.join(path[1:])
        if not os.environ["PYTHONPATH"]:
            del os.environ["PYTHONPATH"]
    if tracker is not None:
        tracker.ended()
        tracker.log.close()
