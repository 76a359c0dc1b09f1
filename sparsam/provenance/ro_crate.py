"""A history as an RO-Crate 1.1: ``ro-crate-metadata.json`` of the Process Run Crate and Workflow Run Crate profiles, 0.5.

A run whose command names a script is an execution of a workflow (the script); every program in it is the execution of a tool.
Files are named by where they lie (``file://``), older generations by their ids. What lies inside HDF5 files is left out: a
crate has files. Sizes, hashes, settings, results, bytes and seconds in calls are said; that no licence is known is said too.
"""

import json
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from sparsam.provenance.graph import Entity, History, Program
from sparsam.provenance.index import Recorded
from sparsam.provenance.rdf import text, when
from sparsam.provenance.runs import recorded
from sparsam.provenance.terms import IO

CONTEXT = ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
WORKFLOW = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
Node = dict[str, Any]


def crate(found: Recorded) -> bytes:
    """The metadata of a crate, as JSON-LD; made from a history in memory, into which an index is read."""
    return _Crate(found if isinstance(found, History) else recorded(found.folder)).made()


def _ref(name: str) -> Node:
    return {"@id": name}


class _Crate:
    def __init__(self, found: History) -> None:
        self.found = found
        self.nodes: dict[str, Node] = {}
        self.current = set(found.current.values())
        self.read: dict[str, list[str]] = {}  # program: entities
        self.usage: dict[str, dict[str, float]] = {}
        for call in found.calls.values():
            sums = self.usage.setdefault(
                call.program, {"bytesRead": 0, "bytesWritten": 0, "secondsInCalls": 0.0}
            )
            sums["secondsInCalls"] += call.seconds
            if call.kind in ("read", "write") and found.entities[call.entity].kind == "file":
                sums["bytesRead" if call.kind == "read" else "bytesWritten"] += call.bytes
            if call.kind == "read" and found.entities[call.entity].kind == "file":
                self.read.setdefault(call.program, []).append(call.entity)
        self.written: dict[str, list[str]] = {}
        for one in found.entities.values():
            if one.by is not None and one.kind == "file":
                self.written.setdefault(one.by, []).append(one.id)

    def made(self) -> bytes:
        actions, workflows = [], []
        by_run: dict[str, list[Program]] = {}
        for one in self.found.programs.values():
            by_run.setdefault(one.run, []).append(one)
        for run, programs in by_run.items():
            workflow = self.workflow(run, programs)
            if workflow is not None:
                workflows.append(workflow)
                actions.append(self.run(run, programs, workflow))
            actions += [
                self.action(x)
                for x in programs
                if x.id in self.read or x.id in self.written or len(programs) == 1
            ]
        root = self.root(actions, workflows)
        return json.dumps({"@context": CONTEXT, "@graph": [*root, *self.nodes.values()]}, indent=1).encode()

    def root(self, actions: list[str], workflows: list[str]) -> Iterator[Node]:
        profiles = list(PROFILES) if workflows else [next(iter(PROFILES))]
        conforms = ["https://w3id.org/ro/crate/1.1", *(profiles[2:])]
        yield {
            "@id": "ro-crate-metadata.json", "@type": "CreativeWork", "about": _ref("./"),
            "conformsTo": [_ref(x) for x in conforms],
        }  # fmt: skip
        last = max((x.ended or x.began for x in self.found.programs.values()), default=0)
        made: Node = {
            "@id": "./", "@type": "Dataset", "name": "Recorded runs", "datePublished": when(last).isoformat(),
            "description": f"{len(self.found.programs)} programs and the files that they read and wrote, as recorded.",
            "license": _ref("#licence"), "conformsTo": [_ref(x) for x in profiles],
            "hasPart": [_ref(key) for key, one in self.nodes.items() if "File" in one["@type"]],
            "mentions": [_ref(x) for x in actions],
        }  # fmt: skip
        if workflows:
            made["mainEntity"] = _ref(workflows[-1])
        yield made
        yield {
            "@id": "#licence",
            "@type": "CreativeWork",
            "name": "not stated",
            "description": "Nobody said under which.",
        }
        for key in profiles:
            yield {"@id": key, "@type": "CreativeWork", "name": PROFILES[key][0], "version": PROFILES[key][1]}

    def put(self, node: Node) -> Node:
        """A node, once; a reference to it."""
        self.nodes.setdefault(node["@id"], node)
        return _ref(node["@id"])

    def file(self, one: Entity) -> Node:
        name = one.names[-1]
        lies = one.id in self.current and one.host and name.startswith("/")
        key = "file://" + quote(text(name)) if lies else f"#{one.id}"
        made: Node = {
            "@id": key,
            "@type": "File",
            "name": text(os.path.basename(name) or name),
            "alternateName": text(name),
        }
        if one.size is not None:
            made["contentSize"] = str(one.size)
        if one.sha256 is not None:
            made["sha256"] = one.sha256
        if not lies:
            made["description"] = f"Generation {one.generation} of {text(name)}, which no longer lies there."
        if one.by is not None:
            made["dateCreated"] = when(one.began).isoformat()
        return self.put(made)

    def value(self, owner: str, kind: str, name: str, value: Any) -> Node:
        plain = value if isinstance(value, bool | int | str) else json.dumps(value)
        return self.put(
            {
                "@id": f"#{kind}-{owner}-{quote(text(name), safe='')}", "@type": "PropertyValue", "name": text(name),
                "propertyID": IO + kind, "value": text(plain) if isinstance(plain, str) else plain,
            }
        )  # fmt: skip

    def agent(self, one: Program) -> Node | None:
        user = one.facts.get("user")
        if not user:
            return None
        return self.put(
            {"@id": f"#user-{quote(text(str(user)), safe='')}", "@type": "Person", "name": text(str(user))}
        )

    def script(self, one: Program) -> str | None:
        """The script that a command runs; None for one that runs none."""
        for word in map(str, one.facts.get("argv", ())):
            if word.endswith((".py", ".sh")) and not word.startswith("-"):
                return os.path.normpath(os.path.join(str(one.facts.get("cwd") or "/"), word))
        return None

    def tool(self, one: Program) -> Node:
        argv = [str(x) for x in one.facts.get("argv", ())]
        script = self.script(one)
        shown = os.path.basename(script or (argv[0] if argv else "program"))
        python = one.facts.get("python")
        commit = self.commit(one)
        key = "-".join(
            quote(text(x), safe="") for x in (script or shown, str(python or ""), commit or "") if x
        )
        made: Node = {"@id": f"#tool-{key}", "@type": "SoftwareApplication", "name": text(shown)}
        if commit:
            made["softwareVersion"] = commit
        if python:
            needed = {
                "@id": f"#python-{python}", "@type": "SoftwareApplication", "name": "Python", "version": str(python),
                "url": "https://www.python.org/",
            }  # fmt: skip
            made["softwareRequirements"] = made["mainEntity"] = self.put(needed)
        return self.put(made)

    def commit(self, one: Program) -> str | None:
        """Of the code, as it was when the run began."""
        own = [x for x in self.found.programs.values() if x.run == one.run]
        code: dict[str, Any] = next(
            (x.facts["code"] for x in (one, *own) if isinstance(x.facts.get("code"), dict)), {}
        )
        commit = str(code.get("commit") or "")
        return f"{commit}{' with changes' if code.get('changed') else ''}" if commit else None

    def workflow(self, run: str, programs: list[Program]) -> str | None:
        first = min(programs, key=lambda x: x.began)
        script = self.script(first)
        if script is None or first.id in self.found.imported:
            return None
        made: Node = {
            "@id": "file://" + quote(text(script)), "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
            "name": text(os.path.basename(script)), "conformsTo": _ref(WORKFLOW),
            "programmingLanguage": self.put(
                {"@id": "#python", "@type": "ComputerLanguage", "name": "Python", "url": "https://www.python.org/"}
            ),
        }  # fmt: skip
        if commit := self.commit(first):
            made["version"] = commit
        name: str = self.put(made)["@id"]
        return name

    def run(self, run: str, programs: list[Program], workflow: str) -> str:
        """The execution of a workflow: what came from outside, and what was left at the end."""
        ids = {x.id for x in programs}
        read = dict.fromkeys(
            x for p in programs for x in self.read.get(p.id, ()) if self.found.entities[x].by not in ids
        )
        written = dict.fromkeys(x for p in programs for x in self.written.get(p.id, ()) if x in self.current)
        first = min(programs, key=lambda x: x.began)
        return self.execution(
            f"#run-{quote(text(run), safe='')}", f"Run {run}", first, programs, read, written, workflow
        )

    def action(self, one: Program) -> str:
        read = dict.fromkeys(x for x in self.read.get(one.id, ()) if self.found.entities[x].by != one.id)
        name = f"Run of {self.script(one) or ' '.join(map(str, one.facts.get('argv', ())))}"
        tool: str = self.tool(one)["@id"]
        return self.execution(
            f"#{one.id}", name, one, [one], read, dict.fromkeys(self.written.get(one.id, ())), tool
        )

    def execution(
        self, key: str, name: str, first: Program, programs: list[Program], read: dict[str, None],
        written: dict[str, None], instrument: str,
    ) -> str:  # fmt: skip
        ends = [x.ended for x in programs if x.ended is not None]
        settings = {k: v for x in programs for k, v in x.configuration.items()}
        results = {n: v for x in programs for _, n, v, _ in x.metrics}
        usage = {
            k: sum(self.usage.get(x.id, {}).get(k, 0) for x in programs)
            for k in ("bytesRead", "bytesWritten", "secondsInCalls")
        }
        owner = key.removeprefix("#")
        made: Node = {
            "@id": key, "@type": "CreateAction", "name": text(name),
            "description": text(" ".join(map(str, first.facts.get("argv", ())))), "instrument": _ref(instrument),
            "startTime": when(first.began).isoformat(),
            "object": [self.file(self.found.entities[x]) for x in read]
            + [self.value(owner, "setting", k, v) for k, v in settings.items()],
            "result": [self.file(self.found.entities[x]) for x in written]
            + [self.value(owner, "result", k, v) for k, v in results.items()],
            "resourceUsage": [self.value(owner, k, k, round(v, 9)) for k, v in usage.items()],
        }  # fmt: skip
        if ends:
            made["endTime"] = when(max(ends)).isoformat()
        status = first.status
        if status is not None:
            made["actionStatus"] = _ref(
                f"http://schema.org/{'Completed' if status == 0 else 'Failed'}ActionStatus"
            )
            if status != 0:
                made["error"] = f"exit code {status}"
        if agent := self.agent(first):
            made["agent"] = agent
        if environment := first.facts.get("environment"):
            made["environment"] = [
                self.value(owner, "environment", k, str(v)) for k, v in environment.items()
            ]
        self.nodes[key] = made
        return key
