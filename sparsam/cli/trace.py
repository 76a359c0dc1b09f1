"""The command ``trace``: a model runs on real rows, and each product is written with the numbers that went in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sparsam.cli.answers import answer
from sparsam.cli.options import (
    BatchTokens,
    Debug,
    Json,
    Label,
    ModelName,
    NoTruncate,
    Seed,
    SplitSeed,
    TaskName,
    Text,
    examples,
)
from sparsam.cli.prepare import load_task
from sparsam.cli.recording import NoProvenance, Recorded
from sparsam.cli.show import new_console, new_table, plain, short_count
from sparsam.cli.working import working

if TYPE_CHECKING:
    from rich.table import Table

    from sparsam.compress.tracing import Traced

app = typer.Typer()


@app.command(
    "trace",
    cls=Recorded,
    short_help="What a model multiplies on real rows, for simulators.",
    help="Runs a model on rows of a task and writes each of its products with the numbers that went in: activations, "
    "weights, queries, keys and values, for simulators of accelerators. Removed tokens, heads and filters are not in it, a "
    "plan's integers are as they are. With --train also the gradients' two products of each layer.",
    epilog=examples(
        "sparsam trace runs/dense --task nyu-mll/glue:sst2 --out traces/dense",
        "sparsam trace runs/half --task data/sst2 --out traces/half --rows 32",
        "sparsam trace runs/dense --task data/sst2 --out traces/step --train --format bf16 --json",
    ),
)
def _trace(
    model: ModelName,
    task: TaskName,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the trace, whole or not at all.")
    ],
    rows: Annotated[int, typer.Option("--rows", metavar="N", min=1, help="Rows to run on.")] = 8,
    number_format: Annotated[
        Literal["int8", "bf16"] | None,
        typer.Option("--format", help="Of the numbers; int8, or bf16 with --train, if not given."),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="A step of training: three products a layer; no weight changes.")
    ] = False,
    split: Annotated[
        Literal["train", "validation", "test"] | None,
        typer.Option("--split", help="Which rows; validation, or train with --train, if not given."),
    ] = None,
    batch_tokens: BatchTokens = 4096,
    seed: Seed = 0,
    split_seed: SplitSeed = 0,
    label: Label = None,
    text: Text = None,
    no_truncate: NoTruncate = False,
    as_json: Json = False,
    no_provenance: NoProvenance = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug) as show:
        from sparsam.compress import open_model
        from sparsam.compress.tracing import trace
        from sparsam.workload import Writer

        Writer(out)  # a folder that cannot be written is refused before anything is read
        data = load_task(show, task, label, text, None, split_seed)
        opened = open_model(model, data)
        show.note_all(opened.notes)
        show.say(f"recording {model} on {data.name}")
        found = trace(
            opened, data, out, rows=rows, format=number_format, train=train, split=split,
            batch_tokens=batch_tokens, truncate=not no_truncate, seed=seed, progress=show.progress,
        )  # fmt: skip
        if found.rows < rows:
            show.note(f"{found.facts['split']} has {found.rows:,} rows; {rows:,} were asked for")
        show.note_all(_left_out(found))
    if as_json:
        return answer(found.to_json() | {"notes": show.notes})
    console = new_console()
    console.print(_table(found, f"{model} on {data.name}: {found.rows:,} rows, {found.facts['format']}"))
    console.print(
        plain(f"{found.layers:,} layers, {found.size_bytes / 1e6:.1f} MB in {out}."), soft_wrap=True
    )
    return 0


def _left_out(found: "Traced") -> list[str]:
    """What was met and is not in the trace, once a reason."""
    layers: dict[str, list[str]] = {}
    for one in found.facts["left_out"]:
        layers.setdefault(one["why"], []).append(one["layer"])
    return [
        f"left out: {names[0]}{f' and {len(names) - 1:,} more' if len(names) > 1 else ''}: {why}"
        for why, names in layers.items()
    ]


def _table(found: "Traced", title: str) -> "Table":
    """One line for the layers of a kind and role."""
    table = new_table(title, "layers", "", "role", "MACs", "not zero: flowing, %", "staying, %")
    for part in found.parts:
        table.add_row(
            part.kind, f"{part.layers:,}", part.role.replace("_", " "), short_count(part.macs),
            f"{100 * part.flowing:.1f}", f"{100 * part.staying:.1f}",
        )  # fmt: skip
    return table
