"""Faces that are partly another's, or partly their own, changed: what a swap leaves, without anybody's deepfake.

A region about the landmarks (the whole face, its lower half, eyes, nose, mouth) is pasted from another face, or from a
changed copy of the same one, its colours drawn towards those that were there, its edge feathered or blended in the
gradients.

References:
    K. Shiohara, T. Yamasaki, "Detecting deepfakes with self-blended images", 2022. 10.1109/CVPR52688.2022.01816
    L. Li et al., "Face X-ray for more general face forgery detection", 2020. 10.1109/CVPR42600.2020.00505
    E. Reinhard et al., "Color transfer between images", 2001. 10.1109/38.946629
    P. Pérez et al., "Poisson image editing", 2003. 10.1145/1201775.882269
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.forgery import Encoding
from training.data.pictures import read_pixels
from training.faces.realfake.patches import SIDE, landmark_places

__all__ = ["Blend", "Region", "blended"]

RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]

Region = Literal["face", "lower", "eyes", "eye", "nose", "mouth"]
_REGIONS: Final[tuple[Region, ...]] = get_args(Region)
_ODDS: Final = (0.27, 0.12, 0.20, 0.10, 0.13, 0.18)
"""Of the regions: who puts faces together by hand takes eyes, nose and mouth more often than all of it."""
_LEAST_CHANGE: Final = 2.0
"""Mean difference of the bytes within the region: less is no forgery to be learned."""


@dataclass(frozen=True, slots=True)
class Blend:
    """A patch with a part of another face, or of its own.

    Attributes:
        rgb: uint8 (256, 256, 3).
        inside: where more than half is what was put in, bool (256, 256).
    """

    rgb: RGB
    inside: NDArray[np.bool_]


def blended(target: RGB, donor: RGB | None, rng: np.random.Generator) -> Blend | None:
    """A patch with a part of another face, or of its own.

    Args:
        target: uint8 (256, 256, 3), a patch.
        donor: another patch; None blends the face with itself.
        rng: where chance comes from.

    Returns:
        What was made, and where; None if hardly anything changed.
    """
    alpha = _mask(rng)
    inserted = _changed(target if donor is None else donor, rng)
    if _is_grey(target):
        # A tinted part of a grey picture would be no riddle.
        inserted = _grey(inserted)
    inside = alpha > 0.5
    if not inside.any():
        return None
    if donor is not None or rng.random() < 0.3:
        inserted = _coloured_like(inserted, target, inside, float(rng.uniform(0.5, 1.0)))
    if rng.random() < 0.2:
        result = _gradients_blended(target, inserted, inside)
    else:
        mixed = target + alpha[..., None] * (inserted.astype(np.float32) - target)
        result = np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)
    if float(np.abs(result[inside].astype(np.int16) - target[inside]).mean()) < _LEAST_CHANGE:
        return None
    return Blend(result, inside)


def _mask(rng: np.random.Generator) -> Floats:
    """How much of the donor shows, 0-1: one region, or two, bent and feathered."""
    mask = np.zeros((SIDE, SIDE), np.float32)
    chosen: list[Region] = [_REGIONS[int(rng.choice(len(_REGIONS), p=_ODDS))]]
    if chosen[0] not in {"face", "lower"} and rng.random() < 0.4:
        chosen.append(_REGIONS[int(rng.integers(2, len(_REGIONS)))])
    for region in chosen:
        x, y, across, down = _ellipse(region, rng)
        angles = np.arange(40) * 2 * np.pi / 40
        radii = np.ones(40)
        for order in range(2, 6):
            radii += rng.normal(0.0, 0.10 / order) * np.cos(order * angles + rng.uniform(0, 2 * np.pi))
        points = np.stack([x + across * radii * np.cos(angles), y + down * radii * np.sin(angles)], axis=1)
        cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 1.0)
    sigma = math.exp(rng.uniform(math.log(0.7), math.log(9.0)))
    opacity = float(rng.choice([0.75, 1.0, 1.0, 1.0]))
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), sigma) * opacity, np.float32)


def _ellipse(region: Region, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A region's middle and half axes, in pixels, about where the landmarks are."""
    places = landmark_places()
    (right_x, eyes_y), (left_x, _) = places["right_eye"], places["left_eye"]
    mouth_x, mouth_y = places["mouth"]
    nose_x, nose_y = places["nose"]
    between = left_x - right_x
    sizes: dict[Region, tuple[float, float, float, float]] = {
        "face": ((right_x + left_x) / 2, (eyes_y + mouth_y) / 2, 0.98 * between, 1.25 * between),
        "lower": (mouth_x, (nose_y + mouth_y) / 2 + 0.15 * between, 0.85 * between, 0.75 * between),
        "eyes": ((right_x + left_x) / 2, eyes_y, 0.9 * between, 0.34 * between),
        "eye": (right_x if rng.random() < 0.5 else left_x, eyes_y, 0.4 * between, 0.3 * between),
        "nose": (nose_x, nose_y - 0.1 * between, 0.36 * between, 0.5 * between),
        "mouth": (mouth_x, mouth_y, 0.52 * between, 0.32 * between),
    }
    x, y, across, down = sizes[region]
    moved = rng.normal(0.0, 0.04 * between, 2)
    stretched = np.exp(rng.normal(0.0, 0.10, 2))
    return x + moved[0], y + moved[1], across * stretched[0], down * stretched[1]


def _changed(rgb: RGB, rng: np.random.Generator) -> RGB:
    """The donor with other colours, sharpness, history and geometry than the picture that it goes into."""
    result = rgb
    if rng.random() < 0.7:
        # Much seldom: a green mouth teaches nothing about faces that somebody took pains with.
        much = rng.random()
        gains = np.exp(much * (rng.normal(0.0, 0.05, 3) + rng.normal(0.0, 0.05)))
        result = np.clip(result * gains + much * rng.uniform(-10, 10, 3), 0, 255).astype(np.uint8)
    kind = rng.random()
    if kind < 0.4:
        # Generators of faces work at a size of their own.
        small_side = round(SIDE * float(rng.uniform(0.3, 0.8)))
        small = cv2.resize(result, (small_side, small_side), interpolation=cv2.INTER_AREA)
        result = np.asarray(cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.uint8)
    elif kind < 0.65:
        soft = cv2.GaussianBlur(result, (0, 0), float(rng.uniform(0.6, 2.0))).astype(np.float32)
        amount = float(rng.uniform(-0.8, 0.9))
        result = np.clip(soft + (result - soft) * (1.0 - amount), 0, 255).astype(np.uint8)
    elif kind < 0.8:
        result = read_pixels(Encoding(quality=int(rng.integers(35, 85))).encode(result))
    middle = (SIDE / 2, SIDE / 2)
    matrix = np.array(
        cv2.getRotationMatrix2D(middle, rng.uniform(-5, 5), math.exp(rng.uniform(-0.06, 0.06))), np.float64
    )
    matrix[:, 2] += rng.uniform(-0.025, 0.025, 2) * SIDE
    return np.asarray(
        cv2.warpAffine(result, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    )


def _is_grey(rgb: RGB) -> bool:
    return int(np.ptp(rgb[::8, ::8].astype(np.int16), axis=2).max()) < 3


def _grey(rgb: RGB) -> RGB:
    return np.repeat(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def _coloured_like(rgb: RGB, target: RGB, inside: NDArray[np.bool_], share: float) -> RGB:
    """Means and deviations of the three planes of CIELAB drawn towards the target's within the region."""
    from_lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.float32)
    to_lab = cv2.cvtColor(target, cv2.COLOR_RGB2LAB).astype(np.float32)
    source, wanted = from_lab[inside], to_lab[inside]
    ratio = np.clip(wanted.std(axis=0) / np.maximum(source.std(axis=0), 1.0), 0.5, 2.0)
    moved = (from_lab - source.mean(axis=0)) * ratio + wanted.mean(axis=0)
    mixed = from_lab + share * (moved - from_lab)
    return np.asarray(cv2.cvtColor(np.clip(mixed, 0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB), np.uint8)


def _gradients_blended(target: RGB, inserted: RGB, inside: NDArray[np.bool_]) -> RGB:
    mask = (inside * np.uint8(255)).astype(np.uint8)
    mask[:2], mask[-2:], mask[:, :2], mask[:, -2:] = 0, 0, 0, 0
    left, top, width, height = cv2.boundingRect(mask)
    # OpenCV lays the middle of the mask's bounding box here; so what is pasted stays where it was.
    centre = (left + width // 2, top + height // 2)
    return np.asarray(cv2.seamlessClone(inserted, target, mask, centre, cv2.NORMAL_CLONE), np.uint8)
