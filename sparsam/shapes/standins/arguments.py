"""The command line: options that were given as a range arrive as symbols."""

import argparse
import sys
from typing import Any

from sparsam.errors import Refused
from sparsam.shapes.run import current

REAL = argparse.ArgumentParser.parse_known_args
STRICT = argparse.ArgumentParser.parse_args.__code__  # which takes no option that it does not know


def parse_known_args(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
    """As the original; what it read of a range is replaced by its symbol.

    Raises:
        Refused: If an option was given that the program will stop for ("argument").
    """
    parsed, rest = REAL(self, args, namespace)
    run = current()
    if run is not None and (args is None or list(args) == sys.argv[1:]):
        strange = [word for word in rest if word.startswith("--")]
        if strange and sys._getframe(1).f_code is STRICT:
            raise Refused(
                f"the program has no option {strange[0].partition('=')[0]}; it has {', '.join(_options(self))}",
                code="argument",
            )
        for name, value in run.notes.get("options", {}).items():
            if hasattr(parsed, name):
                setattr(parsed, name, value)
                run.notes.setdefault("delivered", set()).add(name)
    return parsed, rest


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """Long names of a parser's options, and of those of the sub-commands on the command line."""
    found = [name for name in parser._option_string_actions if name.startswith("--") and name != "--help"]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += (
                name
                for word in sys.argv[1:]
                if word in action.choices
                for name in _options(action.choices[word])
            )
    return found


def patches() -> list[tuple[Any, str, Any]]:
    """(owner, attribute, stand-in) for all of this module."""
    return [(argparse.ArgumentParser, "parse_known_args", parse_known_args)]
