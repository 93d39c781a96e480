"""A copy, or honest repetition: what the measurements of two equal regions say.

Two windows, two letters, two leaves agree in shape. A region and its copy agree in grain and compression also where
there is no shape (`flat_fine`, `grain_ratio`): once brightness is made equal, no more is left of their difference than
noise explains. Every part of the one lies where it should (`wobble`), at one alignment only (`shifted`, `beyond`), by a
map that turns and enlarges but does not shear (`stretch`: look-alikes are seen in perspective), in the same light
and colour everywhere (`shading`, `chroma_most`). And where many pairs agree as well as this one, it is the pattern
that repeats.

What these are worth together depends on one another: a small residue says much in a noisy picture and little in a
smooth one. So the verdict is a sum of small trees, three questions deep (gradient boosting, Friedman 2001), whose
numbers are in `repetition.json`.

References:
    J. H. Friedman, "Greedy function approximation: a gradient boosting machine", 2001. 10.1214/aos/1013203451
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from services.passive.detectors._copy_move.verify import Measurements, Verified

__all__ = ["FEATURES", "features_of", "scores_of"]

MODEL: Final = Path(__file__).with_suffix(".json")

MAX_STRETCH: Final = 0.15
"""More stretch counts as this."""
LEAST_CHANGE: Final = 0.001
"""Less difference from the identity counts as this: it is none."""
LEAST_COLOUR: Final = 0.05
WAYS: Final = {"keypoints": 0.0, "dense": 1.0, "small": 2.0}
"""The feature `way`."""
GREY: Final = (1.0, 2.5)
"""Where nine of ten places differ in colour by less than `LEAST_COLOUR` levels, the picture is grey (or the copy exact,
which all else says as well): colour tells nothing, and `chroma` and `chroma_most` count as these."""
SAME_GRAIN: Final = 0.25
CLONES: Final = 1
MAX_FAMILY: Final = 6
"""Pairs whose grain agrees as well as another's, but for `SAME_GRAIN`, are of its family; the first `CLONES` of them
may be a clone and do not count, and more than `MAX_FAMILY` count as so many."""

FEATURES: Final = (
    "over_noise",
    "wobble",
    "grain_ratio",
    "stretch",
    "flat_fine",
    "middle",
    "shifted",
    "lowest",
    "chroma",
    "residue",
    "beyond",
    "cliff",
    "area",
    "inliers",
    "change",
    "offset",
    "gain",
    "contrast",
    "noise",
    "way",
    "family",
    "even",
    "shading",
    "chroma_most",
)
"""What the trees ask about, in the order of `features_of`; most of it as `Measurements` has it."""


@dataclass(frozen=True, slots=True)
class _Model:
    """Trees whose nodes are numbered through.

    Attributes:
        intercept: of the logit, which is this and the values of the leaves that are reached.
        roots: (trees,), the number of each tree's first node.
        feature, least, low, high: (nodes,); a node asks whether a feature is at most `least`, and goes on to `low` or
            `high`. A leaf goes on to itself.
        value: (nodes,), 0 but for leaves.
    """

    intercept: float
    roots: NDArray[np.int64]
    feature: NDArray[np.int64]
    least: NDArray[np.float64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    value: NDArray[np.float64]

    def logits(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,), of n pairs of regions, (n, features)."""
        pair = np.arange(len(features))[:, None]
        node = np.broadcast_to(self.roots, (len(features), len(self.roots)))
        while True:
            at_most = features[pair, self.feature[node]] <= self.least[node]
            following = np.where(at_most, self.low[node], self.high[node])
            if np.array_equal(following, node):
                return np.asarray(self.intercept + self.value[node].sum(axis=1), np.float64)
            node = following


def scores_of(found: Sequence[Verified]) -> list[float]:
    """0-1 for each pair of regions of a picture: how much it looks like a copy and not like two things of a kind."""
    if not found:
        return []
    measured = [one.measurements for one in found]
    features = [features_of(one.measurements, one.candidate.way, measured) for one in found]
    return [1.0 / (1.0 + math.exp(-logit)) for logit in _model().logits(np.array(features)).tolist()]


def features_of(
    one: Measurements, way: Literal["keypoints", "small", "dense"], measured: Sequence[Measurements]
) -> tuple[float, ...]:
    """What the trees ask about of one pair, in the order of `FEATURES`.

    Args:
        one: its measurements.
        way: what found it.
        measured: the measurements of all pairs of the picture, `one` among them.
    """
    chroma, chroma_most = (one.chroma, one.chroma_most) if one.chroma_most >= LEAST_COLOUR else GREY
    return (
        math.log2((one.residue + 0.2) / (one.noise + 0.2)),
        one.wobble,
        one.grain_ratio,
        min(one.stretch, MAX_STRETCH),
        one.flat_fine,
        one.middle,
        one.shifted,
        one.lowest,
        chroma,
        one.residue,
        one.beyond,
        one.cliff,
        math.log2(one.area),
        math.log2(one.inliers + 1.0),
        max(one.change, LEAST_CHANGE),
        one.offset,
        one.gain,
        one.contrast,
        one.noise,
        WAYS[way],
        float(_family(one, measured)),
        one.even,
        one.shading,
        chroma_most,
    )


def _family(one: Measurements, measured: Sequence[Measurements]) -> int:
    alike = [
        other is not one and other.flat_fine >= one.flat_fine - SAME_GRAIN and other.stretch < MAX_STRETCH
        for other in measured
    ]
    return min(max(sum(alike) - CLONES, 0), MAX_FAMILY)


@cache
def _model() -> _Model:
    document = json.loads(MODEL.read_text(encoding="utf-8"))
    if document["features"] != list(FEATURES):
        raise ValueError(f"{MODEL.name} was fitted on other features than this code measures; fit it anew")
    nodes: list[tuple[int, float, int, int, float]] = []
    roots = []
    for tree in document["trees"]:
        first = len(nodes)
        roots.append(first)
        for own, fields in enumerate(tree, first):
            # [value] for a leaf, and [feature, least, low, high] otherwise, numbered within the tree.
            if len(fields) == 1:
                nodes.append((0, math.inf, own, own, float(fields[0])))
            else:
                nodes.append((int(fields[0]), float(fields[1]), first + int(fields[2]), first + int(fields[3]), 0.0))
    feature, least, low, high, value = (np.array(of_all) for of_all in zip(*nodes, strict=True))
    return _Model(float(document["intercept"]), np.array(roots), feature, least, low, high, value)
