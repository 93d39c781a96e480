"""Takes the jobs of batches out of the queue, and does them.

A worker says that it lives once a second. The others put the jobs of one that stopped saying so back into the queue,
end batches whose time is over, and see to it that every unfinished picture has a job, whatever happened to it; every
worker does all of this, for it may be the only one. While the database is away it waits.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import procrastinate
import psycopg
import structlog
from procrastinate.exceptions import ConnectorException, JobAborted
from procrastinate.job_context import AbortReason, JobContext
from procrastinate.jobs import DeleteJobCondition, Job
from procrastinate.retry import BaseRetryStrategy, RetryDecision
from procrastinate.worker import Worker
from prometheus_client import Gauge
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from services.common.errors import NotFound, Overloaded, PentimentoError, RejectedUrl, Unavailable
from services.orchestrator.batch_store import BatchStore
from services.orchestrator.batch_work import Again, ImageWork
from services.orchestrator.batches import out_of_time
from services.orchestrator.job_queue import ANALYZE_JOB, ANNOUNCE_JOB, IMAGE_QUEUE, WEBHOOK_QUEUE
from services.orchestrator.objects import ObjectStore
from services.orchestrator.retention import delete_expired_uploads, sweep_orphans
from services.orchestrator.webhooks import DELAYS, Webhooks

__all__ = ["BatchWorker"]

HEARTBEAT_SECONDS: Final = 1.0
SILENT_SECONDS: Final = 5.0
"""A worker that has not said that it lives for so long is believed dead."""

NEVER_SECONDS: Final = 1e6

POLL_SECONDS: Final = 1.0
"""How often jobs are looked for that nobody announced: those whose pause is over."""

DEFECT_PAUSE_SECONDS: Final = 5.0
"""When a job is done again that failed in a way that nobody foresaw."""

RESTART_SECONDS: Final = 0.5
ANNOUNCEMENTS_AT_ONCE: Final = 4

# How often each part of the upkeep runs.
RESCUE_SECONDS: Final = 1.0
REQUEUE_SECONDS: Final = 5.0
RETENTION_SECONDS: Final = 30.0
SWEEP_SECONDS: Final = 600.0

WAITING = Gauge("pentimento_batch_images_waiting", "Pictures of batches that wait for a worker.")

_AWAY: Final = (PentimentoError, ConnectorException, psycopg.Error, PoolTimeout, TimeoutError, OSError)

log = structlog.get_logger()


class _Retries(BaseRetryStrategy):
    """Does a job again that says so, or that failed in a way that nobody foresaw; not one that was stopped."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        if isinstance(exception, JobAborted | asyncio.CancelledError):
            return None
        seconds = exception.seconds if isinstance(exception, Again) else DEFECT_PAUSE_SECONDS
        return RetryDecision(retry_at=dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds))


class _PatientConnector(procrastinate.PsycopgConnector):
    """Listens for jobs again when it could not.

    procrastinate (3.10) lets a worker whose listening or sign of life failed go on without: it looks after these only
    until the first of its side tasks ends, which its deferrer of periodic tasks does at once (its issue 1597).
    """

    async def listen_notify(self, on_notification: Any, channels: Iterable[str]) -> None:
        channels = list(channels)
        while True:
            try:
                await super().listen_notify(on_notification, channels)
            except _AWAY as error:
                log.debug("not_listening", error=type(error).__name__)
            await asyncio.sleep(RESTART_SECONDS)


class BatchWorker:
    """Takes jobs and does them.

    Args:
        pool: connections to the database, one for each job and a few more.
        store: batches.
        images: does a picture.
        webhooks: announce ends.
        objects: where pictures are kept.
        concurrency: pictures at a time.
        batch_seconds: how long a batch may take.
        grace_seconds: how long pictures in progress may go on when it is stopped.
    """

    def __init__(
        self,
        *,
        pool: AsyncConnectionPool[Any],
        store: BatchStore,
        images: ImageWork,
        webhooks: Webhooks,
        objects: ObjectStore,
        concurrency: int,
        batch_seconds: float,
        grace_seconds: float,
    ) -> None:
        self._pool = pool
        self._store = store
        self._images = images
        self._webhooks = webhooks
        self._objects = objects
        self._concurrency = concurrency
        self._out_of_time = out_of_time(batch_seconds)
        self._grace_seconds = grace_seconds
        self._app = procrastinate.App(connector=_PatientConnector())
        retry = _Retries()
        self._app.task(name=ANALYZE_JOB, queue=IMAGE_QUEUE, pass_context=True, retry=retry)(self._analyze)
        self._app.task(name=ANNOUNCE_JOB, queue=WEBHOOK_QUEUE, pass_context=True, retry=retry)(self._announce)
        self._workers: dict[str, Worker] = {}  # by queue

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works during the body of the `async with`; on the way out, finishes or gives back what it has."""
        await self._app.open_async(self._pool)
        alive = asyncio.create_task(self._repeat(HEARTBEAT_SECONDS, self._say_alive))
        tasks = [
            asyncio.create_task(self._work(IMAGE_QUEUE, self._concurrency)),
            asyncio.create_task(self._work(WEBHOOK_QUEUE, ANNOUNCEMENTS_AT_ONCE)),
            asyncio.create_task(self._repeat(RESCUE_SECONDS, self._rescue)),
            asyncio.create_task(self._repeat(REQUEUE_SECONDS, self._requeue)),
            asyncio.create_task(self._repeat(RETENTION_SECONDS, self._retain)),
            asyncio.create_task(self._repeat(SWEEP_SECONDS, self._sweep)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            alive.cancel()
            await asyncio.gather(alive, return_exceptions=True)

    # ---- jobs ----

    async def _work(self, queue: str, concurrency: int) -> None:
        """Takes jobs out of a queue until it is cancelled, and then finishes them or puts them back."""
        is_away = False
        while True:
            worker = self._workers[queue] = Worker(
                self._app,
                queues=[queue],
                name=queue,
                concurrency=concurrency,
                install_signal_handlers=False,
                fetch_job_polling_interval=POLL_SECONDS,
                abort_job_polling_interval=POLL_SECONDS,
                update_heartbeat_interval=NEVER_SECONDS,
                stalled_worker_timeout=SILENT_SECONDS,
                shutdown_graceful_timeout=self._grace_seconds,
                delete_jobs=DeleteJobCondition.ALWAYS,
            )
            try:
                await worker.run()  # type: ignore[no-untyped-call]
            except _AWAY as error:
                # The database is away, or the queue's tables are not there yet.
                if not is_away:
                    log.warning("queue_unavailable", queue=queue, error=type(error).__name__)
                is_away = True
            else:
                is_away = False
            await asyncio.sleep(RESTART_SECONDS)

    async def _analyze(self, context: JobContext, batch_id: str, position: int) -> None:
        identifier = uuid.UUID(batch_id)
        try:
            await self._images.run(identifier, position)
        except asyncio.CancelledError:
            if context.abort_reason() is AbortReason.SHUTDOWN:
                log.info("batch_image_given_back", batch=batch_id, position=position)
                with suppress(Unavailable):
                    await self._images.give_back(identifier, position)
                raise Again(0) from None
            raise JobAborted from None

    async def _announce(self, context: JobContext, batch_id: str) -> None:
        try:
            batch = await self._store.get(uuid.UUID(batch_id), items=True)
        except NotFound:
            return
        batch.ClearField("items")
        try:
            if await self._webhooks.announce(batch):
                return
            reason = "NOT_CONFIRMED"
        except RejectedUrl as error:
            reason = error.reason
        except Overloaded as error:
            # It was this worker that had no hand free: no attempt at all.
            log.info("webhook_postponed", batch=batch_id, reason=error.reason)
            raise Again(error.retry_after_seconds or DEFECT_PAUSE_SECONDS) from error
        except asyncio.CancelledError:
            if context.abort_reason() is AbortReason.SHUTDOWN:
                raise Again(0) from None
            raise
        if context.job.attempts >= len(DELAYS):
            log.error("webhook_given_up", batch=batch_id, reason=reason)
            return
        log.info("webhook_again", batch=batch_id, reason=reason, attempts=context.job.attempts + 1)
        raise Again(DELAYS[context.job.attempts])

    # ---- upkeep ----

    @staticmethod
    async def _repeat(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            began = time.monotonic()
            try:
                await work()
            except _AWAY as error:
                log.debug("upkeep_postponed", error=type(error).__name__)
            except Exception:
                log.exception("upkeep_failed")
            await asyncio.sleep(max(0.0, seconds - (time.monotonic() - began)))

    async def _say_alive(self) -> None:
        # Here and not by the queue itself, which falls silent at the first statement that fails, and while it finishes
        # the last jobs: others would begin them again.
        for worker in self._workers.values():
            if worker.worker_id is not None:
                await self._app.job_manager.update_heartbeat(worker.worker_id)

    async def _rescue(self) -> None:
        """Puts back the jobs of dead workers, ends batches whose time is over."""
        manager = self._app.job_manager
        for job in await manager.get_stalled_jobs(seconds_since_heartbeat=SILENT_SECONDS):
            log.warning("job_rescued", job=job.id, task=job.task_name, **job.task_kwargs)
            with suppress(ConnectorException):  # another worker was faster
                await manager.retry_job(job)
        await manager.prune_stalled_workers(10 * SILENT_SECONDS)
        for batch_id in await self._store.overdue():
            log.warning("batch_out_of_time", batch=str(batch_id))
            await self._store.end(batch_id, self._out_of_time)
        WAITING.set(await self._store.count_waiting())

    async def _requeue(self) -> None:
        if lost := await self._store.requeue_lost():
            log.warning("lost_jobs_requeued", images=lost)

    async def _retain(self) -> None:
        more = True
        while more:
            more = bool(await delete_expired_uploads(self._store, self._objects))

    async def _sweep(self) -> None:
        await sweep_orphans(self._store, self._objects)
