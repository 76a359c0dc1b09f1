"""Every code of something unknown that the sources use has a title and a meaning, and no other has."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import sparsam.shapes
from sparsam.shapes.diagnose.unknowns import UNKNOWNS

FOLDER = Path(sparsam.shapes.__file__).parent
CODE = re.compile(r"[a-z]+(-[a-z]+)*\Z")


def strings(node: ast.expr) -> Iterator[str]:
    """Texts that an expression may be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from strings(node.body)
        yield from strings(node.orelse)


def codes_of(source: str, *, pairs: bool = False) -> set[str]:
    """First arguments of `Unknown(code, reason)` and `….unknown(code, reason)`; with `pairs` also of (code, reason)."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and len(node.args) > 1:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("Unknown", "unknown"):
                found.update(strings(node.args[0]))
        elif pairs and isinstance(node, ast.Tuple) and len(node.elts) == 2:
            code, reason = node.elts
            if isinstance(reason, ast.JoinedStr) or any(" " in text for text in strings(reason)):
                found.update(strings(code))
    return {code for code in found if CODE.match(code)}


def used() -> set[str]:
    """Codes in all sources of the checker; the sandbox says why a process ended in pairs."""
    found = set()
    for file in FOLDER.rglob("*.py"):
        found |= codes_of(file.read_text(encoding="utf-8"), pairs=file.name == "sandbox.py")
    return found


def test_codes_are_found():
    """Calls, alternatives and pairs are seen, and what is no code is not."""
    source = "run.unknown('a-b' if x else 'c', f'why {x}')\nUnknown('d', 'it is so')\nw = ('e', f'it {x}')\nUnknown(name, 1)"
    assert codes_of(source) == {"a-b", "c", "d"}
    assert codes_of(source, pairs=True) == {"a-b", "c", "d", "e"}


def test_every_code_has_a_meaning():
    """Each code in the sources is in the table, and the table has no other."""
    assert used() == set(UNKNOWNS)
