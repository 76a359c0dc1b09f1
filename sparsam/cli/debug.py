"""The command ``debug``: the first layer of a compressed model that went wrong, with its error."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sparsam.cli.answers import answer
from sparsam.cli.options import (
    Debug,
    Json,
    Label,
    ModelName,
    Seed,
    SplitSeed,
    TaskName,
    Text,
    examples,
    share,
)
from sparsam.cli.prepare import load_task
from sparsam.cli.show import new_console, new_table, plain
from sparsam.cli.working import working
from sparsam.errors import Usage

if TYPE_CHECKING:
    from rich.table import Table

    from sparsam.compress.debug import Debugged, Error, ProductError, Stage
    from sparsam.task import Task

app = typer.Typer()


@app.command(
    "debug",
    short_help="The first layer that went wrong, with its error.",
    help="Where a compressed model leaves the dense one it came from: the error of every layer on the dense model's states, "
    "what has piled up behind it, and how many answers stay the same when all up to it is compressed and nothing after it. "
    "Names the first layer behind which too few answers agree, and its worst product.",
    epilog=examples(
        "sparsam debug runs/int8 --task nyu-mll/glue:sst2",
        "sparsam debug runs/int8 --task data/sst2 --against runs/dense --rows 1000",
        "sparsam debug runs/half --task data/sst2 --agreement 0.95 --json",
    ),
)
def _debug(
    model: ModelName,
    task: TaskName,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="DIR", help="The dense model; found by what the model was saved with."
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option("--rows", metavar="N", min=1, help="Rows to compare on; their labels are not read.")
    ] = 256,
    agreement: Annotated[
        float,
        typer.Option(
            "--agreement",
            metavar="X",
            callback=share,
            help="Share of answers that have to be the dense model's.",
        ),
    ] = 0.99,
    split: Annotated[
        Literal["train", "validation", "test"], typer.Option("--split", help="Which rows.")
    ] = "train",
    seed: Seed = 0,
    split_seed: SplitSeed = 0,
    label: Label = None,
    text: Text = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug) as show:
        from sparsam.compress import open_model
        from sparsam.compress.debug import layer_by_layer

        data = load_task(show, task, label, text, None, split_seed)
        against = against or _dense_of(model, data)
        show.say(f"comparing {model} with {against} on {data.name}, {split}")
        ours, dense = (open_model(source, data) for source in (model, against))
        found = layer_by_layer(
            ours, dense, data, rows=rows, threshold=agreement, split=split, seed=seed, progress=show.progress
        )
        if found.rows < rows:
            show.note(f"{split} has {found.rows:,} rows; {rows:,} were asked for")
    if as_json:
        return answer(found.to_json() | {"task": data.name, "split": split, "notes": show.notes})
    console = new_console()
    console.print(_table(found, f"{model} beside {against}: {found.rows:,} rows of {data.name}, {split}"))
    for line in verdict(found):
        console.print(plain(line), soft_wrap=True)
    return 0


def _dense_of(model: str, task: "Task") -> str:
    """The dense model that another one came from.

    Raises:
        Usage: ``against-missing`` for a dense one, and those of :func:`sparsam.baselines.dense.dense_of`.
    """
    from sparsam.baselines.dense import checkpoint, dense_of

    candidate = checkpoint(model, task)
    if not candidate.has_plan:
        raise Usage(
            f"{model} is dense: it came from no other model here. Name the one to compare it with: --against DIR.",
            code="against-missing",
        )
    return str(dense_of(candidate, task, "--against").folder)


def _table(found: "Debugged", title: str) -> "Table":
    """One line a stage."""
    table = new_table(
        title, "up to", "own error, dB", "largest", "piled up, dB", "largest", "tokens left", "answers that agree",
        "worst product",
    )  # fmt: skip
    for stage in found.stages:
        worst, wrong = stage.worst, stage.agreement < found.threshold
        table.add_row(
            stage.name, *_cells(stage.own), *_cells(stage.piled_up), f"{100 * stage.kept:.0f} %",
            f"{100 * stage.agreement:.2f} %{' <' if wrong else ''}",
            "" if worst is None else f"{_named(worst)}, {_cells(worst.error)[0]} dB",
        )  # fmt: skip
    return table


def verdict(found: "Debugged") -> list[str]:
    """What came out of it, in sentences."""
    first, limit = found.first, f"{100 * found.threshold:g} %"
    whole = f"{100 * found.agreement:.2f} %"
    if first is None:
        least = min(found.stages, key=lambda stage: stage.agreement)
        return [
            f"Nothing went wrong: of {found.rows:,} answers at least {limit} are the dense model's behind every layer (least "
            f"{100 * least.agreement:.2f} %, behind {_the(least)}); {whole} at the end."
        ]
    at = found.stages.index(first)
    before = "" if not at else f", {100 * found.stages[at - 1].agreement:.2f} % before it"
    lines = [
        f"The first that went wrong: {first.name}. Behind it {100 * first.agreement:.2f} % of {found.rows:,} answers are the "
        f"dense model's{before}; expected {limit}. Its own error: {short_error(first.own)}."
    ]
    if first.worst is not None:
        lines.append(f"Its worst product: {_named(first.worst)}, {short_error(first.worst.error)}.")
    if found.loudest is not first:
        lines.append(
            f"The largest error of its own has {_the(found.loudest)}: {short_error(found.loudest.own)}; what agrees depends on "
            "what piles up."
        )
    made_up = found.agreement >= found.threshold
    lines.append(f"At the end {whole} agree{': what comes after it makes up for it' if made_up else ''}.")
    return lines


def _the(stage: "Stage") -> str:
    return stage.name if stage.name.startswith("layer") else f"the {stage.name}"


def short_error(error: "Error") -> str:
    """Signal-to-noise ratio and largest difference."""
    return "none" if error.sqnr is None else f"SQNR {error.sqnr:.1f} dB, at most {error.largest:.3g}"


def _cells(error: "Error") -> tuple[str, str]:
    return ("none", "") if error.sqnr is None else (f"{error.sqnr:.1f}", f"{error.largest:.3g}")


def _named(one: "ProductError") -> str:
    """A product, with the bits of its weights where they are integers."""
    return one.product if one.bits is None else f"{one.product} ({one.bits} bits)"
