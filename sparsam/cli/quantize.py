"""The command ``quantize``: one scheme on a model's weights, or the list of all schemes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sparsam.cli.answers import answer, cut_note, difference_line, score_table
from sparsam.cli.debug import short_error
from sparsam.cli.options import (
    Debug,
    Json,
    Label,
    Metric,
    NoTruncate,
    Seed,
    SplitSeed,
    Text,
    TrainRows,
    examples,
)
from sparsam.cli.prepare import check_out, load_task
from sparsam.cli.recording import NoProvenance, Recorded
from sparsam.cli.show import new_console, new_table, plain
from sparsam.cli.working import working
from sparsam.errors import Usage

if TYPE_CHECKING:
    from rich.table import Table

    from sparsam.compress import Quantized
    from sparsam.compress.debug import Debugged

app = typer.Typer()


@app.command(
    "quantize",
    cls=Recorded,
    short_help="A model's weights in few bits, by one of many schemes.",
    help="Put the weights of a model's products in few bits by one scheme, save, reload, and say what it does: the error of "
    "every layer, how many answers stay the same, the size saved and packed, and whether it runs in integers here or is "
    "simulated. --list names the schemes, with their papers and what each is good for.",
    epilog=examples(
        "sparsam quantize --list",
        "sparsam quantize runs/dense --task nyu-mll/glue:sst2 --scheme gptq --bits 4 --out runs/gptq4",
        "sparsam quantize runs/dense --task data/sst2 --scheme uniform --bits 8 --inputs tensor --out runs/w8a8",
        "sparsam quantize runs/dense --task data/sst2 --scheme normal-float --bits 4 --group 64 --out runs/nf4 --json",
    ),
)
def _quantize(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Folder or hub id.")] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            metavar="TASK",
            help="Hub data set (owner/name[:config]), folder, file (parquet, csv, jsonl), or digits.",
        ),
    ] = None,
    scheme: Annotated[
        str | None, typer.Option("--scheme", metavar="SCHEME", help="One of those that --list names.")
    ] = None,
    bits: Annotated[
        int | None, typer.Option("--bits", metavar="N", help="Of the weights; which ones, the scheme says.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to write, whole or not at all.")
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Show all schemes: papers, bits, what each is good for.")
    ] = False,
    group: Annotated[
        int | None,
        typer.Option(
            "--group",
            metavar="N",
            help="Inputs that share a scale, such as 32, 64 or 128; the scheme's own if not given.",
        ),
    ] = None,
    inputs: Annotated[
        Literal["none", "token", "tensor"] | None,
        typer.Option(
            "--inputs",
            help="Of products in integers: 8 bits on a grid of their own token by token, or on one that calibration gave. none "
            "leaves them, and multiplies in floating point. Not given: token where the scheme gives integers, else none.",
        ),
    ] = None,
    range_: Annotated[
        Literal["minmax", "ema", "percentile", "mse", "kl", "aciq"] | None,
        typer.Option(
            "--range",
            help="Where the calibrated grid of inputs ends; mse if not given, for ibert percentile.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", metavar="N", min=1, help="Calibration rows; 512, or all, if not given."),
    ] = None,
    correct: Annotated[
        bool, typer.Option("--correct", help="Move the weights' mean error into the biases.")
    ] = False,
    embeddings: Annotated[
        Literal["8", "none"],
        typer.Option("--embeddings", help="Bits of the words' embeddings, where products are in integers."),
    ] = "none",
    rows: Annotated[
        int,
        typer.Option(
            "--rows", metavar="N", min=1, help="Rows on which errors are looked at, without labels."
        ),
    ] = 256,
    seed: Seed = 0,
    split_seed: SplitSeed = 0,
    label: Label = None,
    text: Text = None,
    metric: Metric = None,
    train_rows: TrainRows = None,
    no_truncate: NoTruncate = False,
    as_json: Json = False,
    no_provenance: NoProvenance = False,
    debug: Debug = False,
) -> int:
    if list_:
        return _list(as_json)
    with working(as_json, debug) as show:
        if model is None or task is None or scheme is None or bits is None or out is None:
            given = {"MODEL": model, "--task": task, "--scheme": scheme, "--bits": bits, "--out": out}
            missing = ", ".join(name for name, value in given.items() if value is None)
            raise Usage(
                f"{missing} is missing. sparsam quantize MODEL --task TASK --scheme SCHEME --bits N --out DIR; "
                "sparsam quantize --list names the schemes.",
                code="usage",
            )
        from sparsam.compress.quantize_run import Asked
        from sparsam.quantization.schemes import scheme_named

        options = {
            "group": group, "inputs": inputs, "range": range_, "samples": samples, "correct": correct,
            "embeddings": embeddings, "seed": seed,
        }  # fmt: skip
        asked = Asked(scheme_named(scheme), bits, **options)  # type: ignore[arg-type]  # refuses before any work
        check_out(out, model)
        from sparsam.compress import quantize_model

        data = load_task(show, task, label, text, metric, split_seed, seed=seed, train_rows=train_rows)
        how = "in integers" if asked.runs_in_integers else "simulated"
        show.say(f"quantizing {model} with {scheme} to {bits} bits, {how}")
        made = quantize_model(
            model, data, out=out, scheme=asked.scheme, bits=bits, rows=rows, truncate=not no_truncate,
            progress=show.progress, **options,
        )  # fmt: skip
        show.note_all([*made.notes, cut_note(made.quantized)])
    if as_json:
        return answer(made.to_json() | {"task": data.name, "notes": show.notes})
    console = new_console()
    if made.errors is not None:
        console.print(
            _errors(
                made.errors,
                f"{scheme}, {bits} bits, beside {model}: {made.errors.rows:,} rows of {data.name}",
            )
        )
    console.print(
        score_table(
            f"{data.name}, {made.quantized.split}",
            {"dense": (made.dense, made.dense_bytes), str(out): (made.quantized, made.saved_bytes)},
        )
    )
    for line in (difference_line(made.difference), *_lines(made)):
        console.print(plain(line), soft_wrap=True)
    return 0


def _lines(made: "Quantized") -> list[str]:
    """What came out of it, in sentences."""
    lines = [made.said, made.size, *([] if made.beside_uniform is None else [made.beside_uniform])]
    if made.samples:
        lines.append(
            f"Calibrated on {made.samples:,} rows of the training split; their labels were not read."
        )
    found = made.errors
    if found is not None:
        loudest = found.loudest
        lines.insert(
            0,
            f"{100 * found.agreement:.2f} % of {found.rows:,} answers are the dense model's. The largest error of its own has "
            f"{loudest.name}: {short_error(loudest.own)}.",
        )
    else:
        lines.append(
            "Layers are not compared: the answers of a regression are numbers, which neither agree nor differ."
        )
    return [*lines, f"Saved in {made.folder}; what stands here was measured after reload."]


def _errors(found: "Debugged", title: str) -> "Table":
    """One line a layer: its own error, the error piled up behind it, its products."""
    table = new_table(
        title,
        "up to",
        "own error, dB",
        "largest",
        "piled up, dB",
        "largest",
        "answers that agree",
        "qkv",
        "o",
        "up",
        "down",
    )
    for stage in found.stages:
        own, piled = (
            ("none", "") if error.sqnr is None else (f"{error.sqnr:.1f}", f"{error.largest:.3g}")
            for error in (stage.own, stage.piled_up)
        )
        products = {
            one.product: "none" if one.error.sqnr is None else f"{one.error.sqnr:.1f}"
            for one in stage.products
        }
        table.add_row(
            stage.name, *own, *piled, f"{100 * stage.agreement:.2f} %",
            *(products.get(name, "") for name in ("qkv", "o", "up", "down")),
        )  # fmt: skip
    return table


def _list(as_json: bool) -> int:
    """Print all schemes."""
    from sparsam.quantization.schemes import SCHEMES, spans

    if as_json:
        return answer({"schemes": [scheme.to_json() for scheme in SCHEMES.values()]})
    table = new_table(
        "Schemes",
        "scheme",
        "what it is",
        "paper",
        "good for",
        "bits",
        "calibration rows",
        "group",
        "runs here as",
    )
    table.columns[0].no_wrap = True
    for scheme in SCHEMES.values():
        group = "" if not scheme.groups else "optional" if scheme.group is None else str(scheme.group)
        table.add_row(
            scheme.name, scheme.title, scheme.paper, scheme.good_for, spans(scheme.bits),
            "yes" if scheme.calibrated else "no", group, scheme.runs,
        )  # fmt: skip
    console = new_console()
    console.print(table)
    console.print(
        "Runs as int8: integers of at most 8 bits and one scale an output, multiplied by the int8 runtime, inputs in 8 bits. "
        "Simulated: multiplied in floating point; accuracy and packed size are real, nothing is faster."
    )
    return 0
