"""The queue of jobs: rows in the same database (procrastinate), so that a job is there exactly if its batch is.

The names of the jobs and of their queues are what the orchestrator, which puts jobs in, and the workers, which take
them out, have in common.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import procrastinate
from psycopg_pool import AsyncConnectionPool

__all__ = ["ANALYZE_JOB", "ANNOUNCE_JOB", "IMAGE_QUEUE", "WEBHOOK_QUEUE", "JobQueue", "database_pool"]

IMAGE_QUEUE: Final = "images"
ANALYZE_JOB: Final = "analyze_image"
WEBHOOK_QUEUE: Final = "webhooks"
ANNOUNCE_JOB: Final = "announce_batch"

CONNECTION_SECONDS: Final = 3.0
"""Longest wait for a connection, while the database is away or all are in use."""


@asynccontextmanager
async def database_pool(url: str, *, connections: int) -> AsyncIterator[AsyncConnectionPool[Any]]:
    """Connections to the database, which need not be up yet, for the body of the `async with`."""
    pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
        url,
        min_size=1,
        max_size=connections,
        open=False,
        timeout=CONNECTION_SECONDS,
        reconnect_timeout=3600.0,
        check=AsyncConnectionPool.check_connection,
        kwargs={
            "connect_timeout": 2,
            # A database that went without a word (a machine that is off) is noticed.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
        },
    )
    await pool.open(wait=False)
    try:
        yield pool
    finally:
        await pool.close()


class JobQueue:
    """Puts jobs in, as part of a transaction: they are there if it is committed, and only then."""

    def __init__(self) -> None:
        self._app = procrastinate.App(connector=procrastinate.PsycopgConnector())

    async def put_images(self, connection: Any, batch_id: str, positions: list[int]) -> list[int]:
        """A job for each of these pictures of a batch; returns their numbers, in the same order."""
        put = self._app.configure_task(ANALYZE_JOB, queue=IMAGE_QUEUE, connection=connection)
        arguments: list[dict[str, Any]] = [{"batch_id": batch_id, "position": position} for position in positions]
        return await put.batch_defer_async(*arguments)

    async def put_announcement(self, connection: Any, batch_id: str) -> None:
        """A job that tells a batch's webhook of its end."""
        put = self._app.configure_task(ANNOUNCE_JOB, queue=WEBHOOK_QUEUE, connection=connection)
        await put.defer_async(batch_id=batch_id)
