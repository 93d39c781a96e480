"""HTTP over gRPC: JSON in an HttpBody, the status code in the initial metadata, every failure in the documented shape.

The edge reads `x-http-status` and sets the code of the response; without it the answer is 200. The call itself always
ends with OK, so that the edge passes on the body as it stands; only a caller who went away sees a cancelled call.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import structlog
from google.api import httpbody_pb2
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from services.common.context import request_id
from services.common.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    NotFound,
    NotImplementedYet,
    Overloaded,
    PentimentoError,
    TooLarge,
    Unavailable,
    internal_message,
)

__all__ = [
    "HTTP_STATUS_KEY",
    "IMAGE_NOT_FOUND",
    "RETRY_AFTER_KEY",
    "Context",
    "FileReply",
    "Reply",
    "base64_text",
    "error_reply",
    "facts",
    "iso_time",
    "respond",
    "rounded",
]

IMAGE_NOT_FOUND: Final = "Image not found"
"""What the documented APIs say of a URL that leads to no picture."""

HTTP_STATUS_KEY: Final = "x-http-status"
RETRY_AFTER_KEY: Final = "retry-after"

RETRY_UNAVAILABLE_SECONDS: Final = 2
"""What a caller is told to wait for a part that is away: about the time in which a process is restarted."""

_UNPROCESSABLE: Final = frozenset({"MISSING_IMAGE", "INVALID_FIELD"})
_NO_PICTURE_THERE: Final = frozenset({"HOST_NOT_FOUND", "IMAGE_NOT_FOUND"})
_NOT_INSTALLED: Final = "MODEL_NOT_INSTALLED"

Context = grpc.aio.ServicerContext[Any, Any]
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer: JSON, a status code and headers (names in lower case)."""

    body: Mapping[str, Any]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FileReply:
    """An HTTP answer that is a file of some content type."""

    content: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200


async def respond(
    context: Context,
    call: Callable[[], Awaitable[Reply | FileReply]],
    *,
    on_error: Callable[[PentimentoError], Reply] | None = None,
) -> httpbody_pb2.HttpBody:
    """Answers an RPC of a documented API with what `call` returns or, if it raises, with the error as JSON.

    Args:
        context: of the RPC.
        call: does the work.
        on_error: words errors; `error_reply` by default.
    """
    to_reply = on_error or error_reply
    reply: Reply | FileReply
    try:
        reply = await call()
    except PentimentoError as error:
        log.info("request_refused", reason=error.reason, detail=error.message)
        reply = to_reply(error)
    except TimeoutError:
        log.info("request_timeout")
        reply = to_reply(DeadlineExceeded("The work took longer than it is allowed to."))
    except Exception:
        log.exception("request_failed")
        reply = error_reply(PentimentoError(internal_message()))
    headers = {HTTP_STATUS_KEY: str(reply.status), **reply.headers}
    await context.send_initial_metadata(tuple(headers.items()))
    if isinstance(reply, FileReply):
        return httpbody_pb2.HttpBody(content_type=reply.content_type, data=reply.content)
    return httpbody_pb2.HttpBody(content_type="application/json", data=_encode(reply.body))


def error_reply(error: PentimentoError, *, message: str | None = None) -> Reply:
    """An error in document 002's shape, with the request id beside it.

    Args:
        error: what went wrong.
        message: what to say in `message`, where an API has words of its own.
    """
    status, default_message, detail = _describe(error)
    body = {
        "success": False,
        "message": message or default_message,
        "error": detail,
        "timestamp": iso_time(),
        "request_id": request_id(),
    }
    return Reply(body, status, _retry_after(error))


_STATUS: Final[tuple[tuple[type[PentimentoError], int, str], ...]] = (
    (InvalidInput, 400, "Validation error"),
    (Forbidden, 403, "Not allowed"),
    (Overloaded, 429, "Too many requests"),
    (DeadlineExceeded, 504, "Processing timeout"),
    (Unavailable, 503, "Service unavailable"),
    (NotImplementedYet, 501, "Not implemented"),
    (PentimentoError, 500, "Internal server error"),
)


def _describe(error: PentimentoError) -> tuple[int, str, str | None]:
    """Status code, `message` and `error` of an error."""
    if isinstance(error, NotFound):
        return 404, error.message, None
    if error.reason in _NO_PICTURE_THERE:
        return 404, IMAGE_NOT_FOUND, error.message
    status, message = next((status, message) for kind, status, message in _STATUS if isinstance(error, kind))
    if isinstance(error, TooLarge) and error.metadata.get("unit") == "bytes":
        status = 413
    elif error.reason in _UNPROCESSABLE:
        status = 422
    return status, message, error.message


def _retry_after(error: PentimentoError) -> dict[str, str]:
    if isinstance(error, Overloaded):
        return {RETRY_AFTER_KEY: str(max(1, math.ceil(error.retry_after_seconds)))}
    if isinstance(error, Unavailable) and error.reason != _NOT_INSTALLED:
        return {RETRY_AFTER_KEY: str(RETRY_UNAVAILABLE_SECONDS)}
    return {}


def iso_time(moment: Timestamp | None = None) -> str:
    """A time (now by default) as document 002 writes it: ISO 8601 with microseconds, in UTC, without a zone."""
    time = dt.datetime.now(dt.UTC) if moment is None else moment.ToDatetime(tzinfo=dt.UTC)
    return time.replace(tzinfo=None).isoformat(timespec="microseconds")


def base64_text(content: bytes) -> str:
    """Bytes as base64, as JSON carries them."""
    return base64.b64encode(content).decode("ascii")


def rounded(number: float, digits: int = 4) -> float:
    """A number fit for JSON and for a person's eyes; what is not finite becomes 0."""
    return round(number, digits) if math.isfinite(number) else 0.0


def facts(struct: Struct) -> dict[str, Any]:
    """A Struct as JSON values; whole numbers become integers again."""
    return {key: _plain(value) for key, value in struct.fields.items()}


def _plain(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return facts(value.struct_value)
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        if not math.isfinite(number):
            return None
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return None if kind in {None, "null_value"} else getattr(value, kind)


def _encode(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")
