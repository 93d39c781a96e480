"""Work that two threads share: whichever is free does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

__all__ = ["offered", "shared"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def offered(second: Executor, work: Callable[[], Result]) -> Callable[[], Result]:
    """Offers work to another thread; what is returned gives its result, or does it here if it has not begun there."""
    begun = second.submit(work)
    return lambda: work() if begun.cancel() else begun.result()


def shared(second: Executor, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """The results of the items, in their order: this thread begins with the first of them, the other with the last."""
    results = [offered(second, partial(work, item)) for item in reversed(items)]
    return (result() for result in reversed(results))
