"""Document 004 (deepfake)."""

from __future__ import annotations

from typing import Any

import pytest
from pentimento.common.v1 import face_pb2, model_pb2
from pentimento.faces.v1 import faces_service_pb2 as faces

from services.common.errors import ModelUnavailable

from .conftest import Mesh, form

pytestmark = pytest.mark.asyncio


def estimate(score: float, **facts: Any) -> face_pb2.DeepfakeEstimate:
    return face_pb2.DeepfakeEstimate(score=score, **facts)


@pytest.mark.parametrize(
    ("score", "prediction", "confidence"), [(0.95, "fake", 0.95), (0.5, "fake", 0.5), (0.1, "real", 0.9)]
)
async def test_detect(mesh: Mesh, jpeg: bytes, score: float, prediction: str, confidence: float) -> None:
    """Lines 104-112: confidence is that in the label."""
    mesh.faces.answers["detect_deepfake"] = faces.DetectDeepfakeResponse(
        faces=[face_pb2.Face(deepfake=estimate(0.02)), face_pb2.Face(deepfake=estimate(score))]
    )
    answer = await mesh.ask("DeepfakeService.Detect", form(("file", "image.jpg", jpeg)))
    assert answer.status == 200
    assert answer.json["prediction"] == prediction
    assert answer.json["confidence"] == confidence
    assert isinstance(answer.json["processing_time"], float)
    assert answer.json["debug_info"] == {"input_shape": [1, 160, 160, 3], "raw_prediction": score}
    assert mesh.faces.calls[0][2] == {"augmented": False, "whole_image_fallback": True}


async def test_augmented_without_a_face(mesh: Mesh, jpeg: bytes) -> None:
    whole = faces.DetectDeepfakeResponse(whole_image=estimate(0.7, stability=0.8))
    mesh.faces.answers["detect_deepfake"] = whole
    answer = await mesh.ask("DeepfakeService.DetectAugmented", form(("file", "image.jpg", jpeg)))
    assert (answer.json["prediction"], answer.json["stability"], answer.json["faces"]) == ("fake", 0.8, 0)
    assert mesh.faces.calls[0][2]["augmented"]


@pytest.mark.parametrize(
    "response", [ModelUnavailable("facenet_realfake", installed=False), faces.DetectDeepfakeResponse()]
)
async def test_a_missing_model_is_named(mesh: Mesh, jpeg: bytes, response: Any) -> None:
    mesh.faces.answers["detect_deepfake"] = response
    answer = await mesh.ask("DeepfakeService.Detect", form(("file", "image.jpg", jpeg)))
    assert answer.status == 503
    assert "facenet_realfake" in answer.json["error"]


async def test_health(mesh: Mesh) -> None:
    answer = await mesh.ask("DeepfakeService.GetHealth")
    assert (answer.status, answer.json["status"]) == (200, "healthy")


async def test_model_info(mesh: Mesh) -> None:
    info = model_pb2.ModelInfo(name="facenet_realfake", version="1", state=model_pb2.MODEL_STATE_NOT_INSTALLED)
    mesh.faces.answers["list_models"] = faces.ListModelsResponse(models=[info])
    answer = await mesh.ask("DeepfakeService.GetModelInfo")
    assert answer.status == 200
    assert (answer.json["name"], answer.json["state"]) == ("facenet_realfake", "not_installed")
    mesh.faces.answers["list_models"] = faces.ListModelsResponse()
    assert (await mesh.ask("DeepfakeService.GetModelInfo")).status == 503
