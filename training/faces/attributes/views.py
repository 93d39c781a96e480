"""From a patch to a chip that is learned from: moved, turned, recoloured, blurred and compressed as pictures are."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from training.faces.attributes.faces import CHIP, CONTEXT, SIDE

__all__ = ["learned_view"]

RGB = NDArray[np.uint8]


def learned_view(patch: RGB, rng: np.random.Generator) -> RGB:
    """A chip of a patch, uint8 (64, 64, 3).

    Args:
        patch: uint8 (112, 112, 3).
        rng: draws what happens to it.
    """
    picture = _recoloured(patch, rng)
    if rng.random() < 0.3:
        picture = _small(picture, rng)
    if rng.random() < 0.4:
        picture = _saved(picture, rng)
    view = _cut(picture, rng)
    if rng.random() < 0.1:
        view = np.asarray(cv2.GaussianBlur(view, (0, 0), float(rng.uniform(0.3, 0.9))), np.uint8)
    if rng.random() < 0.1:
        view = np.clip(view + rng.normal(0, rng.uniform(1, 8), view.shape), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(view[:, ::-1]) if rng.random() < 0.5 else view


def _cut(picture: RGB, rng: np.random.Generator) -> RGB:
    scale = CHIP / (SIDE / CONTEXT) * math.exp(rng.normal(0, 0.05))
    middle = (SIDE - 1) / 2
    matrix = np.array(cv2.getRotationMatrix2D((middle, middle), float(rng.normal(0, 5)), scale), np.float64)
    matrix[:, 2] += (CHIP - 1) / 2 - middle + rng.normal(0, 0.02, 2) * CHIP
    return np.asarray(cv2.warpAffine(picture, matrix, (CHIP, CHIP), flags=cv2.INTER_LINEAR), np.uint8)


def _small(picture: RGB, rng: np.random.Generator) -> RGB:
    """As a face that is small in its picture: 30 to 100 pixels in the patch."""
    side = int(rng.integers(30, 100))
    less = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(less, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), np.uint8)


def _saved(picture: RGB, rng: np.random.Generator) -> RGB:
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))]
    _, content = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), quality)
    decoded = np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1])


def _recoloured(rgb: RGB, rng: np.random.Generator) -> RGB:
    result = rgb
    if rng.random() < 0.5:
        table = np.power(np.arange(256) / 255.0, math.exp(rng.normal(0, 0.2))) * math.exp(rng.normal(0, 0.1))
        result = np.asarray(cv2.LUT(result, np.clip(table * 255, 0, 255).astype(np.uint8)), np.uint8)
    if rng.random() < 0.3:
        gains = np.exp(rng.normal(0, 0.08, 3))
        result = np.clip(result * gains, 0, 255).astype(np.uint8)
    if rng.random() < 0.1:
        result = np.repeat(cv2.cvtColor(result, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    return np.ascontiguousarray(result)
