"""What a test set said, with how sure that is; and the machine it was said on.

Intervals are 95 %. The bootstrap draws rows with replacement and takes the 2.5th and 97.5th percentile (Efron and
Tibshirani 1993, chapter 13). Metrics depend only on how often each (label, prediction) pair occurs, so a resample is
one multinomial draw of these counts; see sparsam.task.metrics. Two models are compared on the same rows: one
resample scores both, and McNemar's exact test (1947) reads the rows on which just one of them is right.
"""

import math
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Usage
from sparsam.task.metrics import METRIC_NAMES, REGRESSION_METRICS, decided, metric_of_counts, metric_value

#: Draws of the bootstrap; chosen by us: the interval's ends then move by about 0.03 of its width from seed to seed.
RESAMPLES = 2000

#: Numbers held at once while resampling (32 MiB of float64).
_AT_ONCE = 4_000_000

#: The standard normal's 97.5th percentile.
_Z = 1.959963984540054


@dataclass(frozen=True)
class Measurement:
    """``value`` of ``what`` with its 95 % interval from ``low`` to ``high``, over ``n`` rows, in ``unit``.

    ``extra`` holds further numbers by name.
    """

    what: str
    value: float
    low: float
    high: float
    n: int
    unit: str
    extra: Mapping[str, float | int | str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The same facts as one JSON object; ``extra`` stands under its own name."""
        return {
            "what": self.what, "value": self.value, "low": self.low, "high": self.high, "n": self.n,
            "unit": self.unit, "extra": dict(self.extra),
        }  # fmt: skip


def metric_interval(
    metric: str, predictions: NDArray[Any], labels: NDArray[Any], *, seed: int = 0, resamples: int = RESAMPLES
) -> Measurement:
    """The score of one model with its bootstrap interval, as a fraction.

    Predictions are classes (n,), logits (n, classes), or numbers (n,) for a regression. For accuracy, ``extra`` holds
    ``right``, the rows that are right. Raises Refused ``non-finite``, Usage ``predictions-shape``.
    """
    predictions, labels = decided(metric, predictions, labels)
    drawn = _resampled(metric, (predictions,), labels, seed, resamples)[0]
    low, high = np.percentile(drawn, (2.5, 97.5))
    extra = {"right": int((predictions == labels).sum())} if metric == "accuracy" else {}
    value = metric_value(metric, predictions, labels)
    return Measurement(METRIC_NAMES[metric], value, float(low), float(high), len(labels), "fraction", extra)


def paired_difference(
    metric: str,
    before: NDArray[Any],
    after: NDArray[Any],
    labels: NDArray[Any],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Measurement:
    """How many points (hundredths of the score) ``after`` has over ``before`` on the same rows; negative is a loss.

    For classes, ``extra`` holds ``lost`` (rows right before and wrong after), ``won`` (the other way round),
    ``changed`` (rows with another answer) and ``p``, the two-sided exact McNemar p of lost against won.
    """
    before, _ = decided(metric, before, labels)
    after, labels = decided(metric, after, labels)
    first, second = _resampled(metric, (before, after), labels, seed, resamples)
    low, high = np.percentile(100 * (second - first), (2.5, 97.5))
    value = 100 * (metric_value(metric, after, labels) - metric_value(metric, before, labels))
    extra: dict[str, float | int | str] = {}
    if metric not in REGRESSION_METRICS:
        lost = int(((before == labels) & (after != labels)).sum())
        won = int(((before != labels) & (after == labels)).sum())
        extra = {"lost": lost, "won": won, "changed": int((before != after).sum()), "p": mcnemar(lost, won)}
    what = f"difference in {METRIC_NAMES[metric]}"
    return Measurement(what, value, float(low), float(high), len(labels), "points", extra)


def _resampled(
    metric: str, predictions: tuple[NDArray[Any], ...], labels: NDArray[Any], seed: int, resamples: int
) -> list[NDArray[np.float64]]:
    """The score of each model in each resample; all models see the same resamples."""
    if resamples < 1:
        raise Usage(f"resamples must be at least 1; got {resamples}.", code="resamples")
    generator = np.random.default_rng(seed)
    met, times = np.unique(
        np.column_stack((labels, *predictions)).astype(np.float64), axis=0, return_counts=True
    )
    size = max(1, _AT_ONCE // len(times))
    scores: list[list[NDArray[np.float64]]] = [[] for _ in predictions]
    for start in range(0, resamples, size):
        counts = generator.multinomial(len(labels), times / len(labels), size=min(size, resamples - start))
        for at, one in enumerate(scores):
            one.append(metric_of_counts(metric, counts, met[:, 1 + at], met[:, 0]))
    return [np.concatenate(one) for one in scores]


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """Wilson's (1927) 95 % interval of the share ``right / n``; never empty, also at 0 and at n.

    >>> [round(end, 4) for end in wilson_interval(781, 872)]
    [0.8736, 0.9142]
    """
    if not 0 <= right <= n or n < 1:
        raise Usage(
            f"wilson_interval wants 0 <= right <= n and n >= 1; got right {right}, n {n}.", code="wilson"
        )
    share, spread = right / n, _Z * _Z / n
    centre = (share + spread / 2) / (1 + spread)
    reach = _Z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def mcnemar(lost: int, won: int) -> float:
    """Two-sided exact p that ``lost`` and ``won`` come from a fair coin.

    >>> mcnemar(1, 7)
    0.0703125
    """
    flips, fewer = lost + won, min(lost, won)
    tail, term = 0, 1
    for k in range(fewer + 1):
        tail += term
        term = term * (flips - k) // (k + 1)
    return min(1.0, 2 * tail / (1 << flips))


def machine_facts() -> dict[str, Any]:
    """What a reader needs to place a number: processor, cores, memory, threads, versions. No host name, no network.

    Facts of torch appear where it is already imported; it is not imported for them.
    """
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instructions": _instructions(),
        "memory_bytes": _memory_bytes(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {
            name: version for name in ("torch", "transformers", "numpy") if (version := _version(name))
        },
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _cpuinfo(key: str) -> str:
    """The first value of ``key`` in Linux's description of the processor; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next(
        (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), ""
    )


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _instructions() -> list[str]:
    """The vector and matrix instructions that decide how fast float32, bf16 and int8 are."""
    wanted = (
        "avx2",
        "avx512f",
        "avx512_vnni",
        "avx512_bf16",
        "avx_vnni",
        "amx_bf16",
        "amx_int8",
        "asimd",
        "bf16",
        "i8mm",
    )
    present = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return [name for name in wanted if name in present]


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
