"""SpAtten's arithmetic: integer scores, upper and low planes of keys, the decision to fetch the low one, pruned values.

Queries, keys and values are integers; scores are exact. The softmax is float32 (``np.exp``; the hardware's polynomial of degree
5 is not modelled). Keys of 10 or 12 bits are stored as an upper plane and a plane of 4 low bits: ``key = (upper << 4) + low``,
the upper plane rounded down. With a threshold, a row is first scored on the upper planes alone; where its largest probability
stays below the threshold, low planes are fetched and the row is scored again. Of the values, those with the largest
probabilities are kept, a row at a time; what is left is not scaled up again.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware.spatten_topk import compact, select_rows

ACCUMULATOR_BITS = 32
"""Of a score. Chosen by us: 12 by 12 bits over a width of 64 need 30."""


def planes(x: NDArray[np.integer[Any]], low_bits: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Upper (signed) and low (0 and up) planes of integers."""
    wide = np.asarray(x, np.int64)
    return wide >> low_bits, wide & ((1 << low_bits) - 1)


def joined(upper: NDArray[np.int64], low: NDArray[np.int64], low_bits: int) -> NDArray[np.int64]:
    """The integers of two planes."""
    return (upper << low_bits) + low


def exact_scores(
    q: NDArray[np.integer[Any]], k: NDArray[np.integer[Any]], name: str = ""
) -> NDArray[np.int64]:
    """(m, n) products of queries (m, d) with keys (n, d).

    Raises:
        Refused: ``spatten-overflow`` where one could exceed the accumulator.
    """
    most = [float(np.abs(np.asarray(x, np.int64)).max(initial=0)) for x in (q, k)]
    if most[0] * most[1] * q.shape[1] > (1 << (ACCUMULATOR_BITS - 1)) - 1:
        raise Refused(
            f"{name or 'a product'}: {q.shape[1]} products of up to {most[0]:g} and {most[1]:g} may exceed the accumulator of "
            f"{ACCUMULATOR_BITS} bits; record fewer bits.",
            code="spatten-overflow",
        )
    return np.asarray(np.rint(np.asarray(q, np.float64) @ np.asarray(k, np.float64).T), np.int64)


def softmax(
    scores: NDArray[np.int64], step: NDArray[np.float32] | float, seen: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """(m, n) probabilities of the keys each row sees, in float32; ``step`` is what one unit of a score is worth."""
    logits = scores.astype(np.float32) * np.asarray(step, np.float32)
    logits = np.where(seen, logits, np.float32(-np.inf))
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True), np.float32)


def decided(
    q: NDArray[np.integer[Any]],
    k: NDArray[np.integer[Any]],
    step: NDArray[np.float32] | float,
    seen: NDArray[np.bool_],
    low_bits: int = 0,
    threshold: float = 0.0,
    name: str = "",
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Probabilities (m, n), and which rows (m,) took the low plane; arguments as of :func:`attend`, ``seen`` (m, n)."""
    if not low_bits:
        return softmax(exact_scores(q, k, name), step, seen), np.zeros(len(q), np.bool_)
    upper, _ = planes(k, low_bits)
    p = softmax(exact_scores(q, upper << low_bits, name), step, seen)
    again = np.asarray(p.max(1) < threshold, np.bool_)
    if again.any():
        part = step if np.ndim(step) == 0 else np.asarray(step)[again]
        p[again] = softmax(exact_scores(q[again], k, name), part, seen[again])
    return p, again


@dataclass(frozen=True)
class Attended:
    """A head's queries on their keys.

    Args:
        probabilities: (m, n), of the pass that counted.
        refetched: (m,), rows that took the low planes.
        kept: (m, n), the values that are summed.
        out: (m, d), in units of ``v``.
        select_cycles, compared: (m,), of the selector.
    """

    probabilities: NDArray[np.float32]
    refetched: NDArray[np.bool_]
    kept: NDArray[np.bool_]
    out: NDArray[np.float64]
    select_cycles: NDArray[np.int64]
    compared: NDArray[np.int64]


def attend(
    q: NDArray[np.integer[Any]],
    k: NDArray[np.integer[Any]],
    v: NDArray[Any],
    step: NDArray[np.float32] | float,
    *,
    values: NDArray[np.int64] | None = None,
    seen: NDArray[np.int64] | None = None,
    low_bits: int = 0,
    threshold: float = 0.0,
    comparators: int = 16,
    seed: int = 0,
    first: int = 0,
    name: str = "",
) -> Attended:
    """One head.

    Args:
        q, k: (m, d) and (n, d) integers.
        v: (n, e), integers or real.
        step: what one unit of a score is worth before the softmax: a number or (m, n).
        values: (m,), how many values each row keeps; None for all.
        seen: (m,), each row sees its first so many keys; None for all.
        low_bits: of the keys' low plane; with 0 there is none.
        threshold: rows with a largest probability below it take the low plane.
        comparators, seed, first: of the selector, see :func:`~sparsam.hardware.spatten_topk.select_rows`.

    Raises:
        Refused: ``spatten-overflow``, ``spatten-select``.
    """
    m, n = len(q), len(k)
    seen = np.full(m, n) if seen is None else seen
    visible = np.arange(n) < seen[:, None]
    p, refetched = decided(q, k, step, visible, low_bits, threshold, name)
    kept, cycles, compared = visible, np.zeros(m, np.int64), np.zeros(m, np.int64)
    if values is not None:
        kept, cycles, compared = select_rows(p, seen, values, comparators, seed, first)
    out = np.where(kept, p, 0).astype(np.float64) @ np.asarray(v, np.float64)
    return Attended(p, refetched, kept, out, cycles, compared)


@dataclass(frozen=True)
class Replayed:
    """A schedule that was carried out.

    Args:
        scores: (m, n) int64; 0 where a key was not seen.
        context: (m, d) int64.
        cycles: of the two units.
        times: (m, n) and (m, n): how often each pair of query and key, of probability and value met.
        most: multipliers that were at work in the fullest cycle, of either unit.
    """

    scores: NDArray[np.int64]
    context: NDArray[np.int64]
    cycles: tuple[int, int]
    times: tuple[NDArray[np.int64], NDArray[np.int64]]
    most: int


def replay(
    q: NDArray[np.integer[Any]],
    k: NDArray[np.integer[Any]],
    p: NDArray[np.integer[Any]],
    v: NDArray[np.integer[Any]],
    kept: NDArray[np.bool_],
    seen: NDArray[np.int64],
    multipliers: int,
) -> Replayed:
    """Carry out a head's schedule cycle by cycle: each takes as many keys, or values, as fit on a unit's multipliers.

    Args:
        q, k: (m, d), (n, d) integers.
        p: (m, n) probabilities as integers.
        v: (n, d) integers.
        kept: (m, n) the values of each row.
        seen: (m,), the keys of each row are its first so many.
        multipliers: of a unit.
    """
    q, k, p, v = (np.asarray(x, np.int64) for x in (q, k, p, v))
    par = multipliers // k.shape[1]
    width = 1 << (par - 1).bit_length()  # of the zero eliminator in front of the fetcher
    scores, context = np.zeros((len(q), len(k)), np.int64), np.zeros((len(q), v.shape[1]), np.int64)
    met = np.zeros_like(scores), np.zeros_like(scores)
    cycles, most = [0, 0], 0
    for row in range(len(q)):
        for start in range(0, int(seen[row]), par):
            ids = np.arange(start, min(start + par, int(seen[row])))
            scores[row, ids] += k[ids] @ q[row]
            met[0][row, ids] += 1
            cycles[0] += 1
            most = max(most, len(ids) * k.shape[1])
        order = compact(np.arange(len(k)), kept[row], width)
        chosen = np.concatenate(order) if order else np.zeros(0, np.int64)
        for start in range(0, len(chosen), par):
            ids = chosen[start : start + par]
            context[row] += p[row, ids] @ v[ids]
            met[1][row, ids] += 1
            cycles[1] += 1
            most = max(most, len(ids) * v.shape[1])
    return Replayed(scores, context, (cycles[0], cycles[1]), met, most)
