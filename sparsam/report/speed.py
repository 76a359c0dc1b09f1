"""The section on measured speed: benchmarks as tables in which each ratio stands beside its baseline."""

from collections.abc import Sequence
from typing import Any

from sparsam.report.bench import Bench, Row
from sparsam.report.figures import number, signed
from sparsam.report.pictures import Range, ranges

View = dict[str, Any]


def speed(benches: Sequence[tuple[str, Bench]]) -> list[View]:
    """Measured speed: a table for each order, batch size and way of counting tokenisation."""
    return [
        {
            "name": name,
            "task": bench.task,
            "split": bench.split,
            "dense": bench.dense,
            "metric": bench.metric,
            "percent": bench.metric == "accuracy",
            "tables": [
                _speed_table(rows, order, batch, tokenisation, bench.kind)
                for (order, batch, tokenisation), rows in _tables(bench).items()
            ],
            "absent": list(bench.absent.items()),
            "warnings": bench.warnings,
        }
        for name, bench in benches
    ]


def _tables(bench: Bench) -> dict[tuple[str, int, bool], list[Row]]:
    found: dict[tuple[str, int, bool], list[Row]] = {}
    for row in bench.rows:
        found.setdefault((row.order, row.batch, row.tokenisation), []).append(row)
    return found


def _speed_table(rows: Sequence[Row], order: str, batch: int, tokenisation: bool, kind: str) -> View:
    """Models on their own, and baselines that were timed beside each other apart from them."""
    baselines = {row.baseline for row in rows}
    lines = ranges([(row.low, row.ratio_to_baseline, row.high) for row in rows])
    models: dict[tuple[str, ...], View] = {}
    peers: dict[tuple[str, ...], View] = {}
    for row, line in zip(rows, lines, strict=True):
        own = _own_figures(row)
        group = peers if row.model in baselines else models
        entry = group.setdefault(tuple(own.values()), own | {"ratios": []})
        entry["ratios"].append(_ratio(row, line))
    reading = "tokenisation" if kind == "text" else "reading the images"
    said = f"batches of {batch:,}, {reading} {'included' if tokenisation else 'excluded'}"
    return {
        "title": f"{'Sorted by length' if order == 'sorted' else 'Arrival order'}, {said}",
        "models": list((models or peers).values()),
        "peers": list(peers.values()) if models else [],
    }


def _own_figures(row: Row) -> dict[str, str]:
    """What a benchmark says of a model by itself."""
    return {
        "model": row.model,
        "rate": number(row.samples_per_second),
        "p50": "" if row.p50_ms is None else number(row.p50_ms),
        "p95": "" if row.p95_ms is None else number(row.p95_ms),
        "score": "not measured" if row.accuracy is None else f"{100 * row.accuracy:.2f}",
        "away": "" if row.accuracy_difference is None else f"{signed(row.accuracy_difference)} points",
        "interval": "" if row.interval is None else f"{signed(row.interval[0])} to {signed(row.interval[1])}",
        "rows": f"{row.rows:,}",
    }


def _ratio(row: Row, line: Range) -> View:
    """A model beside one baseline."""
    return {
        "ratio": f"{row.ratio_to_baseline:.2f}×",
        "baseline": row.baseline,
        "line": line,
        "low": f"{row.low:.2f}×",
        "high": f"{row.high:.2f}×",
        "spread": f"{row.spread:.2f}",
        "doubtful": row.doubtful,
        "rate": number(row.baseline_samples_per_second),
    }
