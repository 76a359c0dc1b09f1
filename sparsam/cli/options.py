"""Options that several commands share, the values they may have, and the examples that end a help text."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

MOST_SEED = 2**32 - 1
"""Every generator below takes seeds up to this."""


def above_zero(value: float | None) -> float | None:
    """Accept finite numbers above 0."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"must be above 0; got {value:g}.")
    return value


def not_negative(value: float | None) -> float | None:
    """Accept finite numbers from 0 on."""
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise typer.BadParameter(f"must be 0 or more; got {value:g}.")
    return value


def share(value: float | None) -> float | None:
    """Accept numbers from 0 to 1."""
    if value is not None and not 0 <= value <= 1:
        raise typer.BadParameter(f"is a share from 0 to 1; got {value:g}.")
    return value


ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub id.")]
TaskName = Annotated[
    str,
    typer.Option(
        "--task",
        metavar="TASK",
        help="Hub data set (owner/name[:config]), folder, file (parquet, csv, jsonl), or digits.",
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write, whole or not at all.")]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on standard output, and nothing else there.")
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks, and the warnings of the libraries below.")
]
Label = Annotated[
    str | None, typer.Option("--label", metavar="COLUMN", help="The label's column; found if not named.")
]
Text = Annotated[
    list[str] | None,
    typer.Option(
        "--text", metavar="COLUMN", help="The text's column, or twice for a pair; found if not named."
    ),
]
Metric = Annotated[
    str | None,
    typer.Option("--metric", help="accuracy, f1, matthews or pearson_spearman; by default the task's own."),
]
TrainRows = Annotated[
    int | None,
    typer.Option("--train-rows", metavar="N", min=1, help="Use N rows of the shuffled training data."),
]
NoTruncate = Annotated[
    bool,
    typer.Option(
        "--no-truncate", help="Refuse texts longer than the model can read, instead of cutting them."
    ),
]
BatchTokens = Annotated[int, typer.Option("--batch-tokens", metavar="N", min=1, help="Real tokens a batch.")]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", metavar="N", min=0, max=MOST_SEED, help="Seed of everything random but the split."
    ),
]
SplitSeed = Annotated[
    int,
    typer.Option(
        "--split-seed",
        metavar="N",
        min=0,
        max=MOST_SEED,
        help="Draws the validation rows where the data has none; the same for a model's every command.",
    ),
]
Precision = Annotated[
    Literal["auto", "bf16", "fp32"],
    typer.Option("--precision", help="Of training; auto is bf16 where the machine computes in it natively."),
]
DryRunFlag = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Time a few steps of a copy and say what the run would take; write nothing."
    ),
]


def epochs_option(text: str) -> Any:
    """The option ``--epochs``, which each command explains in its own words."""
    return typer.Option("--epochs", metavar="X", callback=above_zero, help=text)


def examples(*lines: str) -> str:
    """Command lines as the end of a help text."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
