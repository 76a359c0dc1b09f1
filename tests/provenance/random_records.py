"""Records of random programs that do everything the log can tell, in orders that programs would not think of."""

import random
from typing import Any

from sparsam.provenance.log import Record, Writer

KINDS = (
    *["open"] * 8, *["close"] * 8, "writing", "reading", "fsync", "rename", "rename", "link", "remove", "mkdir", "object",
    "object", "derived", "hash", "scope", "scope-end", "config", "metric", "type", "unseen", "opens", "touched", "end", "odd",
    "folder", "account", "account", "calibration", "decision", "decision", "pipe", "pipe", "pipe",
)  # fmt: skip


def random_records(seed: int, count: int = 400, programs: int = 5) -> list[Record]:
    """In order of time, which several programs share here and there."""
    draw = random.Random(seed)
    hosts = ["here", "there"] if seed % 3 == 0 else ["here"]
    writers = [Writer(draw.choice(hosts), pid, 1) for pid in range(1, programs + 1)]
    numbers = dict.fromkeys(writers, 0)
    handles: dict[Writer, list[int]] = {x: [] for x in writers}
    scopes: dict[Writer, list[str]] = {x: [] for x in writers}
    folders = ["/d", "/e", "/d/é"]
    paths = [f"{folder}/f{at}" for folder in folders for at in range(4)]
    found: list[Record] = []
    clock = 10

    def tell(writer: Writer, kind: str, **facts: Any) -> None:
        found.append(Record(writer, numbers[writer], clock, kind, facts))
        numbers[writer] += 1

    for at, writer in enumerate(writers):
        facts: dict[str, Any] = {"run": f"r{at % 2}", "argv": ["python", f"{at}.py"]}
        if at and draw.random() < 0.7:
            facts |= {"parent": list(draw.choice(writers[:at])), "forked": draw.random() < 0.5}
            if draw.random() < 0.2:
                facts["worker"] = True
        if draw.random() < 0.9:
            tell(writer, "process", **facts)
    for writer in list(writers):
        if draw.random() < 0.3:  # seen from C as well
            below = Writer(writer.host, writer.pid, 2)
            writers.append(below)
            numbers[below], handles[below], scopes[below] = 0, [], []
            tell(below, "process", of=draw.choice([list(writer), list(writer), ["odd"]]))
    while len(found) < count:
        clock += draw.choice([0, 1, 1, 1])
        writer = draw.choice(writers)
        kind, path = draw.choice(KINDS), draw.choice(paths)
        scope = draw.choice([None, *scopes[writer][-3:]])
        handle = draw.choice(handles[writer] or [999])
        if kind == "open":
            facts = {"path": path, "mode": draw.choice(["r", "r", "r", "w", "rw"])}
            facts |= {"handle": draw.randint(1, 12), "scope": scope, "seconds": draw.random()}
            facts["handle"] += (1 << 40) * (writer.started == 2)
            if draw.random() < 0.1:
                facts["failed"] = 2
            else:
                handles[writer].append(facts["handle"])
            if facts["mode"] != "r" and draw.random() < 0.6:
                facts[draw.choice(["created", "emptied"])] = True
            if draw.random() < 0.4:
                facts["inode"] = [1, draw.randint(1, 9)]
            if draw.random() < 0.3:
                facts |= {"size": draw.randint(0, 3), "changed": draw.randint(0, 2)}
            tell(writer, "open", **facts)
        elif kind == "close":
            facts = {"handle": handle}
            if draw.random() < 0.6:
                facts |= {"reads": 2, "bytes_read": 10, "seconds_read": 0.5}
            if draw.random() < 0.3:
                facts |= {
                    "writes": 1,
                    "bytes_write": 3,
                    "size": draw.randint(0, 3),
                    "changed": draw.randint(0, 2),
                }
            if draw.random() < 0.2:
                facts["inode"] = [1, draw.randint(1, 9)]
            if draw.random() < 0.2:
                calls = [draw.choice(["create", "read", "write"]) for _ in range(draw.randint(1, 3))]
                facts["objects"] = [
                    ["dataset", draw.choice(["/x", "/y"]), x, 2, 8, 0.5, clock - 3] for x in calls
                ]
            if handle in handles[writer]:
                handles[writer].remove(handle)
            tell(writer, "close", **facts)
        elif kind == "pipe":
            tell(writer, "pipe", pipe=[7, draw.randint(1, 4)], way=draw.choice(["in", "out"]))
        elif kind in ("writing", "reading", "fsync"):
            tell(writer, kind, handle=handle)
        elif kind in ("rename", "link"):
            other = draw.choice([*paths, f"/new/{draw.randint(0, 9)}"])
            tell(writer, kind, source=path, target=other, **({"scope": scope} if kind == "rename" else {}))
        elif kind == "folder":
            source, target = draw.sample(folders, 2)
            tell(writer, "rename", source=source, target=target, scope=None)
        elif kind in ("remove", "mkdir"):
            tell(writer, kind, path=path)
        elif kind == "object":
            facts = {
                "handle": handle,
                "object": draw.choice(["dataset", "group"]),
                "name": draw.choice(["/x", "/y"]),
            }
            tell(writer, "object", **facts, call=draw.choice(["create", "open", "read", "write"]), bytes=8)
        elif kind == "derived":
            tell(writer, "derived", target=path, sources=draw.sample(paths, draw.randint(1, 3)))
        elif kind == "account":
            made_with = {draw.choice("ab"): draw.randint(0, 3)}
            tell(writer, kind, path=path, configuration=made_with, metrics={"accuracy": draw.random()})
        elif kind == "calibration":
            rows = draw.choice([draw.randint(1, 9), "many"])  # which is no number
            sources = draw.sample(paths, draw.randint(0, 2))
            tell(writer, kind, path=path, name=draw.choice("xy"), rows=rows, split="train", sources=sources)
        elif kind == "decision":
            what = draw.choice(["mask", "threshold", "no-such-decision"])
            facts = {
                "name": "layer 0 heads",
                "value": draw.randint(0, 9),
                "calibration": draw.choice(["x", "y", None]),
            }
            tell(writer, kind, path=path, what=what, **facts)
        elif kind in ("hash", "touched"):
            facts = {
                "path": path,
                "size": draw.choice([None, 0, 1, 2, 3]),
                "changed": draw.choice([None, 0, 1, 2]),
            }
            tell(writer, kind, **facts, **({"sha256": f"{clock:064x}"} if kind == "hash" else {}))
        elif kind == "scope":
            name = f"{writer.pid}.{numbers[writer]}"
            stage = {"stage": True} if draw.random() < 0.4 else {}
            tell(writer, "scope", id=name, name=f"scope {name}", parent=scope, **stage)
            scopes[writer].append(name)
        elif kind == "scope-end":
            if scopes[writer]:
                tell(writer, "scope-end", id=scopes[writer].pop())
        elif kind in ("config", "metric"):
            tell(writer, kind, name=draw.choice("ab"), value=draw.choice([1, 0.5, "x", [1, None]]))
        elif kind == "type":
            tell(writer, "type", name="Synthetic")
        elif kind == "unseen":
            tell(writer, "unseen", what="something")
        elif kind == "opens":
            tell(writer, "opens", path=path, count=7)
        elif kind == "end":
            if draw.random() < 0.2:
                tell(writer, "end", status=0)
        else:
            tell(writer, draw.choice(["close", "open", "no-such-kind"]), odd=True)
    return found
