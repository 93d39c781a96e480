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
class _Node:
    """Asks whether a feature is at most `least`, and goes on to the node `low` or `high`; a leaf has `value` alone."""

    feature: int = -1
    least: float = 0.0
    low: int = 0
    high: int = 0
    value: float = 0.0


@dataclass(frozen=True, slots=True)
class _Model:
    """The logit is `intercept` and what each of `trees` says; the first node of a tree is its root."""

    intercept: float
    trees: tuple[tuple[_Node, ...], ...]

    def logit(self, features: Sequence[float]) -> float:
        """Of one pair of regions."""
        total = self.intercept
        for tree in self.trees:
            node = tree[0]
            while node.feature >= 0:
                node = tree[node.low if features[node.feature] <= node.least else node.high]
            total += node.value
        return total


def scores_of(found: Sequence[Verified]) -> list[float]:
    """0-1 for each pair of regions of a picture: how much it looks like a copy and not like two things of a kind."""
    measured = [one.measurements for one in found]
    model = _model()
    return [
        1.0 / (1.0 + math.exp(-model.logit(features_of(one.measurements, one.candidate.way, measured))))
        for one in found
    ]


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
    trees = tuple(tuple(_node(fields) for fields in tree) for tree in document["trees"])
    return _Model(float(document["intercept"]), trees)


def _node(fields: Sequence[float]) -> _Node:
    """Out of [value] for a leaf, and [feature, least, low, high] otherwise."""
    if len(fields) == 1:
        return _Node(value=float(fields[0]))
    feature, least, low, high = fields
    return _Node(feature=int(feature), least=float(least), low=int(low), high=int(high))
