"""Answers that are many files: those that are too many for a line each are summed up by folder."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsam.cli.show import new_table, plain

if TYPE_CHECKING:
    from rich.table import Table

    from sparsam.provenance.questions import Step

MOST_ROWS = 100
"""Of files in words; of more, the nearer half is listed and the others are summed up by folder."""


def by_folder(steps: "Sequence[Step]") -> "Table":
    """Many files in a row for each folder, the fullest first."""
    folders: dict[str, list[Step]] = {}
    for x in steps:
        folders.setdefault(os.path.dirname(x.entity.names[-1]), []).append(x)
    table = new_table(
        f"and {len(steps):,} more, by folder (--json names them all)",
        "folder",
        "generations",
        "size",
        "now",
        "by",
    )
    listed = sorted(folders.items(), key=lambda item: (-len(item[1]), item[0]))
    for name, inside in listed[:MOST_ROWS]:
        states = Counter(x.state + (", written unseen" if x.entity.outside else "") for x in inside)
        programs = len({x.entity.by for x in inside} - {None})
        table.add_row(
            plain(name), f"{len(inside):,}", f"{sum(x.entity.size or 0 for x in inside):,}",
            ", ".join(f"{count:,} {state}" for state, count in states.most_common()),
            f"{programs:,} programs" if programs else "",
        )  # fmt: skip
    if left := listed[MOST_ROWS:]:
        table.add_row(f"{len(left):,} more folders", f"{sum(len(x) for _, x in left):,}", "", "", "")
    return table
