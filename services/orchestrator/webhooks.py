"""Announces the end of a batch to the address that its client gave, signed, and never to a private address.

The signature follows Standard Webhooks (https://www.standardwebhooks.com): HMAC-SHA256 over id, time and body under
the deployment's secret, so that the receiver can tell our announcements from anybody else's, and a repeated one from a
new one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from typing import Final, Protocol

import structlog
from google.protobuf.json_format import MessageToJson
from pentimento.orchestrator.v1 import batch_service_pb2

from services.common.errors import Forbidden, InvalidInput

__all__ = ["DELAYS", "SECRET_PREFIX", "Poster", "Webhooks", "read_secret", "signature"]

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - how all of them begin
SECRET_BYTES: Final = (24, 64)

DELAYS: Final = (2.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0)
"""Seconds to wait after each failed attempt; after the last there is no other. About 16 hours in all."""

GONE: Final = 410
"""A receiver that says so wants no more."""

_TYPES: Final = {
    batch_service_pb2.BATCH_STATE_COMPLETED: "batch.completed",
    batch_service_pb2.BATCH_STATE_FAILED: "batch.failed",
    batch_service_pb2.BATCH_STATE_INTERRUPTED: "batch.interrupted",
}

log = structlog.get_logger()


class Poster(Protocol):
    """Posts to public addresses only; `services.orchestrator.fetching.UrlFetcher` does."""

    async def check(self, url: str) -> None:
        """Raises `RejectedUrl` if `url` may not be posted to."""
        ...

    async def post(self, url: str, *, content: bytes, headers: dict[str, str]) -> int:
        """Posts, and returns the status of the answer; raises `RejectedUrl` if there is none, or it may not."""
        ...


class Webhooks:
    """Signs and posts.

    Args:
        poster: posts.
        key: of the signatures; None announces nothing.
        https_only: whether an address must be https.
    """

    def __init__(self, poster: Poster, *, key: bytes | None, https_only: bool = True) -> None:
        self._poster = poster
        self._key = key
        self._https_only = https_only

    async def check(self, uri: str) -> None:
        """Whether an address can be announced to.

        Raises:
            Forbidden: this deployment has no secret to sign with.
            InvalidInput: the address is not https, or a private one.
        """
        if self._key is None:
            raise Forbidden(
                "This deployment sends no webhooks: its operator has set no secret to sign them with.",
                reason="WEBHOOKS_DISABLED",
            )
        if self._https_only and not uri.lower().startswith("https://"):
            raise InvalidInput("A webhook's address must begin with https://.", field="webhook_uri")
        await self._poster.check(uri)

    async def announce(self, batch: batch_service_pb2.Batch) -> bool:
        """Tells a batch's webhook of its end; whether the receiver confirmed it (or wants no more).

        Raises:
            RejectedUrl: the address cannot be reached, or may not be.
        """
        if self._key is None:
            log.warning("webhook_without_secret", batch=batch.name)
            return True
        event = batch_service_pb2.BatchEvent(type=_TYPES[batch.state], timestamp=batch.end_time, data=batch)
        body = MessageToJson(
            event, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None
        ).encode()
        message_id = f"msg_{batch.name.removeprefix('batches/')}"
        sent_at = int(time.time())
        status = await self._poster.post(
            batch.webhook_uri,
            content=body,
            headers={
                "content-type": "application/json",
                "webhook-id": message_id,
                "webhook-timestamp": str(sent_at),
                "webhook-signature": signature(self._key, message_id, sent_at, body),
            },
        )
        log.info("webhook_answered", batch=batch.name, status=status)
        return 200 <= status < 300 or status == GONE


def signature(key: bytes, message_id: str, sent_at: int, body: bytes) -> str:
    """The header webhook-signature: `v1,` and base64 of HMAC-SHA256 over `id.time.body`."""
    digest = hmac.new(key, f"{message_id}.{sent_at}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def read_secret(secret: str) -> bytes | None:
    """The key in a secret as Standard Webhooks write it (`whsec_` and base64); None of an empty one.

    Raises:
        ValueError: it is none; the text says how to make one, and not what was given.
    """
    if not secret:
        return None
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(SECRET_PREFIX) or not SECRET_BYTES[0] <= len(key) <= SECRET_BYTES[1]:
        raise ValueError(
            f"a webhook secret is {SECRET_PREFIX} and base64 of {SECRET_BYTES[0]} to {SECRET_BYTES[1]} bytes; make one "
            "with: echo whsec_$(openssl rand -base64 32)"
        )
    return key
