"""The checker says of every block in tests/shapes/expect what the page expects."""

import contextlib
import dataclasses
import io
import os
from pathlib import Path
from typing import Any

import markdown  # tests/shapes/markdown.py
import pytest

from sparsam.shapes.check import check

LONG = pytest.mark.skipif(
    os.environ.get("SPARSAM_LONG") != "1", reason="takes minutes; SPARSAM_LONG=1 asks for it"
)

pytestmark = pytest.mark.slow  # some 270 programs

BLOCKS = [
    block
    for page in sorted((Path(__file__).parent / "expect").glob("*.md"))
    for block in markdown.blocks(page)
]

GAPS = {
    "no rule for symbolic sizes": "types.md:78",
    "found under a more general code": "joining.md:61 products.md:41 images.md:156",
    "a size is told as an expression where it can only be one number": "program.md:142",
}
"""Blocks on which the checker does not yet say what eager torch does, by the reason."""
REASONS = {name: reason for reason, names in GAPS.items() for name in names.split()}


def cases() -> list[Any]:
    """All blocks; the gaps are expected to fail, and to be taken from the list when they are closed."""
    marks = {
        name: pytest.mark.xfail(reason=reason, strict=True, raises=AssertionError)
        for name, reason in REASONS.items()
    }
    return [pytest.param(block, id=block.name, marks=marks.get(block.name, ())) for block in BLOCKS]


def test_gaps_are_blocks():
    """Every gap names a block that is there."""
    assert set(REASONS) <= {block.name for block in BLOCKS}


@pytest.mark.parametrize("block", cases())
def test_checker_agrees_with_the_page(block, tmp_path):
    """Errors stand on the marked lines with their codes, shapes are as written, and what is to be proved is."""
    script = tmp_path / "block.py"
    script.write_text(block.module, encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        report = check(
            f"{script}:program",
            [f"{name}={range_}" for name, range_ in block.arguments.items()],
            sandboxed=False,
        )
    report = dataclasses.replace(report, output=report.output + printed.getvalue())
    said = markdown.differences(block, report)
    assert not said, "\n" + "\n".join(said)
