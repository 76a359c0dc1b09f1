"""A check of a program: read, run in a sandbox, reported."""

from collections.abc import Sequence

from sparsam.shapes.arguments import parse_arguments
from sparsam.shapes.source import read
from sparsam.shapes.verdict import Report


def check(target: str, arguments: Sequence[str] = (), *, sandboxed: bool = False) -> Report:
    """Checks a program.

    Args:
        target: Script, package, notebook, or module:function.
        arguments: As `--arg` takes them.
        sandboxed: Run it in a process that can touch nothing.
    """
    program = read(target)
    given = parse_arguments(arguments)
    program.demand(given)
    from sparsam.shapes.checker import check_program

    return check_program(program, list(given.values()))
