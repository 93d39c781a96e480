"""Pieces are planted between two JPEG compressions and must be found; pictures without a piece are left alone."""

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
from services.passive.detectors._jpeg import stored_luma, upright
from services.passive.detectors.double_quantisation import (
    DECISION_SCORE,
    MAX_REGIONS,
    detect_double_quantisation,
    find_double_quantisation,
)

RGB = NDArray[np.uint8]
Mask = NDArray[np.bool_]

PIECE = np.s_[104:264, 200:392]


def jpeg(rgb: RGB, quality: int, *, orientation: int = 1, subsampling: int = 2, progressive: bool = False) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(
        buffer, "JPEG", quality=quality, exif=exif, subsampling=subsampling, progressive=progressive
    )
    return buffer.getvalue()


def pixels(content: bytes) -> RGB:
    return np.array(Image.open(io.BytesIO(content)), np.uint8)


def spliced(first: int = 65) -> tuple[RGB, RGB, Mask]:
    """A photograph that was a JPEG before, with a piece that was none; its twin; the mask."""
    twin = pixels(jpeg(data.astronaut()[:, :480], first))
    forged = twin.copy()
    forged[PIECE] = data.coffee()[101:261, 195:387]
    mask = np.zeros(twin.shape[:2], np.bool_)
    mask[PIECE] = True
    return forged, twin, mask


def examine(content: bytes) -> Finding:
    return detect_double_quantisation(decode_image(content))


def overlap(finding: Finding, truth: Mask) -> float:
    assert finding.heat_map is not None
    heat = Image.fromarray(finding.heat_map).resize((truth.shape[1], truth.shape[0]), Image.Resampling.BILINEAR)
    found = np.asarray(heat) >= 0.5
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize(("first", "last"), [(55, 75), (65, 85), (75, 90), (80, 95)])
def test_finds_what_was_put_in_between_where_it_is(first: int, last: int) -> None:
    forged, twin, mask = spliced(first)

    finding = examine(jpeg(forged, last))

    assert finding.score is not None
    assert finding.score >= DECISION_SCORE
    assert finding.technique is Technique.SPLICING
    assert overlap(finding, mask) > 0.5
    assert "lack the traces" in finding.explanation
    assert finding.log10_likelihood_ratio is not None
    assert 0 < finding.log10_likelihood_ratio <= 1.0
    assert not finding.calibrated
    assert 1 <= len(finding.regions) <= MAX_REGIONS
    json.dumps(finding.details)
    corners = np.array([[point.x, point.y] for point in finding.regions[0].polygon])
    rows, columns = PIECE
    assert corners.mean(axis=0) == pytest.approx(
        [(columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2], abs=40
    )

    honest = examine(jpeg(twin, last))
    assert honest.score is not None
    assert honest.score < DECISION_SCORE
    assert honest.technique is None
    assert honest.regions == ()
    assert honest.log10_likelihood_ratio == 0.0
    assert honest.details["compressed_twice"]


def test_recovers_the_earlier_quantisation_table() -> None:
    table = np.array(Image.open(io.BytesIO(jpeg(data.coffee(), 60))).quantization[0]).reshape(8, 8)

    stored = stored_luma(decode_image(jpeg(pixels(jpeg(data.coffee(), 60)), 90)))
    assert stored is not None
    result = find_double_quantisation(stored)

    recovered = [step.earlier_step == table[step.frequency] for step in result.steps]
    assert len(recovered) >= 10
    assert np.mean(recovered) > 0.8


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"progressive": True}])
def test_finds_it_however_the_file_is_laid_out(options: dict[str, int]) -> None:
    forged, _, mask = spliced()

    assert overlap(examine(jpeg(forged, 88, **options)), mask) > 0.5


def test_finds_it_in_grey_pictures() -> None:
    buffer = io.BytesIO()
    Image.fromarray(spliced()[0]).convert("L").save(buffer, "JPEG", quality=90)

    assert overlap(examine(buffer.getvalue()), spliced()[2]) > 0.5


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket", "cat"])
@pytest.mark.parametrize("quality", [75, 92])
def test_leaves_honest_photographs_alone(name: str, quality: int) -> None:
    finding = examine(jpeg(getattr(data, name)(), quality))

    assert finding.score is not None
    assert finding.score < DECISION_SCORE
    assert finding.regions == ()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turns_its_maps_with_the_picture(orientation: int) -> None:
    forged, _, mask = spliced()

    finding = examine(jpeg(forged, 88, orientation=orientation))

    assert overlap(finding, upright(mask.astype(np.float32), orientation) > 0) > 0.5


def test_a_mirrored_picture_gives_the_mirrored_answer() -> None:
    forged, _, mask = spliced()

    assert overlap(examine(jpeg(np.ascontiguousarray(forged[:, ::-1]), 88)), mask[:, ::-1]) > 0.5


def test_the_same_file_gives_the_same_answer() -> None:
    content = jpeg(spliced()[0], 88)

    first, second = examine(content), examine(content)

    assert first.score == second.score
    assert first.regions == second.regions
    assert first.details == second.details


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (8, 8), (127, 900)])
def test_does_not_apply_to_tiny_pictures(shape: tuple[int, int]) -> None:
    finding = examine(jpeg(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8), 90))

    assert finding.applicability is Applicability.NOT_APPLICABLE
    assert "too small" in finding.explanation


@pytest.mark.parametrize(("grey", "why"), [(0, "free of"), (128, "too plain"), (255, "free of")])
def test_does_not_apply_to_plain_and_saturated_pictures(grey: int, why: str) -> None:
    finding = examine(jpeg(np.full((300, 400, 3), grey, np.uint8), 90))

    assert finding.applicability is Applicability.NOT_APPLICABLE
    assert why in finding.explanation


def test_does_not_apply_to_other_formats_and_colour_spaces() -> None:
    assert detect_double_quantisation(Picture.from_array(data.coffee())).applicability is Applicability.NOT_APPLICABLE
    buffer = io.BytesIO()
    Image.fromarray(data.coffee()).convert("CMYK").save(buffer, "JPEG", quality=90)
    finding = examine(buffer.getvalue())
    assert finding.applicability is Applicability.NOT_APPLICABLE
    assert "unusual" in finding.explanation


def test_is_registered() -> None:
    spec, function = registry["double_quantisation"]

    assert function is detect_double_quantisation
    assert spec.question is Question.EDITED
    assert spec.techniques == (Technique.SPLICING,)
