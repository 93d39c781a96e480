"""Faces through the whole mesh: every client its own answer, what a profile report says, what a missing model costs."""

from __future__ import annotations

import asyncio
import base64
import io

import httpx
import numpy as np
import pytest
import skimage.data
from PIL import Image

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

CLIENTS = 64
COLUMNS = 8
STEP = (64, 36)
FACE_SIDE = 120
ATTEMPTS = 120


@pytest.fixture(scope="module")
def ready_models(mesh) -> frozenset[str]:
    """Names of the models that this mesh serves."""
    models = httpx.get(f"{mesh.url}/v1/models", timeout=30).json()["models"]
    return frozenset(model["name"] for model in models if model["state"] == "MODEL_STATE_READY")


def face_at(number: int) -> tuple[bytes, tuple[float, float]]:
    """A picture with one face at a place that no other number has, and where its middle is."""
    # Her face is at about (177, 82) to (272, 177) of the portrait.
    head = Image.fromarray(skimage.data.astronaut()).crop((140, 40, 310, 210)).resize((FACE_SIDE, FACE_SIDE))
    left, top = number % COLUMNS * STEP[0], number // COLUMNS * STEP[1]
    picture = Image.new("RGB", (640, 400), (118, 126, 131))
    picture.paste(head, (left, top))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    middle = (left + FACE_SIDE * (224.5 - 140) / 170, top + FACE_SIDE * (124 - 40) / 170)
    return buffer.getvalue(), middle


async def ask(client: httpx.AsyncClient, url: str, number: int) -> tuple[int, dict]:
    """Asks as a polite client does: told to come again, or not answered in time, it waits and asks again."""
    content, _ = face_at(number)
    path = ("/yunet", "/mp", "/haar")[number % 3]
    for _ in range(ATTEMPTS):
        answer = await client.post(f"{url}{path}", files={"file": (f"{number}.png", content)})
        if answer.status_code not in {429, 503, 504}:
            return answer.status_code, answer.json()
        await asyncio.sleep(float(answer.headers.get("retry-after", 1)))
    raise AssertionError(f"client {number} was turned away {ATTEMPTS} times")


async def test_64_clients_with_64_pictures_get_their_own_answers(mesh):
    """The service of document 003 wrote every request into one file."""
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(timeout=120, limits=limits) as client:
        answers = await asyncio.gather(*(ask(client, mesh.url, number) for number in range(CLIENTS)))
    for number, (status, answer) in enumerate(answers):
        assert status == 200, answer
        assert answer["message"] == "faces found", number
        _, middle = face_at(number)
        seen = ((answer["x1"] + answer["x2"]) / 2, (answer["y1"] + answer["y2"]) / 2)
        # Half a step to either side would be another's place.
        assert abs(seen[0] - middle[0]) < STEP[0] / 2, f"client {number} got another's answer: {answer}"
        assert abs(seen[1] - middle[1]) < STEP[1] / 2, f"client {number} got another's answer: {answer}"


def content_of(rgb: np.ndarray) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return {"content": base64.b64encode(buffer.getvalue()).decode()}


def test_all_faces_in_the_own_api_the_surest_in_the_documented_one(mesh):
    astronaut = skimage.data.astronaut()[:, :400]
    two = np.concatenate([astronaut, astronaut], axis=1)
    body = {"image": content_of(two), "face_detector": "FACE_DETECTOR_CONSENSUS"}
    every = httpx.post(f"{mesh.url}/v1/faces:detect", json=body, timeout=60).json()
    assert len(every["faces"]) == 2
    for face in every["faces"]:
        assert 0 <= face["box"]["x_min"] < face["box"]["x_max"] <= 800
        assert 0 <= face["box"]["y_min"] < face["box"]["y_max"] <= 512
        assert 0.5 < face["agreement"] <= 1
    one = httpx.post(f"{mesh.url}/v1/faces:detect", json={**body, "max_faces": 1}, timeout=60).json()
    assert len(one["faces"]) == 1
    documented = httpx.post(f"{mesh.url}/mp", json={"image": body["image"]["content"]}, timeout=60).json()
    assert documented["faces"] == 2
    assert {"x1", "y1", "x2", "y2", "confidence"} <= documented.keys()


def test_the_same_face_is_the_same_person_and_two_without_faces_are_refused(mesh, ready_models):
    astronaut = skimage.data.astronaut()
    body = {"image_a": content_of(astronaut), "image_b": content_of(astronaut[20:, :480][:, ::-1])}
    answer = httpx.post(f"{mesh.url}/v1/faces:compare", json=body, timeout=60)
    if "facenet" not in ready_models:
        assert answer.status_code == 503
        assert "facenet" in answer.json()["error"]
        return
    said = answer.json()
    assert said["same_person"]
    assert said["similarity"] > 0.8 > said["threshold"]
    assert 0 < said["false_match_rate"] <= 0.01
    assert said["face_a"]["box"]["x_min"] > 150
    coffee = content_of(skimage.data.coffee())
    refused = httpx.post(f"{mesh.url}/v1/faces:compare", json={"image_a": coffee, "image_b": coffee}, timeout=60)
    assert refused.status_code == 400
    assert "No face" in refused.json()["error"]


def test_a_profile_report_of_a_portrait_and_of_no_portrait(mesh):
    portrait = {"image": content_of(skimage.data.astronaut())}
    report = httpx.post(f"{mesh.url}/v1/profiles:report", json=portrait, timeout=120).json()
    assert report["face_count"] == 1
    assert report["face"]["box"]["x_min"] > 150
    assert report["analysis"]["name"].startswith("analyses/")
    assert report["assessment"].startswith("PROFILE_ASSESSMENT_")
    assert report["summary"]
    nobody = {"image": content_of(skimage.data.coffee())}
    report = httpx.post(f"{mesh.url}/v1/profiles:report", json=nobody, timeout=120).json()
    kinds = {reason["kind"] for reason in report["reasons"]}
    assert report["face_count"] == 0
    assert "face" not in report
    assert "PROFILE_REASON_KIND_NO_FACE" in kinds
    assert report["assessment"] in {"PROFILE_ASSESSMENT_REVIEW", "PROFILE_ASSESSMENT_SUSPICIOUS"}


def test_no_face_is_said_and_the_whole_picture_is_looked_at_only_if_asked(mesh, ready_models):
    coffee = {"image": content_of(skimage.data.coffee())}
    answer = httpx.post(f"{mesh.url}/v1/faces:detectDeepfake", json=coffee, timeout=60)
    assert answer.status_code == 200
    assert answer.json()["faces"] == []
    assert "whole_image" not in answer.json()
    asked = httpx.post(f"{mesh.url}/v1/faces:detectDeepfake", json={**coffee, "whole_image_fallback": True}, timeout=60)
    if "facenet_realfake" in ready_models:
        assert 0 <= asked.json()["whole_image"]["score"] <= 1
    else:
        assert asked.status_code == 503
        assert "facenet_realfake" in asked.json()["error"]


def test_without_a_gallery_people_are_refused_clearly(mesh):
    answer = httpx.get(f"{mesh.url}/v1/people", timeout=30)
    assert answer.status_code == 403
    assert "PENTIMENTO_GALLERY" in answer.json()["error"]
