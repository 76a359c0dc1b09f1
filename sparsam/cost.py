"""What a plan takes, counted: multiply-accumulates over real lengths, parameters, bytes. And what may be spent.

Counted figures and measured ones never share a column. Letters: n_l living tokens of a sequence at layer l's attention, m_l at
its feed-forward part, d model width, a = heads * head width kept, f filters kept.

    projections  4 d a n_l          query, key, value, output
    attention    2 a n_l^2          q k^T and p v
    scoring      h n_l^2            the column sums of h heads, where a rule asks for received attention
    feed-forward 2 d f m_l

This is the LTP paper's formula (2 d n^2 + 4 d^2 n + 8 d^2 m per layer) with the kept heads and filters in place of d and 4 d,
and the scoring added. Embeddings, pooler and head are not counted, padding is not counted on either side.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Usage


@dataclass(frozen=True)
class Shape:
    """One layer's widths: model, heads kept, width of a head, filters kept; and whether its tokens are scored."""

    width: int
    heads: int
    head_width: int
    filters: int
    scored: bool = False


@dataclass(frozen=True)
class Cost:
    """Counted work. MACs of the encoder by part, summed over the samples counted."""

    projections: int = 0
    attention: int = 0
    scoring: int = 0
    ffn: int = 0
    samples: int = 0

    @property
    def macs(self) -> int:
        """All of it, scoring included."""
        return self.projections + self.attention + self.scoring + self.ffn

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(self._row(), other._row(), strict=True)))

    def _row(self) -> tuple[int, ...]:
        return (self.projections, self.attention, self.scoring, self.ffn, self.samples)

    def relative_to(self, dense: "Cost") -> float:
        """The ratio of MACs. Both must count the same samples."""
        if dense.macs == 0 or dense.samples != self.samples:
            raise Usage(
                f"costs of {self.samples} and {dense.samples} samples cannot be compared; count both on "
                "the same samples.",
                code="cost-samples",
            )
        return self.macs / dense.macs


def layer_cost(shape: Shape, attention: NDArray[np.integer[Any]], ffn: NDArray[np.integer[Any]]) -> Cost:
    """MACs of one layer for sequences with ``attention`` (b,) tokens at attention and ``ffn`` (b,) after it."""
    n = np.asarray(attention, dtype=object)  # Python integers: long texts times large models overflow 64 bits
    m = np.asarray(ffn, dtype=object)
    inner = shape.heads * shape.head_width
    tokens, pairs, after = int(n.sum()), int((n * n).sum()), int(m.sum())
    return Cost(
        projections=4 * shape.width * inner * tokens,
        attention=2 * inner * pairs,
        scoring=shape.heads * pairs if shape.scored else 0,
        ffn=2 * shape.width * shape.filters * after,
    )


def encoder_cost(
    shapes: Sequence[Shape],
    attention: Sequence[NDArray[np.integer[Any]]],
    ffn: Sequence[NDArray[np.integer[Any]]],
) -> Cost:
    """MACs of the encoder; one array of surviving lengths (b,) a layer, at attention and at feed-forward."""
    total = Cost(samples=len(attention[0]) if len(attention) else 0)
    for shape, n, m in zip(shapes, attention, ffn, strict=True):
        total = total + layer_cost(shape, n, m)
    return total


def dense_cost(shapes: Sequence[Shape], lengths: NDArray[np.integer[Any]]) -> Cost:
    """MACs when every token goes through every layer and nothing is scored."""
    plain = [Shape(s.width, s.heads, s.head_width, s.filters) for s in shapes]
    return encoder_cost(plain, [lengths] * len(plain), [lengths] * len(plain))


ABSOLUTE = {
    "macs": "macs_per_sample",
    "throughput": "samples_per_second",
    "latency": "latency_ms",
    "bytes": "size_bytes",
}
"""The field of a limit in its own unit, by the key of a limit that is relative to the dense model."""


@dataclass(frozen=True)
class Dense:
    """What the dense model takes, which absolute limits are made relative by; None for what no limit asks about."""

    macs_per_sample: float | None = None
    samples_per_second: float | None = None
    latency_ms: float | None = None
    size_bytes: float | None = None

    def of(self, key: str) -> float:
        """The figure that belongs to a key."""
        found = getattr(self, ABSOLUTE[key])
        assert found is not None, key
        return float(found)


@dataclass(frozen=True)
class Budget:
    """What may be spent or lost. A relative limit is one of sparsam's own packed dense bfloat16 form of the same model.

    ``macs=0.5x`` at most half the MACs (met up to 2 % more after reload, on other inputs); ``throughput=2.5x`` at least so many
    times its samples a second, in batches; ``latency=0.4x`` at most that share of its median time, one sample at a time;
    ``bytes=0.5x`` at most half its weights; ``accuracy=-1`` at most one point of the task's metric lost.

    The same limits in their own units: ``macs=120M`` of a sample, on average; ``throughput=900/s``; ``latency=8ms``;
    ``bytes=20MB``. Several may be given, each in one form; all of them are kept.
    """

    macs: float | None = None
    accuracy: float | None = None
    throughput: float | None = None
    latency: float | None = None
    bytes: float | None = None
    macs_per_sample: float | None = None
    samples_per_second: float | None = None
    latency_ms: float | None = None
    size_bytes: float | None = None

    KEYS = ("macs", "throughput", "latency", "bytes", "accuracy")

    def __post_init__(self) -> None:
        for key, example in (
            ("macs", "Half the work is macs=0.5x."),
            ("latency", "Half the time is latency=0.5x."),
            ("bytes", "Half the size is bytes=0.5x."),
        ):
            value = getattr(self, key)
            if value is not None and not 0 < value <= 1:
                raise Usage(f"{key} must lie in (0x, 1x]; got {value!r}x. {example}", code="budget-range")
        if self.throughput is not None and not 1 <= self.throughput < math.inf:
            raise Usage(
                f"throughput must be at least 1x; got {self.throughput!r}x. Twice as many samples a second are throughput=2x.",
                code="budget-range",
            )
        if self.accuracy is not None and not (math.isfinite(self.accuracy) and self.accuracy <= 0):
            raise Usage(
                f"accuracy is the change in points that is allowed, so at most 0; got {self.accuracy!r}. "
                "One point lost at most is accuracy=-1.",
                code="budget-range",
            )
        for key, field in ABSOLUTE.items():
            value = getattr(self, field)
            if value is not None and not 0 < value < math.inf:
                raise Usage(
                    f"{field} must be above 0 and finite; got {value!r}. For example {_EXAMPLES[key]}.",
                    code="budget-range",
                )
            if value is not None and getattr(self, key) is not None:
                raise Usage(
                    f"the budget limits {key} twice, by {key} and by {field}; keep one.", code="budget-key"
                )

    def names(self, key: str) -> bool:
        """Whether a limit is given for a key, in either form."""
        return any(getattr(self, field) is not None for field in (key, ABSOLUTE[key]))

    @property
    def limits(self) -> tuple[str, ...]:
        """The keys that are limited, in either form; accuracy aside."""
        return tuple(key for key in ABSOLUTE if self.names(key))

    @property
    def absolute(self) -> tuple[str, ...]:
        """The keys whose limit is in its own unit."""
        return tuple(key for key, field in ABSOLUTE.items() if getattr(self, field) is not None)

    @property
    def timed(self) -> bool:
        """Whether a clock decides if it is met."""
        return self.names("throughput") or self.names("latency")

    @property
    def searched(self) -> bool:
        """Whether what to keep has to be searched for: it names more than MACs and accuracy."""
        return self.timed or self.names("bytes")

    def said(self, key: str) -> str:
        """A limit as it is written, such as ``latency=8ms``."""
        field = ABSOLUTE[key]
        return (
            written(key, getattr(self, key))
            if getattr(self, field) is None
            else written(field, getattr(self, field))
        )

    def reach(self, key: str, ratio: float, dense: Dense) -> str:
        """What a figure relative to the dense model's is in the form that the limit has."""
        if key not in self.absolute:
            return f"{key}={ratio:.1f}x" if key == "throughput" else f"{key}={ratio:.2f}x"
        return written(ABSOLUTE[key], float(f"{ratio * dense.of(key):.3g}"))

    def relative_to(self, dense: Dense) -> tuple["Budget", tuple[str, ...]]:
        """The same limits relative to a dense model, and the keys whose absolute limit it keeps already: those are left out."""
        found: dict[str, float] = {
            key: value for key in self.KEYS if (value := getattr(self, key)) is not None
        }
        met = []
        for key in self.absolute:
            ratio = getattr(self, ABSOLUTE[key]) / dense.of(key)
            if ratio <= 1 if key == "throughput" else ratio >= 1:
                met.append(key)
            else:
                found[key] = ratio
        return Budget(**found), tuple(met)

    def to_json(self) -> dict[str, float]:
        """The limits that were given."""
        fields = (*self.KEYS, *ABSOLUTE.values())
        return {key: value for key in fields if (value := getattr(self, key)) is not None}

    @staticmethod
    def parse(text: str) -> "Budget":
        """Read ``macs=0.5x,accuracy=-1`` or ``latency=8ms,bytes=20MB``.

        Raises:
            Usage: ``budget-key``, ``budget-value`` or ``budget-range``.
        """
        found: dict[str, float] = {}
        seen: set[str] = set()
        for item in filter(None, (part.strip() for part in text.split(","))):
            key, equals, value = (part.strip() for part in item.partition("="))
            key = "macs" if key == "flops" else key
            if key not in Budget.KEYS or not equals:
                raise Usage(
                    f"cannot read {item!r} in the budget {text!r}; expected e.g. macs=0.5x,accuracy=-1. Keys are "
                    f"{', '.join(Budget.KEYS)}.",
                    code="budget-key",
                )
            if key in seen:
                raise Usage(f"the budget {text!r} names {key} twice; keep one.", code="budget-key")
            seen.add(key)
            field, number = _read(key, value)
            found[field] = number
        if not found:
            raise Usage(f"the budget {text!r} is empty; expected e.g. macs=0.5x.", code="budget-key")
        return Budget(**found)


def _read(key: str, value: str) -> tuple[str, float]:
    """The field that a value belongs to, and the number."""
    if key == "accuracy":
        match = re.fullmatch(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))", value.replace("−", "-"))
        if match is None:
            raise Usage(f"cannot read accuracy={value!r}; expected points such as -1.", code="budget-value")
        return key, float(match.group(1))
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(\S+)", value)
    if match is not None and match.group(2) == "x":
        return key, float(match.group(1))
    if match is None or match.group(2) not in _UNITS[key]:
        raise Usage(
            f"cannot read {key}={value!r}; expected {_WANTED[key]}, or {_EXAMPLES[key]} (units are {', '.join(_UNITS[key])}).",
            code="budget-value",
        )
    return ABSOLUTE[key], float(match.group(1)) * _UNITS[key][match.group(2)]


def written(field: str, value: float) -> str:
    """A limit as :meth:`Budget.parse` reads it, in the unit that suits its size."""
    key = next((key for key, absolute in ABSOLUTE.items() if absolute == field), None)
    if key is None:
        return f"{field}={value:g}x"
    units = {
        "latency": ("ms",),
        "throughput": ("/s",),
        "bytes": ("kB", "MB", "GB"),
        "macs": ("k", "M", "G", "T"),
    }[key]
    unit = next((one for one in units[::-1] if value >= _UNITS[key][one]), units[0])
    return f"{key}={value / _UNITS[key][unit]:.6g}{unit}"


_WANTED = {
    "macs": "a share of the dense model such as 0.5x",
    "latency": "a share of the dense model's time such as 0.5x",
    "bytes": "a share of the dense model's size such as 0.5x",
    "throughput": "a multiple of the dense model's such as 2.5x",
}
_EXAMPLES = {
    "macs": "macs=120M for a sample, on average",
    "latency": "latency=8ms",
    "bytes": "bytes=20MB",
    "throughput": "throughput=900/s",
}
_UNITS = {
    "macs": {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12},
    "latency": {"ms": 1.0, "us": 1e-3, "s": 1e3},
    "bytes": {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    "throughput": {"/s": 1.0},
}
