"""What surrounds every call that a service answers, in one place.

In this order: the call gets its id and deadline; its request is read, and checked against the rules in the contract;
the handler runs; whatever it raises becomes a `google.rpc.Status`; the call is counted, timed and logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import protovalidate
import structlog
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from services.common.context import REQUEST_ID_KEY, begin_call
from services.common.errors import ERROR_DOMAIN, InvalidInput, Overloaded, PentimentoError, internal_message
from services.common.telemetry import CALL_SECONDS, CALLS, IN_FLIGHT

__all__ = ["CallInterceptor", "status_of"]

ENVOY_TIMEOUT_KEY = "x-envoy-expected-rq-timeout-ms"
QUIET_METHODS = ("/grpc.health.v1.Health/", "/grpc.reflection.")

Context = grpc.aio.ServicerContext[Any, Any]
log = structlog.get_logger()


def status_of(error: PentimentoError, request_id: str) -> status_pb2.Status:
    """The error as a `google.rpc.Status` with ErrorInfo, RequestInfo and, as they apply, BadRequest and RetryInfo."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=error.metadata),
        error_details_pb2.RequestInfo(request_id=request_id),
    ]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, Overloaded):
        delay = Duration()
        delay.FromMilliseconds(int(error.retry_after_seconds * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return _status(error.code.value[0], error.message, details)


def _status(code: int, message: str, details: Sequence[Message]) -> status_pb2.Status:
    packed = []
    for detail in details:
        any_detail = any_pb2.Any()
        any_detail.Pack(detail)
        packed.append(any_detail)
    return status_pb2.Status(code=code, message=message, details=packed)


def _internal_status(request_id: str) -> status_pb2.Status:
    return _status(
        code_pb2.INTERNAL,
        internal_message(),
        [
            error_details_pb2.ErrorInfo(reason="INTERNAL", domain=ERROR_DOMAIN),
            error_details_pb2.RequestInfo(request_id=request_id),
        ],
    )


def _invalid_status(violations: Sequence[protovalidate.Violation], request_id: str) -> status_pb2.Status:
    fields = []
    for violation in violations:
        elements = violation.proto.field.elements if violation.proto.field else ()
        path = ".".join(element.field_name for element in elements)
        fields.append(
            error_details_pb2.BadRequest.FieldViolation(field=path, description=violation.proto.message or "invalid")
        )
    summary = "; ".join(f"{field.field or 'request'}: {field.description}" for field in fields)
    return _status(
        code_pb2.INVALID_ARGUMENT,
        f"The request is not valid: {summary}.",
        [
            error_details_pb2.ErrorInfo(reason="INVALID_REQUEST", domain=ERROR_DOMAIN),
            error_details_pb2.BadRequest(field_violations=fields),
            error_details_pb2.RequestInfo(request_id=request_id),
        ],
    )


def _seconds_left(context: Context, metadata: dict[str, Any]) -> float | None:
    """The caller's patience: the gRPC deadline or what Envoy grants the request, whichever ends first."""
    granted: list[float] = []
    deadline: float | None = context.time_remaining()  # None without a deadline, whatever the stubs say
    if deadline is not None:
        granted.append(deadline)
    with contextlib.suppress(KeyError, ValueError):
        granted.append(float(metadata[ENVOY_TIMEOUT_KEY]) / 1000)
    return min((seconds for seconds in granted if seconds > 0), default=None)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handler of every RPC; see the module's docstring for what it does."""

    def __init__(self) -> None:
        self._validator = protovalidate.Validator()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Called by gRPC for each call."""
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(QUIET_METHODS):
            return handler  # type: ignore[no-any-return]
        metadata: dict[str, Any] = dict(handler_call_details.invocation_metadata or ())
        # Requests arrive as bytes and are read in here: gRPC would tell the caller of a Python class, and nobody else.
        read = handler.request_deserializer
        codecs = {"response_serializer": handler.response_serializer}

        async def unary(request: Any, context: Context) -> Any:
            async with self._call(method, metadata, context):
                if not handler.request_streaming:
                    return await handler.unary_unary(await self._validated(request, read, context), context)
                return await handler.stream_unary(self._all_validated(request, read, context), context)

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._call(method, metadata, context):
                if not handler.request_streaming:
                    responses = handler.unary_stream(await self._validated(request, read, context), context)
                else:
                    responses = handler.stream_stream(self._all_validated(request, read, context), context)
                # A client that goes away is noticed between two responses too: the handler is to notice it then.
                async with aclosing(responses):
                    async for response in responses:
                        yield response

        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(stream, **codecs)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(unary, **codecs)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, **codecs)
        return grpc.unary_unary_rpc_method_handler(unary, **codecs)

    async def _validated(self, content: bytes, read: Callable[[bytes], Message], context: Context) -> Message:
        try:
            request = read(content)
        except DecodeError as error:
            raise InvalidInput(
                "The request cannot be read: it is no message of this method, or a text in it is not UTF-8.",
                reason="MALFORMED_REQUEST",
            ) from error
        if violations := self._validator.collect_violations(request):
            request_id = structlog.contextvars.get_contextvars().get("request_id", "")
            await context.abort_with_status(rpc_status.to_status(_invalid_status(violations, request_id)))
        return request

    async def _all_validated(
        self, contents: AsyncIterator[bytes], read: Callable[[bytes], Message], context: Context
    ) -> AsyncIterator[Message]:
        async for content in contents:
            yield await self._validated(content, read, context)

    @asynccontextmanager
    async def _call(self, method: str, metadata: dict[str, Any], context: Context) -> AsyncIterator[None]:
        request_id = begin_call(metadata.get(REQUEST_ID_KEY), _seconds_left(context, metadata))
        structlog.contextvars.bind_contextvars(request_id=request_id)
        context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
        started = time.perf_counter()
        code = "OK"
        IN_FLIGHT.labels(method).inc()
        try:
            yield
        except PentimentoError as error:
            code = error.code.name
            log.info("call_refused", method=method, reason=error.reason, detail=error.message)
            await context.abort_with_status(rpc_status.to_status(status_of(error, request_id)))
        except grpc.aio.AbortError:
            code = "INVALID_ARGUMENT" if context.code() == grpc.StatusCode.OK else _code_name(context)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            code = "CANCELLED"
            raise
        except Exception:
            code = "INTERNAL"
            log.exception("call_failed", method=method)
            await context.abort_with_status(rpc_status.to_status(_internal_status(request_id)))
        finally:
            seconds = time.perf_counter() - started
            IN_FLIGHT.labels(method).dec()
            CALLS.labels(method, code).inc()
            CALL_SECONDS.labels(method).observe(seconds)
            log.info("call", method=method, code=code, seconds=round(seconds, 4))


def _code_name(context: Context) -> str:
    code = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else str(code)
