"""Human or drawn: whether a face, or a picture without one, was drawn rather than photographed.

The network is VGG16 (Simonyan & Zisserman 2014, arXiv:1409.1556), frozen as it learned ImageNet, with a linear head on
means and deviations of its blocks' activations: how a picture is textured tells a drawing, more than what it shows
(Gatys et al. 2016, 10.1109/CVPR.2016.265). `training/cartoon` fits the head.

It sees a face with what surrounds it (hair and outlines tell as much as the features), or the whole picture.

Of a face, what CLIP's first blocks see of it (`traces`) mostly tells at once: `GLANCE` reads it off, and VGG16 is shown
only the faces of which that is not sure. What the two say is then averaged, as log odds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from services.faces.attributes._network import FaceNetwork, TracesNetwork, distributions
from services.faces.face import Box, DetectedFace, FaceKind, KindEstimate

__all__ = [
    "GLANCE",
    "INPUT",
    "NETWORK",
    "OUTPUT",
    "SIDE",
    "face_view",
    "in_doubt",
    "prepared",
    "read",
    "read_glance",
    "together",
    "whole_view",
]

RGB = NDArray[np.uint8]

INPUT: Final = "views"
OUTPUT: Final = "cartoon"
SIDE: Final = 128
"""Side of the network's square input, in pixels. VGG16 learned at 224, which takes three times as long: a face report
has 150 ms for everything."""

CONTEXT: Final = 1.6
"""Side of the square that a face is seen in, as a multiple of the longer side of its box."""

_SURE: Final = 2.0
"""Log odds from which a glance will do: 0.88 for one of the two. On styles and sources left out, two in a thousand
faces of people are in doubt by it and three in a hundred drawn ones."""

_LEAST: Final = 1e-6
"""Nothing is less probable."""

_BGR_MEAN: Final = np.array([103.939, 116.779, 123.68], np.float32)
"""Of ImageNet, of 255: how Caffe, and so this VGG16, takes its pictures."""


def face_view(rgb: RGB, box: Box) -> RGB:
    """The square around a face, moved into the picture where it would leave it.

    Args:
        rgb: the full-size upright picture, uint8 (height, width, 3).
        box: of a face in it.

    Returns:
        uint8 (SIDE, SIDE, 3).
    """
    height, width = rgb.shape[:2]
    side = max(1, min(round(CONTEXT * max(box.width, box.height)), height, width))
    left = min(max(round(box.centre.x - side / 2), 0), width - side)
    top = min(max(round(box.centre.y - side / 2), 0), height - side)
    return whole_view(rgb[top : top + side, left : left + side])


def whole_view(rgb: RGB) -> RGB:
    """All of a picture, its sides scaled apart: uint8 (SIDE, SIDE, 3)."""
    shrinks = min(rgb.shape[:2]) >= SIDE
    scaled = cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return cast("RGB", scaled)


def prepared(views: Sequence[RGB]) -> NDArray[np.float32]:
    """Views, each uint8 (SIDE, SIDE, 3) RGB, as a batch: float32 (n, SIDE, SIDE, 3), BGR, byte minus mean."""
    batch = np.stack(list(views))[..., ::-1].astype(np.float32) - _BGR_MEAN
    return np.ascontiguousarray(batch)


def read(probabilities: NDArray[np.floating]) -> list[KindEstimate]:
    """VGG16's output, (n, 1), probability of being drawn, as estimates; 0.5 counts as drawn.

    Raises:
        ValueError: another shape, or numbers that are no probabilities.
    """
    rows = np.asarray(probabilities, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != 1:
        raise ValueError(f"expected (n, 1) probabilities, got {rows.shape}")
    if not ((rows >= 0) & (rows <= 1)).all():
        raise ValueError("the network's output is no probability")
    return [_estimate(drawn) for drawn in rows[:, 0].tolist()]


def read_glance(probabilities: NDArray[np.floating]) -> list[KindEstimate]:
    """The output of the head on CLIP's traces, (n, 2), human and cartoon, as estimates.

    Raises:
        ValueError: another shape, or numbers that are no probabilities.
    """
    return [_estimate(drawn) for _, drawn in distributions(probabilities, 2).tolist()]


def in_doubt(glance: KindEstimate) -> bool:
    """Whether a glance does not tell, so that a closer look is worth its time."""
    return abs(_log_odds(glance)) < _SURE


def together(glance: KindEstimate, closer: KindEstimate) -> KindEstimate:
    """What a glance and a closer look say together: the mean of their log odds."""
    return _estimate(1 / (1 + math.exp(-(_log_odds(glance) + _log_odds(closer)) / 2)))


def _estimate(drawn: float) -> KindEstimate:
    """Of the probability of being drawn."""
    return KindEstimate(FaceKind.CARTOON, drawn) if drawn >= 0.5 else KindEstimate(FaceKind.HUMAN, 1 - drawn)


def _log_odds(estimate: KindEstimate) -> float:
    """Of being drawn."""
    likely = min(estimate.probability, 1 - _LEAST)
    odds = math.log(likely / (1 - likely))
    return odds if estimate.kind is FaceKind.CARTOON else -odds


def _cut(rgb: RGB, face: DetectedFace) -> RGB:
    return face_view(rgb, face.box)


NETWORK: Final = FaceNetwork(
    model="vgg16_cartoon", cut=_cut, views=1, prepare=prepared, read=read, input=INPUT, output=OUTPUT
)
GLANCE: Final = TracesNetwork(model="clip_cartoon", read=read_glance)
