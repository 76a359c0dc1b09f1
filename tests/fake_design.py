"""A made-up accelerator whose figures can be counted by hand: it skips products with a zero, so many a cycle."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from sparsam.errors import Refused
from sparsam.hardware import designs
from sparsam.hardware.cost import LayerCost
from sparsam.hardware.designs import NotComputed
from sparsam.workload import Attention, Conv, Gemm, Tensor, Workload

MACHINE = """
design = "fake"
about = "A made-up accelerator of the tests."
paper = "Nobody, Nowhere, 1900."

[clock_mhz]
value = 500
unit = "MHz"
source = "chosen by us: round"

[dram_gb_per_s]
value = {bandwidth}
unit = "GB/s"
source = "chosen by us: round"

[lanes]
value = 16
unit = "multipliers"
source = "{word}"

[depth]
value = 1
unit = "rows"
source = "from memory, not checked against the paper"
"""


def machine_file(
    folder: Path, name: str = "fake", bandwidth: float = 100.0, word: str = "chosen by us"
) -> Path:
    """A machine of the design, as a TOML file."""
    file = folder / f"{name}.toml"
    file.write_text(MACHINE.format(bandwidth=bandwidth, word=word), encoding="utf-8")
    return file


def register() -> None:
    """Make the design known in this process; also what a process of its own begins with."""
    os.environ["NUMBA_NUM_THREADS"] = "1"
    designs.DESIGNS["fake"] = "fake_design"


def check(machine: Any) -> None:
    """Lanes are 1 to 64."""
    machine.whole("lanes", most=64)
    machine.whole("depth")


def layer_cost(layer: Any, machine: Any, how: Any) -> LayerCost:
    """As many cycles as effectual multiplications fill the lanes; deeper is faster up to the depth itself."""
    if layer.kind == "attention":
        raise NotComputed("it does products with weights alone")
    if "boom" in layer.name:
        raise Refused(f"{layer.name}: counters of 32 bits overflow at 5000000000.", code="layer-overflow")
    lanes, depth = machine.whole("lanes"), machine.whole("depth")
    if depth == 7:
        raise Refused("depth of machine fake is 7; 7 is unlucky.", code="machine-parameter")
    effectual = layer.effectual()
    dense = -(-layer.macs // lanes)
    cycles = max(-(-effectual // lanes), -(-dense // depth))
    moved = sum(one.values.nbytes for one in layer.tensors().values())
    mode = how.mode if how.mode in ("sampled", "bound") else "exact"
    return LayerCost(
        name=layer.name, kind=layer.kind, role=layer.role, macs=layer.macs, effectual=effectual, dense_cycles=dense,
        compute_cycles=cycles, mode=mode, error=0.01 * cycles if mode == "sampled" else 0.0, peak_macs=lanes,
        dram_bytes=moved, dense_dram_bytes=2 * moved, sram_bytes=3 * moved,
        events={"mul_int8": effectual, "register_bit": np.int64(cycles) * 800 + 4000 * lanes * depth},
        detail={"skipped": layer.macs - effectual, "seed": how.seed},
    )  # fmt: skip


def simulate_matrices(a: Any, b: Any, machine: Any, how: Any) -> LayerCost:
    """A cycle a product."""
    if a.shape[1] != b.shape[0]:
        raise Refused(f"{a.shape} and {b.shape} do not multiply.", code="matrix-sizes")
    macs = a.shape[0] * a.shape[1] * b.shape[1]
    effectual = int((a != 0).sum(0) @ (b != 0).sum(1))
    return LayerCost(
        "product",
        "gemm",
        "forward",
        macs,
        macs,
        effectual,
        "exact",
        1,
        effectual,
        events={"mul_int8": effectual},
    )


def small_workload(word: str = "", zeros: float = 0.5) -> Workload:
    """A product, a convolution and an attention with half their numbers zero."""
    draw = np.random.default_rng(7)

    def numbers(*shape: int) -> Tensor:
        values = draw.integers(1, 127, shape).astype(np.int8)
        values[draw.random(shape) < zeros] = 0
        return Tensor(values, "int8", 0.1)

    layers = (
        Gemm(f"{word}encoder.0.up", numbers(24, 32), numbers(48, 32)),
        Conv(f"{word}stem", numbers(1, 4, 6, 6), numbers(8, 4, 3, 3), padding=(1, 1)),
        Attention(
            f"{word}encoder.0.attention",
            numbers(12, 2, 8),
            numbers(12, 2, 8),
            numbers(12, 2, 8),
            np.array([5, 7]),
            0.35,
        ),
    )
    return Workload(layers, {"model": word or "tiny", "task": word or "made up", "seed": 0})
