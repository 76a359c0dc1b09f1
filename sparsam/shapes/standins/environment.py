"""Environment variables: what the program changes is noted, and is as before at the end of the run.

What a library sets when it is imported stays, for it is imported once, and not in each run.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

from sparsam.shapes.run import ENVIRONMENT, current
from sparsam.shapes.standins.files import asked_by_program


def _noting(real: Callable[..., Any]) -> Callable[..., Any]:
    """`os.environ[name] = value` and `del os.environ[name]`."""

    def function(self: Any, name: Any, *value: Any) -> None:
        before = os.environ.get(name) if isinstance(name, str) else None
        real(self, name, *value)
        run = current()
        if run is not None and asked_by_program(run):
            noted = run.notes.setdefault(ENVIRONMENT, {})
            first = noted[name][0] if name in noted else before
            noted[name] = first, value[0] if value else None

    return function


def patches() -> Iterator[tuple[Any, str, Any]]:
    """(owner, attribute, stand-in) for all of this module."""
    kind = type(os.environ)
    for name in ("__setitem__", "__delitem__"):
        yield kind, name, _noting(getattr(kind, name))
