"""Arrays as the metrics take them, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.metrics.errors import InvalidData

BoolArray: TypeAlias = NDArray[np.bool_]
FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]
Groups: TypeAlias = Sequence[str] | Sequence[int] | NDArray[Any] | None
"""The source of every picture; None if each picture is a source of its own."""


def as_labels(labels: ArrayLike) -> BoolArray:
    """Labels as bool (n,). Raises InvalidData for anything but one dimension of booleans or zeros and ones."""
    array = np.asarray(labels)
    if array.ndim != 1:
        raise InvalidData(f"labels have {array.ndim} dimensions, not one")
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise InvalidData("labels are True (false picture) or False (honest picture), or 1 and 0")
    return array.astype(np.bool_)


def as_scores(scores: ArrayLike, length: int) -> FloatArray:
    """Scores as float64 (n,). Raises InvalidData for NaN (an abstention is no score) and for another length."""
    array = np.asarray(scores, dtype=np.float64)
    if array.shape != (length,):
        raise InvalidData(f"{length} labels, but scores of shape {array.shape}")
    if np.isnan(array).any():
        raise InvalidData("a score is NaN: leave abstentions out, or decide what they count as (metrics.coverage)")
    return array


def as_weights(weights: ArrayLike | None, length: int) -> FloatArray:
    """Weights as float64 (n,), ones if None. Raises InvalidData unless they are finite and positive."""
    if weights is None:
        return np.ones(length)
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (length,) or not (np.isfinite(array) & (array > 0)).all():
        raise InvalidData(f"weights are {length} finite positive numbers")
    return array


def group_codes(groups: Groups, length: int) -> IntArray:
    """Groups as codes 0..g-1 (n,), in sorted order of their names. Raises InvalidData for another length."""
    if groups is None:
        return np.arange(length, dtype=np.int64)
    array = np.asarray(groups)
    if array.shape != (length,):
        raise InvalidData(f"{length} pictures, but groups of shape {array.shape}")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)
