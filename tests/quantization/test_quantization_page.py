"""The page's code runs as it stands there."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).parents[2] / "docs" / "methods" / "quantization.md"


def test_the_code_on_the_page_runs() -> None:
    """And its integer product is near the one in floating point."""
    session: dict[str, torch.Tensor] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE):
        exec(block, session)
    exact = session["tokens"] @ session["weight"].T
    assert float((session["y"] - exact).norm() / exact.norm()) < 0.02
    assert session["static"].form.bits == 8  # type: ignore[attr-defined]
