"""The report on a grid of a machine's parameters: cycles against energy, and the table of all points."""

from pathlib import Path
from typing import Any

from sparsam import __version__
from sparsam.hardware.explore import Exploration, Point
from sparsam.hardware.writing import plain_json, write_whole
from sparsam.report.bars import joules, scatters
from sparsam.report.figures import count, size, words
from sparsam.report.hardware import cell, markdown_table, mode_words, percent, ratio
from sparsam.report.sheet import environment, style

PAGE, TABLE = "explore.html", "explore.md"
SAYS = (
    "Simulated, not measured: cycles come from a model of the design, energy from counted events times a table of constants. "
    "Area and the longest path are not modelled: a larger machine is not charged for its size or for a slower clock."
)


def write_exploration(found: Exploration, folder: Path) -> Path:
    """Write ``explore.md`` and ``explore.html`` beside ``explore.json``; returns the page.

    Raises:
        InputOutput: ``not-writable``.
    """
    write_whole(folder / TABLE, markdown_of(found))
    write_whole(folder / PAGE, page_of(found))
    return folder / PAGE


def page_of(found: Exploration) -> str:
    """The page as text. What comes from outside stands in it as text alone."""
    sheet, digest = style()
    there = [point for point in found.points if point.refused is None]
    return environment().get_template("explore.html").render(
        version=__version__,
        style=sheet,
        style_sha256=digest,
        says=SAYS,
        workload=found.workload,
        machine={"name": found.machine.name, "design": found.machine.design, "about": found.machine.about},
        columns=list(found.vary),
        plots=scatters([(one.cycles, one.energy, one.on_front, _said(one)) for one in there]),
        rows=[_row(number, point, list(found.vary)) for number, point in enumerate(there, 1)],
        front=[str(number) for number, point in enumerate(there, 1) if point.on_front],
        refused=[(point.name, point.refused) for point in found.points if point.refused is not None],
        constants={"name": found.table.name, "about": found.table.about},
        how=f"mode {found.how.mode}, seed {found.how.seed}",
        parameters=[
            {"name": name, "value": words(plain_json(one.value)), "unit": one.unit, "source": one.source}
            for name, one in found.machine.parameters.items()
            if name not in found.vary
        ],
    )  # fmt: skip


def _said(point: Point) -> str:
    return f"{point.name}: {count(point.cycles)} cycles, {joules(point.energy)}"


def _row(number: int, point: Point, columns: list[str]) -> dict[str, Any]:
    return {
        "number": number, "front": point.on_front, "values": [words(plain_json(point.values[name])) for name in columns],
        "cycles": count(point.cycles), "energy": joules(point.energy), "alone": ratio(point.compute_speedup),
        "whole": ratio(point.speedup), "dram": size(point.dram_bytes), "sram": size(point.sram_bytes),
        "utilisation": percent(point.utilisation), "bound": percent(point.memory_bound),
        "mode": mode_words(point.mode, point.error, point.cycles),
    }  # fmt: skip


def point_row(point: Point) -> dict[str, str]:
    """A point's line by column, as it stands in the tables of shell and Markdown."""
    values = {name: words(plain_json(value)) for name, value in point.values.items()}
    return {"front": "▲" if point.on_front else ""} | values | {
        "cycles": f"{point.cycles:,.0f}", "energy": joules(point.energy),
        "speedup, computing alone": ratio(point.compute_speedup), "with memory": ratio(point.speedup),
        "DRAM": size(point.dram_bytes), "utilisation": percent(point.utilisation),
        "mode": mode_words(point.mode, point.error, point.cycles),
    }  # fmt: skip


def markdown_of(found: Exploration) -> str:
    """All points as a Markdown table."""
    there = [point for point in found.points if point.refused is None]
    lines = [
        f"# {cell(found.machine.name)} on {cell(found.workload)}: a grid of parameters", "", SAYS, "",
        f"Energy: table `{cell(found.table.name)}`. ▲ no other point takes at most as many cycles and at most as much energy.",
        "", *markdown_table([point_row(point) for point in there]),
    ]  # fmt: skip
    if refused := [point for point in found.points if point.refused is not None]:
        lines += ["", "No machines:", "", *(f"- {cell(one.name)}: {cell(one.refused)}" for one in refused)]
    return "\n".join(lines) + "\n"
