"""What YuNet is shown of a picture, and what its answers mean.

1. It looks twice, at the picture reduced to two sizes (never enlarged) and filled up with black on the right and below
   to a multiple of the coarsest stride. The fine look sees small faces. A face that fills it is larger than any that
   the network has learned: the coarse look is for those, and for no others.
2. For each place of three grids (strides 8, 16 and 32) the network gives two scores, a box and five landmarks, relative
   to the place. The confidence is the geometric mean of the scores, as its authors have it.
3. Of boxes that overlap, the most confident stays.

References:
    W. Wu, H. Peng and S. Yu, "YuNet: a tiny millisecond-level face detector", 2023. 10.1007/s11633-023-1423-y
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from services.common.detection import Point
from services.common.images import Picture
from services.faces.face import Box, DetectedFace, FaceDetector, Landmarks
from services.faces.finders._suppression import SAME_FACE_OVERLAP, without_duplicates

__all__ = [
    "COARSE_SIDE",
    "DEFAULT_CONFIDENCE",
    "FINE_SIDE",
    "INPUT",
    "OUTPUTS",
    "ROWS",
    "STRIDES",
    "Look",
    "faces_of",
    "looks_at",
    "prepared",
    "read",
]

RGB = NDArray[np.uint8]

INPUT: Final = "input"
STRIDES: Final = (8, 16, 32)
OUTPUTS: Final = tuple(f"places_{stride}" for stride in STRIDES)
ROWS: Final = 16
"""What a place says: two scores, four numbers of a box, five landmarks."""

FINE_SIDE: Final = 960
COARSE_SIDE: Final = 320
"""Longer sides of what the network looks at, in pixels."""
COARSE_FACE: Final = 80
"""Least height of what counts in the coarse look, in its pixels: the fine one sees what is smaller, and better."""
DEFAULT_CONFIDENCE: Final = 0.5
"""In 90 composed scenes of the train split and 90 photographs into which no face was put: 0.4 finds 89 % with a
precision of 0.94, 0.5 85 % with 0.97, 0.6 80 % with 0.99. With a fine look of 640 pixels 0.5 finds 80 %, of 1,280 no
more than 86 %."""
MOST_CANDIDATES: Final = 5000
"""Boxes that are compared with one another, most confident first: bounds the time for one picture."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the network takes, and what of it counts.

    Attributes:
        pixels: uint8 (1, 3, height, width), BGR; both sides are multiples of the coarsest stride.
        scale: pixels of the network's input per pixel of the picture.
        least_height: of a face, in the network's pixels.
    """

    pixels: RGB
    scale: float
    least_height: float = 0.0


def prepared(picture: Picture, side: int, *, least_height: float = 0.0) -> Look:
    """A look at a picture.

    Args:
        picture: where to look.
        side: its longer side in the look, at most, in pixels.
        least_height: as `Look` has it.
    """
    rgb = picture.working
    height, width = rgb.shape[:2]
    reduce = min(1.0, side / max(height, width))
    size = max(1, round(width * reduce)), max(1, round(height * reduce))
    if reduce < 1:
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    coarsest = STRIDES[-1]
    filled = np.zeros((1, 3, _up_to(size[1], coarsest), _up_to(size[0], coarsest)), np.uint8)
    filled[0, :, : size[1], : size[0]] = rgb[..., ::-1].transpose(2, 0, 1)
    return Look(filled, max(size) / max(picture.info.width, picture.info.height), least_height)


def looks_at(picture: Picture) -> list[Look]:
    """The fine look; and the coarse one, unless the picture is so small that it would be the same."""
    looks = [prepared(picture, FINE_SIDE)]
    if max(picture.info.width, picture.info.height) > COARSE_SIDE:
        looks.append(prepared(picture, COARSE_SIDE, least_height=COARSE_FACE))
    return looks


def faces_of(
    picture: Picture,
    looks: Sequence[Look],
    answers: Sequence[Mapping[str, NDArray[np.floating]]],
    min_confidence: float,
) -> list[DetectedFace]:
    """What all looks show, most confident first.

    Args:
        picture: that was looked at.
        looks: as `looks_at` gives them.
        answers: the network's, one a look, by the names of `OUTPUTS`.
        min_confidence: faces below it are left out, 0 to 1.
    """
    faces = [
        face
        for look, answer in zip(looks, answers, strict=True)
        for face in read(
            answer,
            look,
            width=picture.info.width,
            height=picture.info.height,
            min_confidence=min_confidence,
        )
    ]
    return without_duplicates(faces)


def read(
    outputs: Mapping[str, NDArray[np.floating]],
    look: Look,
    *,
    width: int,
    height: int,
    min_confidence: float,
) -> list[DetectedFace]:
    """The network's outputs for one picture as faces, most confident first.

    Args:
        outputs: by the names of `OUTPUTS`, each (1, ROWS, places).
        look: what it was shown; places run along its width first.
        width: of the picture.
        height: of the picture.
        min_confidence: faces below it are left out, 0 to 1.
    """
    confidences, boxes, points = _decoded(outputs, look.pixels.shape[3], max(min_confidence, 1e-6))
    order = np.argsort(-confidences, kind="stable")[:MOST_CANDIDATES]
    order = order[boxes[order, 3] - boxes[order, 1] >= look.least_height]
    confidences, boxes, points = confidences[order], boxes[order] / look.scale, points[order] / look.scale
    corners = np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    kept = cv2.dnn.NMSBoxes(corners.tolist(), confidences.tolist(), 0.0, SAME_FACE_OVERLAP) if len(corners) else ()
    faces = []
    for index in kept:
        box = Box(*boxes[index].tolist()).clipped(width, height)
        if not box.area:
            continue
        right_eye, left_eye, nose, mouth_right, mouth_left = (Point(float(x), float(y)) for x, y in points[index])
        mouth = Point((mouth_right.x + mouth_left.x) / 2, (mouth_right.y + mouth_left.y) / 2)
        landmarks = Landmarks(
            right_eye=right_eye,
            left_eye=left_eye,
            nose=nose,
            mouth=mouth,
            mouth_right=mouth_right,
            mouth_left=mouth_left,
        )
        faces.append(
            DetectedFace(
                box=box, confidence=float(confidences[index]), detector=FaceDetector.YUNET, landmarks=landmarks
            )
        )
    return without_duplicates(faces)


def _decoded(
    outputs: Mapping[str, NDArray[np.floating]], input_width: int, min_confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Confidences (n,), boxes (n, 4: left, top, right, bottom) and landmarks (n, 5, 2) in pixels of the input."""
    found = []
    for stride in STRIDES:
        said = outputs[f"places_{stride}"][0]
        cls, obj = np.clip(np.asarray(said[:2], np.float64), 0, 1)
        confidence = np.sqrt(cls * obj)
        sure = np.flatnonzero(confidence >= min_confidence)
        of_sure = np.asarray(said[2:, sure].T, np.float64)
        box, points = of_sure[:, :4], of_sure[:, 4:].reshape(-1, 5, 2)
        columns = input_width // stride
        place = np.column_stack([sure % columns, sure // columns]).astype(np.float64)
        middle = (place + box[:, :2]) * stride
        half = np.exp(np.minimum(box[:, 2:], math.log(1e4))) * stride / 2
        found.append((confidence[sure], np.hstack([middle - half, middle + half]), (points + place[:, None]) * stride))
    confidences, boxes, landmarks = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return confidences, boxes, landmarks


def _up_to(length: int, step: int) -> int:
    return -(-length // step) * step
