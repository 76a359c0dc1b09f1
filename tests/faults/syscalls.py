"""Faults at the system calls themselves: a traced child is killed at its k-th call on a folder, or the call fails.

What ``strace -e inject`` does, for calls whose path or file lies below a root. Nothing is replaced in the child, so writes of
foreign libraries (safetensors') count, too. Linux on x86-64 alone; the sweeps over Python's own calls (:mod:`tripwire`) run
everywhere.
"""

import ctypes
import os
import platform
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from children import in_child

_LIBRARY = ctypes.CDLL(None, use_errno=True)  # before a test takes CDLL away
_TRACEME, _GETREGS, _SETREGS, _SYSCALL, _SETOPTIONS = 0, 12, 13, 24, 0x4200
_SYSGOOD, _EXITKILL = 1, 0x100000

# number: name, where its arguments hold (directory descriptor, path) pairs, or one descriptor.
_PATHS = {
    2: ("open", ((None, "rdi"),)),
    257: ("open", (("rdi", "rsi"),)),
    76: ("truncate", ((None, "rdi"),)),
    82: ("rename", ((None, "rdi"), (None, "rsi"))),
    264: ("rename", (("rdi", "rsi"), ("rdx", "r10"))),
    316: ("rename", (("rdi", "rsi"), ("rdx", "r10"))),
    83: ("mkdir", ((None, "rdi"),)),
    258: ("mkdir", (("rdi", "rsi"),)),
    90: ("chmod", ((None, "rdi"),)),
    268: ("chmod", (("rdi", "rsi"),)),
    87: ("unlink", ((None, "rdi"),)),
    263: ("unlink", (("rdi", "rsi"),)),
    84: ("rmdir", ((None, "rdi"),)),
}
_FILES = {
    1: "write",
    18: "write",
    20: "write",
    74: "fsync",
    75: "fsync",
    77: "truncate",
    91: "chmod",
    285: "allocate",
}
_READS = {0: "read", 17: "read", 217: "list"}
REMOVALS = ("unlink", "rmdir")
_REGISTERS = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", "orig_rax",
    "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
)  # fmt: skip


class _Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in _REGISTERS]


def _ptrace(request: int, pid: int, address: int = 0, data: Any = 0) -> None:
    call = _LIBRARY.ptrace
    call.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    call.restype = ctypes.c_long
    if call(request, pid, address, data) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"ptrace {request}: {os.strerror(code)}")


@cache
def can_trace() -> bool:
    """Whether this machine lets us trace our own children."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False

    def work() -> int:
        _ptrace(_TRACEME, 0)
        return 0

    return in_child(work) == 0


@dataclass
class Traced:
    """How a traced child ended, and its counted calls in order."""

    code: int = 0
    calls: list[str] = field(default_factory=list)
    tripped: bool = False


def traced(
    work: Callable[[], Any],
    root: Path,
    k: int = 0,
    *,
    error: int | None = None,
    stays: bool = False,
    removals: bool = False,
    reads: bool = False,
    torn: bool = False,
) -> Traced:
    """Run ``work`` in a child; at its k-th call below ``root`` kill it, or let the call fail with ``error``.

    Args:
        work: what the child does; returns its exit code.
        root: only calls on what lies below it count.
        k: which call; 0 lets the child run, and counts.
        error: an errno to answer the call with, in place of the kill.
        stays: the calls after the k-th fail, too, but for removals.
        removals: unlink and rmdir count, too.
        reads: reading a file and listing a folder count, too.
        torn: a write that is hit writes the first half of its bytes before the kill.
    """
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            _ptrace(_TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            code = int(work() or 0)
        finally:
            os._exit(code)
    os.waitpid(pid, 0)
    _ptrace(_SETOPTIONS, pid, 0, _SYSGOOD | _EXITKILL)
    found = Traced()
    entering, answer, last = True, None, False
    registers = _Registers()
    deliver = 0
    while True:
        _ptrace(_SYSCALL, pid, 0, deliver)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            found.code = os.waitstatus_to_exitcode(status)
            return found
        if os.WSTOPSIG(status) != signal.SIGTRAP | 0x80:
            deliver = os.WSTOPSIG(status)
            continue
        deliver = 0
        if not entering:
            entering = True
            if last:
                break
            if answer is not None:
                _ptrace(_GETREGS, pid, 0, ctypes.addressof(registers))
                registers.rax = (1 << 64) - answer
                _ptrace(_SETREGS, pid, 0, ctypes.addressof(registers))
                answer = None
            continue
        entering = False
        _ptrace(_GETREGS, pid, 0, ctypes.addressof(registers))
        name = _counted(pid, registers, str(root), _FILES | _READS if reads else _FILES)
        if name is None or (name in REMOVALS and not removals):
            continue
        found.calls.append(name)
        if not k or not (len(found.calls) == k or (stays and found.tripped)):
            continue
        found.tripped = True
        if error is not None:
            answer, registers.orig_rax = error, (1 << 64) - 1  # no such call: it does nothing
        elif torn and name == "write" and registers.orig_rax == 1:
            last, registers.rdx = True, registers.rdx // 2
        else:
            break
        _ptrace(_SETREGS, pid, 0, ctypes.addressof(registers))
    os.kill(pid, signal.SIGKILL)
    found.code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return found


def _counted(pid: int, registers: _Registers, root: str, files: dict[int, str]) -> str | None:
    """The name of a call, if it is on something below ``root``."""
    number = registers.orig_rax
    if number in files:
        return files[number] if _target(pid, registers.rdi).startswith(root) else None
    if number not in _PATHS:
        return None
    name, pairs = _PATHS[number]
    for folder, path in pairs:
        text = _text(pid, getattr(registers, path))
        if not text.startswith("/") and folder is not None:
            text = os.path.join(_target(pid, getattr(registers, folder)), text)
        if text.startswith(root):
            return name
    return None


def _target(pid: int, descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{ctypes.c_int(descriptor & 0xFFFFFFFF).value}")
    except OSError:
        return ""


def _text(pid: int, address: int) -> str:
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            return memory.read(4096 - address % 4096 or 4096).partition(b"\0")[0].decode(errors="replace")
    except (OSError, ValueError, OverflowError):
        return ""
