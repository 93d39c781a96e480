"""Pixel metrics: hand-worked, against scikit-learn, and the traps that are refused."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from evaluation.metrics.errors import InvalidData, RefusedTrap, Undefined
from evaluation.metrics.localization import false_alarm_area, score_image, summarise_localization

MASK = np.array([[True, True, False, False], [False, False, False, False]])


def test_hand_worked():
    # Marked: one of two forged pixels and one of six others. TP 1, FP 1, FN 1, TN 5.
    heat = np.array([[0.9, 0.2, 0.5, 0.1], [0.0, 0.0, 0.0, 0.0]])
    scores = score_image(MASK, heat)
    assert scores.counts.f1 == pytest.approx(2 / 4)
    assert scores.counts.iou == pytest.approx(1 / 3)
    # MCC = (1 * 5 - 1 * 1) / sqrt(2 * 2 * 6 * 6) = 4 / 12
    assert scores.counts.mcc == pytest.approx(1 / 3)
    # Pairs: 0.9 beats all six, 0.2 beats five of six.
    assert scores.auc == pytest.approx(11 / 12)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_scikit_learn(seed):
    random = np.random.default_rng(seed)
    mask = random.random((20, 30)) < 0.2
    heat = np.round(np.clip(random.normal(0.4, 0.2, mask.shape) + 0.2 * mask, 0, 1), 2).astype(np.float32)
    scores = score_image(mask, heat)
    truth, marked = mask.ravel(), heat.ravel() >= 0.5
    assert scores.counts.f1 == pytest.approx(reference.f1_score(truth, marked))
    assert scores.counts.iou == pytest.approx(reference.jaccard_score(truth, marked))
    assert scores.counts.mcc == pytest.approx(reference.matthews_corrcoef(truth, marked))
    assert scores.auc == pytest.approx(reference.roc_auc_score(truth, heat.ravel()))


def test_missed_images_count_as_nothing_found():
    found = score_image(MASK, MASK.astype(float))
    missed = score_image(MASK, None)
    assert (missed.counts.f1, missed.counts.iou, missed.counts.mcc, missed.auc) == (0, 0, 0, 0.5)
    summary = summarise_localization([found, missed], resamples=20)
    assert (summary.images, summary.missed) == (2, 1)
    assert summary.mean_f1.value == summary.mean_iou.value == summary.mean_mcc.value == 0.5
    # Pooled: TP 2, FN 2, FP 0, so F1 = 4/6 and IoU = 2/4.
    assert summary.pooled.f1 == pytest.approx(2 / 3)
    assert summary.pooled.iou == 0.5


def test_pooled_auc_is_that_of_all_pixels():
    random = np.random.default_rng(3)
    images = []
    for shift in (0.1, 0.4):
        mask = random.random((30, 30)) < 0.3
        # Multiples of 1/100 fall into bins of their own.
        images.append((mask, np.round(np.clip(random.normal(shift, 0.1, mask.shape) + 0.1 * mask, 0, 1), 2)))
    summary = summarise_localization([score_image(*image) for image in images], resamples=20)
    truth, heat = (np.concatenate([image[i].ravel() for image in images]) for i in range(2))
    assert summary.pooled_auc == pytest.approx(reference.roc_auc_score(truth, heat), abs=2e-3)
    assert summary.mean_auc is not None
    assert summary.mean_auc.value != pytest.approx(summary.pooled_auc, abs=1e-2)


def test_means_and_intervals_go_by_image_and_source():
    images = [score_image(MASK, MASK.astype(float) if i % 2 else None) for i in range(20)]
    by_image = summarise_localization(images, resamples=200).mean_f1.interval
    by_source = summarise_localization(images, groups=np.arange(20) % 4, resamples=200).mean_f1.interval
    assert by_image is not None
    assert by_source is not None
    assert by_source.width > by_image.width


def test_wholly_forged_image_has_no_auc():
    scores = score_image(np.ones((2, 2), bool), np.ones((2, 2)))
    assert scores.auc is None
    assert (scores.counts.f1, scores.counts.mcc) == (1.0, 0.0)
    summary = summarise_localization([scores], resamples=5)
    assert summary.mean_auc is None
    assert summary.pooled_auc is None


def test_pristine_images_are_refused():
    with pytest.raises(RefusedTrap, match="false_alarm_area"):
        score_image(np.zeros((2, 2), bool), np.zeros((2, 2)))
    assert false_alarm_area(np.array([[0.5, 0.4], [0.0, 1.0]])) == 0.5
    assert false_alarm_area(None) == 0.0


def test_a_threshold_per_image_is_refused():
    heat = MASK.astype(float)
    with pytest.raises(RefusedTrap, match="threshold"):
        summarise_localization([score_image(MASK, heat), score_image(MASK, heat, threshold=0.3)])


def test_malformed_input_is_refused():
    with pytest.raises(InvalidData, match="resize"):
        score_image(MASK, np.zeros((3, 3)))
    with pytest.raises(InvalidData):
        score_image(MASK, np.full(MASK.shape, np.nan))
    with pytest.raises(InvalidData):
        score_image(MASK, np.full(MASK.shape, 255.0))
    with pytest.raises(InvalidData):
        score_image(MASK.astype(np.uint8), np.zeros(MASK.shape))
    with pytest.raises(Undefined):
        summarise_localization([])
