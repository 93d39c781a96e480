"""What belongs to the call that is being served: its id and its deadline, for everything that runs on its behalf."""

from __future__ import annotations

import time
import uuid
from contextvars import ContextVar

__all__ = ["REQUEST_ID_KEY", "begin_call", "outbound_metadata", "request_id", "time_remaining"]

REQUEST_ID_KEY = "x-request-id"

_request_id: ContextVar[str] = ContextVar("request_id", default="")
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def begin_call(inbound_request_id: str | None, seconds_left: float | None) -> str:
    """Starts a call in the current context; returns its id (the inbound one, or a new one).

    Args:
        inbound_request_id: what the caller sent as x-request-id; anything but a short printable token is replaced.
        seconds_left: how long the caller is going to wait; None for ever.
    """
    known = inbound_request_id or ""
    usable = 0 < len(known) <= 128 and known.isascii() and known.isprintable() and " " not in known
    call_id = known if usable else str(uuid.uuid4())
    _request_id.set(call_id)
    _deadline.set(None if seconds_left is None else time.monotonic() + seconds_left)
    return call_id


def request_id() -> str:
    """Id of the call being served; empty outside of one."""
    return _request_id.get()


def time_remaining(limit_seconds: float) -> float:
    """Seconds that an outbound call may take: `limit_seconds`, or less where the inbound deadline is nearer."""
    deadline = _deadline.get()
    if deadline is None:
        return limit_seconds
    return max(0.0, min(limit_seconds, deadline - time.monotonic()))


def outbound_metadata() -> tuple[tuple[str, str], ...]:
    """Metadata that every outbound call carries."""
    current = _request_id.get()
    return ((REQUEST_ID_KEY, current),) if current else ()
