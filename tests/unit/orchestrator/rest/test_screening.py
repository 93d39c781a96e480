"""Document 002 (screening), field by field; the tables name the document's lines."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import io
import re
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from pentimento.common.v1 import detection_pb2, evidence_pb2, geometry_pb2, image_pb2, verdict_pb2
from pentimento.orchestrator.v1 import analysis_pb2
from pentimento.orchestrator.v1 import documented_services_pb2 as pb
from PIL import Image

from services.common.errors import Overloaded, Unavailable
from services.common.images import heat_map_png
from services.common.version import VERSION
from services.orchestrator.rest import screening
from services.orchestrator.rest.screening import analysis_result

from .conftest import Mesh, encoded, form, json_body

pytestmark = pytest.mark.asyncio

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}$")
NUMBER = (int, float)


def struct(**facts: Any) -> Struct:
    result = Struct()
    result.update(facts)
    return result


def analysis(**changes: Any) -> analysis_pb2.Analysis:
    """What the engine says of document 002's example picture."""
    made = analysis_pb2.Analysis(
        name="analyses/550e8400-e29b-41d4-a716-446655440000",
        filename="example.jpg",
        image=image_pb2.ImageInfo(width=1920, height=1080, format="JPEG"),
        decision=analysis_pb2.DECISION_SUSPICIOUS_AI_LIKELY,
        decision_explanation="Strong AI evidence detected in metadata analysis",
        generated=verdict_pb2.Verdict(
            question=detection_pb2.QUESTION_GENERATED,
            likelihood_ratio=detection_pb2.LikelihoodRatio(log10=0.432),  # 0.73 at even odds
            grade=verdict_pb2.GRADE_WEAK,
            probability=0.231,
            prior=0.1,
            evidence_for=["exif_analyzer"],
        ),
        edit_decision=analysis_pb2.EDIT_DECISION_EDITED,
        edit_explanation="A part of the picture was copied within it.",
        edited=verdict_pb2.Verdict(probability=0.97, prior=0.1, evidence_for=["copy_move"]),
        techniques=[
            analysis_pb2.TechniqueScore(
                technique=detection_pb2.TECHNIQUE_COPY_MOVE, probability=0.97, detectors=["copy_move"]
            )
        ],
        evidence=[
            evidence_pb2.Evidence(
                source="exif",
                finding="AI software fingerprint detected in EXIF data",
                direction=evidence_pb2.EVIDENCE_DIRECTION_AI_GENERATED,
                strength=evidence_pb2.EVIDENCE_STRENGTH_STRONG,
                confidence=0.92,
                details=struct(tag="Software"),
                analyzer="exif_analyzer",
            ),
            evidence_pb2.Evidence(source="c2pa", direction=evidence_pb2.EVIDENCE_DIRECTION_INDETERMINATE),
        ],
        metrics=[
            evidence_pb2.MetricResult(
                metric_type=evidence_pb2.METRIC_TYPE_GRADIENT,
                score=0.81,
                confidence=0.87,
                details=struct(eigenvalue_ratio=0.72, gradient_vectors_sampled=10000),
            )
        ],
        signals=[
            evidence_pb2.Signal(
                name="Gradient Field PCA",
                metric_type=evidence_pb2.METRIC_TYPE_GRADIENT,
                score=0.81,
                status=evidence_pb2.SIGNAL_STATUS_FLAGGED,
                explanation="Detected irregular gradient patterns...",
            )
        ],
        missing=[detection_pb2.Missing(part="deeplabv3plus", reason="MODEL_NOT_INSTALLED", message="Not installed.")],
        duration_seconds=2.34,
        create_time=Timestamp(seconds=1734618735, nanos=123456000),
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


# (path in the answer, document 002's line, type, value set or None)
FIELDS: list[tuple[str, int, Any, Any]] = [
    ("success", 76, bool, {True}),
    ("message", 77, str, {"Image analysis completed"}),
    ("data.filename", 79, str, {"example.jpg"}),
    ("data.status", 80, str, {"REVIEW_REQUIRED"}),
    ("data.final_decision", 81, str, {"SUSPICIOUS_AI_LIKELY"}),
    ("data.decision_explanation", 82, str, None),
    ("data.overall_score", 83, NUMBER, None),
    ("data.confidence", 84, int, {73}),
    ("data.evidence", 85, list, None),
    ("data.evidence.0.source", 87, str, {"exif"}),
    ("data.evidence.0.finding", 88, str, None),
    ("data.evidence.0.direction", 89, str, {"ai_generated"}),
    ("data.evidence.0.strength", 90, str, {"strong"}),
    ("data.evidence.0.confidence", 91, NUMBER, {0.92}),
    ("data.evidence.0.analyzer", 92, str, {"exif_analyzer"}),
    ("data.evidence.0.timestamp", 93, str, None),
    ("data.evidence.0.details", 432, dict, None),
    ("data.evidence.1.direction", 429, str, {"indeterminate"}),
    ("data.evidence.1.confidence", 431, type(None), None),
    ("data.signals.0.name", 98, str, {"Gradient Field PCA"}),
    ("data.signals.0.metric_type", 99, str, {"gradient"}),
    ("data.signals.0.score", 100, NUMBER, {0.81}),
    ("data.signals.0.status", 101, str, {"flagged"}),
    ("data.signals.0.explanation", 102, str, None),
    ("data.metric_results.gradient.metric_type", 107, str, {"gradient"}),
    ("data.metric_results.gradient.score", 108, NUMBER, {0.81}),
    ("data.metric_results.gradient.confidence", 109, NUMBER, {0.87}),
    ("data.metric_results.gradient.details.eigenvalue_ratio", 111, NUMBER, {0.72}),
    ("data.metric_results.gradient.details.gradient_vectors_sampled", 112, int, {10000}),
    ("data.processing_time", 116, NUMBER, {2.34}),
    ("data.image_size.0", 117, int, {1920}),
    ("data.image_size.1", 117, int, {1080}),
    ("data.timestamp", 118, str, {"2024-12-19T14:32:15.123456"}),
    ("timestamp", 120, str, None),
    ("error", 399, type(None), None),
]


def at(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


async def test_health(mesh: Mesh) -> None:
    answer = await mesh.ask("ScreeningService.GetHealth")
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert answer.json == {"status": "ok", "version": VERSION}  # lines 53-54


async def test_every_documented_field_is_there(mesh: Mesh, jpeg: bytes) -> None:
    mesh.engine.answers["analyze"] = analysis()
    answer = await mesh.ask("ScreeningService.AnalyzeImage", form(("file", "example.jpg", jpeg)))
    assert answer.status == 200
    for path, line, kind, values in FIELDS:
        value = at(answer.json, path)
        assert isinstance(value, kind), (path, line)
        assert values is None or value in values, (path, line)
        if path.endswith("timestamp"):
            assert TIMESTAMP.match(value), (path, line)
    assert answer.json["data"]["overall_score"] == pytest.approx(0.73, abs=0.001)
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    assert abs(now - dt.datetime.fromisoformat(answer.json["timestamp"])) < dt.timedelta(minutes=1)
    upload, options = mesh.engine.calls[0][1]
    assert (upload.filename, upload.content, options.include_maps) == ("example.jpg", jpeg, False)


async def test_pentimentos_own_keys_stand_beside(mesh: Mesh, jpeg: bytes) -> None:
    mesh.engine.answers["analyze"] = analysis()
    data = (await mesh.ask("ScreeningService.AnalyzeImage", form(("file", "a.jpg", jpeg)))).json["data"]
    assert data["manipulation"]["decision"] == "EDITED"
    assert data["manipulation"]["probability"] == 0.97
    assert data["manipulation"]["techniques"] == [
        {"name": "copy_move", "probability": 0.97, "detectors": ["copy_move"]}
    ]
    assert "mask" not in data["manipulation"]
    assert data["missing"] == [{"part": "deeplabv3plus", "reason": "MODEL_NOT_INSTALLED", "message": "Not installed."}]
    assert data["faces"] == 0
    assert data["analysis_id"] == "550e8400-e29b-41d4-a716-446655440000"
    assert data["verdict"]["probability"] == 0.231
    assert (data["verdict"]["prior"], data["verdict"]["grade"]) == (0.1, "weak")


@pytest.mark.parametrize("decision", ["EDITED", "POSSIBLY_EDITED", "NO_EDIT_FOUND"])
async def test_a_picture_that_is_cleared_of_one_question_says_that_the_other_is_not(
    mesh: Mesh, jpeg: bytes, decision: str
) -> None:
    mesh.engine.answers["analyze"] = analysis(
        decision=analysis_pb2.DECISION_MOSTLY_AUTHENTIC,
        decision_explanation="Nothing speaks against the picture.",
        edit_decision=analysis_pb2.EditDecision.Value(f"EDIT_DECISION_{decision}"),
    )
    answer = await mesh.ask("ScreeningService.AnalyzeImage", form(("file", "example.jpg", jpeg)))
    explanation = answer.json["data"]["decision_explanation"]
    assert explanation.startswith("Nothing speaks against the picture.")
    assert explanation.endswith(f"Whether it was edited: {decision}.") is (decision != "NO_EDIT_FOUND")


async def test_faces_are_unknown_while_the_faces_service_is_away() -> None:
    missing = [detection_pb2.Missing(part="faces", reason="UNAVAILABLE")]
    assert analysis_result(analysis_pb2.Analysis(missing=missing))["faces"] is None


@pytest.mark.parametrize(
    ("log10", "decision", "score", "status", "confidence"),
    [
        (None, "AUTHENTIC_BUT_REVIEW", 0.5, "LIKELY_AUTHENTIC", 50),
        (-1.0, "MOSTLY_AUTHENTIC", 0.0909, "LIKELY_AUTHENTIC", 91),
        (0.26, "AUTHENTIC_BUT_REVIEW", 0.6454, "LIKELY_AUTHENTIC", 65),  # below 0.65: line 135
        (0.28, "AUTHENTIC_BUT_REVIEW", 0.6558, "REVIEW_REQUIRED", 66),  # from 0.65 on: line 137
        (6.0, "CONFIRMED_AI_GENERATED", 1.0, "REVIEW_REQUIRED", 100),
        (-900.0, "MOSTLY_AUTHENTIC", 0.0, "LIKELY_AUTHENTIC", 100),
    ],
)
async def test_score_status_and_confidence(
    log10: float | None, decision: str, score: float, status: str, confidence: int
) -> None:
    made = analysis_pb2.Analysis(decision=f"DECISION_{decision}")
    if log10 is not None:
        made.generated.likelihood_ratio.log10 = log10
    data = analysis_result(made)
    assert data["final_decision"] == decision
    assert (data["overall_score"], data["status"], data["confidence"]) == (score, status, confidence)


@pytest.mark.parametrize("url", [True, False])
async def test_picture_by_url(mesh: Mesh, jpeg: bytes, url: bool) -> None:
    mesh.pages["/holiday/cat.jpg"] = jpeg
    mesh.engine.answers["analyze"] = analysis()
    link = f"{mesh.web}/holiday/cat.jpg"
    body = json_body({"url": link}) if url else form(("url", None, link.encode()))
    assert (await mesh.ask("ScreeningService.AnalyzeImage", body)).status == 200
    upload, _ = mesh.engine.calls[0][1]
    assert (upload.filename, upload.content) == ("cat.jpg", jpeg)


def checking(mesh: Mesh) -> Any:
    """The engine's first step, for real: is it a picture that the API takes?"""

    async def analyze(upload: Any, options: Any, *, formats: frozenset[str]) -> analysis_pb2.Analysis:
        await mesh.intake.check(upload, formats)
        return analysis()

    return analyze


NOT_ALLOWED = "File extension .{} not allowed. Allowed: .jpg, .jpeg, .png, .webp"  # line 345
TOO_LARGE = "File size 12582912 bytes exceeds maximum 10485760 bytes"  # line 334


@pytest.mark.parametrize(
    ("name", "make", "status", "detail"),
    [
        ("big.jpg", lambda: b"\xff\xd8\xff" + bytes(12582909), 413, TOO_LARGE),
        ("a.gif", lambda: encoded("GIF"), 400, NOT_ALLOWED.format("gif")),
        ("a.jpg", lambda: encoded("GIF"), 400, NOT_ALLOWED.format("gif")),
        ("a.bmp", lambda: encoded("BMP"), 400, NOT_ALLOWED.format("bmp")),
        ("a.txt", lambda: b"no picture", 400, NOT_ALLOWED.format("txt")),
        ("a.jpg", lambda: b"no picture", 400, "The content is not an image"),
        ("a.jpg", lambda: b"", 400, "The file is empty."),
        ("a.jpg", lambda: encoded("JPEG", (640, 480))[:-5000], 400, "damaged or incomplete"),
    ],
    ids=["11 MB", "gif", "gif called jpg", "bmp", "text", "text called jpg", "0 bytes", "truncated"],
)
async def test_refused_files(mesh: Mesh, name: str, make: Any, status: int, detail: str) -> None:
    mesh.engine.answers["analyze"] = checking(mesh)
    answer = await mesh.ask("ScreeningService.AnalyzeImage", form(("file", name, make())))
    assert answer.status == status
    assert_error(answer.json, "Validation error", detail)


async def test_a_jpeg_called_gif_is_analysed(mesh: Mesh, jpeg: bytes) -> None:
    mesh.engine.answers["analyze"] = checking(mesh)
    assert (await mesh.ask("ScreeningService.AnalyzeImage", form(("file", "a.gif", jpeg)))).status == 200


def assert_error(body: Any, message: str, detail: str | None) -> None:
    """Lines 304-309: the shape of every error, and the request id beside it."""
    assert set(body) == {"success", "message", "error", "timestamp", "request_id"}
    assert body["success"] is False
    assert body["message"] == message
    assert body["error"] is None if detail is None else detail in body["error"]
    assert TIMESTAMP.match(body["timestamp"])
    assert body["request_id"] == "req-1"


async def too_slow(*_: Any, **__: Any) -> None:
    await asyncio.sleep(30)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Overloaded("Busy.", retry_after_seconds=1.5), (429, "Too many requests", "Busy.", "2")),
        (Unavailable("No service answers."), (503, "Service unavailable", "No service answers.", "2")),
        (too_slow, (504, "Processing timeout", "Image analysis exceeded 1 second timeout", None)),  # line 364
        (TimeoutError(), (504, "Processing timeout", "Image analysis exceeded", None)),
        (ValueError("/etc/secret"), (500, "Internal server error", "request id req-1", None)),
    ],
    ids=["overloaded", "unavailable", "slow", "timeout", "defect"],
)
async def test_failures(
    mesh: Mesh, jpeg: bytes, monkeypatch: pytest.MonkeyPatch, failure: Any, expected: tuple[int, str, str, str | None]
) -> None:
    monkeypatch.setattr(screening, "ANALYSIS_SECONDS", 1.0)
    mesh.engine.answers["analyze"] = failure
    answer = await mesh.ask("ScreeningService.AnalyzeImage", form(("file", "a.jpg", jpeg)))
    status, message, detail, retry_after = expected
    assert answer.status == status
    assert_error(answer.json, message, detail)
    assert answer.headers.get("retry-after") == retry_after
    assert "secret" not in str(answer.json)


async def test_cancellation_stays_cancellation(mesh: Mesh, jpeg: bytes) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(*_: Any, **__: Any) -> None:
        began.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    mesh.engine.answers["analyze"] = hang
    asking = asyncio.create_task(mesh.ask("ScreeningService.AnalyzeImage", form(("file", "a.jpg", jpeg))))
    await asyncio.wait_for(began.wait(), 5)
    asking.cancel()
    with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
        await asking
    await asyncio.wait_for(cancelled.wait(), 5)


async def test_overlays(mesh: Mesh) -> None:
    suspect = geometry_pb2.Polygon(
        points=[geometry_pb2.Point(x=x, y=y) for x, y in [(0, 0), (32, 0), (32, 48), (0, 48)]]
    )
    made = analysis()
    for name in ("copy_move", "accuses_nobody"):
        made.findings.append(
            detection_pb2.Finding(
                provenance=detection_pb2.Provenance(detector=name),
                question=detection_pb2.QUESTION_EDITED,
                applicability=detection_pb2.APPLICABILITY_APPLIED,
                regions=[detection_pb2.Region(role=detection_pb2.REGION_ROLE_COPY, outline=suspect)]
                if name == "copy_move"
                else [],
                heat_map=image_pb2.HeatMap(png=heat_map_png(np.ones((8, 8), np.float32)))
                if name == "accuses_nobody"
                else None,
            )
        )
    mesh.engine.answers["analyze"] = made
    request = pb.ScreeningServiceAnalyzeImageRequest(body=form(("file", "a.png", encoded("PNG"))), overlays=True)
    data = (await mesh.ask("ScreeningService.AnalyzeImage", request)).json["data"]
    assert mesh.engine.calls[0][1][1].include_maps
    mask = Image.open(io.BytesIO(base64.b64decode(data["manipulation"]["mask"])))
    overlay = Image.open(io.BytesIO(base64.b64decode(data["manipulation"]["overlay"])))
    assert (mask.mode, mask.size, overlay.size) == ("L", (64, 48), (64, 48))
    assert mask.getpixel((10, 20)) == 255
    assert mask.getpixel((50, 20)) == 0
    original = Image.open(io.BytesIO(encoded("PNG")))
    assert overlay.getpixel((50, 20)) == original.getpixel((50, 20))
    assert overlay.getpixel((10, 20)) != original.getpixel((10, 20))
