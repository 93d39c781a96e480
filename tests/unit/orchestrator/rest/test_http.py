"""How errors read in the documented APIs."""

from __future__ import annotations

import pytest

from services.common.errors import RejectedUrl
from services.orchestrator.rest.http import error_reply


@pytest.mark.parametrize(
    ("reason", "status", "message"),
    [
        ("HOST_NOT_FOUND", 404, "Image not found"),
        ("IMAGE_NOT_FOUND", 404, "Image not found"),
        ("ADDRESS_NOT_ALLOWED", 400, "Validation error"),
    ],
)
def test_a_url_without_a_picture_is_told_from_one_that_may_not_be_fetched(
    reason: str, status: int, message: str
) -> None:
    reply = error_reply(RejectedUrl("What is wrong with it.", reason=reason))
    assert (reply.status, reply.body["message"]) == (status, message)
    assert reply.body["error"] == "What is wrong with it."
