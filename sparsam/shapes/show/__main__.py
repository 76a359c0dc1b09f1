"""``python -m sparsam.shapes.show`` writes docs/shapes/diagnostics.md and docs/shapes/report.schema.json."""

import json
from pathlib import Path

from sparsam.shapes.show.document import schema
from sparsam.shapes.show.pages import diagnostics_page

FOLDER = Path("docs") / "shapes"


def write(folder: Path = FOLDER) -> None:
    """Write both into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "diagnostics.md").write_text(diagnostics_page(), encoding="utf-8")
    (folder / "report.schema.json").write_text(json.dumps(schema(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
