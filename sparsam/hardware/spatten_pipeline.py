"""SpAtten's pipeline: how long rows take that follow one another.

A row is one query of one head: its keys are fetched, multiplied with the query, the softmax is taken, the values that survive
are fetched and summed. Rows stay in order. Five stages work on different rows at a time, each a server that takes one row after
the other: the fetcher (keys and values share it), scores and softmax, the selector of values, the sum of values. That makes the
time a max-plus recurrence, so fewer keys, values or bits can never take longer (but see the selector below).

Rules of time, for a row with K keys and V values of width D on M multipliers a unit:

* fetcher: its bytes over ``32 * channels * efficiency``; keys stream into the buffer, which holds a row's keys until the row's
  scores are decided, so a row is fetched only when there is room;
* scores: ``max(ceil(K / floor(M / D)), ceil(K / softmax lanes))``, as keys arrive. If the row's largest probability calls
  for the low bits, they are fetched and the row is scored again, and those behind wait;
* selector: the quick-select of :mod:`sparsam.hardware.spatten_topk`; none where V >= K;
* values: ``ceil(V / floor(M / D))``, as values arrive; where V < K they are asked for when the selector is done.

Of the selector alone, fewer values may take longer: it works hardest at half the keys and not at all at all of them.

:func:`behaviour_cycles` is the other model, that of the authors' behaviour model for BERT, kept as a check.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware.jit import jit
from sparsam.hardware.machine import Machine
from sparsam.hardware.spatten_rows import TRANSACTION, Rows
from sparsam.hardware.spatten_topk import PASS_OVERHEAD, drawn, mean_cycles, mixed, rank_cycles

SCORE_DEPTH = 1 + 1 + 9 + 7 + 21 + 23 + 29 + 7
"""Stages from the key buffer to a probability: buffer, multipliers, adder tree; the softmax's conversion, exponential,
accumulator, divider, conversion. Authors' behaviour model."""
MOST_MEAN = 4096
"""Keys of a row up to which mean cycles of the selector are tabled; twice what the key buffer holds at a width of 64."""
VALUE_DEPTH = 1 + 1 + 1
"""Buffer, multipliers, accumulator."""


@dataclass(frozen=True)
class Engine:
    """The numbers of a SpAtten machine that rows are timed with; see the machine's file for units and sources."""

    multipliers: int
    softmax_lanes: int
    comparators: int
    lines: int
    channels: int
    efficiency: float
    latency: int

    @classmethod
    def of(cls, machine: Machine) -> "Engine":
        """Read and checked. Raises Refused ``machine-parameter``."""
        efficiency = machine.number("dram_efficiency")
        if efficiency > 1:
            raise Refused(
                f"dram_efficiency of machine {machine.name} is {efficiency}; it is a share of the peak, at most 1.",
                code="machine-parameter",
            )
        return cls(
            machine.whole("multipliers", most=1 << 20),
            machine.whole("softmax_lanes", most=1 << 16),
            machine.whole("comparators", most=1 << 16),
            machine.whole("key_lines", most=1 << 30),
            machine.whole("dram_channels", most=1 << 12, power_of_two=True),
            efficiency,
            machine.whole("dram_latency", 0, 1 << 20),
        )

    def parallel(self, width: int) -> int:
        """Keys (or values) of a width that are multiplied in a cycle. Raises Refused ``spatten-width`` for a wider one."""
        if not 1 <= width <= self.multipliers:
            raise Refused(
                f"a head of width {width} does not fit on {self.multipliers} multipliers.",
                code="spatten-width",
            )
        return self.multipliers // width

    @property
    def rate(self) -> float:
        """Bytes a cycle."""
        return TRANSACTION * self.channels * self.efficiency


@dataclass(frozen=True)
class RowsCost:
    """What rows took.

    Args:
        cycles: from the first fetch to the last result.
        busy: cycles that each stage worked: fetch, scores, select, values.
        second: cycles of the second passes, within ``busy["scores"]``.
        bytes: by what was fetched.
        macs: multiplications, second passes included.
        ends: (r,), when each record's last result was there.
    """

    cycles: float
    busy: Mapping[str, float]
    second: float
    bytes: Mapping[str, int]
    macs: int
    ends: NDArray[np.float64]

    @property
    def interval(self) -> float:
        """The longest of the stages: what the pipeline would take if nothing ever waited."""
        return max(self.busy.values())


def run_rows(
    rows: Rows,
    engine: Engine,
    *,
    select: str | NDArray[np.int64] | NDArray[np.float64] = "mean",
    fetch: Mapping[str, NDArray[np.float64]] | None = None,
    by_layer: bool = False,
    seed: int = 0,
    memory: bool = True,
) -> RowsCost:
    """Rows through the pipeline.

    Args:
        select: cycles of the selection of values: ``mean`` for the mean of the rows' sizes, ``drawn`` for a draw of pivots, or
            (q,) cycles of each query, of all records end to end.
        fetch: cycles of ``keys``, ``low`` and ``values`` of each record where the channels' loads are known; else bytes over
            the rate of all channels.
        by_layer: a layer begins when the one before has ended, as a model's layers do; without, rows follow one another
            without a gap, as in the authors' test bench.
        memory: without it, everything is there at once: computing alone.

    Raises:
        Refused: ``spatten-buffer`` for a row that the key buffer cannot hold, ``spatten-width``.
    """
    if not len(rows):
        return RowsCost(
            0.0, dict.fromkeys(("fetch", "scores", "select", "values"), 0.0), 0.0, {}, 0, np.zeros(0)
        )
    widths = {int(w): engine.parallel(int(w)) for w in np.unique(rows.width)}
    par = np.array([widths[int(w)] for w in rows.width]) if len(widths) > 1 else next(iter(widths.values()))
    lines = -(-rows.keys // par)
    if (over := lines > engine.lines).any():
        at = int(over.argmax())
        raise Refused(
            f"row {at} of layer {rows.layer[at]}: {rows.keys[at]} keys of width {rows.width[at]} take {lines[at]} lines of the "
            f"key buffer, which has {engine.lines}.",
            code="spatten-buffer",
        )
    taken = rows.bytes
    if not memory:
        times = [np.zeros(len(rows))] * 4
    else:
        rate = engine.rate
        given = fetch or {}
        times = [
            np.asarray(given.get(name, x / rate), np.float64)
            for name, x in taken.items() if name != "other"
        ]  # fmt: skip
        times.append(rows.other / rate)
    scores = np.maximum(lines, -(-rows.keys // engine.softmax_lanes)).astype(np.float64)
    values = (-(-rows.values // par)).astype(np.float64)
    ends, busy = np.zeros(len(rows)), np.zeros(5)
    held = np.where(rows.keys_fetched > 0, lines, 0)
    until = np.arange(len(rows))  # the last row that works on the keys fetched for this one
    after = np.append(np.where(rows.keys_fetched > 0, until, len(rows)), len(rows))
    until = np.minimum.accumulate(after[::-1])[::-1][1:] - 1
    new_layer = np.zeros(len(rows), np.bool_)
    if by_layer:
        new_layer[1:] = (np.diff(rows.layer) != 0) | (np.diff(rows.iteration) != 0)
    select_of, each = _select_cycles(rows, engine, select, seed)
    _pipeline(
        times[0], times[1], times[2], times[3], scores, values, select_of, each, _token_cycles(rows, engine, seed),
        rows.queries, rows.refetch, rows.late, held, until, new_layer, engine.lines,
        float(engine.latency) if memory else 0.0, float(SCORE_DEPTH), float(VALUE_DEPTH), ends, busy,
    )  # fmt: skip
    again = int((rows.refetch * rows.queries * rows.width * rows.keys).sum())
    return RowsCost(
        float(ends.max()),
        dict(zip(("fetch", "scores", "select", "values"), (float(x) for x in busy[:4]), strict=True)),
        float(busy[4]),
        {name: int(x.sum()) for name, x in taken.items()},
        rows.macs + again,
        ends,
    )


def _select_cycles(
    rows: Rows, engine: Engine, select: str | NDArray[np.int64] | NDArray[np.float64], seed: int
) -> tuple[NDArray[np.float64], bool]:
    """Cycles of the selector, of each query (True) or the same for all of a record's (False)."""
    if not isinstance(select, str):
        if len(select) != int(rows.queries.sum()):
            raise Refused(
                f"{len(select)} selections for {int(rows.queries.sum())} queries.", code="spatten-rows"
            )
        return np.asarray(select, np.float64), True
    if select not in ("mean", "drawn"):
        raise Refused(f"select is mean, drawn or cycles; got {select!r}.", code="spatten-rows")
    needed = (rows.values < rows.keys) & ~rows.second_of_pair
    if select == "drawn":
        n, k = np.repeat(rows.keys, rows.queries), np.repeat(rows.values, rows.queries)
        found = rank_cycles(n, k, engine.comparators, seed)
        return np.where(np.repeat(needed, rows.queries), found, 0).astype(np.float64), True
    if int(rows.keys.max()) > MOST_MEAN:
        raise Refused(
            f"a row of {int(rows.keys.max())} keys: means are tabled up to {MOST_MEAN}; draw pivots with select='drawn'.",
            code="spatten-rows",
        )
    table = mean_cycles(_rounded_up(int(rows.keys.max())), engine.comparators)
    return np.where(needed, table[rows.keys, rows.values], 0.0), False


def _token_cycles(rows: Rows, engine: Engine, seed: int) -> NDArray[np.float64]:
    found = np.zeros(len(rows))
    at = (rows.tokens_to > 0) & (rows.tokens_to < rows.tokens_from)
    found[at] = rank_cycles(rows.tokens_from[at], rows.tokens_to[at], engine.comparators, seed + 1)
    return found


def _rounded_up(n: int) -> int:
    """So that few tables are made."""
    return max(256, 1 << (n - 1).bit_length())


@jit
def _pipeline(
    fetch_keys: NDArray[np.float64], fetch_low: NDArray[np.float64], fetch_values: NDArray[np.float64],
    fetch_other: NDArray[np.float64], scores: NDArray[np.float64], values: NDArray[np.float64],
    select: NDArray[np.float64], select_each: bool, tokens: NDArray[np.float64], queries: NDArray[np.int64],
    refetch: NDArray[np.int64], late: NDArray[np.int64], lines: NDArray[np.int64], until: NDArray[np.int64],
    new_layer: NDArray[np.bool_], all_lines: int, latency: float, score_depth: float, value_depth: float,
    ends: NDArray[np.float64], busy: NDArray[np.float64],
) -> None:  # fmt: skip
    """The recurrence of the module's text, in place on ``ends`` (r,) and ``busy`` (5,)."""
    fetcher = scorer = selector = summer = 0.0
    released = np.zeros(len(scores))
    oldest, held, query = 0, 0, 0
    for row in range(len(scores)):
        if new_layer[row]:
            fetcher = scorer = selector = summer = max(ends[row - 1], selector)
        while held + lines[row] > all_lines:  # wait for room in the key buffer
            fetcher = max(fetcher, released[until[oldest]])
            held -= lines[oldest]
            oldest += 1
        held += lines[row]
        low = fetch_low[row] if refetch[row] else 0.0
        for first in range(queries[row]):
            begin = fetcher
            moved = fetch_other[row]
            keys_there = begin + moved + latency
            values_there = keys_there
            if first == 0:
                keys_there += fetch_keys[row]
                values_there = keys_there + fetch_values[row]
                moved += fetch_keys[row] + low + fetch_values[row]
            fetcher = begin + moved
            busy[0] += moved
            scorer = max(max(scorer, begin + latency) + scores[row], keys_there + 1.0)
            busy[1] += scores[row]
            if refetch[row]:
                again = score_depth + latency + max(scores[row], low)
                scorer += again
                busy[1] += scores[row]
                busy[4] += scores[row]
            chosen = select[query] if select_each else select[row]
            query += 1
            selector = max(selector, scorer + score_depth) + chosen
            busy[2] += chosen
            start = selector
            if late[row]:
                start = selector + latency
                values_there = start + (fetch_values[row] if first == 0 else 0.0)
            summer = max(max(summer, start) + values[row], values_there + 1.0)
            busy[3] += values[row]
        released[row] = scorer
        selector += tokens[row]
        busy[2] += tokens[row]
        ends[row] = summer + value_depth


def stages_apart(
    rows: Rows, engine: Engine, select: NDArray[np.int64] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """The plain form of the pipeline where the key buffer never fills: each stage on all rows, then the next stage.

    ``done[i] = max(done[i - 1] + s[i], g[i])`` is ``S[i] + max over j <= i of (g[j] - S[j])``, ``S`` the running sum of s.

    Args:
        rows: of one query each.
        select: (r,) cycles.

    Returns:
        (r,), when each row's result is there.
    """
    taken, rate, latency = rows.bytes, engine.rate, float(engine.latency)
    par = np.array([engine.parallel(int(w)) for w in rows.width])
    keys, low, values, other = (taken[name] / rate for name in ("keys", "low", "values", "other"))
    moved = keys + low + values + other
    begin = np.cumsum(moved) - moved
    scores = np.maximum(-(-rows.keys // par), -(-rows.keys // engine.softmax_lanes)).astype(np.float64)
    again = rows.refetch * (SCORE_DEPTH + latency + np.maximum(scores, low))
    keys_there = begin + other + latency + keys
    scored = _served(scores + again, np.maximum(begin + latency + scores, keys_there + 1) + again)
    chosen = _served(np.asarray(select, np.float64), scored + SCORE_DEPTH + select)
    late = rows.late == 1
    start = np.where(late, chosen + latency, chosen)
    there = np.where(late, start, keys_there) + values
    work = (-(-rows.values // par)).astype(np.float64)
    return _served(work, np.maximum(start + work, there + 1)) + VALUE_DEPTH


def _served(service: NDArray[np.float64], soonest: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.cumsum(service)
    return np.asarray(total + np.maximum.accumulate(soonest - total))


def behaviour_cycles(rows: Rows, engine: Engine, *, lanes: int = 4, seed: int = 0) -> dict[str, int]:
    """A layer in the authors' behaviour model for BERT: memory, filling and draining one after the other.

    Each record is a head with its queries. Widths of 6, 10 and 12 bits count as 8; values are as many as keys. Where
    ``tokens_to`` is set, a selection of so many of the keys is added, with ``lanes`` comparators and one cycle more a pass.

    Returns:
        Cycles: ``dram``, ``fill``, ``drain``, ``select``, and ``all``.
    """
    dram = fill = select = batch = 0
    for at in range(len(rows)):
        par = engine.parallel(int(rows.width[at]))
        batch = -(-int(rows.keys[at]) // par)
        for bits in (int(rows.key_bits[at]), int(rows.value_bits[at])):
            bits = 8 if bits in (6, 10, 12) else bits
            moved = batch * par * int(rows.width[at]) * bits // (8 * TRANSACTION)
            dram += -(-moved // engine.channels)
        fill += int(rows.queries[at]) * batch
        left, target, state = int(rows.keys[at]), int(rows.tokens_to[at]) - 1, mixed(seed, at)
        if target >= 0:
            select += batch - (-(target + 1) // par)
            rank = -1
            while rank != target:
                select += left // lanes + PASS_OVERHEAD + 1
                rank, state = drawn(left, state)
                if rank > target:
                    left = rank
                elif rank < target:
                    target, left = target - rank - 1, left - rank - 1
                    rank = -1
    drain = SCORE_DEPTH + batch + 1 + 1 + VALUE_DEPTH
    return {"dram": dram, "fill": fill, "drain": drain, "select": select, "all": dram + fill + drain + select}
