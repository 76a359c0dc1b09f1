"""How ``lineage`` and ``impact`` answer: tables, the page, the picture, or JSON; and a recipe in words."""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sparsam.cli.answers import answer
from sparsam.cli.folders import MOST_ROWS, by_folder
from sparsam.cli.show import new_console, new_table, plain

if TYPE_CHECKING:
    from sparsam.provenance.index import Recorded
    from sparsam.provenance.questions import Recipe, Step

To = Annotated[
    Literal["text", "html", "svg", "json"],
    typer.Option("--to", help="Tables; a page of the graph to look around in; its picture; or all facts."),
]
PageOut = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write there; by default standard output.")
]
_COLUMNS = ("heads", "filters", "qkv", "o", "up", "down", "tokens")


def file_of(name: str) -> str:
    """Of a checkpoint's folder its weights, of an export's its graph; anything else as it is."""
    inside = [Path(name) / x for x in ("model.safetensors", "model.onnx", "model.xml", "openvino_model.xml")]
    return next((str(x) for x in inside if x.is_file()), name)


def told(
    found: "Recorded", steps: "Sequence[Step]", to: str, out: Path | None, as_json: bool, *, made_from: bool
) -> int:
    """Print or write an answer. Returns the exit code."""
    if to == "text" and out is None:
        if as_json:
            return answer(_facts(steps))
        return _tables(steps, made_from)
    text = _text(found, steps, to, made_from)
    if out is None:
        print(text, end="")
        return 0
    out.write_text(text, encoding="utf-8")
    if as_json:
        return answer({"to": to, "out": str(out), "steps": len(steps)})
    print(f"{to} written: {plain(out)}")
    return 0


def _facts(steps: "Sequence[Step]") -> dict[str, Any]:
    from sparsam.report.lineage import lineage_json

    return lineage_json(steps)


def _text(found: "Recorded", steps: "Sequence[Step]", to: str, made_from: bool) -> str:
    import json

    from sparsam.report.lineage import lineage_page, lineage_svg

    if to == "html":
        return lineage_page(found, steps, made_from=made_from)
    if to == "svg":
        return lineage_svg(found, steps, made_from=made_from)
    if to == "json":
        return json.dumps(_facts(steps), indent=1) + "\n"
    from io import StringIO

    from rich.console import Console

    stream = StringIO()
    console = Console(file=stream, markup=False, emoji=False, highlight=False, width=160)
    _print(console, steps, made_from)
    return stream.getvalue()


def _tables(steps: "Sequence[Step]", made_from: bool) -> int:
    _print(new_console(), steps, made_from)
    return 0


def _print(console: Any, steps: "Sequence[Step]", made_from: bool) -> None:
    from sparsam.provenance.questions import intermediate

    passing = intermediate(steps) if made_from else set()
    title = "made from" if made_from else "what was made from it"
    table = new_table(
        f"{steps[0].entity.names[-1]}: {title}", "file", "generation", "size", "SHA-256", "now", "by"
    )
    shown = [x for x in steps if x.entity.id not in passing]
    for x in shown if len(shown) <= MOST_ROWS else shown[: MOST_ROWS // 2]:
        one, by = x.entity, x.program
        command = "" if by is None else " ".join(str(word) for word in by.facts.get("argv", ()))
        table.add_row(
            plain(one.names[-1]), str(one.generation), "" if one.size is None else f"{one.size:,}", (one.sha256 or "")[:12],
            x.state + (", written unseen" if one.outside else ""), plain(command),
        )  # fmt: skip
    console.print(table)
    if len(shown) > MOST_ROWS:
        console.print(by_folder(shown[MOST_ROWS // 2 :]))
    if passing:
        console.print(
            f"{len(passing)} generations that a program wrote, used alone and wrote over are left out (--json has all)."
        )
    if made_from and (steps[0].account is not None or steps[0].program is not None):
        _print_making(console, steps[0])


def _print_making(console: Any, step: "Step") -> None:
    """Settings, decisions, results, code and machine of one file."""
    table = new_table("how it was made", "what", "")
    told, by = step.account, step.program
    if told is not None:
        for name, value in told.configuration.items():
            table.add_row(plain(name), plain(f"{value:.6g}" if isinstance(value, float) else value))
        for name, one in told.calibrations.items():
            digest = f"; SHA-256 of their numbers {one.sha256}" if one.sha256 else ""
            table.add_row(plain(f"calibration, {name}"), plain(f"{one.rows:,} rows of {one.split}{digest}"))
        for name, value in told.metrics.items():
            table.add_row(
                plain(f"result: {name}"), f"{value:.6g}" if isinstance(value, float) else plain(value)
            )
    for name, value in () if by is None else _of_program(by):
        table.add_row(plain(name), plain(value))
    if table.row_count:
        console.print(table)
    if told is not None and told.decisions:
        _print_decisions(console, told.decisions)


def _of_program(by: Any) -> list[tuple[str, str]]:
    code = by.facts.get("code") or {}
    rows = []
    if code.get("commit"):
        rows.append(
            ("code", f"{code['commit']}{' and changes that were not committed' * bool(code.get('changed'))}")
        )
    for key, name in (("versions", "versions"), ("machine", "machine")):
        if isinstance(by.facts.get(key), dict):
            rows.append((name, ", ".join(f"{a} {b}" for a, b in by.facts[key].items())))
    return [*rows, ("host", by.writer.host), ("user", str(by.facts.get("user", "")))]


def _print_decisions(console: Any, decisions: Sequence[Any]) -> None:
    """One line a layer where names say so, one a decision elsewhere."""
    rows: dict[str, dict[str, str]] = {}
    for one in decisions:
        match = re.fullmatch(r"(layer \d+) (\w+).*", one.name)
        layer, column = match.groups() if match and match[2] in _COLUMNS else (one.name, "")
        rows.setdefault(layer, {})[column] = _decided(one)
    columns = [x for x in ("", *_COLUMNS) if any(x in row for row in rows.values())]
    table = new_table("decisions", "of", *(x or "value" for x in columns))
    for name, row in rows.items():
        table.add_row(plain(name), *(plain(row.get(x, "")) for x in columns))
    console.print(table)


def _decided(one: Any) -> str:
    value = one.value
    if one.kind == "mask" and isinstance(value, str):
        if value.startswith("sha256:"):
            return value[:19]
        parts = [part.split("-") for part in value.split(",") if part]
        try:
            count = sum(int(x[-1]) - int(x[0]) + 1 for x in parts)
        except ValueError:
            return value[:40]
        return f"{value} kept" if len(parts) <= 4 else f"{count} kept"
    if one.kind == "bit-width":
        return f"{value} bits"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_recipe(made: "Recipe") -> None:
    """The command that made a file, as a shell takes it, and the state of its inputs."""
    print(plain(f"cd {shlex.quote(made.cwd)}"))
    if made.code.get("commit"):
        root = str(made.code.get("root") or "")
        inside = not root or os.path.commonpath([root, made.cwd]) == root
        where = "" if inside else f" -C {shlex.quote(root)}"
        changes = "   # and changes that were not committed" * bool(made.code.get("changed"))
        print(plain(f"git{where} checkout {made.code['commit']}{changes}"))
    words = [
        f"{key}={shlex.quote(str(value))}" for key, value in made.environment.items() if key != "VIRTUAL_ENV"
    ]
    print(plain(" ".join([*words, shlex.join(made.command)])))
    for one in made.inputs:
        print(plain(f"# {one.state}: {one.entity.names[-1]}"))
