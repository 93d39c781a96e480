"""Coverage, and drift of scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.metrics.coverage import abstentions_as_no_alarm, applied_only, coverage, coverage_by_detector
from evaluation.metrics.drift import drift, drift_of_counts
from evaluation.metrics.errors import InvalidData, Undefined
from evaluation.metrics.intervals import wilson
from services.common.calibration import population_stability_index, score_histogram
from services.common.detection import Applicability

APPLIED, NOT, FAILED = Applicability.APPLIED, Applicability.NOT_APPLICABLE, Applicability.FAILED


def test_coverage_counts():
    found = coverage([APPLIED, APPLIED, NOT, FAILED])
    assert (found.applied, found.not_applicable, found.failed, found.total, found.share) == (2, 1, 1, 4, 0.5)
    assert found.interval == wilson(2, 4)
    assert list(coverage_by_detector({"b": [NOT], "a": [APPLIED]})) == ["a", "b"]
    with pytest.raises(Undefined):
        coverage([])


def test_abstentions():
    scores = [0.5, None, math.nan, 0.0]
    assert applied_only(scores).tolist() == [True, False, False, True]
    assert abstentions_as_no_alarm(scores).tolist() == [0.5, -math.inf, -math.inf, 0.0]


def test_histogram_is_closed_on_the_right():
    assert score_histogram([0.0, 0.1, 0.10001, 1.0]) == (2, 1, 0, 0, 0, 0, 0, 0, 0, 1)
    with pytest.raises(ValueError, match="outside"):
        score_histogram([1.1])


def test_index_by_hand():
    # With half a picture added, shares are 0.75 and 0.25 against 0.45 and 0.55.
    expected = (0.45 - 0.75) * math.log(0.45 / 0.75) + (0.55 - 0.25) * math.log(0.55 / 0.25)
    assert population_stability_index([7, 2], [4, 5]) == pytest.approx(expected)


@given(st.lists(st.integers(0, 50), min_size=10, max_size=10), st.lists(st.integers(0, 50), min_size=10, max_size=10))
def test_index_is_symmetric_and_not_negative(first, second):
    index = population_stability_index(first, second)
    assert index >= -1e-15
    assert index == pytest.approx(population_stability_index(second, first))
    assert population_stability_index(first, first) == 0.0


def test_chance_is_what_samples_without_drift_stay_below():
    random = np.random.default_rng(2)
    found = [drift(random.random(200).tolist(), random.random(100).tolist()) for _ in range(300)]
    assert 0.92 <= np.mean([one.psi < one.chance for one in found]) <= 0.98
    assert np.mean([one.drifted for one in found]) <= 0.08


def test_drift_is_found_and_small_samples_are_not_accused():
    random = np.random.default_rng(3)
    low, high = random.beta(2, 5, 300).tolist(), random.beta(5, 2, 300).tolist()
    assert drift(low, high).drifted
    few = drift(random.random(8).tolist(), random.random(8).tolist())
    assert few.chance > 0.25
    assert not few.drifted
    assert drift_of_counts(score_histogram(low), score_histogram(high)) == drift(low, high)


def test_refusals():
    with pytest.raises(Undefined):
        drift([], [0.5])
    with pytest.raises(InvalidData):
        drift([0.5], [1.5])
    with pytest.raises(InvalidData):
        drift_of_counts([1, 2], [1])
