"""SpArch's merger: comparator arrays, the adder stage, the zero eliminator, the order of merging, the ticked tree."""

import heapq
import itertools
from functools import cache

import numpy as np
import pytest

from sparsam.errors import Refused
from sparsam.hardware.sparch_merge import (
    LAST,
    add_neighbours,
    comparator_array,
    eliminate_gaps,
    first_merge,
    hierarchical_array,
    merge_order,
    merge_step,
    round_count,
    tick_tree,
)  # fmt: skip


def runs(symbols: int, longest: int) -> list[list[int]]:
    """All sorted lists over an alphabet."""
    return [
        list(one)
        for n in range(longest + 1)
        for one in itertools.combinations_with_replacement(range(symbols), n)
    ]


def window(run: list[int], n: int) -> np.ndarray:
    return np.array(run + [LAST] * (n - len(run)), np.int64)


def merges(one: list[int], other: list[int], chunks: tuple[int, ...]) -> None:
    a, b = window(one, 8), window(other, 8)
    wanted = list(heapq.merge([(x, 0) for x in one], [(x, 1) for x in other]))
    found, from_a, _ = comparator_array(a, b)
    assert 8 <= len(found) < 16
    n = min(len(wanted), len(found))
    assert list(zip(found[:n], (~from_a[:n]).astype(int), strict=True)) == wanted[:n]
    for chunk in chunks:
        again = hierarchical_array(a, b, chunk)
        assert np.array_equal(again[0], found)
        assert np.array_equal(again[1], from_a)


def test_comparator_arrays_merge_short_runs():
    """Flat and hierarchical give heapq.merge's order, sides included: all 2,025 pairs of two symbols, 3,000 of three."""
    for one, other in itertools.product(runs(2, 8), repeat=2):
        merges(one, other, (2, 4))
    every, rng = runs(3, 8), np.random.default_rng(1)
    for one, other in rng.integers(0, len(every), (3000, 2)):
        merges(every[one], every[other], (4,))


@pytest.mark.slow
def test_comparator_arrays_merge_all_short_runs():
    """All 27,225 pairs of runs over three symbols, chunks of 1, 2, 4 and 8; ten seconds."""
    for one, other in itertools.product(runs(3, 8), repeat=2):
        merges(one, other, (1, 2, 4, 8))


def test_array_of_16_needs_half_the_comparators_in_chunks_of_4():
    """16 x 16 takes 256 comparators; 4 x 4 on top and seven blocks of 4 x 4 take 128, with the same outputs."""
    rng = np.random.default_rng(2)
    for _ in range(300):
        a, b = (np.sort(rng.integers(0, 30, 16)) for _ in range(2))
        flat, tree = comparator_array(a, b), hierarchical_array(a, b, 4)
        assert flat[2] == 256
        assert tree[2] == 16 + 7 * 16
        assert np.array_equal(flat[0], tree[0])
        assert np.array_equal(flat[0][:16], np.sort(np.concatenate([a, b]), kind="stable")[:16])


def test_merger_gives_sixteen_a_cycle_or_all_that_is_certain():
    """Over all pairs of runs a step's outputs are the next of heapq.merge, and as many as nothing yet unseen can precede."""
    every = runs(3, 6)
    for width, (one, other) in itertools.product((1, 4, 16), itertools.product(every, every)):
        a, b = np.array(one, np.int64), np.array(other, np.int64)
        out = np.zeros(width, np.int64)
        for a_ends, b_ends in ((True, True), (False, True), (False, False)):
            taken = merge_step(a, 0, a_ends, b, 0, b_ends, width, out)
            merged = list(heapq.merge([(x, 0) for x in one], [(x, 1) for x in other]))
            certain = len(merged)
            if not a_ends:  # behind a's last nothing of b is certain
                certain = min(certain, max((i + 1 for i, x in enumerate(merged) if x[1] == 0), default=0))
            if not b_ends:
                certain = min(certain, max((i + 1 for i, x in enumerate(merged) if x[1] == 1), default=0))
            assert sum(taken) == min(width, certain)
            assert out[: sum(taken)].tolist() == [x for x, _ in merged[: sum(taken)]]


def test_adder_and_zero_eliminator_close_the_gaps():
    """Sums of equal neighbours, then no gaps, for 2,000 sorted windows in which a key stands twice at most."""
    rng = np.random.default_rng(3)
    for _ in range(2000):
        n = int(rng.choice([1, 2, 4, 8, 16]))
        keys = np.sort(np.repeat(np.arange(1, n + 1), 2)[rng.permutation(2 * n)[:n]])
        values = rng.integers(1, 100, n)
        stays, sums = add_neighbours(keys, values)
        packed, count = eliminate_gaps(stays, sums)
        wanted = [values[keys == key].sum() for key in np.unique(keys)]
        assert count == len(wanted)
        assert packed[:count].tolist() == wanted
        assert not packed[count:].any()


def cost(sizes: list[int], rounds: list[list[int]]) -> int:
    """Sum of the sizes of all results."""
    known = list(sizes)
    for inputs in rounds:
        known.append(sum(known[i] for i in inputs))
    return sum(known[len(sizes) :])


def test_huffman_is_no_worse_than_any_other_order():
    """The sum of result sizes is the least of all ways to merge up to nine streams by three, by trying all."""
    rng = np.random.default_rng(4)
    for _ in range(40):
        n = int(rng.integers(2, 10))
        sizes = rng.integers(1, 50, n).tolist()

        @cache
        def least(held: int, sizes: tuple[int, ...] = tuple(sizes)) -> int:
            """Cheapest tree over the streams in a bit set."""
            members = [i for i in range(len(sizes)) if held >> i & 1]
            if len(members) == 1:
                return 0
            best = 1 << 60
            whole = sum(sizes[i] for i in members)
            for parts in splits(held):
                best = min(best, whole + sum(least(part) for part in parts))
            return best

        assert cost(sizes, merge_order(sizes, 3, "huffman")) == least((1 << n) - 1)
        least.cache_clear()


@cache
def splits(held: int) -> list[tuple[int, ...]]:
    """All ways to part a bit set in two or three; the part with the lowest member first."""
    low = held & -held
    found: list[tuple[int, ...]] = []
    rest = held ^ low
    some = rest
    while True:
        left = rest ^ some  # what the first part leaves
        if left:
            found.append((low | some, left))
            anchor = left & -left
            inner = left ^ anchor
            more = inner
            while more:
                more = (more - 1) & inner
                found.append((low | some, anchor | more, inner ^ more))
        if not some:
            return found
        some = (some - 1) & rest


@pytest.mark.parametrize("order", ["huffman", "queue", "running"])
def test_all_rounds_after_the_first_are_full(order):
    """The number of rounds is the formula's, each stream is merged once, and every later round is full."""
    for ways, n in itertools.product((2, 3, 4, 64), range(300)):
        rounds = merge_order(list(range(n)), ways, order)
        assert len(rounds) == round_count(n, ways)
        assert all(len(inputs) == ways for inputs in rounds[1:])
        assert not rounds or len(rounds[0]) == first_merge(n, ways)
        assert sorted(i for inputs in rounds for i in inputs) == list(range(n + max(len(rounds) - 1, 0)))
        if order == "running":
            assert all(n + r in inputs for r, inputs in enumerate(rounds[1:]))


def test_k_init_and_rounds_of_920_streams():
    """920 streams by 64: (920 - 2) mod 63 + 2 = 38 first, then (920 - 38) / 63 = 14 more rounds."""
    assert first_merge(920, 64) == 38
    assert round_count(920, 64) == 15


def test_ticked_tree_merges_and_adds():
    """Eight streams through FIFOs of one to four elements come out sorted, equal keys added, at most the width a cycle."""
    rng = np.random.default_rng(5)
    for trial in range(150):
        streams = [np.unique(rng.integers(0, 40, rng.integers(0, 20))) for _ in range(8)]
        keys = np.concatenate(streams).astype(np.int64)
        values = rng.integers(-9, 10, len(keys))
        starts = np.cumsum([0] + [len(one) for one in streams])
        lengths = np.concatenate([[len(one)] if len(one) else [] for one in streams]).astype(np.int64)
        segments = np.cumsum([0] + [int(len(one) > 0) for one in streams])
        ready = rng.integers(0, 30, len(lengths))
        width = int(rng.choice([1, 2, 4]))
        found = tick_tree(
            keys, values, starts, segments, lengths, ready, rng.random(8) < 0.5, width=width, loads=2,
            depth=int(rng.choice([8, 16, 32])),
        )  # fmt: skip
        wanted = np.unique(keys)
        assert np.array_equal(found.keys, wanted), trial
        assert found.values.tolist() == [values[keys == key].sum() for key in wanted]
        assert found.most <= width
        assert found.cycles >= -(-len(keys) // width)


def test_tree_refuses_fifos_without_room():
    """Eight nodes cannot share seven places."""
    nothing = np.zeros(0, np.int64)
    with pytest.raises(Refused, match="holds at least one element") as caught:
        tick_tree(
            nothing,
            nothing,
            np.zeros(9, np.int64),
            np.zeros(9, np.int64),
            nothing,
            nothing,
            np.ones(8, bool),
            depth=7,
        )
    assert caught.value.code == "machine-parameter"


def test_order_refuses_one_way():
    """A tree that merges one stream at a time never ends."""
    with pytest.raises(Refused, match="at least 2") as caught:
        merge_order([1, 2], 1, "huffman")
    assert caught.value.code == "machine-parameter"
