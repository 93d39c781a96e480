"""What is asked of Triton at once, and what is refused before it is."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import numpy as np
import pytest

from services.common.errors import Overloaded
from services.common.triton import MOST_WAITING, TritonClient


class Slow:
    """Stands in for Triton's client: answers when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked: list[str] = []

    async def infer(self, model: str, inputs: Any, **_: Any) -> Slow:
        self.asked.append(model)
        await self.go.wait()
        return self

    def as_numpy(self, name: str) -> np.ndarray:
        return np.zeros(1, np.float32)


async def test_no_more_wait_for_a_model_than_may() -> None:
    slow = Slow()
    client = TritonClient(cast("Any", slow), timeout_seconds=5)
    picture = {"images": np.zeros((1, 3), np.float32)}
    waiting = [asyncio.create_task(client.infer("age", picture, ["a"])) for _ in range(MOST_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="Model age is busy"):
        await client.infer("age", picture, ["a"])
    assert len(slow.asked) == MOST_WAITING
    # Another model has a queue of its own.
    other = asyncio.create_task(client.infer("gender", picture, ["a"]))
    # Whoever goes away makes room.
    waiting.pop().cancel()
    await asyncio.sleep(0)
    late = asyncio.create_task(client.infer("age", picture, ["a"]))
    await asyncio.sleep(0)
    slow.go.set()
    await asyncio.gather(*waiting, other, late)
    assert slow.asked.count("age") == MOST_WAITING + 1
    await client.infer("age", picture, ["a"])
