"""YuNet: a small network (about 76,000 weights) that finds faces of all sizes; served by Triton.

`looks` says what it is shown, and how its answers are read.
"""

from __future__ import annotations

import asyncio
from typing import Final

from services.common.images import Picture
from services.common.limiter import WorkLimiter
from services.faces.asking import ModelClient
from services.faces.face import DetectedFace, FaceDetector
from services.faces.finders.looks import DEFAULT_CONFIDENCE, INPUT, OUTPUTS, faces_of, looks_at
from services.faces.models import YUNET

__all__ = ["YuNetFinder"]


class YuNetFinder:
    """Finds faces by asking Triton.

    Args:
        client: where the network is asked.
        limiter: where pixels are worked on.
    """

    detector: Final = FaceDetector.YUNET
    default_confidence: Final = DEFAULT_CONFIDENCE

    def __init__(self, client: ModelClient, limiter: WorkLimiter) -> None:
        self._client = client
        self._limiter = limiter

    async def find(self, picture: Picture, *, min_confidence: float) -> list[DetectedFace]:
        """The faces, most confident first.

        Args:
            picture: where to look.
            min_confidence: faces below it are left out, 0 to 1.

        Raises:
            ModelUnavailable: the network is not installed, or Triton does not answer.
        """
        looks = await self._limiter.run(looks_at, picture)
        answers = await asyncio.gather(
            *(self._client.infer(YUNET.name, {INPUT: look.pixels}, OUTPUTS) for look in looks)
        )
        return await self._limiter.run(faces_of, picture, looks, answers, min_confidence)

    async def warm_up(self) -> None:
        """Nothing: Triton does that."""

    def close(self) -> None:
        """Nothing: Triton holds the network."""
