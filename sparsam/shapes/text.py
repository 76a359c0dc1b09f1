"""Source files as Python reads them: bytes, encoding, syntax tree; refused where they are none or would bring it down."""

import ast
import dataclasses
import errno
import io
import os
import re
import stat
import subprocess
import sys
import tokenize
import warnings
from pathlib import Path

from sparsam.errors import Refused
from sparsam.shapes import notebook

_QUICK_BYTES = 256 * 1024  # larger sources, longer lines and deeper brackets are parsed in a child first
_QUICK_LINE = 50_000
_QUICK_DEPTH = 120


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of one reading.

    Args:
        file_bytes: Largest source file or notebook.
        files: Most files of the program's own that are looked into.
        seconds: Longest time that one file may take to parse.
    """

    file_bytes: int = 2 * 1024 * 1024
    files: int = 200
    seconds: float = 5.0


def load(path: Path, *, limits: Limits | None = None) -> str:
    """The text of a source file, with newlines as Python sees them.

    Raises:
        Refused: As `read` does, for what is no readable text.
    """
    data = read_bytes(path, limits or Limits())
    encoding = "utf-8"
    try:
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        except SyntaxError:
            data.decode(encoding)  # says which byte
            raise
        text = data.decode(encoding)
        text.encode("utf-8")
    except (SyntaxError, UnicodeError, LookupError, ValueError, AssertionError) as wrong:
        place, why = "", str(wrong)
        if isinstance(wrong, UnicodeDecodeError):
            line = data.count(b"\n", 0, wrong.start) + 1
            place, why = f":{line}", f"byte {data[wrong.start]:#04x} is not {encoding}"
        raise Refused(
            f"{path}{place}: cannot be read as text ({why}); save it as UTF-8, or name its encoding in the first line",
            code="encoding",
        ) from None
    text = io.IncrementalNewlineDecoder(None, translate=True).decode(text, final=True)
    no_nul(text, path)
    return text


def parse(text: str, path: Path, *, limits: Limits | None = None, cells: tuple[int, ...] = ()) -> ast.Module:
    """The syntax tree of a source text; what could bring the compiler down is parsed in a process of its own first.

    Raises:
        Refused: "syntax" with the place and the line, "too-deep", or "parse-time".
    """
    limits = limits or Limits()
    if _unusual(text):
        _try_elsewhere(text, path, limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text, str(path))
    except SyntaxError as wrong:
        raise _syntax(wrong, text, path, cells) from None
    except (RecursionError, MemoryError, SystemError, OverflowError):
        raise _deep(path) from None
    except (ValueError, UnicodeError) as wrong:
        raise Refused(f"{path}: cannot be compiled ({wrong})", code="syntax") from None


def _unusual(text: str) -> bool:
    if len(text) > _QUICK_BYTES:
        return True
    depth = 0
    for bracket in re.findall(r"[()\[\]{}]", text):
        depth += 1 if bracket in "([{" else -1
        if depth > _QUICK_DEPTH:
            return True
    return any(len(line) > _QUICK_LINE for line in text.split("\n"))


def _try_elsewhere(text: str, path: Path, limits: Limits) -> None:
    """Parse in a child; refuse if it dies or takes too long. What is merely wrong is left for the parent to say."""
    code = (
        "import ast, sys\ntry:\n    ast.parse(sys.stdin.buffer.read().decode('utf-8', 'surrogatepass'))\n"
        "except (Exception, RecursionError, MemoryError): pass"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-W", "ignore", "-c", code],
            input=text.encode("utf-8", "surrogatepass"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=limits.seconds,
        )
    except subprocess.TimeoutExpired:
        raise Refused(
            f"{path}: takes more than {limits.seconds:g} s to parse; split it, or take its data out of the code",
            code="parse-time",
        ) from None
    if done.returncode != 0:
        raise _deep(path)


def _deep(path: Path) -> Refused:
    return Refused(
        f"{path}: its expressions or blocks are nested deeper than Python compiles; break them up",
        code="too-deep",
    )


def _syntax(wrong: SyntaxError, text: str, path: Path, cells: tuple[int, ...]) -> Refused:
    line, column = wrong.lineno or 1, wrong.offset or 1
    lines = split(text)
    shown = lines[line - 1] if 0 < line <= len(lines) else ""
    place = f"{path}:{line}:{max(1, column)}"
    if cells:
        number, inside = notebook.cell_of(cells, line)
        place = f"{path}:cell {number}:{inside}:{max(1, column)}"
    said = f"{place}: {wrong.msg}; Python {sys.version_info[0]}.{sys.version_info[1]} cannot compile it"
    start = max(0, min(column - 1, len(shown)) - 60)
    piece = shown[start : start + 100].replace("\t", " ")
    mark = " " * min(max(0, column - 1 - start), len(piece)) + "^"
    return Refused(f"{said}\n    {piece}\n    {mark}" if piece.strip() else said, code="syntax")


def split(text: str) -> list[str]:
    """Lines as the compiler counts them."""
    return text.split("\n")


def no_nul(text: str, path: Path) -> None:
    """Refuse a NUL byte ("nul")."""
    at = text.find("\0")
    if at >= 0:
        line = text.count("\n", 0, at) + 1
        raise Refused(f"{path}:{line}: holds a NUL byte; a source file is text", code="nul")


def read_bytes(path: Path, limits: Limits) -> bytes:
    """What a regular file holds, if it is not too big."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            kind = os.fstat(descriptor)
            if not stat.S_ISREG(kind.st_mode):
                raise Refused(f"{path} is no regular file; give a source file", code="not-a-file")
            if kind.st_size > limits.file_bytes:
                raise _big(path, kind.st_size, limits)
            pieces, size = [], 0
            while piece := os.read(descriptor, 1 << 20):
                pieces.append(piece)
                size += len(piece)
                if size > limits.file_bytes:
                    raise _big(path, size, limits)
        finally:
            os.close(descriptor)
    except OSError as wrong:
        raise unreadable(path, wrong) from None
    except ValueError as wrong:
        if isinstance(wrong, Refused):
            raise
        raise Refused(f"{str(path)!r} names no file ({wrong})", code="target") from None
    return b"".join(pieces)


def _big(path: Path, size: int, limits: Limits) -> Refused:
    return Refused(
        f"{path} is {size:,} bytes; source files up to {limits.file_bytes:,} bytes are read: take the data out of the code",
        code="too-big",
    )


def unreadable(path: Path, wrong: OSError) -> Refused:
    """The refusal that an error of the system amounts to."""
    if wrong.errno in (errno.ENOENT, errno.ENOTDIR):
        return Refused(f"{path} does not exist; give a script, a folder, or a module", code="not-found")
    if wrong.errno == errno.ELOOP:
        return Refused(
            f"{path} is a symbolic link that leads back to itself; mend the link", code="unreadable"
        )
    if wrong.errno == errno.EISDIR:
        return Refused(f"{path} is a folder; give a source file", code="not-a-file")
    return Refused(
        f"{path} cannot be read ({wrong.strerror or wrong}); check its permissions", code="unreadable"
    )
