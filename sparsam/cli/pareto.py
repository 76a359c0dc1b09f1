"""The command ``pareto``: the accuracy–speed front of a model on a task."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from sparsam.cli.answers import answer
from sparsam.cli.methods import METHODS, MethodName
from sparsam.cli.options import (
    BatchTokens,
    Debug,
    Json,
    Label,
    Metric,
    ModelName,
    NoTruncate,
    Precision,
    SplitSeed,
    TaskName,
    Text,
    TrainRows,
    epochs_option,
    examples,
)
from sparsam.cli.prepare import load_task
from sparsam.cli.recording import NoProvenance, Recorded
from sparsam.cli.show import new_console, new_table, plain
from sparsam.cli.working import working
from sparsam.errors import Usage

if TYPE_CHECKING:
    from rich.table import Table

    from sparsam.compress.pareto import Front

app = typer.Typer()
Number = TypeVar("Number", int, float)


@app.command(
    "pareto",
    cls=Recorded,
    short_help="The whole accuracy-speed front of a model, as table and picture.",
    help="Compress a dense model to several budgets, reload and evaluate each, time them in turn beside the packed dense form, "
    "race other runtimes of the dense model against that form, too, and say which of all are worth having. Writes a checkpoint "
    "for each point, pareto.json and report.html. What is there already is not made again.",
    epilog=examples(
        "sparsam pareto runs/dense --task nyu-mll/glue:sst2 --out runs/front",
        "sparsam pareto runs/dense --task nyu-mll/glue:sst2 --method ltp+ftpp --points 0.5,0.35,0.25 --out runs/front",
        "sparsam pareto runs/dense --task nyu-mll/glue:sst2 --seeds 0,1,2 --ray local --out runs/front",
    ),
)
def _pareto(
    model: ModelName,
    task: TaskName,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the models, pareto.json and report.html.")
    ],
    method: Annotated[
        MethodName, typer.Option("--method", help="What to apply; see sparsam compress --help.")
    ] = "ftpp",
    points: Annotated[
        str | None,
        typer.Option("--points", metavar="X,X,...", help="Shares of the dense model's multiply-accumulates."),
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="N,N,...", help="One model a point and seed.")
    ] = "0",
    batch: Annotated[
        int,
        typer.Option("--batch", metavar="N", min=1, help="Samples of a batch when throughput is measured."),
    ] = 32,
    no_baselines: Annotated[
        bool,
        typer.Option(
            "--no-baselines",
            help="Leave out the dense model in other runtimes (transformers, ONNX Runtime, OpenVINO).",
        ),
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Make the points on a Ray cluster that sees the same files; local starts one here.",
        ),
    ] = None,
    epochs: Annotated[float | None, epochs_option("Epochs in all of methods that train.")] = None,
    batch_tokens: BatchTokens = 1024,
    split_seed: SplitSeed = 0,
    precision: Precision = "auto",
    label: Label = None,
    text: Text = None,
    metric: Metric = None,
    train_rows: TrainRows = None,
    no_truncate: NoTruncate = False,
    as_json: Json = False,
    no_provenance: NoProvenance = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug, out) as show:
        shares = None if points is None else _numbers(points, float, "--points", "0.6,0.4")
        drawn = _numbers(seeds, int, "--seeds", "0,1,2")
        from sparsam.baselines.beside import OTHERS
        from sparsam.compress.pareto import POINTS, pareto
        from sparsam.report import write_report
        from sparsam.training.loop import Settings

        chosen = METHODS[method](**({} if epochs is None else {"epochs": epochs}))
        settings = Settings(batch_tokens=batch_tokens, precision=precision)
        options = [label, text, metric, train_rows]
        if ray is not None and (split_seed or any(option is not None for option in options)):
            raise Usage(
                "with --ray the task is read by every worker as it is; leave --label, --text, --metric, --train-rows and "
                "--split-seed out.",
                code="ray-task",
            )
        data = load_task(show, task, label, text, metric, split_seed, train_rows=train_rows, train=True)
        show.say(f"making {len(shares or POINTS) * len(drawn)} points of {model} with {method}")
        front = pareto(
            model, data if ray is None else task, out, methods=chosen, points=shares or POINTS, seeds=drawn,
            settings=settings, truncate=not no_truncate, batch=batch, baselines=() if no_baselines else OTHERS, ray=ray,
            progress=show.progress,
        )  # fmt: skip
        if front.race is not None:
            show.note_all(
                [
                    *front.race.warnings,
                    *(f"not measured: {who}: {why}" for who, why in front.race.absent.items()),
                ]
            )
        page = write_report([out], out / "report.html")
    if as_json:
        return answer(front.to_json() | {"folder": str(out), "report": str(page), "notes": show.notes})
    console = new_console()
    console.print(_table(front))
    console.print(
        f"Ratios are of {front.baseline}, rows as they came; all were timed in turn after reload (spread {front.spread:.2f}). "
        "▲ no other point is as good and as fast."
    )
    if front.race is not None and any(point.runtime for point in front.points):
        console.print(
            "◇ the dense model in another runtime, raced in a process of its own against the packed dense form, which its "
            f"ratios are of (spread {front.race.spread:.2f})."
        )
    console.print(f"Report: {plain(page)}", soft_wrap=True)
    return 0


def _numbers(text: str, kind: type[Number], option: str, example: str) -> list[Number]:
    """Numbers between commas.

    Raises:
        Usage: ``numbers``.
    """
    try:
        found = [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found:
        raise Usage(f"cannot read {option} {text!r}; expected e.g. {example}.", code="numbers")
    return found


def _table(front: "Front") -> "Table":
    """One line a point."""
    columns = (
        "model",
        f"{front.points[0].metric['what']} (95 %)",
        "difference",
        "MACs",
        "throughput",
        "p50 alone",
        "size",
    )
    table = new_table(f"{front.task}, {front.split}, batches of {front.batch}", *columns)
    for point in front.points:
        mark = ("▲ " if point.on_front else "  ") + ("◇ " if point.runtime else "")
        scale = 100 if point.metric["unit"] == "fraction" else 1
        value, low, high = (scale * point.metric[key] for key in ("value", "low", "high"))
        away = (
            ""
            if point.difference is None
            else "{value:+.2f} ({low:+.2f} to {high:+.2f})".format(**point.difference)
        )
        table.add_row(
            mark + plain(point.name), f"{value:.2f} ({low:.2f}–{high:.2f})", away,
            f"{point.macs_ratio:.3f}x", f"{point.throughput_ratio:.2f}x ({point.throughput:,.0f}/s)",
            f"{point.latency_ratio:.2f}x ({point.p50_ms:.2f} ms)", f"{point.bytes / 1e6:.1f} MB",
        )  # fmt: skip
    return table
