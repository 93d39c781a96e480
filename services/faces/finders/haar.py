"""OpenCV's Haar cascade for frontal faces: Viola and Jones's detector, which needs no network.

Windows of every size slide over the picture; a cascade of boosted stages of rectangle features throws most of them
out early. A window that passes all stages leaves with the last stage's sum, its *weight*.

**Confidence**: the cascade has no probabilities. `confidence_of` maps the weight to 0-1 by a logistic curve fitted to
the windows of scenes with one known face each (see `WEIGHT_MIDDLE`): it is monotone in the weight, and among windows of
confidence c in pictures like those, about a share of c were faces.

Gives no landmarks; finds upright frontal faces only. Looks at `Picture.working`, reduced to `MOST_PIXELS`.

References:
    P. Viola and M. Jones, "Robust real-time face detection", 2004. 10.1023/B:VISI.0000013087.49260.fb
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import cv2

from services.common.images import Picture
from services.faces.face import Box, DetectedFace, FaceDetector
from services.faces.finders._suppression import without_duplicates
from services.faces.pool import Pool

__all__ = ["HaarFinder", "confidence_of"]

CASCADE: Final = "haarcascade_frontalface_alt2.xml"
"""Of OpenCV's three frontal cascades, in 196 scenes with one face of 35-150 pixels each: `alt2` found 94% with 10 false
windows in 43 ms, `default` 93% with 36 in 53 ms, `alt` 93% with 5 in 51 ms."""
SCALE_STEP: Final = 1.1
"""Ratio of neighbouring window sizes; OpenCV's default."""
MIN_NEIGHBORS: Final = 3
"""Fewer overlapping windows than this are chance; OpenCV's default."""
SMALLEST_FACE: Final = 30
"""In pixels of what it looks at; the cascade was trained at 20."""
MOST_PIXELS: Final = 1_000_000
"""Of what it looks at: its time grows with the pixels (about 0.2 s for these)."""

MARGIN: Final = 0.15
"""The picture is continued on each side by this share of its shorter side: the cascade wants to see around a face, and
portraits are cut closely."""

WEIGHT_MIDDLE: Final = 54.84
WEIGHT_SCALE: Final = 0.31
"""Logistic regression on 231 windows that were faces (weights 55.2 to 57.6) and 14 that were not (54.4 to 55.7), in 248
photographs with one face of 25-170 pixels pasted into each."""

DEFAULT_CONFIDENCE: Final = 0.5


class HaarFinder:
    """Finds faces with a Haar cascade; thread-safe (OpenCV's classifier is not, so each thread borrows its own)."""

    detector: Final = FaceDetector.HAAR
    default_confidence: Final = DEFAULT_CONFIDENCE

    def __init__(self) -> None:
        self._cascades: Pool[Any] = Pool(_load)

    def warm_up(self) -> None:
        """Loads the cascade."""
        with self._cascades.borrow():
            pass

    def close(self) -> None:
        """Frees the cascades."""
        self._cascades.close()

    def find(self, picture: Picture, *, min_confidence: float) -> list[DetectedFace]:
        """The faces, most confident first.

        Args:
            picture: where to look.
            min_confidence: faces below it are left out, 0 to 1.
        """
        grey = cv2.cvtColor(picture.working, cv2.COLOR_RGB2GRAY)
        reduce = min(1.0, math.sqrt(MOST_PIXELS / grey.size))
        if reduce < 1:
            grey = cv2.resize(grey, None, fx=reduce, fy=reduce, interpolation=cv2.INTER_AREA)
        enlarge = max(picture.info.width, picture.info.height) / max(grey.shape)
        margin = round(MARGIN * min(grey.shape))
        grey = cv2.copyMakeBorder(grey, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
        with self._cascades.borrow() as cascade:
            boxes, _, weights = cascade.detectMultiScale3(
                grey,
                scaleFactor=SCALE_STEP,
                minNeighbors=MIN_NEIGHBORS,
                minSize=(SMALLEST_FACE, SMALLEST_FACE),
                outputRejectLevels=True,
            )
        found = []
        for (x, y, width, height), weight in zip(boxes, weights, strict=True):
            left, top = float(x - margin), float(y - margin)
            box = Box(left, top, left + float(width), top + float(height)).mapped(enlarge)
            box = box.clipped(picture.info.width, picture.info.height)
            confidence = confidence_of(float(weight))
            if confidence >= min_confidence and box.area:
                found.append(DetectedFace(box=box, confidence=confidence, detector=FaceDetector.HAAR))
        return without_duplicates(found)


def confidence_of(weight: float) -> float:
    """The confidence, 0 to 1, of a window that left the cascade with this weight."""
    return (1 + math.tanh((weight - WEIGHT_MIDDLE) / (2 * WEIGHT_SCALE))) / 2  # the logistic function


def _load() -> Any:
    cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / CASCADE))
    if cascade.empty():
        raise RuntimeError(f"OpenCV has no {CASCADE}")
    return cascade
