"""What happens to a picture between its making and its arrival: one distribution for pristine and forged alike.

Resized, blurred or sharpened, noise added, saved once or twice as JPEG or WebP. Without it a network learns the encoder
of a data set, not the forgery.
"""

from __future__ import annotations

import io
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluation.forgery import Encoding

__all__ = ["MARGIN", "encoded", "encoded_gently", "first_encoding", "resized", "saved", "soften"]

RGB = NDArray[np.uint8]
Mask = NDArray[np.bool_]

MARGIN: Final = 8
"""Pixels that a crop is cut larger by, so that its JPEG grid can begin anywhere."""


def saved(rgb: RGB, encoding: Encoding) -> RGB:
    """The pixels after being saved and opened again."""
    return np.asarray(Image.open(io.BytesIO(encoding.encode(rgb))).convert("RGB"))


def first_encoding(rgb: RGB, rng: np.random.Generator) -> RGB:
    """The picture as the forger found it: half of the time saved before, at a quality of 60 to 98."""
    if rng.random() < 0.5:
        return rgb
    return saved(rgb, Encoding(quality=int(rng.integers(60, 99))))


def resized(rgb: RGB, mask: Mask, rng: np.random.Generator, smallest: int) -> tuple[RGB, Mask]:
    """A quarter of the time at another size, 0.5 to 1.4 times; no side gets shorter than `smallest`."""
    if rng.random() >= 0.25:
        return rgb, mask
    height, width = mask.shape
    factor = max(float(rng.uniform(0.5, 1.4)), smallest / min(height, width))
    size = max(smallest, round(width * factor)), max(smallest, round(height * factor))
    enlarging = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)[int(rng.integers(2))]
    method = cv2.INTER_AREA if factor < 1 else enlarging
    small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    return np.asarray(cv2.resize(rgb, size, interpolation=method), np.uint8), np.asarray(small > 0.5)


def soften(rgb: RGB, rng: np.random.Generator) -> RGB:
    """Seldom blurred (standard deviation 0.3-1.2) or noisy (1-6 grey levels)."""
    kind = rng.random()
    if kind < 0.06:
        return np.asarray(cv2.GaussianBlur(rgb, (0, 0), float(rng.uniform(0.3, 1.2))), np.uint8)
    if kind < 0.12:
        noise = rng.standard_normal(rgb.shape, dtype=np.float32) * np.float32(rng.uniform(1.0, 6.0))
        return np.asarray(np.rint(np.clip(rgb + noise, 0, 255)), np.uint8)
    return rgb


def encoded(rgb: RGB, rng: np.random.Generator) -> RGB:
    """Saved as pictures on the web are, at a quality of 60 to 100, seldom twice."""
    for _ in range(2 if rng.random() < 0.15 else 1):
        rgb = saved(rgb, Encoding.drawn(rng, highest_quality=100))
    return rgb


def encoded_gently(rgb: RGB, rng: np.random.Generator) -> RGB:
    """Saved once, at a quality of 90 to 100: what a network sees more of at first."""
    return saved(rgb, Encoding.drawn(rng, lowest_quality=90, highest_quality=100))
