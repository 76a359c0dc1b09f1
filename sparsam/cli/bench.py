"""The command ``bench``: checkpoints raced against other ways to serve the dense model they came from."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sparsam.cli.answers import answer
from sparsam.cli.options import Debug, Json, Label, Metric, SplitSeed, TaskName, Text, examples
from sparsam.cli.prepare import load_task
from sparsam.cli.recording import NoProvenance, Recorded
from sparsam.cli.show import new_console, new_table, plain
from sparsam.cli.working import working
from sparsam.errors import InputOutput

if TYPE_CHECKING:
    from rich.table import Table

    from sparsam.bench import Benchmark, BenchRow

app = typer.Typer()

BASELINES = {
    "eager-fp32": "transformers, float32, padded to the batch's longest, fused attention",
    "eager-bf16": "the same, bfloat16",
    "stock": "from_pretrained and pipeline, float32",
    "compile-bf16": "torch.compile, frozen bfloat16 weights, one graph for all lengths",
    "packed-fp32": "sparsam.freeze, float32",
    "packed-bf16": "sparsam.freeze, bfloat16",
    "onnxruntime-fp32": "ONNX Runtime, float32, fused graph",
    "onnxruntime-int8": "ONNX Runtime, dynamic int8, weights per channel",
    "openvino-fp32": "OpenVINO, float32",
    "openvino-bf16": "OpenVINO, bfloat16",
    "openvino-int8": "OpenVINO, int8 by NNCF, calibrated on 300 training rows",
}
"""As in sparsam.baselines.peers, which --help does not import; a test compares."""


@app.command(
    "bench",
    cls=Recorded,
    short_help="How fast a model is beside other runtimes.",
    help="Samples a second of checkpoints, reloaded and frozen, beside other ways to serve the dense model they came "
    "from: each in a process of its own, timed in turn, with and without tokenizing, in the order of the data and sorted by "
    "length. Every speed-up names its baseline. One that cannot run here, or wants an extra that is not installed, is left "
    "out by name.",
    epilog=examples(
        "sparsam bench runs/half --task nyu-mll/glue:sst2",
        "sparsam bench runs/half runs/third --task data/sst2 --baseline openvino-int8 \\",
        "    --baseline packed-bf16 --order arrival",
        "sparsam bench runs/half --task data/sst2 --batch 1 --rows 200 --out runs/half.bench.json",
    )
    + "\n\n\b\nBaselines, all of them the dense model:\n"
    + "\n".join(f"  {name:<17} {says}" for name, says in BASELINES.items()),
)
def _bench(
    models: Annotated[list[str], typer.Argument(metavar="DIR", help="Folders or hub ids.")],
    task: TaskName,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline", metavar="NAME", help="Race against this one, or several; all if not named."
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", metavar="N", min=1, help="Rows a batch; 1 gives latencies too.")
    ] = 32,
    order: Annotated[
        Literal["arrival", "sorted", "both"],
        typer.Option("--order", help="Of the rows: as they come, by length, or one after the other."),
    ] = "both",
    rows: Annotated[
        int | None, typer.Option("--rows", metavar="N", min=1, help="Only the first N rows.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="How often each is timed.")] = 7,
    split: Annotated[
        Literal["validation", "test", "train"], typer.Option("--split", help="Which rows.")
    ] = "validation",
    dense: Annotated[
        str | None,
        typer.Option(
            "--dense",
            metavar="DIR",
            help="Dense checkpoint for the baselines; found by what the model was saved with.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the JSON object there too, whole or not at all."),
    ] = None,
    split_seed: SplitSeed = 0,
    label: Label = None,
    text: Text = None,
    metric: Metric = None,
    as_json: Json = False,
    no_provenance: NoProvenance = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug) as show:
        _check_out(out)
        from sparsam.bench import bench

        data = load_task(show, task, label, text, metric, split_seed)
        found = bench(
            models, data, baselines=baseline, dense=dense, split=split, batch=batch, order=order, rows=rows,
            rounds=rounds, progress=show.progress,
        )  # fmt: skip
        if out is not None:
            found.save(out)
    show.note_all(found.warnings)
    if as_json:
        return answer(found.to_json())
    console = new_console()
    for one in dict.fromkeys(row.order for row in found.rows):
        console.print(_table(found, [row for row in found.rows if row.order == one]))
    for name, why in found.absent.items():
        console.print(f"Not timed: {plain(name)}: {plain(why)}.")
    reading = "Tokens" if found.kind == "text" else "Pixels"
    console.print(
        f"{reading} are given, or made while timed. Ratios are medians of {rounds} rounds, each process in turn on "
        f"{found.machine['threads']} threads; in brackets the least and the largest; ? marks those that lie too far apart. "
        f"Differences are to {plain(found.dense)} in eager-fp32, in points on the same rows, with 95 % interval."
    )
    if out is not None:
        console.print(f"Saved in {plain(out)}.")
    return 0


def speed_lines(found: "Benchmark") -> list[str]:
    """Of the fastest form of each order, a line for each baseline."""
    peers = {row.baseline for row in found.rows}
    reading = ("tokens", "tokenizing") if found.kind == "text" else ("pixels", "the image processor")
    lines = []
    for order in dict.fromkeys(row.order for row in found.rows):
        own = [row for row in found.rows if row.order == order and row.model not in peers]
        best = max(own, key=lambda row: (not row.tokenisation, row.samples_per_second)).model
        place = f"{own[0].rows:,} rows in {order} order, batches of {own[0].batch}"
        lines.append(f"Speed of {best}, reloaded, {found.machine['threads']} threads, {place}:")
        for baseline in dict.fromkeys(row.baseline for row in own):
            pair = [row for row in own if row.model == best and row.baseline == baseline]
            pair.sort(key=lambda row: row.tokenisation)
            said = [
                f"{_speed_up(row)} {f'with {reading[1]}' if row.tokenisation else f'{reading[0]} given'}"
                for row in pair
            ]
            lines.append(f"  {', '.join(said)}")
    return lines


def _check_out(out: Path | None) -> None:
    """Refuse before the race what could not be written after it."""
    if out is None:
        return
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if out.is_dir() or not (above.is_dir() and os.access(above, os.W_OK)):
        why = "it is a folder" if out.is_dir() else f"{above} is not a folder you may write to"
        raise InputOutput(f"--out {out} cannot be written: {why}. Name a file.", code="out-not-writable")


def _table(found: "Benchmark", rows: "Sequence[BenchRow]") -> "Table":
    """One order of the rows. Each speed-up has a line without and one with tokenizing; both name what it is over."""
    first = rows[0]
    table = new_table(
        f"{found.task}, {found.split}, {first.rows:,} rows in {first.order} order, batches of {first.batch}",
        "model", "tokens" if found.kind == "text" else "pixels", "speed-up over", "samples/s",
        *(("p50, p95 ms",) if first.batch == 1 else ()), found.metric, "difference",
    )  # fmt: skip
    for column in table.columns[1:-1]:
        column.no_wrap = True
    pairs: dict[tuple[str, str], list[BenchRow]] = {}
    for row in sorted(rows, key=lambda row: not row.tokenisation):  # a pipeline has no line without reading
        pairs.setdefault((row.model, row.baseline), []).insert(0, row)
    last = len(pairs) - 1
    for number, ((model, baseline), pair) in enumerate(pairs.items()):
        one = pair[0]
        new = number < last and list(pairs)[number + 1][1] == first.baseline != baseline
        table.add_row(
            plain(model), "\n".join("made" if row.tokenisation else "given" for row in pair),
            "\n".join(map(_speed_up, pair)), "\n".join(f"{row.samples_per_second:,.0f}" for row in pair),
            *(("\n".join(map(_latency, pair)),) if first.batch == 1 else ()), f"{100 * one.accuracy:.2f}",
            f"{one.accuracy_difference:+.2f}\n({one.interval[0]:+.2f} to {one.interval[1]:+.2f})",
            end_section=new,
        )  # fmt: skip
    return table


def _speed_up(row: "BenchRow") -> str:
    """How many times faster than what, the least and the largest round, and whether that is doubtful."""
    said = f"{row.ratio_to_baseline:.2f}x {plain(row.baseline)} ({row.low:.2f}–{row.high:.2f})"
    return said + (" ?" if row.doubtful else "")


def _latency(row: "BenchRow") -> str:
    return "–" if row.p50_ms is None or row.p95_ms is None else f"{row.p50_ms:.2f}, {row.p95_ms:.2f}"
