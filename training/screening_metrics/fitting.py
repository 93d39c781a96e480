"""Fits what the facts of a statistic are worth: a ridge-regularised logistic regression at even odds.

References:
    C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, section 4.3 (logistic regression).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from services.passive.detectors._statistics import MAX_STANDARDISED, Fitted

__all__ = ["Examples", "fit_statistic"]

Floats = NDArray[np.float64]

REGULARISATION: Final = 0.02
"""Inverse strength of the ridge penalty (scikit-learn's C): facts are correlated, and signs should stay readable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Facts of labelled pictures.

    Attributes:
        numbers: float64 (n, facts).
        generated: bool (n,): generated, or a photograph.
        weights: float64 (n,): how much each counts, so that no source outweighs the others.
    """

    numbers: Floats
    generated: NDArray[np.bool_]
    weights: Floats


def fit_statistic(train: Examples, held_out: Examples) -> Fitted:
    """Fits weights on `train`; percentiles of photographs and the area under the curve come from `held_out`.

    Raises:
        ValueError: one of the two lacks generated pictures or photographs.
    """
    for examples in (train, held_out):
        if not (examples.generated.any() and (~examples.generated).any()):
            raise ValueError("both generated pictures and photographs are needed, to fit and to hold out")
    means = train.numbers.mean(0)
    spreads = np.maximum(train.numbers.std(0), 1e-6)
    regression = LogisticRegression(C=REGULARISATION, max_iter=1000)
    regression.fit(
        _standardised(train.numbers, means, spreads),
        train.generated,
        sample_weight=_balanced(train.generated, train.weights),
    )
    weights, intercept = regression.coef_[0], float(regression.intercept_[0])
    log_odds = _standardised(held_out.numbers, means, spreads) @ weights + intercept
    photographs = _percentiles(log_odds[~held_out.generated], held_out.weights[~held_out.generated])
    return Fitted(
        means=_rounded(means),
        spreads=_rounded(spreads),
        weights=_rounded(weights),
        intercept=round(intercept, 6),
        photographs=_rounded(photographs),
        auc=round(float(roc_auc_score(held_out.generated, log_odds, sample_weight=held_out.weights)), 3),
    )


def _standardised(numbers: Floats, means: Floats, spreads: Floats) -> Floats:
    limited: Floats = np.clip((numbers - means) / spreads, -MAX_STANDARDISED, MAX_STANDARDISED)
    return limited


def _balanced(generated: NDArray[np.bool_], weights: Floats) -> Floats:
    """Weights scaled so that both classes weigh as much, and all weigh n together."""
    balanced = weights.copy()
    for label in (False, True):
        balanced[generated == label] *= 0.5 * len(weights) / weights[generated == label].sum()
    return balanced


def _percentiles(values: Floats, weights: Floats) -> Floats:
    """The weighted 0th to 100th percentile, strictly increasing, float64 (101,)."""
    order = np.argsort(values)
    positions = (np.cumsum(weights[order]) - 0.5 * weights[order]) / weights.sum()
    found = np.interp(np.linspace(0.0, 1.0, 101), positions, values[order])
    increasing: Floats = found + 1e-6 * np.arange(101)
    return increasing


def _rounded(values: Sequence[float] | Floats) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
