"""Scenes with faces of all sizes, tilts and numbers, and without any: the teacher labels them, the network learns them.

Faces are patches of `training.faces.realfake.patches`, turned, scaled and laid on a background with a soft edge; some
overlap, some are partly covered. Backgrounds are photographs, drawings and plain textures, whatever faces they show:
the teacher says what is to be found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from training.faces.realfake.patches import CHIP_SHARE
from training.faces.realfake.patches import SIDE as PATCH

__all__ = ["SceneMaker"]

RGB = NDArray[np.uint8]

SMALLEST_FACE: Final = 16.0
"""Width of the smallest faces, in pixels."""
LARGEST_TILT: Final = 40.0
"""In degrees, either way."""
_FACE_IN_CHIP: Final = 0.86
"""Width of a face, as YuNet frames it, as a share of the chip's side."""
_WITHOUT: Final = 0.15
"""Share of the scenes that get no face."""


class SceneMaker:
    """Makes scenes.

    Args:
        faces: patches, uint8 (256, 256, 3).
        backgrounds: pictures of any size.
        seed: with a scene's number it decides the scene.
    """

    def __init__(self, faces: Sequence[RGB], backgrounds: Sequence[RGB], *, seed: int) -> None:
        if not faces or not backgrounds:
            raise ValueError("scenes need faces and backgrounds")
        self._faces, self._backgrounds, self._seed = faces, backgrounds, seed

    def scene(self, number: int, side: int, *, with_faces: bool | None = None) -> RGB:
        """A scene, uint8 (side, side, 3), RGB.

        Args:
            number: equal numbers give equal scenes.
            side: in pixels.
            with_faces: whether faces are laid on it; None leaves it to chance.
        """
        rng = np.random.default_rng([self._seed, number])
        canvas = self._background(rng, side)
        none = rng.random() < _WITHOUT if with_faces is None else not with_faces
        if not none:
            crowd = rng.random() < 0.25
            for _ in range(int(rng.integers(6, 20)) if crowd else int(rng.integers(1, 5))):
                largest = side / 4 if crowd else side * 0.8
                width = math.exp(rng.uniform(math.log(SMALLEST_FACE), math.log(max(SMALLEST_FACE + 1, largest))))
                canvas = self._with_face(canvas, width, rng)
            if rng.random() < 0.2:
                canvas = _covered(canvas, rng)
        return _worn(canvas, rng)

    def _background(self, rng: np.random.Generator, side: int) -> RGB:
        kind = rng.random()
        if kind < 0.08:
            coarse = int(rng.integers(2, 24))
            noise = rng.integers(0, 256, (coarse, coarse, 3)).astype(np.uint8)
            return np.asarray(cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
        picture = self._backgrounds[int(rng.integers(len(self._backgrounds)))]
        height, width = picture.shape[:2]
        kept = max(8, round(min(height, width) * rng.uniform(0.5, 1.0)))
        top, left = int(rng.integers(0, height - kept + 1)), int(rng.integers(0, width - kept + 1))
        piece = np.ascontiguousarray(picture[top : top + kept, left : left + kept])
        way = cv2.INTER_AREA if kept > side else cv2.INTER_LINEAR
        piece = np.asarray(cv2.resize(piece, (side, side), interpolation=way), np.uint8)
        return np.ascontiguousarray(piece[:, ::-1]) if rng.random() < 0.5 else piece

    def _with_face(self, canvas: RGB, width: float, rng: np.random.Generator) -> RGB:
        patch = np.ascontiguousarray(self._faces[int(rng.integers(len(self._faces)))])
        if rng.random() < 0.5:
            patch = np.ascontiguousarray(patch[:, ::-1])
        scale = width / (PATCH * CHIP_SHARE * _FACE_IN_CHIP)
        while scale < 0.5:
            patch, scale = np.asarray(cv2.pyrDown(patch), np.uint8), scale * 2
        tilt = float(np.clip(rng.normal(0, 14), -LARGEST_TILT, LARGEST_TILT))
        middle = patch.shape[0] / 2
        matrix = np.array(cv2.getRotationMatrix2D((middle, middle), tilt, scale), np.float64)
        matrix[:, 2] += rng.uniform(0.05, 0.95, 2) * canvas.shape[0] - middle
        side = canvas.shape[0]
        placed = cv2.warpAffine(patch, matrix, (side, side), flags=cv2.INTER_LINEAR)
        alpha = cv2.warpAffine(_outline(patch.shape[0], rng), matrix, (side, side), flags=cv2.INTER_LINEAR)[..., None]
        mixed = canvas * (1 - alpha) + placed * alpha
        return np.rint(mixed).astype(np.uint8)


def _outline(side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Which part of a patch is laid on: all of it, or a head's oval; softly."""
    mask = np.zeros((side, side), np.float32)
    if rng.random() < 0.5:
        border = max(1, side // 20)
        mask[border:-border, border:-border] = 1.0
    else:
        axes = round(side * rng.uniform(0.36, 0.46)), round(side * rng.uniform(0.42, 0.48))
        cv2.ellipse(mask, (side // 2, side // 2), axes, 0, 0, 360, 1.0, -1)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), max(0.5, side * rng.uniform(0.005, 0.03))), np.float32)


def _covered(canvas: RGB, rng: np.random.Generator) -> RGB:
    """A few plain things in front."""
    result = canvas.copy()
    side = canvas.shape[0]
    for _ in range(int(rng.integers(1, 4))):
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        x, y = (int(value) for value in rng.integers(0, side, 2))
        if rng.random() < 0.5:
            cv2.line(result, (x, y), tuple(int(v) for v in rng.integers(0, side, 2)), colour, int(rng.integers(2, 14)))
        else:
            width, height = (int(value) for value in rng.integers(side // 30 + 1, side // 5, 2))
            cv2.rectangle(result, (x, y), (x + width, y + height), colour, -1)
    return result


def _worn(canvas: RGB, rng: np.random.Generator) -> RGB:
    """Light, colour, blur, noise and JPEG as pictures have them."""
    result: RGB = canvas
    if rng.random() < 0.5:
        table = np.power(np.arange(256) / 255, math.exp(rng.normal(0, 0.3))) * math.exp(rng.normal(0, 0.15)) * 255
        result = np.asarray(cv2.LUT(result, np.clip(table, 0, 255).astype(np.uint8)), np.uint8)
    if rng.random() < 0.12:
        result = np.repeat(cv2.cvtColor(result, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    if rng.random() < 0.15:
        result = np.asarray(cv2.GaussianBlur(result, (0, 0), float(rng.uniform(0.4, 1.6))), np.uint8)
    if rng.random() < 0.15:
        result = np.clip(result + rng.normal(0, rng.uniform(2, 12), result.shape), 0, 255).astype(np.uint8)
    if rng.random() < 0.6:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 96))]
        _, content = cv2.imencode(".jpg", np.ascontiguousarray(result[..., ::-1]), quality)
        decoded = cv2.imdecode(content, cv2.IMREAD_COLOR)
        assert decoded is not None
        result = np.ascontiguousarray(decoded[..., ::-1], np.uint8)
    return np.ascontiguousarray(result)
