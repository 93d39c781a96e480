"""One face, one box."""

from __future__ import annotations

from collections.abc import Iterable

from services.faces.face import DetectedFace

__all__ = ["SAME_FACE_OVERLAP", "is_same_face", "without_duplicates"]

SAME_FACE_OVERLAP = 0.3
"""Intersection over union from which two boxes are of one face; the value that MediaPipe suppresses at."""
SAME_FACE_INSIDE = 0.7
"""Share of the smaller box inside the larger from which they are of one face: a part of a face is no second face."""


def without_duplicates(faces: Iterable[DetectedFace]) -> list[DetectedFace]:
    """The faces, most confident first, without those that a more confident one covers (greedy suppression)."""
    kept: list[DetectedFace] = []
    for face in sorted(faces, key=lambda face: face.confidence, reverse=True):
        if not any(is_same_face(face, other) for other in kept):
            kept.append(face)
    return kept


def is_same_face(a: DetectedFace, b: DetectedFace) -> bool:
    """Whether two finds are of one face."""
    if a.box.overlap(b.box) > SAME_FACE_OVERLAP:
        return True
    smaller = min(a.box.area, b.box.area)
    return a.box.intersection(b.box).area > SAME_FACE_INSIDE * smaller
