"""Wires the faces service together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from services.common.analyzer import Analyzer
from services.common.detection import Finding
from services.common.images import Picture
from services.common.limiter import WorkLimiter
from services.common.models import ModelCatalogue
from services.common.server import Register, run_server
from services.common.settings import load_settings
from services.common.triton import TritonClient
from services.common.version import VERSION
from services.faces.describing import Describer, Description
from services.faces.detectors import FaceForensics, registry
from services.faces.finders import Finders, InThread
from services.faces.finders.haar import HaarFinder
from services.faces.finders.mediapipe import MediaPipeFinder
from services.faces.finders.yunet import YuNetFinder
from services.faces.models import MODELS
from services.faces.servicer import FacesServicer
from services.faces.settings import FacesSettings

__all__ = ["NAME", "main", "wire"]

NAME = "faces"

log = structlog.get_logger()


def main() -> None:
    """Serves until told to stop."""
    settings = load_settings(FacesSettings)
    run_server(NAME, VERSION, settings, lambda: wire(settings))


@asynccontextmanager
async def wire(settings: FacesSettings) -> AsyncIterator[Register]:
    """What the service needs, for as long as it serves."""
    async with TritonClient.connect(settings.triton_address, timeout_seconds=settings.triton_timeout_seconds) as triton:
        detectors = registry.load("services.faces.detectors")
        catalogue = ModelCatalogue(MODELS, triton, settings.home)

        def analyzer_of(description: Description) -> Analyzer:
            async def invoke(detector: FaceForensics, picture: Picture) -> Finding:
                return await detector(picture, description)

            return Analyzer(NAME, detectors, invoke, digest_of=catalogue.digest_of)

        limiter = WorkLimiter(workers=settings.workers, queue=settings.queue)
        finders = Finders(
            [
                YuNetFinder(triton, limiter),
                InThread(MediaPipeFinder(settings.mediapipe_asset), limiter),
                InThread(HaarFinder(), limiter),
            ],
            max_faces=settings.max_faces,
        )
        servicer = FacesServicer(
            finders=finders,
            describer=Describer(triton, limiter, biometrics=settings.biometrics),
            analyzer_of=analyzer_of,
            catalogue=catalogue,
            limiter=limiter,
            limits=settings.image_limits,
            biometrics=settings.biometrics,
        )
        warming = asyncio.create_task(_warm_up(finders))
        try:
            yield servicer.register
        finally:
            warming.cancel()
            limiter.close()
            finders.close()


async def _warm_up(finders: Finders) -> None:
    """Loads the finders behind the start, so that the service is up at once and its first call still fast."""
    try:
        await finders.warm_up()
    except Exception:
        log.exception("warm_up_failed")
