"""Document 001 (manipulation)."""

from __future__ import annotations

import base64

import pytest
from pentimento.deeplearning.v1 import deeplearning_service_pb2 as deeplearning

from services.common.errors import ModelUnavailable

from .conftest import Mesh, encoded, form

pytestmark = pytest.mark.asyncio


async def test_segment(mesh: Mesh, jpeg: bytes) -> None:
    png = encoded("PNG")
    mesh.deeplearning.answers["segment"] = deeplearning.SegmentResponse(
        mask_png=png, overlay_png=png + b"1", masked_image_png=png + b"2", manipulated_share=0.25
    )
    answer = await mesh.ask("ManipulationService.Segment", form(("image", "a.jpg", jpeg)))
    assert answer.status == 200
    for key, expected in {"mask": png, "overlay": png + b"1", "masked_image": png + b"2"}.items():  # lines 62-64
        assert base64.b64decode(answer.json[key], validate=True) == expected
    assert mesh.deeplearning.calls[0][1] == (jpeg,)


@pytest.mark.parametrize("pristine", [0.05, 0.9])
async def test_classify(mesh: Mesh, jpeg: bytes, pristine: float) -> None:
    """Lines 74-76: one of four classes, whatever the fifth says."""
    mesh.deeplearning.answers["classify"] = deeplearning.ClassifyResponse(
        classes=[
            deeplearning.ClassProbability(class_name="pristine", class_id=4, probability=pristine),
            deeplearning.ClassProbability(class_name="copymove", class_id=1, probability=(1 - pristine) * 0.8),
            deeplearning.ClassProbability(class_name="face", class_id=3, probability=(1 - pristine) * 0.2),
        ]
    )
    answer = await mesh.ask("ManipulationService.Classify", form(("image", "a.jpg", jpeg)))
    assert answer.json["class_id"] == 1
    assert answer.json["class_name"] == "copymove"
    assert answer.json["confidence"] == pytest.approx((1 - pristine) * 0.8)
    assert answer.json["probabilities"]["pristine"] == pristine
    assert answer.json["manipulated"] is (pristine < 0.5)


async def test_a_classifier_without_pristine_does_not_say_whether(mesh: Mesh, jpeg: bytes) -> None:
    mesh.deeplearning.answers["classify"] = deeplearning.ClassifyResponse(
        classes=[deeplearning.ClassProbability(class_name="face", class_id=0, probability=1.0)]
    )
    answer = await mesh.ask("ManipulationService.Classify", form(("image", "a.jpg", jpeg)))
    assert (answer.json["class_id"], answer.json["class_name"]) == (0, "face")
    assert answer.json["manipulated"] is None


@pytest.mark.parametrize(("method", "name"), [("Segment", "segment"), ("Classify", "classify")])
async def test_a_missing_model_is_named(mesh: Mesh, jpeg: bytes, method: str, name: str) -> None:
    mesh.deeplearning.answers[name] = ModelUnavailable("deeplabv3plus", installed=False)
    answer = await mesh.ask(f"ManipulationService.{method}", form(("image", "a.jpg", jpeg)))
    assert answer.status == 503
    assert "deeplabv3plus" in answer.json["error"]
    assert "retry-after" not in answer.headers  # waiting does not install a model


async def test_no_picture(mesh: Mesh) -> None:
    answer = await mesh.ask("ManipulationService.Segment", form(("image", "a.jpg", b"no picture")))
    assert answer.status == 400
    assert not mesh.deeplearning.calls
