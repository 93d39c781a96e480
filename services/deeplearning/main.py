"""Wires the deeplearning service together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.common.analyzer import Analyzer
from services.common.detection import Finding
from services.common.images import Picture
from services.common.limiter import WorkLimiter
from services.common.models import ModelCatalogue
from services.common.server import Register, run_server
from services.common.settings import load_settings
from services.common.triton import TritonClient
from services.common.version import VERSION
from services.deeplearning.detectors import NetworkDetector, registry
from services.deeplearning.models import MODELS
from services.deeplearning.networks import FactBook, Networks
from services.deeplearning.servicer import DeepLearningServicer
from services.deeplearning.settings import DeepLearningSettings

__all__ = ["NAME", "main", "wire"]

NAME = "deeplearning"


def main() -> None:
    """Serves until told to stop."""
    settings = load_settings(DeepLearningSettings)
    run_server(NAME, VERSION, settings, lambda: wire(settings))


@asynccontextmanager
async def wire(settings: DeepLearningSettings) -> AsyncIterator[Register]:
    """What the service needs, for as long as it serves."""
    async with TritonClient.connect(settings.triton_address, timeout_seconds=settings.triton_timeout_seconds) as triton:
        detectors = registry.load("services.deeplearning.detectors")
        catalogue = ModelCatalogue(MODELS, triton, settings.home)
        facts = FactBook(triton)

        def networks_of(picture: Picture, wants_mask: bool) -> Networks:
            return Networks(picture, triton, facts, wants_mask=wants_mask)

        def analyzer_of(networks: Networks | None) -> Analyzer:
            async def invoke(detector: NetworkDetector, picture: Picture) -> Finding:
                assert networks is not None, "an analyser without networks only tells of its detectors"
                return await detector(picture, networks)

            return Analyzer(NAME, detectors, invoke, digest_of=catalogue.digest_of, is_own=catalogue.is_own)

        limiter = WorkLimiter(workers=settings.workers, queue=settings.queue)
        servicer = DeepLearningServicer(
            networks_of=networks_of,
            analyzer_of=analyzer_of,
            catalogue=catalogue,
            limiter=limiter,
            limits=settings.image_limits,
        )
        try:
            yield servicer.register
        finally:
            limiter.close()
