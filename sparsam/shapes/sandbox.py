"""The program that is checked runs in a process of its own that can touch nothing; this is how it is started and ended.

Parent: `run` starts the child, hands it a request, takes its messages, keeps what the program prints within bounds, and
ends it when a limit is reached. Child: `connect` takes the request, `enter` installs the guards, `Channel.finish` sends
the result and ends the process. Only a result that came by `finish` counts: a child that exits, crashes or falls silent
leaves an unknown behind, whatever its exit code says.

Three layers, each for itself: stand-ins that let an ordinary script go on (files in memory, signals that do nothing),
guards of Python that refuse by name (:mod:`sparsam.shapes.guards`), and what the kernel forbids whoever asks
(:mod:`sparsam.shapes.kernel`). The first two can be got round by a program that overwrites its own interpreter; the
third cannot, and it keeps files, network, other processes and memory safe. Against a program that forges its own verdict
there is no complete guard in one process (:mod:`sparsam.shapes.channel`). This module imports no torch.
"""

import dataclasses
import json
import os
import re
import resource
import secrets
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from sparsam.errors import InputOutput
from sparsam.shapes.channel import Broken, Receiver, sender
from sparsam.shapes.guards import Denied, Refusal, blamed, still_signals, watch
from sparsam.shapes.source import Program
from sparsam.shapes.verdict import Place, Unknown

__all__ = ["Channel", "Denied", "Limits", "Outcome", "Refusal", "blamed", "connect", "enter", "run"]

SCRATCH = "/nonexistent/sparsam-check"
_SECRET = ("TOKEN", "KEY", "SECRET", "PASSW", "CREDENTIAL", "COOKIE", "SESSION_ID", "AUTH", "NETRC")
_DROPPED = frozenset(
    {"PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONBREAKPOINT", "PYTHONWARNINGS", "LD_PRELOAD", "PYTHONHOME"}
)
_TICK = 0.1  # seconds between looks at memory and clock
_GRACE = 2.0  # seconds for the child to exit after its result
_FLOOD = 100  # times `output_bytes` that a program may print before it is ended


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of one child.

    Args:
        seconds: Wall-clock time.
        bytes: Memory of its own; torch, z3 and transformers together take some 350 MB before the program begins.
        processes: Threads at a time; other processes are never allowed.
        output_bytes: Of what the program prints, kept; a hundred times as much ends it.
        message_bytes: Of all messages together.
        read_bytes: Of one file that the program reads.
        written_bytes: Of all files that the program writes, which are kept in memory.
    """

    seconds: float = 60.0
    bytes: int = 2 << 30
    processes: int = 64
    output_bytes: int = 1 << 20
    message_bytes: int = 256 << 20
    read_bytes: int = 256 << 20
    written_bytes: int = 256 << 20


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a child.

    Args:
        result: What it finished with; None if it did not finish.
        unknowns: Why it did not finish, and each thing refused to the program; () for a run that shows everything.
        refusals: What was refused to the program, in order, the first of each place.
        output: What the program printed, both streams, cut at the limit.
        guards: For each means of the kernel "yes" or "no: reason"; empty if the child never came to install them.
        seconds: Wall-clock time.
        peak_bytes: Most resident memory, as the child read it at its end; without an end, as was seen from outside.
        exit_code: Of the process; negative for a signal.
    """

    result: dict[str, Any] | None
    unknowns: tuple[Unknown, ...]
    refusals: tuple[Refusal, ...]
    output: str
    guards: Mapping[str, str]
    seconds: float
    peak_bytes: int
    exit_code: int

    @property
    def finished(self) -> bool:
        """Whether a result came."""
        return self.result is not None


def run(
    program: Program,
    request: Mapping[str, Any],
    *,
    limits: Limits | None = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    child: str | Path = "sparsam.shapes.child",
) -> Outcome:
    """Run the child on a program until it finishes or a limit ends it.

    Args:
        program: What to check.
        request: Plain JSON values for the child.
        limits: Of the child.
        on_event: Called with each message that the child sends on the way.
        child: Module, or path of a script, that is started.

    Raises:
        InputOutput: If no process can be started ("sandbox").
        TypeError: If the request is no JSON.
    """
    limits = limits or Limits()
    key = secrets.token_bytes(32)
    whole = {
        "key": key.hex(),
        "parent": os.getpid(),
        "program": program.to_json(),
        "limits": dataclasses.asdict(limits),
        "request": dict(request),
    }
    sent = json.dumps(whole).encode()
    asked, ask = os.pipe()
    told, tell = os.pipe()
    module = ["-m", child] if isinstance(child, str) else [str(child)]
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-B", *module, str(asked), str(tell)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(asked, tell),
            env=_environment(os.environ),
            start_new_session=True,
        )
    except OSError as wrong:
        for descriptor in (asked, ask, told, tell):
            os.close(descriptor)
        raise InputOutput(
            f"cannot start {sys.executable} to check the program in ({wrong.strerror}); free processes or memory",
            code="sandbox",
        ) from None
    os.close(asked)
    os.close(tell)
    writer = threading.Thread(target=_write, args=(ask, sent), daemon=True)
    writer.start()
    with open(told, "rb", buffering=0) as messages:
        watched = _Watched(
            process, messages, limits, Receiver(key, most_bytes=limits.message_bytes), on_event
        )
        try:
            watched.until_done()
        finally:
            watched.end()
    return watched.outcome(program)


def _write(descriptor: int, data: bytes) -> None:
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
    except OSError:
        pass  # the child ended first, which its exit tells


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """What the child knows of its surroundings: no secrets, no place to write, nothing that would change from run to run."""
    made = {
        name: value
        for name, value in given.items()
        if name not in _DROPPED and not any(word in name.upper() for word in _SECRET)
    }
    home = given.get("HOME", "")
    cached = given.get("HF_HOME") or os.path.join(home, ".cache", "huggingface")
    here = str(Path(__file__).parent.parent.parent)
    made.update(
        HOME=SCRATCH,
        TMPDIR=SCRATCH,
        XDG_CACHE_HOME=f"{SCRATCH}/cache",
        XDG_CONFIG_HOME=f"{SCRATCH}/config",
        XDG_DATA_HOME=f"{SCRATCH}/data",
        HF_HOME=cached,  # configurations in it can be read; nothing is written there
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        WANDB_MODE="disabled",
        MPLBACKEND="Agg",
        MPLCONFIGDIR=f"{SCRATCH}/matplotlib",
        TORCH_HOME=given.get("TORCH_HOME") or os.path.join(home, ".cache", "torch"),
        TORCHINDUCTOR_CACHE_DIR=f"{SCRATCH}/inductor",
        TRITON_CACHE_DIR=f"{SCRATCH}/triton",
        CUDA_VISIBLE_DEVICES="",
        SYMPY_CACHE_SIZE="65536",  # of a thousand results most are forgotten before they are asked for again
        OMP_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
        PYTHONDONTWRITEBYTECODE="1",
        PYTHONHASHSEED="0",
        PYTHONUNBUFFERED="1",
        PYTHONIOENCODING="utf-8:backslashreplace",
        PYTHONPATH=os.pathsep.join([here, *filter(None, [given.get("PYTHONPATH")])]),
    )
    return made


class _Watched:
    """A running child, as its parent sees it."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        messages: Any,
        limits: Limits,
        receiver: Receiver,
        on_event: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self._process, self._limits, self._receiver, self._on_event = process, limits, receiver, on_event
        self._messages = messages
        self._start = time.monotonic()
        self._result: dict[str, Any] | None = None
        self._why: tuple[str, str] | None = None
        self._refusals: list[Refusal] = []
        self._guards: dict[str, str] = {}
        self._output, self._printed, self._peak = bytearray(), 0, 0
        self._seconds = 0.0

    def until_done(self) -> None:
        """Read what comes until the child has ended, has finished, or must be ended."""
        deadline = self._start + self._limits.seconds
        streams: list[Any] = [self._messages, self._process.stdout, self._process.stderr]
        with selectors.DefaultSelector() as selector:
            for stream in streams:
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ)
            while self._why is None:
                for ready, _ in selector.select(_TICK) if selector.get_map() else ():
                    if self._take(ready.fileobj) == b"":
                        selector.unregister(ready.fileobj)
                if self._exited():
                    for stream in streams:
                        while self._why is None and self._take(stream):
                            pass
                    return
                now = time.monotonic()
                if self._result is not None:
                    deadline = min(deadline, now + _GRACE)
                if now > deadline:
                    if self._result is None:
                        self._why = ("time", f"it was not done after {self._limits.seconds:g} s")
                    return
                if not selector.get_map():
                    time.sleep(_TICK)
                self._weigh()

    def _take(self, stream: Any) -> bytes | None:
        """One piece of what has come: empty at the end, None if there is nothing yet."""
        try:
            data = os.read(stream.fileno(), 1 << 16)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        if stream is not self._messages:
            self._printed += len(data)
            self._output += data[: max(0, self._limits.output_bytes - len(self._output))]
            if self._printed > self._limits.output_bytes * _FLOOD:
                self._why = ("output", f"it printed more than {self._limits.output_bytes * _FLOOD:,} bytes")
            return data
        try:
            for message in self._receiver.feed(data):
                self._understand(message)
        except Broken as broken:
            self._result, self._why = None, ("protocol", f"its messages cannot be trusted: {broken}")
        return data

    def _understand(self, message: dict[str, Any]) -> None:
        kind, value = message.get("kind"), message.get("value")
        if self._result is not None:
            self._result, self._why = None, ("protocol", "it went on after its result")
        elif kind == "forged":
            self._why = ("protocol", "the program itself called for its result")
        elif kind == "finish" and isinstance(value, dict):
            self._result, self._peak = value, max(self._peak, int(message.get("peak", 0)))
        elif kind == "guards" and isinstance(value, dict):
            self._guards = {str(name): str(state) for name, state in value.items()}
        elif kind == "refusal" and isinstance(value, dict):
            self._refusals.append(Refusal(**value))
        elif kind == "event" and isinstance(value, dict) and self._on_event is not None:
            self._on_event(value)

    def _weigh(self) -> None:
        """Look at the child's memory, shared memory included."""
        try:
            with open(f"/proc/{self._process.pid}/statm", encoding="ascii") as file:
                held = int(file.read().split()[1]) * resource.getpagesize()
        except (OSError, ValueError, IndexError):
            return
        self._peak = max(self._peak, held)
        if held > self._limits.bytes * 1.25:
            self._why = ("memory", f"it took more than {self._limits.bytes:,} bytes")

    def _exited(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> None:
        """Kill what is left of the child and its group, and close the pipes."""
        if not self._exited():
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        self._seconds = time.monotonic() - self._start

    def outcome(self, program: Program) -> Outcome:
        """What became of it."""
        code = self._process.returncode
        if self._result is None and self._why is None:
            self._why = _of_exit(code)
        unknowns = [Unknown(self._why[0], f"the check was ended: {self._why[1]}")] if self._why else []
        unknowns.extend(_of_refusal(refusal, program) for refusal in self._refusals)
        return Outcome(
            result=None if self._why else self._result,
            unknowns=tuple(unknowns),
            refusals=tuple(self._refusals),
            output=self._output.decode("utf-8", "replace"),
            guards=self._guards,
            seconds=self._seconds,
            peak_bytes=self._peak,
            exit_code=code,
        )


def _of_exit(code: int) -> tuple[str, str]:
    if code == -signal.SIGXCPU:
        return "time", "it used up its processor time"
    if code in (-signal.SIGKILL, -signal.SIGABRT):
        return "crash", f"its process was ended by {signal.Signals(-code).name}, as for want of memory"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return "crash", f"its process crashed with {name}"
    return "exit", f"its process left with exit code {code} and without a result"


def _of_refusal(refusal: Refusal, program: Program) -> Unknown:
    where = None
    if refusal.file:
        source = program.source_line(refusal.file, refusal.line) if program.owns(refusal.file) else ""
        where = Place(refusal.file, refusal.line, source=source)
    return Unknown(
        "refused", f"{refusal.what} was refused to the program, which may go on differently without", where
    )


@dataclasses.dataclass(frozen=True)
class Channel:
    """The child's end.

    Args:
        program: What to check.
        request: As `run` was given it.
        limits: Of this process.
        send: Sends one message to `on_event`.
        finish: Sends the result and ends the process at once, so that nothing of the program runs any more. Called with a
            line of anyone else on the stack, or in another thread, it says so instead.
    """

    program: Program
    request: dict[str, Any]
    limits: Limits
    send: Callable[[Mapping[str, Any]], None]
    finish: Callable[[Mapping[str, Any]], NoReturn]
    parent: int
    _raw: Callable[[Mapping[str, Any]], None]


def connect(arguments: list[str] | None = None) -> Channel:
    """Take the request; called once, first of all, in the child.

    Args:
        arguments: The two descriptors on the command line; `sys.argv` by default, from which they are then taken away.
    """
    given = sys.argv[1:3] if arguments is None else arguments
    if arguments is None:
        del sys.argv[1:3]
    asked, tell = (int(text) for text in given)
    with open(asked, "rb") as file:
        whole = json.loads(file.read())
    os.set_inheritable(tell, False)
    raw = sender(tell, bytes.fromhex(whole.pop("key")))
    own, main = os.path.join(os.path.dirname(os.path.abspath(__file__)), ""), os.path.abspath(sys.argv[0])
    getframe, ident, thread = sys._getframe, threading.get_ident, threading.get_ident()
    leave, flush, peak = os._exit, (sys.stdout.flush, sys.stderr.flush), _peak_of_this()

    def send(message: Mapping[str, Any]) -> None:
        raw({"kind": "event", "value": message})

    def finish(result: Mapping[str, Any]) -> NoReturn:
        frame: FrameType | None = getframe(1)
        while frame is not None:
            name = frame.f_code.co_filename
            if not (name.startswith((own, "<frozen ")) or name == main) or ident() != thread:
                raw({"kind": "forged"})
                leave(1)
            frame = frame.f_back
        for one in flush:
            try:
                one()
            except (OSError, ValueError):
                continue
        raw({"kind": "finish", "value": result, "peak": peak()})
        leave(0)

    return Channel(
        program=Program.from_json(whole["program"]),
        request=whole["request"],
        limits=Limits(**whole["limits"]),
        send=send,
        finish=finish,
        parent=whole["parent"],
        _raw=raw,
    )


def _peak_of_this() -> Callable[[], int]:
    """A function that gives the most resident memory of this process so far, in bytes; 0 where it cannot be had.

    Not `getrusage`: that counts the parent's memory at the time of the fork too.
    """
    try:
        status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return lambda: 0
    pread, match = os.pread, re.compile(rb"VmHWM:\s*(\d+) kB").search

    def peak() -> int:
        try:
            found = match(pread(status, 4096, 0))
        except OSError:
            return 0
        return int(found[1]) * 1024 if found else 0

    return peak


def enter(channel: Channel) -> Callable[[], tuple[Refusal, ...]]:
    """Install every guard and stand-in in this process, for good; what the kernel lends is reported to the parent.

    To be called with one thread, before anything of the program runs; torch may be imported before or after.

    Returns:
        A function that gives what was refused so far: a path on which that grew is not proved.
    """
    from sparsam.shapes import descriptors, kernel, overlay

    limits, raw = channel.limits, channel._raw
    means = kernel.confine(seconds=limits.seconds, memory=limits.bytes, file_bytes=0)
    if os.getppid() != channel.parent:
        os._exit(1)  # the parent ended before the kernel was told to end us with it
    raw({"kind": "guards", "value": means})
    descriptors.install(overlay.install(limits.written_bytes, SCRATCH))
    still_signals()
    sys.path.insert(0, str(channel.program.root))
    return watch(
        root=str(channel.program.root),
        read_bytes=limits.read_bytes,
        threads=limits.processes,
        note=lambda refusal: raw({"kind": "refusal", "value": dataclasses.asdict(refusal)}),
    )
