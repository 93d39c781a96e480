"""Error levels, ghosts and first digits answer to how often a picture, or a part of it, was saved as JPEG."""

from __future__ import annotations

import io

import numpy as np
import pytest
import skimage.data
import skimage.transform
from numpy.typing import NDArray
from PIL import Image

from services.common.detection import Applicability
from services.common.images import Picture, decode_image
from services.passive.detectors.error_level import detect_error_level, error_levels
from services.passive.detectors.first_digits import detect_first_digits, law
from services.passive.detectors.jpeg_ghosts import detect_jpeg_ghosts

RGB = NDArray[np.uint8]


def fresh(load=skimage.data.astronaut) -> RGB:
    """A photograph without the trace of an earlier compression."""
    rgb = load()
    smaller = skimage.transform.rescale(rgb, 0.75, anti_aliasing=True, channel_axis=2)
    return np.ascontiguousarray(np.rint(smaller * 255).astype(np.uint8)[:384, :384])


def jpeg(rgb: RGB, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def again(rgb: RGB, quality: int) -> RGB:
    return decode_image(jpeg(rgb, quality)).rgb


PIECE = np.s_[128:256, 64:192]


def with_compressed_piece(quality: int) -> RGB:
    """A photograph of which one piece was saved as JPEG before."""
    rgb = fresh()
    rgb[PIECE] = again(rgb, quality)[PIECE]
    return rgb


def inside_and_outside(heat_map: NDArray[np.float32]) -> tuple[float, float]:
    inside = np.zeros(heat_map.shape, bool)
    inside[16:32, 8:24] = True
    return float(np.median(heat_map[inside])), float(np.median(heat_map[~inside]))


def test_what_was_compressed_before_changes_less():
    levels = error_levels(with_compressed_piece(70))
    inside, _ = inside_and_outside(levels)
    before, _ = inside_and_outside(error_levels(fresh()))
    assert inside < 0.7 * before


def test_error_level_is_a_view_that_accuses_nobody():
    finding = detect_error_level(Picture.from_array(with_compressed_piece(50)))
    assert finding.score == 0.0
    assert finding.log10_likelihood_ratio is None
    assert finding.heat_map is not None
    assert finding.heat_map.shape == (48, 48)
    assert finding.heat_map.dtype == np.float32
    assert 0.0 <= finding.heat_map.min() <= finding.heat_map.max() <= 1.0


def test_a_plain_picture_has_a_dark_error_level():
    finding = detect_error_level(Picture.from_array(np.full((128, 128, 3), 77, np.uint8)))
    assert finding.heat_map is not None
    assert finding.heat_map.max() < 0.5


@pytest.mark.parametrize("quality", [45, 55, 65])
def test_a_ghost_shows_at_the_quality_it_was_saved_with(quality: int):
    finding = detect_jpeg_ghosts(decode_image(jpeg(with_compressed_piece(quality), 92)))
    assert finding.details["quality"] == quality
    assert finding.heat_map is not None
    inside, outside = inside_and_outside(finding.heat_map)
    assert inside > 0.6
    assert outside < 0.2
    # Honest pictures have as much contrast: it decides nothing.
    assert finding.score == 0.0


def test_ghosts_need_a_jpeg_with_detail():
    for picture in (
        Picture.from_array(fresh()),
        decode_image(jpeg(np.full((256, 256, 3), 120, np.uint8), 90)),
        decode_image(jpeg(fresh()[:100], 90)),
        decode_image(jpeg(fresh(), 36)),
    ):
        assert detect_jpeg_ghosts(picture).applicability is Applicability.NOT_APPLICABLE


@pytest.mark.parametrize("load", [skimage.data.astronaut, skimage.data.chelsea, skimage.data.coffee])
def test_first_digits_tell_one_compression_from_two(load):
    once = detect_first_digits(decode_image(jpeg(fresh(load), 85)))
    twice = detect_first_digits(decode_image(jpeg(again(fresh(load), 60), 85)))
    assert once.score is not None
    assert twice.score is not None
    assert once.score < 0.2
    assert twice.score > 0.5
    assert sum(once.details["shares"]) == pytest.approx(1.0, abs=1e-3)
    alone = [[item["divergence"] for item in each.details["by_frequency"]] for each in (once, twice)]
    assert len(alone[0]) == 9
    assert np.median([each for each in alone[1] if each]) > 3 * np.median([each for each in alone[0] if each])


def test_with_the_same_tables_twice_is_once():
    finding = detect_first_digits(decode_image(jpeg(again(fresh(), 85), 85)))
    assert finding.score is not None
    assert finding.score < 0.2


def test_first_digits_need_detail():
    for picture in (Picture.from_array(fresh()), decode_image(jpeg(np.full((64, 64, 3), 9, np.uint8), 90))):
        assert detect_first_digits(picture).applicability is Applicability.NOT_APPLICABLE


def test_the_law_is_benfords_at_its_usual_parameters():
    assert law(0.0, 1.0) == pytest.approx(np.log10(1 + 1 / np.arange(1, 10)))
