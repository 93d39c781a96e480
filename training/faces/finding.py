"""What finds the faces that are learned from: the published YuNet through OpenCV, which also teaches ours; and ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from services.common.detection import Point
from services.common.images import Picture
from services.faces.face import Box, DetectedFace, FaceDetector, Landmarks
from services.faces.finders.looks import DEFAULT_CONFIDENCE, INPUT, OUTPUTS, faces_of, looks_at

__all__ = ["SERVED_YUNET", "PublishedYuNet", "ServedYuNet"]

SERVED_YUNET: Final = Path(__file__).resolve().parents[2] / "triton_models" / "yunet" / "1" / "model.onnx"
"""What Triton serves."""


class PublishedYuNet:
    """Finds faces; not thread-safe.

    Args:
        network: its ONNX file.
        max_side: pictures are scaled down to so many pixels of their longer side before it looks.
        min_confidence: from which something counts as a face, 0 to 1.
    """

    def __init__(self, network: Path, *, max_side: int, min_confidence: float) -> None:
        if not network.is_file():
            raise FileNotFoundError(f"{network}: name the published YuNet's ONNX file in PENTIMENTO_FACE_DETECTOR")
        self._max_side = max_side
        self._detector = cv2.FaceDetectorYN.create(str(network), "", (320, 320), min_confidence, 0.3, 200)

    def find(self, rgb: NDArray[np.uint8]) -> list[DetectedFace]:
        """The faces of a picture, uint8 (h, w, 3), largest first, in its pixels."""
        height, width = rgb.shape[:2]
        scale = min(1.0, self._max_side / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA) if scale < 1 else rgb
        self._detector.setInputSize(size)
        # OpenCV's types do not tell that there may be no face.
        found: Any
        _, found = self._detector.detect(np.ascontiguousarray(small[..., ::-1]))
        rows = [] if found is None else np.asarray(found, np.float64).tolist()
        faces = [_face(row, width / size[0], height / size[1]) for row in rows]
        return sorted(faces, key=lambda face: -face.box.area)


class ServedYuNet:
    """Our YuNet as users meet it: the looks and the post-processing of the faces service, without Triton between.

    Args:
        network: its ONNX file.
    """

    def __init__(self, network: Path = SERVED_YUNET) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])

    def find(self, rgb: NDArray[np.uint8]) -> list[DetectedFace]:
        """The faces of a picture, uint8 (h, w, 3), most confident first, in its pixels."""
        picture = Picture.from_array(rgb)
        looks = looks_at(picture)
        answers = [
            dict(zip(OUTPUTS, self._session.run(list(OUTPUTS), {INPUT: look.pixels}), strict=True)) for look in looks
        ]
        return faces_of(picture, looks, answers, DEFAULT_CONFIDENCE)


def _face(row: list[float], across: float, down: float) -> DetectedFace:
    left, top, width, height = row[0] * across, row[1] * down, row[2] * across, row[3] * down
    points = [Point(x * across, y * down) for x, y in zip(row[4:14:2], row[5:14:2], strict=True)]
    right_eye, left_eye, nose, mouth_right, mouth_left = points
    return DetectedFace(
        box=Box(left, top, left + width, top + height),
        confidence=min(1.0, max(0.0, row[14])),
        detector=FaceDetector.YUNET,
        landmarks=Landmarks(
            right_eye=right_eye,
            left_eye=left_eye,
            nose=nose,
            mouth=Point((mouth_right.x + mouth_left.x) / 2, (mouth_right.y + mouth_left.y) / 2),
            mouth_right=mouth_right,
            mouth_left=mouth_left,
        ),
    )
