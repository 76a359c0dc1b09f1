"""What Python itself announces before a program touches the world, refused by name: the guards of the child process.

An audit hook cannot be taken off again. It raises `Denied`, an OSError that says what was refused, and notes every
refusal with its place, for a run that went on behind a refusal has not shown what the program really does. Some of what
is refused to a program is allowed to the framework (loading its own shared libraries): the nearest frame that belongs
neither to the standard library nor to the checker decides.
"""

import _posixsubprocess
import _thread
import dataclasses
import errno
import os
import re
import signal
import stat
import sys
import sysconfig
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

MOST_NOTED = 200

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PROCESSES = frozenset(
    {
        "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.startfile",
        "subprocess.Popen", "pty.spawn", "webbrowser.open",
    }
)  # fmt: skip
_NETWORK = frozenset(
    {
        "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr",
        "socket.getnameinfo", "socket.getservbyname", "socket.sendto", "socket.sendmsg", "urllib.Request",
        "http.client.connect", "ftplib.connect", "smtplib.connect", "poplib.connect", "imaplib.open",
        "telnetlib.Telnet.open", "nntplib.connect",
    }
)  # fmt: skip
_FILES = frozenset(
    {
        "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
        "os.chflags", "os.lockf", "os.utime", "os.setxattr", "os.removexattr", "sqlite3.enable_load_extension",
        "syslog.openlog", "syslog.syslog",
    }
)  # fmt: skip
_OTHERS = frozenset({"os.kill", "os.killpg", "signal.pthread_kill", "resource.setrlimit", "resource.prlimit"})
_INSIDE = frozenset(
    {
        "sys.addaudithook", "sys.settrace", "sys.setprofile", "sys._current_frames", "sys._current_exceptions",
        "gc.get_objects", "gc.get_referrers", "gc.get_referents", "code.__new__", "cpython.PyInterpreterState_New",
    }
)  # fmt: skip
_FOREIGN = frozenset(
    {
        "cffi", "_cffi_backend", "cppyy", "jnius", "clr", "pyximport", "_xxsubinterpreters", "_interpreters", "_testcapi",
        "_testinternalcapi",
    }
)  # fmt: skip
_REFUSING = frozenset({errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOSPC, errno.EMFILE})
_REFUSING_TEXTS = ("Permission denied", "Operation not permitted", "File too large", "can't start new thread")
_KINDS = {
    **dict.fromkeys(_PROCESSES, "process"),
    **dict.fromkeys(_NETWORK, "network"),
    **dict.fromkeys(_FILES, "file"),
    **dict.fromkeys(_OTHERS, "signal"),
    **dict.fromkeys(_INSIDE, "interpreter"),
}
_SAID = {
    "process": "starts another process",
    "network": "uses the network",
    "file": "changes a file",
    "signal": "reaches for other processes or the limits of this one",
    "interpreter": "looks into the interpreter",
    "native": "calls native code by itself",
    "write": "opens a file for writing past open()",
    "read": "reads what is no ordinary file, or too large",
    "threads": "starts too many threads",
    "database": "opens a database file",
}


class Denied(PermissionError):
    """The program reached for what is kept from it while it is checked."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.errno = errno.EACCES


@dataclasses.dataclass(frozen=True)
class Refusal:
    """One thing that was kept from the program.

    Args:
        kind: "process", "network", "file", "signal", "interpreter", "native", "write", "read", "threads", "database".
        what: The event as Python names it, with its first argument.
        file: Where in the program or, for want of that, in a library; "" if nowhere.
        line: There.
        framework: Whether an installed package did it by itself, and not the program's own code.
    """

    kind: str
    what: str
    file: str
    line: int
    framework: bool = False


def watch(
    *, root: str, read_bytes: int, threads: int, note: Callable[[Refusal], None]
) -> Callable[[], tuple[Refusal, ...]]:
    """Install the audit hook; it stays until the process ends.

    Args:
        root: The program's folder: code below it, outside of installed packages, is never taken for the framework's.
        read_bytes: Largest file that may be read.
        threads: Most threads at a time.
        note: Called with each refusal, once for each place and event.

    Returns:
        A function that gives the refusals so far.
    """
    noted: dict[Refusal, None] = {}
    library = tuple(
        {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(os.__file__)}
    )
    installed = _installed()
    root = os.path.join(root, "")
    own = os.path.dirname(os.path.abspath(__file__)) + os.sep
    state = own + "state.py"  # which looks at what generators and caches hold
    getframe, kinds, real_stat, running = sys._getframe, dict(_KINDS).get, os.stat, _thread._count
    harmless = frozenset(("builtins.id", "object.__getattr__", "sys._getframe"))  # by far the most there are
    busy = False

    def culprit(frame: Any) -> tuple[bool, str, int]:
        """Whether the framework did it, and where."""
        while frame is not None:
            name = frame.f_code.co_filename
            outside = not name.startswith("<frozen ") and not name.startswith(own)
            if outside and (not name.startswith(library) or name.startswith(installed)):
                trusted = name.startswith(installed) or name.startswith("<attrs generated")
                return trusted, name, frame.f_lineno
            frame = frame.f_back
        return True, "", 0

    def of_library(frame: Any) -> bool:
        name = frame.f_code.co_filename
        return name.startswith(library) and not name.startswith(installed)

    def place(frame: Any) -> tuple[str, int]:
        """The nearest line of the program's own."""
        while frame is not None:
            name = frame.f_code.co_filename
            if name.startswith(root) and not name.startswith(installed) and not name.startswith(own):
                return name, frame.f_lineno
            frame = frame.f_back
        return "", 0

    def refuse(kind: str, event: str, args: tuple[Any, ...], frame: Any) -> None:
        nonlocal busy
        framework, *_ = caused = culprit(frame)
        file, line = place(frame)
        if not file:
            _, file, line = caused
        first = next((repr(a)[:120] for a in args if isinstance(a, str | bytes | int | tuple)), "")
        refusal = Refusal(kind, f"{event}({first})", file, line, framework)
        if refusal not in noted and len(noted) < MOST_NOTED:
            noted[refusal] = None
            busy = True
            try:
                note(refusal)
            finally:
                busy = False
        raise Denied(f"{refusal.what}: refused while the program is checked, for it {_SAID[kind]}")

    def opened(args: tuple[Any, ...], frame: Any) -> None:
        path, _, flags = args
        if isinstance(path, int) or path is None:
            return
        name = os.fsdecode(path)
        if isinstance(flags, int) and flags & _WRITING:
            if name != os.devnull:
                refuse("write", "open", args, frame)
            return
        if name.startswith(installed) or name.startswith(library):
            return
        if re.fullmatch(r"/proc/(self|thread-self|\d+)(/task/\d+)?/(mem|environ)", os.path.normpath(name)):
            refuse("read", "open", args, frame)
        try:
            found = real_stat(path)
        except (OSError, ValueError):
            return
        ordinary = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
        if not ordinary and name not in (os.devnull, "/dev/urandom", "/dev/random"):
            refuse("read", "open", args, frame)
        if found.st_size > read_bytes:
            refuse("read", "open", args, frame)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in harmless:
            return
        if event == "open":
            if not busy:
                opened(args, getframe(1))
            return
        kind = kinds(event)
        if kind is not None:
            frame = getframe(1)
            if kind == "interpreter" and (
                frame.f_code.co_filename == state
                or culprit(frame)[0]
                or (event == "code.__new__" and of_library(frame))
            ):
                return
            refuse(kind, event, args, frame)
        elif event.startswith("ctypes."):
            frame = getframe(1)
            if not culprit(frame)[0]:
                refuse("native", event, args, frame)
        elif event == "import":
            if args[0] in _FOREIGN and not culprit(getframe(1))[0]:
                refuse("native", event, args, getframe(1))
        elif event == "_thread.start_joinable_thread":
            if running() >= threads:
                refuse("threads", event, (), getframe(1))
        elif event == "sqlite3.connect":
            if args[0] != ":memory:":
                refuse("database", event, args, getframe(1))
        elif event == "object.__setattr__" and (args[0] is hook or _ours(args[0])):
            refuse("interpreter", event, args[1:2], getframe(1))

    locks: Any = import_module("_multiprocessing")
    real_start = _thread.start_new_thread

    def start(function: Any, args: Any, kwargs: Any = None, /) -> int:
        if running() >= threads:
            refuse("threads", "_thread.start_new_thread", (), getframe(1))
        return real_start(function, args, kwargs or {})

    def spawn(*args: Any) -> Any:
        refuse("process", "_posixsubprocess.fork_exec", args[:1], getframe(1))

    class SemLock(locks.SemLock):  # type: ignore[misc]
        """Without it there are no queues and pools; packages that try one and do without are let try."""

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            if culprit(getframe(1))[0]:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            refuse("process", "_multiprocessing.SemLock", args, getframe(1))

    # Python 3.11 announces neither threads nor these ways to a process.
    locks.SemLock = SemLock
    _posixsubprocess.fork_exec = spawn
    for module, name in (
        (_thread, "start_new_thread"),
        (_thread, "start_new"),
        (threading, "_start_new_thread"),
    ):
        setattr(module, name, start)
    sys.addaudithook(hook)
    return lambda: tuple(noted)


def blamed(error: BaseException | None) -> str:
    """Whether an exception of the program may be the sandbox's doing and not the program's.

    The kernel refuses without a word what native code tries, so a refusal can also look like any lack of permission.

    Returns:
        "refused" for what was kept from it, "memory" for a lack of it, "" for neither; causes and contexts count too.
    """
    seen: set[int] = set()
    left = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, MemoryError) or "can't allocate memory" in str(one) or "bad_alloc" in str(one):
            return "memory"
        number = one.errno if isinstance(one, OSError) else None
        if number in _REFUSING or any(text in str(one) for text in _REFUSING_TEXTS):
            return "refused"
        left += [
            one.__cause__,
            one.__context__,
            *(one.exceptions if isinstance(one, BaseExceptionGroup) else ()),
        ]
    return ""


def _ours(value: Any) -> bool:
    """Whether a function or class is the checker's."""
    module = getattr(value, "__module__", None)
    return isinstance(module, str) and module.startswith("sparsam.shapes.")


def _installed() -> tuple[str, ...]:
    """Folders of installed packages."""
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    paths.update(p for p in sys.path if os.path.basename(p) in ("site-packages", "dist-packages"))
    return tuple(os.path.join(path, "") for path in sorted(paths))


def still_signals() -> None:
    """Handlers and alarms of the program are remembered and never come into effect."""
    handlers: dict[int, Any] = {}
    default, real = signal.SIG_DFL, signal.getsignal

    def setting(number: int, handler: Any) -> Any:
        number = int(number)
        if not 1 <= number < signal.NSIG:
            raise ValueError("signal number out of range")
        before = handlers.get(number, real(number) or default)
        handlers[number] = handler
        return before

    def getting(number: int) -> Any:
        return handlers.get(int(number), real(number))

    stand_ins: dict[str, Any] = {
        "signal": setting,
        "getsignal": getting,
        "alarm": lambda seconds: 0,
        "setitimer": lambda which, seconds, interval=0.0: (0.0, 0.0),
        "siginterrupt": lambda number, flag: None,
        "pause": lambda: None,
    }
    for name, stand_in in stand_ins.items():
        setattr(signal, name, stand_in)
