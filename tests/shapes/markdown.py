"""Expectations of the shape checker, written into Markdown: prose, blocks of code, what is expected in a comment.

A block of ``python`` is the body of a function; the symbols that it takes stand behind the language, with their ranges::

    ```python B=1..64 T=1..512
    x = torch.rand(B, T, 768)
    reveal_shape(x.mT)             # revealed: (B, 768, T)
    nn.Linear(768, 64)(x.mT)       # error: [linear-width] "expected 768" when B=1 T=1
    ```

``# error: [code] "part of the message"`` and ``# unknown: [code] "part of the reason"`` stand on the line or alone on the
one before it; the quoted part may be left out. Behind ``when`` are sizes for which it fails, the smallest of all ranges
by default. ``# revealed: (sizes)`` belongs to a call ``reveal_shape(x)``, ``# proved`` to the whole block. Every block
has an expectation.
"""

import ast
import dataclasses
import io
import itertools
import re
import tokenize
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsam.shapes.diagnose import sizes
from sparsam.shapes.verdict import Place, Report, Verdict

PRELUDE = """\
import sys
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import data
def reveal_shape(x): print("revealed", sys._getframe(1).f_lineno, "(" + ", ".join(map(str, x.shape)) + ")")
def program({names}):
"""
FIRST = PRELUDE.count("\n")
"""Lines of the module before the block's first."""

EXPECTATION = re.compile(
    r"# *(?P<kind>error|unknown): \[(?P<code>[a-z0-9-]+)\](?: \"(?P<part>[^\"]*)\")?(?: when (?P<when>[\w= ]+))?\s*$"
    r"|# *(?P<revealed>revealed): (?P<shape>\(.*\))\s*$|# *(?P<proved>proved)\s*$"
)
MEANT = re.compile(r"# *(error|erorr|unknown|revealed|reveal|proved)\b", re.IGNORECASE)


LARGEST = 40
"""How far above the smallest size of a range a path may settle it. Chosen by us."""


class Malformed(ValueError):
    """A page that the harness does not understand: where, and what."""


@dataclasses.dataclass(frozen=True)
class Expected:
    """One expectation: "error", "unknown", "revealed" or "proved"; the line counts from one within the block."""

    kind: str
    line: int
    code: str = ""
    part: str = ""
    shape: str = ""
    when: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code with what is expected of it."""

    page: str
    line: int
    title: str
    code: str
    ranges: Mapping[str, tuple[int, int]]
    expected: Sequence[Expected]

    @property
    def name(self) -> str:
        """For the test's name: "views.md:12"."""
        return f"{self.page}:{self.line}"

    @property
    def arguments(self) -> dict[str, str]:
        """The ranges as the command line takes them: {"B": "1..64"}."""
        return {
            name: str(low) if low == high else f"{low}..{high}" for name, (low, high) in self.ranges.items()
        }

    @property
    def module(self) -> str:
        """A module with the block as the body of its function ``program``, which takes the symbols."""
        body = "".join(
            f"    {line}" if line.strip() else line for line in self.code.splitlines(keepends=True)
        )
        return PRELUDE.format(names=", ".join(self.ranges)) + body

    def first_line(self, line: int) -> int:
        """The first line of the statement that this line belongs to (of compound ones, their heads have a line each)."""
        spans = [
            (node.lineno, node.end_lineno or node.lineno)
            for node in ast.walk(ast.parse(self.code))
            if isinstance(node, ast.stmt) and not hasattr(node, "body")
        ]
        return next((first for first, last in spans if first <= line <= last), line)

    def smallest(self, when: Mapping[str, int]) -> dict[str, int]:
        """Sizes for all symbols: those given, and the smallest of the others."""
        return {name: when.get(name, low) for name, (low, _) in self.ranges.items()}


def blocks(page: Path) -> list[Block]:
    """The blocks of a page.

    Raises:
        Malformed: For a comment that is nearly an expectation, a block without any, a symbol without a range.
    """
    found, title, start, info = [], "", 0, ""
    lines = page.read_text(encoding="utf-8").splitlines()
    inside: list[str] | None = None
    for number, line in enumerate(lines, 1):
        if inside is None:
            if line.startswith("#"):
                title = line.lstrip("# ")
            elif line.startswith("```"):
                inside, start, info = [], number + 1, line[3:].strip()
        elif line.startswith("```"):
            if info.split(" ")[0] in ("python", "py"):
                found.append(_block(page.name, start, title, "\n".join(inside) + "\n", info))
            inside = None
        else:
            inside.append(line)
    if inside is not None:
        raise Malformed(f"{page.name}:{start}: the block does not end")
    return found


def _block(page: str, line: int, title: str, code: str, info: str) -> Block:
    ranges = {}
    for word in info.split()[1:]:
        match = re.fullmatch(r"(\w+)=(\d+)(?:\.\.(\d+))?", word)
        if not match:
            raise Malformed(f"{page}:{line}: {word!r} is no range, such as B=1..64")
        low, high = int(match[2]), int(match[3] or match[2])
        ranges[match[1]] = (low, high)
    expected = list(_expectations(page, line, code))
    if not expected:
        raise Malformed(f"{page}:{line}: the block expects nothing; write # proved, or an error on its line")
    for one in expected:
        unknown = [name for name in one.when if name not in ranges]
        if unknown:
            raise Malformed(f"{page}:{line + one.line - 1}: no range for {', '.join(unknown)}")
    kinds = {one.kind for one in expected}
    if "proved" in kinds and kinds & {"error", "unknown"}:
        raise Malformed(f"{page}:{line}: proved, and an error or unknown")
    return Block(page, line, title, code, ranges, tuple(expected))


def _expectations(page: str, first: int, code: str) -> list[Expected]:
    found = []
    source = code.splitlines()
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    except (tokenize.TokenError, SyntaxError) as error:
        raise Malformed(f"{page}:{first}: no Python: {error}") from error
    for token in tokens:
        if token.type != tokenize.COMMENT or not MEANT.match(token.string):
            continue
        match = EXPECTATION.match(token.string)
        line = token.start[0]
        if not match:
            raise Malformed(f"{page}:{first + line - 1}: no expectation: {token.string}")
        if match["proved"]:
            found.append(Expected("proved", line))
            continue
        if not source[line - 1][: token.start[1]].strip():
            line = next((at for at in range(line + 1, len(source) + 1) if not _empty(source[at - 1])), 0)
            if not line:
                raise Malformed(f"{page}:{first + token.start[0] - 1}: no line follows: {token.string}")
        when = {}
        for word in (match["when"] or "").split():
            name, _, number = word.partition("=")
            if not number.isdigit():
                raise Malformed(f"{page}:{first + line - 1}: {word!r} is no size, such as B=3")
            when[name] = int(number)
        kind = match["kind"] or "revealed"
        found.append(
            Expected(kind, line, match["code"] or "", match["part"] or "", match["shape"] or "", when)
        )
    return found


def _empty(line: str) -> bool:
    return not line.strip() or line.strip().startswith("#")


def differences(block: Block, report: Report) -> list[str]:
    """What a report says otherwise than the block expects, one line each; nothing where they agree."""
    said = []
    errors = {block.first_line(one.line): one for one in block.expected if one.kind == "error"}
    found = [(block.first_line(_line(finding.failure.place)), finding) for finding in report.findings]
    for line, finding in found:
        where, expected = f"{block.page}:{block.line + line - 1}", errors.get(line)
        if expected is None:
            said.append(f"{where}: not expected: [{finding.code}] {finding.message}")
        elif expected.code != finding.code:
            said.append(f"{where}: expected [{expected.code}], got [{finding.code}] {finding.message}")
        elif not says(f"{finding.message}\n{finding.caret}", expected.part, finding.witness):
            said.append(f"{where}: {expected.part!r} is not in {finding.message!r} nor {finding.caret!r}")
        elif not finding.confirmed:
            said.append(f"{where}: not confirmed: [{finding.code}]")
    reached = {line for line, _ in found}
    said += [
        f"{block.page}:{block.line + line - 1}: not found: [{one.code}]"
        for line, one in errors.items()
        if line not in reached
    ]
    said += _unknowns(block, report)
    said += _revealed(block, report.output)
    if any(one.kind == "proved" for one in block.expected) and report.verdict is not Verdict.PROVED:
        reasons = "; ".join(f"[{unknown.code}] {unknown.reason}" for unknown in report.unknowns)
        said.append(
            f"{block.name}: expected proved, got {report.verdict.value}{f' ({reasons})' if reasons else ''}"
        )
    return said


def says(text: str, part: str, given: Mapping[str, Any]) -> bool:
    """Whether a text has the part, as it stands or with the given sizes for the symbols of both."""
    return part in text or in_numbers(part, given) in in_numbers(text, given)


def in_numbers(text: str, given: Mapping[str, Any]) -> str:
    """The text with numbers for the symbols, and sums of two numbers computed."""
    for name, size in given.items():
        text = re.sub(rf"\b{re.escape(name)}\b", str(size), text)
    return re.sub(r"\b(\d+) \+ (\d+)(?=[,)])", lambda found: str(int(found[1]) + int(found[2])), text)


def _unknowns(block: Block, report: Report) -> list[str]:
    said = []
    wanted = [one for one in block.expected if one.kind == "unknown"]
    for one in wanted:
        where = f"{block.page}:{block.line + one.line - 1}"
        if not any(
            unknown.code == one.code
            and one.part in unknown.reason
            and (
                unknown.place is None or block.first_line(_line(unknown.place)) == block.first_line(one.line)
            )
            for unknown in report.unknowns
        ):
            said.append(f"{where}: not found: unknown [{one.code}]")
    codes = {one.code for one in wanted}
    said += [
        f"{block.name}: not expected: unknown [{unknown.code}] {unknown.reason}"
        for unknown in report.unknowns
        if wanted and unknown.code not in codes
    ]
    return said


def _revealed(block: Block, output: str) -> list[str]:
    said = []
    printed: dict[int, list[str]] = {}
    for match in re.finditer(r"^revealed (\d+) (\(.*\))$", output, re.MULTILINE):
        shape = re.sub(r"\bs_(?=\w)", "", match[2])  # symbols print as s_B
        printed.setdefault(block.first_line(int(match[1]) - FIRST), []).append(shape)
    for one in block.expected:
        shapes = printed.get(block.first_line(one.line), [])
        if one.kind == "revealed" and not (
            shapes and all(is_case(one.shape, shape, block.ranges) for shape in shapes)
        ):
            got = " and ".join(list(dict.fromkeys(shapes))[:5]) or "nothing"
            said.append(f"{block.page}:{block.line + one.line - 1}: revealed {got}, expected {one.shape}")
    return said


def same_shape(expected: str, got: str, at: Mapping[str, int] | None = None) -> bool:
    """Whether two shapes are the same: for all sizes, or for those given."""
    left, right = split_shape(expected), split_shape(got)
    if len(left) != len(right):
        return False
    if at is None:
        return all(map(sizes.alike, left, right))
    return all(
        sizes.value(one, at) == sizes.value(two, at) is not None for one, two in zip(left, right, strict=True)
    )


def is_case(expected: str, got: str, ranges: Mapping[str, tuple[int, int]]) -> bool:
    """Whether a shape is the expected one for all sizes, or for some in their ranges (on a path that settles them)."""
    if same_shape(expected, got):
        return True
    used = [name for name in ranges if re.search(rf"\b{name}\b", f"{expected} {got}")]
    tried = itertools.product(
        *(range(ranges[n][0], min(ranges[n][1], ranges[n][0] + LARGEST) + 1) for n in used)
    )
    return any(same_shape(expected, got, dict(zip(used, case, strict=True))) for case in tried)


def split_shape(shape: str) -> list[str]:
    """The sizes of "(B, Max(1, T))", split at the outer commas."""
    parts, depth, part = [], 0, ""
    for character in shape.strip()[1:-1]:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += character
    return [part.strip() for part in [*parts, part] if part.strip()]


def _line(place: Place) -> int:
    """The line within the block."""
    return place.line - FIRST
