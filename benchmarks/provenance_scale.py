"""Questions to long histories: how fast records come into the index, how large it is, how long a question takes.

    python benchmarks/provenance_scale.py                     # ten million events; half an hour, 6 GB of disk
    python benchmarks/provenance_scale.py --events 200000     # a minute; stores nothing
    python benchmarks/provenance_scale.py --graph             # the store for SPARQL, of 20,000 events

The history is that of a team: data sets are prepared shard by shard (written aside and renamed), trainings read shards in
several epochs with forked workers, write checkpoints aside and rename them, overwrite the last one and append to a log;
evaluations read checkpoints. Every step runs in a process of its own, so that the peak of its memory is its own.
"""

import argparse
import json
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from sparsam.provenance.writer import MAGIC

SHARDS, EPOCHS, CHECKPOINTS, DATA_SETS = 2000, 3, 40, 20
START = 1_700_000_000_000_000_000


class Told:
    """The log of one process, written in one go."""

    def __init__(self, folder: Path, pid: int, clock: list[int]) -> None:
        self.folder, self.pid, self.clock, self.started = folder, pid, clock, clock[0]
        self.content, self.count, self.handle = bytearray(MAGIC), 0, 0

    def __call__(self, kind: str, facts: str) -> None:
        self.clock[0] += 20_000
        payload = f'[{self.clock[0]},"{kind}",{{{facts}}}]'.encode()
        body = struct.pack("<Q", self.count) + payload
        self.content += struct.pack("<II", len(payload), zlib.crc32(body)) + body
        self.count += 1

    def process(self, run: str, parent: "Told | None" = None) -> None:
        more = "" if parent is None else f',"parent":["node",{parent.pid},{parent.started}],"forked":true'
        self(
            "process",
            f'"argv":["python","train.py","--run","{run}"],"cwd":"/work","user":"jo","run":"{run}"{more}',
        )

    def read(self, path: str, inode: int, size: int = 268_435_456, scope: int | None = None) -> None:
        self.handle += 1
        more = "" if scope is None else f',"scope":"{scope}"'
        self(
            "open",
            f'"handle":{self.handle},"path":"{path}","mode":"r","inode":[65024,{inode}],"size":{size},"changed":{inode}{more}',
        )
        self(
            "close",
            f'"handle":{self.handle},"reads":9,"bytes_read":{size},"seconds_read":0.{self.clock[0] % 100000:05d}',
        )

    def write(self, path: str, inode: int, size: int = 1_073_741_824, scope: int | None = None) -> None:
        self.handle += 1
        more = "" if scope is None else f',"scope":"{scope}"'
        self(
            "open",
            f'"handle":{self.handle},"path":"{path}","mode":"w","created":true,"inode":[65024,{inode}]{more}',
        )
        self(
            "close",
            f'"handle":{self.handle},"writes":40,"bytes_write":{size},"seconds_write":0.5,"size":{size},"changed":{inode}',
        )

    def append(self, path: str) -> None:
        self.handle += 1
        self("open", f'"handle":{self.handle},"path":"{path}","mode":"w"')
        self("writing", f'"handle":{self.handle}')
        self("close", f'"handle":{self.handle},"writes":1,"bytes_write":80,"seconds_write":0.0001')

    def rename(self, source: str, target: str) -> None:
        self("rename", f'"source":"{source}","target":"{target}","scope":null')

    def end(self) -> int:
        self("end", '"status":0')
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"node-{self.pid}-{self.started}.log").write_bytes(self.content)
        return self.count


class Team:
    """Writes run after run."""

    def __init__(self, base: Path) -> None:
        self.base, self.clock, self.pids, self.nodes = (
            base,
            [START],
            iter(range(100, 1 << 30)),
            iter(range(1, 1 << 40)),
        )
        self.draw, self.shards, self.runs = random.Random(0), dict[str, int](), 0
        self.last = ("", "")  # a training, and a checkpoint of it

    def told(self, run: str) -> Told:
        return Told(self.base / ".sparsam" / "runs" / run, next(self.pids), self.clock)

    def name(self, what: str) -> str:
        self.runs += 1
        return f"{self.runs:06d}-{what}"

    def prepared(self, data: int, shards: int = SHARDS) -> int:
        run = self.name("prepare")
        told = self.told(run)
        told.process(run)
        for at in range(shards):
            path, node = f"/data/set{data}/shard-{at:05d}.parquet", next(self.nodes)
            told.read(f"/data/raw/set{data}/part-{at:05d}.csv", next(self.nodes))
            told.write(path + ".tmp", node, 268_435_456)
            told.rename(path + ".tmp", path)
            self.shards[path] = node
        return told.end()

    def trained(self, data: int, shards: int = SHARDS) -> int:
        run = self.name("train")
        told = self.told(run)
        told.process(run)
        workers = [self.told(run) for _ in range(2)]
        for worker in workers:
            worker.process(run, told)
        told("config", f'"name":"rate","value":{self.draw.random():.4f}')
        paths = [f"/data/set{data}/shard-{at:05d}.parquet" for at in range(shards)]
        out, every = f"/out/{run}", max(1, shards * EPOCHS // CHECKPOINTS)
        self.last = (run, f"{out}/last.safetensors")
        for step in range(shards * EPOCHS):
            if step % shards == 0:
                self.draw.shuffle(paths)
            path = paths[step % shards]
            self.draw.choice(workers).read(path, self.shards[path])
            if step % every == every - 1:
                for name in (f"{out}/step-{step}.safetensors", f"{out}/last.safetensors"):
                    told.write(name + ".tmp", next(self.nodes))
                    told.rename(name + ".tmp", name)
                told.append(f"{out}/train.log")
                told("metric", f'"name":"loss","value":{1 / (1 + step):.6f},"scope":null')
        told("metric", f'"name":"accuracy","value":{self.draw.random():.6f},"scope":null')
        return sum(x.end() for x in (*workers, told))

    def history(self, events: int, shards: int = SHARDS) -> Iterator[int]:
        """Events, run after run, until there are enough."""
        count, data = 0, 0
        while count < events:
            if data < DATA_SETS and (data == 0 or self.runs > 2 * data):
                count += self.prepared(data, shards)
                data += 1
            else:
                count += self.trained(self.draw.randrange(data), shards)
            yield count


def chain(base: Path, length: int) -> None:
    """Each generation in a scope of its own, from the one before; a hundred programs, one after the other."""
    team, part = Team(base), max(1, length // 100)
    for start in range(0, length, part):
        told = team.told(f"chain-{start:06d}")
        for at in range(start, start + part):
            told("scope", f'"id":"{at}","name":"step {at}","parent":null')
            if at:
                told.read(f"/chain/{at - 1}", at, scope=at)
            told.write(f"/chain/{at}", at + 1, 268_435_456, scope=at)
            told("scope-end", f'"id":"{at}"')
        told.end()


def wide(base: Path, width: int) -> None:
    """One checkpoint from so many files."""
    told = Team(base).told("wide")
    for at in range(width):
        told.read(f"/images/{at // 1000:03d}/{at:06d}.jpg", at + 1)
    told.write("/out/wide.safetensors", width + 1)
    told.end()


# what is measured, each in a process of its own


def _index(base: Path) -> Any:
    from sparsam.provenance.index import Index, indexed

    found = indexed(base / ".sparsam")
    assert isinstance(found, Index)
    return found


def ingest(base: Path, *_: str) -> dict[str, Any]:
    """Bring up to date."""
    started = time.perf_counter()
    _index(base).close()
    return {"seconds": time.perf_counter() - started}


def lineage(base: Path, path: str) -> dict[str, Any]:
    """The whole answer, states of the files included."""
    from sparsam.provenance import questions

    started = time.perf_counter()
    steps = questions.lineage(_index(base), path)
    return {"seconds": time.perf_counter() - started, "answers": len(steps)}


def impact(base: Path, path: str) -> dict[str, Any]:
    """The other way."""
    from sparsam.provenance import questions

    started = time.perf_counter()
    steps = questions.impact(_index(base), path)
    return {"seconds": time.perf_counter() - started, "answers": len(steps)}


def runs(base: Path, *_: str) -> dict[str, Any]:
    """All runs with their counts and results."""
    from sparsam.provenance import questions

    started = time.perf_counter()
    with _index(base) as found:
        rows = questions.runs(found)
    return {"seconds": time.perf_counter() - started, "answers": len(rows)}


def profile(base: Path, run: str) -> dict[str, Any]:
    """Of one run."""
    from sparsam.provenance import questions

    started = time.perf_counter()
    rows = questions.io_profile(_index(base), run)
    return {"seconds": time.perf_counter() - started, "answers": len(rows)}


def graph(base: Path, *_: str) -> dict[str, Any]:
    """The store for SPARQL brought up to date."""
    from sparsam.provenance import store

    started = time.perf_counter()
    store.built(base / ".sparsam")
    return {"seconds": time.perf_counter() - started}


def sparql(base: Path, run: str) -> dict[str, Any]:
    """A question in SPARQL, to the store as it is."""
    from sparsam.provenance import store

    started = time.perf_counter()
    answer = store.query(store.sparql_of("io-profile", run=run), base / ".sparsam")
    return {"seconds": time.perf_counter() - started, "answers": len(answer.rows)}


def rebuilt(base: Path, path: str) -> dict[str, Any]:
    """As before there was an index: all logs into memory."""
    import sparsam.provenance as provenance
    from sparsam.provenance import questions

    started = time.perf_counter()
    steps = questions.lineage(provenance.recorded(base / ".sparsam"), path)
    return {"seconds": time.perf_counter() - started, "answers": len(steps)}


def command(base: Path, *words: str) -> dict[str, Any]:
    """A command, its interpreter's start included."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "sparsam", *words, "--folder", str(base / ".sparsam")],
        capture_output=True,
        check=True,
    )
    return {"seconds": time.perf_counter() - started, "answers": len(done.stdout.splitlines())}


WORKS: dict[str, Callable[..., dict[str, Any]]] = {
    x.__name__: x for x in (ingest, lineage, impact, runs, profile, graph, sparql, rebuilt, command)
}


def measured(what: str, work: str, base: Path, *words: str, times: int = 1) -> dict[str, Any]:
    """The quickest of so many; the largest memory."""
    found = []
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, __file__, "--work", work, str(base), *words],
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    best = min(found, key=lambda x: x["processor"])
    row = {
        "what": what, "processor, s": round(best["processor"], 3), "wall, s": round(min(x["seconds"] for x in found), 3),
        "peak, MB": round(max(x["peak"] for x in found) / 1024),
    }  # fmt: skip
    if "answers" in best:
        row["answers"] = best["answers"]
    print(row, flush=True)
    return row


def size_of(folder: Path) -> int:
    """Bytes of all files."""
    return sum(x.stat().st_size for x in folder.rglob("*") if x.is_file())


def graphs() -> None:
    """The store for SPARQL, made and followed."""
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        team, rows = Team(base), []
        for count in team.history(20_000, 100):
            last = count
        rows.append({"events": last} | measured("index", "ingest", base))
        rows.append({"events": last} | measured("store made", "graph", base))
        size = size_of(base / ".sparsam" / "graph")
        rows[-1]["bytes an event"] = round(size / last)
        rows.append({"events": last} | measured("a question", "sparql", base, team.last[0], times=3))
        more = team.trained(0, 100)
        rows.append({"events": more} | measured("one more run ingested", "ingest", base))
        rows.append({"events": more} | measured("and followed", "graph", base))
        rows.append({"events": last + more} | measured("a question", "sparql", base, team.last[0], times=3))
    from tables import store

    notes = [
        "as provenance-scale, with data sets of 100 shards; a question is the profile of a run, in a process of its own",
        "the store writes every derivation out: a checkpoint from n files is n statements",
    ]
    store(
        "provenance-scale-graph",
        "The store for SPARQL follows",
        "python benchmarks/provenance_scale.py --graph",
        rows,
        notes,
    )


def main() -> None:
    """All of it, in a folder that is thrown away."""
    options = argparse.ArgumentParser()
    options.add_argument("--events", type=int, default=10_000_000)
    options.add_argument("--length", type=int, default=100_000)
    options.add_argument("--shards", type=int, default=SHARDS)
    options.add_argument("--graph", action="store_true")
    options.add_argument("--work", nargs="+")
    asked = options.parse_args()
    if asked.work:
        work, base, *words = asked.work
        before = resource.getrusage(resource.RUSAGE_SELF)
        found = WORKS[work](Path(base), *words)
        who = resource.RUSAGE_CHILDREN if work == "command" else resource.RUSAGE_SELF
        used = resource.getrusage(who)
        spent = used.ru_utime + used.ru_stime
        if work != "command":  # the libraries' import is no part of it
            spent -= before.ru_utime + before.ru_stime
        print(json.dumps(found | {"processor": spent, "peak": used.ru_maxrss}))
        return
    if asked.graph:
        graphs()
        return
    rows = []
    with tempfile.TemporaryDirectory() as place:
        base, team = Path(place) / "team", None
        team = Team(base)
        for count in team.history(asked.events, asked.shards):
            last = count
        logs = size_of(base)
        print(f"{last:,} events in {team.runs} runs, {logs / 1e6:,.0f} MB", flush=True)
        row = measured("all ingested", "ingest", base)
        index = size_of(base / ".sparsam" / "index")
        row |= {
            "events": last, "events a second": round(last / row["processor, s"]), "log, bytes an event": round(logs / last, 1),
            "index, bytes an event": round(index / last, 1),
        }  # fmt: skip
        rows.append(row)
        run, checkpoint = team.last
        rows.append(measured("lineage of a checkpoint", "lineage", base, checkpoint, times=3))
        rows.append(measured("the same, as a command", "command", base, "lineage", checkpoint, times=3))
        rows.append(
            measured("impact of a raw file", "impact", base, "/data/raw/set0/part-00000.csv", times=3)
        )
        rows.append(measured("a run's calls", "profile", base, run, times=3))
        rows.append(measured("all runs", "runs", base, times=3))
        more = team.trained(0, asked.shards)
        row = measured("one more run ingested, lineage", "lineage", base, checkpoint)
        rows.append(row | {"events": more})
        for name, make in (("chain", chain), ("wide", wide)):
            make(Path(place) / name, asked.length)
            row = measured(f"{name} of {asked.length:,} ingested", "ingest", Path(place) / name)
            rows.append(row)
            path = f"/chain/{asked.length - 1}" if name == "chain" else "/out/wide.safetensors"
            rows.append(measured(f"its lineage, {name}", "lineage", Path(place) / name, path, times=3))
        if asked.events <= 1_000_000:
            rows.append(measured("rebuilt in memory", "rebuilt", base, checkpoint))
    if asked.events < 10_000_000:
        return
    from tables import store

    notes = [
        "each row in a process of its own, one thread; the quickest of three for questions; files lie in the system's cache",
        "processor: user and system time of the process, which a loaded machine hardly changes; events a second are by it",
        "wall time is under load where it is much longer",
        "questions bring the index up to date first: they ask the size and time of each log",
    ]
    store(
        "provenance-scale",
        "Questions to ten million events",
        "python benchmarks/provenance_scale.py",
        rows,
        notes,
    )


if __name__ == "__main__":
    main()
