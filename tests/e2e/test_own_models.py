"""Document 001's API, analyses and the list of models through Envoy, with networks of the deployment's own."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from mesh import Mesh
from PIL import Image
from small_networks import put_both

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

NAMES = {"deeplabv3plus", "resnet50", "segment", "classify"}
CARD = "# mine\n\n## Scores\n\n| score | value |\n|---|---|\n| pixel_f1 | 0.41 |\n"


@pytest.fixture(scope="module")
def equipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh with small networks of known answers in its folder of own models."""
    home = tmp_path_factory.mktemp("equipped")
    own = home / "models" / "own"
    put_both(own)
    (own / "deeplabv3plus" / "MODEL_CARD.md").write_text(CARD)
    running = Mesh(home, PENTIMENTO_RATE_LIMIT_IMAGE="0", PENTIMENTO_RATE_LIMIT_ANALYSIS="0")
    running.start()
    yield running
    running.stop()


def jpeg(colour: tuple[int, int, int], height: int = 240, width: int = 320) -> bytes:
    """Black, with a place of this colour in the upper left quarter."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[: height // 2, : width // 2] = colour
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def pixels(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)))


def post(mesh: Mesh, path: str, content: bytes, field: str = "image") -> dict:
    answer = httpx.post(f"{mesh.url}{path}", files={field: ("a.jpg", content)}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("size", [(240, 320), (2400, 3200)])
def test_segment_answers_as_document_001_shows(equipped, size):
    answer = post(equipped, "/segment", jpeg((250, 250, 250), *size))
    assert {"mask", "overlay", "masked_image"} <= set(answer)
    mask, overlay, masked = (pixels(answer[name]) for name in ("mask", "overlay", "masked_image"))
    height, width = size
    assert mask.shape == size
    assert set(np.unique(mask)) == {0, 255}
    assert (mask[: height // 2, : width // 2] == 255).mean() > 0.98
    assert (mask[height // 2 :] == 255).mean() < 0.02
    assert answer["manipulated_share"] == pytest.approx(0.25, abs=0.01)
    assert overlay.shape == masked.shape == (*mask.shape[:2], 3) if height * width < 6e6 else overlay.shape[1] < width
    inside, outside = (slice(0, 50), slice(0, 50)), (slice(-50, None), slice(-50, None))
    assert overlay[inside][..., 1].mean() > overlay[inside][..., 0].mean() + 50  # green
    assert masked[outside].max() == 0
    assert masked[inside].min() > 200


@pytest.mark.parametrize(
    ("colour", "name", "index"),
    [((255, 0, 0), "splicing", 0), ((0, 255, 0), "copymove", 1), ((0, 0, 255), "inpainting", 2)],
)
def test_classify_answers_as_document_001_shows(equipped, colour, name, index):
    rgb = np.full((100, 100, 3), colour, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    answer = post(equipped, "/classify", buffer.getvalue())
    assert (answer["class_id"], answer["class_name"]) == (index, name)
    assert answer["confidence"] > 0.9
    assert answer["manipulated"] is True


def test_an_honest_picture_is_forced_into_no_crime(equipped):
    answer = post(equipped, "/classify", jpeg((0, 0, 0)))
    assert answer["class_name"] in {"splicing", "copymove", "inpainting", "face"}  # the document knows no other
    assert answer["confidence"] < 0.05
    assert answer["manipulated"] is False
    assert answer["probabilities"]["pristine"] > 0.9


def test_an_analysis_shows_what_they_say_and_is_not_decided_by_it(equipped):
    data = post(equipped, "/analyze/image?overlays=true", jpeg((250, 250, 250)), "file")["data"]
    manipulation = data["manipulation"]
    assert "segment" in manipulation["verdict"]["evidence_for"]
    # A stated ratio of at most 2 accuses nobody (docs/policy.md).
    assert manipulation["decision"] == "NO_EDIT_FOUND"
    assert not NAMES & {item["part"] for item in data["missing"]}


def test_the_networks_are_listed_with_digest_and_scores(equipped):
    models = {model["name"]: model for model in httpx.get(f"{equipped.url}/v1/models", timeout=30).json()["models"]}
    model = models["deeplabv3plus"]
    assert (model["state"], model["license"], len(model["digest"])) == ("MODEL_STATE_READY", "LicenseRef-Own", 64)
    assert model["scores"] == {"pixel_f1": 0.41}


def test_a_picture_of_few_pixels_is_refused_with_a_reason(equipped):
    answer = httpx.post(f"{equipped.url}/segment", files={"image": ("a.jpg", jpeg((9, 9, 9), 40, 200))}, timeout=60)
    assert answer.status_code == 400
    assert "64" in answer.json()["error"]
