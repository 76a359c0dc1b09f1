"""A workload on several machines: costs, and everything that belongs beside them in a report.

simulation.json   machines with their parameters and sources, constants, mode and seed, and every layer's cost
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from sparsam import __version__
from sparsam.errors import Usage
from sparsam.hardware.cost import Cost, LayerCost
from sparsam.hardware.designs import design_of
from sparsam.hardware.energy import DEFAULT_TABLE, EnergyTable, energy_table
from sparsam.hardware.machine import Machine
from sparsam.hardware.simulate import How, simulate, with_memory
from sparsam.hardware.writing import json_text, plain_json, write_whole
from sparsam.workload import Workload

KIND = "sparsam-simulation"
SCHEMA = 1
FILE = "simulation.json"
SAYS = (
    "Simulated, not measured: cycles come from a model of each design, energy from counted events times a table of constants. "
    "No chip was run. Each speedup is over the design's own dense baseline; designs differ in their number of multipliers, "
    "clock and memory, so their cycles do not rank them."
)
"""Stands in every report."""


@dataclass(frozen=True)
class Simulation:
    """What several machines made of one workload.

    Args:
        name: of the workload: the trace's folder, or the matrices' files.
        facts: about the run that was recorded.
        machines: in the order asked for.
        costs: one each.
        table: energy constants.
        how: mode and seed.
        seconds: that each simulation took here, with compilation.
    """

    name: str
    facts: Mapping[str, Any]
    machines: tuple[Machine, ...]
    costs: tuple[Cost, ...]
    table: EnergyTable
    how: How
    seconds: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        found = {
            "kind": KIND, "schema": SCHEMA, "sparsam": __version__, "says": SAYS, "workload": self.name, "facts": self.facts,
            "how": {"mode": self.how.mode, "error": self.how.error, "seed": self.how.seed, "check": self.how.check},
            "constants": {
                "name": self.table.name, "about": self.table.about, "node_nm": self.table.node_nm,
                "picojoules": {
                    event: {"pj": pj, "part": part, "source": source}
                    for event, (pj, part, source) in self.table.picojoules.items()
                },
            },
            "machines": [
                machine_json(machine) | cost_json(cost) | {"seconds": round(seconds, 3)}
                for machine, cost, seconds in zip(self.machines, self.costs, self.seconds, strict=True)
            ],
        }  # fmt: skip
        made: dict[str, Any] = plain_json(found)
        return made

    def save(self, folder: Path) -> Path:
        """Write ``simulation.json``, whole or not at all."""
        write_whole(folder / FILE, json_text(self.to_json()))
        return folder / FILE


Telling = Callable[[str, int, int, str], None]
"""Told of each layer: the machine, the layer's number, how many there are, its name."""


def simulate_on(
    workload: Workload,
    machines: Sequence[Machine],
    how: How | None = None,
    *,
    name: str = "workload",
    table: EnergyTable | str = DEFAULT_TABLE,
    progress: Telling | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Simulation:
    """Run a workload on each machine; all parameters are checked before the first layer is read.

    Args:
        workload: as for :func:`sparsam.hardware.simulate.simulate`.
        machines: at least one, no two of one name.
        how: mode and seed.
        name: of the workload, for the report.
        table: energy constants, or their name.
        progress: told of each layer.
        clock: seconds.

    Raises:
        Usage: ``machines-missing``, ``machines-twice``; and what :func:`sparsam.hardware.simulate.simulate` raises.
    """
    how, constants = how or How(), energy_table(table) if isinstance(table, str) else table
    check_machines(machines)
    costs, seconds = [], []
    for machine in machines:
        started = clock()
        told = None if progress is None else partial(progress, machine.name)
        costs.append(simulate(workload, machine, how, table=constants, progress=told))
        seconds.append(clock() - started)
    return Simulation(name, workload.facts, tuple(machines), tuple(costs), constants, how, tuple(seconds))


def multiply_on(
    a: Any,
    b: Any,
    machines: Sequence[Machine],
    how: How | None = None,
    *,
    name: str = "A × B",
    table: EnergyTable | str = DEFAULT_TABLE,
    clock: Callable[[], float] = time.perf_counter,
) -> Simulation:
    """Multiply two sparse matrices on each machine.

    Args:
        a, b: (m, k) and (k, n), as the designs' ``simulate_matrices`` take them.
        machines: of designs that multiply sparse matrices.
        how: mode and seed.
        name: of the product, for the report.
        table: energy constants, or their name.
        clock: seconds.

    Raises:
        Usage: ``machines-missing``, ``machines-twice``, ``simulate-matrices`` for a design that takes layers alone.
        Refused: what is wrong with the matrices or their sizes, as the design says.
    """
    how, constants = how or How(), energy_table(table) if isinstance(table, str) else table
    check_machines(machines, matrices=True)
    costs, seconds = [], []
    for machine in machines:
        started, design = clock(), design_of(machine)
        one = with_memory(cast(Any, design).simulate_matrices(a, b, machine, how), machine, constants)
        costs.append(
            Cost(machine.name, machine.design, (one,), constants.name, machine.number("clock_mhz") * 1e6)
        )
        seconds.append(clock() - started)
    return Simulation(name, {}, tuple(machines), tuple(costs), constants, how, tuple(seconds))


def check_machines(machines: Sequence[Machine], matrices: bool = False) -> None:
    """Refuse machines that no simulation can begin with; with ``matrices`` those whose design takes layers alone, too.

    Raises:
        Usage: ``machines-missing``, ``machines-twice``, ``simulate-matrices``.
        Refused: those of the designs' checks.
    """
    if not machines:
        raise Usage("no machine is named; sparsam machines lists those there are.", code="machines-missing")
    names = [machine.name for machine in machines]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise Usage(f"machine {twice} is named twice.", code="machines-twice")
    for machine in machines:
        if not hasattr(design_of(machine), "simulate_matrices") and matrices:
            raise Usage(
                f"machine {machine.name} ({machine.design}) runs layers of a trace, not sparse matrices; sparch does.",
                code="simulate-matrices",
            )


def machine_json(machine: Machine) -> dict[str, Any]:
    """A machine with every parameter, unit and source."""
    return {
        "machine": machine.name, "design": machine.design, "about": machine.about, "paper": machine.paper,
        "parameters": {
            name: {"value": one.value, "unit": one.unit, "source": one.source} for name, one in machine.parameters.items()
        },
    }  # fmt: skip


def cost_json(cost: Cost) -> dict[str, Any]:
    """Totals, layers left out with the reason, and each layer."""
    return {
        "mode": cost.mode, "cycles": cost.cycles, "error_cycles": cost.error, "clock_hz": cost.clock_hz,
        "dense_cycles": cost.dense_cycles, "speedup": cost.speedup, "compute_speedup": cost.compute_speedup,
        "energy_pj": cost.energy_pj, "constants": cost.constants, "dram_bytes": cost.dram_bytes, "sram_bytes": cost.sram_bytes,
        "utilisation": cost.utilisation, "memory_bound": cost.memory_bound,
        "left_out": [{"layer": name, "reason": reason} for name, reason in cost.left_out],
        "layers": [layer_json(one) for one in cost.layers],
    }  # fmt: skip


def layer_json(one: LayerCost) -> dict[str, Any]:
    """One layer, its own figures and those of its dense baseline."""
    return {
        "name": one.name, "kind": one.kind, "role": one.role, "mode": one.mode, "macs": one.macs, "effectual": one.effectual,
        "cycles": one.cycles, "compute_cycles": one.compute_cycles, "error_cycles": one.error, "dram_cycles": one.dram_cycles,
        "dense_cycles": one.dense_total, "dense_compute_cycles": one.dense_cycles, "dense_dram_cycles": one.dense_dram_cycles,
        "bound_by": one.bound_by, "dram_bytes": one.dram_bytes, "dense_dram_bytes": one.dense_dram_bytes,
        "sram_bytes": one.sram_bytes, "peak_macs": one.peak_macs, "energy_pj": one.energy_pj, "events": one.events,
        "detail": one.detail,
    }  # fmt: skip
