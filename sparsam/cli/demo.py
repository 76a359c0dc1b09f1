"""The command ``demo``: the main road on built-in digits."""

from pathlib import Path
from typing import Annotated

import typer

from sparsam.cli.answers import answer_compressed
from sparsam.cli.bench import speed_lines
from sparsam.cli.options import Debug, Json, examples
from sparsam.cli.prepare import check_out
from sparsam.cli.recording import NoProvenance, Recorded
from sparsam.cli.working import working

app = typer.Typer()


@app.command(
    "demo",
    cls=Recorded,
    short_help="Train, compress and compare on built-in digits.",
    help="Train a small ViT on scikit-learn's handwritten digits, learn which patches it can do without, save it, "
    "reload it, compare, race it against the dense one, and write a report. Needs no network and no files; a few "
    "minutes on two cores.",
    epilog=examples("sparsam demo", "sparsam demo --out /tmp/digits --json"),
)
def _demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of both checkpoints and of report.html.")
    ] = Path("runs/demo"),
    as_json: Json = False,
    no_provenance: NoProvenance = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug, out / "dense", out / "compressed") as show:
        for folder in (out / "dense", out / "compressed"):
            check_out(folder)
        from sparsam.demo import check_demo, race_demo, report_demo, run_demo

        check_demo(out)
        made = run_demo(out, show.progress, show.say)
        show.say("Both are raced, each in a process of its own.")
        raced = race_demo(out, show.progress)
        show.note_all(raced.warnings)
        page = report_demo(out, [raced.to_json()])
    more = {"report": str(page), "speed": raced.to_json()}
    return answer_compressed(show, made, "digits", as_json, more, [*speed_lines(raced), f"Report: {page}"])
