"""Every failure that a caller may see, as one tree.

A handler raises one of these; the server's interceptor (`services.common.server`) turns it into a
`google.rpc.Status` with an `ErrorInfo`, and the REST layer of the orchestrator into the documented JSON.
Anything else that is raised is a defect: it is logged with its trace, and the caller is told "internal error"
and the request id, nothing more.

    PentimentoError
    ├── InvalidInput                 INVALID_ARGUMENT      the caller must change the request
    │   ├── UnsupportedFormat                              not an image, or one that is not read
    │   ├── DamagedImage                                   an image whose data ends early or is broken
    │   ├── TooLarge                                       too many bytes, pixels or frames
    │   └── RejectedUrl                                    a URL that may not, or cannot, be fetched
    ├── NotFound                     NOT_FOUND
    ├── Forbidden                    PERMISSION_DENIED     the deployment does not allow it
    ├── Overloaded                   RESOURCE_EXHAUSTED    nothing wrong with the request: try again later
    ├── DeadlineExceeded             DEADLINE_EXCEEDED
    ├── Unavailable                  UNAVAILABLE           a part of the mesh cannot answer now
    │   └── ModelUnavailable                               a network is not installed, or Triton is away
    └── NotImplementedYet            UNIMPLEMENTED         in the contract, not in this version
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from grpc import StatusCode

from services.common.context import request_id

__all__ = [
    "ERROR_DOMAIN",
    "DamagedImage",
    "DeadlineExceeded",
    "Forbidden",
    "InvalidInput",
    "ModelUnavailable",
    "NotFound",
    "NotImplementedYet",
    "Overloaded",
    "PentimentoError",
    "RejectedUrl",
    "TooLarge",
    "Unavailable",
    "UnsupportedFormat",
    "internal_message",
]

ERROR_DOMAIN = "pentimento"
"""`ErrorInfo.domain` of every error that is one of these."""


def internal_message() -> str:
    """What a caller is told of a defect: nothing but how to report it."""
    return f"Internal error. Please report it with the request id {request_id()}."


class PentimentoError(Exception):
    """An error that is meant for the caller.

    Args:
        message: one sentence for a person: what is wrong and, where possible, what to do. It leaves the service,
            so it names no path, host, class or secret.
        reason: overrides the class's machine-readable reason (UPPER_SNAKE_CASE), which becomes `ErrorInfo.reason`.
        metadata: further facts for machines (limits, names), which become `ErrorInfo.metadata`.
        field: path of the offending request field, if one is to blame; becomes a `BadRequest.FieldViolation`.
    """

    code: ClassVar[StatusCode] = StatusCode.INTERNAL
    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata or {})
        self.field = field


class InvalidInput(PentimentoError):
    """The request itself is wrong; sending it again unchanged will fail again."""

    code = StatusCode.INVALID_ARGUMENT
    default_reason = "INVALID_INPUT"


class UnsupportedFormat(InvalidInput):
    """The content is no image, or an image of a format that is not read here."""

    default_reason = "UNSUPPORTED_FORMAT"


class DamagedImage(InvalidInput):
    """The content starts as an image but is truncated or corrupt."""

    default_reason = "DAMAGED_IMAGE"


class TooLarge(InvalidInput):
    """The content exceeds a limit on bytes, pixels or frames."""

    default_reason = "TOO_LARGE"


class RejectedUrl(InvalidInput):
    """The URL may not be fetched (scheme, address) or did not give a picture."""

    default_reason = "REJECTED_URL"


class NotFound(PentimentoError):
    """The named resource does not exist."""

    code = StatusCode.NOT_FOUND
    default_reason = "NOT_FOUND"


class Forbidden(PentimentoError):
    """This deployment does not allow what was asked for, whoever asks."""

    code = StatusCode.PERMISSION_DENIED
    default_reason = "FORBIDDEN"


class Overloaded(PentimentoError):
    """No capacity at the moment; the request was refused at once instead of being queued."""

    code = StatusCode.RESOURCE_EXHAUSTED
    default_reason = "OVERLOADED"

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0, reason: str | None = None) -> None:
        super().__init__(message, reason=reason, metadata={"retry_after_seconds": f"{retry_after_seconds:g}"})
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceeded(PentimentoError):
    """The work did not end within the time that the caller, or the deployment, allows."""

    code = StatusCode.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_EXCEEDED"


class Unavailable(PentimentoError):
    """A part that is needed to answer is down or not ready."""

    code = StatusCode.UNAVAILABLE
    default_reason = "UNAVAILABLE"


class ModelUnavailable(Unavailable):
    """A network cannot be asked: it is not installed, not loaded, or Triton is away.

    Args:
        model: the model's name in the model repository.
        message: one sentence for a person.
        installed: False if the model repository does not hold it (an operator must act), True if it may come back.
    """

    default_reason = "MODEL_UNAVAILABLE"

    def __init__(self, model: str, message: str | None = None, *, installed: bool = True) -> None:
        super().__init__(
            message or f"Model {model} is not {'available at the moment' if installed else 'installed'}.",
            reason="MODEL_UNAVAILABLE" if installed else "MODEL_NOT_INSTALLED",
            metadata={"model": model},
        )
        self.model = model


class NotImplementedYet(PentimentoError):
    """The contract has it, this version does not."""

    code = StatusCode.UNIMPLEMENTED
    default_reason = "NOT_IMPLEMENTED"
