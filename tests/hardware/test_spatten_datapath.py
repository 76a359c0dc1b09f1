"""SpAtten's arithmetic: exact scores, planes of keys, pruned values, and the schedule carried out."""

import numpy as np
import pytest

from sparsam.errors import Refused
from sparsam.hardware.spatten_datapath import attend, decided, exact_scores, joined, planes, replay, softmax


def head(rng, m, n, d, bits=12):
    """Queries, keys and values as integers of so many bits."""
    most = (1 << (bits - 1)) - 1
    return (rng.integers(-most, most + 1, shape) for shape in ((m, d), (n, d), (n, d)))


def dense(q, k, v, step, seen=None):
    """Softmax attention in float64."""
    logits = (q.astype(np.int64) @ k.astype(np.int64).T) * step
    if seen is not None:
        logits = np.where(np.arange(len(k)) < seen[:, None], logits, -np.inf)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return p, p @ v


@pytest.mark.parametrize(("bits", "low"), [(10, 4), (12, 4), (10, 2)])
def test_planes_are_the_integer(bits, low):
    """All integers of a width, low planes not negative."""
    x = np.arange(-(1 << (bits - 1)), 1 << (bits - 1))
    upper, rest = planes(x, low)
    assert np.array_equal(joined(upper, rest, low), x)
    assert rest.min() == 0
    assert rest.max() == (1 << low) - 1
    assert upper.min() == -(1 << (bits - low - 1))


def test_with_nothing_pruned_it_is_dense_attention():
    """Scores equal integer products; softmax and results are within 1e-5 of float64."""
    rng = np.random.default_rng(1)
    for _ in range(100):
        m, n, d = (int(x) for x in rng.integers(1, 40, 3))
        q, k, v = head(rng, m, n, d)
        step = 2.0 / (2047 * 2047 * d**0.5)
        real = v / 2048
        found = attend(q, k, real, step, low_bits=4, threshold=0.0)
        full = attend(q, k, real, step)
        assert np.array_equal(exact_scores(q, k), q @ k.T)
        p, out = dense(q, k, real, step)
        assert np.abs(full.probabilities - p).max() < 1e-5
        assert np.abs(full.out - out).max() < 1e-5
        assert full.kept.all()
        assert not found.refetched.any()
        upper = (k >> 4) << 4
        assert np.abs(found.probabilities - dense(q, upper, real, step)[0]).max() < 1e-5


def test_pruned_values_equal_a_gathered_reference():
    """Each row on its own: the largest probabilities' values, taken out and summed; causal too."""
    rng = np.random.default_rng(2)
    for case in range(200):
        n, d = int(rng.integers(2, 30)), 8
        q, k, v = head(rng, n, n, d)
        seen = np.arange(1, n + 1) if case % 2 else np.full(n, n)
        values = np.maximum(1, seen // 3)
        found = attend(q, k, v, 3e-7, values=values, seen=seen, seed=case)
        p, _ = dense(q, k, v, 3e-7, seen)
        for row in range(n):
            order = np.argsort(-found.probabilities[row, : seen[row]], kind="stable")[: values[row]]
            assert set(np.flatnonzero(found.kept[row])) == set(order)
            assert np.allclose(found.out[row], p[row, order] @ v[order], rtol=1e-4, atol=1e-2)


def test_one_kept_value_is_the_largest():
    """With one value a row the result is its largest probability times that value."""
    rng = np.random.default_rng(3)
    q, k, v = head(rng, 20, 30, 16)
    found = attend(q, k, v, 1e-7, values=np.ones(20, int))
    best = found.probabilities.argmax(1)
    assert np.array_equal(found.kept.argmax(1), best)
    assert np.allclose(found.out, found.probabilities[np.arange(20), best][:, None] * v[best])


def test_threshold_decides_which_rows_take_the_low_plane():
    """0 takes none, above 1 all; between, exactly the rows whose first pass was flat; more with a higher threshold."""
    rng = np.random.default_rng(4)
    q, k, _ = head(rng, 200, 50, 32)
    q = q * np.geomspace(0.02, 1, 200)[:, None] // 1
    q, seen, step = q.astype(np.int64), np.ones((200, 50), bool), 1e-6
    first = softmax(exact_scores(q, (k >> 4) << 4), step, seen)
    full = softmax(exact_scores(q, k), step, seen)
    last = -1
    for threshold in (0.0, 0.05, 0.1, 0.4, 1.1):
        p, again = decided(q, k, step, seen, 4, threshold)
        assert np.array_equal(again, first.max(1) < threshold)
        assert np.array_equal(p, np.where(again[:, None], full, first))
        assert again.sum() >= last
        last = int(again.sum())
    assert last == 200
    assert 0 < decided(q, k, step, seen, 4, 0.1)[1].sum() < 200


def test_peaked_rows_skip_the_low_plane():
    """One key alike: no low plane. All keys alike: low plane, where a row of so many is below the threshold."""
    k = np.zeros((20, 8), np.int64)
    k[7] = 2000
    q = np.full((1, 8), 1000, np.int64)
    seen = np.ones((1, 20), bool)
    assert not decided(q, k, 1e-5, seen, 4, 0.1)[1].any()
    assert decided(q * 0, k, 1e-5, seen, 4, 0.1)[1].all()
    assert not decided(q * 0, k[:10], 1e-5, seen[:, :10], 4, 0.1)[1].any()  # 1 / 10 is not below 0.1


def test_small_change_of_a_score_changes_probabilities_as_derived():
    """|dp| sums to 2 ds p (1 - p), within 1 %, and never beyond ds / 2: why peaked rows need no low plane."""
    rng = np.random.default_rng(5)
    for _ in range(200):
        logits = rng.standard_normal(30) * 3
        at, ds = int(rng.integers(30)), 1e-4
        p = np.exp(logits) / np.exp(logits).sum()
        moved = logits + ds * (np.arange(30) == at)
        change = np.abs(np.exp(moved) / np.exp(moved).sum() - p).sum()
        assert change == pytest.approx(2 * ds * p[at] * (1 - p[at]), rel=0.01)
        assert change <= ds / 2


def test_replayed_rows_give_the_dense_integers():
    """10,000 rows of random heads: scores and pruned sums bit for bit, each pair once, never more than the multipliers."""
    rng = np.random.default_rng(6)
    rows = 0
    while rows < 10_000:
        m, n, d = int(rng.integers(1, 60)), int(rng.integers(1, 14)), int(rng.integers(1, 9))
        q, k, v = head(rng, m, n, d)
        p, kept = rng.integers(0, 4096, (m, n)), rng.random((m, n)) < rng.random()
        seen = rng.integers(1, n + 1, m)
        kept &= np.arange(n) < seen[:, None]
        multipliers = d * int(rng.integers(1, 7))
        ran = replay(q, k, p, v, kept, seen, multipliers)
        visible = np.arange(n) < seen[:, None]
        assert np.array_equal(ran.scores, np.where(visible, q @ k.T, 0))
        assert np.array_equal(ran.context, np.where(kept, p, 0) @ v)
        assert np.array_equal(ran.times[0], visible)
        assert np.array_equal(ran.times[1], kept)
        assert ran.most <= multipliers
        par = multipliers // d
        assert ran.cycles == (int((-(-seen // par)).sum()), int((-(-kept.sum(1) // par)).sum()))
        rows += m


def test_overflow_is_refused_by_name():
    """12 by 12 bits over a width of 64 fit in 32 bits; over 1024 they may not."""
    most = np.full((1, 64), 2047)
    assert exact_scores(most, most)[0, 0] == 64 * 2047**2
    wide = np.full((1, 1024), 2047)
    with pytest.raises(Refused, match="layer 3: 1024 products of up to 2047 and 2047 may exceed"):
        exact_scores(wide, wide, "layer 3")
