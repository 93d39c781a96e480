"""Whether probabilities and likelihood ratios mean what they say.

A probability is of "false", 0-1. A likelihood ratio is P(score | false) / P(score | honest), given as its log10.

References: Brümmer & du Preez 2006, 10.1016/j.csl.2005.08.001 (Cllr); Ramos & Gonzalez-Rodriguez 2013,
10.1016/j.forsciint.2013.04.014 (its two parts); Brier 1950,
10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2; Naeini et al. 2015, 10.1609/aaai.v29i1.9602 (ECE);
Nixon et al. 2019, arXiv:1904.01685 (equal-mass bins).
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics._arrays import BoolArray, FloatArray, as_labels, as_scores, as_weights
from evaluation.metrics.errors import InvalidData, Undefined
from evaluation.metrics.intervals import CONFIDENCE, Interval, wilson
from evaluation.metrics.pav import pav

__all__ = [
    "BINS",
    "Binning",
    "CllrScores",
    "ReliabilityCurve",
    "brier_score",
    "cllr",
    "cllr_min",
    "cllr_scores",
    "expected_calibration_error",
    "reliability_curve",
]

BINS: Final = 15
"""Bins of ECE and reliability curve where nothing else is said (Guo et al. 2017, arXiv:1706.04599)."""


class Binning(enum.Enum):
    """How probabilities are put into bins."""

    EQUAL_MASS = "equal mass"
    """As many pictures in each bin as can be; equal probabilities share a bin, so there may be fewer bins."""
    EQUAL_WIDTH = "equal width"
    """0-1 in equal parts, closed on the right (the first on both sides); empty bins are left out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReliabilityCurve:
    """Mean probability against observed share, a point a bin; (k,) each.

    Attributes:
        predicted: mean probability in the bin, 0-1.
        observed: share of false pictures in the bin, 0-1.
        counts: pictures in the bin.
        intervals: Wilson's, of `observed`.
        binning: how the bins were made.
    """

    predicted: FloatArray
    observed: FloatArray
    counts: tuple[int, ...]
    intervals: tuple[Interval, ...]
    binning: Binning


@dataclass(frozen=True, slots=True)
class CllrScores:
    """Cllr in bits and what it is made of: `minimum` (lack of discrimination) + `calibration_loss`."""

    cllr: float
    minimum: float

    @property
    def calibration_loss(self) -> float:
        """Cllr - minimum, >= 0: what a monotone recalibration could gain."""
        return self.cllr - self.minimum


def brier_score(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean squared difference of probability and outcome, 0-1 (lower is better; 0.25 is a coin).

    Raises InvalidData for probabilities outside 0-1, Undefined without pictures.
    """
    truth, values = _probabilities(labels, probabilities)
    return float(np.mean((values - truth) ** 2))


def reliability_curve(
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    bins: int = BINS,
    binning: Binning = Binning.EQUAL_MASS,
    confidence: float = CONFIDENCE,
) -> ReliabilityCurve:
    """Puts pictures into bins by probability and compares its mean with the share of false ones.

    Raises InvalidData for probabilities outside 0-1 or fewer than one bin, Undefined without pictures.
    """
    truth, values = _probabilities(labels, probabilities)
    members = [np.flatnonzero(codes) for codes in _bin_members(values, bins, binning)]
    positives = [int(truth[index].sum()) for index in members]
    counts = tuple(index.size for index in members)
    return ReliabilityCurve(
        predicted=np.array([values[index].mean() for index in members]),
        observed=np.array([hits / count for hits, count in zip(positives, counts, strict=True)]),
        counts=counts,
        intervals=tuple(
            wilson(hits, count, confidence=confidence) for hits, count in zip(positives, counts, strict=True)
        ),
        binning=binning,
    )


def expected_calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, *, bins: int = BINS, binning: Binning = Binning.EQUAL_MASS
) -> float:
    """ECE: mean over pictures of |mean probability - observed share| of their bin, 0-1 (lower is better).

    It depends on the bins and is biased upwards on few pictures: name both when it is reported.
    Raises as `reliability_curve`.
    """
    curve = reliability_curve(labels, probabilities, bins=bins, binning=binning)
    return float(np.average(np.abs(curve.predicted - curve.observed), weights=curve.counts))


def cllr(labels: ArrayLike, log10_likelihood_ratios: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Log-likelihood-ratio cost in bits: 0 is perfect, 1 says nothing (LR = 1 always), above 1 misleads.

    Half the mean of log2(1 + 1/LR) over false pictures plus half the mean of log2(1 + LR) over honest ones. It does not
    depend on how many there are of each. An infinite ratio in the wrong direction costs infinitely much.

    Args:
        labels: True for false pictures, (n,).
        log10_likelihood_ratios: (n,), may be infinite.
        weights: of the pictures within their class, (n,); equal if None.

    Raises:
        Undefined: if one of the classes is missing.
    """
    truth = as_labels(labels)
    ratios = as_scores(log10_likelihood_ratios, truth.size) * math.log(10.0)
    weight = as_weights(weights, truth.size)
    _need_both(truth)
    costs = np.logaddexp(0.0, np.where(truth, -ratios, ratios)) / math.log(2.0)
    return float(
        (np.average(costs[truth], weights=weight[truth]) + np.average(costs[~truth], weights=weight[~truth])) / 2.0
    )


def cllr_min(labels: ArrayLike, scores: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """The lowest Cllr that any monotone map of these scores reaches on these pictures (PAV), 0-1 bits.

    It measures discrimination alone; optimistic on few pictures, for the map is fitted on them.
    Arguments and errors as `cllr`; `scores` may have any scale.
    """
    truth = as_labels(labels)
    values = as_scores(scores, truth.size)
    weight = as_weights(weights, truth.size)
    _need_both(truth)
    blocks = pav(truth, values, weight)
    positives, negatives = blocks.positives / weight[truth].sum(), blocks.negatives / weight[~truth].sum()
    # A block's LR is positives / negatives, so log2(1 + 1/LR) = log2((p + n) / p); empty sides cost nothing.
    both = positives + negatives
    with np.errstate(divide="ignore", invalid="ignore"):
        costs = [np.where(side > 0, side * np.log2(both / side), 0.0).sum() for side in (positives, negatives)]
    return float(min(1.0, sum(costs) / 2.0))


def cllr_scores(
    labels: ArrayLike, log10_likelihood_ratios: ArrayLike, *, weights: ArrayLike | None = None
) -> CllrScores:
    """Cllr and its minimum. Arguments and errors as `cllr`."""
    return CllrScores(
        cllr(labels, log10_likelihood_ratios, weights=weights),
        cllr_min(labels, log10_likelihood_ratios, weights=weights),
    )


def _bin_members(values: FloatArray, bins: int, binning: Binning) -> list[BoolArray]:
    if bins < 1:
        raise InvalidData(f"{bins} bins")
    if binning is Binning.EQUAL_WIDTH:
        inner = np.arange(1, bins) / bins
    else:
        # Observed values as edges: those at or below an edge are left of it, so that equal ones stay together.
        inner = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf"))
    codes = np.searchsorted(inner, values, side="left")
    return [codes == code for code in np.unique(codes)]


def _probabilities(labels: ArrayLike, probabilities: ArrayLike) -> tuple[BoolArray, FloatArray]:
    truth = as_labels(labels)
    values = as_scores(probabilities, truth.size)
    if not truth.size:
        raise Undefined("no pictures")
    if not ((values >= 0.0) & (values <= 1.0)).all():
        raise InvalidData("a probability is outside 0-1")
    return truth, values


def _need_both(truth: BoolArray) -> None:
    if not truth.any() or truth.all():
        raise Undefined("a likelihood ratio is judged on false and on honest pictures; one class is missing")
