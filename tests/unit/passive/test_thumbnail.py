"""A thumbnail from before an edit is noticed; one that a camera or a program made of the picture itself is not."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from services.common.detection import Applicability, Finding
from services.common.images import decode_image
from services.passive.detectors.thumbnail import AGREEING, DECISION_SCORE, detect_thumbnail

RGB = NDArray[np.uint8]


def jpeg(rgb: RGB, *, quality: int = 85, exif: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, exif=exif)
    return buffer.getvalue()


def exif_with(thumbnail: bytes, *, orientation: int = 1) -> bytes:
    """An EXIF block: IFD0 with the orientation, IFD1 with a JPEG thumbnail."""

    def entry(tag: int, kind: int, value: int) -> bytes:
        content = value.to_bytes(2, "little") + b"\0\0" if kind == 3 else value.to_bytes(4, "little")
        return tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little") + content

    first = (1).to_bytes(2, "little") + entry(0x0112, 3, orientation) + (26).to_bytes(4, "little")
    start = 26 + 2 + 3 * 12 + 4
    second = (
        (3).to_bytes(2, "little")
        + entry(0x0103, 3, 6)
        + entry(0x0201, 4, start)
        + entry(0x0202, 4, len(thumbnail))
        + bytes(4)
    )
    return b"Exif\0\0" + b"II*\0" + (8).to_bytes(4, "little") + first + second + thumbnail


def small(rgb: RGB, width: int = 160, height: int = 120, method: int = cv2.INTER_AREA) -> RGB:
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=method), np.uint8)


def look(rgb: RGB, thumbnail: RGB, *, orientation: int = 1) -> Finding:
    return detect_thumbnail(decode_image(jpeg(rgb, exif=exif_with(jpeg(thumbnail), orientation=orientation))))


COFFEE = np.ascontiguousarray(skimage.data.coffee()[:, :532])


@pytest.mark.parametrize("method", [cv2.INTER_AREA, cv2.INTER_NEAREST, cv2.INTER_CUBIC])
def test_a_picture_with_its_own_thumbnail_is_left_alone(method: int):
    finding = look(COFFEE, small(COFFEE, method=method))
    assert finding.details["correlation"] > AGREEING
    assert finding.score is not None
    assert finding.score < 0.2
    assert finding.heat_map is None


def test_another_pictures_thumbnail_is_noticed():
    finding = look(COFFEE, small(skimage.data.astronaut()[:384]))
    assert finding.score is not None
    assert finding.score >= DECISION_SCORE
    assert "does not show the same picture" in finding.explanation


def test_the_place_of_a_large_edit_is_shown():
    edited = COFFEE.copy()
    edited[:200, 266:] = skimage.data.astronaut()[100:300, 100:366]
    finding = look(edited, small(COFFEE))
    assert finding.heat_map is not None
    rows, columns = finding.heat_map.shape
    assert finding.heat_map[: rows // 3, columns * 6 // 10 :].mean() > 4 * finding.heat_map[rows // 2 :].mean()


def test_a_crop_changes_the_shape():
    finding = look(np.ascontiguousarray(COFFEE[:, 60:400]), small(COFFEE))
    assert finding.details["same_shape"] is False
    assert finding.score is not None
    assert finding.score >= DECISION_SCORE


@pytest.mark.parametrize("above", [0, 6, 13])
def test_black_bars_are_the_cameras(above: int):
    wide = np.ascontiguousarray(COFFEE[:355])
    barred = np.zeros((120, 160, 3), np.uint8)
    barred[above : above + 107] = small(wide, 160, 107)
    finding = look(wide, barred)
    assert finding.details["same_shape"] is True
    assert finding.details["correlation"] > AGREEING


@pytest.mark.parametrize("orientation", range(1, 9))
def test_both_are_compared_as_they_are_stored(orientation: int):
    finding = look(COFFEE, small(COFFEE), orientation=orientation)
    assert finding.details["correlation"] > AGREEING
    assert finding.details["same_shape"] is True


@pytest.mark.parametrize(
    "content",
    [
        jpeg(COFFEE),
        jpeg(COFFEE, exif=exif_with(b"not a picture")),
        jpeg(COFFEE, exif=exif_with(jpeg(small(COFFEE))[:200])),
        jpeg(COFFEE, exif=exif_with(jpeg(small(COFFEE, 20, 15)))),
        jpeg(COFFEE, exif=exif_with(jpeg(np.full((120, 160, 3), 7, np.uint8)))),
    ],
    ids=["none", "garbage", "cut off", "tiny", "plain"],
)
def test_without_a_usable_thumbnail_it_does_not_apply(content: bytes):
    finding = detect_thumbnail(decode_image(content))
    assert finding.applicability is Applicability.NOT_APPLICABLE
