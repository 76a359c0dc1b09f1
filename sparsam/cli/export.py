"""The command ``export``: a checkpoint as a graph for ONNX Runtime or OpenVINO."""

from typing import Annotated, Literal

import typer

from sparsam.cli.answers import answer
from sparsam.cli.options import Debug, Json, ModelName, Out, examples
from sparsam.cli.prepare import check_out
from sparsam.cli.recording import NoProvenance, Recorded
from sparsam.cli.show import new_console, plain
from sparsam.cli.working import working

app = typer.Typer()


@app.command(
    "export",
    cls=Recorded,
    short_help="A model for ONNX Runtime or OpenVINO.",
    help="A checkpoint, dense or compressed, as a graph for another runtime, in float32 or bfloat16: any batch, any length, "
    "tokens removed inside the graph, products in integers where the model has them so. The folder holds the graph, the "
    "tokenizer or image processor, and a predict.py of ten lines that needs neither sparsam nor torch.",
    epilog=examples(
        "sparsam export runs/half --to onnx --out runs/half-onnx",
        "python runs/half-onnx/predict.py 'a gripping film'",
        "sparsam export runs/half --to openvino --out runs/half-openvino",
        "sparsam bench runs/half runs/half-onnx --task data/sst2",
    ),
)
def _export(
    model: ModelName,
    out: Out,
    to: Annotated[Literal["onnx", "openvino"], typer.Option("--to", help="For which runtime.")] = "onnx",
    precision: Annotated[
        Literal["f32", "bf16"],
        typer.Option(
            "--precision", help="What floats are worked in; bf16 for OpenVINO alone. Weights stay float32."
        ),
    ] = "f32",
    as_json: Json = False,
    no_provenance: NoProvenance = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug) as show:
        check_out(out, model)
        from sparsam.artifact import export

        show.say(f"writing {model} as a graph; this takes a minute")
        made = export(model, out, to=to, precision=precision)
    if as_json:
        facts = {"model": model, "folder": str(made.folder), "to": made.to, "bytes": made.bytes}
        return answer(facts | {"difference": made.difference, "notes": show.notes})
    new_console().print(
        f"Saved in {plain(made.folder)}: {made.bytes / 1e6:,.1f} MB, run here once; logits of random inputs differ from the "
        f"model's by at most {made.difference:.2g}. Try: python {plain(made.folder / 'predict.py')} …",
        soft_wrap=True,
    )
    return 0
