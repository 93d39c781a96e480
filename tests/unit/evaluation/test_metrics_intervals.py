"""Intervals: known values, and that they cover a known truth in simulation."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.metrics.detection import roc_auc
from evaluation.metrics.errors import InvalidData, Undefined
from evaluation.metrics.intervals import Interval, bootstrap, clopper_pearson, proportion, rule_of_three, wilson


def test_wilson_by_hand():
    # 8 of 10, z = 1.96: centre (0.8 + 0.19208) / 1.38416 = 0.7167, half 1.96 sqrt(0.016 + 0.009604) / 1.38416 = 0.2266
    interval = wilson(8, 10)
    assert interval.low == pytest.approx(0.4902, abs=1e-4)
    assert interval.high == pytest.approx(0.9433, abs=1e-4)


def test_clopper_pearson_by_hand():
    # With 0 of n the limit solves (1 - p)^n = 0.025, with n of n p^n = 0.025.
    assert clopper_pearson(0, 50) == Interval(0.0, pytest.approx(1 - 0.025 ** (1 / 50)))
    assert clopper_pearson(50, 50) == Interval(pytest.approx(0.025 ** (1 / 50)), 1.0)
    # 8 of 10: the published limits.
    assert clopper_pearson(8, 10).low == pytest.approx(0.4439, abs=1e-4)
    assert clopper_pearson(8, 10).high == pytest.approx(0.9748, abs=1e-4)


def test_rule_of_three():
    assert rule_of_three(100) == 0.03
    assert rule_of_three(100) == pytest.approx(clopper_pearson(0, 100, confidence=0.9).high, abs=6e-4)
    assert rule_of_three(2) == 1.0


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_count_intervals_hold_the_share(case):
    successes, total = case
    exact = clopper_pearson(successes, total)
    assert 0.0 <= exact.low <= successes / total <= exact.high <= 1.0
    assert successes / total in wilson(successes, total)
    assert clopper_pearson(successes, total, confidence=0.99).width >= exact.width


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_clopper_pearson_covers_for_every_share(share):
    n = 40
    probabilities = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
    assert sum(p for k, p in enumerate(probabilities) if share in clopper_pearson(k, n)) >= 0.95


def test_bootstrap_covers_a_known_auc():
    # Scores N(0, 1) and N(1, 1): the AUC is Phi(1 / sqrt 2).
    truth = NormalDist().cdf(1 / math.sqrt(2))
    random = np.random.default_rng(5)
    labels = np.arange(80) % 2 == 0
    covered = 0
    for _ in range(100):
        scores = random.normal(size=80) + labels
        found = bootstrap(lambda i, s=scores: roc_auc(labels[i], s[i]), None, length=80, resamples=200).interval
        assert found is not None
        covered += truth in found
    assert covered >= 88


def clustered_means(random, sources=25, pictures=8):
    # All pictures of a source share its value: they are worth one.
    return np.repeat(random.normal(size=sources), pictures), np.repeat(np.arange(sources), pictures)


def test_bootstrap_by_source_covers_where_by_picture_does_not():
    random = np.random.default_rng(6)
    by_source = by_picture = 0
    for _ in range(100):
        values, groups = clustered_means(random)
        clustered = bootstrap(lambda i, v=values: float(v[i].mean()), groups, resamples=200).interval
        naive = bootstrap(lambda i, v=values: float(v[i].mean()), None, length=values.size, resamples=200).interval
        assert clustered is not None
        assert naive is not None
        by_source += 0.0 in clustered
        by_picture += 0.0 in naive
    assert by_source >= 86
    assert by_picture <= 70


def test_proportion_by_source_covers():
    random = np.random.default_rng(7)
    groups = np.repeat(np.arange(30), 6)
    covered = sum(
        0.1 in proportion(np.repeat(random.random(30) < 0.1, 6), groups).interval for _ in range(300)
    )  # fmt: skip
    assert covered >= 0.94 * 300


def test_no_alarm_on_many_pictures_of_few_sources():
    # 0 of 100 pictures of 20 sources bound the rate like 0 of 20.
    assert proportion(np.zeros(100, bool), np.arange(100) % 20).interval == clopper_pearson(0, 20)
    assert proportion(np.zeros(100, bool)).interval == clopper_pearson(0, 100)


def test_proportion_of_few_sources_by_hand():
    # Alarms per source of two pictures: 2 0 0 0, a share of 1/4. Between-source variance 4/3 (1.5^2 + 3 * 0.5^2) / 8^2
    # = 1/16; independent pictures would have 3/16 over n, so n = 3. Student's t at 7 and 3 degrees of freedom is
    # 2.3646 and 3.1824: n = 3 (2.3646 / 3.1824)^2 = 1.6562.
    interval = proportion([1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 2, 2, 3, 3]).interval
    expected = clopper_pearson(1.6562 / 4, 1.6562)
    assert interval.low == pytest.approx(expected.low, abs=1e-4)
    assert interval.high == pytest.approx(expected.high, abs=1e-4)


def test_equal_seeds_give_equal_intervals():
    values = np.random.default_rng(0).random(30)
    first, second, other = (
        bootstrap(lambda i: float(values[i].mean()), None, length=30, resamples=100, seed=seed) for seed in (1, 1, 2)
    )
    assert first == second != other


def test_a_statistic_undefined_in_a_resample_is_counted():
    # One false picture among 30 sources: absent from a resample with probability (29/30)^30 = 36%, too often.
    labels = np.arange(30) == 0
    scores = np.arange(30.0)
    estimate = bootstrap(lambda i: roc_auc(labels[i], scores[i]), None, length=30, resamples=300)
    assert estimate.interval is None
    assert estimate.undefined / 300 == pytest.approx(0.36, abs=0.1)
    # Five: absent with probability (25/30)^30 = 0.4%, counted and left out.
    labels = np.arange(30) < 5
    estimate = bootstrap(lambda i: roc_auc(labels[i], scores[i]), None, length=30, resamples=2000)
    assert estimate.interval is not None
    assert 0 < estimate.undefined < 40


def test_one_source_has_no_interval():
    assert bootstrap(lambda i: float(i.size), ["a"] * 4).interval is None


def test_refusals():
    with pytest.raises(InvalidData):
        bootstrap(lambda _: 0.0, [])
    with pytest.raises(Undefined):
        bootstrap(lambda _: math.nan, ["a", "b"])
    with pytest.raises(Undefined):
        proportion([])
    for interval in (wilson, clopper_pearson):
        with pytest.raises(InvalidData):
            interval(3, 2)
        with pytest.raises(InvalidData):
            interval(0, 0)
        with pytest.raises(InvalidData):
            interval(1, 2, confidence=1.0)
