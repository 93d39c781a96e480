"""Batches in PostgreSQL: every change of a batch is one transaction, and every count is counted, never added up.

A batch's row is locked by whatever ends a picture or the batch itself, so that of two workers that finish the last two
pictures one ends the batch; a picture's row leaves `waiting` and `running` once, so that work that was done twice (by
a worker that was believed dead) counts once.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import procrastinate
import psycopg
import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from pentimento.orchestrator.v1 import analysis_pb2, batch_service_pb2
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from services.common.context import request_id
from services.common.errors import InvalidInput, NotFound, Unavailable
from services.orchestrator.job_queue import JobQueue
from services.orchestrator.paging import time_place_of, token_of
from services.orchestrator.storage import NOBODY_IN_PARTICULAR, kept_analysis
from services.orchestrator.summary import summarize

__all__ = ["Accepted", "BatchPage", "BatchStore", "Ending", "NewBatch", "NewItem", "Task"]

ANSWER_SECONDS: Final = 10.0
"""Longest wait for the database."""

T = TypeVar("T")
log = structlog.get_logger()

_STATES: Final = {
    "processing": batch_service_pb2.BATCH_STATE_PROCESSING,
    "completed": batch_service_pb2.BATCH_STATE_COMPLETED,
    "failed": batch_service_pb2.BATCH_STATE_FAILED,
    "interrupted": batch_service_pb2.BATCH_STATE_INTERRUPTED,
}
_NAMES: Final[dict[int, str]] = {state: name for name, state in _STATES.items()}
_ITEM_STATES: Final = {
    "waiting": batch_service_pb2.BATCH_ITEM_STATE_WAITING,
    "running": batch_service_pb2.BATCH_ITEM_STATE_RUNNING,
    "analyzed": batch_service_pb2.BATCH_ITEM_STATE_ANALYZED,
    "failed": batch_service_pb2.BATCH_ITEM_STATE_FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewItem:
    """A picture of a batch to come: kept under `object_key`, or to be fetched from `uri`."""

    filename: str
    object_key: str | None = None
    uri: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """A batch to come.

    Attributes:
        id: its own.
        options: how to analyse it.
        items: its pictures, in their order.
        webhook_uri: where to announce its end, or "".
        request_id: the client's own name for the request, or "".
        request_digest: digest of what was asked for under that name.
        keep_seconds: how long its uploads are kept.
    """

    id: uuid.UUID
    options: analysis_pb2.AnalysisOptions
    items: Sequence[NewItem]
    webhook_uri: str = ""
    request_id: str = ""
    request_digest: str = ""
    keep_seconds: float


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a new batch: its id, or that of the earlier one with the same request id."""

    id: uuid.UUID
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A picture that a worker has taken up.

    Attributes:
        filename: its name.
        object_key, uri: where it is; one of them is set.
        attempts: how often it was taken up, this time included.
        options: how to analyse it.
        seconds_left: of its batch's time.
        retained_until: when its upload is deleted, if it is one.
    """

    filename: str
    object_key: str | None
    uri: str | None
    attempts: int
    options: analysis_pb2.AnalysisOptions
    seconds_left: float
    retained_until: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a batch ended before its time.

    Attributes:
        state: failed or interrupted.
        message: of the batch; "" for none.
        reason: of the pictures whose turn did not come, for machines.
        item_message: of the same, for people.
    """

    state: str
    message: str
    reason: str
    item_message: str


@dataclass(frozen=True, slots=True)
class BatchPage:
    """A page of batches, newest first, and the token of the next page ("" on the last)."""

    batches: list[batch_service_pb2.Batch]
    next_token: str


class BatchStore:
    """Keeps batches. Every method raises `Unavailable` while the database is away or hangs.

    Args:
        pool: connections to PostgreSQL; None where this deployment has no database.
        jobs: the queue, in the same database.
        batch_seconds: how long a batch may take from its first picture on.
        biometrics: whether analyses are given back with the biometric answers that they were kept with.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[Any] | None,
        jobs: JobQueue,
        *,
        batch_seconds: float,
        biometrics: bool = True,
    ) -> None:
        self._pool = pool
        self._biometrics = biometrics
        self._jobs = jobs
        self._batch_seconds = batch_seconds
        self._working: set[asyncio.Task[Any]] = set()

    # ---- accepting ----

    async def create(self, batch: NewBatch) -> Accepted:
        """Keeps a batch, its pictures and their jobs, all or nothing.

        Raises:
            InvalidInput: another request came with the same request id.
        """

        async def work(connection: psycopg.AsyncConnection[Any]) -> Accepted:
            inserted = await connection.execute(
                "INSERT INTO batches (id, request_id, request_digest, options, webhook_uri, expire_time) VALUES"
                " (%s, %s, %s, %s, %s, CASE WHEN %s THEN now() + make_interval(secs => %s) END)"
                " ON CONFLICT (request_id) DO NOTHING",
                (
                    batch.id,
                    batch.request_id or None,
                    batch.request_digest,
                    batch.options.SerializeToString(),
                    batch.webhook_uri,
                    any(item.object_key for item in batch.items),
                    batch.keep_seconds,
                ),
            )
            if not inserted.rowcount:
                known = await self._known(connection, batch.request_id, batch.request_digest)
                if known is None:
                    raise Unavailable("The batch of this request id was just deleted. Try again.", reason="CONFLICT")
                return Accepted(known, is_new=False)
            positions = list(range(len(batch.items)))
            jobs = await self._jobs.put_images(connection, str(batch.id), positions)
            async with connection.cursor() as cursor:
                await cursor.executemany(
                    "INSERT INTO batch_items (batch_id, position, filename, object_key, uri, job_id)"
                    " VALUES (%s, %s, %s, %s, %s, %s)",
                    [
                        (batch.id, position, item.filename.replace("\0", ""), item.object_key, item.uri, job)
                        for position, item, job in zip(positions, batch.items, jobs, strict=True)
                    ],
                )
            return Accepted(batch.id, is_new=True)

        return await self._transaction(work)

    async def find(self, request_id: str, request_digest: str) -> uuid.UUID | None:
        """The batch that was accepted for a request of this id before; None if there is none.

        Raises:
            InvalidInput: it was another request.
        """
        return await self._transaction(lambda connection: self._known(connection, request_id, request_digest))

    @staticmethod
    async def _known(
        connection: psycopg.AsyncConnection[Any], request_id: str, request_digest: str
    ) -> uuid.UUID | None:
        found = await connection.execute("SELECT id, request_digest FROM batches WHERE request_id = %s", (request_id,))
        row = await found.fetchone()
        if row is None:
            return None
        if row[1] != request_digest:
            raise InvalidInput(
                "Another request was sent with this request id before.", reason="REQUEST_ID_REUSED", field="request_id"
            )
        identifier: uuid.UUID = row[0]
        return identifier

    async def count_waiting(self) -> int:
        """How many pictures of all batches wait for a worker."""
        return await self._value("SELECT count(*) FROM batch_items WHERE state = 'waiting'")

    # ---- working ----

    async def take_up(self, batch_id: uuid.UUID, position: int) -> Task | None:
        """Marks a picture as being worked on; None if nothing is to be done for it any more."""

        async def work(connection: psycopg.AsyncConnection[Any]) -> Task | None:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(
                "WITH batch AS (UPDATE batches SET start_time = COALESCE(start_time, now())"
                "   WHERE id = %s AND state = 'processing' RETURNING id, options, start_time, expire_time)"
                " UPDATE batch_items AS item SET state = 'running', start_time = now(), attempts = attempts + 1"
                " FROM batch WHERE item.batch_id = batch.id AND position = %s AND state IN ('waiting', 'running')"
                " RETURNING filename, object_key, uri, attempts, batch.options, batch.expire_time,"
                "   %s - extract(epoch FROM now() - batch.start_time)::float8 AS seconds_left",
                (batch_id, position, self._batch_seconds),
            )
            row = await cursor.fetchone()
            if row is None:
                return None
            return Task(
                filename=row["filename"],
                object_key=row["object_key"],
                uri=row["uri"],
                attempts=row["attempts"],
                options=analysis_pb2.AnalysisOptions.FromString(row["options"]),
                seconds_left=row["seconds_left"],
                retained_until=row["expire_time"] if row["object_key"] else None,
            )

        return await self._transaction(work)

    async def give_back(self, batch_id: uuid.UUID, position: int) -> None:
        """Marks a picture as waiting again, as if it had not been taken up."""
        await self._transaction(
            lambda connection: connection.execute(
                "UPDATE batch_items SET state = 'waiting', attempts = attempts - 1"
                " WHERE batch_id = %s AND position = %s AND state = 'running'",
                (batch_id, position),
            )
        )

    async def finish(
        self,
        batch_id: uuid.UUID,
        position: int,
        *,
        analysis_id: uuid.UUID | None = None,
        reason: str = "",
        message: str = "",
    ) -> bool:
        """Writes a picture's result, and ends the batch if it was the last; False if it had ended already.

        Args:
            batch_id: the batch.
            position: of the picture in it.
            analysis_id: its analysis, which is kept already; or
            reason: why there is none, for machines, and
            message: the same for people.
        """

        async def work(connection: psycopg.AsyncConnection[Any]) -> bool:
            if not await self._lock(connection, batch_id):
                return False
            written = await connection.execute(
                "UPDATE batch_items SET state = %s, analysis_id = %s, error_reason = %s, error_message = %s,"
                " end_time = now() WHERE batch_id = %s AND position = %s AND state IN ('waiting', 'running')",
                ("analyzed" if analysis_id else "failed", analysis_id, reason, message, batch_id, position),
            )
            ended = await connection.execute(
                "UPDATE batches SET state = 'completed', end_time = now() WHERE id = %s AND NOT EXISTS"
                " (SELECT FROM batch_items WHERE batch_id = %s AND state IN ('waiting', 'running'))"
                " RETURNING webhook_uri",
                (batch_id, batch_id),
            )
            await self._announce(connection, batch_id, await ended.fetchone())
            return bool(written.rowcount)

        return await self._transaction(work)

    async def delete_orphan(self, batch_id: uuid.UUID, position: int, analysis_id: uuid.UUID) -> None:
        """Deletes an analysis that was made for a picture whose result it did not become."""

        async def work(connection: psycopg.AsyncConnection[Any]) -> None:
            await connection.execute(
                "WITH gone AS (DELETE FROM analyses WHERE id = %s AND NOT EXISTS"
                " (SELECT FROM batch_items WHERE batch_id = %s AND position = %s AND analysis_id = %s)"
                " RETURNING id, sha256)"
                " INSERT INTO audit (time, action, caller, request_id, analysis_id, sha256, fingerprint, versions)"
                " SELECT now(), 'delete', %s, %s, id, sha256, '', '{}' FROM gone",
                (analysis_id, batch_id, position, analysis_id, NOBODY_IN_PARTICULAR, request_id()),
            )

        await self._transaction(work)

    # ---- ending ----

    async def end(self, batch_id: uuid.UUID, ending: Ending) -> bool:
        """Ends a batch before its time; what is done stays, what is being done is stopped. False if it had ended."""

        async def work(connection: psycopg.AsyncConnection[Any]) -> bool:
            if not await self._lock(connection, batch_id):
                return False
            await connection.execute(
                "SELECT procrastinate_cancel_job_v1(job_id, true, true) FROM batch_items"
                " WHERE batch_id = %s AND state IN ('waiting', 'running')",
                (batch_id,),
            )
            await connection.execute(
                "UPDATE batch_items SET state = 'failed', error_reason = %s, error_message = %s, end_time = now()"
                " WHERE batch_id = %s AND state IN ('waiting', 'running')",
                (ending.reason, ending.item_message, batch_id),
            )
            ended = await connection.execute(
                "UPDATE batches SET state = %s, error_message = %s, end_time = now() WHERE id = %s"
                " RETURNING webhook_uri",
                (ending.state, ending.message, batch_id),
            )
            await self._announce(connection, batch_id, await ended.fetchone())
            return True

        return await self._transaction(work)

    async def overdue(self) -> list[uuid.UUID]:
        """The batches whose time is over."""
        rows = await self._rows(
            "SELECT id FROM batches WHERE state = 'processing' AND start_time < now() - make_interval(secs => %s)",
            (self._batch_seconds,),
        )
        return [row["id"] for row in rows]

    async def requeue_lost(self) -> int:
        """Makes a new job for each unfinished picture that has none, whatever became of it; returns how many."""

        async def work(connection: psycopg.AsyncConnection[Any]) -> int:
            found = await connection.execute(
                "SELECT item.batch_id, position FROM batch_items AS item JOIN batches ON batches.id = item.batch_id"
                " WHERE batches.state = 'processing' AND item.state IN ('waiting', 'running') AND NOT EXISTS"
                " (SELECT FROM procrastinate_jobs AS job WHERE job.id = job_id AND job.status IN ('todo', 'doing'))"
                " ORDER BY item.batch_id, position LIMIT 100 FOR UPDATE OF item SKIP LOCKED"
            )
            rows = await found.fetchall()
            for batch_id, position in rows:
                (job,) = await self._jobs.put_images(connection, str(batch_id), [position])
                await connection.execute(
                    "UPDATE batch_items SET job_id = %s WHERE batch_id = %s AND position = %s",
                    (job, batch_id, position),
                )
            return len(rows)

        return await self._transaction(work)

    async def _lock(self, connection: psycopg.AsyncConnection[Any], batch_id: uuid.UUID) -> bool:
        """Holds a batch for the rest of the transaction; False if it has ended."""
        found = await connection.execute(
            "SELECT FROM batches WHERE id = %s AND state = 'processing' FOR UPDATE", (batch_id,)
        )
        return await found.fetchone() is not None

    async def _announce(self, connection: psycopg.AsyncConnection[Any], batch_id: uuid.UUID, ended: Any) -> None:
        if ended is not None and ended[0]:
            await self._jobs.put_announcement(connection, str(batch_id))

    # ---- reading ----

    async def state(self, batch_id: uuid.UUID) -> str:
        """processing, completed, failed or interrupted.

        Raises:
            NotFound: there is no such batch.
        """
        rows = await self._rows("SELECT state FROM batches WHERE id = %s", (batch_id,))
        if not rows:
            raise no_such_batch(batch_id)
        return str(rows[0]["state"])

    async def get(self, batch_id: uuid.UUID, *, items: bool) -> batch_service_pb2.Batch:
        """A batch as it stands.

        Args:
            batch_id: which.
            items: with its pictures and their analyses, and so with its summary.

        Raises:
            NotFound: there is no such batch.
        """
        rows = await self._rows(f"{_BATCHES} WHERE id = %s", (batch_id,))
        if not rows:
            raise no_such_batch(batch_id)
        batch = _batch(rows[0])
        if items:
            found = await self._rows(
                "SELECT item.*, analysis FROM batch_items AS item LEFT JOIN analyses ON analyses.id = analysis_id"
                " WHERE batch_id = %s ORDER BY position",
                (batch_id,),
            )
            batch.items.extend(_item(row, biometrics=self._biometrics) for row in found)
            analyses = [item.analysis for item in batch.items if item.HasField("analysis")]
            batch.summary.CopyFrom(summarize(analyses, total=len(found)))
        return batch

    async def page(self, *, page_size: int, token: str, state: int) -> BatchPage:
        """Batches without their pictures, newest first.

        Args:
            page_size: at most this many.
            token: of the previous page, or "".
            state: number of the contract's value; 0 for all.

        Raises:
            InvalidInput: the token is not one of ours.
        """
        before_time, before_id = time_place_of(token)
        wanted = _NAMES.get(state, "")
        rows = await self._rows(
            f"{_BATCHES} WHERE (create_time, id) < (%s, %s) AND (%s = '' OR state = %s)"
            " ORDER BY create_time DESC, id DESC LIMIT %s",
            (before_time, before_id, wanted, wanted, page_size + 1),
        )
        more = len(rows) > page_size
        last = rows[page_size - 1] if more else None
        next_token = token_of(last["create_time"], last["id"]) if last else ""
        return BatchPage([_batch(row) for row in rows[:page_size]], next_token)

    # ---- uploads ----

    async def expired(self) -> list[uuid.UUID]:
        """The batches whose uploads have been kept long enough; a batch that is being worked on needs them still."""
        rows = await self._rows(
            "SELECT id FROM batches WHERE expire_time < now() AND state <> 'processing' ORDER BY expire_time LIMIT 100"
        )
        return [row["id"] for row in rows]

    async def object_keys(self, batch_id: uuid.UUID) -> list[str]:
        """Where the uploads of a batch are."""
        rows = await self._rows(
            "SELECT object_key FROM batch_items WHERE batch_id = %s AND object_key IS NOT NULL", (batch_id,)
        )
        return [row["object_key"] for row in rows]

    async def forget_uploads(self, batch_id: uuid.UUID) -> None:
        """Notes that the uploads of a batch are deleted."""

        async def work(connection: psycopg.AsyncConnection[Any]) -> None:
            await connection.execute("UPDATE batch_items SET object_key = NULL WHERE batch_id = %s", (batch_id,))
            await connection.execute("UPDATE batches SET expire_time = NULL WHERE id = %s", (batch_id,))

        await self._transaction(work)

    async def object_keys_of_analysis(self, analysis_id: uuid.UUID) -> list[str]:
        """Where the picture of an analysis is; nothing if it is not kept."""
        rows = await self._rows(
            "SELECT object_key FROM batch_items WHERE analysis_id = %s AND object_key IS NOT NULL", (analysis_id,)
        )
        return [row["object_key"] for row in rows]

    async def known_keys(self, keys: Sequence[str]) -> frozenset[str]:
        """Those of these keys under which an upload is kept for a batch."""
        rows = await self._rows("SELECT object_key FROM batch_items WHERE object_key = ANY(%s)", (list(keys),))
        return frozenset(row["object_key"] for row in rows)

    async def delete(self, batch_id: uuid.UUID) -> None:
        """Deletes a batch that has ended, with the analyses that were made for it; its uploads are gone already."""

        async def work(connection: psycopg.AsyncConnection[Any]) -> None:
            await connection.execute(
                "WITH gone AS (DELETE FROM analyses WHERE id IN"
                "   (SELECT analysis_id FROM batch_items WHERE batch_id = %s) RETURNING id, sha256)"
                " INSERT INTO audit (time, action, caller, request_id, analysis_id, sha256, fingerprint, versions)"
                " SELECT now(), 'delete', %s, %s, id, sha256, '', '{}' FROM gone",
                (batch_id, NOBODY_IN_PARTICULAR, request_id()),
            )
            await connection.execute("DELETE FROM batches WHERE id = %s", (batch_id,))

        await self._transaction(work)

    # ---- workers ----

    async def live_workers(self, *, seconds: float) -> int:
        """How many workers gave a sign of life within the last `seconds`."""
        return await self._value(
            "SELECT count(*) FROM procrastinate_workers WHERE last_heartbeat > now() - make_interval(secs => %s)",
            (seconds,),
        )

    # ---- the database ----

    async def _rows(self, query: Any, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        async def work(connection: psycopg.AsyncConnection[Any]) -> list[dict[str, Any]]:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(query, parameters)
            return await cursor.fetchall()

        return await self._transaction(work)

    async def _value(self, query: Any, parameters: Sequence[Any] = ()) -> int:
        (row,) = await self._rows(query, parameters)
        return int(next(iter(row.values())))

    async def _transaction(self, work: Callable[[psycopg.AsyncConnection[Any]], Awaitable[T]]) -> T:
        """Runs `work` in a transaction; raises `Unavailable` if that fails or takes too long."""
        if self._pool is None:
            raise Unavailable("This deployment has no database: it takes no batches.", reason="NO_DATABASE")
        working = asyncio.create_task(self._in_transaction(self._pool, work))
        self._working.add(working)
        working.add_done_callback(self._worked)
        try:
            await asyncio.wait({working}, timeout=ANSWER_SECONDS)
            if working.done():
                return working.result()
        except (psycopg.Error, PoolTimeout, TimeoutError, procrastinate.exceptions.ConnectorException) as error:
            log.warning("database_unavailable", error=type(error).__name__)
            raise _unavailable() from error
        finally:
            # Not awaited: with a server that hangs, psycopg takes ten seconds to give a statement up.
            working.cancel()
        log.warning("database_unavailable", error="hangs")
        raise _unavailable()

    @staticmethod
    async def _in_transaction(
        pool: AsyncConnectionPool[Any], work: Callable[[psycopg.AsyncConnection[Any]], Awaitable[T]]
    ) -> T:
        async with pool.connection() as connection, connection.transaction():
            return await work(connection)

    def _worked(self, working: asyncio.Task[Any]) -> None:
        self._working.discard(working)
        if not working.cancelled():
            working.exception()  # seen: whoever asked has it, or has long gone


_BATCHES: Final = (
    "SELECT batches.*, numbers.*, (SELECT filename FROM batch_items WHERE batch_id = batches.id"
    "   ORDER BY start_time DESC NULLS LAST, position LIMIT 1) AS current_filename"
    " FROM batches, LATERAL (SELECT count(*) AS total_count,"
    "   count(*) FILTER (WHERE item.state = 'analyzed') AS processed_count,"
    "   count(*) FILTER (WHERE item.state = 'failed') AS failed_count"
    "   FROM batch_items AS item WHERE item.batch_id = batches.id) AS numbers"
)


def _batch(row: dict[str, Any]) -> batch_service_pb2.Batch:
    return batch_service_pb2.Batch(
        name=f"batches/{row['id']}",
        state=_STATES[row["state"]],
        total_count=row["total_count"],
        processed_count=row["processed_count"],
        failed_count=row["failed_count"],
        current_filename=row["current_filename"] or "",
        create_time=_timestamp(row["create_time"]),
        start_time=_timestamp(row["start_time"]),
        end_time=_timestamp(row["end_time"]),
        error_message=row["error_message"],
        expire_time=_timestamp(row["expire_time"]),
        webhook_uri=row["webhook_uri"],
    )


def _item(row: dict[str, Any], *, biometrics: bool) -> batch_service_pb2.BatchItem:
    item = batch_service_pb2.BatchItem(
        filename=row["filename"],
        state=_ITEM_STATES[row["state"]],
        error_reason=row["error_reason"],
        error_message=row["error_message"],
    )
    if row["analysis"] is not None:
        item.analysis.CopyFrom(kept_analysis(row["analysis"], biometrics=biometrics))
    elif row["analysis_id"] is not None:
        item.error_reason = "ANALYSIS_DELETED"
        item.error_message = "The picture was analysed, and the analysis was deleted."
    return item


def _timestamp(time: dt.datetime | None) -> Timestamp | None:
    if time is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp


def no_such_batch(batch_id: object) -> NotFound:
    """The error, in document 002's words."""
    return NotFound("Batch not found", metadata={"name": f"batches/{batch_id}"})


def _unavailable() -> Unavailable:
    return Unavailable("The database is not available at the moment.", reason="DATABASE_UNAVAILABLE")
