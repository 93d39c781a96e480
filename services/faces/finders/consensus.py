"""One answer out of several finders: how sure are we that it is a face?

Finds of different finders are of one face as soon as their boxes overlap as two boxes of one face do. The box and the
landmarks are those of the finder that places them best (`BY_PLACING`).

The confidence is a logistic function of what each finder said: nothing where it was asked and saw nothing. Its weights
are those of a logistic regression on what the three found in composed scenes (see `SEEN`), none of them below 0: no
finder's yes ever counts against a face. Where only one finder was asked, its own confidence is all that there is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from services.faces.face import DetectedFace, FaceDetector
from services.faces.finders._suppression import is_same_face

__all__ = ["BY_PLACING", "DEFAULT_CONFIDENCE", "fused"]

BY_PLACING: Final = (FaceDetector.YUNET, FaceDetector.MEDIAPIPE, FaceDetector.HAAR)
DEFAULT_CONFIDENCE: Final = 0.5

BASE: Final = -1.2
SEEN: Final[Mapping[FaceDetector, tuple[float, float]]] = {
    FaceDetector.YUNET: (2.3, 5.3),
    FaceDetector.MEDIAPIPE: (4.5, 1.4),
    FaceDetector.HAAR: (0.0, 0.6),
}
"""Log odds of a face: before anybody saw it, and what a finder adds by seeing it (a constant, and a slope over its
confidence less 0.5). Fitted on 503 finds, each finder at its own threshold, in 90 scenes of the train split with faces
of 20 to 400 pixels and 90 photographs without. Of the finds that YuNet alone made 105 of 119 were faces, of MediaPipe's
15 of 15, of Haar's 1 of 6; of those that two or more made, 363 of 363."""


@dataclass(slots=True)
class _Sighting:
    """What the finders say about one place: the best-placed find first."""

    finds: dict[FaceDetector, DetectedFace] = field(default_factory=dict)

    @property
    def best(self) -> DetectedFace:
        return next(self.finds[detector] for detector in BY_PLACING if detector in self.finds)


def fused(seen: Mapping[FaceDetector, Sequence[DetectedFace]]) -> list[DetectedFace]:
    """The faces that any of the finders saw, most confident first.

    Args:
        seen: what each finder that was asked found; nothing where it found nothing.
    """
    sightings: list[_Sighting] = []
    for detector in BY_PLACING:
        for face in seen.get(detector, ()):
            same = [each for each in sightings if detector not in each.finds and is_same_face(each.best, face)]
            if same:
                max(same, key=lambda each: each.best.box.overlap(face.box)).finds[detector] = face
            else:
                sightings.append(_Sighting({detector: face}))
    faces = [
        replace(
            each.best,
            confidence=_confidence(each.finds, len(seen)),
            detector=FaceDetector.CONSENSUS,
            agreement=len(each.finds) / len(seen),
        )
        for each in sightings
    ]
    return sorted(faces, key=lambda face: face.confidence, reverse=True)


def _confidence(finds: Mapping[FaceDetector, DetectedFace], asked: int) -> float:
    if asked == 1:
        return next(iter(finds.values())).confidence
    log_odds = BASE
    for detector, face in finds.items():
        constant, slope = SEEN[detector]
        log_odds += constant + slope * (face.confidence - 0.5)
    return 1 / (1 + math.exp(-log_odds))
