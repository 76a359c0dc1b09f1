"""From times and survivors to prices: what each number of heads and filters of each layer costs on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.models.stored import HALF
from sparsam.search.tables import Tables
from sparsam.structure.ftpp import Prices


@dataclass(frozen=True)
class Curve:
    """What a token rule leaves: the share of tokens alive at each layer's attention, and at its feed-forward part."""

    macs: float
    attention: tuple[float, ...]
    ffn: tuple[float, ...]
    divergence: float = 0.0
    """Mean Kullback-Leibler divergence from the dense model's answers (nats), before any training."""

    @staticmethod
    def whole(layers: int) -> "Curve":
        """No rule."""
        return Curve(1.0, (1.0,) * layers, (1.0,) * layers)


def between(curves: Sequence[Curve], macs: float) -> Curve:
    """The curve at a share of MACs, interpolated between measured ones."""
    ordered = sorted(curves, key=lambda curve: curve.macs)
    x = [curve.macs for curve in ordered]
    rows = np.array([[*curve.attention, *curve.ffn, curve.divergence] for curve in ordered])
    found = [float(np.interp(macs, x, column)) for column in rows.T]
    layers = len(ordered[0].attention)
    return Curve(macs, tuple(found[:layers]), tuple(found[layers : 2 * layers]), found[-1])


def in_time(
    tables: Tables, curve: Curve, units: Sequence[tuple[int, int]], *, limit: float, fixed: float, alone: bool
) -> Prices:
    """Milliseconds of a batch for every number of heads and filters, with the tokens that a curve leaves.

    Args:
        tables: of this machine, for batches of one profile of lengths.
        curve: tokens alive by layer.
        units: heads and filters that each layer has; no more are on offer.
        limit: milliseconds a batch may take.
        fixed: those it takes outside the layers' halves.
        alone: the last layer works for the class token alone.
    """
    lengths = np.asarray(tables.profile["lengths"])
    total, layers = float(lengths.sum()), len(units)
    heads, filters = [], []
    for layer, (h, f) in enumerate(units):
        last = alone and layer == layers - 1
        attention = tables.last_attention if last else tables.attention
        at_ffn = float(len(lengths)) if last else curve.ffn[layer] * total
        times = attention.at(curve.attention[layer] * total)
        if tables.out is not None:
            times = times + tables.out.at(at_ffn)
        heads.append(_offer(attention.units, times, h))
        filters.append(_offer(tables.ffn.units, tables.ffn.at(at_ffn), f))
    return Prices(tuple(heads), tuple(filters), limit, fixed)


def in_bytes(
    width: int,
    head_width: int,
    units: Sequence[tuple[int, int]],
    multiple: int,
    *,
    budget: float,
    fixed: float,
    bits: int | None = None,
) -> Prices:
    """Bytes of the weights of every number of heads and filters as they are saved: in float32, or in integers of ``bits``.

    Integers have a scale an output beside them; two of up to four bits lie in a byte, an output's inputs rounded up to it.
    """
    whole = np.int64(width)

    def saved(outputs: Any, inputs: Any) -> Any:
        if bits is None:
            return 4.0 * outputs * inputs
        each = inputs if bits > HALF else (inputs + 1) // 2
        return outputs * (each + 4.0 * (inputs > 0))

    def of_heads(count: NDArray[np.int64]) -> NDArray[np.float64]:
        inner = count * head_width
        found: NDArray[np.float64] = 3 * (saved(inner, whole) + 4.0 * inner) + saved(whole, inner)
        return found

    def of_filters(count: NDArray[np.int64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = saved(count, whole) + 4.0 * count + saved(whole, count)
        return found

    heads = [np.arange(h + 1) for h, _ in units]
    filters = [np.unique(np.append(np.arange(0, f + 1, multiple), f)) for _, f in units]
    return Prices(
        tuple((n, of_heads(n)) for n in heads), tuple((n, of_filters(n)) for n in filters), budget, fixed
    )


def price_of(prices: Prices, units: Sequence[tuple[int, int]]) -> float:
    """What a plan with these numbers of heads and filters costs, interpolated between the numbers on offer."""
    spent = prices.fixed
    for (h, f), heads, filters in zip(units, prices.heads, prices.filters, strict=True):
        spent += float(np.interp(h, *heads) + np.interp(f, *filters))
    return spent


def _offer(
    units: Sequence[int], times: NDArray[np.float64], most: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The entries of a table up to what a layer has, that number itself included."""
    x = np.asarray(units, np.int64)
    numbers = np.unique(np.append(x[x <= most], most))
    return numbers, np.interp(numbers, x, times)
