"""Chips of turned, scaled and moved faces must show the same."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from skimage import data

from services.common.detection import Point
from services.faces.alignment import face_chip, fit_similarity
from services.faces.face import Box, DetectedFace, FaceDetector, Landmarks

EYES_AND_MOUTH = np.array([(204.0, 107.0), (245.0, 110.0), (219.0, 148.0)])


def face(points: np.ndarray, *, corners: bool = False) -> DetectedFace:
    eye_right, eye_left, mouth = (Point(*point) for point in points)
    landmarks = Landmarks(
        right_eye=eye_right,
        left_eye=eye_left,
        nose=mouth,
        mouth=mouth,
        mouth_right=mouth if corners else None,
        mouth_left=mouth if corners else None,
    )
    return DetectedFace(box=Box(0, 0, 1, 1), confidence=1, detector=FaceDetector.MEDIAPIPE, landmarks=landmarks)


def similarity(degrees: float, scale: float, dx: float, dy: float) -> np.ndarray:
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return np.array([[c, -s, dx], [s, c, dy]])


def applied(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


@pytest.mark.parametrize("planted", [(0, 1, 0, 0), (30, 2.5, 10, -7), (-170, 0.2, 1000, 3)])
def test_a_similarity_is_recovered(planted):
    matrix = similarity(*planted)
    assert fit_similarity(EYES_AND_MOUTH, applied(matrix, EYES_AND_MOUTH)) == pytest.approx(matrix)


def test_points_that_do_not_agree_are_fitted_by_least_squares():
    # Two points moved apart by the same amount to either side: the scale is right, the middle stays.
    matrix = fit_similarity(np.array([(0.0, 0.0), (2.0, 0.0)]), np.array([(-1.0, 5.0), (3.0, 5.0)]))
    assert matrix == pytest.approx(np.array([[2, 0, -1], [0, 2, 5]]))


def test_points_in_one_place_have_no_similarity():
    assert fit_similarity(np.ones((3, 2)), EYES_AND_MOUTH) is None


def test_landmarks_with_the_corners_of_the_mouth_have_places_of_their_own_in_dlibs_chips():
    by_corners = np.array([(0.305, 0.274), (0.685, 0.274), (0.503, 0.671)]) * 200 + 100
    by_middle = np.array([(0.310, 0.303), (0.690, 0.303), (0.505, 0.717)]) * 200 + 100
    rgb = np.random.default_rng(0).integers(0, 256, (400, 400, 3)).astype(np.uint8)
    chip = face_chip(rgb, face(by_middle), 64, as_dlib=True)
    assert np.array_equal(face_chip(rgb, face(by_corners, corners=True), 64, as_dlib=True), chip), "one chip by either"
    # What was trained here learned from chips that know no difference.
    assert np.array_equal(face_chip(rgb, face(by_middle, corners=True), 64), face_chip(rgb, face(by_middle), 64))
    assert not np.array_equal(face_chip(rgb, face(by_middle, corners=True), 64, as_dlib=True), chip)


@pytest.mark.parametrize("size", [32, 64, 160])
def test_the_landmarks_come_to_their_places(size):
    """Dots where eyes and mouth are must be at the average face's places."""
    points = np.array([(150.0, 130.0), (226.0, 130.0), (189.0, 212.8)])  # its shape exactly: a chip of 200 pixels
    rgb = np.zeros((400, 400, 3), np.uint8)
    for channel, (x, y) in enumerate(points):
        rgb[int(y) - 4 : int(y) + 4, int(x) - 4 : int(x) + 4, channel] = 255
    chip = face_chip(rgb, face(points), size).astype(float)
    for channel, place in enumerate([(0.310, 0.303), (0.690, 0.303), (0.505, 0.717)]):
        rows, columns = np.indices(chip.shape[:2])
        weight = chip[..., channel]
        centre = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
        assert centre == pytest.approx(np.array(place) * size, abs=0.02 * size)


@pytest.mark.parametrize(("degrees", "scale"), [(0, 0.7), (25, 1.0), (-40, 1.6), (90, 3.0)])
def test_a_turned_and_scaled_face_gives_the_same_chip(degrees, scale):
    astronaut = data.astronaut()
    matrix = similarity(degrees, scale, 0, 0)
    matrix[:, 2] = np.array([500, 500]) - matrix[:, :2] @ np.array([222, 125])
    in_indices = matrix.copy()
    in_indices[:, 2] += matrix[:, :2] @ np.array([0.5, 0.5]) - 0.5
    turned = cv2.warpAffine(astronaut, in_indices, (1000, 1000), flags=cv2.INTER_CUBIC)
    upright = face_chip(astronaut, face(EYES_AND_MOUTH), 64).astype(float)
    again = face_chip(turned, face(applied(matrix, EYES_AND_MOUTH)), 64).astype(float)
    inner = (slice(8, 56), slice(8, 56))
    assert np.abs(upright[inner] - again[inner]).mean() < 8
    assert np.corrcoef(upright[inner].ravel(), again[inner].ravel())[0, 1] > 0.97


def test_without_landmarks_the_box_is_taken():
    rgb = np.zeros((200, 200, 3), np.uint8)
    rgb[60:140, 60:140] = 255
    boxed = DetectedFace(box=Box(60, 60, 140, 140), confidence=1, detector=FaceDetector.HAAR)
    chip = face_chip(rgb, boxed, 32)
    assert chip.shape == (32, 32, 3)
    assert chip[2:-2, 2:-2].min() == 255


def test_chips_reach_over_the_edge_into_black():
    rgb = np.full((100, 100, 3), 200, np.uint8)
    for x, y in ((0, 0), (95, 95), (-30, 50)):
        chip = face_chip(rgb, face(np.array([(x, y), (x + 20, y), (x + 10, y + 22)])), 64)
        assert chip.shape == (64, 64, 3)
        assert set(np.unique(chip)) & {0}


def test_landmarks_in_one_place_fall_back_to_the_box():
    rgb = data.astronaut()
    there = Point(200.0, 100.0)
    landmarks = Landmarks(right_eye=there, left_eye=there, nose=there, mouth=there)
    box = Box(177, 82, 272, 177)
    odd = DetectedFace(box=box, confidence=1, detector=FaceDetector.MEDIAPIPE, landmarks=landmarks)
    plain = DetectedFace(box=box, confidence=1, detector=FaceDetector.MEDIAPIPE)
    assert (face_chip(rgb, odd, 64) == face_chip(rgb, plain, 64)).all()
