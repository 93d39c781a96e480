"""Real or fake: what the network sees of a face in each pass, and what follows from its scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from services.common.detection import Applicability, Technique
from services.common.errors import ModelUnavailable
from services.common.images import Picture
from services.faces.attributes import deepfake, traces
from services.faces.describing import Description
from services.faces.detectors.facenet_realfake import MIN_CONFIDENCE, MIN_FACE, detect_fake_faces
from services.faces.face import Box, DeepfakeEstimate, DescribedFace, DetectedFace, FaceDetector

FACE = DetectedFace(box=Box(177, 82, 272, 177), confidence=0.9, detector=FaceDetector.HAAR)


def described(score: float, box: Box = FACE.box) -> DescribedFace:
    face = DetectedFace(box=box, confidence=0.9, detector=FaceDetector.HAAR)
    return DescribedFace(face=face, deepfake=DeepfakeEstimate(score))


def test_every_pass_sees_the_face_and_each_in_another_way(astronaut):
    views = deepfake.several_passes(astronaut.rgb, FACE)
    assert len(views) == len(deepfake.PASSES)
    assert {view.shape for view in views} == {(160, 160, 3)}
    assert len({view.tobytes() for view in views}) == len(views)
    by_name = dict(zip(deepfake.PASSES, views, strict=True))
    assert np.array_equal(by_name["mirrored"], by_name["as it is"][:, ::-1])
    for name, view in by_name.items():
        if name in {"blurred", "JPEG"}:
            difference = np.abs(view.astype(int) - by_name["as it is"].astype(int)).mean()
            assert 0.1 < difference < 12, f"{name}: still the same face"


def test_turning_a_face_turns_it_clockwise_and_zooming_shows_less(astronaut):
    rgb = np.zeros((200, 200, 3), np.uint8)
    rgb[95:105, 130:140] = 255
    face = DetectedFace(box=Box(50, 50, 150, 150), confidence=1, detector=FaceDetector.CONSENSUS)

    def spot(**options):
        chip = deepfake.face_chip(rgb, face, 160, **options)
        rows, columns = np.nonzero(chip[..., 0] > 100)
        return columns.mean() - 80, rows.mean() - 80

    straight, turned, zoomed = spot(), spot(turn_degrees=20), spot(zoom=1.2)
    assert straight == pytest.approx((56, 0), abs=1)
    assert turned == pytest.approx((56 * np.cos(np.deg2rad(20)), 56 * np.sin(np.deg2rad(20))), abs=1)
    assert zoomed[0] == pytest.approx(1.2 * straight[0], abs=1.5)


def test_without_a_face_the_middle_square_is_seen():
    rgb = np.zeros((100, 300, 3), np.uint8)
    rgb[:, 100:200] = 255
    face = deepfake.middle_square(rgb)
    assert face.box == Box(100, 0, 200, 100)
    assert traces.cut(rgb, face).mean() > 250


def test_stability_is_the_share_of_passes_with_the_label_of_the_mean():
    steady, shaky = deepfake.read_passes(np.array([[0.9]] * 7 + [[0.6]] * 4 + [[0.1]] * 3), 7)
    assert (steady.score, steady.stability) == (pytest.approx(0.9), 1.0)
    assert shaky.score == pytest.approx(2.7 / 7)
    assert shaky.stability == pytest.approx(3 / 7), "a mean of real, and four passes say fake"


@pytest.mark.parametrize("wrong", [np.array([0.5]), np.array([[1.5]]), np.array([[np.nan]])])
def test_what_is_no_score_is_refused(wrong):
    with pytest.raises(ValueError, match="score"):
        deepfake.read(wrong)


async def test_the_most_suspicious_face_decides_and_is_marked(astronaut):
    far = Box(300, 300, 400, 400)
    finding = await detect_fake_faces(astronaut, Description((described(0.2), described(0.9, far)), {}))
    assert (finding.applicability, finding.score, finding.technique) == (Applicability.APPLIED, 0.9, Technique.FACE)
    (region,) = finding.regions
    assert (region.polygon[0].x, region.polygon[2].y) == (far.x_min, far.y_max)
    assert finding.details["fake_faces"] == 1
    assert finding.log10_likelihood_ratio > 0


async def test_real_looking_faces_move_nothing(astronaut):
    finding = await detect_fake_faces(astronaut, Description((described(0.2),), {}))
    assert (finding.score, finding.log10_likelihood_ratio, finding.technique) == (0.2, 0.0, None)
    assert not finding.regions


async def test_no_face_or_none_large_enough_is_nothing_to_look_at(astronaut):
    none = await detect_fake_faces(astronaut, Description((), {}))
    small = Box(0, 0, MIN_FACE - 1, MIN_FACE)
    tiny = await detect_fake_faces(astronaut, Description((described(0.99, small),), {}))
    assert none.applicability is tiny.applicability is Applicability.NOT_APPLICABLE


async def test_what_is_hardly_a_face_is_no_fake_one(astronaut):
    unsure = replace(FACE, confidence=MIN_CONFIDENCE - 0.01)
    doubtful = DescribedFace(face=unsure, deepfake=deepfake.DeepfakeEstimate(0.99))
    finding = await detect_fake_faces(astronaut, Description((doubtful,), {}))
    assert finding.applicability is Applicability.NOT_APPLICABLE
    beside = await detect_fake_faces(astronaut, Description((described(0.1), doubtful), {}))
    assert beside.score == pytest.approx(0.1)
    assert beside.technique is None
    assert beside.details["doubtful"] == 1
    assert "1 more look" in beside.explanation


async def test_a_network_that_is_away_is_no_answer(astronaut):
    away = Description((DescribedFace(face=FACE),), {"facenet_realfake": ModelUnavailable("facenet_realfake")})
    with pytest.raises(ModelUnavailable, match="facenet_realfake"):
        await detect_fake_faces(astronaut, away)


def test_pictures_are_not_changed(astronaut):
    before = astronaut.rgb.copy()
    deepfake.several_passes(astronaut.rgb, FACE)
    assert isinstance(astronaut, Picture)
    assert np.array_equal(astronaut.rgb, before)
