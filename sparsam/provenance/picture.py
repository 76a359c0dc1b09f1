"""The graph of an answer, as it is drawn: files and the programs between them, big groups as one node each.

A program stands between what it read and what it made, once; and once more where it went on from a file of its own, so that no
arrow leads back to what was made before. Two kinds of groups keep a picture readable: files that the same programs read and
wrote (:data:`ALIKE` or more), and, where more than :data:`MANY` nodes are left, everything that stands alike: the same folder
or command, between nodes that stand alike themselves.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sparsam.provenance.graph import Program
from sparsam.provenance.index import Recorded
from sparsam.provenance.questions import Step, intermediate

ALIKE = 5
"""Files with the same neighbours from which on they are one node. Chosen by us."""
MANY = 600
"""Nodes from which on those that stand alike are one. Chosen by us."""
MOST = 4000
"""Nodes that are drawn, those nearest to the file. Chosen by us: a browser still moves so many."""
ROUNDS = 3
"""How far around a node is looked to say that it stands as another. Chosen by us."""


@dataclass(frozen=True)
class Node:
    """A box.

    Args:
        id: of the picture alone.
        kind: ``file`` or ``program``.
        steps: of a file, one; of a group of files, several; of programs none.
        programs: of a program, one; of a group several.
        about: whether it is what was asked for.
    """

    id: str
    kind: str
    steps: tuple[Step, ...] = ()
    programs: tuple[Program, ...] = ()
    about: bool = False


@dataclass(frozen=True)
class Picture:
    """Boxes and arrows, and how much of the answer they leave out."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]
    left_out: int = 0
    """Nodes beyond :data:`MOST`."""
    passing: int = 0
    """Generations that a program made and used alone."""


def picture(found: Recorded, steps: Sequence[Step], *, whole: bool = False) -> Picture:
    """The picture of a lineage or an impact.

    Args:
        found: everything that was recorded.
        steps: the answer; its first is what was asked for.
        whole: with generations that a program wrote, used alone, and wrote over.
    """
    passing = set() if whole else intermediate(steps)
    shown = {step.entity.id: step for step in steps if step.entity.id not in passing}
    nodes, edges = _boxes(found, shown, steps[0].entity.id, _through(steps, passing))
    nodes, edges = _merged(nodes, edges, _same_neighbours(nodes, edges))
    if len(nodes) > MANY:
        nodes, edges = _merged(nodes, edges, _alike(nodes, edges))
    kept = _nearest(nodes, edges)
    left = {node.id for node in nodes} - kept
    return Picture(
        tuple(x for x in nodes if x.id in kept), tuple(x for x in edges if not left.intersection(x)), len(left), len(passing)
    )  # fmt: skip


def _through(steps: Sequence[Step], passing: set[str]) -> Callable[[Step], list[str]]:
    """The sources of a step, with those of what is not shown in its place."""
    by_id = {step.entity.id: step for step in steps}

    def sources(step: Step) -> list[str]:
        made: dict[str, None] = {}
        waiting, seen = list(reversed(step.sources)), set()
        while waiting:
            one = waiting.pop()
            if one in seen:
                continue
            seen.add(one)
            if one in passing:
                waiting += reversed(by_id[one].sources)
            elif one in by_id and one != step.entity.id:
                made[one] = None
        return list(made)

    return sources


def _boxes(
    found: Recorded, shown: dict[str, Step], about: str, sources: Callable[[Step], list[str]]
) -> tuple[list[Node], list[tuple[str, str]]]:
    made_from = {name: [x for x in sources(step) if x in shown] for name, step in shown.items()}
    order = [
        shown[name]
        for name in _sources_first(made_from, sorted(shown, key=lambda x: (shown[x].entity.began, x)))
    ]
    level: dict[str, int] = {}
    programs: dict[str, tuple[Program, int]] = {}
    at: dict[str, str] = {}  # file: its program's box
    edges: dict[tuple[str, str], None] = {}
    fed: dict[str, dict[str, int]] = {}  # maker: what has an arrow to one of its boxes, and which
    for step in order:
        one = step.entity
        own = made_from[one.id]
        if step.program is None:
            edges |= dict.fromkeys((x, one.id) for x in own)
            continue
        maker = f"{step.program.id} {' '.join(sorted(key for key, _ in one.reads))}"
        before = [level[x] for x in own if at.get(x, "").rpartition(" ")[0] == maker]
        level[one.id] = number = 1 + max(before) if before else 0
        box = at[one.id] = f"{maker} {number}"
        programs.setdefault(box, (step.program, number))
        seen = fed.setdefault(maker, {})
        if number:
            edges[f"{maker} {number - 1}", box] = None
        for source in own:
            if number < seen.get(source, number + 1):
                seen[source] = number
                edges[source, box] = None
        edges[box, one.id] = None
    nodes = [Node(x.entity.id, "file", (x,), (), x.entity.id == about) for x in order]
    nodes += [Node(box, "program", (), (one,)) for box, (one, _) in programs.items()]
    known = {node.id for node in nodes}
    return nodes, [x for x in edges if known.issuperset(x)]


def _sources_first(made_from: dict[str, list[str]], names: Sequence[str]) -> list[str]:
    """Names so that sources stand before what is made from them; of a cycle, which users may tell of, as they were given."""
    left = {name: len(sources) for name, sources in made_from.items()}
    onward: dict[str, list[str]] = {}
    for name in names:
        for source in made_from[name]:
            onward.setdefault(source, []).append(name)
    found: dict[str, None] = {}
    for first in [*(x for x in names if not left[x]), *names]:
        waiting = [] if first in found else [first]
        while waiting:
            one = waiting.pop()
            found[one] = None
            for other in onward.get(one, ()):
                left[other] -= 1
                if not left[other] and other not in found:
                    waiting.append(other)
    return list(found)


def _same_neighbours(nodes: Sequence[Node], edges: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Files with the same neighbours on both sides, if they are many: which node each becomes."""
    near: dict[str, tuple[list[str], list[str]]] = {node.id: ([], []) for node in nodes}
    for a, b in edges:
        near[a][1].append(b)
        near[b][0].append(a)
    groups: dict[Any, list[str]] = {}
    for node in nodes:
        if node.kind == "file" and not node.about:
            groups.setdefault(tuple(tuple(sorted(side)) for side in near[node.id]), []).append(node.id)
    return {x: many[0] for many in groups.values() if len(many) >= ALIKE for x in many}


def _alike(nodes: Sequence[Node], edges: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Nodes of which nothing within :data:`ROUNDS` steps tells one from another."""
    before: dict[str, list[str]] = {node.id: [] for node in nodes}
    after: dict[str, list[str]] = {node.id: [] for node in nodes}
    for a, b in edges:
        after[a].append(b)
        before[b].append(a)
    colour: dict[str, Any] = {node.id: (node.kind, node.about, _family(node)) for node in nodes}
    for _ in range(ROUNDS):
        sides = {x: (colour[x], *(_colours(colour, near[x]) for near in (before, after))) for x in colour}
        numbers: dict[Any, int] = {}
        colour = {x: numbers.setdefault(key, len(numbers)) for x, key in sides.items()}
    first: dict[Any, str] = {}
    return {node.id: first.setdefault(colour[node.id], node.id) for node in nodes}


def _colours(colour: dict[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(sorted({colour[x] for x in names}, key=repr))


def _family(node: Node) -> str:
    if node.kind == "file":
        return os.path.dirname(node.steps[0].entity.names[-1])
    return " ".join(str(x) for x in list(node.programs[0].facts.get("argv", ()))[:2])


def _merged(
    nodes: Sequence[Node], edges: Sequence[tuple[str, str]], into: dict[str, str]
) -> tuple[list[Node], list[tuple[str, str]]]:
    groups: dict[str, list[Node]] = {}
    for node in nodes:
        groups.setdefault(into.get(node.id, node.id), []).append(node)
    made = []
    for name, many in groups.items():
        steps = tuple(step for node in many for step in node.steps)
        programs = tuple(dict.fromkeys(one.id for node in many for one in node.programs))
        known = {one.id: one for node in many for one in node.programs}
        made.append(Node(name, many[0].kind, steps, tuple(known[x] for x in programs), many[0].about))
    joined = dict.fromkeys((into.get(a, a), into.get(b, b)) for a, b in edges)
    return made, [(a, b) for a, b in joined if a != b]


def _nearest(nodes: Sequence[Node], edges: Sequence[tuple[str, str]]) -> set[str]:
    """At most :data:`MOST` nodes, by how many arrows they are away from what was asked for."""
    if len(nodes) <= MOST:
        return {node.id for node in nodes}
    near: dict[str, list[str]] = {node.id: [] for node in nodes}
    for a, b in edges:
        near[a].append(b)
        near[b].append(a)
    kept = dict.fromkeys(node.id for node in nodes if node.about)
    front = list(kept)
    while front and len(kept) < MOST:
        following = []
        for one in front:
            for other in near[one]:
                if other not in kept and len(kept) < MOST:
                    kept[other] = None
                    following.append(other)
        front = following
    return set(kept)
