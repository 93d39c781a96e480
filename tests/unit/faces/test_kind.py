"""What the network for cartoon or human sees of a picture, and what its answer means."""

from __future__ import annotations

import numpy as np
import pytest

from services.faces.attributes import kind
from services.faces.face import Box, FaceKind, KindEstimate


def with_square(left: int, top: int, side: int, *, width: int = 400, height: int = 300) -> np.ndarray:
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[top : top + side, left : left + side] = (255, 128, 0)
    return rgb


def test_a_face_is_seen_with_what_surrounds_it():
    view = kind.face_view(with_square(150, 100, 80), Box(150, 100, 230, 180))
    assert view.shape == (kind.SIDE, kind.SIDE, 3)
    rows, columns = np.nonzero(view[..., 0] > 127)
    share = (columns.max() - columns.min() + 1) / kind.SIDE
    assert share == pytest.approx(1 / 1.6, abs=0.02)
    assert (rows.mean(), columns.mean()) == pytest.approx((63.5, 63.5), abs=1)


@pytest.mark.parametrize("box", [Box(0, 0, 80, 80), Box(320, 220, 400, 300), Box(320, 0, 400, 80)])
def test_at_an_edge_the_view_stays_in_the_picture(box):
    rgb = np.full((300, 400, 3), 9, np.uint8)
    rgb[int(box.y_min) : int(box.y_max), int(box.x_min) : int(box.x_max)] = 255
    view = kind.face_view(rgb, box)
    assert view.min() == 9, "nothing but the picture is seen"
    assert (view[..., 0] > 127).mean() == pytest.approx(1 / 1.6**2, abs=0.02), "all of the face is"


def test_a_face_larger_than_its_surroundings_is_seen_as_it_is():
    rgb = np.random.default_rng(0).integers(0, 256, (90, 200, 3), dtype=np.uint8)
    assert kind.face_view(rgb, Box(0, 0, 90, 90)).shape == (kind.SIDE, kind.SIDE, 3)


def test_a_whole_picture_is_seen_whole():
    rgb = with_square(0, 0, 300, width=600, height=300)
    view = kind.whole_view(rgb)
    assert view.shape == (kind.SIDE, kind.SIDE, 3)
    assert (view[..., 0] > 127).mean() == pytest.approx(0.5, abs=0.01)


def test_the_network_gets_blue_green_red_without_the_mean():
    view = np.zeros((kind.SIDE, kind.SIDE, 3), np.uint8)
    view[...] = (255, 117, 0)
    batch = kind.prepared([view, view])
    assert (batch.shape, batch.dtype) == ((2, kind.SIDE, kind.SIDE, 3), np.float32)
    assert batch[1, 0, 0].tolist() == pytest.approx([-103.939, 0.221, 131.32], abs=1e-4)


def test_the_likelier_kind_is_told_with_its_probability():
    human, drawn, even = kind.read(np.array([[0.2], [0.9], [0.5]], np.float32))
    assert (human.kind, human.probability) == (FaceKind.HUMAN, pytest.approx(0.8))
    assert (drawn.kind, drawn.probability) == (FaceKind.CARTOON, pytest.approx(0.9))
    assert even.kind == FaceKind.CARTOON


@pytest.mark.parametrize("output", [[[0.2, 0.8]], [0.2], [[1.2]], [[float("nan")]]])
def test_what_is_no_probability_is_refused(output):
    with pytest.raises(ValueError, match=r"probabilit"):
        kind.read(np.array(output))


def glance(drawn: float) -> KindEstimate:
    (estimate,) = kind.read_glance(np.array([[1 - drawn, drawn]]))
    return estimate


def test_a_glance_tells_like_the_network_does():
    assert (glance(0.9).kind, glance(0.9).probability) == (FaceKind.CARTOON, pytest.approx(0.9))
    assert (glance(0.2).kind, glance(0.2).probability) == (FaceKind.HUMAN, pytest.approx(0.8))
    with pytest.raises(ValueError, match="2"):
        kind.read_glance(np.array([[0.2]]))


@pytest.mark.parametrize(("drawn", "doubt"), [(0.0, False), (0.1, False), (0.2, True), (0.8, True), (0.9, False)])
def test_only_what_is_not_sure_is_in_doubt(drawn, doubt):
    assert kind.in_doubt(glance(drawn)) is doubt


def test_two_looks_agree_or_meet_halfway():
    assert kind.together(glance(0.8), glance(0.8)) == KindEstimate(FaceKind.CARTOON, pytest.approx(0.8))
    assert kind.together(glance(0.3), glance(0.7)).probability == pytest.approx(0.5)
    assert kind.together(glance(0.3), glance(0.9)) == KindEstimate(FaceKind.CARTOON, pytest.approx(0.6626, abs=1e-4))
    certain = kind.together(glance(0.4), glance(1.0))
    assert certain.kind is FaceKind.CARTOON
    assert certain.probability < 1, "nothing is certain of which one look is not"
