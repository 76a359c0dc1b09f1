"""Numbers and foreign text as the page shows them."""

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsam.report.runs import Score

_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_BREAKS = re.compile("[\t\n\r\u2028\u2029]+")


def clean(text: str) -> str:
    r"""Text on one line; what would steer the reader's browser or eye (control characters, changes of direction) as U+FFFD.

    >>> clean("a\x1bb\nc")
    'a�b c'
    """
    return _UNSEEN.sub("\ufffd", _BREAKS.sub(" ", text))


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign, with a minus as wide as a plus."""
    shown = f"{value:+.{digits}f}"
    return shown.replace("-", "−") if float(shown) else shown[1:]


def number(value: float, digits: int = 3) -> str:
    """A number to ``digits`` figures, never in powers of ten where it can be read without."""
    shown = f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"
    return shown.replace("-", "−")


def count(value: float) -> str:
    """A large number with its power of a thousand."""
    for power, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= power:
            return f"{value / power:.3g} {letter}"
    return f"{value:.3g}"


def size(value: float) -> str:
    """Bytes in the unit that suits them."""
    for power, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= power:
            return f"{value / power:.2f} {unit}"
    return f"{value:.0f} B"


def scaled(score: "Score", value: float) -> float:
    """A score on the page's scale: fractions in hundredths."""
    return 100 * value if score.unit == "fraction" else value


def unit(score: "Score") -> str:
    """What stands after a score: a percent sign for an accuracy, nothing for other metrics."""
    return " %" if score.unit == "fraction" and score.what == "accuracy" else ""


def metric_name(score: "Score") -> str:
    """A metric as a heading, with the factor that its numbers carry."""
    return score.what if score.unit != "fraction" or unit(score) else f"{score.what} × 100"


def words(value: Any) -> str:
    """Any fact as one line of text."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    if isinstance(value, dict) and all(isinstance(one, str | int | float | None) for one in value.values()):
        return ", ".join(f"{key} {words(one)}" for key, one in value.items())
    if isinstance(value, list) and all(isinstance(one, str | int | float) for one in value):
        return ", ".join(map(words, value)) or "none"
    return json.dumps(value, ensure_ascii=False)


FIRST = ("processor", "gpu", "cores", "threads", "memory_bytes", "source", "task", "method")
"""Facts that a reader looks for first."""


def pairs(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Facts as lines of name and value, the telling ones first; sizes in readable units."""
    order = sorted(facts, key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST))
    facts = {key: facts[key] for key in order}
    return [
        (key.removesuffix("_bytes").replace("_", " "), size(value))
        if key.endswith("_bytes") and isinstance(value, int | float) and not isinstance(value, bool)
        else (key.replace("_", " "), words(value))
        for key, value in facts.items()
    ]
