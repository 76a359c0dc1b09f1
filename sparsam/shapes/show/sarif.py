"""A report in the Static Analysis Results Interchange Format, SARIF 2.1.0 (OASIS, 2020), for code-scanning services.

Findings are results with the way that leads to them as a code flow. What stays unknown is a result of kind "open", or a
notification of the run where it has no place in the program. A result is recognised again after lines were added above
it, for its fingerprint is made of its file, function, code and source text.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from sparsam import __version__
from sparsam.shapes.diagnose import RULES
from sparsam.shapes.diagnose.unknowns import UNKNOWNS
from sparsam.shapes.show.plain import plain, short_path
from sparsam.shapes.verdict import Finding, Place, Report, Unknown

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
ROOT = "SRCROOT"


def to_sarif(report: Report, *, root: str = "", allow_unknown: bool = False) -> dict[str, Any]:
    """The report as one SARIF log with one run.

    Args:
        report: What to show.
        root: Files in this folder are named relative to it, which services need to find them.
        allow_unknown: Whether the exit code is that of a run with this option.
    """
    placed = [unknown for unknown in dict.fromkeys(report.unknowns) if unknown.place is not None]
    elsewhere = [unknown for unknown in dict.fromkeys(report.unknowns) if unknown.place is None]
    rules = list(dict.fromkeys([*(f.code for f in report.findings), *(f"unknown-{u.code}" for u in placed)]))
    at = {code: index for index, code in enumerate(rules)}
    seen: Counter[str] = Counter()
    results = [_finding(finding, at, root, seen) for finding in report.findings]
    results += [_unknown(unknown, unknown.place, at, root, seen) for unknown in placed if unknown.place]
    invocation: dict[str, Any] = {
        "executionSuccessful": True,
        "exitCode": report.exit_code(allow_unknown=allow_unknown),
    }
    if elsewhere:
        invocation["toolExecutionNotifications"] = [
            {"level": "warning", "message": {"text": plain(f"{u.code}: {u.reason}", 1000)}} for u in elsewhere
        ]
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "sparsam",
                        "version": __version__,
                        "rules": [_rule(code) for code in rules],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "invocations": [invocation],
                "results": results,
                "properties": {
                    "program": plain(report.program),
                    "verdict": report.verdict.value,
                    "paths": len(report.paths),
                },
            }
        ],
    }


def _rule(code: str) -> dict[str, Any]:
    unknown = UNKNOWNS.get(code.removeprefix("unknown-")) if code.startswith("unknown-") else None
    if code in RULES:
        title, text = RULES[code].title, RULES[code].meaning or RULES[code].title
        markdown = RULES[code].documentation
    else:
        title, text = unknown or (code, "This stayed unknown.")
        markdown = f"{title}.\n\n{text}"
    return {
        "id": plain(code, 80),
        "name": "".join(part.capitalize() for part in re.findall(r"[A-Za-z0-9]+", plain(code, 80)))
        or "Unnamed",
        "shortDescription": {"text": plain(title, 200) + "."},
        "fullDescription": {"text": plain(text, 1000)},
        "help": {"text": text, "markdown": markdown},
        "defaultConfiguration": {"level": "none" if code.startswith("unknown-") else "error"},
    }


def _finding(finding: Finding, at: Mapping[str, int], root: str, seen: Counter[str]) -> dict[str, Any]:
    place = finding.failure.place
    witness = ", ".join(f"{name} = {value}" for name, value in finding.witness.items())
    parts = [
        finding.message,
        finding.caret and f"({finding.caret})",
        witness and f"for {witness}",
        finding.fix and f"– fix: {finding.fix}",
    ]
    return {
        "ruleId": plain(finding.code, 80),
        "ruleIndex": at[finding.code],
        "level": finding.severity if finding.severity in ("error", "warning", "note") else "error",
        "message": {"text": plain(" ".join(part for part in parts if part), 1000)},
        "locations": [_location(place, root)],
        "codeFlows": [{"threadFlows": [{"locations": _flow(finding.failure.chain, root)}]}],
        "partialFingerprints": {"sparsam/v1": _fingerprint(finding.code, place, root, seen)},
        "properties": {
            "witness": {plain(name, 80): plain(value, 80) for name, value in finding.witness.items()},
            "confirmed": finding.confirmed,
            "conditions": [plain(condition) for condition in finding.conditions],
        },
    }


def _unknown(
    unknown: Unknown, place: Place, at: Mapping[str, int], root: str, seen: Counter[str]
) -> dict[str, Any]:
    code = f"unknown-{unknown.code}"
    return {
        "ruleId": plain(code, 80),
        "ruleIndex": at[code],
        "kind": "open",
        "level": "none",
        "message": {"text": plain(unknown.reason, 1000)},
        "locations": [_location(place, root)],
        "partialFingerprints": {"sparsam/v1": _fingerprint(code, place, root, seen)},
    }


def _flow(chain: Sequence[Place], root: str) -> list[dict[str, Any]]:
    return [{"location": {**_location(place, root), "message": {"text": _words(place)}}} for place in chain]


def _words(place: Place) -> str:
    return plain(f"{place.function or '<module>'}: {place.source.strip()}", 300)


def _location(place: Place, root: str) -> dict[str, Any]:
    region: dict[str, Any] = {"startLine": max(place.line, 1), "startColumn": max(place.column, 1)}
    if place.end_column > region["startColumn"]:
        region["endColumn"] = place.end_column
    physical: dict[str, Any] = {"artifactLocation": _artifact(place.file, root), "region": region}
    if place.source.strip():
        snippet = {"text": plain(place.source.strip(), 300)}
        physical["contextRegion"] = {"startLine": region["startLine"], "snippet": snippet}
    location: dict[str, Any] = {"physicalLocation": physical}
    if place.function and place.function != "<module>":
        location["logicalLocations"] = [{"name": plain(place.function, 120), "kind": "function"}]
    return location


def _artifact(file: str, root: str) -> dict[str, str]:
    path = PurePath(short_path(file, root))
    uri = quote(_bytes(path.as_posix()), safe="/")
    if path.is_absolute():
        return {"uri": f"file://{uri}"}
    return {"uri": uri or ".", "uriBaseId": ROOT}


def _bytes(path: str) -> bytes:
    """A path as the file system has it; letters that no file system has become question marks."""
    try:
        return path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return path.encode("utf-8", "replace")


def _fingerprint(code: str, place: Place, root: str, seen: Counter[str]) -> str:
    """Of code, file, function and source text, and the how-many-th of its kind it is."""
    parts = (
        code,
        PurePath(short_path(place.file, root)).as_posix(),
        place.function,
        " ".join(place.source.split()),
    )
    key = "\0".join(parts)
    seen[key] += 1
    return hashlib.sha256(f"{key}\0{seen[key]}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
