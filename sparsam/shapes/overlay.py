"""Files that a program writes while it is checked: kept in memory, read back in the same run, gone at its end.

`install` puts stand-ins in the place of `open` and of those functions of `os` that change or look at files. What was
written, made, moved or removed is remembered by absolute path; everything else is the real file system, read only.
"""

import builtins
import errno
import hashlib
import io
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_FOLDER, _GONE = object(), object()
_GENUINE = frozenset({"posix", "_io", "_frozen_importlib", "_frozen_importlib_external", "__main__"})
_real_open, _real_stat, _real_lstat = io.open, os.stat, os.lstat
_real_listdir, _real_scandir, _real_access = os.listdir, os.scandir, os.access


class _Content:
    """Bytes of one file in memory."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.changed = time.time()


class Raw(io.RawIOBase):
    """An open file of the overlay, for io's buffers to stand on."""

    def __init__(self, overlay: "Overlay", content: _Content | None, name: Any, mode: str) -> None:
        self._overlay, self._content, self.name, self.mode = overlay, content, name, mode
        self._reads, self._writes = "r" in mode or "+" in mode, mode.strip("rbt") != ""
        self._appends = "a" in mode
        self._at = len(content.data) if content is not None and self._appends else 0

    def append(self) -> None:
        """Write at the end from now on."""
        self._appends = True

    def readable(self) -> bool:
        return self._reads

    def writable(self) -> bool:
        return self._writes

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._reads:
            raise io.UnsupportedOperation("not readable")
        if self._content is None:
            return 0
        piece = self._content.data[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def write(self, data: Any) -> int:
        if not self._writes:
            raise io.UnsupportedOperation("not writable")
        view = memoryview(data).cast("B")
        if self._content is None or not len(view):
            return len(view)
        held = self._content.data
        if self._appends:
            self._at = len(held)
        end = self._at + len(view)
        self._overlay.take(max(0, end - len(held)))
        if self._at > len(held):
            held.extend(bytes(self._at - len(held)))
        held[self._at : end] = view
        self._at, self._content.changed = end, time.time()
        return len(view)

    def seek(self, offset: int, whence: int = 0) -> int:
        length = len(self._content.data) if self._content is not None else 0
        at = offset + (0, self._at, length)[whence]
        if at < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def truncate(self, size: int | None = None) -> int:
        size = self._at if size is None else size
        if self._content is not None:
            held = self._content.data
            self._overlay.take(size - len(held))
            if size < len(held):
                del held[size:]
            else:
                held.extend(bytes(size - len(held)))
        return size


class _Entry:
    """What `os.scandir` gives for one name."""

    def __init__(self, overlay: "Overlay", folder: str, name: str) -> None:
        self._overlay, self.name, self.path = overlay, name, os.path.join(folder, name)

    def __fspath__(self) -> str:
        return self.path

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return self._overlay.stat(self.path, follow_symlinks=follow_symlinks)

    def inode(self) -> int:
        return self.stat().st_ino

    def _is(self, test: Callable[[int], bool], follow_symlinks: bool = True) -> bool:
        try:
            return test(self.stat(follow_symlinks=follow_symlinks).st_mode)
        except OSError:
            return False

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self._is(stat.S_ISDIR, follow_symlinks)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return self._is(stat.S_ISREG, follow_symlinks)

    def is_symlink(self) -> bool:
        return self._is(stat.S_ISLNK, False)

    def is_junction(self) -> bool:
        return False


class _Entries:
    """The iterator of `os.scandir`, which is also a context."""

    def __init__(self, entries: list[_Entry]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[_Entry]:
        return self._entries

    def __next__(self) -> _Entry:
        return next(self._entries)

    def __enter__(self) -> "_Entries":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._entries = iter(())


class Overlay:
    """The files of one run.

    Args:
        most_bytes: That all files together may hold; more is "no space left on device".
    """

    def __init__(self, most_bytes: int) -> None:
        self._most, self._held = most_bytes, 0
        self._nodes: dict[str, Any] = {}
        self._kept: tuple[int, dict[str, Any]] = (0, {})

    def keep(self) -> None:
        """What is there now is there in each run."""
        self._kept = self._held, dict(self._nodes)

    def begin_run(self) -> None:
        """Forgets what the run before did to files."""
        self._held, self._nodes = self._kept[0], dict(self._kept[1])

    def written(self) -> str:
        """All that a run did to files so far, as text for comparison."""
        kept = self._kept[1]
        return "".join(
            f"{path} {_digest(node)}"
            for path, node in sorted(self._nodes.items())
            if kept.get(path) is not node
        )

    def take(self, count: int) -> None:
        """Account for bytes.

        Raises:
            OSError: If there is no room for them (ENOSPC).
        """
        if self._held + count > self._most:
            raise OSError(errno.ENOSPC, f"files of a checked program may hold {self._most:,} bytes together")
        self._held += count

    def make_folder(self, path: str) -> None:
        """A folder, with those above it, that need not exist."""
        while path not in self._nodes and path != os.path.dirname(path):
            self._nodes[path] = _FOLDER
            path = os.path.dirname(path)

    def _node(self, path: str) -> Any:
        """What the overlay knows of a path: content, folder, gone; None if it says nothing."""
        node = self._nodes.get(path)
        if node is not None or not self._nodes:
            return node
        above = os.path.dirname(path)
        while above != os.path.dirname(above):
            if self._nodes.get(above) is _GONE:
                return _GONE
            above = os.path.dirname(above)
        return None

    def stat(self, path: Any, *, dir_fd: Any = None, follow_symlinks: bool = True) -> os.stat_result:
        key = _key(path) if dir_fd is None else None
        node = self._node(key) if key is not None else None
        if node is None:
            return _real_stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        if node is _GONE:
            raise _error(errno.ENOENT, path)
        size = 4096 if node is _FOLDER else len(node.data)
        when = node.changed if node is not _FOLDER else 0.0
        mode = stat.S_IFDIR | 0o755 if node is _FOLDER else stat.S_IFREG | 0o644
        seconds = int(when)
        number = hash(key) & 0x7FFFFFFF
        return os.stat_result((mode, number, 0, 1, os.getuid(), os.getgid(), size, seconds, seconds, seconds))

    def lstat(self, path: Any, *, dir_fd: Any = None) -> os.stat_result:
        return self.stat(path, dir_fd=dir_fd, follow_symlinks=False)

    def knows(self, path: Any) -> bool:
        """Whether a path was written, made, moved or removed."""
        key = _key(path)
        return key is not None and self._node(key) is not None

    def exists(self, path: Any) -> bool:
        return self._kind(path) != ""

    def access(self, path: Any, mode: int, **options: Any) -> bool:
        key = _key(path)
        node = self._node(key) if key is not None else None
        return bool(_real_access(path, mode, **options)) if node is None else node is not _GONE

    def _kind(self, path: Any) -> str:
        try:
            mode = self.stat(path).st_mode
        except OSError:
            return ""
        return "folder" if stat.S_ISDIR(mode) else "file"

    def _parent(self, path: Any) -> None:
        """Refuse where the folder above does not exist, as the system does."""
        kind = self._kind(os.path.dirname(_key(path) or "") or ".")
        if kind != "folder":
            raise _error(errno.ENOTDIR if kind else errno.ENOENT, path)

    def open(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        key = None if isinstance(file, int) or not isinstance(mode, str) else _key(file)
        writes = key is not None and any(letter in mode for letter in "wax+")
        node = self._node(key) if key is not None else None
        if key is None or (not writes and node is None):
            return _real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if set(mode) - set("rwaxbt+") or sum(mode.count(letter) for letter in "rwax") != 1:
            raise ValueError(f"invalid mode: {mode!r}")
        if "b" in mode and (encoding is not None or errors is not None or newline is not None):
            raise ValueError("binary mode doesn't take an encoding, errors or newline argument")
        content = None if key == os.devnull else self._content(key, file, mode)
        return self.dress(Raw(self, content, file, mode), mode, buffering, encoding, errors, newline)

    def dress(
        self,
        raw: Raw,
        mode: str,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        *_: Any,
        **__: Any,
    ) -> Any:
        """A raw file with the buffer and the text layer that `open` would put on it."""
        if "b" in mode and buffering == 0:
            return raw
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        writes = any(letter in mode for letter in "wax")
        kind = io.BufferedRandom if "+" in mode else io.BufferedWriter if writes else io.BufferedReader
        binary: Any = kind(raw, size)
        if "b" in mode:
            return binary
        text = io.TextIOWrapper(binary, encoding, errors, newline, line_buffering=buffering == 1)
        text.mode = mode  # type: ignore[misc]
        return text

    def _content(self, key: str, file: Any, mode: str) -> _Content:
        node, kind = self._node(key), self._kind(file)
        if kind == "folder":
            raise _error(errno.EISDIR, file)
        if kind and "x" in mode:
            raise _error(errno.EEXIST, file)
        if not kind:
            if "r" in mode:
                raise _error(errno.ENOENT, file)
            self._parent(file)
        if isinstance(node, _Content):
            if "w" in mode:
                self.take(-len(node.data))
                node.data.clear()
            return node
        data = b""
        if kind and "w" not in mode:
            with _real_open(file, "rb") as real:
                data = real.read()
        self.take(len(data))
        self._nodes[key] = made = _Content(data)
        return made

    def mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: Any = None) -> None:
        if self._kind(path):
            raise _error(errno.EEXIST, path)
        self._parent(path)
        self._nodes[_sure(path)] = _FOLDER

    def remove(self, path: Any, *, dir_fd: Any = None) -> None:
        kind = self._kind(path)
        if kind != "file":
            raise _error(errno.EISDIR if kind else errno.ENOENT, path)
        self._drop(_sure(path))

    def rmdir(self, path: Any, *, dir_fd: Any = None) -> None:
        kind = self._kind(path)
        if kind != "folder":
            raise _error(errno.ENOTDIR if kind else errno.ENOENT, path)
        if self.listdir(path):
            raise _error(errno.ENOTEMPTY, path)
        self._drop(_sure(path))

    def _drop(self, key: str) -> None:
        node = self._nodes.get(key)
        if isinstance(node, _Content):
            self.take(-len(node.data))
        self._nodes[key] = _GONE

    def replace(self, src: Any, dst: Any, *, src_dir_fd: Any = None, dst_dir_fd: Any = None) -> None:
        """Also for `os.rename`."""
        start, end = _sure(src), _sure(dst)
        kind, there = self._kind(src), self._kind(dst)
        if not kind:
            raise _error(errno.ENOENT, src)
        self._parent(dst)
        if there and there != kind:
            raise _error(errno.EISDIR if there == "folder" else errno.ENOTDIR, dst)
        if start == end:
            return
        if kind == "file":
            content = self._content(start, src, "r+")
            if isinstance(self._nodes.get(end), _Content):
                self._drop(end)
            self._nodes[end], self._nodes[start] = content, _GONE
            return
        if there and self.listdir(dst):
            raise _error(errno.ENOTEMPTY, dst)
        if (end + os.sep).startswith(start + os.sep):
            raise _error(errno.EINVAL, dst)
        self._nodes[end] = _FOLDER
        for name in self.listdir(src):
            self.replace(os.path.join(start, name), os.path.join(end, name))
        self._nodes[start] = _GONE

    def listdir(self, path: Any = ".") -> list[Any]:
        key = _key(path)
        if key is None or isinstance(path, bytes):
            return list(_real_listdir(path))
        kind = self._kind(path)
        if kind != "folder":
            raise _error(errno.ENOTDIR if kind else errno.ENOENT, path)
        names = set() if self._node(key) is _FOLDER else set(_real_listdir(path))
        start = key.rstrip(os.sep) + os.sep
        for other, node in self._nodes.items():
            name = other[len(start) :] if other.startswith(start) else ""
            if name and os.sep not in name:
                (names.discard if node is _GONE else names.add)(name)
        return sorted(names)

    def scandir(self, path: Any = ".") -> Any:
        key = _key(path)
        if key is None or isinstance(path, bytes):
            return _real_scandir(path)
        touched = self._node(key) is not None or any(o.startswith(key + os.sep) for o in self._nodes)
        if not touched:
            return _real_scandir(path)
        return _Entries([_Entry(self, os.fspath(path), name) for name in self.listdir(path)])

    def truncate(self, path: Any, length: int) -> None:
        with self.open(path, "r+b", buffering=0) as file:
            file.truncate(length)

    def touch(self, path: Any, *_: Any, **__: Any) -> None:
        """For `os.chmod`, `os.chown` and `os.utime`: nothing but the question whether the file is there."""
        self.stat(path)

    def attributes(self, path: Any = ".", **_: Any) -> list[str]:
        """For `os.listxattr`: none."""
        self.stat(path)
        return []


def _digest(node: Any) -> str:
    if isinstance(node, _Content):
        return hashlib.sha256(node.data).hexdigest()
    return "folder" if node is _FOLDER else "gone"


def _key(path: Any) -> str | None:
    """Absolute form of a path; None for a descriptor."""
    if isinstance(path, int):
        return None
    try:
        text = os.fsdecode(path)
    except TypeError:
        return None
    return os.path.abspath(text) if text else None


def _sure(path: Any) -> str:
    key = _key(path)
    if key is None:
        raise _error(errno.ENOENT if not isinstance(path, int) else errno.EBADF, path)
    return key


def _error(number: int, path: Any) -> OSError:
    return OSError(number, os.strerror(number), path)


_installed: list[Overlay] = []


def begin_run() -> None:
    """Before a run of the program: files that the run before wrote are gone."""
    for overlay in _installed:
        overlay.begin_run()


def written() -> str:
    """All that the run in progress did to files, as text for comparison."""
    return "".join(overlay.written() for overlay in _installed)


def install(most_bytes: int, scratch: str) -> Overlay:
    """Put the stand-ins in place, for the whole process and for good.

    Args:
        most_bytes: Of all files in memory together.
        scratch: Folder that is made in the overlay for temporary files, and that need not exist.
    """
    overlay = Overlay(most_bytes)
    overlay.make_folder(scratch)
    overlay.keep()
    _installed[:] = [overlay]
    places: tuple[tuple[Any, dict[str, Any]], ...] = (
        (builtins, {"open": overlay.open}),
        (io, {"open": overlay.open}),
        (
            os,
            {
                "stat": overlay.stat,
                "lstat": overlay.lstat,
                "access": overlay.access,
                "mkdir": overlay.mkdir,
                "remove": overlay.remove,
                "unlink": overlay.remove,
                "rmdir": overlay.rmdir,
                "rename": overlay.replace,
                "replace": overlay.replace,
                "listdir": overlay.listdir,
                "scandir": overlay.scandir,
                "truncate": overlay.truncate,
                "chmod": overlay.touch,
                "chown": overlay.touch,
                "utime": overlay.touch,
                "listxattr": overlay.attributes,
            },
        ),
        (shutil, {"_use_fd_functions": False}),
        (
            tempfile,
            {
                "tempdir": scratch,
                "TemporaryFile": _temporary(overlay, named=False),
                "NamedTemporaryFile": _temporary(overlay, named=True),
                "SpooledTemporaryFile": _temporary(overlay, named=False, spooled=True),
            },
        ),
    )
    replace([(module, name, stand_in) for module, names in places for name, stand_in in names.items()])
    return overlay


def replace(stand_ins: Sequence[tuple[Any, str, Any]]) -> None:
    """Put stand-ins in place, and in all modules that have taken hold of what they stand for under any name.

    Args:
        stand_ins: Module, name in it, and what is to be there.
    """
    instead = {
        id(getattr(module, name)): stand_in for module, name, stand_in in stand_ins if callable(stand_in)
    }
    for module, name, stand_in in stand_ins:
        setattr(module, name, stand_in)
    for module_name, module in list(sys.modules.items()):
        if module_name in _GENUINE or module_name.startswith(("sparsam.shapes.", "importlib.")):
            continue
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if id(value) in instead:
                setattr(module, name, instead[id(value)])


def _temporary(overlay: Overlay, *, named: bool, spooled: bool = False) -> Callable[..., Any]:
    """A stand-in for one of tempfile's files: it lives in the overlay and is forgotten at its end, not at its closing."""

    def temporary(*given: Any, **options: Any) -> Any:
        order = ["mode", "buffering", "encoding", "newline", "suffix", "prefix", "dir"]
        chosen = {**dict(zip(["max_size", *order] if spooled else order, given, strict=False)), **options}
        words = {key: chosen[key] for key in ("buffering", "encoding", "newline", "errors") if key in chosen}
        suffix, prefix = chosen.get("suffix") or "", chosen.get("prefix") or "tmp"
        name = tempfile.mktemp(suffix, prefix, chosen.get("dir") or tempfile.gettempdir())
        file = overlay.open(name, chosen.get("mode", "w+b"), **words)
        if not named:
            overlay.remove(name)
        return file

    return temporary
