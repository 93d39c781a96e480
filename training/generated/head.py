"""A linear head: standardised inputs, a regularised logistic regression, and a calibrated margin."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

__all__ = ["LIMIT", "LinearHead", "calibrated", "fit_linear", "platt_scaling"]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

LIMIT: Final = 5.0
"""Standardised inputs are cut off there: one odd number must not decide."""


@dataclass(frozen=True, slots=True)
class LinearHead:
    """margin = weights . clip((x - mean) / deviation, -LIMIT, LIMIT) + bias.

    Attributes:
        mean, deviation: of the inputs, float64 (d,).
        weights: float64 (d,).
        bias: after calibration the margin is the natural logarithm of a likelihood ratio.
    """

    mean: Doubles
    deviation: Doubles
    weights: Doubles
    bias: float

    def margins(self, matrix: Floats) -> Doubles:
        """Margins of inputs (n, d), float64 (n,); above 0 speaks for generated."""
        scaled = np.clip((matrix - self.mean) / self.deviation, -LIMIT, LIMIT)
        return np.asarray(scaled @ self.weights + self.bias)


def fit_linear(matrix: Floats, labels: NDArray[np.bool_], weights: Doubles, *, strength: float) -> LinearHead:
    """Fits a head to inputs (n, d), labels (n,) and weights (n,); `strength` is that of the L2 penalty, above 0."""
    mean = np.asarray(np.average(matrix, axis=0, weights=weights), np.float64)
    deviation = np.asarray(np.sqrt(np.average((matrix - mean) ** 2, axis=0, weights=weights)) + 1e-6, np.float64)
    scaled = np.clip((matrix - mean) / deviation, -LIMIT, LIMIT).astype(np.float32)
    model = LogisticRegression(C=1.0 / strength, max_iter=400, tol=1e-3)
    model.fit(scaled, labels, sample_weight=weights)
    return LinearHead(mean, deviation, np.asarray(model.coef_[0], np.float64), float(model.intercept_[0]))


def calibrated(head: LinearHead, margins: Doubles, labels: NDArray[np.bool_], weights: Doubles) -> LinearHead:
    """The head whose margin is a log likelihood ratio on the given pictures (`platt_scaling`)."""
    slope, shift = platt_scaling(margins, labels, weights)
    return replace(head, weights=head.weights * slope, bias=head.bias * slope + shift)


def platt_scaling(margins: Doubles, labels: NDArray[np.bool_], weights: Doubles) -> tuple[float, float]:
    """Slope and shift that make margins (n,) of labels (n,) log odds, by logistic regression (Platt 1999).

    J. Platt, "Probabilistic outputs for support vector machines", Advances in Large Margin Classifiers, 1999.
    """
    model = LogisticRegression(C=1e3, max_iter=1000)
    model.fit(margins[:, None], labels, sample_weight=weights)
    return max(float(model.coef_[0, 0]), 1e-3), float(model.intercept_[0])
