"""What a workload takes on a machine: cycles, events, bytes and picojoules, layer by layer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EXACT, SAMPLED, BOUND = "exact", "sampled", "bound"
MODES = (EXACT, SAMPLED, BOUND)


@dataclass(frozen=True)
class LayerCost:
    """One layer on one machine.

    Args:
        name: of the layer.
        kind: gemm, conv or attention.
        role: forward, grad_input or grad_weight.
        macs: multiplications of the dense layer.
        effectual: those of two numbers that are both not zero; None where a design has no use for the count.
        dense_cycles: of the design's own dense baseline, computing alone.
        compute_cycles: of the design, as if memory were never waited for. A float where it was sampled.
        mode: ``exact``, ``sampled`` or ``bound``.
        error: standard error of ``compute_cycles``, in cycles; 0 where exact.
        dram_bytes: moved to and from memory outside the chip.
        dense_dram_bytes: the same for the dense baseline.
        sram_bytes: moved to and from memories on the chip.
        peak_macs: multiplications that the machine can do in a cycle; for utilisation.
        events: how often each thing happened that costs energy, by the names of the energy tables; bytes of memory are added by
            :func:`sparsam.hardware.simulate.simulate`.
        detail: what else is worth a line on the page, by name.
        pipeline_cycles: of computing and memory together, where the design follows their overlap itself; None for the longer of
            the two.
        dense_pipeline_cycles: the same for the dense baseline.
    """

    name: str
    kind: str
    role: str
    macs: int
    dense_cycles: float
    compute_cycles: float
    mode: str
    peak_macs: float
    effectual: int | None = None
    error: float = 0.0
    dram_bytes: float = 0.0
    dense_dram_bytes: float = 0.0
    sram_bytes: float = 0.0
    events: Mapping[str, float] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)
    pipeline_cycles: float | None = None
    dense_pipeline_cycles: float | None = None
    dram_cycles: float = 0.0
    dense_dram_cycles: float = 0.0
    energy_pj: Mapping[str, float] = field(default_factory=dict)

    @property
    def cycles(self) -> float:
        """Computing and memory overlap: the longer of the two, or what the design found when it followed both."""
        longer = max(self.compute_cycles, self.dram_cycles)
        return longer if self.pipeline_cycles is None else max(longer, self.pipeline_cycles)

    @property
    def dense_total(self) -> float:
        """The same for the dense baseline."""
        longer = max(self.dense_cycles, self.dense_dram_cycles)
        return longer if self.dense_pipeline_cycles is None else max(longer, self.dense_pipeline_cycles)

    @property
    def bound_by(self) -> str:
        """``memory`` where it takes longer than computing."""
        return "memory" if self.dram_cycles > self.compute_cycles else "compute"


@dataclass(frozen=True)
class Cost:
    """A workload on one machine. Cycles are simulated; they are no measurement."""

    machine: str
    design: str
    layers: tuple[LayerCost, ...]
    constants: str
    clock_hz: float
    left_out: tuple[tuple[str, str], ...] = ()
    """Layers that the design does not compute, with the reason."""

    @property
    def cycles(self) -> float:
        """Of all layers, one after the other."""
        return sum(one.cycles for one in self.layers)

    @property
    def dense_cycles(self) -> float:
        """Of the design's own dense baseline."""
        return sum(one.dense_total for one in self.layers)

    @property
    def speedup(self) -> float:
        """Cycles of the design's own dense baseline over its own; of computing and memory together."""
        return self.dense_cycles / self.cycles if self.cycles else 1.0

    @property
    def compute_speedup(self) -> float:
        """The same of computing alone."""
        own = sum(one.compute_cycles for one in self.layers)
        return sum(one.dense_cycles for one in self.layers) / own if own else 1.0

    @property
    def error(self) -> float:
        """Standard error of the cycles that were sampled; layers are drawn independently."""
        return math.sqrt(sum(one.error**2 for one in self.layers))

    @property
    def mode(self) -> str:
        """The weakest of the layers' modes."""
        found = {one.mode for one in self.layers}
        return next((mode for mode in reversed(MODES) if mode in found), EXACT)

    @property
    def energy_pj(self) -> dict[str, float]:
        """By part."""
        parts = dict.fromkeys(part for one in self.layers for part in one.energy_pj)
        return {part: sum(one.energy_pj.get(part, 0.0) for one in self.layers) for part in parts}

    @property
    def dram_bytes(self) -> float:
        """Moved to and from memory outside the chip."""
        return sum(one.dram_bytes for one in self.layers)

    @property
    def sram_bytes(self) -> float:
        """Moved to and from memories on the chip."""
        return sum(one.sram_bytes for one in self.layers)

    @property
    def utilisation(self) -> float:
        """Share of multipliers' cycles that did an effectual multiplication (all, where those were not counted)."""
        could = sum(one.cycles * one.peak_macs for one in self.layers)
        did = sum(one.macs if one.effectual is None else one.effectual for one in self.layers)
        return did / could if could else 0.0

    @property
    def memory_bound(self) -> float:
        """Share of layers that wait for memory."""
        return sum(one.bound_by == "memory" for one in self.layers) / len(self.layers) if self.layers else 0.0
