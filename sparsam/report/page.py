"""The page: sections into one template, escaped throughout, and the file, written whole or not at all."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsam import __version__
from sparsam.artifact.staging import failures, real_path, write_whole
from sparsam.errors import Refused, SparsamError, Usage
from sparsam.report import sections
from sparsam.report.bench import Bench, bench_of
from sparsam.report.examples import Example, examples_of
from sparsam.report.front import Front, fronts, views
from sparsam.report.runs import EXPECTED, Run, find
from sparsam.report.sheet import GENERATOR, environment, style
from sparsam.report.speed import speed
from sparsam.task import Task

BUILT_IN = ("digits",)
"""Tasks that need no files: their example images are drawn without being asked for."""


def write_report(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    bench: Sequence[Mapping[str, Any]] = (),
    task: Task | str | None = None,
) -> Path:
    """Write one self-contained HTML page on compressed models and benchmarks, and return its path.

    Args:
        runs: folders that sparsam wrote, folders that hold such, or JSON files of a benchmark.
        out: the page; an earlier report that stands there is replaced in one step.
        bench: further benchmarks, as objects.
        task: data to draw example images from; a model of the built-in digits needs none.

    Raises:
        Usage: ``runs-missing``.
        InputOutput: ``run-missing``, ``json-invalid``, ``no-space``, ``not-writable``, those of
            :func:`sparsam.artifact.verify`.
        Refused: ``run-unknown``, ``record-invalid``, ``record-stale``, ``bench-schema``, ``bench-invalid``, ``digest``,
            ``not-a-report`` (another file stands at ``out``).
    """
    if not runs and not bench:
        raise Usage(f"a report needs at least one run; {EXPECTED}.", code="runs-missing")
    target = real_path(out)
    check_target(target)
    found, benches = find(runs)
    benches += [(f"benchmark {at}", bench_of(one, f"benchmark {at}")) for at, one in enumerate(bench, 1)]
    examples, said = _examples(found, task)
    write_whole(target, page_of(found, benches, examples, said, fronts(runs)))
    return target


def check_target(target: Path) -> None:
    """Never replace what is no report.

    Raises:
        Refused: ``not-a-report``.
    """
    if not os.path.lexists(target):
        return
    with failures(target):
        ours = target.is_file() and GENERATOR in target.read_bytes()[:2000].decode("utf-8", "replace")
    if not ours:
        raise Refused(
            f"{target} is {'a folder' if target.is_dir() else 'a file that is no report of sparsam'}; it is left alone. "
            "Name another file, such as report.html.",
            code="not-a-report",
        )


def _examples(
    runs: Sequence[Run], task: Task | str | None
) -> tuple[dict[str, tuple[Example, ...]], list[tuple[str, str]]]:
    """Example images by run, and what kept some from being drawn."""
    found: dict[str, tuple[Example, ...]] = {}
    said = []
    for run in runs:
        if run.plan is None or run.plan.tokens is None or "image_size" not in run.config:
            continue
        chosen = task if task is not None else run.facts.get("task")
        if task is None and chosen not in BUILT_IN:
            said.append((run.name, "Example images are left out: name the data with --task to have them."))
            continue
        try:
            data = chosen if isinstance(chosen, Task) else Task.load(str(chosen))
            found[run.name] = examples_of(run, data)
        except SparsamError as error:
            if task is not None:
                raise
            said.append((run.name, f"Example images are left out: {error}"))
    return found, said


def page_of(
    runs: Sequence[Run],
    benches: Sequence[tuple[str, Bench]],
    examples: Mapping[str, Sequence[Example]] | None = None,
    said: Sequence[tuple[str, str]] = (),
    found_fronts: Sequence[Front] = (),
) -> str:
    """The page as text. What comes from outside stands in it as text alone, whatever it holds."""
    sheet, digest = style()
    return environment().get_template("page.html").render(
        version=__version__,
        style=sheet,
        style_sha256=digest,
        names=[run.name for run in runs] + [name for name, _ in benches],
        headlines=sections.headlines(runs),
        fronts=views(found_fronts),
        evaluations=sections.evaluations(runs),
        kept=sections.kept(runs),
        pictures=sections.pictures(examples or {}),
        speed=speed(benches),
        counted=sections.counted(runs),
        machines=sections.machines(runs, benches),
        recipes=sections.recipes(runs),
        notes=sections.notes(runs, said),
    )  # fmt: skip
