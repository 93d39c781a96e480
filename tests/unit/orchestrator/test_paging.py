"""Page tokens: what they name comes back, and what is none of ours is refused."""

from __future__ import annotations

import base64
import datetime as dt
import uuid

import pytest

from services.common.errors import InvalidInput
from services.orchestrator.paging import place_of, time_place_of, token_of

IDENTIFIER = uuid.UUID("550e8400-e29b-41d4-a716-446655440000")
NOW = dt.datetime(2026, 11, 21, 18, 30, 0, 123456, tzinfo=dt.UTC)


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize("name", ["", "Ada", "Ada King, Countess of Lovelace", "李 明"])
def test_a_name_and_its_id_come_back(name: str) -> None:
    assert place_of(token_of(name, IDENTIFIER)) == (name, IDENTIFIER)


def test_a_time_and_its_id_come_back() -> None:
    assert time_place_of(token_of(NOW, IDENTIFIER)) == (NOW, IDENTIFIER)


def test_the_first_page_begins_before_all() -> None:
    assert place_of("") is None
    assert time_place_of("") > (dt.datetime.now(dt.UTC) + dt.timedelta(days=36500), IDENTIFIER)


@pytest.mark.parametrize(
    "token", ["nonsense", "é", encoded("Ada"), encoded(f"Ada {IDENTIFIER}"), encoded(f"{IDENTIFIER} a\0b")]
)
def test_what_is_none_of_ours_is_refused(token: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        place_of(token)
    assert refused.value.field == "page_token"


@pytest.mark.parametrize("key", ["yesterday", "", "2026-11-21T18:30:00"])
def test_what_is_no_time_with_a_zone_is_refused(key: str) -> None:
    with pytest.raises(InvalidInput):
        time_place_of(encoded(f"{IDENTIFIER} {key}"))
