"""Deletes uploads whose time is over, and those that belong to nobody.

Both are repeated until nothing is left, so that whatever crashes in between, the next round takes it up. Results and
hashes stay.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

import structlog

from services.orchestrator.batch_store import BatchStore
from services.orchestrator.batches import UPLOADS
from services.orchestrator.objects import ObjectStore

__all__ = ["delete_expired_uploads", "sweep_orphans"]

ORPHAN_AGE: Final = dt.timedelta(hours=2)
"""An upload is older than this before it can be told to belong to nobody: its batch may still be arriving."""

SWEPT_AT_ONCE: Final = 500

log = structlog.get_logger()


async def delete_expired_uploads(store: BatchStore, objects: ObjectStore) -> int:
    """Deletes the uploads whose retention time is over; returns of how many batches.

    Raises:
        Unavailable: the database or the object store is away; the rest is deleted next time.
    """
    batches = await store.expired()
    for batch_id in batches:
        for key in await store.object_keys(batch_id):
            await objects.delete(key)
        await store.forget_uploads(batch_id)
        log.info("uploads_expired", batch=str(batch_id))
    return len(batches)


async def sweep_orphans(store: BatchStore, objects: ObjectStore, *, age: dt.timedelta = ORPHAN_AGE) -> int:
    """Deletes uploads that are older than `age` and belong to no batch; returns how many.

    Raises:
        Unavailable: the database or the object store is away; the rest is deleted next time.
    """
    before = dt.datetime.now(dt.UTC) - age
    old = [item.key async for item in objects.list(UPLOADS) if item.modified < before]
    swept = 0
    for start in range(0, len(old), SWEPT_AT_ONCE):
        chunk = old[start : start + SWEPT_AT_ONCE]
        for key in set(chunk) - await store.known_keys(chunk):
            await objects.delete(key)
            swept += 1
    if swept:
        log.warning("orphans_swept", uploads=swept)
    return swept
