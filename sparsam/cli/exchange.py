"""``sparsam provenance``: what was recorded goes out to other systems and theirs comes in; documents of PROV are checked."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsam.cli.answers import answer
from sparsam.cli.options import Debug, Json, examples
from sparsam.cli.show import plain
from sparsam.cli.track import Folder, _recorded

if TYPE_CHECKING:
    from sparsam.provenance.graph import History

app = typer.Typer()


@app.command(
    "provenance",
    short_help="Export what was recorded, import other systems' records, check documents of PROV.",
    help="export writes the whole graph, or with --imported one import alone; import reads PROV-IO's Turtle, ProvLake's logs "
    "and PROV in RDF or JSON into it; validate checks PROV-XML, PROV-JSON and PROV-O against W3C PROV-CONSTRAINTS, exit code 3 "
    "if a document is not valid; load puts the graph into a server of SPARQL 1.1.",
    epilog=examples(
        "sparsam provenance export --to turtle --out provenance.ttl",
        "sparsam provenance export --to ro-crate --out ro-crate-metadata.json",
        "sparsam provenance import prov.ttl provlake.log",
        "sparsam provenance validate provenance.ttl",
        "sparsam provenance load --server http://localhost:7878/store",
    ),
)
def _provenance(
    what: Annotated[str, typer.Argument(metavar="export|import|validate|load", help="What to do.")],
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE...]", help="To import, or to check.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="turtle, ntriples, jsonld, prov-json, prov-jsonld, ro-crate, or prov-io (Turtle in PROV-IO's own words).",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="By default standard output.")
    ] = None,
    imported: Annotated[
        str | None, typer.Option("--imported", metavar="NAME", help="Export this import alone, as it came.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", metavar="KIND", help="What the files are; by default by name and content."),
    ] = None,
    toolbox: Annotated[
        bool, typer.Option("--toolbox", help="Check as ProvToolbox does where it differs from the standard.")
    ] = False,
    server: Annotated[
        str | None, typer.Option("--server", metavar="URL", help="The server's address for graphs.")
    ] = None,
    graph: Annotated[
        str | None, typer.Option("--graph", metavar="IRI", help="Into this graph; else the default graph.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Empty that graph first.")] = False,
    folder: Folder = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    from sparsam.errors import Usage

    given = {
        "--to": to, "--out": out, "--imported": imported, "--kind": kind, "--toolbox": toolbox or None, "--server": server,
        "--graph": graph, "--replace": replace or None, "FILE": files,
    }  # fmt: skip
    takes = {
        "export": {"--to", "--out", "--imported"}, "import": {"FILE", "--kind"}, "validate": {"FILE", "--kind", "--toolbox"},
        "load": {"--server", "--graph", "--replace"},
    }  # fmt: skip
    if what not in takes:
        raise Usage(f"sparsam provenance does {', '.join(takes)}; got {what!r}.", code="usage")
    if wrong := [key for key, value in given.items() if value and key not in takes[what]]:
        raise Usage(f"sparsam provenance {what} takes no {wrong[0]}.", code="usage")
    if "FILE" in takes[what] and not files:
        raise Usage(f"sparsam provenance {what} wants at least one FILE.", code="usage")
    if what == "export":
        return _export(to, out, imported, folder, as_json)
    if what == "import":
        return _import(files or [], kind, folder, as_json)
    if what == "validate":
        return _validate(files or [], kind, toolbox, as_json)
    return _load(server, graph, replace, folder, as_json)


def _export(
    to: str | None, out: Path | None, imported: str | None, folder: Path | None, as_json: bool
) -> int:
    from sparsam.errors import Usage
    from sparsam.provenance.rdf import FORMATS, write

    if to is None:
        raise Usage(f"sparsam provenance export wants --to: {', '.join(FORMATS)}.", code="usage")
    if as_json and out is None:
        raise Usage("--json says what was written into a file: give --out FILE.", code="usage")
    with _recorded(folder) if imported is None else nullcontext(_alone(imported, folder)) as found:
        made = write(found, to)
    if out is None:
        sys.stdout.buffer.write(made + b"\n")
    else:
        out.write_bytes(made)
        if as_json:
            return answer({"to": to, "out": str(out), "bytes": len(made)})
    return 0


def _alone(name: str, folder: Path | None) -> "History":
    """An import's own statements; where it had none in RDF, what was made of it."""
    from sparsam.provenance.adapters import imported
    from sparsam.provenance.graph import History

    found = imported.one(name, folder).history
    return History(foreign=found.foreign) if found.foreign else found


def _import(files: list[Path], kind: str | None, folder: Path | None, as_json: bool) -> int:
    from sparsam.provenance.adapters import imported

    told: list[dict[str, Any]] = []
    for file in files:
        one = imported.keep(file, folder, kind)
        found = one.history
        told.append(
            {
                "name": one.name, "kind": one.kind, "programs": len(found.programs), "entities": len(found.entities),
                "calls": sum(x.count for x in found.calls.values()), "statements": len(found.foreign), "joined": one.joined,
                "damages": [{"at": x.offset, "why": x.reason, "bytes": x.left} for x in found.damages],
            }
        )  # fmt: skip
    if as_json:
        return answer({"imported": told})
    for fact in told:
        damages = fact.pop("damages")
        print(
            plain(
                ", ".join(
                    f"{value} {key}" if key not in ("name", "kind") else f"{value}"
                    for key, value in fact.items()
                )
            )
        )
        for damage in damages:
            print(plain(f"  damaged at byte {damage['at']}, {damage['bytes']} bytes: {damage['why']}"))
    return 0


def _validate(files: list[Path], kind: str | None, toolbox: bool, as_json: bool) -> int:
    from sparsam.errors import Refused
    from sparsam.provenance.constraints import check_file

    told: list[dict[str, Any]] = []
    wrong = []
    for file in files:
        report = check_file(file, kind, toolbox=toolbox)
        findings = [str(x) for x in report.findings]
        wrong += [str(file)] if findings else []
        told.append(
            {"file": str(file), "valid": report.valid, "statements": report.statements, "findings": findings}
        )
    problem = Refused(f"not valid: {', '.join(wrong)}.", code="document-not-valid") if wrong else None
    if as_json:
        return answer({"documents": told}, problem)
    for one in told:
        print(
            plain(
                f"{one['file']}: {'valid' if one['valid'] else 'not valid'}, {one['statements']} statements"
            )
        )
        for text in one["findings"]:
            print(plain(f"  {text}"))
    return problem.exit_code if problem else 0


def _load(server: str | None, graph: str | None, replace: bool, folder: Path | None, as_json: bool) -> int:
    from sparsam.errors import Usage
    from sparsam.provenance.server import load

    if server is None:
        raise Usage("sparsam provenance load wants --server URL.", code="usage")
    with _recorded(folder) as found:
        sent = load(found, server, graph=graph, replace=replace)
    if as_json:
        return answer({"statements": sent})
    print(f"{sent:,} statements sent")
    return 0
