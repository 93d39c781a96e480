"""From the detectors of one question to one log10 likelihood ratio.

A logistic regression on calibrated ratios with a zero for what is missing. It has no constant, for a picture of which
nothing is known keeps its prior, and weights in 0-1: negative ones would let suspicion clear a picture, larger ones
would let one detector claim more in company than alone. Detectors that say the same thing get small
weights together, whoever of them is missing: where one then speaks alone the sum says too little, never too much.

References: Brümmer et al. 2007, 10.1109/TASL.2007.902870 (fusion of scores by logistic regression); Morrison 2013,
10.1080/00450618.2012.733025 (the same in forensic science).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special  # type: ignore[import-untyped]

from evaluation.calibration.folds import FOLDS, assign_folds
from evaluation.calibration.maps import supported_bounds
from evaluation.calibration.samples import DetectorSamples
from evaluation.metrics._arrays import BoolArray, FloatArray
from evaluation.metrics.calibration import cllr
from services.common.calibration import Fusion

__all__ = ["FusionInput", "fit_fusion"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusionInput:
    """Pictures of one question with the held-out ratios of its detectors.

    Attributes:
        labels: True for false pictures, (n,).
        groups: source of each, (n,).
        ratios: by detector, log10 ratio from a map that never saw the picture's source, (n,); NaN where missing.
    """

    labels: BoolArray
    groups: np.ndarray
    ratios: Mapping[str, FloatArray]


def fit_fusion(data: FusionInput, *, folds: int = FOLDS, seed: int = 0) -> Fusion:
    """Fits weights and bounds on the pictures on which at least one detector applied.

    At least one detector is needed, and pictures of both classes with a ratio in every fold's complement, which holds
    for detectors that `fit_map` took.
    """
    names = sorted(data.ratios)
    matrix = np.column_stack([data.ratios[name] for name in names])
    asked = ~np.isnan(matrix).all(axis=1)
    labels, groups, matrix = data.labels[asked], data.groups[asked], np.nan_to_num(matrix[asked], nan=0.0)
    samples = DetectorSamples(labels=labels, groups=groups, scores=np.zeros(labels.size))
    weights = samples.weights
    fold = assign_folds(labels, groups, folds=folds, seed=seed)
    held_out = np.zeros(labels.size)
    for number in np.unique(fold):
        tested = fold == number
        trained = samples[~tested]
        held_out[tested] = matrix[tested] @ _weights(matrix[~tested], trained)
    fused = DetectorSamples(labels=labels, groups=groups, scores=held_out)
    bounds = supported_bounds(fused)
    return Fusion(
        weights=dict(zip(names, _weights(matrix, samples).tolist(), strict=True)),
        bounds=bounds,
        positives=int(labels.sum()),
        negatives=int((~labels).sum()),
        positive_sources=samples.positive_sources,
        negative_sources=samples.negative_sources,
        cross_validated_cllr=cllr(labels, np.clip(held_out, *bounds), weights=weights),
    )


def _weights(matrix: FloatArray, samples: DetectorSamples) -> FloatArray:
    """Weights in 0-1 that minimise Cllr; they start at 1, where detectors are independent given the truth."""
    natural = matrix * math.log(10.0)
    share = samples.weights * np.where(samples.labels, 0.5 / samples.positive_sources, 0.5 / samples.negative_sources)

    def cost(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_odds = natural @ weights
        loss = share @ (np.logaddexp(0.0, log_odds) - samples.labels * log_odds)
        return float(loss), natural.T @ (share * (special.expit(log_odds) - samples.labels))

    count = natural.shape[1]
    fitted = optimize.minimize(cost, np.ones(count), jac=True, bounds=[(0.0, 1.0)] * count, method="L-BFGS-B").x
    return np.clip(np.asarray(fitted, dtype=np.float64), 0.0, 1.0)
