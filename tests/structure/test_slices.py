"""Masks to index slices, groups of query heads kept whole."""

from sparsam.structure.slices import of_groups, of_heads, whole_groups


def test_rows_of_heads() -> None:
    """A head is ``width`` rows in a row."""
    assert of_heads((0, 2), 3).tolist() == [0, 1, 2, 6, 7, 8]
    assert of_heads((), 3).tolist() == []


def test_a_group_leaves_whole_or_not_at_all() -> None:
    """One query head left keeps its key-value head and the other queries of it."""
    assert of_groups((0, 5), 4) == [0, 1]
    assert whole_groups((0, 5), 4) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert whole_groups((4, 6), 4) == [4, 5, 6, 7]
    assert whole_groups((1, 3), 1) == [1, 3]
    assert whole_groups((), 4) == []
