"""Expressions in words."""

import re
from typing import Any


def text(expression: Any) -> str:
    """An expression in the names of the symbols."""
    return re.sub(r"\b(?:s|zf)_([A-Za-z_]\w*)", r"\1", str(expression))
