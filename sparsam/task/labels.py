"""What a label column means: classes with names, or a number to predict."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused, Usage
from sparsam.task.metrics import REGRESSION_METRICS
from sparsam.task.tables import Table

Problem = Literal["classification", "regression"]

#: More different whole numbers than this are read as a quantity, not as classes; chosen by us.
MOST_INTEGER_CLASSES = 256


@dataclass(frozen=True)
class Survey:
    """What a label column holds: how often each value, how many rows without one (``first`` is the first of them)."""

    values: Counter[Any]
    missing: int
    first: int

    @property
    def unlabelled(self) -> bool:
        """No row has a label, or all have -1, as the hidden test sets of GLUE do."""
        return not self.values or set(self.values) == {-1}


def survey(table: Table, column: str, rows: NDArray[np.int64] | None = None) -> Survey:
    """Read the label column once, in a stream; ``rows`` limits it to some rows of the table."""
    values: Counter[Any] = Counter()
    missing, first, at = 0, -1, 0
    wanted = None if rows is None else np.isin(np.arange(len(table)), rows)
    for piece in table.stream([column], 8192):
        found = piece[column]
        if wanted is not None:
            found = [value for value, use in zip(found, wanted[at : at + len(found)], strict=True) if use]
        at += len(piece[column])
        read = [plain(value) for value in found]
        values.update(value for value in read if value is not None)
        if None in read:
            first = at - len(found) + read.index(None) if first < 0 else first
            missing += read.count(None)
    return Survey(values, missing, first)


def plain(value: Any) -> Any:
    """One label as bool, int, float or str; texts that spell a number become it; None where there is no label."""
    if isinstance(value, str):
        text = value.strip()
        for parse in (int, float):
            try:
                value = parse(text)
                break
            except ValueError:
                continue
        else:
            return text or None
    if isinstance(value, float) and math.isnan(value):
        return None
    return value if isinstance(value, bool | int | float) or value is None else float(value)


@dataclass(frozen=True)
class LabelReader:
    """Turns the values of a label column into class indices (int64) or numbers (float32)."""

    column: str
    problem: Problem
    classes: tuple[str, ...]
    index: Mapping[Any, int]

    def unknown(self, found: Survey) -> list[Any]:
        """The values in ``found`` that this reader has no class for."""
        if self.problem == "regression":
            return [value for value in found.values if isinstance(value, str) or not math.isfinite(value)]
        return [value for value in found.values if value not in self.index]

    def read(self, values: Sequence[Any]) -> NDArray[Any]:
        """Class indices int64 (n,) or numbers float32 (n,); the values were surveyed before."""
        if self.problem == "regression":
            return np.array([plain(value) for value in values], np.float32)
        return np.array([self.index[plain(value)] for value in values], np.int64)


def fit(
    found: Survey, column: str, names: Sequence[str] | None, metric: str | None, where: str
) -> tuple[LabelReader, tuple[str, ...]]:
    """Decide from the surveyed values (usually train's) what the labels are; also notes to say aloud.

    Raises Refused ``label-missing``, ``one-class``, ``label-not-finite``, ``label-unknown``, ``too-many-classes``;
    Usage ``metric-label`` where the asked-for metric does not fit the labels.
    """
    refuse_missing(found, column, where)
    values = list(found.values)
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if numeric and not all(math.isfinite(value) for value in values):
        raise Refused(
            f"{where}: label column {column!r} holds an infinite value. Remove the row.",
            code="label-not-finite",
        )
    problem, notes = _problem(found, column, names, metric, numeric, where)
    if len(values) < 2:
        raise Refused(
            f"{where}: every row has the same label {values[0]!r} in column {column!r}; there is nothing to "
            "tell apart. Take data with at least two labels, or name another column with --label.",
            code="one-class",
        )
    if problem == "regression":
        return LabelReader(column, problem, (), {}), notes
    if len(values) > 20 and 2 * len(values) > sum(found.values.values()):
        raise Refused(
            f"{where}: column {column!r} has {len(values):,} different values in {sum(found.values.values()):,} rows; "
            "classes repeat. Name another column with --label.",
            code="too-many-classes",
        )
    classes, index = _classes(values, names, column, where)
    return LabelReader(column, problem, classes, index), notes


def refuse_missing(found: Survey, column: str, where: str) -> None:
    """Refuse a split where some rows lack a label (none at all, or -1 beside 0, 1, ...)."""
    if found.missing:
        raise Refused(
            f"{where}: {found.missing:,} rows have no label in column {column!r}, the first is row {found.first}. "
            "Remove these rows.",
            code="label-missing",
        )
    whole = all(isinstance(value, int) for value in found.values)
    if whole and -1 in found.values and 0 in found.values and min(found.values) == -1:
        raise Refused(
            f"{where}: {found.values[-1]:,} rows have the label -1, which stands for none, in column {column!r}. "
            "Remove these rows.",
            code="label-missing",
        )


def _problem(
    found: Survey, column: str, names: Sequence[str] | None, metric: str | None, numeric: bool, where: str
) -> tuple[Problem, tuple[str, ...]]:
    whole = numeric and all(float(value).is_integer() for value in found.values)
    floats = numeric and any(isinstance(value, float) for value in found.values)
    if metric is not None:
        wants: Problem = "regression" if metric in REGRESSION_METRICS else "classification"
        if (wants == "regression" and not numeric) or (wants == "classification" and numeric and not whole):
            sample = next((v for v in found.values if isinstance(v, str) or not float(v).is_integer()), None)
            raise Usage(
                f"{where}: metric {metric!r} wants {'numbers' if wants == 'regression' else 'classes'}, and column "
                f"{column!r} holds values like {sample!r}. Give another --metric or --label.",
                code="metric-label",
            )
        return wants, ()
    if names or not numeric:
        return "classification", ()
    if floats:
        note = f"the labels in {column!r} are fractions or decimals: read as a regression"
        return "regression", (note + "; --metric accuracy reads them as classes",) if whole else ()
    if len(found.values) > MOST_INTEGER_CLASSES:
        return "regression", (
            f"{len(found.values):,} different numbers in {column!r}: read as a regression; --metric accuracy reads "
            "them as classes",
        )
    return "classification", ()


def _classes(
    values: list[Any], names: Sequence[str] | None, column: str, where: str
) -> tuple[tuple[str, ...], Mapping[Any, int]]:
    if names:
        by_number = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
        index = {at if by_number else plain(name): at for at, name in enumerate(names)}
        beyond = [value for value in values if value not in index]
        if beyond:
            raise Refused(
                f"{where}: label {beyond[0]!r} in column {column!r}; the file names {len(names)} classes "
                f"({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}). Mend the file's labels or "
                "its class names.",
                code="label-unknown",
            )
        return tuple(names), index
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        whole = sorted({int(value) for value in values})
        # 0, 1, 3 are four classes of which one was not met; 1, 2, 5 or 0, 1000000 are names.
        kept = range(whole[-1] + 1) if whole[0] == 0 and whole[-1] < 2 * len(whole) else whole
        return tuple(str(value) for value in kept), {value: at for at, value in enumerate(kept)}
    ordered = sorted(values, key=str)
    return tuple(str(value) for value in ordered), {value: at for at, value in enumerate(ordered)}
