"""MiniLM on SST-2, dense and pruned, on every simulated design; and the same layers with their numbers shuffled.

    python benchmarks/hardware_study.py                      # four models, two number formats, all designs: some minutes
    python benchmarks/hardware_study.py --tokens runs/ltp    # a checkpoint whose token rule was trained, in place of top-k

Traces are of the first rows of validation. Shuffled layers have the same numbers, and so the same density and the same terms,
in places drawn at random: what is left of a speedup then owes nothing to where a real tensor has its zeros. Attention is not
shuffled, as its probabilities would be others. Writes the tables of docs/studies/hardware.md, and a report for each trace under
``runs/hardware-study``. Nothing here is measured but accuracy.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tables import store

from sparsam.artifact import is_artifact
from sparsam.compress import compress, evaluate, open_model
from sparsam.cost import Budget
from sparsam.hardware.cost import Cost, LayerCost
from sparsam.hardware.designs import DESIGNS
from sparsam.hardware.machine import Machine, machine_of, machines
from sparsam.hardware.simulate import How
from sparsam.hardware.simulation import Simulation, simulate_on
from sparsam.models import lift
from sparsam.plan import LayerPlan, Plan
from sparsam.report.bars import joules
from sparsam.report.figures import size
from sparsam.report.hardware import markdown_table, mode_words, ratio, write_simulation
from sparsam.runtime.record import record
from sparsam.structure import FTPP
from sparsam.task import Task
from sparsam.tokens.control import Control
from sparsam.workload import Gemm, Tensor, Workload

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared"))
MODEL, DATA = SHARED / "models/minilm-sst2", SHARED / "data/sst2"
PAGE = Path(__file__).parent.parent / "docs/studies/hardware.md"
SCALE = 0.75
"""Of the top-k rule that is not trained: 87.5 % of the tokens after the first layer, 12.5 points less after each."""
ZERO = 0.6
"""Share of each layer's weights that magnitude pruning sets to zero. Chosen by us."""
BUDGET = 0.5
RESULTS = ("hardware-study", "hardware-study-layers")
PARTS = {
    "queries, keys, values": r"attention\.self\.(query|key|value)$",
    "attention's output": r"attention\.output\.dense$",
    "feed-forward, up": r"intermediate\.dense$",
    "feed-forward, down": r"layer\.\d+\.output\.dense$",
}
FLOATS = ("tensordash", "fpraker")
"""Designs that work in bfloat16: they run a trace in it, FPRaker no other."""


@dataclass(frozen=True)
class Shuffled(Sequence[Gemm]):
    """The matrix products of a workload, each operand's numbers in places drawn anew."""

    layers: Workload
    names: tuple[int, ...]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, at: Any) -> Any:
        layer = self.layers[self.names[at]]
        draw = np.random.default_rng([self.seed, self.names[at]])
        return replace(layer, a=_shuffled(layer.a, draw), b=_shuffled(layer.b, draw))

    def __iter__(self) -> Iterator[Gemm]:
        return (self[at] for at in range(len(self)))


def _shuffled(one: Tensor, draw: np.random.Generator) -> Tensor:
    """The same numbers elsewhere; one scale, as each row's own would no longer fit its numbers."""
    values = draw.permutation(one.values.reshape(-1)).reshape(one.shape)
    return Tensor(values, one.format, float(np.mean(one.scale)))


def models(task: Task, tokens: str | None, runs: Path) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Name, what was done, and how to open each."""

    def top_k() -> Any:
        if tokens is not None:
            return open_model(tokens, task)
        opened = open_model(str(MODEL), task)
        layers = opened.model.config.num_hidden_layers
        rule = Control("top-k").plan_at(SCALE, layers, reads_class_token=False)
        lift(opened.model, Plan(opened.model.config.model_type, (LayerPlan(),) * layers, rule))
        return opened

    def ftpp() -> Any:
        folder = runs / f"ftpp-{BUDGET}"
        if not is_artifact(folder):
            compress(str(MODEL), task, out=folder, methods=[FTPP()], budget=Budget(macs=BUDGET), strict=False)
        return open_model(str(folder), task)

    def magnitude() -> Any:
        opened = open_model(str(MODEL), task)
        for name, part in opened.model.named_modules():
            if isinstance(part, torch.nn.Linear) and ".layer." in name:
                weight = part.weight.data
                weight[weight.abs() <= weight.abs().flatten().kthvalue(int(ZERO * weight.numel())).values] = 0
        return opened

    what = f"checkpoint {tokens}" if tokens else f"top-k by received attention, scale {SCALE}, not trained"
    yield "dense", "as fine-tuned", lambda: open_model(str(MODEL), task)
    yield "tokens", what, top_k
    yield "ftpp", f"heads and filters, budget of {BUDGET}x MACs, not trained", ftpp
    yield "magnitude", f"the smallest {100 * ZERO:.0f} % of each layer's weights zero, not trained", magnitude


def traced(opened: Any, task: Task, rows: int, folder: Path, format: str, facts: dict[str, Any]) -> Workload:
    """The first rows of validation, in one batch."""
    split = task.validation.take(np.arange(rows))
    texts = [split.texts[at] for at in range(rows)]
    batch = dict(opened.processor(texts, padding=True, truncation=True, return_tensors="pt"))
    return record(opened.model.eval(), [batch], folder, format=format, facts=facts)


def ratio_of(layers: Sequence[LayerCost]) -> float | None:
    """Speedup of computing alone over some layers."""
    own = sum(one.compute_cycles for one in layers)
    return sum(one.dense_cycles for one in layers) / own if own else None


def zeros(workload: Workload, pattern: str = "") -> tuple[float, float]:
    """Shares of zeros in the inputs and in the weights of matrix products, weighted by multiplications."""
    sums = np.zeros(3)
    for layer in workload:
        if isinstance(layer, Gemm) and re.search(pattern, layer.name):
            sums += layer.macs * np.array([1 - layer.a.density, 1 - layer.b.density, 1.0])
    return float(sums[0] / sums[2]), float(sums[1] / sums[2])


def chosen(on: str | None, format: str) -> list[Machine]:
    """The machine of each design that bears its name, or the first of its files."""
    known = machines()
    found: dict[str, Machine] = {}
    for machine in known.values() if on is None else (machine_of(name) for name in on.split(",")):
        key = machine.name if on else machine.design
        if key not in found or machine.name == machine.design:
            found[key] = machine
    wanted = FLOATS if format == "bf16" else tuple(design for design in DESIGNS if design != "fpraker")
    return [one for one in found.values() if one.design in wanted]


def gemms(cost: Cost) -> list[LayerCost]:
    """Its matrix products."""
    return [one for one in cost.layers if one.kind == "gemm"]


def line(
    model: str,
    format: str,
    cost: Cost,
    control: Cost | None,
    dense: Cost,
    macs: float,
    share: tuple[float, float],
) -> dict[str, Any]:
    """A row of the first table."""
    real, drawn = ratio_of(gemms(cost)), ratio_of(control.layers) if control is not None else None
    return {
        "model": model, "numbers": format, "machine": cost.machine, "mode": mode_words(cost.mode, cost.error, cost.cycles),
        "layers": f"{len(cost.layers)} of {len(cost.layers) + len(cost.left_out)}", "MACs": f"{macs:.3f}x",
        "zeros in inputs, %": f"{100 * share[0]:.1f}", "in weights, %": f"{100 * share[1]:.1f}",
        "cycles": f"{cost.cycles:,.0f}", "of the dense model's": f"{cost.cycles / dense.cycles:.3f}" if dense.cycles else "–",
        "speedup, computing alone": ratio(cost.compute_speedup), "with memory": ratio(cost.speedup),
        "matrix products alone": "–" if real is None else ratio(real),
        "the same shuffled": "–" if drawn is None else ratio(drawn),
        "energy": joules(sum(cost.energy_pj.values())), "DRAM": size(cost.dram_bytes),
        "utilisation, %": f"{100 * cost.utilisation:.1f}", "bound by memory, %": f"{100 * cost.memory_bound:.0f}",
    }  # fmt: skip


def by_part(
    model: str, format: str, workload: Workload, cost: Cost, control: Cost
) -> Iterator[dict[str, Any]]:
    """Rows of the second table: kinds of layers, real and shuffled."""
    for part, pattern in PARTS.items():
        real, drawn = (
            ratio_of([layer for layer in one.layers if re.search(pattern, layer.name)])
            for one in (cost, control)
        )
        if real is None or drawn is None or cost.design == "dense":
            continue
        inputs, weights = zeros(workload, pattern)
        yield {
            "model": model, "numbers": format, "machine": cost.machine, "layers": part,
            "zeros in inputs, %": f"{100 * inputs:.1f}", "in weights, %": f"{100 * weights:.1f}",
            "speedup, computing alone": ratio(real), "shuffled": ratio(drawn),
            "real beside shuffled": f"{100 * (real / drawn - 1):+.1f} %",
        }  # fmt: skip


def shuffled(workload: Workload, on: Sequence[Machine], how: How) -> Simulation:
    """The matrix products with their numbers elsewhere."""
    places = tuple(at for at, layer in enumerate(workload) if isinstance(layer, Gemm))
    return simulate_on(Workload(Shuffled(workload, places, how.seed), workload.facts), on, how)


def fill(page: Path, tables: dict[str, list[str]]) -> None:
    """Put tables between their marks on a page."""
    text = page.read_text(encoding="utf-8")
    for name, lines in tables.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"{page} has no place for table {name}")
        text = "\n".join([before + begin, *lines, end + after])
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Trace, simulate, shuffle, simulate again, store."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--tokens", help="checkpoint with a token rule, in place of top-k")
    ask.add_argument("--rows", type=int, default=16)
    ask.add_argument("--on", help="machines by name")
    ask.add_argument("--only", help="models by name, between commas")
    ask.add_argument("--mode", default="auto")
    ask.add_argument("--out", type=Path, default=Path("runs/hardware-study"))
    ask.add_argument("--no-page", action="store_true", help="store the results, leave the page alone")
    given = ask.parse_args()
    task, how = Task.load(str(DATA)), How(given.mode)
    rows: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    notes = []
    dense: dict[tuple[str, str], tuple[Cost, float]] = {}
    for name, what, open_it in models(task, given.tokens, given.out):
        if given.only and name not in given.only.split(","):
            continue
        opened = open_it()
        score = evaluate(opened, task).metric
        notes.append(
            f"{name}: {what}; accuracy on validation, measured: {100 * score.value:.2f} % of {score.n} rows"
        )
        for format in ("int8", "bf16"):
            on = chosen(given.on, format)
            if not on:
                continue
            facts = {
                "name": f"{name}, {format}",
                "model": name,
                "what": what,
                "task": task.name,
                "rows": given.rows,
            }
            workload = traced(opened, task, given.rows, given.out / f"trace-{name}-{format}", format, facts)
            found = simulate_on(workload, on, how, name=f"MiniLM on SST-2, {name}, {format}")
            write_simulation(found, given.out / f"{name}-{format}")
            control = shuffled(workload, on, how)
            macs = sum(one.macs for one in workload)
            share = zeros(workload)
            for cost, drawn in zip(found.costs, control.costs, strict=True):
                base, whole = dense.setdefault((cost.machine, format), (cost, macs))
                rows.append(line(name, format, cost, drawn, base, macs / whole, share))
                parts += by_part(name, format, workload, cost, drawn)
                print(rows[-1], flush=True)
    notes.append("cycles, energy and traffic are simulated; only accuracy was measured")
    notes.append(f"rows traced: {given.rows}; energy constants: default40; mode {given.mode}, seed 0")
    command = " ".join(["python benchmarks/hardware_study.py", *sys.argv[1:]])
    store(RESULTS[0], "MiniLM on SST-2 on simulated accelerators", command, rows, notes)
    title = "The same, by kind of layer: real tensors beside the same numbers shuffled"
    store(RESULTS[1], title, command, parts, notes)
    if not given.no_page:
        to_page(rows, parts, notes, command)


def to_page(
    rows: Sequence[dict[str, Any]], parts: Sequence[dict[str, Any]], notes: Sequence[str], command: str
) -> None:
    """Put the tables on the study's page; of the layers those of the dense and of the most sparse model."""
    links = ", ".join(f"[{name}](../../benchmarks/results/{name}.md)" for name in RESULTS)
    few = [row for row in parts if row["model"] in ("dense", "magnitude")]
    stored = [f"`{command}`; stored: {links}.", "", *(f"- {note}" for note in notes)]
    fill(PAGE, {"models": markdown_table(list(rows)), "layers": markdown_table(few), "stored": stored})


if __name__ == "__main__":
    main()
