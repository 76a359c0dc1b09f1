"""The report: one self-contained page on what compressed models cost, keep and reach.

    runs.py       artefacts and benchmarks, found from what was named
    bench.py      the form of a benchmark's JSON, checked strictly
    examples.py   example images, run through a model; the only place that runs one
    sections.py   what each section shows, speed.py what the section on speed shows; figures.py has the numbers' form,
                  pictures.py the geometry of pictures
    page.py       the page and its file

The page holds no script and asks for nothing: its policy forbids both, and names its one style sheet by digest. Counted and
measured figures stand in sections of their own, and each ratio of speed names its baseline in the same line.
"""

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
