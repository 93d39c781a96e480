"""Decoded pictures on disk: decoding once is what makes training on two cores possible.

Each picture is one file of uint8 pixels, mapped into memory, at most `MAX_SIDE` pixels long.
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from services.common.detection import Technique
from training.data.pictures import UnreadablePicture, cropped, read_pixels
from training.localisation.listing import Kind, Listed

__all__ = ["MAX_SIDE", "Store", "Stored", "open_store"]

RGB = NDArray[np.uint8]
Mask = NDArray[np.bool_]

MAX_SIDE: Final = 1024
"""Longest side kept, in pixels: the working size of inference."""
MIN_SIDE: Final = 128
"""Pictures with a shorter side are left out: no crop fits."""
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A decoded picture.

    Attributes:
        pixels: file of the pixels, uint8 (h, w, 3) or with the mask as a fourth plane (0 or 255).
        kind, technique, group, split, origin: as in `Listed`.
        objects: polygons of objects, each (n, 2) as fractions of width and height.
        face: the largest face's box (left, top, right, bottom) as fractions; None where none was looked for or found.
    """

    pixels: Path
    kind: Kind
    technique: Technique | None
    group: str
    split: str
    origin: str
    objects: tuple[tuple[tuple[float, float], ...], ...] = ()
    face: Box | None = None

    def read(self) -> tuple[RGB, Mask | None]:
        """The pixels and, of a forgery, its mask; mapped, not read."""
        planes = np.load(self.pixels, mmap_mode="r")
        return planes[..., :3], (planes[..., 3] > 127 if planes.shape[2] == 4 else None)


Store = list[Stored]


def open_store(rows: list[Listed], folder: Path, *, faces: Path | None = None) -> Store:
    """Decodes what is not decoded yet; pictures that cannot be read or are too small are left out.

    Args:
        rows: the pictures.
        folder: where decoded pictures are kept.
        faces: YuNet's ONNX file, to find the face in pictures of faces; without it they are taken as aligned portraits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    detector = cv2.FaceDetectorYN.create(str(faces), "", (320, 320), 0.7) if faces else None
    store: Store = []
    for row in tqdm(rows, desc="decoding", disable=None):
        name = hashlib.sha256(
            f"{row.picture.resolve()} {row.picture.stat().st_size}{row.crop or ''}".encode()
        ).hexdigest()[:20]
        pixels, facts = folder / f"{name}.npy", folder / f"{name}.json"
        if not facts.exists():
            facts.write_text(json.dumps(_decode(row, pixels, detector)))
        known = json.loads(facts.read_text())
        if known["usable"]:
            store.append(
                Stored(
                    pixels=pixels,
                    kind=row.kind,
                    technique=row.technique,
                    group=row.group,
                    split=row.split,
                    origin=row.origin,
                    objects=tuple(tuple((x, y) for x, y in polygon) for polygon in known["objects"]),
                    face=tuple(known["face"]) if known["face"] else None,
                )
            )
    return store


def _decode(row: Listed, target: Path, detector: cv2.FaceDetectorYN | None) -> dict[str, object]:
    try:
        whole = read_pixels(row.picture.read_bytes())
    except UnreadablePicture:
        return {"usable": False}
    rgb = np.asarray(cropped(whole, row.crop))
    height, width = rgb.shape[:2]
    if min(height, width) < MIN_SIDE:
        return {"usable": False}
    factor = min(1.0, MAX_SIDE / max(height, width))
    size = round(width * factor), round(height * factor)
    if factor < 1.0:
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    planes = rgb
    if row.mask is not None:
        try:
            mask = cv2.cvtColor(read_pixels(row.mask.read_bytes()), cv2.COLOR_RGB2GRAY)
        except UnreadablePicture:
            return {"usable": False}
        if mask.shape != whole.shape[:2]:
            return {"usable": False}
        forged = (_cropped_plane(mask, row.crop) > 127).astype(np.float32)
        if factor < 1.0:
            forged = cv2.resize(forged, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        planes = np.concatenate([rgb, ((forged > 0.5) * np.uint8(255))[..., None]], axis=2)
    # Only once it is complete does it get its name.
    partial = target.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, np.ascontiguousarray(planes))
    partial.replace(target)
    face = _largest_face(rgb, detector) if detector is not None and row.kind == "face" else None
    return {"usable": True, "objects": _objects(row.picture), "face": face}


def _cropped_plane(mask: NDArray[Any], crop: Box | None) -> NDArray[np.uint8]:
    return np.asarray(cropped(np.repeat(mask[..., None], 3, axis=2), crop)[..., 0])


def _largest_face(rgb: RGB, detector: cv2.FaceDetectorYN) -> list[float] | None:
    height, width = rgb.shape[:2]
    factor = min(1.0, 480 / max(height, width))
    small = cv2.resize(rgb, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA)
    detector.setInputSize((small.shape[1], small.shape[0]))
    # OpenCV's types do not tell that there may be no face.
    found: Any
    _, found = detector.detect(np.ascontiguousarray(small[..., ::-1]))
    if found is None:
        return None
    left, top, across, down = (float(value) for value in max(found, key=lambda face: float(face[2] * face[3]))[:4])
    sides = small.shape[1], small.shape[0]
    return [left / sides[0], top / sides[1], (left + across) / sides[0], (top + down) / sides[1]]


def _objects(picture: Path) -> list[list[list[float]]]:
    """Polygons beside a picture in YOLO's layout (images/x.jpg, labels/x.txt); empty where there are none."""
    parts = list(picture.parts)
    if "images" not in parts:
        return []
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    labels = Path(*parts).with_suffix(".txt")
    if not labels.is_file():
        return []
    with labels.open(encoding="utf-8", newline="") as file:
        numbers = [[float(part) for part in line[1:]] for line in csv.reader(file, delimiter=" ")]
    return [list(map(list, zip(line[::2], line[1::2], strict=True))) for line in numbers if len(line) >= 6]
