"""Pieces of another JPEG grid are planted in photographs and must be found; cropped and plain pictures left alone."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from services.common.detection import Applicability, Finding, Question, Technique
from services.common.images import Picture, decode_image
from services.passive.detectors import registry
from services.passive.detectors.jpeg_grid import CELL, DECISION_SCORE, detect_jpeg_grid, find_foreign_grids

RGB = NDArray[np.uint8]
Mask = NDArray[np.bool_]

PIECE = np.s_[104:264, 200:392]


def jpeg(rgb: RGB, quality: int, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, exif=exif)
    return buffer.getvalue()


def pixels(content: bytes) -> RGB:
    return np.array(Image.open(io.BytesIO(content)), np.uint8)


def spliced(*, offset: tuple[int, int] = (3, 5)) -> tuple[RGB, RGB, Mask]:
    """A photograph with a piece of another one, each of which was a JPEG before; its twin; the mask."""
    twin = pixels(jpeg(data.astronaut()[:, :480], 80))
    donor = pixels(jpeg(data.coffee()[:, :500], 75))
    rows, columns = PIECE
    forged = twin.copy()
    forged[PIECE] = donor[
        rows.start - offset[0] : rows.stop - offset[0], columns.start - offset[1] : columns.stop - offset[1]
    ]
    mask = np.zeros(twin.shape[:2], np.bool_)
    mask[PIECE] = True
    return forged, twin, mask


def marked(finding: Finding, shape: tuple[int, ...]) -> Mask:
    assert finding.heat_map is not None
    heat = Image.fromarray(finding.heat_map).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(heat) >= 0.5


def overlap(found: Mask, truth: Mask) -> float:
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize("quality", [None, 95])
def test_finds_a_piece_on_another_grid_where_it_is(quality: int | None) -> None:
    forged, twin, mask = spliced()

    def picture(rgb: RGB) -> Picture:
        return Picture.from_array(rgb) if quality is None else decode_image(jpeg(rgb, quality))

    finding = detect_jpeg_grid(picture(forged))

    assert finding.score is not None
    assert finding.score >= DECISION_SCORE
    assert finding.technique is Technique.SPLICING
    assert overlap(marked(finding, mask.shape), mask) > 0.6
    assert finding.details["grid_origin"] == [0, 0]
    assert finding.details["foreign_grids"][0]["origin"] == [3, 5]
    assert finding.log10_likelihood_ratio is not None
    assert 0 < finding.log10_likelihood_ratio <= 1.0
    assert not finding.calibrated
    json.dumps(finding.details)
    corners = np.array([[point.x, point.y] for point in finding.regions[0].polygon])
    rows, columns = PIECE
    assert corners.min(axis=0) == pytest.approx([columns.start, rows.start], abs=2 * CELL)
    assert corners.max(axis=0) == pytest.approx([columns.stop, rows.stop], abs=2 * CELL)

    honest = detect_jpeg_grid(picture(twin))
    assert honest.score is not None
    assert honest.score < DECISION_SCORE
    assert honest.technique is None
    assert honest.regions == ()
    assert honest.log10_likelihood_ratio == 0.0
    assert honest.heat_map is not None
    assert not honest.heat_map.any()


def test_a_piece_on_the_same_grid_cannot_be_seen() -> None:
    forged, _, _ = spliced(offset=(0, 0))

    assert detect_jpeg_grid(Picture.from_array(forged)).regions == ()


@pytest.mark.parametrize(("top", "left"), [(0, 0), (2, 5), (7, 1)])
def test_tells_where_a_cropped_picture_was_cropped_and_accuses_nobody(top: int, left: int) -> None:
    cropped = pixels(jpeg(data.coffee(), 80))[top:, left:]

    finding = detect_jpeg_grid(Picture.from_array(cropped))

    assert finding.score is not None
    assert finding.score < DECISION_SCORE
    assert finding.details["grid_origin"] == [-top % 8, -left % 8]
    assert ("cropped" in finding.explanation) == ((top, left) != (0, 0))


def test_a_crop_that_was_saved_again_is_no_forgery() -> None:
    cropped = pixels(jpeg(data.coffee(), 70))[3:, 6:]

    assert detect_jpeg_grid(decode_image(jpeg(cropped, 95))).regions == ()


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket", "cat", "camera"])
@pytest.mark.parametrize("quality", [None, 92, 98])
def test_leaves_honest_photographs_alone(name: str, quality: int | None) -> None:
    rgb = getattr(data, name)()
    rgb = rgb if rgb.ndim == 3 else np.repeat(rgb[..., None], 3, axis=2)

    finding = detect_jpeg_grid(Picture.from_array(rgb) if quality is None else decode_image(jpeg(rgb, quality)))

    assert finding.score is None or finding.score < DECISION_SCORE


def test_a_mirrored_picture_gives_the_mirrored_answer() -> None:
    forged, _, mask = spliced()

    mirrored = detect_jpeg_grid(Picture.from_array(np.ascontiguousarray(forged[:, ::-1])))

    assert overlap(marked(mirrored, mask.shape), mask[:, ::-1]) > 0.6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_knows_the_files_own_grid_however_the_picture_is_turned(orientation: int) -> None:
    file = jpeg(data.coffee()[:395, :597], 92, orientation)

    finding = detect_jpeg_grid(decode_image(file))

    assert finding.details["grid_origin"] == finding.details["file_grid_origin"]
    assert "cropped" not in finding.explanation
    assert finding.regions == ()


def test_the_same_picture_gives_the_same_answer() -> None:
    forged, _, _ = spliced()

    first, second = (detect_jpeg_grid(Picture.from_array(forged)) for _ in range(2))

    assert first.score == second.score
    assert first.regions == second.regions
    assert first.details == second.details


def test_a_tall_picture_is_counted_in_strips_without_a_seam() -> None:
    tall = np.concatenate([data.astronaut()[:400, :160]] * 4)
    compressed = pixels(jpeg(tall, 75))[5:]

    result = find_foreign_grids(np.ascontiguousarray(compressed[..., 1]))

    assert result.origin == (3, 0)
    assert result.regions == ()


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (8, 8), (127, 900)])
def test_does_not_apply_to_tiny_pictures(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)

    for picture in (Picture.from_array(noise), decode_image(jpeg(noise, 95))):
        finding = detect_jpeg_grid(picture)
        assert finding.applicability is Applicability.NOT_APPLICABLE
        assert "too small" in finding.explanation


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_does_not_apply_to_plain_pictures(grey: int) -> None:
    finding = detect_jpeg_grid(Picture.from_array(np.full((300, 400, 3), grey, np.uint8)))

    assert finding.applicability is Applicability.NOT_APPLICABLE
    assert "too plain" in finding.explanation


def test_does_not_apply_where_the_files_own_compression_hides_all() -> None:
    finding = detect_jpeg_grid(decode_image(jpeg(data.coffee(), 75)))

    assert finding.applicability is Applicability.NOT_APPLICABLE
    assert "hides earlier grids" in finding.explanation


def test_a_cmyk_file_does_no_harm() -> None:
    buffer = io.BytesIO()
    Image.fromarray(data.coffee()).convert("CMYK").save(buffer, "JPEG", quality=95)

    assert detect_jpeg_grid(decode_image(buffer.getvalue())).applicability is Applicability.NOT_APPLICABLE


def test_noise_has_no_grid() -> None:
    noise = np.random.default_rng(3).normal(128, 12, (400, 400, 3)).clip(0, 255).astype(np.uint8)

    finding = detect_jpeg_grid(Picture.from_array(noise))

    assert finding.score is None or finding.score < DECISION_SCORE


def test_is_registered() -> None:
    spec, function = registry["jpeg_grid"]

    assert function is detect_jpeg_grid
    assert spec.question is Question.EDITED
    assert spec.techniques == (Technique.SPLICING,)
