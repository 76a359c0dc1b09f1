"""A workload on a machine."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from sparsam.errors import Refused, Usage
from sparsam.hardware.cost import Cost, LayerCost
from sparsam.hardware.designs import Carrying, NotComputed, Progress, design_of
from sparsam.hardware.energy import DEFAULT_TABLE, EnergyTable, energy_pj, energy_table
from sparsam.hardware.machine import Machine
from sparsam.workload import Layer, Workload


@dataclass(frozen=True)
class How:
    """How a simulation is run.

    Args:
        mode: ``auto`` (exact where seconds suffice, else sampled), or ``exact``, ``sampled``, ``bound``.
        error: largest standard error of a layer's cycles that a sample stops at, as a share.
        seed: of what is drawn.
        check: replay the schedule and compare the result with the dense product; slow.
    """

    mode: str = "auto"
    error: float = 0.01
    seed: int = 0
    check: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "exact", "sampled", "bound"):
            raise Usage(
                f"mode is one of auto, exact, sampled, bound; got {self.mode!r}.", code="simulate-mode"
            )
        if not 0 < self.error < 1:
            raise Usage(f"error is a share between 0 and 1; got {self.error!r}.", code="simulate-error")


def simulate(
    workload: Workload,
    machine: Machine,
    how: How | None = None,
    *,
    table: EnergyTable | str = DEFAULT_TABLE,
    progress: Progress | None = None,
) -> Cost:
    """Run each layer of a workload on a machine.

    Args:
        workload: layers with their numbers; read one by one.
        machine: see :func:`sparsam.hardware.machine.machine_of`.
        how: exactly or sampled, and the seed.
        table: energy constants, or their name.
        progress: told of each layer.

    Raises:
        Refused: ``machine-parameter``, ``machine-invalid``, ``workload-empty``, and what is wrong with a layer, by its name.
    """
    how, design = how or How(), design_of(machine)
    constants = energy_table(table) if isinstance(table, str) else table
    if not len(workload):
        raise Refused("the workload has no layer.", code="workload-empty")
    layer_cost: Callable[[Layer, Machine, How], LayerCost]
    if isinstance(design, Carrying):
        layer_cost = partial(design.layer_cost, carry=design.start(machine, how, workload))
    else:
        layer_cost = design.layer_cost
    found, left_out = [], []
    for number, layer in enumerate(workload):
        if progress is not None:
            progress(number, len(workload), layer.name)
        if not layer.macs:
            left_out.append((layer.name, "it multiplies nothing"))
            continue
        try:
            found.append(with_memory(layer_cost(layer, machine, how), machine, constants))
        except NotComputed as reason:
            left_out.append((layer.name, str(reason)))
    clock = machine.number("clock_mhz") * 1e6
    return Cost(machine.name, machine.design, tuple(found), constants.name, clock, tuple(left_out))


def with_memory(one: LayerCost, machine: Machine, table: EnergyTable) -> LayerCost:
    """With the time and the energy of memory."""
    rate = machine.number("dram_gb_per_s") * 1e9 / (machine.number("clock_mhz") * 1e6)  # bytes a cycle
    events = dict(one.events) | {"dram_byte": one.dram_bytes, "sram_byte": one.sram_bytes}
    if (pj := machine.get("dram_pj_per_bit")) is not None:  # the machine's own kind of memory
        known = dict(table.picojoules) | {
            "dram_byte": (8.0 * float(pj), "dram", machine.parameters["dram_pj_per_bit"].source)
        }
        table = replace(table, picojoules=known)
    return replace(
        one,
        dram_cycles=one.dram_bytes / rate,
        dense_dram_cycles=one.dense_dram_bytes / rate,
        events=events,
        energy_pj=energy_pj(events, table),
    )
