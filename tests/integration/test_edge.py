"""The edge: a real Envoy in front of a small gRPC server with canned answers."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.api import httpbody_pb2
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from pentimento.orchestrator.v1 import (
    analysis_pb2,
    analysis_service_pb2,
    analysis_service_pb2_grpc,
    batch_service_pb2,
    batch_service_pb2_grpc,
    documented_services_pb2_grpc,
    system_service_pb2,
    system_service_pb2_grpc,
)

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
NAME = "analyses/11111111-2222-3333-4444-555555555555"
BATCH = "/v1/batches/11111111-2222-3333-4444-555555555555"
HOSTILE = 'a "quoted" <b>\\ line\nbreak é'
DOCUMENTED = {"success", "message", "error", "timestamp", "request_id"}


# ---- the backend: answers by the filename or the id that it is asked for ----


def http_body(data: bytes | dict[str, Any], content_type: str = "application/json") -> httpbody_pb2.HttpBody:
    content = data if isinstance(data, bytes) else json.dumps(data).encode()
    return httpbody_pb2.HttpBody(content_type=content_type, data=content)


def failure(code: grpc.StatusCode, message: str, *details: Any) -> Any:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return rpc_status.to_status(status_pb2.Status(code=code.value[0], message=message, details=packed))


class Screening(documented_services_pb2_grpc.ScreeningServiceServicer):
    calls = 0

    async def GetHealth(self, request, context):
        metadata = dict(context.invocation_metadata())
        return http_body({"status": "ok", "metadata": {k: v for k, v in metadata.items() if isinstance(v, str)}})

    async def AnalyzeImage(self, request, context):
        size = len(request.body.data)
        if size > 10 * 1024 * 1024:
            await context.send_initial_metadata((("x-http-status", "413"),))
            return http_body({"success": False, "message": "Validation error", "error": "size", "timestamp": "t"})
        if request.body.data == b"overloaded":
            await context.send_initial_metadata((("x-http-status", "429"), ("retry-after", "7")))
            return http_body({"success": False, "message": "Busy", "error": None, "timestamp": "t"})
        if request.body.data == b"refuse":
            await context.abort_with_status(failure(grpc.StatusCode.RESOURCE_EXHAUSTED, HOSTILE))
        return http_body(
            {
                "success": True,
                "type": request.body.content_type,
                "size": size,
                "overlays": request.overlays,
                "body": request.body.data[:300].decode("latin-1"),
            }
        )

    async def AnalyzeBatch(self, request_iterator, context):
        pieces = [len(piece.body.data) async for piece in request_iterator]
        await context.send_initial_metadata((("x-http-status", "202"), ("preference-applied", "respond-async")))
        return http_body({"size": sum(pieces), "largest": max(pieces)})

    async def GetBatchProgress(self, request, context):
        Screening.calls += 1
        if Screening.calls % 2 == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "odd calls fail")
        return http_body({"status": "processing", "id": request.batch_id})

    async def GetCsvReport(self, request, context):
        await context.send_initial_metadata((("content-disposition", 'attachment; filename="report.csv"'),))
        return http_body(b"a,b\n" * 1000, "text/csv")


class ImageInterface(documented_services_pb2_grpc.ImageInterfaceServiceServicer):
    async def CheckImages(self, request, context):
        return http_body({"size": len(request.body.data)})


class Deepfake(documented_services_pb2_grpc.DeepfakeServiceServicer):
    async def GetModelInfo(self, request, context):
        await context.abort(grpc.StatusCode.INTERNAL, "Internal error.")


class Analysis(analysis_service_pb2_grpc.AnalysisServiceServicer):
    calls = 0

    async def AnalyzeImage(self, request, context):
        Analysis.calls += 1
        match request.image.filename:
            case "large":
                info = error_details_pb2.ErrorInfo(reason="TOO_LARGE", domain="pentimento", metadata={"unit": "bytes"})
                await context.abort_with_status(failure(grpc.StatusCode.INVALID_ARGUMENT, "11 bytes exceed 10", info))
            case "wide":
                info = error_details_pb2.ErrorInfo(reason="TOO_LARGE", domain="pentimento", metadata={"unit": "pixels"})
                await context.abort_with_status(failure(grpc.StatusCode.INVALID_ARGUMENT, HOSTILE, info))
            case "busy":
                delay = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2, nanos=500_000_000))
                await context.abort_with_status(failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "Busy.", delay))
            case "huge":
                analysis = analysis_pb2.Analysis(filename="huge", decision_explanation="x" * 20_000_000)
                return analysis_service_pb2.AnalyzeImageResponse(analysis=analysis)
            case "slow":
                await asyncio.sleep(20)
            case "unavailable":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "Nothing could analyse.")
            case code if code.startswith("code-"):
                status = next(code_ for code_ in grpc.StatusCode if code_.value[0] == int(code[5:]))
                await context.abort(status, "Because.")
        analysis = analysis_pb2.Analysis(
            name=NAME, filename=request.image.filename, decision=analysis_pb2.DECISION_MOSTLY_AUTHENTIC
        )
        return analysis_service_pb2.AnalyzeImageResponse(analysis=analysis)

    async def StreamAnalyzeImages(self, request, context):
        if request.images[0].filename == "fail":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "No.")
        for index, image in enumerate(request.images):
            yield analysis_service_pb2.StreamAnalyzeImagesResponse(
                image_index=index, analysis=analysis_pb2.Analysis(filename=image.filename)
            )
            await asyncio.sleep(0.3)
        done = analysis_service_pb2.StreamDone(analyzed_count=len(request.images))
        yield analysis_service_pb2.StreamAnalyzeImagesResponse(done=done)

    async def ListAnalyses(self, request, context):
        return analysis_service_pb2.ListAnalysesResponse(next_page_token="x" * 5000)

    async def GetAnalysis(self, request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, "There is no such analysis.")


class Batches(batch_service_pb2_grpc.BatchServiceServicer):
    async def WatchBatch(self, request, context):
        yield batch_service_pb2.WatchBatchResponse(batch=batch_service_pb2.Batch(name=request.name))
        yield batch_service_pb2.WatchBatchResponse(done=True)

    async def GetBatch(self, request, context):
        return batch_service_pb2.GetBatchResponse(batch=batch_service_pb2.Batch(name=request.name))


class System(system_service_pb2_grpc.SystemServiceServicer):
    async def GetHealth(self, request, context):
        return system_service_pb2.GetHealthResponse(state=system_service_pb2.PART_STATE_SERVING)


class Backend:
    """The server in a thread with an event loop of its own."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        limit = 64 * 1024 * 1024
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", limit)])
        documented_services_pb2_grpc.add_ScreeningServiceServicer_to_server(Screening(), server)
        documented_services_pb2_grpc.add_ImageInterfaceServiceServicer_to_server(ImageInterface(), server)
        documented_services_pb2_grpc.add_DeepfakeServiceServicer_to_server(Deepfake(), server)
        analysis_service_pb2_grpc.add_AnalysisServiceServicer_to_server(Analysis(), server)
        batch_service_pb2_grpc.add_BatchServiceServicer_to_server(Batches(), server)
        system_service_pb2_grpc.add_SystemServiceServicer_to_server(System(), server)
        health = HealthServicer()
        add_HealthServicer_to_server(health, server)
        reflection.enable_server_reflection(
            ["pentimento.orchestrator.v1.AnalysisService", reflection.SERVICE_NAME], server
        )
        await health.set("", health_pb2.HealthCheckResponse.SERVING)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()
        self._ready.set()
        await self._stop.wait()
        await server.stop(0)

    def stop(self) -> None:
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Edge:
    """An Envoy that `python -m local.envoy` started."""

    def __init__(self, home: Path, backend_port: int, **settings: object) -> None:
        self.port, self.admin = free_port(), free_port()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PENTIMENTO_")}
        environment |= {
            "PENTIMENTO_HOME": str(home),
            "PENTIMENTO_PORT": str(self.port),
            "PENTIMENTO_ENVOY_ADMIN_PORT": str(self.admin),
            "PENTIMENTO_ORCHESTRATOR_ADDRESS": f"127.0.0.1:{backend_port}",
        }
        environment |= {f"PENTIMENTO_{name.upper()}": str(value) for name, value in settings.items()}
        self._log = home / "envoy.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "local.envoy"], env=environment, cwd=ROOT, stdout=log, stderr=log
            )
        self.url = f"http://127.0.0.1:{self.port}"
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log()
            try:
                if httpx.get(f"{self.url}/v1/health", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError(self.log())

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def memory(self) -> int:
        """The most memory that Envoy had so far, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024  # type: ignore[index]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)


@contextmanager
def running(home: Path, **settings: object) -> Iterator[tuple[Edge, Backend]]:
    with ExitStack() as stack:
        backend = Backend()
        stack.callback(backend.stop)
        edge = Edge(home, backend.port, **settings)
        stack.callback(edge.stop)
        yield edge, backend


UNLIMITED = {f"rate_limit_{name}": 0 for name in ("image", "batch", "report", "analysis", "other")}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with running(tmp_path_factory.mktemp("edge"), analysis_timeout_seconds=2, **UNLIMITED) as (edge, _):
        yield edge


@pytest.fixture
def client(edge: Edge) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=edge.url, timeout=10) as client:
        yield client


def analyze(client: httpx.Client, filename: str, **kwargs: Any) -> httpx.Response:
    body = {"image": {"filename": filename, "content": base64.b64encode(b"x").decode()}}
    return client.post("/v1/images:analyze", json=body, **kwargs)


def assert_documented(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    # Under /v1, `status` is the google.rpc.Status, where a service answered.
    assert set(answer) - {"status"} == DOCUMENTED, answer
    assert "status" not in answer or response.request.url.path.startswith("/v1/")
    assert answer["success"] is False
    assert isinstance(answer["message"], str)
    assert answer["message"]
    assert answer["error"] is None or isinstance(answer["error"], str)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", answer["timestamp"])
    assert answer["request_id"] == response.headers["x-request-id"]
    return answer


# ---- documented APIs ----


def test_multipart_is_handed_over_whole(client: httpx.Client) -> None:
    response = client.post("/analyze/image?overlays=true&unknown=1", files={"file": ("a.jpg", b"pixels", "image/jpeg")})
    assert response.status_code == 200
    answer = response.json()
    assert answer["type"].startswith("multipart/form-data; boundary=")
    assert answer["overlays"] is True
    assert 'filename="a.jpg"' in answer["body"]
    assert "pixels" in answer["body"]


def test_status_of_the_orchestrator(client: httpx.Client) -> None:
    response = client.post("/analyze/image", content=b"x" * (11 * 1024 * 1024))
    assert response.status_code == 413
    assert response.json()["error"] == "size"
    assert "x-http-status" not in response.headers
    response = client.post("/analyze/image", content=b"overloaded")
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    assert response.json()["message"] == "Busy"


def test_grpc_status_on_a_documented_api_has_the_documented_shape(client: httpx.Client) -> None:
    response = client.post("/analyze/image", content=b"refuse")
    answer = assert_documented(response, 429)
    assert answer["error"] == HOSTILE
    assert response.headers["retry-after"]
    assert "grpc-status" not in response.headers
    assert_documented(client.get("/api/v1/model/info"), 500)


def test_not_implemented_by_the_backend(client: httpx.Client) -> None:
    assert_documented(client.post("/segment", content=b"x"), 501)


def test_csv(client: httpx.Client) -> None:
    for method in ("GET", "POST"):
        response = client.request(method, "/report/csv/abc")
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/csv"
        assert response.headers["content-disposition"].startswith("attachment")
        assert response.headers["content-encoding"] == "gzip"
        assert response.text.startswith("a,b\n")


@pytest.mark.parametrize("path", ["/imginterface", "/imginterface/"])
def test_with_and_without_trailing_slash(client: httpx.Client, path: str) -> None:
    response = client.post(path, json={"urls": []})
    assert response.status_code == 200
    assert response.json()["size"] > 0


def test_batch_streams(client: httpx.Client) -> None:
    response = client.post("/analyze/batch", content=b"x" * (40 * 1024 * 1024))
    assert response.status_code == 202
    assert response.headers["preference-applied"] == "respond-async"
    answer = response.json()
    assert answer["size"] == 40 * 1024 * 1024
    assert answer["largest"] <= 1024 * 1024


# ---- /v1 ----


def test_typed_answers(client: httpx.Client) -> None:
    answer = analyze(client, "ok").json()
    assert answer["name"] == NAME
    assert answer["decision"] == "DECISION_MOSTLY_AUTHENTIC"
    assert answer["duration_seconds"] == 0
    assert answer["policy_version"] == ""
    assert client.get(BATCH).json()["name"] == BATCH[4:]
    assert client.get("/v1/health").json()["state"] == "PART_STATE_SERVING"


def test_large_answers(client: httpx.Client) -> None:
    answer = analyze(client, "huge").json()
    assert len(answer["decision_explanation"]) == 20_000_000


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (1, 499),
        (3, 400),
        (5, 404),
        (6, 409),
        (7, 403),
        (8, 429),
        (9, 400),
        (12, 501),
        (13, 500),
        (14, 503),
        (16, 401),
        (4, 504),
    ],
)
def test_status_mapping(client: httpx.Client, code: int, status: int) -> None:
    response = analyze(client, f"code-{code}")
    answer = assert_documented(response, status)
    assert answer["error"] == "Because."
    assert answer["status"]["code"] == code
    if status in {429, 503}:
        assert int(response.headers["retry-after"]) >= 1


def test_too_large_in_bytes_is_413_in_pixels_400(client: httpx.Client) -> None:
    answer = assert_documented(analyze(client, "large"), 413)
    assert answer["status"]["details"][0]["reason"] == "TOO_LARGE"
    assert answer["status"]["details"][0]["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    answer = assert_documented(analyze(client, "wide"), 400)
    assert answer["error"] == HOSTILE


def test_retry_info_becomes_retry_after(client: httpx.Client) -> None:
    response = analyze(client, "busy")
    assert_documented(response, 429)
    assert response.headers["retry-after"] == "3"


def test_not_found_on_get(client: httpx.Client) -> None:
    assert_documented(client.get(f"/v1/{NAME}"), 404)


@pytest.mark.parametrize("body", [b"{", b"no json", b'{"image": 3}', b"[]"])
def test_malformed_json(client: httpx.Client, body: bytes) -> None:
    response = client.post("/v1/images:analyze", content=body, headers={"content-type": "application/json"})
    assert_documented(response, 400)


def test_malformed_query(client: httpx.Client) -> None:
    for query in ("page_size=abc", "nonsense=1"):
        response = client.get(f"/v1/analyses?{query}")
        assert_documented(response, 400)


def test_timeout(client: httpx.Client) -> None:
    answer = assert_documented(analyze(client, "slow"), 504)
    assert answer["message"] == "Processing timeout"


# ---- Envoy's own errors ----


@pytest.mark.parametrize("path", ["/nothing", "/v1/nothing", "/v1/images:nothing", '/<b>"x"', "/analyze/image/x"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_unknown_path(client: httpx.Client, method: str, path: str) -> None:
    assert_documented(client.request(method, path, headers={"origin": "https://a.example"}), 404)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/analyze/image", "POST, OPTIONS"),
        ("GET", "/imginterface/", "POST, OPTIONS"),
        ("PUT", "/report/csv/abc", "GET, POST, OPTIONS"),
        ("POST", f"/v1/{NAME}", "DELETE, GET, OPTIONS"),
        ("GET", f"{BATCH}:cancel", "POST, OPTIONS"),
        ("OPTIONS", "/health", "GET, OPTIONS"),
        ("POST", "/", "GET, OPTIONS"),
    ],
)
def test_wrong_method(client: httpx.Client, method: str, path: str, allow: str) -> None:
    response = client.request(method, path)
    assert_documented(response, 405)
    assert response.headers["allow"] == allow


def test_head_has_no_body(client: httpx.Client) -> None:
    assert client.head("/health").status_code == 405


def test_unsupported_media_type(client: httpx.Client) -> None:
    assert_documented(client.post("/v1/images:analyze", files={"file": b"x"}), 415)
    assert_documented(client.post("/pentimento.orchestrator.v1.AnalysisService/AnalyzeImage", json={}), 415)


def chunks(mebibytes: int) -> Iterator[bytes]:
    for _ in range(mebibytes):
        yield b"x" * 1024 * 1024


def raw(edge: Edge, request: bytes, timeout: float = 10) -> bytes:
    with socket.create_connection(("127.0.0.1", edge.port), timeout=timeout) as connection:
        connection.sendall(request)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


def test_too_large_for_the_edge(edge: Edge, client: httpx.Client) -> None:
    # By Content-Length: read to its end, so that every client sees the answer, but kept nowhere.
    for _ in range(3):
        answer = assert_documented(client.post("/analyze/image", content=b"x" * (17 * 1024 * 1024)), 413)
        assert answer["error"] == "Request size 17825792 bytes exceeds maximum 16777216 bytes"
    # Much too large: refused before the body is sent.
    head = f"POST /analyze/image HTTP/1.1\r\nhost: x\r\ncontent-length: {100 * 1024 * 1024}\r\n\r\n"
    reply = raw(edge, head.encode())
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert set(json.loads(reply.partition(b"\r\n\r\n")[2])) == DOCUMENTED
    # Without a Content-Length: counted.
    try:
        response = client.post("/analyze/image", content=chunks(18))
    except httpx.WriteError:
        return  # the answer came, and the connection went, while we were sending
    assert assert_documented(response, 413)["error"] == "The request exceeds the maximum size."


def test_refused_uploads_are_answered_and_not_kept(tmp_path: Path) -> None:
    with running(tmp_path, **(UNLIMITED | {"rate_limit_image": 1})) as (edge, _):

        async def upload_all() -> list[int]:
            async with httpx.AsyncClient(base_url=edge.url, timeout=30) as client:
                body = b"x" * (11 * 1024 * 1024)
                responses = await asyncio.gather(*[client.post("/analyze/image", content=body) for _ in range(30)])
                return [response.status_code for response in responses]

        before = edge.memory()
        statuses = asyncio.run(upload_all())
        assert sorted(statuses) == [413] + [429] * 29
        assert edge.memory() - before < 150


def test_slow_uploads_are_nobody_elses_business(tmp_path: Path) -> None:
    """What is not here yet holds no place with the orchestrator, and what exceeds the places is told to come back."""
    settings = UNLIMITED | {"edge_max_requests": 2, "analysis_timeout_seconds": 2}
    with running(tmp_path, **settings) as (edge, _), ExitStack() as stack:
        head = b"POST /analyze/image HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\ncontent-length: 9\r\n\r\nx"
        for _ in range(20):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", edge.port), timeout=10))
            slow.sendall(head)
        time.sleep(0.5)
        with httpx.Client(base_url=edge.url, timeout=30) as client:
            assert client.get("/health").status_code == 200
            assert client.post("/analyze/image", content=b"x").status_code == 200
            with ThreadPoolExecutor() as threads:
                held = [threads.submit(analyze, client, "slow") for _ in range(2)]
                time.sleep(0.5)
                began = time.monotonic()
                refused = client.post("/analyze/image", content=b"x")
                assert time.monotonic() - began < 1
                answer = assert_documented(refused, 429)
                assert answer["error"] == "Too many requests are being worked on. Try again in a moment."
                assert refused.headers["retry-after"]
                assert [call.result().status_code for call in held] == [504, 504]


def test_malformed_http(edge: Edge) -> None:
    answer = raw(edge, b"GET /health HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert set(json.loads(answer.partition(b"\r\n\r\n")[2])) == DOCUMENTED
    answer = raw(edge, b"GET /health HTTP/1.1\r\nhost: x\r\nlong: " + b"x" * 40000 + b"\r\nconnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert set(json.loads(answer.partition(b"\r\n\r\n")[2])) == DOCUMENTED


@pytest.mark.parametrize(
    ("request_line", "status", "error"),
    [
        ("GET /analyze%2fimage HTTP/1.1\r\nhost: x", 400, "The path is not well-formed."),
        ("GET /health HTTP/1.1", 400, "The request names no host."),
        ("CONNECT 127.0.0.1:1 HTTP/1.1\r\nhost: x", 404, "There is nothing at this path."),
        (
            "GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket",
            403,
            "Connections are not upgraded here.",
        ),
    ],
)
def test_odd_requests_are_refused_in_words(edge: Edge, request_line: str, status: int, error: str) -> None:
    head, _, body = raw(edge, f"{request_line}\r\nconnection: close\r\n\r\n".encode()).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    answer = json.loads(body)
    assert set(answer) == DOCUMENTED
    assert answer["error"] == error


def test_http_1_0(edge: Edge) -> None:
    answer = raw(edge, b"GET /health HTTP/1.0\r\n\r\n")
    assert answer.split(b"\r\n")[0].endswith(b" 200 OK")
    body = b"POST /analyze/image HTTP/1.0\r\ncontent-type: image/jpeg\r\ncontent-length: 1\r\n\r\nx"
    assert raw(edge, body).split(b"\r\n")[0].endswith(b" 200 OK")


# ---- browsers ----


def test_preflight(client: httpx.Client) -> None:
    headers = {"origin": "https://a.example", "access-control-request-method": "POST"}
    for path in (
        "/analyze/image",
        "/v1/images:analyze",
        "/nothing",
        "/pentimento.orchestrator.v1.AnalysisService/AnalyzeImage",
    ):
        response = client.options(path, headers=headers)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://a.example"
        assert "POST" in response.headers["access-control-allow-methods"]
        assert "x-grpc-web" in response.headers["access-control-allow-headers"]


def test_cors_on_answers_and_errors(client: httpx.Client) -> None:
    headers = {"origin": "https://a.example"}
    responses = [
        client.get("/health", headers=headers),
        client.get("/nothing", headers=headers),
        client.get("/analyze/image", headers=headers),
        client.post("/v1/images:analyze", content=b"{", headers=headers),
        analyze(client, "unavailable", headers=headers),
        analyze(client, "slow", headers=headers),
        client.post("/analyze/image", content=b"overloaded", headers=headers),
    ]
    assert [response.status_code for response in responses] == [200, 404, 405, 400, 503, 504, 429]
    for response in responses:
        assert response.headers["access-control-allow-origin"] == "https://a.example"
        assert "x-request-id" in response.headers["access-control-expose-headers"]
        assert "Origin" in response.headers["vary"]


def test_headers_of_every_answer(client: httpx.Client) -> None:
    for response in (client.get("/health"), client.get("/nothing"), analyze(client, "ok"), analyze(client, "busy")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "server" not in response.headers
        assert not [name for name in response.headers if name.startswith(("x-envoy", "grpc-", "x-http"))]


def test_compression(client: httpx.Client) -> None:
    response = client.get("/v1/analyses", headers={"accept-encoding": "gzip"})
    assert response.headers["content-encoding"] == "gzip"
    assert len(response.json()["next_page_token"]) == 5000
    response = client.get("/v1/analyses", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in response.headers
    assert gzip.compress(response.content)


def grpc_web(client: httpx.Client, path: str, message: bytes, **headers: str) -> httpx.Response:
    frame = b"\x00" + struct.pack(">I", len(message)) + message
    content_type = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    return client.post(path, content=frame, headers=content_type | headers)


def test_grpc_web(client: httpx.Client) -> None:
    path = "/pentimento.orchestrator.v1.AnalysisService/AnalyzeImage"
    source = analysis_pb2.ImageSource(content=b"x", filename="web")
    request = analysis_service_pb2.AnalyzeImageRequest(image=source).SerializeToString()
    response = grpc_web(client, path, request, origin="https://a.example")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("application/grpc-web")
    assert response.headers["access-control-allow-origin"] == "https://a.example"
    size = struct.unpack(">I", response.content[1:5])[0]
    answer = analysis_service_pb2.AnalyzeImageResponse.FromString(response.content[5 : 5 + size])
    assert answer.analysis.filename == "web"
    trailer = response.content[5 + size :]
    assert trailer[0] == 0x80
    assert b"grpc-status:0" in trailer.replace(b" ", b"")


def test_grpc_web_error(client: httpx.Client) -> None:
    path = "/pentimento.orchestrator.v1.AnalysisService/AnalyzeImage"
    source = analysis_pb2.ImageSource(content=b"x", filename="code-5")
    response = grpc_web(client, path, analysis_service_pb2.AnalyzeImageRequest(image=source).SerializeToString())
    assert response.status_code == 200
    assert response.headers["grpc-status"] == "5" or b"grpc-status:5" in response.content.replace(b" ", b"")


# ---- gRPC ----


@pytest.fixture
def channel(edge: Edge) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        yield channel


def test_native_grpc(channel: grpc.Channel) -> None:
    stub = analysis_service_pb2_grpc.AnalysisServiceStub(channel)
    request = analysis_service_pb2.AnalyzeImageRequest(image=analysis_pb2.ImageSource(content=b"x", filename="native"))
    assert stub.AnalyzeImage(request, timeout=5).analysis.filename == "native"
    request.image.filename = "large"
    with pytest.raises(grpc.RpcError) as caught:
        stub.AnalyzeImage(request, timeout=5)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(caught.value)
    assert status is not None
    assert status.details[0].Is(error_details_pb2.ErrorInfo.DESCRIPTOR)
    stream = stub.StreamAnalyzeImages(
        analysis_service_pb2.StreamAnalyzeImagesRequest(images=[request.image]), timeout=5
    )
    assert [message.WhichOneof("event") for message in stream] == ["analysis", "done"]


def test_native_grpc_error_of_the_edge_is_words(channel: grpc.Channel) -> None:
    stub = analysis_service_pb2_grpc.AnalysisServiceStub(channel)
    request = analysis_service_pb2.AnalyzeImageRequest(image=analysis_pb2.ImageSource(content=b"x", filename="slow"))
    with pytest.raises(grpc.RpcError) as caught:
        stub.AnalyzeImage(request)
    assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert "{" not in (caught.value.details() or "")


def test_native_grpc_message_that_is_too_large_for_the_edge(channel: grpc.Channel) -> None:
    method = channel.unary_unary("/pentimento.orchestrator.v1.AnalysisService/AnalyzeImage")
    with pytest.raises(grpc.RpcError) as error:
        method(b"x" * (17 * 1024 * 1024), timeout=20)
    assert error.value.details() == "The request exceeds the maximum size."
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_reflection_and_health(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    answers = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5)
    names = [service.name for service in next(answers).list_services_response.service]
    assert "pentimento.orchestrator.v1.AnalysisService" in names
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    assert check(health_pb2.HealthCheckRequest(), timeout=5).status == health_pb2.HealthCheckResponse.SERVING
    watch = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    with pytest.raises(grpc.RpcError):  # it would hold a place for nothing
        next(watch(health_pb2.HealthCheckRequest(), timeout=5))


# ---- streams ----


def test_server_sent_events_come_one_by_one(client: httpx.Client) -> None:
    body = {"images": [{"filename": name, "content": "eA=="} for name in ("a", "b")]}
    started = time.monotonic()
    arrivals, events = [], []
    with client.stream("POST", "/v1/images:streamAnalyze", json=body) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        assert "content-encoding" not in response.headers
        for line in response.iter_lines():
            if line.startswith("data: "):
                arrivals.append(time.monotonic() - started)
                events.append(json.loads(line[6:]))
    assert [event.get("analysis", {}).get("filename") for event in events] == ["a", "b", None]
    assert events[-1]["done"]["analyzed_count"] == 2
    assert arrivals[0] < 0.25
    assert arrivals[2] > 0.5


def test_watch(client: httpx.Client) -> None:
    response = client.get(f"{BATCH}:watch")
    assert response.headers["content-type"] == "text/event-stream"
    assert json.loads(response.text.strip().splitlines()[-1].removeprefix("data: "))["done"] is True


def test_stream_that_fails_at_once(client: httpx.Client) -> None:
    response = client.post("/v1/images:streamAnalyze", json={"images": [{"filename": "fail", "content": "eA=="}]})
    assert_documented(response, 400)


# ---- what the services are told ----


def test_request_id(client: httpx.Client) -> None:
    response = client.get("/health", headers={"x-request-id": "my-id.1"})
    assert response.headers["x-request-id"] == "my-id.1"
    assert response.json()["metadata"]["x-request-id"] == "my-id.1"
    response = client.get("/health")
    assert response.headers["x-request-id"] == response.json()["metadata"]["x-request-id"]
    response = client.get("/health", headers={"x-request-id": "<b>" + "x" * 200})
    assert response.headers["x-request-id"] == "b" + "x" * 127


def test_deadline_and_forged_headers(client: httpx.Client) -> None:
    forged = {"x-envoy-expected-rq-timeout-ms": "9999999", "x-envoy-upstream-rq-timeout-ms": "9999999"}
    metadata = client.get("/health", headers=forged).json()["metadata"]
    assert metadata["x-envoy-expected-rq-timeout-ms"] == "15000"
    assert "x-envoy-upstream-rq-timeout-ms" not in metadata
    assert "x-envoy-internal" not in metadata


def test_access_log(edge: Edge, client: httpx.Client) -> None:
    client.post("/analyze/image?token=secret", content=b"private", headers={"x-request-id": "logged-1"})
    deadline = time.monotonic() + 15
    while "logged-1" not in edge.log() and time.monotonic() < deadline:
        time.sleep(0.2)
    log = edge.log()
    line = next(json.loads(line) for line in log.splitlines() if "logged-1" in line)
    assert (line["method"], line["path"], line["status"]) == ("POST", "/analyze/image", 200)
    assert line["route"] == "screening-image"
    assert "secret" not in log
    assert "private" not in log


def test_envoy_has_nothing_to_complain_about(edge: Edge, client: httpx.Client) -> None:
    analyze(client, "ok")
    assert "[warning]" not in edge.log()
    assert "[error]" not in edge.log()


# ---- retries, failures, limits ----


def test_retries_only_get(client: httpx.Client) -> None:
    Screening.calls = 0
    assert client.get("/batch/abc/progress").json()["id"] == "abc"
    assert Screening.calls == 2
    Analysis.calls = 0
    assert_documented(analyze(client, "unavailable"), 503)
    assert Analysis.calls == 1


def test_backend_away_is_503_at_once_and_it_comes_back(tmp_path: Path) -> None:
    with running(tmp_path, **UNLIMITED) as (edge, backend), httpx.Client(base_url=edge.url, timeout=5) as client:
        backend.stop()
        for _ in range(20):
            started = time.monotonic()
            response = client.post("/analyze/image", content=b"x", headers={"origin": "https://a.example"})
            assert time.monotonic() - started < 1
            assert_documented(response, 503)
            assert response.headers["retry-after"]
            assert response.headers["access-control-allow-origin"]
            assert_documented(client.get("/v1/health"), 503)
            time.sleep(0.1)
        again = Backend(backend.port)
        try:
            deadline = time.monotonic() + 3
            while client.get("/v1/health").status_code != 200:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            again.stop()


def test_rate_limits_per_client(tmp_path: Path) -> None:
    limits = UNLIMITED | {"rate_limit_image": 3, "rate_limit_batch": 2, "rate_limit_report": 1}
    with running(tmp_path, **limits) as (edge, _), httpx.Client(base_url=edge.url, timeout=5) as client:
        responses = [
            client.post(
                "/analyze/image", content=b"x", headers={"x-forwarded-for": f"10.0.0.{n}", "origin": "https://a"}
            )
            for n in range(5)
        ]
        assert [response.status_code for response in responses] == [200, 200, 200, 429, 429]
        answer = assert_documented(responses[3], 429)
        assert answer["message"] == "Too many requests"
        assert 1 <= int(responses[3].headers["retry-after"]) <= 60
        assert responses[3].headers["access-control-allow-origin"] == "https://a"
        # The same budget, whichever way the call is spelled.
        assert_documented(client.post("/analyze//image/", content=b"x"), 429)
        assert_documented(analyze(client, "ok"), 429)
        path = "/pentimento.orchestrator.v1.AnalysisService/AnalyzeImage"
        assert grpc_web(client, path, b"").headers["grpc-status"] == "14"  # as the gRPC specification maps HTTP 429
        with grpc.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
            stub = analysis_service_pb2_grpc.AnalysisServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.AnalyzeImage(analysis_service_pb2.AnalyzeImageRequest(), timeout=5)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        # Others have budgets of their own.
        assert [client.get("/report/csv/a").status_code for _ in range(2)] == [200, 429]
        assert [client.post("/analyze/batch", content=b"x").status_code for _ in range(3)] == [202, 202, 429]
        assert {client.get("/health").status_code for _ in range(20)} == {200}


def test_trusted_proxy_tells_the_client(tmp_path: Path) -> None:
    limits = UNLIMITED | {"rate_limit_image": 1, "trusted_hops": 1}
    with running(tmp_path, **limits) as (edge, _), httpx.Client(base_url=edge.url, timeout=5) as client:
        statuses = [
            client.post("/analyze/image", content=b"x", headers={"x-forwarded-for": forwarded}).status_code
            for forwarded in ("10.0.0.1", "10.0.0.2", "10.0.0.9, 10.0.0.2")
        ]
    assert statuses == [200, 200, 429]


def test_listed_origins_only(tmp_path: Path) -> None:
    with running(tmp_path, cors_origins="https://a.example") as (edge, _):
        allowed = httpx.get(f"{edge.url}/health", headers={"origin": "https://a.example"})
        refused = httpx.get(f"{edge.url}/health", headers={"origin": "https://b.example"})
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        assert "access-control-allow-origin" not in refused.headers


def test_pages_of_any_origin_read_nothing_that_is_kept(client: httpx.Client, tmp_path: Path) -> None:
    headers = {"origin": "https://a.example"}
    for path in ("/v1/analyses", "/v1/batches/b", "/v1/batches/b:watch"):
        assert "access-control-allow-origin" not in client.get(path, headers=headers).headers, path
    with running(tmp_path, cors_origins="https://a.example") as (edge, _):
        answer = httpx.get(f"{edge.url}/v1/analyses", headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"


def test_streams_leave_the_analyses_of_others_alone(tmp_path: Path) -> None:
    """Whoever holds streams open fills the places of streams, and no others."""
    with (
        running(tmp_path, **UNLIMITED | {"edge_max_requests": 2, "edge_max_streams": 2}) as (edge, _),
        ExitStack() as stack,
    ):
        head = b"POST /analyze/batch HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\ncontent-length: 9\r\n\r\nx"
        for _ in range(4):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", edge.port), timeout=10))
            slow.sendall(head)
        time.sleep(0.5)
        with httpx.Client(base_url=edge.url, timeout=30) as client:
            assert (
                client.post("/analyze/batch", content=b"x", headers={"content-type": "image/jpeg"}).status_code == 429
            )
            assert client.post("/analyze/image", content=b"x").status_code == 200


def test_sigterm_ends_it(tmp_path: Path) -> None:
    backend = Backend()
    try:
        edge = Edge(tmp_path, backend.port)
        assert edge.stop() in {0, -signal.SIGTERM}
    finally:
        backend.stop()
