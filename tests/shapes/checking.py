"""Checks a few lines as a program of their own, in this process."""

import contextlib
import io
import textwrap
from pathlib import Path

from sparsam.shapes.check import Limits, check
from sparsam.shapes.verdict import Report


def checked(folder: Path, text: str, *arguments: str, name: str = "lines", **limits: float) -> Report:
    """The report of a check of the text as a script in the folder."""
    script = folder / f"{name}.py"
    script.write_text(textwrap.dedent(text), encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()):
        return check(
            str(script), list(arguments), sandboxed=False, limits=Limits(**{"seconds": 60.0, **limits})
        )


def told(report: Report) -> str:
    """What was found and what stayed unknown, for a failing test."""
    lines = [f"{f.code} line {f.failure.place.line}: {f.message} {dict(f.witness)}" for f in report.findings]
    lines += [f"unknown {u.code}: {u.reason} at {u.place and u.place.line}" for u in report.unknowns]
    return "\n".join(["", *lines])


def line_of(text: str, piece: str) -> int:
    """Number of the line with that piece in a dedented text."""
    lines = textwrap.dedent(text).splitlines()
    return next(number for number, line in enumerate(lines, 1) if piece in line)
