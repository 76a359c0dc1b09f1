"""What tracking costs H5bench's kernels where several processes run them at a time, each in a folder and a run of its own.

    python benchmarks/provenance_processes.py          # a minute; wants a quiet machine

All processes wait for each other before each pass; a pass takes as long as the slowest of them. With and without tracking in
turn, ratios within a round.
"""

import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import provenance as workflows
from tables import store

import sparsam.provenance as records

ROUNDS = int(os.environ.get("ROUNDS", "21"))
PROCESSES = (1, 2, 4, 8)
KERNELS = {"write, read": "", "write, overwrite, read": "overwrite", "write, append, read": "append"}


def passes(second: str, folder: str, barrier: Any, told: Any) -> None:
    """One process: its seconds without and with tracking, round by round."""
    os.makedirs(folder)
    os.chdir(folder)
    found = []
    workflows.kernel(second)
    for turn in range(ROUNDS):
        pair = {}
        for tracked in (turn % 2 == 0, turn % 2 == 1):
            barrier.wait()
            if not tracked:
                pair[tracked] = workflows.busy(lambda: workflows.kernel(second))
                continue
            with records.run(f"r{turn}") as tracker:
                pair[tracked] = workflows.busy(lambda: workflows.kernel(second))
            shutil.rmtree(Path(tracker.log.path).parent)
        found.append((pair[False], pair[True]))
    told.put(found)


def together(second: str, count: int, place: str) -> dict[str, Any]:
    """Several processes at a time: medians over the rounds of the slowest of them."""
    context = multiprocessing.get_context("fork")
    barrier, told = context.Barrier(count), context.Queue()
    children = [
        context.Process(target=passes, args=(second, f"{place}/{second}{count}-{at}", barrier, told))
        for at in range(count)
    ]
    for child in children:
        child.start()
    found = [told.get() for _ in children]
    for child in children:
        child.join()
    # By round, with and without: the slowest process, and the processor's time of all of them.
    rounds = [
        [(max(wall for wall, _ in times), sum(cpu for _, cpu in times)) for times in zip(*each, strict=True)]
        for each in zip(*found, strict=True)
    ]
    ratios = sorted(on[0] / off[0] for off, on in rounds)
    processor = statistics.median(on[1] / off[1] for off, on in rounds)
    return {
        "off, ms": round(1e3 * statistics.median(off[0] for off, _ in rounds), 1),
        "on, ms": round(1e3 * statistics.median(on[0] for _, on in rounds), 1),
        "overhead": f"{100 * (statistics.median(ratios) - 1):+.1f} %",
        "processor time": f"{100 * (processor - 1):+.1f} %",
        "least and largest": f"{100 * (ratios[0] - 1):+.1f} to {100 * (ratios[-1] - 1):+.1f} %",
    }


def main() -> None:
    """All kernels with all numbers of processes, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as place:
        rows = [
            {"kernel (H5bench)": name, "processes": count} | together(second, count, place)
            for name, second in KERNELS.items()
            for count in PROCESSES
        ]
    notes = [
        f"{ROUNDS} rounds, the order changing; datasets of 4 MiB; a process has one thread, the machine two cores"
    ]
    store(
        "provenance-processes",
        "What tracking costs several processes",
        "python benchmarks/provenance_processes.py",
        rows,
        notes,
    )


if __name__ == "__main__":
    main()
