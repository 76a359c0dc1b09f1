"""Names of symbols: what the framework calls `s_B` is printed as B."""

import re
from typing import Any

from sparsam.shapes.wording import text

_NAMES = re.compile(r"\b(?:s|zf)_([A-Za-z_]\w*)")


def in_names(message: str) -> str:
    """A message of the framework with the printed names of the symbols; C++ frames are cut off."""
    message = message.split("\nException raised from", 1)[0]
    return _NAMES.sub(lambda match: match.group(1), message)


def words(expression: Any) -> str:
    """An expression as it is printed."""
    return in_names(text(expression))
