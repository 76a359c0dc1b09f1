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


@dataclass(frozen=True)
class Budget:
    """What may be spent or lost. A relative limit is one of sparsam's own packed dense bfloat16 form of the same model.

    ``macs=0.5x`` at most half the MACs (met up to 2 % more after reload, on other inputs); ``throughput=2.5x`` at least so many
    times its samples a second, in batches; ``latency=0.4x`` at most that share of its median time, one sample at a time;
    ``bytes=0.5x`` at most half its weights; ``accuracy=-1`` at most one point of the task's metric lost.
    """

    macs: float | None = None
    accuracy: float | None = None
    throughput: float | None = None
    latency: float | None = None
    bytes: float | None = None

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

    @property
    def timed(self) -> bool:
        """Whether a clock decides if it is met."""
        return self.throughput is not None or self.latency is not None

    @property
    def searched(self) -> bool:
        """Whether what to keep has to be searched for: it names more than MACs and accuracy."""
        return self.timed or self.bytes is not None

    def to_json(self) -> dict[str, float]:
        """The limits that were given."""
        return {key: value for key in self.KEYS if (value := getattr(self, key)) is not None}

    @staticmethod
    def parse(text: str) -> "Budget":
        """Read ``macs=0.5x,accuracy=-1``.

        Raises:
            Usage: ``budget-key``, ``budget-value`` or ``budget-range``.
        """
        found: dict[str, float] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            key, equals, value = (part.strip() for part in item.partition("="))
            key = "macs" if key == "flops" else key
            if key not in Budget.KEYS or not equals:
                raise Usage(
                    f"cannot read {item!r} in the budget {text!r}; expected e.g. macs=0.5x,accuracy=-1. Keys are "
                    f"{', '.join(Budget.KEYS)}.",
                    code="budget-key",
                )
            if key in found:
                raise Usage(f"the budget {text!r} names {key} twice; keep one.", code="budget-key")
            form = r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))" if key == "accuracy" else r"(\d+(?:\.\d*)?|\.\d+)x"
            match = re.fullmatch(form, value.replace("−", "-"))
            if match is None:
                wanted = "points such as -1" if key == "accuracy" else _WANTED[key]
                raise Usage(f"cannot read {key}={value!r}; expected {wanted}.", code="budget-value")
            found[key] = float(match.group(1))
        if not found:
            raise Usage(f"the budget {text!r} is empty; expected e.g. macs=0.5x.", code="budget-key")
        return Budget(**found)


_WANTED = {
    "macs": "a share of the dense model such as 0.5x",
    "latency": "a share of the dense model's time such as 0.5x",
    "bytes": "a share of the dense model's size such as 0.5x",
    "throughput": "a multiple of the dense model's such as 2.5x",
}
