"""Fits the trees, tells what they find and accuse, and writes them as `repetition` reads them.

References:
    J. H. Friedman, "Greedy function approximation: a gradient boosting machine", 2001. 10.1214/aos/1013203451
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import GroupKFold

from services.passive.detectors._copy_move.repetition import FEATURES
from training.copy_move.pairs import Pairs

__all__ = ["DECISION", "THRESHOLDS", "TREES", "fit", "held_out", "report", "write_model"]

Floats = NDArray[np.float64]

FOLDS: Final = 6
DECISION: Final = 0.9
"""Probability at even odds that becomes the score 0.5: so high that hardly any honest picture is accused."""
THRESHOLDS: Final = (0.8, 0.85, 0.9, 0.92, 0.94, 0.96)
TREES: Final = 400
DEPTH: Final = 3
ASKED: Final = 0.4
"""Share of the measurements that each question is chosen from, drawn anew each time, so that trees differ more. By
folds of the train split, where 2 % of honest photographs are accused, 1,649 of 2,903 forgeries are found with it, 1,642
without."""
PRODUCTS: Final = 4.0
"""Weight of a pair of mass products: they are as alike as copies but for their grain, and there are few of them."""
DIGITS: Final = 7
"""Decimals of the written leaves: all of them together then differ by less than 0.0001."""

DIRECTIONS: Final = {
    "over_noise": -1,
    "grain_ratio": -1,
    "stretch": -1,
    "flat_fine": 1,
    "middle": 1,
    "lowest": 1,
    "chroma": -1,
    "residue": -1,
    "beyond": -1,
    "cliff": 1,
    "area": 1,
    "inliers": 1,
    "offset": -1,
    "gain": -1,
    "family": -1,
    "even": -1,
    "shading": -1,
    "chroma_most": -1,
}
"""Whether more of a measurement, all others equal, speaks for a copy (1) or against it (-1): what the trees may not
learn otherwise, however chance would have it. Those that are left out may go either way."""


def fit(pairs: Pairs) -> Any:
    """The trees (scikit-learn's).

    Raises:
        ValueError: there are no copies, or nothing but copies.
    """
    if not (pairs.copied.any() and (~pairs.copied).any()):
        raise ValueError("both copies and look-alikes are needed to fit: collect more pictures")
    return _fitted(pairs, np.ones(len(pairs.copied), np.bool_))


def held_out(pairs: Pairs) -> Floats:
    """Probability (n,) that each pair is a copy, by trees that were fitted without the photograph that it is of."""
    groups = pairs.groups[pairs.pictures]
    folds = GroupKFold(min(FOLDS, len(set(groups.tolist()))))
    result = np.zeros(len(pairs.copied))
    for learnt, left_out in folds.split(pairs.features, pairs.copied, groups):
        kept = np.zeros(len(pairs.copied), np.bool_)
        kept[learnt] = True
        result[left_out] = _fitted(pairs, kept).predict_proba(pairs.features[left_out])[:, 1]
    return result


def _fitted(pairs: Pairs, kept: NDArray[np.bool_]) -> Any:
    trees = HistGradientBoostingClassifier(
        max_iter=TREES,
        max_depth=DEPTH,
        learning_rate=0.07,
        min_samples_leaf=15,
        l2_regularization=1.0,
        max_features=ASKED,
        monotonic_cst=[DIRECTIONS.get(name, 0) for name in FEATURES],
        early_stopping=False,
        random_state=0,
    )
    return trees.fit(pairs.features[kept], pairs.copied[kept], sample_weight=_weights(pairs)[kept])


def _weights(pairs: Pairs) -> Floats:
    """Pairs of one picture count with the square root of their number; copies, in all, as much as look-alikes."""
    weights = np.ones(len(pairs.copied))
    for copied in (False, True):
        of_label = pairs.copied == copied
        counts = np.bincount(pairs.pictures[of_label], minlength=len(pairs.names))
        weights[of_label] = counts[pairs.pictures[of_label]] ** -0.5
    weights[pairs.copied] *= weights[~pairs.copied].sum() / weights[pairs.copied].sum()
    weights[np.char.startswith(pairs.names, "products/")[pairs.pictures]] *= PRODUCTS
    return np.asarray(weights / weights.mean(), np.float64)


def report(pairs: Pairs, probabilities: Floats, thresholds: Sequence[float] = THRESHOLDS) -> str:
    """By threshold: pictures found of those with a copy, and accused of those without; then the accused by name.

    A picture with a copy is found if a pair that is the copy is above the threshold. One in which the detector saw no
    such pair is missed at all of them.
    """
    accusing = np.isin(pairs.kinds, ("honest", "rendered"))[pairs.pictures] | pairs.copied
    highest = np.zeros(len(pairs.names))
    np.maximum.at(highest, pairs.pictures[accusing], probabilities[accusing])
    lines = ["threshold  planted found  forged found  honest accused  rendered accused"]
    for threshold in thresholds:
        counts = [
            f"{int((highest[of_kind] > threshold).sum())}/{int(of_kind.sum())}"
            for of_kind in (pairs.kinds == kind for kind in ("planted", "forged", "honest", "rendered"))
        ]
        lines.append(f"{threshold:9.2f}  {counts[0]:>13}  {counts[1]:>12}  {counts[2]:>14}  {counts[3]:>16}")
    accused = np.flatnonzero(np.isin(pairs.kinds, ("honest", "rendered")) & (highest > min(thresholds)))
    lines += [
        f"accused: {pairs.names[index]} ({highest[index]:.3f})"
        for index in accused[np.argsort(-highest[accused])].tolist()
    ]
    return "\n".join(lines)


def write_model(trees: Any, path: Path, *, decision: float = DECISION) -> None:
    """Writes trees as `repetition` reads them; a pair of probability `decision` gets the score 0.5.

    Raises:
        ValueError: `decision` is not between 0 and 1.
    """
    if not 0.0 < decision < 1.0:
        raise ValueError(f"a decision at {decision}: it must lie between 0 and 1")
    # scikit-learn shows its trees nowhere else.
    intercept = float(np.ravel(trees._baseline_prediction)[0]) - math.log(decision / (1.0 - decision))
    document = {
        "features": list(FEATURES),
        "intercept": round(intercept, DIGITS),
        "trees": [[_node(node) for node in of_class[0].nodes] for of_class in trees._predictors],
    }
    path.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


def _node(node: Any) -> list[float]:
    if node["is_leaf"]:
        return [round(float(node["value"]), DIGITS)]
    return [int(node["feature_idx"]), float(node["num_threshold"]), int(node["left"]), int(node["right"])]
