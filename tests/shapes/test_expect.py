"""The Markdown pages of tests/shapes/expect: how they are read, and that eager torch agrees with them."""

import itertools
import random
import re
from pathlib import Path

import markdown  # tests/shapes/markdown.py
import pytest
import recording  # tests/shapes/recording.py

from sparsam.shapes.diagnose import explain_failure
from sparsam.shapes.verdict import Failure, Finding, Operand, Place, Report, Unknown, Verdict

FOLDER = Path(__file__).parent / "expect"
BLOCKS = [block for page in sorted(FOLDER.glob("*.md")) for block in markdown.blocks(page)]
ERRORS = [(block, one) for block in BLOCKS for one in block.expected if one.kind == "error"]
OTHERS = [block for block in BLOCKS if not any(one.kind == "error" for one in block.expected)]
OF_SYMBOLS = {"last-batch"}
"""Diagnostics that are only seen where sizes are symbols."""


def run_with(block: markdown.Block, given: dict[str, int], capsys) -> tuple[Failure | None, str]:
    """How the block fails in eager torch with these sizes (None: not at all), and what it printed."""
    call = ", ".join(f"{name}={size}" for name, size in given.items())
    failure = recording.run(f"{block.module}\nprogram({call})\n", {})
    return failure, capsys.readouterr().out


@pytest.mark.parametrize(("block", "one"), ERRORS, ids=[f"{b.page}:{b.line + o.line - 1}" for b, o in ERRORS])
def test_eager_torch_raises_there(block, one, capsys):
    """The marked line raises with the sizes given, and the diagnosis has the code and says the quoted part."""
    given = block.smallest(one.when)
    failure, _ = run_with(block, given, capsys)
    assert failure is not None, f"runs with {given}"
    line = failure.place.line - markdown.FIRST
    assert block.first_line(line) == block.first_line(one.line), (failure.place, failure.text)
    code, message, caret, _ = explain_failure(failure, given)
    if one.code not in OF_SYMBOLS:
        assert code == one.code, (message, failure)
        assert markdown.says(f"{message}\n{caret}", one.part, given)


@pytest.mark.parametrize("block", OTHERS, ids=[block.name for block in OTHERS])
def test_eager_torch_runs_the_others(block, capsys):
    """Blocks without an error run for the smallest sizes, the largest, and some between; shapes are as written."""
    draw = random.Random(block.name)
    corners = itertools.product(
        *({low, min(low + 1, high), min(high, 20)} for low, high in block.ranges.values())
    )
    choices = [dict(zip(block.ranges, corner, strict=True)) for corner in corners]
    chosen = draw.sample(choices, min(5, len(choices)))
    chosen += [
        {name: draw.randint(low, min(high, 24)) for name, (low, high) in block.ranges.items()}
        for _ in range(3)
    ]
    for given in chosen:
        failure, output = run_with(block, given, capsys)
        assert failure is None, (given, failure)
        shapes_are_as_written(block, given, output)


def shapes_are_as_written(block: markdown.Block, given: dict[str, int], output: str) -> None:
    """Every revealed shape that was printed has the sizes written in its comment."""
    expected = {block.first_line(one.line): one.shape for one in block.expected if one.kind == "revealed"}
    for line, shape in re.findall(r"^revealed (\d+) (\(.*\))$", output, re.MULTILINE):
        at = block.first_line(int(line) - markdown.FIRST)
        assert markdown.same_shape(expected[at], shape, given), (given, expected[at], shape)


def test_pages_cover_every_diagnostic():
    """Every diagnostic is expected somewhere, and there are enough expectations."""
    from sparsam.shapes.diagnose import RULES

    assert {one.code for _, one in ERRORS} == set(RULES)
    assert sum(len(block.expected) for block in BLOCKS) >= 240


PAGE = """# Title

```python B=1..64 T=5
x = torch.rand(B, T)
# error: [view-numel] "512 asked" when B=3
# a remark
y = x.view(512)
z = "# error: nothing"
reveal_shape(x)  # revealed: (B, Max(5, T))
```

```text
# error: of no language
```
"""


@pytest.fixture
def page(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "page.md"
        path.write_text(text)
        return path

    return write


def test_block_is_read(page):
    """Ranges, lines, codes, parts and sizes of a block; strings and other languages are left alone."""
    (block,) = markdown.blocks(page(PAGE))
    assert block.arguments == {"B": "1..64", "T": "5"}
    assert block.title == "Title" and block.name == "page.md:4"
    error, revealed = block.expected
    assert (error.line, error.code, error.part, error.when) == (4, "view-numel", "512 asked", {"B": 3})
    assert (revealed.line, revealed.shape) == (6, "(B, Max(5, T))")
    assert block.smallest(error.when) == {"B": 3, "T": 5}
    assert block.module.splitlines()[markdown.FIRST + 3].strip() == "y = x.view(512)"


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ("```python\nx = 1  # error: view-numel\n```", ":2: no expectation"),
        ("```python\nx = 1  # erorr: [view-numel]\n```", ":2: no expectation"),
        ("```python\nx = 1\n```", ":2: the block expects nothing"),
        ("```python B=x\nx = 1  # proved\n```", ":2: 'B=x' is no range"),
        ("```python\nx = 1  # error: [a-b] when B=1\n```", ":2: no range for B"),
        ("```python B=1\nx = 1  # error: [a-b] when B\n```", ":2: 'B' is no size"),
        ("```python\nx = (  # proved\n```", ":2: no Python"),
        ("```python\nx = 1  # error: [a-b]\n# proved\n```", ":2: proved, and an error"),
        ("```python\nx = 1\n# error: [a-b]\n```", ":3: no line follows"),
        ("```python\nx = 1  # proved", ":2: the block does not end"),
    ],
)
def test_malformed_page_is_refused(page, block, complaint):
    """What is nearly an expectation is an error of the page, never passed over."""
    with pytest.raises(markdown.Malformed) as raised:
        markdown.blocks(page(block + "\n"))
    assert complaint in str(raised.value)


def finding(line: int, code: str = "view-numel", confirmed: bool = True) -> Finding:
    """A finding in a line of a block."""
    place = Place("page.py", line + markdown.FIRST)
    failure = Failure("torch.Tensor.view", "RuntimeError", "", (Operand("", "tensor", ("B",)),), (place,))
    return Finding(code, "cannot view", failure, {"B": 3}, confirmed, caret="512 asked")


AGREES = Report(
    "page", Verdict.ERROR, (finding(4),), output=f"revealed {6 + markdown.FIRST} (B, Max(5, T))\n"
)


@pytest.mark.parametrize(
    ("report", "complaint"),
    [
        (Report("page", Verdict.PROVED, output=AGREES.output), "page.md:7: not found: [view-numel]"),
        (Report("page", Verdict.ERROR, (finding(5),), output=AGREES.output), "page.md:8: not expected"),
        (
            Report("page", Verdict.ERROR, (finding(4, "cat-sizes"),), output=AGREES.output),
            "expected [view-numel], got",
        ),
        (
            Report("page", Verdict.ERROR, (finding(4, confirmed=False),), output=AGREES.output),
            "not confirmed",
        ),
        (
            Report("page", Verdict.ERROR, (finding(4),), output=f"revealed {6 + markdown.FIRST} (B, 4)\n"),
            "revealed (B, 4), expected",
        ),
        (Report("page", Verdict.ERROR, (finding(4),)), "revealed nothing, expected"),
    ],
)
def test_difference_is_named(page, report, complaint):
    """A report that says otherwise than the page is told apart, with the line."""
    (block,) = markdown.blocks(page(PAGE))
    said = markdown.differences(block, report)
    assert any(complaint in line for line in said), said


@pytest.mark.parametrize(
    ("got", "fits"),
    [
        ("(B, Max(5, T))", True),
        ("(B, T)", True),
        ("(3, 5)", True),
        ("(B, 7)", True),
        ("(B, 4)", False),
        ("(0, 5)", False),
    ],
)
def test_revealed_shape_may_be_that_of_one_path(got, fits):
    """A path may have settled sizes: its shape is the expected one for some sizes in their ranges."""
    assert markdown.is_case("(B, Max(5, T))", got, {"B": (1, 64), "T": (1, 64)}) is fits


def test_proved_block_wants_the_verdict_proved(page):
    """A block marked as proved is not content with unknown."""
    (block,) = markdown.blocks(page("```python\nx = 1\n# proved\n```\n"))
    assert markdown.differences(block, Report("page", Verdict.PROVED)) == []
    (said,) = markdown.differences(
        block, Report("page", Verdict.UNKNOWN, unknowns=(Unknown("loop", "no rule"),))
    )
    assert "expected proved, got unknown ([loop] no rule)" in said


def test_unknown_is_expected_by_code_and_line(page):
    """An unknown is looked for by its code, part and line, and others are named."""
    (block,) = markdown.blocks(page('```python\nx = 1  # unknown: [loop] "no rule"\n```\n'))
    there = Unknown("loop", "there is no rule", Place("p", 1 + markdown.FIRST))
    other = Unknown("solver", "gave up")
    assert markdown.differences(block, Report("page", Verdict.UNKNOWN, unknowns=(there,))) == []
    assert markdown.differences(block, Report("page", Verdict.UNKNOWN, unknowns=(there, other)))
    assert markdown.differences(block, Report("page", Verdict.PROVED))


WITHOUT_DATA = {"dtype-mix", "dtype-unsupported", "loss-target-dtype", "topk-range", "empty", "rnn-state"}
"""Diagnostics of which some need data, so that execution on tensors without data does not raise."""


def test_diagnosis_is_the_same_for_symbols(capsys):
    """With symbols for the sizes, on tensors without data, the framework says other sentences; codes are the same."""
    silent, wrong = set(), []
    for block, one in ERRORS:
        given = block.smallest(one.when)
        call = ", ".join(f"{name}={name}" for name in given)
        failure = recording.run_symbolic(f"{block.module}\nprogram({call})\n", given)
        if failure is None:
            silent.add(one.code)
        elif one.code not in OF_SYMBOLS:
            code, message, *_ = explain_failure(failure, given)
            if code != one.code:
                wrong.append((block.name, one.code, code, message, failure.text))
    capsys.readouterr()
    assert not wrong
    assert silent <= WITHOUT_DATA
