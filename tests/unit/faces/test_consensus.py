"""What several finders saw, as one answer."""

from __future__ import annotations

import itertools

import pytest

from services.common.errors import ModelUnavailable
from services.faces.face import Box, DetectedFace, FaceDetector
from services.faces.finders import Finders
from services.faces.finders.consensus import BY_PLACING, fused

YUNET, MEDIAPIPE, HAAR = BY_PLACING
HERE, NEARBY, ELSEWHERE = Box(100, 100, 200, 200), Box(105, 95, 205, 205), Box(400, 100, 480, 180)


def face(detector: FaceDetector, box: Box = HERE, confidence: float = 0.8) -> DetectedFace:
    return DetectedFace(box=box, confidence=confidence, detector=detector)


class Finder:
    """Sees what it is told to, or is away."""

    default_confidence = 0.5

    def __init__(self, detector: FaceDetector, *faces: DetectedFace, away: bool = False) -> None:
        self.detector = detector
        self.faces = faces
        self.away = away

    async def find(self, picture, *, min_confidence):
        if self.away:
            raise ModelUnavailable(self.detector.value)
        return [each for each in self.faces if each.confidence >= min_confidence]

    async def warm_up(self):
        pass

    def close(self):
        pass


def test_one_face_that_all_see_is_one_face_with_the_best_placed_box():
    (one,) = fused({YUNET: [face(YUNET, NEARBY)], MEDIAPIPE: [face(MEDIAPIPE)], HAAR: [face(HAAR)]})
    assert one.box == NEARBY
    assert one.detector is FaceDetector.CONSENSUS
    assert one.agreement == 1.0


def test_agreement_is_the_share_of_those_that_were_asked():
    seen = {YUNET: [face(YUNET)], MEDIAPIPE: [face(MEDIAPIPE, ELSEWHERE)], HAAR: []}
    assert [each.agreement for each in fused(seen)] == [pytest.approx(1 / 3)] * 2
    del seen[HAAR]
    assert [each.agreement for each in fused(seen)] == [0.5, 0.5]


def test_the_more_see_it_and_the_surer_they_are_the_surer_it_is():
    detectors = list(BY_PLACING)
    by_count = []
    for count in range(1, 4):
        for saw in itertools.combinations(detectors, count):
            seen = {each: [face(each)] if each in saw else [] for each in detectors}
            (one,) = fused(seen)
            by_count.append((set(saw), one.confidence))
    for saw, confidence in by_count:
        for more, higher in by_count:
            if saw < more:
                assert higher > confidence
    for detector in detectors:
        (unsure,) = fused({detector: [face(detector, confidence=0.6)]})
        (sure,) = fused({detector: [face(detector, confidence=0.95)]})
        assert 0 < unsure.confidence < sure.confidence < 1


def test_two_faces_stay_two():
    seen = {YUNET: [face(YUNET), face(YUNET, ELSEWHERE)], HAAR: [face(HAAR, ELSEWHERE)]}
    assert {each.box for each in fused(seen)} == {HERE, ELSEWHERE}


async def test_finders_that_are_away_are_named_and_the_rest_agrees(astronaut):
    finders = Finders([Finder(YUNET, away=True), Finder(MEDIAPIPE, face(MEDIAPIPE)), Finder(HAAR, face(HAAR))],
                      max_faces=10)  # fmt: skip
    found = await finders.find(astronaut, FaceDetector.CONSENSUS)
    assert [error.model for error in found.passed_over] == ["yunet"]
    assert [each.agreement for each in found.faces] == [1.0]
    assert found.detector is FaceDetector.CONSENSUS


async def test_nobody_there_is_a_missing_model(astronaut):
    with pytest.raises(ModelUnavailable, match="yunet"):
        await Finders([Finder(YUNET, away=True)], max_faces=10).find(astronaut, FaceDetector.CONSENSUS)
