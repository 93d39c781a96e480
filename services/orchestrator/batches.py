"""Batches from acceptance to deletion, whoever asks: the own API, the documented one, or a worker.

A batch is accepted when its pictures are in the object store and its rows and jobs in the database, in this order: a
crash in between leaves pictures that belong to nobody, which `retention.py` sweeps up, and never a batch without its
pictures. Deleting goes the same way: pictures first, then rows, so that whoever is told "deleted" can rely on it, and
whoever is not can ask again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import structlog
from pentimento.orchestrator.v1 import analysis_pb2, batch_service_pb2

from services.common.errors import InvalidInput, Overloaded, PentimentoError, Unavailable
from services.orchestrator.batch_store import (
    BatchPage,
    BatchStore,
    Ending,
    NewBatch,
    NewItem,
    no_such_batch,
)
from services.orchestrator.intake import Source, Upload
from services.orchestrator.objects import ObjectStore
from services.orchestrator.webhooks import Webhooks

__all__ = ["MAX_IMAGES", "UPLOADS", "Batches", "batch_id_of"]

MAX_IMAGES: Final = 50
"""Document 002: most pictures of a batch."""

UPLOADS: Final = "uploads/"
"""Where the pictures of batches lie in the object store."""

RETRY_FULL_SECONDS: Final = 30.0
FIRST_LOOK_SECONDS: Final = 0.1
LAST_LOOK_SECONDS: Final = 1.0
"""How long to wait between two looks at a batch: longer and longer."""

CLOCKS_DIFFER_SECONDS: Final = 5.0

GONE_SECONDS: Final = 0.5
"""A caller's batch is stopped so long after he has gone: if it was us who cut the connection, because this process is
being stopped, his batch goes on."""

INTERRUPTED: Final = Ending(
    "interrupted", "", "INTERRUPTED", "The batch was stopped before this picture had been analysed."
)

log = structlog.get_logger()


def out_of_time(batch_seconds: float) -> Ending:
    """The ending of a batch whose time is over."""
    limit = f"{batch_seconds / 60:.0f} minutes" if batch_seconds >= 120 else f"{batch_seconds:.0f} seconds"
    return Ending(
        "failed",
        "Processing timeout exceeded",
        "BATCH_TIMEOUT",
        f"The batch reached its limit of {limit} before this picture had been analysed.",
    )


class Batches:
    """Accepts, watches, stops and deletes batches.

    Args:
        store: the database.
        objects: where pictures are kept.
        webhooks: announce ends.
        batch_seconds: how long a batch may take from its first picture on.
        keep_seconds: how long pictures are kept.
        max_waiting_images: no more batches are accepted while so many pictures wait for a worker.
    """

    def __init__(
        self,
        store: BatchStore,
        objects: ObjectStore,
        webhooks: Webhooks,
        *,
        batch_seconds: float,
        keep_seconds: float,
        max_waiting_images: int,
    ) -> None:
        self._store = store
        self._objects = objects
        self._webhooks = webhooks
        self._batch_seconds = batch_seconds
        self._out_of_time = out_of_time(batch_seconds)
        self._keep_seconds = keep_seconds
        self._max_waiting_images = max_waiting_images
        self._stopping: set[asyncio.Task[None]] = set()

    async def accept(
        self,
        sources: AsyncIterable[Source],
        options: analysis_pb2.AnalysisOptions,
        *,
        webhook_uri: str = "",
        request_id: str = "",
    ) -> uuid.UUID:
        """Keeps a batch and returns its id; from then on it is worked on whatever dies.

        Args:
            sources: its pictures. Each is put away as soon as it comes, and not held in memory.
            options: how to analyse them.
            webhook_uri: where to announce its end, or "".
            request_id: the client's own name for this request, or "".

        Raises:
            InvalidInput: no picture, too many, or the request id was another request's.
            Forbidden: this deployment announces nothing.
            Overloaded: too many pictures wait already.
            Unavailable: it cannot be kept.
        """
        if webhook_uri:
            await self._webhooks.check(webhook_uri)
        if await self._store.count_waiting() >= self._max_waiting_images:
            raise Overloaded(
                "Too many pictures wait for analysis already. Try again later.",
                retry_after_seconds=RETRY_FULL_SECONDS,
                reason="QUEUE_FULL",
            )
        batch_id = uuid.uuid4()
        async with self._put_away(batch_id, sources, options, webhook_uri) as (items, digest):
            accepted = await self._store.create(
                NewBatch(
                    id=batch_id,
                    options=options,
                    items=items,
                    webhook_uri=webhook_uri,
                    request_id=request_id,
                    request_digest=digest,
                    keep_seconds=self._keep_seconds,
                )
            )
            if not accepted.is_new:
                await self._delete_objects([item.object_key for item in items if item.object_key])
        log.info("batch_accepted", batch=str(accepted.id), images=len(items), is_new=accepted.is_new)
        return accepted.id

    @asynccontextmanager
    async def _put_away(
        self,
        batch_id: uuid.UUID,
        sources: AsyncIterable[Source],
        options: analysis_pb2.AnalysisOptions,
        webhook_uri: str,
    ) -> AsyncGenerator[tuple[list[NewItem], str]]:
        """Puts the pictures into the object store, and out again if the body of the `async with` fails."""
        items: list[NewItem] = []
        arrived = False
        digest = hashlib.sha256(options.SerializeToString(deterministic=True) + webhook_uri.encode())
        try:
            async for source in sources:
                if len(items) >= MAX_IMAGES:
                    raise _too_many()  # noqa: TRY301 - what was put away already has to be deleted, as after any error
                if isinstance(source, Upload):
                    key = f"{UPLOADS}{batch_id}/{len(items):03d}"
                    await self._objects.put(key, source.content)
                    items.append(NewItem(filename=source.filename, object_key=key))
                    digest.update(hashlib.sha256(source.filename.encode() + b"\0" + source.content).digest())
                else:
                    items.append(NewItem(filename=source.filename, uri=source.url))
                    digest.update(hashlib.sha256(source.url.encode()).digest())
            if not items:
                raise _none_sent()  # noqa: TRY301 - likewise
            arrived = True
            yield items, digest.hexdigest()
        except BaseException as error:
            # What the database did not confirm it may have done all the same: then the pictures must stay, and if it
            # did not, the sweep finds them.
            if not arrived or not isinstance(error, Unavailable | asyncio.CancelledError):
                await self._delete_objects([item.object_key for item in items if item.object_key])
            raise

    async def get(self, name: str, *, items: bool) -> batch_service_pb2.Batch:
        """The batch of this id or name (batches/{id}).

        Raises:
            NotFound: there is none.
            Unavailable: the database is away.
        """
        batch_id = batch_id_of(name)
        batch = await self._store.get(batch_id, items=items)
        if self._may_be_overdue(batch) and batch_id in await self._store.overdue():
            # Usually a worker's task; but it may be that there is none.
            await self._store.end(batch_id, self._out_of_time)
            batch = await self._store.get(batch_id, items=items)
        return batch

    def _may_be_overdue(self, batch: batch_service_pb2.Batch) -> bool:
        """By this machine's clock, which may be wrong by a little; the database's decides."""
        if batch.state != batch_service_pb2.BATCH_STATE_PROCESSING or not batch.HasField("start_time"):
            return False
        return time.time() - batch.start_time.seconds > self._batch_seconds - CLOCKS_DIFFER_SECONDS

    async def page(self, *, page_size: int, token: str, state: int) -> BatchPage:
        """See `BatchStore.page`."""
        return await self._store.page(page_size=page_size, token=token, state=state)

    async def wait(self, batch_id: uuid.UUID, *, seconds: float) -> batch_service_pb2.Batch:
        """The batch with its items, when it has ended or after so many seconds; waits also for a database that is away.

        Raises:
            NotFound: it was deleted.
        """
        deadline = time.monotonic() + seconds
        pause = FIRST_LOOK_SECONDS
        while True:
            with suppress(Unavailable):
                state = await self._store.state(batch_id)
                if state != "processing" or time.monotonic() >= deadline:
                    return await self.get(str(batch_id), items=True)
            await asyncio.sleep(max(0.0, min(pause, deadline - time.monotonic())) or FIRST_LOOK_SECONDS)
            pause = min(LAST_LOOK_SECONDS, pause * 1.2)

    async def watch(self, name: str) -> AsyncGenerator[tuple[batch_service_pb2.Batch, bool]]:
        """The batch without its items whenever it has changed, and whether that was the last change.

        Raises:
            NotFound: there is none, or it was deleted.
            Unavailable: the database is away at the beginning; later it is waited for.
        """
        shown = await self.get(name, items=False)
        pause = FIRST_LOOK_SECONDS
        while shown.state == batch_service_pb2.BATCH_STATE_PROCESSING:
            yield shown, False
            while True:
                await asyncio.sleep(pause)
                pause = min(LAST_LOOK_SECONDS, pause * 1.2)
                with suppress(Unavailable):
                    seen = await self.get(name, items=False)
                    if seen != shown:
                        shown = seen
                        pause = FIRST_LOOK_SECONDS
                        break
        last = await self.get(name, items=True)
        last.ClearField("items")
        yield last, True

    async def cancel(self, name: str) -> None:
        """Stops a batch, down to the calls that are being made for it; one that has ended stays as it is.

        Raises:
            NotFound: there is none.
            Unavailable: the database is away.
        """
        batch_id = batch_id_of(name)
        await self._store.state(batch_id)
        if await self._store.end(batch_id, INTERRUPTED):
            log.info("batch_interrupted", batch=str(batch_id))

    def cancel_soon(self, batch_id: uuid.UUID) -> None:
        """Stops a batch on behalf of a caller who has gone away, and does not wait for it."""

        async def stop() -> None:
            await asyncio.sleep(GONE_SECONDS)
            try:
                await self.cancel(str(batch_id))
            except PentimentoError as error:
                log.warning("batch_not_interrupted", batch=str(batch_id), reason=error.reason)

        stopping = asyncio.create_task(stop())
        self._stopping.add(stopping)
        stopping.add_done_callback(self._stopping.discard)

    def close(self) -> None:
        """Stops no more batches on behalf of callers who have gone away: they had no choice."""
        for stopping in self._stopping:
            stopping.cancel()

    async def delete(self, name: str) -> None:
        """Deletes a batch, its pictures and its analyses; stops it first.

        Raises:
            NotFound: there is none.
            Unavailable: not all of it could be deleted; to be asked for again.
        """
        batch_id = batch_id_of(name)
        await self.cancel(name)
        await self._delete_objects(await self._store.object_keys(batch_id))
        await self._store.delete(batch_id)
        log.info("batch_deleted", batch=str(batch_id))

    async def delete_upload_of(self, analysis_name: str) -> None:
        """Deletes the picture that is kept for an analysis (analyses/{id}), if there is one.

        Raises:
            Unavailable: it could not be deleted.
        """
        try:
            analysis_id = uuid.UUID(analysis_name.removeprefix("analyses/"))
        except ValueError:
            return
        await self._delete_objects(await self._store.object_keys_of_analysis(analysis_id))

    async def _delete_objects(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self._objects.delete(key)


def _too_many() -> InvalidInput:
    return InvalidInput(
        f"The batch has more than {MAX_IMAGES} pictures.",
        reason="TOO_MANY_IMAGES",
        metadata={"limit": str(MAX_IMAGES)},
    )


def _none_sent() -> InvalidInput:
    return InvalidInput(
        "No picture was sent. Send files in the form field files, or JSON with urls.",
        reason="MISSING_IMAGE",
        field="files",
    )


def batch_id_of(name: str) -> uuid.UUID:
    """The id in batches/{id}, or alone.

    Raises:
        NotFound: there can be no such batch.
    """
    try:
        return uuid.UUID(name.removeprefix("batches/"))
    except ValueError:
        raise no_such_batch(name) from None
