"""Fetches a picture by URL, safely: a caller must not reach, or learn about, anything that only this machine can reach.

Posting (a webhook) goes by the same rules.

What is allowed:

- http and https, on the usual ports, without user name or password in the URL;
- hosts whose address is globally routable. The name is resolved here, the addresses are checked, and the connection
  goes to a checked address, so a name that changes its address in between (DNS rebinding) gains nothing. TLS still
  verifies the certificate against the name;
- at most five redirects, each checked like the first URL;
- so many bytes and so many seconds, no matter what the server declares or how slowly it speaks. Content is asked for
  without compression, and refused with one, so nothing can swell up.

Every refusal because of an address has the same words whatever stands at that address: the answer is no port scanner.
Proxies in the environment are not used, as they would connect unchecked.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
import unicodedata
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from urllib.parse import unquote

import httpcore
import httpx
import structlog

from services.common.errors import PentimentoError, RejectedUrl, TooLarge
from services.common.limiter import AdmissionLimiter

__all__ = ["DEFAULT_PORTS", "FetchedImage", "Resolver", "UrlFetcher", "is_public_address"]

DEFAULT_PORTS: Final = frozenset({80, 443, 8080, 8443})

MAX_URL_LENGTH: Final = 4096
MAX_FILENAME_LENGTH: Final = 200

_DEFAULT_PORT_OF_SCHEME: Final = {"http": 80, "https": 443}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_GONE: Final = frozenset({404, 410})
_RESOLVER_THREADS: Final = 8

# Refused before they are resolved, lest the answer tells which of an operator's own names exist (RFC 6761, 6762, 8375).
_INTERNAL_SUFFIXES: Final = (".localhost", ".local", ".internal", ".intranet", ".lan", ".home.arpa", ".corp", ".home")

_GLOBAL_UNICAST_V6: Final = ipaddress.IPv6Network("2000::/3")
# Within what the standard library calls global, or unevenly does from version to version.
_REFUSED_V4: Final = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "100.64.0.0/10",  # carrier-grade NAT
        "168.63.129.16/32",  # what a virtual machine of Azure asks about itself
        "192.0.0.0/24",  # protocol assignments
        "192.88.99.0/24",  # 6to4 relays
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_REFUSED_V6: Final = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, with Teredo (2001::/32)
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: any IPv4 address in disguise
        "3fff::/20",  # documentation
    )
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FetchedImage:
    """What a URL gave.

    Attributes:
        content: the bytes; not yet known to be a picture.
        filename: last segment of the path of the URL that was asked for (not of where a redirect led), safe to show
            and to store under; "image" if the path has none.
        content_type: as the server declared it, lower case, without parameters; "" if it did not.
    """

    content: bytes
    filename: str
    content_type: str


Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Given a host and a port, answers with the host's addresses as text; raises OSError if there are none."""


class UrlFetcher:
    """Fetches pictures by URL; see the module's text for what is allowed. An async context manager.

        async with UrlFetcher(max_bytes=limits.max_bytes) as fetcher:
            fetched = await fetcher.fetch("https://example.org/cat.jpg")

    Args:
        max_bytes: longest content.
        total_seconds: for one fetch, redirects and name resolution included.
        idle_seconds: for connecting, and for each wait for more data.
        max_redirects: most redirects followed.
        max_concurrent: most fetches in progress, each of which may hold `max_bytes`; one more is refused.
        ports: allowed ports.
        allow_loopback: allows loopback addresses, and any port. For tests only.
        resolver: resolves host names; by default the system's.
    """

    def __init__(
        self,
        *,
        max_bytes: int = 10 * 1024 * 1024,
        total_seconds: float = 15.0,
        idle_seconds: float = 5.0,
        max_redirects: int = 5,
        max_concurrent: int = 32,
        ports: Iterable[int] = DEFAULT_PORTS,
        allow_loopback: bool = False,
        resolver: Resolver | None = None,
    ) -> None:
        self._max_bytes = max_bytes
        self._total_seconds = total_seconds
        self._timeouts = dict.fromkeys(("connect", "read", "write", "pool"), idle_seconds)
        self._max_redirects = max_redirects
        self._admission = AdmissionLimiter(max_concurrent)
        self._ports = frozenset(ports)
        self._allow_loopback = allow_loopback
        self._resolver = resolver
        self._system_resolver: _SystemResolver | None = None
        self._backend: _CheckedBackend | None = None
        self._pool: httpcore.AsyncConnectionPool | None = None

    async def __aenter__(self) -> Self:
        resolver = self._resolver
        if resolver is None:
            resolver = self._system_resolver = _SystemResolver()
        self._backend = _CheckedBackend(resolver=resolver, allow_loopback=self._allow_loopback)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_verifying_context(),
            max_connections=None,
            max_keepalive_connections=0,
            network_backend=self._backend,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            await self._pool.aclose()
        if self._system_resolver is not None:
            self._system_resolver.close()

    async def fetch(self, url: str, *, deadline_seconds: float | None = None) -> FetchedImage:
        """Fetches the content of `url`.

        Args:
            url: absolute, http or https.
            deadline_seconds: what is left of the caller's own deadline, if shorter than `total_seconds`.

        Raises:
            RejectedUrl: with one of these reasons:
                URL_NOT_ALLOWED (malformed, scheme, port, credentials), ADDRESS_NOT_ALLOWED,
                HOST_NOT_FOUND, IMAGE_NOT_FOUND (404, 410), NOT_A_PICTURE (a web page), TOO_MANY_REDIRECTS,
                URL_TIMEOUT, URL_FAILED (anything else).
            TooLarge: the content is longer than `max_bytes`.
            Overloaded: too many fetches are in progress.
        """
        seconds = self._total_seconds if deadline_seconds is None else min(self._total_seconds, deadline_seconds)
        started = time.monotonic()
        try:
            first = self._checked_url(url)
            async with self._admission.admit(), asyncio.timeout(seconds):
                content, content_type = await self._follow(first)
        except PentimentoError as error:
            _log.info("url_refused", reason=error.reason, seconds=round(time.monotonic() - started, 3))
            raise
        except (TimeoutError, httpcore.TimeoutException) as error:
            _log.info("url_timeout", seconds=round(time.monotonic() - started, 3))
            raise RejectedUrl("The server of the URL took too long to answer.", reason="URL_TIMEOUT") from error
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.ProxyError,
            httpcore.UnsupportedProtocol,
            ValueError,
        ) as error:
            _log.info("url_failed", error=type(error).__name__)
            raise RejectedUrl(
                "The URL could not be fetched: the connection failed or broke off.", reason="URL_FAILED"
            ) from error
        _log.info("url_fetched", bytes=len(content), seconds=round(time.monotonic() - started, 3))
        return FetchedImage(content=content, filename=_filename(first), content_type=content_type)

    async def check(self, url: str) -> None:
        """Whether `url` may be connected to, as far as can be told without doing so; its name is resolved.

        Raises:
            RejectedUrl: URL_NOT_ALLOWED, ADDRESS_NOT_ALLOWED, HOST_NOT_FOUND, or URL_TIMEOUT.
        """
        parsed = self._checked_url(url)
        port = parsed.port or _DEFAULT_PORT_OF_SCHEME[parsed.scheme]
        try:
            async with asyncio.timeout(self._total_seconds):
                await self._network().allowed_addresses(parsed.raw_host.decode("ascii"), port)
        except TimeoutError:
            raise RejectedUrl("The host of the URL could not be found in time.", reason="URL_TIMEOUT") from None

    async def post(self, url: str, *, content: bytes, headers: dict[str, str]) -> int:
        """Posts to `url` under the same rules and returns the status; follows no redirect and reads no answer.

        Raises:
            RejectedUrl: the URL may not be posted to, or nobody answered.
            Overloaded: too many fetches are in progress.
        """
        parsed = self._checked_url(url)
        try:
            async with (
                self._admission.admit(),
                asyncio.timeout(self._total_seconds),
                self._connections().stream(
                    "POST",
                    httpcore.URL(
                        scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path
                    ),
                    headers=[
                        ("Host", parsed.netloc),
                        ("User-Agent", "Pentimento (webhook)"),
                        ("Content-Length", str(len(content))),
                        ("Connection", "close"),
                        *headers.items(),
                    ],
                    content=content,
                    extensions={"timeout": self._timeouts},
                ) as response,
            ):
                return response.status
        except (
            TimeoutError,
            httpcore.TimeoutException,
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.UnsupportedProtocol,
        ) as error:
            _log.info("post_failed", error=type(error).__name__)
            raise RejectedUrl("The URL could not be posted to: nobody answered.", reason="URL_FAILED") from error

    def _connections(self) -> httpcore.AsyncConnectionPool:
        if self._pool is None:
            raise RuntimeError("UrlFetcher is an async context manager; enter it first")
        return self._pool

    def _network(self) -> _CheckedBackend:
        if self._backend is None:
            raise RuntimeError("UrlFetcher is an async context manager; enter it first")
        return self._backend

    async def _follow(self, url: httpx.URL) -> tuple[bytes, str]:
        for _ in range(self._max_redirects + 1):
            async with self._connections().stream(
                "GET",
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers={
                    "Host": url.netloc,
                    "User-Agent": "Pentimento (image check)",
                    "Accept": "image/*",
                    "Accept-Encoding": "identity",
                    "Connection": "close",
                },
                extensions={"timeout": self._timeouts},
            ) as response:
                headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
                location = headers.get(b"location")
                if response.status not in _REDIRECTS or location is None:
                    return await self._read(response, headers)
            url = self._checked_url(location, base=url)
        raise RejectedUrl(
            "The URL redirects too often.",
            reason="TOO_MANY_REDIRECTS",
            metadata={"limit": str(self._max_redirects)},
        )

    async def _read(self, response: httpcore.Response, headers: dict[bytes, str]) -> tuple[bytes, str]:
        if response.status in _GONE:
            raise RejectedUrl(
                f"There is no picture at the URL: its server answered with status {response.status}.",
                reason="IMAGE_NOT_FOUND",
                metadata={"status": str(response.status)},
            )
        if response.status != 200:
            raise RejectedUrl(
                f"The server of the URL answered with status {response.status} instead of a picture.",
                reason="URL_FAILED",
                metadata={"status": str(response.status)},
            )
        content_type = headers.get(b"content-type", "").partition(";")[0].strip().lower()
        if content_type in ("text/html", "application/xhtml+xml"):
            raise RejectedUrl(
                "The URL is a web page, not a picture. Give the address of the picture itself.", reason="NOT_A_PICTURE"
            )
        if headers.get(b"content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise RejectedUrl(
                "The server of the URL sends compressed content, though it was asked not to.", reason="URL_FAILED"
            )
        declared = headers.get(b"content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > self._max_bytes:
            raise self._too_large(declared[:20])
        content = bytearray()
        async for piece in response.aiter_stream():
            content += piece
            if len(content) > self._max_bytes:
                raise self._too_large(None)
        return bytes(content), content_type

    def _too_large(self, actual: str | None) -> TooLarge:
        size = f"File size {actual} bytes" if actual else "File size"
        metadata = {"limit": str(self._max_bytes), "unit": "bytes"} | ({"actual": actual} if actual else {})
        return TooLarge(f"{size} exceeds maximum {self._max_bytes} bytes", metadata=metadata)

    def _checked_url(self, text: str, *, base: httpx.URL | None = None) -> httpx.URL:
        """Parses a URL (relative to `base`, for a redirect) and checks all that can be checked without resolving it."""
        if len(text) > MAX_URL_LENGTH:
            raise _not_allowed(f"The URL is longer than {MAX_URL_LENGTH} characters.")
        try:
            url = httpx.URL(text) if base is None else base.join(text)
            host = url.raw_host.decode("ascii").lower()
        except (httpx.InvalidURL, UnicodeError, ValueError, TypeError) as error:
            raise _not_allowed("The URL is malformed.") from error
        if url.scheme not in _DEFAULT_PORT_OF_SCHEME:
            raise _not_allowed("Only http and https URLs are fetched.")
        if url.userinfo:
            raise _not_allowed("URLs with a user name or password are not fetched.")
        if not host:
            raise _not_allowed("The URL names no host.")
        port = _DEFAULT_PORT_OF_SCHEME[url.scheme] if url.port is None else url.port
        if "%" in host or not 0 < port < 65536:
            raise _not_allowed("The URL is malformed.")
        if not self._allow_loopback:
            if port not in self._ports:
                raise _not_allowed(
                    f"Only the ports {', '.join(str(port) for port in sorted(self._ports))} are fetched from."
                )
            name = host.rstrip(".")
            if ":" not in name and ("." not in name or name.endswith(_INTERNAL_SUFFIXES)):
                raise _address_not_allowed()
        return url


def is_public_address(address: str) -> bool:
    """Tells whether `address` (IPv4 or IPv6, as text) is a globally routable unicast address.

    False for private, loopback, link-local, multicast, reserved and documentation addresses, for carrier-grade NAT, and
    for every IPv6 form with an IPv4 address inside (mapped, compatible, 6to4, NAT64, Teredo): public hosts have no need
    of them. False also for what is no address.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if parsed.is_multicast or parsed.is_reserved or not parsed.is_global:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in _REFUSED_V4)
    return parsed in _GLOBAL_UNICAST_V6 and not any(parsed in network for network in _REFUSED_V6)


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Resolves, checks, and connects to exactly an address that was checked."""

    def __init__(self, *, resolver: Resolver, allow_loopback: bool) -> None:
        self._resolver = resolver
        self._allow_loopback = allow_loopback
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        async with asyncio.timeout(timeout):
            allowed = await self.allowed_addresses(host, port)
        for address in allowed[:-1]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._inner.connect_tcp(allowed[-1], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def allowed_addresses(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host that may be connected to, at least one; raises `RejectedUrl` if there are none."""
        try:
            addresses = await self._resolver(host, port)
        except (OSError, UnicodeError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise RejectedUrl(
                "The host of the URL is not known. Check how its name is written.", reason="HOST_NOT_FOUND"
            ) from error
        allowed = [address for address in addresses if self._is_allowed(address)]
        if not allowed:
            raise _address_not_allowed()
        return allowed

    def _is_allowed(self, address: str) -> bool:
        if is_public_address(address):
            return True
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        # Written out: what counts as a loopback among the mapped forms depends on Python's version.
        is_loopback = address == "::1" or (parsed.version == 4 and parsed.is_loopback)
        return self._allow_loopback and is_loopback


class _SystemResolver:
    """The system's resolver, in threads of its own, so that slow name servers do not hold up other blocking work."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="resolver")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._resolve, host, port)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _resolve(host: str, port: int) -> Sequence[str]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _verifying_context() -> ssl.SSLContext:
    return httpx.create_ssl_context(verify=True, trust_env=False)


def _filename(url: httpx.URL) -> str:
    """The last segment of the path without whatever a file system, a header or a terminal would take amiss."""
    path = url.raw_path.decode("ascii", "replace").partition("?")[0]
    name = unquote(path.rpartition("/")[2], errors="replace").replace("\\", "/").rpartition("/")[2]
    name = "".join(
        character
        for character in unicodedata.normalize("NFC", name)
        if unicodedata.category(character)[0] != "C" and character not in '<>:"|?*'
    )
    name = name.strip(" .")
    if len(name) > MAX_FILENAME_LENGTH:
        stem, dot, extension = name.rpartition(".")
        keep = f".{extension}" if dot and len(extension) <= 10 else ""
        name = (stem if keep else name)[: MAX_FILENAME_LENGTH - len(keep)] + keep
    return name or "image"


def _not_allowed(message: str) -> RejectedUrl:
    return RejectedUrl(message, reason="URL_NOT_ALLOWED")


def _address_not_allowed() -> RejectedUrl:
    return RejectedUrl("The URL's address may not be fetched.", reason="ADDRESS_NOT_ALLOWED")
