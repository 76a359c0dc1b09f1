"""Where the nodes of a directed graph are drawn: in layers, what is made to the right of what it is made from.

The framework of K. Sugiyama, S. Tagawa, M. Toda, *Methods for visual understanding of hierarchical system structures*, IEEE
Transactions on Systems, Man, and Cybernetics 11 (1981): cycles are broken, nodes get layers, long edges pass through places
of their own in each layer between, the order in a layer follows the means of neighbours, and coordinates come last: here the
least squares that keep order and distance, by pooling adjacent violators. Time is a small multiple of nodes and edges.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

MOST_BENDS = 20_000
"""Places of long edges; with more of them long edges are drawn straight. Chosen by us."""
SWEEPS = 12
PASSES = 8


@dataclass(frozen=True)
class Layout:
    """Layers and coordinates.

    Args:
        layer: of each node, 0 for the leftmost.
        height: of each node's middle; the unit is that of the heights and gaps that were given.
        bends: of an edge that spans several layers: the heights at which it crosses those between.
        back: edges that lead to the left, for the graph has a cycle.
    """

    layer: dict[str, int]
    height: dict[str, float]
    bends: dict[tuple[str, str], tuple[float, ...]]
    back: frozenset[tuple[str, str]]


def layout(
    nodes: Sequence[str], edges: Iterable[tuple[str, str]], heights: Mapping[str, float], *, gap: float, bend_gap: float
) -> Layout:  # fmt: skip
    """Lay a graph out; the same for the same input.

    Args:
        nodes: their ids; of nodes that nothing tells apart the first is above.
        edges: from what something is made of to what is made; to itself, twice or of unknown nodes they are left out.
        heights: of each node's box.
        gap: between boxes.
        bend_gap: around a long edge.
    """
    known = set(nodes)
    wanted = list(dict.fromkeys((a, b) for a, b in edges if a != b and a in known and b in known))
    back = _back(nodes, wanted)
    forward = list(dict.fromkeys((b, a) if (a, b) in back else (a, b) for a, b in wanted))
    layer = _layers(nodes, forward)
    count = sum(layer[b] - layer[a] - 1 for a, b in forward)
    rows: list[list[str]] = [[] for _ in range(1 + max(layer.values(), default=-1))]
    for node in nodes:
        rows[layer[node]].append(node)
    sizes = {node: heights[node] + gap for node in nodes}
    chains: dict[tuple[str, str], list[str]] = {}
    short: list[tuple[str, str]] = []
    for number, (a, b) in enumerate(forward):
        chain = [] if count > MOST_BENDS else [f"\0{number} {at}" for at in range(layer[a] + 1, layer[b])]
        for at, bend in enumerate(chain, layer[a] + 1):
            rows[at].append(bend)
            sizes[bend] = bend_gap
        chains[a, b] = chain
        short += zip([a, *chain], [*chain, b], strict=True)
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for a, b in short:
        after.setdefault(a, []).append(b)
        before.setdefault(b, []).append(a)
    rows = _ordered(rows, before, after)
    place = _placed(rows, before, after, sizes)
    bends = {}
    for a, b in wanted:
        chain = chains[(b, a) if (a, b) in back else (a, b)]
        if chain:
            bends[a, b] = tuple(place[x] for x in (reversed(chain) if (a, b) in back else chain))
    return Layout(layer, {node: place[node] for node in nodes}, bends, frozenset(back))


def _back(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Edges that close a cycle, met depth first from the nodes without a way in."""
    after: dict[str, list[str]] = {node: [] for node in nodes}
    inward = dict.fromkeys(nodes, 0)
    for a, b in edges:
        after[a].append(b)
        inward[b] += 1
    found: set[tuple[str, str]] = set()
    state: dict[str, int] = {}  # 1 on the way, 2 done
    for first in sorted(nodes, key=lambda x: inward[x] > 0):
        if first in state:
            continue
        state[first] = 1
        way = [(first, iter(after[first]))]
        while way:
            node, rest = way[-1]
            following = next(rest, None)
            if following is None:
                state[node] = 2
                way.pop()
            elif state.get(following) == 1:
                found.add((node, following))
            elif following not in state:
                state[following] = 1
                way.append((following, iter(after[following])))
    return found


def _layers(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The longest way in, then sources moved up to what uses them first."""
    after: dict[str, list[str]] = {node: [] for node in nodes}
    before: dict[str, list[str]] = {node: [] for node in nodes}
    for a, b in edges:
        after[a].append(b)
        before[b].append(a)
    left = {node: len(before[node]) for node in nodes}
    layer = dict.fromkeys(nodes, 0)
    front = [node for node in nodes if not left[node]]
    order = []
    while front:
        node = front.pop()
        order.append(node)
        for other in after[node]:
            layer[other] = max(layer[other], layer[node] + 1)
            left[other] -= 1
            if not left[other]:
                front.append(other)
    for node in reversed(order):
        if not before[node] and after[node]:
            layer[node] = min(layer[x] for x in after[node]) - 1
    return layer


def _ordered(
    rows: list[list[str]], before: Mapping[str, list[str]], after: Mapping[str, list[str]]
) -> list[list[str]]:
    """Orders within layers with few crossings: sweeps by the mean position of neighbours, the best one kept."""
    best, least = rows, crossings(rows, after)
    for sweep in range(SWEEPS):
        if not least:
            break
        near, rightwards = (before, True) if sweep % 2 == 0 else (after, False)
        made = [list(row) for row in rows]
        indices = range(1, len(made)) if rightwards else range(len(made) - 2, -1, -1)
        for at in indices:
            place = {node: number for number, node in enumerate(made[at - 1 if rightwards else at + 1])}
            mean = {}
            for number, node in enumerate(made[at]):
                seen = [place[x] for x in near.get(node, ()) if x in place]
                mean[node] = sum(seen) / len(seen) if seen else float(number)
            made[at].sort(key=lambda x: mean[x])
        rows = made
        now = crossings(rows, after)
        if now < least:
            best, least = rows, now
    return best


def crossings(rows: Sequence[Sequence[str]], after: Mapping[str, Sequence[str]]) -> int:
    """How often edges between neighbouring layers cross: inversions, counted with a tree of sums (Fenwick 1994)."""
    total = 0
    for row, following in pairwise(rows):
        place = {node: number for number, node in enumerate(following)}
        tree, seen = [0] * (len(following) + 1), 0
        for node in row:
            ends = sorted(place[x] for x in after.get(node, ()) if x in place)
            for end in ends:
                at, above = end + 1, 0
                while at:
                    above += tree[at]
                    at &= at - 1
                total += seen - above
            for end in ends:
                at = end + 1
                while at < len(tree):
                    tree[at] += 1
                    at += at & -at
            seen += len(ends)
    return total


def _placed(
    rows: Sequence[Sequence[str]],
    before: Mapping[str, list[str]],
    after: Mapping[str, list[str]],
    sizes: Mapping[str, float],
) -> dict[str, float]:
    """Heights: each near the mean of its neighbours, in order, and no two closer than their sizes."""
    place: dict[str, float] = {}
    for row in rows:
        at = 0.0
        for node in row:
            place[node] = at + sizes[node] / 2
            at += sizes[node]
        middle = at / 2
        for node in row:
            place[node] -= middle
    for number in range(PASSES):
        for row in rows if number % 2 == 0 else reversed(rows):
            wish = []
            for node in row:
                sides = [[place[x] for x in near.get(node, ())] for near in (before, after)]
                seen = (
                    sides[0] + sides[1]
                    if number >= PASSES - 2
                    else sides[number % 2] or sides[1 - number % 2]
                )
                wish.append(sum(seen) / len(seen) if seen else place[node])
            place |= zip(row, spread(wish, [sizes[node] for node in row]), strict=True)
    least = min(place.values(), default=0.0)
    return {node: value - least for node, value in place.items()}


def spread(wish: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Places in order, at least half of both sizes apart, with the least sum of squares to what each wishes for.

    >>> spread([0.0, 0.0], [2.0, 2.0])
    [-1.0, 1.0]
    """
    offsets, at = [], 0.0
    for number, size in enumerate(sizes):
        at += (sizes[number - 1] + size) / 2 if number else 0.0
        offsets.append(at)
    pools: list[tuple[float, int]] = []  # sum of what is wished for, how many
    for one, offset in zip(wish, offsets, strict=True):
        total, count = one - offset, 1
        while pools and pools[-1][0] / pools[-1][1] >= total / count:
            more, others = pools.pop()
            total, count = total + more, count + others
        pools.append((total, count))
    means = [total / count for total, count in pools for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]
