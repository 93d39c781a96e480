"""The queue of jobs: rows in the same database (procrastinate), so that a job is there exactly if its batch is.

The names of the jobs and of their queues are what the orchestrator, which puts jobs in, and the workers, which take
them out, have in common.
"""

from __future__ import annotations

from typing import Any, Final

import procrastinate

__all__ = ["ANALYZE_JOB", "ANNOUNCE_JOB", "IMAGE_QUEUE", "WEBHOOK_QUEUE", "JobQueue"]

IMAGE_QUEUE: Final = "images"
ANALYZE_JOB: Final = "analyze_image"
WEBHOOK_QUEUE: Final = "webhooks"
ANNOUNCE_JOB: Final = "announce_batch"


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
