"""Reading the program that is to be checked: its files, its entry, its arguments; nothing of it runs.

What a target may be: a script (`train.py`), a folder or package with a `__main__.py`, a module by its dotted name
(`package.module`), a notebook (`.ipynb`), or one function of one of these (`package.module:function`,
`train.py:Class.method`). Files are read once, as Python reads them (byte order mark, coding cookie, UTF-8), and are
refused where they are too big, no text, no Python, or nested deeper than the compiler goes. This module imports no torch.
"""

import ast
import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sparsam.errors import Refused
from sparsam.shapes import notebook
from sparsam.shapes.arguments import (
    Argument,
    ScriptArgument,
    behind,
    chosen_commands,
    parse_argument,
    parse_arguments,
    script_arguments,
)
from sparsam.shapes.imports import INSTALLED, own_files
from sparsam.shapes.text import Limits, load, no_nul, parse, read_bytes, split, unreadable

__all__ = ["Argument", "Limits", "Program", "ScriptArgument", "parse_argument", "parse_arguments", "read"]

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*\Z")


@dataclasses.dataclass(frozen=True)
class Program:
    """What is to be checked.

    Args:
        target: As the user gave it.
        kind: "script", "package" (run as `python -m`), "notebook", or "function".
        root: Folder that comes first in `sys.path`.
        file: Main file.
        module: Name that the main file is imported under; "__main__" for what runs as a script.
        entry: Function or class in it ("main", "Net.forward"), "" for the whole script.
        text: Source of the main file; of a notebook, its code cells joined.
        cells: Of a notebook, the first line in `text` of each code cell.
        dropped: Of a notebook, lines of `text` that were left out because they are no Python, with what stood there.
        arguments: What the script asks for on its command line, as far as that can be read from the source.
        files: The program's own files that were looked into, the main one first; `owns` knows of any file.
        tensors: "yes" if it or a module of its own imports torch or what stands on it, "no" if certainly none does, and
            "maybe" where it imports what cannot be told.
    """

    target: str
    kind: str
    root: Path
    file: Path
    module: str
    entry: str
    text: str
    cells: tuple[int, ...] = ()
    dropped: tuple[tuple[int, str], ...] = ()
    arguments: tuple[ScriptArgument, ...] = ()
    files: tuple[Path, ...] = ()
    tensors: str = "maybe"
    limits: Limits = dataclasses.field(default_factory=Limits)

    def source_line(self, file: str | os.PathLike[str], line: int) -> str:
        """The text of a line of any file, counted from one, without its end; "" where there is none to be had."""
        lines = self._lines(Path(file))
        return lines[line - 1] if 0 < line <= len(lines) else ""

    def texts(self) -> Iterator[str]:
        """The sources of the program's own files, the main one first."""
        yield self.text
        for file in self.files[1:]:
            yield "\n".join(self._lines(file))

    def where(self, file: str | os.PathLike[str], line: int) -> tuple[str, int]:
        """How a place is told to a person: file relative to the program's folder, and line; in a notebook, cell and line."""
        path = Path(file)
        if self.cells and path == self.file:
            number, inside = notebook.cell_of(self.cells, line)
            return f"{self._shown(path)}:cell {number}", inside
        return self._shown(path), line

    def owns(self, file: str | os.PathLike[str]) -> bool:
        """Whether a file is the program's own: below its folder, and not in an environment installed there."""
        path = Path(file)
        if path == self.file or path in self.files:
            return True
        try:
            parts = path.relative_to(self.root).parts
        except ValueError:
            return False
        if self.root.name in INSTALLED and parts[0].removesuffix(".py") != self.module.partition(".")[0]:
            return False
        return path.suffix == ".py" and not any(
            part in INSTALLED or part.startswith(".") or re.fullmatch(r"python3\.\d+", part)
            for part in parts[:-1]
        )

    def missing(self, given: Mapping[str, Argument] | Iterable[str]) -> tuple[ScriptArgument, ...]:
        """The arguments that the script demands and that are not among the given names.

        Those of sub-commands count where the given arguments choose them.
        """
        names = {name.lstrip("-").replace("-", "_") for name in given}
        possible = behind(self.arguments, chosen_commands(self.arguments, given))
        return tuple(
            a for a in possible if a.required and a.under is not None and not names.intersection(a.names)
        )

    def demand(self, given: Mapping[str, Argument] | Iterable[str] = ()) -> None:
        """Refuse what there is no use in running.

        Raises:
            Refused: If the program has no tensor code ("no-tensor-code"), or needs arguments that are not given
                ("needs-arguments").
        """
        if self.tensors == "no":
            raise Refused(
                f"{self.target} has no tensor code: neither it nor a module of its own imports torch; give a program that does",
                code="no-tensor-code",
            )
        missing = self.missing(given)
        if missing:
            names = ", ".join(a.shown for a in missing)
            ways = " ".join(f"--arg {a.example}" for a in missing)
            raise Refused(f"{self.target} needs {names}; give it with {ways}", code="needs-arguments")

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; `from_json` gives it back."""
        made = dataclasses.asdict(self)
        made.update(root=str(self.root), file=str(self.file), files=[str(f) for f in self.files])
        return made

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Program":
        """The program that `to_json` wrote."""
        return cls(
            **{
                **value,
                "root": Path(value["root"]),
                "file": Path(value["file"]),
                "cells": tuple(value["cells"]),
                "dropped": tuple((line, text) for line, text in value["dropped"]),
                "arguments": tuple(
                    ScriptArgument(
                        **{
                            **a,
                            "names": tuple(a["names"]),
                            "choices": tuple(a["choices"]),
                            "under": None if a["under"] is None else tuple(a["under"]),
                        }
                    )
                    for a in value["arguments"]
                ),
                "files": tuple(Path(f) for f in value["files"]),
                "limits": Limits(**value["limits"]),
            }
        )

    def _shown(self, path: Path) -> str:
        try:
            return str(path.relative_to(self.root))
        except ValueError:
            return str(path)

    def _lines(self, path: Path) -> list[str]:
        if path == self.file:
            return split(self.text)
        try:
            return split(load(path, limits=self.limits))
        except Refused:
            return []


def read(target: str, *, limits: Limits | None = None, folder: Path | None = None) -> Program:
    """Find and read a program; nothing of it is run.

    Args:
        target: Script, folder, notebook, dotted module, or one of these with `:function`.
        limits: How much is read.
        folder: Where relative paths and modules are looked up; the current folder by default.

    Raises:
        Refused: With a code: "target" (no usable name), "not-found", "no-entry" (a folder without `__main__.py`),
            "no-such-function", "not-a-file", "unreadable", "too-big", "empty", "encoding", "nul", "syntax",
            "too-deep", "parse-time", "notebook", "notebook-language".
    """
    limits = limits or Limits()
    folder = Path.cwd() if folder is None else folder
    if not target.strip() or "\0" in target:
        raise Refused(
            f"{target!r} names no program; give a script, a folder, a notebook, or module:function",
            code="target",
        )
    path, entry = _locate(target, folder)
    kind = "function" if entry else "script"
    if os.path.isdir(path):
        path, kind = _main_of(target, path, entry, kind)
    cells: tuple[int, ...] = ()
    dropped: tuple[tuple[int, str], ...] = ()
    if path.suffix == ".ipynb":
        kind = "function" if entry else "notebook"
        text, cells, dropped = notebook.join(read_bytes(path, limits), str(path))
        no_nul(text, path)
    else:
        text = load(path, limits=limits)
    tree = parse(text, path, limits=limits, cells=cells)
    if not tree.body:
        raise Refused(
            f"{path} holds no code; give a program that builds or runs a model"
            if text.strip()
            else f"{path} is empty; give a program that builds or runs a model",
            code="empty",
        )
    root, module = _home(path, kind)
    if entry:
        _check_entry(tree, entry, path)
    files, tensors = own_files(path, tree, root, module, limits)
    return Program(
        target=target,
        kind=kind,
        root=root,
        file=path,
        module=module,
        entry=entry,
        text=text,
        cells=cells,
        dropped=dropped,
        arguments=() if entry else script_arguments(tree),
        files=files,
        tensors=tensors,
        limits=limits,
    )


def _locate(target: str, folder: Path) -> tuple[Path, str]:
    """File or folder that a target names, and the function in it."""
    path = folder / target
    if _exists(path):
        return path, ""
    before, colon, entry = target.rpartition(":")
    if not colon:
        before, entry = target, ""
    elif not _NAME.match(entry):
        raise Refused(
            f"{target!r}: {entry!r} names no function; write module:function or file.py:Class.method",
            code="target",
        )
    if not before:
        raise Refused(f"{target!r} names no module; write module:function or file.py:function", code="target")
    path = folder / before
    if _exists(path):
        return path, entry
    if path.suffix in (".py", ".ipynb") or os.sep in before or not _NAME.match(before):
        raise Refused(f"{before} does not exist; {_alike(path)}", code="not-found")
    return _module(before, folder), entry


def _exists(path: Path) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as wrong:
        raise unreadable(path, wrong) from None
    return True


def _alike(path: Path) -> str:
    """What stands there under a name like it."""
    try:
        names = [entry.name for entry in os.scandir(path.parent)][:1000]
    except OSError:
        return "give a script, a folder, a notebook, or module:function"
    near = difflib.get_close_matches(path.name, names, 1)
    return f"did you mean {near[0]}?" if near else "give a script, a folder, a notebook, or module:function"


def _module(name: str, folder: Path) -> Path:
    """File or package folder of a dotted module: in the folder, then where Python looks; nothing is imported."""
    for base in (folder, *(Path(p) for p in sys.path if p)):
        found = base.joinpath(*name.split("."))
        if os.path.isfile(found.with_name(found.name + ".py")):
            return found.with_name(found.name + ".py")
        if os.path.isfile(found / "__init__.py") or os.path.isfile(found / "__main__.py"):
            return found
    raise Refused(
        f"{name} is neither a file nor a module that can be found from {folder}; give a path, or run it from the "
        "folder that holds it",
        code="not-found",
    )


def _main_of(target: str, path: Path, entry: str, kind: str) -> tuple[Path, str]:
    """The file of a folder or package that is run or that holds the function."""
    wanted = "__init__.py" if entry else "__main__.py"
    if os.path.isfile(path / wanted):
        return path / wanted, kind if entry else "package"
    try:
        scripts = sorted(name for name in os.listdir(path) if name.endswith(".py"))[:5]
    except OSError as wrong:
        raise unreadable(path, wrong) from None
    hint = f"give one of its files ({', '.join(scripts)})" if scripts else "give a script"
    raise Refused(f"{target} is a folder without {wanted}; {hint}", code="no-entry")


def _home(path: Path, kind: str) -> tuple[Path, str]:
    """The folder that comes first in `sys.path`, and the module's name seen from it."""
    path = Path(os.path.abspath(path))
    root, names = path.parent, [] if path.name == "__init__.py" else [path.stem]
    if kind in ("script", "notebook"):
        return root, "__main__"
    while os.path.isfile(root / "__init__.py") and root != root.parent:
        names.insert(0, root.name)
        root = root.parent
    return root, ".".join(names) or "__init__"


def _check_entry(tree: ast.Module, entry: str, path: Path) -> None:
    """Refuse a function that is certainly not there."""
    body: list[ast.stmt] = tree.body
    for depth, name in enumerate(entry.split(".")):
        found, names, open_ended = _bound(body, name)
        if not found and not open_ended:
            near = difflib.get_close_matches(name, names, 1)
            hint = (
                f"did you mean {near[0]}?"
                if near
                else f"it has {', '.join(sorted(names)[:8]) or 'no functions'}"
            )
            raise Refused(
                f"{path} has no {'.'.join(entry.split('.')[: depth + 1])}; {hint}", code="no-such-function"
            )
        if not isinstance(found, ast.ClassDef) or found.bases or found.keywords or found.decorator_list:
            return
        body = found.body


def _bound(body: list[ast.stmt], wanted: str) -> tuple[ast.AST | None, list[str], bool]:
    """The last statement that binds a name in a block, names of functions there, whether others may be bound unseen."""
    found: ast.AST | None = None
    names, open_ended = [], False
    left: list[ast.AST] = list(body)
    while left:
        node = left.pop(0)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
            found = node if node.name == wanted else found
            continue
        if isinstance(node, ast.ImportFrom | ast.Import):
            open_ended |= any(a.name == "*" for a in node.names)
            bound = {(a.asname or a.name).partition(".")[0] for a in node.names}
            found = node if wanted in bound else found
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == wanted:
            found = node
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("globals", "vars")
        ):
            open_ended = True
        left.extend(ast.iter_child_nodes(node))
    return found, names, open_ended
