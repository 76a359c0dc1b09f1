"""Code cells of a notebook as one source text, with what is no Python left out and every line's cell known."""

import bisect
import json
import re
from typing import Any

from sparsam.errors import Refused

_RUNS_BODY = frozenset(
    {"time", "timeit", "capture", "prun", "memit", "mprun"}
)  # cell magics around ordinary Python
_PIECE = re.compile(
    r"""(?P<comment>\#[^\n]*)|(?P<triple>'{3}|"{3})|(?P<string>'(?:\\.|[^'\\\n])*'?|"(?:\\.|[^"\\\n])*"?)"""
    r"""|(?P<open>[(\[{])|(?P<close>[)\]}])""",
    re.DOTALL,
)
_ASSIGNED = re.compile(r"(?P<before>\s*[\w.,\s\[\]]+=\s*)[!%]")


def join(data: bytes, name: str) -> tuple[str, tuple[int, ...], tuple[tuple[int, str], ...]]:
    """Read a notebook.

    Returns:
        The joined source; the line in it at which each code cell begins, counted from one; and the lines left out
        (magics, shell commands, help) with what stood there. An assignment from a magic becomes one from None.

    Raises:
        Refused: "notebook" for what is none, "notebook-language" for one that is not in Python, "empty" without code.
    """
    try:
        book = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as wrong:
        raise Refused(f"{name}: a notebook is UTF-8, this is not ({wrong.reason})", code="encoding") from None
    except RecursionError:
        raise Refused(f"{name}: its JSON is nested too deep for a notebook", code="too-deep") from None
    except ValueError as wrong:
        text = "it is empty" if not data.strip() else f"its JSON is broken: {wrong}"
        raise Refused(
            f"{name} is no notebook ({text}); save it again from Jupyter", code="notebook"
        ) from None
    cells = _code_cells(book, name)
    lines: list[str] = []
    starts: list[int] = []
    dropped: list[tuple[int, str]] = []
    for source in cells:
        starts.append(len(lines) + 1)
        kept, left_out = _python(source)
        dropped.extend((len(lines) + at, text) for at, text in left_out)
        lines.extend(kept)
    if not any(line.strip() for line in lines):
        raise Refused(f"{name} has no code cells with code in them", code="empty")
    text = "\n".join(lines) + "\n"
    if re.search("[\ud800-\udfff]", text):
        raise Refused(f"{name} holds half a surrogate pair, which is no text; type it again", code="encoding")
    return text, tuple(starts), tuple(dropped)


def cell_of(cells: tuple[int, ...], line: int) -> tuple[int, int]:
    """Number of the code cell that a line of the joined source stands in, and its line there; both from one."""
    number = max(1, bisect.bisect_right(cells, line))
    return number, line - cells[number - 1] + 1


def _code_cells(book: Any, name: str) -> list[str]:
    if not isinstance(book, dict):
        raise Refused(f"{name} is no notebook (its JSON is no object)", code="notebook")
    about = book.get("metadata")
    about = about if isinstance(about, dict) else {}
    for key, field in (("kernelspec", "language"), ("language_info", "name")):
        inner = about.get(key)
        language = inner.get(field) if isinstance(inner, dict) else None
        if isinstance(language, str) and language.lower() not in (
            "python",
            "python3",
            "ipython",
            "ipython3",
            "",
        ):
            raise Refused(
                f"{name} is a notebook in {language}; only Python is checked", code="notebook-language"
            )
    cells = book.get("cells")
    if cells is None and isinstance(book.get("worksheets"), list):  # notebooks before version 4
        cells = [
            cell
            for sheet in book["worksheets"]
            if isinstance(sheet, dict) and isinstance(sheet.get("cells"), list)
            for cell in sheet["cells"]
        ]
    if not isinstance(cells, list):
        raise Refused(f"{name} is no notebook (it has no list of cells)", code="notebook")
    found: list[str] = []
    for cell in cells:
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        source = cell.get("source", cell.get("input", ""))
        if isinstance(source, list) and all(isinstance(piece, str) for piece in source):
            source = "".join(source)
        if not isinstance(source, str):
            raise Refused(
                f"{name}: the source of code cell {len(found) + 1} is neither text nor lines", code="notebook"
            )
        found.append(source.replace("\r\n", "\n").replace("\r", "\n"))
    return found


def _python(source: str) -> tuple[list[str], list[tuple[int, str]]]:
    """Lines of a cell with what is no Python blanked, and what was, by line from one."""
    lines = source.split("\n")
    first = next((at for at, line in enumerate(lines) if line.strip()), 0)
    magic = re.match(r"\s*%%(\w*)", lines[first])
    dropped: list[tuple[int, str]] = []
    if magic and magic[1] not in _RUNS_BODY:
        return [""] * len(lines), [(at + 1, line) for at, line in enumerate(lines) if line.strip()]
    if magic:
        dropped.append((first + 1, lines[first]))
        lines[first] = ""
    depth, triple, continued, command = 0, "", False, False
    for at, line in enumerate(lines):
        plain = depth == 0 and not triple and not continued
        if command or (plain and _is_magic(line)):
            dropped.append((at + 1, line))
            indent = line[: len(line) - len(line.lstrip())]
            lines[at] = "" if command or not indent else f"{indent}pass"
            command = line.endswith("\\")
            continue
        assigned = _ASSIGNED.match(line) if plain else None
        if assigned:
            dropped.append((at + 1, line))
            lines[at] = f"{assigned['before']}None"
            command = line.endswith("\\")
            continue
        depth, triple = _scan(line, depth, triple)
        continued = line.endswith("\\") and not triple
    return lines, dropped


def _is_magic(line: str) -> bool:
    bare = line.strip()
    if bare.startswith(("%", "!", "?")):
        return True
    return bare.endswith("?") and "#" not in bare and re.fullmatch(r"[\w.*]+\?{1,2}", bare) is not None


def _scan(line: str, depth: int, triple: str) -> tuple[int, str]:
    """Bracket depth and open triple quote after a line."""
    at = 0
    while at < len(line):
        if triple:
            end = re.compile(rf"(?:\\.|[^\\])*?{triple}", re.DOTALL).match(line, at)
            if end is None:
                return depth, triple
            at, triple = end.end(), ""
            continue
        piece = _PIECE.search(line, at)
        if piece is None or piece.lastgroup == "comment":
            break
        at = piece.end()
        if piece.lastgroup == "triple":
            triple = piece[0]
        elif piece.lastgroup == "open":
            depth += 1
        elif piece.lastgroup == "close":
            depth = max(0, depth - 1)
    return depth, triple
