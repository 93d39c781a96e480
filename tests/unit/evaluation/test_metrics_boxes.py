"""Boxes: hand-worked matches and average precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.metrics.boxes import box_iou, match_boxes, score_boxes, summarise_boxes
from evaluation.metrics.errors import InvalidData, Undefined

A, B = [0, 0, 10, 10], [20, 20, 30, 30]


def test_iou_by_hand():
    # Half of each: 50 shared, 150 together.
    np.testing.assert_allclose(box_iou([A], [[5, 0, 15, 10], B, A]), [[1 / 3, 0.0, 1.0]])
    assert box_iou([[0, 0, 0, 0]], [[0, 0, 0, 0]])[0, 0] == 0.0
    assert box_iou([], [A]).shape == (0, 1)


def test_a_box_is_found_once():
    matches = match_boxes([A, B], [A, A, B], [0.5, 0.9, 0.1])
    assert matches.found.tolist() == [False, True, True]


def test_the_free_box_with_the_most_overlap_is_taken():
    near = [0, 0, 10, 9]
    # The surer prediction takes A (IoU 1) and leaves `near` (0.9) to the other.
    assert match_boxes([near, A], [A, A], [0.9, 0.8]).found.tolist() == [True, True]


def test_iou_of_exactly_a_half_counts():
    assert match_boxes([A], [[0, 0, 10, 5]], [1.0]).found.all()
    assert not match_boxes([A], [[0, 0, 10, 4.99]], [1.0]).found.any()


def test_average_precision_by_hand():
    # Three boxes in two images. By confidence: hit, miss, hit, miss. P: 1, 1/2, 2/3, 1/2; R: 1/3, 1/3, 2/3, 2/3.
    # Envelope: 1 up to 1/3, 2/3 up to 2/3, nothing beyond: (1 + 2/3) / 3.
    images = [
        match_boxes([A, B], [A, [50, 50, 60, 60]], [0.9, 0.8]),
        match_boxes([B], [B, [50, 50, 60, 60]], [0.7, 0.6]),
    ]
    scores = score_boxes(images)
    assert (scores.truths, scores.predictions, scores.found) == (3, 4, 2)
    assert scores.recall == pytest.approx(2 / 3)
    assert scores.precision == 0.5
    assert scores.average_precision == pytest.approx((1 + 2 / 3) / 3)


def test_a_later_higher_precision_counts_from_the_start():
    # Miss, hit, hit: P 0, 1/2, 2/3 at R 0, 1/2, 1; the envelope is 2/3 throughout.
    matches = match_boxes([A, B], [[50, 50, 60, 60], A, B], [0.9, 0.8, 0.7])
    assert score_boxes([matches]).average_precision == pytest.approx(2 / 3)


def test_equal_confidences_enter_together():
    # A hit and a miss at one confidence: P = 1/2 at R = 1, whichever comes first.
    for predicted in ([A, B], [B, A]):
        assert score_boxes([match_boxes([A], predicted, [0.5, 0.5])]).average_precision == 0.5


def test_images_without_boxes_only_add_false_alarms():
    found = match_boxes([A], [A], [0.5])
    empty = match_boxes([], [A], [0.9])
    assert score_boxes([found, match_boxes([], [], [])]).average_precision == 1.0
    assert score_boxes([found, empty]).average_precision == 0.5


def test_nothing_predicted():
    summary = summarise_boxes([match_boxes([A], [], [])] * 3, resamples=10)
    assert (summary.scores.recall, summary.scores.average_precision) == (0.0, 0.0)
    assert summary.scores.precision is None
    assert summary.precision is None


def test_intervals_hold_the_value():
    images = [match_boxes([A], [A if i % 3 else B], [0.5 + i / 100]) for i in range(30)]
    summary = summarise_boxes(images, groups=[i // 2 for i in range(30)], resamples=100)
    for estimate in (summary.recall, summary.precision, summary.average_precision):
        assert estimate is not None
        assert estimate.interval is not None
        assert estimate.value in estimate.interval


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=12))
def test_perfect_only_if_all_hits_lead(predictions):
    images = [match_boxes([A], [A if hit else B], [sure]) for hit, sure in predictions]
    scores = score_boxes(images)
    assert 0.0 <= scores.average_precision <= scores.recall
    misses = [sure for hit, sure in predictions if not hit]
    hits = [sure for hit, sure in predictions if hit]
    if hits and (not misses or min(hits) > max(misses)):
        assert scores.average_precision == pytest.approx(scores.recall)


def test_refusals():
    with pytest.raises(Undefined):
        score_boxes([match_boxes([], [A], [0.5])])
    with pytest.raises(InvalidData):
        match_boxes([[10, 0, 0, 10]], [], [])
    with pytest.raises(InvalidData):
        match_boxes([A], [A], [])
    with pytest.raises(InvalidData):
        match_boxes([A[:3]], [A], [0.5])
    with pytest.raises(InvalidData):
        match_boxes([A], [A], [0.5], iou_threshold=0.0)
