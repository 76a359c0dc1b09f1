"""What stands in for the outside: data sets, files, the network, chance, the command line."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MODULES = (
    "arguments", "loader", "training", "pictures", "arrays", "chance", "files", "network", "processes", "packages",
)  # fmt: skip


@contextmanager
def installed() -> Iterator[None]:
    """The stand-ins take the place of the originals within."""
    before: list[tuple[Any, str, Any]] = []
    try:
        for name in MODULES:
            module = importlib.import_module(f"sparsam.shapes.standins.{name}")
            for owner, attribute, value in module.patches():
                before.append((owner, attribute, vars(owner).get(attribute, _MISSING)))
                setattr(owner, attribute, value)
        with importlib.import_module("sparsam.shapes.standins.packages").found():
            yield
    finally:
        for owner, attribute, value in reversed(before):
            if value is _MISSING:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, value)


_MISSING = object()
