"""Scenes with faces at known places, for measuring face finders: portraits pasted into scenes without people.

Truth is the face of an aligned portrait (the framing of FFHQ: both eyes on one line at 47 % of the height, Karras et
al. 2019, 10.1109/CVPR.2019.00453): from the forehead to the chin and from ear to ear, `FACE`. A rotated face's box is
the box around the rotated ellipse in `FACE`. Portraits are pasted as soft ellipses, so that no frame gives them away.
Some faces may be covered in part (by a piece of the scene), and some scenes may hold a crowd of small ones.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.forgery import Encoding
from evaluation.pristine import procedural
from evaluation.samples import Sample
from services.common.images import decode_image

__all__ = ["FACE", "compose_scenes"]

RGB = NDArray[np.uint8]
Box = tuple[float, float, float, float]

FACE: Final = (0.22, 0.22, 0.78, 0.90)
"""Left, top, right and bottom of the face in an aligned portrait, as shares of its side."""

SCENE_SIDE: Final = 1000
MAX_FACES: Final = 6
SIZES: Final = (20, 400)
"""Height of a face, in pixels, drawn logarithmically."""

TILT_DEGREES: Final = 40.0

CROWD: Final = 30
CROWD_SIZES: Final = (20, 70)
"""Most faces of a crowd, and their height in pixels."""
COVERED: Final = (0.15, 0.35)
"""Share of a covered face's box that is hidden, from below or from one side."""


def compose_scenes(
    portraits: Sequence[Sample],
    folder: Path,
    *,
    count: int,
    seed: int = 0,
    without_people: Sequence[Sample] = (),
    covered_share: float = 0.0,
    crowd_share: float = 0.0,
) -> Path:
    """Writes `count` scenes with faces and as many without, and a manifest with boxes; returns the manifest.

    Args:
        portraits: aligned portraits, one face each; a scene's source is its first portrait's.
        folder: where the files go.
        count: scenes of each kind.
        seed: of everything that is drawn.
        without_people: photographs in which there is nobody: the scenes, and those without faces; procedural pictures
            where there are too few of them.
        covered_share: share of the faces that are covered in part.
        crowd_share: share of the scenes with faces that hold a crowd.

    Raises:
        ValueError: there are no portraits.
    """
    if not portraits:
        raise ValueError("no portraits to compose scenes of")
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    grounds = [*_photographs(without_people), *_procedural()]
    backgrounds = [rgb for _, rgb in grounds]
    encoding = Encoding(format="jpeg", quality=90)
    manifest = folder / "manifest.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "source", "set", "boxes"])
        for index in range(count):
            scene = backgrounds[int(rng.integers(len(backgrounds)))].copy()
            crowded = crowd_share > 0 and rng.random() < crowd_share
            most, sizes = (CROWD, CROWD_SIZES) if crowded else (MAX_FACES, SIZES)
            chosen = rng.choice(len(portraits), size=int(rng.integers(1, most + 1)))
            boxes: list[Box] = []
            for number in chosen:
                rgb = decode_image(portraits[int(number)].path.read_bytes()).rgb
                under = scene.copy() if covered_share > 0 else None
                box = _paste(scene, rgb, boxes, rng, sizes)
                if box is not None:
                    boxes.append(box)
                    if under is not None and rng.random() < covered_share:
                        _cover(scene, under, box, rng)
            name = f"faces_{index:04d}.jpg"
            (folder / name).write_bytes(encoding.encode(scene))
            source = portraits[int(chosen[0])].source
            writer.writerow([name, "honest", source, "scenes_with_faces", json.dumps(boxes)])
        for index in range(count):
            source, scene = grounds[index % len(grounds)]
            angle = 0 if index < len(without_people) else int(rng.integers(4))
            name = f"empty_{index:04d}.jpg"
            turned = np.ascontiguousarray(np.rot90(scene, angle)[:, :: -1 if rng.random() < 0.5 else 1])
            (folder / name).write_bytes(encoding.encode(turned))
            writer.writerow([name, "honest", source, "scenes_without_faces", "[]"])
    return manifest


def _photographs(samples: Sequence[Sample]) -> Iterator[tuple[str, RGB]]:
    """Source and pixels, the longer side at most `SCENE_SIDE`."""
    for sample in samples:
        rgb = decode_image(sample.path.read_bytes()).rgb
        reduce = min(1.0, SCENE_SIDE / max(rgb.shape[:2]))
        if reduce < 1:
            rgb = cast("RGB", cv2.resize(rgb, None, fx=reduce, fy=reduce, interpolation=cv2.INTER_AREA))
        yield sample.source, rgb


def _procedural() -> Iterator[tuple[str, RGB]]:
    for index, picture in enumerate(procedural(size=SCENE_SIDE, variants=3)):
        yield f"procedural-{index}", picture.rgb


def _cover(scene: RGB, under: RGB, box: Box, rng: np.random.Generator) -> None:
    """Hides a part of a face behind what was there before, moved a little so that it is no gap in the face."""
    left, top, right, bottom = (round(value) for value in box)
    share = float(rng.uniform(*COVERED))
    side = int(rng.integers(3))
    if side == 0:
        top = round(bottom - share * (bottom - top))
    elif side == 1:
        right = round(left + share * (right - left))
    else:
        left = round(right - share * (right - left))
    piece = np.roll(under, (rng.integers(-40, 40), rng.integers(-40, 40)), axis=(0, 1))
    scene[top:bottom, left:right] = piece[top:bottom, left:right]


def _paste(
    scene: RGB, portrait: RGB, taken: Sequence[Box], rng: np.random.Generator, sizes: tuple[int, int]
) -> Box | None:
    """Pastes one portrait at a free place; its face's box, or None where there is no room."""
    height, width = scene.shape[:2]
    side = portrait.shape[0]
    for _ in range(20):
        face = float(np.exp(rng.uniform(*np.log(sizes))))
        scale = face / ((FACE[3] - FACE[1]) * side)
        angle = float(rng.uniform(-TILT_DEGREES, TILT_DEGREES))
        matrix = cv2.getRotationMatrix2D((side / 2, side / 2), angle, scale)
        centre = np.array([(FACE[0] + FACE[2]) / 2 * side, (FACE[1] + FACE[3]) / 2 * side])
        axes = np.array([(FACE[2] - FACE[0]) / 2 * side, (FACE[3] - FACE[1]) / 2 * side])
        half = np.sqrt((matrix[:, :2] ** 2) @ axes**2)
        middle = matrix[:, :2] @ centre + matrix[:, 2]
        low, high = middle - half, middle + half
        room = np.array([width, height]) - (high - low)
        if (room <= 0).any():
            continue
        shift = rng.uniform(0, room) - low
        left, top = (low + shift).tolist()
        right, bottom = (high + shift).tolist()
        box = (left, top, right, bottom)
        if any(_overlap(box, other) for other in taken):
            continue
        matrix[:, 2] += shift
        mask = np.zeros((side, side), np.float32)
        cv2.ellipse(mask, (side // 2, round(side * 0.55)), (round(side * 0.36), round(side * 0.44)), 0, 0, 360, 1.0, -1)
        mask[:] = cv2.GaussianBlur(mask, (0, 0), side * 0.02)
        smooth = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
        shrunk = portrait if scale >= 0.5 else cv2.GaussianBlur(portrait, (0, 0), 0.4 / scale)
        warped = cv2.warpAffine(shrunk, matrix, (width, height), flags=smooth)
        weight = cv2.warpAffine(mask, matrix, (width, height))[..., None]
        scene[:] = np.clip(scene * (1 - weight) + warped * weight + 0.5, 0, 255).astype(np.uint8)
        return box
    return None


def _overlap(one: Box, other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
