"""How CLIP's image encoder is fed: one square view of the picture, its middle or all of it.

Training (`training.clip`) and serving share this module, so that a head is asked what it was fitted on.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["DEVIATION", "MEAN", "SIDE", "input_tensor", "squeezed_view", "whole_view"]

RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]

SIDE: Final = 224
"""Side of the encoder's square input, in pixels."""
MEAN: Final = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
DEVIATION: Final = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
"""Of CLIP's training pictures, RGB in 0-1 (Radford et al. 2021, arXiv 2103.00020, and its published code)."""


def whole_view(rgb: RGB) -> RGB:
    """All of a picture but what is cut off its longer side: shorter side at 224, the middle square of it.

    Made smaller by area averaging, larger by bicubic interpolation; uint8 (224, 224, 3) of uint8 (h, w, 3).
    """
    height, width = rgb.shape[:2]
    scale = SIDE / min(height, width)
    shape = (max(SIDE, round(width * scale)), max(SIDE, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_CUBIC
    resized = rgb if shape == (width, height) else np.asarray(cv2.resize(rgb, shape, interpolation=method), np.uint8)
    top, left = (resized.shape[0] - SIDE) // 2, (resized.shape[1] - SIDE) // 2
    return np.ascontiguousarray(resized[top : top + SIDE, left : left + SIDE])


def squeezed_view(rgb: RGB) -> RGB:
    """All of a picture, which loses its shape: uint8 (224, 224, 3) of uint8 (h, w, 3).

    Made smaller by area averaging; a picture with a side below 224 by bicubic interpolation.
    """
    method = cv2.INTER_AREA if min(rgb.shape[:2]) >= SIDE else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(rgb, (SIDE, SIDE), interpolation=method), np.uint8)


def input_tensor(view: RGB) -> Floats:
    """The encoder's input of a view: float32 (1, 3, 224, 224), RGB, `(byte / 255 - mean) / deviation`."""
    scaled = (view.astype(np.float32) / np.float32(255.0) - MEAN) / DEVIATION
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], dtype=np.float32)
