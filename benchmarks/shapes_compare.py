"""What shape checkers find in ten training programs and in 84 copies of them with one planted fault each.

    SPARSAM_PYTEA_BUILT=FOLDER python benchmarks/shapes_compare.py             # every checker, then the table
    python benchmarks/shapes_compare.py --only sparsam --cases mnist           # some; the table is of all that were kept

The programs and faults are those of tests/shapes/programs; for each fault it is known, from running it, on which lines
it raises. The checkers:

- sparsam: `sparsam check` in its sandbox, option values and data set lengths free in the programs' ranges.
- PyTea (https://github.com/ropas/pytea, built as its README says: a folder `bin` with `pytea.py`), which takes one value
  of each option and here a range of data set lengths; run once with the programs' defaults, once with sizes of which
  the fault is known to show. Needs node and z3-solver. Skipped where `SPARSAM_PYTEA_BUILT` does not name the folder.
- FakeTensor: the program under torch's FakeTensorMode, once with defaults and once with the sizes of the fault. Values
  that a program reads from a tensor are 1, which is no part of plain FakeTensorMode: without it each program would end
  at its first `.item()`. Data sets as long that the last batches are those of the real ones.
- jaxtyping: the same run on real tensors, the functions that take tensors annotated and watched by beartype.

Outcomes are kept in runs/shapes-compare.jsonl and not made again; remove the file to start anew.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import shapes_plain
from programs.catalogue import PROGRAMS, Fault, Program
from programs.faults import FAULTS
from programs.running import LENGTHS, MODES, Size, draw_images
from shapes_annotated import annotated
from tables import store

from sparsam.errors import Refused
from sparsam.shapes.check import Limits, check

KEPT = Path("runs/shapes-compare.jsonl")
SECONDS = 120.0  # for one run of a checker
REAL = {"MNIST": (60000, 10000), "CIFAR10": (50000, 10000)}  # lengths of the data sets: training, test
SOURCES = {"dcgan": "CIFAR10", "vit": "CIFAR10", "simclr": "CIFAR10"}
MARK = "most KiB: "
BETWEEN = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:]);"
    f"print({MARK!r}, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, sep='', flush=True)"
)
CHECKERS = (
    "sparsam",
    "PyTea",
    "PyTea, told",
    "FakeTensor",
    "FakeTensor, told",
    "jaxtyping",
    "jaxtyping, told",
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A correct program (`fault` is None) or one with a fault."""

    program: Program
    fault: Fault | None = None

    @property
    def name(self) -> str:
        """Of the fault, or of the program."""
        return self.fault.name if self.fault else self.program.name

    @property
    def source(self) -> str:
        """The text."""
        return (self.fault or self.program).source

    @property
    def ranges(self) -> tuple[str, ...]:
        """What `sparsam check` is given."""
        return self.fault.checked_with if self.fault else self.program.arguments

    @property
    def given(self) -> dict[str, Size]:
        """Options that are not free: those that a check of this case is given a value for."""
        pairs = [argument.partition("=")[::2] for argument in self.ranges if ".." not in argument]
        return {name: value == "True" or value for name, value in pairs}

    @property
    def told(self) -> dict[str, Size]:
        """Sizes for which the fault shows; a small run for a correct program."""
        return dict(self.fault.sizes(self.fault.fails[0]) if self.fault else self.program.tiny)

    @property
    def defaults(self) -> dict[str, Size]:
        """No options but the given ones; data sets that end in the same last batch as the real ones."""
        sizes = dict(self.given)
        if MODES in self.told:
            sizes[MODES] = self.told[MODES]
        if not set(LENGTHS) & set(self.program.tiny):
            return sizes
        source = "MNIST" if sizes.get("dataset") == "mnist" else SOURCES.get(self.program.name, "MNIST")
        batch = default(self.program, "batch-size")
        tested = default(self.program, "test-batch-size") or batch
        for name, real, size in zip(LENGTHS, REAL[source], (batch, tested), strict=True):
            sizes[name] = size + real % size
        return sizes


def default(program: Program, option: str) -> int:
    """The default of an integer option, read from the text; 0 if there is none."""
    found = re.search(rf'"--{option}",[^)]*default=(\d+)', program.source)
    return int(found.group(1)) if found else 0


CASES = [Case(program) for program in PROGRAMS.values()]
CASES += [Case(PROGRAMS[fault.program], fault) for fault in FAULTS.values()]


def by_sparsam(case: Case, folder: Path) -> dict[str, Any]:
    """Our own check, in its sandbox."""
    script = folder / f"{case.program.name}.py"
    script.write_text(case.source, encoding="utf-8")
    arguments = list(case.ranges)
    if MODES in case.told:
        arguments.append(f"data={draw_images(folder / 'images', str(case.told[MODES]))}")
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    try:
        report = check(str(script), arguments, limits=Limits())
    except Refused as error:
        return {"verdict": "refused", "lines": [], "said": str(error)[:200], "cpu": 0, "wall": 0, "bytes": 0}
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = [f"{f.code} line {f.failure.place.line}: {f.message}" for f in report.findings]
    said += [f"unknown {u.code} line {u.place.line if u.place else 0}: {u.reason}" for u in report.unknowns]
    return {
        "verdict": {"proved": "fine"}.get(str(report.verdict), str(report.verdict)),
        "lines": sorted({finding.failure.place.line for finding in report.findings}),
        "said": "; ".join(said)[:400],
        "wall": time.perf_counter() - start,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "bytes": report.statistics.get("peak_bytes", 0),
    }


def by_pytea(case: Case, folder: Path, built: Path, told: bool) -> dict[str, Any]:
    """PyTea's two analysers, one after the other."""
    name = f"{case.program.name}.py"
    (folder / name).write_text(case.source, encoding="utf-8")
    sizes = case.told if told else case.given
    lengths = zip(LENGTHS, ("Train", "Test"), strict=True)
    free = [1, 100_000]
    config = {
        "pythonCmdArgs": {"epochs": 1, "niter": 1, "steps": 1}
        | {k.replace("_", "-"): v for k, v in sizes.items() if k not in (*LENGTHS, MODES)},
        "variableRange": {
            f"{source}_{part}": sizes.get(length, free) for length, part in lengths for source in REAL
        },
        "logLevel": "result-only",
        "entryPath": name,
    }
    (folder / "pyteaconfig.json").write_text(json.dumps(config))
    text, used = watched([sys.executable, str(built / "pytea.py"), name], folder)
    answer = {"verdict": "time", "lines": [], "said": f"over {SECONDS:.0f} s"}
    return (heard(text, name) if text else answer) | used


def watched(command: list[str], folder: Path) -> tuple[str, dict[str, float]]:
    """What a program prints, "" if it takes too long, with CPU and wall time (s) and peak memory (bytes).

    A small process stands between, for a process that a large one starts counts as large as that.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", BETWEEN, *command],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        alarm = threading.Timer(SECONDS, os.killpg, (process.pid, signal.SIGKILL))
        alarm.start()
        _, status, used = os.wait4(process.pid, 0)
        alarm.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text, _, kibibytes = out.read().rpartition(MARK)
    cost = {
        "wall": time.perf_counter() - start,
        "cpu": used.ru_utime + used.ru_stime,
        "bytes": int(kibibytes or 0) * 1024 if text else 0,
    }
    return text, cost


def heard(text: str, script: str) -> dict[str, Any]:
    """What PyTea said: an error with its innermost line in the script, fine, or why neither."""
    text = re.sub(r"\x1b\[\d+m", "", text)
    unread = re.search(r"cannot parse entry file", text)
    if unread:
        return {"verdict": "refused", "lines": [], "said": "cannot parse entry file"}
    _, _, solved = text.partition("z3 result")
    place = re.compile(rf"/{re.escape(script)}:(\d+):\d+\)")
    failed = [block for block in re.split(r"\n(?=failed path #)", text) if block.startswith("failed path #")]
    blocks = [block.partition("\nLOGS:")[0] for block in failed]
    blocks += [block for block in re.split(r"Errornous Path", solved)[1:] if "Invalid path" in block]
    lines = {int(found.group(1)) for block in blocks if (found := place.search(block))}
    unknown = [
        word for word in ("Undecidable", "Timeout", "timeout", "Traceback", "Error:") if word in solved
    ]
    if blocks:
        said = blocks[0].strip().splitlines()
        return {"verdict": "error", "lines": sorted(lines), "said": " ".join(said[:5])[:300]}
    if "Valid paths" in solved and not unknown:
        logs = " ".join(re.findall(r"LOGS:\n(.*)", text)[:1])
        return {"verdict": "fine", "lines": [], "said": f"log: {logs}"[:200] if logs else ""}
    return {"verdict": "unknown", "lines": [], "said": " ".join(solved.split())[:200] or "no answer"}


def by_running(case: Case, folder: Path, told: bool, fake: bool) -> dict[str, Any]:
    """One run with the framework."""
    source = case.source if fake else annotated(case.program.name, case.source)
    sizes = case.told if told else case.defaults

    def work() -> dict[str, Any]:
        return shapes_plain.tried(source, case.program.name, sizes, folder, fake=fake)

    return shapes_plain.in_a_fork(work, SECONDS)


def outcome(checker: str, case: Case, built: Path | None) -> dict[str, Any]:
    """What one checker says of one case."""
    name, _, told = checker.partition(", ")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if name == "sparsam":
            return by_sparsam(case, folder)
        if name == "PyTea":
            assert built is not None
            return by_pytea(case, folder, built, bool(told))
        return by_running(case, folder, bool(told), fake=name == "FakeTensor")


def absent(checker: str, built: Path | None) -> str:
    """Why a checker cannot run here, "" if it can."""
    if checker.startswith("PyTea"):
        if built is None or not (built / "pytea.py").is_file():
            return "SPARSAM_PYTEA_BUILT names no folder with pytea.py"
        if shutil.which("node") is None or importlib.util.find_spec("z3") is None:
            return "needs node and z3-solver"
    if checker.startswith("jaxtyping") and not all(map(importlib.util.find_spec, ("jaxtyping", "beartype"))):
        return "needs jaxtyping and beartype"
    return ""


def judged(told: dict[str, Any], right: dict[str, Any], case: Case) -> str:
    """How an outcome counts; `right` is the same checker's of the program without the fault."""
    if case.fault is None:
        return {"fine": "accepted", "error": "false alarm"}.get(told["verdict"], "no verdict")
    if told["verdict"] != "error":
        return "missed" if told["verdict"] == "fine" else "no verdict"
    if right["verdict"] == "error" and (told["lines"] == right["lines"] or gist(told) == gist(right)):
        return "alarm of the correct program"
    return "found" if set(told["lines"]) & case.fault.lines else "found at another line"


def gist(told: dict[str, Any]) -> str:
    """The beginning of the message, without numbers: the same for the same alarm in another place or file."""
    return re.sub(r"\d+|/tmp/\S+", "", told["said"].rpartition("message:")[2])[:60]


def rows(kept: dict[tuple[str, str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One row of the table for each checker that was run on all cases."""
    for checker in CHECKERS:
        mine = {case.name: kept[checker, case.name] for case in CASES if (checker, case.name) in kept}
        if len(mine) < len(CASES):
            print(f"{checker}: run on {len(mine)} of {len(CASES)} cases, not in the table")
            continue
        counts: dict[str, int] = {}
        for case in CASES:
            answer = judged(mine[case.name], mine[case.program.name], case)
            key = f"{answer} (correct)" if case.fault is None else answer
            counts[key] = counts.get(key, 0) + 1
        readable = [case for case in CASES if case.fault and mine[case.program.name]["verdict"] == "fine"]
        seen = sum(bool(set(mine[case.name]["lines"]) & case.fault.lines) for case in readable if case.fault)
        cpu = [one["cpu"] for one in mine.values()]
        yield {
            "checker": checker,
            "correct programs accepted": counts.get("accepted (correct)", 0),
            "false alarms": counts.get("false alarm (correct)", 0),
            "no verdict on correct": counts.get("no verdict (correct)", 0),
            "faults found": counts.get("found", 0),
            "of those in accepted programs": f"{seen} of {len(readable)}",
            "at another line": counts.get("found at another line", 0),
            "called fine": counts.get("missed", 0),
            "no verdict": counts.get("no verdict", 0) + counts.get("alarm of the correct program", 0),
            "CPU s, median": round(statistics.median(cpu), 1),
            "CPU s, most": round(max(cpu), 1),
            "MiB, most": round(max(one["bytes"] for one in mine.values()) / 2**20) or "",
        }


def each(kept: dict[tuple[str, str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One row for each case: how each checker did."""
    for case in CASES:
        row: dict[str, Any] = {"case": case.name, "kind": case.fault.kind if case.fault else "correct"}
        for checker in CHECKERS:
            told, right = (kept.get((checker, name)) for name in (case.name, case.program.name))
            if told and right:
                row[checker] = judged(told, right, case)
        yield row


def main(words: Sequence[str] | None = None) -> None:
    """Runs what is not kept yet and stores the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="*", default=CHECKERS, choices=CHECKERS, help="checkers to run")
    parser.add_argument("--cases", nargs="*", help="programs to run them on; all by default")
    parser.add_argument("--again", action="store_true", help="run what is kept of these anew")
    parser.add_argument("--no-table", action="store_true", help="only run")
    given = parser.parse_args(words)
    built = Path(os.environ["SPARSAM_PYTEA_BUILT"]) if "SPARSAM_PYTEA_BUILT" in os.environ else None
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    lines = KEPT.read_text().splitlines() if KEPT.exists() else []
    kept = {(one["checker"], one["case"]): one for one in map(json.loads, lines)}
    for checker in given.only:
        if reason := absent(checker, built):
            print(f"skipped {checker}: {reason}")
            continue
        for case in CASES:
            if ((checker, case.name) in kept and not given.again) or (
                given.cases and case.program.name not in given.cases
            ):
                continue
            plain = kept.get((checker.removesuffix(", told"), case.name), {"verdict": ""})
            answer = plain if plain["verdict"] == "refused" else outcome(checker, case, built)
            told = {**answer, "checker": checker, "case": case.name}
            kept[checker, case.name] = told
            with KEPT.open("a") as out:
                out.write(json.dumps(told) + "\n")
            print(
                checker, case.name, told["verdict"], told["lines"], f"{told['cpu']:.1f} s", told["said"][:150]
            )
    if not given.no_table:
        tables(kept)


def tables(kept: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Both tables, of what is kept."""
    importing = shapes_plain.in_a_fork(lambda: {}, SECONDS)
    notes = [
        "10 correct programs and 84 faults; \"found\" at a line where the running program raises it",
        "told: with sizes of which it is known that the fault shows; otherwise the programs' defaults, epochs 1",
        "no verdict: time-out, crash, unknown, refused, or the alarm that the correct program gets as well",
        "CPU of FakeTensor and jaxtyping without the start of Python and the import of torch; memory with both "
        f"({importing['bytes'] / 2**20:.0f} MiB before the program starts)",
    ]  # fmt: skip
    command = "SPARSAM_PYTEA_BUILT=… python benchmarks/shapes_compare.py"
    store("shapes-compare", "Shape checkers on the same programs", command, list(rows(kept)), notes)
    store("shapes-compare-cases", "Shape checkers, program by program", command, list(each(kept)), notes)


if __name__ == "__main__":
    main()
