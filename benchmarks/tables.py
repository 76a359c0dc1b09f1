"""A benchmark's table: printed, and stored as JSON and Markdown with the machine's facts under ``benchmarks/results/``."""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line does, before torch allocates

from sparsam.measure import machine_facts

RESULTS = Path(__file__).parent / "results"


def store(
    name: str, title: str, command: str, rows: Sequence[dict[str, Any]], notes: Sequence[str] = ()
) -> None:
    """Print a table and write ``results/<name>.json`` and ``results/<name>.md``."""
    facts = machine_facts()
    made = {
        "title": title,
        "command": command,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": facts,
        "notes": list(notes),
        "rows": list(rows),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(made, indent=1, allow_nan=False) + "\n")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [
        f"# {title}",
        "",
        f"`{command}`",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * len(columns),
    ]
    lines += ["| " + " | ".join(shown(row.get(column, "")) for column in columns) + " |" for row in rows]
    lines += [
        "",
        *(f"- {note}" for note in notes),
        f"- {made['date']}; " + "; ".join(f"{k}: {shown(v)}" for k, v in facts.items()),
    ]
    text = "\n".join(lines) + "\n"
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


def training_minutes(folder: Path) -> float:
    """What the training of a compressed checkpoint took, the teacher's answers included, as its own facts say."""
    facts = json.loads((folder / "sparsam.json").read_text())["facts"]
    return round(sum(stage["seconds"] for stage in facts["training"].values()) / 60, 1)


def shown(value: Any) -> str:
    """A cell."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " ".join(shown(item) for item in value)
    return str(value).replace("|", "/")
