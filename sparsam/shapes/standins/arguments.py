"""The command line: options that were given as a range arrive as symbols."""

import argparse
import sys
from typing import Any

from sparsam.shapes.run import current

REAL = argparse.ArgumentParser.parse_known_args


def parse_known_args(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
    """As the original; what it read of a range is replaced by its symbol."""
    parsed, rest = REAL(self, args, namespace)
    run = current()
    if run is not None and (args is None or list(args) == sys.argv[1:]):
        for name, value in run.notes.get("options", {}).items():
            if hasattr(parsed, name):
                setattr(parsed, name, value)
                run.notes.setdefault("delivered", set()).add(name)
    return parsed, rest


def patches() -> list[tuple[Any, str, Any]]:
    """(owner, attribute, stand-in) for all of this module."""
    return [(argparse.ArgumentParser, "parse_known_args", parse_known_args)]
