"""The borrowing space on paper: names, what a design costs in hardware, impossible distances."""

from dataclasses import astuple

import pytest

from sparsam.errors import Refused, Usage
from sparsam.hardware.borrowing import (
    EARLIER,
    GRIFFIN,
    STARRED,
    Core,
    Distances,
    Point,
    Resources,
    check_distances,
    places,
    resources,
)


def test_points_read_as_they_are_written():
    """A point's name is read back, activations first; shuffling is off where nothing is said."""
    for point in (*STARRED.values(), *GRIFFIN.values(), *EARLIER.values()):
        assert Point.parse(point.name) == point
    both = Point.parse("AB(1, 2, 3, 4, 5, 6)")
    assert both.activations == (1, 2, 3) and both.weights == (4, 5, 6) and not both.shuffle
    assert Point().name == Point().kind == "dense"


@pytest.mark.parametrize("text", ["", "B(4,0)", "AB(2,0,0)", "C(1,2,3)", "B(4,0,1,maybe)", "B(-1,0,0)"])
def test_what_is_no_point_is_refused(text):
    """A name of another form is answered with one of the right form."""
    with pytest.raises(Usage, match=r"write B\(4,0,1,on\)") as found:
        Point.parse(text)
    assert found.value.code == "borrowing-point"


def test_three_modes_of_the_hybrid_need_the_same_hardware():
    """The dual mode has the buffers, multiplexers and trees of both others, and none has one to spare where it uses it."""
    dual, weights, activations = (resources(GRIFFIN[mode]) for mode in ("AB", "B", "A"))
    assert dual == Resources(a_buffer=9, b_buffer=3, a_mux=9, b_mux=5, adder_trees=2, metadata_bits=3)
    assert weights == Resources(a_buffer=9, b_buffer=1, a_mux=9, b_mux=1, adder_trees=2, metadata_bits=5)
    assert activations == Resources(3, 3, 9, 5, 2, 0)
    for mode in (weights, activations):
        assert all(x <= y for x, y in zip(astuple(mode)[:5], astuple(dual)[:5], strict=True))


def test_formulas_for_single_designs():
    """Buffers of 1 + d1, multiplexers of the places, trees of 1 + d3."""
    for far in (Distances(1, 0, 0), Distances(4, 0, 1), Distances(2, 5, 0), Distances(3, 2, 2)):
        b, a = resources(Point(weights=far)), resources(Point(activations=far))
        assert b.a_buffer == a.a_buffer == a.b_buffer == 1 + far.time and b.b_buffer == b.b_mux == 1
        assert b.adder_trees == a.adder_trees == 1 + far.pe
        assert b.a_mux == a.b_mux == 1 + far.time * (1 + far.lane)
        assert a.a_mux == len(places(far))  # what a slot can take
        assert 2**b.metadata_bits >= len(places(far))
    assert resources(Point()) == Resources(1, 1, 1, 1, 1, 0)


def test_places_are_searched_nearest_in_time_first():
    """Time, then PEs, then lanes; its own first."""
    found = places(Distances(2, 1, 1)).tolist()
    assert found == [[0, 0, 0]] + [[t, p, l] for t in (1, 2) for p in (0, 1) for l in (0, 1)]  # noqa: E741


@pytest.mark.parametrize(
    ("far", "name"), [((64, 0, 0), "d1 is 64"), ((-1, 0, 0), "d1 is -1"), ((1, 16, 0), "d2 is 16"), ((1, 0, 4), "d3 is 4")]
)  # fmt: skip
def test_distances_beyond_the_core_are_refused(far, name):
    """A lane or PE borrows from others, and not from itself round the ring."""
    check_distances(Distances(63, 15, 3), 4, 16, "machine x")
    with pytest.raises(Refused, match=name) as found:
        check_distances(Distances(*far), 4, 16, "machine x")
    assert found.value.code == "machine-parameter"


def test_a_core_counts_its_multipliers():
    """4 x 16 PEs of 16 lanes."""
    assert Core().multipliers == 1024
