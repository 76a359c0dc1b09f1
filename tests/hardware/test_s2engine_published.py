"""S2Engine beside the authors' result files (``benchmarks/s2engine_published.toml``): 3 x 3, 24 x 24 x 16 -> 24 x 24 x 16."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from sparsam.hardware.s2engine_array import UNLIMITED, Array, pass_ticks
from sparsam.workload import Conv, Tensor

PUBLISHED = tomllib.loads(
    (Path(__file__).parents[2] / "benchmarks" / "s2engine_published.toml").read_text(encoding="utf-8")
)
DENSE = 24 * 24 * 9 * 16 // 16 * 4  # ticks of the dense peak


def operands(w_density, x_density, seed, w_most=127, x_most=127):
    """Activations (r, s, k) and weights (c, k) of the layer; the input is 26 x 26, nothing is padded."""
    rng = np.random.default_rng(seed)
    made = []
    for shape, density, most in (((1, 16, 26, 26), x_density, x_most), ((16, 16, 3, 3), w_density, w_most)):
        v = rng.integers(max(most // 2, 1), most, shape, endpoint=True) * (rng.random(shape) < density)
        kind = np.int8 if most < 128 else np.int16
        made.append(Tensor(v.astype(kind), kind.__name__))
    (product,) = Conv("layer", *made).products(16)
    return product.a.values.reshape(36, 16, -1).transpose(1, 0, 2), product.b.values


def taken(w_density, x_density, fifos, *, drain=True, seeds=8):
    """Ticks for several draws of data."""
    array = Array(16, 16, *[v or UNLIMITED for v in fifos or (0,) * 4], drain=drain)
    seeds = 1 if w_density == x_density == 1 else seeds
    return np.array([pass_ticks(*operands(w_density, x_density, seed), array)[0] for seed in range(seeds)])


def sweep(drain, seeds):
    """Speed-ups (10, 4), and the spread of a single draw as a share."""
    sweep = PUBLISHED["sweep"]
    times = [
        [taken(d, d, fifos, drain=drain, seeds=seeds) for fifos in sweep["fifos"]] for d in sweep["density"]
    ]
    mean = np.array([[t.mean() for t in row] for row in times])
    spread = np.array([[t.std() for t in row] for row in times])
    return DENSE / mean, spread / mean


def test_the_authors_forty_points():
    """All within 8 % of the authors' speed-ups, at least 33 of them within 4 %; means of eight draws of data."""
    found, _ = sweep(True, 8)
    off = np.abs(found / np.array(PUBLISHED["sweep"]["authors"]) - 1)
    assert (off <= 0.08).all() and (off <= 0.04).sum() >= 33


@pytest.mark.slow  # 24 draws of data for each point
def test_forty_points_of_the_same_rules_without_the_drain():
    """Within 2 % of another implementation's single draw, or within two standard deviations of a draw; without the drain.

    Of the authors' points one may lie beyond 8 % (unlimited queues at 0.6), at least 33 within 4 %: the drain does cost time.
    """
    found, spread = sweep(False, 24)
    off = np.abs(found / np.array(PUBLISHED["sweep"]["plain"]) - 1)
    assert (off <= np.maximum(0.02, 2 * spread)).all() and (off <= 0.02).sum() >= 30
    authors = np.abs(found / np.array(PUBLISHED["sweep"]["authors"]) - 1)
    assert (authors <= 0.08).sum() >= 39 and (authors <= 0.04).sum() >= 33


@pytest.mark.parametrize("row", PUBLISHED["ticks"]["rows"], ids=str)
def test_the_authors_ticks(row):
    """Selection ticks of whole runs: within 6 % in the mean of twelve draws (each scatters by up to 5 %), dense within 1 %."""
    w_density, x_density, *fifos, authors = row
    found = taken(w_density, x_density, fifos, seeds=12).mean()
    assert found == pytest.approx(authors, rel=0.01 if w_density == 1 else 0.06)


def test_the_authors_ticks_of_wide_operands():
    """All activations, or all weights, of 16 bits, dense: within 0.1 %."""
    for most, name in (({"x_most": 30000}, "wide_activations"), ({"w_most": 30000}, "wide_weights")):
        found, _ = pass_ticks(*operands(1, 1, 0, **most), Array())
        assert found == pytest.approx(PUBLISHED["ticks"][name], rel=0.001)


def test_speed_grows_with_the_ratio_and_levels_off():
    """As in the authors' sweep: in proportion up to 4 : 1 where queues are deep, flat from 6 : 1 on."""
    x, w = operands(0.25, 0.5, 1)
    ratios = ((2, 1), (5, 2), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1))
    for depths in ((1, 1, 1), (3, 3, 8), (8, 8, 8)):
        speed = np.array(
            [num / den / pass_ticks(x, w, Array(16, 16, *depths, 1, num, den))[0] for num, den in ratios]
        )
        assert (np.diff(speed) > 0).all()
        if depths[2] == 8:
            assert speed[2] / speed[0] == pytest.approx(1.5, rel=0.05)
            assert speed[7] / speed[5] < 1.06


@pytest.mark.slow  # a whole layer on 65,536 PEs
@pytest.mark.parametrize(("depths", "ratio"), [("3/3/8", 4.0), ("8/8/8", 2.0), ("1/1/1", 2.5)])
def test_the_authors_sweep_of_clocks(depths, ratio):
    """56 x 56 x 256 on 256 x 256 PEs, 13 rounds with filling and draining: within 3 %, at the densities that fit all of it."""
    rng, k = np.random.default_rng(0), 9 * 256
    x = (rng.random((256, 13, k)) < 0.5).astype(np.int8)
    w = (rng.random((256, k)) < 0.25).astype(np.int8)
    x[64:, -1] = 0  # 3136 positions are 12 1/4 rounds
    num, den = ratio.as_integer_ratio()
    total, _ = pass_ticks(x, w, Array(256, 256, *map(int, depths.split("/")), 1, num, den))
    published = PUBLISHED["ratio"]
    authors = published[depths][published["ratio"].index(ratio)] / published["peak"]
    assert 3136 / 256 * k * ratio / total == pytest.approx(authors, rel=0.03)
