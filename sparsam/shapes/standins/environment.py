"""Environment variables: what the program changes is noted, and is as before at the end of the run.

What a library sets when it is imported stays, for it is imported once, and not in each run.
"""

import os
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from sparsam.shapes.run import ENVIRONMENT, current

_BETWEEN = ("os.py", "<frozen os>", "<frozen _collections_abc>", "_collections_abc.py")


def _noting(real: Callable[..., Any]) -> Callable[..., Any]:
    """`os.environ[name] = value` and `del os.environ[name]`."""

    def function(self: Any, name: Any, *value: Any) -> None:
        before = os.environ.get(name) if isinstance(name, str) else None
        real(self, name, *value)
        run = current()
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename.endswith(_BETWEEN):
            frame = frame.f_back
        if run is not None and frame is not None and run.places.own(frame.f_code.co_filename):
            noted = run.notes.setdefault(ENVIRONMENT, {})
            first = noted[name][0] if name in noted else before
            noted[name] = first, value[0] if value else None

    return function


def patches() -> Iterator[tuple[Any, str, Any]]:
    """(owner, attribute, stand-in) for all of this module."""
    kind = type(os.environ)
    for name in ("__setitem__", "__delitem__"):
        yield kind, name, _noting(getattr(kind, name))
