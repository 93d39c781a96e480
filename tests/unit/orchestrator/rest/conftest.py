"""A real gRPC server with the real servicers, intake and URL fetcher; only the analysers behind them are stand-ins."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.api import httpbody_pb2
from pentimento.orchestrator.v1 import documented_services_pb2 as pb
from PIL import Image
from skimage import data as photographs

from services.common.images import ImageLimits
from services.common.interceptor import CallInterceptor
from services.common.limiter import AdmissionLimiter, WorkLimiter
from services.orchestrator.fetching import UrlFetcher
from services.orchestrator.intake import Intake
from services.orchestrator.rest.deepfake import DeepfakeServicer
from services.orchestrator.rest.image_interface import ImageInterfaceServicer
from services.orchestrator.rest.manipulation import ManipulationServicer
from services.orchestrator.rest.profile import ProfileServicer
from services.orchestrator.rest.screening import ScreeningServicer

LIMITS = ImageLimits(formats=frozenset({"JPEG", "PNG", "WEBP", "GIF"}))
BOUNDARY = "a8f3c1"


def encoded(image_format: str, size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photographs.astronaut()).resize(size).save(buffer, image_format)
    return buffer.getvalue()


def form(*parts: tuple[str, str | None, bytes]) -> httpbody_pb2.HttpBody:
    """multipart/form-data as curl -F sends it: (field, file name, content)."""
    body = bytearray()
    for name, filename, content in parts:
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        if filename is not None:
            body += f'; filename="{filename}"\r\nContent-Type: application/octet-stream'.encode()
        body += b"\r\n\r\n" + content + b"\r\n"
    body += f"--{BOUNDARY}--\r\n".encode()
    return httpbody_pb2.HttpBody(content_type=f"multipart/form-data; boundary={BOUNDARY}", data=bytes(body))


def json_body(value: Any) -> httpbody_pb2.HttpBody:
    return httpbody_pb2.HttpBody(content_type="application/json", data=json.dumps(value).encode())


@dataclass
class Answer:
    """What a client of the REST API gets, the edge left out."""

    status: int
    headers: dict[str, str]
    content_type: str
    json: Any


Behaviour = Callable[..., Awaitable[Any]]


class StandIn:
    """An analyser that is not started here: answers each method with a value, an exception or a function."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Behaviour:
        async def method(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            answer = self.answers[name]
            if isinstance(answer, BaseException):
                raise answer
            return await answer(*args, **kwargs) if callable(answer) else answer

        return method


@dataclass
class Mesh:
    """The orchestrator's documented APIs on a port of this machine."""

    channel: grpc.aio.Channel
    web: str
    pages: dict[str, bytes]
    intake: Intake
    engine: StandIn = field(default_factory=StandIn)
    batches: StandIn = field(default_factory=StandIn)
    passive: StandIn = field(default_factory=StandIn)
    deeplearning: StandIn = field(default_factory=StandIn)
    faces: StandIn = field(default_factory=StandIn)

    async def ask(self, method: str, request: Any = None) -> Answer:
        """Calls e.g. "ScreeningService.GetHealth"."""
        service, _, name = method.partition(".")
        request_class = getattr(pb, f"{service}{name}Request")
        call = self.channel.unary_unary(
            f"/pentimento.orchestrator.v1.{service}/{name}",
            request_serializer=request_class.SerializeToString,
            response_deserializer=httpbody_pb2.HttpBody.FromString,
        )
        if isinstance(request, httpbody_pb2.HttpBody):
            request = request_class(body=request)
        running = call(request or request_class(), metadata=(("x-request-id", "req-1"),), timeout=60)
        body = await running
        metadata = await running.initial_metadata()
        headers = {key: str(value) for key, value in metadata}
        return Answer(int(headers["x-http-status"]), headers, body.content_type, json.loads(body.data))


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    return encoded("JPEG")


@pytest_asyncio.fixture
async def mesh() -> AsyncIterator[Mesh]:
    pages: dict[str, bytes] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        page = pages.get(request.split(b" ")[1].decode())
        writer.write(b"HTTP/1.1 404 Not Found\r\n\r\n" if page is None else b"HTTP/1.1 200 OK\r\n\r\n" + page)
        await writer.drain()
        writer.close()

    async with AsyncExitStack() as stack:
        web = await asyncio.start_server(serve, "127.0.0.1", 0)
        stack.push_async_callback(web.wait_closed)
        stack.callback(web.close)
        fetcher = await stack.enter_async_context(UrlFetcher(allow_loopback=True, idle_seconds=60.0))
        work = WorkLimiter(workers=2, queue=64)
        stack.callback(work.close)
        intake = Intake(fetcher, work=work, limits=LIMITS)
        server = grpc.aio.server(
            interceptors=[CallInterceptor()], options=[("grpc.max_receive_message_length", 64 * 1024 * 1024)]
        )
        port = server.add_insecure_port("127.0.0.1:0")
        channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", 64 * 1024 * 1024)]
        )
        stack.push_async_callback(channel.close)
        mesh = Mesh(channel, f"http://127.0.0.1:{web.sockets[0].getsockname()[1]}", pages, intake)
        ScreeningServicer(
            mesh.engine,
            intake,
            mesh.batches,
            work=work,
            limits=LIMITS,
            waiting=AdmissionLimiter(1),
            wait_seconds=30.0,
        ).register(server)
        ImageInterfaceServicer(mesh.passive, intake, work=work, limits=LIMITS).register(server)
        ManipulationServicer(mesh.deeplearning, intake).register(server)
        ProfileServicer(mesh.faces, intake).register(server)
        DeepfakeServicer(mesh.faces, intake).register(server)
        await server.start()
        stack.push_async_callback(server.stop, None)
        yield mesh
