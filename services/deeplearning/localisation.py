"""How the localiser is fed, and how its maps come back.

**Working size**: the picture as it is, or area-averaged to at most `WORKING_SIDE` pixels on its longest side. It is
seen in one pass, so there are no tiles to overlap, and a copy is compared with all the rest. Both sides are filled up
to multiples of 16 by reflection. The numbers are those of `training.localisation.inference`, by which the network is
judged; a test there holds the two together.

A network of a user's own may have been trained on squares of one size, whatever the picture's shape: then its
config.pbtxt says so (`services.deeplearning.networks`), and pictures are brought to that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["STRIDE", "WORKING_SIDE", "Localisation", "Prepared", "centred", "prepared", "restored", "within"]

RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]

WORKING_SIDE: Final = 1024
"""Longest side, in pixels, that the network sees."""
STRIDE: Final = 16
"""Both sides of what the network sees are multiples of this."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The network's input.

    Attributes:
        images: float32 (1, 3, h, w), RGB in 0-255.
        height, width: of the picture in it; what is beyond is filling.
    """

    images: Floats
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Localisation:
    """What the network says about a picture, at its working size.

    Attributes:
        mask: probability that a pixel was edited, float32 (h, w) in 0-1; 0.5 is where it is cut.
        reliability: probability that the mask, so cut, is right there, likewise; None if the network does not tell.
        classes: probabilities by class name, in the network's order; empty if it has none.
    """

    mask: Floats
    reliability: Floats | None
    classes: dict[str, float]


def prepared(rgb: RGB, *, longest_side: int = WORKING_SIDE, square_side: int | None = None) -> Prepared:
    """The network's input of a picture, uint8 (h, w, 3).

    Args:
        rgb: the picture.
        longest_side: it is made smaller, never larger, to have at most so many pixels on its longest side.
        square_side: instead it is made so many pixels wide and high, and loses its shape.
    """
    height, width = rgb.shape[:2]
    if square_side is not None:
        method = cv2.INTER_AREA if square_side < min(height, width) else cv2.INTER_LINEAR
        rgb = np.asarray(cv2.resize(rgb, (square_side, square_side), interpolation=method), np.uint8)
        height = width = square_side
    elif (factor := longest_side / max(height, width)) < 1.0:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
        width, height = size
    filled = cv2.copyMakeBorder(rgb, 0, -height % STRIDE, 0, -width % STRIDE, cv2.BORDER_REFLECT)
    return Prepared(np.ascontiguousarray(filled.transpose(2, 0, 1)[None], dtype=np.float32), height, width)


def within(values: Floats, given: Prepared) -> Floats:
    """A map of the network, float32 (1, h, w), without the filling: (h, w)."""
    return np.ascontiguousarray(values[0, : given.height, : given.width], dtype=np.float32)


def restored(values: Floats, shape: tuple[int, int]) -> Floats:
    """A map (h, w) at the picture's size, (height, width)."""
    if values.shape == shape:
        return values
    return np.asarray(cv2.resize(values, shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def centred(probabilities: Floats, threshold: float) -> Floats:
    """Probabilities in 0-1 moved so that `threshold` (0-1, exclusive) comes out as 0.5; their order stays.

    The odds are divided by those of the threshold.
    """
    if threshold == 0.5:
        return probabilities
    yes, no = probabilities * (1.0 - threshold), (1.0 - probabilities) * threshold
    return np.asarray(yes / (yes + no), np.float32)
