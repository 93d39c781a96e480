"""Bounds for work: how much runs at once, how much may wait, and what is refused."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

from services.common.errors import Overloaded

__all__ = ["AdmissionLimiter", "WorkLimiter"]

P = ParamSpec("P")
T = TypeVar("T")


class WorkLimiter:
    """Runs pixel work in threads, so that the event loop stays free to answer health checks.

    At most `workers` functions run at once and at most `queue` wait; one more is refused at once with `Overloaded`,
    because a caller who is told "not now" can go elsewhere, and one who is kept waiting cannot. A caller that goes
    away gives up its place in the queue; a function that already runs is not interrupted (threads cannot be), and
    keeps its thread until it ends.
    """

    def __init__(self, *, workers: int, queue: int) -> None:
        self._executor = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="work")
        self._capacity = workers + queue
        self._admitted = 0

    @property
    def admitted(self) -> int:
        """How many functions run or wait."""
        return self._admitted

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs the function in a thread and returns its result.

        Raises:
            Overloaded: if all threads are busy and the queue is full.
        """
        if self._admitted >= self._capacity:
            raise Overloaded("The service is busy. Try again in a moment.")
        self._admitted += 1
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        future = self._executor.submit(lambda: context.run(function, *args, **kwargs))
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._release))
        return await asyncio.wrap_future(future)

    def _release(self) -> None:
        self._admitted -= 1

    def close(self) -> None:
        """Drops what waits; what runs, runs on."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class AdmissionLimiter:
    """Lets at most `limit` requests in at once, makes some wait for their turn, and refuses the rest.

    Args:
        limit: requests in progress.
        waiting: requests that wait for a place, first come, first served; by default none does.
        retry_after_seconds: what a refused caller is told to wait.
    """

    def __init__(self, limit: int, *, waiting: int = 0, retry_after_seconds: float = 2.0) -> None:
        self._places = asyncio.Semaphore(limit)
        self._capacity = limit + waiting
        self._retry_after_seconds = retry_after_seconds
        self._admitted = 0

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Holds a place for the body of the `async with`.

        Raises:
            Overloaded: if there is none, and none to wait in either.
        """
        if self._admitted >= self._capacity:
            raise Overloaded(
                "Too many requests are being worked on. Try again in a moment.",
                retry_after_seconds=self._retry_after_seconds,
            )
        self._admitted += 1
        try:
            async with self._places:
                yield
        finally:
            self._admitted -= 1
