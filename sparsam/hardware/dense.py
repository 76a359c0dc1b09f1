"""Dense systolic arrays: output-stationary and weight-stationary, by SCALE-Sim's count.

A. Samajdar, J. M. Joseph, Y. Zhu, P. Whatmough, M. Mattina, T. Krishna. *A systematic methodology for characterizing
scalability of DNN accelerators using SCALE-Sim*, ISPASS 2020; program SCALE-Sim 3.0.0.

An array of R x C multipliers works off a product ``c[m, n] = sum over k of a[m, k] b[n, k]`` in folds. Output-stationary: a
fold is R rows of ``a`` by C rows of ``b``, each multiplier keeps one sum, and k streams through. Weight-stationary: a fold is R
of k by C of n, each multiplier keeps one weight, and m streams through. Operands enter skewed, one cycle later per row and
column. So a fold with a stream of T takes T + R + C - 2 cycles from its first multiplication to its last, and R more for what
cannot be hidden: the sums shifted out of the rows, or the weights shifted in. With them it is the paper's 2R + C + T - 2.
SCALE-Sim 3.0.0 charges the R in weight-stationary folds and hides it in output-stationary ones (``drain = "hidden"``), and
prints the number of the last cycle counted from 0: one less than these counts. Folds that do not fill the array take as long as
those that do.

The arrays multiply zeros like anything else. Convolutions are multiplied as unfolded by :meth:`sparsam.workload.Conv.products`,
unfolding done on the chip: memory outside it sees each image once a pass.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware.cost import LayerCost
from sparsam.hardware.machine import Machine
from sparsam.hardware.memory import Traffic, least_tiling
from sparsam.hardware.replay import Issued, replayed, sums_fit
from sparsam.workload import Attention, Gemm, Layer

DATAFLOWS = ("os", "ws")
DRAINS = ("after", "hidden")
MULTIPLY = {"int8": "mul_int8", "int16": "mul_int16", "int32": "mul_int32", "bf16": "mul_bf16"}


def fold_cycles(rows: int, columns: int, stream: int, drain: str = "after") -> int:
    """Cycles of one fold: 2R + C + T - 2, or R + C + T - 2 where the R of shifting in or out is hidden."""
    return (2 * rows if drain == "after" else rows) + columns + stream - 2


def array_cycles(
    m: int, n: int, k: int, rows: int, columns: int, dataflow: str = "os", drain: str = "after"
) -> int:
    """Cycles of a product on an array.

    Args:
        m, n, k: size of the product.
        rows, columns: R and C.
        dataflow: ``os`` or ``ws``.
        drain: ``after`` (the paper) or ``hidden`` (the program); output-stationary alone.

    Raises:
        Refused: ``machine-parameter``.
    """
    if dataflow not in DATAFLOWS or drain not in DRAINS:
        raise Refused(
            f"dataflow {dataflow!r} and drain {drain!r}; known are {', '.join(DATAFLOWS)} and {', '.join(DRAINS)}.",
            code="machine-parameter",
        )
    if not m * n * k:
        return 0
    if dataflow == "os":
        return -(-m // rows) * -(-n // columns) * fold_cycles(rows, columns, k, drain)
    return -(-k // rows) * -(-n // columns) * fold_cycles(rows, columns, m, "after")


def product_sizes(layer: Layer) -> Iterator[tuple[int, int, int, int]]:
    """(how many, m, n, k) of a layer's products, from shapes alone."""
    if isinstance(layer, Gemm):
        yield (1, *layer.size)
    elif isinstance(layer, Attention):
        lengths, many = np.unique(layer.lengths, return_counts=True)
        heads = layer.q.shape[1]
        for length, count in zip(lengths.tolist(), many.tolist(), strict=True):
            yield count * heads, length, length, layer.q.shape[2]
            yield count * heads, length, layer.v.shape[2], length
    else:
        o, per, kh, kw = layer.weight.shape
        m = layer.x.shape[0] * layer.out[0] * layer.out[1]
        yield layer.groups, m, o // layer.groups, per * kh * kw


def schedule(
    m: int, n: int, k: int, rows: int, columns: int, dataflow: str = "os", drain: str = "after"
) -> Issued:
    """Every multiplication of a product with its cycle and its multiplier; a unit is one multiplier, with one lane.

    For products of a few thousand multiplications.
    """
    i, j, s = (x.ravel() for x in np.meshgrid(np.arange(m), np.arange(n), np.arange(k), indexing="ij"))
    across = -(-n // columns)
    if dataflow == "os":
        fold = (i // rows) * across + j // columns
        start = fold * fold_cycles(rows, columns, k, drain)
        time, row = start + s + i % rows + j % columns, i % rows
    else:
        fold = (s // rows) * across + j // columns
        start = fold * fold_cycles(rows, columns, m) + rows  # the weights are shifted in first
        time, row = start + i + s % rows + j % columns, s % rows
    return Issued(i, j, s, time, row * columns + j % columns, np.zeros_like(i))


def replay(a: NDArray[Any], b: NDArray[Any], rows: int, columns: int, dataflow: str = "os") -> NDArray[Any]:
    """The product (m, n) from the array's schedule, checked; see :func:`sparsam.hardware.replay.replayed`."""
    issued = schedule(len(a), len(b), a.shape[1], rows, columns, dataflow)
    return replayed(a, b, issued, lanes=1, units=rows * columns)


def check(machine: Machine) -> None:
    """Raise Refused ``machine-parameter`` for an array that cannot be."""
    for name in ("rows", "columns"):
        machine.whole(name, most=1 << 14)
    for name in ("clock_mhz", "dram_gb_per_s", "buffer_kb"):
        machine.number(name)
    machine.whole("accumulator_bits", 16, 62)
    array_cycles(1, 1, 1, 1, 1, machine["dataflow"], machine["drain"])


def layer_cost(layer: Layer, machine: Machine, how: Any) -> LayerCost:
    """A layer on the array; exact in every mode, for it asks for shapes alone.

    Raises:
        Refused: ``accumulator-overflow`` with the layer, for integers so wide that the sums must be looked at.
    """
    rows, columns = machine.whole("rows"), machine.whole("columns")
    flow, drain = machine["dataflow"], machine["drain"]
    first = max(layer.tensors().values(), key=lambda one: one.bits)
    bits = float(first.bits)
    _refuse_overflow(layer, machine)
    cycles, sram, folds, moved = 0, 0.0, 0, Traffic(0, 0, 0)
    for many, m, n, k in product_sizes(layer):
        cycles += many * array_cycles(m, n, k, rows, columns, flow, drain)
        across = -(-n // columns)
        if flow == "os":
            folds += many * -(-m // rows) * across
            sram += many * (across * m * k + -(-m // rows) * n * k + m * n) * bits / 8
        else:
            down = -(-k // rows)
            folds += many * down * across
            sram += many * ((across * m * k + n * k + m * n) * bits / 8 + 2 * (down - 1) * m * n * 4)
        traffic = dram_traffic(layer, m, n, k, 1024 * machine.number("buffer_kb"))
        moved = Traffic(*(x + many * y for x, y in zip(_parts(moved), _parts(traffic), strict=True)))
    kind = first.format
    return LayerCost(
        layer.name,
        layer.kind,
        layer.role,
        macs=layer.macs,
        dense_cycles=cycles,
        compute_cycles=cycles,
        mode="exact",
        peak_macs=rows * columns,
        dram_bytes=moved.total,
        dense_dram_bytes=moved.total,
        sram_bytes=sram + moved.total,  # what comes from outside is written once, what leaves is read once
        events={
            MULTIPLY[kind]: layer.macs,
            "add_fp32" if kind == "bf16" else "add_int32": layer.macs,
            "register_bit": layer.macs
            * (2 * bits + 32),  # both operands handed on, the sum kept or handed on
        },
        detail={"folds": folds, "dataflow": flow, "dram_partial_bytes": moved.partial},
    )


def dram_traffic(layer: Layer, m: int, n: int, k: int, buffer_bytes: float) -> Traffic:
    """Bytes of one product of a layer to and from memory outside the chip, by the tiling that moves least.

    Half of the buffer is worked from while the other half is filled. Results leave at the operands' width. A convolution's
    images are unfolded on the chip: a pass over ``a`` reads each pixel once, halos between tiles not counted.
    """
    tensors = list(layer.tensors().values())
    bits = float(tensors[0].bits)
    images = 1.0 if layer.kind != "conv" else tensors[0].values.size / (m * k * _groups(layer))
    if not m * n * k:
        return Traffic(0, 0, 0)
    return least_tiling(m, n, k, buffer_bytes / 2, bits * min(images, 1.0), float(tensors[1].bits), bits)[2]


def _refuse_overflow(layer: Layer, machine: Machine) -> None:
    """Look at the sums where the widths of the operands allow them to leave the accumulator."""
    a, b = (one.bits - 1 for one in list(layer.tensors().values())[:2])
    deepest = max(k for _, _, _, k in product_sizes(layer))
    if deepest << (a + b) < 1 << (machine["accumulator_bits"] - 1):
        return
    for product in layer.products():
        sums_fit(product, machine["accumulator_bits"], machine.name)


def _groups(layer: Layer) -> int:
    return int(getattr(layer, "groups", 1))


def _parts(traffic: Traffic) -> tuple[float, float, float, float]:
    return traffic.a, traffic.b, traffic.c, traffic.partial
