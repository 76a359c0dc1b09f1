"""The code of docs/methods/pwlq.md runs as it stands there."""

import re
from pathlib import Path
from typing import Any

import torch

PAGE = Path(__file__).parents[2] / "docs" / "methods" / "pwlq.md"


def test_the_code_on_the_page_runs() -> None:
    """Weights in pieces are nearer than a clipped uniform grid of equal storage; the folded network gives the same."""
    session: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE):
        exec(block, session)
    found = session["found"]
    assert float(found.errors.mean()) < float(found.uniform_errors.mean())
    assert torch.equal(session["integers"].float() * session["scales"][:, None], found.dequantized())
    assert session["names"] == ("1",)
