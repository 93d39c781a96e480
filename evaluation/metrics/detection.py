"""How well a score tells false pictures from honest ones.

Conventions: labels are True for false pictures; a picture is an alarm when score >= threshold; pictures with equal
scores are never told apart (they cross a threshold together), as in scikit-learn. Scores may be infinite, never NaN: on
which pictures a metric is taken, and what an abstention counts as, is the caller's to say (`metrics.coverage`).

References: Fawcett 2006, 10.1016/j.patrec.2005.10.010 (ROC); Hanley & McNeil 1982, 10.1148/radiology.143.1.7063747
(AUC); Davis & Goadrich 2006, 10.1145/1143844.1143874 (why precision-recall curves are not interpolated linearly).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics._arrays import BoolArray, FloatArray, Groups, IntArray, as_labels, as_scores, group_codes
from evaluation.metrics.errors import InvalidData, Undefined
from evaluation.metrics.intervals import CONFIDENCE, RESAMPLES, Estimate, Proportion, bootstrap, proportion

__all__ = [
    "MAX_FPR",
    "DetectionSummary",
    "OperatingPoint",
    "PrecisionRecallCurve",
    "Rates",
    "RocCurve",
    "average_precision",
    "balanced_accuracy",
    "equal_error_rate",
    "precision_recall_curve",
    "rates_at",
    "roc_auc",
    "roc_curve",
    "summarise_detection",
    "threshold_at_fpr",
    "tpr_at_fpr",
]

MAX_FPR: Final = 0.02
"""At most 2 in 100 honest photographs may be accused: the design's limit, and where detectors are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a threshold does: true and false positive rate with their counts and intervals."""

    threshold: float
    tpr: Proportion
    fpr: Proportion

    @property
    def balanced_accuracy(self) -> float:
        """(TPR + TNR) / 2, 0-1; 0.5 is chance."""
        return (self.tpr.value + 1.0 - self.fpr.value) / 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """The threshold that keeps a false positive rate, and what it finds.

    Attributes:
        max_fpr: the rate that was asked for, 0-1.
        allowed: the most false alarms on these negatives that keep it: floor(max_fpr * negatives).
        rates: at the threshold; its FPR is allowed / negatives or, with ties, less. The threshold was chosen on these
            very negatives, so the FPR is what it was made to be; its interval says what it may be elsewhere.
        resolution: 1 / negatives, the step in which the FPR can move. Above `max_fpr` no false alarm was allowed at
            all, and the TPR is that at FPR 0.
    """

    max_fpr: float
    allowed: int
    rates: Rates
    resolution: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RocCurve:
    """A point for every distinct score, from (0, 0) at threshold +inf to (1, 1); float64 (k,) each."""

    fpr: FloatArray
    tpr: FloatArray
    thresholds: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrecisionRecallCurve:
    """A point for every distinct score, by falling threshold; float64 (k,) each. To be drawn as steps."""

    precision: FloatArray
    recall: FloatArray
    thresholds: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionSummary:
    """All of this file on one detector and one set of pictures.

    Attributes:
        positives: false pictures. negatives: honest ones. groups: sources.
        roc_auc: 0-1, 0.5 is chance.
        average_precision: 0-1; chance is the share of false pictures in this set, so compare only on equal sets.
        equal_error_rate: 0-1, 0.5 is chance.
        tpr_at_fpr: with the threshold chosen anew in every resample.
        operating_point: the same point with its threshold and counts.
        shipped: at the shipped threshold, if one was given.
        balanced_accuracy: at the shipped threshold, if one was given.
        warnings: what a reader has to know, in sentences.
    """

    positives: int
    negatives: int
    groups: int
    roc_auc: Estimate
    average_precision: Estimate
    equal_error_rate: Estimate
    tpr_at_fpr: Estimate
    operating_point: OperatingPoint
    shipped: Rates | None
    balanced_accuracy: Estimate | None
    warnings: tuple[str, ...]


def rates_at(
    labels: ArrayLike, scores: ArrayLike, *, threshold: float, groups: Groups = None, confidence: float = CONFIDENCE
) -> Rates:
    """TPR and FPR of "score >= threshold", with intervals by source.

    Args:
        labels: True for false pictures, (n,).
        scores: (n,), any scale.
        threshold: fixed beforehand; infinite thresholds are allowed, NaN is not.
        groups: source of every picture, (n,), or None.
        confidence: of the intervals, 0-1.

    Raises:
        Undefined: if one of the classes is missing.
    """
    truth, values = _both_classes(labels, scores)
    if math.isnan(threshold):
        raise InvalidData("the threshold is NaN")
    codes = group_codes(groups, truth.size)
    alarms = values >= threshold
    return Rates(
        threshold=float(threshold),
        tpr=proportion(alarms[truth], codes[truth], confidence=confidence),
        fpr=proportion(alarms[~truth], codes[~truth], confidence=confidence),
    )


def balanced_accuracy(labels: ArrayLike, scores: ArrayLike, *, threshold: float) -> float:
    """(TPR + TNR) / 2 of "score >= threshold", 0-1. Raises Undefined if one of the classes is missing."""
    truth, values = _both_classes(labels, scores)
    alarms = values >= threshold
    return float((alarms[truth].mean() + 1.0 - alarms[~truth].mean()) / 2.0)


def threshold_at_fpr(honest_scores: ArrayLike, *, max_fpr: float = MAX_FPR) -> float:
    """The smallest threshold (float64) at which at most `max_fpr` of these honest pictures are alarms.

    With n pictures at most floor(max_fpr * n) may be alarms; the threshold is the next number above the highest score
    that must not be one. Pictures tied with that score are no alarms either.

    Args:
        honest_scores: (n,), any scale.
        max_fpr: 0 <= max_fpr < 1.

    Raises:
        Undefined: without honest pictures.
    """
    values = np.asarray(honest_scores, dtype=np.float64)
    values = np.sort(as_scores(values, values.size))[::-1]
    if not values.size:
        raise Undefined("no honest pictures, so no false positive rate")
    return float(np.nextafter(values[_allowed_alarms(values.size, max_fpr)], np.inf))


def tpr_at_fpr(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    max_fpr: float = MAX_FPR,
    groups: Groups = None,
    confidence: float = CONFIDENCE,
) -> OperatingPoint:
    """TPR at the smallest threshold that keeps FPR <= `max_fpr` on these negatives; no interpolation on the ROC.

    With fewer than 1 / max_fpr negatives no false alarm is allowed: see `OperatingPoint.resolution`. The interval of
    the TPR takes the threshold as given; `summarise_detection` resamples the choice too.

    Raises:
        Undefined: if one of the classes is missing.
    """
    truth, values = _both_classes(labels, scores)
    negatives = int((~truth).sum())
    threshold = threshold_at_fpr(values[~truth], max_fpr=max_fpr)
    return OperatingPoint(
        max_fpr=max_fpr,
        allowed=_allowed_alarms(negatives, max_fpr),
        rates=rates_at(truth, values, threshold=threshold, groups=groups, confidence=confidence),
        resolution=1.0 / negatives,
    )


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> RocCurve:
    """The ROC curve, every distinct score a point (scikit-learn's with drop_intermediate=False).

    Raises Undefined if one of the classes is missing.
    """
    truth, values = _both_classes(labels, scores)
    true_alarms, false_alarms, thresholds = _cumulative(truth, values)
    return RocCurve(
        fpr=np.concatenate([[0.0], false_alarms / false_alarms[-1]]),
        tpr=np.concatenate([[0.0], true_alarms / true_alarms[-1]]),
        thresholds=np.concatenate([[np.inf], thresholds]),
    )


def precision_recall_curve(labels: ArrayLike, scores: ArrayLike) -> PrecisionRecallCurve:
    """Precision and recall at every distinct score. Raises Undefined without false pictures."""
    truth, values = _with_positives(labels, scores)
    true_alarms, false_alarms, thresholds = _cumulative(truth, values)
    return PrecisionRecallCurve(
        precision=true_alarms / (true_alarms + false_alarms),
        recall=true_alarms / true_alarms[-1],
        thresholds=thresholds,
    )


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: P(score of a false picture > score of an honest one), ties counting half; 0-1.

    Raises Undefined if one of the classes is missing.
    """
    truth, values = _both_classes(labels, scores)
    true_alarms, false_alarms, _ = _cumulative(truth, values)
    steps = np.diff(false_alarms, prepend=0)
    # In whole numbers, so that the area is exact but for one division.
    twice = int((steps * (true_alarms + np.concatenate([[0], true_alarms[:-1]]))).sum())
    return twice / (2 * int(true_alarms[-1]) * int(false_alarms[-1]))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision, sum of (R_k - R_k-1) P_k over distinct scores: steps, not interpolated; 0-1.

    Raises Undefined without false pictures.
    """
    curve = precision_recall_curve(labels, scores)
    return float((np.diff(curve.recall, prepend=0.0) * curve.precision).sum())


def equal_error_rate(labels: ArrayLike, scores: ArrayLike) -> float:
    """Where FPR = 1 - TPR on the ROC curve, with straight lines between its points (not its convex hull); 0-1.

    Raises Undefined if one of the classes is missing.
    """
    curve = roc_curve(labels, scores)
    difference = curve.fpr - (1.0 - curve.tpr)
    after = int(np.argmax(difference >= 0.0))  # the last point, (1, 1), always is; the first, (0, 0), never
    before = after - 1
    part = -difference[before] / (difference[after] - difference[before])
    return float(curve.fpr[before] + part * (curve.fpr[after] - curve.fpr[before]))


def summarise_detection(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    threshold: float | None = None,
    groups: Groups = None,
    max_fpr: float = MAX_FPR,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> DetectionSummary:
    """Every metric of this file, with bootstrap intervals by source.

    Args:
        labels: True for false pictures, (n,).
        scores: (n,), any scale.
        threshold: the detector's shipped threshold, if it has one.
        groups: source of every picture, (n,), or None.
        max_fpr: the false positive rate to keep, 0-1.
        resamples: bootstrap resamples.
        seed: of the bootstrap.
        confidence: of the intervals, 0-1.

    Raises:
        Undefined: if one of the classes is missing.
    """
    truth, values = _both_classes(labels, scores)
    codes = group_codes(groups, truth.size)

    def tpr_of(chosen_labels: BoolArray, chosen_scores: FloatArray) -> float:
        _both_classes(chosen_labels, chosen_scores)
        limit = threshold_at_fpr(chosen_scores[~chosen_labels], max_fpr=max_fpr)
        return float((chosen_scores[chosen_labels] >= limit).mean())

    def estimate(statistic: Callable[[BoolArray, FloatArray], float]) -> Estimate:
        return bootstrap(
            lambda index: statistic(truth[index], values[index]),
            codes,
            resamples=resamples,
            seed=seed,
            confidence=confidence,
        )

    point = tpr_at_fpr(truth, values, max_fpr=max_fpr, groups=codes, confidence=confidence)
    shipped = accuracy = None
    if threshold is not None:
        fixed = threshold
        shipped = rates_at(truth, values, threshold=fixed, groups=codes, confidence=confidence)
        accuracy = estimate(lambda chosen, of: balanced_accuracy(chosen, of, threshold=fixed))
    return DetectionSummary(
        positives=int(truth.sum()),
        negatives=int((~truth).sum()),
        groups=int(codes.max()) + 1,
        roc_auc=estimate(roc_auc),
        average_precision=estimate(average_precision),
        equal_error_rate=estimate(equal_error_rate),
        tpr_at_fpr=estimate(tpr_of),
        operating_point=point,
        shipped=shipped,
        balanced_accuracy=accuracy,
        warnings=tuple(_warnings(point)),
    )


def _warnings(point: OperatingPoint) -> list[str]:
    fpr = point.rates.fpr
    warnings = []
    if point.resolution > point.max_fpr:
        warnings.append(
            f"{fpr.total} honest pictures cannot show an FPR of {point.max_fpr:.0%}: "
            f"the TPR is that at 0 false alarms, with a true FPR of up to {fpr.interval.high:.1%}."
        )
    elif fpr.successes < point.allowed:
        warnings.append(
            f"Ties: {point.allowed} false alarms were allowed and {fpr.successes} occur, for the next score is shared."
        )
    if fpr.groups < fpr.total:
        warnings.append(f"The {fpr.total} honest pictures come from {fpr.groups} sources; the intervals go by source.")
    return warnings


def _allowed_alarms(negatives: int, max_fpr: float) -> int:
    if not 0.0 <= max_fpr < 1.0:
        raise InvalidData(f"a false positive rate of {max_fpr} is not in 0-1 (exclusive)")
    # 0.29 * 100 is 28.999999999999996, while 29 / 100 <= 0.29 holds.
    allowed = math.floor(max_fpr * negatives)
    return allowed + 1 if (allowed + 1) / negatives <= max_fpr else allowed


def _cumulative(truth: BoolArray, values: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """True alarms, false alarms and threshold at every distinct score, by falling score."""
    order = np.argsort(-values, kind="stable")
    falling = values[order]
    last_of_tie = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    true_alarms = np.cumsum(truth[order], dtype=np.int64)[last_of_tie]
    return true_alarms, last_of_tie + 1 - true_alarms, falling[last_of_tie]


def _with_positives(labels: ArrayLike, scores: ArrayLike) -> tuple[BoolArray, FloatArray]:
    truth = as_labels(labels)
    values = as_scores(scores, truth.size)
    if not truth.any():
        raise Undefined("no false pictures")
    return truth, values


def _both_classes(labels: ArrayLike, scores: ArrayLike) -> tuple[BoolArray, FloatArray]:
    truth, values = _with_positives(labels, scores)
    if truth.all():
        raise Undefined("no honest pictures")
    return truth, values
