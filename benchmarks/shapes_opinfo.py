"""The shape checker on torch's own lists of calls that must be refused, and of valid calls.

    python benchmarks/shapes_opinfo.py [--samples 4] [--opened 1] [--row NAME] [--store]

Each sample of `torch.testing._internal` (operators and modules) is a program of one call whose tensor sizes are symbols
that can have the sample's sizes only. An error counts as found if it is reported at the call with the exception's class
of a run on tensors without data. Valid calls are checked once more with equal sizes as one symbol from 0 to two more than
the sample's: a witness must then fail, and what is proved must run, on tensors without data.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "shapes"))
import opinfo
from tables import store

from sparsam.shapes.explore import Limits
from sparsam.shapes.unmodelled import UNMODELLED
from sparsam.shapes.verdict import Verdict

KINDS = (
    "operators, to be refused", "modules, to be refused", "modules, valid", "operators, valid", "modules, with ranges",
    "operators, with ranges",
)  # fmt: skip
NOTES = (
    "refused for data: without data the framework cannot run the call at all, so nothing says that sizes are wrong",
    "error for other values: the call reads a number from a tensor, and would be refused if that were another",
)
TRIES = 6  # random sizes that what is proved is held against


def errors(name: str, cases: Iterable[opinfo.Case]) -> dict[str, Any]:
    """A line of the table about calls that must be refused."""
    count: Counter[str] = Counter()
    started = time.perf_counter()
    for case in cases:
        error = opinfo.plain(case)
        if error is None:
            count["not refused without data"] += 1
            continue
        report = opinfo.pinned(case)
        found = [f for f in report.findings if any(place.function == "called" for place in f.failure.chain)]
        right = any(f.failure.error in (type(error).__name__, case.expected) for f in found)
        count["calls"] += 1
        count["up to the data"] += isinstance(error, UNMODELLED)
        count["found"] += right
        count[str(report.verdict)] += 1
        if not right:
            print("missed:", case.name, case.number, report.verdict, type(error).__name__, flush=True)
    return {
        "samples": name, "calls": count["calls"], "found": count["found"], "found %": 100 * count["found"] / count["calls"],
        "unknown": count["unknown"], "refused for data": count["up to the data"], "s": time.perf_counter() - started,
    }  # fmt: skip


def valid(name: str, cases: Iterable[opinfo.Case]) -> dict[str, Any]:
    """A line about valid calls with their own sizes."""
    count: Counter[str] = Counter()
    started = time.perf_counter()
    for case in cases:
        report = opinfo.pinned(case)
        count["calls"] += 1
        count[str(report.verdict)] += 1
        if report.verdict is Verdict.ERROR:
            sizes = len(opinfo.sizes_of(case))
            other = all(len(finding.witness) > sizes for finding in report.findings)
            count["for other values"] += other
            count["false alarms"] += not other
            print("for other values:" if other else "false alarm:", case.name, case.number, report.findings[0].message,
                  flush=True)  # fmt: skip
    return {
        "samples": name, "calls": count["calls"], "proved": count["proved"], "unknown": count["unknown"],
        "error for other values": count["for other values"], "false alarms": count["false alarms"],
        "s": time.perf_counter() - started,
    }  # fmt: skip


def opened(name: str, cases: Iterable[opinfo.Case]) -> dict[str, Any]:
    """A line about valid calls with ranges around their sizes."""
    count: Counter[str] = Counter()
    rng = random.Random(0)
    started = time.perf_counter()
    for case in cases:
        if not opinfo.sizes_of(case) or opinfo.plain(case) is not None:
            continue
        report, ranges = opinfo.opened(case, Limits(seconds=6, paths=100))
        count["calls"] += 1
        count[str(report.verdict)] += 1
        for finding in report.findings:
            if opinfo.instance(case, finding.witness) is None:
                count["false alarms"] += 1
                print("false alarm:", case.name, case.number, finding.witness, finding.message, flush=True)
        for _ in range(TRIES):
            sizes = {symbol: rng.randint(*bounds) for symbol, bounds in ranges.items()}
            if report.verdict is Verdict.PROVED and opinfo.instance(case, sizes) is not None:
                count["wrongly proved"] += 1
                print("wrongly proved:", case.name, case.number, sizes, flush=True)
                break
    return {
        "samples": name, "calls": count["calls"], "proved": count["proved"], "error with a witness": count["error"],
        "unknown": count["unknown"], "false alarms": count["false alarms"], "wrongly proved": count["wrongly proved"],
        "s": time.perf_counter() - started,
    }  # fmt: skip


def row(kind: str, given: argparse.Namespace) -> dict[str, Any]:
    """One line of the table."""
    if kind == "operators, to be refused":
        return errors(kind, opinfo.operator_errors())
    if kind == "modules, to be refused":
        return errors(kind, opinfo.module_errors())
    samples = opinfo.module_samples if kind.startswith("modules") else opinfo.operator_samples
    return (
        valid(kind, samples(given.samples)) if kind.endswith("valid") else opened(kind, samples(given.opened))
    )


def main() -> None:
    """All tables, each line in a process of its own: torch's kernels are asked about much that is wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=4, help="valid samples of each operator")
    parser.add_argument("--opened", type=int, default=1, help="of them with ranges")
    parser.add_argument("--row", choices=KINDS, help="this line alone")
    parser.add_argument("--store", action="store_true")
    given = parser.parse_args()
    if given.row:
        print(json.dumps(row(given.row, given)))
        return
    options = ["--samples", str(given.samples), "--opened", str(given.opened)]
    rows = []
    for kind in KINDS[: None if given.opened else 4]:
        command = [sys.executable, __file__, *options, "--row", kind]
        *lines, last = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True
        ).stdout.splitlines()
        print(*lines, sep="\n", flush=True)
        rows.append(json.loads(last))
    if given.store:
        told = f"python benchmarks/shapes_opinfo.py {' '.join(options)}"
        store("shapes-opinfo", "Shape checks of torch's own samples", told, rows, NOTES)
    else:
        print(*rows, sep="\n")


if __name__ == "__main__":
    main()
