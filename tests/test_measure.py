"""Scores, their intervals, paired differences, facts of the machine."""

import json
import platform
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsam.errors import Refused, Usage
from sparsam.measure import (
    Measurement,
    machine_facts,
    mcnemar,
    metric_interval,
    paired_difference,
    wilson_interval,
)
from sparsam.task import METRICS, metric_value


def noisy(n: int, classes: int, right: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions of which about ``right`` hit, and labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    return np.where(generator.random(n) < right, labels, generator.integers(0, classes, n)), labels


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 5))
def test_class_metrics_agree_with_scikit_learn(seed, classes):
    """F1 (of class 1, or macro), Matthews and accuracy are scikit-learn's."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    predictions, labels = noisy(60, classes, 0.6, seed)
    average = "binary" if {*predictions, *labels} <= {0, 1} else "macro"
    assert metric_value("f1", predictions, labels) == pytest.approx(
        f1_score(labels, predictions, average=average, zero_division=0)
    )
    assert metric_value("matthews", predictions, labels) == pytest.approx(
        matthews_corrcoef(labels, predictions)
    )
    assert metric_value("accuracy", predictions, labels) == pytest.approx(accuracy_score(labels, predictions))


def test_correlations_agree_with_scipy_ties_included():
    """The mean of Pearson and Spearman, tied values sharing their mean rank."""
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(1)
    labels = np.round(generator.random(300) * 5, 1)
    predictions = labels + np.round(generator.normal(size=300), 1)
    expected = (stats.pearsonr(predictions, labels)[0] + stats.spearmanr(predictions, labels)[0]) / 2
    assert metric_value("pearson_spearman", predictions, labels) == pytest.approx(expected)


def test_scores_of_a_perfect_and_of_a_constant_answer():
    """Perfect is 1 by every metric; a constant answer correlates with nothing and scores 0, without warnings."""
    labels = np.array([0, 1, 1, 0, 1])
    for metric in METRICS:
        assert metric_value(metric, labels, labels) == pytest.approx(1.0)
    assert metric_value("matthews", np.ones(5), labels) == 0
    assert metric_value("pearson_spearman", np.full(5, 0.1), labels) == 0
    assert metric_value("f1", np.zeros(5), labels) == 0


def test_logits_are_decided_by_their_largest():
    """Logits (n, classes) and regression outputs (n, 1) score like the classes and numbers they stand for."""
    labels = np.array([0, 1, 1])
    assert metric_value("accuracy", np.array([[2.0, 1], [0, 3], [5, 4]]), labels) == pytest.approx(2 / 3)
    assert metric_value("pearson_spearman", np.array([[0.0], [1.0], [1.0]]), labels) == pytest.approx(1)
    with pytest.raises(Usage, match="num_labels=1"):
        metric_value("pearson_spearman", np.zeros((3, 2)), labels)
    with pytest.raises(Usage, match=r"predictions \(2,\) do not fit labels \(3,\)"):
        metric_value("accuracy", np.zeros(2), labels)
    with pytest.raises(Usage, match="'bleu' is not known; choose one of accuracy"):
        metric_value("bleu", labels, labels)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_predictions_that_are_not_finite_are_refused(metric, bad):
    """A NaN or infinite output is never scored; the row is named."""
    predictions = np.array([0.0, 1.0, bad, 1.0])
    with pytest.raises(
        Refused, match=r"1 of 4 predictions are NaN or infinite, the first at row 2"
    ) as caught:
        metric_interval(metric, predictions, np.array([0, 1, 1, 0]))
    assert caught.value.code == "non-finite"
    with pytest.raises(Refused, match="first at row 1"):
        metric_value("accuracy", np.array([[0, 1.0], [bad, 0]]), np.array([0, 1]))


def test_the_bootstrap_of_accuracy_is_the_binomial_interval():
    """781 of 872: the standard error is one point, so the interval is about +-2 points, near Wilson's."""
    predictions = np.r_[np.ones(781), np.zeros(91)].astype(int)
    found = metric_interval("accuracy", predictions, np.ones(872, int))
    low, high = wilson_interval(781, 872)
    assert found.value == 781 / 872
    assert found.extra["right"] == 781
    assert found.n == 872
    assert found.low == pytest.approx(low, abs=0.003)
    assert found.high == pytest.approx(high, abs=0.003)


@pytest.mark.parametrize("metric", METRICS)
def test_drawing_counts_is_drawing_rows(metric):
    """The interval from multinomial counts agrees with the plain bootstrap that draws rows with replacement."""
    predictions, labels = noisy(150, 3 if metric != "pearson_spearman" else 20, 0.7, seed=3)
    found = metric_interval(metric, predictions, labels, seed=1)
    generator = np.random.default_rng(2)
    drawn = []
    for _ in range(2000):
        rows = generator.integers(0, 150, 150)
        drawn.append(metric_value(metric, predictions[rows], labels[rows]))
    low, high = np.percentile(drawn, (2.5, 97.5))
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)
    assert found.low < found.value < found.high


def test_intervals_are_seeded():
    """The same seed gives the same interval to the last bit; another seed moves it a little."""
    predictions, labels = noisy(400, 3, 0.8)
    one, again, other = (metric_interval("f1", predictions, labels, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert one.low == pytest.approx(other.low, abs=0.02)


def test_intervals_of_many_rows_are_quick():
    """60,000 rows cost no more than their few distinct pairs."""
    predictions, labels = noisy(60_000, 10, 0.9)
    started = time.perf_counter()
    metric_interval("f1", predictions, labels)
    assert time.perf_counter() - started < 5


def test_a_pair_of_models_is_compared_row_by_row():
    """Points, flips and McNemar's p by hand: 3 rows lost, 1 won of 10: 9/10 to 7/10 is -20 points, p = 10/16."""
    labels = np.ones(10, int)
    before = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 0])
    after = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 1])
    found = paired_difference("accuracy", before, after, labels)
    assert found.value == pytest.approx(-20)
    assert found.unit == "points"
    assert found.extra == {"lost": 3, "won": 1, "changed": 4, "p": 10 / 16}
    assert found.low < -20 < found.high


def test_a_paired_interval_is_narrower_than_two_single_ones():
    """Models that agree on most rows differ by a surely known amount; a model differs from itself by nothing."""
    before, labels = noisy(1000, 2, 0.8)
    after = before.copy()
    after[:10] = 1 - after[:10]
    found = paired_difference("accuracy", before, after, labels)
    single = metric_interval("accuracy", before, labels)
    assert found.high - found.low < 100 * (single.high - single.low) / 2
    same = paired_difference("matthews", before, before, labels)
    assert (same.value, same.low, same.high, same.extra["p"]) == (0, 0, 0, 1.0)


def test_a_regression_has_a_paired_difference_and_no_flips():
    """Correlation points with an interval; no row is right or wrong."""
    generator = np.random.default_rng(0)
    labels = generator.random(200)
    before, after = (labels + generator.normal(size=200) * noise for noise in (0.1, 0.3))
    found = paired_difference("pearson_spearman", before, after, labels, resamples=300)
    assert found.value < found.high < 0
    assert found.low < found.value
    assert found.extra == {}


def test_mcnemar_is_the_two_sided_binomial_test():
    """Equal to scipy's exact test, and 1 where nothing flipped; thousands of flips stay exact."""
    stats = pytest.importorskip("scipy.stats")
    for lost, won in ((0, 5), (30, 55), (7, 7), (900, 1020)):
        assert mcnemar(lost, won) == pytest.approx(stats.binomtest(lost, lost + won).pvalue)
        assert mcnemar(lost, won) == mcnemar(won, lost)
    assert mcnemar(0, 0) == 1.0
    assert 0 < mcnemar(4800, 5200) < 1e-4


def test_wilson_is_never_empty():
    """All right or all wrong still leaves an interval inside [0, 1]."""
    assert wilson_interval(0, 10)[0] == 0
    assert 0.2 < wilson_interval(0, 10)[1] < 0.35
    assert wilson_interval(10, 10)[1] == pytest.approx(1)
    assert 0.65 < wilson_interval(10, 10)[0] < 0.8
    with pytest.raises(Usage, match="right 11, n 10"):
        wilson_interval(11, 10)


def test_a_measurement_is_plain_json():
    """as_json holds the facts and nothing that JSON lacks."""
    found = metric_interval("accuracy", np.array([0, 1, 1]), np.array([0, 1, 0]))
    assert json.loads(json.dumps(found.as_json(), allow_nan=False)) == found.as_json()
    assert Measurement("x", 1.0, 0.0, 2.0, 3, "points").as_json()["extra"] == {}


def test_machine_facts_tell_the_machine_and_not_its_name():
    """Processor, cores, memory and versions are there, as JSON; the host's name is not."""
    facts = machine_facts()
    assert facts["processor"]
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 2**20
    assert "numpy" in facts["versions"]
    text = json.dumps(facts)
    assert len(platform.node()) < 4 or platform.node() not in text
