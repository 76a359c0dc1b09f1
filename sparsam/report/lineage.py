"""The picture of where a file came from, or of what was made from it: one self-contained page, or an SVG.

Layers and coordinates are worked out here (:mod:`sparsam.provenance.layers`); the page's script moves the picture, shows what
is clicked and finds what is typed, nothing more. Names stand in it as text alone, whatever they hold.
"""

import base64
import hashlib
import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sparsam import __version__
from sparsam.provenance.graph import Program
from sparsam.provenance.index import Recorded
from sparsam.provenance.layers import Layout, layout
from sparsam.provenance.picture import Node, Picture, picture
from sparsam.provenance.questions import (
    CHANGED,
    GONE,
    REPLACED,
    TOUCHED,
    UNCHANGED,
    UNKNOWN,
    Step,
    program_json,
)
from sparsam.report.figures import clean, size
from sparsam.report.sheet import environment, style

WIDTH, HEIGHT, ACROSS, GAP, BEND = 220.0, 46.0, 76.0, 18.0, 14.0
MARGIN = 24.0
LETTERS, SMALL_LETTERS = 23, 29
"""Of a title and of a note; a wide letter counts as two."""
SPOILT = (CHANGED, GONE, TOUCHED)
WORDS = {
    UNCHANGED: "as recorded", CHANGED: "changed since", GONE: "gone", TOUCHED: "touched since", REPLACED: "replaced since",
    UNKNOWN: "",
}  # fmt: skip
ROWS = 2000
"""Of the page's table. Chosen by us."""


def lineage_page(found: Recorded, steps: Sequence[Step], *, made_from: bool = True) -> str:
    """The page as text.

    Args:
        found: everything that was recorded.
        steps: what :func:`sparsam.provenance.questions.lineage` or ``impact`` gave.
        made_from: whether it is a lineage.
    """
    drawn = picture(found, steps)
    placed = _layout(drawn)
    sheet, digest = style()
    more, script = _asset("lineage.css"), _asset("lineage.js")
    return environment().get_template("lineage.html").render(
        version=__version__, style=sheet, style_sha256=digest, more=more[0], more_sha256=more[1], script=script[0],
        script_sha256=script[1], name=_title(steps[0].entity.names[-1]), path=steps[0].entity.names[-1], made_from=made_from,
        summary=_summary(drawn, steps), left_out=drawn.left_out, passing=drawn.passing, picture=_svg(drawn, placed),
        data=_as_json(_data(drawn, placed)), rows=[_row(x) for x in steps[:ROWS]], more_rows=max(0, len(steps) - ROWS),
        width=f"{_extent(placed)[0]:.0f}", height=f"{_extent(placed)[1]:.0f}", account=_account(steps[0]),
    )  # fmt: skip


def lineage_svg(found: Recorded, steps: Sequence[Step], *, made_from: bool = True) -> str:
    """The picture alone, with its own styles for light and dark."""
    drawn = picture(found, steps)
    placed = _layout(drawn)
    width, height = _extent(placed)
    text = Path(__file__).with_name("templates").joinpath("lineage.css").read_text(encoding="utf-8")
    palette = str(style()[0]).split("* {")[0]
    boxes = text.split("/* the picture */")[1].split("/* the page */")[0]
    about = clean(steps[0].entity.names[-1])
    title = f"What {about} was made from" if made_from else f"What was made from {about}"
    sheet = f"{palette}{boxes}\nsvg {{ background: var(--paper); font-family: system-ui, sans-serif; }}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img"><title>{_xml(title)}</title><style>{sheet}</style>\n{_svg(drawn, placed)}</svg>\n'
    )


def lineage_json(steps: Sequence[Step]) -> dict[str, Any]:
    """The answer as one object: generations, the programs that made them by id, and the arrows between generations."""
    return {
        "about": steps[0].entity.id,
        "steps": [x.to_json() for x in steps],
        "programs": {x.program.id: program_json(x.program) for x in steps if x.program is not None},
        "derivations": [[source, x.entity.id] for x in steps for source in x.sources],
    }


# the picture


def _layout(drawn: Picture) -> Layout:
    heights = {node.id: HEIGHT for node in drawn.nodes}
    return layout([x.id for x in drawn.nodes], drawn.edges, heights, gap=GAP, bend_gap=BEND)


def _x(layer: int) -> float:
    return MARGIN + layer * (WIDTH + ACROSS)


def _extent(placed: Layout) -> tuple[float, float]:
    layers = 1 + max(placed.layer.values(), default=0)
    return _x(layers) - ACROSS + MARGIN, max(placed.height.values(), default=0.0) + HEIGHT / 2 + 2 * MARGIN


def _top(placed: Layout, node: str) -> float:
    return placed.height[node] - HEIGHT / 2 + MARGIN + HEIGHT / 2


def _svg(drawn: Picture, placed: Layout) -> Markup:
    number = {node.id: at for at, node in enumerate(drawn.nodes)}
    parts = ['<g class="arrows">']
    for a, b in drawn.edges:
        kind = ' class="back"' if (a, b) in placed.back else ""
        parts.append(f'<path{kind} data-from="{number[a]}" data-to="{number[b]}" d="{_path(placed, a, b)}"/>')
    parts.append('</g><g class="boxes">')
    parts += [_box(node, number[node.id], placed) for node in drawn.nodes]
    parts.append("</g>")
    return Markup("\n".join(parts))


def _path(placed: Layout, a: str, b: str) -> str:
    """A smooth line from the right side of a box to the left side of another, through its places between."""
    step = 1 if placed.layer[b] >= placed.layer[a] else -1
    half = HEIGHT / 2 + MARGIN
    x, y = _x(placed.layer[a]) + WIDTH, placed.height[a] + half
    words = [f"M{x:.0f} {y:.1f}"]
    points = [
        (_x(placed.layer[a] + step * at), height + half)
        for at, height in enumerate(placed.bends.get((a, b), ()), 1)
    ]
    for left, height in points:
        enter, leave = (left, left + WIDTH) if step > 0 else (left + WIDTH, left)
        words.append(_curve(x, y, enter, height) + f"L{leave:.0f} {height:.1f}")
        x, y = leave, height
    words.append(_curve(x, y, _x(placed.layer[b]) - 5, placed.height[b] + half))
    return "".join(words)


def _curve(x: float, y: float, to_x: float, to_y: float) -> str:
    reach = max(abs(to_x - x) / 2, 30.0)
    return f"C{x + reach:.0f} {y:.1f} {to_x - reach:.0f} {to_y:.1f} {to_x:.0f} {to_y:.1f}"


def _box(node: Node, number: int, placed: Layout) -> str:
    title, note = _words_of(node)
    kinds = [node.kind, *_flags(node)]
    x, y = _x(placed.layer[node.id]), _top(placed, node.id)
    behind = '<rect class="behind" x="5" y="5" width="220" height="46" rx="{0}"/>' if "group" in kinds else ""
    round_, inset = (23, 18) if node.kind == "program" else (5, 14)
    words = (
        f"<title>{_xml(_whole(node))}</title>",
        behind.format(round_),
        f'<rect width="220" height="46" rx="{round_}"/>',
        f'<text class="title" x="{inset}" y="20">{_xml(_cut(title, LETTERS, node.kind == "file"))}</text>',
        f'<text class="note" x="{inset}" y="36">{_xml(_cut(note, SMALL_LETTERS, False))}</text>',
    )
    place = f'transform="translate({x:.0f} {y:.1f})"'
    return f'<g id="n{number}" class="{" ".join(kinds)}" {place}>{"".join(words)}</g>'


def _flags(node: Node) -> list[str]:
    states = {step.state for step in node.steps}
    flags = ["group"] if len(node.steps) > 1 or len(node.programs) > 1 else []
    flags += ["about"] if node.about else []
    flags += ["spoilt"] if states.intersection(SPOILT) else []
    flags += ["past"] if states == {REPLACED} else []
    flags += ["unseen"] if any(step.entity.outside for step in node.steps) else []
    failed = any(one.status not in (0, None) for one in node.programs)
    return flags + (["spoilt"] if failed else [])


def _words_of(node: Node) -> tuple[str, str]:
    """Title and note of a box."""
    if node.kind == "program":
        first = node.programs[0]
        title = _command(first)
        if len(node.programs) > 1:
            own = [str(x) for x in first.facts.get("argv", ())]
            last = [str(x) for x in node.programs[-1].facts.get("argv", ())]
            alike = [a for a, b in zip(own, last, strict=False) if a == b]
            title = _command_line(alike) if alike else title
            return f"{title} …", f"{len(node.programs):,} programs"
        took = "" if first.ended is None else f"{_seconds((first.ended - first.began) / 1e9)} · "
        return title, f"{took}{_time(first.began)}"
    if len(node.steps) == 1:
        step = node.steps[0]
        one = step.entity
        version = f"generation {one.generation}" if one.generation > 1 else ""
        said = [WORDS[step.state], "" if one.size is None else size(one.size), version]
        return _ending(one.names[-1]), " · ".join(x for x in said if x)
    folder = os.path.commonpath([os.path.dirname(x.entity.names[-1]) or "/" for x in node.steps])
    total = sum(x.entity.size or 0 for x in node.steps)
    spoilt = sum(x.state in SPOILT for x in node.steps)
    said = [f"{spoilt:,} not as recorded" if spoilt else "", size(total), folder]
    return f"{len(node.steps):,} files in {_title(folder) or '/'}", " · ".join(x for x in said if x)


def _whole(node: Node) -> str:
    if node.kind == "program":
        return " ".join(str(x) for x in node.programs[0].facts.get("argv", ())) or "a program"
    return node.steps[0].entity.names[-1] if len(node.steps) == 1 else _words_of(node)[0]


def _command(one: Program) -> str:
    words = [str(x) for x in one.facts.get("argv", ())]
    return _command_line(words) if words else f"process {one.writer.pid}"


def _command_line(words: Sequence[str]) -> str:
    """A command in short: no folder of the program, no interpreter."""
    first = os.path.basename(words[0])
    if first.startswith("python") and len(words) > 1:
        rest = [
            os.path.basename(x) if at == 0 else x for at, x in enumerate(x for x in words[1:] if x != "-m")
        ]
        return " ".join([*rest][:6])
    return " ".join([first, *words[1:6]])


def _title(path: str) -> str:
    return os.path.basename(path) or path


def _ending(path: str) -> str:
    """A file's name, and its folder's."""
    return "/".join(path.rsplit("/", 2)[-2:]).lstrip("/") or path


def _letters(text: str) -> float:
    """About how wide a text is, in widths of a usual small letter."""
    return sum(_width(x) for x in text)


def _width(letter: str) -> float:
    if letter in "WMmw@%":
        return 1.75
    if unicodedata.combining(letter):
        return 0.0
    return 2.0 if unicodedata.east_asian_width(letter) in "WF" else 1.2 if letter.isupper() else 1.0


def _cut(text: str, most: int, both_ends: bool) -> str:
    """Text that fits a box: its beginning, and its end where that tells files apart."""
    text = clean(text)
    if len(text) <= 4 * most and _letters(text) <= most:
        return text
    tail = most // 3 if both_ends else 0
    return f"{_taken(text, most - 1 - tail)}…{_taken(text[::-1], tail)[::-1]}"


def _taken(text: str, most: int) -> str:
    """The beginning of a text, as many letters wide; marks above letters are no more than twice as many."""
    wide = 0.0
    for at, letter in enumerate(text):
        wide += _width(letter)
        if wide > most or at >= 3 * most:
            return text[:at]
    return text


def _xml(text: str) -> str:
    """Text between tags."""
    return clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


# what the page shows of a box


def _data(drawn: Picture, placed: Layout) -> dict[str, Any]:
    """What the script needs: boxes with their facts, arrows by number."""
    number = {node.id: at for at, node in enumerate(drawn.nodes)}
    programs: dict[str, int] = {}
    for at, node in enumerate(drawn.nodes):
        for one in node.programs:
            programs.setdefault(one.id, at)
    boxes = []
    for node in drawn.nodes:
        title, note = _words_of(node)
        members = [_file_facts(x, programs) for x in node.steps] + [_program_facts(x) for x in node.programs]
        boxes.append(
            {
                "title": clean(title), "note": clean(note), "kind": node.kind, "about": node.about,
                "layer": placed.layer[node.id], "x": round(_x(placed.layer[node.id])), "y": round(_top(placed, node.id), 1),
                "members": members,
            }
        )  # fmt: skip
    return {
        "boxes": boxes,
        "arrows": [[number[a], number[b]] for a, b in drawn.edges],
        "box": [WIDTH, HEIGHT],
    }


def _file_facts(step: Step, programs: Mapping[str, int]) -> dict[str, Any]:
    one = step.entity
    facts = [("state", WORDS[step.state] or "not looked at"), ("kind", one.kind)]
    facts += [
        (
            "generation",
            f"{one.generation}{' (as it was found)' if one.by is None and not one.outside else ''}",
        )
    ]
    facts += [("size", f"{one.size:,} bytes")] if one.size is not None else []
    facts += [("SHA-256", one.sha256)] if one.sha256 else []
    facts += [("other names", ", ".join(one.names[:-1]))] if len(one.names) > 1 else []
    facts += [("seen first", f"{_time(one.began)} UTC"), ("machine", one.host)]
    facts += [("note", "written by something that was not tracked")] if one.outside else []
    facts += [("note", "the program that wrote it never closed it")] if one.unfinished else []
    made: dict[str, Any] = {
        "name": clean(one.names[-1]),
        "facts": [[clean(a), clean(str(b))] for a, b in facts],
    }
    if step.account is not None:
        made["account"] = [[clean(a), clean(b)] for a, b in _account(step)]
    if step.program is not None and step.program.id in programs:
        made["by"] = programs[step.program.id]
    return made


def _program_facts(one: Program) -> dict[str, Any]:
    told = one.facts
    facts = [("began", f"{_time(one.began)} UTC")]
    facts += [("took", _seconds((one.ended - one.began) / 1e9))] if one.ended is not None else []
    facts += [("exit code", str(one.status))] if one.status is not None else []
    code = told.get("code") or {}
    if code.get("commit"):
        facts.append(("code", f"{code['commit']}{' and changes' if code.get('changed') else ''}"))
    for key, name in (
        ("cwd", "folder"),
        ("user", "user"),
        ("rank", "rank"),
        ("container", "container"),
        ("python", "Python"),
    ):
        if told.get(key) is not None:
            facts.append((name, str(told[key])))
    facts += [("machine", one.writer.host), ("process", str(one.writer.pid)), ("run", one.run)]
    for name, group in (("versions", told.get("versions")), ("system", told.get("machine"))):
        if isinstance(group, Mapping):
            facts.append((name, ", ".join(f"{a} {b}" for a, b in group.items())))
    facts += [(f"setting {name}", _plain(value)) for name, value in list(one.configuration.items())[:60]]
    last = {name: value for _, name, value, _ in one.metrics}
    facts += [(f"result {name}", _plain(value)) for name, value in list(last.items())[:60]]
    facts += [("not seen", what) for what in one.unseen[:5]]
    words = " ".join(str(x) for x in told.get("argv", ())) or _command(one)
    return {"name": clean(words), "facts": [[clean(a), clean(str(b))] for a, b in facts]}


def _account(step: Step) -> list[tuple[str, str]]:
    """What a maker told of a file, in lines."""
    told = step.account
    if told is None:
        return []
    rows = [(name, _plain(value)) for name, value in told.configuration.items()]
    rows += [(f"result {name}", _plain(value)) for name, value in told.metrics.items()]
    for one in told.calibrations.values():
        digest = f", their numbers' SHA-256 {one.sha256}" if one.sha256 else ""
        rows.append((f"calibration {one.name}", f"{one.rows:,} rows of {one.split}{digest}"))
    for decided in told.decisions[:400]:
        taken = f" (taken on {decided.calibration})" if decided.calibration else ""
        rows.append((f"{decided.kind} {decided.name}", f"{_plain(decided.value)}{taken}"))
    return rows


def _row(step: Step) -> dict[str, str]:
    one = step.entity
    command = "" if step.program is None else " ".join(str(x) for x in step.program.facts.get("argv", ()))
    return {
        "path": one.names[-1], "generation": str(one.generation), "size": "" if one.size is None else size(one.size),
        "sha256": (one.sha256 or "")[:12], "state": WORDS[step.state], "by": command,
    }  # fmt: skip


def _summary(drawn: Picture, steps: Sequence[Step]) -> str:
    shown = [step for node in drawn.nodes for step in node.steps if step.entity.id != steps[0].entity.id]
    files, programs = len(steps) - 1 - drawn.passing, {x.program.id for x in steps if x.program is not None}
    spoilt = sum(x.state in SPOILT for x in shown)
    words = [_many(files, "file"), _many(len(programs), "program")]
    text = f"{words[0]} and {words[1]}"
    return f"{text}; {spoilt:,} not as recorded" if spoilt else text


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _plain(value: Any) -> str:
    return (
        f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    )


def _time(nanoseconds: int) -> str:
    return f"{datetime.fromtimestamp(nanoseconds / 1e9, UTC):%Y-%m-%d %H:%M}"


def _seconds(value: float) -> str:
    return (
        f"{value:.1f} s"
        if value < 100
        else f"{value / 60:.0f} min"
        if value < 6000
        else f"{value / 3600:.1f} h"
    )


def _as_json(data: Any) -> Markup:
    """JSON that can stand in a page: no text in it ends its element or begins another."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


@cache
def _asset(name: str) -> tuple[Markup, str]:
    """A style sheet or script of ours, and its SHA-256 as the page's policy names it."""
    text = Path(__file__).with_name("templates").joinpath(name).read_text(encoding="utf-8")
    text = f"\n{text.strip()}\n"
    return Markup(text), base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
