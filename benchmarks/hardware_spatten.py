"""SpAtten's simulator: how fast it is, and the authors' workload tables run through it.

    python benchmarks/hardware_spatten.py speed            # rows, selections and layers a second
    python benchmarks/hardware_spatten.py tables FOLDER    # spatten_hardware/hardware/workloads of mit-han-lab/spatten

Cycles and bytes are simulated, seconds are of this machine's clock.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from tables import store

from sparsam.hardware import simulate
from sparsam.hardware.machine import machine_of
from sparsam.hardware.spatten_generation import Decoder, Pruning, generate
from sparsam.hardware.spatten_pipeline import Engine, run_rows, stages_apart
from sparsam.hardware.spatten_rows import Rows, read_rows
from sparsam.hardware.spatten_topk import mean_cycles, rank_cycles, select_rows
from sparsam.workload import Attention, Workload, rounded

MACHINES = ("spatten", "spatten-eighth")
TOKENS = (0.93, 0.72, *(0.205,) * 4, *(0.103,) * 6)
"""Shares of the prompt that GPT-2 small's layers keep: 921, 716, 204 and 102 of 993 in the authors' table."""


def best(run: Callable[[], Any], times: int = 5) -> float:
    """Seconds of the quickest of some runs, after one that compiles."""
    run()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


def generation_rows(copies: int = 1) -> Rows:
    """Rows with GPT-2 small's sizes: 32 tokens, 12 layers, 12 heads, a fifteenth of them unsure."""
    step, layer, head = (
        x.ravel() for x in np.meshgrid(np.arange(32 * copies), np.arange(12), np.arange(12), indexing="ij")
    )
    keys = np.array((921, 716, *(204,) * 4, *(102,) * 6))[layer]
    return Rows.of(
        iteration=step, layer=layer, head=head, width=64, keys=keys, values=keys // 5, key_bits=6, value_bits=6, low_bits=4,
        refetch=(np.arange(len(step)) % 15 == 0).astype(np.int64),
    )  # fmt: skip


def bert_rows(sentences: int, tokens: int, kept: float = 1.0) -> Rows:
    """BERT-base: a record a head, its queries follow one another."""
    layer, _, head = (
        x.ravel() for x in np.meshgrid(np.arange(12), np.arange(sentences), np.arange(12), indexing="ij")
    )
    return Rows.of(
        layer=layer, head=head, width=64, keys=tokens, values=max(1, int(tokens * kept)), key_bits=8, value_bits=8,
        queries=tokens, late=0, other=224,
    )  # fmt: skip


def bert_layers(tokens: int) -> Workload:
    """Twelve layers of attention on random numbers of 8 bits."""
    rng = np.random.default_rng(0)
    layers = []
    for number in range(12):
        q, k, v = (rounded(rng.standard_normal((tokens, 12, 64))) for _ in range(3))
        layers.append(Attention(f"layer {number}", q, k, v, np.array([tokens]), 0.125))
    return Workload(layers)


def speed() -> None:
    """One table."""
    full = Engine.of(machine_of("spatten"))
    rng, rows = np.random.default_rng(0), []

    def add(what: str, many: int, of: str, seconds: float) -> None:
        rows.append({"what": what, "count": many, "of": of, "seconds": seconds, "a second": many / seconds})
        print(rows[-1], flush=True)

    n, k = np.full(1_000_000, 1024), np.full(1_000_000, 128)
    add("selector by ranks, 128 of 1024", len(n), "selections", best(lambda: rank_cycles(n, k, 16)))
    scores = rng.random((20_000, 384), np.float32)
    w, kept = np.full(20_000, 384), np.full(20_000, 100)
    add(
        "selector on real scores, 100 of 384",
        20_000,
        "selections",
        best(lambda: select_rows(scores, w, kept, 16)),
    )
    mean_cycles.cache_clear()
    start = time.perf_counter()
    mean_cycles(1024, 16)
    add("table of mean cycles up to 1024", 1024 * 1025 // 2, "means", time.perf_counter() - start)
    once = generation_rows()
    add("pipeline, GPT-2 small's 32 tokens", len(once), "rows", best(lambda: run_rows(once, full)))
    many = generation_rows(200)
    add("pipeline, 200 times that", len(many), "rows", best(lambda: run_rows(many, full), 3))
    part = many[slice(0, 400_000)]
    add(
        "the plain form in NumPy, stage by stage", len(part), "rows",
        best(lambda: stages_apart(part, full, np.zeros(len(part), np.int64)), 3),
    )  # fmt: skip
    for tokens, share in ((128, 1.0), (128, 0.7), (25, 1.0)):
        bert = bert_rows(1000, tokens, share)
        what = f"BERT-base, 1000 sentences of {tokens} tokens" + (", values selected" if share < 1 else "")
        add(what, int(bert.queries.sum()), "rows", best(lambda bert=bert: run_rows(bert, full), 3))
    workload, machine = bert_layers(384), machine_of("spatten")
    add(
        "BERT-base's attention at 384 tokens, numbers and all",
        12 * 12 * 384,
        "rows",
        best(lambda: simulate(workload, machine), 2),
    )
    decoder, pruning = Decoder.random(12, 12, 64, sharp=3.0), Pruning.of(machine, TOKENS)
    prompt = rng.integers(0, 256, 993)
    add(
        "generation, GPT-2 small's shape, 993 + 32 tokens, numbers and all", 32 * 144, "rows",
        best(lambda: generate(decoder, prompt, 32, pruning, full), 1),
    )  # fmt: skip
    store(
        "hardware-spatten", "Speed of SpAtten's simulator", "python benchmarks/hardware_spatten.py speed", rows,
        ["seconds of the best of some runs, compiled before; the machine was under load"],
    )  # fmt: skip


def tables(folder: Path) -> None:
    """One table: each of the authors' files on each machine."""
    rows = []
    for file in sorted(folder.glob("summary-*.csv")):
        read = read_rows(file)
        model = "medium" if "medium" in file.name else "small"
        heads, layers = (16, 24) if model == "medium" else (12, 12)
        everyone = heads * layers * len(np.unique(read.iteration))
        for name in MACHINES:
            engine = Engine.of(machine_of(name))
            found, apart = run_rows(read, engine), run_rows(read, engine, by_layer=True)
            bench = run_rows(read_rows(file, as_bench=True), engine)
            others = {many: run_rows(read, replace(engine, comparators=many)).cycles for many in (1, 32)}
            rows.append(
                {
                    "file": file.stem[:34], "machine": name, "rows": len(read), "of": everyone,
                    "keys": float(read.keys.mean()), "values": float(read.values.mean()),
                    "unsure %": 100 * float(read.refetch.mean()),
                    "fp32 / bytes": read.dense_bytes(32, everyone) / read.kv_bytes,
                    "12 bits / bytes": read.dense_bytes(12, everyone) / read.kv_bytes,
                    "cycles": found.cycles, "layers apart": apart.cycles, "as the bench maps": bench.cycles,
                    "longest stage": max(found.busy, key=lambda x: found.busy[x]),
                    "operations / cycle": 2 * read.macs / found.cycles,
                    "1 comparator": others[1] / found.cycles, "32 comparators": others[32] / found.cycles,
                    "seconds": best(lambda read=read, engine=engine: run_rows(read, engine), 3),
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    store(
        "hardware-spatten-tables", "The authors' workload tables on SpAtten",
        "python benchmarks/hardware_spatten.py tables FOLDER", rows,
        [
            "files of mit-han-lab/spatten at a0f1388, not part of sparsam; cycles, bytes and operations are simulated",
            "1 and 32 comparators: cycles over those with 16",
        ],
    )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:] == ["speed"]:
        speed()
    elif len(sys.argv) == 3 and sys.argv[1] == "tables":
        tables(Path(sys.argv[2]))
    else:
        sys.exit(__doc__)
