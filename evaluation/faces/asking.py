"""The faces service's own code, asked in this process; its networks are asked in a running Triton."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from services.common.images import Picture, decode_image
from services.common.limiter import WorkLimiter
from services.common.triton import TritonClient
from services.faces.describing import Describer
from services.faces.finders import Finders, InThread
from services.faces.finders.haar import HaarFinder
from services.faces.finders.mediapipe import MediaPipeFinder
from services.faces.finders.yunet import YuNetFinder
from services.faces.settings import FacesSettings

__all__ = ["Faces", "open_faces", "picture_at"]

TRITON_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Faces:
    """What finds faces and what describes them."""

    finders: Finders
    describer: Describer


@asynccontextmanager
async def open_faces(triton_address: str) -> AsyncIterator[Faces]:
    """The parts of the faces service, wired as it wires them, for the body of the `async with`."""
    settings = FacesSettings()
    limiter = WorkLimiter(workers=2, queue=64)
    async with TritonClient.connect(triton_address, timeout_seconds=TRITON_SECONDS) as triton:
        finders = Finders(
            [
                YuNetFinder(triton, limiter),
                InThread(MediaPipeFinder(settings.mediapipe_asset), limiter),
                InThread(HaarFinder(), limiter),
            ],
            max_faces=settings.max_faces,
        )
        try:
            await finders.warm_up()
            yield Faces(finders, Describer(triton, limiter, biometrics=True))
        finally:
            finders.close()
            limiter.close()


def picture_at(path: Path) -> Picture:
    """A picture of the data, decoded as the service decodes it."""
    return decode_image(path.read_bytes())
