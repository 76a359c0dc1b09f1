"""The commands of provenance: ``track`` runs a program and records its files; the others ask what was recorded."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsam.cli.answers import answer
from sparsam.cli.lineage import PageOut, To, file_of, print_recipe, told
from sparsam.cli.options import Debug, Json, examples
from sparsam.cli.show import new_console, new_table, plain
from sparsam.cli.working import working

if TYPE_CHECKING:
    from sparsam.provenance.index import Recorded
    from sparsam.provenance.questions import RunFacts

app = typer.Typer()

Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        metavar="DIR",
        help="Where records are kept; by default .sparsam of the nearest folder upwards.",
    ),
]


@app.command(
    "track",
    short_help="Run a program and record which files it read and wrote.",
    help="Run a command; every program in it, whatever it starts, is recorded: files read and written, renames, pipes; of "
    "Python programs also objects in HDF5 files, settings and results they tell. The command's own exit code is given back.",
    epilog=examples(
        "sparsam track -- python train.py --epochs 3",
        "sparsam track --exclude '*.tmp' -- torchrun --nproc-per-node 2 train.py",
    ),
    context_settings={"ignore_unknown_options": True},
)
def _track(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="What to run.")],
    folder: Folder = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="Of the run; by default the time.")
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="PATTERN", help="Record these paths alone; may be repeated."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="PATTERN", help="Leave these paths out; may be repeated."),
    ] = None,
    off: Annotated[
        list[str] | None,
        typer.Option(
            "--off", metavar="CLASS", help="Leave out duration, call, directory, group, dataset, attribute, …"
        ),
    ] = None,
    every: Annotated[
        int,
        typer.Option(
            "--every",
            metavar="N",
            min=1,
            help="Of names that are opened often, record one open in N and count the others.",
        ),
    ] = 1,
    native: Annotated[
        bool | None,
        typer.Option(
            "--native/--no-native",
            help="Programs that are not Python, and C libraries, too; by default where a C compiler is there.",
            show_default=False,
        ),
    ] = None,
    hashes: Annotated[
        str, typer.Option("--hash", metavar="all|written|none", help="Whose content is hashed at the end.")
    ] = "all",
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="The summary as one JSON object on standard error; standard output is the command's.",
        ),
    ] = False,
    debug: Debug = False,
) -> int:
    from sparsam.errors import Usage
    from sparsam.provenance.tracked import track
    from sparsam.provenance.tracking import CLASSES, Selection

    if unknown := [x for x in off or () if x not in CLASSES]:
        raise Usage(f"--off {unknown[0]}: classes are {', '.join(CLASSES)}.", code="class-unknown")
    left_out = (*Selection().exclude, *(exclude or ()))
    chosen = Selection(frozenset(off or ()), tuple(include or ()), left_out, every=every)
    made = track(command, folder=folder, run=run, selection=chosen, hashes=hashes, native=native)
    found = made.found
    read, written = found.counts(made.run)
    import sys

    if as_json:
        facts = {
            "run": made.run, "folder": str(made.folder), "status": made.status, "programs": max(0, len(found.programs) - 1),
            "read": read, "written": written, "hashed": made.hashed, "lost": made.merged.lost,
            "unseen": [what for x in found.programs.values() for what in x.unseen],
            "damaged": [x.file for x in made.merged.damages],
        }  # fmt: skip
        print(json.dumps(facts), file=sys.stderr)
        return made.status
    lines = [
        f"run {made.run}: {max(0, len(found.programs) - 1)} programs, {read} files read, {written} written, "
        f"{made.hashed} hashed; sparsam lineage FILE tells where one came from"
    ]
    lines += [
        f"{x.facts.get('argv', ['?'])[0]}: {what}" for x in found.programs.values() for what in x.unseen
    ]
    lines += [f"damaged: {x.file}: {x.reason}" for x in made.merged.damages]
    if made.merged.lost:
        lines.append(f"{made.merged.lost} records could not be written")
    for line in lines:
        print(f"sparsam: {plain(line)}", file=sys.stderr)
    return made.status


@app.command(
    "lineage",
    short_help="Where a file came from.",
    help="Which files a file was made from, all the way, by which commands, and whether each is still as it was; of a "
    "checkpoint that sparsam wrote also which settings, decisions and calibration rows. FILE may be a checkpoint's folder.",
    epilog=examples(
        "sparsam lineage out/model.safetensors",
        "sparsam lineage out/model.safetensors --to html --out lineage.html",
        "sparsam lineage out/model.safetensors --json",
    ),
)
def _lineage(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file that a tracked program touched.")],
    to: To = "text",
    out: PageOut = None,
    folder: Folder = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    with ExitStack() as stack:
        with working(as_json, debug, models=False):
            from sparsam.provenance.questions import lineage

            found = stack.enter_context(_recorded(folder))
            steps = lineage(found, file_of(file))
        return told(found, steps, to, out, as_json, made_from=True)


@app.command(
    "impact",
    short_help="What depends on a file.",
    help="Which files were made from a file, all the way.",
    epilog=examples(
        "sparsam impact data/train.parquet", "sparsam impact data/train.parquet --to html --out impact.html"
    ),
)
def _impact(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file that a tracked program touched.")],
    to: To = "text",
    out: PageOut = None,
    folder: Folder = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    with ExitStack() as stack:
        with working(as_json, debug, models=False):
            from sparsam.provenance.questions import impact

            found = stack.enter_context(_recorded(folder))
            steps = impact(found, file_of(file))
        return told(found, steps, to, out, as_json, made_from=False)


@app.command(
    "verify",
    short_help="Is a file, and all it was made from, still as it was recorded?",
    help="Compare files, folders of files, and everything they were made from with what was recorded, and the records with "
    "their own sums. Exit code 3 if anything is not as it was.",
    epilog=examples("sparsam verify out/"),
)
def _verify(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files and folders.")],
    folder: Folder = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug, models=False):
        from sparsam.errors import InputOutput, Refused
        from sparsam.provenance.questions import verify

        if missing := [x for x in paths if not Path(x).exists()]:
            raise InputOutput(f"{missing[0]} is not there.", code="path-missing")
        with _recorded(folder, check=True) as found:
            findings = verify(found, paths)
    problem = (
        Refused(f"{len(findings)} things are not as they were recorded.", code="not-as-recorded")
        if findings
        else None
    )
    if as_json:
        return answer({"findings": [vars(x) for x in findings]}, problem)
    if not findings:
        print("All as recorded.")
        return 0
    table = new_table("not as recorded", "path", "what", "why")
    for one in findings:
        table.add_row(plain(one.path), plain(one.what), plain(one.detail))
    new_console().print(table)
    return 3


@app.command(
    "reproduce",
    short_help="How a file was made, and whether its inputs are still there.",
    help="Print the command that made a file, where it ran, the commit of its code, and the state of every input. Exit code 3 "
    "if an input is gone or changed.",
    epilog=examples("sparsam reproduce out/model.safetensors"),
)
def _reproduce(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file that a tracked program wrote.")],
    folder: Folder = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug, models=False):
        from sparsam.errors import Refused
        from sparsam.provenance.questions import reproduce

        with _recorded(folder) as found:
            made = reproduce(found, file_of(file))
    problem = None
    if made.missing:
        problem = Refused(
            f"{len(made.missing)} inputs are gone or changed: {', '.join(made.missing)}",
            code="inputs-changed",
        )
    if as_json:
        facts = {
            "command": list(made.command), "cwd": made.cwd, "environment": dict(made.environment), "code": dict(made.code),
            "inputs": [x.to_json() for x in made.inputs],
        }  # fmt: skip
        return answer(facts, problem)
    print_recipe(made)
    return 3 if problem else 0


@app.command(
    "runs",
    short_help="The runs that were recorded.",
    help="List recorded runs: when, how long, how many programs and files, their results and command.",
    epilog=examples("sparsam runs"),
)
def _runs(folder: Folder = None, as_json: Json = False, debug: Debug = False) -> int:
    with working(as_json, debug, models=False):
        from sparsam.provenance.questions import runs

        with _recorded(folder) as found:
            rows = runs(found)
    return _listed("runs", rows, as_json)


@app.command(
    "best",
    short_help="The recorded runs with the best result.",
    help="Runs that recorded a metric, the highest first, with their settings.",
    epilog=examples("sparsam best --metric accuracy", "sparsam best --metric loss --lowest --where rate=0.1"),
)
def _best(
    metric: Annotated[str, typer.Option("--metric", metavar="NAME", help="A number that runs recorded.")],
    lowest: Annotated[bool, typer.Option("--lowest", help="The lowest first.")] = False,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="SETTING=VALUE", help="Runs with it alone; may be repeated."),
    ] = None,
    folder: Folder = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug, models=False):
        from sparsam.errors import Usage
        from sparsam.provenance.questions import best

        if wrong := [x for x in where or () if "=" not in x]:
            raise Usage(f"--where wants SETTING=VALUE; got {wrong[0]!r}.", code="usage")
        asked = dict(x.split("=", 1) for x in where or ())
        with _recorded(folder) as found:
            rows = best(found, metric, lowest=lowest, where=asked)
    return _listed(f"runs by {metric}", rows, as_json, settings=True)


@app.command(
    "diff",
    short_help="In what two recorded runs differ.",
    help="Settings, results, command and inputs in which two runs differ; inputs by content where it was hashed.",
    epilog=examples("sparsam diff FIRST SECOND"),
)
def _diff(
    first: Annotated[str, typer.Argument(metavar="RUN_A", help="As sparsam runs lists it.")],
    second: Annotated[str, typer.Argument(metavar="RUN_B", help="The other.")],
    folder: Folder = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug, models=False):
        from sparsam.provenance.questions import diff

        with _recorded(folder) as found:
            rows = diff(found, first, second)
    if as_json:
        return answer({"differences": [vars(x) for x in rows]})
    table = new_table("differences", "what", "name", first, second)
    for x in rows:
        table.add_row(plain(x.what), plain(x.name), plain(_short(x.first)), plain(_short(x.second)))
    new_console().print(table)
    return 0


@app.command(
    "io-profile",
    short_help="What a recorded run did to which file, and what took longest.",
    help="Calls of a run on files and on objects in them: how often, bytes, seconds; the longest first.",
    epilog=examples("sparsam io-profile RUN"),
)
def _io_profile(
    run: Annotated[str, typer.Argument(metavar="RUN", help="As sparsam runs lists it.")],
    folder: Folder = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug, models=False):
        from sparsam.provenance.questions import bottleneck, io_profile

        with _recorded(folder) as found:
            rows = io_profile(found, run)
    if as_json:
        return answer({"calls": [vars(x) for x in rows], "bottleneck": bottleneck(rows)})
    table = new_table(f"calls of {run}", "call", "on", "count", "MB", "seconds", "MB/s", "failed")
    for x in rows:
        rate = x.megabytes_per_second
        table.add_row(
            x.call, plain(x.path if x.kind == "file" else f"{x.kind} {x.path}"), f"{x.count:,}", f"{x.bytes / 1e6:.3f}",
            f"{x.seconds:.4f}", "" if rate is None else f"{rate:.0f}", str(x.failed or ""),
        )  # fmt: skip
    console = new_console()
    console.print(table)
    console.print(plain(bottleneck(rows)))
    return 0


@app.command(
    "query",
    short_help="Ask everything that was recorded, in SPARQL.",
    help="A question in SPARQL 1.1 to everything recorded; prov:, io:, xsd: and rdfs: are declared. SERVICE, LOAD, FROM and "
    "changes are refused. With --show, the SPARQL of a question that is a command: lineage=FILE, impact=FILE, best=METRIC, "
    "io-profile=RUN.",
    epilog=examples(
        "sparsam query 'SELECT ?path WHERE { ?file a io:File ; io:path ?path }'",
        "sparsam query --show lineage=out/model.safetensors",
    ),
)
def _query(
    text: Annotated[str | None, typer.Argument(metavar="[SPARQL]", help="The question.")] = None,
    show: Annotated[
        str | None, typer.Option("--show", metavar="QUESTION=VALUE", help="Print its SPARQL instead.")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", metavar="X", help="How long it may take.")] = 30.0,
    rows: Annotated[int, typer.Option("--rows", metavar="N", help="How many rows are given at most.")] = 1000,
    server: Annotated[
        str | None,
        typer.Option(
            "--server", metavar="URL", help="Ask this server of SPARQL 1.1 (its address for queries) instead."
        ),
    ] = None,
    folder: Folder = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    with working(as_json, debug, models=False) as shown:
        from sparsam.errors import Usage
        from sparsam.provenance import store

        if (text is None) == (show is None):
            raise Usage("give a question in SPARQL, or --show QUESTION=VALUE.", code="usage")
        if show is not None:
            question, _, value = show.partition("=")
            key = {"lineage": "id", "impact": "id", "best": "metric", "io-profile": "run"}.get(question, "")
            if key == "id":
                from sparsam.provenance.questions import entity_at

                with _recorded(folder) as recorded:
                    value = entity_at(recorded, value).id
            made = store.sparql_of(question, **{key: value})
            print(json.dumps({"sparql": made}) if as_json else made)
            return 0
        if server is None:
            found = store.query(str(text), folder, seconds=seconds, rows=rows)
        else:
            from sparsam.provenance import server as servers

            found = servers.query(server, str(text), seconds=seconds, rows=rows)
        if found.more:
            shown.note(f"there are more than {rows} rows")
    if as_json:
        return answer({"columns": found.columns, "rows": found.rows, "more": found.more})
    table = new_table("", *found.columns)
    for row in found.rows:
        table.add_row(*("" if x is None else plain(str(x)) for x in row))
    new_console().print(table)
    return 0


def _listed(title: str, rows: "Sequence[RunFacts]", as_json: bool, settings: bool = False) -> int:
    if as_json:
        return answer({"runs": [vars(x) for x in rows]})
    table = new_table(
        title, "run", "began (UTC)", "seconds", "programs", "read", "written", "results", "command"
    )
    for x in rows:
        told = [f"{key} {_short(value)}" for key, value in x.metrics.items()]
        told += [f"{key}={_short(value)}" for key, value in x.configuration.items()] if settings else []
        seconds = "" if x.ended is None else f"{(x.ended - x.began) / 1e9:.1f}"
        table.add_row(
            plain(x.name), _time(x.began), seconds, str(x.programs), str(x.read), str(x.written), plain(", ".join(told)),
            plain(" ".join(x.command)),
        )  # fmt: skip
    new_console().print(table)
    return 0


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return (
        " ".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)
    )


@contextmanager
def _recorded(folder: Path | None, *, check: bool = False) -> "Iterator[Recorded]":
    import sqlite3

    from sparsam.errors import InputOutput
    from sparsam.provenance.index import Index, indexed

    found = indexed(folder, check=check)
    try:
        yield found
    except sqlite3.DatabaseError as error:
        raise InputOutput(
            f"the index of what was recorded is damaged ({error}). Remove .sparsam/index; it is made anew from the logs.",
            code="index-damaged",
        ) from error
    finally:
        if isinstance(found, Index):
            found.close()


def _time(nanoseconds: int) -> str:
    return f"{datetime.fromtimestamp(nanoseconds / 1e9, UTC):%Y-%m-%d %H:%M:%S}"
