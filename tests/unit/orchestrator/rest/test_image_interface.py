"""Document 000 (image interface)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from pentimento.common.v1 import detection_pb2, geometry_pb2, report_pb2
from pentimento.orchestrator.v1 import documented_services_pb2 as pb
from pentimento.passive.v1 import passive_service_pb2
from PIL import Image

from services.common.errors import Overloaded, Unavailable
from services.orchestrator.rest import image_interface

from .conftest import Mesh, encoded, form, json_body

pytestmark = pytest.mark.asyncio

METHOD = "ImageInterfaceService.CheckImages"
APPLIED = detection_pb2.APPLICABILITY_APPLIED


def report(score: float | None, applicability: Any = APPLIED, threshold: float = 0.8) -> Any:
    parameters = Struct()
    parameters.update({"decision_score": threshold})
    finding = detection_pb2.Finding(
        provenance=detection_pb2.Provenance(detector="copy_move", parameters=parameters),
        applicability=applicability,
        score=score,
    )
    return passive_service_pb2.AnalyzeResponse(report=report_pb2.AnalyzerReport(findings=[finding]))


async def test_the_documented_exchange(mesh: Mesh) -> None:
    """Lines 59 and 63: two URLs, one of them a GIF."""
    mesh.pages["/howto/img_mountains.jpg"] = forged = encoded("JPEG")
    mesh.pages["/images/rotate/Image_Spring_17_4.gif"] = encoded("GIF")

    async def passive(content: bytes, *, detectors: list[str], include_maps: bool) -> Any:
        assert detectors == ["copy_move"]
        assert not include_maps
        return report(0.9 if content == forged else 0.1)

    mesh.passive.answers["analyze"] = passive
    urls = [f"{mesh.web}{path}" for path in mesh.pages]
    answer = await mesh.ask(METHOD, json_body({"urls": urls}))
    assert answer.status == 200
    assert answer.json == {
        "PAYLOAD": {
            "Image_Spring_17_4.gif": [["DBSCAN_CPY_MOVE", 0]],
            "img_mountains.jpg": [["DBSCAN_CPY_MOVE", 1]],
        }
    }


@pytest.mark.parametrize(
    ("response", "value"),
    [
        (report(0.8), 1),
        (report(0.79), 0),
        (report(0.5, threshold=0.5), 1),
        (report(None, detection_pb2.APPLICABILITY_NOT_APPLICABLE), 0),
    ],
)
async def test_zero_or_one(mesh: Mesh, jpeg: bytes, response: Any, value: int) -> None:
    mesh.passive.answers["analyze"] = response
    answer = await mesh.ask(METHOD, form(("files", "a.jpg", jpeg)))
    assert answer.json == {"PAYLOAD": {"a.jpg": [["DBSCAN_CPY_MOVE", value]]}}


async def test_a_picture_that_fails_is_null_and_explained(mesh: Mesh, jpeg: bytes) -> None:
    mesh.pages["/good.jpg"] = jpeg
    mesh.pages["/text.jpg"] = b"no picture"
    mesh.passive.answers["analyze"] = report(0.1)
    urls = [f"{mesh.web}/good.jpg", f"{mesh.web}/gone.jpg", f"{mesh.web}/text.jpg", "http://169.254.169.254/x"]
    answer = await mesh.ask(METHOD, json_body({"urls": urls}))
    assert answer.status == 200
    assert answer.json["PAYLOAD"] == {
        "good.jpg": [["DBSCAN_CPY_MOVE", 0]],
        "gone.jpg": [["DBSCAN_CPY_MOVE", None]],
        "text.jpg": [["DBSCAN_CPY_MOVE", None]],
        "x": [["DBSCAN_CPY_MOVE", None]],
    }
    assert {name: error["reason"] for name, error in answer.json["ERRORS"].items()} == {
        "gone.jpg": "IMAGE_NOT_FOUND",
        "text.jpg": "UNSUPPORTED_FORMAT",
        "x": "ADDRESS_NOT_ALLOWED",
    }


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (Unavailable("The passive service is not available."), 503),
        (report(None, detection_pb2.APPLICABILITY_FAILED), 503),
        (passive_service_pb2.AnalyzeResponse(), 503),
        (ValueError("secret"), 500),
        (TimeoutError(), 504),
    ],
)
async def test_nothing_could_be_checked(mesh: Mesh, jpeg: bytes, response: Any, status: int) -> None:
    mesh.passive.answers["analyze"] = response
    answer = await mesh.ask(METHOD, form(("files", "a.jpg", jpeg)))
    assert answer.status == status
    assert answer.json["success"] is False
    assert answer.json["PAYLOAD"] == {"a.jpg": [["DBSCAN_CPY_MOVE", None]]}
    assert "secret" not in str(answer.json)


async def test_names_that_occur_twice_and_urls_that_are_repeated(mesh: Mesh, jpeg: bytes) -> None:
    mesh.pages.update({"/a/x.jpg": jpeg, "/b/x.jpg": jpeg, "/c/x.jpg": jpeg})
    mesh.passive.answers["analyze"] = report(0.1)
    urls = [f"{mesh.web}/{folder}/x.jpg" for folder in "abca"]
    answer = await mesh.ask(METHOD, json_body({"urls": urls}))
    assert list(answer.json["PAYLOAD"]) == ["x.jpg", "x (2).jpg", "x (3).jpg"]


async def test_pictures_are_checked_side_by_side_within_a_bound(mesh: Mesh, jpeg: bytes) -> None:
    running = most = 0

    async def passive(*_: Any, **__: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        return report(0.1)

    mesh.passive.answers["analyze"] = passive
    answer = await mesh.ask(METHOD, form(*(("files", f"{number}.jpg", jpeg) for number in range(12))))
    assert len(answer.json["PAYLOAD"]) == 12
    assert most == 4


async def test_too_many(mesh: Mesh) -> None:
    answer = await mesh.ask(METHOD, json_body({"urls": [f"http://example.org/{number}" for number in range(51)]}))
    assert answer.status == 400
    assert "51 pictures" in answer.json["error"]


async def test_pictures_for_which_there_is_no_time_left_cost_the_others_nothing(
    mesh: Mesh, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_interface, "ALL_SECONDS", 1.0)
    slow = encoded("PNG")

    async def passive(content: bytes, **_: Any) -> Any:
        if content == slow:
            await asyncio.sleep(30)
        return report(0.9)

    mesh.passive.answers["analyze"] = passive
    answer = (await mesh.ask(METHOD, form(("files", "a.jpg", jpeg), ("files", "slow.png", slow)))).json
    assert answer["PAYLOAD"] == {"a.jpg": [["DBSCAN_CPY_MOVE", 1]], "slow.png": [["DBSCAN_CPY_MOVE", None]]}
    assert answer["ERRORS"]["slow.png"]["reason"] == "DEADLINE_EXCEEDED"


async def test_a_copy_whose_mask_cannot_be_drawn_was_found_all_the_same(
    mesh: Mesh, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise Overloaded("no thread is free")

    monkeypatch.setattr(image_interface, "draw_overlay", fail)
    mesh.passive.answers["analyze"] = report(0.9)
    request = pb.ImageInterfaceServiceCheckImagesRequest(body=form(("files", "a.jpg", jpeg)), masks=True)
    answer = (await mesh.ask(METHOD, request)).json
    assert answer["PAYLOAD"] == {"a.jpg": [["DBSCAN_CPY_MOVE", 1]]}
    assert "MASKS" not in answer


async def test_masks_and_metadata_on_request(mesh: Mesh, jpeg: bytes) -> None:
    """Line 28: "compressed image mask and metadata"."""
    found = report(0.9)
    corners = [geometry_pb2.Point(x=x, y=y) for x, y in ((8, 8), (24, 8), (24, 24), (8, 24))]
    found.report.findings[0].question = detection_pb2.QUESTION_EDITED
    found.report.findings[0].regions.add(outline=geometry_pb2.Polygon(points=corners))
    read = found.report.findings.add(provenance=detection_pb2.Provenance(detector="metadata"), explanation="A camera.")
    read.details.update({"make": "Canon"})
    other = encoded("PNG")

    async def passive(content: bytes, *, detectors: list[str], include_maps: bool) -> Any:
        assert detectors == ["copy_move", "metadata"]
        assert include_maps
        return found if content == jpeg else report(0.1)

    mesh.passive.answers["analyze"] = passive
    body = form(("files", "copied.jpg", jpeg), ("files", "honest.png", other))
    request = pb.ImageInterfaceServiceCheckImagesRequest(body=body, masks=True, metadata=True)
    answer = (await mesh.ask(METHOD, request)).json
    assert answer["PAYLOAD"] == {"copied.jpg": [["DBSCAN_CPY_MOVE", 1]], "honest.png": [["DBSCAN_CPY_MOVE", 0]]}
    assert set(answer["MASKS"]) == {"copied.jpg"}
    with Image.open(io.BytesIO(base64.b64decode(answer["MASKS"]["copied.jpg"]))) as mask:
        assert (mask.format, mask.mode, mask.size) == ("PNG", "L", (64, 48))
        assert (mask.getpixel((16, 16)), mask.getpixel((40, 40))) == (255, 0)
    known = answer["METADATA"]["copied.jpg"]
    assert (known["format"], known["width"], known["height"], known["size_bytes"]) == ("JPEG", 64, 48, len(jpeg))
    assert known["sha256"] == hashlib.sha256(jpeg).hexdigest()
    assert known["details"] == {"make": "Canon"}
    assert answer["METADATA"]["honest.png"]["format"] == "PNG"
