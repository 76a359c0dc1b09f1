"""What the kernel of Linux lends to a sandbox without privileges; each means optional, each reported.

Resource limits, a network namespace of its own, Landlock (no write below any folder, no TCP, no signals to others), a
seccomp filter (no sockets, no new processes or programs, no change of any file), no new privileges, and an end with the
parent. Facts are those of the manual pages setrlimit(2), unshare(2), landlock(7), seccomp(2), prctl(2).
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Callable

_NO_NEW_PRIVILEGES, _DEATH_SIGNAL = 38, 1  # prctl
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same on every architecture
_SECCOMP = {"x86_64": 317}
_AUDIT_ARCH = 0xC000003E  # x86-64
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # classic BPF
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | 0o20000000  # the last: without a name
_CLONE_THREAD = 0x00010000

# Numbers of x86-64; the answer is "not permitted".
_FORBIDDEN = {
    "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "ptrace": 101, "tkill": 200, "rt_sigqueueinfo": 129,
    "rt_tgsigqueueinfo": 297, "pidfd_send_signal": 424, "pidfd_open": 434, "pidfd_getfd": 438, "process_vm_readv": 310,
    "process_vm_writev": 311, "setsid": 112, "setpgid": 109, "setrlimit": 160,
    "socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "accept4": 288,
    "creat": 85, "truncate": 76, "rename": 82, "renameat": 264, "renameat2": 316, "mkdir": 83, "mkdirat": 258,
    "rmdir": 84, "link": 86, "linkat": 265, "unlink": 87, "unlinkat": 263, "symlink": 88, "symlinkat": 266, "chmod": 90,
    "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260,
    "mknod": 133, "mknodat": 259, "utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280, "setxattr": 188,
    "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199,
    "open_by_handle_at": 304, "shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240,
    "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170,
    "setdomainname": 171, "init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246,
    "kexec_file_load": 320, "acct": 163, "settimeofday": 164, "clock_settime": 227, "adjtimex": 159, "iopl": 172,
    "ioperm": 173, "quotactl": 179, "syslog": 103, "add_key": 248, "request_key": 249, "keyctl": 250,
    "perf_event_open": 298, "bpf": 321, "userfaultfd": 323,
}  # fmt: skip
# The answer is "no such call": what the C library falls back from, and what would go round a filter.
_ABSENT = {
    "clone3": 435,
    "openat2": 437,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
}
_CLONE, _KILL_CALL, _TGKILL, _OPEN, _OPENAT, _PRLIMIT = 56, 62, 234, 2, 257, 302


def confine(*, seconds: float, memory: int, file_bytes: int) -> dict[str, str]:
    """Take everything away from this process that the kernel can take; what is taken cannot be had again.

    Args:
        seconds: Processor time, over all threads.
        memory: Bytes of private memory that can be written (RLIMIT_DATA); the address space is held to what is mapped
            now plus three times as much, for libraries map more than they use.
        file_bytes: Longest file that can be written, memory files included.

    Returns:
        For each means "yes", or "no: " and the reason.
    """
    if not sys.platform.startswith("linux"):
        limits = _attempt(lambda: _limit(seconds, memory, file_bytes))
        why = f"no: not written for {sys.platform}"
        return {"resource limits": limits, **dict.fromkeys(_MEANS[1:], why)}
    library = ctypes.CDLL(None, use_errno=True)
    steps: tuple[Callable[[], object], ...] = (
        lambda: _limit(seconds, memory, file_bytes),
        lambda: _checked(library.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)),
        lambda: _network(library),
        lambda: _checked(library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)),
        lambda: _landlock(library),
        lambda: _seccomp(library),
    )
    return {name: _attempt(step) for name, step in zip(_MEANS, steps, strict=True)}


_MEANS = (
    "resource limits",
    "end with the parent",
    "network namespace",
    "no new privileges",
    "Landlock",
    "seccomp",
)


def _attempt(step: Callable[[], object]) -> str:
    try:
        step()
    except (OSError, ValueError, AttributeError) as wrong:
        return f"no: {getattr(wrong, 'strerror', None) or wrong}"
    return "yes"


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _limit(seconds: float, memory: int, file_bytes: int) -> None:
    spent = sum(os.times()[:2])
    processor = int(spent + seconds) + 2
    for name, soft in (
        ("RLIMIT_CORE", 0),
        ("RLIMIT_FSIZE", file_bytes),
        ("RLIMIT_CPU", processor),
        ("RLIMIT_NOFILE", 512),
        ("RLIMIT_DATA", memory),
        ("RLIMIT_AS", _mapped() + 3 * memory),
    ):
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
        resource.setrlimit(number, (value, value + (1 if name == "RLIMIT_CPU" else 0)))


def _mapped() -> int:
    """Bytes of address space in use."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 1 << 30


def _network(library: ctypes.CDLL) -> None:
    """A network of its own without any device up; the user keeps the same numbers."""
    user, group = os.geteuid(), os.getegid()
    _checked(library.unshare(_NEW_USER | _NEW_NET))
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        try:
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
        except OSError:
            return  # without a map the user is nobody, which still reads what all may read


def _landlock(library: ctypes.CDLL) -> None:
    version = _checked(library.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))
    execute, write, truncate = 1 << 0, 1 << 1, 1 << 14
    access = execute | write | sum(1 << bit for bit in range(4, 13))
    access |= (1 << 13 if version >= 2 else 0) | (truncate if version >= 3 else 0)
    fields = [access]
    if version >= 4:
        fields.append(0b11)  # bind and connect of TCP
    if version >= 6:
        fields.append(0b11)  # abstract sockets of others, signals to others
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    rules = _checked(library.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0))
    try:
        null = os.open(os.devnull, os.O_PATH | os.O_CLOEXEC)
        allowed = write | (truncate if version >= 3 else 0)
        _checked(library.syscall(_LANDLOCK_ADD, rules, 1, struct.pack("=Qi", allowed, null), 0))
        os.close(null)
        _checked(library.syscall(_LANDLOCK_RESTRICT, rules, 0))
    finally:
        os.close(rules)


def _seccomp(library: ctypes.CDLL) -> None:
    machine = platform.machine()
    if machine not in _SECCOMP or sys.maxsize < 2**32:
        raise OSError(errno.ENOSYS, f"no filter is written for {machine}")
    program = _filter(os.getpid())
    code = ctypes.create_string_buffer(program, len(program))

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    whole = Filter(len(program) // 8, ctypes.addressof(code))
    every_thread = 1
    result = library.syscall(_SECCOMP[machine], 1, every_thread, ctypes.byref(whole))
    if result > 0:
        raise OSError(errno.ESRCH, f"thread {result} cannot be confined")
    _checked(result)


def _filter(process: int) -> bytes:
    """The program that judges each call of the system; each case ends in a return."""

    def denied(number: int) -> tuple[int, int, int, int]:
        return (_RETURN, 0, 0, _ERRNO | number)

    allowed = (_RETURN, 0, 0, _ALLOW)
    steps = [
        (_LOAD, 0, 0, 4),  # architecture
        (_EQUAL, 1, 0, _AUDIT_ARCH),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # number of the call
        (_AT_LEAST, 0, 1, 0x40000000),  # the 32-bit kind
        denied(errno.EPERM),
    ]

    def case(number: int, *body: tuple[int, int, int, int]) -> None:
        steps.append((_EQUAL, 0, len(body), number))
        steps.extend(body)

    for number in _FORBIDDEN.values():
        case(number, denied(errno.EPERM))
    for number in _ABSENT.values():
        case(number, denied(errno.ENOSYS))
    for number, flags in ((_OPEN, 1), (_OPENAT, 2)):
        case(
            number,
            (_LOAD, 0, 0, 16 + 8 * flags),
            (_ANY_BIT, 0, 1, _WRITING),
            denied(errno.EACCES),
            allowed,
        )
    case(_CLONE, (_LOAD, 0, 0, 16), (_ANY_BIT, 1, 0, _CLONE_THREAD), denied(errno.EPERM), allowed)
    for number in (_KILL_CALL, _TGKILL):
        case(number, (_LOAD, 0, 0, 16), (_EQUAL, 1, 0, process), denied(errno.EPERM), allowed)
    low, high = 16 + 8 * 2, 16 + 8 * 2 + 4
    case(
        _PRLIMIT,
        (_LOAD, 0, 0, low),
        (_EQUAL, 0, 2, 0),
        (_LOAD, 0, 0, high),
        (_EQUAL, 1, 0, 0),
        denied(errno.EPERM),
        allowed,
    )
    steps.append(allowed)
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
