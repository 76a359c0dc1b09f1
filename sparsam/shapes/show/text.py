"""A report as text, with styles for a terminal.

train.py:41:17 error[view-numel]: cannot view (B, 12, T, 64) as (B, T, 512)
   41 |         context = context.view(batch, length, 512)
      |                   ^^^^^^^^^^^^ 12·64 = 768 per token, 512 asked
   reached with B = 1, T = 1: forward (train.py:88) → attention (train.py:41)
   fix: 768 in place of 512
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from sparsam.shapes.diagnose import sizes
from sparsam.shapes.show.plain import letter, plain, short_path, width
from sparsam.shapes.verdict import Finding, Place, Report, Symbol, Unknown, Value, Verdict

if TYPE_CHECKING:
    from rich.text import Text

Line = Sequence[tuple[str, str]]
"""Pieces of a line, each with its style ("" for none)."""

SOURCE_WIDTH = 100
"""Columns of a source line that are shown. This and the limits below are chosen by us."""
MOST_FINDINGS, MOST_UNKNOWNS, MOST_SYMBOLS, MOST_STEPS, MOST_VALUES = 50, 20, 20, 8, 3

STYLES = {"error": "bold red", "warning": "bold yellow", "unknown": "bold magenta", "proved": "bold green"}
FAINT, BOLD = "dim", "bold"


def to_text(report: Report, *, root: str = "", verbose: bool = False) -> str:
    """The report as plain text that ends with a line's end.

    Args:
        report: What to show.
        root: Files in this folder are named relative to it.
        verbose: Shows as well what was decided on the way to a finding, and the framework's own sentence.
    """
    return "".join("".join(piece for piece, _ in line) + "\n" for line in _report(report, root, verbose))


def rich_text(report: Report, *, root: str = "", verbose: bool = False) -> "Text":
    """The same with styles, to be printed with ``soft_wrap=True``."""
    from rich.text import Text

    whole = Text()
    for line in _report(report, root, verbose):
        for piece, style in line:
            whole.append(piece, style or None)
        whole.append("\n")
    whole.right_crop(1)
    return whole


def _report(report: Report, root: str, verbose: bool) -> Iterator[Line]:
    for finding in report.findings[:MOST_FINDINGS]:
        yield from _finding(_sizes_first(finding, report.symbols), root, verbose)
        yield []
    if len(report.findings) > MOST_FINDINGS:
        yield [(f"… and {len(report.findings) - MOST_FINDINGS} more findings", FAINT)]
        yield []
    unknowns = list(Counter(report.unknowns).items())
    for unknown, times in unknowns[:MOST_UNKNOWNS]:
        yield from _unknown(unknown, times, root)
    if len(unknowns) > MOST_UNKNOWNS:
        yield [(f"… and {len(unknowns) - MOST_UNKNOWNS} more that stay unknown", FAINT)]
    if unknowns:
        yield []
    yield from _summary(report, root)


def _sizes_first(finding: Finding, symbols: Sequence[Symbol]) -> Finding:
    """The finding with its witness in order: sizes, then some of the values that data would tell."""
    values = {symbol.name for symbol in symbols if symbol.kind == "value"}
    of_sizes = {name: value for name, value in finding.witness.items() if name not in values}
    of_values = {name: value for name, value in finding.witness.items() if name in values}
    shown = {**of_sizes, **dict(list(of_values.items())[:MOST_VALUES])}
    if len(of_values) > MOST_VALUES:
        shown["…"] = len(of_values) - MOST_VALUES
    return dataclasses.replace(finding, witness=shown)


def _finding(finding: Finding, root: str, verbose: bool) -> Iterator[Line]:
    place = finding.failure.place
    style = STYLES.get(finding.severity, BOLD)
    yield [
        (f"{_where(place, root)} ", BOLD),
        (f"{plain(finding.severity, 20)}[{plain(finding.code, 60)}]", style),
        (f": {plain(finding.message)}", ""),
    ]
    yield from _excerpt(place, plain(finding.caret, 200), style)
    chain = [_step(step, root) for step in finding.failure.chain]
    if len(chain) > MOST_STEPS:
        chain = [*chain[: MOST_STEPS // 2], "…", *chain[-(MOST_STEPS // 2) :]]
    with_sizes = f"reached with {_values(finding.witness)}: " if finding.witness else "reached: "
    yield [("   ", ""), (with_sizes, ""), (" → ".join(chain), FAINT)]
    if not finding.confirmed:
        yield [("   not confirmed by a second run with these sizes", FAINT)]
    if verbose:
        for condition in finding.conditions[:MOST_SYMBOLS]:
            yield [("   decided: ", FAINT), (sizes.pretty(plain(condition, 200)), "")]
        if finding.requirement:
            yield [("   needs: ", FAINT), (sizes.pretty(plain(finding.requirement, 200)), "")]
        yield [
            ("   said: ", FAINT),
            (f"{plain(finding.failure.error, 60)}: {plain(finding.failure.text)}", ""),
        ]
    if finding.fix:
        yield [("   fix: ", FAINT), (plain(finding.fix, 200), "")]


def _where(place: Place, root: str) -> str:
    return f"{plain(short_path(place.file, root), 200)}:{place.line}:{place.column}"


def _step(place: Place, root: str) -> str:
    """A line of the program with its function: "attention (train.py:41)"."""
    line = f"{plain(short_path(place.file, root), 120)}:{place.line}"
    function = plain(place.function, 60)
    return f"{function} ({line})" if function and function != "<module>" else line


def _values(witness: Mapping[str, Value]) -> str:
    shown = [
        f"{value} values more" if name == "…" else f"{plain(name, 40)} = {plain(value, 40)}"
        for name, value in list(witness.items())[:MOST_SYMBOLS]
    ]
    return ", ".join(shown) + (", …" if len(witness) > MOST_SYMBOLS else "")


def _excerpt(place: Place, caret: str, style: str) -> Iterator[Line]:
    """The source line, and under it the marker with its text."""
    if not place.source.strip():
        if caret:
            yield [(f"   {caret}", style)]
        return
    start = max(place.column - 1, 0)
    end = max(place.end_column - 1, start + 1)
    before, marked, after = _cut(place.source.rstrip()[: 20 * SOURCE_WIDTH], start, end)
    number = f"{place.line:>5}"
    yield [(f"{number} | ", FAINT), (before + marked + after, "")]
    blank, carets = (sum(map(width, part)) for part in (before, marked))
    yield [
        (f"{'':>5} | ", FAINT),
        (" " * blank, ""),
        ("^" * max(carets, 1) + (f" {caret}" if caret else ""), style),
    ]


def _cut(source: str, start: int, end: int) -> tuple[str, str, str]:
    """The line before, at and behind the marker, made harmless, in a window of limited width around it."""
    parts = source[:start], source[start:end], source[end:]
    before, marked, after = ("".join(map(letter, part.replace("\t", "    "))) for part in parts)
    if len(marked) > SOURCE_WIDTH - 20:
        marked, after = marked[: SOURCE_WIDTH - 21], "…"
    room = SOURCE_WIDTH - len(marked)
    if len(before) + len(after) > room:
        keep = min(len(before), max(room * 2 // 3, room - len(after)))
        if keep < len(before):
            before = "…" + before[len(before) - keep + 1 :]
        if len(before) + len(after) > room:
            after = after[: max(room - len(before) - 1, 0)] + "…"
    return before, marked, after


def _unknown(unknown: Unknown, times: int, root: str) -> Iterator[Line]:
    where = f"{_where(unknown.place, root)} " if unknown.place else ""
    more = f" ({times} times)" if times > 1 else ""
    yield [
        (where, BOLD),
        (f"unknown[{plain(unknown.code, 60)}]", STYLES["unknown"]),
        (f": {plain(unknown.reason)}{more}", ""),
    ]
    if unknown.place:
        yield from _excerpt(unknown.place, "", STYLES["unknown"])


def _summary(report: Report, root: str) -> Iterator[Line]:
    counts = []
    severities = Counter(finding.severity for finding in report.findings)
    for severity in ("error", "warning"):
        if severities[severity]:
            counts.append(_many(severities[severity], severity))
    if report.unknowns:
        counts.append(f"{len(set(report.unknowns))} unknown")
    said = f": {', '.join(counts)}" if counts else ""
    yield [
        (f"{plain(report.program, 200)} ", BOLD),
        (report.verdict.value, STYLES[report.verdict.value]),
        (said, ""),
    ]
    if report.paths:
        by = Counter(path.verdict for path in report.paths)
        parts = [f"{by[verdict]} {verdict.value}" for verdict in Verdict if by[verdict]]
        yield [(f"  {_many(len(report.paths), 'path')}: {', '.join(parts)}", "")]
    named = {name for finding in report.findings for name in finding.witness}
    symbols = [symbol for symbol in report.symbols if symbol.kind == "size" or symbol.name in named]
    for symbol in symbols[:MOST_SYMBOLS]:
        yield [("  ", ""), (_symbol(symbol, root), "")]
    if len(symbols) > MOST_SYMBOLS:
        yield [(f"  … and {len(symbols) - MOST_SYMBOLS} more symbols", FAINT)]
    if report.statistics:
        yield [(f"  {_statistics(report.statistics)}", FAINT)]


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _symbol(symbol: Symbol, root: str) -> str:
    name = plain(symbol.name, 40)
    low = None if symbol.low is None else f"{symbol.low:g}"
    high = None if symbol.high is None else f"{symbol.high:g}"
    if low is not None and low == high:
        range_ = f"{name} = {low}"
    elif low is not None and high is not None:
        range_ = f"{name} in {low} … {high}"
    elif low is not None:
        range_ = f"{name} ≥ {low}"
    else:
        range_ = f"{name} ≤ {high}" if high is not None else f"{name}: any"
    where = f", {_where(symbol.place, root)}" if symbol.place else ""
    about = f"{plain(symbol.meaning, 120)}{where}".removeprefix(", ")
    return f"{range_}  ({about})" if about else range_


def _statistics(figures: Mapping[str, float]) -> str:
    parts = []
    if "seconds" in figures:
        solver = figures.get("solver_seconds")
        of = f", {solver:.1f} s of it in the solver" if solver is not None else ""
        parts.append(f"{figures['seconds']:.1f} s{of}")
    if "peak_bytes" in figures:
        parts.append(f"{figures['peak_bytes'] / 2**20:.0f} MiB")
    for name, words in (("runs", "runs"), ("queries", "queries"), ("operations", "operations")):
        if name in figures:
            parts.append(f"{figures[name]:,.0f} {words}")
    return " · ".join(parts)
