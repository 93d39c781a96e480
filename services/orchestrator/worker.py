"""The worker: `python -m services.orchestrator.worker`. Does the work of batches; see `batch_worker.py`.

Any number of workers share the work, on one machine or many; they have the orchestrator's settings. On SIGTERM a worker
takes no more jobs, finishes what it can within the grace time, and puts the rest back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import grpc

from services.common.server import Register, run_server
from services.common.settings import load_settings
from services.common.version import VERSION
from services.orchestrator.batch_store import BatchStore
from services.orchestrator.batch_work import ImageWork, KeptLater
from services.orchestrator.batch_worker import BatchWorker
from services.orchestrator.database import open_pool
from services.orchestrator.job_queue import JobQueue
from services.orchestrator.objects import open_objects
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.wiring import BATCH_CONNECTION_SECONDS, open_core, open_webhooks

__all__ = ["NAME", "main", "wire"]

NAME: Final = "worker"

SPARE_CONNECTIONS: Final = 6
"""To the database, beside one for each picture."""


@asynccontextmanager
async def wire(settings: OrchestratorSettings) -> AsyncIterator[Register]:
    """A worker, for as long as the process serves (which is health and nothing else)."""
    async with AsyncExitStack() as stack:
        analyses = await stack.enter_async_context(KeptLater.connect(settings.database_url))
        core = await stack.enter_async_context(open_core(settings, analyses))
        pool = await stack.enter_async_context(
            open_pool(
                settings.database_url,
                connections=settings.worker_concurrency + SPARE_CONNECTIONS,
                wait_seconds=BATCH_CONNECTION_SECONDS,
            )
        )
        objects = open_objects(settings.object_store, home=settings.home)
        store = BatchStore(pool, JobQueue(), batch_seconds=settings.batch_timeout_seconds)
        images = ImageWork(
            store=store,
            analyses=analyses,
            engine=core.engine,
            intake=core.intake,
            objects=objects,
            image_seconds=settings.image_timeout_seconds,
            batch_seconds=settings.batch_timeout_seconds,
        )
        worker = BatchWorker(
            pool=pool,
            store=store,
            images=images,
            webhooks=open_webhooks(settings, core),
            objects=objects,
            concurrency=settings.worker_concurrency,
            batch_seconds=settings.batch_timeout_seconds,
            grace_seconds=settings.grace_seconds,
        )
        await stack.enter_async_context(worker.running())

        def register(_: grpc.aio.Server) -> Sequence[str]:
            return []

        yield register


def main() -> None:
    """Works until told to stop."""
    settings = load_settings(OrchestratorSettings)
    if not settings.database_url:
        raise SystemExit("setting DATABASE_URL: a worker needs the database that holds the queue")
    run_server(NAME, VERSION, settings, lambda: wire(settings))


if __name__ == "__main__":
    main()
