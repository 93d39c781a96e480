"""How well boxes (faces) are found: recall, precision and average precision at an IoU.

Conventions: predictions are taken by falling confidence (equal ones in the order given) and each takes the free true
box of its image with the highest IoU, if that is at least 0.5; a true box is found at most once, a second prediction on
it is a false alarm (as COCO matches). AP is the area under the precision envelope over all recalls (PASCAL VOC 2010 and
later), predictions of equal confidence entering together.

References: Everingham et al. 2010, 10.1007/s11263-009-0275-4; Lin et al. 2014, 10.1007/978-3-319-10602-1_48.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics._arrays import BoolArray, FloatArray, Groups
from evaluation.metrics.errors import InvalidData, Undefined
from evaluation.metrics.intervals import CONFIDENCE, RESAMPLES, Estimate, bootstrap

__all__ = [
    "IOU_THRESHOLD",
    "BoxMatches",
    "BoxScores",
    "BoxSummary",
    "box_iou",
    "match_boxes",
    "score_boxes",
    "summarise_boxes",
]

IOU_THRESHOLD: Final = 0.5
"""A box is found by a prediction that overlaps it at least so much."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoxMatches:
    """One image: how many boxes there are, and for each prediction (k,) its confidence and whether it found one."""

    truths: int
    confidences: FloatArray
    found: BoolArray


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxScores:
    """A set of images.

    Attributes:
        truths: boxes to find. predictions: boxes predicted. found: true boxes found.
        recall: found / truths, 0-1, with all predictions.
        precision: found / predictions, 0-1; None without predictions.
        average_precision: 0-1.
    """

    truths: int
    predictions: int
    found: int
    recall: float
    precision: float | None
    average_precision: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxSummary:
    """`BoxScores` with bootstrap intervals by source; `precision` is None without predictions."""

    scores: BoxScores
    recall: Estimate
    precision: Estimate | None
    average_precision: Estimate


def box_iou(first: ArrayLike, second: ArrayLike) -> FloatArray:
    """Intersection over union of every box of `first` (n, 4) with every one of `second` (m, 4): float64 (n, m), 0-1.

    A box is left, top, right, bottom in pixels, right and bottom exclusive: its width is right - left.
    Raises InvalidData for other shapes, numbers that are not finite, and right < left or bottom < top.
    """
    one, two = _as_boxes(first), _as_boxes(second)
    corners_low = np.maximum(one[:, None, :2], two[None, :, :2])
    corners_high = np.minimum(one[:, None, 2:], two[None, :, 2:])
    shared = np.clip(corners_high - corners_low, 0.0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (one, two)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    overlaps: FloatArray = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlaps


def match_boxes(
    truth: ArrayLike, predicted: ArrayLike, confidences: ArrayLike, *, iou_threshold: float = IOU_THRESHOLD
) -> BoxMatches:
    """Matches the predictions of one image, greedily by confidence.

    Args:
        truth: (n, 4) left, top, right, bottom in pixels; n may be 0.
        predicted: (k, 4) likewise.
        confidences: (k,), any scale, no NaN.
        iou_threshold: 0 < iou_threshold <= 1.

    Raises:
        InvalidData: for malformed boxes.
    """
    if not 0.0 < iou_threshold <= 1.0:
        raise InvalidData(f"IoU threshold {iou_threshold} is not in 0-1")
    overlaps = box_iou(predicted, truth)
    sure = np.asarray(confidences, dtype=np.float64)
    if sure.shape != overlaps.shape[:1] or np.isnan(sure).any():
        raise InvalidData(f"{overlaps.shape[0]} predictions need as many confidences, without NaN")
    found = np.zeros(sure.size, dtype=np.bool_)
    free = np.ones(overlaps.shape[1], dtype=np.bool_)
    for prediction in np.argsort(-sure, kind="stable"):
        candidates = np.where(free, overlaps[prediction], -1.0)
        if candidates.size and candidates.max() >= iou_threshold:
            found[prediction] = True
            free[candidates.argmax()] = False
    return BoxMatches(truths=overlaps.shape[1], confidences=sure, found=found)


def score_boxes(images: Sequence[BoxMatches]) -> BoxScores:
    """Recall, precision and AP over a set of images; those without boxes only add false alarms.

    Raises:
        Undefined: if there is no box to find in the whole set.
    """
    truths = sum(image.truths for image in images)
    if not truths:
        raise Undefined("no boxes to find")
    confidences = np.concatenate([image.confidences for image in images])
    found = np.concatenate([image.found for image in images])
    return BoxScores(
        truths=truths,
        predictions=found.size,
        found=int(found.sum()),
        recall=float(found.sum() / truths),
        precision=float(found.mean()) if found.size else None,
        average_precision=_average_precision(confidences, found, truths),
    )


def summarise_boxes(
    images: Sequence[BoxMatches],
    *,
    groups: Groups = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> BoxSummary:
    """`score_boxes` with bootstrap intervals by source. Raises Undefined if there is no box to find."""
    scores = score_boxes(images)

    def estimate(name: str) -> Estimate:
        def statistic(index: np.ndarray) -> float:
            value: float | None = getattr(score_boxes([images[i] for i in index]), name)
            return float("nan") if value is None else value

        return bootstrap(statistic, groups, length=len(images), resamples=resamples, seed=seed, confidence=confidence)

    return BoxSummary(
        scores=scores,
        recall=estimate("recall"),
        precision=None if scores.precision is None else estimate("precision"),
        average_precision=estimate("average_precision"),
    )


def _average_precision(confidences: FloatArray, found: BoolArray, truths: int) -> float:
    if not found.size:
        return 0.0
    order = np.argsort(-confidences, kind="stable")
    falling = confidences[order]
    last_of_tie = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    hits = np.cumsum(found[order])[last_of_tie]
    precision = hits / (last_of_tie + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(hits / truths, prepend=0.0) * envelope).sum())


def _as_boxes(boxes: ArrayLike) -> FloatArray:
    array = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4 or not np.isfinite(array).all():
        raise InvalidData(f"boxes are finite (n, 4), not {array.shape}")
    if (array[:, 2:] < array[:, :2]).any():
        raise InvalidData("a box ends before it begins: left, top, right, bottom is the order")
    return array
