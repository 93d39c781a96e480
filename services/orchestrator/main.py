"""Wires the orchestrator together."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

from services.common.limiter import AdmissionLimiter
from services.common.server import Register, Servicer, run_server
from services.common.settings import load_settings
from services.common.triton import TritonClient
from services.common.version import VERSION
from services.orchestrator.batch_servicer import BatchServicer
from services.orchestrator.face_servicer import FaceServicer
from services.orchestrator.gallery_servicer import GalleryServicer
from services.orchestrator.health import HealthReporter
from services.orchestrator.rest.deepfake import DeepfakeServicer
from services.orchestrator.rest.documentation import DocumentationServicer
from services.orchestrator.rest.image_interface import ImageInterfaceServicer
from services.orchestrator.rest.manipulation import ManipulationServicer
from services.orchestrator.rest.profile import ProfileServicer
from services.orchestrator.rest.screening import ScreeningServicer
from services.orchestrator.servicer import AnalysisServicer, SystemServicer
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.storage import AnalysisStore
from services.orchestrator.wiring import direct_clients, open_batches, open_core, open_gallery

__all__ = ["NAME", "main", "wire"]

NAME = "orchestrator"
WAITING_MARGIN_SECONDS = 15
"""Who waits for a batch may wait a little longer than a batch may take (and less than the edge waits)."""


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
        triton = await stack.enter_async_context(TritonClient.connect(settings.triton_address))
        store = await stack.enter_async_context(
            AnalysisStore.connect(settings.database_url, biometrics=settings.biometrics)
        )
        core = await stack.enter_async_context(open_core(settings, store))
        engine, intake, analyzers = core.engine, core.intake, core.analyzers
        passive, deeplearning, faces = direct_clients(settings, core.channels)
        # What the engine makes leaves its row in the audit when it is kept; what goes by it, when it is looked at.
        audited = intake.reporting_to(store.note_call)
        gallery = await stack.enter_async_context(open_gallery(settings))
        batch_store, batches = await stack.enter_async_context(open_batches(settings, core))
        health = HealthReporter(core.channels, triton, store, analyzers, batch_store)
        servicers: list[Servicer] = [
            AnalysisServicer(engine, intake, store, batches),
            BatchServicer(batches, intake),
            SystemServicer(analyzers, health),
            FaceServicer(engine, faces, gallery, intake),
            GalleryServicer(gallery, faces, intake),
            ImageInterfaceServicer(passive, audited, work=core.work, limits=settings.image_limits),
            ManipulationServicer(deeplearning, audited),
            ScreeningServicer(
                engine,
                intake,
                batches,
                work=core.work,
                limits=settings.image_limits,
                waiting=AdmissionLimiter(settings.max_waiting_batches),
                wait_seconds=settings.batch_timeout_seconds + WAITING_MARGIN_SECONDS,
            ),
            ProfileServicer(faces, audited),
            DeepfakeServicer(faces, audited),
            DocumentationServicer(),
        ]

        def register(server: grpc.aio.Server) -> Sequence[str]:
            return [name for servicer in servicers for name in servicer.register(server)]

        yield register
