"""What stands in for the outside: data sets, files, the network, chance, the command line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sparsam.shapes.standins import (
    arguments,
    arrays,
    chance,
    clock,
    environment,
    files,
    framework,
    loader,
    network,
    packages,
    pictures,
    processes,
    training,
    weights,
)

MODULES = (
    arguments,
    loader,
    training,
    pictures,
    arrays,
    chance,
    clock,
    environment,
    files,
    network,
    processes,
    framework,
    weights,
)


@contextmanager
def installed() -> Iterator[None]:
    """The stand-ins take the place of the originals within."""
    before: list[tuple[Any, str, Any]] = []
    try:
        for module in MODULES:
            for owner, attribute, value in module.patches():
                before.append((owner, attribute, vars(owner).get(attribute, _MISSING)))
                setattr(owner, attribute, value)
        with packages.found():
            yield
    finally:
        for owner, attribute, value in reversed(before):
            if value is _MISSING:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, value)


_MISSING = object()
