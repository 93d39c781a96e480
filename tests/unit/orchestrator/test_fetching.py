"""Fetching by URL: what is reachable, what is refused, and that no server can hold or flood us.

The servers are real ones on loopback; nothing here needs a network.
"""

from __future__ import annotations

import asyncio
import gzip
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpcore
import pytest
from structlog.testing import capture_logs

from services.common.errors import Overloaded, RejectedUrl, TooLarge
from services.orchestrator import fetching
from services.orchestrator.fetching import UrlFetcher, is_public_address

pytestmark = pytest.mark.asyncio

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

BLOCKED = "The URL's address may not be fetched."


@dataclass
class Server:
    """A server on loopback that answers every connection by `handler`, and keeps what it was asked."""

    handler: Handler
    port: int = 0
    requests: list[bytes] = field(default_factory=list)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            await self.handler(reader, writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went away, as some tests want
        finally:
            writer.close()


@asynccontextmanager
async def serving(handler: Handler | bytes) -> AsyncIterator[Server]:
    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(handler, bytes)
        writer.write(handler)

    server = Server(send if isinstance(handler, bytes) else handler)
    listener = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


def reply(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    lines = {"Content-Type": "image/png", "Content-Length": str(len(body))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    return reply(status=status, Location=location)


def names(**addresses: Sequence[str]) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """A resolver that knows only the given names, with "_" for "."."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        if host.replace(".", "_") not in addresses:
            raise OSError("no such host")
        return addresses[host.replace(".", "_")]

    return resolve


async def rejection(url: str, **options: object) -> RejectedUrl:
    # Long: what is to take too long sets its own, and any other machine may stand still for a while.
    options = {"total_seconds": 60.0, "idle_seconds": 60.0} | options
    async with UrlFetcher(**options) as fetcher:  # type: ignore[arg-type]
        with pytest.raises(RejectedUrl) as raised:
            await fetcher.fetch(url)
    return raised.value


class TestFetched:
    async def test_a_picture(self) -> None:
        answer = reply(b"pixels", Content_Type="Image/PNG; charset=x")
        async with serving(answer) as server, UrlFetcher(allow_loopback=True) as fetcher:
            fetched = await fetcher.fetch(server.url("/imgs/Image_Spring_17_4.gif?size=1#top"))
        assert fetched.content == b"pixels"
        assert fetched.filename == "Image_Spring_17_4.gif"
        assert fetched.content_type == "image/png"
        request = server.requests[0].lower()
        assert request.startswith(b"get /imgs/image_spring_17_4.gif?size=1 http/1.1\r\n")
        assert f"host: 127.0.0.1:{server.port}\r\n".encode() in request
        assert b"accept-encoding: identity\r\n" in request

    async def test_chunks_and_no_declared_length(self) -> None:
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\npix\r\n3\r\nels\r\n0\r\n\r\n"
        for answer in (chunked, b"HTTP/1.0 200 OK\r\n\r\npixels"):
            async with serving(answer) as server, UrlFetcher(allow_loopback=True) as fetcher:
                fetched = await fetcher.fetch(server.url())
                assert (fetched.content, fetched.content_type, fetched.filename) == (b"pixels", "", "image")

    @pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
    async def test_redirects_keep_the_first_name(self, status: str) -> None:
        async with (
            serving(reply(b"pixels")) as target,
            serving(redirect(target.url("/x/other.jpg"), status)) as first,
            UrlFetcher(allow_loopback=True) as fetcher,
        ):
            fetched = await fetcher.fetch(first.url("/a/cat.jpg"))
        assert (fetched.content, fetched.filename) == (b"pixels", "cat.jpg")

    async def test_relative_redirect(self) -> None:
        async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(reply(b"pixels") if b"GET /b/c.png " in server.requests[-1] else redirect("../b/c.png"))

        async with serving(handler) as server, UrlFetcher(allow_loopback=True) as fetcher:
            assert (await fetcher.fetch(server.url("/a/x"))).content == b"pixels"

    async def test_the_next_address_is_tried(self) -> None:
        # Nothing listens on 127.0.0.2: the connection is refused there.
        resolver = names(pictures_test=["127.0.0.2", "127.0.0.1"])
        async with serving(reply(b"pixels")) as server, UrlFetcher(allow_loopback=True, resolver=resolver) as fetcher:
            assert (await fetcher.fetch(server.url(host="pictures.test"))).content == b"pixels"
            assert f"host: pictures.test:{server.port}".encode() in server.requests[0].lower()

    async def test_proxies_of_the_environment_are_not_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with serving(b"") as proxy, serving(reply(b"pixels")) as server:
            for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, proxy.url())
            async with UrlFetcher(allow_loopback=True) as fetcher:
                assert (await fetcher.fetch(server.url())).content == b"pixels"
            assert not proxy.requests

    @pytest.mark.parametrize(
        ("path", "filename"),
        [
            ("/", "image"),
            ("", "image"),
            ("/a/b/", "image"),
            ("/%E5%9B%BE%E7%89%87.jpg", "图片.jpg"),
            ("/..%2f..%2fetc%2fpasswd", "passwd"),
            ("/a%5C..%5Cwin.ini", "win.ini"),
            ("/%00%0d%0aSet-Cookie:x", "Set-Cookiex"),
            ("/...", "image"),
            ("/.htaccess", "htaccess"),
            ("/%22%3E%3Cscript%3E.png", "script.png"),
            ("/%E2%80%AEgpj.exe", "gpj.exe"),
            ("/" + "a" * 300 + ".jpeg", "a" * 195 + ".jpeg"),
            ("/%ff.png", "\ufffd.png"),
        ],
    )
    async def test_filenames_are_harmless(self, path: str, filename: str) -> None:
        async with serving(reply(b"pixels")) as server, UrlFetcher(allow_loopback=True) as fetcher:
            assert (await fetcher.fetch(server.url(path))).filename == filename


HOSTILE_ADDRESSES = [
    "127.0.0.1",
    "127.1.2.3",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:8.8.8.8]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "[fec0::1]",
    "[2001:db8::1]",
    "[100::1]",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.127.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "192.0.0.1",
    "192.0.0.9",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "2130706433",
    "0x7f.1",
    "0x7f000001",
    "0177.0.0.1",
    "127.1",
    "127.0.1",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "a.localhost",
    "db",
    "metadata.google.internal",
    "printer.local",
    "postgres.default.svc.cluster.local",
    "\uff11\uff12\uff17.0.0.1",
    "127\u30020\u30020\u30021",
]

HOSTILE_URLS = [
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "ftp://example.org/cat.jpg",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "dict://example.org/",
    "ldap://example.org/",
    "data:image/png;base64,iVBORw0KGgo=",
    "jar:http://example.org!/",
    "javascript:alert(1)",
    "//example.org/cat.jpg",
    "/etc/passwd",
    "cat.jpg",
    "",
    " ",
    "http://",
    "http:///cat.jpg",
    "http://user:pw@example.org/cat.jpg",
    "http://user@example.org/cat.jpg",
    "http://:pw@example.org/cat.jpg",
    "http://example.org:22/",
    "http://example.org:6379/",
    "http://example.org:0/",
    "http://example.org:99999/",
    "http://example.org:port/",
    "http://exa\nmple.org/",
    "http://example.org/\r\nX-Evil: 1",
    "http://[::1/",
    "http://example.org/" + "a" * 5000,
]

NO_REDIRECT = ("http:///", "http://example.org:22", "http://example.org:6379")


class TestRefused:
    @pytest.mark.parametrize("host", HOSTILE_ADDRESSES)
    async def test_addresses(self, host: str) -> None:
        for scheme in ("http", "https"):
            error = await rejection(f"{scheme}://{host}/latest/meta-data")
            # A form of an address that is read as a URL at all gets the one answer; some are malformed already.
            assert error.reason in ("ADDRESS_NOT_ALLOWED", "URL_NOT_ALLOWED")
            assert error.message in (BLOCKED, "The URL is malformed.")
            assert error.metadata == {}

    @pytest.mark.parametrize("url", HOSTILE_URLS)
    async def test_urls(self, url: str) -> None:
        error = await rejection(url, resolver=names(example_org=["93.184.216.34"]))
        assert error.reason == "URL_NOT_ALLOWED"
        assert "pw" not in error.message

    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "169.254.169.254", "168.63.129.16", "10.1.2.3", "::1", "fd00::1", "::ffff:127.0.0.1"]
    )
    async def test_names_of_such_addresses(self, host: str) -> None:
        error = await rejection("http://pictures.test/cat.jpg", resolver=names(pictures_test=[host, "not an address"]))
        assert (error.reason, error.message) == ("ADDRESS_NOT_ALLOWED", BLOCKED)

    async def test_the_answer_does_not_tell_whether_something_listens(self) -> None:
        async with serving(reply(b"secret")) as server:
            open_port = await rejection(server.url(), ports=range(65536))
        closed_port = await rejection(server.url(), ports=range(65536))
        assert (open_port.message, open_port.reason) == (closed_port.message, closed_port.reason)
        assert not server.requests

    @pytest.mark.parametrize("host", [host for host in HOSTILE_ADDRESSES if host.isascii()])
    async def test_redirects_to_addresses(self, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
        # The first server is on loopback, so that this one address passes for a public one.
        monkeypatch.setattr(fetching, "is_public_address", lambda address: address == "127.0.0.9" or original(address))
        async with serving(redirect(f"http://{host}/latest/meta-data")) as server:
            resolver = _SystemExcept(pictures_test="127.0.0.9")
            listener = await asyncio.start_server(server.answer, "127.0.0.9", server.port)
            async with listener:
                error = await rejection(
                    f"http://pictures.test:{server.port}/", ports={server.port, 80}, resolver=resolver
                )
        assert error.reason in ("ADDRESS_NOT_ALLOWED", "URL_NOT_ALLOWED")
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        # A redirect to no host at all is relative; with loopback allowed, any port is.
        "url",
        [
            url
            for url in HOSTILE_URLS
            if "://" in url and url.isprintable() and url != "http://" and not url.startswith(NO_REDIRECT)
        ],
    )
    async def test_redirects_to_urls(self, url: str) -> None:
        async with serving(redirect(url)) as server:
            error = await rejection(server.url(), allow_loopback=True)
        assert error.reason == "URL_NOT_ALLOWED"
        assert len(server.requests) == 1

    async def test_rebinding_gains_nothing(self) -> None:
        """The name is public when it is first asked for, and loopback from then on."""
        asked: list[str] = []

        async def rebinding(host: str, port: int) -> Sequence[str]:
            asked.append(host)
            return ["192.0.2.55" if len(asked) == 1 else "127.0.0.1"]

        connected: list[str] = []

        class Recording(httpcore.AnyIOBackend):
            async def connect_tcp(self, host: str, *args: object, **options: object) -> httpcore.AsyncNetworkStream:
                connected.append(host)
                raise httpcore.ConnectError("unreachable")

        backend = fetching._CheckedBackend(resolver=rebinding, allow_loopback=False)
        backend._inner = Recording()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fetching, "is_public_address", lambda address: address == "192.0.2.55")
            with pytest.raises(httpcore.ConnectError):
                await backend.connect_tcp("evil.test", 80)
            assert connected == ["192.0.2.55"]
            assert asked == ["evil.test"]
            with pytest.raises(RejectedUrl, match="may not be fetched"):
                await backend.connect_tcp("evil.test", 80)
        assert connected == ["192.0.2.55"]

    async def test_only_the_public_ones_of_a_name_are_connected_to(self) -> None:
        connected: list[str] = []

        class Recording(httpcore.AnyIOBackend):
            async def connect_tcp(self, host: str, *args: object, **options: object) -> httpcore.AsyncNetworkStream:
                connected.append(host)
                raise httpcore.ConnectError("unreachable")

        mixed = names(evil_test=["127.0.0.1", "93.184.216.34", "::1", "2606:2800:220:1::1", "10.0.0.1"])
        backend = fetching._CheckedBackend(resolver=mixed, allow_loopback=False)
        backend._inner = Recording()
        with pytest.raises(httpcore.ConnectError):
            await backend.connect_tcp("evil.test", 80)
        assert connected == ["93.184.216.34", "2606:2800:220:1::1"]

    async def test_allowing_loopback_allows_nothing_else(self) -> None:
        for host in ("10.0.0.1", "169.254.169.254", "[fd00::1]", "[::ffff:127.0.0.1]", "[2002:7f00:1::]", "0.0.0.0"):
            error = await rejection(f"http://{host}/", allow_loopback=True)
            assert error.reason == "ADDRESS_NOT_ALLOWED"


original = is_public_address


class _SystemExcept:
    """The system's resolver, but for the given names."""

    def __init__(self, **addresses: str) -> None:
        self._addresses = addresses

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        if known := self._addresses.get(host.replace(".", "_")):
            return [known]
        found = await asyncio.get_running_loop().getaddrinfo(host, port)
        return [str(address[0]) for *_, address in found]


class TestServersThatMisbehave:
    @pytest.mark.parametrize("status", ["404 Not Found", "410 Gone"])
    async def test_not_found(self, status: str) -> None:
        async with serving(reply(b"<html>", status, Content_Type="text/html")) as server:
            error = await rejection(server.url(), allow_loopback=True)
        assert error.reason == "IMAGE_NOT_FOUND"
        assert error.metadata == {"status": status[:3]}
        assert status[:3] in error.message

    async def test_no_such_host(self) -> None:
        error = await rejection("http://nowhere.test/cat.jpg", resolver=names())
        assert error.reason == "HOST_NOT_FOUND"
        assert "Check how its name is written" in error.message

    @pytest.mark.parametrize(
        "status", ["204 No Content", "206 Partial Content", "304 Not Modified", "403 No", "500 No"]
    )
    async def test_other_states(self, status: str) -> None:
        async with serving(reply(b"", status, Content_Length="")) as server:
            error = await rejection(server.url(), allow_loopback=True)
        assert error.reason == "URL_FAILED"
        assert error.metadata == {"status": status[:3]}

    async def test_a_web_page(self) -> None:
        async with serving(reply(b"<html>", Content_Type="text/html; charset=utf-8")) as server:
            error = await rejection(server.url(), allow_loopback=True)
        assert error.reason == "NOT_A_PICTURE"
        assert error.message.startswith("The URL is a web page, not a picture")

    async def test_redirect_loop(self) -> None:
        async with serving(redirect("/again")) as server:
            error = await rejection(server.url(), allow_loopback=True)
        assert error.reason == "TOO_MANY_REDIRECTS"
        assert len(server.requests) == 6

    async def test_slow_body(self) -> None:
        async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)

        started = time.monotonic()
        async with serving(drip) as server:
            error = await rejection(server.url(), allow_loopback=True, total_seconds=0.3)
        assert error.reason == "URL_TIMEOUT"
        assert time.monotonic() - started < 10

    @pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"])
    async def test_silence(self, head: bytes) -> None:
        async def wait(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(head)
            await asyncio.sleep(1)

        async with serving(wait) as server:
            error = await rejection(server.url(), allow_loopback=True, idle_seconds=0.1)
        assert error.reason == "URL_TIMEOUT"

    async def test_slow_name_server(self) -> None:
        async def resolve(host: str, port: int) -> Sequence[str]:
            await asyncio.sleep(5)
            return []

        error = await rejection("http://pictures.test/", resolver=resolve, idle_seconds=0.1)
        assert error.reason == "URL_TIMEOUT"

    async def test_the_callers_deadline(self) -> None:
        async def wait(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(1)

        async with serving(wait) as server, UrlFetcher(allow_loopback=True) as fetcher:
            with pytest.raises(RejectedUrl) as raised:
                await fetcher.fetch(server.url(), deadline_seconds=0.1)
        assert raised.value.reason == "URL_TIMEOUT"

    @pytest.mark.parametrize("chunked", [False, True])
    async def test_endless_body(self, chunked: bool) -> None:
        sent = 0

        async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            writer.write(b"HTTP/1.1 200 OK\r\n" + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n"))
            while not writer.is_closing():
                writer.write(b"1000\r\n" + bytes(4096) + b"\r\n" if chunked else bytes(4096))
                sent += 4096
                await writer.drain()

        async with serving(flood) as server, UrlFetcher(allow_loopback=True, max_bytes=100_000) as fetcher:
            with pytest.raises(TooLarge) as raised:
                await fetcher.fetch(server.url())
        assert raised.value.metadata == {"limit": "100000", "unit": "bytes"}
        assert sent < 20_000_000

    async def test_endless_headers(self) -> None:
        async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\n")
            while not writer.is_closing():
                writer.write(b"X-Header: " + b"x" * 1000 + b"\r\n")
                await writer.drain()

        async with serving(flood) as server:
            error = await rejection(server.url(), allow_loopback=True)
        assert error.reason == "URL_FAILED"

    async def test_declared_length_above_the_limit_is_refused_before_reading(self) -> None:
        answer = reply(b"", Content_Length="12582912")
        async with serving(answer) as server, UrlFetcher(allow_loopback=True) as fetcher:
            with pytest.raises(TooLarge) as raised:
                await fetcher.fetch(server.url())
        assert raised.value.message == "File size 12582912 bytes exceeds maximum 10485760 bytes"
        assert raised.value.metadata == {"limit": "10485760", "actual": "12582912", "unit": "bytes"}

    @pytest.mark.parametrize("declared", ["100", "2", "-5", "6, 7", "many"])
    async def test_lying_declared_length(self, declared: str) -> None:
        answer = reply(b"pixels", Content_Length=declared)
        async with serving(answer) as server, UrlFetcher(allow_loopback=True) as fetcher:
            if declared == "2":  # what stands behind the declared end is not part of the answer
                assert (await fetcher.fetch(server.url())).content == b"pi"
            else:
                with pytest.raises(RejectedUrl) as raised:
                    await fetcher.fetch(server.url())
                assert raised.value.reason == "URL_FAILED"

    async def test_compressed_bomb(self) -> None:
        bomb = gzip.compress(bytes(50_000_000))
        async with serving(reply(bomb, Content_Encoding="gzip")) as server:
            error = await rejection(server.url(), allow_loopback=True)
        assert error.reason == "URL_FAILED"
        assert "compressed" in error.message

    @pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00" * 100, b"HTTP/1.1 abc\r\n\r\n"])
    async def test_no_http(self, answer: bytes) -> None:
        async with serving(answer) as server:
            error = await rejection(server.url(), allow_loopback=True)
        assert error.reason == "URL_FAILED"

    async def test_nothing_listens(self) -> None:
        async with serving(b"") as server:
            pass
        error = await rejection(server.url(), allow_loopback=True)
        assert error.reason == "URL_FAILED"


class TestTls:
    async def test_the_name_is_kept_for_tls(self) -> None:
        hello = b""

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal hello
            hello = await reader.read(4096)
            writer.close()

        listener = await asyncio.start_server(listen, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        async with listener:
            error = await rejection(
                f"https://pictures.test:{port}/", allow_loopback=True, resolver=names(pictures_test=["127.0.0.1"])
            )
        assert error.reason == "URL_FAILED"
        assert hello[:1] == b"\x16"
        assert b"pictures.test" in hello

    async def test_certificates_are_verified_against_names(self) -> None:
        context = fetching._verifying_context()
        assert context.check_hostname
        assert context.verify_mode == ssl.CERT_REQUIRED


class TestLogs:
    async def test_no_credentials_and_no_query(self) -> None:
        with capture_logs() as logs:
            async with serving(reply(b"pixels")) as server, UrlFetcher(allow_loopback=True) as fetcher:
                await fetcher.fetch(server.url("/private/cat.jpg?token=secret"))
            await rejection("http://user:secret@example.org/?token=secret")
            await rejection("http://169.254.169.254/?token=secret")
        assert [entry["event"] for entry in logs] == ["url_fetched", "url_refused", "url_refused"]
        assert not [entry for entry in logs if "host" in entry]
        assert logs[0]["bytes"] == 6
        assert "secret" not in repr(logs)
        assert "user" not in repr(logs)
        assert "private" not in repr(logs)


class TestUse:
    async def test_it_must_be_entered(self) -> None:
        with pytest.raises(RuntimeError, match="enter it first"):
            await UrlFetcher(allow_loopback=True).fetch("http://127.0.0.1/")

    async def test_many_at_once(self) -> None:
        async with serving(reply(b"pixels")) as server, UrlFetcher(allow_loopback=True, max_concurrent=50) as fetcher:
            fetched = await asyncio.gather(*(fetcher.fetch(server.url(f"/{number}.png")) for number in range(50)))
        assert [one.filename for one in fetched] == [f"{number}.png" for number in range(50)]

    @pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001::1"])
    async def test_public_addresses(self, address: str) -> None:
        assert is_public_address(address)


async def test_only_so_many_fetches_at_once():
    release = asyncio.Event()

    async def resolver(host: str, port: int) -> Sequence[str]:
        await release.wait()
        return []

    async with UrlFetcher(max_concurrent=2, resolver=resolver) as fetcher:
        waiting = [asyncio.create_task(fetcher.fetch("http://example.org/a.jpg")) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded):
            await fetcher.fetch("http://example.org/a.jpg")
        release.set()
        assert all(isinstance(error, RejectedUrl) for error in await asyncio.gather(*waiting, return_exceptions=True))
