"""SpArch: C = A B of sparse matrices as an outer product whose partial matrices are merged on the chip.

Z. Zhang, H. Wang, S. Han, W. J. Dally, *SpArch: Efficient Architecture for Sparse Matrix Multiplication*, HPCA 2020,
https://arxiv.org/abs/2002.08947.

A's non-zeros are pushed to the left in each row (condensed), so that there are as many partial matrices as the longest row has
elements, not as many as A has columns. Up to 64 of them, or of results stored before, are merged in a round
(:mod:`sparsam.hardware.sparch_merge`), the smallest first; each element of A wants a whole row of B, which is fetched ahead
(:mod:`sparsam.hardware.sparch_prefetch`). Each step can be switched off by a parameter of the machine.

What is counted is exact: the size of every partial matrix, what enters each layer of the tree, and each line of B that is
fetched (:mod:`sparsam.hardware.sparch_count`). Time is a model, ours: a round takes the longest of multiplying, merging and
moving bytes, and the way through the tree. In :mod:`sparsam.hardware.sparch_replay`, ``tick`` runs the tree cycle by cycle and
``replay`` executes the schedule with numbers; both give the product.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from sparsam.errors import Refused
from sparsam.hardware.cost import BOUND, EXACT, SAMPLED, LayerCost
from sparsam.hardware.machine import Machine
from sparsam.hardware.matrix_market import Sparse, canonical
from sparsam.hardware.simulate import How
from sparsam.hardware.sparch_count import (
    ARITHMETIC,
    Run,
    check,
    compulsory_bytes,
    element_sizes,
    memory_rate,
    outer_product,
    pair,
    run,
    run_sampled,
)
from sparsam.hardware.sparch_replay import replay, tick
from sparsam.workload import Gemm, Layer

__all__ = ["check", "layer_cost", "replay", "run", "simulate_matrices", "tick"]

EXACT_PRODUCTS = 100_000_000
"""With more products than this ``auto`` samples: about a second."""
GROUPS = 10
"""Disjoint samples whose spread gives the standard error."""


def simulate_matrices(
    a: Sparse, b: Sparse, machine: Machine, how: How | None = None, *, name: str = "A B"
) -> LayerCost:
    """The product of two sparse matrices on the machine.

    The baseline, which stands where a layer's dense one does, is an outer product that stores every product, on the same
    multipliers and memory (OuterSPACE-like): no dense machine is asked to multiply such matrices.

    Args:
        a: (m, k), b: (k, n), of SciPy or NumPy; see :func:`sparsam.hardware.matrix_market.read_matrix`.
        machine: of design ``sparch``.
        how: see :class:`sparsam.hardware.simulate.How`.
        name: for the report.

    Raises:
        Refused: as :func:`run` and :func:`replay`.
    """
    how = how or How()
    a, b = pair(a, b, machine)
    one = _cost(a, b, machine, how, name)
    cycles, moved = outer_product(a, b, machine, one.detail["elements of C"])
    return replace(
        one,
        dense_cycles=float(cycles),
        dense_dram_bytes=float(moved),
        dram_cycles=one.dram_bytes / memory_rate(machine),
        dense_dram_cycles=moved / memory_rate(machine),
        detail=dict(one.detail) | {"baseline": "outer product that stores every product"},
    )


def layer_cost(layer: Layer, machine: Machine, how: Any) -> LayerCost:
    """A layer's matrix products on the machine, each by itself.

    A is the operand whose longest row is shorter: activations, or weights, with C transposed. The dense baseline has the
    machine's own multipliers, number format and memory; ``detail`` also holds the layer against a dense array of ``rival_macs``
    8-bit multipliers on the same memory.

    Raises:
        Refused: as :func:`run` and :func:`replay`.
    """
    check(machine)
    how = how or How()
    value = machine.whole("value_bytes")
    costs, sides, rival = [], [], 0.0
    dense_cycles, dense_bytes = 0, 0
    for product in layer.products():
        m, n, k = product.size
        turned = _longest(product.b) < _longest(product.a)
        sides.append("weights" if turned else "activations")
        left, right = (product.b, product.a) if turned else (product.a, product.b)
        if how.check:
            _checked(product, machine, turned)
        costs.append(
            _cost(
                canonical(left.nonzero, product.name), canonical(right.nonzero.T, product.name), machine,
                replace(how, check=False), product.name,
            )
        )  # fmt: skip
        numbers = m * k + n * k + m * n
        dense_cycles += -(-m * n * k // machine.whole("multipliers"))
        dense_bytes += numbers * value
        rival += max(m * n * k / machine.whole("rival_macs"), numbers / memory_rate(machine))
    whole = _summed(costs)
    took = max(whole.compute_cycles, whole.dram_bytes / memory_rate(machine))
    detail = dict(whole.detail) | {
        "A is": " and ".join(sorted(set(sides))),
        f"cycles of a dense array of {machine['rival_macs']} 8-bit multipliers": rival,
        "speedup over that array": rival / took if took else 1.0,
    }
    return replace(
        whole, name=layer.name, kind=layer.kind, role=layer.role, macs=layer.macs, dense_cycles=float(dense_cycles),
        dense_dram_bytes=float(dense_bytes), detail=detail,
    )  # fmt: skip


def _longest(one: Any) -> int:
    return int(one.nonzero.sum(1).max(initial=0))


def _checked(product: Gemm, machine: Machine, turned: bool) -> None:
    """Replay a product in integers against the dense one."""
    a, b = (one.integers() if one.format == "bf16" else one for one in (product.a, product.b))
    whole = replace(product, a=a, b=b)
    left, right = a.values.astype(np.int64), b.values.astype(np.int64)
    found = (replay(right, left.T, machine).T if turned else replay(left, right.T, machine)).toarray()
    if not np.array_equal(found, whole.result()):
        raise Refused(f"{product.name}: the replayed product differs.", code="replay-differs")


def _cost(a: Any, b: Any, machine: Machine, how: How, name: str) -> LayerCost:
    """Counts of a product as a cost, without a baseline."""
    rows, inner, across = a.shape[0], a.shape[1], b.shape[1]
    products = int(np.diff(b.indptr)[a.indices].sum())
    if how.mode == "bound":
        return _bound(a, b, machine, products, name)
    if how.check:
        _same(replay(a, b, machine), a @ b, name)
    mode, error = EXACT, 0.0
    if how.mode == "sampled" or (how.mode == "auto" and products > EXACT_PRODUCTS):
        rng = np.random.default_rng([how.seed, *name.encode()])
        shuffled, share = rng.permutation(rows), max(10 * GROUPS / max(rows, 1), 0.05)
        while True:
            drawn = min(rows, math.ceil(rows * share))
            group = np.full(rows, -1, np.int64)
            group[shuffled[:drawn]] = np.arange(drawn) % GROUPS
            found, each = run_sampled(a, b, machine, group) if drawn < rows else (run(a, b, machine), [])
            if not each:
                break
            spread = float(np.std([one.compute_cycles for one in each], ddof=1)) / math.sqrt(len(each))
            spread *= math.sqrt(1 - drawn / rows)  # rows are drawn without putting them back
            if spread <= how.error * found.compute_cycles:
                mode, error = SAMPLED, spread
                break
            share *= 2
    else:
        found = run(a, b, machine)
    return _as_cost(found, machine, rows * inner * across, mode, error, name)


def _same(found: Any, given: Any, name: str) -> None:
    """Refuse ``replay-differs``: integers must agree exactly, others to 1e-12 of the largest."""
    differs = float(abs(found - given).max()) if found.nnz or given.nnz else 0.0
    allowed = 0.0 if given.dtype.kind == "i" or not given.nnz else 1e-12 * float(abs(given).max())
    if not differs <= allowed:
        raise Refused(f"{name}: the replayed product differs by {differs}.", code="replay-differs")


def _as_cost(found: Run, machine: Machine, macs: int, mode: str, error: float, name: str) -> LayerCost:
    value, element, triple = element_sizes(machine)
    width, chunk = machine.whole("merge_width"), machine.whole("merge_chunk")
    entering = found.entering if machine["pipelined"] else found.entering[1:]
    through = int(entering[:, :-1].sum())
    left = int(entering[:, 1:].sum())
    chunks = width // chunk
    comparators = chunks**2 + (2 * chunks - 1) * chunk**2
    multiplied, added = ARITHMETIC[value]
    events = {
        multiplied: float(found.products),
        added: float(found.products - found.result),
        "compare_32": float(2 * comparators * int((-(-entering[:, :-1] // width)).sum())),
        "mux_byte": float(left * triple * (width.bit_length() - 1)),
        "fifo_bit": float(8 * triple * (through + left)),
    }
    kept = machine["prefetch"] != "none" and machine["condense"] and machine["pipelined"]
    detail = {
        "partial matrices": len(found.columns.sizes),
        "rounds": len(found.multiply),
        "products": found.products,
        "additions": found.products - found.result,
        "elements of C": found.result,
        "stored elements": found.stored,
        "hit rate of B": found.hit_rate,
        "bytes of A": int(found.a_bytes.sum()),
        "bytes of B": int(found.b_bytes.sum()),
        "bytes stored between": int((found.read_bytes + found.write_bytes).sum()),
        "bytes of C": int(found.result_bytes.sum()),
        "cycles round by round, memory in each": found.cycles,
    }
    return LayerCost(
        name, "matrices", "forward", macs, 0.0, float(found.compute_cycles), mode, float(machine.whole("multipliers")),
        effectual=found.products, error=error, dram_bytes=float(found.bytes.sum()),
        sram_bytes=float(element * (found.products + found.fetched)) if kept else 0.0, events=events, detail=detail,
    )  # fmt: skip


def _bound(a: Any, b: Any, machine: Machine, products: int, name: str) -> LayerCost:
    """Lower bounds alone: every product through the multipliers, every operand moved once, C at least its fullest part."""
    rows = np.maximum.reduceat(
        np.append(np.diff(b.indptr)[a.indices], 0), np.minimum(a.indptr[:-1], a.nnz)
    )  # a row of C is at least as long as the longest row of B in it
    least = int(np.where(np.diff(a.indptr) > 0, rows, 0).sum())
    return LayerCost(
        name, "matrices", "forward", a.shape[0] * a.shape[1] * b.shape[1], 0.0,
        float(-(-products // machine.whole("multipliers"))), BOUND, float(machine.whole("multipliers")),
        effectual=products, dram_bytes=float(compulsory_bytes(a, b, machine, least)),
        events={ARITHMETIC[machine.whole("value_bytes")][0]: float(products)},
        detail={"products": products, "elements of C": least},
    )  # fmt: skip


def _summed(costs: list[LayerCost]) -> LayerCost:
    """Products one after the other."""
    first = costs[0]
    modes = [mode for mode in (BOUND, SAMPLED, EXACT) if any(one.mode == mode for one in costs)]
    names = dict.fromkeys(name for one in costs for name in one.events)
    details: dict[str, Any] = {name: sum(one.detail[name] for one in costs) for name in first.detail}
    if "hit rate of B" in details:
        details["hit rate of B"] /= len(costs)
    return replace(
        first,
        compute_cycles=sum(one.compute_cycles for one in costs),
        mode=modes[0],
        error=math.sqrt(sum(one.error**2 for one in costs)),
        effectual=sum(one.effectual or 0 for one in costs),
        dram_bytes=sum(one.dram_bytes for one in costs),
        sram_bytes=sum(one.sram_bytes for one in costs),
        events={name: sum(one.events.get(name, 0.0) for one in costs) for name in names},
        detail=details,
    )
