"""The programs that PyTea's authors published, checked by `sparsam check` and by PyTea itself.

    SPARSAM_PYTEA=CHECKOUT SPARSAM_PYTEA_BUILT=FOLDER python benchmarks/shapes_published.py

CHECKOUT is one of https://github.com/ropas/pytea at its newest commit (c536515), FOLDER its `bin` after a build; without
the second the table has our column only, without the first there is nothing to check.
"""

import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from shapes_compare import absent, heard, watched
from tables import store

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "shapes"))
from published import PROGRAMS, Published

from sparsam.errors import Refused
from sparsam.shapes.check import check


def ours(program: Published, folder: Path) -> dict[str, Any]:
    """Verdict, place and cost of `sparsam check`."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    try:
        report = check(program.script, program.arguments, folder=folder)
    except Refused as error:
        return {"sparsam": f"refused: {error}"[:120]}
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    places = [finding.failure.place for finding in report.findings]
    return {
        "sparsam": " ".join([str(report.verdict), *(f"{Path(p.file).name}:{p.line}" for p in places)]),
        "CPU s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "wall s": round(time.perf_counter() - start, 1),
        "MiB": round(report.statistics.get("peak_bytes", 0) / 2**20),
        "runs": report.statistics.get("runs", 0),
    }


def theirs(program: Published, folder: Path, built: Path) -> dict[str, Any]:
    """The same of PyTea, with the configuration that lies beside the program."""
    command = [sys.executable, str(built / "pytea.py"), program.script]
    if (folder / "pyteaconfig.json").is_file():
        command.append(f"--config={folder / 'pyteaconfig.json'}")
    text, used = watched(command, folder)
    told = heard(text, Path(program.at.partition(":")[0] or program.script).name)
    places = " ".join(str(line) for line in told["lines"])
    return {
        "PyTea": f"{told['verdict']} {places}".strip() if text else "time-out",
        "PyTea CPU s": round(used["cpu"], 1),
        "PyTea wall s": round(used["wall"], 1),
        "PyTea MiB": round(used["bytes"] / 2**20),
    }


def main(names: Sequence[str]) -> None:
    """Checks the named programs, all by default, and stores the table."""
    if "SPARSAM_PYTEA" not in os.environ:
        raise SystemExit("skipped: SPARSAM_PYTEA names no checkout of ropas/pytea")
    root = Path(os.environ["SPARSAM_PYTEA"]) / "packages/pytea/pytest/benchmarks"
    built = Path(os.environ["SPARSAM_PYTEA_BUILT"]) if "SPARSAM_PYTEA_BUILT" in os.environ else None
    reason = absent("PyTea", built)
    rows = []
    for name in names or PROGRAMS:
        program = PROGRAMS[name]
        row = {"program": name, "torch raises": program.at or "no"} | ours(program, root / name)
        if built is not None and not reason:
            row |= theirs(program, root / name, built)
        rows.append(row)
        print(row)
    notes = [
        "torch raises: where the program fails when it runs, for some length of its data sets (vae: fewer than 128 test"
        " images; stochastic-resnet: fewer than 10 training images; fast_neural_style: a style image of fewer than 8 pixels)",
        "PyTea with the configurations of its authors, which fix these lengths; seconds of both with their start",
        *([f"PyTea skipped: {reason}"] if reason else []),
    ]
    command = "SPARSAM_PYTEA=… SPARSAM_PYTEA_BUILT=… python benchmarks/shapes_published.py"
    if not names:
        store("shapes-published", "Programs that PyTea's authors published", command, rows, notes)


if __name__ == "__main__":
    main(sys.argv[1:])
