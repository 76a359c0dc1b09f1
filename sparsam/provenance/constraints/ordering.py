"""The order of events (constraints 30 to 49): a graph in which no strict step may lie on a circle.

All generations of an entity precede one another (39), and so do its invalidations (40) and the starts (31) and ends (32) of an
activity; so each of these is one node. Each usage is a node of its own. Inferences 7, 8 and 13 say which nodes there are.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator

from sparsam.provenance.constraints.instance import NONE, Instance, Term

Node = tuple[str, Hashable]
NAMES = {
    30: "start-precedes-end", 33: "usage-within-activity", 34: "generation-within-activity", 35: "wasInformedBy-ordering",
    36: "generation-precedes-invalidation", 37: "generation-precedes-usage", 38: "usage-precedes-invalidation",
    41: "derivation-usage-generation-ordering", 42: "derivation-generation-generation-ordering", 43: "wasStartedBy-ordering",
    44: "wasEndedBy-ordering", 45: "specialization-generation-ordering", 46: "specialization-invalidation-ordering",
    47: "wasAssociatedWith-ordering", 48: "wasAttributedTo-ordering", 49: "actedOnBehalfOf-ordering",
}  # fmt: skip


class _Order:
    def __init__(self, found: Instance, entities: set[Term]) -> None:
        self.found = found
        self.edges: dict[Node, dict[Node, tuple[int, bool]]] = defaultdict(dict)
        at = found.find
        self.there: dict[str, set[Term]] = {
            "generation": entities
            | {at(x.arguments[0]) for kind in ("wasGeneratedBy", "wasAttributedTo") for x in found.of(kind)},
            "invalidation": entities | {at(x.arguments[0]) for x in found.of("wasInvalidatedBy")},
        }
        for event, kind in (("start", "wasStartedBy"), ("end", "wasEndedBy")):
            self.there[event] = {at(x.id) for x in found.of("activity")} | {
                at(x.arguments[0]) for x in found.of(kind)
            }

    def put(
        self, number: int, first: tuple[str, Term], second: tuple[str, Term], strict: bool = False
    ) -> None:
        """``first`` precedes ``second``, where both are there."""
        a, b = ((event, self.found.find(term)) for event, term in (first, second))
        for event, term in (a, b):
            if term == NONE or (event in self.there and term not in self.there[event]):
                return
        old = self.edges[a].get(b)
        if old is None or (strict and not old[1]):
            self.edges[a][b] = (number, strict)


def circles(found: Instance, entities: set[Term]) -> Iterator[tuple[int, str, str]]:
    """(constraint, its name, particulars) of each circle with a strict step in it.

    Args:
        found: normalised.
        entities: those that are stated to be entities.
    """
    order = _Order(found, entities)
    _within(order)
    _between(order)
    _agents(order)
    for part in _components(order.edges):
        inside = set(part)
        for first in part:
            for second, (number, strict) in order.edges.get(first, {}).items():
                if strict and second in inside:
                    told = [f"{event} of {found.said(term)}" for event, term in (first, second)]  # type: ignore[arg-type]
                    yield (
                        number,
                        NAMES[number],
                        f"{told[0]} has to precede {told[1]}, which leads back to it: a circle of {len(part)} events",
                    )


def _within(order: _Order) -> None:
    """One entity, one activity."""
    for activity in order.there["start"]:
        order.put(30, ("start", activity), ("end", activity))
    for entity in order.there["generation"]:
        order.put(36, ("generation", entity), ("invalidation", entity))
    for row in order.found.of("used"):
        activity, entity, _ = row.arguments
        order.put(33, ("start", activity), ("usage", row.id))
        order.put(33, ("usage", row.id), ("end", activity))
        order.put(37, ("generation", entity), ("usage", row.id))
        order.put(38, ("usage", row.id), ("invalidation", entity))
    for row in order.found.of("wasGeneratedBy"):
        entity, activity, _ = row.arguments
        order.put(34, ("start", activity), ("generation", entity))
        order.put(34, ("generation", entity), ("end", activity))
    for kind, event, number in (("wasStartedBy", "start", 43), ("wasEndedBy", "end", 44)):
        for row in order.found.of(kind):
            activity, trigger = row.arguments[:2]
            order.put(number, ("generation", trigger), (event, activity))
            order.put(number, (event, activity), ("invalidation", trigger))


def _between(order: _Order) -> None:
    """Two entities, two activities."""
    for row in order.found.of("wasInformedBy"):
        order.put(35, ("start", row.arguments[1]), ("end", row.arguments[0]))
    for row in order.found.of("wasDerivedFrom"):
        made, source, activity, generation, usage = row.arguments
        if NONE not in map(order.found.find, (activity, generation, usage)):
            order.put(41, ("usage", usage), ("generation", made))
        order.put(42, ("generation", source), ("generation", made), strict=True)
    for row in order.found.of("specializationOf"):
        specific, general = row.arguments
        order.put(45, ("generation", general), ("generation", specific))
        order.put(46, ("invalidation", specific), ("invalidation", general))


def _agents(order: _Order) -> None:
    """An agent may be an entity or an activity."""
    pairs = [(x.arguments[0], x.arguments[1]) for x in order.found.of("wasAssociatedWith")]
    for row in order.found.of("actedOnBehalfOf"):  # inference 14
        delegate, responsible, activity = row.arguments
        pairs += [(activity, delegate), (activity, responsible)]
        order.put(49, ("generation", responsible), ("invalidation", delegate))
        order.put(49, ("start", responsible), ("end", delegate))
    for activity, agent in pairs:
        order.put(47, ("start", activity), ("invalidation", agent))
        order.put(47, ("generation", agent), ("end", activity))
        order.put(47, ("start", activity), ("end", agent))
        order.put(47, ("start", agent), ("end", activity))
    for row in order.found.of("wasAttributedTo"):
        entity, agent = row.arguments
        order.put(48, ("generation", agent), ("generation", entity))
        order.put(48, ("start", agent), ("generation", entity))


def _components(edges: dict[Node, dict[Node, tuple[int, bool]]]) -> Iterator[list[Node]]:
    """Strongly connected parts (Tarjan 1972), without recursion."""
    number: dict[Node, int] = {}
    low: dict[Node, int] = {}
    stack: list[Node] = []
    on: set[Node] = set()
    for root in list(edges):
        if root in number:
            continue
        work: list[tuple[Node, Iterator[Node]]] = [(root, iter(edges.get(root, ())))]
        number[root] = low[root] = len(number)
        stack.append(root)
        on.add(root)
        while work:
            node, following = work[-1]
            step = next(following, None)
            if step is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == number[node]:
                    part = []
                    while True:
                        part.append(stack.pop())
                        on.discard(part[-1])
                        if part[-1] == node:
                            break
                    yield part
            elif step not in number:
                number[step] = low[step] = len(number)
                stack.append(step)
                on.add(step)
                work.append((step, iter(edges.get(step, ()))))
            elif step in on:
                low[node] = min(low[node], number[step])
