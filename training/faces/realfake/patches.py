"""Faces with what surrounds them, cut once and kept: what samples for training and judging are made of.

A patch is the service's own aligned chip (`services.faces.alignment.face_chip`), enlarged about its middle by
`CONTEXT`: upright, eyes at fixed places, so that a face may be moved, turned and blended before the chip is cut.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from services.faces.alignment import face_chip
from services.faces.face import Landmarks
from training.data.build import picture_path
from training.data.manifest import Row
from training.data.pictures import cropped, read_pixels
from training.faces.finding import PublishedYuNet, ServedYuNet
from training.features import in_turns

__all__ = [
    "CHIP_SHARE",
    "CONTEXT",
    "SIDE",
    "Patch",
    "PatchStore",
    "chip_matrix",
    "chosen_rows",
    "cut_patch",
    "landmark_places",
]

RGB = NDArray[np.uint8]

SIDE: Final = 256
"""Of a patch, in pixels."""
CONTEXT: Final = 1.5
"""How much larger a patch is than the chip in its middle."""
CHIP_SHARE: Final = 1 / CONTEXT
_SMALLEST_CHIP: Final = 56.0
"""Of a face in its picture, in pixels; smaller ones are left out."""

MOST: Final[Mapping[str, int]] = {"real_face": 300, "fake_face": 500, "generated": 6}
"""Pictures of one maker, source and split, at most, by kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """What is known about a patch.

    Attributes:
        id, kind, maker, source, group, split: of its picture in the manifest.
        chip: side of the chip in the picture's pixels: above 160 the service scales the face down.
        confidence: of the finder.
    """

    id: str
    kind: str
    maker: str
    source: str
    group: str
    split: str
    chip: float
    confidence: float


_COLUMNS: Final = tuple(field.name for field in fields(Patch))


class PatchStore:
    """Shards of patches in a folder: `<n>.npy`, uint8 (m, 256, 256, 3), and `<n>.csv`.

    One process writes, any may read.

    Pictures without a usable face are in `<n>.csv` too, with an empty `chip`: they are not looked at again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def done(self) -> set[str]:
        """Ids of the pictures that were looked at."""
        return {line["id"] for path in self._shards() for line in _lines(path)}

    def add(self, found: Sequence[tuple[Patch, RGB]], without: Sequence[str]) -> None:
        """Keeps patches, and the ids of pictures without a face, in a new shard: complete or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{len(self._shards()):05d}"
        pixels = np.stack([rgb for _, rgb in found]) if found else np.zeros((0, SIDE, SIDE, 3), np.uint8)
        np.save(self._folder / f"{name}.npy", pixels)
        part = self._folder / f"{name}.part"
        with part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows(astuple(patch) for patch, _ in found)
            writer.writerows([name, *[""] * (len(_COLUMNS) - 1)] for name in without)
        part.replace(self._folder / f"{name}.csv")

    def read(self) -> tuple[list[Patch], list[RGB]]:
        """All patches and their pixels, mapped, not read."""
        patches: list[Patch] = []
        pixels: list[RGB] = []
        for path in self._shards():
            shard = np.load(path.with_suffix(".npy"), mmap_mode="r")
            here = [line for line in _lines(path) if line["chip"]]
            patches += [
                Patch(**{**line, "chip": float(line["chip"]), "confidence": float(line["confidence"])})  # type: ignore[arg-type]
                for line in here
            ]
            pixels += [shard[index] for index in range(len(here))]
        return patches, pixels

    def _shards(self) -> list[Path]:
        return sorted(self._folder.glob("*.csv")) if self._folder.is_dir() else []


def _lines(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def chosen_rows(rows: Sequence[Row]) -> list[Row]:
    """At most `MOST` of each maker, source and split; makers and sources in turns: any beginning is balanced."""
    taken: dict[tuple[str, str, str, str], int] = defaultdict(int)
    chosen = []
    for row in in_turns([row for row in rows if row.kind in MOST]):
        place = (row.kind, row.maker, row.source, row.split)
        if taken[place] < MOST[row.kind]:
            taken[place] += 1
            chosen.append(row)
    return chosen


def cut_patch(row: Row, data: Path, finder: PublishedYuNet | ServedYuNet) -> tuple[Patch, RGB] | None:
    """The patch of a picture's largest face, as a finder places it; None where none is found, or it is too small.

    Raises:
        UnreadablePicture, OSError: the picture cannot be had.
    """
    rgb = cropped(read_pixels(picture_path(data, row).read_bytes()), row.box)
    face = max(finder.find(rgb), key=lambda face: face.box.area, default=None)
    if face is None or face.landmarks is None:
        return None
    chip = _chip_side(face.landmarks)
    if chip < _SMALLEST_CHIP:
        return None
    patch = Patch(
        id=row.id,
        kind=row.kind,
        maker=row.maker,
        source=row.source,
        group=row.group,
        split=row.split,
        chip=round(chip, 1),
        confidence=round(face.confidence, 3),
    )
    return patch, face_chip(np.ascontiguousarray(rgb), face, SIDE, zoom=CHIP_SHARE)


def _chip_side(landmarks: Landmarks) -> float:
    """Of the service's chip, in the picture's pixels: the eyes are 0.38 of it apart."""
    x, y = landmarks.left_eye.x - landmarks.right_eye.x, landmarks.left_eye.y - landmarks.right_eye.y
    return float(np.hypot(x, y)) / 0.38


def landmark_places() -> dict[str, tuple[float, float]]:
    """Where eyes, nose and mouth lie in a patch, in pixels: (x, y)."""
    in_chip = {"right_eye": (0.31, 0.303), "left_eye": (0.69, 0.303), "nose": (0.5, 0.53), "mouth": (0.505, 0.717)}
    return {name: _in_patch(x, y) for name, (x, y) in in_chip.items()}


def _in_patch(x: float, y: float) -> tuple[float, float]:
    return (0.5 + (x - 0.5) * CHIP_SHARE) * SIDE, (0.5 + (y - 0.5) * CHIP_SHARE) * SIDE


def chip_matrix(
    side: int, *, turn: float = 0.0, scale: float = 1.0, move: tuple[float, float] = (0.0, 0.0)
) -> NDArray[np.float64]:
    """Takes a patch to its chip of `side` pixels; the face may be turned (degrees), scaled, moved by shares of it."""
    middle = (SIDE - 1) / 2
    matrix = np.array(cv2.getRotationMatrix2D((middle, middle), turn, scale * side / (SIDE * CHIP_SHARE)), np.float64)
    matrix[:, 2] += (side - 1) / 2 - middle + np.array(move) * side
    return matrix
