"""Real or fake: generated faces and those put together, by a network made here (`triton_models/facenet_realfake`).

It sees the face, and reads what CLIP's first blocks see of it (`traces`).

One pass looks at the face as it is. Several passes (document 004's "augmented detection") look at it as it is, turned
to both sides, mirrored, blurred, compressed and cropped: the score is their mean, and the share of passes that have the
mean's label says how stable it is. An answer that hangs on the last bit of a compression is one to distrust.

Without a face the whole picture can be looked at, if somebody asks for it: the network learned faces and says little
about anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from services.faces.alignment import face_chip
from services.faces.attributes.traces import SIDE
from services.faces.face import Box, DeepfakeEstimate, DetectedFace, FaceDetector

__all__ = [
    "FAKE_FROM",
    "INPUT",
    "MODEL",
    "OUTPUT",
    "PASSES",
    "SIDE",
    "middle_square",
    "read",
    "read_passes",
    "several_passes",
]

RGB = NDArray[np.uint8]

MODEL: Final = "facenet_realfake"
INPUT: Final = "faces"
OUTPUT: Final = "fake"
FAKE_FROM: Final = 0.5
"""The network's own threshold: its score is scaled so that about 1 in 100 real faces of the calibration lies above."""

TURN_DEGREES: Final = 8.0
BLUR_SIGMA: Final = 1.0
"""In pixels of the chip."""
JPEG_QUALITY: Final = 60
CROP_ZOOM: Final = 1.12

PASSES: Final[Sequence[str]] = ("as it is", "turned left", "turned right", "mirrored", "blurred", "JPEG", "cropped")


def several_passes(rgb: RGB, face: DetectedFace) -> list[RGB]:
    """The face as each of `PASSES` sees it, uint8 (SIDE, SIDE, 3) each."""
    chip = face_chip(rgb, face, SIDE)
    turned = [face_chip(rgb, face, SIDE, turn_degrees=degrees) for degrees in (-TURN_DEGREES, TURN_DEGREES)]
    return [chip, *turned, *_of_chip(chip), face_chip(rgb, face, SIDE, zoom=CROP_ZOOM)]


def middle_square(rgb: RGB) -> DetectedFace:
    """The middle square of a picture, as if it were a face's chip: for pictures without a face."""
    height, width = rgb.shape[:2]
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    box = Box(left, top, left + side, top + side)
    return DetectedFace(box=box, confidence=0.0, detector=FaceDetector.CONSENSUS)


def read(scores: NDArray[np.floating]) -> list[DeepfakeEstimate]:
    """The network's output of single passes, (n, 1), as estimates.

    Raises:
        ValueError: another shape, or numbers outside 0 to 1.
    """
    return [DeepfakeEstimate(float(score)) for score in _checked(scores)]


def read_passes(scores: NDArray[np.floating], passes: int) -> list[DeepfakeEstimate]:
    """The network's output of several passes a face, (faces * passes, 1), as estimates.

    Raises:
        ValueError: another shape, or numbers outside 0 to 1.
    """
    estimates = []
    for each in _checked(scores).reshape(-1, passes):
        mean = float(each.mean())
        estimates.append(DeepfakeEstimate(mean, stability=float(((each >= FAKE_FROM) == (mean >= FAKE_FROM)).mean())))
    return estimates


def _checked(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    rows = np.asarray(scores, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != 1:
        raise ValueError(f"expected (n, 1) scores, got {rows.shape}")
    if not ((rows >= 0) & (rows <= 1)).all():
        raise ValueError("the network's output is no score")
    column: NDArray[np.float64] = rows[:, 0]
    return column


def _of_chip(chip: RGB) -> list[RGB]:
    """Mirrored, blurred, compressed."""
    return [
        np.ascontiguousarray(chip[:, ::-1]),
        cast("RGB", cv2.GaussianBlur(chip, (0, 0), BLUR_SIGMA)),
        _compressed(chip),
    ]


def _compressed(chip: RGB) -> RGB:
    done, content = cv2.imencode(".jpg", chip[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise RuntimeError("OpenCV cannot write JPEG")
    return np.ascontiguousarray(cast("RGB", cv2.imdecode(content, cv2.IMREAD_COLOR))[..., ::-1])
