"""What looks for faces, one finder a file, and the choice among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.common.errors import ModelUnavailable
from services.common.images import Picture
from services.faces.face import DetectedFace, FaceDetector

__all__ = ["FaceFinder", "Finders", "Found"]


class FaceFinder(Protocol):
    """Looks for faces with one method. Implementations are thread-safe."""

    @property
    def detector(self) -> FaceDetector:
        """What it is called in the contract."""
        ...

    @property
    def default_confidence(self) -> float:
        """From which it takes something for a face unless the caller says otherwise, 0 to 1."""
        ...

    def find(self, picture: Picture, *, min_confidence: float) -> list[DetectedFace]:
        """The faces, most confident first, with boxes inside the picture and an area.

        Raises:
            ModelUnavailable: what it needs is not installed or does not answer.
        """
        ...

    def warm_up(self) -> None:
        """Loads what the first call would have to wait for."""
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """Faces, most confident first, the finders that should have looked for them and could not, and the one that did."""

    faces: tuple[DetectedFace, ...]
    passed_over: tuple[ModelUnavailable, ...] = ()
    detector: FaceDetector | None = None


class Finders:
    """The finders of this deployment.

    Args:
        finders: by preference: where the caller does not choose, the first that is available looks.
        max_faces: most faces that one picture may give.
    """

    def __init__(self, finders: Sequence[FaceFinder], *, max_faces: int) -> None:
        self._finders = {finder.detector: finder for finder in finders}
        self._max_faces = max_faces

    def find(
        self,
        picture: Picture,
        detector: FaceDetector | None = None,
        *,
        max_faces: int | None = None,
        min_confidence: float | None = None,
    ) -> Found:
        """Looks for faces. Takes its time: for a thread, not the event loop.

        Args:
            picture: where to look.
            detector: which finder; None for the first one that is available.
            max_faces: most faces wanted, the most confident ones; None for this deployment's limit.
            min_confidence: faces below it are left out, 0 to 1; None for the finder's own threshold.

        Raises:
            ModelUnavailable: the finder that was asked for is not there; or none is.
        """
        passed_over: list[ModelUnavailable] = []
        for finder in self._candidates(detector):
            threshold = finder.default_confidence if min_confidence is None else min_confidence
            try:
                faces = finder.find(picture, min_confidence=threshold)
            except ModelUnavailable as error:
                passed_over.append(error)
                continue
            limit = min(max_faces or self._max_faces, self._max_faces)
            return Found(tuple(faces[:limit]), tuple(passed_over), finder.detector)
        raise passed_over[0]

    def warm_up(self) -> None:
        """Loads what the first calls would have to wait for."""
        for finder in self._finders.values():
            finder.warm_up()

    def close(self) -> None:
        """Frees what the finders hold."""
        for finder in self._finders.values():
            finder.close()

    def _candidates(self, detector: FaceDetector | None) -> Sequence[FaceFinder]:
        if detector is None:
            return tuple(self._finders.values())
        if detector not in self._finders:
            # The consensus asks all of them, and so lacks YuNet too.
            raise ModelUnavailable(FaceDetector.YUNET.value, installed=False)
        return (self._finders[detector],)
