"""The section on accuracy and speed: the points of ``sparsam pareto``, in one picture with the dense model and in a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from sparsam.artifact.manifest import read_json
from sparsam.errors import Refused
from sparsam.report.figures import metric_name, number, scaled, signed, size, unit
from sparsam.report.pictures import Point, plots
from sparsam.report.runs import FRONT, is_front

View = dict[str, Any]
_form = pydantic.ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, frozen=True)
Positive = Annotated[float, pydantic.Field(gt=0)]


class Figure(pydantic.BaseModel):
    """A score, or a difference, with its interval."""

    model_config = _form
    what: str
    value: float
    low: float
    high: float
    n: Annotated[int, pydantic.Field(ge=1)]
    unit: str


class FrontPoint(pydantic.BaseModel):
    """One model of the front."""

    model_config = _form
    name: str
    dense: bool
    metric: Figure
    difference: Figure | None = None
    macs_ratio: Positive
    throughput: Positive
    throughput_ratio: Positive
    p50_ms: Positive
    latency_ratio: Positive
    bytes: Annotated[int, pydantic.Field(ge=0)]
    on_front: bool
    runtime: str | None = None
    """What serves it, where that is not sparsam; files of before other runtimes were raced have none."""


class Race(pydantic.BaseModel):
    """How the points of other runtimes came about."""

    model_config = _form
    rows: Annotated[int, pydantic.Field(ge=0)]
    spread: Positive
    absent: dict[str, str] = {}
    warnings: tuple[str, ...] = ()


class Front(pydantic.BaseModel):
    """What ``pareto.json`` holds."""

    model_config = _form
    kind: Literal["sparsam-pareto"]
    schema_: Annotated[int, pydantic.Field(alias="schema", ge=1, le=1)]
    task: str
    split: str
    baseline: str
    batch: Annotated[int, pydantic.Field(ge=1)]
    spread: Positive
    points: Annotated[tuple[FrontPoint, ...], pydantic.Field(min_length=1)]
    machine: dict[str, Any] = {}
    race: Race | None = None


def fronts(paths: Sequence[str | Path]) -> list[Front]:
    """The fronts among what was named: the files themselves, and those in named folders.

    Raises:
        Refused: ``front-invalid`` with the place that is wrong.
    """
    files = [path / FRONT if path.is_dir() else path for path in map(Path, paths)]
    return [_read(file) for file in dict.fromkeys(files) if is_front(file)]


def _read(file: Path) -> Front:
    try:
        return Front.model_validate(_tuples(read_json(file)))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise Refused(
            f"{file} is not a front of sparsam's at {place}: {first['msg']}. Write it again: sparsam pareto.",
            code="front-invalid",
        ) from None


def _tuples(held: dict[str, Any]) -> dict[str, Any]:
    """JSON knows lists alone; where a list is not allowed, it is named later."""
    points, raced = held.get("points"), held.get("race")
    held = held | ({"points": tuple(points)} if isinstance(points, list) else {})
    if isinstance(raced, dict) and isinstance(raced.get("warnings"), list):
        held["race"] = raced | {"warnings": tuple(raced["warnings"])}
    return held


def views(found: Sequence[Front]) -> list[View]:
    """What the template shows of each."""
    return [_view(front) for front in found]


def _view(front: Front) -> View:
    first: Any = front.points[0].metric
    drawn, rows = [], []
    for point in front.points:
        score: Any = point.metric
        value, low, high = (scaled(score, x) for x in (score.value, score.low, score.high))
        drawn.append(
            Point(
                point.name,
                1 / point.throughput_ratio,
                value,
                low,
                high,
                point.dense,
                point.runtime is not None,
            )
        )
        away = point.difference
        rows.append(
            {
                "name": point.name,
                "mark": "◇" if point.runtime is not None else "□" if point.dense else "●",
                "runtime": point.runtime or "",
                "front": point.on_front,
                "value": f"{value:.2f}{unit(score)}",
                "interval": f"{low:.2f} to {high:.2f}",
                "away": "" if away is None else f"{signed(away.value)} {away.unit}",
                "away_interval": "" if away is None else f"{signed(away.low)} to {signed(away.high)}",
                "macs": f"{point.macs_ratio:.3f}×",
                "at": f"{1 / point.throughput_ratio:.2f}×",
                "ratio": f"{point.throughput_ratio:.2f}×",
                "rate": number(point.throughput, 4),
                "latency": f"{point.latency_ratio:.2f}×",
                "p50": f"{point.p50_ms:.2f} ms",
                "bytes": size(point.bytes),
                "details": f"{point.throughput_ratio:.2f}× the throughput, {number(point.throughput, 4)} a second; p50 "
                f"{point.p50_ms:.2f} ms; {point.macs_ratio:.3f}× the multiply-accumulates; {size(point.bytes)}",
            }
        )
    made = plots(drawn, unit(first))
    return {
        "task": front.task,
        "split": front.split,
        "baseline": front.baseline,
        "batch": front.batch,
        "spread": f"{front.spread:.2f}",
        "n": f"{first.n:,}",
        "what": metric_name(first),
        "unit": unit(first).strip(),
        "plots": made,
        "numbered": not all(plot.named for plot in made),
        "rows": rows,
        "race": front.race is not None and _race(front.race, first.n),
    }


def _race(race: Race, n: int) -> View:
    return {
        "spread": f"{race.spread:.2f}",
        "rows": "" if race.rows in (0, n) else f"{race.rows:,}",
        "absent": sorted(race.absent.items()),
        "warnings": race.warnings,
    }
