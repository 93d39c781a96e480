"""A known face must be found where it is, at every size, and nothing found where there is none."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from services.common.detection import Point
from services.common.errors import ModelUnavailable
from services.common.images import Picture
from services.faces.face import Box, DetectedFace, FaceDetector
from services.faces.finders import Finders, InThread
from services.faces.finders._suppression import without_duplicates
from services.faces.finders.haar import HaarFinder, confidence_of
from services.faces.finders.mediapipe import ASSET, MediaPipeFinder, tiles

ASTRONAUT_FACE = Box(177, 82, 272, 177)


def picture(rgb: np.ndarray) -> Picture:
    return Picture.from_array(np.ascontiguousarray(rgb if rgb.ndim == 3 else np.repeat(rgb[..., None], 3, axis=2)))


def scene(width: int, height: int, face_side: float, x: int, y: int, *, copies: int = 1) -> tuple[Picture, list[Box]]:
    """The astronaut, reduced until her face is `face_side` pixels wide, at (x, y) on gravel; copies side by side."""
    scale = face_side / ASTRONAUT_FACE.width
    small = cv2.resize(data.astronaut()[:300, 100:400], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    canvas = cv2.resize(np.repeat(data.gravel()[..., None], 3, axis=2), (width, height))
    boxes = []
    for copy in range(copies):
        left = x + copy * small.shape[1]
        canvas[y : y + small.shape[0], left : left + small.shape[1]] = small
        boxes.append(ASTRONAUT_FACE.mapped(scale, left - 100 * scale, y))
    return picture(canvas), boxes


def test_the_face_is_found_where_it_is(finder, astronaut):
    (face,) = finder.find(astronaut, min_confidence=finder.default_confidence)
    assert face.box.overlap(ASTRONAUT_FACE) > 0.6
    assert 0.5 < face.confidence <= 1
    assert face.detector is finder.detector


def test_mediapipe_gives_landmarks_in_full_size_pixels(mediapipe, astronaut):
    (face,) = mediapipe.find(astronaut, min_confidence=0.5)
    for found, true in (
        (face.landmarks.right_eye, Point(204, 107)),
        (face.landmarks.left_eye, Point(245, 110)),
        (face.landmarks.mouth, Point(219, 148)),
    ):
        assert abs(found.x - true.x) < 6
        assert abs(found.y - true.y) < 6


@pytest.mark.parametrize("name", ["coffee", "rocket", "brick", "grass", "chelsea"])
def test_no_face_is_found_where_there_is_none(finder, name):
    assert finder.find(picture(getattr(data, name)()), min_confidence=finder.default_confidence) == []


@pytest.mark.parametrize(("face_side", "x", "y"), [(60, 1300, 900), (60, 20, 30), (150, 700, 500), (500, 0, 0)])
def test_small_and_large_faces_are_found_in_a_large_picture(finder, face_side, x, y):
    crowd, (box,) = scene(1800, 2000, face_side, x, y)
    faces = finder.find(crowd, min_confidence=finder.default_confidence)
    assert any(face.box.overlap(box) > 0.4 for face in faces)


def test_boxes_are_in_full_size_pixels_of_pictures_above_the_working_size(finder):
    crowd, (box,) = scene(4000, 3000, 400, 2200, 1500)
    assert crowd.scale < 0.5
    (face, *_) = finder.find(crowd, min_confidence=finder.default_confidence)
    assert face.box.overlap(box) > 0.5


def test_every_face_is_found_once(mediapipe):
    crowd, boxes = scene(1600, 900, 90, 50, 300, copies=5)
    faces = mediapipe.find(crowd, min_confidence=mediapipe.default_confidence)
    assert len(faces) == 5
    assert all(sum(face.box.overlap(box) > 0.5 for face in faces) == 1 for box in boxes)


def test_boxes_stay_in_the_picture(finder):
    face_fills_it = data.astronaut()[88:176, 180:268]
    for rgb in (face_fills_it, data.astronaut()[60:200, 215:400], data.astronaut()[120:, :]):
        shown = picture(rgb)
        for face in finder.find(shown, min_confidence=0.0):
            assert 0 <= face.box.x_min < face.box.x_max <= shown.info.width
            assert 0 <= face.box.y_min < face.box.y_max <= shown.info.height


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1), (7, 5), (24, 24)])
def test_pictures_of_odd_shapes_have_no_face(finder, shape):
    assert finder.find(picture(np.full((*shape, 3), 128, np.uint8)), min_confidence=finder.default_confidence) == []


def test_threads_do_not_disturb_each_other(finder, astronaut):
    coffee = picture(data.coffee())
    expected = {id(each): finder.find(each, min_confidence=0.5) for each in (astronaut, coffee)}
    with ThreadPoolExecutor(4) as threads:
        jobs = [(each, threads.submit(finder.find, each, min_confidence=0.5)) for each in (astronaut, coffee) * 8]
    assert all(job.result() == expected[id(each)] for each, job in jobs)


def test_haar_confidence_grows_with_the_weight():
    weights = np.linspace(-1000, 1000, 4001)
    confidences = [confidence_of(weight) for weight in weights]
    assert all(0 <= low <= high <= 1 for low, high in itertools.pairwise(confidences))
    assert confidence_of(54.84) == pytest.approx(0.5)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_tiles_cover_the_picture_and_overlap(width, height):
    survey = list(tiles(width, height))
    assert survey[0] == (0, 0, max(width, height))
    for side in {side for _, _, side in survey[1:]}:
        for length, axis in ((width, 0), (height, 1)):
            starts = sorted({tile[axis] for tile in survey if tile[2] == side})
            assert starts[0] == 0
            assert starts[-1] + side >= length
            assert all(start < length for start in starts)
            assert all(after - before <= side * 2 / 3 + 1 for before, after in itertools.pairwise(starts))


def test_a_missing_network_is_named(tmp_path, astronaut):
    finder = MediaPipeFinder(tmp_path / "nothing.tflite")
    finder.warm_up()
    with pytest.raises(ModelUnavailable) as caught:
        finder.find(astronaut, min_confidence=0.5)
    assert caught.value.model == ASSET
    assert caught.value.reason == "MODEL_NOT_INSTALLED"


async def test_without_mediapipe_haar_looks_and_the_answer_says_so(tmp_path, astronaut, limiter):
    mediapipe = MediaPipeFinder(tmp_path / "nothing.tflite")
    finders = Finders([InThread(mediapipe, limiter), InThread(HaarFinder(), limiter)], max_faces=10)
    await finders.warm_up()
    found = await finders.find(astronaut)
    assert [face.detector for face in found.faces] == [FaceDetector.HAAR]
    assert [error.model for error in found.passed_over] == [ASSET]
    with pytest.raises(ModelUnavailable):
        await finders.find(astronaut, FaceDetector.MEDIAPIPE)
    finders.close()


async def test_a_finder_that_is_not_there_is_a_missing_model(astronaut, limiter):
    with pytest.raises(ModelUnavailable, match="yunet"):
        await Finders([InThread(HaarFinder(), limiter)], max_faces=10).find(astronaut, FaceDetector.YUNET)


async def test_the_most_confident_faces_are_kept(mediapipe, limiter):
    crowd, _ = scene(1600, 900, 90, 50, 300, copies=5)
    finder = InThread(mediapipe, limiter)
    every = (await Finders([finder], max_faces=10).find(crowd)).faces
    assert list(every) == sorted(every, key=lambda face: face.confidence, reverse=True)
    assert (await Finders([finder], max_faces=10).find(crowd, max_faces=2)).faces == every[:2]
    assert (await Finders([finder], max_faces=3).find(crowd, max_faces=1000)).faces == every[:3]
    assert (await Finders([finder], max_faces=10).find(crowd, min_confidence=1.0)).faces == ()


def test_one_face_gives_one_box():
    def face(box: Box, confidence: float) -> DetectedFace:
        return DetectedFace(box=box, confidence=confidence, detector=FaceDetector.HAAR)

    best, shifted = face(Box(0, 0, 100, 100), 0.9), face(Box(20, 10, 120, 110), 0.8)
    part, other = face(Box(30, 30, 60, 60), 0.7), face(Box(200, 0, 300, 100), 0.6)
    assert without_duplicates([part, other, shifted, best]) == [best, other]


def test_paths_are_not_told(tmp_path: Path, astronaut):
    with pytest.raises(ModelUnavailable) as caught:
        MediaPipeFinder(tmp_path / "nothing.tflite").find(astronaut, min_confidence=0.5)
    assert str(tmp_path) not in caught.value.message
