"""Which of two equal regions is the copy.

- A copy that was rotated or rescaled was interpolated, which takes away its finest detail.
- What was pasted ends where its surroundings do not: along its outline there is a seam. Around the source the picture
  goes on.

Both are hints. The answer names the side that they favour, and how clearly.
"""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np

from services.passive.detectors._copy_move.geometry import Mask, Plane

__all__ = ["source_is_first"]

SEAM_WIDTH: Final = 7
"""Width, in pixels, of the band along the outline in which a seam is sought: masks are not exact."""


def source_is_first(grey: Plane, first: Mask, second: Mask, *, resampled: bool) -> tuple[bool, float]:
    """Whether the first region is the source, and how clearly the hints say so (0 is not at all, 1 is a factor of 2).

    Args:
        grey: float32 (h, w).
        first: one of the two regions, bool (h, w).
        second: the other one.
        resampled: whether one is a rotated, mirrored or rescaled version of the other.
    """
    sharp = math.log2((_sharpness(grey, first) + 0.1) / (_sharpness(grey, second) + 0.1))
    seam = math.log2((_seam(grey, second) + 0.5) / (_seam(grey, first) + 0.5))
    hint = sharp + seam if resampled else seam
    return hint >= 0.0, min(1.0, abs(hint))


def _window(mask: Mask, margin: int) -> tuple[slice, slice]:
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return slice(max(0, y - margin), y + height + margin), slice(max(0, x - margin), x + width + margin)


def _sharpness(grey: Plane, mask: Mask) -> float:
    """Mean square of the finest detail (sigma 1 pixel) under the mask."""
    if not mask.any():
        return 0.0
    part = _window(mask, 4)
    detail = grey[part] - cv2.GaussianBlur(grey[part], (0, 0), 1.0)
    inner = cv2.erode(mask[part].astype(np.uint8), np.ones((SEAM_WIDTH, SEAM_WIDTH), np.uint8)) > 0
    return float(np.mean(detail[inner if inner.any() else mask[part]] ** 2))


def _seam(grey: Plane, mask: Mask) -> float:
    """Steepest change across the outline, mean along it, in grey levels a pixel; without what lies on the border."""
    if not mask.any():
        return 0.0
    part = _window(mask, 2 * SEAM_WIDTH)
    inside = mask[part].astype(np.uint8)
    soft = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 3.0)
    normal_x, normal_y = cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)
    length = cv2.magnitude(normal_x, normal_y) + np.float32(1e-6)
    slope_x = cv2.Sobel(grey[part], cv2.CV_32F, 1, 0, scale=0.125)
    slope_y = cv2.Sobel(grey[part], cv2.CV_32F, 0, 1, scale=0.125)
    across = np.abs(slope_x * normal_x + slope_y * normal_y) / length
    steepest = cv2.dilate(across, np.ones((SEAM_WIDTH, SEAM_WIDTH), np.uint8))
    edge = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    edge[:2] = edge[-2:] = edge[:, :2] = edge[:, -2:] = False
    return float(steepest[edge].mean()) if edge.any() else 0.0
