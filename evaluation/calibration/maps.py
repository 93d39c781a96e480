"""From one detector's score to a log10 likelihood ratio.

Four candidates: `logistic` (Platt: linear in the score), `logistic_of_logit` (linear in its log-odds, for scores that
are probabilities), `isotonic` (PAV) and `uninformative` (0 everywhere). The one with the lowest Cllr on sources left
out is taken. Classes and sources are weighed alike, so that the prior of the calibration set is not in the ratio.

No map claims more than its number of sources supports. `supported_bounds` turns that number into a highest and lowest
ratio; with few sources or a useless score they close in on 0, and "nothing found" then clears nobody.

References: Platt, Probabilistic outputs for support vector machines (1999); Zadrozny & Elkan 2002,
10.1145/775047.775151; Brümmer & du Preez 2006, 10.1016/j.csl.2005.08.001; Vergeer et al. 2016,
10.1016/j.scijus.2016.06.003 (why ratios need bounds, and misleading evidence added at either end); Clopper & Pearson
1934, 10.1093/biomet/26.4.404.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special  # type: ignore[import-untyped]

from evaluation.calibration.folds import FOLDS, assign_folds
from evaluation.calibration.samples import DetectorSamples, InsufficientData
from evaluation.metrics._arrays import FloatArray
from evaluation.metrics.calibration import cllr
from evaluation.metrics.intervals import clopper_pearson
from evaluation.metrics.pav import pav
from services.common.calibration import Method, ScoreMap

__all__ = ["MIN_SOURCES", "FittedMap", "apply_map", "fit_map", "fit_map_by", "supported_bounds"]

MIN_SOURCES: Final = 10
"""Sources of each class below which nothing is fitted: a fold has two of them, and the bounds say next to nothing."""

BOUND_CONFIDENCE: Final = 0.90
"""Two-sided, so each rate is bounded with 95% confidence on its side: the rule of three at 0 of n."""

LOGIT_LIMIT: Final = 0.001
"""Scores are kept this far from 0 and 1 before their logit: networks saturate there, and rounding decides."""

NODES: Final = 64
"""Breakpoints of a curved map: its error is then far below what the data say about it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedMap:
    """The map that was chosen.

    Attributes:
        method: its kind.
        score_map: the map, fitted on all pictures.
        cross_validated_cllr: of every candidate, in bits.
        held_out: log10 ratio of every picture by maps of the chosen kind that never saw its source, float64 (n,).
    """

    method: Method
    score_map: ScoreMap
    cross_validated_cllr: Mapping[Method, float]
    held_out: FloatArray


def fit_map(samples: DetectorSamples, *, folds: int = FOLDS, seed: int = 0) -> FittedMap:
    """Fits every candidate, chooses by Cllr on sources left out, and fits the chosen one on all pictures.

    Args:
        samples: pictures on which the detector applied.
        folds: of the cross-validation, at least 2.
        seed: that deals sources into folds.

    Raises:
        InsufficientData: with fewer than `MIN_SOURCES` sources of false or of honest pictures.
    """
    for kind, count in (("false", samples.positive_sources), ("honest", samples.negative_sources)):
        if count < MIN_SOURCES:
            raise InsufficientData(f"{count} sources of {kind} pictures; at least {MIN_SOURCES} are needed")
    fold = assign_folds(samples.labels, samples.groups, folds=folds, seed=seed)
    held_out: dict[Method, FloatArray] = {method: np.zeros(fold.size) for method in _CANDIDATES}
    for number in np.unique(fold):
        tested = fold == number
        trained = samples[~tested]
        for method, ratios in held_out.items():
            ratios[tested] = apply_map(fit_map_by(method, trained), samples.scores[tested])
    weights = samples.weights
    costs = {method: cllr(samples.labels, ratios, weights=weights) for method, ratios in held_out.items()}
    # Ties, such as between maps that bounds made 0, go to the first, which says least.
    chosen = min(_CANDIDATES, key=lambda method: costs[method])
    return FittedMap(
        method=chosen,
        score_map=fit_map_by(chosen, samples),
        cross_validated_cllr=costs,
        held_out=held_out[chosen],
    )


def fit_map_by(method: Method, samples: DetectorSamples) -> ScoreMap:
    """Fits one kind of map on all these pictures, within `supported_bounds`; both classes have to be there."""
    scores, ratios = _CANDIDATES[method](samples)
    bounds = supported_bounds(samples)
    clipped = np.maximum.accumulate(np.clip(ratios, *bounds))
    return ScoreMap(scores=tuple(scores.tolist()), log10_likelihood_ratios=tuple(clipped.tolist()), bounds=bounds)


def apply_map(score_map: ScoreMap, scores: FloatArray) -> FloatArray:
    """log10 ratios of scores (n,) in 0-1; the same as calling the map on each."""
    return np.interp(scores, score_map.scores, score_map.log10_likelihood_ratios)


def supported_bounds(samples: DetectorSamples) -> tuple[float, float]:
    """The lowest and highest log10 ratio that pictures of so many sources support, low <= 0 <= high.

    High is the best that any threshold shows: the lower confidence limit of its TPR over the upper one of its FPR. A
    perfect detector on n sources of each class is so bounded by about n / 3. Low likewise, from the limits of
    1 - TPR and 1 - FPR. Counts are of sources, a source of which half the pictures are alarms counting half.
    """
    weights = samples.weights
    found, missed, accused, cleared = [], [], [], []
    positives, negatives = float(samples.positive_sources), float(samples.negative_sources)
    order = np.argsort(samples.scores, kind="stable")
    rising = samples.scores[order]
    last_of_tie = np.flatnonzero(np.append(rising[1:] != rising[:-1], True))[:-1]
    positives_below = np.cumsum(np.where(samples.labels, weights, 0.0)[order])[last_of_tie]
    negatives_below = np.cumsum(np.where(samples.labels, 0.0, weights)[order])[last_of_tie]
    for step in range(last_of_tie.size):
        false_below = min(float(positives_below[step]), positives)
        honest_below = min(float(negatives_below[step]), negatives)
        miss = clopper_pearson(false_below, positives, confidence=BOUND_CONFIDENCE)
        clear = clopper_pearson(honest_below, negatives, confidence=BOUND_CONFIDENCE)
        missed.append(miss.high)
        cleared.append(clear.low)
        found.append(1.0 - miss.high)
        accused.append(1.0 - clear.low)
    high = max((math.log10(tpr / fpr) for tpr, fpr in zip(found, accused, strict=True) if tpr > 0), default=0.0)
    low = min((math.log10(fnr / tnr) for fnr, tnr in zip(missed, cleared, strict=True) if tnr > 0), default=0.0)
    return min(0.0, low), max(0.0, high)


def _fit_uninformative(_: DetectorSamples) -> tuple[FloatArray, FloatArray]:
    return np.array([0.0, 1.0]), np.zeros(2)


def _fit_logistic(samples: DetectorSamples) -> tuple[FloatArray, FloatArray]:
    slope, offset = _logistic(samples, samples.scores)
    return np.array([0.0, 1.0]), np.array([offset, slope + offset])


def _fit_logistic_of_logit(samples: DetectorSamples) -> tuple[FloatArray, FloatArray]:
    slope, offset = _logistic(samples, _logit(samples.scores))
    limit = float(special.logit(LOGIT_LIMIT))
    inner = special.expit(np.linspace(limit, -limit, NODES))
    scores = np.concatenate([[0.0], inner, [1.0]])
    return scores, slope * _logit(scores) + offset


def _fit_isotonic(samples: DetectorSamples) -> tuple[FloatArray, FloatArray]:
    """PAV, with one misleading source added at either end, so that no block is without the other class."""
    labels = np.concatenate([[True], samples.labels, [False]])
    scores = np.concatenate([[-np.inf], samples.scores, [np.inf]])
    weights = np.concatenate([[1.0], samples.weights, [1.0]])
    blocks = pav(labels, scores, weights)
    ratios = np.log10(blocks.positives / (samples.positive_sources + 1.0))
    ratios -= np.log10(blocks.negatives / (samples.negative_sources + 1.0))
    low, high = np.clip(blocks.low, 0.0, 1.0), np.clip(blocks.high, 0.0, 1.0)
    low[0], high[-1] = 0.0, 1.0
    # Flat over a block, linear from one to the next.
    nodes = np.column_stack([low, high]).ravel()
    values = np.repeat(ratios, 2)
    kept = np.append(nodes[1:] > nodes[:-1], True)
    return nodes[kept], values[kept]


_CANDIDATES: Final[Mapping[Method, Callable[[DetectorSamples], tuple[FloatArray, FloatArray]]]] = {
    "uninformative": _fit_uninformative,
    "logistic": _fit_logistic,
    "logistic_of_logit": _fit_logistic_of_logit,
    "isotonic": _fit_isotonic,
}
"""Every kind of map, from the one that says least."""


def _logit(scores: FloatArray) -> FloatArray:
    return np.asarray(special.logit(np.clip(scores, LOGIT_LIMIT, 1.0 - LOGIT_LIMIT)), dtype=np.float64)


def _logistic(samples: DetectorSamples, inputs: FloatArray) -> tuple[float, float]:
    """Slope (>= 0) and offset of log10 LR, by weighted logistic regression on Platt's softened targets.

    Both targets are softened by the smaller class: softened apart, they would favour the larger one.
    """
    sources = min(samples.positive_sources, samples.negative_sources)
    certain = (sources + 1.0) / (sources + 2.0)
    targets = np.where(samples.labels, certain, 1.0 - certain)
    weights = samples.weights * np.where(samples.labels, 0.5 / samples.positive_sources, 0.5 / samples.negative_sources)
    centre, spread = float(np.average(inputs, weights=weights)), float(inputs.std()) or 1.0
    standard = (inputs - centre) / spread

    def cost(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_odds = parameters[0] * standard + parameters[1]
        loss = weights @ (np.logaddexp(0.0, log_odds) - targets * log_odds)
        residual = weights * (special.expit(log_odds) - targets)
        return float(loss), np.array([residual @ standard, residual.sum()])

    bounds = [(0.0, None), (None, None)]
    slope, offset = optimize.minimize(cost, np.zeros(2), jac=True, bounds=bounds, method="L-BFGS-B").x
    scale = math.log(10.0)
    return float(slope / spread / scale), float((offset - slope * centre / spread) / scale)
