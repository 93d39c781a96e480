"""Cross-validation by source: what is made from one picture stays in one fold."""

from __future__ import annotations

import numpy as np

from evaluation.metrics._arrays import BoolArray, IntArray

__all__ = ["FOLDS", "assign_folds"]

FOLDS = 5
"""As Kohavi (1995) and common practice have it; fewer where a class has fewer sources."""


def assign_folds(labels: BoolArray, groups: np.ndarray, *, folds: int = FOLDS, seed: int = 0) -> IntArray:
    """Fold of every picture, int64 (n,), 0 <= fold < folds.

    Sources with and without false pictures are shuffled and dealt out apart, so that each fold gets its share of both.
    """
    names, code = np.unique(groups, return_inverse=True)
    has_positive = np.bincount(code, weights=labels, minlength=names.size) > 0
    has_negative = np.bincount(code, weights=~labels, minlength=names.size) > 0
    random = np.random.default_rng(seed)
    fold_of_source = np.empty(names.size, dtype=np.int64)
    dealt = 0
    for kind in (has_positive & has_negative, has_positive & ~has_negative, ~has_positive):
        sources = random.permutation(np.flatnonzero(kind))
        fold_of_source[sources] = (dealt + np.arange(sources.size)) % folds
        dealt += sources.size
    return fold_of_source[code]
