"""The one way to open a channel to another service, and to call over it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from opentelemetry.instrumentation.grpc import aio_client_interceptors

from services.common.context import outbound_metadata, time_remaining
from services.common.errors import (
    ERROR_DOMAIN,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    ModelUnavailable,
    NotFound,
    NotImplementedYet,
    Overloaded,
    PentimentoError,
    Unavailable,
)

__all__ = ["call", "call_stream", "open_channel"]


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
        Unavailable: the service is down, or broke.
        PentimentoError: the service's own error, as it raised it.
    """
    seconds = time_remaining(limit_seconds)
    try:
        return await method(request, timeout=seconds, metadata=outbound_metadata())
    except grpc.aio.AioRpcError as error:
        raise _as_error(error, service, seconds) from error


async def call_stream(method: Any, request: Any, *, service: str, limit_seconds: float) -> AsyncGenerator[Any]:
    """Like `call`, of a method that answers with a stream; closing it (`contextlib.aclosing`) cancels the call."""
    seconds = time_remaining(limit_seconds)
    running = method(request, timeout=seconds, metadata=outbound_metadata())
    try:
        async for message in running:
            yield message
    except grpc.aio.AioRpcError as error:
        raise _as_error(error, service, seconds) from error
    finally:
        running.cancel()


def _as_error(error: grpc.aio.AioRpcError, service: str, seconds: float) -> PentimentoError:
    """What the other service meant: its own error if it sent one, or what can be said of a call that failed."""
    if (own := _own_error(error)) is not None:
        return own
    code = error.code()
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"The {service} service did not answer within {seconds:.0f} seconds.")
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return NotImplementedYet(f"The {service} service cannot do this yet.")
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Overloaded(f"The {service} service is busy. Try again in a moment.")
    return Unavailable(f"The {service} service is not available at the moment.", metadata={"service": service})


def _own_error(error: grpc.aio.AioRpcError) -> PentimentoError | None:
    """The `PentimentoError` that the interceptor of the other side turned into a status; None if there was none."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # has the methods that it reads
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details if status else ():
        detail.Unpack(info) or detail.Unpack(retry)
    if status is None or info.domain != ERROR_DOMAIN:
        return None
    metadata = dict(info.metadata)
    if error.code() == grpc.StatusCode.UNAVAILABLE and "model" in metadata:
        return ModelUnavailable(metadata["model"], status.message, installed=info.reason != "MODEL_NOT_INSTALLED")
    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Overloaded(status.message, retry_after_seconds=retry.retry_delay.ToTimedelta().total_seconds() or 1.0)
    classes: dict[grpc.StatusCode, type[PentimentoError]] = {
        grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
        grpc.StatusCode.NOT_FOUND: NotFound,
        grpc.StatusCode.PERMISSION_DENIED: Forbidden,
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
        grpc.StatusCode.UNIMPLEMENTED: NotImplementedYet,
        grpc.StatusCode.UNAVAILABLE: Unavailable,
    }
    error_class = classes.get(error.code())
    return error_class(status.message, reason=info.reason, metadata=metadata) if error_class else None
