"""Calibration metrics: hand-worked, against scikit-learn, and what Cllr promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression

from evaluation.metrics.calibration import (
    Binning,
    brier_score,
    cllr,
    cllr_min,
    cllr_scores,
    expected_calibration_error,
    reliability_curve,
)
from evaluation.metrics.errors import InvalidData, Undefined


@st.composite
def labelled_ratios(draw):
    ratios = draw(st.lists(st.floats(-4, 4).map(lambda x: round(x, 1)), min_size=2, max_size=30))
    labels = draw(st.lists(st.booleans(), min_size=len(ratios) - 2, max_size=len(ratios) - 2))
    return np.array([True, False, *labels]), np.array(ratios)


def test_ratio_one_costs_one_bit():
    assert cllr([1, 0, 0], [0.0, 0.0, 0.0]) == 1.0
    assert cllr_min([1, 0, 0], [0.0, 0.0, 0.0]) == 1.0


def test_cllr_by_hand():
    # False pictures at LR 3 and 1: log2(4/3) and log2 2, mean (0.4150 + 1) / 2. Honest at LR 1/3: log2(4/3) = 0.4150.
    labels, ratios = [1, 1, 0], [math.log10(3), 0.0, -math.log10(3)]
    third = math.log2(4 / 3)
    assert cllr(labels, ratios) == pytest.approx(((third + 1) / 2 + third) / 2)
    # Weighing the second false picture three times: (0.4150 + 3) / 4.
    assert cllr(labels, ratios, weights=[1, 3, 1]) == pytest.approx(((third + 3) / 4 + third) / 2)


def test_cllr_of_certainty():
    assert cllr([1, 0], [math.inf, -math.inf]) == 0.0
    assert cllr([1, 0], [-math.inf, -math.inf]) == math.inf


def test_cllr_min_by_hand():
    # Scores 1..4, labels honest false honest false: PAV pools the middle two into LR 1. Ends cost 0, so
    # each class has one picture at 0 bits and one at 1: a half.
    assert cllr_min([0, 1, 0, 1], [1, 2, 3, 4]) == pytest.approx(0.5)
    # Separated: nothing is lost. Wrong way round: no monotone map helps, so LR 1 for all.
    assert cllr_min([0, 0, 1], [1, 2, 3]) == 0.0
    assert cllr_min([1, 1, 0], [1, 2, 3]) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(4))
def test_cllr_min_agrees_with_scikit_learns_pav(seed):
    random = np.random.default_rng(seed)
    labels = random.random(200) < 0.3
    scores = np.round(random.normal(size=200) + labels, 1)
    fitted = IsotonicRegression().fit_transform(scores, labels)
    with np.errstate(divide="ignore"):
        ratios = np.log10(fitted / (1 - fitted)) - math.log10(labels.mean() / (1 - labels.mean()))
    assert cllr_min(labels, scores) == pytest.approx(cllr(labels, ratios))


@given(labelled_ratios())
def test_no_ratios_beat_their_minimum(case):
    labels, ratios = case
    scores = cllr_scores(labels, ratios)
    assert scores.calibration_loss >= -1e-12
    assert 0.0 <= scores.minimum <= 1.0


@given(labelled_ratios())
def test_the_minimum_depends_on_ranks_only(case):
    labels, ratios = case
    assert cllr_min(labels, np.exp(ratios)) == pytest.approx(cllr_min(labels, ratios), abs=1e-12)


@given(labelled_ratios(), st.integers(2, 5))
def test_cllr_does_not_depend_on_the_prior(case, times):
    labels, ratios = case
    copies = np.where(labels, times, 1)
    assert cllr(np.repeat(labels, copies), np.repeat(ratios, copies)) == pytest.approx(cllr(labels, ratios))


@given(labelled_ratios())
def test_turning_the_question_round_costs_the_same(case):
    labels, ratios = case
    assert cllr(~labels, -ratios) == pytest.approx(cllr(labels, ratios))
    assert cllr_min(~labels, -ratios) == pytest.approx(cllr_min(labels, ratios), abs=1e-9)


def test_brier_agrees_with_scikit_learn():
    random = np.random.default_rng(0)
    labels, values = random.random(100) < 0.5, random.random(100)
    assert brier_score(labels, values) == pytest.approx(reference.brier_score_loss(labels, values))


def test_equal_width_curve_agrees_with_scikit_learn():
    random = np.random.default_rng(0)
    values = random.random(300)
    labels = random.random(300) < values
    curve = reliability_curve(labels, values, bins=7, binning=Binning.EQUAL_WIDTH)
    observed, predicted = calibration_curve(labels, values, n_bins=7)
    np.testing.assert_allclose(curve.observed, observed)
    np.testing.assert_allclose(curve.predicted, predicted)


def test_ece_by_hand():
    # Two bins. Low: 0.2 and 0.4, one false: |0.3 - 0.5|. High: 0.9 twice, both false: |0.9 - 1|. Mean over pictures.
    labels, values = [1, 0, 1, 1], [0.2, 0.4, 0.9, 0.9]
    for binning in Binning:
        assert expected_calibration_error(labels, values, bins=2, binning=binning) == pytest.approx((0.2 + 0.1) / 2)
    # Half in width, thirds in mass: with one picture below a half and three above, the bins differ.
    labels, values = [0, 1, 1, 0], [0.1, 0.6, 0.8, 1.0]
    wide = expected_calibration_error(labels, values, bins=2, binning=Binning.EQUAL_WIDTH)
    assert wide == pytest.approx((0.1 + 3 * abs(0.8 - 2 / 3)) / 4)
    mass = expected_calibration_error(labels, values, bins=2)
    assert mass == pytest.approx((abs(0.35 - 0.5) + abs(0.9 - 0.5)) / 2)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=40), st.randoms())
def test_equal_probabilities_share_a_bin(rows, random):
    labels, values = [row[0] for row in rows], [row[1] / 5 for row in rows]
    before = expected_calibration_error(labels, values, bins=4)
    random.shuffle(rows)
    labels, values = [row[0] for row in rows], [row[1] / 5 for row in rows]
    assert expected_calibration_error(labels, values, bins=4) == pytest.approx(before)
    curve = reliability_curve(labels, values, bins=4)
    assert sum(curve.counts) == len(rows)
    assert len(curve.counts) <= 4


def test_true_probabilities_are_calibrated():
    random = np.random.default_rng(1)
    values = random.random(20000)
    labels = random.random(20000) < values
    assert expected_calibration_error(labels, values) < 0.02
    ratios = np.log10(values / (1 - values))
    assert cllr_scores(labels, ratios).calibration_loss < 0.01
    curve = reliability_curve(labels, values)
    inside = sum(p in interval for p, interval in zip(curve.predicted.tolist(), curve.intervals, strict=True))
    assert inside >= 13


def test_refusals():
    with pytest.raises(Undefined):
        cllr([1, 1], [0.0, 0.0])
    with pytest.raises(Undefined):
        cllr_min([0, 0], [0.0, 0.0])
    with pytest.raises(Undefined):
        brier_score([], [])
    with pytest.raises(InvalidData):
        brier_score([1], [1.1])
    with pytest.raises(InvalidData):
        expected_calibration_error([1], [0.5], bins=0)
    with pytest.raises(InvalidData):
        cllr([1, 0], [0.0, math.nan])
    with pytest.raises(InvalidData):
        cllr([1, 0], [0.0, 0.0], weights=[1.0, 0.0])
