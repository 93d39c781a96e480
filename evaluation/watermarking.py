"""The published encoder of generators' invisible marks, written anew: what the decoder is measured and tested with.

What invisible-watermark's method `dwtDct` does: the U plane's low-pass band of one Haar step, in blocks of 4 x 4
coefficients one bit each, row by row; the largest coefficient but the first is moved to a quarter or three quarters of
its step of 36. Its exchange of two high-pass bands is kept.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["embed"]

RGB = NDArray[np.uint8]
Plane = NDArray[np.float64]

STEP: Final = 36


def embed(rgb: RGB, bits: str, *, exchanged: bool = False, floating: bool = False) -> RGB:
    """A marked copy.

    Args:
        rgb: uint8 (h, w, 3).
        bits: the payload as "0" and "1", repeated over the picture.
        exchanged: with red and blue exchanged, as some programs do.
        floating: on floating-point pixels, without YUV's offset of 128, as some programs do.
    """
    bgr = np.ascontiguousarray(rgb if exchanged else rgb[..., ::-1])
    yuv = cv2.cvtColor(bgr.astype(np.float32) if floating else bgr, cv2.COLOR_BGR2YUV)
    height, width = rgb.shape[0] // 4 * 4, rgb.shape[1] // 4 * 4
    low, horizontal, vertical, diagonal = _analysed(yuv[:height, :width, 1].astype(np.float64))
    number = 0
    for row in range(low.shape[0] // 4):
        for column in range(low.shape[1] // 4):
            block = low[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            y, x = divmod(int(np.argmax(np.abs(block.flatten()[1:]))) + 1, 4)
            moved = (abs(block[y, x]) // STEP + 0.25 + 0.5 * int(bits[number % len(bits)])) * STEP
            block[y, x] = moved if block[y, x] >= 0 else -moved
            number += 1
    yuv[:height, :width, 1] = _synthesised(low, vertical, horizontal, diagonal)
    marked = np.clip(np.rint(cv2.cvtColor(yuv, cv2.COLOR_YUV2BGR)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(marked if exchanged else marked[..., ::-1])


def _analysed(plane: Plane) -> tuple[Plane, Plane, Plane, Plane]:
    """One step of the Haar wavelet: low-pass band, and the three high-pass bands."""
    a, b, c, d = plane[0::2, 0::2], plane[0::2, 1::2], plane[1::2, 0::2], plane[1::2, 1::2]
    return (a + b + c + d) / 2, (a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2


def _synthesised(low: Plane, horizontal: Plane, vertical: Plane, diagonal: Plane) -> Plane:
    """The inverse of `_analysed`."""
    plane = np.empty((2 * low.shape[0], 2 * low.shape[1]))
    plane[0::2, 0::2] = (low + horizontal + vertical + diagonal) / 2
    plane[0::2, 1::2] = (low + horizontal - vertical - diagonal) / 2
    plane[1::2, 0::2] = (low - horizontal + vertical - diagonal) / 2
    plane[1::2, 1::2] = (low - horizontal - vertical + diagonal) / 2
    return plane
