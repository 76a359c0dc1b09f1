"""SpArch's row prefetcher: the fast buffer is the rule, and the rule is Belady's where it sees everything."""

import itertools

import numpy as np
import pytest

from sparsam.errors import Refused
from sparsam.hardware.sparch_prefetch import POLICIES, hit_lines, reference_hit_lines


def drawn(rng: np.random.Generator, longest: int = 40) -> tuple[np.ndarray, np.ndarray, int]:
    """A trace of rows, lines of each, and a capacity."""
    rows = int(rng.integers(1, 9))
    return rng.integers(0, rows, rng.integers(0, longest)), rng.integers(0, 5, rows), int(rng.integers(1, 12))


@pytest.mark.parametrize("policy", POLICIES)
def test_buffer_follows_the_rule(policy):
    """The fast buffer finds the same lines as sorting all rows at each access, in 700 traces."""
    rng = np.random.default_rng(1)
    for _ in range(700):
        trace, lines, capacity = drawn(rng)
        seen = int(rng.choice([1, 2, 3, 5, 8, 100]))
        given = {"look_ahead": seen, "policy": policy}
        wanted = reference_hit_lines(trace, lines, capacity, **given)
        assert np.array_equal(hit_lines(trace, lines, capacity, **given), wanted)


def best(trace: np.ndarray, lines: np.ndarray, capacity: int) -> int:
    """The most hits that any policy can have, by trying what may be kept: states are how many lines of each row are held."""
    states = {tuple([0] * len(lines)): 0}
    for row in trace:
        after: dict[tuple[int, ...], int] = {}
        for held, hits in states.items():
            hits += held[row]
            have = list(held)
            have[row] = int(lines[row])
            ranges = [range(one + 1) for one in have]
            for kept in np.ndindex(*[len(one) for one in ranges]):
                if sum(kept) <= capacity and hits >= after.get(kept, 0):
                    after[kept] = hits
        states = after
    return max(states.values())


def test_whole_look_ahead_is_optimal():
    """With the whole trace in view no choice of what to keep finds more lines, by trying all of them."""
    rng = np.random.default_rng(2)
    for _ in range(60):
        rows = int(rng.integers(2, 5))
        trace, lines = rng.integers(0, rows, 9), rng.integers(1, 3, rows)
        capacity = int(rng.integers(1, 5))
        assert hit_lines(trace, lines, capacity, look_ahead=100).sum() == best(trace, lines, capacity)


def test_belady_finds_no_less_than_lru_and_fifo():
    """For 300 traces, sizes and capacities."""
    rng = np.random.default_rng(3)
    for _ in range(300):
        trace, lines, capacity = drawn(rng, 400)
        ours = hit_lines(trace, lines, capacity, look_ahead=len(trace) + 1).sum()
        for policy in ("lru", "fifo"):
            assert ours >= hit_lines(trace, lines, capacity, policy=policy).sum()


def test_more_lines_never_find_less():
    """Hits do not fall with the capacity, whatever the look-ahead: the buffer's lines are among those of a larger one."""
    rng = np.random.default_rng(4)
    for _ in range(100):
        trace, lines, _ = drawn(rng, 300)
        for seen in (1, 4, 16, 1000):
            hits = [hit_lines(trace, lines, capacity, look_ahead=seen) for capacity in range(1, 12)]
            assert all((more >= less).all() for less, more in itertools.pairwise(hits))


def test_longer_look_ahead_finds_more():
    """On a trace of rows wanted by power law the hit rate does not fall from a look-ahead of 1 to the whole trace."""
    rng = np.random.default_rng(5)
    trace = np.minimum((rng.pareto(0.8, 20_000) * 20).astype(np.int64), 1999)
    lines = rng.integers(1, 4, 2000)
    hits = [
        int(hit_lines(trace, lines, 200, look_ahead=seen).sum()) for seen in (1, 16, 128, 1024, 8192, 1 << 20)
    ]
    assert hits == sorted(hits)
    assert hits[-1] > 1.05 * hits[0]


def test_look_ahead_of_one_is_no_information():
    """Who sees the present use alone keeps what was used last."""
    rng = np.random.default_rng(6)
    for _ in range(200):
        trace, lines, capacity = drawn(rng, 200)
        one = hit_lines(trace, lines, capacity, look_ahead=1)
        assert np.array_equal(one, hit_lines(trace, lines, capacity, policy="lru"))


def test_short_row_survives_where_it_is_wanted_next():
    """Capacity 2: a is wanted after b and c, which are not wanted again, so a stays; least recently used has lost it."""
    trace, lines = np.array([0, 1, 2, 0]), np.array([1, 1, 1])
    assert hit_lines(trace, lines, 2).tolist() == [0, 0, 0, 1]
    assert hit_lines(trace, lines, 2, policy="lru").tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "given", [{"capacity": 0}, {"look_ahead": 0}, {"policy": "random"}], ids=lambda given: next(iter(given))
)
def test_impossible_buffer_is_refused(given):
    """No lines, nothing in view, an unknown policy."""
    with pytest.raises(Refused, match="at least one line") as caught:
        hit_lines(np.array([0]), np.array([1]), **({"capacity": 1} | given))
    assert caught.value.code == "machine-parameter"
