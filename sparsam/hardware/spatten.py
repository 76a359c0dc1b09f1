"""SpAtten: attention with cascade token and head pruning, local value pruning and progressive quantization.

H. Wang, Z. Zhang, S. Han. *SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head Pruning*, HPCA 2021,
arXiv:2012.09852. Rules of the authors' released hardware where it has them, of public reading notes elsewhere; see
docs/hardware/spatten.md.

The parts, each a module: the selector (:mod:`~sparsam.hardware.spatten_topk`), arithmetic
(:mod:`~sparsam.hardware.spatten_datapath`), the cascade (:mod:`~sparsam.hardware.spatten_cascade`), rows and the authors'
workload tables (:mod:`~sparsam.hardware.spatten_rows`), the pipeline and the authors' behaviour model
(:mod:`~sparsam.hardware.spatten_pipeline`), generation with a cache (:mod:`~sparsam.hardware.spatten_generation`). This one
runs recorded attention layers.

A recorded layer is worked off as encoders and prompts are: a head's keys and values are fetched once for all of its queries,
at one width; tokens that the cascade removed have neither queries nor keys. The numbers are those of the run that was recorded:
what the pruned model's later layers would have computed instead is not simulated, nor what pruning costs in accuracy.
The dense baseline is the same machine without pruning, keys and values of 12 bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware.cost import EXACT, LayerCost
from sparsam.hardware.designs import NotComputed
from sparsam.hardware.machine import Machine
from sparsam.hardware.spatten_cascade import Cascade, Living, Schedule, layer_of
from sparsam.hardware.spatten_datapath import Attended, attend, exact_scores, replay
from sparsam.hardware.spatten_pipeline import Engine, run_rows
from sparsam.hardware.spatten_rows import TRANSACTION, Rows, channel_load, vector_bytes
from sparsam.workload import Attention, Layer, Tensor, Workload, rounded

WIDTHS = (4, 6, 8, 10, 12)
"""Bits of keys and values that can be stored. Authors' hardware: 4, 6, 8, and 4 more below 8 (and, for generation, 6)."""
INSIDE = 12
"""Bits of a number in the buffers."""


def check(machine: Machine) -> None:
    """Parameters that a SpAtten machine can have. Raises Refused ``machine-parameter``."""
    Engine.of(machine)
    machine.number("clock_mhz")
    machine.number("dram_gb_per_s")
    for name in ("key_bits", "value_bits", "upper_bits", "generation_value_bits"):
        possible = WIDTHS[:3] if name == "upper_bits" else WIDTHS
        if machine[name] not in possible:
            raise Refused(
                f"{name} of machine {machine.name} is {machine[name]!r}; it must be one of "
                f"{', '.join(str(x) for x in possible)}.",
                code="machine-parameter",
            )
    machine.whole("query_bits", 2, INSIDE)
    machine.whole("result_bits", 1, 32)
    machine.whole("low_bits", 0, 8)
    machine.whole("protected_tokens", 0)
    for name in ("value_prune", "generation_value_prune"):
        share = machine.number(name, -1.0)
        if not 0 <= share < 1:
            raise Refused(
                f"{name} of machine {machine.name} is {share:g}; it must lie from 0 to below 1.",
                code="machine-parameter",
            )
    machine.number("low_threshold", -1.0)
    _cascade(machine, 12, 0)


def _cascade(machine: Machine, layers: int, seed: int) -> Cascade:
    tokens, heads = (
        Schedule(
            layers,
            *(float(machine.number(f"{what}_prune_{part}", -1.0)) for part in ("after", "start", "mean")),
        )
        for what in ("token", "head")
    )
    return Cascade(tokens, heads, machine.whole("protected_tokens", 0), machine.whole("comparators"), seed)


def start(machine: Machine, how: Any, workload: Workload) -> Cascade:
    """A fresh cascade over the attention layers of a workload; those of later batches are the same layers again."""
    layers = {layer_of(name) for name, kind in workload.outline if kind == "attention"}
    return _cascade(machine, max(1, len(layers)), int(how.seed))


def layer_cost(layer: Layer, machine: Machine, how: Any, carry: Cascade) -> LayerCost:
    """A recorded attention layer; ``carry`` is what :func:`start` gave, and is changed.

    Raises:
        NotComputed: for anything but the forward pass of attention, and for sequences that the buffers cannot hold.
        Refused: ``spatten-overflow``, ``replay-differs`` where ``how.check`` finds it.
    """
    engine = Engine.of(machine)
    if not isinstance(layer, Attention):
        raise NotComputed("SpAtten computes attention alone")
    if reason := _why_not(layer, engine):
        raise NotComputed(reason)
    bits = {name: int(machine[f"{name}_bits"]) for name in ("query", "key", "value")}
    width = layer.q.shape[2]
    other = _whole(width * bits["query"]) + _whole(width * int(machine["result_bits"]))
    living = carry.enter(layer)
    door = carry.select_cycles
    operands = ((layer.q, "query"), (layer.k, "key"), (layer.v, "value"))
    run = _Run(
        layer, engine, carry, tuple(_on_grid(x, bits[name]) for x, name in operands),
        {"width": width, "key_bits": bits["key"], "value_bits": bits["value"], "other": other},
        machine.number("value_prune", -1.0), bool(how.check),
    )  # fmt: skip
    names = range(layer.q.shape[1]) if layer.heads is None else layer.heads
    columns = {int(name): at for at, name in enumerate(names)}
    for rows, one in zip(layer.sequences(), living, strict=True):
        recorded = layer.tokens[rows] if layer.tokens is not None else np.arange(rows.stop - rows.start)
        at = rows.start + np.searchsorted(recorded, one.places)
        for name in one.heads:
            run.head(one, int(name), columns[int(name)], at)
    made = Rows.of(**{x: np.concatenate([np.atleast_1d(one[x]) for one in run.rows]) for x in run.rows[0]})
    select, loads = np.concatenate(run.select), {name: np.array(x) for name, x in run.fetch.items()}
    whole = run_rows(made, engine, select=select, fetch=loads)
    alone = run_rows(made, engine, select=select, memory=False)
    dense = _dense_rows(layer, other)
    dense_whole, dense_alone = run_rows(dense, engine), run_rows(dense, engine, memory=False)
    pairs, summed = (int((made.queries * x).sum()) for x in (made.keys, made.values))
    stored = int(made.keys_fetched.sum() + made.values_fetched.sum())
    moved, compared = sum(whole.bytes.values()), run.compared + carry.compared
    return LayerCost(
        name=layer.name, kind=layer.kind, role=layer.role, macs=layer.macs, effectual=made.macs,
        dense_cycles=dense_alone.cycles, compute_cycles=alone.cycles + door, mode=EXACT,
        peak_macs=2.0 * engine.multipliers, dram_bytes=moved, dense_dram_bytes=sum(dense_whole.bytes.values()),
        sram_bytes=width * INSIDE / 8 * (stored + pairs + summed),
        events={
            "mul_int12": made.macs, "add_int24": made.macs, "exp_fp32": pairs, "add_fp32": pairs, "compare_32": 2 * compared,
            "fifo_bit": 32 * compared, "mux_byte": moved,
        },
        detail={
            "tokens": [len(one.places) for one in living], "heads": [len(one.heads) for one in living],
            "tokens_recorded": [int(n) for n in layer.lengths], "values_kept": summed / pairs,
            "busy": dict(whole.busy), "cascade_select_cycles": door,
            "key_value_bytes": made.kv_bytes, "dense_key_value_bytes": dense.kv_bytes,
            "channel_imbalance": run.fullest * engine.channels / run.transactions,
        },
        pipeline_cycles=whole.cycles + door, dense_pipeline_cycles=dense_whole.cycles,
    )  # fmt: skip


def _why_not(layer: Attention, engine: Engine) -> str:
    """Why the design leaves a layer of attention out; empty where it does not."""
    tokens, heads, width = layer.q.shape
    if layer.role != "forward":
        return "SpAtten computes no gradients"
    if not tokens * heads * width:
        return f"nothing to compute: {tokens} tokens, {heads} heads of width {width}"
    if getattr(layer, "bias", None) is not None:
        return "logits with a bias, which SpAtten's datapath does not add"
    if layer.v.shape[2] != width:
        return "values of another width than keys"
    if width > engine.multipliers:
        return f"heads of width {width} on {engine.multipliers} multipliers"
    longest = int(layer.lengths.max())
    if -(-longest // engine.parallel(width)) > engine.lines:
        return f"a sequence of {longest} tokens, more than the key buffer holds"
    return ""


@dataclass
class _Run:
    """A layer on the machine, head by head, and what that adds up to.

    Args:
        operands: queries, keys and values as integers.
        columns: of :class:`Rows`, the same for all.
        value_prune: share of values that are not summed.
        check: replay each head.
        rows, select, fetch: records, cycles of each query's selection, cycles of fetching each record's keys and values.
        compared: by the selector.
        base: address of the next head's vectors.
        fullest, transactions: of the fullest channel of each fetch, and of all.
    """

    layer: Attention
    engine: Engine
    carry: Cascade
    operands: tuple[Tensor, ...]
    columns: Mapping[str, int]
    value_prune: float
    check: bool
    rows: list[dict[str, Any]] = field(default_factory=list)
    select: list[NDArray[np.int64]] = field(default_factory=list)
    fetch: dict[str, list[float]] = field(default_factory=lambda: {"keys": [], "values": []})
    compared: int = 0
    base: int = 0
    fullest: int = 0
    transactions: int = 0

    def head(self, one: Living, name: int, column: int, at: NDArray[np.int64]) -> None:
        """One head of one sequence: its numbers, its importances, its rows.

        Args:
            name, column: of the head, in the model and in the recorded operands.
            at: (n,) the living tokens' places in the operands.
        """
        layer, n = self.layer, len(at)
        q, k, v = (x.values[at, column] for x in self.operands)
        left, right, worth = (
            scale if scale.ndim == 0 else scale[at]
            for scale in (np.asarray(x.scale, np.float32) for x in self.operands)
        )
        step = np.float32(layer.scale) * (left[:, None] if left.ndim else left) * right
        seen = np.arange(1, n + 1) if layer.causal else np.full(n, n)
        values = np.maximum(1, np.floor(seen * (1 - self.value_prune) + 1e-9).astype(np.int64))
        done = attend(
            q, k, v * (worth[:, None] if worth.ndim else worth), step, seen=seen,
            values=values if self.value_prune > 0 else None, comparators=self.engine.comparators, seed=self.carry.seed,
            first=1_000_003 * self.carry.layer + 4099 * len(self.rows), name=layer.name,
        )  # fmt: skip
        if self.check:
            _checked(layer, (q, k, v), done, seen, self.engine)
        one.token_score[one.places] += done.probabilities.sum(0, dtype=np.float64)
        one.head_score[name] += np.abs(done.out).sum()
        self.select.append(done.select_cycles)
        self.compared += int(done.compared.sum())
        if layer.causal:
            rows = _causal(np.array([n]), np.array([name])) | {
                "values": values,
                "late": np.zeros(n, np.int64),
            }
            rows |= {x: np.full(n, y) for x, y in (dict(self.columns) | {"queries": 1}).items()}
        else:
            rows = dict(self.columns) | {
                "head": name, "keys": n, "values": int(values[0]), "queries": n, "late": 0, "keys_fetched": n,
                "values_fetched": n,
            }  # fmt: skip
        self.rows.append(rows)
        for what, bits in (("keys", self.columns["key_bits"]), ("values", self.columns["value_bits"])):
            self._fetched(
                what, one.places, int(vector_bytes(self.columns["width"], bits)), n if layer.causal else 1
            )

    def _fetched(self, what: str, ids: NDArray[np.int64], vector: int, records: int) -> None:
        """Keys or values of a head, for the first of its records; at 6 bits half of a line counts half."""
        lined = -(-vector // TRANSACTION) * TRANSACTION
        load = channel_load(ids, lined, self.engine.channels, self.base)
        self.base += (int(ids.max()) + 1) * lined
        self.fetch[what] += [int(load.max()) * (vector / lined) / self.engine.efficiency] + [0.0] * (
            records - 1
        )
        self.fullest += int(load.max())
        self.transactions += int(load.sum())


def _on_grid(x: Tensor, bits: int) -> Tensor:
    """Integers that fit as they are recorded; others, and bfloat16, rounded to a grid of one scale."""
    if x.format != "bf16":
        try:
            return x.integers(bits)
        except Refused:
            pass
    return rounded(x.real(), bits)


def _whole(bits: int) -> int:
    """Bytes of a vector in whole transactions."""
    return -(-bits // (8 * TRANSACTION)) * TRANSACTION


def _dense_rows(layer: Attention, other: int) -> Rows:
    heads = layer.q.shape[1]
    n = np.repeat(layer.lengths.astype(np.int64), heads)
    head = np.tile(np.arange(heads), len(layer.lengths))
    columns: Mapping[str, Any] = {
        "width": layer.q.shape[2],
        "key_bits": INSIDE,
        "value_bits": INSIDE,
        "other": other,
    }
    if not layer.causal:
        return Rows.of(head=head, keys=n, values=n, queries=n, **columns)
    return Rows.of(**(_causal(n, head) | dict(columns)))


def _causal(n: NDArray[np.int64], head: NDArray[np.int64]) -> dict[str, Any]:
    """Columns of rows that see one key more each; the last row's keys are fetched at the first."""
    first = np.repeat(np.cumsum(n) - n, n)
    seen = np.arange(int(n.sum())) - first + 1
    fetched = np.where(seen == 1, np.repeat(n, n), 0)
    return {
        "head": np.repeat(head, n), "keys": seen, "values": seen, "keys_fetched": fetched, "values_fetched": fetched,
        "late": 0,
    }  # fmt: skip


def _checked(
    layer: Attention,
    operands: tuple[NDArray[Any], ...],
    done: Attended,
    seen: NDArray[np.int64],
    engine: Engine,
) -> None:
    """Carry the schedule out and compare with the dense products, in integers."""
    q, k, v = operands
    p = np.rint(done.probabilities.astype(np.float64) * ((1 << INSIDE) - 1)).astype(np.int64)
    ran = replay(q, k, p, v, done.kept, seen, engine.multipliers)
    visible = np.arange(len(k)) < seen[:, None]
    same = (
        np.array_equal(ran.scores, np.where(visible, exact_scores(q, k, layer.name), 0))
        and np.array_equal(ran.context, np.where(done.kept, p, 0) @ v.astype(np.int64))
        and np.array_equal(ran.times[0], visible)
        and np.array_equal(ran.times[1], done.kept)
        and ran.most <= engine.multipliers
    )
    if not same:
        raise Refused(f"{layer.name}: the replayed schedule is not the dense product.", code="replay-differs")
