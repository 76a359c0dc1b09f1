"""What all pages share: the style sheet, named by digest in their policy, and templates that escape what they are given."""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from sparsam.report.figures import clean

GENERATOR = '<meta name="generator" content="sparsam '
"""By this a file is known as a report of ours, which a new one may replace."""


@cache
def environment() -> jinja2.Environment:
    """The templates; every value is escaped, an unknown one is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("sparsam.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _finalize(value: Any) -> Any:
    """Every value on its way into the page: clean text, still to be escaped; what a macro made stays as it is."""
    return value if isinstance(value, Markup) else clean(str(value))


@cache
def style() -> tuple[Markup, str]:
    """The style sheet, which is ours alone, and its SHA-256 as the page's policy names it."""
    text = Path(__file__).with_name("templates").joinpath("style.css").read_text(encoding="utf-8")
    text = f"\n{text.strip()}\n"
    return Markup(text), base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
