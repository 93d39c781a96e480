"""YuNet's pre- and post-processing: planted outputs come back as the faces that they are. The network is in Triton."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from services.common.errors import ModelUnavailable
from services.common.images import Picture
from services.faces.face import FaceDetector
from services.faces.finders.looks import COARSE_SIDE, FINE_SIDE, INPUT, OUTPUTS, ROWS, STRIDES, prepared
from services.faces.finders.yunet import YuNetFinder
from triton_models.layout import SOURCE_FOLDER


def picture(width: int, height: int) -> Picture:
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., 0] = 200
    return Picture.from_array(rgb)


class Network:
    """Answers as the network does, with faces at planted places (stride, column, row, confidence, size in pixels).

    Args:
        planted: what it sees in the fine look, the larger one.
        coarse: what it sees in the coarse look.
    """

    def __init__(self, *planted: tuple[int, int, int, float, float], coarse=()) -> None:
        self.planted = planted
        self.coarse = coarse
        self.seen: list[np.ndarray] = []

    async def infer(self, model, inputs, outputs):
        assert model == "yunet"
        assert tuple(outputs) == OUTPUTS
        (pixels,) = inputs.values()
        self.seen.append(pixels)
        _, _, height, width = pixels.shape
        answer = {
            f"places_{stride}": np.zeros((1, ROWS, (height // stride) * (width // stride)), np.float32)
            for stride in STRIDES
        }
        for stride, column, row, confidence, size in self.coarse if max(height, width) == COARSE_SIDE else self.planted:
            place = row * (width // stride) + column
            box = (0.5, 0.25, np.log(size / stride), np.log(size / stride))
            answer[f"places_{stride}"][0, :, place] = (confidence, confidence, *box, *np.arange(10) / 10)
        return answer


async def test_what_the_network_sees(limiter):
    network = Network()
    assert await YuNetFinder(network, limiter).find(picture(1600, 800), min_confidence=0.5) == []
    fine, coarse = network.seen
    assert fine.dtype == coarse.dtype == np.uint8
    assert fine.shape == (1, 3, 480, FINE_SIDE), "reduced; both sides are multiples of 32"
    assert coarse.shape == (1, 3, 160, COARSE_SIDE)
    for pixels in (fine, coarse):
        assert pixels[0, 2].max() == 200, "blue, green, red"
        assert pixels[0, :2].max() == 0
    small = prepared(picture(50, 40), FINE_SIDE)
    assert (small.pixels.shape, small.scale) == ((1, 3, 64, 64), 1.0), "filled up, never enlarged"
    assert (small.pixels[0, 2, :40, :50] == 200).all()
    assert not small.pixels[0, 2, 40:].any()
    assert not small.pixels[0, 2, :, 50:].any()


async def test_a_small_picture_is_looked_at_once(limiter):
    network = Network()
    await YuNetFinder(network, limiter).find(picture(COARSE_SIDE, 200), min_confidence=0.5)
    assert len(network.seen) == 1


async def test_a_planted_face_is_where_it_was_planted(limiter):
    network = Network((16, 10, 5, 0.9, 64.0))
    (face,) = await YuNetFinder(network, limiter).find(picture(1920, 960), min_confidence=0.5)
    # The network saw half of every side: its middle lies at ((10 + 0.5) * 16, (5 + 0.25) * 16) there, doubled here.
    assert (face.box.centre.x, face.box.centre.y) == pytest.approx((336.0, 168.0))
    assert (face.box.width, face.box.height) == pytest.approx((128.0, 128.0))
    assert face.confidence == pytest.approx(0.9)
    assert face.detector is FaceDetector.YUNET
    assert (face.landmarks.right_eye.x, face.landmarks.right_eye.y) == pytest.approx((320.0, 163.2))
    assert (face.landmarks.mouth_left.x, face.landmarks.mouth_left.y) == pytest.approx((345.6, 188.8))
    assert face.landmarks.mouth.x == pytest.approx((face.landmarks.mouth_right.x + face.landmarks.mouth_left.x) / 2)


async def test_the_coarse_look_is_for_faces_that_are_too_large_for_the_fine_one(limiter):
    large, small = (32, 5, 2, 0.8, 120.0), (16, 2, 2, 0.9, 60.0)
    network = Network(coarse=(large, small))
    (face,) = await YuNetFinder(network, limiter).find(picture(1280, 640), min_confidence=0.5)
    assert (face.box.width, face.box.height) == pytest.approx((480.0, 480.0)), "a quarter of each side was seen"
    assert (face.box.centre.x, face.box.centre.y) == pytest.approx((5.5 * 32 * 4, 2.25 * 32 * 4))


async def test_what_both_looks_show_is_one_face(limiter):
    # A third of the fine look's places and pixels.
    network = Network((32, 7, 3, 0.7, 270.0), coarse=((32, 2, 1, 0.8, 90.0),))
    faces = await YuNetFinder(network, limiter).find(picture(960, 640), min_confidence=0.5)
    assert [round(face.confidence, 2) for face in faces] == [0.8]


async def test_one_face_one_box_and_never_outside_the_picture(limiter):
    # The same face on two grids, a second one at the edge, and one too unsure.
    network = Network((8, 20, 10, 0.7, 60.0), (16, 10, 5, 0.9, 64.0), (32, 0, 0, 0.8, 100.0), (8, 60, 30, 0.3, 40.0))
    faces = await YuNetFinder(network, limiter).find(picture(640, 320), min_confidence=0.6)
    assert [round(face.confidence, 2) for face in faces] == [0.9, 0.8]
    assert (faces[1].box.x_min, faces[1].box.y_min) == (0.0, 0.0)
    for face in faces:
        assert face.box.x_max <= 640
        assert face.box.y_max <= 320


def test_the_served_network_is_asked_by_its_own_names_and_types():
    path = SOURCE_FOLDER / "yunet" / "config.pbtxt"
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    (taken,) = config.input
    look = prepared(picture(50, 40), FINE_SIDE)
    assert (taken.name, taken.data_type, list(taken.dims)) == (INPUT, model_config_pb2.TYPE_UINT8, [3, -1, -1])
    assert look.pixels.dtype == np.uint8
    assert {each.name: list(each.dims) for each in config.output} == {name: [ROWS, -1] for name in OUTPUTS}


async def test_without_the_network_it_says_so(limiter, astronaut):
    class Away:
        async def infer(self, model, inputs, outputs):
            raise ModelUnavailable(model, installed=False)

    with pytest.raises(ModelUnavailable, match="yunet"):
        await YuNetFinder(Away(), limiter).find(astronaut, min_confidence=0.5)
