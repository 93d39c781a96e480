"""What the orchestrator and its workers have in common: the way from a file to a decision."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc

from services.common.calibration import read_calibration
from services.common.channel import open_channel
from services.common.limiter import AdmissionLimiter, WorkLimiter
from services.orchestrator.analyzers import Analyzers, DeepLearningClient, FacesClient, PassiveClient
from services.orchestrator.batch_store import BatchStore
from services.orchestrator.batches import Batches
from services.orchestrator.database import open_pool
from services.orchestrator.engine import AnalysisEngine
from services.orchestrator.fetching import UrlFetcher
from services.orchestrator.gallery import Gallery, GalleryStore
from services.orchestrator.intake import Intake
from services.orchestrator.job_queue import JobQueue
from services.orchestrator.objects import open_objects
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.storage import AnalysisStore
from services.orchestrator.webhooks import Webhooks

__all__ = [
    "BATCH_CONNECTION_SECONDS",
    "Core",
    "direct_clients",
    "open_batches",
    "open_core",
    "open_gallery",
    "open_webhooks",
]

BATCH_CONNECTIONS: Final = 8
BATCH_CONNECTION_SECONDS: Final = 3.0
"""Longest wait for one of them."""


@dataclass(frozen=True, slots=True)
class Core:
    """The parts of an analysis, wired together.

    Attributes:
        channels: to the analysers, by service name.
        fetcher: fetches pictures by URL.
        work: threads.
        intake: reads and checks pictures.
        analyzers: the services to ask.
        engine: analyses.
    """

    channels: Mapping[str, grpc.aio.Channel]
    fetcher: UrlFetcher
    work: WorkLimiter
    intake: Intake
    analyzers: Analyzers
    engine: AnalysisEngine


@asynccontextmanager
async def open_core(settings: OrchestratorSettings, store: AnalysisStore) -> AsyncIterator[Core]:
    """The parts, for the body of the `async with`; analyses are kept in `store`."""
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
            deployment_policy=settings.policy,
            calibration=read_calibration(settings.calibration),
            reuse_seconds=settings.reuse_seconds,
            biometrics=settings.biometrics,
        )
        yield Core(channels, fetcher, work, intake, analyzers, engine)


def direct_clients(
    settings: OrchestratorSettings, channels: Mapping[str, grpc.aio.Channel]
) -> tuple[PassiveClient, DeepLearningClient, FacesClient]:
    """The services for questions outside of analyses, each bounded by itself: what runs at once, and what waits.

    Analyses ask through clients of their own (`Core.analyzers`), so that such questions never take their places.
    """

    def limits() -> dict[str, Any]:
        admission = AdmissionLimiter(settings.max_concurrent_questions, waiting=settings.max_waiting_questions)
        return {"timeout_seconds": settings.analyzer_timeout_seconds, "admission": admission}

    return (
        PassiveClient(channels["passive"], **limits()),
        DeepLearningClient(channels["deeplearning"], **limits()),
        FacesClient(channels["faces"], **limits()),
    )


@asynccontextmanager
async def open_batches(settings: OrchestratorSettings, core: Core) -> AsyncIterator[tuple[BatchStore, Batches]]:
    """Batches as the front door needs them; without a database all of it is `Unavailable`."""
    async with AsyncExitStack() as stack:
        pool = None
        if settings.database_url:
            pool = await stack.enter_async_context(
                open_pool(settings.database_url, connections=BATCH_CONNECTIONS, wait_seconds=BATCH_CONNECTION_SECONDS)
            )
        store = BatchStore(
            pool, JobQueue(), batch_seconds=settings.batch_timeout_seconds, biometrics=settings.biometrics
        )
        batches = Batches(
            store,
            open_objects(settings.object_store, home=settings.home),
            open_webhooks(settings, core),
            batch_seconds=settings.batch_timeout_seconds,
            keep_seconds=3600 * settings.upload_retention_hours,
            max_waiting_images=settings.max_waiting_images,
        )
        stack.callback(batches.close)
        yield store, batches


@asynccontextmanager
async def open_gallery(settings: OrchestratorSettings) -> AsyncIterator[Gallery]:
    """The gallery; without one no connection is made, and nothing of it is in the database."""
    async with AsyncExitStack() as stack:
        store = None
        if settings.gallery and settings.database_url:
            store = await stack.enter_async_context(GalleryStore.connect(settings.database_url))
        yield Gallery(store, enabled=settings.gallery, biometrics=settings.biometrics)


def open_webhooks(settings: OrchestratorSettings, core: Core) -> Webhooks:
    """What announces ends; where loopback may be fetched from (tests), it may be announced to without https."""
    return Webhooks(core.fetcher, key=settings.webhook_key, https_only=not settings.fetch_allow_loopback)
