"""What looks for faces, one finder a file, and the choice among them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.common.errors import ModelUnavailable
from services.common.images import Picture
from services.common.limiter import WorkLimiter
from services.faces.face import DetectedFace, FaceDetector
from services.faces.finders.consensus import DEFAULT_CONFIDENCE, fused

__all__ = ["FaceFinder", "Finder", "Finders", "Found", "InThread"]


class FaceFinder(Protocol):
    """Looks for faces in this process. Implementations are thread-safe."""

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


class Finder(Protocol):
    """Looks for faces, wherever the work is done."""

    @property
    def detector(self) -> FaceDetector:
        """What it is called in the contract."""
        ...

    @property
    def default_confidence(self) -> float:
        """From which it takes something for a face unless the caller says otherwise, 0 to 1."""
        ...

    async def find(self, picture: Picture, *, min_confidence: float) -> list[DetectedFace]:
        """As `FaceFinder.find`."""
        ...

    async def warm_up(self) -> None:
        """Loads what the first call would have to wait for."""
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


class InThread:
    """A finder of this process, which looks in a thread of the limiter's."""

    def __init__(self, finder: FaceFinder, limiter: WorkLimiter) -> None:
        self._finder = finder
        self._limiter = limiter
        self.detector = finder.detector
        self.default_confidence = finder.default_confidence

    async def find(self, picture: Picture, *, min_confidence: float) -> list[DetectedFace]:
        """As `FaceFinder.find`."""
        return await self._limiter.run(self._finder.find, picture, min_confidence=min_confidence)

    async def warm_up(self) -> None:
        """Loads what the first call would have to wait for."""
        await self._limiter.run(self._finder.warm_up)

    def close(self) -> None:
        """Frees what it holds."""
        self._finder.close()


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

    def __init__(self, finders: Sequence[Finder], *, max_faces: int) -> None:
        self._finders = {finder.detector: finder for finder in finders}
        self._max_faces = max_faces

    async def find(
        self,
        picture: Picture,
        detector: FaceDetector | None = None,
        *,
        max_faces: int | None = None,
        min_confidence: float | None = None,
    ) -> Found:
        """Looks for faces.

        Args:
            picture: where to look.
            detector: which finder; None for the first one that is available; CONSENSUS asks all, side by side.
            max_faces: most faces wanted, the most confident ones; None for this deployment's limit.
            min_confidence: faces below it are left out, 0 to 1; None for the finder's own threshold.

        Raises:
            ModelUnavailable: the finder that was asked for is not there; or none is.
        """
        limit = min(max_faces or self._max_faces, self._max_faces)
        if detector is FaceDetector.CONSENSUS:
            return await self._agree(picture, limit, DEFAULT_CONFIDENCE if min_confidence is None else min_confidence)
        passed_over: list[ModelUnavailable] = []
        for finder in self._candidates(detector):
            threshold = finder.default_confidence if min_confidence is None else min_confidence
            try:
                faces = await finder.find(picture, min_confidence=threshold)
            except ModelUnavailable as error:
                passed_over.append(error)
                continue
            return Found(tuple(faces[:limit]), tuple(passed_over), finder.detector)
        raise passed_over[0]

    async def _agree(self, picture: Picture, limit: int, min_confidence: float) -> Found:
        """What all finders that are there see, each at its own threshold."""
        finders = list(self._finders.values())
        answers = await asyncio.gather(*(self._ask(finder, picture) for finder in finders))
        away = tuple(answer for answer in answers if isinstance(answer, ModelUnavailable))
        seen = {
            finder.detector: answer
            for finder, answer in zip(finders, answers, strict=True)
            if not isinstance(answer, ModelUnavailable)
        }
        if not seen:
            raise away[0]
        faces = [face for face in fused(seen) if face.confidence >= min_confidence]
        return Found(tuple(faces[:limit]), away, FaceDetector.CONSENSUS)

    async def _ask(self, finder: Finder, picture: Picture) -> list[DetectedFace] | ModelUnavailable:
        try:
            return await finder.find(picture, min_confidence=finder.default_confidence)
        except ModelUnavailable as error:
            return error

    async def warm_up(self) -> None:
        """Loads what the first calls would have to wait for."""
        for finder in self._finders.values():
            await finder.warm_up()

    def close(self) -> None:
        """Frees what the finders hold."""
        for finder in self._finders.values():
            finder.close()

    def _candidates(self, detector: FaceDetector | None) -> Sequence[Finder]:
        if detector is None:
            return tuple(self._finders.values())
        if detector not in self._finders:
            raise ModelUnavailable(detector.value, installed=False)
        return (self._finders[detector],)
