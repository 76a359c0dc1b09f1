"""The report: one self-contained page on what compressed models cost, keep and reach.

    runs.py       artefacts and benchmarks, found from what was named
    bench.py      the form of a benchmark's JSON, checked strictly
    examples.py   example images, run through a model; the only place that runs one
    sections.py   what each section shows, speed.py what the section on speed shows; figures.py has the numbers' form,
                  pictures.py the geometry of pictures
    page.py       the page and its file; sheet.py what all pages share
    hardware.py   the page on simulated accelerators, explored.py that on a grid of their parameters; bars.py their geometry
    lineage.py    the page on where a file came from, the only one with a script, which its policy names by digest

The other pages hold no script, and none asks for anything: policies forbid it, and name style sheets by digest. Counted and
measured figures stand in sections of their own, and each ratio of speed names its baseline in the same line.
"""

from importlib import import_module

TYPE_CHECKING = False  # as type checkers read it
if TYPE_CHECKING:
    from sparsam.report.bench import SCHEMA, Bench, bench_of, read_bench
    from sparsam.report.page import check_target, page_of, write_report
    from sparsam.report.runs import Run, find

__all__ = [
    "SCHEMA",
    "Bench",
    "Run",
    "bench_of",
    "check_target",
    "find",
    "page_of",
    "read_bench",
    "write_report",
]

if (
    not TYPE_CHECKING
):  # pages on simulated hardware need no torch, which the modules behind these names import

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'sparsam.report' has no attribute {name!r}")
        for module in (
            import_module("sparsam.report.bench"), import_module("sparsam.report.runs"), import_module("sparsam.report.page"),
        ):  # fmt: skip
            if name in vars(module):
                return vars(module)[name]
        raise AttributeError(f"module 'sparsam.report' has no attribute {name!r}")
