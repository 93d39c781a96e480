"""Webhooks: signed as Standard Webhooks say, and refused where they cannot be."""

from __future__ import annotations

import base64

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from pentimento.orchestrator.v1 import batch_service_pb2

from services.common.errors import Forbidden, InvalidInput, RejectedUrl
from services.orchestrator.fetching import UrlFetcher
from services.orchestrator.webhooks import Webhooks, read_secret, signature

KEY = b"k" * 32


class Poster:
    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.posts: list[tuple[str, bytes, dict[str, str]]] = []

    async def check(self, url: str) -> None:
        pass

    async def post(self, url: str, *, content: bytes, headers: dict[str, str]) -> int:
        self.posts.append((url, content, headers))
        return self.status


def test_the_signature_is_that_of_the_specification():
    # The example of the Standard Webhooks libraries' own tests.
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert (
        signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@pytest.mark.parametrize(
    "secret",
    ["swordfish", "whsec_", "whsec_" + base64.b64encode(b"short").decode(), "whsec_%%%", "whsec_" + "A" * 200],
)
def test_a_secret_that_is_none_is_refused_and_not_repeated(secret):
    with pytest.raises(ValueError, match="openssl") as refused:
        read_secret(secret)
    assert secret not in str(refused.value) or secret == "whsec_"


def test_no_secret_is_none():
    assert read_secret("") is None
    assert read_secret("whsec_" + base64.b64encode(KEY).decode()) == KEY


async def test_without_a_secret_nothing_is_announced():
    with pytest.raises(Forbidden, match="no secret"):
        await Webhooks(Poster(), key=None).check("https://example.org/")


async def test_only_https():
    with pytest.raises(InvalidInput, match="https"):
        await Webhooks(Poster(), key=KEY).check("http://example.org/")


@pytest.mark.parametrize(("status", "confirmed"), [(200, True), (204, True), (410, True), (302, False), (500, False)])
async def test_what_counts_as_a_receipt(status, confirmed):
    batch = batch_service_pb2.Batch(
        name="batches/1", state=batch_service_pb2.BATCH_STATE_FAILED, end_time=Timestamp(seconds=1), webhook_uri="u"
    )
    poster = Poster(status)
    assert await Webhooks(poster, key=KEY).announce(batch) is confirmed
    ((_, content, headers),) = poster.posts
    assert b'"type": "batch.failed"' in content
    expected = signature(KEY, headers["webhook-id"], int(headers["webhook-timestamp"]), content)
    assert headers["webhook-signature"] == expected


async def test_a_name_that_changes_to_a_private_address_is_not_posted_to():
    answers = iter(["93.184.216.34", "10.0.0.1"])

    async def resolve(host: str, port: int) -> list[str]:
        return [next(answers)]

    async with UrlFetcher(resolver=resolve) as fetcher:
        await fetcher.check("https://example.org/hook")
        with pytest.raises(RejectedUrl) as refused:
            await fetcher.post("https://example.org/hook", content=b"", headers={})
    assert refused.value.reason == "ADDRESS_NOT_ALLOWED"


@pytest.mark.parametrize("url", ["https://10.0.0.1/", "https://[::1]/", "https://printer.local/", "https://x:y@a.b/"])
async def test_an_address_that_is_not_public_is_refused_at_once(url):
    async def resolve(host: str, port: int) -> list[str]:
        return [host.strip("[]")]

    async with UrlFetcher(resolver=resolve) as fetcher:
        with pytest.raises(RejectedUrl):
            await fetcher.check(url)


async def test_a_host_that_is_not_known_is_called_that():
    async def resolve(host: str, port: int) -> list[str]:
        raise OSError("no such host")

    async with UrlFetcher(resolver=resolve) as fetcher:
        with pytest.raises(RejectedUrl) as refused:
            await fetcher.check("https://exmaple.org/hook")
    assert refused.value.reason == "HOST_NOT_FOUND"
    assert "host" in refused.value.message
