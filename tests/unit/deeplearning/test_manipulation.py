"""What is said of a picture by the localiser's mask and classes, and how it is drawn."""

from __future__ import annotations

import asyncio
import io
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from services.common.detection import Applicability, Technique
from services.common.images import Picture
from services.deeplearning.detectors import classify, segment
from services.deeplearning.drawing import MAX_DRAWN_PIXELS, draw
from services.deeplearning.localisation import Localisation
from services.deeplearning.networks import Classification, Networks
from services.deeplearning.techniques import stated_log10, technique_of
from services.orchestrator.policy import PRESETS, Preset

PRISTINE = {"splicing": 0.02, "copymove": 0.03, "inpainting": 0.02, "face": 0.01, "pristine": 0.92}
SPLICED = {"splicing": 0.7, "copymove": 0.1, "inpainting": 0.1, "face": 0.05, "pristine": 0.05}


def marked(share: float, *, inside: float = 0.9, outside: float = 0.1, classes: dict | None = None) -> Localisation:
    mask = np.full((100, 100), outside, np.float32)
    mask.reshape(-1)[: round(10_000 * share)] = inside
    return Localisation(mask, np.full((100, 100), 0.8, np.float32), SPLICED if classes is None else classes)


def test_a_marked_place_is_told_with_its_share_technique_and_maps():
    finding = segment.finding_of(marked(0.07))
    assert finding.applicability is Applicability.APPLIED
    assert finding.score == pytest.approx(0.9)
    assert finding.technique is Technique.SPLICING
    assert "7 %" in finding.explanation
    assert finding.details["marked_share"] == 0.07
    assert finding.heat_map.shape == finding.reliability_map.shape == (100, 100)
    assert not finding.calibrated
    assert 0 < finding.log10_likelihood_ratio <= segment.MAX_LOG10


@pytest.mark.parametrize(("share", "accused"), [(0.0, False), (0.0099, False), (0.01, True), (0.5, True), (1.0, True)])
def test_a_picture_is_accused_from_one_hundredth_on(share, accused):
    finding = segment.finding_of(marked(share))
    assert (finding.score >= segment.CUT) is accused
    assert (finding.technique is not None) is accused
    assert (finding.log10_likelihood_ratio > 0) is accused


def test_a_network_without_reliability_and_classes_has_its_say_too():
    finding = segment.finding_of(Localisation(marked(0.5).mask, None, {}))
    assert finding.reliability_map is None
    assert finding.technique is Technique.OTHER


@pytest.mark.parametrize(
    ("classes", "technique"),
    [
        (SPLICED, Technique.SPLICING),
        (PRISTINE, Technique.OTHER),
        ({"retouched": 0.9, "splicing": 0.1}, Technique.OTHER),
        ({"face": 0.3, "pristine": 0.7}, Technique.FACE),
        ({"pristine": 1.0, "face": 0.0}, Technique.OTHER),
    ],
)
def test_a_technique_is_named_where_it_is_clear(classes, technique):
    assert technique_of(classes) is technique


def test_an_honest_picture_is_forced_into_no_crime():
    finding = classify.finding_of(Classification(PRISTINE, "resnet50"))
    assert finding.score == pytest.approx(0.08)
    assert finding.technique is None
    assert finding.log10_likelihood_ratio < 0


def test_an_edited_one_is_told_with_its_class():
    finding = classify.finding_of(Classification(SPLICED, "resnet50"))
    assert finding.technique is Technique.SPLICING
    assert "splicing" in finding.explanation
    assert finding.details["model"] == "resnet50"


def test_a_classifier_that_knows_no_honest_pictures_accuses_nobody():
    four = {name: 0.25 for name in SPLICED if name != "pristine"}
    finding = classify.finding_of(Classification(four, "resnet50"))
    assert finding.applicability is Applicability.NOT_APPLICABLE
    assert finding.log10_likelihood_ratio is None


@pytest.mark.parametrize("detect", [segment.detect_edited_places, classify.detect_manipulation_class])
def test_small_pictures_are_left_alone(detect):
    picture = Picture.from_array(np.zeros((63, 500, 3), np.uint8))
    finding = asyncio.run(detect(picture, cast("Networks", None)))
    assert finding.applicability is Applicability.NOT_APPLICABLE


def test_both_together_are_too_little_to_count_as_an_edit():
    assert PRESETS[Preset.BALANCED].possibly_edited > segment.MAX_LOG10 + classify.MAX_LOG10


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_stated_ratio_grows_with_the_score_within_its_bounds(one, other):
    low, high = sorted((one, other))
    ratios = [stated_log10(score, lowest=-0.1, highest=0.3) for score in (low, high)]
    assert -0.1 - 1e-9 <= ratios[0] <= ratios[1] <= 0.3 + 1e-9
    assert (ratios[1] > 0) == (high > 0.5)


# ---- drawing ----


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_three_drawings_show_the_same_mask():
    rgb = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    mask = np.zeros((40, 60), np.float32)
    mask[:20, :30] = 0.7
    drawn = draw(rgb, mask, threshold=0.5)
    assert drawn.share == 0.25
    inside = mask >= 0.5
    assert np.array_equal(pixels(drawn.mask_png), np.where(inside, 255, 0))
    overlay, masked = pixels(drawn.overlay_png), pixels(drawn.masked_image_png)
    assert np.array_equal(overlay[~inside], rgb[~inside])
    assert overlay[inside][:, 1].mean() > rgb[inside][:, 1].mean() + 40
    assert overlay[inside][:, 0].mean() < rgb[inside][:, 0].mean() - 40
    assert np.array_equal(masked[inside], rgb[inside])
    assert masked[~inside].max() == 0
    assert draw(rgb, mask, threshold=0.71).share == 0.0


def test_of_a_large_picture_the_mask_keeps_its_size_and_the_drawings_can_be_sent():
    rgb = np.zeros((2000, 4000, 3), np.uint8)
    mask = np.zeros((50, 100), np.float32)
    mask[:25] = 1.0
    drawn = draw(rgb, mask, threshold=0.5)
    assert pixels(drawn.mask_png).shape == (2000, 4000)
    for png in (drawn.overlay_png, drawn.masked_image_png):
        height, width = pixels(png).shape[:2]
        assert height * width <= MAX_DRAWN_PIXELS
        assert width / height == pytest.approx(2, abs=0.01)
    assert (pixels(drawn.overlay_png)[..., 1] > 0).mean() == pytest.approx(0.5, abs=0.01)
