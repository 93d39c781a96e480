"""Self-blended faces: a face is pasted over itself, slightly changed.

A face swap leaves a seam between two pictures whose colour, sharpness and geometry differ a little. Blending a picture
with a changed copy of itself leaves that seam and nothing else to learn (Shiohara & Yamasaki 2022,
10.1109/CVPR52688.2022.01816).
"""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.forgery import Encoding
from training.localisation.post_process import saved

__all__ = ["self_blended"]

RGB = NDArray[np.uint8]
Mask = NDArray[np.bool_]
_OPAQUE: Final = 0.35
"""Blended by more than this, a pixel counts as forged."""


def self_blended(
    rgb: RGB, face: tuple[float, float, float, float], rng: np.random.Generator
) -> tuple[RGB, Mask] | None:
    """A face swap's traces at a face.

    Args:
        rgb: uint8 (h, w, 3).
        face: the face's box, (left, top, right, bottom) in pixels.
        rng: where chance comes from.

    Returns:
        The picture and what was changed, bool (h, w); None where the face is too small or nothing changed.
    """
    left, top, right, bottom = face
    width, height = right - left, bottom - top
    if min(width, height) < 24:
        return None
    alpha = _blending_mask(rgb.shape[:2], face, rng)
    changed = _changed(rgb, face, rng).astype(np.float32)
    mixed = rgb + alpha[..., None] * (changed - rgb)
    image = np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)
    mask = alpha > _OPAQUE
    if not mask.any() or float(np.abs(image[mask].astype(np.int16) - rgb[mask]).mean()) < 2.0:
        return None
    return image, mask


def _blending_mask(
    shape: tuple[int, ...], face: tuple[float, float, float, float], rng: np.random.Generator
) -> NDArray[np.float32]:
    """A face's outline, bent and feathered, 0-1: the whole face, or the part from the brows down."""
    left, top, right, bottom = face
    centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
    across, down = (right - left) / 2 * rng.uniform(0.7, 1.0), (bottom - top) / 2 * rng.uniform(0.75, 1.0)
    angles = np.arange(48) * 2 * np.pi / 48
    radii = np.ones(48)
    for order in range(2, 6):
        radii += rng.normal(0.0, 0.10 / order) * np.cos(order * angles + rng.uniform(0, 2 * np.pi))
    points = np.stack([centre_x + across * radii * np.cos(angles), centre_y + down * radii * np.sin(angles)], axis=1)
    if rng.random() < 0.4:
        points[:, 1] = np.maximum(points[:, 1], centre_y - down * rng.uniform(0.2, 0.6))
    mask = np.zeros(shape[:2], np.float32)
    cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 1.0)
    sigma = rng.uniform(0.01, 0.06) * (right - left)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), max(0.5, sigma)) * rng.choice([0.75, 1.0, 1.0, 1.0]), np.float32)


def _changed(rgb: RGB, face: tuple[float, float, float, float], rng: np.random.Generator) -> RGB:
    """The picture with other colours, sharpness, history or geometry about the face."""
    left, top, right, bottom = face
    result: RGB = rgb
    if rng.random() < 0.8:
        gains = rng.uniform(0.88, 1.12, 3) * rng.uniform(0.9, 1.1)
        shifts = rng.uniform(-12, 12, 3)
        result = np.clip(result * gains + shifts, 0, 255).astype(np.uint8)
    kind = rng.random()
    if kind < 0.35:
        # Generators of faces work at a size of their own.
        factor = float(rng.uniform(0.35, 0.8))
        small = cv2.resize(result, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        result = np.asarray(cv2.resize(small, rgb.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
    elif kind < 0.6:
        soft = cv2.GaussianBlur(result, (0, 0), float(rng.uniform(0.6, 2.0))).astype(np.float32)
        amount = float(rng.uniform(-1.0, 0.8))
        result = np.clip(soft + (result - soft) * (1.0 - amount), 0, 255).astype(np.uint8)
    elif kind < 0.75:
        result = saved(result, Encoding(quality=int(rng.integers(35, 85))))
    angle, scale = rng.uniform(-6, 6), math.exp(rng.uniform(-0.06, 0.06))
    matrix = np.array(cv2.getRotationMatrix2D(((left + right) / 2, (top + bottom) / 2), angle, scale), np.float64)
    matrix[:, 2] += rng.uniform(-0.04, 0.04, 2) * (right - left)
    return np.asarray(
        cv2.warpAffine(result, matrix, rgb.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101),
        np.uint8,
    )
