"""Isotonic regression by pool-adjacent-violators (PAV): the best monotone map from scores to probabilities.

References: Ayer et al. 1955, 10.1214/aoms/1177728423; Zadrozny & Elkan 2002, 10.1145/775047.775151.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize  # type: ignore[import-untyped]

from evaluation.metrics._arrays import BoolArray, FloatArray

__all__ = ["PavBlocks", "pav"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PavBlocks:
    """Blocks of scores that PAV pooled, by rising score; float64 (b,) each.

    Attributes:
        low: lowest score in the block. high: highest.
        positives: weight of the false pictures in it. negatives: of the honest ones.
    """

    low: FloatArray
    high: FloatArray
    positives: FloatArray
    negatives: FloatArray


def pav(labels: BoolArray, scores: FloatArray, weights: FloatArray) -> PavBlocks:
    """Pools labels (n,) with positive weights (n,) by rising score; equal scores are one observation."""
    distinct, code = np.unique(scores, return_inverse=True)
    positives = np.bincount(code, weights=weights * labels, minlength=distinct.size)
    negatives = np.bincount(code, weights=weights * ~labels, minlength=distinct.size)
    both = positives + negatives
    starts = np.asarray(optimize.isotonic_regression(positives / both, weights=both).blocks, dtype=np.int64)[:-1]
    return PavBlocks(
        low=distinct[starts],
        high=distinct[np.append(starts[1:], distinct.size) - 1],
        positives=np.add.reduceat(positives, starts),
        negatives=np.add.reduceat(negatives, starts),
    )
