"""Texture statistics: how pixels compare with their neighbours, and how contrast is spread over the picture.

Rotation-invariant uniform local binary patterns say how often a pixel is part of a spot, an edge, a corner or a flat
area; the logarithm of the local standard deviation says how contrast is distributed: generated textures are often too
regular, and too smooth in between.

References:
    T. Ojala, M. Pietikainen and T. Maenpaa, "Multiresolution gray-scale and rotation invariant texture classification
        with local binary patterns", 2002. 10.1109/TPAMI.2002.1017623
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from services.common.detection import Finding, MetricType, Question, Technique
from services.common.images import Picture
from services.passive.detectors import registry
from services.passive.detectors._statistics import FLAGGED, Fact, Statistic, judge, kurtosis

__all__ = ["STATISTIC", "detect_texture_statistics"]

RGB = NDArray[np.uint8]
Plane = NDArray[np.float32]

NEIGHBOURS: Final = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
WINDOW_SIDE: Final = 7
"""Side in pixels of the window of the local standard deviation."""


def _class_of_pattern(pattern: int) -> int:
    """Ojala's riu2: how many neighbours are as bright, 0-8, or 9 for more than two changes around the pixel."""
    turned = (pattern >> 1) | ((pattern & 1) << 7)
    return pattern.bit_count() if (pattern ^ turned).bit_count() <= 2 else 9


CLASSES: Final = np.array([_class_of_pattern(pattern) for pattern in range(256)], np.uint8)


def _measure(rgb: RGB) -> list[float]:
    grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
    plane = grey.astype(np.float32)
    side = (WINDOW_SIDE, WINDOW_SIDE)
    mean = np.asarray(cv2.blur(plane, side), np.float32)
    variance = np.maximum(np.asarray(cv2.blur(plane * plane, side), np.float32) - mean * mean, 0.0)
    contrast = np.log(np.sqrt(variance) + np.float32(0.3))
    low, high = np.percentile(contrast, (10, 90))
    patterns = _patterns(grey)
    return [
        *(float(value) for value in np.log(patterns + 1e-3)),
        float(contrast.mean()),
        float(contrast.std()),
        float(low),
        float(high),
        float(np.log(kurtosis(contrast))),
    ]


def _patterns(grey: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Shares of the ten classes of local binary patterns, float64 (10,), summing to 1."""
    height, width = grey.shape
    middle = grey[1:-1, 1:-1]
    pattern = np.zeros(middle.shape, np.uint8)
    for bit, (down, across) in enumerate(NEIGHBOURS):
        neighbour = grey[1 + down : height - 1 + down, 1 + across : width - 1 + across]
        pattern |= (neighbour >= middle).astype(np.uint8) << np.uint8(bit)
    return np.bincount(CLASSES[pattern].ravel(), minlength=10) / pattern.size


STATISTIC: Final = Statistic(
    metric_type=MetricType.TEXTURE,
    name="Texture Regularity",
    facts=(
        Fact("spots", "many bright spots", "few bright spots"),
        Fact("line_ends", "many ends of lines", "few ends of lines"),
        Fact("thin_lines", "many thin lines", "few thin lines"),
        Fact("bright_corners", "many bright corners", "few bright corners"),
        Fact("edges", "many plain edges", "few plain edges"),
        Fact("dark_corners", "many dark corners", "few dark corners"),
        Fact("dark_lines", "many thin dark lines", "few thin dark lines"),
        Fact("dark_ends", "many ends of dark lines", "few ends of dark lines"),
        Fact("flat_or_dark_spots", "many flat places and dark spots", "few flat places and dark spots"),
        Fact("irregular", "irregular texture", "regular texture"),
        Fact("contrast", "much local contrast", "little local contrast"),
        Fact("contrast_spread", "contrast that varies much over the picture", "the same contrast everywhere"),
        Fact("low_contrast", "grain even in smooth areas", "very smooth areas"),
        Fact("high_contrast", "very contrasty areas", "no contrasty areas"),
        Fact("contrast_log_kurtosis", "few areas that stand out", "many areas of different contrast"),
    ),
    measure=_measure,
)


@registry.detector(
    name="texture_statistics",
    version="1",
    title="Texture statistics",
    question=Question.GENERATED,
    techniques=(Technique.GENERATED,),
    papers=("10.1109/TPAMI.2002.1017623",),
    parameters={"decision_score": FLAGGED},
)
def detect_texture_statistics(picture: Picture) -> Finding:
    """Measures local binary patterns and the distribution of local contrast against photographs'."""
    return judge(STATISTIC, picture)
