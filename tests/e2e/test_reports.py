"""The mesh as its users meet it: curl, gRPC, gRPC-Web, URLs; three pictures, three reports; bad input."""

from __future__ import annotations

import base64
import concurrent.futures
import http.server
import json
import struct
import threading
import time
import zlib
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pentimento.orchestrator.v1 import analysis_pb2
from pentimento.orchestrator.v1 import analysis_service_pb2 as pb
from pentimento.orchestrator.v1 import analysis_service_pb2_grpc as pb_grpc

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

# Document 002, AnalysisResult (lines 401-419): every field and its type.
ANALYSIS_RESULT = {
    "filename": str,
    "status": str,
    "final_decision": str,
    "decision_explanation": str,
    "overall_score": float,
    "confidence": int,
    "signals": list,
    "evidence": list,
    "metric_results": dict,
    "processing_time": float,
    "image_size": list,
    "timestamp": str,
}


def analyze(mesh, content: bytes, name: str = "picture.jpg", **query: str) -> httpx.Response:
    return httpx.post(f"{mesh.url}/analyze/image", files={"file": (name, content)}, params=query, timeout=60)


def data_of(response: httpx.Response) -> dict:
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["success"] is True
    assert body["message"] == "Image analysis completed"
    return body["data"]


@pytest.mark.parametrize("picture", ["photograph", "forgery", "portrait"])
def test_a_report_holds_every_documented_field(mesh, request, picture):
    data = data_of(analyze(mesh, request.getfixturevalue(picture), f"{picture}.jpg"))
    for name, kind in ANALYSIS_RESULT.items():
        assert isinstance(data[name], kind), name
    assert data["filename"] == f"{picture}.jpg"
    assert data["status"] in {"LIKELY_AUTHENTIC", "REVIEW_REQUIRED"}
    assert 0 <= data["overall_score"] <= 1
    assert 0 <= data["confidence"] <= 100


def test_three_pictures_three_reports(mesh, photograph, forgery, portrait):
    honest, forged, person = (data_of(analyze(mesh, content)) for content in (photograph, forgery, portrait))
    assert honest["manipulation"]["decision"] == "NO_EDIT_FOUND"
    assert person["manipulation"]["decision"] == "NO_EDIT_FOUND"
    assert forged["manipulation"]["decision"] == "EDITED"
    assert [technique["name"] for technique in forged["manipulation"]["techniques"]] == ["copy_move"]
    assert (honest["faces"], person["faces"]) == (0, 1)
    for data in (honest, forged, person):
        assert data["final_decision"] in {"MOSTLY_AUTHENTIC", "AUTHENTIC_BUT_REVIEW"}
        assert "generated" not in {missing["part"] for missing in data["missing"]}
    assert honest["final_decision"] == "MOSTLY_AUTHENTIC"


GENERATED = Path(__file__).resolve().parents[3] / "shared" / "data" / "dev" / "generated_modern"


@pytest.mark.skipif(not GENERATED.is_dir(), reason="the evaluation data is not here")
@pytest.mark.parametrize("name", ["aura_flow__aura_flow_0.1_example.jpg", "sd3"])
def test_a_generated_picture_is_suspected(mesh, name):
    picture = next(path for path in sorted(GENERATED.glob("*.jpg")) if path.name.startswith(name))
    data = data_of(analyze(mesh, picture.read_bytes()))
    assert data["final_decision"] == "SUSPICIOUS_AI_LIKELY"
    assert data["status"] == "REVIEW_REQUIRED"
    assert "generated" in data["verdict"]["evidence_for"]
    assert data["manipulation"]["decision"] == "NO_EDIT_FOUND"


def test_an_overlay_shows_where(mesh, forgery):
    manipulation = data_of(analyze(mesh, forgery, overlays="true"))["manipulation"]
    for key in ("mask", "overlay"):
        assert base64.b64decode(manipulation[key]).startswith(b"\x89PNG")


def test_a_portrait_has_an_age_and_a_gender(mesh, portrait):
    body = {"image": {"content": base64.b64encode(portrait).decode(), "filename": "astronaut.jpg"}}
    answer = httpx.post(f"{mesh.url}/v1/images:analyze", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    (face,) = answer.json()["faces"]
    assert face["gender"]["gender"] == "GENDER_FEMALE"
    assert 20 < face["age"]["years"] < 60
    assert face["box"]["x_max"] <= 512


def test_an_analysis_is_kept_and_can_be_deleted(mesh, photograph):
    body = {"image": {"content": base64.b64encode(photograph).decode()}}
    name = httpx.post(f"{mesh.url}/v1/images:analyze", json=body, timeout=60).json()["name"]
    assert httpx.get(f"{mesh.url}/v1/{name}").json()["name"] == name
    assert name in {item["name"] for item in httpx.get(f"{mesh.url}/v1/analyses").json()["analyses"]}
    assert httpx.delete(f"{mesh.url}/v1/{name}").status_code == 200
    gone = httpx.get(f"{mesh.url}/v1/{name}")
    assert gone.status_code == 404
    assert gone.json()["success"] is False


def test_the_image_interface_answers_as_documented(mesh, photograph, forgery, served):
    urls = [
        served({"/mountains.jpg": photograph, "/copied.jpg": forgery}, path)
        for path in ("/mountains.jpg", "/copied.jpg")
    ]
    answer = httpx.post(f"{mesh.url}/imginterface/", json={"urls": urls}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["PAYLOAD"] == {
        "mountains.jpg": [["DBSCAN_CPY_MOVE", 0]],
        "copied.jpg": [["DBSCAN_CPY_MOVE", 1]],
    }


def test_health(mesh):
    assert httpx.get(f"{mesh.url}/health").json()["status"] == "ok"
    parts = {part["part"]: part["state"] for part in httpx.get(f"{mesh.url}/v1/health").json()["parts"]}
    assert set(parts) == {"orchestrator", "passive", "deeplearning", "faces", "triton", "database", "worker"}
    assert set(parts.values()) == {"PART_STATE_SERVING"}


@pytest.fixture
def served():
    """Serves files on loopback; returns the URL of one of them."""
    servers = []

    def serve(files: dict[str, bytes], path: str) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path == "/redirect":
                    self.send_response(302)
                    self.send_header("location", "http://169.254.169.254/latest/meta-data")
                    self.end_headers()
                    return
                content = files.get(self.path)
                self.send_response(200 if content else 404)
                self.send_header("content-length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}{path}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_by_url(mesh, forgery, served):
    answer = httpx.post(f"{mesh.url}/analyze/image", json={"url": served({"/f.jpg": forgery}, "/f.jpg")}, timeout=60)
    data = data_of(answer)
    assert data["filename"] == "f.jpg"
    assert data["manipulation"]["decision"] == "EDITED"


def test_by_native_grpc_with_reflection(mesh, forgery):
    with grpc.insecure_channel(f"127.0.0.1:{mesh.port}") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (listing,) = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        names = {service.name for service in listing.list_services_response.service}
        assert "pentimento.orchestrator.v1.AnalysisService" in names
        request = pb.AnalyzeImageRequest(image=analysis_pb2.ImageSource(content=forgery))
        answer = pb_grpc.AnalysisServiceStub(channel).AnalyzeImage(request, timeout=60)
    assert answer.analysis.edit_decision == analysis_pb2.EDIT_DECISION_EDITED


def test_by_grpc_web(mesh, forgery):
    message = pb.AnalyzeImageRequest(image=analysis_pb2.ImageSource(content=forgery)).SerializeToString()
    answer = httpx.post(
        f"{mesh.url}/pentimento.orchestrator.v1.AnalysisService/AnalyzeImage",
        content=b"\0" + struct.pack(">I", len(message)) + message,
        headers={"content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
        timeout=60,
    )
    (length,) = struct.unpack(">I", answer.content[1:5])
    analysis = pb.AnalyzeImageResponse.FromString(answer.content[5 : 5 + length]).analysis
    assert analysis.edit_decision == analysis_pb2.EDIT_DECISION_EDITED
    assert b"grpc-status:0" in answer.content[5 + length :]


def test_by_server_sent_events(mesh, photograph):
    body = {"images": [{"content": base64.b64encode(photograph).decode()}]}
    with httpx.stream("POST", f"{mesh.url}/v1/images:streamAnalyze", json=body, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[5:]) for line in answer.iter_lines() if line.startswith("data:")]
    assert "finding" in events[0] or "missing" in events[0]
    assert "analysis" in events[-2]
    assert events[-1]["done"]["analyzed_count"] == 1


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


GIF = b"GIF89a\x40\x00\x40\x00\x80\x00\x00\xff\xff\xff\0\0\0!\xf9\x04\0\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
ELEVEN_MIB = 11 * 1024 * 1024


@pytest.mark.parametrize(
    ("name", "content", "status", "words"),
    [
        ("empty.jpg", b"", 400, "empty"),
        ("text.jpg", b"This is a letter, not a picture.\n" * 50, 400, "not an image"),
        ("truncated.jpg", None, 400, "damaged or incomplete"),
        ("bomb.png", png_header(60_000, 60_000), 400, "pixels"),
        ("large.jpg", b"\xff\xd8\xff\xe0".ljust(ELEVEN_MIB), 413, "11534336 bytes exceeds maximum 10485760 bytes"),
        ("animation.gif", GIF, 400, "File extension .gif not allowed. Allowed: .jpg, .jpeg, .png, .webp"),
    ],
)  # fmt: skip
def test_bad_uploads_get_their_documented_error_at_once(mesh, photograph, name, content, status, words):
    content = photograph[: len(photograph) // 2] if content is None else content
    started = time.monotonic()
    answer = analyze(mesh, content, name)
    assert time.monotonic() - started < 2
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["success"] is False
    assert body["message"] == "Validation error"
    assert words.lower() in body["error"].lower()
    assert body["timestamp"]


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/picture.jpg",
        "http://[::ffff:10.0.0.1]/picture.jpg",
        "file:///etc/passwd",
        "gopher://example.com/",
    ],
)
def test_private_addresses_are_refused_at_once(mesh, url):
    started = time.monotonic()
    answer = httpx.post(f"{mesh.url}/analyze/image", json={"url": url}, timeout=30)
    assert time.monotonic() - started < 2
    assert answer.status_code == 400, answer.text
    assert answer.json()["success"] is False


def test_a_redirect_to_a_private_address_is_refused(mesh, served):
    answer = httpx.post(f"{mesh.url}/analyze/image", json={"url": served({}, "/redirect")}, timeout=30)
    assert answer.status_code == 400, answer.text
    # The words of a refused address: a redirect that was not followed at all would read differently.
    assert "may not be fetched" in answer.json()["error"]
    assert "169.254" not in answer.text


def test_unknown_paths_and_methods_answer_in_the_documented_shape(mesh):
    for response in (httpx.get(f"{mesh.url}/no/such/path"), httpx.get(f"{mesh.url}/analyze/image")):
        assert response.status_code in {404, 405}
        body = response.json()
        assert body["success"] is False
        assert set(body) >= {"success", "message", "error", "timestamp"}


@pytest.mark.parametrize("path", ["/batch/%FF/progress", "/report/csv/%FF", "/docs/%FF", "/v1/analyses?page_token=%FF"])
def test_a_path_or_query_that_is_no_text_is_a_bad_request(mesh, path):
    answer = httpx.get(f"{mesh.url}{path}")
    assert answer.status_code == 400, answer.text
    body = answer.json()
    assert (body["success"], body["message"]) == (False, "Validation error")
    assert "UTF-8" in body["error"]
    assert "google" not in body["error"]


def test_two_hundred_uploads_at_once_are_answered_or_refused(mesh):
    # Noise costs the detectors the most.
    rng = np.random.default_rng(1)
    from conftest import jpeg

    content = jpeg(rng.integers(0, 255, (512, 512, 3), dtype=np.uint8), quality=80)
    limits = httpx.Limits(max_connections=200)

    with httpx.Client(limits=limits, timeout=120) as client:

        def send(_: int) -> httpx.Response:
            return client.post(f"{mesh.url}/analyze/image", files={"file": ("noise.jpg", content)})

        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            answers = list(pool.map(send, range(200)))
    assert {answer.status_code for answer in answers} <= {200, 429, 503}
    assert any(answer.status_code == 200 for answer in answers)
    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused, "more than can be worked on was let in"
    for answer in refused:
        assert answer.json()["success"] is False
        assert int(answer.headers["retry-after"]) >= 1
    assert mesh.health() == "PART_STATE_SERVING"
