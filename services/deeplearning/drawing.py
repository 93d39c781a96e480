"""Draws a mask as document 001 shows it: the mask, the picture with it in green, and the picture where it is.

Pixel work: for a thread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from services.common.images import encode_png
from services.deeplearning.localisation import restored

__all__ = ["MAX_DRAWN_PIXELS", "Drawn", "draw"]

RGB = NDArray[np.uint8]

GREEN: Final = np.array([0, 255, 0], np.float32)
OPACITY: Final = 0.5
"""Of the green over what is marked: the picture stays visible below it."""
MAX_DRAWN_PIXELS: Final = 6_000_000
"""Most pixels of the two drawings that show the picture: as PNG they have up to 3 bytes a pixel, and all three
together must pass through gRPC and, as base64, through the edge (64 MiB each)."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Three PNG files.

    Attributes:
        mask_png: 8-bit grey at the picture's size; 255 is marked, 0 is not.
        overlay_png: the picture, green where it is marked; at most `MAX_DRAWN_PIXELS`.
        masked_image_png: the picture where it is marked, black elsewhere; likewise.
        share: of the picture that is marked, 0-1.
    """

    mask_png: bytes
    overlay_png: bytes
    masked_image_png: bytes
    share: float


def draw(rgb: RGB, mask: NDArray[np.float32], *, threshold: float) -> Drawn:
    """Draws a mask over its picture.

    Args:
        rgb: the picture, uint8 (h, w, 3).
        mask: float32 in 0-1, of any resolution over the whole picture.
        threshold: 0-1; a place at or above it is marked.
    """
    whole = restored(mask, (rgb.shape[0], rgb.shape[1])) >= threshold
    small, marked = _drawable(rgb, whole)
    overlay = small.copy()
    overlay[marked] = np.rint((1.0 - OPACITY) * small[marked] + OPACITY * GREEN).astype(np.uint8)
    return Drawn(
        mask_png=encode_png(whole.astype(np.uint8) * 255),
        overlay_png=encode_png(overlay),
        masked_image_png=encode_png(np.where(marked[..., None], small, np.uint8(0))),
        share=float(whole.mean()),
    )


def _drawable(rgb: RGB, marked: NDArray[np.bool_]) -> tuple[RGB, NDArray[np.bool_]]:
    """Both at a size that can be sent."""
    height, width = marked.shape
    scale = math.sqrt(MAX_DRAWN_PIXELS / (height * width))
    if scale >= 1.0:
        return rgb, marked
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    small = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    thin = cv2.resize(marked.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return small, np.asarray(thin, np.uint8) > 0
