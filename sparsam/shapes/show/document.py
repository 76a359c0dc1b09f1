"""A report as a JSON document, with a version and a schema (docs/shapes/report.schema.json)."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from sparsam.errors import Refused
from sparsam.shapes import verdict
from sparsam.shapes.verdict import Report

VERSION = 1
"""Of the document. Raised when a field changes its meaning or goes; new fields may come without."""


def to_document(report: Report, *, allow_unknown: bool = False) -> dict[str, Any]:
    """The report as JSON values: `version`, `exit_code`, and the fields of a report.

    Numbers that JSON does not know (infinite, not a number) are null.
    """
    fields = {
        "version": VERSION,
        "exit_code": report.exit_code(allow_unknown=allow_unknown),
        **verdict.to_json(report),
    }
    return {name: _finite(value) for name, value in fields.items()}


def from_document(document: Mapping[str, Any]) -> Report:
    """The report that a document holds.

    Raises:
        Refused: If it is of another version, or a field is missing or of another form.
    """
    if document.get("version") != VERSION:
        raise Refused(
            f"The report has version {str(document.get('version'))[:40]!r}; this sparsam reads version {VERSION}. "
            "Run the check again.",
            code="report-version",
        )
    try:
        return verdict.from_json({k: v for k, v in document.items() if k not in ("version", "exit_code")})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(
            f"The report is not complete: {str(error)[:200]}. Run the check again.", code="report-form"
        ) from error


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def schema() -> dict[str, Any]:
    """The JSON Schema of the document, read from the classes of a report."""
    definitions: dict[str, Any] = {}
    report = _of_class(Report, definitions)
    report["properties"] = {
        "version": {"const": VERSION},
        "exit_code": {"enum": [0, 1, 3]},
        **report["properties"],
    }
    report["required"] = ["version", "exit_code", *report["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Report of sparsam check",
        **report,
        "$defs": definitions,
    }


def _of_class(made: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(made)
    names = [field.name for field in dataclasses.fields(made)]
    return {
        "type": "object",
        "description": (made.__doc__ or "").partition("\n")[0],
        "properties": {name: _of_type(hints[name], definitions) for name in names},
        "required": names,
    }


def _of_type(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_of_type(argument, definitions) for argument in arguments]}
    if origin is tuple:
        return {"type": "array", "items": _of_type(arguments[0], definitions)}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _of_type(arguments[1], definitions)}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        name = hint.__name__
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = _of_class(hint, definitions)
        return {"$ref": f"#/$defs/{name}"}
    if hint is verdict.Verdict:
        return {"enum": [member.value for member in verdict.Verdict]}
    if hint is float:
        return {"type": ["number", "null"]}
    names = {str: "string", int: "integer", bool: "boolean", type(None): "null"}
    return {"type": names[hint]}
