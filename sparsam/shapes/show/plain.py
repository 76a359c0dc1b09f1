"""Text from outside, made harmless: names, source lines and sentences of a checked program come from anybody."""

import os
import unicodedata
from pathlib import PurePath

STEERING = frozenset("\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2060\ufeff")
"""Characters without width that hide or reorder others."""


def letter(character: str) -> str:
    """One character as it may be printed: blanks for line ends, nothing for what steers a terminal.

    Of category Cf are all changes of direction (U+202A … U+202E, U+2066 … U+2069).
    """
    if character in "\t\n\r\v\f":
        return " "
    kind = unicodedata.category(character)
    if kind in ("Zl", "Zp"):
        return " "
    if kind in ("Cs", "Cn", "Co"):
        return "?"
    return "" if kind in ("Cc", "Cf") or character in STEERING else character


def plain(text: object, longest: int = 400) -> str:
    r"""``text`` on one line and of limited length, without what would steer a terminal.

    >>> plain("a\x1b[31mb\nc")
    'a[31mb c'
    """
    whole = str(text)
    shown = "".join(map(letter, whole[: 4 * longest]))
    return shown if len(shown) <= longest and len(whole) <= 4 * longest else shown[: longest - 1] + "…"


def width(character: str) -> int:
    """Columns of a terminal that a character takes."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def short_path(file: str, root: str = "") -> str:
    """A file relative to the folder, where it lies in it; else as it was given."""
    if root:
        try:
            return str(PurePath(os.path.normpath(file)).relative_to(os.path.normpath(root)))
        except ValueError:
            pass
    return file
