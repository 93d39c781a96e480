"""MediaPipe's face detector: BlazeFace, the short-range network, in MediaPipe's own runtime.

BlazeFace was made for selfies: it sees a picture of 128 x 128 pixels, and finds only faces that take up a good part
of it. So this finder looks several times:

1. **Survey**: at the whole picture, then at square tiles of a half and a quarter of its longer side. Tiles
   overlap by a third: a face that is too small for one level, and so takes up less than a third of the tiles of the
   next, lies whole in one of them.
2. **Second look**: each candidate is looked at again in two square crops around it, in which it has the sizes that the
   network knows best. Textures that look like a face at one cut seldom do at the next: what is not seen in both is
   dropped. The confidence is the mean of both, so it means the same for large and for small faces, and so are the
   landmarks; the box is that of the closer crop.

Works on `Picture.working`. Faces are found upright to about 30 degrees of tilt.

References:
    V. Bazarevsky et al., "BlazeFace: Sub-millisecond neural face detection on mobile GPUs", 2019. arXiv:1907.05047
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.common.detection import Point
from services.common.errors import ModelUnavailable
from services.common.images import Picture
from services.faces.face import Box, DetectedFace, FaceDetector, Landmarks
from services.faces.finders._suppression import SAME_FACE_OVERLAP, without_duplicates
from services.faces.pool import Pool

__all__ = ["ASSET", "MediaPipeFinder"]

RGB = NDArray[np.uint8]

ASSET: Final = "mediapipe_face_detector"
"""The network's name in models.lock."""

DEFAULT_CONFIDENCE: Final = 0.7
"""Of the faces among 248 pasted into photographs that were found, 99.5% had more than 0.72 at the second look. Of 260
photographs, many with people in them, 19 showed something above 0.7, and 66 above MediaPipe's own default of 0.5, which
is for single looks: what lies between is mostly animals and textures."""
CANDIDATE_CONFIDENCE: Final = 0.4
"""From which the survey's finds get a second look. Faces at the edge of what a level can see score low there."""

FINEST_LEVEL: Final = 2
"""Tiles of the finest level have a quarter of the picture's longer side: faces from about 3% of it on are found (all of
50 pixels in 1632, a third of 40). One level more finds faces of half the size, and takes four times as long."""
SMALLEST_TILE: Final = 192
"""In pixels. Below, tiles are no more than enlargements of faces of under 30 pixels."""
TILE_OVERLAP: Final = 1 / 3
"""Least overlap of neighbouring tiles, as a share of their side."""

LOOK_SIDES: Final = (2.0, 3.0)
"""Sides of the second look's crops, as multiples of the candidate's."""
MOST_LOOKS: Final = 200
"""Candidates that get a second look, most confident first: bounds the time for one picture."""


class MediaPipeFinder:
    """Finds faces with MediaPipe; thread-safe. Importing MediaPipe (1.5 s) waits for the first use, or `warm_up`.

    Args:
        asset: the network, `face_detection_short_range.tflite`. It need not be there yet.
    """

    detector: Final = FaceDetector.MEDIAPIPE
    default_confidence: Final = DEFAULT_CONFIDENCE

    def __init__(self, asset: Path) -> None:
        self._asset = asset
        self._networks: Pool[Any] = Pool(self._load, dispose=lambda network: network.close())

    def warm_up(self) -> None:
        """Loads what the first call would have to wait for; nothing if the network is not there."""
        if self._asset.is_file():
            with self._networks.borrow() as network:
                _detect(network, np.zeros((128, 128, 3), np.uint8))

    def close(self) -> None:
        """Frees the networks."""
        self._networks.close()

    def find(self, picture: Picture, *, min_confidence: float) -> list[DetectedFace]:
        """The faces, most confident first.

        Args:
            picture: where to look.
            min_confidence: faces below it are left out, 0 to 1; below `CANDIDATE_CONFIDENCE` it finds no more.

        Raises:
            ModelUnavailable: the network is not installed.
        """
        if not self._asset.is_file():
            raise ModelUnavailable(ASSET, installed=False)
        rgb = picture.working
        height, width = rgb.shape[:2]
        with self._networks.borrow() as network:
            surveyed: list[DetectedFace] = []
            for x, y, side in tiles(width, height):
                view = np.ascontiguousarray(rgb[y : y + side, x : x + side])
                surveyed.extend(_moved(face, x, y) for face in _detect(network, view))
            candidates = without_duplicates(surveyed)[:MOST_LOOKS]
            faces = without_duplicates(
                seen for candidate in candidates if (seen := _second_look(network, rgb, candidate)) is not None
            )
        placed = (_in_picture(face, picture) for face in faces if face.confidence >= min_confidence)
        return [face for face in placed if face is not None]

    def _load(self) -> Any:
        # Its first log lines come before any of its settings for logs can be made: the environment is all it reads.
        os.environ.setdefault("GLOG_minloglevel", "2")
        from mediapipe.tasks.python import vision  # noqa: PLC0415 - takes 1.5 s: the service is up before that
        from mediapipe.tasks.python.core.base_options import BaseOptions  # noqa: PLC0415

        options = vision.FaceDetectorOptions(
            base_options=BaseOptions(model_asset_path=str(self._asset)),
            min_detection_confidence=CANDIDATE_CONFIDENCE,
            min_suppression_threshold=SAME_FACE_OVERLAP,
        )
        return vision.FaceDetector.create_from_options(options)


def tiles(width: int, height: int) -> Iterator[tuple[int, int, int]]:
    """The survey's squares as (x, y, side), coarse to fine; those of level 0 may be larger than the picture.

    Each level covers the whole picture, and neighbours overlap by at least `TILE_OVERLAP`.
    """
    longer = max(width, height)
    yield 0, 0, longer
    for level in range(1, FINEST_LEVEL + 1):
        side = math.ceil(longer / 2**level)
        if side < SMALLEST_TILE:
            return
        for y in _starts(height, side):
            for x in _starts(width, side):
                yield x, y, side


def _starts(length: int, side: int) -> list[int]:
    """Where tiles start along one axis: evenly spread, the last one ending at the edge."""
    if length <= side:
        return [0]
    steps = math.ceil((length - side) / (side * (1 - TILE_OVERLAP)))
    return [round(index * (length - side) / steps) for index in range(steps + 1)]


def _second_look(network: Any, rgb: RGB, candidate: DetectedFace) -> DetectedFace | None:
    """The candidate as the network sees it in the squares around it; None if it sees no face there in one of them."""
    seen = [_look_around(network, rgb, candidate, side) for side in LOOK_SIDES]
    looks = [face for face in seen if face is not None]
    if len(looks) < len(seen):
        return None
    return replace(
        looks[0],
        confidence=sum(face.confidence for face in looks) / len(looks),
        landmarks=Landmarks.mean([face.landmarks for face in looks if face.landmarks]),
    )


def _look_around(network: Any, rgb: RGB, candidate: DetectedFace, side_share: float) -> DetectedFace | None:
    """The candidate in a square of `side_share` times its side; None if the network sees no face where it is.

    What lies outside the picture is black, as the network itself fills up pictures that are not square.
    """
    height, width = rgb.shape[:2]
    centre = candidate.box.centre
    side = max(8, round(side_share * max(candidate.box.width, candidate.box.height)))
    x, y = round(centre.x - side / 2), round(centre.y - side / 2)
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    if left >= right or top >= bottom:
        return None
    crop = np.zeros((side, side, 3), np.uint8)
    crop[top - y : bottom - y, left - x : right - x] = rgb[top:bottom, left:right]
    seen = [_moved(face, x, y) for face in _detect(network, crop)]
    same = [face for face in seen if face.box.overlap(candidate.box) > SAME_FACE_OVERLAP]
    return max(same, key=lambda face: face.confidence, default=None)


def _detect(network: Any, rgb: RGB) -> list[DetectedFace]:
    """What the network sees in one view, in that view's coordinates."""
    import mediapipe  # noqa: PLC0415 - as above

    height, width = rgb.shape[:2]
    result = network.detect(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=rgb))
    faces = []
    for detection in result.detections:
        box = detection.bounding_box
        # Its six keypoints are the eyes, the tip of the nose, the middle of the mouth, and the ears.
        eye_right, eye_left, nose, mouth = (
            Point(keypoint.x * width, keypoint.y * height) for keypoint in detection.keypoints[:4]
        )
        faces.append(
            DetectedFace(
                box=Box(box.origin_x, box.origin_y, box.origin_x + box.width, box.origin_y + box.height),
                confidence=min(1.0, max(0.0, float(detection.categories[0].score))),
                detector=FaceDetector.MEDIAPIPE,
                landmarks=Landmarks(right_eye=eye_right, left_eye=eye_left, nose=nose, mouth=mouth),
            )
        )
    return faces


def _moved(face: DetectedFace, dx: int, dy: int) -> DetectedFace:
    return DetectedFace(
        box=face.box.mapped(1.0, dx, dy),
        confidence=face.confidence,
        detector=face.detector,
        landmarks=face.landmarks.mapped(1.0, dx, dy) if face.landmarks else None,
    )


def _in_picture(face: DetectedFace, picture: Picture) -> DetectedFace | None:
    """The face in full-size pixels, its box clipped; None if nothing of it is left."""
    enlarge = 1 / picture.scale
    box = face.box.mapped(enlarge).clipped(picture.info.width, picture.info.height)
    if not box.area:
        return None
    return DetectedFace(
        box=box,
        confidence=face.confidence,
        detector=face.detector,
        landmarks=face.landmarks.mapped(enlarge) if face.landmarks else None,
    )
