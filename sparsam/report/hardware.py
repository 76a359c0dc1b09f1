"""The report on simulated accelerators: one self-contained page, a Markdown table, and the JSON that both come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsam import __version__
from sparsam.hardware.cost import SAMPLED, Cost, LayerCost
from sparsam.hardware.energy import PARTS
from sparsam.hardware.machine import Machine
from sparsam.hardware.simulation import FILE, SAYS, Simulation
from sparsam.hardware.writing import folder_for, plain_json, write_whole
from sparsam.report.bars import Segment, joules, share_of, stacked
from sparsam.report.figures import clean, count, pairs, size, words
from sparsam.report.sheet import environment, style

PART_NAMES = {
    "compute": "arithmetic", "select": "selecting", "registers": "registers, FIFOs", "sram": "SRAM", "dram": "DRAM"
}  # fmt: skip
PAGE, TABLE = "simulation.html", "simulation.md"


def write_simulation(simulation: Simulation, folder: str | Path) -> Path:
    """Write ``simulation.json``, ``simulation.md`` and ``simulation.html`` into a folder; returns the page.

    Raises:
        Usage: ``out-folder`` for a folder that holds something else.
        InputOutput: ``not-writable``.
    """
    place = folder_for(folder, FILE)
    simulation.save(place)
    write_whole(place / TABLE, markdown_of(simulation))
    write_whole(place / PAGE, page_of(simulation))
    return place / PAGE


def page_of(simulation: Simulation) -> str:
    """The page as text. What comes from outside stands in it as text alone."""
    sheet, digest = style()
    views = [
        _machine_view(one, cost) for one, cost in zip(simulation.machines, simulation.costs, strict=True)
    ]
    return environment().get_template("hardware.html").render(
        version=__version__,
        style=sheet,
        style_sha256=digest,
        says=SAYS,
        workload=simulation.name,
        machines=views,
        speedups=_speedups(simulation.costs),
        energies=_energies(simulation.costs),
        part_names=PART_NAMES,
        constants={"name": simulation.table.name, "about": simulation.table.about, "node": f"{simulation.table.node_nm:g}"},
        events=_events(simulation),
        facts=[(key, shortened(value)) for key, value in pairs(plain_json(simulation.facts))],
        how=how_words(simulation),
    )  # fmt: skip


LONGEST = 300
"""Characters of a fact on the page; a plan's kept filters alone are thousands. Chosen by us."""


def shortened(text: str) -> str:
    """A fact, cut where it is long; the whole stands in the JSON.

    >>> len(shortened("x" * 1000))
    329
    """
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … (whole in {FILE})"


def how_words(simulation: Simulation) -> str:
    """Mode, seed and version, in words."""
    how = simulation.how
    text = f"mode {how.mode}, seed {how.seed}"
    if how.mode in ("auto", SAMPLED):
        text += (
            f", samples until the standard error of a layer’s cycles is at most {100 * how.error:g} % of them"
        )
    return text + (", schedules replayed as far as each design’s page says" if how.check else "")


def mode_words(mode: str, error: float, cycles: float) -> str:
    """``exact``, ``bound``, or ``sampled ± standard error`` as a share of the cycles."""
    return f"{mode} ± {100 * error / cycles:.2g} %" if mode == SAMPLED and cycles else mode


def ratio(value: float) -> str:
    """A speedup."""
    return f"{value:.2f}×" if value < 100 else f"{value:,.0f}×"


def percent(value: float) -> str:
    """A share."""
    return f"{100 * value:.1f} %"


@dataclass(frozen=True)
class MachineView:
    """A machine's lines on the page."""

    name: str
    design: str
    about: str
    paper: str
    mode: str
    cycles: str
    time: str
    dense: str
    alone: str
    whole: str
    energy: str
    parts: dict[str, str]
    dram: str
    sram: str
    utilisation: str
    bound: str
    computed: str
    layers: tuple[dict[str, Any], ...]
    roles: bool
    left_out: list[tuple[str, str, list[str]]]
    parameters: tuple[dict[str, str], ...]
    own_dram: str


def _machine_view(machine: Machine, cost: Cost) -> MachineView:
    total = sum(cost.energy_pj.values())
    most = max((one.cycles for one in cost.layers), default=0.0)
    own = machine.parameters.get("dram_pj_per_bit")
    return MachineView(
        name=machine.name,
        design=machine.design,
        about=machine.about,
        paper=machine.paper,
        mode=mode_words(cost.mode, cost.error, cost.cycles),
        cycles=count(cost.cycles),
        time=seconds_words(cost.cycles / cost.clock_hz),
        dense=count(cost.dense_cycles),
        alone=ratio(cost.compute_speedup),
        whole=ratio(cost.speedup),
        energy=joules(total),
        parts={part: joules(cost.energy_pj.get(part, 0.0)) for part in PARTS},
        dram=size(cost.dram_bytes),
        sram=size(cost.sram_bytes),
        utilisation=percent(cost.utilisation),
        bound=percent(cost.memory_bound),
        computed=f"{len(cost.layers)} of {len(cost.layers) + len(cost.left_out)}",
        layers=tuple(_layer_row(one, most) for one in cost.layers),
        roles=any(one.role != "forward" for one in cost.layers),
        left_out=by_reason(cost.left_out),
        parameters=tuple(
            {"name": name, "value": words(plain_json(one.value)), "unit": one.unit, "source": one.source}
            for name, one in machine.parameters.items()
        ),
        own_dram="" if own is None else f"{words(plain_json(own.value))} pJ a bit: {own.source}",
    )


def by_reason(left_out: Sequence[tuple[str, str]]) -> list[tuple[str, str, list[str]]]:
    """Layers left out, by reason: how many and which in short, the reason, and all their names.

    >>> by_reason([("a", "too odd"), ("b", "too odd"), ("c", "no product")])
    [('2 layers, a to b', 'too odd', ['a', 'b']), ('c', 'no product', ['c'])]
    """
    found: dict[str, list[str]] = {}
    for name, why in left_out:
        found.setdefault(why, []).append(name)
    return [
        (names[0] if len(names) == 1 else f"{len(names)} layers, {names[0]} to {names[-1]}", why, names)
        for why, names in found.items()
    ]


def _layer_row(one: LayerCost, most: float) -> dict[str, Any]:
    return {
        "name": one.name, "kind": one.kind, "role": one.role, "macs": count(one.macs),
        "effectual": "–" if one.effectual is None or not one.macs else percent(one.effectual / one.macs),
        "mode": mode_words(one.mode, one.error, one.compute_cycles), "cycles": count(one.cycles),
        "share": share_of(one.cycles, most), "bound": one.bound_by,
        "alone": ratio(one.dense_cycles / one.compute_cycles) if one.compute_cycles else "–",
        "whole": ratio(one.dense_total / one.cycles) if one.cycles else "–",
        "dram": size(one.dram_bytes), "energy": joules(sum(one.energy_pj.values())),
        "detail": "; ".join(f"{key.replace('_', ' ')} {words(plain_json(value))}" for key, value in one.detail.items()),
    }  # fmt: skip


def seconds_words(seconds: float) -> str:
    """A time in the unit that suits it."""
    for power, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= power:
            return f"{seconds / power:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _speedups(costs: tuple[Cost, ...]) -> list[dict[str, Any]]:
    """Two bars a machine, on one scale; ``one`` is where the dense baseline stands."""
    most = max(1.0, *(max(cost.compute_speedup, cost.speedup) for cost in costs))
    return [
        {
            "name": cost.machine, "one": share_of(1.0, most),
            "alone": ratio(cost.compute_speedup), "alone_share": share_of(cost.compute_speedup, most),
            "whole": ratio(cost.speedup), "whole_share": share_of(cost.speedup, most),
        }
        for cost in costs
    ]  # fmt: skip


def _energies(costs: tuple[Cost, ...]) -> list[dict[str, Any]]:
    """One bar a machine, parts end to end, the largest full."""
    totals = [sum(cost.energy_pj.values()) for cost in costs]
    found = []
    for cost, total in zip(costs, totals, strict=True):
        segments: tuple[Segment, ...] = stacked(
            {part: cost.energy_pj.get(part, 0.0) for part in PARTS}, max(totals)
        )
        found.append({"name": cost.machine, "total": joules(total), "segments": segments})
    return found


def _events(simulation: Simulation) -> list[dict[str, str]]:
    """The constants that were used, and their sources."""
    used = {event for cost in simulation.costs for layer in cost.layers for event in layer.events}
    return [
        {"event": event, "pj": f"{pj:g}", "part": PART_NAMES.get(part, part), "source": source}
        for event, (pj, part, source) in simulation.table.picojoules.items()
        if event in used
    ]


def markdown_of(simulation: Simulation) -> str:
    """Totals and every layer as Markdown tables."""
    name = cell(simulation.name)
    lines = [f"# {name} on simulated accelerators", "", SAYS, "", f"{how_words(simulation).capitalize()}. Energy: table "
             f"`{cell(simulation.table.name)}` ({cell(simulation.table.about)}).", ""]  # fmt: skip
    totals = []
    for machine, cost in zip(simulation.machines, simulation.costs, strict=True):
        totals.append(total_row(machine, cost))
    lines += markdown_table(totals)
    lines += ["", "## Energy by part", ""]
    lines += markdown_table([
        {"machine": cost.machine}
        | {PART_NAMES[part]: joules(cost.energy_pj.get(part, 0.0)) for part in PARTS}
        | {"all": joules(sum(cost.energy_pj.values()))}
        for cost in simulation.costs
    ])  # fmt: skip
    for machine, cost in zip(simulation.machines, simulation.costs, strict=True):
        lines += ["", f"## {cell(machine.name)}", "", cell(f"{machine.about} {machine.paper}".strip()), ""]
        lines += markdown_table([_layer_line(one) for one in cost.layers])
        if cost.left_out:
            lines += ["", "Left out:", ""]
            lines += [
                f"- {cell(why)}: {cell(', '.join(names))}" for _, why, names in by_reason(cost.left_out)
            ]
        lines += ["", "Parameters:", ""]
        lines += markdown_table([
            {"parameter": key, "value": words(plain_json(one.value)), "unit": one.unit, "source": one.source}
            for key, one in machine.parameters.items()
        ])  # fmt: skip
    return "\n".join(lines) + "\n"


def total_row(machine: Machine, cost: Cost) -> dict[str, str]:
    """One machine's totals by column, as they stand in every table."""
    if not cost.layers:
        left_out = {"machine": machine.name, "layers": f"0 of {len(cost.left_out)}"}
        names = (
            "mode", "cycles", "speedup, computing alone", "with memory", "energy", "DRAM", "SRAM", "utilisation",
            "layers bound by memory",
        )  # fmt: skip
        return {"machine": machine.name} | dict.fromkeys(names, "–") | left_out
    return {
        "machine": machine.name, "mode": mode_words(cost.mode, cost.error, cost.cycles), "cycles": f"{cost.cycles:,.0f}",
        "speedup, computing alone": ratio(cost.compute_speedup), "with memory": ratio(cost.speedup),
        "energy": joules(sum(cost.energy_pj.values())), "DRAM": size(cost.dram_bytes), "SRAM": size(cost.sram_bytes),
        "utilisation": percent(cost.utilisation), "layers bound by memory": percent(cost.memory_bound),
        "layers": f"{len(cost.layers)} of {len(cost.layers) + len(cost.left_out)}",
    }  # fmt: skip


def _layer_line(one: LayerCost) -> dict[str, str]:
    row = _layer_row(one, 0.0)
    return {
        "layer": one.name, "kind": one.kind, "role": one.role, "MACs": f"{one.macs:,}", "effectual": row["effectual"],
        "cycles": f"{one.cycles:,.0f}", "dense": f"{one.dense_total:,.0f}", "computing alone": row["alone"],
        "with memory": row["whole"], "bound by": one.bound_by, "DRAM": row["dram"], "energy": row["energy"],
        "mode": row["mode"],
    }  # fmt: skip


def cell(text: Any) -> str:
    """Text in a Markdown table: on one line, without what would end the cell or begin markup."""
    found = clean(str(text))
    for mark in ("\\", "|", "<", "[", "]", "*", "_", "`"):
        found = found.replace(mark, "\\" + mark)
    return found


def markdown_table(rows: list[dict[str, str]]) -> list[str]:
    """Lines of a table whose columns are the keys of the first row."""
    if not rows:
        return ["nothing"]
    columns: Mapping[str, str] = rows[0]
    return [
        "| " + " | ".join(cell(column) for column in columns) + " |",
        "|" + " --- |" * len(columns),
        *("| " + " | ".join(cell(row[column]) for column in columns) + " |" for row in rows),
    ]
