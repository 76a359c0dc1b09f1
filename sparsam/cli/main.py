"""The program: its commands in the order of the help, and how each ending becomes a message and an exit code."""

import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from sparsam.cli import (
    bench,
    check,
    compress,
    debug,
    demo,
    evaluate,
    exchange,
    export,
    finetune,
    inspect,
    pareto,
    quantize,
    report,
    simulate,
    trace,
    track,
)
from sparsam.cli.options import examples
from sparsam.cli.recording import remember
from sparsam.cli.show import plain
from sparsam.cli.working import Interrupted
from sparsam.errors import InputOutput, SparsamError, Usage

app = typer.Typer(
    name="sparsam",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for command in (
    finetune,
    compress,
    quantize,
    pareto,
    evaluate,
    debug,
    bench,
    export,
    inspect,
    trace,
    simulate,
    report,
    check,
    track,
    exchange,
    demo,
):
    app.add_typer(command.app)


def _version(wanted: bool) -> None:
    if wanted:
        from sparsam import __version__

        print(f"sparsam {__version__}")
        raise typer.Exit


@app.callback(
    help="The same answers for less work: transformers made really smaller and faster, saved as ordinary checkpoints.",
    epilog=examples(
        "sparsam demo",
        "sparsam inspect google-bert/bert-base-uncased",
        "sparsam finetune google-bert/bert-base-uncased --task nyu-mll/glue:sst2 --out runs/dense",
        "sparsam compress runs/dense --task nyu-mll/glue:sst2 --budget macs=0.5x --out runs/half",
        "sparsam quantize --list",
        "sparsam pareto runs/dense --task nyu-mll/glue:sst2 --out runs/front",
        "sparsam evaluate runs/half --task nyu-mll/glue:sst2 --baseline runs/dense",
        "sparsam debug runs/half --task nyu-mll/glue:sst2",
        "sparsam bench runs/half --task nyu-mll/glue:sst2",
        "sparsam export runs/half --to onnx --out runs/half-onnx",
        "sparsam trace runs/half --task nyu-mll/glue:sst2 --out traces/half",
        "sparsam simulate traces/half --on tensordash,griffin --out silicon",
        "sparsam report runs/half --out report.html",
        "sparsam track -- python train.py",
        "sparsam lineage runs/half/model.safetensors",
    )
    + "\n\n\b\nExit codes: 0 done, 1 fault of sparsam, 2 usage, 3 refused, 4 budget missed,\n"
    "5 input or output, 130 interrupted.",
)
def _sparsam(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(Usage.exit_code)


#: Base of typer's usage errors; its module moved when typer stopped depending on click.
_TyperUsage: Any = typer.BadParameter.__bases__[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. ``arguments`` are the process's own if absent."""
    # torch reads this at its first allocation: huge pages for large tensors. Training spends 6 % less time (fresh gradients of
    # an embedding table are 12,000 small pages otherwise).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    as_json, debug = "--json" in arguments, "--debug" in arguments
    remember(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="replace"
            )  # a terminal that cannot show a character shows a question mark
    try:
        return int(app(arguments, prog_name="sparsam", standalone_mode=False) or 0)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        code, text, exit_code = _explained(error)
        if debug and exit_code != _TyperUsage.exit_code:
            traceback.print_exception(error, file=sys.stderr)
        if as_json:
            print(json.dumps({"error": {"code": code, "message": text}}))
        print(f"error [{plain(code)}]: {plain(text)}", file=sys.stderr)
        if exit_code == 1 and not debug:
            print("run with --debug for the traceback", file=sys.stderr)
        return exit_code


def _explained(error: Any) -> tuple[str, str, int]:
    """Code, text and exit code of what ended a command."""
    if isinstance(error, SparsamError):
        return error.code, str(error), error.exit_code
    if isinstance(error, Interrupted):
        return "interrupted", str(error), 130
    if isinstance(error, _TyperUsage):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "sparsam"
        return "usage", f"{error.format_message()} See {command} --help.", Usage.exit_code
    if isinstance(error, OSError):
        return "input-output", str(error) or type(error).__name__, InputOutput.exit_code
    return "fault", f"{type(error).__name__}: {error}", 1
