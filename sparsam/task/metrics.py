"""Scores from predictions and labels, counted so that resampling is cheap.

Every metric here depends only on how often each (prediction, label) pair occurs. So a score is a function of
``counts`` over distinct pairs, and a bootstrap resample is one multinomial draw of these counts: the same
distribution as drawing rows with replacement, without touching the rows.

accuracy; F1 of class 1 (macro mean where there are more than two classes); Matthews correlation (for more classes
Gorodkin 2004, R_K); mean of Pearson's and Spearman's correlation. An undefined score (a constant prediction, a
class never met) is 0, as in GLUE's own scripts. A prediction below 0 is a class the task does not have: always wrong.

Letters: r resamples, m distinct pairs, n rows.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused, Usage

CLASS_METRICS = ("accuracy", "f1", "matthews")
REGRESSION_METRICS = ("pearson_spearman",)
METRICS = CLASS_METRICS + REGRESSION_METRICS

#: Names to print.
METRIC_NAMES = {
    "accuracy": "accuracy", "f1": "F1", "matthews": "Matthews correlation", "pearson_spearman": "Pearson-Spearman mean",
}  # fmt: skip

#: The metric that GLUE reports, by the task's name in small letters and digits; all other tasks go by their problem.
GLUE_METRICS = {
    "cola": "matthews", "mrpc": "f1", "qqp": "f1", "stsb": "pearson_spearman", "stsbenchmark": "pearson_spearman",
}  # fmt: skip


def check_metric(metric: str) -> None:
    """Raise Usage ``metric-unknown`` unless ``metric`` is one of METRICS."""
    if metric not in METRICS:
        raise Usage(
            f"metric {metric!r} is not known; choose one of {', '.join(METRICS)}.", code="metric-unknown"
        )


def decided(
    metric: str, predictions: NDArray[Any], labels: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Check the pair, and turn logits (n, classes) into classes (n,), regression outputs (n, 1) into (n,).

    Raises Refused ``non-finite`` where a prediction or label is NaN or infinite, Usage ``predictions-shape`` where
    lengths differ or nothing was given.
    """
    check_metric(metric)
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if (
        len(predictions) != len(labels)
        or not len(labels)
        or labels.ndim != 1
        or predictions.ndim not in (1, 2)
    ):
        raise Usage(
            f"predictions {predictions.shape} do not fit labels {labels.shape}; wanted are n predictions, or n rows of "
            "logits, and n labels, n > 0.",
            code="predictions-shape",
        )
    for name, values in (("prediction", predictions), ("label", labels)):
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            raise Refused(
                f"{int((~finite).sum()):,} of {len(values):,} {name}s are NaN or infinite, the first at row {row}. "
                "The model's weights or its number format are damaged; reload them or use float32.",
                code="non-finite",
            )
    if predictions.ndim == 2:
        if metric in CLASS_METRICS:
            predictions = predictions.argmax(axis=1)
        elif predictions.shape[1] == 1:
            predictions = predictions[:, 0]
        else:
            raise Usage(
                f"predictions {predictions.shape} hold {predictions.shape[1]} numbers a row; {metric} wants one. "
                "Load the model with num_labels=1.",
                code="predictions-shape",
            )
    return predictions, labels


def metric_value(metric: str, predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    """The score as a fraction (1 is perfect); predictions are classes or logits (n, classes), or numbers."""
    predictions, labels = decided(metric, predictions, labels)
    counts = np.ones((1, len(labels)), np.int64)
    return float(metric_of_counts(metric, counts, predictions, labels)[0])


def metric_of_counts(
    metric: str, counts: NDArray[np.int64], predictions: NDArray[Any], labels: NDArray[Any]
) -> NDArray[np.float64]:
    """Scores (r,) where pair i of (predictions, labels), both (m,), occurs ``counts[:, i]`` times; counts (r, m)."""
    if metric == "accuracy":
        return np.asarray(counts @ (predictions == labels) / counts.sum(axis=1), np.float64)
    if metric == "f1":
        return _f1(counts, predictions, labels)
    if metric == "matthews":
        return _matthews(counts, predictions, labels)
    weights = counts.astype(np.float64)
    ranked = _correlation(weights, _ranks(weights, predictions), _ranks(weights, labels))
    return (_correlation(weights, predictions[None], labels[None]) + ranked) / 2


def _f1(counts: NDArray[np.int64], predictions: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    met = np.union1d(predictions, labels)
    met = met[met >= 0]  # what the task has no class for is wrong, and no class to be scored
    scored = [1] if set(met.tolist()) <= {0, 1} else met.tolist()
    each = []
    for label in scored:
        both = counts @ ((predictions == label) & (labels == label)).astype(np.int64)
        either = counts @ ((predictions == label).astype(np.int64) + (labels == label))  # 2 tp + fp + fn
        each.append(_ratio(2.0 * both, either))
    return np.asarray(np.mean(each, axis=0), np.float64)


def _matthews(
    counts: NDArray[np.int64], predictions: NDArray[Any], labels: NDArray[Any]
) -> NDArray[np.float64]:
    met = np.union1d(predictions, labels)
    total = counts.sum(axis=1).astype(np.float64)
    right = (counts @ (predictions == labels)).astype(np.float64)
    said = (counts @ (predictions[:, None] == met).astype(np.int64)).astype(np.float64)  # (r, classes)
    true = (counts @ (labels[:, None] == met).astype(np.int64)).astype(np.float64)
    above = right * total - (said * true).sum(axis=1)
    below = np.sqrt((total**2 - (said**2).sum(axis=1)) * (total**2 - (true**2).sum(axis=1)))
    return _ratio(above, below)


def _correlation(weights: NDArray[np.float64], x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """Pearson's correlation (r,) of x and y (r or 1, m) under weights (r, m)."""
    total = weights.sum(axis=1, keepdims=True)
    x, y = (v.astype(np.float64) - (weights * v).sum(axis=1, keepdims=True) / total for v in (x, y))
    below = np.sqrt((weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1))
    # Rounding leaves a constant series a spread of about 1e-16 of its size; that is no spread.
    spread = (weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1) > 1e-24 * total[:, 0] ** 2
    return np.clip(_ratio((weights * x * y).sum(axis=1), np.where(spread, below, 0.0)), -1, 1)


def _ranks(weights: NDArray[np.float64], values: NDArray[Any]) -> NDArray[np.float64]:
    """Ranks (r, m), ties sharing their mean rank, where value i occurs ``weights[:, i]`` times."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.add.reduceat(weights[:, order], starts, axis=1)  # (r, groups)
    ranks = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
    return np.asarray(ranks[:, group], np.float64)


def _ratio(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(above, below, out=np.zeros(len(above)), where=below != 0)
    return ratio


def standard_metric(name: str, problem: str) -> str:
    """The metric usual for a task of this name: GLUE's choice where the name is known, else by the problem.

    >>> standard_metric("STS-B", "regression")
    'pearson_spearman'
    """
    known = _glue_metric(name)
    if known and (known in REGRESSION_METRICS) == (problem == "regression"):
        return known
    return "accuracy" if problem == "classification" else "pearson_spearman"


def glue_regression(name: str) -> str | None:
    """The metric of a GLUE task that predicts a number, even where a small file holds whole ones; else None."""
    known = _glue_metric(name)
    return known if known in REGRESSION_METRICS else None


def _glue_metric(name: str) -> str | None:
    return GLUE_METRICS.get("".join(c for c in name.lower() if c.isalnum()))
