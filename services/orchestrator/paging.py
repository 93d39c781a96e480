"""Where a page of a list ends, as an opaque token: the next page begins behind it.

A list is ordered by a text or a time and, where two are equal, by id. A token names the last row of a page, so what is
added or deleted meanwhile neither repeats a row nor skips one.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import uuid
from typing import Final

from services.common.errors import InvalidInput

__all__ = ["place_of", "time_place_of", "token_of"]

BEFORE_ALL: Final = (dt.datetime.max.replace(tzinfo=dt.UTC), uuid.UUID(int=2**128 - 1))
"""Where a list begins that has the newest first."""


def token_of(key: str | dt.datetime, identifier: uuid.UUID) -> str:
    """The token of a page whose last row has this key and id; a time has a zone."""
    text = key if isinstance(key, str) else key.isoformat()
    return base64.urlsafe_b64encode(f"{identifier} {text}".encode()).decode()


def place_of(token: str) -> tuple[str, uuid.UUID] | None:
    """Key and id of the row behind which the page begins; None for "", the first page.

    Raises:
        InvalidInput: the token is not one of ours.
    """
    if not token:
        return None
    try:
        identifier, _, key = base64.urlsafe_b64decode(token.encode()).decode().partition(" ")
        place = key, uuid.UUID(identifier)
    except (ValueError, binascii.Error):
        raise _not_ours() from None
    if "\0" in key:  # PostgreSQL has no such text
        raise _not_ours()
    return place


def time_place_of(token: str) -> tuple[dt.datetime, uuid.UUID]:
    """The same of a list that has the newest first; the first page begins before all of them.

    Raises:
        InvalidInput: the token is not one of ours.
    """
    place = place_of(token)
    if place is None:
        return BEFORE_ALL
    try:
        time = dt.datetime.fromisoformat(place[0])
    except ValueError:
        raise _not_ours() from None
    if time.tzinfo is None:
        raise _not_ours()
    return time, place[1]


def _not_ours() -> InvalidInput:
    return InvalidInput("The page token is not valid.", field="page_token")
