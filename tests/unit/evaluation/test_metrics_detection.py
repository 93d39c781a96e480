"""Detection metrics: scikit-learn's on random and tied scores, hand-worked cases, and what holds for any scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from evaluation.metrics.detection import (
    average_precision,
    balanced_accuracy,
    equal_error_rate,
    precision_recall_curve,
    rates_at,
    roc_auc,
    roc_curve,
    summarise_detection,
    threshold_at_fpr,
    tpr_at_fpr,
)
from evaluation.metrics.errors import InvalidData, Undefined

RANDOM = np.random.default_rng(1)


def random_case(n=200, tied=False):
    labels = RANDOM.random(n) < 0.4
    scores = RANDOM.normal(size=n) + labels
    return labels, np.round(scores) if tied else scores


@st.composite
def labelled_scores(draw):
    scores = draw(st.lists(st.integers(-5, 5), min_size=2, max_size=30))
    labels = draw(st.lists(st.booleans(), min_size=len(scores) - 2, max_size=len(scores) - 2))
    return np.array([True, False, *labels]), np.array(scores, dtype=float)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("_", range(5))
def test_agrees_with_scikit_learn(tied, _):
    labels, scores = random_case(tied=tied)
    assert roc_auc(labels, scores) == pytest.approx(reference.roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(reference.average_precision_score(labels, scores))
    assert balanced_accuracy(labels, scores, threshold=1.0) == pytest.approx(
        reference.balanced_accuracy_score(labels, scores >= 1.0)
    )
    curve = roc_curve(labels, scores)
    fpr, tpr, thresholds = reference.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve.fpr, fpr)
    np.testing.assert_allclose(curve.tpr, tpr)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    precision, recall, thresholds = reference.precision_recall_curve(labels, scores)
    mine = precision_recall_curve(labels, scores)
    np.testing.assert_allclose(mine.precision[::-1], precision[:-1])
    np.testing.assert_allclose(mine.recall[::-1], recall[:-1])
    np.testing.assert_array_equal(mine.thresholds[::-1], thresholds)


def test_hand_worked():
    # false: 0.9 0.6 0.4; honest: 0.6 0.3. Pairs won: 0.9 both, 0.6 one and a half, 0.4 one: 4.5 of 6.
    labels, scores = [1, 1, 1, 0, 0], [0.9, 0.6, 0.4, 0.6, 0.3]
    assert roc_auc(labels, scores) == 4.5 / 6
    # By falling score: 0.9 P=1 R=1/3; 0.6 (tie) P=2/3 R=2/3; 0.4 P=3/4 R=1. AP = (1 + 2/3 + 3/4) / 3.
    assert average_precision(labels, scores) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    # ROC: (0,0) (0,1/3) (1/2,2/3) (1/2,1) (1,1). FPR = FNR between the second and third point:
    # FPR = a/2, FNR = 2/3 - a/3, so a = 4/5 and the rate is 2/5.
    assert equal_error_rate(labels, scores) == pytest.approx(0.4)
    rates = rates_at(labels, scores, threshold=0.6)
    assert (rates.tpr.successes, rates.tpr.total, rates.fpr.successes, rates.fpr.total) == (2, 3, 1, 2)
    assert rates.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_threshold_keeps_the_false_positive_rate():
    # 100 honest pictures, 2 may be alarms: the third highest score, 97, must not be one.
    honest = np.arange(100.0)
    threshold = threshold_at_fpr(honest, max_fpr=0.02)
    assert 97 < threshold <= np.nextafter(97, 98)
    assert (honest >= threshold).sum() == 2


def test_threshold_with_ties_gives_less_than_allowed():
    # The two highest are tied with 8 others: all ten or none.
    honest = np.concatenate([np.zeros(90), np.ones(10)])
    point = tpr_at_fpr(np.r_[np.zeros(100, bool), True, True], np.r_[honest, 1.0, 2.0])
    assert (point.allowed, point.rates.fpr.successes) == (2, 0)
    assert point.rates.tpr.value == 0.5


def test_small_samples_are_honest():
    # With 30 honest pictures an FPR of 2% means none; Clopper-Pearson's limit for 0 of 30 is 1 - 0.025^(1/30) = 11.6%.
    labels = np.r_[np.zeros(30, bool), np.ones(10, bool)]
    scores = np.arange(40.0)
    summary = summarise_detection(labels, scores, resamples=50)
    point = summary.operating_point
    assert (point.allowed, point.rates.fpr.successes, point.rates.tpr.value) == (0, 0, 1.0)
    assert point.resolution == 1 / 30
    assert point.rates.fpr.interval.high == pytest.approx(1 - 0.025 ** (1 / 30))
    assert "30 honest pictures" in summary.warnings[0]


def test_floating_point_does_not_cost_a_false_alarm():
    # 0.29 * 100 is 28.999999999999996.
    honest = np.arange(100.0)
    assert (honest >= threshold_at_fpr(honest, max_fpr=0.29)).sum() == 29


@given(labelled_scores(), st.floats(0.0, 0.99))
def test_threshold_is_the_smallest_that_keeps_the_rate(case, max_fpr):
    labels, scores = case
    honest = scores[~labels]
    threshold = threshold_at_fpr(honest, max_fpr=max_fpr)
    assert (honest >= threshold).mean() <= max_fpr
    assert (honest >= np.nextafter(threshold, -np.inf)).mean() > max_fpr


@given(labelled_scores())
def test_rank_metrics_do_not_depend_on_the_scale(case):
    labels, scores = case
    for transform in (lambda x: 3 * x - 7, np.exp, lambda x: x**3):
        moved = transform(scores)
        assert roc_auc(labels, moved) == roc_auc(labels, scores)
        assert average_precision(labels, moved) == average_precision(labels, scores)
        assert equal_error_rate(labels, moved) == equal_error_rate(labels, scores)
        assert tpr_at_fpr(labels, moved, max_fpr=0.3).rates.tpr == tpr_at_fpr(labels, scores, max_fpr=0.3).rates.tpr


@given(labelled_scores())
def test_turning_scores_round_turns_the_metrics_round(case):
    labels, scores = case
    assert roc_auc(labels, -scores) == pytest.approx(1 - roc_auc(labels, scores))
    assert equal_error_rate(~labels, -scores) == pytest.approx(equal_error_rate(labels, scores))


@given(labelled_scores(), st.randoms())
def test_the_order_of_pictures_does_not_matter(case, random):
    labels, scores = case
    order = list(range(labels.size))
    random.shuffle(order)
    assert average_precision(labels[order], scores[order]) == average_precision(labels, scores)
    assert roc_auc(labels[order], scores[order]) == roc_auc(labels, scores)


def test_constant_scores_are_chance():
    labels, scores = [1, 0, 0, 0], [0.5] * 4
    assert roc_auc(labels, scores) == 0.5
    assert equal_error_rate(labels, scores) == 0.5
    assert average_precision(labels, scores) == 0.25  # the share of false pictures


def test_infinite_scores_are_ranked():
    assert roc_auc([1, 1, 0, 0], [math.inf, -math.inf, -math.inf, 0.0]) == (2 + 0.5) / 4


def test_refuses_what_has_no_answer():
    for metric in (roc_auc, equal_error_rate, roc_curve, tpr_at_fpr):
        with pytest.raises(Undefined):
            metric([1, 1], [0.1, 0.2])
        with pytest.raises(Undefined):
            metric([0, 0], [0.1, 0.2])
    with pytest.raises(Undefined):
        average_precision([0, 0], [0.1, 0.2])
    with pytest.raises(InvalidData, match="abstention"):
        roc_auc([1, 0], [math.nan, 0.2])
    with pytest.raises(InvalidData):
        roc_auc([1, -1], [0.1, 0.2])
    with pytest.raises(InvalidData):
        roc_auc([1, 0], [0.1])
    with pytest.raises(InvalidData):
        threshold_at_fpr([0.1], max_fpr=1.0)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31))
def test_summary_agrees_with_its_parts(seed):
    random = np.random.default_rng(seed)
    labels = np.arange(60) % 3 == 0
    scores = random.normal(size=60) + labels
    groups = [f"source {i // 2}" for i in range(60)]
    summary = summarise_detection(labels, scores, threshold=0.5, groups=groups, resamples=40)
    assert summary.roc_auc.value == roc_auc(labels, scores)
    assert summary.tpr_at_fpr.value == summary.operating_point.rates.tpr.value
    assert summary.shipped is not None
    assert summary.balanced_accuracy is not None
    assert summary.balanced_accuracy.value == pytest.approx(summary.shipped.balanced_accuracy)
    assert summary.groups == 30
    assert summary.roc_auc.interval is not None
    assert summary.roc_auc.value in summary.roc_auc.interval
