"""Work in forked processes: without output, within limits of time and memory, or until a signal."""

import json
import os
import re
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def start(work: Callable[[], Any], said: Path | None = None) -> int:
    """Fork; the child runs ``work``, silently or with its output in a file, and ends with what it returns. The child's id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        out = os.open(said or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        sys.stdout.flush()
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # pytest's own would keep it
        code = int(work() or 0)
    except KeyboardInterrupt:
        code = 130
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int:
    """Wait for a child; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_child(work: Callable[[], Any], said: Path | None = None) -> int:
    """Run in a forked process; its exit code, negative for a signal."""
    return ended(start(work, said))


class TooSlow(BaseException):
    """One step took longer than allowed; not an Exception, so that nobody catches it on the way."""


def limited(steps: Callable[[], Any], *, megabytes: int, seconds: float) -> Any:
    """Run ``steps`` in a forked process that may grow by so much memory; its result, which JSON must be able to say.

    ``seconds`` bounds each step: what lies between two calls of :func:`step`. A crash, a hang or an error fails the caller.
    """
    with tempfile.NamedTemporaryFile("r") as answer:

        def work() -> int:
            used = int(re.search(r"VmSize:\s*(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
            resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, resource.RLIM_INFINITY))
            before = peak()
            signal.signal(signal.SIGALRM, _too_slow)
            _pace.append(seconds)
            step()
            try:
                found = {"result": steps(), "grown": peak() - before}
            except BaseException as error:
                found = {"error": f"{type(error).__name__}: {error!s:.2000}"}
            signal.setitimer(signal.ITIMER_REAL, 0)
            Path(answer.name).write_text(json.dumps(found))
            return 0

        code = in_child(work)
        text = answer.read()
    assert code == 0 and text, f"the process ended with {code}"
    found = json.loads(text)
    assert "error" not in found, found["error"]
    assert found["grown"] <= megabytes, f"memory grew by {found['grown']:.0f} MB"
    return found["result"]


_pace: list[float] = []


def step() -> None:
    """The next step begins."""
    signal.setitimer(signal.ITIMER_REAL, _pace[-1])


def _too_slow(number: int, frame: Any) -> None:
    raise TooSlow(f"a step took longer than {_pace[-1]:g} s")


def peak() -> float:
    """The most memory this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
