"""The page's code runs as it stands there, and the tests that it names exist."""

import re
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "methods" / "ibert.md").read_text("utf-8")


def test_the_code_on_the_ibert_page_runs() -> None:
    """And its shares are softmax's."""
    session: dict[str, torch.Tensor] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        exec(block, session)
    want = (session["logits"] / 256).softmax(1)
    torch.testing.assert_close(session["shares"] / 2**15, want, rtol=0, atol=5e-3)


def test_the_tests_on_the_ibert_page_exist() -> None:
    """Each regression test that a defect's row names is there under that name."""
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    there = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_i*.py"))
    assert len(named) > 10
    assert [name for name in sorted(named) if f"def {name}(" not in there] == []
