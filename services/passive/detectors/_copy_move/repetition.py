"""A copy, or honest repetition: what the measurements of two equal regions say.

Two windows, two letters, two leaves agree in shape. A region and its copy agree in grain and compression also where
there is no shape (`flat_fine`), nowhere else than at the one alignment (`shifted`, `beyond`), by a map that turns and
enlarges but does not shear (`stretch`: look-alikes are seen in perspective), and in light (`residue`). And where
many pairs agree as well as this one, it is the pattern that repeats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from services.passive.detectors._copy_move.verify import Measurements, Verified

__all__ = ["scores_of"]

INTERCEPT: Final = -8.78
FLAT_FINE: Final = 3.76
MIDDLE: Final = 2.21
SHIFTED: Final = -4.16
STRETCH: Final = -16.41
RESIDUE: Final = -0.45
AREA: Final = 0.54
BEYOND: Final = -6.01
FAMILY: Final = -0.67
"""Logistic regression (balanced classes) on pairs of regions of the training split: copies planted in 56 photographs
(moved, rotated, rescaled, JPEG 75 to PNG) against what repeats in them, in 63 honest ones and in 10 rendered pictures
of `evaluation.repetition`. By folds of pictures it tells such pairs apart with AUC 0.98. The intercept is lowered by
ln 49: what is reported is that many times as likely a copy as not, at even odds of such pairs, for false accusations
cost most. `RESIDUE` weighs the binary logarithm, and `AREA` that of the pixels."""
MAX_STRETCH: Final = 0.15
MAX_AREA: Final = 12.5
"""More stretch, and a larger binary logarithm of the area, count as this."""

KEYPOINT_INTERCEPT: Final = -2.2
KEYPOINT_ZNCC: Final = 9.2
KEYPOINT_STRETCH: Final = -16.8
KEYPOINT_DIFFERENCE: Final = -1.66
"""Of pairs that keypoints found, which have shape enough to go by: logistic regression (balanced classes) on 679 pairs
of the training split, copies planted in 510 photographs (moved, rotated, rescaled, JPEG 75-92) against what repeats in
873 honest ones, before `verify.MAX_OVERLAP` was applied."""
KEYPOINT_MAX_STRETCH: Final = 0.2

SAME_GRAIN: Final = 0.1
CLONES: Final = 2
MAX_FAMILY: Final = 6
"""Pairs whose grain agrees as well as another's, but for `SAME_GRAIN`, are of its family; the first `CLONES` of them
may be clones and do not count, and more than `MAX_FAMILY` count as so many."""


def scores_of(found: Sequence[Verified]) -> list[float]:
    """0-1 for each pair of regions of a picture: how much it looks like a copy and not like two things of a kind."""
    measured = [one.measurements for one in found]
    return [
        _sigmoid(_keypoint_logit(one.measurements))
        if one.candidate.way == "keypoints"
        else _sigmoid(_dense_logit(one.measurements, _family(one.measurements, measured)))
        for one in found
    ]


def _family(one: Measurements, measured: Sequence[Measurements]) -> int:
    alike = [
        other is not one and other.fine >= one.fine - SAME_GRAIN and other.stretch < MAX_STRETCH for other in measured
    ]
    return min(max(sum(alike) - CLONES, 0), MAX_FAMILY)


def _keypoint_logit(one: Measurements) -> float:
    return (
        KEYPOINT_INTERCEPT
        + KEYPOINT_ZNCC * one.zncc
        + KEYPOINT_STRETCH * min(one.stretch, KEYPOINT_MAX_STRETCH)
        + KEYPOINT_DIFFERENCE * math.log2(one.difference + 0.5)
    )


def _dense_logit(one: Measurements, family: int) -> float:
    return (
        INTERCEPT
        + FLAT_FINE * one.flat_fine
        + MIDDLE * one.middle
        + SHIFTED * one.shifted
        + STRETCH * min(one.stretch, MAX_STRETCH)
        + RESIDUE * math.log2(one.residue + 0.5)
        + AREA * min(math.log2(one.area), MAX_AREA)
        + BEYOND * one.beyond
        + FAMILY * family
    )


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit))
