"""Multiply-accumulates counted against numbers worked out by hand, and budgets read from text."""

import math

import numpy as np
import pytest

from sparsam.cost import Budget, Cost, Dense, Shape, dense_cost, encoder_cost, layer_cost
from sparsam.errors import Usage

BASE = Shape(width=768, heads=12, head_width=64, filters=3072)


def counts(*values: int) -> np.ndarray:
    """Lengths as the counter takes them."""
    return np.array(values, dtype=np.int64)


def test_one_layer_by_hand() -> None:
    """Width 4, two heads of 3, 5 filters; sequences of 2 and 3 tokens, then 1 and 3: every product counted by hand."""
    cost = layer_cost(Shape(4, 2, 3, 5, scored=True), counts(2, 3), counts(1, 3))
    assert cost.projections == 4 * 4 * 6 * 5  # four products of 4 x 6 for 5 tokens
    assert cost.attention == 2 * 6 * (4 + 9)
    assert cost.scoring == 2 * (4 + 9)
    assert cost.ffn == 2 * 4 * 5 * 4
    assert cost.macs == 480 + 156 + 26 + 160


@pytest.mark.parametrize("n", [1, 32, 128, 512])
def test_formula_of_the_paper(n: int) -> None:
    """For a dense layer of width d: 2 d n^2 + 4 d^2 n + 8 d^2 m."""
    d, m = 768, max(n // 2, 1)
    assert layer_cost(BASE, counts(n), counts(m)).macs == 2 * d * n * n + 4 * d * d * n + 8 * d * d * m


@pytest.mark.parametrize(("n", "gflops"), [(32, 5.47), (64, 11.02), (128, 22.35), (256, 45.90), (512, 96.64)])
def test_published_figures_of_a_base_model(n: int, gflops: float) -> None:
    """Twelve layers of width 768 cost what the card's table says (two FLOPs a MAC)."""
    assert 2 * dense_cost([BASE] * 12, counts(n)).macs / 1e9 == pytest.approx(gflops, abs=0.006)


def test_lengths_are_squared_one_by_one() -> None:
    """Attention is the sum of squares, not the square of a sum or of a mean; a sequence of 0 costs nothing."""
    together = layer_cost(BASE, counts(3, 0, 5), counts(3, 0, 5))
    alone = layer_cost(BASE, counts(3), counts(3)) + layer_cost(BASE, counts(5), counts(5))
    assert together == alone


def test_half_the_tokens_after_the_second_layer() -> None:
    """Four layers, 128 tokens, 64 from the second layer's feed-forward part on: the ratio by hand arithmetic."""
    d, n, m = 768, 128, 64
    cost = encoder_cost(
        [BASE] * 4, [counts(n), counts(n), counts(m), counts(m)], [counts(n), counts(m), counts(m), counts(m)]
    )
    full = 2 * d * n * n + 4 * d * d * n + 8 * d * d * n
    second = 2 * d * n * n + 4 * d * d * n + 8 * d * d * m
    half = 2 * d * m * m + 4 * d * d * m + 8 * d * d * m
    assert cost.macs == full + second + 2 * half
    assert cost.relative_to(dense_cost([BASE] * 4, counts(n))) == (full + second + 2 * half) / (4 * full)


def test_dense_counts_no_scoring_and_scoring_counts_against() -> None:
    """The dense side never pays for scores; a rule that scores and removes nothing costs more than dense."""
    scored = Shape(768, 12, 64, 3072, scored=True)
    dense = dense_cost([scored] * 2, counts(10))
    assert dense.scoring == 0
    assert dense == dense_cost([BASE] * 2, counts(10))
    assert encoder_cost([scored] * 2, [counts(10)] * 2, [counts(10)] * 2).relative_to(dense) > 1


def test_nothing_left_costs_nothing() -> None:
    """No heads and no filters: no work, and no error."""
    assert layer_cost(Shape(768, 0, 64, 0, scored=True), counts(9), counts(9)).macs == 0
    assert layer_cost(BASE, counts(), counts()).macs == 0


def test_counts_beyond_64_bits() -> None:
    """Long texts times wide models are counted exactly, even where 64-bit integers would wrap."""
    n = 3_000_000_000
    cost = layer_cost(
        Shape(16_384, 128, 128, 65_536), np.array([n], dtype=np.int64), np.array([n], dtype=np.int64)
    )
    assert cost.attention == 2 * 16_384 * n * n > 2**63
    narrow = layer_cost(BASE, np.array([100_000], dtype=np.int32), np.array([100_000], dtype=np.int32))
    assert narrow.attention == 2 * 768 * 100_000**2


def test_costs_add_up_by_sample() -> None:
    """Two batches counted apart and together agree, samples included."""
    apart = dense_cost([BASE], counts(3, 4)) + dense_cost([BASE], counts(5))
    assert apart == dense_cost([BASE], counts(3, 4, 5))
    assert apart.samples == 3


def test_costs_of_different_samples_do_not_compare() -> None:
    """A ratio needs the same samples on both sides."""
    with pytest.raises(Usage, match="costs of 2 and 1 samples cannot be compared") as caught:
        dense_cost([BASE], counts(3, 4)).relative_to(dense_cost([BASE], counts(3)))
    assert caught.value.code == "cost-samples"
    with pytest.raises(Usage, match="count both on the same samples"):
        Cost().relative_to(Cost())


@pytest.mark.parametrize(
    ("text", "macs", "accuracy"),
    [
        ("macs=0.5x", 0.5, None),
        ("flops=.5x", 0.5, None),
        ("macs=1x,accuracy=-1", 1.0, -1.0),
        (" macs = 0.35x , accuracy = -0.5 ,", 0.35, -0.5),
        ("accuracy=0", None, 0.0),
        ("accuracy=−1", None, -1.0),
    ],
)
def test_budgets_that_can_be_read(text: str, macs: float | None, accuracy: float | None) -> None:
    """Each form that the help shows is read as it says."""
    assert Budget.parse(text) == Budget(macs, accuracy)


def test_budgets_of_a_clock_and_of_size() -> None:
    """Throughput is a multiple, latency and bytes are shares; what has to be searched for is known."""
    found = Budget.parse("throughput=2.5x,accuracy=-1")
    assert found == Budget(throughput=2.5, accuracy=-1.0) and found.timed and found.searched
    assert found.to_json() == {"throughput": 2.5, "accuracy": -1.0}
    assert Budget.parse("latency=0.4x").timed
    small = Budget.parse("bytes=0.5x")
    assert small.searched and not small.timed
    assert not Budget.parse("macs=0.5x,accuracy=-1").searched


@pytest.mark.parametrize(
    ("text", "field", "value", "said"),
    [
        ("latency=8ms", "latency_ms", 8.0, "latency=8ms"),
        ("latency=0.008s", "latency_ms", 8.0, "latency=8ms"),
        ("throughput=900/s", "samples_per_second", 900.0, "throughput=900/s"),
        ("throughput = 900 /s", "samples_per_second", 900.0, "throughput=900/s"),
        ("bytes=20MB", "size_bytes", 20e6, "bytes=20MB"),
        ("bytes=1KiB", "size_bytes", 1024.0, "bytes=1.024kB"),
        ("bytes=12B", "size_bytes", 12.0, "bytes=0.012kB"),
        ("macs=120M", "macs_per_sample", 120e6, "macs=120M"),
        ("flops=1.5G", "macs_per_sample", 1.5e9, "macs=1.5G"),
    ],
)
def test_limits_in_their_own_units(text: str, field: str, value: float, said: str) -> None:
    """Each unit is read, kept by a field that names it, and written again in a form that reads the same."""
    found = Budget.parse(text)
    assert found.to_json() == pytest.approx({field: value})
    assert found.said(found.limits[0]) == said and Budget.parse(said) == found
    assert found.absolute == found.limits and found.names(found.limits[0])
    assert found.searched == (field != "macs_per_sample")


def test_absolute_limits_become_relative_to_a_dense_model() -> None:
    """By division; those it keeps already are left out and named; relative ones and accuracy stay."""
    dense = Dense(macs_per_sample=2e8, samples_per_second=300.0, latency_ms=16.0, size_bytes=4e7)
    given = Budget.parse("macs=50M,throughput=900/s,latency=8ms,bytes=20MB,accuracy=-1")
    assert given.relative_to(dense) == (Budget(0.25, -1.0, 3.0, 0.5, 0.5), ())
    assert given.limits == ("macs", "throughput", "latency", "bytes")
    given = Budget.parse("throughput=300/s,latency=20ms,bytes=0.5x")
    assert given.relative_to(dense) == (Budget(bytes=0.5), ("throughput", "latency"))
    assert Budget(latency=0.5).relative_to(Dense()) == (Budget(latency=0.5), ())


def test_what_can_be_reached_is_said_in_the_limits_own_form() -> None:
    """Milliseconds where milliseconds were asked for, a multiple where a multiple was."""
    dense = Dense(samples_per_second=300.0, latency_ms=16.0)
    given = Budget.parse("latency=1ms,throughput=900x")
    assert given.reach("latency", 0.25, dense) == "latency=4ms"
    assert given.reach("throughput", 3.0, dense) == "throughput=3.0x"
    assert Budget.parse("latency=0.1x").reach("latency", 0.25, dense) == "latency=0.25x"


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("", "budget-key", "is empty; expected e.g. macs=0.5x"),
        (",,", "budget-key", "is empty"),
        ("macs", "budget-key", "cannot read 'macs' in the budget"),
        ("speed=2x", "budget-key", "expected e.g. macs=0.5x,accuracy=-1"),
        ("throughput=2.5", "budget-value", "expected a multiple of the dense model's such as 2.5x"),
        ("latency=8", "budget-value", "such as 0.5x, or latency=8ms \\(units are ms, us, s\\)"),
        ("throughput=900", "budget-value", "or throughput=900/s"),
        ("bytes=20mb", "budget-value", "or bytes=20MB .units are B, kB, MB, GB, KiB"),
        ("macs=120Q", "budget-value", "or macs=120M for a sample, on average"),
        (
            "latency=0ms",
            "budget-range",
            "latency_ms must be above 0 and finite; got 0.0. For example latency=8ms",
        ),
        ("latency=8ms,latency=0.5x", "budget-key", "names latency twice"),
        ("bytes=0.5", "budget-value", "expected a share of the dense model's size such as 0.5x"),
        (
            "throughput=0.9x",
            "budget-range",
            r"must be at least 1x.*Twice as many samples a second are throughput=2x",
        ),
        ("latency=2x", "budget-range", r"latency must lie in \(0x, 1x\]"),
        ("bytes=0x", "budget-range", r"bytes must lie in \(0x, 1x\]"),
        ("macs=0.5x,flops=0.4x", "budget-key", "names macs twice"),
        ("macs=0.5", "budget-value", "expected a share of the dense model such as 0.5x"),
        ("macs=50%", "budget-value", "cannot read macs='50%'"),
        ("macs=-0.5x", "budget-value", "0.5x"),
        ("macs=nanx", "budget-value", "0.5x"),
        ("macs=1e-3x", "budget-value", "0.5x"),
        ("macs=0.5x=3", "budget-value", "0.5x"),
        ("accuracy=-1x", "budget-value", "expected points such as -1"),
        ("accuracy=nan", "budget-value", "points"),
        ("accuracy=", "budget-value", "points"),
        ("macs=0x", "budget-range", r"must lie in \(0x, 1x\]"),
        ("macs=1.01x", "budget-range", "got 1.01x"),
        ("macs=" + "9" * 400 + "x", "budget-range", "got infx"),
        ("accuracy=1", "budget-range", "One point lost at most is accuracy=-1"),
        ("accuracy=-" + "9" * 400, "budget-range", "at most 0"),
    ],
)
def test_budgets_that_cannot_be_read(text: str, code: str, says: str) -> None:
    """Every mistake has its code, and a text that shows what was given and a form that works."""
    with pytest.raises(Usage, match=says) as caught:
        Budget.parse(text)
    assert caught.value.code == code


def test_budget_checks_its_numbers_without_text_too() -> None:
    """A budget made in Python obeys the same limits."""
    for macs in (0.0, -1.0, 1.1, math.nan, math.inf):
        with pytest.raises(Usage, match="macs"):
            Budget(macs=macs)
    with pytest.raises(Usage, match="limits latency twice, by latency and by latency_ms") as caught:
        Budget(latency=0.5, latency_ms=8.0)
    assert caught.value.code == "budget-key"
    for accuracy in (0.1, math.nan, -math.inf):
        with pytest.raises(Usage, match="accuracy"):
            Budget(accuracy=accuracy)
