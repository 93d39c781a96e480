"""The store of analyses, where the database does not behave; what it keeps is tested against a real one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from pentimento.orchestrator.v1 import analysis_pb2

from services.common.errors import Unavailable
from services.orchestrator import storage
from services.orchestrator.storage import AnalysisStore

NAME = "analyses/11111111-2222-3333-4444-555555555555"


class Pool:
    """Connections whose statements do what a test says."""

    def __init__(self, *, error: Exception | None = None) -> None:
        self.error = error
        self.given_up = asyncio.Event()

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Pool]:
        yield self

    async def execute(self, *_: object) -> None:
        if self.error:
            raise self.error
        try:
            await asyncio.sleep(3600)
        finally:
            # As psycopg does it: it waits for the server to take the cancellation back.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.5)
            self.given_up.set()


def store_with(pool: Any) -> AnalysisStore:
    store = AnalysisStore(pool)
    store._migrated.set()
    return store


async def test_a_database_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "SAVE_SECONDS", 0.1)
    monkeypatch.setattr(storage, "ANSWER_SECONDS", 0.1)
    pool = Pool()
    store = store_with(pool)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await store.save(analysis_pb2.Analysis(name=NAME))
    with pytest.raises(Unavailable):
        await store.get(NAME)
    assert not await store.server_version()
    assert time.monotonic() - began < 10  # for ever, otherwise
    await asyncio.wait_for(pool.given_up.wait(), 2)


async def test_whoever_goes_away_takes_the_statement_along() -> None:
    pool = Pool()
    asking = asyncio.create_task(store_with(pool).get(NAME))
    await asyncio.sleep(0.05)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asking, 0.3)
    await asyncio.wait_for(pool.given_up.wait(), 2)


async def test_a_database_that_fails_is_unavailable() -> None:
    store = store_with(Pool(error=psycopg.OperationalError("server closed the connection")))
    with pytest.raises(Unavailable) as refused:
        await store.get(NAME)
    assert refused.value.reason == "DATABASE_UNAVAILABLE"
    assert "server" not in refused.value.message
