"""The command ``check``: the tensor shapes of a program, for all sizes, before it runs."""

import json
import os
from typing import Annotated, Literal

import typer

from sparsam.cli.options import Debug, examples
from sparsam.cli.show import new_console
from sparsam.cli.working import working
from sparsam.errors import Usage

app = typer.Typer()


@app.command(
    "check",
    short_help="Tensor shapes of a program, for all sizes, before it runs.",
    help="Runs a PyTorch program on tensors without data, whose sizes are unknowns, along every path, in a process that can "
    "touch nothing: no training, no download, no file written. Says of the program that it is proved for all sizes, or for "
    "which sizes it fails and where, or what could not be known. Exit code 0 only if all is proved, 1 for an error, 3 where "
    "something is unknown.",
    epilog=examples(
        "sparsam check train.py",
        "sparsam check train.py --arg batch_size=1..512 --arg epochs=2",
        'sparsam check model.py:Net --arg "x=N×3×H×W" --arg H=32..512 --arg W=32..512',
        "sparsam check train.py --format sarif > shapes.sarif",
        "sparsam check --explain view-numel",
    ),
)
def _check(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="TARGET…", help="Script, package, notebook, or module:function."),
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(
            "--arg",
            metavar="NAME=VALUE",
            help="An option of the script or an argument of the function: a value, a range (1..512), a tensor (N×3×H×W:int64); "
            "or the range of a size.",
        ),
    ] = None,
    form: Annotated[
        Literal["text", "json", "sarif"], typer.Option("--format", help="Of the report, on standard output.")
    ] = "text",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    allow_unknown: Annotated[
        bool,
        typer.Option(
            "--allow-unknown", help="Exit code 0 where something is unknown and no error was found."
        ),
    ] = False,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="CODE", help="What a diagnostic means, and how to mend it."),
    ] = None,
    lsp: Annotated[
        bool,
        typer.Option(
            "--lsp",
            help="Serve an editor: the Language Server Protocol on standard input and output. What is checked with which "
            "arguments stands in the editor's settings.",
        ),
    ] = False,
    seconds: Annotated[
        float,
        typer.Option("--seconds", metavar="S", min=1, help="Time for one program; the rest is unknown."),
    ] = 60.0,
    paths: Annotated[
        int, typer.Option("--paths", metavar="N", min=1, help="Runs for one program; the rest is unknown.")
    ] = 400,
    memory: Annotated[
        int, typer.Option("--memory", metavar="MB", min=512, help="Memory for one program.")
    ] = 2048,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Also what was decided on the way to each finding.")
    ] = False,
    debug: Debug = False,
) -> int:
    from sparsam.shapes import show

    if as_json:
        form = "json"
    if explain is not None:
        print(show.explain(explain))
        return 0
    if lsp:
        if targets or arg:
            raise Usage(
                "with --lsp, what is checked stands in the editor's settings; give neither targets nor --arg.",
                code="lsp-target",
            )
        from sparsam.shapes import editor

        editor.serve(["--paths", str(paths), "--memory", str(memory)], seconds=seconds)
        return 0
    if not targets:
        raise Usage("nothing to check: name a script, as in sparsam check train.py.", code="missing-target")
    from sparsam.shapes.check import Limits, check

    limits = Limits(seconds=seconds, paths=paths, run_seconds=max(1.0, seconds / 2), bytes=memory << 20)
    worst = 0
    root = os.getcwd()
    documents = []
    with working(form != "text", debug, models=False) as shown:
        for target in targets:
            if len(targets) > 1:
                shown.say(f"checking {target}")
            report = check(target, arg or (), limits=limits)
            code = report.exit_code(allow_unknown=allow_unknown)
            worst = 1 if 1 in (worst, code) else max(worst, code)
            if form == "text":
                new_console().print(show.rich_text(report, root=root, verbose=verbose), soft_wrap=True)
            elif form == "json":
                documents.append(show.to_document(report, allow_unknown=allow_unknown))
            else:
                documents.append(show.to_sarif(report, root=root, allow_unknown=allow_unknown))
    if form == "json":
        print(json.dumps(documents[0] if len(documents) == 1 else documents, allow_nan=False))
    elif form == "sarif":
        whole = documents[0]
        whole["runs"] = [run for document in documents for run in document["runs"]]
        print(json.dumps(whole, allow_nan=False, indent=1))
    return worst
