"""Answers that several commands give: the JSON object, the tables of models and of a dry run, and the exit code."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsam.cli.show import duration, new_console, new_table, plain, short_count
from sparsam.errors import BudgetMissed, SparsamError

if TYPE_CHECKING:
    from rich.table import Table

    from sparsam.cli.working import Shown
    from sparsam.compress import Compressed, DryRun, Evaluation
    from sparsam.compress.road import Faster
    from sparsam.measure import Measurement
    from sparsam.task import Task


def answer(facts: Mapping[str, Any], problem: SparsamError | None = None) -> int:
    """Print the one JSON object; with a problem, its ``error`` too. Returns the exit code."""
    whole = (
        dict(facts)
        if problem is None
        else {**facts, "error": {"code": problem.code, "message": str(problem)}}
    )
    print(json.dumps(whole, allow_nan=False))
    return 0 if problem is None else problem.exit_code


def answer_compressed(
    show: "Shown",
    made: "Compressed",
    task: str,
    as_json: bool,
    more: Mapping[str, Any] | None = None,
    lines: Sequence[str] = (),
) -> int:
    """Print the dense and the compressed model, and by how much they differ. Returns the exit code, also of a missed budget.

    ``more`` joins the JSON object, ``lines`` are printed at the end.
    """
    show.note_all([*made.notes, cut_note(made.compressed)])
    problem = None
    if not made.met:
        missed = " ".join(made.missed)
        problem = BudgetMissed(
            f"the budget is missed. {missed} The best that was found is kept in {made.folder}. Allow more, or train "
            "longer (--epochs).",
            code="budget-missed",
        )
    if as_json:
        return answer(made.to_json() | {"task": task, "notes": show.notes} | dict(more or {}), problem)
    console = new_console()
    rows = {"dense": (made.dense, made.dense_bytes), "compressed": (made.compressed, made.compressed_bytes)}
    console.print(score_table(f"{task}, {made.compressed.split}", rows))
    console.print(difference_line(made.difference))
    for line in (structure_line(made), *map(speed_line, made.speeds)):
        if line is not None:
            console.print(plain(line), soft_wrap=True)
    console.print(f"Saved in {plain(made.folder)}; both rows were measured, the compressed one after reload.")
    for line in lines:
        console.print(plain(line), soft_wrap=True)
    return 0 if problem is None else complain(problem)


def answer_plan(show: "Shown", planned: "DryRun", model: str, task: "Task", out: Path, as_json: bool) -> int:
    """Print what a run would take, stage by stage. Returns the exit code."""
    show.note_all(planned.notes)
    rows = 0 if task.train is None else len(task.train)
    if as_json:
        facts = {"dry_run": True, "model": model, "task": task.name, "train_rows": rows, "folder": str(out)}
        return answer(facts | planned.to_json() | {"notes": show.notes})
    console = new_console()
    table = new_table(
        f"{model} on {task.name}: {rows:,} training rows", "stage", "epochs", "steps", "a step", "time", "in"
    )
    for stage in planned.stages:
        table.add_row(
            plain(stage["stage"]), f"{stage['epochs']:g}", f"{stage['steps']:,}",
            f"{float(stage['seconds_per_step']):.3f} s", duration(float(stage["seconds"])), plain(stage["precision"]),
        )  # fmt: skip
    console.print(table)
    console.print(
        f"{short_count(planned.parameters)} parameters; about {duration(planned.seconds)} of training; memory peaked at "
        f"{planned.peak_memory_bytes / 1e9:.1f} GB while these steps were timed. Nothing was written."
    )
    return 0


def score_table(title: str, rows: "Mapping[str, tuple[Evaluation, int]]") -> "Table":
    """One line a model: metric with interval, counted work, tokens kept, size."""
    first = next(iter(rows.values()))[0].metric
    percent = first.unit == "fraction" and first.what == "accuracy"
    what = first.what if percent or first.unit != "fraction" else f"{first.what} × 100"
    table = new_table(
        title,
        "model",
        f"{what} (95 %)",
        "MACs",
        "MACs a sample",
        "tokens kept after each layer, %",
        "size",
    )
    for column in table.columns[1:]:
        column.no_wrap = not str(column.header).startswith("tokens")
    for name, (found, size) in rows.items():
        scale = 100 if found.metric.unit == "fraction" else 1
        value, low, high = (scale * x for x in (found.metric.value, found.metric.low, found.metric.high))
        table.add_row(
            plain(name),
            f"{value:.2f}{' %' if percent else ''} ({low:.2f}–{high:.2f})",
            f"{found.macs_ratio:.3f}x",
            short_count(found.cost.macs / max(found.cost.samples, 1)),
            " ".join(f"{100 * layer['ffn']:.0f}" for layer in found.kept),
            f"{size / 1e6:.2f} MB",
        )
    return table


def difference_line(found: "Measurement") -> str:
    """The paired difference in words."""
    line = f"Paired difference: {found.value:+.2f} {found.unit} (95 % interval {found.low:+.2f} to {found.high:+.2f}) "
    line += f"over {found.n:,} rows"
    extra = found.extra
    if "lost" in extra:
        line += f"; {extra['lost']} lost, {extra['won']} won, {extra['changed']} answers changed"
        line += f", p = {float(extra['p']):.3g}"
    return line + "."


def structure_line(made: "Compressed") -> str | None:
    """Heads and filters that are left, and products in integers; None where all are, and none."""
    from sparsam.plan import PRODUCTS

    layers = made.plan.layers
    count = sum(len(left.formats) for left in layers)
    integers = f"In integers: {count} of {len(PRODUCTS) * len(layers)} products." if count else None
    if not made.plan.changes_shapes:
        return integers
    from sparsam.models import inspect_model
    from sparsam.models.apply import units_of

    left, whole = units_of(made.model), inspect_model(made.model.config).layers
    heads, filters = (sum(count) for count in zip(*left, strict=True))
    all_heads, all_filters = (sum(layer[kind] for layer in whole) for kind in ("heads", "filters"))
    each = ", ".join(f"{h}/{f}" for h, f in left)
    line = (
        f"Left: {heads} of {all_heads} heads, {filters:,} of {all_filters:,} filters; layer by layer {each}."
    )
    return line if integers is None else f"{line} {integers}"


def speed_line(speed: "Faster") -> str:
    """How fast the reloaded model is, beside what and where."""
    machine = f"{speed.machine['processor']}, {speed.machine['threads']} threads"
    (before, after), (slow, quick) = speed.throughput, speed.p50
    if speed.batch == 1:
        return f"p50 {speed.latency_ratio:.2f}x of {speed.baseline} ({slow:.2f} → {quick:.2f} ms, one at a time; {machine})."
    return (
        f"Throughput {speed.throughput_ratio:.2f}x of {speed.baseline} ({before:,.0f} → {after:,.0f} /s, batch {speed.batch}, "
        f"arrival; {machine})."
    )


def cut_note(found: "Evaluation") -> str | None:
    """How many texts were cut, in words; None if none was."""
    if not found.truncated:
        return None
    return (
        f"{found.truncated:,} of {found.metric.n:,} texts of {found.split} are longer than the model can read and were "
        "cut (--no-truncate refuses them)"
    )


def complain(error: SparsamError) -> int:
    """Say an error on standard error; returns its exit code."""
    print(f"error [{plain(error.code)}]: {plain(error)}", file=sys.stderr)
    return error.exit_code
