"""What a benchmark hands over: a JSON file of schema ``sparsam.bench/1``, checked strictly."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from sparsam.errors import InputOutput, Refused

SCHEMA = "sparsam.bench/1"
MAX_BYTES = 20_000_000

_strict = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)
Positive = Annotated[float, pydantic.Field(gt=0)]
Machine = dict[str, Any]


class Row(pydantic.BaseModel):
    """One model beside one baseline, timed in turn.

    ``ratio_to_baseline`` is how many times the baseline's speed, from ``low`` to ``high`` over the rounds. Latencies
    are there where a batch is one row. ``accuracy`` is the task's metric as a fraction; ``accuracy_difference`` and its
    ``interval`` are points from the dense model. ``rows`` were run.
    """

    model_config = _strict

    model: str
    baseline: str
    ratio_to_baseline: Positive
    order: Literal["arrival", "sorted"]
    batch: Annotated[int, pydantic.Field(ge=1)]
    tokenisation: bool
    low: Positive
    high: Positive
    spread: Positive
    doubtful: bool
    samples_per_second: Positive
    baseline_samples_per_second: Positive
    p50_ms: Positive | None
    p95_ms: Positive | None
    accuracy: Annotated[float, pydantic.Field(ge=-1, le=1)] | None
    accuracy_difference: float | None
    interval: tuple[float, float] | None
    rows: Annotated[int, pydantic.Field(ge=1)]
    machine: Machine

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> "Row":
        if not self.low <= self.ratio_to_baseline <= self.high:
            raise ValueError(
                f"ratio_to_baseline {self.ratio_to_baseline} does not lie from low {self.low} to high {self.high}"
            )
        if self.interval is not None and self.interval[0] > self.interval[1]:
            raise ValueError(f"interval {list(self.interval)} does not rise")
        return self


class Bench(pydantic.BaseModel):
    """A whole benchmark. ``absent`` names what was not measured, and why."""

    model_config = _strict

    schema_: Annotated[Literal["sparsam.bench/1"], pydantic.Field(alias="schema")]
    task: str
    split: str
    kind: Literal["text", "image"] = "text"
    metric: str = "accuracy"
    dense: str = ""
    rows: tuple[Row, ...]
    absent: dict[str, str]
    warnings: tuple[str, ...]
    machine: Machine


def read_bench(file: Path) -> Bench:
    """A benchmark from a JSON file.

    Raises:
        InputOutput: ``file-missing``, ``file-unreadable``, ``json-invalid``.
        Refused: ``bench-schema``, ``bench-invalid``.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InputOutput(
                f"{file} has {file.stat().st_size:,} bytes; no benchmark is larger than {MAX_BYTES:,}.",
                code="json-invalid",
            )
        whole = json.loads(file.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise InputOutput(f"{file} is missing.", code="file-missing") from None
    except InputOutput:
        raise
    except OSError as error:
        raise InputOutput(
            f"{file} cannot be read: {error.strerror or error}.", code="file-unreadable"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputOutput(
            f"{file} is not JSON: {str(error)[:120]}. Expected what sparsam bench --json wrote.",
            code="json-invalid",
        ) from None
    return bench_of(whole, str(file))


def bench_of(whole: object, name: str) -> Bench:
    """A benchmark from the object its file holds; ``name`` says in errors where it came from.

    Raises:
        Refused: ``bench-schema``, ``bench-invalid``.
    """
    schema = whole.get("schema") if isinstance(whole, Mapping) else None
    if schema != SCHEMA:
        raise Refused(
            f"{name} has the schema {_short(schema)}; expected {SCHEMA!r}, as sparsam bench --json writes it.",
            code="bench-schema",
        )
    try:
        return Bench.model_validate_json(json.dumps(whole, allow_nan=False))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, first["loc"]))) or "bench"
        raise Refused(
            f"{name} is no valid benchmark at {place}: {first['msg']} (got {_short(first.get('input'))}). Measure again "
            "with sparsam bench --json.",
            code="bench-invalid",
        ) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise Refused(
            f"{name} is no valid benchmark: {str(error)[:120]}. Measure again with sparsam bench --json.",
            code="bench-invalid",
        ) from None


def _short(value: object, width: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"
