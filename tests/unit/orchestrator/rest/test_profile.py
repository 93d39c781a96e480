"""Document 003 (profile)."""

from __future__ import annotations

from typing import Any

import pytest
from pentimento.common.v1 import detection_pb2, face_pb2, geometry_pb2, report_pb2
from pentimento.faces.v1 import faces_service_pb2 as faces

from services.common.errors import Forbidden, ModelUnavailable, Unavailable

from .conftest import Mesh, form, json_body

pytestmark = pytest.mark.asyncio

DETECTORS = {
    "DetectYunet": face_pb2.FACE_DETECTOR_YUNET,
    "DetectMediapipe": face_pb2.FACE_DETECTOR_MEDIAPIPE,
    "DetectHaar": face_pb2.FACE_DETECTOR_HAAR,
}


def face(confidence: float, left: float = 10.4, **facts: Any) -> face_pb2.Face:
    box = geometry_pb2.Box(x_min=left, y_min=20.6, x_max=left + 20, y_max=40)
    return face_pb2.Face(box=box, confidence=confidence, **facts)


@pytest.mark.parametrize("method", DETECTORS)
async def test_the_most_confident_face(mesh: Mesh, jpeg: bytes, method: str) -> None:
    """Lines 37-38 and 53-61, and the same for /mp and /haar."""
    mesh.pages["/me.jpg"] = jpeg
    mesh.faces.answers["detect_faces"] = faces.DetectFacesResponse(faces=[face(0.5, left=1), face(0.97)])
    answer = await mesh.ask(f"ProfileService.{method}", json_body({"url": f"{mesh.web}/me.jpg"}))
    assert answer.status == 200
    assert answer.json == {
        "message": "faces found",
        "x1": 10,
        "y1": 21,
        "x2": 30,
        "y2": 40,
        "confidence": 0.97,
        "faces": 2,
    }
    assert mesh.faces.calls[0][1] == (jpeg, DETECTORS[method])


@pytest.mark.parametrize("method", [*DETECTORS, "EstimateGender"])
async def test_no_face(mesh: Mesh, jpeg: bytes, method: str) -> None:
    """Line 50: `{"message": "No faces found"}`."""
    mesh.faces.answers["detect_faces"] = faces.DetectFacesResponse()
    mesh.faces.answers["analyze"] = faces.AnalyzeResponse()
    answer = await mesh.ask(f"ProfileService.{method}", form(("file", "me.jpg", jpeg)))
    assert (answer.status, answer.json) == (200, {"message": "No faces found"})


@pytest.mark.parametrize("method", [*DETECTORS, "EstimateGender", "DetectCartoon"])
@pytest.mark.parametrize(
    ("url", "status"), [("/gone.jpg", 404), ("/text.jpg", 400), ("ftp://x/y", 400), ("input/image/url", 400)]
)
async def test_no_picture_at_the_url(mesh: Mesh, method: str, url: str, status: int) -> None:
    """Lines 48, 83, 116, 155 and 189."""
    mesh.pages["/text.jpg"] = b"no picture"
    answer = await mesh.ask(
        f"ProfileService.{method}", json_body({"url": mesh.web + url if url.startswith("/") else url})
    )
    assert answer.status == status
    assert answer.json["message"] == "Image not found"
    assert answer.json["success"] is False
    assert answer.json["error"]


async def test_gender_and_age(mesh: Mesh, jpeg: bytes) -> None:
    """Lines 161-166, the key with a space at its end among them."""
    described = face(
        0.9,
        age=face_pb2.AgeEstimate(years=29.44, range="(25-32)"),
        gender=face_pb2.GenderEstimate(gender=face_pb2.GENDER_FEMALE, probability=0.98),
    )
    mesh.faces.answers["analyze"] = faces.AnalyzeResponse(faces=[described])
    answer = await mesh.ask("ProfileService.EstimateGender", form(("file", "me.jpg", jpeg)))
    assert answer.json == {
        "message": "faces found",
        "gender": "female",
        "age": "(25-32)",
        "bounding boxes ": [[10, 21, 30, 40]],
        "bounding_boxes": [[10, 21, 30, 40]],
        "gender_probability": 0.98,
        "age_years": 29.4,
    }
    assert list(mesh.faces.calls[0][2]["attributes"]) == [face_pb2.FACE_ATTRIBUTE_AGE, face_pb2.FACE_ATTRIBUTE_GENDER]


async def test_gender_names_the_model_that_is_missing(mesh: Mesh, jpeg: bytes) -> None:
    missing = detection_pb2.Missing(part="age", reason="MODEL_NOT_INSTALLED", message="Model age is not installed.")
    mesh.faces.answers["analyze"] = faces.AnalyzeResponse(
        faces=[face(0.9)], report=report_pb2.AnalyzerReport(missing=[missing])
    )
    answer = await mesh.ask("ProfileService.EstimateGender", form(("file", "me.jpg", jpeg)))
    assert (answer.status, answer.json["error"]) == (503, "Model age is not installed.")


@pytest.mark.parametrize(
    ("reason", "status", "message"),
    [("OVERLOADED", 429, "Too many requests"), ("DEADLINE_EXCEEDED", 504, "Processing timeout")],
)
async def test_a_model_that_is_busy_or_slow_is_not_called_away(
    mesh: Mesh, jpeg: bytes, reason: str, status: int, message: str
) -> None:
    missing = detection_pb2.Missing(part="age", reason=reason, message="Try again in a moment.")
    mesh.faces.answers["analyze"] = faces.AnalyzeResponse(
        faces=[face(0.9)], report=report_pb2.AnalyzerReport(missing=[missing])
    )
    answer = await mesh.ask("ProfileService.EstimateGender", form(("file", "me.jpg", jpeg)))
    assert (answer.status, answer.json["message"], answer.json["error"]) == (status, message, "Try again in a moment.")


async def test_biometrics_are_forbidden(mesh: Mesh, jpeg: bytes) -> None:
    words = "This deployment gives no biometric answers."
    missing = detection_pb2.Missing(part="age", reason="BIOMETRICS_DISABLED", message=words)
    mesh.faces.answers["analyze"] = faces.AnalyzeResponse(
        faces=[face(0.9)], report=report_pb2.AnalyzerReport(missing=[missing])
    )
    answer = await mesh.ask("ProfileService.EstimateGender", form(("file", "me.jpg", jpeg)))
    assert (answer.status, answer.json["message"], answer.json["error"]) == (403, "Not allowed", words)
    mesh.faces.answers["analyze"] = Forbidden(words)
    answer = await mesh.ask("ProfileService.EstimateGender", form(("file", "me.jpg", jpeg)))
    assert (answer.status, answer.json["error"]) == (403, words)


@pytest.mark.parametrize(
    ("kind", "message"),
    [(face_pb2.FACE_KIND_CARTOON, "Cartoon Image"), (face_pb2.FACE_KIND_HUMAN, "Non-Cartoon Image")],
)
async def test_cartoon(mesh: Mesh, jpeg: bytes, kind: Any, message: str) -> None:
    """Lines 193 and 196."""
    estimate = face_pb2.KindEstimate(kind=kind, probability=0.9)
    mesh.faces.answers["classify_kind"] = faces.ClassifyKindResponse(kind=estimate)
    answer = await mesh.ask("ProfileService.DetectCartoon", form(("file", "me.jpg", jpeg)))
    assert (answer.status, answer.json["message"]) == (200, message)


@pytest.mark.parametrize(
    "failure", [ModelUnavailable("yunet", installed=False), Unavailable("The faces service is not available.")]
)
async def test_no_detector(mesh: Mesh, jpeg: bytes, failure: Unavailable) -> None:
    mesh.faces.answers["detect_faces"] = failure
    answer = await mesh.ask("ProfileService.DetectYunet", form(("file", "me.jpg", jpeg)))
    assert (answer.status, answer.json["message"], answer.json["error"]) == (
        503,
        "Service unavailable",
        failure.message,
    )


async def test_no_url(mesh: Mesh) -> None:
    answer = await mesh.ask("ProfileService.DetectYunet", json_body({"link": "x"}))
    assert (answer.status, answer.json["message"]) == (422, "Validation error")
