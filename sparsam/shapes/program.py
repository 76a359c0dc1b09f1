"""Runs the program's own Python: its modules are read anew for every run, with hooks, through the importer."""

import ast
import importlib.machinery
import importlib.util
import os
import re
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sparsam.shapes.hooks import names
from sparsam.shapes.rewrite import MODULES, rewritten

MAIN = "__main__"


# What a program has to name to look at gradients, or to make them.
_GRADIENTS = re.compile(r"\b_?grad\b|autograd|_hook\b")
_COMPILED: dict[str, tuple[str | bytes, types.CodeType]] = {}  # by path: a program is run many times


def looks_at_gradients(own: Callable[[str], bool]) -> bool:
    """Whether a program may do that: what was loaded of it names them, or it was not loaded with hooks."""
    sources = [source for path, (source, _) in _COMPILED.items() if own(path)]
    texts = (source if isinstance(source, str) else source.decode("latin-1") for source in sources)
    return not sources or any(map(_GRADIENTS.search, texts))


class Loader(importlib.machinery.SourceFileLoader):
    """Loads one of the program's modules with hooks.

    Args:
        fullname: Of the module.
        path: Of its file.
        source: Its text where that is not the file's own, as of a notebook.
    """

    def __init__(self, fullname: str, path: str, source: str | None = None) -> None:
        super().__init__(fullname, path)
        self.source = source

    def get_code(self, fullname: str) -> types.CodeType:
        """The code, never from a cache on disk."""
        source: str | bytes
        if self.source is not None:
            source = self.source
        else:
            with open(self.path, "rb") as file:
                source = file.read()
        known = _COMPILED.get(self.path)
        if known is not None and known[0] == source:
            return known[1]
        code: types.CodeType = self.source_to_code(rewritten(ast.parse(source, self.path)), self.path)
        _COMPILED[self.path] = source, code
        return code

    def exec_module(self, module: types.ModuleType) -> None:
        """Runs the module with the hooks among its names."""
        vars(module).update(names())
        MODULES.add(module.__name__)
        super().exec_module(module)


class Finder:
    """Finds the program's modules before all others.

    Args:
        own: Whether a file is the program's.
    """

    def __init__(self, own: Callable[[str], bool]) -> None:
        self.own = own
        self.loaded: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a module of the program; None for those of libraries."""
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None:
            return None
        if spec.origin is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            if spec.submodule_search_locations and all(map(self.own, spec.submodule_search_locations)):
                self.loaded.add(fullname)
            return spec
        if not self.own(spec.origin):
            return spec
        self.loaded.add(fullname)
        spec.loader = Loader(fullname, spec.origin)
        return spec

    def forget(self) -> None:
        """Removes the program's modules, so that the next run reads them anew."""
        for name in self.loaded:
            sys.modules.pop(name, None)
        self.loaded.clear()


@contextmanager
def importing(own: Callable[[str], bool], folders: Sequence[str]) -> Iterator[Finder]:
    """The program's modules are found in `folders` and read with hooks within."""
    finder = Finder(own)
    before = list(sys.path)
    sys.path[:0] = list(folders)
    sys.meta_path.insert(0, finder)
    try:
        yield finder
    finally:
        sys.meta_path.remove(finder)
        sys.path[:] = before
        finder.forget()


def run_main(
    path: str, arguments: Sequence[str], source: str | None = None, package: str | None = None
) -> None:
    """Runs a file as `python path arguments` does."""
    loader = Loader(MAIN, path, source)
    spec = importlib.util.spec_from_file_location(MAIN, path, loader=loader)
    if spec is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    module.__package__ = package
    module.__file__ = path
    before, sys.modules[MAIN] = sys.modules.get(MAIN), module
    arguments_before, sys.argv = sys.argv, [path, *arguments]
    folder = os.getcwd()
    try:
        loader.exec_module(module)
    finally:
        sys.argv = arguments_before
        if before is not None:
            sys.modules[MAIN] = before
        os.chdir(folder)


def load(name: str, path: str, source: str | None = None) -> types.ModuleType:
    """Imports a file as the module `name`."""
    loader = Loader(name, path, source)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def attribute(module: types.ModuleType, dotted: str) -> Any:
    """A function or class of a module by its dotted name.

    Raises:
        AttributeError: If there is none.
    """
    found: Any = module
    for part in dotted.split("."):
        found = getattr(found, part)
    return found
