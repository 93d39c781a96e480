"""What any network has to beat: error levels, a noise map, and marking everything."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluation.forgery import Encoding

__all__ = ["BASELINES"]

RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]


def _scaled(values: NDArray[np.floating]) -> Floats:
    """Smoothed over a neighbourhood, and stretched from the picture's 1st to its 99th percentile, 0-1."""
    smooth = cv2.blur(np.asarray(values, np.float32), (9, 9))
    low, high = np.percentile(smooth, [1, 99])
    return np.asarray(np.clip((smooth - low) / max(float(high - low), 1e-6), 0.0, 1.0), np.float32)


def error_levels(rgb: RGB) -> Floats:
    """How much each place changes when the picture is saved as JPEG of quality 90 (Krawetz 2007)."""
    again = np.asarray(Image.open(io.BytesIO(Encoding(quality=90).encode(rgb))).convert("RGB"))
    return _scaled(np.abs(rgb.astype(np.int16) - again).mean(axis=2))


def noise_map(rgb: RGB) -> Floats:
    """Local standard deviation of what a median filter takes away (Mahdian 2009, 10.1016/j.imavis.2009.02.001)."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    residual = grey.astype(np.float32) - cv2.medianBlur(grey, 3)
    return _scaled(np.sqrt(cv2.blur(np.square(residual), (9, 9))))


def everything(rgb: RGB) -> Floats:
    """Every pixel is marked."""
    return np.ones(rgb.shape[:2], np.float32)


BASELINES: Final[Mapping[str, Callable[[RGB], Floats]]] = {
    "error levels": error_levels,
    "noise map": noise_map,
    "all ones": everything,
}
"""Heat maps, float32 (h, w) in 0-1, by name."""
