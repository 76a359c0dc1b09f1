"""Energy: counts of events times a named table of picojoules.

Tables are TOML files in ``tables/``, every number with its source. Tables are never mixed: a comparison uses one, and its name
stands beside every figure. An event that a table has no number for is refused, not counted as nothing.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sparsam.errors import Refused, Usage

FOLDER = Path(__file__).parent / "tables"
DEFAULT_TABLE = "default40"
PARTS = ("compute", "select", "registers", "sram", "dram")
"""What the energy of a run is shared out over."""


@dataclass(frozen=True)
class EnergyTable:
    """Picojoules by event.

    Args:
        name: of the file.
        about: one line.
        node_nm: process that the numbers hold for.
        picojoules: event: (pJ, part of :data:`PARTS`, source).
    """

    name: str
    about: str
    node_nm: float
    picojoules: Mapping[str, tuple[float, str, str]]

    def scaled(self, node_nm: float) -> "EnergyTable":
        """For another process: energy of logic and memory on the chip shrinks linearly with the feature size.

        Linear is the plain rule of wires at a constant voltage; memory outside the chip stays as it is. The name says it.
        """
        share = node_nm / self.node_nm
        found = {
            event: (pj if part == "dram" else pj * share, part, source)
            for event, (pj, part, source) in self.picojoules.items()
        }
        return replace(self, name=f"{self.name}@{node_nm:g}nm", node_nm=node_nm, picojoules=found)


def energy_table(name: str) -> EnergyTable:
    """A table by its name.

    Raises:
        Usage: ``energy-table``.
    """
    file = FOLDER / f"{name}.toml"
    if Path(name).name != name or not file.is_file():
        known = ", ".join(sorted(x.stem for x in FOLDER.glob("*.toml")))
        raise Usage(f"no energy table is called {name!r}; there are {known}.", code="energy-table")
    read = tomllib.loads(file.read_text(encoding="utf-8"))
    about, node = str(read.pop("about")), float(read.pop("node_nm"))
    found = {event: (float(x["pj"]), str(x["part"]), str(x["source"])) for event, x in read.items()}
    return EnergyTable(name, about, node, found)


def energy_pj(events: Mapping[str, float], table: EnergyTable) -> dict[str, float]:
    """Picojoules by part: linear in the counts.

    Raises:
        Refused: ``energy-event`` for an event that the table has no number for, ``energy-count`` for a negative count.
    """
    found = dict.fromkeys(PARTS, 0.0)
    for event, count in events.items():
        if count < 0:
            raise Refused(f"{event} happened {count} times.", code="energy-count")
        if event not in table.picojoules:
            raise Refused(
                f"energy table {table.name} has no number for {event!r}; it has {', '.join(table.picojoules)}.",
                code="energy-event",
            )
        pj, part, _ = table.picojoules[event]
        found[part] += count * pj
    return found
