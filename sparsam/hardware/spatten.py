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


@dataclass
class _Counted:
    """What adds up over the heads of a layer."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    select: list[NDArray[np.int64]] = field(default_factory=list)
    fetch: dict[str, list[float]] = field(default_factory=lambda: {"keys": [], "values": []})
    compared: int = 0
    base: int = 0
    fullest: int = 0
    moved: int = 0


def layer_cost(layer: Layer, machine: Machine, how: Any, carry: Cascade) -> LayerCost:
    """A recorded attention layer; ``carry`` is what :func:`start` gave, and is changed.

    Raises:
        NotComputed: for anything but the forward pass of attention, and for sequences that the buffers cannot hold.
        Refused: ``spatten-overflow``, ``replay-differs`` where ``how.check`` finds it.
    """
    if not isinstance(layer, Attention):
        raise NotComputed("SpAtten computes attention alone")
    if layer.role != "forward":
        raise NotComputed("SpAtten computes no gradients")
    if getattr(layer, "bias", None) is not None:
        raise NotComputed("logits with a bias, which SpAtten's datapath does not add")
    engine, (_, _, width) = Engine.of(machine), layer.q.shape
    longest = int(layer.lengths.max())
    if layer.v.shape[2] != width:
        raise NotComputed("values of another width than keys")
    if width > engine.multipliers:
        raise NotComputed(f"heads of width {width} on {engine.multipliers} multipliers")
    if -(-longest // engine.parallel(width)) > engine.lines:
        raise NotComputed(f"a sequence of {longest} tokens, more than the key buffer holds")
    bits = {name: int(machine[f"{name}_bits"]) for name in ("query", "key", "value")}
    q, k, v = (
        _on_grid(layer.tensors()[x], bits[name]) for x, name in (("q", "query"), ("k", "key"), ("v", "value"))
    )
    other = _whole(width * bits["query"]) + _whole(width * int(machine["result_bits"]))
    found, living = _Counted(), carry.enter(layer)
    names = {
        int(name): at
        for at, name in enumerate(range(layer.q.shape[1]) if layer.heads is None else layer.heads)
    }
    for rows, one in zip(layer.sequences(), living, strict=True):
        recorded = layer.tokens[rows] if layer.tokens is not None else np.arange(rows.stop - rows.start)
        at = rows.start + np.searchsorted(recorded, one.places)
        for name in one.heads:
            _head(
                layer,
                machine,
                how,
                carry,
                one,
                int(name),
                names[int(name)],
                at,
                (q, k, v),
                found,
                engine,
                bits,
                other,
            )
    made = Rows.of(
        **{name: np.concatenate([np.atleast_1d(x[name]) for x in found.rows]) for name in found.rows[0]}
    )
    select = np.concatenate(found.select)
    loads = {name: np.array(x) for name, x in found.fetch.items()}
    whole = run_rows(made, engine, select=select, fetch=loads)
    alone = run_rows(made, engine, select=select, memory=False)
    dense = _dense_rows(layer, other)
    dense_whole, dense_alone = run_rows(dense, engine), run_rows(dense, engine, memory=False)
    door = carry.select_cycles
    pairs = int((made.queries * made.keys).sum())
    summed = int((made.queries * made.values).sum())
    inside = width * INSIDE / 8
    moved = sum(whole.bytes.values())
    return LayerCost(
        name=layer.name, kind=layer.kind, role=layer.role, macs=layer.macs, effectual=made.macs,
        dense_cycles=dense_alone.cycles, compute_cycles=alone.cycles + door, mode=EXACT,
        peak_macs=2.0 * engine.multipliers, dram_bytes=moved, dense_dram_bytes=sum(dense_whole.bytes.values()),
        sram_bytes=inside * (int(made.keys_fetched.sum() + made.values_fetched.sum()) + pairs + summed),
        events={
            "mul_int12": made.macs, "add_int24": made.macs, "exp_fp32": pairs, "add_fp32": pairs,
            "compare_32": 2 * (found.compared + carry.compared), "fifo_bit": 32 * (found.compared + carry.compared),
            "mux_byte": moved,
        },
        detail={
            "tokens": [len(one.places) for one in living], "heads": [len(one.heads) for one in living],
            "tokens_recorded": [int(n) for n in layer.lengths], "values_kept": summed / max(pairs, 1),
            "busy": dict(whole.busy), "cascade_select_cycles": door,
            "key_value_bytes": made.kv_bytes, "dense_key_value_bytes": dense.kv_bytes,
            "channel_imbalance": found.fullest * engine.channels * TRANSACTION / max(found.moved, 1),
        },
        pipeline_cycles=whole.cycles + door, dense_pipeline_cycles=dense_whole.cycles,
    )  # fmt: skip


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


def _head(
    layer: Attention, machine: Machine, how: Any, carry: Cascade, one: Living, name: int, column: int, at: NDArray[np.int64],
    operands: tuple[Tensor, Tensor, Tensor], found: _Counted, engine: Engine, bits: Mapping[str, int], other: int,
) -> None:  # fmt: skip
    """One head of one sequence: its numbers, its scores, its rows."""
    q, k, v = operands
    n, width = len(at), q.shape[2]
    steps = [np.asarray(x.scale, np.float32) for x in (q, k)]
    left, right = (x if x.ndim == 0 else x[at] for x in steps)
    step = np.float32(layer.scale) * (left[:, None] if left.ndim else left) * right
    seen = np.arange(1, n + 1) if layer.causal else np.full(n, n)
    share = machine.number("value_prune", -1.0)
    values = np.maximum(1, np.floor(seen * (1 - share) + 1e-9).astype(np.int64))
    value_step = np.asarray(v.scale, np.float32)
    ints = [x.values[at, column] for x in operands]
    done = attend(
        ints[0], ints[1], ints[2] * (value_step[at][:, None] if value_step.ndim else value_step), step, seen=seen,
        values=values if share > 0 else None, comparators=engine.comparators, seed=carry.seed,
        first=1_000_003 * carry.layer + 4099 * len(found.rows), name=layer.name,
    )  # fmt: skip
    if how.check:
        _checked(layer, ints, done, seen, engine)
    one.token_score[one.places] += done.probabilities.sum(0, dtype=np.float64)
    one.head_score[name] += np.abs(done.out).sum()
    found.select.append(done.select_cycles)
    found.compared += int(done.compared.sum())
    columns: dict[str, Any] = {
        "width": width,
        "key_bits": bits["key"],
        "value_bits": bits["value"],
        "other": other,
    }
    if layer.causal:
        rows = _causal(np.array([n]), np.array([name])) | {
            x: np.full(n, y) for x, y in (columns | {"queries": 1}).items()
        }
        rows |= {"values": values if share > 0 else seen, "late": np.zeros(n, np.int64)}
    else:
        kept = int(values[0]) if share > 0 else n
        rows = columns | {
            "head": name,
            "keys": n,
            "values": kept,
            "queries": n,
            "late": 0,
            "keys_fetched": n,
            "values_fetched": n,
        }
    found.rows.append(rows)
    records = n if layer.causal else 1
    for what in ("keys", "values"):
        vector = int(vector_bytes(width, bits["key" if what == "keys" else "value"]))
        lined = -(-vector // TRANSACTION) * TRANSACTION
        load = channel_load(one.places, lined, engine.channels, found.base)
        found.base += (int(one.places.max()) + 1) * lined
        cycles = int(load.max()) * (vector / lined) / engine.efficiency
        found.fetch[what] += [cycles] + [0.0] * (records - 1)
        found.fullest += int(load.max())
        found.moved += int(load.sum()) * TRANSACTION


def _checked(
    layer: Attention, operands: list[NDArray[Any]], done: Attended, seen: NDArray[np.int64], engine: Engine
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
