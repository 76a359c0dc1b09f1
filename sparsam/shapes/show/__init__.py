"""A report for people and for programs: text, JSON, SARIF, and the pages of the diagnostics."""

from sparsam.shapes.show.document import from_document, to_document
from sparsam.shapes.show.pages import diagnostics_page, explain
from sparsam.shapes.show.sarif import to_sarif
from sparsam.shapes.show.text import rich_text, to_text

__all__ = ["diagnostics_page", "explain", "from_document", "rich_text", "to_document", "to_sarif", "to_text"]
