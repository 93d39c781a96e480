"""Bounds for work: what fits runs, what does not is refused at once."""

from __future__ import annotations

import asyncio
import threading

import pytest

from services.common.errors import Overloaded
from services.common.limiter import AdmissionLimiter, WorkLimiter


async def test_runs_in_a_thread_and_returns_the_result():
    limiter = WorkLimiter(workers=1, queue=0)
    assert await limiter.run(lambda a, *, b: (a, b, threading.current_thread().name), 1, b=2) == (1, 2, "work_0")
    limiter.close()


async def test_refuses_what_does_not_fit_and_recovers():
    limiter = WorkLimiter(workers=1, queue=1)
    gate = threading.Event()
    held = [asyncio.create_task(limiter.run(gate.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await limiter.run(gate.wait)
    gate.set()
    await asyncio.gather(*held)
    await asyncio.sleep(0)
    assert limiter.admitted == 0
    assert await limiter.run(lambda: "again") == "again"
    limiter.close()


async def test_a_caller_that_goes_away_frees_its_place_only_when_the_thread_ends():
    limiter = WorkLimiter(workers=1, queue=0)
    gate = threading.Event()
    task = asyncio.create_task(limiter.run(gate.wait))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert limiter.admitted == 1
    gate.set()
    for _ in range(100):
        await asyncio.sleep(0.01)
        if limiter.admitted == 0:
            break
    assert limiter.admitted == 0
    limiter.close()


async def test_exceptions_come_through():
    limiter = WorkLimiter(workers=1, queue=0)
    with pytest.raises(ZeroDivisionError):
        await limiter.run(lambda: 1 // 0)
    limiter.close()


async def test_admission():
    limiter = AdmissionLimiter(1, retry_after_seconds=3)
    async with limiter.admit():
        with pytest.raises(Overloaded) as refused:
            async with limiter.admit():
                pass
        assert refused.value.retry_after_seconds == 3
    async with limiter.admit():
        pass
