"""Arrivals that differ in nothing that is asked behind their node wait, and are dropped together or followed."""

import sympy

from sparsam.shapes.nodes import Arrival, Edge, Memory

A, B = sympy.symbols("s_a s_b", integer=True, nonnegative=True)


def edge(*asked: sympy.Basic, end: str | None) -> Edge:
    """From a node to the next, where the conditions hold."""
    return Edge((), asked, frozenset(map(str, asked)), end, None, {}, 0, {}, {})


def arrival(node: str, *conditions: sympy.Basic, came: bool = True) -> Arrival:
    """Sizes that come to a node."""
    return Arrival(node, None, conditions, {}, 0, {"a": 1, "b": 1}, {}, came=came)


def never(*given: object) -> tuple[str, dict[str, int]]:
    """A solver that is not to be asked."""
    raise AssertionError(given)


def told() -> Memory:
    """From n to m, where a is asked about, and on to the end; one arrival was followed."""
    memory = Memory()
    memory.edges = {"n": [edge(A > 0, end="m")], "m": [edge(A > 0, end=None)]}
    (there,), rest = memory.cover(arrival("n", A > 0, B > 0), never)
    assert there.node == "m" and there.came and rest == []
    assert memory.cover(there, never) == ([], [])
    return memory


def test_what_differs_in_nothing_that_is_asked_is_dropped():
    """Another size that nobody asks about."""
    memory = told()
    assert memory.cover(arrival("n", A > 0, sympy.Eq(B, 0)), never) == ([], [])
    assert len(memory.waiting) == 1
    assert memory.resume() == [] and memory.waiting == []


def test_what_differs_in_something_that_is_asked_goes_on():
    """It is followed at once, or where it waited before somebody asked."""
    memory = told()
    memory.cover(arrival("n", A > 0, sympy.Eq(B, 0)), never)
    memory.edges["m"].append(edge(A > 0, B > 5, end=None))
    (again,) = memory.resume()
    assert again.node == "n" and sympy.Eq(B, 0) in again.conditions and memory.waiting == []
    (there,), _ = memory.cover(again, never)
    assert there.node == "m"
    (beside,), _ = memory.cover(arrival("n", A > 0, B > 7), never)
    assert beside.node == "m" and memory.waiting == []


def test_none_is_dropped_while_another_is_unlike():
    """One that waits may lead to questions that make others unlike."""
    memory = told()
    memory.cover(arrival("n", A > 0, sympy.Eq(B, 0)), never)
    memory.cover(arrival("m", A > 0, B > 2), never)
    memory.edges["m"].append(edge(A > 0, B > 5, end=None))
    assert len(memory.resume()) == 1 and len(memory.waiting) == 1
    assert len(memory.resume()) == 1 and memory.waiting == []


def test_parts_that_no_edge_covers_do_not_wait():
    """What is left of an arrival is followed, whatever is asked."""
    memory = told()
    (there,), _ = memory.cover(arrival("n", A > 0, sympy.Eq(B, 0), came=False), never)
    assert there.node == "m" and memory.waiting == []


def test_nobody_waits_where_a_run_went_alone():
    """An edge that nobody else can take may have been taken by what was followed."""
    memory = told()
    memory.partial.add("m")
    (there,), _ = memory.cover(arrival("n", A > 0, sympy.Eq(B, 0)), never)
    assert there.node == "m" and memory.waiting == []
