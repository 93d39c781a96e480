"""Where the forgery is: pixel metrics of a heat map against a mask.

Conventions, all fixed here so that two tables can be compared:

- A pixel is marked when heat >= threshold, at one threshold (0.5) for the whole set. The best threshold per image,
  which needs the mask that one does not have, is not offered; nor is the better of a map and its inverse.
- An image with nothing marked, or whose detector gave no map (*missed*), counts as 0 in F1, IoU and MCC; it is never
  left out. Its AUC, if there is no map, is 0.5: nothing was ranked.
- Images without forged pixels are refused (`RefusedTrap`). F1 over pristine images is either 0/0 by nature or 1 by
  decree, and a silent detector wins; for those see `false_alarm_area`.
- *Mean* is over images, each counting alike. *Pooled* adds up pixels first, so large forgeries in large images decide.

References: Verdoliva 2020, 10.1109/JSTSP.2020.3002101; Guillaro et al. (TruFor) 2023, 10.1109/CVPR52729.2023.01974
(fixed against best thresholds); Matthews 1975, 10.1016/0005-2795(75)90109-9; Jaccard 1912,
10.1111/j.1469-8137.1912.tb05611.x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.metrics._arrays import FloatArray, Groups, IntArray
from evaluation.metrics.detection import roc_auc
from evaluation.metrics.errors import InvalidData, RefusedTrap, Undefined
from evaluation.metrics.intervals import CONFIDENCE, RESAMPLES, Estimate, bootstrap

__all__ = [
    "THRESHOLD",
    "ImageScores",
    "LocalizationSummary",
    "PixelCounts",
    "false_alarm_area",
    "score_image",
    "summarise_localization",
]

THRESHOLD: Final = 0.5
"""At or above this heat a pixel is marked."""

BINS: Final = 1000
"""Pooled AUC counts heats in bins 1/1000 wide; pixels in one bin are tied. Millions of pixels need no more."""


@dataclass(frozen=True, slots=True)
class PixelCounts:
    """Pixels by truth and mark; adds up over images."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    def __add__(self, other: PixelCounts) -> PixelCounts:
        return PixelCounts(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.true_negative + other.true_negative,
        )

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN), 0-1; also known as Dice."""
        return 2 * self.true_positive / (2 * self.true_positive + self.false_positive + self.false_negative)

    @property
    def iou(self) -> float:
        """TP / (TP + FP + FN), 0-1; of the forged class only."""
        return self.true_positive / (self.true_positive + self.false_positive + self.false_negative)

    @property
    def mcc(self) -> float:
        """Matthews' correlation coefficient, -1 to 1; 0 where it is 0/0 (nothing or all marked, or all forged)."""
        tp, fp, fn, tn = self.true_positive, self.false_positive, self.false_negative, self.true_negative
        product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        return (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageScores:
    """One forged image.

    Attributes:
        threshold: at which pixels were marked.
        counts: of pixels.
        auc: pixel AUC, 0-1; 0.5 if missed; None if every pixel is forged.
        missed: True if the detector gave no map.
        forged_heats: pixels of the forgery by heat, int64 (1001,).
        other_heats: pixels outside it by heat, int64 (1001,).
    """

    threshold: float
    counts: PixelCounts
    auc: float | None
    missed: bool
    forged_heats: IntArray
    other_heats: IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalizationSummary:
    """A set of forged images.

    Attributes:
        threshold: at which pixels were marked.
        images: how many. missed: how many of them without a map.
        mean_f1, mean_iou, mean_mcc, mean_auc: means over images, missed ones included, with intervals by source;
            mean_auc is None if in no image a pixel is unforged.
        pooled: pixels of all images added up; its f1, iou and mcc are the pooled metrics.
        pooled_auc: over the pixels of all images, heats binned to 1/1000; None without unforged pixels.
    """

    threshold: float
    images: int
    missed: int
    mean_f1: Estimate
    mean_iou: Estimate
    mean_mcc: Estimate
    mean_auc: Estimate | None
    pooled: PixelCounts
    pooled_auc: float | None


def score_image(mask: ArrayLike, heat_map: ArrayLike | None, *, threshold: float = THRESHOLD) -> ImageScores:
    """Compares one heat map with the truth.

    Args:
        mask: True where the image is forged, bool (h, w); uint8 masks are thresholded by the caller.
        heat_map: (h, w) in 0-1, higher is more suspect; None if the detector gave none.
        threshold: one for the whole set, 0 < threshold <= 1.

    Raises:
        RefusedTrap: if no pixel is forged.
        InvalidData: if shapes differ, or heats are NaN or outside 0-1.
    """
    truth = np.asarray(mask)
    if truth.dtype != np.bool_ or truth.ndim != 2:
        raise InvalidData(f"a mask is bool (h, w), not {truth.dtype} {truth.shape}")
    if not truth.any():
        raise RefusedTrap("no forged pixel: F1, IoU and MCC over pristine images mislead; use false_alarm_area")
    if not 0.0 < threshold <= 1.0:
        raise InvalidData(f"threshold {threshold} is not in 0-1")
    heat = np.zeros(truth.shape) if heat_map is None else _as_heat(heat_map, truth.shape)
    marked = heat >= threshold
    hits = int((truth & marked).sum())
    forged, alarms = int(truth.sum()), int(marked.sum())
    counts = PixelCounts(hits, alarms - hits, forged - hits, truth.size - forged - alarms + hits)
    return ImageScores(
        threshold=threshold,
        counts=counts,
        auc=None if forged == truth.size else roc_auc(truth.ravel(), heat.ravel()),
        missed=heat_map is None,
        forged_heats=_heat_counts(heat[truth]),
        other_heats=_heat_counts(heat[~truth]),
    )


def false_alarm_area(heat_map: ArrayLike | None, *, threshold: float = THRESHOLD) -> float:
    """Share of a pristine image, 0-1, that is marked as forged; 0 without a map. What F1 cannot say of such images."""
    if heat_map is None:
        return 0.0
    heat = np.asarray(heat_map, dtype=np.float64)
    return float((_as_heat(heat, heat.shape) >= threshold).mean())


def summarise_localization(
    images: Sequence[ImageScores],
    *,
    groups: Groups = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> LocalizationSummary:
    """Means over images with intervals by source, and pooled metrics.

    Raises:
        Undefined: without images.
        RefusedTrap: if the images were marked at different thresholds.
    """
    if not images:
        raise Undefined("no forged images")
    thresholds = {image.threshold for image in images}
    if len(thresholds) > 1:
        raise RefusedTrap(f"thresholds per image ({sorted(thresholds)}): one threshold holds for the whole set")

    def mean_of(values: FloatArray) -> Estimate:
        return bootstrap(
            lambda index: _mean_of_known(values[index]),
            groups,
            length=len(images),
            resamples=resamples,
            seed=seed,
            confidence=confidence,
        )

    areas = np.array([math.nan if image.auc is None else image.auc for image in images])
    return LocalizationSummary(
        threshold=images[0].threshold,
        images=len(images),
        missed=sum(image.missed for image in images),
        mean_f1=mean_of(np.array([image.counts.f1 for image in images])),
        mean_iou=mean_of(np.array([image.counts.iou for image in images])),
        mean_mcc=mean_of(np.array([image.counts.mcc for image in images])),
        mean_auc=None if np.isnan(areas).all() else mean_of(areas),
        pooled=sum((image.counts for image in images[1:]), images[0].counts),
        pooled_auc=_auc_of_counts(
            np.sum([image.forged_heats for image in images], axis=0),
            np.sum([image.other_heats for image in images], axis=0),
        ),
    )


def _mean_of_known(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _as_heat(heat_map: ArrayLike, shape: tuple[int, ...]) -> FloatArray:
    heat = np.asarray(heat_map, dtype=np.float64)
    if heat.shape != shape or heat.ndim != 2:
        raise InvalidData(f"a heat map of shape {heat.shape} for a mask of shape {shape}: resize it first")
    if not ((heat >= 0.0) & (heat <= 1.0)).all():
        raise InvalidData("a heat is NaN or outside 0-1")
    return heat


def _heat_counts(heats: NDArray[np.float64]) -> IntArray:
    return np.bincount((heats * BINS).astype(np.int64), minlength=BINS + 1).astype(np.int64)


def _auc_of_counts(forged: IntArray, other: IntArray) -> float | None:
    pairs = int(forged.sum()) * int(other.sum())
    if not pairs:
        return None
    below = np.cumsum(other) - other
    return float((forged * (below + other / 2.0)).sum() / pairs)
