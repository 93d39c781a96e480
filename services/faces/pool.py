"""Objects that only one thread at a time may use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

__all__ = ["Pool"]

T = TypeVar("T")


class Pool(Generic[T]):
    """Lends each object to one thread at a time, and makes another if all are lent.

    So there are never more of them than threads that work at once, and none is made before it is needed.

    Args:
        make: makes one.
        dispose: frees one; None if there is nothing to free.
    """

    def __init__(self, make: Callable[[], T], *, dispose: Callable[[T], None] | None = None) -> None:
        self._make = make
        self._dispose = dispose
        self._lock = threading.Lock()
        self._idle: list[T] = []
        self._closed = False

    @contextmanager
    def borrow(self) -> Iterator[T]:
        """Lends one for the body of the `with`."""
        with self._lock:
            item = self._idle.pop() if self._idle else None
        if item is None:
            item = self._make()
        try:
            yield item
        finally:
            with self._lock:
                closed = self._closed
                if not closed:
                    self._idle.append(item)
            if closed and self._dispose:
                self._dispose(item)

    def close(self) -> None:
        """Frees all; those that are lent, when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        if self._dispose:
            for item in idle:
                self._dispose(item)
