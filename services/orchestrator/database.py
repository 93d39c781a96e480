"""The database: connections to it, and its schema.

It may be away when a process starts, and at any time later: connections are made when they can be, and migrations run
as soon as the database can be reached, under a lock, so several replicas may start at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import structlog
import yoyo
from psycopg_pool import AsyncConnectionPool

from services.orchestrator.queue_schema import bring_queue_up_to_date

__all__ = ["apply_migrations", "migrating", "open_pool"]

RETRY_SECONDS: Final = 1.0

MIGRATION_LOCK: Final = 0x70656E74696D
"""Number of the advisory lock under which migrations run: any that no other program uses in this database."""

log = structlog.get_logger()


@asynccontextmanager
async def open_pool(
    url: str, *, connections: int, wait_seconds: float, options: str = ""
) -> AsyncIterator[AsyncConnectionPool[Any]]:
    """Connections to the database, each statement a transaction of its own unless it is put into one.

    Args:
        url: of the database, which need not be up yet.
        connections: most of them.
        wait_seconds: longest wait for one, while the database is away or all are in use.
        options: settings of the sessions, as PostgreSQL's `options` takes them.
    """
    pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
        url,
        min_size=1,
        max_size=connections,
        open=False,
        timeout=wait_seconds,
        reconnect_timeout=3600.0,
        check=AsyncConnectionPool.check_connection,
        configure=_set_autocommit,
        kwargs={
            "connect_timeout": 2,
            # A database that went without a word (a machine that is off) is noticed.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            **({"options": options} if options else {}),
        },
    )
    await pool.open(wait=False)
    try:
        yield pool
    finally:
        await pool.close()


async def _set_autocommit(connection: psycopg.AsyncConnection[Any]) -> None:
    # Not by `kwargs`: the queue makes connections of its own out of those, and says this for itself.
    await connection.set_autocommit(True)


@asynccontextmanager
async def migrating(url: str, folder: Path, done: asyncio.Event, *, queue: bool = False) -> AsyncIterator[None]:
    """During the body of the `async with`, tries until it succeeds to bring a schema up to date, and then sets `done`.

    The other arguments are those of `apply_migrations`.
    """
    task = asyncio.create_task(_migrate(url, folder, done, queue=queue))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _migrate(url: str, folder: Path, done: asyncio.Event, *, queue: bool) -> None:
    while not done.is_set():
        try:
            applied = await asyncio.to_thread(apply_migrations, url, folder, queue=queue)
        except Exception as error:
            log.warning("database_not_ready", schema=folder.name, error=type(error).__name__)
            await asyncio.sleep(RETRY_SECONDS)
        else:
            log.info("database_ready", schema=folder.name, migrations_applied=applied)
            done.set()


def apply_migrations(url: str, folder: Path, *, queue: bool = False) -> int:
    """Brings a schema up to date; returns how many migrations that took. Takes its time: for a thread.

    Args:
        url: of the database.
        folder: the migrations.
        queue: whether to bring the queue of jobs up to date as well.

    Raises:
        RuntimeError: another process is migrating the database at the moment.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in {"postgres", "postgresql"}:
        raise ValueError("DATABASE_URL must start with postgresql://")
    backend = yoyo.get_backend(f"postgresql+psycopg://{rest}")
    try:
        migrations = yoyo.read_migrations(str(folder))
        # yoyo's own lock is a row, which a process that is killed in the midst of a migration leaves behind for ever;
        # this one ends with the connection.
        if not backend.execute(f"SELECT pg_try_advisory_lock({MIGRATION_LOCK})").fetchone()[0]:
            raise RuntimeError("another process is migrating the database")
        missing = backend.to_apply(migrations)
        backend.apply_migrations(missing)
        return len(missing) + (bring_queue_up_to_date(url) if queue else 0)
    finally:
        backend.connection.close()
