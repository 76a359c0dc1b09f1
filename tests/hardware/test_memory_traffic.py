"""Traffic of tiled products against tiles moved one by one, and the load of channels against addresses one by one."""

import numpy as np
import pytest

from sparsam.errors import Refused
from sparsam.hardware.memory import ORDERS, Channels, compulsory, least_tiling, memory_cycles, tiled


def moved(m: int, n: int, k: int, tile: tuple[int, int, int], order: str) -> tuple[int, int, int, int]:
    """Numbers of a, b, finished c and partial sums that move when tiles are fetched one by one."""
    size, step = dict(zip("mnk", (m, n, k), strict=True)), dict(zip("mnk", tile, strict=True))
    trips = {x: -(-size[x] // step[x]) for x in "mnk"}
    held: dict[str, tuple[int, int] | None] = {"mk": None, "nk": None, "mn": None}
    count = dict.fromkeys(("mk", "nk", "c", "partial"), 0)
    done: dict[tuple[int, int], int] = {}

    def many(names: str, at: dict[str, int]) -> int:
        found = 1
        for x in names:
            found *= min(step[x], size[x] - at[x] * step[x])
        return found

    def leave(at: tuple[int, int] | None) -> None:
        if at is not None:
            there = many("mn", {"m": at[0], "n": at[1]})
            count["c" if done[at] == trips["k"] else "partial"] += there

    for outer in range(trips[order[0]]):
        for middle in range(trips[order[1]]):
            for inner in range(trips[order[2]]):
                at = dict(zip(order, (outer, middle, inner), strict=True))
                for names in ("mk", "nk"):
                    here = (at[names[0]], at[names[1]])
                    if held[names] != here:
                        held[names] = here
                        count[names] += many(names, at)
                here = (at["m"], at["n"])
                if held["mn"] != here:
                    leave(held["mn"])
                    held["mn"] = here
                    if here in done:
                        count["partial"] += many("mn", at)
                done[here] = done.get(here, 0) + 1
    leave(held["mn"])
    return count["mk"], count["nk"], count["c"], count["partial"]


def test_tiled_traffic_is_what_moving_the_tiles_counts() -> None:
    """The closed form equals a walk over the tiles, for every order, with ragged edges."""
    draw = np.random.default_rng(0)
    for _ in range(300):
        m, n, k = (int(x) for x in draw.integers(1, 14, 3))
        tile = (int(draw.integers(1, 16)), int(draw.integers(1, 16)), int(draw.integers(1, 16)))
        for order in ORDERS:
            found = tiled(m, n, k, tile, order, 8, 16, 8, 32)
            a, b, c, partial = moved(m, n, k, tile, order)
            assert (found.a, found.b, found.c, found.partial) == (a, 2 * b, c, 4 * partial)
            assert found.total >= compulsory(m, n, k, 8, 16, 8).total


def test_one_tile_moves_what_must_move() -> None:
    """A product that fits is read once, whatever the order."""
    for order in ORDERS:
        assert tiled(5, 6, 7, (5, 6, 7), order, 8, 8, 8) == compulsory(5, 6, 7, 8, 8, 8)
    assert compulsory(5, 6, 7, 8, 4, 16).total == 35 + 21 + 60


def test_a_larger_buffer_never_moves_more() -> None:
    """The best tiling of a larger buffer moves at most as much, down to the least there is."""
    before = np.inf
    for size in (64, 1 << 10, 1 << 14, 1 << 18, 1 << 22):
        tile, order, traffic = least_tiling(197, 300, 768, size, 8, 8, 8)
        assert tile[0] * tile[2] + tile[1] * tile[2] + 4 * tile[0] * tile[1] <= size
        assert traffic == tiled(197, 300, 768, tile, order, 8, 8, 8)
        assert traffic.total <= before
        before = traffic.total
    assert before == compulsory(197, 300, 768, 8, 8, 8).total


def test_channels_load_is_what_counting_bursts_gives() -> None:
    """The load of each channel equals a walk over the bursts of each request."""
    draw = np.random.default_rng(1)
    for _ in range(200):
        channels = Channels(int(draw.integers(1, 9)), 8.0, 32 * int(draw.integers(1, 5)), 32)
        start, size = draw.integers(0, 5000, 7), draw.integers(0, 900, 7)
        load = np.zeros(channels.count, int)
        for at, many in zip(start, size, strict=True):
            for burst in range(at // 32, -(-(at + many) // 32) if many else 0):
                load[burst * 32 // channels.interleave_bytes % channels.count] += 32
        assert channels.load(start, size).tolist() == load.tolist()


def test_even_streams_load_channels_evenly_and_strides_do_not() -> None:
    """A long stream uses all channels alike; requests one round apart all fall on one."""
    hbm = Channels(16, 8.0, 256, 32)
    even = hbm.load([0], [1 << 20])
    assert hbm.imbalance(even) == 1.0
    assert hbm.cycles(even, 1000) == pytest.approx(memory_cycles(1 << 20, 16 * 8.0, 1000))
    same = hbm.load(np.arange(100) * 256 * 16, np.full(100, 64))
    assert hbm.imbalance(same) == 16.0
    assert same[0] == 6400 and same[1:].sum() == 0


def test_what_no_memory_can_be_is_refused() -> None:
    """Negative sizes, unknown orders, buffers for nothing and blocks that cut bursts are named."""
    with pytest.raises(Refused, match="negative"):
        compulsory(-1, 2, 3, 8, 8, 8)
    with pytest.raises(Refused, match="order of loops 'kkk'"):
        tiled(1, 2, 3, (1, 1, 1), "kkk", 8, 8, 8)
    with pytest.raises(Refused, match="at least 1"):
        tiled(1, 2, 3, (0, 1, 1), "mnk", 8, 8, 8)
    with pytest.raises(Refused, match="holds no tile"):
        least_tiling(4, 4, 4, 1, 8, 8, 8)
    with pytest.raises(Refused, match="whole number of bursts"):
        Channels(4, 8.0, 40, 32)
    with pytest.raises(Refused, match="none negative"):
        Channels(4, 8.0).load([-1], [4])
    with pytest.raises(Refused, match="rates are positive"):
        memory_cycles(1, 0, 1)
