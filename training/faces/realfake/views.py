"""From a patch to what the network sees: one history for real and fake alike.

Every face, whatever it shows, is scaled, encoded and cut by the same distribution, so that size, sharpness and file
format say nothing (the face collections differ in these so much that bytes a pixel tell them apart).
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.forgery import Encoding
from training.data.pictures import read_pixels
from training.faces.facenet import SIDE as CHIP
from training.faces.realfake.patches import CHIP_SHARE, SIDE, chip_matrix

__all__ = ["CELL", "CHIP", "drawn_matrix", "judged_view", "learned_view", "seams"]

RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]

CELL: Final = 8
"""Side of the squares in which seams are told, in pixels."""
_NEAR: Final = 11
"""How wide a seam is, in pixels."""

_SMALLEST: Final = 88
"""Side of the chip in the smallest picture that a face is seen in, in pixels; 171 is that of the patch."""
_UNSCALED: Final = 0.5
"""So often a face stays as large as it is in the patch."""
_LOSSLESS: Final = 0.15
"""So often nothing is lost in encoding, as when a large picture's face is scaled down."""


def judged_view(rgb: RGB, name: str, variant: int) -> RGB:
    """The chip of a patch after the common history, drawn by name and variant: uint8 (160, 160, 3)."""
    digest = hashlib.sha256(f"{name}/{variant}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    return _cut(_saved(_scaled(rgb, rng), rng), chip_matrix(CHIP))


def drawn_matrix(rng: np.random.Generator) -> NDArray[np.float64]:
    """Takes a patch to a chip that is moved, turned and scaled a little."""
    return chip_matrix(
        CHIP,
        turn=float(rng.normal(0, 4)),
        scale=math.exp(rng.normal(0, 0.05)),
        move=(float(rng.normal(0, 0.02)), float(rng.normal(0, 0.02))),
    )


def seams(inside: NDArray[np.bool_], matrix: NDArray[np.float64], *, mirrored: bool) -> Floats:
    """Where the edge of what was put in runs in a view, as the network is to tell it.

    Args:
        inside: of a `Blend`.
        matrix: of the view.
        mirrored: likewise.

    Returns:
        Share of each square of `CELL` pixels that lies near the edge, float32 (20, 20).
    """
    chip = cv2.warpAffine(inside.astype(np.uint8), matrix, (CHIP, CHIP), flags=cv2.INTER_NEAREST)
    near = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_NEAR, _NEAR))
    edge = cv2.morphologyEx(chip, cv2.MORPH_GRADIENT, near).astype(np.float32)
    shares = cv2.resize(edge, (CHIP // CELL, CHIP // CELL), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(shares[:, ::-1] if mirrored else shares, np.float32)


def learned_view(rgb: RGB, rng: np.random.Generator, matrix: NDArray[np.float64], *, mirrored: bool) -> RGB:
    """The same, cut by another matrix, and recoloured, blurred and made noisy a little."""
    picture = _scaled(_recoloured(rgb, rng), rng)
    if rng.random() < 0.12:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.3, 1.2))), np.uint8)
    if rng.random() < 0.12:
        noise = rng.normal(0, rng.uniform(1, 6), (*picture.shape[:2], 1 if rng.random() < 0.5 else 3))
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    picture = _saved(picture, rng)
    if rng.random() < 0.15:
        picture = _saved(picture, rng)
    view = _cut(picture, matrix)
    return np.ascontiguousarray(view[:, ::-1]) if mirrored else view


def _scaled(rgb: RGB, rng: np.random.Generator) -> RGB:
    """As large as the face is in some picture."""
    chip = math.exp(rng.uniform(math.log(_SMALLEST), math.log(SIDE * CHIP_SHARE)))
    if rng.random() < _UNSCALED:
        return rgb
    side = round(chip / CHIP_SHARE)
    way = cv2.INTER_AREA if rng.random() < 0.7 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(rgb, (side, side), interpolation=way), np.uint8)


def _saved(rgb: RGB, rng: np.random.Generator) -> RGB:
    encoding = Encoding.drawn(rng, lowest_quality=55, highest_quality=98)
    if rng.random() < _LOSSLESS:
        return rgb
    if encoding.format == "jpeg":
        # OpenCV's coder is the same library and three times as fast.
        factor = (
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
            if encoding.subsampling == "4:4:4"
            else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
        )
        options = [cv2.IMWRITE_JPEG_QUALITY, encoding.quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
        _, content = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), options)
        return np.ascontiguousarray(np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])
    return rgb if encoding.format == "png" else read_pixels(encoding.encode(rgb))


def _cut(picture: RGB, matrix: NDArray[np.float64]) -> RGB:
    """The chip out of a patch of any size, by a matrix for one of 256 pixels, as the service samples it: bilinearly."""
    back = SIDE / picture.shape[0]
    enlarged = matrix.copy()
    enlarged[:, :2] *= back
    # Middles of pixels lie at 0.5 from a pixel's corner at either size.
    enlarged[:, 2] += matrix[:, :2] @ np.array([0.5 * back - 0.5] * 2)
    return np.asarray(cv2.warpAffine(picture, enlarged, (CHIP, CHIP), flags=cv2.INTER_LINEAR), np.uint8)


def _recoloured(rgb: RGB, rng: np.random.Generator) -> RGB:
    result = rgb
    if rng.random() < 0.3:
        table = np.arange(256) / 255.0
        table = np.power(table, math.exp(rng.normal(0, 0.15))) * math.exp(rng.normal(0, 0.08)) + rng.normal(0, 0.02)
        result = np.asarray(cv2.LUT(result, np.clip(table * 255, 0, 255).astype(np.uint8)), np.uint8)
    if rng.random() < 0.15:
        gains = np.exp(rng.normal(0, 0.06, 3))
        result = np.clip(result * gains, 0, 255).astype(np.uint8)
    if rng.random() < 0.1:
        grey = cv2.cvtColor(result, cv2.COLOR_RGB2GRAY)
        result = np.repeat(grey[..., None], 3, axis=2)
    return np.ascontiguousarray(result)
