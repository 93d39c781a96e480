"""Wires the orchestrator together."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

from services.common.channel import open_channel
from services.common.limiter import AdmissionLimiter, WorkLimiter
from services.common.server import Register, Servicer, run_server
from services.common.settings import load_settings
from services.common.triton import TritonClient
from services.common.version import VERSION
from services.orchestrator.analyzers import Analyzers
from services.orchestrator.engine import AnalysisEngine, Priors
from services.orchestrator.fetching import UrlFetcher
from services.orchestrator.health import HealthReporter
from services.orchestrator.intake import Intake
from services.orchestrator.rest.deepfake import DeepfakeServicer
from services.orchestrator.rest.image_interface import ImageInterfaceServicer
from services.orchestrator.rest.manipulation import ManipulationServicer
from services.orchestrator.rest.profile import ProfileServicer
from services.orchestrator.rest.screening import ScreeningServicer
from services.orchestrator.servicer import AnalysisServicer, SystemServicer
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.storage import AnalysisStore

__all__ = ["NAME", "main", "wire"]

NAME = "orchestrator"


def main() -> None:
    """Serves until told to stop."""
    settings = load_settings(OrchestratorSettings)
    # It warns of every malformed form, which is the client's business and is answered as such.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    run_server(NAME, VERSION, settings, lambda: wire(settings))


@asynccontextmanager
async def wire(settings: OrchestratorSettings) -> AsyncIterator[Register]:
    """What the service needs, for as long as it serves."""
    async with AsyncExitStack() as stack:
        addresses = {
            "passive": settings.passive_address,
            "deeplearning": settings.deeplearning_address,
            "faces": settings.faces_address,
        }
        channels = {
            name: await stack.enter_async_context(open_channel(address, max_message_bytes=settings.max_message_bytes))
            for name, address in addresses.items()
        }
        triton = await stack.enter_async_context(TritonClient.connect(settings.triton_address))
        store = await stack.enter_async_context(AnalysisStore.connect(settings.database_url))
        fetcher = await stack.enter_async_context(
            UrlFetcher(
                max_bytes=settings.max_image_bytes,
                total_seconds=settings.fetch_timeout_seconds,
                allow_loopback=settings.fetch_allow_loopback,
            )
        )
        work = WorkLimiter(workers=settings.workers, queue=settings.queue)
        stack.callback(work.close)

        intake = Intake(fetcher, work=work, limits=settings.image_limits)
        analyzers = Analyzers(channels, timeout_seconds=settings.analyzer_timeout_seconds)
        engine = AnalysisEngine(
            analyzers=analyzers,
            store=store,
            intake=intake,
            admission=AdmissionLimiter(settings.max_concurrent_analyses),
            priors=Priors(generated=settings.prior_generated, edited=settings.prior_edited),
        )
        servicers: list[Servicer] = [
            AnalysisServicer(engine, intake, store),
            SystemServicer(analyzers, HealthReporter(channels, triton, store)),
            ImageInterfaceServicer(analyzers.passive, intake),
            ManipulationServicer(analyzers.deeplearning, intake),
            ScreeningServicer(engine, intake, work=work, limits=settings.image_limits),
            ProfileServicer(analyzers.faces, intake),
            DeepfakeServicer(analyzers.faces, intake),
        ]

        def register(server: grpc.aio.Server) -> Sequence[str]:
            return [name for servicer in servicers for name in servicer.register(server)]

        yield register
