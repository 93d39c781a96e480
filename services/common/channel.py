"""The one way to open a channel to another service, and to call over it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from opentelemetry.instrumentation.grpc import aio_client_interceptors

from services.common.context import outbound_metadata, time_remaining
from services.common.errors import DeadlineExceeded, PentimentoError, Unavailable

__all__ = ["call", "open_channel"]


@asynccontextmanager
async def open_channel(address: str, *, max_message_bytes: int) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to `address` (host:port) that reconnects within a second after the other side comes back."""
    channel = grpc.aio.insecure_channel(
        address,
        interceptors=aio_client_interceptors(),  # type: ignore[no-untyped-call]
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1_000),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.lb_policy_name", "round_robin"),
        ],
    )
    try:
        yield channel
    finally:
        await channel.close()


async def call(method: Any, request: Any, *, service: str, limit_seconds: float) -> Any:
    """Calls a unary method of an async stub with the request id and deadline of the call being served.

    Args:
        method: of a generated stub.
        request: its request message.
        service: name of the other service, for error messages.
        limit_seconds: longest wait; less where the inbound deadline is nearer.

    Raises:
        DeadlineExceeded: no answer in time.
        Unavailable: the service is down, or refuses work.
        PentimentoError: any other status that the service answers with, with its own message.
    """
    seconds = time_remaining(limit_seconds)
    try:
        return await method(request, timeout=seconds, metadata=outbound_metadata())
    except grpc.aio.AioRpcError as error:
        raise _as_error(error, service, seconds) from error


def _as_error(error: grpc.aio.AioRpcError, service: str, seconds: float) -> PentimentoError:
    code = error.code()
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"The {service} service did not answer within {seconds:.0f} seconds.")
    if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}:
        reason = "OVERLOADED" if code == grpc.StatusCode.RESOURCE_EXHAUSTED else "UNAVAILABLE"
        word = "busy" if reason == "OVERLOADED" else "not available at the moment"
        return Unavailable(f"The {service} service is {word}.", reason=reason, metadata={"service": service})
    return Unavailable(
        f"The {service} service could not do its part.", reason=f"{service}_{code.name}".upper(), metadata={}
    )
