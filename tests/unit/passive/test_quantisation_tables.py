"""The quality that a file was saved with is read back exactly, and other tables are not taken for the standard's."""

from __future__ import annotations

import io

import numpy as np
import pytest
import skimage.data
from PIL import Image

from services.common.detection import Applicability
from services.common.images import Picture, decode_image
from services.passive.detectors.quantisation_tables import (
    CHROMA,
    LUMA,
    RESAVED_SCORE,
    detect_quantisation_tables,
    read_signature,
    standard_table,
)

PHOTOGRAPH = Image.fromarray(skimage.data.coffee()[:200, :200])


def jpeg(image: Image.Image = PHOTOGRAPH, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def camera_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Example", "Camera 1"
    return exif


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 51, 75, 90, 95, 99, 100])
def test_the_quality_is_read_back(quality: int):
    signature = read_signature(jpeg(quality=quality))
    assert signature is not None
    assert signature.standard
    assert signature.quality == quality


@pytest.mark.parametrize(("subsampling", "name"), [(0, "4:4:4"), (1, "4:2:2"), (2, "4:2:0")])
def test_the_sampling_is_named(subsampling: int, name: str):
    signature = read_signature(jpeg(subsampling=subsampling))
    assert signature is not None
    assert signature.sampling == name
    grey = read_signature(jpeg(PHOTOGRAPH.convert("L")))
    assert grey is not None
    assert grey.sampling == "grey"


def test_one_changed_step_is_no_standard_table():
    tables = [standard_table(LUMA, 80).ravel().tolist(), standard_table(CHROMA, 80).ravel().tolist()]
    tables[0][5] += 3
    signature = read_signature(jpeg(qtables=tables))
    assert signature is not None
    assert not signature.standard
    assert signature.quality == 80
    assert signature.tables[0] == tuple(tables[0])


def test_tables_of_different_qualities_are_no_standard_tables():
    tables = [standard_table(LUMA, 80).ravel().tolist(), standard_table(CHROMA, 60).ravel().tolist()]
    signature = read_signature(jpeg(qtables=tables))
    assert signature is not None
    assert not signature.standard


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"progressive": True}])
def test_a_cameras_file_that_was_saved_as_cameras_do_not_was_saved_again(options: dict[str, int]):
    finding = detect_quantisation_tables(decode_image(jpeg(quality=75, exif=camera_exif(), **options)))
    assert finding.score == RESAVED_SCORE
    assert "Example Camera 1" in finding.explanation
    assert detect_quantisation_tables(decode_image(jpeg(quality=75, **options))).score == 0.0


@pytest.mark.parametrize("subsampling", [1, 2])
def test_cameras_that_use_the_standards_tables_are_left_alone(subsampling: int):
    content = jpeg(quality=90, exif=camera_exif(), subsampling=subsampling)
    assert detect_quantisation_tables(decode_image(content)).score == 0.0


def test_other_formats_have_none():
    finding = detect_quantisation_tables(Picture.from_array(np.zeros((32, 32, 3), np.uint8)))
    assert finding.applicability is Applicability.NOT_APPLICABLE


def test_what_is_no_jpeg_has_no_signature():
    assert read_signature(b"\xff\xd8\xff\xe0 broken") is None


@pytest.mark.parametrize("quality", [0, 101])
def test_a_quality_is_from_1_to_100(quality: int):
    with pytest.raises(ValueError, match="between 1 and 100"):
        standard_table(LUMA, quality)
