"""Linear heads on what CLIP's first blocks see of a face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

__all__ = ["Head", "Scaling", "fit_head"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Head:
    """Log odds are traces @ weights + bias: float32 (traces, k) and (k,)."""

    weights: Floats
    bias: Floats

    def __call__(self, traces: Floats) -> Floats:
        """Log odds, (n, k), of traces, (n, traces)."""
        odds: Floats = traces @ self.weights + self.bias
        return odds

    def reading(self, part: slice, width: int) -> Head:
        """The same head, fitted on a part of the traces, for all of them, (n, width)."""
        weights = np.zeros((width, self.weights.shape[1]), np.float32)
        weights[part] = self.weights
        return Head(weights, self.bias)


@dataclass(frozen=True, slots=True)
class Scaling:
    """Brings traces to a mean of 0 and a deviation of 1; both (traces,)."""

    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, traces: Floats) -> Scaling:
        """By the faces that are learned from."""
        return cls(traces.mean(axis=0), np.maximum(traces.std(axis=0), np.float32(1e-6)))

    def __call__(self, traces: Floats) -> Floats:
        """Scaled traces."""
        scaled: Floats = (traces - self.mean) / self.deviation
        return scaled

    def folded_in(self, weights: NDArray[np.floating], bias: NDArray[np.floating]) -> Head:
        """A head on traces as they are, of one on scaled traces: (traces, k) and (k,)."""
        unscaled = weights / self.deviation[:, None]
        return Head(unscaled.astype(np.float32), (bias - self.mean @ unscaled).astype(np.float32))


def fit_head(
    traces: Floats,
    classes: NDArray[np.integer | np.bool_],
    *,
    strength: float,
    weights: NDArray[np.float64] | None = None,
) -> Head:
    """Logistic regression on scaled traces.

    Args:
        traces: (n, traces).
        classes: (n,): of two classes the head tells the second's log odds, of more one for each.
        strength: scikit-learn's C, where weights have a mean of 1.
        weights: (n,), how much each row counts; without, all count alike.
    """
    scaling = Scaling.of(traces)
    model = LogisticRegression(C=strength, max_iter=1000)
    model.fit(scaling(traces), classes, sample_weight=None if weights is None else weights / weights.mean())
    return scaling.folded_in(model.coef_.T, model.intercept_)
