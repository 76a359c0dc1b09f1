"""Which lines are the program's: from frames and tracebacks to places in its files."""

import functools
import linecache
import os
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, TracebackType

from sparsam.shapes.verdict import Place

LIBRARIES = tuple(
    sorted(
        {
            os.path.dirname(os.__file__),
            sys.prefix,
            sys.base_prefix,
            os.path.dirname(os.path.dirname(__file__)),
        }
    )
)


class Places:
    """Tells the program's own files from those of libraries.

    Args:
        own: Whether a file is the program's. By default: every file that lies in no library.
        source: Text of a line of a file; from the file by default.
    """

    def __init__(
        self,
        own: Callable[[str], bool] | None = None,
        source: Callable[[str, int], str] | None = None,
    ) -> None:
        self._own = own or not_of_a_library
        self._known: dict[str, bool] = {}
        self._places: dict[tuple[str, CodeType, int, int | None], Place] = {}
        self._source = source or (lambda file, line: linecache.getline(file, line).rstrip("\n"))

    def own(self, file: str) -> bool:
        """Whether a file is the program's."""
        known = self._known.get(file)
        if known is None:
            known = self._known[file] = self._own(file)
        return known

    def innermost(self, frame: FrameType | None) -> Place | None:
        """The innermost line of the program at or above a frame."""
        while frame is not None:
            if self.own(frame.f_code.co_filename):
                return self.of(frame.f_code, frame.f_lasti, frame.f_lineno)
            frame = frame.f_back
        return None

    def chain(self, traceback: TracebackType | None, above: FrameType | None = None) -> tuple[Place, ...]:
        """The program's lines that led to an exception, the innermost last."""
        return tuple(
            self.of(step.tb_frame.f_code, step.tb_lasti, step.tb_lineno) for step in self.steps(traceback)
        )

    def steps(self, traceback: TracebackType | None) -> Iterator[TracebackType]:
        """The steps of a traceback that lie in the program."""
        while traceback is not None:
            if self.own(traceback.tb_frame.f_code.co_filename):
                yield traceback
            traceback = traceback.tb_next

    def of(self, code: CodeType, instruction: int, line: int | None) -> Place:
        """The place of one instruction."""
        key = code.co_filename, code, instruction, line  # pieces of code are equal whatever file they are in
        known = self._places.get(key)
        if known is None:
            known = self._places[key] = self._of(code, instruction, line)
        return known

    def _of(self, code: CodeType, instruction: int, line: int | None) -> Place:
        column, end = 1, 0
        positions = _positions(code)
        index = instruction // 2
        if 0 <= index < len(positions):
            first, last, start, stop = positions[index]
            if first is not None and first == (line or first):
                text = self._source(code.co_filename, first)
                column = _characters(text, start) + 1 if start is not None else 1
                end = _characters(text, stop) + 1 if stop is not None and last == first else len(text) + 1
        return Place(
            code.co_filename,
            line or 0,
            column,
            end,
            code.co_qualname,
            self._source(code.co_filename, line or 0),
        )


@functools.lru_cache(maxsize=256)
def _positions(code: CodeType) -> tuple[tuple[int | None, int | None, int | None, int | None], ...]:
    return tuple(code.co_positions())


def not_of_a_library(file: str) -> bool:
    """Whether a file lies in no library: neither Python's own, nor an installed one, nor this package."""
    if file.startswith("<"):
        return False
    file = os.path.abspath(file)
    return not file.startswith(LIBRARIES) and "site-packages" not in file


def _characters(text: str, offset: int) -> int:
    """Characters before a byte offset of a line."""
    return len(text.encode()[:offset].decode(errors="replace"))
