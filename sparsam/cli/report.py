"""The command ``report``: one self-contained page from runs."""

from pathlib import Path
from typing import Annotated

import typer

from sparsam.cli.answers import answer
from sparsam.cli.options import Debug, Json, examples
from sparsam.cli.recording import NoProvenance, Recorded
from sparsam.cli.show import plain
from sparsam.cli.working import working

app = typer.Typer()


@app.command(
    "report",
    cls=Recorded,
    short_help="One self-contained page from runs.",
    help="Write one self-contained HTML page: accuracy and cost, tokens kept layer by layer, speed where it was measured, "
    "sizes, machine, recipe and data. RUN is a folder that finetune or compress wrote, a folder that holds such folders, "
    "or the JSON file of a benchmark.",
    epilog=examples(
        "sparsam report runs/demo --out report.html",
        "sparsam report runs/dense runs/half bench.json --out report.html",
        "sparsam report runs/fashion-half --task data/fashion --out report.html",
    ),
)
def _report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Folders, and JSON files of benchmarks.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Page to write; an earlier report is replaced.")
    ] = Path("report.html"),
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            metavar="TASK",
            help="Data to draw example images from, for image models; not needed for the built-in digits.",
        ),
    ] = None,
    as_json: Json = False,
    no_provenance: NoProvenance = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug) as show:
        show.say(f"reading {', '.join(runs)}")
        from sparsam.report import write_report

        page = write_report(runs, out, task=task)
    if as_json:
        return answer({"report": str(page), "runs": runs})
    print(f"Report: {plain(page)}")
    return 0
